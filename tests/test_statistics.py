"""Calibration, abstention, Holm, subgroup gaps, detectable differences, differential lists: references and edges."""

import itertools

import numpy as np
import pandas as pd
import pytest
import relplot
from in_process import exit_status
from scipy.stats import binomtest
from test_metrics import as_table, random_predictions

import score_runs
from benchmarks import power_table
from harness.errors import InputError
from scoring import abstention, calibration, differential, holm, metrics, multiple_comparisons, power, subgroup_gaps

ALL_EQUAL = np.full((12, 4), 0.25), np.arange(12) % 4
SHAPED = (calibration.smooth_calibration_error, abstention.risk_coverage_area, metrics.macro_f1)


@pytest.mark.parametrize(("n", "n_classes", "seed"), [(60, 3, 0), (113, 103, 1), (400, 12, 2)])
def test_smooth_calibration_error_is_that_of_its_authors(n, n_classes, seed):
    probabilities, labels = random_predictions(n, n_classes, seed)
    confidence, excess = metrics.excess_confidence(probabilities, labels)
    expected = relplot.smECE(confidence, confidence - excess)
    assert expected > 0.02
    assert calibration.smooth_calibration_error(probabilities, labels) == pytest.approx([expected], abs=1.5e-3)


def test_smooth_calibration_error_is_continuous_where_bins_jump():
    """Confidences on either side of a border between bins."""
    labels = np.array([0, 1] * 20)
    below, above = (np.array([[c, 1 - c], [0.55, 0.45]] * 20) for c in (0.5999, 0.6001))
    smooth = [calibration.smooth_calibration_error(p, labels)[0] for p in (below, above)]
    binned = [metrics.expected_calibration_error(p, labels, n_bins=15)[0] for p in (below, above)]
    assert abs(smooth[0] - smooth[1]) < 1e-3 < 0.1 < abs(binned[0] - binned[1])


def test_risk_coverage_area_is_the_mean_risk_over_all_numbers_of_answers():
    probabilities, labels = random_predictions(150)
    order = np.argsort(-probabilities.max(axis=1))
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    risks = wrong.cumsum() / np.arange(1, 151)
    assert abstention.risk_coverage_area(probabilities, labels) == pytest.approx([risks.mean()])
    curve = abstention.risk_coverage_curve(probabilities, labels)
    assert curve["risk"].to_numpy() == pytest.approx(risks) and curve["coverage"].iloc[-1] == 1
    assert curve["confidence"].is_monotonic_decreasing


def test_risk_of_equally_sure_images_is_the_mean_over_random_orders():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.5, 0.5]])
    labels = np.array([0, 0, 1, 1, 1])
    wrong, rng = np.array([0, 0, 1, 1, 0.5]), np.random.default_rng(0)
    orders = [np.concatenate([[0], 1 + rng.permutation(3), [4]]) for _ in range(4000)]
    expected = np.mean([(wrong[order].cumsum() / np.arange(1, 6)).mean() for order in orders])
    assert abstention.risk_coverage_area(probabilities, labels) == pytest.approx([expected], abs=0.005)


@pytest.mark.parametrize("score", SHAPED)
def test_weights_count_images_in_the_new_scores_too(score):
    probabilities, labels = random_predictions(40, 5)
    counts = np.random.default_rng(1).integers(1, 3, 40)
    repeated = np.repeat(np.arange(40), counts)
    expected = score(probabilities[repeated], labels[repeated])
    assert score(probabilities, labels, counts[None].astype(float)) == pytest.approx(expected, abs=3e-4)


def test_scores_that_are_all_equal_are_calibrated_guesses():
    assert calibration.smooth_calibration_error(*ALL_EQUAL) == [0]
    assert abstention.risk_coverage_area(*ALL_EQUAL) == pytest.approx([0.75])
    assert len(abstention.risk_coverage_curve(*ALL_EQUAL)) == 1
    (row,) = calibration.reliability_diagram(*ALL_EQUAL, range(12)).to_dict("records")
    assert (row["confidence"], row["accuracy"], row["n"]) == (0.25, 0.25, 12)


