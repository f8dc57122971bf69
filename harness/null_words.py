"""Recognises what people and programs write for "not known": null words, error values, cells without a letter."""

import functools
import re

from harness.text_normalization import plain

# What people write if nothing is known; compared in lower case, without surrounding dots, quotes and brackets.
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
# Error values of spreadsheets and statistics programs, in the most common languages of Excel.
ERROR_VALUES = {
    "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!", "#spill!", "#calc!", "#getting_data", "#field!",
    "#blocked!", "#connect!", "#busy!", "#nv", "#bezug!", "#wert!", "#zahl!", "#n/d", "#nd", "#valeur!", "#nom?",
    "#nombre!", "#nombre?", "#valor!", "#nome?", "#rif!", "#valore!", "#¡ref!", "#¡valor!", "#¿nombre?",
    "#¡num!", "#¡div/0!", "#¡nulo!", "#н/д", "=na", "1.#ind", "1.#qnan", "1.#snan", "1.#inf",
}  # fmt: skip
_AROUND = " .,:;*'\"()[]{}<>‹›"


@functools.lru_cache(maxsize=100_000)
def is_null(text: str) -> bool:
    """Whether a cell says that nothing is known: a null word, an error value, or no letter and no digit at all."""
    word = re.sub(r"[ _-]+", " ", plain(text)).replace("\\", "/").replace(" / ", "/").replace(". ", ".")
    word = word.strip(_AROUND)
    if word in ERROR_VALUES or re.fullmatch(r"err:\d{3}", word):
        return True
    return word.strip("#!?" + _AROUND) in NULL_WORDS or not any(map(str.isalnum, word))
