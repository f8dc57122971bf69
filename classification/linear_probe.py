"""The linear probe: discriminant analysis on frozen features, for conditions with two to four photographs each.

A logistic regression could learn how pose, light and age vary only from the few images of each class. Linear
discriminant analysis estimates it from all classes together: it divides by the covariance *within* classes, pooled over
all of them. That covariance is shrunk towards a sphere (Friedman, JASA 1989) by an amount chosen on inner folds. Each
class mean is drawn towards the overall mean as if the class had one more image there, because the mean of one image is
mostly that image's noise.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from classification.backbones import Backbone
from classification.classifiers import FaceClassifier, LinearHead
from curation import protocols
from curation.leak_guard import Guard

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.0)  # 1 is the nearest class mean
TEMPERATURES = tuple(2.0**power for power in range(-4, 13))  # divide the scores: calibrates them, keeps their ranks
INNER_FOLDS = 3
FALLBACK_SHRINKAGE = 0.6  # if no condition of a training side has two groups, so that there are no inner folds


@dataclasses.dataclass
class LinearProbe:
    """softmax((features @ weights.T + biases) / temperature) over the classes it was trained on."""

    classes: np.ndarray  # (c,) class numbers with training images
    weights: np.ndarray  # (c, d)
    biases: np.ndarray  # (c,)
    shrinkage: float
    temperature: float = 1.0

    def scores(self, features: np.ndarray) -> np.ndarray:
        """features (n, d) to (n, c)."""
        return features @ self.weights.T + self.biases

    def probabilities(self, features: np.ndarray, n_classes: int) -> np.ndarray:
        """features (n, d) to (n, n_classes), rows add up to 1; a class without training images gets 0."""
        scores = self.scores(features) / self.temperature
        likelihoods = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = np.zeros((len(features), n_classes))
        probabilities[:, self.classes] = likelihoods / likelihoods.sum(axis=1, keepdims=True)
        return probabilities

    def classifier(self, backbone: Backbone, n_classes: int) -> FaceClassifier:
        """The same function as a network of pixels: the backbone unchanged, with this probe as its head."""
        head = LinearHead(self.weights, self.biases, self.classes, self.temperature, n_classes)
        return FaceClassifier(backbone.network, head, "linear_probe").eval()


def fit_discriminants(features: np.ndarray, labels: np.ndarray, shrinkages: Sequence[float]) -> list[LinearProbe]:
    """Shrunk linear discriminants, one per shrinkage in 0..1 (not 0), all from one decomposition.

    features (n, d), labels (n,). The covariance is (1 - s) W + s tr(W)/d I, with W the covariance within classes."""
    classes, label, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centre = features.mean(axis=0)
    centred = features - centre
    means = np.stack([centred[label == c].mean(axis=0) for c in range(len(classes))])  # (c, d)
    _, scales, axes = np.linalg.svd(centred - means[label], full_matrices=False)  # axes (r, d), r = min(n, d)
    variances = scales**2 / max(len(features) - len(classes), 1)
    mean_variance = variances.sum() / features.shape[1] or centred.var()  # overall variance if no class has two images
    means *= (counts / (counts + 1))[:, None]
    return discriminants(classes, centre, means, Covariance(variances, axes, mean_variance), shrinkages)


@dataclasses.dataclass(frozen=True)
class Covariance:
    """A covariance within classes, by its axes."""

    variances: np.ndarray  # (r,)
    axes: np.ndarray  # (r, d), orthonormal; there is no variance in any other direction
    mean_variance: float  # over all d directions

    def shrunk(self, shrinkage: float) -> np.ndarray:
        """The variances (r,) along the axes, drawn towards their mean by a share in 0..1."""
        return (1 - shrinkage) * self.variances + shrinkage * self.mean_variance


def discriminants(
    classes: np.ndarray, centre: np.ndarray, means: np.ndarray, within: Covariance, shrinkages: Sequence[float]
) -> list[LinearProbe]:
    """Discriminants of class means (c, d) relative to the centre (d,), one per shrinkage of the covariance.

    classes (c,): their numbers."""
    probes = []
    for shrinkage in shrinkages:
        outside = 1 / (shrinkage * within.mean_variance)  # precision in directions without any residual
        inside = 1 / within.shrunk(shrinkage)
        weights = means * outside + ((means @ within.axes.T) * (inside - outside)) @ within.axes  # means @ precision
        biases = -0.5 * (means * weights).sum(axis=1) - weights @ centre
        probes.append(LinearProbe(classes, weights, biases, shrinkage))
    return probes


def fit_linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    rows: np.ndarray,
    guard: Guard,
    synthetic_rows: Sequence[int] | np.ndarray = (),
) -> LinearProbe:
    """A linear probe whose shrinkage and temperature have the least log loss on inner folds of `rows`.

    features (n, d), labels (n,), groups (n,): of the whole dataset. rows (r,): the photographs to learn from, which the
    guard must admit; no others are looked at, and a group never straddles inner folds. synthetic_rows (s,): synthetic
    images to learn from as well; they have no part in choosing shrinkage and temperature, since each was made from
    photographs on both sides of an inner fold. Deterministic. Raises LeakError for a row outside the training side."""
    rows = guard.admit(rows, "class means (prototypes)")
    training_rows = np.concatenate([rows, guard.admit(synthetic_rows, "class means (prototypes)")])
    chosen = choose_regularisation(features[rows], labels[rows], groups[rows])
    shrinkage, temperature = chosen or (FALLBACK_SHRINKAGE, None)
    (probe,) = fit_discriminants(features[training_rows], labels[training_rows], [shrinkage])
    if temperature is None:
        temperature = spread_of_scores(probe, features[rows], labels[rows])
    probe.temperature = temperature
    return probe


def inner_folds(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The inner fold (n,) of each image by the rule of `strict`, for choices inside a training side; -1: it has none.

    labels (n,), groups (n,)."""
    return np.array([-1 if k is None else k for k in protocols.strict_folds(labels.tolist(), groups, INNER_FOLDS)])


