"""The linear probe: a classifier on frozen features, for conditions with two to four photographs each.

The head is linear discriminant analysis. With so few photographs of each of a hundred conditions a logistic regression
has nothing to learn the directions of pose, light and age from but the few images of each class; the covariance
*within* classes pools them over all classes, and is what discriminant analysis divides by. It is shrunk towards a
sphere (Friedman, JASA 1989), by an amount chosen on inner folds, and each class mean is drawn towards the overall mean
as if one more image of the class lay there: a mean of one image is mostly that image's noise.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from classification.backbones import Backbone
from classification.classifiers import FaceClassifier, LinearHead
from curation import protocols
from curation.guard import Guard

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.0)  # 1 is the nearest class mean
TEMPERATURES = tuple(2.0**power for power in range(-4, 13))  # scores are divided by it: calibration, ranks stay
INNER_FOLDS = 3
FALLBACK_SHRINKAGE = 0.6  # where no condition of a training side has two groups, so that nothing can be chosen


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
        """The same function of pixels, as a network: the backbone as it is, and this probe as its head."""
        head = LinearHead(self.weights, self.biases, self.classes, self.temperature, n_classes)
        return FaceClassifier(backbone.network, head, "linear_probe").eval()


def fit_discriminants(features: np.ndarray, labels: np.ndarray, shrinkages: Sequence[float]) -> list[LinearProbe]:
    """Shrunk linear discriminants, one for each shrinkage in 0..1 (not 0), all from one decomposition.

    features (n, d), labels (n,). Covariance (1 - s) W + s tr(W)/d I with W the covariance within classes."""
    classes, label, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centre = features.mean(axis=0)
    centred = features - centre
    means = np.stack([centred[label == c].mean(axis=0) for c in range(len(classes))])  # (c, d)
    _, scales, axes = np.linalg.svd(centred - means[label], full_matrices=False)  # axes (r, d), r = min(n, d)
    variances = scales**2 / max(len(features) - len(classes), 1)
    mean_variance = variances.sum() / features.shape[1] or centred.var()  # no class with two images: overall variance
    means *= (counts / (counts + 1))[:, None]
    probes = []
    for shrinkage in shrinkages:
        outside = 1 / (shrinkage * mean_variance)  # precision where no residual points
        inside = 1 / ((1 - shrinkage) * variances + shrinkage * mean_variance)
        weights = means * outside + ((means @ axes.T) * (inside - outside)) @ axes  # means @ precision
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

    features (n, d), labels (n,), groups (n,): of the whole dataset; rows (r,): those to learn from, which the guard
    must admit, so nothing else is looked at; a group never straddles inner folds. synthetic_rows (s,): synthetic images
    to learn from besides, which choose nothing: each was made from photographs on both sides of an inner fold. Raises
    LeakError for a row that is not of the training side. Deterministic."""
    rows = guard.admit(rows, "class means (prototypes)")
    learnt = np.concatenate([rows, guard.admit(synthetic_rows, "class means (prototypes)")])
    chosen = choose_regularisation(features[rows], labels[rows], groups[rows])
    shrinkage, temperature = chosen or (FALLBACK_SHRINKAGE, None)
    (probe,) = fit_discriminants(features[learnt], labels[learnt], [shrinkage])
    if temperature is None:
        temperature = spread_of_scores(probe, features[rows], labels[rows])
    probe.temperature = temperature
    return probe


def choose_regularisation(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[float, float] | None:
    """Shrinkage and temperature of least log loss on inner folds of the images given, None where there are none."""
    fold = np.array([-1 if k is None else k for k in protocols.strict_folds(labels.tolist(), groups, INNER_FOLDS)])
    if (fold < 0).all():
        return None
    loss = np.zeros((len(SHRINKAGES), len(TEMPERATURES)))
    for k in sorted(set(fold[fold >= 0].tolist())):
        held_out = fold == k
        train = ~held_out & ~np.isin(groups, groups[held_out])
        for i, probe in enumerate(fit_discriminants(features[train], labels[train], SHRINKAGES)):
            scores = probe.scores(features[held_out])
            own = scores[np.arange(len(scores)), np.searchsorted(probe.classes, labels[held_out])]
            for j, temperature in enumerate(TEMPERATURES):
                loss[i, j] += (logsumexp(scores / temperature, axis=1) - own / temperature).sum()
    i, j = np.unravel_index(loss.argmin(), loss.shape)
    return SHRINKAGES[i], TEMPERATURES[j]


def spread_of_scores(probe: LinearProbe, features: np.ndarray, labels: np.ndarray) -> float:
    """The temperature where none can be chosen: scores of the wrong classes then have a standard deviation of 1.

    With one image a class nothing says how far images of one condition lie apart, and discriminant scores in thousands
    of correlated dimensions are much too sure of themselves."""
    scores = probe.scores(features)
    wrong = scores - scores.mean(axis=1, keepdims=True)
    wrong = wrong[labels[:, None] != probe.classes]
    spread = float(wrong.std()) if wrong.size else 0.0
    return spread if spread > 1e-6 * np.abs(scores).max() else 1.0  # less is rounding: all wrong scores are equal
