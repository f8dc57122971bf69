"""The words of a report and what each does in its clause: names a part of the face, negates, ends the clause."""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

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
ASSESSABLE = "assessable"  # could be assessed: after a negation not to be seen, else a verb

ABSENT_WORDS = frozenset(["absent", "absence", "missing", "lack", "lacking", "lacks"])  # qualities that may negate
POSITIONS = frozenset(["above", "over", "under", "below", "beneath", "behind"])
NAMED = (SITE, MODIFIER, QUALITY)
INDEFINITE = frozenset(("a", "an", "there"))
_KINDS = {
    DETERMINER: "a an there the his her hers their its this these both",
    JOIN: ", ) / & + and or plus",
    WITH: "with",
    VERB: "is are was were be been being am has have had having show shows showing showed display displays displaying "
    "demonstrate demonstrates demonstrating exhibit exhibits exhibiting presents presenting reveals appear "
    "appears appeared look looks seem seems that which who whose do does did can could may might will would should get "
    "gets include includes included including comprise comprises comprised comprising it's they're he's she's = ( :",
    NEGATION: "no not nor without neither never deny denies denied negative none cannot can't isn't aren't doesn't "
    "don't wasn't weren't hasn't haven't didn't won't non nil nothing",
    BREAK: ". ; ! ? but however although though whereas while yet except nevertheless despite because since",
    NORMAL: "normal normally unremarkable typical typically proportionate ordinary",
    SEEN: "present seen noted observed evident identified appreciated detected found recorded documented appreciable "
    "visible discernible noticed demonstrated yes recognized recognised",
    UNSEEN: "covered hidden obscured occluded concealed cropped masked blurred unassessable indeterminable obstructed "
    "unseen unclear blocked invisible indeterminate undetermined unassessed unevaluated untested unevaluable "
    "undeterminable unknown",
    HIDES: "cover covers covering hide hides hiding obscure obscures obscuring occludes occluding conceal conceals "
    "concealing blocks masks masking",
}
_TO_ASSESS = (
    "assess|evaluate|judge|tell|determine|visualize|visualise|examine|say|know|decide|confirm|comment on|verify|"
    "exclude|"
    "rule out|make out|appreciate|ascertain|be sure|be certain|be sure of|be certain of"
)
_ADVERBS = (
    "|fully|reliably|adequately|clearly|properly|well|accurately|completely|confidently|definitely|definitively|safely"
)
_CANNOT = ("cannot", "can not", "could not", "can't", "couldn't")
# Parts of the body outside the face, and things on it: what is said of them is said of nothing here.
_BODY = (
    "neck necks chest hand hands finger fingers foot feet toe toes arm arms leg legs thumb thumbs nipple nipples palm "
    "palms trunk abdomen shoulder shoulders stature limb limbs nail nails voice glasses scar scars beard moustache"
)
BODY = frozenset(_BODY.split())
_PHRASES = {
    SKIP: "otherwise|not only|no doubt|not just|not to mention|no change in|not unlike|there is|there are|there was|"
    "there were",
    NEGATION: "rather than|instead of|nothing to suggest|no longer|free of|free from|"
    "negative for|neg for|- ve for|− ve for|- ve|− ve|w / o|no evidence of|no sign of|no signs of|"
    "as opposed to|devoid of|ruled out|excluded",
    NORMAL: "within normal limits|nothing abnormal|nothing unusual|nothing remarkable|no abnormal findings|well formed|"
    "not remarkable|not dysmorphic|age appropriate",
    UNSEEN: "not visible|not assessable|not evaluable|cut off|not shown|not included|not captured|off camera|"
    "not depicted|not seen well|not in view|out of view|not well visualized|not well visualised|not well appreciated|"
    "n / a|not applicable|not determinable|not ascertainable|not looked for|not sought|not possible to tell|not known",
    HIDES: "unclear if|unclear whether|uncertain if|uncertain whether|unknown whether|not sure if|not sure whether|"
    "nothing can be said about|nothing can be said of|nothing is known about|nothing is known of|"
    "r / o|rule out|to rule out|not rule out|"
    "neither the presence nor the absence of|neither presence nor absence of|not certain if|not certain whether|"
    "not clear if|not clear whether|no comment can be made on|no comment on|"
    "no statement can be made about|no statement can be made on",
    NOT_SHOWN: "does not show|do not show|doesn't show|did not show|does not include|doesn't include",
    BREAK: "apart from|except for|with the exception of|aside from|other than|unlike the|relative to|compared to|"
    "compared with|in comparison with|"
    "in relation to|in proportion to",
    WITH: "positive for|pos for|+ ve for|+ ve",
    JOIN: "as well as|along with|together with|in addition to",
}


