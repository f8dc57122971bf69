"""Reads the curator's table row by row: every problem is noted, and every value gets one form."""

import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from curation import csv_file, own_columns, row_consistency, value_parsers
from curation.curated_rows import (
    CSV_NAME,
    IMAGES,
    NO_REMEDY,
    OPTIONAL,
    REQUIRED,
    FolderError,
    Problem,
    Row,
    check_is_folder,
    quoted,
)
from curation.extra_null_values import NullValues
from harness import text_normalization
from harness.csv_table import SEPARATORS
from harness.null_words import is_null

MAX_CHARACTERS = {  # per column: at least five times the longest value that is known
    "subject_id": 200, "disease_name": 500, "sub_category": 200, "gene_name": 20_000, "orphanet_code": 100, "age": 100,
    "sex": 100, "country": 200, "hpo_ids": 20_000, "source_type": 200, "source_url": 4_000, "license": 4_000,
}  # fmt: skip
MAX_OWN_CHARACTERS = 20_000  # of a cell of the curator's own columns, which are free text
MAX_GENE_CHARACTERS = 50
ADD_OR_DELETE = "correct the name, add the file or delete the row"
MOST_FILES_NAMED = 10  # in the note on files that no row names
READERS: dict[str, tuple[str, Callable, str]] = {  # CSV column -> dataset column, reader, remedy
    "subject_id": ("subject_id", value_parsers.text_or_none, ""),
    "disease_name": ("disease_name", value_parsers.text_or_none, ""),
    "sub_category": ("sub_category", value_parsers.text_or_none, ""),
    "gene_name": ("gene_names", value_parsers.gene_names, ""),
    "orphanet_code": ("orphanet_code", value_parsers.orphanet_code, "write its digits, as in 192, or leave it empty"),
    "age": ("age_years", value_parsers.age_years, 'write years, or as in "3 months" or "2y 6m", or leave it empty'),
    "sex": ("sex", value_parsers.sex, f"write {value_parsers.SEX_WORDS}, or leave it empty"),
    "source_type": ("source_type", value_parsers.text_or_none, ""),
    "source_url": ("source_url", value_parsers.text_or_none, ""),
    "license": ("license", value_parsers.text_or_none, ""),
}
CSV_COLUMN_OF = {name: column for column, (name, *_) in READERS.items()}  # by the dataset's column


@dataclass
class Folder:
    """The files below rd_images. A folder is listed once, and only if it holds no file of a name as it is written."""

    root: Path
    _listed: dict[Path, dict[str, str]] = field(default_factory=dict)
    _asked_for: set[str] = field(default_factory=set)
    _unread: dict[str, list[set[str]]] = field(default_factory=lambda: defaultdict(list))  # file -> folders, if told

    def set_aside(self, names: Iterable[str], folders: Iterable[str] = ()) -> None:
        """Note that a row that cannot be used names one of these files, in one of these folders if there are any."""
        folders = {_same_spelling(folder.strip()) for folder in folders}
        for name in names:
            self._unread[_same_spelling(name.strip())].append(folders)

    def find(self, abbreviation: str, name: str) -> Path | tuple[str, str]:
        """The file of this name, even if its Unicode form differs, or the reason why there is none, and the remedy."""
        if name in ("", ".", "..") or re.search(r"[/\\\0]", name) or len(name.encode()) > 255:
            return (f"{name!r} is not a bare file name" if name else "is empty"), ADD_OR_DELETE
        try:
            return self._find(abbreviation, name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror}: check the permissions)", ADD_OR_DELETE

    def _find(self, abbreviation: str, name: str) -> Path | tuple[str, str]:
        path = self._condition(abbreviation) / name
        if not path.exists():
            names = self._names(path.parent)
            key = _same_spelling(name)
            folder = self._names(path.parent.parent).get(_same_spelling(abbreviation))
            if not names and folder and not path.parent.exists():
                self._asked_for.add(_same_spelling(str(path)))
                reason = f"{name} is missing: there is no folder {abbreviation}, but {folder}, in other capitals"
                return reason, f"write {folder} as disease_abbr, or rename the folder"
            if key not in names:
                like = [other for spelt, other in names.items() if _is_but_for_ending(key, spelt)]
                self._asked_for.update(_same_spelling(str(path.with_name(other))) for other in like[:1])
                return f"{name} is missing" + (f" (there is {like[0]})" if like else ""), ADD_OR_DELETE
            self._asked_for.add(_same_spelling(str(path.with_name(names[key]))))
            if unicodedata.normalize("NFC", names[key]) != unicodedata.normalize("NFC", name):
                reason = f"{name} is missing (there is {names[key]}, in other capitals)"
                return reason, f"write {names[key]}, or rename the file"
            path = path.with_name(names[key])
        inside = os.path.realpath(self.root / IMAGES)  # resolve() would raise RuntimeError over a link to itself
        if not Path(os.path.realpath(path)).is_relative_to(inside):
            return f"{name} is a link that leads out of the folder", ADD_OR_DELETE
        if path.is_symlink() and not path.exists():
            return f"{name} is a link that leads to no file", ADD_OR_DELETE
        self._asked_for.add(_same_spelling(str(path)))
        return path if path.is_file() else (f"{name} is not a file", ADD_OR_DELETE)

    def unnamed(self) -> list[str]:
        """The files below rd_images that no row names, as paths within it, without hidden ones."""
        images = self.root / IMAGES
        files = (Path(folder) / name for folder, _, names in os.walk(images) for name in names if name[0] != ".")
        never_asked_for = (path for path in files if _same_spelling(str(path)) not in self._asked_for)
        return sorted(str(path.relative_to(images)) for path in never_asked_for if not self._is_set_aside(path))

    def _is_set_aside(self, path: Path) -> bool:
        folder = _same_spelling(path.parent.name)
        return any(not told or folder in told for told in self._unread.get(_same_spelling(path.name), ()))

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


