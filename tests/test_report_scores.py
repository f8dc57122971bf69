"""Scores of reports: matched and mismatched pairs, intervals, retrieval, annotations, names, and all together."""

import json

import numpy as np
import pytest
from pyhpo import Ontology
from scipy.stats import rankdata

from harness.errors import InputError
from phenotyping import phenotypes
from reporting import agreement, condition_terms, report_scores
from reporting.agreement import Interval
from reporting.condition_terms import FALSE_FINDING, HIGHEST_FREQUENCY, Annotations
from reporting.disease_naming import name_ratios
from reporting.report_dataset import Reports, report_row
from reporting.report_terms import ReportTerms
from reporting.term_similarity import TermSpace, implied, statements
from simulation.people import COUNTRY_ANCESTRY, draw_person, write_report

# ---- matched and mismatched pairs


def labelled(n_conditions: int, per_condition: int) -> np.ndarray:
    return np.repeat(np.arange(n_conditions), per_condition)


def test_matched_mismatched_corrected_and_auc_are_those_of_the_definition():
    rng = np.random.default_rng(1)
    real, synthetic = np.array([0, 0, 1, 2, -1]), np.array([0, 1, 1, 2, 3])
    values = np.round(rng.random((5, 5)), 1)
    values[0, 0] = np.nan
    found = agreement.agreement(values, real, synthetic, Interval(0))
    pairs = [(values[i, j], real[i] == synthetic[j]) for i in range(4) for j in range(4)]
    matched = np.array([value for value, same in pairs if same and not np.isnan(value)])
    mismatched = np.array([value for value, same in pairs if not same])
    assert found["n_conditions"] == 3
    assert found["matched"]["mean"] == pytest.approx(matched.mean())
    assert found["matched"]["sd"] == pytest.approx(matched.std(ddof=1))
    assert (found["matched"]["n_pairs"], found["matched"]["n_undefined"]) == (len(matched), 1)
    assert found["mismatched"]["mean"] == pytest.approx(mismatched.mean())
    assert found["mismatched"]["n_pairs"] == len(mismatched) == 11
    assert found["corrected"]["mean"] == pytest.approx((matched.mean() - mismatched.mean()) / (1 - mismatched.mean()))
    wins = np.mean([(m > w) + 0.5 * (m == w) for m in matched for w in mismatched])
    assert found["auc"]["mean"] == pytest.approx(wins)
    assert found["auc"]["low"] is None  # three conditions tell nothing about others


def test_one_report_that_says_everything_and_no_pair_at_all():
    assert agreement.agreement(np.ones((2, 2)), np.array([0, 1]), np.array([2, -1]), Interval(0)) == {"n_conditions": 0}
    alone = agreement.agreement(np.ones((1, 1)), np.array([0]), np.array([0]), Interval(0))
    assert alone["matched"]["mean"] == 1 and alone["mismatched"]["mean"] is None
    assert alone["corrected"]["mean"] is None and alone["auc"]["mean"] is None
    same = agreement.agreement(np.ones((2, 2)), np.arange(2), np.arange(2), Interval(0))
    assert same["corrected"]["mean"] is None and same["auc"]["mean"] == 0.5  # all alike: nothing can be told
    json.dumps([alone, same], allow_nan=False)


def test_the_resampled_auc_is_the_weighted_auc_but_for_its_bins():
    rng = np.random.default_rng(2)
    real, synthetic = labelled(12, 5), labelled(12, 7)
    values = rng.normal(size=(60, 84)) + 0.8 * (real[:, None] == synthetic)
    blocks = agreement.Blocks.of(values, real, synthetic)
    of_one = real[:, None] == synthetic
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=3).astype(float)
    resampled = agreement._resampled_auc(blocks, of_one)(weights)
    for row, expected in zip(weights, resampled, strict=True):
        weight = row[real][:, None] * np.where(of_one, 1, row[synthetic])
        m, w = values[of_one], values[~of_one]
        wins = (m[:, None] > w) * weight[of_one][:, None] * weight[~of_one]
        assert expected == pytest.approx(wins.sum() / (weight[of_one].sum() * weight[~of_one].sum()), abs=0.005)


