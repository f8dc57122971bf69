"""One form for text that programs write in many: Unicode forms, widths, dashes, quotes, digits, invisible signs.

Used to compare texts; what is stored and shown stays as its author wrote it.
"""

import functools
import re
import unicodedata

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
