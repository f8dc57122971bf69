"""The curator's commands, started as a curator starts them: what is built, what is refused and why, what survives."""

import collections
import csv
import dataclasses
import hashlib
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Image as ImageFeature
from datasets import disable_progress_bars, load_dataset
from in_process import exit_status
from PIL import Image, ImageEnhance, ImageOps, PngImagePlugin

import rdface_dataset
from curation import (
    building,
    curated_rows,
    curated_table,
    dataset_name,
    datasheet,
    opening,
    problem_lines,
    protocols,
    restoration_target,
    schema,
    value_parsers,
    withdrawn_list,
)
from harness import errors
from imaging import colour_profiles, near_duplicates, photographs
from publishing import withdrawal

ROOT = Path(__file__).resolve().parent.parent
REAL_FACES = ROOT.parent / "shared" / "real_faces"
HEADER = ["image_name", "disease_name", "disease_abbr", "sub_category", "gene_name", "orphanet_code"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf_cache")
    disable_progress_bars()


def picture(seed: int, size=(96, 80)) -> Image.Image:
    """A coloured picture like no other: soft patches and a little grain."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-6, 7, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(patches, dtype=int) + grain).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Curator:
    """Fills a folder row by row, as a curator would."""

    def __init__(self, folder: Path, columns: list[str] | None = None):
        self.folder, self.columns, self.rows = folder, columns or [], []
        (folder / "rd_images").mkdir(parents=True)

    def add(self, name: str, data: bytes | None = None, abbr: str = "AAR", **values) -> int:
        """Add a row and its photograph; returns the CSV line of the row, if no cell holds a line break."""
        defaults = {"disease_name": f"Syndrome {abbr}", "sub_category": "skeletal", "gene_name": "FBN1"}
        code = str(100 + sum(map(ord, abbr)))
        row = {"image_name": name, "disease_abbr": abbr, "orphanet_code": code} | defaults | values
        self.rows.append(row)
        if data is not None:
            (self.folder / "rd_images" / abbr).mkdir(exist_ok=True)
            (self.folder / "rd_images" / abbr / name).write_bytes(data)
        return len(self.rows) + 1

    def save(self, encoding: str = "utf-8") -> Path:
        with (self.folder / "disease_images.csv").open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, HEADER + self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        return self.folder


@pytest.fixture
def curator(tmp_path):
    """A folder with six good photographs of two conditions; tests add what they are about."""
    made = Curator(tmp_path / "folder", ["subject_id", "age", "sex", "country", "hpo_ids", "source_type", "camera"])
    for n in range(1, 5):
        made.add(f"AAR.{n}.jpg", encoded(picture(n)))
    made.add("NA.1.jpg", encoded(picture(11)), abbr="NA")
    made.add("NA.2.png", encoded(picture(12), "PNG"), abbr="NA")
    return made


def run(*arguments) -> int:
    return exit_status(rdface_dataset, *arguments)


def problems(folder: Path, capsys) -> list[dict]:
    run("validate", folder, "--json")
    return json.loads(capsys.readouterr().out)["problems"]


def built(folder: Path, output: Path, *options):
    """The dataset of a folder that must build; image bytes undecoded in the column `image`."""
    assert run("build", folder, "--output_dir", output, *options) == 0
    return load_dataset(str(output), split="train").cast_column("image", ImageFeature(decode=False))


def row_of(dataset, image_id: str) -> dict:
    return next(row for row in dataset if row["image_id"] == image_id)


# --- what is built


def test_build_opens_with_load_dataset_by_path_and_streaming_with_the_schema(curator, tmp_path):
    curator.add("AAR.9.jpg", encoded(picture(9)), age="3 months", sex="F", country="Brazil", subject_id="p1",
                hpo_ids="HP:0000316;hp:0000154", gene_name="fbn1; KMT2D", camera="old")  # fmt: skip
    assert run("build", curator.save(), "--output_dir", tmp_path / "rdface") == 0
    expected_features = schema.real_features(["AAR", "NA"], ["camera"])
    whole = load_dataset(str(tmp_path / "rdface"), split="train")
    streamed = load_dataset(str(tmp_path / "rdface"), split="train", streaming=True)
    assert whole.features == streamed.features == expected_features
    assert next(iter(expected_features)) == "image" and list(expected_features)[-1] == "camera"
    last = list(streamed)[-1]
    assert last["image"].size == (96, 80) and last["image"].mode == "RGB"
    expected = {
        "image_id": "AAR.9", "subject_id": "p1", "label": 0, "disease_name": "Syndrome AAR",
        "gene_names": ["FBN1", "KMT2D"], "hpo_ids": ["HP:0000316", "HP:0000154"], "age_years": 0.25,
        "age_group": "0-1", "sex": "female", "country": "BRA", "camera": "old", "is_grayscale": False, "width": 96,
        "height": 80, "group_id": "AAR.9",
    }  # fmt: skip
    assert {name: last[name] for name in expected} == expected
    first = whole[0]
    assert [first[name] for name in ("subject_id", "hpo_ids", "age_years", "sex", "country", "license", "camera")] == [
        None
    ] * 7


def test_published_bytes_are_the_files_own_and_paths_are_bare_names(curator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("AAR.1.jpg").write_bytes(b"not this one")  # `datasets` would embed it for a bare relative path
    dataset = built(curator.save(), tmp_path / "out")
    for row in dataset:
        name = row["image"]["path"]
        assert name in (f"{row['image_id']}.jpg", f"{row['image_id']}.png")
        source = curator.folder / "rd_images" / row["disease_abbr"] / name
        assert row["image"]["bytes"] == photographs.strip_metadata(source.read_bytes())
        assert row["sha256"] == hashlib.sha256(row["image"]["bytes"]).hexdigest()
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert np.array_equal(pixels, np.asarray(Image.open(source)))


def test_row_groups_have_100_rows_and_nothing_is_left_beside_the_dataset(tmp_path):
    curator = Curator(tmp_path / "folder")
    for n in range(1, 131):
        curator.add(f"B.{n}.jpg", encoded(picture(n, (32, 32))), abbr="B")
    (tmp_path / "place").mkdir()
    assert run("build", curator.save(), "--output_dir", tmp_path / "place" / "out") == 0
    files = {str(path.relative_to(tmp_path / "place")) for path in (tmp_path / "place").rglob("*") if path.is_file()}
    names = ("README.md", "LICENSE", "croissant.json", "build_record.json", "figures/class_sizes.png")
    assert files == {f"out/{name}" for name in (*names, "real/train-00000-of-00001.parquet")}
    parquet = pq.ParquetFile(tmp_path / "place/out/real/train-00000-of-00001.parquet").metadata
    assert [parquet.row_group(i).num_rows for i in range(parquet.num_row_groups)] == [100, 30]
    assert parquet.row_group(0).column(1).has_column_index, "page index"


def test_row_groups_of_large_photographs_have_fewer_rows(tmp_path, monkeypatch):
    curator = Curator(tmp_path / "folder")
    for n in range(1, 25):
        curator.add(f"B.{n}.png", encoded(picture(n, (40, 40)), "PNG", compress_level=0), abbr="B")
    size = sum(path.stat().st_size for path in (curator.folder / "rd_images/B").iterdir()) / 24
    monkeypatch.setattr(building, "MAX_ROW_GROUP_BYTES", 11 * size)
    assert run("build", curator.save(), "--output_dir", tmp_path / "out") == 0
    parquet = pq.ParquetFile(tmp_path / "out/real/train-00000-of-00001.parquet").metadata
    groups = [parquet.row_group(i) for i in range(parquet.num_row_groups)]
    assert [group.num_rows for group in groups] == [10, 10, 4]
    assert max(group.column(0).total_uncompressed_size for group in groups) <= 11 * size
    monkeypatch.setattr(building, "MAX_ROW_GROUP_BYTES", 1)  # less than one photograph
    assert run("build", curator.folder, "--output_dir", tmp_path / "out") == 0
    assert pq.ParquetFile(tmp_path / "out/real/train-00000-of-00001.parquet").num_row_groups == 24


def test_a_rebuild_keeps_version_and_contact_and_new_content_raises_the_version(curator, tmp_path, capsys):
    target = tmp_path / "out"
    assert run("build", curator.save(), "--output_dir", target, "--contact", "the data office") == 0
    assert run("build", curator.folder, "--output_dir", target) == 0
    header = datasheet.card_header(target)
    assert (header["version"], header["contact"]) == ("1.0.0", "the data office")
    assert json.loads((target / "build_record.json").read_text())["content"] in header["configs"][0]["description"]
    curator.rows[0]["sex"] = "male"
    assert run("build", curator.save(), "--output_dir", target, "--contact", "Room 2") == 0
    header = datasheet.card_header(target)
    assert (header["version"], header["contact"]) == ("1.1.0", "Room 2")
    (target / "README.md").write_text(f"---\n{{[\n---\n{datasheet.GENERATOR}")
    assert run("build", curator.folder, "--output_dir", target) == 2
    said = "rdface_dataset.py: README.md: its header cannot be read"
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_folder_name_loads_with_fresh_cache_and_without_network(curator, tmp_path):
    run("build", curator.save(), "--output_dir", tmp_path / "rdface")
    code = (
        "from datasets import load_dataset as l\n"
        "print(len(l('rdface')['train']), len(list(l('rdface', streaming=True)['train'])))"
    )
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {
        "HF_HOME": str(tmp_path / "home"), "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
    }  # fmt: skip
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["6", "6"], done.stderr
    assert time.monotonic() - began < 30, "the Hub was asked, and retried"


def test_metadata_is_absent_from_the_parquet_file(curator, tmp_path):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "SECRETDESCRIPTION", "SECRETARTIST"
    exif.get_ifd(0x8825)[29] = "SECRETGPSDATE"
    jpeg = encoded(picture(20), exif=exif, comment=b"SECRETCOMMENT", xmp=b"<x:xmpmeta>SECRETXMP</x:xmpmeta>")
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00\x00\x00\x00\x0cSECRETIPTC\x00"
    jpeg = jpeg[:2] + b"\xff\xed" + (len(iptc) + 2).to_bytes(2, "big") + iptc + jpeg[2:] + b"SECRETTRAILER"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "SECRETPNGTEXT")
    text.add_itxt("XML:com.adobe.xmp", "SECRETPNGXMP", zip=False)
    curator.add("AAR.20.jpg", jpeg)
    curator.add("AAR.21.png", encoded(picture(21), "PNG", pnginfo=text, exif=exif) + b"SECRETTRAILER")
    curator.add("AAR.22.webp", encoded(picture(22), "WEBP", lossless=True, exif=exif, xmp=b"SECRETXMP"))
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "SECRETDESCRIPTION"
    curator.add("AAR.23.jpg", encoded(picture(23), exif=turned, comment=b"SECRETCOMMENT"))
    dataset = built(curator.save(), tmp_path / "out")
    assert len(dataset) == 10
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"SECRET" not in path.read_bytes()
    stored = [row["image"]["bytes"] for row in dataset]
    assert not any(word in data for data in stored for word in (b"Exif", b"eXIf", b"xmp", b"Photoshop", b"tEXt"))
    kept = row_of(dataset, "AAR.20")["image"]["bytes"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), np.asarray(Image.open(io.BytesIO(jpeg))))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = encoded(picture(orientation), kind, exif=exif, **({"quality": 90} if kind == "JPEG" else {}))
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(source)
    photograph, published, _ = photographs.read(path)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(source)))
    image = Image.open(io.BytesIO(published))
    assert image.size == expected.size == (photograph.width, photograph.height)
    assert image.format == kind and not image.getexif()
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int)).mean() < (
        3 if kind == "JPEG" else 1e-9
    )


def test_pixels_that_readers_would_misread_are_converted(curator, tmp_path):
    ramp = np.linspace(0, 65535, 96 * 80).reshape(80, 96)
    transparent = picture(30).convert("RGBA")
    transparent.putalpha(Image.fromarray(np.repeat([[0], [255]], 40, axis=0).astype(np.uint8).repeat(96, axis=1)))
    opaque = encoded(picture(31).convert("RGBA"), "PNG")
    curator.add("AAR.30.png", encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG"))
    curator.add("AAR.31.png", encoded(transparent, "PNG"))
    curator.add("AAR.32.jpg", encoded(picture(32).convert("CMYK")))
    curator.add("AAR.33.png", opaque)
    curator.add("AAR.34.bmp", encoded(picture(34), "BMP"))
    curator.add("AAR.35.tif", encoded(Image.fromarray((ramp[::-1]).astype(np.uint16)), "TIFF"))
    dataset = built(curator.save(), tmp_path / "out")
    image = {row["image_id"]: Image.open(io.BytesIO(row["image"]["bytes"])) for row in dataset}
    for name, truth in (("AAR.30", ramp), ("AAR.35", ramp[::-1])):  # scaled, not clipped
        assert image[name].mode == "L" and np.abs(np.asarray(image[name]) - truth / 257).max() <= 0.51
    flat = np.asarray(image["AAR.31"])
    assert (flat[:40] == 255).all() and np.array_equal(flat[40:], np.asarray(picture(30))[40:])
    assert image["AAR.32"].mode == "RGB" and image["AAR.32"].format == "PNG"
    assert row_of(dataset, "AAR.33")["image"]["bytes"] == photographs.strip_metadata(opaque)
    assert np.array_equal(np.asarray(image["AAR.34"]), np.asarray(picture(34)))
    grey = {row["image_id"] for row in dataset if row["is_grayscale"]}
    assert grey == {"AAR.30", "AAR.35"}


def test_grey_is_told_from_sepia():
    grey = picture(40).convert("L")
    noisy = Image.open(io.BytesIO(encoded(grey.convert("RGB"), quality=30)))
    sepia = ImageOps.colorize(grey, (20, 12, 5), (250, 235, 210))
    assert photographs.is_grayscale(noisy) and photographs.is_grayscale(grey.convert("RGB"))
    assert not photographs.is_grayscale(sepia) and not photographs.is_grayscale(picture(40))


def test_image_ids_take_the_number_of_the_name_where_it_is_free(tmp_path):
    curator = Curator(tmp_path / "folder")
    for n, name in enumerate(["B.3.jpg", "portrait.jpg", "B.03.jpg", "B.1.jpg", "bébé 2.jpg", "B.x.5.jpg"]):
        curator.add(name, encoded(picture(n)), abbr="B")
    assert built(curator.save(), tmp_path / "out")["image_id"][:] == ["B.3", "B.2", "B.4", "B.1", "B.5", "B.6"]


def test_protocol_columns_are_those_of_protocols_and_paper_is_null_with_a_warning(curator, tmp_path, capsys):
    dataset = built(curator.save(), tmp_path / "small")
    told = capsys.readouterr().err
    assert told.count("warning: no protocol ") == told.count("use protocol strict, which is the default") == 1
    lonely = Curator(tmp_path / "lonely")
    for n in range(2):
        lonely.add(f"{n}.jpg", encoded(picture(n)), abbr=f"C{n}")
    built(lonely.save(), tmp_path / "untestable")
    told = capsys.readouterr().err
    assert told.count("warning: no protocol ") == 2 and "use protocol strict" not in told
    assert set(dataset["paper_split"]) == set(dataset["paper_fold"]) == {None}
    assert "not applicable" in (tmp_path / "small/README.md").read_text()
    big = Curator(tmp_path / "big", ["subject_id"])
    for n in range(60):
        abbr = f"C{n % 7}" if n < 57 else f"S{n}"
        big.add(f"{n}.jpg", encoded(picture(n, (40, 40))), abbr=abbr, subject_id=f"p{n // 2}" if n < 8 else "")
    dataset = built(big.save(), tmp_path / "out")
    side, fold = protocols.paper_split(dataset["disease_abbr"][:])
    assert (dataset["paper_split"][:], dataset["paper_fold"][:]) == (side, fold)
    assert len(protocols.folds(dataset, "strict")) == len(protocols.folds(dataset, "paper")) == 5
    groups = dataset["group_id"][:]
    assert [groups[i] == groups[i + 1] for i in range(8)] == [True, False] * 4


def test_simulated_images_say_so_and_never_take_the_real_name(curator, tmp_path, capsys):
    for row in curator.rows:
        row["source_type"] = "simulated"
    folder = curator.save()
    for name in ("rdface", "RDFace"):  # one folder on some systems
        assert run("build", folder, "--output_dir", tmp_path / name) == 2
        assert "shadow the real dataset" in capsys.readouterr().err and not (tmp_path / name).exists()
    assert run("build", folder, "--output_dir", tmp_path / "rdface-sim") == 0
    card = (tmp_path / "rdface-sim/README.md").read_text()
    assert "pretty_name: RDFace-sim" in card and "SIMULATED" in card


def test_class_names_that_yaml_would_misread_come_back_as_text(tmp_path):
    names = ["NO", "ON", "1e3", "1", "NA", "null", "Ünï-1"]
    curator = Curator(tmp_path / "folder")
    for n, abbr in enumerate(names):
        curator.add(f"{n}.jpg", encoded(picture(n)), abbr=abbr)
    dataset = built(curator.save(), tmp_path / "out")
    assert dataset.features["label"].names == names and dataset["label"][:] == list(range(7))


def test_build_record_names_no_path_of_the_user(curator, tmp_path):
    built(curator.save(), tmp_path / "out")
    record = (tmp_path / "out/build_record.json").read_text()
    assert str(tmp_path) not in record and str(ROOT) not in record
    assert {"arguments", "versions", "content", "wall_s", "peak_memory_bytes", "images"} <= set(json.loads(record))


def test_a_corrected_value_is_seen_after_another_build(curator, tmp_path):
    """load_dataset tells local datasets apart by name and card only; a plain one must not show its old copy."""
    curator.rows[0]["sex"] = "male"
    assert built(curator.save(), tmp_path / "out")[0]["sex"] == "male"
    curator.rows[0]["sex"] = "female"  # nothing else changes, not even a length in the card
    assert built(curator.save(), tmp_path / "out")[0]["sex"] == "female"


# --- near duplicates


def changed_copies(image: Image.Image) -> dict[str, bytes]:
    width, height = image.size
    crop = image.crop((int(0.03 * width), int(0.02 * height), int(0.98 * width), int(0.99 * height)))
    return {
        "quality 30": encoded(image, quality=30),
        "half size": encoded(image.resize((width // 2, height // 2)), quality=70),
        "grey": encoded(image.convert("L"), quality=80),
        "black border": encoded(ImageOps.expand(image, width // 10, "black"), quality=80),
        "two borders": encoded(ImageOps.expand(ImageOps.expand(image, width // 12, "black"), 15, "white"), quality=80),
        "white border": encoded(ImageOps.expand(image, (0, height // 5, 0, height // 5), "white"), quality=80),
        "cropped": encoded(crop, quality=80),
        "dimmed": encoded(ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(0.9)).enhance(0.9), quality=80),
        "all of it": encoded(ImageOps.expand(crop.convert("L").resize((width // 2, height // 2)), 9), quality=50),
    }


def test_changed_copies_are_grouped_and_different_photographs_are_not(tmp_path):
    curator = Curator(tmp_path / "folder")
    for n in range(6):
        image = picture(n, (240, 200))
        for k, data in enumerate([encoded(image, quality=95), *changed_copies(image).values()]):
            curator.add(f"{n}-{k}.jpg", data, abbr=f"C{n % 3}")
    dataset = built(curator.save(), tmp_path / "out")
    groups = dataset["group_id"][:]
    assert [len(set(groups[10 * n : 10 * n + 10])) for n in range(6)] == [1] * 6
    assert len(set(groups)) == 6


@pytest.mark.skipif(not REAL_FACES.is_dir(), reason="needs the 70 real photographs beside the repository")
def test_copies_of_real_photographs_are_found_and_no_two_people_are_joined(tmp_path):
    near = near_duplicates.NearDuplicates(tmp_path)
    paths = sorted((REAL_FACES / "rd_images").glob("*/*.jpg"))
    for row, path in enumerate(paths):
        near.add(row, near_duplicates.record(Image.open(path).convert("RGB")))
    found = near.pairs()
    person_of = [path.parent.name for path in paths]
    assert all(person_of[a] == person_of[b] for a, b in [*found.certain, *found.to_look_at])
    assert len(found.certain) <= 7  # of 140 pairs of one person: frames of which hardly a detail differs
    row, truth = len(paths), []
    for number, path in enumerate(paths[::7]):
        for data in changed_copies(Image.open(path).convert("RGB")).values():
            near.add(row, near_duplicates.record(Image.open(io.BytesIO(data)).convert("RGB")))
            truth.append((7 * number, row))
            row += 1
    pairs = near.pairs().certain
    group = protocols.groups([None] * row, pairs)
    assert len({group[i] for i in range(len(paths))}) == len(paths) - len(found.certain), "a false link"
    assert np.mean([group[a] == group[b] for a, b in truth]) >= 0.95


@pytest.mark.skipif(not REAL_FACES.is_dir(), reason="needs the 70 real photographs beside the repository")
def test_real_photographs_build(tmp_path):
    dataset = built(REAL_FACES, tmp_path / "rdface")
    assert len(dataset) == 70
    people_of = collections.defaultdict(set)
    for group, abbreviation in zip(dataset["group_id"], dataset["disease_abbr"], strict=True):
        people_of[group].add(abbreviation)
    assert len(people_of) >= 63 and all(len(people) == 1 for people in people_of.values())
    assert not any(b"Exif" in row["image"]["bytes"] for row in dataset)


# --- bad input: the message names row and reason, and no good row is lost

DAMAGED = encoded(picture(50), "PNG")
GIF = encoded(picture(51), "GIF", save_all=True, append_images=[picture(52)])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def bomb() -> bytes:
    """A PNG of a few bytes that declares 30,000 x 30,000 px."""
    header = (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


def black_png() -> bytes:
    """Whole and with right checksums, but its pixel stream is empty; Pillow alone shows it as a black picture."""
    header = (64).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


def cut_scan(jpeg: bytes, share: float = 0.5) -> bytes:
    return jpeg[: int(share * len(jpeg))] + b"\xff\xd9"


def zeroed(jpeg: bytes) -> bytes:
    """The second half zeros, as after an interrupted copy, but for the end-of-image marker."""
    half = len(jpeg) // 2
    return jpeg[:half] + bytes(len(jpeg) - half - 2) + b"\xff\xd9"


BAD_PHOTOGRAPHS = {
    "truncated jpeg": ("bad.jpg", encoded(picture(53))[:-900], "truncated"),
    "jpeg cut in its scan, with an end": ("bad.jpg", cut_scan(encoded(picture(53))), "damaged or truncated"),
    "grey jpeg cut": ("bad.jpg", cut_scan(encoded(picture(53).convert("L"))), "damaged or truncated"),
    "CMYK jpeg cut": ("bad.jpg", cut_scan(encoded(picture(53).convert("CMYK"))), "damaged or truncated"),
    "progressive jpeg cut": ("bad.jpg", cut_scan(encoded(picture(53), progressive=True), 0.95), "damaged or truncated"),
    "jpeg with zeros": ("bad.jpg", zeroed(encoded(picture(53, (300, 300)), quality=75)), "damaged or truncated"),
    "jpeg with zeros, fine": ("bad.jpg", zeroed(encoded(picture(53, (300, 300)), quality=100)), "damaged or truncated"),
    "truncated png": ("bad.png", DAMAGED[:-400], "truncated"),
    "png with a flipped byte": ("bad.png", DAMAGED[:300] + bytes([DAMAGED[300] ^ 1]) + DAMAGED[301:], "damaged"),
    "png without pixels": ("bad.png", black_png(), "damaged"),
    "truncated webp": ("bad.webp", encoded(picture(53), "WEBP")[:-300], "damaged"),
    "truncated bmp": ("bad.bmp", encoded(picture(53), "BMP")[:-300], "damaged"),
    "truncated gif": ("bad.gif", encoded(picture(53), "GIF")[:-2000], "damaged"),
    "truncated tiff": ("bad.tif", encoded(picture(53), "TIFF", compression="tiff_lzw")[:-2000], "damaged"),
    "empty": ("bad.jpg", b"", "is empty"),
    "no image extension": (
        "bad.txt",
        encoded(picture(53)),
        "bad.txt ends in .txt, but holds JPEG; rename it to bad.jpg",
    ),
    "no ending": ("bad", encoded(picture(53)), "bad has no ending, but holds JPEG; rename it to bad.jpg"),
    "HEIC by name": (
        "bad.heic",
        encoded(picture(53), "PNG"),
        "bad.heic ends in .heic, but holds PNG; rename it to bad.png",
    ),
    "HEIC": ("bad.heic", b"\0\0\0\x18ftyphevc" + bytes(500), "its content is HEIC; export it as JPEG or PNG"),
    "text": ("bad.jpg", b"<html>404 not found</html>", "its content is text"),
    "bomb": ("bad.png", bomb(), "million pixels"),
    "1 x 1": ("bad.png", encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 px"),
    "strip": ("bad.png", encoded(Image.new("RGB", (12000, 2)), "PNG"), "12000 x 2 px"),
    "long strip": ("bad.png", encoded(Image.new("RGB", (1200, 40)), "PNG"), "a strip"),
    "animated": ("bad.gif", GIF, "animated"),
    "missing": ("bad.jpg", None, "bad.jpg is missing"),
}


@pytest.mark.parametrize("case", BAD_PHOTOGRAPHS)
def test_bad_photograph_is_named_and_good_rows_survive(curator, tmp_path, capsys, case):
    name, data, reason = BAD_PHOTOGRAPHS[case]
    line = curator.add(name, data)
    curator.add("AAR.60.jpg", encoded(picture(60)))
    folder = curator.save()
    assert run("validate", folder) == 2
    report = capsys.readouterr().out.splitlines()
    (message,) = [text for text in report if text.startswith(f"disease_images.csv:{line}: image_name: ")]
    assert reason in message and "; " in message
    assert run("build", folder, "--output_dir", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists() and "Traceback" not in capsys.readouterr().err
    dataset = built(folder, tmp_path / "out", "--skip_bad")
    assert dataset["image_id"][:] == ["AAR.1", "AAR.2", "AAR.3", "AAR.4", "NA.1", "NA.2", "AAR.60"]
    with (tmp_path / "out/rejected.csv").open() as file:
        (rejected,) = csv.DictReader(file)
    assert (rejected["row"], rejected["severity"]) == (str(line), "row")
    assert reason in f"{rejected['reason']}; {rejected['remedy']}"


def test_names_that_lead_out_of_the_folder_are_refused(curator, tmp_path, capsys):
    (tmp_path / "secret.jpg").write_bytes(encoded(picture(70)))
    lines = [
        curator.add(name) for name in ("../../../secret.jpg", str(tmp_path / "secret.jpg"), "..", "a\\b.jpg", "x" * 300)
    ]
    lines.append(curator.add("link.jpg"))
    (curator.folder / "rd_images/AAR/link.jpg").symlink_to(tmp_path / "secret.jpg")
    lines.append(curator.add("secret.jpg", abbr=".."))
    lines.append(curator.add("secret.jpg", abbr="a/../.."))
    found = [p for p in problems(curator.save(), capsys) if p["severity"] == "row"]
    assert [p["row"] for p in found] == lines
    assert "leads out of the folder" in found[5]["reason"]
    assert len(built(curator.folder, tmp_path / "out", "--skip_bad")) == 6


def test_duplicate_rows_and_one_photograph_under_two_conditions(curator, tmp_path, capsys):
    twice = curator.add("AAR.1.jpg")
    jpeg = (curator.folder / "rd_images/AAR/AAR.2.jpg").read_bytes()
    exif = Image.Exif()
    exif[0x010E] = "other metadata, same pixels"
    other = curator.add(
        "NA.5.jpg", jpeg[:2] + encoded(picture(1), exif=exif)[2:].split(b"\xff\xdb")[0] + jpeg[20:], abbr="NA"
    )
    same = curator.add("AAR.7.jpg", jpeg)
    found = {p["row"]: p for p in problems(curator.save(), capsys)}
    assert "AAR.1.jpg occurs already in row 2" in found[twice]["reason"] and found[twice]["severity"] == "row"
    assert (
        "same photograph as row 3, under another condition" in found[other]["reason"]
        and found[other]["severity"] == "row"
    )
    assert found[same]["severity"] == "note"
    dataset = built(curator.folder, tmp_path / "out", "--skip_bad")
    assert len(dataset) == 7 and row_of(dataset, "AAR.7")["group_id"] == "AAR.2"


BAD_CELLS = {
    "age -1": ({"age": "-1"}, "age", "'-1' is no age"),
    "age 400": ({"age": "400"}, "age", "'400' is no age"),
    "sex": (
        {"sex": "banana"},
        "sex",
        "'banana' is no word for a sex that is known here; write female (f, girl, woman, w,",
    ),
    "ORPHA text": ({"orphanet_code": "see notes"}, "orphanet_code", "'see notes' is no ORPHA code"),
    "age with thousands": ({"age": "1,000"}, "age", "'1,000' is no age"),
    "negative ORPHA": ({"orphanet_code": "-5"}, "orphanet_code", "'-5' is no ORPHA code"),
    "hpo_ids": ({"hpo_ids": "HP:0000316;HP:12"}, "hpo_ids", "'HP:12' is no current HPO term"),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_value_that_cannot_be_read_becomes_null_and_its_row_is_kept(curator, tmp_path, capsys, case):
    values, column, reason = BAD_CELLS[case]
    line = curator.add("AAR.60.jpg", encoded(picture(60)), **values)
    folder = curator.save()
    assert run("build", folder, "--output_dir", tmp_path / "out") == 2
    assert f"disease_images.csv:{line}: {column}: {reason}" in capsys.readouterr().err
    dataset = built(folder, tmp_path / "out", "--skip_bad")
    name = {"age": "age_years"}.get(column, column)
    assert len(dataset) == 7
    assert row_of(dataset, "AAR.60")[name] == (["HP:0000316"] if column == "hpo_ids" else None)
    with (tmp_path / "out/rejected.csv").open() as file:
        (rejected,) = csv.DictReader(file)
    assert rejected["severity"] == "cell" and reason.partition(";")[0] in rejected["reason"]
    assert "; left out: 1 cell, listed in rejected.csv" in capsys.readouterr().out


def test_what_is_left_out_is_counted_in_rows_and_cells(curator, tmp_path, capsys):
    curator.add("missing.jpg", age="old")  # its cells go with the row
    curator.add("gone.jpg")
    curator.add("AAR.60.jpg", encoded(picture(60)), age="old", hpo_ids="HP:316;HP:0000316")
    folder = curator.save()
    assert run("build", folder, "--output_dir", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert (
        "'HP:316' is no current HPO term; write it as in HP:0000316, or delete it; --skip_bad leaves out only" in told
    )
    assert ", and is left out" not in told
    dataset = built(folder, tmp_path / "out", "--skip_bad")
    assert "; left out: 2 rows and 2 cells, listed in rejected.csv" in capsys.readouterr().out
    assert row_of(dataset, "AAR.60")["hpo_ids"] == ["HP:0000316"]
    with (tmp_path / "out/rejected.csv").open() as file:
        assert [line["severity"] for line in csv.DictReader(file)] == ["row", "cell", "row", "cell", "cell"]


def test_odd_but_good_input_builds_without_a_problem(curator, tmp_path, capsys):
    notes = {
        curator.add("AAR.70.jpg", encoded(picture(70), "PNG")): "is named .jpg but holds PNG",
        curator.add("AAR.71.jpg", corrupt_exif()): "corrupt EXIF",
        curator.add("ünïcödé ☺ (1).jpg", encoded(picture(72)), gene_name="NOSUCHGENE"): "NOSUCHGENE is no gene",
        curator.add(
            "AAR.73.jpg", encoded(picture(73)), disease_name='Syndrome, "quoted"\nin two lines'
        ): "spelt otherwise",
    }
    after = curator.add("AAR.74.jpg", encoded(picture(74)), age="400") + 1  # the record above takes two lines
    found = problems(curator.save("utf-8-sig"), capsys)
    for line, reason in notes.items():
        assert any(p["row"] == line and p["severity"] == "note" and reason in p["reason"] for p in found), reason
    assert [p["row"] for p in found if p["severity"] != "note"] == [after]
    dataset = built(curator.folder, tmp_path / "out", "--skip_bad")
    assert row_of(dataset, "AAR.73")["disease_name"] == 'Syndrome, "quoted" in two lines'
    assert row_of(dataset, "AAR.70")["image"]["path"] == "AAR.70.png"
    assert row_of(dataset, "NA.1")["disease_abbr"] == "NA"


def corrupt_exif() -> bytes:
    jpeg, garbage = encoded(picture(71)), b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage"
    return jpeg[:2] + b"\xff\xe1" + (len(garbage) + 2).to_bytes(2, "big") + garbage + jpeg[2:]


def test_latin_1_is_read_with_a_note_and_repeated_notes_are_folded(curator, capsys):
    for row in curator.rows:
        row["disease_name"], row["gene_name"] = "Syndrome de Gougerot-Sjögren", "NOSUCHGENE"
    folder = curator.save("latin-1")
    assert run("validate", folder) == 0
    report = capsys.readouterr().out
    assert (
        "was read as cp1252" in report
        and report.count("NOSUCHGENE") == 1
        and "(likewise rows 3, 4, 5, 6 and 7)" in report
    )


def test_conflicting_orpha_code_is_refused_where_it_differs_from_the_others(curator, capsys):
    line = curator.add("AAR.60.jpg", encoded(picture(60)), orphanet_code="ORPHA:999")
    (found,) = [p for p in problems(curator.save(), capsys) if p["severity"] != "note"]
    assert (found["row"], found["severity"], found["column"]) == (line, "row", "orphanet_code")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "disease_images.csv: is missing"),
        ("", "is empty"),
        (",".join(HEADER) + "\n", "has no rows"),
        (
            "image_name,disease_name\na.jpg,b\n",
            "column disease_abbr, sub_category, gene_name, orphanet_code is missing",
        ),
        ("~".join(HEADER) + "\na~b~c~d~e~f\n", "separate the cells by commas"),
        (
            ",".join(HEADER) + ",width,label\na,b,c,d,e,f,g,h\n",
            "disease_images.csv:1: column label, width has a name that the build writes",
        ),
        (
            ",".join(HEADER) + "\na,b,c,d,e," + 1_000_001 * "1" + "\n",
            "csv:2: a cell has more than 1,000,000 characters",
        ),
        (",".join(HEADER) + '\na.jpg,"b,c,d,e,f\n', "disease_images.csv:2: a quoted cell is not closed"),
        (",".join(HEADER) + "\nno.jpg,b,NONE,d,e,1\n", "has no usable row"),
    ],
)
def test_table_that_cannot_be_used_is_one_message_and_exit_2(curator, tmp_path, capsys, text, reason):
    path = curator.save() / "disease_images.csv"
    path.unlink() if text is None else path.write_text(text)
    assert run("build", curator.folder, "--output_dir", tmp_path / "out", "--skip_bad") == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert run("validate", curator.folder) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("image.bytes", "column image.bytes has the name of a part of column image"),
        ("gene_names.list.element", "has the name of a part of column gene_names"),
        ("label.names", "has the name of a part of column label"),
        ("label\u200b", "looks like column 'label'"),
        ("\uff49mage_id", "looks like column 'image_id'"),  # a wide letter
        ("came\u0301ra", "looks like column 'caméra'"),
        ("a\x01", "characters in its name that cannot be seen"),
        ("\u200b\u200d", "characters in its name that cannot be seen"),
    ],
)
def test_columns_that_could_be_mixed_up_are_refused_by_validate_and_by_build(tmp_path, capsys, name, reason):
    curator = Curator(tmp_path / "folder", ["caméra", name])
    curator.add("AAR.1.jpg", encoded(picture(1)))
    assert run("validate", curator.save()) == 2 and run("build", curator.folder, "--output_dir", tmp_path / "out") == 2
    for line in (captured := capsys.readouterr()).err.splitlines():
        assert (
            line.startswith("rdface_dataset.py: disease_images.csv:1: column ")
            and reason in line
            and line.endswith("; rename it")
        )
    assert len(captured.err.splitlines()) == 2 and not (tmp_path / "out").exists()


def test_odd_names_of_columns_come_through(tmp_path):
    """Parquet, load_dataset, the card's YAML and the Croissant record carry them."""
    names = [
        "a.b",
        "a b",
        "a%20b",
        "26",
        'a"b',
        "c d",
        "x" * 300,
        "NO",
        "__index_level_0__",
        "file_name",
        "{{x}}",
        "- é: #",
    ]
    curator = Curator(tmp_path / "folder", names + [f"ward {n}" for n in range(500)])
    curator.add("AAR.1.jpg", encoded(picture(1)), **{name: f"value of {name}" for name in names})
    dataset = built(curator.save(), tmp_path / "out")
    assert [dataset[0][name] for name in names] == [f"value of {name}" for name in names]
    assert dataset.column_names == [*schema.real_features([]), *curator.columns]


def test_row_with_too_few_cells_and_folder_without_images(curator, tmp_path, capsys):
    with (curator.save() / "disease_images.csv").open("a") as file:
        file.write("AAR.9.jpg,only two\n")
    assert any(p["row"] == 8 and "2 cells" in p["reason"] for p in problems(curator.folder, capsys))
    bare = Curator(tmp_path / "bare")
    bare.add("a.jpg")
    assert run("validate", bare.save()) == 2 and "holds no images" in capsys.readouterr().err
    nowhere = tmp_path / "nowhere"
    assert run("validate", nowhere) == 2 and f"{nowhere}: is not a folder" in capsys.readouterr().err


def test_the_command_itself_exits_2_without_a_traceback(curator, tmp_path):
    curator.add("bad.jpg", b"text")
    command = [sys.executable, ROOT / "rdface_dataset.py", "build", curator.save(), "--output_dir", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "disease_images.csv:8: image_name: bad.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    assert subprocess.run(command[:3], capture_output=True).returncode == 2


def test_links_that_lead_nowhere_are_row_problems_and_refusals(curator, tmp_path, capsys):
    for name in ("loop.jpg", "dangling.jpg"):
        curator.add(name)
        (curator.folder / "rd_images/AAR" / name).symlink_to("loop.jpg" if name == "loop.jpg" else "nothing.jpg")
    found = [p["reason"] for p in problems(curator.save(), capsys) if p["severity"] == "row"]
    assert found == ["loop.jpg is a link that leads to no file", "dangling.jpg is a link that leads to no file"]
    (tmp_path / "loop").symlink_to("loop")
    assert run("build", curator.folder, "--output_dir", tmp_path / "loop", "--skip_bad") == 2
    assert "is a link that leads to itself" in capsys.readouterr().err.splitlines()[-1]
    assert run("validate", tmp_path / "loop") == 2 and "is not a folder" in capsys.readouterr().err


def test_what_may_not_be_read_is_said_in_one_line(curator, tmp_path, capsys, monkeypatch):
    folder, condition = curator.save(), curated_table.Folder._condition

    def forbidden(files: curated_table.Folder, abbreviation: str) -> Path:  # permissions do not bind root
        if abbreviation == "NA":
            raise PermissionError(13, "Permission denied")
        return condition(files, abbreviation)

    with monkeypatch.context() as patched:
        patched.setattr(curated_table.Folder, "_condition", forbidden)
        found = problems(folder, capsys)
    assert [p["row"] for p in found if "Permission denied" in p["reason"] and p["severity"] == "row"] == [6, 7]
    (folder / "disease_images.csv").unlink()
    (folder / "disease_images.csv").mkdir()
    assert run("validate", folder) == 2
    assert "disease_images.csv: cannot be read (Is a directory)" in capsys.readouterr().err


def test_duplicate_of_a_rejected_row_is_kept(curator, tmp_path):
    curator.rows[0]["orphanet_code"] = "999"
    good = curator.rows[0] | {"orphanet_code": curator.rows[1]["orphanet_code"]}
    curator.rows.append(good)
    dataset = built(curator.save(), tmp_path / "out", "--skip_bad")
    assert sorted(dataset["image_id"][:]) == ["AAR.1", "AAR.2", "AAR.3", "AAR.4", "NA.1", "NA.2"]


def test_one_stray_byte_spoils_no_other_row(curator, tmp_path, capsys):
    for row in curator.rows:
        row["camera"] = "Müller ☺"
    path = curator.save() / "disease_images.csv"
    path.write_bytes(path.read_bytes().replace("Müller".encode(), "Müller".encode("latin-1"), 1))
    (note,) = [p for p in problems(curator.folder, capsys) if "cp1252" in p["reason"]]
    assert note["row"] == 2
    assert built(curator.folder, tmp_path / "out")["camera"][:] == ["Müller ☺"] * 6


def test_doubtful_patients_and_codes_are_noted_and_folded(curator, capsys):
    for row in curator.rows:
        row["subject_id"] = f"p{row['image_name'].split('.')[1]}"
        row["orphanet_code"] = "999999"
    assert run("validate", curator.save()) == 0
    report = capsys.readouterr().out
    assert (
        "csv:6: note: subject_id: subject p1 has another condition in row 2; both count as one person; if they are "
        "two, give each a subject_id of its own, such as A-1 and B-1 (likewise row 7)" in report
    )
    assert report.count("csv:6: note: orphanet_code: ORPHA 999999 has another abbreviation in row 2") == 1
    assert report.count("ORPHA 999999") == 1 and report.endswith("6 usable images, 0 problems, 4 notes in 3 lines\n")


def test_notes_on_photographs_are_folded_where_they_say_the_same(curator, capsys):
    profile = colour_profiles.made_profile(colour_profiles.SRGB_PRIMARIES, colour_profiles.D65, 1.0)
    for n, data in ((20, {"icc_profile": profile}), (21, {}), (22, {"icc_profile": profile}), (23, {})):
        curator.add(f"AAR.{n}.jpg", encoded(picture(n), **data) if data else encoded(picture(n))[:-2])
    assert run("validate", curator.save()) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "note: image_name" in line]
    assert [line.partition("image_name: ")[2] for line in told] == [
        "AAR.20.jpg was converted to sRGB from another profile; nothing needs doing (likewise row 10)",
        "AAR.21.jpg has no end-of-image marker; the picture is whole; nothing needs doing (likewise row 11)",
    ]


def test_folded_notes_name_ten_rows():
    assert problem_lines.named_rows([3]) == "row 3" and problem_lines.named_rows([3, 4, 4]) == "rows 3 and 4"
    assert problem_lines.named_rows(range(3, 79)) == "rows 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 66 more"


def test_jpeg_padding_is_no_damage_and_pixels_are_those_of_pillow(tmp_path):
    padded = encoded(picture(1))[:-2] + bytes(9) + b"\xff\xd9"
    kinds = [encoded(picture(1), subsampling=k, progressive=p) for k in (0, 1, 2) for p in (False, True)]
    for jpeg in (padded, *kinds, encoded(picture(1).convert("L")), encoded(picture(1).convert("CMYK"))):
        (tmp_path / "a.jpg").write_bytes(jpeg)
        _, _, image = photographs.read(tmp_path / "a.jpg")
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))


