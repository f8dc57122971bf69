"""The curator's table `disease_images.csv`: read row by row, every problem noted, every value in one form."""

import codecs
import csv
import io
import itertools
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import recorded_values
from photographs import Photograph

CSV_NAME = "disease_images.csv"
IMAGES = "rd_images"
MAX_CELL_CHARACTERS = 1_000_000
REQUIRED = ("image_name", "disease_name", "disease_abbr", "sub_category", "gene_name", "orphanet_code")
OPTIONAL = ("subject_id", "age", "sex", "country", "hpo_ids", "source_type", "source_url", "license")
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
    "country": ("country", recorded_values.country, "write its English name or ISO code, or leave it empty"),
    "source_type": ("source_type", recorded_values.text_or_none, ""),
    "source_url": ("source_url", recorded_values.text_or_none, ""),
    "license": ("license", recorded_values.text_or_none, ""),
}


@dataclass(frozen=True)
class Problem:
    """severity: "file" (nothing can be done), "row" (unusable), "cell" (its value becomes null), "note" (nothing lost);
    row: the line of the file on which the record starts, the header being line 1."""

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


def read(folder: Path, problems: list[Problem]) -> tuple[list[Row], list[str]]:
    """The usable rows and the names of the curator's own columns; all that is wrong is appended to the problems.

    Raises FolderError where nothing can be read: no table, a missing column, no rows, no photographs."""
    if not os.path.isdir(folder):  # False also where nobody may look
        raise FolderError(folder.name, "is not a folder", f"give the folder that holds {CSV_NAME}")
    header, records = _records(folder, problems)
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        found = [other for other in header if other not in REQUIRED and other.casefold() in missing]
        hint = "separate the cells by commas" if any(c in header[0] for c in ";\t") else "add it"
        hint = f"there is {', '.join(found)}: write it in small letters" if found else hint
        raise FolderError(CSV_NAME, f"column {', '.join(missing)} is missing", hint, row=1)
    repeated = [name for name, count in Counter(header).items() if name and count > 1]
    if repeated:
        raise FolderError(CSV_NAME, f"column {', '.join(repeated)} occurs twice", "rename one of them", row=1)
    if not records:
        raise FolderError(CSV_NAME, "has no rows", "add one row an image")
    if not any((folder / IMAGES).glob("*/*")):
        raise FolderError(IMAGES, "holds no images", f"put them into {IMAGES}/<disease_abbr>/")
    extra = [name for name in header if name and name not in REQUIRED + OPTIONAL]
    if extra:
        shown = (f"{name} (or is it {name.casefold()}?)" if name.casefold() in OPTIONAL else name for name in extra)
        reason = f"unknown columns are kept as text: {', '.join(shown)}"
        problems.append(Problem(CSV_NAME, 1, None, "note", reason, "nothing needs doing"))
    rows = []
    files = Folder(folder)
    for line, cells in records:
        row = _usable_row(line, cells, header, files, problems)
        if row:
            _read_values(row, dict(zip(header, cells, strict=True)), extra, problems)
            rows.append(row)
    rows = _once(_agreeing(rows, problems), problems)
    _note_doubtful(rows, problems)
    return rows, extra


