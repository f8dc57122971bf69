"""What all folds of a cross-validated study share: labels, pixels, backbone, and the identity of each fold's model."""

import dataclasses
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from accelerate import Accelerator

from classification import run_results
from classification.backbones import Backbone
from classification.classifiers import read_config, weights_name
from classification.extraction import features_of
from classification.knowledge import Knowledge
from classification.synthetic_teachers import SyntheticUses
from classification.weight_files import read_seen_photographs
from curation import protocols
from curation.leak_guard import Guard, check_fold, columns_for_guard
from curation.opening import guarded_columns, is_simulated, photograph_sha256, photographs_digest
from harness.errors import InputError
from harness.launched_processes import device_record
from imaging import corruptions
from imaging.pixel_cache import JoinedArrays, Pixels, cached_pixels, join

MOST_NAMED = 10  # of the photographs without a face


@dataclasses.dataclass(frozen=True)
class Job:
    """A fold to be trained for a seed, and the folder in which it leaves its model and predictions."""

    seed: int
    fold: protocols.Fold
    folder: Path


@dataclasses.dataclass
class Study:
    """A backbone, n photographs, and the m synthetic images (often none) whose rows follow theirs."""

    images: datasets.Dataset  # the n photographs
    photographs: list[str]  # (n,) the digests by which they are known (curation.opening.photograph_sha256)
    image_columns: pd.DataFrame  # (n + m,) what predictions.parquet says of each image (run_results.image_columns)
    backbone: Backbone
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # backbone and recipe, as predictions name them
    settings_sha256: str = ""  # tells the predictions of different experiments apart
    synthetic: dict[str, list] = dataclasses.field(default_factory=dict)  # (m,) columns of theirs that a guard checks
    pixels: Pixels | None = None  # (n + m,), once they are decoded
    corrupted: dict[tuple[str, int], Pixels] = dataclasses.field(default_factory=dict)  # (n,) by kind and severity
    features: np.ndarray | None = None  # (n + m, d) of a linear probe (see extract_features)
    knowledge: Knowledge | None = None  # of a linear probe that uses any
    uses: SyntheticUses | None = None  # of the m synthetic images in a linear probe; None: there are none
    sources: dict[int, frozenset[int]] | None = None  # row -> those that its generator saw; of images beside a support
    warnings: list[str] = dataclasses.field(default_factory=list)  # for the screen, run.json and the pages

    @property
    def label(self) -> datasets.ClassLabel:
        return self.images.features["label"]

    @property
    def labels(self) -> np.ndarray:
        """(n + m,) class numbers."""
        return self.image_columns["label"].to_numpy(copy=True)  # torch wants it writable

    @property
    def is_simulated(self) -> bool:
        return is_simulated(self.images)

    @property
    def groups(self) -> np.ndarray:
        """(n + m,) the group of each image: one patient and near duplicates."""
        return self.image_columns["subject"].to_numpy()

    @property
    def records(self) -> np.ndarray:
        """(n,) of the photographs, if they are to be compared with other pictures (near_duplicates)."""
        of_all = self.pixels.records
        return of_all.arrays[0] if isinstance(of_all, JoinedArrays) else of_all

    @functools.cached_property
    def guarded(self) -> dict[str, list]:
        """The columns that a guard checks, (n + m,), with digests of the decoded pixels in case sha256 is outdated."""
        columns = guarded_columns(self.images, self.pixels.uint8)
        return columns | {name: columns[name] + values for name, values in self.synthetic.items() if name in columns}

    def append_synthetic(self, image_columns: pd.DataFrame, guarded: dict[str, list]) -> None:
        """Add the rows of m synthetic images, described as the fields `image_columns` and `synthetic` say."""
        self.image_columns = pd.concat([self.image_columns, image_columns], ignore_index=True)
        self.synthetic = guarded

    def decode(
        self,
        accelerator: Accelerator,
        cache_dir: Path,
        synthetic_parts: Sequence[datasets.Dataset] = (),
        with_corruptions: bool = False,
    ) -> None:
        """Set `pixels`, each picture decoded once, and `corrupted` if asked for; all processes decode together.

        synthetic_parts: datasets of the m synthetic images, in the order of their rows."""
        decoding = (self.backbone.image_size, self.backbone.face_alignment, cache_dir)
        to_compare = bool(synthetic_parts) or bool(self.knowledge and self.knowledge.readers)
        pixels = cached_pixels(accelerator, self.images, *decoding, records=to_compare)
        n = len(self.images)
        if missed := pixels.faces_missed.sum():
            names = [self.images["image_id"][row] for row in np.flatnonzero(pixels.faces_missed)[:MOST_NAMED].tolist()]
            named = ", ".join(names) + (", ..." if missed > MOST_NAMED else "")
            accelerator.print(f"no face found in {missed} of {n} images ({named}): these are used whole")
        if with_corruptions:
            kinds = itertools.product(corruptions.CORRUPTIONS, corruptions.SEVERITIES)
            self.corrupted = {kind: cached_pixels(accelerator, self.images, *decoding, kind) for kind in kinds}
        parts = [cached_pixels(accelerator, part, *decoding, records=True) for part in synthetic_parts]
        self.pixels = join([pixels, *parts])
        if missed := self.pixels.faces_missed[n:].sum():
            m = len(self.labels) - n
            accelerator.print(f"no face found in {missed} of {m} synthetic images: these are used whole")

    def identity(self, fold: protocols.Fold, seed: int) -> dict:
        """What a fold's model is trained as, and on which pictures, for records and comparisons.

        It is stored with everything made of the model, so that nothing of another fold, seed, dataset or experiment is
        mistaken for it."""
        synthetic_ids = self.synthetic.get("image_id", [])  # each begins with a digest of its dataset
        names = [*self.photographs, *synthetic_ids]
        trained_on = hashlib.sha256("\n".join(names[row] for row in fold.train.tolist()).encode()).hexdigest()
        of_run = {"protocol": fold.protocol, "settings": self.settings_sha256}
        return of_run | {"fold": fold.number, "seed": seed, "trained_on": trained_on}

    def seen_photographs(self, fold: protocols.Fold) -> frozenset[str]:
        """Digests of all photographs that a model of the fold has learnt from, its backbone's and readers' included."""
        trained_on = fold.train[fold.train < len(self.photographs)].tolist()
        of_readers = self.knowledge.photographs() if self.knowledge else ()
        return self.backbone.seen_photographs.union((self.photographs[row] for row in trained_on), of_readers)

    def is_finished(self, job: Job) -> bool:
        """Whether a job's folder holds all that the job would leave there.

        Raises InputError for a folder with predictions or a model of another fold, seed, dataset or experiment."""
        sides = {"val": job.fold.val, "test": job.fold.test}
        identity, model = self.identity(job.fold, job.seed), job.folder / "model"
        finished = run_results.is_finished(job.folder, identity, self.image_columns, sides)
        if finished and (model / "config.json").is_file():
            weights = model / weights_name(read_config(model)["recipe"])
            if not weights.is_file() or read_seen_photographs(weights) != self.seen_photographs(job.fold):
                reason = "has learnt from other photographs than this fold's, or is incomplete"
                raise InputError(f"{model} {reason}; delete {job.folder}, the fold is then done again")
        return finished

    def dataset_record(self) -> dict:
        """For run.json: what the dataset is known by. Runs of the same photographs have the same `photographs`."""
        images = self.images
        known_by = {"fingerprint": images._fingerprint, "photographs": photographs_digest(images)}
        return known_by | {"config_name": images.config_name, "n_images": len(images)}

    def record(self, accelerator: Accelerator) -> dict:
        """For run.json: the data, how the network saw them, and on what it ran."""
        return {
            "dataset": self.dataset_record(),
            "simulated": self.is_simulated,
            "warnings": self.warnings,
            "input": run_results.network_input(self.backbone),
            "faces_missed": int(self.pixels.faces_missed[: len(self.images)].sum()),
            "mixed_precision": accelerator.mixed_precision,
            **device_record(accelerator),
        }


