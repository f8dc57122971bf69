"""The curator's table `disease_images.csv`: read row by row, every problem noted, every value in one form."""

import codecs
import csv
import io
import itertools
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import photographs
import protocols
import recorded_values
import spelling
from photographs import Photograph
from recorded_values import shown

CSV_NAME = "disease_images.csv"
IMAGES = "rd_images"
MAX_CELL_CHARACTERS = 1_000_000  # of any cell, or its quotation mark is not closed
HEADER_WITHIN = 100  # lines; titles and blank lines may stand above the header
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
REQUIRED = ("image_name", "disease_name", "disease_abbr", "sub_category", "gene_name", "orphanet_code")
OPTIONAL = ("subject_id", "age", "sex", "country", "hpo_ids", "source_type", "source_url", "license")
MAX_CHARACTERS = {  # of each column; the longest values that are known take a fifth of it or less
    "subject_id": 200, "disease_name": 500, "sub_category": 200, "gene_name": 20_000, "orphanet_code": 100, "age": 100,
    "sex": 100, "country": 200, "hpo_ids": 20_000, "source_type": 200, "source_url": 4_000, "license": 4_000,
}  # fmt: skip
MAX_OWN_CHARACTERS = 20_000  # of a cell of the curator's own columns, which are free text
MAX_GENE_CHARACTERS = 50
MAY_BE_NULL = (  # columns of the dataset
    "subject_id", "disease_name", "sub_category", "gene_names", "orphanet_code", "hpo_ids", "age_years", "sex",
    "country", "source_type", "source_url", "license",
)  # fmt: skip
READERS: dict[str, tuple[str, Callable, str]] = {  # CSV column -> dataset column, reader, remedy
    "subject_id": ("subject_id", recorded_values.text_or_none, ""),
    "disease_name": ("disease_name", recorded_values.text_or_none, ""),
    "sub_category": ("sub_category", recorded_values.text_or_none, ""),
    "gene_name": ("gene_names", recorded_values.gene_names, ""),
    "orphanet_code": ("orphanet_code", recorded_values.orphanet_code, "write its digits, as in 192, or leave it empty"),
    "age": ("age_years", recorded_values.age_years, 'write years, or as in "3 months" or "2y 6m", or leave it empty'),
    "sex": ("sex", recorded_values.sex, "write female or male, or leave it empty"),
    "source_type": ("source_type", recorded_values.text_or_none, ""),
    "source_url": ("source_url", recorded_values.text_or_none, ""),
    "license": ("license", recorded_values.text_or_none, ""),
}
EXAMPLES = 10  # how many notes of one kind name their own spelling before the rest is folded into one


@dataclass(frozen=True)
class Problem:
    """severity: "file" (nothing can be done), "row" (unusable), "cell" (its value becomes null), "note" (nothing is in
    the way of a build; a country that is none, or a word for "not known", becomes null).

    row: the line of the file on which the record starts, the file's first being 1."""

    file: str
    row: int | None
    column: str | None
    severity: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.row) if part is not None)
        note = "note: " if self.severity == "note" else ""
        column = f"{self.column}: " if self.column else ""
        line = f"{place}: {note}{column}{self.reason}; {self.remedy}"
        return "".join(character if character.isprintable() else " " for character in line)


class FolderError(Exception):
    """The folder as a whole cannot be used; carries a Problem."""

    def __init__(self, file: str, reason: str, remedy: str, row: int | None = None):
        self.problem = Problem(file, row, None, "file", reason, remedy)
        super().__init__(str(self.problem))


@dataclass(slots=True)
class Row:
    """One usable record: `values` are the dataset's columns, filled in step by step."""

    line: int
    abbreviation: str
    path: Path
    values: dict
    photograph: Photograph | None = None
    rewritten: Path | None = None  # where the photograph's re-encoded bytes wait

    def problem(self, column: str, severity: str, reason: str, remedy: str) -> Problem:
        return Problem(CSV_NAME, self.line, column, severity, reason, remedy)


