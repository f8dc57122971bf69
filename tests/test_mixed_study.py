"""The page of a folder with runs of several datasets: what it says must be of the one that it describes. SIMULATED."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from in_process import exit_status
from small_study import small_study

import make_report
from curation.opening import load_images, photographs_digest
from pages.study_runs import open_study
from scoring import run_scores


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "study"
    folder.mkdir()
    return small_study(folder)


@pytest.fixture
def study(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


def changed(run: Path, top1_right: bool = False, **record: object) -> None:
    """Another record of a run, and perhaps predictions that are all right."""
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | record))
    if top1_right:
        table = pd.read_parquet(run / "predictions.parquet")
        n_classes = len(table["probabilities"].iloc[0])
        table["probabilities"] = [[float(i == label) for i in range(n_classes)] for label in table["label"]]
        table.to_parquet(run / "predictions.parquet")
        (run / "results.json").write_text(json.dumps(run_scores.score(table)))


def page_of(study: Path, capsys) -> tuple[dict, str, str]:
    """Numbers, page and screen."""
    capsys.readouterr()
    assert exit_status(make_report, "study", study) == 0
    text = " ".join((study / "report.html").read_text(encoding="utf-8").split())
    return json.loads((study / "results.json").read_text()), text, capsys.readouterr().out


@pytest.mark.parametrize("is_recorded", [True, False])
def test_headline_numbers_are_of_the_dataset_that_the_page_describes(study, capsys, is_recorded):
    """Runs of another clinic, whose images have the same ids, are better, and real."""
    images = load_images(str(study / "rdface-sim"))
    known_by = {"photographs": photographs_digest(images)} if is_recorded else {}
    for name in ("probe", "probe_terms", "one_shot", "one_shot_terms", "shuffled"):
        changed(study / name, dataset=known_by | {"fingerprint": images._fingerprint})
    of_others = {"fingerprint": "others"} | ({"photographs": "of another clinic"} if is_recorded else {})
    for name in ("probe", "probe_terms"):
        shutil.copytree(study / name, study / f"clinic_{name}")
        changed(study / f"clinic_{name}", name == "probe", dataset=of_others, simulated=False)
    shutil.copytree(study / "probe", study / "repaired")
    changed(study / "repaired", dataset=known_by | {"fingerprint": "restored", "config_name": "restored"})
    shutil.copytree(study / "compared", study / "clinic_compared")
    (study / "clinic_compared" / "sources.json").write_text(json.dumps({"source_sha256": ["of another clinic"]}))
    found, page, screen = page_of(study, capsys)
    headline = found["headline"]
    assert headline["recognition"]["run"] in ("probe", "repaired") and headline["recognition"]["chosen_from"] == 2
    assert headline["gain"]["run"] in ("probe_terms", "one_shot_terms") and headline["gain"]["chosen_from"] == 2
    assert (headline["reports"]["run"], headline["reports"]["chosen_from"]) == ("compared", 1)
    pairs = {(pair["a"], pair["b"]) for pair in found["differences"]}
    across = {pair for pair in pairs if len({name.startswith("clinic_") for name in pair}) > 1}
    assert pairs and (across == set() if is_recorded else across)
    said = "Runs of other photographs than those of rdface-sim lie in this folder, and no number of this summary is "
    assert f"{said}theirs: clinic_compared, clinic_probe, clinic_probe_terms." in screen
    assert said in page and "The study is about 30 simulated faces" in page
    assert found["simulated"] is False and screen.startswith("SIMULATED data: Recognition: ")
    assert "<h3>SIMULATED data: Recognition</h3>" in page and "partly SIMULATED data: Top-1 accuracy" in page
    assert re.search(r"<h3>Figure \d+\. SIMULATED data: How many images conditions have", page)
    kinds = {run.name: run.simulated for run in open_study(study).runs}
    assert kinds["clinic_probe"] is False and headline["recognition"]["simulated"] is True


def test_differences_on_the_page_and_in_the_leaderboard_have_the_sign_of_the_gains(study, capsys):
    (study / "probe").rename(study / "without")  # behind the run that was given more, by name
    found, _, _ = page_of(study, capsys)
    signed = {(pair["b"], pair["a"]): pair["difference"] for pair in found["differences"]}
    assert {gain["base"] for gain in found["gains"]} == {"without", "one_shot"}
    assert all(signed[gain["run"], gain["base"]] == gain["difference"] for gain in found["gains"])
    assert re.search(r"\| probe_terms \| without \| [+-]", (study / "leaderboard.md").read_text())


def test_what_the_page_warns_of_is_said_on_the_screen(study, capsys):
    results = json.loads((study / "one_shot" / "results.json").read_text())
    (study / "one_shot" / "results.json").write_text(json.dumps(results | {"n_classes": 4}))
    changed(study / "probe", warnings=["tiny knows nothing"])
    _, page, screen = page_of(study, capsys)
    for sentence in ("Runs with different numbers of conditions lie in this folder", "WARNING for probe: tiny knows"):
        assert sentence in page and sentence in screen
