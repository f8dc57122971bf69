"""Writes reports by rules: measures the proportions of a face, compares them with norms, and words them in HPO's terms.

    norms = fit_norms(measure(detector, pictures), detector)         # or read_norms(file, detector)
    reports = LandmarkReporter(detector, norms).write_reports(pictures)

A reporter that can be checked by hand: every finding carries its deviation from the norms in standard deviations (SD).
MTCNN's five points give the spacing of the eyes, the length of the nose and the width of the mouth; MediaPipe's 478
points give all MEASURES. What the points do not give is said to be not assessed, and only proportions are looked at.

Norms are fitted on photographs that are given, by median and median absolute deviation, so that a few people with a
finding do not move them. They are not taken from anthropometry's tables, since a detector's points are not where a
calliper is set: each detector shifts and shrinks every proportion in its own way. People decide as much as detectors:
simulated faces, adults and children each require norms of their own. Children's proportions change with age (a
younger child has a shorter nose and larger eyes), and norms over all ages take an infant for a child with short nose;
where ages matter, give norms of people of that age. Synthetic images are to be compared with the norms of the
photographs that they imitate, never with norms of their own: a generator that draws all eyes too wide apart would seem
normal.

If the norms are of patients, many of them have the finding, and the spread is wider than in healthy people, of whom
HPO's limit of 2 SD speaks; so a term is said from THRESHOLD_SD on. docs/results.md has what this yields. The head must
face the camera: a turn narrows what is across and a nod shortens what is upright, and no rule takes that back.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import InputError
from harness.files import read_json, write_json
from imaging.faces import Detector, Face
from phenotyping import face_lexicon
from reporting.report_sections import SECTIONS

THRESHOLD_SD = 1.0  # chosen on 640 SIMULATED faces of seed 9101: 0.75 has the same F1, 2 has half of it
MARKED_SD = 2.0  # from here on a finding is marked, before it is mild
FEWEST_FACES = 20  # of which norms are fitted
MAD_PER_SD = 1.4826  # of a normal distribution: SD = 1.4826 * median absolute deviation


@dataclass(frozen=True)
class Measure:
    """A proportion of a face, and the terms for a small and for a large value; None: HPO has no such term."""

    name: str
    heading: str  # of the section that it stands in
    small: str | None
    large: str | None


FACE, EYES, NOSE, MOUTH = SECTIONS["overall_impression"], "Eyes", SECTIONS["nose"], SECTIONS["mouth_lips"]
MEASURES = (
    Measure("height of the face", FACE, "HP:0011219", "HP:0000276"),  # nasion to chin
    Measure("width of the face", FACE, "HP:0000275", "HP:0000283"),
    Measure("spacing of the eyes", EYES, "HP:0000601", "HP:0000316"),  # pupil to pupil
    Measure("spacing of the inner canthi", EYES, None, "HP:0000506"),  # per distance of the pupils
    Measure("length of the palpebral fissures", EYES, "HP:0012745", "HP:0000637"),  # mean of both eyes
    Measure("inclination of the palpebral fissures", EYES, "HP:0000494", "HP:0000582"),  # mean of both eyes, degrees
    Measure("opening of the palpebral fissures", EYES, "HP:0045025", None),  # per their length
    Measure("length of the nose", NOSE, "HP:0003196", "HP:0003189"),  # to subnasale, or to the tip
    Measure("width of the nose", NOSE, "HP:0000460", "HP:0000445"),
    Measure("length of the philtrum", MOUTH, "HP:0000322", "HP:0000343"),
    Measure("width of the mouth", MOUTH, "HP:0000160", "HP:0000154"),
    Measure("height of the upper vermilion", MOUTH, "HP:0000219", "HP:0000215"),
    Measure("height of the lower vermilion", MOUTH, "HP:0010282", "HP:0000179"),
)
NAMES = tuple(measure.name for measure in MEASURES)
TERMS = tuple(hpo_id for measure in MEASURES for hpo_id in (measure.small, measure.large) if hpo_id)  # all it can say
HEADINGS = (FACE, EYES, NOSE, MOUTH)

# Numbers of MediaPipe's 478 points.
MEDIAPIPE_POINTS = {
    "eye_image_left": 468, "eye_image_right": 473,
    "outer_canthus_image_left": 33, "inner_canthus_image_left": 133,
    "inner_canthus_image_right": 362, "outer_canthus_image_right": 263,
    "upper_lid_image_left": 159, "lower_lid_image_left": 145,
    "upper_lid_image_right": 386, "lower_lid_image_right": 374,
    "ala_image_left": 64, "ala_image_right": 294, "nasion": 168, "subnasale": 2,
    "lip_top": 0, "upper_lip_inner": 13, "lower_lip_inner": 14, "lip_bottom": 17,
    "mouth_image_left": 61, "mouth_image_right": 291,
    "cheek_image_left": 234, "cheek_image_right": 454, "chin": 152,
}  # fmt: skip
# The order of faces.LANDMARKS.
FIVE_POINTS = ("eye_image_left", "eye_image_right", "nose_tip", "mouth_image_left", "mouth_image_right")


# ------------------------------------------------------------------------------------------------------- measurements


def measure(detector: Detector, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The MEASURES of the largest face in each picture, (n, m) float; a row of nan if there is no face.

    pictures: (h, w, 3) uint8 RGB of any sizes. The inclination is in degrees, all others are without unit."""
    rows = [np.full(len(MEASURES), np.nan) if face is None else proportions(named_points(face))
            for face in detector.detect(pictures)]  # fmt: skip
    return np.array(rows).reshape(len(rows), len(MEASURES))