@dataclass
class Folder:
    """Files below rd_images; a folder is listed once, and only if a name is not found as it is written."""

    root: Path
    _listed: dict[Path, dict[str, str]] = field(default_factory=dict)

    def find(self, abbreviation: str, name: str) -> Path | str:
        """The file of this name, also if its Unicode form differs; or the reason why there is none."""
        if name in ("", ".", "..") or re.search(r"[/\\\0]", name) or len(name.encode()) > 255:
            return f"{name!r} is not a bare file name" if name else "is empty"
        try:
            return self._find(abbreviation, name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror}: check the permissions)"

    def _find(self, abbreviation: str, name: str) -> Path | str:
        path = self._condition(abbreviation) / name
        if not path.exists():
            names = self._names(path.parent)
            key = _same_spelling(name)
            if key not in names:
                return f"{name} is missing"
            if unicodedata.normalize("NFC", names[key]) != unicodedata.normalize("NFC", name):
                return f"{name} is missing (there is {names[key]})"
            path = path.with_name(names[key])
        inside = os.path.realpath(self.root / IMAGES)  # resolve() would raise RuntimeError over a link to itself
        if not Path(os.path.realpath(path)).is_relative_to(inside):
            return f"{name} is a link that leads out of the folder"
        if path.is_symlink() and not path.exists():
            return f"{name} is a link that leads to no file"
        return path if path.is_file() else f"{name} is not a file"

    def _condition(self, abbreviation: str) -> Path:
        folder = self.root / IMAGES / abbreviation
        names = {} if folder.exists() else self._names(folder.parent)
        other_form = names.get(_same_spelling(abbreviation), abbreviation)
        return folder if unicodedata.normalize("NFC", other_form) != abbreviation else folder.with_name(other_form)

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            self._listed[folder] = {_same_spelling(name): name for name in names}
        return self._listed[folder]


def _same_spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class Header:
    """The columns' names, "" if a column has none; the line of the file on which they stand; what parts the cells."""

    names: list[str]
    line: int
    separator: str


class NullValues:
    """The curator's own texts for "not known", each for one column or for all that are read; and which were met."""

    def __init__(self, texts: Iterable[str] = ()):
        """texts: TEXT or COLUMN=TEXT. Raises ValueError for a COLUMN that is not one of the table's."""
        self.unmet: dict[tuple[str, str], str] = {}  # column or "", key -> the text
        for text in texts:
            column, equals, value = text.partition("=")
            equals = equals if column else ""  # =NA() is a text
            if equals and column not in (*READERS, "country", "hpo_ids"):
                raise ValueError(
                    f"{column!r} is no column that may be null; write TEXT, or COLUMN=TEXT as in subject_id=0"
                )
            self.unmet["" if not equals else column, protocols.subject_key(value if equals else text)] = text
        self._keys = set(self.unmet)

    def hold(self, column: str, text: str) -> bool:
        """Whether the text means "not known" in this column; spelt as subjects are, so in any capitals."""
        if not self._keys:
            return False
        met = {(column, key := protocols.subject_key(text)), ("", key)} & self._keys
        for one in met:
            self.unmet.pop(one, None)
        return bool(met)


def read(
    folder: Path, problems: list[Problem], reserved: Collection[str] = (), null_values: Iterable[str] = ()
) -> tuple[list[Row], list[str]]:
    """The usable rows and the names of the curator's own columns; all that is wrong is appended to the problems.

    reserved: names that no column of the curator's own may have, because a build writes them; null_values: further
    texts for "not known", TEXT or COLUMN=TEXT.
    Raises FolderError where nothing can be read: no table, a missing column, no rows, no photographs."""
    if not os.path.isdir(folder):  # False also where nobody may look
        raise FolderError(folder.name, "is not a folder", f"give the folder that holds {CSV_NAME}")
    header, records = _records(folder, problems)
    if not records:
        raise FolderError(CSV_NAME, "has no rows", "add one row an image")
    if not any((folder / IMAGES).glob("*/*")):
        raise FolderError(IMAGES, "holds no images", f"put them into {IMAGES}/<disease_abbr>/")
    extra = _own_columns(header, reserved, problems)
    rows = []
    files, nulls = Folder(folder), NullValues(null_values)
    place = {name: number for number, name in enumerate(header.names) if name}
    written = {
        _abbreviation(cells[place["disease_abbr"]]) for _, cells in records if place["disease_abbr"] < len(cells)
    }
    abbreviations = {spelling.plain(abbreviation): abbreviation for abbreviation in written}
    nameless = [number for number, name in enumerate(header.names) if not name]
    for line, cells in records:
        cell = _cells(line, cells, header, problems)
        row = cell and _usable_row(line, cell, files, abbreviations, problems)
        if row:
            _read_values(row, cell, extra, nulls, problems)
            rows.append(row)
        unread = [number + 1 for number in nameless if any(map(str.isalnum, "".join(cells[number : number + 1])))]
        if unread:
            reason = f"column {unread[0]} has no name, and is left out"
            problems.append(Problem(CSV_NAME, line, None, "note", reason, "name it in the header to keep it"))
    for text in nulls.unmet.values():
        reason = f"no cell holds {shown(text)}, which --null_values names"
        problems.append(Problem(CSV_NAME, None, None, "note", reason, f"check the spelling of {shown(text)}"))
    _note_spellings(rows, problems)
    rows = _once(_agreeing(rows, problems), problems)
    _note_doubtful(rows, problems)
    return rows, extra


