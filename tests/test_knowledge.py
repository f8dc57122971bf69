"""knowledge_prior.py, knowledge_choice.py, knowledge.py: class means and terms against an independent solution, what is
chosen if knowledge fits and if it does not, and that nobody who is held out teaches anything."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import small_datasets
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Value
from in_process import exit_status
from test_rdface_dataset import Curator, encoded
from test_train_classifier import save_backbone

import rdface_dataset
import score_runs
import train_classifier
import train_fewshot
from classification import knowledge_choice
from classification.backbones import load_backbone
from classification.knowledge import Knowledge, Readers, open_knowledge, person_profiles
from classification.knowledge_choice import fit_informed_probe, left_out_losses
from classification.knowledge_prior import Shares, Teachers, informed_means, likeness, predict_means
from classification.linear_probe import SHRINKAGES, fit_linear_probe
from classification.recipes import PRIOR_WEIGHT
from classification.study_inputs import Study
from classification.synthetic_teachers import SyntheticRows, SyntheticUses, mean_images
from classification.term_directions import term_directions
from classification.unseen_classes import pull_of_seen
from classification.variance_shares import EXPECTED, likeliest_shares
from curation.leak_guard import Guard
from curation.opening import guarded_columns, load_images
from curation.protocols import Fold, unseen_folds
from generation.synthetic_uses import uses_of_images
from harness.errors import InputError, LeakError, ProtocolError
from imaging.pixel_cache import cached_pixels
from scoring import prediction_files
from scoring.knowledge_use import use_of_knowledge, with_use


def teachers_of(rng: np.random.Generator, conditions: list[int], domains: list[int], width: int = 3) -> Teachers:
    profiles = rng.random((max(conditions) + 1, 4))[conditions]
    return Teachers(rng.normal(size=(len(conditions), width)), profiles, np.array(conditions), np.array(domains))


def mixed_model_means(teachers: Teachers, profiles: np.ndarray, term_share: float, rest_share: float) -> np.ndarray:
    """Class means (C, d) by Henderson's mixed-model equations, which name every effect: one mean per domain, one effect
    per term, and one per condition."""
    n_terms = teachers.profiles.shape[1]
    centred = profiles - profiles.mean(axis=0)
    size = (centred**2).sum(axis=1).mean()
    n_conditions = max(len(profiles), teachers.conditions.max() + 1)
    domains = np.eye(teachers.domains.max() + 1)[teachers.domains]
    effects = np.hstack([domains, teachers.profiles - profiles.mean(axis=0), np.eye(n_conditions)[teachers.conditions]])
    penalties = [0.0] * domains.shape[1] + [size / term_share] * n_terms + [1 / rest_share] * n_conditions
    solution = np.linalg.lstsq(effects.T @ effects + np.diag(penalties), effects.T @ teachers.features, rcond=None)[0]
    of_terms = solution[domains.shape[1] :][:n_terms]
    return solution[0] + centred @ of_terms + solution[domains.shape[1] + n_terms :][: len(profiles)]


def test_predicted_means_equal_the_solution_of_the_mixed_model_equations():
    rng = np.random.default_rng(0)
    teachers = teachers_of(rng, [0, 0, 1, 2, 2, 2, 4, 6, 6, 7], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    profiles = np.vstack([teachers.profiles[[0, 2, 3]], rng.random((1, 4)), teachers.profiles[6], rng.random((1, 4))])
    for term_share, rest_share in ((0.3, 0.1), (3.0, 1.0)):
        prediction = predict_means(teachers, likeness(teachers, profiles), Shares(term_share, rest_share))
        expected = mixed_model_means(teachers, profiles, term_share, rest_share)
        np.testing.assert_allclose(prediction.of_classes @ teachers.features, expected, atol=1e-9)


def test_many_photographs_outweigh_terms_and_a_class_without_annotations_keeps_its_own_mean():
    rng = np.random.default_rng(1)
    teachers = teachers_of(rng, [0] * 400 + [1] * 3 + [2] * 3 + [3] * 3, [0] * 409)
    profiles = teachers.profiles[[0, 400, 403, 406]].copy()
    own = np.stack([teachers.features[teachers.conditions == c].mean(axis=0) for c in range(4)])
    means = predict_means(teachers, likeness(teachers, profiles), Shares(0.3, 0.1)).of_classes @ teachers.features
    assert np.abs(means[0] - own[0]).max() < 0.05 < np.abs(means[1] - own[1]).max()
    unknown = profiles.copy()
    unknown[1] = np.nan
    taught = dataclasses.replace(teachers, profiles=unknown[teachers.conditions])
    of_unknown = predict_means(taught, likeness(taught, unknown), Shares(3.0, 0.1)).of_classes @ teachers.features
    overall = of_unknown[1] - own[1]  # its mean is drawn by little, since 3.1 of its variance is unexplained
    assert np.abs(overall).max() < 0.25 * np.abs(means[1] - own[1]).max() + 0.2


# ---- a study in which terms tell classes apart


def study(k: int, n_classes: int = 24, n_terms: int = 6, width: int = 30) -> dict:
    """Features of k training and 6 held-out photographs per class, whose means follow from the terms of the class.

    Three directions, such as pose and light, vary much more than the others."""
    rng = np.random.default_rng(2)
    profiles = (rng.random((n_classes, n_terms)) < 0.5).astype(float)
    means = profiles @ rng.normal(size=(n_terms, width)) * 0.9
    labels = np.repeat(np.arange(n_classes), k + 6)
    features = means[labels] + 1.5 * rng.normal(size=(len(labels), width))
    features[:, :3] += 12 * rng.normal(size=(len(labels), 3))
    training = np.tile(np.arange(k + 6) < k, n_classes)
    ids = [f"i{row}" for row in range(len(labels))]
    fold = Fold(0, np.flatnonzero(training), np.array([], int), np.flatnonzero(~training))
    columns = {"image_id": ids, "group_id": ids}
    return {
        "data": (features, labels, np.array(ids)),
        "fold": fold,
        "guard": Guard(fold, columns),
        "profiles": profiles,
    }


def class_means(study: dict) -> np.ndarray:
    """Of all photographs (C, d), less their mean."""
    features, labels, _ = study["data"]
    means = np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])
    return means - means.mean(axis=0)


def accuracy(probe, study: dict) -> float:
    features, labels, _ = study["data"]
    test = study["fold"].test
    return float((probe.classes[probe.scores(features[test]).argmax(axis=1)] == labels[test]).mean())


@pytest.mark.parametrize(("k", "gain"), [(1, 0.2), (3, 0.05)])
def test_knowledge_that_fits_is_used_and_gains(k, gain):
    few = study(k)
    alone = fit_linear_probe(*few["data"], few["fold"].train, few["guard"])
    probe, choice = fit_informed_probe(*few["data"], few["fold"].train, few["guard"], few["profiles"])
    assert choice.used and choice.left_out_loss < choice.left_out_chance - 0.3
    assert accuracy(probe, few) > accuracy(alone, few) + gain


@pytest.mark.parametrize("k", [1, 3])
def test_knowledge_that_does_not_fit_changes_nothing(k):
    few = study(k)
    alone = fit_linear_probe(*few["data"], few["fold"].train, few["guard"])
    shuffled = np.random.default_rng(5).permutation(few["profiles"])
    probe, choice = fit_informed_probe(*few["data"], few["fold"].train, few["guard"], shuffled)
    assert not choice.used
    np.testing.assert_array_equal(probe.weights, alone.weights)
    np.testing.assert_array_equal(probe.biases, alone.biases)
    assert probe.temperature == alone.temperature


def test_nothing_of_rejected_knowledge_is_left_beside_images_by_adapters():
    few = study(3)
    features, labels, groups = few["data"]
    n, made = len(features), np.random.default_rng(6).integers(0, 24, 60)  # synthetic images, by and without adapters
    features = np.vstack([features, features[few["fold"].train][made] + np.random.default_rng(7).normal(size=(60, 30))])
    labels = np.concatenate([labels, labels[few["fold"].train][made]])
    labels[n : n + 30] = np.random.default_rng(9).integers(0, 24, 30)  # those by words show the wrong conditions
    groups = np.concatenate([groups, [f"s{number}" for number in range(60)]])
    fold = Fold(0, np.concatenate([few["fold"].train, np.arange(n, n + 60)]), few["fold"].val, few["fold"].test)
    guard = Guard(fold, {"image_id": groups.tolist(), "group_id": groups.tolist()})
    shuffled = np.random.default_rng(12).permutation(few["profiles"])
    by_words = np.arange(60) < 30
    all_images = SyntheticRows(
        np.array([], int), np.arange(n, n + 60), by_words, np.array([], int), np.zeros((0, 6), bool)
    )
    rng = np.random.default_rng(8)
    reader_labels = 24 + np.repeat(np.arange(10), 3)
    readers = Teachers(rng.normal(size=(30, 30)), rng.random((30, 6)), reader_labels, np.ones(30, int))
    known, choice = fit_informed_probe(
        features, labels, groups, few["fold"].train, guard, shuffled, readers, all_images
    )
    adapters = dataclasses.replace(all_images, prior=all_images.prior[30:], by_words=by_words[30:])
    nothing = (shuffled[:, :0], None, adapters, False)
    unknown, _ = fit_informed_probe(features, labels, groups, few["fold"].train, guard, *nothing)
    assert not choice.used and choice.left_out_loss is not None
    np.testing.assert_array_equal(known.weights, unknown.weights)
    assert known.temperature == unknown.temperature
    plain = fit_linear_probe(features, labels, groups, few["fold"].train, guard)
    assert known.weights.shape != plain.weights.shape or np.abs(known.weights - plain.weights).max() > 0.01


def test_recorded_terms_tell_more_than_frequencies_and_those_of_held_out_people_have_no_say():
    """Each person has terms of their own, drawn by the frequencies of the class; the terms move the features."""
    rng = np.random.default_rng(8)
    profiles, labels = rng.choice([0.2, 0.8], (30, 8)), np.repeat(np.arange(30), 8)
    persons = (rng.random((240, 8)) < profiles[labels]).astype(float)
    features = persons @ rng.normal(size=(8, 40)) + 0.7 * rng.normal(size=(240, 40))
    ids = [f"i{row}" for row in range(240)]
    training = np.arange(240) % 8 == 0
    fold = Fold(0, np.flatnonzero(training), np.array([], int), np.flatnonzero(~training))
    asked = (features, labels, np.array(ids), fold.train, Guard(fold, {"image_id": ids, "group_id": ids}), profiles)
    right = {}
    for name, recorded in (("frequencies", None), ("recorded", persons), ("held out unknown", persons.copy())):
        if name == "held out unknown":
            recorded[~training] = np.nan
        probe, choice = fit_informed_probe(*asked, recorded=recorded)
        best = probe.classes[probe.scores(features[fold.test]).argmax(axis=1)]
        assert choice.used
        right[name] = float((best == labels[fold.test]).mean())
    assert right["recorded"] > right["frequencies"] + 0.05
    assert right["held out unknown"] == right["recorded"]


def test_a_person_is_known_by_recorded_terms_and_else_by_the_terms_of_the_condition():
    columns = {"label": [1, 1], "hpo_ids": [["HP:0000316", "HP:0000001"], None]}
    features = Features({"label": ClassLabel(names=["NA", "BBX"]), "hpo_ids": [Value("string")]})
    images = Dataset.from_dict(columns, features=features)
    of_classes = np.array([[0.75, 0.75], [0.25, 0.5]])
    known = person_profiles(images, of_classes, ["HP:0000316", "HP:0000486"])
    assert known.tolist() == [[1.0, 0.0], [0.25, 0.5]]


def test_a_condition_is_left_out_of_its_own_prediction():
    """Each class has photographs of its own kind, which its terms do not say: only its own photographs could tell."""
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(20), 4)
    features = (5 * rng.normal(size=(20, 40)))[labels] + 0.1 * rng.normal(size=(80, 40))
    profiles = rng.random((20, 8))
    teachers = Teachers(features, profiles[labels], labels, np.zeros(80, int))
    losses, chance = left_out_losses(teachers, profiles, labels, np.arange(20), Shares(1.0, 0.1))
    assert losses.mean() > 0.8 * chance.mean()


def test_held_out_rows_are_refused_and_their_features_have_no_say():
    few = study(2)
    features, labels, groups = few["data"]
    with pytest.raises(LeakError, match="is not on the training side"):
        fit_informed_probe(features, labels, groups, few["fold"].test[:1], few["guard"], few["profiles"])
    probe, _ = fit_informed_probe(features, labels, groups, few["fold"].train, few["guard"], few["profiles"])
    changed = features.copy()
    changed[few["fold"].test] = np.nan
    again, _ = fit_informed_probe(changed, labels, groups, few["fold"].train, few["guard"], few["profiles"])
    np.testing.assert_array_equal(probe.weights, again.weights)


def test_readers_of_other_conditions_teach_what_terms_look_like():
    few = study(1)
    rng = np.random.default_rng(2)
    rng.random((24, 6))
    effects = rng.normal(size=(6, 30)) * 0.9  # as in study
    profiles = (np.random.default_rng(9).random((60, 6)) < 0.5).astype(float)
    conditions = np.repeat(np.arange(60), 5)
    taught = profiles[conditions] @ effects + 4.0 + 1.5 * np.random.default_rng(10).normal(size=(300, 30))
    readers = Teachers(taught, profiles[conditions], 24 + conditions, np.ones(300, int))  # 4.0: their domain's offset
    without, _ = fit_informed_probe(*few["data"], few["fold"].train, few["guard"], few["profiles"])
    probe, choice = fit_informed_probe(*few["data"], few["fold"].train, few["guard"], few["profiles"], readers)
    assert choice.used
    assert accuracy(probe, few) > accuracy(without, few) + 0.05


@pytest.mark.parametrize(("k", "chosen"), [(4, knowledge_choice.SHRINKAGE), (1, 1.0)])
def test_a_shrinkage_that_suits_left_out_conditions_must_suit_seen_ones_where_that_can_be_asked(k, chosen, monkeypatch):
    """Three directions vary much more than the others, which a spherical covariance (1.0) does not see; of one
    photograph per condition there are no inner folds that could tell."""

    def sphere_is_best(*asked):
        losses, chance = left_out_losses(*asked)
        return losses - np.where(np.array(SHRINKAGES) == 1.0, 9.0, 0.0), chance

    few = study(k)
    monkeypatch.setattr(knowledge_choice, "left_out_losses", sphere_is_best)
    _, choice = fit_informed_probe(*few["data"], few["fold"].train, few["guard"], few["profiles"])
    assert choice.used and choice.shrinkage == chosen


@pytest.mark.parametrize("k", [1, 2, 4])
def test_images_whose_terms_photographs_do_not_follow_at_all_are_not_used(k):
    """All unseen conditions are predicted alike then, and only rounding tells them apart: at random."""
    few = study(k)
    features, labels, groups = few["data"]
    n, rng = len(features), np.random.default_rng(13)
    said = rng.random((300, 6)) < 0.5
    effects = np.linalg.lstsq(few["profiles"] - few["profiles"].mean(axis=0), class_means(few), rcond=None)[0]
    features = np.vstack([features, -(said @ effects)])  # what each term does, turned round
    labels, names = np.concatenate([labels, np.zeros(300, int)]), [f"s{number}" for number in range(300)]
    groups, of_terms = np.concatenate([groups, names]), n + np.arange(300)
    fold = Fold(0, np.concatenate([few["fold"].train, of_terms]), few["fold"].val, few["fold"].test)
    guard = Guard(fold, {"image_id": groups.tolist(), "group_id": groups.tolist()})
    nothing = np.array([], int)
    synthetic = SyntheticRows(nothing, nothing, nothing.astype(bool), of_terms, said)
    asked = (features, labels, groups, few["fold"].train, guard, few["profiles"], None, synthetic)
    _, choice = fit_informed_probe(*asked, use_terms=False)
    assert choice.left_out_loss == pytest.approx(choice.left_out_chance, abs=1e-9)
    assert not choice.used
    rounded = choice.left_out_chance - 1e-13 * np.linspace(1, 2, 8)
    assert not knowledge_choice.is_lower(rounded, np.full(8, choice.left_out_chance), 1.5)


# ---- shares, synthetic images, conditions without photographs


def people_drawn_with(term_share, rest_share, n_people):
    """Photographs of n people with each condition, drawn from the model with these shares."""
    rng = np.random.default_rng(3)
    profiles = (rng.random((60, 8)) < 0.5).astype(float)
    conditions = np.repeat(np.arange(60), n_people)
    centred = profiles - profiles.mean(axis=0)
    size = np.sqrt((centred**2).sum(axis=1).mean())
    means = np.sqrt(term_share) / size * centred @ rng.normal(size=(8, 200))
    means += np.sqrt(rest_share) * rng.normal(size=(60, 200))
    features = means[conditions] + rng.normal(size=(60 * n_people, 200)) + 5.0
    return Teachers(features, profiles[conditions], conditions, np.zeros(len(features), int)), profiles


@pytest.mark.parametrize(("term_share", "rest_share"), [(1.0, 0.03), (0.1, 0.3), (0.2, 0.1), (0.03, 0.03)])
def test_the_shares_that_features_were_drawn_with_are_found(term_share, rest_share):
    teachers, profiles = people_drawn_with(term_share, rest_share, 6)
    shares, _ = likeliest_shares(teachers, likeness(teachers, profiles))
    assert shares.term_share == pytest.approx(term_share, rel=0.27)  # a step of the grid, whatever they were drawn as
    assert (shares.rest_share, shares.scale) == (rest_share, 0.0)


@pytest.mark.parametrize("term_share", [0.05, 0.16, 0.5])
def test_of_one_person_per_condition_what_terms_do_not_explain_is_as_expected(term_share):
    teachers, profiles = people_drawn_with(term_share, 0.03, 1)
    shares, _ = likeliest_shares(teachers, likeness(teachers, profiles))
    assert shares.rest_share == EXPECTED.rest_share, "the photographs cannot tell it from the people"
    assert shares.term_share == pytest.approx(term_share, rel=0.4)


def test_directions_of_terms_are_learnt_from_images_that_say_them_and_scaled_by_photographs():
    rng = np.random.default_rng(4)
    effects, said = rng.normal(size=(6, 40)), rng.random((800, 6)) < 0.4
    said[:, 5] = False
    directions = term_directions(9.0 + said @ effects + rng.normal(size=(800, 40)), said)
    assert np.abs(directions[:5] - effects[:5]).max() < 0.5 and not directions[5].any()
    profiles = (rng.random((40, 6)) < 0.5).astype(float)
    features = 0.5 * profiles @ np.vstack([effects[:5], np.zeros((1, 40))]) + rng.normal(size=(40, 40))
    teachers = Teachers(features, profiles, np.arange(40), np.zeros(40, int))
    shares, _ = likeliest_shares(teachers, likeness(teachers, profiles), directions, use_terms=False)
    assert shares.term_share == 0 and shares.scale == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("followed", "believed"), [(0.8, 0.8), (1.2, 1.0)])  # never further than images
def test_photographs_follow_images_as_far_whatever_the_vocabulary_and_classes_are_predicted_as_far(followed, believed):
    rng = np.random.default_rng(11)
    effects = rng.normal(size=(30, 60))
    profiles = (rng.random((40, 30)) < 0.5).astype(float)
    features = followed * profiles @ effects + rng.normal(size=(40, 60))
    teachers = Teachers(features, profiles, np.arange(40), np.zeros(40, int))
    shares, _ = likeliest_shares(teachers, likeness(teachers, profiles), effects, use_terms=False)
    assert shares.scale == pytest.approx(believed, abs=0.02)
    unseen = np.vstack([profiles, (rng.random((5, 30)) < 0.5).astype(float)])
    means = informed_means(teachers, unseen, Shares(0.0, 0.01, believed), effects).means
    predicted = believed * (unseen[40:] - unseen.mean(axis=0)) @ effects
    offset = means[40:] - predicted
    assert np.abs(offset - offset.mean(axis=0)).max() < 1e-9  # differences between unseen classes are those of images


def test_images_of_a_condition_count_as_one_subject_whose_domain_is_its_own():
    rng = np.random.default_rng(5)
    features = rng.normal(size=(4 + 30, 8))
    labels = np.array([0, 1, 2, 3] + [0] * 10 + [1] * 20)
    nothing_known = np.zeros((4, 0))
    photographs = Teachers(features[:4], nothing_known, labels[:4], np.zeros(4, int))
    images = mean_images(features, labels, np.arange(4, 34), nothing_known, 1)
    shifted = dataclasses.replace(images, features=images.features + 100.0)
    means = []
    for prior in (images, shifted):
        teachers = photographs.joined(prior)
        prediction = predict_means(teachers, likeness(teachers, nothing_known), Shares(0.0, 1e6))
        means.append(prediction.of_classes @ teachers.features)
    np.testing.assert_allclose(means[0], means[1], atol=1e-6)  # what all synthetic images share has no part
    gap = images.features.mean(axis=0) - features[:2].mean(axis=0)  # the domain's, where classes have both
    expected = (features[0] + PRIOR_WEIGHT * (images.features[0] - gap)) / (1 + PRIOR_WEIGHT)
    np.testing.assert_allclose(means[0][0], expected, atol=1e-3)
    np.testing.assert_allclose(means[0][2], features[2], atol=1e-3)


def test_synthetic_rows_are_told_apart_by_their_use_and_pass_the_guard():
    uses = SyntheticUses(np.array(["prior", "terms", "data"], object), np.array([True, True, False]), np.eye(3) > 0)
    rows = uses.rows(np.array([0, 5, 6, 7]), 5)
    assert (rows.prior.tolist(), rows.terms.tolist(), rows.data.tolist()) == ([5], [6], [7])
    assert rows.by_words.tolist() == [True] and rows.said.tolist() == [[False, True, False]]
    few = study(2)
    held_out = few["fold"].test[:1]
    nothing = SyntheticRows.none(6)
    for leak in (
        {"data": held_out},
        {"prior": held_out, "by_words": np.array([False])},
        {"terms": held_out, "said": np.ones((1, 6), bool)},
    ):
        with pytest.raises(LeakError, match="is not on the training side"):
            fit_informed_probe(
                *few["data"],
                few["fold"].train,
                few["guard"],
                few["profiles"],
                synthetic=dataclasses.replace(nothing, **leak),
            )


def test_seen_classes_would_take_every_image_of_an_unseen_one_without_the_correction():
    full = study(4)
    features, labels, ids = full["data"]
    unseen, (fold,) = np.arange(6), unseen_folds({"label": labels, "group_id": ids}, [f"c{c:02}" for c in range(24)], [
        f"c{c:02}" for c in range(6)
    ])  # fmt: skip
    assert set(labels[fold.test]) == set(unseen) and not np.isin(labels[fold.train], unseen).any()
    guard = Guard(fold, {"image_id": ids, "group_id": ids})
    probe, choice = fit_informed_probe(features, labels, ids, fold.train, guard, full["profiles"])
    scores = probe.scores(features[fold.test])
    teachers = Teachers(
        features[fold.train], full["profiles"][labels[fold.train]], labels[fold.train], np.zeros(len(fold.train), int)
    )
    pull, _ = pull_of_seen(
        teachers, full["profiles"], choice.shares, labels[fold.train], ids[fold.train], choice.shrinkage
    )
    uncorrected = scores + np.where(np.isin(probe.classes, unseen), 0.0, pull)
    hits = [(each.argmax(axis=1) == labels[fold.test]).mean() for each in (scores, uncorrected)]
    assert pull > 0 and hits[0] > hits[1] + 0.1


def test_a_patient_of_a_condition_that_is_left_out_trains_no_other_condition():
    columns = {"label": np.repeat(np.arange(10), 2), "group_id": [*"aabbccddeeffgghhiia", "z"]}
    names = [f"c{number}" for number in range(10)]
    (fold,) = unseen_folds(columns, names, ["c0", "c1"])
    assert fold.test.tolist() == [0, 1, 2, 3] and 18 not in fold.train and 19 in fold.train
    dealt = unseen_folds(columns, names, [])
    assert sorted(row for fold in dealt for row in fold.test.tolist()) == list(range(20))
    rule = "of the 10 conditions of the dataset, and at least two must be left out and two stay"
    with pytest.raises(ProtocolError, match=f"--left_out names 1 {rule}; name another number"):
        unseen_folds(columns, names, ["c0"])
    with pytest.raises(ProtocolError, match=f"--left_out names 9 {rule}"):
        unseen_folds(columns, names, names[:9])
    few = {name: values[:18] for name, values in columns.items()}
    with pytest.raises(ProtocolError, match="makes 5 groups of the 9 conditions of the dataset, and each needs"):
        unseen_folds(few, names, [])


# ---- nobody who is held out teaches


READERS = {"image_id": ["r0", "r1"], "sha256": ["x", "y"], "subject_id": ["somebody", None], "pixels": ["p", "q"]}


@pytest.mark.parametrize(
    ("column", "value"),
    [("sha256", ["x", "d2"]), ("pixels", ["p", "pix2"]), ("subject_id", [None, "Held Out"]), ("copies", [[], [2]])],
)
def test_a_reader_who_is_held_out_is_refused_whatever_the_name(column, value):
    columns = {"image_id": ["a", "b", "c"], "group_id": ["a", "b", "c"], "sha256": ["d0", "d1", "d2"]}
    columns |= {"subject_id": ["One", "Two", "held out"], "pixels": ["pix0", "pix1", "pix2"]}
    guard = Guard(Fold(0, np.array([0, 1]), np.array([], int), np.array([2])), columns)
    guard.admit_readers(READERS | {"copies": [[], [0]]}, "readers")  # a copy of a training photograph is no leak
    reason = "has the subject_id" if column == "subject_id" else "shows the photograph"
    with pytest.raises(LeakError, match=f"r1 of readers {reason} of image c, which is not on the training side; take"):
        guard.admit_readers(READERS | {"copies": [[], []]} | {column: value}, "readers")


# ---- through train_classifier.py


def code_of(abbr: str) -> int:
    """The ORPHA code that small_datasets gives a condition."""
    return 100 + sum(map(ord, abbr))


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs train_classifier.py on a small dataset, with a table of its conditions' terms and further flags."""
    folder = tmp_path_factory.mktemp("knowledge")
    backbone = save_backbone(tmp_path_factory.mktemp("backbone"), "test_resnet")
    rows = [(abbr, f"MARK:{i % 2}", 1) for i, abbr in enumerate(small_datasets.CONDITIONS)]
    rows += [(abbr, f"MARK:{abbr}", 0.5) for abbr in (*list(small_datasets.CONDITIONS)[:-1], "BBX", "QRS")]
    lines = [f"{code_of(abbr)},{term},{frequency}" for abbr, term, frequency in rows]
    (folder / "terms.csv").write_text("\n".join(["orphanet_code,hpo_id,frequency", *lines]) + "\n")
    dataset = small_datasets.photographs(folder)

    def run(name: str, *flags: object) -> tuple[int, object]:
        given = (
            "--dataset_name",
            dataset,
            "--backbone",
            backbone,
            "--cache_dir",
            folder / "pixels",
            "--no-save_models",
        )
        output = folder / name
        return exit_status(train_classifier, *given, "--output_dir", output, *flags), output

    run.dataset, run.backbone = dataset, backbone
    run.folder, run.terms = folder, ("--knowledge", "terms", "--term_table", folder / "terms.csv")
    return run


