"""The grammar of report_terms.py: from words to parts of clauses, from parts to terms and their states."""

import re
from dataclasses import dataclass, field
from functools import cache, lru_cache

from phenotyping import face_lexicon, face_words, phenotypes, wording_index

MOST_WORDS = 14  # of a part that are looked up together; longer ones are cut
PRESENT, ABSENT, NOT_VISIBLE = "present", "absent", "not_visible"
_TOKENS = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?|\n|[^\w\s]|(?<=\s)[-–—](?=\s)")

# ---- kinds of words
SITE, MODIFIER, QUALITY, OTHER, SKIP, LINK = "site modifier quality other skip link".split()
JOIN, WITH, VERB, NEGATION, BREAK = "join with verb negation break".split()
NORMAL, SEEN, UNSEEN, HIDES, UNSURE, NOT_SHOWN = "normal seen unseen hides unsure not_shown".split()
ARTICLE = "article"

_KIND_OF: dict[str, str] = {}
for _kind, _words in (
    (ARTICLE, "a an there"),
    (JOIN, ", and or / & nor plus +"),
    (WITH, "with"),
    (VERB, "is are was were be been being am has have had having shows show showing showed displays display displaying demonstrates "
     "demonstrate demonstrating exhibits exhibit exhibiting presents presenting reveals appears appear appeared appearing looks "
     "look looking seems seem that which who whose does do did can could may might will would should get gets = ( :"),
    (NEGATION, "no not without neither never denies deny denied negative none n't nor cannot isn't aren't doesn't don't wasn't weren't hasn't haven't didn't can't non lacks"),
    (BREAK, ". ; ! ? but however although though whereas while yet except nevertheless despite because since \n"),
    (NORMAL, "normal normally unremarkable typical typically well-formed proportionate age-appropriate ordinary"),
    (SEEN, "present seen noted observed evident identified appreciated detected found recorded documented appreciable visible "
     "discernible noticed demonstrated apparent yes recognized recognised"),
    (UNSEEN, "covered hidden obscured occluded concealed cropped masked blurred unassessable indeterminable obstructed unseen unclear blocked invisible"),
    (HIDES, "covers cover covering hides hide hiding obscures obscure obscuring occludes conceals conceal concealing blocks masks "
     "occluding masking"),
):  # fmt: skip
    _KIND_OF.update(dict.fromkeys(_words.split(), _kind))

# Expressions of several words, longest first; SKIP: they say nothing.
_PHRASES: dict[str, list[tuple[tuple[str, ...], str]]] = {}
for _kind, _phrases in (
    (SKIP, "otherwise|not only|no doubt|not just|not to mention|no change in|not unlike|there is|there are|there was|there were"),
    (NEGATION, "rather than|instead of|free of|free from|negative for|no evidence of|no sign of|no signs of|"
     "fails to show|as opposed to|devoid of|other than|ruled out|excluded"),
    (UNSURE, "cannot be excluded|can not be excluded|cannot be ruled out|can not be ruled out|could not be excluded|"
     "could not be ruled out|can't be ruled out|can't be excluded|not excluded|not ruled out"),
    (NORMAL, "within normal limits|no abnormality|no abnormalities|no anomaly|no anomalies|no dysmorphic features|nothing abnormal|"
     "nothing unusual|nothing remarkable|no abnormal findings|well formed|not remarkable|not dysmorphic|no dysmorphism|"
     "age appropriate|no abnormal|no significant abnormality|no significant abnormalities|no obvious abnormality|"
     "no obvious abnormalities|no dysmorphology"),
    (UNSEEN, "not visible|not assessable|not in view|out of view|out of frame|out of the frame|outside the frame|outside of the frame|"
     "not in the frame|not in frame|cut off|not shown|not evaluable|not well seen|not clearly seen|not clearly visible|not fully visible|not well visualized|"
     "not well visualised|beyond the frame|outside the image|outside the picture|out of shot|not included|not captured|off camera|not depicted"),
    (HIDES, "unable to assess|unable to evaluate|difficult to assess|hard to assess|hard to see|difficult to see|hard to tell|unable to see|"
     "impossible to assess|impossible to judge|difficult to judge|hard to judge|unable to judge|unable to comment on|not possible to assess|"
     "cannot comment on|difficult to evaluate|unable to determine|impossible to see|impossible to evaluate"),
    (NOT_SHOWN, "does not show|do not show|doesn't show|not showing|did not show|doesn't include|does not include"),
    (BREAK, "apart from|except for"),
    (JOIN, "as well as|along with|together with|in addition to"),
):  # fmt: skip
    for _phrase in _phrases.split("|"):
        _first, *_rest = _phrase.split()
        _PHRASES.setdefault(_first, []).append(((_first, *_rest), _kind))