def _own_columns(header: Header, reserved: Collection[str], problems: list[Problem]) -> list[str]:
    """The names of columns that the project does not know, with a note on them."""
    extra = [name for name in header.names if name and name not in REQUIRED + OPTIONAL]
    # A dot would make it a part of a column in the Parquet file: image.bytes.
    clashes = sorted(name for name in extra if name.partition(".")[0] in reserved)
    if clashes:
        reason = f"column {', '.join(clashes)} has a name that the build writes"
        raise FolderError(CSV_NAME, reason, "rename it", row=header.line)
    long = [name for name in extra if len(name) > 100 or spelling.control_character(name)]
    if long:
        reason = f"column {shown(long[0])} has a name of more than 100 characters, or with a control character"
        raise FolderError(CSV_NAME, reason, "rename it", row=header.line)
    if extra:
        alike = {name: _column_name(name) for name in extra}
        told = (f"{name} (or is it {alike[name]}?)" if alike[name] in OPTIONAL else name for name in extra)
        reason = f"unknown columns are kept as text: {', '.join(told)}"
        problems.append(Problem(CSV_NAME, header.line, None, "note", reason, "nothing needs doing"))
    return extra


def _records(folder: Path, problems: list[Problem]) -> tuple[Header, list[tuple[int, list[str]]]]:
    """The header, and the line where it starts with the cells of each record; blank lines are passed over."""
    path = folder / CSV_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _no_table(folder) from None
    except OSError as error:
        raise FolderError(CSV_NAME, f"cannot be read ({error.strerror})", "make it a readable file") from None
    if data[:4] in (b"PK\3\4", b"\xd0\xcf\x11\xe0"):
        reason = "is a spreadsheet's own file (such as .xlsx) under the name of a CSV"
        raise FolderError(CSV_NAME, reason, "open it in the spreadsheet and save it as CSV in UTF-8")
    text = _text(data, problems)
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
    return header, records[1:]


def _no_table(folder: Path) -> FolderError:
    """The table is missing; a file that may be it is named."""
    name = Path(os.path.realpath(folder)).name
    stem = Path(CSV_NAME).stem
    others = sorted(path.name for path in folder.iterdir() if _column_name(path.name.split(".")[0]) == stem)
    others += sorted(path.name for path in folder.glob("*.csv") if path.name not in others)
    if not others:
        return FolderError(CSV_NAME, "is missing", f"put it into {name}")
    remedy = f"rename it to {CSV_NAME}" if others[0].casefold().endswith(".csv") else f"save it as CSV, {CSV_NAME}"
    return FolderError(CSV_NAME, f"is missing (there is {others[0]})", remedy)


def _column_name(cell: str) -> str:
    """image_name of "Image Name " or "IMAGE-NAME"."""
    return re.sub(r"[\s_-]+", "_", spelling.plain(cell).strip(" '\"")).strip("_")


def _header(lines: list[str], problems: list[Problem]) -> Header:
    """The first line that holds all required columns under one of the separators; what stands above it is noted.

    Raises FolderError where there is none, with what the line that holds most of them lacks."""
    nearest: tuple[int, int, list[str]] | None = None  # how many required columns, its line, its cells
    for number, line in enumerate(lines[:HEADER_WITHIN], start=1):
        if not line.strip(' \t\r\n,;|"'):
            continue
        for separator in SEPARATORS:
            try:
                cells = next(csv.reader(lines[number - 1 : number + 9], delimiter=separator))
            except csv.Error:
                continue
            held = len(set(REQUIRED) & {_column_name(cell) for cell in cells})
            if nearest is None or held > nearest[0]:
                nearest = held, number, cells
            if held == len(REQUIRED):
                header = Header(_named(cells, number, problems), number, separator)
                _pass_over(lines, header, problems)
                return header
    if nearest is None:
        raise FolderError(CSV_NAME, "is empty", f"add the columns {', '.join(REQUIRED)}, and one row an image")
    held, number, cells = nearest
    names = [_column_name(cell) for cell in cells]
    missing = [name for name in REQUIRED if name not in names]
    hint = "add it" if held else "name the columns in the first line"
    if len(cells) == 1:
        hint = "separate the cells by commas, semicolons or tabs"
        hint += ", and take the quotation marks from around the lines" if '"' in lines[number - 1] else ""
    raise FolderError(CSV_NAME, f"column {', '.join(missing)} is missing", hint, row=number)


