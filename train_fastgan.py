"""FastGAN for every fold, trained on the fold's training side alone, and synthetic images sampled from it.

    accelerate launch train_fastgan.py --dataset_name ./rdface --protocol strict --resolution 256 \\
        --max_train_steps 50000 --num_images 5000 --output_dir runs/fastgan

Each process takes folds of its own, so the results do not depend on how many there are; under `paper` there is one
generator. Writes for each fold generator.safetensors, sources.json (what it was trained on), snapshots with a picture
each, and the dataset synthetic/ that load_dataset opens; and run.json. Resumed with --resume_from_checkpoint latest, a
run goes on, is trained further (--max_train_steps), or is sampled anew (--num_images, --sample_from).
"""

import argparse
import hashlib
import io
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from curation import protocols
from curation.guard import Guard, check_fold
from curation.opening import guarded_columns, is_simulated, load_images, photograph_sha256
from generation import fastgan, fastgan_training, gan_losses, synthetic_images, training_provenance
from generation.fastgan_training import snapshot_file
from generation.training_provenance import SOURCES_NAME, TrainedOn
from harness import protocol_names
from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.errors import InputError
from harness.files import sha256_of, write_json
from harness.processes import check_output_dir, device_name, in_main_process, open_accelerator, wait_for_files
from harness.run_folder import prepare_output, run_record
from imaging import faces
from imaging.pixel_cache import Pixels, cached_pixels, default_cache_dir

STOPPED = RESUMED

GENERATOR = "fastgan"
PART_IMAGES = 64  # in a part, so that sampling can be stopped
LARGEST_ENLARGEMENT = 4  # of the photographs' median longer side: the rest would be interpolation
PACKAGES = ("torch", "datasets", "accelerate", "safetensors", "numpy", "pillow")
RESULTS = ("run.json",)
SAMPLED_NAME = "sampling.json"  # beside a finished synthetic/: how many images were asked for, of which snapshots
RESAMPLE = "delete it, its images are then made again"
# What may differ between a run and the one it goes on from: none of it changes a step of the training.
FREE_SETTINGS = ("dataset_name", "output_dir", "resume_from_checkpoint", "cache_dir", "fold", "max_train_steps")
FREE_SETTINGS += ("snapshot_steps", "checkpointing_steps", "num_images", "sample_from")


# ------------------------------------------------------------------------------------------------------------- data


def open_sides(images: datasets.Dataset, labels: list[int], args: argparse.Namespace) -> list[protocols.Fold]:
    """What the generators may see, none of which leaks. Raises InputError where there is too little to train on."""
    sides = protocols.training_sides(images, args.protocol, args.fold)
    if args.k_shot:
        sides = [protocols.k_shot(side, labels, args.k_shot, args.seed) for side in sides]
    for side in sides:
        check_fold(side, images)
        if len(side.train) < 2:
            raise InputError(
                f"{synthetic_images.folder_of(side)} has {len(side.train)} training images; FastGAN needs at least 2"
            )
    return sides


def check_resolution(images: datasets.Dataset, resolution: int) -> None:
    """Raise InputError where pictures would be little but enlargement; read without decoding a photograph."""
    if {"width", "height"} <= set(images.column_names):
        sides = [max(size) for size in zip(images["width"][:], images["height"][:], strict=True) if None not in size]
    else:
        sides = []
        for row in images.select_columns("image").cast_column("image", datasets.Image(decode=False)):
            with Image.open(io.BytesIO(row["image"]["bytes"])) as photograph:
                sides.append(max(photograph.size))
    if sides and resolution > LARGEST_ENLARGEMENT * np.median(sides):
        what = f"the photographs' longer side is {np.median(sides):.0f} px (median)"
        raise InputError(
            f"--resolution {resolution}: {what}, and more than {LARGEST_ENLARGEMENT} times that "
            "shows nothing new; choose a lower one, or restore the photographs first (restore_images.py)"
        )


def sources_of(
    images: datasets.Dataset, digests: list[str], fold: protocols.Fold, settings: dict, args: argparse.Namespace
) -> synthetic_images.Sources:
    """All that the fold's generator sees, in the order of the dataset, and how it is trained. digests (n,): of all."""
    image_ids, rows = images["image_id"][:], fold.train.tolist()
    of_what = (fold.protocol, fold.number, None, images._fingerprint, [digests[row] for row in rows])
    trained_on = TrainedOn(*of_what, args.seed, args.k_shot, training_provenance.settings_digest(settings))
    return synthetic_images.Sources(trained_on, [image_ids[row] for row in rows])