def _expanded(*choices: str) -> list[str]:
    """Every phrase with one choice of each list; choices: lists separated by |, empty ones are left out."""
    return [" ".join(filter(None, words)) for words in product(*(choice.split("|") for choice in choices))]


_EXPANDED_PHRASES = {
    ASSESSABLE: _expanded("can|could", "be", "assessed|evaluated|judged|determined|examined|told|excluded|ruled out"),
    NEGATION: _expanded("fails to|failed to", "show|reveal|demonstrate|detect|identify|find|disclose"),
    NORMAL: _expanded(
        "no|without",
        "|significant|obvious|apparent|structural|particular",
        "abnormality|abnormalities|anomaly|anomalies|dysmorphic features|dysmorphism|abnormal",
    ),
    UNSURE: _expanded("neither be|neither", "confirmed|ruled in|excluded", "nor", "excluded|ruled out|confirmed")
    + _expanded("|".join(_CANNOT), "be confirmed or|be confirmed nor", "excluded|ruled out|refuted")
    + _expanded("|".join(_CANNOT), "be excluded or|be excluded nor", "confirmed")
    + _expanded("not|not entirely|" + "|".join(f"{cannot} be" for cannot in _CANNOT), _ADVERBS, "excluded|ruled out"),
    UNSEEN: [
        *_expanded("would not be|may not be|might not be", "visible|seen|assessable|apparent|detectable"),
        *_expanded("not", "well|clearly|fully|adequately", "seen|visible|shown"),
        *_expanded(
            "out of|outside|outside of|beyond|not in|not within|off|cropped out of",
            "|the|this",
            "frame|picture|image|photo|photograph|shot|view|crop",
        ),
        *_expanded(
            "|".join(_CANNOT),
            "be",
            _ADVERBS,
            "seen|assessed|evaluated|determined|judged|visualized|visualised|examined|appreciated|commented on|"
            "commented upon|looked for|distinguished|discerned|confirmed|identified|established|told|gauged|"
            "verified|ascertained|"
            "inspected|"
            "tested|inferred|made out",
        ),
        *_expanded(
            "not|never", "|formally|fully|reliably", "assessed|evaluated|examined|judged|determined|tested|inspected"
        ),
    ],
    HIDES: [
        *_expanded(
            "unable to|difficult to|hard to|impossible to|not possible to|tricky to|challenging to|not able to",
            _TO_ASSESS,
            "|if|whether",
        ),
        *_expanded("|".join(_CANNOT), _TO_ASSESS, "|if|whether"),
        *_expanded(
            "no", "information|data|details|detail|statement|comment|conclusion", "on|about|regarding|concerning"
        ),
        *_expanded("did not|didn't|do not|does not", "assess|evaluate|examine|judge|inspect|comment on"),
        *_expanded("does not|do not|did not|doesn't|don't|will not", "permit|allow|let"),
    ],
    NOT_SHOWN: _expanded("|".join(_CANNOT), "see"),
}
# "Assessment of ptosis is limited", "the light prevents evaluation of ptosis", "not enough detail to judge ptosis".
_CLUES = {
    "assessment": "whether assessment evaluation examination visualization visualisation judgement judgment "
    "judging assessing evaluating determining",
    "limited": "limited impossible precluded prevented hampered difficult restricted hindered impeded deferred "
    "pending postponed omitted refused incomplete uncertain possible done performed",
    "limits": "limits limiting precludes precluding prevents preventing hampers hinders impedes no",
    "too little": "insufficient inadequate too enough poor sufficient required needed necessary",
    "comparative": "smaller larger bigger wider broader narrower shorter longer thicker thinner higher flatter fuller",
    "one side": "left right other opposite",
    "state": "absent present no nil none yes negative positive normal not unremarkable",
}
_ASSESSMENTS, _LIMITED, _LIMITS, _TOO_LITTLE, _COMPARATIVES, _ONE_SIDE, _STATE_WORDS = (
    frozenset(clue.split()) for clue in _CLUES.values()
)
_DONE = ("possible", "done", "performed")
_ANSWERS = _COMPARATIVES | frozenset([",", "-", "–", "—", "nil", "none", "absent", "wide", "than"])
_INFINITIVES = frozenset(verb.split()[0] for verb in _TO_ASSESS.split("|")) - {"be"}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()} | {"\n": BREAK}
_BY_FIRST_WORD: dict[str, list[tuple[tuple[str, ...], str]]] = {}
for _kind in (*_PHRASES, UNSURE, ASSESSABLE):
    for _phrase in (*_PHRASES.get(_kind, "").split("|"), *_EXPANDED_PHRASES.get(_kind, ())):
        if _phrase:
            _BY_FIRST_WORD.setdefault(_phrase.split()[0], []).append((tuple(_phrase.split()), _kind))
