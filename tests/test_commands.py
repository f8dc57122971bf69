"""What all commands share: help, refusals before anything heavy is imported, names on the Hub, and their end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import hub_availability
from harness.commands import Parser
from harness.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "datasets", "timm", "diffusers", "transformers", "accelerate", "sklearn", "cv2", "pyhpo"}
REQUIRED = {  # the least that each command accepts, with a dataset or folder that is not there
    "filter_synthetic.py": "--dataset_name nowhere --synthetic_dataset s --output_dir out",
    "make_report.py": "results run --dataset_name nowhere --output_file page.html",
    "publish_dataset.py": "publish nowhere ORG/NAME",
    "rdface_dataset.py": "validate nowhere",
    "restore_images.py": "--dataset_name nowhere --output_dir out --upscaler x.pth",
    "score_runs.py": "score nowhere",
    "simulate_faces.py": "--output_dir rdface",
    "train_classifier.py": "--dataset_name nowhere --backbone b --output_dir out",
    "train_dreambooth.py": "--dataset_name nowhere --pretrained_model_name_or_path p --output_dir out",
    "train_fastgan.py": "--dataset_name nowhere --output_dir out",
    "train_fewshot.py": "--dataset_name nowhere --backbone b --mode frozen --output_dir out",
    "vlm_report_eval.py": "generate --dataset_name nowhere --output_dir out",
}


CHILD = """
import runpy, sys
script, arguments, sys.path[0] = sys.argv[1], sys.argv[2:], sys.argv[1].rpartition("/")[0]
for sys.argv in ([script, "--help"], [script, *arguments]):
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(end.code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_every_command_is_listed_here():
    assert {path.name for path in ROOT.glob("*.py")} == set(REQUIRED)


@pytest.mark.parametrize("script", REQUIRED)
def test_help_and_a_refusal_come_before_anything_heavy_is_imported(script, tmp_path):
    command = [sys.executable, "-c", CHILD, ROOT / script, *REQUIRED[script].split()]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stderr.count("\n") == 1 and run.stderr.startswith(f"{script}: ")
    *_, after_help, after_refusal = [line.split() for line in run.stdout.splitlines() if line[:2] in ("0 ", "2 ")]
    assert (after_help[0], after_refusal[0]) == ("0", "2")
    assert set(after_refusal) & HEAVY == set()


def test_help_shows_the_defaults_that_there_are(capsys):
    parser = Parser(description="First line.\n\n    kept as it is", prog="x")
    parser.add_argument("--dataset_name", required=True, help="the dataset")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters")
    parser.add_argument("--align_faces", help="detector (default: the setting the pipeline was trained with)")
    parser.add_argument("--shuffle", action="store_true", help="a control")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the draws")
    parser.add_argument("--reason", default="", help="of the answer")
    shown = " ".join(parser.format_help().split())
    assert "of the adapters (default: 8)" in shown and shown.count("default") == 4
    assert "of the noise (default: 0)" in shown and "of the draws (default: 0 1)" in shown
    shown = parser.format_help()
    assert "    kept as it is\n" in shown
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--rank", "eight"])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        parser.parse_args(["--data", "rdface"])  # no abbreviation, which a further flag would change
    assert "--dataset_name" in capsys.readouterr().err


def test_a_misspelt_option_is_answered_with_the_one_that_there_is(capsys):
    parser = Parser(prog="x")
    build = parser.add_subparsers().add_parser("build")
    build.add_argument("--k_shot")
    for written, answer in (("--k-shot", " (is it --k_shot?)"), ("--kshot=1", " (is it --k_shot?)"), ("--zebra", "")):
        with pytest.raises(SystemExit):
            parser.parse_args(["build", written])
        assert capsys.readouterr().err.endswith(f"unrecognized arguments: {written}{answer}; see --help\n")


def test_output_that_nobody_reads_to_its_end_ends_a_command_quietly():
    code = "import sys; from harness.commands import run_command\n"
    code += "run_command(lambda: None, lambda _: [print('x' * 1000) for _ in range(10000)] and 0, '')"
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout.readline() == b"x" * 1000 + b"\n"
    writer.stdout.close()
    assert writer.stderr.read() == b"" and writer.wait() == 0


@pytest.mark.parametrize(
    ("name", "there"),
    [("lab/rdface", True), ("hf://datasets/lab/rdface@v1", True), ("./lab/rdface", False), ("rdface", False),
     ("~/rdface", False), ("a/b/c", False), ("/data/rdface", False)],
)  # fmt: skip
def test_only_names_of_the_hubs_form_are_looked_for_there(name, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_availability.is_on_hub(name) == there
    if not there:
        with pytest.raises(InputError, match="there is no such folder; build it, or give ORG/NAME"):
            hub_availability.check_name(name, "build it")
    Path("lab/rdface").mkdir(parents=True)
    assert not hub_availability.is_on_hub("lab/rdface")


def test_the_hub_is_asked_once_and_only_for_names_that_are_nothing_here(tmp_path, monkeypatch):
    asked = []

    def refuse(request: object, timeout: float) -> None:
        asked.append((request.full_url, timeout))
        raise OSError("no route")

    monkeypatch.setattr(hub_availability.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub_availability.work_offline_if_unreachable([str(tmp_path), None])
    assert asked == [] and "HF_HUB_OFFLINE" not in os.environ
    monkeypatch.setattr(hub_availability.sys, "modules", {})  # as in a command that has imported nothing yet
    hub_availability.work_offline_if_unreachable([str(tmp_path), "lab/rdface"])
    hub_availability.work_offline_if_unreachable(["lab/rdface"])
    assert asked == [("http://127.0.0.1:9", hub_availability.TIMEOUT_S)] and os.environ["HF_HUB_OFFLINE"] == "1"
