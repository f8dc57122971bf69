"""transductive.py: assignments are balanced, gain from the other queries, and differ in that from every other head."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from classification.episodes import Episodes, draw_episodes
from classification.few_shot_names import HEADS
from classification.prototypes import accuracy_of, fit_statistics, head_scores
from classification.transductive import balanced, transductive_scores


def study() -> tuple[np.ndarray, np.ndarray, Episodes]:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(30), 5)
    features = rng.normal(size=(30, 20))[labels] + 1.2 * rng.normal(size=(150, 20))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows, groups = np.flatnonzero(labels >= 10), np.arange(150)
    return features, labels, draw_episodes(rows, labels, groups, 5, 1, 80, np.random.default_rng(0))


def test_rows_and_columns_of_a_balanced_assignment_add_up_to_one():
    logits = 4 * np.random.default_rng(0).normal(size=(20, 6, 6))
    shares = np.exp(balanced(logits))
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5) and shares.sum(axis=2) == pytest.approx(1)
    assert np.exp(balanced(np.zeros((1, 4, 4)))) == pytest.approx(np.full((1, 4, 4), 0.25))  # all equal: a guess
    for one, logit in zip(np.exp(balanced(20 * logits)), logits, strict=True):
        assert one.argmax(axis=1).tolist() == linear_sum_assignment(-logit)[1].tolist()


def test_other_queries_help_and_only_here():
    features, labels, episodes = study()
    statistics = fit_statistics(features, labels, np.flatnonzero(labels < 10))
    scores = transductive_scores(features, episodes)
    assert np.exp(scores).sum(axis=2) == pytest.approx(1)
    alone = {
        head: head_scores(head, features, episodes, statistics, {"cosine": None, "centred_mean": None}.get(head, 0.5))
        for head in HEADS
    }
    assert accuracy_of(scores) > max(map(accuracy_of, alone.values())) + 0.03
    asked = episodes.query.copy()
    asked[:, 0] = episodes.support[:, 0, 0]  # another first query
    other = Episodes(episodes.classes, episodes.support, asked)
    assert np.abs(transductive_scores(features, other)[:, 1:] - scores[:, 1:]).max() > 0.1
    for head, of_head in alone.items():
        setting = {"cosine": None, "centred_mean": None}.get(head, 0.5)
        again = head_scores(head, features, other, statistics, setting)
        assert again[:, 1:] == pytest.approx(of_head[:, 1:]), head


def test_centres_move_towards_the_queries():
    """Two classes whose supports lie beside their clusters: the first assignment alone gets one query wrong."""
    angles = np.deg2rad([60.0, 150.0, 0.0, 109.0])  # supports of classes 0 and 1, then their queries
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    episodes = Episodes(np.array([[0, 1]]), np.array([[[0], [1]]]), np.array([[2, 3]]))
    assert accuracy_of(transductive_scores(features, episodes)) == 1
    apart = transductive_scores(np.concatenate([features, features]), episodes)
    assert apart == pytest.approx(transductive_scores(features, episodes))


@pytest.mark.parametrize("is_sure", [True, False])
def test_one_episode_equals_the_rule_written_anew(is_sure):
    features, labels, _ = study()
    if not is_sure:  # faces that tell nothing: queries are assigned to several classes, and not to their own
        features = np.random.default_rng(2).normal(size=(150, 3))
    episodes = draw_episodes(np.arange(150), labels, np.arange(150), 4, 3, 1, np.random.default_rng(1))
    shown, asked = features[episodes.support[0]].mean(axis=1), features[episodes.query[0]]
    middle = np.concatenate([shown, asked]).mean(axis=0)
    shown, asked = ((part - middle) / np.linalg.norm(part - middle, axis=1, keepdims=True) for part in (shown, asked))
    centres = shown.copy()
    for step in range(11):  # the last assignment is the answer
        shares = np.exp(-10 * np.array([[((query - centre) ** 2).sum() for centre in centres] for query in asked]))
        for _ in range(500):
            shares = shares / shares.sum(axis=0, keepdims=True)
            shares = shares / shares.sum(axis=1, keepdims=True)
        if step < 10:
            for c in range(4):
                mean = (3 * shown[c] + shares[:, c] @ asked) / (3 + shares[:, c].sum())
                centres[c] += 0.2 * (mean - centres[c])
    assert np.exp(transductive_scores(features, episodes)[0]) == pytest.approx(shares, abs=1e-4)
    assert (np.sort(shares, axis=1)[:, -1].min() > 0.98) == is_sure


def test_features_that_are_not_finite_are_refused():
    features, _, episodes = study()
    features[episodes.query[0, 0]] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        transductive_scores(features, episodes)
