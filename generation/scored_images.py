"""Synthetic images with their scores: written block by block, so that scoring can be stopped and resumed, then joined.

A block's scores are a small Parquet file without pictures. Once all are there and the images to keep are chosen, the
pictures are copied beside their scores, one block at a time."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from curation import datasheet
from curation.parquet_files import write_shards
from curation.schema import scored_features
from harness.files import write_atomically


def write_scores(file: Path, columns: Mapping[str, np.ndarray]) -> None:
    """A block's scores, (b,) or (b, ...) each; nan becomes null."""
    table = pa.table({name: _arrow(values) for name, values in columns.items()})
    write_atomically(file, lambda partial: pq.write_table(table, partial))


def read_scores(file: Path, scalars_only: bool = False) -> pd.DataFrame:
    """A block's scores, a row per image; scalars_only: without boxes and landmarks, which no selection looks at."""
    schema = pq.read_schema(file)
    names = [field.name for field in schema if not (scalars_only and pa.types.is_list(field.type))]
    return pq.read_table(file, columns=names).to_pandas()


def _arrow(values: np.ndarray) -> pa.Array:
    if values.dtype == object:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if values.ndim == 1:
        return pa.array(values, from_pandas=True)  # nan is null
    has_value = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return pa.array([row.tolist() if whole else None for row, whole in zip(values, has_value, strict=True)])


def write_scored(
    folder: Path,
    blocks: Sequence[tuple[datasets.Dataset, np.ndarray]],
    score_files: Sequence[Path],
    scores: pd.DataFrame,
    class_names: Sequence[str],
    lpips_column: str | None,
    kept_only: bool,
    work: Path,
) -> None:
    """Write `folder` as a dataset of all images with their scores, in the order of the blocks, which is the scores'.

    blocks: images, and the row numbers of each block; score_files: of each block, with the boxes and landmarks; scores:
    the other columns, a row per image; kept_only: leave the others out; work: a
    folder for parts. An earlier dataset there is replaced once the new one is complete."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    parts, start = [], 0
    for (images, rows), file in zip(blocks, score_files, strict=True):
        block = scores.iloc[start : start + len(rows)].reset_index(drop=True)
        start += len(rows)
        measured = read_scores(file)
        block = block.join(measured[[name for name in measured if name not in block]])
        features = scored_features(features_with(images.features, class_names), lpips_column)
        undecoded = images.cast_column("image", datasets.Image(decode=False)).select(rows)
        lines = []
        for row, score in zip(undecoded, block.to_dict("records"), strict=True):
            if kept_only and not score["kept"]:
                continue
            scored = {name: value for name, value in score.items() if name in features}
            scored["label"] = None if scored["label"] < 0 else scored["label"]
            line = {name: row.get(name) for name in features} | scored
            lines.append({name: _plain(value) for name, value in line.items()} | {"image": with_bytes(row)})
        if lines:
            parts.append(work / f"{len(parts):06d}.parquet")
            pq.write_table(pa.Table.from_pylist(lines, features.arrow_schema), parts[-1], row_group_size=1)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_shards(parts, partial / "synthetic")
    datasheet.write_datasheet(partial)
    for name in ("synthetic", "figures", "README.md", "LICENSE", "croissant.json"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        if (partial / name).exists():
            (partial / name).rename(folder / name)
    shutil.rmtree(partial)


def features_with(features: datasets.Features, class_names: Sequence[str]) -> datasets.Features:
    """The features with the real dataset's conditions as the classes of `label`."""
    return datasets.Features(features | {"label": datasets.ClassLabel(names=list(class_names))})


def with_bytes(row: Mapping) -> dict:
    """The encoded picture of a row, read from its file if it is not in the row; its name says nothing of the folder."""
    image = row["image"] or {"bytes": None, "path": None}
    content = image["bytes"]
    if content is None and image["path"]:
        content = Path(image["path"]).read_bytes()
    return {"bytes": content, "path": f"{row['synthetic_id']}.png"}


def _plain(value: object) -> object:
    """A value as Arrow takes it: null instead of nan, lists instead of arrays."""
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, float) and np.isnan(value):
        return None
    return value
