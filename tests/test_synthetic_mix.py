"""Synthetic images in training: what the guard refuses, what is chosen, and that photographs alone are tested."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from accelerate import Accelerator
from in_process import exit_status
from PIL import Image, ImageOps
from test_train_classifier import (
    CONDITIONS,
    painted_faces,
    probabilities_of,
    record_of,
    refusal,
    run_here,
    save_backbone,
    save_dataset,
    start_all,
    with_picture,
)

import score_runs
import train_classifier
from benchmarks import altered_copies
from classification.backbones import load_backbone
from classification.extraction import features_of
from classification.linear_probe import fit_linear_probe
from curation import leak_guard, protocols
from curation.made_from import WORDS
from curation.opening import load_images, load_synthetic
from generation import score_provenance, synthetic_images, synthetic_mix
from harness import errors
from imaging import near_duplicates, pixel_cache
from scoring import prediction_files, run_scores

ASTRONAUT = skimage.data.astronaut()[:400, 50:450]
CLASS_NAMES = [*CONDITIONS, "ONE"]
COLOURS = dict(zip(CLASS_NAMES, np.random.default_rng(0).uniform(30, 220, (9, 3)), strict=True))


def face(abbreviation: str, rng: np.random.Generator) -> np.ndarray:
    """A condition's colour under a light of some colour, which makes single photographs misleading."""
    pixels = COLOURS[abbreviation] + rng.normal(0, 25, 3) + rng.normal(0, 12, (24, 32, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def lit_faces(n_images: int = 4) -> list[dict]:
    """painted_faces, each under a light of its own."""
    rng = np.random.default_rng(5)
    return [with_picture(Image.fromarray(face(row["label"], rng)), row) for row in painted_faces(n_images)]


def columns_of(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0] if name != "image"}


def made_from(
    sides: list[protocols.Fold], rows: list[dict], n: int, seed: int = 0, wrong_labels: bool = False
) -> list[dict]:
    """n synthetic images of each condition for each training side, all of it named as their sources."""
    rng = np.random.default_rng([seed, 8])
    made = []
    for side in sides:
        sources = [rows[row]["image_id"] for row in side.train]
        digests = [rows[row]["sha256"] for row in side.train]
        for i in range(n):
            for number, shown in enumerate(CLASS_NAMES):
                label = CLASS_NAMES[(number + 1 + i % 7) % 9] if wrong_labels else shown
                synthetic_id = f"{label}_{i}"
                made.append(
                    {
                        "image": synthetic_images.png(face(shown, rng), synthetic_id),
                        "synthetic_id": synthetic_id,
                        "label": label,
                        "generator": "dreambooth",
                        "base_model": "a painter",
                        "adapter_sha256": None,
                        "prompt": None,
                        "seed": i,
                        "protocol": side.protocol,
                        "fold": side.number,
                        "source_image_ids": sources,
                        "source_sha256": digests,
                    }
                )
    return made


def saved(folder: Path, rows: list[dict], class_names: list[str] = CLASS_NAMES) -> Path:
    """The rows as a generator leaves them."""
    part = folder.with_suffix(".parquet")
    synthetic_images.write_part(part, rows, class_names)
    synthetic_images.write_dataset(folder, [part])
    return folder


def edited(folder: Path, copy: Path, **columns: list) -> Path:
    """A copy of a folder of synthetic images with other values, or further columns, in its file; the rest is left."""
    (copy / "synthetic").mkdir(parents=True)
    table = pq.read_table(next((folder / "synthetic").glob("*.parquet"))).replace_schema_metadata(None)
    features = datasets.Features(load_synthetic(str(folder)).features)
    for name, values in columns.items():
        features.setdefault(name, datasets.Value("bool" if name == "kept" else "float64"))
        kept = [column for column in table.column_names if column != name]
        field = features.arrow_schema.field(name)
        table = table.select(kept).append_column(field, [pa.array(values, field.type)])
    schema = datasets.Features({name: features[name] for name in table.column_names}).arrow_schema
    pq.write_table(table.cast(schema), copy / "synthetic" / "train-00000-of-00001.parquet")
    files = "data_files: [{split: train, path: synthetic/train-*.parquet}]"
    (copy / "README.md").write_text(f"---\nconfigs:\n- config_name: synthetic\n  {files}\n---\n")
    return copy


AS_DATA = ("--synthetic_as", "data")  # what --synthetic_as was before there was a choice


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mix")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return lit_faces()


@pytest.fixture(scope="module")
def lit(rows, home) -> tuple:
    """Flags of every run on the small dataset; a later flag wins."""
    (home / "backbone").mkdir()
    backbone = save_backbone(home / "backbone", "test_resnet")
    dataset = save_dataset(home / "lit-rdface", rows)
    return ("--dataset_name", dataset, "--backbone", backbone, "--cache_dir", home / "pixels")


@pytest.fixture(scope="module")
def folds(rows) -> list[protocols.Fold]:
    return protocols.folds(columns_of(rows), "strict")


@pytest.fixture(scope="module")
def informative(rows, folds, home) -> Path:
    """Six images a condition and fold."""
    return saved(home / "informative", made_from(folds, rows, 6))


@pytest.fixture(scope="module")
def misleading(rows, folds, home) -> Path:
    return saved(home / "misleading", made_from(folds, rows, 6, wrong_labels=True))


@pytest.fixture(scope="module")
def photographs_alone(lit, home) -> Path:
    return run_here(*lit, "--output_dir", home / "alone")


@pytest.fixture(scope="module")
def mixed(lit, informative, home) -> Path:
    return run_here(*lit, "--output_dir", home / "mixed", "--synthetic_dataset", informative, *AS_DATA)


def fold_notes(output: Path, seed: int = 0) -> list[dict]:
    return [json.loads((output / f"folds/seed{seed}_fold{k}/fold.json").read_text()) for k in range(5)]


# ---- strict


def test_informative_images_raise_accuracy_and_mislabelled_ones_lower_it(
    photographs_alone, mixed, misleading, lit, tmp_path, capsys
):
    misled = run_here(*lit, "--output_dir", tmp_path / "misled", "--synthetic_dataset", misleading, *AS_DATA)
    alone = prediction_files.read_predictions(photographs_alone)
    better, worse = (run_scores.compare(alone, prediction_files.read_predictions(folder)) for folder in (mixed, misled))
    assert better["n_test"] == worse["n_test"] == 32  # the same photographs are tested
    assert better["b"]["recipe"] == "linear_probe, + 54 synthetic (dreambooth)"
    assert better["metrics"]["top1"]["difference"] > 0.03  # more in k-shot, below
    assert worse["metrics"]["top1"]["difference"] < -0.3


def test_the_folder_of_a_run_is_answered_with_that_of_its_images(informative, tmp_path):
    shutil.copytree(informative, tmp_path / "run" / "fold1" / "synthetic")
    with pytest.raises(errors.InputError, match=r"run: holds no config synthetic; give .*run/fold1/synthetic$"):
        load_synthetic(str(tmp_path / "run"))


def test_photographs_alone_are_tested_and_every_fold_says_what_it_learnt_from(mixed, informative, folds, rows):
    predictions = prediction_files.read_predictions(mixed)
    assert sorted(predictions["image_id"]) == sorted(row["image_id"] for row in rows if row["strict_fold"] is not None)
    fingerprint = load_synthetic(str(informative))._fingerprint
    for fold, notes in zip(folds, fold_notes(mixed), strict=True):
        photographs = [rows[row]["image_id"] for row in fold.train]
        assert notes["train_image_ids"][: len(photographs)] == photographs
        synthetic = notes["train_image_ids"][len(photographs) :]
        assert len(set(synthetic)) == 54 and all(name.startswith(f"{fingerprint[:8]}/") for name in synthetic)
        assert notes["n_train"] == len(photographs) + 54
        assert notes["synthetic"]["generators"] == {"dreambooth": 54} and notes["synthetic"]["n_val"] == 0
    record = record_of(mixed)["synthetic"]
    generators = {"dreambooth": 5 * 54}
    expected = {"fingerprints": [fingerprint], "n_images": 5 * 54, "generators": generators, "ranked_by": None}
    assert record == expected


def test_synthetic_images_do_not_choose_the_regularisation(photographs_alone, mixed):
    chosen = [
        [(notes["shrinkage"], notes["temperature"]) for notes in fold_notes(output)]
        for output in (photographs_alone, mixed)
    ]
    assert chosen[0] == chosen[1]
    assert np.abs(probabilities_of(mixed) - probabilities_of(photographs_alone)).max() > 0.01


def test_without_knowledge_images_as_data_give_the_predictions_of_the_plain_probe(mixed, lit, informative, folds, home):
    """What the command did before it knew of terms, by the functions of linear_probe.py alone, to the last digit."""
    options = dict(zip(lit[::2], lit[1::2], strict=True))
    backbone = load_backbone(str(options["--backbone"]), None)
    accelerator, decoding = Accelerator(cpu=True), (backbone.image_size, backbone.face_alignment, home / "pixels")
    images, made = load_images(str(options["--dataset_name"])), load_synthetic(str(informative))
    uint8 = pixel_cache.join([pixel_cache.cached_pixels(accelerator, part, *decoding) for part in (images, made)]).uint8
    n, ids = len(images), [*images["image_id"][:], *(f"image {i}" for i in range(len(made)))]
    features = features_of(accelerator, backbone, uint8, np.arange(n + len(made)), 32)
    labels = np.array([*images["label"][:], *made["label"][:]])  # the classes have the same numbers in both
    groups = np.array([*images["group_id"][:], *ids[n:]])
    predictions = prediction_files.read_predictions(mixed)
    for fold in folds:
        synthetic = n + np.flatnonzero(np.array(made["fold"][:]) == fold.number)
        side = protocols.Fold(fold.number, np.concatenate([fold.train, synthetic]), fold.val, fold.test)
        guard = leak_guard.Guard(side, {"image_id": ids, "group_id": groups})
        probe = fit_linear_probe(features, labels, groups, fold.train, guard, synthetic)
        head = probe.classifier(backbone, len(CLASS_NAMES)).head
        with torch.inference_mode():
            logits = head.logits(torch.from_numpy(features[fold.test]))
        expected = logits.double().softmax(dim=1).numpy().astype(np.float32)
        found = predictions[predictions["fold"] == fold.number].set_index("image_id")["probabilities"]
        assert np.array_equal(np.stack([found[ids[row]] for row in fold.test]), expected)
        alone = fit_linear_probe(features, labels, groups, fold.train, guard).probabilities(features[fold.test], 9)
        assert np.abs(alone - expected).max() > 0.01  # the images count


def test_fine_tuning_on_one_and_on_two_processes_gives_the_same_with_synthetic_images(lit, informative, tmp_path):
    flags = (*lit, "--recipe", "finetune", "--num_train_epochs", 1, "--no-save_models")
    flags += ("--synthetic_dataset", informative, "--synthetic_top_n", 20)
    of_two = [(*flags, "--output_dir", tmp_path / "two")] * 2
    (first, printed, errors_printed), (second, *_) = start_all([{}, {}], *of_two)
    assert (first, second) == (0, 0), errors_printed
    assert "270 to choose from, taken: a random draw, 20 per fold" in printed
    run_here(*flags, "--output_dir", tmp_path / "one")
    assert set(prediction_files.read_predictions(tmp_path / "one")["recipe"]) == {
        "finetune, + 20 synthetic (dreambooth)"
    }
    assert probabilities_of(tmp_path / "one") == pytest.approx(probabilities_of(tmp_path / "two"), abs=1e-5)
    assert [notes["synthetic"]["n_train"] for notes in fold_notes(tmp_path / "one")] == [20] * 5
    run_here(*flags, "--output_dir", tmp_path / "fewer", "--synthetic_top_n", 1, "--fold", 0)
    of_one = probabilities_of(tmp_path / "one", fold=0)
    assert np.abs(of_one - probabilities_of(tmp_path / "fewer")).max() > 1e-3


def test_several_folders_in_any_order_give_the_same(lit, informative, misleading, rows, folds, tmp_path):
    other = saved(tmp_path / "other", [row | {"generator": "fastgan"} for row in made_from(folds, rows, 1, seed=3)])
    flags = (*lit, *AS_DATA, "--fold", 1, "--no-save_models", "--synthetic_dataset")
    one = run_here(*flags, informative, other, "--output_dir", tmp_path / "one")
    two = run_here(*flags, other, informative, "--output_dir", tmp_path / "two")
    assert np.array_equal(probabilities_of(one), probabilities_of(two))
    assert set(prediction_files.read_predictions(one)["recipe"]) == {
        "linear_probe, + 63 synthetic (dreambooth and fastgan)"
    }
    (notes,) = [json.loads(file.read_text()) for file in one.glob("folds/*/fold.json")]
    assert notes["synthetic"]["generators"] == {"dreambooth": 54, "fastgan": 9}
    assert len(set(notes["train_image_ids"])) == notes["n_train"]  # C0_0 is in both folders
    assert "given twice" in refusal(*flags, other, other, "--output_dir", tmp_path / "twice")


def test_corruptions_heat_maps_and_models_are_made_with_synthetic_images_too(lit, informative, tmp_path):
    flags = ("--fold", 0, "--synthetic_dataset", informative, "--synthetic_top_n", 9, "--corruptions", *AS_DATA)
    explained = load_images(str(lit[1])).filter(lambda row: row["strict_fold"] == 0)["image_id"][0]
    output = run_here(*lit, *flags, "--explain", explained, "--output_dir", tmp_path / "out")
    assert (output / "heat_maps.png").is_file() and (output / "folds/seed0_fold0/model/model.safetensors").is_file()
    scores = json.loads((output / "corruptions.json").read_text())
    assert "+ 9 synthetic (dreambooth), jpeg 1" in scores["jpeg"]["1"]["recipe"]


def test_going_on_with_other_synthetic_images_is_refused(lit, informative, misleading, tmp_path):
    folder, flags = tmp_path / "of-the-day", (*lit, "--fold", 0, "--no-save_models", "--output_dir", tmp_path / "out")
    folder.symlink_to(informative)
    run_here(*flags, "--synthetic_dataset", folder)
    on = ("--resume_from_checkpoint", "latest")
    run_here(*flags, "--synthetic_dataset", folder, *on)
    assert "was started with synthetic_dataset" in refusal(*flags, *on)
    assert "synthetic_top_n None, not 5" in refusal(*flags, *on, "--synthetic_dataset", folder, "--synthetic_top_n", 5)
    folder.unlink()
    folder.symlink_to(misleading)
    assert "was started with synthetic_fingerprints" in refusal(*flags, *on, "--synthetic_dataset", folder)


def test_images_used_as_a_prior_are_no_knowledge(lit, informative, tmp_path, capsys):
    run_here(*lit, "--output_dir", tmp_path, "--synthetic_dataset", informative, "--synthetic_as", "prior", "--fold", 0)
    assert "knowledge" not in capsys.readouterr().out
    notes = json.loads((tmp_path / "folds/seed0_fold0/fold.json").read_text())
    assert notes["image_prior"]["used"] is False and "knowledge" not in notes


# ---- the guard, through the command


def test_a_tampered_source_stops_the_command_before_anything_is_decoded(lit, folds, rows, tmp_path, capfd):
    """One row of 45 names a held-out image; the first photograph could not even be decoded, nor the network loaded."""
    damaged = [dict(row) for row in rows]
    no_photograph = b"\xff\xd8\xff no photograph"
    damaged[0] = with_picture({"bytes": no_photograph, "path": "C0.1.jpg"}, rows[0])
    dataset = save_dataset(tmp_path / "damaged", damaged)
    made = made_from(folds, damaged, 1)
    held_out = next(row for row in rows if row["strict_fold"] == 2)
    tampered = made[2 * 9 + 4]  # of the third fold
    tampered["source_image_ids"] = [*tampered["source_image_ids"], held_out["image_id"]]
    tampered["source_sha256"] = [*tampered["source_sha256"], held_out["sha256"]]
    mixed = saved(tmp_path / "tampered", made)
    flags = ("--synthetic_dataset", mixed, "--synthetic_top_n", 1, "--backbone", tmp_path / "nowhere")
    everything = (*lit, "--dataset_name", dataset, *flags, "--output_dir", tmp_path / "out")
    name = f"{tampered['synthetic_id']} was made from image {held_out['image_id']}"
    wanted = f"fold 2 (strict): synthetic image {name}, which is not on the training side (1 such)"
    for use in ((), AS_DATA, ("--synthetic_as", "prior")):  # whatever the image is used for
        assert exit_status(train_classifier, *everything, *use) == 1
        printed = capfd.readouterr().err
        assert wanted in printed and printed.count("train_classifier.py:") == 1 and "Traceback" not in printed
        assert not (tmp_path / "out").exists()


def test_a_copy_of_a_held_out_photograph_is_refused_under_both_protocols(lit, rows, folds, tmp_path):
    larger = lit_faces(8)
    larger_folder = save_dataset(tmp_path / "larger", larger)
    columns = columns_of(larger)
    cases = (
        ("strict", rows, folds[:1], lit[1]),
        ("paper", larger, protocols.training_sides(columns, "paper"), larger_folder),
    )
    for protocol, photographs, sides, dataset in cases:
        made = made_from(sides, photographs, 1)
        tested = photographs[sides[0].test[0]]
        made[3]["image"] = tested["image"]
        flags = ("--dataset_name", dataset, "--protocol", protocol, "--fold", 0, "--output_dir", tmp_path / protocol)
        with pytest.raises(errors.LeakError, match=rf"C3_0 is a copy of image {tested['image_id']}, which is held out"):
            run_here(*lit, *flags, "--synthetic_dataset", saved(tmp_path / f"copied-{protocol}", made))


def re_encoded(picture: Image.Image, file_format: str, **options: int) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, file_format, **options)
    return encoded.getvalue()


