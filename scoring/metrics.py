"""Scores of (n, C) probabilities against (n,) labels; ties are counted in expectation.

Most take `weights` (b, n), how often each image occurs in each of b bootstrap resamples, and then return (b,) values.
Probabilities that are not finite are refused by ValueError with the number of the image. A class without test images
is defined in each function.
"""

import numpy as np
from scipy.sparse import csr_array

# Scores that differ by less, relative to their size, are equal but for rounding.
TIE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-6}


def topk_hits(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The chance that each image's class is among its k most probable ones, if ties are broken at random.

    probabilities (n, C); labels (n,) in 0..C-1; returns (n,) in 0..1: 0 or 1 unless a tie straddles the k-th place.
    Hence a constant predictor scores k / C, which is chance, and the order of the classes never matters."""
    return share_in_top(*_places(probabilities, labels), k)


def share_in_top(ahead: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """The chance (n,) to be among the first k, if ahead (n,) are better, and tied (n,) are as good, itself included."""
    return np.clip((k - ahead) / tied, 0.0, 1.0)


def equal_but_for_rounding(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Which scores equal `own`, apart from what TIE allows, relative to its size or to 1 if that is more.

    scores: any shape, whose type decides on the tolerance; own: of a shape that fits. nan equals nothing, and an
    infinite score only its like. Products of equal features differ by rounding, which must not decide who is best."""
    tie = TIE.get(np.asarray(scores).dtype, TIE[np.dtype(np.float64)])
    with np.errstate(invalid="ignore"):
        near = np.abs(scores - own) <= tie * np.maximum(np.abs(own), 1)
    return (scores == own) | (near & np.isfinite(own))


def reciprocal_ranks(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 / rank of each image's class, in expectation over random orders of equal probabilities; 1 is the best rank.

    Shapes as in topk_hits; returns (n,) in 0..1. A class with a others before it, which ties with t - 1 others, gets
    the mean of 1/(a+1) .. 1/(a+t), so a constant predictor scores (1 + 1/2 + .. + 1/C) / C, which is chance."""
    ahead, tied = _places(probabilities, labels)
    harmonic = np.cumsum([0.0, *(1 / np.arange(1, np.shape(probabilities)[1] + 1))])  # 1 + 1/2 + .. + 1/i at place i
    return (harmonic[ahead + tied] - harmonic[ahead]) / tied


def _places(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many classes are more probable than each image's own, and how many are as probable, itself included: (n,)."""
    probabilities, labels = _finite(probabilities), np.asarray(labels)
    own = probabilities[np.arange(len(labels)), labels][:, None]
    return (probabilities > own).sum(axis=1), (probabilities == own).sum(axis=1)


def topk_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Mean of topk_hits: the share of images whose class is among the k most probable, 0..1."""
    return float(topk_hits(probabilities, labels, k).mean())


def weighted_topk(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, *, k: int
) -> np.ndarray:
    """topk_accuracy with the signature of macro_f1."""
    return _weighted_mean(topk_hits(probabilities, labels, k), weights)


def mean_reciprocal_rank(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean of reciprocal_ranks; shapes as in macro_f1, returns (b,) in 0..1."""
    return _weighted_mean(reciprocal_ranks(probabilities, labels), weights)


def negative_log_likelihood(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean of -ln p of the right class, in nats; shapes as in macro_f1, returns (b,) >= 0; a uniform guess has ln C.

    A probability below 1e-12 counts as 1e-12, so that one image adds at most 27.6 and cannot outweigh all others."""
    own = _finite(probabilities)[np.arange(len(labels)), labels]
    return _weighted_mean(-np.log(np.maximum(own, 1e-12)), weights)


def _weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Means (b,) of values (n,) under each row of weights (b, n); None: one row of ones."""
    weights = np.ones((1, len(values))) if weights is None else weights
    return weights @ values / weights.sum(axis=1)


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, n_bins: int = 15
) -> np.ndarray:
    """How far the highest probability is from the accuracy of its class: mean over bins, weighted by their images.

    Shapes as in macro_f1; returns (b,) in 0..1. Bins are equally wide and closed above: (0, 1/15], (1/15, 2/15], ..
    Among classes that tie for the highest probability the guess is random, so a hit is divided equally between them.
    Sampling errors do not cancel in a mean of absolute values, so the estimate is too high: see corrected_interval.
    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; Guo, Pleiss, Sun and Weinberger, ICML 2017."""
    confidence, excess = excess_confidence(probabilities, labels)
    weights = np.ones((1, len(excess))) if weights is None else weights
    per_bin = weights @ in_columns(excess, confidence_bins(confidence, n_bins), n_bins)
    return np.abs(per_bin).sum(axis=1) / weights.sum(axis=1)


def excess_confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest probability of each image, (n,) in 0..1, and how far it exceeds the hit of its class, (n,) in -1..1.

    A hit is 0 or 1; classes that tie for the highest probability share it, as in topk_hits."""
    confidence = _finite(probabilities).max(axis=1)
    return confidence, confidence - topk_hits(probabilities, labels, 1)


def confidence_bins(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """The bin 0..n_bins-1 of each confidence (n,), equally wide and closed above."""
    return np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)


def macro_f1(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of the most probable class, averaged over all C classes; a class without test images counts as 0.

    probabilities (n, C); labels (n,); weights (b, n): how often each image occurs in each of b resamples (None: one
    resample with every image once); returns (b,) in 0..1. Equals scikit-learn's f1_score(labels=range(C),
    average="macro", zero_division=0) if no probabilities tie; tied classes share the prediction. In a resample the
    average is over the conditions drawn, scaled by the share of all C classes that has test images: otherwise every
    condition that happens not to be drawn would count as a failure and the interval would miss its estimate."""
    f1, tested = f1_by_class(probabilities, labels, weights)
    return f1.sum(axis=1) / tested.sum(axis=1) * len(np.unique(labels)) / f1.shape[1]


def f1_by_class(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each class, 0 if none of its images is drawn, and whether one is; each (b, C), arguments as in macro_f1."""
    hit, predicted, true = confusion(probabilities, labels, weights)
    return 2 * hit / np.maximum(predicted + true, 1e-12), true > 0


def balanced_accuracy(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Recall of the most probable class, averaged over the classes with test images (in a resample: those drawn).

    Shapes, range and ties as in macro_f1. Equals scikit-learn's balanced_accuracy_score if nothing ties."""
    hit, _, true = confusion(probabilities, labels, weights)
    return (hit / np.maximum(true, 1e-12)).sum(axis=1) / (true > 0).sum(axis=1)


def confusion(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Weighted number of hits, predictions and images of each class, each (b, C); weights as in macro_f1."""
    share = predicted_share(probabilities)
    n, n_classes = share.shape
    hits = share[np.arange(n), labels]
    weights = np.ones((1, n)) if weights is None else weights
    parts = in_columns(hits, labels, n_classes), csr_array(share), in_columns(np.ones(n), labels, n_classes)
    return tuple(weights @ part for part in parts)  # sparse, because nearly all of (n, C) is 0


def predicted_share(probabilities: np.ndarray) -> np.ndarray:
    """(n, C): in each row a 1 at the most probable class, divided equally if several tie."""
    probabilities = _finite(probabilities)
    best = probabilities == probabilities.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def _finite(probabilities: np.ndarray) -> np.ndarray:
    """The probabilities (n, C) as float64. Raises ValueError for an image with one that is not finite."""
    probabilities = np.asarray(probabilities, float)
    if not np.isfinite(probabilities).all():
        row = int((~np.isfinite(probabilities)).any(axis=1).argmax())
        raise ValueError(f"probabilities of image {row} are not finite; leave it out, or run again")
    return probabilities


def in_columns(values: np.ndarray, column: np.ndarray, n_columns: int) -> csr_array:
    """Sparse (n, n_columns) with the i-th of n values in row i and the i-th of the columns."""
    return csr_array((values, (np.arange(len(values)), column)), shape=(len(values), n_columns))
