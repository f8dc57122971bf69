"""Decodes, cuts out and resizes a dataset's photographs once, into a memory-mapped file of uint8 pixels.

    pixels = cached_pixels(accelerator, images, side_px=224, face_alignment=None, cache_dir=default_cache_dir())
    batch = normalise(pixels.uint8[rows], backbone, device)      # (b, 3, side, side), read from the file

The file's name is a digest of the dataset's fingerprint (its config, split and rows, see curation/opening.py) and of
all settings that shape the pixels. Another dataset, config, size, detector or corruption therefore gets another file,
and a file is never out of date. A record beside it holds digests of the files, so damaged or foreign ones are noticed
and made again. The folder holds photographs and is readable by its owner only; it can be deleted at any time.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from filelock import FileLock
from PIL import Image, ImageOps
from tqdm import tqdm

from harness.errors import InputError, one_line
from harness.files import check_writable, read_json, sha256_of, write_atomically, write_json
from harness.launched_processes import LATE_S, in_main_process, machines, which_see
from imaging import corruptions, faces, near_duplicates

BLOCK_ROWS = 16  # photographs per call of the detector: the same ones for any number of processes
SOURCES = ".sources.txt"  # ends the name of the list of the photographs in a cache: their digests, one a line
DIGEST_COLUMNS = ("sha256", "original_sha256", "source_sha256")  # of a photograph, of what was made from one or more
LAYOUT = 2  # raise it when the same settings give other pixels than before


@dataclasses.dataclass
class Pixels:
    """Square RGB pictures of a dataset's rows, in its order."""

    uint8: "np.ndarray | JoinedArrays"  # (n, side, side, 3), memory-mapped
    faces_missed: np.ndarray  # (n,) bool: no face was detected, so the whole photograph was taken
    records: "np.ndarray | JoinedArrays | None" = None  # (n,) by which copies are found, see near_duplicates.record