def test_twelve_bits_in_sixteen(tmp_path):
    ramp = np.linspace(0, 4095, 96 * 80).reshape(80, 96)
    png = encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(png)
    photograph, _, image = photographs.read(path)
    assert photograph.notes == ("is dark, since its values use only 12 of 16 bits",) and np.asarray(image).max() == 16
    at = png.index(b"IDAT") - 4
    path.write_bytes(png[:at] + png_chunk(b"sBIT", b"\x0c") + png[at:])
    photograph, _, image = photographs.read(path)
    assert photograph.notes == () and np.abs(np.asarray(image) - ramp * 255 / 4095).max() <= 0.6


# --- the target: replaced whole, or left as it was


@pytest.mark.parametrize("foreign", ["notes.txt", "real/notes.txt", "restored/train.parquet", "reports/fold0.json"])
def test_earlier_build_with_other_files_is_not_replaced(curator, tmp_path, capsys, foreign):
    folder, target = curator.save(), tmp_path / "out"
    built(folder, target)
    (target / foreign).parent.mkdir(exist_ok=True)
    (target / foreign).write_text("mine")
    assert run("build", folder, "--output_dir", target) == 2
    assert f"out: holds {foreign.removesuffix('/train.parquet').removesuffix('/fold0.json')}" in (
        told := capsys.readouterr().err
    )
    assert ("move it away" if foreign.endswith("notes.txt") else "it was made of the earlier build") in told
    assert (target / foreign).read_text() == "mine" and load_dataset(str(target), split="train").num_rows == 6


