"""A linear probe that uses knowledge of conditions, and the test inside the training side that knowledge must pass.

How much knowledge counts is read from the photographs by likelihood (variance_shares.py). Whether it counts at all is
tested where it can be: whole conditions are left out, and their photographs are told apart by their terms alone.
Knowledge that does this no better than a guess is not used, and the probe is the one without.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from classification.knowledge_prior import Shares, Teachers, informed_discriminants, informed_means, likeness
from classification.linear_probe import (
    FALLBACK_SHRINKAGE,
    SHRINKAGES,
    TEMPERATURES,
    LinearProbe,
    fit_linear_probe,
    inner_folds,
    losses_by_temperature,
    spread_of_scores,
)
from classification.synthetic_teachers import SyntheticRows, mean_images, reweighted
from classification.term_directions import term_directions
from classification.unseen_classes import groups_to_leave_out, pull_of_seen
from classification.variance_shares import likeliest_shares
from curation.leak_guard import Guard
from scoring.knowledge_use import LEAST_CONDITIONS, STANDARD_ERRORS

SHRINKAGE = FALLBACK_SHRINKAGE  # unless another one tells left-out conditions apart much better, and seen ones too
PRIOR_WEIGHTS = (0.5, 2.0, 8.0)  # subjects that all images of a condition made by words count as
GROUPS_SEED = 20261
ROUNDING = 1e-6  # nats


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen, and how well terms alone told left-out conditions apart."""

    used: bool = False
    term_share: float = 0.0
    rest_share: float = 0.0
    scale: float = 0.0  # of the terms' directions in synthetic images
    prior_weight: float | None = None  # of images made by words, as a subject of their condition
    shrinkage: float = FALLBACK_SHRINKAGE  # of the covariance about predicted means
    temperature: float | None = None
    left_out_loss: float | None = None  # log loss, mean over conditions, among those left out together; None: no test
    left_out_chance: float | None = None  # that of a guess

    @property
    def shares(self) -> Shares:
        return Shares(self.term_share, self.rest_share, self.scale)


def fit_informed_probe(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    rows: np.ndarray,
    guard: Guard,
    profiles: np.ndarray,
    readers: Teachers | None = None,
    synthetic: SyntheticRows | None = None,
    use_terms: bool = True,
    recorded: np.ndarray | None = None,
) -> tuple[LinearProbe, Choice]:
    """A linear probe that uses knowledge of conditions, or the one of linear_probe.py if that knowledge does not fit.

    features (n, d), labels (n,), groups (n,): of the whole dataset, and of the synthetic images behind it. rows (r,):
    the photographs to learn from, which the guard must admit; no others are looked at. profiles (C, T): frequency in
    0..1 of each term in each class, nan in the row of a class of which nothing is known; T may be 0. readers: further
    people who teach what terms look like; their conditions have numbers from C on, their domains from 1 on. synthetic:
    rows of synthetic images, and how they count. use_terms: False if terms are only known by synthetic images, and
    photographs do not teach them. recorded (n, T): what is known of the person on each photograph, in place of its
    class's profile; that of held-out photographs is not looked at. Deterministic. Raises LeakError for a row outside
    the training side."""
    synthetic = synthetic or SyntheticRows.none(profiles.shape[1])
    without = fit_linear_probe(features, labels, groups, rows, guard, synthetic.data)
    rows = guard.admit(rows, "class means (prototypes)")
    for more in (synthetic.data, synthetic.prior, synthetic.terms):
        guard.admit(more, "class means (prototypes)")
    learnt = np.concatenate([rows, synthetic.data])
    of_learnt = profiles[labels[learnt]]
    if recorded is not None:
        of_learnt[: len(rows)] = recorded[rows]
    photographs = Teachers(features[learnt], of_learnt, labels[learnt], np.zeros(len(learnt), int))
    domain = 1 if readers is None else int(readers.domains.max()) + 1  # the next one that is free
    by_words = mean_images(features, labels, synthetic.prior[synthetic.by_words], profiles, domain)
    by_adapters = mean_images(features, labels, synthetic.prior[~synthetic.by_words], profiles, domain + 1)
    others = [more for more in (readers, by_words, by_adapters) if more]
    teachers = functools.reduce(Teachers.joined, others, photographs)
    directions = term_directions(features[synthetic.terms], synthetic.said) if len(synthetic.terms) else None
    centre, axes = span(teachers.features, directions)
    teachers = dataclasses.replace(teachers, features=(teachers.features - centre) @ axes.T)
    directions = None if directions is None else directions @ axes.T
    # No image that was made from a photograph, nor one that counts as a photograph, has a part in any choice.
    can_choose = teachers.domains <= domain
    can_choose[len(rows) : len(learnt)] = False
    choice = choose(teachers.only(can_choose), profiles, labels[rows], groups[rows], directions, use_terms)
    if not choice.used and not by_adapters:
        return without, choice
    if not choice.used and (profiles.shape[1] or readers or by_words):  # as if nothing had been known
        of_photographs, left = (features, labels, groups, rows, guard), synthetic.without_words()
        probe, unknowing = fit_informed_probe(*of_photographs, profiles[:, :0], synthetic=left, use_terms=False)
        tested = {"left_out_loss": choice.left_out_loss, "left_out_chance": choice.left_out_chance}
        return probe, dataclasses.replace(unknowing, **tested)
    shares = choice.shares
    teachers = reweighted(teachers, choice.prior_weight, domain)
    (probe,) = informed_discriminants(teachers, profiles, shares, [choice.shrinkage], directions)
    known = np.isfinite(profiles).all(axis=1) & choice.used & (profiles.shape[1] > 0)
    usable, seen = np.isin(probe.classes, teachers.conditions) | known, np.isin(probe.classes, labels[learnt])
    temperature = choice.temperature
    if (usable & ~seen).any():
        of_choice, photographs = teachers.only(can_choose), (labels[rows], groups[rows])
        pull, temperature = pull_of_seen(of_choice, profiles, shares, *photographs, choice.shrinkage, directions)
        probe.biases = probe.biases - np.where(seen, pull, 0.0)
    temperature = temperature or spread_of_scores(probe, teachers.features[: len(rows)], labels[rows])
    weights = probe.weights @ axes
    biases = probe.biases - weights @ centre
    probe = LinearProbe(probe.classes[usable], weights[usable], biases[usable], choice.shrinkage, temperature)
    return probe, dataclasses.replace(choice, temperature=temperature)