def _named(cells: list[str], line: int, problems: list[Problem]) -> list[str]:
    """The columns' names, those that the project knows in its own spelling; without a table's empty columns behind."""
    names = [" ".join(cell.split()) for cell in cells]
    while not names[-1]:
        names.pop()
    known = {name for name in names if name in REQUIRED + OPTIONAL}
    read_as = {
        name: _column_name(name)
        for name in names
        if name not in known and _column_name(name) in set(REQUIRED + OPTIONAL) - known
    }
    if read_as:
        reason = "; ".join(f"column {shown(name)} is read as {column}" for name, column in read_as.items())
        problems.append(Problem(CSV_NAME, line, None, "note", reason, "nothing needs doing"))
    names = [read_as.get(name, name) for name in names]
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise FolderError(CSV_NAME, f"column {', '.join(repeated)} occurs twice", "rename one of them", row=line)
    return names


def _pass_over(lines: list[str], header: Header, problems: list[Problem]) -> None:
    """A note on every line above the header, which is a title or a spreadsheet's sep=; a row of the table, as if the
    header had been sorted into the middle, raises FolderError."""
    place = header.names.index("image_name")
    for number, line in enumerate(lines[: header.line - 1], start=1):
        text = line.strip(' \t\r\n,;|"')
        if not text or re.fullmatch(r"sep=.?", spelling.plain(text)):
            continue
        cells = [*line.split(header.separator), *[""] * len(header.names)]
        if Path(cells[place].strip(' "')).suffix.casefold() in photographs.EXTENSIONS:
            reason = f"stands above the header, which is in line {header.line}, but names an image"
            raise FolderError(CSV_NAME, reason, "move the header to the first line", row=number)
        reason = f"{shown(text)} stands above the header, and is passed over"
        problems.append(Problem(CSV_NAME, number, None, "note", reason, "nothing needs doing if it is a title"))


def _text(data: bytes, problems: list[Problem]) -> str:
    """UTF-8; bytes that are none, in a file saved as Latin-1 or pasted from one, are read as cp1252, with a note."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise FolderError(CSV_NAME, "is not text", "save it as CSV in UTF-8") from None
    lines = data.removeprefix(codecs.BOM_UTF8).splitlines(keepends=True)
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


def _cells(line: int, cells: list[str], header: Header, problems: list[Problem]) -> dict[str, str] | None:
    """The cells by column, empty if a spreadsheet left them out at the row's end; or None and a problem."""
    columns, counted = len(header.names), f"has {len(cells)} cell{'s' * (len(cells) != 1)}"
    if any(cell.strip() for cell in cells[columns:]):
        reason = f"{counted}, where the header has {columns}"
        remedy = f"quote cells that hold {SEPARATORS[header.separator]}, and name every column"
        problems.append(Problem(CSV_NAME, line, None, "row", reason, remedy))
        return None
    lacking = [name for name in ("image_name", "disease_abbr") if name not in header.names[: len(cells)]]
    if lacking:
        reason = f"{counted}, where the header has {columns}, so that {lacking[0]} is left out"
        remedy = f"part its cells by {SEPARATORS[header.separator]}, as the header's are, or delete the line"
        problems.append(Problem(CSV_NAME, line, None, "row", reason, remedy))
        return None
    if len(cells) < columns:
        reason = f"{counted}, where the header has {columns}; the others are taken as empty"
        problems.append(Problem(CSV_NAME, line, None, "note", reason, "nothing needs doing if they are"))
    return dict(zip(header.names, [*cells, *[""] * columns], strict=False))


def _abbreviation(cell: str) -> str:
    return unicodedata.normalize("NFC", cell.strip())  # never a null: "NA" is a condition here


