"""train_fewshot.py: each mode from the command line to its files, resumed and repeated, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import exit_status
from test_synthetic_mix import CLASS_NAMES, made_from, saved
from test_train_classifier import larger_rdface, painted_faces, pixels_dir, save_dataset, tiny_backbone  # noqa: F401

import score_runs
import train_fewshot
from benchmarks import few_shot, few_shot_speed
from classification.episodes import accuracy_interval
from classification.knowledge_choice import PRIOR_WEIGHTS
from classification.recipes import PRIOR_WEIGHT
from classification.synthetic_teachers import mean_images
from curation import protocols
from curation.opening import load_images
from scoring import leaderboard, prediction_files, run_scores


@pytest.fixture(scope="module")
def study(larger_rdface, tiny_backbone, pixels_dir) -> tuple:  # noqa: F811
    """Flags of a study of eight conditions with eight photographs each, and one with a single photograph."""
    return (*inputs(larger_rdface, tiny_backbone, pixels_dir), "--n_way", 3, "--test_episodes", 20)


@pytest.fixture(scope="module")
def gallery(larger_rdface, tiny_backbone, pixels_dir) -> tuple:  # noqa: F811
    """Flags of a retrieval in the same photographs."""
    return (*inputs(larger_rdface, tiny_backbone, pixels_dir), "--mode", "gallery")


def inputs(dataset: Path, backbone: Path, pixels: Path) -> tuple:
    return ("--dataset_name", dataset, "--backbone", backbone, "--cache_dir", pixels)


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_frozen_features_answer_and_the_list_run_again_gives_the_same_to_the_last_digit(study, tmp_path):
    assert exit_status(train_fewshot, *study, "--output_dir", tmp_path / "a") == 0
    results, episodes = results_of(tmp_path / "a"), pd.read_parquet(tmp_path / "a" / "episodes.parquet")
    assert json.loads((tmp_path / "a" / "run.json").read_text())["simulated"] is True
    assert leaderboard.read_entry(tmp_path / "a").data.endswith("(SIMULATED)") and results["transductive"] is False
    assert results["n_episodes"] == 40 and len(episodes) == 120  # two folds of four conditions
    assert results["chance"] == pytest.approx(1 / 3) and results["simulated"] is True
    assert set(results["heads"]) == {"cosine", "centred_mean", "shrunken_centroid", "discriminant"}
    assert results["metrics"]["top1"]["mean"] == episodes["right_discriminant"].mean() > 0.6
    for row in episodes.itertuples():
        shown = {image_id.replace(".2", ".1") for image_id in row.support}  # the first two show one person
        assert row.query.replace(".2", ".1") not in shown
    predictions = prediction_files.read_predictions(tmp_path / "a")
    assert predictions["image_id"].nunique() == results["n_test"] == episodes["query"].nunique()
    with pytest.raises(ValueError, match="few-shot episodes"):
        run_scores.score(predictions)
    assert exit_status(train_fewshot, *study, "--output_dir", tmp_path / "b") == 0
    assert results_of(tmp_path / "b") == results
    assert pd.read_parquet(tmp_path / "b" / "episodes.parquet").equals(episodes)
    assert exit_status(train_fewshot, *study, "--output_dir", tmp_path / "c", "--seed", 1) == 0
    assert not pd.read_parquet(tmp_path / "c" / "episodes.parquet")["query"].equals(episodes["query"])


def assert_runs_are_compared_question_by_question(
    home: Path, trained: pd.DataFrame, frozen: pd.DataFrame, capsys: pytest.CaptureFixture
) -> None:
    """By score_runs.py compare, which names the run that it cannot compare. home: with the runs t and f."""
    capsys.readouterr()
    assert exit_status(score_runs, "compare", home / "t", home / "f", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    gain = (frozen["right_discriminant"] - trained["right_prototypes"]).to_numpy()
    low, high = accuracy_interval((gain + 1) / 2, trained["label"].to_numpy(), trained["subject"].tolist())
    assert found["metrics"]["top1"]["difference"] == pytest.approx(gain.mean()) and found["n_questions"] == 120
    assert (found["metrics"]["top1"]["low"], found["metrics"]["top1"]["high"]) == (2 * low - 1, 2 * high - 1)
    assert exit_status(score_runs, "compare", home / "t" / "predictions.parquet", home / "f") == 0
    shown = capsys.readouterr().out
    assert "protocol strict, 3-way 1-shot episodes: 120 questions on" in shown and f"{100 * gain.mean():+.2f}" in shown
    other, gallery = (shutil.copytree(home / "f", home / name) for name in ("other", "gallery"))
    pd.concat([frozen[1:], frozen[:1].assign(query="XXX.1")]).to_parquet(other / "episodes.parquet")
    (gallery / "results.json").write_text("{}")
    for command, said in (
        (("compare", home / "f", other), "were not asked the same questions (119 of 120 are the same); run both with"),
        (
            ("compare", home / "f", gallery),
            f"{gallery}: is no run of few-shot episodes, and cannot be compared with one",
        ),
        (
            ("compare", home / "f", home / "t", "--more_b", home / "t"),
            "answer the same questions; give runs of one side",
        ),
        (("score", home / "f"), f"{home / 'f'}: is a run of few-shot episodes, each of which asks among its own"),
    ):
        assert exit_status(score_runs, *command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_training_answers_the_same_episodes_as_frozen_features_and_resumes(study, tmp_path, capsys):
    training = (*study, "--mode", "train", "--num_train_epochs", 2, "--train_episodes", 5)
    resume = ("--resume_from_checkpoint", "latest")
    assert exit_status(train_fewshot, *training, "--output_dir", tmp_path / "t", *resume) == 0
    said = f"{tmp_path / 't'}: no earlier run lies here, so --resume_from_checkpoint starts a new one"
    assert said in capsys.readouterr().out.splitlines()
    assert exit_status(train_fewshot, *study, "--output_dir", tmp_path / "f") == 0
    trained, frozen = (pd.read_parquet(tmp_path / name / "episodes.parquet") for name in ("t", "f"))
    assert trained["query"].equals(frozen["query"]) and "right_prototypes" in trained
    record = json.loads((tmp_path / "t" / "run.json").read_text())
    assert [len(fold["learning_curve"]) for fold in record["folds"]] == [2, 2]
    assert len(record["dataset"]["photographs"]) == 16, "as a classifier's record, so that runs can be compared"
    assert_runs_are_compared_question_by_question(tmp_path, trained, frozen, capsys)
    before = results_of(tmp_path / "t")
    (tmp_path / "t" / "folds" / "seed0_fold1" / "predictions.parquet").unlink()
    assert "no earlier run lies here" not in capsys.readouterr().out
    assert exit_status(train_fewshot, *training, "--output_dir", tmp_path / "t", *resume) == 0
    assert results_of(tmp_path / "t") == before
    out = capsys.readouterr().out
    assert "(1 done before)" in out and "no earlier run lies here" not in out


def test_going_on_with_the_same_weights_and_another_input_is_refused(study, tiny_backbone, tmp_path, capsys):  # noqa: F811
    backbone = shutil.copytree(tiny_backbone, tmp_path / "backbone")
    flags = (*study, "--backbone", backbone, "--test_episodes", 2, "--output_dir", tmp_path / "run")
    assert exit_status(train_fewshot, *flags, "--fold", 0) == 0
    config = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps(config | {"face_alignment": "mtcnn"}))
    assert exit_status(train_fewshot, *flags, "--resume_from_checkpoint", "latest") == 2
    assert "was started with input_face_alignment [None], not ['mtcnn']" in capsys.readouterr().err


def test_a_gallery_ranks_every_held_out_photograph_by_every_method(gallery, tmp_path):
    flags = (*gallery, "--views", 2, "--frequent_from", 7)
    assert exit_status(train_fewshot, *flags, "--output_dir", tmp_path / "g") == 0
    results, ranked = results_of(tmp_path / "g"), pd.read_parquet(tmp_path / "g" / "episodes.parquet")
    methods = {"nearest_image", "discriminant", "whitened_cosine", "unseen_discriminant"}
    assert set(results["methods"]) == methods
    assert results["methods"]["whitened_cosine"]["joined"]["all"]["top1"]["mean"] > 0.5
    joined = results["methods"]["discriminant"]["joined"]
    assert joined["all"]["n"] == results["n_test"] == 64 and joined["frequent"]["n"] == 64
    assert joined["all"]["top1"]["mean"] == pytest.approx(results["metrics"]["top1"]["mean"])
    assert joined["all"]["top1"]["mean"] > 0.5
    assert joined["all"]["n_ranked"] == 9 and joined["all"]["chance"] == pytest.approx(1 / 9)  # eight and ONE
    assert joined["all"]["top30"]["mean"] is None  # of fewer conditions
    assert (ranked.query("gallery == 'joined' and method == 'nearest_image'")["query"].value_counts() == 1).all()
    assert prediction_files.read_predictions(tmp_path / "g")["split"].eq("test").all()
    table = tmp_path / "g" / "folds" / "seed0_fold0" / "episodes.parquet"
    pd.read_parquet(table).drop(columns="n_ranked").to_parquet(table)  # of a version that did not record it
    assert exit_status(train_fewshot, *flags, "--output_dir", tmp_path / "g", "--resume_from_checkpoint", "latest") == 0
    assert results_of(tmp_path / "g") == results and "n_ranked" in pd.read_parquet(table)


def test_a_backbone_of_simulated_faces_is_warned_of(gallery, tiny_backbone, tmp_path, capsys):  # noqa: F811
    photographs = save_dataset(tmp_path / "own", [row | {"source_type": "clinic"} for row in painted_faces(10)])
    demo = Path(train_fewshot.__file__).parent / "demo_models" / "backbone"
    flags = ("--fold", 0, "--backbone", tiny_backbone, demo, "--align_faces", "none")
    for dataset, n_warned in (((), 0), (("--dataset_name", photographs), 1)):
        assert exit_status(train_fewshot, *gallery, *flags, *dataset, "--output_dir", tmp_path / str(n_warned)) == 0
        warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING: ")]
        assert len(warned) == n_warned and all(
            "backbone was trained on simulated faces alone" in line for line in warned
        )
        recorded = json.loads((tmp_path / str(n_warned) / "run.json").read_text())["warnings"]
        assert [f"WARNING: {warning}" for warning in recorded] == warned


def test_heads_that_nothing_can_teach_how_faces_vary_are_warned_of(study, tmp_path, capsys):
    reason = "no training condition of fold 0 has two images, which would show how faces vary"
    warning = f"{reason}: the heads' settings are not chosen, and the discriminant answers like centred_mean; give a "
    warning += "smaller --n_way"
    # Of eight conditions that can be asked for, 4-way episodes leave four to train, and 5-way episodes leave none.
    for flags, expected in (
        (("--n_way", 4), []),
        (("--n_way", 5), [warning]),
        (("--n_way", 5, "--head", "pt_map"), []),
    ):
        out = tmp_path / "_".join(map(str, flags))
        assert exit_status(train_fewshot, *study, "--test_episodes", 2, *flags, "--output_dir", out) == 0
        assert json.loads((out / "run.json").read_text())["warnings"] == expected
        shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING: ")]
        assert shown == [f"WARNING: {line}" for line in expected]


def test_two_networks_are_an_ensemble_and_the_published_gallery_is_one(
    study,
    gallery,
    tiny_backbone,  # noqa: F811
    tmp_path,
    capsys,
):
    two = ("--backbone", tiny_backbone, "torchvision/shufflenet_v2_x0_5", "--backbone_weights", "own")
    assert exit_status(train_fewshot, *study, *two, "--output_dir", tmp_path / "x") == 2  # one file for two
    capsys.readouterr()
    flags = (*gallery, "--protocol", "paper", "--output_dir", tmp_path / "p")
    assert exit_status(train_fewshot, *flags, "--backbone", tiny_backbone, tiny_backbone) == 2
    assert f"{tiny_backbone} is named twice with the same weights, which is no ensemble" in capsys.readouterr().err
    other = shutil.copytree(tiny_backbone, tmp_path / "other")
    assert exit_status(train_fewshot, *flags, "--backbone", tiny_backbone, other) == 0
    assert results_of(tmp_path / "p")["n_test"] == 16


def test_refusals_take_one_line(study, tmp_path, capfd):
    out = ("--output_dir", tmp_path / "r")
    for flags, said in (
        (("--n_way", 9), "9-way 1-shot needs 9 conditions"),
        (("--k_shot", 8), "8-shot needs 3 conditions with 8 photographs"),
        (("--protocol", "paper", "--n_way", 2), "fold 0, test conditions: 2-way 1-shot episodes cannot be drawn"),
        (
            ("--protocol", "paper", "--n_way", 2),
            "since --protocol paper tests a fifth of the conditions with two images",
        ),
        (("--protocol", "paper", "--k_shot", 5), "tests 1-shot"),
        (("--mode", "train", "--views", 2), "--views, --head, --knowledge and --synthetic_as require"),
        (("--mode", "gallery", "--seed", 0, 1), "draws nothing"),
        (("--fold", 2), "there are 2 folds of conditions"),
        (("--head", "discriminant_with_terms"), "require --knowledge terms"),
        (("--backbone", "nobody.onnx"), "no such file"),
        (("--backbone", "nobody.onnx", "--views", 10), "require backbones other than .onnx"),
        (("--ensemble", "chosen"), "requires several backbones"),
        (("--synthetic_in", "support"), "require --synthetic_dataset"),
        (("--synthetic_as", "prior"), "require --synthetic_dataset"),
        (("--synthetic_in", "support", "--mode", "gallery"), "requires --mode frozen and --protocol strict"),
        (("--head", "pt_map", "--knowledge", "terms"), "uses no terms"),
        (("--head", "pt_map", "--mode", "gallery"), "has methods of its own"),
        (("--knowledge", "terms"), "none of the dataset's conditions is annotated"),
    ):
        assert exit_status(train_fewshot, *study, *flags, *out) == 2, flags
        line = capfd.readouterr().err.strip().splitlines()[-1]
        assert said in line, line
    assert not (tmp_path / "r" / "results.json").exists()


def test_options_that_a_mode_does_not_use_are_refused_unless_they_are_the_default(capsys):
    train_only = ("--num_train_epochs", 2, "--train_episodes", 5, "--learning_rate", 0.1)
    for flags, said in (
        (("--mode", "gallery", "--n_way", 3, "--k_shot", 2), "--n_way and --k_shot have no effect with --mode gallery"),
        (
            ("--mode", "gallery", "--test_episodes", 5),
            "has no effect with --mode gallery; leave it out, or give --mode tr",
        ),
        (
            ("--mode", "frozen", *train_only),
            "--num_train_epochs and --train_episodes and --learning_rate have no effect",
        ),
        (
            ("--mode", "frozen", "--frequent_from", 3),
            "--frequent_from has no effect with --mode frozen; leave it out, or",
        ),
        (("--mode", "train", "--frequent_from", 3), "out, or give --mode gallery"),
    ):
        assert exit_status(train_fewshot, "--dataset_name", "d", "--backbone", "b", "--output_dir", "o", *flags) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    needed = ["--dataset_name", "d", "--backbone", "b", "--output_dir", "o", "--mode", "gallery"]
    assert train_fewshot.parse_args([*needed, "--n_way", "5"]).n_way == 5, "as commands on pages say it"


def test_five_shots_where_the_photographs_allow(study, tmp_path):
    assert exit_status(train_fewshot, *study, "--k_shot", 5, "--output_dir", tmp_path / "k") == 0
    episodes = pd.read_parquet(tmp_path / "k" / "episodes.parquet")
    assert (episodes["support"].map(len) == 15).all()
    assert np.isfinite(results_of(tmp_path / "k")["metrics"]["top1"]["low"])


def test_synthetic_images_fill_up_training_conditions_if_they_saw_no_tested_one(study, tmp_path):
    rows = painted_faces(8)
    made = []
    for abbreviation in CLASS_NAMES[:8]:  # a generator per condition, which saw fold 0's training side of it
        seen = [n for n, row in enumerate(rows) if row["label"] == abbreviation and row["strict_fold"] != 0]
        side = protocols.Fold(0, np.array(seen), np.array([], int), np.array([], int))
        made += [image for image in made_from([side], rows, 4) if image["label"] == abbreviation]
    of_each = saved(tmp_path / "of-each", made)
    for mode, short in (("frozen", ()), ("train", ("--num_train_epochs", 1, "--train_episodes", 2))):
        flags = ("--mode", mode, *short, "--synthetic_dataset", of_each)
        assert exit_status(train_fewshot, *study, *flags, "--output_dir", tmp_path / mode) == 0
    record = json.loads((tmp_path / "frozen" / "run.json").read_text())
    assert [fold["n_train"] for fold in record["folds"]] == [4 * 10 + 1] * 2  # four conditions filled up, and ONE
    asked = pd.read_parquet(tmp_path / "frozen" / "episodes.parquet")
    shown = {image_id for support in asked["support"] for image_id in support} | set(asked["query"])
    assert shown <= {row["image_id"] for row in rows}


def test_synthetic_images_of_a_generator_that_saw_tested_conditions_are_refused(study, tmp_path, capfd):
    rows = painted_faces(8)
    training = [n for n, row in enumerate(rows) if row["strict_fold"] != 0]
    side = protocols.Fold(0, np.array(training), np.array([], int), np.array([], int))
    of_all = saved(tmp_path / "of-all", made_from([side], rows, 1))
    flags = ("--synthetic_dataset", of_all, "--output_dir", tmp_path / "r")
    assert exit_status(train_fewshot, *study, *flags) == 2
    assert "made from the training conditions of fold 0 alone" in capfd.readouterr().err


def made_of_single_photographs(folder: Path, n: int = 2) -> Path:
    """Synthetic images of each condition by generators that saw one of its photographs each: its first n."""
    rows, made = painted_faces(8), []
    for abbreviation in CLASS_NAMES[:8]:
        own = [number for number, row in enumerate(rows) if row["label"] == abbreviation]
        for number in own[:n]:
            side = protocols.Fold(0, np.array([number]), np.array([], int), np.array([], int))
            images = [image for image in made_from([side], rows, 2) if image["label"] == abbreviation]
            made += [image | {"synthetic_id": f"{image['synthetic_id']}_{number}"} for image in images]
    return saved(folder, made)


def test_synthetic_images_stand_beside_the_photograph_that_they_were_made_from(study, tmp_path, capsys):
    of_one = made_of_single_photographs(tmp_path / "of-one")
    flags = (*study, "--synthetic_dataset", of_one, "--synthetic_in", "support")
    assert exit_status(train_fewshot, *study, "--output_dir", tmp_path / "without") == 0
    for use in ("data", "prior"):
        assert exit_status(train_fewshot, *flags, "--synthetic_as", use, "--output_dir", tmp_path / use) == 0
        record = json.loads((tmp_path / use / "run.json").read_text())
        episodes = pd.read_parquet(tmp_path / use / "episodes.parquet")
        first, uneven = {row["image_id"] for row in painted_faces(8) if row["image_id"].endswith((".1", ".2"))}, []
        for number, fold in enumerate(record["folds"]):
            of_fold = episodes[episodes["fold"] == number].drop_duplicates("episode")
            shown = [image_id in first for support in of_fold["support"] for image_id in support]
            assert fold["filled_supports"] == pytest.approx(np.mean(shown)) and 0 < np.mean(shown) < 1
            assert fold["n_train"] == 33  # photographs alone
            n_shown = np.array([sum(i in first for i in support) for support in of_fold["support"]])
            n_way = len(of_fold["support"].iloc[0])
            uneven.append(np.mean((n_shown > 0) & (n_shown < n_way)))
            assert fold["unevenly_filled_episodes"] == pytest.approx(uneven[-1]) and 0 < uneven[-1] < 1
        (warning,) = (text for text in record["warnings"] if "beside their support" in text)
        assert warning.startswith(f"in {np.mean(uneven):.0%} of the episodes only some conditions have")
        assert f"WARNING: {warning}" in capsys.readouterr().out
        assert f", + 32 synthetic (dreambooth) in support as {use}" in results_of(tmp_path / use)["recipe"]
    assert not json.loads((tmp_path / "without" / "run.json").read_text())["warnings"]
    tables = [pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("without", "data", "prior")]
    probabilities = [np.stack(table.sort_values("image_id")["probabilities"].tolist()) for table in tables]
    assert np.abs(probabilities[1] - probabilities[0]).max() > 1e-3
    assert np.abs(probabilities[2] - probabilities[1]).max() > 1e-3


def test_an_image_beside_a_support_must_say_truly_what_it_was_made_from(study, tmp_path, capfd):
    rows = painted_faces(8)
    side = protocols.Fold(0, np.array([0]), np.array([], int), np.array([], int))
    (honest, *_) = made_from([side], rows, 1)
    for change, said in (
        ({"source_sha256": [rows[1]["sha256"]]}, "was made from another photograph"),
        ({"source_image_ids": [], "source_sha256": []}, "names no source_image_ids"),
        ({"source_image_ids": ["NOBODY.1"]}, "which is not in the dataset"),
        ({"image": rows[9]["image"]}, "is a copy of image"),  # of somebody else
    ):
        folder = saved(tmp_path / said.replace(" ", "-"), [honest | change])
        flags = (*study, "--synthetic_dataset", folder, "--synthetic_in", "support", "--output_dir", tmp_path / "out")
        assert exit_status(train_fewshot, *flags) == 1, said
        assert said in capfd.readouterr().err


def test_synthetic_images_as_a_prior_are_no_images_of_a_gallery(gallery, larger_rdface, tmp_path):  # noqa: F811
    folds = protocols.folds(load_images(str(larger_rdface)), "strict")
    folder = saved(tmp_path / "of-folds", made_from(folds, painted_faces(8), 3))
    scores = {}
    for use in ("data", "prior"):
        flags = ("--synthetic_dataset", folder, "--synthetic_as", use)
        assert exit_status(train_fewshot, *gallery, *flags, "--output_dir", tmp_path / use) == 0
        ranked = pd.read_parquet(tmp_path / use / "episodes.parquet").query("gallery == 'joined'")
        scores[use] = {method: table.set_index("query")["rank"] for method, table in ranked.groupby("method")}
    assert exit_status(train_fewshot, *gallery, "--output_dir", tmp_path / "none") == 0
    alone = pd.read_parquet(tmp_path / "none" / "episodes.parquet")
    alone = alone.query("gallery == 'joined' and method == 'nearest_image'").set_index("query")["rank"]
    assert scores["prior"]["nearest_image"].equals(alone)


def test_what_a_prior_counts_as_is_said_as_it_is(capsys):
    assert exit_status(train_fewshot, "--help") == 0
    assert f"as {PRIOR_WEIGHT} of one; images made by words" in " ".join(capsys.readouterr().out.split())
    features, nothing_known = np.eye(4), np.zeros((2, 0))
    means = mean_images(features, np.array([0, 0, 1, 1]), np.arange(4), nothing_known, 0)
    assert (1 / means.noises == PRIOR_WEIGHT).all()
    text = (Path(train_fewshot.__file__).parent / "docs" / "fewshot.md").read_text(encoding="utf-8")
    assert text.count(str(PRIOR_WEIGHT)) == 3
    assert ", ".join(f"{weight:g}" for weight in PRIOR_WEIGHTS[:2]) + f" or {PRIOR_WEIGHTS[2]:g}" in text


def test_the_transductive_head_answers_alone_and_says_what_it_is(study, tmp_path, capsys):
    assert exit_status(train_fewshot, *study, "--head", "pt_map", "--output_dir", tmp_path / "t") == 0
    assert "TRANSDUCTIVE" in capsys.readouterr().out
    results = results_of(tmp_path / "t")
    assert results["transductive"] is True and set(results["heads"]) == {"pt_map"}
    assert results["recipe"].startswith("pt_map, transductive, ")
    assert leaderboard.read_entry(tmp_path / "t").regime.count("transductive") == 1
    predictions = pd.read_parquet(tmp_path / "t" / "predictions.parquet")
    assert np.stack(predictions["probabilities"].tolist()).sum(axis=1) == pytest.approx(1)


def test_the_benchmark_keeps_what_its_runs_found(study, larger_rdface, tiny_backbone, tmp_path, monkeypatch, capsys):  # noqa: F811
    def here(script: str, *arguments: object) -> None:
        assert script == "train_fewshot.py" and exit_status(train_fewshot, *arguments) == 0

    monkeypatch.setattr(few_shot, "run", here)
    monkeypatch.setattr(few_shot, "simulated", lambda *_: larger_rdface)
    monkeypatch.setattr(few_shot, "MINIATURE", str(tiny_backbone))
    places = ["--work_dir", str(tmp_path), "--results_dir", str(tmp_path / "results")]
    few_shot.main(few_shot.parse_args([*places, "--parts", "gallery"]))
    kept = json.loads((tmp_path / "results" / "simulated_gallery.json").read_text())
    assert kept["simulated"] is True and kept["methods"]["nearest_image"]["joined"]["all"]["n"] == 64
    assert "nearest_image" in capsys.readouterr().out


def test_the_benchmark_trains_each_network_as_long_as_its_help_says(tmp_path, monkeypatch, capsys):
    asked = {}

    def measure(args, name: str, dataset: Path, *flags: object) -> dict:
        asked[name] = " ".join(map(str, flags))
        return {"learning_curves": []}

    monkeypatch.setattr(few_shot, "measure", measure)
    monkeypatch.setattr(few_shot, "simulated", lambda *_: tmp_path)
    monkeypatch.setattr(few_shot, "random_weights", lambda *_: tmp_path / "random.pth")
    monkeypatch.setattr(few_shot, "compared", lambda *_: dict.fromkeys(("frozen_minus_trained", "low", "high"), 0))
    flags = ["--work_dir", str(tmp_path), "--results_dir", str(tmp_path), "--weights", "mobilenet_v2=m.pth", "--parts"]
    parts = ["trained_5way", "trained_15way", "mobilenet_v2", "longer_random_swin_t"]
    few_shot.main(few_shot.parse_args([*flags, *parts]))
    assert "--train_episodes" not in asked["simulated_trained_5way"] + asked["simulated_trained_15way"]
    assert "--fold" not in asked["simulated_trained_5way"] and "--fold 0" in asked["simulated_trained_15way"]
    assert asked["simulated_mobilenet_v2"].endswith("--fold 0 --train_episodes 30 --num_train_epochs 2")
    longer = asked["simulated_longer_random_swin_t"]
    assert "--backbone swin_t " in longer and longer.endswith("--fold 0 --train_episodes 60 --num_train_epochs 10")
    assert "--mode frozen --backbone swin_t " in asked["simulated_frozen_longer_random_swin_t"]
    with pytest.raises(SystemExit, match="--parts random_swin_t: unknown"):
        few_shot.main(few_shot.parse_args([*flags, "random_swin_t"]))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        few_shot.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "mobilenet_v2 (two epochs of 30 episodes), longer_random_swin_t, longer_random_vggface (ten" in text


def test_the_benchmark_compares_two_runs_question_by_question(tmp_path):
    asked = pd.DataFrame({"seed": 0, "fold": 0, "episode": [0, 0, 1, 1], "query": list("abcd")})
    for name, column, right in (("t", "right_prototypes", [1, 0, 0, 0.5]), ("f", "right_discriminant", [1, 1, 0, 1])):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        table = asked.assign(label=[0, 1, 2, 3], subject=list("wxyz"), **{column: right})
        table.sample(frac=1, random_state=1).to_parquet(folder / "episodes.parquet")
    args = few_shot.parse_args(["--work_dir", str(tmp_path), "--results_dir", str(tmp_path), "--parts", "x"])
    found = few_shot.compared(args, "t", "f")
    assert found["frozen_minus_trained"] == pytest.approx((1 + 0.5) / 4) and found["n_conditions"] == 4
    assert -1 <= found["low"] < found["frozen_minus_trained"] < found["high"] <= 1
    asked.assign(query=list("abce"), right_discriminant=1.0).to_parquet(tmp_path / "runs" / "f" / "episodes.parquet")
    (tmp_path / "t_difference.json").unlink()
    with pytest.raises(SystemExit, match="not asked the same questions"):
        few_shot.compared(args, "t", "f")


def test_the_benchmark_of_speed_finds_the_same_neighbours(larger_rdface, tiny_backbone, tmp_path, monkeypatch):  # noqa: F811
    few = ["--measured_episodes", "2", "--gallery", "2000", "--probes", "50", "--measured_probes", "5"]
    monkeypatch.setattr(few_shot_speed, "WAYS", (3,))
    places = ["--dataset_name", str(larger_rdface), "--backbone", str(tiny_backbone), "--results_dir", str(tmp_path)]
    few_shot_speed.main(few_shot_speed.parse_args([*few, *places]))
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["retrieval"]["same_neighbours"] == 1 and found["3way"]["ratio_of_each_further_800"] > 1
