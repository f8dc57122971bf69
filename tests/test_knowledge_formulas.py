"""How far terms are believed, against the formulas written out: each covariance entry by entry, each loss by itself."""

import dataclasses

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from classification import knowledge_choice
from classification.knowledge_choice import Choice, fit_informed_probe, inner_choice, left_out_losses, read_shares
from classification.knowledge_prior import Shares, Teachers, informed_discriminants, likeness
from classification.linear_probe import SHRINKAGES, TEMPERATURES, inner_folds
from classification.synthetic_teachers import SyntheticRows, reweighted
from classification.term_directions import term_directions
from classification.unseen_classes import GROUPS_SEED, groups_to_leave_out, pull_of_seen
from classification.variance_shares import likeliest_shares
from curation.leak_guard import Guard
from curation.protocols import Fold

N_CLASSES, N_TERMS, WIDTH = 10, 4, 6
TERM_SHARES = [10 ** (-2 + 0.02 * i) for i in range(126)]
REST_SHARES = [0.01, 0.03, 0.1, 0.3, 1.0]


def people(seed: int, per_class: int = 3, with_images: bool = True) -> tuple[Teachers, np.ndarray, np.ndarray]:
    """Photographs of ten classes, five readers of another domain and the means of images of two classes; the profiles
    of the classes; what terms do in images."""
    rng = np.random.default_rng(seed)
    profiles, effects = rng.random((N_CLASSES, N_TERMS)), rng.normal(size=(N_TERMS, WIDTH))
    labels = np.repeat(np.arange(N_CLASSES), per_class)
    conditions = np.concatenate([labels, [10, 10, 11, 12, 12], [0, 3]])
    of_readers = rng.random((3, N_TERMS))[[0, 0, 1, 2, 2]]
    shown = np.vstack([profiles[labels], of_readers, profiles[[0, 3]]])
    n = len(conditions)
    features = shown @ effects + rng.normal(size=(n, WIDTH)) * np.array([3.0, 1, 1, 1, 0.5, 0.5])
    domains = np.concatenate([np.zeros(len(labels), int), np.ones(5, int), np.full(2, 2)])
    noises = np.concatenate([np.ones(n - 2), [0.5, 0.5]])
    teachers = Teachers(features + 2.0 * domains[:, None], shown, conditions, domains, noises, domains < 2)
    chosen = np.ones(n, bool) if with_images else domains < 2
    return teachers.only(chosen), profiles, effects + 0.3 * rng.normal(size=effects.shape)


