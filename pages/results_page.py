"""The HTML page of finished runs: a table with intervals and chance, paired differences, examples of held-out faces."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from datasets import Dataset

from curation.opening import is_simulated
from harness.errors import one_line
from pages import dataset_page
from scoring import metrics, prediction_files

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
 table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .35rem .6rem; text-align: right; } td + td small { white-space: nowrap; }
 th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #1c2430; }
 tbody tr + tr td { border-top: 1px solid #d5dae1; } small, .quiet { color: #5b6675; } code { font-size: .85em; overflow-wrap: anywhere; }
 .wide { overflow-x: auto; }
 .simulated { background: #fff3d6; border-left: .4rem solid #e0a100; padding: .6rem 1rem; }
 .faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 1rem; }
 figure { margin: 0; } figure img { width: 100%; border-radius: .4rem; display: block; }
 .hit { color: #14713d; } .miss { color: #a3261d; } figcaption { font-size: .8rem; }
</style></head><body>
<h1>{{ title }}</h1>
{% if simulated %}<p class="simulated"><b>SIMULATED data.</b> Every face on this page was drawn by a program. The numbers
 show that the software works and how methods compare on a corpus with known truth; they say nothing about patients.</p>
{% endif %}<p>{{ n_images }} images, {{ n_classes }} conditions, photographs of {{ n_subjects }} subjects as far as is known. Not for
 clinical use.</p>
<h2>Results</h2>
<div class="wide"><table><thead><tr><th>run</th><th>n</th><th>seeds</th>{% for name in columns %}<th>{{ name|replace("_", " ") }}</th>{% endfor %}</tr></thead><tbody>
{% for run in runs %}<tr><td>{{ run.name }}<br><small>{{ run.backbone }}, {{ run.input }}, {{ run.recipe }}, {{ run.protocol }}{{ run.folds }}</small></td>
<td>{{ run.n_test }}</td><td>{{ run.n_seeds }}</td>
{% for cell in run.cells %}<td>{{ cell.mean }}<br><small>{{ cell.low }} to {{ cell.high }}</small></td>{% endfor %}</tr>
{% endfor %}<tr class="quiet"><td>chance</td><td></td><td></td>{% for c in chance %}<td>{{ c }}</td>{% endfor %}</tr>
</tbody></table></div>
<p><small>Percent, but nll in nats and ece from 0 to 1; below each number its 95 % interval over subjects{{ ", simulated data" if simulated }}.
 Chance: an image's class among k classes named at random. n: held-out images;
 conditions with photographs of a single subject only train. A run with shuffled labels is a control: it must come out at chance.
 top-k: the right condition is among the k most probable; macro F1 and balanced accuracy count every condition alike;
 mrr: mean reciprocal rank; nll: negative log-likelihood, and ece: expected calibration error, lower is better.</small></p>
{% if pairs %}<h2>Paired differences of top-1{{ ", simulated" if simulated }}</h2>
<table><thead><tr><th>run</th><th>less run</th><th>percentage points</th><th>95 % interval</th><th>p</th></tr></thead><tbody>
{% for pair in pairs %}<tr><td>{{ pair.b }}</td><td>{{ pair.a }}</td><td>{{ pair.difference }}</td><td>{{ pair.interval }}</td><td>{{ pair.p }}</td></tr>
{% endfor %}</tbody></table>
<p><small>The same held-out images; interval over subjects; p of a two-sided permutation test that swaps the two runs'
 predictions subject by subject.</small></p>
{% endif %}<h2>How each run was started</h2>
<ul>{% for run in runs %}<li>{{ run.name }}: <code>{{ run.command }}</code></li>{% endfor %}</ul>
<h2>Examples from {{ runs[0].name }}{{ ", simulated" if simulated }}</h2>
<p class="quiet">Drawn at random (seed 0) from the images that were held out when they were predicted. Below each its true
 condition, then the three most probable ones with their probability; the right one is green and marked &#10003;.</p>
<div class="faces">{% for face in faces %}<figure><img alt="{{ "simulated " if simulated }}face of {{ face.image_id }}" src="data:image/jpeg;base64,{{ face.jpeg }}">
<figcaption><b>{{ face.image_id }}</b> {{ face.disease }}<br>
{% for guess in face.guesses %}<span class="{{ "hit" if guess.right else "miss" }}"><abbr title="{{ guess.name }}">{{ guess.abbr }}</abbr> {{ "%.0f"|format(100 * guess.p) }} %{{ " ✓" if guess.right }}</span>{{ ", " if not loop.last }}{% endfor %}</figcaption></figure>
{% endfor %}</div></body></html>
"""  # noqa: E501  (HTML reads worse when it is folded)


