"""Retrieval in a gallery: each held-out photograph (probe) ranks the conditions of a gallery of known photographs.

nearest_image is the way of GestaltMatcher (Hsieh et al., Nature Genetics 2022; with several networks and views
GestaltMatcher-Arc, WACV 2023), in own words and code: cosine distances, averaged over networks and views, to each
gallery image; a condition ranks by its nearest image. discriminant is this project's linear discriminant, fitted on the
gallery. unseen_discriminant is the same, but what it knows of variation comes from other conditions than the probe's.
whitened_cosine is the cosine to the mean of a condition's images once the covariance within conditions is a sphere. A
mean of few photographs is mostly noise and lies far out, for which a discriminant puts its condition behind all others;
a cosine does not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from classification.episodes import accuracy_interval
from classification.linear_probe import (
    FALLBACK_SHRINKAGE,
    Covariance,
    LinearProbe,
    choose_regularisation,
    discriminants,
    spread_of_scores,
)
from classification.prototypes import fit_statistics
from scoring.metrics import equal_but_for_rounding, share_in_top

TOP_K = (1, 5, 10, 30)
UNSEEN_PARTS, UNSEEN_SEED = 5, 20263  # groups of conditions, each left out in turn


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest gallery images of p probes, best first."""

    similarity: np.ndarray  # (p, k) inner products
    row: np.ndarray  # (p, k) numbers of gallery images


def search(gallery: np.ndarray, probes: np.ndarray, k: int) -> Neighbours:
    """The k images of greatest inner product among a gallery (g, d), for each of probes (p, d); exact, by faiss.

    float32; k is at most g. Raises ValueError for a value that is not finite, which faiss would rank anywhere."""
    import faiss  # here, so that its threads do not start before they are needed

    gallery, probes = (np.ascontiguousarray(part, np.float32) for part in (gallery, probes))
    for name, part in (("gallery", gallery), ("probes", probes)):
        if not np.isfinite(part.sum(dtype=np.float64)):
            raise ValueError(f"the {name} have embeddings that are not finite; leave these images out")
    similarity, row = faiss.knn(probes, gallery, min(k, len(gallery)), metric=faiss.METRIC_INNER_PRODUCT)
    return Neighbours(similarity, row)


def class_similarities(
    gallery: np.ndarray, gallery_labels: np.ndarray, probes: np.ndarray, n_classes: int
) -> np.ndarray:
    """Similarity (p, n_classes) float32 of each probe to the nearest gallery image of each class; -inf for a class that
    the gallery lacks, and for no other: the last condition has its true rank, too."""
    nearest = np.full((len(probes), n_classes), -np.inf, np.float32)
    for label in np.unique(gallery_labels):
        nearest[:, label] = search(gallery[gallery_labels == label], probes, 1).similarity[:, 0]
    return nearest


