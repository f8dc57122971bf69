"""withdrawal.py: a photograph and what was made from it are gone from every file, and the rest is as it was."""

import io
import json
import os
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_datasets
import torch
from accelerate import Accelerator
from datasets import load_dataset
from in_process import exit_status
from loopback_user import killed_before
from PIL import Image

import publish_dataset
from curation import pairs_to_look_at, protocols, withdrawn_list
from curation.leak_guard import check_fold
from generation import filter_files, synthetic_images, training_provenance
from harness import derived_places, errors, run_folder
from imaging import pixel_cache
from publishing import mentions, publishable, traces, withdrawal


@pytest.fixture
def dataset(tmp_path) -> Path:
    return Path(shutil.copytree(small_datasets.three_configs(), tmp_path / "rdface"))


def rows(dataset: Path, config: str) -> list[dict]:
    return pq.read_table(dataset / config).to_pylist()


def in_bytes(folder: Path, *needles: bytes) -> list[str]:
    """Files below a folder that hold one of these byte strings."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]


def test_the_photograph_leaves_every_config_and_nothing_else_changes(dataset):
    before = {config: rows(dataset, config) for config in ("real", "restored", "reports")}
    picture = next(row["image"]["bytes"] for row in before["real"] if row["image_id"] == "NA.2")
    assert in_bytes(dataset, picture[-150:-10])
    changed = withdrawal.withdraw(dataset, "NA.2", "1.1.0")
    assert changed == [f"{config}/train-00000-of-00001.parquet" for config in ("real", "restored", "reports")]
    for config, earlier in before.items():
        assert rows(dataset, config) == [row for row in earlier if row["image_id"] != "NA.2"]
    assert not in_bytes(dataset, picture[-150:-10]) and not in_bytes(dataset / "reports", b"The eyes of NA.2")
    (line,) = withdrawn_list.listed(dataset)
    assert (line.image_id, line.version) == ("NA.2", "1.1.0") and line.sha256 in {r["sha256"] for r in before["real"]}


def test_the_files_keep_their_layout_and_schema(dataset):
    withdrawal.withdraw(dataset, "NA.2", "1.1.0")
    for config in ("real", "reports"):
        old, new = (
            pq.ParquetFile(next((home / config).glob("*.parquet")))
            for home in (small_datasets.three_configs(), dataset)
        )
        assert new.schema_arrow.equals(old.schema_arrow, check_metadata=True)
        for n in range(old.metadata.num_columns):
            a, b = (file.metadata.row_group(0).column(n) for file in (old, new))
            assert (a.path_in_schema, a.compression, a.encodings) == (b.path_in_schema, b.compression, b.encodings)
            assert b.has_offset_index


def test_a_condition_left_with_one_group_is_tested_no_longer_and_all_other_folds_stay(dataset):
    before = {row["image_id"]: row["strict_fold"] for row in rows(dataset, "real")}
    assert before["WS.1"] is not None and before["WS.2"] is not None
    withdrawal.withdraw(dataset, "WS.1", "1.1.0")
    after = {row["image_id"]: row["strict_fold"] for row in rows(dataset, "real")}
    assert after == {name: None if name == "WS.2" else fold for name, fold in before.items() if name != "WS.1"}
    columns = pq.read_table(dataset / "real").to_pydict()
    for fold in protocols.folds(columns, "strict"):
        check_fold(fold, columns)
        labels = columns["label"]
        assert {labels[row] for row in fold.test} <= {labels[row] for row in fold.train}


def test_what_was_withdrawn_half_is_withdrawn_whole_by_the_next_call(dataset, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    done = []

    def rewrite_once(path: Path, change) -> bool:
        if done:
            stop()
        done.append(path)
        return real_rewrite(path, change)

    real_rewrite = withdrawal.rewrite
    monkeypatch.setattr(withdrawal, "rewrite", rewrite_once)
    with pytest.raises(KeyboardInterrupt):
        withdrawal.withdraw(dataset, "WS.1", "1.1.0")
    monkeypatch.undo()
    assert [line.image_id for line in withdrawn_list.listed(dataset)] == ["WS.1"]
    withdrawal.withdraw(dataset, "WS.1", "1.1.0")
    assert [line.image_id for line in withdrawn_list.listed(dataset)] == ["WS.1"]
    assert all(
        "WS.1" not in {row["image_id"] for row in rows(dataset, name)} for name in ("real", "restored", "reports")
    )
    assert {row["strict_fold"] for row in rows(dataset, "real") if row["image_id"] == "WS.2"} == {None}


def test_an_unknown_photograph_and_the_last_one_are_refused(dataset):
    with pytest.raises(errors.InputError, match=r"holds no photograph XX\.1"):
        withdrawal.withdraw(dataset, "XX.1", "1.1.0")
    *others, last = [row["image_id"] for row in rows(dataset, "real")]
    for image_id in others:
        withdrawal.withdraw(dataset, image_id, "1.1.0")
    with pytest.raises(errors.InputError, match="is the last photograph; delete the dataset itself"):
        withdrawal.withdraw(dataset, last, "1.1.0")
    assert len(rows(dataset, "real")) == 1


def test_shards_that_lose_their_last_row_go_and_the_others_are_numbered_anew(dataset):
    shard = dataset / "real" / "train-00000-of-00001.parquet"
    table = pq.read_table(shard)
    for number, part in enumerate((table.slice(0, 4), table.slice(4, 1), table.slice(5))):
        pq.write_table(part, dataset / "real" / f"train-{number:05d}-of-00003.parquet")
    shard.unlink()
    image_id = table["image_id"][4].as_py()
    withdrawal.withdraw(dataset, image_id, "1.1.0")
    names = sorted(path.name for path in (dataset / "real").iterdir())
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert [row["image_id"] for row in rows(dataset, "real")] == [
        name for name in table["image_id"].to_pylist() if name != image_id
    ]


# ---- what was made from it


@pytest.fixture
def made(tmp_path) -> Path:
    """A generator's output: two adapters with a sources.json, one known only from its images, synthetic images."""
    folder = tmp_path / "made"
    small_datasets.synthetic(folder / "fold0" / "synthetic-sim", [["AAR.1", "AAR.2"], ["AAR.3"], ["AAR.1"], ["NA.1"]])
    for name, sources, told in (("AAR", ["AAR.1", "AAR.2"], True), ("NA", ["NA.1"], True), ("WS", ["AAR.1"], False)):
        home = folder / "fold0" / "adapters" / name
        home.mkdir(parents=True)
        (home / "pytorch_lora_weights.safetensors").write_bytes(small_datasets.adapter_bytes(sources))
        if told:
            (home / training_provenance.SOURCES_NAME).write_text(json.dumps({"source_image_ids": sources}))
    return folder


