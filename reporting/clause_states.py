"""Which terms of a clause are present, absent or not visible, and what is said of a whole part of the face at once."""

from dataclasses import dataclass
from functools import cache

from phenotyping import face_lexicon, face_words, phenotypes, wording_index
from reporting import clause_terms
from reporting.clause_parts import ABSENT, CONJUNCTIONS, LISTED, NOT_VISIBLE, PRESENT, REGIONS, Clause, Event, Part
from reporting.clause_words import (
    ABSENT_WORDS,
    HIDES,
    JOIN,
    LINK,
    MODIFIER,
    NEGATION,
    NORMAL,
    NOT_SHOWN,
    POSITIONS,
    QUALITY,
    SEEN,
    SITE,
    SKIP,
    UNSEEN,
    UNSURE,
    VERB,
    WITH,
    Word,
)

# A dimension that a report calls normal -> words of the terms that it rules out.
_DIMENSIONS = {
    "size": "large small big macrotia microtia prominent",
    "length": "long short",
    "width": "wide narrow broad",
    "height": "high low long short",
    "depth": "deep smooth",
    "thickness": "thick thin full",
    "position": "low set rotate back protrude high deep",
    "spacing": "space hypertelorism hypotelorism",
    "rotation": "rotate",
    "shape": "round triangular square",
}
_DIMENSION_OF = {name: name for name in _DIMENSIONS} | {"placement": "position"}
_DIMENSION_OF_NORMALLY = {
    "positioned": "position",
    "placed": "position",
    "set": "position",
    "spaced": "spacing",
    "sized": "size",
    "rotated": "rotation",
    "shaped": "shape",
}
_HAIR = ("hair", "forelock")
_NAMES = (SITE, MODIFIER, QUALITY)
_PRONOUNS = ("it", "this", "that", "they", "these", "them", "which", "we", "i")
_DISEASE_WORDS = ("syndrome", "syndromes", "disease", "disorder")
_SUGGESTS = (
    "suggestive",
    "suggesting",
    "suggests",
    "suggest",
    "consistent",
    "compatible",
    "typical",
    "indicative",
    "for",
)


@dataclass(frozen=True)
class RegionState:
    """What is said of a part of the face at once: the nose is normal, the ears are covered."""

    part: Part
    state: str
    dimensions: tuple[str, ...] = ()  # only these are normal; none: all


def apply_states(clause: Clause) -> list[RegionState]:
    """Sets the states of the terms of a clause; returns what is said of whole parts of the face."""
    _apply_absent_words(clause)
    regions: list[RegionState] = []
    for event in clause.events:
        if event.kind == SEEN:
            regions += _apply_seen(clause, event)
        elif event.kind == NORMAL:
            regions += [] if event.negated else _apply_normal(clause, event)
        else:
            regions += _apply_unseen(clause, event)
    if clause.ends_negated:
        _negate_at_end(clause)
    for part in clause.parts:  # no anomaly of the ear
        for found in part.found:
            if found.state == ABSENT and [w.meaning for w in found.words if w.kind == QUALITY] == ["abnorm"]:
                regions.append(RegionState(part, ABSENT))
        part.found = [found for found in part.found if not any(region.part is part for region in regions)]
    return regions


def _apply_absent_words(clause: Clause) -> None:
    """Absence of ptosis; ptosis is absent; but not the word of a term: absent eyebrows."""
    for number, part in enumerate(clause.parts):
        absent = [word for word in part.words if word.text in ABSENT_WORDS and not word.in_long_wording]
        described = [other for other in part.subjects if other in clause.parts and other.found and other.has_quality]
        if absent and part.is_predicate and described and len(absent) == len(part.words):
            part.found = []  # a beaked nose is lacking
            _set_states(described, PRESENT if part.state == ABSENT else ABSENT)
            continue
        if not absent or any(word in found.words for found in part.found for word in absent):
            continue
        targets = [part] if part.found else clause.noun_phrases(number)
        if part.found and absent[-1] is part.words[-1]:  # ptosis and epicanthus absent, hypertelorism
            targets = clause.noun_phrases(number + 1) if part.joined_by in CONJUNCTIONS else targets
        elif part.found:
            for later in clause.parts[number + 1 :]:
                if later.joined_by not in LISTED or later.is_predicate or later.is_indefinite:
                    break
                targets.append(later)
        _set_states(targets, PRESENT if part.state == ABSENT else ABSENT)


