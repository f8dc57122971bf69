"""filter_synthetic.py: every image has its row and reason, copies are rejected, stops change nothing. All SIMULATED."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from in_process import exit_status
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file
from test_train_classifier import start_all

import filter_synthetic
import rdface_dataset
import simulate_faces
import train_classifier
from classification import weight_files
from classification.backbones import load_backbone
from classification.knowledge_choice import Choice
from curation import protocols
from curation.opening import load_images, load_synthetic, photograph_sha256
from generation import (
    face_examination,
    fidelity,
    filter_figures,
    filter_files,
    filter_inputs,
    filter_results,
    filter_scoring,
    fold_filter,
    synthetic_images,
)
from generation.perceptual_distance import load_lpips, square_pixels
from harness.errors import LeakError
from harness.files import sha256_of
from imaging import face_detectors, faces
from publishing import publishable

ROOT = Path(__file__).resolve().parents[1]
N_FAITHFUL = 12
LANDMARKER = ROOT.parent / "shared" / "models" / "face_landmarker" / "face_landmarker.task"


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """The folder that holds a dataset of photographs, rdface-sim, and one of other people's, other-sim."""
    folder = tmp_path_factory.mktemp("filter")
    for name, seed in (("rdface-sim", 3), ("other-sim", 4)):
        sizes = ["--num_images", 36, "--num_conditions", 9, "--image_size", 160, "--seed", seed]
        assert exit_status(simulate_faces, "--output_dir", folder / f"{name}-raw", *sizes) == 0
        assert exit_status(rdface_dataset, "build", folder / f"{name}-raw", "--output_dir", folder / name) == 0
    return folder


@pytest.fixture(scope="module")
def difficult(corpus) -> dict[str, bytes]:
    """Pictures that a filter must not keep, or must not stumble over, by their synthetic_id's end."""
    images = load_images(str(corpus / "rdface-sim"))
    fold = protocols.folds(images, "strict", 0)[0]
    photograph = images[int(fold.train[0])]["image"].convert("RGB")
    face = load_images(str(corpus / "other-sim"))[0]["image"].convert("RGB")
    crowd = Image.new("RGB", (2 * face.width, face.height))
    for place in range(2):
        crowd.paste(face, (place * face.width, 0))
    alpha = face.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(120, 255, face.width).astype(np.uint8), (face.height, 1))))
    return {
        "copy": encoded(photograph.resize((140, 140)), "JPEG", quality=80),
        "black": encoded(Image.new("RGB", (96, 96))),
        "corrupt": encoded(face)[:400],
        "tiny": encoded(face.resize((9, 9))),
        "nothing": encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))),
        "two": encoded(crowd),
        "alpha": encoded(alpha),
    }


@pytest.fixture(scope="module")
def synthetic(corpus, difficult) -> Path:
    """A dataset as a generator of fold 0 leaves it: other people with the conditions, and difficult pictures."""
    images, others = load_images(str(corpus / "rdface-sim")), load_images(str(corpus / "other-sim"))
    fold, digests, names = (
        protocols.folds(images, "strict", 0)[0],
        photograph_sha256(images),
        images.features["label"].names,
    )
    first = names[images["label"][int(fold.train[0])]]
    same = {"generator": "dreambooth", "base_model": "x", "adapter_sha256": "0" * 64, "prompt": "a child", "seed": 0}
    same |= {"protocol": "strict", "fold": 0, "source_image_ids": [images["image_id"][row] for row in fold.train]}
    same |= {"source_sha256": [digests[row] for row in fold.train]}
    rows = []
    for row in range(N_FAITHFUL):
        label = others.features["label"].int2str(others[row]["label"])
        picture = {"bytes": encoded(others[row]["image"].convert("RGB")), "path": "x.png"}
        rows.append(same | {"image": picture, "synthetic_id": f"{label}_{row}", "label": label})
    for name, content in difficult.items():
        picture = {"bytes": content, "path": "x.png"}
        rows.append(same | {"image": picture, "synthetic_id": f"{first}_{name}", "label": first})
    synthetic_images.write_part(corpus / "part.parquet", rows, names)
    synthetic_images.write_dataset(corpus / "synthetic", [corpus / "part.parquet"])
    return corpus / "synthetic"


def command(corpus: Path, synthetic: Path, output: Path, *more: object) -> list:
    flags = ["--dataset_name", corpus / "rdface-sim", "--synthetic_dataset", synthetic, "--output_dir", output]
    return [*flags, "--backbone", ROOT / "demo_models" / "backbone", "--fold", 0, "--batch_size", 8, *more]


@pytest.fixture(scope="module")
def filtered(corpus, synthetic) -> Path:
    output = corpus / "filtered"
    assert (
        exit_status(filter_synthetic, *command(corpus, synthetic, output, "--per_class", 2, "--lpips", "random")) == 0
    )
    return output


