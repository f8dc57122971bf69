"""The photographs of a dataset that are altered copies of one that is withdrawn, and would go on showing it.

    altered_copies(Path("rdface"), "AAR.3")     # ["AAR.7"]: the same photograph, saved again

By the one test for copies (imaging/near_duplicates.py). Pairs count that a build would only propose for a look, too.
"""

import io
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from imaging import near_duplicates

BATCH = 64


def copies_that_stay(
    folder: Path, image_id: str, repo_id: str | None = None, derived: Sequence[tuple[Path, str | None]] = ()
) -> list[str]:
    """A line for each copy, with the command that withdraws it; repo_id and derived as the user gave them."""
    published = [repo_id] if repo_id else []
    for place, name in derived:
        published += ["--derived", str(place), *[name] * bool(name)]
    return [
        f"warning: {copy} is the same picture as {image_id}, or nearly so, and stays; withdraw it, too: python"
        f" publish_dataset.py {shlex.join(['withdraw', str(folder), copy, *published])}"
        for copy in altered_copies(folder, image_id)
    ]


def altered_copies(folder: Path, image_id: str) -> list[str]:
    """Names of the copies in config real; empty if the photograph is not there, as after its withdrawal."""
    shards = sorted(folder.glob("real/*.parquet"))
    withdrawn = [row for path in shards for row in _rows(path, image_id)]
    if not withdrawn:
        return []
    of_withdrawn = np.array([near_duplicates.record(_picture(row)) for row in withdrawn[:1]])
    found = []
    n = sum(pq.read_metadata(path).num_rows for path in shards)
    with tqdm(total=n, desc="Looking for copies", unit=" images", disable=n < 500) as bar:
        for rows in _batches(shards):
            records = np.array([near_duplicates.record(_picture(row)) for row in rows])
            (copied,) = near_duplicates.copies(of_withdrawn, records, certain=False)
            found += [rows[number]["image_id"] for number in copied]
            bar.update(len(rows))
    return [name for name in found if name != image_id]


def _rows(path: Path, image_id: str) -> list[dict]:
    return pq.read_table(path, columns=["image_id", "image"], filters=pc.field("image_id") == image_id).to_pylist()


def _batches(shards: list[Path]) -> Iterator[list[dict]]:
    for path in shards:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=["image_id", "image"]):
                yield batch.to_pylist()


def _picture(row: dict) -> Image.Image:
    return Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
