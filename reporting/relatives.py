"""Where a text speaks of the child's relatives: what they have is no finding of the child.

A relative is spoken of as the subject ("her mother has", "a sister with", "Father:"), with *in* ("ptosis in his
father"), as an owner ("the nose of the father") or by "family history", until the sentence ends or the child is named.
Somebody who says something ("his mother reports"), or with whom the child is compared ("like his father"), is not.
What is said of a disease in general ("Kabuki syndrome is characterised by") is no finding either."""

from reporting.clause_words import BREAK, JOIN, VERB, Word

_WORDS = {
    "she": "mother mom mum mommy mummy sister aunt grandmother grandma niece wife",
    "he": "father dad daddy brother uncle grandfather grandpa nephew husband",
    "": "parent sibling cousin grandparent twin",
    "general": "characterized characterised typically usually defined",
    "child": "patient proband child boy girl infant baby toddler newborn neonate teenager adolescent son daughter "
    "himself herself individual index case",
    "saying": "say says said report reports reported note notes noted notice notices noticed describe describes "
    "described think thinks thought feel feels felt observed deny denies denied state states stated mention mentions "
    "mentioned recall recalls recalled tell tells told believe believes believed worry worries worried concerned "
    "complain complains complained ask asks asked consented gave brought wonders remembers remembered holds holding",
    "compared": "like unlike than as resemble resembles resembling from by to per for with versus vs between after",
}
# Name of a relative -> the pronoun that stands for it, or "" if either may.
_GENDER = {name: pronoun for pronoun in ("she", "he", "") for name in _WORDS[pronoun].split()}
_GENDER |= {f"{name}s": "" for name in (*_GENDER, "relative")}  # not: relative macrocephaly
_DISEASE_WORDS = frozenset(("syndrome", "disease", "disorder"))
_GENERAL = frozenset(
    ("characterized", "characterised", "typically", "usually", "defined")
)  # of a disease, not of the child
_FORMS = frozenset(form for name in (*_GENDER, "family") for form in (name, f"{name}'s", f"{name}s'")) | _GENERAL
_CHILD, _SAYING, _COMPARED = (frozenset(_WORDS[kind].split()) for kind in ("child", "saying", "compared"))
_CHILD_GENDER = {"boy": "he", "son": "he", "male": "he", "girl": "she", "daughter": "she", "female": "she"}
_ALSO = frozenset(("also", "too", "as", "like", "both"))
_HAS = ("has", "have", "had", "got", "inherited")
_CHILD_SUBJECTS = _CHILD | {"he", "she"}
_HISTORY = ("history", "hx", "members", "member")
_LONGEST_REACH = 60  # words, so that time grows with the length of the text
_SIDES = ("family", "side")


def _stem(word: Word) -> str:
    return word.text.removesuffix("'s").removesuffix("s'")


def spans(words: list[Word]) -> list[tuple[int, int]]:
    """(start, end) of the passages about relatives, in characters, in the order of the text. words: the whole text."""
    return _Reader(words).passages()


