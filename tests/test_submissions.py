"""Submitted predictions: scored as the run itself, and refused with the row and the reason of every problem."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_datasets
from in_process import exit_status

import score_runs
from curation import protocols
from curation.opening import load_images
from scoring import prediction_files, submissions

CONDITIONS = {"AAR": 6, "NA": 8, "WS": 6, "CSY": 1}  # "NA" must not become a missing value; CSY always trains


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_datasets.photographs(tmp_path_factory.mktemp("submissions"), conditions=CONDITIONS)


@pytest.fixture(scope="module")
def good(dataset) -> pd.DataFrame:
    """One row per tested image of strict: probabilities, its fold, label and seed."""
    images = load_images(str(dataset))
    tested = [row for row, fold in enumerate(images["strict_fold"][:]) if fold is not None]
    rng, names = np.random.default_rng(0), images.features["label"].names
    labels = np.array(images["label"][:])[tested]
    probabilities = rng.dirichlet(np.ones(len(names)), len(tested)) + 0.4 * np.eye(len(names))[labels]
    columns = {"image_id": np.array(images["image_id"][:])[tested], "label": labels, "seed": 0}
    columns |= {"fold": np.array(images["strict_fold"][:])[tested].astype(int)}
    columns |= {"probabilities": list(probabilities / probabilities.sum(axis=1, keepdims=True))}
    return pd.DataFrame(columns)


def submit(capsys, dataset: Path, file: Path, *flags: object) -> tuple[int, str, list[str]]:
    """Exit status, standard output, lines of standard error."""
    capsys.readouterr()
    status = exit_status(score_runs, "submission", file, "--dataset_name", dataset, *flags)
    said = capsys.readouterr()
    return status, said.out, said.err.strip().splitlines()


def as_csv(file: Path, table: pd.DataFrame, names: list[str]) -> Path:
    """The same submission with one column per condition."""
    wide = pd.DataFrame(np.stack(table["probabilities"].tolist()), columns=names)
    pd.concat([table.drop(columns="probabilities"), wide], axis=1).to_csv(file, index=False)
    return file


def test_parquet_and_csv_give_the_same_scores_with_the_datasets_labels_and_people(tmp_path, capsys, dataset, good):
    names = load_images(str(dataset)).features["label"].names
    good.to_parquet(tmp_path / "model.parquet")
    status, out, _ = submit(capsys, dataset, tmp_path / "model.parquet", "--output_dir", tmp_path / "theirs")
    assert status == 0
    results = json.loads(out)
    assert results["n_test"] == len(good) == 20 and results["n_subjects"] == 19  # AAR.1 and AAR.2 are one person's
    assert results["backbone"] == "model" and results["by"]["sex"].keys() == {"female"}
    assert json.loads((tmp_path / "theirs" / "results.json").read_text()) == results
    minimal = good[["image_id", "probabilities"]].sample(frac=1, random_state=1).reset_index(drop=True)
    for file in (as_csv(tmp_path / "all.csv", good, names), as_csv(tmp_path / "minimal.csv", minimal, names)):
        status, out, _ = submit(capsys, dataset, file)
        assert status == 0 and json.loads(out)["metrics"]["top1"] == results["metrics"]["top1"]
    named = good.assign(label=[names[label] for label in good["label"]])
    assert submit(capsys, dataset, as_csv(tmp_path / "named.csv", named, names))[0] == 0
    again = exit_status(
        score_runs, "submission", tmp_path / "all.csv", "--dataset_name", dataset, "--output_dir", tmp_path
    )
    assert again == 2 and "exists; name a new folder" in capsys.readouterr().err


def test_several_seeds_are_replicates(tmp_path, capsys, dataset, good):
    pd.concat([good, good.assign(seed=1)]).to_parquet(tmp_path / "a.parquet")
    status, out, _ = submit(capsys, dataset, tmp_path / "a.parquet")
    assert status == 0 and json.loads(out)["seeds"] == [0, 1] and json.loads(out)["n_replicates"] == 2


def spoiled(table: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    table = table.astype(object)
    table.at[table.index[row], column] = value
    return table


FLAT = [0.25] * 4
PROBLEMS = {
    "missing image": (lambda t: t.drop(index=3), "1 of 20 tested images are missing (seed 0): AAR.4; predict every"),
    "twice": (lambda t: pd.concat([t, t.iloc[[2]]]), ":21: image AAR.3 is predicted in row 3 already"),
    "too few": (
        lambda t: spoiled(t, 1, "probabilities", [0.5, 0.5]),
        ":2: 2 probabilities, but there are 4 conditions",
    ),
    "too many": (lambda t: spoiled(t, 1, "probabilities", [0.2] * 5), ":2: 5 probabilities, but there are 4"),
    "nan": (lambda t: spoiled(t, 4, "probabilities", [np.nan, 0.5, 0.5, 0]), ":5: probabilities must be finite"),
    "sum": (
        lambda t: spoiled(t, 4, "probabilities", [0.5, 0.5, 0.5, 0]),
        ":5: probabilities must add up to 1 .* is 1.5; take the",
    ),
    "negative": (
        lambda t: spoiled(t, 4, "probabilities", [-0.5, 0.5, 0.5, 0.5]),
        ":5: probabilities must not be negative, and one is -0.5; take the softmax if these are logits",
    ),
    "null": (lambda t: spoiled(t, 4, "probabilities", None), ":5: probabilities null are not a flat list"),
    "unknown": (lambda t: spoiled(t, 0, "image_id", "XXX.1"), ":1: image 'XXX.1' is not in the dataset"),
    "file name": (lambda t: spoiled(t, 0, "image_id", "aar.1.JPG"), ":1: .* did you mean AAR.1"),
    "no name": (lambda t: spoiled(t, 0, "image_id", None), ":1: image_id null is not a name"),
    "label": (lambda t: spoiled(t, 0, "label", 1), ":1: label is 1, but the dataset says AAR"),
    "label that is none": (lambda t: spoiled(t, 0, "label", 77), ":1: label is 77"),
    "fold without": (lambda t: spoiled(t, 0, "fold", 9), ":1: there is no fold 9"),
    "fold half": (lambda t: spoiled(t, 0, "fold", 0.5), ":1: fold 0.5 is not a whole number"),
    "seed": (lambda t: t.assign(seed="first"), ":1: seed 'first' is not a whole number"),
    "seed too large": (lambda t: t.assign(seed=1e30), ":1: seed 1e.30 is no seed"),
    "label with a line break": (lambda t: t.assign(label="a\nb"), r":1: label is 'a..?nb', but the dataset says AAR"),
    "always trains": (
        lambda t: pd.concat([t, t.iloc[[0]].assign(image_id="CSY.1", label=3, fold=0)]),
        ":21: image CSY.1 trains in every fold of protocol strict",
    ),
    "training rows": (lambda t: t.assign(split="train"), ":1: split is train"),
    "validation rows": (lambda t: t.assign(split="val"), "no row has the split test"),
    "split": (lambda t: t.assign(split="tests"), ":1: split 'tests' is none of"),
    "protocol": (lambda t: t.assign(protocol="paper"), ":1: protocol is 'paper', but strict is scored; score it with"),
    "two models": (lambda t: t.assign(backbone=["a", "b"] * 10), "column backbone holds 'a', 'b'; submit one model"),
    "no image_id": (lambda t: t.drop(columns="image_id"), "column image_id is missing"),
    "no probabilities": (lambda t: t.drop(columns="probabilities"), "the column of AAR, NA, WS, CSY is missing"),
    "unknown column": (lambda t: t.assign(AAAR=0.1), "'AAAR' is no condition and no known column"),
    "both forms": (lambda t: t.assign(AAR=0.1), "has a column probabilities and one named AAR"),
    "empty": (lambda t: t.iloc[:0], "holds no predictions"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_cannot_be_scored_is_refused_with_row_and_reason(tmp_path, capsys, dataset, good, problem):
    change, message = PROBLEMS[problem]
    change(good).to_parquet(tmp_path / "a.parquet")
    status, out, lines = submit(capsys, dataset, tmp_path / "a.parquet")
    assert (status, out) == (2, "")
    assert pd.Series(lines).str.contains(message.replace("(", r"\(").replace(")", r"\)")).any(), lines
    assert not [line for line in lines if "Traceback" in line]


def test_an_image_predicted_in_a_fold_that_trained_on_it_is_refused(tmp_path, capsys, dataset, good):
    right = int(good["fold"].iloc[0])
    wrong = next(fold for fold in good["fold"].unique().tolist() if fold != right)
    spoiled(good, 0, "fold", wrong).to_parquet(tmp_path / "a.parquet")
    status, _, (line,) = submit(capsys, dataset, tmp_path / "a.parquet")
    assert status == 2
    assert f":1: image AAR.1 was trained on in fold {wrong}; predict it with the model of fold {right}" in line


def test_every_problem_is_named_at_once(tmp_path, capsys, dataset, good):
    table = spoiled(spoiled(good, 0, "label", 2), 5, "probabilities", [0.9] * 4)
    spoiled(table, 7, "image_id", "?").to_parquet(tmp_path / "a.parquet")
    status, _, lines = submit(capsys, dataset, tmp_path / "a.parquet")
    assert status == 2 and len(lines) == 4
    assert [line.rpartition(".parquet:")[2].partition(":")[0] for line in lines[:3]] == ["1", "6", "8"]
    assert "3 problems; nothing was scored" in lines[3]
    many = good.loc[good.index.repeat(4)]
    many.assign(image_id=[f"XXX.{n}" for n in range(len(many))]).to_parquet(tmp_path / "many.parquet")
    _, _, lines = submit(capsys, dataset, tmp_path / "many.parquet")
    assert len(lines) == score_runs.MOST_PROBLEMS + 1 and "of which 50 are shown" in lines[-1]


def test_sums_that_are_wrong_are_said_with_the_fitting_remedy_and_once_for_all_rows(tmp_path, capsys, dataset, good):
    probabilities = np.full((20, 4), 0.25)
    probabilities[1:8] = [0.334, 0.334, 0.334, 0]
    for change, said in (
        (
            1,
            ":2: probabilities must add up to 1 within 0.001, and the sum is 1.002; if they were rounded, divide each",
        ),
        (
            100,
            ":1: probabilities must add up to 1 within 0.001, and the sum is 100; these look like percent: divide each",
        ),
        (-4, ":1: probabilities must not be negative, and one is -1; take the softmax if these are logits"),
    ):
        good.assign(probabilities=list(change * probabilities)).to_parquet(tmp_path / "a.parquet")
        status, _, (line,) = submit(capsys, dataset, tmp_path / "a.parquet")
        assert status == 2 and f"a.parquet{said}" in line
        likewise = "6 rows: 3, 4, 5, 6, 7 and 1 more" if change == 1 else "19 rows: 2, 3, 4, 5, 6 and 14 more"
        assert line.endswith(f" (likewise {likewise})")
    text = (Path(score_runs.__file__).parent / "docs" / "scores.md").read_text(encoding="utf-8")
    assert f"within {prediction_files.SUM_TOLERANCE:g}" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "column image_id is missing|holds no predictions"),
        (b"image_id,AAR,NA,WS,CSY\n", "holds no predictions"),
        (b"image_id,AAR,NA,WS,CSY\nAAR.1,0.5,0.5\n", ":2: has 3 cells, but the header has 5"),
        (b"image_id,AAR,AAR,NA,WS,CSY\nAAR.1,1,0,0,0,0\n", "column AAR occurs twice"),
        (b"image_id,AAR,NA,WS,CSY\nAAR.1,much,0,0,0\n", ":2: AAR is 'much', which is no number"),
        (b"image_id,AAR,NA,WS,CSY\nAAR.1,,0,0,1\n", ":2: AAR is '', which is no number"),
        (b"image_id,AAR,NA,WS,CSY\nAAR.1,nan,0,0,1\n", ":2: probabilities must be finite"),
        (b"image_id,AAR,NA,WS\nAAR.1,1,0,0\n", "the column of CSY is missing"),
        (b"image_id:AAR:NA:WS:CSY\nAAR.1:1:0:0:0\n", "column image_id is missing"),
        (b"image_id;AAR;NA;WS;CSY\nAAR.1;0,5;0,5;0\n", ":2: has 4 cells, but the header has 5"),
        ("image_id,AAR\nÄ".encode("latin-1"), "is no CSV file in UTF-8"),
        (b'image_id,AAR\n"AAR.1', "is no CSV file"),
        (b"image_id,AAR\nA\x00,1\n", "image_id|the column of"),
    ],
)
def test_csv_files_that_cannot_be_read_are_refused_with_their_line(tmp_path, capsys, dataset, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    status, out, lines = submit(capsys, dataset, tmp_path / "a.csv")
    assert (status, out) == (2, "") and pd.Series(lines).str.contains(message).any(), lines


def test_files_that_are_no_submission_are_refused_before_the_dataset_is_opened(
    tmp_path, capsys, dataset, good, monkeypatch
):
    monkeypatch.setattr(score_runs, "open_tested", None)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.parquet").write_text("no Parquet")
    good.to_parquet(tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "cut behind.parquet").write_bytes(content[:-3])
    (tmp_path / "spoiled.parquet").write_bytes(content[:40] + bytes(400) + content[440:])
    (tmp_path / "named.csv").write_bytes(content)
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "nowhere.parquet").symlink_to(tmp_path / "gone.parquet")
    (tmp_path / "folder.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, message in [
        ("cut.parquet", "not a readable Parquet"),
        ("cut behind.parquet", "not a readable Parquet"),
        ("spoiled.parquet", "not a readable Parquet"),
        ("named.csv", "is no CSV file in UTF-8"),
        ("empty.parquet", "not a readable Parquet"),
        ("loop.csv", "no such file"),
        ("nowhere.parquet", "no such file"),
        ("folder.parquet", "is a folder"),
        ("pipe.csv", "no such file"),
        ("a.json", "ends neither"),
        ("a.parquet", "not a readable Parquet"),
        ("b.csv", "no such file"),
        (".", "is a folder"),
    ]:
        status, _, (line,) = submit(capsys, dataset, tmp_path / name)
        assert status == 2 and message in line


def test_paper_tests_its_test_side_with_the_model_of_each_fold():
    names, tested_rows = ["A", "B"], [True, False, True]
    images = pd.DataFrame({"image_id": ["A.1", "A.2", "B.1"], "label": [0, 0, 1], "subject": ["a", "a", "b"]})
    tested = submissions.Tested("paper", names, images, tested_rows, [None] * 3, range(5))
    table = {"image_id": ["A.1", "B.1"] * 2, "fold": [0, 0, 1, 1], "probabilities": [np.array([0.7, 0.3])] * 4}
    predictions = submissions.accepted(submissions.Table("x.parquet", table, [1, 2, 3, 4]), tested)
    assert predictions["fold"].tolist() == [0, 0, 1, 1] and predictions["subject"].tolist() == ["a", "b"] * 2
    for change, message in [
        ({"image_id": ["A.1", "B.1", "A.1", "A.2"]}, "A.2 is on the training side of protocol paper"),
        ({"fold": [0, 0, 1, 0]}, "x.parquet:4: image B.1 is predicted in row 2 already"),
        ({"fold": [0, 0, 1, 7]}, "there is no fold 7"),
        ({"image_id": ["A.1", "B.1", "A.1", "A.1"], "fold": [0, 0, 1, 2]}, "1 of 2 tested images are missing .*fold 1"),
    ]:
        with pytest.raises(submissions.SubmissionError) as refused:
            submissions.accepted(submissions.Table("x.parquet", table | change, [1, 2, 3, 4]), tested)
        assert pd.Series(refused.value.problems).str.contains(message).any()


def test_a_symlink_is_followed_and_conditions_in_another_order_are_told_by_their_labels(
    tmp_path, capsys, dataset, good
):
    names = load_images(str(dataset)).features["label"].names
    reordered = as_csv(tmp_path / "a.csv", good, names)
    pd.read_csv(reordered, keep_default_na=False)[["seed", *names[::-1], "image_id"]].to_csv(reordered, index=False)
    (tmp_path / "link.csv").symlink_to(reordered)
    status, out, _ = submit(capsys, dataset, tmp_path / "link.csv")
    good.to_parquet(tmp_path / "a.parquet")
    assert status == 0
    assert json.loads(out)["metrics"] == json.loads(submit(capsys, dataset, tmp_path / "a.parquet")[1])["metrics"]
    other = good.assign(label=3 - good["label"], probabilities=[row[::-1] for row in good["probabilities"]])
    other.to_parquet(tmp_path / "b.parquet")  # numbered in the order of another dataset
    status, out, lines = submit(capsys, dataset, tmp_path / "b.parquet")
    assert (status, out) == (2, "") and ":1: label is 3, but the dataset says AAR" in lines[0]


def test_the_folds_are_those_of_the_dataset(dataset, good):
    images = load_images(str(dataset))
    for fold in protocols.folds(images, "strict"):
        tested = [images["image_id"][row] for row in fold.test.tolist()]
        assert sorted(good.loc[good["fold"] == fold.number, "image_id"]) == sorted(tested)


def test_the_documentation_lists_the_images_that_are_tested(dataset, tmp_path):
    published = small_datasets.photographs(tmp_path, conditions=dict.fromkeys(("AAR", "NA", "WS", "CSY"), 10))
    text = (Path(score_runs.__file__).parent / "docs" / "scores.md").read_text(encoding="utf-8")
    code = next(part for part in text.split("```python\n")[1:] if "strict_fold" in part).partition("```")[0]
    for folder, protocol in ((dataset, "strict"), (published, "strict"), (published, "paper")):
        names: dict = {}
        exec(code.replace("ORG/rdface", str(folder)), names)
        flags = ["submission", "x.csv", "--dataset_name", str(folder), "--protocol", protocol]
        tested, _ = score_runs.open_tested(score_runs.parse_args(flags))
        expected = tested.images["image_id"][tested.held_out].tolist()
        folds = [fold for fold in tested.fold if fold is not None]
        assert (
            expected and (names["paper"] if protocol == "paper" else [name for name, _ in names["strict"]]) == expected
        )
        assert protocol == "paper" or [fold for _, fold in names["strict"]] == folds


def test_a_csv_submission_with_a_byte_order_mark_is_read(tmp_path, dataset, good, capsys):
    names = load_images(str(dataset)).features["label"].names
    file = as_csv(tmp_path / "a.csv", good, names)
    with open(file, newline="") as opened:
        assert next(csv.reader(opened))[0] == "image_id"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert submit(capsys, dataset, file)[0] == 0
