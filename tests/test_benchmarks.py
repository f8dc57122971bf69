"""Every benchmark, and the demo's model recipes that no other test runs, once at their smallest size.

Commands that a benchmark launches run in this process, except where a launch is what the benchmark measures.
"""

import dataclasses
import json
import re
import resource
import runpy
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_datasets
import torch
from accelerate.state import AcceleratorState
from in_process import exit_status
from safetensors.torch import load_file
from small_pipelines import tiny_pipeline
from test_face_embeddings import mean_colour_network

import filter_synthetic
import make_report
import publish_dataset
import rdface_dataset
import score_runs
import simulate_faces
import train_classifier
import train_dreambooth
import train_fastgan
import train_fewshot
from benchmarks import (
    altered_copies,
    augmentation_causes,
    augmentation_gain,
    build_scaling,
    deaf_base,
    dreambooth_speed,
    episode_coverage,
    face_detection,
    fastgan_progress,
    few_shot,
    few_shot_speed,
    fidelity_auc,
    filter_scaling,
    filtered_training,
    incumbent_way,
    interval_coverage,
    killed_demo,
    knowledge_elsewhere,
    knowledge_gain,
    knowledge_portraits,
    landmark_reports,
    perceptual_speed,
    person_pairs,
    phenotype_fidelity,
    planted_copies,
    planted_people,
    power_table,
    report_agreement,
    report_pairs,
    report_terms_accuracy,
    restoration_memory,
    simulator_yardsticks,
    synthetic_only,
    withdrawn_traces,
    word_image_gain,
    word_images,
)
from classification import synthetic_teachers, variance_shares
from classification.backbones import load_backbone
from classification.knowledge_prior import Teachers
from curation.leak_guard import Guard
from curation.opening import load_synthetic
from curation.protocols import Fold
from demo_models import train_restorers
from harness.errors import InputError
from phenotyping import phenotypes
from simulation import corpus

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = ROOT / "demo_models" / "backbone"
SHARED = ROOT.parent / "shared"  # real photographs and weights, which are not in the repository
# Run by test_landmark_reporter.py, test_perceptual_distance.py, test_privacy.py, test_planted_errors.py,
# test_statistics.py, test_episodes.py, test_study_graph.py and test_train_fewshot.py.
ELSEWHERE = (landmark_reports, perceptual_speed, planted_copies, report_agreement, report_pairs, power_table)
ELSEWHERE += (episode_coverage, few_shot, few_shot_speed, killed_demo)
COMMANDS = {f"{command.__name__}.py": command for command in (rdface_dataset, simulate_faces, train_classifier)}
COMMANDS |= {f"{c.__name__}.py": c for c in (make_report, publish_dataset, score_runs, train_fewshot)}
COMMANDS |= {f"{command.__name__}.py": command for command in (train_dreambooth, train_fastgan, filter_synthetic)}


@pytest.fixture(autouse=True, scope="module")
def simulated_here():
    """Photographs are drawn in this process: to start others costs seconds each, and changes no byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "process_pool", lambda _: ThreadPoolExecutor(1))
        yield


@pytest.fixture(autouse=True)
def precision_of_each_test():
    """A benchmark may leave another precision behind than the next test's."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def launch_here(script: str, *flags: object) -> None:
    """Run a command in this process as augmentation_gain.launch does it in one of its own."""
    assert exit_status(COMMANDS[script], *flags) == 0
    AcceleratorState._reset_state(reset_partial_state=True)


