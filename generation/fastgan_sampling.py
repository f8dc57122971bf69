"""Synthetic images sampled from a fold's FastGAN snapshots, part by part, so that sampling can be stopped and resumed.

Image number i of a condition (or of the generator, if it is unconditional) has the seed image_seed(seed, condition, i),
which stands in its row. A blank picture is dropped and its number is left out.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow.parquet as pq
from accelerate import Accelerator
from tqdm import tqdm

from curation import protocols
from curation.made_from import ADAPTER
from generation import fastgan, fastgan_training, synthetic_images
from generation.fastgan_training import snapshot_file
from harness.counts import counted
from harness.errors import InputError
from harness.files import sha256_of, write_json

GENERATOR = "fastgan"
PART_IMAGES = 64  # in a part
SAMPLED_NAME = "sampling.json"  # beside a finished synthetic/: how many images were asked for, from which snapshots
RESAMPLE = "delete it, its images are then made again"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How images are sampled; the names are those of train_fastgan.py's flags."""

    seed: int
    num_images: int
    sample_from: Sequence[int]  # steps of the snapshots, increasing
    train_batch_size: int  # images sampled together, too
    class_conditional: bool


class Stream(NamedTuple):
    """Images of one condition from one snapshot: their numbers are first, first + n_snapshots, ..."""

    step: int
    condition: str | None
    first: int
    n_images: int


def streams(num_images: int, steps: Sequence[int], conditions: Sequence[str | None]) -> list[Stream]:
    """Images spread evenly over conditions, and those of each condition over snapshots.

    Each snapshot takes every len(steps)-th number of a condition, so asking for more images changes none of the earlier
    ones."""
    spread = []
    for number, condition in enumerate(conditions):
        of_condition = len(range(number, num_images, len(conditions)))
        spread += [Stream(step, condition, n, len(range(n, of_condition, len(steps)))) for n, step in enumerate(steps)]
    return [stream for stream in spread if stream.n_images]


def sample_part(
    network: fastgan.Generator,
    constants: dict,
    label_names: Sequence[str],
    first: int,
    stride: int,
    n: int,
    sampling: Sampling,
) -> tuple[list[dict], int]:
    """n rows of pictures that show something, numbered first, first + stride, ...; and the number to continue with.

    constants: the columns that all rows share, their label among them. Raises InputError if most pictures are blank."""
    label = constants["label"]
    rows, index, tried = [], first, 0
    while len(rows) < n:
        indices = [index + stride * i for i in range(min(sampling.train_batch_size, n - len(rows)))]
        seeds = [synthetic_images.image_seed(sampling.seed, label or GENERATOR, i) for i in indices]
        pictures = fastgan.sample(network, seeds, label and [label_names.index(label)] * len(seeds))
        for picture, seed, i in zip(pictures, seeds, indices, strict=True):
            if not synthetic_images.is_blank(picture):
                name = f"{label or GENERATOR}_{i}"
                image = synthetic_images.png(picture, name)
                rows.append(constants | {"image": image, "synthetic_id": name, "seed": seed})
        index += stride * len(indices)
        tried += len(indices)
        if tried >= 10 * PART_IMAGES and len(rows) < tried / 10:
            raise InputError(f"{tried - len(rows)} of {tried} pictures are of one colour; --sample_from another step")
    return rows, index


def index_after(part: Path, condition: str | None, first: int, stride: int, sampling: Sampling) -> int:
    """The number to continue with after a finished part, of which the first picture tried had the number `first`.

    The seed of its last image tells: it is compared with the seeds of the numbers that a part may reach. Raises
    InputError if it is none of them."""
    last_seed = pq.read_table(part, columns=["seed"])["seed"][-1].as_py()
    most_tried = 10 * PART_IMAGES + sampling.train_batch_size  # sample_part gives up behind them
    for index in range(first, first + stride * most_tried, stride):
        if synthetic_images.image_seed(sampling.seed, condition or GENERATOR, index) == last_seed:
            return index + stride
    raise InputError(f"{name_of(part)}: its last image has a seed that no image here can have; {RESAMPLE}")


def name_of(part: Path) -> str:
    """A part's name in messages: fold0/parts/..."""
    return f"{part.parents[2].name}/parts/{part.name}"


def sampled_with(folder: Path) -> dict:
    """The record of how folder/synthetic was sampled; empty if there is none that can be read."""
    try:
        sampled = json.loads((folder / SAMPLED_NAME).read_text(encoding="utf-8"))
        return sampled if isinstance(sampled["adapter_sha256"], dict) and "num_images" in sampled else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


# ---------------------------------------------------------------------------------------------------------- checking