def test_intervals_hold_about_as_often_as_they_say():
    rng, holds, n_runs = np.random.default_rng(3), 0, 60
    for run in range(n_runs):
        effect = rng.normal(0.5, 0.1, size=20)  # of a condition; the truth is their mean in the population
        real = synthetic = labelled(20, 3)
        values = 0.2 * np.ones((60, 60))
        values[real[:, None] == synthetic] = np.repeat(effect, 9)
        found = agreement.agreement(values, real, synthetic, Interval(run))["matched"]
        holds += found["low"] <= 0.5 <= found["high"]
    assert 0.85 <= holds / n_runs <= 1  # 0.95 up to the error of 60 runs; were pairs the unit, it would be about 0.45


def test_auc_agrees_with_ranks_and_is_half_for_equal_values():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 5, 30).astype(float), rng.integers(0, 5, 40).astype(float)
    ranks = rankdata(np.concatenate([a, b]))[:30].sum()
    assert agreement.auc(a, b) == pytest.approx((ranks - 30 * 31 / 2) / (30 * 40))
    assert agreement.auc(np.array([1.0, np.nan]), np.array([1.0])) == 0.5
    assert np.isnan(agreement.auc(np.array([np.nan]), b))


def test_retrieval_ranks_conditions_by_mean_similarity():
    real, synthetic = np.array([0, 0, 1, 2, 4]), np.array([0, 1, 2, 3, -1])
    values = np.array(
        [
            [0.9, 0.2, np.nan, 0.5, 0.5],
            [0.1, 0.2, np.nan, 0.5, 0.5],  # mean to the condition 0: 0.5 and 0.2
            [0.6, 0.1, np.nan, 0.5, 0.5],
            [0.0, 0.0, np.nan, 0.5, 0.5],
            [0.0, 0.0, np.nan, 0.5, 0.5],
        ]
    )
    found = agreement.retrieval(values, real, synthetic, Interval(0))
    assert (found["n_reports"], found["n_conditions"]) == (3, 4)  # conditions 3 and -1 have no real report
    assert found["top1"]["mean"] == pytest.approx((0 + 0 + 1 / 4) / 3)  # the third has no similarity: a random guess
    assert found["top1"]["chance"] == 1 / 4 and "top5" not in found


def test_a_report_that_has_its_condition_to_itself_is_not_judged():
    """Two reporters on the same photographs, of which half the conditions have one, and perfect similarity."""
    labels = np.repeat(np.arange(12), [1] * 6 + [2] * 6)
    values = np.where(labels[:, None] == labels, 0.9, 0.1)
    one_image = np.eye(len(labels), dtype=bool)
    values[one_image] = np.nan
    found = agreement.retrieval(values, labels, labels, Interval(0))
    assert (found["n_reports"], found["n_without_own"], found["n_conditions"]) == (12, 6, 12)
    assert found["top1"]["mean"] == found["top10"]["mean"] == 1 and found["top1"]["chance"] == pytest.approx(1 / 12)
    matched = agreement.agreement(values, labels, labels, Interval(0), one_image)["matched"]
    assert (matched["n_pairs"], matched["n_undefined"]) == (12, 0)
    values[6, 7] = np.nan  # two reports of different images that cannot be compared
    assert agreement.agreement(values, labels, labels, Interval(0), one_image)["matched"]["n_undefined"] == 1


def test_chance_is_that_of_a_guess_among_the_conditions_that_have_a_score():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 8, 4000)
    scores = np.where(rng.random((4000, 8)) < 0.4, np.nan, rng.random((4000, 8)))
    scores[np.arange(4000), labels] = rng.random(4000)
    found = agreement.ranking(scores, labels, Interval(0))["top1"]
    assert found["chance"] > 0.15 and found["mean"] == pytest.approx(found["chance"], abs=0.03)


def test_own_condition_and_the_mean_of_the_others():
    values = np.array([[1.0, 0.2, np.nan], [0.4, 0.6, 0.8], [np.nan, 0.5, 0.7]])
    found = agreement.own_and_others(values, np.array([0, 2, -1]), Interval(0))
    assert found["matched"] == {"mean": pytest.approx(0.9), "low": None, "high": None, "n": 2}
    assert found["mismatched"]["mean"] == pytest.approx((0.2 + 0.5) / 2)
    nothing = agreement.own_and_others(values, np.array([-1, -1, -1]), Interval(0))
    assert nothing["matched"] == {"mean": None, "low": None, "high": None, "n": 0}


