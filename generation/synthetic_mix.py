"""Synthetic images for training: opened, checked by each fold's guard, chosen, and appended to the photographs.

A mix numbers its images 0..m - 1 in a fixed order, whatever the order of the folders on the command line. In a fold,
and in arrays over all images (labels, pixels, features), image i is row n + i, after the dataset's n photographs.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pandas as pd

from curation import protocols
from curation.leak_guard import Guard, columns_for_guard
from curation.made_from import WORDS
from curation.opening import is_simulated, load_synthetic, photograph_sha256
from generation import score_provenance
from harness.errors import InputError
from imaging import near_duplicates
from imaging.pixel_cache import JoinedArrays

LIGHT_COLUMNS = ("synthetic_id", "generator", "protocol", "fold", "source_image_ids", "source_sha256")
LIGHT_COLUMNS += ("made_from", "adapter_sha256")  # null in images of a generator that has no such column
# Scores by which images are ranked under each protocol: the first that the images have. The paper ranks by cosine.
RANKED_BY = {"strict": ("phenotype_probability", "cosine"), "paper": ("cosine",)}
FINGERPRINT_DIGITS = 8  # of a folder, put before the synthetic_id: two folders may both hold an AAR_1


@dataclasses.dataclass
class SyntheticMix:
    """m synthetic images, from one or more datasets, to choose from when training on a dataset of n photographs."""

    photographs: list[str]  # (n,) their digests (curation.opening.photograph_sha256)
    simulated: bool  # whether the photographs are simulated
    protocol: str
    top_n: int | None  # images per fold; None: all
    parts: list[datasets.Dataset]
    fingerprints: list[str]  # of the datasets as they were opened, before any selection
    columns: dict[str, list]  # (m,) LIGHT_COLUMNS, `image_id` (unique in a fold) and the column `ranked_by`
    labels: np.ndarray  # (m,) class numbers of the photographs' dataset
    records: list[dict]  # of the scoring runs, if there were any (generation/score_provenance.py)
    ranked_by: str | None = None  # the score that ranks the images (RANKED_BY); None: they have none, so all are alike

    @property
    def n_photographs(self) -> int:
        return len(self.photographs)

    def candidates(self, fold: protocols.Fold) -> np.ndarray:
        """Numbers (c,) of the images that were made for the fold, increasing. Raises InputError if there are none."""
        number = fold.generator_number
        made_for = [row for row, of in enumerate(self.columns["fold"]) if of == number]
        if not made_for:
            where = f"fold {number} of protocol {fold.protocol}"
            raise InputError(f"--synthetic_dataset: no image there was made for {where}; generate some, or name --fold")
        return np.array(made_for)

    def admit(
        self, fold: protocols.Fold, columns: Mapping[str, Sequence], copies: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Raise LeakError if an image made for the fold must not be trained on in it, whether it is chosen or not.

        fold: rows from n on, which are synthetic images, are passed over. columns: as for Guard, of at least
        the n photographs; `pixels` (n + m,) holds the digests of all pictures, once they are decoded. copies (m,): the
        photographs of which each image is a near duplicate (near_duplicates.copies)."""
        n = self.n_photographs
        fold = protocols.of_photographs(fold, n)
        for record in self.records:
            score_provenance.admit(record, fold, self.photographs)
        rows = self.candidates(fold).tolist()
        images = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        guarded = columns_for_guard(columns)
        if "pixels" in guarded:
            images["pixels"] = [guarded["pixels"][n + row] for row in rows]
        if copies is not None:
            images["copies"] = [copies[row] for row in rows]
        guard = Guard(fold, {name: values[:n] for name, values in guarded.items()} | {"sha256": self.photographs})
        guard.admit_synthetic(images, self.simulated)

    def refuse_copies(
        self, folds: Sequence[protocols.Fold], columns: Mapping[str, Sequence], records: JoinedArrays
    ) -> None:
        """Raise LeakError if an image made for one of the folds is a copy of a photograph that must not be trained on.

        columns: as for admit, with `pixels`; records (n + m,): of all pictures (near_duplicates)."""
        of_photographs, *of_parts = records.arrays
        copies = [rows for part in of_parts for rows in near_duplicates.copies(part, of_photographs)]
        for fold in folds:
            self.admit(fold, columns, copies)

    def choose(self, fold: protocols.Fold, seed: int) -> np.ndarray:
        """Numbers (s,) of the images to train on in a fold: those of the highest score over all classes, highest first;
        without scores a draw by seed and fold, increasing. A larger top_n includes the choice of a smaller one."""
        rows = self.candidates(fold)
        if self.ranked_by:
            scores = np.array([self.columns[self.ranked_by][row] for row in rows], dtype=float)  # null is nan, and last
            return rows[np.argsort(-scores, kind="stable")][: self.top_n]
        return np.sort(np.random.default_rng([seed, fold.seed_number, 2]).permutation(rows)[: self.top_n])

    def extend(self, folds: Sequence[protocols.Fold], photographs: datasets.Dataset, seed: int) -> list[protocols.Fold]:
        """The folds with the chosen images on their training sides, once all images made for them have been admitted.

        Under `strict` nothing else changes. Under `paper` the validation folds are drawn again, as in the paper, and
        contain synthetic images. Raises LeakError, InputError and ProtocolError."""
        for fold in folds:
            self.admit(fold, photographs)
        n = self.n_photographs
        if self.protocol == "paper":
            labels = [*photographs["label"][:], *self.labels.tolist()]
            drawn = protocols.paper_folds_with_synthetic(photographs, labels, n + self.choose(folds[0], seed))
            numbers = {fold.number for fold in folds}
            return [fold for fold in drawn if fold.number in numbers]
        trains = [np.concatenate([fold.train, n + np.sort(self.choose(fold, seed))]) for fold in folds]
        return [dataclasses.replace(fold, train=train) for fold, train in zip(folds, trains, strict=True)]

    def as_predicted(self) -> pd.DataFrame:
        """The images' columns in predictions, as validation images under `paper`: each is a subject of its own."""
        image_ids = self.columns["image_id"]
        return pd.DataFrame({"image_id": image_ids, "label": self.labels, "subject": image_ids})

    def as_guarded(self) -> dict[str, list]:
        """The columns that a guard checks; no image belongs to a group or person of the dataset."""
        nothing = [None] * len(self.labels)
        image_ids = self.columns["image_id"]
        return {"image_id": image_ids, "group_id": image_ids, "subject_id": nothing, "sha256": nothing}

    def numbers(self) -> list[int]:
        """The smallest and the largest number of images per fold, over all folds for which there are images."""
        counts = Counter(self.columns["fold"]).values()
        return sorted({min(n, self.top_n or n) for n in (min(counts), max(counts))})

    def name(self) -> str:
        """For the name of the recipe: how many synthetic images, from which generators, or from words alone."""
        made = zip(self.columns["generator"], self.columns["made_from"], strict=True)
        kinds = sorted({"words" if made_from == WORDS else generator for generator, made_from in made})
        return f"+ {'-'.join(map(str, self.numbers()))} synthetic ({' and '.join(kinds)})"

    def summary(self) -> str:
        """For the screen: what was opened, how images are chosen, and the weakness of the paper's procedure."""
        choice = f"the highest {self.ranked_by}" if self.ranked_by else "a random draw"
        chosen = f"{choice}, {self.top_n} per fold" if self.top_n else "all"
        opened = ", ".join(self.fingerprints)
        lines = [f"synthetic images (fingerprints {opened}): {len(self.labels)} to choose from, taken: {chosen}"]
        if self.protocol == "paper":
            lines.append("protocol paper: validation folds hold synthetic images, and checkpoints are chosen on them")
        return "\n".join(lines)

    def record(self) -> dict:
        """For the run's record: what was opened, how many images there are to choose from, from which generators, and
        by which score they were ranked."""
        generators = dict(sorted(Counter(self.columns["generator"]).items()))
        n_images = len(self.labels)
        opened = {"fingerprints": self.fingerprints, "n_images": n_images, "generators": generators}
        return opened | {"ranked_by": self.ranked_by}

    def notes(self, fold: protocols.Fold) -> dict:
        """For a fold's record: how many synthetic images it trains and validates on, and where they are from."""
        trained = fold.train[fold.train >= self.n_photographs] - self.n_photographs
        generators = dict(sorted(Counter(self.columns["generator"][row] for row in trained.tolist()).items()))
        n_val = int((fold.val >= self.n_photographs).sum())
        synthetic = {"n_train": len(trained), "n_val": n_val, "generators": generators}
        return {"synthetic": synthetic | {"fingerprints": self.fingerprints}}


