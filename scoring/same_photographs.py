"""Whether runs were made of the same photographs, as their run.json tells: equal image_ids prove nothing.

Two clinics may both have an image WIL.1. Therefore run.json holds a digest of the dataset's original photographs, which
config `restored` keeps (curation.opening.photographs_digest). Runs from before it was recorded hold a fingerprint of
the dataset alone: equal ones are the same photographs, different ones tell nothing.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import InputError
from harness.files import read_json
from harness.run_folder import RECORD_NAME, folder_of

REMEDY = "delete it, or run again"


@dataclasses.dataclass(frozen=True)
class Photographs:
    """What identifies those of a run or dataset; None: not recorded."""

    digest: str | None = None
    fingerprint: str | None = None


def photographs_of(record: Mapping) -> Photographs:
    """record: of run.json; {} without one."""
    dataset = record.get("dataset")
    values = [dataset.get(name) for name in ("photographs", "fingerprint")] if isinstance(dataset, dict) else []
    return Photographs(*(value if isinstance(value, str) else None for value in values))


def record_of(run: Path) -> dict:
    """The run.json beside a run's files; {} if there is none. run: its folder, or a file in it. Raises InputError for
    one that is damaged."""
    file = folder_of(run) / RECORD_NAME
    return read_json(file, REMEDY) if file.is_file() else {}


def same(one: Photographs, other: Photographs) -> bool | None:
    """None: their records do not tell."""
    if one.digest and other.digest:
        return one.digest == other.digest
    return True if one.fingerprint and one.fingerprint == other.fingerprint else None


def groups_of(photographs: Sequence[Photographs]) -> list[list[int]]:
    """Which of several runs may be compared with one another, as positions, if their image_ids are the same.

    Runs that do not tell are taken for runs of the others' photographs if these are all the same; beside runs of
    several datasets, they are compared among themselves alone."""
    known = {one.fingerprint: one.digest for one in photographs if one.fingerprint and one.digest}
    digests = [one.digest or known.get(one.fingerprint) for one in photographs]
    if len({digest for digest in digests if digest}) < 2:
        return [list(range(len(photographs)))]
    return [[i for i, digest in enumerate(digests) if digest == one] for one in dict.fromkeys(digests)]


def same_in_both(a: Sequence[Path], b: Sequence[Path]) -> bool | None:
    """Whether all runs of two sides were made of the same photographs; None if a record does not tell.

    Raises InputError if two runs were made of different ones."""
    found = [(run, photographs_of(record_of(run))) for run in (*a, *b)]
    told = []
    for (one, of_one), (other, of_other) in itertools.combinations(found, 2):
        told.append(same(of_one, of_other))
        if told[-1] is False:
            reason = f"{one} and {other} were made of different photographs, whatever their image_ids say"
            raise InputError(f"{reason}; compare runs of one dataset (its restored photographs count as the same)")
    return None if None in told else True