def open_study(
    images: datasets.Dataset, labels: np.ndarray, backbone: Backbone, names: dict[str, str], settings_sha256: str
) -> Study:
    """A study of photographs, before they are decoded; labels (n,): perhaps shuffled; names: see Study."""
    columns = run_results.image_columns(images, labels)
    return Study(images, photograph_sha256(images), columns, backbone, names, settings_sha256)


def open_folds(
    images: datasets.Dataset,
    protocol: str,
    number: int | None,
    explained: Sequence[str] = (),
    left_out: Sequence[str] | None = None,
) -> list[protocols.Fold]:
    """The folds of a protocol, none of which leaks, or the one of this number.

    explained: image_ids that must be held out in one of them. left_out: None, or for folds that hold out conditions
    whole (protocols.unseen_folds) the conditions of a single one. Raises InputError, ProtocolError and LeakError."""
    of_unseen = left_out is not None
    folds = folds_of_unseen(images, left_out, number) if of_unseen else protocols.folds(images, protocol, number)
    for fold in folds:
        check_fold(fold, images)
    image_ids = np.array(images["image_id"][:])
    (image_id, times), *_ = Counter(image_ids.tolist()).most_common(1)
    if times > 1:
        raise InputError(f"image_id {image_id} stands in {times} rows; build the dataset with rdface_dataset.py")
    held_out = {image_id for fold in folds for image_id in image_ids[fold.test]}
    for image_id in explained:
        if image_id not in held_out:
            raise InputError(f"--explain {image_id}: no image of that name is held out in these folds")
    return folds