def one_pixel_changed(picture: Image.Image) -> bytes:
    pixels = np.array(picture)
    pixels[5, 5] ^= 1
    return re_encoded(Image.fromarray(pixels), "PNG")


def barred(picture: Image.Image) -> Image.Image:
    return altered_copies.altered("black bar over the eyes", picture, 0, picture)


COPIES = {
    "one pixel changed": one_pixel_changed,
    "JPEG": lambda picture: re_encoded(picture, "JPEG", quality=60),
    "half size, mirrored": lambda picture: re_encoded(ImageOps.mirror(picture.reduce(2)), "PNG"),
    "framed": lambda picture: re_encoded(ImageOps.expand(picture, 40, "black"), "PNG"),
    "cropped": lambda picture: re_encoded(picture.crop((6, 70, 330, 395)), "PNG"),
    "with a bar over the eyes": lambda picture: re_encoded(barred(picture), "JPEG", quality=80),
}


@pytest.fixture(scope="module")
def lit_portrait(rows, home) -> tuple[Path, str, Image.Image]:
    """The dataset with a portrait in place of one tested photograph: its folder, the image_id, and the portrait."""
    portrait = Image.fromarray(ASTRONAUT)
    number = next(number for number, row in enumerate(rows) if row["strict_fold"] == 0)
    changed = [with_picture(portrait, row) if n == number else row for n, row in enumerate(rows)]
    return save_dataset(home / "portrait", changed), rows[number]["image_id"], portrait


