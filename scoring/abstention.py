"""What a classifier's errors would be if it answered only where it is surest: risk against coverage."""

import numpy as np
import pandas as pd
from scipy.special import digamma

from scoring.metrics import excess_confidence, in_columns


def risk_coverage_area(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of wrong answers among the k surest images, averaged over k = 1..n; lower is better.

    Shapes as in macro_f1; returns (b,) in 0..1. The surest image is that with the highest probability of any class;
    among equally sure ones the order is random, and the expectation is given, so that if all probabilities are equal
    the area is the error of the whole set: sureness then tells nothing. Other than for means, weights must be counts,
    since the area depends a little on the number of images. Raises ValueError for probabilities that are not finite.
    Source: Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation, ICLR 2019 (AURC)."""
    confidence, excess = excess_confidence(probabilities, labels)
    _, group = np.unique(-confidence, return_inverse=True)  # 0: the surest
    n_groups = int(group.max()) + 1
    weights = np.ones((1, len(excess))) if weights is None else weights
    wrong = weights @ in_columns(1 - (confidence - excess), group, n_groups)  # (b, n_groups)
    images = weights @ in_columns(np.ones(len(excess)), group, n_groups)
    n_after, wrong_before = images.cumsum(axis=1), wrong.cumsum(axis=1) - wrong
    rate = wrong / np.maximum(images, 1e-12)
    # The j-th image of a group adds (wrong_before + j rate) / (n_before + j); digamma adds up 1 / (n_before + j).
    sums = np.diff(digamma(n_after + 1), axis=1, prepend=digamma(1.0))
    per_group = wrong + (wrong_before - rate * (n_after - images)) * sums
    return per_group.sum(axis=1) / weights.sum(axis=1)


def risk_coverage_curve(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """One row per distinct confidence, surest first: `confidence` (answer if it is at least this), `coverage` (share of
    images answered, 0..1) and `risk` (share of wrong answers among them, 0..1).

    probabilities (n, C), labels (n,). If all probabilities are equal there is one row, of coverage 1. Raises ValueError
    for probabilities that are not finite. Source: El-Yaniv and Wiener, JMLR 11, 2010."""
    confidence, excess = excess_confidence(probabilities, labels)
    values, group, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    answered = counts.cumsum()
    wrong = np.bincount(group, 1 - (confidence - excess)).cumsum()
    return pd.DataFrame({"confidence": -values, "coverage": answered / len(labels), "risk": wrong / answered})
