"""Photographs decoded, cut out and resized once, into a memory-mapped file of uint8 pixels.

    pixels = cached_pixels(accelerator, images, side_px=224, face_alignment=None, cache_dir=default_cache_dir())
    batch = normalise(pixels.uint8[rows], backbone, device)      # (b, 3, side, side), read from the file

The file's name is a digest of the dataset's fingerprint (its config, split and rows, see built_dataset.py) and of
everything that shapes the pixels, so another dataset or config, size, detector or corruption gets another file and
nothing is ever stale. It holds photographs: its folder is readable
by its owner only, and deleting the folder loses nothing but time.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from PIL import Image, ImageOps
from tqdm import tqdm

import corruptions
import faces
import near_duplicates
import protocols
from backbones import Backbone
from built_dataset import photograph_sha256
from runs import InputError, one_line, write_json

BLOCK_ROWS = 16  # photographs in one call of the detector: the same ones, whatever the number of processes
LAYOUT = 2  # to be raised when the same settings give other pixels


@dataclasses.dataclass
class Pixels:
    """Square RGB pictures of a dataset's rows, in its order."""

    uint8: "np.ndarray | JoinedArrays"  # (n, side, side, 3), memory-mapped
    faces_missed: np.ndarray  # (n,) bool: a face was looked for in vain, so the whole photograph was taken
    thumbnails: "np.ndarray | JoinedArrays | None" = None  # (n, 2, s, s) of the whole pictures: both_thumbnails


class JoinedArrays:
    """Arrays (n_i, ...) one behind another as one (n, ...), read where they lie, so memory maps are not copied."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = list(arrays)
        self.starts = np.cumsum([0, *map(len, self.arrays)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """One row (...), or rows (r,) by their numbers 0..n - 1 as (r, ...); raises IndexError outside of these."""
        numbers = np.asarray(rows, dtype=np.int64)
        if ((numbers < 0) | (numbers >= len(self))).any():
            raise IndexError(f"row {rows} is not one of 0..{len(self) - 1}")
        part = np.searchsorted(self.starts, numbers, side="right") - 1
        if numbers.ndim == 0:
            return self.arrays[part][numbers - self.starts[part]]
        taken = np.empty((len(numbers), *self.arrays[0].shape[1:]), self.arrays[0].dtype)
        for i in np.unique(part):
            taken[part == i] = self.arrays[i][numbers[part == i] - self.starts[i]]
        return taken


def join(parts: Sequence[Pixels]) -> Pixels:
    """The rows of several datasets one behind another; those of one as they are."""
    if len(parts) == 1:
        return parts[0]
    faces_missed = np.concatenate([part.faces_missed for part in parts])
    thumbnails = None
    if all(part.thumbnails is not None for part in parts):
        thumbnails = JoinedArrays([part.thumbnails for part in parts])
    return Pixels(JoinedArrays([part.uint8 for part in parts]), faces_missed, thumbnails)


def default_cache_dir() -> Path:
    """Beside the Arrow files that `datasets` keeps of the same photographs."""
    return Path(datasets.config.HF_CACHE_HOME) / "rdface_pixels"


def cached_pixels(
    accelerator: Accelerator,
    images: datasets.Dataset,
    side_px: int,
    face_alignment: str | None,
    cache_dir: Path,
    corruption: tuple[str, int] | None = None,
    padded: bool = False,
    thumbnails: bool = False,
) -> Pixels:
    """The pixels of all images; made now, by all processes together, unless a file holds them already.

    face_alignment: detector with which faces are cut out, upright (faces.align); None: the whole photograph, resized
    without keeping its aspect ratio, bilinear, as the paper does. corruption: kind and severity done to the photograph
    before anything else. padded: the whole photograph in the middle of a black square instead, its proportions kept.
    thumbnails: also those by which copies are known (near_duplicates.py).
    Raises InputError naming an image that cannot be decoded."""
    settings = {
        "layout": LAYOUT,
        "fingerprint": images._fingerprint,
        "side_px": side_px,
        "face_alignment": face_alignment,
        "corruption": corruption,
        "versions": {name: version(name) for name in ("pillow", "opencv-python", "facenet-pytorch", "scikit-image")},
        "padded": padded,
        "thumbnails": near_duplicates.SIDE_PX if thumbnails else None,
    }
    stem = cache_dir / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    arrays = [stem.with_suffix(".npy"), stem.with_suffix(".missed.npy")]
    arrays += [stem.with_suffix(".thumbnails.npy")] * thumbnails
    files = (*arrays, stem.with_suffix(".json"))
    try:
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"--cache_dir {cache_dir}: {one_line(error)}; name another folder") from error
    with FileLock(stem.with_suffix(".lock")) if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()  # the others wait here while another run makes the same file
        if not files[-1].exists():
            accelerator.wait_for_everyone()  # nobody looks for the record after somebody could have written it
            _fill(accelerator, images, settings, files)
    accelerator.wait_for_everyone()
    return Pixels(np.load(files[0], mmap_mode="r"), np.load(files[1]), *(np.load(f, mmap_mode="r") for f in arrays[2:]))


def guarded_columns(images: datasets.Dataset, pixels: Pixels) -> dict[str, list]:
    """What a guard looks at: the dataset's columns, and the pictures themselves, should sha256 be out of date."""
    columns = protocols.guarded(images)
    if protocols.photograph_digests(columns) is None:
        columns["sha256"] = photograph_sha256(images)
    return columns | {"pixels": [hashlib.sha256(picture).hexdigest() for picture in pixels.uint8]}


