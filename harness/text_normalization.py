"""One form for text that programs write in many: Unicode forms, widths, dashes, quotes, digits, invisible signs.

Used to compare texts; what is stored and shown stays as its author wrote it.
"""

import functools
import re
import unicodedata

# What people write where nothing is known; compared in small letters and without dots, quotes, brackets around them.
NULL_WORDS = {
    "na", "n/a", "n.a", "nan", "nat", "nil", "none", "null", "n/a n/a", "n/k", "u/k", "n/d", "n.d", "s/n", "s/d", "k.a",
    "unknown", "unk", "unkn", "unknown id", "unknown patient", "unknown subject", "unknown person", "patient unknown",
    "subject unknown", "id unknown", "not known", "not recorded", "not reported", "not stated", "not given",
    "not provided", "not specified", "not available", "not applicable", "not identified", "not disclosed",
    "not determined", "notavailable", "notapplicable", "unspecified", "unidentified", "unnamed", "undisclosed",
    "undefined", "withheld", "redacted", "confidential", "missing", "missing data", "missing value", "no data",
    "nodata", "no id", "no name", "no information", "no info", "no value", "none given", "none recorded", "blank",
    "empty", "anonymous", "anonym", "anon", "anonymised", "anonymized", "to be determined", "to be done",
    "to be confirmed", "tbd", "tba", "tbc",
    "desconocido", "desconocida", "desconhecido", "desconhecida", "sin datos", "sem dados", "inconnu", "inconnue",
    "unbekannt", "keine angabe", "sconosciuto", "sconosciuta", "onbekend", "неизвестно", "不明", "未知", "不详",
}  # fmt: skip
# What a spreadsheet or a statistics program writes in place of a value, in the languages that Excel is sold in most.
ERROR_VALUES = {
    "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!", "#spill!", "#calc!", "#getting_data", "#field!",
    "#blocked!", "#connect!", "#busy!", "#nv", "#bezug!", "#wert!", "#zahl!", "#n/d", "#nd", "#valeur!", "#nom?",
    "#nombre!", "#nombre?", "#valor!", "#nome?", "#rif!", "#valore!", "#¡ref!", "#¡valor!", "#¿nombre?",
    "#¡num!", "#¡div/0!", "#¡nulo!", "#н/д", "=na", "1.#ind", "1.#qnan", "1.#snan", "1.#inf",
}  # fmt: skip
_AROUND = " .,:;*'\"()[]{}<>‹›"

# What NFKC would take apart or leave: quotes, accents typed for them, and dashes that Unicode counts as other signs.
_LOOKS_LIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u02b9\u00b4\u0060\uff07", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"')
    | dict.fromkeys("\u2212\u02d7\u2043\u2796\u2500", "-")
)
# Invisible, and neither format nor control characters: joiners, fillers, blank Braille, variation selectors.
_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U000e0100-\U000e01ef\u180b-\u180d\u180f\ufe00-\ufe0f"
_UNSEEN_MARK = re.compile(f"[{_UNSEEN}]")
# Letters of other scripts that a reader cannot tell from Latin ones, in small letters.
_LATIN_TWINS = str.maketrans("авекмнорстухіјѕԁԛԝαβεηικμνορτυχ", "abekmhopctyxijsdqwabehikmvoptyx")
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # less those that only part words and lines


def plain(text: str) -> str:
    """Small letters in Unicode's form NFKC, invisible characters left out, all dashes as -, quotes as ' or ", digits as
    0-9, and white space as single blanks, none at the ends."""
    if text.isascii():  # nearly every cell
        text = text.casefold().replace("`", "'")
        return " ".join((text if text.isprintable() else "".join(map(_plain, text))).split())
    text = unicodedata.normalize("NFKC", text.translate(_LOOKS_LIKE))
    text = unicodedata.normalize("NFKC", text.casefold())
    text = "".join(map(_plain, text))
    return unicodedata.normalize("NFC", " ".join(text.split()))  # what stood apart over an invisible sign is composed


@functools.cache
def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace():
        return " "
    if category in ("Cc", "Cf") or _UNSEEN_MARK.match(character):
        return ""
    if category == "Pd":
        return "-"
    return str(unicodedata.decimal(character)) if category == "Nd" else character


def without_accents(text: str) -> str:
    """The text less its combining marks: jose of josé."""
    apart = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", "".join(c for c in apart if unicodedata.category(c) != "Mn"))


def in_latin_letters(text: str) -> str:
    """Plain text with those Greek and Cyrillic letters replaced that look like Latin ones."""
    return text.translate(_LATIN_TWINS)


def control_character(text: str) -> str | None:
    """The first control character that is no white space, as in U+0007; None where there is none."""
    match = _CONTROL.search(text) if not text.isprintable() else None
    return f"U+{ord(match[0]):04X}" if match else None


@functools.lru_cache(maxsize=100_000)
def is_null(text: str) -> bool:
    """Whether a cell says that nothing is known: a null word, a program's error value, or not one letter or digit."""
    word = re.sub(r"[ _-]+", " ", plain(text)).replace("\\", "/").replace(" / ", "/").replace(". ", ".")
    word = word.strip(_AROUND)
    if word in ERROR_VALUES or re.fullmatch(r"err:\d{3}", word):
        return True
    return word.strip("#!?" + _AROUND) in NULL_WORDS or not any(map(str.isalnum, word))


@functools.cache
def subject_key(subject_id: str) -> str:
    """One form for all spellings of one person's identifier, so that a person in two spellings is one group.

    Alike are: Unicode forms, widths, capitals, invisible characters, dashes and runs of them, quotes around the whole,
    blanks except between two digits ("P 1" is "P1", "1 2" is not "12"), a whole number with a fraction of zeros (7,
    7.0, "7,00"; "7,000" is not, since its comma may part thousands) or as spreadsheets shorten it (1E+03 is 1000; 1e3
    is not, since people name things so). Accents, leading zeros (007), dots, dashes and underscores tell apart.
    """
    text = re.sub(r"(?<!\d) | (?!\d)", "", plain(str(subject_id)))
    text = re.sub(r"-+", "-", text)
    text = re.sub(r'^="([^"]*)"$', r"\1", text).strip("'\"")  # ="007" and '007 keep a spreadsheet from making it 7
    whole = re.fullmatch(r"(-?\d+)(?:\.0*|,0{1,2}|,0{4,})", text)
    if whole:
        return whole[1]
    shortened = re.fullmatch(r"(-?\d)(?:[.,](\d*?)0*)?e\+(\d{1,2})", text)
    if shortened and len(shortened[2] or "") <= int(shortened[3]):
        return shortened[1] + (shortened[2] or "").ljust(int(shortened[3]), "0")
    return text