def _usable_row(
    line: int, cell: dict[str, str], files: Folder, abbreviations: dict[str, str], problems: list[Problem]
) -> Row | None:
    """The row with its photograph's path, or None and a problem. abbreviations: all of the table, by plain spelling."""

    def refuse(column: str | None, reason: str, remedy: str) -> None:
        problems.append(Problem(CSV_NAME, line, column, "row", reason, remedy))

    abbreviation = _abbreviation(cell["disease_abbr"])
    if not abbreviation:
        return refuse("disease_abbr", "is empty", "add the abbreviation, or delete the row")
    if not re.fullmatch(r"[^\W_][\w .+()'-]*", abbreviation) or len(abbreviation) > 100:
        return refuse("disease_abbr", f"{shown(abbreviation)} cannot name a folder", "use letters, digits, - and _")
    # A row whose subject cannot be read is refused: as a subject of its own it might be on both sides of a fold.
    damage = _damage("subject_id", cell.get("subject_id", ""))
    if damage:
        return refuse("subject_id", *damage)
    name = cell["image_name"].strip()
    other = _other_abbreviation(abbreviation, name, r"\.[0-9]+", abbreviations)
    if other:
        reason = f"{shown(name)} is named as a photograph of {other}, but its row is of {abbreviation}"
        return refuse("image_name", reason, "correct the abbreviation, or rename the file")
    path = files.find(abbreviation, name)
    if isinstance(path, str):
        return refuse("image_name", path, "correct the name, add the file or delete the row")
    other = _other_abbreviation(abbreviation, name, r"[ _-]*\(?[0-9]+\)?", abbreviations)
    if other:
        reason = f"{shown(name)} begins as {other} does, but its row is of {abbreviation}"
        problems.append(Problem(CSV_NAME, line, "image_name", "note", reason, "check the abbreviation"))
    return Row(line, abbreviation, path, {"disease_abbr": abbreviation})


def _other_abbreviation(abbreviation: str, name: str, number: str, abbreviations: dict[str, str]) -> str | None:
    """G01 of the file G01.9.jpg in a row of another condition, if the table has a G01."""
    match = re.fullmatch(rf"(.+?){number}\.[^.]+", name)
    stem = spelling.plain(match[1]) if match else ""
    own = spelling.plain(abbreviation)
    if stem == own or spelling.plain(Path(name).stem) == own:
        return None
    return abbreviations.get(stem)


def _damage(column: str, text: str) -> tuple[str, str] | None:
    """Reason and remedy for a cell that is longer than any value of its column, or that holds a control character."""
    most = MAX_CHARACTERS.get(column, MAX_OWN_CHARACTERS)
    if len(text) > most and len(text.strip()) > most:
        return f"has {len(text.strip()):,} characters, more than the {most:,} that a cell of it may have", "shorten it"
    control = spelling.control_character(text)
    return (f"holds the control character {control}", "delete that character") if control else None


def _read_values(row: Row, cell: dict[str, str], extra: list[str], nulls: NullValues, problems: list[Problem]) -> None:
    """Fill in the row's recorded values; a value that cannot be read becomes null."""
    text = {column: _readable(row, column, cell.get(column, ""), problems) for column in OPTIONAL + REQUIRED[1:]}
    for column in (*READERS, "country", "hpo_ids"):
        if text[column].strip() and nulls.hold(column, text[column]):
            reason = f"{shown(text[column])} is read as not known, as --null_values says"
            problems.append(row.problem(column, "note", reason, "nothing needs doing"))
            text[column] = ""
    if text["subject_id"].strip() and recorded_values.is_null(text["subject_id"]):
        told = shown(text["subject_id"])
        remedy = f"nothing needs doing, unless {told} names a person"
        problems.append(row.problem("subject_id", "note", f"{told} is read as not known", remedy))
    for part, genes in recorded_values.dates_for_genes(text["gene_name"]).items():
        made = f"a spreadsheet made it of {' or '.join(genes)}" if genes else "a spreadsheet may have made it of a gene"
        reason = f"{shown(part)} is a date or a number, no gene ({made}), and is left out"
        remedy = f"write {genes[0] if len(genes) == 1 else 'the symbol of the gene'}, and format the column as text"
        problems.append(row.problem("gene_name", "cell", reason, remedy))
        text["gene_name"] = text["gene_name"].replace(part, "", 1)
    for column, (name, reader, remedy) in READERS.items():
        try:
            row.values[name] = reader(text[column])
        except ValueError as error:
            row.values[name] = None
            problems.append(row.problem(column, "cell", str(error), remedy))
    try:
        row.values["country"] = recorded_values.country(text["country"])
    except ValueError as error:
        row.values["country"] = None
        remedy = (
            f"it is null; write a country's English name or ISO code for {shown(text['country'])}, or leave it empty"
        )
        problems.append(row.problem("country", "note", str(error), remedy))
    row.values["age_group"] = recorded_values.age_group(row.values["age_years"])
    row.values["hpo_ids"], wrong = recorded_values.hpo_ids(text["hpo_ids"])
    for term in wrong:
        reason = f"{shown(term)} is no current HPO term, and is left out"
        problems.append(row.problem("hpo_ids", "cell", reason, "write it as in HP:0000316, or leave it out"))
    _check_genes(row, problems)
    row.values |= {name: _readable(row, name, cell[name], problems).strip() or None for name in extra}