for _entries in _BY_FIRST_WORD.values():
    _entries.sort(key=lambda entry: -len(entry[0]))  # the longest phrase wins
_MINUS = ("-", "–", "−")
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
        if piece in _MINUS and _is_answer(words, text, start, pieces[i + 1 : i + 3]):
            end = pieces[i + 1][2] if pieces[i + 1 : i + 2] and pieces[i + 1][0] == "ve" else end
            words.append(Word(QUALITY, "", "", start, end, "absent"))  # ptosis: -, ptosis -ve; no word of absent ears
            i += 1 + (end > pieces[i][2])
            continue
        phrase, kind = _phrase_at(pieces, i) if piece in _BY_FIRST_WORD else ((), "")
        if phrase:
            if phrase == ("+", "ve") and _ends_with_finding(words):
                kind = SEEN  # ptosis +ve; but: +ve ptosis
            for k, (part, first, last) in enumerate(pieces[i : i + len(phrase)]):
                stem, meaning = face_words.tokens(part)[0]
                words.append(Word(SKIP if k else kind, stem, meaning, first, last, part if k else " ".join(phrase)))
            i += len(phrase)
            continue
        if piece == "(" and i + 2 < len(pieces) and pieces[i + 1][0] in _MINUS:
            last = i + 2 + (pieces[i + 2][0] == "ve")
            if last < len(pieces) and pieces[last][0] == ")":
                words.append(Word(QUALITY, "", "", start, pieces[last][2], "absent"))  # ptosis (-), ptosis (-ve)
                words.append(Word(JOIN, "", "", pieces[last][1], pieces[last][2], ")"))
                i = last + 1
                continue
        if piece[0].isalnum():
            _append_readings(words, piece, start, end)
        elif (kind := _punctuation_kind(text, piece, start, end)) is not None:
            words.append(Word(kind, "", "", start, end, piece))
        i += 1
    _link_between(words)
    _mark_assessments(words)
    _mark_answers(words)
    return words


def _phrase_at(pieces: list[tuple[str, int, int]], i: int) -> tuple[tuple[str, ...], str]:
    second = pieces[i + 1][0] if i + 1 < len(pieces) else ""
    for phrase, kind in _BY_FIRST_WORD[pieces[i][0]]:
        if len(phrase) > 1 and phrase[1] != second:
            continue
        if tuple([piece[0] for piece in pieces[i : i + len(phrase)]]) == phrase:
            return phrase, kind
    return (), ""


def _is_answer(words: list[Word], text: str, start: int, following: list[tuple[str, int, int]]) -> bool:
    """Whether a minus sign says that the finding before it is absent, and begins no heading's text: "Eyes -"."""
    if following and following[0][0] not in ("ve", ",", ";", ".", "\n", ")"):
        return False
    if [piece[0] for piece in following] == ["ve", "for"]:
        return False
    if not (text[start - 1 : start].isspace() or text[start - 1 : start] == ":"):
        return False
    return _ends_with_finding(words)


