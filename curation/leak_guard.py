"""The guard against leaks: it lets only a fold's training side through to whatever is fitted, chosen or generated."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import numpy as np

from curation.made_from import WORDS
from curation.protocols import Fold
from harness.errors import LeakError
from harness.text_normalization import subject_key

DRAWS_NEW_PEOPLE = "simulate_faces"  # the one generator of synthetic images that saw no photograph
DIGESTS = ("original_sha256", "sha256")  # columns that identify a photograph: the first one that the dataset has
OPTIONAL = ("subject_id", *DIGESTS, "pixels", "copies")  # columns that a guard looks at if they are there


class Guard:
    """Lets only a fold's training side through to whatever is fitted, chosen or generated; everything else raises.

        guard = Guard(fold, images)
        guard.admit_synthetic(columns)                     # synthetic images, before any is drawn or decoded
        rows = guard.admit(rows, "prototypes")             # rows to fit on, or to choose a regularisation on
        rows = guard.admit_for_choice(rows, "checkpoint")  # rows on which a trained model is compared with another

    columns: a `datasets.Dataset` or a mapping with `image_id` and `group_id`, and, if there are any, `subject_id`,
    `sha256` (digests of the published bytes), `original_sha256` (of the photograph that was restored) and `pixels` (of
    the decoded picture). Raises LeakError at once if the fold's own sides overlap; see check_fold."""

    def __init__(self, fold: Fold, columns: Mapping[str, Sequence]):
        check_fold(fold, columns)
        self.fold = fold
        self._where = f"fold {fold.number} ({fold.protocol})"  # how every message begins
        self._image_ids = _column(columns, "image_id")
        self._photographs = photograph_digests(columns)
        self._pixels = _column(columns, "pixels")
        self._subjects = _subject_keys(columns)
        self._training = set(fold.train.tolist())
        self._validation = set(fold.val.tolist())

    def admit(self, rows: Sequence[int] | np.ndarray, purpose: str) -> np.ndarray:
        """The same rows, (n,) int64; raises LeakError for a row that is not on the training (or support) side."""
        return self._admit(rows, purpose, self._training, "training")

    def admit_for_choice(self, rows: Sequence[int] | np.ndarray, purpose: str) -> np.ndarray:
        """As admit, but for validation rows, which exist only under `paper`: raises LeakError for any other row."""
        return self._admit(rows, purpose, self._validation, "validation")

    def admit_synthetic(self, images: Mapping[str, Sequence], simulated: bool = False) -> None:
        """Raise LeakError, naming the image, unless every synthetic image may be trained on in this fold.

        images: columns (m,) `synthetic_id`, `generator`, `protocol`, `fold`, `source_image_ids`, `source_sha256`, if
        they have any, `made_from` and `adapter_sha256`, and, once the pictures are decoded, `pixels` and `copies` (the
        dataset's rows that an image is a near duplicate of).
        simulated: whether the dataset's photographs are simulated themselves.

        An image must say that it was made for this protocol and fold (null under `paper`, where one generator serves
        all folds). Everything that its generator saw must be on the training side, or in validation under `paper`:
        photographs of this dataset, each with the digest that it has here, whatever it is called. An image that names
        no sources raises too, since nobody can tell what its generator saw. There are two exceptions: images made from
        words alone (`made_from`), which name no adapter either, and further people drawn by simulate_faces.py beside
        simulated photographs. Under both protocols, no image may show the same pixels as a test image, or be a near
        duplicate of a photograph that the training may not see."""
        self._check_provenance(images, simulated)
        self._check_pixels(images)
        self._check_copies(images)

    def _check_provenance(self, images: Mapping[str, Sequence], simulated: bool) -> None:
        names = ("synthetic_id", "generator", "protocol", "fold", "source_image_ids")
        optional = ("source_sha256", "made_from", "adapter_sha256")
        nothing = [None] * len(images["fold"])
        columns = [*(images[name] for name in names), *(images.get(name) or nothing for name in optional)]
        reasons: dict[tuple, str | None] = {}  # thousands of images share the few lists of sources
        for synthetic_id, generator, protocol, number, ids, digests, made_from, adapter in zip(*columns, strict=True):
            sources = tuple(ids or ()), tuple(digests or ())
            if sources not in reasons:
                reasons[sources] = self._why_unseen(*sources)
            if (protocol, number) != (self.fold.protocol, self.fold.generator_number):
                self._refuse(synthetic_id, f"was made for fold {number} of protocol {protocol}")
            if reasons[sources]:
                self._refuse(synthetic_id, reasons[sources])
            if generator == DRAWS_NEW_PEOPLE and not simulated:
                reason = f"is said to be by {generator}, whose people may only stand beside simulated ones"
                self._refuse(synthetic_id, reason)
            if made_from == WORDS:
                if sources[0] or adapter:
                    self._refuse(
                        synthetic_id, "is said to be made from words alone, and names photographs or an adapter"
                    )
            elif not sources[0] and generator != DRAWS_NEW_PEOPLE:
                self._refuse(synthetic_id, "names no source_image_ids, so nobody can tell what its generator saw")

    def _check_pixels(self, images: Mapping[str, Sequence]) -> None:
        synthetic_pixels = _column(images, "pixels")
        if not synthetic_pixels or not self._pixels:
            return
        tested = {self._pixels[row]: self._image_ids[row] for row in self.fold.test.tolist()}
        for synthetic_id, pixels in zip(images["synthetic_id"], synthetic_pixels, strict=True):
            if pixels in tested:
                self._refuse(synthetic_id, f"is a copy of image {tested[pixels]}, which is held out")

    def _check_copies(self, images: Mapping[str, Sequence]) -> None:
        for synthetic_id, rows in zip(images["synthetic_id"], _column(images, "copies") or (), strict=False):
            for row in set(rows) - self._training - self._validation:
                reason = f"is a near duplicate of image {self._image_ids[row]}, which the training may not see"
                self._refuse(synthetic_id, reason)

    def admit_readers(self, images: Mapping[str, Sequence], name: str) -> None:
        """Raise LeakError, naming the photograph, for further people among whom is one whom the fold holds out.

        images: their columns, as for Guard, with `pixels` and `copies` (the dataset's rows that a photograph is a near
        duplicate of). name: what the message calls them. Nothing may be learnt from a photograph of the dataset that
        is not on the training side, nor from another one of the same subject, whatever it is called there."""
        held_out = sorted(set(range(len(self._image_ids))) - self._training)
        own = {"photograph": self._photographs, "pixels": self._pixels, "subject": self._subjects}
        theirs = {"photograph": photograph_digests(images), "pixels": _column(images, "pixels")}
        theirs["subject"] = _subject_keys(images)
        row_of = {what: {values[row]: row for row in held_out if values[row]} for what, values in own.items() if values}
        for number, image_id in enumerate(_column(images, "image_id")):
            found = {what: row_of[what].get(theirs[what][number]) for what in row_of if theirs[what]}
            copied = [row for row in _column(images, "copies")[number] if row not in self._training]
            shown = [row for row in (found.get("photograph"), found.get("pixels"), *copied) if row is not None]
            subject = found.get("subject")
            if not shown and subject is None:
                continue
            outside = self._image_ids[shown[0] if shown else subject]
            reason = f"shows the photograph of image {outside}, which is not on the training side"
            remedy = f"take it out of {name}"
            if not shown:
                reason = f"has the subject_id of image {outside}, which is not on the training side"
                remedy += ", or if it shows another person, give that person another subject_id and build again"
            raise LeakError(f"{self._where}: {image_id} of {name} {reason}; {remedy}")

    def admit_weights(self, photographs: Iterable[str], name: str) -> None:
        """Raise LeakError, naming a photograph, if weights have learnt from one that is not on the training side.

        photographs: the digests (photograph_digests) of all photographs that the weights saw; those of other datasets
        are passed over. name: what the message calls the weights."""
        if self._photographs is None:
            raise LeakError(f"{name} saw photographs, and these have no column sha256 to be compared with; build again")
        seen = set(photographs)
        for row, digest in enumerate(self._photographs):
            if digest in seen and row not in self._training:
                reason = f"{name} has learnt from image {self._image_ids[row]}, which is not on the training side"
                raise LeakError(f"{self._where}: {reason}; give weights that did not see it")

    def _why_unseen(self, image_ids: tuple, digests: tuple) -> str | None:
        """What is wrong with the sources of a synthetic image, as the end of "image X ..."; None if nothing is."""
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
        with_this_digest = [row for row in rows if self._photographs[row] == digest]
        if not with_this_digest:
            return f"was made from another photograph, which was called {image_id} then"
        if allowed.issuperset(with_this_digest):
            return None
        return f"was made from image {image_id}, which is not on the training side"

    @functools.cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        """image_id -> its rows: one each, in a dataset that rdface_dataset.py built."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, image_id in enumerate(self._image_ids):
            rows[image_id].append(row)
        return dict(rows)

    def _refuse(self, synthetic_id: str, reason: str) -> NoReturn:
        remedy = "generate images from this fold's training side only"
        raise LeakError(f"{self._where}: synthetic image {synthetic_id} {reason}, and must not be trained on; {remedy}")

    def _admit(self, rows: Sequence[int] | np.ndarray, purpose: str, allowed: set[int], side: str) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        outside = [row for row in rows.tolist() if row not in allowed]
        if outside:
            reason = f"image {self._image_ids[outside[0]]} is not on the {side} side and must not reach {purpose}"
            raise LeakError(f"{self._where}: {reason} ({len(outside)} such); hand over fold.train only")
        return rows


def check_fold(fold: Fold, columns: Mapping[str, Sequence]) -> None:
    """Raise LeakError if a held-out image is on the fold's training side. Under `strict` also raise it if another image
    of its group or subject is, or an image with the same bytes or pixels.

    columns: as for Guard; subjects are compared by subject_key. Under `paper`, patients and copies may be on both
    sides: that is the published protocol."""
    where, remedy = (
        f"fold {fold.number} ({fold.protocol})",
        "build the dataset again, or draw the folds through protocols.folds",
    )
    # A tested image must not choose a checkpoint; under strict nothing may.
    choosing = fold.val if fold.protocol == "strict" else np.intersect1d(fold.val, fold.test)
    if len(choosing):
        reason = f"image {_column(columns, 'image_id')[choosing[0]]} would choose a checkpoint ({len(choosing)} such)"
        raise LeakError(f"{where}: {reason}; {remedy}")
    held_out = [*fold.val.tolist(), *fold.test.tolist()]
    train = fold.train.tolist()
    identities = ("image_id", "group_id", "subject_id", *DIGESTS, "pixels")
    for column in identities if fold.protocol == "strict" else identities[:1]:
        as_recorded = _column(columns, column)
        values = _subject_keys(columns) if column == "subject_id" else as_recorded
        on_both = ({values[row] for row in train} & {values[row] for row in held_out}) - {None} if values else None
        if on_both:
            first = min(as_recorded[row] for row in held_out if values[row] in on_both)
            reason = f"{column} {first} is held out and in training ({len(on_both)} such)"
            raise LeakError(f"{where}: {reason}; {remedy}")


def columns_for_guard(columns: Mapping[str, Sequence]) -> dict[str, list]:
    """Those of the columns (as for Guard) that a guard looks at, read without decoding a picture."""
    names = ("image_id", "group_id", *OPTIONAL)
    return {name: values for name in names if (values := _column(columns, name)) is not None}


def photograph_digests(columns: Mapping[str, Sequence]) -> list[str] | None:
    """The digest that identifies each photograph, (n,): of its bytes in config `real`, also if it was restored.

    columns: as for Guard. Returns None if no column holds a digest for every row."""
    for name in DIGESTS:
        digests = _column(columns, name)
        if digests is not None and None not in digests:
            return digests
    return None


def _subject_keys(columns: Mapping[str, Sequence]) -> list[str | None] | None:
    """The subject of each image by subject_key, None for an unknown one; None if there is no such column."""
    subjects = _column(columns, "subject_id")
    return subjects and [(subject and subject_key(subject)) or None for subject in subjects]


def _column(columns: Mapping[str, Sequence], name: str) -> list | None:
    """A whole column, without the dataset's transform; None if there is none, which is allowed for OPTIONAL only."""
    names = columns.column_names if hasattr(columns, "column_names") else columns
    if name not in names and name in OPTIONAL:
        return None
    return list((columns.with_format(None) if hasattr(columns, "with_format") else columns)[name])
