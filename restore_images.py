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
import dataclasses
import hashlib
import io
import json
import os
import shutil
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from filelock import FileLock, Timeout
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

import datasheet
import faces
import photographs
import restoration
from built_dataset import is_simulated, load_images
from parquet_files import shard_digests
from restoration import Network
from runs import InputError, fail, one_line, prepare_output, run_record, write_atomically, write_json

BLOCK_ROWS = 8  # photographs in a part: the same ones, whatever the number of processes
ROW_GROUP_ROWS, ROW_GROUP_BYTES, SHARD_BYTES = 100, 100_000_000, 500_000_000  # what the Hub's viewer likes
FACE_THRESHOLD = 0.9  # of MTCNN: what may be no face is left as it is
PACKAGES = ("torch", "spandrel", "spandrel_extra_arches", "datasets", "accelerate", "pillow", "opencv-python")
WRITTEN = ("README.md", "LICENSE", "croissant.json", "figures", "restored", "restoration_record.json")
# What may differ between a run and the one it goes on from: none of it changes a picture by more than rounding.
FREE_SETTINGS = ("dataset_name", "output_dir", "resume_from_checkpoint", "contact_sheet", "batch_size")
PROVENANCE = {
    "original_sha256": datasets.Value("string"),  # of the photograph's bytes in config real
    "original_width": datasets.Value("int32"),  # px, as is height
    "original_height": datasets.Value("int32"),
    "upscaler": datasets.Value("string"),  # file name, or ORG/NAME/FILE on the Hub; null: not applied
    "upscaler_sha256": datasets.Value("string"),  # of the weights' file
    "scale": datasets.Value("float64"),  # px of the restored picture for one of the photograph
    "face_enhancer": datasets.Value("string"),
    "face_enhancer_sha256": datasets.Value("string"),
    "faces_enhanced": datasets.Value("int32"),
    "colorizer": datasets.Value("string"),
    "colorizer_sha256": datasets.Value("string"),
}


@dataclasses.dataclass
class Networks:
    """What restores a photograph, in the order of its use; None where it was not asked for."""

    upscaler: Network
    face_enhancer: Network | None = None
    face_detector: faces.Detector | None = None
    colorizer: Network | None = None


# -------------------------------------------------------------------------------------------------------- one block


def restore_block(
    rows: list[dict], networks: Networks, args: argparse.Namespace, autocast: Callable
) -> tuple[list[dict], list[str]]:
    """The restored rows of a block, in its order, and for each photograph that failed its name and the reason.

    rows: of config real, with the image as {bytes, path}. Photographs of one size go through the upscaler together."""
    pictures, restored, failures = {}, {}, []
    rows_by_size = defaultdict(list)
    for i, row in enumerate(rows):
        try:
            pictures[i] = decode(row["image"])
            rows_by_size[square(pictures[i], args.pad_to).shape].append(i)
        except Exception as error:  # Pillow's parsers raise a dozen kinds over damaged files
            failures.append(f"{row['image_id']} cannot be decoded ({one_line(error)})")
    batches = deque()
    for same_size in rows_by_size.values():
        batches += [same_size[start : start + args.batch_size] for start in range(0, len(same_size), args.batch_size)]
    while batches:
        batch = batches.popleft()
        try:
            found = restore([pictures[i] for i in batch], networks, args, autocast)
            for i, changes in zip(batch, found, strict=True):
                restored[i] = changed_row(rows[i], changes)
        except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
            if len(batch) > 1:
                batches += [[i] for i in batch]  # alone, it shows whose fault it is
            else:
                failures.append(f"{rows[batch[0]]['image_id']}: {one_line(error)}")
    return [restored[i] for i in sorted(restored)], failures