def _ends_with_finding(words: list[Word]) -> bool:
    """Whether the last words, back to one that joins, name a quality and no negation: low-set ears."""
    names_finding = False
    for word in words[:-7:-1]:
        if word.kind == NEGATION:
            return False
        if word.kind in (BREAK, JOIN, WITH, VERB) and word.text not in (":", "("):
            break
        names_finding = names_finding or word.kind == QUALITY
    return names_finding


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
    if word in BODY:
        return ((OTHER, *tokens[0]),)
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


def _mark_assessments(words: list[Word]) -> None:
    """Makes words that say that something could not be assessed words of that kind (UNSEEN, HIDES)."""
    for i, word in enumerate(words):
        if word.text in _ASSESSMENTS:
            first = i - 1  # the word before "a reliable assessment"
            while (
                first > max(0, i - 4)
                and words[first].kind in (OTHER, SKIP, DETERMINER)
                and words[first].text not in _LIMITS
            ):
                first -= 1
            if i and words[first].text in _LIMITS:
                words[first].kind, words[first].text = HIDES, f"{words[first].text} {word.text}"
                continue
            for k, later in enumerate(words[i + 1 : i + 16], i + 1):
                if later.kind == BREAK:
                    break
                said_of = words[k - 1].kind
                if later.text in ("requires", "require", "needs"):
                    later.kind = UNSEEN  # judging ptosis requires a second picture
                elif later.text in _LIMITED and said_of in ((NEGATION,) if later.text in _DONE else (VERB, SKIP)):
                    words[k - 1].kind, later.kind = VERB, UNSEEN
        elif word.text in _INFINITIVES and i and words[i - 1].text == "to":
            before = {w.text for w in words[max(0, i - 7) : i - 1]}
            if not _TOO_LITTLE.isdisjoint(before):
                word.kind, word.text = HIDES, f"to {word.text}"  # not enough detail to judge ptosis


def _separates_answers(before: list[Word], after: list[Word]) -> bool:
    """Whether a comma behind a colon and one word stands between two answers: ptosis: absent, epicanthus: present."""
    if before[-1].kind not in (NEGATION, SEEN, UNSEEN, NORMAL) and before[-1].text not in ABSENT_WORDS:
        return False
    following = next((word.text for word in after if word.text == ":" or word.kind in (BREAK, JOIN)), "")
    return following in (":", "-", "–", "—")


def _mark_answers(words: list[Word]) -> None:
    """Ptosis - absent, as ptosis: absent; ptosis nil, as ptosis absent; no finding other than ptosis.

    One side smaller than the other is not small."""
    for i, word in enumerate(words):
        if word.text not in _ANSWERS or (word.text == "," and (i < 2 or words[i - 2].text != ":")):
            continue
        following = words[i + 1] if i + 1 < len(words) else None
        ends = following is None or following.kind in (BREAK, JOIN)
        before = words[max(0, i - 6) : i]
        if word.kind == BREAK and word.text in ("-", "–", "—") and following and following.text in _STATE_WORDS:
            word.kind, word.text = VERB, ":"
        elif word.text in ("nil", "none") and ends and i and before[-1].kind in (SITE, MODIFIER, QUALITY):
            word.kind, word.stem, word.meaning, word.text = QUALITY, "absent", "absent", "absent"
        elif word.text == "absent" and ends and i > 1 and before[-1].text == ":" and before[-2].kind in NAMED:
            if any(w.kind == QUALITY for w in before):  # sparse hair: absent; but not: hair: absent
                word.kind, word.text = NEGATION, "no"
        elif word.text == "absent" and ends and i and before[-1].kind == SITE and _ends_with_finding(before):
            word.stem = word.meaning = ""  # low-set ears absent: not absent ears
        elif word.text == "," and _separates_answers(before, words[i + 1 : i + 8]):
            word.kind = BREAK
        elif word.text == "wide" and following and following.text == "open":
            word.kind = SKIP  # a wide-open mouth is not wide
        elif word.text == "than" and any(w.text == "other" for w in before[-4:]):
            word.kind = BREAK
        elif word.text in _COMPARATIVES:
            compared = {w.text for w in words[i + 1 : i + 4]}
            of_side = not _ONE_SIDE.isdisjoint(w.text for w in before)
            if not compared.isdisjoint(_ONE_SIDE) if "than" in compared else of_side:
                word.kind = OTHER
