"""Old photographs restored: config `real` of a built dataset becomes config `restored`, as the paper prepared it.

    accelerate launch restore_images.py --dataset_name ./rdface --upscaler realesrgan-x4plus \\
        --face_enhancer GFPGANv1.4.pth --colorizer ddcolor-modelscope --output_dir ./rdface

Every photograph is laid on a black square and super-resolved; black-and-white ones are then colourised. --output_dir
is either the dataset's own folder, where `restored` is added and `real` stays as it is, or a new one. All work is done
in a hidden folder beside it, in blocks of photographs that are each written whole, so that a run that was stopped goes
on with --resume_from_checkpoint latest. Also runs as plain `python restore_images.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.counts import counted
from harness.derived_places import PAGE, RUN, note
from harness.errors import InputError
from harness.files import write_json
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.real_or_simulated import BUILD
from harness.run_folder import check_replaceable, full_disk_named, run_record, sole_writer
from imaging.restoration_settings import KNOWN, MIN_TILE_PX, ROLES, RestorationSettings

if TYPE_CHECKING:
    import datasets
    from accelerate import Accelerator

    from curation.restored_rows import Networks

STOPPED = RESUMED
PACKAGES = ("torch", "spandrel", "spandrel_extra_arches", "datasets", "accelerate", "pillow", "opencv-python")
# What may differ between a run and the one it goes on from: none of it changes a picture by more than rounding.
FREE_SETTINGS = ("dataset_name", "output_dir", "resume_from_checkpoint", "contact_sheet", "batch_size")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    default = RestorationSettings()
    add(
        "--dataset_name", type=dataset_argument, required=True, help="folder of a built dataset, or ORG/NAME on the Hub"
    )
    add("--dataset_config_name", default="real", help="the config to restore")
    weights = f"weights: a .safetensors or .pth file, ORG/NAME/FILE on the Hub, or {' or '.join(KNOWN)}"
    add("--upscaler", type=dataset_argument, required=True, help=f"super-resolution network; {weights}")
    text = "network for 512 px faces such as GFPGANv1.4.pth (default: faces stay as the upscaler makes them)"
    add("--face_enhancer", type=dataset_argument, help=text)
    text = "DDColor network for black-and-white photographs and prints of one tone (default: they stay as they are)"
    add("--colorizer", type=dataset_argument, help=text)
    text = "the dataset's own folder, to which config restored is added, or a new one; an earlier result is replaced"
    add("--output_dir", type=path_argument, required=True, help=text)
    text = "px of the restored picture per px of the photograph; 3.5 is the paper's"
    add("--output_scale", type=float, default=default.output_scale, help=text)
    text = "smallest side in px of the black square on which a photograph is laid first; a larger photograph gets a "
    text += "square of its longer side; 0: no square; 512 is the paper's"
    add("--pad_to", type=int, default=default.pad_to, help=text)
    text = "longest side in px of a restored picture: a photograph whose result would be larger is enlarged less, and "
    text += "one that is as large already is not enlarged"
    add("--max_side", type=int, default=default.max_side, help=text)
    text = "larger pictures go through the upscaler in tiles of this side in px; smaller tiles need less memory"
    add("--tile", type=int, default=default.tile, help=text)
    text = "pictures, or tiles of one picture, per step and process"
    add("--batch_size", type=int, default=default.batch_size, help=text)
    text = "precision of the upscaler (default: what accelerate launch says)"
    add("--mixed_precision", choices=("no", "fp16", "bf16"), help=text)
    text = "go on where an earlier run for this output_dir stopped"
    add("--resume_from_checkpoint", choices=("latest",), help=text)
    text = "PNG that shows some photographs before and after, for those who may see them: not inside output_dir"
    add("--contact_sheet", type=path_argument, help=text)
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for flag in ("dataset_name", "output_dir"):
        if str(getattr(args, flag)) in ("", "."):
            parser.error(f"--{flag} must name a folder, not the current one")
    if not 1 <= args.output_scale <= 16:
        parser.error("--output_scale must be from 1 to 16")
    if args.pad_to < 0 or args.max_side < max(1, args.pad_to):
        parser.error("--pad_to must not be negative, and --max_side not smaller than it")
    if args.tile < MIN_TILE_PX:
        parser.error(f"--tile must be at least {MIN_TILE_PX}")
    if args.batch_size < 1:
        parser.error("--batch_size must be at least 1")
    target = Path(os.path.realpath(args.output_dir))
    if args.contact_sheet:
        sheet = Path(os.path.realpath(args.contact_sheet))
        if sheet.suffix.lower() != ".png" or sheet.is_dir() or not sheet.parent.is_dir():
            parser.error("--contact_sheet must name a .png file in a folder that exists")
        if target in sheet.parents:
            parser.error("--contact_sheet shows photographs and must not lie in --output_dir, which may be published")


def main(args: argparse.Namespace) -> None:
    check_name(args.dataset_name, BUILD)
    work_offline_if_unreachable([args.dataset_name, args.upscaler, args.face_enhancer, args.colorizer])
    # Everything that takes seconds to import is imported from here on, once the arguments have been accepted.
    from curation import restoration_target
    from harness.launched_processes import open_accelerator

    accelerator = open_accelerator(args.mixed_precision)
    target = Path(os.path.realpath(args.output_dir))
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(sole_writer(target))
            remedy = "what is done is kept: make room and --resume_from_checkpoint latest"
            held.enter_context(full_disk_named(target.parent, remedy))
            restoration_target.recover(target)
        restore_dataset(accelerator, target, args)


def restore_dataset(accelerator: Accelerator, target: Path, args: argparse.Namespace) -> None:
    from curation import restoration_target
    from curation.opening import load_images
    from curation.restored_blocks import block_files, restore_blocks
    from curation.schema import restored_features
    from harness.launched_processes import check_shared, in_main_process, wait_for_files

    started = time.monotonic()

    # ---- dataset, networks, target: whatever can be refused is refused before anything slow begins
    source = Path(os.path.realpath(args.dataset_name)) if Path(args.dataset_name).is_dir() else None
    restoration_target.check_target(target, source)
    in_main_process(accelerator, lambda: check_replaceable(target))
    workspace = restoration_target.workspace_of(target)
    check_shared(accelerator, workspace, "--output_dir")
    with accelerator.main_process_first():  # the first one fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    restored_features(images.features)
    networks = open_networks(accelerator, args)
    settings = settings_of(args, networks, accelerator.mixed_precision, images._fingerprint)
    resume = bool(args.resume_from_checkpoint)
    if resume and restoration_target.finished_before(target, settings):
        if accelerator.is_main_process:
            restoration_target.remove_workspace(workspace)  # of a run that was killed after its last rename
        accelerator.print(f"{args.output_dir}: finished before; nothing is left to do")
        return

    # ---- a hidden folder beside the target, prepared by the main process; the others begin once it is ready
    in_main_process(accelerator, lambda: restoration_target.prepare_workspace(workspace, settings, resume))
    if accelerator.is_main_process:
        note([args.dataset_name], args.output_dir, RUN)
        if args.contact_sheet:
            note([args.dataset_name], args.contact_sheet, PAGE)
    blocks = block_files(workspace / "parts", len(images))
    accelerator.print(summary(accelerator, images, networks, blocks, args))

    # ---- every block
    sizes = RestorationSettings(args.output_scale, args.pad_to, args.max_side, args.tile, args.batch_size)
    failures = restore_blocks(accelerator, images, networks, blocks, sizes)
    if failures:
        named = "; ".join(failures[:10]) + ("; ..." if failures[10:] else "")
        raise InputError(
            f"{len(failures)} of {counted(len(images), 'image')} could not be restored: {named}; the others are kept: "
            "put right what is wrong and --resume_from_checkpoint latest, or build the dataset again without these"
        )

    # ---- the dataset
    if accelerator.is_main_process:
        wait_for_files(blocks)
        record = record_of(accelerator, args, networks, settings, len(images), started)
        write_result(workspace / "made", blocks, record, images, args.contact_sheet)
        restoration_target.publish(workspace / "made", target, source)
        restoration_target.remove_workspace(workspace)
        print(f"written: {args.output_dir}: restored, restoration_record.json and the card; load_dataset opens it")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def open_networks(accelerator: Accelerator, args: argparse.Namespace) -> Networks:
    """All networks that were asked for. Raises InputError if one cannot be had or does not fit the other flags."""
    from curation.restored_rows import load_networks

    with accelerator.main_process_first():  # the first one downloads
        networks = load_networks({role: getattr(args, role) for role in ROLES}, accelerator.device)
    upscaler = networks.upscaler
    if args.output_scale > upscaler.scale:
        raise InputError(f"--output_scale {args.output_scale}: {upscaler.name} enlarges {upscaler.scale} times at most")
    supported = {
        "fp16": upscaler.descriptor.supports_half,
        "bf16": upscaler.descriptor.supports_bfloat16,
    }
    if not supported.get(accelerator.mixed_precision, True):
        reason = f"{upscaler.name} does not work in it"
        raise InputError(f"--mixed_precision {accelerator.mixed_precision}: {reason}; use --mixed_precision no")
    return networks


def settings_of(args: argparse.Namespace, networks: Networks, mixed_precision: str, content: str) -> dict:
    """What the pictures depend on, as JSON reads it back; content: the fingerprint of the dataset."""
    from curation.restored_blocks import BLOCK_ROWS

    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    for role in ROLES:
        network = getattr(networks, role)
        settings |= {role: network and network.name, f"{role}_sha256": network and network.sha256}
    return settings | {"mixed_precision": mixed_precision, "content": content, "block_rows": BLOCK_ROWS}


def summary(
    accelerator: Accelerator, images: datasets.Dataset, networks: Networks, blocks: list[Path], args: argparse.Namespace
) -> str:
    """What is about to be done, in three lines."""
    place = "folder" if Path(args.dataset_name).is_dir() else "Hub"
    done = sum(block.exists() for block in blocks)
    listed = [network for network in (networks.upscaler, networks.face_enhancer, networks.colorizer) if network]
    squares = f"squares of at least {args.pad_to} px" if args.pad_to else "whole photographs"
    return (
        f"{args.dataset_name} ({place}, config {images.config_name}): {counted(len(images), 'image')}, "
        f"{done} of {counted(len(blocks), 'block')} done before\n{'; '.join(map(str, listed))}\n"
        f"scale {args.output_scale} on {squares}, tiles of {args.tile} px, "
        f"{counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device}, "
        f"{accelerator.mixed_precision} mixed precision"
    )


def record_of(
    accelerator: Accelerator, args: argparse.Namespace, networks: Networks, settings: dict, n: int, started: float
) -> dict:
    """The run record. It holds names instead of paths, since the folder may be published."""
    from curation.restoration_target import settings_sha256
    from harness.launched_processes import device_record

    on_hub = not Path(args.dataset_name).is_dir()
    names = {"dataset_name": args.dataset_name if on_hub else Path(os.path.realpath(args.dataset_name)).name}
    names["output_dir"] = Path(os.path.realpath(args.output_dir)).name
    names["contact_sheet"] = args.contact_sheet and args.contact_sheet.name
    names["resume_from_checkpoint"] = None  # a run that was stopped leaves the same record as one that was not
    used = {role: getattr(networks, role) for role in ROLES}
    names |= {role: network and network.name for role, network in used.items()}
    described = {
        role: {"name": network.name, "sha256": network.sha256, "license": network.license}
        | {"architecture": network.descriptor.architecture.id, "tags": network.descriptor.tags}
        for role, network in used.items()
        if network
    }
    record = run_record(vars(args), PACKAGES, started)
    return record | {
        "arguments": record["arguments"] | names,
        "images": n,
        "networks": described,
        "settings_sha256": settings_sha256(settings),
        "mixed_precision": accelerator.mixed_precision,
        **device_record(accelerator),
    }


def write_result(folder: Path, blocks: list[Path], record: dict, images: datasets.Dataset, sheet: Path | None) -> None:
    """Join the blocks in a new folder, with the run record, and draw the contact sheet if one was asked for."""
    from curation.parquet_files import write_shards
    from curation.restoration_target import RECORD_NAME
    from pages.restoration_sheet import contact_sheet

    write_shards(blocks, folder / "restored")
    write_json(folder / RECORD_NAME, record)
    if sheet:
        contact_sheet(images, folder / "restored", sheet)


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
