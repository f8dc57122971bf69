"""Two machines, as two launches on the loopback that share nothing but what their flags name: each has its own HF_HOME
and its own cache of pixels."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_train_classifier import (
    ENVIRONMENT,
    SCRIPT,
    painted_faces,
    probabilities_of,
    run_here,
    save_backbone,
    save_dataset,
    start_all,
)

from scoring import prediction_files


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple:
    """Flags of a linear probe on 33 images: more than one block, so that on one machine two processes share them."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "backbone").mkdir()
    backbone = save_backbone(folder / "backbone", "test_resnet")
    return ("--dataset_name", save_dataset(folder / "data", painted_faces()), "--backbone", backbone)


def on_two_machines(folder: Path, output: Path, *flags: object) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of two machines, on each of which a user starts one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for machine in (0, 1):
        launch = [Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", 2]
        launch += ["--num_machines", 2, "--machine_rank", machine, "--main_process_ip", "127.0.0.1"]
        launch += ["--main_process_port", port, "--mixed_precision", "no", "--dynamo_backend", "no", SCRIPT]
        launch += ["--output_dir", output, "--cache_dir", folder / f"pixels{machine}", *flags]
        environment = os.environ | ENVIRONMENT | {"HF_HOME": str(folder / f"home{machine}")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(list(map(str, launch)), env=environment, **pipes))
    printed = [process.communicate(timeout=300) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, printed, strict=True)]


def test_machines_with_caches_of_their_own_and_one_output_folder_give_what_one_machine_gives(study, tmp_path):
    output = tmp_path / "out"
    uneven = (*study, "--eval_batch_size", 5)  # a batch that divides neither images nor processes
    (first, printed, errors), (second, quiet, other_errors) = on_two_machines(tmp_path, output, *uneven)
    assert (first, second) == (0, 0), errors + other_errors
    assert "written:" in printed and "written:" not in quiet  # by the main process alone
    names = [{file.name for file in (tmp_path / f"pixels{machine}").glob("*.npy")} for machine in (0, 1)]
    assert names[0] == names[1] and len(names[0]) == 2
    for name in names[0]:  # made on each
        assert (tmp_path / "pixels0" / name).read_bytes() == (tmp_path / "pixels1" / name).read_bytes()
    assert not list(tmp_path.glob("pixels*/.*")) and not list(output.rglob(".*"))
    alone = run_here(*uneven, "--output_dir", tmp_path / "alone", "--cache_dir", tmp_path / "pixels0")
    assert prediction_files.read_predictions(output).equals(prediction_files.read_predictions(alone))
    assert (output / "results.json").read_bytes() == (alone / "results.json").read_bytes()
    even = run_here(*study, "--output_dir", tmp_path / "even", "--cache_dir", tmp_path / "pixels0")
    one, two = (json.loads((folder / "results.json").read_text())["metrics"] for folder in (even, output))
    for name, values in one.items():
        assert values == pytest.approx(two[name], abs=1e-4)
    assert probabilities_of(output) == pytest.approx(probabilities_of(even), abs=1e-4)
    assert one["top1"]["mean"] > 0.9  # the conditions are colours


def test_an_output_folder_that_one_machine_does_not_see_is_named_by_both_at_the_start(study, tmp_path):
    outputs = [tmp_path / "a" / "out", tmp_path / "b" / "out"]
    variables = [
        {"HF_HOME": tmp_path / f"home{machine}", "GROUP_RANK": machine, "GROUP_WORLD_SIZE": 2, "LOCAL_RANK": 0}
        for machine in (0, 1)
    ]
    flags = [
        (*study, "--output_dir", output, "--cache_dir", tmp_path / f"pixels{machine}")
        for machine, output in enumerate(outputs)
    ]
    for machine, (status, printed, errors) in enumerate(start_all(variables, *flags)):
        said = [line for line in errors.splitlines() if line.startswith("train_classifier.py: ")]
        reason = "process 1 of 2 does not see what the first one writes there; name a folder that all machines share"
        assert said == [f"train_classifier.py: --output_dir {outputs[machine]}: {reason}"]
        assert (status, printed) == (2, "")
    assert not list(tmp_path.glob("pixels*")) and not list(tmp_path.glob("home*/datasets"))  # before anything long
    assert not (tmp_path / "a").exists()  # nothing is left of the question
