"""Whether probabilities mean what they say: the smooth calibration error, and the bins of a reliability diagram.

The binned error is in scoring/metrics.py. Both are about the highest probability of each image: how far is it from the
share of images whose most probable class is the right one?
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.fft import dct, idct
from scipy.sparse import csr_array

from scoring.intervals import bootstrap_interval, numbered, wilson_interval
from scoring.metrics import confidence_bins, excess_confidence

CELLS = 256  # of the confidences 0..1, on which residuals are smoothed
BISECTIONS = 12  # of the width of the kernel: 2e-4


def smooth_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """As expected_calibration_error, but without bins, whose number and borders decide much about few images.

    Shapes as in macro_f1; returns (b,) in 0..1; 0 is calibrated. Residuals (confidence minus hit) are smoothed over the
    confidences with a Gaussian kernel that is reflected at 0 and 1; the error is the mean absolute value of the result,
    at the one width of the kernel that equals this error. It has no parameter, and it is continuous: a small change of
    the probabilities changes it little. Smoothing with a reflected Gaussian multiplies the k-th cosine by
    exp(-(pi k width)^2 / 2). The estimate is a little too high for few images, much less than with bins. If all
    probabilities are equal it is 0, since guessing at random is then right as often as it claims. Raises ValueError for
    probabilities that are not finite. Source: Blasiok and Nakkiran, Smooth ECE, arXiv 2309.12236, definition 3."""
    confidence, excess = excess_confidence(probabilities, labels)
    weights = np.ones((1, len(excess))) if weights is None else weights
    masses = (weights @ _on_cells(excess, confidence) / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    waves, frequencies = dct(masses, norm="ortho"), np.pi * np.arange(CELLS, dtype=np.float32)  # (b, CELLS), (CELLS,)
    narrow, wide = np.zeros(len(waves), np.float32), np.ones(len(waves), np.float32)
    for _ in range(BISECTIONS):
        width = (narrow + wide) / 2
        smoothed = idct(waves * np.exp(-((frequencies * width[:, None]) ** 2) / 2), norm="ortho")
        is_narrow = np.abs(smoothed).sum(axis=1) > width  # the error falls as the kernel gets wider
        narrow, wide = np.where(is_narrow, width, narrow), np.where(is_narrow, wide, width)
    return np.where(narrow > 0, (narrow + wide) / 2, 0).astype(float)


def _on_cells(values: np.ndarray, places: np.ndarray) -> csr_array:
    """Sparse (n, CELLS): each of n values divided between the two cells whose middles are nearest to its place 0..1."""
    position = np.clip(places * CELLS - 0.5, 0, CELLS - 1)
    left = np.minimum(position.astype(int), CELLS - 2)
    share = position - left
    rows = np.tile(np.arange(len(values)), 2)
    columns, parts = np.concatenate([left, left + 1]), np.concatenate([values * (1 - share), values * share])
    return csr_array((parts, (rows, columns)), shape=(len(values), CELLS))


def reliability_diagram(
    probabilities: np.ndarray, labels: np.ndarray, subjects: Sequence[str | None], n_bins: int = 15
) -> pd.DataFrame:
    """One row per bin that holds an image: `from` and `to` (its borders), n, n_subjects, `confidence` (mean highest
    probability), `accuracy` (share of hits), and its 95 % interval over subjects, `low` and `high`.

    probabilities (n, C), labels (n,), subjects (n,); bins as in expected_calibration_error. The interval is null for a
    bin with a single subject, and Wilson's, which counts subjects, if all images of a bin are hits, or none is. Raises
    ValueError for probabilities that are not finite."""
    confidence, excess = excess_confidence(probabilities, labels)
    which, subject, hit = confidence_bins(confidence, n_bins), numbered(subjects), confidence - excess
    rows = []
    for number in np.unique(which):
        inside = which == number
        n_subjects = len(np.unique(subject[inside]))
        low, high = (None, None) if n_subjects < 2 else _interval(hit[inside], subject[inside])
        rows.append(
            {
                "from": number / n_bins,
                "to": (number + 1) / n_bins,
                "n": int(inside.sum()),
                "n_subjects": n_subjects,
                "confidence": confidence[inside].mean(),
                "accuracy": hit[inside].mean(),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def _interval(hit: np.ndarray, subject: np.ndarray) -> tuple[float, float]:
    """Of a share of hits (n,) by bootstrap; by Wilson's formula if all are alike, so that no resample can differ."""
    if np.ptp(hit) == 0:
        return wilson_interval(hit[0], len(np.unique(subject)))
    return bootstrap_interval(_mean_of(hit), subject)


def _mean_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weights: weights @ values / weights.sum(axis=1)
