"""The Parquet files of a dataset's folder: what tells their content apart, and rows taken out without a trace."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from runs import write_atomically


def sha256_of(file: Path) -> str:
    """64 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def shard_digests(folder: Path, pattern: str = "*/*.parquet") -> dict[str, str]:
    """SHA-256 of each Parquet file of a dataset's folder, by its name below that folder."""
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.glob(pattern))}


def parquet_digest(shards: dict[str, str]) -> str:
    """One digest of several files (shard_digests): it changes with any byte, name, or number of them."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in shards.items()).encode()).hexdigest()


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> bool:
    """Write a Parquet file anew, row group by row group, with `change` done to each; False, and untouched, if that
    changes nothing. Layout and schema stay; a file that loses its last row is removed."""
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
    """As the builder writes: pictures as they are, other columns compressed, a page index for the Hub's viewer."""
    first = file.metadata.row_group(0)
    columns = [first.column(n) for n in range(first.num_columns)]
    compression = {c.path_in_schema: c.compression.replace("UNCOMPRESSED", "NONE") for c in columns}
    dictionary = [column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings]
    schema = file.schema_arrow
    layout = {"compression": compression, "use_dictionary": dictionary, "use_content_defined_chunking": True}
    with pq.ParquetWriter(path, schema, write_page_index=True, **layout) as writer:
        for number in range(file.num_row_groups):
            table = change(file.read_row_group(number))
            if table.num_rows:
                writer.write_table(table, row_group_size=table.num_rows)


def renumber(config: Path) -> None:
    """Names of the shards that are left, train-00000-of-..., after one may have gone."""
    shards = sorted(config.glob("train-*.parquet"))
    for number, path in enumerate(shards):
        os.replace(path, config / f"train-{number:05d}-of-{len(shards):05d}.parquet")
    if not shards and config.is_dir():
        config.rmdir()
