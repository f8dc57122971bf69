"""What a study knows besides its photographs: the conditions' annotated terms, and further people with known terms."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator

from classification.backbones import Backbone
from classification.extraction import features_of
from classification.knowledge_prior import Teachers
from curation import protocols, value_parsers
from curation.leak_guard import Guard
from curation.opening import codes_of_classes, guarded_columns, load_images, photograph_sha256
from harness.counts import counted
from harness.errors import InputError, LeakError
from harness.files import sha256_of
from imaging import near_duplicates
from imaging.pixel_cache import Pixels, cached_pixels
from phenotyping import condition_prior
from scoring.knowledge_use import LEAST_CONDITIONS

RULE = 2  # counts the changes of what knowledge does to predictions: no run goes on with folds of another rule


@dataclasses.dataclass
class Readers:
    """Further people with known terms, of one dataset."""

    name: str  # of the dataset, for messages
    images: datasets.Dataset  # r photographs
    profiles: np.ndarray  # (r, T)
    conditions: np.ndarray  # (r,) numbers that no class of the study and no other dataset of readers has
    pixels: Pixels | None = None  # once they are decoded


@dataclasses.dataclass
class Knowledge:
    """Of C classes by T terms, and of further people."""

    profiles: np.ndarray  # (C, T) in 0..1, nan in the row of a class without annotations
    terms: list[str]  # (T,)
    unknown: list[str]  # abbreviations of the classes without annotations
    table_sha256: str
    readers: list[Readers]
    teachers: Teachers | None = None  # the readers, once their features are extracted
    teaches_photographs: bool = True  # False: terms are looked for in synthetic images only
    unused_codes: list[str] = dataclasses.field(default_factory=list)  # of a curator's own table, of no condition here
    recorded: np.ndarray | None = None  # (n, T) of the study's photographs, if their recorded terms are used
    remarks: list[str] = dataclasses.field(default_factory=list)  # further lines for the screen

    @staticmethod
    def of_nothing(n_classes: int) -> "Knowledge":
        """No terms at all."""
        return Knowledge(np.zeros((n_classes, 0)), [], [], "", [], teaches_photographs=False)

    def identity(self) -> dict:
        """All that predictions depend on: digests, and the version of how knowledge counts."""
        fingerprints = sorted(people.images._fingerprint for people in self.readers)
        digests = {"term_table_sha256": self.table_sha256, "reader_fingerprints": fingerprints}
        return digests | {"knowledge_rule": RULE}

    def photographs(self) -> set[str]:
        """Digests of the readers' photographs."""
        return {digest for people in self.readers for digest in photograph_sha256(people.images)}

    def name(self) -> str:
        """For the name of the recipe."""
        if not self.teaches_photographs:
            return f"{counted(len(self.terms), 'annotated term')} looked for in synthetic images"
        n = sum(len(people.images) for people in self.readers)
        recorded = " (recorded ones of people who have some)" if self.recorded is not None else ""
        of_readers = f" and {counted(n, 'reader')}" if n else ""
        return f"knowledge of {counted(len(self.terms), 'term')}{recorded}{of_readers}"

    def notes(self) -> list[str]:
        """For the screen: of which classes nothing is known, and what of a --term_table is of no use here."""
        lines = []
        if self.unknown:
            lines.append(f"without annotations, and so without prior: {', '.join(self.unknown)}")
        if self.unused_codes:
            whose = "the dataset" + " or of the readers" * bool(self.readers)
            lines.append(condition_prior.about_unused(self.unused_codes, whose))
        return lines + self.remarks

    def summary(self) -> str:
        """For the screen: how much is known, the notes, and whether that is enough to be tested."""
        known = len(self.profiles) - len(self.unknown)
        annotated = f"{known} of {counted(len(self.profiles), 'class has', 'classes have')} annotated terms"
        lines = [f"knowledge: {annotated}, {len(self.terms)} in all", *self.notes()]
        if known < LEAST_CONDITIONS:
            required = f"{LEAST_CONDITIONS} annotated conditions are required to test whether terms help"
            lines.append(f"knowledge will not be used: {required}, and the dataset has {known}")
        lines += [f"readers {people.name}: {counted(len(people.images), 'photograph')}" for people in self.readers]
        return "\n".join(lines)

    def read(self, accelerator: Accelerator, backbone: Backbone, cache_dir: Path, batch_size: int) -> None:
        """Decode the readers' photographs, extract their features, and set `teachers`."""
        for number, people in enumerate(self.readers, start=1):
            decoding = (backbone.image_size, backbone.face_alignment, cache_dir)
            people.pixels = cached_pixels(accelerator, people.images, *decoding, records=True)
            rows = np.arange(len(people.images))
            features = features_of(accelerator, backbone, people.pixels.uint8, rows, batch_size)
            if not np.isfinite(features).all():
                raise InputError(f"--reader_dataset {people.name}: features are not finite; use --mixed_precision no")
            taught = Teachers(features, people.profiles, people.conditions, np.full(len(rows), number))
            self.teachers = taught if self.teachers is None else self.teachers.joined(taught)

    def refuse_own_photographs(self, folds: Sequence[protocols.Fold], images: datasets.Dataset) -> None:
        """Raise LeakError if readers are photographs of the study's `images` that one of the folds does not train on.

        This is what their digests tell before anything is decoded; refuse_held_out tells the rest."""
        image_ids, digests = images["image_id"][:], photograph_sha256(images)
        untrained = {row for fold in folds for row in set(range(len(images))) - set(fold.train.tolist())}
        image_of = {digests[row]: image_ids[row] for row in sorted(untrained, reverse=True)}
        for people in self.readers:
            if shown := [image_of[digest] for digest in photograph_sha256(people.images) if digest in image_of]:
                reason = f"{counted(len(shown), 'photograph')} of the dataset itself that a fold does not train on"
                remedy = "name a dataset of other people"
                raise LeakError(f"--reader_dataset {people.name} holds {reason}, such as {shown[0]}; {remedy}")

    def refuse_left_out(self, folds: Sequence[protocols.Fold], images: datasets.Dataset) -> None:
        """Raise LeakError if somebody with a condition that --k_shot 0 leaves out is among those who teach.

        images: of the study. Conditions are told apart by ORPHA code here, whatever they are called."""
        labels, names, codes = np.array(images["label"][:]), images.features["label"].names, codes_of_classes(images)
        for fold in folds:
            left_out = {codes[label]: names[label] for label in np.unique(labels[fold.test]) if codes[label]}
            for label in np.unique(labels[fold.train]) if fold.unseen else ():
                if codes[label] in left_out:
                    reason = f"{left_out[codes[label]]} is left out and {names[label]} is not, and both are ORPHA code"
                    remedy = "name both with --left_out, or build the dataset with one abbreviation"
                    raise LeakError(f"--k_shot 0: {reason} {codes[label]}; {remedy}")
            for people in self.readers if fold.unseen else ():
                theirs = codes_of_classes(people.images)
                if shown := [code for code in theirs if code in left_out]:
                    reason = (
                        f"holds people with {left_out[shown[0]]} (ORPHA code {shown[0]}), which --k_shot 0 leaves out"
                    )
                    remedy = "take out those with left-out conditions, or leave out others with --left_out"
                    raise LeakError(f"--reader_dataset {people.name} {reason}; {remedy}")

    def refuse_held_out(
        self, folds: Sequence[protocols.Fold], columns: Mapping[str, Sequence], records: np.ndarray
    ) -> None:
        """Raise LeakError if a reader is somebody whom one of the folds holds out, or a copy of such a photograph.

        columns: of the study's n photographs, as for Guard, with `pixels`; records (n,): of them. To be
        called when the readers' photographs have been decoded."""
        n = len(records)
        of_photographs = {name: values[:n] for name, values in columns.items()}
        for people in self.readers:
            described = guarded_columns(people.images, people.pixels.uint8)
            described["copies"] = near_duplicates.copies(people.pixels.records, records)
            for fold in folds:
                guard = Guard(protocols.of_photographs(fold, n), of_photographs)
                guard.admit_readers(described, people.name)


