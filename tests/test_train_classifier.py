"""train_classifier.py: the command on one and two processes, both protocols, each recipe, stops, and refusals."""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from accelerate.utils import LoggerType
from PIL import Image
from safetensors.torch import save_file
from test_model_upload import TOKEN, committed, hub_of_somebody

import train_classifier
from classification import backbones, classifiers
from curation import protocols
from curation.opening import load_images, photographs_digest
from harness import errors
from imaging import augmentations
from imaging.corruptions import CORRUPTIONS, SEVERITIES
from publishing import model_upload
from scoring import metrics, prediction_files, run_scores

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "train_classifier.py"
LAUNCH_TWO = [
    *(Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", SCRIPT),
]
CONDITIONS = [f"C{i}" for i in range(8)]


# ---- a small study


def painted_faces(n_images: int = 4) -> list[dict]:
    """Eight conditions, each a colour, with n_images photographs of one subject less, and one with a single image."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(30, 220, (9, 3))
    rows = []
    for condition, abbreviation in enumerate([*CONDITIONS, "ONE"]):
        for n in range(n_images if abbreviation != "ONE" else 1):
            pixels = colours[condition] + rng.normal(0, 12, (24, 32, 3))
            rows.append(
                {
                    "image": Image.fromarray(pixels.clip(0, 255).astype(np.uint8)),
                    "image_id": f"{abbreviation}.{n + 1}",
                    "label": abbreviation,
                    "group_id": f"{abbreviation}.{max(n, 1)}",  # the first two photographs show one person
                    "source_type": "simulated",
                }
            )
    labels = [row["label"] for row in rows]
    strict = protocols.strict_folds(labels, [row["group_id"] for row in rows])
    try:
        side, fold = protocols.paper_split(labels)
    except errors.ProtocolError:  # four images are too few
        side = fold = [None] * len(rows)
    columns = ("strict_fold", "paper_split", "paper_fold")
    return [
        with_picture(row["image"], row | dict(zip(columns, values, strict=True)))
        for row, values in zip(rows, zip(strict, side, fold, strict=True), strict=True)
    ]


def with_picture(picture: Image.Image | dict, row: dict, **options: int) -> dict:
    """The row with this picture, as PNG unless it is encoded already, and its digest; options: of Pillow's encoder."""
    if isinstance(picture, Image.Image):
        encoded = io.BytesIO()
        picture.save(encoded, "PNG", **options)
        picture = {"bytes": encoded.getvalue(), "path": f"{row['image_id']}.png"}
    return row | {"image": picture, "sha256": hashlib.sha256(picture["bytes"]).hexdigest()}


def save_dataset(folder: Path, rows: list[dict]) -> Path:
    """A dataset as rdface_dataset.py lays it out, with the columns that are read here."""
    text, number = datasets.Value("string"), datasets.Value("int8")
    features = datasets.Features(
        {"image": datasets.Image(), "image_id": text, "label": datasets.ClassLabel(names=[*CONDITIONS, "ONE"])}
        | {
            "group_id": text,
            "sha256": text,
            "source_type": text,
            "strict_fold": number,
            "paper_split": text,
            "paper_fold": number,
        }
    )
    (folder / "real").mkdir(parents=True)
    rows = [with_picture(row["image"], row) for row in rows]
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "real" / "train-00000-of-00001.parquet")
    files = "data_files: [{split: train, path: real/train-*.parquet}]"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: real\n  default: true\n  {files}\n---\n")
    return folder


@pytest.fixture(scope="module")
def tiny_rdface(tmp_path_factory) -> Path:
    """33 images: too few for protocol paper."""
    return save_dataset(tmp_path_factory.mktemp("tiny") / "tiny-rdface", painted_faces())


@pytest.fixture(scope="module")
def larger_rdface(tmp_path_factory) -> Path:
    """65 images, 16 of them the test side of protocol paper."""
    return save_dataset(tmp_path_factory.mktemp("larger") / "larger-rdface", painted_faces(8))


def save_backbone(folder: Path, architecture: str, **options: object) -> Path:
    """A folder in timm's layout: random weights, 32 px input, no classifier."""
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=0, **options)
    save_file(network.state_dict(), folder / "model.safetensors")
    input_config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0}
    config = {"architecture": architecture, "num_classes": 0, "num_features": network.num_features}
    config |= {"pretrained_cfg": input_config, "model_args": options}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"), "test_resnet")


@pytest.fixture(scope="module")
def pixels_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pixels")


@pytest.fixture(scope="module")
def tiny(tiny_rdface, tiny_backbone, pixels_dir) -> tuple:
    """Flags of every run on the small dataset; a later flag wins."""
    return ("--dataset_name", tiny_rdface, "--backbone", tiny_backbone, "--cache_dir", pixels_dir)


ENVIRONMENT = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(command: list, *flags: object) -> subprocess.CompletedProcess:
    """The script as a user starts it, on the CPU and without the Hub."""
    arguments = [str(part) for part in (*command, *flags)]
    environment = os.environ | ENVIRONMENT
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300, check=False)


