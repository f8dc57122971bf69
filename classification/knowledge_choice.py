"""How much knowledge of conditions counts in a linear probe: chosen inside the training side, 0 if it does not fit.

It is tested where it can be: whole conditions are left out, and their photographs are told apart by their terms alone.
Knowledge that does this no better than a guess is not used, and the probe is the one without. If conditions have
photographs of several subjects, the shares are then chosen on inner folds of photographs, where the probe with
knowledge must again be better than the one without.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from classification.knowledge_prior import Teachers, informed_discriminants
from classification.linear_probe import (
    INNER_FOLDS,
    SHRINKAGES,
    TEMPERATURES,
    LinearProbe,
    fit_discriminants,
    fit_linear_probe,
    spread_of_scores,
)
from curation import protocols
from curation.leak_guard import Guard

TERM_SHARES = (0.03, 0.1, 0.3, 1.0, 3.0)
REST_SHARES = (0.03, 0.1, 0.3, 1.0)
REST_SHARE = 0.1  # if it cannot be chosen: conditions left out whole say nothing of it
CONDITION_GROUPS = 5  # left out in turn
GROUPS_SEED = 20261
STANDARD_ERRORS = 1.0  # of the mean difference, by which knowledge must lower the loss


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen, and how well terms alone told left-out conditions apart."""

    term_share: float = 0.0  # 0: knowledge is not used
    rest_share: float = 0.0
    shrinkage: float | None = None
    temperature: float | None = None
    left_out_loss: float | None = None  # log loss, mean over conditions, among those left out together
    left_out_chance: float | None = None  # that of a guess


def fit_informed_probe(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    rows: np.ndarray,
    guard: Guard,
    profiles: np.ndarray,
    readers: Teachers | None = None,
    synthetic_rows: Sequence[int] | np.ndarray = (),
) -> tuple[LinearProbe, Choice]:
    """A linear probe that uses knowledge of conditions, or the one of linear_probe.py if that knowledge does not fit.

    features (n, d), labels (n,), groups (n,): of the whole dataset. rows (r,): the photographs to learn from, which the
    guard must admit; no others are looked at. profiles (C, T): frequency in 0..1 of each term in each class, nan in the
    row of a class of which nothing is known. readers: further people who teach what terms look like; their conditions
    have numbers from C on, their domains from 1 on. synthetic_rows (s,): synthetic images that count as photographs,
    and have no part in any choice. Deterministic. Raises LeakError for a row outside the training side."""
    without = fit_linear_probe(features, labels, groups, rows, guard, synthetic_rows)
    rows = guard.admit(rows, "class means (prototypes)")
    learnt = np.concatenate([rows, guard.admit(synthetic_rows, "class means (prototypes)")])
    teachers = Teachers(features[learnt], profiles[labels[learnt]], labels[learnt], np.zeros(len(learnt), int))
    if readers is not None:
        teachers = teachers.joined(readers)
    centre, axes = span(teachers.features)
    teachers = dataclasses.replace(teachers, features=(teachers.features - centre) @ axes.T)
    of_choice = np.concatenate([np.arange(len(rows)), np.arange(len(learnt), len(teachers))])  # without synthetic ones
    choice = choose(teachers.only(of_choice), profiles, labels[rows], groups[rows])
    if not choice.term_share:
        return without, choice
    shares = (choice.term_share, choice.rest_share)
    (probe,) = informed_discriminants(teachers, profiles, *shares, [choice.shrinkage])
    temperature = choice.temperature or spread_of_scores(probe, teachers.features[: len(rows)], labels[rows])
    weights = probe.weights @ axes
    usable = np.isfinite(profiles).all(axis=1) | np.isin(probe.classes, labels[learnt])
    biases = probe.biases - weights @ centre
    probe = LinearProbe(probe.classes[usable], weights[usable], biases[usable], choice.shrinkage, temperature)
    return probe, dataclasses.replace(choice, temperature=temperature)


