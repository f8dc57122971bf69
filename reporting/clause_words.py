"""The words of a report and what each does in its clause: names a part of the face, negates, ends the clause."""

import re
from dataclasses import dataclass
from functools import lru_cache

from phenotyping import face_words, wording_index

# What a word is: a part of the face (nose), a word that says which part of it (upper), a quality (short), another word,
# a word that says nothing, a determiner, a preposition.
SITE, MODIFIER, QUALITY, OTHER = "site", "modifier", "quality", "other"
SKIP, DETERMINER, LINK = "skip", "determiner", "link"
# What it does: joins (and), "with", verb, negation, end of the clause.
JOIN, WITH, VERB, NEGATION, BREAK = "join", "with", "verb", "negation", "break"
# What it says of the words around it: normal; seen (no ptosis is seen); not to be seen (covered); hides what follows
# (hair covers the ears); neither present nor absent (cannot be excluded); not in the picture (does not show the ears).
NORMAL, SEEN, UNSEEN = "normal", "seen", "unseen"
HIDES, UNSURE, NOT_SHOWN = "hides", "unsure", "not_shown"

ABSENT_WORDS = frozenset(["absent", "absence", "missing", "lack", "lacking", "lacks"])  # qualities that may negate
POSITIONS = frozenset(["above", "over", "under", "below", "beneath", "behind"])
INDEFINITE = frozenset(("a", "an", "there"))
_KINDS = {
    DETERMINER: "a an there the his her hers their its this these both",
    JOIN: ", ) / & + and or plus",
    WITH: "with",
    VERB: "is are was were be been being am has have had having show shows showing showed display displays displaying "
    "demonstrate demonstrates demonstrating exhibit exhibits exhibiting present-with presents presenting reveals appear "
    "appears appeared look looks seem seems that which who whose do does did can could may might will would should get "
    "gets = ( :",
    NEGATION: "no not nor without neither never deny denies denied negative none cannot can't isn't aren't doesn't don't "
    "wasn't weren't hasn't haven't didn't won't non",
    BREAK: ". ; ! ? but however although though whereas while yet except nevertheless despite because since",
    NORMAL: "normal normally unremarkable typical typically proportionate ordinary",
    SEEN: "present seen noted observed evident identified appreciated detected found recorded documented appreciable "
    "visible discernible noticed demonstrated yes recognized recognised",
    UNSEEN: "covered hidden obscured occluded concealed cropped masked blurred unassessable indeterminable obstructed "
    "unseen unclear blocked invisible",
    HIDES: "cover covers covering hide hides hiding obscure obscures obscuring occludes occluding conceal conceals "
    "concealing blocks masks masking",
}
_FRAMES = ["frame", "picture", "image", "photo", "photograph", "shot", "view", "crop"]
_NO_ABNORMALITY = [
    f"{no} {what}"
    for no in ("no", "no significant", "no obvious", "no apparent", "without", "no structural", "no particular")
    for what in (
        "abnormality",
        "abnormalities",
        "anomaly",
        "anomalies",
        "dysmorphic features",
        "dysmorphism",
        "abnormal",
    )
]
_PHRASES = {
    SKIP: ["otherwise", "not only", "no doubt", "not just", "not to mention", "no change in", "not unlike", "there is"]
    + ["there are", "there was", "there were", "there's"],
    NEGATION: ["rather than", "instead of", "free of", "free from", "negative for", "no evidence of", "no sign of"]
    + ["no signs of", "fails to show", "as opposed to", "devoid of", "other than", "ruled out", "excluded"],
    UNSURE: [
        f"{not_} {out}"
        for not_ in ("cannot be", "can not be", "could not be", "can't be", "not", "cannot be entirely", "couldn't be")
        for out in ("excluded", "ruled out")
    ],
    NORMAL: [
        "within normal limits",
        "nothing abnormal",
        "nothing unusual",
        "nothing remarkable",
        "no abnormal findings",
    ]
    + ["well formed", "not remarkable", "not dysmorphic", "age appropriate", *_NO_ABNORMALITY],
    UNSEEN: ["not visible", "not assessable", "not evaluable", "cut off", "not shown", "not included", "not captured"]
    + ["off camera", "not depicted", "not seen well", "not in view", "out of view"]
    + [
        f"not {how} {seen}"
        for how in ("well", "clearly", "fully", "adequately")
        for seen in ("seen", "visible", "shown")
    ]
    + [f"not well {seen}" for seen in ("visualized", "visualised", "appreciated")]
    + [
        f"{out} {the}{frame}"
        for out in ("out of", "outside", "outside of", "beyond", "not in", "not within", "off", "cropped out of")
        for the in ("", "the ", "this ")
        for frame in _FRAMES
    ]
    + [
        f"{cannot} {how}{seen}"
        for cannot in ("cannot be", "can not be", "could not be", "can't be", "couldn't be", "not possible to be")
        for how in ("", "fully ", "reliably ", "adequately ", "clearly ", "properly ", "well ")
        for seen in ("seen", "assessed", "evaluated", "determined", "judged", "visualized", "visualised", "examined")
        + ("appreciated", "commented on", "identified", "established")
    ],
    HIDES: ["cannot comment on", "can't comment on", "unable to comment on"]
    + [
        f"{hard} to {see}"
        for hard in ("unable", "difficult", "hard", "impossible", "not possible")
        for see in ("assess", "evaluate", "see", "judge", "tell", "determine", "visualize", "examine")
    ]
    + [
        f"{cannot} {see}"
        for cannot in ("cannot", "can not", "could not", "can't", "couldn't")
        for see in ("see", "assess", "evaluate", "determine", "judge")
    ],
    NOT_SHOWN: ["does not show", "do not show", "doesn't show", "did not show", "does not include", "doesn't include"],
    BREAK: ["apart from", "except for"],
    JOIN: ["as well as", "along with", "together with", "in addition to"],
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()} | {"\n": BREAK}
_BY_FIRST_WORD: dict[str, list[tuple[tuple[str, ...], str]]] = {}
for _kind, _all in _PHRASES.items():
    for _phrase in _all:
        _BY_FIRST_WORD.setdefault(_phrase.split()[0], []).append((tuple(_phrase.split()), _kind))
