"""The scores of metrics.py as `evaluate.Metric` classes, for a training loop or a Trainer; nothing comes from the Hub.

    metric = MacroF1()
    metric.add_batch(references=labels, prediction_scores=probabilities)
    metric.compute()                                                # {"macro_f1": 0.18}

references (n,) class numbers 0..C-1; prediction_scores (n, C), for each image a probability of each class. A file of
its own because importing evaluate takes seconds (it imports transformers' pipelines) and metrics.py should not.
"""

from collections.abc import Callable

import evaluate
import numpy as np
from datasets import Features, List, Value

import metrics


class _Score(evaluate.Metric):
    """One score of all images: a subclass names it as results.json does, and the function of metrics.py."""

    score_name: str
    score: Callable[..., np.ndarray]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.score.__doc__,
            citation="",
            inputs_description="references: class numbers (n,); prediction_scores: probabilities (n, C)",
            features=Features({"references": Value("int64"), "prediction_scores": List(Value("float64"))}),
        )

    def _compute(self, references: list[int], prediction_scores: list[list[float]], **options: int) -> dict[str, float]:
        """options go to the function. Raises ValueError where rows differ in length or a label is no class."""
        widths = {len(row) for row in prediction_scores}
        if len(widths) != 1 or not 0 <= min(references) <= max(references) < min(widths):
            raise ValueError(
                f"references {min(references)}..{max(references)} with {sorted(widths)} probabilities an image; "
                "give each image one probability a class, and class numbers from 0"
            )
        value = self.score(np.asarray(prediction_scores), np.asarray(references), **options)
        return {self.score_name: float(np.squeeze(value))}


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


class ExpectedCalibrationError(_Score):
    """{"ece": ..}, 0..1; `compute(..., n_bins=15)`."""

    score_name, score = "ece", staticmethod(metrics.expected_calibration_error)
