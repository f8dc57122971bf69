"""A row of the curator's table, and what may be wrong with it: one line with file, row, column, reason and remedy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError

if TYPE_CHECKING:
    from imaging.photographs import Photograph

CSV_NAME = "disease_images.csv"
IMAGES = "rd_images"
REQUIRED = ("image_name", "disease_name", "disease_abbr", "sub_category", "gene_name", "orphanet_code")
OPTIONAL = ("subject_id", "age", "sex", "country", "hpo_ids", "source_type", "source_url", "license")
NO_REMEDY = "nothing needs doing"


@dataclass(frozen=True)
class Problem:
    """severity: "file" (nothing can be done), "row" (unusable), "cell" (its value becomes null), or "note" (a build is
    possible; a text that is no country, or that means "not known", becomes null).

    row: the line of the file on which the record starts; the first line of the file is 1."""

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
    rewritten: Path | None = None  # the file in which the photograph's re-encoded bytes wait

    def problem(self, column: str, severity: str, reason: str, remedy: str) -> Problem:
        return Problem(CSV_NAME, self.line, column, severity, reason, remedy)


def check_is_folder(folder: Path) -> None:
    """Raise FolderError if the curator's folder is none, or may not be looked into."""
    if not os.path.isdir(folder):
        raise FolderError(str(folder), "is not a folder", f"give the folder that holds {CSV_NAME}")


def quoted(text: str) -> str:
    """A cell's text for a message: one short line in quotation marks."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 40 else line[:37] + "...")