def _is_but_for_ending(name: str, other: str) -> bool:
    """Whether two names differ in their endings only, as WIL.9.png or WIL.9 does from WIL.9.jpg."""
    return other.rpartition(".")[0] in (name, text_normalization.without_ending(name))


def _same_spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def read(
    folder: Path, problems: list[Problem], reserved: Collection[str] = (), null_values: Iterable[str] = ()
) -> tuple[list[Row], list[str]]:
    """The usable rows and the names of the curator's own columns; whatever is wrong is appended to the problems.

    reserved: names of columns that a build writes, which no column of the curator's own may have; null_values: further
    texts for "not known", TEXT or COLUMN=TEXT.
    Raises FolderError if nothing can be read: no table, a missing column, no rows, no photographs."""
    check_is_folder(folder)
    header, records = csv_file.read(folder, problems)
    if not records:
        raise FolderError(CSV_NAME, "has no rows", "add one row per image")
    if not any((folder / IMAGES).glob("*/*")):
        raise FolderError(IMAGES, "holds no images", f"put them into {IMAGES}/<disease_abbr>/")
    extra = own_columns.own_columns(header, reserved, CSV_COLUMN_OF, problems)
    rows = []
    files, nulls = Folder(folder), NullValues(null_values)
    place = {name: number for number, name in enumerate(header.names) if name}
    written = {
        _abbreviation(cells[place["disease_abbr"]]) for _, cells in records if place["disease_abbr"] < len(cells)
    }
    abbreviations = {text_normalization.plain(abbreviation): abbreviation for abbreviation in written}
    nameless = [number for number, name in enumerate(header.names) if not name]
    for line, cells in records:
        cell = _cells(line, cells, header, problems)
        if cell is None:
            files.set_aside(cells, cells)  # in whichever columns the two names now stand
        row = cell and _usable_row(line, cell, files, abbreviations, problems)
        if row:
            _read_values(row, cell, extra, nulls, problems)
            rows.append(row)
        elif cell and not _damage("subject_id", cell.get("subject_id", "")):  # so that one look finds all mistakes
            _read_values(Row(line, "", folder, {}), cell, extra, nulls, problems)
        unread = [number + 1 for number in nameless if any(map(str.isalnum, "".join(cells[number : number + 1])))]
        if unread:
            reason = f"column {unread[0]} has no name, and is left out"
            problems.append(Problem(CSV_NAME, line, None, "note", reason, "name it in the header to keep it"))
    for text in nulls.unmet.values():
        reason = f"no cell holds {quoted(text)}, which --null_values names"
        problems.append(Problem(CSV_NAME, None, None, "note", reason, f"check the spelling of {quoted(text)}"))
    _note_unnamed(files, problems)
    row_consistency.note_spellings(rows, problems)
    rows = _once(row_consistency.agreeing(rows, problems), problems)
    row_consistency.note_doubtful(rows, problems)
    return rows, extra


def _note_unnamed(files: Folder, problems: list[Problem]) -> None:
    """Add a note on the files that no row names: a row may have been forgotten."""
    names = files.unnamed()
    if names:
        more = f" and {len(names) - MOST_FILES_NAMED} more" if len(names) > MOST_FILES_NAMED else ""
        reason = f"no row names {', '.join(map(quoted, names[:MOST_FILES_NAMED]))}{more}"
        remedy = "add a row for each photograph that belongs here; other files are left out"
        if any(name.casefold().endswith((".heic", ".heif")) for name in names):
            remedy += "; export HEIC as JPEG or PNG first"
        problems.append(Problem(IMAGES, None, None, "note", reason, remedy))


