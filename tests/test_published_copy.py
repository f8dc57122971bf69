"""The copy that is published holds the examined values of rows and nothing else, whatever the folder's files hold."""

import base64
import datetime
import decimal
import json
import shutil
from pathlib import Path

import planted_pictures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_datasets

from curation import datasheet
from curation.parquet_files import parquet_digest, shard_digests
from harness.errors import InputError
from publishing import publishable
from publishing.published_copy import published_copy

MARK = planted_pictures.MARK
PICTURE = {"bytes": planted_pictures.BUILDERS["exif.jpg"](), "path": "a.jpg"}
PICTURES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def dataset(tmp_path) -> Path:
    return Path(shutil.copytree(small_datasets.one_config(), tmp_path / "rdface"))


def shard_of(dataset: Path) -> Path:
    return next((dataset / "real").glob("*.parquet"))


def add(dataset: Path, name: str, value: object, kind: pa.DataType) -> None:
    """One more column, with the same value in each row, as somebody may have written it with another program."""
    table = pq.read_table(shard_of(dataset))
    overwrite(dataset, table.append_column(name, pa.array([value] * len(table), kind)))


def overwrite(dataset: Path, table: pa.Table) -> None:
    """Another shard, whose digest the card states."""
    before = parquet_digest(shard_digests(dataset, "real/*"))
    pq.write_table(table, shard_of(dataset))
    card = (dataset / "README.md").read_text()
    (dataset / "README.md").write_text(card.replace(before, parquet_digest(shard_digests(dataset, "real/*"))))


def everything(folder: Path) -> bytes:
    """All bytes of a folder, and all values and metadata of its Parquet files, which may be compressed."""
    content = b""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content += path.read_bytes()
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                content += repr((file.metadata, file.metadata.metadata, file.schema_arrow)).encode()
                content += repr(file.read().drop_columns("image").to_pylist()).encode()
                content += b"".join(row["bytes"] or b"" for row in file.read()["image"].to_pylist())
    return content


TEXT = f"{MARK.decode()} Jane Doe"
KINDS = {
    "second picture": (PICTURE, PICTURES),
    "pictures": ([PICTURE], pa.list_(PICTURES)),
    "bytes": (MARK, pa.binary()),
    "large bytes": (MARK, pa.large_binary()),
    "structure": ({"a": {"b": TEXT}}, pa.struct([("a", pa.struct([("b", pa.string())]))])),
    "map": ([("a", TEXT)], pa.map_(pa.string(), pa.string())),
    "text": (TEXT, pa.string()),
    "dictionary": (TEXT, pa.dictionary(pa.int32(), pa.string())),
    "large text": (TEXT, pa.large_string()),
    "list of lists": ([[TEXT]], pa.list_(pa.list_(pa.string()))),
    "day": (datetime.date(2012, 5, 4), pa.date32()),
    "telephone as a number": (442079460018, pa.int64()),
    "picture as base64": ("data:image/jpeg;base64," + base64.b64encode(MARK * 20).decode(), pa.string()),
    "picture as hexadecimal digits": ((MARK * 20).hex(), pa.string()),
    "picture as numbers": (list(MARK * 2), pa.list_(pa.uint8())),
    "embedding": ([0.125] * 64, pa.list_(pa.float32(), 64)),
    "time": (datetime.datetime(2012, 5, 4), pa.timestamp("s")),
    "decimal": (decimal.Decimal("442079460018"), pa.decimal128(20)),
    "duration": (datetime.timedelta(days=4000), pa.duration("s")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_the_curators_own_stays_and_is_refused_if_it_is_named(dataset, kind):
    add(dataset, "remark", *KINDS[kind])
    with published_copy(dataset) as copy:
        assert copy.held_back == {"real": ["camera", "remark"]}
        assert publishable.examine(copy.folder, ()).problems == []
        assert MARK not in everything(copy.folder) and b"remark" not in everything(copy.folder)
    own = ["remark"]
    try:
        with published_copy(dataset, own) as copy:
            problems = publishable.examine(copy.folder, own).problems
    except InputError as error:
        problems = [str(error)]
    assert problems and "remark" in problems[0]
    assert publishable.examine(dataset).problems  # the folder as it is must not leave either
    assert not list(dataset.parent.glob(".rdface.publishing-*"))


@pytest.mark.parametrize("name", ["patient_name", "phone", "date_of_birth", "address", "mrn"])
def test_a_name_that_tells_who_a_person_is_is_refused_whatever_the_column_holds(dataset, name):
    add(dataset, name, "x", pa.string())
    with pytest.raises(InputError, match=f"column {name} has a name"), published_copy(dataset, [name]):
        pass


def test_a_column_of_the_projects_own_must_have_its_type(dataset):
    table = pq.read_table(shard_of(dataset))
    hidden = pa.array([{"x": MARK}] * len(table), pa.struct([("x", pa.binary())]))
    index = table.column_names.index("source_type")
    overwrite(dataset, table.set_column(index, "source_type", hidden))
    with pytest.raises(InputError, match="column source_type holds struct"), published_copy(dataset):
        pass


@pytest.mark.parametrize(
    ("column", "value"),
    [("sex", "Jane"), ("country", "Jane"), ("orphanet_code", "Ward 7"), ("paper_split", "Jane"), ("sha256", "Jane")],
)
def test_a_value_that_a_column_of_the_projects_own_cannot_have_is_refused(dataset, column, value):
    table = pq.read_table(shard_of(dataset))
    index, values = table.column_names.index(column), table[column].to_pylist()
    values[4] = value
    overwrite(dataset, table.set_column(index, table.schema.field(index), pa.array(values, pa.string())))
    with published_copy(dataset) as copy:
        problems = publishable.examine(copy.folder, ()).problems
    assert any(f"row 5 (NA.1): {column} holds what no value of this column can be" in line for line in problems)


def test_an_extension_type_is_refused(dataset):
    add(dataset, "remark", MARK[:16], pa.binary(16))
    table = pq.read_table(shard_of(dataset))
    index = table.column_names.index("remark")
    overwrite(
        dataset, table.set_column(index, "remark", pa.ExtensionArray.from_storage(pa.uuid(), table["remark"].chunk(0)))
    )
    with pytest.raises(InputError, match="column remark holds values of type"), published_copy(dataset, ["remark"]):
        pass


def test_hidden_files_and_links_stay_or_are_refused(dataset, tmp_path):
    (dataset / "real" / ".train-00000-of-00001.parquet").write_bytes(MARK)
    (dataset / ".figures").mkdir()
    (dataset / ".figures" / "age_and_sex.png").write_bytes(MARK)
    (dataset / "readme.md").write_bytes(MARK)
    (dataset / "real" / "notes.json").write_bytes(MARK)
    with published_copy(dataset) as copy:
        assert MARK not in everything(copy.folder) and publishable.examine(copy.folder, ()).problems == []
    (tmp_path / "elsewhere").mkdir()
    (dataset / "restored").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="restored: is a link"), published_copy(dataset):
        pass


def test_footers_field_metadata_and_bytes_between_pages_stay(dataset):
    path = shard_of(dataset)
    table = pq.read_table(path)
    fields = [field.with_metadata({"note": TEXT}) for field in table.schema]
    features = json.loads(table.schema.metadata[b"huggingface"])
    features["info"]["description"] = TEXT
    metadata = {b"huggingface": json.dumps(features).encode(), b"patient": MARK}
    pq.write_table(table.cast(pa.schema(fields, metadata)), path)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[: -8 - footer] + MARK + content[-8 - footer :])  # which no reader looks at
    datasheet.write_datasheet(dataset)
    assert MARK in everything(dataset)
    with published_copy(dataset) as copy:
        assert publishable.examine(copy.folder, ()).problems == []
        assert MARK not in everything(copy.folder)


