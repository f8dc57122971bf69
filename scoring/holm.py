"""Holm's correction of p-values for the number of comparisons in a family."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> np.ndarray:
    """The p-values of one family of comparisons, corrected so that the chance of *any* false finding stays below 5 % if
    those below 0.05 are called findings, however the comparisons depend on each other.

    p_values (m,) in 0..1; returns (m,) in 0..1, in the same order, none smaller than before; empty for an empty family.
    Raises ValueError for a value that is none, so that no comparison is dropped silently.
    Source: Holm, Scandinavian Journal of Statistics 6, 1979."""
    p_values = np.asarray(p_values, float).reshape(-1)
    if not ((p_values >= 0) & (p_values <= 1)).all():
        wrong = p_values[~((p_values >= 0) & (p_values <= 1))][0]
        raise ValueError(f"{wrong} is no p-value; give all those of the family, in 0..1")
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty_like(p_values)
    steps = np.arange(len(p_values), 0, -1)  # the smallest times m, the next times m - 1, ..
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * steps), 1) if len(p_values) else []
    return corrected
