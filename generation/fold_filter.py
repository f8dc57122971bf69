"""Scores the synthetic images of one fold against the photographs of its training side, and against nothing else.

fold_filter = FoldFilter.fitted_to(photographs, references, kind="probe", n_classes=103)
columns = fold_filter.score(examined, labels)     # arrays (m,), as the scored dataset holds them
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from curation import schema
from generation import fidelity, privacy, realism
from generation.descriptors import describe
from generation.face_examination import Examined
from generation.perceptual_distance import ClassReference, PhotographFeatures, class_reference, mean_and_nearest_lpips
from generation.photograph_copies import copies
from harness.errors import InputError

FALSE_ALARM = 0.005  # share of faithful images of other people that each of the two thresholds may reject


@dataclasses.dataclass(frozen=True)
class Photographs:
    """n photographs of a fold's training side."""

    examined: Examined
    image_ids: Sequence[str]
    labels: np.ndarray  # (n,)
    groups: np.ndarray  # (n,) patients with their near duplicates
    n_classes: int


@dataclasses.dataclass(frozen=True)
class FoldFilter:
    """Everything that was fitted on the training side."""

    photographs: Photographs
    kind: str  # the descriptor that phenotype_probability is computed from
    paper: fidelity.Fitted
    fitted: fidelity.Fitted
    label_calibration: realism.LabelCalibration | None  # None: no condition has two people to measure it on
    thresholds: dict[str, privacy.Threshold | str]  # a text says why there is none
    lpips: nn.Module | None
    references: Mapping[int, ClassReference | None]  # by class number
    lpips_features: PhotographFeatures | None

    @staticmethod
    def fitted_to(
        photographs: Photographs, kind: str, lpips: nn.Module | None, profiles: np.ndarray | None = None
    ) -> "FoldFilter":
        """lpips: see perceptual_distance.load_lpips; None leaves the column out. profiles (C, T): of the conditions'
        terms, see fidelity.fit. Raises InputError without a face."""
        examined, labels, groups = photographs.examined, photographs.labels, photographs.groups
        arguments = (labels, groups, photographs.n_classes)
        paper = fidelity.fit(described("paper", examined), *arguments, "paper")
        fitted = paper if kind == "paper" else fidelity.fit(described(kind, examined), *arguments, kind, profiles)
        references = {}
        for label in np.unique(labels).tolist() if lpips is not None else ():
            references[label] = class_reference(lpips, examined.pixels[labels == label])
        lpips_features = None if lpips is None else PhotographFeatures(lpips, examined.pixels)
        return FoldFilter(
            photographs,
            kind,
            paper,
            fitted,
            calibrated_labels(photographs),
            thresholds(photographs),
            lpips,
            references,
            lpips_features,
        )

    def score(self, examined: Examined, labels: np.ndarray, lpips_column: str = "lpips") -> dict[str, np.ndarray]:
        """The columns of m images, (m,) or (m, ...); labels (m,): class numbers, -1 for an image without a label, which
        gets that of the nearest class mean, as the paper labels FastGAN's images."""
        paper = described("paper", examined)
        distances = self.paper.euclidean(paper)
        nearest, margin = realism.label_by_prototype(distances)
        given = np.asarray(labels) >= 0
        labels = np.where(given, labels, nearest)
        cosines = self.paper.cosine(paper)
        scores = cosines if self.kind == "paper" else self.fitted.scores(described(self.kind, examined))
        examination = examine_privacy(self.photographs, examined, labels)
        right = np.full(len(labels), np.nan)
        if self.label_calibration:
            right = np.where(given, np.nan, self.label_calibration.probability(margin))
        columns = {
            "label": labels,
            "label_probability": right,
            "faces": examined.n_faces,
            "box": examined.boxes,
            "face_score": examined.face_scores,
            "landmarks": examined.landmarks,
            "cosine": fidelity.own_class_score(cosines, labels),
            "euclidean": fidelity.own_class_score(distances, labels),
            "class_rank": fidelity.class_rank(cosines, labels),
            "phenotype_probability": self.fitted.phenotype_probability(scores, labels),
            "phenotype_rank": fidelity.class_rank(scores, labels),
            "sharpness": examined.sharpness,
        }
        if self.lpips is not None:
            columns |= self.lpips_columns(examined, labels, examination, lpips_column)
        return columns | self.privacy_columns(examined, examination)

    def lpips_columns(
        self, examined: Examined, labels: np.ndarray, examination: privacy.Examination, lpips_column: str
    ) -> dict[str, np.ndarray]:
        """LPIPS to the photographs of the label, and the nearest photograph by LPIPS; nan if it cannot be decoded.

        The nearest one is looked for among the label's photographs, the likeliest original and the most similar person:
        with all photographs the comparison would cost as much as all others together."""
        references, candidates = [], []
        nearest = zip(examination.copy_rows.tolist(), examination.person_rows.tolist(), strict=True)
        for label, decoded, rows in zip(labels.tolist(), np.isfinite(examined.sharpness), nearest, strict=True):
            references.append(self.references.get(label) if decoded else None)
            own = np.flatnonzero(self.photographs.labels == label).tolist()
            candidates.append(sorted({row for row in (*rows, *own) if row >= 0}) if decoded else ())
        means, rows, distances = mean_and_nearest_lpips(
            self.lpips, examined.pixels, references, candidates, self.lpips_features
        )
        ids = np.array([*self.photographs.image_ids, None], dtype=object)  # the last one for row -1, which is none
        return {
            lpips_column: means,
            schema.nearest_by_lpips(lpips_column): distances,
            schema.NEAREST_ID_BY_LPIPS: ids[rows],
        }

    def privacy_columns(self, examined: Examined, examination: privacy.Examination) -> dict[str, np.ndarray]:
        """How like each image is to a photograph and to a person, which these are, and why it must be rejected."""
        measured = {
            name: value if isinstance(value, privacy.Threshold) else _threshold_without_calibration(name)
            for name, value in self.thresholds.items()
        }
        is_copy = examination.copy_scores > measured[privacy.COPY].value
        rows = np.where(is_copy | (examination.person_rows < 0), examination.copy_rows, examination.person_rows)
        ids = np.array([*self.photographs.image_ids, None], dtype=object)  # the last one for row -1, which is none
        reasons = privacy.reject_reasons(examination, self.photographs.image_ids, measured)
        reasons = [problem or reason or "" for problem, reason in zip(examined.problems, reasons, strict=True)]
        return {
            "copy_score": examination.copy_scores,
            "person_similarity": examination.similarities,
            "nearest_real_id": ids[rows],
            "reject_reason": np.array(reasons, dtype=object),
        }