def _cells(line: int, cells: list[str], header: csv_file.Header, problems: list[Problem]) -> dict[str, str] | None:
    """The cells by column, empty if a spreadsheet left them out at the row's end; None after adding a problem."""
    columns, counted = len(header.names), f"has {len(cells)} cell{'s' * (len(cells) != 1)}"
    if len(cells) > columns:
        reason = f"{counted}, where the header has {columns}"
        is_empty = not any(cell.strip() for cell in cells[columns:])
        remedy = f"quote cells that hold {SEPARATORS[header.separator]}"
        remedy += ' (a decimal comma, as in "6,5", may be the cause), ' if header.separator == "," else ", "
        remedy += "or delete the empty cells at the row's end" if is_empty else "and name every column"
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
        problems.append(Problem(CSV_NAME, line, None, "note", reason, f"{NO_REMEDY} if they are"))
    return dict(zip(header.names, [*cells, *[""] * columns], strict=False))


def _abbreviation(cell: str) -> str:
    return unicodedata.normalize("NFC", cell.strip())  # never a null: "NA" is a condition here


def _usable_row(
    line: int, cell: dict[str, str], files: Folder, abbreviations: dict[str, str], problems: list[Problem]
) -> Row | None:
    """The row with its photograph's path, or None and a problem. abbreviations: all of the table, by plain spelling."""

    def refuse(column: str | None, reason: str, remedy: str) -> None:
        problems.append(Problem(CSV_NAME, line, column, "row", reason, remedy))

    abbreviation, name = _abbreviation(cell["disease_abbr"]), cell["image_name"].strip()
    if not abbreviation:
        files.set_aside([name])
        return refuse("disease_abbr", "is empty", "add the abbreviation, or delete the row")
    if not re.fullmatch(r"[^\W_][\w .+()'-]*", abbreviation) or len(abbreviation) > 100:
        files.set_aside([name])
        return refuse("disease_abbr", f"{quoted(abbreviation)} cannot name a folder", "use letters, digits, - and _")
    path = files.find(abbreviation, name)
    # A row whose subject cannot be read is refused: the same person might be on both sides of a fold otherwise.
    damage = _damage("subject_id", cell.get("subject_id", ""))
    if damage:
        return refuse("subject_id", *damage)
    other = _other_abbreviation(abbreviation, name, r"\.[0-9]+", abbreviations)
    if other:
        reason = f"{quoted(name)} is named as a photograph of {other}, but its row is of {abbreviation}"
        return refuse("image_name", reason, "correct the abbreviation, or rename the file")
    if isinstance(path, tuple):
        return refuse("image_name", *path)
    other = _other_abbreviation(abbreviation, name, r"[ _-]*\(?[0-9]+\)?", abbreviations)
    if other:
        reason = f"{quoted(name)} begins as {other} does, but its row is of {abbreviation}"
        problems.append(Problem(CSV_NAME, line, "image_name", "note", reason, "check the abbreviation"))
    return Row(line, abbreviation, path, {"disease_abbr": abbreviation})


def _other_abbreviation(abbreviation: str, name: str, number: str, abbreviations: dict[str, str]) -> str | None:
    """The other condition that a file's name begins with: G01 for G01.9.jpg, if the table has a condition G01."""
    match = re.fullmatch(rf"(.+?){number}\.[^.]+", name)
    stem = text_normalization.plain(match[1]) if match else ""
    own = text_normalization.plain(abbreviation)
    if stem == own or text_normalization.plain(Path(name).stem) == own:
        return None
    return abbreviations.get(stem)


def _damage(column: str, text: str) -> tuple[str, str] | None:
    """Reason and remedy for a cell that is longer than any value of its column, or that holds a control character."""
    most = MAX_CHARACTERS.get(column, MAX_OWN_CHARACTERS)
    if len(text) > most and len(text.strip()) > most:
        return f"has {len(text.strip()):,} characters, more than the {most:,} that a cell of it may have", "shorten it"
    control = text_normalization.control_character(text)
    return (f"holds the control character {control}", "delete that character") if control else None


