"""Splits a clause into parts: words that stand together, with what joins them and which of them are negated."""

from dataclasses import dataclass, field

from phenotyping import face_words
from reporting.clause_words import (
    ABSENT_WORDS,
    ASSESSABLE,
    BODY,
    BREAK,
    DETERMINER,
    INDEFINITE,
    JOIN,
    LINK,
    MODIFIER,
    NEGATION,
    NORMAL,
    NOT_SHOWN,
    OTHER,
    POSITIONS,
    QUALITY,
    SEEN,
    SITE,
    SKIP,
    UNSEEN,
    VERB,
    WITH,
    Word,
)

PRESENT, ABSENT, NOT_VISIBLE = "present", "absent", "not_visible"
MOST_WORDS = 14  # of a part
CONJUNCTIONS = ("and", "or", "nor", "/", "&")
LISTED = (",", *CONJUNCTIONS)
REGIONS = {"nose": "nose", "eye": "eyes", "mouth": "mouth/lips", "ear": "ears", "jaw": "jaw", "forehead": "forehead"}
_PRONOUNS = ("it", "they", "he", "she", "this", "these")
_CONTRASTS = ("instead of", "rather than", "as opposed to")
_DEGREES = ("mild", "slight", "moderate", "severe", "subtle", "mildly", "slightly", "moderately", "severely")
_RULED_OUT = ("ruled out", "excluded")
_MODAL = ("can", "could", "to", "may", "might", ",")
_PRONOUN_VERBS = ("it's", "they're", "he's", "she's")
# Headings that say something of the part of the face named by the heading above them: "Eyes", then "Spacing: wide".
_ASPECTS = "size length width height depth thickness position placement spacing rotation slant shape set present"
_ASPECT_MEANINGS = ABSENT_WORDS | {face_words.tokens(word)[0][1] for word in _ASPECTS.split()}


@dataclass(slots=True, eq=False)
class Found:
    """A term that words of a part name."""

    hpo_id: str
    state: str
    words: list[Word]  # all words that name it, those of other parts too
    own: list[Word]  # those of this part
    side: str = ""  # "left" or "right" if it is named on that side only


@dataclass(slots=True, eq=False)
class Part:
    """Words of a clause that stand together: parts of the face, and qualities."""

    words: list[Word]
    joined_by: str  # what stands before it: "start", a word that joins, or a kind of words
    state: str = PRESENT
    subjects: list["Part"] = field(default_factory=list)  # of the verb before it
    is_predicate: bool = False  # it says something of the subjects
    is_indefinite: bool = False  # "a wide mouth"
    of_body: bool = False  # a part of the body outside the face stands before it: "her neck is short"
    before_other: bool = False  # a word follows that is not of a face
    found: list[Found] = field(default_factory=list)

    @property
    def has_site(self) -> bool:
        """Whether it names a part of the face."""
        return any(word.kind == SITE for word in self.words)

    @property
    def has_quality(self) -> bool:
        """Whether it names a quality."""
        return any(word.kind == QUALITY for word in self.words)

    @property
    def only_site(self) -> bool:
        """Whether it names a part of the face and says nothing of it."""
        return self.has_site and not self.has_quality and not self.found

    @property
    def qualities(self) -> list[Word]:
        """Its words for qualities."""
        return [word for word in self.words if word.kind == QUALITY]

    @property
    def heads(self) -> list[Word]:
        """Its words for parts of the face, without those that say which: lip, not upper."""
        return [word for word in self.words if word.kind == SITE]

    @property
    def sites(self) -> list[Word]:
        """Its words for parts of the face: upper, lip."""
        return [word for word in self.words if word.kind != QUALITY]


@dataclass(slots=True, eq=False)
class Event:
    """A word that says something of the parts around it, such as *normal* or *covered*."""

    word: Word
    kind: str
    n_parts: int  # before it
    negated: bool


