"""support_filling.py: which synthetic images may stand beside a support, and how much they count in every head."""

import numpy as np
import pytest

from classification.episodes import Episodes
from classification.few_shot_names import HEADS
from classification.knowledge_prior import Shares, Teachers
from classification.prototypes import fit_statistics, head_scores, informed_means
from classification.support_filling import Filling, fill_support, n_shown, support_means
from classification.transductive import transductive_scores

# Rows 0..7 are photographs of conditions 0..3, two of each; 8..12 are synthetic images.
LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1, 0])
SOURCES = {
    8: frozenset({0}),
    9: frozenset({0, 6}),  # also saw a photograph of the training side
    10: frozenset({3}),  # the query of the first episode
    11: frozenset({2, 4}),  # also saw the query of another condition
    12: frozenset(),  # made from words alone
}
TRAIN = np.array([6, 7])
EPISODES = Episodes(np.array([[0, 1], [1, 0]]), np.array([[[0], [2]], [[3], [1]]]), np.array([[1, 3], [2, 0]]))


def test_an_image_stands_beside_the_support_that_it_was_made_from_and_beside_no_other():
    filling = fill_support(EPISODES, SOURCES, LABELS, TRAIN, as_prior=False)
    taken = [[sorted(filling.rows[e, w][filling.weights[e, w] > 0]) for w in range(2)] for e in range(2)]
    assert taken == [[[8, 9, 12], []], [[10], [12]]]
    assert filling.totals.tolist() == [[3, 0], [1, 1]]
    without_training = fill_support(EPISODES, SOURCES, LABELS, TRAIN[:0], as_prior=False)
    assert without_training.totals.tolist() == [[2, 0], [1, 1]]
    for e, query in enumerate(EPISODES.query):
        for row in filling.rows[e][filling.weights[e] > 0]:
            assert not SOURCES[row] & set(query.tolist())


def test_a_generator_may_have_seen_the_support_of_other_conditions_of_the_episode():
    sources = {8: frozenset({0, 2}), 10: frozenset({0, 2})}  # one image of condition 0, and one of condition 1
    filling = fill_support(EPISODES, sources, LABELS, TRAIN, as_prior=False)
    assert filling.totals.tolist() == [[1, 1], [0, 0]]  # rows 0 and 2 are support in the first episode alone
    assert filling.rows[0].tolist() == [[8], [10]]


def test_as_a_prior_all_images_of_a_condition_count_as_one_photograph():
    filling = fill_support(EPISODES, SOURCES, LABELS, TRAIN, as_prior=True)
    assert filling.totals == pytest.approx(np.array([[1, 0], [1, 1]]))
    assert n_shown(EPISODES, filling) == pytest.approx(np.array([[2, 1], [2, 2]]))
    assert n_shown(EPISODES, None).tolist() == [[1, 1], [1, 1]]
    points = np.arange(26.0).reshape(13, 2) ** 2
    means = support_means(points, EPISODES, filling)
    assert means[0, 0] == pytest.approx((points[0] + points[[8, 9, 12]].mean(axis=0)) / 2)
    assert means[0, 1] == pytest.approx(points[2])


def test_nothing_that_fits_leaves_the_support_as_it_is():
    filling = fill_support(EPISODES, {10: frozenset({99})}, LABELS, TRAIN, as_prior=False)
    assert filling.rows.shape == (2, 2, 0)
    points = np.random.default_rng(0).normal(size=(13, 3))
    assert support_means(points, EPISODES, filling) == pytest.approx(support_means(points, EPISODES))


@pytest.fixture
def study() -> tuple:
    """Features (n, d) of 6 conditions, labels, base rows, and one-shot and two-shot episodes of the same questions."""
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(6), 5)
    features = rng.normal(size=(6, 7))[labels] + rng.normal(size=(30, 7))
    classes, query = np.array([[0, 1]]), np.array([[4, 9]])
    one = Episodes(classes, np.array([[[0], [5]]]), query)
    two = Episodes(classes, np.array([[[0, 1], [5, 6]]]), query)
    return features, labels, np.flatnonzero(labels > 1), one, two


@pytest.mark.parametrize("head", HEADS)
def test_an_image_that_counts_as_a_photograph_is_one_more_support_image_to_every_head(study, head):
    features, labels, base, one, two = study
    statistics = fit_statistics(features, labels, base)
    setting = {"shrunken_centroid": 0.7, "discriminant": 0.3}.get(head)
    filled = Filling(np.array([[[1], [6]]]), np.ones((1, 2, 1)))
    halved = Filling(np.array([[[1, 1], [6, 6]]]), np.full((1, 2, 2), 0.5))  # a prior of two equal images
    expected = head_scores(head, features, two, statistics, setting)
    assert np.ptp(expected - head_scores(head, features, one, statistics, setting)) > 0
    for filling in (filled, halved):
        assert head_scores(head, features, one, statistics, setting, filling=filling) == pytest.approx(expected)


def test_the_transductive_head_sees_the_filling_as_it_would_see_photographs(study):
    features, _, _, one, two = study
    expected = transductive_scores(features, two)
    assert np.abs(expected - transductive_scores(features, one)).max() > 0.01
    for filling in (
        Filling(np.array([[[1], [6]]]), np.ones((1, 2, 1))),
        Filling(np.array([[[1, 1], [6, 6]]]), np.full((1, 2, 2), 0.5)),
    ):
        assert transductive_scores(features, one, filling) == pytest.approx(expected)


def test_terms_see_the_filling_as_they_would_see_photographs(study):
    features, labels, base, one, two = study
    profiles = np.random.default_rng(3).integers(0, 2, (6, 4)).astype(float)
    taught = Teachers(features[base], profiles[labels[base]], labels[base], np.zeros(len(base), int))
    rest = (np.zeros(7), profiles, Shares(0.5, 0.5))
    expected = informed_means(features, labels, taught, two, *rest)
    halved = Filling(np.array([[[1, 1], [6, 6]]]), np.full((1, 2, 2), 0.5))
    assert informed_means(features, labels, taught, one, *rest, halved) == pytest.approx(expected)
    assert np.ptp(expected - informed_means(features, labels, taught, one, *rest)) > 0.01