def test_synthetic_images_and_models_made_from_it_are_listed_and_removed(made):
    found = withdrawal.derived(made, "AAR.1")
    assert found.lines(made) == [
        "fold0/synthetic-sim/synthetic/train-00000-of-00001.parquet: 2 images or reports",
        "fold0/adapters/AAR/pytorch_lora_weights.safetensors: a model trained on it",
        "fold0/adapters/WS/pytorch_lora_weights.safetensors: a model trained on it",
    ]
    withdrawal.remove(found, "AAR.1")
    left = pq.read_table(made / "fold0" / "synthetic-sim" / "synthetic").to_pylist()
    assert [row["source_image_ids"] for row in left] == [["AAR.3"], ["NA.1"]]
    assert [path.parent.name for path in made.rglob("*.safetensors")] == ["NA"]
    assert withdrawal.derived(made, "AAR.1").lines(made) == []


def test_pictures_that_a_model_made_go_with_it(made):
    grid, sheet = (
        made / "fold0" / "adapters" / "AAR" / "step_00000100.png",
        made / "fold0" / synthetic_images.SHEET_NAME,
    )
    landmarks = made / "fold0" / "synthetic-sim" / filter_files.LANDMARKS
    photographs = made / "elsewhere" / filter_files.PATIENTS_PHOTOGRAPHS
    photographs.parent.mkdir()
    other = made / "fold0" / "adapters" / "NA" / "step_00000100.png"
    for picture in (grid, sheet, landmarks, photographs, other):
        picture.write_bytes(b"a picture")
    found = withdrawal.derived(made, "AAR.1")
    assert found.lines(made)[-4:] == [
        "fold0/adapters/AAR/step_00000100.png: pictures from a model trained on it",
        "fold0/samples.png: pictures from a model trained on it",
        "fold0/synthetic-sim/landmarks.png: pictures from a model trained on it",
        "elsewhere/nearest_real_patients_photographs.png: may show the photograph itself",
    ]
    withdrawal.remove(found, "AAR.1")
    assert not any(picture.exists() for picture in (grid, sheet, landmarks, photographs)) and other.exists()