@pytest.mark.parametrize("how", COPIES)
def test_a_held_out_photograph_in_other_bytes_and_pixels_is_refused(how, lit_portrait, lit, rows, folds, tmp_path):
    dataset, image_id, portrait = lit_portrait
    made = made_from(folds[:1], rows, 1)
    made[3]["image"] = {"bytes": COPIES[how](portrait), "path": "C3_0.png"}
    flags = ("--dataset_name", dataset, "--fold", 0, "--synthetic_dataset", saved(tmp_path / "made", made))
    with pytest.raises(errors.LeakError, match=rf"C3_0 is a (copy|near duplicate) of image {image_id}, which"):
        run_here(*lit, *flags, "--output_dir", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("predictions.parquet"))


def test_copies_are_found_and_other_pictures_of_a_kind_are_not():
    portrait, other = (Image.fromarray(picture) for picture in (ASTRONAUT, skimage.data.coffee()))
    photographs = np.stack([near_duplicates.record(picture) for picture in (other, portrait)])
    pictures = [Image.open(io.BytesIO(change(portrait))) for change in COPIES.values()]
    pictures += [portrait.rotate(90), Image.new("RGB", (64, 64))]
    images = np.stack([near_duplicates.record(picture) for picture in pictures])
    assert near_duplicates.copies(images, photographs) == [[1]] * (len(COPIES) + 1) + [[]]
    assert near_duplicates.copies(images[:0], photographs) == [] and near_duplicates.copies(
        images[:1], images[-1:]
    ) == [[]]


