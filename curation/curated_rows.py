"""A row of the curator's table, and what may be wrong with it: one line with file, row, column, reason and remedy."""

from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from imaging.photographs import Photograph

CSV_NAME = "disease_images.csv"
REQUIRED = ("image_name", "disease_name", "disease_abbr", "sub_category", "gene_name", "orphanet_code")
OPTIONAL = ("subject_id", "age", "sex", "country", "hpo_ids", "source_type", "source_url", "license")


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


class FolderError(InputError):
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
