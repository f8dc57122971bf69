"""The commands that pages show, which start runs again."""

import importlib
import json
import shlex
from pathlib import Path

import pytest
import yaml

import make_report
from harness import study_plan
from pages.study_page import methods_section
from pages.study_runs import CLASSIFIER, OTHER, Run, Study, command_line

NO_RECORD = ("make_report.py", "rdface_dataset.py")  # pages, and a dataset


def demo_steps() -> dict[str, list[str]]:
    """Name of each step of the demo that leaves a record -> its script and arguments."""
    config = yaml.safe_load((Path(make_report.__file__).parent / "config" / "demo.yaml").read_text(encoding="utf-8"))
    study = study_plan.read_study(config)
    words = {name: study.command_line(name) for name in study.steps}
    return {name: command for name, command in words.items() if command[0] not in NO_RECORD}


@pytest.mark.parametrize("step", demo_steps())
def test_every_command_of_the_demo_is_read_by_its_script_as_it_was_given(step):
    script, *given = demo_steps()[step]
    module = importlib.import_module(script.removesuffix(".py"))
    arguments = vars(module.parse_args(given))
    recorded = arguments | ({"face_alignment": "mtcnn"} if script == "train_dreambooth.py" else {})
    shown = command_line(json.loads(json.dumps({"script": script, "arguments": recorded}, default=str)), "")
    name, *words = shlex.split(shown)
    assert name == script and "" not in words
    assert vars(module.parse_args(words)) == arguments


def test_every_run_is_listed_that_says_its_script_and_shortened_paths_are_said():
    simulation = {"script": "simulate_faces.py", "arguments": {"num_images": 4, "output_dir": "runs/demo/raw"}}
    prompt = {"instance_prompt": "photo of a {rare_token} child", "negative_prompt": ""}
    records = {"raw": (OTHER, simulation), "probe": (CLASSIFIER, {"arguments": prompt}), "foreign": (OTHER, {})}

    def started() -> tuple[list, str]:
        runs = [Run(name, Path(name), kind, {}, record, True) for name, (kind, record) in records.items()]
        table = methods_section(Study(Path("demo"), runs, [], [])).blocks[-1]
        return table.rows, table.note

    rows, note = started()
    assert rows == [
        ["raw", "simulate_faces.py --num_images 4 --output_dir runs/demo/raw"],
        ["probe", "train_classifier.py --instance_prompt 'photo of a {rare_token} child'"],
    ]
    assert note == ""
    simulation["arguments"]["output_dir"] = "/home/somebody/raw"
    rows, note = started()
    assert rows[0][1].endswith("--output_dir raw") and note == "Of absolute paths, only the last part is shown."
