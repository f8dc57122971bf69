"""The terms of a report for either half of the face, and section by section.

A section about one eye speaks of its side. Elsewhere a finding is on one side if its clause says so ("ptosis on the
left"), and on both if the clause names no side or both. Left and right are the patient's own."""

import re
from collections.abc import Iterable, Mapping

from reporting.report_sections import OTHER_FINDINGS, SECTIONS
from reporting.report_terms import Mention, ReportTerms, find_mentions, terms_of

HALVES = ("left", "right")
FINDINGS = tuple(
    name for name in (*SECTIONS, OTHER_FINDINGS) if name != "diagnostic_suggestion"
)  # sections with findings
_SIDE_OF_SECTION = {"left_eye": "left", "right_eye": "right"}
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
# "and" ends a clause, but not in "left and right".
_CLAUSE_END = re.compile(
    r"[.,;:\n]|\b(?:but|while|whereas|and(?!\s+(?:on\s+)?(?:the\s+)?(?:left|right)))\b", re.IGNORECASE
)
_CLAUSE_CHARACTERS = 200  # no clause is longer

HalfTerms = tuple[ReportTerms, ReportTerms]  # of the left and of the right half, as HALVES


def sided_terms(sections: Mapping[str, str | None]) -> dict[str, HalfTerms]:
    """What a report states of each half of the face: in all sections together ("findings"), and in each by its name.

    sections: as of report_sections.parse_sections. Its diagnostic suggestion is left out, since that explains findings
    and may name some that the face does not show. A section that is missing has no entry. Terms with several states
    are settled by report_terms.terms_of."""
    states: dict[str, list[tuple[str, Mention]]] = {}
    for name in FINDINGS:
        if text := sections.get(name):
            heading = f"{SECTIONS[name]}: " if name in SECTIONS else ""  # "Nose: normal." is about the nose
            states[name] = list(_with_sides(heading + text, _SIDE_OF_SECTION.get(name)))
    found = {name: _half_terms(sided) for name, sided in states.items()}
    return {"findings": _half_terms([pair for sided in states.values() for pair in sided])} | found


def _with_sides(text: str, side: str | None) -> Iterable[tuple[str, Mention]]:
    """Each mention of a term with each half of the face that it is about; side: the only one that the text is about."""
    for mention in find_mentions(text):
        named = {side} if side else {match.lower() for match in _SIDE.findall(_clause(text, mention))}
        for half in HALVES if len(named) != 1 else named:
            yield half, mention


def _clause(text: str, mention: Mention) -> str:
    """The part of a sentence around a mention, up to the next comma, colon, full stop or conjunction on either side."""
    first, last = max(0, mention.start - _CLAUSE_CHARACTERS), min(len(text), mention.end + _CLAUSE_CHARACTERS)
    start = max((match.end() for match in _CLAUSE_END.finditer(text, first, mention.start)), default=first)
    end = _CLAUSE_END.search(text, mention.end, last)
    return text[start : end.start() if end else last]


def _half_terms(sided: Iterable[tuple[str, Mention]]) -> HalfTerms:
    """The terms of both halves, from mentions with the half that each is about."""
    sided = list(sided)
    return tuple(terms_of([mention for half, mention in sided if half == side]) for side in HALVES)
