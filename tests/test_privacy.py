"""generation/privacy.py, photograph_copies.py: nearest photographs, thresholds, copies of real pictures, verdicts."""

import csv
import io
import json
import tracemalloc
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
import small_datasets
from PIL import Image, ImageEnhance, ImageOps
from sklearn.neighbors import NearestNeighbors

from benchmarks import altered_copies, planted_copies
from generation import privacy
from generation.photograph_copies import FACE, WHOLE, Pictures, copies, copy_score, laid_on, picture_views
from generation.privacy import AFTER, BEFORE, COPY, NEGATIVE, PERSON, POSITIVE
from harness.errors import InputError
from harness.files import write_json
from imaging import near_duplicates
from publishing import publishable

REAL_FACES = Path(__file__).resolve().parents[2] / "shared" / "real_faces"
needs_real_faces = pytest.mark.skipif(not REAL_FACES.is_dir(), reason="the real photographs are not on this machine")


# ---- nearest photograph


@pytest.mark.parametrize("block_rows", [1, 7, 4096])
@pytest.mark.parametrize("count", [1, 3])
def test_nearest_rows_are_those_that_scikit_learn_finds(block_rows, count):
    rng = np.random.default_rng(0)
    real, synthetic = 5 * rng.standard_normal((40, 6)), rng.standard_normal((25, 6))
    rows, similarity = privacy.nearest_rows(real, synthetic, count, block_rows)
    distance, expected = NearestNeighbors(n_neighbors=count, metric="cosine").fit(real).kneighbors(synthetic)
    assert (rows == expected).all()
    assert np.allclose(similarity, 1 - distance, atol=1e-6)


def test_only_pairs_that_may_be_compared_are():
    real = np.array([[1, 0], [0.9, 0.1], [0, 1], [1, 1]], float)
    labels, people = ["a", "a", "b", "b"], ["p", "q", "r", None]
    rows, similarity = privacy.nearest(real, real, same=(labels, labels), other=(people, people), block_rows=3)
    assert rows.tolist() == [1, 0, 3, 2]
    assert np.allclose(similarity[2:], np.sqrt(0.5))
    rows, similarity = privacy.nearest(real[:1], real, same=(labels[:1], labels))
    assert rows.tolist() == [0, 0, -1, -1] and np.isnan(similarity).tolist() == [False, False, True, True]


def test_a_face_without_an_embedding_is_near_to_nobody():
    real = np.array([[0, 0], [1, 0], [np.nan, 1]], float)
    rows, similarity = privacy.nearest(real, np.array([[2, 1], [0, 0], [np.inf, 0], [np.nan, 1]]))
    assert rows.tolist() == [1, -1, -1, -1]
    assert np.isnan(similarity).tolist() == [False, True, True, True]


def test_the_nearer_of_an_image_and_its_mirror_image_counts():
    real = np.array([[1, 0, 0], [0, 1, 0]], float)
    images, mirrored = np.array([[3, 1, 0], [1, 1.1, 0], [0, 0, 0], [0, 0, 0]]), np.array([[0, 1, 1], [1, 0.1, 0]])
    mirrored = np.concatenate([mirrored, [[0, 1, 0], [0, 0, 0]]])
    rows, similarity = privacy.nearest_either_way(real, images, mirrored)
    assert rows.tolist() == [0, 0, 1, -1]
    assert np.allclose(similarity, [3 / np.sqrt(10), 1 / np.sqrt(1.01), 1, np.nan], equal_nan=True)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    rng = np.random.default_rng(0)
    real, peaks = rng.standard_normal((300, 64), np.float32), []
    for m in (2_000, 20_000):
        images = np.lib.format.open_memmap(tmp_path / f"{m}.npy", "w+", np.float32, (m, 64))
        images[:] = rng.standard_normal((m, 64), np.float32)
        tracemalloc.start()
        privacy.nearest(real, images, block_rows=500)
        peaks.append(tracemalloc.get_traced_memory()[1] - 16 * m)  # without the result itself
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# ---- thresholds


def test_the_threshold_is_the_conformal_quantile():
    values = np.random.default_rng(0).permutation(np.arange(199.0))
    threshold = privacy.calibrate([*values, np.nan], [n % 10 for n in range(200)], false_alarm=0.01)
    assert threshold.value == 197  # the 198th smallest of 199: ceil(200 * 0.99)
    assert (threshold.n, threshold.n_groups, threshold.false_alarm) == (199, 10, 0.01)
    assert threshold.low <= 197 <= threshold.high
    assert privacy.calibrate(values, values % 10, false_alarm=0.1).value == 179


