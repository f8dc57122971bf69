"""Which facial HPO terms a report says to be present, absent or not visible.

`find_mentions` reads a text clause by clause. Parts of the face and qualities that belong together by the grammar of
the clause are looked up among the wordings of all facial terms (phenotyping/wording_index.py), in whatever order they
stand. docs/reports.md has the rules, and what is not understood."""

import bisect
import re
from dataclasses import dataclass

from phenotyping import face_lexicon
from reporting import report_clauses

STATES = ("present", "absent", "not_visible")
_DIAGNOSIS = re.compile(
    r"^[^\w\n]*(?:\d+[.)]\s*)?[^\w\n]*(?:potential |possible |differential |suggested |likely |prediction of )*"
    r"(?:diagnos\w+|diseases?|disorders?|syndromes?)(?: suggestions?| considerations?| impression)?\W*(?:[:\-–—]|$)",
    re.I | re.M,
)
_HEADING = re.compile(
    r"^[^\w\n]*(?:\d+[.)]\s*)?[^\w\n]*(?:overall impression|(?:left |right )?eyes?|nose|mouth(?:\s*(?:/|and|&)\s*lips?)?|"
    r"lips?|ears?|jaw|chin|forehead|face|head|hair|skin|cheeks?|midface|other findings)\W*?(?:[:\-–—*]|$)",
    re.I | re.M,
)


@dataclass(frozen=True)
class Mention:
    """One term that a text speaks of. text[start:end] is what names it."""

    hpo_id: str
    state: str  # one of STATES
    start: int
    end: int
    implied: bool = False  # by a whole region: "the nose is normal", "ears covered by hair"


@dataclass(frozen=True)
class ReportTerms:
    """The terms of one report: sorted HPO ids, none of them in two states."""

    present: tuple[str, ...]
    absent: tuple[str, ...]
    not_visible: tuple[str, ...]

    def as_dict(self) -> dict[str, list[str]]:
        """The same as lists."""
        return {state: list(getattr(self, state)) for state in STATES}


def without_diagnosis(text: str) -> str:
    """The text with blanks in place of its sections on diagnoses, so that offsets stay.

    Such a section starts with a heading ("Diagnostic Suggestion", "Prediction of Potential Disease") and ends at the
    next heading of a region of the face. A disease's name may contain a term: macrocephaly-autism syndrome."""
    kept, end = [], 0
    for heading in _DIAGNOSIS.finditer(text):
        if heading.start() < end:
            continue
        kept.append(text[end : heading.start()])
        following = _HEADING.search(text, heading.end())
        end = following.start() if following else len(text)
        kept.append(re.sub(r"[^\n]", " ", text[heading.start() : end]))
    return "".join(kept) + text[end:]


def find_mentions(text: str, skip_diagnosis: bool = True) -> list[Mention]:
    """All terms that a text speaks of, in the order of the text.

    skip_diagnosis: sections on diagnoses are not read."""
    if skip_diagnosis:
        text = without_diagnosis(text)
    mentions = [Mention(*facts) for facts in report_clauses.read(text)]
    return sorted(mentions, key=lambda m: (m.start, m.end, m.hpo_id))


def find_terms(text: str, skip_diagnosis: bool = True) -> ReportTerms:
    """The terms of a report.

    What is said of a term itself counts more than what is implied by a region. If a term is said to be present and
    absent (on one side, say), it is present; if absent and not visible, absent."""
    states: dict[str, tuple[bool, int]] = {}
    for mention in find_mentions(text, skip_diagnosis):
        rank = (mention.implied, STATES.index(mention.state))
        states[mention.hpo_id] = min(rank, states.get(mention.hpo_id, rank))
    said = {hpo_id for hpo_id, (implied, state) in states.items() if not implied and state == 0}
    contradicted = {above for hpo_id in said for above in face_lexicon.ancestors(hpo_id)}
    found: dict[str, list[str]] = {state: [] for state in STATES}
    for hpo_id, (implied, state) in sorted(states.items()):
        if not (implied and hpo_id in contradicted):
            found[STATES[state]].append(hpo_id)
    return ReportTerms(*(tuple(found[state]) for state in STATES))