def test_the_filters_verdict_holds_for_the_images_that_are_left(made):
    folder = made / "fold0" / "synthetic-sim"
    withdrawal.remove(withdrawal.derived(made, "AAR.1"), "AAR.1")
    contents = publishable.examine(folder)
    assert publishable.privacy_problems(contents) == []
    small_datasets.report_on(folder, "red")
    withdrawal.remove(withdrawal.derived(made, "AAR.3"), "AAR.3")
    assert any("not green" in problem for problem in publishable.privacy_problems(publishable.examine(folder)))


def test_restored_photographs_elsewhere_count_as_derived_and_predictions_do_not(dataset, tmp_path):
    shutil.copytree(dataset / "restored", tmp_path / "elsewhere" / "restored")
    shutil.copytree(dataset / "reports", tmp_path / "elsewhere" / "probe")  # as predictions: rows with an image_id
    found = withdrawal.derived(tmp_path / "elsewhere", "NA.2")
    assert [path.parent.name for path in found.rows] == ["restored"]
    withdrawal.remove(found, "NA.2")
    assert "NA.2" not in {row["image_id"] for row in rows(tmp_path / "elsewhere", "restored")}


def mentioning(folder: Path, image_id: str) -> list[str]:
    """Files below a folder of which a value, or the text, mentions a photograph."""
    named = []
    for path in folder.rglob("*"):
        is_table = path.suffix == ".parquet"
        rows = pq.read_table(path).to_pylist() if is_table else []
        text = repr([{**row, "image": None} for row in rows])
        text += path.read_text(errors="replace") if path.suffix in traces.TEXT_SUFFIXES else ""
        named += [str(path)] * bool(mentions.word(image_id).search(text))
    return named


def test_photographs_of_its_group_and_pictures_that_only_mention_it_stay(dataset, tmp_path, capsys):
    shard, elsewhere = next((dataset / "restored").glob("*.parquet")), tmp_path / "elsewhere" / "restored"
    remarks = ["the brother of AAR.1", *[None] * (len(rows(dataset, "real")) - 1)][::-1]
    for config in ("real", "restored"):
        table = pq.read_table(dataset / config / shard.name)
        pq.write_table(table.append_column("remark", pa.array(remarks)), dataset / config / shard.name)
    shutil.copytree(dataset / "restored", elsewhere)
    before = {row["image_id"]: row["group_id"] for row in rows(dataset, "real")}
    assert before["AAR.2"] == "AAR.1"
    assert exit_status(publish_dataset, "withdraw", dataset, "AAR.1", "--derived", elsewhere.parent, "--dry_run") == 0
    assert "2 rows of others that mention it" in capsys.readouterr().out
    assert exit_status(publish_dataset, "withdraw", dataset, "AAR.1", "--derived", elsewhere.parent) == 0
    after = {name: "AAR.2" if group == "AAR.1" else group for name, group in before.items() if name != "AAR.1"}
    for left in (rows(dataset, "real"), rows(dataset, "restored"), pq.read_table(elsewhere).to_pylist()):
        assert {row["image_id"]: row["group_id"] for row in left} == after
        assert left[-1]["remark"] == "the brother of (withdrawn)"
    (dataset / "withdrawn.csv").unlink()
    assert mentioning(dataset, "AAR.1") == mentioning(elsewhere, "AAR.1") == []


