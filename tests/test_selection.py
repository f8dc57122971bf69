"""Which scored synthetic images are kept: the best of all, the best per condition, those above a score."""

import numpy as np
import pytest

from generation.selection import Selection, select

SCORES = np.array([0.9, 0.8, 0.8, 0.1, np.nan, 0.95])
LABELS = np.array([0, 0, 1, 1, 1, 2])
SELECTABLE = np.array([True, True, True, True, True, False])  # the best of all was rejected before


def kept(selection: Selection, **more: np.ndarray) -> list[int]:
    return [row for row, reason in enumerate(select(SCORES, LABELS, SELECTABLE, selection, **more)) if reason is None]


def test_without_limits_all_that_were_not_rejected_before_are_kept():
    assert kept(Selection()) == [0, 1, 2, 3, 4]
    assert select(SCORES, LABELS, SELECTABLE, Selection())[5] == ""


@pytest.mark.parametrize(("n", "expected"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_the_best_over_all_conditions_are_kept_and_ties_follow_the_order(n, expected):
    assert kept(Selection(top_n=n)) == expected


@pytest.mark.parametrize(("n", "expected"), [(1, [0, 2]), (2, [0, 1, 2, 3]), (0, [])])
def test_the_best_of_each_condition_are_kept(n, expected):
    assert kept(Selection(per_class=n)) == expected


def test_conditions_are_filled_up_to_a_number_of_photographs_and_images_together():
    assert kept(Selection(fill_to=4), n_photographs=np.array([3, 2, 0])) == [0, 2, 3]
    assert kept(Selection(fill_to=2), n_photographs=np.array([3, 1, 0])) == [2]


def test_a_score_and_its_threshold_are_told():
    reasons = select(SCORES, LABELS, SELECTABLE, Selection(at_least=0.85))
    assert reasons[0] is None and reasons[1] == "score 0.800 is below 0.85" and reasons[4] == "has no score"
    assert kept(Selection(at_least=0.5, per_class=1)) == [0, 2]
    assert kept(Selection(at_least=0.8)) == [0, 1, 2]  # the threshold itself is kept


def test_a_larger_number_includes_the_choice_of_a_smaller_one():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, 200) / 5, rng.integers(0, 7, 200)
    for name in ("top_n", "per_class"):
        before: set[int] = set()
        for n in range(0, 60, 5):
            reasons = select(scores, labels, np.ones(200, bool), Selection(**{name: n}))
            now = {row for row, reason in enumerate(reasons) if reason is None}
            assert before <= now
            before = now


def test_two_numbers_at_once_are_refused():
    with pytest.raises(ValueError, match="top_n and fill_to exclude each other"):
        Selection(top_n=1, fill_to=2)