def start_all(
    variables: list[dict[str, object]], *flags: Sequence, script: str = SCRIPT.name
) -> list[tuple[int, str, str]]:
    """A script in several processes that know of each other, as a launcher starts them, but without its seconds.

    variables: of each process's environment, besides those that tell it of the others; flags: of each process. Returns
    exit status, output and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "WORLD_SIZE": len(variables)}
    running = []
    for rank, (own, arguments) in enumerate(zip(variables, flags, strict=True)):
        told = {name: str(value) for name, value in (address | {"RANK": rank, "LOCAL_RANK": rank} | own).items()}
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=os.environ | ENVIRONMENT | told, **pipes))
    printed = [process.communicate(timeout=300) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, printed, strict=True)]


def run_here(*flags: object) -> Path:
    """main in this process, where a launch would only add seconds; returns --output_dir."""
    args = train_classifier.parse_args([str(flag) for flag in flags])
    train_classifier.main(args)
    return args.output_dir


def refusal(*flags: object) -> str:
    """The one line with which main refuses."""
    with pytest.raises((errors.InputError, errors.ProtocolError)) as error:
        run_here(*flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def probabilities_of(folder: Path, **only: object) -> np.ndarray:
    """Probabilities (n, C) in the order of the file, of the rows whose columns have these values."""
    predictions = prediction_files.read_predictions(folder)
    for column, value in only.items():
        predictions = predictions[predictions[column] == value]
    return np.stack(predictions["probabilities"])


FINETUNE = ("--recipe", "finetune", "--num_train_epochs", 2)
TWO_SEEDS = (*FINETUNE, "--seeds", 0, 1, "--eval_batch_size", 5)  # a batch that divides neither images nor processes


@pytest.fixture(scope="module")
def two_processes(tiny, tmp_path_factory) -> Path:
    """The folder of a fine-tuning run on two CPU processes."""
    output = tmp_path_factory.mktemp("runs") / "finetune"
    run = start(LAUNCH_TWO, *tiny, "--output_dir", output, *TWO_SEEDS)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written:") == 1  # the main process alone speaks
    return output


@pytest.fixture(scope="module")
def probe(tiny, tmp_path_factory) -> Path:
    """The folder of a linear probe on one process."""
    return run_here(*tiny, "--output_dir", tmp_path_factory.mktemp("runs") / "probe", "--hub_token", TOKEN)


# ---- strict


def test_every_testable_image_is_predicted_once_per_seed_and_out_of_fold(two_processes, tiny_rdface):
    predictions = prediction_files.read_predictions(two_processes)
    images = datasets.load_dataset(str(tiny_rdface), split="train")
    fold_of = {row["image_id"]: row["strict_fold"] for row in images.remove_columns("image")}
    testable = sorted(name for name, fold in fold_of.items() if fold is not None)
    assert len(testable) == 32 and "ONE.1" not in testable
    for _, of_seed in predictions.groupby("seed"):
        assert sorted(of_seed["image_id"]) == testable
    assert set(predictions["seed"]) == {0, 1} and set(predictions["split"]) == {"test"}
    assert [fold_of[name] for name in predictions["image_id"]] == predictions["fold"].tolist()
    names = datasets.Dataset.from_parquet(str(two_processes / "predictions.parquet")).features["label"].names
    assert names == images.features["label"].names
    assert probabilities_of(two_processes).shape == (64, 9)
    assert not np.allclose(probabilities_of(two_processes, seed=0), probabilities_of(two_processes, seed=1))


def test_results_are_recomputed_from_the_predictions_to_the_last_digit(two_processes):
    results = json.loads((two_processes / "results.json").read_text())
    assert results == run_scores.score(prediction_files.read_predictions(two_processes))
    assert (results["protocol"], results["recipe"], results["n_test"]) == ("strict", "finetune", 32)
    assert (results["seeds"], results["n_replicates"], results["chance"]) == ([0, 1], 2, 1 / 9)
    assert results["metrics"]["top1"]["sd"] is not None
    assert not list(two_processes.rglob(".*"))  # no temporary file is left
    assert not list(two_processes.rglob("checkpoint.pt"))


def test_fine_tuning_on_one_and_on_two_processes_gives_the_same(two_processes, tiny, tmp_path, capsys):
    run_here(*tiny, "--output_dir", tmp_path / "one", *TWO_SEEDS)
    assert "2 seeds (0 done before), 1 process on" in capsys.readouterr().out
    one, two = (prediction_files.read_predictions(folder) for folder in (tmp_path / "one", two_processes))
    columns = ["image_id", "label", "fold", "seed", "split", "subject"]
    assert one[columns].equals(two[columns])
    assert probabilities_of(tmp_path / "one") == pytest.approx(probabilities_of(two_processes), abs=1e-5)
    curves = [pd.read_csv(folder / "learning_curves.csv") for folder in (tmp_path / "one", two_processes)]
    assert curves[0].to_numpy() == pytest.approx(curves[1].to_numpy(), abs=1e-5)
    scores = [
        json.loads((folder / "results.json").read_text())["metrics"] for folder in (tmp_path / "one", two_processes)
    ]
    for name, values in scores[0].items():
        assert values == pytest.approx(scores[1][name], abs=1e-5)


def test_one_fold_alone_is_the_same_as_in_the_whole_run(two_processes, tiny, tmp_path):
    run_here(*tiny, "--output_dir", tmp_path / "out", *FINETUNE, "--fold", 1, "--seeds", 1)
    alone = prediction_files.read_predictions(tmp_path / "out")
    assert set(alone["fold"]) == {1} and set(alone["seed"]) == {1}
    whole = probabilities_of(two_processes, fold=1, seed=1)
    assert probabilities_of(tmp_path / "out") == pytest.approx(whole, abs=1e-5)


def test_the_run_record_tells_how_to_repeat_the_run(two_processes, tiny_rdface):
    record = record_of(two_processes)
    arguments = record["arguments"]
    assert arguments["dataset_name"] == str(tiny_rdface) and arguments["eval_batch_size"] == 5
    assert arguments["learning_rate"] == 1e-4 and arguments["num_train_epochs"] == 2
    assert record["dataset"]["n_images"] == 33 and record["dataset"]["fingerprint"]
    assert record["dataset"]["photographs"] == photographs_digest(load_images(str(tiny_rdface)))
    assert record["seeds"] == [0, 1] and record["n_processes"] == 2 and record["wall_s"] > 0
    assert record["augmentation"] is None and record["input"]["image_size"] == 32
    folds = prediction_files.read_predictions(two_processes)[["seed", "fold"]].drop_duplicates().to_numpy().tolist()
    assert [[fold["seed"], fold["fold"]] for fold in record["folds"]] == folds
    assert all(fold["n_train"] > 20 and fold["wall_s"] > 0 for fold in record["folds"])


def test_learning_curves_of_all_folds_are_kept(two_processes):
    curves = pd.read_csv(two_processes / "learning_curves.csv")
    assert Counter(zip(curves["seed"], curves["fold"], strict=True)) == dict.fromkeys(
        [(seed, fold) for seed in (0, 1) for fold in range(5)], 2
    )
    assert curves["loss"].notna().all() and "val_accuracy" not in curves  # strict: nothing is chosen
    assert (two_processes / "learning_curves.png").stat().st_size > 1000


@pytest.mark.parametrize("recipe", ["finetune", "linear_probe"])
def test_the_saved_models_give_the_predictions_that_were_scored(
    recipe, two_processes, probe, tiny_rdface, tiny_backbone
):
    folder = {"finetune": two_processes, "linear_probe": probe}[recipe]
    images = datasets.load_dataset(str(tiny_rdface), split="train")
    backbone = backbones.load_backbone(str(tiny_backbone))
    classifier = classifiers.load_classifier(folder / "folds" / "seed0_fold2" / "model", backbone)
    held_out = [row for row in images if row["strict_fold"] == 2]
    resized = [np.asarray(row["image"].resize((32, 32), Image.Resampling.BILINEAR)) for row in held_out]
    with torch.inference_mode():
        pixels = backbones.normalise(np.stack(resized), backbone, torch.device("cpu"))
        probabilities = classifier(pixels).softmax(dim=1).numpy()
    predictions = prediction_files.read_predictions(folder).query("fold == 2 and seed == 0").set_index("image_id")
    expected = np.stack(predictions.loc[[row["image_id"] for row in held_out], "probabilities"])
    assert probabilities == pytest.approx(expected, abs=1e-4)


def test_shuffled_labels_give_chance_and_say_so(tiny, tmp_path):
    folders = [run_here(*tiny, "--shuffle_labels", "--seed", s, "--output_dir", tmp_path / str(s)) for s in range(3)]
    of_runs = [prediction_files.read_predictions(folder) for folder in folders]
    assert set(pd.concat(of_runs)["recipe"]) == {"linear_probe, shuffled labels"}
    top1 = np.mean([run_scores.score(predictions)["metrics"]["top1"]["mean"] for predictions in of_runs])
    assert top1 < 1 / 9 + 3 * np.sqrt(1 / 9 * 8 / 9 / (3 * 32))


# ---- stop and go on

LONG = ("--recipe", "finetune", "--num_train_epochs", 10, "--checkpointing_epochs", 1, "--no-save_models")


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory) -> Path:
    return run_here(*tiny, "--output_dir", tmp_path_factory.mktemp("runs") / "whole", *LONG)


@pytest.fixture(scope="module")
def killed_and_resumed(tiny, tmp_path_factory) -> Path:
    """A run that was killed without warning in its fourth fold, and gone on with."""
    output = tmp_path_factory.mktemp("runs") / "killed"
    command = [str(part) for part in (sys.executable, SCRIPT, *tiny, "--output_dir", output, *LONG)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | ENVIRONMENT
    )
    deadline = time.monotonic() + 120
    while not (output / "folds" / "seed0_fold3" / "checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = sorted(file.parent.name for file in output.rglob("predictions.parquet"))
    assert done == ["seed0_fold0", "seed0_fold1", "seed0_fold2"]
    assert not (output / "results.json").exists()
    before = {name: (output / "folds" / name / "predictions.parquet").stat().st_mtime_ns for name in done}
    run_here(*tiny, "--output_dir", output, *LONG, "--resume_from_checkpoint", "latest")
    after = {name: (output / "folds" / name / "predictions.parquet").stat().st_mtime_ns for name in done}
    assert after == before  # what was done is not done again
    return output


def test_a_run_killed_in_a_fold_goes_on_to_the_same_results(killed_and_resumed, uninterrupted):
    for name in ("results.json", "learning_curves.csv", "per_class.csv", "confusion.csv"):
        assert (killed_and_resumed / name).read_text() == (uninterrupted / name).read_text()
    assert np.array_equal(probabilities_of(killed_and_resumed), probabilities_of(uninterrupted))
    assert not list(killed_and_resumed.rglob(".*")) and not list(killed_and_resumed.rglob("checkpoint.pt"))


def test_a_finished_run_is_scored_again_in_a_moment(killed_and_resumed, uninterrupted, tiny, capsys):
    results = (killed_and_resumed / "results.json").read_text()
    (killed_and_resumed / "results.json").unlink()
    files = {file: file.stat().st_mtime_ns for file in killed_and_resumed.glob("folds/*/*")}
    run_here(*tiny, "--output_dir", killed_and_resumed, *LONG, "--resume_from_checkpoint", "latest")
    assert (killed_and_resumed / "results.json").read_text() == results
    assert {file: file.stat().st_mtime_ns for file in killed_and_resumed.glob("folds/*/*")} == files
    assert "(5 done before)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--learning_rate", 0.5), "was started with learning_rate 0.0001, not 0.5; give the same flags and files, or"),
        (("--augmentation", "gentle"), "was started with augmentation none, not gentle"),
        (("--k_shot", 1), "was started with k_shot None, not 1"),
    ],
)
def test_going_on_with_other_settings_is_refused_and_changes_nothing(flags, message, uninterrupted, tiny):
    before = {file: file.read_bytes() for file in uninterrupted.rglob("*") if file.is_file()}
    everything = (*tiny, "--output_dir", uninterrupted, *LONG, "--resume_from_checkpoint", "latest", *flags)
    assert message in refusal(*everything)
    assert {file: file.read_bytes() for file in uninterrupted.rglob("*") if file.is_file()} == before


def test_going_on_with_another_dataset_is_refused(probe, tiny, larger_rdface):
    flags = (*tiny, "--output_dir", probe, "--resume_from_checkpoint", "latest", "--dataset_name", larger_rdface)
    assert "was started with" in refusal(*flags)


def test_going_on_with_the_same_weights_and_another_input_is_refused(tiny, tiny_backbone, tmp_path):
    """Fold 0 would be predicted by another network than the folds after it, and the record would name one of them."""
    backbone = shutil.copytree(tiny_backbone, tmp_path / "backbone")
    flags = (*tiny, "--backbone", backbone, "--no-save_models", "--output_dir", tmp_path / "run")
    run_here(*flags, "--fold", 0)
    made = (tmp_path / "run" / "folds" / "seed0_fold0" / "predictions.parquet").read_bytes()
    config = json.loads((backbone / "config.json").read_text())
    before = config["pretrained_cfg"]["std"]
    config["pretrained_cfg"]["std"] = [0.5, 0.5, 0.125]
    (backbone / "config.json").write_text(json.dumps(config))
    message = refusal(*flags, "--resume_from_checkpoint", "latest")
    assert f"was started with input_std [{before}], not [[0.5, 0.5, 0.125]]; give the same flags and files" in message
    assert (tmp_path / "run" / "folds" / "seed0_fold0" / "predictions.parquet").read_bytes() == made


def test_seeds_are_added_to_a_finished_run_and_without_the_flag_it_starts_anew(tiny, tmp_path):
    run_here(*tiny, "--output_dir", tmp_path, "--seeds", 0)
    first = tmp_path / "folds" / "seed0_fold0" / "predictions.parquet"
    made = first.stat().st_mtime_ns
    run_here(*tiny, "--output_dir", tmp_path, "--seeds", 0, 1, "--resume_from_checkpoint", "latest")
    assert first.stat().st_mtime_ns == made
    assert set(prediction_files.read_predictions(tmp_path)["seed"]) == {0, 1}
    run_here(*tiny, "--output_dir", tmp_path, "--seeds", 0, "--fold", 0)
    assert [folder.name for folder in (tmp_path / "folds").iterdir()] == ["seed0_fold0"]
    assert first.stat().st_mtime_ns != made


def test_what_an_earlier_run_left_does_not_stand_beside_other_predictions(tiny, tmp_path):
    stale = (
        "predictions.parquet",
        "per_class.csv",
        "confusion.csv",
        "corruptions.json",
        "heat_maps.png",
    )
    run_here(*tiny, "--output_dir", tmp_path, "--fold", 0)
    for name in stale:
        (tmp_path / name).write_text("of an earlier run")
    run_here(*tiny, "--output_dir", tmp_path, "--fold", 1)
    left = [name for name in stale if (tmp_path / name).exists() and b"earlier" in (tmp_path / name).read_bytes()]
    assert left == []


def test_a_folder_that_is_no_run_is_left_alone(tiny, tmp_path):
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "thesis.txt").write_text("all of it")
    (tmp_path / "README.md").write_text("mine")
    assert "holds files that no earlier run made" in refusal(*tiny, "--output_dir", tmp_path)
    assert (tmp_path / "folds" / "thesis.txt").read_text() == "all of it"
    assert (tmp_path / "README.md").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
    assert "name a new folder" in refusal(*tiny, "--output_dir", tmp_path / "README.md")  # a file
    (tmp_path / "settings.json").write_text('{"command": "vlm_report_eval.py generate"}')
    said = refusal(*tiny, "--output_dir", tmp_path)
    assert "holds results of vlm_report_eval.py generate, which train_classifier.py does not replace" in said
    assert "name another folder" in refusal(
        *tiny, "--output_dir", tmp_path / "new", "--cache_dir", tmp_path / "README.md"
    )


def test_the_same_picture_in_two_folds_is_seen_though_its_bytes_differ(tiny_backbone, tmp_path):
    rows = painted_faces()
    trained, tested = (next(row for row in rows if row["strict_fold"] == fold) for fold in (1, 0))
    picture = Image.open(io.BytesIO(tested["image"]["bytes"]))
    trained |= with_picture(picture, {"image_id": trained["image_id"]}, compress_level=1)
    assert trained["sha256"] != tested["sha256"]
    folder = save_dataset(tmp_path / "doctored", rows)
    flags = ("--dataset_name", folder, "--backbone", tiny_backbone, "--output_dir", tmp_path / "out")
    with pytest.raises(errors.LeakError, match=r"pixels .* is held out and in training"):
        run_here(*flags, "--cache_dir", tmp_path / "cache")


def test_runs_of_different_settings_are_not_taken_for_seeds_of_one(tiny, tmp_path):
    for seed, size in ((0, 32), (1, 48)):
        run_here(*tiny, "--output_dir", tmp_path / str(seed), "--seed", seed, "--image_size", size)
    both = prediction_files.read_predictions([tmp_path / "0", tmp_path / "1"])
    with pytest.raises(ValueError, match="runs with different settings"):
        run_scores.score(both)


def test_processes_that_know_nothing_of_each_other_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes were started that know nothing of each other" in refusal(*tiny, "--output_dir", tmp_path / "o")


# ---- paper


@pytest.fixture(scope="module")
def paper_run(larger_rdface, tiny, tmp_path_factory) -> Path:
    flags = ("--dataset_name", larger_rdface, "--protocol", "paper", "--recipe", "finetune", "--num_train_epochs", 6)
    rate = ("--learning_rate", 0.01)  # high, so that the last epoch is not always the best
    return run_here(*tiny, *flags, *rate, "--output_dir", tmp_path_factory.mktemp("runs") / "paper")


def test_under_paper_the_model_of_each_fold_predicts_the_whole_test_side(paper_run, larger_rdface):
    images = datasets.load_dataset(str(larger_rdface), split="train").remove_columns("image")
    side = {row["image_id"]: row["paper_split"] for row in images}
    fold_of = {row["image_id"]: row["paper_fold"] for row in images}
    predictions = prediction_files.read_predictions(paper_run)
    test, val = (predictions[predictions["split"] == split] for split in ("test", "val"))
    tested = sorted(name for name in side if side[name] == "test")
    assert len(tested) == 16
    assert [sorted(rows["image_id"]) for _, rows in test.groupby("fold")] == [tested] * 5
    assert [fold_of[name] for name in val["image_id"]] == val["fold"].tolist()
    assert sorted(val["image_id"]) == sorted(name for name in fold_of if fold_of[name] is not None)


def test_under_paper_results_are_means_over_the_five_models(paper_run):
    results = json.loads((paper_run / "results.json").read_text())
    predictions = prediction_files.read_predictions(paper_run).query("split == 'test'")
    top1 = [
        metrics.topk_accuracy(np.stack(rows["probabilities"]), rows["label"].to_numpy(), 1)
        for _, rows in predictions.groupby("fold")
    ]
    assert (results["protocol"], results["n_test"], results["n_replicates"]) == ("paper", 16, 5)
    assert results["metrics"]["top1"]["mean"] == pytest.approx(np.mean(top1))
    assert results["metrics"]["top1"]["sd"] == pytest.approx(np.std(top1, ddof=1))


def test_under_paper_the_epoch_of_best_validation_accuracy_is_the_one_that_predicts(paper_run):
    curves = pd.read_csv(paper_run / "learning_curves.csv").groupby("fold")["val_accuracy"]
    predictions = prediction_files.read_predictions(paper_run).query("split == 'val'")
    for fold, rows in predictions.groupby("fold"):
        kept = metrics.topk_accuracy(np.stack(rows["probabilities"]), rows["label"].to_numpy(), 1)
        assert kept == pytest.approx(curves.max()[fold])
    assert (curves.last() < curves.max()).any()  # else keeping the last epoch would pass too


# ---- few images, low-rank updates, augmentation


@pytest.mark.parametrize("recipe", ["linear_probe", "finetune"])
def test_k_shot_trains_on_the_support_set_and_tests_on_the_whole_test_side(recipe, tiny, tmp_path, capsys):
    epochs = ("--num_train_epochs", 1)
    run_here(*tiny, "--output_dir", tmp_path, "--recipe", recipe, *epochs, "--k_shot", 1)
    record, predictions = record_of(tmp_path), prediction_files.read_predictions(tmp_path)
    assert [fold["n_train"] for fold in record["folds"]] == [9] * 5  # one of each condition
    assert "no condition has more than" not in capsys.readouterr().out
    assert len(predictions) == predictions["image_id"].nunique() == 32
    assert set(predictions["recipe"]) == {f"{recipe}, 1-shot"}


def test_a_k_shot_beyond_all_photographs_is_noted(tiny, tmp_path, capsys):
    run_here(*tiny, "--output_dir", tmp_path, "--fold", 0, "--k_shot", 99)
    told = capsys.readouterr().out
    assert "--k_shot 99: all photographs train, since no condition has more than" in told
    assert told.rstrip().endswith("folds/*/model") and (tmp_path / "folds/seed0_fold0/model").is_dir()


def test_a_setting_that_was_asked_for_stands_once_in_the_summary(tiny, tmp_path, capsys):
    flags = ("--fold", 0, "--align_faces", "none", "--resolution", 64, "--k_shot", 2)
    run_here(*tiny, "--output_dir", tmp_path, *flags)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "mixed precision" in line]
    assert " at 64 px, whole images, linear_probe, 2-shot, protocol strict, " in line
    assert set(prediction_files.read_predictions(tmp_path)["recipe"]) == {"linear_probe, 2-shot, 64 px, whole images"}


def test_a_backbone_of_simulated_faces_is_warned_of_on_photographs_that_are_not(tiny, tmp_path, capsys):
    demo = ROOT / "demo_models" / "backbone"
    own_file = ("regnetx_002", "--backbone_weights", demo / "model.safetensors")
    photographs = save_dataset(tmp_path / "own", [row | {"source_type": "clinic"} for row in painted_faces()])
    for number, (dataset, backbone) in enumerate([((), [demo]), (photographs, [demo]), (photographs, own_file)]):
        data = ("--dataset_name", dataset) if dataset else ()
        flags = ("--backbone", *backbone, *data, "--align_faces", "none", "--fold", 0, "--no-save_models")
        run_here(*tiny, "--output_dir", tmp_path / str(number), *flags)
        warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING: ")]
        reason = "was trained on simulated faces alone, and this dataset is not simulated: expect no meaningful scores"
        name = Path(backbone[0]).name  # of an absolute path the last part
        expected = [f"{name} {reason}; name another --backbone"] if dataset else []
        assert warned == [f"WARNING: {warning}" for warning in expected]
        assert json.loads((tmp_path / str(number) / "run.json").read_text())["warnings"] == expected
    run_here(*tiny, "--dataset_name", photographs, "--fold", 0, "--output_dir", tmp_path / "other")
    assert "WARNING" not in capsys.readouterr().out


def test_a_support_set_is_all_that_the_training_sees(tiny_rdface, tiny, tmp_path):
    """Other photographs in place of all that were not drawn, and of those held out: the same models."""
    rows = painted_faces()
    columns = {name: [row[name] for row in rows] for name in ("image_id", "group_id", "strict_fold")}
    (fold,) = protocols.folds(columns, "strict", 2)
    support = set(protocols.k_shot(fold, [row["label"] for row in rows], 2, seed=0).train.tolist())
    rng = np.random.default_rng(1)
    for row in set(range(len(rows))) - support:
        rows[row]["image"] = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    other = save_dataset(tmp_path / "other", rows)
    flags = ("--fold", 2, "--k_shot", 2, "--num_train_epochs", 2)
    for recipe in ("linear_probe", "finetune"):
        heads = []
        for dataset in (tiny_rdface, other):
            output = run_here(
                *tiny, "--dataset_name", dataset, *flags, "--recipe", recipe, "--output_dir", tmp_path / "out"
            )
            heads.append((output / "folds" / "seed0_fold2" / "model" / "model.safetensors").read_bytes())
        assert heads[0] == heads[1]


def test_lora_trains_a_network_with_attention(tiny, tmp_path):
    (tmp_path / "vit").mkdir()
    vit = save_backbone(tmp_path / "vit", "test_vit", img_size=32)
    output = run_here(
        *tiny, "--backbone", vit, "--recipe", "lora", "--num_train_epochs", 3, "--output_dir", tmp_path / "out"
    )
    assert len(prediction_files.read_predictions(output)) == 32
    assert json.loads((output / "results.json").read_text())["recipe"] == "lora"
    curve = pd.read_csv(output / "learning_curves.csv").groupby("epoch")["loss"].mean()
    assert curve[2] < curve[0]
    saved = sorted(file.name for file in (output / "folds" / "seed0_fold0" / "model").iterdir())
    assert saved == ["adapter_config.json", "adapter_model.safetensors", "config.json", "head.safetensors"]


def test_gentle_augmentation_changes_the_training_and_is_in_the_record(two_processes, tiny, tmp_path):
    flags = (*FINETUNE, "--fold", 1, "--seeds", 0, "--augmentation", "gentle")
    run_here(*tiny, "--output_dir", tmp_path, *flags)
    assert record_of(tmp_path)["augmentation"] == augmentations.AMOUNTS
    assert set(prediction_files.read_predictions(tmp_path)["recipe"]) == {"finetune, gentle augmentation"}
    plain = probabilities_of(two_processes, fold=1, seed=0)
    assert np.abs(probabilities_of(tmp_path) - plain).max() > 1e-3


# ---- corruptions and explanations


@pytest.fixture(scope="module")
def examined(tiny, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "examined"
    return run_here(*tiny, "--output_dir", output, "--corruptions", "--explain", "C3.2", "C0.1")


def test_corruptions_are_scored_beside_the_clean_results(examined, probe):
    scores = json.loads((examined / "corruptions.json").read_text())
    assert list(scores) == list(CORRUPTIONS) and len(scores) == 6
    for by_severity in scores.values():
        assert [int(severity) for severity in by_severity] == list(SEVERITIES)
        assert all(of["n_test"] == 32 and of["faces_missed"] == 0 for of in by_severity.values())
    assert scores["grey"]["3"]["metrics"]["top1"]["mean"] < scores["jpeg"]["1"]["metrics"]["top1"]["mean"]  # colours
    assert (examined / "results.json").read_text() == (probe / "results.json").read_text()
    assert not (probe / "corruptions.json").exists()


def test_heat_maps_of_chosen_images_make_a_sheet(examined, probe):
    with Image.open(examined / "heat_maps.png") as sheet:
        assert sheet.format == "PNG" and sheet.height > 2 * 224
        assert np.asarray(sheet.convert("RGB")).std() > 10
    assert not (probe / "heat_maps.png").exists()


@pytest.mark.parametrize("name", ["nobody", "ONE.1"])
def test_an_image_that_is_never_held_out_is_not_explained(name, tiny, tmp_path):
    message = refusal(*tiny, "--output_dir", tmp_path / "out", "--explain", "C0.1", name)
    assert message.startswith(f"--explain {name}: no image of that name is held out")
    assert not (tmp_path / "out").exists()


# ---- the Hub


def test_a_run_is_uploaded_without_images_names_token_or_folders(tiny, tmp_path):
    command = [sys.executable, SCRIPT, *tiny, "--output_dir", tmp_path / "out", "--fold", 0]
    command += ["--push_to_hub", "--hub_model_id", "lab/faces", "--hub_token", TOKEN]
    with hub_of_somebody() as hub:
        environment = hub.environment(tmp_path / "home", TOKEN) | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
        arguments = [str(part) for part in command]
        run = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    assert "lab/faces (private)" in run.stdout and TOKEN not in run.stdout + run.stderr
    model = {f"folds/seed0_fold0/model/{name}" for name in ("config.json", "model.safetensors")}
    assert committed(hub) == {"README.md", "results.json", "per_class.csv"} | model
    card = (tmp_path / "out" / "README.md").read_text()
    scores = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "SIMULATED" in card and f"{100 * scores['metrics']['top1']['mean']:.2f}" in card
    for pattern in model_upload.PUBLISHED_FILES:
        for file in (tmp_path / "out").glob(pattern):
            content = file.read_bytes()
            assert b"C0.1" not in content and TOKEN.encode() not in content
    kept = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert kept and not [file for file in kept if TOKEN.encode() in file.read_bytes()]


def test_what_would_be_published_names_no_folder_of_this_machine(probe, tiny_backbone):
    assert tiny_backbone.is_absolute()
    for pattern in model_upload.PUBLISHED_FILES:
        for file in probe.glob(pattern):
            assert str(tiny_backbone.parent).encode() not in file.read_bytes(), file.name


def test_the_token_is_written_nowhere(probe):
    assert not [file for file in probe.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


# ---- guards and refusals


@pytest.mark.parametrize("recipe", ["linear_probe", "finetune"])
@pytest.mark.parametrize("column", ["image_id", "sha256"])
def test_a_held_out_image_on_the_training_side_stops_the_run(column, recipe, tiny, tmp_path):
    rows = painted_faces()
    trained, tested = (next(row for row in rows if row["strict_fold"] == fold) for fold in (1, 0))
    for name in [column] if column == "image_id" else ["image", "sha256"]:
        trained[name] = tested[name]  # the same photograph, or a copy of it, in two folds
    folder = save_dataset(tmp_path / f"same-{column}", rows)
    with pytest.raises(errors.LeakError, match=f"{column} {tested[column]} is held out and in training"):
        run_here(*tiny, "--dataset_name", folder, "--recipe", recipe, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_photograph_of_a_held_out_patient_is_not_trained_on(tiny, tmp_path):
    rows = painted_faces()
    first, second = rows[:2]
    assert first["group_id"] == second["group_id"] and first["strict_fold"] == second["strict_fold"]
    second["strict_fold"] = (first["strict_fold"] + 1) % 5
    folder = save_dataset(tmp_path / "divided-patient", rows)
    run_here(*tiny, "--dataset_name", folder, "--output_dir", tmp_path / "out")
    tested = Counter(row["strict_fold"] for row in rows)
    for fold in record_of(tmp_path / "out")["folds"]:
        left_out = fold["fold"] in (first["strict_fold"], second["strict_fold"])
        assert fold["n_train"] == len(rows) - tested[fold["fold"]] - left_out


def test_a_test_image_that_would_choose_a_checkpoint_stops_the_run(tiny, tmp_path):
    rows = painted_faces(8)
    next(row for row in rows if row["paper_split"] == "test")["paper_fold"] = 2
    folder = save_dataset(tmp_path / "chosen-on-test", rows)
    flags = ("--dataset_name", folder, "--protocol", "paper", "--recipe", "finetune", "--num_train_epochs", 1)
    with pytest.raises(errors.LeakError):
        run_here(*tiny, *flags, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_was_built_again_in_its_folder_is_read_again(tiny, tmp_path):
    """`datasets` itself knows a local dataset by its folder's name and card, which a corrected row leaves alone."""
    rows = painted_faces()
    folder = save_dataset(tmp_path / "corrected", rows)
    flags = (*tiny, "--dataset_name", folder, "--cache_dir", tmp_path / "pixels", "--fold", 0)
    run_here(*flags, "--output_dir", tmp_path / "before")
    held_out = next(row for row in rows if row["strict_fold"] == 0 and row["label"] != CONDITIONS[-1])
    held_out["label"], held_out["image"] = CONDITIONS[-1], Image.new("RGB", (32, 24))
    shutil.rmtree(folder)
    save_dataset(folder, rows)
    run_here(*flags, "--output_dir", tmp_path / "after")
    before, after = (
        prediction_files.read_predictions(tmp_path / name).set_index("image_id").loc[held_out["image_id"]]
        for name in ("before", "after")
    )
    assert before["label"] != after["label"] == len(CONDITIONS) - 1
    assert np.abs(before["probabilities"] - after["probabilities"]).max() > 1e-3  # another photograph
    fingerprints = {record_of(tmp_path / name)["dataset"]["fingerprint"] for name in ("before", "after")}
    assert len(fingerprints) == len(list((tmp_path / "pixels").glob("*.json"))) == 2
    message = refusal(*flags, "--output_dir", tmp_path / "before", "--resume_from_checkpoint", "latest")
    assert "was started with" in message