def scores(folder: Path) -> dict[str, dict]:
    """The rows of a scored dataset by the end of their synthetic_id, without pictures and sources."""
    table = pq.read_table(next((folder / "synthetic").glob("*.parquet")))
    light = [name for name in table.column_names if name not in ("image", "source_image_ids", "source_sha256")]
    return {row["synthetic_id"].rpartition("_")[2]: row for row in table.select(light).to_pylist()}


def test_every_image_has_its_row_and_a_reason(filtered, synthetic, difficult):
    rows = scores(filtered)
    assert len(rows) == len(load_synthetic(str(filtered))) == N_FAITHFUL + len(difficult)
    assert all(row["kept"] == (row["reject_reason"] is None) for row in rows.values())
    assert rows["black"]["reject_reason"] == rows["nothing"]["reject_reason"] == "no face was found"
    assert rows["tiny"]["reject_reason"] == "no face was found"
    assert rows["corrupt"]["reject_reason"].startswith("cannot be decoded (")
    for name in ("black", "corrupt"):
        assert rows[name]["face_score"] is rows[name]["box"] is rows[name]["phenotype_probability"] is None
    assert rows["two"]["faces"] == 2 and rows["alpha"]["faces"] == 1
    pictures = pq.read_table(next((filtered / "synthetic").glob("*.parquet")), columns=["image"])["image"].to_pylist()
    before = pq.read_table(next((synthetic / "synthetic").glob("*.parquet")), columns=["image"])["image"].to_pylist()
    assert [picture["bytes"] for picture in pictures] == [picture["bytes"] for picture in before]  # nothing is lost


def test_a_copy_is_rejected_and_names_its_photograph(filtered, corpus):
    images = load_images(str(corpus / "rdface-sim"))
    original = images["image_id"][int(protocols.folds(images, "strict", 0)[0].train[0])]
    copy = scores(filtered)["copy"]
    assert copy["reject_reason"] == f"near copy of {original}" and copy["nearest_real_id"] == original
    assert copy["copy_score"] == 1


def test_the_best_of_each_condition_are_kept(filtered):
    by_label: dict[int, list[dict]] = {}
    for row in scores(filtered).values():
        if row["face_score"] is not None and not (row["reject_reason"] or "").startswith(("near", "resembles")):
            by_label.setdefault(row["label"], []).append(row)
    assert max(map(len, by_label.values())) > 2
    for rows in by_label.values():
        best = sorted(rows, key=lambda row: -row["phenotype_probability"])[:2]
        assert {row["synthetic_id"] for row in rows if row["kept"]} == {row["synthetic_id"] for row in best}


def test_the_results_count_every_image(filtered):
    results = json.loads((filtered / "results.json").read_text())
    rows, side = scores(filtered), results["sides"]["fold0"]
    assert results["simulated"] is True and results["ranked_by"] == "phenotype_probability"
    assert side["n_images"] == len(rows) and side["n_kept"] == sum(row["kept"] for row in rows.values())
    assert side["n_kept"] + sum(side["rejected"].values()) == side["n_images"]
    with_face = [row["face_score"] for row in rows.values() if row["face_score"] is not None]
    assert side["share_with_face"] == pytest.approx(len(with_face) / len(rows))
    assert side["mean_confidence"] == pytest.approx(np.mean(with_face))
    assert side["set_comparison"].endswith("give at least 50")
    assert Image.open(filtered / "scores.png").size == (1050, 600)


@pytest.fixture(scope="module")
def drawn(corpus, synthetic) -> dict[str, Figure]:
    """The figures of a run with --show_real by the names of their files, all in corpus/shown; shown.txt: its lines."""
    figures, save = {}, filter_figures.save

    def keep(figure: Figure, file: Path, private: bool = False) -> None:
        figures[file.name] = figure
        save(figure, file, private)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_figures, "save", keep)
        flags = command(corpus, synthetic, corpus / "shown", "--per_class", 1, "--show_real")
        with (corpus / "shown.txt").open("w") as lines, contextlib.redirect_stdout(lines):
            assert exit_status(filter_synthetic, *flags) == 0
    return figures


def cells(figure: Figure) -> list[tuple[str, np.ndarray, Axes]]:
    """Title, picture and axes of each cell that shows one, row by row."""
    return [(axes.get_title(), np.asarray(axes.images[0].get_array()), axes) for axes in figure.axes if axes.images]


def shown_in(folder: Path) -> dict[str, np.ndarray]:
    """The pictures of a scored dataset by the end of their synthetic_id, as far as they can be decoded."""
    rows = pq.read_table(next((folder / "synthetic").glob("*.parquet")), columns=["synthetic_id", "image"]).to_pylist()
    decoded = {row["synthetic_id"].rpartition("_")[2]: face_examination.decode(row["image"])[0] for row in rows}
    return {name: np.asarray(picture) for name, picture in decoded.items() if picture}