def covariances(teachers: Teachers, profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """By terms and by condition, between classes followed by teachers (C + n, C + n); profiles of both, centred."""
    average = profiles.mean(axis=0)
    centred = np.vstack([profiles, teachers.profiles]) - average
    size = np.mean([row @ row for row in profiles - average])
    conditions = [*range(len(profiles)), *teachers.conditions.tolist()]
    by_terms = np.array([[one @ other / size for other in centred] for one in centred])
    by_condition = np.array([[float(one == other) for other in conditions] for one in conditions])
    return by_terms, by_condition, centred[: len(profiles)], centred[len(profiles) :]


def scores_by_hand(
    teachers: Teachers,
    profiles: np.ndarray,
    shares: Shares,
    shrinkage: float,
    directions: np.ndarray,
    asked: np.ndarray,
) -> np.ndarray:
    """Scores (q, C) of the discriminant, less their mean: kriging with a Lagrange multiplier per domain, and the whole
    covariance inverted."""
    by_terms, by_condition, of_classes, of_teachers = covariances(teachers, profiles)
    signal = shares.term_share * by_terms + shares.rest_share * by_condition
    n_classes, n = len(profiles), len(teachers)
    domains = np.eye(teachers.domains.max() + 1)[teachers.domains]
    m = domains.shape[1]
    system = np.zeros((n + m, n + m))
    system[:n, :n] = signal[n_classes:, n_classes:] + np.diag(teachers.noises)
    system[:n, n:], system[n:, :n] = domains, domains.T
    own_domain = np.vstack([np.eye(m)[np.zeros(n_classes, int)], domains])
    weights = np.linalg.lstsq(system, np.vstack([signal[n_classes:], own_domain.T]), rcond=None)[0][:n].T
    explained = shares.scale * directions
    rest = teachers.features - of_teachers @ explained
    means = weights[:n_classes] @ rest + of_classes @ explained
    smoother, real = weights[n_classes:], teachers.are_photographs
    residuals = (rest - smoother @ rest)[real]
    within = residuals.T @ residuals / (real.sum() - np.trace(smoother[np.ix_(real, real)]))
    shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    distance = np.array([[(x - mean) @ np.linalg.solve(shrunk, x - mean) for mean in means] for x in asked])
    return -0.5 * distance + 0.5 * distance.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_the_discriminant_of_informed_means_is_that_of_the_model(scale, shrinkage):
    teachers, profiles, directions = people(1)
    shares, asked = Shares(0.3, 0.1, scale), np.random.default_rng(2).normal(size=(5, WIDTH)) * 3
    (probe,) = informed_discriminants(teachers, profiles, shares, [shrinkage], directions)
    scores = probe.scores(asked)
    expected = scores_by_hand(teachers, profiles, shares, shrinkage, directions, asked)
    np.testing.assert_allclose(scores - scores.mean(axis=1, keepdims=True), expected, atol=1e-8)


# ---- how far terms are believed


def likelihoods_by_hand(teachers: Teachers, profiles: np.ndarray, directions: np.ndarray | None, use_terms: bool):
    """(log-likelihood with its prior, term share, rest share, scale) of every point of the grid."""
    by_terms, by_condition, _, of_teachers = covariances(teachers, profiles)
    n_classes = len(profiles)
    domains = np.eye(teachers.domains.max() + 1)[teachers.domains]
    free = null_space(domains.T)
    features = free.T @ teachers.features
    gram = features @ features.T
    weight = np.trace(gram) ** 2 / np.trace(gram @ gram)
    found = []
    for term_share in TERM_SHARES if use_terms else [0.0]:
        for rest_share in REST_SHARES:
            signal = term_share * by_terms + rest_share * by_condition
            covariance = free.T @ (signal[n_classes:, n_classes:] + np.diag(teachers.noises)) @ free
            precision, scale, rest = np.linalg.inv(covariance), 0.0, features
            if directions is not None:
                expected = free.T @ of_teachers @ directions
                scale = np.sum(precision @ expected * features) / np.sum(precision @ expected * expected)
                scale = min(max(scale, 0.0), 1.0)
                rest = features - scale * expected
            left = np.trace(precision @ rest @ rest.T)
            likelihood = -0.5 * weight * (np.linalg.slogdet(covariance)[1] + len(gram) * np.log(left))
            likelihood -= 0.5 * np.log10(rest_share / 0.03) ** 2
            likelihood -= 0.5 * np.log10(term_share / 0.1) ** 2 if use_terms else 0.0
            found.append((likelihood, term_share, rest_share, scale))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("with_directions", "use_terms"), [(False, True), (True, True), (True, False)])
def test_the_shares_are_those_of_greatest_restricted_likelihood_and_prior(seed, with_directions, use_terms):
    teachers, profiles, directions = people(seed)
    directions = (directions if seed else -directions) if with_directions else None
    shares, likelihood = likeliest_shares(teachers, likeness(teachers, profiles), directions, use_terms)
    best = max(likelihoods_by_hand(teachers, profiles, directions, use_terms))
    found = (likelihood, shares.term_share, shares.rest_share, shares.scale)
    np.testing.assert_allclose(found, best, rtol=1e-6, atol=1e-9)


def test_shares_end_where_the_grid_ends():
    rng = np.random.default_rng(5)
    profiles = rng.random((40, N_TERMS))
    nowhere, domains = rng.normal(size=(40, 30)), np.zeros(40, int)
    found = []
    for effect in (0.0, 300.0):
        features = nowhere + effect * profiles @ rng.normal(size=(N_TERMS, 30))
        teachers = Teachers(features, profiles, np.arange(40), domains)
        found.append(likeliest_shares(teachers, likeness(teachers, profiles))[0].term_share)
    assert found[0] < 0.02 and found[1] == pytest.approx(10**0.5)


