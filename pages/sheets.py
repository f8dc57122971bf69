"""Draws a sheet of pictures: rows of equal square cells, under a title if one is given."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

TITLE_PX = 28


def draw_sheet(
    rows: Sequence[Sequence[Image.Image]],
    cell_px: int,
    columns: int | None = None,
    background: str = "black",
    margin_px: int = 0,
    title: str | None = None,
    labels: Sequence[str] = (),
) -> Image.Image:
    """Pictures in rows of cells of cell_px x cell_px.

    columns: width of the sheet in cells; None: that of its longest row. Without a margin a picture is stretched to fill
    its cell; with margin_px it keeps its proportions, so many px inside the cell. labels: written into the first cell
    of each row."""
    columns = columns or max(map(len, rows), default=1)
    top = TITLE_PX if title else 0
    sheet = Image.new("RGB", (columns * cell_px, top + len(rows) * cell_px), background)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((8, 5), title, fill="black", font_size=16)
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            cell = _cell(picture.convert("RGB"), cell_px - 2 * margin_px, margin_px > 0, background)
            sheet.paste(cell, (x * cell_px + margin_px, top + y * cell_px + margin_px))
        for label in labels[y : y + 1]:
            corner = (8, top + y * cell_px + 4)
            draw.text(corner, label, fill="black", font_size=14, stroke_width=2, stroke_fill="white")
    return sheet


def _cell(picture: Image.Image, side_px: int, padded: bool, background: str) -> Image.Image:
    if padded:
        return ImageOps.pad(picture, (side_px, side_px), Image.Resampling.BICUBIC, color=background)
    return picture.resize((side_px, side_px), Image.Resampling.LANCZOS)