def ranks(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each probe's own class, 1 for the best, and how many classes share it, its own included: (p,) each.

    scores (p, C), labels (p,). Classes whose scores are equal but for rounding share the mean of their ranks. A class
    of score -inf, which the gallery lacks, ranks last: with C + 1. Raises ValueError for nan."""
    if np.isnan(scores).any():
        raise ValueError("a score is not a number; features must be finite")
    own = scores[np.arange(len(scores)), labels][:, None]
    equal = equal_but_for_rounding(scores, own)
    ahead, tied = ((scores > own) & ~equal).sum(axis=1), equal.sum(axis=1)
    is_there = np.isfinite(own[:, 0])
    return np.where(is_there, ahead + (tied + 1) / 2, scores.shape[1] + 1.0), np.where(is_there, tied, 1)


def whitened_cosines(
    features: np.ndarray, labels: np.ndarray, gallery: np.ndarray, probes: np.ndarray, shrinkage: float, n_classes: int
) -> np.ndarray:
    """Cosines (p, n_classes) between probes and the class means of a gallery, in coordinates in which images of one
    class scatter alike in all directions; -inf for a class that the gallery lacks.

    features (n, d), labels (n,); gallery (g,), probes (p,): rows. The covariance within classes is that of the gallery,
    shrunk towards a sphere by shrinkage in 0..1 (not 0); features are relative to the gallery's mean. If no class has
    two images, the covariance is a sphere. A probe at the mean has cosine 0 to everything.
    Sources: Hatch, Kajarekar and Stolcke, Interspeech 2006 (within-class covariance normalisation); Dehak et al., IEEE
    Transactions on Audio, Speech and Language Processing 19, 2011 (cosine scoring)."""
    statistics = fit_statistics(features, labels, gallery)
    classes, label = np.unique(labels[gallery], return_inverse=True)
    centred = features - statistics.centre
    means = np.stack([centred[gallery[label == c]].mean(axis=0) for c in range(len(classes))])
    within = statistics.within
    if within is None:
        within, shrinkage = Covariance(np.zeros(0), np.zeros((0, features.shape[1])), 1.0), 1.0
    points = np.concatenate([means, centred[probes]])
    (scaled,) = discriminants(np.arange(len(points)), statistics.centre, points, within, [shrinkage])
    norms = np.sqrt(np.maximum((points * scaled.weights).sum(axis=1), 1e-24))
    products = centred[probes] @ scaled.weights[: len(means)].T
    cosines = np.full((len(probes), n_classes), -np.inf)
    cosines[:, classes] = products / norms[len(means) :, None] / norms[: len(means)]
    return cosines


def unseen_scores(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    gallery: np.ndarray,
    probes: np.ndarray,
    n_classes: int,
    synthetic_rows: Sequence[int] | np.ndarray = (),
) -> np.ndarray:
    """Scores (p, n_classes) of discriminants that learnt how faces vary without the probe's own condition.

    features (n, d), labels, groups (n,); gallery (g,), probes (p,): rows. The gallery's conditions are divided into
    parts. For the probes of one part, covariance and shrinkage come from the gallery images of all other parts; the
    means of all classes come from the gallery. synthetic_rows (s,): those of the gallery that are no photographs, and
    have no part in the choice of the shrinkage, as in linear_probe.fit_linear_probe. -inf for a class that the gallery
    lacks."""
    scores = np.full((len(probes), n_classes), -np.inf)
    classes = np.random.default_rng(UNSEEN_SEED).permutation(n_classes)
    for k in range(UNSEEN_PARTS):
        asked = np.isin(labels[probes], classes[k::UNSEEN_PARTS])
        seen = gallery[~np.isin(labels[gallery], classes[k::UNSEEN_PARTS])]
        if asked.any():
            photographs = seen[~np.isin(seen, synthetic_rows)]
            probe = _discriminant_of(features, labels, groups, gallery, seen, photographs)
            scores[np.ix_(asked, probe.classes)] = probe.scores(features[probes[asked]])
    return scores


def _discriminant_of(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    gallery: np.ndarray,
    seen: np.ndarray,
    photographs: np.ndarray,
) -> LinearProbe:
    """Class means of the gallery's rows, covariance of the seen rows, shrinkage of the photographs among these."""
    statistics = fit_statistics(features, labels, seen)
    chosen = None
    if len(photographs):
        chosen = choose_regularisation(features[photographs], labels[photographs], groups[photographs])
    shrinkage, temperature = chosen or (FALLBACK_SHRINKAGE, None)
    classes, label, counts = np.unique(labels[gallery], return_inverse=True, return_counts=True)
    centred = features[gallery] - statistics.centre
    means = np.stack([centred[label == c].mean(axis=0) for c in range(len(classes))])
    means *= (counts / (counts + 1))[:, None]  # as in linear_probe.fit_discriminants
    within = statistics.within
    if within is None:
        within, shrinkage = Covariance(np.zeros(0), np.zeros((0, features.shape[1])), 1.0), 1.0
    (probe,) = discriminants(classes, statistics.centre, means, within, [shrinkage])
    probe.temperature = temperature or spread_of_scores(probe, features[gallery], labels[gallery])
    return probe


# ------------------------------------------------------------------------------------------------------------- scores


def frequent_conditions(labels: np.ndarray, groups: np.ndarray, frequent_from: int) -> np.ndarray:
    """Class numbers with at least so many groups (patients); the others are rare. labels, groups (n,)."""
    pairs = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()
    count = pairs["label"].value_counts()
    return np.sort(count.index[count >= frequent_from].to_numpy())


def summary(table: pd.DataFrame) -> dict:
    """From one row per probe (`rank` and `tied`, see ranks; `label`, `subject`; `n_ranked`, the number of conditions in
    the fold's gallery): n, n_conditions of the probes, n_ranked of the largest gallery, chance and, per top-k, mean,
    low and high.

    Fractions 0..1, ties counted in expectation as in all other scores (metrics.share_in_top); intervals are for new
    conditions and subjects (episodes.accuracy_interval); null without probes, and for a k that holds every condition of
    the gallery, which tells nothing."""
    n_ranked = table["n_ranked"].to_numpy()
    result = {"n": len(table), "n_conditions": int(table["label"].nunique())}
    result |= {"n_ranked": int(n_ranked.max()), "chance": float((1 / n_ranked).mean())} if len(table) else {}
    tied = table["tied"].to_numpy()
    ahead = table["rank"].to_numpy() - (tied + 1) / 2
    for k in TOP_K:
        result[f"top{k}"] = {"mean": None, "low": None, "high": None}
        if len(table) and k < result["n_ranked"]:
            right = share_in_top(ahead, tied, k)
            low, high = accuracy_interval(right, table["label"].to_numpy(), table["subject"].tolist())
            result[f"top{k}"] = {"mean": float(right.mean()), "low": low, "high": high}
    return result


def summaries(rankings: pd.DataFrame) -> dict:
    """method -> gallery -> probes (all, frequent, rare) -> summary; rankings: one row per probe, gallery and method,
    with `method`, `gallery`, `is_frequent`, and the columns of `summary`."""
    result: dict = {}
    for (method, gallery), table in rankings.groupby(["method", "gallery"], sort=False):
        sides = {"all": table, "frequent": table[table["is_frequent"]], "rare": table[~table["is_frequent"]]}
        result.setdefault(method, {})[gallery] = {
            name: summary(side) for name, side in sides.items() if gallery == "joined" or name == gallery
        }
    return result