@pytest.mark.parametrize(("truth", "weight"), [(1.0, 8.0), (0.0, 0.5)])
def test_images_of_the_true_means_weigh_more_than_images_of_nothing(truth, weight):
    rng = np.random.default_rng(7)
    profiles, labels = np.zeros((30, 0)), np.repeat(np.arange(30), 4)
    means = rng.normal(size=(30, 60))
    images = truth * means + (0.3 if truth else 1.0) * rng.normal(size=means.shape)
    features = np.vstack([means[labels] + rng.normal(size=(120, 60)), images])
    domains = np.repeat([0, 1], [120, 30])
    conditions = np.concatenate([labels, np.arange(30)])
    teachers = Teachers(features, profiles[conditions], conditions, domains, None, domains == 0)
    assert read_shares(teachers, profiles, use_terms=False).prior_weight == weight


@pytest.mark.parametrize(("noise", "n_images"), [(0.01, 60), (1.0, 60), (4.0, 60), (4.0, 14), (30.0, 60)])
def test_directions_are_those_of_the_ridge_of_least_generalised_cross_validation(noise, n_images):
    rng = np.random.default_rng(14)
    said = rng.random((n_images, 8)) < 0.4
    features = said @ rng.normal(size=(8, 20)) + noise * rng.normal(size=(n_images, 20))
    terms, centred = said - said.mean(axis=0), features - features.mean(axis=0)
    found = []
    for ridge in (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0):
        solution = np.linalg.solve(terms.T @ terms + ridge * np.eye(8), terms.T)
        smoother = terms @ solution + 1 / n_images
        error = np.sum((features - smoother @ features) ** 2) / (1 - np.trace(smoother) / n_images) ** 2
        found.append((error, ridge, solution @ centred))
    _, _, expected = min(found, key=lambda each: each[0])
    np.testing.assert_allclose(term_directions(features, said), expected, atol=1e-9)


def test_a_weight_is_given_to_means_of_images_of_one_domain_alone():
    teachers, _, _ = people(15)
    teachers = dataclasses.replace(teachers, domains=np.where(np.arange(len(teachers)) == 36, 3, teachers.domains))
    assert not teachers.are_photographs[35:].any() and teachers.domains[35:].tolist() == [2, 3]
    weighted = reweighted(teachers, 8.0, 2)
    assert weighted.noises[35:].tolist() == [1 / 8, 0.5] and (weighted.noises[:35] == 1).all()


# ---- whether they are believed at all


def test_conditions_left_out_are_predicted_without_their_photographs():
    teachers, profiles, directions = people(3)
    labels, shares = np.repeat(np.arange(N_CLASSES), 3), Shares(0.3, 0.1, 0.5)
    losses, chance = left_out_losses(teachers, profiles, labels, np.arange(N_CLASSES), shares, directions)
    by_temperature = np.zeros((N_CLASSES, len(TEMPERATURES)))
    shrinkage = 0.1
    for left_out in groups_to_leave_out(np.arange(N_CLASSES), knowledge_choice.GROUPS_SEED):
        is_theirs = np.isin(teachers.conditions, left_out) & teachers.are_photographs
        rest = teachers.only(np.flatnonzero(~is_theirs))  # means of images stay, as no photograph made them
        for number, condition in enumerate(left_out):
            asked = teachers.features[: len(labels)][labels == condition]
            scores = scores_by_hand(rest, profiles, shares, shrinkage, directions, asked)[:, left_out]
            for j, temperature in enumerate(TEMPERATURES):
                by_temperature[condition, j] = -log_softmax(scores / temperature, axis=1)[:, number].mean()
            assert chance[condition] == pytest.approx(np.log(len(left_out)))
    best = by_temperature.mean(axis=0).argmin()
    np.testing.assert_allclose(losses[:, SHRINKAGES.index(shrinkage)], by_temperature[:, best], atol=1e-6)


def chosen_with(losses: np.ndarray, monkeypatch, per_class: int = 1) -> Choice:
    """What is chosen if the losses of left-out conditions are these (C, shrinkages), and a guess's are 2."""
    teachers, profiles, _ = people(4, per_class, with_images=False)
    labels = np.repeat(np.arange(N_CLASSES), per_class)
    groups = np.array([f"p{i}" for i in range(len(labels))])
    monkeypatch.setattr(knowledge_choice, "left_out_losses", lambda *_: (losses, np.full(N_CLASSES, 2.0)))
    return knowledge_choice.choose(teachers, profiles, labels, groups)


