"""Synthetic images beside the support photographs of an episode, if their generator saw nothing else of the episode."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from classification.episodes import Episodes


@dataclasses.dataclass(frozen=True)
class Filling:
    """The synthetic images that stand beside the support of e episodes of w classes, at most m per class."""

    rows: np.ndarray  # (e, w, m) rows; 0 where there are fewer images
    weights: np.ndarray  # (e, w, m) photographs that each image counts as; 0 where there are fewer

    @property
    def totals(self) -> np.ndarray:
        """(e, w) photographs that all images of a class count as."""
        return self.weights.sum(axis=2)


def fill_support(
    episodes: Episodes, sources: Mapping[int, frozenset[int]], labels: np.ndarray, train: np.ndarray, as_prior: bool
) -> Filling:
    """What fills the support of each class: its synthetic images whose generators saw nothing but support photographs
    of the episode and photographs of the training side.

    sources: row of each synthetic image -> the rows of all photographs that its generator saw; labels: of all rows;
    train: rows of the training side. as_prior: all images of a class together count as one photograph; otherwise each
    does. A class without such images has none, and its support stays as it is."""
    known = frozenset(train.tolist())
    of_class = defaultdict(list)
    for row in sorted(sources):
        of_class[int(labels[row])].append((row, sources[row] - known))
    n_episodes, n_way = episodes.classes.shape
    found = [[[] for _ in range(n_way)] for _ in range(n_episodes)]
    for e in range(n_episodes):
        shown = frozenset(episodes.support[e].ravel().tolist())
        for w, number in enumerate(episodes.classes[e].tolist()):
            found[e][w] = [row for row, unknown in of_class[number] if unknown <= shown]
    most = max((len(rows) for of_episode in found for rows in of_episode), default=0)
    filling = Filling(np.zeros((n_episodes, n_way, most), np.int64), np.zeros((n_episodes, n_way, most)))
    for e in range(n_episodes):
        for w, rows in enumerate(found[e]):
            filling.rows[e, w, : len(rows)] = rows
            filling.weights[e, w, : len(rows)] = 1 / len(rows) if as_prior and rows else 1.0
    return filling


def n_shown(episodes: Episodes, filling: Filling | None) -> np.ndarray:
    """(e, w) photographs that the support of each class counts as."""
    k = np.full(episodes.classes.shape, float(episodes.support.shape[2]))
    return k if filling is None else k + filling.totals


def support_means(points: np.ndarray, episodes: Episodes, filling: Filling | None = None) -> np.ndarray:
    """Mean (e, w, d) of the support of each class, filled or not; points (n, d): of all rows."""
    if filling is None:
        return points[episodes.support].mean(axis=2)
    sums = points[episodes.support].sum(axis=2)
    for i in range(filling.rows.shape[2]):
        sums = sums + filling.weights[:, :, i, None] * points[filling.rows[:, :, i]]
    return sums / n_shown(episodes, filling)[..., None]
