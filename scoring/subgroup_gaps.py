"""Whether a classifier is better for some people than for others, with the subject as the unit."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scoring.holm import holm
from scoring.intervals import numbered, wilson_interval

N_PERMUTATIONS = 10_000
LEAST_SUBJECTS = 2  # of a subgroup: a single one tells nothing about others


def subgroup_gaps(hits: np.ndarray, subgroups: pd.DataFrame, subjects: Sequence[str | None]) -> dict:
    """For each column, for example sex: is the score the same in all its subgroups?

    hits (n,): the score of each image, for example top-1 averaged over replicates, 0..1; subgroups (n, columns): null
    if not known; subjects (n,). Returns column -> `p_value` of gap_p_value, `p_holm` (corrected over the columns),
    `n_subjects`, and `subgroups`: value -> `n`, `n_subjects`, `difference` (its mean minus that of all others), with
    `low` and `high`, its 95 % interval (difference_to_others). Images whose value is not known take no part. A
    subgroup of a single subject is counted, but has no difference (null) and no part in the test; one of two subjects
    has both. A column with fewer than two subgroups of two subjects has no p-value (null) and is not in the family."""
    gaps = {}
    for column in subgroups:
        known = subgroups[column].notna().to_numpy()
        value, subject = subgroups[column].to_numpy()[known].astype(str), numbered(subjects)[known]
        gaps[column] = _gaps(np.asarray(hits, float)[known], value, subject)
    tested = [column for column in gaps if gaps[column]["p_value"] is not None]
    corrected = dict(zip(tested, holm([gaps[column]["p_value"] for column in tested]).tolist(), strict=True))
    return {column: gap | {"p_holm": corrected.get(column)} for column, gap in gaps.items()}


def _gaps(hits: np.ndarray, value: np.ndarray, subject: np.ndarray) -> dict:
    """One column of subgroup_gaps, from images whose value is known."""
    counts = {name: len(np.unique(subject[value == name])) for name in np.unique(value)}
    compared = np.isin(value, [name for name, n_subjects in counts.items() if n_subjects >= LEAST_SUBJECTS])
    enough = len(np.unique(value[compared])) > 1
    described = {}
    for name, n_subjects in counts.items():
        own = value == name
        described[str(name)] = {"n": int(own.sum()), "n_subjects": n_subjects} | (
            difference_to_others(hits[compared], own[compared], subject[compared])
            if enough and n_subjects >= LEAST_SUBJECTS
            else {"difference": None, "low": None, "high": None}
        )
    p_value = gap_p_value(hits[compared], value[compared], subject[compared]) if enough else None
    return {"p_value": p_value, "n_subjects": len(np.unique(subject)), "subgroups": described}


def difference_to_others(hits: np.ndarray, own: np.ndarray, subjects: Sequence[str | None]) -> dict[str, float]:
    """`difference` of the mean within a subgroup and the mean outside, with `low` and `high`, its 95 % interval.

    hits (n,) in 0..1; own (n,) bool, of which some are true and some not; subjects (n,). A bootstrap would be far too
    narrow for ten people of whom none is right, so Wilson's intervals of both sides are combined, with the number of
    subjects (not of images) as the size of each, which makes it rather wide. Source: Newcombe, Statistics in Medicine
    17, 1998, pages 873-890, method 10."""
    subject = numbered(subjects)
    inside, outside = (float(hits[side].mean()) for side in (own, ~own))
    (low_in, high_in), (low_out, high_out) = (
        wilson_interval(hits[side].mean(), len(np.unique(subject[side]))) for side in (own, ~own)
    )
    difference = inside - outside
    low = difference - math.hypot(inside - low_in, high_out - outside)
    return {"difference": difference, "low": low, "high": difference + math.hypot(high_in - inside, outside - low_out)}


def gap_p_value(
    hits: np.ndarray,
    values: Sequence[str],
    subjects: Sequence[str | None],
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> float:
    """P-value of the differences between all subgroups together, by dealing the subgroups to the subjects anew.

    hits (n,); values (n,): the subgroup of each image; subjects (n,). If a subgroup makes no difference, it does not
    matter which subjects are in it. The statistic is the variance between subgroups, sum of n_g (mean_g - mean)^2, in
    which a subgroup of two people counts for little. The p-value is the share of dealings with at least as large a
    variance, the observed one counted too. A subject with images in several subgroups (photographed at several ages)
    counts as one unit in each. 1 if all hits are equal. Raises ValueError for hits that are not finite."""
    hits, values = np.asarray(hits, float), np.asarray(values).astype(str)
    if not np.isfinite(hits).all():
        raise ValueError(f"the score of image {int((~np.isfinite(hits)).argmax())} is not finite; leave it out")
    units = pd.MultiIndex.from_arrays([numbered(subjects), values])
    unit, found = pd.factorize(units)
    names, group = np.unique(found.get_level_values(1), return_inverse=True)  # of each unit
    sums, sizes = np.bincount(unit, hits - hits.mean()), np.bincount(unit).astype(float)

    def between(group: np.ndarray) -> float:
        n = np.bincount(group, sizes, len(names))
        return (np.bincount(group, sums, len(names)) ** 2 / n).sum()

    rng, observed = np.random.default_rng(seed), between(group)
    as_large = sum(between(rng.permutation(group)) >= observed - 1e-12 for _ in range(n_permutations))
    return float((1 + as_large) / (1 + n_permutations))