for _verb in "seen assessed evaluated determined judged visualized visualised examined appreciated commented identified established".split():
    for _cannot in ("cannot be", "can not be", "could not be", "can't be", "couldn't be"):
        for _adverb in ("", " fully", " reliably", " adequately", " clearly", " properly", " well"):
            _phrase = tuple(f"{_cannot}{_adverb} {_verb}".split())
            _PHRASES.setdefault(_phrase[0], []).append((_phrase, UNSEEN))
    for _cannot in ("cannot", "can not", "could not", "can't"):
        _verb_now = {"seen": "see", "assessed": "assess", "evaluated": "evaluate", "determined": "determine"}.get(_verb)
        if _verb_now:
            _phrase = tuple(f"{_cannot} {_verb_now}".split())
            _PHRASES.setdefault(_phrase[0], []).append((_phrase, HIDES))
for _entries in _PHRASES.values():
    _entries.sort(key=lambda entry: -len(entry[0]))
_POSITIONS = frozenset("above over under below beneath behind".split())
_CONJUNCTIONS = ("and", "or", "nor", "/", "&")
_ABSENT_WORDS = frozenset(("absent", "absence", "missing", "lack", "lacking"))
_DIMENSIONS = {
    "size": "large small big macrotia microtia prominent",
    "length": "long short",
    "width": "wide narrow broad",
    "height": "high low long short",
    "depth": "deep smooth",
    "thickness": "thick thin full",
    "position": "low set rotate back protrude high deep",
    "placement": "low set rotate back",
    "spacing": "space hypertelorism hypotelorism",
    "rotation": "rotate",
    "shape": "round triangular square",
}


@dataclass(slots=True, eq=False)
class Word:
    """One word of a text. A compound is several words with the same offsets."""

    kind: str
    stem: str
    meaning: str
    start: int
    end: int
    text: str
    adjacent: bool = True  # no function word between this and the word of a part before it


@dataclass(slots=True, eq=False)
class Part:
    """Words of a clause that stand together: parts of the face and qualities."""

    words: list[Word]
    joined_by: str  # kind or word before it
    state: str
    subjects: list["Part"]
    predicate: bool = False
    article: bool = False
    trailing: bool = False  # a word follows that is not of a face
    found: list = field(default_factory=list)  # lists: hpo_id, state, used words

    @property
    def has_site(self) -> bool:
        return any(word.kind == SITE for word in self.words)

    @property
    def qualities(self) -> list[Word]:
        return [word for word in self.words if word.kind == QUALITY]

    @property
    def sites(self) -> list[Word]:
        return [word for word in self.words if word.kind in (SITE, MODIFIER)]


@lru_cache(100_000)
def _readings(word: str) -> tuple[tuple[str, str, str], ...]:
    """(kind, stem, meaning) of each token of a lower-case word."""
    tokens = face_words.tokens(word)
    kind = _KIND_OF.get(word) or (SKIP if word in face_words.IGNORED else LINK if word in face_words.LINKS else "")
    if kind:
        return ((kind, *tokens[0]),)
    return tuple((_token_kind(meaning), stem, meaning) for stem, meaning in tokens)


@lru_cache(100_000)
def _token_kind(meaning: str) -> str:
    if meaning in face_words.head_stems():
        return SITE
    if meaning in face_words.modifier_stems():
        return MODIFIER
    return QUALITY if meaning in wording_index.index().vocabulary else OTHER