def _read_values(row: Row, cell: dict[str, str], extra: list[str], nulls: NullValues, problems: list[Problem]) -> None:
    """Fill in the row's recorded values; a value that cannot be read becomes null."""
    text = {column: _readable(row, column, cell.get(column, ""), problems) for column in OPTIONAL + REQUIRED[1:]}
    for column in (*READERS, "country", "hpo_ids"):
        if text[column].strip() and nulls.hold(column, text[column]):
            reason = f"{quoted(text[column])} is read as not known, as --null_values says"
            problems.append(row.problem(column, "note", reason, NO_REMEDY))
            text[column] = ""
    if text["subject_id"].strip() and is_null(text["subject_id"]):
        subject = quoted(text["subject_id"])
        remedy = f"{NO_REMEDY}, unless {subject} names a person"
        problems.append(row.problem("subject_id", "note", f"{subject} is read as not known", remedy))
    for part, genes in value_parsers.dates_for_genes(text["gene_name"]).items():
        cause = (
            f"a spreadsheet made it of {' or '.join(genes)}" if genes else "a spreadsheet may have made it of a gene"
        )
        reason = f"{quoted(part)} is a date or a number, no gene ({cause})"
        remedy = f"write {genes[0] if len(genes) == 1 else 'the symbol of the gene'}, and format the column as text"
        remedy += "; --skip_bad leaves out only this entry"
        problems.append(row.problem("gene_name", "cell", reason, remedy))
        text["gene_name"] = text["gene_name"].replace(part, "", 1)
    for column, (name, reader, remedy) in READERS.items():
        try:
            row.values[name] = reader(text[column])
        except ValueError as error:
            row.values[name] = None
            problems.append(row.problem(column, "cell", str(error), remedy))
    try:
        row.values["country"] = value_parsers.country(text["country"])
    except ValueError as error:
        row.values["country"] = None
        remedy = (
            f"it is null; write a country's English name or ISO code for {quoted(text['country'])}, or leave it empty"
        )
        problems.append(row.problem("country", "note", str(error), remedy))
    row.values["age_group"] = value_parsers.age_group(row.values["age_years"])
    row.values["hpo_ids"], wrong = value_parsers.hpo_ids(text["hpo_ids"])
    for term in wrong:
        reason = f"{quoted(term)} is no current HPO term"
        problems.append(
            row.problem(
                "hpo_ids",
                "cell",
                reason,
                "write it as in HP:0000316, or delete it; --skip_bad leaves out only this entry",
            )
        )
    _check_genes(row, problems)
    row.values |= {name: _readable(row, name, cell[name], problems).strip() or None for name in extra}


def _readable(row: Row, column: str, text: str, problems: list[Problem]) -> str:
    """The cell's text; "" if it is damaged, which becomes a problem."""
    damage = text and _damage(column, text)
    if not damage:
        return text
    problems.append(row.problem(column, "cell", *damage))
    return ""


def _check_genes(row: Row, problems: list[Problem]) -> None:
    """Add a note on each gene that HPO does not know; a text that is too long for a gene is left out."""
    genes = row.values["gene_names"] or []
    for gene in genes:
        if len(gene) > MAX_GENE_CHARACTERS:
            reason = f"{quoted(gene)} has more than {MAX_GENE_CHARACTERS} characters, and is no gene"
            problems.append(
                row.problem("gene_name", "cell", reason, "correct it; --skip_bad leaves out only this entry")
            )
        elif current := value_parsers.current_symbol(gene):
            reason = f"{gene} is a former symbol, which spreadsheets take for a date; the gene is {current} now"
            problems.append(row.problem("gene_name", "note", reason, f"write {current}"))
        elif not value_parsers.is_known_gene(gene):
            problems.append(row.problem("gene_name", "note", f"{gene} is no gene that HPO knows", "check its spelling"))
    row.values["gene_names"] = [gene for gene in genes if len(gene) <= MAX_GENE_CHARACTERS] or None


def _once(rows: list[Row], problems: list[Problem]) -> list[Row]:
    """The rows without those whose photograph an earlier row has.

    Called once the unusable rows are out, since otherwise both rows of a photograph might be lost."""
    first: dict[Path, Row] = {}
    for row in rows:
        if first.setdefault(row.path, row) is not row:
            reason = f"{row.path.name} occurs already in row {first[row.path].line}"
            problems.append(row.problem("image_name", "row", reason, "delete one of the two rows"))
    return list(first.values())


def assign_image_ids(rows: list[Row], problems: list[Problem]) -> None:
    """Fill in image_id, <ABBR>.<n>, by which a photograph is published.

    n is the number in a file name like AAR.3.jpg, if the row is the first of its condition with that number. Otherwise
    it is the condition's next number that no file of its folder bears, and a note says so."""
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
    upcoming: dict[str, itertools.count] = defaultdict(lambda: itertools.count(1))
    for row in unnumbered:
        number = next(n for n in upcoming[row.abbreviation] if n not in taken[row.abbreviation])
        taken[row.abbreviation].add(number)
        row.values["image_id"] = f"{row.abbreviation}.{number}"
        reason = f"{row.path.name} has no number of its own and becomes {row.values['image_id']}"
        problems.append(row.problem("image_name", "note", reason, "name it <disease_abbr>.<number> to choose its id"))


def _number(abbreviation: str, path: Path) -> int | None:
    """3 of AAR.3.jpg."""
    match = re.fullmatch(rf"{re.escape(abbreviation)}\.([0-9]{{1,9}})\.[^.]+", path.name)
    return int(match[1]) if match else None
