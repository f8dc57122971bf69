"""train_fastgan.py: the command on two processes, kill and resume, a loss that is not finite, sampling, refusals."""

import dataclasses
import functools
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from test_train_classifier import ENVIRONMENT, LAUNCH_TWO, ROOT, painted_faces, save_dataset, start, with_picture

import train_fastgan
from curation import protocols, schema
from generation import fastgan, fastgan_sampling, fastgan_training, gan_losses, synthetic_images
from harness import errors
from harness.files import sha256_of

SCRIPT = ROOT / "train_fastgan.py"
SMALL = ("--resolution", 64, "--base_channels", 8, "--train_batch_size", 2)
TWO_STEPS = (*SMALL, "--max_train_steps", 2, "--snapshot_steps", 1, "--num_images", 5, "--sample_from", 1, 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple:
    """Flags of every run on 33 images of 32 x 24 px; a later flag wins."""
    folder = tmp_path_factory.mktemp("tiny")
    save_dataset(folder / "tiny-rdface", painted_faces())
    return ("--dataset_name", folder / "tiny-rdface", "--cache_dir", folder / "pixels")


def run_here(*flags: object) -> Path:
    """main in this process; returns --output_dir."""
    args = train_fastgan.parse_args([str(flag) for flag in flags])
    train_fastgan.main(args)
    return args.output_dir


def refusal(*flags: object) -> str:
    """The one line with which main refuses."""
    with pytest.raises((errors.InputError, errors.ProtocolError)) as error:
        run_here(*flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def opened(folder: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder / "synthetic"), split="train")


def pictures(folder: Path) -> list[bytes]:
    return [row["image"]["bytes"] for row in opened(folder).cast_column("image", datasets.Image(decode=False))]


def by_seed(folder: Path) -> dict[int, np.ndarray]:
    return {row["seed"]: np.asarray(row["image"], int) for row in opened(folder)}


def weights(folder: Path) -> dict[str, bytes]:
    """Every generator below a run's folder, byte by byte."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def two_processes(tiny, tmp_path_factory) -> Path:
    """All folds, on two CPU processes."""
    output = tmp_path_factory.mktemp("runs") / "gan"
    run = start([*LAUNCH_TWO[:-1], SCRIPT], *tiny, "--output_dir", output, *TWO_STEPS)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written:") == 1
    return output


# ---- what a run leaves


def test_each_fold_has_a_dataset_with_the_contract_s_columns(two_processes, tiny):
    real = datasets.load_dataset(str(tiny[1]), split="train")
    names = real.features["label"].names
    for number in range(5):
        folder = two_processes / f"fold{number}"
        images = opened(folder)
        assert images.features == schema.synthetic_features(names)
        assert images["synthetic_id"][:] == ["fastgan_0", "fastgan_2", "fastgan_4", "fastgan_1", "fastgan_3"]
        assert set(images["label"]) == set(images["base_model"]) == set(images["prompt"]) == {None}
        assert set(images["generator"]) == {"fastgan"} and set(images["protocol"]) == {"strict"}
        assert set(images["fold"]) == {number}
        steps = [fastgan_training.snapshot_file(folder, step) for step in (1, 1, 1, 2, 2)]
        assert images["adapter_sha256"][:] == [sha256_of(file) for file in steps]
        seeds = [synthetic_images.image_seed(0, "fastgan", index) for index in (0, 2, 4, 1, 3)]
        assert images["seed"][:] == seeds
        assert images[0]["image"].size == (64, 64)
        network, config = fastgan.load_generator(steps[-1])
        assert np.abs(np.asarray(images[3]["image"], int) - fastgan.sample(network, [seeds[3]])[0]).max() <= 1
        assert (config["step"], config["fold"], config["simulated"], config["label_names"]) == (2, number, True, None)
        assert (folder / "generator.safetensors").read_bytes() == steps[-1].read_bytes()
        assert steps[0].with_suffix(".png").stat().st_size > 1000
    assert not list(two_processes.rglob(".*")) and not list(two_processes.rglob("parts"))


def test_sources_are_the_fold_s_training_side_and_no_held_out_image(two_processes, tiny):
    real = datasets.load_dataset(str(tiny[1]), split="train")
    ids, groups = real["image_id"][:], np.array(real["group_id"][:])
    for fold in protocols.folds(real, "strict"):
        folder = two_processes / f"fold{fold.number}"
        expected = [ids[row] for row in fold.train]
        digests = [real["sha256"][row] for row in fold.train]
        sources = json.loads((folder / "sources.json").read_text())
        assert (sources["source_image_ids"], sources["source_sha256"]) == (expected, digests)
        assert all(sources == digests for sources in opened(folder)["source_sha256"])
        assert (folder / "snapshots" / "sources.json").read_text() == (folder / "sources.json").read_text()
        assert all(sources == expected for sources in opened(folder)["source_image_ids"])
        held_out = {ids[row] for row in np.flatnonzero(np.isin(groups, groups[fold.test]))}
        assert held_out and not held_out & set(expected)


def test_the_run_record_names_no_place_on_this_machine(two_processes, tiny):
    record = json.loads((two_processes / "run.json").read_text())
    assert record["arguments"]["dataset_name"] == "tiny-rdface" and record["n_processes"] == 2
    sides = protocols.folds(datasets.load_dataset(str(tiny[1]), split="train"), "strict")
    assert [fold["n_train"] for fold in record["folds"]] == [len(side.train) for side in sides]
    assert all(len(fold["learning_curve"]) == 2 for fold in record["folds"])
    assert {sampling["n_blank"] for sampling in record["sampling"].values()} == {0}
    for file in (f for f in two_processes.rglob("*") if f.is_file()):
        assert str(tiny[1].parent).encode() not in file.read_bytes()
        assert str(two_processes.parent).encode() not in file.read_bytes()


def test_one_process_and_one_fold_give_the_same(two_processes, tiny, tmp_path):
    run_here(*tiny, "--output_dir", tmp_path / "one", *TWO_STEPS, "--fold", 3)
    assert weights(tmp_path / "one" / "fold3") == weights(two_processes / "fold3")
    assert pictures(tmp_path / "one" / "fold3") == pictures(two_processes / "fold3")


def test_more_images_and_more_steps_go_on_from_a_finished_run(two_processes, tiny, tmp_path):
    flags = (*tiny, "--output_dir", tmp_path / "gan", *SMALL, "--snapshot_steps", 1, "--fold", 0)
    run_here(*flags, "--max_train_steps", 1)
    assert not (tmp_path / "gan" / "fold0" / "synthetic").exists()
    resumed = (*flags, "--resume_from_checkpoint", "latest", "--max_train_steps", 2, "--sample_from", 1, 2)
    five, eight = (run_here(*resumed, "--num_images", n) and by_seed(tmp_path / "gan" / "fold0") for n in (5, 8))
    assert weights(tmp_path / "gan" / "fold0") == weights(two_processes / "fold0")
    assert len(five) == 5 and len(eight) == 8
    assert all(np.abs(eight[seed] - five[seed]).max() <= 1 for seed in five)  # other batches, other rounding


# ---- stop and go on

LONG = (*SMALL, "--max_train_steps", 8, "--snapshot_steps", 4, "--checkpointing_steps", 1, "--fold", 1)
LONG += ("--num_images", 3)


@pytest.fixture(scope="module")
def killed_and_resumed(tiny, tmp_path_factory) -> Path:
    """A run that was killed without warning after its first snapshot, and gone on with."""
    output = tmp_path_factory.mktemp("runs") / "killed"
    command = [str(part) for part in (sys.executable, SCRIPT, *tiny, "--output_dir", output, *LONG)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, **quiet)
    deadline = time.monotonic() + 200
    while not fastgan_training.snapshot_file(output / "fold1", 4).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not fastgan_training.snapshot_file(output / "fold1", 8).exists()
    run_here(*tiny, "--output_dir", output, *LONG, "--resume_from_checkpoint", "latest")
    return output


def test_a_run_killed_in_training_goes_on_to_the_same_bytes(killed_and_resumed, tiny, tmp_path):
    whole = run_here(*tiny, "--output_dir", tmp_path / "whole", *LONG)
    assert len(weights(whole)) == 3
    assert weights(killed_and_resumed) == weights(whole)
    assert pictures(killed_and_resumed / "fold1") == pictures(whole / "fold1")
    curves = [json.loads((folder / "fold1" / "fold.json").read_text()) for folder in (killed_and_resumed, whole)]
    assert curves[0]["learning_curve"] == curves[1]["learning_curve"]
    grids = [(folder / "fold1" / "snapshots" / "step_00000008.png") for folder in (killed_and_resumed, whole)]
    assert grids[0].read_bytes() == grids[1].read_bytes()


def test_sampling_that_was_stopped_goes_on_with_its_parts(killed_and_resumed, tiny, monkeypatch):
    monkeypatch.setattr(fastgan_sampling, "PART_IMAGES", 2)
    flags = (*tiny, "--output_dir", killed_and_resumed, *LONG, "--resume_from_checkpoint", "latest", "--num_images", 5)
    whole, taken = run_here(*flags), pictures(killed_and_resumed / "fold1")
    monkeypatch.setattr(synthetic_images, "write_dataset", lambda *_: sys.exit("stopped"))
    (whole / "fold1" / "sampling.json").unlink()
    with pytest.raises(SystemExit):
        run_here(*flags)
    parts = sorted((whole / "fold1" / "parts").rglob("*.parquet"))
    assert len(parts) == 3
    parts[-1].unlink()
    made = {part: part.stat().st_mtime_ns for part in parts[:-1]}
    seen = {}
    monkeypatch.undo()
    monkeypatch.setattr(fastgan_sampling, "PART_IMAGES", 2)
    write = synthetic_images.write_dataset

    def look_and_write(folder: Path, parts: list[Path]) -> None:
        seen.update({part: part.stat().st_mtime_ns for part in parts})
        write(folder, parts)

    monkeypatch.setattr(synthetic_images, "write_dataset", look_and_write)
    run_here(*flags)
    assert pictures(whole / "fold1") == taken
    assert {part: seen[part] for part in made} == made and len(seen) == 3


def test_going_on_with_other_settings_is_refused_and_changes_nothing(killed_and_resumed, tiny):
    before = weights(killed_and_resumed)
    flags = (*tiny, "--output_dir", killed_and_resumed, *LONG, "--resume_from_checkpoint", "latest")
    assert "was started with learning_rate 0.0002, not 0.1" in refusal(*flags, "--learning_rate", 0.1)
    assert "fold1 is past step 5 and has no snapshot of it" in refusal(*flags, "--sample_from", 5)
    assert weights(killed_and_resumed) == before


def test_a_loss_that_is_not_finite_stops_with_the_step_and_leaves_the_last_good_snapshot(tiny, tmp_path):
    flags = (*tiny, "--output_dir", tmp_path / "gan", *SMALL, "--fold", 0, "--snapshot_steps", 2)
    run_here(*flags, "--max_train_steps", 2)
    checkpoint = tmp_path / "gan" / "fold0" / "checkpoint.pt"
    content = torch.load(checkpoint, weights_only=True)
    name = next(name for name in content["discriminator"] if name.endswith("original"))
    content["discriminator"][name].fill_(float("nan"))
    torch.save(content, checkpoint)
    before = weights(tmp_path / "gan")
    message = refusal(*flags, "--max_train_steps", 4, "--resume_from_checkpoint", "latest")
    assert "fold0, step 3: the loss is not finite; lower --learning_rate" in message
    assert "the last good snapshot is fold0/snapshots/step_00000002.safetensors" in message
    assert weights(tmp_path / "gan") == before
    run_here(*flags, "--max_train_steps", 2, "--resume_from_checkpoint", "latest", "--num_images", 2)  # as it says
    assert len(opened(tmp_path / "gan" / "fold0")) == 2


# ---- other training sides, conditions


def test_a_conditional_generator_of_a_support_set_labels_its_images(tiny, tmp_path):
    flags = (*tiny, *SMALL, "--output_dir", tmp_path / "gan", "--fold", 2, "--k_shot", 1, "--class_conditional")
    folder = run_here(*flags, "--max_train_steps", 1, "--num_images", 11) / "fold2"
    real = datasets.load_dataset(str(tiny[1]), split="train")
    fold = protocols.k_shot(protocols.folds(real, "strict", 2)[0], real["label"][:], 1, 0)
    sources = json.loads((folder / "sources.json").read_text())["source_image_ids"]
    assert sources == [real["image_id"][row] for row in fold.train] and len(sources) == 9
    images = opened(folder)
    names = images.features["label"].names
    assert images["label"][:] == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert images["synthetic_id"][:3] == [f"{names[0]}_0", f"{names[0]}_1", f"{names[1]}_0"]
    assert images["seed"][2] == synthetic_images.image_seed(0, names[1], 0)
    assert all(row == sources for row in images["source_image_ids"])


def test_under_paper_there_is_one_generator_of_all_that_the_test_side_leaves(tmp_path):
    folder = save_dataset(tmp_path / "larger-rdface", painted_faces(8))
    flags = ("--dataset_name", folder, "--cache_dir", tmp_path / "pixels", *SMALL, "--protocol", "paper")
    run_here(*flags, "--output_dir", tmp_path / "gan", "--max_train_steps", 1, "--num_images", 2)
    real = datasets.load_dataset(str(folder), split="train")
    trained = [name for name, side in zip(real["image_id"], real["paper_split"], strict=True) if side == "train"]
    images = opened(tmp_path / "gan" / "paper")
    assert images["source_image_ids"][0] == trained and len(trained) == 49
    assert set(images["fold"]) == {None} and set(images["protocol"]) == {"paper"}
    assert "there is one generator for all folds" in refusal(*flags, "--output_dir", tmp_path / "b", "--fold", 0)


def test_images_spread_evenly_and_keep_their_place_when_more_are_asked_for():
    few, many = (fastgan_sampling.streams(n, [10, 20, 30], ["A", "B"]) for n in (7, 70))
    assert few == [(10, "A", 0, 2), (20, "A", 1, 1), (30, "A", 2, 1), (10, "B", 0, 1), (20, "B", 1, 1), (30, "B", 2, 1)]
    assert sum(stream[-1] for stream in many) == 70
    assert {stream[:3] for stream in few} == {stream[:3] for stream in many}
    assert {stream[-1] for stream in many} == {11, 12}


def test_blank_pictures_are_dropped_and_drawn_again_with_the_next_index(monkeypatch, tmp_path):
    sampling = fastgan_sampling.Sampling(0, 10, [1], 8, class_conditional=False)

    def every_third_is_blank(network: object, seeds: list[int], labels: None) -> np.ndarray:
        shown = [synthetic_images.image_seed(0, "fastgan", i) for i in range(200) if i % 3]
        rng = np.random.default_rng(0)
        return np.stack([rng.integers(0, 255, (8, 8, 3), np.uint8) * (seed in shown) for seed in seeds])

    monkeypatch.setattr(fastgan, "sample", every_third_is_blank)
    rows, following = fastgan_sampling.sample_part(None, {"label": None}, [], 0, 1, 10, sampling)
    assert [row["synthetic_id"] for row in rows] == [f"fastgan_{i}" for i in (1, 2, 4, 5, 7, 8, 10, 11, 13, 14)]
    part = tmp_path / "fold0" / "parts" / "digest" / "part.parquet"
    synthetic_images.write_part(part, [dict.fromkeys(schema.synthetic_features([])) | row for row in rows], [])
    assert fastgan_sampling.index_after(part, None, 0, 1, sampling) == following == 15
    with pytest.raises(errors.InputError, match=r"fold0/parts/part\.parquet: its last image has a seed that no image"):
        fastgan_sampling.index_after(part, None, 0, 1, dataclasses.replace(sampling, seed=1))
    monkeypatch.setattr(fastgan, "sample", lambda network, seeds, labels: np.zeros((len(seeds), 8, 8, 3), np.uint8))
    with pytest.raises(errors.InputError, match=r"640 of 640 pictures are of one colour"):
        fastgan_sampling.sample_part(None, {"label": None}, [], 0, 1, 10, sampling)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_step_above_128_px_trains_every_part_of_both_networks(precision):
    recipe = fastgan_training.Recipe(
        seed=0,
        resolution=256,
        base_channels=8,
        learning_rate=2e-4,
        train_batch_size=2,
        max_train_steps=1,
        snapshot_steps=1,
        checkpointing_steps=0,
        sample_from=[],
    )
    networks = fastgan_training.Networks(0, 3, recipe, torch.device("cpu"))
    before = [{n: p.detach().clone() for n, p in part.named_parameters()} for part in networks.trained.values()]
    real = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    draws, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    l1 = gan_losses.difference_by("l1", torch.device("cpu"))
    for _ in range(2):  # noise is without strength, and so without effect on it, only as long as nothing was learnt
        autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")
        losses = fastgan_training.train_step(networks, real, torch.tensor([0, 2]), l1, draws, noise, autocast)
    assert losses.shape == (len(fastgan_training.LOSSES),) and losses.isfinite().all()
    for part, earlier in zip(networks.trained.values(), before, strict=True):
        assert [n for n, p in part.named_parameters() if torch.equal(p, earlier[n])] == []
        assert all(p.requires_grad for p in part.parameters())


def test_every_order_holds_every_row_once():
    rows = np.arange(10, 17)
    batches = [fastgan_training.rows_of_step(rows, step, 3, lambda n: n) for step in range(1, 8)]
    whole = np.concatenate(batches)
    assert all(sorted(whole[start : start + 7]) == rows.tolist() for start in (0, 7, 14))
    assert whole[:7].tolist() != whole[7:14].tolist()


# ---- refusals


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--resolution", 100), "argument --resolution: invalid choice: "),
        (("--k_shot", 1, "--protocol", "paper"), "--k_shot draws from a fold's training side; use --protocol strict"),
        (("--max_train_steps", 10, "--sample_from", 20), "--sample_from takes steps from 1 to --max_train_steps"),
        (("--base_channels", 12), "--base_channels must be a multiple of 8"),
        (("--train_batch_size", 1), "--train_batch_size must be at least 2"),
        (("--learning_rate", 0), "--learning_rate must be positive"),
        (("--fold", "x"), "'x' is neither all nor the number of a fold"),
    ],
)
def test_impossible_flags_are_refused_in_one_line(flags, message, tiny, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train_fastgan.parse_args([str(flag) for flag in (*tiny, "--output_dir", tmp_path / "out", *flags)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_what_cannot_be_is_refused_before_any_work(tiny, tmp_path):
    flags = (*tiny, *SMALL, "--output_dir", tmp_path / "out")
    too_large = refusal(*flags, "--resolution", 256)
    assert "--resolution 256: the photographs' longer side is 32 px (median)" in too_large
    assert "there is no fold 7" in refusal(*flags, "--fold", 7)
    assert "dataset is too small for protocol paper" in refusal(*flags, "--protocol", "paper")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    assert "holds files that no earlier run made" in refusal(*flags)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    (tmp_path / "out" / "settings.json").write_text('{"command": "filter_synthetic.py"}')
    assert "holds results of filter_synthetic.py, which train_fastgan.py does not replace" in refusal(*flags)


def test_the_same_picture_on_both_sides_is_seen(tmp_path):
    rows = painted_faces()
    trained, tested = (next(row for row in rows if row["strict_fold"] == fold) for fold in (1, 0))
    picture = Image.open(io.BytesIO(tested["image"]["bytes"]))
    trained["image"] = with_picture(picture, trained, compress_level=0)["image"]  # in other bytes
    folder = save_dataset(tmp_path / "doctored", rows)
    with pytest.raises(errors.LeakError, match=r"pixels .* is held out and in training"):
        run_here("--dataset_name", folder, "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "c", *SMALL)