def test_synthetic_images_that_resemble_it_stay_without_its_name_and_keep_their_verdict(dataset, tmp_path, capsys):
    folder = small_datasets.synthetic(tmp_path / "rdface-synthetic", [["AAR.1"], ["NA.1"], ["NA.1"], ["NA.2"]])
    shard = next((folder / "synthetic").glob("*.parquet"))
    nearest = pa.array(["AAR.1", "AAR.1", "NA.2", "AAR.1"])
    pq.write_table(pq.read_table(shard).append_column("nearest_real_id", nearest), shard)
    small_datasets.datasheet.write_datasheet(folder, "1.0.0")
    small_datasets.report_on(folder)
    assert exit_status(publish_dataset, "withdraw", dataset, "AAR.1", "--derived", folder) == 0
    told = capsys.readouterr().out
    assert ": 1 image or report" in told and ": 2 rows of others that mention it" in told
    left = pq.read_table(folder / "synthetic").to_pylist()
    assert [(row["synthetic_id"], row["nearest_real_id"]) for row in left] == [
        ("S1", None), ("S2", "NA.2"), ("S3", None),
    ]  # fmt: skip
    assert publishable.privacy_problems(publishable.examine(folder)) == []
    assert mentioning(folder, "AAR.1") == []


def test_a_group_is_renamed_alike_in_all_files_whenever_the_withdrawal_is_interrupted(dataset, monkeypatch):
    shard = dataset / "real" / "train-00000-of-00001.parquet"
    table = pq.read_table(shard)
    groups = ["AAR.1" if name.startswith("AAR") else name for name in table["image_id"].to_pylist()]
    at = table.column_names.index("group_id")
    table = table.set_column(at, table.schema.field(at), pa.array(groups))
    for number, part in enumerate((table.slice(0, 3), table.slice(3))):  # AAR.1 to AAR.3, and AAR.4
        pq.write_table(part, dataset / "real" / f"train-{number:05d}-of-00002.parquet")
    shard.unlink()
    done = []

    def rewrite_some(path: Path, change) -> bool:
        if path.parent.name == "real" and done:
            raise KeyboardInterrupt
        done.extend([path] * (path.parent.name == "real"))
        return real_rewrite(path, change)

    real_rewrite = withdrawal.rewrite
    monkeypatch.setattr(withdrawal, "rewrite", rewrite_some)
    with pytest.raises(KeyboardInterrupt):
        withdrawal.withdraw(dataset, "AAR.1", "1.1.0")
    monkeypatch.undo()
    withdrawal.withdraw(dataset, "AAR.1", "1.1.0")
    assert {row["group_id"] for row in rows(dataset, "real") if row["image_id"].startswith("AAR")} == {"AAR.2"}