def test_the_landmarks_of_the_best_and_the_rejected_are_drawn_and_of_no_copy(drawn, corpus):
    rows, pictures = scores(corpus / "shown"), shown_in(corpus / "shown")
    sheet = cells(drawn["landmarks.png"])
    assert drawn["landmarks.png"].get_suptitle().startswith("SIMULATED: ")
    names = [next(name for name, own in pictures.items() if np.array_equal(own, shown)) for _, shown, _ in sheet]
    kept = [name for name, row in rows.items() if row["kept"]]
    best = sorted(kept, key=lambda name: -rows[name]["phenotype_probability"])[: filter_figures.COLUMNS]
    assert names[: len(best)] == best and not set(names[len(best) :]) & set(kept)
    assert "copy" not in names and {"black", "nothing", "tiny"} <= set(names)
    for name, (title, _, axes) in zip(names, sheet, strict=True):
        boxes = {(*box.get_xy(), box.get_x() + box.get_width(), box.get_y() + box.get_height()) for box in axes.patches}
        if rows[name]["box"] is None:
            assert not boxes and not axes.lines and title.endswith("no score")
        else:
            assert [pytest.approx(box) for box in boxes] == [rows[name]["box"]]
            assert axes.lines[0].get_xydata() == pytest.approx(np.array(rows[name]["landmarks"]))


def test_the_ranks_of_each_condition_are_drawn_best_first(drawn, corpus):
    names = load_images(str(corpus / "rdface-sim")).features["label"].names
    of_label: dict[str, list[dict]] = {}
    for row in scores(corpus / "shown").values():
        if row["phenotype_rank"] is not None:
            of_label.setdefault(names[row["label"]], []).append(row)
    (axes,) = drawn["class_ranks.png"].axes
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    medians, of_kept, chance = axes.lines
    assert len(ticks) == len(of_label) and (np.diff(medians.get_xdata()) >= 0).all()
    halves = axes.collections[0].get_segments()
    for tick, median, kept, half in zip(ticks, medians.get_xdata(), of_kept.get_xdata(), halves, strict=True):
        own = of_label[tick.partition(" ")[0]]
        best = [row["phenotype_rank"] for row in own if row["kept"]]
        assert tick.endswith(f"({len(best)} kept of {len(own)} with a face)")
        ranks = [row["phenotype_rank"] for row in own]
        assert (half[0][0], median, half[1][0]) == pytest.approx(np.quantile(ranks, [0.25, 0.5, 0.75]))
        assert kept == np.median(best) if best else np.isnan(kept)
    assert chance.get_xdata()[0] == (len(names) + 1) / 2
    assert axes.get_title().startswith("SIMULATED: ")


def test_photographs_are_drawn_on_demand_alone_each_beside_what_resembles_it(drawn, filtered, corpus):
    assert "nearest_real_patients_photographs.png" not in {file.name for file in filtered.rglob("*.png")}
    images = load_images(str(corpus / "rdface-sim"))
    original = int(protocols.folds(images, "strict", 0)[0].train[0])
    pairs = cells(drawn["nearest_real_patients_photographs.png"])
    (place,) = [place for place, (title, _, _) in enumerate(pairs) if title.endswith("_copy")]
    assert np.array_equal(pairs[place][1], shown_in(corpus / "shown")["copy"])
    assert pairs[place + 1][0] == f"photograph {images['image_id'][original]}"
    assert np.array_equal(pairs[place + 1][1], np.asarray(images[original]["image"].convert("RGB")))
    nearest = {row["synthetic_id"]: row["nearest_real_id"] for row in scores(corpus / "shown").values()}
    for (synthetic_id, _, _), (photograph, _, _) in zip(pairs[::2], pairs[1::2], strict=True):
        assert photograph == f"photograph {nearest[synthetic_id]}"
    kept = [row for row in scores(corpus / "shown").values() if row["kept"]]
    likest = {max(kept, key=lambda row: row[score])["synthetic_id"] for score in ("copy_score", "person_similarity")}
    assert likest <= {title for title, _, _ in pairs[:4:2]}  # they come first


def test_the_sheet_of_photographs_is_private_never_published_and_gone_after_a_run_without_it(
    drawn, corpus, synthetic, capsys
):
    folder = corpus / "shown_again"
    shutil.copytree(corpus / "shown", folder)
    sheet = folder / "nearest_real_patients_photographs.png"
    assert stat.S_IMODE(sheet.stat().st_mode) == stat.S_IMODE((folder / "landmarks.png").stat().st_mode) == 0o600
    for place in ("figures", "synthetic"):
        (folder / place).mkdir(exist_ok=True)
        shutil.copy(sheet, folder / place)
    contents = publishable.examine(folder)
    assert {sheet.name, f"figures/{sheet.name}", f"synthetic/{sheet.name}"} <= set(contents.stays)
    assert not [name for name in contents.files if Path(name).name in filter_files.FIGURES]
    line = f"{corpus / 'shown' / sheet.name} holds SIMULATED photographs: do not pass it on"
    assert line in (corpus / "shown.txt").read_text()
    capsys.readouterr()
    assert exit_status(filter_synthetic, *command(corpus, synthetic, folder)) == 0
    assert not list(folder.rglob(sheet.name)) and (folder / "landmarks.png").is_file()
    assert sheet.name not in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed; it is optional")
