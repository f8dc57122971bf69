"""Whatever a curator hands in: validate, build and publish --dry_run answer in words, and what is published is clean.

1,000 rows and 200 image files, drawn by hypothesis: odd text in every column, every format and mode, EXIF, GPS, XMP and
comments with a mark that is searched for in the published bytes, and damaged files."""

import csv
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import exit_status
from PIL import Image, PngImagePlugin
from test_rdface_dataset import HEADER, picture

import publish_dataset
import rdface_dataset
from publishing import publishable

EXAMPLES, ROWS, IMAGES = 20, 50, 10
MARK = b"MARK-of-a-patient"
TOKEN = "hf_" + "fuzzed" * 5
COLUMNS = [*HEADER, "subject_id", "age", "sex", "country", "hpo_ids", "source_type", "source_url", "license", "ward"]
MODES = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("L", "RGB", "RGBA", "P", "1"), "WEBP": ("RGB", "RGBA")}
MODES |= {"TIFF": ("L", "RGB", "I;16"), "BMP": ("L", "RGB"), "GIF": ("P",)}

# A NUL byte makes the whole table "not text", which has a test of its own.
odd_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
plausible = {
    "disease_name": st.sampled_from(["Noonan syndrome", "Marfan syndrome", ""]),
    "sub_category": st.sampled_from(["skeletal", ""]),
    "gene_name": st.sampled_from(["FBN1", "fbn1; KMT2D", "not a gene", ""]),
    "orphanet_code": st.sampled_from(["558", "ORPHA:648", "0", "-1", "x"]),
    "subject_id": st.sampled_from(["p1", "p2", ""]),
    "age": st.sampled_from(["3", "3 months", "0.5", "200", "-1", "nan", "1e309", "2-4 years", ""]),
    "sex": st.sampled_from(["F", "male", "?", ""]),
    "country": st.sampled_from(["Brazil", "Türkiye", "XXX", "US", ""]),
    "hpo_ids": st.sampled_from(["HP:0000316", "hp:0000154;HP:9999999", "wide eyes", ""]),
    "source_type": st.sampled_from(["clinic", "publication", ""]),
    "source_url": st.sampled_from(["https://example.org/home/1.jpg", "javascript:alert(1)", ""]),
    "license": st.sampled_from(["CC BY 4.0", ""]),
    "ward": st.sampled_from(["3b", "NULL", "=1+1", "<script>alert(1)</script>", "{{ 7 * 7 }}", "a\nb", '"', ""]),
}


@st.composite
def image_files(draw) -> tuple[str, bytes]:
    """An extension, right or wrong, and a file: mostly whole, sometimes cut off, changed or no image at all."""
    kind = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    size = draw(st.sampled_from([(96, 80), (64, 64), (33, 120), (96, 81), (90, 90), (31, 31), (400, 40)]))
    drawn = picture(draw(st.integers(0, 2**31)), size)
    in_16_bits = Image.fromarray(np.asarray(drawn.convert("L"), dtype=np.uint16) * 257)
    drawn = in_16_bits if mode == "I;16" else drawn.convert(mode)
    file = io.BytesIO()
    drawn.save(file, kind, **hidden_data(kind, draw(st.integers(1, 9))))
    data = file.getvalue()
    damage = draw(st.sampled_from(["none"] * 15 + ["cut", "changed", "more", "noise", "empty"]))
    if damage == "cut":
        data = data[: draw(st.integers(0, len(data)))]
    elif damage == "changed":
        place = draw(st.integers(0, len(data) - 1))
        data = data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place + 8 :]
    elif damage == "more":
        data += MARK + draw(st.binary(max_size=50))
    elif damage in ("noise", "empty"):
        data = draw(st.binary(max_size=200)) if damage == "noise" else b""
    right = {"JPEG": ".jpg"}.get(kind, f".{kind.lower()}")
    return draw(st.sampled_from([right] * 12 + [".jpg", ".png", ".txt", ""])), data


