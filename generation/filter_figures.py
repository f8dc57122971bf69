"""The figures of filter_synthetic.py: scores, ranks by condition, landmarks, and, on demand, the nearest photographs.

All can be read without colour. Images that copy a photograph or a person are in none but the last, which is written for
its owner alone and is not among the files that can be published."""

import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from curation.opening import is_simulated
from generation.face_examination import decode
from generation.filter_files import CLASS_RANKS, LANDMARKS, PATIENTS_PHOTOGRAPHS, SCORES
from generation.filter_inputs import Inputs
from generation.filter_results import GIVES_AWAY, Outcome, kind_of
from generation.scored_images import read_scores
from harness.files import write_atomically

COLUMNS = 8  # pictures in a row of a sheet
PAIR_ROWS = 3  # rows of COLUMNS / 2 pairs: of the kept images, and of those that were rejected for their likeness
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\", "ooo", "+++")


def draw_figures(folder: Path, inputs: Inputs, outcome: Outcome, ranked_by: str, show_real: bool) -> list[str]:
    """Draw all figures into the folder; returns lines for the screen. show_real: draw PATIENTS_PHOTOGRAPHS as well."""
    simulated = is_simulated(inputs.images)
    note = "SIMULATED: " if simulated else ""
    scores = outcome.scores.assign(became=[kind_of(reason) if reason else "kept" for reason in outcome.reasons])
    save(draw_scores(scores, ranked_by, note), folder / SCORES)
    training = np.concatenate([side.fold.train for side in inputs.sides])
    n_scorable = len(np.unique(np.array(inputs.images["label"][:])[training]))
    rank = "class_rank" if ranked_by == "cosine" else "phenotype_rank"
    save(draw_class_ranks(scores, rank, inputs.class_names, n_scorable, note), folder / CLASS_RANKS)
    pictures = SyntheticPictures(inputs, outcome)
    save(draw_landmarks(scores, ranked_by, inputs.class_names, pictures, note), folder / LANDMARKS, private=True)
    lines = [f"figures: {SCORES}, {CLASS_RANKS}, {LANDMARKS}"]
    if show_real:
        save(draw_pairs(scores, inputs.images, pictures, note), folder / PATIENTS_PHOTOGRAPHS, private=True)
        whose = "SIMULATED photographs" if simulated else "photographs of patients"
        lines.append(f"{folder / PATIENTS_PHOTOGRAPHS} holds {whose}: do not pass it on, and delete it once seen")
    return lines


