"""The graph of a study: what it plans, what a changed option runs again, and how it starts, stops and is refused."""

import atexit
import copy
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import yaml
from filelock import FileLock
from snakemake.cli import main as snakemake
from test_layout import imported

from benchmarks import killed_demo
from harness import study_plan, study_report, study_step
from harness.errors import InputError
from harness.source_files import ROOT, digest_of, sources_of

REFUSAL = "Batch job submission failed: Requested node configuration is not available"
SMALL = {  # a study in which two steps are made of the first one, and a third stands alone
    "study": "runs/small",
    "steps": {
        "raw": {"command": "simulate_faces", "options": {"num_images": 4, "num_conditions": 2}},
        "rdface-sim": {"command": "rdface_dataset build", "arguments": ["@raw"]},
        "page.html": {"command": "make_report gallery", "arguments": ["@rdface-sim"]},
        "others": {"command": "simulate_faces", "options": {"num_images": 2, "num_conditions": 2, "seed": 1}},
    },
}


def test_what_a_command_is_made_of_are_all_modules_that_it_imports_and_their_tables():
    for script in ("train_fewshot.py",):
        expected, waiting = set(), [ROOT / script]
        while waiting:  # the imports as Python's own parser sees them
            file = waiting.pop()
            if file not in expected:
                expected.add(file)
                places = [ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in imported(file)]
                waiting += [place for place in places if place.is_file()]
        found = {file for file in sources_of(script) if file.suffix == ".py" and file.name != "__init__.py"}
        assert found == {file for file in expected if file.name != "__init__.py"}
    assert ROOT / "phenotyping" / "conditions.csv" in sources_of("train_fewshot.py")
    assert ROOT / "dataset_card.md" in sources_of("rdface_dataset.py")
    assert ROOT / "train_classifier.py" not in sources_of("train_fewshot.py")
    assert len({digest_of("make_report.py"), digest_of("train_fewshot.py")}) == 2


@pytest.fixture
def study(tmp_path, monkeypatch, capfd):
    """Runs Snakemake in this process and a folder of its own; returns its status, the steps named, and all it said."""
    monkeypatch.chdir(tmp_path)

    def run(config, *arguments):
        file = Path.cwd() / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        at_end = []
        monkeypatch.setattr(atexit, "register", lambda function: at_end.append(function) or function)
        command = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(file), "--cores", "1", *arguments]
        with pytest.raises(SystemExit) as end:
            snakemake(command)
        for function in at_end:
            if function.__module__ != "logging":
                function()
        said = capfd.readouterr()
        said = said.out + said.err
        return end.value.code, set(re.findall(r"^Job \d+: (\S+)$", said, re.MULTILINE)), said

    with mock.patch.dict(os.environ):  # the Snakefile leaves its settings there for the steps
        yield run


def made_by(config):
    """The last file of every step, written here instead of by its command."""
    plan = study_plan.read_study(config)
    for name in plan.steps:
        file = plan.last_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)


# ---- the three configurations


def plan_of(name):
    return yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())