def test_altered_copies_that_stay_are_named_with_the_command_that_withdraws_them(dataset, capsys):
    shard = dataset / "real" / "train-00000-of-00001.parquet"
    table = pq.read_table(shard)
    pictures = table["image"].to_pylist()
    file = io.BytesIO()
    Image.open(io.BytesIO(pictures[0]["bytes"])).convert("RGB").save(file, "JPEG", quality=60)
    copied = table["image_id"].to_pylist().index("NA.3")
    pictures[copied] = {"bytes": file.getvalue(), "path": "NA.3.jpg"}
    pq.write_table(table.set_column(0, table.schema.field(0), pa.array(pictures, table.schema.field(0).type)), shard)
    assert exit_status(publish_dataset, "withdraw", dataset, "AAR.1", "--dry_run") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1 and warned[0].startswith("warning: NA.3 is the same picture as AAR.1, or nearly so")
    assert warned[0].endswith(f"python publish_dataset.py withdraw {dataset} NA.3")
    assert exit_status(publish_dataset, "withdraw", dataset, "AAR.1") == 0
    assert capsys.readouterr().err.count("NA.3 is the same picture") == 1


def test_a_list_of_an_earlier_release_is_read_and_gets_the_digest_of_pixels(dataset):
    earlier = ["image_id,sha256,withdrawn_on,version", f"AAR.9,{'0' * 64},2026-01-01,1.0.0"]
    (dataset / "withdrawn.csv").write_text("\n".join(earlier))
    withdrawal.withdraw(dataset, "NA.2", "1.1.0")
    old, new = withdrawn_list.listed(dataset)
    assert old.pixels_sha256 == "" and len(new.pixels_sha256) == 64 and old.is_well_formed and new.is_well_formed
    (dataset / "withdrawn.csv").write_text("image_id,sha256,withdrawn_on,version\na,b,c,d,e")
    with pytest.raises(errors.InputError, match="is not the list"):
        withdrawn_list.listed(dataset)


def test_sources_that_cannot_be_read_stop_before_anything_is_removed(made):
    (made / "fold0" / "adapters" / "NA" / training_provenance.SOURCES_NAME).write_text("{}")
    with pytest.raises(errors.InputError, match="does not say what a model was trained on"):
        withdrawal.derived(made, "AAR.1")


def test_what_was_made_before_the_photograph_got_another_name_is_found_by_its_digest(made):
    """A later build may number photographs anew: the adapter's NA.1 is then called NA.7."""
    shard = next((made / "fold0" / "synthetic-sim" / "synthetic").glob("*.parquet"))
    table = pq.read_table(shard)
    digests = [[f"digest of {name}" for name in ids] for ids in table["source_image_ids"].to_pylist()]
    pq.write_table(table.append_column("source_sha256", pa.array(digests)), shard)
    sources = made / "fold0" / "adapters" / "NA" / training_provenance.SOURCES_NAME
    sources.write_text(json.dumps({"source_image_ids": ["NA.1"], "source_sha256": ["digest of NA.1"]}))
    assert (
        withdrawal.derived(made, "NA.7").lines(made) == withdrawal.derived(made, "NA.7", "of another").lines(made) == []
    )
    found = withdrawal.derived(made, "NA.7", "digest of NA.1")
    assert [path.parent.name for path in found.files] == ["NA"] and list(found.rows.values()) == [1]
    withdrawal.remove(found, "NA.7", "digest of NA.1")
    assert ["NA.1"] not in pq.read_table(shard)["source_image_ids"].to_pylist()
    assert withdrawal.derived(made, "NA.7", "digest of NA.1").lines(made) == []


def test_the_dataset_opens_as_before(dataset):
    small_datasets.datasheet.write_datasheet(dataset, "1.0.0")
    withdrawal.withdraw(dataset, "NA.2", "1.1.0")
    small_datasets.datasheet.write_datasheet(dataset, "1.1.0")
    for config, n in (("real", 10), ("restored", 10), ("reports", 10)):
        assert len(load_dataset(str(dataset), config, split="train")) == n
    assert publishable.examine(dataset).problems == []
    assert small_datasets.datasheet.version_of(dataset) == "1.1.0"


# ---- what the list of derived work names


