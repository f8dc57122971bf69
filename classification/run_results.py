"""What a finished benchmark run leaves: predictions, scores, tables, learning curves, and the published row beside."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from classification.backbones import Backbone
from curation import value_parsers
from curation.opening import is_simulated
from harness.errors import InputError, one_line
from harness.files import read_json, write_atomically, write_json
from imaging.corruptions import SEVERITIES
from scoring import metrics, prediction_files

PUBLISHED = Path(__file__).with_name("paper_results.csv")


def columns_to_keep(images: datasets.Dataset, labels: np.ndarray) -> pd.DataFrame:
    """What predictions.parquet says of each image besides its probabilities: image_id, label, subject (the group) and,
    where the dataset has them, sex, age_group and region (UN M49, from the country); null where not known."""
    kept = pd.DataFrame({"image_id": images["image_id"][:], "label": labels, "subject": images["group_id"][:]})
    for name in [name for name in ("sex", "age_group") if name in images.column_names]:
        feature, values = images.features[name], images[name][:]
        named = feature.int2str if isinstance(feature, datasets.ClassLabel) else str
        kept[name] = [None if value is None else named(value) for value in values]
    if "country" in images.column_names:
        kept["region"] = [value_parsers.region(country) for country in images["country"][:]]
    return kept


def network_input(backbone: Backbone) -> dict:
    """How the network's pixels were made of photographs, for records."""
    return {name: getattr(backbone, name) for name in ("image_size", "mean", "std", "face_alignment")}


def write_predictions(file: Path, predictions: pd.DataFrame, label: datasets.ClassLabel) -> None:
    """predictions as metrics.py reads them; `label` keeps the class names, probabilities (C,) become float32."""
    text, number = datasets.Value("string"), datasets.Value("int32")
    types = {"label": label, "fold": number, "seed": datasets.Value("int64")}
    types["probabilities"] = datasets.List(datasets.Value("float32"), length=label.num_classes)
    features = datasets.Features({column: types.get(column, text) for column in predictions.columns})
    predictions = predictions.astype(object).where(predictions.notna(), None)  # else "nan" would be a value
    rows = datasets.Dataset.from_list(predictions.to_dict("records"), features=features)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: rows.to_parquet(str(partial)))


def is_finished(folder: Path, identity: dict, kept: pd.DataFrame, sides: dict[str, np.ndarray]) -> bool:
    """Whether a fold's folder holds all that this fold would leave; what was cut short is said, and made again.

    identity: what its model is trained as and on (its fold.json has the same); kept (n,): image_id and label of all
    rows; sides: val and test -> rows. Raises InputError for predictions of another fold, seed, dataset or
    experiment."""
    if not (folder / "predictions.parquet").is_file():
        return False
    try:
        notes = read_json(folder / "fold.json", "")
        predictions = pd.read_parquet(folder / "predictions.parquet")
        named = {name: notes.get(name) for name in identity}
        given = sorted(zip(*(predictions[name].tolist() for name in ("split", "image_id", "label")), strict=True))
        same = all(set(predictions[name]) == {identity[name]} for name in ("protocol", "fold", "seed", "settings"))
    except (InputError, OSError, ValueError, LookupError, TypeError) as error:
        print(
            f"{folder}: what is there cannot be read ({one_line(error)[:100].rstrip('; ')}), so this fold is done again"
        )
        return False
    of_fold = []
    for split, rows in sides.items():
        columns = kept.iloc[rows]
        of_fold += [(split, *row) for row in zip(columns["image_id"].tolist(), columns["label"].tolist(), strict=True)]
    if named != identity or not same or given != sorted(of_fold):
        where = f"fold {notes.get('fold')} of seed {notes.get('seed')}, or of other data or settings"
        raise InputError(f"{folder} holds predictions of {where}; delete that folder, the fold is then done again")
    return True


def save_results(output_dir: Path, folders: Sequence[Path], label: datasets.ClassLabel) -> dict:
    """Everything but run.json, from the folders of the finished folds; returns the scores.

    Predictions first; the scores and tables are made from the file just written, so it alone is enough."""
    predictions = join(folders, "predictions.parquet", label, output_dir / "predictions.parquet")
    scores = metrics.score(predictions)
    write_json(output_dir / "results.json", scores)
    for name, table in (("per_class", metrics.per_class_table), ("confusion", metrics.confusion_table)):
        write_csv(output_dir / f"{name}.csv", table(predictions, label.names), index=name == "confusion")
    return scores


def join(folders: Sequence[Path], name: str, label: datasets.ClassLabel, file: Path) -> pd.DataFrame:
    """The folds' predictions in one file, in the order of the folders, read back and checked."""
    parts = pd.concat([pd.read_parquet(folder / name) for folder in folders], ignore_index=True)
    write_predictions(file, parts, label)
    return prediction_files.read_predictions(file)


