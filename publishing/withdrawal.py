"""Removes a photograph from a dataset's folder, with everything that was made from it, and lists it as withdrawn.

Its rows are removed from every config (real, restored, reports), and the other rows no longer mention it
(mentions.py). `withdrawn.csv` keeps its identifier and digests, so
that owners of copies can find theirs, no build accepts it again, and no other photograph gets its name. Synthetic
images, adapters and generators that were made from it are removed too. They are known by their `source_image_ids`, and
by their `source_sha256`, since a later build may have given the photograph another name.
"""

import dataclasses
import datetime
import functools
import io
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import datasheet
from curation.parquet_files import renumber, rewrite
from curation.withdrawn_list import Withdrawn, listed, write_list
from generation.filter_files import LANDMARKS, PATIENTS_PHOTOGRAPHS, PRIVACY_REPORT
from generation.synthetic_images import SHEET_NAME
from generation.training_provenance import SOURCES_NAME
from harness.counts import counted
from harness.errors import InputError
from harness.files import sha256_of, write_json
from imaging.face_cache import pixels_sha256
from publishing import mentions
from publishing.mentions import Photograph
from publishing.publishable import OPEN_CONFIGS, REAL_CONFIGS

MODEL_SUFFIXES = (".safetensors", ".pt", ".bin")
# Texts of reports beside a sources.json: answers as they came, and what vlm_report_eval.py score shows of pairs.
REPORT_FILES = ("answers-*.jsonl", "pairs.parquet", "pairs.html")
DIGESTS = ("sha256", "original_sha256")  # of the photograph itself, in a row about one photograph


def withdraw_with_card(folder: Path, image_id: str) -> str:
    """Removes a photograph from a dataset's folder and returns the dataset's new version, which its card then states.

    A call that was interrupted is completed by the next one, with the same version. Raises InputError as `withdraw`."""
    unfinished = folder.resolve().parent / f".{folder.resolve().name}.restoring"  # left there by restore_images.py
    shutil.rmtree(unfinished, ignore_errors=True)
    version = datasheet.version_of(folder)
    listed_version = next((line.version for line in listed(folder) if line.image_id == image_id), None)
    if listed_version is None:
        version = datasheet.next_version(version)
    else:
        version = max(version, listed_version, key=lambda text: [int(part) for part in text.split(".")])
    withdraw(folder, image_id, version)
    datasheet.write_datasheet(folder, version)
    return version


def withdraw(folder: Path, image_id: str, version: str) -> list[str]:
    """Removes a photograph from a dataset's folder; the card must be written anew after that.

    version: the dataset's next one. Returns the paths of the files that were rewritten. A call that was interrupted is
    completed by the next one. Raises InputError if there is no such photograph, or no other one."""
    entry = next((line for line in listed(folder) if line.image_id == image_id), None)
    shards = [path for name in REAL_CONFIGS for path in sorted(folder.glob(f"{name}/*.parquet"))]
    if entry is None:
        sha256 = digest_of(folder, image_id)
        if len(_columns(folder, "image_id")) == 1:
            raise InputError(f"{image_id} is the last photograph; delete the dataset itself")
        pixels = _pixels_sha256(folder, image_id)
        entry = Withdrawn(image_id, sha256, datetime.date.today().isoformat(), version, pixels)
        write_list(folder, [*listed(folder), entry])  # first: it is listed, even if this is interrupted
    untested, groups = _untested_labels(folder, image_id), mentions.group_names(folder, image_id)
    photograph = Photograph(image_id)
    changed = []
    for path in reversed(shards):  # so that a group keeps its name until the photograph that gives the new one is met
        rest = functools.partial(mentions.without, path=path, photograph=photograph, groups=groups)
        if rewrite(path, lambda table, rest=rest: _without_untested(rest(table), untested)):
            changed.append(path.relative_to(folder).as_posix())
    for config in REAL_CONFIGS:
        renumber(folder / config)
    return changed[::-1]


