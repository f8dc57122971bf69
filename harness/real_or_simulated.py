"""The names of this project's datasets, what marks simulated images, and how a missing dataset is made."""

from collections.abc import Iterable
from pathlib import Path

REAL, SIMULATED, SYNTHETIC = "rdface", "rdface-sim", "rdface-synthetic"
SIMULATED_SOURCE = "simulated"  # in column source_type
BUILD = "build it with rdface_dataset.py"  # the remedy for a dataset that is not there


def is_simulated(source_types: Iterable[str | None]) -> bool:
    """Whether a program drew every image, so that whatever shows them must say so; False if there is no image.

    source_types: the values of column `source_type`, in any capitals."""
    return {str(source).casefold() for source in source_types} == {SIMULATED_SOURCE}


def would_shadow(folder: Path) -> bool:
    """Whether simulated images in this folder would be opened instead of the real dataset: `load_dataset("rdface")`
    prefers a folder of that name, in any capitals on some systems."""
    return folder.name.casefold() == REAL
