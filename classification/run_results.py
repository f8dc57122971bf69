"""What a run of a study leaves: predictions, scores, tables, learning curves; and the paper's row for comparison."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

from classification.backbones import Backbone
from curation import value_parsers
from curation.dataset_name import is_papers
from curation.opening import is_simulated
from harness.errors import InputError, one_line
from harness.files import read_json, write_atomically, write_json
from imaging.corruptions import SEVERITIES
from scoring import prediction_files, run_scores
from scoring.knowledge_use import with_use
from scoring.score_tables import shown, shown_interval

INPUT = ("image_size", "mean", "std", "face_alignment")  # of a Backbone, apart from its network
REMEDY = "delete its folder, and --resume_from_checkpoint latest trains the fold again"
PAPER_RESULTS = Path(__file__).with_name("paper_results.csv")


def image_columns(images: datasets.Dataset, labels: np.ndarray) -> pd.DataFrame:
    """What predictions.parquet says of each image besides its probabilities: image_id, label, subject (the group) and,
    if the dataset has them, sex, age_group and region (UN M49, from the country); null if not known.

    labels (n,): class numbers, which may differ from the dataset's own (--shuffle_labels)."""
    columns = pd.DataFrame({"image_id": images["image_id"][:], "label": labels, "subject": images["group_id"][:]})
    for name in [name for name in ("sex", "age_group") if name in images.column_names]:
        feature, values = images.features[name], images[name][:]
        as_text = feature.int2str if isinstance(feature, datasets.ClassLabel) else str
        columns[name] = [None if value is None else as_text(value) for value in values]
    if "country" in images.column_names:
        columns["region"] = [value_parsers.region(country) for country in images["country"][:]]
    return columns


def network_input(backbone: Backbone) -> dict:
    """How photographs were turned into the network's input, for records."""
    return {name: getattr(backbone, name) for name in INPUT}


def input_settings(inputs: Sequence[dict]) -> dict:
    """How photographs are turned into the input of each of several networks, for settings.json: `input_mean` and so on,
    with a list of all networks each.

    inputs: of each network, as network_input returns it, or a part of it. A digest of weights says nothing of it, and
    folds that one run made of two inputs would be the predictions of two networks."""
    return {f"input_{name}": [of_network.get(name) for of_network in inputs] for name in INPUT}


def write_predictions(file: Path, predictions: pd.DataFrame, label: datasets.ClassLabel) -> None:
    """Write predictions as scoring/prediction_files.py reads them; probabilities (C,) become float32.

    label: the feature that keeps the class names in the file."""
    text, number = datasets.Value("string"), datasets.Value("int32")
    types = {"label": label, "fold": number, "seed": datasets.Value("int64"), "unseen": datasets.Value("bool")}
    types["probabilities"] = datasets.List(datasets.Value("float32"), length=label.num_classes)
    features = datasets.Features({column: types.get(column, text) for column in predictions.columns})
    predictions = predictions.astype(object).where(predictions.notna(), None)  # else "nan" would be a value
    rows = datasets.Dataset.from_list(predictions.to_dict("records"), features=features)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: rows.to_parquet(str(partial)))


def is_finished(folder: Path, identity: dict, columns: pd.DataFrame, sides: dict[str, np.ndarray]) -> bool:
    """Whether a fold's folder holds all that this fold would leave; files that were cut short are reported, and redone.

    identity: what its model is trained as and on, as its fold.json has it too; columns (n,): image_id and label of all
    rows; sides: val and test -> rows. Raises InputError for predictions of another fold, seed, dataset or
    experiment."""
    if not (folder / "predictions.parquet").is_file():
        return False
    try:
        notes = read_json(folder / "fold.json", "")
        predictions = pd.read_parquet(folder / "predictions.parquet")
        recorded = {name: notes.get(name) for name in identity}
        predicted = sorted(zip(*(predictions[name].tolist() for name in ("split", "image_id", "label")), strict=True))
        same = all(set(predictions[name]) == {identity[name]} for name in ("protocol", "fold", "seed", "settings"))
    except (InputError, OSError, ValueError, LookupError, TypeError) as error:
        reason = one_line(error)[:100].rstrip("; ")
        print(f"{folder}: its files cannot be read ({reason}), so this fold is done again")
        return False
    expected = []
    for split, rows in sides.items():
        side = columns.iloc[rows]
        expected += [(split, *row) for row in zip(side["image_id"].tolist(), side["label"].tolist(), strict=True)]
    if recorded != identity or not same or predicted != sorted(expected):
        where = f"fold {notes.get('fold')} of seed {notes.get('seed')}, or of other data or settings"
        raise InputError(f"{folder} holds predictions of {where}; delete that folder, the fold is then done again")
    return True