def test_the_command_uses_terms_and_says_so(command, capsys):
    status, output = command("informed", *command.terms, "--recorded_terms")
    assert status == 0
    printed = capsys.readouterr().out
    assert "knowledge: 4 of 4 classes have annotated terms, 5 in all" in printed
    assert "WARNING: no photograph has recorded terms (hpo_ids): --recorded_terms is in vain" in printed
    record = json.loads((output / "run.json").read_text())
    assert all({"term_share", "left_out_loss"} <= set(fold["knowledge"]) for fold in record["folds"])
    recipe = json.loads((output / "results.json").read_text())["recipe"]
    assert "knowledge of 5 terms (recorded ones of people who have some)" in recipe
    used = [fold["knowledge"]["used"] for fold in record["folds"]]
    assert ("knowledge was not used in" in printed) == (not all(used))
    settings = json.loads((output / "settings.json").read_text())
    del settings["knowledge_rule"]  # as if begun by a version in which knowledge counted otherwise
    (output / "settings.json").write_text(json.dumps(settings))
    resumed = ("--recorded_terms", "--resume_from_checkpoint", "latest")
    assert command("informed", *command.terms, *resumed)[0] == 2
    assert "does not say with which knowledge_rule it was started" in capsys.readouterr().err


def test_the_command_says_that_three_conditions_are_too_few_to_test_knowledge(command, capsys):
    rows = [f"{code_of(abbr)},MARK:{abbr},1" for abbr in list(small_datasets.CONDITIONS)[:3]]
    (command.folder / "three.csv").write_text("\n".join(["orphanet_code,hpo_id,frequency", *rows]) + "\n")
    status, output = command("untested", "--knowledge", "terms", "--term_table", command.folder / "three.csv")
    assert status == 0
    printed = capsys.readouterr().out
    assert (
        "knowledge will not be used: 4 annotated conditions are required" in printed and "the dataset has 3" in printed
    )
    folds = json.loads((output / "run.json").read_text())["folds"]
    assert (
        f"knowledge was not used in {len(folds)} of {len(folds)} folds: its training side has fewer than 4" in printed
    )
    recipe = json.loads((output / "results.json").read_text())["recipe"]
    assert recipe == "linear_probe, knowledge of 3 terms (not used)"
    assert exit_status(score_runs, "compare", output, output) == 0
    assert "knowledge of 3 terms (not used)" in capsys.readouterr().out


