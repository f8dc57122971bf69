"""Whether a synthetic image gives a patient away: as a copy of a photograph, or as the person photographed.

    persons, similarity = nearest_either_way(real, synthetic, mirrored)    # embeddings; for copies: photograph_copies
    threshold = calibrate(similarities of different people with the same condition, their conditions)
    reasons = reject_reasons(examination, image_ids, thresholds)
    report = verdict(files, kept, generators, examination, thresholds, attacks)    # privacy_report.json

People with one condition look alike, so the likeness at which two pictures count as one person is measured on different
people with the same condition; on strangers it would be set so low that the syndrome itself were read as an identity.
Whatever could not be measured counts against release.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from harness.errors import InputError
from scoring.intervals import bootstrap_interval

BLOCK_NUMBERS = 2**22  # in a block of descriptions that are compared at once: 16 MB
MIN_GROUPS = 5  # conditions from which a threshold may be calibrated
MIN_POSITIVE_CONTROL = 0.9  # AUC of the membership attack on copies of the members
MAX_AUC = 0.55  # of the attack on the released images
CONTROL_MARGIN = 0.05  # by which the interval of the negative control may miss 0.5
MAX_AUC_HIGH = 0.65  # upper end of its interval: beyond it the people were too few to tell
COPY, PERSON = "near copy", "same person"  # the two thresholds
BEFORE, AFTER = "before filtering", "after filtering"
POSITIVE, NEGATIVE = "positive control", "negative control"
Both = tuple[Sequence, Sequence]  # a value of each real photograph (n,) and of each synthetic image (m,)


# ---- nearest photograph


def nearest(
    real: np.ndarray, synthetic: np.ndarray, block_rows: int = 4096, same: Both | None = None, other: Both | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The photograph whose description is most similar to each image's, by the cosine.

    real (n, d), synthetic (m, d): of any length, and perhaps memory-mapped or StoredRows; blocks of at most block_rows
    and BLOCK_NUMBERS numbers of both are compared, so that memory does not grow with m or n. same: only pairs with
    equal values are compared, for example the labels; other: only pairs with unequal values, for example the names of
    people; a null equals a null. Returns rows (m,) and similarities (m,) in -1..1; an image whose description is zero
    or not finite, or which is compared with nothing, gets -1 and nan."""
    rows, similarity = nearest_rows(real, synthetic, 1, block_rows, same, other)
    return rows[:, 0], similarity[:, 0]