def documented(name):
    """How many jobs docs/cluster.md says that a configuration has."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    return int(re.search(rf"^\| `config/{name}.yaml` \|.*\| (\d+) \|$", text, re.MULTILINE)[1])


def test_the_demo_is_planned_and_holds_the_runs_that_the_documentation_names(study):
    status, steps, said = study(plan_of("demo"), "--dry-run")
    assert status == 0 and steps == set(study_plan.read_study(plan_of("demo")).steps)
    assert {"raw", "rdface-sim", "probe_strict", "probe_terms", "finetune_paper", "dreambooth", "agreement"} <= steps
    assert len(steps) == documented("demo")
    assert f"{len(steps)} of {len(steps)} jobs would run; 0 have an estimate" in said


def test_the_papers_study_is_planned_with_its_cost_at_measured_rates(study):
    status, steps, said = study(plan_of("paper"), "--dry-run")
    assert status == 0 and len(steps) == documented("paper") == 220
    published = {"densenet169", "swin_t", "facenet", "resnet152", "clip_vit_b32", "vggface"}
    assert {f"finetune_{backbone}_{protocol}" for backbone in published for protocol in ("paper", "strict")} <= steps
    assert {f"fewshot_{backbone}_paper_{way}way" for backbone in published for way in (5, 10, 15)} <= steps
    # 103 conditions for six generators and 5 folds of them for two, with 100 images each
    hours = 16 * (103 / 160 + 10300 * 0.21 / 3600)
    assert f"8 have an estimate: {hours:.1f} h one after the other, {hours:.1f} GPU hours; 212 are not measured" in said
    assert f"8 of 220 jobs have an estimate, {hours:.1f} GPU hours" in (ROOT / "docs" / "cluster.md").read_text()
    results = (ROOT / "docs" / "results.md").read_text()
    rates = plan_of("paper")["rates"]
    assert f"| 8 | {rates['adapters']['per_hour']} |" in results
    assert f"and {3600 / rates['sampled images']['per_hour']:.2f} s in batches of 16" in results
    assert rates == plan_of("strong")["rates"]


def test_the_strong_study_is_planned_under_protocol_strict_alone(study):
    status, steps, said = study(plan_of("strong"), "--dry-run")
    assert status == 0 and len(steps) == documented("strong") == 52 and "10 have an estimate" in said
    plan = study_plan.read_study(plan_of("strong"))
    assert "paper" not in [word for name in plan.steps for word in plan.command_line(name)]


# ---- what runs again


def test_a_changed_option_or_code_runs_again_what_depends_on_it_and_nothing_else(study, monkeypatch):
    made_by(SMALL)
    assert study(SMALL, "--touch", "--forceall")[0] == 0
    status, steps, said = study(SMALL, "--dry-run")
    assert (status, steps) == (0, set()) and "0 of 4 jobs would run" in said

    changed = copy.deepcopy(SMALL)
    changed["steps"]["others"]["options"]["seed"] = 2
    assert study(changed, "--dry-run")[1] == {"others"}
    changed = copy.deepcopy(SMALL)
    changed["steps"]["rdface-sim"]["options"] = {"skip_bad": True}
    assert study(changed, "--dry-run")[1] == {"rdface-sim", "page.html"}

    digest = {"make_report.py": "another"}
    monkeypatch.setattr("harness.source_files.digest_of", lambda script: digest.get(script) or digest_of(script))
    assert study(SMALL, "--dry-run")[1] == {"page.html"}


def test_resources_are_asked_for_and_no_reason_to_run_again(study):
    made_by(SMALL)
    assert study(SMALL, "--touch", "--forceall", "--resources", "gpu=2")[0] == 0
    richer = SMALL | {"resources": {"simulate_faces": {"gpu": 2, "mem_mb": 9000, "runtime": 7, "threads": 3}}}
    assert study(richer, "--dry-run")[1] == set()
    step = study_plan.read_study(richer).steps["raw"]
    assert step.resources == {"gpu": 2, "mem_mb": 9000, "runtime": 7, "threads": 3}


# ---- begun, stopped, begun again


def test_a_step_goes_on_only_if_command_code_and_inputs_are_as_they_were(tmp_path):
    begun = {"command": ["train_classifier.py", "--seed", "0"], "code": "a", "made_from": {}}
    (tmp_path / "steps").mkdir()
    assert not study_step.prepare(tmp_path, "probe", begun, True)  # nothing there yet
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "settings.json").write_text("{}")
    assert study_step.prepare(tmp_path, "probe", begun, True)
    assert (tmp_path / "probe" / "settings.json").is_file()
    assert not study_step.prepare(tmp_path, "probe", begun | {"code": "b"}, True)  # anew, and what there was is gone
    assert not (tmp_path / "probe").exists()
    assert study_step.prepare(tmp_path, "probe", begun | {"code": "b"}, True)  # killed just then: it may go on
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "settings.json").write_text("{}")
    assert not study_step.prepare(tmp_path, "probe", begun | {"code": "b"}, False)  # a command that cannot resume
    assert not (tmp_path / "probe").exists()
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "notes.txt").write_text("not ours")
    study_step.prepare(tmp_path, "probe", begun, True)
    assert (tmp_path / "probe" / "notes.txt").is_file()  # the command will refuse the folder


def test_a_step_says_that_it_begins_and_that_it_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_step, "run_logged", lambda *_: print("works") or 0)
    step = ["--study", str(tmp_path), "--step", "raw", "--code", "0", "--log", str(tmp_path / "log")]
    monkeypatch.setattr(sys, "argv", ["study_step", *step, "--", "simulate_faces.py"])
    monkeypatch.setenv("RDFACE_STUDY_JOBS", "3")
    assert study_step.main() == 0
    begins, works, done = capsys.readouterr().out.splitlines()
    assert (begins.split(), works, done.split()[:4]) == (["begins", "raw"], "works", ["1", "of", "3", "raw"])


def test_what_a_failed_command_said_is_shown_without_the_launchers_traceback():
    own = "Traceback (most recent call last):\n  a\nIndexError: b\n"
    launchers = 'Traceback (most recent call last):\n  File "x/accelerate/commands/launch.py", line 1\nE: c\n'
    assert study_step.last_lines("1%\r2%\n\nx.py: no such file; name another\n" + launchers)[-1] == (
        "x.py: no such file; name another"
    )
    assert study_step.last_lines(own + launchers) == own.splitlines() == study_step.last_lines(own)
    assert len(study_step.last_lines("line\n" * 50)) == 8


def test_steps_take_gpus_that_no_other_step_holds(tmp_path, monkeypatch):
    (tmp_path / "steps").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert study_step.take_gpus(tmp_path, 2) == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "7"  # SLURM gave it
    monkeypatch.setenv("RDFACE_STUDY_GPUS", "2,5,6")
    one, two = study_step.take_gpus(tmp_path, 1), study_step.take_gpus(tmp_path, 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,6" and len(one + two) == 3
    assert study_step.take_gpus(tmp_path, 0) == []
    waiting = threading.Thread(target=study_step.take_gpus, args=(tmp_path, 1), daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    one[0].release()
    waiting.join(5)
    assert not waiting.is_alive() and os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_study_killed_with_its_whole_group_goes_on_without_a_flag(study, tmp_path, monkeypatch):
    options = {"num_images": 2, "num_conditions": 2, "num_workers": 1}
    config = SMALL | {"steps": {"raw": {"command": "simulate_faces", "options": options}}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    arguments = ["killed_demo.py", "--configfile", "small.yaml", "--work_dir", "work", "--kills", "1", "--cores", "1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", arguments)
    begun = tmp_path / "work/killed/runs/small/steps/raw.json"

    killpg = os.killpg

    def kill_group(*target):
        assert list(tmp_path.glob("work/killed/.snakemake/incomplete/*"))  # for which Snakemake asks for a flag
        killpg(*target)

    monkeypatch.setattr(os, "killpg", kill_group)
    monkeypatch.setattr(killed_demo, "seconds_of_steps", lambda records: {"raw": 0.1})
    starts, in_a_process = [], killed_demo.start

    def start(folder, cores):
        """The one that is killed in a process group of its own, the others here, which is quicker."""
        starts.append(folder.name)
        if starts == ["unbroken", "killed"]:
            return in_a_process(folder, cores)
        monkeypatch.chdir(folder)
        status, _, said = study(config)
        monkeypatch.chdir(tmp_path)
        assert status == 0 and "1 of 1 steps to do" in said and "all 1 steps of runs/small are done" in said
        return SimpleNamespace(wait=lambda: status)

    monkeypatch.setattr(killed_demo, "start", start)
    assert killed_demo.main() == 0
    report = json.loads((tmp_path / "work/killed.json").read_text())
    assert (report["kills"], report["killed_during"], report["compared"], report["differ"]) == (1, [["raw"]], 1, [])
    assert starts == ["unbroken", "killed", "killed"]
    record = json.loads(begun.read_text())
    assert record["finished"] and record["command"][0] == "simulate_faces.py"
    assert killed_demo.without_costs({"a": [{"wall_s": 1, "b": 2}]}) == {"a": [{"b": 2}]}


def test_a_second_run_of_a_study_is_refused_and_a_failed_step_says_why(study, tmp_path):
    failing = {"study": "runs/small", "steps": {"rdface-sim": {"command": "rdface_dataset build", "arguments": ["no"]}}}
    (tmp_path / "runs/small").mkdir(parents=True)
    with FileLock(tmp_path / "runs/small/study.lock"):
        status, _, said = study(failing)
    assert status == 1 and "runs/small: another run of this study is under way; wait for it to end" in said
    (tmp_path / "runs/small/steps").mkdir()
    with FileLock(tmp_path / "runs/small/steps/rdface-sim.lock"):
        status, _, said = study(failing)
    assert status == 1 and "rdface-sim is still being run by an earlier start" in said
    status, _, said = study(failing)
    assert status == 1 and "rdface-sim failed (status 2); runs/small/logs/rdface-sim.log ends with" in said
    assert "rdface_dataset.py: " in said and "Traceback" not in said


# ---- a cluster


def test_a_refused_sbatch_is_named_tried_again_and_does_not_end_the_study(study, tmp_path, monkeypatch):
    for name in ("sbatch", "sacct", "scontrol", "sinfo", "squeue", "scancel"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        refusal = f"echo 'sbatch: error: {REFUSAL}' >&2; exit 1\n" if name == "sbatch" else ""
        stub.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/{name}.calls\n{refusal}')
        stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    config = copy.deepcopy(SMALL)
    config["resources"] = {"simulate_faces": {"gpu": 2, "mem_mb": 9000, "runtime": 7}}
    profile = ("--profile", str(ROOT / "config" / "slurm"), "--slurm-no-account", "--retries", "1")
    status, _, said = study(config, *profile, "--slurm-init-seconds-before-status-checks", "1")
    assert status == 1 and REFUSAL in said and "Traceback" not in said
    calls = (tmp_path / "sbatch.calls").read_text().splitlines()
    assert len(calls) == 4  # both steps that can start, twice each
    assert all("--mem 9000" in call and "-t 7 " in call and "--gpus=2" in call for call in calls)


def test_the_profile_for_slurm_is_planned_by_a_dry_run(study):
    status, steps, _ = study(SMALL, "--profile", str(ROOT / "config" / "slurm"), "--dry-run")
    assert (status, steps) == (0, set(SMALL["steps"]))


# ---- configurations that make no sense


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "/elsewhere"}, "study: /elsewhere must be a folder below this one"),
        ({"steps": {}}, "names no study or no steps"),
        ({"stepps": {}}, "configuration: stepps is unknown; it may hold"),
        ({"steps": {"a": {"command": "train_clasifier"}}}, "step a: command train_clasifier is unknown; did you mean"),
        ({"steps": {"a": {"command": "simulate_faces", "after": ["b"]}}}, "step a: after b, which is no other step"),
        ({"steps": {"a": {"command": "simulate_faces", "resources": {"gpus": 1}}}}, "resources of step a: gpus is"),
        (
            {"steps": {"a_{x}": {"command": "simulate_faces", "foreach": {"x": [1, 2], "y": [1, 2]}}}},
            "step a_{x}: two steps of its foreach have one name",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_with_the_steps_name(change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        study_plan.read_study(SMALL | change)


def test_wrong_options_are_refused_before_the_first_job_starts(study, tmp_path):
    config = copy.deepcopy(SMALL)
    config["steps"]["page.html"]["options"] = {"dataset_configname": "real"}
    status, _, said = study(config)
    assert status == 1 and "step page.html: unrecognized arguments: --dataset_configname real" in said
    assert not (tmp_path / "runs").exists()


def test_missing_weights_are_named_by_the_plan_and_refused_before_the_first_job_starts(study, tmp_path):
    options = {"dataset_name": "@rdface-sim", "upscaler": "weights/x4.pth"}
    restored = {"command": "restore_images", "options": options}
    other = restored | {"options": options | {"upscaler": "@made.pth"}}  # by another step
    config = copy.deepcopy(SMALL)
    config["steps"] |= {"restored": restored, "again": restored, "other": other}
    missing = "missing: weights/x4.pth (step again and 1 more); put the weights there"
    status, _, said = study(config, "--dry-run")
    assert status == 0 and missing in said
    status, _, said = study(config)
    assert status == 1 and missing in said and "Traceback" not in said
    assert not (tmp_path / "runs/small").exists()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/x4.pth").touch()
    assert study_plan.read_study(config).missing_weights(config["steps"]) == ""


def test_a_plan_of_an_unknown_study_names_the_known_ones():
    make = ["make", "--old-file", ".venv/.ready", "plan", "STUDY=nope"]
    end = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert end.returncode == 2 and len(end.stderr.splitlines()) == 1
    assert "there is no config/nope.yaml; STUDY may be demo paper strong" in end.stderr


def test_options_become_arguments_and_foreach_steps():
    config = {
        "study": "runs/x",
        "defaults": {"train_classifier": {"backbone": "b", "fold": 0, "save_models": False}},
        "steps": {
            "a": {"command": "simulate_faces"},
            "p_{n}": {
                "command": "train_classifier",
                "foreach": {"n": [1, 2]},
                "options": {"dataset_name": "@a/in", "seed": [0, "{n}"], "fold": None, "shuffle_labels": True},
                "after": ["a"],
            },
        },
    }
    plan = study_plan.read_study(config)
    assert list(plan.steps) == ["a", "p_1", "p_2"] and plan.steps["p_2"].needs == ("a",)
    expected = "train_classifier.py --backbone b --no-save_models --dataset_name runs/x/a/in --seed 0 2 "
    assert " ".join(plan.command_line("p_2")) == expected + "--shuffle_labels --output_dir runs/x/p_2"


def test_an_estimate_names_its_source_and_is_never_made_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = {"command": "simulate_faces", "resources": {"gpu": 2}, "work": {"faces": 90}}
    config = {"study": "runs/x", "steps": {"a": work, "b": {**work, "work": {"faces": 90, "eyes": 1}}, "c" * 45: work}}
    rates = {"faces": {"per_hour": 60, "machine": "M", "source": "S"}}
    plan = study_plan.read_study(config | {"rates": rates})
    assert study_report.seconds_of(plan, "a") == (5400, "rates on M")
    assert study_report.seconds_of(plan, "b") == (None, "not measured")
    assert "1 have an estimate: 1.5 h one after the other, 3.0 GPU hours" in study_report.plan(plan, ["b", "a"])
    head, *rows = study_report.plan(plan, ["a", "c" * 45]).splitlines()[:3]
    assert {row.index("simulate_faces") for row in rows} == {head.index("command")}  # columns, however long the names
    (tmp_path / "runs/x/steps").mkdir(parents=True)
    measured = {"seconds": 7.0, "command": plan.command_line("a")}
    study_step.measured_of(plan.folder, "a").write_text(json.dumps(measured))
    assert study_report.seconds_of(plan, "a") == (7.0, "earlier run")
    study_step.measured_of(plan.folder, "a").write_text(json.dumps(measured | {"command": []}))
    assert study_report.seconds_of(plan, "a") == (7.0, "earlier run, with other options")