def words_of(text: str) -> list[Word]:
    """All words of a text with their kinds."""
    raw = [(match.group().lower().replace("’", "'"), match.start(), match.end()) for match in _TOKENS.finditer(text)]
    words: list[Word] = []
    i = 0
    while i < len(raw):
        word, start, end = raw[i]
        for phrase, kind in _PHRASES.get(word, ()):
            if tuple(r[0] for r in raw[i : i + len(phrase)]) == phrase:
                for k, (piece, first, last) in enumerate(raw[i : i + len(phrase)]):
                    stem, meaning = face_words.tokens(piece)[0]
                    words.append(
                        Word(SKIP if k else kind, stem, meaning, first, last, piece if k else " ".join(phrase))
                    )
                i += len(phrase)
                break
        else:
            if word == "\n":
                if not _wraps(text, start):
                    words.append(Word(BREAK, "", "", start, end, "\n"))
            elif not word[0].isalnum() and word not in _KIND_OF:
                if word == "—" or (
                    word in "-–" and text[start - 1 : start].isspace() and text[end : end + 1].isspace()
                ):
                    words.append(Word(BREAK, "", "", start, end, word))
                elif word == ")":
                    words.append(Word(JOIN, "", "", start, end, ")"))
            else:
                for kind, stem, meaning in _readings(word):
                    together = (
                        kind in (SITE, MODIFIER, QUALITY)
                        and words
                        and words[-1].end >= start - 1
                        and face_words.joined_stem(words[-1].stem, stem)
                    )
                    if together:
                        start = words.pop().start
                        stem, meaning = together
                        kind = _token_kind(meaning)
                    words.append(Word(kind, stem, meaning, start, end, word))
            i += 1
    return words


def _wraps(text: str, newline: int) -> bool:
    before, after = text[:newline].rstrip(" ")[-1:], text[newline + 1 : newline + 2]
    return before == "," or (before.isalnum() and after.islower())


def read(text: str) -> list[tuple[str, str, int, int, bool]]:
    """(HPO id, state, start, end, implied by a region) of all mentions of a text."""
    found: list[tuple[str, str, int, int, bool]] = []
    clause: list[Word] = []
    context: list[Part] = []
    previous: list[Part] = []
    for word in [*words_of(text), Word(BREAK, "", "", len(text), len(text), "\n")]:
        if word.kind != BREAK:
            clause.append(word)
            continue
        if clause:
            reader = _Clause(clause, context, previous)
            found += reader.mentions()
            context, previous = reader.heading(word.text), reader.last_sites()
            clause = []
        if word.text in ".\n":
            previous = []
    return found