def save_results(output_dir: Path, folders: Sequence[Path], label: datasets.ClassLabel) -> dict:
    """Write predictions, scores and tables from the folders of the finished folds; returns the scores.

    Scores and tables are made from the predictions file just written, so that this file alone is enough."""
    predictions = join(folders, "predictions.parquet", label, output_dir / "predictions.parquet")
    scores = run_scores.score(predictions)
    write_json(output_dir / "results.json", scores)
    for name, table in (("per_class", run_scores.per_class_table), ("confusion", run_scores.confusion_table)):
        write_csv(output_dir / f"{name}.csv", table(predictions, label.names), index=name == "confusion")
    return scores


def join(folders: Sequence[Path], name: str, label: datasets.ClassLabel, file: Path) -> pd.DataFrame:
    """The folds' predictions, written into one file in the order of the folders, then read back and checked.

    Their recipe says of knowledge that no fold used that it was not used."""
    parts = pd.concat([pd.read_parquet(folder / name) for folder in folders], ignore_index=True)
    (recipe,) = parts["recipe"].unique()
    parts["recipe"] = with_use(recipe, [read_json(folder / "fold.json", REMEDY) for folder in folders])
    write_predictions(file, parts, label)
    return prediction_files.read_predictions(file)


def write_csv(file: Path, table: pd.DataFrame, index: bool = False) -> None:
    write_atomically(file, lambda partial: table.to_csv(partial, index=index))


def save_corruption_scores(output_dir: Path, folders: Sequence[Path], label: datasets.ClassLabel, missed: dict) -> str:
    """Write corruptions.json, the scores per kind and severity as results.json has them; returns a table of top-1.

    missed: (kind, severity) -> share of the images in which no face was found."""
    scores: dict = {}
    for kind, severity in missed:
        name = f"corrupted_{kind}_{severity}.parquet"
        file = output_dir / "corrupted" / name.removeprefix("corrupted_")
        scored = run_scores.score(join(folders, name, label, file))
        scores.setdefault(kind, {})[severity] = scored | {"faces_missed": missed[kind, severity]}
    write_json(output_dir / "corruptions.json", scores)
    lines = [f"{'top-1, percent':<18}" + "".join(f"{f'severity {severity}':>26}" for severity in SEVERITIES)]
    for kind, by_severity in scores.items():
        cells = [by_severity[severity]["metrics"]["top1"] for severity in SEVERITIES]
        texts = [f"{shown('top1', cell['mean'])} ({shown_interval('top1', cell)})" for cell in cells]
        lines.append(f"{kind:<18}" + "".join(f"{text:>26}" for text in texts))
    return "\n".join(lines)


def save_learning_curves(output_dir: Path, folders: Sequence[Path]) -> list[dict]:
    """Write learning_curves.csv and .png of all folds (none for linear probes); returns each fold's fold.json."""
    folds = [read_json(folder / "fold.json", REMEDY) for folder in folders]
    points = [
        {"seed": fold["seed"], "fold": fold["fold"], **point}
        for fold in folds
        for point in fold.get("learning_curve", [])
    ]
    for file in (output_dir / "learning_curves.csv", output_dir / "learning_curves.png"):
        file.unlink(missing_ok=True)
    if points:
        curves = pd.DataFrame(points)
        write_csv(output_dir / "learning_curves.csv", curves)
        write_atomically(output_dir / "learning_curves.png", lambda file: draw(curves, file))
    return folds


def draw(curves: pd.DataFrame, file: Path) -> None:
    """A PNG of every fold's training loss, and validation accuracy if there is one, against the epoch."""
    from matplotlib.figure import Figure  # 0.7 s that a linear probe does not need

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


def paper_comparison(images: datasets.Dataset, backbone: str, scores: dict, all_folds_and_epochs: bool) -> str | None:
    """The paper's row for this backbone beside this run's scores; None unless the dataset is the paper's.

    all_folds_and_epochs: whether the run has all folds and the paper's number of epochs. Source: Feng et al., RDFace,
    CVPR 2026, arXiv 2604.03454, test side of `paper`, mean and sd over five folds."""
    of_paper = pd.read_csv(PAPER_RESULTS).set_index("backbone")
    same_data = not is_simulated(images) and is_papers(len(images), images.features["label"].num_classes)
    if not same_data or backbone not in of_paper.index:
        return None
    row, lines = of_paper.loc[backbone], [f"{'percent':<8}{'the paper':>16}{'this run':>16}"]
    for k in run_scores.TOP_K:
        ours = scores["metrics"][f"top{k}"]
        sd = "" if ours["sd"] is None else f" ± {100 * ours['sd']:.2f}"
        theirs = f"{row[f'top{k}']:.2f} ± {row[f'top{k}_sd']:.2f}"
        lines.append(f"top-{k:<4}{theirs:>16}{100 * ours['mean']:>10.2f}{sd}")
    # The recipe in the scores also names a support set, augmentation and shuffled labels.
    if not all_folds_and_epochs or (scores["protocol"], scores["recipe"]) != ("paper", "finetune"):
        lines.append("(not comparable: the paper's row is --recipe finetune --protocol paper, all folds and images)")
    return "\n".join(lines)
