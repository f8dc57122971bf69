"""linear_probe.py: discriminants against scikit-learn and by hand, and that nothing but training images has a say."""

import numpy as np
import pytest
import timm
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from classification.backbones import Backbone
from classification.classifiers import probe_features
from classification.linear_probe import (
    FALLBACK_SHRINKAGE,
    TEMPERATURES,
    choose_regularisation,
    fit_discriminants,
    fit_linear_probe,
)
from curation import protocols
from curation.leak_guard import Guard
from harness import errors


def study(n_classes: int = 6, n_images: int = 5, width: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Features (n, d), labels, groups and columns of a dataset with strict folds; each group has one image."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(n_classes), n_images)
    features = 1.2 * rng.normal(size=(n_classes, width))[labels] + rng.normal(size=(len(labels), width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    groups = np.array([f"g{row}" for row in range(len(labels))])
    columns = {"image_id": [f"i{row}" for row in range(len(labels))], "group_id": groups.tolist()}
    columns["strict_fold"] = protocols.strict_folds(labels.tolist(), groups.tolist())
    return features, labels, groups, columns


# ---- discriminants


def test_discriminants_equal_scikit_learn_where_classes_are_large():
    rng = np.random.default_rng(0)
    labels = np.repeat([2, 5, 7], 4000)
    features = rng.normal(size=(12000, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=(8, 6))[labels]
    for shrinkage in (0.1, 0.6):
        (probe,) = fit_discriminants(features, labels, [shrinkage])
        ours = probe.probabilities(features[::40], n_classes=9)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)
        assert ours[:, [2, 5, 7]] == pytest.approx(theirs.predict_proba(features[::40]), abs=0.01)
        assert ours.sum(axis=1) == pytest.approx(1) and (ours[:, [0, 1, 3, 4, 6, 8]] == 0).all()


def test_discriminants_have_closed_form_without_decomposition():
    """More dimensions than images, one class with a single image: the usual case here."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2])
    features = rng.normal(size=(6, 10))
    (probe,) = fit_discriminants(features, labels, [0.4])
    means = np.stack([features[labels == c].mean(axis=0) for c in range(3)])
    residuals = features - means[labels]
    within = residuals.T @ residuals / 3  # six images, three means
    precision = np.linalg.inv(0.6 * within + 0.4 * np.trace(within) / 10 * np.eye(10))
    shrunk = (means - features.mean(axis=0)) * np.array([3 / 4, 2 / 3, 1 / 2])[:, None]
    assert probe.weights == pytest.approx(shrunk @ precision)
    scores = (features - features.mean(axis=0)) @ precision @ shrunk.T - 0.5 * np.diag(shrunk @ precision @ shrunk.T)
    assert features @ probe.weights.T + probe.biases == pytest.approx(scores)


def test_the_network_of_a_probe_is_the_same_function():
    torch.manual_seed(0)
    backbone = Backbone(timm.create_model("test_resnet", num_classes=0).eval(), 32, (0.5,) * 3, (0.5,) * 3)
    pixels = torch.randn(6, 3, 32, 32)
    with torch.inference_mode():
        features = probe_features(backbone.network(pixels)).numpy()
        (probe,) = fit_discriminants(features, np.array([0, 0, 1, 1, 3, 3]), [0.3])
        probe.temperature = 4.0
        probabilities = probe.classifier(backbone, n_classes=5)(pixels).softmax(dim=1).numpy()
    assert probabilities == pytest.approx(probe.probabilities(features, 5), abs=1e-5)
    assert (probabilities[:, [2, 4]] == 0).all()


# ---- what has a say


@pytest.mark.parametrize("side", ["test", "a group of the test side", "not drawn for the support set"])
def test_an_image_outside_the_training_side_in_a_class_mean_raises(side):
    features, labels, groups, columns = study()
    fold = protocols.folds(columns, "strict")[1]
    rows = fold.train
    if side == "not drawn for the support set":
        fold = protocols.k_shot(fold, labels.tolist(), 2, seed=0)
    elif side == "test":
        rows = np.append(rows, fold.test[0])
    else:
        columns["strict_fold"][rows[0]] = None
        columns["group_id"][rows[0]] = columns["group_id"][fold.test[0]]
        fold = protocols.folds(columns, "strict")[1]
    with pytest.raises(errors.LeakError, match=r"must not reach class means \(prototypes\)"):
        fit_linear_probe(features, labels, groups, rows, Guard(fold, columns))


def test_what_is_not_of_the_training_side_changes_nothing():
    """Garbage in all other rows, of features, labels and groups: the probe stays the same to the last bit."""
    features, labels, groups, columns = study()
    for fold in protocols.folds(columns, "strict"):
        guard = Guard(fold, columns)
        probe = fit_linear_probe(features, labels, groups, fold.train, guard)
        others = np.setdiff1d(np.arange(len(labels)), fold.train)
        assert others.size
        spoilt = [values.copy() for values in (features, labels, groups)]
        spoilt[0][others], spoilt[1][others], spoilt[2][others] = np.nan, -7, groups[fold.train[0]]
        again = fit_linear_probe(*spoilt, fold.train, guard)
        assert (again.shrinkage, again.temperature) == (probe.shrinkage, probe.temperature)
        assert np.array_equal(again.weights, probe.weights) and np.array_equal(again.biases, probe.biases)


def test_regularisation_follows_from_the_images_given():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 6)
    groups = np.arange(48)
    noise = rng.normal(size=(48, 10))
    apart = noise + 20 * rng.normal(size=(8, 10))[labels]
    _, cool = choose_regularisation(apart, labels, groups)
    _, warm = choose_regularisation(noise, labels, groups)
    assert warm > 8 * cool  # where features say nothing, only a flat answer does not lose
    assert cool in TEMPERATURES and warm in TEMPERATURES


def test_a_fitted_probe_has_the_shrinkage_and_temperature_that_its_training_images_choose():
    features, labels, groups, columns = study()
    features = np.random.default_rng(0).normal(size=features.shape)  # says nothing of the classes, so the probe is warm
    fold = protocols.folds(columns, "strict")[0]
    probe = fit_linear_probe(features, labels, groups, fold.train, Guard(fold, columns))
    chosen = choose_regularisation(features[fold.train], labels[fold.train], groups[fold.train])
    assert (probe.shrinkage, probe.temperature) == chosen and probe.temperature != 1
    (uncalibrated,) = fit_discriminants(features[fold.train], labels[fold.train], [probe.shrinkage])
    scores = uncalibrated.scores(features[fold.test]) / probe.temperature
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert probe.probabilities(features[fold.test], 6) == pytest.approx(expected)


def test_a_group_never_straddles_the_inner_folds():
    """Two copies of each photograph, whose features say nothing of the condition: whoever validates on a copy of what
    was learnt believes in them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 8)
    groups = np.arange(48) // 2
    features = rng.normal(size=(24, 40))[groups]
    _, temperature = choose_regularisation(features, labels, groups)
    _, deceived = choose_regularisation(features, labels, np.arange(48))
    assert temperature > 8 * deceived


def test_a_training_side_of_single_images_still_gives_a_probe():
    features, groups = np.eye(4), np.array(list("abcd"))
    columns = {"image_id": list("abcde"), "group_id": list("abcde")}
    fold = protocols.Fold(0, np.arange(4), np.array([], dtype=np.int64), np.array([4]), "strict")
    guard = Guard(fold, columns)
    features, groups, labels = np.vstack([features, np.ones(4)]), np.append(groups, "e"), np.array([0, 1, 2, 3, 4])
    probe = fit_linear_probe(features, labels, groups, fold.train, guard)
    assert probe.probabilities(features[:4], 5).argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert probe.shrinkage == FALLBACK_SHRINKAGE
    wrong = probe.scores(features[:4])[~np.eye(4, dtype=bool)] / probe.temperature
    assert np.abs(wrong).max() < 10  # no answer that is sure of itself beyond all reason