def test_codes_of_the_term_table_that_nobody_has_are_named(command, capsys):
    more = (command.folder / "terms.csv").read_text() + "999999,HP:0000154,0.5\n"
    (command.folder / "more.csv").write_text(more)
    flags = ("--knowledge", "terms", "--term_table", command.folder / "more.csv")
    assert command("unused", *flags)[0] == 0
    qrs, bbx = sorted((code_of("QRS"), code_of("BBX")))
    named = f"--term_table: the rows of 3 ORPHA codes ({qrs}, {bbx}, 999999) are of no condition of the dataset\n"
    assert named in capsys.readouterr().out
    others = small_datasets.photographs(command.folder, "of other conditions", {"BBX": 1, "QRS": 1})
    assert command("unused", *flags, "--reader_dataset", others)[0] == 0
    named = "the rows of 1 ORPHA code (999999) are of no condition of the dataset or of the readers\n"
    assert named in capsys.readouterr().out


def test_few_shot_episodes_name_the_codes_that_nobody_has_too(command, tmp_path, capsys):
    (tmp_path / "terms.csv").write_text((command.folder / "terms.csv").read_text() + "999999,HP:0000154,0.5\n")
    given = ("--dataset_name", command.dataset, "--backbone", command.backbone, "--output_dir", tmp_path / "few")
    flags = ("--knowledge", "terms", "--term_table", tmp_path / "terms.csv", "--head", "discriminant_with_terms")
    few = ("--n_way", 2, "--test_episodes", 4, "--cache_dir", command.folder / "pixels")
    assert exit_status(train_fewshot, *given, *flags, *few) == 0
    printed = capsys.readouterr().out
    assert "--term_table: the rows of 3 ORPHA codes (" in printed
    assert ", 999999) are of no condition of the dataset\n" in printed