def test_what_was_withdrawn_is_not_built_in_again(curator, tmp_path, capsys):
    folder, target = curator.save(), tmp_path / "out"
    built(folder, target)
    withdrawal.withdraw(target, "AAR.2", "1.1.0")
    assert run("build", folder, "--output_dir", target) == 2
    told = capsys.readouterr().err
    assert (
        "disease_images.csv:3: image_name: AAR.2.jpg was withdrawn on " in told
        and "delete the row and the file" in told
    )
    (folder / "rd_images" / "AAR" / "AAR.2.jpg").write_bytes(encoded(picture(77)))  # somebody else's, under its name
    assert run("build", folder, "--output_dir", target) == 2
    assert "AAR.2.jpg would be AAR.2, which was another photograph's until " in capsys.readouterr().err
    again = built(folder, target, "--skip_bad")
    assert "AAR.2" not in again["image_id"][:] and len(again) == 5
    assert [line.image_id for line in withdrawn_list.listed(target)] == ["AAR.2"]
    said = "rdface_dataset.py: withdrawn.csv: is not the list that a withdrawal writes"
    for text in ("mine", (target / "withdrawn.csv").read_text().rstrip() + ",one cell more\n"):
        (target / "withdrawn.csv").write_text(text)
        assert run("build", folder, "--output_dir", target) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_what_was_withdrawn_is_known_if_it_is_saved_again_without_loss(curator, tmp_path, capsys):
    folder, target = curator.save(), tmp_path / "out"
    built(folder, target)
    withdrawal.withdraw(target, "AAR.2", "1.1.0")
    before = folder / "rd_images" / "AAR" / "AAR.2.jpg"
    curator.add("AAR.19.png", encoded(Image.open(before), "PNG"))
    curator.save()
    assert run("build", folder, "--output_dir", target) == 2
    assert "AAR.19.png was withdrawn on " in capsys.readouterr().err


