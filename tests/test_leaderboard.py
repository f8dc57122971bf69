"""The leaderboard of any runs, and a run's scores in the forms of the Hub and of Every Eval Ever."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from in_process import exit_status
from test_metrics import as_table

import make_report
import score_runs
from scoring import hub_results, leaderboard, run_scores
from scoring.score_tables import method_of

SCHEMA = Path(__file__).parent / "every_eval_ever" / "eval.schema.json"


def finished(folder: Path, skill: float, recipe: str = "linear_probe", seed: int = 0, **record: object) -> Path:
    """A finished run of 60 images and 8 conditions; skill: how much the right condition is favoured."""
    labels, rng = np.arange(60) % 8, np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(8), 60) + skill * np.eye(8)[labels]
    table = as_table(probabilities / probabilities.sum(axis=1, keepdims=True), labels, recipe=recipe)
    folder.mkdir()
    table.to_parquet(folder / "predictions.parquet")
    (folder / "results.json").write_text(json.dumps(run_scores.score(table)))
    (folder / "run.json").write_text(json.dumps({"arguments": {"dataset_name": "data/rdface-sim"}} | record))
    return folder


def printed(capsys, *runs: Path) -> tuple[int, str, str]:
    status = exit_status(make_report, "leaderboard", *runs)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_runs_are_listed_by_protocol_and_regime_with_intervals_and_published_rows(tmp_path, capsys):
    good, poor = finished(tmp_path / "good", 0.6), finished(tmp_path / "poor", 0.05, seed=1)
    few = finished(tmp_path / "few", 0.2, "linear_probe, 2-shot, + 60 synthetic (dreambooth)", seed=2)
    status, out, _ = printed(capsys, poor, few, good)
    assert status == 0
    strict, of_few, rest = out.partition("### strict: 2-shot, + 60 synthetic (dreambooth)")
    assert strict.startswith("### strict: all images") and of_few and "### paper: all images" in rest
    assert strict.index("| good |") < strict.index("| poor |")  # the best first
    top1 = json.loads((good / "results.json").read_text())["metrics"]["top1"]
    assert "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**{k: 100 * top1[k] for k in ("mean", "low", "high")}) in strict
    assert "rdface-sim (SIMULATED)" in strict
    assert "| seeds | chance | top1 |" in strict and strict.count("| 12.50 | ") == 2, "of 8 conditions"
    published = next(line for line in rest.splitlines() if "densenet169" in line)
    assert "published" in published and "15.93 ± 2.34" in published and "[" not in published
    pairs = [line for line in rest.splitlines() if line.startswith("| strict, 60 images")]
    assert len(pairs) == 3  # all three tested the same images
    assert "| family | run | less run | points |" in rest
    of_good = next(line.split("|")[2:5] for line in pairs if "good" in line and "poor" in line)
    expected = (0.6, 0.05) if of_good[0].strip() == "good" else (0.05, 0.6)
    assert (float(of_good[2].split()[0]) > 0) == (expected[0] > expected[1]), "run less run"
    p_values, corrected = np.array([[float(cell) for cell in line.split("|")[-3:-1]] for line in pairs]).T
    assert (corrected >= p_values).all() and corrected.max() <= 1 and (corrected > p_values).any()


def test_runs_that_tested_other_images_or_labels_are_not_compared(tmp_path):
    a, b = finished(tmp_path / "a", 0.3), finished(tmp_path / "b", 0.3)
    table = pd.read_parquet(b / "predictions.parquet")
    table["label"] = np.roll(table["label"], 1)  # as with shuffled labels
    table.to_parquet(b / "predictions.parquet")
    (b / "results.json").write_text(json.dumps(run_scores.score(table)))
    assert leaderboard.differences([leaderboard.read_entry(folder) for folder in (a, b)]) == []


def test_runs_of_different_photographs_are_not_compared_though_their_images_have_the_same_ids(tmp_path, capsys):
    of_a, of_b = ({"dataset": {"photographs": clinic * 16, "fingerprint": clinic}} for clinic in "ab")
    restored = {"dataset": of_a["dataset"] | {"fingerprint": "r", "config_name": "restored"}}
    old = {"dataset": {"fingerprint": "b"}}  # from before photographs were recorded
    of_no_record = {"dataset": "what another tool wrote"}
    records = {"a": of_a, "restored": restored, "b": of_b, "old": old, "foreign": of_no_record}
    runs = {
        name: finished(tmp_path / name, 0.2, seed=seed, **record) for seed, (name, record) in enumerate(records.items())
    }

    def families(*names: str) -> dict[tuple[str, str], dict]:
        entries = [leaderboard.read_entry(runs[name]) for name in names]
        return {(pair["a"], pair["b"]): pair for pair in leaderboard.differences(entries)}

    assert list(families(*runs)) == [("a", "restored"), ("b", "old")]
    assert all(pair["n_comparisons"] == 1 and pair["same_photographs"] for pair in families(*runs).values())
    (pair,) = families("a", "foreign").values()
    assert pair["same_photographs"] is None
    assert "### Differences of top-1 on the same test images" in printed(capsys, runs["a"], runs["restored"])[1]
    assert "### Differences of top-1 on test images of the same ids" in printed(capsys, runs["a"], runs["foreign"])[1]

    assert exit_status(score_runs, "compare", runs["foreign"], runs["a"], "--more_b", runs["b"]) == 2
    assert exit_status(score_runs, "compare", runs["a"], runs["b"] / "predictions.parquet") == 2
    first, second = capsys.readouterr().err.splitlines()
    for line in (first, second):
        assert "were made of different photographs, whatever their image_ids say; compare runs of one dataset" in line
    assert exit_status(score_runs, "compare", runs["a"], runs["restored"]) == 0
    out = capsys.readouterr().out
    assert "No record says" not in out
    assert f"\nA: {runs['a']}: tiny, linear_probe, 1 seed\nB: {runs['restored']}: tiny, linear_probe, 1 seed\n" in out
    of_folds = {"runs": ["x"], "backbone": "tiny", "recipe": "finetune", "seeds": [0, 1, 2], "n_replicates": 15}
    assert method_of(of_folds) == "x: tiny, finetune, mean of 15 models of 3 seeds"


def test_results_of_another_kind_need_no_predictions(tmp_path):
    metrics = {"accuracy": {"mean": 0.4, "low": 0.3, "high": 0.5}}
    results = {"protocol": "strict", "backbone": "tiny", "recipe": "frozen", "n_way": 5, "k_shot": 1}
    (tmp_path / "results.json").write_text(json.dumps(results | {"metrics": metrics}))
    entry = leaderboard.read_entry(tmp_path)
    assert entry.regime == "5-way 1-shot episodes" and entry.data == "real or simulated: not recorded"
    assert "40.00 [30.00, 50.00]" in leaderboard.format_leaderboard([entry])


def test_transductive_results_stand_in_a_table_of_their_own(tmp_path):
    for name, head, mean in (("one", "discriminant", 0.4), ("all", "pt_map, transductive", 0.9)):
        (tmp_path / name).mkdir()
        results = {"protocol": "strict", "backbone": "tiny", "recipe": f"{head}, 5-way 1-shot frozen"}
        results |= {"n_way": 5, "k_shot": 1, "metrics": {"top1": {"mean": mean, "low": None, "high": None}}}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    table = leaderboard.format_leaderboard([leaderboard.read_entry(tmp_path / name) for name in ("one", "all")])
    first, second = [part for part in table.split("### ") if part.startswith("strict")]
    assert first.startswith("strict: 5-way 1-shot episodes, frozen\n") and "| one |" in first
    assert second.splitlines()[0].endswith("transductive, frozen") and "| all |" in second
    assert "| all |" not in first and "| one |" not in second


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "{}\n{}", "\x00", '{"protocol": "strict"}'])
def test_a_results_file_that_is_damaged_is_refused_in_one_line(tmp_path, capsys, content):
    (tmp_path / "results.json").write_text(content)
    status, out, error = printed(capsys, tmp_path)
    assert (status, out) == (2, "") and error.count("\n") == 1 and "results.json" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.clear(), "lacks protocol, backbone, recipe or metrics"),
        (lambda r: r.update(metrics={"top1": 0.4}), "lacks protocol, backbone, recipe or metrics"),
        (lambda r: r["metrics"]["top1"].update(mean="high"), "lacks protocol, backbone, recipe or metrics"),
        (lambda r: r["metrics"]["top5"].update(mean=float("nan")), "lacks protocol, backbone, recipe or metrics"),
        (lambda r: r["metrics"]["top5"].update(high=True), "lacks protocol, backbone, recipe or metrics"),
        (lambda r: r["metrics"]["top5"].update(sd="small"), "lacks protocol, backbone, recipe or metrics"),
        (lambda r: r.update(recipe=["linear_probe"]), "lacks protocol, backbone, recipe or metrics"),
        (lambda r: r["metrics"]["top1"].update(mean=0.99), "says top1 0.9900, but predictions.parquet gives"),
    ],
)
def test_results_that_cannot_be_trusted_are_refused(tmp_path, capsys, change, message):
    run = finished(tmp_path / "run", 0.3)
    results = json.loads((run / "results.json").read_text())
    change(results)
    (run / "results.json").write_text(json.dumps(results))
    status, _, error = printed(capsys, run)
    assert status == 2 and message in error and error.count("\n") == 1


def test_folders_without_results_and_runs_of_one_name_are_refused(tmp_path, capsys):
    assert "holds no results.json" in printed(capsys, tmp_path)[2]
    run = finished(tmp_path / "run", 0.3)
    (tmp_path / "other").mkdir()
    assert "two runs are called run" in printed(capsys, run, finished(tmp_path / "other" / "run", 0.4))[2]


def export(tmp_path: Path, run: Path, dataset_id: str = "lab/rdface-sim", model_id: str = "lab/probe") -> int:
    names = ["--dataset_id", dataset_id, "--model_id", model_id, "--output_dir", tmp_path / "out"]
    return exit_status(score_runs, "export", run, *names)


def test_the_hub_reads_the_exported_scores(tmp_path):
    run = finished(tmp_path / "run", 0.4)
    assert export(tmp_path, run) == 0
    tasks = yaml.safe_load((tmp_path / "out" / "eval.yaml").read_text())["tasks"]
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / "out/.eval_results/rdface-sim.yaml").read_text()))
    scores = json.loads((run / "results.json").read_text())["metrics"]
    assert {entry.task_id: entry.value for entry in entries} == {
        f"strict_{name}": round(100 * scores[name]["mean"], 2) for name in ("top1", "top5")
    }
    assert {entry.task_id for entry in entries} < {task["id"] for task in tasks}
    assert all(entry.dataset_id == "lab/rdface-sim" and "SIMULATED" in entry.notes for entry in entries)


def test_the_record_follows_the_schema_of_every_eval_ever_and_names_no_image(tmp_path):
    assert export(tmp_path, finished(tmp_path / "run", 0.4, git_commit="abc")) == 0
    text = (tmp_path / "out" / "every_eval_ever.json").read_text()
    record, schema = json.loads(text), json.loads(SCHEMA.read_text())
    jsonschema.Draft7Validator(schema).validate(record)
    assert schema["version"] == record["schema_version"] == hub_results.SCHEMA_VERSION
    assert record["eval_library"]["version"] == "abc"
    assert {result["evaluation_result_id"] for result in record["evaluation_results"]} == {
        *("top1", "top5", "macro_f1", "balanced_accuracy", "mrr", "nll", "ece", "smece", "aurc")
    }
    top1 = record["evaluation_results"][0]["score_details"]
    interval = top1["uncertainty"]["confidence_interval"]
    assert interval["lower"] < top1["score"] < interval["upper"]
    methods = {
        result["evaluation_result_id"]: result["score_details"]["uncertainty"]["confidence_interval"]["method"]
        for result in record["evaluation_results"]
    }
    assert all("percentile bootstrap" in methods[name] for name in ("top1", "top5", "mrr", "nll", "smece"))
    assert all("bias of a bootstrap" in methods[name] for name in ("macro_f1", "balanced_accuracy", "ece"))
    assert "logit" in methods["aurc"] and "Wilson" in methods["top1"]
    assert "A.1" not in text
    del record["evaluation_results"][0]["metric_config"]["max_score"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(record)


def test_a_run_of_one_fold_is_marked(tmp_path, capsys):
    whole, part = finished(tmp_path / "whole", 0.6), finished(tmp_path / "part", 0.6, arguments={"fold": 1})
    results = {"protocol": "strict", "backbone": "b", "recipe": "cosine, 5-way 1-shot frozen", "n_way": 5, "k_shot": 1}
    results["metrics"] = {"top1": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    for name, fold in (("of_all", None), ("of_one", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        (tmp_path / name / "run.json").write_text(json.dumps({"arguments": {"fold": fold}}))
    status, out, _ = printed(capsys, whole, part, tmp_path / "of_all", tmp_path / "of_one")
    methods = [line.split(" | ")[1] for line in out.splitlines() if line.startswith(("| whole", "| part", "| of_"))]
    assert status == 0 and sorted(methods) == [
        *("b, cosine", "b, cosine, fold 0 only"),
        *("tiny, linear_probe", "tiny, linear_probe, fold 1 only"),
    ]
    assert "### strict: 5-way 1-shot episodes, frozen\n" in out
    assert "Runs of episodes have no differences here; score_runs.py compare gives those of two." in out


@pytest.mark.parametrize(
    ("record", "dataset_id", "message"),
    [
        ({}, "lab/rdface", "these scores are of SIMULATED images"),
        ({"simulated": True}, "lab/rdface", "these scores are of SIMULATED images"),
        ({"simulated": False}, "lab/rdface-sim", "these scores are of real images"),
        ({}, "rdface-sim", "is not ORG/NAME"),
    ],
)
def test_simulated_scores_are_not_reported_as_real_ones(tmp_path, capsys, record, dataset_id, message):
    assert export(tmp_path, finished(tmp_path / "run", 0.4, **record), dataset_id) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("of_table", "record", "message"),
    [
        ({"recipe": "linear_probe, shuffled labels"}, {}, "was trained on shuffled labels, as a control"),
        ({"recipe": "linear_probe, 0-shot", "unseen": True}, {}, "is of --k_shot 0"),
        ({"fold": 3}, {}, "tests fold 3 alone, 60 images; run all folds"),
        ({"fold": 3, "protocol": "paper"}, {"arguments": {"fold": 3}}, "tests fold 3 alone, 60 images"),
        ({"recipe": "linear_probe, 10-shot"}, {}, None),
        ({"fold": 0, "protocol": "paper", "recipe": "submission"}, {"arguments": {"fold": None}}, None),
    ],
)
def test_parts_and_controls_are_not_exported(tmp_path, capsys, of_table, record, message):
    run = finished(tmp_path / "run", 0.4, **record)
    pd.read_parquet(run / "predictions.parquet").assign(**of_table).to_parquet(run / "predictions.parquet")
    assert export(tmp_path, run, "lab/rdface" if record else "lab/rdface-sim") == (2 if message else 0)
    if message:
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and not (tmp_path / "out").exists()
