"""Folds of both protocols, subject and near-duplicate groups, and the guard that keeps held-out data out of training.

`paper` repeats the published splits (Feng et al., RDFace, CVPR 2026, arXiv 2604.03454) with the library calls and seeds
of its authors, so numbers can be compared; photographs of one patient may fall on both sides. `strict` never lets a
group (one patient, or near-duplicate photographs) straddle, and tests each testable image once, out of fold. Both are
drawn when the dataset is built, stored in its columns, and from then on only read back.
"""

import argparse
import functools
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from harness.errors import LeakError, ProtocolError
from harness.protocol_names import PROTOCOLS
from harness.text_normalization import subject_key

DRAWS_NEW_PEOPLE = "simulate_faces"  # the one generator of synthetic images that saw no photograph
DIGESTS = ("original_sha256", "sha256")  # columns by which a photograph is known: the first that is there
OPTIONAL = ("subject_id", *DIGESTS, "pixels", "copies")  # columns that a guard looks at where they are there
N_FOLDS = 5
PAPER_SEED = 42  # the authors' random_state
STRICT_SEED = 20260
STRICT_DRAWS = 64  # draws tried where groups that span many conditions get in each other's way; one is enough otherwise


@dataclass
class Fold:
    """Row numbers of one fold: train, val and test are (n,) int arrays, sorted; val is empty under `strict`."""

    number: int | None  # None: under `paper`, whatever is made once for all folds
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    protocol: str = "strict"


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
    Raises ProtocolError where the images are too few for the rule. Source: Feng et al., RDFace, CVPR 2026."""
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
    Raises ProtocolError as paper_split does, and where the stored test side is not the one that the rule gives, since
    the order of the training list is then not known. Source: Feng et al., RDFace, CVPR 2026."""
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
    try:
        train, test = train_test_split(others, test_size=0.25, random_state=PAPER_SEED, stratify=label[others])
    except ValueError as error:
        raise ProtocolError(f"the 25 % test split cannot be drawn: {error}") from error
    return np.concatenate([singletons, train]), test


def _paper_validation_folds(training_list: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Where each row is validation, (n,) int64: -1 for a row that is not in the list, or of a condition with one image
    in it. The draw depends on the order of the list."""
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
    Deterministic: the same rows give the same folds. A group may span conditions. Only where one spans so many that no
    draw leaves a condition a second fold (never with four or fewer) is that condition not tested: None."""
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
    """One draw: each group in turn goes where it leaves no condition in a single fold, then where its conditions have
    the fewest groups, then where the fewest images are."""
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
    `paper_fold`); n: only this fold. Raises ProtocolError where the dataset holds no folds of the protocol."""
    if protocol not in PROTOCOLS:
        raise ProtocolError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if hasattr(columns, "with_format"):
        columns = columns.with_format(None)  # a transform set for training would be asked for the columns too
    fold_column = "strict_fold" if protocol == "strict" else "paper_fold"
    fold = np.array([-1 if value is None else value for value in columns[fold_column]], dtype=np.int64)
    _check_stored(columns, fold, fold_column)
    if (fold < 0).all():
        raise ProtocolError(
            f"column {fold_column} holds nulls only: the dataset is too small for protocol {protocol}"
            + ("; use --protocol strict" if protocol == "paper" else ": no condition has two groups of images")
        )
    numbers = sorted(set(fold[fold >= 0].tolist()))
    if n is not None and n not in numbers:
        raise ProtocolError(f"there is no fold {n} under protocol {protocol}; the dataset has {numbers}")
    read = _strict_fold if protocol == "strict" else _paper_fold
    return [read(columns, fold, k) for k in (numbers if n is None else [n])]


def fold_number(text: str) -> int | None:
    """--fold as scripts take it: the number, or None for "all". Raises argparse.ArgumentTypeError."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither all nor the number of a fold")
    return None if text == "all" else int(text)


def training_sides(columns: Mapping[str, Sequence], protocol: str, n: int | None = None) -> list[Fold]:
    """What a generator may see: the folds under `strict`, and under `paper` one fold without a number, whose training
    side is all that the published test side leaves.

    columns, n: as for folds; raises ProtocolError as folds does, and for a numbered fold under `paper`."""
    if protocol == "strict":
        return folds(columns, protocol, n)
    if n is not None:
        raise ProtocolError("under protocol paper there is one generator for all folds; leave out the fold's number")
    paper = folds(columns, protocol)
    train = np.unique(np.concatenate([np.concatenate([fold.train, fold.val]) for fold in paper]))
    return [Fold(None, train, np.array([], dtype=np.int64), paper[0].test, protocol)]


def _check_stored(columns: Mapping[str, Sequence], fold: np.ndarray, fold_column: str) -> None:
    """Raise ProtocolError for a value that no build writes, so that no image leaves a run without a word."""

    known = columns.column_names if hasattr(columns, "column_names") else columns  # `in` a Dataset would decode rows

    def refuse(row: int, what: str) -> None:
        name = columns["image_id"][row] if "image_id" in known else f"in row {row}"
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
    if "label" in known:  # all images of a condition are tested, or none
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


