"""Draws the figures of a dataset's card from the rows of its tables; equal rows give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import PIL.Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {"class_sizes.png", "age_and_sex.png", "countries.png"}  # all that there can be
MAX_LABELLED_BARS = 25


def draw(facts: Mapping) -> dict[str, tuple[str, bytes]]:
    """File name -> (text for readers who cannot see it, PNG), drawn from what the card's tables say."""
    note = "SIMULATED: " if facts["simulated"] else ""
    sizes, panels = facts["size_counts"], {"age in completed years": facts["ages"], "sex": facts["sexes"]}
    bars = ", ".join(f"{count} with {size}" for size, count in sizes[:MAX_LABELLED_BARS])
    alternative = f"{note}bar chart of how many conditions have how many images: {bars}"
    figures = {
        "class_sizes.png": (
            alternative,
            bar_charts(f"{note}how many images conditions have", {"images of a condition": sizes}, "conditions"),
        )
    }
    if any(value != "not recorded" for rows in panels.values() for value, _ in rows):
        bars = "; ".join(", ".join(f"{value} {count}" for value, count in rows) for rows in panels.values())
        figures["age_and_sex.png"] = (
            f"{note}bar charts of images by age and by sex: {bars}",
            bar_charts(f"{note}images by age and by sex", panels, "images"),
        )
    if facts["n_countries"]:
        bars = ", ".join(f"{region['name']} {region['images']}" for region in facts["regions"])
        figures["countries.png"] = (
            f"{note}bar chart of images by country; by region: {bars}",
            country_chart(f"{note}images by country", facts["regions"]),
        )
    return figures


def bar_charts(title: str, panels: Mapping[str, list], counted: str) -> bytes:
    """One bar chart per panel; panels: what the bars are -> rows (value, count). Rows without a count are omitted."""
    from matplotlib.figure import Figure  # slow to import, and needed only here

    figure = Figure(figsize=(1 + 4 * len(panels), 3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for number, (name, rows) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        rows = [(value, count) for value, count in rows if isinstance(count, int)]
        values = [value for value, _ in rows]
        drawn = axes.bar(
            values, [count for _, count in rows], color=["0.7" if v == "not recorded" else "C0" for v in values]
        )
        if len(rows) <= MAX_LABELLED_BARS:
            axes.bar_label(drawn, fontsize=8)
            axes.set_xticks(values, [str(value).replace(" ", "\n") for value in values])
        axes.locator_params(axis="y", integer=True)
        axes.set_xlabel(name)
        axes.set_ylabel(counted)
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def country_chart(title: str, regions: list[dict]) -> bytes:
    """One bar per country, in the colour of its region; a region whose countries are not shown has one bar."""
    from matplotlib.figure import Figure

    rows = [
        (name, count, n)
        for n, region in enumerate(regions)
        for name, count in region["countries"] or [(region["name"], region["images"])]
    ]
    rows = [row for row in rows if isinstance(row[1], int)]
    figure = Figure(figsize=(6.5, 1 + 0.19 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.add_subplot()
    for number, region in enumerate(regions):
        at = [i for i, row in enumerate(rows) if row[2] == number]
        grey = region["name"] == "not recorded"
        drawn = axes.barh(
            at,
            [rows[i][1] for i in at],
            color="0.7" if grey else f"C{number}",
            label=f"{region['name']}: {region['images']}",
        )
        axes.bar_label(drawn, fontsize=7, padding=2)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return _png(figure)


def _png(figure: Figure) -> bytes:
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    # A palette saves two thirds of the size; only pixels are kept, and so no library's version.
    PIL.Image.open(drawn).convert("RGB").quantize(64, dither=PIL.Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()