@pytest.mark.parametrize("score", [*SHAPED, metrics.negative_log_likelihood, metrics.mean_reciprocal_rank])
def test_nan_is_refused_with_its_image(score):
    probabilities, labels = random_predictions(10, 3)
    probabilities[7, 1] = np.nan
    with pytest.raises(ValueError, match="image 7 are not finite"):
        score(probabilities, np.minimum(labels, 2))


def test_a_class_without_test_images_is_defined_in_every_score():
    probabilities, labels = random_predictions(30, 6)  # class 5 has none
    for score in SHAPED:
        assert np.isfinite(score(probabilities, labels)).all()
    assert metrics.balanced_accuracy(probabilities, labels) >= metrics.macro_f1(probabilities, labels)


def test_reliability_diagram_adds_up_to_the_binned_error():
    probabilities, labels = random_predictions()
    diagram = calibration.reliability_diagram(probabilities, labels, np.arange(200) // 2)
    error = (diagram["n"] * (diagram["confidence"] - diagram["accuracy"]).abs()).sum() / 200
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx([error])
    assert ((diagram["from"] <= diagram["confidence"]) & (diagram["confidence"] <= diagram["to"])).all()
    several = diagram[diagram["n_subjects"] > 1]
    assert (several["low"] <= several["accuracy"]).all() and (several["accuracy"] <= several["high"]).all()
    sure = calibration.reliability_diagram(np.tile([0.9, 0.1], (6, 1)), np.zeros(6, int), [0, 0, 1, 1, 2, 2])
    assert sure["low"].tolist() == pytest.approx([3 / (3 + 1.959964**2)]) and sure["high"].tolist() == [1]  # 3 people
    alone = calibration.reliability_diagram(probabilities[:1], labels[:1], ["one"])
    assert alone["low"].isna().all()  # a single person tells nothing about others


def test_photographs_of_one_person_make_no_bin_surer():
    probabilities, labels = np.tile([0.7, 0.3], (12, 1)), np.arange(12) % 3 // 2  # 8 of 12 are right
    (once,) = calibration.reliability_diagram(probabilities, labels, range(12)).to_dict("records")
    ten_times = np.repeat(probabilities, 10, axis=0), np.repeat(labels, 10), np.repeat(np.arange(12), 10)
    (again,) = calibration.reliability_diagram(*ten_times).to_dict("records")
    assert (again["n"], again["n_subjects"], once["n"]) == (120, 12, 12)
    assert (again["low"], again["high"]) == pytest.approx((once["low"], once["high"]))
    (apart,) = calibration.reliability_diagram(*ten_times[:2], range(120)).to_dict("records")
    assert apart["high"] - apart["low"] < 0.5 * (once["high"] - once["low"])


# --------------------------------------------------------------------------------------------- several comparisons


def test_holm_of_a_known_family():
    assert holm.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm.holm([0.5, 0.9]).tolist() == [1, 1]
    assert holm.holm([]).tolist() == []
    for wrong in ([0.1, np.nan], [-0.1], [1.1]):
        with pytest.raises(ValueError, match="no p-value"):
            holm.holm(wrong)


def test_holm_keeps_the_chance_of_any_false_finding_below_five_percent():
    p_values = np.random.default_rng(0).random((2000, 15))
    assert 0.03 < np.mean([holm.holm(family).min() < 0.05 for family in p_values]) < 0.07
    assert (p_values < 0.05).any(axis=1).mean() > 0.5  # without a correction


def test_all_pairs_of_runs_are_one_family():
    rng, labels = np.random.default_rng(0), np.arange(60) % 4
    good = 0.1 + 0.6 * np.eye(4)[labels]
    runs = {"good": good}
    runs |= {name: rng.dirichlet(np.ones(4), 60) for name in ("guess", "other")}
    pairs = multiple_comparisons.compare_all({name: as_table(p, labels) for name, p in runs.items()})
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("good", "guess"), ("good", "other"), ("guess", "other")]
    assert {pair["n_comparisons"] for pair in pairs} == {3}
    assert [pair["p_holm"] for pair in pairs] == holm.holm([pair["p_value"] for pair in pairs]).tolist()
    assert pairs[0]["p_holm"] < 0.05 < pairs[2]["p_value"] and pairs[0]["difference"] < -0.4