def decode(image: dict | None) -> np.ndarray:
    """The upright photograph (h, w, 3) uint8. Raises OSError or ValueError where there is none."""
    if not image or not image["bytes"]:
        raise ValueError("it holds no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and of metadata
        photograph = Image.open(io.BytesIO(image["bytes"]), formats=photographs.FORMATS)
        return np.array(ImageOps.exif_transpose(photograph).convert("RGB"))


def square(picture: np.ndarray, pad_to_px: int) -> np.ndarray:
    """The picture in the middle of a black square with a side of at least pad_to_px; 0 leaves it as it is."""
    if not pad_to_px:
        return picture
    height, width = picture.shape[:2]
    side = max(pad_to_px, height, width)
    padded = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = picture
    return padded


def restored_scale(longer_side_px: int, args: argparse.Namespace) -> float:
    """--output_scale, or less where the result would exceed --max_side; 1 where there is nothing to enlarge."""
    return max(1.0, min(args.output_scale, args.max_side / longer_side_px))


def restore(
    originals: list[np.ndarray], networks: Networks, args: argparse.Namespace, autocast: Callable
) -> Iterator[dict]:
    """Photographs (h, w, 3) uint8 whose squares are equally large, restored: the picture and what is noted of it.

    Padding comes first, as the paper lists it: the networks see the square, which also makes most photographs equally
    large. Its border is blackened again at the end, since no network leaves black as black as it was."""
    padded = np.stack([square(original, args.pad_to) for original in originals])
    scale = restored_scale(max(padded.shape[1:3]), args)
    enlarged = padded
    if scale > 1:
        enlarged = restoration.upscale(networks.upscaler, padded, args.tile, autocast)
    found = [None] * len(padded)
    if networks.face_enhancer:
        found = networks.face_detector.detect(list(padded), FACE_THRESHOLD)
    for original, before, after, face in zip(originals, padded, enlarged, found, strict=True):
        size = round(before.shape[1] * scale), round(before.shape[0] * scale)
        picture = np.array(Image.fromarray(after).resize(size, Image.Resampling.LANCZOS))
        if face:
            picture = restoration.enhance_face(networks.face_enhancer, picture, before, face.landmarks)
        original_image = Image.fromarray(original)
        colorized = networks.colorizer is not None and restoration.is_monochrome(original_image)
        if colorized:
            picture = restoration.colorize(networks.colorizer, picture)
        elif photographs.is_grayscale(original_image):  # the upscaler has three channels and may tint what had no tint
            picture = np.array(Image.fromarray(picture).convert("L").convert("RGB"))
        blacken_border(picture, original, before)
        used = {
            "upscaler": networks.upscaler if scale > 1 else None,
            "face_enhancer": networks.face_enhancer if face else None,
            "colorizer": networks.colorizer if colorized else None,
        }
        yield {
            "picture": picture,
            "scale": scale,
            "faces_enhanced": int(face is not None),
            "original_width": original.shape[1],
            "original_height": original.shape[0],
            **{role: network and network.name for role, network in used.items()},
            **{f"{role}_sha256": network and network.sha256 for role, network in used.items()},
        }


def blacken_border(picture: np.ndarray, original: np.ndarray, padded: np.ndarray) -> None:
    """Set to 0, in place, what of a restored picture lies outside of the photograph in its square."""
    for axis in (0, 1):
        scale = picture.shape[axis] / padded.shape[axis]
        first = (padded.shape[axis] - original.shape[axis]) // 2
        last = first + original.shape[axis]
        along = np.moveaxis(picture, axis, 0)  # a view
        along[: round(first * scale)] = 0
        along[round(last * scale) :] = 0


def changed_row(row: dict, changes: dict) -> dict:
    """The row of config restored: that of real, with what is different about the picture."""
    picture = Image.fromarray(changes.pop("picture"))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    restored = row | changes | {"original_sha256": hashlib.sha256(row["image"]["bytes"]).hexdigest()}
    restored["image"] = {"bytes": encoded.getvalue(), "path": f"{row['image_id']}.png"}
    restored |= {"width": picture.width, "height": picture.height}
    restored["is_grayscale"] = photographs.is_grayscale(picture)
    restored["sha256"] = hashlib.sha256(encoded.getvalue()).hexdigest()
    return restored


# ----------------------------------------------------------------------------------------------------- the whole set


def restored_features(features: datasets.Features) -> datasets.Features:
    """The columns of config restored: those of real, in their order, and where the picture comes from.

    Raises InputError where real has a column of one of these names."""
    clash = next((name for name in PROVENANCE if name in features), None)
    if clash:
        raise InputError(f"the dataset has a column {clash} already; restore config real, or rename it in the CSV")
    return datasets.Features({**features, "image": datasets.Image(mode="RGB"), **PROVENANCE})


def content_digest(images: datasets.Dataset) -> str:
    """Of the rows without their pictures, whose bytes the column sha256 stands for: tells whether a run may go on.

    The dataset's fingerprint would not do: it changes once `restored` stands beside `real`."""
    if "sha256" not in images.column_names:
        return images._fingerprint
    digest = hashlib.sha256()
    for rows in images.remove_columns("image").with_format("arrow").iter(1000):
        digest.update(json.dumps(rows.to_pylist(), default=str).encode())
    return digest.hexdigest()


def restore_parts(
    accelerator: Accelerator, images: datasets.Dataset, networks: Networks, parts: list[Path], args: argparse.Namespace
) -> list[str]:
    """Write the parts that are missing, each process its own; returns what failed, of all processes together."""
    undecoded = images.cast_column("image", datasets.Image(decode=False))
    schema = restored_features(images.features).arrow_schema
    missing = [number for number, part in enumerate(parts) if not part.exists()]
    accelerator.wait_for_everyone()  # nobody writes a part before everybody has counted them
    failures = []
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    for number in tqdm(mine, desc="blocks", unit="block", disable=not accelerator.is_main_process):
        start = number * BLOCK_ROWS
        rows = [undecoded[row] for row in range(start, min(start + BLOCK_ROWS, len(images)))]
        restored, failed = restore_block(rows, networks, args, accelerator.autocast)
        failures += failed
        if not failed:
            columns = [{name: row[name] for name in schema.names} for row in restored]
            table = pa.Table.from_pylist(columns, schema=schema)
            write_atomically(parts[number], lambda file, table=table: pq.write_table(table, file, row_group_size=1))
    return sorted(gather_object(failures))


def write_shards(parts: list[Path], folder: Path) -> None:
    """All parts, in their order, as train-*.parquet in the builder's layout; one row group is held in memory."""
    folder.mkdir(parents=True)
    shards, writer = [], None
    for table in row_groups(parts):
        if writer is None:
            shards.append(folder / f"shard-{len(shards):05d}.parquet")
            options = {"write_page_index": True, "use_content_defined_chunking": True}  # as `datasets` writes
            writer = pq.ParquetWriter(shards[-1], table.schema, **options)
        writer.write_table(table, row_group_size=len(table))
        if shards[-1].stat().st_size >= SHARD_BYTES:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    for number, shard in enumerate(shards):
        shard.rename(folder / f"train-{number:05d}-of-{len(shards):05d}.parquet")


def row_groups(parts: list[Path]) -> Iterator[pa.Table]:
    """The rows of all parts in groups of at most ROW_GROUP_ROWS, and of one row where it exceeds ROW_GROUP_BYTES."""
    waiting, waiting_bytes = [], 0
    for part in parts:
        with pq.ParquetFile(part) as file:
            for number in range(file.num_row_groups):  # of one row each
                row = file.read_row_group(number)
                if waiting and (len(waiting) == ROW_GROUP_ROWS or waiting_bytes + row.nbytes > ROW_GROUP_BYTES):
                    yield pa.concat_tables(waiting)
                    waiting, waiting_bytes = [], 0
                waiting.append(row)
                waiting_bytes += row.nbytes
    yield pa.concat_tables(waiting)


def publish(made: Path, target: Path, source: Path | None) -> None:
    """Put the finished folder `restored` into the dataset's folder, or into a folder of its own, and write its card.

    Only renames touch the target, so that nothing half-made is ever seen in it."""
    previous = made.parent / "previous"
    shutil.rmtree(previous, ignore_errors=True)
    if target != source:
        version = (source and datasheet.version_of(source)) or datasheet.FIRST_VERSION
        datasheet.write_datasheet(made, datasheet.version_after(target, made) if target.exists() else version)
        if target.exists():
            target.rename(previous)
        made.rename(target)
        return
    earlier = datasheet.version_of(target)
    same = shard_digests(target, "restored/*.parquet") == shard_digests(made, "restored/*.parquet")
    if (target / "restored").exists():
        (target / "restored").rename(previous)
    (made / "restored").rename(target / "restored")
    datasheet.write_datasheet(target, earlier if same else datasheet.next_version(earlier))
    (made / "restoration_record.json").replace(target / "restoration_record.json")  # last: says that all is done


def contact_sheet(images: datasets.Dataset, folder: Path, file: Path, n_shown: int = 8, cell_px: int = 288) -> None:
    """A picture of photographs before and after, whole and their middle enlarged, readable by its owner only.

    Half of those shown were colourised, or are grey, as far as there are any."""
    restored = datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)
    originals, restored = (rows.cast_column("image", datasets.Image(decode=False)) for rows in (images, restored))
    wanted = chosen_rows(folder, n_shown)
    title_px = 28
    sheet = Image.new("RGB", (4 * cell_px, title_px + len(wanted) * cell_px), "white")
    simulated = "SIMULATED faces, " if is_simulated(images) else ""
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 5), f"{simulated}before and after; the middle of each", fill="black", font_size=16)
    shown = 0
    for number, row in enumerate(restored):
        if number not in wanted:
            continue
        before, after = (Image.fromarray(decode(image)) for image in (originals[number]["image"], row["image"]))
        left, top = ((b - row["scale"] * a) / 2 for a, b in zip(before.size, after.size, strict=True))  # the border
        after = after.crop((round(left), round(top), round(after.width - left), round(after.height - top)))
        for column, picture in enumerate((before, after, middle(before), middle(after))):
            cell = ImageOps.pad(picture, (cell_px - 4, cell_px - 4), Image.Resampling.BICUBIC, color="white")
            sheet.paste(cell, (column * cell_px + 2, title_px + shown * cell_px + 2))
        corner = (8, title_px + shown * cell_px + 4)
        draw.text(corner, row["image_id"], fill="black", font_size=14, stroke_width=2, stroke_fill="white")
        shown += 1
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as content:
        os.chmod(file, 0o600)  # where it existed
        sheet.save(content, "PNG")


