"""Normalizes text for comparison: Unicode forms, widths, dashes, quotes, digits, invisible characters.

What is stored and shown stays as its author wrote it.
"""

import functools
import re
import unicodedata

# Characters that NFKC does not unify: quotes, accents typed as quotes, and dashes outside the dash category.
_LOOKS_LIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u02b9\u00b4\u0060\uff07", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"')
    | dict.fromkeys("\u2212\u02d7\u2043\u2796\u2500", "-")
)
# Invisible characters outside the format and control categories: joiners, fillers, blank Braille, variation selectors.
_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U000e0100-\U000e01ef\u180b-\u180d\u180f\ufe00-\ufe0f"
_UNSEEN_MARK = re.compile(f"[{_UNSEEN}]")
# Lower-case letters of other scripts that look like Latin ones.
_LATIN_TWINS = str.maketrans("авекмнорстухіјѕԁԛԝαβεηικμνορτυχ", "abekmhopctyxijsdqwabehikmvoptyx")
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # without those that separate words and lines


def plain(text: str) -> str:
    """Text in lower case and Unicode form NFKC, without invisible characters; dashes are -, quotes ' or ", digits 0-9,
    and white space is one blank between words."""
    if text.isascii():  # nearly every cell
        text = text.casefold().replace("`", "'")
        return " ".join((text if text.isprintable() else "".join(map(_plain, text))).split())
    text = unicodedata.normalize("NFKC", text.translate(_LOOKS_LIKE))
    text = unicodedata.normalize("NFKC", text.casefold())
    text = "".join(map(_plain, text))
    return unicodedata.normalize("NFC", " ".join(text.split()))  # composes what an invisible character had separated


def without_ending(name: str) -> str:
    """A file's name in lower case without its ending, which begins with a letter: wil.3 of wil.3.jpg, and of wil.3."""
    return re.sub(r"\.[a-z]\w*$", "", name)


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
    """The text without its combining marks: jose for josé."""
    apart = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", "".join(c for c in apart if unicodedata.category(c) != "Mn"))


def in_latin_letters(text: str) -> str:
    """Plain text in which Greek and Cyrillic letters that look Latin are replaced by the Latin ones."""
    return text.translate(_LATIN_TWINS)


def control_character(text: str) -> str | None:
    """The first control character that is not white space, written as U+0007, or None."""
    match = _CONTROL.search(text) if not text.isprintable() else None
    return f"U+{ord(match[0]):04X}" if match else None


@functools.cache
def subject_key(subject_id: str) -> str:
    """A key that is equal for all spellings of one subject identifier, so that two spellings are one subject.

    The key ignores Unicode forms, widths, capitals, invisible characters, kinds and runs of dashes, quotes around the
    whole, and blanks except between two digits ("P 1" is "P1", but "1 2" is not "12"). A whole number may have a
    fraction of zeros (7, 7.0 and "7,00" are equal; "7,000" differs, since its comma may separate thousands) or a
    spreadsheet's short form (1E+03 is 1000; 1e3 differs, since people use such names). Accents, leading zeros (007),
    dots, dashes and underscores keep identifiers apart.
    """
    text = re.sub(r"(?<!\d) | (?!\d)", "", plain(str(subject_id)))
    text = re.sub(r"-+", "-", text)
    text = re.sub(r'^="([^"]*)"$', r"\1", text).strip("'\"")  # ="007" and '007 make a spreadsheet keep the zeros
    whole = re.fullmatch(r"(-?\d+)(?:\.0*|,0{1,2}|,0{4,})", text)
    if whole:
        return whole[1]
    shortened = re.fullmatch(r"(-?\d)(?:[.,](\d*?)0*)?e\+(\d{1,2})", text)
    if shortened and len(shortened[2] or "") <= int(shortened[3]):
        return shortened[1] + (shortened[2] or "").ljust(int(shortened[3]), "0")
    return text