def _set_states(parts: list[Part], state: str) -> None:
    for part in parts:
        for found in part.found:
            found.state = state


def _apply_seen(clause: Clause, event: Event) -> list[RegionState]:
    """Ptosis is not seen: absent. The ears are not seen: not visible. No ptosis, epicanthus is present."""
    before = clause.noun_phrases(event.n_parts)
    if event.negated:
        _set_states(before, ABSENT)
        return [RegionState(part, NOT_VISIBLE) for part in before if part.only_site]
    joined_by = [part.joined_by for part in before]
    if len(before) > 1 and before[0].state == ABSENT and joined_by[0] in (",", "and") and "or" not in joined_by:
        _set_states(before[:1], PRESENT)
    return []


def _apply_unseen(clause: Clause, event: Event) -> list[RegionState]:
    before, after = clause.noun_phrases(event.n_parts), clause.parts[event.n_parts :]
    of_dimension = any(word.text in _DIMENSION_OF for part in before for word in part.words)
    if not of_dimension and not any(part.found or part.has_site for part in before):  # ear pits need a closer look
        before = [part for part in clause.parts[: event.n_parts] if part.found or part.has_site][-1:]
    words = clause.words
    hiders = [word for part in before for word in part.heads if word.meaning not in _HAIR]
    if event.kind == HIDES and " " not in event.word.text and hiders:
        return []  # the eyelids cover the pupils
    if event.kind in (HIDES, NOT_SHOWN):
        targets = before if _follows_subject(clause, event) else after or before
    else:
        place = event.word.place
        by_what = any(word.text in ("by", "with", *POSITIONS) for word in words[place + 1 : place + 3])
        targets = before or ([] if by_what else after)
    if not targets and any(word.text in ("they", "it", "these", "which") for word in words[: event.word.place]):
        targets = clause.previous
    if event.kind != NOT_SHOWN:
        _set_states([part for part in targets if part in clause.parts], NOT_VISIBLE)
    if event.kind == UNSURE:
        return []
    regions = [RegionState(part, NOT_VISIBLE) for part in (targets or clause.context) if part.only_site]
    for part in targets:  # their position cannot be judged
        dimensions = tuple(_DIMENSION_OF[word.text] for word in part.words if word.text in _DIMENSION_OF)
        if dimensions and not part.has_site and not part.found:
            named = [other for other in clause.parts[: event.n_parts] if other.has_site] or clause.previous[:1]
            regions += [RegionState(other, NOT_VISIBLE, dimensions) for other in (named[-1:] or clause.context)]
    return regions


def _follows_subject(clause: Clause, event: Event) -> bool:
    """Whether the parts before it are its subject: ptosis is hard to judge; but not: it is hard to judge ptosis."""
    place = event.word.place
    if event.n_parts and clause.words[place - 1].text == ":":
        return True  # strabismus: cannot assess, eyes closed
    if (
        not any(part.found or part.has_site for part in clause.parts[: event.n_parts])
        or place < 2
        or clause.words[place - 1].kind not in (VERB, SKIP)
    ):
        return False
    return clause.words[place - 2].kind in _NAMES and " to " in f" {event.word.text} "


def _apply_normal(clause: Clause, event: Event) -> list[RegionState]:
    """The nose is normal; normal nose and ears; ears normal in size; normally spaced eyes."""
    place = event.word.place
    near = list(clause.words[max(0, place - 2) : place])
    for word in clause.words[place + 1 : place + 7]:
        if word.kind in (VERB, WITH, SITE, NORMAL):
            break
        near.append(word)
    names = _DIMENSION_OF_NORMALLY if event.word.text == "normally" else _DIMENSION_OF
    dimensions = tuple(dict.fromkeys(names[word.text] for word in near if word.text in names))
    after = clause.parts[event.n_parts :]
    if after and after[0].joined_by == "normal" and _names_only(after[0], names):
        targets = after[:1]
        for part in after[1:]:
            if part.joined_by not in LISTED or not part.only_site:
                break
            targets.append(part)
        return [RegionState(part, ABSENT, dimensions) for part in targets]
    targets = [part for part in clause.noun_phrases(event.n_parts) if part.has_site and not part.found]
    if not targets:
        earlier = [part for part in clause.parts[: event.n_parts] if part.only_site]
        targets = earlier[-1:] or clause.context
    return [RegionState(part, ABSENT, dimensions) for part in targets]


