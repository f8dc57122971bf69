"""One table of any runs: by protocol and regime, with intervals, published rows beside them, differences corrected.

A run is a folder with results.json: `protocol`, `backbone`, `recipe` and `metrics` (name -> mean, low, high), and, if
they apply, `n_test`, `seeds`, `n_way` and `k_shot`. Runs that also have predictions.parquet are compared with one
another where they tested the same images.
"""

import csv
import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.errors import InputError
from harness.files import read_json
from harness.real_or_simulated import SIMULATED
from scoring.metrics import topk_accuracy
from scoring.multiple_comparisons import compare_all
from scoring.prediction_files import read_predictions
from scoring.run_scores import replicates_of
from scoring.same_photographs import Photographs, groups_of, photographs_of, record_of, same
from scoring.score_tables import shown

COLUMNS = ("top1", "top5", "top10", "top30", "macro_f1")  # those that a run has; others if it has none of them
REMEDY = "give folders of train_classifier.py or train_fewshot.py, or run these again"
# Parts of a recipe that tell what it saw.
OF_REGIME = re.compile(r"^\d+-shot$|^\d+-way|synthetic|^shuffled labels$|^transductive$")
PUBLISHED = "published (arXiv 2604.03454, its 113 test images)"


@dataclasses.dataclass
class Entry:
    """A row of the table: a run, or a published result (of another dataset, without predictions)."""

    name: str  # of the folder; "" for a published row
    protocol: str
    regime: str  # what a training saw: all images, 2-shot, ..
    method: str
    data: str
    n_test: int | None
    n_seeds: int | None
    metrics: dict[str, dict]
    predictions: pd.DataFrame | None = None
    chance: float | None = None  # top-1 of a guess
    photographs: Photographs = dataclasses.field(default_factory=Photographs)  # of which the run was made


def read_entry(folder: Path) -> Entry:
    """A run as a row. Raises InputError for a folder without results.json, for one that is damaged, or that does not
    say the same as the predictions beside it."""
    file = folder / "results.json" if folder.is_dir() else folder
    if not file.is_file():
        raise InputError(f"{folder}: holds no results.json; {REMEDY}")
    results = read_json(file, REMEDY)
    metrics = results.get("metrics")
    is_scored = isinstance(metrics, dict) and metrics and all(_is_score(values) for values in metrics.values())
    if not is_scored or not all(isinstance(results.get(name), str) for name in ("protocol", "backbone", "recipe")):
        raise InputError(f"{file}: lacks protocol, backbone, recipe or metrics with mean, low and high; {REMEDY}")
    parts = results["recipe"].split(", ")
    seen = [part for part in parts if OF_REGIME.search(part)]
    if "n_way" in results:
        episodes = f"{results['n_way']}-way {results.get('k_shot', '?')}-shot"
        seen = [f"{episodes} episodes", *(part.removeprefix(episodes).strip() for part in seen)]
    record = record_of(file.parent)
    of_method = [part for part in parts if not OF_REGIME.search(part)]
    method = ", ".join([results["backbone"], *of_method, *_only_fold(record)])
    entry = Entry(
        file.parent.name,
        results["protocol"],
        ", ".join(part for part in seen if part) or "all images",
        method,
        _data_cell(*data_of(file.parent)),
        results.get("n_test"),
        len(results["seeds"]) if isinstance(results.get("seeds"), list) else None,
        metrics,
    )
    entry.chance = results["chance"] if _is_number(results.get("chance")) else None
    entry.photographs = photographs_of(record)
    entry.predictions = _predictions_of(file, entry)
    return entry


def _only_fold(record: Mapping) -> list[str]:
    """The mark of a run that was limited to one fold with --fold, by its run.json; empty for others."""
    arguments = record.get("arguments")
    fold = arguments.get("fold") if isinstance(arguments, dict) else None
    return [f"fold {fold} only"] if isinstance(fold, int) else []


