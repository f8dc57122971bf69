"""Synthetic images with their provenance: how the parts that a generator writes become a dataset.

A generator writes one part at a time (the rows of a condition, or of a snapshot). `write_dataset` joins the parts into
`FOLDER/synthetic/train-*.parquet` with a card, so that `load_dataset(FOLDER)` opens them. Every row names all real
images that its generator saw, with their digests, by which curation/leak_guard.py keeps held-out patients out of
training.
"""

import dataclasses
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from PIL import Image

from curation import datasheet, protocols
from curation.parquet_files import write_shards
from curation.schema import synthetic_features
from generation import training_provenance
from harness.errors import InputError, one_line
from harness.files import write_atomically
from harness.seeds import derived_seed

SHEET_NAME = "samples.png"  # some synthetic images on one picture, beside the dataset that holds them
BLANK_SPREAD = 2.0  # grey levels: a picture whose standard deviation is below is of one colour


def folder_of(fold: protocols.Fold) -> str:
    """The folder of a fold's generators and images within a run's: fold0, fold1, ..., or paper."""
    return "paper" if fold.number is None else f"fold{fold.number}"


def condition_number(condition: str) -> int:
    """A number of 32 bits for a condition, from which seeds are derived; the same in every dataset."""
    return int.from_bytes(hashlib.sha256(condition.encode()).digest()[:4])


def image_seed(seed: int, condition: str, index: int) -> int:
    """The seed of image number `index` of a condition. It depends on nothing else, so that neither a stop nor the
    number of processes or of images in a batch changes an image."""
    return derived_seed(seed, condition_number(condition), index)


def is_blank(picture: np.ndarray) -> bool:
    """Whether a picture (h, w, 3) uint8 is of one colour all over, as a safety checker leaves it."""
    return bool(picture.reshape(-1, 3).std(axis=0).max() < BLANK_SPREAD)


def png(picture: np.ndarray, synthetic_id: str) -> dict:
    """A picture (h, w, 3) uint8 as a value of column `image`."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    return {"bytes": encoded.getvalue(), "path": f"{synthetic_id}.png"}


def write_part(file: Path, rows: list[dict], class_names: Sequence[str]) -> None:
    """Write rows with all columns of synthetic_features, whole or not at all; label is a class's name or None."""
    schema = synthetic_features(class_names)
    encoded = [row | {"label": None if row["label"] is None else class_names.index(row["label"])} for row in rows]
    table = pa.Table.from_pylist(encoded, schema.arrow_schema)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: pq.write_table(table, partial, row_group_size=1))


@dataclasses.dataclass(frozen=True)
class Sources:
    """What the images of one generator are made from: the generator's record, and the names of its photographs."""

    trained_on: training_provenance.TrainedOn
    image_ids: list[str]


def checked_rows(
    files: Sequence[Path], sources: Callable[[str | None], Sources | None], what: str, remedy: str
) -> list[dict]:
    """The rows of parts or of a dataset's files, without pictures and sources, after checking what they were made from.

    sources: label -> what images with this label must be made from, None if there can be no such images; the label is
    None for images without one. what, remedy: the file or folder, and what to do about it, for messages. In the rows,
    `label` is the class's name or None. Raises LeakError for images made from other photographs, and InputError for
    those of another fold, condition or schema, and for a file that cannot be read."""
    rows = []
    try:
        for path in files:
            with pq.ParquetFile(path) as file:
                names = Features.from_arrow_schema(file.schema_arrow)["label"].names
                light = [name for name in synthetic_features(names) if name != "image"]
                missing = [name for name in light if name not in file.schema_arrow.names]
                if missing:
                    raise InputError(f"{what}: column {missing[0]} is missing; {remedy}")
                for batch in file.iter_batches(columns=light):
                    for row in batch.to_pylist():
                        row["label"] = None if row["label"] is None else names[row["label"]]
                        _check_row(row, sources(row["label"]), f"{what}: image {row['synthetic_id']}", remedy)
                        rows.append({name: row[name] for name in light if not name.startswith("source_")})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InputError(f"{what}: {one_line(error)}; {remedy}") from error
    return rows


def _check_row(row: dict, sources: Sources | None, what: str, remedy: str) -> None:
    if sources is None:
        raise InputError(f"{what} is of condition {row['label']}, for which nothing is trained here; {remedy}")
    expected = sources.trained_on
    training_provenance.check_sources(row["source_sha256"] or [], expected, what, "was made from", remedy)
    for name in ("protocol", "fold"):
        if row[name] != getattr(expected, name):
            raise InputError(f"{what} has {name} {row[name]}, and here it is {getattr(expected, name)}; {remedy}")
    if row["source_image_ids"] != sources.image_ids:
        raise InputError(f"{what} names its source photographs otherwise than the dataset does; {remedy}")


def write_dataset(folder: Path, parts: Sequence[Path]) -> None:
    """Join all parts, in their order, to the dataset `folder`, whole or not at all; an earlier one is replaced."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_shards(list(parts), partial / "synthetic")
        datasheet.write_datasheet(partial)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:  # also if the disk is full, for example
        shutil.rmtree(partial, ignore_errors=True)


def contact_sheet(folder: Path, columns: int = 8, rows: int = 40, side_px: int = 128) -> Image.Image:
    """A sheet of pictures of the dataset `folder`: a line with the first images of each of the first conditions."""
    of_condition: dict[int | None, list[dict]] = {}
    for shard in sorted((folder / "synthetic").glob("*.parquet")):
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(100, columns=["image", "label"]):
                for row in batch.to_pylist():
                    if row["label"] in of_condition or len(of_condition) < rows:
                        line = of_condition.setdefault(row["label"], [])
                        line += [row["image"]] * (len(line) < columns)
    sheet = Image.new("RGB", (columns * side_px, len(of_condition) * side_px))
    for y, images in enumerate(of_condition.values()):
        for x, image in enumerate(images):
            picture = Image.open(io.BytesIO(image["bytes"])).resize((side_px, side_px), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x * side_px, y * side_px))
    return sheet
