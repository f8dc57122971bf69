"""Photographs before and after their restoration on one sheet, for the eyes of those who may see them."""

import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageOps

from curation.opening import is_simulated
from curation.restored_rows import decode


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