def open_knowledge(images: datasets.Dataset, term_table: Path | None, reader_names: Sequence[str]) -> Knowledge:
    """What is known of the classes of `images`, by ORPHA code; term_table: see condition_prior.read_term_table.

    Raises InputError for a table or dataset that cannot be used, for readers' photographs that are given twice, and if
    no class has annotations."""
    if term_table:
        table = condition_prior.read_term_table(term_table, value_parsers.exists_in_hpo)
        digest = sha256_of(term_table)
    else:
        table = condition_prior.project_table()
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
    names, codes = images.features["label"].names, codes_of_classes(images)
    opened = [(name, load_images(name)) for name in reader_names]
    refuse_repeated(opened)
    codes_of_readers = [codes_of_classes(people) for _, people in opened]
    all_codes = [*codes, *(code for of_dataset in codes_of_readers for code in of_dataset)]
    profiles, terms = condition_prior.profiles(all_codes, table)
    known = np.isfinite(profiles).all(axis=1) & (len(terms) > 0)
    unknown = [name for name, is_known in zip(names, known, strict=False) if not is_known]
    if len(unknown) == len(names):
        where = f"--term_table {term_table}" if term_table else "phenotyping/conditions.csv"
        raise InputError(
            f"{where}: none of the dataset's conditions is annotated there; give a table with --term_table"
        )
    unused = condition_prior.unused_codes(table, all_codes) if term_table else []
    readers, start = [], len(codes)
    for name, people in opened:
        of_classes = profiles[start : start + people.features["label"].num_classes]
        readers.append(open_readers(name, people, of_classes, terms, start))
        start += len(of_classes)
    renamed = about_renamed(images, readers)
    return Knowledge(profiles[: len(codes)], terms, unknown, digest, readers, unused_codes=unused, remarks=renamed)