def _is_score(values: object) -> bool:
    if not isinstance(values, dict) or not _is_number(values.get("mean")):
        return False
    return all(values.get(name) is None or _is_number(values[name]) for name in ("low", "high", "sd"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def data_of(folder: Path) -> tuple[str, bool | None]:
    """What the run.json in a folder says of the dataset: its name ("" if it says none), and whether its images are
    simulated. A run from before this was recorded is known by the name that simulated datasets have; else None."""
    record = record_of(folder)
    arguments = record.get("arguments")
    name = Path(str(arguments.get("dataset_name", ""))).name if isinstance(arguments, dict) else ""
    recorded = record.get("simulated")
    return name, recorded if isinstance(recorded, bool) else True if name == SIMULATED else None


def _data_cell(name: str, simulated: bool | None) -> str:
    kind = {True: "SIMULATED", False: "real", None: "real or simulated: not recorded"}[simulated]
    return f"{name} ({kind})" if name else kind


def _predictions_of(file: Path, entry: Entry) -> pd.DataFrame | None:
    """The predictions beside a results.json, or None if there are none or they are of another kind (episodes).

    Raises InputError if results.json was not made from them."""
    predictions = file.with_name("predictions.parquet")
    if not predictions.is_file() or "episodes" in entry.regime:
        return None
    try:
        table = read_predictions(predictions)
        _, images, probabilities = replicates_of(table)
    except ValueError as error:
        raise InputError(str(error)) from error
    labels = images["label"].to_numpy()
    top1 = sum(topk_accuracy(replicate, labels, 1) for replicate in probabilities) / len(probabilities)
    if "top1" in entry.metrics and abs(top1 - entry.metrics["top1"]["mean"]) > 1e-6:
        said = f"{file} says top1 {entry.metrics['top1']['mean']:.4f}, but {predictions.name} gives {top1:.4f}"
        raise InputError(f"{said}; make it again with score_runs.py score")
    return table


def published_entries(file: Path) -> list[Entry]:
    """The paper's table (classification/paper_results.csv, percent): protocol paper, mean and sd over five folds."""
    with open(file, newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    entries = []
    for row in rows:
        scores = {name: float(row[name]) / 100 for name in row if name in COLUMNS}
        metrics = {
            name: {"mean": mean, "low": None, "high": None, "sd": float(row[f"{name}_sd"]) / 100}
            for name, mean in scores.items()
        }
        entries.append(Entry("", "paper", "all images", f"{row['backbone']}, finetune", PUBLISHED, 113, None, metrics))
    return entries


def differences(
    entries: Sequence[Entry],
    score: str = "top1",
    planned: Container[frozenset[str]] | None = None,
    most_runs: int = 0,
) -> list[dict]:
    """Every two runs that tested the same images of the same people, under one protocol: compare_all of each family.

    Runs that are known to be of different photographs are in different families, whatever their image_ids.

    planned: the comparisons that are made in a family of more than most_runs runs (default: all).

    Returns its dicts with `family` (protocol, number of images, and data where those of others have the same ids) and
    `same_photographs` (true if known, else null), in order; runs that nothing can be compared with have none. Raises
    InputError if two runs have one name."""
    of_ids: dict[tuple, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.predictions is not None:
            test = entry.predictions[entry.predictions["split"] == "test"].drop_duplicates("image_id")
            tested = test[["image_id", "label", "subject"]].astype(str).sort_values("image_id")
            of_ids[entry.protocol, len(tested), tuple(tested.itertuples(index=False, name=None))].append(entry)
    rows = []
    for (protocol, n_images, _), alike in of_ids.items():
        groups = groups_of([entry.photographs for entry in alike])
        for family in ([alike[i] for i in group] for group in groups):
            name = f"{protocol}, {n_images} images" + (f" of {family[0].data}" if len(groups) > 1 else "")
            rows += [{"family": name} | row for row in _compared(family, score, planned, most_runs)]
    return rows


def _compared(
    family: Sequence[Entry], score: str, planned: Container[frozenset[str]] | None, most_runs: int
) -> list[dict]:
    """The comparisons of one family; see differences."""
    runs: dict[str, Entry] = {}
    for entry in family:
        if runs.setdefault(entry.name, entry) is not entry:
            raise InputError(f"two runs are called {entry.name}; rename one of the folders")
    tables = {name: entry.predictions for name, entry in runs.items() if entry.predictions is not None}
    try:
        pairs = compare_all(tables, score, planned if len(runs) > most_runs else None)
    except ValueError as error:
        raise InputError(str(error)) from error
    known = [same(runs[pair["a"]].photographs, runs[pair["b"]].photographs) for pair in pairs]
    return [pair | {"same_photographs": one} for pair, one in zip(pairs, known, strict=True)]


def on_which_images(pairs: Sequence[Mapping]) -> str:
    """On what the runs of some comparisons were compared, as far as their records tell. pairs: of differences."""
    known = all(pair["same_photographs"] for pair in pairs)
    return "the same test images" if known else "test images of the same ids"


def format_leaderboard(entries: Sequence[Entry], pairs: Sequence[dict] | None = None) -> str:
    """The table as Markdown: one part per protocol and regime, best top-1 first; then the differences of top-1.

    pairs: what `differences` gives for these entries, if it is known already."""
    names = [name for name in COLUMNS if any(name in entry.metrics for entry in entries)]
    names += sorted({name for entry in entries for name in entry.metrics} - set(COLUMNS)) if not names else []
    parts: dict[tuple, list[Entry]] = defaultdict(list)
    for entry in entries:
        parts[entry.protocol, entry.regime].append(entry)
    lines = []
    for protocol, regime in sorted(parts, key=lambda part: (part[0] != "strict", part[0], part[1] != "all images")):
        lines += [
            f"### {protocol}: {regime}",
            "",
            "| run | method | data | n | seeds | chance | " + " | ".join(names) + " |",
        ]
        lines += ["|---" * (6 + len(names)) + "|"]
        for entry in sorted(parts[protocol, regime], key=lambda entry: -_first(entry, names)):
            cells = [entry.name or "-", entry.method, entry.data, entry.n_test or "-", entry.n_seeds or "-"]
            cells.append(shown("top1", entry.chance))
            cells += [_cell(name, entry.metrics.get(name)) for name in names]
            lines.append("| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    brackets = "brackets: 95 % interval over subjects, of episodes over conditions with their subjects"
    lines.append(f"Percent; chance: top-1 of a guess; {brackets}; ± : sd over folds, as published.")
    lines.append("Rows of different data or protocols cannot be compared, and published rows with none of the others.")
    if sum("-way" in entry.regime for entry in entries) > 1:
        lines.append("Runs of episodes have no differences here; score_runs.py compare gives those of two.")
    pairs = differences(entries) if pairs is None else pairs
    if pairs:
        lines += [
            "",
            f"### Differences of top-1 on {on_which_images(pairs)}",
            "",
            "| family | run | less run | points | p | Holm |",
        ]
        lines += ["|---" * 6 + "|"]
        for pair in pairs:
            points = f"{shown('top1', pair['difference'], '+')} {_interval('top1', pair, '+')}".strip()
            p_values = f"{pair['p_value']:.4f} | {pair['p_holm']:.4f}"
            lines.append(f"| {pair['family']} | {pair['b']} | {pair['a']} | {points} | {p_values} |")
        lines += ["", "Holm: p corrected for all pairs of one family, that is of one protocol and set of test images."]
    return "\n".join(lines)


def _first(entry: Entry, names: Sequence[str]) -> float:
    return next((entry.metrics[name]["mean"] for name in names if name in entry.metrics), 0.0)


def _cell(name: str, values: dict | None) -> str:
    if values is None:
        return "-"
    if values["low"] is None or values["high"] is None:
        return shown(name, values["mean"]) + (f" ± {shown(name, values['sd'])}" if values.get("sd") is not None else "")
    return f"{shown(name, values['mean'])} {_interval(name, values)}"


def _interval(name: str, values: dict, sign: str = "") -> str:
    if values["low"] is None:
        return ""
    return f"[{shown(name, values['low'], sign)}, {shown(name, values['high'], sign)}]"
