"""Small datasets for tests of what is done with them: photographs, restored ones, reports; synthetic images."""

import atexit
import functools
import hashlib
import io
import json
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, List, Value
from in_process import exit_status
from PIL import Image as PILImage
from test_rdface_dataset import Curator, encoded, picture

import rdface_dataset
from curation import datasheet
from harness.files import sha256_of
from phenotyping import phenotypes
from publishing import publishable
from simulation.photography import Photograph, take

CONDITIONS = {"AAR": 4, "NA": 3, "WS": 2, "CSY": 2}


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rdface-built-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def one_config() -> Path:
    """The folder `rdface` with config real, built once for all tests of a process: copy it before a change."""
    return photographs(_temporary_folder())


@functools.cache
def three_configs() -> Path:
    """The same with configs restored and reports: copy it before a change."""
    return with_restored_and_reports(Path(shutil.copytree(one_config(), _temporary_folder() / "rdface")))


def face(number: int, side_px: int = 128) -> PILImage.Image:
    """A SIMULATED face, of another person for each number; MTCNN finds it."""
    plan = Photograph(number, "", phenotypes.conditions()[number % 5], number, number, None, "Brazil")
    return PILImage.fromarray(take(plan, side_px, 7)[0])


@functools.cache
def of_faces() -> Path:
    """Config real of twelve SIMULATED faces of three conditions, one photograph each: copy it before a change."""
    curator = Curator(_temporary_folder() / "faces-input", ["subject_id"])
    for n in range(12):
        abbr = ("AAR", "NA", "WS")[n % 3]
        curator.add(f"{abbr}.{n // 3 + 1}.jpg", encoded(face(n)), abbr, subject_id=f"S{n}")
    folder = curator.folder.parent / "rdface"
    assert exit_status(rdface_dataset, "build", curator.save(), "--output_dir", folder) == 0
    return folder


def photographs(folder: Path, name: str = "rdface", conditions: dict[str, int] | None = None) -> Path:
    """Config real, built as a curator builds it, of photographs with EXIF data; AAR.1 and AAR.2 are one person's."""
    curator = Curator(folder / f"{name}-input", ["subject_id", "age", "sex", "country", "camera"])
    for abbr, count in (conditions or CONDITIONS).items():
        for n in range(1, count + 1):
            exif = PILImage.Exif()
            exif[0x010E], exif[0x8825] = "a description that tells a name", {1: "N", 2: (51.0, 30.0, 0.0)}
            subject = "AAR-first" if (abbr, n) in (("AAR", 1), ("AAR", 2)) else f"{abbr}-{n}"
            data = encoded(picture(100 * len(abbr) + 10 * ord(abbr[0]) + n), exif=exif)
            curator.add(f"{abbr}.{n}.jpg", data, abbr, subject_id=subject, age=str(n), sex="F", country="Brazil")
    assert exit_status(rdface_dataset, "build", curator.save(), "--output_dir", folder / name) == 0
    return folder / name


def with_restored_and_reports(dataset: Path) -> Path:
    """Two more configs: copies of the photographs as if restored, and a report on each."""
    for shard in sorted((dataset / "real").glob("*.parquet")):
        (dataset / "restored").mkdir(exist_ok=True)
        (dataset / "restored" / shard.name).write_bytes(shard.read_bytes())
    image_ids = pq.read_table(dataset / "real", columns=["image_id"])["image_id"].to_pylist()
    columns = {"image_id": image_ids, "reporter": ["a tester"] * len(image_ids)}
    columns["report"] = [f"The eyes of {image_id} are wide apart." for image_id in image_ids]
    write(dataset / "reports", columns, Features({name: Value("string") for name in columns}))
    datasheet.write_datasheet(dataset, datasheet.version_of(dataset))
    return dataset


def synthetic(folder: Path, sources: list[list[str]], kept: list[bool] | None = None, show=None) -> Path:
    """Synthetic images of which each was made from the images named, with the privacy report of the filter: green.

    show: gives the n-th picture; patterns without a face if left out."""
    images = []
    for n in range(len(sources)):
        file = io.BytesIO()
        (show(n) if show else picture(900 + n)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": f"S{n}.png"})
    columns = {"image": images, "synthetic_id": [f"S{n}" for n in range(len(sources))], "source_image_ids": sources}
    columns |= {"label": [0] * len(sources), "generator": ["dreambooth"] * len(sources)}
    columns |= {"adapter_sha256": [adapter_sha256(ids) for ids in sources], "kept": kept or [True] * len(sources)}
    kinds = {"image": Image(), "synthetic_id": Value("string"), "source_image_ids": List(Value("string"))}
    kinds |= {"label": ClassLabel(names=["AAR"]), "generator": Value("string")}
    kinds |= {"adapter_sha256": Value("string"), "kept": Value("bool")}
    write(folder / "synthetic", columns, Features(kinds))
    datasheet.write_datasheet(folder, "1.0.0")
    report_on(folder)
    return folder


def report_on(folder: Path, verdict: str = "green") -> None:
    shards = {f"synthetic/{path.name}": path for path in (folder / "synthetic").glob("*.parquet")}
    report = {"verdict": verdict, "files": {name: sha256_of(path) for name, path in shards.items()}}
    (folder / publishable.PRIVACY_REPORT).write_text(json.dumps(report))


def adapter_bytes(sources: list[str]) -> bytes:
    return f"an adapter trained on {sources}".encode()


def adapter_sha256(sources: list[str]) -> str:
    return hashlib.sha256(adapter_bytes(sources)).hexdigest()


def write(config: Path, columns: dict[str, list], features: Features) -> None:
    config.mkdir(parents=True)
    schema = features.arrow_schema
    pq.write_table(pa.table(columns, schema=schema), config / "train-00000-of-00001.parquet", write_page_index=True)
