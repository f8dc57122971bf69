"""Findings that are named and then denied: "ptosis is not a feature of this face", "is there ptosis? No"."""

from itertools import takewhile

from reporting.clause_words import (
    BREAK,
    DETERMINER,
    HIDES,
    LINK,
    MODIFIER,
    NAMED,
    NEGATION,
    NORMAL,
    NOT_SHOWN,
    OTHER,
    QUALITY,
    SEEN,
    SITE,
    SKIP,
    UNSEEN,
    UNSURE,
    VERB,
    Word,
)

# "Ptosis is not a feature of this face", "a thin lip does not form part of the picture": a finding is not there.
_DENIALS = {
    "is": "is are was were",
    "is not": "isn't aren't wasn't weren't",
    "does": "do does did",
    "does not": "don't doesn't didn't",
    "passed over": "form make constitute represent clinical facial notable obvious apparent recorded",
    "noun": "part feature features finding findings characteristic characteristics sign signs trait traits component "
    "aspect element attribute hallmark manifestation",
}
_BE, _BE_NOT, _DO, _DO_NOT, _PASSED_OVER, _PREDICATE_NOUNS = (frozenset(words.split()) for words in _DENIALS.values())


def mark_denials(words: list[Word]) -> None:
    """Makes the noun of "ptosis is not a feature of this face" say that ptosis is not seen; passes over the face."""
    for i, word in enumerate(words):
        if word.kind != NEGATION or not _denies_before(words, i):
            continue
        k = i + 1
        while k < len(words) and (words[k].kind == DETERMINER or words[k].text in _PASSED_OVER):
            k += 1
        if k == len(words) or words[k].text not in _PREDICATE_NOUNS:
            continue
        words[k].kind = SEEN
        of_face = takewhile(lambda w: w.kind in (LINK, DETERMINER, SKIP, OTHER, SITE, MODIFIER), words[k + 1 :])
        for passed in (*words[i + 1 : k], *of_face):
            passed.kind = SKIP


def _denies_before(words: list[Word], negation: int) -> bool:
    """Whether a negation belongs to a verb whose subject, which stands before it, is a finding."""
    word, verb = words[negation].text, words[negation - 1] if negation else None
    if word in _BE_NOT or word in _DO_NOT:
        subject = negation - 1
    elif verb and verb.kind == VERB and (verb.text in _BE or (verb.text in _DO and word != "no")):
        subject = negation - 2
    else:
        return False
    if subject < 0 or words[subject].kind not in NAMED:
        return False
    start = max((i + 1 for i in range(subject) if words[i].kind == BREAK), default=0)
    return any(earlier.kind == QUALITY for earlier in words[start : subject + 1])


def says_no(words: list[Word]) -> int:
    """How many words at the start of a clause answer a question with No, the comma behind it included; 0 for others.

    "No", "A: no", "No, they are normal", "Not seen"; but not "no ptosis"."""
    first = next((i for i, word in enumerate(words) if word.kind not in (DETERMINER, SKIP) and word.text != ":"), 0)
    if words[first].kind != NEGATION:
        return 0
    after = words[first + 1 : first + 2]
    if after and after[0].text == ",":
        return first + 2
    says_more = any(word.kind in (*NAMED, NORMAL, UNSEEN, HIDES, UNSURE, NOT_SHOWN) for word in words[first:])
    return 0 if says_more else len(words)


def renumbered(words: list[Word]) -> list[Word]:
    """The words as a clause of their own."""
    for place, word in enumerate(words):
        word.place = place
    return words
