"""The folder that a build writes: whether it may be replaced, and how it is replaced whole or left as it was."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from curation import dataset_figures, datasheet, pairs_to_look_at, withdrawn_list
from curation.curated_rows import FolderError
from harness.run_folder import check_replaceable

WRITTEN = {  # all that a build makes, with real/*.parquet
    "README.md", "LICENSE", "croissant.json", "rejected.csv", "build_record.json", "real", "figures",
    withdrawn_list.LIST_NAME, pairs_to_look_at.PAGE, pairs_to_look_at.TEMPLATE,
    *(f"figures/{name}" for name in dataset_figures.FIGURES),
}  # fmt: skip
ELSEWHERE = "choose another --output_dir"
MADE_OF_EARLIER = ("restored", "reports")  # configs that stand beside an earlier build and would be lost with it


def check_path(target: Path) -> None:
    """Raise FolderError if `load_dataset` would take the target's path for a pattern or a chain of addresses."""
    if re.search(r"[\[\]*?]|::", str(target)):
        reason = "has [, ], *, ? or :: in its path, so that load_dataset could not open it"
        raise FolderError(target.name, reason, ELSEWHERE)


def prepare_workspace(target: Path, folder: Path) -> Path:
    """A new folder beside the target for everything that a build writes before the result takes the target's place.

    folder: the curator's. Undoes what a killed build left behind. Raises FolderError if the target may not be replaced,
    or nothing can be written beside it."""
    try:
        recover(target)
        check_target(target, folder)
        check_replaceable(target)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent))
    except OSError as error:
        raise FolderError(target.name, f"cannot be written ({error.strerror})", ELSEWHERE) from error


def check_target(target: Path, folder: Path) -> None:
    """Raise FolderError unless the target is absent, empty, or an earlier build with nothing else in it."""
    source = Path(os.path.realpath(folder))
    if source == target or target in source.parents:
        raise FolderError(target.name, "holds the curator's folder", ELSEWHERE)
    if target.is_symlink():  # still, though its path was resolved
        raise FolderError(target.name, "is a link that leads to itself", ELSEWHERE)
    if target.exists() and not target.is_dir():
        raise FolderError(target.name, "is a file", ELSEWHERE)
    if target.is_dir() and any(target.iterdir()):
        readme = target / "README.md"
        if not (readme.is_file() and datasheet.GENERATOR in readme.read_text(encoding="utf-8", errors="replace")):
            raise FolderError(target.name, "is not empty and no earlier build", ELSEWHERE)
        _check_contents(target)


def _check_contents(target: Path) -> None:
    """Raise FolderError if an earlier build holds what no build writes, since the next build would delete it."""
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if name in WRITTEN or re.fullmatch(r"real/train-\d{5}-of-\d{5}\.parquet", name):
            continue
        remedy = f"move it away, or {ELSEWHERE}"
        if name in MADE_OF_EARLIER:
            remedy = f"it was made of the earlier build: {ELSEWHERE}, or delete it and make it again afterwards"
        raise FolderError(target.name, f"holds {name}, which no build writes and the next would delete", remedy)


def _previous(target: Path) -> Path:
    return target.parent / f".{target.name}.previous"


def recover(target: Path) -> None:
    """Undo what a killed build left behind: its workspace, and the old target if it was moved aside already."""
    if _previous(target).exists() and not target.exists():
        _previous(target).rename(target)
    for leftover in (_previous(target), *target.parent.glob(f".{target.name}.building-*")):
        shutil.rmtree(leftover, ignore_errors=True)


def replace(target: Path, made: Path) -> None:
    """Put the finished folder in the target's place; a stop between the two renames is undone by `recover`."""
    if target.exists():
        target.rename(_previous(target))
    made.rename(target)
