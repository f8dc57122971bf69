"""Metrics, scores of runs, comparisons: known values, scikit-learn, what intervals over subjects must do, refusals."""

import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest, rankdata
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, top_k_accuracy_score

from benchmarks import interval_coverage
from scoring import differential, intervals, metrics, prediction_files, run_scores, score_tables

ROOT = Path(__file__).resolve().parents[1]


def test_scores_are_equal_but_for_rounding_in_their_own_precision():
    best, inf, nan = np.float64(1000.0), np.inf, np.nan
    scores = np.array([best, best - 1e-10, best - 1e-8, -inf, nan])
    assert metrics.equal_but_for_rounding(scores, best).tolist() == [True, True, False, False, False]
    coarse = np.array([0.5, 0.5 - 2e-7, 0.5 - 1e-5], np.float32)
    assert metrics.equal_but_for_rounding(coarse, coarse[0]).tolist() == [True, True, False]
    assert metrics.equal_but_for_rounding(np.array([-inf, 1.0]), -inf).tolist() == [True, False]


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
    for name, statistic in run_scores.statistics_of(12).items():
        scale = len(np.unique(labels)) / len(np.unique(labels[repeated])) if name == "macro_f1" else 1
        (expected,) = statistic(probabilities[repeated], labels[repeated])
        assert statistic(probabilities, labels, weights[None].astype(float)) == pytest.approx([expected * scale]), name


def test_reciprocal_rank_is_that_of_scipys_ranking():
    probabilities, labels = random_predictions()
    ranks = rankdata(-probabilities, axis=1)[np.arange(len(labels)), labels]
    assert metrics.reciprocal_ranks(probabilities, labels) == pytest.approx(1 / ranks)
    assert metrics.mean_reciprocal_rank(probabilities, labels) == pytest.approx([np.mean(1 / ranks)])


def test_reciprocal_rank_of_ties_is_the_mean_over_random_orders():
    probabilities = np.array([[0.4, 0.2, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]])
    expected = [np.mean([1 / 2, 1 / 3, 1 / 4]), np.mean([1, 1 / 2, 1 / 3, 1 / 4])]
    assert metrics.reciprocal_ranks(probabilities, [2, 0]) == pytest.approx(expected)


def test_negative_log_likelihood_equals_scikit_learn_and_survives_a_zero():
    probabilities, labels = random_predictions()
    expected = log_loss(labels, probabilities, labels=range(12))
    assert metrics.negative_log_likelihood(probabilities, labels) == pytest.approx([expected])
    certainly_wrong = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    assert metrics.negative_log_likelihood(certainly_wrong, [0, 0]) == pytest.approx([-np.log(1e-12) / 2])


def test_calibration_error_of_known_bins():
    sure, unsure = [0.9, 0.1], [0.6, 0.4]  # nine times of ten right, and two of five: too sure by 0 and by 0.2
    probabilities = np.array([sure] * 10 + [unsure] * 5)
    labels = np.array([0] * 9 + [1] + [0] * 2 + [1] * 3)
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx([5 / 15 * 0.2])
    assert metrics.expected_calibration_error(probabilities, labels, n_bins=1) == pytest.approx([5 / 15 * 0.2])
    labels = np.array([0] * 9 + [1] + [0] * 5)  # now the second five are not sure enough, by 0.4
    assert metrics.expected_calibration_error(probabilities, labels, n_bins=15) == pytest.approx([5 / 15 * 0.4])


def test_calibration_bins_are_closed_above():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.75, 0.15, 0.1]])
    labels = np.array([0, 1])  # right at 0.5, wrong at 0.75: in one bin they nearly cancel
    for n_bins, expected in ((2, (0.5 + 0.75) / 2), (1, (0.75 - 0.5) / 2)):
        assert metrics.expected_calibration_error(probabilities, labels, n_bins=n_bins) == pytest.approx([expected])


def test_there_are_fifteen_calibration_bins():
    """Below and above 7/15 in two bins (of 14 or 16 they would share one), on either side of 1/2 in one."""
    for pair, expected in (((0.46, 0.47), (0.54 + 0.47) / 2), ((0.49, 0.51), (0.51 - 0.51) / 2)):
        probabilities = np.array([[confidence, 0.4, 0.6 - confidence] for confidence in pair])
        labels = np.array([0, 1])  # the first is right, the second wrong: in one bin they cancel
        assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx([expected])


def test_calibration_error_bin_by_bin():
    probabilities, labels = random_predictions()
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx([expected])


def test_a_constant_predictor_scores_what_is_called_chance():
    labels = np.arange(40) % 8
    scores = run_scores.score(as_table(np.full((40, 8), 1 / 8), labels))["metrics"]
    known = {name: run_scores.chance(name, 8) for name in scores}
    assert [name for name, value in known.items() if value is None] == ["macro_f1", "ece", "smece"]
    for name, value in known.items():
        assert value is None or scores[name]["mean"] == pytest.approx(value, abs=1e-7)
    assert scores["ece"]["mean"] == pytest.approx(0)  # as sure as it is right


def hit_rate(hits: np.ndarray):
    return lambda weights: weights @ hits / weights.sum(axis=1)


def test_interval_of_independent_images_is_the_binomial_one():
    hits = np.repeat([1.0, 0.0], [60, 140])
    low, high = intervals.bootstrap_interval(hit_rate(hits), [str(i) for i in range(200)])
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert (low, high) == pytest.approx((0.3 - half_width, 0.3 + half_width), abs=0.01)


def test_interval_knows_that_images_of_one_subject_are_not_independent():
    hits = np.repeat([1.0, 0.0], [15, 35])
    subjects = [str(i) for i in range(50)]
    once = intervals.bootstrap_interval(hit_rate(hits), subjects)
    four_photographs_each = intervals.bootstrap_interval(hit_rate(np.repeat(hits, 4)), np.repeat(subjects, 4))
    assert four_photographs_each == pytest.approx(once)


def test_interval_is_repeatable_and_surrounds_the_estimate():
    probabilities, labels = random_predictions(n=60)
    for statistic in (metrics.macro_f1, metrics.balanced_accuracy):

        def weighted(weights, statistic=statistic):
            return statistic(probabilities, labels, weights)

        low, high = intervals.bootstrap_interval(weighted, [str(i) for i in range(60)], seed=3)
        assert (low, high) == intervals.bootstrap_interval(weighted, [str(i) for i in range(60)], seed=3)
        assert low < statistic(probabilities, labels)[0] < high