class _Clause:
    """One clause: its parts, and what is said of them."""

    def __init__(self, words: list[Word], context: list[Part], previous: list[Part]):
        self.context, self.previous = context, previous
        self.words = words
        self.parts: list[Part] = []
        self.regions: list[tuple[Part, str, list[str]]] = []  # site, state, dimensions
        self.taken: set[int] = set()  # words of long wordings
        self.long_wordings = self._find_long_wordings()
        self.has_heading = False
        self.colon_context: list[Part] | None = None
        self._split()
        self._look_up()
        self._apply_absent_words()
        self._apply_events()

    # -- long wordings

    def _find_long_wordings(self) -> list[tuple[str, int, int]]:
        index = wording_index.index()
        found: dict[tuple[int, int], str] = {}
        degrees = any(word.text in face_words.DEGREE_WORDS for word in self.words)
        for with_degree in {False, degrees}:
            ignored = face_words.FUNCTION_WORDS if with_degree else face_words.IGNORED
            places = [
                i
                for i, word in enumerate(self.words)
                if word.meaning
                and word.text not in ignored
                and word.kind != LINK
                and word.text not in wording_index.SEPARATORS
            ]
            numbers = tuple(index.numbers.get(self.words[i].meaning, 0) for i in places)
            for last, (length, hpo_id, between) in index.sequences.iter(numbers) if numbers else ():
                first = places[last - length + 1]
                final = places[last]
                inside = self.words[first:final]
                crossed = {
                    "verb" if word.kind == VERB else "join" for word in inside if word.kind in (JOIN, WITH, VERB)
                }
                if not crossed <= between:
                    continue
                neighbours = (SITE, MODIFIER, QUALITY)
                before, after = self.words[max(0, first - 1) : first], self.words[final + 1 : final + 2]
                if after and after[0].kind == SITE and self.words[final].kind == SITE:
                    continue
                if crossed and any(word.kind in neighbours for word in (*before, *after)):
                    continue  # of "short philtrum, tented upper lip", not "philtrum, tented"
                found[first, final] = hpo_id
        kept = []
        for (first, last), hpo_id in found.items():
            if not any(a <= first and last <= b and (a, b) != (first, last) for a, b in found):
                kept.append((hpo_id, first, last))
        for _, first, last in kept:
            for word in self.words[first : last + 1]:
                if word.kind in (NEGATION, SEEN, NORMAL, OTHER):
                    word.kind = QUALITY
                self.taken.add(id(word))
        return kept

    # -- parts

    def _split(self) -> None:
        self.events: list[tuple[str, int, bool, Word]] = []  # kind, number of parts before it, negated, word
        state, joined_by, predicate, article, linked = PRESENT, "start", False, False, False
        subjects: list[Part] = []
        part: Part | None = None
        words = self.words
        last_meaning_end = None
        for i, word in enumerate(words):
            kind = word.kind
            if word.text == "nor" and state == ABSENT and self.parts:
                kind = JOIN
            if kind in (SITE, MODIFIER, QUALITY):
                if part is not None and word.text in _POSITIONS and self._quality_follows(i):
                    part, joined_by, predicate = None, "position", False  # a long philtrum above a thin lip
                    continue
                if part is None:
                    if joined_by in ("and", ",") and article and state == ABSENT and self.parts:
                        state = PRESENT
                    part = Part([], joined_by, state, subjects, predicate, article)
                    self.parts.append(part)
                word.adjacent = not linked
                part.words.append(word)
                linked = False
                continue
            if kind == ARTICLE:
                if part is not None:
                    linked = True
                article = True
                continue
            if kind == SKIP:
                continue
            if kind == LINK:
                linked = True
                continue
            if kind == OTHER:
                following = next((w for w in words[i + 1 :] if w.kind != SKIP), None)
                if following is not None and following.kind in (SITE, QUALITY, MODIFIER) and following is words[i + 1]:
                    continue
                if part is not None:
                    part.trailing = True
                    part, joined_by, predicate, article = None, "other", False, False
                continue
            if kind == JOIN:
                if part is not None or joined_by in ("other",):
                    predicate = predicate and part is not None
                    joined_by = word.text
                part, article = None, False
                if word.text == ")":
                    state, predicate = PRESENT, False
                continue
            if kind == WITH:
                part, joined_by, predicate, article = None, "with", False, False
                if state == ABSENT and self.parts and joined_by != NEGATION:
                    state = PRESENT
                continue
            if kind in (VERB, NEGATION):
                if part is not None or not predicate:
                    subjects = self._subjects(part)
                    if (
                        kind == VERB
                        and part is not None
                        and part.joined_by in (",", "and")
                        and state == ABSENT
                        and part.has_site
                        and not part.qualities
                    ):
                        part.state = state = PRESENT
                    predicate = bool(subjects) or word.text in (":",)
                if word.text == ":":
                    self.has_heading = True
                    sites_only = (
                        bool(self.parts)
                        and all(p.has_site and not p.qualities for p in self.parts)
                        and len(self.parts) <= 3
                    )
                    self.colon_context = list(self.parts) if sites_only else []
                    subjects = self.colon_context or subjects
                    listed = [w.text for w in words[:i] if w.kind not in (SKIP, ARTICLE)]
                    state = ABSENT if listed and set(listed) <= {*_ABSENT_WORDS, "not", "negative", "no"} else PRESENT
                    predicate = not sites_only
                if kind == NEGATION:
                    state = (
                        PRESENT
                        if state == ABSENT and joined_by == NEGATION and word.text != "nor" and part is None
                        else ABSENT
                    )
                    joined_by = NEGATION
                    if word.text == "ruled out" or word.text == "excluded":
                        self.events.append((SEEN, len(self.parts), True, word))
                        state = PRESENT
                elif joined_by != NEGATION or part is not None:
                    joined_by = "verb"
                part, article = None, False
                continue
            if kind == NOT_SHOWN:
                subjects, state, part, joined_by, predicate = self._subjects(part), ABSENT, None, NEGATION, False
                self.events.append((kind, len(self.parts), True, word))
                continue
            if kind == UNSEEN and any(w.meaning == "skin" for w in words[i + 1 : i + 5]):
                subjects, predicate, part, joined_by, article = self._subjects(part), True, None, "verb", False
                continue  # covered by a fold of skin: not hidden
            # events
            self.events.append((kind, len(self.parts), state == ABSENT, word))
            part_before = part
            if kind == NORMAL:
                joined_by = "normal"
            elif kind in (UNSEEN, HIDES, SEEN, UNSURE):
                joined_by = "event"
                if kind == SEEN and state == ABSENT and not (part_before is None):
                    pass
            part, article = None, False
        self.ends_negated = state == ABSENT and joined_by == NEGATION and part is None

    def _quality_follows(self, place: int) -> bool:
        following = next((w for w in self.words[place + 1 :] if w.kind not in (ARTICLE, SKIP)), None)
        return following is not None and following.kind == QUALITY

    def _subjects(self, part: Part | None) -> list[Part]:
        subjects = []
        if part is None or not part.has_site:
            return subjects
        for candidate in reversed(self.parts):
            if not candidate.has_site:
                if not subjects or candidate.qualities:
                    break
                heads = [word for word in subjects[-1].words if word.kind == SITE]  # the upper and the lower lip
                candidate = Part([*candidate.words, *heads], candidate.joined_by, candidate.state, [])
            subjects.append(candidate)
            if candidate.joined_by not in (",", "and", "or", "nor", "/", "&") or candidate.qualities:
                break
        return subjects

    # -- terms

    def _look_up(self) -> None:
        for part in self.parts:
            part.found = [[hpo_id, part.state, used] for hpo_id, used in _matches(part.words)]
        named = [bool(part.found) for part in self.parts]
        for number, part in enumerate(self.parts):
            if (named[number] and part.has_site) or all(id(word) in self.taken for word in part.words):
                continue
            if not part.has_site:
                if part.qualities and not named[number]:
                    self._borrow(part, part.words, self._lenders(number, named))
            elif part.qualities:
                self._borrow(part, part.words, [part.subjects, self.context, self._sites_before(number), self.previous])
                leading = _leading_qualities(part.words)
                if not part.found and part.predicate and leading:  # protrudes from the mouth
                    self._borrow(part, leading, [part.subjects])
            elif number and part.joined_by in _CONJUNCTIONS:  # a broad nasal bridge and tip
                before = self.parts[number - 1]
                if before.qualities and before.has_site and not before.predicate:
                    self._try(part, part.words, before.words[:-1]) or self._try(part, part.words, before.qualities)
        self._drop_covered()

    def _sites_before(self, number: int) -> list[Part]:
        return [part for part in self.parts[:number] if part.has_site][-1:]

    def _lenders(self, number: int, named: list[bool]) -> list[list[Part]]:
        """Groups of parts that may name the part of the face that a quality belongs to, the likeliest first."""
        part = self.parts[number]
        sibling = []
        if not part.trailing:  # large, low-set ears
            for later, is_named in zip(self.parts[number + 1 :], named[number + 1 :], strict=True):
                if later.joined_by not in (",", *_CONJUNCTIONS) or later.predicate or later.article or later.trailing:
                    break
                if later.has_site:
                    sibling = [later]
                if later.has_site or is_named:
                    break
        groups = [part.subjects, sibling] if part.predicate else [sibling, part.subjects]
        if part.trailing and not part.predicate:
            return groups
        return [*groups, self.context, self._sites_before(number), self.previous]

    def _borrow(self, part: Part, words: list[Word], groups: list[list[Part]]) -> None:
        """Looks words of a part up together with those of another part that may complete them."""
        for group in groups:
            hits = [self._borrow_from(part, words, other) for other in group if other is not part]
            if any(hits):
                return

    def _borrow_from(self, part: Part, words: list[Word], other: Part) -> bool:
        heads = [word for word in other.words if word.kind == SITE]
        loans = [other.words] if other.qualities and not other.found else []
        loans += [heads, other.sites] if any(word.kind == MODIFIER for word in words) else [other.sites, heads]
        if len(heads) > 1:
            loans += [[word] for word in heads if word.meaning in _REGION_OF]
        elif heads and heads[0].meaning not in _REGION_OF:  # its tip is broad: the tip of what?
            loans += [[region, *other.sites] for region in self._regions_near(part)]
        return any(self._try(part, words, loan) for loan in loans if loan)

    def _regions_near(self, part: Part) -> list[Word]:
        """Words for whole regions (nose, ear) that a part of a part may belong to, the nearest first."""
        earlier = self.parts[: self.parts.index(part)]
        near = [*part.subjects, *self.context, *reversed(earlier), *self.previous]
        return [word for other in near for word in other.words if word.meaning in _REGION_OF][:3]

    def _try(self, part: Part, words: list[Word], loan: list[Word]) -> bool:
        own = {id(word) for word in words}
        needed = {id(word) for word in words if word.kind == SITE}
        lent = {id(word) for word in loan}
        for tried in ([*loan, *words], [*words, *loan]):
            hits = []
            for hpo_id, used in _matches(tried):
                ids = {id(word) for word in used}
                if ids & own and ids & lent and needed <= ids:
                    hits.append([hpo_id, part.state, used])
            if hits:
                part.found += hits
                return True
        return False

    def _drop_covered(self) -> None:
        for hpo_id, first, last in self.long_wordings:
            words = [w for w in self.words[first : last + 1] if w.kind in (SITE, MODIFIER, QUALITY)]
            for part in self.parts:
                if any(w is words[0] for w in part.words):
                    part.found.append([hpo_id, part.state, words])
        everything = [(part, found, frozenset(map(id, found[2]))) for part in self.parts for found in part.found]
        for part in self.parts:
            part.found = []
        seen = set()
        for part, found, used in everything:
            covered = any(
                used < other or (used == other and self._is_long(rival) and not self._is_long(found))
                for _, rival, other in everything
            )
            if not covered and (found[0], used) not in seen:
                seen.add((found[0], used))
                part.found.append(found)

    def _is_long(self, found: list) -> bool:
        return any(hpo_id == found[0] for hpo_id, _, _ in self.long_wordings)

    # -- states

    def _noun_phrases(self, number: int) -> list[Part]:
        """The parts before the given number that one predicate speaks of."""
        phrases = []
        for part in reversed(self.parts[:number]):
            if part.predicate and not part.has_site and phrases:
                break
            phrases.append(part)
            if part.joined_by not in (",", "and", "or", "nor", "/", "&"):
                break
        return phrases

    def _apply_absent_words(self) -> None:
        for number, part in enumerate(self.parts):
            if not any(w.text in _ABSENT_WORDS and id(w) not in self.taken for w in part.words):
                continue
            if any(w.text in _ABSENT_WORDS for found in part.found for w in found[2]):
                continue
            negated = PRESENT if part.state == ABSENT else ABSENT
            if part.found:
                targets = [part]
                for later in self.parts[number + 1 :]:
                    if later.joined_by not in (",", "and", "or", "nor", "/") or later.predicate or later.article:
                        break
                    targets.append(later)
            else:
                targets = self._noun_phrases(number)
            for target in targets:
                for found in target.found:
                    found[1] = negated

    def _apply_events(self) -> None:
        for kind, number, negated, word in self.events:
            after = self.parts[number:]
            before = self._noun_phrases(number)
            if kind == SEEN:
                for part in before:
                    for found in part.found:
                        if negated:
                            found[1] = ABSENT
                    if negated and not part.found and part.has_site and not part.qualities:
                        self.regions.append((part, NOT_VISIBLE, []))
                if (
                    not negated
                    and before
                    and before[0].joined_by in (",", "and")
                    and len(before) > 1
                    and before[0].state == ABSENT
                    and all(p.joined_by != "or" for p in before)
                ):
                    for found in before[0].found:
                        found[1] = PRESENT
            elif kind in (UNSEEN, HIDES, UNSURE, NOT_SHOWN):
                if kind in (HIDES, NOT_SHOWN):
                    targets = after or before
                else:
                    targets = before or ([] if self._has_cause(word) else after)
                if not targets and self._says_they(word):
                    targets = self.previous
                for part in targets:
                    for found in part.found if kind != NOT_SHOWN else ():
                        found[1] = NOT_VISIBLE
                    if kind != UNSURE and not part.found and part.has_site and not part.qualities:
                        self.regions.append((part, NOT_VISIBLE, []))
                if not targets and kind != UNSURE:
                    self.regions += [(part, NOT_VISIBLE, []) for part in self.context]
            elif kind == NORMAL and not negated:
                self._apply_normal(number, word)
        if self.ends_negated:
            for part in self._noun_phrases(len(self.parts)):
                for found in part.found:
                    found[1] = ABSENT
                if not part.found and part.has_site and not part.qualities:
                    said = [
                        p for p in self.parts if p.predicate and p.qualities
                    ]  # the mandible is small, the maxilla is not
                    if said and self._try(part, part.words, said[-1].qualities):
                        part.found = [[hpo_id, ABSENT, used] for hpo_id, _, used in part.found]

    def _has_cause(self, word: Word) -> bool:
        """Whether a word says by what: hidden by hair."""
        place = self.words.index(word)
        return any(w.text in ("by", "with", *_POSITIONS) for w in self.words[place + 1 : place + 3])

    def _says_they(self, word: Word) -> bool:
        return any(w.text in ("they", "it", "these", "which") for w in self.words[: self.words.index(word)])

    def _apply_normal(self, number: int, word: Word) -> None:
        place = self.words.index(word)
        near = []
        for other in self.words[place + 1 : place + 7]:
            if other.kind in (VERB, WITH, SITE):
                break
            near.append(other.text)
        near += [other.text for other in self.words[max(0, place - 2) : place]]
        dimensions = [name for name in near if name in _DIMENSIONS]
        if word.text in ("normally",):
            dimensions += [
                d
                for text, d in (
                    ("spaced", "spacing"),
                    ("set", "position"),
                    ("positioned", "position"),
                    ("placed", "position"),
                    ("sized", "size"),
                    ("rotated", "rotation"),
                    ("shaped", "shape"),
                )
                if text in near
            ]
        after = self.parts[number : number + 1]
        before = [p for p in self._noun_phrases(number)]
        targets = [p for p in before if p.has_site and not p.found]
        plain = {
            w
            for w in (
                "size",
                "length",
                "width",
                "height",
                "space",
                "set",
                "position",
                "place",
                "rotat",
                "thick",
                "depth",
                "shape",
            )
        }
        if (
            after
            and after[0].joined_by == "normal"
            and after[0].has_site
            and not after[0].found
            and all(w.stem in plain for w in after[0].qualities)
        ):
            targets = [after[0]]
            for later in self.parts[number + 1 :]:
                if later.joined_by not in (",", "and", "or", "/") or later.qualities or not later.has_site:
                    break
                targets.append(later)
        if not targets:
            earlier = [p for p in self.parts[:number] if p.has_site and not p.found and not p.qualities]
            targets = earlier[-1:] or self.context
        self.regions += [(part, ABSENT, dimensions) for part in targets]

    # -- what the clause gives

    def mentions(self) -> list[tuple[str, str, int, int, bool]]:
        found = []
        for part in self.parts:
            for hpo_id, state, used in part.found:
                if self._names_disease(used[-1]):
                    continue
                if state == ABSENT and [w.meaning for w in used if w.kind == QUALITY] == ["abnorm"]:
                    self.regions.append((part, ABSENT, []))  # no anomaly of the ear
                    continue
                found.append((hpo_id, state, min(w.start for w in used), max(w.end for w in used), False))
        for part, state, dimensions in self.regions:
            start, end = part.words[0].start, part.words[-1].end
            for hpo_id in region_terms(frozenset(w.meaning for w in part.sites), tuple(dimensions)):
                found.append((hpo_id, state, start, end, True))
        return found

    def _names_disease(self, last: Word) -> bool:
        """Whether a word belongs to the name of a disease: macrocephaly-autism syndrome."""
        place = next(i for i, word in enumerate(self.words) if word is last) if last in self.words else None
        for word in self.words[place + 1 :] if place is not None else ():
            if word.kind in (JOIN, VERB, NEGATION, BREAK) and word.text != "and":
                return False
            if word.text in ("syndrome", "disease", "disorder", "syndromes") and id(word) not in self.taken:
                return True
        return False

    def heading(self, ended_by: str) -> list[Part]:
        """The parts of the face that later clauses speak of if they name none."""
        if self.has_heading:
            return self.colon_context or []
        sites_only = self.parts and all(p.has_site and not p.qualities for p in self.parts) and not self.events
        if sites_only and ended_by in "-–—\n" and not any(w.kind in (VERB, NEGATION) for w in self.words):
            return list(self.parts)
        return self.context

    def last_sites(self) -> list[Part]:
        return [p for p in self.parts if p.has_site][-1:] or self.previous


