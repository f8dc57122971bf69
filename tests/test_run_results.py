"""run_results.py: what is written is what was predicted, scored from the file, beside the published row."""

import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from classification import run_results as results
from imaging.corruptions import CORRUPTIONS, SEVERITIES
from scoring import prediction_files, run_scores

LABEL = datasets.ClassLabel(names=["AAA", "BBB", "CCC"])


def images_of(n: int = 6, n_classes: int = 3, **columns: list) -> datasets.Dataset:
    label = datasets.ClassLabel(names=[f"C{i}" for i in range(n_classes)])
    text = datasets.Value("string")
    features = {"image_id": text, "group_id": text, "label": label}
    content = {"image_id": [f"i{row}" for row in range(n)], "group_id": [f"g{row // 2}" for row in range(n)]}
    content["label"] = [row % n_classes for row in range(n)]
    for name, values in columns.items():
        features[name] = datasets.ClassLabel(names=["female", "male"]) if name == "sex" else text
        content[name] = values
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def predictions_of(fold: int, seed: int = 0, rows: range = range(6), split: str = "test") -> pd.DataFrame:
    rng = np.random.default_rng([fold, seed])
    kept = results.image_columns(images_of(sex=[0, 1, None, 0, 1, None]), np.arange(6) % 3).iloc[list(rows)]
    constants = {"protocol": "strict", "fold": fold, "seed": seed, "backbone": "tiny", "recipe": "linear_probe"}
    return kept.assign(split=split, probabilities=list(rng.dirichlet(np.ones(3), len(rows))), **constants)


def folds_of_a_run(folder: Path, **findings: list) -> list[Path]:
    """Two strict folds of three images each, with what each noted of itself."""
    folders = [folder / "folds" / f"seed0_fold{fold}" for fold in (0, 1)]
    for fold, of in enumerate(folders):
        results.write_predictions(of / "predictions.parquet", predictions_of(fold, rows=range(fold, 6, 2)), LABEL)
        noted = {"seed": 0, "fold": fold} | {name: values[fold] for name, values in findings.items()}
        (of / "fold.json").write_text(json.dumps(noted))
    return folders


def test_kept_columns_hold_names_and_regions_and_nothing_invented():
    images = images_of(
        4, sex=[0, None, 1, 0], age_group=["2-5", None, "18+", "0-1"], country=["DEU", "BRA", None, "JPN"]
    )
    kept = results.image_columns(images, np.array([2, 1, 0, 2]))
    assert kept["label"].tolist() == [2, 1, 0, 2] and kept["subject"].tolist() == ["g0", "g0", "g1", "g1"]
    assert kept["sex"].astype(object).where(kept["sex"].notna(), None).tolist() == ["female", None, "male", "female"]
    assert kept["age_group"].isna().tolist() == [False, True, False, False]
    assert kept["region"].isna().tolist() == [False, False, True, False]
    assert kept["region"].tolist()[0] == "Europe" and kept["region"].tolist()[3] == "Asia"
    assert set(results.image_columns(images_of(), np.arange(6))) == {"image_id", "label", "subject"}


def test_predictions_come_back_as_they_were(tmp_path):
    written = predictions_of(0)
    results.write_predictions(tmp_path / "new" / "predictions.parquet", written, LABEL)
    file = tmp_path / "new" / "predictions.parquet"
    read = prediction_files.read_predictions(file)
    assert np.array_equal(np.stack(read["probabilities"]), np.stack(written["probabilities"]).astype(np.float32))
    assert [None if pd.isna(value) else value for value in read["sex"]] == ["female", "male", None] * 2
    same = ["image_id", "label", "subject", "fold", "seed", "split", "recipe"]
    assert read[same].to_numpy().tolist() == written[same].to_numpy().tolist()
    assert datasets.Dataset.from_parquet(str(file)).features["label"].names == LABEL.names
    assert not list(file.parent.glob(".*"))


def test_scores_and_tables_are_those_of_the_file_that_was_written(tmp_path):
    scores = results.save_results(tmp_path, folds_of_a_run(tmp_path), LABEL)
    predictions = prediction_files.read_predictions(tmp_path)
    assert sorted(predictions["image_id"]) == [f"i{row}" for row in range(6)]
    assert json.loads((tmp_path / "results.json").read_text()) == run_scores.score(predictions) == scores
    per_class = pd.read_csv(tmp_path / "per_class.csv")
    assert per_class["class"].tolist() == LABEL.names and per_class["images"].tolist() == [2, 2, 2]
    assert per_class["f1"].mean() == pytest.approx(scores["metrics"]["macro_f1"]["mean"])
    confusion = pd.read_csv(tmp_path / "confusion.csv", index_col="true")
    assert confusion.index.tolist() == confusion.columns.tolist() == LABEL.names
    assert np.trace(confusion) / 6 == pytest.approx(scores["metrics"]["top1"]["mean"])