def _readable(row: Row, column: str, text: str, problems: list[Problem]) -> str:
    """The cell's text; "" and a problem if it is damaged."""
    damage = text and _damage(column, text)
    if not damage:
        return text
    problems.append(row.problem(column, "cell", *damage))
    return ""


def _check_genes(row: Row, problems: list[Problem]) -> None:
    """A note on a gene that HPO does not know; what is too long for a gene is left out."""
    genes = row.values["gene_names"] or []
    for gene in genes:
        if len(gene) > MAX_GENE_CHARACTERS:
            problems.append(
                row.problem("gene_name", "cell", f"{shown(gene)} is no gene, and is left out", "correct it")
            )
        elif current := recorded_values.current_symbol(gene):
            reason = f"{gene} is a former symbol, which spreadsheets take for a date; the gene is {current} now"
            problems.append(row.problem("gene_name", "note", reason, f"write {current}"))
        elif not recorded_values.is_known_gene(gene):
            problems.append(row.problem("gene_name", "note", f"{gene} is no gene that HPO knows", "check its spelling"))
    row.values["gene_names"] = [gene for gene in genes if len(gene) <= MAX_GENE_CHARACTERS] or None


def _subject(row: Row) -> str | None:
    """The subject in the one form in which subjects are compared."""
    subject = row.values["subject_id"]
    return None if subject is None else protocols.subject_key(subject) or None


def _note_spellings(rows: list[Row], problems: list[Problem]) -> None:
    """Notes on one subject in several spellings, on subjects that look alike and are two, on numbers cut short."""
    first: dict[str, Row] = {}
    met: set[str] = set()
    by_look: dict[str, str] = {}  # what looks alike -> the first key of that look
    for row in rows:
        subject, key = row.values["subject_id"], _subject(row)
        if key is None:
            continue
        earlier = first.setdefault(key, row)
        spelt = earlier.values["subject_id"]
        if subject != spelt:
            met.add(subject)
            one, other = _told_apart(subject, spelt)
            reason = f"{one} is {other} of row {earlier.line} in another spelling, and is taken as one patient"
            remedy = f"write {other} in both, if it is one" if len(met) <= EXAMPLES else "use one spelling"
            problems.append(row.problem("subject_id", "note", reason, remedy))
        if re.fullmatch(r"-?\d[.,]\d+e\+\d+", spelling.plain(subject)):
            reason = f"{subject} is a number that a spreadsheet cut short, and may stand for several patients"
            problems.append(row.problem("subject_id", "note", reason, "format the column as text; write it in full"))
        if earlier is row:
            like = first[by_look.setdefault(_look(key), key)]
            if like is not row:
                one, other = _told_apart(subject, like.values["subject_id"])
                reason = f"{one} looks like {other} of row {like.line}, and is taken as another patient"
                problems.append(row.problem("subject_id", "note", reason, "use one spelling if they are one"))


def _told_apart(one: str, other: str) -> tuple[str, str]:
    """Both texts in quotes, with codes for what is not ASCII if a reader might see no difference."""
    seen = [re.sub(r"[^\w .,;:/()'+-]", "", unicodedata.normalize("NFC", text)) for text in (one, other)]
    hidden = seen[0] == seen[1] or seen != [one, other]
    return (ascii(one), ascii(other)) if hidden else (repr(one), repr(other))


