"""The record of what a generator was trained on, which its file carries and which is compared before each use.

    check(adapters.record_of(folder), expected, f"adapter {folder}", "delete that folder, it is then trained again")

A file's folder and name prove nothing: a file copied from another fold, run or dataset would make images that claim
sources which it never saw. Photographs are identified by digests (curation.opening.photograph_sha256), never by names.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from curation.protocols import Fold
from harness.errors import InputError, LeakError

SOURCES_NAME = "sources.json"  # beside an adapter or generator: the content of `sources`


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """The photographs that one generator may see, and the settings that determine its weights.

    It holds no image_id, because it is stored in files that may be published."""

    protocol: str
    fold: int | None  # None: under `paper`
    condition: str | None  # None: all
    dataset: str  # fingerprint
    source_sha256: list[str]  # of every photograph, in the dataset's order
    seed: int
    k_shot: int | None
    settings_sha256: str

    @staticmethod
    def on(
        fold: Fold,
        rows: Sequence[int],
        condition: str | None,
        dataset: str,
        digests: Sequence[str],
        seed: int,
        k_shot: int | None,
        settings_sha256: str,
    ) -> "TrainedOn":
        """The record of a generator that sees these rows of the dataset in this fold; digests (n,): of all its rows."""
        seen = [digests[row] for row in rows]
        return TrainedOn(fold.protocol, fold.number, condition, dataset, seen, seed, k_shot, settings_sha256)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def named(self) -> str:
        return " ".join([name_of(self.protocol, self.fold), *([self.condition] if self.condition else [])])


def name_of(protocol: str, fold: int | None) -> str:
    return f"{protocol} fold {fold}" if fold is not None else f"protocol {protocol}"


def sources(source_image_ids: Sequence[str], record: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a sources.json, which stays where the files are: photographs by name and by digest."""
    named = {"source_image_ids": list(source_image_ids)}
    return named | {name: record[name] for name in ("source_sha256", "protocol", "fold", "dataset")}


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings as 64 hexadecimal digits; the order of the settings does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def check(record: Any, expected: TrainedOn, what: str, remedy: str) -> None:
    """Raise LeakError if a file's record lists photographs other than the expected ones, and InputError if it is not a
    record or differs in anything else.

    record: as it was read; what: the file or folder, for messages; remedy: what the user should do."""
    if not _is_record(record):
        raise InputError(f"{what} does not say what it was trained on (of an older version, or foreign); {remedy}")
    check_sources(record["source_sha256"], expected, f"{what} ({_described(record)})", "was trained on", remedy)
    for name, value in expected.as_dict().items():
        if record[name] != value:
            raise InputError(f"{what} was trained with {name} {record[name]}, and here it is {value}; {remedy}")


def check_sources(seen: Sequence[str], expected: TrainedOn, what: str, did: str, remedy: str) -> None:
    """Raise LeakError if one of the digests (n,) of photographs is not expected, InputError if they are not all the
    expected ones in their order. did: what was done with the photographs, for messages."""
    foreign = set(seen) - set(expected.source_sha256)
    if foreign:
        where = f"not training photographs of {expected.named()}"
        raise LeakError(f"{what} {did} {len(foreign)} photographs that are {where}; {remedy}")
    if list(seen) != expected.source_sha256:
        n = len(expected.source_sha256)
        raise InputError(
            f"{what} {did} {len(set(seen))} of the {n} training photographs of {expected.named()}; {remedy}"
        )


def _is_record(record: Any) -> bool:
    names = {field.name for field in dataclasses.fields(TrainedOn)}
    if not isinstance(record, Mapping) or not names <= set(record):
        return False
    digests = record["source_sha256"]
    return isinstance(digests, list) and all(isinstance(digest, str) for digest in digests)


def _described(record: Mapping[str, Any]) -> str:
    """What a record says its file belongs to, such as "of strict fold 0 AAR"."""
    condition = f" {record['condition']}" if record["condition"] else ""
    return f"of {name_of(record['protocol'], record['fold'])}{condition}"