def about_renamed(images: datasets.Dataset, readers: Sequence[Readers]) -> list[str]:
    """A line for each dataset of readers that calls conditions otherwise than the study's `images`, by ORPHA code."""
    names, lines = dict(zip(codes_of_classes(images), images.features["label"].names, strict=True)), []
    for people in readers:
        theirs = zip(codes_of_classes(people.images), people.images.features["label"].names, strict=True)
        others = [
            f"{code} is {names[code]} and {name}" for code, name in theirs if code and names.get(code, name) != name
        ]
        if others:
            reason = f"{counted(len(others), 'ORPHA code')} called otherwise in the dataset and in --reader_dataset"
            lines.append(f"WARNING: {reason} {people.name}, such as {others[0]}; are the codes right?")
    return lines


def refuse_repeated(opened: Sequence[tuple[str, datasets.Dataset]]) -> None:
    """Raise InputError for a photograph that stands twice among the readers, within a dataset or in two of them.

    opened: the name of each dataset, and its photographs."""
    first: dict[str, str] = {}
    repeated = []
    for name, people in opened:
        for image_id, digest in zip(people["image_id"][:], photograph_sha256(people), strict=True):
            place = f"{image_id} of {name}"
            if digest in first:
                repeated.append((first[digest], place))
            first.setdefault(digest, place)
    if repeated:
        earlier, later = repeated[0]
        reason = f"{earlier} and {later} are the same photograph ({len(repeated)} such), which would count twice"
        raise InputError(f"--reader_dataset: {reason}; name each dataset once, and take repeats out of one of them")


def open_readers(
    name: str, images: datasets.Dataset, of_classes: np.ndarray, terms: Sequence[str], first_number: int
) -> Readers:
    """The people of a dataset whose terms are known: those recorded for the photograph, or else its condition's.

    of_classes (c, T): profiles of the dataset's classes; first_number: of its conditions. Raises InputError for a
    photograph of whose terms nothing is known."""
    profiles = person_profiles(images, of_classes, terms)
    nothing = np.flatnonzero(~np.isfinite(profiles).all(axis=1))
    if len(nothing):
        image_id = images["image_id"][int(nothing[0])]
        reason = f"nothing is known of the terms of {image_id} ({len(nothing)} such): no hpo_ids, and no annotation"
        raise InputError(f"--reader_dataset {name}: {reason}; record them, or leave these photographs out")
    return Readers(name, images, profiles, first_number + np.array(images["label"][:]))


def person_profiles(images: datasets.Dataset, of_classes: np.ndarray, terms: Sequence[str]) -> np.ndarray:
    """What is known of the person on each photograph, (n, T): 1 and 0 for terms recorded for the photograph, or the
    frequencies (C, T) of its class if none are recorded.

    Recorded terms that are annotated for no condition at hand tell no conditions apart, and are left out."""
    profiles = of_classes[np.array(images["label"][:])]
    number_of = {term: i for i, term in enumerate(terms)}
    recorded = images["hpo_ids"][:] if "hpo_ids" in images.column_names else [None] * len(images)
    for row, hpo_ids in enumerate(recorded):
        if hpo_ids:
            profiles[row] = 0.0
            profiles[row, [number_of[hpo_id] for hpo_id in hpo_ids if hpo_id in number_of]] = 1.0
    return profiles