def test_targets_that_cannot_be_are_refused_and_leave_nothing(curator, tmp_path, capsys):
    folder = curator.save()
    (tmp_path / "file").write_text("")
    for target, reason in (("a[1]/out", "load_dataset could not open"), ("file/out", "out: cannot be written (")):
        assert run("build", folder, "--output_dir", tmp_path / target) == 2
        assert reason in capsys.readouterr().err.splitlines()[-1]
    assert run("build", folder, "--output_dir", "") == 2
    assert "names no folder" in capsys.readouterr().err
    curator.add("bad.jpg", b"")
    assert run("build", curator.save(), "--output_dir", tmp_path / "out") == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"file", "folder", "hf_cache"}


def test_interrupted_build_says_so_and_leaves_nothing(curator, tmp_path, capsys):
    for n in range(100, 200):
        curator.add(f"AAR.{n}.png", encoded(picture(n, (256, 256)), "PNG", compress_level=0))
    command = [sys.executable, ROOT / "rdface_dataset.py", "build", curator.save(), "--output_dir", tmp_path / "out"]
    # A job in the background of a script is started with SIGINT ignored, and would hand that on.
    heeded = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **heeded)
    while not list(tmp_path.glob(".out.building-*")):
        assert started.poll() is None, "ended before it could be interrupted"
        time.sleep(0.01)
    started.send_signal(signal.SIGSTOP)  # held in the middle of its work, however slow this machine is
    assert run("build", curator.folder, "--output_dir", tmp_path / "out") == 2
    assert "out: is being written by another build" in capsys.readouterr().err
    started.send_signal(signal.SIGINT)
    started.send_signal(signal.SIGCONT)
    _, stderr = started.communicate()
    assert started.returncode == 130 and stderr.splitlines()[-1] == "rdface_dataset.py: stopped; no dataset was changed"
    assert "Traceback" not in stderr and list(tmp_path.glob("*out*")) == []


