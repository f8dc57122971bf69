"""The likely conditions of each image, corrected for how frequent conditions are where the list is used.

A classifier that was trained on as many photographs of each condition knows nothing of prevalence; a clinic does.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from harness.csv_table import decimal, read_table
from harness.errors import InputError
from scoring.run_scores import replicates_of

COLUMNS = ("condition", "prevalence")
WITHOUT_PRIOR = ("linear_probe", "gallery discriminant")  # recipes that count all conditions alike


def prior_corrected(probabilities: np.ndarray, training_prior: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The probabilities that the classifier would give if conditions were as frequent as `prior` says.

    probabilities (n, C), rows add up to 1; training_prior (C,) > 0 and prior (C,) >= 0, in any unit; returns (n, C),
    rows add up to 1: p(c) prior(c) / training_prior(c), normalised. A condition of prior 0 gets 0. The correction
    assumes that faces of a condition look the same here and there, and that the probabilities are calibrated. Raises
    ValueError for values out of range, and for an image all of whose probability lies on conditions of prior 0.
    Source: Saerens, Latinne and Decaestecker, Neural Computation 14, 2002, equation 2.4."""
    probabilities, training_prior, prior = (np.asarray(x, float) for x in (probabilities, training_prior, prior))
    if not (np.isfinite(training_prior).all() and (training_prior > 0).all()):
        raise ValueError("the training prior must be positive and finite for every condition")
    if not (np.isfinite(prior).all() and (prior >= 0).all() and prior.sum() > 0):
        raise ValueError("the prior must not be negative, must be finite, and must not be 0 everywhere")
    if not np.isfinite(probabilities).all():
        row = int((~np.isfinite(probabilities)).any(axis=1).argmax())
        raise ValueError(f"probabilities of image {row} are not finite; leave it out, or run again")
    odds = probabilities * (prior / prior.sum()) / (training_prior / training_prior.sum())
    totals = odds.sum(axis=1)
    if (totals <= 0).any():
        raise ValueError(f"image {int((totals <= 0).argmax())}: every condition with a probability has prior 0")
    return odds / totals[:, None]


def differential_list(
    predictions: pd.DataFrame,
    names: Sequence[str],
    prior: Mapping[str, float],
    training_prior: Mapping[str, float] | None,
    length: int,
) -> pd.DataFrame:
    """One row per image and rank: image_id, rank (from 1), condition, `probability` (corrected), `before` (as
    predicted, averaged over replicates).

    names (C,): the conditions, in the order of the probabilities; prior, training_prior: condition -> how frequent, in
    any unit; None: all alike, which holds for recipes WITHOUT_PRIOR alone. Equal probabilities are listed in the order
    of the names. Raises ValueError for another recipe without a training prior, for a condition without a prior, for a
    prior of a condition that the classifier does not know, and as prior_corrected and replicates_of."""
    settings, images, replicates = replicates_of(predictions)
    if training_prior is None and not settings["recipe"].startswith(WITHOUT_PRIOR):
        reason = "may prefer conditions that were frequent in training"
        remedy = "give how many photographs of each it was trained on with --training_prior"
        raise ValueError(f"the recipe {settings['recipe']} {reason}; {remedy}")
    if len(names) != replicates[0].shape[1]:
        raise ValueError(f"{len(names)} names for {replicates[0].shape[1]} conditions; give those of the run")
    before = np.mean(replicates, axis=0)
    alike = np.ones(len(names)) if training_prior is None else _in_order(training_prior, names, "training prior")
    corrected = prior_corrected(before, alike, _in_order(prior, names, "prior"))
    order = np.argsort(-corrected, axis=1, kind="stable")[:, :length]
    rows = [
        {
            "image_id": image_id,
            "rank": rank,
            "condition": names[c],
            "probability": corrected[i, c],
            "before": before[i, c],
        }
        for i, image_id in enumerate(images["image_id"])
        for rank, c in enumerate(order[i].tolist(), start=1)
    ]
    return pd.DataFrame(rows)


def _in_order(prior: Mapping[str, float], names: Sequence[str], what: str) -> np.ndarray:
    unknown, lacking = [name for name in prior if name not in names], [name for name in names if name not in prior]
    if unknown:
        raise ValueError(f"{what}: {unknown[0]} is no condition of this classifier; delete its row")
    if lacking:
        more = f" and {len(lacking) - 1} more lack" if lacking[1:] else " lacks"
        raise ValueError(f"{what}: {lacking[0]}{more} a row; add it, with prevalence 0 for what cannot occur")
    return np.array([prior[name] for name in names])


def read_prior(file: Path) -> dict[str, float]:
    """condition -> prevalence (>= 0, any unit) from a CSV file with these columns. Raises InputError with file and row
    for what is none, and as read_table."""
    header, rows = read_table(file)
    if missing := [column for column in COLUMNS if column not in header]:
        raise InputError(f"{file}: column {missing[0]} is missing; give condition and prevalence")
    prior: dict[str, float] = {}
    for line, row in rows:
        name, text = row["condition"].strip(), row["prevalence"]
        try:
            value = decimal(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise InputError(f"{file}:{line}: prevalence {text!r} is no number of at least 0; write one such as 0.5")
        if not name or name in prior:
            raise InputError(
                f"{file}:{line}: condition {name!r} is {'empty' if not name else 'given twice'}; correct it"
            )
        prior[name] = value
    return prior


def class_names(run: Path, n_classes: int) -> list[str]:
    """The conditions of a run in the order of its probabilities, from the columns' types in predictions.parquet.

    Raises ValueError if the file does not say them (train_classifier.py's do)."""
    file = run / "predictions.parquet" if run.is_dir() else run
    metadata = (pq.read_schema(file).metadata or {}).get(b"huggingface", b"")
    import datasets

    try:
        label = datasets.Features.from_arrow_schema(pq.read_schema(file))["label"]
    except (KeyError, ValueError, TypeError):
        label = None
    if not metadata or not isinstance(label, datasets.ClassLabel) or label.num_classes != n_classes:
        raise ValueError(
            f"{file}: does not name its conditions; give predictions.parquet as train_classifier.py wrote it"
        )
    return label.names
