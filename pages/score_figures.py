"""Figures of a run's probabilities: do they mean what they say, and what would be gained by answering only if sure?"""

import io
from collections.abc import Sequence

import matplotlib.figure
import numpy as np

from scoring.abstention import risk_coverage_area, risk_coverage_curve
from scoring.calibration import reliability_diagram, smooth_calibration_error
from scoring.metrics import expected_calibration_error


def confidence_figure(
    probabilities: Sequence[np.ndarray], labels: np.ndarray, subjects: Sequence[str], simulated: bool
) -> bytes:
    """A PNG with the reliability diagram and the risk-coverage curve of the first replicate.

    probabilities: (n, C) of each replicate; labels (n,); subjects (n,). Bars: 95 % interval over subjects."""
    first = probabilities[0]
    figure = matplotlib.figure.Figure(figsize=(9, 4), layout="constrained")
    reliability, risk = figure.subplots(1, 2)
    bins = reliability_diagram(first, labels, subjects)
    known = bins.dropna(subset=["low", "high"])
    reliability.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    bars = [known["accuracy"] - known["low"], known["high"] - known["accuracy"]]
    reliability.errorbar(known["confidence"], known["accuracy"], np.clip(bars, 0, None), fmt="none", color="tab:blue")
    reliability.scatter(bins["confidence"], bins["accuracy"], 10 + 200 * bins["n"] / len(labels), color="tab:blue")
    ece, smooth = expected_calibration_error(first, labels)[0], smooth_calibration_error(first, labels)[0]
    reliability.set(xlabel="highest probability", ylabel="share of hits", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    reliability.set_title(f"calibration error {ece:.3f} (15 bins), {smooth:.3f} (smooth)", fontsize="medium")
    curve = risk_coverage_curve(first, labels)
    risk.step(100 * curve["coverage"], 100 * curve["risk"], where="post", color="tab:orange")
    risk.set(xlabel="images answered, surest first, %", ylabel="wrong answers among them, %", ylim=(0, 100))
    risk.set_title(f"area under the curve {risk_coverage_area(first, labels)[0]:.3f}", fontsize="medium")
    if simulated:
        figure.suptitle("SIMULATED data")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
