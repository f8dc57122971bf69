"""condition_prior.py: term tables as curators write them, each mistake named with its row; profiles."""

import numpy as np
import pytest

from curation.value_parsers import exists_in_hpo
from harness.errors import InputError
from phenotyping import condition_prior, phenotypes


def table(folder, text: str, encoding: str = "utf-8") -> condition_prior.TermTable:
    file = folder / "terms.csv"
    file.write_bytes(text.encode(encoding))
    return condition_prior.read_term_table(file, exists_in_hpo)


def test_columns_stand_in_any_order_and_other_vocabularies_are_taken(tmp_path):
    text = "curator,frequency,hpo_id,orphanet_code\nme,0.9,HP:0000316,ORPHA:904\nme,1,MARK:glasses,0904\n"
    assert table(tmp_path, text, "utf-8-sig") == {"904": {"HP:0000316": 0.9, "MARK:glasses": 1.0}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("904,HP:0000316,1.5", "row 3: frequency '1.5' is not a share in 0..1"),
        ("904,HP:0000316,nan", "row 3: frequency 'nan' is not a share in 0..1"),
        ("904,HP:0000316,often", "row 3: frequency 'often'"),
        ("904,HP:0000316,", "row 3: frequency ''"),
        ("Williams,HP:0000316,0.5", "row 3: orphanet_code 'Williams' is not a number"),
        ("904,HP:316,0.5", "row 3: hpo_id 'HP:316' is no HPO id"),
        ("904,hp0000316,0.5", "row 3: hpo_id 'hp0000316' is no HPO id"),
        ("904,glasses,0.5", "row 3: hpo_id 'glasses' is no HPO id"),
        ("904,HP:9999999,0.5", "row 3: HP:9999999 is not in the Human Phenotype Ontology"),
        ("905,HP:0000431,0.5", "row 3: HP:0000431 is annotated twice for ORPHA code 905"),
        ("904,hp:0000431,0.5", "row 3: hpo_id 'hp:0000431' is no HPO id"),
        ("904,MARK:x,0,9", "terms.csv:3: has 4 cells, but the header has 3; give one per column"),
    ],
)
def test_a_mistake_is_named_with_its_row(tmp_path, row, reason):
    with pytest.raises(InputError) as refusal:
        table(tmp_path, f"orphanet_code,hpo_id,frequency\n905,HP:0000431,0.5\n{row}\n")
    assert reason in str(refusal.value) and "terms.csv" in str(refusal.value)


def test_the_first_five_rows_that_are_wrong_are_named_each_in_a_line(tmp_path):
    good, bad = "905,HP:0000431,0.5", [f"904,HP:{n},0.5" for n in range(7)]
    header = "orphanet_code,hpo_id,frequency"
    with pytest.raises(InputError) as refusal:
        table(tmp_path, "\n".join([header, bad[0], good, bad[1], "905,HP:0000154,often"]))
    assert [line.partition(", ")[2].partition(":")[0] for line in str(refusal.value).splitlines()] == [
        "row 2",
        "row 4",
        "row 5",
    ]
    with pytest.raises(InputError) as refusal:
        table(tmp_path, "\n".join([header, *bad]))
    assert len(lines := str(refusal.value).splitlines()) == 6
    assert lines[4].startswith(f"{tmp_path / 'terms.csv'}, row 6: ") and lines[5] == "7 problems, of which 5 are shown"
    with pytest.raises(InputError) as refusal:
        table(tmp_path, f"{header}\n904,MARK:x,0,9\n{good}\n904,MARK:y,0,9\n")
    assert [line.partition(": ")[0][-5:] for line in str(refusal.value).splitlines()] == ["csv:2", "csv:4"]


def test_codes_that_no_condition_has_are_named_in_a_short_line():
    annotated = {str(code): {"MARK:a": 1.0} for code in (904, 20, 3, 1000, 5, 6, 7)}
    unused = condition_prior.unused_codes(annotated, ["904", None, "8"])
    assert unused == ["3", "5", "6", "7", "20", "1000"]
    line = condition_prior.about_unused(unused, "the dataset")
    assert line == "--term_table: the rows of 6 ORPHA codes (3, 5, 6, 7, 20, ...) are of no condition of the dataset"
    assert "of 1 ORPHA code (3) are" in condition_prior.about_unused(["3"], "the dataset")


