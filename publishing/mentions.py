"""Takes a withdrawn photograph out of rows: its own go, and those of other pictures stay but no longer mention it.

    groups = group_names(Path("rdface"), "AAR.1")
    table = without(table, path, Photograph("AAR.1", digests), groups)

A row is the photograph's if it is about it, or of a picture that was made from it. Any other row may name it all the
same: a group has the name of its first photograph, the filter names the nearest photograph, a curator's remark another
one. Such a group gets the name of the next photograph in it, as the next build would call it, and the name leaves the
other cells.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from publishing.published_columns import OPEN_CONFIGS, REAL_CONFIGS

OWN = ("image_id", "source_image_ids", "source_sha256", "sha256", "original_sha256")  # tell whose a dataset's row is
GROUPS = ("group_id", "subject")  # hold the name of a group, in datasets and in predictions
REFERENCES = (*GROUPS, "subject_id", "nearest_real_id", "nearest_real_id_by_lpips", "reject_reason")
GONE = "(withdrawn)"  # stands for its name in texts


@dataclasses.dataclass(frozen=True)
class Photograph:
    """digests: SHA-256 of its bytes, and of the pictures restored from it; pixels: of the pixels of these."""

    image_id: str
    digests: frozenset[str] = frozenset()
    pixels: frozenset[str] = frozenset()


def word(image_id: str) -> re.Pattern:
    return re.compile(rf"(?<![\w.]){re.escape(image_id)}(?!\w)")


def group_names(folder: Path, image_id: str) -> dict[str, str]:
    """image_id -> group_id of config real's other photographs, without a group that has the withdrawn one's name.

    The same before and after the withdrawal, and between: its files are rewritten from the last to the first."""
    rows = []
    for path in sorted(folder.glob("real/*.parquet")):
        if "group_id" in pq.read_schema(path).names:
            rows += pq.read_table(path, columns=["image_id", "group_id"]).to_pylist()
    rows = [row for row in rows if row["image_id"] != image_id]
    renamed = next((row["image_id"] for row in rows if row["group_id"] == image_id), None)
    return {row["image_id"]: renamed if row["group_id"] == image_id else row["group_id"] for row in rows}


def without(table: pa.Table, path: Path, photograph: Photograph, groups: Mapping[str, str]) -> pa.Table:
    """The rows that are not the photograph's, which no longer mention it; path: of the file that they come from."""
    table = table.filter(pa.array([not is_its for is_its in is_its_own(table, path, photograph)], pa.bool_()))
    for index, field in enumerate(table.schema):
        if field.name in GROUPS:
            values = _renamed(table, field.name, photograph, groups)
        elif may_name(field.type):
            values = [_cleared(value, photograph) for value in table[field.name].to_pylist()]
        else:
            continue
        if values != table[field.name].to_pylist():
            table = table.set_column(index, field, pa.array(values, field.type))
    return table


def effect(path: Path, photograph: Photograph) -> tuple[int, int]:
    """How many rows of a Parquet file are the photograph's, and how many others mention it; (0, 0) for half a file."""
    gone = cleared = 0
    try:
        with pq.ParquetFile(path) as file:
            light = [field.name for field in file.schema_arrow if may_name(field.type)]
            for number in range(file.num_row_groups if light else 0):
                table = file.read_row_group(number, columns=light)
                is_its = is_its_own(table, path, photograph)
                others = table.filter(pa.array([not its for its in is_its], pa.bool_()))
                left = without(others, path, photograph, {})
                gone += sum(is_its)
                cleared += sum(a != b for a, b in zip(others.to_pylist(), left.to_pylist(), strict=True))
    except (pa.ArrowException, OSError):
        return 0, 0
    return gone, cleared


def is_its_own(table: pa.Table, path: Path, photograph: Photograph) -> list[bool]:
    """Whether each row is the photograph's. In a file of another kind than a dataset's every text tells, apart from
    those that only refer to some photograph."""
    in_dataset = path.parent.name in REAL_CONFIGS + OPEN_CONFIGS
    telling = [
        field.name
        for field in table.schema
        if may_name(field.type) and (field.name in OWN if in_dataset else field.name not in REFERENCES)
    ]
    columns = [table[name].to_pylist() for name in telling]
    rows = zip(*columns, strict=True) if columns else [()] * len(table)
    return [any(_names(value, photograph) for value in row) for row in rows]


def may_name(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are texts, or lists of texts."""
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _names(value: object, photograph: Photograph) -> bool:
    """Whether a text, or one of a list, is the photograph's identifier or digest, or speaks of it."""
    if isinstance(value, list):
        return any(_names(part, photograph) for part in value)
    return isinstance(value, str) and (value in photograph.digests or bool(word(photograph.image_id).search(value)))


def _cleared(value: object, photograph: Photograph) -> object:
    """A cell without the photograph's name: null if it is nothing else, and shorter if it is a list."""
    if isinstance(value, list):
        parts = [_cleared(part, photograph) for part in value]
        return [part for part, before in zip(parts, value, strict=True) if part is not None or before is None]
    if not isinstance(value, str) or not _names(value, photograph):
        return value
    is_name = value in photograph.digests or value.strip() == photograph.image_id
    return None if is_name else word(photograph.image_id).sub(GONE, value)


def _renamed(table: pa.Table, column: str, photograph: Photograph, groups: Mapping[str, str]) -> list[str | None]:
    """The names of groups. Members that config real no longer holds go with the others, or are called by the first."""
    names = table[column].to_pylist()
    if photograph.image_id not in names:
        return names
    image_ids = table["image_id"].to_pylist() if "image_id" in table.column_names else [None] * len(table)
    members = [member for member, name in zip(image_ids, names, strict=True) if name == photograph.image_id]
    known = [groups[member] for member in members if member in groups]
    other = known[0] if known else members[0]
    return [
        groups.get(member, other) if name == photograph.image_id else name
        for member, name in zip(image_ids, names, strict=True)
    ]