def described(kind: str, examined: Examined) -> np.ndarray:
    """The descriptors of examined pictures; nan without a face."""
    landmarks = examined.dense if kind == "dense" else examined.landmarks
    return describe(kind, landmarks=landmarks, boxes=examined.boxes, features=examined.features)


def examine_privacy(photographs: Photographs, examined: Examined, labels: np.ndarray) -> privacy.Examination:
    """Copies are looked for among all photographs, persons among those with the image's condition."""
    real, same = photographs.examined, (photographs.labels, labels)
    persons = privacy.nearest_either_way(real.identities, examined.identities, examined.mirrored_identities, same=same)
    return privacy.Examination(*copies(real.pictures, examined.pictures), *persons)


def thresholds(photographs: Photographs) -> dict[str, privacy.Threshold | str]:
    """From different people with the same condition, all of the training side; a text where there are too few."""
    examined, labels, groups = photographs.examined, photographs.labels, photographs.groups
    both = {"same": (labels, labels), "other": (groups, groups)}
    identities = examined.identities, examined.identities, examined.mirrored_identities
    _, similarities = privacy.nearest_either_way(*identities, **both)
    _, scores = copies(examined.pictures, examined.pictures, other=(groups, groups))
    calibrated: dict[str, privacy.Threshold | str] = {}
    for name, values in ((privacy.COPY, scores), (privacy.PERSON, similarities)):
        try:
            calibrated[name] = privacy.calibrate(values, labels.tolist(), FALSE_ALARM)
        except InputError as error:
            calibrated[name] = str(error)
    return calibrated


def calibrated_labels(photographs: Photographs) -> realism.LabelCalibration | None:
    """How often the nearest class mean is the right one, measured on photographs of which another person shares the
    condition: without one, the right class has no mean that the photograph is not part of. None if there are none."""
    distances = leave_one_out_distances(photographs)
    measurable = np.isfinite(distances[np.arange(len(distances)), photographs.labels])
    if not measurable.any():
        return None
    return realism.calibrate_labels(distances[measurable], photographs.labels[measurable])


def leave_one_out_distances(photographs: Photographs) -> np.ndarray:
    """Euclidean distances (n, C) of each photograph's landmark descriptor to the class means without its own group."""
    descriptors = described("paper", photographs.examined)
    labels, groups = photographs.labels, np.asarray(photographs.groups)
    whole = np.isfinite(descriptors).all(axis=1)
    distances = np.full((len(labels), photographs.n_classes), np.nan)
    for label in np.unique(labels).tolist():
        members = whole & (labels == label)
        total, count = descriptors[members].sum(axis=0), members.sum()
        own = {group: members & (groups == group) for group in np.unique(groups[members])}
        for row in np.flatnonzero(whole):
            left_out = own.get(groups[row], np.zeros(len(labels), bool))
            n = count - left_out.sum()
            if n:
                mean = (total - descriptors[left_out].sum(axis=0)) / n
                distances[row, label] = np.linalg.norm(descriptors[row] - mean)
    return distances


def _threshold_without_calibration(name: str) -> privacy.Threshold:
    """With too few photographs, only what the test for near duplicates confirms (score 1) counts as a copy.

    The privacy report is red then, since nothing was measured."""
    value = np.nextafter(1, 0) if name == privacy.COPY else np.inf
    return privacy.Threshold(float(value), np.nan, np.nan, np.nan, 0, 0)
