"""knowledge_prior.py, knowledge_choice.py, knowledge.py: class means and terms against an independent solution, what is
chosen if knowledge fits and if it does not, and that nobody who is held out teaches anything."""

import dataclasses
import json

import numpy as np
import pytest
import small_datasets
from in_process import exit_status
from test_train_classifier import save_backbone

import train_classifier
from classification.knowledge_choice import fit_informed_probe, left_out_losses
from classification.knowledge_prior import Shares, Teachers, likeness, predict_means
from classification.linear_probe import fit_linear_probe
from curation.leak_guard import Guard
from curation.protocols import Fold
from harness.errors import LeakError


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
    with pytest.raises(LeakError, match="r1 of readers shows the photograph or the person of image c"):
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

    run.folder, run.terms = folder, ("--knowledge", "terms", "--term_table", folder / "terms.csv")
    return run


def test_the_command_uses_terms_and_says_so(command, capsys):
    status, output = command("informed", *command.terms)
    assert status == 0
    printed = capsys.readouterr().out
    assert "knowledge: 4 of 4 classes have annotated terms, 5 in all" in printed
    record = json.loads((output / "run.json").read_text())
    assert all({"term_share", "left_out_loss"} <= set(fold["knowledge"]) for fold in record["folds"])
    assert "knowledge of 5 terms" in json.loads((output / "results.json").read_text())["recipe"]


def test_further_people_teach_unless_they_are_held_out(command, capsys):
    others = small_datasets.photographs(command.folder, "others", {"BBX": 3, "QRS": 3})
    assert command("taught", *command.terms, "--reader_dataset", others)[0] == 0
    assert "6 photographs" in capsys.readouterr().out
    same = small_datasets.photographs(command.folder, "renamed", {"NA": 2})  # photographs of NA.1 and NA.2
    assert command("leak", *command.terms, "--reader_dataset", same)[0] == 1
    assert "shows the photograph or the person of image NA." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--knowledge", "terms"], "none of the dataset's conditions is annotated there"),
        (["--term_table", "terms.csv"], "--term_table requires --knowledge terms"),
        (["--knowledge", "terms", "--recipe", "finetune"], "--knowledge terms requires --recipe linear_probe"),
        (["--knowledge", "terms", "--term_table", "nowhere.csv"], "nowhere.csv: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(command, capsys, flags, reason):
    assert command("refused", *flags)[0] == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert reason in error[-1]
