"""What FastGAN's generators may see: the training sides, photographs that are large enough, and the record of them."""

import io
from collections.abc import Sequence

import datasets
import numpy as np
from PIL import Image

from curation import protocols
from curation.leak_guard import check_fold
from generation import synthetic_images, training_provenance
from generation.training_provenance import TrainedOn
from harness.counts import counted
from harness.errors import InputError

LARGEST_ENLARGEMENT = 4  # times the median of the photographs' longer sides; more would be interpolation alone


def open_sides(
    images: datasets.Dataset, protocol: str, number: int | None, k_shot: int | None, seed: int
) -> list[protocols.Fold]:
    """The folds whose training sides the generators may see, or their support sets of k_shot images per condition.

    number: of one fold, None for all; seed: of the support sets. Raises ProtocolError, LeakError, or InputError if
    there is too little to train on."""
    sides = protocols.training_sides(images, protocol, number)
    if k_shot:
        sides = [protocols.k_shot(side, images["label"][:], k_shot, seed) for side in sides]
    for side in sides:
        check_fold(side, images)
        if len(side.train) < 2:
            there = counted(len(side.train), "training image")
            raise InputError(f"{synthetic_images.folder_of(side)} has {there}; FastGAN needs at least 2")
    return sides


def check_resolution(images: datasets.Dataset, resolution: int) -> None:
    """Raise InputError if pictures of this side in px would be little but enlargement; decodes no photograph."""
    if {"width", "height"} <= set(images.column_names):
        sides = [max(size) for size in zip(images["width"][:], images["height"][:], strict=True) if None not in size]
    else:
        sides = []
        for row in images.select_columns("image").cast_column("image", datasets.Image(decode=False)):
            with Image.open(io.BytesIO(row["image"]["bytes"])) as photograph:
                sides.append(max(photograph.size))
    if sides and resolution > LARGEST_ENLARGEMENT * np.median(sides):
        reason = f"the photographs' longer side is {np.median(sides):.0f} px (median)"
        raise InputError(
            f"--resolution {resolution}: {reason}, and more than {LARGEST_ENLARGEMENT} times that "
            "shows nothing new; choose a lower one, or restore the photographs first (restore_images.py)"
        )


def sources_of(
    images: datasets.Dataset,
    digests: Sequence[str],
    fold: protocols.Fold,
    seed: int,
    k_shot: int | None,
    settings_sha256: str,
) -> synthetic_images.Sources:
    """The record of all that the fold's generator sees, in the dataset's order, and of how it is trained.

    digests (n,): of all photographs of the dataset."""
    image_ids, rows = images["image_id"][:], fold.train.tolist()
    trained_on = TrainedOn.on(fold, rows, None, images._fingerprint, digests, seed, k_shot, settings_sha256)
    return synthetic_images.Sources(trained_on, [image_ids[row] for row in rows])


def described(
    sources: synthetic_images.Sources, label_names: Sequence[str] | None, align_faces: str, simulated: bool
) -> dict:
    """What each snapshot's file says of its generator. label_names: None for an unconditional one."""
    record = {"architecture": "FastGAN"} | sources.trained_on.as_dict()
    return record | {"label_names": label_names, "align_faces": align_faces, "simulated": simulated}


def as_json(sources: synthetic_images.Sources) -> dict:
    """The content of a sources.json beside a generator."""
    return training_provenance.sources(sources.image_ids, sources.trained_on.as_dict())
