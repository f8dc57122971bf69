"""What steers a training is tied to content: each thing, swapped for another's of the same name, is refused or told
apart. docs/provenance.md lists them all; those of generators and scores are tested beside these."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_train_classifier import (
    CONDITIONS,
    FINETUNE,
    painted_faces,
    probabilities_of,
    record_of,
    refusal,
    run_here,
    save_backbone,
    save_dataset,
    with_picture,
)

from classification import weight_files
from curation import protocols
from curation.leak_guard import Guard
from curation.opening import load_images, photograph_sha256, photographs_digest
from harness import errors
from harness.errors import InputError

DATA_FILES = "data_files: [{split: train, path: %s/train-*.parquet}]"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [with_picture(row["image"], row) for row in painted_faces()]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("provenance")


@pytest.fixture(scope="module")
def dataset(home, rows) -> Path:
    """Configs real and restored: the same rows and names, other pictures."""
    folder = save_dataset(home / "both-rdface", rows)
    rng = np.random.default_rng(7)
    pictures = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)) for _ in rows]
    restored = [with_picture(picture, row) for picture, row in zip(pictures, rows, strict=True)]
    (save_dataset(home / "of-restored", restored) / "real").rename(folder / "restored")
    configs = [f"- config_name: {name}\n  {DATA_FILES % name}\n" for name in ("real", "restored")]
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs[0]}  default: true\n{configs[1]}---\n")
    return folder


@pytest.fixture(scope="module")
def flags(home, dataset) -> tuple:
    (home / "backbone").mkdir()
    backbone = save_backbone(home / "backbone", "test_resnet")
    return ("--dataset_name", dataset, "--backbone", backbone, "--cache_dir", home / "pixels")


# ---- datasets


def test_a_fingerprint_is_of_config_split_and_rows_and_of_nothing_else(dataset, rows, tmp_path):
    real, restored = (load_images(str(dataset), config) for config in ("real", "restored"))
    assert real._fingerprint != restored._fingerprint and len(real._fingerprint) == 16
    moved = shutil.copytree(dataset, tmp_path / "of-another-name")
    table = pq.read_table(moved / "real")
    (moved / "real" / "train-00000-of-00001.parquet").unlink()
    for n, start in enumerate((0, 10)):  # the same rows in two files with other row groups
        part = table.slice(start, 10 if n == 0 else None)
        pq.write_table(part, moved / "real" / f"train-0000{n}-of-00002.parquet", row_group_size=3)
    (moved / "restored").rename(moved / "nothing-to-do-with-it")
    header = f"---\nconfigs:\n- config_name: real\n  {DATA_FILES % 'real'}\n---\n"
    (moved / "README.md").write_text(header)
    assert load_images(str(moved))._fingerprint == real._fingerprint
    for column, value in (("group_id", "somebody"), ("strict_fold", 3), ("label", CONDITIONS[0])):
        changed = [row | {column: value} if n == 4 else row for n, row in enumerate(rows)]
        assert changed[4] != rows[4]
        other = save_dataset(tmp_path / column / "both-rdface", changed)
        assert load_images(str(other))._fingerprint != real._fingerprint


@pytest.mark.parametrize(
    "place",
    [
        *(
            "../other/train-*.parquet",
            "/etc/train-*.parquet",
            "https://example.org/train.parquet",
            "real/../../x.parquet",
        ),
        *("~/train.parquet", "hf://datasets/ORG/rdface/real/*.parquet", "zip://real/*::x.zip", "file:///x.parquet"),
    ],
)
def test_a_card_that_leads_out_of_the_folder_is_refused(place, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "other" / "real")
    folder = shutil.copytree(dataset, tmp_path / "led-away")
    for files in (f"[{{split: train, path: '{place}'}}]", f"'{place}'", f"[{{split: train, path: ['{place}']}}]"):
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: real\n  data_files: {files}\n---\n")
        with pytest.raises(InputError, match=r"README\.md has files read from .*, which is outside of the") as no:
            load_images(str(folder))
        assert "\n" not in str(no.value)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: real\n  data_dir: '{place}'\n---\n")
    with pytest.raises(InputError, match="outside of the folder"):
        load_images(str(folder))


def test_a_folder_above_datasets_is_not_read_as_if_it_were_one(dataset, rows, tmp_path):
    plain = save_dataset(tmp_path / "plain", rows)  # Parquet files without a card
    (plain / "real" / "README.md").write_text("Notes of a curator, no card.\n")
    assert len(load_images(str(plain))) == len(rows)
    above = tmp_path / "above" / "both"
    first, second = (shutil.copytree(dataset, above / name) for name in ("d1", "d2"))
    assert load_images(str(first))._fingerprint == load_images(str(dataset))._fingerprint
    (above / "README.md").write_text("# My two datasets\n")
    refused = "is no dataset, but a folder above 2 datasets, each with its own README.md; give"
    with pytest.raises(InputError) as no:
        load_images(str(above))
    assert str(no.value) == f"dataset {above}: {refused} {first} or {second}"
    shutil.rmtree(second)
    with pytest.raises(InputError, match=rf"a folder above 1 dataset, with its own README\.md; give {first}$"):
        load_images(str(above.parent))


def test_a_link_that_leads_out_of_the_folder_is_refused(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "linked")
    shard = folder / "real" / "train-00000-of-00001.parquet"
    shard.rename(tmp_path / "elsewhere.parquet")
    shard.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(InputError, match=r"train-00000-of-00001.parquet leads out of the folder"):
        load_images(str(folder))


def test_a_picture_that_is_not_what_its_row_says_is_refused(rows, tmp_path):
    folder = save_dataset(tmp_path / "real-rdface", rows)
    shard = folder / "real" / "train-00000-of-00001.parquet"
    table = pq.read_table(shard)

    def with_image(row: int, image: dict) -> None:
        images = table["image"].to_pylist()
        images[row] = image
        column = pa.array(images, table["image"].type)
        pq.write_table(table.set_column(table.column_names.index("image"), "image", column), shard)

    with_image(5, rows[6]["image"])
    with pytest.raises(InputError, match=f"image_id {rows[5]['image_id']} shows another picture than its sha256 says"):
        load_images(str(folder))
    Image.new("RGB", (32, 24)).save(tmp_path / "elsewhere.png")
    with_image(5, {"bytes": None, "path": str(tmp_path / "elsewhere.png")})
    with pytest.raises(InputError, match=f"image_id {rows[5]['image_id']} holds no picture but a path"):
        load_images(str(folder))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("group_id", "", "row 5: group_id is empty"),
        ("group_id", " ", "row 5: group_id is empty"),
        ("image_id", None, "row 5: image_id is empty"),
        ("label", 9, "row 5: label 9 is none of 9 classes"),
        ("label", -1, "row 5: label is empty"),
    ],
)
def test_values_that_no_build_writes_are_refused_by_their_row(column, value, message, rows, tmp_path):
    folder = save_dataset(tmp_path / "edited-rdface", rows)
    shard = folder / "real" / "train-00000-of-00001.parquet"
    table = pq.read_table(shard)
    values = table[column].to_pylist()
    values[4] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(values, table[column].type)), shard)
    with pytest.raises(InputError, match=message) as no:
        load_images(str(folder))
    assert "\n" not in str(no.value)


def test_one_name_for_two_photographs_of_a_fold_is_refused_before_the_work(rows, flags, tmp_path):
    fold_of = {row["image_id"]: row["strict_fold"] for row in rows}
    same = [row["image_id"] for row in rows if row["strict_fold"] == fold_of["C0.1"]]
    changed = [row | {"image_id": "C0.1"} if row["image_id"] == same[-1] else row for row in rows]
    folder = save_dataset(tmp_path / "twice-rdface", changed)
    line = refusal(*flags, "--dataset_name", folder, "--output_dir", tmp_path / "out")
    assert line == "image_id C0.1 stands in 2 rows; build the dataset with rdface_dataset.py"


def test_a_restored_photograph_is_known_by_the_digest_of_the_photograph(dataset, rows):
    images = load_images(str(dataset))
    digests = [row["sha256"] for row in rows]
    assert photograph_sha256(images) == digests == photograph_sha256(images.remove_columns("sha256"))
    restored = load_images(str(dataset), "restored")
    assert photograph_sha256(restored) != digests
    assert photograph_sha256(restored.add_column("original_sha256", digests)) == digests


def test_runs_of_a_dataset_and_of_its_restored_photographs_may_be_compared(dataset, rows):
    images, restored = (load_images(str(dataset), config) for config in ("real", "restored"))
    known_by = photographs_digest(images)
    assert photographs_digest(images.select(range(len(images))[::-1])) == known_by != photographs_digest(restored)
    assert photographs_digest(restored.add_column("original_sha256", [row["sha256"] for row in rows])) == known_by
    renamed = images.remove_columns("image_id").add_column("image_id", images["image_id"][::-1])
    assert photographs_digest(renamed) != known_by, "another photograph has the name of each"


# ---- caches


def test_two_configs_of_one_dataset_have_pixels_of_their_own(flags, home, tmp_path):
    runs = {}
    for name, config, cache in (("a", "real", "one"), ("b", "restored", "one"), ("c", "restored", "two")):
        more = ("--dataset_config_name", config, "--cache_dir", tmp_path / cache, "--no-save_models")
        runs[name] = run_here(*flags, *more, "--output_dir", tmp_path / name)
    assert np.abs(probabilities_of(runs["a"]) - probabilities_of(runs["b"])).max() > 0.01
    assert np.array_equal(probabilities_of(runs["b"]), probabilities_of(runs["c"]))
    assert len(list((tmp_path / "one").glob("*.json"))) == 2
    assert len({record_of(run)["dataset"]["fingerprint"] for run in runs.values()}) == 2


# ---- checkpoints, predictions


@pytest.fixture(scope="module")
def tuned(flags, home) -> Path:
    return run_here(*flags, *FINETUNE, "--output_dir", home / "tuned")


def copied(tuned: Path, folder: Path) -> tuple[Path, tuple]:
    return shutil.copytree(tuned, folder), ("--output_dir", folder, "--resume_from_checkpoint", "latest")


def test_predictions_of_another_fold_are_not_taken_for_this_ones(tuned, flags, tmp_path):
    run, on = copied(tuned, tmp_path / "run")
    one, other = (run / "folds" / f"seed0_fold{k}" for k in (0, 1))
    run_here(*flags, *FINETUNE, *on)  # nothing was swapped
    names = {"predictions.parquet", "fold.json"}
    for swapped in (names, {"predictions.parquet"}, {"fold.json"}):
        run, on = copied(tuned, tmp_path / "-".join(sorted(swapped)))
        one, other = (run / "folds" / f"seed0_fold{k}" for k in (0, 1))
        for name in swapped:
            shutil.copy(one / name, other / name)
        assert "seed0_fold1 holds predictions of fold" in refusal(*flags, *FINETUNE, *on)
    predictions = pd.read_parquet(one / "predictions.parquet")
    predictions.iloc[1:].to_parquet(one / "predictions.parquet")
    shutil.copy(tuned / "folds" / "seed0_fold1" / "fold.json", other / "fold.json")
    assert "seed0_fold0 holds predictions of fold 0 of seed 0, or of other data" in refusal(*flags, *FINETUNE, *on)


@pytest.mark.parametrize("damage", ["", "{", "[]", "3"])
@pytest.mark.parametrize("name", ["predictions.parquet", "fold.json"])
def test_a_fold_that_was_cut_short_is_done_again(name, damage, tuned, flags, tmp_path, capsys):
    run, on = copied(tuned, tmp_path / "run")
    (run / "folds" / "seed0_fold1" / name).write_text(damage)
    capsys.readouterr()
    run_here(*flags, *FINETUNE, *on)
    said = capsys.readouterr().out
    assert "seed0_fold1: its files cannot be read" in said and "(4 done before)" in said
    assert np.array_equal(probabilities_of(run), probabilities_of(tuned))


def test_a_checkpoint_of_another_fold_is_not_gone_on_from(tuned, flags, tmp_path):
    """Fold 1 would be tested with what fold 0 learnt: from photographs that are held out in fold 1."""
    run, on = copied(tuned, tmp_path / "run")
    stopped = run_here(*flags, "--recipe", "finetune", "--num_train_epochs", 2, "--output_dir", tmp_path / "other")
    shutil.rmtree(run / "folds" / "seed0_fold1")
    (run / "folds" / "seed0_fold1").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "classification.run_results.write_predictions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            shutil.rmtree(stopped / "folds")
            run_here(*flags, *FINETUNE, "--checkpointing_epochs", 1, "--output_dir", stopped)
    shutil.copy(stopped / "folds" / "seed0_fold0" / "checkpoint.pt", run / "folds" / "seed0_fold1" / "checkpoint.pt")
    assert "checkpoint.pt belongs to fold 0 of seed 0, or to other data or settings" in refusal(*flags, *FINETUNE, *on)


# ---- backbones


def test_a_model_says_which_photographs_it_saw_and_is_refused_where_they_are_held_out(
    tuned, flags, rows, home, tmp_path
):
    model = tuned / "folds" / "seed0_fold1" / "model" / "model.safetensors"
    trained = sorted(row["sha256"] for row in rows if row["strict_fold"] != 1)
    with safe_open(model, "pt") as content:
        record = json.loads(content.metadata()["rdface"])
    assert record["seen_photographs"] == trained and (record["protocol"], record["fold"]) == ("strict", 1)
    assert weight_files.read_seen_photographs(model) == set(trained)
    state, metadata = load_file(model), {"rdface": json.dumps(record)}
    alone = {key.removeprefix("backbone."): t for key, t in state.items() if key.startswith("backbone.")}
    weights = {"as it is": model, "stripped": tmp_path / "a.safetensors", "of metadata": tmp_path / "b.safetensors"}
    weights |= {"of the tensor": tmp_path / "c.safetensors", "as .pth": tmp_path / "d.pth"}
    save_file(alone, weights["stripped"], metadata)
    save_file(alone, weights["of metadata"])
    save_file({key: t for key, t in alone.items() if "seen" not in key}, weights["of the tensor"], metadata)
    import torch

    torch.save({"state_dict": alone}, weights["as .pth"])
    for name, file in weights.items():
        assert weight_files.read_seen_photographs(file) == set(trained), name
        again = ("--backbone_weights", file, "--output_dir", tmp_path / "out")
        with pytest.raises(errors.LeakError, match=r"fold 0 \(strict\): .* has learnt from image C0\.1, which is not"):
            run_here(*flags, *again)
    probe = run_here(*flags, *again, "--fold", 1)  # its own fold
    save = probe / "folds" / "seed0_fold1" / "model" / "model.safetensors"
    assert set(trained) <= weight_files.read_seen_photographs(save)
    with pytest.raises(errors.LeakError, match="which is not on the training side"):  # it saw more than the support
        run_here(*flags, *again, "--fold", 1, "--k_shot", 1)


def test_a_model_of_another_fold_does_not_lie_beside_this_folds_predictions(tuned, flags, tmp_path):
    run, on = copied(tuned, tmp_path / "run")
    one, other = (run / "folds" / f"seed0_fold{k}" / "model" for k in (0, 1))
    shutil.copy(one / "model.safetensors", other / "model.safetensors")
    assert "seed0_fold1/model has learnt from other photographs" in refusal(*flags, *FINETUNE, *on)
    (other / "model.safetensors").unlink()
    assert "or is incomplete; delete" in refusal(*flags, *FINETUNE, *on)


def test_weights_that_saw_photographs_of_another_dataset_are_taken(flags, rows, tuned, tmp_path):
    others = [with_picture(ImageOps.flip(Image.new("RGB", (32, 24), (n, 9, 9))), row) for n, row in enumerate(rows)]
    other = save_dataset(tmp_path / "other-rdface", others)
    model = tuned / "folds" / "seed0_fold1" / "model" / "model.safetensors"
    run_here(*flags, "--dataset_name", other, "--backbone_weights", model, "--output_dir", tmp_path / "out")


# ---- folds


def test_folds_that_divide_a_patient_or_were_drawn_for_other_rows_raise(rows, flags, tmp_path):
    divided = [dict(row) for row in rows]
    divided[1]["group_id"], divided[1]["strict_fold"] = "somebody else", (rows[0]["strict_fold"] + 1) % 5
    folder = save_dataset(tmp_path / "divided", divided)
    images = datasets.load_dataset(str(folder), split="train").add_column("subject_id", ["Anna", "ANNA "] + [None] * 31)
    folds = protocols.folds(images, "strict")
    with pytest.raises(errors.LeakError, match="subject_id"):
        [Guard(fold, images) for fold in folds]
