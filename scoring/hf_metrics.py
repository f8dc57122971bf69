"""The scores of scoring/metrics.py as `evaluate.Metric` classes for training loops; nothing is loaded from the Hub.

    metric = MacroF1()
    metric.add_batch(references=labels, prediction_scores=probabilities)
    metric.compute()                                                # {"macro_f1": 0.18}

references (n,): class numbers 0..C-1; prediction_scores (n, C): a probability per image and class. Each may be a list,
an array or a tensor. Input that cannot be scored is refused when it is added, by a ValueError of one line. This is a
file of its own because importing evaluate takes seconds (it imports transformers' pipelines).
"""

from collections.abc import Callable, Sequence

import evaluate
import numpy as np
from datasets import Features, List, Value

from scoring import abstention, calibration, metrics
from scoring.prediction_files import SUM_TOLERANCE, whole_number


class _Score(evaluate.Metric):
    """One score over all images. A subclass gives its name in results.json and its function in scoring/metrics.py."""

    score_name: str
    score: Callable[..., np.ndarray]
    of_probabilities = False  # whether it depends on the values of the probabilities, not only on their order

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.score.__doc__,
            citation="",
            inputs_description="references: class numbers (n,); prediction_scores: probabilities (n, C)",
            features=Features({"references": Value("int64"), "prediction_scores": List(Value("float64"))}),
        )

    def compute(self, **inputs: object) -> dict[str, float] | None:
        """As evaluate's; raises ValueError if nothing was given or added, if images differ in their number of classes,
        and as add_batch does."""
        if self.writer is None and all(inputs.get(name) is None for name in self._feature_names()):
            raise ValueError("there is nothing to score; give references and prediction_scores")
        return super().compute(**inputs)

    def add_batch(
        self, *, references: Sequence | None = None, prediction_scores: Sequence | None = None, predictions: None = None
    ) -> None:
        """As evaluate's. Raises ValueError for references that are not class numbers, for scores that are ragged, not
        finite or (if their values count) not probabilities, and if the two differ in number."""
        if predictions is not None:
            raise ValueError("predictions are not scored, only probabilities; give prediction_scores")
        labels, scores = _class_numbers(references), _finite_scores(prediction_scores)
        if len(labels) != len(scores):
            raise ValueError(f"{len(labels)} references for {len(scores)} images of prediction_scores; give one each")
        wrong = [row for row, label in enumerate(labels) if not 0 <= label < scores.shape[1]]
        if wrong:
            raise ValueError(
                f"reference {wrong[0]} is {labels[wrong[0]]}, but there are {scores.shape[1]} probabilities per image; "
                "give class numbers from 0, and one probability per class"
            )
        odd = (scores < 0).any(axis=1) | (abs(scores.sum(axis=1) - 1) > SUM_TOLERANCE)
        if self.of_probabilities and odd.any():
            what = f"prediction_scores of image {int(odd.argmax())} are negative or do not add up to 1"
            raise ValueError(f"{what}; take the softmax of logits")
        super().add_batch(references=labels, prediction_scores=scores)

    def add(self, *, references: object = None, prediction_scores: Sequence | None = None) -> None:
        """Adds one image: its class number and its probabilities; raises as add_batch does."""
        self.add_batch(references=[references], prediction_scores=[prediction_scores])

    def _compute(self, references: list[int], prediction_scores: list[list[float]], **options: int) -> dict[str, float]:
        """options: passed on to the function."""
        widths = {len(row) for row in prediction_scores}
        if len(widths) != 1:
            what = f"{sorted(widths)} probabilities per image" if widths else "no image was given"
            raise ValueError(f"{what}; give every image one probability per class")
        value = self.score(np.asarray(prediction_scores), np.asarray(references), **options)
        return {self.score_name: float(np.squeeze(value))}


def _class_numbers(references: Sequence | None) -> list[int]:
    """(n,) whole numbers."""
    values = references.tolist() if hasattr(references, "tolist") else references
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError("references are not a list; give one class number per image")
    labels = []
    for row, value in enumerate(values):
        try:
            labels.append(whole_number(value.tolist() if hasattr(value, "tolist") else value))
        except ValueError as error:
            raise ValueError(f"reference {row}: {error}") from None
    return labels


def _finite_scores(prediction_scores: Sequence | None) -> np.ndarray:
    """(n, C) float64."""
    if hasattr(prediction_scores, "detach"):  # a tensor, perhaps of half precision on a GPU
        prediction_scores = prediction_scores.detach().cpu().double()
    try:
        scores = np.asarray(prediction_scores, float)
    except (TypeError, ValueError):
        scores = np.empty(0)
    if scores.ndim != 2 or scores.shape[1] < 2:
        what = (
            "prediction_scores are not (images, classes) with two classes or more, are ragged, or are not all numbers"
        )
        raise ValueError(f"{what}; give every image one probability per class")
    if not np.isfinite(scores).all():
        row = int((~np.isfinite(scores)).any(axis=1).argmax())
        raise ValueError(f"prediction_scores of image {row} are not finite; leave out images without scores")
    return scores


class TopKAccuracy(_Score):
    """`compute(..., k=5)` returns {"top5": ..}; k is 1 unless given."""

    score = staticmethod(metrics.topk_accuracy)

    def _compute(self, references: list[int], prediction_scores: list[list[float]], k: int = 1) -> dict[str, float]:
        self.score_name = f"top{k}"
        return super()._compute(references, prediction_scores, k=k)


class BalancedAccuracy(_Score):
    """{"balanced_accuracy": ..}, 0..1."""

    score_name, score = "balanced_accuracy", staticmethod(metrics.balanced_accuracy)


class MacroF1(_Score):
    """{"macro_f1": ..}, 0..1, over all C classes."""

    score_name, score = "macro_f1", staticmethod(metrics.macro_f1)


class MeanReciprocalRank(_Score):
    """{"mrr": ..}, 0..1."""

    score_name, score = "mrr", staticmethod(metrics.mean_reciprocal_rank)


class NegativeLogLikelihood(_Score):
    """{"nll": ..}, nats."""

    score_name, score = "nll", staticmethod(metrics.negative_log_likelihood)
    of_probabilities = True


class ExpectedCalibrationError(_Score):
    """{"ece": ..}, 0..1; `compute(..., n_bins=15)`."""

    score_name, score = "ece", staticmethod(metrics.expected_calibration_error)
    of_probabilities = True


class SmoothCalibrationError(_Score):
    """{"smece": ..}, 0..1."""

    score_name, score = "smece", staticmethod(calibration.smooth_calibration_error)
    of_probabilities = True


class RiskCoverageArea(_Score):
    """{"aurc": ..}, 0..1."""

    score_name, score = "aurc", staticmethod(abstention.risk_coverage_area)
    of_probabilities = True