def test_a_generator_that_saw_more_than_the_support_set_is_refused(lit, rows, folds, informative, tmp_path, capsys):
    """With one photograph a condition there is most to gain; each seed has a generator, and a run, of its own."""
    labels = [row["label"] for row in rows]
    flags = (*lit, "--k_shot", 1, "--no-save_models")
    with pytest.raises(errors.LeakError, match="is not on the training side"):
        run_here(*flags, "--synthetic_dataset", informative, "--output_dir", tmp_path / "out")
    outputs = []
    for seed in (0, 1):
        support = [protocols.k_shot(fold, labels, 1, seed) for fold in folds]
        folder = saved(tmp_path / f"seed{seed}", made_from(support, rows, 4, seed))
        run = ("--synthetic_dataset", folder, "--output_dir", tmp_path / f"out{seed}", "--seeds")
        outputs.append(run_here(*flags, *AS_DATA, *run, seed))
        with pytest.raises(errors.LeakError, match="is not on the training side"):
            run_here(*flags, *run, 1 - seed)  # the other seed's support sets
    without = run_here(*flags, "--seeds", 0, 1, "--output_dir", tmp_path / "alone")
    capsys.readouterr()
    command = ["compare", str(without), str(outputs[0]), "--more_b", str(outputs[1]), "--json"]
    score_runs.main(score_runs.parse_args(command))
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["b"]["recipe"] == "linear_probe, 1-shot, + 36 synthetic (dreambooth)"
    assert comparison["b"]["n_replicates"] == comparison["a"]["n_replicates"] == 2
    assert comparison["metrics"]["top1"]["difference"] > 0.1


