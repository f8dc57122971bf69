"""Whether a similarity of reports tells pairs of one condition from pairs of two conditions.

A mean similarity alone has no zero point, since any two reports written to one template are alike. So the same is
computed for matched pairs (a real and a synthetic report of one condition) and for mismatched pairs (of two
conditions), all of them, from matrices and never pair by pair. Intervals are by bootstrap over conditions: reports of
one condition are not independent."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from scoring.intervals import bootstrap_interval
from scoring.metrics import weighted_topk

N_BOOT = 1000
FEWEST_CONDITIONS = 10  # with fewer, an interval over conditions means nothing and is null
TOP_K = (1, 5, 10)
AUC_BINS = 128  # of the resampled AUC; on 5,000 matched pairs it differs from the exact one by less than 0.001
RESAMPLES_AT_ONCE = 200


@dataclass(frozen=True)
class Interval:
    """95 % bootstrap interval over conditions of a statistic of weights."""

    seed: int

    def of(self, statistic: Callable[[np.ndarray], np.ndarray], conditions: np.ndarray) -> dict[str, float | None]:
        """low and high, null with fewer than FEWEST_CONDITIONS conditions; arguments as in bootstrap_interval.

        conditions (n,): numbers; each is drawn as a whole."""
        if len(np.unique(conditions)) < FEWEST_CONDITIONS:
            return {"low": None, "high": None}
        names = np.char.mod("%06d", conditions)  # as text they sort as the numbers do
        low, high = bootstrap_interval(statistic, names, n_boot=N_BOOT, seed=self.seed)
        return {"low": low, "high": high}


@dataclass(frozen=True)
class Blocks:
    """Pairs of n real and m synthetic reports, by the conditions of both; C conditions, each with pairs of its own.

    Pairs without a similarity (nan) count nowhere."""

    values: np.ndarray  # (n, m)
    is_pair: np.ndarray  # (n, m) bool: whether the two are a pair at all
    real: np.ndarray  # (n,) numbers 0..C-1 of conditions
    synthetic: np.ndarray  # (m,)
    sums: np.ndarray  # (C, C) sums of similarities, real by synthetic condition
    counts: np.ndarray  # (C, C)

    @classmethod
    def of(
        cls, values: np.ndarray, real: np.ndarray, synthetic: np.ndarray, no_pair: np.ndarray | None = None
    ) -> "Blocks":
        """Restricted to conditions with a matched pair, which are numbered anew; -1 as a condition means none."""
        is_pair = np.ones(values.shape, bool) if no_pair is None else ~no_pair
        values = np.where(is_pair, values, np.nan)
        n_conditions = max(real.max(initial=-1), synthetic.max(initial=-1)) + 1
        _, counts = block_sums(values, real, synthetic, n_conditions)
        number = np.full(n_conditions + 1, -1)  # the last for -1
        (kept,) = np.nonzero(np.diag(counts) > 0)
        number[kept] = np.arange(len(kept))
        rows, columns = number[real] >= 0, number[synthetic] >= 0
        values, is_pair = (each[rows][:, columns] for each in (values, is_pair))
        real, synthetic = number[real[rows]], number[synthetic[columns]]
        return cls(values, is_pair, real, synthetic, *block_sums(values, real, synthetic, len(kept)))


def block_sums(
    values: np.ndarray, real: np.ndarray, synthetic: np.ndarray, n_conditions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers (C, C) of the finite similarities of each pair of conditions."""
    members = [(labels[:, None] == np.arange(n_conditions)).astype(float) for labels in (real, synthetic)]
    finite = np.isfinite(values)
    return (
        members[0].T @ np.where(finite, values, 0).astype(float) @ members[1],
        members[0].T @ finite.astype(float) @ members[1],
    )


