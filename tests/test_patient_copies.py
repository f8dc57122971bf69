"""publish --open looks for copies of photographs by itself, whatever a privacy report says, and fails closed."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_datasets
from datasets import Features
from in_process import exit_status
from PIL import Image, ImageOps
from test_face_embeddings import MOBILEFACENET
from test_rdface_dataset import REAL_FACES, Curator, encoded

import publish_dataset
import rdface_dataset
from benchmarks import altered_copies
from curation import datasheet
from publishing import patient_copies


@pytest.fixture(scope="module")
def photographs() -> Path:
    return small_datasets.one_config()


def forged(folder: Path, photographs: Path, alter) -> Path:
    """Synthetic images, the second of which is a photograph after `alter`, with a green report written by hand."""
    small_datasets.synthetic(folder, [["AAR.1"], ["AAR.2"], ["NA.1"]])
    shard = next((folder / "synthetic").glob("*.parquet"))
    table = pq.read_table(shard)
    rows = table.to_pylist()
    content = alter(pq.read_table(photographs / "real")["image"][4].as_py()["bytes"])
    rows[1]["image"] = {"bytes": content, "path": "S1.jpg" if content.startswith(b"\xff\xd8") else "S1.png"}
    features = Features.from_arrow_schema(table.schema)
    shutil.rmtree(folder / "synthetic")
    small_datasets.write(folder / "synthetic", {name: [row[name] for row in rows] for name in features}, features)
    datasheet.write_datasheet(folder, "1.0.0")
    small_datasets.report_on(folder)
    return folder


def altered(change) -> object:
    def alter(content: bytes) -> bytes:
        file = io.BytesIO()
        change(Image.open(io.BytesIO(content)).convert("RGB")).save(file, "PNG")
        return file.getvalue()

    return alter


def changed(kind: str, picture: Image.Image) -> Image.Image:
    return altered_copies.altered(kind, picture, 0, picture)


ALTERATIONS = {
    "the very bytes": lambda content: content,
    "the same pixels": altered(lambda picture: picture),
    "mirrored": altered(ImageOps.mirror),
    "turned": altered(lambda picture: changed("turned by 90 degrees", picture)),
    "half as large": altered(lambda picture: picture.resize((picture.width // 2, picture.height // 2))),
    "with a black bar": altered(lambda picture: changed("black bar over the eyes", picture)),
    "cropped by 20 %": altered(lambda picture: changed("cropped by 20 %", picture)),
    "in a black border": altered(lambda picture: ImageOps.expand(picture, 12)),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_a_copy_of_a_photograph_is_refused_whatever_the_report_says(tmp_path, capsys, photographs, name):
    folder = forged(tmp_path / "rdface-synthetic", photographs, ALTERATIONS[name])
    command = ("publish", folder, "lab/synthetic", "--open", "--real_dataset", photographs)
    assert exit_status(publish_dataset, *command) == 2
    *lines, last = capsys.readouterr().err.strip().splitlines()
    (line,) = (line for line in lines if "row 2 (S1): " in line)
    assert "row 2 (S1): is" in line and "photograph NA.1" in line and "nothing was sent" in last


def test_an_image_without_a_face_cannot_be_compared_and_is_refused(tmp_path, capsys):
    folder = small_datasets.synthetic(tmp_path / "rdface-synthetic", [["AAR.1"]])
    command = ("publish", folder, "lab/synthetic", "--open", "--real_dataset", small_datasets.of_faces())
    assert exit_status(publish_dataset, *command) == 2
    assert "row 1 (S0): no face was found that could be compared" in capsys.readouterr().err


@pytest.mark.skipif(
    not (MOBILEFACENET.is_file() and REAL_FACES.is_dir()), reason="the real network or photographs are not here"
)
def test_memorised_persons_are_refused_and_named_and_others_are_not(tmp_path, capsys):
    """Real adults: the dataset holds a photograph of eight, the images other ones of two of them and of two more."""

    def photograph(person: str, number: int) -> Image.Image:
        whole = Image.open(REAL_FACES / "rd_images" / person / f"{person}.{number}.jpg").convert("RGB")
        return whole.reduce(2)

    curator = Curator(tmp_path / "input", ["subject_id"])
    for n in range(1, 9):
        curator.add(f"AAR.{n}.jpg", encoded(photograph(f"P{n:02d}", 1)), subject_id=f"P{n:02d}")
    real = tmp_path / "rdface"
    assert exit_status(rdface_dataset, "build", curator.save(), "--output_dir", real) == 0
    shown = [photograph(*one) for one in (("P02", 3), ("P11", 1), ("P05", 3), ("P13", 1))]
    folder = small_datasets.synthetic(tmp_path / "rdface-synthetic", [["AAR.1"]] * 4, show=shown.__getitem__)
    command = ("publish", folder, "lab/synthetic", "--open", "--real_dataset", real, "--face_embedder", MOBILEFACENET)
    assert exit_status(publish_dataset, *command) == 2
    refused = re.findall(r"row (\d) \(S\d\): (.*) the photograph ([^;]*);", capsys.readouterr().err)
    assert [(row, photograph) for row, _, photograph in refused] == [("1", "AAR.2"), ("3", "AAR.5")]
    assert refused[1][1] == "shows the person on"  # the other one is a picture so like the first that it is no better


def test_without_the_photographs_or_with_others_nothing_goes_open(tmp_path, capsys, photographs):
    folder = small_datasets.synthetic(tmp_path / "rdface-synthetic", [["AAR.1"], ["ZZ.9"]])
    assert exit_status(publish_dataset, "publish", folder, "lab/synthetic", "--open") == 2
    assert "--open requires --real_dataset DIR" in capsys.readouterr().err
    command = ("publish", folder, "lab/synthetic", "--open", "--real_dataset")
    assert exit_status(publish_dataset, *command, photographs) == 2
    assert "row 2 (S1): was made from photographs that --real_dataset does not hold" in capsys.readouterr().err
    assert exit_status(publish_dataset, *command, folder) == 2
    assert "holds no config real" in capsys.readouterr().err


def test_a_person_counted_as_two_does_not_raise_the_limit():
    likeness = np.random.default_rng(0).normal(0.3, 0.05, 400)
    honest = patient_copies._limit(likeness)
    assert honest == likeness.max()
    assert patient_copies._limit(np.append(likeness, [0.8, 0.8])) == honest
    assert patient_copies._limit(np.array([np.nan])) == -np.inf