def test_one_of_a_thing_is_named_in_the_singular():
    knowledge = Knowledge(np.ones((1, 1)), ["HP:1"], [], "", [])
    knowledge.readers = [Readers("others", Dataset.from_dict({"image_id": ["a"]}), np.ones((1, 1)), np.array([1]))]
    assert knowledge.name() == "knowledge of 1 term and 1 reader"
    assert "1 of 1 class has annotated terms, 1 in all" in knowledge.summary()
    assert knowledge.summary().endswith("readers others: 1 photograph")
    untested = {"knowledge": {"used": False, "left_out_loss": None, "left_out_chance": None}}
    assert with_use("linear_probe, knowledge of 1 term", [untested]) == "linear_probe, knowledge of 1 term (not used)"
    words = dataclasses.replace(knowledge, teaches_photographs=False).name()
    assert with_use(words, [untested]) == "1 annotated term looked for in synthetic images (not used)"


def test_a_sentence_says_in_how_many_folds_knowledge_was_not_used_and_why():
    used = {"knowledge": {"used": True, "left_out_loss": 1.0, "left_out_chance": 1.6}}
    no_better = {"knowledge": {"used": False, "left_out_loss": 1.7, "left_out_chance": 1.6}}
    untested = {"knowledge": {"used": False, "left_out_loss": None, "left_out_chance": None}}
    recipe = "linear_probe, 1-shot, knowledge of 9 terms and 4 readers"
    assert use_of_knowledge([{}, {}]) is None and use_of_knowledge([used, used]) is None
    assert with_use(recipe, [used, no_better]) == recipe and with_use("finetune", [{}]) == "finetune"
    assert with_use(recipe, [no_better, untested]) == recipe + " (not used)"
    some = "linear_probe, + synthetic (x), as terms, 9 terms of synthetic images"
    named = Knowledge(np.zeros((2, 9)), [f"HP:{i}" for i in range(9)], [], "", [], teaches_photographs=False).name()
    assert named == "9 annotated terms looked for in synthetic images", "of which the images say fewer"
    for recipe in (some, f"linear_probe, + synthetic (x), as terms, {named}"):
        assert with_use(f"{recipe}, fog 3", [untested]) == f"{recipe} (not used), fog 3"
    said = use_of_knowledge([used, no_better, no_better])
    assert said == (
        "knowledge was not used in 2 of 3 folds: on conditions left out, the log loss of terms alone (1.70) was not "
        "below that of a guess (1.60) by 1.5 standard errors"
    )
    said = use_of_knowledge([untested, no_better])
    assert "not used in 2 of 2 folds: in 1, its training side has fewer than 4 conditions" in said
    assert "; in 1, on conditions left out" in said


