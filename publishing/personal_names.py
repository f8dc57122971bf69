"""Whether a text in a column of a curator's own names a person.

has_name("DOE JANE")       # True: a last and a first name of the United States' census, in either order
has_name("Long face")      # False: words of the Human Phenotype Ontology, though both are names, too
"""

import functools
import itertools
import re
from pathlib import Path

WORDS = re.compile(r"[^\W\d_][^\W\d_'’-]*(?:[-'’][^\W\d_]+)*")
TITLES = re.compile(
    r"\b(?P<title>mr|mrs|ms|miss|dr|prof|herr|frau|mme|mlle|monsieur|madame|señora?|sra?|signora?|dott|baby|master)\b"
    r"\.?\s+(?:(?-i:[A-Z])\.?\s+){0,2}(?:of\s+)?(?P<name>[^\W\d_]{2,})",
    re.IGNORECASE,
)
COMMON_TITLES = ("baby", "master", "miss")  # ordinary words, so that a name has to begin with a capital
ABBREVIATIONS = ("MS", "MR")  # multiple sclerosis, magnetic resonance
RELATIONS = re.compile(
    r"\b(?:named?|called|patient|mother|father|brother|sister|parents?|son|daughter)\b(?:\s+is|\s*[:=])?\s+(?-i:[A-Z][a-z]{2,}\s+[A-Z][a-z]{2,})",
    re.IGNORECASE,
)
BETWEEN = "da de di do du das dos del della der den ter ten van von la le el al bin ibn e y"
PARTICLES = frozenset(BETWEEN.split())  # between first and last names
SAINTS = frozenset({"san", "santa", "santo", "saint", "st", "são"})  # begin the names of places
NAMES_OF_PEOPLE = frozenset({"georgia", "israel", "jordan", "chad"})  # and of countries


def has_name(text: str) -> bool:
    return _has_title(text) or bool(RELATIONS.search(text)) or _has_first_and_last_name(text)


@functools.cache
def _census() -> tuple[frozenset[str], frozenset[str]]:
    """First and last names of the United States' census, in small letters."""
    import names

    lines = {key: Path(path).read_text(encoding="utf-8").lower().splitlines() for key, path in names.FILES.items()}
    read = {key: {line.split()[0] for line in listed} for key, listed in lines.items()}
    return frozenset(read["first:male"] | read["first:female"]), frozenset(read["last"])


@functools.cache
def _terms() -> tuple[frozenset[tuple[str, str]], frozenset[str]]:
    """Pairs of words that follow each other in names of terms and diseases (Cornelia de Lange syndrome), and all words
    of terms, as the Human Phenotype Ontology has them."""
    from curation.value_parsers import ontology  # takes two seconds to read

    known = ontology()
    terms = [_words(term.name.lower()) for term in known]
    diseases = [_words(disease.name.lower()) for disease in (*known.orpha_diseases, *known.omim_diseases)]
    pairs = frozenset(pair for words in terms + diseases for pair in itertools.pairwise(words))
    return pairs, frozenset(itertools.chain(*terms))


def _words(text: str) -> list[str]:
    return [word for word in WORDS.findall(text) if word.lower() not in PARTICLES]


@functools.cache
def _countries() -> frozenset[str]:
    import pycountry

    named = {country.name.lower() for country in pycountry.countries}
    return frozenset(named - NAMES_OF_PEOPLE)


def _has_title(text: str) -> bool:
    """Whether a title stands before what may be a name."""
    first, last = _census()
    for match in TITLES.finditer(text):
        title, name = match["title"], match["name"]
        if name[0].isupper() and (title not in ABBREVIATIONS or name.lower() in last):
            return True
        is_plain = title in ABBREVIATIONS or title.lower() in COMMON_TITLES
        if not is_plain and name.lower() in first | last:
            return True
    return False


def _has_first_and_last_name(text: str) -> bool:
    """Whether a first name stands before what may be a last name, or behind one: after a comma, or in a text of two
    words that begin with capitals."""
    first, last = _census()
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text) if " " not in text else text  # JaneDoe
    found = [match for match in WORDS.finditer(text) if match[0].lower() not in PARTICLES]
    alone = len(found) <= 3 and len(text) <= 60
    for before, behind in itertools.pairwise(found):
        a, b = before[0], behind[0]
        capitals = a[0].isupper() and b[0].isupper()
        between = text[before.end() : behind.start()]
        if not (capitals or alone) or re.search(r"\d", between):
            continue
        may_be_turned = capitals and len(found) == 2
        orders = [(b, a)] if between.strip() == "," else [(a, b)] + [(b, a)] * may_be_turned
        for given, family in orders:
            is_name = given.lower() in first and (family.lower() in last or not family.isascii())
            if is_name and not _is_something_else(a, b):
                return True
    return False


def _is_something_else(a: str, b: str) -> bool:
    """Whether two words that could be a name are a place, or speak of a phenotype."""
    if a.lower() in SAINTS or b.lower() in _countries():
        return True
    pairs, words = _terms()
    return (a.lower(), b.lower()) in pairs or (b[0].islower() and a.lower() in words and b.lower() in words)