def test_other_people_exceed_the_threshold_as_often_as_was_promised():
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        threshold = privacy.calibrate(rng.standard_normal(150), rng.integers(0, 20, 150), 0.02, n_boot=2)
        shares.append((rng.standard_normal(2000) > threshold.value).mean())
    assert 0.011 < np.mean(shares) < 0.021  # at most 0.02, and at least 0.02 - 1 / 151


def test_pairs_of_one_condition_are_drawn_together():
    rng = np.random.default_rng(2)
    conditions = np.repeat(np.arange(10), 100)
    values = rng.standard_normal(10)[conditions] + 0.1 * rng.standard_normal(1000)
    together = privacy.calibrate(values, conditions, 0.2)
    apart = privacy.calibrate(values, np.arange(1000), 0.2)
    assert together.high - together.low > 3 * (apart.high - apart.low)
    assert together.value == apart.value


@pytest.mark.parametrize(
    ("n", "n_conditions", "reason"), [(98, 10, "98 pairs"), (500, 4, "4 conditions"), (0, 1, "0 pairs")]
)
def test_a_threshold_from_too_few_people_is_refused(n, n_conditions, reason):
    with pytest.raises(InputError, match=rf"cannot be calibrated: .*{reason}.* needs 99 pairs from 5 conditions"):
        privacy.calibrate(np.arange(float(n)), np.arange(n) % n_conditions)


def test_as_few_as_necessary_are_enough():
    assert privacy.calibrate(np.arange(99.0), np.arange(99) % 5).value == 98


# ---- copies of pixels


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    hopper = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    others = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]
    return [hopper, *(Image.fromarray(pixels) for pixels in others)]


def described(pictures: list[Image.Image]) -> Pictures:
    """With small grey pictures as descriptors."""
    records = np.stack([near_duplicates.record(picture) for picture in pictures])
    views = np.stack([picture_views(record, None) for record in records])
    small = views[:, 0, ::16, ::16].astype(float) - 128
    return Pictures(views, records, small.reshape(len(views), -1), small[:, :, ::-1].reshape(len(views), -1))