def test_runs_with_unlike_numbers_of_synthetic_images_are_told_apart(mixed, lit, informative, tmp_path):
    fewer = run_here(
        *lit,
        "--seed",
        1,
        "--synthetic_dataset",
        informative,
        "--synthetic_top_n",
        9,
        "--output_dir",
        tmp_path / "out",
        *AS_DATA,
    )
    both = prediction_files.read_predictions([mixed, fewer])
    both["settings"] = "the same"
    with pytest.raises(ValueError, match=r"2 values of recipe .* equal with --synthetic_top_n"):
        run_scores.score(both)


# ---- what is chosen


def mix_of(dataset: Path, *folders: Path, top_n: int | None = None, protocol: str = "strict"):
    photographs = load_images(str(dataset))
    return synthetic_mix.open_mix([str(folder) for folder in folders], top_n, photographs, protocol)


def test_a_larger_draw_holds_the_smaller_one_and_seeds_and_folds_differ(lit, informative, folds):
    draws = {n: mix_of(lit[1], informative, top_n=n) for n in (5, 20, 54, 1000)}
    for fold in folds:
        chosen = {n: mix.choose(fold, 3).tolist() for n, mix in draws.items()}
        assert [len(rows) for rows in chosen.values()] == [5, 20, 54, 54]
        assert set(chosen[5]) < set(chosen[20]) < set(chosen[54]) == set(chosen[1000])
        assert all(draws[5].columns["fold"][row] == fold.number for row in chosen[54])
        assert draws[5].choose(fold, 3).tolist() == chosen[5] != draws[5].choose(fold, 4).tolist()
    assert (draws[5].choose(folds[0], 3) + 54).tolist() != draws[5].choose(folds[1], 3).tolist()
    assert draws[1000].name() == "+ 54 synthetic (dreambooth)"
    draws[1000].columns["made_from"][:3] = [WORDS] * 3
    assert draws[1000].name() == "+ 54 synthetic (dreambooth and words)"