def test_a_build_that_is_terminated_says_so_and_leaves_nothing(curator, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rdface_dataset, "write_record", lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # near the end
    assert run("build", curator.save(), "--output_dir", tmp_path / "out") == 143
    said = "rdface_dataset.py: stopped by SIGTERM; no dataset was changed"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert list(tmp_path.glob("*out*")) == []


def test_a_full_disk_costs_nothing_and_a_mount_point_is_refused_at_once(curator, tmp_path, capsys, small_disk):
    target = small_disk / "out"
    assert run("build", curator.save(), "--output_dir", target) == 0
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    for n in range(100, 130):
        curator.add(f"AAR.{n}.png", encoded(picture(n, (256, 256)), "PNG", compress_level=0))
    capsys.readouterr()
    assert run("build", curator.save(), "--output_dir", target) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "space" in line]
    remedy = "make room, or choose another --output_dir; no dataset was changed"
    assert told == [f"rdface_dataset.py: failed: there is no space left in {small_disk}; {remedy}"]
    assert before == {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    (tmp_path / "a bare").mkdir()
    subprocess.run(["mount", "--bind", str(tmp_path / "a bare"), str(tmp_path / "a bare")], check=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(building, "examine", None)  # no photograph is read before
            assert run("build", curator.folder, "--output_dir", tmp_path / "a bare") == 2
    finally:
        subprocess.run(["umount", str(tmp_path / "a bare")], check=True)
    reason = "is a mount point, which cannot be replaced; choose a folder inside of it as --output_dir"
    assert capsys.readouterr().err == f"rdface_dataset.py: a bare: {reason}\n"


def test_a_home_in_output_dir_is_the_home(curator, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("build", curator.save(), "--output_dir=~/out") == 0
    assert (tmp_path / "out/real").is_dir() and not (tmp_path / "~").exists()


def test_a_terminal_of_ascii_is_told_all(curator):
    curator.rows[0]["subject_id"] = curator.rows[4]["subject_id"] = "José ±"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, ROOT / "rdface_dataset.py", "validate", curator.save()]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0 and b"subject Jos\\xe9 \\xb1 has another condition" in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, env=environment)
    assert "José ±" in json.loads(done.stdout)["problems"][-1]["reason"]


BAD_HEADERS = {
    "a tag of Python": "x: !!python/object/apply:os.system ['touch intruded']",
    "another tag": "x: !secret y",
    "no mapping": "- x",
    "a key that is none": "? {a: 1}\n: 2",
    "a wrong merge": "<<: 1",
    "a tab": "\tx: 1",
    "an impossible day": "x: 2020-13-45",
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_card_of_foreign_yaml_is_one_line(curator, tmp_path, capsys, case):
    target = tmp_path / "out"
    target.mkdir()
    (target / "README.md").write_text(f"---\n{BAD_HEADERS[case]}\n---\n{datasheet.GENERATOR}\n")
    assert run("build", curator.save(), "--output_dir", target) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rdface_dataset.py: README.md: its header cannot be read (")
    (target / "real").mkdir()
    pq.write_table(pa.table({"image_id": ["AAR.1"]}), target / "real" / "train-00000-of-00001.parquet")
    with pytest.raises(errors.InputError) as refused:
        opening.load_images(str(target))
    assert "\n" not in str(refused.value) and str(target) in str(refused.value)
    assert not Path("intruded").exists()


def test_what_a_card_says_is_text_or_refused(curator, tmp_path, capsys):
    """A version that stands for ten million others, by references, is not unfolded."""
    references = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]\n" for n in range(1, 9))
    (tmp_path / "out").mkdir()
    for said in ("version: *a8", "contact: *a8", "version: {a: 1}", "repository: [lab]"):
        (tmp_path / "out" / "README.md").write_text(f"---\n{references}{said}\n---\n{datasheet.GENERATOR}\n")
        assert run("build", curator.save(), "--output_dir", tmp_path / "out") == 2
        name = said.partition(":")[0]
        assert f"its header cannot be read ({name} is no text)" in capsys.readouterr().err
    for configs in ("nonsense", "{a: 1}", "[real]", "[{config_name: 1}]"):
        (tmp_path / "out" / "README.md").write_text(f"---\nconfigs: {configs}\n---\n")
        assert datasheet.described_content(tmp_path / "out", "real") is None


def test_only_an_earlier_build_is_replaced(curator, tmp_path, capsys):
    folder, target = curator.save(), tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    assert run("build", folder, "--output_dir", target) == 2
    assert "is not empty and no earlier build" in capsys.readouterr().err
    assert (target / "thesis.txt").read_text() == "mine"
    assert run("build", folder, "--output_dir", folder / "rd_images" / "..") == 2
    (target / "thesis.txt").unlink()
    assert len(built(folder, target)) == 6
    curator.add("AAR.60.jpg", encoded(picture(60)))
    assert len(built(curator.save(), target)) == 7
    assert [path.name for path in tmp_path.glob(".out*")] == []


def test_killed_build_leaves_the_old_dataset_and_the_next_one_cleans_up(curator, tmp_path):
    target = tmp_path / "out"
    before = built(curator.save(), target)["sha256"][:]
    for n in range(100, 300):
        curator.add(f"AAR.{n}.png", encoded(picture(n, (256, 256)), "PNG", compress_level=0))
    curator.save()
    command = [sys.executable, ROOT / "rdface_dataset.py", "build", curator.folder, "--output_dir", target]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob(".out.building-*/written.incomplete/*.parquet")):
        assert started.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert load_dataset(str(target), split="train")["sha256"][:] == before
    target.rename(tmp_path / ".out.previous")  # as if it had been killed between the two renames
    curator.add("bad.jpg", b"")
    assert run("build", curator.save(), "--output_dir", target) == 2
    assert load_dataset(str(target), split="train")["sha256"][:] == before
    assert [path.name for path in tmp_path.glob(".out*")] == []


# --- recorded values


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("3 months", 0.25), ("2y 6m", 2.5), ("18 mo", 1.5), ("2 years", 2), ("P3Y6M", 3.5), ("6", 6), ("6,5", 6.5),
        ("newborn", 0), ("6 years old", 6), ("26 weeks", 0.4983), ("", None), ("n/a", None), ("0", 0),
        ("18 Monate", 1.5), ("3,6 Jahre", 3.6), ("6 J", 6), ("6J.", 6), ("2J 3M", 2.25), ("2J3M", 2.25), ("1 Jahr", 1),
        ("2 Jahre und 3 Monate", 2.25), ("2 Jahre, 1 Monat alt", 2.0833), ("26 Wochen", 0.4983), ("1 Woche", 0.0192),
        ("10 Tage", 0.0274), ("1 Tag", 0.0027), ("3 Jahren", 3),
    ],
)  # fmt: skip
def test_ages(text, years):
    assert value_parsers.age_years(text) == years