class JoinedArrays:
    """Arrays (n_i, ...) joined to one (n, ...). Rows are read from the parts, so memory maps are not copied."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = list(arrays)
        self.starts = np.cumsum([0, *map(len, self.arrays)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """One row (...), or several as (r, ...), by their numbers. Raises IndexError for a number outside 0..n - 1."""
        numbers = np.asarray(rows, dtype=np.int64)
        if ((numbers < 0) | (numbers >= len(self))).any():
            raise IndexError(f"row {rows} is not one of 0..{len(self) - 1}")
        part = np.searchsorted(self.starts, numbers, side="right") - 1
        if numbers.ndim == 0:
            return self.arrays[part][numbers - self.starts[part]]
        joined = np.empty((len(numbers), *self.arrays[0].shape[1:]), self.arrays[0].dtype)
        for i in np.unique(part):
            joined[part == i] = self.arrays[i][numbers[part == i] - self.starts[i]]
        return joined


def join(parts: Sequence[Pixels]) -> Pixels:
    """The rows of several datasets, joined in their order; those of a single dataset as they are."""
    if len(parts) == 1:
        return parts[0]
    faces_missed = np.concatenate([part.faces_missed for part in parts])
    records = None
    if all(part.records is not None for part in parts):
        records = JoinedArrays([part.records for part in parts])
    return Pixels(JoinedArrays([part.uint8 for part in parts]), faces_missed, records)


def cached_pixels(
    accelerator: Accelerator,
    images: datasets.Dataset,
    side_px: int,
    face_alignment: str | None,
    cache_dir: Path,
    corruption: tuple[str, int] | None = None,
    padded: bool = False,
    records: bool = False,
) -> Pixels:
    """The pixels of all images, from the cache or made now by all processes together.

    A machine that does not see the main process's folder makes a cache of its own. face_alignment: name of the detector
    with which faces are cut out, upright (faces.align); None: the whole photograph is resized, bilinear, without
    keeping its proportions, as the paper does. corruption: kind and severity, applied to the photograph before anything
    else. padded: the whole photograph keeps its proportions, in the middle of a black square. records: also make
    those by which copies are found (imaging/near_duplicates.py). Raises InputError that names an image which
    cannot be decoded."""
    settings = {
        "layout": LAYOUT,
        "fingerprint": images._fingerprint,
        "side_px": side_px,
        "face_alignment": face_alignment,
        "corruption": corruption,
        "versions": {name: version(name) for name in ("pillow", "opencv-python", "facenet-pytorch", "scikit-image")},
        "padded": padded,
        "records": str(near_duplicates.RECORD) if records else None,
    }
    stem = cache_dir / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    n = len(images)
    arrays = {
        stem.with_suffix(".npy"): (np.uint8, (n, side_px, side_px, 3)),
        stem.with_suffix(".missed.npy"): (bool, (n,)),
    }
    if records:
        arrays[stem.with_suffix(".records.npy")] = near_duplicates.RECORD, (n,)
    record = stem.with_suffix(".json")
    if any(gather_object([_fault(arrays, record, settings) is not None])):
        _make(accelerator, images, settings, arrays, record)
    return _open(list(arrays))


def _make(
    accelerator: Accelerator, images: datasets.Dataset, settings: dict, arrays: dict[Path, tuple], record: Path
) -> None:
    """Makes the files of a cache unless they are sound. arrays: file -> dtype, shape.

    All processes on the main one's machine work together; on every machine that does not see that folder the first
    process works alone."""
    folder, lock = record.parent, record.with_suffix(".lock")
    in_main_process(accelerator, lambda: check_writable(folder, "--cache_dir"))
    seen, machine = which_see(accelerator, folder), machines(accelerator)
    together = [number for number, sees in enumerate(seen) if sees and machine[number] == machine[0]]
    mine = accelerator.process_index
    with FileLock(lock) if accelerator.is_main_process else contextlib.nullcontext():
        # The others wait here while another run makes the same files.
        fault = in_main_process(accelerator, lambda: _fault(arrays, record, settings))
        if fault is not None:
            in_main_process(accelerator, lambda: _reserve(arrays, record, fault, images))
            if mine in together:
                share = slice(together.index(mine), None, len(together))
                is_main = accelerator.is_main_process
                with _removed_if_stopped(arrays if is_main else ()):
                    _fill(images, settings, list(arrays), share, accelerator.device, show_progress=is_main)
        if not seen[mine] and accelerator.is_local_main_process:  # must not wait for a process that waits for it
            check_writable(folder, "--cache_dir")
            with FileLock(lock):
                own_fault = _fault(arrays, record, settings)
                if own_fault is not None:
                    _reserve(arrays, record, own_fault, images)
                    with _removed_if_stopped(arrays):
                        _fill(images, settings, list(arrays), slice(None), accelerator.device, show_progress=False)
                    _finish(arrays, record, settings)
        accelerator.wait_for_everyone()
        if fault is not None:
            in_main_process(accelerator, lambda: _finish(arrays, record, settings))
    accelerator.wait_for_everyone()


def _fault(arrays: dict[Path, tuple], record: Path, settings: dict) -> str | None:
    """Why a cache cannot be used; empty if it was never finished, None if it is sound.

    The record is compared with the settings, and the files with the record's digests, so that a cache which was cut
    short, or another one under this name, is not read."""
    if not record.exists():
        return ""
    try:
        recorded = read_json(record, "")
        digests = recorded.pop("files", None)
        if digests is not None and recorded != json.loads(json.dumps(settings)):
            return f"{record.name} is the record of other pixels"
        for file, (dtype, shape) in arrays.items():
            array = np.lib.format.open_memmap(file, mode="r")
            if (array.dtype, array.shape) != (np.dtype(dtype), shape):
                return f"{file.name} holds {array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}"
            if not isinstance(digests, dict) or sha256_of(file) != digests.get(_kind(file)):
                return f"{file.name} is not what its record says"
    except (InputError, OSError, EOFError, ValueError) as error:
        return one_line(error).removesuffix("; ")
    return None


def _kind(file: Path) -> str:
    """A file's name without the digest that all files of one cache share."""
    return file.name.partition(".")[2]


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")


@contextlib.contextmanager
def _removed_if_stopped(files: Iterable[Path]) -> Iterator[None]:
    """Removes unfinished files if anything stops the work, since they are large and hold photographs."""
    try:
        yield
    except BaseException:
        for file in files:
            _partial(file).unlink(missing_ok=True)
        raise


