"""Supports: the photographs of one condition and fold, which one DreamBooth adapter may see and no others.

Without an adapter a support has no photographs: its images are made from words alone."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np

from curation import protocols
from curation.leak_guard import Guard, check_fold
from curation.made_from import ADAPTER, ADAPTER_AND_WORDS, WORDS
from curation.opening import guarded_columns, photograph_sha256
from generation import synthetic_images
from generation.condition_prompts import ConditionPrompts
from generation.generator_choices import CONDITION, NONE, PHENOTYPE
from generation.phenotype_captions import Captions
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
    captions: Captions | None = None  # of its photographs, if each visit has another one
    adapter_kind: str = CONDITION  # one of ADAPTERS

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter that its images are sampled from; None: the base alone samples."""
        if self.adapter_kind == NONE:
            return None
        return self.folder / "adapters" / (PHENOTYPE if self.adapter_kind == PHENOTYPE else self.condition)

    @property
    def made_from(self) -> str:
        """What its images come from, one of made_from.MADE_FROM."""
        if self.adapter is None:
            return WORDS
        return ADAPTER_AND_WORDS if self.drawn else ADAPTER

    @property
    def part(self) -> Path:
        return self.work / f"{self.condition}.parquet"

    @property
    def begun(self) -> Path:
        """The images that are sampled so far, as long as they are not all: a part under another name, so that no
        process takes it for the finished one."""
        return self.work / "begun" / f"{self.condition}.parquet"

    @property
    def sources(self) -> synthetic_images.Sources:
        return synthetic_images.Sources(self.trained_on, self.image_ids)

    def caption(self, place: int, step: int) -> str:
        """What photograph `place` of its n is called at a training step."""
        return self.captions.at(int(self.rows[place]), step) if self.captions else self.prompts[place]

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
    drawn: Mapping[tuple[int | None, str], ConditionPrompts],
    output_dir: Path,
    seed: int,
    k_shot: int | None,
    settings_sha256: str,
) -> list[Support]:
    """A support for every fold and condition asked for, in the dataset's order. Call `admit` before training on them.

    prompts: row -> prompt; drawn: number of the fold and condition -> prompts of the images, if these are not the
    photographs'; seed, k_shot, settings_sha256: what each adapter's file says that it depends on."""
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
                drawn=drawn.get((fold.number, condition)),
            )
            supports.append(support)
    return supports


def open_word_supports(
    images: datasets.Dataset,
    folds: Sequence[protocols.Fold],
    conditions: Sequence[str],
    drawn: Mapping[tuple[int | None, str], ConditionPrompts],
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
            said = drawn[fold.number, condition]
            supports.append(Support(fold, condition, *own, trained_on, drawn=said, adapter_kind=NONE))
    return supports


def open_phenotype_support(
    images: datasets.Dataset,
    fold: protocols.Fold,
    captions: Captions,
    output_dir: Path,
    seed: int,
    k_shot: int | None,
    settings_sha256: str,
) -> Support:
    """The support of the one adapter of a fold that is trained on all photographs of its training side."""
    name, own = synthetic_images.folder_of(fold), fold.train.tolist()
    digests, image_ids = photograph_sha256(images), images["image_id"][:]
    record = (fold, own, None, images._fingerprint, digests, seed, k_shot, settings_sha256)
    places = (output_dir / name, output_dir / "work" / name)
    of_rows = (fold.train, [image_ids[row] for row in own], [])
    more = {"captions": captions, "adapter_kind": PHENOTYPE}
    return Support(fold, PHENOTYPE, *of_rows, *places, TrainedOn.on(*record), **more)


def sampled_from(
    support: Support,
    images: datasets.Dataset,
    conditions: Sequence[str],
    drawn: Mapping[tuple[int | None, str], ConditionPrompts],
) -> list[Support]:
    """A support for the images of each condition that are sampled from a phenotype adapter, in the dataset's order.

    drawn: by number of the fold and condition. They have the adapter's sources: all photographs of the training side.
    A condition that has none there is not named by its token, which the adapter has never seen."""
    names, labels = images.features["label"].names, images["label"][:]
    trained = {names[labels[row]] for row in support.rows.tolist()}
    supports = []
    for condition in [name for name in names if name in conditions]:
        prompts = drawn[support.fold.number, condition]
        prompts = prompts if condition in trained else dataclasses.replace(prompts, identifier="")
        supports.append(dataclasses.replace(support, condition=condition, captions=None, drawn=prompts))
    return supports


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
