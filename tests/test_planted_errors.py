"""Planted errors are as many as they say, and the benchmarks of report similarities run."""

import re

import numpy as np
import pytest
from scipy.stats import kendalltau

from benchmarks import report_agreement, report_pairs
from phenotyping import phenotypes
from reporting import planted_errors
from reporting.agreement import Interval
from reporting.planted_errors import ERRORS, ReferenceReport
from reporting.term_similarity import implied
from simulation.people import draw_person, write_report


def drawn(seed: int, rank: int = 110):
    """A SIMULATED patient and the reference report on them."""
    rng = np.random.default_rng(seed)
    person = draw_person(phenotypes.conditions()[rank], "Kenya", rng)
    return person, write_report(person, rng)


def stated(reference: ReferenceReport) -> dict[str, tuple]:
    return {f.hpo_id: (f.present, f.side) for f in reference.findings}


@pytest.fixture(scope="module")
def reference() -> ReferenceReport:
    read = planted_errors.read_reference(drawn(4, rank=0)[1])
    return planted_errors.with_one_sided(read, np.random.default_rng(0), share=1)


def test_a_reference_report_is_read_as_it_was_meant():
    for seed in range(40):
        person, report = drawn(seed, rank=103 + seed)
        findings = planted_errors.read_reference(report).findings
        assert sorted(f.hpo_id for f in findings if f.present) == sorted(person.present)
        assert {f.hpo_id for f in findings if not f.present} <= {*person.absent}
    with pytest.raises(ValueError, match="no section of a reference report"):
        planted_errors.read_reference("Hands: There is arachnodactyly.")
    with pytest.raises(ValueError, match=r"no wording of phenotypes\.csv"):
        planted_errors.read_reference("Nose: There is a beak.")


def test_findings_on_one_side_stand_in_that_eyes_section_only(reference):
    one_sided = [f for f in reference.findings if f.side]
    assert one_sided and all(f.region == "eyes" and f.present for f in one_sided)
    assert not {"HP:0000316", "HP:0000506"} & {f.hpo_id for f in one_sided}  # the eyes' distance has no side
    text = reference.text()
    for finding in one_sided:
        sections = re.findall(r"^(Left|Right) Eye: (.*)$", text, re.M)
        assert [side.lower() for side, words in sections if finding.words in words] == [finding.side]
    assert text.count(reference.suggestion) == 1


@pytest.mark.parametrize("kind", ERRORS)
def test_each_kind_of_error_changes_one_statement(reference, kind):
    wrong, kinds = planted_errors.plant(reference, 1, np.random.default_rng(1), (kind,))
    before, after = stated(reference), stated(wrong)
    assert kinds == [kind]
    changed = {i for i in before | after if before.get(i) != after.get(i)}
    assert len(changed) == 1
    (hpo_id,) = changed
    was, now = before.get(hpo_id), after.get(hpo_id)
    if kind == "dropped":
        assert was[0] and now is None
    elif kind == "negated":
        assert was[0] and not now[0]
    elif kind == "side_swapped":
        assert {was[1], now[1]} == {"left", "right"} and now[0]
    else:
        assert was is None and now == (True, None)
        assert not implied(hpo_id) & set(before) and not any(hpo_id in implied(other) for other in before)


def test_errors_are_about_different_findings_and_exactly_as_many_as_asked(reference):
    for seed in range(30):
        wrong, kinds = planted_errors.plant(reference, 6, np.random.default_rng(seed))
        before, after = stated(reference), stated(wrong)
        assert len(kinds) == 6 == sum(before.get(i) != after.get(i) for i in before | after)
    assert planted_errors.plant(reference, 0, np.random.default_rng(0)) == (reference, [])
    with pytest.raises(ValueError, match="no room for 99 errors"):
        planted_errors.plant(reference, 99, np.random.default_rng(0), ("dropped",))


def test_other_words_and_less_exact_terms_keep_what_is_meant(reference):
    rng = np.random.default_rng(2)
    other = planted_errors.reworded(reference, rng, name_share=0)
    assert stated(other) == stated(reference) and other.text() != reference.text()
    for finding in planted_errors.reworded(reference, rng, name_share=1).findings:
        assert finding.words.lower() == phenotypes.terms()[finding.hpo_id].name.lower()
    vague = planted_errors.generalised(reference, rng, share=1)
    for exact, general in zip(reference.findings, vague.findings, strict=True):
        assert (general.hpo_id in implied(exact.hpo_id) - {exact.hpo_id}) if exact.present else general == exact


def test_tau_is_that_of_scipy_and_an_undefined_similarity_the_lowest():
    rng = np.random.default_rng(3)
    counts = np.arange(140) % 7
    similarities = np.round(-counts + rng.normal(0, 2, 140), 1)
    conditions = np.arange(140) // 7
    found = planted_errors.count_correlation(similarities, counts, conditions, Interval(0))
    assert found["tau"] == pytest.approx(-kendalltau(similarities, counts)[0])
    assert found["low"] < found["tau"] < found["high"] < found["low"] + 0.3
    perfect = planted_errors.count_correlation(1 / (1.0 + counts), counts, conditions, Interval(0))
    assert perfect["tau"] == pytest.approx(1)  # distinct similarities would allow 0.93
    undefined = planted_errors.count_correlation(np.array([1, 0.5, np.nan]), np.arange(3), np.arange(3), Interval(0))
    assert undefined == {"tau": pytest.approx(1), "low": None, "high": None}


def test_the_benchmark_of_agreement_prints_every_similarity(capsys):
    flags = ["--num_conditions", "10", "--first_rank", "103", "--per_class", "2", "--planted_per_class", "3"]
    report_agreement.main(report_agreement.parse_args([*flags, "--encoders"]))
    printed = capsys.readouterr().out
    auc = {
        (kind, measure): float(value)
        for kind, measure, value in re.findall(r"SIMULATED, ([a-z ]+), (\w+): AUC (\d\.\d+)", printed)
    }
    assert auc["reports", "ontology"] > 0.95
    assert auc["less exact reports", "ontology"] > auc["less exact reports", "jaccard"]
    taus = re.findall(r"\((.*)\), in (other|the same) words, (\w+): tau (-?\d\.\d+)", printed)
    by = {(kinds, words, measure): float(tau) for kinds, words, measure, tau in taus}
    everything = " or ".join(ERRORS)
    assert by[everything, "other", "ontology"] > 0.75 > by[everything, "other", "tfidf"]


def test_the_benchmark_of_pairs_finds_the_same_similarities(capsys):
    report_pairs.main(report_pairs.parse_args(["--num_conditions", "1", "--sample_pairs", "2"]))
    printed = capsys.readouterr().out
    assert "4 real and 11 synthetic reports, 5 sections each: 44 pairs" in printed
    assert "75 different texts" in printed
    differences = [float(value) for value in re.findall(r"largest difference of a cosine (\S+)", printed)]
    assert len(differences) == 2 and max(differences) < 1e-6


def test_texts_of_the_benchmark_all_differ():
    source = report_pairs.different_texts(1)
    texts = [next(source[field]) for _ in range(60) for field in report_pairs.FIELDS]
    assert len({*texts}) == len(texts) == 300