def test_further_people_teach_unless_they_are_held_out(command, capsys):
    others = small_datasets.photographs(command.folder, "others", {"BBX": 3, "QRS": 3})
    assert command("taught", *command.terms, "--reader_dataset", others)[0] == 0
    assert "6 photographs" in capsys.readouterr().out
    same = small_datasets.photographs(command.folder, "renamed", {"NA": 2})  # photographs of NA.1 and NA.2
    assert command("leak", *command.terms, "--reader_dataset", same)[0] == 1
    error = capsys.readouterr().err.splitlines()[-1]
    reason = "2 photographs of the dataset itself that a fold does not train on, such as NA.1; name a dataset of other"
    assert f"--reader_dataset {same} holds {reason}" in error


def test_two_datasets_of_readers_keep_their_own_terms_conditions_and_domains(command, tmp_path):
    one = small_datasets.photographs(tmp_path, "one", {"BBX": 2})
    two = small_datasets.photographs(tmp_path, "two", {"QRS": 2})
    images = load_images(str(command.dataset))
    knowledge = open_knowledge(images, command.folder / "terms.csv", [str(one), str(two)])
    number_of = {term: i for i, term in enumerate(knowledge.terms)}
    for people, abbr in zip(knowledge.readers, ("BBX", "QRS"), strict=True):
        annotated = np.zeros(len(knowledge.terms))
        annotated[number_of[f"MARK:{abbr}"]] = 0.5
        np.testing.assert_allclose(people.profiles, [annotated, annotated])
    n_classes = images.features["label"].num_classes
    assert [people.conditions.tolist() for people in knowledge.readers] == [[n_classes] * 2, [n_classes + 1] * 2]
    backbone = load_backbone(str(command.backbone))
    knowledge.read(Accelerator(cpu=True), backbone, tmp_path / "pixels", 4)
    assert knowledge.teachers.domains.tolist() == [1, 1, 2, 2], "each dataset has an offset of its own"
    fewer = open_knowledge(images, command.folder / "terms.csv", [str(one)])
    assert knowledge.identity() != fewer.identity(), "a run with other readers is another run"


