"""Opens a folder of somebody else's synthetic faces, FOLDER/<ABBR>/<ABBR>_<n>.png, which says nothing of its sources.

Such images can be examined, but they are marked as of unknown origin, so no guard lets them into a training."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import datasets

from curation.opening import FINGERPRINT_DIGITS
from curation.schema import synthetic_features
from harness.errors import InputError
from harness.files import sha256_of

UNKNOWN = "unknown"  # generator and protocol of such an image
SUFFIXES = (".png", ".jpg", ".jpeg")


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds folders of pictures and no dataset."""
    return folder.is_dir() and not (folder / "README.md").is_file() and any(_pictures(folder))


def open_foreign(folder: Path, class_names: Sequence[str]) -> tuple[datasets.Dataset, list[str]]:
    """The pictures as a dataset with the columns of synthetic images, and one line for each file that was left out.

    class_names: abbreviations of the real dataset's conditions. Sources are empty, generator and protocol are UNKNOWN.
    Pictures are decoded only when they are read. Raises InputError if no picture is left."""
    root = folder.resolve()
    rows, problems = [], []
    for file in sorted(_pictures(folder), key=_by_number):
        abbreviation, name = file.parent.name, file.relative_to(folder)
        if not file.resolve().is_relative_to(root):
            problems.append(f"{name}: is a link that leaves the folder, and was left out")
        elif abbreviation not in class_names:
            problems.append(f"{name}: {abbreviation} is no condition of --dataset_name, and the image was left out")
        elif not re.fullmatch(rf"{re.escape(abbreviation)}_\d+", file.stem):
            problems.append(f"{name}: is not called {abbreviation}_<number>, and was left out")
        else:
            rows.append({"image": str(file), "synthetic_id": file.stem, "label": class_names.index(abbreviation)})
    if not rows:
        reason = problems[0] if problems else "holds no <ABBR>/<ABBR>_<number>.png"
        raise InputError(f"--synthetic_dataset {folder.name}: {reason}; name the folder with the conditions' folders")
    features = synthetic_features(class_names)
    same = dict.fromkeys(features) | {"generator": UNKNOWN, "protocol": UNKNOWN}
    same |= {"source_image_ids": [], "source_sha256": []}
    columns = {name: [(same | row)[name] for row in rows] for name in features}
    images = datasets.Dataset.from_dict(columns, features=features)
    content = "".join(f"{row['synthetic_id']} {sha256_of(Path(row['image']))}\n" for row in rows)
    images._fingerprint = hashlib.sha256(content.encode()).hexdigest()[:FINGERPRINT_DIGITS]  # of content, not of paths
    return images, problems


def _pictures(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*/*") if file.suffix.lower() in SUFFIXES]


def _by_number(file: Path) -> tuple:
    number = re.search(r"(\d+)$", file.stem)
    return file.parent.name, int(number[1]) if number else -1, file.name