@pytest.mark.skipif(not LANDMARKER.is_file(), reason="../shared is not there")
def test_dense_landmarks_describe_the_phenotype(filtered, corpus, synthetic, tmp_path):
    flags = ["--detector", "mediapipe", "--detector_model", LANDMARKER, "--descriptor", "dense"]
    assert exit_status(filter_synthetic, *command(corpus, synthetic, tmp_path / "dense", *flags)) == 0
    dense, probe = scores(tmp_path / "dense"), scores(filtered)
    assert dense.keys() == probe.keys() and all(len(row["landmarks"] or [0] * 5) == 5 for row in dense.values())
    with_face = [name for name, row in dense.items() if row["faces"] and probe[name]["faces"]]
    assert len(with_face) > N_FAITHFUL / 2
    assert all(0 < dense[name]["phenotype_probability"] < 1 for name in with_face)
    assert dense["copy"]["phenotype_rank"] == 1 and dense["black"]["phenotype_probability"] is None


# ---- knowledge of the conditions' terms


def term_table(file: Path, corpus: Path, frequency: float) -> Path:
    """Each condition of the photographs with a term of its own and one that it shares with the next."""
    images = load_images(str(corpus / "rdface-sim"))
    codes = sorted(set(images["orphanet_code"][:]))
    rows = [f"{code},MARK:{own},{frequency}" for n, code in enumerate(codes) for own in (n, (n + 1) % len(codes))]
    file.write_text("\n".join(["orphanet_code,hpo_id,frequency", *rows]) + "\n")
    return file


def test_what_is_known_changes_the_scores_and_is_recorded(filtered, corpus, synthetic, tmp_path, monkeypatch, capsys):
    chosen = Choice(used=True, term_share=3.0, rest_share=0.03)  # nine conditions are too few to choose it
    monkeypatch.setattr(fidelity, "choose", lambda *_: chosen)
    table, output = term_table(tmp_path / "terms.csv", corpus, 0.9), tmp_path / "informed"
    flags = command(corpus, synthetic, output, "--per_class", 2, "--knowledge", "terms", "--term_table", table)
    assert exit_status(filter_synthetic, *flags) == 0
    told = capsys.readouterr().out
    assert f"{corpus / 'rdface-sim'} (SIMULATED, fingerprint " in told
    assert "knowledge: 9 of 9 classes have annotated terms, 9 in all" in told
    first, *others = json.loads((output / "privacy_report.json").read_text())["reasons"]
    more = f" (privacy_report.json holds {len(others)} further reason{'s' * (len(others) > 1)})" if others else ""
    assert f"\nprivacy report: red; {first}{more}; publish_dataset.py refuses the images\n" in told
    before, after = scores(filtered), scores(output)
    both = [name for name, row in after.items() if row["faces"]]
    assert all(before[name]["phenotype_probability"] != after[name]["phenotype_probability"] for name in both)
    for name, row in after.items():  # nothing else knows of terms
        others = [n for n in row if n not in ("kept", "reject_reason") and not n.startswith("phenotype")]
        assert {n: row[n] for n in others} == {n: before[name][n] for n in others}
    results = json.loads((output / "results.json").read_text())["sides"]["fold0"]
    assert results["knowledge"] == dataclasses.asdict(chosen)
    assert ("knowledge was not used in" in told) == (not chosen.used)
    settings = json.loads((output / "scoring_record.json").read_text())["settings"]
    assert settings["knowledge"] == "terms" and settings["term_table_sha256"] == sha256_of(table)
    assert "term_table" not in settings  # the same content elsewhere is the same
    term_table(table, corpus, 0.8)
    assert exit_status(filter_synthetic, *flags, "--resume_from_checkpoint", "latest") == 2
    assert "was started with term_table_sha256" in capsys.readouterr().err


def test_a_held_out_photograph_on_the_training_side_reaches_no_filter(corpus):
    images = load_images(str(corpus / "rdface-sim"))
    (fold,) = protocols.folds(images, "strict", 0)
    mixed = dataclasses.replace(fold, train=np.append(fold.train, fold.test[0]))
    side = filter_inputs.Side(mixed, "fold0", [])
    inputs = filter_inputs.Inputs(images, photograph_sha256(images), [], [], [], [side], [])
    with pytest.raises(LeakError, match="is held out and in training"):
        filter_scoring.fit_filters(inputs, None, "probe", None)  # nothing of the photographs is looked at


# ---- support sets


