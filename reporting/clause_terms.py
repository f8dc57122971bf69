"""Finds the terms that the parts of a clause name, each by its own words or with words of another part.

Three ways lead to a term: a long wording of the lexicon stands in the text word for word ("face with broad temples and
narrow chin"); a part has all words of a wording, in whatever order ("wide nasal bridge", "bridge of the nose wide"); or
it has them together with the part of the face that it speaks of: the subject of its verb, the noun that follows the
next adjective, the heading, or what was named before."""

from functools import cache, lru_cache

from phenotyping import face_lexicon, face_words, wording_index
from reporting.clause_parts import ABSENT, CONJUNCTIONS, LISTED, MOST_WORDS, REGIONS, Clause, Found, Part
from reporting.clause_words import (
    DETERMINER,
    JOIN,
    LINK,
    MODIFIER,
    NEGATION,
    NORMAL,
    OTHER,
    POSITIONS,
    QUALITY,
    SEEN,
    SITE,
    SKIP,
    VERB,
    WITH,
    Word,
)

LONGEST_KEY = 8
_NEUTRAL_NOUNS = ("pattern", "color", "tint", "hue", "textur", "outlin")  # meanings
_NAMES = (SITE, MODIFIER, QUALITY)
_COPULAS = ("is", "was", "appears", "looks", "seems")
_SIDES = {"bilateral": ("both", "bilateral", "bilaterally"), "unilateral": ("unilateral", "unilaterally")}

# ---- long wordings


def find_long_wordings(words: list[Word]) -> list[tuple[str, list[Word]]]:
    """(HPO id, its words) of each long wording that stands in a clause. Negations inside it negate nothing from now on.

    A wording with a comma, "and" or a verb is found only with such a word at some place, and if it stands alone:
    "short philtrum, tented upper lip" does not have "philtrum, tented"."""
    found: dict[tuple[int, int], str] = {}
    has_degree = any(word.text in face_words.DEGREE_WORDS for word in words)
    for ignored in (face_words.IGNORED, face_words.FUNCTION_WORDS)[: 1 + has_degree]:
        found |= _long_wordings(words, ignored)
    kept = []
    for (first, last), hpo_id in found.items():
        if not any(a <= first and last <= b and (a, b) != (first, last) for a, b in found):
            kept.append((hpo_id, words[first : last + 1]))
    for _, inside in kept:
        for word in inside:
            word.in_long_wording = True
            if word.kind in (NEGATION, SEEN, NORMAL, OTHER):
                word.kind = QUALITY
    return [(hpo_id, [word for word in inside if word.kind in _NAMES]) for hpo_id, inside in kept]


def _long_wordings(words: list[Word], ignored: frozenset[str]) -> dict[tuple[int, int], str]:
    """(place of the first word, of the last) -> HPO id."""
    index = wording_index.index()
    separators = wording_index.SEPARATORS
    counted = [
        word
        for word in words
        if word.meaning and word.kind != LINK and word.text not in ignored and word.text not in separators
    ]
    if not counted:
        return {}
    found = {}
    for end, (length, hpo_id, between) in index.sequences.iter(tuple(index.numbers.get(w.meaning, 0) for w in counted)):
        named = counted[end - length + 1 : end + 1]
        first, last = named[0].place, named[-1].place
        inside = words[first:last]
        crossed = {"verb" if word.kind == VERB else "join" for word in inside if word.kind in (JOIN, WITH, VERB)}
        beside = [*words[max(0, first - 1) : first], *words[last + 1 : last + 2]]
        goes_on = words[last].kind == SITE and beside[-1:] and beside[-1].kind == SITE and beside[-1].place > last
        stands_alone = not (crossed and any(word.kind in _NAMES for word in beside))
        if crossed <= between and not goes_on and stands_alone and not _is_two_terms(words[first : last + 1]):
            # The index knows stems, too, and tells "reduced head circumference" from "decreased".
            found[first, last] = index.find([w.stem for w in named], [w.meaning for w in named]) or hpo_id
    return found


def _is_two_terms(words: list[Word]) -> bool:
    """Whether words before and after a conjunction each name a term: cleft lip or cleft palate."""
    joins = [i for i, word in enumerate(words) if word.kind == JOIN]
    if not joins or words[joins[-1]].text not in LISTED:
        return False
    sides = ([], [])
    for i, word in enumerate(words):
        if word.kind in _NAMES:
            sides[i > joins[-1]].append(word)
    index = wording_index.index()
    return all(side and index.find([w.stem for w in side], [w.meaning for w in side]) for side in sides)


