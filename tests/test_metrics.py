"""metrics.py: known values, equality with scikit-learn, what an interval over subjects must do, and refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

import metrics

ROOT = Path(__file__).resolve().parents[1]


def random_predictions(n: int = 200, n_classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, C) that lean to the right class, and labels (n,) of which the last class has none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes - 1, n)
    probabilities = rng.dirichlet(np.ones(n_classes), n) + 0.2 * np.eye(n_classes)[labels]
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def as_table(probabilities: np.ndarray, labels: np.ndarray, **columns: object) -> pd.DataFrame:
    """A predictions table, one subject an image unless told otherwise."""
    ids = [f"A.{i}" for i in range(len(labels))]
    return pd.DataFrame(
        {
            "image_id": ids,
            "label": labels,
            "protocol": "strict",
            "fold": np.arange(len(labels)) % 5,
            "split": "test",
            "seed": 0,
            "backbone": "tiny",
            "recipe": "linear_probe",
            "probabilities": list(probabilities.astype(np.float32)),
            "subject": ids,
            **columns,
        }
    )


@pytest.mark.parametrize("k", [1, 3, 5, 11])
def test_topk_equals_scikit_learn_where_nothing_ties(k):
    probabilities, labels = random_predictions()
    expected = top_k_accuracy_score(labels, probabilities, k=k, labels=range(12))
    assert metrics.topk_accuracy(probabilities, labels, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5])
def test_a_constant_predictor_scores_chance(k):
    labels = np.array([0, 0, 3, 9])  # whatever the classes are, 0 included
    assert metrics.topk_accuracy(np.full((4, 10), 0.1), labels, k) == pytest.approx(k / 10)


def test_a_tie_across_the_kth_place_counts_in_part():
    probabilities = np.array([[0.4, 0.2, 0.2, 0.2]])
    assert [metrics.topk_accuracy(probabilities, [2], k) for k in (1, 2, 3, 4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_macro_f1_and_balanced_accuracy_equal_scikit_learn():
    probabilities, labels = random_predictions()  # class 11 is predicted and never true
    predicted = probabilities.argmax(axis=1)
    expected = f1_score(labels, predicted, labels=range(12), average="macro", zero_division=0)
    assert metrics.macro_f1(probabilities, labels) == pytest.approx([expected])
    recall = [(predicted[labels == c] == c).mean() for c in range(11)]
    assert metrics.balanced_accuracy(probabilities, labels) == pytest.approx([np.mean(recall)])
    known = predicted < 11  # scikit-learn warns where a class is predicted and never true
    expected = balanced_accuracy_score(labels[known], predicted[known])
    assert metrics.balanced_accuracy(probabilities[known], labels[known]) == pytest.approx([expected])


def test_weights_count_images():
    probabilities, labels = random_predictions(n=30)
    weights = np.random.default_rng(1).integers(0, 3, 30)
    repeated = np.repeat(np.arange(30), weights)
    for statistic in (metrics.balanced_accuracy, metrics.macro_f1):
        scale = len(np.unique(labels)) / len(np.unique(labels[repeated])) if statistic is metrics.macro_f1 else 1
        (expected,) = statistic(probabilities[repeated], labels[repeated])
        assert statistic(probabilities, labels, weights[None].astype(float)) == pytest.approx([expected * scale])


def hit_rate(hits: np.ndarray):
    return lambda weights: weights @ hits / weights.sum(axis=1)


def test_interval_of_independent_images_is_the_binomial_one():
    hits = np.repeat([1.0, 0.0], [60, 140])
    low, high = metrics.bootstrap_interval(hit_rate(hits), [str(i) for i in range(200)])
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert (low, high) == pytest.approx((0.3 - half_width, 0.3 + half_width), abs=0.01)


def test_interval_knows_that_images_of_one_subject_are_not_independent():
    hits = np.repeat([1.0, 0.0], [15, 35])
    subjects = [str(i) for i in range(50)]
    once = metrics.bootstrap_interval(hit_rate(hits), subjects)
    four_photographs_each = metrics.bootstrap_interval(hit_rate(np.repeat(hits, 4)), np.repeat(subjects, 4))
    assert four_photographs_each == pytest.approx(once)


def test_interval_is_repeatable_and_surrounds_the_estimate():
    probabilities, labels = random_predictions(n=60)
    for statistic in (metrics.macro_f1, metrics.balanced_accuracy):

        def weighted(weights, statistic=statistic):
            return statistic(probabilities, labels, weights)

        low, high = metrics.bootstrap_interval(weighted, [str(i) for i in range(60)], seed=3)
        assert (low, high) == metrics.bootstrap_interval(weighted, [str(i) for i in range(60)], seed=3)
        assert low < statistic(probabilities, labels)[0] < high


def test_a_perfect_classifier_has_a_sure_score():
    labels = np.repeat(np.arange(11), 3)
    scores = metrics.score(as_table(np.eye(12)[labels], labels))  # a class of 12 is not tested
    for name in ("top1", "top5", "top10", "balanced_accuracy"):
        assert scores["metrics"][name] == {"mean": 1.0, "sd": None, "low": 1.0, "high": 1.0}
    assert {scores["metrics"]["macro_f1"][key] for key in ("mean", "low", "high")} == {11 / 12}
    assert "top30" not in scores["metrics"]  # there are 12 classes
    assert (scores["n_test"], scores["n_classes"], scores["n_classes_tested"]) == (33, 12, 11)
    assert scores["chance"] == 1 / 12


def test_strict_averages_over_seeds_the_pooled_out_of_fold_predictions():
    labels = np.zeros(10, int)
    right, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    seeds = [
        as_table(np.stack([right] * hits + [wrong] * (10 - hits)), labels, seed=seed)
        for seed, hits in ((0, 6), (1, 8), (2, 7))
    ]
    top1 = metrics.score(pd.concat(seeds))["metrics"]["top1"]
    assert (top1["mean"], top1["sd"]) == pytest.approx((0.7, 0.1))
    single = metrics.score(seeds[0])["metrics"]["top1"]
    assert (single["mean"], single["sd"]) == (0.6, None)
    assert top1["high"] - top1["low"] < single["high"] - single["low"]  # of the average over seeds


def test_paper_averages_over_fold_models_and_ignores_validation_rows():
    labels = np.zeros(10, int)
    right, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    folds = [
        as_table(np.stack([right] * hits + [wrong] * (10 - hits)), labels, protocol="paper", fold=fold)
        for fold, hits in enumerate((6, 8, 7))
    ]
    validation = as_table(np.stack([wrong] * 10), labels, protocol="paper", fold=0, split="val")
    scores = metrics.score(pd.concat([*folds, validation]))
    assert scores["n_replicates"] == 3 and scores["n_test"] == 10
    assert (scores["metrics"]["top1"]["mean"], scores["metrics"]["top1"]["sd"]) == pytest.approx((0.7, 0.1))


def test_the_order_of_rows_does_not_matter():
    table = as_table(*random_predictions())
    assert metrics.score(table.sample(frac=1, random_state=0)) == metrics.score(table)


def test_mixed_settings_and_incomplete_seeds_are_refused():
    table = as_table(*random_predictions(n=10))
    with pytest.raises(ValueError, match="2 values of backbone"):
        metrics.score(pd.concat([table, table.assign(backbone="other", seed=1)]))
    with pytest.raises(ValueError, match="did not test the same images"):
        metrics.score(pd.concat([table, table.assign(seed=1)[:-1]]))


def spoil(table: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    table[column] = [value if i == row else old for i, old in enumerate(table[column])]
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="subject"), "column subject is missing"),
        (lambda t: t[:0], "it holds no predictions"),
        (lambda t: spoil(t, 3, "probabilities", [0.5, 0.2, np.nan]), ":4: probabilities must be finite"),
        (lambda t: spoil(t, 3, "probabilities", [0.5, 0.2, 0.2]), ":4: probabilities must .* add up to 1"),
        (lambda t: spoil(t, 3, "probabilities", [0.5, 0.5]), "differ in their number of classes"),
        (lambda t: spoil(t, 2, "label", 3), ":3: label 3 is none of the 3 classes"),
        (lambda t: pd.concat([t, t[:1]]), r"image A\.0 is predicted twice"),
    ],
)
def test_damaged_predictions_are_refused_with_their_row(tmp_path, change, message):
    file = tmp_path / "predictions.parquet"
    change(as_table(*random_predictions(n=6, n_classes=3))).to_parquet(file)
    with pytest.raises(ValueError, match=message):
        metrics.read_predictions(file)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "predictions.parquet").write_text("not Parquet")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        metrics.read_predictions(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        metrics.read_predictions(tmp_path / "elsewhere")


def test_the_command_prints_the_scores_of_several_seeds(tmp_path):
    table = as_table(*random_predictions())
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        table.assign(seed=seed).to_parquet(tmp_path / str(seed) / "predictions.parquet")
    command = [sys.executable, ROOT / "metrics.py", "score", tmp_path / "0", tmp_path / "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    scores = json.loads(run.stdout)
    assert scores == metrics.score(metrics.read_predictions([tmp_path / "0", tmp_path / "1"]))
    assert scores["seeds"] == [0, 1] and scores["metrics"]["top1"]["sd"] == 0

    run = subprocess.run([*command[:3], tmp_path / "nothing"], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "no such file" in run.stderr