def open_mix(names: Sequence[str], top_n: int | None, photographs: datasets.Dataset, protocol: str) -> SyntheticMix:
    """The synthetic images in these folders (or ORG/NAME) that were made for the protocol and, if filtered, kept.

    Labels are matched by name. Raises InputError for a class that the photographs do not have, an image that has no
    label or occurs twice in a fold, a folder that is given twice, and folders of which only some have been filtered."""
    opened = {}  # by fingerprint, so that the order on the command line changes nothing
    for name in names:
        images = load_synthetic(name)
        if images._fingerprint in opened:
            raise InputError(f"--synthetic_dataset {name}: its images are given twice; name each folder once")
        opened[images._fingerprint] = name, images
    records = [score_provenance.read_record(name, images) for name, images in opened.values()]
    ranked_by = ranking_column([images.column_names for _, images in opened.values()], protocol)
    columns = {name: [] for name in (*LIGHT_COLUMNS, "image_id", *([ranked_by] if ranked_by else []))}
    parts, labels = [], []
    for fingerprint, (name, images) in sorted(opened.items()):
        images = usable(images, protocol)
        if not len(images):
            raise InputError(f"--synthetic_dataset {name}: no image there was made for protocol {protocol} and kept")
        labels += labels_by_name(name, images, photographs.features["label"])
        light = light_columns(name, images, fingerprint) | ({ranked_by: images[ranked_by][:]} if ranked_by else {})
        for column in columns:
            columns[column] += light[column]
        parts.append(images)
    digests, simulated = photograph_sha256(photographs), is_simulated(photographs)
    records = [record for record in records if record]
    numbers = np.array(labels, dtype=np.int64)
    return SyntheticMix(
        digests, simulated, protocol, top_n, parts, sorted(opened), columns, numbers, records, ranked_by
    )