def scored(folder: Path, folds: list[protocols.Fold], rows: list[dict]) -> datasets.Dataset:
    """The images of a folder, with the record of a scoring run that compared them with their fold's training side."""
    images = load_synthetic(str(folder))
    compared_with = {fold.number: [rows[row]["sha256"] for row in fold.train] for fold in folds}
    score_provenance.write_record(folder, images, {"threshold": 0.9}, compared_with)
    return images


def test_scores_count_with_the_record_of_their_run_only(lit, informative, folds, rows, tmp_path):
    flags = (*lit, "--output_dir", tmp_path / "out", "--synthetic_top_n", 5, "--synthetic_dataset")
    for column, values in (("cosine", [0.5] * 270), ("kept", [True] * 270)):
        by_hand = edited(informative, tmp_path / column, **{column: values})
        assert f"column {column} has no scoring_record.json beside it" in refusal(*flags, by_hand)
    images = scored(by_hand, folds, rows)
    record = (by_hand / "scoring_record.json").read_text()
    assert len(mix_of(lit[1], by_hand).labels) == 270
    values[7] = False
    changed = edited(informative, tmp_path / "changed", kept=values)
    (changed / "scoring_record.json").write_text(record)
    assert "column kept was written or changed after the scoring run" in refusal(*flags, changed)
    for text in ("", "[]", '{"fingerprint": null}'):
        (changed / "scoring_record.json").write_text(text)
        assert "scoring_record.json cannot be read" in refusal(*flags, changed)
    compared_with = {fold.number: [rows[row]["sha256"] for row in fold.train] for fold in folds[:4]}
    score_provenance.write_record(by_hand, images, {}, compared_with)
    assert "scoring_record.json holds no scores for fold 4 (strict)" in refusal(*flags, by_hand)
    held_out = rows[folds[2].test[0]]
    score_provenance.write_record(by_hand, images, {}, compared_with | {2: [held_out["sha256"]], 4: []})
    row = rows.index(held_out) + 1
    with pytest.raises(errors.LeakError, match=rf"fold 2 \(strict\): .* scored with the photograph in row {row}, wh"):
        run_here(*flags, by_hand)