def test_top_places_are_given_as_far_as_there_are_more_conditions():
    scores = -np.abs(np.arange(11)[:, None] - np.arange(11)).astype(float)  # the own one first, neighbours next
    found = agreement.ranking(np.roll(scores, 2, axis=1), np.arange(11), Interval(0))
    assert [*found] == ["top1", "top5", "top10"] and found["top5"]["chance"] == 5 / 11
    assert found["top1"]["mean"] == 0 and found["top5"]["mean"] == pytest.approx(9 / 11, abs=0.1)
    assert found["top10"]["low"] <= found["top10"]["mean"] <= found["top10"]["high"]


# ---- annotations of conditions


def williams() -> phenotypes.Condition:
    return next(c for c in phenotypes.conditions() if c.name == "Williams syndrome")


def halves(present=(), absent=()):
    return (ReportTerms(tuple(present), tuple(absent), ()),) * 2


def test_precision_recall_and_wrong_terms_against_a_condition():
    own = williams()
    wide_mouth, ptosis, mouth = "HP:0000154", "HP:0000508", "HP:0000153"
    assert own.penetrance[wide_mouth] == 0.9 and ptosis not in own.penetrance
    space = TermSpace.of({wide_mouth, ptosis, mouth} | condition_terms.annotated_ids())
    known = Annotations.of(["904", None, "99999999"], space)
    assert known.has_frequencies.tolist() == known.has_terms.tolist() == [True, False, False]
    one_side = (ReportTerms((wide_mouth,), (), ()), ReportTerms((), (wide_mouth,), ()))
    reports = [halves([wide_mouth, mouth, ptosis]), halves([], [mouth]), halves(), one_side]
    fit = condition_terms.term_fit(statements(reports, space), known, space)
    assert fit.precision[0, 0] == pytest.approx(2 / 3)  # an abnormality of the mouth follows from a wide mouth
    assert fit.hallucinated[:, 0].tolist() == [1, 0, 0, 0]
    n_annotated = 1 / fit.recall[0, 0]
    special = [i for i in own.penetrance if not any(i in implied(j) for j in own.penetrance if j != i)]
    assert n_annotated == pytest.approx(len(special))
    of_mouth = [i for i in special if mouth in implied(i) and own.penetrance[i] > 0.3]
    assert fit.contradicted[:, 0].tolist() == [0, len(of_mouth), 0, 0] and len(of_mouth) > 1
    assert np.isnan(fit.precision[2, 0]) and np.isnan(fit.precision[:, 1:]).all() and np.isnan(fit.recall[:, 1:]).all()
    assert fit.precision[3, 0] == 1  # a term on one side is there


def test_a_disease_without_frequencies_is_judged_by_its_terms_in_hpo3():
    space = TermSpace.of({"HP:0000154", "HP:0000316"} | condition_terms.annotated_ids())
    in_table = {c.orphanet_code for c in phenotypes.conditions()}
    code = next(str(d.id) for d in Ontology.orpha_diseases if str(d.id) not in in_table and 316 in d.hpo)
    known = Annotations.of([code], space)
    assert known.has_terms[0] and not known.has_frequencies[0]
    fit = condition_terms.term_fit(statements([halves(["HP:0000316"])], space), known, space)
    assert fit.precision[0, 0] == 1 and np.isnan(fit.recall[0, 0])


def test_evidence_is_the_sum_of_log_likelihood_ratios_under_annotated_frequencies():
    table = {c.orphanet_code: c for c in phenotypes.conditions()}
    term, other = "HP:0000154", "HP:0000508"  # wide mouth: 0.9 in Williams syndrome; ptosis: not annotated
    space = TermSpace.of(condition_terms.annotated_ids())
    known = Annotations.of(["904", "0"], space)
    evidence = condition_terms.log_likelihood_ratios(
        statements([halves([term]), halves([term], [other]), halves([other])], space), known, space
    )

    def background(hpo_id: str) -> float:
        frequencies = [
            max((p for i, p in c.penetrance.items() if hpo_id in implied(i)), default=0) for c in table.values()
        ]
        return max(FALSE_FINDING, float(np.mean(frequencies)))

    expected = np.log(0.9 / background(term))
    assert evidence[0, 0] == pytest.approx(expected)
    assert evidence[1, 0] == pytest.approx(expected + np.log((1 - FALSE_FINDING) / (1 - background(other))))
    assert evidence[2, 0] == pytest.approx(np.log(FALSE_FINDING / background(other)))
    assert np.isnan(evidence[:, 1]).all()
    assert FALSE_FINDING == 0.02 and HIGHEST_FREQUENCY == 0.98