def test_corrected_interval_of_a_plain_mean_is_the_binomial_one():
    hits, subjects = np.repeat([1.0, 0.0], [60, 140]), [str(i) for i in range(200)]
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    low, high = intervals.corrected_interval(hit_rate(hits), subjects)
    assert (low, high) == pytest.approx((0.3 - half_width, 0.3 + half_width), abs=0.002)
    four_photographs_each = intervals.corrected_interval(hit_rate(np.repeat(hits, 4)), np.repeat(subjects, 4))
    assert four_photographs_each == pytest.approx((low, high))


def test_logit_interval_of_a_plain_mean_is_that_of_its_logit_and_stays_within_bounds():
    hits, subjects = np.repeat([1.0, 0.0], [60, 140]), [str(i) for i in range(200)]
    reach = 1.96 * np.sqrt(0.3 * 0.7 / 199) / (0.3 * 0.7)
    expected = [1 / (1 + np.exp(-(np.log(0.3 / 0.7) + side * reach))) for side in (-1, 1)]
    assert intervals.logit_interval(hit_rate(hits), subjects) == pytest.approx(expected, abs=1e-4)
    four_photographs_each = intervals.logit_interval(hit_rate(np.repeat(hits, 4)), np.repeat(subjects, 4))
    assert four_photographs_each == pytest.approx(expected, abs=1e-4)
    low, high = intervals.logit_interval(hit_rate(np.repeat([1.0, 0.0], [9, 1])), subjects[:10])
    assert 0 < low < 0.9 < high < 1
    assert intervals.logit_interval(hit_rate(np.ones(10)), subjects[:10]) == (1, 1)


def test_a_risk_coverage_area_has_the_logit_interval_and_a_difference_of_two_the_bootstrap():
    assert run_scores.interval_of("aurc") is intervals.logit_interval
    assert run_scores.interval_of("aurc", of_difference=True) is intervals.bootstrap_interval
    probabilities, labels = random_predictions(60)
    weighted = functools.partial(run_scores.statistics_of(probabilities.shape[1])["aurc"], probabilities, labels)
    shown = run_scores.score(as_table(probabilities, labels))["metrics"]["aurc"]
    subjects = as_table(probabilities, labels)["subject"]
    assert (shown["low"], shown["high"]) == pytest.approx(intervals.logit_interval(weighted, subjects))


def test_corrected_interval_of_a_calibration_error_knows_its_bias():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 300)
    labels = np.array([rng.choice(5, p=row) for row in probabilities])  # perfectly calibrated: the truth is 0
    subjects = [str(i) for i in range(300)]

    def weighted(weights):
        return metrics.expected_calibration_error(probabilities, labels, weights)

    assert intervals.bootstrap_interval(weighted, subjects)[0] > 0.03
    assert intervals.corrected_interval(weighted, subjects)[0] < 0
    shown = run_scores.score(as_table(probabilities, labels))["metrics"]["ece"]
    assert shown["low"] == 0 < shown["high"] < 0.1


def test_intervals_do_not_depend_on_how_much_fits_in_memory(monkeypatch):
    probabilities, labels = random_predictions(n=60)
    subjects = [str(i // 2) for i in range(60)]

    def everything():
        return [
            intervals.bootstrap_interval(lambda w: metrics.macro_f1(probabilities, labels, w), subjects, n_boot=50),
            intervals.corrected_interval(lambda w: metrics.macro_f1(probabilities, labels, w), subjects, n_boot=50),
            intervals.swap_p_value(metrics.macro_f1, [probabilities], [probabilities[::-1]], labels, subjects, 50),
        ]

    at_once = everything()
    monkeypatch.setattr(intervals, "WEIGHTS_AT_ONCE", 7 * 60)
    assert everything() == at_once


def test_intervals_hold_in_simulated_repetitions():
    population = interval_coverage.Population(interval_coverage.SKILL[0.3])
    scores = interval_coverage.coverage(population, "n >= 400", "drawn", repetitions=120, n_boot=200)
    assert scores["top1"]["n"] > 400 and 0.25 < scores["top1"]["true"] < 0.35
    for name, values in scores.items():  # of 120 at 95 %, fewer than 106 happen once in 300 times
        assert values["covered"] >= 0.88, name


def test_methods_of_equal_skill_are_seldom_told_apart():
    population = interval_coverage.Population(interval_coverage.SKILL[0.3])
    found = interval_coverage.told_apart(population, "n = 113", 150, n_swaps=99, names=["top1", "macro_f1", "ece"])
    assert 0 < max(found.values()) <= 0.11  # of 150 at 5 %, more than 16 happen once in 500 times


def test_a_perfect_classifier_is_as_sure_as_its_number_of_subjects():
    labels = np.repeat(np.arange(11), 3)
    scores = run_scores.score(as_table(np.eye(12)[labels], labels))  # a class of 12 is not tested
    for name in ("balanced_accuracy", "mrr"):
        assert scores["metrics"][name] == {"mean": 1.0, "sd": None, "low": None, "high": None}, "no resample differs"
    low = pytest.approx(33 / (33 + 1.959964**2))  # Wilson's
    for name in ("top1", "top5", "top10"):
        assert scores["metrics"][name] == {"mean": 1.0, "sd": None, "low": low, "high": 1.0}
    for name in ("nll", "ece"):
        assert scores["metrics"][name] == {"mean": 0.0, "sd": None, "low": None, "high": None}
    assert scores["metrics"]["macro_f1"] == {"mean": 11 / 12, "sd": None, "low": None, "high": None}
    assert "top30" not in scores["metrics"]  # there are 12 classes
    assert (scores["n_test"], scores["n_classes"], scores["n_classes_tested"]) == (33, 12, 11)
    assert scores["chance"] == 1 / 12


def test_a_classifier_that_is_always_wrong_claims_no_certainty_and_the_tables_show_no_interval():
    labels = np.arange(30) % 3
    results = run_scores.score(as_table(np.eye(3)[(labels + 1) % 3], labels))
    for name in ("macro_f1", "balanced_accuracy", "aurc"):
        assert (results["metrics"][name]["low"], results["metrics"][name]["high"]) == (None, None)
    assert results["metrics"]["top1"]["low"] == 0 < results["metrics"]["top1"]["high"], "Wilson's"
    rows = {line.split()[0]: line.split()[1:] for line in score_tables.format_table(results).splitlines()[2:]}
    assert rows["macro_f1"][:3] == ["0.00", "-", "-"] and rows["aurc"][:3] == ["1.000", "-", "-"]
    json.loads(json.dumps(results), parse_constant=pytest.fail)


def test_strict_averages_over_seeds_the_pooled_out_of_fold_predictions():
    labels = np.zeros(10, int)
    right, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    seeds = [
        as_table(np.stack([right] * hits + [wrong] * (10 - hits)), labels, seed=seed)
        for seed, hits in ((0, 6), (1, 8), (2, 7))
    ]
    top1 = run_scores.score(pd.concat(seeds))["metrics"]["top1"]
    assert (top1["mean"], top1["sd"]) == pytest.approx((0.7, 0.1))
    single = run_scores.score(seeds[0])["metrics"]["top1"]
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
    scores = run_scores.score(pd.concat([*folds, validation]))
    assert scores["n_replicates"] == 3 and scores["n_test"] == 10
    assert (scores["metrics"]["top1"]["mean"], scores["metrics"]["top1"]["sd"]) == pytest.approx((0.7, 0.1))


def test_the_order_of_rows_does_not_matter():
    table = as_table(*random_predictions())
    assert run_scores.score(table.sample(frac=1, random_state=0)) == run_scores.score(table)


def test_mixed_settings_and_incomplete_seeds_are_refused():
    table = as_table(*random_predictions(n=10))
    with pytest.raises(ValueError, match="2 values of backbone"):
        run_scores.score(pd.concat([table, table.assign(backbone="other", seed=1)]))
    with pytest.raises(ValueError, match="did not test the same images"):
        run_scores.score(pd.concat([table, table.assign(seed=1)[:-1]]))


def spoil(table: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    table[column] = [value if i == row else old for i, old in enumerate(table[column])]
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="subject"), "column subject is missing"),
        (lambda t: t[:0], "it holds no predictions"),
        (lambda t: spoil(t, 3, "probabilities", [0.5, 0.2, np.nan]), ":4: probabilities must be finite"),
        (lambda t: spoil(t, 3, "probabilities", [0.5, 0.2, 0.2]), ":4: probabilities must add up to 1"),
        (lambda t: spoil(t, 3, "probabilities", [0.5, 0.5]), "differ in their number of classes"),
        (lambda t: spoil(t, 2, "label", 3), ":3: label 3 is none of the 3 classes"),
        (lambda t: pd.concat([t, t[:1]]), r"image A\.0 is predicted twice"),
    ],
)
def test_damaged_predictions_are_refused_with_their_row(tmp_path, change, message):
    file = tmp_path / "predictions.parquet"
    change(as_table(*random_predictions(n=6, n_classes=3))).to_parquet(file)
    with pytest.raises(ValueError, match=message):
        prediction_files.read_predictions(file)


