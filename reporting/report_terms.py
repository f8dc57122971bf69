"""Which facial HPO terms a report says to be present, absent or not visible.

`find_mentions` reads a text clause by clause. Parts of the face and qualities that belong together by the grammar of
the clause are looked up among the wordings of all facial terms (phenotyping/wording_index.py), in whatever order they
stand. docs/reports.md has the rules, and what is not understood."""

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from phenotyping import face_lexicon
from reporting import clause_parts, clause_states, clause_terms, clause_words, denials, markup, relatives

LONGEST_CLAUSE = 120  # words; a longer one is read in pieces, so that time grows with the length of the text
STATES = ("present", "absent", "not_visible")
# A heading starts a line, or is a key of a JSON answer on one line; a mark or the line's end follows it.
_BEFORE_HEADING = r"(?:^|[,{]\s{0,4}\")[^\w\n]{0,8}(?:\d{1,3}[.)]\s{0,4})?[^\w\n]{0,8}"
_DIAGNOSIS = re.compile(
    _BEFORE_HEADING + r"(?:(?:potential|possible|differential|suggested|likely|prediction of) ){0,3}"
    r"(?:diagnos\w{0,30}|diseases?|disorders?|syndromes?)(?: (?:suggestions?|considerations?|impression))?"
    r"[^\w\n]{0,4}?(?:[:*\-–—]|$)",
    re.I | re.M,
)
_REGION_HEADING = re.compile(
    _BEFORE_HEADING
    + r"(?:overall impression|(?:left[ _]|right[ _])?eyes?|nose|mouth(?:[ _]?(?:/|and|&)?[ _]?lips?)?|lips?|"
    r"ears?|jaw|chin|forehead|face|head|hair|skin|cheeks?|midface|other findings)[^\w\n]{0,4}?(?:[:*\-–—]|$)",
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
        following = _REGION_HEADING.search(text, heading.end())
        end = following.start() if following else len(text)
        kept.append(re.sub(r"[^\n]", " ", text[heading.start() : end]))
    return "".join(kept) + text[end:]


def find_mentions(text: str, skip_diagnosis: bool = True) -> list[Mention]:
    """All terms that a text speaks of, in the order of the text. HTML is read as the text that it shows (markup.py).

    skip_diagnosis: sections on diagnoses are not read."""
    text, places = markup.plain_text(text)
    if skip_diagnosis:
        text = without_diagnosis(text)
    mentions: list[Mention] = []
    latest, last_clause = 0, None  # where the mentions of the clause before start
    asked = None  # where they start if that clause is a question
    sides: dict[str, set[str]] = {}  # term for one side -> the sides on which it is present
    words: list[clause_words.Word] = []
    context: list[clause_parts.Part] = []
    previous: list[clause_parts.Part] = []
    all_words = clause_words.words_of(text)
    denials.mark_denials(all_words)
    about_relatives = relatives.spans(all_words)
    for word in [*all_words, clause_words.Word(clause_words.BREAK, "", "", 0, 0, "\n")]:
        if word.kind != clause_words.BREAK:
            word.place = len(words)
            words.append(word)
            if len(words) < LONGEST_CLAUSE:
                continue
        if words:
            if asked is not None and (n_words := denials.says_no(words)):
                mentions[asked:] = _denied(mentions[asked:])
                words = denials.renumbered(words[n_words:])
            first_of_clause = len(mentions)
            long_wordings = clause_terms.find_long_wordings(words)
            clause = clause_parts.split(words, context, previous)
            clause_terms.look_up(clause, long_wordings)
            if clause_states.withdraws(clause):
                mentions[latest:] = _withdrawn(mentions[latest:], last_clause)
            else:
                latest, last_clause = len(mentions), clause
            mentions += _mentions_of(clause, text)
            for found in (found for part in clause.parts for found in part.found if found.side):
                if found.state == clause_parts.PRESENT:
                    sides.setdefault(found.hpo_id, set()).add(found.side)
            context, previous, words = clause.next_context(word.text), clause.next_previous(), []
            asked = first_of_clause if word.text == "?" else None
        if word.text in (".", "\n"):
            previous, latest, last_clause = [], len(mentions), None
    for hpo_id in (hpo_id for hpo_id, said in sides.items() if len(said) == 2):  # left ptosis, later right ptosis
        both = clause_terms.both_sides(hpo_id)
        mentions = [replace(found, hpo_id=both) if found.hpo_id == hpo_id else found for found in mentions]
    mentions.sort(key=lambda mention: (mention.start, mention.end, mention.hpo_id))
    mentions = _outside(mentions, about_relatives)
    if places is None:
        return mentions
    return [replace(mention, start=places[mention.start], end=places[mention.end]) for mention in mentions]


def _withdrawn(mentions: list[Mention], clause: clause_parts.Clause | None) -> list[Mention]:
    """The mentions of a clause if the next one says that they cannot be told: may be present, but cannot be seen."""
    last = clause.noun_phrases(len(clause.parts)) if clause else []
    hpo_ids = {found.hpo_id for part in last for found in part.found if found.state == clause_parts.PRESENT}
    state = clause_parts.NOT_VISIBLE
    return [
        replace(mention, state=state) if mention.hpo_id in hpo_ids and not mention.implied else mention
        for mention in mentions
    ]


def _denied(mentions: list[Mention]) -> list[Mention]:
    """The mentions of a question that is answered No; "is the nose normal? No." says nothing of its terms."""
    absent = clause_parts.ABSENT
    return [
        replace(mention, state=absent) if mention.state == clause_parts.PRESENT else mention
        for mention in mentions
        if not (mention.implied and mention.state == absent)
    ]


def _outside(mentions: list[Mention], passages: list[tuple[int, int]]) -> list[Mention]:
    """The mentions that start in none of the passages. Both are in the order of the text."""
    if not passages:
        return mentions
    starts = [start for start, _ in passages]
    kept = []
    for mention in mentions:
        place = bisect.bisect_right(starts, mention.start) - 1
        if place < 0 or mention.start >= passages[place][1]:
            kept.append(mention)
    return kept


def _mentions_of(clause: clause_parts.Clause, text: str) -> list[Mention]:
    regions = clause_states.apply_states(clause)
    mentions = []
    for part in clause.parts:
        for found in part.found:
            if not clause_states.names_disease(clause, found.words, text):
                start, end = min(word.start for word in found.own), max(word.end for word in found.own)
                mentions.append(Mention(found.hpo_id, found.state, start, end))
    for region in regions:
        start, end = region.part.words[0].start, region.part.words[-1].end
        sites = frozenset(word.meaning for word in region.part.sites)
        for hpo_id in clause_states.region_terms(sites, region.dimensions):
            mentions.append(Mention(hpo_id, region.state, start, end, implied=True))
    return mentions


def find_terms(text: str, skip_diagnosis: bool = True) -> ReportTerms:
    """The terms of a report; see terms_of."""
    return terms_of(find_mentions(text, skip_diagnosis))


def terms_of(mentions: Iterable[Mention]) -> ReportTerms:
    """Each mentioned term in one state.

    What is said of a term itself counts more than what is implied by a region. If a term is said to be present and
    absent (on one side, say), it is present; if absent and not visible, absent."""
    states: dict[str, tuple[bool, int]] = {}
    for mention in mentions:
        rank = (mention.implied, STATES.index(mention.state))
        states[mention.hpo_id] = min(rank, states.get(mention.hpo_id, rank))
    said = {hpo_id for hpo_id, (implied, state) in states.items() if not implied and state == 0}
    contradicted = {above for hpo_id in said for above in face_lexicon.ancestors(hpo_id)}
    found: dict[str, list[str]] = {state: [] for state in STATES}
    for hpo_id, (implied, state) in sorted(states.items()):
        if not (implied and hpo_id in contradicted):
            found[STATES[state]].append(hpo_id)
    return ReportTerms(*(tuple(found[state]) for state in STATES))