def test_a_term_and_its_ancestor_are_one_piece_of_evidence():
    space = TermSpace.of(condition_terms.annotated_ids() | {"HP:0000153"})
    known = Annotations.of(["904"], space)
    stated = statements([halves(["HP:0000154"]), halves(["HP:0000154", "HP:0000153"])], space)
    evidence = condition_terms.log_likelihood_ratios(stated, known, space)
    assert evidence[0, 0] == evidence[1, 0] != 0


# ---- names of diseases


def test_a_name_is_found_within_a_text_but_not_in_a_word_of_it():
    names = ["Williams syndrome", "Noonan syndrome"]
    texts = ["The findings suggest WILLIAMS-syndrome.", "syndrome", None, "Wiliams syndrome is likely."]
    ratios = name_ratios(texts, names)
    assert ratios[0, 0] == 100 and ratios[0, 1] < 80
    assert (ratios[1] < 80).all()  # rapidfuzz's partial ratio alone has 100 here
    assert (ratios[2] == 0).all() and 80 < ratios[3, 0] < 100


def test_calling_a_region_normal():
    assert report_scores.calls_normal("The nose is normal.") and report_scores.calls_normal("Unremarkable")
    assert report_scores.calls_normal("No distinctive finding.")
    assert not report_scores.calls_normal("Abnormal nasal tip.") and not report_scores.calls_normal(None)
    assert not report_scores.calls_normal("The tip is not normal.")


# ---- all together, on SIMULATED reports


def reference_reports(kind: str, seed: int, conditions, per_condition: int, **columns) -> Reports:
    """SIMULATED reference reports, written as generate writes them."""
    rng, rows = np.random.default_rng(seed), []
    for condition in conditions:
        for number in range(per_condition):
            person = draw_person(condition, list(COUNTRY_ANCESTRY)[rng.integers(46)], rng)
            picture = {kind: f"{condition.abbr}.{number}", "label": condition.abbr, "disease_name": condition.name}
            picture |= {"orphanet_code": condition.orphanet_code, **columns}
            rows.append(report_row(picture, write_report(person, rng), "reference", None))
    return Reports.of(rows, [c.abbr for c in phenotypes.conditions()], f"SIMULATED {kind}")


@pytest.fixture(scope="module")
def scored() -> report_scores.ReportScores:
    conditions = phenotypes.conditions()[150:163]
    real = reference_reports("image_id", 1, conditions[:12], 2)
    synthetic = reference_reports("synthetic_id", 2, conditions[1:], 3, source_image_ids=[f"{conditions[1].abbr}.0"])
    return report_scores.score_reports(real, synthetic, {}, seed=0)


def test_reports_are_paired_by_label_and_conditions_of_one_side_are_named(scored):
    scores = scored
    conditions = [c.abbr for c in phenotypes.conditions()[150:163]]
    assert scores.condition_names == sorted(conditions[1:12])
    assert scores.results["only_real"] == [conditions[0]] and scores.results["only_synthetic"] == [conditions[12]]
    table = scores.pairs.to_pydict()
    assert scores.pairs.num_rows == scores.results["n_pairs"] == 11 * 2 * 3
    assert {*zip(table["real_id"], table["synthetic_id"], strict=True)} == {
        (f"{name}.{i}", f"{name}.{j}") for name in conditions[1:12] for i in range(2) for j in range(3)
    }
    assert all(i.startswith(abbr + ".") for i, abbr in zip(table["real_id"], table["disease_abbr"], strict=True))
    assert table["is_source"] == [i == f"{conditions[1]}.0" for i in table["real_id"]]
    floating = [field.name for field in scores.pairs.schema if field.type == "float"]
    assert floating[0] == "findings/ontology"  # which the page shows first
    assert {"nose/jaccard", "left_eye/tfidf", "report/tfidf", "other_findings/ontology"} <= set(floating)
    assert "diagnostic_suggestion/ontology" not in floating and "report/ontology" not in floating


