"""Turns a classifier's predictions into all its scores and comparisons, with intervals over subjects.

A predictions file has one row per image, fold and seed: `image_id`, `label` (class number), `protocol`, `fold`, `split`
(val, test), `seed`, `backbone`, `recipe`, `probabilities` (one per class), and `subject` (the group of one patient and
near-duplicate photographs, the unit of the bootstrap); optionally also `sex`, `age_group` and `region`, null if not
known, and `unseen` (true if no photograph of any condition that is tested in the fold was trained on). Only rows with
split "test" are scored. An image whose `subject` is null is a subject of its own.

An interval describes the given classifiers, tested on new subjects of the same population; their training images are
fixed. How much depends on chance in training is the spread over seeds (`sd`), so a claim about a recipe needs several
seeds. benchmarks/interval_coverage.py measures how often the intervals hold.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from harness.text_normalization import subject_key
from scoring.abstention import risk_coverage_area
from scoring.calibration import smooth_calibration_error
from scoring.holm import holm
from scoring.intervals import bootstrap_interval, corrected_interval, logit_interval, swap_p_value, wilson_interval
from scoring.metrics import (
    balanced_accuracy,
    expected_calibration_error,
    f1_by_class,
    macro_f1,
    mean_reciprocal_rank,
    negative_log_likelihood,
    predicted_share,
    reciprocal_ranks,
    topk_hits,
    weighted_topk,
)
from scoring.prediction_files import SUBGROUPS, checked, known_subjects
from scoring.subgroup_gaps import subgroup_gaps

TOP_K = (1, 5, 10, 30)
IN_LOGITS = {"aurc"}  # a few sure images change it a lot: a percentile interval of a poor classifier ends too early
NO_WIDTH = 1e-12  # of an interval; more than rounding
NOT_LINEAR = {"macro_f1", "balanced_accuracy", "ece"}  # no means over images: percentile intervals miss them


def score(predictions: pd.DataFrame) -> dict:
    """The content of results.json, from predictions of one backbone, recipe and protocol.

    A replicate is one seed's pooled out-of-fold predictions under `strict`, and the model of one fold and seed
    under `paper`. `mean` and `sd` (ddof=1, null for a single replicate) are over replicates. `low` and `high` are
    the 95 % interval over subjects of the mean over replicates, null for a single subject: by bootstrap_interval,
    but by corrected_interval for macro F1, balanced accuracy and binned calibration error, and by logit_interval
    for the risk-coverage area, which it would miss. If all subjects score alike in top-k, as two of two do, no resample
    differs from the others, and the interval is Wilson's, which counts subjects; the other scores have no such
    interval, so that theirs is null where no resample differs. All scores are fractions 0..1, except `nll` (nats);
    top-k is given for k below the number of classes. If all images are `unseen`, `top1_unseen` is the top-1 among the
    conditions that were left out together with the image's own, and `chance_unseen` that of a guess. `by` has top-1 and
    top-5 for each value of sex, age_group and region, if the predictions have these columns, and `gaps` whether top-1
    differs between them (subgroup_gaps.subgroup_gaps). `n_without_subject` is present if images have none (each then
    counts as a subject of its own), `joined_subjects` if one is spelt in several ways. Raises ValueError if a cell
    cannot be read (prediction_files.checked), settings are mixed, replicates did not test the same images, or the
    predictions are those of few-shot episodes."""
    settings, images, probabilities = replicates_of(predictions)
    labels, n_classes = images["label"].to_numpy(), probabilities[0].shape[1]
    statistics = statistics_of(n_classes) | statistics_of_unseen(images, n_classes)
    by = _by_subgroup(images, probabilities)
    return {
        **settings,
        "n_test": len(images),
        "n_subjects": int(images["subject"].nunique()),
        **images.attrs,
        "n_classes": n_classes,
        "n_classes_tested": len(np.unique(labels)),
        "n_replicates": len(probabilities),
        "chance": 1 / n_classes,
        **_chance_of_unseen(images, n_classes),
        "metrics": {
            name: _summary(name, of, probabilities, labels, images["subject"]) for name, of in statistics.items()
        },
        **({"by": by, "gaps": _gaps(images, probabilities)} if by else {}),
    }


def replicates_of(predictions: pd.DataFrame) -> tuple[dict, pd.DataFrame, list[np.ndarray]]:
    """Protocol, recipe, backbone and seeds; the test images sorted by image_id; each replicate's probabilities (n, C).

    The table's `attrs` hold n_without_subject and joined_subjects, as score returns them. Raises ValueError as score
    does."""
    predictions = checked(predictions, "predictions").reset_index(drop=True)
    test = predictions[predictions["split"] == "test"]
    if not len(test):
        raise ValueError(f"none of {len(predictions)} predictions has the split test; only held-out images are scored")
    settings = {column: test[column].unique().tolist() for column in ("protocol", "recipe", "backbone")}
    if "settings" in test and test["settings"].nunique(dropna=False) > 1:  # a column that train_classifier.py writes
        raise ValueError("the files are of runs with different settings (their settings.json); score one at a time")
    for column, values in settings.items():
        if len(values) != 1:
            remedy = "score one at a time"
            if any("synthetic" in str(value) for value in values):
                remedy += ", or make the number of synthetic images equal with --synthetic_top_n"
            raise ValueError(f"{len(values)} values of {column} among the test rows: {values}; {remedy}")
    if way := way_of(settings["recipe"][0]):
        reason = f"each is the mean over the {way} episodes that asked for the image, each among its own conditions"
        raise ValueError(f"predictions of few-shot episodes: {reason}; their accuracy stands in the run's results.json")
    one_label = test.groupby("image_id")["label"].nunique() == 1
    if not one_label.all():
        image_id = one_label.index[~one_label][0]
        labels = sorted(test.loc[test["image_id"] == image_id, "label"].unique().tolist())
        raise ValueError(f"image {image_id} has the labels {labels}; give it one in all folds and seeds")
    one_replicate = ["seed"] if settings["protocol"] == ["strict"] else ["seed", "fold"]
    replicates = [rows.sort_values("image_id") for _, rows in test.groupby(one_replicate)]
    first = replicates[0]
    if first["image_id"].duplicated().any() or any(
        not np.array_equal(rows["image_id"], first["image_id"]) for rows in replicates
    ):
        raise ValueError("the replicates did not test the same images once each; run the missing folds or seeds")
    subgroups = test.groupby("image_id")[[column for column in SUBGROUPS if column in test]].first()  # that is not null
    images = first.drop(columns=subgroups.columns).join(subgroups, on="image_id")
    images["subject"], n_without, joined = known_subjects(images, test)
    images.attrs = {"n_without_subject": n_without} if n_without else {}
    images.attrs |= {"joined_subjects": joined} if joined else {}
    probabilities = [np.stack(rows["probabilities"].tolist()) for rows in replicates]
    of_all = {column: values[0] for column, values in settings.items()}
    return of_all | {"seeds": sorted(test["seed"].unique().tolist())}, images, probabilities


def statistics_of(n_classes: int) -> dict[str, Callable[..., np.ndarray]]:
    """name in results.json -> function, as macro_f1, of all scores that this number of classes allows."""
    return {f"top{k}": partial(weighted_topk, k=k) for k in TOP_K if k < n_classes} | {
        "macro_f1": macro_f1,
        "balanced_accuracy": balanced_accuracy,
        "mrr": mean_reciprocal_rank,
        "nll": negative_log_likelihood,
        "ece": expected_calibration_error,
        "smece": smooth_calibration_error,
        "aurc": risk_coverage_area,
    }


def left_out_together(images: pd.DataFrame, n_classes: int) -> np.ndarray | None:
    """The classes that were left out with each image's own, itself included, (n, C) bool; None unless all are unseen.

    images: as replicates_of returns them; the classes tested in a fold are those that it left out."""
    if "unseen" not in images or not images["unseen"].eq(True).all():
        return None
    fold = images["fold"].to_numpy()
    of_fold = {k: np.isin(np.arange(n_classes), images["label"][fold == k]) for k in set(fold.tolist())}
    return np.stack([of_fold[k] for k in fold.tolist()])


def statistics_of_unseen(images: pd.DataFrame, n_classes: int) -> dict[str, Callable[..., np.ndarray]]:
    """As statistics_of, of images whose conditions were not trained on; none for others.

    The functions take the images in this order, once or several times over."""
    candidates = left_out_together(images, n_classes)
    if candidates is None:
        return {}

    def top1_among(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        of_rows = np.tile(candidates, (len(labels) // len(candidates), 1))  # swap_p_value stacks two methods' rows
        return weighted_topk(np.where(of_rows, probabilities, -1.0), labels, weights, k=1)

    return {"top1_unseen": top1_among}


def _chance_of_unseen(images: pd.DataFrame, n_classes: int) -> dict[str, float]:
    candidates = left_out_together(images, n_classes)
    return {} if candidates is None else {"chance_unseen": float((1 / candidates.sum(axis=1)).mean())}


def _mean_over(statistic: Callable, probabilities: list[np.ndarray], labels: np.ndarray) -> Callable:
    """The statistic's mean over replicates, as a function of weights (b, n)."""
    return lambda weights: np.mean([statistic(replicate, labels, weights) for replicate in probabilities], axis=0)


