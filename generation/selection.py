"""Chooses the scored synthetic images that are kept: the best of all, the best per condition, or all above a score.

    reasons = select(scores, labels, selectable, Selection(per_class=20))
    kept = [reason is None for reason in reasons]

Ties are broken by the order of the images, so that a larger number always includes the choice of a smaller one."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Selection:
    """How many images are kept. With none of the fields set, all are. `at_least` may be combined with one of the rest.

    All numbers apply to one fold, whose images are chosen apart from those of the other folds."""

    top_n: int | None = None  # images over all conditions, as in the paper
    per_class: int | None = None  # images per condition
    fill_to: int | None = None  # photographs and images together per condition; a condition with more gets none
    at_least: float | None = None  # the smallest score that is kept

    def __post_init__(self):
        given = [name for name in ("top_n", "per_class", "fill_to") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other")


def select(
    scores: np.ndarray,
    labels: np.ndarray,
    selectable: np.ndarray,
    selection: Selection,
    n_photographs: np.ndarray | None = None,
) -> list[str | None]:
    """Why each image is not kept, or None if it is kept.

    scores (m,): higher is better, nan if there is none; labels (m,): class numbers; selectable (m,) bool: False for
    images that were rejected before, whose reason here is empty. n_photographs (C,): photographs per condition on the
    training side, for `fill_to`. An image without a score is never kept if the selection looks at scores."""
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    reasons: list[str | None] = [None if possible else "" for possible in selectable]
    limited = selection != Selection()
    for row in np.flatnonzero(selectable).tolist():
        if limited and np.isnan(scores[row]):
            reasons[row] = "has no score"
        elif selection.at_least is not None and scores[row] < selection.at_least:
            reasons[row] = f"score {scores[row]:.3f} is below {selection.at_least:g}"
    candidates = np.array([row for row, reason in enumerate(reasons) if reason is None], dtype=np.int64)
    best_first = candidates[np.argsort(-scores[candidates], kind="stable")] if limited else candidates
    if selection.top_n is not None:
        _leave_out(best_first[selection.top_n :], f"is not among the best {selection.top_n}", reasons)
    elif selection.per_class is not None or selection.fill_to is not None:
        for label in np.unique(labels[candidates]).tolist():
            room = selection.per_class
            if room is None:
                room = max(0, selection.fill_to - int(n_photographs[label]))
            of_class = best_first[labels[best_first] == label]
            _leave_out(of_class[room:], f"is not among the best {room} of its condition", reasons)
    return reasons


def _leave_out(rows: Sequence[int], reason: str, reasons: list[str | None]) -> None:
    for row in np.asarray(rows).tolist():
        reasons[row] = reason