# --------------------------------------------------------------------------------------------------------- sampling


def streams(num_images: int, steps: Sequence[int], conditions: Sequence[str | None]) -> list[tuple]:
    """Images spread evenly over conditions, and those of each over snapshots: (step, condition, first index, images).

    Indices are those of a condition; a snapshot takes every len(steps)-th of them, from its first, so that asking for
    more images leaves those made before as they were."""
    spread = []
    for number, condition in enumerate(conditions):
        of_condition = len(range(number, num_images, len(conditions)))
        spread += [(step, condition, n, len(range(n, of_condition, len(steps)))) for n, step in enumerate(steps)]
    return [stream for stream in spread if stream[-1]]


def sample_part(
    network: fastgan.Generator,
    constants: dict,
    label_names: list[str],
    first: int,
    stride: int,
    n: int,
    args: argparse.Namespace,
) -> list[dict]:
    """n rows of pictures that show something, of the indices first, first + stride, ... as far as it takes.

    constants: the columns that all rows share, their label among them. Raises InputError where most are blank."""
    label = constants["label"]
    rows, index, tried = [], first, 0
    while len(rows) < n:
        indices = [index + stride * i for i in range(min(args.train_batch_size, n - len(rows)))]
        seeds = [synthetic_images.image_seed(args.seed, label or GENERATOR, i) for i in indices]
        pictures = fastgan.sample(network, seeds, label and [label_names.index(label)] * len(seeds))
        for picture, seed, i in zip(pictures, seeds, indices, strict=True):
            if not synthetic_images.is_blank(picture):
                name = f"{label or GENERATOR}_{i}"
                rows.append(
                    constants | {"image": synthetic_images.png(picture, name), "synthetic_id": name, "seed": seed}
                )
        index += stride * len(indices)
        tried += len(indices)
        if tried >= 10 * PART_IMAGES and len(rows) < tried / 10:
            raise InputError(f"{tried - len(rows)} of {tried} pictures are of one colour; --sample_from another step")
    return rows


def index_after(part: Path, stride: int) -> int:
    """The index with which the part after this one begins."""
    last = pq.read_table(part, columns=["synthetic_id"])["synthetic_id"][-1].as_py()
    return int(last.rpartition("_")[2]) + stride


def sampled_with(folder: Path) -> dict:
    """The record of how folder/synthetic was sampled; empty where there is none that can be read."""
    try:
        sampled = json.loads((folder / SAMPLED_NAME).read_text(encoding="utf-8"))
        return sampled if isinstance(sampled["adapter_sha256"], dict) and "num_images" in sampled else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def check_images(folder: Path, sources: synthetic_images.Sources) -> None:
    """Raise LeakError or InputError where folder/synthetic was made from other photographs than the fold's generator
    may see, by other snapshots than its record says, or is not whole."""
    files, what = sorted((folder / "synthetic" / "synthetic").glob("*.parquet")), f"{folder.name}/synthetic"
    if not (folder / "synthetic").is_dir():
        return
    rows = synthetic_images.checked_rows(files, lambda _: sources, what, RESAMPLE)
    sampled = sampled_with(folder)
    if sampled and len(rows) != sampled.get("num_images"):
        raise InputError(f"{what}: holds {len(rows)} images, and {sampled.get('num_images')} were made; {RESAMPLE}")
    for row in rows:
        if sampled and row["adapter_sha256"] not in sampled.get("adapter_sha256", {}).values():
            raise InputError(f"{what}: image {row['synthetic_id']} is not of this fold's snapshots; {RESAMPLE}")


def check_part(part: Path, sources: synthetic_images.Sources, constants: dict) -> None:
    """The same of a part of it, whose rows share the constants."""
    what = f"{part.parents[2].name}/parts/{part.name}"
    for row in synthetic_images.checked_rows([part], lambda _: sources, what, RESAMPLE):
        for name in ("adapter_sha256", "label"):
            if row[name] != constants[name]:
                raise InputError(f"{what}: image {row['synthetic_id']} has {name} {row[name]}; {RESAMPLE}")