def interval_of(name: str, of_difference: bool = False) -> Callable[..., tuple[float, float]]:
    """The function that gives the interval of the score of this name, or of a difference of two such scores."""
    if name in IN_LOGITS and not of_difference:
        return logit_interval
    return corrected_interval if name in NOT_LINEAR else bootstrap_interval


def interval_words(name: str) -> str:
    """How the interval of the score of this name is made."""
    if name in IN_LOGITS:
        return "normal for the logit, with the standard error of a jackknife over subjects"
    if name in NOT_LINEAR:
        return "normal, with the bias of a bootstrap and the standard error of a jackknife over subjects"
    words = "percentile bootstrap over subjects"
    return f"{words}; Wilson's, counting subjects, if all score alike" if is_share(name) else words


def _low_and_high(name: str, weighted: Callable, subjects: pd.Series, of_difference: bool = False) -> dict:
    """low and high of the score of this name, or of a difference of two such scores."""
    n_subjects = int(subjects.nunique())
    if n_subjects < 2:
        return {"low": None, "high": None}  # one subject tells nothing about others
    low, high = interval_of(name, of_difference)(weighted, subjects)
    if not of_difference and high - low < NO_WIDTH:  # all right, or all wrong: no resample can differ
        if not is_share(name):
            return {"low": None, "high": None}
        low, high = wilson_interval(low, n_subjects)
    return {"low": low, "high": high}