def span(features: np.ndarray, directions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,) of features (n, d), and orthonormal axes (r, d) of the space about it in which they lie, and the
    directions (T, d), if any.

    Discriminants are 0 in all other directions, and are quicker to compute in few dimensions."""
    centre = features.mean(axis=0)
    inside = (features - centre).astype(np.float64)
    if directions is not None:
        inside = np.vstack([inside, directions])
    _, scales, axes = np.linalg.svd(inside, full_matrices=False)
    return centre, axes[scales > 1e-6 * scales[0]]


def choose(
    teachers: Teachers,
    profiles: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    directions: np.ndarray | None = None,
    use_terms: bool = True,
) -> Choice:
    """How much knowledge counts, and whether it does.

    teachers: the first r are the photographs with these labels (r,) and groups (r,); those that are no photographs are
    means of images made by words. directions, use_terms: as for likeliest_shares."""
    choice = read_shares(teachers, profiles, directions, use_terms)
    known = np.isfinite(profiles).all(axis=1)
    tested = np.unique(labels[known[labels]])
    if len(tested) < LEAST_CONDITIONS or not (profiles.shape[1] or choice.prior_weight):
        return choice
    asked = (profiles, labels, tested)
    for last in (False, True):
        weighted = reweighted(teachers, choice.prior_weight, _domain_of_means(teachers))
        losses, chance = left_out_losses(weighted, *asked, choice.shares, directions)  # (c, shrinkages)
        usual, best = losses[:, SHRINKAGES.index(SHRINKAGE)], losses.mean(axis=0).argmin()
        if is_lower(losses[:, best], usual, 1.0):
            choice = dataclasses.replace(choice, shrinkage=SHRINKAGES[best])
        if not last:  # once more, with features as the discriminants weigh them, whatever their size
            informed = informed_means(weighted, profiles, choice.shares, directions)
            scaled = informed.within.axes.T / np.sqrt(informed.within.shrunk(choice.shrinkage))
            seen = dataclasses.replace(teachers, features=teachers.features @ scaled)
            again = read_shares(seen, profiles, None if directions is None else directions @ scaled, use_terms)
            if again == dataclasses.replace(choice, shrinkage=SHRINKAGE):
                break
            choice = dataclasses.replace(again, shrinkage=choice.shrinkage)
    # at the usual shrinkage: knowledge that does not fit seems to at the best of several
    used = is_lower(losses[:, SHRINKAGES.index(SHRINKAGE)], chance, STANDARD_ERRORS)
    shrinkage, temperature = SHRINKAGE, None
    if used:
        among = dict.fromkeys([SHRINKAGE, choice.shrinkage])
        shrinkage, temperature = inner_choice(weighted, profiles, labels, groups, choice.shares, [*among], directions)
    losses = losses[:, SHRINKAGES.index(shrinkage)]
    of_terms = {"left_out_loss": float(losses.mean()), "left_out_chance": float(chance.mean())}
    return dataclasses.replace(choice, used=used, shrinkage=shrinkage, temperature=temperature, **of_terms)


def read_shares(
    teachers: Teachers, profiles: np.ndarray, directions: np.ndarray | None = None, use_terms: bool = True
) -> Choice:
    """The likeliest shares, and weight of the means of images made by words, if there are any."""
    domain = _domain_of_means(teachers)
    weights = (None,) if domain is None else PRIOR_WEIGHTS
    like, found = likeness(teachers, profiles), []
    for weight in weights:
        shares, likelihood = likeliest_shares(reweighted(teachers, weight, domain), like, directions, use_terms)
        found.append((likelihood, weight, shares))
    _, weight, shares = max(found, key=lambda each: each[0])
    return Choice(False, **dataclasses.asdict(shares), prior_weight=weight)


def _domain_of_means(teachers: Teachers) -> int | None:
    """The domain of means of images made by words, if there are any."""
    return None if teachers.are_photographs.all() else int(teachers.domains[~teachers.are_photographs].max())


def is_lower(losses: np.ndarray, others: np.ndarray, standard_errors: float) -> bool:
    """Whether losses (c,) lie below others (c,) by more than so many standard errors of the mean difference, and by
    more than the rounding of two losses that are the same."""
    gain = others - losses
    return bool(gain.mean() > max(standard_errors * gain.std(ddof=1) / np.sqrt(len(gain)), ROUNDING))


def left_out_losses(
    teachers: Teachers,
    profiles: np.ndarray,
    labels: np.ndarray,
    tested: np.ndarray,
    shares: Shares,
    directions: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How well terms alone tell conditions apart that are left out together, each photograph among these conditions.

    labels (r,): of the first r teachers; tested (c,): the classes to leave out, in groups. Returns the
    log loss of each condition for every one of SHRINKAGES (c, s), at the best temperature, and that of a guess (c,)."""
    losses, chance = np.zeros((len(tested), len(SHRINKAGES), len(TEMPERATURES))), np.zeros(len(tested))
    for left_out in groups_to_leave_out(tested, GROUPS_SEED):
        held_out = np.flatnonzero(np.isin(labels, left_out))
        rest = teachers.without_photographs_of(left_out)
        condition = np.searchsorted(tested, labels[held_out])
        weight = 1 / np.bincount(condition, minlength=len(tested))[condition]  # each condition counts once
        chance[np.isin(tested, left_out)] = np.log(len(left_out))
        probes = informed_discriminants(rest, profiles, shares, SHRINKAGES, directions)
        asked = (teachers.features[held_out], labels[held_out], left_out)
        of_images = np.stack([log_losses(probe, *asked) for probe in probes], axis=1)
        np.add.at(losses, condition, of_images * weight[:, None, None])
    best = losses.mean(axis=0).argmin(axis=1)
    return np.take_along_axis(losses, best[None, :, None], axis=2)[:, :, 0], chance


