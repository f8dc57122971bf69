"""train_classifier.py: the command on one and two processes, what its results hold, its guards and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import metrics
import protocols
import runs
import train_classifier

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "train_classifier.py"
LAUNCH_TWO = [
    *(Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", SCRIPT),
]
CONDITIONS = [f"C{i}" for i in range(8)]


def painted_faces() -> list[dict]:
    """33 rows: eight conditions, each a colour, with four images of three subjects, and one with a single image."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(30, 220, (9, 3))
    rows = []
    for condition, abbreviation in enumerate([*CONDITIONS, "ONE"]):
        for n in range(4 if abbreviation != "ONE" else 1):
            pixels = colours[condition] + rng.normal(0, 12, (24, 32, 3))
            rows.append(
                {
                    "image": Image.fromarray(pixels.clip(0, 255).astype(np.uint8)),
                    "image_id": f"{abbreviation}.{n + 1}",
                    "label": abbreviation,
                    "group_id": f"{abbreviation}.{max(n, 1)}",  # the first two photographs show one person
                }
            )
    folds = protocols.strict_folds([row["label"] for row in rows], [row["group_id"] for row in rows])
    return [
        row | {"strict_fold": fold, "paper_split": None, "paper_fold": None}
        for row, fold in zip(rows, folds, strict=True)
    ]


def save_dataset(folder: Path, rows: list[dict]) -> Path:
    """A dataset as rdface_dataset.py lays it out, with the columns that are read here."""
    text, number = datasets.Value("string"), datasets.Value("int8")
    features = datasets.Features(
        {"image": datasets.Image(), "image_id": text, "label": datasets.ClassLabel(names=[*CONDITIONS, "ONE"])}
        | {"group_id": text, "strict_fold": number, "paper_split": text, "paper_fold": number}
    )
    (folder / "real").mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "real" / "train-00000-of-00001.parquet")
    files = "data_files: [{split: train, path: real/train-*.parquet}]"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: real\n  default: true\n  {files}\n---\n")
    return folder