def _matches(words: list[Word]) -> list[tuple[str, list[Word]]]:
    """Terms that words name which stand together: (HPO id, the words used)."""
    words = words[:MOST_WORDS]
    key = tuple([(word.stem, word.meaning, word.kind != QUALITY, word.adjacent) for word in words])
    return [(hpo_id, [words[i] for i in places]) for hpo_id, places in _places_of_terms(key)]


@lru_cache(200_000)
def _places_of_terms(words: tuple[tuple[str, str, bool, bool], ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(HPO id, places of the words that name it) of each term. words: stem, meaning, whether it names a part of the
    face, and whether it stands next to the word before it."""
    index = wording_index.index()
    n = len(words)
    is_site = [word[2] for word in words]
    # Neighbouring words that name a part of the face belong together: never "short nose" of "short nose bridge".
    splits = [not (0 < i < n and is_site[i] and is_site[i - 1] and words[i][3]) for i in range(n + 1)]
    tried = {tuple(range(i, j)) for i in range(n) if splits[i] for j in range(i + 1, min(n, i + 8) + 1) if splits[j]}
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
            for i in range(first, last):
                tried |= {tuple(sorted((*places, *range(i, j)))) for j in range(i + 1, min(last, i + 4) + 1)}
    found: dict[tuple[int, ...], str] = {}
    for places in tried:
        hpo_id = index.find([words[i][0] for i in places], [words[i][1] for i in places])
        if hpo_id:
            found[places] = hpo_id
    sets = {places: frozenset(places) for places in found}
    return tuple(
        (found[places], places) for places in sorted(found) if not any(sets[places] < other for other in sets.values())
    )


def _leading_qualities(words: list[Word]) -> list[Word]:
    """The qualities before a part of the face that stands behind a preposition: protrudes from the mouth."""
    for i, word in enumerate(words):
        if word.kind != QUALITY:
            return words[:i] if i and not word.adjacent else []
    return []


# ---- regions

_REGION_OF = {"nose": "nose", "eye": "eyes", "mouth": "mouth/lips", "ear": "ears", "jaw": "jaw", "forehead": "forehead"}


@cache
def _site_words() -> dict[str, list[tuple[frozenset[str], frozenset[str]]]]:
    """Term of the study's table -> per wording, its parts of the face and all its words."""
    found = {}
    for term in phenotypes.terms().values():
        entries = []
        for wording, _ in face_lexicon.terms()[term.hpo_id].wordings:
            tokens = [meaning for _, meaning in wording_index.pieces(wording)[0]]
            sites = frozenset(t for t in tokens if _token_kind(t) in (SITE, MODIFIER))
            entries.append((sites, frozenset(tokens)))
        found[term.hpo_id] = entries
    return found


@cache
def region_terms(sites: frozenset[str], dimensions: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Terms of the study's table (phenotypes.csv) about a part of the face.

    A whole region (nose, eye, mouth, ear, jaw, forehead) gives all its terms, a smaller part those with a wording that
    names it. dimensions: only terms of size, length and so on."""
    if len(sites) == 1 and next(iter(sites)) in _REGION_OF:
        region = _REGION_OF[next(iter(sites))]
        chosen = [term.hpo_id for term in phenotypes.terms().values() if term.region == region]
    else:
        chosen = [i for i, entries in _site_words().items() if any(sites <= named for named, _ in entries)]
    if dimensions:
        allowed = {face_words.tokens(word)[0][1] for name in dimensions for word in _DIMENSIONS[name].split()}
        chosen = [i for i in chosen if any(allowed & words for _, words in _site_words()[i])]
    return tuple(chosen)
