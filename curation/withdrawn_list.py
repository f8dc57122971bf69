"""`withdrawn.csv` of a dataset's folder: the photographs that were taken out of it, and never come back."""

import csv
import dataclasses
from pathlib import Path

from harness.errors import InputError
from harness.files import write_atomically

LIST_NAME = "withdrawn.csv"


@dataclasses.dataclass(frozen=True, slots=True)
class Withdrawn:
    """A line of withdrawn.csv; sha256: of the published bytes; withdrawn_on: ISO 8601; version: the first without."""

    image_id: str
    sha256: str
    withdrawn_on: str
    version: str


def read_list(text: str) -> list[Withdrawn]:
    """The lines of a withdrawn.csv. Raises InputError for any other text: no command may go on without the list."""
    names = [field.name for field in dataclasses.fields(Withdrawn)]
    table = csv.DictReader(text.splitlines())
    rows = list(table)
    if table.fieldnames != names or not all(row[name] for row in rows for name in names):
        raise InputError(
            f"{LIST_NAME}: is not the list that a withdrawal writes ({','.join(names)}); put that one back"
        )
    return [Withdrawn(**row) for row in rows]


def listed(folder: Path) -> list[Withdrawn]:
    """The photographs that were withdrawn from a folder's dataset so far."""
    file = folder / LIST_NAME
    return read_list(file.read_text(encoding="utf-8")) if file.is_file() else []


def write_list(folder: Path, withdrawn: list[Withdrawn]) -> None:
    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Withdrawn)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(dataclasses.asdict(line) for line in withdrawn)

    write_atomically(folder / LIST_NAME, write)
