"""Pairs of photographs that a curator must look at, since a program cannot decide them, and the curator's answers.

    answers = read_answers(folder, rows, problems)      # looked_at.csv in the curator's folder, if there is one
    write_template(Path("rdface/pairs_to_look_at.csv"), pairs, rows)

A pair that was answered is not proposed again. `different people` also keeps the two from being joined as near
duplicates; `same person` and `same photograph` join them, as an equal subject_id in the table does.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.curated_rows import FolderError, Problem, Row, quoted
from harness.files import write_atomically
from harness.text_normalization import plain, subject_key

LOOKED_AT = "looked_at.csv"  # in the curator's folder, beside disease_images.csv
TEMPLATE = "pairs_to_look_at.csv"  # in the dataset's folder, with empty answers
PAGE = "pairs_to_look_at.html"  # in the dataset's folder
COPY, PLATE, PERSON = "copy", "plate", "person"
KINDS = {
    COPY: "perhaps one photograph in two files, one of them altered",
    PLATE: "perhaps one photograph, alone and as a part of a plate of several",
    PERSON: "perhaps two photographs of one person",
}
DIFFERENT, SAME_PERSON, SAME_PHOTOGRAPH = ANSWERS = ("different people", "same person", "same photograph")
COLUMNS = ("first_image", "second_image", "answer")
FURTHER_COLUMNS = ("kind", "likeness", "digest")  # of the template
DIGEST_CHARACTERS = 16
MAX_BYTES = 20_000_000  # of looked_at.csv


@dataclass(frozen=True)
class PairToLookAt:
    """Two photographs of the dataset, by image_id; likeness: a sentence's end that says how alike they are, and by
    which measure, as in "47 places agree" or "cosine 0.71"."""

    first_image_id: str
    second_image_id: str
    kind: str  # one of KINDS
    likeness: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of pair; give one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Answer:
    """One line of looked_at.csv. rows: lines of the two photographs in disease_images.csv, the smaller first."""

    line: int
    rows: tuple[int, int]
    answer: str  # one of ANSWERS
    digest: str  # of the photographs that were looked at, empty if the line does not say


def image_file(row: Row) -> str:
    """How looked_at.csv names a photograph: its file below rd_images, as in AAR/AAR.3.jpg."""
    return f"{row.abbreviation}/{row.path.name}"


def pair_digest(first: Row, second: Row) -> str:
    """Tells whether two photographs are still those that were looked at. Both rows must have been read.

    It begins with letters, or spreadsheets would take some for numbers and round them."""
    digests = sorted(row.photograph.pixels_sha256 for row in (first, second))
    return "seen-" + hashlib.sha256("".join(digests).encode()).hexdigest()[:DIGEST_CHARACTERS]


def read_answers(folder: Path, rows: Sequence[Row], problems: list[Problem]) -> list[Answer]:
    """The answers in looked_at.csv of a curator's folder; a line that cannot be used becomes a problem.

    rows: those of the table whose photographs are there. Lines without an answer are still open, and are passed over.
    Raises FolderError if the file as a whole cannot be read."""
    file = folder / LOOKED_AT
    if not file.exists():
        return []
    row_of = {}
    for row in rows:
        row_of.setdefault(plain(image_file(row)), row)
    row_of |= {image_file(row): row for row in rows}  # names that differ in capitals alone
    answers: dict[tuple[int, int], Answer] = {}
    for line, cell in _records(file, problems):
        try:
            answer = _answer(line, cell, row_of)
        except ValueError as error:
            column, reason, remedy = error.args
            problems.append(Problem(LOOKED_AT, line, column, "row", reason, remedy))
            continue
        if answer is None:
            continue
        earlier = answers.setdefault(answer.rows, answer)
        if earlier.answer != answer.answer:
            reason = f"says {answer.answer} of the pair of which line {earlier.line} says {earlier.answer}"
            problems.append(Problem(LOOKED_AT, line, "answer", "row", reason, "delete the wrong one of the two lines"))
    return list(answers.values())


def _answer(line: int, cell: dict[str, str], row_of: dict[str, Row]) -> Answer | None:
    """Raises ValueError of column, reason and remedy for a line that cannot be used."""
    text = " ".join(plain(cell["answer"]).split())
    if not text:
        return None
    if text not in ANSWERS:
        remedy = f"write one of {', '.join(ANSWERS)}, or leave it empty"
        raise ValueError("answer", f"{quoted(cell['answer'])} is no answer", remedy)
    found = []
    for column in COLUMNS[:2]:
        name = cell[column].strip().replace("\\", "/")
        row = row_of.get(name) or row_of.get(plain(name))
        if row is None:
            reason = f"{quoted(cell[column])} is no photograph of the table" if cell[column].strip() else "is empty"
            raise ValueError(column, reason, "write it as in AAR/AAR.3.jpg, or delete the line")
        found.append(row)
    first, second = sorted(found, key=lambda row: row.line)
    if first is second:
        raise ValueError("second_image", f"{quoted(cell['second_image'])} is the first image", "delete the line")
    subjects = [row.values.get("subject_id") for row in (first, second)]
    if text == DIFFERENT and all(subjects) and subject_key(subjects[0]) == subject_key(subjects[1]):
        reason = f"says {text}, but rows {first.line} and {second.line} of the table have one subject_id"
        raise ValueError("answer", reason, "correct the table or the answer")
    return Answer(line, (first.line, second.line), text, cell.get("digest", "").strip().casefold())


def _records(file: Path, problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    """Each record of looked_at.csv with the line on which it begins; a record with more cells becomes a problem."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FolderError(LOOKED_AT, f"cannot be read ({error.strerror})", "make it a readable file") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FolderError(LOOKED_AT, "is not UTF-8", "save it as CSV in UTF-8") from None
    if len(content) > MAX_BYTES or "\0" in text:
        raise FolderError(LOOKED_AT, "is no table of answers", f"fill in {TEMPLATE}, and save it as CSV in UTF-8")
    first_line = text.partition("\n")[0]
    separator = max(",;\t", key=first_line.count)  # as spreadsheets of different countries write it
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records, start = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise FolderError(LOOKED_AT, f"a cell is not closed properly ({error})", "correct it", row=start) from None
    header = ["_".join(plain(cell).split()) for cell in records[0][1]] if records else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        remedy = f"fill in {TEMPLATE}, and save it as {LOOKED_AT}"
        raise FolderError(LOOKED_AT, f"column {', '.join(missing)} is missing", remedy, row=1)
    if repeated := [name for name in header if name and header.count(name) > 1]:
        raise FolderError(LOOKED_AT, f"column {repeated[0]} occurs twice", "keep one of the two", row=records[0][0])
    found = []
    for line, cells in records[1:]:
        if any(cell.strip() for cell in cells[len(header) :]):
            reason = f"has {len(cells)} cells, but there are {len(header)} columns"
            remedy = "put cells that hold a comma or semicolon in quotation marks"
            problems.append(Problem(LOOKED_AT, line, None, "row", reason, remedy))
            continue
        found.append((line, dict(zip(header, [*cells, *[""] * len(header)], strict=False))))
    return found