def test_a_reader_who_is_a_copy_of_a_held_out_photograph_is_refused(command, tmp_path):
    """Coded anew under another name and subject: no digest tells, only the pictures themselves."""
    images = load_images(str(small_datasets.of_faces()))
    curator = Curator(tmp_path / "copied-input", ["subject_id"])
    curator.add("BBX.1.jpg", encoded(small_datasets.face(99)), "BBX", subject_id="somebody")
    curator.add("BBX.2.jpg", encoded(images["image"][3].convert("RGB"), quality=60), "BBX", subject_id="another")
    copied = tmp_path / "copied"
    assert exit_status(rdface_dataset, "build", curator.save(), "--output_dir", copied) == 0
    knowledge = Knowledge.of_nothing(3)
    knowledge.readers = [Readers("copied", load_images(str(copied)), np.zeros((2, 0)), np.array([3, 3]))]
    accelerator, backbone = Accelerator(cpu=True), load_backbone(str(command.backbone))
    knowledge.read(accelerator, backbone, tmp_path / "pixels", 4)
    decoding = (backbone.image_size, backbone.face_alignment, tmp_path / "pixels")
    decoded = cached_pixels(accelerator, images, *decoding, records=True)
    columns, rows = guarded_columns(images, decoded.uint8), np.arange(12)
    for held_out in ([3], [4]):
        fold = Fold(0, np.setdiff1d(rows, held_out), np.array([], int), np.array(held_out))
        asked = ([fold], columns, decoded.records)
        if held_out == [4]:
            knowledge.refuse_held_out(*asked)
        else:
            with pytest.raises(LeakError, match=r"BBX\.2 of copied shows the photograph of image .*, which is not on"):
                knowledge.refuse_held_out(*asked)


