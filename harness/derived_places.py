"""The list of what was made from a dataset's folder: run folders, pages and caches, written as they are begun.

    note(["rdface"], Path("runs/first"), "run")     # appends to .rdface.derived beside the folder
    for place in noted(Path("rdface")): ...

A withdrawal follows the list. It lies beside the dataset, since a build replaces the folder as a whole.
"""

import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RUN, PAGE, CACHE = "run", "page", "cache"
MADE_HERE = ("README.md", "predictions.parquet", "settings.json")  # in a dataset's folder, or in a run's
CONTENT = re.compile(r"config_name: real\n(?:.*\n)??.*?content ([0-9a-f]{64})")


@dataclass(frozen=True)
class Place:
    """path: absolute; kind: RUN, PAGE (one file) or CACHE; content: digest of the photographs' files at that time."""

    path: str
    kind: str
    content: str | None


def note(datasets: Sequence[str | os.PathLike], path: Path, kind: str) -> None:
    """Adds a place to the lists of these datasets, or runs from which it is made; of names on the Hub there is none.

    A list that cannot be written is no reason not to run: a withdrawal can still be given the place by --derived."""
    for dataset in datasets:
        folder = Path(os.path.realpath(dataset))
        if not any((folder / name).is_file() for name in MADE_HERE):
            continue
        place = Place(os.path.abspath(path), kind, content_of(folder))
        with contextlib.suppress(OSError):
            if place not in noted(folder):
                with list_of(folder).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(place)) + "\n")


def list_of(folder: Path) -> Path:
    home = Path(os.path.realpath(folder))
    return home.with_name(f".{home.name}.derived")


def noted(folder: Path) -> list[Place]:
    """The places on a dataset's list, each once. A line that was cut short is left out."""
    places = []
    file = list_of(folder)
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        with contextlib.suppress(ValueError, TypeError):
            places.append(Place(**json.loads(line)))
    return list(dict.fromkeys(places))


def content_of(folder: Path) -> str | None:
    """The digest of the photographs' files that a dataset's card states; None if it states none."""
    card = folder / "README.md"
    found = CONTENT.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    return found[1] if found else None
