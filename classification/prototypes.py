"""Heads for few-shot episodes on frozen features: each classifies a query by the class means of a few support images.

    statistics = fit_statistics(features, labels, base_rows)      # of conditions that no episode asks for
    choices = choose_heads(features, labels, groups, base_rows, n_way, k_shot, seed)
    scores = head_scores("discriminant", features, episodes, statistics, choices["discriminant"].setting)

cosine: cosine to the mean of unit-length features. centred_mean: Euclidean distance to the mean of features that were
centred at the base conditions' mean and brought to unit length (Wang, Chao, Weinberger and van der Maaten, SimpleShot,
arXiv 1911.04623). shrunken_centroid: nearest shrunken centroid (Tibshirani, Hastie, Narasimhan and Chu, PNAS 2002),
with the base conditions' standard deviations. discriminant: the project's linear discriminant, with the base
conditions' covariance within classes. No head looks at another query than the one it classifies.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from classification.episodes import Episodes, draw_episodes, hits
from classification.few_shot_names import HEADS
from classification.knowledge_prior import Shares, Teachers, likeness, predict_means
from classification.linear_probe import FALLBACK_SHRINKAGE, SHRINKAGES, Covariance, discriminants
from classification.support_filling import Filling, n_shown, support_means
from harness.errors import ProtocolError
from harness.seeds import derived_seed

THRESHOLDS = (0.0, 0.25, 0.5, 1.0, 2.0)  # of shrunken centroids, in standard errors
SETTINGS: dict[str, tuple[float | None, ...]] = {
    "cosine": (None,),
    "centred_mean": (None,),
    "shrunken_centroid": THRESHOLDS,
    "discriminant": SHRINKAGES,
}
FALLBACKS = {"cosine": None, "centred_mean": None, "shrunken_centroid": 0.0, "discriminant": FALLBACK_SHRINKAGE}
INNER_FOLDS, INNER_EPISODES = 3, 100  # of base conditions, to choose a head's setting
LOG_TEMPERATURES = (-8.0, 9.0)  # natural logarithms of the least and the greatest


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What heads know of features of dimension d from conditions that no episode asks for."""

    centre: np.ndarray  # (d,) mean of the features
    within: Covariance | None  # of features about their class mean; None if no class has two images
    deviations: np.ndarray  # (d,) standard deviations within classes; of all features if no class has two images


@dataclasses.dataclass(frozen=True)
class HeadChoice:
    """How a head is set, chosen on base conditions."""

    setting: float | None  # shrinkage of a discriminant, threshold of a shrunken centroid
    temperature: float  # divides the scores, so that their softmax is calibrated; changes no rank
    loss: float | None = None  # the log loss in nats for which they were chosen; None if nothing could be chosen


