"""Synthetic images that fill up the training conditions of few-shot episodes, or stand beside their support.

For training conditions, an image is taken if everything that its generator saw shows training conditions, so it may
come from a generator of any fold of the dataset. Beside a support, an image is taken if its generator saw nothing but
this episode's support and training conditions (classification/support_filling.py). The guard checks both by digests.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import datasets
import numpy as np

from curation import protocols
from curation.leak_guard import Guard, columns_for_guard
from generation.synthetic_mix import SyntheticMix
from harness.errors import InputError
from harness.seeds import derived_seed
from imaging import near_duplicates
from imaging.pixel_cache import JoinedArrays


def fill_up(mix: SyntheticMix, fold: protocols.Fold, images: datasets.Dataset, up_to: int, seed: int) -> protocols.Fold:
    """The fold with synthetic images on its training side, until each training condition has `up_to` images in all.

    fold: of conditions (episodes.rows_of_fold), of the n photographs. Images of the best score come first
    (synthetic_mix.RANKED_BY), without scores a draw by seed and fold. Raises InputError if no image can be taken, and
    LeakError if the guard refuses one of them."""
    labels = np.array(images["label"][:])
    allowed = {mix.photographs[row] for row in fold.train.tolist()}
    count = Counter(labels[fold.train].tolist())
    usable = [
        row
        for row, sources in enumerate(mix.columns["source_sha256"])
        if mix.labels[row] in count and set(sources) <= allowed
    ]
    if mix.ranked_by:
        score = np.array([mix.columns[mix.ranked_by][row] for row in usable], dtype=float)
        order = np.argsort(-score, kind="stable")
    else:
        order = np.random.default_rng(derived_seed(seed, fold.number, 6)).permutation(len(usable))
    chosen = []
    for row in (usable[i] for i in order):
        if count[mix.labels[row]] < up_to:
            count[mix.labels[row]] += 1
            chosen.append(row)
    if not chosen:
        reason = f"no image there was made from the training conditions of fold {fold.number} alone, or none is needed"
        raise InputError(f"--synthetic_dataset: {reason}; make some with one generator per condition")
    admit(mix, fold, photograph_columns(mix, images), np.array(chosen))
    rows = mix.n_photographs + np.sort(chosen)
    return dataclasses.replace(fold, train=np.concatenate([fold.train, rows]))


def photograph_columns(mix: SyntheticMix, images: datasets.Dataset) -> dict[str, list]:
    """The columns of the n photographs that a guard checks before anything is decoded."""
    return columns_for_guard(images) | {"sha256": mix.photographs}


def admit(
    mix: SyntheticMix,
    fold: protocols.Fold,
    columns: Mapping[str, Sequence],
    rows: np.ndarray,
    copies: Sequence[Sequence[int]] | None = None,
) -> None:
    """Raise LeakError unless these synthetic images (s,) may be trained on beside the photographs of the fold.

    columns: as for Guard, of the n photographs, or with `pixels` of all n + m pictures; copies (m,): see
    SyntheticMix.admit."""
    n = mix.n_photographs
    of_photographs = {name: list(values[:n]) for name, values in columns.items()}
    for number in sorted({mix.columns["fold"][row] for row in rows.tolist()}, key=str):
        same = [row for row in rows.tolist() if mix.columns["fold"][row] == number]
        images = {name: [values[row] for row in same] for name, values in mix.columns.items()}
        if "pixels" in columns:
            images["pixels"] = [columns["pixels"][n + row] for row in same]
        if copies is not None:
            images["copies"] = [copies[row] for row in same]
        numbered = dataclasses.replace(protocols.of_photographs(fold, n), number=number)  # of the generator's fold
        Guard(numbered, of_photographs).admit_synthetic(images, mix.simulated)


def support_sources(
    mix: SyntheticMix, columns: Mapping[str, Sequence], copies: Sequence[Sequence[int]] | None = None
) -> dict[int, frozenset[int]]:
    """Row of each synthetic image -> the rows of all photographs that its generator saw; none if it saw words only.

    columns: as for Guard, of the n photographs, or with `pixels` of all n + m pictures; copies (m,): see
    SyntheticMix.admit. Raises LeakError for an image that does not say what it was made from, or was made from another
    photograph than it says, and, once the pictures are known, for a copy of somebody who is not among its sources."""
    n = mix.n_photographs
    row_of = {image_id: row for row, image_id in enumerate(columns["image_id"][:n])}
    groups = np.asarray(columns["group_id"][:n], dtype=object)
    of_sources = defaultdict(list)
    for number, ids in enumerate(mix.columns["source_image_ids"]):
        of_sources[frozenset(row_of[image_id] for image_id in ids or () if image_id in row_of)].append(number)
    nothing = np.array([], dtype=np.int64)
    for sources, numbers in of_sources.items():
        seen = np.isin(groups, groups[sorted(sources)])  # all photographs of these people: no episode tests one of them
        fold = protocols.Fold(None, np.flatnonzero(seen), nothing, np.flatnonzero(~seen), mix.protocol)
        admit(mix, fold, columns, np.array(numbers), copies)
    return {n + number: sources for sources, numbers in of_sources.items() for number in numbers}


def copies_in(records: JoinedArrays) -> list[Sequence[int]]:
    """The photographs of which each synthetic image is a near duplicate, (m,); records (n + m,)."""
    of_photographs, *of_parts = records.arrays
    return [rows for part in of_parts for rows in near_duplicates.copies(part, of_photographs)]


def refuse_copies(
    mix: SyntheticMix, fold: protocols.Fold, columns: Mapping[str, Sequence], records: JoinedArrays
) -> None:
    """Raise LeakError if a synthetic image of the fold is a copy of a photograph that it must not train on.

    columns: with `pixels` (n + m,); records (n + m,) by which copies are found."""
    rows = fold.train[fold.train >= mix.n_photographs] - mix.n_photographs
    admit(mix, fold, columns, rows, copies_in(records))
