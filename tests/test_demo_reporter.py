"""The miniature reporter: its recipe runs and resumes, and the committed model writes reports of what faces show."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from demo_models import reporter_scores, simulated_people, train_reporter
from phenotyping import phenotypes
from reporting.report_terms import ReportTerms, find_terms
from simulation.people import write_report

REPORTER = Path(__file__).resolve().parents[1] / "demo_models" / "reporter"
HEADINGS = ["Overall Impression", "Eyes", "Nose", "Mouth/Lips", "Ears", "Jaw", "Forehead", "Diagnostic Suggestion"]
POOL = simulated_people.training_conditions()


def test_recipe_stopped_after_a_checkpoint_resumes_to_the_same_weights(tmp_path, monkeypatch):
    flags = "--num_people 20 --width 32 --num_layers 1 --max_train_steps 3 --mixed_train_steps 3 --train_batch_size 2"
    flags += " --checkpointing_steps 2 --mixed_precision no --num_workers 1 --num_study_people 2"
    flags += f" --cache_dir {tmp_path / 'cache'}"
    face = simulated_people.aligned_face(0, 5000)
    pictures = np.stack([np.roll(face, number, axis=1) for number in range(20)])
    monkeypatch.setattr(train_reporter, "render", lambda *_: pictures)
    (tmp_path / "cache").mkdir()
    train_reporter.main([*flags.split(), "--output_dir", str(tmp_path / "whole")])
    record = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert record["simulated"] is True and record["study_conditions"]["images"] == 2
    assert (tmp_path / "whole" / "samples_simulated.png").is_file()
    assert "SIMULATED" in (tmp_path / "whole" / "samples_simulated.md").read_text()

    monkeypatch.setattr(train_reporter, "report_figures", lambda *_: {"f1": 0.0})  # once is enough
    report_loss, steps = train_reporter.report_loss, []

    def stopping(*arguments):
        steps.append(1)
        if len(steps) == 5:  # two steps, the loss at their checkpoint, and one more step
            raise KeyboardInterrupt
        return report_loss(*arguments)

    (tmp_path / "cache" / "reporter.pt").unlink()
    monkeypatch.setattr(train_reporter, "report_loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_reporter.main([*flags.split(), "--output_dir", str(tmp_path / "resumed")])
    assert not (tmp_path / "resumed").exists()
    monkeypatch.setattr(train_reporter, "report_loss", report_loss)
    resume = ["--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint", "latest"]
    train_reporter.main([*flags.split(), *resume])
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_faces_are_rendered_once_and_a_half_written_one_again(tmp_path):
    first = np.array(simulated_people.render(tmp_path, 2, 5000, 1))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])  # as if it had been killed
    again = simulated_people.render(tmp_path, 2, 5000, 1)
    assert first.shape == (2, 128, 128, 3) and np.array_equal(first, again) and file.read_bytes() == whole
    assert np.array_equal(first[1], simulated_people.aligned_face(1, 5000))


def test_tokens_are_phrases_and_joined_they_are_the_report():
    tokenizer = train_reporter.phrase_tokenizer()
    for number in range(60):
        person = simulated_people.person_of(number, 12, POOL)
        report = write_report(person, np.random.default_rng(number), hpo_name_share=1.0)
        tokens = tokenizer(report).input_ids
        assert tokenizer.decode(tokens) == report and tokenizer.unk_token_id not in tokens
        names = {f" {phenotypes.terms()[i].name[0].lower()}{phenotypes.terms()[i].name[1:]}" for i in person.present}
        assert names <= set(tokenizer.convert_ids_to_tokens(tokens))


def test_figures_of_two_reports_by_hand():
    terms_of_people = ("HP:0000316", "HP:0000343"), ("HP:0000286", "HP:0000582")
    person = simulated_people.person_of(0, 12, POOL)
    people = [replace(person, present=terms) for terms in terms_of_people]
    found = [ReportTerms(("HP:0000316", "HP:0000286"), ("HP:0000343",), ()), ReportTerms(("HP:0000286",), (), ())]
    figures = reporter_scores.term_figures(people, found)
    assert figures["precision"] == pytest.approx(2 / 3) and figures["recall"] == pytest.approx(2 / 4)
    assert figures["f1"] == pytest.approx(4 / 7)
    assert figures["f1_shuffled"] == pytest.approx(2 / 7)  # dealt the other way round, one HP:0000286 is right
    assert figures["f1_above_shuffled"] == pytest.approx(2 / 7) and figures["present_terms_per_report"] == 1.5
    assert figures["denied_although_present"] == 1 and figures["denied_terms_per_report"] == 0.5


# ---- the committed model


@pytest.fixture(scope="module")
def committed():
    return AutoModelForImageTextToText.from_pretrained(REPORTER), AutoProcessor.from_pretrained(REPORTER)


def test_committed_folder_is_small_safe_and_names_its_seeds_and_conditions(committed):
    files = [file for file in REPORTER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 15 * 10**6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt", ".pkl", ".py")]
    assert not [file.name for file in files if file.suffix == ".json" and "_name_or_path" in file.read_text()]
    assert committed[0].dtype == torch.float32 and committed[0].config.face_alignment == "mtcnn"
    record = json.loads((REPORTER / "training.json").read_text())
    assert record["simulated"] is True and record["trained_on"]["conditions"] == [103, 308]
    assert not {0, record["study_conditions"]["seed"]} & set(record["trained_on"]["seeds"])
    assert record["study_conditions"]["conditions"] == [0, 102]
    for figures in (record["held_out_people"], record["study_conditions"]):
        assert figures["f1_above_shuffled_interval"][0] > 0


def test_committed_model_writes_all_sections_and_the_same_alone_and_in_a_batch(committed):
    faces = [simulated_people.aligned_face(number, 77) for number in range(2)]
    together = reporter_scores.write_reports(*committed, faces)
    alone = [reporter_scores.write_reports(*committed, [face])[0] for face in faces]
    assert together == alone and together[0] != together[1]
    for report in together:
        assert [line.split(":")[0] for line in report.split("\n")] == HEADINGS and report.endswith(".")
    larger = [np.array(Image.fromarray(face).resize((300, 300))) for face in faces]
    assert [r.count("\n") for r in reporter_scores.write_reports(*committed, larger)] == [7, 7]


def test_committed_model_sees_what_new_faces_show(committed):
    numbers = range(60)
    faces = [simulated_people.aligned_face(number, 77) for number in numbers]  # a new seed
    people = [simulated_people.person_of(number, 77, POOL) for number in numbers]
    figures = reporter_scores.term_figures(
        people, [find_terms(r) for r in reporter_scores.write_reports(*committed, faces)]
    )
    assert figures["f1_above_shuffled_interval"][0] > 0