def agreement(
    values: np.ndarray,
    real: np.ndarray,
    synthetic: np.ndarray,
    interval: Interval,
    no_pair: np.ndarray | None = None,
) -> dict:
    """Matched and mismatched similarity, the share of what chance leaves, and how well the two can be told apart.

    values (n, m): similarities of real and synthetic reports, at most 1, nan if undefined; real (n,), synthetic (m,):
    numbers of their conditions, -1 for none; no_pair (n, m) bool: two reports that are not compared, such as those of
    one image, and so are not undefined, either. Returns
    `matched`, `mismatched`: mean, sd (over pairs, ddof=1), n_pairs, n_undefined, low, high;
    `corrected`: (matched - mismatched) / (1 - mismatched), as of Cohen's kappa: 0 is no better than pairs of two
    conditions, 1 is the same report;
    `auc`: the chance that a matched pair is more similar than a mismatched one, ties counted half; chance is 0.5.
    Each has mean, low and high; what cannot be computed is null."""
    blocks = Blocks.of(values, real, synthetic, no_pair)
    own = np.diag(blocks.counts) > 0
    if not own.any():
        return {"n_conditions": 0}
    of_one = blocks.real[:, None] == blocks.synthetic
    conditions = np.arange(len(own))

    def means(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean similarity (b,) of matched and of mismatched pairs under weights (b, C) of the conditions."""
        matched = weights @ np.diag(blocks.sums) / (weights @ np.diag(blocks.counts))
        off = 1 - np.eye(len(own))
        mismatched_sum = ((weights @ (blocks.sums * off)) * weights).sum(axis=1)
        mismatched_count = ((weights @ (blocks.counts * off)) * weights).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return matched, mismatched_sum / mismatched_count

    def corrected(weights: np.ndarray) -> np.ndarray:
        matched, mismatched = means(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (matched - mismatched) / (1 - mismatched)

    found: dict = {"n_conditions": len(own)}
    for place, (name, wanted) in enumerate((("matched", of_one), ("mismatched", ~of_one))):
        finite = blocks.values[wanted & np.isfinite(blocks.values)]
        sd = float(finite.std(ddof=1, dtype=float)) if len(finite) > 1 else None
        found[name] = {
            "mean": float(finite.mean(dtype=float)) if len(finite) else None,
            "sd": sd,
            "n_pairs": len(finite),
            "n_undefined": int((wanted & blocks.is_pair).sum()) - len(finite),
            **interval.of(lambda weights, place=place: means(weights)[place], conditions),
        }
    found["corrected"] = {"mean": _number(corrected(np.ones((1, len(own))))[0]), **interval.of(corrected, conditions)}
    exact = auc(blocks.values[of_one], blocks.values[~of_one])
    found["auc"] = {"mean": _number(exact), "low": None, "high": None}
    if np.isfinite(exact) and len(own) >= FEWEST_CONDITIONS:
        resampled = _resampled_auc(blocks, of_one)
        shift = exact - resampled(np.ones((1, len(own))))[0]
        ends = interval.of(resampled, conditions)
        found["auc"] |= {end: min(1.0, max(0.0, value + shift)) for end, value in ends.items()}
    return found


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def auc(matched: np.ndarray, mismatched: np.ndarray) -> float:
    """The chance that one of `matched` exceeds one of `mismatched`, ties counted half; nan is left out."""
    matched, mismatched = matched[np.isfinite(matched)], mismatched[np.isfinite(mismatched)]
    if not len(matched) or not len(mismatched):
        return np.nan
    ranks = rankdata(np.concatenate([matched, mismatched]))[: len(matched)]
    return float((ranks.mean() - (len(matched) + 1) / 2) / len(mismatched))


def _resampled_auc(blocks: Blocks, of_one: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The AUC (b,) under weights (b, C) of the conditions, from histograms of every pair of conditions.

    A mismatched pair weighs as much as the product of its two conditions' weights. of_one (n, m): the matched pairs."""
    finite = np.isfinite(blocks.values)
    edges = np.unique(np.quantile(blocks.values[of_one & finite], np.linspace(0, 1, AUC_BINS + 1)))
    n_conditions, n_bins = len(blocks.counts), len(edges) + 1
    place = np.searchsorted(edges, blocks.values, side="right")
    pair = blocks.real[:, None] * n_conditions + blocks.synthetic
    histograms = np.bincount((pair * n_bins + place)[finite], minlength=n_conditions**2 * n_bins)
    histograms = histograms.reshape(n_conditions, n_conditions, n_bins).astype(np.float32)
    own = np.arange(n_conditions)
    matched = histograms[own, own].copy()  # (C, bins)
    histograms[own, own] = 0

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = []
        for start in range(0, len(weights), RESAMPLES_AT_ONCE):
            part = weights[start : start + RESAMPLES_AT_ONCE].astype(np.float32)
            by_synthetic = (part @ histograms.reshape(n_conditions, -1)).reshape(len(part), n_conditions, n_bins)
            wrong = np.einsum("bc,bck->bk", part, by_synthetic, dtype=float)
            right = (part @ matched).astype(float)
            below = np.cumsum(wrong, axis=1) - wrong / 2
            with np.errstate(invalid="ignore", divide="ignore"):
                values.append((right * below).sum(axis=1) / (right.sum(axis=1) * wrong.sum(axis=1)))
        return np.concatenate(values)

    return statistic


# ---- from a synthetic image's report to a condition


def condition_means(values: np.ndarray, real: np.ndarray, n_conditions: int) -> np.ndarray:
    """Mean similarity (m, C) of each synthetic report to the real reports of each condition; nan: none is defined.

    values (n, m), real (n,) as in `agreement`."""
    members = (real[:, None] == np.arange(n_conditions)).astype(float)
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.where(finite, values, 0).T.astype(float) @ members) / (finite.T.astype(float) @ members)


