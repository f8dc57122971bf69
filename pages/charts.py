"""Draws the charts of a study's page as small SVG files, to be read on a phone, in print, and without colour.

Each is one panel of 4.4 inches: a phone shows it as wide as it is, and its letters stay as large as the page's. What
colour tells is also told by marker, line or hatch. Letters stay letters, so that files are small and can be searched;
equal numbers give equal bytes.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.4  # inches; 96 CSS pixels each
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "rdface", "font.family": "sans-serif", "font.size": 10}
INK, QUIET = "#1c2430", "#6b7684"
MARKERS, LINES = ("o", "s", "^", "D", "v", "P"), ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xxx", "---", "ooo", "+++")
COLOURS = ("#1d5c8a", "#c2571a", "#3f7d3f", "#7a4fa3", "#8a6d1d", "#5b6675")
LEAST_BARS = 12  # of a bar chart, from which its bars lie flat


def drawn(height: float, draw: object) -> tuple[bytes, tuple[int, int]]:
    """SVG file of a panel, and its size in CSS pixels. height: inches; draw: fills the axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue(), (round(96 * WIDTH), round(96 * height))


def intervals(
    rows: Sequence[tuple[str, float, float | None, float | None, int]],
    x_label: str,
    reference: float | None = None,
    reference_label: str = "",
) -> tuple[bytes, tuple[int, int]]:
    """Points with their intervals, one below the other, each under its label.

    rows: label, value, ends of its interval (None: none), and the number of its group, which decides marker and colour;
    reference: where a dashed line stands."""

    def draw(axes: Axes) -> None:
        for place, (label, value, low, high, group) in enumerate(rows):
            colour, marker = COLOURS[group % len(COLOURS)], MARKERS[group % len(MARKERS)]
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
                axes.plot([low, high], [place, place], "|", color=colour, markersize=7)
            face = "white" if group % 2 else colour
            axes.plot(value, place, marker, color=colour, markersize=6, markerfacecolor=face)
            at = (0.0, place - 0.22)
            style = {"va": "bottom", "color": INK, "fontsize": 9.5}
            style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # no line strikes a label out
            axes.annotate(label, at, xycoords=("axes fraction", "data"), **style)
        if reference is not None:
            axes.axvline(reference, color=QUIET, linestyle="--", linewidth=1, zorder=0, label=reference_label)
        axes.set_ylim(len(rows) - 0.6, -0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{x_label}; dashed: {reference_label}" if reference_label else x_label)
        axes.margins(x=0.06)

    return drawn(0.75 + 0.42 * len(rows), draw)


def bars(rows: Sequence[tuple[str, int]], x_label: str, y_label: str) -> tuple[bytes, tuple[int, int]]:
    """Bars with their counts; many or long-named ones lie flat. rows: name, count."""
    flat = len(rows) >= LEAST_BARS or max((len(name) for name, _ in rows), default=0) > 9

    def draw(axes: Axes) -> None:
        names, counts = [str(name) for name, _ in rows], [count for _, count in rows]
        unknown = [name == "not recorded" for name in names]
        style = {"color": ["#d5dae1" if none else COLOURS[0] for none in unknown], "edgecolor": INK, "linewidth": 0.6}
        places = np.arange(len(rows))
        made = axes.barh(places, counts, 0.75, **style) if flat else axes.bar(places, counts, 0.75, **style)
        for bar, none in zip(made, unknown, strict=True):
            bar.set_hatch("///" if none else "")
        axes.bar_label(made, padding=2, fontsize=9)
        axis = axes.yaxis if flat else axes.xaxis
        axis.set_ticks(places, names, fontsize=9.5)
        axes.locator_params(axis="x" if flat else "y", integer=True)
        if flat:
            axes.invert_yaxis()
            axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set(xlabel=y_label if flat else x_label, ylabel="" if flat else y_label)
        axes.margins(**{"x" if flat else "y": 0.12})

    return drawn(0.7 + 0.2 * len(rows) if flat else 2.6, draw)


def stacked_histogram(
    groups: Mapping[str, np.ndarray], x_label: str, y_label: str, lines: Mapping[str, float] | None = None
) -> tuple[bytes, tuple[int, int]]:
    """How many values of each group lie in each of 20 bins. lines: name -> value at which a line stands."""

    def draw(axes: Axes) -> None:
        values = [np.asarray(group, float)[np.isfinite(np.asarray(group, float))] for group in groups.values()]
        ends = np.concatenate([*values, np.array([*(lines or {}).values()], float)])
        bins = np.linspace(ends.min(), max(ends.max(), ends.min() + 1e-6), 21)
        colours = [COLOURS[number % len(COLOURS)] for number in range(len(values))]
        style = {"edgecolor": INK, "linewidth": 0.5, "label": list(groups)}
        _, _, made = axes.hist(values, bins=bins, stacked=True, color=colours, **style)
        for number, container in enumerate(made if len(values) > 1 else [made]):
            for bar in container:
                bar.set_hatch(HATCHES[number % len(HATCHES)])
        for number, (name, value) in enumerate((lines or {}).items()):
            axes.axvline(value, color=INK, linestyle=LINES[1 + number % 3], label=name)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.locator_params(axis="y", integer=True)
        axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)

    return drawn(3.0 + 0.17 * ((len(groups) + len(lines or {}) + 1) // 2), draw)


def curves(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]], x_label: str, y_label: str, ticks: Sequence
) -> tuple[bytes, tuple[int, int]]:
    """Lines with intervals. series: name -> points (x, value, low, high) in order; ticks: (x, label) of the x axis."""

    def draw(axes: Axes) -> None:
        for number, (name, points) in enumerate(series.items()):
            x, value, low, high = np.array(points, float).T
            shift = 0.03 * (number - (len(series) - 1) / 2)  # so that intervals do not hide each other
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "label": name}
            style |= {"linestyle": LINES[number % len(LINES)], "linewidth": 1.6, "capsize": 3, "markersize": 5}
            axes.errorbar(x + shift, value, [value - low, high - value], **style)
        axes.set_xticks([x for x, _ in ticks], [label for _, label in ticks])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))

    return drawn(2.9 + 0.17 * len(series), draw)


def reliability(bins: pd.DataFrame) -> tuple[bytes, tuple[int, int]]:
    """Share of hits against the highest probability. bins: of scoring.calibration.reliability_diagram."""

    def draw(axes: Axes) -> None:
        known = bins.dropna(subset=["low", "high"])
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1)
        ends = [known["accuracy"] - known["low"], known["high"] - known["accuracy"]]
        style = {"fmt": "none", "color": COLOURS[0], "capsize": 2}
        axes.errorbar(known["confidence"], known["accuracy"], np.clip(ends, 0, None), **style)
        axes.scatter(bins["confidence"], bins["accuracy"], 12 + 160 * bins["n"] / bins["n"].sum(), color=COLOURS[0])
        axes.set(xlabel="highest probability", ylabel="share of hits", xlim=(0, 1.03), ylim=(-0.03, 1.03))

    return drawn(3.4, draw)


def risk_coverage(curve: pd.DataFrame) -> tuple[bytes, tuple[int, int]]:
    """Errors among the images that are answered. curve: of scoring.abstention.risk_coverage_curve."""

    def draw(axes: Axes) -> None:
        axes.step(100 * curve["coverage"], 100 * curve["risk"], where="post", color=COLOURS[1])
        axes.set(xlabel="images answered, surest first, %", ylabel="wrong among them, %", ylim=(0, 100), xlim=(0, 100))

    return drawn(3.4, draw)