def written(folder: Path, table: pd.DataFrame) -> Path:
    table.to_parquet(folder / "predictions.parquet")
    return folder / "predictions.parquet"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", [0, 1, None, 1, 0, 1], "3: label null is not a whole number"),
        ("label", [0.0, 1.0, 0.5, 1.0, 0.0, 1.0], "3: label 0.5 is not a whole number"),
        ("label", ["0", "1", "AAR", "1", "0", "1"], "3: label 'AAR' is not a whole number"),
        ("label", [False, True, False, True, False, True], "1: label False is not a whole number"),
        ("label", [0, -1, 0, 1, 0, 1], "2: label -1 is none of the 3 classes"),
        ("label", [0.0, np.inf, 0.0, 1.0, 0.0, 1.0], "2: label inf is not a whole number"),
        ("fold", [0, 1, 2, 3, None, 0], "5: fold null is not a whole number"),
        ("fold", ["0", "1", "2", "fold 3", "4", "0"], "4: fold 'fold 3' is not a whole number"),
        ("seed", [None] * 6, "1: seed null is not a whole number"),
        ("seed", ["0"] * 5 + ["final"], "6: seed 'final' is not a whole number"),
        ("image_id", ["A", "B", None, "D", "E", "F"], "3: image_id null is not a name"),
        ("image_id", ["A", "B", "", "D", "E", "F"], "3: image_id '' is not a name"),
        ("image_id", [1.0, 2.0, np.nan, 4.0, 5.0, 6.0], "3: image_id null is not a name"),
        ("image_id", [[1]] * 6, r"1: image_id \[1\] is not a name"),
        ("split", ["test"] * 4 + ["holdout", "test"], "5: split 'holdout' is none of test, val, train"),
        ("split", [None] * 6, "1: split null is none of"),
        ("protocol", ["k-fold"] * 6, "1: protocol 'k-fold' is none of strict, paper"),
        ("backbone", ["tiny", None, "tiny", "tiny", "tiny", "tiny"], "2: backbone null is not a name"),
        ("subject", [True] * 6, "1: subject True is not a name"),
        ("subject", [["p1"]] * 6, r"1: subject \['p1'\] is not a name"),
        ("probabilities", [[0.2, 0.3, 0.5]] * 4 + [None] * 2, "5: probabilities null are not a flat list"),
        ("probabilities", [[0.2, None, 0.5]] * 6, "1: probabilities must be finite"),
        ("probabilities", [[[0.2, 0.3, 0.5]]] * 6, r"1: probabilities .* are not a flat list"),
        ("probabilities", ["[0.2, 0.3, 0.5]"] * 6, r"1: probabilities '\[0.2, 0.3, 0.5\]' are not a flat list"),
        ("probabilities", [0.5] * 6, "1: probabilities 0.5 are not a flat list"),
        ("probabilities", [[2.0, -1.0, 0.5]] * 6, "1: probabilities must .* softmax if these are logits"),
        ("probabilities", [[20, 30, 50]] * 6, "1: probabilities must add up to 1"),
        ("probabilities", [[1.0]] * 6, "1: probabilities are of one class"),
        ("probabilities", [[]] * 6, "1: probabilities must"),
        ("probabilities", [[0.2, 0.3, 0.5]] * 5 + [[0.5, 0.5]], "6: rows differ in their number of classes"),
    ],
)
def test_cells_of_other_tools_that_have_no_meaning_are_refused_with_their_row(tmp_path, column, values, message):
    table = as_table(*random_predictions(n=6, n_classes=3)).assign(label=0)
    table[column] = pd.Series(values, dtype=object if None in values and column != "probabilities" else None)
    file = written(tmp_path, table)
    with pytest.raises(ValueError, match=f"^{file}:{message}") as refusal:
        prediction_files.read_predictions(file)
    assert "\n" not in str(refusal.value) and "; " in str(refusal.value)
    with pytest.raises(ValueError, match=f"^predictions:{message}"):  # also of a table that was never a file
        run_scores.score(pd.read_parquet(file))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(label=t["label"].astype(float), fold=t["fold"].astype(float)),
        lambda t: t.assign(label=t["label"].astype(str), seed="0", fold=t["fold"].astype(str) + ".0"),
        lambda t: t.assign(label=t["label"].astype("Int64"), seed=pd.Series(0, t.index, "UInt8")),
        lambda t: t.assign(split=["Test", "TEST ", "test", "testing"] * 50, protocol="Strict"),
        lambda t: t.assign(image_id=t["image_id"].astype("category"), subject=t["subject"].astype("category")),
        lambda t: t.assign(probabilities=[list(map(float, p)) for p in t["probabilities"]]),
        lambda t: t.set_index("image_id"),
        lambda t: t.set_index(["seed", "fold"]),
    ],
)
def test_numbers_and_words_in_other_spellings_give_the_same_scores(tmp_path, change):
    table = as_table(*random_predictions())
    read = prediction_files.read_predictions(written(tmp_path, change(table)))
    assert run_scores.score(read) == run_scores.score(table)
    assert read["label"].tolist() == table["label"].tolist() and set(read["split"]) == {"test"}


