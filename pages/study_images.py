"""The sections of a study's page about images: the dataset, the filter and its privacy report, a sample of faces.

No photograph appears unless every image of the dataset is simulated, or its owner asked for it (--show_real). Synthetic
images made from photographs of patients appear only if the privacy report of the filter is green, since whatever was
not found harmless may show somebody.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from curation import dataset_facts
from curation.opening import is_simulated, load_images, load_synthetic
from harness.counts import counted
from harness.errors import InputError, one_line
from harness.files import read_json
from pages import charts
from pages.dataset_page import thumbnail
from pages.study_blocks import Faces, Figure, Listing, Missing, Section, Table, Text
from pages.study_runs import FILTER, GENERATOR, ON_PHOTOGRAPHS, Run, Study

BUILD = "python rdface_dataset.py build INPUT_DIR --output_dir RUN_DIR/rdface-sim"
GENERATE = "accelerate launch train_dreambooth.py --dataset_name DATASET --output_dir RUN_DIR/dreambooth"
FILTERING = (
    "accelerate launch filter_synthetic.py --dataset_name DATASET --synthetic_dataset SYNTHETIC"
    " --output_dir RUN_DIR/filtered"
)
PRIVACY_REPORT = "privacy_report.json"
N_FACES = 24  # of each kind
MAX_COUNTRIES = 30  # bars; the table beside them has all
GIVES_AWAY = ("near copy", "resembles the person")
COUNTS = ("n_images", "n_conditions", "n_groups", "n_countries", "mean_age", "ages", "sexes", "regions", "size_counts")
READ_AGAIN = "filter again"


@dataclasses.dataclass
class StudyDataset:
    """name: as shown; facts: of dataset_facts, whose small counts are pooled."""

    name: str
    images: datasets.Dataset
    simulated: bool
    facts: dict


def open_dataset(folder: Path) -> StudyDataset:
    """Raises InputError for a folder that is no built dataset."""
    images = load_images(str(folder))
    return StudyDataset(folder.name, images, is_simulated(images), dataset_facts.facts_of_rows(folder))


def counts_of(dataset: StudyDataset) -> dict:
    """What results.json says of the dataset."""
    kept = {name: dataset.facts[name] for name in COUNTS}
    return {"name": dataset.name, "fingerprint": dataset.images._fingerprint, "simulated": dataset.simulated} | kept


# ------------------------------------------------------------------------------------------------------------ dataset


def dataset_section(dataset: StudyDataset | None, study: Study, note: str) -> Section:
    heading = "The dataset"
    if dataset is None:
        text = "The dataset is no folder on this machine, so nothing is counted and no photograph is shown."
        return Section("dataset", heading, [Missing(text, BUILD)])
    facts, fingerprint = dataset.facts, dataset.images._fingerprint
    noun = "simulated image" if dataset.simulated else "photograph"
    mean_age = "" if facts["mean_age"] is None else f", mean age {facts['mean_age']:.1f} years"
    blocks: list[object] = [
        Text(
            f"{dataset.name}: {counted(facts['n_images'], noun)} of {counted(facts['n_conditions'], 'condition')} and "
            f"{counted(facts['n_groups'], 'person', 'people')} as far as is known, from "
            f"{counted(facts['n_countries'], 'country', 'countries')}{mean_age}. The real dataset of the "
            "paper has 456 photographs of 103 conditions from 46 countries, mean age 6.4 years. A value with fewer "
            f"than {facts['fewest']} images is counted together with others."
        ),
        bars_of(
            f"{note}How many images conditions have",
            "How many conditions have one image, two images, and so on.",
            [(str(size), count) for size, count in facts["size_counts"]],
            ("images of a condition", "conditions"),
        ),
    ]
    others = [
        run.name for run in study.runs if run.kind in ON_PHOTOGRAPHS and run.fingerprint not in (None, fingerprint)
    ]
    restored = [run.name for run in study.runs if run.name in others and run.dataset.get("config_name") == "restored"]
    others = [name for name in others if name not in restored]
    if restored:
        blocks.append(Text(f"Made with restored photographs (config restored): {', '.join(restored)}."))
    if others:
        blocks.append(Text(f"Made with another dataset, or another build of this one: {', '.join(others)}."))
    for title, says, rows, name in (
        ("Images by age", "How old the people on the images are, in completed years.", facts["ages"], "age in years"),
        ("Images by sex", "How many images show female and male people.", facts["sexes"], "sex"),
        ("Images by UN region", "Where the people are from, by region.", regions(facts), "region"),
        (
            "Images by country",
            f"Where the people are from; bars of at most {MAX_COUNTRIES} countries, all in the numbers below.",
            countries(facts),
            "country",
        ),
    ):
        known = [(value, count) for value, count in rows if isinstance(count, int)]
        if [value for value, _ in known if value != "not recorded"]:
            blocks.append(bars_of(f"{note}{title}", says, known, (name, "images")))
    return Section("dataset", heading, blocks)


def regions(facts: Mapping) -> list[tuple[str, int]]:
    return [(region["name"], region["images"]) for region in facts["regions"]]


def countries(facts: Mapping) -> list[tuple[str, int]]:
    """The most frequent countries, those of each region that may not be told together."""
    rows = [pair for region in facts["regions"] for pair in region["countries"] if pair[0] != dataset_facts.OTHERS]
    for region in facts["regions"]:
        others = dict(region["countries"]).get(dataset_facts.OTHERS)
        rows += [(f"others in {region['name']}", others)] if others else []
    rows += [(region["name"], region["images"]) for region in facts["regions"] if not region["countries"]]
    return sorted((row for row in rows if isinstance(row[1], int)), key=lambda row: -row[1])


def bars_of(title: str, says: str, rows: Sequence[tuple[str, int]], axes: tuple[str, str]) -> Figure:
    drawn = charts.bars(rows[:MAX_COUNTRIES], *axes)
    return Figure(title, says, *drawn, [*axes], [[name, count] for name, count in rows])


# --------------------------------------------------------------------------------------------------- filter, privacy


def filter_section(study: Study, note: str) -> Section:
    """note: SIMULATED in front of captions, or nothing."""
    blocks: list[object] = []
    for run in study.of(GENERATOR):
        adapters, made = run.record.get("adapters"), "one generator per fold"
        if adapters is not None:
            made = counted(len(adapters), "adapter") if adapters else "the base model, without an adapter"
        seeds = run.record.get("seeds", [])
        blocks.append(Text(f"{run.name}: {made}; seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}."))
    if not blocks:
        blocks.append(Missing("No run of a generator lies in this folder.", GENERATE))
    for run in study.of(FILTER):
        blocks += filter_blocks(run, note)
    if not study.of(FILTER):
        blocks.append(Missing("No run of the filter lies in this folder.", FILTERING))
    return Section("filter", "Synthetic faces: selection and privacy", blocks)


def filter_blocks(run: Run, note: str) -> list[object]:
    scores, report = read_scores(run), read_privacy(run)
    verdict = str(report.get("verdict", "not recorded"))
    says = f"{run.name}: {int(scores['kept'].sum())} of {len(scores)} images were kept. Privacy: {verdict.upper()}."
    reasons = [str(reason) for reason in report.get("reasons", [])]
    blocks: list[object] = [Text(says)]
    if reasons:
        blocks.append(Listing(f"Why the verdict is {verdict} ({counted(len(reasons), 'reason')})", reasons))
    became = Counter(kind_of(reason) for reason in scores["reject_reason"])
    rows = [("kept", became.pop("kept", 0)), *became.most_common()]
    blocks.append(
        bars_of(f"{note}What became of the images", "How many images were kept, and why others were not.", rows,
                ("outcome", "images"))
    )  # fmt: skip
    ranked_by = run.results["ranked_by"]
    if ranked_by in scores and np.isfinite(scores[ranked_by].astype(float)).any():
        groups = {"kept": scores[scores["kept"]], "not kept": scores[~scores["kept"]]}
        title = ranked_by.replace("_", " ")
        blocks.append(
            Figure(
                f"{note}How well the faces show their condition",
                f"The filter ranks images by {title}; how many have which value, kept and not kept.",
                *charts.stacked_histogram(
                    {n: t[ranked_by].to_numpy(float) for n, t in groups.items()}, title, "images"
                ),
                ["outcome", "images", "median", "lowest", "highest"],
                [[name, len(table), *spread(table[ranked_by])] for name, table in groups.items()],
            )
        )
    return blocks + likeness_figures(run, scores, note) + attack_blocks(report, note)


def spread(values: pd.Series) -> list[str]:
    known = values.astype(float).dropna()
    return [f"{value:.3f}" for value in (known.median(), known.min(), known.max())] if len(known) else ["-"] * 3


def likeness_figures(run: Run, scores: pd.DataFrame, note: str) -> list[Figure]:
    """How alike images are to photographs, with the thresholds above which they are rejected."""
    figures = []
    for column, name, what in (
        ("copy_score", "near copy", "How alike each image is to the photograph of which it is most nearly a copy"),
        ("person_similarity", "same person", "How alike each face is to the most similar person photographed"),
    ):
        thresholds = {
            f"threshold{f', {side}' if len(run.results['sides']) > 1 else ''}": found["thresholds"][name]["value"]
            for side, found in run.results["sides"].items()
            if isinstance(found.get("thresholds", {}).get(name), dict)
        }
        values = scores[column].astype(float) if column in scores else pd.Series(dtype=float)
        if not np.isfinite(values).any():
            continue
        groups = {"kept": values[scores["kept"]].to_numpy(), "not kept": values[~scores["kept"]].to_numpy()}
        title = {"near copy": "likeness as a copy", "same person": "likeness as a person"}[name]
        figures.append(
            Figure(
                f"{note}{title.capitalize()}",
                what + rejected_above(thresholds),
                *charts.stacked_histogram(groups, title, "images", thresholds),
                ["what", "images", "median", "lowest", "highest"],
                [[outcome, len(part), *spread(pd.Series(part))] for outcome, part in groups.items()],
            )
        )
    return figures


def rejected_above(thresholds: Mapping[str, float]) -> str:
    """The end of a sentence that says which images are rejected. thresholds: by name, of each side."""
    if not thresholds:
        return "."
    if len(thresholds) == 1:
        return f"; what lies right of the threshold, {next(iter(thresholds.values())):.3f}, is rejected."
    named = ", ".join(f"{name.removeprefix('threshold, ')} {value:.3f}" for name, value in thresholds.items())
    return f"; what lies right of its side's threshold is rejected ({named})."


def attack_blocks(report: Mapping, note: str) -> list[object]:
    """What an attack finds that asks whose photographs a generator saw."""
    reports = report.get("sides", {"": report})
    rows, cells, without = [], [], {}
    for side, of_side in reports.items():
        for generator, records in of_side.get("membership_attack", {}).items():
            for name, record in records.items():
                where = ", ".join(filter(None, (generator, side, name)))
                if "auc" not in record:
                    without.setdefault(str(record.get("not_measured", "no result")), []).append(where)
                    continue
                ends = f"{record['auc']:.2f} [{record['low']:.2f}, {record['high']:.2f}]"
                cells.append([where, ends])
                rows.append((f"{where}: {record['auc']:.2f}", record["auc"], record["low"], record["high"],
                             int("control" in name)))  # fmt: skip
    said = " ".join(map(str, report.get("reasons", [])))  # stands above already
    cells += [["; ".join(places), f"not measured: {why}"] for why, places in without.items() if why not in said]
    if not cells:
        return []
    if not rows:
        return [Table(f"{note}Membership attack", ["attack", "AUC"], cells)]
    return [
        Figure(
            f"{note}Membership attack",
            "Whether an attacker can tell whose photographs the generator saw: 0.5 means no, 1 means always; hollow "
            "squares are controls, of which the positive one must come out high.",
            *charts.intervals(rows, "AUC", 0.5, "nothing is told"),
            ["attack", "AUC"],
            cells,
        )
    ]


def read_privacy(run: Run) -> dict:
    file = run.folder / PRIVACY_REPORT
    return read_json(file, READ_AGAIN) if file.is_file() else {}


def read_scores(run: Run) -> pd.DataFrame:
    """The scores of all images, without the images; raises InputError for a file that cannot be read."""
    wanted = ("kept", "reject_reason", run.results["ranked_by"], "copy_score", "person_similarity")
    tables = []
    for file in sorted((run.folder / "synthetic").glob("train-*.parquet")):
        try:
            names = set(pq.read_schema(file).names)
            tables.append(pq.read_table(file, columns=[name for name in wanted if name in names]).to_pandas())
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{file}: cannot be read ({one_line(error)}); {READ_AGAIN}") from error
    if not tables or not {"kept", "reject_reason"} <= set(tables[0]):
        raise InputError(f"{run.folder}/synthetic: holds no filtered images; {READ_AGAIN}")
    scores = pd.concat(tables, ignore_index=True)
    return scores.assign(kept=scores["kept"].fillna(False).astype(bool))


def kind_of(reason: str | None) -> str:
    """A reason without the photograph that it names: this page does not say whom an image resembles."""
    if reason is None or pd.isna(reason) or not reason:
        return "kept"
    return next((kind for kind in GIVES_AWAY if reason.startswith(kind)), reason.partition(":")[0][:40])


# ------------------------------------------------------------------------------------------------------------- gallery


def gallery_section(study: Study, dataset: StudyDataset | None, simulated: bool, show_real: bool) -> Section:
    """simulated: whether the whole study is known to be simulated; otherwise no face of a patient may appear."""
    note = "SIMULATED: " if simulated else ""
    blocks: list[object] = []
    if dataset is None:
        blocks.append(Text("There is no dataset in this folder, so no photograph is shown."))
    elif simulated or show_real:
        blocks.append(photographs(dataset, note))
    else:
        text = "The dataset is not marked as simulated, so no photograph is shown; --show_real shows a few."
        blocks.append(Text(text))
    for run in study.of(FILTER):
        if simulated or show_real or read_privacy(run).get("verdict") == "green":
            blocks += synthetic_faces(run.folder, f"{note}Synthetic faces that the filter kept, {run.name}", True)
        else:
            text = f"{run.name}: its privacy verdict is not green: a face might show a patient, so none is shown."
            blocks.append(Text(text))
    if not study.of(FILTER) and (simulated or show_real):
        for run in study.of(GENERATOR):
            for folder in sorted(run.folder.glob("*/synthetic"))[:1]:
                blocks += synthetic_faces(folder, f"{note}Synthetic faces, {run.name}", False)
    return Section("gallery", "A sample of faces", blocks)


def photographs(dataset: StudyDataset, note: str) -> Faces:
    """Photographs of as many conditions, drawn with seed 0."""
    images = dataset.images
    first = pd.DataFrame({"label": images["label"][:]}).sample(frac=1, random_state=0).drop_duplicates("label")
    pictures = []
    for row in sorted(first.index[:N_FACES].tolist()):
        image = images[row]
        try:
            jpeg = thumbnail(image["image"])
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"image in row {row + 1} cannot be decoded ({one_line(error)}); build again") from error
        name = image["disease_name"] or images.features["label"].int2str(image["label"])
        of_whom = "simulated face" if note else "photograph"
        pictures.append((f"{image['image_id']}, {name}", f"{of_whom} {image['image_id']}, {name}", jpeg))
    noun = "faces drawn by a program" if note else "REAL PHOTOGRAPHS, not to be passed on"
    return Faces(f"{note}{len(pictures)} {noun}, each of another condition, chosen at random (seed 0)", pictures)


def synthetic_faces(folder: Path, caption: str, kept_only: bool) -> list[Faces]:
    """Faces of as many conditions as there are; none if the folder holds none."""
    images = load_synthetic(str(folder))
    label = images.features["label"]
    numbered = pd.DataFrame({"row": range(len(images)), "label": images["label"][:]})
    if kept_only:
        numbered = numbered[np.array(images["kept"][:], dtype=bool)].copy()
    numbered["turn"] = numbered.groupby("label", dropna=False).cumcount()
    pictures = []
    for row in numbered.sort_values(["turn", "label"])["row"].head(N_FACES).tolist():
        image = images[row]
        name = "no condition" if image["label"] is None else label.int2str(image["label"])
        pictures.append((name, f"synthetic face of {name}", thumbnail(image["image"])))
    return [Faces(caption, pictures)] if pictures else []