@pytest.fixture(scope="module")
def tiny_rdface(tmp_path_factory) -> Path:
    return save_dataset(tmp_path_factory.mktemp("tiny") / "tiny-rdface", painted_faces())


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory) -> Path:
    """A folder in timm's layout: random weights, 32 px input, no classifier."""
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), folder / "model.safetensors")
    input_config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0}
    config = {"architecture": "test_resnet", "num_classes": 0, "num_features": 384, "pretrained_cfg": input_config}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def start(command: list, *flags: object) -> subprocess.CompletedProcess:
    """The script as a user starts it, on the CPU and without the Hub."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    arguments = [str(part) for part in (*command, *flags)]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.fixture(scope="module")
def two_process_run(tiny_rdface, tiny_backbone, tmp_path_factory) -> Path:
    """The folder of a run on two CPU processes, with a batch size that divides neither images nor processes."""
    output = tmp_path_factory.mktemp("runs") / "probe"
    flags = ("--dataset_name", tiny_rdface, "--backbone", tiny_backbone, "--output_dir", output)
    run = start(LAUNCH_TWO, *flags, "--recipe", "linear_probe", "--protocol", "strict", "--eval_batch_size", 5)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written:") == 1  # the main process alone speaks
    return output


def run_here(*flags: object) -> None:
    """main in this process: for what is refused, where a launch would only add seconds."""
    train_classifier.main(train_classifier.parse_args([str(flag) for flag in flags]))


def refusal(*flags: object) -> str:
    """The one line with which main refuses."""
    with pytest.raises((runs.InputError, protocols.ProtocolError)) as error:
        run_here(*flags)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- results


def test_every_testable_image_is_predicted_once_and_out_of_fold(two_process_run, tiny_rdface):
    predictions = metrics.read_predictions(two_process_run)
    images = datasets.load_dataset(str(tiny_rdface), split="train")
    fold_of = {row["image_id"]: row["strict_fold"] for row in images.remove_columns("image")}
    assert sorted(predictions["image_id"]) == sorted(name for name, fold in fold_of.items() if fold is not None)
    assert [fold_of[name] for name in predictions["image_id"]] == predictions["fold"].tolist()
    assert "ONE.1" not in set(predictions["image_id"])
    assert set(predictions["split"]) == {"test"} and set(predictions["probabilities"].map(len)) == {9}
    names = datasets.Dataset.from_parquet(str(two_process_run / "predictions.parquet")).features["label"].names
    assert names == images.features["label"].names


def test_results_are_recomputed_from_the_predictions_to_the_last_digit(two_process_run):
    results = json.loads((two_process_run / "results.json").read_text())
    assert results == metrics.score(metrics.read_predictions(two_process_run))
    assert (results["protocol"], results["recipe"], results["n_test"]) == ("strict", "linear_probe", 32)
    assert results["chance"] == 1 / 9
    assert results["metrics"]["top1"]["mean"] > 0.9  # the conditions are colours
    assert not list(two_process_run.glob(".*"))  # no temporary file is left


def test_one_and_two_processes_give_the_same_results(two_process_run, tiny_rdface, tiny_backbone, tmp_path):
    run = start(
        [sys.executable, SCRIPT], "--dataset_name", tiny_rdface, "--backbone", tiny_backbone, "--output_dir", tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "results.json").read_text() == (two_process_run / "results.json").read_text()
    one, two = (metrics.read_predictions(folder) for folder in (tmp_path, two_process_run))
    assert one["image_id"].tolist() == two["image_id"].tolist()
    assert np.stack(one["probabilities"]) == pytest.approx(np.stack(two["probabilities"]), abs=1e-4)


def test_the_run_record_tells_how_to_repeat_the_run(two_process_run, tiny_rdface):
    record = json.loads((two_process_run / "run.json").read_text())
    assert record["arguments"]["dataset_name"] == str(tiny_rdface) and record["arguments"]["eval_batch_size"] == 5
    assert record["dataset"]["n_images"] == 33 and record["dataset"]["fingerprint"]
    assert record["seeds"] == [0] and record["n_processes"] == 2 and record["wall_s"] > 0
    assert {head["fold"] for head in record["heads"]} == set(metrics.read_predictions(two_process_run)["fold"])


def test_shuffled_labels_give_chance_and_say_so(tiny_rdface, tiny_backbone, tmp_path):
    flags = ("--dataset_name", tiny_rdface, "--backbone", tiny_backbone, "--shuffle_labels")
    for seed in range(5):
        run_here(*flags, "--seed", seed, "--output_dir", tmp_path / str(seed))
    runs = [metrics.read_predictions(tmp_path / str(seed)) for seed in range(5)]
    assert set(pd.concat(runs)["recipe"]) == {"linear_probe, shuffled labels"}
    top1 = np.mean([metrics.score(run)["metrics"]["top1"]["mean"] for run in runs])
    assert top1 < 1 / 9 + 3 * np.sqrt(1 / 9 * 8 / 9 / (5 * 32))


def test_one_fold_alone_is_the_same_as_in_the_whole_run(two_process_run, tiny_rdface, tiny_backbone, tmp_path):
    run_here("--dataset_name", tiny_rdface, "--backbone", tiny_backbone, "--fold", 1, "--output_dir", tmp_path)
    alone, whole = (metrics.read_predictions(folder) for folder in (tmp_path, two_process_run))
    whole = whole[whole["fold"] == 1]
    assert alone["image_id"].tolist() == whole["image_id"].tolist()
    assert np.stack(alone["probabilities"]) == pytest.approx(np.stack(whole["probabilities"]), abs=1e-4)


# ---- linear probe


def test_discriminants_equal_scikit_learn_where_classes_are_large():
    rng = np.random.default_rng(0)
    labels = np.repeat([2, 5, 7], 4000)
    features = rng.normal(size=(12000, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=(8, 6))[labels]
    for shrinkage in (0.1, 0.6):
        (probe,) = train_classifier.fit_discriminants(features, labels, [shrinkage])
        ours = probe.probabilities(features[::40], n_classes=9)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)
        assert ours[:, [2, 5, 7]] == pytest.approx(theirs.predict_proba(features[::40]), abs=0.01)
        assert ours.sum(axis=1) == pytest.approx(1) and (ours[:, [0, 1, 3, 4, 6, 8]] == 0).all()


def test_discriminants_have_closed_form_without_decomposition():
    """More dimensions than images, one class with a single image: the usual case here."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2])
    features = rng.normal(size=(6, 10))
    (probe,) = train_classifier.fit_discriminants(features, labels, [0.4])
    means = np.stack([features[labels == c].mean(axis=0) for c in range(3)])
    residuals = features - means[labels]
    within = residuals.T @ residuals / 3  # six images, three means
    precision = np.linalg.inv(0.6 * within + 0.4 * np.trace(within) / 10 * np.eye(10))
    shrunk = (means - features.mean(axis=0)) * np.array([3 / 4, 2 / 3, 1 / 2])[:, None]
    assert probe.weights == pytest.approx(shrunk @ precision)
    scores = (features - features.mean(axis=0)) @ precision @ shrunk.T - 0.5 * np.diag(shrunk @ precision @ shrunk.T)
    assert features @ probe.weights.T + probe.biases == pytest.approx(scores)