@pytest.fixture
def worked_with(dataset, tmp_path, monkeypatch) -> Path:
    """The dataset and, as commands leave them: a classifier's run, a killed generator, a page, a cache of pixels."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    runs = tmp_path / "runs"
    row = next(row for row in rows(dataset, "real") if row["image_id"] == "NA.2")
    for name in ("classifier", "generator"):
        (runs / name).mkdir(parents=True)
        (runs / name / "settings.json").write_text("{}")
        derived_places.note([dataset], runs / name, derived_places.RUN)
    (runs / "classifier" / "results.json").write_text('{"top_1": 0.5}')
    work = runs / "generator" / "fold0" / "work"
    work.mkdir(parents=True)
    (work / training_provenance.SOURCES_NAME).write_text(json.dumps({"source_image_ids": ["AAR.1"]}))
    torch.save({"trained_on": {"source_sha256": [row["sha256"]]}, "weights": torch.zeros(9)}, work / "NA.pt")
    (work / ".NA.pt.partial").write_bytes(b"half a checkpoint")
    torch.save({"trained_on": {"source_sha256": ["0" * 64]}}, work / "AAR.pt")
    for folder in ("steps", "logs"):  # of a study
        (runs / folder).mkdir()
    (runs / "logs" / "generator.log").write_text("terms are left out, first at NA.2: ptosis")
    (runs / "logs" / "classifier.log").write_text("5 of 5 folds")
    (runs / "page.html").write_text("a gallery")
    derived_places.note([dataset], runs / "page.html", derived_places.PAGE)
    images = load_dataset(str(dataset), "real", split="train", cache_dir=tmp_path / "arrow")
    pixel_cache.cached_pixels(Accelerator(cpu=True), images, 32, None, tmp_path / "pixels")
    pixel_cache.cached_pixels(Accelerator(cpu=True), images.select([0, 1]), 16, None, tmp_path / "pixels")
    derived_places.note([dataset], tmp_path / "pixels", derived_places.CACHE)
    return dataset


def holds(folder: Path, photograph: traces.Photograph, except_for: Path) -> list[str]:
    """Files that name the photograph or hold it."""
    return [str(path) for path in traces.naming_files(folder, photograph) if not path.is_relative_to(except_for)]


def test_all_that_was_made_from_it_goes_and_nothing_else(worked_with, tmp_path, capsys):
    dataset, runs = worked_with, tmp_path / "runs"
    row = next(row for row in rows(dataset, "real") if row["image_id"] == "NA.2")
    photograph = traces.photograph_in(dataset, "NA.2", row["sha256"])
    assert holds(tmp_path, photograph, dataset)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 4
    assert exit_status(publish_dataset, "withdraw", dataset, "NA.2", "--dry_run") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("runs/classifier", "NA.pt", ".NA.pt.partial", "page.html", ".npy"))
    assert f"{runs / 'classifier'}: a run, whose results rest on it" in told
    assert exit_status(publish_dataset, "withdraw", dataset, "NA.2") == 0
    told = capsys.readouterr().out
    assert f"curator's folder (rdface-input): delete both; a build into {dataset} refuses them, a build into an" in told
    assert not (runs / "classifier").exists() and not (runs / "page.html").exists()
    assert [path.name for path in (runs / "logs").iterdir()] == ["classifier.log"]
    assert [path.name for path in (runs / "generator").rglob("*.p*t*")] == ["AAR.pt"]
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 2  # of other photographs
    assert holds(tmp_path, photograph, tmp_path / "arrow") == []
    assert row["image"]["bytes"][-150:-10] not in b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "arrow" not in path.parts
    )


def test_what_was_made_after_the_withdrawal_stays(worked_with, tmp_path):
    assert exit_status(publish_dataset, "withdraw", worked_with, "NA.2") == 0
    later = tmp_path / "runs" / "classifier"
    later.mkdir()
    (later / "settings.json").write_text("{}")
    derived_places.note([worked_with], later, derived_places.RUN)
    assert exit_status(publish_dataset, "withdraw", worked_with, "NA.2") == 0
    assert later.is_dir()


@pytest.mark.parametrize("moment", [0, 1, 2, 4, 6, 9, 12, 15, 18, 20])
def test_killed_at_any_moment_the_next_call_leaves_nothing(worked_with, tmp_path, moment):
    """SIGKILL in the place of one of the command's changes to files."""
    row = next(row for row in rows(worked_with, "real") if row["image_id"] == "NA.2")
    photograph = traces.photograph_in(worked_with, "NA.2", row["sha256"])
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    status = killed_before(moment, environment, "publish_dataset", "withdraw", worked_with, "NA.2")
    assert status == -signal.SIGKILL
    assert exit_status(publish_dataset, "withdraw", worked_with, "NA.2") == 0
    assert holds(tmp_path, photograph, tmp_path / "arrow") == []
    assert not (tmp_path / "runs" / "classifier").exists() and not (tmp_path / "runs" / "page.html").exists()
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 2
    assert publishable.examine(worked_with).problems == []
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith((".withdrawn", ".partial"))]


