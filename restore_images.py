"""Old photographs restored: config `real` of a built dataset becomes config `restored`, as the paper prepared it.

    accelerate launch restore_images.py --dataset_name ./rdface --upscaler realesrgan-x4plus \\
        --face_enhancer GFPGANv1.4.pth --colorizer ddcolor-modelscope --output_dir ./rdface

Every photograph is laid on a black square and super-resolved; black-and-white ones are then colourised. --output_dir
is the dataset's own folder, where `restored` is added and `real` stays as it is, or a new one. All work is done in a
hidden folder beside it: blocks of photographs, each written whole, so that a run that was stopped goes on with
--resume_from_checkpoint latest. Also runs as plain `python restore_images.py`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from curation import dataset_facts, dataset_figures, datasheet, withdrawn_list
from curation.opening import load_images
from curation.parquet_files import parquet_digest, shard_digests, write_shards
from curation.restored_rows import Networks, restore_block, restored_features, was_made_of
from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.errors import InputError, one_line
from harness.files import read_json, write_atomically, write_json  # fmt: skip
from harness.processes import check_shared, in_main_process, open_accelerator, wait_for_files
from harness.run_folder import check_replaceable, full_disk_named, prepare_output, run_record, sole_writer
from imaging import faces, restoration
from pages.restoration_sheet import contact_sheet

STOPPED = RESUMED

BLOCK_ROWS = 8  # photographs in a part: the same ones, whatever the number of processes
PACKAGES = ("torch", "spandrel", "spandrel_extra_arches", "datasets", "accelerate", "pillow", "opencv-python")
WRITTEN = ("README.md", "LICENSE", "croissant.json", "figures", "restored", "restoration_record.json")
# What may differ between a run and the one it goes on from: none of it changes a picture by more than rounding.
FREE_SETTINGS = ("dataset_name", "output_dir", "resume_from_checkpoint", "contact_sheet", "batch_size")


def rows_of_part(undecoded: datasets.Dataset, number: int) -> list[dict]:
    start = number * BLOCK_ROWS
    return [undecoded[row] for row in range(start, min(start + BLOCK_ROWS, len(undecoded)))]


def is_part_of(part: Path, rows: list[dict], schema: pa.Schema) -> bool:
    """Whether a part that lies there is whole, and made of these photographs with all that is recorded of them."""
    try:
        table = pq.read_table(part)
    except (OSError, pa.ArrowException):
        return False
    if not table.schema.equals(schema) or len(table) != len(rows):
        return False
    return all(was_made_of(restored, row) for restored, row in zip(table.to_pylist(), rows, strict=True))


def restore_parts(
    accelerator: Accelerator, images: datasets.Dataset, networks: Networks, parts: list[Path], args: argparse.Namespace
) -> list[str]:
    """Write the parts that are missing, each process its own; returns what failed, of all processes together."""
    undecoded = images.cast_column("image", datasets.Image(decode=False))
    schema = restored_features(images.features).arrow_schema
    if accelerator.is_main_process:
        for number, part in enumerate(parts):
            if part.exists() and not is_part_of(part, rows_of_part(undecoded, number), schema):
                print(f"block {number + 1} of {len(parts)} holds other photographs, or was cut short; it is made again")
                part.unlink()
    accelerator.wait_for_everyone()
    missing = [number for number, part in enumerate(parts) if not part.exists()]
    accelerator.wait_for_everyone()  # nobody writes a part before everybody has counted them
    failures = []
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    for number in tqdm(mine, desc="blocks", unit="block", disable=not accelerator.is_main_process):
        restored, failed = restore_block(rows_of_part(undecoded, number), networks, args, accelerator.autocast)
        failures += failed
        if not failed:
            columns = [{name: row[name] for name in schema.names} for row in restored]
            table = pa.Table.from_pylist(columns, schema=schema)
            write_atomically(parts[number], lambda file, table=table: pq.write_table(table, file, row_group_size=1))
    return sorted(gather_object(failures))


def publish(made: Path, target: Path, source: Path | None) -> None:
    """Put the finished folder `restored` into the dataset's folder, or into a folder of its own, with its card.

    Only renames touch the target, so that nothing half-made is ever seen in it and a full disk costs nothing. Stopped
    between any two of them, it comes to the same when it is done again: the version goes by what the card says."""
    previous = made.parent / "previous"
    shutil.rmtree(previous, ignore_errors=True)
    if target != source:
        version = (source and datasheet.version_of(source)) or datasheet.FIRST_VERSION
        datasheet.write_datasheet(made, datasheet.version_after(target, made) if target.exists() else version)
        if target.exists():
            target.rename(previous)
        made.rename(target)
        return
    content = parquet_digest(shard_digests(made, "restored/*.parquet"))
    earlier = datasheet.version_of(target)
    show_the_rest(target, made)
    same = datasheet.described_content(target, "restored") == content
    datasheet.write_datasheet(made, earlier if same else datasheet.next_version(earlier))
    (target / "restoration_record.json").unlink(missing_ok=True)  # that of the pictures which go now
    if (target / "restored").exists():
        (target / "restored").rename(previous)
    (made / "restored").rename(target / "restored")
    (target / "figures").mkdir(exist_ok=True)
    for name in dataset_figures.FIGURES:
        if (made / "figures" / name).exists():
            (made / "figures" / name).replace(target / "figures" / name)
        else:
            (target / "figures" / name).unlink(missing_ok=True)
    if not any((target / "figures").iterdir()):
        (target / "figures").rmdir()
    for name in (
        "LICENSE",
        "croissant.json",
        "README.md",
        "restoration_record.json",
    ):  # the last says that all is done
        (made / name).replace(target / name)


def show_the_rest(target: Path, made: Path) -> None:
    """Let the finished folder hold, as links, what the card also tells of: the dataset's other configs and its list of
    withdrawals; and the card so far, whose contact and repository stay."""
    for config in dataset_facts.CONFIGS:
        if config != "restored" and (target / config).is_dir():
            try:
                (made / config).symlink_to(target / config)
            except OSError:  # a file system without links
                shutil.copytree(target / config, made / config)
    for name in ("README.md", withdrawn_list.LIST_NAME):
        if (target / name).is_file():
            shutil.copyfile(target / name, made / name)


def recover(target: Path) -> None:
    """Undo what a run that was killed had moved aside: the target itself, or its config `restored`."""
    previous = workspace_of(target) / "previous"
    if previous.is_dir():
        place = target / "restored" if any(previous.glob("train-*.parquet")) else target
        if not place.exists():
            previous.rename(place)


def workspace_of(target: Path) -> Path:
    return target.parent / f".{target.name}.restoring"


def remove_workspace(workspace: Path) -> None:
    """The settings go last: a folder that has them is known as one of ours."""
    for name in ("parts", "made", "previous"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    shutil.rmtree(workspace, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ script


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--dataset_name", type=dataset_argument, required=True, help="folder of a built dataset, or ORG/NAME on the Hub"
    )
    add("--dataset_config_name", default="real", help="the config to restore")
    known = " or ".join(restoration.KNOWN)
    where = f"weights: a .safetensors or .pth file, ORG/NAME/FILE on the Hub, or {known}"
    add("--upscaler", type=dataset_argument, required=True, help=f"super-resolution network; {where}")
    how = "network for 512 px faces such as GFPGANv1.4.pth; None leaves faces as the upscaler makes them"
    add("--face_enhancer", type=dataset_argument, help=how)
    how = "DDColor network for black-and-white photographs and prints of one tone; None leaves them as they are"
    add("--colorizer", type=dataset_argument, help=how)
    how = "the dataset's own folder, to which config restored is added, or a new one; an earlier result is replaced"
    add("--output_dir", type=path_argument, required=True, help=how)
    how = "restored px for one of the photograph; the paper's"
    add("--output_scale", type=float, default=3.5, help=how)
    how = "smallest side in px of the black square on which a photograph is laid first; a larger photograph gets a "
    how += "square of its longer side; 0: none; the paper's"
    add("--pad_to", type=int, default=512, help=how)
    how = "longest side in px of a restored picture: one that would be larger is enlarged less, a photograph that is "
    how += "as large already not at all"
    add("--max_side", type=int, default=4096, help=how)
    how = "larger pictures go through the upscaler in tiles of this side in px; smaller ones need less memory"
    add("--tile", type=int, default=512, help=how)
    add("--batch_size", type=int, default=1, help="pictures, or tiles of one, in a step of one process")
    how = "of the upscaler; None is as accelerate launch says"
    add("--mixed_precision", choices=("no", "fp16", "bf16"), help=how)
    how = "go on where a run for output_dir stopped"
    add("--resume_from_checkpoint", choices=("latest",), help=how)
    how = "PNG of some photographs before and after, for the eyes of those who may see them: not inside output_dir"
    add("--contact_sheet", type=path_argument, help=how)
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
    if args.tile < restoration.MIN_TILE_PX:
        parser.error(f"--tile must be at least {restoration.MIN_TILE_PX}")
    if args.batch_size < 1:
        parser.error("--batch_size must be at least 1")
    target = Path(os.path.realpath(args.output_dir))
    if args.contact_sheet:
        sheet = Path(os.path.realpath(args.contact_sheet))
        if sheet.suffix.lower() != ".png" or sheet.is_dir() or not sheet.parent.is_dir():
            parser.error("--contact_sheet must name a .png file in a folder that exists")
        if target in sheet.parents:
            parser.error("--contact_sheet shows photographs and must not lie in --output_dir, which may be published")


def open_networks(accelerator: Accelerator, args: argparse.Namespace) -> Networks:
    """All networks that were asked for. Raises InputError where one cannot be had or does not fit the other flags."""
    device = accelerator.device
    loaded = {}
    with accelerator.main_process_first():  # the first one downloads
        for role in restoration.ROLES:
            source = getattr(args, role)
            loaded[role] = restoration.load_network(source, role, device) if source else None
    upscaler = loaded["upscaler"]
    if args.output_scale > upscaler.scale:
        raise InputError(f"--output_scale {args.output_scale}: {upscaler.name} enlarges {upscaler.scale} times at most")
    supported = {
        "fp16": upscaler.descriptor.supports_half,
        "bf16": upscaler.descriptor.supports_bfloat16,
    }
    if not supported.get(accelerator.mixed_precision, True):
        reason = f"{upscaler.name} does not work in it"
        raise InputError(f"--mixed_precision {accelerator.mixed_precision}: {reason}; use --mixed_precision no")
    detector = faces.load_detector(device=str(device)) if loaded["face_enhancer"] else None
    return Networks(face_detector=detector, **loaded)


def check_target(target: Path, source: Path | None) -> None:
    """Raise InputError unless the result can go there without touching anything that is not a result of ours."""
    for folder in {target, source or target}:
        try:
            datasheet.next_version(datasheet.version_of(folder))
        except ValueError as error:
            raise InputError(f"{folder.name}: {one_line(error)}") from error
    if target == source:
        return
    if source and (target in source.parents or source in target.parents):
        raise InputError(f"--output_dir {target.name} lies in the dataset's folder, or holds it; name another")
    if target.exists() and not target.is_dir():
        raise InputError(f"--output_dir {target.name} is a file; name a folder")
    if not target.is_dir():
        return
    foreign = [path.name for path in sorted(target.iterdir()) if path.name not in WRITTEN]
    if foreign or (any(target.iterdir()) and not (target / "restoration_record.json").is_file()):
        which = foreign[0] if foreign else "README.md"
        raise InputError(f"--output_dir {target.name} holds {which}, which no earlier run made; name a new folder")


def settings_of(args: argparse.Namespace, networks: Networks, mixed_precision: str, content: str) -> dict:
    """What the pictures depend on, as JSON reads it back."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    for role in restoration.ROLES:
        network = getattr(networks, role)
        settings |= {role: network and network.name, f"{role}_sha256": network and network.sha256}
    return settings | {"mixed_precision": mixed_precision, "content": content, "block_rows": BLOCK_ROWS}