def _pixels_sha256(folder: Path, image_id: str) -> str:
    """Digest of a photograph's pixels, by which a build knows it if it was saved again without loss. Nothing of the
    picture can be told from it; what survives a lossy encoding, such as a thumbnail, would show the face."""
    for path in sorted(folder.glob("real/*.parquet")):
        for row in pq.read_table(path, filters=pc.field("image_id") == image_id, columns=["image"]).to_pylist():
            return pixels_sha256(np.asarray(PIL.Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")))
    return ""


def _columns(folder: Path, *names: str) -> list[dict]:
    """Some columns of config real, row by row."""
    rows = []
    for path in sorted(folder.glob("real/*.parquet")):
        rows += pq.read_table(path, columns=list(names)).to_pylist()
    return rows


def digest_of(folder: Path, image_id: str) -> str:
    """SHA-256 of a photograph's published bytes, also of a withdrawn one. Raises InputError if there is no such one."""
    digests = [line.sha256 for line in listed(folder) if line.image_id == image_id]
    if not digests:
        rows = _columns(folder, "image_id", "sha256")
        digests = [row["sha256"] for row in rows if row["image_id"] == image_id]
    if not digests:
        raise InputError(f"{folder}: holds no photograph {image_id}; give an image_id of its config real")
    return digests[0]


def _untested_labels(folder: Path, image_id: str) -> set[int]:
    """Labels of the conditions that can no longer be tested under protocol strict without the photograph.

    Their images lie in fewer than two folds, so a tested image would have no training image of its condition. All other
    folds and all groups stay as they are, so that results of two versions can be compared."""
    folds_of: dict[int, set[int]] = {}
    for row in _columns(folder, "image_id", "label", "strict_fold"):
        if row["image_id"] != image_id and row["strict_fold"] is not None:
            folds_of.setdefault(row["label"], set()).add(row["strict_fold"])
    return {label for label, folds in folds_of.items() if len(folds) < 2}


def _without_untested(table: pa.Table, untested: set[int]) -> pa.Table:
    """The table without the folds of conditions that are not tested."""
    if "strict_fold" not in table.column_names or not untested:
        return table
    index, fold = table.column_names.index("strict_fold"), table["strict_fold"]
    is_untested = pc.is_in(table["label"], pa.array(sorted(untested), table["label"].type))
    return table.set_column(index, table.schema.field(index), pc.if_else(is_untested, pa.scalar(None, fold.type), fold))


@dataclasses.dataclass
class Derived:
    """Everything below a folder that was made from a photograph."""

    rows: dict[Path, int]  # Parquet file -> number of rows made from it
    files: list[Path]  # models, and pictures that these made

    def lines(self, folder: Path) -> list[str]:
        """One line per file, for the user."""
        rows = [
            f"{path.relative_to(folder).as_posix()}: {counted(count, 'image or report', 'images or reports')}"
            for path, count in self.rows.items()
        ]
        kinds = {".png": "pictures from a model trained on it", PATIENTS_PHOTOGRAPHS: "may show the photograph itself"}
        kinds |= dict.fromkeys((".jsonl", ".html", ".parquet"), "reports, some of them on it")
        return rows + [
            f"{path.relative_to(folder).as_posix()}: "
            + kinds.get(path.name, kinds.get(path.suffix, "a model trained on it"))
            for path in self.files
        ]


def derived(folder: Path, image_id: str, sha256: str | None = None) -> Derived:
    """Everything below a folder that was made from the photograph. sha256: its digest; None: not known.

    Synthetic images, and reports on them, are known by their `source_image_ids` and `source_sha256`, restored
    photographs and reports by their `image_id` and the photograph's digest; models and answers of reporters by the
    sources.json beside them, models also by the adapter's digest that those synthetic images state. Raises InputError
    if there is no such folder or a sources.json cannot be read."""
    if not folder.is_dir():
        raise InputError(f"--derived {folder}: there is no such folder")
    rows, adapters = _derived_rows(folder, image_id, sha256)
    trained = {path.parent for path in sorted(folder.rglob(SOURCES_NAME)) if {image_id, sha256} & _sources(path)}
    models = [path for path in sorted(folder.rglob("*")) if path.suffix in MODEL_SUFFIXES and path.is_file()]
    adapted = {path for path in models if adapters and sha256_of(path) in adapters}
    derived_models = [path for path in models if path.parent in trained or path in adapted]
    pictures = [path for parent in sorted(trained) for path in sorted(parent.glob("*.png"))]  # grids of snapshots
    texts = [path for parent in sorted(trained) for name in REPORT_FILES for path in sorted(parent.glob(name))]
    datasets = dict.fromkeys(path.parents[1] for path in rows if path.parent.name == "synthetic")
    sheets = dict.fromkeys(sheet for path in datasets for sheet in (path.parent / SHEET_NAME, path / LANDMARKS))
    photographs = sorted(folder.rglob(PATIENTS_PHOTOGRAPHS))  # nothing in the file says of whom
    files = derived_models + pictures + texts + [sheet for sheet in sheets if sheet.is_file()] + photographs
    return Derived(rows, files)


def _derived_rows(folder: Path, image_id: str, sha256: str | None) -> tuple[dict[Path, int], set[str]]:
    """Parquet file -> number of rows that were made from the photograph, and the digests of their adapters."""
    rows, adapters = {}, set()
    for path in sorted(folder.rglob("*.parquet")):
        with pq.ParquetFile(path) as file:
            key = _key(path, file.schema_arrow.names)
            if key is None:
                continue
            further = {"adapter_sha256", "source_sha256", *DIGESTS} & set(file.schema_arrow.names)
            table = file.read(columns=[key, *sorted(further)])
        table = table.filter(_is_made_from(table, key, image_id, sha256))
        if table.num_rows:
            rows[path] = table.num_rows
            adapters |= set(table["adapter_sha256"].to_pylist()) if "adapter_sha256" in table.column_names else set()
    return rows, adapters


def _key(path: Path, columns: list[str]) -> str | None:
    """The column that names the photographs of a row; None for files of another kind, such as predictions."""
    if "source_image_ids" in columns:
        return "source_image_ids"
    return "image_id" if path.parent.name in REAL_CONFIGS and "image_id" in columns else None


def _is_made_from(table: pa.Table, key: str, image_id: str, sha256: str | None) -> pa.Array:
    """(n,) bool: whether each row was made from the photograph."""
    values = table[key].to_pylist()
    matches = [value == image_id if isinstance(value, str) else image_id in (value or ()) for value in values]
    if sha256 and "source_sha256" in table.column_names:
        digests = table["source_sha256"].to_pylist()
        matches = [match or sha256 in (sources or ()) for match, sources in zip(matches, digests, strict=True)]
    for name in DIGESTS:
        if sha256 and key == "image_id" and name in table.column_names:
            matches = [
                match or digest == sha256 for match, digest in zip(matches, table[name].to_pylist(), strict=True)
            ]
    return pa.array(matches, pa.bool_())


def _sources(path: Path) -> set[str]:
    """Names of the photographs that a model was trained on, and their digests if the file states them."""
    try:
        sources = json.loads(path.read_text(encoding="utf-8"))
        return {*sources["source_image_ids"], *sources.get("source_sha256", ())}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: does not say what a model was trained on; delete the model by hand") from error


def remove_with_cards(derivatives: Derived, image_id: str, sha256: str) -> None:
    """Removes what `derived` found, and gives the datasets that lost rows a card of a new version."""
    remove(derivatives, image_id, sha256)
    for folder in sorted({path.parents[1] for path in derivatives.rows}):
        if (folder / "README.md").is_file() and any(folder.glob("*/train-*.parquet")):
            datasheet.write_datasheet(folder, datasheet.next_version(datasheet.version_of(folder)))


def remove(derivatives: Derived, image_id: str, sha256: str | None = None) -> None:
    """Removes what `derived` found by the same name and digest; the folders' cards must be written anew after that."""
    for path in derivatives.rows:
        before = sha256_of(path)
        rewrite(path, functools.partial(_rest, path=path, image_id=image_id, sha256=sha256))
        keep_verdict(path, before)
        if path.parent.name in REAL_CONFIGS + OPEN_CONFIGS:
            renumber(path.parent)
    for path in derivatives.files:
        path.unlink(missing_ok=True)


def _rest(table: pa.Table, path: Path, image_id: str, sha256: str | None) -> pa.Table:
    return table.filter(pc.invert(_is_made_from(table, _key(path, table.column_names), image_id, sha256)))


def keep_verdict(shard: Path, sha256_before: str) -> None:
    """Lets the privacy report that was about a shard be about what is left of it: fewer images that all passed the
    filter. A shard that is renamed or removed after that needs a new report."""
    report_file, name = shard.parents[1] / PRIVACY_REPORT, f"{shard.parent.name}/{shard.name}"
    if shard.parent.name in OPEN_CONFIGS and report_file.is_file() and shard.is_file():
        report = json.loads(report_file.read_text(encoding="utf-8"))
        if report.get("files", {}).get(name) == sha256_before:
            report["files"][name] = sha256_of(shard)
            write_json(report_file, report)
