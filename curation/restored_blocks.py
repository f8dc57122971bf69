"""Blocks of restored photographs, each a Parquet file that is written whole, so that a stopped run can go on."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from curation.restored_rows import Networks, restore_block, was_made_of
from curation.schema import restored_features
from harness.files import write_atomically
from harness.launched_processes import own_share
from imaging.restoration_settings import RestorationSettings

BLOCK_ROWS = 8  # photographs per block: the same ones, whatever the number of processes


def block_files(folder: Path, n_photographs: int) -> list[Path]:
    """The file of each block, in the order of the photographs."""
    return [folder / f"{number:06d}.parquet" for number in range(-(-n_photographs // BLOCK_ROWS))]


def restore_blocks(
    accelerator: Accelerator,
    images: datasets.Dataset,
    networks: Networks,
    files: Sequence[Path],
    settings: RestorationSettings,
) -> list[str]:
    """Write the blocks that are missing, each process its own share.

    files: as block_files. Returns what failed, one text per photograph, from all processes together."""
    undecoded = images.cast_column("image", datasets.Image(decode=False))
    schema = restored_features(images.features).arrow_schema
    if accelerator.is_main_process:
        remove_unusable(files, undecoded, schema)
    accelerator.wait_for_everyone()
    failures = []
    own = own_share(accelerator, [number for number, file in enumerate(files) if not file.exists()])
    for number in tqdm(own, desc="blocks", unit="block", disable=not accelerator.is_main_process):
        restored, failed = restore_block(rows_of_block(undecoded, number), networks, settings, accelerator.autocast)
        failures += failed
        if not failed:
            columns = [{name: row[name] for name in schema.names} for row in restored]
            table = pa.Table.from_pylist(columns, schema=schema)
            write_atomically(files[number], lambda file, table=table: pq.write_table(table, file, row_group_size=1))
    return sorted(gather_object(failures))


def remove_unusable(files: Sequence[Path], undecoded: datasets.Dataset, schema: pa.Schema) -> None:
    """Remove the blocks of an earlier run that were cut short, or were made of other photographs or values."""
    for number, file in enumerate(files):
        if file.exists() and not is_block_of(file, rows_of_block(undecoded, number), schema):
            print(f"block {number + 1} of {len(files)} holds other photographs, or was cut short; it is made again")
            file.unlink()


def rows_of_block(undecoded: datasets.Dataset, number: int) -> list[dict]:
    start = number * BLOCK_ROWS
    return [undecoded[row] for row in range(start, min(start + BLOCK_ROWS, len(undecoded)))]


def is_block_of(file: Path, rows: list[dict], schema: pa.Schema) -> bool:
    """Whether the file of a block is whole, and was made of these photographs with everything recorded of them."""
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException):
        return False
    if not table.schema.equals(schema) or len(table) != len(rows):
        return False
    return all(was_made_of(restored, row) for restored, row in zip(table.to_pylist(), rows, strict=True))