def named_points(face: Face) -> dict[str, np.ndarray]:
    """The points of a face by name, (2,) px each: MediaPipe's, or the five that every detector has."""
    if face.dense is not None and len(face.dense) > max(MEDIAPIPE_POINTS.values()):
        return {name: face.dense[number] for name, number in MEDIAPIPE_POINTS.items()}
    return dict(zip(FIVE_POINTS, face.landmarks, strict=True))


def proportions(points: Mapping[str, np.ndarray]) -> np.ndarray:
    """The MEASURES of faces from points by name, nan where a point is missing.

    points: name -> (..., 2) px, with the five points at least; returns (..., m). Lengths are divided by the face's
    size, as Mosimann (1970, doi 10.1080/01621459.1970.10481136) defines it: the geometric mean of several lengths. With
    dense points these are the distance of the pupils, the width of the face, and its height; of ten units that were
    tried, this one followed the true parameters of 640 SIMULATED faces best. With five points they are the distance of
    the eyes and that from the eyes to the mouth."""
    points = {name: np.asarray(place, float) for name, place in points.items()}

    def middle(part: str) -> np.ndarray:
        return (points[f"{part}_image_left"] + points[f"{part}_image_right"]) / 2

    def across(part: str) -> np.ndarray:
        return _distance(points[f"{part}_image_left"], points[f"{part}_image_right"])

    def between(a: str, b: str) -> np.ndarray:
        return _distance(points[a], points[b])

    lengths = {"spacing of the eyes": across("eye"), "width of the mouth": across("mouth")}
    if "chin" not in points:
        size = np.sqrt(lengths["spacing of the eyes"] * _distance(middle("eye"), middle("mouth")))
        lengths["length of the nose"] = _distance(middle("eye"), points["nose_tip"])
        return _in_order({name: _ratio(length, size) for name, length in lengths.items()})
    sides = ("left", "right")
    eyes = [(points[f"inner_canthus_image_{side}"], points[f"outer_canthus_image_{side}"]) for side in sides]
    fissure = np.mean([_distance(*eye) for eye in eyes], axis=0)
    opening = np.mean([between(f"upper_lid_image_{side}", f"lower_lid_image_{side}") for side in sides], axis=0)
    lengths |= {
        "height of the face": between("nasion", "chin"),
        "width of the face": across("cheek"),
        "length of the palpebral fissures": fissure,
        "length of the nose": between("nasion", "subnasale"),
        "width of the nose": across("ala"),
        "length of the philtrum": between("subnasale", "lip_top"),
        "height of the upper vermilion": between("lip_top", "upper_lip_inner"),
        "height of the lower vermilion": between("lower_lip_inner", "lip_bottom"),
    }
    size = np.cbrt(lengths["spacing of the eyes"] * lengths["width of the face"] * lengths["height of the face"])
    measured = {name: _ratio(length, size) for name, length in lengths.items()}
    measured["spacing of the inner canthi"] = _ratio(across("inner_canthus"), lengths["spacing of the eyes"])
    measured["opening of the palpebral fissures"] = _ratio(opening, fissure)
    # The outer canthus above the inner one is a positive angle; the mean of both eyes is free of a tilt of the head.
    rise = [_ratio(inner[..., 1] - outer[..., 1], np.abs(outer[..., 0] - inner[..., 0])) for inner, outer in eyes]
    measured["inclination of the palpebral fissures"] = np.degrees(np.mean(np.arctan(rise), axis=0))
    return _in_order(measured)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=-1)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, nan if b is 0: the points span no face."""
    return np.divide(a, b, out=np.full(np.shape(b), np.nan), where=np.asarray(b) > 0)


def _in_order(measured: Mapping[str, np.ndarray]) -> np.ndarray:
    """Measures (..., m) in the order of MEASURES, nan for those that are missing."""
    missing = np.full(np.shape(next(iter(measured.values()))), np.nan)
    return np.stack([measured.get(name, missing) for name in NAMES], axis=-1)


# --------------------------------------------------------------------------------------------------------------- norms


@dataclass(frozen=True)
class Norms:
    """What the reference people's faces measure, with one detector. nan: this detector does not give the measure."""

    detector: str  # its name and the digest of its weights
    n_faces: int
    median: np.ndarray  # (m,) in the order of MEASURES
    sd: np.ndarray  # (m,)

    def deviations(self, measurements: np.ndarray) -> np.ndarray:
        """How far measurements (n, m) are from the median, in SD; nan where either is missing, or where SD is 0."""
        return np.divide(measurements - self.median, self.sd, out=np.full(measurements.shape, np.nan),
                         where=np.broadcast_to(self.sd > 0, measurements.shape))  # fmt: skip

    def as_dict(self) -> dict:
        """As in the norms file: each measure by its name, with median and SD."""
        known = {
            name: {"median": float(median), "sd": float(sd)}
            for name, median, sd in zip(NAMES, self.median, self.sd, strict=True)
            if np.isfinite(median)
        }
        return {"detector": self.detector, "n_faces": self.n_faces, "measures": known}

    @property
    def sha256(self) -> str:
        """Digest of the norms, by which a record tells reports with other norms."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def fit_norms(measurements: np.ndarray, detector: Detector) -> Norms:
    """The median, and the SD by 1.4826 times the median absolute deviation, of measurements (n, m) by `measure`.

    Rows of pictures without a face count for nothing. Raises InputError for fewer than FEWEST_FACES faces."""
    found = measurements[np.isfinite(measurements).any(axis=1)]
    if len(found) < FEWEST_FACES:
        reason = f"norms require at least {FEWEST_FACES} photographs with a face, and {len(found)} were found"
        raise InputError(f"{reason}; give more photographs, or norms that were fitted on others")
    median = np.full(len(MEASURES), np.nan)
    sd = median.copy()
    given = np.isfinite(found).sum(axis=0) >= FEWEST_FACES
    median[given] = np.nanmedian(found[:, given], axis=0)
    sd[given] = MAD_PER_SD * np.nanmedian(np.abs(found[:, given] - median[given]), axis=0)
    return Norms(_identity(detector), len(found), median, sd)


def write_norms(file: Path, norms: Norms) -> None:
    write_json(file, norms.as_dict())


def read_norms(file: Path, detector: Detector) -> Norms:
    """Norms that write_norms wrote. Raises InputError for another file, and for norms of another detector."""
    remedy = "give a file that was written beside reports of the reporter landmarks"
    content = read_json(file, remedy)
    try:
        measures = {name: (float(one["median"]), float(one["sd"])) for name, one in content["measures"].items()}
        norms = Norms(str(content["detector"]), int(content["n_faces"]),
                      *np.array([measures.get(name, (np.nan, np.nan)) for name in NAMES]).T)  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file} holds no norms of faces; {remedy}") from error
    unknown = sorted(set(measures) - set(NAMES))
    if unknown or not measures:
        raise InputError(f"{file}: {f'{unknown[0]!r} is no measure' if unknown else 'no measure is there'}; {remedy}")
    for name, (median, sd) in measures.items():
        if not (np.isfinite(median) and np.isfinite(sd) and sd >= 0):
            raise InputError(f"{file}: {name} has median {median} and sd {sd}; {remedy}")
    if norms.detector != _identity(detector):
        reason = f"these norms were measured with {norms.detector}, not with {_identity(detector)}"
        raise InputError(f"{file}: {reason}; name that detector and its file, or fit norms anew")
    return norms


def _identity(detector: Detector) -> str:
    return f"{detector.network.name}, weights {detector.network.weights_sha256}"


# -------------------------------------------------------------------------------------------------------------- report


class LandmarkReporter:
    """Writes a report on each picture from the proportions of its largest face. Deterministic."""

    def __init__(self, detector: Detector, norms: Norms, threshold_sd: float = THRESHOLD_SD):
        """threshold_sd: the deviation from the norms, in SD, from which a term is said to be present."""
        self.detector, self.norms, self.threshold_sd = detector, norms, threshold_sd

    def write_reports(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """Reports on pictures (h, w, 3) uint8 RGB of any sizes, in their order."""
        measurements = measure(self.detector, pictures)
        found = np.isfinite(measurements).any(axis=1)
        deviations = self.norms.deviations(measurements)
        return [
            report(row, self.threshold_sd) if there else report_without_face()
            for row, there in zip(deviations, found, strict=True)
        ]

    def record(self) -> dict:
        """What a run's record says of the rules and their detector."""
        norms = {"norms_sha256": self.norms.sha256, "norms_n_faces": self.norms.n_faces}
        return self.detector.record() | norms | {"threshold_sd": self.threshold_sd}


