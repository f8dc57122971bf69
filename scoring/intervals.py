"""Intervals of a score, and a p-value for the difference of two methods, with the subject as the unit.

Both describe the given classifiers, tested on new subjects of the same population; their training images are fixed.
benchmarks/interval_coverage.py measures how often they hold.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pandas as pd

WEIGHTS_AT_ONCE = 4_000_000  # limits the weights of resamples in memory to 32 MB


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    subjects: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic when whole subjects are drawn with replacement.

    statistic: maps weights (b, n), how often each image occurs in each of b resamples, to (b,) values. subjects (n,):
    the name of each image's subject, whose images are drawn together because they are not independent; null is a
    subject of its own. Returns (low, high)."""
    subject = numbered(subjects)
    values = _over_subjects(statistic, subject, _resamples(int(subject.max()) + 1, n_boot, seed))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def corrected_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    subjects: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a statistic that is biased in small samples, from as many subjects; arguments as bootstrap_interval.

    The bootstrap over subjects gives the bias (mean of the resamples minus the estimate), which is subtracted from the
    estimate. Leaving out one subject at a time gives the standard error. The interval is normal and has no bounds.
    A percentile interval would contain the bias twice, and would be too narrow for means over conditions of two or
    three photographs: a resample that repeats one of them differs less from the sample than a new one would. An
    estimate may lie outside its interval; that of a calibration error can. If few images decide, as in the upper
    calibration bins of a poor classifier, the interval is still a little too narrow. Needs at least two subjects.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 10 and 11."""
    subject = numbered(subjects)
    n = int(subject.max()) + 1
    (estimate,) = statistic(np.ones((1, len(subject))))
    bias = (_over_subjects(statistic, subject, _resamples(n, n_boot, seed)) - estimate).mean()
    left_out = _without_each_subject(statistic, subject) - estimate
    reach = NormalDist().inv_cdf((1 + level) / 2) * left_out.std() * math.sqrt(n - 1)
    return float(estimate - bias - reach), float(estimate - bias + reach)


def logit_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    subjects: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a statistic in 0..1 that a few subjects can change a lot; arguments as bootstrap_interval.

    Leaving out one subject at a time gives the standard error; the interval is normal for the statistic's logit, so it
    stays within 0..1 and reaches farther towards 0.5, where a percentile interval ends too early. For a statistic of
    exactly 0 or 1, whose logit is infinite, it is the bootstrap interval. Needs at least two subjects. Source: Efron
    and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 11 and 12 (transformed scale)."""
    subject = numbered(subjects)
    (estimate,) = statistic(np.ones((1, len(subject))))
    if not 0 < estimate < 1:
        return bootstrap_interval(statistic, subjects, n_boot, seed, level)
    left_out = _without_each_subject(statistic, subject) - estimate
    error = left_out.std() * math.sqrt(len(left_out) - 1) / (estimate * (1 - estimate))
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    centre = math.log(estimate / (1 - estimate))
    return 1 / (1 + math.exp(reach - centre)), 1 / (1 + math.exp(-reach - centre))


def wilson_interval(share: float, n_subjects: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share 0..1 of independent subjects, which has a width even if all of them are alike.

    Source: Wilson, Journal of the American Statistical Association 22, 1927."""
    share, z = min(max(float(share), 0.0), 1.0), NormalDist().inv_cdf((1 + level) / 2)
    centre = share + z**2 / (2 * n_subjects)
    reach = z * math.sqrt(share * (1 - share) / n_subjects + z**2 / (4 * n_subjects**2))
    low, high = (end / (1 + z**2 / n_subjects) for end in (centre - reach, centre + reach))
    return min(max(low, 0.0), share), max(min(high, 1.0), share)  # it holds the share; rounding may miss 0 and 1


def numbered(subjects: Sequence[str | None]) -> np.ndarray:
    """Subjects (n,) as numbers 0, 1, .. in the order of their names; every null is a subject of its own.

    Two images without a known subject need not show the same patient: drawn together as if they did, they would make
    the interval wrong."""
    subjects = np.asarray(subjects, dtype=object)
    has_subject = ~pd.isna(subjects)
    numbers = np.empty(len(subjects), int)
    names, numbers[has_subject] = np.unique(subjects[has_subject].astype(str), return_inverse=True)
    numbers[~has_subject] = len(names) + np.arange((~has_subject).sum())
    return numbers


@lru_cache(maxsize=2)  # all statistics of one set of images share their resamples
def _resamples(n_subjects: int, n_boot: int, seed: int) -> np.ndarray:
    """How often each subject is drawn in each resample, (n_boot, n_subjects); counts are small enough for a byte."""
    generator = np.random.default_rng(seed)
    even = np.full(n_subjects, 1 / n_subjects)
    return np.stack([generator.multinomial(n_subjects, even).astype(np.uint8) for _ in range(n_boot)])


def _without_each_subject(statistic: Callable, subject: np.ndarray) -> np.ndarray:
    """Values (n_subjects,) of the statistic if one subject at a time is left out, for a standard error."""
    return _over_subjects(statistic, subject, 1 - np.eye(int(subject.max()) + 1, dtype=np.uint8))


def _over_subjects(statistic: Callable, subject: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Values (b,) of the statistic for counts (b, n_subjects) of subjects; subject (n,): the number of each image's."""
    at_once = max(1, WEIGHTS_AT_ONCE // len(subject))
    starts = range(0, len(counts), at_once)
    return np.concatenate([statistic(counts[start : start + at_once, subject].astype(float)) for start in starts])


def swap_p_value(
    statistic: Callable[..., np.ndarray],
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    labels: np.ndarray,
    subjects: Sequence[str],
    n_swaps: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the difference between two methods, by swapping their predictions subject by subject.

    statistic: with the signature of scores.macro_f1; a, b: probabilities (n, C) of each replicate of one method and of
    the other; labels (n,); subjects (n,). If the methods are equally good, it does not matter which of them made the
    predictions of a subject. The p-value is the share of random swaps that give at least as large a difference of means
    over replicates, with the observed one counted too, so it is never below 1 / (n_swaps + 1). The i-th replicates are
    swapped with each other; the shorter list is repeated."""
    subject = numbered(subjects)
    pairs = [(a[i % len(a)], b[i % len(b)]) for i in range(math.lcm(len(a), len(b)))]
    both = [(np.concatenate(pair), np.concatenate([labels, labels])) for pair in pairs]

    def difference(kept: np.ndarray) -> np.ndarray:
        """kept (s, n): 1 if an image's predictions stay with their method, 0 if they are swapped."""
        first, second = np.hstack([kept, 1 - kept]), np.hstack([1 - kept, kept])
        return np.mean([statistic(*rows, second) - statistic(*rows, first) for rows in both], axis=0)

    (observed,) = difference(np.ones((1, len(subject))))
    kept = np.random.default_rng(seed).integers(0, 2, size=(n_swaps, int(subject.max()) + 1), dtype=np.uint8)
    as_large = np.abs(_over_subjects(difference, subject, kept)) >= abs(observed) - 1e-12  # sums differ in rounding
    return float((1 + as_large.sum()) / (1 + n_swaps))