def sample_fold(
    accelerator: Accelerator,
    images: datasets.Dataset,
    fold: protocols.Fold,
    sources: synthetic_images.Sources,
    args: argparse.Namespace,
    folder: Path,
) -> None:
    """The dataset folder/synthetic, part by part; sampling.json says which it is and how many pictures were blank."""
    adapters = {str(step): sha256_of(snapshot_file(folder, step)) for step in args.sample_from}
    asked = {"num_images": args.num_images, "adapter_sha256": adapters}
    record = folder / SAMPLED_NAME
    if (folder / "synthetic").is_dir() and asked.items() <= sampled_with(folder).items():
        return
    record.unlink(missing_ok=True)
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    parts_folder = folder / "parts" / digest  # of other images, parts are of no use
    label_names, label = images.features["label"].names, images["label"][:]
    trained = [label_names[number] for number in sorted({label[row] for row in fold.train.tolist()})]
    conditions = trained if args.class_conditional else [None]
    constants = {"generator": GENERATOR, "base_model": None, "prompt": None, "protocol": fold.protocol}
    constants |= {"fold": fold.number, "source_image_ids": sources.image_ids}
    constants |= {"source_sha256": sources.trained_on.source_sha256}
    spread, stride = streams(args.num_images, args.sample_from, conditions), len(args.sample_from)
    bar = tqdm(total=args.num_images, desc=f"{folder.name}: images", disable=not accelerator.is_main_process)
    loaded = None
    parts, n_blank = [], 0
    for step, condition, first, n_images in sorted(spread, key=lambda stream: stream[0]):  # each snapshot is read once
        index = first
        for done in range(0, n_images, PART_IMAGES):
            n = min(PART_IMAGES, n_images - done)
            part = parts_folder / f"{step:08d}_{conditions.index(condition):04d}_{done:06d}.parquet"
            same = constants | {"adapter_sha256": adapters[str(step)], "label": condition}
            if part.is_file():
                check_part(part, sources, same)
            else:
                if loaded != step:
                    network, _ = fastgan.load_generator(snapshot_file(folder, step), accelerator.device)
                    loaded = step
                rows = sample_part(network, same, label_names, index, stride, n, args)
                synthetic_images.write_part(part, rows, label_names)
            index = index_after(part, stride)
            parts.append(part)
            bar.update(n)
        n_blank += (index - first) // stride - n_images
    bar.close()
    synthetic_images.write_dataset(folder / "synthetic", parts)
    write_json(record, asked | {"n_blank": n_blank})
    shutil.rmtree(folder / "parts")


# ------------------------------------------------------------------------------------------------------------ folds


def run_fold(
    accelerator: Accelerator,
    images: datasets.Dataset,
    pixels: Pixels,
    guard: Guard,
    sources: synthetic_images.Sources,
    args: argparse.Namespace,
    folder: Path,
) -> None:
    """Train the fold's generator as far as it is not trained, and sample from it."""
    fold, labels = guard.fold, np.array(images["label"][:])
    label_names = images.features["label"].names
    for place in (folder, folder / "snapshots"):  # before there is a model that a withdrawal would have to find
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / SOURCES_NAME, training_provenance.sources(sources.image_ids, sources.trained_on.as_dict()))
    described = {"architecture": "FastGAN"} | sources.trained_on.as_dict()
    described |= {"label_names": label_names if args.class_conditional else None}
    described |= {"align_faces": args.align_faces, "simulated": is_simulated(images)}
    wanted = {*args.sample_from, args.max_train_steps}
    if not all(snapshot_file(folder, step).is_file() for step in wanted):
        difference = gan_losses.difference_by(args.perceptual, accelerator.device)
        fastgan_training.fit(accelerator, pixels, labels, guard, described, difference, args, folder)
    missing = [step for step in sorted(wanted) if not snapshot_file(folder, step).is_file()]
    if missing:
        kept = sorted(int(file.stem.removeprefix("step_")) for file in folder.glob("snapshots/step_*.safetensors"))
        reason = f"{folder.name} is past step {missing[0]} and has no snapshot of it"
        raise InputError(f"{reason}; take --sample_from and --max_train_steps of {kept}, or train further")
    fastgan_training.use_snapshot(folder, args.sample_from[-1])
    if args.num_images:
        sample_fold(accelerator, images, fold, sources, args, folder)
    accelerator.free_memory()