def ranking_column(column_names: Sequence[Sequence[str]], protocol: str) -> str | None:
    """The score by which the images of several datasets are ranked together, or None if none of them has scores.

    column_names: of each dataset. Raises InputError if only some of the datasets have a score."""
    for column in RANKED_BY[protocol]:
        have_it = {column in names for names in column_names}
        if have_it == {True}:
            return column
        if len(have_it) > 1:
            reason = f"some have a column {column} and some not"
            raise InputError(f"--synthetic_dataset: {reason}; run filter_synthetic.py on all")
    return None


def usable(images: datasets.Dataset, protocol: str) -> datasets.Dataset:
    """Those made for the protocol, for one of its folds (under `paper` for all), and kept by the filter, if any."""
    made_for = zip(images["protocol"][:], images["fold"][:], strict=True)
    fits = [of == protocol and (fold is None) == (protocol == "paper") for of, fold in made_for]
    if "kept" in images.column_names:
        fits = [fit and kept is True for fit, kept in zip(fits, images["kept"][:], strict=True)]
    return images if all(fits) else images.select([row for row, fit in enumerate(fits) if fit])


def labels_by_name(name: str, images: datasets.Dataset, label: datasets.ClassLabel) -> list[int]:
    """The images' labels as numbers of another dataset's classes; name: of the images' dataset, for messages.

    Raises InputError for a class that the other dataset does not have, and for an image without a label."""
    numbers = class_numbers(name, images, label.names)
    if -1 in numbers:
        synthetic_id = images["synthetic_id"][numbers.index(-1)]
        raise InputError(f"--synthetic_dataset {name}: {synthetic_id} has no label; run filter_synthetic.py first")
    return numbers


def class_numbers(name: str, images: datasets.Dataset, class_names: Sequence[str]) -> list[int]:
    """As labels_by_name, for the classes of these names; -1 for an image without a label."""
    own_names = images.features["label"].names
    unknown = [own for own in own_names if own not in class_names]
    if unknown:
        reason = f"its class {unknown[0]} is not one of --dataset_name's; generate images for that dataset"
        raise InputError(f"--synthetic_dataset {name}: {reason}")
    number_of = {number: class_names.index(own) for number, own in enumerate(own_names)}
    return [number_of.get(number, -1) for number in images["label"][:]]


def light_columns(name: str, images: datasets.Dataset, fingerprint: str) -> dict[str, list]:
    """LIGHT_COLUMNS, null where the images have no such column, and `image_id`, unique in a fold.

    Raises InputError for a synthetic_id that occurs twice in a fold."""
    nothing, there = [None] * len(images), images.column_names
    light = {column: images[column][:] if column in there else nothing for column in LIGHT_COLUMNS}
    shared: dict[tuple, tuple] = {}  # all images of a generator, perhaps thousands, share one tuple of sources
    for column in ("source_image_ids", "source_sha256"):
        light[column] = [shared.setdefault(tuple(values), tuple(values)) for values in light[column]]
    (identity, times), *_ = Counter(zip(light["fold"], light["synthetic_id"], strict=True)).most_common(1)
    if times > 1:
        where = "" if identity[0] is None else f" in fold {identity[0]}"
        raise InputError(f"--synthetic_dataset {name}: {identity[1]} is there {times} times{where}; make it again")
    prefix = fingerprint[:FINGERPRINT_DIGITS]
    return light | {"image_id": [f"{prefix}/{synthetic_id}" for synthetic_id in light["synthetic_id"]]}