def test_another_shrinkage_must_be_better_by_a_standard_error(monkeypatch):
    wobble = np.tile([-1.0, 1.0], 5)  # its mean has a standard error of 0.33
    for gain, shrinkage in ((0.2, 0.6), (0.5, 1.0)):
        losses = np.full((N_CLASSES, len(SHRINKAGES)), 1.0)
        losses[:, SHRINKAGES.index(1.0)] += wobble - gain
        choice = chosen_with(losses, monkeypatch)
        assert choice.used and choice.shrinkage == shrinkage


def test_knowledge_is_tested_at_the_usual_shrinkage_and_not_at_the_best(monkeypatch):
    losses = np.full((N_CLASSES, len(SHRINKAGES)), 2.0)
    losses[:, SHRINKAGES.index(1.0)] = 0.1
    assert not chosen_with(losses, monkeypatch).used
    losses[:, SHRINKAGES.index(0.6)] = np.where(np.arange(N_CLASSES) % 2, 1.0, 2.2)  # by 2.3 standard errors
    assert chosen_with(losses, monkeypatch).used


def test_inner_folds_choose_among_shrinkages_and_temperatures_by_log_loss():
    teachers, profiles, directions = people(6, 4)
    labels, shares = np.repeat(np.arange(N_CLASSES), 4), Shares(0.3, 0.1, 0.5)
    groups = np.array([f"p{i}" for i in range(len(labels))])
    shrinkages, fold = [0.6, 0.03], inner_folds(labels, groups)
    losses = np.zeros((2, len(TEMPERATURES)))
    for row in np.flatnonzero(fold >= 0):
        learns = np.concatenate([fold != fold[row], np.ones(len(teachers) - len(labels), bool)])
        rest = teachers.only(np.flatnonzero(learns))
        for i, shrinkage in enumerate(shrinkages):
            scores = scores_by_hand(rest, profiles, shares, shrinkage, directions, teachers.features[[row]])[0]
            losses[i] += [-log_softmax(scores / temperature)[labels[row]] for temperature in TEMPERATURES]
    i, j = np.unravel_index(losses.argmin(), losses.shape)
    found = inner_choice(teachers, profiles, labels, groups, shares, shrinkages, directions)
    assert found == (shrinkages[i], TEMPERATURES[j])
    alone = np.flatnonzero(np.arange(len(teachers)) % 4 == 0)[:N_CLASSES]  # one photograph per condition
    few = teachers.only(np.concatenate([alone, np.arange(len(labels), len(teachers))]))
    asked = (few, profiles, labels[alone], groups[alone], shares, shrinkages, directions)
    assert inner_choice(*asked) == (0.03, None)


def test_the_loss_that_is_told_of_knowledge_that_is_not_used_is_the_one_that_was_tested(monkeypatch):
    losses = np.full((N_CLASSES, len(SHRINKAGES)), 2.0)
    losses[:, SHRINKAGES.index(0.01)] = 0.5  # much better, but not where knowledge is tested
    choice = chosen_with(losses, monkeypatch)
    assert not choice.used and choice.left_out_loss == choice.left_out_chance == 2.0


# ---- classes without photographs


