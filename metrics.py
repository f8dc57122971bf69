"""Scores of a classifier from its kept predictions, with intervals over subjects; nothing else makes numbers of them.

    python metrics.py score runs/probe/predictions.parquet      # prints what results.json holds

A predictions file has one row for each image, fold and seed: `image_id`, `label` (class number), `protocol`, `fold`,
`split` (val, test), `seed`, `backbone`, `recipe`, `probabilities` (one for each class), and `subject` (the group of one
patient and near-duplicate photographs, the unit of the bootstrap). Only rows with split "test" are scored.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ["image_id", "label", "protocol", "fold", "split", "seed", "backbone", "recipe", "probabilities", "subject"]
TOP_K = (1, 5, 10, 30)
RESAMPLES_AT_ONCE = 100  # bounds the weights in memory to 100 numbers an image


def read_predictions(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The predictions of one file, or of several runs (seeds) together; a folder stands for its predictions.parquet.

    Raises FileNotFoundError, and ValueError as "file:row: reason; remedy" (first row is 1) for a missing column, for
    probabilities that differ in number, are not finite, negative or do not add up to 1, for a label outside of them,
    and for an image predicted twice in one fold and seed."""
    paths = [paths] if isinstance(paths, str | Path) else paths
    files = [Path(path) / "predictions.parquet" if Path(path).is_dir() else Path(path) for path in paths]
    predictions = pd.concat([_read_file(file) for file in files], ignore_index=True)
    widths = predictions["probabilities"].map(len)
    if widths.nunique() > 1:
        raise ValueError(f"the files differ in their number of classes: {sorted(widths.unique())}; score them apart")
    key = ["image_id", "protocol", "fold", "split", "seed", "backbone", "recipe"]
    twice = predictions.duplicated(key)
    if twice.any():
        row = predictions[twice].iloc[0]
        raise ValueError(
            f"image {row['image_id']} is predicted twice in fold {row['fold']} of seed {row['seed']}; "
            "name each run once, and give runs of the same settings different seeds"
        )
    return predictions


def _read_file(file: Path) -> pd.DataFrame:
    """One checked predictions file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give a predictions.parquet or the folder that holds one")
    try:
        predictions = pd.read_parquet(file)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise ValueError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]}); run again") from error
    missing = [column for column in COLUMNS if column not in predictions]
    if missing or not len(predictions):
        what = f"column {missing[0]} is missing" if missing else "it holds no predictions"
        raise ValueError(f"{file}: {what}; write it with train_classifier.py")
    for row, (label, given) in enumerate(zip(predictions["label"], predictions["probabilities"], strict=True), start=1):
        probabilities = np.asarray(given, float)
        if not np.isfinite(probabilities).all() or (probabilities < 0).any() or abs(probabilities.sum() - 1) > 1e-3:
            raise ValueError(f"{file}:{row}: probabilities must be finite, not negative and add up to 1; run again")
        if not 0 <= label < len(probabilities):
            raise ValueError(f"{file}:{row}: label {label} is none of the {len(probabilities)} classes; run again")
    return predictions


def topk_hits(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The chance that each image's class is among its k most probable ones, equal probabilities drawn in random order.

    probabilities (n, C); labels (n,) in 0..C-1; returns (n,) in 0..1: 0 or 1 unless a tie straddles the k-th place.
    Hence a constant predictor scores k / C, which is chance, and the order of classes or of a sort never matters."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    own = probabilities[np.arange(len(labels)), labels][:, None]
    ahead, tied = (
        (probabilities > own).sum(axis=1),
        (probabilities == own).sum(axis=1),
    )  # tied includes the class itself
    return np.clip((k - ahead) / tied, 0.0, 1.0)


def topk_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Mean of topk_hits: the share of images whose class is among the k most probable, 0..1."""
    return float(topk_hits(probabilities, labels, k).mean())


def macro_f1(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of the most probable class, averaged over all C classes; a class without test images counts as 0.

    probabilities (n, C); labels (n,); weights (b, n): b resamples, each a count for every image (one resample with
    every image once where None); returns (b,) in 0..1. Equals scikit-learn's f1_score(labels=range(C),
    average="macro", zero_division=0) where no probabilities tie; tied classes share the prediction. In a resample the
    average runs over the conditions drawn and is scaled by the share of all C that has test images: otherwise
    every condition that happens not to be drawn would count as a failure and the interval would miss its estimate."""
    hit, predicted, true = _confusion(probabilities, labels, weights)
    f1 = 2 * hit / np.maximum(predicted + true, 1e-12)  # (b, C); 0 where nothing is true
    tested_share = len(np.unique(labels)) / true.shape[1]
    return f1.sum(axis=1) / (true > 0).sum(axis=1) * tested_share


def balanced_accuracy(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Recall of the most probable class, averaged over the classes with test images (those drawn, in a resample).

    Shapes, range and ties as in macro_f1. Equals scikit-learn's balanced_accuracy_score where nothing ties."""
    hit, _, true = _confusion(probabilities, labels, weights)
    return (hit / np.maximum(true, 1e-12)).sum(axis=1) / (true > 0).sum(axis=1)