class _Reader:
    """Reads a text word by word and knows whether it speaks of the child."""

    def __init__(self, words: list[Word]):
        self.words = words
        self.found: list[tuple[int, int]] = []
        self.start: int | None = None  # of the passage about a relative, if in one
        self.gender = self.child_gender = ""  # "he", "she" or unknown
        self.whole_line = False  # "Mother:", "Family history:"
        self.clause_start = self.sentence_start = 0  # places of words

    def passages(self) -> list[tuple[int, int]]:
        if _FORMS.isdisjoint([word.text for word in self.words]):
            return []
        for i, word in enumerate(self.words):
            if word.kind == BREAK:
                self.read_break(i)
            elif _stem(word) in _GENDER or (word.text == "family" and self.is_family(i)):
                self.read_relative(i)
            elif word.text in _GENERAL and self.start is None and not _DISEASE_WORDS.isdisjoint(self.near(i, -3)):
                self.start = word.start
            elif self.start is not None and self.names_child(i):
                self.return_to_child(i)
            elif word.text in ("who", "whose") and self.start is None and self.follows_relative(i):
                self.start = word.start
            self.child_gender = _CHILD_GENDER.get(word.text, self.child_gender)
            if word.text in (",", "and", ";"):
                self.clause_start = i + 1
        self.return_to_child(len(self.words))
        return self.found

    def is_family(self, i: int) -> bool:
        before, after = self.near(i, -3), self.near(i, 2)
        return any(word in _HISTORY for word in after) or "in" in before or "within" in before

    def near(self, i: int, n: int) -> list[str]:
        """Texts of the n words after a place, or before it if n is negative."""
        return [word.text for word in (self.words[i + 1 : i + 1 + n] if n > 0 else self.words[max(0, i + n) : i])]

    def read_break(self, i: int) -> None:
        text = self.words[i].text
        heading_goes_on = self.whole_line and text != "\n" and ":" not in self.near(i, 4)
        if text in ".!?\n" and not heading_goes_on and not self.pronoun_goes_on(i):
            self.return_to_child(i)
        self.clause_start = i + 1
        if text in ".!?\n":
            self.sentence_start = i + 1

    def pronoun_goes_on(self, i: int) -> bool:
        """Whether the next sentence starts with a pronoun that cannot be the child: his mother ... She."""
        following = self.near(i, 1)
        if self.start is None or following == ["they"]:
            return self.start is not None and self.gender == ""
        return bool(self.child_gender) and following == [self.gender] and self.gender != self.child_gender

    def read_relative(self, i: int) -> None:
        is_owner = self.words[i].text.endswith(("'s", "s'"))
        before = self.near(i, -5)
        self.gender = _GENDER.get(_stem(self.words[i]), "")
        for text in before[-3:]:
            self.child_gender = {"his": "he", "her": "she"}.get(text, self.child_gender)
        preposition = self.preposition_before(i)
        after = self.near(i, 3)
        owned = is_owner and not any(text in _SIDES for text in after[:1])
        if owned and (preposition or any(word.text in _HAS for word in self.words[max(0, i - 2) : i])):
            return  # in his mother's arms; has his father's nose
        if "and" in before[-3:] and not _CHILD_SUBJECTS.isdisjoint(before):
            return  # he and his brother
        if any(text in _SAYING for text in after[:3]) and not is_owner:
            self.return_to_child(i)
            return
        if preposition in ("in", "of", "on", "within") or (self.words[i].text == "family" and "runs" in before):
            self.read_attribute(i, preposition, before)
        elif preposition in _COMPARED:
            if self.start is None and "with" in after[:2] and preposition in ("to", "from"):
                self.start = self.words[i].start  # born to a mother with ptosis
        elif self.start is None:
            self.start = self.words[self.sentence_start].start if self.is_topic(i) else self.words[i].start
            self.whole_line = after[:1] == [":"] or (":" in after and "history" in after)

    def is_topic(self, i: int) -> bool:
        """Whether only words before it in its sentence are determiners and negations: neither parent."""
        return i - self.sentence_start <= 3

    def preposition_before(self, i: int) -> str:
        """The preposition or word of comparison in whose phrase a relative stands, or "": of both healthy parents."""
        for word in reversed(self.words[max(self.sentence_start, i - 5) : i]):
            if word.text in _COMPARED or word.text in ("in", "of", "on", "within", "among"):
                return "in" if word.text == "among" else word.text
            if word.kind in (VERB, BREAK) or (word.kind == JOIN and word.text not in ("and", "or")):
                return ""
            if word.text in _CHILD:
                return ""
        return ""

    def read_attribute(self, i: int, preposition: str, before: list[str]) -> None:
        """Ptosis in the mother; the nose of the father; but not: ptosis, as in his mother; son of healthy parents."""
        if not _ALSO.isdisjoint(before):
            return
        if preposition == "of" and any(text in (*_CHILD, "born", "product", "out") for text in before):
            if "with" in self.near(i, 2):
                self.start = self.words[i].start
            return
        if self.start is None:
            first = self.sentence_start
            if self.is_topic(i):
                self.start = self.words[first].start  # in his brother, ptosis was seen
                return
            if any(self.speaks_of_child(k) for k in range(max(self.sentence_start, i - _LONGEST_REACH), i - 1)):
                first = min(self.clause_start, i)
            self.start = self.words[first].start
            if preposition != "of":  # the nose of the father is broad
                self.return_to_child(i + 1)

    def speaks_of_child(self, i: int) -> bool:
        return self.words[i].text in _CHILD or self.words[i].text in ("he", "she")

    def names_child(self, i: int) -> bool:
        word, before = self.words[i], self.near(i, -3)
        if word.text in ("he", "she"):
            other = bool(self.child_gender) and word.text != self.child_gender
            return not (other and word.text == self.gender)
        if _stem(word) not in _CHILD:
            return False
        if word.text != _stem(word):  # the girl's philtrum; but not: the girl's older brother
            return not any(_stem(later) in _GENDER for later in self.words[i + 1 : i + 4])
        compared = any(text in ("than", "like", "unlike", "as") for text in before)
        of_relative = any(_stem(earlier) in _GENDER for earlier in self.words[max(0, i - 5) : i])
        return not compared and not (of_relative and any(text in ("of", "to", "from", "with") for text in before))

    def follows_relative(self, i: int) -> bool:
        return any(_stem(word) in _GENDER for word in self.words[max(0, i - 2) : i])

    def return_to_child(self, i: int) -> None:
        """Ends the passage before a word."""
        if self.start is not None:
            end = self.words[i - 1].end if i else 0
            if end > self.start:
                self.found.append((self.start, end))
        self.start, self.whole_line = None, False