@pytest.mark.parametrize("text", ["-1", "400", "six", "3-4", "1e3", "2 6", "P", "1/2", "6 bananas", "old", "of age",
                                  "6 T", "6 Jah", "3;6", "J", "alt", "6 Jahre 3", "2 J 3 J 4", "3 Monde"])  # fmt: skip
def test_texts_that_are_no_age(text):
    with pytest.raises(ValueError, match="is no age"):
        value_parsers.age_years(text)


def test_age_groups_are_completed_years():
    years = [0, 1.99, 2, 5.99, 6, 11.9, 12, 17.9, 18, None]
    expected = ["0-1", "0-1", "2-5", "2-5", "6-11", "6-11", "12-17", "12-17", "18+", None]
    assert [value_parsers.age_group(y) for y in years] == expected


def test_codes_countries_and_genes():
    for text in ("192", "ORPHA:192", "Orphanet_192", "192.0", "00192"):
        assert value_parsers.orphanet_code(text) == "192"
    countries = ["United States", "brazil", "UK", "840", "Namibia", "NA", "DEU", "Ivory Coast", "Korea, South"]
    codes = ["USA", "BRA", "GBR", "USA", "NAM", None, "DEU", "CIV", "KOR"]
    assert [value_parsers.country(text) for text in countries] == codes
    for text in ("Ireland / UK", "UK, France", "GBR FRA", "Ireland (UK)"):
        with pytest.raises(ValueError, match="more than one country"):
            value_parsers.country(text)
    assert value_parsers.country("Trinidad & Tobago") == value_parsers.country("Trinidad and Tobago") == "TTO"
    assert value_parsers.gene_names("fbn1|Kmt2d; new/FBN1") == ["FBN1", "KMT2D", "new"]
    assert value_parsers.gene_names("-") is None
    assert value_parsers.hpo_ids("HP:0000057, HP:0000316") == (
        ["HP:0008665", "HP:0000316"],
        [],
    )  # one replaced by HPO