def test_what_a_killed_build_left_and_the_page_of_pairs_go_too(dataset, tmp_path, capsys):
    left = [tmp_path / f".rdface.{name}" for name in ("previous", "building-abc", "restoring")]
    for folder in left:
        shutil.copytree(dataset / "real", folder / "real")
    (dataset / pairs_to_look_at.PAGE).write_text("<code>NA.2</code> and NA.3")
    (dataset / pairs_to_look_at.TEMPLATE).write_text("NA/NA.2.jpg,NA/NA.3.jpg")
    assert exit_status(publish_dataset, "withdraw", dataset, "NA.2", "--dry_run") == 0
    told = capsys.readouterr().out
    assert all(folder.name in told for folder in left) and pairs_to_look_at.PAGE in told
    assert exit_status(publish_dataset, "withdraw", dataset, "NA.3") == 0
    assert not any(folder.exists() for folder in left)
    assert not (dataset / pairs_to_look_at.PAGE).exists() and not (dataset / pairs_to_look_at.TEMPLATE).exists()
    (dataset / pairs_to_look_at.PAGE).write_text("WS.1")
    assert exit_status(publish_dataset, "withdraw", dataset, "NA.2") == 0
    assert (dataset / pairs_to_look_at.PAGE).exists()  # shows others


def test_while_a_build_is_running_nothing_is_withdrawn(dataset, capsys):
    with run_folder.sole_writer(dataset):
        assert exit_status(publish_dataset, "withdraw", dataset, "NA.2") == 2
    assert "is being written by another build" in capsys.readouterr().err
    assert "NA.2" in {row["image_id"] for row in rows(dataset, "real")}


def test_what_lies_outside_of_a_run_goes_and_what_another_run_made_stays(worked_with, tmp_path, monkeypatch):
    sheet, listed, other = (tmp_path / name for name in ("sheet.png", "differential.csv", "other.csv"))
    for file in (sheet, listed, other):
        file.write_bytes(b"made")
    derived_places.note([worked_with], sheet, derived_places.PAGE)
    derived_places.note([tmp_path / "runs" / "classifier"], listed, derived_places.PAGE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "settings.json").write_text("{}")
    (tmp_path / "runs" / "generator" / "synthetic").mkdir()
    (tmp_path / "runs" / "generator" / "synthetic" / "README.md").write_text("a card")
    copies = [
        tmp_path / "arrow" / name for name in ("synthetic-0123456789abcdef", "synthetic", "other-0123456789abcdef")
    ]
    for copy in copies:
        copy.mkdir(parents=True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "arrow")
    derived_places.note([tmp_path / "elsewhere"], other, derived_places.PAGE)
    assert exit_status(publish_dataset, "withdraw", worked_with, "NA.2") == 0
    assert not sheet.exists() and not listed.exists() and other.exists()
    assert [copy.exists() for copy in copies] == [False, True, True]
