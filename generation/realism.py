"""How real synthetic faces look: single images (faces, sharpness), whole sets (KID, precision and recall), and labels.

No number here says that a face shows its condition, which is fidelity, or that it is no patient's, which is privacy.
LPIPS is in perceptual_distance.py. There is no FID: with fewer images than features its covariance is singular, and its
bias at dozens of images exceeds the differences between generators (Chong and Forsyth, CVPR 2020, arXiv 1911.07023).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from generation.perceptual_distance import SIDE_PX
from generation.stored_rows import StoredRows
from harness.errors import InputError
from scoring.intervals import numbered

CONFIDENT_ABOVE = 0.99  # the paper's


# ---- single images


def share_confident(face_scores: np.ndarray) -> float:
    """The paper's "share above 0.99": of all images, those whose face the detector scores above 0.99. 0..1.

    face_scores (m,): the detector's score of each image's face, NaN if it found none; such an image counts as not
    confident. The detector is saturated: RetinaFace scores nearly every face above 0.99, photographs and crudely drawn
    faces alike. So a high share says only that faces were drawn, and a difference between two generators that both
    draw faces means nothing. Scores of different detectors cannot be compared. Raises ValueError for no image."""
    return float(np.mean(_face_scores(face_scores) > CONFIDENT_ABOVE))


def share_with_face(face_scores: np.ndarray) -> float:
    """Share of the images, 0..1, in which the detector found a face at its threshold; face_scores as above."""
    return float(np.mean(~np.isnan(_face_scores(face_scores))))


def mean_confidence(face_scores: np.ndarray) -> float:
    """Mean score of the faces that were found; NaN if there is none; face_scores as above.

    Images without a face are left out, so it lies between the detector's threshold and 1 whatever was drawn."""
    scores = _face_scores(face_scores)
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if len(scores) else float("nan")


def _face_scores(face_scores: np.ndarray) -> np.ndarray:
    face_scores = np.asarray(face_scores, float)
    if face_scores.ndim != 1 or not len(face_scores):
        raise ValueError(f"face scores have shape {face_scores.shape}; they should be (m,), of at least one image")
    return face_scores


