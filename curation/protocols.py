"""The folds of both evaluation protocols, and the groups of images that no fold of `strict` divides.

`paper` repeats the published splits (Feng et al., RDFace, CVPR 2026, arXiv 2604.03454) with the library calls and seeds
of its authors, so that numbers can be compared; photographs of one patient may be on both sides. `strict` never divides
a group (one patient, or near-duplicate photographs), and tests each testable image once, out of fold. Both are drawn
when the dataset is built, and stored in its columns; afterwards they are only read back.
"""

import argparse
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from harness.counts import counted
from harness.errors import ProtocolError
from harness.protocol_names import PROTOCOLS
from harness.text_normalization import subject_key

N_FOLDS = 5
PAPER_SEED = 42  # the authors' random_state
PAPER_TEST_SHARE = 0.25
STRICT_SEED = 20260
NO_STRICT = "no condition has photographs of two people"  # why strict_fold holds nulls only
STRICT_DRAWS = 64  # tried if groups that span many conditions get in each other's way; otherwise one draw is enough


@dataclass
class Fold:
    """Row numbers of one fold: train, val and test are (n,) int arrays, sorted; val is empty under `strict`."""

    number: int | None  # None: under `paper`, whatever is made once for all folds
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    protocol: str = "strict"
    unseen: bool = False  # whether the test side shows whole conditions of which no photograph trains

    @property
    def generator_number(self) -> int | None:
        """The fold's number for whatever a generator makes: None under `paper`, where one generator serves all folds.

        Synthetic images bear it in column `fold`."""
        return None if self.protocol == "paper" else self.number

    @property
    def seed_number(self) -> int:
        """generator_number as a part of a seed: what is made once for all folds counts as a fold after the last."""
        return N_FOLDS if self.generator_number is None else self.generator_number


def groups(subject_ids: Sequence[str | None], duplicate_pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Join rows of one subject and rows that are near duplicates, transitively.

    subject_ids (n,): as curators spell them, compared by subject_key; None, or a text in which nothing is to be seen,
    is a subject of its own. duplicate_pairs: rows. Returns (n,): the group's first row."""
    first_row: dict[str, int] = {}
    keys = [None if subject is None else subject_key(subject) for subject in subject_ids]
    links = [(first_row.setdefault(key, row), row) for row, key in enumerate(keys) if key]
    links += duplicate_pairs
    n = len(subject_ids)
    rows, columns = np.array(links, dtype=np.int64).reshape(-1, 2).T
    _, component = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n)), directed=False)
    first: dict[int, int] = {}
    return [first.setdefault(c, row) for row, c in enumerate(component.tolist())]


def paper_split(labels: Sequence[Hashable]) -> tuple[list[str], list[int | None]]:
    """The published split: `paper_split` ("train" or "test") and `paper_fold` (where a row is validation) of each row.

    labels (n,): the condition of each row in CSV order. Conditions are numbered by first appearance, because the draws
    depend on their order. paper_fold is None for test rows and for conditions that always train.
    Raises ProtocolError if the images are too few for the rule. Source: Feng et al., RDFace, CVPR 2026."""
    label = _numbered(labels)
    training_list, test = _paper_training_list(label)
    fold = _paper_validation_folds(training_list, label).tolist()
    held_out = set(test.tolist())
    side = ["test" if row in held_out else "train" for row in range(len(label))]
    return side, [None if k < 0 else k for k in fold]


def paper_folds_with_synthetic(
    columns: Mapping[str, Sequence], labels: Sequence[Hashable], synthetic_rows: np.ndarray
) -> list[Fold]:
    """The five published folds, drawn again with synthetic images in front of the training list.

    columns: as for folds; labels (n + m,): the condition of each of its n rows, and of m synthetic images that count as
    the rows behind them; synthetic_rows (s,): those to train on, numbers in n..n + m - 1, in the order of the list.
    Validation sides then hold synthetic images, and checkpoints are chosen on them: that is the published procedure.
    Raises ProtocolError as paper_split does, and if the stored test side is not the one that the rule gives, since the
    order of the training list is not known then. Source: Feng et al., RDFace, CVPR 2026."""
    stored = list(columns["paper_split"])
    label = _numbered(labels)
    training_list, test = _paper_training_list(label[: len(stored)])
    test = np.sort(test)
    if [row for row, side in enumerate(stored) if side == "test"] != test.tolist():
        raise ProtocolError(
            "column paper_split is not what the published rule gives for these rows (was one added or taken away?), so "
            "the folds cannot be drawn again with synthetic images; use --protocol strict"
        )
    training_list = np.concatenate([np.asarray(synthetic_rows, dtype=np.int64), training_list])
    fold = _paper_validation_folds(training_list, label)
    trains = np.zeros(len(label), dtype=bool)
    trains[training_list] = True
    drawn = range(N_FOLDS)
    return [Fold(k, np.flatnonzero(trains & (fold != k)), np.flatnonzero(fold == k), test, "paper") for k in drawn]