def _names_only(part: Part, dimensions: dict[str, str]) -> bool:
    """Whether a part names a part of the face and at most dimensions of it."""
    return part.has_site and not part.found and all(word.text in dimensions for word in part.qualities)


def _negate_at_end(clause: Clause) -> None:
    """Epicanthus: no. The mandible is small, the maxilla is not."""
    for part in clause.noun_phrases(len(clause.parts)):
        if part.only_site:
            said = [other for other in clause.parts if other.is_predicate and other.has_quality]
            if said:
                clause_terms.add_ellipsis(part, said[-1])
        _set_states([part], ABSENT)


def withdraws(clause: Clause) -> bool:
    """Whether a clause says only that what was said before it cannot be told: "but this cannot be confirmed"."""
    if not clause.events or clause.events[0].n_parts:
        return False
    if clause.events[0].kind not in (UNSEEN, UNSURE):  # but we could not confirm it
        hides = clause.events[0].kind == HIDES and " " in clause.events[0].word.text
        if not hides or clause.words[-1].text not in _PRONOUNS:
            return False
    before, after = clause.words[: clause.events[0].word.place], clause.words[clause.events[0].word.place + 1 :]
    following = next((word for word in after if word.kind not in (SKIP, VERB)), None)
    if clause.parts and (following is None or following.kind not in (NEGATION, LINK)):
        return False  # but cannot be confirmed without measurement
    return all(word.kind == VERB or word.text in _PRONOUNS for word in before)


def names_disease(clause: Clause, words: list[Word], text: str) -> bool:
    """Whether words belong to the name of a disease: macrocephaly-autism syndrome, X-linked hydrocephalus.

    A list belongs to a name if a finding is its last member (ptosis and epicanthus syndrome), not if a proper name is
    (ptosis and Down syndrome)."""
    first, last = min(word.place for word in words), max(word.place for word in words)
    before = [word.text for word in clause.words[max(0, first - 3) : first]]
    if "linked" in before[-2:] or (before and before[-1] in ("recessive", "dominant")):
        return True
    starts_lower, crossed_list = text[clause.words[first].start].islower(), False
    for word in clause.words[last + 1 :]:
        if word.text in _DISEASE_WORDS and not word.in_long_wording:
            named = clause.words[word.place - 1]
            return not crossed_list or (named.kind in _NAMES and text[named.start].islower())
        if word.kind == JOIN and word.text in ("and", ","):
            crossed_list = True
        elif starts_lower and text[word.start].isupper() and not crossed_list:
            return False  # ptosis argues against Noonan syndrome
        elif (word.kind in (JOIN, VERB, NEGATION, WITH, LINK) and word.text != "/") or word.text in _SUGGESTS:
            return False
    return False


# ---- terms of a part of the face


@cache
def _site_words() -> dict[str, list[tuple[frozenset[str], frozenset[str]]]]:
    """Term of the study's table -> per wording, its parts of the face and all its words."""
    found = {}
    for hpo_id in phenotypes.terms():
        entries = []
        for wording, rank in face_lexicon.terms()[hpo_id].wordings:
            if rank != face_lexicon.OWN:
                meanings = [meaning for _, meaning in wording_index.pieces(wording)[0]]
                entries.append((frozenset(filter(face_words.names_site, meanings)), frozenset(meanings)))
        found[hpo_id] = entries
    return found


@cache
def region_terms(sites: frozenset[str], dimensions: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Terms of the study's table (phenotypes.csv) about a part of the face.

    A whole region (nose, eye, mouth, ear, jaw, forehead) gives all its terms, a smaller part those with a wording that
    names it, the face those of the whole face that name it. sites: meanings of words (face_words.py); dimensions: only
    terms of size, length and so on."""
    terms, of_sites = phenotypes.terms(), _site_words()
    if len(sites) == 1 and (region := REGIONS.get(next(iter(sites)))):
        chosen = [hpo_id for hpo_id, term in terms.items() if term.region == region]
    else:
        chosen = [hpo_id for hpo_id, entries in of_sites.items() if any(sites <= named for named, _ in entries)]
        if sites == {"face"}:
            chosen = [hpo_id for hpo_id in chosen if terms[hpo_id].region == "whole face"]
    if dimensions:
        words = {face_words.tokens(word)[0][1] for name in dimensions for word in _DIMENSIONS[name].split()}
        chosen = [hpo_id for hpo_id in chosen if any(words & named for _, named in of_sites[hpo_id])]
    return tuple(chosen)
