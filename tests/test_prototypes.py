"""prototypes.py and prototype_training.py: heads against their formulas and scikit-learn, and what may be looked at."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from sklearn.neighbors import NearestCentroid

from classification import prototypes
from classification.backbones import Backbone
from classification.episodes import Episodes, draw_episodes, hits
from classification.few_shot_names import HEADS
from classification.few_shot_run import means_by_terms
from classification.fine_tuning import Checkpoint
from classification.knowledge_prior import Shares, Teachers
from classification.prototype_training import Training, fit_prototypes, prototype_logits, trained_scores
from classification.prototypes import (
    FALLBACKS,
    HeadChoice,
    accuracy_of,
    best_temperature,
    choose_heads,
    fit_statistics,
    head_scores,
    informed_means,
    probabilities,
)
from curation import protocols
from curation.leak_guard import Guard
from harness.errors import InputError, LeakError
from harness.seeds import derived_seed
from imaging.pixel_cache import Pixels


def study(n_classes: int = 20, n_images: int = 5, width: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of unit length (n, d), labels and groups (n,)."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(n_classes), n_images)
    noise = rng.normal(size=(len(labels), width)) * np.linspace(0.2, 2, width)  # classes differ in quiet directions
    features = 1.0 + 0.8 * rng.normal(size=(n_classes, width))[labels] + noise
    return (
        features / np.linalg.norm(features, axis=1, keepdims=True),
        labels,
        np.array([f"g{i}" for i in labels * 0 + np.arange(len(labels))]),
    )


def drawn(labels: np.ndarray, groups: np.ndarray, k: int = 1, n: int = 60) -> Episodes:
    return draw_episodes(np.flatnonzero(labels >= 12), labels, groups, 5, k, n, np.random.default_rng(0))


def test_each_head_equals_its_formula():
    features, labels, groups = study()
    episodes, base = drawn(labels, groups, k=3, n=4), np.flatnonzero(labels < 12)
    statistics = fit_statistics(features, labels, base)
    shown = features[episodes.support[2, 1]]  # of the second class of the third episode
    query = features[episodes.query[2, 4]]

    mean = shown.mean(axis=0)
    cosine = query @ mean / np.linalg.norm(query) / np.linalg.norm(mean)
    assert head_scores("cosine", features, episodes, statistics, None)[2, 4, 1] == pytest.approx(cosine)

    centre = features[base].mean(axis=0)
    unit = [(x - centre) / np.linalg.norm(x - centre) for x in (*shown, query)]
    distance = -((unit[3] - np.mean(unit[:3], axis=0)) ** 2).sum()
    assert head_scores("centred_mean", features, episodes, statistics, None)[2, 4, 1] == pytest.approx(distance)

    scale = statistics.deviations + np.median(statistics.deviations)
    shift = (mean - centre) / scale
    shift = np.sign(shift) * np.maximum(np.abs(shift) - 0.5 / np.sqrt(3), 0)  # half a standard error of three images
    distance = -((((query - centre) / scale) - shift) ** 2).sum()
    assert head_scores("shrunken_centroid", features, episodes, statistics, 0.5)[2, 4, 1] == pytest.approx(distance)

    means = np.stack([features[labels == c].mean(axis=0) for c in range(12)])
    residuals = features[base] - means[labels[base]]
    within = residuals.T @ residuals / (len(base) - 12)
    precision = np.linalg.inv(0.7 * within + 0.3 * np.trace(within) / 12 * np.eye(12))
    shrunk = 3 / 4 * (mean - centre)
    discriminant = (query - centre) @ precision @ shrunk - 0.5 * shrunk @ precision @ shrunk
    assert head_scores("discriminant", features, episodes, statistics, 0.3)[2, 4, 1] == pytest.approx(discriminant)


@pytest.mark.parametrize("width", [12, 40])
def test_variances_are_about_the_class_means_and_count_a_degree_less_for_each(width):
    """Also where 24 images of 12 conditions span less than the space: a variance that nobody shows is 0."""
    features, labels, _ = study(n_images=2, width=width)
    base = np.flatnonzero(labels < 12)
    statistics = fit_statistics(features, labels, base)
    means = np.stack([features[labels == c].mean(axis=0) for c in range(12)])
    residuals = features[base] - means[labels[base]]
    variances = (residuals**2).sum(axis=0) / (24 - 12)
    assert statistics.centre == pytest.approx(features[base].mean(axis=0))
    assert statistics.deviations == pytest.approx(np.sqrt(variances))
    assert statistics.within.mean_variance == pytest.approx(variances.mean())
    scores = head_scores("discriminant", features, drawn(labels, np.arange(40)), statistics, 0.3)
    precision = np.linalg.inv(0.7 * residuals.T @ residuals / 12 + 0.3 * variances.mean() * np.eye(width))
    episodes = drawn(labels, np.arange(40))
    query, mean = (features[rows] - statistics.centre for rows in (episodes.query[2, 4], episodes.support[2, 1, 0]))
    expected = query @ precision @ mean / 2 - 0.5 * mean @ precision @ mean / 4
    assert scores[2, 4, 1] == pytest.approx(expected)


def test_shrunken_centroids_agree_with_scikit_learn_without_shrinking():
    features, labels, groups = study()
    episodes = drawn(labels, groups, k=2, n=20)
    statistics = fit_statistics(features, labels, np.flatnonzero(labels < 12))
    scale = statistics.deviations + np.median(statistics.deviations)
    scores = head_scores("shrunken_centroid", features, episodes, statistics, 0.0)
    for e in range(20):
        classes = np.repeat(np.arange(5), 2)
        theirs = NearestCentroid().fit(features[episodes.support[e].ravel()] / scale, classes)
        assert scores[e].argmax(axis=1).tolist() == theirs.predict(features[episodes.query[e]] / scale).tolist()
    far = head_scores("shrunken_centroid", features, episodes, statistics, 1e6)
    assert np.ptp(far, axis=2) == pytest.approx(0)  # all means shrunk onto the centre


def test_knowing_how_people_vary_helps():
    features, labels, groups = study()
    base = np.flatnonzero(labels < 12)
    episodes, statistics = drawn(labels, groups, n=300), fit_statistics(features, labels, base)
    accuracy = {
        head: accuracy_of(head_scores(head, features, episodes, statistics, choice.setting))
        for head, choice in choose_heads(features, labels, groups, base, 5, 1, 0).items()
    }
    assert set(accuracy) == set(HEADS)
    assert accuracy["discriminant"] > accuracy["centred_mean"] + 0.05 > 0.25


def test_the_chosen_setting_is_that_of_least_loss_on_inner_episodes():
    features, labels, groups = study()
    base = np.flatnonzero(labels < 12)
    for head, choice in choose_heads(features, labels, groups, base, 5, 1, 0).items():
        losses = {}
        for setting in prototypes.SETTINGS[head]:
            only = {name: (setting,) if name == head else settings for name, settings in prototypes.SETTINGS.items()}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(prototypes, "SETTINGS", only)
                losses[setting] = choose_heads(features, labels, groups, base, 5, 1, 0, heads=(head,))[head].loss
        assert choice.loss == min(losses.values()) == losses[choice.setting]
        assert choice.loss < np.log(4)  # better than a guess among the four conditions of a part
    other = choose_heads(features, labels, groups, base, 5, 1, 1)
    assert other["cosine"].temperature != choose_heads(features, labels, groups, base, 5, 1, 0)["cosine"].temperature


def test_inner_episodes_are_the_same_in_every_version_and_keep_subjects_apart():
    features, labels, groups = study()
    groups[0::5] = groups[np.roll(np.arange(1, 100, 5), 5)]  # first images show people of other conditions, too
    base, seed = np.flatnonzero(labels < 12), 5
    classes = np.random.default_rng(derived_seed(seed, 3)).permutation(12)
    scores = []
    for k in range(3):
        inner = base[np.isin(labels[base], classes[k::3])]
        rest = base[~np.isin(labels[base], classes[k::3]) & ~np.isin(groups[base], groups[inner])]
        generator = np.random.default_rng(derived_seed(seed, 3, k))
        episodes = draw_episodes(inner, labels, groups, 4, 2, 100, generator)
        statistics = fit_statistics(features, labels, rest)
        scores.append(head_scores("discriminant", features, episodes, statistics, 0.3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(prototypes.SETTINGS, "discriminant", (0.3,))
        (choice,) = choose_heads(features, labels, groups, base, 5, 2, seed, heads=("discriminant",)).values()
    assert (choice.temperature, choice.loss) == best_temperature(scores)


def test_parts_of_two_conditions_are_asked_for_and_of_one_subject_only_if_subjects_need_not_be_apart():
    features, labels, groups = study()
    few = np.flatnonzero(labels < 6)  # three parts of two conditions
    asked = (features, labels, groups, few, 5, 1, 0)
    assert 0 < choose_heads(*asked, heads=("cosine",))["cosine"].loss < np.log(2)
    of_one_person = (features, labels, labels.astype(str), few, 5, 1, 0, ("cosine",))
    assert choose_heads(*of_one_person)["cosine"].loss is None
    assert choose_heads(*of_one_person, subjects_apart=False)["cosine"].loss < np.log(2)


def test_every_question_counts_alike_in_the_loss_of_a_temperature():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(9, 2, 2)) + 2 * np.eye(2), rng.normal(size=(4, 5, 5)) + 2 * np.eye(5)]
    temperature, loss = best_temperature(scores)
    own = [np.diagonal(probabilities(part, temperature), axis1=1, axis2=2).ravel() for part in scores]
    assert loss == pytest.approx(-np.log(np.concatenate(own)).mean())


def test_probabilities_are_the_softmax_of_scores_over_the_temperature():
    scores = np.random.default_rng(0).normal(size=(3, 4, 4))
    odds = np.exp(scores / 2.5)
    assert probabilities(scores, 2.5) == pytest.approx(odds / odds.sum(axis=2, keepdims=True))
    spread = (scores - scores.mean(axis=2, keepdims=True)).std()
    assert probabilities(scores, 0.0) == pytest.approx(probabilities(scores, spread))
    assert probabilities(np.zeros((1, 3, 3)), 0.0) == pytest.approx(np.full((1, 3, 3), 1 / 3))  # all equal: a guess


def test_features_that_are_not_numbers_are_refused():
    features, labels, groups = study()
    episodes, base = drawn(labels, groups, n=5), np.flatnonzero(labels < 12)
    statistics = fit_statistics(features, labels, base)
    features[base[3]] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        fit_statistics(features, labels, base)
    features[episodes.support[1, 2, 0]] = np.nan
    for head in HEADS:
        setting = {"shrunken_centroid": 0.5, "discriminant": 0.3}.get(head)
        with pytest.raises(ValueError, match="not a number"):
            accuracy_of(head_scores(head, features, episodes, statistics, setting))


def test_choices_and_statistics_look_at_base_conditions_only():
    features, labels, groups = study()
    base = np.flatnonzero(labels < 12)
    spoiled = features.copy()
    spoiled[labels >= 12] = np.nan
    asked = (labels, groups, base, 5, 1, 0)
    assert choose_heads(spoiled, *asked) == choose_heads(features, *asked)
    one, other = fit_statistics(spoiled, labels, base), fit_statistics(features, labels, base)
    assert (one.centre == other.centre).all() and (one.deviations == other.deviations).all()


def test_without_base_conditions_or_their_variances_every_head_still_answers():
    features, labels, groups = study()
    episodes = drawn(labels, groups)
    for rows in (np.array([], int), np.flatnonzero(labels < 12)[::5]):  # none; one image per condition
        statistics = fit_statistics(features, labels, rows)
        assert statistics.within is None
        assert statistics.centre == pytest.approx(features[rows].mean(axis=0) if len(rows) else np.zeros(12))
        choices = choose_heads(features, labels, groups, rows, 5, 1, 0)
        for head in HEADS:
            scores = head_scores(head, features, episodes, statistics, choices[head].setting)
            assert accuracy_of(scores) > 0.2 and np.isfinite(scores).all()
            assert choices[head] == HeadChoice(FALLBACKS[head], 0.0)
            assert probabilities(scores, choices[head].temperature).sum(axis=2) == pytest.approx(1)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_that_shows_all_photographs_alike_is_right_by_chance(head):
    """Products of equal features differ by rounding, which made some class the best in all episodes alike."""
    _, labels, groups = study()
    episodes = drawn(labels, groups, n=20)
    for width, seed in itertools.product((37, 368, 768), range(4)):
        feature = np.random.default_rng(seed).normal(size=width)
        features = np.tile(feature / np.linalg.norm(feature), (len(labels), 1))
        statistics = fit_statistics(features, labels, np.flatnonzero(labels < 12))
        scores = head_scores(head, features, episodes, statistics, FALLBACKS[head])
        assert hits(scores) == pytest.approx(np.full((20, 5), 1 / 5)), (width, seed)


def test_the_temperature_calibrates():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3, 3))
    for way in range(3):  # class `way` is right with its own probability
        u = rng.uniform(size=4000)
        odds = np.exp(logits[:, way])
        right = (u[:, None] > (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)).sum(axis=1)
        rolled = (np.arange(3)[None] + (right - way)[:, None]) % 3
        logits[:, way] = np.take_along_axis(logits[:, way], rolled, axis=1)
    temperature, _ = best_temperature([7 * logits])
    assert temperature == pytest.approx(7, rel=0.05)


def test_terms_draw_the_mean_of_one_photograph_to_where_the_condition_lies():
    rng = np.random.default_rng(1)
    profiles = rng.integers(0, 2, (40, 6)).astype(float)
    labels = np.repeat(np.arange(40), 4)
    truth = profiles @ rng.normal(size=(6, 10))
    features = truth[labels] + 2 * rng.normal(size=(160, 10))
    groups = np.array([f"g{i}" for i in range(160)])
    episodes = draw_episodes(np.flatnonzero(labels >= 30), labels, groups, 5, 1, 100, np.random.default_rng(0))
    base = np.flatnonzero(labels < 30)
    statistics = fit_statistics(features, labels, base)
    taught = Teachers(features[base], profiles[labels[base]], labels[base], np.zeros(len(base), int))
    asked = (features, labels, taught, episodes, statistics.centre)
    known = informed_means(*asked, profiles, Shares(1.0, 0.1))
    shuffled = informed_means(*asked, profiles[rng.permutation(40)], Shares(1.0, 0.1))
    accuracy = {
        name: accuracy_of(head_scores("discriminant", features, episodes, statistics, 0.5, means))
        for name, means in (("alone", None), ("known", known), ("shuffled", shuffled))
    }
    assert accuracy["known"] > accuracy["alone"] + 0.1 > accuracy["shuffled"]
    moved = dataclasses.replace(taught, features=taught.features + 7)
    again = informed_means(features + 7, labels, moved, episodes, statistics.centre + 7, profiles, Shares(1.0, 0.1))
    assert again == pytest.approx(known)  # relative to the centre


# ---- a trained network


def small_network() -> Backbone:
    torch.manual_seed(0)
    return Backbone(timm.create_model("test_resnet", num_classes=0).eval(), 32, (0.5,) * 3, (0.25,) * 3)


def coloured(n_classes: int = 12, n_images: int = 4) -> tuple[Pixels, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(n_classes), n_images)
    colours = rng.uniform(30, 220, (n_classes, 1, 1, 3))[labels]
    uint8 = (colours + rng.normal(0, 25, (len(labels), 32, 32, 3))).clip(0, 255).astype(np.uint8)
    return Pixels(uint8, np.zeros(len(labels), bool)), labels, np.array([f"g{i}" for i in range(len(labels))])


def test_logits_are_distances_that_are_not_squared():
    support, query = torch.randn(3, 2, 7), torch.randn(3, 7)
    logits = prototype_logits(support, query)
    assert float(logits[2, 1]) == pytest.approx(-float((query[2] - support[1].mean(dim=0)).norm()), rel=1e-5)


def test_training_stops_and_goes_on_to_the_same_network_and_keeps_the_best_epoch(tmp_path):
    pixels, labels, groups = coloured()
    sides = (np.flatnonzero(labels < 6), np.flatnonzero((labels > 5) & (labels < 9)), np.flatnonzero(labels > 8))
    fold = protocols.Fold(0, *sides, "paper")
    guard = Guard(fold, {"image_id": [f"i{i}" for i in range(48)], "group_id": groups.tolist()})
    training = Training(3, 1, 1e-3, 3, 8, 6)
    inputs = (Accelerator(cpu=True), small_network(), pixels, labels, groups, guard)
    whole, curve = fit_prototypes(*inputs, training, 0, Checkpoint(tmp_path / "a.pt", {}))
    stopped = Training(3, 1, 1e-3, 1, 8, 6)
    fit_prototypes(*inputs, stopped, 0, Checkpoint(tmp_path / "b.pt", {}))
    resumed, curve_again = fit_prototypes(*inputs, training, 0, Checkpoint(tmp_path / "b.pt", {}))
    assert curve_again == curve and [point["epoch"] for point in curve] == [0, 1, 2]
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    episodes = draw_episodes(fold.val, labels, groups, 3, 1, 6, np.random.default_rng(5), False)
    scores = trained_scores(whole, inputs[1], pixels, episodes, torch.device("cpu"), 7)
    assert scores.shape == (6, 3, 3) and (scores <= 0).all()


def test_training_sees_no_held_out_image_and_says_when_the_loss_is_lost(tmp_path):
    pixels, labels, groups = coloured()
    fold = protocols.Fold(0, np.flatnonzero(labels < 6), np.array([], int), np.flatnonzero(labels > 5), "strict")
    guard = Guard(fold, {"image_id": [f"i{i}" for i in range(48)], "group_id": groups.tolist()})
    with pytest.raises(LeakError, match="training episodes"):
        guard.admit(fold.test, "training episodes")
    inputs = (Accelerator(cpu=True), small_network(), pixels, labels, groups, guard)
    with pytest.raises(InputError, match="loss is not finite"):
        fit_prototypes(*inputs, Training(3, 1, 1e30, 1, 8, 6), 0, Checkpoint(tmp_path / "c.pt", {}))


def test_terms_that_no_photograph_shows_draw_no_class_mean():
    study = SimpleNamespace(
        labels=np.array([0, 1]), groups=np.array(["a", "b"]), knowledge=SimpleNamespace(profiles=np.eye(2))
    )
    features, nobody = np.eye(2), np.array([], int)
    taught = Teachers(features[:0], np.zeros((0, 2)), nobody, nobody)
    means, note = means_by_terms(study, features, nobody, taught, None, None, None)
    assert means is None and not note["used"]