@pytest.mark.parametrize(("seed", "n_classes", "factor"), [(8, 10, 1.0), (9, 5, 1.0), (10, 10, 6.0)])
def test_the_pull_of_seen_classes_balances_the_losses_of_both_kinds(seed, n_classes, factor):
    teachers, profiles, directions = people(seed, 4, with_images=False)
    chosen = (teachers.conditions < n_classes) | (teachers.domains > 0)
    teachers, profiles = teachers.only(np.flatnonzero(chosen)), profiles[:n_classes]
    teachers = dataclasses.replace(teachers, features=factor * teachers.features)
    moved = teachers.conditions.copy()
    moved[moved >= 10] += n_classes - 10
    teachers = dataclasses.replace(teachers, conditions=moved)
    labels = np.repeat(np.arange(n_classes), 4)
    groups = np.array([f"p{i}" for i in range(len(labels))], dtype=object)
    groups[[1, 6]] = "with two conditions"
    shares, shrinkage, fold = Shares(0.3, 0.1, 0.5), 0.3, inner_folds(labels, groups)
    scored = []
    for k, left_out in enumerate(groups_to_leave_out(np.arange(n_classes), GROUPS_SEED)):
        unseen = np.isin(labels, left_out)
        held_out = unseen | (fold == k % 3)
        learns = ~unseen & ~np.isin(groups, groups[held_out])
        rest = teachers.only(np.flatnonzero(np.concatenate([learns, np.ones(len(teachers) - len(labels), bool)])))
        classes = np.union1d(left_out, labels[learns])
        for row in np.flatnonzero(held_out & np.isin(labels, classes)):
            hand = scores_by_hand(rest, profiles, shares, shrinkage, directions, teachers.features[[row]])[0]
            scored.append((hand[classes], classes.searchsorted(labels[row]), np.isin(classes, left_out)))

    def loss(pull: float, temperature: float) -> float:
        of_kind = {True: [], False: []}
        for scores, own, is_unseen in scored:
            lowered = (scores - np.where(is_unseen, 0, pull)) / temperature
            of_kind[bool(is_unseen[own])].append(-log_softmax(lowered)[own])
        return np.mean(of_kind[True]) + np.mean(of_kind[False])

    pull, temperature = pull_of_seen(teachers, profiles, shares, labels, groups, shrinkage, directions)
    steps = np.linspace(-6, 6, 49)
    best = min(loss(step * one, one) for one in TEMPERATURES for step in steps)
    assert temperature in TEMPERATURES and loss(pull, temperature) <= best + 1e-4
    assert loss(pull, temperature) < loss(0.0, temperature) and abs(pull) > 1e-3
    bounds = (-20 * temperature, 20 * temperature)
    by_hand = minimize_scalar(loss, bounds=bounds, args=(temperature,), method="bounded", options={"xatol": 1e-6})
    assert pull == pytest.approx(by_hand.x, rel=1e-3, abs=1e-3 * temperature)


def test_scores_of_classes_with_photographs_are_lowered_by_the_pull(monkeypatch):
    rng = np.random.default_rng(12)
    profiles = (rng.random((24, 6)) < 0.5).astype(float)
    labels = np.repeat(np.arange(20), 4)  # four classes have none
    features = profiles[labels] @ rng.normal(size=(6, 30)) + rng.normal(size=(80, 30))
    ids = np.array([f"i{row}" for row in range(80)])
    rows = np.arange(80)
    guard = Guard(Fold(0, rows, rows[:0], rows[:0]), {"image_id": ids.tolist(), "group_id": ids.tolist()})
    probes = []
    for pull in (0.0, 5.0):
        monkeypatch.setattr(knowledge_choice, "pull_of_seen", lambda *_, pull=pull: (pull, 2.0))
        probe, choice = fit_informed_probe(features, labels, ids, rows, guard, profiles)
        assert choice.used and probe.temperature == choice.temperature == 2.0
        probes.append(probe)
    lowered = probes[0].biases - probes[1].biases
    np.testing.assert_allclose(lowered, np.where(probes[0].classes < 20, 5.0, 0.0), atol=1e-9)


def test_the_weight_that_was_chosen_for_images_is_the_one_that_they_get(monkeypatch):
    rng = np.random.default_rng(13)
    profiles = (rng.random((12, 6)) < 0.5).astype(float)
    labels = np.concatenate([np.repeat(np.arange(12), 3), np.arange(12)])
    features = profiles[labels] @ rng.normal(size=(6, 30)) + rng.normal(size=(48, 30))
    ids = np.array([f"i{row}" for row in range(48)])
    rows, images, nothing = np.arange(36), np.arange(36, 48), np.array([], int)
    fold = Fold(0, np.arange(48), nothing, nothing)
    guard = Guard(fold, {"image_id": ids.tolist(), "group_id": ids.tolist()})
    synthetic = SyntheticRows(nothing, images, np.ones(12, bool), nothing, np.zeros((0, 6), bool))
    monkeypatch.setattr(knowledge_choice, "likeliest_shares", lambda *_: (Shares(0.3, 0.1), 0.0))
    weights = []
    for weight in (0.5, 8.0):
        monkeypatch.setattr(knowledge_choice, "PRIOR_WEIGHTS", (weight,))
        probe, choice = fit_informed_probe(features, labels, ids, rows, guard, profiles, None, synthetic)
        assert choice.used and choice.prior_weight == weight
        weights.append(probe.weights)
    assert np.abs(weights[0] - weights[1]).max() > 0.01 * np.abs(weights[0]).max()