def _look(key: str) -> str:
    """A subject's key less what is easily mistaken: accents, letters of other scripts, leading zeros, zeros behind a
    decimal point, and signs between, except that 1-11 does not look like 11-1."""
    text = spelling.in_latin_letters(spelling.without_accents(key))
    text = re.sub(r"[.,]0+$", "", text)
    if re.fullmatch(r"\d{1,3}([ .,']\d{3})+|\d+e\d{1,2}", text):
        number, _, zeros = re.sub(r"[ .,']", "", text).partition("e")
        text = number + "0" * int(zeros or 0)
    if re.fullmatch(r"\d+\.\d+", text):
        text = text.rstrip("0")
    text = re.sub(r"(?<=\d)[\W_]+(?=\d)", ".", text)
    text = re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _name_key(name: str | None) -> str | None:
    """A disease's name less its spelling: capitals, accents and signs."""
    return name and re.sub(r"[\W_]+", " ", spelling.without_accents(spelling.plain(name))).strip()


def _agreeing(rows: list[Row], problems: list[Problem]) -> list[Row]:
    """The rows less those whose ORPHA code contradicts most of their condition, or whose disease name is another
    condition's; notes on names that differ, and on genes of another condition."""
    by_condition: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_condition[row.abbreviation].append(row)
    name_of = {row.line: _name_key(row.values["disease_name"]) for row in rows}
    genes_of = {row.line: tuple(sorted(row.values["gene_names"] or [])) or None for row in rows}
    codes, _ = _most_common(by_condition, {row.line: row.values["orphanet_code"] for row in rows})
    names, named = _most_common(by_condition, name_of)
    genes, with_genes = _most_common(by_condition, genes_of)
    first_spelling: dict[str, str] = {}
    bad = set()
    for abbreviation, members in by_condition.items():
        code = codes.get(abbreviation)
        spelt = first_spelling.setdefault(abbreviation.casefold(), abbreviation)
        if spelt != abbreviation:
            reason = f"{abbreviation} and {spelt} differ in capitals only, and are two conditions"
            problems.append(members[0].problem("disease_abbr", "note", reason, "use one spelling if they are one"))
        usual = next((row for row in members if name_of[row.line] == names.get(abbreviation)), members[0])
        for row in members:
            name, others = row.values["disease_name"], named.get(name_of[row.line])
            if row.values["orphanet_code"] not in (code, None):
                bad.add(row.line)
                reason = f"ORPHA {row.values['orphanet_code']}, but other rows of {abbreviation} have {code}"
                problems.append(row.problem("orphanet_code", "row", reason, "correct the code or the abbreviation"))
            elif name_of[row.line] != names.get(abbreviation) and others:
                bad.add(row.line)
                reason = f"{shown(name)} is the name of {others[0]}, not of {abbreviation} (as in row {usual.line})"
                problems.append(row.problem("disease_name", "row", reason, "correct the name or the abbreviation"))
            elif name is not None and name != usual.values["disease_name"]:
                reason = f"is spelt otherwise than in row {usual.line}, of the same abbreviation {abbreviation}"
                problems.append(row.problem("disease_name", "note", reason, "use one spelling"))
            others = with_genes.get(genes_of[row.line], ())
            if genes_of[row.line] != genes.get(abbreviation) and len(others) == 1 and row.line not in bad:
                reason = f"the genes are those of {others[0]}, not of the other rows of {abbreviation}"
                problems.append(row.problem("gene_name", "note", reason, "check the genes and the abbreviation"))
    return [row for row in rows if row.line not in bad]


def _most_common(
    by_condition: dict[str, list[Row]], value_of: dict[int, str | tuple | None]
) -> tuple[dict[str, str | tuple], dict[str | tuple, list[str]]]:
    """The value that most rows of a condition have; and the conditions of each such value.

    value_of: by a row's line. Of values in equal numbers, one that is no other condition's most common value is taken,
    or else the first of the table."""
    most: dict[str, list] = {}
    for abbreviation, members in by_condition.items():
        counts = Counter(value for row in members if (value := value_of[row.line]) is not None)
        most[abbreviation] = [value for value, count in counts.items() if count == max(counts.values())]
    alone = {values[0] for values in most.values() if len(values) == 1}
    chosen = {}
    for abbreviation, values in most.items():
        if values:
            free = [value for value in values if value not in alone]
            chosen[abbreviation] = free[0] if free and len(values) > 1 else values[0]
    conditions: dict = defaultdict(list)
    for abbreviation, value in chosen.items():
        conditions[value].append(abbreviation)
    return chosen, conditions


