"""The inputs of filter_synthetic.py: photographs, training sides, and the synthetic images made from each side."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator

from curation import protocols
from curation.leak_guard import Guard, check_fold, columns_for_guard
from curation.opening import is_simulated, load_images, load_synthetic, photograph_sha256
from generation import foreign_images
from generation.synthetic_images import folder_of
from generation.synthetic_mix import LIGHT_COLUMNS, class_numbers
from harness.counts import counted
from harness.errors import InputError

ROWS_AT_ONCE = 1000  # of synthetic images whose sources are checked


@dataclasses.dataclass
class Side:
    """The training side of a fold, and the rows of each synthetic dataset that were made from it."""

    fold: protocols.Fold
    name: str  # fold0, fold1, ..., paper, or unknown for images of unknown origin
    rows: list[np.ndarray]  # for each dataset


@dataclasses.dataclass
class Inputs:
    """n photographs and m synthetic images from one or more datasets."""

    images: datasets.Dataset  # the photographs
    digests: list[str]  # (n,) by which they are known
    parts: list[datasets.Dataset]  # the synthetic datasets
    labels: list[np.ndarray]  # for each of them: class numbers of the photographs' dataset, -1: none
    fingerprints: list[str]
    sides: list[Side]  # those with at least one image
    problems: list[str]  # a line for each file that was left out

    @property
    def class_names(self) -> list[str]:
        return self.images.features["label"].names

    @property
    def n_synthetic(self) -> int:
        return sum(len(rows) for side in self.sides for rows in side.rows)

    def blocks(self, size: int) -> Iterator[tuple[str, Side, int, np.ndarray]]:
        """Name, side, number of the dataset, and its rows, `size` at a time, always in the same order."""
        for side in self.sides:
            for number, rows in enumerate(side.rows):
                for start in range(0, len(rows), size):
                    yield f"{side.name}_{number:03d}_{start:08d}", side, number, rows[start : start + size]


def open_inputs(
    accelerator: Accelerator,
    dataset_name: str,
    config_name: str | None,
    synthetic_names: Sequence[str],
    protocol: str,
    fold_number: int | None,
    k_shot: int | None,
    seed: int,
) -> Inputs:
    """Open all datasets; the first process does so first, and fills the caches.

    k_shot: compare with the support sets of so many photographs per condition, drawn by seed, in place of the whole
    training sides; None: with these. Images of unknown origin, which no training takes, are compared with all
    photographs either way. Raises InputError for datasets that cannot be opened or are given twice, a condition that
    the photographs do not have, and if no image was made for these folds; LeakError for an image that was made from a
    photograph outside its fold's training side.
    """
    with accelerator.main_process_first():
        images = load_images(dataset_name, config_name)
        folds = protocols.training_sides(images, protocol, fold_number)
        if k_shot:
            folds = [protocols.k_shot(fold, images["label"][:], k_shot, seed) for fold in folds]
        for fold in folds:
            check_fold(fold, images)
        class_names, problems, parts = images.features["label"].names, [], []
        for name in synthetic_names:
            if foreign_images.is_foreign(Path(name)):
                part, left_out = foreign_images.open_foreign(Path(name), class_names)
                problems += left_out
            else:
                part = load_synthetic(name)
            if part._fingerprint in [other._fingerprint for other in parts]:
                raise InputError(f"--synthetic_dataset {name}: its images are given twice; name each folder once")
            parts.append(part)
    named = zip(synthetic_names, parts, strict=True)
    labels = [np.array(class_numbers(name, part, class_names), dtype=np.int64) for name, part in named]
    everything = protocols.Fold(
        None, np.arange(len(images)), *(np.array([], dtype=np.int64),) * 2, foreign_images.UNKNOWN
    )
    sides = [Side(fold, folder_of(fold), []) for fold in folds] + [Side(everything, foreign_images.UNKNOWN, [])]
    for side in sides:
        for part in parts:
            made_for = zip(part["protocol"][:], part["fold"][:], strict=True)
            wanted = (side.fold.protocol, side.fold.generator_number)
            side.rows.append(np.array([row for row, of in enumerate(made_for) if of == wanted], dtype=np.int64))
    sides = [side for side in sides if any(map(len, side.rows))]
    if not sides:
        where = f"protocol {protocol}" + ("" if fold_number is None else f", fold {fold_number}")
        raise InputError(f"--synthetic_dataset: no image there was made for {where}; name the fold it was made for")
    n_elsewhere = sum(map(len, parts)) - sum(len(rows) for side in sides for rows in side.rows)
    if n_elsewhere:
        problems.append(f"left out, since made for other folds or another protocol: {counted(n_elsewhere, 'image')}")
    inputs = Inputs(
        images, photograph_sha256(images), parts, labels, [part._fingerprint for part in parts], sides, problems
    )
    admit(inputs)
    problems += sources_below_training_side(inputs) if k_shot is None else []
    return inputs


def sources_below_training_side(inputs: Inputs) -> list[str]:
    """A line for each fold whose generators saw only some photographs of their conditions: probably a support set.

    A k-shot training refuses scores that were computed with other photographs than its support set."""
    lines, label_of = [], dict(zip(inputs.digests, inputs.images["label"][:], strict=True))
    for side in [side for side in inputs.sides if side.name != foreign_images.UNKNOWN]:
        seen: set[str] = set()
        for part, rows in zip(inputs.parts, side.rows, strict=True):
            column = part.select_columns(["source_sha256"])
            for start in range(0, len(rows), ROWS_AT_ONCE):
                for sources in column.select(rows[start : start + ROWS_AT_ONCE])["source_sha256"][:]:
                    seen.update(sources or ())
        conditions = {label_of[digest] for digest in seen}
        training = {inputs.digests[row] for row in side.fold.train.tolist()}
        of_conditions = {digest for digest in training if label_of[digest] in conditions}
        if seen < of_conditions:
            lines.append(
                f"{side.name}: the generators saw {len(seen)} of the {len(of_conditions)} photographs of their "
                "conditions on the training side, and the filter sees all; a training with --k_shot takes the images "
                "only if the filter is given the same --k_shot and --seed"
            )
    return lines


def admit(inputs: Inputs) -> None:
    """Raise LeakError for a synthetic image that its fold's training must not see; not for those of unknown origin."""
    columns = columns_for_guard(inputs.images) | {"sha256": inputs.digests}
    simulated = is_simulated(inputs.images)
    for side in inputs.sides:
        if side.name == foreign_images.UNKNOWN:
            continue
        guard = Guard(protocols.of_photographs(side.fold, len(inputs.images)), columns)
        for part, rows in zip(inputs.parts, side.rows, strict=True):
            names = [name for name in LIGHT_COLUMNS if name in part.column_names]
            light = part.select_columns(names)
            for start in range(0, len(rows), ROWS_AT_ONCE):  # each row lists all its sources
                some = light.select(rows[start : start + ROWS_AT_ONCE])
                guard.admit_synthetic({name: some[name][:] for name in names}, simulated)