def edits(picture: Image.Image) -> dict[str, Image.Image]:
    width, height = picture.size
    file = io.BytesIO()
    picture.resize((width // 2, height // 2)).save(file, "JPEG", quality=30)
    corners = np.array([0, 0, 0, height, width, height, width, 0]) + 0.02 * width * np.array(
        [1, -1, -1, 0, 1, 1, 0, -1]
    )
    return {
        "re-encoded": Image.open(file),
        "cropped": picture.crop((width // 12, height // 20, width, height - height // 12)),
        "mirrored": ImageOps.mirror(picture),
        "grey": picture.convert("L").convert("RGB"),
        "recoloured": ImageEnhance.Brightness(ImageEnhance.Color(picture).enhance(1.5)).enhance(0.7),
        "warped": picture.transform(picture.size, Image.Transform.QUAD, tuple(corners), Image.Resampling.BICUBIC),
        "framed": ImageOps.expand(picture, width // 8, "black"),
    }


def test_copies_of_real_photographs_are_traced_to_their_originals(photographs):
    real = described(photographs)
    made = [edits(picture) for picture in photographs]
    images = described([copy for copies_ in made for copy in copies_.values()])
    rows, scores = copies(real, images)
    assert rows.tolist() == np.repeat(np.arange(len(made)), len(made[0])).tolist()
    assert scores.min() > 0.9
    other = np.repeat(np.arange(len(made)), len(made[0])), np.arange(len(made))
    rows, scores = copies(real, images, other=other[::-1])  # only with the pictures that they are not copies of
    assert scores.max() < 0.8 and (rows != other[0]).all()


def test_what_a_build_takes_for_a_near_duplicate_scores_1(photographs):
    barred = altered_copies.altered("black bar over the eyes", photographs[1], 0, photographs[0])
    images = [photographs[1], ImageOps.mirror(photographs[2]), barred, photographs[2].rotate(90, expand=True)]
    rows, scores = copies(described(photographs), described(images))
    assert rows.tolist() == [1, 2, 1, 2] and scores.tolist() == [1] * 4


def test_bars_within_others_are_drawn_on_terminals_only(photographs, capsys):
    copies(described(photographs[:1]), described(photographs[:1]))
    pairs = [np.zeros((500, 3), int)]
    assert list(near_duplicates._alike_pairs([], pairs, [], wanted=lambda a, b: False)) == []
    assert capsys.readouterr().err == ""  # which is no terminal here


def test_of_a_single_colour_nothing_can_be_said(photographs):
    rows, scores = copies(described(photographs), described([Image.new("RGB", (64, 64), "grey")]))
    assert rows.tolist() == [-1] and np.isnan(scores).all()


def test_a_face_is_found_in_another_picture_by_its_own_view(photographs):
    hopper, other = (np.asarray(photographs[n].resize((256, 256))) for n in (0, 3))
    face = np.ascontiguousarray(hopper[40:200, 60:220])
    record, of_other = near_duplicates.record(photographs[0]), near_duplicates.record(Image.fromarray(other))
    photograph = picture_views(record, face)
    pasted = picture_views(of_other, face)
    without = picture_views(of_other, None)
    assert copy_score(pasted, photograph, FACE) > 0.99
    assert copy_score(pasted, photograph, WHOLE) < 0.8
    assert copy_score(without, photograph, FACE) == 0


def test_pictures_that_do_not_overlap_or_are_flat_do_not_agree(photographs):
    view = near_duplicates.record(photographs[1])["thumbnails"][0]
    assert laid_on(view, view) > 0.999
    assert laid_on(view, np.full_like(view, 90)) == 0
    assert laid_on(view, 255 - view) == 0


@needs_real_faces
def test_photographs_of_other_people_are_no_copies():
    with (REAL_FACES / "disease_images.csv").open() as table:
        names = [(row["disease_abbr"], row["image_name"]) for row in csv.DictReader(table)][::5]
    pictures = [Image.open(REAL_FACES / "rd_images" / folder / name).convert("RGB") for folder, name in names]
    real, people = described(pictures), np.arange(len(pictures))
    assert copies(real, real, other=(people, people))[1].max() < 0.85
    rows, scores = copies(real, described([edits(picture)["cropped"] for picture in pictures]))
    assert (rows == people).all() and scores.min() > 0.9


# ---- rejection


THRESHOLDS = {
    COPY: privacy.Threshold(0.9, 0.85, 0.95, 0.01, 500, 50),
    PERSON: privacy.Threshold(0.6, 0.5, 0.7, 0.01, 500, 50),
}


def test_each_image_gets_its_reason():
    scores, similarities = [0.95, 0.5, 0.9, 0.95, np.nan, 0.1], [0.7, 0.7, 0.6, np.nan, 0.1, np.nan]
    examination = privacy.Examination(
        np.array([0, 1, 1, 1, -1, 0]), np.array(scores), np.array([1, 0, 0, -1, 0, -1]), np.array(similarities)
    )
    nothing = "cannot be compared with the photographs: no face, or a single colour"
    assert privacy.reject_reasons(examination, ["AAR.1", "AAR.2"], THRESHOLDS) == [
        "near copy of AAR.1", "resembles the person of AAR.1", None, "near copy of AAR.2", nothing, nothing
    ]  # fmt: skip


# ---- verdict


def result(auc: float, low: float, high: float) -> dict:
    return {"auc": auc, "low": low, "high": high}


def reported(
    files=None,
    kept=(True, True, False),
    thresholds=None,
    scores=(0.9, 0.2, 0.95),
    similarities=(0.6, 0.5, 0.7),
    generators=("g", "g", "h"),
    of_g=None,
) -> dict:
    """A verdict on three images; of_g: replaces attacks on generator g, None leaves one out."""
    attacks = {BEFORE: result(0.8, 0.7, 0.9), AFTER: result(0.55, 0.45, 0.65)}
    attacks |= {POSITIVE: result(0.9, 0.8, 1.0), NEGATIVE: result(0.5, 0.4, 0.6)} | (of_g or {})
    rows = np.zeros(3, int)
    examination = privacy.Examination(rows, np.array(scores), rows, np.array(similarities))
    return privacy.verdict(
        {"synthetic/a.parquet": "0" * 64} if files is None else files,
        kept,
        generators,
        examination,
        THRESHOLDS | (thresholds or {}),
        {"g": {name: record for name, record in attacks.items() if record is not None}},
    )


def test_a_green_verdict_is_one_that_publishing_accepts(tmp_path):
    folder = small_datasets.synthetic(tmp_path / "sim", [["AAR.1"], ["AAR.2"]])
    contents = publishable.examine(folder)
    digests = {name: publishable.sha256_of(contents.files[name]) for name in contents.shards}
    report = reported(files=digests)
    assert (report["verdict"], report["reasons"], report["n_examined"], report["n_kept"]) == ("green", [], 3, 2)
    assert report["thresholds"][COPY]["value"] == 0.9 and report["membership_attack"]["g"][AFTER]["auc"] == 0.55
    write_json(folder / publishable.PRIVACY_REPORT, report)
    assert publishable.privacy_problems(contents) == []
    write_json(folder / publishable.PRIVACY_REPORT, reported(files=digests, thresholds={COPY: "too few pairs"}))
    assert "its verdict is not green" in " ".join(publishable.privacy_problems(contents))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": {}}, "no Parquet file"),
        ({"kept": (False, False, False)}, "no image was kept"),
        ({"scores": (0.2, 0.901, 0.1)}, "near copy: 1 kept images lie above the threshold"),
        ({"similarities": (0.601, 0.601, 0.1)}, "same person: 2 kept images lie above the threshold"),
        ({"similarities": (0.1, np.nan, 0.1)}, "same person: 1 kept images could not be measured"),
        ({"scores": (np.nan, 0.2, 0.1)}, "near copy: 1 kept images could not be measured"),
        ({"thresholds": {PERSON: "too few pairs"}}, "same person: there is no threshold: too few pairs"),
        ({"thresholds": {COPY: privacy.Threshold(np.nan, 0, 1, 0.01, 500, 50)}}, "near copy: there is no threshold"),
        ({"of_g": {BEFORE: None}}, "g: membership attack before filtering: has no result: was not made"),
        ({"of_g": {AFTER: "10 people are needed"}}, "after filtering: has no result: 10 people are needed"),
        ({"of_g": {AFTER: result(np.nan, 0, 1)}}, "after filtering: has no result"),
        ({"of_g": {AFTER: result(0.551, 0.45, 0.64)}}, "is above 0.55"),
        ({"of_g": {AFTER: result(0.5, 0.34, 0.651)}}, "it needs more people"),
        ({"of_g": {AFTER: result(0.3, 0.2, 0.449)}}, "told by what is missing"),
        ({"of_g": {POSITIVE: result(0.899, 0.8, 1.0)}}, "an attack that misses copies reassures falsely"),
        ({"of_g": {NEGATIVE: result(0.6, 0.551, 0.65)}}, "is not 0.5"),
        ({"of_g": {NEGATIVE: result(0.4, 0.35, 0.449)}}, "is not 0.5"),
        (
            {"of_g": dict.fromkeys((BEFORE, AFTER, POSITIVE, NEGATIVE), "too few")},
            "no membership attack has a result: too",
        ),
        ({"of_g": dict.fromkeys((BEFORE, AFTER, POSITIVE, NEGATIVE), result(0.5, 0.4, 0.6))}, "reassures falsely"),
    ],
)
def test_whatever_is_missing_or_too_high_makes_it_red(change, reason):
    report = reported(**change)
    assert report["verdict"] == "red" and reason in " ".join(report["reasons"])
    assert len(report["reasons"]) == 1
    json.dumps(report)


def test_every_generator_of_a_kept_image_must_have_been_attacked():
    report = reported(generators=("h", "g", "g"))
    assert report["verdict"] == "red"
    assert report["reasons"] == ["h: no membership attack has a result: was not made"]  # said once, not four times


# ---- the measurement


def test_the_benchmark_catches_its_copies(monkeypatch, capsys):
    plan = {"TESTED": range(60, 66), "CALIBRATED_ON": range(80, 85), "TRAINING_PEOPLE": 2, "CALIBRATION_PEOPLE": 4}
    plan |= {"N_SYNTHETIC": 30, "N_COPIES": 6, "N_PERSONS": 2, "FALSE_ALARM": {COPY: 0.05, PERSON: 0.05}}
    for name, value in (plan | {"SEED": 1, "CALIBRATION_SEED": 2}).items():
        monkeypatch.setattr(planted_copies, name, value)
    planted_copies.main(planted_copies.parse_args([]))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("SIMULATED: ", "    ")) for line in lines)
    assert any("copies: rejected as a near copy 6 of 6, 100.0 %" in line for line in lines)
    assert any("positive control, noisy pixels: AUC 1.000" in line for line in lines)
    assert lines[-1].startswith("SIMULATED: verdict ")
