"""All facial terms of the ontology, retired ids, and which term a wording names."""

import csv
from pathlib import Path

import pytest

from phenotyping import face_lexicon, face_words, phenotypes, wording_index

SHARED = Path(__file__).resolve().parents[2] / "shared" / "hpo"


def named(wording: str) -> str | None:
    tokens, _ = wording_index.pieces(wording)
    hpo_id = wording_index.index().find([stem for stem, _ in tokens], [meaning for _, meaning in tokens])
    return hpo_id and face_lexicon.terms()[hpo_id].name


def test_the_table_has_all_terms_of_the_release_and_of_the_simulator():
    terms = face_lexicon.terms()
    assert len(terms) == 2941 and set(phenotypes.terms()) <= set(terms)
    assert face_lexicon.HPO_RELEASE == phenotypes.HPO_RELEASE
    for hpo_id, term in phenotypes.terms().items():
        wordings = {wording.casefold() for wording, _ in terms[hpo_id].wordings}
        assert terms[hpo_id].name == term.name and {w.casefold() for w in term.wordings} <= wordings


def test_a_retired_id_gives_the_current_term():
    assert face_lexicon.current_id("HP:0000316") == "HP:0000316"
    assert face_lexicon.current_id("HP:0000578") == "HP:0000316"  # merged into hypertelorism
    assert face_lexicon.current_id("HP:0001250") is None  # seizure is no facial term
    retired = [old for term in face_lexicon.terms().values() for old in term.retired_ids]
    assert len(retired) == len(set(retired)) and not set(retired) & set(face_lexicon.terms())


def test_ancestors_are_all_terms_above():
    above = face_lexicon.ancestors("HP:0001488")  # bilateral ptosis
    assert {"HP:0000508", "HP:0012373"} <= above  # ptosis, abnormal eye physiology
    assert "HP:0001488" not in above


def test_every_name_of_a_term_of_the_simulator_is_found_by_its_words_in_any_order():
    for term in phenotypes.terms().values():
        if "/" in term.name or face_words.SIDE_WORDS & set(term.name.lower().split()):
            continue  # found as they stand
        assert named(term.name) == term.name
        assert named(" ".join(reversed(term.name.split()))) == term.name


@pytest.mark.parametrize(
    ("wording", "name"),
    [
        ("broad nose", "Wide nose"),
        ("the nose, broadened", "Wide nose"),
        ("reduced head circumference", "Microcephaly"),  # said by face_wordings.tsv
        ("decreased head circumference", "Decreased head circumference"),
        ("missing eyebrows", "Absent eyebrow"),  # not the group above it
        ("periorbital oedema", "Periorbital edema"),
        ("down-slanting palpebral fissure", "Downslanted palpebral fissures"),
        ("unusual mouth shape", None),  # any text has these words
        ("coarse", None),
        ("nose", None),
    ],
)
def test_a_wording_names_at_most_one_term(wording, name):
    assert named(wording) == name


def test_words_of_one_meaning_share_it_and_stems_lose_inflection():
    assert face_words.tokens("downslanting") == (("down", "down"), ("slant", "slant"))
    assert face_words.tokens("nasal")[0][1] == face_words.tokens("nose")[0][1]
    assert face_words.stem("coloured") == face_words.stem("colors")
    assert face_words.stem("gingivitis") != face_words.stem("gingiva")
    meanings = [word for group in face_words.SAME_MEANING for word in {face_words.stem(word) for word in group}]
    assert sorted(word for word in set(meanings) if meanings.count(word) > 1) == []  # no word has two meanings


def test_own_wordings_are_of_known_terms_and_none_is_repeated():
    with open(face_lexicon.HERE / "face_wordings.tsv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    assert len({row["hpo_id"] for row in rows}) == len(rows) and {row["hpo_id"] for row in rows} <= set(
        face_lexicon.terms()
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="the release's tables are not on this machine")
def test_rebuilding_from_the_release_gives_the_same_terms(tmp_path, monkeypatch):
    ontology = (
        "[Term]\nid: HP:0000316\nalt_id: HP:0000578\n\n[Term]\nid: HP:9\nis_obsolete: true\nreplaced_by: HP:0000316\n"
    )
    (tmp_path / "hp.obo").write_text(ontology, encoding="utf-8")
    before = (face_lexicon.HERE / "face_terms.tsv").read_text(encoding="utf-8")
    monkeypatch.setattr(face_lexicon, "HERE", tmp_path)
    assert face_lexicon.rebuild(SHARED, tmp_path / "hp.obo") == 2941
    after = (tmp_path / "face_terms.tsv").read_text(encoding="utf-8")
    old, new = ([line.rpartition("\t") for line in text.splitlines()] for text in (before, after))
    assert [row[0] for row in old] == [row[0] for row in new]
    assert [row[2] for row in new if row[0].startswith("HP:0000316\t")] == ["HP:0000578;HP:9"]