# ------------------------------------------------------------------------------------------------------------ script


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--dataset_name", type=dataset_argument, required=True, help="folder of a built dataset, or ORG/NAME on the Hub"
    )
    add("--dataset_config_name", help="real or restored; None is the dataset's default config")
    how = "folder for the results; those of an earlier run are replaced"
    add("--output_dir", type=path_argument, required=True, help=how)
    add("--protocol", choices=protocol_names.PROTOCOLS, default="strict", help="which of the dataset's training sides")
    add(
        "--fold",
        type=protocols.fold_number,
        default="all",
        help="all, or the number of one fold; under paper there is none",
    )
    add("--k_shot", type=int, help="train on this many images of each condition, drawn by seed; None is all")
    how = "side of the square images in px; the paper's is 1024"
    add("--resolution", type=int, choices=fastgan.RESOLUTIONS, default=256, help=how)
    add("--align_faces", choices=[*sorted(faces.DETECTORS), "none"], default="none", help="none: the whole photograph")
    add("--class_conditional", action="store_true", help="a generator that is told the condition; the paper's is not")
    how = "channels of a 128 px map, of which all others are multiples or parts; the paper's 64, fewer for trials"
    add("--base_channels", type=int, default=fastgan.BASE_CHANNELS, help=how)
    how = "loss of the discriminator's decoders; lpips is the paper's kind and needs AlexNet's ImageNet weights"
    add("--perceptual", choices=gan_losses.PERCEPTUAL, default="l1", help=how)
    add("--max_train_steps", type=int, default=50_000, help="of each fold's generator")
    add("--train_batch_size", type=int, default=8, help="images in a step; each process trains folds of its own")
    add("--learning_rate", type=float, default=2e-4, help="constant, of both networks")
    add("--mixed_precision", choices=("no", "bf16"), help="None is as accelerate launch says; sampling is in full")
    how = "steps between snapshots, each a generator that can be sampled and a picture"
    add("--snapshot_steps", type=int, default=10_000, help=how)
    add("--checkpointing_steps", type=int, default=1000, help="steps between checkpoints; 0: at snapshots only")
    add("--num_images", type=int, default=0, help="synthetic images of each fold's generator; 0: none")
    how = "steps of the snapshots over which the images are spread evenly; None is the last"
    add("--sample_from", type=int, nargs="+", metavar="STEP", help=how)
    add("--seed", type=int, default=0, help="of initial weights, order, noise and k-shot draws; the folds stay")
    add("--resume_from_checkpoint", choices=("latest",), help="go on where the run in output_dir stopped")
    how = "where decoded photographs are kept between runs"
    add("--cache_dir", type=path_argument, default=default_cache_dir(), help=how)
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for flag in ("k_shot", "max_train_steps", "snapshot_steps"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    for flag in ("checkpointing_steps", "num_images", "seed"):
        if getattr(args, flag) < 0:
            parser.error(f"--{flag} must not be negative")
    for flag in ("dataset_name", "output_dir"):
        if str(getattr(args, flag)) in ("", "."):
            parser.error(f"--{flag} must name a folder, not the current one")
    if args.train_batch_size < 2:
        parser.error("--train_batch_size must be at least 2, for batch norm")
    if not args.learning_rate > 0:
        parser.error("--learning_rate must be positive")
    if args.base_channels < 8 or args.base_channels % 8:
        parser.error("--base_channels must be a multiple of 8")
    if args.k_shot and args.protocol == "paper":
        parser.error("--k_shot draws from a fold's training side; use --protocol strict")
    args.sample_from = sorted(set(args.sample_from or [args.max_train_steps]))
    if args.sample_from[0] < 1 or args.sample_from[-1] > args.max_train_steps:
        parser.error("--sample_from takes steps from 1 to --max_train_steps")


def prepare_folders(args: argparse.Namespace, settings: dict, folders: list[Path], sources: list) -> None:
    """The output folder: another run's results are removed, and what is gone on with is this run's or refused."""
    resume = bool(args.resume_from_checkpoint)
    parts = ("paper", *(f"fold{number}" for number in range(protocols.N_FOLDS)))
    prepare_output(args.output_dir, settings, parts, (), resume)
    if resume:
        for folder, own in zip(folders, sources, strict=True):
            fastgan_training.check_snapshots(folder, own.trained_on)
            fastgan_training.check_checkpoint(folder, own.trained_on)
            check_images(folder, own)
    for name in RESULTS:
        (args.output_dir / name).unlink(missing_ok=True)


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    accelerator = open_accelerator(args.mixed_precision)
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise InputError(f"--mixed_precision {accelerator.mixed_precision}: the losses overflow in it; use bf16 or no")
    check_output_dir(accelerator, args.output_dir, [args.dataset_name])

    # ---- dataset, training sides, loss: nothing slow before everything that can be refused has been
    with accelerator.main_process_first():  # the first one fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    sides = open_sides(images, images["label"][:], args)
    check_resolution(images, args.resolution)
    with accelerator.main_process_first():
        gan_losses.difference_by(args.perceptual, accelerator.device)
    given = {"fingerprint": images._fingerprint, "mixed_precision": accelerator.mixed_precision}
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS} | given
    folders = [args.output_dir / synthetic_images.folder_of(side) for side in sides]
    digests = photograph_sha256(images)
    sources = [sources_of(images, digests, side, settings, args) for side in sides]
    in_main_process(accelerator, lambda: prepare_folders(args, settings, folders, sources))

    # ---- what is to be done
    kind = "class-conditional" if args.class_conditional else "unconditional"
    seen = f"{args.k_shot}-shot" if args.k_shot else "all training images"
    shown = f"{accelerator.device}, {accelerator.mixed_precision} mixed precision"
    accelerator.print(
        f"{args.dataset_name} (config {images.config_name}, fingerprint {images._fingerprint}): {len(images)} images\n"
        f"FastGAN at {args.resolution} px, {kind}, {args.align_faces} alignment, {args.perceptual} decoders, protocol "
        f"{args.protocol}, {seen}, {len(sides)} generators x {args.max_train_steps} steps, {args.num_images} images "
        f"each,\n{accelerator.num_processes} processes on {shown}"
    )
    alignment = None if args.align_faces == "none" else args.align_faces
    pixels = cached_pixels(accelerator, images, args.resolution, alignment, args.cache_dir)
    if pixels.faces_missed.any():
        accelerator.print(f"no face found in {pixels.faces_missed.sum()} images: these are taken whole")
    columns = guarded_columns(images, pixels.uint8)
    datasets.disable_progress_bars()  # the files written from here on take a moment

    # ---- every fold
    work = list(zip(sides, sources, folders, strict=True))
    for side, own, folder in work[accelerator.process_index :: accelerator.num_processes]:
        run_fold(accelerator, images, pixels, Guard(side, columns), own, args, folder)
    accelerator.wait_for_everyone()

    # ---- the record
    if accelerator.is_main_process:
        wait_for_files([folder / "fold.json" for folder in folders])
        records = [own.trained_on for own in sources]
        record = record_of(accelerator, images, pixels, folders, records, args, started)
        write_json(args.output_dir / "run.json", record)
        made = ["generator.safetensors", "snapshots"] + ["synthetic"] * bool(args.num_images)
        print(f"written: {args.output_dir}: run.json; {', '.join(f.name for f in folders)}: {', '.join(made)}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def record_of(
    accelerator: Accelerator,
    images: datasets.Dataset,
    pixels: Pixels,
    folders: list[Path],
    records: list[TrainedOn],
    args: argparse.Namespace,
    started: float,
) -> dict:
    """The run record; names instead of paths, since folders with synthetic images are published."""
    cuda = accelerator.device.type == "cuda"
    record = run_record(args, PACKAGES, started)
    names = {name: Path(getattr(args, name)).name for name in ("output_dir", "cache_dir")}
    if Path(args.dataset_name).is_dir():
        names["dataset_name"] = Path(args.dataset_name).resolve().name
    samples = {folder.name: sampled_with(folder) for folder in folders if sampled_with(folder)}
    return record | {
        "arguments": record["arguments"] | names,
        "dataset": {"fingerprint": images._fingerprint, "config_name": images.config_name, "n_images": len(images)},
        "seeds": [args.seed],
        "folds": [fastgan_training.fold_record(folder, own) for folder, own in zip(folders, records, strict=True)],
        "sampling": samples,
        "faces_missed": int(pixels.faces_missed.sum()),
        "mixed_precision": accelerator.mixed_precision,
        "device": device_name(accelerator),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(accelerator.device) if cuda else None,
        "n_processes": accelerator.num_processes,
    }


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