# -------------------------------------------------------------------------------------------------------- subgroups


def test_a_gap_is_found_and_dealt_groups_have_none():
    rng = np.random.default_rng(0)
    sex = np.array(["female", "male"])[rng.integers(0, 2, 300)]
    hits = (rng.random(300) < np.where(sex == "male", 0.7, 0.3)).astype(float)
    assert subgroup_gaps.gap_p_value(hits, sex, range(300)) < 0.001
    found = [
        subgroup_gaps.gap_p_value(hits, rng.permutation(sex), range(300), n_permutations=199) < 0.05 for _ in range(400)
    ]
    assert 0.025 < np.mean(found) < 0.08


@pytest.mark.parametrize("hits", [[1, 1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1, 1]])
def test_the_p_value_is_the_share_of_all_dealings_with_as_large_a_variance_between_groups(hits):
    hits, groups = np.array(hits), "aaaabbc"

    def between(dealt: tuple) -> float:
        means = {name: hits[np.array(dealt) == name] for name in "abc"}
        return sum(len(own) * (own.mean() - hits.mean()) ** 2 for own in means.values())

    dealings = [between(dealt) for dealt in itertools.permutations(groups)]
    exact = np.mean(np.array(dealings) >= between(tuple(groups)) - 1e-12)
    assert subgroup_gaps.gap_p_value(hits, list(groups), range(7)) == pytest.approx(exact, abs=0.015)


def test_photographs_of_one_person_are_not_further_evidence_of_a_gap():
    hits = np.repeat([1.0, 1, 1, 0, 0, 0], 20)
    group = np.repeat(["a", "a", "b", "a", "b", "b"], 20)
    assert subgroup_gaps.gap_p_value(hits, group, np.repeat(np.arange(6), 20)) > 0.3
    assert subgroup_gaps.gap_p_value(hits, group, range(120)) < 0.01


def test_subgroups_of_one_and_of_two_people():
    subgroups = pd.DataFrame({"sex": ["f"] * 6 + ["m"] * 2 + ["x"] + [None], "region": ["Asia"] * 9 + ["Europe"]})
    hits = np.array([1, 0, 1, 1, 1, 0, 0, 0, 1, 1.0])
    gaps = subgroup_gaps.subgroup_gaps(hits, subgroups, range(10))
    of_two, of_one = gaps["sex"]["subgroups"]["m"], gaps["sex"]["subgroups"]["x"]
    assert of_two["n_subjects"] == 2 and of_two["difference"] == pytest.approx(-4 / 6)
    assert of_two["low"] <= of_two["difference"] <= of_two["high"]
    assert of_one == {"n": 1, "n_subjects": 1, "difference": None, "low": None, "high": None}
    assert gaps["region"]["p_value"] is None and gaps["region"]["p_holm"] is None
    assert gaps["sex"]["p_holm"] == gaps["sex"]["p_value"] > 0.05  # alone in its family
    assert gaps["sex"]["n_subjects"] == 9
    assert gaps["sex"]["p_value"] == subgroup_gaps.gap_p_value(hits[:8], subgroups["sex"][:8], range(8))  # without x
    five = np.repeat(np.arange(10), 5)  # photographs of each person
    again = subgroup_gaps.subgroup_gaps(hits[five], subgroups.loc[five], five)
    assert again["sex"]["p_value"] == pytest.approx(gaps["sex"]["p_value"], abs=0.02)
    assert again["sex"]["subgroups"]["m"] == of_two | {"n": 10}