@pytest.fixture(scope="module")
def few_shot(corpus, synthetic) -> Path:
    """The same images as a generator leaves them that saw one photograph per condition, drawn by seed 0."""
    images = load_images(str(corpus / "rdface-sim"))
    digests, names = photograph_sha256(images), images.features["label"].names
    support = protocols.k_shot(protocols.folds(images, "strict", 0)[0], images["label"][:], 1, seed=0).train.tolist()
    sources = {"source_image_ids": [images["image_id"][row] for row in support]}
    sources["source_sha256"] = [digests[row] for row in support]
    rows = pq.read_table(next((synthetic / "synthetic").glob("*.parquet"))).to_pylist()
    rows = [row | sources | {"label": names[row["label"]]} for row in rows]
    synthetic_images.write_part(corpus / "few.parquet", rows, names)
    synthetic_images.write_dataset(corpus / "few_shot", [corpus / "few.parquet"])
    return corpus / "few_shot"


def one_shot_training(corpus: Path, filtered: Path, output: Path) -> int:
    flags = ["--dataset_name", corpus / "rdface-sim", "--backbone", ROOT / "demo_models" / "backbone", "--fold", 0]
    flags += ["--synthetic_dataset", filtered, "--k_shot", 1, "--no-save_models", "--output_dir", output]
    return exit_status(train_classifier, *flags)


def test_with_k_shot_the_filter_sees_what_the_training_sees(corpus, few_shot, tmp_path):
    output = tmp_path / "few"
    assert exit_status(filter_synthetic, *command(corpus, few_shot, output, "--k_shot", 1, "--fill_to", 2)) == 0
    images = load_images(str(corpus / "rdface-sim"))
    support = protocols.k_shot(protocols.folds(images, "strict", 0)[0], images["label"][:], 1, seed=0).train.tolist()
    names = {images["image_id"][row] for row in support}
    record = json.loads((output / "scoring_record.json").read_text())
    assert record["compared_with"] == {"0": sorted(photograph_sha256(images)[row] for row in support)}
    rows = scores(output)
    nearest = {row["nearest_real_id"] for row in rows.values()} - {None}
    assert nearest and nearest <= names
    assert all(row["phenotype_probability"] > 0 for row in rows.values() if row["faces"])
    kept = [row["label"] for row in rows.values() if row["kept"]]
    assert len(kept) == len(set(kept)) > 1  # with the one photograph they fill up to two
    side = json.loads((output / "results.json").read_text())["sides"]["fold0"]
    assert side["n_photographs"] == len(names) == 9 and side["calibration"]["n_images"] == 0
    assert json.loads((output / "privacy_report.json").read_text())["verdict"] == "red"
    assert one_shot_training(corpus, output, tmp_path / "run") == 0
    fold = json.loads((tmp_path / "run" / "folds" / "seed0_fold0" / "fold.json").read_text())
    assert {name for name in fold["train_image_ids"] if "/" not in name} == names
    assert len(fold["train_image_ids"]) == len(names) + len(kept)


def test_scores_of_a_filter_that_saw_more_than_the_support_set_are_refused(corpus, few_shot, tmp_path, capsys):
    assert exit_status(filter_synthetic, *command(corpus, few_shot, tmp_path / "all")) == 0
    assert "fold0: the generators saw 9 of the " in capsys.readouterr().out
    assert one_shot_training(corpus, tmp_path / "all", tmp_path / "run") == 1
    printed = capsys.readouterr().err
    assert "were scored with the photograph in row" in printed and "with the training's --k_shot and --seed" in printed


def test_images_of_another_support_set_are_refused(corpus, few_shot, tmp_path, capsys):
    flags = command(corpus, few_shot, tmp_path / "out", "--k_shot", 1, "--seed", 1)
    assert exit_status(filter_synthetic, *flags) == 1
    assert "which is not on the training side" in capsys.readouterr().err


def test_untrained_perceptual_weights_are_named_as_such(filtered):
    rows = scores(filtered)
    assert "lpips" not in rows["two"] and rows["two"]["lpips_random"] > 0 and 0 < rows["two"]["class_rank"] <= 9
    assert json.loads((filtered / "settings.json").read_text())["lpips"] == "random"