def test_readers_are_refused_before_anything_is_decoded(command, capsys, monkeypatch):
    monkeypatch.setattr(Study, "decode", lambda *_: pytest.fail("photographs were decoded"))
    others = small_datasets.photographs(command.folder, "others again", {"BBX": 3, "QRS": 3})
    assert command("twice", *command.terms, "--reader_dataset", others, others)[0] == 2
    error = capsys.readouterr().err.splitlines()[-1]
    twice = f"BBX.1 of {others} and BBX.1 of {others} are the same photograph (6 such), which would count twice"
    assert f"--reader_dataset: {twice}; name each dataset once" in error
    overlapping = small_datasets.photographs(command.folder, "overlapping", {"QRS": 1})
    assert command("overlap", *command.terms, "--reader_dataset", others, overlapping)[0] == 2
    assert f"QRS.1 of {others} and QRS.1 of {overlapping} are the same photograph (1 such)" in capsys.readouterr().err
    assert command("own", *command.terms, "--reader_dataset", command.dataset)[0] == 1
    assert f"--reader_dataset {command.dataset} holds 11 photographs of the dataset" in capsys.readouterr().err


def test_a_copy_of_a_photograph_on_neither_side_is_refused_too():
    columns = {"image_id": ["a", "b", "c"], "group_id": ["a", "b", "c"], "sha256": ["d0", "d1", "d2"]}
    nothing = np.array([], int)
    guard = Guard(Fold(0, np.array([0, 1]), nothing, nothing), columns | {"pixels": ["pix0", "pix1", "pix2"]})
    with pytest.raises(LeakError, match="r1 of readers shows the photograph of image c, which is not on"):
        guard.admit_readers(READERS | {"copies": [[], [2]]}, "readers")