def report(deviations: np.ndarray, threshold_sd: float = THRESHOLD_SD) -> str:
    """The report on a face from deviations (m,) in SD, nan: not measured.

    A deviation of at least threshold_sd is a term, mild or marked; within it, the terms of both directions are said to
    be absent. The terms of what is not measured cannot be assessed, by their names, so that find_terms calls them not
    visible."""
    sentences: dict[str, list[str]] = {heading: [] for heading in HEADINGS}
    not_assessed: dict[str, list[str]] = {heading: [] for heading in HEADINGS}
    for one, z in zip(MEASURES, deviations, strict=True):
        if np.isfinite(z):
            sentences[one.heading].append(_sentence(one, float(z), threshold_sd))
        else:
            terms = " and ".join(term_name(hpo_id) for hpo_id in (one.small, one.large) if hpo_id)
            not_assessed[one.heading].append(f"{terms.capitalize()} cannot be assessed ({one.name}).")
    for heading, said in not_assessed.items():
        sentences[heading] += said
    sentences[FACE].insert(0, "Only proportions were measured.")
    lines = [f"{heading}: {' '.join(said)}" for heading, said in sentences.items()]
    return "\n".join([*lines, f"{SECTIONS['diagnostic_suggestion']}: None, since proportions alone suggest none."])


def _sentence(one: Measure, z: float, threshold_sd: float) -> str:
    """What is said of one measure that deviates from the norms by z SD."""
    shown = f"({round(z, 1) + 0.0:+.1f} SD)"  # + 0.0: no minus before a zero
    term = one.large if z > 0 else one.small
    if term and abs(z) >= threshold_sd:
        return f"{term_name(term).capitalize()}, {'marked' if abs(z) >= MARKED_SD else 'mild'} {shown}."
    absent = ", ".join(f"no {term_name(hpo_id)}" for hpo_id in (one.small, one.large) if hpo_id)
    return f"{absent.capitalize()} {shown}."


def term_name(hpo_id: str) -> str:
    """HPO's name of a term, with a small first letter."""
    name = face_lexicon.terms()[hpo_id].name
    return name[0].lower() + name[1:]


def report_without_face() -> str:
    """The report on a picture in which no face was found: nothing is visible."""
    unseen = [f"{heading}: not visible." for heading in HEADINGS[1:]]
    first = f"{FACE}: the face is not visible, since no face was found in this picture."
    return "\n".join([first, *unseen, f"{SECTIONS['diagnostic_suggestion']}: None, since no face was found."])