@dataclass(slots=True, eq=False)
class Clause:
    """One clause, and the parts of the face that were spoken of before it."""

    words: list[Word]
    context: list[Part]  # named by a heading
    previous: list[Part]  # named by the clause before it
    parts: list[Part] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ends_negated: bool = False  # "epicanthus: no"
    heading: list[Part] | None = None  # parts before a colon, if they are parts of the face only
    has_colon: bool = False

    def noun_phrases(self, n_parts: int) -> list[Part]:
        """The parts that a word speaks of which stands behind the first n_parts: the last, and those listed with it."""
        phrases: list[Part] = []
        for part in reversed(self.parts[:n_parts]):
            if part.is_predicate and not part.has_site and phrases:
                break
            phrases.append(part)
            if part.joined_by not in LISTED:
                break
        return phrases

    def next_context(self, ended_by: str) -> list[Part]:
        """The parts of the face that later clauses speak of if they name none."""
        if self.has_colon:
            if self.heading:
                of_region = any(word.meaning in REGIONS for part in self.heading for word in part.words)
                return self.heading if of_region else [*self.heading, *self.context][:3]
            first = next((word for word in self.words if word.kind not in (SKIP, DETERMINER, NEGATION)), None)
            return self.context if first is not None and first.meaning in _ASPECT_MEANINGS else []
        is_heading = self.parts and all(part.only_site for part in self.parts) and not self.events
        if is_heading and ended_by in "-–—\n" and all(word.kind not in (VERB, NEGATION) for word in self.words):
            return list(self.parts)
        return self.context

    def next_previous(self) -> list[Part]:
        """The parts of the face that "they" means in the next clause: the subject first, then the last named."""
        named = [part for part in self.parts if part.has_site]
        return [*named[:1], *named[:0:-1]][:3] or self.previous


def split(words: list[Word], context: list[Part], previous: list[Part]) -> Clause:
    """The clause that words make up."""
    splitter = _Splitter(Clause(words, context, previous))
    for word in words:
        splitter.read(word)
    splitter.clause.ends_negated = splitter.state == ABSENT and splitter.joined_by == NEGATION and splitter.part is None
    return splitter.clause


