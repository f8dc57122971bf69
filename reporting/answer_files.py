"""Answers of reporters, kept as they come, so that a run that is killed goes on without asking anything twice.

Each process appends its answers, a line of JSON each, to a file of its own in the run's work folder. A line that was
not written to its end is cut off when the run goes on. A malformed answer is asked for once more; both are kept, and
the better one becomes the report.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

from harness.errors import InputError
from reporting.report_sections import parse_sections
from reporting.reporters import Answer, is_malformed

RETRIED = "retried"  # flag: the first answer was malformed, so the picture was asked about again
SECOND = "second_answer"  # flag: the report is the second answer
LAST_ATTEMPT = 1


@dataclasses.dataclass(frozen=True)
class KeptAnswer:
    """An answer of a run. key: the picture's identifier; attempt: 0 or 1."""

    key: str
    attempt: int
    answer: Answer
    malformed: bool


def kept(key: str, attempt: int, answer: Answer, picture_flags: Iterable[str] = ()) -> KeptAnswer:
    """An answer with the flags of its picture, judged by its own flags and those of its text."""
    flags = {*answer.flags, *parse_sections(answer.text)[1]}
    whole = Answer(answer.text, tuple(sorted({*answer.flags, *picture_flags})))
    return KeptAnswer(key, attempt, whole, is_malformed(flags))


class AnswerFile:
    """The file to which one process appends; every answer is on the disk before the next one is awaited."""

    def __init__(self, folder: Path, process: int):
        self._file = os.open(path_of(folder, process), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(self, kept_answer: KeptAnswer) -> None:
        line = json.dumps(dataclasses.asdict(kept_answer)) + "\n"
        os.write(self._file, line.encode())
        os.fsync(self._file)

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def path_of(folder: Path, process: int) -> Path:
    return folder / f"answers-{process:05d}.jsonl"


def repair(folder: Path) -> None:
    """Cut off the line that a killed process did not finish, in every file. Called before any process appends."""
    for file in sorted(folder.glob("answers-*.jsonl")):
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)


def read_answers(folder: Path) -> dict[str, list[KeptAnswer]]:
    """All answers of all processes by key, in the order of their attempts. Raises InputError for a damaged file, and
    if a picture has two answers to one attempt."""
    answers: dict[str, list[KeptAnswer]] = {}
    for file in sorted(folder.glob("answers-*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n")[:-1], start=1):
            try:
                fields = json.loads(line)
                answer = Answer(fields["answer"]["text"], tuple(fields["answer"]["flags"]))
                answers.setdefault(fields["key"], []).append(
                    KeptAnswer(fields["key"], fields["attempt"], answer, fields["malformed"])
                )
            except (ValueError, LookupError, TypeError) as error:
                reason = "is no answer that this program wrote"
                raise InputError(f"{file.name}, line {number}: {reason}; start anew without resuming") from error
    for key, own in answers.items():
        own.sort(key=lambda one: one.attempt)
        if [one.attempt for one in own] != list(range(len(own))):
            raise InputError(f"{folder}: {key} has two answers to one attempt; start anew without resuming")
    return answers


def still_to_ask(keys: Iterable[str], answers: dict[str, list[KeptAnswer]], attempt: int) -> list[str]:
    """The keys about which an attempt is still to be made: the first for all, the second after a malformed answer."""
    waiting = []
    for key in keys:
        own = answers.get(key, [])
        if len(own) == attempt and (attempt == 0 or own[-1].malformed):
            waiting.append(key)
    return waiting


def best(own: list[KeptAnswer]) -> Answer:
    """The answer that becomes the report: the second one if it is well formed, or has fewer flags than the first."""
    first, last = own[0], own[-1]
    if last is first:
        return first.answer
    is_second = not last.malformed or len(_all_flags(last)) < len(_all_flags(first))
    chosen = last.answer if is_second else first.answer
    return Answer(chosen.text, tuple(sorted({*chosen.flags, RETRIED, *([SECOND] if is_second else [])})))


def _all_flags(one: KeptAnswer) -> set[str]:
    return {*one.answer.flags, *parse_sections(one.answer.text)[1]}