def retrieval(values: np.ndarray, real: np.ndarray, synthetic: np.ndarray, interval: Interval) -> dict:
    """How often a synthetic report's own condition is among the k that its text is most similar to.

    Arguments as in `agreement`. Conditions are ranked by the mean similarity to their real reports; ties count in
    expectation. Reports without any similarity count as ties of all. A report that has none to its own condition, but
    has to others, is left out: if its image is the only one of the condition, it could never be right. Returns
    n_reports, n_without_own (those left out), n_conditions, and top1, top5, top10 (as far as there are more
    conditions), each with mean, low, high and chance."""
    candidates = np.unique(real[real >= 0])
    known = np.isin(synthetic, candidates)
    scores = condition_means(values[:, known], real, real.max(initial=-1) + 1)[:, candidates]
    labels = np.searchsorted(candidates, synthetic[known])
    defined = ~np.isnan(scores)
    judged = defined[np.arange(len(labels)), labels] | ~defined.any(axis=1)
    counts = {"n_reports": int(judged.sum()), "n_without_own": int((~judged).sum()), "n_conditions": len(candidates)}
    return counts | ranking(scores[judged], labels[judged], interval)


def ranking(scores: np.ndarray, labels: np.ndarray, interval: Interval) -> dict:
    """top1, top5, top10 of scores (n, C) against labels (n,): mean, low, high and chance; nan is the lowest score.

    chance: of a guess among the conditions with a score, or among all where none has one."""
    if not len(labels) or not scores.size:
        return {}
    n_scored = (~np.isnan(scores)).sum(axis=1)
    n_ranked = np.where(n_scored > 0, n_scored, scores.shape[1])
    scores = np.where(np.isnan(scores), -np.inf, scores)
    found = {}
    for k in TOP_K:
        if k >= scores.shape[1]:
            continue

        def statistic(weights: np.ndarray | None, k: int = k) -> np.ndarray:
            return weighted_topk(np.nan_to_num(scores, nan=-2.0), labels, weights, k=k)  # below every similarity

        found[f"top{k}"] = {
            "mean": float(statistic(None)[0]),
            **interval.of(statistic, labels),
            "chance": fmean(np.minimum(k / n_ranked, 1).tolist()),
        }
    return found


def mean_of(values: np.ndarray, conditions: np.ndarray, interval: Interval) -> dict:
    """Mean of values (n,), nan left out, with its interval over conditions (n,), and how many values it is of."""
    known = np.isfinite(values)
    values, conditions = values[known], conditions[known]
    if not len(values):
        return {"mean": None, "low": None, "high": None, "n": 0}
    ends = interval.of(lambda weights: weights @ values / weights.sum(axis=1), conditions)
    return {"mean": float(values.mean()), **ends, "n": len(values)}


def own_and_others(values: np.ndarray, labels: np.ndarray, interval: Interval) -> dict:
    """Means of values (n, C) of n reports against C conditions: of each report's own one, and of all the others.

    labels (n,) in 0..C-1, or -1 for reports that are left out. Returns `matched` and `mismatched`, as mean_of."""
    values, labels = values[labels >= 0], labels[labels >= 0]
    own = labels[:, None] == np.arange(values.shape[1])
    wrong = np.where(own | np.isnan(values), np.nan, values)
    counted = np.isfinite(wrong)
    with np.errstate(invalid="ignore", divide="ignore"):
        others = np.where(counted, wrong, 0).sum(axis=1) / counted.sum(axis=1)
    return {
        "matched": mean_of(values[np.arange(len(values)), labels], labels, interval),
        "mismatched": mean_of(others, labels, interval),
    }