def test_the_builder_comes_with_the_command():
    from rdface_dataset import RDFaceBuilder

    assert RDFaceBuilder is building.RDFaceBuilder
    with pytest.raises(ImportError):
        from rdface_dataset import NoBuilder  # noqa: F401


def test_problem_is_one_line_whatever_the_cell_holds():
    problem = curated_rows.Problem(
        "disease_images.csv", 3, "image_name", "row", "a\nb\x1b[31m.jpg is missing", "add it"
    )
    assert str(problem).isprintable()
    assert [field.name for field in dataclasses.fields(problem)] == [
        "file",
        "row",
        "column",
        "severity",
        "reason",
        "remedy",
    ]


def test_a_photograph_without_a_number_takes_none_of_another_file_and_the_report_says_which(curator, tmp_path, capsys):
    bad = curator.add("AAR.5.jpg", b"no picture")  # rejected, but its number stays its own
    line = curator.add("scan.jpg", encoded(picture(40)))
    dataset = built(curator.save(), tmp_path / "out", "--skip_bad")
    assert dataset["image_id"][:] == ["AAR.1", "AAR.2", "AAR.3", "AAR.4", "NA.1", "NA.2", "AAR.6"]
    capsys.readouterr()
    found = {p["row"]: p for p in problems(curator.folder, capsys)}
    assert found[bad]["severity"] == "row"
    assert found[line]["severity"] == "note" and found[line]["reason"].endswith("becomes AAR.6")