# ---- what has no part in a choice


def with_images(seed: int) -> tuple:
    """Arguments of fit_informed_probe for 36 photographs of twelve classes, its profiles, and rows of 24 images."""
    rng = np.random.default_rng(seed)
    profiles, labels = (rng.random((12, 5)) < 0.5).astype(float), np.repeat(np.arange(12), 3)
    shown = rng.integers(0, 12, 24)
    photographs = (profiles @ rng.normal(size=(5, 10)))[labels] + rng.normal(size=(36, 10))
    features = np.vstack([photographs, rng.normal(size=(24, 10)) + 2 * rng.normal(size=(12, 10))[shown]])
    ids = np.array([f"i{row}" for row in range(60)])
    fold = Fold(0, np.arange(60), np.array([], int), np.array([], int))
    guard = Guard(fold, {"image_id": ids.tolist(), "group_id": ids.tolist()})
    return (features, np.concatenate([labels, shown]), ids, np.arange(36), guard, profiles), np.arange(36, 60)


def test_images_that_count_as_photographs_have_no_part_in_the_choice():
    asked, images = with_images(2)
    nothing = SyntheticRows.none(5)
    _, alone = fit_informed_probe(*asked, None, nothing)
    _, beside = fit_informed_probe(*asked, None, dataclasses.replace(nothing, data=images))
    assert alone.used
    for name in ("term_share", "rest_share", "shrinkage", "temperature", "left_out_loss"):
        assert getattr(beside, name) == pytest.approx(getattr(alone, name)), name


def test_images_by_words_have_an_offset_of_their_own_beside_readers():
    (features, *asked), images = with_images(3)
    rng = np.random.default_rng(7)
    readers = Teachers(rng.normal(size=(20, 10)), rng.random((20, 5)), 12 + np.arange(20), np.ones(20, int))
    by_words = dataclasses.replace(SyntheticRows.none(5), prior=images, by_words=np.ones(len(images), bool))
    shifted = features.copy()
    shifted[images] += 50.0
    found = [fit_informed_probe(each, *asked, readers, by_words) for each in (features, shifted)]
    assert found[0][1].used and found[0][1].prior_weight == found[1][1].prior_weight
    np.testing.assert_allclose(found[0][0].weights, found[1][0].weights, atol=1e-6)


def test_each_left_out_condition_counts_once_and_one_without_terms_is_not_left_out(monkeypatch):
    teachers, profiles, _ = people(9, with_images=False)
    labels = np.repeat(np.arange(N_CLASSES), 3)
    of_some = np.concatenate([np.arange(3), np.arange(3, 30, 3), np.arange(30, 35)])  # three of class 0, one of others
    with monkeypatch.context() as patched:
        patched.setattr(knowledge_choice, "log_losses", lambda probe, rows, *_: np.ones((len(rows), len(TEMPERATURES))))
        asked = (teachers.only(of_some), profiles, labels[of_some[:12]], np.arange(N_CLASSES), Shares(1.0, 0.03))
        losses, _ = left_out_losses(*asked)
    np.testing.assert_allclose(losses, 1.0)
    unknown, tested = profiles.copy(), []
    unknown[3] = np.nan
    monkeypatch.setattr(
        knowledge_choice,
        "left_out_losses",
        lambda *asked: (tested.append(asked[3].tolist()), left_out_losses(*asked))[1],
    )
    of_unknown = dataclasses.replace(
        teachers, profiles=np.where(teachers.conditions[:, None] == 3, np.nan, teachers.profiles)
    )
    knowledge_choice.choose(of_unknown, unknown, labels, np.array([f"p{i}" for i in range(30)]))
    assert tested and all(conditions == [0, 1, 2, 4, 5, 6, 7, 8, 9] for conditions in tested)