def is_share(name: str) -> bool:
    """Whether the score of this name is a share of images."""
    return name.startswith("top")


def _summary(
    name: str, statistic: Callable, probabilities: list[np.ndarray], labels: np.ndarray, subjects: pd.Series
) -> dict:
    """mean, sd, low, high of one statistic; see score."""
    values = [float(statistic(replicate, labels)[0]) for replicate in probabilities]
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    interval = _low_and_high(name, _mean_over(statistic, probabilities, labels), subjects)
    if name in NOT_LINEAR and interval["low"] is not None:  # the corrected interval has no bounds
        interval = {"low": max(0.0, interval["low"]), "high": min(1.0, interval["high"])}
    return {"mean": float(np.mean(values)), "sd": sd, **interval}


def _by_subgroup(images: pd.DataFrame, probabilities: list[np.ndarray]) -> dict:
    """column -> value -> n, n_subjects, top1 and top5, for the columns of SUBGROUPS that the images have."""
    statistics = {name: of for name, of in statistics_of(probabilities[0].shape[1]).items() if name in ("top1", "top5")}
    by = {}
    for column in [column for column in SUBGROUPS if column in images]:
        values = images[column].astype(object).where(images[column].notna(), "not known").astype(str).to_numpy()
        by[column] = {}
        for value in sorted(np.unique(values), key=_by_age_then_name):
            rows = values == value
            labels, subjects = images["label"].to_numpy()[rows], images["subject"][rows]
            by[column][str(value)] = {"n": int(rows.sum()), "n_subjects": int(subjects.nunique())} | {
                name: _summary(name, statistic, [replicate[rows] for replicate in probabilities], labels, subjects)
                for name, statistic in statistics.items()
            }
    return by