def test_nobody_with_a_left_out_condition_teaches_whatever_it_is_called(command, capsys):
    names = list(small_datasets.CONDITIONS)
    flags = (*command.terms, "--k_shot", 0, "--left_out", *names[:2])
    others = small_datasets.photographs(command.folder, "no left-out condition", {"BBX": 2})
    assert command("apart", *flags, "--reader_dataset", others)[0] == 0
    capsys.readouterr()
    curator = Curator(command.folder / "same-condition-input", ["subject_id"])
    curator.add("OTHER.1.jpg", encoded(small_datasets.face(98)), names[1], subject_id="somebody")
    same = command.folder / "same-condition"
    assert exit_status(rdface_dataset, "build", curator.save(), "--output_dir", same) == 0
    assert command("same", *flags, "--reader_dataset", same)[0] == 1
    said = f"{same} holds people with {names[1]} (ORPHA code {code_of(names[1])}), which --k_shot 0 leaves out"
    assert said in capsys.readouterr().err
    images = load_images(str(command.dataset))
    twin = images.map(lambda _: {"orphanet_code": "7"})  # all conditions under one code
    (fold,) = unseen_folds(images, images.features["label"].names, names[:2])
    with pytest.raises(LeakError, match=r"is left out and .* is not, and both are ORPHA code 7"):
        Knowledge.of_nothing(4).refuse_left_out([fold], twin)


def test_images_for_terms_that_say_none_of_them_are_refused_and_those_of_adapters_draw_a_warning():
    images = Dataset.from_dict({"hpo_said": [["MARK:bab"], ["HP:1"]], "made_from": ["words", "adapter and words"]})
    mix, use = SimpleNamespace(parts=[images]), np.array(["terms", "terms"], object)
    uses = uses_of_images(mix, use, ["HP:1", "HP:2"])
    assert uses.said.tolist() == [[False, False], [True, False]]
    assert len(uses.warnings()) == 1 and "it passes too easily" in uses.warnings()[0]
    assert uses_of_images(SimpleNamespace(parts=[images.select([0])]), use[:1], ["MARK:bab"]).warnings() == []
    with pytest.raises(InputError, match="the 2 images for terms say no term that is annotated here; give the --term"):
        uses_of_images(mix, use, ["HP:3"])


def test_readers_of_whom_the_same_code_is_another_condition_are_told(command, capsys):
    names = list(small_datasets.CONDITIONS)
    curator = Curator(command.folder / "renamed-condition-input", ["subject_id"])
    code = str(code_of(names[1]))
    curator.add("ZZZ.1.jpg", encoded(small_datasets.face(97)), "ZZZ", subject_id="somebody", orphanet_code=code)
    renamed = command.folder / "renamed-condition"
    assert exit_status(rdface_dataset, "build", curator.save(), "--output_dir", renamed) == 0
    assert command("renamed codes", *command.terms, "--reader_dataset", renamed)[0] == 0
    assert f"{renamed}, such as {code} is {names[1]} and ZZZ; are the codes right?" in capsys.readouterr().out


def test_photographs_that_every_fold_trains_on_may_be_readers():
    columns = {"image_id": ["a", "b", "c"], "sha256": ["d0", "d1", "d2"], "label": [0, 0, 1]}
    images = Dataset.from_dict(columns)
    knowledge = Knowledge.of_nothing(2)
    knowledge.readers = [Readers("readers", images.select([0]), np.zeros((1, 0)), np.array([0]))]
    folds = [Fold(0, np.array([0, 1]), np.array([], int), np.array([2]))]
    knowledge.refuse_own_photographs(folds, images)
    folds.append(Fold(1, np.array([1, 2]), np.array([], int), np.array([0])))
    with pytest.raises(LeakError, match=r"readers holds 1 photograph of the dataset itself .* such as a; name"):
        knowledge.refuse_own_photographs(folds, images)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--knowledge", "terms"], "none of the dataset's conditions is annotated there"),
        (["--term_table", "terms.csv"], "--term_table requires --knowledge terms"),
        (["--recorded_terms"], "--recorded_terms requires --knowledge terms"),
        (["--k_shot", "0"], "--k_shot 0 requires --knowledge terms"),
        (
            ["--k_shot", "0", "--knowledge", "terms", "--protocol", "paper"],
            "requires --recipe linear_probe and --protocol",
        ),
        (["--k_shot", "0", "--knowledge", "terms", "--synthetic_dataset", "x"], "--k_shot 0 excludes"),
        (["--k_shot", "0", "--knowledge", "terms", "--shuffle_labels"], "--k_shot 0 excludes --shuffle_labels"),
        (["--left_out", "NA"], "--left_out requires --k_shot 0"),
        (["--knowledge", "terms", "--recorded_terms", "--shuffle_labels"], "--recorded_terms cannot be used with"),
        (["--synthetic_as", "prior"], "--synthetic_as requires --synthetic_dataset"),
        (["--knowledge", "terms", "--recipe", "finetune"], "--knowledge terms requires --recipe linear_probe"),
        (["--knowledge", "terms", "--term_table", "nowhere.csv"], "nowhere.csv: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(command, capsys, flags, reason):
    assert command("refused", *flags)[0] == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert reason in error[-1]


def test_conditions_left_out_whole_are_ranked_by_their_terms_alone(command):
    left_out = list(small_datasets.CONDITIONS)[:2]
    status, output = command("unseen", *command.terms, "--k_shot", 0, "--left_out", *left_out)
    assert status == 0
    results = json.loads((output / "results.json").read_text())
    assert results["recipe"].startswith("linear_probe, 0-shot, 2 conditions left out")
    assert results["chance_unseen"] == 0.5 and "top1_unseen" in results["metrics"]
    predictions = prediction_files.read_predictions(output)
    assert set(predictions["label"]) == {0, 1} and predictions["unseen"].all()
    fold = json.loads((output / "folds/seed0_fold0/fold.json").read_text())
    assert not {image_id.split(".")[0] for image_id in fold["train_image_ids"]} & set(left_out)