def test_probabilities_as_whole_numbers_and_in_half_precision_are_scored(tmp_path):
    probabilities, labels = random_predictions()
    hits = np.eye(12, dtype=int)[probabilities.argmax(axis=1)]
    table = as_table(probabilities, labels)
    scores = run_scores.score(
        prediction_files.read_predictions(written(tmp_path, table.assign(probabilities=hits.tolist())))
    )
    assert scores["metrics"]["top1"] == run_scores.score(table)["metrics"]["top1"]
    half = table.assign(probabilities=list(probabilities.astype(np.float16)))
    scores = run_scores.score(prediction_files.read_predictions(written(tmp_path, half)))["metrics"]
    assert scores["nll"]["mean"] == pytest.approx(run_scores.score(table)["metrics"]["nll"]["mean"], rel=1e-3)


def test_sums_may_err_as_half_precision_does_and_no_more(tmp_path):
    table = as_table(*random_predictions(n=6, n_classes=3))
    for error, refused in ((0.0009, False), (-0.0009, False), (0.0011, True), (-0.0011, True)):
        file = written(tmp_path, table.assign(probabilities=[[0.2, 0.3, 0.5 + error]] * 6))
        if refused:
            with pytest.raises(ValueError, match=r":1: probabilities must add up to 1"):
                prediction_files.read_predictions(file)
        else:
            prediction_files.read_predictions(file)


def test_every_usual_spelling_of_a_split_is_that_split(tmp_path):
    spelled = {
        "validation": "val",
        "Valid": "val",
        "dev": "val",
        "TRAIN": "train",
        "training": "train",
        "Testing": "test",
    }
    table = as_table(*random_predictions(n=6)).assign(split=list(spelled))
    assert prediction_files.read_predictions(written(tmp_path, table))["split"].tolist() == list(spelled.values())
    assert run_scores.score(table)["n_test"] == 1


NOT_KNOWN = [None, "", "nan", "<NA>", "unknown", " None "]


def test_an_image_without_a_subject_is_a_subject_of_its_own(tmp_path):
    probabilities, labels = random_predictions(n=120)
    subjects = [f"p{i // 3}" for i in range(60)]
    table = as_table(probabilities, labels, subject=subjects + NOT_KNOWN * 10)
    scores = run_scores.score(prediction_files.read_predictions(written(tmp_path, table)))
    assert (scores["n_subjects"], scores["n_without_subject"]) == (20 + 60, 60)
    alone = as_table(probabilities, labels, subject=subjects + [f"no subject: image A.{i}" for i in range(60, 120)])
    known = run_scores.score(alone)
    assert scores["metrics"] == known["metrics"] and "n_without_subject" not in known
    assert "of 80 subjects (60 images without a subject are one each)," in score_tables.format_table(scores)

    none = run_scores.score(table.assign(subject=None))["metrics"]["top1"]
    half_width = 1.96 * np.sqrt(none["mean"] * (1 - none["mean"]) / 120)  # independent images
    assert (none["high"] - none["low"]) / 2 == pytest.approx(half_width, abs=0.015)
    assert run_scores.per_class_table(table.assign(subject=None), [""] * 12)["subjects"].sum() == 120


def test_comparison_and_p_value_take_images_without_a_subject_apart():
    a, b = (table.assign(subject=None) for table in two_methods(n=60))
    comparison = run_scores.compare(a, b)
    assert (comparison["n_subjects"], comparison["n_without_subject"]) == (60, 60)
    apart = run_scores.compare(*(table.assign(subject=table["image_id"]) for table in (a, b)))
    assert comparison["metrics"] == apart["metrics"]
    assert "60 images without a subject are one each" in score_tables.format_comparison(comparison)
    with pytest.raises(ValueError, match="classes, labels or subjects"):
        run_scores.compare(a, b.assign(subject="p0"))


def test_nulls_among_subjects_are_drawn_apart():
    hits = np.repeat([1.0, 0.0], [60, 140])
    binomial = intervals.bootstrap_interval(hit_rate(hits), [str(i) for i in range(200)])
    for null in (None, np.nan, pd.NA):
        assert intervals.bootstrap_interval(hit_rate(hits), [null] * 200) == pytest.approx(binomial, abs=0.01)
        assert intervals.numbered(["b", null, "a", null, "b"]).tolist() == [1, 2, 0, 3, 1]