def _once(rows: list[Row], problems: list[Problem]) -> list[Row]:
    """Rows less those whose photograph an earlier one has; of rows that are kept already, or both might be lost."""
    first: dict[Path, Row] = {}
    for row in rows:
        if first.setdefault(row.path, row) is not row:
            reason = f"{row.path.name} occurs already in row {first[row.path].line}"
            problems.append(row.problem("image_name", "row", reason, "delete one of the two rows"))
    return list(first.values())


def _note_doubtful(rows: list[Row], problems: list[Problem]) -> None:
    """Notes on one subject under several conditions or of two sexes or with most photographs, and on one ORPHA code or
    disease name under several abbreviations."""
    number_them = "kept as one; number subjects across conditions"
    for column, other, reason, remedy in (
        ("subject_id", "disease_abbr", "subject {} has another condition in row {}", number_them),
        ("subject_id", "sex", "subject {} has another sex in row {}", "kept as one; correct the sex or the subject"),
        ("orphanet_code", "disease_abbr", "ORPHA {} has another abbreviation in row {}", "use one if they are one"),
        ("disease_name", "disease_abbr", "{} has another abbreviation in row {}", "use one if they are one"),
    ):
        first: dict[str, Row] = {}
        noted = set()
        for row in rows:
            value, differs = row.values[column], row.values[other]
            if value is None or differs is None:
                continue
            key = {"subject_id": protocols.subject_key, "disease_name": _name_key}.get(column, str)(value)
            earlier = first.setdefault(key, row)
            if earlier.values[other] != differs and (key, differs) not in noted:
                noted.add((key, differs))
                problems.append(row.problem(column, "note", reason.format(value, earlier.line), remedy))
    _note_catch_all(rows, problems)


def _note_catch_all(rows: list[Row], problems: list[Problem]) -> None:
    """Notes on subjects that may mean "not known", as 0 or "patient" do: with most photographs of the table, or under
    several conditions and with more photographs than twice what others have."""
    of_subject: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if key := _subject(row):
            of_subject[key].append(row)
    usual = median(map(len, of_subject.values())) if len(of_subject) > 1 else 0
    for members in of_subject.values():
        conditions = len({row.abbreviation for row in members})
        several = conditions > 1 and len(members) > max(2, 2 * usual)
        if several or 2 * len(members) > max(len(rows), 7):
            subject = members[0].values["subject_id"]
            under = f"{conditions} condition{'s' * (conditions > 1)}"
            reason = f"subject {subject} has {len(members)} photographs under {under}, of {len(rows)} in all"
            remedy = (
                f"kept as one; if it means not known, leave the cells empty or add --null_values subject_id={subject}"
            )
            problems.append(members[0].problem("subject_id", "note", reason, remedy))


def assign_image_ids(rows: list[Row], problems: list[Problem]) -> None:
    """<ABBR>.<n>: the number in a file name like AAR.3.jpg, where it is the first of its condition to bear it; else the
    condition's next number that no file of its folder bears, with a note, since the published name is the id."""
    taken: dict[str, set[int]] = defaultdict(set)
    unnumbered = []
    for row in rows:
        number = _number(row.abbreviation, row.path)
        if number is None or number in taken[row.abbreviation]:
            unnumbered.append(row)
            continue
        taken[row.abbreviation].add(number)
        row.values["image_id"] = f"{row.abbreviation}.{number}"
    for folder, abbreviation in {(row.path.parent, row.abbreviation): None for row in unnumbered}:
        taken[abbreviation].update(n for path in folder.iterdir() if (n := _number(abbreviation, path)) is not None)
    for row in unnumbered:
        number = next(n for n in itertools.count(1) if n not in taken[row.abbreviation])
        taken[row.abbreviation].add(number)
        row.values["image_id"] = f"{row.abbreviation}.{number}"
        reason = f"{row.path.name} has no number of its own and becomes {row.values['image_id']}"
        problems.append(row.problem("image_name", "note", reason, "name it <disease_abbr>.<number> to choose its id"))


def _number(abbreviation: str, path: Path) -> int | None:
    """3 of AAR.3.jpg."""
    match = re.fullmatch(rf"{re.escape(abbreviation)}\.([0-9]{{1,9}})\.[^.]+", path.name)
    return int(match[1]) if match else None