def span(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,) of features (n, d), and orthonormal axes (r, d) of the space about it in which they lie.

    Discriminants are 0 in all other directions, and are quicker to compute in few dimensions."""
    centre = features.mean(axis=0)
    _, scales, axes = np.linalg.svd((features - centre).astype(np.float64), full_matrices=False)
    return centre, axes[scales > 1e-6 * scales[0]]


def choose(teachers: Teachers, profiles: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Choice:
    """The choice of least log loss.

    teachers: the first r are the photographs with these labels (r,) and groups (r,)."""
    known = np.isfinite(profiles).all(axis=1)
    tested = np.unique(labels[known[labels]])
    if len(tested) < 4:  # two groups of two
        return Choice()
    settings, losses, chance = left_out_losses(teachers, profiles, labels, tested)
    best = losses.mean(axis=0).argmin()
    found = {"left_out_loss": float(losses[:, best].mean()), "left_out_chance": float(chance.mean())}
    if not is_lower(losses[:, best], chance):
        return Choice(**found)
    choice = Choice(*settings[best], **found)
    fold = np.array([-1 if k is None else k for k in protocols.strict_folds(labels.tolist(), groups, INNER_FOLDS)])
    if (fold < 0).all():
        return choice
    return choose_on_photographs(teachers, profiles, labels, groups, fold, choice) or Choice(**found)


def is_lower(losses: np.ndarray, others: np.ndarray) -> bool:
    """Whether losses (c,) lie below others (c,) by more than STANDARD_ERRORS of the mean difference."""
    gain = others - losses
    return bool(gain.mean() > STANDARD_ERRORS * gain.std(ddof=1) / np.sqrt(len(gain)))


def left_out_losses(
    teachers: Teachers, profiles: np.ndarray, labels: np.ndarray, tested: np.ndarray
) -> tuple[list[tuple[float, float, float]], np.ndarray, np.ndarray]:
    """How well terms alone tell conditions apart that are left out together, each photograph among these conditions.

    labels (r,): of the first r teachers; tested (c,): the classes to leave out, in CONDITION_GROUPS groups. Returns s
    settings (term share, rest share, shrinkage), the log loss of each condition (c, s) at the best temperature of the
    setting, and that of a guess (c,)."""
    n_groups = min(CONDITION_GROUPS, len(tested) // 2)
    group = np.random.default_rng(GROUPS_SEED).permutation(len(tested)) % n_groups
    shares = [(term_share, REST_SHARE) for term_share in TERM_SHARES]
    losses = np.zeros((len(tested), len(shares), len(SHRINKAGES), len(TEMPERATURES)))
    chance = np.zeros(len(tested))
    for k in range(n_groups):
        left_out = tested[group == k]
        held_out = np.flatnonzero(np.isin(labels, left_out))
        rest = teachers.only(~np.isin(teachers.conditions, left_out))
        condition = np.searchsorted(tested, labels[held_out])
        weight = 1 / np.bincount(condition, minlength=len(tested))[condition]  # each condition counts once
        chance[group == k] = np.log(len(left_out))
        for i, (term_share, rest_share) in enumerate(shares):
            probes = informed_discriminants(rest, profiles, term_share, rest_share, SHRINKAGES)
            of_images = log_losses(probes, teachers.features[held_out], labels[held_out], left_out)
            np.add.at(losses[:, i], condition, of_images * weight[:, None, None])
    losses = losses.reshape(len(tested), -1, len(TEMPERATURES))
    best = losses.mean(axis=0).argmin(axis=1)
    settings = [(*share, shrinkage) for share in shares for shrinkage in SHRINKAGES]
    return settings, np.take_along_axis(losses, best[None, :, None], axis=2)[:, :, 0], chance


def choose_on_photographs(
    teachers: Teachers, profiles: np.ndarray, labels: np.ndarray, groups: np.ndarray, fold: np.ndarray, choice: Choice
) -> Choice | None:
    """The choice of least log loss on inner folds; None if that of the probe without knowledge is as low.

    labels, groups, fold (r,): of the first r teachers; fold -1: always learns."""
    shares = list(itertools.product(TERM_SHARES, REST_SHARES))
    own = teachers.features[: len(labels)]
    shape = (len(labels), len(SHRINKAGES), len(TEMPERATURES))
    losses, losses_without = np.full((len(shares), *shape), np.nan), np.full(shape, np.nan)
    for k in sorted(set(fold[fold >= 0].tolist())):
        held_out = fold == k
        learns = ~np.isin(groups, groups[held_out])
        rest = teachers.only(np.concatenate([learns, np.ones(len(teachers) - len(labels), bool)]))
        trained = np.unique(labels[learns])
        asked = (own[held_out], labels[held_out], trained)
        losses_without[held_out] = log_losses(fit_discriminants(own[learns], labels[learns], SHRINKAGES), *asked)
        for i, share in enumerate(shares):
            losses[i, held_out] = log_losses(informed_discriminants(rest, profiles, *share, SHRINKAGES), *asked)
    losses, losses_without = losses[:, fold >= 0], losses_without[fold >= 0]
    i, s, t = np.unravel_index(losses.mean(axis=1).argmin(), (len(shares), *shape[1:]))
    least = np.unravel_index(losses_without.mean(axis=0).argmin(), shape[1:])
    if not is_lower(losses[i, :, s, t], losses_without[:, *least]):
        return None
    chosen = (*shares[i], SHRINKAGES[s], TEMPERATURES[t])
    return Choice(*chosen, left_out_loss=choice.left_out_loss, left_out_chance=choice.left_out_chance)


def log_losses(
    probes: Sequence[LinearProbe], features: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Log loss (n, probes, TEMPERATURES) of images among these classes (c,), sorted; features (n, d), labels (n,)."""
    losses = np.empty((len(features), len(probes), len(TEMPERATURES)))
    for s, probe in enumerate(probes):
        scores = probe.scores(features)[:, np.isin(probe.classes, classes)]
        own = scores[np.arange(len(scores)), np.searchsorted(classes, labels)]
        for t, temperature in enumerate(TEMPERATURES):
            losses[:, s, t] = logsumexp(scores / temperature, axis=1) - own / temperature
    return losses