def check_fold(folder: Path, sources: synthetic_images.Sources) -> None:
    """Raise LeakError or InputError if anything that the fold would be resumed from is not this fold's and run's."""
    fastgan_training.check_snapshots(folder, sources.trained_on)
    fastgan_training.check_checkpoint(folder, sources.trained_on)
    check_images(folder, sources)


def check_images(folder: Path, sources: synthetic_images.Sources) -> None:
    """Raise LeakError or InputError if folder/synthetic was made from photographs that the fold's generator may not
    see, or from snapshots that its record does not name, or if images are missing."""
    if not (folder / "synthetic").is_dir():
        return
    files, what = sorted((folder / "synthetic" / "synthetic").glob("*.parquet")), f"{folder.name}/synthetic"
    rows = synthetic_images.checked_rows(files, lambda _: sources, what, RESAMPLE)
    sampled = sampled_with(folder)
    if sampled and len(rows) != sampled.get("num_images"):
        raise InputError(
            f"{what}: holds {counted(len(rows), 'image')}, and {sampled.get('num_images')} were made; {RESAMPLE}"
        )
    for row in rows:
        if sampled and row["adapter_sha256"] not in sampled.get("adapter_sha256", {}).values():
            raise InputError(f"{what}: image {row['synthetic_id']} is not of this fold's snapshots; {RESAMPLE}")


def check_part(part: Path, sources: synthetic_images.Sources, constants: dict) -> None:
    """As check_images, for a part, whose rows share the constants."""
    for row in synthetic_images.checked_rows([part], lambda _: sources, name_of(part), RESAMPLE):
        for name in ("adapter_sha256", "label"):
            if row[name] != constants[name]:
                image = f"image {row['synthetic_id']} has {name} {row[name]}"
                raise InputError(f"{name_of(part)}: {image}; {RESAMPLE}")


# ---------------------------------------------------------------------------------------------------------- sampling


def sample_fold(
    accelerator: Accelerator,
    images: datasets.Dataset,
    fold: protocols.Fold,
    sources: synthetic_images.Sources,
    sampling: Sampling,
    folder: Path,
) -> None:
    """Write the dataset folder/synthetic, and sampling.json, which says what was asked for and how many pictures were
    blank. Does nothing if the folder holds these images already."""
    adapters = {str(step): sha256_of(snapshot_file(folder, step)) for step in sampling.sample_from}
    asked = {"num_images": sampling.num_images, "adapter_sha256": adapters}
    if (folder / "synthetic").is_dir() and asked.items() <= sampled_with(folder).items():
        return
    (folder / SAMPLED_NAME).unlink(missing_ok=True)
    label_names, label = images.features["label"].names, images["label"][:]
    trained = [label_names[number] for number in sorted({label[row] for row in fold.train.tolist()})]
    conditions = trained if sampling.class_conditional else [None]
    constants = {"generator": GENERATOR, "base_model": None, "prompt": None, "protocol": fold.protocol}
    constants |= {"fold": fold.number, "source_image_ids": sources.image_ids}
    constants |= {"source_sha256": sources.trained_on.source_sha256, "made_from": ADAPTER, "hpo_said": None}
    asked_sha256 = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    parts_folder = folder / "parts" / asked_sha256[:16]  # parts of other images are of no use
    stride = len(sampling.sample_from)
    bar = tqdm(total=sampling.num_images, desc=f"{folder.name}: images", disable=not accelerator.is_main_process)
    loaded_step, network = None, None
    parts, n_blank = [], 0
    spread = streams(sampling.num_images, sampling.sample_from, conditions)
    for stream in sorted(spread, key=lambda stream: stream.step):  # so that each snapshot is read once
        index = stream.first
        for done in range(0, stream.n_images, PART_IMAGES):
            n = min(PART_IMAGES, stream.n_images - done)
            part = parts_folder / f"{stream.step:08d}_{conditions.index(stream.condition):04d}_{done:06d}.parquet"
            shared = constants | {"adapter_sha256": adapters[str(stream.step)], "label": stream.condition}
            if part.is_file():
                check_part(part, sources, shared)
                index = index_after(part, stream.condition, index, stride, sampling)
            else:
                if loaded_step != stream.step:
                    network, _ = fastgan.load_generator(snapshot_file(folder, stream.step), accelerator.device)
                    loaded_step = stream.step
                rows, index = sample_part(network, shared, label_names, index, stride, n, sampling)
                synthetic_images.write_part(part, rows, label_names)
            parts.append(part)
            bar.update(n)
        n_blank += (index - stream.first) // stride - stream.n_images
    bar.close()
    synthetic_images.write_dataset(folder / "synthetic", parts)
    write_json(folder / SAMPLED_NAME, asked | {"n_blank": n_blank})
    shutil.rmtree(folder / "parts")