def inner_choice(
    teachers: Teachers,
    profiles: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    shares: Shares,
    shrinkages: Sequence[float],
    directions: np.ndarray | None,
) -> tuple[float, float | None]:
    """The shrinkage of these and the temperature of least log loss on inner folds of the first r teachers, where all
    conditions are seen; the last of the shrinkages and None if there can be no such folds.

    labels (r,), groups (r,): of these photographs."""
    fold = inner_folds(labels, groups)
    losses = []
    for k in sorted(set(fold[fold >= 0].tolist())):
        held_out = np.flatnonzero(fold == k)
        learns = np.ones(len(teachers), bool)
        learns[: len(labels)] = ~np.isin(groups, groups[held_out])
        probes = informed_discriminants(teachers.only(learns), profiles, shares, shrinkages, directions)
        asked = (teachers.features[held_out], labels[held_out], np.unique(labels[learns[: len(labels)]]))
        losses.append(np.stack([log_losses(probe, *asked) for probe in probes], axis=1))  # (held out, shrinkages, ...)
    if not losses:
        return shrinkages[-1], None
    loss = np.concatenate(losses).mean(axis=0)
    i, j = np.unravel_index(loss.argmin(), loss.shape)
    return shrinkages[i], TEMPERATURES[j]


def log_losses(probe: LinearProbe, features: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Log loss (n, TEMPERATURES) of images among these classes (c,), sorted; features (n, d), labels (n,)."""
    scores = probe.scores(features)[:, np.isin(probe.classes, classes)]
    return losses_by_temperature(scores, np.searchsorted(classes, labels))
