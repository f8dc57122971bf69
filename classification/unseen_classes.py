"""The pull of classes with photographs on images of classes without any, and its correction.

The mean of a class that was photographed lies where photographs lie, and that of another one where its terms predict
it, which is nearer to the centre: classes with photographs would take nearly every image. Their scores are lowered by a
constant, as in calibrated stacking (Chao et al., An empirical study and analysis of generalized zero-shot learning,
ECCV 2016), which is chosen inside the training side so that images of both kinds of classes cost the same log loss.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from classification.knowledge_prior import Shares, Teachers, informed_discriminants
from classification.linear_probe import INNER_FOLDS, TEMPERATURES, inner_folds

CONDITION_GROUPS = 5  # left out in turn
GROUPS_SEED = 20262
LARGEST_PULL = 20.0  # temperatures


def groups_to_leave_out(classes: np.ndarray, seed: int) -> list[np.ndarray]:
    """The classes (c,), sorted, dealt by the seed to CONDITION_GROUPS groups, or fewer, of two or more."""
    n_groups = min(CONDITION_GROUPS, len(classes) // 2)
    group = np.random.default_rng(seed).permutation(len(classes)) % n_groups
    return [classes[group == k] for k in range(n_groups)]


def pull_of_seen(
    teachers: Teachers,
    profiles: np.ndarray,
    shares: Shares,
    labels: np.ndarray,
    groups: np.ndarray,
    shrinkage: float,
    directions: np.ndarray | None = None,
) -> tuple[float, float | None]:
    """By how much to lower the scores of classes with photographs, and the temperature of all scores.

    teachers: the first r are the photographs with these labels (r,) and groups (r,). Groups of conditions are left out
    whole, and at the same time an inner fold of the other conditions' photographs; each image is scored among all
    classes, and the mean loss of the one kind counts as much as that of the other. Returns 0 and None if no condition
    has photographs of two groups."""
    fold = inner_folds(labels, groups)
    known = np.isfinite(profiles).all(axis=1)
    tested = np.unique(labels[known[labels]])
    if (fold < 0).all() or len(tested) < 4:
        return 0.0, None
    scored = []  # scores (n, c), own column (n,), unseen columns (c,)
    for k, left_out in enumerate(groups_to_leave_out(tested, GROUPS_SEED)):
        unseen = np.isin(labels, left_out)
        held_out = unseen | (fold == k % INNER_FOLDS)
        learns = ~unseen & ~np.isin(groups, groups[held_out])
        rest = teachers.only(np.concatenate([learns, np.ones(len(teachers) - len(labels), bool)]))
        (probe,) = informed_discriminants(rest, profiles, shares, [shrinkage], directions)
        classes = np.union1d(left_out, labels[learns])
        rows = np.flatnonzero(held_out & np.isin(labels, classes))
        scores = probe.scores(teachers.features[rows])[:, classes]
        scored.append((scores, np.searchsorted(classes, labels[rows]), np.isin(classes, left_out)))

    def loss(pull: float, temperature: float) -> float:
        of_images, of_unseen = [], []
        for scores, own, unseen in scored:
            lowered = (scores - np.where(unseen, 0.0, pull * temperature)) / temperature
            of_images.append(logsumexp(lowered, axis=1) - lowered[np.arange(len(own)), own])
            of_unseen.append(unseen[own])
        losses, are_unseen = np.concatenate(of_images), np.concatenate(of_unseen)
        return float(losses[are_unseen].mean() + losses[~are_unseen].mean())

    best = []
    for temperature in TEMPERATURES:
        found = minimize_scalar(loss, bounds=(-LARGEST_PULL, LARGEST_PULL), args=(temperature,), method="bounded")
        best.append((found.fun, found.x * temperature, temperature))
    _, pull, temperature = min(best)
    return float(pull), temperature
