"""Supports: the photographs of one condition and fold, which one DreamBooth adapter may see and no others.

Without an adapter a support has no photographs: its images are made from words alone."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np

from curation import protocols
from curation.leak_guard import Guard, check_fold
from curation.opening import guarded_columns, photograph_sha256
from generation import synthetic_images
from generation.condition_prompts import ConditionPrompts
from generation.generator_choices import CONDITION, NONE, PHENOTYPE
from generation.training_provenance import TrainedOn
from harness.errors import InputError
from harness.seeds import derived_seed
from imaging.pixel_cache import Pixels


@dataclasses.dataclass
class Support:
    """The photographs that one adapter may see, and the places of its results."""

    fold: protocols.Fold
    condition: str
    rows: np.ndarray  # (n,) of the dataset
    image_ids: list[str]
    prompts: list[str]  # (n,)
    folder: Path  # OUT/fold0, or OUT/paper
    work: Path  # OUT/work/fold0, of what is finished while the run goes on
    trained_on: TrainedOn | None = None  # what its adapter's file must say; None is enough to draw batches
    drawn: ConditionPrompts | None = None  # the prompts of its images, if they are not those of the photographs
    adapter_kind: str = CONDITION  # one of ADAPTERS

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter that its images are sampled from; None: the base alone samples."""
        if self.adapter_kind == NONE:
            return None
        return self.folder / "adapters" / (PHENOTYPE if self.adapter_kind == PHENOTYPE else self.condition)

    @property
    def part(self) -> Path:
        return self.work / f"{self.condition}.parquet"

    @property
    def sources(self) -> synthetic_images.Sources:
        return synthetic_images.Sources(self.trained_on, self.image_ids)

    def seed(self, seed: int, *more: int) -> int:
        """A seed for this fold and condition, and for whatever else `more` numbers."""
        return derived_seed(seed, self.fold.seed_number, synthetic_images.condition_number(self.condition), *more)


def open_folds(
    images: datasets.Dataset,
    protocol: str,
    number: int | None,
    conditions: Sequence[str] | None,
    k_shot: int | None,
    seed: int,
    every_one_trains: bool = True,
) -> list[protocols.Fold]:
    """The folds whose training sides the generators may see, or their support sets of k_shot photographs.

    number: of one fold, None for all; conditions: those asked for, None for all; seed: of the support sets;
    every_one_trains: whether each condition asked for needs a photograph of its own.
    Raises ProtocolError, LeakError, or InputError for conditions that cannot be trained or cannot name a folder."""
    names, labels = images.features["label"].names, images["label"][:]
    unknown = sorted(set(conditions or ()) - set(names))
    if unknown:
        raise InputError(f"--conditions {unknown[0]}: the dataset has no such condition; it has {', '.join(names)}")
    unfit = [name for name in names if Path(name).name != name or name.startswith(".")]
    if unfit:
        raise InputError(
            f"condition {unfit[0]!r} cannot name a folder; correct disease_abbr and build the dataset again"
        )
    folds = protocols.training_sides(images, protocol, number)
    for fold in folds:
        trained = {names[labels[row]] for row in fold.train.tolist()}
        missing = sorted(set(conditions or ()) - trained)
        if missing and every_one_trains:
            folder = synthetic_images.folder_of(fold)
            raise InputError(f"--conditions {missing[0]}: it has no training photograph in {folder}; leave it out")
    if k_shot:
        folds = [protocols.k_shot(fold, labels, k_shot, seed) for fold in folds]
    for fold in folds:
        check_fold(fold, images)
    return folds


def rows_of(fold: protocols.Fold, images: datasets.Dataset, conditions: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Condition -> its training photographs in a fold, (n,) rows, for the conditions asked for (None: all) that have
    any, in the dataset's order."""
    labels = np.array(images["label"][:])
    own = {
        condition: fold.train[labels[fold.train] == label]
        for label, condition in enumerate(images.features["label"].names)
        if not conditions or condition in conditions
    }
    return {condition: rows for condition, rows in own.items() if len(rows)}


def all_rows(images: datasets.Dataset, folds: Iterable[protocols.Fold], conditions: Sequence[str] | None) -> list[int]:
    """The rows of all photographs that any of the adapters will see, sorted."""
    own = [rows for fold in folds for rows in rows_of(fold, images, conditions).values()]
    return sorted({row for rows in own for row in rows.tolist()})


def open_supports(
    images: datasets.Dataset,
    folds: Sequence[protocols.Fold],
    conditions: Sequence[str] | None,
    prompts: dict[int, str],
    output_dir: Path,
    seed: int,
    k_shot: int | None,
    settings_sha256: str,
) -> list[Support]:
    """A support for every fold and condition asked for, in the dataset's order. Call `admit` before training on them.

    prompts: row -> prompt; seed, k_shot, settings_sha256: what each adapter's file says that it depends on."""
    image_ids, digests = images["image_id"][:], photograph_sha256(images)
    supports = []
    for fold in folds:
        name = synthetic_images.folder_of(fold)
        for condition, rows in rows_of(fold, images, conditions).items():
            own = rows.tolist()
            fingerprint = images._fingerprint
            trained_on = TrainedOn.on(fold, own, condition, fingerprint, digests, seed, k_shot, settings_sha256)
            support = Support(
                fold=fold,
                condition=condition,
                rows=rows,
                image_ids=[image_ids[row] for row in own],
                prompts=[prompts[row] for row in own],
                folder=output_dir / name,
                work=output_dir / "work" / name,
                trained_on=trained_on,
            )
            supports.append(support)
    return supports


def open_word_supports(
    images: datasets.Dataset,
    folds: Sequence[protocols.Fold],
    conditions: Sequence[str],
    output_dir: Path,
    seed: int,
    k_shot: int | None,
    settings_sha256: str,
) -> list[Support]:
    """A support without photographs for every fold and condition, in the dataset's order: only words are its source."""
    supports = []
    for fold in folds:
        name = synthetic_images.folder_of(fold)
        for condition in [name for name in images.features["label"].names if name in conditions]:
            trained_on = TrainedOn.on(fold, [], condition, images._fingerprint, [], seed, k_shot, settings_sha256)
            own = (np.array([], dtype=np.int64), [], [], output_dir / name, output_dir / "work" / name)
            supports.append(Support(fold, condition, *own, trained_on, adapter_kind=NONE))
    return supports


def give_prompts(supports: Iterable[Support], prompts: Mapping[tuple[int | None, str], ConditionPrompts]) -> None:
    """Let each support's images have prompts of their own; prompts: by number of the fold and condition."""
    for support in supports:
        support.drawn = prompts[support.fold.number, support.condition]


def admit(supports: Iterable[Support], images: datasets.Dataset, pixels: Pixels) -> None:
    """Raise LeakError if a support holds a photograph that a generator must not see. pixels: of all images."""
    columns, guards = guarded_columns(images, pixels.uint8), {}
    for support in supports:
        if id(support.fold) not in guards:
            guards[id(support.fold)] = Guard(support.fold, columns)
        guards[id(support.fold)].admit(support.rows, "a generator")


def by_folder(supports: Iterable[Support]) -> dict[Path, list[Support]]:
    """Folder of a fold -> its supports, in their order."""
    folders: dict[Path, list[Support]] = {}
    for support in supports:
        folders.setdefault(support.folder, []).append(support)
    return folders


def batches_of(supports: Iterable[Support], size: int) -> list[list[Support]]:
    """Supports of one fold, `size` at a time. What is finished already does not change the batches."""
    batches = []
    for own in by_folder(supports).values():
        batches += [own[start : start + size] for start in range(0, len(own), size)]
    return batches
