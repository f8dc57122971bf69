"""The curator's table as people and spreadsheets write it: who is one patient, what is not known, what contradicts."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from test_rdface_dataset import HEADER, Curator, built, encoded, picture, run

from curation import curated_rows, curated_table, own_columns, protocols, row_consistency, value_parsers
from curation.leak_guard import check_fold
from harness import errors, text_normalization
from harness.counts import counted
from harness.null_words import is_null
from imaging.photographs import EXTENSIONS
from phenotyping import phenotypes
from simulation import people

COLUMNS = ["subject_id", "age", "country"]
PHOTOGRAPHS = [encoded(picture(n, (40, 40))) for n in range(8)]


def folder_of(tmp_path: Path, *rows: dict, columns: list[str] = COLUMNS) -> Path:
    """A folder with a row and a photograph for each; a row may say its `name` and `abbr`."""
    curator = Curator(tmp_path / "folder", columns)
    for n, row in enumerate(rows):
        values = dict(row)
        abbr = values.pop("abbr", "AAR")
        curator.add(values.pop("name", f"{abbr}.{n + 1}.jpg"), PHOTOGRAPHS[n], abbr=abbr, **values)
    return curator.save()


def report(folder: Path, capsys, *options: str) -> tuple[int, list[dict], int]:
    """Exit status, problems and usable images of `validate`."""
    capsys.readouterr()
    status = run("validate", folder, "--json", *options)
    told = json.loads(capsys.readouterr().out)
    return status, told["problems"], told["images"]


def rewritten(folder: Path, change, encoding: str = "utf-8") -> Path:
    path = folder / "disease_images.csv"
    path.write_bytes(change(path.read_text()).encode(encoding))
    return folder


# --- one patient in several spellings


ONE_PATIENT = {
    "NFC and NFD": ("Jos\u00e9-1", "Jose\u0301-1"),
    "NFD and capitals": ("A\u030angstro\u0308m", "\u212bNGSTR\u00d6M"),
    "capitals": ("sim-a", "SIM-A"),
    "sharp s": ("Stra\u00dfe", "STRASSE"),
    "full width": ("P12", "\uff3011\uff12".replace("11", "\uff11")),
    "ligature": ("fi1", "\ufb011"),
    "Arabic digits": ("P7", "P\u0667"),
    "zero width": ("P1", "P\u200b1"),
    "byte order mark": ("P1", "\ufeffP1"),
    "soft hyphen": ("P1", "P\u00ad1"),
    "direction marks": ("P1", "\u202aP1\u202c"),
    "variation selector": ("P1", "P1\ufe0f"),
    "blank Braille": ("P1", "P\u28001"),
    "no-break space": ("P 1", "P\u00a01"),
    "no space": ("P 1", "P1"),
    "spaces around a dash": ("1 - 2", "1-2"),
    "en dash": ("P-1", "P\u20131"),
    "non-breaking hyphen": ("P-1", "P\u20111"),
    "minus": ("P-1", "P\u22121"),
    "two hyphens for a dash": ("P\u20131", "P--1"),
    "typographic apostrophe": ("O'N-1", "O\u2019N-1"),
    "accent for an apostrophe": ("O'N-1", "O\u00b4N-1"),
    "decimal point": ("7", "7.0"),
    "two decimals": ("7", "7.00"),
    "decimal comma": ("7", "7,0"),
    "point alone": ("7", "7."),
    "three decimals": ("7", "7.000"),
    "exponent": ("100000", "1E+05"),
    "exponent with a fraction": ("1230", "1.23E+03"),
    "text mark": ("007", "'007"),
    "text formula": ("007", '="007"'),
    "quotes": ("P1", "\u201cP1\u201d"),
}
TWO_PATIENTS = [
    ("A-1", "A1"), ("1.5", "15"), ("P1", "P11"), ("007", "7"), ("1 2", "12"), ("1 11", "11 1"), ("7,000", "7"),
    ("1.10", "1.1"), ("P7.0", "P7"), ("1-2", "12"), ("P_1", "P-1"), ("Jos\u00e9", "Jose"), ("1e3", "1000"),
    ("10", "1"), ("7.01", "7"), ("100", "1,00"), ("-7", "7"), ("1.234E+02", "123"), ("P\u0131", "P\u00ec"),
]  # fmt: skip


@pytest.mark.parametrize("case", ONE_PATIENT)
def test_spellings_of_one_patient_have_one_key(case):
    one, other = ONE_PATIENT[case]
    assert one != other and text_normalization.subject_key(one) == text_normalization.subject_key(other) != ""


@pytest.mark.parametrize(("one", "other"), TWO_PATIENTS)
def test_patients_that_only_look_alike_have_two_keys(one, other):
    assert text_normalization.subject_key(one) != text_normalization.subject_key(other)
    assert protocols.groups([one, other], []) == [0, 1]


def test_groups_join_spellings_and_leave_what_is_not_known_alone():
    subjects = ["P 1", None, "p1", "\u200b", "\u200b", "7", "p2", "7.0", None]
    assert protocols.groups(subjects, []) == [0, 1, 0, 3, 4, 5, 6, 5, 8]
    assert protocols.groups(subjects, [(2, 7)]) == [0, 1, 0, 3, 4, 0, 6, 0, 8]


def test_a_patient_in_two_spellings_is_one_group_and_the_note_names_row_and_spellings(tmp_path, capsys):
    spellings = ["Jos\u00e9-1", "Jose\u0301-1", "P 1", "p1", "7", "7.0"]
    folder = folder_of(tmp_path, *({"subject_id": subject} for subject in spellings))
    status, problems, images = report(folder, capsys)
    notes = [(p["row"], p["severity"], p["reason"]) for p in problems]
    end = "in another spelling, and is taken as one patient"
    assert (status, images) == (0, 6) and notes == [
        (3, "note", f"'Jose\\u0301-1' is 'Jos\\xe9-1' of row 2 {end}"),  # in letters a reader would see no difference
        (5, "note", f"'p1' is 'P 1' of row 4 {end}"),
        (7, "note", f"'7.0' is '7' of row 6 {end}"),
    ]
    dataset = built(folder, tmp_path / "out")
    assert dataset["group_id"][:] == ["AAR.1", "AAR.1", "AAR.3", "AAR.3", "AAR.5", "AAR.5"]
    assert dataset["subject_id"][:] == spellings  # the curator's own
    fold = np.array(dataset["strict_fold"][:])
    assert (fold[::2] == fold[1::2]).all() and len(set(fold)) == 3


def test_many_joined_spellings_are_folded_after_ten(tmp_path, capsys):
    folder = folder_of(tmp_path, {})
    lines = [f"AAR.1.jpg,,AAR,,,,{n}{end}" for n in range(100) for end in ("", ".0")]
    rewritten(folder, lambda text: "\n".join([",".join([*HEADER, "subject_id"]), *lines]))
    run("validate", folder)
    told = [line for line in capsys.readouterr().out.splitlines() if "in another spelling" in line]
    assert len(told) == 11 and "'9.0' is '9' of row 20" in told[9] and told[10].endswith("and 79 more)")


def test_patients_that_look_alike_are_noted_and_stay_two(tmp_path, capsys):
    subjects = ["007", "7", "1.1", "1.10", "P1", "\u04201"]  # the last with a Cyrillic letter
    folder = folder_of(tmp_path, *({"subject_id": subject} for subject in subjects))
    _, problems, _ = report(folder, capsys)
    assert [(p["row"], p["reason"].partition(" looks like ")[2]) for p in problems] == [
        (3, "'007' of row 2, and is taken as another patient"),
        (5, "'1.1' of row 4, and is taken as another patient"),
        (7, "'P1' of row 6, and is taken as another patient"),
    ]
    assert len(set(built(folder, tmp_path / "out")["group_id"])) == 6


@pytest.mark.parametrize("subjects", [("1-11", "11-1"), ("P1", "P11"), ("sim-00001", "sim-00010"), ("1.5", "15")])
def test_ordinary_numbers_are_not_said_to_look_alike(tmp_path, capsys, subjects):
    folder = folder_of(tmp_path, *({"subject_id": subject} for subject in subjects))
    assert report(folder, capsys) == (0, [], 2)


def test_one_patient_in_two_spellings_has_one_condition_and_a_number_cut_short_is_noted(tmp_path, capsys):
    rows = ({"subject_id": "p1"}, {"subject_id": "P 1", "abbr": "B"}, {"subject_id": "1.23457E+11"})
    reasons = [p["reason"] for p in report(folder_of(tmp_path, *rows), capsys)[1]]
    assert "subject P 1 has another condition in row 2" in reasons
    assert any(reason.startswith("1.23457E+11 is a number that a spreadsheet cut short") for reason in reasons)


def test_a_dataset_edited_by_hand_cannot_slip_a_patient_past_the_guard():
    columns = {"image_id": ["a", "b", "c"], "group_id": ["a", "b", "c"], "subject_id": ["P 1", "p\u200b1", None]}
    sides = {"train": np.array([0, 2]), "val": np.array([], int), "test": np.array([1])}
    with pytest.raises(errors.LeakError, match="subject_id p\u200b1 is held out and in training"):
        check_fold(protocols.Fold(0, **sides), columns)
    for apart in (["P 1", "p2", None], ["\u200b", "\ufeff", None], [None, None, None]):
        check_fold(protocols.Fold(0, **sides), columns | {"subject_id": apart})


# --- what is not known

NOT_KNOWN = [
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "1.#QNAN", "<NA>", "NaN", "-nan", "NaT", "NULL", "None", "n/a", "N.A.",
    "n / a",
    "\u2013", "\u2014", "- -", "?", "...", "\u2026", "missing", "unknown", "UNKNOWN.", "(Unknown)", "'unknown'",
    "\u201cunknown\u201d", "[missing]", "*unknown*", "unknown?", "not available", "not_available", "Not-Known",
    "not applicable", "no data", "anonymous", "Anon", "unspecified", "n.d.", "s/n", "tbd", "#REF!", "#VALUE!", "#NAME?",
    "#DIV/0!", "#NULL!", "#NUM!", "#NV", "#WERT!", "Err:502", "=NA()", "(blank)", "\uff2e\uff0f\uff21", "unk\u00adnown",
    "####", "unknown patient", "\u200b", "\ufeff", "\u00a0", '""', "''", '"', "\u00ab\u00bb",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_KNOWN)
def test_what_programs_and_people_write_for_not_known_is_null(text):
    assert is_null(text)


SOMEBODY = [
    "P1", "0", "-9", "7", "ref", "name", "value", "Anna", "unknown 1", "anon-2", "anon3", "x", "NAT1",
    "(7)", "#7", "1.5",
    "p.n.d.", "ND",
]  # fmt: skip


@pytest.mark.parametrize("text", SOMEBODY)
def test_what_may_be_somebody_is_not_null(text):
    assert not is_null(text)


def test_no_gene_and_no_country_but_na_is_a_null_word():
    genes = [gene for gene in value_parsers._genes() if is_null(gene)]
    countries = [name for name in value_parsers._countries() if is_null(name)]
    assert (genes, countries) == (["-"], ["na"])


def test_not_known_in_many_ways_is_nobody_and_folds_are_drawn(tmp_path, capsys):
    texts = ["#N/A", "#N/A", "unknown", "\u2013", '""', "#N/A"]
    rows = ({"subject_id": text, "abbr": "AB"[n // 3]} for n, text in enumerate(texts))
    folder = folder_of(tmp_path, *rows)
    run("validate", folder)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("disease_images.csv:2: note: subject_id: '#N/A' is read as not known; ")
    assert told[0].endswith(" (likewise rows 3 and 7)") and len(told) == 5  # one line for each way, and the last
    dataset = built(folder, tmp_path / "out")
    assert set(dataset["subject_id"]) == {None} and len(set(dataset["group_id"])) == 6
    assert None not in dataset["strict_fold"][:]


def test_the_curator_names_further_texts_for_not_known(tmp_path, capsys):
    rows = [{"subject_id": "Patient", "age": "0"}, {"subject_id": " PATIENT "}, {"subject_id": "0"}, {"age": "999"}]
    folder = folder_of(tmp_path, *rows, {"subject_id": "p1"})
    options = ("--null_values", "patient", "subject_id=0", "999", "--null_values", "typo")
    status, problems, _ = report(folder, capsys, *options)
    assert status == 0 and [(p["row"], p["column"], p["severity"]) for p in problems] == [
        (None, None, "note"), (2, "subject_id", "note"), (3, "subject_id", "note"), (4, "subject_id", "note"),
        (5, "age", "note"),
    ]  # fmt: skip
    assert problems[0]["reason"] == "no cell holds 'typo', which --null_values names"
    dataset = built(folder, tmp_path / "out", *options)
    assert dataset["subject_id"][:] == [None, None, None, None, "p1"]
    assert dataset["age_years"][:] == [0, None, None, None, None]  # 0 means not known for subjects only
    assert json.loads((tmp_path / "out/build_record.json").read_text())["arguments"]["null_values"][1] == "subject_id=0"
    assert run("validate", folder, "--null_values", "Subject=0") == 2
    assert "'Subject' is no column that may be null" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("subjects", "conditions", "expected"),
    [
        ("0 0 0 p1 p2 p3 p4 p5", "AABAAABB", "subject 0 has 3 photographs under 2 conditions, of 8 in all"),
        ("child Child p4 child p6", "AAABB", "subject child has 3 photographs under 2 conditions, of 5 in all"),
        ("x x x x x p1", "AAAAAA", "subject x has 5 photographs under 1 condition, of 6 in all"),
        ("p1 p2 p3 p1 p2 p3", "AAABBB", None),  # numbered in each condition: has a note of its own
        ("p1 p1 p1 p2 p3 p4", "AAAAAA", None),
    ],
)
def test_a_subject_that_may_mean_not_known_is_noted(tmp_path, capsys, subjects, conditions, expected):
    rows = [{"subject_id": s, "abbr": abbr} for s, abbr in zip(subjects.split(), conditions, strict=True)]
    noted = [p for p in report(folder_of(tmp_path, *rows), capsys)[1] if "photographs under" in p["reason"]]
    assert [p["reason"] for p in noted] == ([expected] if expected else [])
    assert all(p["remedy"].endswith(f"add --null_values subject_id={subjects.split()[0]}") for p in noted)


# --- countries

COUNTRIES = {
    "Scotland": "GBR", "UK": "GBR", "u.k.": "GBR", "Northern Ireland": "GBR", "UAE": "ARE", "U.S.A.": "USA",
    "us": "USA", "USA": "USA", "840": "USA", "Brasil": "BRA", "DEUTSCHLAND": "DEU", "Espa\u00f1a": "ESP",
    "Russia": "RUS", "South Korea": "KOR", "Republic of Korea": "KOR", "Turkey": "TUR", "T\u00fcrkiye": "TUR",
    "Turkiye": "TUR", "Czech Republic": "CZE", "Ivory Coast": "CIV", "Co\u0302te d\u2019Ivoire": "CIV",
    "Holland": "NLD", "the Netherlands": "NLD", "Burma": "MMR", "Cape Verde": "CPV", "Swaziland": "SWZ",
    "Macedonia": "MKD", "Palestine": "PSE", "Taiwan": "TWN", "Hong Kong": "HKG", "Georgia": "GEO", "Jersey": "JEY",
    "The Gambia": "GMB", "Bahamas, The": "BHS", "St. Lucia": "LCA", "Bolivia": "BOL", "Guinea-Bissau": "GNB",
    "Democratic Republic of the Congo": "COD", "Republic of the Congo": "COG", "Viet Nam": "VNM", "NO": "NOR",
    "\uff26rance": "FRA", "Trinidad & Tobago": "TTO", "Islamic Republic of Iran": "IRN",
    "Korea (the Republic of)": "KOR",
    "Philippines (the)": "PHL", "Germany (DEU)": "DEU", "England, UK": "GBR", "GB - United Kingdom": "GBR",
    "UK; England": "GBR", "NA": None, "unknown": None,
}  # fmt: skip
NO_COUNTRIES = {
    "Southern Africa": "is no country", "Jersey City": "is no country", "Atlanta, Georgia": "is no country",
    "New Mexico": "is no country", "Paris, France": "is no country", "Guinea pig": "is no country",
    "British India": "is no country", "Europe": "is no country", "USSR": "is no country",
    "4": "is no country", "Frnace": "is no country",
    "East Germany": "is no country", "Bavaria": "is no country", "No": "is no country",
    "South Korea or North Korea": "names more than one country", "Niger and Nigeria": "names more than one country",
    "Puerto Rico, USA": "names more than one country", "Ireland (UK)": "names more than one country",
    "Georgia, Atlanta": "is no country", "USA/Canada": "names more than one country",
    "Congo": "may be the Republic", "Korea": "may be South Korea",
    "Kosovo": "has no code in ISO 3166", "Virgin Islands": "may be the British", "America": "may be the United States",
}  # fmt: skip


@pytest.mark.parametrize("text", COUNTRIES)
def test_a_country_is_read_from_its_exact_name_code_or_common_alias(text):
    assert value_parsers.country(text) == COUNTRIES[text]


def test_what_is_no_countrys_exact_name_is_a_note_with_the_row_and_null(tmp_path, capsys):
    for text, reason in NO_COUNTRIES.items():
        with pytest.raises(ValueError, match=reason):
            value_parsers.country(text)
    rows = [{"country": text} for text in ("Southern Africa", "Brasil", "GBR;FRA", "Southern Africa")]
    folder = folder_of(tmp_path, *rows)
    assert run("validate", folder) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("disease_images.csv:2: note: country: 'Southern Africa' is no country; it is null; ")
    assert told[0].endswith(" (likewise row 5)")
    assert told[1].startswith(
        "disease_images.csv:4: note: country: 'GBR;FRA' names more than one country; it is null; "
    )
    assert built(folder, tmp_path / "out")["country"][:] == [None, "BRA", None, None]


def test_every_alias_is_new_and_every_simulated_country_is_known():
    exact = {code for code in value_parsers._countries().values()}
    assert len(exact) == 249 and set(value_parsers.COUNTRY_ALIASES) <= exact
    assert not set(value_parsers.NO_COUNTRY) & {
        value_parsers._country_key(name)
        for names in value_parsers.COUNTRY_ALIASES.values()
        for name in names.split("; ")
    }
    assert all(value_parsers.country(name) for name in people.COUNTRY_ANCESTRY)


# --- names that contradict their row


def test_a_file_named_after_another_condition_is_refused(tmp_path, capsys):
    names = ["B27.1.jpg", "G01.9.jpg", "g01.10.JPG", "IMG.9.jpg", "G01_3.jpg", "B27-G01.4.jpg"]
    rows = [{"name": name, "abbr": "B27"} for name in names]
    folder = folder_of(tmp_path, *rows, {"abbr": "G01"}, {"abbr": "G01.9", "name": "G01.9.jpg"})
    status, problems, images = report(folder, capsys)
    assert (status, images) == (2, 6)
    refused = [(p["row"], p["reason"]) for p in problems if p["severity"] == "row"]
    named = "is named as a photograph of G01, but its row is of B27"
    assert refused == [(3, f"'G01.9.jpg' {named}"), (4, f"'g01.10.JPG' {named}")]
    assert [p["row"] for p in problems if p["reason"] == "'G01_3.jpg' begins as G01 does, but its row is of B27"] == [6]


@pytest.mark.parametrize(
    ("rows", "refused"),  # rows as abbreviation and disease name
    [
        ("A:x A:x A:y B:y B:y", {4: "'y' is the name of B, not of A (as in row 2)"}),
        ("A:y A:x B:y", {2: "'y' is the name of B, not of A (as in row 3)"}),  # a tie within A: B has no other name
        ("B:y A:y A:x", {3: "'y' is the name of B, not of A (as in row 4)"}),
        (
            "A:x A:y B:y B:x",
            {3: "'y' is the name of B, not of A (as in row 2)", 5: "'x' is the name of A, not of B (as in row 4)"},
        ),
        ("A:x A:X A:x- B:y", {}),  # spellings
        ("A:x A:x A:z B:y", {}),  # nobody's name
        ("A:x B:x", {}),  # one condition under two abbreviations: a note
    ],
)  # fmt: skip
def test_a_disease_name_that_is_another_conditions_is_refused(tmp_path, capsys, rows, refused):
    pairs = [row.split(":") for row in rows.split()]
    folder = folder_of(tmp_path, *({"abbr": abbr, "disease_name": name} for abbr, name in pairs))
    status, problems, images = report(folder, capsys)
    assert {p["row"]: p["reason"] for p in problems if p["severity"] == "row"} == refused
    assert (status, images) == (2 if refused else 0, len(pairs) - len(refused))
    notes = [p["reason"] for p in problems if p["column"] == "disease_name" and p["severity"] == "note"]
    assert len(notes) == {"A:x A:X A:x- B:y": 2, "A:x A:x A:z B:y": 1, "A:x B:x": 1}.get(rows, 0)


def test_genes_and_a_code_of_another_condition(tmp_path, capsys):
    rows = [{"gene_name": "FBN1", "orphanet_code": "1"}] * 3 + [{"gene_name": "KMT2D", "orphanet_code": ""}]
    other = [{"abbr": "B", "gene_name": "KMT2D", "orphanet_code": "2"}] * 2
    _, problems, _ = report(folder_of(tmp_path, *rows, *other), capsys)
    assert [(p["row"], p["severity"], p["reason"]) for p in problems] == [
        (5, "note", "the genes are those of B, not of the other rows of AAR"),
        (5, "note", "no value in row 5 of AAR, where other rows of it have '1'"),
    ]


@pytest.mark.parametrize(
    ("column", "text", "severity", "reason"),
    [
        ("disease_name", "x" * 200_000, "cell", "has 200,000 characters, more than the 500"),
        ("disease_name", "x" * 501, "cell", "has 501 characters"),
        ("age", "9" * 101, "cell", "has 101 characters"),
        ("country", "x" * 201, "cell", "has 201 characters"),
        ("gene_name", "FBN1;" * 4_000 + "F", "cell", "has 20,001 characters"),
        ("gene_name", "G" * 51, "cell", "has more than 50 characters, and is no gene"),
        ("ward", "w" * 20_001, "cell", "has 20,001 characters"),
        ("subject_id", "s" * 201, "row", "has 201 characters"),
        ("subject_id", "s\x02", "row", "holds the control character U+0002"),
        ("sub_category", "a\x1b[31mb", "cell", "holds the control character U+001B"),
        ("ward", "a\x7f", "cell", "holds the control character U+007F"),
    ],
)  # fmt: skip
def test_cells_that_hold_no_value_are_named_by_row_and_column(tmp_path, capsys, column, text, severity, reason):
    folder = folder_of(tmp_path, {}, {column: text}, columns=[*COLUMNS, "ward"])
    status, (_, problem, *more), images = report(folder, capsys)  # the first: ward is kept as text
    assert (status, problem["row"], problem["column"], problem["severity"]) == (2, 3, column, severity)
    assert reason in problem["reason"] and more == [] and images == (1 if severity == "row" else 2)


def test_long_and_many_lined_cells_that_are_values_are_kept(tmp_path, capsys):
    ward = "line\r\nline\tof\x0btext " * 1_000
    genes = ";".join(sorted(value_parsers._genes())[1:2_001])
    genes += f";{'G' * 50}"
    values = {"disease_name": "x" * 500, "subject_id": "s" * 200, "gene_name": genes, "ward": ward, "age": " " * 101}
    status, problems, images = report(folder_of(tmp_path, values, columns=[*COLUMNS, "ward"]), capsys)
    assert (status, images) == (0, 1) and all(p["severity"] == "note" for p in problems)


# --- tables as spreadsheets save them


def semicolons(text: str) -> str:
    return text.replace(";", "/").replace(",", ";")


SPREADSHEETS = {  # what becomes of the text of a table; the notes' lines and reasons
    "empty last cells left out": (
        lambda t: t.replace(",,,\n", "\n"),
        {2: "has 6 cells, where the header has 9", 3: "has 6 cells, where the header has 9"},
    ),
    "title": (lambda t: "RDFace 2024,,,,\n\n" + t, {1: "'RDFace 2024' stands above the header"}),
    "open quote in a title": (lambda t: 'The "table\n' + t, {1: "'The \"table' stands above the header"}),
    "blank lines": (lambda t: "\n,,,\n" + t, {}),
    "sep=": (lambda t: "sep=;\n" + semicolons(t), {}),
    "quoted sep=": (lambda t: '"sep=,"\n' + t, {}),
    "semicolons": (semicolons, {}),
    "tabs": (lambda t: t.replace(",", "\t"), {}),
    "semicolons and CRLF": (lambda t: semicolons(t).replace("\n", "\r\n"), {}),
    "CR": (lambda t: t.replace("\n", "\r"), {}),
    "byte order marks": (lambda t: "\ufeff\ufeff" + t, {}),
    "quoted header": (lambda t: t.replace(",".join(HEADER), ",".join(f'"{name}"' for name in HEADER)), {}),
    "columns without a name": (lambda t: semicolons(t).replace("\n", ";;;;\n"), {}),
    "an index without a name": (lambda t: "".join(f",{line}" for line in t.splitlines(keepends=True)), {}),
    "capitals and spaces": (
        lambda t: t.replace("image_name", "Image_Name ").replace("subject_id", "Subject ID"),
        {1: "column 'Image_Name' is read as image_name; column 'Subject ID' is read as subject_id"},
    ),
    "surplus but empty in every row": (
        lambda t: t.replace("\n", ",,\n").replace(",,\n", "\n", 1),
        {1: "every row has at least 11 cells, where the header has 9"},
    ),
    "surplus but empty in the header and some rows": (lambda t: t.replace("\n", ",,\n", 3), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", SPREADSHEETS)
def test_tables_as_spreadsheets_save_them_are_read(tmp_path, capsys, case):
    change, notes = SPREADSHEETS[case]
    folder = folder_of(tmp_path, {}, {}, {"subject_id": "p1", "age": "6.5"}, {"subject_id": "p1", "age": "6 months"})
    status, problems, images = report(rewritten(folder, change), capsys)
    assert (status, images) == (0, 4)
    assert {p["row"] for p in problems} == set(notes)
    assert all(p["severity"] == "note" and p["reason"].startswith(notes[p["row"]]) for p in problems)
    if case in ("semicolons", "capitals and spaces"):
        dataset = built(folder, tmp_path / "out")
        assert dataset["subject_id"][:] == [None, None, "p1", "p1"] and dataset["age_years"][2:] == [6.5, 0.5]


def test_decimal_commas_and_gene_lists_in_a_semicolon_table(tmp_path):
    folder = folder_of(tmp_path, {"age": "2.6", "gene_name": "FBN1/KMT2D", "orphanet_code": "2995.0"})
    rewritten(folder, lambda text: semicolons(text).replace(".6", ",6").replace(".0", ",0"))
    rewritten(folder, lambda text: text.replace("FBN1/KMT2D", '"FBN1;KMT2D"'))
    row = built(folder, tmp_path / "out")[0]
    assert (row["age_years"], row["gene_names"], row["orphanet_code"]) == (2.6, ["FBN1", "KMT2D"], "2995")


def test_tab_separated_unicode_text_of_a_spreadsheet_is_read(tmp_path, capsys):
    folder = rewritten(folder_of(tmp_path, {}, {}), lambda text: text.replace(",", "\t"), "utf-16")
    assert report(folder, capsys) == (0, [], 2)


@pytest.mark.parametrize(("line", "status"), [(100, 0), (101, 2)])
def test_the_header_is_looked_for_in_the_first_hundred_lines(tmp_path, capsys, line, status):
    folder = rewritten(folder_of(tmp_path, {}), lambda text: "\n" * (line - 1) + text)
    assert report(folder, capsys)[0] == status


def test_lines_in_messages_stay_the_files_own_below_a_title(tmp_path, capsys):
    folder = folder_of(tmp_path, {}, {"age": "old", "subject_id": "a\nb"}, {"age": "older"})
    _, problems, _ = report(rewritten(folder, lambda text: "sep=,\nTitle\n\n" + text), capsys)
    assert [(p["row"], p["reason"]) for p in problems if p["column"] == "age"] == [
        (6, "'old' is no age"),
        (8, "'older' is no age"),  # the record above takes two lines
    ]


REFUSED_TABLES = {
    "workbook": (lambda t: "PK\x03\x04" + t, "disease_images.csv: is a spreadsheet's own file (such as .xlsx)"),
    "header in the middle": (
        lambda t: "".join(t.splitlines(keepends=True)[i] for i in (1, 0, 2)),
        "disease_images.csv:1: stands above the header, which is in line 2, but names an image",
    ),
    "no header": (lambda t: t.partition("\n")[2], "disease_images.csv:1: column image_name, disease_name"),
    "a column lacks, below a title": (
        lambda t: "Title\n" + t.replace("gene_name", "gene"),
        "disease_images.csv:2: column gene_name is missing; add it",
    ),
    "a mistyped column": (
        lambda t: t.replace("disease_abbr", "disease_abr"),
        "column disease_abbr is missing, but there is disease_abr; rename disease_abr to disease_abbr",
    ),
    "a mistyped column, and one that lacks": (
        lambda t: t.replace("orphanet_code", "Orphanet Cod").replace("gene_name", "x"),
        "column gene_name, orphanet_code is missing, but there is Orphanet Cod; "
        "rename Orphanet Cod to orphanet_code, add gene_name",
    ),
    "lines in quotes": (
        lambda t: "".join(f'"{line}"\n' for line in t.splitlines()),
        "take the quotation marks from around the lines",
    ),
    "a column twice, in two spellings": (
        lambda t: t.replace("subject_id", "Sex").replace("country", "SEX"),
        "disease_images.csv:1: column sex occurs twice",
    ),
    "part of a column": (
        lambda t: t.replace("country", "image.bytes"),
        "column image.bytes has the name of a part of column image, which the build writes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_TABLES)
def test_tables_that_cannot_be_read_are_one_line_with_the_remedy(tmp_path, capsys, case):
    change, reason = REFUSED_TABLES[case]
    folder = rewritten(folder_of(tmp_path, {}, {}), change)
    assert run("validate", folder) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert reason in told
    status, problems, images = report(folder, capsys)
    assert (status, len(problems), problems[0]["severity"], images) == (2, 1, "file", 0)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("disease_images.CSV", "but disease_images.CSV; rename disease_images.CSV to disease_images.csv"),
        ("Disease Images.csv", "but Disease Images.csv; rename Disease Images.csv to disease_images.csv"),
        (
            "disease_images.xlsx",
            "; open disease_images.xlsx in a spreadsheet program, and save it as CSV in UTF-8 under",
        ),
        ("patients.ods", "; open patients.ods in a spreadsheet program, and save it as CSV in UTF-8 under the name d"),
        ("patients.tsv", "; open patients.tsv in a spreadsheet program, and save it as CSV in UTF-8 under the name d"),
        ("faces.csv", "but faces.csv; rename faces.csv to disease_images.csv"),
        (None, "; put it beside the folder rd_images, which holds the photographs as <disease_abbr>/<image_name>"),
    ],
)
def test_a_missing_table_is_one_line_that_names_what_may_be_it(tmp_path, capsys, monkeypatch, name, remedy):
    folder = folder_of(tmp_path, {})
    (folder / "disease_images.csv").rename(folder / (name or "../elsewhere"))
    monkeypatch.chdir(folder)
    for given in (folder, "."):
        assert run("validate", given) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert remedy in told and f"is missing: there is no file {folder.resolve()}/disease_images.csv" in told
    assert report(folder, capsys)[::2] == (2, 0)


def test_cells_beyond_the_header_and_rows_without_an_abbreviation_are_refused(tmp_path, capsys):
    folder = folder_of(tmp_path, {}, {}, {})
    rewritten(
        folder, lambda text: semicolons(text).replace("\n", ";;x;\n").replace(";;x;\n", "\n", 2) + "AAR.9.jpg;x\n"
    )
    status, problems, images = report(folder, capsys)
    assert (status, images) == (2, 1)
    assert [(p["row"], p["severity"], p["reason"], p["remedy"]) for p in problems if p["row"]] == [
        (3, "row", "has 12 cells, where the header has 9", "quote cells that hold a semicolon, and name every column"),
        (4, "row", "has 12 cells, where the header has 9", "quote cells that hold a semicolon, and name every column"),
        (
            5, "row", "has 2 cells, where the header has 9, so that disease_abbr is left out",
            "part its cells by a semicolon, as the header's are, or delete the line",
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_decimal_comma_without_quotation_marks_never_shifts_a_row(tmp_path, capsys, n_rows):
    """The last column is empty, so that the surplus cell is empty, too."""
    rows = [{"age": "6.5", "sex": "male", "country": "DEU"}, *[{"age": "4"}] * (n_rows - 1)]
    folder = folder_of(tmp_path, *rows, columns=["age", "sex", "country", "comment"])
    rewritten(folder, lambda text: text.replace("6.5", "6,5"))
    status, problems, images = report(folder, capsys)
    reason, remedy = "has 11 cells, where the header has 10", "quote cells that hold a comma (a decimal comma, "
    (refused,) = [p for p in problems if p["severity"] != "note"]
    assert (status, images, refused["row"], refused["severity"]) == (2, n_rows - 1, 2, "row")
    assert refused["reason"] == reason and refused["remedy"].startswith(remedy)
    if n_rows > 1:
        assert built(folder, tmp_path / "out", "--skip_bad")["image_id"][:] == ["AAR.2", "AAR.3"]
    rewritten(folder, lambda text: text.replace("6,5", '"6,5"'))
    assert built(folder, tmp_path / "quoted")["age_years"][0] == 6.5


def test_rows_with_which_the_same_is_wrong_are_one_line_and_their_files_are_not_said_to_be_forgotten(tmp_path, capsys):
    rows = [{"age": "6.5"}, {"age": "7.5"}, {"age": "4"}, {"abbr": "NOO"}]
    folder = folder_of(tmp_path, *rows, columns=["age", "sex"])
    (folder / "rd_images/NOO/AAR.1.jpg").write_bytes(b"-")  # no row names this one: it bears another file's name only
    rewritten(folder, lambda text: text.replace("6.5", "6,5").replace("7.5", "7,5").replace(",NOO,", ",,"))
    assert run("validate", folder) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "rd_images: note: no row names 'NOO/AAR.1.jpg'; add a row for each photograph that belongs here; other files "
        "are left out",
        "disease_images.csv:2: has 9 cells, where the header has 8; quote cells that hold a comma (a decimal comma, as "
        'in "6,5", may be the cause), or delete the empty cells at the row\'s end (likewise row 3)',
        "disease_images.csv:5: disease_abbr: is empty; add the abbreviation, or delete the row",
        "1 usable image, 3 problems in 2 lines, 1 note",
    ]


def test_one_look_finds_all_mistakes_of_a_row_and_the_files_that_no_row_names(tmp_path, capsys):
    folder = folder_of(tmp_path, {"age": "12.03.2015"}, {}, {})
    photographs = folder / "rd_images/AAR"
    (photographs / "AAR.1.jpg").rename(photographs / "AAR.1.JPG")
    (photographs / "forgotten.jpg").write_bytes(b"-")
    (photographs / ".DS_Store").write_bytes(b"-")
    rewritten(folder, lambda text: text.replace("AAR.2.jpg", "AAR.2").replace("AAR.3.jpg", "AAR.3.png"))
    status, problems, images = report(folder, capsys)
    assert (status, images) == (2, 0)
    assert [(p["row"], p["column"], p["reason"]) for p in problems] == [
        (None, None, "no row names 'AAR/forgotten.jpg'"),
        (2, "image_name", "AAR.1.jpg is missing (there is AAR.1.JPG, in other capitals)"),
        (2, "age", "'12.03.2015' is no age"),
        (3, "image_name", "AAR.2 is missing (there is AAR.2.jpg)"),
        (4, "image_name", "AAR.3.png is missing (there is AAR.3.jpg)"),
    ]


def test_what_stands_in_a_column_without_a_name_is_left_out_with_a_note(tmp_path, capsys):
    folder = rewritten(folder_of(tmp_path, {}, {"age": "seen"}, {}), lambda text: text.replace(",age,", ",,"))
    status, problems, images = report(folder, capsys)
    assert (status, images, [(p["row"], p["reason"]) for p in problems]) == (
        0, 3, [(3, "column 8 has no name, and is left out")],
    )  # fmt: skip


GENES_AS_DATES = {
    "2-Sep": "SEPTIN2", "02-Sep": "SEPTIN2", "Sep-02": "SEPTIN2", "2. Sep": "SEPTIN2", "September 2, 2024": "SEPTIN2",
    "2-Sep-24": "SEPTIN2", "2-Sept.": "SEPTIN2", "14-Sep": "SEPTIN14", "15-Sep": "SELENOF", "2006-09-02": "SEPTIN2",
    "2006-09-02 00:00:00": "SEPTIN2", "1-Mar": "MARCHF1 or MTARC1", "Mar-01": "MARCHF1 or MTARC1",
    "01.03.2024": "MARCHF1 or MTARC1", "2001-03-01": "MARCHF1 or MTARC1", "1. Mrz": "MARCHF1 or MTARC1",
    "44621": "MARCHF1 or MTARC1", "10-Mar": "MARCHF10", "9/3/2024": "MARCHF9 or SEPTIN3",
    "44621.0": "MARCHF1 or MTARC1", "9/2/2024": "SEPTIN2", "1-Dec": "DELEC1", "4-Oct": "POU5F1",
    "5-Jan": "", "13-Mar": "", "2.31E+19": "",
}  # fmt: skip


@pytest.mark.parametrize("text", GENES_AS_DATES)
def test_a_gene_that_a_spreadsheet_made_a_date_is_flagged_with_the_gene_that_it_was(text):
    ((part, genes),) = value_parsers.dates_for_genes(f"FBN1;{text}" if "," not in text else text).items()
    assert (part, " or ".join(genes)) == (text, GENES_AS_DATES[text])


@pytest.mark.parametrize(
    "text", ["FBN1", "SEPT9", "DEC1", "7157", "2310009E13RIK", "TRIM32", "MAR1X", "99999", "H2-K1"]
)
def test_genes_that_are_no_dates(text):
    assert value_parsers.dates_for_genes(text) == {}


def test_genes_as_dates_are_cell_problems_and_former_symbols_notes(tmp_path, capsys):
    genes = ["2-Sep;FBN1", "SEPT9", "march1", "DEC1", "MARC2", "SEPT20"]
    folder = folder_of(tmp_path, *({"gene_name": gene} for gene in genes))
    status, problems, _ = report(folder, capsys)
    assert status == 2 and [(p["row"], p["severity"], p["remedy"]) for p in problems if p["column"] == "gene_name"] == [
        (2, "cell", "write SEPTIN2, and format the column as text; --skip_bad leaves out only this entry"),
        (3, "note", "write SEPTIN9"), (4, "note", "write MARCHF1"), (5, "note", "write DELEC1"),
        (6, "note", "write MTARC2"), (7, "note", "check its spelling"),
    ]  # fmt: skip
    assert problems[0]["reason"].startswith("'2-Sep' is a date or a number, no gene (a spreadsheet made it of SEPTIN2)")
    written = built(folder, tmp_path / "out", "--skip_bad")["gene_names"][:]
    assert written == [["FBN1"], ["SEPT9"], ["march1"], ["DEC1"], ["MARC2"], ["SEPT20"]]


def test_reading_takes_time_in_proportion_to_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(curated_table.Folder, "find", lambda self, abbr, name: Path(f"/nowhere/{abbr}/{name}"))
    folder = folder_of(tmp_path, {})
    seconds = []
    for n in (1_000, 8_000):
        lines = [f"A{k % 50}.{k}.jpg,S,A{k % 50},eyes,FBN1,1,{k // 3}{['', '.0'][k % 2]},6,Atlantis" for k in range(n)]
        rewritten(folder, lambda text, lines=lines: "\n".join([text.partition("\n")[0], *lines]))
        began, problems = time.process_time(), []
        rows, _ = curated_table.read(folder, problems)
        seconds.append(time.process_time() - began)
        assert len(rows) == n and len(problems) > n
    assert seconds[1] < 24 * seconds[0] + 0.5  # 8 times the rows; 64 times the time if it grew with their square


def test_names_without_numbers_are_numbered_in_proportion_to_the_rows(tmp_path):
    (tmp_path / "A.3.jpg").write_bytes(b"")
    rows = [curated_rows.Row(n, "A", tmp_path / f"scan {n}.jpg", {}) for n in range(20_000)]
    began, problems = time.process_time(), []
    curated_table.assign_image_ids(rows, problems)
    assert [row.values["image_id"] for row in rows[:4]] == ["A.1", "A.2", "A.4", "A.5"]
    assert rows[-1].values["image_id"] == "A.20001" and len(problems) == 20_000
    assert time.process_time() - began < 5  # 200 million steps if each search began at 1


# --- capitals, codes of other diseases, ages of adults, and what the documentation says of them


def test_a_folder_in_other_capitals_is_named_with_the_remedy(tmp_path, capsys):
    folder = folder_of(tmp_path, {"abbr": "NOO"}, {"abbr": "NOO"}, {"abbr": "AAR"})
    if (folder / "rd_images/noo").exists():
        pytest.skip("this file system does not tell capitals apart")
    rewritten(folder, lambda text: text.replace(",NOO,", ",Noo,"))
    status, problems, images = report(folder, capsys)
    assert (status, images) == (2, 1)
    reason = "NOO.{}.jpg is missing: there is no folder Noo, but NOO, in other capitals"
    remedy = "write NOO as disease_abbr, or rename the folder"
    assert [(p["row"], p["reason"], p["remedy"]) for p in problems] == [
        (2, reason.format(1), remedy), (3, reason.format(2), remedy)
    ]  # fmt: skip


OTHER_DISEASES = {  # name, code, genes -> the note
    "code of another": ("Cornelia de Lange syndrome", "192", "", "write 199, which the project's table has for"),
    "other spelling": ("CORNELIA-DE-LANGE Syndrom", "ORPHA:192", "", "write 199, which the project's table has for"),
    "chromosomes": ("Trisomy 13", "3380", "", "write 3378, which the project's table has for 'Trisomy 13', or correct"),
    "inheritance": ("Autosomal dominant Robinow syndrome", "1507", "", "write 3107, which the project's table has for"),
    "unknown name": (
        "Aarskog-Scott syndrome",
        "192",
        "FGD1",
        "check the code, if 'Aarskog-Scott syndrome' is no other",
    ),
}
SAME_DISEASE = {
    "capitals": ("coffin lowry", "192", ""),
    "subtype": ("Cornelia de Lange syndrome 1", "199", "NIPBL"),
    "roman numeral": ("Cornelia de Lange syndrome, type II", "199", ""),
    "another type": ("Waardenburg syndrome type 2", "894", ""),
    "wider name": ("Kleefstra syndrome", "96147", ""),
    "eponym added": ("Williams-Beuren syndrome", "904", ""),
    "misspelt": ("Cofin-Lowri syndrome", "192", ""),
    "accent": ("Cantu syndrome", "1517", ""),
    "synonym with its gene": ("Brachmann's disease", "199", "NIPBL"),
    "code that the table lacks": ("Cornelia de Lange syndrome", "915", ""),
    "no code": ("Cornelia de Lange syndrome", "", ""),
    "no name": ("", "192", ""),
}


def code_notes(tmp_path, capsys, name: str, code: str, genes: str) -> list[dict]:
    row = {"disease_name": name, "orphanet_code": code, "gene_name": genes, "abbr": "X"}
    status, problems, images = report(folder_of(tmp_path, row, row), capsys)
    assert (status, images) == (0, 2)  # never a refusal
    return [p for p in problems if p["column"] == "orphanet_code"]


@pytest.mark.parametrize("case", OTHER_DISEASES)
def test_a_code_of_another_disease_is_one_note_with_both_names(tmp_path, capsys, case):
    name, code, genes, remedy = OTHER_DISEASES[case]
    (note,) = code_notes(tmp_path, capsys, name, code, genes)
    code = code.removeprefix("ORPHA:")
    disease = next(condition.name for condition in phenotypes.conditions() if condition.orphanet_code == code)
    assert (note["row"], note["severity"]) == (2, "note") and note["remedy"].startswith(remedy)
    assert note["reason"] == f"ORPHA {code} of X, {name!r}, is {disease} in the project's table"


@pytest.mark.parametrize("case", SAME_DISEASE)
def test_a_name_that_agrees_with_its_code_is_no_note(tmp_path, capsys, case):
    assert code_notes(tmp_path, capsys, *SAME_DISEASE[case]) == []


def test_no_condition_of_the_projects_table_has_a_note_on_its_code():
    conditions = phenotypes.conditions()
    values = [
        {"subject_id": None, "age_years": None, "sex": None, "sub_category": None, "disease_abbr": c.abbr,
         "disease_name": c.name, "orphanet_code": c.orphanet_code, "gene_names": list(c.genes)} for c in conditions
    ]  # fmt: skip
    rows = [curated_rows.Row(n + 2, v["disease_abbr"], Path(), v) for n, v in enumerate(values)]
    problems: list = []
    row_consistency.note_doubtful(rows, problems)
    assert problems == []
    for row, other in zip(rows, [*conditions[1:], conditions[0]], strict=True):
        row.values["orphanet_code"] = other.orphanet_code
    row_consistency.note_doubtful(rows, problems)
    assert len(problems) > 0.9 * len(rows)  # those that remain have a word in common


@pytest.mark.parametrize(
    ("ages", "told"),
    [
        ("3 5 95 6 40 7", "2 photographs of persons of 18 years or more (rows 4 and 6; the oldest, in row 4, is 95)"),
        ("3 5 18", "1 photograph of persons of 18 years or more (row 4; the oldest, in row 4, is 18)"),
        ("3 5 17.9", None),
        ("30 40 50 3", None),  # a dataset of adults
        ("30 40 110 3", "1 photograph of persons of 100 years or more (row 4; the oldest, in row 4, is 110)"),
    ],
)
def test_adults_among_children_are_one_note(tmp_path, capsys, ages, told):
    status, problems, images = report(folder_of(tmp_path, *({"age": age} for age in ages.split())), capsys)
    assert (status, images) == (0, len(ages.split()))
    assert [p["reason"] for p in problems if p["column"] == "age"] == ([told] if told else [])


def line_of_docs(start: str) -> str:
    docs = (Path(__file__).parents[1] / "docs/curators.md").read_text(encoding="utf-8")
    (line,) = [line for line in docs.splitlines() if line.startswith(start)]
    return line


def test_the_documentation_lists_the_endings_ages_and_words_that_are_read():
    assert re.findall(r"`(\.\w+)`", line_of_docs("- Photographs are ")) == list(EXTENSIONS)
    words = re.findall(r"`(\w+)`", line_of_docs("- `sex` is "))
    assert words[0] == "sex" and {word.casefold() for word in words[1:]} == set(value_parsers.SEXES)
    assert value_parsers.SEX_WORDS == (
        "female (f, girl, woman, w, weiblich, mädchen) or male (m, boy, man, männlich, junge)"
    )
    ages = re.findall(r"`([^`]+)`", line_of_docs("- An age is "))
    weeks, days = pytest.approx(5 * 7 / 365.25, abs=1e-4), pytest.approx(10 / 365.25, abs=1e-4)
    read = [value_parsers.age_years(age.strip('"')) for age in ages]
    assert read == [6, 6.5, 6.5, 0.25, 1.5, 2.5, weeks, days, 3.5, 1.5, 3.6, 6, 2.25, weeks, days, 0, 6.5]


def test_the_documented_table_is_read_without_a_note_and_has_terms(tmp_path, capsys):
    docs = (Path(__file__).parents[1] / "docs/curators.md").read_text(encoding="utf-8")
    table = docs.partition("```text\nimage_name,")[2].partition("```")[0]
    folder = folder_of(tmp_path, {"abbr": "WIL"}, {"abbr": "WIL"})
    (folder / "disease_images.csv").write_text(f"image_name,{table}")
    assert report(folder, capsys) == (0, [], 2)
    built(folder, tmp_path / "out")
    assert "no terms" not in capsys.readouterr().err


def test_a_build_names_once_the_conditions_that_knowledge_knows_nothing_of(tmp_path, capsys):
    rows = [{"orphanet_code": "915"}, {"orphanet_code": ""}, {"abbr": "WS", "orphanet_code": ""},
            {"abbr": "WIL", "orphanet_code": "904"}]  # fmt: skip
    built(folder_of(tmp_path, *rows), tmp_path / "out")
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "terms" in line]
    assert note == (
        "note: no terms are known here for AAR (ORPHA 915), WS (no ORPHA code); --knowledge terms has no prior for "
        "such conditions, unless --term_table FILE adds their terms"
    )


def test_counts_have_the_number_of_their_noun():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(n, "person", "people") for n in (1, 2)] == ["1 person", "2 people"]


def test_a_required_cell_that_only_some_rows_of_a_condition_fill_in_is_one_note(tmp_path, capsys):
    rows = [{}, {"sub_category": ""}, {"sub_category": "unknown", "orphanet_code": ""}]
    rows += [{"abbr": "WS", "sub_category": ""}, {"abbr": "WS", "sub_category": ""}]  # of whom nobody knows it
    folder = folder_of(tmp_path, *rows)
    status, problems, images = report(folder, capsys)
    code = problems[1]["reason"].rpartition("'")[0].rpartition("'")[2]
    assert (status, images) == (0, 5) and [(p["row"], p["column"], p["reason"], p["remedy"]) for p in problems] == [
        (
            3, "sub_category", "no value in rows 3 and 4 of AAR, where other rows of it have 'skeletal'",
            "write 'skeletal' there, too, if it holds for all of AAR",
        ),
        (
            4, "orphanet_code", f"no value in row 4 of AAR, where other rows of it have '{code}'",
            f"write '{code}' there, too, if it holds for all of AAR",
        ),
    ]  # fmt: skip
    assert built(folder, tmp_path / "out")["sub_category"][:] == ["skeletal", None, None, None, None]


def test_a_subject_that_publication_would_refuse_is_noted_without_being_repeated(tmp_path, capsys):
    folder = folder_of(tmp_path, {"subject_id": "Anna Müller"}, {"subject_id": "P1"}, {"subject_id": "Anna Müller"})
    assert run("validate", folder) == 0
    (told, counts) = capsys.readouterr().out.splitlines()
    assert told == (
        "disease_images.csv:2: note: subject_id: publish_dataset.py refuses this cell; before you publish, write a "
        "code, such as P1, in place of a person's name (likewise row 4)"
    )
    assert counts == "3 usable images, 0 problems, 2 notes in 1 line"


def test_german_words_for_a_sex_are_read_and_equal_cells_that_cannot_be_are_one_line(tmp_path, capsys):
    words = ["w", "Weiblich", "Ma\u0308dchen", "M\xc4NNLICH", "Junge", "?", "divers", "?"]
    folder = folder_of(tmp_path, *({"sex": word} for word in words), columns=["sex"])
    folder_problems = report(folder, capsys)[1]
    assert [p["row"] for p in folder_problems] == [8] and run("validate", folder) == 2
    rewritten(folder, lambda text: text.replace(",?\n", ",divers\n"))
    capsys.readouterr()
    assert run("validate", folder) == 2
    told, counts = capsys.readouterr().out.splitlines()
    assert told.startswith("disease_images.csv:7: sex: 'divers' is no word") and told.endswith(
        "(likewise rows 8 and 9)"
    )
    assert counts == "8 usable images, 3 problems in 1 line, 0 notes"
    rewritten(folder, lambda text: text.replace("divers", ""))
    assert built(folder, tmp_path / "out")["sex"][:5] == ["female"] * 3 + ["male"] * 2


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        (["age_years"], "; rename it to age"),
        (["gene_names"], "; rename it"),  # there is a column gene_name
        (["age", "age_years"], "; rename it"),
        (["age_years", "group_id"], "; rename them"),
    ],
)
def test_a_column_that_the_build_writes_is_named_as_it_should_be(tmp_path, capsys, columns, remedy):
    folder = folder_of(tmp_path, {}, columns=columns)
    assert run("validate", folder) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"that the build writes{remedy}")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            ["Alter", "Geschlecht", "Land", "ward"],
            [
                "Alter may be age, Geschlecht may be sex, Land may be country, but under these names they are kept as "
                "text only; rename those that are, and leave the others",
                "unknown columns are kept as text: ward; nothing here uses them, and publish_dataset.py leaves them "
                "out unless --publish_columns names them",
            ],
        ),
        (
            ["Année de naissance", "Nationalité"],
            [
                "Nationalité may be country, but under this name it is kept as text only; rename it to country if it "
                "is, or leave it",
                "unknown columns are kept as text: Année de naissance; nothing here uses them, and publish_dataset.py "
                "leaves them out unless --publish_columns names them",
            ],
        ),
        (["age", "Edad"], ["unknown columns are kept as text: Edad; nothing here uses them"]),  # there is an age
        (["Alter in Monaten"], ["unknown columns are kept as text: Alter in Monaten; nothing here uses them"]),
    ],
)
def test_a_known_column_in_another_language_is_named(tmp_path, capsys, columns, told):
    folder = folder_of(tmp_path, {}, columns=columns)
    status, problems, _ = report(folder, capsys)
    lines = [f"{p['reason']}; {p['remedy']}" for p in problems if p["row"] == 1]
    assert status == 0 and len(lines) == len(told)
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=True))


def test_every_other_name_of_a_column_is_that_of_one_unknown_column():
    words = [word for names in own_columns.OTHER_NAMES.values() for word in names.split()]
    assert set(own_columns.OTHER_NAMES) == set(curated_rows.OPTIONAL)
    assert len(words) == len(set(words)) and not set(words) & set(curated_rows.OPTIONAL + curated_rows.REQUIRED)
    assert all(own_columns.may_be(word) for word in words), "each is spelt as names are compared"
    for name, column in (("Nationalität", "country"), ("Género", "sex"), ("Patienten-ID", "subject_id"),
                         ("Âge", "age"), ("Años", None), ("gene", None)):  # fmt: skip
        assert own_columns.may_be(name) == column


def test_a_heic_file_that_no_row_names_is_to_be_exported(tmp_path, capsys):
    folder = folder_of(tmp_path, {})
    (folder / "rd_images/AAR/AAR.2.HEIC").write_bytes(b"-")
    (note,) = report(folder, capsys)[1]
    assert note["reason"] == "no row names 'AAR/AAR.2.HEIC'" and "; export HEIC as JPEG or PNG first" in note["remedy"]