for _entries in _BY_FIRST_WORD.values():
    _entries.sort(key=lambda entry: -len(entry[0]))  # the longest phrase wins
_PIECES = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?|\n|[^\w\s]")


@dataclass(slots=True, eq=False)
class Word:
    """One word of a text. A compound such as downslanting is several words with the same offsets."""

    kind: str
    stem: str
    meaning: str
    start: int
    end: int
    text: str  # lower case; of a phrase's first word the whole phrase
    adjacent: bool = True  # no preposition between this word and the one before it
    place: int = 0  # in its clause
    in_long_wording: bool = False


def words_of(text: str) -> list[Word]:
    """All words of a text with their kinds."""
    pieces = [(match.group().lower().replace("’", "'"), *match.span()) for match in _PIECES.finditer(text)]
    words: list[Word] = []
    i = 0
    while i < len(pieces):
        piece, start, end = pieces[i]
        phrase, kind = _phrase_at(pieces, i) if piece in _BY_FIRST_WORD else ((), "")
        if phrase:
            for k, (part, first, last) in enumerate(pieces[i : i + len(phrase)]):
                stem, meaning = face_words.tokens(part)[0]
                words.append(Word(SKIP if k else kind, stem, meaning, first, last, part if k else " ".join(phrase)))
            i += len(phrase)
            continue
        if piece[0].isalnum():
            _append_readings(words, piece, start, end)
        elif (kind := _punctuation_kind(text, piece, start, end)) is not None:
            words.append(Word(kind, "", "", start, end, piece))
        i += 1
    _link_between(words)
    return words


def _phrase_at(pieces: list[tuple[str, int, int]], i: int) -> tuple[tuple[str, ...], str]:
    for phrase, kind in _BY_FIRST_WORD[pieces[i][0]]:
        if all(piece[0] == word for piece, word in zip(pieces[i : i + len(phrase)], phrase, strict=False)):
            if i + len(phrase) <= len(pieces):
                return phrase, kind
    return (), ""


def _append_readings(words: list[Word], piece: str, start: int, end: int) -> None:
    for kind, stem, meaning in _readings(piece):
        if kind in (SITE, MODIFIER, QUALITY) and words and words[-1].end >= start - 1:
            whole = face_words.joined_stem(words[-1].stem, stem)
            if whole:  # eye brow
                start = words.pop().start
                stem, meaning = whole
                kind = _token_kind(meaning)
        words.append(Word(kind, stem, meaning, start, end, piece))


@lru_cache(100_000)
def _readings(word: str) -> tuple[tuple[str, str, str], ...]:
    """(kind, stem, meaning) of each token of a lower-case word."""
    tokens = face_words.tokens(word)
    kind = _KIND_OF.get(word) or (SKIP if word in face_words.IGNORED else LINK if word in face_words.LINKS else "")
    if kind:
        return ((kind, *tokens[0]),)
    return tuple((_token_kind(meaning), stem, meaning) for stem, meaning in tokens)


def _token_kind(meaning: str) -> str:
    if meaning in face_words.head_stems():
        return SITE
    if meaning in face_words.modifier_stems():
        return MODIFIER
    return QUALITY if meaning in wording_index.index().vocabulary else OTHER


def _punctuation_kind(text: str, mark: str, start: int, end: int) -> str | None:
    """The kind of a mark or of a line's end, or None if it says nothing."""
    if mark == "\n":
        before, after = text[max(0, start - 40) : start].rstrip(" ")[-1:], text[end : end + 1]
        wraps = before == "," or (before.isalnum() and after.islower())
        return None if wraps else BREAK
    if mark == "," and text[max(0, start - 10) : start].rstrip()[-1:] in ('"', "'", "}", "]"):
        return BREAK  # the next entry of a JSON answer
    if mark == "—" or (mark in "-–" and text[start - 1 : start].isspace() and text[end : end + 1].isspace()):
        return BREAK
    return _KIND_OF.get(mark)


def _link_between(words: list[Word]) -> None:
    """Makes the "and" of "between the nose and the lip" a preposition."""
    for i, word in enumerate(words):
        if word.text == "between":
            for later in words[i + 1 : i + 6]:
                if later.kind in (BREAK, VERB, WITH):
                    break
                if later.text == "and":
                    later.kind, later.meaning = LINK, ""
                    break
