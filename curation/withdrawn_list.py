"""`withdrawn.csv` of a dataset's folder: the photographs that were taken out of it, and never come back."""

import csv
import dataclasses
import re
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

    @property
    def is_well_formed(self) -> bool:
        """Whether each value has the form that a withdrawal gives it."""
        named = re.fullmatch(r"[^\s,/\\]{1,64}\.[0-9]{1,9}", self.image_id)
        dated = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", self.withdrawn_on)
        numbered = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}){2}", self.version)
        return bool(named and dated and numbered and re.fullmatch("[0-9a-f]{64}", self.sha256))


def read_list(text: str) -> list[Withdrawn]:
    """The lines of a withdrawn.csv. Raises InputError for any other text: no command may go on without the list."""
    names = [field.name for field in dataclasses.fields(Withdrawn)]
    table = csv.DictReader(text.splitlines())
    rows = list(table)
    if table.fieldnames != names or not all(set(row) == set(names) and all(row.values()) for row in rows):
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