def test_lpips_names_the_nearest_photograph_too(filtered, corpus):
    rows, images = scores(filtered), load_images(str(corpus / "rdface-sim"))
    original = images["image_id"].index(rows["copy"]["nearest_real_id_by_lpips"])
    assert original == int(protocols.folds(images, "strict", 0)[0].train[0])
    copy = pq.read_table(next((filtered / "synthetic").glob("*.parquet"))).to_pylist()[N_FAITHFUL]["image"]["bytes"]
    network, _ = load_lpips("random")
    pair = [Image.open(io.BytesIO(copy)), images[original]["image"].convert("RGB")]
    pair = [torch.tensor(square_pixels(picture.convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1 for picture in pair]
    with torch.inference_mode():
        assert rows["copy"]["nearest_real_lpips_random"] == pytest.approx(network(*pair).item(), abs=1e-5)
    assert all(row["nearest_real_lpips_random"] <= row["lpips_random"] + 1e-6 for row in rows.values() if row["faces"])
    assert rows["corrupt"]["nearest_real_id_by_lpips"] is rows["corrupt"]["lpips_random"] is None


def test_a_training_takes_the_kept_images_of_highest_probability(filtered, corpus, tmp_path):
    flags = ["--dataset_name", corpus / "rdface-sim", "--backbone", ROOT / "demo_models" / "backbone", "--fold", 0]
    flags += ["--synthetic_dataset", filtered, "--synthetic_top_n", 3, "--cache_dir", tmp_path / "pixels"]
    assert exit_status(train_classifier, *flags, "--no-save_models", "--output_dir", tmp_path / "run") == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["synthetic"]["ranked_by"] == "phenotype_probability"
    kept = [row for row in scores(filtered).values() if row["kept"]]
    best = {row["synthetic_id"] for row in sorted(kept, key=lambda row: -row["phenotype_probability"])[:3]}
    fold = json.loads((tmp_path / "run" / "folds" / "seed0_fold0" / "fold.json").read_text())
    taken = {name.rpartition("/")[2] for name in fold["train_image_ids"] if "/" in name}
    assert taken == best


def test_the_privacy_report_is_about_these_files_and_fails_closed(filtered, corpus, synthetic):
    report = json.loads((filtered / "privacy_report.json").read_text())
    assert report["verdict"] == "red" and any(
        "same person: there is no threshold" in line for line in report["reasons"]
    )
    problems = publishable.privacy_problems(publishable.examine(filtered))
    assert not any("is about another" in line for line in problems)
    assert any("verdict is not green" in line for line in problems)
    assert any("holds images that the filter has not kept" in line for line in problems)


def test_members_are_the_people_whose_photographs_the_generator_saw(corpus):
    """A generator that saw one photograph of each condition must not hide among the others of the training side."""
    images = load_images(str(corpus / "rdface-sim"))
    (fold,) = protocols.folds(images, "strict", 0)
    digests, groups = photograph_sha256(images), np.array(images["group_id"][:], dtype=object)
    inputs = filter_inputs.Inputs(images, digests, [], [], [], [], [])
    identities = np.ones((len(images), 2), np.float32)
    identities[fold.test[0]] = np.nan  # no face was found
    support = protocols.k_shot(fold, images["label"][:], 1, 0).train
    people = filter_results.people_of(fold, inputs, identities, {digests[row] for row in support})
    assert set(people.subjects[people.is_member]) == set(groups[support]) < set(groups[fold.train])
    assert sorted(people.subjects[~people.is_member]) == sorted(groups[fold.test[1:]])
    everybody = filter_results.people_of(fold, inputs, identities, set())
    assert sorted(everybody.subjects[everybody.is_member]) == sorted(groups[fold.train])


def test_the_kept_images_alone_are_the_best_of_all_and_no_face_is_detected_twice(
    filtered, corpus, synthetic, monkeypatch
):
    def detect_again(*_) -> None:
        raise AssertionError("the first run has kept these faces")

    monkeypatch.setattr(face_detectors.MTCNN, "find", detect_again)
    output = corpus / "kept"
    assert exit_status(filter_synthetic, *command(corpus, synthetic, output, "--top_n", 4, "--kept_only")) == 0
    selectable = [row for row in scores(filtered).values() if row["kept"] or "the best" in row["reject_reason"]]
    best = sorted(selectable, key=lambda row: -row["phenotype_probability"])[:4]
    rows = scores(output)
    assert {row["synthetic_id"] for row in rows.values()} == {row["synthetic_id"] for row in best}
    assert all(row["kept"] for row in rows.values())
    problems = publishable.privacy_problems(publishable.examine(output))
    assert problems and all("verdict is not green" in line for line in problems)


def test_two_processes_give_what_one_gives(filtered, corpus, synthetic):
    output = corpus / "two"
    flags = command(corpus, synthetic, output, "--per_class", 2, "--lpips", "random")
    (first, printed, errors), (second, quiet, _) = start_all([{}, {}], flags, flags, script="filter_synthetic.py")
    assert (first, second) == (0, 0), errors
    assert printed.count("written:") == 1 and "written:" not in quiet  # the main process alone speaks
    one, two = scores(filtered), scores(output)
    assert list(one) == list(two)
    for name, row in one.items():
        for column, value in row.items():
            if isinstance(value, float):
                assert two[name][column] == pytest.approx(value, rel=1e-4), (name, column)
            elif not isinstance(value, list):
                assert two[name][column] == value, (name, column)


def test_going_on_with_the_same_weights_and_another_input_is_refused(filtered, corpus, synthetic, tmp_path, capsys):
    backbone = shutil.copytree(ROOT / "demo_models" / "backbone", tmp_path / "backbone")
    config = json.loads((backbone / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.25]
    (backbone / "config.json").write_text(json.dumps(config))
    flags = command(corpus, synthetic, filtered, "--per_class", 2, "--lpips", "random", "--backbone", backbone)
    before = (filtered / "results.json").read_bytes()
    assert exit_status(filter_synthetic, *flags, "--resume_from_checkpoint", "latest") == 2
    assert "was started with input_mean [[" in capsys.readouterr().err
    assert (filtered / "results.json").read_bytes() == before


def test_a_stopped_run_resumes_to_the_same_scores(filtered, corpus, synthetic, monkeypatch, capsys):
    output = corpus / "stopped"
    flags = command(corpus, synthetic, output, "--per_class", 2, "--lpips", "random")
    write, written = filter_scoring.write_scores, []

    def stop_at_second(file: Path, columns: dict) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(file)
        write(file, columns)

    with monkeypatch.context() as patch:
        patch.setattr(filter_scoring, "write_scores", stop_at_second)
        assert exit_status(filter_synthetic, *flags) == 130
    assert "--resume_from_checkpoint latest goes on" in capsys.readouterr().err
    examined = []
    examine = filter_scoring.Examiner.examine
    monkeypatch.setattr(
        filter_scoring.Examiner,
        "examine",
        lambda self, pictures: examined.append(len(pictures)) or examine(self, pictures),
    )
    assert exit_status(filter_synthetic, *flags, "--resume_from_checkpoint", "latest") == 0
    assert sum(examined) == len(scores(filtered)) - 8  # the photographs and the first block were done
    assert scores(output) == scores(filtered)


def test_images_made_from_another_fold_are_refused_before_anything_is_decoded(corpus, synthetic, tmp_path, capsys):
    images = load_images(str(corpus / "rdface-sim"))
    held_out = int(protocols.folds(images, "strict", 0)[0].test[0])
    table = pq.read_table(next((synthetic / "synthetic").glob("*.parquet")))
    rows = table.to_pylist()
    names = images.features["label"].names
    for row in rows:
        row["label"] = names[row["label"]]
        row["source_image_ids"] = [*row["source_image_ids"], images["image_id"][held_out]]
        row["source_sha256"] = [*row["source_sha256"], photograph_sha256(images)[held_out]]
    synthetic_images.write_part(tmp_path / "part.parquet", rows, names)
    synthetic_images.write_dataset(tmp_path / "leaky", [tmp_path / "part.parquet"])
    assert exit_status(filter_synthetic, *command(corpus, tmp_path / "leaky", tmp_path / "out")) == 1
    assert "which is not on the training side" in capsys.readouterr().err and not (tmp_path / "out" / "work").exists()


def test_a_backbone_that_saw_a_held_out_photograph_is_refused(corpus, synthetic, tmp_path, capsys):
    images = load_images(str(corpus / "rdface-sim"))
    held_out = photograph_sha256(images)[int(protocols.folds(images, "strict", 0)[0].test[0])]
    backbone = tmp_path / "backbone"
    shutil.copytree(ROOT / "demo_models" / "backbone", backbone)
    weights = load_file(backbone / "model.safetensors")
    record = {weight_files.RECORD_KEY: json.dumps({weight_files.SEEN_PHOTOGRAPHS: [held_out]})}
    save_file(weights, backbone / "model.safetensors", record)
    flags = command(corpus, synthetic, tmp_path / "out", "--backbone", backbone)
    assert exit_status(filter_synthetic, *flags) == 1
    printed = capsys.readouterr().err
    assert "has learnt from image" in printed and "which is not on the training side" in printed


def test_images_of_an_unconditional_generator_get_the_nearest_condition(filtered, corpus, synthetic, tmp_path):
    rows = pq.read_table(next((synthetic / "synthetic").glob("*.parquet"))).to_pylist()
    names = load_images(str(corpus / "rdface-sim")).features["label"].names
    chosen = [row | {"label": None, "generator": "fastgan"} for row in rows if row["synthetic_id"][-2:] != "py"]
    synthetic_images.write_part(tmp_path / "part.parquet", chosen, names)
    synthetic_images.write_dataset(tmp_path / "fastgan", [tmp_path / "part.parquet"])
    output = tmp_path / "out"
    assert exit_status(filter_synthetic, *command(corpus, tmp_path / "fastgan", output)) == 0
    labelled = scores(output)
    assert labelled["black"]["label"] is None and labelled["black"]["label_probability"] is None
    with_face = [row for row in labelled.values() if row["face_score"] is not None]
    assert all(0 <= row["label"] < len(names) and 0 < row["label_probability"] < 1 for row in with_face)
    distances = [row["euclidean"] for row in with_face]  # to the nearest class mean
    given = {row["synthetic_id"]: row["euclidean"] for row in scores(filtered).values()}
    assert all(own <= given[row["synthetic_id"]] + 1e-9 for own, row in zip(distances, with_face, strict=True))


def test_a_photograph_whose_condition_nobody_shares_does_not_count_as_labelled_wrongly():
    """Its own class has no mean that it is not part of, so that the nearest mean is always another's."""
    five, rng = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], float), np.random.default_rng(0)
    shapes = np.stack([five, five * [1.2, 0.7], five * [0.6, 1.1]])
    labels, groups = np.array([0, 0, 1, 1, 2]), np.arange(5)
    landmarks = shapes[labels] + rng.normal(0, 0.1, (5, 5, 2))
    examined = SimpleNamespace(landmarks=landmarks, boxes=np.tile([0.0, 0, 100, 100], (5, 1)), features=None)
    calibration = fold_filter.calibrated_labels(fold_filter.Photographs(examined, [], labels, groups, 3))
    assert (calibration.n, calibration.share_right) == (4, 1.0)
    alone = fold_filter.Photographs(examined, [], np.arange(5), groups, 5)
    assert fold_filter.calibrated_labels(alone) is None


def test_landmarks_that_span_no_face_stop_nothing():
    detector = faces.load_detector("mtcnn")
    face = faces.Face(np.array([0, 0, 9, 9]), np.full((5, 2), 4.0), 0.99, 1)
    detector.detect = lambda pictures, *_, **__: [face] * len(pictures)
    examiner = face_examination.Examiner(detector, load_backbone(str(ROOT / "demo_models" / "backbone")), "cpu")
    examined = examiner.examine([{"bytes": encoded(Image.new("RGB", (32, 32), "white")), "path": None}])
    assert examined.problems.tolist() == [face_examination.NO_FACE] and np.isnan(examined.features).all()
    assert np.isnan(examined.landmarks).all() and examined.n_faces.tolist() == [0]


def test_somebody_elses_folder_is_examined_and_no_training_takes_it(corpus, tmp_path, capsys):
    others = load_images(str(corpus / "other-sim"))
    names = load_images(str(corpus / "rdface-sim")).features["label"].names
    for row in range(4):
        label = others.features["label"].int2str(others[row]["label"])
        (tmp_path / "faces" / label).mkdir(parents=True, exist_ok=True)
        others[row]["image"].convert("RGB").save(tmp_path / "faces" / label / f"{label}_{row}.png")
    output = tmp_path / "out"
    assert exit_status(filter_synthetic, *command(corpus, tmp_path / "faces", output)) == 0
    rows = scores(output)
    assert len(rows) == 4 and {row["generator"] for row in rows.values()} == {"unknown"}
    assert all(row["phenotype_probability"] is not None for row in rows.values() if row["faces"])
    assert {names[row["label"]] for row in rows.values()} == {path.name for path in (tmp_path / "faces").iterdir()}
    flags = ["--dataset_name", corpus / "rdface-sim", "--backbone", ROOT / "demo_models" / "backbone", "--fold", 0]
    capsys.readouterr()
    assert exit_status(train_classifier, *flags, "--synthetic_dataset", output, "--output_dir", tmp_path / "run") == 2
    assert "no image there was made for protocol strict and kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--detector", "yunet"), "--detector yunet requires --detector_model FILE"),
        (("--descriptor", "dense"), "--descriptor dense requires --detector mediapipe"),
        (("--k_shot", 0), "--k_shot must be at least 1"),
        (("--k_shot", 1, "--protocol", "paper"), "--k_shot draws its photographs in each fold; use --protocol strict"),
        (("--seed", -1), "--seed must not be negative"),
        (("--per_class", -1), "--per_class must be at least 1"),
        (("--min_score", 80), "--min_score must be a probability"),
        (("--top_n", 3, "--per_class", 3), "not allowed with argument"),
        (("--lpips", "missing.pth"), "missing.pth"),
        (("--term_table", "t.csv"), "--term_table requires --knowledge terms"),
        (("--knowledge", "terms", "--descriptor", "paper"), "requires another --descriptor than paper"),
        (("--knowledge", "terms", "--protocol", "paper"), "requires another --descriptor than paper"),
        (("--knowledge", "terms", "--term_table", "missing.csv"), "missing.csv: cannot be read"),
        (("--fold", 3), "no image there was made for protocol strict, fold 3"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(corpus, synthetic, tmp_path, capsys, flags, message):
    assert exit_status(filter_synthetic, *command(corpus, synthetic, tmp_path / "out", *flags)) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_images_that_are_given_twice_are_refused(corpus, synthetic, tmp_path, capsys):
    shutil.copytree(synthetic, tmp_path / "copy")
    flags = ("--synthetic_dataset", synthetic, tmp_path / "copy")
    assert exit_status(filter_synthetic, *command(corpus, synthetic, tmp_path / "out", *flags)) == 2
    assert f"{tmp_path / 'copy'}: its images are given twice; name each folder once" in capsys.readouterr().err
