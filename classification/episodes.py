"""Few-shot episodes: which conditions train and which are tested, what is drawn of them, and how sure the accuracy is.

An episode shows a classifier k support photographs of each of n conditions, and asks it to which of these a further
photograph of each belongs. `paper` repeats the published class split, folds and draws (Feng et al., RDFace, CVPR 2026,
arXiv 2604.03454). `strict` tests every condition once, never has one subject among support and query, nor on the
training and the test side, and chooses nothing on a tested condition.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm as normal
from scipy.stats import t as student

from curation.protocols import N_FOLDS, PAPER_SEED, Fold
from harness.counts import counted
from harness.errors import ProtocolError
from scoring.intervals import bootstrap_interval, numbered, wilson_interval
from scoring.metrics import equal_but_for_rounding

TEST_SHARE = 0.2  # of the conditions, in the paper
STRICT_SEED = 20262  # of the draw that spreads conditions over the folds
TRIES = 100  # to draw an episode if subjects span conditions; otherwise the first one succeeds


@dataclass(frozen=True)
class ConditionFold:
    """Class numbers of one fold: (t,), (v,) and (s,) int arrays that share no condition; val is empty under strict."""

    number: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Episodes:
    """e episodes of w conditions with k support images and one query each."""

    classes: np.ndarray  # (e, w) class numbers
    support: np.ndarray  # (e, w, k) rows
    query: np.ndarray  # (e, w) rows

    def __len__(self) -> int:
        return len(self.classes)


# ------------------------------------------------------------------------------------------------- conditions in folds


def paper_condition_folds(labels: Sequence[int], names: Sequence[str]) -> list[ConditionFold]:
    """The published class split and its five folds.

    labels (n,): class numbers; names (C,): the classes' abbreviations. Of the conditions with two images or more, in
    alphabetical order, a permutation by torch (seed 42) gives the first fifth, rounded down, to the test;
    scikit-learn's KFold (5, shuffled, seed 42) divides the others in the order of that permutation. Raises
    ProtocolError if there are too few conditions for that. Source: Feng et al., RDFace, CVPR 2026."""
    import torch  # both take seconds to import, and strict needs neither
    from sklearn.model_selection import KFold

    count = Counter(labels)
    several = [c for c in sorted(range(len(names)), key=lambda c: names[c]) if count[c] > 1]
    n_test = int(len(several) * TEST_SHARE)
    if n_test < 1 or len(several) - n_test < N_FOLDS:
        needed = N_FOLDS + 1  # a fifth of them, which is one, for the test, and one for each fold
        several_have = counted(len(several), "condition has", "conditions have")
        reason = f"{several_have} two images or more, and the paper's split needs at least {needed}"
        raise ProtocolError(f"{reason}; use --protocol strict")
    order = torch.randperm(len(several), generator=torch.Generator().manual_seed(PAPER_SEED)).numpy()
    conditions = np.array(several)[order]
    test, others = conditions[:n_test], conditions[n_test:]
    splits = KFold(N_FOLDS, shuffle=True, random_state=PAPER_SEED).split(others)
    return [ConditionFold(k, others[train], others[val], test) for k, (train, val) in enumerate(splits)]


def strict_condition_folds(
    labels: Sequence[int], groups: Sequence[Hashable], n_way: int, k_shot: int
) -> list[ConditionFold]:
    """Folds in which every condition that can be asked for is tested once, at most five, each of at least n_way.

    labels, groups (n,): class number and group of each image. A condition can be asked for if k_shot of its images show
    other subjects than one of its images does. All other conditions train. With fewer than 2 n_way testable conditions
    there is a single fold, which leaves the training side to conditions that cannot be asked for. Deterministic. Raises
    ProtocolError if there are fewer than n_way."""
    testable = np.array([c for c in sorted(set(labels)) if _queries(labels, groups, c, k_shot)], dtype=np.int64)
    if len(testable) < n_way:
        reason = f"{n_way}-way {k_shot}-shot needs {n_way} conditions with {counted(k_shot, 'photograph')} of other"
        reason += f" subjects than the one asked about, and {len(testable)} have them"
        raise ProtocolError(f"{reason}; give a smaller --n_way or --k_shot")
    n_folds = min(N_FOLDS, len(testable) // n_way)
    order = testable[np.random.default_rng(STRICT_SEED).permutation(len(testable))]
    classes, nothing = np.unique(labels), np.array([], dtype=np.int64)
    tests = [np.sort(order[k::n_folds]) for k in range(n_folds)]
    return [ConditionFold(k, np.setdiff1d(classes, test), nothing, test) for k, test in enumerate(tests)]


def _queries(labels: Sequence[int], groups: Sequence[Hashable], condition: int, k_shot: int) -> list[int]:
    """Rows of a condition that k_shot of its other images can be support for, none of them of the same group."""
    rows = [row for row, label in enumerate(labels) if label == condition]
    size = Counter(groups[row] for row in rows)
    return [row for row in rows if len(rows) - size[groups[row]] >= k_shot]


def rows_of_fold(fold: ConditionFold, labels: np.ndarray, groups: np.ndarray, protocol: str) -> Fold:
    """The images of the fold's conditions, as the guard knows a fold.

    labels, groups (n,). Under `strict` no image of a training condition stays whose group has one of a test condition;
    under `paper` it does, as published."""
    train, val, test = (np.isin(labels, conditions) for conditions in (fold.train, fold.val, fold.test))
    if protocol == "strict":
        train &= ~np.isin(groups, groups[test])
    return Fold(fold.number, *(np.flatnonzero(side) for side in (train, val, test)), protocol)


# ---------------------------------------------------------------------------------------------------------- the draws


def draw_episodes(
    rows: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    n_way: int,
    k_shot: int,
    n_episodes: int,
    generator: np.random.Generator,
    subjects_apart: bool = True,
) -> Episodes:
    """Episodes of images among `rows` (r,), drawn by the generator; the same generator gives the same list.

    labels, groups (n,): of the whole dataset. Conditions are drawn without replacement in an episode, then a query and
    k_shot support images of each. subjects_apart: no group is among queries and support of one episode. Conditions with
    too few images are never drawn. Raises ProtocolError if fewer than n_way can be drawn together."""
    members = defaultdict(list)
    for row in rows.tolist():
        members[labels[row]].append(row)
    _, number = np.unique(groups, return_inverse=True)
    group = number if subjects_apart else np.arange(len(labels))  # each image a group of its own
    queries = {}
    for condition, of_condition in members.items():
        size = Counter(group[row] for row in of_condition)
        asked = [row for row in of_condition if len(of_condition) - size[group[row]] >= k_shot]
        if asked:
            queries[condition] = asked
    conditions = np.array(sorted(queries), dtype=np.int64)
    drawn = []
    while len(drawn) < n_episodes:
        for _ in range(TRIES):
            episode = _draw_one(conditions, members, queries, group, n_way, k_shot, generator)
            if episode is not None:
                break
        else:
            those = counted(len(conditions), "condition has", "conditions have")
            reason = f"only {those} enough images of different subjects here"
            what = f"{n_way}-way {k_shot}-shot episodes"
            raise ProtocolError(f"{what} cannot be drawn: {reason}; give a smaller --n_way or --k_shot")
        drawn.append(episode)
    shape = (len(drawn), n_way)
    classes, support, query = zip(*drawn, strict=True) if drawn else ((), (), ())
    return Episodes(
        np.array(classes, dtype=np.int64).reshape(shape),
        np.array(support, dtype=np.int64).reshape(*shape, k_shot),
        np.array(query, dtype=np.int64).reshape(shape),
    )


def _draw_one(
    conditions: np.ndarray,
    members: dict[int, list[int]],
    queries: dict[int, list[int]],
    group: np.ndarray,
    n_way: int,
    k_shot: int,
    generator: np.random.Generator,
) -> tuple[list[int], list[list[int]], list[int]] | None:
    """Classes, support rows and query rows of one episode; None if subjects that span conditions got in the way."""
    classes, support, query = [], [], []
    asked, shown = set(), set()  # groups of the queries and of the support
    for condition in generator.permutation(conditions).tolist():
        if len(classes) == n_way:
            break
        row = queries[condition][generator.integers(len(queries[condition]))]
        others = [other for other in members[condition] if other != row and group[other] not in asked | {group[row]}]
        if len(others) < k_shot or group[row] in shown:
            continue
        chosen = [others[i] for i in generator.permutation(len(others))[:k_shot]]
        asked.add(group[row])
        shown.update(group[other] for other in chosen)
        classes.append(condition)
        support.append(chosen)
        query.append(row)
    return (classes, support, query) if len(classes) == n_way else None


def episode_table(episodes: Episodes, image_ids: Sequence[str], subjects: Sequence[str | None]) -> pd.DataFrame:
    """One row per question of e episodes, (e * w): `episode`, `classes` (w,), `support` (w * k image_ids, class after
    class), `query` (image_id), `label`, `subject`."""
    image_ids, (n_episodes, n_way) = np.asarray(image_ids, dtype=object), episodes.classes.shape
    support = image_ids[episodes.support].reshape(n_episodes, -1)
    return pd.DataFrame(
        {
            "episode": np.repeat(np.arange(n_episodes), n_way),
            "classes": [classes.tolist() for classes in episodes.classes for _ in range(n_way)],
            "support": [shown.tolist() for shown in support for _ in range(n_way)],
            "query": image_ids[episodes.query].reshape(-1),
            "label": episodes.classes.reshape(-1),
            "subject": np.asarray(subjects, dtype=object)[episodes.query].reshape(-1),
        }
    )


# ------------------------------------------------------------------------------------------------------- the accuracy


def accuracy_interval(
    right: np.ndarray, conditions: np.ndarray, subjects: Sequence[str | None], level: float = 0.95
) -> tuple[float | None, float | None]:
    """Interval of an accuracy for new conditions and new subjects, by drawing whole conditions with their subjects.

    right (q,): of each question, 0..1; conditions (q,): the condition asked for; subjects (q,): of the query, null if
    not known. Episodes are no units: hundreds of them share the same few conditions and people. Conditions that share a
    subject are drawn together. The bootstrap interval is widened by what it misses of few units: sqrt(u / (u - 1)), and
    the quantile of Student's t over that of the normal distribution. If all questions are answered alike, no resample
    differs, and the interval is Wilson's, which counts units. (None, None) for a single unit.
    benchmarks/episode_coverage.py measures how often it holds."""
    unit = _units(conditions, subjects)
    n_units = int(unit.max()) + 1 if len(unit) else 0
    if n_units < 2:
        return None, None
    right = np.asarray(right, float)
    if np.ptp(right) == 0:
        return wilson_interval(right[0], n_units, level)
    low, high = bootstrap_interval(lambda weights: weights @ right / weights.sum(axis=1), unit.tolist(), level=level)
    quantile = (1 + level) / 2
    wider = np.sqrt(n_units / (n_units - 1)) * student.ppf(quantile, n_units - 1) / normal.ppf(quantile)
    mean = right.mean()
    return max(0.0, float(mean + wider * (low - mean))), min(1.0, float(mean + wider * (high - mean)))


def _units(conditions: np.ndarray, subjects: Sequence[str | None]) -> np.ndarray:
    """The unit (q,) that each question belongs to: its condition, and all that share a subject with it."""
    _, condition = np.unique(conditions, return_inverse=True)
    if not len(condition):
        return condition
    subject = numbered(subjects)
    n, ones = int(condition.max()) + 1, np.ones(len(condition))
    shared = coo_array((ones, (condition, subject)), shape=(n, int(subject.max()) + 1)).tocsr()
    _, unit = connected_components(shared @ shared.T, directed=False)
    return unit[condition]


def hits(scores: np.ndarray) -> np.ndarray:
    """How far each question is right, (e, w) in 0..1: 1 if its own class has the highest score, 1 / t if it shares it
    with t - 1 others, so that scores which are equal but for rounding are a guess.

    scores (e, w, w): of question i of an episode for its class j; questions are in the order of the classes. Raises
    ValueError for a score that is not a number."""
    if np.isnan(scores).any():
        raise ValueError("a score is not a number; features must be finite")
    best = equal_but_for_rounding(scores, scores.max(axis=2, keepdims=True))
    return np.diagonal(best, axis1=1, axis2=2) / best.sum(axis=2)
