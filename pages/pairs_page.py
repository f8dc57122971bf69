"""Fills the HTML page on which a curator looks at pairs of photographs that a program cannot decide.

    n_shown = write_page(Path("rdface/pairs_to_look_at.html"), pairs, rows)

pairs_page.html is its template. The page holds the photographs, so it is readable by the user alone; it needs no server
and no script, and its Content-Security-Policy keeps it from loading anything. What a curator wrote is shown as text."""

import base64
import hashlib
import io
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import jinja2

from curation.curated_rows import Row
from curation.pairs_to_look_at import ANSWERS, KINDS, LOOKED_AT, TEMPLATE, PairToLookAt, image_file
from harness.files import write_atomically
from harness.real_or_simulated import is_simulated
from imaging import photographs

PICTURE_PX = 480
MAX_PAIRS = 200  # a page of about 15 MB; further pairs are shown once these are answered
PAGE_TEMPLATE = Path(__file__).resolve().parent / "pairs_page.html"


def write_page(file: Path, pairs: Sequence[PairToLookAt], rows: Sequence[Row]) -> int:
    """Writes the page and returns how many pairs it shows, at most MAX_PAIRS, those that come first.

    rows: all of the dataset, with their image_id; the files of their photographs are read again."""
    row_of = {row.values["image_id"]: row for row in rows}
    shown = [
        {
            "kind": KINDS[pair.kind],
            "likeness": pair.likeness,
            "sides": [_side(row_of[image_id]) for image_id in (pair.first_image_id, pair.second_image_id)],
        }
        for pair in pairs[:MAX_PAIRS]
    ]
    simulated = is_simulated(row.values["source_type"] for row in rows)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["digest"] = _digest
    page = environment.from_string(PAGE_TEMPLATE.read_text(encoding="utf-8")).render(
        title="Pairs to look at" + (" (simulated)" if simulated else ""),
        simulated=simulated,
        pairs=shown,
        n_shown=len(shown),
        n_pairs=len(pairs),
        picture_px=PICTURE_PX,
        template=TEMPLATE,
        looked_at=LOOKED_AT,
        answers=ANSWERS,
        made=f"{date.today():%d %B %Y}",
    )

    def write(partial: Path) -> None:
        partial.touch(mode=0o600)
        partial.write_text(page, encoding="utf-8")

    write_atomically(file, write)
    return len(shown)


def _side(row: Row) -> dict[str, object]:
    return {
        "image_id": row.values["image_id"],
        "file": image_file(row),
        "condition": row.values["disease_name"] or row.abbreviation,
        "subject": row.values["subject_id"],
        "age": row.values["age_years"],
        "jpeg": base64.b64encode(_jpeg(row)).decode(),
    }


def _jpeg(row: Row) -> bytes:
    """The photograph in at most PICTURE_PX, of its pixels alone, without metadata."""
    small = photographs.read(row.path)[2].convert("RGB")
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    small.info.clear()  # Pillow would write the comment from there
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=85)
    return jpeg.getvalue()


def _digest(text: str) -> str:
    """The source expression by which a Content-Security-Policy allows an inline style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