def test_one_subject_of_two_sexes_is_noted(curator, capsys):
    for row, sex in zip(curator.rows[:3], ("female", "male", ""), strict=True):
        row |= {"subject_id": "S1", "sex": sex}
    (note,) = [p for p in problems(curator.save(), capsys) if p["column"] == "subject_id"]
    assert note["row"] == 3 and note["reason"] == "subject S1 has another sex in row 2"


# --- the name of the dataset

OWN_NAME = 'Gesichter: "Köln" #1 | <b>\'*_{{ x }} ---'  # whatever YAML, Markdown and templates might read otherwise


def test_a_dataset_of_another_name_claims_neither_the_papers_name_nor_its_citation(curator, tmp_path, capsys):
    made = tmp_path / "out"
    assert run("build", curator.save(), "--output_dir", made, "--name", OWN_NAME) == 0
    assert "--name" not in capsys.readouterr().err
    card, licence = ((made / name).read_text(encoding="utf-8") for name in ("README.md", "LICENSE"))
    record = json.loads((made / "croissant.json").read_text(encoding="utf-8"))
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["pretty_name"], header["license_name"]) == (OWN_NAME, "gesichter-koln-1-b-x-controlled-access")
    assert header["extra_gated_heading"] == f"Ask for access to {OWN_NAME}"
    assert licence.startswith(f"{OWN_NAME} controlled-access licence\n") and "Feng" not in licence
    assert f"names the dataset, {OWN_NAME}, and its version.\n" in licence
    assert (record["name"], record["citeAs"]) == (OWN_NAME, f"{OWN_NAME}, version 1.0.0")
    assert "layout of RDFace" in record["description"]
    assert record["usageInfo"][-1]["name"] == f"{OWN_NAME} controlled-access licence"
    body = card.split("---\n", 2)[2]
    shown = html.unescape(body)
    assert f"# {OWN_NAME}: faces of rare genetic conditions\n" in shown and "<b>" not in body
    assert "The dataset has the layout of RDFace (Feng et al." in body
    assert not re.search("described by|bibtex|published numbers", body)
    assert 'load_dataset("ORG/gesichter-koln-1-b-x"' in body and "ORG/rdface" not in body
    assert f"names {OWN_NAME}, version 1.0.0." in shown
    assert '"$home"/datasets/*ORG___gesichter-koln-1-b-x* ' in body, "no other dataset's cache is to be deleted"
    load_dataset(str(made), split="train")


def test_a_name_stays_until_another_one_is_given(curator, tmp_path, capsys):
    made = tmp_path / "out"
    assert run("build", curator.save(), "--output_dir", made, "--name", "Clinic faces") == 0
    datasheet.write_datasheet(made, "1.1.0")  # as a withdrawal does
    assert run("build", curator.folder, "--output_dir", made) == 0
    datasheet.write_figures_and_record(made)  # as a publication does
    assert datasheet.card_header(made)["pretty_name"] == "Clinic faces"
    assert json.loads((made / "croissant.json").read_text())["name"] == "Clinic faces"
    assert "--name" not in capsys.readouterr().err
    shutil.copytree(made / "real", tmp_path / "restoring/restored")  # as restore_images.py leaves it
    restoration_target.publish(tmp_path / "restoring", tmp_path / "restored", source=made)
    assert datasheet.card_header(tmp_path / "restored")["pretty_name"] == "Clinic faces"
    assert run("build", curator.folder, "--output_dir", made, "--name", "rdface") == 0
    assert datasheet.card_header(made)["pretty_name"] == "RDFace" and "Feng et al." in (made / "LICENSE").read_text()


def test_a_build_without_a_name_says_whose_name_the_card_has(curator, tmp_path, capsys, monkeypatch):
    assert run("build", curator.save(), "--output_dir", tmp_path / "out") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "--name" in line]
    assert notes == [
        "note: the card calls this dataset RDFace, as the 456 photographs of 103 conditions of Feng et al. are called; "
        "give it a name of its own with --name TEXT"
    ]
    monkeypatch.setattr(dataset_name, "PAPERS_IMAGES", 6)
    monkeypatch.setattr(dataset_name, "PAPERS_CONDITIONS", 2)
    assert run("build", curator.folder, "--output_dir", tmp_path / "out") == 0
    assert "--name" not in capsys.readouterr().err, "the table is the paper's"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "the name is empty"),
        (" \n ", "the name is empty"),
        ("Our\nfaces", "holds a line break"),
        ("Our\u2028faces", "holds a line break"),
        ("x" * 81, "the name has 81 characters; give one of at most 80"),
        ("rdface-SIM", "is the name of images that were not photographed"),
    ],
)
def test_a_name_that_no_card_can_have_is_refused_in_one_line(curator, tmp_path, capsys, name, reason):
    assert run("build", curator.save(), "--output_dir", tmp_path / "out", "--name", name) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_simulated_images_keep_their_name(curator, tmp_path, capsys, monkeypatch):
    for row in curator.rows:
        row["source_type"] = "simulated"
    with monkeypatch.context() as patched:
        patched.setattr("curation.building.scan", lambda *_: pytest.fail("photographs were read"))
        assert run("build", curator.save(), "--output_dir", tmp_path / "out", "--name", "Clinic faces") == 2
    assert "simulated images are published as RDFace-sim; leave --name out" in capsys.readouterr().err
    assert run("build", curator.folder, "--output_dir", tmp_path / "out") == 0
    assert "--name" not in capsys.readouterr().err
    assert datasheet.card_header(tmp_path / "out")["pretty_name"] == "RDFace-sim"