def test_an_honest_folder_is_copied_byte_for_byte_and_raises_no_alarm(dataset):
    with published_copy(dataset, ["camera"]) as copy:
        contents = publishable.examine(copy.folder, ["camera"])
        assert contents.problems == [] and copy.held_back == {"real": []}
        files = {path.relative_to(copy.folder) for path in copy.folder.rglob("*") if path.is_file()}
        assert {str(name) for name in files} == set(publishable.examine(dataset).files)
        for name in files:
            assert (copy.folder / name).read_bytes() == (dataset / name).read_bytes(), name


def test_figures_are_made_again_and_the_card_keeps_its_text(dataset):
    figure = next((dataset / "figures").glob("*.png"))
    honest = figure.read_bytes()
    figure.write_bytes(PICTURE["bytes"])
    (dataset / "README.md").write_text((dataset / "README.md").read_text() + "\nOur own words.\n")
    with published_copy(dataset) as copy:
        assert (copy.folder / "figures" / figure.name).read_bytes() == honest
        card = (copy.folder / "README.md").read_text()
        assert card.endswith("Our own words.\n") and "name: camera" not in card
        assert publishable.examine(copy.folder, ()).problems == []


def test_the_licence_and_the_list_of_withdrawn_photographs_are_read(dataset):
    (dataset / "LICENSE").write_text("Ask jane (at) clinic.org")
    lines = ["image_id,sha256,withdrawn_on,version", f"AAR.9,{MARK.decode()},2026-01-01,1.0.0"]
    (dataset / "withdrawn.csv").write_text("\n".join(lines))
    with published_copy(dataset) as copy:
        problems = publishable.examine(copy.folder, ()).problems
    assert any(line.startswith("LICENSE: holds an e-mail address") for line in problems)
    assert any(line.startswith("withdrawn.csv: line 2 is none") for line in problems)


@pytest.mark.parametrize(
    "content", [PICTURE["bytes"], b"Terms\0" + MARK, b"a" * 1_000_001], ids=["picture", "null", "long"]
)
def test_a_licence_that_is_no_text_is_refused(dataset, content):
    (dataset / "LICENSE").write_bytes(content)
    with published_copy(dataset) as copy:
        problems = publishable.examine(copy.folder, ()).problems
    assert any(line.startswith("LICENSE: is no text in UTF-8") for line in problems)


@pytest.mark.parametrize("name", planted_pictures.BUILDERS)
def test_a_picture_with_a_planted_text_does_not_leave(dataset, name):
    """Written into a shard past the build, as by somebody who edited it."""
    content = planted_pictures.BUILDERS[name]()
    table = pq.read_table(shard_of(dataset))
    rows = table["image"].to_pylist()
    extension = ".jpg" if name.endswith("jpg") else ".png"
    rows[2] = {"bytes": content, "path": f"{table['image_id'][2]}{extension}"}
    sha256 = table["sha256"].to_pylist()
    sha256[2] = None
    for column, values in (("image", rows), ("sha256", sha256)):
        index = table.column_names.index(column)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    overwrite(dataset, table)
    with published_copy(dataset) as copy:
        assert any("row 3 (AAR.3): the picture" in line for line in publishable.examine(copy.folder, ()).problems)


def test_a_copy_that_a_killed_run_left_is_removed_by_the_next(dataset):
    left = dataset.parent / ".rdface.publishing-abc" / "rdface"
    shutil.copytree(dataset, left)
    with published_copy(dataset):
        assert not left.exists()
    assert not list(dataset.parent.glob(".rdface.publishing-*"))