def _list_sources(file: Path, images: datasets.Dataset) -> None:
    """Lists the photographs before their pixels are there, so that a withdrawal finds them also if a run is killed."""
    listed: set[str] = set()
    for column in sorted(set(DIGEST_COLUMNS) & set(images.column_names)):
        for value in images[column][:]:
            listed |= set(value) if isinstance(value, list) else {value}
    text = "".join(f"{digest}\n" for digest in sorted(listed - {None}))
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def withdraw_from_cache(cache_dir: Path, digests: set[str]) -> list[Path]:
    """The files in a cache of pixels that hold one of these photographs, or of which nobody knows what they hold.

    digests: SHA-256 of the photograph's bytes, and of the pictures made from it. Nothing is removed."""
    found = []
    for file in sorted([*cache_dir.glob("*.npy"), *cache_dir.glob(".*.npy.partial")]):
        stem = file.name.lstrip(".").partition(".")[0]
        sources = cache_dir / f"{stem}{SOURCES}"
        listed = set(sources.read_text(encoding="utf-8").split()) if sources.is_file() else digests
        if listed & digests:
            found += [file, cache_dir / f"{stem}.json", sources]
    return [file for file in dict.fromkeys(found) if file.is_file()]


def _reserve(arrays: dict[Path, tuple], record: Path, fault: str, images: datasets.Dataset) -> None:
    """Makes empty files of full size under temporary names, and the list of what they will hold.

    Raises InputError if the disk is full: found later, that would be a signal that ends the process silently."""
    if fault:
        print(f"pixel cache {record.stem} cannot be used ({fault}): it is made again")
    record.unlink(missing_ok=True)
    try:
        with _removed_if_stopped(arrays):
            for file, (dtype, shape) in arrays.items():
                np.lib.format.open_memmap(_partial(file), "w+", dtype, shape).flush()
                _partial(file).chmod(0o600)
                with _partial(file).open("r+b") as content:
                    if hasattr(os, "posix_fallocate"):  # not on macOS
                        os.posix_fallocate(content.fileno(), 0, os.fstat(content.fileno()).st_size)
            _list_sources(record.with_suffix(SOURCES), images)
    except OSError as error:
        needed = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in arrays.values())
        reason = f"{error.strerror or one_line(error)} for {needed / 1e6:.1f} MB of pixels"
        raise InputError(f"--cache_dir {record.parent}: {reason}; make room there, or name another folder") from error


def _fill(
    images: datasets.Dataset, settings: dict, files: list[Path], share: slice, device: torch.device, show_progress: bool
) -> None:
    """Fills some blocks of rows. share: which of all blocks."""
    n, side_px = len(images), settings["side_px"]
    pixels, missed, *records = (np.load(_partial(file), mmap_mode="r+") for file in files)
    alignment = settings["face_alignment"]
    detector = faces.load_detector(alignment, device) if alignment else None
    blocks = range(0, n, BLOCK_ROWS)[share]
    title = " ".join(map(str, settings["corruption"] or ["photographs"]))
    for start in tqdm(blocks, desc=title, unit="block", disable=not show_progress):
        rows = range(start, min(start + BLOCK_ROWS, n))
        decoded = [_decode(images, row, settings["corruption"]) for row in rows]
        detected = detector.detect(decoded) if detector else [None] * len(rows)
        for row, image, face in zip(rows, decoded, detected, strict=True):
            if face is not None:
                pixels[row] = faces.align(np.asarray(image), face.landmarks, side_px)
            else:
                fit = ImageOps.pad if settings["padded"] else Image.Image.resize
                pixels[row] = np.asarray(fit(image, (side_px, side_px), Image.Resampling.BILINEAR))
            missed[row] = detector is not None and face is None
            for array in records:
                array[row] = near_duplicates.record(image)
    for array in (pixels, missed, *records):
        array.flush()


def _finish(arrays: dict[Path, tuple], record: Path, settings: dict) -> None:
    """Gives the files their names. The record is written last, so its presence means that the cache is finished."""
    for file in arrays:
        os.replace(_partial(file), file)
    write_json(record, settings | {"files": {_kind(file): sha256_of(file) for file in arrays}})


def _open(files: list[Path]) -> Pixels:
    """Opens the files of a sound cache. Raises InputError if somebody has just removed or cut them."""
    deadline = time.monotonic() + LATE_S
    while True:
        try:
            pixels, *records = (np.load(file, mmap_mode="r") for file in (files[0], *files[2:]))
            return Pixels(pixels, np.load(files[1]), *records)
        except (OSError, EOFError, ValueError) as error:
            if time.monotonic() > deadline:  # on a network disk they may appear late
                reason = f"{one_line(error)}: another process removed or cut it just now"
                raise InputError(f"--cache_dir {files[0].parent}: {reason}; run again") from error
            time.sleep(0.2)


def _decode(images: datasets.Dataset, row: int, corruption: tuple[str, int] | None) -> Image.Image:
    """The RGB picture of a row, corrupted if so asked. Raises InputError if it cannot be decoded."""
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
