"""The newcomer's path in small, through the commands of `make demo`: simulate, build, load, probe, page."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from datasets import load_dataset
from in_process import exit_status
from PIL import Image

import make_report
import rdface_dataset
import simulate_faces
import train_classifier
from curation.opening import load_images
from pages import results_page

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    dataset = folder / "rdface-sim"
    sizes = ["--num_images", 60, "--num_conditions", 10, "--image_size", 192, "--seed", 3]
    assert exit_status(simulate_faces, "--output_dir", folder / "raw", *sizes) == 0
    assert exit_status(rdface_dataset, "build", folder / "raw", "--output_dir", dataset) == 0
    probe = ["--dataset_name", dataset, "--backbone", ROOT / "demo_models" / "backbone"]
    control = ["--shuffle_labels", "--align_faces", "none"]
    assert exit_status(train_classifier, *probe, "--output_dir", folder / "probe") == 0
    assert exit_status(train_classifier, *probe, *control, "--output_dir", folder / "shuffled") == 0
    page = ["--dataset_name", dataset, "--output_file", folder / "page.html"]
    assert exit_status(make_report, "results", folder / "probe", folder / "shuffled", *page) == 0
    return folder


def test_the_dataset_says_that_it_is_simulated(study):
    images = load_dataset(str(study / "rdface-sim"), split="train")
    assert set(images["source_type"]) == {"simulated"} and len(images) == 60
    assert "SIMULATED" in (study / "rdface-sim" / "README.md").read_text()


def test_simulated_images_are_refused_under_the_real_name(study, capsys):
    assert exit_status(rdface_dataset, "build", study / "raw", "--output_dir", study / "rdface") == 2
    printed = capsys.readouterr().err
    assert "shadow the real dataset" in printed and "Traceback" not in printed
    assert not (study / "rdface").exists()


def test_the_probe_beats_chance_and_shuffled_labels(study):
    probe, shuffled = (json.loads((study / name / "results.json").read_text()) for name in ("probe", "shuffled"))
    assert probe["metrics"]["top1"]["low"] > 2 * probe["chance"]
    assert probe["metrics"]["top1"]["low"] > shuffled["metrics"]["top1"]["mean"]
    record = json.loads((study / "probe" / "run.json").read_text())
    assert record["input"]["face_alignment"] == "mtcnn" and record["faces_missed"] <= 6  # as the backbone's config asks


def test_the_page_stands_alone_and_shows_what_the_results_say(study):
    page = (study / "page.html").read_text()
    assert "SIMULATED data" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)  # nothing is loaded from elsewhere
    results = json.loads((study / "probe" / "results.json").read_text())
    assert f"<td>{100 * results['metrics']['top1']['mean']:.2f}<br>" in page
    assert f"<td>{results['metrics']['nll']['mean']:.3f}<br>" in page  # nats, not percent
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 24
    for picture in pictures:
        assert max(Image.open(io.BytesIO(base64.b64decode(picture))).size) <= 160


def test_real_photographs_have_a_banner_and_a_run_s_warning_is_on_the_page(study, tmp_path):
    images = load_images(str(study / "rdface-sim"))
    real = images.remove_columns("source_type").add_column("source_type", ["clinic"] * len(images))
    shutil.copytree(study / "probe", tmp_path / "probe")
    record = json.loads((tmp_path / "probe" / "run.json").read_text())
    (tmp_path / "probe" / "run.json").write_text(json.dumps(record | {"warnings": ["it knows <nothing>"]}))
    page = results_page.results_page([study / "probe", tmp_path / "probe"], real, 1)
    assert "REAL photographs, some of them on this page." in page and "SIMULATED data" not in page
    assert "<b>WARNING</b> for probe: it knows &lt;nothing&gt;." in page
    page = (study / "page.html").read_text()
    assert "REAL photographs" not in page and "WARNING" not in page


def test_a_page_of_a_folder_without_predictions_is_refused(study, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    flags = ["--dataset_name", study / "rdface-sim", "--output_file", tmp_path / "p.html"]
    assert exit_status(make_report, "results", tmp_path / "none", *flags) == 2
    printed = capsys.readouterr().err
    assert "no such file" in printed and "Traceback" not in printed and not (tmp_path / "p.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable run record"),
        (b'{"arguments": {"seeds": [0', "not a readable run record"),
        (b"\xff\xfe\x00", "not a readable run record"),
        (b"[" * 100_000, "not a readable run record"),
        (b'["a list"]', "not a record of train_classifier.py"),
        (b"null", "not a record of train_classifier.py"),
        (b'{"arguments": null}', "not a record of train_classifier.py"),
        (b'{"arguments": {}, "input": "whole images"}', "not a record of train_classifier.py"),
    ],
)
def test_a_damaged_or_foreign_run_record_is_refused_in_one_line(study, tmp_path, content, message):
    shutil.copy(study / "probe" / "predictions.parquet", tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'run.json'}: {message}.*; ") as refusal:
        results_page.read_run(tmp_path)
    assert "\n" not in str(refusal.value)


def test_pages_do_not_depend_on_results_json_and_name_what_does_not_fit(study, tmp_path):
    images = load_images(str(study / "rdface-sim"))
    shutil.copytree(study / "probe", tmp_path / "probe")
    (tmp_path / "probe" / "results.json").write_text("{")
    (tmp_path / "probe" / "run.json").unlink()
    whole = results_page.read_run(study / "probe").row
    run = results_page.read_run(tmp_path / "probe")
    row, predictions = run.row, run.predictions
    assert row["metrics"] == whole["metrics"] and row["command"] == "train_classifier.py"

    wider = predictions.assign(probabilities=[[*p, 0.0] for p in predictions["probabilities"]])
    for table, message in (
        (wider, "predictions are of 11 classes, but this dataset has 10"),
        (predictions.assign(split="val"), "none of .* predictions has the split test"),
        (predictions.assign(label=None), "predictions.parquet:1: label null is not a whole number"),
    ):
        table.to_parquet(tmp_path / "probe" / "predictions.parquet")
        with pytest.raises(ValueError, match=f"^{tmp_path / 'probe'}.*{message}") as refusal:
            results_page.results_page([tmp_path / "probe"], images, count=2)
        assert "\n" not in str(refusal.value)
    predictions.assign(recipe="linear_probe, whole images").to_parquet(tmp_path / "probe" / "predictions.parquet")
    row = results_page.read_run(tmp_path / "probe").row
    assert (row["input"], row["recipe"]) == ("whole images", "linear_probe"), "said once"
    predictions.to_parquet(tmp_path / "probe" / "predictions.parquet")
    of_others = {"dataset": {"photographs": "those of another clinic with the same image_ids"}}
    (tmp_path / "probe" / "run.json").write_text(json.dumps(of_others))
    with pytest.raises(ValueError, match="was made of other photographs than this dataset's"):
        results_page.results_page([tmp_path / "probe"], images, count=2)
    cut = (study / "probe" / "predictions.parquet").read_bytes()[:-100]
    (tmp_path / "probe" / "predictions.parquet").write_bytes(cut)
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        results_page.results_page([tmp_path / "probe"], images, count=2)