@pytest.mark.parametrize("ranked_by", ["cosine", "phenotype_probability"])
def test_kept_images_of_highest_score_are_chosen_over_all_classes(ranked_by, lit, informative, folds, rows, tmp_path):
    rng = np.random.default_rng(0)
    score, kept = rng.permutation(270) / 270, rng.random(270) < 0.5
    scores = {"cosine": (1 - score).tolist()} | {ranked_by: score.tolist()}  # a probability goes before a cosine
    filtered = edited(informative, tmp_path / "filtered", kept=kept.tolist(), **scores)
    images = scored(filtered, folds, rows)
    for top_n in (4, 12):
        mix = mix_of(lit[1], filtered, top_n=top_n)
        for fold in folds:
            of_fold = [row for row in range(270) if images["fold"][row] == fold.number and kept[row]]
            best = sorted(of_fold, key=lambda row: -score[row])[:top_n]
            chosen = mix.choose(fold, seed=7)
            assert [mix.columns[ranked_by][row] for row in chosen] == [score[row] for row in best]
            assert mix.record()["ranked_by"] == ranked_by
            assert np.array_equal(chosen, mix.choose(fold, seed=8))  # nothing is drawn


def test_strict_ranks_by_probability_and_paper_by_cosine():
    both = ["label", "cosine", "phenotype_probability"]
    assert synthetic_mix.ranking_column([both, both], "strict") == "phenotype_probability"
    assert synthetic_mix.ranking_column([both], "paper") == "cosine"
    assert synthetic_mix.ranking_column([["label", "cosine"]], "strict") == "cosine"  # as the paper filters
    assert synthetic_mix.ranking_column([["label"], ["label"]], "strict") is None
    with pytest.raises(errors.InputError, match="some have a column phenotype_probability and some not"):
        synthetic_mix.ranking_column([both, ["cosine"]], "strict")


def test_classes_are_matched_by_name(lit, rows, folds, home):
    backwards = saved(home / "backwards", made_from(folds, rows, 1), CLASS_NAMES[::-1])
    mix = mix_of(lit[1], backwards)
    names = [synthetic_id.split("_")[0] for synthetic_id in mix.columns["synthetic_id"]]
    assert [CLASS_NAMES[label] for label in mix.labels] == names and len(set(names)) == 9


# ---- paper


def test_under_paper_the_folds_are_drawn_again_and_validation_holds_synthetic_images(lit, tmp_path, capsys):
    rows = lit_faces(8)
    dataset = save_dataset(tmp_path / "larger", rows)
    (side,) = protocols.training_sides(columns_of(rows), "paper")
    made = saved(tmp_path / "made", made_from([side], rows, 2))
    flags = ("--dataset_name", dataset, "--protocol", "paper", "--synthetic_dataset", made, "--no-save_models")
    tune = ("--recipe", "finetune", "--num_train_epochs", 2, "--synthetic_top_n", 15)
    output = run_here(*lit, *flags, *tune, "--output_dir", tmp_path / "out")
    assert "validation folds hold synthetic images, and checkpoints are chosen on them" in capsys.readouterr().out
    predictions = prediction_files.read_predictions(output)
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    assert {len(of_fold) for _, of_fold in test.groupby("fold")} == {16}
    assert not test["image_id"].str.contains("/").any() and not val["image_id"].duplicated().any()
    assert val["image_id"].str.contains("/").sum() >= 12
    trained = Counter(name for notes in fold_notes(output) for name in notes["train_image_ids"])
    held_out = {rows[row]["image_id"] for row in side.test}
    assert not held_out & set(trained) and set(val["image_id"]) == {name for name, n in trained.items() if n == 4}
    assert sorted(set(trained.values())) in ([4], [4, 5])
    one = run_here(*lit, *flags, "--fold", 3, "--output_dir", tmp_path / "one")  # a probe, all images
    (notes,) = [json.loads(file.read_text()) for file in one.glob("folds/*/fold.json")]
    assert notes["fold"] == 3 and notes["synthetic"]["n_train"] + notes["synthetic"]["n_val"] == 18