def middle(picture: Image.Image) -> Image.Image:
    """The middle third of a picture, where the eyes of a portrait are."""
    width, height = picture.size
    return picture.crop((width // 3, height // 3, width - width // 3, height - height // 3))


def chosen_rows(folder: Path, n_shown: int) -> set[int]:
    """Rows spread over the dataset, half of them old (black and white, or colourised) where there are as many."""
    table = pq.read_table(folder, columns=["is_grayscale", "colorizer"])
    old = np.array([grey or colorizer is not None for grey, colorizer in zip(*table.to_pydict().values(), strict=True)])
    rows = set()
    for candidates, n in ((np.flatnonzero(old), n_shown // 2), (np.flatnonzero(~old), n_shown - n_shown // 2)):
        if len(candidates):
            rows |= set(candidates[np.linspace(0, len(candidates) - 1, min(n, len(candidates))).round().astype(int)])
    return rows


# ------------------------------------------------------------------------------------------------------------ script


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.error = lambda message: fail(f"{message}; see --help", 2)
    add = parser.add_argument
    add("--dataset_name", required=True, help="folder of a built dataset, or ORG/NAME on the Hub")
    add("--dataset_config_name", default="real", help="the config to restore")
    known = " or ".join(restoration.KNOWN)
    where = f"weights: a .safetensors or .pth file, ORG/NAME/FILE on the Hub, or {known}"
    add("--upscaler", required=True, help=f"super-resolution network; {where}")
    how = "network for 512 px faces such as GFPGANv1.4.pth; None leaves faces as the upscaler makes them"
    add("--face_enhancer", help=how)
    how = "DDColor network for black-and-white photographs and prints of one tone; None leaves them as they are"
    add("--colorizer", help=how)
    how = "the dataset's own folder, to which config restored is added, or a new one; an earlier result is replaced"
    add("--output_dir", type=Path, required=True, help=how)
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
    add("--contact_sheet", type=Path, help=how)
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


def open_accelerator(args: argparse.Namespace) -> Accelerator:
    timeout = InitProcessGroupKwargs(timeout=timedelta(days=7))  # processes finish their blocks hours apart
    try:
        accelerator = Accelerator(mixed_precision=args.mixed_precision, kwargs_handlers=[timeout])
    except ValueError as error:  # fp16 on a CPU
        raise InputError(f"--mixed_precision {args.mixed_precision}: {one_line(error)}") from error
    if not accelerator.is_main_process:
        datasets.disable_progress_bars()
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:  # each would do, and write, everything
        how = f"ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes {started}"
        raise InputError(f"{started} processes were started that know nothing of each other; on a CPU: {how}")
    return accelerator


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
    return json.loads(record.read_text()).get("settings_sha256") == settings_sha256(settings)


def record_of(
    accelerator: Accelerator, args: argparse.Namespace, networks: Networks, settings: dict, n: int, started: float
) -> dict:
    """The run record; names instead of paths, since it lies in a folder that may be published."""
    on_hub = not Path(args.dataset_name).is_dir()
    names = {"dataset_name": args.dataset_name if on_hub else Path(os.path.realpath(args.dataset_name)).name}
    names["output_dir"] = Path(os.path.realpath(args.output_dir)).name
    names["contact_sheet"] = args.contact_sheet and args.contact_sheet.name
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
    started = time.monotonic()
    accelerator = open_accelerator(args)

    # ---- dataset, networks, target: nothing slow before everything that can be refused has been
    target = Path(os.path.realpath(args.output_dir))
    source = Path(os.path.realpath(args.dataset_name)) if Path(args.dataset_name).is_dir() else None
    check_target(target, source)
    with accelerator.main_process_first():  # the first one fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    restored_features(images.features)
    networks = open_networks(accelerator, args)
    settings = settings_of(args, networks, accelerator.mixed_precision, content_digest(images))
    if args.resume_from_checkpoint and finished_before(target, settings):
        accelerator.print(f"{args.output_dir}: finished before; nothing is left to do")
        return

    # ---- a hidden folder beside the target, held by the main process; the others begin once it is ready
    workspace = target.parent / f".{target.name}.restoring"
    resume = bool(args.resume_from_checkpoint)
    with held(workspace, settings, resume) if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
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
            made = workspace / "made"
            write_shards(parts, made / "restored")
            record = record_of(accelerator, args, networks, settings, len(images), started)
            write_json(made / "restoration_record.json", record)
            if args.contact_sheet:
                contact_sheet(images, made / "restored", args.contact_sheet)
            publish(made, target, source)
            shutil.rmtree(workspace)
            print(f"written: {args.output_dir}: restored, restoration_record.json and the card; load_dataset opens it")
        accelerator.wait_for_everyone()
    accelerator.end_training()


@contextlib.contextmanager
def held(workspace: Path, settings: dict, resume: bool) -> Iterator[None]:
    """The folder of an earlier run to go on with, or a new one, for its owner's eyes and for one run at a time."""
    try:
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(workspace / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError("another run is writing the same --output_dir; wait for it to end") from None
    except OSError as error:
        raise InputError(f"--output_dir: {workspace.parent} cannot be written ({one_line(error)})") from error
    try:
        if not (workspace / "settings.json").exists():
            write_json(workspace / "settings.json", settings)  # by which prepare_output knows it, in spite of the lock
        prepare_output(workspace, settings, "parts", (), resume)
        (workspace / "parts").mkdir(exist_ok=True)
        shutil.rmtree(workspace / "made", ignore_errors=True)
        yield
    finally:
        lock.release()


if __name__ == "__main__":
    try:
        main(parse_args())
    except InputError as error:
        fail(str(error), 2)
    except OSError as error:  # the disk is full, or the folder not ours
        fail(f"failed: {one_line(error)}; --resume_from_checkpoint latest goes on from here", 1)
    except KeyboardInterrupt:
        fail("stopped; --resume_from_checkpoint latest goes on from here", 130)
