"""generation/realism.py: known values of each number, sets that are alike, shifted and collapsed, and labels.

The features of sets are drawn from normal distributions, so that what they should give is known.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from generation import realism
from generation.perceptual_distance import square_pixels
from harness.errors import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_real_faces = pytest.mark.skipif(
    not (SHARED / "real_faces").is_dir(), reason="the real photographs are not on this machine"
)


# ---- single images


def test_shares_and_mean_of_face_scores_by_hand():
    scores = np.array([0.999, 0.99, 0.95, np.nan])
    assert realism.share_confident(scores) == 0.25  # 0.99 itself is not above it
    assert realism.share_with_face(scores) == 0.75
    assert realism.mean_confidence(scores) == pytest.approx((0.999 + 0.99 + 0.95) / 3)


def test_face_scores_without_faces_and_without_images():
    none = np.full(3, np.nan)
    assert realism.share_confident(none) == realism.share_with_face(none) == 0
    assert math.isnan(realism.mean_confidence(none))
    for share in (realism.share_confident, realism.share_with_face, realism.mean_confidence):
        with pytest.raises(ValueError, match="at least one image"):
            share(np.array([]))


def test_sharpness_of_a_chequered_and_an_even_picture_by_hand():
    rows, columns = np.indices((256, 256))
    board = np.repeat(np.where((rows + columns) % 2, 110, 100).astype(np.uint8)[..., None], 3, axis=2)
    # The four neighbours of a pixel differ from it by 10, so the Laplacian is -40 or 40.
    chequered, even = realism.sharpness([board, np.full_like(board, 77)])
    assert chequered == pytest.approx(1600) and even == 0


@pytest.mark.parametrize("side_px", [200, 512])
def test_blur_and_enlargement_lower_sharpness_contrast_and_noise_raise_it(side_px):
    image = Image.fromarray(skimage.data.astronaut()).resize((side_px, side_px))
    blurred = [image.filter(ImageFilter.GaussianBlur(radius * side_px / 512)) for radius in (0, 2, 4, 8)]
    values = realism.sharpness([square_pixels(version) for version in blurred])
    assert (np.diff(values) < 0).all() and values[-1] < values[0] / 10
    noise = np.random.default_rng(0).normal(0, 20, (side_px, side_px, 3))
    noisy = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    pale = ImageEnhance.Contrast(image).enhance(0.5)
    small = image.resize((64, 64)).resize((side_px, side_px))
    of_noisy, of_pale, of_small = realism.sharpness([square_pixels(version) for version in (noisy, pale, small)])
    assert of_noisy > values[0] > of_small
    assert of_pale == pytest.approx(values[0] / 4, rel=0.1)


@needs_real_faces
def test_blur_lowers_the_sharpness_of_every_real_photograph():
    for file in sorted((SHARED / "real_faces" / "rd_images").glob("P0*/*.1.jpg")):
        image = Image.open(file)
        versions = [image, *(image.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 2, 4))]
        assert (np.diff(realism.sharpness([square_pixels(version) for version in versions])) < 0).all()


def test_sharpness_refuses_pictures_of_another_size():
    with pytest.raises(ValueError, match="use square_pixels"):
        realism.sharpness([np.zeros((128, 128, 3), np.uint8)])


# ---- sets of images


def gaussian(n: int, seed: int, shift: float = 0, spread: float = 1) -> np.ndarray:
    """Features (n, 32) of which the first are more varied, around `shift` in the first."""
    features = np.random.default_rng([seed, n]).normal(size=(n, 32)) * spread * 0.9 ** np.arange(32)
    features[:, 0] += shift
    return features


def contains(estimate: realism.Estimate, value: float) -> bool:
    return estimate.low <= value <= estimate.high


def test_two_halves_of_one_set_differ_by_no_more_than_chance():
    whole = gaussian(200, 0)
    comparison = realism.compare_sets(whole[:100], whole[100:])
    assert contains(comparison.kid, 0) and comparison.kid.low < comparison.kid.value < comparison.kid.high
    assert comparison.kid.high < 0.2
    assert contains(comparison.precision, comparison.precision.value) and comparison.precision.value > 0.7
    sizes = (comparison.n_real, comparison.n_synthetic, comparison.n_compared, comparison.subset_size)
    assert sizes == (100, 100, 100, 50)


def test_identical_sets_have_precision_and_recall_1():
    features = gaussian(80, 0)
    comparison = realism.compare_sets(features, features[::-1], n_subsets=5)
    assert comparison.precision.value == comparison.recall.value == 1
    assert comparison.kid.high < 0  # copies: nearer to the real images than these are to one another


@pytest.mark.parametrize("n_synthetic", [60, 150])
def test_a_shifted_set_is_noticed(n_synthetic):
    comparison = realism.compare_sets(gaussian(90, 0), gaussian(n_synthetic, 1, shift=3))
    assert comparison.kid.low > 1 and comparison.recall.high < 0.6
    assert (comparison.n_compared, comparison.n_synthetic) == (min(90, n_synthetic), n_synthetic)


def test_a_collapsed_set_is_noticed_by_recall_and_even_with_unit_features_by_kid():
    real, collapsed = gaussian(300, 0), gaussian(300, 1, spread=0.3)
    # On the unit sphere around one direction: the kernel of raw features would be linear to the third digit.
    unit = [np.hstack([0.02 * features, np.ones((300, 1))]) for features in (real, collapsed)]
    unit = [features / np.linalg.norm(features, axis=1, keepdims=True) for features in unit]
    for first, second in ((real, collapsed), unit):
        comparison = realism.compare_sets(first, second)
        assert comparison.kid.low > 0
        assert comparison.precision.value > 0.95 and comparison.recall.high < 0.3


def test_scale_and_place_of_the_features_change_nothing():
    real, synthetic = gaussian(60, 0), gaussian(60, 1, shift=1)
    one = realism.compare_sets(real, synthetic, n_subsets=5)
    other = realism.compare_sets(1000 * real + 7, 1000 * synthetic + 7, n_subsets=5)
    assert other.kid.value == pytest.approx(one.kid.value, rel=1e-6)
    assert (other.precision, other.recall) == (one.precision, one.recall)


def test_the_seed_chooses_the_subsets():
    real, synthetic = gaussian(60, 0), gaussian(70, 1)
    one = realism.compare_sets(real, synthetic, n_subsets=5)
    assert realism.compare_sets(real, synthetic, n_subsets=5) == one
    assert realism.compare_sets(real, synthetic, n_subsets=5, seed=1) != one


def test_kid_equals_an_independent_computation():
    real, synthetic = gaussian(40, 0), gaussian(40, 1, shift=1)
    centre, scale = real.mean(axis=0), real.std(axis=0)
    scale = np.sqrt(np.mean(scale**2))
    x, y = (synthetic - centre) / scale, (real - centre) / scale
    across = polynomial_kernel(x, y, degree=3, coef0=1).mean()
    within = [polynomial_kernel(z, degree=3, coef0=1)[~np.eye(40, dtype=bool)].mean() for z in (x, y)]
    assert realism._kid(real, synthetic) == pytest.approx(sum(within) - 2 * across, rel=1e-9)


def test_precision_and_recall_equal_an_independent_computation_in_this_order():
    real, synthetic = gaussian(60, 0), gaussian(60, 1, spread=0.6)

    def share_within(points: np.ndarray, manifold: np.ndarray) -> float:
        neighbours = NearestNeighbors(n_neighbors=4).fit(manifold)  # the point itself and three others
        radii = neighbours.kneighbors(manifold)[0][:, -1]
        distances = np.linalg.norm(points[:, None] - manifold, axis=-1)
        return float((distances <= radii).any(axis=1).mean())

    precision, recall = realism._precision_recall(real, synthetic)
    assert precision == pytest.approx(share_within(synthetic, real))
    assert recall == pytest.approx(share_within(real, synthetic))
    assert precision > 0.9 > 0.5 > recall
    comparison = realism.compare_sets(real, synthetic, n_subsets=3)
    assert (comparison.precision.value, comparison.recall.value) == (precision, recall)


def test_intervals_hold_the_value_that_new_samples_give_on_average():
    comparisons = [
        realism.compare_sets(gaussian(50, 10 + i), gaussian(50, 100 + i, shift=1), n_subsets=30, seed=i)
        for i in range(30)
    ]
    for name in ("kid", "precision", "recall"):
        estimates = [getattr(comparison, name) for comparison in comparisons]
        values = np.array([estimate.value for estimate in estimates])
        assert np.mean([contains(estimate, values.mean()) for estimate in estimates]) >= 0.8
        widths = np.array([estimate.high - estimate.low for estimate in estimates])
        assert widths.mean() < 3 * 2 * 1.96 * values.std()  # not by being endless


def test_an_interval_reaches_two_standard_deviations_of_the_subsets_whatever_their_size(monkeypatch):
    kid, values = realism._kid, []
    monkeypatch.setattr(realism, "_kid", lambda *subset: values.append(kid(*subset)) or values[-1])
    real, synthetic = gaussian(100, 0), gaussian(100, 1, shift=1)
    half = realism.compare_sets(real, synthetic).kid
    assert half.value == pytest.approx(np.mean(values))
    assert half.high - half.low == pytest.approx(2 * 1.96 * np.std(values, ddof=1), rel=1e-4)
    monkeypatch.setattr(realism, "LARGEST_SUBSET", 25)
    quarter = realism.compare_sets(real, synthetic).kid
    assert quarter.high - quarter.low == pytest.approx(half.high - half.low, rel=0.35)  # 1.7 without the correction


def test_subsets_have_at_most_1000_images():
    comparison = realism.compare_sets(gaussian(2100, 0)[:, :2], gaussian(2050, 1)[:, :2], n_subsets=2)
    assert (comparison.subset_size, comparison.n_subsets, comparison.n_compared) == (1000, 2, 2050)


def test_photographs_of_one_person_are_drawn_once():
    people, others = gaussian(60, 0), gaussian(60, 1)
    subjects = [f"S{i}" for i in np.repeat(np.arange(60), 4)]
    near = np.repeat(people, 4, axis=0) + 0.01 * np.random.default_rng(2).normal(size=(240, 32))
    by_subject = realism.compare_sets(near, others, subjects)
    assert by_subject.n_real == by_subject.n_compared == 60 and contains(by_subject.kid, 0)
    alone = realism.compare_sets(people, others)
    assert by_subject.precision.value == pytest.approx(alone.precision.value, abs=0.1)
    unaware = realism.compare_sets(near, others)
    assert unaware.n_real == 240 and unaware.precision.value < alone.precision.value - 0.1
    unknown = realism.compare_sets(people, others, [None] * 60, n_subsets=3)
    assert unknown == realism.compare_sets(people, others, n_subsets=3)


@pytest.mark.parametrize(
    ("n_real", "n_synthetic", "which"), [(49, 50, "49 real"), (50, 49, "49 syn"), (0, 60, "0 real")]
)
def test_small_sets_are_refused_with_the_reason(n_real, n_synthetic, which):
    with pytest.raises(InputError, match=rf"{which}.* too few for an honest number.* at least 50"):
        realism.compare_sets(np.ones((n_real, 4)), np.ones((n_synthetic, 4)))


def test_many_photographs_of_few_people_are_a_small_set():
    with pytest.raises(InputError, match="20 real subjects"):
        realism.compare_sets(gaussian(100, 0), gaussian(100, 1), [f"S{i % 20}" for i in range(100)])


def test_features_that_are_not_comparable_are_refused():
    real = gaussian(60, 0)
    with pytest.raises(ValueError, match=r"should be \(n, d\) and \(m, d\)"):
        realism.compare_sets(real, real[:, :5])
    broken = real.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="synthetic image 7 are not finite"):
        realism.compare_sets(real, broken)
    with pytest.raises(ValueError, match="same features"):
        realism.compare_sets(np.ones((60, 4)), real[:, :4])
    with pytest.raises(ValueError, match="59 subjects for 60"):
        realism.compare_sets(real, real, ["a"] * 59)


# ---- labels


def test_labels_and_margins_by_hand():
    distances = np.array(
        [[4, 1, 2], [0, 3, 5], [2, 2, 9], [0, 0, 1], [np.nan, 3, 1], [np.nan] * 3, [8, 4, np.nan]], float
    )
    before = distances.copy()
    labels, confidence = realism.label_by_prototype(distances)
    assert labels.tolist() == [1, 0, 0, 0, 2, -1, 1]
    assert confidence[:5] == pytest.approx([0.5, 1, 0, 0, 2 / 3]) and confidence[6] == 0.5
    assert np.isnan(confidence[5]) and np.array_equal(distances, before, equal_nan=True)


def test_labels_need_at_least_two_classes_and_distances():
    for distances in (np.ones((3, 1)), np.ones(3), -np.ones((3, 2))):
        with pytest.raises(ValueError, match="at least two classes, and >= 0"):
            realism.label_by_prototype(distances)
    labels, confidence = realism.label_by_prototype(np.zeros((0, 4)))
    assert labels.shape == confidence.shape == (0,)


def photographs(n: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, 8) of points to eight prototypes, and their classes (n,)."""
    rng = np.random.default_rng(seed)
    prototypes = np.random.default_rng(0).normal(size=(8, 5))
    labels = rng.integers(8, size=n)
    points = prototypes[labels] + noise * rng.normal(size=(n, 5))
    return np.linalg.norm(points[:, None] - prototypes, axis=-1), labels


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_probabilities_of_labels_agree_with_how_often_new_labels_are_right(noise):
    calibration = realism.calibrate_labels(*photographs(600, noise, 1))
    distances, labels = photographs(4000, noise, 2)
    nearest, confidence = realism.label_by_prototype(distances)
    right, probability = nearest == labels, calibration.probability(confidence)
    assert probability.mean() == pytest.approx(right.mean(), abs=0.05)
    upper = confidence > np.median(confidence)
    for half in (upper, ~upper):
        assert probability[half].mean() == pytest.approx(right[half].mean(), abs=0.07)
    assert calibration.share_right == pytest.approx(right.mean(), abs=0.07) and calibration.n == 600


def test_a_calibration_exists_if_all_labels_are_right_or_all_wrong():
    distances, _ = photographs(30, 0.5, 1)
    nearest, confidence = realism.label_by_prototype(distances)
    right = realism.calibrate_labels(distances, nearest).probability(confidence)
    wrong = realism.calibrate_labels(distances, (nearest + 1) % 8).probability(confidence)
    # Platt's targets: 31 / 32 for 30 of 30 that were right, and 1 / 32 for none of 30
    assert right == pytest.approx(31 / 32, abs=1e-3) and wrong == pytest.approx(1 / 32, abs=1e-3)


def test_photographs_without_a_face_are_left_out_of_the_calibration():
    distances, labels = photographs(50, 1, 1)
    with_gaps, labels_with_gap = np.vstack([distances, np.full((1, 8), np.nan)]), np.append(labels, 3)
    assert realism.calibrate_labels(with_gaps, labels_with_gap) == realism.calibrate_labels(distances, labels)
    calibration = realism.calibrate_labels(distances, labels)
    assert np.isnan(calibration.probability(np.array([np.nan]))).all()
    with pytest.raises(ValueError, match="no photograph has a face"):
        realism.calibrate_labels(np.full((3, 8), np.nan), labels[:3])