def test_a_training_side_of_single_images_still_gives_a_probe():
    features = np.eye(4)
    probe = train_classifier.fit_linear_probe(features, np.arange(4), np.array(list("abcd")), n_classes=5)
    assert probe.probabilities(features, 5).argmax(axis=1).tolist() == [0, 1, 2, 3]


# ---- guards and refusals


def test_a_held_out_image_on_the_training_side_stops_the_run(tiny_backbone, tmp_path):
    rows = painted_faces()
    trained, tested = (next(row for row in rows if row["strict_fold"] == fold) for fold in (1, 0))
    trained["image_id"] = tested["image_id"]  # the same photograph in two folds
    folder = save_dataset(tmp_path / "doctored", rows)
    with pytest.raises(protocols.LeakError, match=f"image_id {tested['image_id']} is held out and in training"):
        run_here("--dataset_name", folder, "--backbone", tiny_backbone, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_decoded_is_named(tiny_backbone, tmp_path):
    rows = painted_faces()
    rows[5]["image"] = {"bytes": b"\xff\xd8\xff no photograph", "path": "C1.2.jpg"}
    folder = save_dataset(tmp_path / "damaged", rows)
    flags = ("--dataset_name", folder, "--backbone", tiny_backbone, "--output_dir", tmp_path / "out")
    assert "image C1.2 cannot be decoded" in refusal(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset_name", "./nowhere"), "dataset ./nowhere: there is no such folder"),
        (("--dataset_config_name", "restored"), "BuilderConfig 'restored' not found"),
        (("--protocol", "paper"), "column paper_fold holds nulls only"),
        (("--fold", "9"), "there is no fold 9"),
        (("--backbone", "resnett18"), "no such folder or timm model; did you mean resnet18"),
        (("--backbone", "torchvision/resnett18"), "torchvision has no model 'resnett18'; did you mean resnet18"),
        (("--backbone_weights", "none.pth"), "--backbone_weights none.pth: no such file"),
    ],
)
def test_bad_input_is_refused_in_one_line(flags, message, tiny_rdface, tiny_backbone, tmp_path):
    defaults = ("--dataset_name", tiny_rdface, "--backbone", tiny_backbone, "--output_dir", tmp_path / "out")
    assert message in refusal(*defaults, *flags)  # a later flag wins
    assert not (tmp_path / "out").exists()


def test_a_folder_without_config_or_weights_is_refused(tiny_rdface, tiny_backbone, tmp_path):
    flags = ("--dataset_name", tiny_rdface, "--output_dir", tmp_path / "out", "--backbone", tmp_path)
    assert "the folder has no config.json" in refusal(*flags)
    (tmp_path / "config.json").write_text((tiny_backbone / "config.json").read_text())
    assert f"{tmp_path / 'model.safetensors'} is missing" in refusal(*flags)


def test_weights_that_cannot_be_had_are_named_with_the_place_and_the_flag(tiny_rdface, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    flags = ("--dataset_name", tiny_rdface, "--output_dir", tmp_path / "out", "--backbone", "resnet18.a1_in1k")
    message = refusal(*flags)
    assert message.startswith("weights of resnet18.a1_in1k are neither in ")
    assert "http://127.0.0.1:9" in message and "--backbone_weights" in message


@pytest.mark.parametrize(
    "flags", [("--recipe", "finetune"), ("--fold", "first"), ("--seed", "-1"), ("--image_size", "0")]
)
def test_wrong_arguments_exit_with_2_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_classifier.parse_args(["--dataset_name", "a", "--backbone", "b", "--output_dir", "c", *flags])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_two_processes_report_a_mistake_once(tiny_backbone, tmp_path):
    run = start(
        LAUNCH_TWO, "--dataset_name", "./nowhere", "--backbone", tiny_backbone, "--output_dir", tmp_path / "out"
    )
    assert run.returncode != 0
    assert run.stderr.count("train_classifier.py: dataset ./nowhere: there is no such folder") == 1