def read_run(folder: Path) -> tuple[dict, pd.DataFrame]:
    """One row of the table and the predictions behind it. Raises ValueError or FileNotFoundError with the remedy."""
    predictions = prediction_files.read_predictions(folder)
    record = read_record(folder / "run.json")
    try:
        results = metrics.score(predictions)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    arguments = record.get("arguments", {})
    given = [
        f"--{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in arguments.items()
        if value not in (None, []) and not isinstance(value, bool)
    ]
    given += [f"--{name}" for name, value in arguments.items() if value is True and name != "save_models"]
    given += ["--no-save_models"] if arguments.get("save_models") is False else []  # on unless it is switched off
    first = predictions.iloc[0]
    alignment = record.get("input", {}).get("face_alignment")
    return {
        "name": folder.name,
        "backbone": first["backbone"],
        "input": f"faces aligned by {alignment}" if alignment else "whole images",
        "recipe": first["recipe"],
        "protocol": first["protocol"],
        "n_test": results["n_test"],
        "n_seeds": predictions["seed"].nunique(),
        "folds": "" if predictions["fold"].nunique() > 1 else f", fold {first['fold']} only",
        "metrics": results["metrics"],
        "command": " ".join(["accelerate launch train_classifier.py", *given]),
    }, predictions


def read_record(file: Path) -> dict:
    """A run's record, empty where there is none. Raises ValueError for a file that is none of train_classifier.py."""
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "finish the run, or delete the file: the page then says nothing of how the run was started"
        raise ValueError(f"{file}: not a readable run record ({one_line(error)}); {remedy}") from error
    parts = (
        [record, *(record.get(name, {}) for name in ("arguments", "input"))] if isinstance(record, dict) else [record]
    )
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"{file}: not a record of train_classifier.py; give the folder that it wrote, or delete the file"
        )
    return record


def example_faces(images: Dataset, predictions: pd.DataFrame, count: int) -> list[dict]:
    """`count` held-out images with the three most probable conditions of each."""
    row_of = {image_id: row for row, image_id in enumerate(images["image_id"])}
    held_out = predictions[predictions["split"] == "test"].drop_duplicates("image_id")
    names = images.features["label"].names
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
                "abbr": names[c],
                "name": name_of.get(names[c], names[c]),
                "p": probabilities[c],
                "right": c == prediction["label"],
            }
            for c in np.argsort(-probabilities, kind="stable")[:3]
        ]
        faces.append(
            {
                "image_id": image["image_id"],
                "disease": image["disease_name"],
                "guesses": guesses,
                "jpeg": base64.b64encode(dataset_page.thumbnail(image["image"])).decode(),
            }
        )
    return faces


def paired_differences(rows: Sequence[dict], predictions: Sequence[pd.DataFrame]) -> list[dict]:
    """Each run less the first one of its protocol with the same test images, in top-1."""
    pairs = []
    for b, row in enumerate(rows):
        for a in range(b):
            try:
                top1 = metrics.compare(predictions[a], predictions[b])["metrics"]["top1"]
            except ValueError:  # not the same images, or other labels: shuffled ones, for instance
                continue
            names = {"a": rows[a]["name"], "b": row["name"], "p": f"{top1['p_value']:.4f}"}
            difference = metrics.shown("top1", top1["difference"], "+")
            pairs.append(names | {"difference": difference, "interval": metrics.shown_interval("top1", top1, "+")})
            break
    return pairs


def results_page(runs: list[Path], images: Dataset, count: int) -> str:
    """The HTML page. runs: folders of finished runs; count: how many example images."""
    rows, predictions = zip(*map(read_run, runs), strict=True)
    columns = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    n_classes = images.features["label"].num_classes
    for run, table in zip(runs, predictions, strict=True):
        of_run = len(table["probabilities"].iloc[0])
        if of_run != n_classes:
            what = f"{of_run} classes, but this dataset has {n_classes}"
            raise ValueError(f"{run}: its predictions are of {what}; give the dataset that the run was made with")
    chance = [metrics.shown(name, metrics.chance(name, n_classes)) for name in columns]
    for row in rows:
        scores = {name: row["metrics"].get(name, {}) for name in columns}
        row["cells"] = [
            {part: metrics.shown(name, values.get(part)) for part in ("mean", "low", "high")}
            for name, values in scores.items()
        ]
    simulated = is_simulated(images)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        title="RDFace-sim results (simulated)" if simulated else "RDFace results",
        simulated=simulated,
        n_images=len(images),
        n_classes=n_classes,
        n_subjects=len(set(images["group_id"])),
        columns=columns,
        chance=chance,
        runs=rows,
        pairs=paired_differences(rows, predictions),
        faces=example_faces(images, predictions[0], count),
    )
