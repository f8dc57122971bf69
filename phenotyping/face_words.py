"""The words of facial description: stems, spellings, which words name a part of the face, and which mean the same.

`face_words.tsv` holds them. A word becomes one or more tokens. Each has a `stem` (inflection and spelling are gone:
slanting, slanted -> slant; colour -> color) and a `meaning` (words that are used for one another share it: nasal, nose
-> nose; wide, broad -> wide)."""

import csv
import re
from functools import cache, lru_cache
from pathlib import Path

import snowballstemmer

HERE = Path(__file__).resolve().parent


def _read_table() -> dict[str, list[str]]:
    """Kind -> its rows in face_words.tsv."""
    rows: dict[str, list[str]] = {}
    with open(HERE / "face_words.tsv", newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            rows.setdefault(row["kind"], []).append(row["words"])
    return rows


_TABLE = _read_table()
FUNCTION_WORDS = frozenset(_TABLE["function"][0].split())  # words that never count
SIDE_WORDS = frozenset(_TABLE["side"][0].split())
# Words of degree and side count only if a wording has them (Bilateral ptosis), and hinder no other wording.
DEGREE_WORDS = SIDE_WORDS | frozenset(_TABLE["degree"][0].split())
IGNORED = FUNCTION_WORDS | DEGREE_WORDS
LINKS = frozenset(_TABLE["link"][0].split())  # prepositions
SAME_MEANING = [row.split() for row in _TABLE["same meaning"]]  # the first word of each is the meaning of all
# Groups of expressions that stand for one another in any wording, each as several words.
SAME_EXPRESSION = [[expression.split() for expression in row.split(", ")] for row in _TABLE["same expression"]]
# Closed compounds that are also written with a hyphen or a blank: down slanting becomes two tokens, eye brow one.
_SPLIT_AFTER, _SPLIT_BEFORE = (_TABLE[kind][0].split() for kind in ("split after", "split before"))
_JOINED = [words.split() for words in _TABLE["joined"][0].split(", ")]
_COMPOUND = re.compile(rf"({'|'.join(_SPLIT_AFTER)})({'|'.join(sorted(_SPLIT_BEFORE, key=len, reverse=True))})$")
_stem_word = snowballstemmer.stemmer("english").stemWord


@lru_cache(100_000)
def stem(word: str) -> str:
    """A lower-case word without inflection, spelled the American way."""
    if word.endswith("itis") or word == "closed":
        return word  # gingivitis is not gingiva; closed eyes are not close
    word = word.removesuffix("'s").removesuffix("’s")
    if len(word) > 4:
        word = word.replace("aemia", "emia").replace("aemi", "emi").replace("oedem", "edem").replace("haem", "hem")
        word = word.replace("coloured", "colored").replace("colour", "color").replace("grey", "gray")
        word = word.replace("isation", "ization").replace("centre", "center").replace("tumour", "tumor")
        word = re.sub("ised$", "ized", word)
    elif word == "grey":
        word = "gray"
    return _stem_word(word)


@cache
def _meanings() -> dict[str, str]:
    return {stem(word): stem(group[0]) for group in SAME_MEANING for word in group}


@lru_cache(100_000)
def tokens(word: str) -> tuple[tuple[str, str], ...]:
    """(stem, meaning) of each token of a lower-case word: one, or two if it is a compound such as downslanting."""
    if word in ("midface", "upset", "outset", "inset", "undergo"):
        parts = (word,)
    elif (match := _COMPOUND.match(word)) is not None:
        parts = match.groups()
    else:
        parts = (word,)
    stems = [stem(part) for part in parts]
    return tuple((token, _meanings().get(token, token)) for token in stems)


@cache
def head_stems() -> frozenset[str]:
    """Meanings of words that name a part of the face."""
    return frozenset(_meanings().get(stem(word), stem(word)) for word in _TABLE["site"][0].split())


@cache
def modifier_stems() -> frozenset[str]:
    """Meanings of words that say which part of it: upper, inner, lateral."""
    return frozenset(_meanings().get(stem(word), stem(word)) for word in _TABLE["modifier"][0].split()) - {"back"}


@cache
def _joined_stems() -> dict[tuple[str, str], str]:
    return {(stem(first), stem(second)): stem(first + second) for first, second in _JOINED}


def joined_stem(first: str, second: str) -> tuple[str, str] | None:
    """The token that two neighbouring stems make up (eye, brow -> eyebrow), or None."""
    whole = _joined_stems().get((first, second))
    return whole and (whole, _meanings().get(whole, whole))


def names_site(meaning: str) -> bool:
    """Whether a meaning is a part of the face, or says which part of it."""
    return meaning in head_stems() or meaning in modifier_stems()
