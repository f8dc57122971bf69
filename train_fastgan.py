"""FastGAN for every fold, trained on the fold's training side alone, and synthetic images sampled from it.

    accelerate launch train_fastgan.py --dataset_name ./rdface --protocol strict --resolution 256 \\
        --max_train_steps 50000 --num_images 5000 --output_dir runs/fastgan

Each process takes folds of its own, so the results do not depend on the number of processes; under `paper` there is one
generator. Writes for each fold generator.safetensors, sources.json (what it was trained on), snapshots with a picture
each, and the dataset synthetic/ for load_dataset; and run.json. With --resume_from_checkpoint latest a run continues,
is trained further (--max_train_steps), or is sampled anew (--num_images, --sample_from).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from curation.leak_guard import Guard
from curation.protocols import N_FOLDS, fold_number
from generation import generator_choices
from harness.commands import RESUMED, Parser, from_args, run_command
from harness.common_options import add_dataset, add_output
from harness.counts import counted
from harness.errors import InputError
from harness.files import write_json
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.protocol_names import PROTOCOLS
from harness.run_folder import finish_output, prepare_output, run_record
from imaging.detector_names import FACE_DETECTORS

STOPPED = RESUMED

PACKAGES = ("torch", "datasets", "accelerate", "safetensors", "numpy", "pillow")
RESULTS = ("run.json",)
# What may differ between a run and the one it resumes: none of it changes a step of the training.
FREE_SETTINGS = ("dataset_name", "output_dir", "resume_from_checkpoint", "cache_dir", "fold", "max_train_steps")
FREE_SETTINGS += ("snapshot_steps", "checkpointing_steps", "num_images", "sample_from")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_dataset(add)
    text = "whose training sides to train on; under paper there is one generator for all folds"
    add("--protocol", choices=PROTOCOLS, default="strict", help=text)
    text = "all, or the number of one fold; under paper there is none"
    add("--fold", type=fold_number, default="all", help=text)
    text = "train on this many images per condition, drawn by --seed (default: all)"
    add("--k_shot", type=int, help=text)
    text = "side of the square images in px; the paper's is 1024"
    add("--resolution", type=int, choices=generator_choices.FASTGAN_RESOLUTIONS, default=256, help=text)
    text = "detector that cuts out the faces; none: the whole photograph"
    add("--align_faces", choices=[*FACE_DETECTORS, "none"], default="none", help=text)
    text = "train a generator that is given the condition; the paper's is not"
    add("--class_conditional", action="store_true", help=text)
    text = "channels of a map of 128 px, which scale those of all other maps; the paper has 64, take fewer for trials"
    add("--base_channels", type=int, default=generator_choices.FASTGAN_BASE_CHANNELS, help=text)
    text = "loss of the discriminator's decoders; lpips is the paper's kind and needs AlexNet's ImageNet weights"
    add("--perceptual", choices=generator_choices.PERCEPTUAL, default="l1", help=text)
    add("--max_train_steps", type=int, default=50_000, help="training steps of each fold's generator")
    add("--train_batch_size", type=int, default=8, help="images per step; each process trains folds of its own")
    add("--learning_rate", type=float, default=2e-4, help="learning rate of both networks, constant")
    text = "precision of training; sampling is in full precision (default: the setting of accelerate launch)"
    add("--mixed_precision", choices=("no", "bf16"), help=text)
    text = "steps between two snapshots, each a generator that can be sampled from, and a picture"
    add("--snapshot_steps", type=int, default=10_000, help=text)
    add("--checkpointing_steps", type=int, default=1000, help="steps between two checkpoints; 0: at snapshots only")
    add("--num_images", type=int, default=0, help="synthetic images of each fold's generator; 0: none")
    text = "steps of the snapshots over which the images are spread evenly (default: the last step)"
    add("--sample_from", type=int, nargs="+", metavar="STEP", help=text)
    text = "seed of initial weights, order, noise, and the draw of --k_shot; the folds do not depend on it"
    add("--seed", type=int, default=0, help=text)
    add_output(add)
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


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    check_name(args.dataset_name, "build it with rdface_dataset.py")
    work_offline_if_unreachable([args.dataset_name])
    # Imported here, since they take seconds: what is refused above, and --help, must not wait for them.
    import datasets
    import numpy as np

    from curation.opening import guarded_columns, is_simulated, load_images, photograph_sha256
    from generation import fastgan_sampling, fastgan_sources, fastgan_training, gan_losses, synthetic_images
    from generation.training_provenance import SOURCES_NAME, settings_digest
    from harness.launched_processes import (
        check_output_dir,
        device_record,
        in_main_process,
        open_accelerator,
        wait_for_files,
    )
    from imaging.pixel_cache import cached_pixels

    accelerator = open_accelerator(args.mixed_precision)
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise InputError(f"--mixed_precision {accelerator.mixed_precision}: the losses overflow in it; use bf16 or no")
    places = (args.output_dir, [args.dataset_name], args.cache_dir)
    check_output_dir(accelerator, *places)

    # ---- dataset, training sides, loss: everything that can be refused is refused before anything slow begins
    with accelerator.main_process_first():  # the main process fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    sides = fastgan_sources.open_sides(images, args.protocol, args.fold, args.k_shot, args.seed)
    fastgan_sources.check_resolution(images, args.resolution)
    with accelerator.main_process_first():
        difference = gan_losses.difference_by(args.perceptual, accelerator.device)
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    settings |= {"fingerprint": images._fingerprint, "mixed_precision": accelerator.mixed_precision}
    seen_by = (args.seed, args.k_shot, settings_digest(settings))
    digests = photograph_sha256(images)
    sources = [fastgan_sources.sources_of(images, digests, side, *seen_by) for side in sides]
    folders = [args.output_dir / synthetic_images.folder_of(side) for side in sides]

    def check_finished() -> None:
        for folder, own in zip(folders, sources, strict=True):
            fastgan_sampling.check_fold(folder, own)

    in_main_process(accelerator, lambda: prepare_folders(args, settings, check_finished))

    # ---- what is to be done
    kind = "class-conditional" if args.class_conditional else "unconditional"
    seen = f"{args.k_shot}-shot" if args.k_shot else "all training images"
    accelerator.print(
        f"{args.dataset_name} ({'SIMULATED, ' * is_simulated(images)}config {images.config_name}, "
        f"fingerprint {images._fingerprint}): {counted(len(images), 'image')}\n"
        f"FastGAN at {args.resolution} px, {kind}, {args.align_faces} alignment, {args.perceptual} decoders, protocol "
        f"{args.protocol}, {seen}, {counted(len(sides), 'generator')} x {counted(args.max_train_steps, 'step')}, "
        f"{counted(args.num_images, 'image')} "
        f"each,\n{counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device}, "
        f"{accelerator.mixed_precision} mixed precision"
    )
    alignment = None if args.align_faces == "none" else args.align_faces
    pixels = cached_pixels(accelerator, images, args.resolution, alignment, args.cache_dir)
    if pixels.faces_missed.any():
        accelerator.print(f"no face found in {counted(pixels.faces_missed.sum(), 'image')}, taken whole")
    columns = guarded_columns(images, pixels.uint8)
    datasets.disable_progress_bars()  # the files written from here on take a moment

    # ---- every fold
    recipe = from_args(fastgan_training.Recipe, args)
    sampling = from_args(fastgan_sampling.Sampling, args)
    labels, label_names = np.array(images["label"][:]), images.features["label"].names
    wanted = sorted({*args.sample_from, args.max_train_steps})
    work = list(zip(sides, sources, folders, strict=True))
    for side, own, folder in work[accelerator.process_index :: accelerator.num_processes]:
        for place in (folder, folder / "snapshots"):  # before there is a model that a withdrawal would have to find
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / SOURCES_NAME, fastgan_sources.as_json(own))
        if not all(fastgan_training.snapshot_file(folder, step).is_file() for step in wanted):
            guard = Guard(side, columns)
            conditions = label_names if args.class_conditional else None
            described = fastgan_sources.described(own, conditions, args.align_faces, is_simulated(images))
            fastgan_training.fit(accelerator, pixels, labels, guard, described, difference, recipe, folder)
        fastgan_training.check_wanted(folder, wanted)
        fastgan_training.use_snapshot(folder, args.sample_from[-1])
        if args.num_images:
            fastgan_sampling.sample_fold(accelerator, images, side, own, sampling, folder)
        accelerator.free_memory()
    accelerator.wait_for_everyone()

    # ---- the record
    if accelerator.is_main_process:
        wait_for_files([folder / "fold.json" for folder in folders])
        record = run_record(vars(args), PACKAGES, started)
        record["arguments"] |= names_of_paths(args)
        sampled = {folder.name: fastgan_sampling.sampled_with(folder) for folder in folders}
        record |= {
            "dataset": {"fingerprint": images._fingerprint, "config_name": images.config_name, "n_images": len(images)},
            "seeds": [args.seed],
            "folds": [fastgan_training.fold_record(folder, own.trained_on) for _, own, folder in work],
            "sampling": {name: of_fold for name, of_fold in sampled.items() if of_fold},
            "faces_missed": int(pixels.faces_missed.sum()),
            "mixed_precision": accelerator.mixed_precision,
            **device_record(accelerator),
        }
        finish_output(args.output_dir, record)
        made = ["generator.safetensors", "snapshots"] + ["synthetic"] * bool(args.num_images)
        print(f"written: {args.output_dir}: run.json; {', '.join(f.name for f in folders)}: {', '.join(made)}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def prepare_folders(args: argparse.Namespace, settings: dict, check_finished: Callable[[], None]) -> None:
    """Start the run's folder anew, or, if the run is resumed, check what it is resumed from."""
    resume = bool(args.resume_from_checkpoint)
    parts = ("paper", *(f"fold{number}" for number in range(N_FOLDS)))
    prepare_output(args.output_dir, settings, parts, () if resume else RESULTS, resume, "train_fastgan.py")
    if resume:
        check_finished()
    for name in RESULTS:
        (args.output_dir / name).unlink(missing_ok=True)


def names_of_paths(args: argparse.Namespace) -> dict[str, str]:
    """Names in place of the paths among the arguments, since folders with synthetic images are published."""
    names = {name: Path(getattr(args, name)).name for name in ("output_dir", "cache_dir")}
    if Path(args.dataset_name).is_dir():
        names["dataset_name"] = Path(args.dataset_name).resolve().name
    return names


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