def _gaps(images: pd.DataFrame, probabilities: list[np.ndarray]) -> dict:
    """subgroup_gaps of top-1, averaged over replicates, in the columns of SUBGROUPS that the images have."""
    hits = np.mean([topk_hits(replicate, images["label"].to_numpy(), 1) for replicate in probabilities], axis=0)
    return subgroup_gaps(hits, images[[column for column in SUBGROUPS if column in images]], images["subject"])


def _by_age_then_name(value: str) -> tuple[bool, int, str]:
    """A key that sorts 6-11 before 12-17, words alphabetically, and "not known" last."""
    years = "".join(itertools.takewhile(str.isdecimal, value))
    return value == "not known", int(years or 0), value


def way_of(recipe: str) -> str | None:
    """Among how many conditions a run of few-shot episodes chooses, such as "5-way"; None for other runs."""
    found = re.search(r"\b\d+-way\b", recipe)
    return found[0] if found else None


def compare(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str] | None = None) -> dict:
    """Two methods on the same test images: each score of both, the difference b - a, its interval and a p-value.

    a, b: predictions of one backbone, recipe and protocol each, as for score; seeds may differ in number and value.
    names: of the scores to compare; None: all. Scores are means over replicates. `low` and `high` are the 95 % interval
    of the difference over subjects, drawn for both methods together, from the same functions as in score; `p_value` is
    from swap_p_value, and `p_holm` is corrected for the number of scores compared here, which are one family.
    `top1_unseen` is compared if both methods chose among the same conditions, which neither had trained on. Raises
    ValueError if the protocol, the number of classes, the test images, their labels or their subjects differ."""
    (of_a, images, probabilities_a), (of_b, images_b, probabilities_b) = replicates_of(a), replicates_of(b)
    if of_a["protocol"] != of_b["protocol"]:
        raise ValueError(f"protocols differ: {of_a['protocol']} and {of_b['protocol']}; compare runs of one protocol")
    if not np.array_equal(images["image_id"], images_b["image_id"]):
        only = sorted(set(images["image_id"]) ^ set(images_b["image_id"]))
        raise ValueError(f"{len(only)} test images are in one file only, the first {only[0]}; test both on the same")
    n_classes = probabilities_a[0].shape[1]
    same = np.array_equal(images["label"], images_b["label"]) and np.array_equal(
        images["subject"].map(subject_key), images_b["subject"].map(subject_key)
    )
    shuffled = [side for side, of in (("A", of_a), ("B", of_b)) if "shuffled labels" in of["recipe"].split(", ")]
    if shuffled and not same:
        had = f"{' and '.join(shuffled)} had shuffled labels (--shuffle_labels, a control)"
        raise ValueError(f"{had}, so the same images have other labels; compare runs without --shuffle_labels")
    if n_classes != probabilities_b[0].shape[1] or not same:
        raise ValueError(
            "classes, labels or subjects of the same images differ; compare runs on one build of a dataset"
        )
    labels, subjects = images["label"].to_numpy(), images["subject"]
    statistics, scores = statistics_of(n_classes), {}
    candidates, candidates_b = (left_out_together(each, n_classes) for each in (images, images_b))
    if candidates is not None and candidates_b is not None and np.array_equal(candidates, candidates_b):
        statistics |= statistics_of_unseen(images, n_classes)
    for name in names or statistics:
        statistic = statistics[name]
        mean_a, mean_b = (_mean_over(statistic, each, labels) for each in (probabilities_a, probabilities_b))
        once = np.ones((1, len(labels)))
        value_a, value_b = float(mean_a(once)[0]), float(mean_b(once)[0])
        scores[name] = {
            "a": value_a,
            "b": value_b,
            "difference": value_b - value_a,
            **_low_and_high(name, lambda weights, a=mean_a, b=mean_b: b(weights) - a(weights), subjects, True),
            "p_value": swap_p_value(statistic, probabilities_a, probabilities_b, labels, subjects),
        }
    corrected = holm([values["p_value"] for values in scores.values()])
    for values, p_holm in zip(scores.values(), corrected.tolist(), strict=True):
        values["p_holm"] = p_holm
    return {
        "protocol": of_a["protocol"],
        "n_test": len(labels),
        "n_subjects": int(subjects.nunique()),
        **images.attrs,
        "a": _side(of_a, probabilities_a),
        "b": _side(of_b, probabilities_b),
        "metrics": scores,
    }