class SyntheticPictures:
    """The pictures of m synthetic images, by their place in the scores, and what was found on them; read when asked
    for."""

    def __init__(self, inputs: Inputs, outcome: Outcome):
        self.parts = [part.cast_column("image", datasets.Image(decode=False)) for part in inputs.parts]
        self.places = [(number, row) for number, rows in outcome.blocks for row in rows.tolist()]
        self.score_files = outcome.score_files
        self.starts = np.cumsum([0, *(len(rows) for _, rows in outcome.blocks)])

    def name(self, place: int) -> str:
        number, row = self.places[place]
        return self.parts[number][row]["synthetic_id"]

    def __getitem__(self, place: int) -> Image.Image | None:
        number, row = self.places[place]
        return decode(self.parts[number][row]["image"])[0]

    def face(self, place: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Box (4,) and landmarks (5, 2) of the largest face, px; None if none was found."""
        block = int(np.searchsorted(self.starts, place, side="right")) - 1
        measured = read_scores(self.score_files[block]).loc[place - self.starts[block]]
        if measured["box"] is None:
            return None
        return np.asarray(measured["box"]), np.stack(measured["landmarks"])


def save(figure: Figure, file: Path, private: bool = False) -> None:
    """Write a figure as PNG, whole or not at all. private: nobody but the owner may ever read it."""

    def write(partial: Path) -> None:
        if private:
            partial.unlink(missing_ok=True)
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        figure.savefig(partial, format="png", dpi=150)

    write_atomically(file, write)


def draw_scores(scores: pd.DataFrame, ranked_by: str, note: str) -> Figure:
    """A histogram of the score that ranks the images, of the kept ones and of those left out for each kind of reason.

    scores: with `became`. Images without a score are counted in the legend alone."""
    groups = {}
    for kind, n in scores["became"].value_counts().items():
        ranked = scores.loc[scores["became"] == kind, ranked_by].dropna()
        groups[f"{kind} ({n})" if len(ranked) else f"{kind} ({n}; no score, not drawn)"] = ranked
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(list(groups.values()), bins=30, stacked=True, label=list(groups), edgecolor="black", linewidth=0.4)
    for number, bars in enumerate(axes.containers):
        for bar in bars:
            bar.set_hatch(HATCHES[number % len(HATCHES)])
    axes.set(xlabel=ranked_by.replace("_", " "), ylabel="images")
    axes.set_title(f"{note}synthetic images, by what became of them")
    axes.legend(loc="upper left")
    return figure


def ranks_by_condition(scores: pd.DataFrame, rank: str, class_names: list[str]) -> pd.DataFrame:
    """A row per condition with ranked images, best median first: `median`, `low` and `high` (quartiles) of all images,
    `median_of_kept`, `n`, `n_kept`. rank: the column of the ranks."""
    ranked = scores[scores[rank].notna() & (scores["label"] >= 0)]
    rows = {}
    for label, own in ranked.groupby("label"):
        low, median, high = own[rank].quantile([0.25, 0.5, 0.75])
        kept = own.loc[own["kept"], rank]
        rows[class_names[int(label)]] = {"median": median, "low": low, "high": high, "median_of_kept": kept.median()}
        rows[class_names[int(label)]] |= {"n": len(own), "n_kept": len(kept)}
    columns = ["median", "low", "high", "median_of_kept", "n", "n_kept"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.sort_values(["median", "median_of_kept"], kind="stable")


def draw_class_ranks(scores: pd.DataFrame, rank: str, class_names: list[str], n_scorable: int, note: str) -> Figure:
    """For each condition the place of its images' own label among all: of all images, and of those that are kept."""
    table = ranks_by_condition(scores, rank, class_names)
    places = np.arange(len(table))
    figure = Figure(figsize=(7, 1.6 + 0.16 * max(len(table), 6)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(places, table["low"], table["high"], color="0.6", linewidth=2, label="all images: middle half")
    axes.plot(table["median"], places, "o", color="black", fillstyle="none", markersize=5, label="all images: median")
    axes.plot(table["median_of_kept"], places, "x", color="black", markersize=4, label="kept images: median")
    chance = (n_scorable + 1) / 2
    axes.axvline(chance, color="black", linewidth=0.8, linestyle=":", label=f"chance ({chance:g})")
    names = [f"{name} ({own.n_kept:.0f} kept of {own.n:.0f} with a face)" for name, own in table.iterrows()]
    axes.set_yticks(places, names, fontsize=6)
    axes.set_ylim(len(table) - 0.5, -0.5)  # best at the top
    axes.set_xlim(0, n_scorable + 1)
    axes.set_xlabel(f"{rank.replace('_', ' ')} of the image's own label, of {n_scorable}; 1 is the best")
    axes.set_title(f"{note}do the images show their condition?")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def draw_landmarks(
    scores: pd.DataFrame, ranked_by: str, class_names: list[str], pictures: SyntheticPictures, note: str
) -> Figure:
    """A row for each thing that can become of an image, kept first: the highest scores, with box and landmarks."""
    rows = []
    kinds = [kind for kind in scores["became"].value_counts().index if kind not in GIVES_AWAY and kind != "kept"]
    for kind in ["kept", *kinds]:
        own = scores.index[scores["became"] == kind].to_numpy()
        best_first = own[np.argsort(-scores.loc[own, ranked_by].to_numpy(float), kind="stable")]
        shown = first_pictures(best_first, pictures)
        rows += [(f"{kind} ({len(own)})", shown)] if shown else []
    title = f"{note}synthetic images, best first ({ranked_by.replace('_', ' ')}), with the detected box and landmarks"
    figure, cells = sheet(rows, title + "\n(those that resemble a photograph or a person are not shown)")
    for axes, place, picture in cells:
        row = scores.loc[place]
        axes.imshow(picture)
        score = "no score" if pd.isna(row[ranked_by]) else f"{row[ranked_by]:.2f}"
        axes.set_title(f"{class_names[row['label']] if row['label'] >= 0 else 'no label'}, {score}", fontsize=7)
        if face := pictures.face(place):
            (left, top, right, bottom), points = face
            x, y = points.T
            for colour, width in (("black", 2.5), ("white", 1.0)):  # both, to be seen on any picture
                corner, size = (left, top), (right - left, bottom - top)
                axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=width))
                axes.plot(x, y, "o", color=colour, fillstyle="none", markersize=4, markeredgewidth=width)
        axes.set(xlim=(-0.5, picture.width - 0.5), ylim=(picture.height - 0.5, -0.5))
    return figure


def draw_pairs(scores: pd.DataFrame, photographs: datasets.Dataset, pictures: SyntheticPictures, note: str) -> Figure:
    """Synthetic images beside the photographs that they resemble most: those kept, and those rejected for it."""
    row_of = {image_id: row for row, image_id in enumerate(photographs["image_id"][:])}
    undecoded = photographs.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    groups = {"kept": scores["became"] == "kept", "rejected": scores["became"].isin(GIVES_AWAY)}
    rows = []
    for name, chosen in groups.items():
        own = scores[chosen & scores["nearest_real_id"].notna()]
        likeness = own[["copy_score", "person_similarity"]].astype(float).rank(pct=True).max(axis=1)  # in whichever way
        likest = likeness.sort_values(ascending=False, kind="stable").index.to_numpy()
        shown = first_pictures(likest, pictures, PAIR_ROWS * COLUMNS // 2)
        for start in range(0, len(shown), COLUMNS // 2):
            pairs = []
            for place, picture in shown[start : start + COLUMNS // 2]:
                nearest = scores.loc[place, "nearest_real_id"]
                photograph, _ = decode(undecoded[row_of[nearest]]["image"])
                pairs += [(pictures.name(place), picture), (f"photograph {nearest}", photograph)]
            rows.append((f"{name} ({chosen.sum()})", pairs))
    whose = f"{note}photographs" if note else "PHOTOGRAPHS OF PATIENTS, not to be passed on"
    figure, cells = sheet(rows, f"{whose}\neach beside the synthetic image (left) that resembles it, most alike first")
    for axes, name, picture in cells:
        axes.imshow(picture)
        axes.set_title(name, fontsize=6)
    return figure


def first_pictures(places: np.ndarray, pictures: SyntheticPictures, n: int = COLUMNS) -> list[tuple[int, Image.Image]]:
    """The first n of the images at these places that can be decoded, each with its place."""
    found: list[tuple[int, Image.Image]] = []
    for place in places:
        if len(found) == n:
            break
        if picture := pictures[place]:
            found.append((int(place), picture))
    return found


def sheet(rows: list[tuple[str, list]], title: str) -> tuple[Figure, Iterator[tuple]]:
    """A figure with a cell per picture, and the cells to draw on: (axes, name or place, picture).

    rows: the name of each row, and its names or places with their pictures, at most COLUMNS of them."""
    figure = Figure(figsize=(1.2 * COLUMNS + 1.2, 1.35 * max(len(rows), 1) + 0.6), layout="constrained")
    figure.suptitle(title if rows else f"{title}\nthere are none", fontsize=10)
    grid = figure.subplots(max(len(rows), 1), COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for line, (name, _) in zip(grid, rows, strict=False):
        line[0].text(-0.15, 0.5, name, rotation=90, ha="right", va="center", fontsize=7, transform=line[0].transAxes)
    both = zip(grid, rows, strict=False)
    return figure, ((axes, *cell) for line, (_, shown) in both for axes, cell in zip(line, shown, strict=False))