def hidden_data(kind: str, orientation: int) -> dict:
    """What a camera or a scanner's program writes into a file, with MARK in it."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9286] = orientation, MARK.decode(), MARK
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 12.5), 3: "E", 4: (4.0, 20.0, 0.5), 29: MARK.decode()})
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Patient", MARK.decode())
        text.add_itxt("XML:com.adobe.xmp", MARK.decode())
        return {"exif": exif, "pnginfo": text}
    return {
        "JPEG": {"exif": exif, "comment": MARK, "xmp": MARK, "quality": 90},
        "WEBP": {"exif": exif, "xmp": MARK},
        "TIFF": {"exif": exif, "description": MARK.decode()},
        "GIF": {"comment": MARK},
    }.get(kind, {})


@st.composite
def folders(draw) -> tuple[list[dict], dict[str, bytes]]:
    """Rows of a CSV and the photographs that some of them name; the other rows name any of these again, or none."""
    files, rows = {}, []
    for n in range(IMAGES):
        extension, data = draw(image_files())
        files[f"{draw(st.sampled_from(['AAR', 'NA', 'WS']))}/photo.{n}{extension}"] = data
    names = sorted(files)
    for n in range(ROWS):
        abbr, name = names[n % IMAGES if n < 2 * IMAGES else draw(st.integers(0, IMAGES - 1))].split("/")
        row = {column: draw(values) for column, values in plausible.items()}
        row |= {"image_name": name, "disease_abbr": abbr}
        if n < IMAGES:  # plausible, so that something is left to build
            row |= {"orphanet_code": str(100 + ord(abbr[0])), "disease_name": f"Syndrome {abbr}"}
        else:
            column = draw(st.sampled_from(COLUMNS))
            row[column] = draw(odd_text | st.sampled_from(["../../etc/passwd", "/etc/passwd", "C:\\x.jpg", ".."]))
        rows.append(row)
    return rows, files


def write(folder: Path, rows: list[dict], files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / "rd_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with (folder / "disease_images.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


built_somewhere = []


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(drawn=folders())
def fuzz(drawn, capsys) -> None:
    rows, files = drawn
    home = Path(tempfile.mkdtemp(prefix="fuzzed-"))
    try:
        folder, dataset = home / "input", home / "rdface"
        write(folder, rows, files)
        assert exit_status(rdface_dataset, "validate", folder) in (0, 2)
        built = exit_status(rdface_dataset, "build", folder, "--output_dir", dataset, "--skip_bad")
        assert built in (0, 2) and (built == 0) == dataset.is_dir()
        if built == 0:
            assert exit_status(publish_dataset, "publish", dataset, "lab/rdface", "--dry_run") in (0, 2)
            look_at(publishable.examine(dataset), home)
            built_somewhere.append(len(pq.read_table(dataset / "real", columns=["image_id"])))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err and TOKEN not in said.out + said.err
        assert MARK.decode() not in said.out + said.err
    finally:
        shutil.rmtree(home)


def look_at(contents: publishable.Contents, home: Path) -> None:
    """Every byte that would be published."""
    for name, file in contents.files.items():
        data = file.read_bytes()
        for what in (MARK, str(home).encode(), TOKEN.encode(), b"Exif\0\0", b"http://ns.adobe.com/xap"):
            assert what not in data, f"{what} in {name}"
    for row in pq.read_table(contents.folder / "real").to_pylist():
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        image.load()
        assert not image.getexif() and not {"exif", "xmp", "comment", "photoshop"} & set(image.info)
        assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "gamma", "icc_profile",
                                     "srgb", "chromaticity", "adobe", "adobe_transform", "progressive",
                                     "progression", "transparency"}  # fmt: skip


def test_fuzzed_rows_and_images_are_answered_in_words_and_leave_nothing_behind(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    built_somewhere.clear()
    fuzz(capsys)
    assert sum(built_somewhere) >= EXAMPLES * IMAGES / 4, "too little was left to publish: the test would prove nothing"


def test_the_marks_are_in_what_goes_in():
    file = io.BytesIO()
    picture(1).save(file, "JPEG", **hidden_data("JPEG", 6))
    assert file.getvalue().count(MARK) >= 4
