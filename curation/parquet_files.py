"""The Parquet files of a dataset's folder: their layout, digests of their content, and rows taken out of them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.files import sha256_of, write_atomically

# The Hub's viewer reads a whole row group to show one row of it.
MAX_ROW_GROUP_ROWS, MAX_ROW_GROUP_BYTES, MAX_SHARD_BYTES = 100, 100_000_000, 500_000_000
CONTENT = "content "  # in a card, before the digest of a config's files


def shard_digests(folder: Path, pattern: str = "*/*.parquet") -> dict[str, str]:
    """SHA-256 of each Parquet file of a dataset's folder, by its name below that folder."""
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.glob(pattern))}


def parquet_digest(shards: dict[str, str]) -> str:
    """One digest of several files (shard_digests): it changes with any byte, name, or number of them."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in shards.items()).encode()).hexdigest()


def card_entry(config: str, shards: dict[str, str]) -> dict:
    """What the header of a dataset's card says of one config's files; shards: shard_digests of these.

    load_dataset knows a local dataset by its folder's name and this header alone: without the digest it would go on
    showing its copy of the old rows after another build."""
    files = [{"split": "train", "path": f"{config}/train-*.parquet"}]
    return {"description": f"{CONTENT}{parquet_digest(shards)}", "data_files": files}


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> bool:
    """Write a Parquet file anew, with `change` applied to each row group; layout and schema stay.

    Returns False, and leaves the file untouched, if that changes nothing. A file that loses its last row is removed."""
    with pq.ParquetFile(path) as file:
        light = [name for name in file.schema_arrow.names if name != "image"]
        before = [file.read_row_group(n, columns=light) for n in range(file.num_row_groups)]
        if all(change(table).equals(table) for table in before):
            return False
        left = sum(change(table).num_rows for table in before)
        if left:
            write_atomically(path, lambda partial: _write_groups(file, partial, change))
    if not left:
        path.unlink()
    return True


def _write_groups(file: pq.ParquetFile, path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with open_writer(path, file.schema_arrow) as writer:
        for number in range(file.num_row_groups):
            table = change(file.read_row_group(number))
            if table.num_rows:
                writer.write_table(table, row_group_size=table.num_rows)


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Writes as `datasets` does: pictures as they are, other columns compressed, a page index for the Hub's viewer."""
    from datasets import Features, config  # slow to import, and not needed to read
    from datasets.arrow_writer import get_parquet_column_options

    columns = get_parquet_column_options(Features.from_arrow_schema(schema), schema)
    chunking = config.DEFAULT_CDC_OPTIONS
    writer = pq.ParquetWriter(path, schema, write_page_index=True, use_content_defined_chunking=chunking, **columns)
    writer.add_key_value_metadata({"content_defined_chunking": json.dumps(chunking)})
    return writer


def renumber(config: Path) -> None:
    """Name the shards train-00000-of-... again, after one of them may have been removed."""
    shards = sorted(config.glob("train-*.parquet"))
    for number, path in enumerate(shards):
        os.replace(path, config / f"train-{number:05d}-of-{len(shards):05d}.parquet")
    if not shards and config.is_dir():
        config.rmdir()


def write_shards(parts: list[Path], folder: Path) -> None:
    """Write all parts, in their order, as train-*.parquet in the builder's layout; one row group is held in memory."""
    folder.mkdir(parents=True)
    shards, writer = [], None
    for table in row_groups(parts):
        if writer is None:
            shards.append(folder / f"shard-{len(shards):05d}.parquet")
            writer = open_writer(shards[-1], table.schema)
        writer.write_table(table, row_group_size=len(table))
        if shards[-1].stat().st_size >= MAX_SHARD_BYTES:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    for number, shard in enumerate(shards):
        shard.rename(folder / f"train-{number:05d}-of-{len(shards):05d}.parquet")


def row_groups(parts: list[Path]) -> Iterator[pa.Table]:
    """The rows of all parts in groups of limited size; a row that exceeds the limit alone is a group of its own."""
    waiting, waiting_bytes = [], 0
    for part in parts:
        with pq.ParquetFile(part) as file:
            for number in range(file.num_row_groups):  # of one row each
                row = file.read_row_group(number)
                if waiting and (len(waiting) == MAX_ROW_GROUP_ROWS or waiting_bytes + row.nbytes > MAX_ROW_GROUP_BYTES):
                    yield pa.concat_tables(waiting)
                    waiting, waiting_bytes = [], 0
                waiting.append(row)
                waiting_bytes += row.nbytes
    yield pa.concat_tables(waiting)