def fit_statistics(features: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Statistics:
    """features (n, d), labels (n,): of the whole dataset; rows (b,): the images of the base conditions, perhaps none.

    Without any image the centre is the origin, and nothing is known of variances: a discriminant then is the nearest
    class mean. So it is if each condition has one image; deviations are then those of all features. Raises ValueError
    for features of these rows that are not finite."""
    width = features.shape[1]
    if not np.isfinite(features[rows]).all():
        raise ValueError("features of base conditions must be finite; leave these images out")
    if not len(rows):
        return Statistics(np.zeros(width), None, np.ones(width))
    base = features[rows].astype(np.float64)
    classes, label = np.unique(labels[rows], return_inverse=True)
    centre = base.mean(axis=0)
    means = np.stack([base[label == c].mean(axis=0) for c in range(len(classes))])
    residuals = base - means[label]
    freedom = len(base) - len(classes)
    if freedom < 1 or not residuals.any():
        return Statistics(centre, None, base.std(axis=0))
    _, scales, axes = np.linalg.svd(residuals, full_matrices=False)
    variances = scales**2 / freedom
    within = Covariance(variances, axes, variances.sum() / width)
    return Statistics(centre, within, np.sqrt((residuals**2).sum(axis=0) / freedom))


def head_scores(
    head: str,
    features: np.ndarray,
    episodes: Episodes,
    statistics: Statistics,
    setting: float | None,
    means: np.ndarray | None = None,
    filling: Filling | None = None,
) -> np.ndarray:
    """Scores (e, w, w) of question i of each episode for class j, the higher the better.

    features (n, d) of the whole dataset; setting: one of SETTINGS[head]. means (e, w, d): of the classes, if something
    else than their support gives them (discriminant only). filling: synthetic images beside the support. A feature that
    is not a number makes the scores of its episodes nan, which episodes.hits refuses."""
    if head == "cosine":
        return _cosines(_unit(features), episodes, filling)
    if head == "centred_mean":
        return -_squared_distances(_unit(features - statistics.centre), episodes, filling)
    if head == "shrunken_centroid":
        # The median is added so that features that hardly vary do not decide (Tibshirani et al., section 2).
        scaled = (features - statistics.centre) / (statistics.deviations + np.median(statistics.deviations) + 1e-12)
        shrink = setting / np.sqrt(n_shown(episodes, filling))
        return -_squared_distances(scaled, episodes, filling, shrink[..., None])
    centred = features - statistics.centre
    if means is None:  # shrunk as in linear_probe.fit_discriminants
        n = n_shown(episodes, filling)[..., None]
        means = n / (n + 1) * support_means(centred, episodes, filling)
    return _discriminant_scores(centred[episodes.query], means, statistics.within, setting)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _cosines(unit: np.ndarray, episodes: Episodes, filling: Filling | None) -> np.ndarray:
    prototypes = _unit(support_means(unit, episodes, filling))
    return unit[episodes.query] @ prototypes.transpose(0, 2, 1)


def _squared_distances(
    points: np.ndarray, episodes: Episodes, filling: Filling | None, shrink: np.ndarray | None = None
) -> np.ndarray:
    """(e, w, w) between queries and class means, whose coordinates are brought nearer to 0 by shrink (e, w, 1)."""
    prototypes, queries = support_means(points, episodes, filling), points[episodes.query]
    if shrink is not None:
        prototypes = np.sign(prototypes) * np.maximum(np.abs(prototypes) - shrink, 0.0)
    products = queries @ prototypes.transpose(0, 2, 1)
    return (queries**2).sum(axis=2)[:, :, None] - 2 * products + (prototypes**2).sum(axis=2)[:, None, :]


def _discriminant_scores(
    queries: np.ndarray, means: np.ndarray, within: Covariance | None, shrinkage: float
) -> np.ndarray:
    """Scores (e, w, w) of queries (e, w, d) for classes with these means (e, w, d), both relative to the centre."""
    n_episodes, n_way, width = means.shape
    if within is None:
        within, shrinkage = Covariance(np.zeros(0), np.zeros((0, width)), 1.0), 1.0
    flat = means.reshape(-1, width)
    (probe,) = discriminants(np.arange(len(flat)), np.zeros(width), flat, within, [shrinkage])
    weights, biases = probe.weights.reshape(means.shape), probe.biases.reshape(n_episodes, 1, n_way)
    return queries @ weights.transpose(0, 2, 1) + biases


# --------------------------------------------------------------------------------------------------------- the choices


def choose_heads(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    rows: np.ndarray,
    n_way: int,
    k_shot: int,
    seed: int,
    heads: Sequence[str] = HEADS,
    subjects_apart: bool = True,
) -> dict[str, HeadChoice]:
    """Setting and temperature of least log loss per head, on episodes of base conditions that its statistics lack.

    features (n, d), labels, groups (n,): of the whole dataset; rows (b,): of the base conditions; no others are looked
    at. Base conditions are divided into three parts, each of which is asked for with statistics of the other two. If a
    part has too few conditions for an episode, its episodes have fewer (at least two); if there are none at all, the
    setting is FALLBACKS's and the temperature that of scores of unit spread. Deterministic for a seed."""
    classes = np.random.default_rng(derived_seed(seed, 3)).permutation(np.unique(labels[rows]))
    parts = []
    for k in range(INNER_FOLDS):
        asked = classes[k::INNER_FOLDS]
        inner = rows[np.isin(labels[rows], asked)]
        rest = rows[~np.isin(labels[rows], asked) & ~np.isin(groups[rows], groups[inner])]
        generator = np.random.default_rng(derived_seed(seed, 3, k))
        for way in range(min(n_way, len(asked)), 1, -1):
            try:
                drawn = (inner, labels, groups, way, k_shot, INNER_EPISODES, generator, subjects_apart)
                parts.append((draw_episodes(*drawn), fit_statistics(features, labels, rest)))
                break
            except ProtocolError:
                continue
    choices = {}
    for head in heads:
        tried = []
        for setting in SETTINGS[head] if parts else ():
            scores = [head_scores(head, features, *part, setting) for part in parts]
            temperature, loss = best_temperature(scores)
            tried.append(HeadChoice(setting, temperature, loss))
        choices[head] = min(tried, key=lambda choice: choice.loss) if tried else HeadChoice(FALLBACKS[head], 0.0)
    return choices


def best_temperature(scores: Sequence[np.ndarray]) -> tuple[float, float]:
    """The temperature of least mean log loss, and that loss in nats; scores: several of shape (e, w, w)."""

    def loss(log_temperature: float) -> float:
        own = [
            np.diagonal(log_softmax(part / np.exp(log_temperature), axis=2), axis1=1, axis2=2).ravel()
            for part in scores
        ]
        return -float(np.concatenate(own).mean())

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax (e, w, w) of scores over the classes of an episode; temperature 0: scores are given unit spread."""
    spread = float((scores - scores.mean(axis=2, keepdims=True)).std())
    return np.exp(log_softmax(scores / (temperature or spread or 1.0), axis=2))


def accuracy_of(scores: np.ndarray) -> float:
    """Mean of episodes.hits."""
    return float(hits(scores).mean())


# ------------------------------------------------------------------------------------------------------- with knowledge


def informed_means(
    features: np.ndarray,
    labels: np.ndarray,
    base: Teachers,
    episodes: Episodes,
    centre: np.ndarray,
    profiles: np.ndarray,
    shares: Shares,
    filling: Filling | None = None,
) -> np.ndarray:
    """Class means (e, w, d), relative to the centre, drawn towards what the conditions' annotated terms predict.

    base: images of the base conditions, which teach what terms look like; the support images, and what fills them,
    teach what their own class looks like; nothing else is used. profiles (C, T): see knowledge_prior.likeness."""
    means = np.empty((*episodes.classes.shape, features.shape[1]))
    for e, (classes, support) in enumerate(zip(episodes.classes, episodes.support, strict=True)):
        shown, weights = support.reshape(-1), np.ones(support.size)
        if filling is not None:
            there = filling.weights[e] > 0
            shown, weights = np.append(shown, filling.rows[e][there]), np.append(weights, filling.weights[e][there])
        of_shown = (features[shown], profiles[labels[shown]], labels[shown], np.zeros(len(shown), int))
        own = Teachers(*of_shown, noises=1 / weights)
        teachers = base.joined(own)
        prediction = predict_means(teachers, likeness(teachers, profiles), shares)
        means[e] = prediction.of_classes[classes] @ (teachers.features - centre)
    return means
