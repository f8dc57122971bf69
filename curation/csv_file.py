"""Reads `disease_images.csv` as editors and spreadsheets save it: its encoding, header, separator and records."""

import codecs
import csv
import difflib
import io
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from curation.curated_rows import CSV_NAME, IMAGES, NO_REMEDY, OPTIONAL, REQUIRED, FolderError, Problem, quoted
from harness import text_normalization
from harness.csv_table import SEPARATORS, most_cells, without_empty_end
from imaging import photographs

MAX_CELL_CHARACTERS = 1_000_000  # of any cell: in a longer one, a quotation mark is not closed
HEADER_WITHIN = 100  # lines; titles and blank lines may stand above the header
TABLE_ENDINGS = {".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".numbers"}  # of what may be the table
ALIKE = 0.8  # share of two names' letters that match, from which one is the other with a mistake in it


@dataclass(frozen=True)
class Header:
    """The columns' names ("" if a column has none), the line of the file that holds them, and the cells' separator."""

    names: list[str]
    line: int
    separator: str


def read(folder: Path, problems: list[Problem]) -> tuple[Header, list[tuple[int, list[str]]]]:
    """The header, and of each record the line on which it starts and its cells.

    Blank lines are passed over, and so are empty cells behind the last column, if every row or the header has them; a
    record keeps its surplus cells otherwise, empty or not."""
    path = folder / CSV_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _no_table(folder) from None
    except OSError as error:
        raise FolderError(CSV_NAME, f"cannot be read ({error.strerror})", "make it a readable file") from None
    if content[:4] in (b"PK\3\4", b"\xd0\xcf\x11\xe0"):
        reason = "is a spreadsheet's own file (such as .xlsx) under the name of a CSV"
        raise FolderError(CSV_NAME, reason, "open it in the spreadsheet and save it as CSV in UTF-8")
    text = _text(content, problems)
    if "\0" in text:
        raise FolderError(CSV_NAME, "is not text", "save it as CSV in UTF-8")
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    lines = io.StringIO(text.lstrip("\ufeff"), newline="").readlines()
    header = _header(lines, problems)
    reader = csv.reader(lines[header.line - 1 :], delimiter=header.separator, strict=True)
    records, start = [], header.line
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((start, cells))
            start = header.line + reader.line_num
    except csv.Error as error:
        reason = f"a quoted cell is not closed properly ({error})"
        if "field limit" in str(error):
            reason = f"a cell has more than {MAX_CELL_CHARACTERS:,} characters, or its quotation mark is not closed"
        raise FolderError(CSV_NAME, reason, "correct it", row=start) from None
    raw_header, rows = records[0][1], records[1:]
    most = most_cells(raw_header, [cells for _, cells in rows])
    if most > len(raw_header):
        reason = f"every row has at least {most} cells, where the header has {len(header.names)}"
        remedy = f"{NO_REMEDY} if no cell holds {SEPARATORS[header.separator]} without quotation marks"
        problems.append(Problem(CSV_NAME, header.line, None, "note", reason, remedy))
    return header, [(line, without_empty_end(cells, len(header.names), most)) for line, cells in rows]


def _no_table(folder: Path) -> FolderError:
    """The error for a missing table, which names a file that may be the table."""
    path = Path(os.path.realpath(folder)) / CSV_NAME
    stem = path.stem
    others = sorted(path.name for path in folder.iterdir() if column_name(path.name.split(".")[0]) == stem)
    tables = (path.name for path in folder.iterdir() if path.suffix.casefold() in TABLE_ENDINGS)
    others += sorted(set(tables) - set(others), key=lambda name: (not name.casefold().endswith(".csv"), name))
    if not others:
        remedy = f"put it beside the folder {IMAGES}, which holds the photographs as <disease_abbr>/<image_name>"
        return FolderError(CSV_NAME, f"is missing: there is no file {path}", remedy)
    remedy = f"open {others[0]} in a spreadsheet program, and save it as CSV in UTF-8 under the name {CSV_NAME}"
    if others[0].casefold().endswith(".csv"):
        remedy = f"rename {others[0]} to {CSV_NAME}"
    return FolderError(CSV_NAME, f"is missing: there is no file {path}, but {others[0]}", remedy)


def column_name(cell: str) -> str:
    """The project's spelling of a column's name: image_name for "Image Name " or "IMAGE-NAME"."""
    return re.sub(r"[\s_-]+", "_", text_normalization.plain(cell).strip(" '\"")).strip("_")


def _header(lines: list[str], problems: list[Problem]) -> Header:
    """The first line that holds all required columns, with one of the separators; lines above it become notes.

    Raises FolderError if there is none, and names the columns that the most similar line lacks."""
    nearest: tuple[int, int, list[str]] | None = None  # number of required columns, line, cells
    for number, line in enumerate(lines[:HEADER_WITHIN], start=1):
        if not line.strip(' \t\r\n,;|"'):
            continue
        for separator in SEPARATORS:
            try:
                cells = next(csv.reader(lines[number - 1 : number + 9], delimiter=separator))
            except csv.Error:
                continue
            held = len(set(REQUIRED) & {column_name(cell) for cell in cells})
            if nearest is None or held > nearest[0]:
                nearest = held, number, cells
            if held == len(REQUIRED):
                header = Header(_named(cells, number, problems), number, separator)
                _pass_over(lines, header, problems)
                return header
    if nearest is None:
        raise FolderError(CSV_NAME, "is empty", f"add the columns {', '.join(REQUIRED)}, and one row per image")
    held, number, cells = nearest
    names = [column_name(cell) for cell in cells]
    missing = [name for name in REQUIRED if name not in names]
    hint = ("add it" if len(missing) == 1 else "add them") if held else "name the columns in the first line"
    reason = f"column {', '.join(missing)} is missing"
    if mistyped := _mistyped(missing, cells):
        reason += f", but there is {', '.join(mistyped.values())}"
        renamed = (f"rename {written} to {name}" for name, written in mistyped.items())
        hint = ", ".join([*renamed, *(f"add {name}" for name in missing if name not in mistyped)])
    elif len(cells) == 1:
        hint = "separate the cells by commas, semicolons or tabs"
        hint += ", and take the quotation marks from around the lines" if '"' in lines[number - 1] else ""
    raise FolderError(CSV_NAME, reason, hint, row=number)


def _mistyped(missing: list[str], cells: list[str]) -> dict[str, str]:
    """The required columns that the header seems to hold with a mistake in the name, each with what it has instead."""
    unknown = {column_name(cell): " ".join(cell.split()) for cell in cells}
    unknown = {name: cell for name, cell in unknown.items() if name not in REQUIRED + OPTIONAL}
    found = {}
    for name in missing:
        for like in difflib.get_close_matches(name, unknown, n=1, cutoff=ALIKE):
            found[name] = unknown.pop(like)
    return found


def _named(cells: list[str], line: int, problems: list[Problem]) -> list[str]:
    """The columns' names, without empty ones at the end; those that the project knows in the project's spelling."""
    names = [" ".join(cell.split()) for cell in cells]
    while not names[-1]:
        names.pop()
    own_spelling = {name for name in names if name in REQUIRED + OPTIONAL}
    read_as = {
        name: column_name(name)
        for name in names
        if name not in own_spelling and column_name(name) in set(REQUIRED + OPTIONAL) - own_spelling
    }
    if read_as:
        reason = "; ".join(f"column {quoted(name)} is read as {column}" for name, column in read_as.items())
        problems.append(Problem(CSV_NAME, line, None, "note", reason, NO_REMEDY))
    names = [read_as.get(name, name) for name in names]
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise FolderError(CSV_NAME, f"column {', '.join(repeated)} occurs twice", "rename one of them", row=line)
    return names


def _pass_over(lines: list[str], header: Header, problems: list[Problem]) -> None:
    """Add a note on every line above the header, such as a title; a spreadsheet's line sep= needs none.

    Raises FolderError if one of these lines is a row of the table, as if the header had been sorted into the middle."""
    place = header.names.index("image_name")
    for number, line in enumerate(lines[: header.line - 1], start=1):
        text = line.strip(' \t\r\n,;|"')
        if not text or re.fullmatch(r"sep=.?", text_normalization.plain(text)):
            continue
        cells = [*line.split(header.separator), *[""] * len(header.names)]
        if Path(cells[place].strip(' "')).suffix.casefold() in photographs.EXTENSIONS:
            reason = f"stands above the header, which is in line {header.line}, but names an image"
            raise FolderError(CSV_NAME, reason, "move the header to the first line", row=number)
        reason = f"{quoted(text)} stands above the header, and is passed over"
        problems.append(Problem(CSV_NAME, number, None, "note", reason, f"{NO_REMEDY} if it is a title"))


def _text(content: bytes, problems: list[Problem]) -> str:
    """UTF-8; bytes that are none, in a file saved as Latin-1 or pasted from one, are read as cp1252, with a note."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            raise FolderError(CSV_NAME, "is not text", "save it as CSV in UTF-8") from None
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines(keepends=True)
    texts, stray, whole = [], [], 0
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.decode("utf-8"))
            whole += not line.isascii()
        except UnicodeDecodeError:
            texts.append(line.decode("utf-8", errors="cp1252"))
            stray.append(number)
    if whole:
        places = [(number, "has characters that are not UTF-8 and were read as cp1252") for number in stray]
    else:
        places = [(1, "is not UTF-8 and was read as cp1252")] if stray else []
    for number, reason in places:
        problems.append(Problem(CSV_NAME, number, None, "note", reason, "look over its accents, or save it as UTF-8"))
    return "".join(texts)


def _as_cp1252(error: UnicodeDecodeError) -> tuple[str, int]:
    stray = error.object[error.start : error.end]
    try:
        return stray.decode("cp1252"), error.end
    except UnicodeDecodeError:  # five bytes that cp1252 leaves out
        return stray.decode("latin-1"), error.end


codecs.register_error("cp1252", _as_cp1252)