def test_a_table_without_rows_or_columns_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no annotation"):
        table(tmp_path, "orphanet_code,hpo_id,frequency\n")
    with pytest.raises(InputError, match="column hpo_id is missing"):
        table(tmp_path, "orphanet_code,frequency\n904,1\n")
    with pytest.raises(InputError, match="columns hpo_id, frequency are missing; the table needs orphanet_code"):
        table(tmp_path, "disease_abbr,orphanet_code,features\nWIL,904,x\n")
    with pytest.raises(InputError, match="column frequency occurs twice"):
        table(tmp_path, "orphanet_code,hpo_id,frequency,frequency\n904,MARK:x,0.9,0.1\n")
    with pytest.raises(InputError, match="is no CSV file in UTF-8"):
        table(tmp_path, "orphanet_code,hpo_id,frequency\n904,MARK:ä,1\n", "latin-1")
    with pytest.raises(InputError, match="cannot be read"):
        condition_prior.read_term_table(tmp_path / "nowhere.csv", exists_in_hpo)


def test_empty_cells_that_a_spreadsheet_adds_behind_the_last_column_say_nothing(tmp_path):
    text = "orphanet_code,hpo_id,frequency,,\n904,MARK:x,0.9,,\n\n904,MARK:y,0.5\n"
    assert table(tmp_path, text) == {"904": {"MARK:x": 0.9, "MARK:y": 0.5}}
    with pytest.raises(InputError, match="2: has 4 cells, but the header has 3"):
        table(tmp_path, "orphanet_code,hpo_id,frequency,\n904,MARK:x,0,9\n")
    with pytest.raises(InputError, match="3: has 4 cells, but the header has 3"):  # 0,9 in a table with an empty column
        table(tmp_path, "orphanet_code,frequency,hpo_id\n904,0.5,MARK:x\n904,1,MARK:y,\n")
    every = table(tmp_path, "orphanet_code,hpo_id,frequency\n904,MARK:x,0.9,\n904,MARK:y,0.5,\n")
    assert every == {"904": {"MARK:x": 0.9, "MARK:y": 0.5}}


def test_profiles_hold_the_annotated_frequencies_and_nothing_of_a_condition_without_any():
    annotated = {"1": {"HP:0000316": 0.9, "MARK:b": 0.2}, "2": {"HP:0000431": 1.0}, "3": {"MARK:c": 1.0}}
    profiles, terms = condition_prior.profiles(["2", None, "1", "7"], annotated)
    assert terms == ["HP:0000316", "HP:0000431", "MARK:b"]  # those of condition 3 concern nobody here
    np.testing.assert_array_equal(profiles, [[0, 1, 0], [np.nan] * 3, [0.9, 0, 0.2], [np.nan] * 3])


def test_the_projects_table_is_that_of_its_conditions():
    williams = next(condition for condition in phenotypes.conditions() if condition.orphanet_code == "904")
    assert condition_prior.project_table()["904"] == williams.penetrance


def test_a_term_of_an_own_vocabulary_is_written_in_one_way(tmp_path):
    (tmp_path / "marks.csv").write_text("orphanet_code,hpo_id,frequency\n904,MARK:glasses,1\n905,MARK:Glasses,1\n")
    with pytest.raises(InputError, match="row 3: MARK:Glasses is written MARK:glasses in an earlier row; write it in"):
        condition_prior.read_term_table(tmp_path / "marks.csv", lambda _: True)


def test_a_frequency_of_zero_is_an_annotation_and_a_condition_with_none_is_unknown(tmp_path):
    (tmp_path / "marks.csv").write_text("orphanet_code,hpo_id,frequency\n904,MARK:x,0\n")
    table = condition_prior.read_term_table(tmp_path / "marks.csv", lambda _: True)
    assert table == {"904": {"MARK:x": 0.0}}
    profiles, _ = condition_prior.profiles(["904", "5"], table | {"5": {}})
    assert profiles[0].tolist() == [0.0] and np.isnan(profiles[1]).all()