# ---- words that stand together


def _matches(words: list[Word]) -> list[tuple[str, list[Word]]]:
    """Terms that words name which stand together: (HPO id, the words used)."""
    words = words[: 2 * MOST_WORDS]
    key = tuple([(word.stem, word.meaning, word.kind != QUALITY, word.adjacent) for word in words])
    return [(hpo_id, [words[i] for i in places]) for hpo_id, places in _places_of_terms(key)]


@lru_cache(200_000)
def _places_of_terms(words: tuple[tuple[str, str, bool, bool], ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(HPO id, places of the words that name it) of each term; a term named by fewer of the same words is left out.

    words: stem, meaning, whether it names a part of the face, whether no preposition stands before it."""
    index = wording_index.index()
    n = len(words)
    is_site = [word[2] for word in words]
    # Neighbouring words that name a part of the face belong together: never "short nose" of "short nose bridge".
    splits = [not (0 < i < n and is_site[i] and is_site[i - 1] and words[i][3]) for i in range(n + 1)]
    tried = {
        tuple(range(i, j))
        for i in range(n)
        if splits[i]
        for j in range(i + 1, min(n, i + LONGEST_KEY) + 1)
        if splits[j]
    }
    runs, start = [], 0
    for i in range(1, n + 1):
        if i == n or is_site[i] != is_site[start]:
            runs.append((is_site[start], start, i))
            start = i
    for number, (site, first, last) in enumerate(runs):
        if site:
            continue
        beside = [range(*runs[k][1:]) for k in (number - 1, number + 1) if 0 <= k < len(runs)]
        for places in beside:  # one quality of several, with all words of the part of the face
            # Full eversion of the lip: the noun before the preposition counts, unless it is one such as "pattern".
            with_noun = places.start == last and not words[last][3] and words[last - 1][1] not in _NEUTRAL_NOUNS
            for i in range(first, last):
                ends = [last] if with_noun else range(i + 1, min(last, i + 4) + 1)
                tried |= {tuple(sorted((*places, *range(i, j)))) for j in ends}
    found: dict[tuple[int, ...], str] = {}
    for places in tried:
        hpo_id = index.find([words[i][0] for i in places], [words[i][1] for i in places])
        if hpo_id:
            found[places] = hpo_id
    sets = {places: frozenset(places) for places in found}
    return tuple(
        (found[places], places) for places in sorted(found) if not any(sets[places] < other for other in sets.values())
    )


# ---- parts of a clause


def look_up(clause: Clause, long_wordings: list[tuple[str, list[Word]]]) -> None:
    """Gives each part of a clause the terms that it names, with the state of the part."""
    parts = clause.parts
    for part in parts:
        part.found = [Found(hpo_id, part.state, used, used) for hpo_id, used in _matches(part.words)]
    is_named = [bool(part.found) for part in parts]
    for number, part in enumerate(parts):
        if (is_named[number] and part.has_site) or all(word.in_long_wording for word in part.words):
            continue
        if not part.has_site:
            if part.has_quality and not is_named[number] and part.joined_by != NORMAL:
                _borrow(clause, part, part.words, _lenders(clause, number, is_named))
        elif part.has_quality:
            _borrow(clause, part, part.words, [part.subjects, *_named_before(clause, number)])
            leading = _leading_qualities(clause, part.words)
            if not part.found and part.is_predicate and leading:
                _borrow(clause, part, leading, [part.subjects])
        elif number:
            _borrow_qualities(clause, part, parts[number - 1])
    for hpo_id, words in long_wordings:
        for part in parts:
            if any(word is words[0] for word in part.words):
                part.found.insert(0, Found(hpo_id, part.state, words, words))
    _keep_most_specific(parts)
    _heed_sides(clause)


def _named_before(clause: Clause, number: int) -> list[list[Part]]:
    """The heading, then parts of the face named in this clause and in the one before, the nearest first."""
    here = [[part] for part in reversed(clause.parts[:number]) if part.has_site][:3]
    return [clause.heading or [], clause.context, *here, *([part] for part in clause.previous)]


def _lenders(clause: Clause, number: int, is_named: list[bool]) -> list[list[Part]]:
    """Groups of parts that may name the part of the face that a quality belongs to, the likeliest first."""
    part, later = clause.parts[number], clause.parts[number + 1 :]
    following: list[Part] = []
    if not part.before_other:  # large, low-set ears
        for other, other_is_named in zip(later, is_named[number + 1 :], strict=True):
            for_contrast = other.joined_by == NEGATION and other is later[0]  # down- instead of upslanted eyes
            if not (other.joined_by in LISTED or for_contrast) or other.is_predicate or other.before_other:
                break
            if other.is_indefinite:
                break
            after = clause.words[other.words[-1].place + 1 : other.words[-1].place + 2]
            is_subject = bool(after) and after[0].kind == VERB and after[0].text not in ("(", ":")
            following = [other] if other.has_site and not is_subject else []
            if other.has_site or other_is_named:
                break
    if part.of_body or (part.before_other and part.is_indefinite):
        return [following]
    groups = [part.subjects, following] if part.is_predicate else [following, part.subjects]
    if number:
        before = clause.parts[number - 1]
        starts_with_site = before.words[0].kind != QUALITY and before.words[-1].kind == QUALITY
        if part.joined_by == "determiner" or (part.joined_by in CONJUNCTIONS and starts_with_site):
            groups.insert(0, [before])  # ears large and prominent
    if part.before_other and not part.is_predicate:
        return groups
    return [*groups, *_named_before(clause, number)]


def _borrow(clause: Clause, part: Part, words: list[Word], groups: list[list[Part]]) -> None:
    """Looks words of a part up together with those of other parts, group by group, until terms are found."""
    for group in groups:
        hits = [_borrow_from(clause, part, words, other) for other in group if other is not part]
        if any(hits):
            return


def _borrow_from(clause: Clause, part: Part, words: list[Word], other: Part) -> bool:
    heads = other.heads
    if not heads:  # "Spacing: wide" below the heading "Eyes"
        return any(_try(part, words, [region, *other.words]) for region in _regions_near(clause, part))
    loans = [other.words] if other.has_quality and not other.found else []
    says_which = any(word.kind == MODIFIER for word in words)  # the upper lip is thin, the lower full
    loans += [heads, other.sites] if says_which else [other.sites, heads]
    if len(heads) > 1:
        loans.append(_leading_sites(other.words))
        loans += [[word] for word in heads if word.meaning in REGIONS]
    elif heads[0].meaning not in REGIONS:  # its tip is broad: the tip of the nose
        loans += [[region, *other.sites] for region in _regions_near(clause, part)]
    return any(_try(part, words, loan) for loan in loans if loan)


def _borrow_qualities(clause: Clause, part: Part, before: Part) -> None:
    """A broad nasal bridge and tip; a skin tag is seen in front of the ear."""
    if not before.has_quality or part.is_indefinite or _is_new_subject(clause, part):
        return
    if part.joined_by == "event" and not before.before_other:
        _try(part, part.words, before.words)
    elif part.joined_by in CONJUNCTIONS and before.has_site and not before.is_predicate:
        _try(part, part.words, before.words[:-1]) or _try(part, part.words, before.qualities)


def _is_new_subject(clause: Clause, part: Part) -> bool:
    """Whether a part has its own article and verb: a small chin, and her eyes are far apart."""
    first, last = part.words[0].place, part.words[-1].place
    before, after = clause.words[max(0, first - 1) : first], clause.words[last + 1 : last + 3]
    has_article = any(word.kind in (DETERMINER, SKIP) for word in before)
    return has_article and [word.kind for word in after[:1]] == [VERB] and after[-1].kind != SEEN


def _regions_near(clause: Clause, part: Part) -> list[Word]:
    """Words for regions (nose, ear) that a part of a part may belong to, the nearest first."""
    earlier = clause.parts[: clause.parts.index(part)]
    near = [*part.subjects, *clause.context, *reversed(earlier), *clause.previous]
    return [word for other in near for word in other.words if word.meaning in REGIONS][:3]


def _leading_sites(words: list[Word]) -> list[Word]:
    """The first part of the face that words name: the pupil of "pupil of the left eye"."""
    sites: list[Word] = []
    for word in words:
        if sites and (word.kind == QUALITY or not word.adjacent):
            break
        if word.kind != QUALITY:
            sites.append(word)
    return sites


def _leading_qualities(clause: Clause, words: list[Word]) -> list[Word]:
    """The qualities before a part of the face that stands behind a preposition: "protrudes from the mouth".

    Not those of the part itself: "sagging of the cheeks"."""
    for i, word in enumerate(words):
        if word.kind != QUALITY:
            between = clause.words[words[i - 1].place + 1 : word.place] if i else []
            of_part = any(link.text == "of" for link in between)
            return words[:i] if (not word.adjacent and not of_part) or word.text in POSITIONS else []
    return []


def _try(part: Part, words: list[Word], loan: list[Word]) -> bool:
    """Adds terms that own and borrowed words name together: with all own parts of the face and all borrowed ones."""
    own, lent = {id(word) for word in words}, {id(word) for word in loan}
    needed = {id(word) for word in words if word.kind == SITE}
    own_qualities = {id(word) for word in words if word.kind == QUALITY}
    if all(word.kind != QUALITY for word in loan):
        needed |= lent
    for together in ([*loan, *words], [*words, *loan]):
        hits = []
        for hpo_id, used in _matches(together):
            ids = {id(word) for word in used}
            if ids & own and ids & lent and needed <= ids and (not own_qualities or ids & own_qualities):
                hits.append(Found(hpo_id, part.state, used, [word for word in used if id(word) in own]))
        if hits:
            part.found += hits
            return True
    return False


def add_ellipsis(part: Part, said_before: Part) -> None:
    """The mandible is small, the maxilla is not: part has the qualities of what was said before."""
    _try(part, part.words, said_before.qualities)


def _keep_most_specific(parts: list[Part]) -> None:
    """Drops a term named by some of the words that name another; of equal ones the first stays."""
    everything = [(part, found, frozenset(map(id, found.words))) for part in parts for found in part.found]
    if len(everything) < 2:
        return
    kept: set[frozenset[int]] = set()
    for part in parts:
        part.found = []
    for part, found, used in everything:
        if used not in kept and not any(used < other for _, _, other in everything):
            kept.add(used)
            part.found.append(found)


def _heed_sides(clause: Clause) -> None:
    """Makes Ptosis Bilateral ptosis or Unilateral ptosis if words near it say so."""
    for part in clause.parts:
        for found in part.found:
            of_sides = _terms_of_sides().get(found.hpo_id)
            if of_sides:
                side = _side_of(clause, found)
                found.side = side if side in ("left", "right") else ""
                found.hpo_id = of_sides.get("unilateral" if found.side else side, found.hpo_id)


def _side_of(clause: Clause, found: Found) -> str:
    """The side that words near a term name: bilateral, unilateral, left, right, or ""."""
    clause_before = clause.words[max(0, found.own[0].place - 4) : found.own[0].place]
    if any(word.text == "both" for word in clause_before) and all(word.kind != JOIN for word in clause_before):
        return "bilateral"
    first, last = min(word.place for word in found.words), max(word.place for word in found.words)
    near = [word.text for word in clause.words[max(0, found.own[0].place - 2) : found.own[-1].place + 4]]
    for side, words in _SIDES.items():
        if not set(words).isdisjoint(near):
            return side
    if found.state == ABSENT or any(word.text in ("than", "worse", ">", "<", "more") for word in clause.words):
        return ""
    near = [word.text for word in clause.words[first:last]]
    for word in reversed(clause.words[max(0, first - 3) : first]):
        if word.kind in (JOIN, WITH, NEGATION) or (word.kind == VERB and word.text not in _COPULAS):
            break
        if word.text == "one":  # one eyelid droops
            return "unilateral"
        near.append(word.text)
    later = clause.words[last + 1 : last + 9]
    if len(later) > 1 and later[0].text == "," and later[1].text in ("left", "right"):
        later = later[1:2] if len(later) == 2 or later[2].kind == JOIN else []  # ptosis, left
    for word in later:
        if word.kind in (JOIN, WITH, NEGATION) or word.text == ":":
            break
        near.append(word.text)
    said = {side for side in ("left", "right") if side in near}
    return said.pop() if len(said) == 1 else ""


@cache
def _terms_of_sides() -> dict[str, dict[str, str]]:
    """Term -> "bilateral" or "unilateral" -> the term for both sides, or for one."""
    terms = face_lexicon.terms()
    direct = (face_lexicon.NAME, face_lexicon.EXACT)
    by_name = {words.lower(): i for i, term in terms.items() for words, rank in term.wordings if rank in direct}
    found: dict[str, dict[str, str]] = {}
    for hpo_id, term in terms.items():
        side, _, rest = term.name.lower().partition(" ")
        if side in _SIDES and rest in by_name:
            found.setdefault(by_name[rest], {})[side] = hpo_id
    return found


def both_sides(hpo_id: str) -> str:
    """The term for both sides of which a term is the one for a side; the term itself if there is none."""
    for of_sides in _terms_of_sides().values():
        if of_sides.get("unilateral") == hpo_id:
            return of_sides.get("bilateral", hpo_id)
    return hpo_id