def _confusion(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Weighted number of hits, predictions and images of each class, each (b, C); weights as in macro_f1."""
    probabilities = np.asarray(probabilities)
    best = probabilities == probabilities.max(axis=1, keepdims=True)
    share = best / best.sum(axis=1, keepdims=True)  # (n, C) one 1 in a row, or equal parts of it where classes tie
    true = np.eye(probabilities.shape[1])[labels]  # (n, C)
    weights = np.ones((1, len(share))) if weights is None else weights
    return weights @ (share * true), weights @ share, weights @ true


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    subjects: Sequence[str],
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic when whole subjects are drawn with replacement.

    statistic maps weights (b, n), a count of every image in each of b resamples, to (b,) values; subjects (n,) names
    each image's subject: its images are drawn together, because they are not independent. Returns (low, high)."""
    _, subject = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    n_subjects = int(subject.max()) + 1
    generator = np.random.default_rng(seed)
    values = []
    for start in range(0, n_boot, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, n_boot - start)
        counts = generator.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=size)  # (b, subjects)
        values.append(statistic(counts[:, subject].astype(float)))
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def score(predictions: pd.DataFrame) -> dict:
    """The content of results.json, from predictions of one backbone, recipe and protocol.

    A replicate is one seed's pooled out-of-fold predictions under `strict`, and one fold's model (and seed) under
    `paper`. `mean` and `sd` (ddof=1, null for a single replicate) are over replicates; `low` and `high` are the 95 %
    bootstrap over subjects of the mean over replicates. All scores are fractions 0..1; top-k is given for k below the
    number of classes. Raises ValueError where settings are mixed or replicates did not test the same images."""
    test = predictions[predictions["split"] == "test"]
    settings = {column: test[column].unique().tolist() for column in ("protocol", "recipe", "backbone")}
    for column, values in settings.items():
        if len(values) != 1:
            raise ValueError(f"{len(values)} values of {column} among the test rows: {values}; score one at a time")
    one_replicate = ["seed"] if settings["protocol"] == ["strict"] else ["seed", "fold"]
    replicates = [rows.sort_values("image_id") for _, rows in test.groupby(one_replicate)]
    first = replicates[0]
    if first["image_id"].duplicated().any() or any(
        not np.array_equal(rows[["image_id", "label"]], first[["image_id", "label"]]) for rows in replicates
    ):
        raise ValueError("the replicates did not test the same images once each; run the missing folds or seeds")
    labels = first["label"].to_numpy()
    probabilities = [np.stack(rows["probabilities"].tolist()) for rows in replicates]  # of (n, C) each
    n_classes = probabilities[0].shape[1]
    statistics = {f"top{k}": _weighted_topk(k) for k in TOP_K if k < n_classes}
    statistics |= {"macro_f1": macro_f1, "balanced_accuracy": balanced_accuracy}
    return {
        **{column: values[0] for column, values in settings.items()},
        "n_test": len(first),
        "n_subjects": int(first["subject"].nunique()),
        "n_classes": n_classes,
        "n_classes_tested": len(np.unique(labels)),
        "seeds": sorted(test["seed"].unique().tolist()),
        "n_replicates": len(replicates),
        "chance": 1 / n_classes,
        "metrics": {
            name: _summary(statistic, probabilities, labels, first["subject"]) for name, statistic in statistics.items()
        },
    }


def _weighted_topk(k: int) -> Callable[..., np.ndarray]:
    """topk_accuracy with the signature of macro_f1."""

    def accuracy(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        hits = topk_hits(probabilities, labels, k)
        weights = np.ones((1, len(hits))) if weights is None else weights
        return weights @ hits / weights.sum(axis=1)

    return accuracy


def _summary(statistic: Callable, probabilities: list[np.ndarray], labels: np.ndarray, subjects: Sequence[str]) -> dict:
    """mean, sd, low, high of one statistic; see score."""
    values = [float(statistic(replicate, labels)[0]) for replicate in probabilities]
    low, high = bootstrap_interval(
        lambda weights: np.mean([statistic(replicate, labels, weights) for replicate in probabilities], axis=0),
        subjects,
    )
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "low": low, "high": high}


def format_table(results: dict) -> str:
    """The scores as a text table in percent, with what a reader needs to judge them: n, seeds, interval, chance."""
    lines = [
        f"{results['backbone']}, {results['recipe']}, protocol {results['protocol']}: {results['n_test']} test images "
        f"of {results['n_subjects']} subjects, {results['n_classes_tested']} of {results['n_classes']} classes tested, "
        f"seeds {', '.join(map(str, results['seeds']))}",
        f"{'percent':<18} {'mean':>6} {'sd':>6}   {'95 % interval':<15} {'chance':>6}",
    ]
    for name, values in results["metrics"].items():
        sd = "-" if values["sd"] is None else f"{100 * values['sd']:.2f}"
        interval = f"{100 * values['low']:.2f} .. {100 * values['high']:.2f}"
        k = int(name.removeprefix("top")) if name.startswith("top") else None
        chance = "-" if k is None else f"{100 * k * results['chance']:.2f}"
        lines.append(f"{name:<18} {100 * values['mean']:>6.2f} {sd:>6}   {interval:<15} {chance:>6}")
    return "\n".join(lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("score", help="print the scores of predictions as JSON, as results.json holds them")
    scoring.add_argument(
        "predictions", nargs="+", type=Path, help="predictions.parquet of one or more seeds, or folders"
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    print(json.dumps(score(read_predictions(args.predictions)), indent=2))


if __name__ == "__main__":
    try:
        main(parse_args())
    except (FileNotFoundError, ValueError) as error:
        print(f"metrics.py: {error}", file=sys.stderr)
        sys.exit(2)