def normalise(uint8: np.ndarray | torch.Tensor, backbone: Backbone, device: torch.device) -> torch.Tensor:
    """Pixels (b, s, s, 3) uint8 to (b, 3, s, s) float32 on the device, as the backbone wants them; channels_last."""
    pixels = torch.as_tensor(uint8).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (backbone.mean, backbone.std))
    return (pixels - mean) / std


def _fill(accelerator: Accelerator, images: datasets.Dataset, settings: dict, files: tuple[Path, ...]) -> None:
    """Each process fills its blocks of rows; the record is written last, so its presence means done."""
    n, side_px = len(images), settings["side_px"]
    if accelerator.is_main_process:
        np.lib.format.open_memmap(files[0], "w+", np.uint8, (n, side_px, side_px, 3)).flush()
        np.lib.format.open_memmap(files[1], "w+", bool, (n,)).flush()
        for file in files[2:-1]:
            shape = (n, 2, near_duplicates.SIDE_PX, near_duplicates.SIDE_PX)
            np.lib.format.open_memmap(file, "w+", np.uint8, shape).flush()
        for file in files[:-1]:
            os.chmod(file, 0o600)
    accelerator.wait_for_everyone()
    pixels, missed, *thumbnails = (np.load(file, mmap_mode="r+") for file in files[:-1])
    alignment = settings["face_alignment"]
    detector = faces.load_detector(alignment, accelerator.device) if alignment else None
    blocks = range(accelerator.process_index * BLOCK_ROWS, n, accelerator.num_processes * BLOCK_ROWS)
    described = " ".join(map(str, settings["corruption"] or ["photographs"]))
    for start in tqdm(blocks, desc=described, unit="block", disable=not accelerator.is_main_process):
        rows = range(start, min(start + BLOCK_ROWS, n))
        decoded = [_decode(images, row, settings["corruption"]) for row in rows]
        found = detector.detect(decoded) if detector else [None] * len(rows)
        for row, image, face in zip(rows, decoded, found, strict=True):
            if face is not None:
                pixels[row] = faces.align(np.asarray(image), face.landmarks, side_px)
            else:
                fit = ImageOps.pad if settings["padded"] else Image.Image.resize
                pixels[row] = np.asarray(fit(image, (side_px, side_px), Image.Resampling.BILINEAR))
            missed[row] = detector is not None and face is None
            for both in thumbnails:
                both[row] = near_duplicates.both_thumbnails(image)
    for array in (pixels, missed, *thumbnails):
        array.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(files[-1], settings | {"n_images": n})


def _decode(images: datasets.Dataset, row: int, corruption: tuple[str, int] | None) -> Image.Image:
    try:
        photograph = images[row]
        image = photograph["image"].convert("RGB")
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: the image is null
        id_column, kind, remedy = "image_id", "image", "build the dataset again with rdface_dataset.py"
        if id_column not in images.column_names:
            id_column, kind, remedy = "synthetic_id", "synthetic image", "make its dataset again"
        name = images.select_columns(id_column)[row][id_column]
        raise InputError(f"{kind} {name} cannot be decoded ({one_line(error)}); {remedy}") from error
    if corruption is None:
        return image
    noise = corruptions.corruption_rng(photograph["image_id"], *corruption)
    return corruptions.corrupt(image, *corruption, noise)