def _numbered(labels: Sequence[Hashable]) -> np.ndarray:
    """Conditions as numbers in order of first appearance, (n,) int64."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in labels], dtype=np.int64)


def _paper_training_list(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training list, in its order (conditions with one image first), and those of the test side."""
    from sklearn.model_selection import train_test_split  # takes over a second, and only the paper's splits need it

    singletons, others = _singletons_first(np.arange(len(label)), label)
    n_test, conditions = math.ceil(PAPER_TEST_SHARE * len(others)), len(np.unique(label[others]))
    if not conditions:
        raise ProtocolError("the paper's test side cannot be drawn: no condition has two images")
    if n_test < conditions:
        raise ProtocolError(
            f"the paper's test side cannot be drawn: it holds {PAPER_TEST_SHARE:.0%} of the images of conditions with "
            f"several, here {n_test} of {len(others)}, too few for one image of each of these {conditions} conditions"
        )
    train, test = train_test_split(others, test_size=PAPER_TEST_SHARE, random_state=PAPER_SEED, stratify=label[others])
    return np.concatenate([singletons, train]), test


def _paper_validation_folds(training_list: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The fold in which each row is validation, (n,) int64; -1 for a row outside the list, or whose condition has one
    image in it. The draw depends on the order of the list."""
    from sklearn.model_selection import StratifiedKFold

    _, in_folds = _singletons_first(training_list, label)
    largest = max(Counter(label[in_folds].tolist()).values(), default=0)
    if largest < N_FOLDS:  # StratifiedKFold refuses only then; a small class beside a large one is allowed
        raise ProtocolError(
            f"{N_FOLDS} validation folds cannot be drawn: after the test split the largest condition "
            f"has {largest} training images, and at least {N_FOLDS} are needed"
        )
    fold = np.full(len(label), -1)
    splitter = StratifiedKFold(N_FOLDS, shuffle=True, random_state=PAPER_SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # so it is in the paper too
        for k, (_, val) in enumerate(splitter.split(in_folds, label[in_folds])):
            fold[in_folds[val]] = k
    return fold


def _singletons_first(rows: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of conditions with one row in the list, and the others grouped by condition; both by first appearance."""
    by_label: dict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        by_label[label[row]].append(row)
    single = [members[0] for members in by_label.values() if len(members) == 1]
    several = [row for members in by_label.values() if len(members) > 1 for row in members]
    return np.array(single, dtype=np.int64), np.array(several, dtype=np.int64)


def strict_folds(labels: Sequence[Hashable], groups: Sequence[Hashable], n_folds: int = N_FOLDS) -> list[int | None]:
    """The fold in which each row is tested, or None for a condition with a single group, which always trains.

    labels, groups (n,): condition and group of each row. A group is never divided; a condition's groups are spread over
    as many folds as there are, so a tested image always has training images of its condition; folds are balanced.
    Deterministic: the same rows give the same folds. A group may span conditions. If one spans so many (five or more)
    that no draw leaves a condition a second fold, that condition is not tested: None."""
    conditions_of: dict[Hashable, set[Hashable]] = defaultdict(set)
    groups_of: dict[Hashable, set[Hashable]] = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        conditions_of[group].add(label)
        groups_of[label].add(group)
    testable = {label for label, members in groups_of.items() if len(members) > 1}
    size = Counter(group for label, group in zip(labels, groups, strict=True) if label in testable)
    spanned = {group: sorted(conditions_of[group] & testable, key=str) for group in size}
    best = None
    for draw in range(STRICT_DRAWS):
        order = np.random.default_rng([STRICT_SEED, draw]).permutation(len(size))
        drawn = list(size)
        queue = sorted((drawn[i] for i in order), key=lambda group: (-len(spanned[group]), -size[group]))
        fold_of = _spread(queue, spanned, groups_of, size, n_folds)
        stuck = {c for c in testable if len({fold_of[group] for group in groups_of[c]}) < 2}
        if best is None or len(stuck) < len(best[1]):
            best = fold_of, stuck
        if not stuck:
            break
    fold_of, stuck = best
    return [fold_of[g] if c in testable and c not in stuck else None for c, g in zip(labels, groups, strict=True)]


def _spread(queue: list, spanned: Mapping, groups_of: Mapping, size: Mapping, n_folds: int) -> dict[Hashable, int]:
    """One draw: each group in turn goes to the fold that leaves no condition in a single fold, or else to the one in
    which its conditions have the fewest groups, or else to the one with the fewest images."""
    taken: dict[Hashable, list[int]] = defaultdict(lambda: [0] * n_folds)  # condition -> groups in each fold
    images = [0] * n_folds
    fold_of: dict[Hashable, int] = {}
    for group in queue:

        def cost(k: int, group: Hashable = group) -> tuple[int, int, int]:
            alone = sum(taken[c][k] == len(groups_of[c]) - 1 for c in spanned[group])
            return alone, sum(taken[c][k] for c in spanned[group]), images[k]

        k = min(range(n_folds), key=cost)
        fold_of[group] = k
        images[k] += size[group]
        for condition in spanned[group]:
            taken[condition][k] += 1
    return fold_of


def folds(columns: Mapping[str, Sequence], protocol: str, n: int | None = None) -> list[Fold]:
    """The folds stored in a dataset's columns, read without decoding an image.

    columns: a `datasets.Dataset` or a mapping of columns (`strict_fold` and `group_id`, or `paper_split` and
    `paper_fold`); n: only this fold. Raises ProtocolError if the dataset holds no folds of the protocol."""
    if protocol not in PROTOCOLS:
        raise ProtocolError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if hasattr(columns, "with_format"):
        columns = columns.with_format(None)  # a transform set for training would be asked for the columns too
    fold_column = "strict_fold" if protocol == "strict" else "paper_fold"
    fold = np.array([-1 if value is None else value for value in columns[fold_column]], dtype=np.int64)
    _check_stored(columns, fold, fold_column)
    if (fold < 0).all():
        too_small = f"column {fold_column} holds nulls only: the dataset is too small for protocol {protocol}"
        if protocol == "paper" and _holds_strict_folds(columns):
            raise ProtocolError(f"{too_small}; use --protocol strict")
        of_both = f", and {NO_STRICT}, as strict requires" if protocol == "paper" else f": {NO_STRICT}"
        raise ProtocolError(f"{too_small}{of_both}; add photographs of further people")
    numbers = sorted(set(fold[fold >= 0].tolist()))
    if n is not None and n not in numbers:
        raise ProtocolError(f"there is no fold {n} under protocol {protocol}; the dataset has {numbers}")
    read = _strict_fold if protocol == "strict" else _paper_fold
    return [read(columns, fold, k) for k in (numbers if n is None else [n])]


def _holds_strict_folds(columns: Mapping[str, Sequence]) -> bool:
    return any(value is not None for value in columns["strict_fold"])


def fold_number(text: str) -> int | None:
    """--fold as scripts take it: the number, or None for "all". Raises argparse.ArgumentTypeError."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither all nor the number of a fold")
    return None if text == "all" else int(text)


def training_sides(columns: Mapping[str, Sequence], protocol: str, n: int | None = None) -> list[Fold]:
    """The folds whose training sides a generator may see: those of `strict`; under `paper` a single fold without a
    number, whose training side is everything outside the published test side.

    columns, n: as for folds; raises ProtocolError as folds does, and for a numbered fold under `paper`."""
    if protocol == "strict":
        return folds(columns, protocol, n)
    if n is not None:
        raise ProtocolError("under protocol paper there is one generator for all folds; leave out the fold's number")
    paper = folds(columns, protocol)
    train = np.unique(np.concatenate([np.concatenate([fold.train, fold.val]) for fold in paper]))
    return [Fold(None, train, np.array([], dtype=np.int64), paper[0].test, protocol)]


def unseen_folds(columns: Mapping[str, Sequence], class_names: Sequence[str], left_out: Sequence[str]) -> list[Fold]:
    """Folds of protocol `strict` that hold out all photographs of whole conditions, for --k_shot 0.

    columns: as for folds, with `label`, numbers in class_names. left_out: the conditions of a single fold; if there are
    none, all conditions are dealt to N_FOLDS groups at random, by their names alone, and each group is left out in
    turn. A photograph of another condition that shows a patient who is held out, or is a near duplicate, is on neither
    side. Raises ProtocolError for fewer than two conditions in a group or outside it."""
    label, group = np.array(columns["label"][:]), np.array(columns["group_id"][:], dtype=str)
    numbers = sorted(set(label.tolist()), key=lambda number: class_names[number])
    if left_out:
        dealt = [[class_names.index(name) for name in left_out]]
    else:
        order = np.random.default_rng(STRICT_SEED).permutation(len(numbers))
        dealt = [[numbers[i] for i in order[k::N_FOLDS]] for k in range(N_FOLDS)]
    if min(len(held) for held in dealt) < 2 or len(numbers) - max(len(held) for held in dealt) < 2:
        of_dataset = f"of the {counted(len(numbers), 'condition')} of the dataset"
        if left_out:
            reason = f"--left_out names {len(left_out)} {of_dataset}, and at least two must be left out and two stay"
            raise ProtocolError(f"{reason}; name another number of them")
        reason = f"--k_shot 0 makes {N_FOLDS} groups {of_dataset}, and each needs at least two"
        raise ProtocolError(f"{reason}; name at least two conditions with --left_out, or add conditions")
    unseen = []
    for k, held in enumerate(dealt):
        test = np.isin(label, held)
        train = ~test & ~np.isin(group, group[test])
        unseen.append(Fold(k, np.flatnonzero(train), np.array([], np.int64), np.flatnonzero(test), unseen=True))
    return unseen


def _check_stored(columns: Mapping[str, Sequence], fold: np.ndarray, fold_column: str) -> None:
    """Raise ProtocolError for a value that no build writes, so that no image is dropped silently."""

    names = columns.column_names if hasattr(columns, "column_names") else columns  # `in` a Dataset would decode rows

    def refuse(row: int, what: str) -> NoReturn:
        name = columns["image_id"][row] if "image_id" in names else f"in row {row}"
        raise ProtocolError(f"image {name}: {what}; build the dataset again with rdface_dataset.py")

    for row in np.flatnonzero((fold < -1) | (fold >= N_FOLDS))[:1]:
        refuse(row, f"{fold_column} is {fold[row]}, not one of 0..{N_FOLDS - 1}")
    if fold_column == "paper_fold":
        side = list(columns["paper_split"])
        unknown = [row for row, value in enumerate(side) if value not in ("train", "test")]
        if unknown and (fold >= 0).any():
            refuse(unknown[0], f"paper_split is {side[unknown[0]]}, neither train nor test")
        return
    group = list(columns["group_id"])
    if None in group:
        refuse(group.index(None), "it has no group_id")
    if "label" in names:  # all images of a condition are tested, or none
        label = list(columns["label"])
        tested = {label[row] for row in np.flatnonzero(fold >= 0)}
        for row in [row for row in np.flatnonzero(fold < 0).tolist() if label[row] in tested][:1]:
            refuse(row, "it has no strict_fold, but others of its condition have")


def _strict_fold(columns: Mapping[str, Sequence], fold: np.ndarray, k: int) -> Fold:
    group = np.array(list(columns["group_id"]), dtype=str)
    test = fold == k
    train = ~test & ~np.isin(group, group[test])  # a row without a fold, but of a held-out group, is on neither side
    return Fold(k, np.flatnonzero(train), np.array([], dtype=np.int64), np.flatnonzero(test), "strict")


def _paper_fold(columns: Mapping[str, Sequence], fold: np.ndarray, k: int) -> Fold:
    side = np.array(list(columns["paper_split"]), dtype=str)
    val = fold == k
    train = (side == "train") & ~val
    return Fold(k, np.flatnonzero(train), np.flatnonzero(val), np.flatnonzero(side == "test"), "paper")


def straddling(folds: Iterable[Fold], group_ids: Sequence[str]) -> int:
    """How many test images share a group with training or validation in some fold: 0 under `strict`."""
    group = np.array(group_ids, dtype=str)
    leaks = [fold.test[np.isin(group[fold.test], group[np.union1d(fold.train, fold.val)])] for fold in folds]
    return len(np.unique(np.concatenate(leaks))) if leaks else 0


def k_shot(fold: Fold, labels: Sequence[Hashable], k: int, seed: int) -> Fold:
    """The fold with a support set in place of its training side: `k` images of each condition, drawn by `seed`.

    labels (n,): the condition of each row of the dataset. A condition with fewer training images gives all it has. A
    larger k draws the same images and further ones, so curves over k are nested. No validation rows are left, because
    whatever is trained may see the support set only; the test side stays whole. Raises ProtocolError for k < 1."""
    if k < 1:
        raise ProtocolError(f"k-shot needs at least 1 image a condition, not {k}")
    order = np.random.default_rng([seed, fold.number, 1]).permutation(len(labels))  # of all rows, whatever trains
    taken: Counter[Hashable] = Counter()
    support = []
    for row in order[np.isin(order, fold.train)].tolist():
        if taken[labels[row]] < k:
            taken[labels[row]] += 1
            support.append(row)
    nothing = np.array([], dtype=np.int64)
    return replace(fold, train=np.sort(np.array(support, dtype=np.int64)), val=nothing)


def of_photographs(fold: Fold, n: int) -> Fold:
    """The fold without the synthetic images that stand behind the dataset's n photographs as rows n, n + 1, ..."""
    return replace(fold, train=fold.train[fold.train < n], val=fold.val[fold.val < n])