def test_ten_people_of_whom_none_is_right_have_a_wide_interval():
    hits, own = np.array([0.0] * 10 + [1] * 10 + [0] * 90), np.arange(110) < 10
    values = subgroup_gaps.difference_to_others(hits, own, range(110))
    assert values["difference"] == -0.1 and values["low"] < -0.15 and 0.15 < values["high"] < 0.25
    by_two = subgroup_gaps.difference_to_others(hits, own, np.arange(110) // 2)  # two images each: wider
    assert by_two["low"] < values["low"] and by_two["high"] > values["high"]


def test_equal_hits_have_no_gap_and_nan_is_refused():
    assert subgroup_gaps.gap_p_value(np.ones(8), list("aabbaabb"), range(8)) == 1
    apart = np.arange(40) // 20
    assert subgroup_gaps.gap_p_value(apart, apart, range(40), n_permutations=9) == 1 / 10  # the observed one counts
    with pytest.raises(ValueError, match="image 2 is not finite"):
        subgroup_gaps.gap_p_value(np.array([0, 1, np.nan]), list("aab"), range(3))


# ------------------------------------------------------------------------------------------------------------ power


@pytest.mark.parametrize(("n", "disagreement"), [(113, 0.2), (60, 0.4)])
def test_the_detectable_difference_is_found_with_the_power_that_was_asked(n, disagreement):
    difference = power.minimal_detectable_difference(n, disagreement)
    rng, found = np.random.default_rng(0), 0
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    for a_alone, b_alone, _ in rng.multinomial(n, shares, 2000):
        found += a_alone + b_alone > 0 and binomtest(int(a_alone), int(a_alone + b_alone)).pvalue < 0.05
    assert 0.77 < found / 2000 < 0.84


def test_more_patients_and_fewer_comparisons_detect_less():
    smallest = [power.minimal_detectable_difference(n, 0.2) for n in (50, 113, 445)]
    assert smallest == sorted(smallest, reverse=True) and smallest[0] > 2 * smallest[2]
    assert power.minimal_detectable_difference(113, 0.2, alpha=0.05 / 15) > smallest[1]
    assert power.minimal_detectable_difference(10, 0.2) is None  # two patients who tell anything
    assert power.half_width(113, 0.1593) == pytest.approx(0.0675, abs=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        power.minimal_detectable_difference(0, 0.2)


def test_the_table_in_the_documentation_is_the_scripts():
    assert power_table.table() in (power_table.ROOT / "docs" / "scores.md").read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------- differential


def test_a_prior_multiplies_the_odds():
    corrected = differential.prior_corrected([[0.5, 0.3, 0.2]], [1, 1, 1], [1, 5, 0])
    assert corrected == pytest.approx(np.array([[0.5, 1.5, 0]]) / 2)
    probabilities, _ = random_predictions(20, 4)
    assert differential.prior_corrected(probabilities, [2, 1, 1, 3], [4, 2, 2, 6]) == pytest.approx(probabilities)
    for given, reason in [
        (([[1.0, 0]], [1, 1], [0, 1]), "image 0: every condition"),
        (([[1.0, 0]], [1, 0], [1, 1]), "training prior must be positive"),
        (([[1.0, 0]], [1, 1], [1, -1]), "must not be negative"),
        (([[np.nan, 0]], [1, 1], [1, 1]), "not finite"),
    ]:
        with pytest.raises(ValueError, match=reason):
            differential.prior_corrected(*given)


def test_bayes_with_the_true_prior_beats_the_uncorrected_classifier():
    """Conditions that are equally frequent in training, and not in the clinic."""
    rng, prior = np.random.default_rng(0), np.array([0.7, 0.2, 0.1])
    labels = rng.choice(3, 3000, p=prior)
    seen = rng.normal(0, 1, (3000, 3)) + np.eye(3)[labels]
    likelihoods = np.exp(seen - seen.max(axis=1, keepdims=True))
    before = likelihoods / likelihoods.sum(axis=1, keepdims=True)
    after = differential.prior_corrected(before, np.ones(3), prior)
    top1, loss = (lambda p: metrics.topk_accuracy(p, labels, 1)), metrics.negative_log_likelihood
    assert top1(after) > top1(before) + 0.05 and loss(after, labels) < loss(before, labels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("condition\nAAR\n", "column prevalence is missing"),
        ("condition,prevalence\nAAR,often\n", "prior.csv:2: prevalence 'often'"),
        ("condition,prevalence\nAAR,nan\n", "prior.csv:2: prevalence 'nan'"),
        ("condition,prevalence\nAAR,1\nAAR,2\n", "prior.csv:3: condition 'AAR' is given twice"),
        ("condition,prevalence\nAAR,0,5\nWS,1\n", "prior.csv:2: has 3 cells, but the header has 2"),
        ("condition,prevalence,prevalence\nAAR,1,99\n", "column prevalence occurs twice"),
        ("condition,prevalence\nAAR,1\nXXX,2\n", "XXX is no condition"),
        ("condition,prevalence\nAAR,1\n", "^prior: WS lacks a row; add it, with prevalence 0 for what cannot occur$"),
        ("condition,prevalence\n", "^prior: AAR and 1 more lack a row"),
        ("condition;prevalence\nAAR;1,000\nWS;1\n", "prior.csv:2: prevalence '1,000' is no number"),
        ("condition\tprevalence\nAAR\t1\t2\nWS\t3\n", "prior.csv:2: has 3 cells, but the header has 2"),
    ],
)
def test_priors_that_are_none_are_refused_with_their_row(tmp_path, text, message):
    file = tmp_path / "prior.csv"
    file.write_text(text)
    predictions = as_table(np.full((3, 2), 0.5), np.array([0, 1, 0]))
    with pytest.raises((InputError, ValueError), match=message):
        differential.differential_list(predictions, ["AAR", "WS"], differential.read_prior(file), None, 5)


@pytest.mark.parametrize(
    "text",
    [
        "condition;prevalence\nAAR;0,5\nWS;1\n",
        "condition\tprevalence\nAAR\t0,500\nWS\t1\n",
        '\n"condition";"prevalence"\n"AAR";" 0,5"\n"WS";1,0\n',
        '"condition","prevalence"\n"AAR","0,5"\n"WS",1\n',
        "condition|prevalence\nAAR|0.5\nWS|1\n",
    ],
)
def test_priors_are_read_with_the_separators_of_the_curators_table(tmp_path, text):
    (tmp_path / "prior.csv").write_text(text)
    assert differential.read_prior(tmp_path / "prior.csv") == {"AAR": 0.5, "WS": 1}


@pytest.mark.parametrize("recipe", ["finetune", "lora, 5-shot", "submission"])
def test_only_a_recipe_that_counts_conditions_alike_needs_no_training_prior(recipe):
    predictions, names = as_table(np.full((3, 2), 0.5), np.array([0, 1, 0])), ["AAR", "WS"]
    prior = {"AAR": 1, "WS": 3}
    with pytest.raises(ValueError, match=f"the recipe {recipe} may prefer .* with --training_prior"):
        differential.differential_list(predictions.assign(recipe=recipe), names, prior, None, 2)
    told = differential.differential_list(predictions.assign(recipe=recipe), names, prior, prior, 2)
    assert told["probability"].tolist() == [0.5] * 6
    alike = differential.differential_list(predictions.assign(recipe="linear_probe, 1 px"), names, prior, None, 1)
    assert alike["probability"].tolist() == [0.75] * 3


def test_a_run_that_does_not_name_its_conditions_has_no_differential(tmp_path, capsys):
    as_table(np.full((3, 2), 0.5), np.array([0, 1, 0])).to_parquet(tmp_path / "predictions.parquet")
    (tmp_path / "prior.csv").write_text("condition,prevalence\nAAR,1\nWS,2\n")
    flags = ["--prior", tmp_path / "prior.csv", "--output_file", tmp_path / "list.csv"]
    assert exit_status(score_runs, "differential", tmp_path, *flags) == 2
    assert "does not name its conditions" in capsys.readouterr().err and not (tmp_path / "list.csv").exists()