class _Splitter:
    """Reads a clause word by word."""

    def __init__(self, clause: Clause):
        self.clause = clause
        self.part: Part | None = None  # that the next word may belong to
        self.state = PRESENT
        self.joined_by = "start"
        self.negated_by, self.repeats = "", False  # repeats: no ptosis, no cataract
        self.subjects: list[Part] = []
        self.is_predicate = self.is_indefinite = self.linked = self.of_body = False

    def read(self, word: Word) -> None:
        kind = JOIN if word.text == "nor" and self.state == ABSENT and self.clause.parts else word.kind
        if kind == ASSESSABLE:  # neither ptosis nor strabismus could be assessed
            ruled_out = word.text.endswith(_RULED_OUT)
            kind = UNSEEN if self.state == ABSENT else NEGATION if ruled_out else VERB
        if kind in (SITE, MODIFIER, QUALITY):
            self.read_name(word)
        elif kind == DETERMINER:
            self.read_determiner(word)
        elif kind == LINK:
            self.linked = True
        elif kind == OTHER:
            self.read_other(word)
        elif kind == JOIN:
            self.read_join(word)
        elif kind == WITH:
            self.state = PRESENT if self.clause.parts else self.state
            self.end_part("with")
        elif kind == VERB:
            self.read_verb(word)
        elif kind == NEGATION:
            self.read_negation(word)
        elif kind not in (SKIP, BREAK):
            self.read_event(word, kind)

    def end_part(self, joined_by: str, is_predicate: bool = False) -> None:
        self.part, self.joined_by, self.is_predicate, self.is_indefinite = None, joined_by, is_predicate, False

    def read_name(self, word: Word) -> None:
        if self.part is not None and word.text in POSITIONS and self.quality_follows(word):
            self.end_part("position")  # a long philtrum above a thin lip
            return
        if self.part is not None and len(self.part.words) == MOST_WORDS:
            self.end_part("other")
        if self.part is None:
            if self.joined_by in ("and", ",") and self.is_indefinite and self.state == ABSENT and self.clause.parts:
                self.state = PRESENT  # no ptosis, and a wide mouth
            elif (
                self.joined_by == ","
                and self.state == ABSENT
                and (self.repeats or self.starts_statement(word) or self.starts_degree(word))
            ):
                self.state = PRESENT
            self.part = Part([], self.joined_by, self.state, self.subjects, self.is_predicate, self.is_indefinite)
            self.part.of_body = self.of_body
            self.clause.parts.append(self.part)
        self.of_body = self.of_body and word.kind != SITE
        word.adjacent = not self.linked
        self.linked = False
        self.part.words.append(word)

    def starts_degree(self, word: Word) -> bool:
        """Whether a degree says that what follows is there: no cataract, mild ptosis; but not: mild ptosis or cleft."""
        words = self.clause.words
        has_degree = word.place > 0 and words[word.place - 1].text in _DEGREES
        return has_degree and all(later.text not in ("or", "nor") for later in words[word.place :])

    def starts_statement(self, word: Word) -> bool:
        """Whether a statement without a verb starts here: nose not broad, chin pointed."""
        if (
            not self.subjects
            or word.kind == QUALITY
            or not (self.negated_by == "not" or self.negated_by.endswith("n't"))
        ):
            return False
        later = [w for w in self.clause.words[word.place + 1 :] if w.kind not in (DETERMINER, SKIP)]
        return next((w.kind for w in later if w.kind not in (SITE, MODIFIER)), "") == QUALITY

    def quality_follows(self, word: Word) -> bool:
        later = self.clause.words[word.place + 1 :]
        return next((w.kind for w in later if w.kind not in (DETERMINER, SKIP)), "") == QUALITY

    def read_determiner(self, word: Word) -> None:
        before = self.clause.words[word.place - 1]
        is_indefinite = word.text in INDEFINITE
        after_name = before.kind in (SITE, QUALITY, OTHER) and before.text not in POSITIONS
        if self.part is not None and (after_name or is_indefinite):
            self.end_part("determiner")
        self.is_indefinite = is_indefinite

    def read_other(self, word: Word) -> None:
        self.of_body = self.of_body or word.text in BODY
        following = self.clause.words[word.place + 1 : word.place + 2]
        is_adjective = bool(following) and following[0].kind in (SITE, QUALITY, MODIFIER)
        if is_adjective and (self.part is None or not self.part.has_site):
            return
        if self.part is not None:
            self.part.before_other = True
            self.end_part("other")

    def read_join(self, word: Word) -> None:
        if self.part is not None or self.joined_by in ("other", "normal"):
            self.is_predicate = self.is_predicate and self.part is not None
            self.joined_by = word.text
        elif self.joined_by == ",":
            self.joined_by = word.text  # ", and"
        self.part, self.is_indefinite = None, False
        if word.text == ")":
            self.state, self.is_predicate = PRESENT, False

    def read_verb(self, word: Word) -> None:
        self.find_subjects()
        part = self.part
        before = self.clause.words[word.place - 1].text if word.place else ""
        if part is None and self.joined_by == "," and (before in _PRONOUNS or word.text in _PRONOUN_VERBS):
            self.state = PRESENT  # not long, it is short
        if part is not None and part.joined_by in ("and", ",", "event") and self.state == ABSENT and part.only_site:
            part.state = self.state = PRESENT  # no ptosis, the nose is short: a new clause
        if before in _PRONOUNS and self.clause.parts and self.negated_by in _CONTRASTS:
            self.state = PRESENT  # instead of a long nose she has a short one
        if word.text == ":" or _announces_absent(self.clause.words[: word.place]):
            self.read_colon(word)
        elif self.joined_by != NEGATION or part is not None:
            self.joined_by = "verb"
        self.part, self.is_indefinite = None, False

    def read_colon(self, colon: Word) -> None:
        parts = self.clause.parts
        before = [word for word in self.clause.words[: colon.place] if word.kind not in (SKIP, DETERMINER)]
        if not parts and before and before[0].kind == OTHER and before[0].meaning not in _ASPECT_MEANINGS:
            self.clause.context, self.clause.previous = [], []  # neck: short
        is_heading = 0 < len(parts) <= 3 and all(part.only_site for part in parts)
        self.clause.has_colon, self.clause.heading = True, list(parts) if is_heading else None
        self.subjects = self.clause.heading or self.subjects or parts[-1:]
        self.state = ABSENT if _announces_absent(self.clause.words[: colon.place]) else PRESENT
        self.joined_by, self.is_predicate = "verb", not is_heading

    def read_negation(self, word: Word) -> None:
        self.find_subjects()
        if word.text.endswith(_RULED_OUT):  # ptosis was excluded
            self.clause.events.append(Event(word, SEEN, len(self.clause.parts), True))
            self.state = PRESENT
        else:
            twice = self.state == ABSENT and self.joined_by == NEGATION and self.part is None  # not without
            self.state = PRESENT if twice else ABSENT
        self.repeats = word.text == self.negated_by == "no" and self.joined_by in LISTED
        self.part, self.joined_by, self.is_indefinite, self.negated_by = None, NEGATION, False, word.text

    def find_subjects(self) -> None:
        if self.part is None and self.is_predicate:
            return
        self.subjects, self.is_predicate = [], False
        if self.part is None or not self.part.has_site:
            return
        for part in reversed(self.clause.parts):
            if self.subjects and part.has_quality:
                break
            if not part.has_site:
                part = Part([*part.words, *self.subjects[-1].heads], part.joined_by, part.state)  # upper and lower lip
            self.subjects.append(part)
            if part.joined_by not in LISTED or part.has_quality:
                break
        self.is_predicate = True

    def has_own_predicate(self, seen: Word) -> bool:
        """Whether the last of a negated list is said to be seen: no ptosis, hypertelorism noted.

        Not so: no ptosis or hypertelorism noted; no ptosis, hypertelorism could be seen."""
        if self.joined_by == NEGATION or not self.clause.parts:
            return False
        last = self.clause.parts[-1]
        between = self.clause.words[last.words[-1].place + 1 : seen.place]
        is_listed = len(self.clause.parts) > 1 and last.joined_by in (",", "event") and last.state == ABSENT
        return is_listed and last.has_quality and all(word.text not in _MODAL for word in between)

    def read_event(self, word: Word, kind: str) -> None:
        later = self.clause.words[word.place + 1 : word.place + 5]
        if kind == UNSEEN and any(w.meaning == "skin" for w in later):
            self.find_subjects()  # covered by a fold of skin: not hidden
            self.end_part("verb", is_predicate=True)
            return
        if kind == SEEN and self.state == ABSENT and self.has_own_predicate(word):
            self.clause.parts[-1].state = self.state = PRESENT  # no ptosis, hypertelorism noted
        self.clause.events.append(Event(word, kind, len(self.clause.parts), self.state == ABSENT))
        if kind == SEEN and self.joined_by == NEGATION and self.clause.parts and self.clause.parts[-1].state == PRESENT:
            self.state = PRESENT  # ptosis not seen, low-set ears
        if kind == NOT_SHOWN:
            self.find_subjects()
            self.state = ABSENT
            self.end_part(NEGATION)
        else:
            self.part, self.joined_by, self.is_indefinite = None, "normal" if kind == NORMAL else "event", False


def _announces_absent(words: list[Word]) -> bool:
    """Whether words before a colon announce a list of absent terms: "Absent:", "Not present:"."""
    said = {word.text for word in words if word.kind not in (SKIP, DETERMINER)}
    negative = ABSENT_WORDS | {"not", "negative", "no", "none"}
    allowed = negative | {"present", "seen", "observed", "noted", "found", "findings", "of", "following", "were", "are"}
    return not said.isdisjoint(negative) and said <= allowed