class Guard:
    """Lets only a fold's training side through to whatever is fitted, chosen or generated; everything else raises.

        guard = Guard(fold, images)
        guard.admit_synthetic(columns)                     # synthetic images, before any is drawn or decoded
        rows = guard.admit(rows, "prototypes")             # rows to fit, or to choose a regularisation, on
        rows = guard.admit_for_choice(rows, "checkpoint")  # rows on which a trained model is compared with another

    columns: a `datasets.Dataset` or a mapping with `image_id` and `group_id`, and, where there are, `subject_id`,
    `sha256`, `original_sha256`, and `pixels` (digests of the published bytes, of the photograph that was restored, and
    of the decoded picture). Raises LeakError at once where the fold's own sides overlap; see check_fold."""

    def __init__(self, fold: Fold, columns: Mapping[str, Sequence]):
        check_fold(fold, columns)
        self.fold = fold
        self._image_ids = _column(columns, "image_id")
        self._photographs = photograph_digests(columns)
        self._pixels = _column(columns, "pixels")
        self._training = set(fold.train.tolist())
        self._validation = set(fold.val.tolist())

    def admit(self, rows: Sequence[int] | np.ndarray, purpose: str) -> np.ndarray:
        """The same rows, (n,) int64; raises LeakError for a row that is not of the training (or support) side."""
        return self._admit(rows, purpose, self._training, "training")

    def admit_for_choice(self, rows: Sequence[int] | np.ndarray, purpose: str) -> np.ndarray:
        """As admit, but for validation rows, which exist under `paper` only: raises LeakError for any other row."""
        return self._admit(rows, purpose, self._validation, "validation")

    def admit_synthetic(self, images: Mapping[str, Sequence], simulated: bool = False) -> None:
        """Raise LeakError, naming the image, unless every synthetic image may be trained on in this fold.

        images: columns (m,) `synthetic_id`, `generator`, `protocol`, `fold`, `source_image_ids`, `source_sha256`, and,
        once the pictures are decoded, `pixels` and `copies` (the dataset's rows of which an image is a near duplicate).
        An image must be of this protocol and fold (null under `paper`, where one generator serves all folds), and all
        that its generator saw must be on the training side, or in validation under `paper`: photographs of this
        dataset, each with the digest that it has here, whatever it is called. Without sources nobody can tell what was
        seen, so that raises too; simulated: the dataset's photographs are simulated themselves, and then further people
        of simulate_faces.py, who have no sources, are admitted. None may show the same pixels as a test image, or be a
        near duplicate of a photograph that the training may not see, under either protocol."""
        number = None if self.fold.protocol == "paper" else self.fold.number
        names = ("synthetic_id", "generator", "protocol", "fold", "source_image_ids")
        columns = [*(images[name] for name in names), images.get("source_sha256") or [None] * len(images["fold"])]
        reasons: dict[tuple, str | None] = {}  # thousands of images share the few lists of sources
        for synthetic_id, generator, protocol, fold, ids, digests in zip(*columns, strict=True):
            sources = tuple(ids or ()), tuple(digests or ())
            if sources not in reasons:
                reasons[sources] = self._why_unseen(*sources)
            if (protocol, fold) != (self.fold.protocol, number):
                self._refuse(synthetic_id, f"was made for fold {fold} of protocol {protocol}")
            if reasons[sources]:
                self._refuse(synthetic_id, reasons[sources])
            if generator == DRAWS_NEW_PEOPLE and not simulated:
                self._refuse(
                    synthetic_id, f"is said to be by {generator}, whose people stand beside simulated ones only"
                )
            if not sources[0] and generator != DRAWS_NEW_PEOPLE:
                self._refuse(synthetic_id, "names no source_image_ids, so nobody can tell what its generator saw")
        shown = _column(images, "pixels")
        if shown and self._pixels:
            tested = {self._pixels[row]: self._image_ids[row] for row in self.fold.test.tolist()}
            for synthetic_id, pixels in zip(images["synthetic_id"], shown, strict=True):
                if pixels in tested:
                    self._refuse(synthetic_id, f"is a copy of image {tested[pixels]}, which is held out")
        why = "which the training may not see"
        for synthetic_id, rows in zip(images["synthetic_id"], _column(images, "copies") or (), strict=False):
            for row in set(rows) - self._training - self._validation:
                self._refuse(synthetic_id, f"is a near duplicate of image {self._image_ids[row]}, {why}")

    def admit_weights(self, photographs: Iterable[str], name: str) -> None:
        """Raise LeakError, naming a photograph, where weights have learnt from one that is not on the training side.

        photographs: digests of those that the weights saw (photograph_digests); those of other datasets are passed
        over; name: of the weights, for the message."""
        if self._photographs is None:
            raise LeakError(f"{name} saw photographs, and these have no column sha256 to be compared with; build again")
        seen = set(photographs)
        for row, digest in enumerate(self._photographs):
            if digest in seen and row not in self._training:
                raise LeakError(
                    f"fold {self.fold.number} ({self.fold.protocol}): {name} has learnt from image "
                    f"{self._image_ids[row]}, which is not on the training side; give weights that did not see it"
                )

    def _why_unseen(self, image_ids: tuple, digests: tuple) -> str | None:
        """What is wrong with the sources of a synthetic image, as an end of "image X ..."; None if nothing is."""
        if len(image_ids) != len(digests):
            return f"names {len(image_ids)} source_image_ids but {len(digests)} source_sha256"
        if image_ids and self._photographs is None:
            return "cannot be told from one of a held-out photograph, since the dataset has no column sha256"
        allowed = self._training | self._validation
        outside = [self._why_outside(*source, allowed) for source in zip(image_ids, digests, strict=True)]
        outside = [reason for reason in outside if reason]
        return f"{outside[0]} ({len(outside)} such)" if outside else None

    def _why_outside(self, image_id: str | None, digest: str | None, allowed: set[int]) -> str | None:
        rows = self._rows_of.get(image_id)
        if rows is None:
            return f"was made from image {image_id}, which is not in the dataset"
        if digest is None:
            return f"was made from image {image_id}, whose source_sha256 is missing"
        shown = [row for row in rows if self._photographs[row] == digest]
        if not shown:
            return f"was made from another photograph, which was called {image_id} then"
        return (
            None if allowed.issuperset(shown) else f"was made from image {image_id}, which is not on the training side"
        )

    @functools.cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        """Rows by image_id: one each, in what a build writes."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, image_id in enumerate(self._image_ids):
            rows[image_id].append(row)
        return dict(rows)

    def _refuse(self, synthetic_id: str, why: str) -> NoReturn:
        where = f"fold {self.fold.number} ({self.fold.protocol})"
        remedy = "generate images from this fold's training side only"
        raise LeakError(f"{where}: synthetic image {synthetic_id} {why}, and must not be trained on; {remedy}")

    def _admit(self, rows: Sequence[int] | np.ndarray, purpose: str, allowed: set[int], side: str) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        outside = [row for row in rows.tolist() if row not in allowed]
        if outside:
            raise LeakError(
                f"fold {self.fold.number} ({self.fold.protocol}): image {self._image_ids[outside[0]]} is not on the "
                f"{side} side and must not reach {purpose} ({len(outside)} such); hand over fold.train only"
            )
        return rows


def check_fold(fold: Fold, columns: Mapping[str, Sequence]) -> None:
    """Raise LeakError if a held-out image is on the fold's training side, and under `strict` also if another image of
    its group or subject is, or one with the same bytes.

    columns: as for Guard; subjects are compared by subject_key. Under `paper` patients and copies may straddle: that is
    the published protocol."""
    # A tested image must not choose a checkpoint; under strict nothing may.
    chooses = fold.val if fold.protocol == "strict" else np.intersect1d(fold.val, fold.test)
    if len(chooses):
        raise LeakError(
            f"fold {fold.number} ({fold.protocol}): image {_column(columns, 'image_id')[chooses[0]]} would choose a "
            f"checkpoint ({len(chooses)} such); build the dataset again, or draw the folds through protocols.folds"
        )
    held_out = [*fold.val.tolist(), *fold.test.tolist()]
    train = fold.train.tolist()
    identities = ("image_id", "group_id", "subject_id", *DIGESTS, "pixels")
    for column in identities if fold.protocol == "strict" else identities[:1]:
        values = told = _column(columns, column)
        if values and column == "subject_id":
            values = [(value and subject_key(value)) or None for value in told]
        both = ({values[row] for row in train} & {values[row] for row in held_out}) - {None} if values else None
        if both:
            first = min(told[row] for row in held_out if values[row] in both)
            raise LeakError(
                f"fold {fold.number} ({fold.protocol}): {column} {first} is held out and in training "
                f"({len(both)} such); build the dataset again, or draw the folds through protocols.folds"
            )


def of_photographs(fold: Fold, n: int) -> Fold:
    """The fold without the synthetic images that stand behind the dataset's n photographs as rows n, n + 1, ..."""
    return replace(fold, train=fold.train[fold.train < n], val=fold.val[fold.val < n])


def guarded(columns: Mapping[str, Sequence]) -> dict[str, list]:
    """Those of the columns that a guard looks at, without decoding a picture; as for Guard."""
    names = ("image_id", "group_id", *OPTIONAL)
    return {name: values for name in names if (values := _column(columns, name)) is not None}


def photograph_digests(columns: Mapping[str, Sequence]) -> list[str] | None:
    """The digest by which each photograph is known, (n,): of its bytes in config real, also where it was restored.

    columns: as for Guard; None where they hold no digest for every row."""
    for name in DIGESTS:
        digests = _column(columns, name)
        if digests is not None and None not in digests:
            return digests
    return None


def _column(columns: Mapping[str, Sequence], name: str) -> list | None:
    """A whole column, untransformed; None where there is none, which only the optional ones may be."""
    known = columns.column_names if hasattr(columns, "column_names") else columns
    if name not in known and name in OPTIONAL:
        return None
    return list((columns.with_format(None) if hasattr(columns, "with_format") else columns)[name])