def settings_sha256(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def finished_before(target: Path, settings: dict) -> bool:
    """Whether what the run would make is in its place already."""
    record = target / "restoration_record.json"
    if not record.is_file() or not (target / "restored").is_dir():
        return False
    recorded = read_json(record, "leave out --resume_from_checkpoint to restore anew")
    return recorded.get("settings_sha256") == settings_sha256(settings)


def record_of(
    accelerator: Accelerator, args: argparse.Namespace, networks: Networks, settings: dict, n: int, started: float
) -> dict:
    """The run record; names instead of paths, since it lies in a folder that may be published."""
    on_hub = not Path(args.dataset_name).is_dir()
    names = {"dataset_name": args.dataset_name if on_hub else Path(os.path.realpath(args.dataset_name)).name}
    names["output_dir"] = Path(os.path.realpath(args.output_dir)).name
    names["contact_sheet"] = args.contact_sheet and args.contact_sheet.name
    names["resume_from_checkpoint"] = None  # a run that was stopped leaves the same record as one that was not
    used = {role: getattr(networks, role) for role in restoration.ROLES}
    names |= {role: network and network.name for role, network in used.items()}
    described = {
        role: {"name": network.name, "sha256": network.sha256, "license": network.license}
        | {"architecture": network.descriptor.architecture.id, "tags": network.descriptor.tags}
        for role, network in used.items()
        if network
    }
    cuda = accelerator.device.type == "cuda"
    record = run_record(args, PACKAGES, started)
    return record | {
        "arguments": record["arguments"] | names,
        "images": n,
        "networks": described,
        "settings_sha256": settings_sha256(settings),
        "mixed_precision": accelerator.mixed_precision,
        "device": torch.cuda.get_device_name(accelerator.device) if cuda else str(accelerator.device),
        "n_processes": accelerator.num_processes,
    }


def summary(
    accelerator: Accelerator, images: datasets.Dataset, networks: Networks, parts: list[Path], args: argparse.Namespace
) -> str:
    """What is about to be done, in three lines."""
    place = "folder" if Path(args.dataset_name).is_dir() else "Hub"
    done = sum(part.exists() for part in parts)
    listed = [network for network in (networks.upscaler, networks.face_enhancer, networks.colorizer) if network]
    squares = f"squares of at least {args.pad_to} px" if args.pad_to else "whole photographs"
    return (
        f"{args.dataset_name} ({place}, config {images.config_name}): {len(images)} images, "
        f"{done} of {len(parts)} blocks done before\n{'; '.join(map(str, listed))}\n"
        f"scale {args.output_scale} on {squares}, tiles of {args.tile} px, {accelerator.num_processes} processes on "
        f"{accelerator.device}, {accelerator.mixed_precision} mixed precision"
    )


def main(args: argparse.Namespace) -> None:
    accelerator = open_accelerator(args.mixed_precision)
    target = Path(os.path.realpath(args.output_dir))
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(sole_writer(target))
            remedy = "what is done is kept: make room and --resume_from_checkpoint latest"
            held.enter_context(full_disk_named(target.parent, remedy))
            recover(target)
        restore_dataset(accelerator, target, args)


def restore_dataset(accelerator: Accelerator, target: Path, args: argparse.Namespace) -> None:
    started = time.monotonic()

    # ---- dataset, networks, target: nothing slow before everything that can be refused has been
    source = Path(os.path.realpath(args.dataset_name)) if Path(args.dataset_name).is_dir() else None
    check_target(target, source)
    in_main_process(accelerator, lambda: check_replaceable(target))
    workspace = workspace_of(target)
    check_shared(accelerator, workspace, "--output_dir")
    with accelerator.main_process_first():  # the first one fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    restored_features(images.features)
    networks = open_networks(accelerator, args)
    settings = settings_of(args, networks, accelerator.mixed_precision, images._fingerprint)
    if args.resume_from_checkpoint and finished_before(target, settings):
        if accelerator.is_main_process:
            remove_workspace(workspace)  # of a run that was killed after its last rename
        accelerator.print(f"{args.output_dir}: finished before; nothing is left to do")
        return

    # ---- a hidden folder beside the target, prepared by the main process; the others begin once it is ready
    in_main_process(accelerator, lambda: prepare_workspace(workspace, settings, bool(args.resume_from_checkpoint)))
    parts = [workspace / "parts" / f"{number:06d}.parquet" for number in range(-(-len(images) // BLOCK_ROWS))]
    accelerator.print(summary(accelerator, images, networks, parts, args))

    # ---- every block
    failures = restore_parts(accelerator, images, networks, parts, args)
    if failures:
        named = "; ".join(failures[:10]) + ("; ..." if failures[10:] else "")
        raise InputError(
            f"{len(failures)} of {len(images)} images could not be restored: {named}; the others are kept: put "
            "right what is wrong and --resume_from_checkpoint latest, or build the dataset again without these"
        )

    # ---- the dataset
    if accelerator.is_main_process:
        wait_for_files(parts)
        made = workspace / "made"
        write_shards(parts, made / "restored")
        record = record_of(accelerator, args, networks, settings, len(images), started)
        write_json(made / "restoration_record.json", record)
        if args.contact_sheet:
            contact_sheet(images, made / "restored", args.contact_sheet)
        publish(made, target, source)
        remove_workspace(workspace)
        print(f"written: {args.output_dir}: restored, restoration_record.json and the card; load_dataset opens it")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def prepare_workspace(workspace: Path, settings: dict, resume: bool) -> None:
    """The folder of an earlier run to go on with, or a new one, for its owner's eyes and for one run at a time."""
    try:
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"--output_dir: {workspace.parent} cannot be written ({one_line(error)})") from error
    if not (workspace / "settings.json").is_file():  # stopped while these were first written, or while it was removed
        remove_workspace(workspace)
        workspace.mkdir(mode=0o700)
    prepare_output(workspace, settings, "parts", (), resume)
    (workspace / "parts").mkdir(exist_ok=True)
    shutil.rmtree(workspace / "made", ignore_errors=True)


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