# ---- refusals


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"fold": lambda fold: [1 if k == 3 else k for k in fold]}, "C0_0 is there 2 times in fold 1"),
        ({"label": lambda label: [None, *label[1:]]}, "C0_0 has no label; run filter_synthetic.py first"),
        ({"protocol": lambda protocol: ["paper"] * len(protocol)}, "no image there was made for protocol strict"),
        ({"synthetic_id": lambda ids: [*ids[:4], None, *ids[5:]]}, "row 5: synthetic_id is empty"),
        ({"source_image_ids": lambda ids: [*ids[:7], None, *ids[8:]]}, "row 8: source_image_ids is empty"),
        ({"generator": lambda generators: [None, *generators[1:]]}, "row 1: generator is empty"),
    ],
)
def test_rows_that_do_not_say_what_they_are_are_refused_in_one_line(columns, message, lit, informative, tmp_path):
    images = load_synthetic(str(informative))
    changed = edited(informative, tmp_path / "changed", **{name: of(images[name][:]) for name, of in columns.items()})
    assert message in refusal(*lit, "--synthetic_dataset", changed, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_serve_are_refused_in_one_line(lit, informative, rows, folds, tmp_path):
    flags = (*lit, "--output_dir", tmp_path / "out", "--synthetic_dataset")
    assert f"dataset {tmp_path / 'none'}: there is no such folder" in refusal(*flags, tmp_path / "none")
    assert "holds no config synthetic; make it" in refusal(*flags, lit[1])  # photographs
    some = saved(tmp_path / "some", made_from(folds[:3], rows, 1))
    assert "no image there was made for fold 3 of protocol strict" in refusal(*flags, some)
    unlike = [row | {"label": "C0"} for row in made_from(folds, rows, 1) if row["label"] == "C0"]
    strangers = saved(tmp_path / "strangers", unlike, ["C0", "UNKNOWN"])
    assert "its class UNKNOWN is not one of --dataset_name's" in refusal(*flags, strangers)
    with_scores = edited(informative, tmp_path / "scored", cosine=[0.5] * 270)
    scored(with_scores, folds, rows)
    assert "some have a column cosine and some not" in refusal(*flags, with_scores, some)
    assert not (tmp_path / "out").exists()


def test_a_synthetic_image_that_cannot_be_decoded_is_named(lit, rows, folds, tmp_path):
    made = made_from(folds[:1], rows, 1)
    made[4]["image"] = {"bytes": b"\x89PNG no picture", "path": "C4_0.png"}
    flags = ("--fold", 0, "--synthetic_dataset", saved(tmp_path / "damaged", made), "--output_dir", tmp_path / "out")
    assert "synthetic image C4_0 cannot be decoded" in refusal(*lit, *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ("--synthetic_top_n", "5"),
        ("--synthetic_dataset", "d", "--synthetic_top_n", "0"),
        ("--synthetic_dataset", "d", "--shuffle_labels"),
        ("--synthetic_dataset", "d", "--protocol", "paper", "--k_shot", "2"),
    ],
    ids=" ".join,
)
def test_flags_that_do_not_go_together_exit_with_2_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_classifier.parse_args(["--dataset_name", "a", "--backbone", "b", "--output_dir", "c", *flags])
    assert exit_.value.code == 2 and capsys.readouterr().err.count("\n") == 1


# ---- arrays one behind another


def test_joined_arrays_are_read_like_one():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (n, 2, 3), np.uint8) for n in (4, 0, 1, 7)]
    whole, joined = np.concatenate(arrays), pixel_cache.JoinedArrays(arrays)
    assert len(joined) == 12 and np.array_equal(list(joined), whole)
    for rows in ([], [3, 4, 11, 0, 4], rng.permutation(12)):
        assert np.array_equal(joined[rows], whole[np.array(rows, dtype=int)])
        assert joined[rows].dtype == np.uint8
    for row in (-1, 12, [0, 12]):
        with pytest.raises(IndexError):
            joined[row]