def run(benchmark, *flags: object) -> None:
    benchmark.main(benchmark.parse_args([str(flag) for flag in flags]))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A pipeline of random weights for pictures of 128 px, which costs a tenth of the miniature."""
    folder = tmp_path_factory.mktemp("base") / "tiny-diffusion"
    tiny_pipeline(vae_blocks=4, side_px=128).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gain(base, tmp_path_factory) -> Path:
    """The augmentation study of 3 conditions, 24 photographs and one support set; its corpus serves the others too."""
    folder = tmp_path_factory.mktemp("benchmarks") / "gain"
    sizes = "--num_conditions 3 --num_photographs 24 --k_shots 1 --seeds 0 --num_images 2 --max_train_steps 2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation_gain, "launch", launch_here)
        run(augmentation_gain, "--work_dir", folder, "--base", base, *sizes.split())
    return folder


def percent(pattern: str, printed: str) -> list[float]:
    """The numbers of one line, each 0..100."""
    found = [float(number) for number in re.search(pattern, printed).groups()]
    assert all(0 <= number <= 100 for number in found)
    return found


def test_augmentation_gain_compares_three_arms_with_the_photographs_alone(gain):
    differences = json.loads((gain / "gain.json").read_text())["differences"]
    assert [row["arm"] for row in differences] == ["dreambooth", "true people", "augmentation"]
    for row in differences:
        assert row["images"] == 6 and row["n_test"] == differences[0]["n_test"] > 0
        assert row["top1"]["b"] - row["top1"]["a"] == row["top1"]["difference"]


def test_augmentation_gain_says_which_command_failed(capfd):
    with pytest.raises(SystemExit, match=r"score_runs\.py failed"):
        augmentation_gain.launch("score_runs.py", "score", "nowhere")
    assert capfd.readouterr().err.startswith("score_runs.py: nowhere: ")


def test_augmentation_causes_judges_samples_and_decoded_people(gain, base, capsys):
    run(augmentation_causes, "--work_dir", gain, "--base", base, "--k_shots", 1, "--seeds", 0)
    printed = capsys.readouterr().out
    assert printed.count("SIMULATED, 1-shot, ") == 6
    percent(r"judge: adapters' samples: ([\d.]+) %", printed)


def test_phenotype_fidelity_measures_samples_against_the_truth(gain, base, capsys):
    synthetic = gain / "1shot_seed0" / "dreambooth" / "fold0" / "synthetic"
    run(
        phenotype_fidelity,
        "--synthetic_dataset",
        synthetic,
        "--base",
        base,
        "--num_people",
        20,
        "--num_base_samples",
        2,
    )
    printed = capsys.readouterr().out
    assert int(re.search(r"probe: (\d+) of \d+ parameters read", printed)[1]) > 0
    assert re.search(r"its samples are nearer than the base's, asked for the same words, for [0-3] of 3", printed)
    percent(r"base ([\d.]+) %, adapters ([\d.]+) %", printed)


def test_simulator_yardsticks_find_faces_copies_and_conditions(gain, capsys):
    run(simulator_yardsticks, "--raw_dir", gain / "raw", "--dataset_name", gain / "rdface-sim")
    printed = capsys.readouterr().out
    assert "groups that join different people: 0" in printed
    percent(r"linear probe on the true parameters: top-1 ([\d.]+) %", printed)
    assert percent(r"undegraded: face found in ([\d.]+) %", printed)[0] > 50


def test_the_incumbents_way_beside_ours(gain, capsys):
    sizes = ("--backbone", BACKBONE, "--repeats", 1, "--num_images", 10, "--quality_epochs", 1)
    run(incumbent_way, "--dataset_name", gain / "rdface-sim", *sizes)
    printed = capsys.readouterr().out
    for name in ("incumbent", "ours, float32", "ours, bf16"):
        assert re.search(rf"  {name} +[\d.]+ s: data", printed)
    assert re.search(r"linear probe, 5 folds: [\d.]+ s", printed)
    percent(r"float32 .* top-1 ([\d.]+) %", printed)


def test_fastgans_snapshots_are_compared_with_real_faces(gain, tmp_path, capsys):
    flags = "--fold 0 --resolution 64 --base_channels 8 --train_batch_size 2 --max_train_steps 1 --snapshot_steps 1"
    flags += " --num_images 1 --align_faces mtcnn"
    data = ("--dataset_name", gain / "rdface-sim", "--cache_dir", gain / "pixels")
    run(train_fastgan, *data, "--output_dir", tmp_path / "gan", *flags.split())
    run(fastgan_progress, *data, "--run_dir", tmp_path / "gan" / "fold0", "--backbone", BACKBONE, "--num_images", 4)
    printed = capsys.readouterr().out
    assert float(re.search(r"step 1: ([\d.]+) times the distance of two halves", printed)[1]) > 1  # of noise
    percent(r"a face in ([\d.]+) % of 4", printed)


def test_build_scaling_finds_re_encoded_copies(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    measured = build_scaling.run

    def run_here(script: str, *flags: object) -> tuple[float, int]:
        """A child process only where nothing but its imports is measured."""
        if script == "-c":
            return measured(script, *flags)
        began = time.monotonic()
        launch_here(script, *flags)
        return time.monotonic() - began, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    monkeypatch.setattr(build_scaling, "run", run_here)
    run(build_scaling, "--work_dir", tmp_path, "--num_images", 24, "--copies", 2, "--image_size", 64)
    printed = capsys.readouterr().out
    rows = pq.read_table(
        max(tmp_path.glob("part-*"), key=lambda part: int(part.name[5:])) / "rdface-sim" / "real", columns=["image_id"]
    ).num_rows
    assert f"{rows} images: " in printed
    percent(r"; ([\d.]+) % of the copies found", printed)


def test_altered_copies_of_a_few_people(tmp_path, monkeypatch):
    """What its numbers mean is tested in test_altered_copies.py."""
    kept = {"mirrored": altered_copies.ALTERATIONS["mirrored"]}
    monkeypatch.setattr(altered_copies, "ALTERATIONS", kept)
    drawn, read, folder = tmp_path / "drawn.json", tmp_path / "read.json", tmp_path / "pictures"
    simulated = ["simulated", "--conditions", "2", "--people", "1", "--results", str(drawn)]
    altered_copies.main(altered_copies.parse_args(simulated))
    folder.mkdir()
    for person in range(4):
        small_datasets.face(person, 96).save(folder / f"{person}.1.jpg")
    of_folder = ["folder", str(folder), "--first", "1", "--step", "2", "--results", str(read)]
    altered_copies.main(altered_copies.parse_args(of_folder))
    grouped = tmp_path / "grouped.json"
    few = ["scaling", "--records", "20", "--copies", "4", "--base", "5", "--photographs"]
    few += [str(folder), "--results", str(grouped)]
    altered_copies.main(altered_copies.parse_args(few))
    of_pictures = {"pictures": 5, "photographs_among_them": 4, "pairs_of_pictures": 0}
    assert (of_pictures | {"records": 20, "other_pairs": 0}).items() <= json.loads(grouped.read_text()).items()
    for file in (drawn, read):
        result = json.loads(file.read_text())
        assert result["simulated"] == (file == drawn) and result["people"] == 2
        assert result["kinds"]["mirrored"]["n"] == 2 and result["altered_linked_to_others"]["of"] == 2


def test_filter_scaling_of_a_few_rows(tmp_path, capsys):
    """Not of images: the same commands run in test_filter_synthetic.py, and processes of their own cost a minute."""
    run(filter_scaling, "--work_dir", tmp_path, "--num_images", "--num_rows", 2000)
    printed = capsys.readouterr().out
    assert "100.0 % of the first 200 nearest photographs are those that scikit-learn finds" in printed
    rank, kept = re.search(r"mean rank ([\d.]+), (\d+) kept", printed).groups()
    assert float(rank) < 20 and 1500 < int(kept) < 2000  # chance: 52; at most 20 images of each condition


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real photographs are not on this machine")
def test_planted_people_stand_where_the_plan_says(tmp_path):
    people = planted_people.london_people(SHARED / "real_landmarks")
    planted, absent = people[:3], people[3:5]
    folders = (SHARED / "real_landmarks", SHARED / "real_faces")
    kinds = planted_people.lay_out(tmp_path, *folders, planted, absent)
    rows = (tmp_path / "raw" / "disease_images.csv").read_text().splitlines()[1:]
    assert len(rows) == 2 * len(people) - 3 - 4 + 70 and len(kinds) == 3 + 4
    in_dataset = [row.rpartition(",")[2] for row in rows]
    assert [in_dataset.count(f"L{person}") for person in (*planted, *absent, people[5])] == [1, 1, 1, 0, 0, 2]
    for name, (person, kind) in kinds.items():
        content = (tmp_path / "synthetic" / name[:3] / f"{name}.jpg").read_bytes()
        seen = [n for n in (1, 2) if (folders[0] / "images" / f"{person}.{n}.jpg").read_bytes() == content]
        assert seen == [2] if kind == "planted" else seen


def test_pairs_of_persons_are_counted_within_and_across_folders(tmp_path, capsys):
    for seed, name in ((3, "one"), (4, "two")):
        sizes = ("--num_images", 6, "--num_conditions", 3, "--image_size", 128, "--seed", seed)
        launch_here("simulate_faces.py", "--output_dir", tmp_path / name, *sizes)
    network, results = mean_colour_network(tmp_path / "mean.onnx"), tmp_path / "results.json"
    flags = (
        "--face_embedder",
        network,
        "--calibrate",
        tmp_path / "one",
        "--measure",
        tmp_path / "one",
        tmp_path / "two",
    )
    run(person_pairs, *flags, "--results", results)
    measured = json.loads(results.read_text())["measured"]
    n = [6 - missed for missed in json.loads(results.read_text())["photographs_without_face"].values()]
    counts = [sum(kind["pairs"] for kind in record.values()) for record in measured.values()]
    assert list(measured) == [f"SIMULATED people, {name}" for name in ("one", "one with two", "two", "all")]
    assert counts == [n[0] * (n[0] - 1) // 2, n[0] * n[1], n[1] * (n[1] - 1) // 2, sum(n) * (sum(n) - 1) // 2]
    assert "pairs of two people are too few for a false alarm of 0.0001" in capsys.readouterr().out


def test_a_withdrawal_leaves_nothing_that_the_search_of_its_benchmark_finds(tmp_path, capsys):
    sizes = ("--num_images", 14, "--num_conditions", 3, "--image_size", 128, "--without_generators")
    args = withdrawn_traces.parse_args([str(one) for one in ("--work_dir", tmp_path / "study", *sizes)])
    withdrawn_traces.main(args, launch_here)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["left"] == {} and figures["listed"]
    assert all(figures["files_before"][kind] for kind in ("bytes", "digest", "identifier", "pixels"))


def test_dreambooth_speed_of_one_adapter_and_of_two(capsys):
    sizes = "--adapters_per_batch 2 --steps 1 --rounds 1 --num_samples 2 --num_real 2"
    run(dreambooth_speed, *sizes.split())
    printed = capsys.readouterr().out
    assert re.search(r"diffusers' way\): [\d.]+ steps/s", printed)
    assert float(re.search(r"ours, +2 at once, .* peak (\d+) MiB", printed)[1]) > 10
    percent(r"dpmsolver\+\+, 15 steps: .* a face in ([\d.]+) % of 2,", printed)


def test_interval_coverage_of_two_repetitions(capsys):
    run(interval_coverage, "--repetitions", 2, "--n_boot", 20, "--n_swaps", 19, "--parts", 1)
    printed = capsys.readouterr().out
    assert len(re.findall(r"^(?:top1|ece) ", printed, re.MULTILINE)) == 2 * 4
    assert 0.25 < float(re.search(r"top-1 about 0.3.*?^top1 +([\d.]+)", printed, re.MULTILINE | re.DOTALL)[1]) < 0.35


def test_restoration_memory_of_two_sizes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(restoration_memory, "PEOPLE", 2)
    run(restoration_memory, "--work_dir", tmp_path / "new", "--num_images", 2)
    assert re.search(r"^ +2 +[\d.]+ +[1-9]\d+ +[1-9]\d+$", capsys.readouterr().out, re.MULTILINE)
    assert not (tmp_path / "new").exists()


def test_the_upscalers_recipe(tmp_path):
    sizes = "--num_people 10 --max_train_steps 2 --train_batch_size 1 --crop_px 32 --num_filters 4"
    train_restorers.main([*sizes.split(), "--output_dir", str(tmp_path)])
    record = json.loads((tmp_path / f"{train_restorers.NAME}.json").read_text())
    assert record["simulated"] is True and record["held_out"]["people"] == 1
    assert load_file(tmp_path / f"{train_restorers.NAME}.safetensors")


def test_reports_are_brought_to_terms_on_simulated_reports_and_on_paraphrases(tmp_path, capsys):
    lines = ['{"text": "No ptosis.", "absent": ["HP:0000508"]}', '{"text": "Ptosis.", "present": ["HP:0000286"]}']
    (tmp_path / "few.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run(report_terms_accuracy, "--num_reports", 12, "--paraphrases", tmp_path / "few.jsonl")
    printed = capsys.readouterr().out
    rows = re.findall(r"^report_terms +all +(\w+) +(\d+) +([\d.]+) +([\d.]+)", printed, re.MULTILINE)
    assert [row[0] for row in rows] == ["present", "absent", "any", "present", "absent", "any"]
    assert all(float(number) > 0.9 for row in rows[:3] for number in row[2:]) and rows[3][1:] == ("1", "0.000", "0.000")
    assert rows[5][1:] == ("2", "0.500", "0.500")
    assert "missed present: Epicanthus" in printed and "wrong present: Ptosis" in printed
    (tmp_path / "few.jsonl").write_text("no JSON", encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        run(report_terms_accuracy, "--num_reports", 1, "--paraphrases", tmp_path / "few.jsonl")


def test_what_knowledge_adds_is_measured_against_the_same_photographs(tmp_path, capsys, monkeypatch):
    plan = {"FRESH_RANKS": (1, 3, 8, 10), "SEEDS": range(1), "FOLDS": (0,), "MISSING": (0.4,), "launch": launch_here}
    plan["CORPORA"] = {"study": (71, 20), "readers": (72, 12), "true_people": (73, 8), "103": (74, 26)}
    for name, value in plan.items():
        monkeypatch.setattr(knowledge_gain, name, value)
    monkeypatch.setattr(phenotypes, "NUM_STUDY_CONDITIONS", 12)
    folders = ["--work_dir", tmp_path, "--results_dir", tmp_path / "results"]
    run(knowledge_gain, *folders, "--study", "few", "--k", "1")
    file = tmp_path / "results" / "draws_few.json"
    ((name, (draw,)),) = json.loads(file.read_text()).items()
    assert name == "k1_seed0"
    arms = set(draw["right"]) - {"alone", "true people", "same head, no knowledge", "same head, no knowledge, readers"}
    assert set(draw["choices"]) == arms and {"terms", "terms and readers", "40% of annotations missing"} <= arms
    assert all(len(digits) == len(draw["rows"]) == len(draw["people"]) > 4 for digits in draw["right"].values())
    printed = capsys.readouterr().out
    assert "SIMULATED, few, k = 1" in printed and not (tmp_path / "results" / "simulated.json").exists()  # k is missing
    draw["right"]["terms"] = "1" * len(draw["rows"])
    file.write_text(json.dumps({name: [draw]}))
    run(knowledge_gain, *folders, "--study", "few", "--k", "1")
    assert re.search(r"^  terms +100\.0 %", capsys.readouterr().out, re.MULTILINE)  # a finished part is not run again
    run(knowledge_gain, *folders, "--study", "103")
    results = json.loads((tmp_path / "results" / "simulated_103.json").read_text())
    assert results["alone"]["gain"] == [0, 0, 0] and results["terms"]["n_images"] == results["alone"]["n_images"] <= 26
    assert list(json.loads((tmp_path / "results" / "draws_103.json").read_text())) == ["fold0"]


def test_knowledge_on_the_demos_corpus_and_with_other_networks(tmp_path, capsys, monkeypatch):
    corpora = {"study": (71, 20), "readers": (72, 12), "true_people": (73, 8), "103": (75, 26)}
    for name, value in {"FRESH_RANKS": (1, 3, 8, 10), "SEEDS": range(1), "CORPORA": corpora}.items():
        monkeypatch.setattr(knowledge_gain, name, value)
    monkeypatch.setattr(knowledge_elsewhere, "FEW", ("1",))
    for module in (knowledge_gain, knowledge_elsewhere):
        monkeypatch.setattr(module, "launch", launch_here)
    for name, value in {"N_IMAGES": 26, "FURTHER_PEOPLE": 1, "FOLDS": (0, 1), "KS": ("1", "all")}.items():
        monkeypatch.setattr(knowledge_elsewhere, name, value)
    monkeypatch.setattr(phenotypes, "NUM_STUDY_CONDITIONS", 12)
    weights, results = tmp_path / "random.pth", tmp_path / "results"
    torch.save(load_backbone("torchvision/squeezenet1_1", pretrained=False).network.state_dict(), weights)
    folders = ["--work_dir", tmp_path, "--results_dir", results]
    flags = ["--part", "demo", "unseen", "networks", "--backbone", f"torchvision/squeezenet1_1={weights}"]
    run(knowledge_elsewhere, *folders, *flags)
    of_demo, of_unseen, of_network = (
        json.loads((results / f"simulated_{name}.json").read_text()) for name in ("demo", "unseen", "squeezenet1_1")
    )
    for results_of_k in (*of_demo.values(), *of_unseen.values(), *of_network.values()):
        assert results_of_k["alone"]["gain"] == [0, 0, 0] and {"terms", "true people"} <= set(results_of_k)
    assert list(of_demo) == list(of_network) == ["1", "all"] and list(of_unseen) == ["1"]
    draws = json.loads((results / "draws_demo.json").read_text())
    assert list(draws) == ["k1_fold0", "k1_fold1", "kall_fold0", "kall_fold1"]
    held_out = [draws[f"k1_fold{number}"][0]["rows"] for number in (0, 1)]
    assert not set(held_out[0]) & set(held_out[1]) and max(map(max, held_out)) < 26  # further people are not tested
    assert "SIMULATED, 103 conditions, demo, k = all" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(knowledge_elsewhere, *folders, "--part", "networks")


def test_images_by_words_are_used_as_the_command_uses_them(base, tmp_path, capsys, monkeypatch):
    sizes = {
        "PEOPLE": {"others": (80, 14), "study": (81, 20)},
        "IMAGES": 2,
        "FEWER": (1,),
        "OF_OTHERS": 1,
        "BASE": base,
    }
    sizes |= {"SEEDS": range(1), "ADAPTER_IMAGES": 1, "ADAPTER_STEPS": 1, "launch": launch_here, "BASE": base}
    for name, value in (sizes | {"FRESH_RANKS": (1, 3, 5, 7)}).items():
        monkeypatch.setattr(word_image_gain, name, value)
    monkeypatch.setattr(knowledge_gain, "launch", launch_here)
    monkeypatch.setattr(phenotypes, "NUM_STUDY_CONDITIONS", 8)
    folders = ["--work_dir", tmp_path, "--results_dir", tmp_path / "results"]
    run(word_image_gain, *folders, "--k", "1", "--part", "words", "missing", "others", "faces", "dreambooth")
    assert "SIMULATED, words, k = 1: images added to knowledge" in capsys.readouterr().out
    found = json.loads((tmp_path / "results" / "faces.json").read_text())["found"]
    missed = [
        found[of]["border 0"]["none"] for of in ("images by words", "simulated photographs, aligned, of the same size")
    ]
    assert found["images by words"]["n_images"] == 16 and missed[0] > missed[1]  # the tiny base paints noise
    (draw,) = json.loads((tmp_path / "results" / "draws_words.json").read_text())["k1_seed0"]
    right = draw["right"]
    assert {"terms, readers, 2 images as terms", "dealt at random: images as data", "1 images as prior"} <= set(right)
    for part, arm in (("missing", "40% missing: images as data"), ("others", "images of 103 conditions as terms")):
        (other,) = json.loads((tmp_path / "results" / f"draws_{part}.json").read_text())["k1_seed0"]
        assert arm in other["right"] and other["right"]["alone"] == right["alone"]
    study = word_image_gain.WordStudy(tmp_path, "words")
    people, words = study.people, study.images
    assert len(words.labels) == 8 and words.by_words.all() and words.said.any()
    fold = knowledge_gain.support_set(people, study.allowed, 1, 0)
    n, rows = len(people.labels), len(people.labels) + np.arange(8)
    data = [np.concatenate(pair) for pair in ((people.features, words.features), (people.labels, words.labels))]
    groups = np.concatenate([people.groups, [f"painted {i}" for i in range(8)]])
    side = Fold(0, np.concatenate([fold.train, rows]), fold.val, fold.test)
    more = Guard(side, {"image_id": [*range(n + 8)], "group_id": groups})
    for arm, synthetic in (("alone", ()), ("2 images as data", rows)):
        probe = knowledge_gain.fit_linear_probe(*data, groups, fold.train, more, synthetic)
        expected = knowledge_gain.is_right(probe, people, fold.test)
        assert right[arm] == "".join("1" if value else "0" for value in expected)
    # The candidates for the limit of how far terms of images are believed are used, and the constant is as before.
    usual, limited = variance_shares.MAX_SCALE, study.limits("1", 0)
    assert usual == variance_shares.MAX_SCALE and len(limited["right"]) == 1 + 5 * len(word_image_gain.LIMITS)
    assert limited["right"]["limit 1: images as terms"] == right["2 images as terms"]
    # Images dealt at random go to the class that got their condition's terms.
    order = np.array([2, 0, 3, 1])
    assert (order[words.dealt(order).labels] == words.labels).all()
    # The candidates for the weight of adapters' images are really used, and the constant is as before.
    adapters = word_image_gain.AdapterStudy(tmp_path, "study")
    usual = synthetic_teachers.PRIOR_WEIGHT
    weighed = adapters.weights("1", 0)
    assert usual == synthetic_teachers.PRIOR_WEIGHT and len(weighed["right"]) == 1 + len(word_image_gain.WEIGHTS)
    _, images = adapters.open("1", 0)
    assert not images.by_words.any() and sorted(images.labels) == [0, 1, 2, 3]
    # A base is deaf to words that no caption held; its images are known by the terms that the words stand for.
    for name, value in {"BASE": base, "IMAGES": 2, "STEPS": 1, "BATCH": 1}.items():
        monkeypatch.setattr(deaf_base, name, value)
    run(deaf_base, *folders, "--k", "2")
    (draw,) = json.loads((tmp_path / "results" / "draws_deaf_base.json").read_text())["k2"]
    assert {"terms", "deaf base alone: images as data", "terms, phenotype adapter: images as terms"} <= set(
        draw["right"]
    )
    deaf = deaf_base.DeafStudy(tmp_path)
    assert len(set(deaf.deaf_terms)) == len(deaf.terms)
    for generator in deaf_base.GENERATORS:
        drawn = deaf.images_of(generator, "2")
        assert (drawn.said <= (deaf.own[drawn.labels] > 0)).all() and drawn.said.any()


def test_images_of_adapters_count_as_much_as_was_best_on_tuning_people():
    tuned = json.loads((word_image_gain.RESULTS / "tuning.json").read_text())
    means = {
        weight: np.mean([of_k["gains"][f"weight {weight}"]["top1"] for of_k in tuned.values()])
        for weight in word_image_gain.WEIGHTS
    }
    assert max(means, key=means.get) == synthetic_teachers.PRIOR_WEIGHT


def test_terms_of_images_are_believed_as_far_as_was_best_on_tuning_people():
    chosen_on = json.loads((word_image_gain.RESULTS / "scale.json").read_text())
    arms = ("images as terms", "terms, images as terms", "terms, readers, images as terms")
    means = {
        limit: np.mean(
            [of_k["gains"][f"limit {limit:g}: {arm}"]["top1"] for of_k in chosen_on.values() for arm in arms]
        )
        for limit in word_image_gain.LIMITS
    }
    assert min(limit for limit, mean in means.items() if mean > max(means.values()) - 0.5) == variance_shares.MAX_SCALE


def test_what_images_add_to_knowledge_is_measured_against_the_same_knowledge():
    right = {"alone": "0000", "terms": "1000", "terms, 2 images as data": "1100", "terms, readers": "1110"}
    right["terms, readers, 2 images as prior"] = "0111"
    right |= {"40% missing: terms": "0001", "40% missing: terms, images as terms": "0111", "2 images as data": "1111"}
    found = word_image_gain.of_painting([{"rows": [*range(4)], "people": [*range(4)], "right": right}])
    added = {name: scores["gain"][0] for name, scores in found.items()}
    assert added == {
        "terms, readers, 2 images as prior": 0.0,
        "terms, 2 images as data": 25.0,
        "40% missing: terms, images as terms": 50.0,
    }


def test_wrong_profiles_are_wrong_as_they_say():
    rng = np.random.default_rng(0)
    own = np.where(rng.random((6, 20)) < 0.5, rng.choice([0.17, 0.55, 0.9], (6, 20)), 0.0)
    for share in (0.2, 0.6):
        kept = knowledge_gain.thinned(own, share, seed=1)
        lost = (own > 0).sum(axis=1) - (kept > 0).sum(axis=1)
        assert lost.tolist() == [round(share * n) for n in (own > 0).sum(axis=1)]
        assert (kept[kept > 0] == own[kept > 0]).all()
    wrong = knowledge_gain.with_wrong_terms(own, 0.2, seed=1)
    assert (np.sort(wrong, axis=1) == np.sort(own, axis=1)).all()  # as many terms, with the same frequencies
    moved = ((wrong > 0) & (own == 0)).sum(axis=1)
    assert moved.tolist() == [round(0.2 * n) for n in (own > 0).sum(axis=1)] and (moved > 0).all()
    assert (knowledge_gain.without_frequencies(own) == (own > 0)).all()
    dealt = knowledge_gain.dealt_at_random(own, seed=1)
    assert sorted(dealt.tolist()) == sorted(own.tolist()) and (dealt != own).any()


def test_gains_are_means_over_draws_with_images_that_an_arm_was_not_asked_for():
    draws = [
        {"rows": [4, 5, 6], "people": [0, 0, 1], "right": {"alone": "010", "terms": "110", "some": "1--"}},
        {"rows": [4, 6, 7], "people": [0, 1, 2], "right": {"alone": "100", "terms": "101", "some": "--0"}},
    ]
    found = knowledge_gain.gains(draws)
    assert found["alone"]["top1"] == 33.3 and found["alone"]["gain"] == [0, 0, 0] and found["alone"]["n_people"] == 3
    assert found["terms"]["top1"] == 66.7 and found["terms"]["gain"][0] == 33.3  # 2 of the 6 answers
    assert found["some"]["n_images"] == 2 and found["some"]["top1"] == 50 and found["some"]["gain"][0] == 50
    low, high = found["terms"]["gain"][1:]
    assert low == 0 and high == 100  # person 1 alone, and person 2 alone


def test_the_same_head_without_knowledge_looks_at_no_terms_and_no_held_out_row():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(5), 6)
    features = rng.normal(size=(5, 8))[labels] * 2 + rng.normal(size=(30, 8))
    people = SimpleNamespace(features=features, labels=labels, groups=np.arange(30), names=list("abcde"))
    fold = Fold(0, np.flatnonzero(np.arange(30) % 2 == 0), np.array([], int), np.flatnonzero(np.arange(30) % 2))
    guard = Guard(fold, {"image_id": [str(i) for i in range(30)], "group_id": people.groups})
    others = Teachers(rng.normal(size=(12, 8)), rng.random((12, 3)), 5 + np.arange(12) // 3, np.ones(12, int))
    probes = [knowledge_gain.drawn_means(people, fold, guard, readers) for readers in (None, others)]
    for probe in probes:
        right = probe.classes[probe.scores(features[fold.test]).argmax(axis=1)] == labels[fold.test]
        assert right.mean() > 0.6
    other_terms = dataclasses.replace(others, profiles=rng.random((12, 3)))
    again = knowledge_gain.drawn_means(people, fold, guard, other_terms)
    assert (again.weights == probes[1].weights).all() and (again.weights != probes[0].weights).any()
    people.features = np.where(np.isin(np.arange(30), fold.test)[:, None], np.nan, features)
    assert (knowledge_gain.drawn_means(people, fold, guard).weights == probes[0].weights).all()


def test_terms_of_portraits_are_marks_and_classes_outside_the_pool_are_given_apart(tmp_path, monkeypatch, capsys):
    assert knowledge_portraits.marks(["FP", "MGMW"]).tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 1]]
    small_datasets.photographs(tmp_path, "few", {"FP": 3, "MG": 3, "MGB": 3, "FGW": 2})
    small_datasets.photographs(tmp_path, "pool", {"FP": 4, "MG": 3})
    monkeypatch.setattr(knowledge_portraits, "SEEDS", range(3))

    def features(images) -> np.ndarray:
        return np.random.default_rng(len(images)).normal(size=(len(images), 12))

    arguments = ["--work_dir", tmp_path, "--attributes_dir", tmp_path, "--results_dir", tmp_path / "results"]
    args = knowledge_portraits.parse_args([str(value) for value in arguments])
    knowledge_portraits.measure(args, "drawn", lambda: features)
    results = json.loads((tmp_path / "results" / "real_drawn.json").read_text())
    arms = results["1"]["arms"]
    assert arms["terms and pool"]["n_images"] == 11 and results["1"]["arms_of_later_seeds"] == {}
    assert arms["terms and pool, classes outside the pool"]["n_images"] == 5  # MGB and FGW
    assert "drawn, k = 2" in capsys.readouterr().out


def test_shares_and_nearness_of_word_images_are_read_from_what_the_filter_left(tmp_path):
    (tmp_path / "synthetic").mkdir()
    table = {"made_from": ["words"] * 4, "faces": [1, 1, 0, 2], "reject_reason": [None, "near copy of A.1", "", None]}
    table |= {name: [0.1, 0.2, 0.3, None] for name in word_images.MEASURED[2:]}
    table |= {"protocol": ["strict"] * 4, "fold": [0] * 4}
    pq.write_table(pa.table(table), tmp_path / "synthetic" / "train-0.parquet")
    (tmp_path / "privacy_report.json").write_text(json.dumps({"membership_attack": {}}))
    figures = word_images.nearness(tmp_path)
    assert (figures["one_face_found"], figures["any_face_found"], figures["rejected: near copy"]) == (0.5, 0.75, 1)
    assert figures["copy_score"]["50"] == pytest.approx(0.2)


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_every_benchmark_is_run_here_and_says_what_its_flags_mean(script, capsys, monkeypatch):
    assert script.stem in globals()
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0 and "--" in capsys.readouterr().out


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real photographs and weights are not on this machine")
def test_face_detection_beside_the_incumbents_way(capsys):
    folders = ["--people_dir", str(SHARED / "real_faces"), "--points_dir", str(SHARED / "real_landmarks")]
    network = SHARED / "models" / "retinaface_mobilenet025" / "retinaface_mobilenet025.onnx"
    embedder = SHARED / "models" / "mobilefacenet" / "mobilefacenet_192.onnx"
    networks = ["--detectors", "--detector_model", f"retinaface={network}", "--embedder", str(embedder)]
    few = ["--num_images", "6", "--speed_images", "2", "--repeats", "1"]
    face_detection.main(face_detection.parse_args([*folders, *networks, *few]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("retinaface ")]
    assert lines[0][1] == "6/6" and lines[0][3] == "6/6" and 1 < float(lines[0][4]) < 8  # % of the pupil distance
    assert all(float(line[4]) < 2 for line in lines[1:])  # landmarks apart, % of the eye distance


def test_fidelity_of_a_few_conditions(tmp_path, capsys, monkeypatch):
    plan = {"NUM_CONDITIONS": 6, "NUM_TRAINING_IMAGES": 24, "PEOPLE_PER_CONDITION": 3, "SIDE_PX": 128, "N_BOOT": 50}
    plan |= {"TRUE_MEAN_DRAWS": 20, "NUM_SPEED_IMAGES": 20, "NUM_INCUMBENT_IMAGES": 2, "SPEED_REPEATS": 1}
    for name, value in plan.items():
        monkeypatch.setattr(fidelity_auc, name, value)
    fidelity_auc.main(fidelity_auc.parse_args(["--part", "tuning", "--cache_dir", str(tmp_path)]))
    printed = capsys.readouterr().out
    assert printed.startswith("SIMULATED, tuning: 24 training photographs, 18 of other people")
    truth, paper = (
        float(re.search(rf"^ *{name}.*?([01]\.\d+)", printed, re.MULTILINE)[1])
        for name in ("true parameters, distance to true mean", "paper, cosine")
    )
    assert truth > 0.9 and truth > paper


def test_filtered_training_attacks_and_trains_with_three_selections_of_equal_size(tmp_path, capsys, monkeypatch):
    plan = {"NUM_READ_PEOPLE": 20, "NUM_ERROR_PEOPLE": 10, "OTHERS_PER_CONDITION": 2, "LEAST_R2": -1e9}
    for name, value in plan.items():
        monkeypatch.setattr(filtered_training, name, value)
    monkeypatch.setattr(filtered_training, "launch", launch_here)
    sizes = "--num_conditions 3 --num_photographs 24 --seeds 0 --num_images 2 --per_class 1"
    folders = ["--work_dir", tmp_path / "work", "--results_dir", tmp_path / "results"]
    run(filtered_training, *folders, *sizes.split(), "--max_train_steps", 1, "--overfitting_steps", 1)
    printed = capsys.readouterr().out
    overfitted, demo, training = (
        json.loads((tmp_path / "results" / f"{name}.json").read_text()) for name in ("overfitted", "seed0", "training")
    )
    assert overfitted["n_source_photographs"] == 3 < demo["n_source_photographs"]
    assert "at least 10 of each" in overfitted["attack"]["before filtering"]  # too few people here
    for record in (overfitted, demo):
        assert sum(record["rejected"].values()) + record["n_kept"] == record["n_images"] == 6
        assert record["memorised"]["n"] + record["memorised"]["n_others"] == 6
    assert [(row["a"], row["b"]) for row in training["differences"]][-1] == ("random", "ours")
    scored = load_synthetic(str(tmp_path / "work" / "seed0" / "filtered"))
    count = training["selections"]["0"]["n_images"]
    assert 0 < count == sum(scored["kept"][:]) <= 3
    best = sorted(value for value in scored["cosine"][:] if value is not None)[-count:]
    chosen = load_synthetic(str(tmp_path / "work" / "seed0" / "by_cosine"))["synthetic_id"][:]
    cosine_of = dict(zip(scored["synthetic_id"][:], scored["cosine"][:], strict=True))
    assert sorted(cosine_of[image] for image in chosen) == best
    for arm in ("ours", "paper", "random"):
        (fold,) = json.loads((tmp_path / "work" / "seed0" / arm / "run.json").read_text())["folds"]
        assert fold["synthetic"]["n_train"] == count
    assert re.search(r"top-1 of random -> ours", printed)


def test_synthetic_only_has_a_generator_with_the_leak_that_training_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(synthetic_only, "launch", launch_here)

    def refused(args) -> str:
        """As synthetic_only.refused, in this process."""
        flags = ["--dataset_name", args.work_dir / "rdface-sim", "--backbone", BACKBONE, "--fold", 0]
        flags += ["--synthetic_dataset", args.work_dir / "images of A and B" / "fold0" / "synthetic"]
        flags += ["--cache_dir", args.work_dir / "pixels", "--output_dir", args.work_dir / "refused"]
        assert exit_status(train_classifier, *flags) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    monkeypatch.setattr(synthetic_only, "refused", refused)
    sizes = ["--num_conditions", 2, "--people_per_part", 2, "--max_train_steps", 1, "--num_images", 2]
    run(synthetic_only, "--work_dir", tmp_path / "work", "--results_dir", tmp_path / "results", *sizes)
    results = json.loads((tmp_path / "results" / "simulated.json").read_text())
    assert "is not on the training side" in results["refused_by_train_classifier"]
    assert {arm: of["n"] for arm, of in results["arms"].items()} == dict.fromkeys(results["arms"], 8) | {
        "as many people": 4  # only B is tested
    }
    assert results["n_kept"] == 2 and len(results["differences"]) == 6
    sources = {}
    for generator in synthetic_only.SEEN:
        images = load_synthetic(str(tmp_path / "work" / f"images of {generator}" / "fold0" / "synthetic"))
        sources[generator] = {image for row in images["source_image_ids"][:] for image in row}
    assert len(sources["A"]) == 4 and sources["A"] | sources["B"] == sources["A and B"]
    assert sources["A and others"] & sources["B"] == set() and len(sources["A and others"]) == 8
