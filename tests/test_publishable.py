"""publishing/publishable.py: what leaves a folder and what stays, and every reason for which the whole stays."""

import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_datasets
from PIL import Image, PngImagePlugin

from curation import datasheet
from harness import errors
from publishing import publishable


@pytest.fixture
def dataset(tmp_path) -> Path:
    return Path(shutil.copytree(small_datasets.one_config(), tmp_path / "rdface"))


def change(dataset: Path, column: str, value, row: int = 2) -> None:
    """Another value in one row of config real, in a file that is well-formed otherwise."""
    path = next((dataset / "real").glob("*.parquet"))
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value(values[row]) if callable(value) else value
    index = table.column_names.index(column)
    field = table.schema.field(index)
    pq.write_table(table.set_column(index, field, pa.array(values, field.type)), path)
    datasheet.write_datasheet(dataset)


def problems(dataset: Path) -> list[str]:
    return publishable.examine(dataset).problems


def test_what_a_build_makes_is_fit_and_its_records_stay(dataset):
    (dataset / "rejected.csv").write_text("row,reason\n3,patient.jpg is damaged\n")
    (dataset / "real" / "notes.txt").write_text("seen by Dr. X")
    contents = publishable.examine(dataset)
    assert contents.problems == [] and contents.rows == {"real": 11} and not contents.is_synthetic
    assert {"README.md", "LICENSE", "croissant.json", "real/train-00000-of-00001.parquet"} <= set(contents.files)
    assert set(contents.stays) == {"build_record.json", "rejected.csv", "real/notes.txt"}
    assert len(contents.image_ids) == 11


def with_exif(image: dict) -> dict:
    picture = Image.open(io.BytesIO(image["bytes"]))
    exif = picture.getexif()
    exif[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    return {"bytes": file.getvalue(), "path": image["path"]}


def as_png_with_text(image: dict) -> dict:
    file, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("Patient", "somebody")
    Image.open(io.BytesIO(image["bytes"])).save(file, "PNG", pnginfo=text)
    return {"bytes": file.getvalue(), "path": image["path"].replace(".jpg", ".png")}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("image", with_exif, "the picture holds metadata"),
        ("image", as_png_with_text, "the picture holds metadata"),
        ("image", lambda image: image | {"path": "Jane Doe 2004.jpg"}, "by another name than its identifier"),
        ("image", lambda image: image | {"bytes": None}, "the picture itself is not in the file"),
        ("image", lambda image: image | {"bytes": b"GIF89a" + image["bytes"]}, "neither JPEG nor PNG"),
        ("image", lambda image: image | {"bytes": image["bytes"][:500]}, "the picture"),
        ("sha256", "0" * 64, "not the one that sha256 was taken of"),
        ("camera", "/home/clinic/scans/doe.jpg", "camera holds the path of a file"),
        ("camera", r"C:\Users\clinic\doe.jpg", "camera holds the path of a file"),
        ("camera", r"see \\server\scans", "camera holds the path of a file"),
        ("camera", "file:///scans/doe.jpg", "camera holds the path of a file"),
        ("source_url", "written by jane.doe@clinic.org", "source_url holds an e-mail address"),
        ("gene_names", ["FBN1", "/tmp/genes.txt"], "gene_names holds the path of a file"),
    ],
)
def test_a_row_that_would_give_something_away_is_named(dataset, column, value, reason):
    change(dataset, column, value)
    found = problems(dataset)
    assert found and all(problem.startswith("real/train-00000-of-00001.parquet: row 3 (AAR.3): ") for problem in found)
    assert any(reason in problem for problem in found)
    assert not any("doe" in problem.lower() for problem in found)  # the value itself is not shown


@pytest.mark.parametrize(
    "text",
    ["https://www.clinic.org/home/var/images/1.jpg", "https://medium.com/@jane/faces", "and/or", "3/home", "a: b"],
)
def test_ordinary_text_is_no_path_and_no_address(text):
    assert publishable.private_text(text) == []


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("Photograph AAR.2 shows her best.", "names the photograph AAR.2"),
        ("Write to doe@clinic.org.", "holds an e-mail address"),
        ("Token hf_" + "x" * 30, "holds a token or key"),
        ("See ~/scans/doe.jpg", "holds the path of a file"),
        ("![x](data:image/png;base64,aGVsbG8=)", "is no text of a card's size"),
        ("a" * 2_000_000, "is no text of a card's size"),
        (b"\xff\xfe", "is no text of a card's size"),
    ],
)
def test_the_card_which_everybody_reads_gives_nothing_away(dataset, added, reason):
    with (dataset / "README.md").open("ab") as card:
        card.write(added if isinstance(added, bytes) else added.encode())
    assert any(reason in problem for problem in problems(dataset))