def _records(folder: Path, problems: list[Problem]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the line where it starts with the cells of each record; blank lines are passed over."""
    try:
        data = (folder / CSV_NAME).read_bytes()
    except FileNotFoundError:
        raise FolderError(CSV_NAME, "is missing", f"put it into {folder.name}") from None
    except OSError as error:
        raise FolderError(CSV_NAME, f"cannot be read ({error.strerror})", "make it a readable file") from None
    text = _text(data, problems)
    if "\0" in text:
        raise FolderError(CSV_NAME, "is not text", "save it as CSV in UTF-8")
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records, start = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        reason = f"a quoted cell is not closed properly ({error})"
        if "field limit" in str(error):
            reason = f"a cell has more than {MAX_CELL_CHARACTERS:,} characters, or its quotation mark is not closed"
        raise FolderError(CSV_NAME, reason, "correct it", row=start) from None
    if not records:
        raise FolderError(CSV_NAME, "is empty", f"add the columns {', '.join(REQUIRED)}, and one row an image")
    return [name.strip() for name in records[0][1]], records[1:]


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


def _usable_row(line: int, cells: list[str], header: list[str], files: Folder, problems: list[Problem]) -> Row | None:
    """The row with its photograph's path, or None and a problem."""

    def refuse(column: str | None, reason: str, remedy: str) -> None:
        problems.append(Problem(CSV_NAME, line, column, "row", reason, remedy))

    if len(cells) != len(header):
        reason = f"has {len(cells)} cells, where the header has {len(header)}"
        return refuse(None, reason, "quote cells that hold a comma")
    cell = dict(zip(header, cells, strict=True))
    abbreviation = unicodedata.normalize("NFC", cell["disease_abbr"].strip())  # never a null: "NA" is a condition here
    if not abbreviation:
        return refuse("disease_abbr", "is empty", "add the abbreviation")
    if not re.fullmatch(r"[^\W_][\w .+()'-]*", abbreviation) or len(abbreviation) > 100:
        return refuse("disease_abbr", f"{abbreviation!r} cannot name a folder", "use letters, digits, - and _")
    name = cell["image_name"].strip()
    path = files.find(abbreviation, name)
    if isinstance(path, str):
        return refuse("image_name", path, "correct the name, add the file or delete the row")
    return Row(line, abbreviation, path, {"disease_abbr": abbreviation})


def _read_values(row: Row, cell: dict[str, str], extra: list[str], problems: list[Problem]) -> None:
    """Fill in the row's recorded values; a value that cannot be read becomes null."""
    for column, (name, reader, remedy) in READERS.items():
        try:
            row.values[name] = reader(cell.get(column, ""))
        except ValueError as error:
            row.values[name] = None
            problems.append(row.problem(column, "cell", str(error), remedy))
    row.values["age_group"] = recorded_values.age_group(row.values["age_years"])
    row.values["hpo_ids"], wrong = recorded_values.hpo_ids(cell.get("hpo_ids", ""))
    for term in wrong:
        reason = f"{term!r} is no current HPO term, and is left out"
        problems.append(row.problem("hpo_ids", "cell", reason, "write it as in HP:0000316, or leave it out"))
    for gene in row.values["gene_names"] or []:
        if not recorded_values.is_known_gene(gene):
            problems.append(row.problem("gene_name", "note", f"{gene} is no gene that HPO knows", "check its spelling"))
    row.values |= {name: cell[name].strip() or None for name in extra}


def _agreeing(rows: list[Row], problems: list[Problem]) -> list[Row]:
    """The rows less those whose ORPHA code contradicts most of their condition; notes on names that differ."""
    by_condition: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_condition[row.abbreviation].append(row)
    first_spelling: dict[str, str] = {}
    bad = set()
    for abbreviation, members in by_condition.items():
        codes = Counter(row.values["orphanet_code"] for row in members if row.values["orphanet_code"])
        code = codes.most_common(1)[0][0] if codes else None
        spelling = first_spelling.setdefault(abbreviation.casefold(), abbreviation)
        if spelling != abbreviation:
            reason = f"{abbreviation} and {spelling} differ in capitals only, and are two conditions"
            problems.append(members[0].problem("disease_abbr", "note", reason, "use one spelling if they are one"))
        for row in members:
            if row.values["orphanet_code"] not in (code, None):
                bad.add(row.line)
                reason = f"ORPHA {row.values['orphanet_code']}, but other rows of {abbreviation} have {code}"
                problems.append(row.problem("orphanet_code", "row", reason, "correct the code or the abbreviation"))
            elif row.values["disease_name"] != members[0].values["disease_name"]:
                reason = f"is spelt otherwise than in row {members[0].line}, of the same abbreviation {abbreviation}"
                problems.append(row.problem("disease_name", "note", reason, "use one spelling"))
    return [row for row in rows if row.line not in bad]


def _once(rows: list[Row], problems: list[Problem]) -> list[Row]:
    """Rows less those whose photograph an earlier one has; of rows that are kept already, or both might be lost."""
    first: dict[Path, Row] = {}
    for row in rows:
        if first.setdefault(row.path, row) is not row:
            reason = f"{row.path.name} occurs already in row {first[row.path].line}"
            problems.append(row.problem("image_name", "row", reason, "delete one of the two rows"))
    return list(first.values())


def _note_doubtful(rows: list[Row], problems: list[Problem]) -> None:
    """Notes on one subject under several conditions or of two sexes, and on one ORPHA code under several
    abbreviations."""
    number_them = "kept as one; number subjects across conditions"
    for column, other, reason, remedy in (
        ("subject_id", "disease_abbr", "subject {} has another condition in row {}", number_them),
        ("subject_id", "sex", "subject {} has another sex in row {}", "kept as one; correct the sex or the subject"),
        ("orphanet_code", "disease_abbr", "ORPHA {} has another abbreviation in row {}", "use one if they are one"),
    ):
        first: dict[str, Row] = {}
        noted = set()
        for row in rows:
            value, differs = row.values[column], row.values[other]
            if value is None or differs is None:
                continue
            earlier = first.setdefault(value, row)
            if earlier.values[other] != differs and (value, differs) not in noted:
                noted.add((value, differs))
                problems.append(row.problem(column, "note", reason.format(value, earlier.line), remedy))


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