@pytest.mark.parametrize(
    ("spellings", "joined"),
    [
        ([1, 2, 3], None),  # as integers, and as decimals and text below: the same three people
        ([1.0, 2.0, 3.0], None),
        (["1", "2", "3"], None),
        (["1", "1.0", "2"], [["1", "1.0"]]),
        (["P one", "p  ONE", "q"], [["P one", "p  ONE"]]),
        (["Zoe\u0301", "Zo\u00e9", "q"], [["Zoe\u0301", "Zo\u00e9"]]),
    ],
)
def test_a_subject_in_several_spellings_is_one(tmp_path, spellings, joined):
    probabilities, labels = random_predictions(n=90)
    table = as_table(probabilities, labels, subject=spellings * 30)
    scores = run_scores.score(prediction_files.read_predictions(written(tmp_path, table)))
    assert scores.get("joined_subjects") == joined and scores["n_subjects"] == (2 if joined else 3)
    meant = ["a", "a", "b"] if joined else ["a", "b", "c"]
    assert scores["metrics"] == run_scores.score(as_table(probabilities, labels, subject=meant * 30))["metrics"]
    assert ("are one" in score_tables.format_table(scores)) == bool(joined)


def test_decimals_beside_missing_subjects_match_integers_in_another_file(tmp_path):
    a, b = two_methods(n=60)
    numbers = [i // 2 for i in range(58)] + [np.nan, np.nan]
    of_a = a.assign(subject=numbers * 3)  # decimals, since one is missing
    of_b = b.assign(subject=[*map(str, numbers[:58]), None, None] * 2)
    comparison = run_scores.compare(prediction_files.read_predictions(written(tmp_path, of_a)), of_b, ["top1"])
    assert (comparison["n_subjects"], comparison["n_without_subject"]) == (31, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(split="val"), "none of 20 predictions has the split test"),
        (lambda t: pd.concat([t, t.assign(seed=1, label=1 - t["label"])]), r"image A\.0 has the labels \[0, 1\]"),
        (lambda t: pd.concat([t, t.assign(seed=1, subject="x")]), r"image A\.0 has 2 subjects: A\.0, x"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(change, message):
    probabilities, _ = random_predictions(n=20)
    with pytest.raises(ValueError, match=message) as refusal:
        run_scores.score(change(as_table(probabilities, np.zeros(20, int))))
    assert "\n" not in str(refusal.value)


def test_what_one_seed_knows_of_a_subject_is_known():
    table = as_table(*random_predictions(n=20), subject=["p", "q"] * 10)
    scores = run_scores.score(pd.concat([table.assign(subject=None), table.assign(seed=1)]))
    assert scores["n_subjects"] == 2 and "n_without_subject" not in scores


def test_files_that_are_no_predictions_are_refused_in_one_line(tmp_path):
    file = written(tmp_path, as_table(*random_predictions(n=20)))
    whole = file.read_bytes()
    schema = pa.schema([("image_id", pa.string()), ("label", pa.int64()), ("label", pa.int64())])
    for content, message in (
        (b"", "not a readable Parquet file"),
        (b"image_id,label\nA.0,3\n", "not a readable Parquet file"),
        (whole[: len(whole) // 2], "not a readable Parquet file"),
        (whole[:4] + b"\xff" * (len(whole) - 12) + whole[-8:], "not a readable Parquet file"),
        (None, "column label occurs twice"),
    ):
        if content is None:
            pq.write_table(pa.table([["A.0"], [0], [0]], schema=schema), file)
        else:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=message) as refusal:
            prediction_files.read_predictions(file)
        assert "\n" not in str(refusal.value) and str(refusal.value).startswith(str(file))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "predictions.parquet").write_text("not Parquet")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        prediction_files.read_predictions(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        prediction_files.read_predictions(tmp_path / "elsewhere")


def test_the_command_prints_the_scores_of_several_seeds(tmp_path):
    table = as_table(*random_predictions())
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        table.assign(seed=seed).to_parquet(tmp_path / str(seed) / "predictions.parquet")
    command = [sys.executable, ROOT / "score_runs.py", "score", tmp_path / "0", tmp_path / "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    scores = json.loads(run.stdout)
    assert scores == run_scores.score(prediction_files.read_predictions([tmp_path / "0", tmp_path / "1"]))
    assert scores["seeds"] == [0, 1] and scores["metrics"]["top1"]["sd"] == 0

    run = subprocess.run([*command[:3], tmp_path / "nothing"], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "no such file" in run.stderr


def two_methods(n: int = 150, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three seeds of one method and two of a better one, on 150 images of 75 subjects in 12 classes."""
    probabilities, labels = random_predictions(n, seed=seed)
    rng = np.random.default_rng(seed + 1)
    subjects = [f"p{i // 2}" for i in range(n)]

    def seeds(numbers, gain, backbone):
        tables = []
        for number in numbers:
            noisy = probabilities + rng.uniform(0, 0.1, probabilities.shape) + gain * np.eye(12)[labels]
            noisy /= noisy.sum(axis=1, keepdims=True)
            tables.append(as_table(noisy, labels, seed=number, subject=subjects, backbone=backbone))
        return pd.concat(tables)

    return seeds([0, 1, 2], 0, "tiny"), seeds([5, 6], 0.1, "other")


@functools.cache  # it takes seconds
def compared() -> dict:
    return run_scores.compare(*two_methods())


def test_compare_gives_the_difference_of_the_scores():
    a, b = two_methods()
    comparison = compared()
    scores_a, scores_b = (run_scores.score(each)["metrics"] for each in (a, b))
    assert list(comparison["metrics"]) == list(scores_a)
    for name, values in comparison["metrics"].items():
        assert (values["a"], values["b"]) == pytest.approx((scores_a[name]["mean"], scores_b[name]["mean"]))
        assert values["difference"] == values["b"] - values["a"]
        if name != "ece":  # whose interval is about the difference without bias
            assert values["low"] <= values["difference"] <= values["high"]
    top1 = comparison["metrics"]["top1"]
    assert top1["low"] > 0 and top1["p_value"] < 0.01
    assert top1["high"] - top1["low"] < scores_a["top1"]["high"] - scores_a["top1"]["low"]  # it is paired
    assert comparison["a"] == {"backbone": "tiny", "recipe": "linear_probe", "seeds": [0, 1, 2], "n_replicates": 3}
    assert (comparison["n_test"], comparison["n_subjects"]) == (150, 75)


def test_compare_the_other_way_round_and_in_any_order_of_rows():
    a, b = two_methods()
    forth = compared()["metrics"]
    back = run_scores.compare(b.sample(frac=1, random_state=0), a)["metrics"]
    for name in forth:
        assert back[name]["difference"] == -forth[name]["difference"]
        assert back[name]["p_value"] == pytest.approx(forth[name]["p_value"], abs=0.02)
        assert (back[name]["low"], back[name]["high"]) == pytest.approx((-forth[name]["high"], -forth[name]["low"]))


def test_a_file_compared_with_itself_does_not_differ():
    a, _ = two_methods()
    for values in run_scores.compare(a, a)["metrics"].values():
        assert (values["difference"], values["low"], values["high"], values["p_value"]) == (0, 0, 0, 1)


def test_the_swap_test_equals_all_sign_changes_counted():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 16)
    a, b = rng.dirichlet(np.ones(3), 16), rng.dirichlet(np.ones(3), 16)
    subjects = np.repeat(np.arange(8), 2)
    gain = metrics.reciprocal_ranks(b, labels) - metrics.reciprocal_ranks(a, labels)
    of_subject = gain.reshape(8, 2).sum(axis=1)
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    exact = np.mean(np.abs(signs @ of_subject) >= abs(of_subject.sum()) - 1e-9)
    found = intervals.swap_p_value(metrics.mean_reciprocal_rank, [a], [b], labels, subjects)
    assert found == pytest.approx(exact, abs=0.02)


def test_the_swap_test_knows_that_images_of_one_subject_are_not_independent():
    right, wrong = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    a, b, labels = np.stack([wrong] * 12), np.stack([right] * 12), np.zeros(12, int)
    p_values = [
        intervals.swap_p_value(metrics.macro_f1, [a], [b], labels, np.arange(12) // photographs)
        for photographs in (1, 3)
    ]
    assert p_values == pytest.approx([2 / 2**12, 2 / 2**4], abs=0.01)


def test_the_swap_test_uses_all_replicates_of_unequal_numbers():
    right, wrong, labels = np.tile([0.9, 0.1], (12, 1)), np.tile([0.1, 0.9], (12, 1)), np.zeros(12, int)
    a, b = [right, wrong, wrong], [right, right]  # the first ones do not differ
    assert intervals.swap_p_value(metrics.mean_reciprocal_rank, a, b, labels, np.arange(12)) < 0.01
    assert intervals.swap_p_value(metrics.mean_reciprocal_rank, a[:1], b[:1], labels, np.arange(12)) == 1


def test_conditions_without_photographs_are_compared_among_those_left_out_together():
    rng, labels = np.random.default_rng(0), np.arange(24) % 6
    random, lean = rng.dirichlet(np.ones(6), 24), rng.dirichlet(np.ones(6), 24) + 0.1 * np.eye(6)[labels]
    a, b = (as_table(each, labels, fold=labels % 2, unseen=True) for each in (random, lean / 1.1))
    compared = run_scores.compare(a, b, ["top1", "top1_unseen"])["metrics"]
    together = labels[:, None] % 2 == np.arange(6) % 2
    right_a, right_b = (
        np.where(together, np.stack(each["probabilities"]), -1).argmax(axis=1) == labels for each in (a, b)
    )
    assert (compared["top1_unseen"]["a"], compared["top1_unseen"]["b"]) == (right_a.mean(), right_b.mean())
    n_only_b, n_differ = int((right_b & ~right_a).sum()), int((right_a != right_b).sum())
    exact = binomtest(n_only_b, n_differ).pvalue
    assert exact < 0.5 and compared["top1_unseen"]["p_value"] == pytest.approx(exact, abs=0.02)
    assert compared["top1_unseen"] != compared["top1"]
    seen = run_scores.compare(a, b.drop(columns="unseen"))  # trained on these conditions: another question
    assert "top1_unseen" not in seen["metrics"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(protocol="paper", fold=0), "protocols differ: strict and paper"),
        (lambda t: t.assign(recipe="discriminant, 3-way 1-shot frozen"), "of few-shot episodes: .* the 3-way"),
        (lambda t: t[t["image_id"] != "A.7"], r"1 test images are in one file only, the first A\.7"),
        (lambda t: t.assign(label=(t["label"] + 1) % 12), "classes, labels or subjects"),
        (lambda t: t.assign(subject="p0"), "classes, labels or subjects"),
        (
            lambda t: t.assign(probabilities=[np.append(p, 0) for p in t["probabilities"]]),
            "classes, labels or subjects",
        ),
        (lambda t: t.assign(recipe=["lora"] + ["finetune"] * (len(t) - 1)), "2 values of recipe"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    a, b = two_methods(n=20)
    with pytest.raises(ValueError, match=message) as refusal:
        run_scores.compare(a, change(b))
    assert "\n" not in str(refusal.value)


def test_a_control_with_shuffled_labels_is_named_as_such():
    a, b = (table.assign(recipe="linear_probe") for table in two_methods(n=20))
    control, other = (
        b.assign(label=(b["label"] + shift) % 12, recipe="linear_probe, shuffled labels") for shift in (1, 2)
    )
    for pair, named in (((a, control), "B"), ((control, a), "A"), ((control, other), "A and B")):
        with pytest.raises(ValueError, match=rf"^{named} had shuffled labels \(--shuffle_labels, a control\), so "):
            run_scores.compare(*pair)
    assert run_scores.compare(control, control)["metrics"]["top1"]["difference"] == 0


def test_predictions_of_episodes_have_no_scores_among_all_conditions():
    a, b = two_methods(n=20)
    episodes = a.assign(recipe="discriminant, 5-way 1-shot frozen")
    names = [f"c{number}" for number in range(12)]
    for call in (
        lambda: run_scores.score(episodes),
        lambda: run_scores.compare(episodes, b.assign(recipe="cosine, 5-way 1-shot frozen")),
        lambda: run_scores.per_class_table(episodes, names),
        lambda: differential.differential_list(episodes, names, dict.fromkeys(names, 1.0), None, 3),
    ):
        with pytest.raises(ValueError, match=r"few-shot episodes: each is the mean over the 5-way episodes"):
            call()
    assert run_scores.score(a.assign(recipe="gallery, nearest"))["n_test"] == 20


def test_a_subgroup_in_which_everybody_is_right_has_an_interval_with_a_width():
    probabilities, labels = np.full((40, 12), 0.01), np.arange(40) % 12
    probabilities[np.arange(40), (labels + np.arange(40) % 2) % 12] = 0.89  # every other image is right
    subjects = [f"p{i // 4}" for i in range(40)]
    subjects[0] = subjects[2] = "a"
    subjects[4] = "b"
    region = ["Oceania" if i in (0, 2, 4) else "Asia" for i in range(40)]
    results = run_scores.score(as_table(probabilities, labels, subject=subjects, region=region))
    two = results["by"]["region"]["Oceania"]["top1"]
    z2 = 1.959964**2
    assert (two["mean"], two["high"]) == (1, 1) and two["low"] == pytest.approx(2 / (2 + z2), abs=1e-6)
    others = results["by"]["region"]["Asia"]["top1"]
    right = np.array([i % 2 == 0 for i in range(40) if i not in (0, 2, 4)], float)
    names = [name for name, of in zip(subjects, region, strict=True) if of == "Asia"]
    expected = intervals.bootstrap_interval(lambda weights: weights @ right / weights.sum(axis=1), names)
    assert (others["low"], others["high"]) == pytest.approx(expected)  # unchanged where resamples differ


def test_subgroups_are_scored_apart_and_disturb_nothing():
    probabilities, labels = random_predictions(n=90)
    plain = as_table(probabilities, labels)
    assert "by" not in run_scores.score(plain)
    ages = ["12-17", "6-11", "18+"] * 30
    table = plain.assign(
        sex=["male", "female", None] * 30, age_group=ages, region=[*["Asia"] * 89, "Europe"], camera="x"
    )
    scores = run_scores.score(table)
    by, gaps = scores.pop("by"), scores.pop("gaps")
    assert scores == run_scores.score(plain)
    assert {column: list(gap["subgroups"]) for column, gap in gaps.items()} == {
        "sex": ["female", "male"],
        "age_group": ["12-17", "18+", "6-11"],
        "region": ["Asia", "Europe"],
    }
    assert gaps["region"]["p_value"] is None and gaps["region"]["subgroups"]["Europe"]["difference"] is None
    assert {column: list(groups) for column, groups in by.items()} == {
        "sex": ["female", "male", "not known"],
        "age_group": ["6-11", "12-17", "18+"],
        "region": ["Asia", "Europe"],
    }
    alone = run_scores.score(plain[table["sex"] == "female"])
    expected = {"n": 30, "n_subjects": 30} | {name: alone["metrics"][name] for name in ("top1", "top5")}
    assert by["sex"]["female"] == expected
    assert by["region"]["Europe"]["n"] == 1 and by["region"]["Europe"]["top1"]["low"] is None  # a single subject
    shown = score_tables.format_table(scores | {"by": by, "gaps": gaps})
    assert f"sex not known: 30 images of 30 subjects, top1 {100 * by['sex']['not known']['top1']['mean']:.2f}" in shown
    assert "region Europe: 1 image of 1 subject, top1 " in shown
    head, columns, first, *_ = shown.splitlines()
    assert head.endswith(", seed 0; values in %, but nll, ece, smece and aurc as they are")
    assert columns.index("mean") + 4 == first.index(f"{100 * scores['metrics']['top1']['mean']:.2f}") + 5


def test_what_one_of_several_files_knows_of_a_subject_is_known(tmp_path):
    table = as_table(*random_predictions(n=20))
    files = [tmp_path / f"{seed}.parquet" for seed in range(3)]
    table.to_parquet(files[0])  # without the column
    table.assign(seed=1, sex=None).to_parquet(files[1])
    table.assign(seed=2, sex=["male", "female"] * 10).to_parquet(files[2])
    by = run_scores.score(prediction_files.read_predictions(files))["by"]
    assert {sex: group["n"] for sex, group in by["sex"].items()} == {"female": 10, "male": 10}


def test_the_table_shows_nats_as_nats_and_chance_where_there_is_one():
    scores = run_scores.score(as_table(*random_predictions()))
    lines = {line.split()[0]: line.split() for line in score_tables.format_table(scores).splitlines()[2:]}
    assert lines["nll"][1] == f"{scores['metrics']['nll']['mean']:.3f}" and lines["nll"][-1] == f"{np.log(12):.3f}"
    assert lines["top1"][1] == f"{100 * scores['metrics']['top1']['mean']:.2f}" and lines["top1"][-1] == "8.33"
    assert lines["ece"][1] == f"{scores['metrics']['ece']['mean']:.3f}" and lines["ece"][-1] == "-"


def test_class_tables_add_up_to_the_scores():
    table, _ = two_methods()
    names = [f"C{i}" for i in range(12)]
    scores = run_scores.score(table)["metrics"]
    classes, confusion = run_scores.per_class_table(table, names), run_scores.confusion_table(table, names)
    assert classes["class"].tolist() == names and classes["images"].sum() == 150
    assert classes["recall_top1"].mean() == pytest.approx(scores["balanced_accuracy"]["mean"])  # of 11 classes
    assert classes["f1"].mean() == pytest.approx(scores["macro_f1"]["mean"])  # of 12
    for column, name in (("recall_top1", "top1"), ("recall_top5", "top5"), ("mrr", "mrr")):
        assert (classes[column] * classes["images"]).sum() / 150 == pytest.approx(scores[name]["mean"])
    assert classes.loc[11, ["images", "subjects", "f1"]].tolist() == [0, 0, 0] and np.isnan(
        classes.loc[11, "recall_top1"]
    )
    assert confusion.sum(axis=1).tolist() == pytest.approx(classes["images"].tolist())
    assert np.diag(confusion).sum() / 150 == pytest.approx(scores["top1"]["mean"])


def test_class_tables_of_a_known_confusion():
    one_hot = np.eye(3)[[0, 1, 1, 1, 2]]  # C2 is predicted for the only C1: its wrong class
    one_hot[3] = [0, 0.5, 0.5]
    labels = np.array([0, 0, 0, 1, 2])
    table = as_table(one_hot, labels, subject=["a", "b", "b", "c", "d"])
    confusion = run_scores.confusion_table(table, ["C0", "C1", "C2"])
    assert confusion.to_numpy().tolist() == [[1, 2, 0], [0, 0.5, 0.5], [0, 0, 1]]
    assert (confusion.index.name, confusion.columns.tolist()) == ("true", ["C0", "C1", "C2"])
    classes = run_scores.per_class_table(table, ["C0", "C1", "C2"])
    assert classes["most_frequent_wrong_class"].tolist()[:2] == ["C1", "C2"]
    assert classes["most_frequent_wrong_class"].isna().tolist() == [False, False, True]
    assert classes["subjects"].tolist() == [2, 1, 1]
    assert classes["recall_top1"].tolist() == pytest.approx([1 / 3, 0.5, 1])
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        run_scores.per_class_table(table, ["C0", "C1"])


def test_the_command_compares_two_runs(tmp_path):
    for folder, table in zip("ab", two_methods(), strict=True):
        (tmp_path / folder).mkdir()
        table.to_parquet(tmp_path / folder / "predictions.parquet")
    command = [
        sys.executable,
        ROOT / "score_runs.py",
        "compare",
        tmp_path / "a",
        tmp_path / "b" / "predictions.parquet",
    ]
    run = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    comparison = json.loads(run.stdout)
    expected = compared()
    for side, name in (("a", "a"), ("b", "b/predictions.parquet")):
        expected[side]["runs"] = [str(tmp_path / name)]
    assert comparison == expected | {"same_photographs": None}
    shown = score_tables.format_comparison(comparison).splitlines()
    assert shown[1].startswith(f"A: {tmp_path / 'a'}: ") and shown[1].endswith(", mean of 3 seeds")
    assert shown[2].startswith(f"B: {tmp_path / 'b' / 'predictions.parquet'}: ")
    assert shown[3] == score_tables.UNKNOWN_PHOTOGRAPHS
    assert "B - A" in shown[4] and shown[5].split()[:3] == [
        "top1",
        *(f"{100 * comparison['metrics']['top1'][x]:.2f}" for x in "ab"),
    ]

    table = pd.read_parquet(tmp_path / "b").replace({"image_id": {"A.3": "A\n3"}})
    table.to_parquet(tmp_path / "b" / "predictions.parquet")
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "the first A 3" in run.stderr


def test_evaluate_metrics_give_the_same_numbers(tmp_path):
    from scoring import hf_metrics

    metric_classes = {
        "top1": hf_metrics.TopKAccuracy,
        "balanced_accuracy": hf_metrics.BalancedAccuracy,
        "macro_f1": hf_metrics.MacroF1,
        "mrr": hf_metrics.MeanReciprocalRank,
        "nll": hf_metrics.NegativeLogLikelihood,
        "ece": hf_metrics.ExpectedCalibrationError,
        "smece": hf_metrics.SmoothCalibrationError,
        "aurc": hf_metrics.RiskCoverageArea,
    }
    for n_classes in (4, 12):
        probabilities, labels = random_predictions(n_classes=n_classes)
        for name, metric_class in metric_classes.items():
            metric = metric_class(cache_dir=str(tmp_path))
            expected = {name: pytest.approx(float(run_scores.statistics_of(n_classes)[name](probabilities, labels)[0]))}
            assert metric.compute(references=labels, prediction_scores=probabilities) == expected
            for part in (slice(0, 70), slice(70, None)):
                metric.add_batch(references=labels[part].tolist(), prediction_scores=probabilities[part])
            assert metric.compute() == expected
    top5 = hf_metrics.TopKAccuracy(keep_in_memory=True)
    assert list(top5.compute(references=labels, prediction_scores=probabilities, k=5)) == ["top5"]
    with pytest.raises(ValueError, match="class numbers from 0"):
        hf_metrics.MacroF1(keep_in_memory=True).compute(references=[0, 2], prediction_scores=[[0.5, 0.5]] * 2)


HALVES = [[0.5, 0.5], [0.2, 0.8]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "there is nothing to score"),
        ({"references": [], "prediction_scores": []}, "are not .images, classes."),
        ({"references": [0, None], "prediction_scores": HALVES}, "reference 1: null is not a whole number"),
        ({"references": np.array([np.nan, 1]), "prediction_scores": HALVES}, "reference 0: null is not a whole number"),
        ({"references": [0, "AAR"], "prediction_scores": HALVES}, "reference 1: 'AAR' is not a whole number"),
        ({"references": [0, True], "prediction_scores": HALVES}, "reference 1: True is not a whole number"),
        ({"references": [0, -1], "prediction_scores": HALVES}, "reference 1 is -1, .* class numbers from 0"),
        ({"references": "01", "prediction_scores": HALVES}, "references are not a list"),
        ({"prediction_scores": HALVES}, "references are not a list"),
        ({"references": [0, 1, 1], "prediction_scores": HALVES}, "3 references for 2 images"),
        ({"references": [0, 1], "prediction_scores": [[0.5, 0.5], [1.0]]}, "are ragged"),
        ({"references": [0, 1], "prediction_scores": [0.5, 0.5]}, "are not .images, classes."),
        ({"references": [0, 1], "prediction_scores": [["a", "b"]] * 2}, "are not all numbers"),
        ({"references": [0, 1], "prediction_scores": [[0.5, 0.5], [None, 1]]}, "of image 1 are not finite"),
        ({"references": [0, 1], "prediction_scores": [[np.nan, 0.5], [0, 1]]}, "of image 0 are not finite"),
        ({"references": [0, 1], "prediction_scores": [[0.5, 0.5], [-3, 4]]}, "image 1 are negative .* softmax"),
        ({"references": [0, 1], "prediction_scores": [[0.5, 0.5], [20, 80]]}, "image 1 .* add up to 1"),
    ],
)
def test_evaluate_metrics_refuse_in_one_line_what_they_cannot_score(given, message):
    from scoring import hf_metrics

    with pytest.raises(ValueError, match=message) as refusal:
        hf_metrics.NegativeLogLikelihood(keep_in_memory=True).compute(**given)
    assert "\n" not in str(refusal.value)


def test_evaluate_metrics_take_single_images_tensors_and_logits_whose_order_counts():
    import torch

    from scoring import hf_metrics

    one_by_one, at_once = (hf_metrics.MeanReciprocalRank(keep_in_memory=True) for _ in range(2))
    logits = torch.tensor([[3.0, -1.0, 0.5], [0.1, 0.2, 0.3]], requires_grad=True)
    for label, row in zip([2, 0], logits.tolist(), strict=True):
        one_by_one.add(references=label, prediction_scores=row)
    found = at_once.compute(references=torch.tensor([2, 0]), prediction_scores=logits)
    assert one_by_one.compute() == found == {"mrr": pytest.approx((1 / 2 + 1 / 3) / 2)}
    for width in (2, 3):
        one_by_one.add(references=0, prediction_scores=[1 / width] * width)
    with pytest.raises(ValueError, match=r"\[2, 3\] probabilities per image"):
        one_by_one.compute()


def test_importing_metrics_does_not_import_evaluate_or_torch():
    run = [
        sys.executable,
        "-c",
        "from scoring import metrics; import sys; print(sorted({'evaluate', 'torch'} & set(sys.modules)))",
    ]
    assert subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