def numbered(
    answers: Iterable[Answer], rows: Sequence[Row], problems: list[Problem]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The pairs, as numbers of rows, that are different people, and those that belong to one group.

    rows: those whose photographs could be read. An answer about photographs that have changed since becomes a problem,
    and so does `different people` of two files that show exactly the same."""
    number_of = {row.line: number for number, row in enumerate(rows)}
    different, joined = [], []
    for answer in answers:
        if not all(line in number_of for line in answer.rows):  # a photograph that has a problem of its own
            continue
        a, b = (number_of[line] for line in answer.rows)
        reason = remedy = None
        if answer.digest and answer.digest != pair_digest(rows[a], rows[b]):
            reason = f"{image_file(rows[a])} or {image_file(rows[b])} has been exchanged since it was looked at"
            remedy = "look at the pair again; then delete the cell in column digest, or the line"
        elif answer.answer == DIFFERENT and rows[a].photograph.pixels_sha256 == rows[b].photograph.pixels_sha256:
            reason = f"says {DIFFERENT}, but both files show the same photograph, pixel by pixel"
            remedy = "correct the answer, or delete the wrong one of the two files and its row"
        if reason:
            problems.append(Problem(LOOKED_AT, answer.line, "answer", "row", reason, remedy))
        else:
            (different if answer.answer == DIFFERENT else joined).append((a, b))
    return different, joined


def note_joined_all_the_same(
    different: Iterable[tuple[int, int]], groups: Sequence[int], rows: Sequence[Row], problems: list[Problem]
) -> None:
    """A note on each pair of different people who are in one group through others, such as a plate that shows both.

    groups (n,): of each row."""
    for a, b in different:
        if groups[a] == groups[b]:
            reason = f"{image_file(rows[a])} and {image_file(rows[b])} are different people, but in one group"
            remedy = "nothing needs doing if a third photograph shows both; otherwise correct its answers"
            problems.append(Problem(LOOKED_AT, None, None, "note", reason, remedy))


def still_open(
    pairs: Iterable[PairToLookAt], rows: Sequence[Row], answered: Iterable[tuple[int, int]], groups: Sequence[int]
) -> list[PairToLookAt]:
    """The pairs that nobody has answered and that are not in one group already, each once, with its first kind.

    A picture and the plate that holds it are in one group, and are shown all the same, since a plate may join people.
    answered: numbers of rows; groups (n,): of each row."""
    number_of = {row.values["image_id"]: number for number, row in enumerate(rows)}
    known = {frozenset(pair) for pair in answered}
    left: dict[frozenset[int], PairToLookAt] = {}
    for pair in pairs:
        a, b = number_of[pair.first_image_id], number_of[pair.second_image_id]
        if (groups[a] != groups[b] or pair.kind == PLATE) and frozenset((a, b)) not in known:
            left.setdefault(frozenset((a, b)), pair)
    return list(left.values())


def write_template(file: Path, pairs: Sequence[PairToLookAt], rows: Sequence[Row]) -> None:
    """The table in which the curator fills in the answers, readable by the user alone. Rows must have been read."""
    row_of = {row.values["image_id"]: row for row in rows}

    def write(partial: Path) -> None:
        partial.touch(mode=0o600)
        with partial.open("w", encoding="utf-8", newline="") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(COLUMNS + FURTHER_COLUMNS)
            for pair in pairs:
                first, second = row_of[pair.first_image_id], row_of[pair.second_image_id]
                cells = (image_file(first), image_file(second), "", pair.kind, pair.likeness)
                writer.writerow((*cells, pair_digest(first, second)))

    write_atomically(file, write)
