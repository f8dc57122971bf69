"""Draws photographs before and after their restoration on one sheet, which only its owner may read."""

import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from curation.opening import is_simulated
from curation.restored_rows import decode
from pages.sheets import draw_sheet


def contact_sheet(images: datasets.Dataset, folder: Path, file: Path, n_shown: int = 8, cell_px: int = 288) -> None:
    """Writes a PNG of photographs before and after, whole and their middle enlarged, readable by its owner only.

    images: the photographs before; folder: Parquet files of the same rows restored. Half of those shown were
    colourised, or are grey, if there are as many."""
    restored = datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)
    originals, restored = (rows.cast_column("image", datasets.Image(decode=False)) for rows in (images, restored))
    wanted = chosen_rows(folder, n_shown)
    rows, labels = [], []
    for number, row in enumerate(restored):
        if number in wanted:
            before, after = (Image.fromarray(decode(image)) for image in (originals[number]["image"], row["image"]))
            after = without_border(before, after, row["scale"])
            rows.append([before, after, middle(before), middle(after)])
            labels.append(row["image_id"])
    title = f"{'SIMULATED faces, ' if is_simulated(images) else ''}before and after; the middle of each"
    sheet = draw_sheet(rows, cell_px, columns=4, background="white", margin_px=2, title=title, labels=labels)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as content:
        os.chmod(file, 0o600)  # if it existed
        sheet.save(content, "PNG")


def without_border(before: Image.Image, after: Image.Image, scale: float) -> Image.Image:
    """The part of the restored picture that shows the photograph. scale: its size in units of the photograph's."""
    left, top = ((b - scale * a) / 2 for a, b in zip(before.size, after.size, strict=True))
    return after.crop((round(left), round(top), round(after.width - left), round(after.height - top)))


def middle(picture: Image.Image) -> Image.Image:
    """The middle third of a picture, where the eyes of a portrait are."""
    width, height = picture.size
    return picture.crop((width // 3, height // 3, width - width // 3, height - height // 3))


def chosen_rows(folder: Path, n_shown: int) -> set[int]:
    """Rows spread over the dataset, half of them old (black and white, or colourised) if there are as many."""
    table = pq.read_table(folder, columns=["is_grayscale", "colorizer"])
    old = np.array([grey or colorizer is not None for grey, colorizer in zip(*table.to_pydict().values(), strict=True)])
    rows = set()
    for candidates, n in ((np.flatnonzero(old), n_shown // 2), (np.flatnonzero(~old), n_shown - n_shown // 2)):
        if len(candidates):
            rows |= set(candidates[np.linspace(0, len(candidates) - 1, min(n, len(candidates))).round().astype(int)])
    return rows