def test_an_image_that_cannot_be_decoded_is_named(tiny, tmp_path):
    rows = painted_faces()
    rows[5]["image"] = {"bytes": b"\xff\xd8\xff no photograph", "path": "C1.2.jpg"}
    folder = save_dataset(tmp_path / "damaged", rows)
    flags = ("--dataset_name", folder, "--output_dir", tmp_path / "out")
    assert "image C1.2 cannot be decoded" in refusal(*tiny, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset_name", "./nowhere"), "dataset ./nowhere: there is no such folder"),
        (("--dataset_config_name", "restored"), "holds no config restored; build it"),
        (("--protocol", "paper"), "column paper_fold holds nulls only"),
        (("--fold", "9"), "there is no fold 9"),
        (("--backbone", "resnett18"), "no such folder or timm model; did you mean resnet18"),
        (("--backbone", "torchvision/resnett18"), "torchvision has no model 'resnett18'; did you mean resnet18"),
        (
            ("--backbone", ROOT / "demo_models" / "backbon"),
            f"did you mean {ROOT / 'demo_models' / 'backbone'}?; write tor",
        ),
        (("--backbone", "hf"), "a backbone of your own is known only to a script that imports its file (docs/ext"),
        (("--backbone_weights", "none.pth"), "--backbone_weights none.pth: no such file"),
        (("--backbone_weights", ROOT), f"--backbone_weights {ROOT} is a folder; name the file of weights in it, such"),
        (("--report_to", "clearml"), "--report_to clearml: it is not installed; pip install clearml, or"),
        (("--push_to_hub",), "run hf auth login, or set HF_TOKEN"),
        (("--push_to_hub", "--hub_model_id", "a/b/c"), "a/b/c is no name for a repository: "),
    ],
)
def test_bad_input_is_refused_in_one_line(flags, message, tiny, tmp_path):
    assert message in refusal(*tiny, "--output_dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_lora_without_attention_is_refused(tiny, tmp_path):
    message = refusal(*tiny, "--output_dir", tmp_path / "out", "--recipe", "lora")
    assert "has no attention layers for --recipe lora; use --recipe finetune" in message


def test_a_folder_without_config_or_weights_is_refused(tiny, tiny_backbone, tmp_path):
    flags = (*tiny, "--output_dir", tmp_path / "out", "--backbone", tmp_path)
    assert "the folder has no config.json" in refusal(*flags)
    (tmp_path / "config.json").write_text((tiny_backbone / "config.json").read_text())
    assert f"{tmp_path / 'model.safetensors'} is missing" in refusal(*flags)


def test_weights_that_cannot_be_had_are_named_with_the_place_and_the_flag(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    message = refusal(*tiny, "--output_dir", tmp_path / "out", "--backbone", "resnet18.a1_in1k")
    assert message.startswith("weights of resnet18.a1_in1k are not in ")
    assert "http://127.0.0.1:9" in message and "--backbone_weights" in message


@pytest.mark.parametrize(
    "flags",
    [
        ("--recipe", "prompting"),
        ("--fold", "first"),
        ("--seed", "-1"),
        ("--seeds", "0", "0"),
        ("--image_size", "0"),
        ("--k_shot", "0"),
        ("--num_train_epochs", "0"),
        ("--eval_batch_size", "0"),
        ("--train_batch_size", "1", "--recipe", "finetune"),
        ("--checkpointing_epochs", "-1"),
        ("--learning_rate", "0", "--recipe", "finetune"),
        ("--learning_rate", "nan", "--recipe", "finetune"),
        ("--learning_rate", "0.1"),  # of a linear probe
        ("--augmentation", "gentle"),
        ("--resume_from_checkpoint", "checkpoint-3"),
        ("--report_to", "telegram"),
        ("--explain", "C0.1", "--no-save_models"),
        ("--push_to_hub", "--no-save_models"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_exit_with_2_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_classifier.parse_args(["--dataset_name", "a", "--backbone", "b", "--output_dir", "c", *flags])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_flags_have_one_name_in_all_commands_and_the_former_ones_still_work():
    required = ["--dataset_name", "a", "--backbone", "b", "--output_dir", "c"]
    now, before = (
        train_classifier.parse_args([*required, *flags])
        for flags in (["--resolution", "64", "--seed", "3", "1"], ["--image_size", "64", "--seeds", "3", "1"])
    )
    assert now == before and (now.resolution, now.seed) == (64, [3, 1])
    assert train_classifier.settings_of(now, {})["image_size"] == 64  # so that runs in progress can be continued


def test_trackers_on_offer_are_those_that_there_are():
    kinds = [str(kind.value) for kind in LoggerType if kind != LoggerType.ALL]
    assert list(train_classifier.TRACKERS) == kinds


def test_two_processes_report_a_mistake_once(tiny, tmp_path):
    run = start(LAUNCH_TWO, *tiny, "--dataset_name", "./nowhere", "--output_dir", tmp_path / "out")
    assert run.returncode != 0
    assert run.stderr.count("train_classifier.py: dataset ./nowhere: there is no such folder") == 1
