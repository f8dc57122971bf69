"""A copy of a dataset's folder that holds what is published of it, made of its rows alone.

    with published_copy(Path("rdface"), own_columns=["camera"]) as copy:
        contents = publishable.examine(copy.folder)

Parquet files are written anew from the columns that are published, so that nothing leaves that is no value of a row:
footers, unused dictionaries, bytes between pages. Of files that this project wrote the copy has the very same bytes.
Figures and the Croissant record are made again, and the card lists the columns of the copy.
"""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from curation import withdrawn_list
from curation.parquet_files import open_writer, parquet_digest, shard_digests
from harness.errors import InputError, one_line
from publishing import publishable
from publishing.private_text import private_text
from publishing.published_columns import OPEN_CONFIGS, REAL_CONFIGS, known_columns, schema_problems

NAMED = 20  # problems that are printed
REMAKE = "make the dataset again"
COPIED = ("README.md", "LICENSE", withdrawn_list.LIST_NAME)  # texts that are examined afterwards


@dataclasses.dataclass
class PublishedCopy:
    folder: Path
    stays: list[str]  # paths of all files that stay in the curator's folder
    held_back: dict[str, list[str]]  # config -> the curator's own columns that stay


@contextlib.contextmanager
def published_copy(folder: Path, own_columns: Collection[str] = ()) -> Iterator[PublishedCopy]:
    """The copy, beside the folder and readable by its owner alone; it is removed at the end.

    Copies that a killed run left are removed first. Raises InputError, with a line for each problem, if a column must
    not be published; and for a name in own_columns that no config has."""
    files, stays, problems = publishable.sorted_files(folder)
    remove_leftovers(folder)
    home = folder.resolve()
    schemas = _schemas(files)
    _refuse(folder, schemas, own_columns, problems)
    place = Path(tempfile.mkdtemp(prefix=f".{home.name}.publishing-", dir=home.parent))  # of mode 0700
    lock = FileLock(place / "lock", timeout=0)
    try:
        lock.acquire()
        copy = PublishedCopy(place / home.name, stays, {})
        copy.folder.mkdir()
        for config, shards in schemas.items():
            copy.held_back[config] = _copy_config(shards, copy.folder / config, own_columns)
        _write_texts(files, copy.folder)
        yield copy
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Removes the copies of a folder that killed runs left."""
    home = folder.resolve()
    for place in home.parent.glob(f".{home.name}.publishing-*"):
        with contextlib.suppress(Timeout, OSError), FileLock(place / "lock", timeout=0):
            shutil.rmtree(place, ignore_errors=True)


def _schemas(files: dict[str, Path]) -> dict[str, dict[Path, pa.Schema]]:
    """Config -> Parquet file -> its columns."""
    schemas: dict[str, dict[Path, pa.Schema]] = {}
    for name in publishable.shards_in(files):
        try:
            schemas.setdefault(name.split("/")[0], {})[files[name]] = pq.read_schema(files[name])
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{name}: cannot be read ({one_line(error)}); {REMAKE}") from error
    return schemas


def _refuse(
    folder: Path, schemas: dict[str, dict[Path, pa.Schema]], own_columns: Collection[str], problems: list[str]
) -> None:
    """problems: those that are known already."""
    problems, seen = list(problems), set()
    for config, shards in schemas.items():
        first = next(iter(shards.values()))
        seen |= set(first.names) - set(known_columns(config, first.names))
        problems += schema_problems(config, first, known_columns(config, first.names), own_columns)
        for path, columns in shards.items():
            if not columns.equals(first):
                problems.append(f"{config}/{path.name}: has other columns than the first file; {REMAKE}")
    for name in own_columns:
        if schemas and name not in seen:
            there = ", ".join(sorted(seen)) or "none"
            reason = f"no config has a column of the curator's own of this name; there is {there}"
            problems.append(f"--publish_columns {name}: {reason}")
    if problems:
        lines = "\n".join(problems[:NAMED])
        more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise InputError(f"{lines}\n{folder}: not published, for the reasons above{more}; nothing was sent")


def _copy_config(shards: dict[Path, pa.Schema], target: Path, own_columns: Collection[str]) -> list[str]:
    """Writes the files of a config with the columns that are published; returns the names of the others."""
    from datasets import ClassLabel, Features

    first = next(iter(shards.values()))
    known = known_columns(target.name, first.names)
    wanted = {}
    for name in first.names:
        if name in known:
            wanted[name] = known[name]
            if isinstance(known[name], ClassLabel):
                wanted[name] = ClassLabel(names=_class_names(target.name, first, name))
        elif name in own_columns:
            wanted[name] = _plain(first.field(name).type)
    columns = Features(wanted).arrow_schema
    target.mkdir()
    for path in shards:
        try:
            with pq.ParquetFile(path) as file, open_writer(target / path.name, columns) as writer:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number, columns=list(wanted)).select(list(wanted))
                    if table.num_rows:
                        writer.write_table(table.cast(columns), row_group_size=table.num_rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{target.name}/{path.name}: cannot be read ({one_line(error)}); {REMAKE}") from error
    return [name for name in first.names if name not in wanted]


def _class_names(config: str, columns: pa.Schema, label: str) -> list[str]:
    """The classes that the files' metadata lists, as `datasets` writes it."""
    try:
        names = json.loads(columns.metadata[b"huggingface"])["info"]["features"][label]["names"]
        names = [str(name) for name in names]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{config}: column {label} names no classes; {REMAKE}") from error
    if any(private_text(name) for name in names):
        raise InputError(f"{config}: column {label} names a class by what may be private; {REMAKE}")
    return names


def _plain(kind: pa.DataType) -> object:
    """The type in `datasets` of a curator's own column, without dictionaries, whose unused entries nobody examines."""
    from datasets import List, Value

    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return List(_plain(kind.value_type))
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    numbers = {"double": "float64", "float": "float32", "halffloat": "float16"}  # Arrow's names and those of `datasets`
    return Value("string" if is_text else numbers.get(str(kind), str(kind)))


def _write_texts(files: dict[str, Path], copy: Path) -> None:
    """Copies the texts, and makes figures, Croissant record and the card's list of columns from the copy's rows."""
    for name in COPIED:
        if name in files:
            shutil.copyfile(files[name], copy / name)
    if not _describes(files["README.md"].parent, files["README.md"].parent):
        raise InputError("README.md: was not made of these Parquet files; make the dataset again")
    from curation import datasheet  # imports datasets

    datasheet.write_figures_and_record(copy)


def _describes(card: Path, files: Path) -> bool:
    """Whether a folder's card is about a folder's Parquet files as they are."""
    from curation import datasheet  # imports datasets

    configs = [name for name in REAL_CONFIGS + OPEN_CONFIGS if any(files.glob(f"{name}/train-*.parquet"))]
    return all(
        datasheet.described_content(card, name) == parquet_digest(shard_digests(files, f"{name}/train-*.parquet"))
        for name in configs
    )