def choose_regularisation(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[float, float] | None:
    """Shrinkage and temperature of least log loss on inner folds of these images; None if there can be no such folds.

    features (n, d), labels (n,), groups (n,)."""
    loss = inner_losses(features, labels, groups)
    if loss is None:
        return None
    i, j = np.unravel_index(loss.argmin(), loss.shape)
    return SHRINKAGES[i], TEMPERATURES[j]


def inner_losses(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """Mean log loss in nats on inner folds of these images, (SHRINKAGES, TEMPERATURES); None if there can be no such
    folds. features (n, d), labels (n,), groups (n,)."""
    fold = inner_folds(labels, groups)
    if (fold < 0).all():
        return None
    loss = np.zeros((len(SHRINKAGES), len(TEMPERATURES)))
    for k in sorted(set(fold[fold >= 0].tolist())):
        held_out = fold == k
        train = ~held_out & ~np.isin(groups, groups[held_out])
        for i, probe in enumerate(fit_discriminants(features[train], labels[train], SHRINKAGES)):
            scores = probe.scores(features[held_out])
            loss[i] += losses_by_temperature(scores, np.searchsorted(probe.classes, labels[held_out])).sum(axis=0)
    return loss / (fold >= 0).sum()


def losses_by_temperature(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Log loss in nats of softmax(scores / temperature) at each of TEMPERATURES, (n, TEMPERATURES).

    scores (n, c), finite; own (n,): the column of each image's class. Called some ten thousand times per gallery, for a
    few images each, which is why it does without SciPy's logsumexp."""
    highest = scores.max(axis=1)
    below, own_below = scores - highest[:, None], highest - scores[np.arange(len(scores)), own]
    losses = [np.log(np.exp(below / at).sum(axis=1)) + own_below / at for at in TEMPERATURES]
    return np.stack(losses, axis=1)


def spread_of_scores(probe: LinearProbe, features: np.ndarray, labels: np.ndarray) -> float:
    """The temperature if none can be chosen: that at which scores of wrong classes have a standard deviation of 1.

    With one image per class it is unknown how far images of one condition lie apart, and discriminant scores in
    thousands of correlated dimensions are far too confident."""
    scores = probe.scores(features)
    wrong = scores - scores.mean(axis=1, keepdims=True)
    wrong = wrong[labels[:, None] != probe.classes]
    spread = float(wrong.std()) if wrong.size else 0.0
    return (
        spread if spread > 1e-6 * np.abs(scores).max() else 1.0
    )  # a smaller one is rounding: all wrong scores are equal
