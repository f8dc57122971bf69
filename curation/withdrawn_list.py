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
    """A line of withdrawn.csv; sha256: of the published bytes; withdrawn_on: ISO 8601; version: the first without;
    pixels_sha256: as in photographs.Photograph, empty in lines of earlier releases."""

    image_id: str
    sha256: str
    withdrawn_on: str
    version: str
    pixels_sha256: str = ""

    @property
    def is_well_formed(self) -> bool:
        """Whether each value has the form that a withdrawal gives it."""
        named = re.fullmatch(r"[^\s,/\\]{1,64}\.[0-9]{1,9}", self.image_id)
        dated = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", self.withdrawn_on)
        numbered = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}){2}", self.version)
        digests = [self.sha256, *[self.pixels_sha256] * bool(self.pixels_sha256)]
        return bool(named and dated and numbered and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests))


def read_list(text: str) -> list[Withdrawn]:
    """The lines of a withdrawn.csv. Raises InputError for any other text: no command may go on without the list."""
    names = [field.name for field in dataclasses.fields(Withdrawn)]
    table = csv.DictReader(text.splitlines())
    rows = list(table)
    required = names[:-1]
    is_whole = all(set(row) <= set(names) and all(row[name] for name in required) for row in rows)
    if table.fieldnames not in (names, required) or not is_whole:
        raise InputError(
            f"{LIST_NAME}: is not the list that a withdrawal writes ({','.join(names)}); put that one back"
        )
    return [Withdrawn(**{name: text or "" for name, text in row.items()}) for row in rows]


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
