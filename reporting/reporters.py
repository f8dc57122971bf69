"""Reporters: whatever looks at a picture and writes a phenotype report, behind one interface.

    for key, answer in reporter.answers([("AAR.1", picture), ...]):    # in any order, as they are finished
        ...
    texts = reporter.write_reports([picture, ...])                     # in the pictures' order

They are vision-language models of the library transformers (image_text_reporter.py), models behind a server
(server_reporter.py), and the rules of landmark_reporter.py. Here is what they share: an answer with its flags, and the
cut of answers that loop.
"""

import abc
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from reporting import report_sections

WHITESPACE = "whitespace"  # at least LOOP_BLANKS blanks and line breaks at the end, which were cut off
REPETITION = "repetition"  # the end repeats itself; all but the first time was cut off
CUT_OFF = "cut_off"  # the answer was as long as it may become, so its end is missing
REFUSED = "refused"  # the server would not answer about this picture
MALFORMED = report_sections.MALFORMED | {REPETITION, CUT_OFF, REFUSED}  # flags of answers that are asked for again

MAX_NEW_TOKENS = 1024  # the paper's
LOOP_BLANKS = 32
# A text ends in a loop if its end consists of this many equal parts, and of this many characters at least.
LOOP_TIMES, LOOP_CHARACTERS = 4, 40
SEARCHED_CHARACTERS = 4000  # of the end; a longer loop is found by its last parts

Picture = tuple[str, np.ndarray]  # a key of the caller's, and the picture (h, w, 3) uint8 RGB


@dataclass(frozen=True)
class Answer:
    """What a reporter wrote about a picture, and how it came about."""

    text: str
    flags: tuple[str, ...] = ()


class Reporter(abc.ABC):
    """Writes reports. name: for column `reporter`; prompt: what it is asked, None if it is not asked in words."""

    name: str
    prompt: str | None = report_sections.PROMPT
    asks_again = True  # whether a malformed answer may be better the second time

    @abc.abstractmethod
    def answers(self, pictures: Iterable[Picture], attempt: int = 0) -> Iterator[tuple[str, Answer]]:
        """One answer for each picture, in any order, with the picture's key; pictures are taken as they are needed.

        attempt: 0, or 1 if the first answer was malformed: then report_sections.RETRY_SUFFIX follows the prompt."""

    def write_reports(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """The reports on pictures (h, w, 3) uint8 RGB of any sizes, in their order."""
        keyed = ((str(row), picture) for row, picture in enumerate(pictures))
        texts = {key: answer.text for key, answer in self.answers(keyed)}
        return [texts[str(row)] for row in range(len(pictures))]

    def close(self) -> None:  # noqa: B027
        """Ends connections, if there are any."""

    def record(self) -> dict:
        """What a run's record and settings say of the reporter, as JSON holds it."""
        return {"reporter": self.name}

    def asked(self, attempt: int) -> str:
        """The prompt of an attempt."""
        return (self.prompt or "") + (report_sections.RETRY_SUFFIX if attempt else "")


class WritesReports(Protocol):
    """What landmark_reporter.LandmarkReporter offers."""

    def write_reports(self, pictures: Sequence[np.ndarray]) -> list[str]: ...

    def record(self) -> dict: ...


class RuleReporter(Reporter):
    """A reporter that follows rules, is not asked in words, and always writes the same about a picture."""

    prompt, asks_again = None, False

    def __init__(self, name: str, rules: WritesReports, batch_size: int):
        self.name, self.rules, self.batch_size = name, rules, batch_size

    def answers(self, pictures: Iterable[Picture], attempt: int = 0) -> Iterator[tuple[str, Answer]]:
        for batch in batches(pictures, self.batch_size):
            texts = self.rules.write_reports([picture for _, picture in batch])
            for (key, _), text in zip(batch, texts, strict=True):
                yield key, Answer(text)

    def record(self) -> dict:
        return super().record() | self.rules.record()


def cut_loops(text: str) -> Answer:
    """The text without an endless end: blanks, or parts that repeat, of which the first stays. Flags say which.

    Servers that hold a model to a JSON schema are known to end in blanks, since JSON allows any number of them."""
    flags = []
    stripped = text.rstrip()
    if len(text) - len(stripped) >= LOOP_BLANKS:
        flags.append(WHITESPACE)
    loop = trailing_loop(stripped)
    if loop:
        start, period = loop
        stripped = stripped[: start + period].rstrip()
        flags.append(REPETITION)
    return Answer(stripped, tuple(flags))


def trailing_loop(text: str) -> tuple[int, int] | None:
    """Where the part of a text that repeats itself up to its end begins, and its period in characters; else None.

    The longest such part is meant that repeats LOOP_TIMES times and has LOOP_CHARACTERS characters; it begins a whole
    number of periods before the end, so that each of its parts ends as the text does. The borders of the
    reversed end are found as in Knuth, Morris and Pratt (1977), in time proportional to SEARCHED_CHARACTERS."""
    end = text[: -SEARCHED_CHARACTERS - 1 : -1]
    borders = [0] * len(end)
    best = None
    for i in range(1, len(end)):
        border = borders[i - 1]
        while border and end[i] != end[border]:
            border = borders[border - 1]
        borders[i] = border + (end[i] == end[border])
        length, period = i + 1, i + 1 - borders[i]
        if length >= LOOP_CHARACTERS and length >= LOOP_TIMES * period:
            best = len(text) - length, period
    if best is None:
        return None
    start, period = best
    while start and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return start + (len(text) - start) % period, period


def is_malformed(flags: Iterable[str]) -> bool:
    """Whether an answer with these flags is asked for a second time."""
    return not MALFORMED.isdisjoint(flags)


def batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """The pictures, `size` at a time."""
    remaining = iter(pictures)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