def write_csv(file: Path, table: pd.DataFrame, index: bool = False) -> None:
    write_atomically(file, lambda partial: table.to_csv(partial, index=index))


def save_corruption_scores(output_dir: Path, folders: Sequence[Path], label: datasets.ClassLabel, missed: dict) -> str:
    """corruptions.json: the scores of each kind and severity, as results.json has them; returns a table of top-1.

    missed: share of the images in which no face was found, by (kind, severity)."""
    scores: dict = {}
    for kind, severity in missed:
        name = f"corrupted_{kind}_{severity}.parquet"
        file = output_dir / "corrupted" / name.removeprefix("corrupted_")
        scored = metrics.score(join(folders, name, label, file))
        scores.setdefault(kind, {})[severity] = scored | {"faces_missed": missed[kind, severity]}
    write_json(output_dir / "corruptions.json", scores)
    lines = [f"{'top-1, percent':<18}" + "".join(f"{f'severity {severity}':>26}" for severity in SEVERITIES)]
    for kind, by_severity in scores.items():
        cells = [by_severity[severity]["metrics"]["top1"] for severity in SEVERITIES]
        texts = [f"{metrics.shown('top1', cell['mean'])} ({metrics.shown_interval('top1', cell)})" for cell in cells]
        lines.append(f"{kind:<18}" + "".join(f"{text:>26}" for text in texts))
    return "\n".join(lines)


def save_learning_curves(output_dir: Path, folders: Sequence[Path]) -> list[dict]:
    """learning_curves.csv and .png of all folds (none for linear probes); returns what each fold noted of itself."""
    anew = "delete its folder, and --resume_from_checkpoint latest trains the fold again"
    findings = [read_json(folder / "fold.json", anew) for folder in folders]
    points = [
        {"seed": fold["seed"], "fold": fold["fold"], **point}
        for fold in findings
        for point in fold.get("learning_curve", [])
    ]
    for file in (output_dir / "learning_curves.csv", output_dir / "learning_curves.png"):
        file.unlink(missing_ok=True)
    if points:
        curves = pd.DataFrame(points)
        write_csv(output_dir / "learning_curves.csv", curves)
        write_atomically(output_dir / "learning_curves.png", lambda file: draw(curves, file))
    return findings


def draw(curves: pd.DataFrame, file: Path) -> None:
    """A PNG of the training loss (and validation accuracy where there is any) of every fold against the epoch."""
    from matplotlib.figure import Figure  # 0.7 s that a linear probe has no use for

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel="epoch", ylabel="training loss (cross-entropy)")
    right = axis.twinx() if "val_accuracy" in curves else None
    for _, fold in curves.groupby(["seed", "fold"]):
        axis.plot(fold["epoch"], fold["loss"], color="tab:blue", alpha=0.6, linewidth=1)
        if right:
            right.plot(fold["epoch"], 100 * fold["val_accuracy"], color="tab:orange", alpha=0.6, linewidth=1)
    if right:
        right.set_ylabel("validation accuracy, %", color="tab:orange")
    n_folds = len(curves.groupby(["seed", "fold"]))
    axis.set_title(f"{n_folds} folds" + (" (the checkpoint is chosen by validation accuracy)" if right else ""))
    figure.savefig(file, format="png", dpi=120)


def published_row(images: datasets.Dataset, args: argparse.Namespace, scores: dict) -> str | None:
    """The paper's row for this backbone beside ours, where the dataset is RDFace as the paper counts it; else None.

    Source: Feng et al., RDFace, CVPR 2026, arXiv 2604.03454, test side of `paper`, mean and sd of five folds."""
    published = pd.read_csv(PUBLISHED).set_index("backbone")
    same_data = not is_simulated(images) and len(images) == 456 and images.features["label"].num_classes == 103
    if not same_data or args.backbone not in published.index:
        return None
    row, lines = published.loc[args.backbone], [f"{'percent':<8}{'published':>16}{'this run':>16}"]
    for k in metrics.TOP_K:
        ours = scores["metrics"][f"top{k}"]
        sd = "" if ours["sd"] is None else f" ± {100 * ours['sd']:.2f}"
        published_text = f"{row[f'top{k}']:.2f} ± {row[f'top{k}_sd']:.2f}"
        lines.append(f"top-{k:<4}{published_text:>16}{100 * ours['mean']:>10.2f}{sd}")
    whole = args.fold is None and args.num_train_epochs == 50
    # The recipe that was scored also tells of a support set, augmentation and shuffled labels.
    if not whole or (scores["protocol"], scores["recipe"]) != ("paper", "finetune"):
        lines.append("(not comparable: the published row is --recipe finetune --protocol paper, all folds and images)")
    return "\n".join(lines)
