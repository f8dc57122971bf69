"""Finds the term that a handful of words names, in whatever order they stand.

The key of a wording is the set of its tokens without words such as *the* and *of*. Keys with the words' stems come
first, then keys with their meanings (face_words.py), then keys in which one expression is replaced by another of the
same meaning: what a key names directly is never overruled by what it names after a replacement.

If wordings of several terms have one key, the term wins that the key names best: its name; a wording for which
face_wordings.tsv says so; an exact synonym; a wording of the simulated reports; a lay wording; another synonym; another
wording of face_wordings.tsv. If two terms are named equally well, the key stands for the one that is an ancestor of all
others, else for a common parent, else for none of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import ahocorasick

from phenotyping import face_lexicon, face_words

_PIECES = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?|[,/&;:()]")
SEPARATORS = frozenset([",", "/", "&", ";", ":", "(", ")", "and", "or", "with", "that", "is", "are"])
_VERBS = frozenset(("that", "is", "are"))
_NEGATIONS = frozenset(["no", "not", "non", "without"])


def pieces(wording: str, with_degree: bool = False) -> tuple[list[tuple[str, str]], frozenset[str]]:
    """The tokens of a wording that count, and which kinds of words stand between them: "join" (a comma, and), "verb".

    with_degree: words of degree and side count, too."""
    kept: list[tuple[str, str]] = []
    between, pending = set(), ""
    ignored = face_words.FUNCTION_WORDS if with_degree else face_words.IGNORED
    for word in _PIECES.findall(wording.lower()):
        if word in SEPARATORS:
            pending = ("verb" if word in _VERBS else "join") if kept else ""
        elif word not in ignored and word not in face_words.LINKS:
            between |= {pending} - {""}
            pending = ""
            kept.extend(face_words.tokens(word))
    return _joined(kept), frozenset(between)


def _joined(kept: list[tuple[str, str]]) -> list[tuple[str, str]]:
    joined: list[tuple[str, str]] = []
    for token in kept:
        together = face_words.joined_stem(joined[-1][0], token[0]) if joined else None
        if together:
            joined[-1] = together
        else:
            joined.append(token)
    return joined


@dataclass(frozen=True)
class WordingIndex:
    """Wordings of all facial terms, by key and by sequence."""

    by_stems: dict[frozenset[str], str]  # key -> HPO id
    by_meanings: dict[frozenset[str], str]
    sequences: ahocorasick.Automaton  # over numbers of meanings; payload (length, HPO id, kinds of words between)
    numbers: dict[str, int]  # meaning -> number, from 1; 0 is any other word
    vocabulary: frozenset[str]  # meanings that occur in any key

    def find(self, stems: Iterable[str], meanings: Iterable[str]) -> str | None:
        """The term that words name, in whatever order, or None. stems and meanings: of the same words."""
        return self.by_stems.get(frozenset(stems)) or self.by_meanings.get(frozenset(meanings))


def _resolved(entries: dict[frozenset[str], dict[str, int]]) -> dict[frozenset[str], str]:
    terms, resolved = face_lexicon.terms(), {}
    for key, ranks in entries.items():
        best = min(ranks.values())
        tied = [hpo_id for hpo_id, rank in ranks.items() if rank == best]
        if len(tied) == 1:
            resolved[key] = tied[0]
            continue
        above = [i for i in tied if all(i == j or i in face_lexicon.ancestors(j) for j in tied)]
        parents = set.intersection(*(set(terms[i].parents) for i in tied)) & terms.keys()
        if above:
            resolved[key] = above[0]
        elif parents:
            resolved[key] = min(parents)
    return resolved


def _variants(key: frozenset[str]) -> set[frozenset[str]]:
    """The key, and the keys that result if expressions of it are replaced, twice at most."""
    found, latest = {key}, {key}
    for _ in range(2):
        new = set()
        for known in latest:
            groups = {group for word in known for group in _groups_with().get(word, ())}
            for group in groups:
                said = max((expression for expression in group if expression <= known), key=len, default=None)
                if said is not None:
                    new |= {known - said | other for other in group}
        latest = new - found
        found |= new
    return found


@cache
def _groups_with() -> dict[str, list[tuple[frozenset[str], ...]]]:
    """Meaning -> groups of expressions of one meaning, one of which begins with it."""
    found: dict[str, list[tuple[frozenset[str], ...]]] = {}
    for row in face_words.SAME_EXPRESSION:
        expressions = [[meaning for word in words for _, meaning in face_words.tokens(word)] for words in row]
        group = tuple(frozenset(expression) for expression in expressions)
        for first in {expression[0] for expression in expressions}:
            found.setdefault(first, []).append(group)
    return found


def _enter(entries: dict[frozenset[str], dict[str, int]], key: frozenset[str], hpo_id: str, rank: int) -> None:
    ranks = entries.setdefault(key, {})
    ranks[hpo_id] = min(rank, ranks.get(hpo_id, rank))


@cache
def index() -> WordingIndex:
    """The index, built on first use (about a second)."""
    stems: dict[frozenset[str], dict[str, int]] = {}
    meanings: dict[frozenset[str], dict[str, int]] = {}
    derived: dict[frozenset[str], dict[str, int]] = {}
    sequences: dict[tuple[str, ...], tuple[int, str, frozenset[str]]] = {}
    for term in face_lexicon.terms().values():
        for wording, rank in term.wordings:
            tokens, between = pieces(wording)
            if all(face_words.names_site(meaning) for _, meaning in tokens):
                ours = rank in (face_lexicon.REPORT, face_lexicon.OWN) and len(tokens) > 2
                if not ours and (len(tokens) == 1 or not re.search(r"(ed|ing)\b", wording)):
                    continue  # "unusual mouth shape", "ear hair": any text has these words
            whole, _ = pieces(wording, with_degree=True)
            rank = 2 * rank + 12 * (
                len(whole) > len(tokens)
            )  # a wording without words of degree is the more direct one
            if rank != 2 * face_lexicon.NAME and term.name.startswith("Aplasia/Hypoplasia"):
                rank += 12  # "missing eyebrows" is the term Absent eyebrow, not the group above it
            has_side = not face_words.SIDE_WORDS.isdisjoint(wording.lower().split())
            if (len(tokens) > 1 or len(whole) == 1) and not has_side:  # not "coarse" of "coarse features"
                key = frozenset(token[1] for token in tokens)
                if rank < 2 * face_lexicon.OWN:
                    _enter(stems, frozenset(token[0] for token in tokens), term.hpo_id, rank)
                _enter(meanings, key, term.hpo_id, rank)
                for variant in _variants(key):
                    _enter(derived, variant, term.hpo_id, rank)
            sequence = tuple(token[1] for token in whole)
            if between or len(whole) > 2 or len(whole) > len(tokens) or not _NEGATIONS.isdisjoint(sequence):
                rank_before, _, between_before = sequences.get(sequence, (rank + 1, "", frozenset()))
                better = (rank, term.hpo_id) if rank < rank_before else sequences[sequence][:2]
                sequences[sequence] = (*better, between | between_before)
    by_meanings = {**_resolved(derived), **_resolved(meanings)}
    vocabulary = frozenset(token for key in by_meanings for token in key) | {t for s in sequences for t in s}
    numbers = {meaning: number for number, meaning in enumerate(sorted(vocabulary), 1)}
    automaton = ahocorasick.Automaton(ahocorasick.STORE_ANY, ahocorasick.KEY_SEQUENCE)
    for sequence, (_, hpo_id, between) in sequences.items():
        automaton.add_word(tuple(numbers[meaning] for meaning in sequence), (len(sequence), hpo_id, between))
    automaton.make_automaton()
    return WordingIndex(_resolved(stems), by_meanings, automaton, numbers, vocabulary)