def sharpness(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Variance (m,) of the Laplacian of each grey picture, in squared grey levels; 0 for an even picture.

    pixels: m of (SIDE_PX, SIDE_PX, 3) uint8 RGB, from square_pixels. It is large if neighbouring pixels differ. It
    therefore depends on focus and on the size before the reduction (an enlarged picture is soft), but as much on
    contrast and exposure (it grows with the square of the contrast), on noise, print grain and JPEG's blocks, which
    raise it, and on hair, clothes and background. So it compares images of one kind with one another and finds smeared
    ones; it has no threshold that would hold for all photographs. Source: Pech-Pacheco et al., ICPR 2000."""
    values = []
    for row, picture in enumerate(pixels):
        if picture.shape != (SIDE_PX, SIDE_PX, 3) or picture.dtype != np.uint8:
            raise ValueError(f"picture {row} is {picture.shape} {picture.dtype}; use square_pixels")
        values.append(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
    return np.array(values, float)


# ---- sets of images

NEIGHBOURS = 3  # of the balls that make up a set's manifold; the value of its authors
SMALLEST_SET = 50  # images; see compare_sets
LARGEST_SUBSET = 1000  # images; the size that KID is customarily computed with


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetComparison:
    """How a set of synthetic images relates to a set of real ones; see compare_sets."""

    kid: Estimate  # squared distance of the distributions; 0 if they are the same, below 0 by chance or for copies
    precision: Estimate  # 0..1, share of the synthetic images that lie among real ones
    recall: Estimate  # 0..1, share of the real images that lie among synthetic ones
    n_real: int  # subjects
    n_synthetic: int
    n_compared: int  # images of either set behind precision and recall: the number in the smaller set
    subset_size: int  # images of either set in each subset
    n_subsets: int


def compare_sets(
    real: np.ndarray,
    synthetic: np.ndarray | StoredRows,
    real_subjects: Sequence[str | None] | None = None,
    n_subsets: int = 100,
    seed: int = 0,
) -> SetComparison:
    """KID, precision and recall of a set of synthetic images against real ones, computed by torch-fidelity.

    real (n, d), synthetic (m, d): features of both by one network, such as the backbone or a face embedding; those of
    the synthetic images may lie in files (StoredRows), so that memory does not grow with m. The numbers depend on the
    network, so they compare generators, but not with published tables. real_subjects (n,): whose image it is; null for
    an unknown subject, who counts as one of their own. Each draw takes one image, by chance, of each subject drawn,
    since several photographs of one person would lie among one another and not among others. A synthetic image is a
    subject of its own.

    KID is the mean over random subsets of half the smaller set (at most 1000 images). In each, the features are shifted
    and divided by one number, so that the real ones have mean 0 and mean square 1: for features of unit length KID's
    kernel, (x . y / d + 1) ** 3, would otherwise be all but linear, and KID would miss a set of the right mean that has
    too little variety. Precision and recall grow with the number of images, so they are computed on as many real as
    synthetic images: all of the smaller set, and as many drawn from the larger one. Only values for equal numbers
    (n_compared) may be compared, and new photographs of other real people do not reach 1 either.

    The intervals are normal, from the standard deviation over the subsets: halves that are drawn without replacement
    vary as much as whole sets do (the delete-half jackknife: Shao and Wu, Annals of Statistics 1989). For sets that
    hardly differ the interval of KID is too wide. An interval below 0 says that synthetic images are nearer to the real
    ones than independent images would be: copies. Those of precision and recall are cut to 0..1. They describe other
    people and other images of the same generator; a generator that is trained anew may differ by more.

    Raises InputError for fewer than 50 subjects or synthetic images: with 20, KID of two samples of one population
    varies three times as much as with 50. Raises ValueError for features of other shapes or that are not finite.
    Sources: Binkowski et al., ICLR 2018, arXiv 1801.01401; Kynkäänniemi et al., NeurIPS 2019, arXiv 1904.06991."""
    _check(real, synthetic)
    subjects = np.arange(len(real)) if real_subjects is None else numbered(real_subjects)
    if len(subjects) != len(real):
        raise ValueError(f"there are {len(subjects)} subjects for {len(real)} real images")
    n_subjects = len(np.unique(subjects))
    _refuse_small({"real subjects": n_subjects, "synthetic images": len(synthetic)})
    n = min(n_subjects, len(synthetic))
    size, rng = min(n // 2, LARGEST_SUBSET), np.random.default_rng(seed)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = real[_draw(subjects, size, rng)], synthetic[_draw(np.arange(len(synthetic)), size, rng)]
        return drawn[0].astype(float), drawn[1].astype(float)

    whole = _precision_recall(*draw(n))
    drawn = np.empty((n_subsets, 3))
    for values in drawn:
        subset = draw(size)
        values[:] = _kid(*subset), *_precision_recall(*subset)
    reach = NormalDist().inv_cdf(0.975) * drawn.std(axis=0, ddof=1) * np.sqrt(size / (n - size))
    kid = drawn[:, 0].mean()
    estimates = [Estimate(float(kid), float(kid - reach[0]), float(kid + reach[0]))]
    for value, half_width in zip(whole, reach[1:], strict=True):
        estimates.append(Estimate(value, float(max(0, value - half_width)), float(min(1, value + half_width))))
    return SetComparison(*estimates, n_subjects, len(synthetic), n, size, n_subsets)


def _check(real: np.ndarray, synthetic: np.ndarray | StoredRows) -> None:
    """Raise ValueError for shapes that differ and for values that are not finite."""
    if len(real.shape) != 2 or len(synthetic.shape) != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"features {real.shape} and {synthetic.shape} should be (n, d) and (m, d)")
    for name, features in (("real", real), ("synthetic", synthetic)):
        for start in range(0, len(features), LARGEST_SUBSET):
            finite = np.isfinite(features[start : start + LARGEST_SUBSET]).all(axis=1)
            if not finite.all():
                raise ValueError(f"features of {name} image {start + int(np.argmin(finite))} are not finite")


def _refuse_small(counts: dict[str, int]) -> None:
    for name, n in counts.items():
        if n < SMALLEST_SET:
            raise InputError(
                f"KID, precision and recall: {n} {name} are too few for an honest number, because it would depend on "
                f"which they are; give at least {SMALLEST_SET}"
            )


def _draw(subject: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (size,), one of each of `size` subjects without replacement; subject (n,): numbers 0, 1, .."""
    rows = rng.permutation(len(subject))
    _, one_each = np.unique(subject[rows], return_index=True)
    return rng.permutation(rows[one_each])[:size]


def _kid(real: np.ndarray, synthetic: np.ndarray) -> float:
    """KID of two sets (s, d) of equal size, all images of both at once."""
    # These functions take features. The library's calculate_metrics, which its manual describes, takes pictures only.
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric  # imports every extractor: 5 s

    centre = real.mean(axis=0)
    scale = np.sqrt(np.mean((real - centre) ** 2))
    if scale == 0:
        raise ValueError("the real images all have the same features")
    features = torch.from_numpy((synthetic - centre) / scale), torch.from_numpy((real - centre) / scale)
    metric = kid_features_to_metric(*features, kid_subsets=1, kid_subset_size=len(real), verbose=False)
    return metric[KEY_METRIC_KID_MEAN]


def _precision_recall(real: np.ndarray, synthetic: np.ndarray) -> tuple[float, float]:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    features = torch.from_numpy(synthetic), torch.from_numpy(real)  # in this order
    blocks = {"save_cpu_ram": True, "prc_batch_size": 1000}  # no matrix of all distances
    metric = prc_features_to_metric(*features, prc_neighborhood=NEIGHBOURS, verbose=False, **blocks)
    return metric[KEY_METRIC_PRECISION], metric[KEY_METRIC_RECALL]


# ---- labels for images of an unconditional generator


def label_by_prototype(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest class of each image of an unconditional generator, as the paper labels its FastGAN images.

    distances (m, C), >= 0: Euclidean, of each image's landmark descriptor to the mean descriptor of each class's real
    training images; NaN for a class without images, a row of NaN for an image without a face. Returns labels (m,), the
    number of the nearest class (the first if several are equally near), -1 without a face; and confidence (m,), 0..1,
    NaN without a face. The confidence is the margin 1 - d1 / d2 of the nearest class over the next one: 0 if both are
    equally near, 1 if the descriptor lies on the class mean. The margin is not a probability that the label is right;
    LabelCalibration turns it into one. Raises ValueError for other shapes, fewer than two classes, negative values."""
    distances = np.array(distances, float)
    if distances.ndim != 2 or distances.shape[1] < 2 or (distances < 0).any():
        raise ValueError(f"distances {distances.shape} should be (m, C), of at least two classes, and >= 0")
    distances[np.isnan(distances)] = np.inf
    nearest = np.argmin(distances, axis=1)
    first, second = np.partition(distances, 1, axis=1)[:, :2].T
    has_face = np.isfinite(first)
    # 0 / 0: the descriptor lies on two class means
    ratio = np.divide(first, second, out=np.ones(len(first)), where=(second > 0) & has_face)
    return np.where(has_face, nearest, -1), np.where(has_face, 1 - ratio, np.nan)


@dataclass(frozen=True)
class LabelCalibration:
    """The probability that the nearest class is the right one, by the margin of label_by_prototype.

    It is measured on real photographs, so for a synthetic image it reads: a photograph with this margin would have been
    given its own condition with this probability. With 103 conditions and five landmarks it is small throughout."""

    slope: float
    intercept: float
    n: int  # photographs it was fitted on
    share_right: float  # of these

    def probability(self, confidence: np.ndarray) -> np.ndarray:
        """Probabilities (m,) for the confidence (m,) of label_by_prototype; NaN stays NaN."""
        return 1 / (1 + np.exp(-(self.slope * np.asarray(confidence, float) + self.intercept)))


def calibrate_labels(distances: np.ndarray, labels: np.ndarray) -> LabelCalibration:
    """Fit LabelCalibration on real training photographs whose conditions are known.

    distances (n, C): as for label_by_prototype, but no photograph may be part of the mean it is compared with (leave it
    out, or take the means of the other folds), or its own class would seem too near. labels (n,): class numbers.
    Photographs without a face are left out. A logistic regression of "the nearest class is right" on the margin, with
    targets drawn in from 0 and 1 so that it exists even if every label is right (Platt, 1999). Raises ValueError if no
    photograph has a face."""
    nearest, margin = label_by_prototype(distances)
    has_face = nearest >= 0
    right = nearest[has_face] == np.asarray(labels)[has_face]
    n, n_right = len(right), int(right.sum())
    if not n:
        raise ValueError("no photograph has a face, so labels cannot be calibrated")
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n - n_right + 2))
    margins = np.tile(margin[has_face], 2)[:, None]  # each photograph as right and as wrong, with its target as weight
    model = LogisticRegression(C=np.inf).fit(margins, np.repeat([1, 0], n), np.concatenate([target, 1 - target]))
    return LabelCalibration(float(model.coef_[0, 0]), float(model.intercept_[0]), n, n_right / n)
