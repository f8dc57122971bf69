"""Fills the HTML page of finished runs: scores with intervals and chance, paired differences, example faces.

results_page.html is its template. All numbers are computed from the runs' predictions; results.json is not read."""

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from datasets import Dataset

from curation.opening import is_simulated, photographs_digest
from harness.errors import one_line
from pages import dataset_page
from pages.score_figures import confidence_figure
from pages.study_runs import command_line, names_by_warning, shortens_paths
from scoring import prediction_files, run_scores, score_tables
from scoring.holm import holm
from scoring.same_photographs import Photographs, photographs_of, same

TEMPLATE = Path(__file__).resolve().parent / "results_page.html"


@dataclasses.dataclass
class Run:
    """A finished run as a row of the table, and the predictions behind it (scoring/prediction_files.py)."""

    row: dict
    predictions: pd.DataFrame
    photographs: Photographs


def read_run(folder: Path) -> Run:
    """A row of the table, the predictions behind it, and by what its photographs are known.

    Raises ValueError or FileNotFoundError, with the remedy, for a folder that does not hold a finished run."""
    predictions = prediction_files.read_predictions(folder)
    record = read_record(folder / "run.json")
    try:
        results = run_scores.score(predictions)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    first = predictions.iloc[0]
    alignment = record.get("input", {}).get("face_alignment")
    seen = f"faces aligned by {alignment}" if alignment else "whole images"
    row = {
        "name": folder.name,
        "backbone": first["backbone"],
        "input": seen,
        "recipe": ", ".join(part for part in first["recipe"].split(", ") if part != seen),  # which says it if asked for
        "protocol": first["protocol"],
        "n_test": results["n_test"],
        "n_seeds": predictions["seed"].nunique(),
        "folds": "" if predictions["fold"].nunique() > 1 else f", fold {first['fold']} only",
        "metrics": results["metrics"],
        "warnings": record.get("warnings", []),
        "command": command_line(record, "train_classifier.py"),
        "shortened": shortens_paths(record),
    }
    return Run(row, predictions, photographs_of(record))


def read_record(file: Path) -> dict:
    """A run's record, empty if there is none. Raises ValueError for a file that train_classifier.py did not write."""
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "finish the run, or delete the file: the page then says nothing of how the run was started"
        raise ValueError(f"{file}: not a readable run record ({one_line(error)}); {remedy}") from error
    kinds = {"arguments": dict, "input": dict, "warnings": list}
    is_ours = isinstance(record, dict) and all(isinstance(record.get(n, kind()), kind) for n, kind in kinds.items())
    if not is_ours:
        raise ValueError(
            f"{file}: not a record of train_classifier.py; give the folder that it wrote, or delete the file"
        )
    return record


def example_faces(images: Dataset, predictions: pd.DataFrame, count: int) -> list[dict]:
    """`count` held-out images, drawn with seed 0, with their three most probable conditions.

    Raises ValueError for an image that the dataset does not hold."""
    row_of = {image_id: row for row, image_id in enumerate(images["image_id"])}
    held_out = predictions[predictions["split"] == "test"].drop_duplicates("image_id")
    abbreviations = images.features["label"].names
    name_of = dict(zip(images["disease_abbr"], images["disease_name"], strict=True))
    faces = []
    for _, prediction in held_out.sample(min(count, len(held_out)), random_state=0).iterrows():
        if prediction["image_id"] not in row_of:
            raise ValueError(
                f"image {prediction['image_id']} is not in this dataset; give the one the run was made with"
            )
        image = images[row_of[prediction["image_id"]]]
        probabilities = np.asarray(prediction["probabilities"])
        guesses = [
            {
                "abbr": abbreviations[label],
                "name": name_of.get(abbreviations[label], abbreviations[label]),
                "p": probabilities[label],
                "right": label == prediction["label"],
            }
            for label in np.argsort(-probabilities, kind="stable")[:3]
        ]
        jpeg = base64.b64encode(dataset_page.thumbnail(image["image"])).decode()
        face = {"image_id": image["image_id"], "disease": image["disease_name"]}
        faces.append(face | {"guesses": guesses, "jpeg": jpeg})
    return faces


def paired_differences(runs: Sequence[Run]) -> list[dict]:
    """Top-1 of each run less that of the first earlier run with the same test images and labels; one family."""
    pairs, p_values = [], []
    for number, run in enumerate(runs):
        for earlier in runs[:number]:
            try:
                top1 = run_scores.compare(earlier.predictions, run.predictions, ["top1"])["metrics"]["top1"]
            except ValueError:  # other images, or other labels: shuffled ones, for instance
                continue
            names = {"a": earlier.row["name"], "b": run.row["name"], "p": f"{top1['p_value']:.4f}"}
            p_values.append(top1["p_value"])
            difference = score_tables.shown("top1", top1["difference"], "+")
            pairs.append(names | {"difference": difference, "interval": score_tables.shown_interval("top1", top1, "+")})
            break
    return [pair | {"holm": f"{p:.4f}"} for pair, p in zip(pairs, holm(p_values), strict=True)]


def results_page(folders: list[Path], images: Dataset, count: int) -> str:
    """The HTML page. folders: of finished runs; images: their dataset; count: how many example images.

    Raises ValueError or FileNotFoundError, with the remedy, for runs that are not finished or of another dataset."""
    runs = [read_run(folder) for folder in folders]
    columns = list(dict.fromkeys(name for run in runs for name in run.row["metrics"]))
    n_classes = images.features["label"].num_classes
    of_dataset = Photographs(photographs_digest(images), images._fingerprint)
    for folder, run in zip(folders, runs, strict=True):
        n_predicted = len(run.predictions["probabilities"].iloc[0])
        if n_predicted != n_classes:
            counts = f"{n_predicted} classes, but this dataset has {n_classes}"
            raise ValueError(f"{folder}: its predictions are of {counts}; give the dataset that the run was made with")
        if same(run.photographs, of_dataset) is False:
            reason = "was made of other photographs than this dataset's, whatever their image_ids say"
            raise ValueError(f"{folder}: {reason}; give the dataset that the run was made with")
    for run in runs:
        scores = {name: run.row["metrics"].get(name, {}) for name in columns}
        run.row["cells"] = [
            {part: score_tables.shown(name, values.get(part)) for part in ("mean", "low", "high")}
            for name, values in scores.items()
        ]
    simulated = is_simulated(images)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title="RDFace-sim results (simulated)" if simulated else "RDFace results",
        simulated=simulated,
        n_images=len(images),
        n_classes=n_classes,
        n_subjects=len(set(images["group_id"])),
        columns=columns,
        chance=[score_tables.shown(name, run_scores.chance(name, n_classes)) for name in columns],
        runs=[run.row for run in runs],
        shortened=any(run.row["shortened"] for run in runs),
        warnings=names_by_warning({run.row["name"]: run.row["warnings"] for run in runs}),
        pairs=paired_differences(runs),
        confidence=first_runs_confidence(runs[0], simulated),
        faces=example_faces(images, runs[0].predictions, count),
    )


def first_runs_confidence(run: Run, simulated: bool) -> str:
    """The figure of a run's probabilities, in base64."""
    _, images, probabilities = run_scores.replicates_of(run.predictions)
    png = confidence_figure(probabilities, images["label"].to_numpy(), images["subject"], simulated)
    return base64.b64encode(png).decode()