def test_results_hold_every_score_beside_that_of_mismatched_pairs(scored):
    results = scored.results
    json.dumps(results, allow_nan=False)
    ontology = results["agreement"]["findings"]["ontology"]
    mean = np.mean(scored.pairs["findings/ontology"].to_pylist())
    assert ontology["matched"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert ontology["matched"]["n_pairs"] == 66 and ontology["mismatched"]["n_pairs"] == 22 * 33 - 66
    assert ontology["auc"]["mean"] > 0.9 > ontology["mismatched"]["mean"]
    tfidf = results["agreement"]["findings"]["tfidf"]["auc"]
    assert 0.5 < tfidf["low"] < tfidf["mean"] < tfidf["high"] < 1
    assert results["unseen"]["findings"]["ontology"]["matched"]["n_pairs"] == 63
    nose = results["no_normal"]["nose"]["tfidf"]
    assert nose["matched"]["n_pairs"] < results["agreement"]["nose"]["tfidf"]["matched"]["n_pairs"]
    assert nose["n_reports_dropped"] > 0
    assert results["retrieval"]["findings"]["ontology"]["top1"]["mean"] > 0.6
    for kind in ("real", "synthetic"):
        own, others = (results["terms"][kind]["precision"][side]["mean"] for side in ("matched", "mismatched"))
        assert own > 0.8 > 0.4 > others
        assert results["diagnosis"][kind]["top1"]["mean"] > 0.8
        assert (
            results["disease_named"][kind]["matched"]["mean"]
            == 1
            > results["disease_named"][kind]["mismatched"]["mean"]
        )
    assert set(results["not_run"]) == set(report_scores.text_similarity.PAPER_ENCODERS)
    assert results["hpo_release"] and results["unknown_terms"] == []


def test_the_matrix_holds_the_means_of_pairs_of_conditions(scored):
    scores, table = scored, scored.pairs.to_pandas()
    name = scores.condition_names[4]
    expected = table[table["disease_abbr"] == name]["findings/ontology"].mean()
    assert scores.matrix.shape == (11, 11) and scores.matrix[4, 4] == pytest.approx(expected, abs=1e-6)
    off = scores.matrix[~np.eye(11, dtype=bool)].mean()  # every condition has equally many reports
    assert off == pytest.approx(scores.results["agreement"]["findings"]["ontology"]["mismatched"]["mean"], abs=1e-6)


def test_a_label_that_begins_another_is_not_mixed_up_and_the_text_of_each_report_is_its_own():
    rows = {
        "image_id": [("NA", "Wide nose."), ("NAB", "Ptosis.")],
        "synthetic_id": [("NAB", "Ptosis."), ("NA", "Microtia.")],
    }
    sides = [
        Reports.of(
            [
                report_row(
                    {kind: f"{label}.1", "label": label, "disease_name": f"{label} syndrome", "orphanet_code": None},
                    f"Nose: {text}\nDiagnostic Suggestion: {label} syndrome.",
                    "reference",
                    None,
                )
                for label, text in given
            ],
            ["NA", "NAB"],
        )
        for kind, given in rows.items()
    ]
    scores = report_scores.score_reports(*sides, {}, seed=0)
    table = scores.pairs.to_pydict()
    assert [*zip(table["real_id"], table["synthetic_id"], strict=True)] == [("NA.1", "NA.1"), ("NAB.1", "NAB.1")]
    assert table["findings/ontology"] == [0, 1]
    assert table["is_source"] == [None, None]  # nothing is known of what the images were generated from
    assert scores.results["disease_named"]["synthetic"]["matched"]["mean"] == 1
    assert scores.results["terms"]["without_annotation"] == ["NA", "NAB"]


class Letters:
    """An encoder that counts letters, reads 40 characters, and remembers what it was given."""

    def __init__(self):
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        counts = [[text[:40].lower().count(chr(97 + i)) for i in range(26)] for text in texts]
        return np.array([row / np.linalg.norm(row) for row in counts], np.float32)

    def tokens_cut(self, texts):
        return np.array([max(0, len(text) - 40) for text in texts], int)


def test_encoders_get_every_text_once_and_what_they_do_not_read_is_counted():
    conditions = phenotypes.conditions()[150:153]
    sides = [reference_reports(kind, 5, conditions, 2) for kind in ("image_id", "synthetic_id")]  # the same texts
    letters = Letters()
    scores = report_scores.score_reports(*sides, {"letters": letters}, seed=0)
    assert len(letters.texts) == len({*letters.texts}) > 6
    report = sides[0].columns["report"][0]
    assert report in letters.texts and sides[0].columns["nose"][0] in letters.texts
    cut = scores.results["tokens_cut"]["letters"]["report"]
    assert cut == {"n_texts": 12, "n_tokens": 2 * sum(len(text) - 40 for text in sides[0].columns["report"])}
    table = scores.pairs.to_pydict()
    same = [i == j for i, j in zip(table["real_id"], table["synthetic_id"], strict=True)]
    assert np.allclose(np.array(table["report/letters"])[same], 1) and sum(same) == 6
    assert scores.results["encoders"] == ["letters"]


def test_two_reporters_on_the_same_images_are_not_paired_on_one_image():
    conditions = phenotypes.conditions()[150:152]
    a, b = (reference_reports("image_id", seed, conditions, 2) for seed in (1, 2))
    scores = report_scores.score_reports(a, b, {}, seed=0)
    assert scores.results["n_same_image_pairs"] == 4 and scores.results["n_pairs"] == 4
    assert all(x != y for x, y in zip(*(scores.pairs[c].to_pylist() for c in ("real_id", "synthetic_id")), strict=True))


def test_an_answer_without_headings_counts_as_other_findings():
    row = {"label": "A", "disease_name": "A disease", "orphanet_code": None}
    reports = [
        Reports.of([report_row(row | {kind: "A.1"}, "The child has hypertelorism.", "model", None)], ["A"])
        for kind in ("image_id", "synthetic_id")
    ]
    table = report_scores.score_reports(*reports, {}, seed=0).pairs.to_pydict()
    assert table["findings/ontology"] == table["other_findings/ontology"] == table["report/tfidf"] == [1]


def odd_reports(kind: str) -> Reports:
    answers = [
        "",
        "片側の目が垂れている。",
        "nose " * 12_500,
        "<script>alert(1)</script> **Nose:** <b>wide nose</b>",
        "Nose: x",
    ]
    rows = [
        report_row({kind: f"A.{i}", "label": "A" if i else None, "disease_name": None}, answer, "model", None)
        for i, answer in enumerate(answers)
    ]
    return Reports.of(rows, ["A"])


def test_odd_reports_are_scored_without_a_crash():
    scores = report_scores.score_reports(odd_reports("image_id"), odd_reports("synthetic_id"), {}, seed=0)
    json.dumps(scores.results, allow_nan=False)
    assert scores.results["n_without_condition"] == {"real": 1, "synthetic": 1}
    assert scores.pairs.num_rows == 16


def test_the_headline_holds_the_numbers_of_the_results_and_intervals_only_if_there_are_any(scored):
    line, found = report_scores.headline(scored.results), scored.results["agreement"]["findings"]["ontology"]
    for name, words in (("matched", "of matched pairs"), ("mismatched", "of mismatched pairs"), ("auc", "AUC")):
        assert f"{words} {found[name]['mean']:.3f} [{found[name]['low']:.3f}, {found[name]['high']:.3f}]" in line
    assert "(chance 0.5)" in line and "95 %" in line
    few = report_scores.score_reports(odd_reports("image_id"), odd_reports("synthetic_id"), {}, seed=0)  # one condition
    line = report_scores.headline(few.results)
    assert "of mismatched pairs undefined; AUC undefined (chance 0.5)" in line and "[" not in line and "95" not in line


def test_reports_on_one_image_per_condition_make_no_pair():
    a, b = (reference_reports("image_id", seed, phenotypes.conditions()[150:152], 1) for seed in (1, 2))
    with pytest.raises(InputError, match="pair of two different images"):
        report_scores.score_reports(a, b, {}, seed=0)


def test_no_common_condition_is_one_line():
    a = reference_reports("image_id", 1, phenotypes.conditions()[150:151], 1)
    b = reference_reports("synthetic_id", 1, phenotypes.conditions()[151:152], 1)
    with pytest.raises(InputError, match="SIMULATED synthetic_id: no condition has reports in SIMULATED image_id"):
        report_scores.score_reports(a, b, {}, seed=0)