@pytest.mark.parametrize(
    ("old", "new"),
    [("extra_gated_fields:", "fields:"), ("real/train-*.parquet", "real/*.bin"), ("extra_gated_prompt", "prompt")],
)
def test_a_card_without_its_form_or_its_files_is_refused(dataset, old, new):
    readme = dataset / "README.md"
    readme.write_text(readme.read_text().replace(old, new))
    assert problems(dataset)


def test_the_contact_may_be_an_address(dataset):
    datasheet.write_datasheet(dataset, contact="faces@clinic.org")
    assert problems(dataset) == []


def test_a_card_of_other_files_is_refused(dataset):
    path = next((dataset / "real").glob("*.parquet"))
    pq.write_table(pq.read_table(path).slice(0, 5), path)
    assert problems(dataset) == ["README.md: was not made of these Parquet files; make the dataset again"]
    (dataset / "README.md").write_text("# A dataset\n")
    assert problems(dataset) == ["README.md: has no header that load_dataset could read; make the dataset again"]


def test_links_are_not_followed_and_damaged_files_are_named(dataset, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("something else of this machine")
    (dataset / "LICENSE").unlink()
    (dataset / "LICENSE").symlink_to(secret)
    assert "LICENSE: is a link; put the file itself there" in problems(dataset)
    path = next((dataset / "real").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:2000])
    assert any("cannot be read" in problem for problem in problems(dataset))


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(errors.InputError, match=r"rdface_dataset\.py"):
            publishable.examine(folder)


def test_what_was_made_from_photographs_that_are_not_here_stays(dataset):
    small_datasets.with_restored_and_reports(dataset)
    assert problems(dataset) == []
    path = next((dataset / "real").glob("*.parquet"))
    pq.write_table(pq.read_table(path).slice(1), path)
    datasheet.write_datasheet(dataset)
    found = problems(dataset)
    assert [line.split("/")[0] for line in found] == ["reports", "restored"]
    assert all("row 1 (AAR.1): config real holds no such photograph" in line for line in found)


# ---- synthetic images


def test_synthetic_images_that_passed_the_filter_are_fit_for_everybody(tmp_path):
    contents = publishable.examine(small_datasets.synthetic(tmp_path / "sim", [["AAR.1"], ["AAR.2"]]))
    assert contents.is_synthetic and contents.problems == [] and publishable.privacy_problems(contents) == []


def test_without_a_green_report_on_these_very_files_they_are_not(tmp_path):
    folder = small_datasets.synthetic(tmp_path / "sim", [["AAR.1"], ["AAR.2"]])
    report = folder / publishable.PRIVACY_REPORT

    def reasons() -> str:
        return " ".join(publishable.privacy_problems(publishable.examine(folder)))

    small_datasets.report_on(folder, "red")
    assert "its verdict is not green" in reasons()
    report.write_text(json.dumps({"verdict": "green", "files": {"synthetic/train-00000-of-00001.parquet": "0" * 64}}))
    assert "is about another synthetic/train-00000-of-00001.parquet" in reasons()
    for broken in ("", "[]", "null", '{"verdict": "green", "files": 3}'):
        report.write_text(broken)
        assert "is not what filter_synthetic.py writes" in reasons()
    report.write_text('{"verdict": "green"}')
    assert "is about another synthetic/train-00000-of-00001.parquet" in reasons()
    report.unlink()
    assert "is missing" in reasons()


def test_an_image_that_the_filter_rejected_keeps_all_of_them_back(tmp_path):
    folder = small_datasets.synthetic(tmp_path / "sim", [["AAR.1"], ["AAR.2"]], kept=[True, False])
    (problem,) = publishable.privacy_problems(publishable.examine(folder))
    assert "holds images that the filter has not kept" in problem


def test_photographs_and_synthetic_images_do_not_share_a_folder(dataset, tmp_path):
    shutil.copytree(small_datasets.synthetic(tmp_path / "sim", [["AAR.1"]]) / "synthetic", dataset / "synthetic")
    assert any("give them a folder of their own" in problem for problem in problems(dataset))


@pytest.mark.parametrize(("further", "said"), [(1, "(also in 1 further row)"), (2, "(also in 2 further rows)")])
def test_one_problem_of_several_rows_is_one_line_that_counts_the_others(dataset, further, said):
    for row in range(further + 1):
        change(dataset, "source_type", "write to somebody@example.org", row)
    (told,) = problems(dataset)
    assert told.endswith(said)