def nearest_either_way(
    real: np.ndarray,
    synthetic: np.ndarray,
    mirrored: np.ndarray,
    block_rows: int = 4096,
    same: Both | None = None,
    other: Both | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, for each image or its mirror image, whichever is nearer; mirrored (m, d): of the mirror images."""
    rows, similarity = nearest(real, synthetic, block_rows, same, other)
    turned_rows, turned = nearest(real, mirrored, block_rows, same, other)
    nearer = (turned > similarity) | np.isnan(similarity)
    return np.where(nearer, turned_rows, rows), np.where(nearer, turned, similarity)


def nearest_rows(
    real: np.ndarray,
    synthetic: np.ndarray,
    count: int,
    block_rows: int = 4096,
    same: Both | None = None,
    other: Both | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, the `count` most similar photographs of each image: (m, count) each, most similar first."""
    rows = np.full((len(synthetic), count), -1)
    similarity = np.full((len(synthetic), count), np.nan, np.float32)
    block_rows = max(1, min(block_rows, BLOCK_NUMBERS // max(1, real.shape[1])))
    for start in range(0, len(synthetic), block_rows):
        stop = min(start + block_rows, len(synthetic))
        images = _unit(synthetic[start:stop])
        best_rows, best = np.full((len(images), count), -1), np.full((len(images), count), -np.inf, np.float32)
        for first in range(0, len(real), block_rows):
            last = min(first + block_rows, len(real))
            cosines = images @ _unit(real[first:last]).T
            cosines[~allowed(same, other, slice(start, stop), slice(first, last)) | ~np.isfinite(cosines)] = -np.inf
            columns, block = _greatest(cosines, count)
            best_rows, best = np.hstack([best_rows, first + columns]), np.hstack([best, block])
            order = np.argsort(-best, axis=1, kind="stable")[:, :count]
            best_rows, best = np.take_along_axis(best_rows, order, 1), np.take_along_axis(best, order, 1)
        compared = np.isfinite(best)
        rows[start:stop], similarity[start:stop] = np.where(compared, best_rows, -1), np.where(compared, best, np.nan)
    return rows, similarity


def _greatest(cosines: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values (b, count) of the greatest cosines (b, c) of each row, in descending order; changes them."""
    columns, values = np.zeros((len(cosines), count), int), np.zeros((len(cosines), count), np.float32)
    for place in range(count):  # a few passes cost less than sorting whole rows
        columns[:, place] = cosines.argmax(axis=1)
        chosen = np.arange(len(cosines)), columns[:, place]
        values[:, place] = cosines[chosen]
        cosines[chosen] = -np.inf
    return columns, values


def _unit(block: np.ndarray) -> np.ndarray:
    """Rows (b, d) scaled to length 1, as float32; nan where that is impossible."""
    block = np.asarray(block, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        return block / np.linalg.norm(block, axis=1, keepdims=True)


def allowed(same: Both | None, other: Both | None, images: slice, photographs: slice) -> np.ndarray:
    """Which pairs may be compared, (b, c) or, without a condition on them, (1, 1)."""
    pairs = np.ones((1, 1), bool)
    for both, wanted in ((same, True), (other, False)):
        if both is not None:
            of_real, of_synthetic = (np.asarray(values) for values in both)
            pairs = pairs & ((of_synthetic[images, None] == of_real[None, photographs]) == wanted)
    return pairs


# ---- thresholds


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Images that score more than `value` are rejected."""

    value: float
    low: float  # 95 % interval of the value
    high: float
    false_alarm: float  # share of faithful images of other people that score more, at most, on average
    n: int  # values from which it was calibrated
    n_groups: int  # conditions that they are from


def calibrate(
    similarities: Sequence[float],
    conditions: Sequence,
    false_alarm: float = 0.01,
    n_boot: int = 2000,
    seed: int = 0,
) -> Threshold:
    """The similarity that at most a share `false_alarm` of pairs of different people with the same condition exceeds.

    similarities (p,): of each picture with a picture of another person who has the same condition, or, which keeps the
    promise for images compared with several photographs, with the nearest of as many: `nearest(photographs,
    photographs, same=(labels, labels), other=(people, people))`, or the same either way. nan is left out. conditions
    (p,): of each pair; they are drawn as a whole for the interval, since their pairs share people. The value is the
    ceil((p + 1) (1 - false_alarm))-th smallest, so that the promise holds on average over calibrations (split conformal
    prediction: Vovk, Gammerman and Shafer, 2005). Raises InputError if there are too few pairs for that, or too few
    conditions."""
    similarities, conditions = np.asarray(similarities, float), np.asarray(conditions, dtype=object)
    measured = np.isfinite(similarities)
    values, groups = similarities[measured], conditions[measured]
    least, n_groups = math.ceil(1 / false_alarm) - 1, len(set(groups.tolist()))
    if len(values) < least or n_groups < MIN_GROUPS:
        raise InputError(
            f"the privacy threshold cannot be calibrated: {len(values)} pairs of different people with the same "
            f"condition, from {n_groups} conditions, are at hand, and a false alarm of {false_alarm:g} needs "
            f"{least} pairs from {MIN_GROUPS} conditions; use more photographs or allow more false alarms"
        )
    order = np.argsort(values)
    ascending = values[order]

    def quantile(weights: np.ndarray) -> np.ndarray:
        """weights (b, p) of the pairs, in ascending order of similarity; returns (b,)."""
        reached = weights.cumsum(axis=1)
        rank = np.minimum(np.ceil((reached[:, -1:] + 1) * (1 - false_alarm) - 1e-9), reached[:, -1:])
        return ascending[np.argmax(reached >= rank, axis=1)]

    (value,) = quantile(np.ones((1, len(values))))
    low, high = bootstrap_interval(quantile, [str(group) for group in groups[order]], n_boot, seed)
    return Threshold(float(value), low, high, false_alarm, len(values), n_groups)


# ---- rejection and verdict


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was measured of m synthetic images; rows are of the photographs compared with, -1: of none."""

    copy_rows: np.ndarray  # (m,)
    copy_scores: np.ndarray  # (m,) 0..1 (copies); nan: could not be measured
    person_rows: np.ndarray  # (m,)
    similarities: np.ndarray  # (m,) -1..1 of the face's embedding (nearest); nan: could not be measured


def reject_reasons(
    examination: Examination, image_ids: Sequence[str], thresholds: Mapping[str, Threshold]
) -> list[str | None]:
    """Why each of m images must not be released: `near copy of`, `resembles the person of`; None if nothing is.

    image_ids (n,): of the photographs compared with; thresholds: of COPY and PERSON. What could not be measured is
    rejected too."""
    reasons: list[str | None] = []
    copies_, persons = thresholds[COPY].value, thresholds[PERSON].value
    for copy_row, score, person_row, similarity in zip(*dataclasses.astuple(examination), strict=True):
        if score > copies_:
            reasons.append(f"near copy of {image_ids[copy_row]}")
        elif similarity > persons:
            reasons.append(f"resembles the person of {image_ids[person_row]}")
        elif np.isnan(score) or np.isnan(similarity):
            reasons.append("cannot be compared with the photographs: no face, or a single colour")
        else:
            reasons.append(None)
    return reasons


def verdict(
    files: Mapping[str, str],
    kept: Sequence[bool],
    generators: Sequence[str],
    examination: Examination,
    thresholds: Mapping[str, Threshold | str],
    attacks: Mapping[str, Mapping[str, Mapping | str]],
) -> dict:
    """The content of privacy_report.json, which decides whether publish_dataset.py may make the images open.

    files: path in the repository -> sha256 of each Parquet file; kept, generators (m,): of all images examined;
    thresholds: of COPY and PERSON; attacks: generator -> BEFORE, AFTER, POSITIVE, NEGATIVE -> a membership attack's
    record (membership_attack.Attack.record()). A text in the place of a threshold or record says why there is none.
    `verdict` is green only if nothing is missing, every kept image lies below both thresholds, and for each generator
    of kept images the attack finds the members of an overfitted generator, nothing where there is nothing to find, and
    at most MAX_AUC in what is released. Otherwise it is red, and `reasons` says why."""
    kept = np.asarray(kept, bool)
    reasons = [] if files else ["no Parquet file was named, so the verdict is about nothing"]
    reasons += [] if kept.any() else ["no image was kept, so nothing can be released"]
    for name, scores in ((COPY, examination.copy_scores), (PERSON, examination.similarities)):
        reasons += _threshold_problems(name, thresholds.get(name, "was not calibrated"), np.asarray(scores)[kept])
    for generator in sorted({str(name) for name in np.asarray(generators, dtype=object)[kept]}):
        reasons += [f"{generator}: {problem}" for problem in _attack_problems(attacks.get(generator, {}))]
    limits = {"positive_control_min": MIN_POSITIVE_CONTROL, "negative_control_margin": CONTROL_MARGIN}
    limits |= {"auc_max": MAX_AUC, "auc_high_max": MAX_AUC_HIGH}
    return {
        "verdict": "red" if reasons else "green",
        "files": dict(files),
        "reasons": reasons,
        "n_examined": len(kept),
        "n_kept": int(kept.sum()),
        "thresholds": {
            name: dataclasses.asdict(value) if isinstance(value, Threshold) else {"not_measured": value}
            for name, value in thresholds.items()
        },
        "membership_attack": {
            generator: {
                name: dict(record) if isinstance(record, Mapping) else {"not_measured": record}
                for name, record in records.items()
            }
            for generator, records in attacks.items()
        },
        "limits": limits,
    }


def _threshold_problems(name: str, threshold: Threshold | str, scores: np.ndarray) -> list[str]:
    """scores (k,): of the images that are kept."""
    if not isinstance(threshold, Threshold) or not np.isfinite(threshold.value):
        return [f"{name}: there is no threshold: {threshold}"]
    problems = []
    if not np.isfinite(scores).all():
        problems.append(f"{name}: {(~np.isfinite(scores)).sum()} kept images could not be measured")
    if (scores > threshold.value).any():
        problems.append(f"{name}: {(scores > threshold.value).sum()} kept images lie above the threshold")
    return problems


def _attack_problems(records: Mapping[str, Mapping | str]) -> list[str]:
    records = {name: records.get(name, "was not made") for name in (BEFORE, AFTER, POSITIVE, NEGATIVE)}
    if all(isinstance(record, str) for record in records.values()) and len(set(records.values())) == 1:
        return [f"no membership attack has a result: {records[AFTER]}"]
    problems = []
    for name, record in records.items():
        numbers = [record.get(key) for key in ("auc", "low", "high")] if isinstance(record, Mapping) else [None]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            problems.append(f"membership attack {name}: has no result: {record}")
            continue
        auc, low, high = numbers
        if name == POSITIVE and auc < MIN_POSITIVE_CONTROL:
            problems.append(f"membership attack {name}: AUC {auc:.2f}; an attack that misses copies reassures falsely")
        if name == NEGATIVE and not low - CONTROL_MARGIN <= 0.5 <= high + CONTROL_MARGIN:
            problems.append(f"membership attack {name}: AUC {auc:.2f} [{low:.2f}, {high:.2f}] is not 0.5")
        if name == AFTER and auc > MAX_AUC:
            problems.append(f"membership attack {name}: AUC {auc:.2f} is above {MAX_AUC}")
        if name == AFTER and high < 1 - MAX_AUC:
            problems.append(f"membership attack {name}: AUC {auc:.2f}; members are told by what is missing near them")
        if name == AFTER and high > MAX_AUC_HIGH:
            problems.append(f"membership attack {name}: up to {high:.2f} is possible; it needs more people")
    return problems