def test_corruption_scores_have_every_kind_and_severity_and_those_not_found(tmp_path):
    folders = folds_of_a_run(tmp_path)
    missed = {(kind, severity): severity / 10 for kind in CORRUPTIONS for severity in SEVERITIES}
    for fold, folder in enumerate(folders):
        for n, (kind, severity) in enumerate(missed):
            table = predictions_of(fold, seed=0, rows=range(fold, 6, 2))
            table["probabilities"] = table["probabilities"].map(lambda p, n=n: np.roll(p, n))
            results.write_predictions(folder / f"corrupted_{kind}_{severity}.parquet", table, LABEL)
    (tmp_path / "corrupted").mkdir()
    table = results.save_corruption_scores(tmp_path, folders, LABEL, missed)
    scores = json.loads((tmp_path / "corruptions.json").read_text())
    assert {kind: list(of) for kind, of in scores.items()} == {kind: ["1", "2", "3"] for kind in CORRUPTIONS}
    assert all(of[str(s)]["faces_missed"] == s / 10 for of in scores.values() for s in SEVERITIES)
    rescored = run_scores.score(prediction_files.read_predictions(tmp_path / "corrupted" / "jpeg_2.parquet"))
    assert {name: scores["jpeg"]["2"][name] for name in rescored} == rescored
    assert len({json.dumps(of[severity]["metrics"]) for of in scores.values() for severity in of}) == 3  # three rolls
    assert [line.split()[0] for line in table.splitlines()[1:]] == list(CORRUPTIONS)
    assert f" {100 * scores['blur']['3']['metrics']['top1']['mean']:.2f} (" in table.splitlines()[1]


def test_corruption_scores_of_a_single_subject_have_no_interval(tmp_path):
    alone = predictions_of(0, rows=range(2))
    results.write_predictions(tmp_path / "fold" / "corrupted_blur_1.parquet", alone, LABEL)
    (tmp_path / "fold" / "fold.json").write_text("{}")
    for severity in (2, 3):
        results.write_predictions(tmp_path / "fold" / f"corrupted_blur_{severity}.parquet", alone, LABEL)
    missed = {("blur", severity): 0.0 for severity in SEVERITIES}
    assert "(-)" in results.save_corruption_scores(tmp_path, [tmp_path / "fold"], LABEL, missed)


def test_learning_curves_are_a_table_and_a_picture(tmp_path):
    curves = [[{"epoch": e, "loss": 2 - e / 3 - fold / 7, "val_accuracy": e / 4} for e in range(3)] for fold in (0, 1)]
    folders = folds_of_a_run(tmp_path, learning_curve=curves)
    found = results.save_learning_curves(tmp_path, folders)
    assert [fold["learning_curve"] for fold in found] == curves
    table = pd.read_csv(tmp_path / "learning_curves.csv")
    assert table[["seed", "fold", "epoch"]].to_numpy().tolist() == [[0, f, e] for f in (0, 1) for e in range(3)]
    assert table["loss"].tolist() == pytest.approx([point["loss"] for curve in curves for point in curve])
    with Image.open(tmp_path / "learning_curves.png") as picture:
        assert picture.format == "PNG" and np.asarray(picture.convert("L")).std() > 1


def test_a_linear_probe_has_no_learning_curves_and_those_of_an_earlier_run_go(tmp_path):
    for name in ("learning_curves.csv", "learning_curves.png"):
        (tmp_path / name).write_text("of an earlier run")
    assert len(results.save_learning_curves(tmp_path, folds_of_a_run(tmp_path))) == 2
    assert not list(tmp_path.glob("learning_curves*"))


# ---- the paper's row


def row_beside(
    images: datasets.Dataset,
    backbone: str = "densenet169",
    protocol: str = "paper",
    recipe: str = "finetune",
    all_folds_and_epochs: bool = True,
) -> str | None:
    tops = {f"top{k}": {"mean": k / 100, "sd": None if k == 5 else 0.0123} for k in run_scores.TOP_K}
    scores = {"protocol": protocol, "recipe": recipe, "metrics": tops}
    return results.paper_comparison(images, backbone, scores, all_folds_and_epochs)


@pytest.fixture(scope="module")
def rdface() -> datasets.Dataset:
    """As many images and conditions as the paper counts."""
    return images_of(456, 103, source_type=["publication"] * 455 + [None])


def test_rdface_is_put_beside_the_papers_row_of_its_backbone(rdface):
    text = row_beside(rdface)
    for value in ("15.93 ± 2.34", "33.63 ± 3.70", "43.01 ± 2.63", "64.42 ± 1.92", "1.00 ± 1.23", "5.00", "30.00"):
        assert value in text
    assert "not comparable" not in text
    assert "14.34 ± 2.61" in row_beside(rdface, backbone="swin_t")


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "strict"},
        {"recipe": "linear_probe"},
        {"recipe": "finetune, 1-shot"},
        {"recipe": "finetune, gentle augmentation"},
        {"all_folds_and_epochs": False},
    ],
    ids=str,
)
def test_what_the_paper_did_not_do_is_said_not_to_be_comparable(changes, rdface):
    assert "not comparable" in row_beside(rdface, **changes)


def test_another_dataset_or_backbone_has_no_row_of_the_paper(rdface):
    simulated = images_of(456, 103, source_type=["simulated"] * 456)
    assert row_beside(simulated) is None and results.is_simulated(simulated)
    assert row_beside(rdface, backbone="resnet18") is None
    assert row_beside(images_of(455, 103, source_type=["publication"] * 455)) is None
    assert row_beside(images_of(456, 102)) is None
    assert not results.is_simulated(rdface)