def folds_of_unseen(images: datasets.Dataset, left_out: Sequence[str], number: int | None) -> list[protocols.Fold]:
    """Folds that hold out whole conditions; see protocols.unseen_folds. Raises InputError and ProtocolError."""
    names, there = images.features["label"].names, set(images["label"][:])
    for name in left_out:
        if name not in names or names.index(name) not in there:
            raise InputError(f"--left_out {name}: the dataset has no photograph of such a condition; correct the name")
    folds = protocols.unseen_folds(images, names, sorted(set(left_out)))
    if number is not None and number >= len(folds):
        raise InputError(f"--fold {number}: --k_shot 0 has folds 0 to {len(folds) - 1} here; name one of them")
    return folds if number is None else [folds[number]]


def refuse_backbone_that_saw_held_out(
    backbone: Backbone, name: str, images: datasets.Dataset, folds: Sequence[protocols.Fold]
) -> None:
    """Raise LeakError if the backbone was trained on a photograph that one of the folds holds out.

    name: of the backbone, for the message."""
    if not backbone.seen_photographs:
        return
    columns = {**columns_for_guard(images), "sha256": photograph_sha256(images)}
    for fold in folds:
        guard = Guard(protocols.of_photographs(fold, len(images)), columns)
        guard.admit_weights(backbone.seen_photographs, name)


def warnings_about(backbone: Backbone, name: str, images: datasets.Dataset) -> list[str]:
    """A warning, for the screen and run.json, if the backbone knows simulated faces alone and the dataset is not
    simulated; else nothing. name: of the backbone."""
    if not backbone.of_simulated_faces or is_simulated(images):
        return []
    reason = "was trained on simulated faces alone, and this dataset is not simulated"
    return [f"{name} {reason}: expect no meaningful scores; name another --backbone"]


def rows_of(study: Study, jobs: Sequence[Job]) -> np.ndarray:
    """Row numbers of all photographs, and of the synthetic images in any of the jobs' folds, sorted."""
    in_folds = [rows for job in jobs for rows in (job.fold.train, job.fold.val)]
    return np.union1d(np.arange(len(study.images)), np.concatenate(in_folds))


def extract_features(accelerator: Accelerator, study: Study, rows: np.ndarray, batch_size: int) -> np.ndarray:
    """The features on which a linear probe is fitted, (n + m, d) float32, each computed once; alike on all processes.

    rows (r,): the images whose features are needed; all others stay nan. Raises InputError if a feature is not
    finite."""
    features = features_of(accelerator, study.backbone, study.pixels.uint8, rows, batch_size)
    bad = rows[~np.isfinite(features[rows]).all(axis=1)]
    if len(bad):
        image_id = study.image_columns["image_id"][bad[0]]
        raise InputError(f"image {image_id}: features are not finite; use --mixed_precision no")
    return features