def _side(settings: dict, probabilities: list[np.ndarray]) -> dict:
    """What is said of one of two methods that are compared."""
    names = {name: settings[name] for name in ("backbone", "recipe", "seeds")}
    return names | {"n_replicates": len(probabilities)}


def confusion_table(predictions: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Test images of each true class (rows) by their most probable class (columns), averaged over replicates.

    names: of the C classes in their order. Returns C x C counts, which are fractions if replicates differ or classes
    tie. Raises ValueError if names and probabilities differ in number, and as score does."""
    _, images, probabilities = replicates_of(predictions)
    _check_names(names, probabilities)
    true = np.eye(len(names))[images["label"]]
    counts = true.T @ np.mean([predicted_share(replicate) for replicate in probabilities], axis=0)
    return pd.DataFrame(counts, index=pd.Index(names, name="true"), columns=pd.Index(names, name="predicted"))


def per_class_table(predictions: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """One row per class: images, subjects, recall (top-1, top-5), F1, mean reciprocal rank, most frequent wrong class.

    names: as in confusion_table. Scores are fractions 0..1, averaged over replicates. For a class without test images,
    recall and reciprocal rank are missing but F1 is 0; so f1 averages to macro_f1 and recall_top1 to balanced_accuracy.
    Of wrong classes predicted equally often the first is given; there is none if all predictions are right."""
    _, images, probabilities = replicates_of(predictions)
    _check_names(names, probabilities)
    labels = images["label"].to_numpy()
    of_each = np.eye(len(names))[labels].T  # (C, n)
    n_images = of_each.sum(axis=1)

    def mean_by_class(values: list[np.ndarray]) -> np.ndarray:
        return np.where(n_images > 0, of_each @ np.mean(values, axis=0) / np.maximum(n_images, 1), np.nan)

    subjects = images.groupby("label")["subject"].nunique().reindex(range(len(names)), fill_value=0)
    wrong = confusion_table(predictions, names).to_numpy() * (1 - np.eye(len(names)))
    return pd.DataFrame(
        {
            "class": list(names),
            "images": n_images.astype(int),
            "subjects": subjects.to_numpy(),
            "recall_top1": mean_by_class([topk_hits(replicate, labels, 1) for replicate in probabilities]),
            "recall_top5": mean_by_class([topk_hits(replicate, labels, 5) for replicate in probabilities]),
            "f1": np.mean([f1_by_class(replicate, labels, None)[0][0] for replicate in probabilities], axis=0),
            "mrr": mean_by_class([reciprocal_ranks(replicate, labels) for replicate in probabilities]),
            "most_frequent_wrong_class": [names[row.argmax()] if row.any() else None for row in wrong],
        }
    )


def _check_names(names: Sequence[str], probabilities: list[np.ndarray]) -> None:
    if len(names) != probabilities[0].shape[1]:
        raise ValueError(f"{len(names)} names for {probabilities[0].shape[1]} classes; give the dataset of the run")


def chance(name: str, n_classes: int) -> float | None:
    """What a constant predictor scores, the same probability for every class; None where the labels decide."""
    if name == "top1_unseen":
        return None
    if is_share(name):
        return min(1.0, int(name.removeprefix("top")) / n_classes)
    harmonic = sum(1 / rank for rank in range(1, n_classes + 1))
    known = {"balanced_accuracy": 1 / n_classes, "mrr": harmonic / n_classes, "nll": math.log(n_classes)}
    return (known | {"aurc": 1 - 1 / n_classes}).get(name)
