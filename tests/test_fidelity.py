"""fidelity.py, descriptors.py, set_fidelity.py: the paper's numbers against plain loops, ours against known truth."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from classification.classifiers import probe_features
from classification.knowledge_choice import fit_informed_probe
from curation.leak_guard import Guard
from curation.protocols import Fold
from generation.descriptors import KINDS, Alignment, describe
from generation.fidelity import class_rank, fit, log_odds, own_class_score
from generation.set_fidelity import ClassMeans, set_fidelity
from harness.errors import InputError
from imaging.faces import landmark_descriptor
from phenotyping import condition_prior, phenotypes
from simulation.face_geometry import LANDMARK_NAMES, Shape
from simulation.people import COUNTRY_ANCESTRY, draw_person

READING_ERROR = 1.5  # SD of the parameters that stand for a network's features: it would read them from pixels


def simulated(n_conditions: int, per_condition: int, seed: int) -> dict[str, np.ndarray]:
    """People of the first conditions: parameters (n, p) with errors, points (n, 38, 2) px, boxes, labels."""
    conditions, countries = phenotypes.conditions()[:n_conditions], list(COUNTRY_ANCESTRY)
    rng, parameters, points = np.random.default_rng(seed), [], []
    labels = np.tile(np.arange(n_conditions), per_condition)
    for i, label in enumerate(labels):
        person = draw_person(conditions[label], countries[i % len(countries)], rng)
        z = np.array([person.z[name] for name in phenotypes.parameters()])
        parameters.append(z + READING_ERROR * rng.normal(size=len(z)))
        named = Shape(person.z, person.age_years).landmarks()
        points.append(128 + 60 * np.array([named[name] for name in LANDMARK_NAMES]) + rng.normal(0, 0.8, (38, 2)))
    points = np.array(points)
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    return {"parameters": np.array(parameters), "points": points, "boxes": boxes, "labels": labels}


@pytest.fixture(scope="module")
def training() -> dict[str, np.ndarray]:
    return simulated(20, 5, seed=1)


@pytest.fixture(scope="module")
def people() -> dict[str, np.ndarray]:
    return simulated(20, 15, seed=2)


def each_alone(labels: np.ndarray) -> np.ndarray:
    return np.arange(len(labels))


def rows_of(kind: str, images: dict) -> np.ndarray:
    """Descriptors of simulated people; their parameters stand for the features of a network."""
    points = images["points"] if kind == "dense" else images["points"][:, :5]
    return describe(kind, points, images["boxes"], images["parameters"])


# ---- the paper's descriptor


def plain_descriptor(points: np.ndarray, box: np.ndarray) -> list[float]:
    scaled = [(x / (box[2] - box[0]), y / (box[3] - box[1])) for x, y in points]
    return [((a - c) ** 2 + (b - d) ** 2) ** 0.5 for a, b in scaled for c, d in scaled]


def test_the_papers_numbers_equal_a_plain_implementation_on_200_images(training):
    images = simulated(20, 10, seed=3)
    plain_training = [plain_descriptor(p, b) for p, b in zip(training["points"][:, :5], training["boxes"], strict=True)]
    prototypes = []
    for c in range(20):
        own = [row for row, label in zip(plain_training, training["labels"], strict=True) if label == c]
        prototypes.append([sum(column) / len(own) for column in zip(*own, strict=True)])
    cosine, euclidean, rank = [], [], []
    for points, box, label in zip(images["points"][:, :5], images["boxes"], images["labels"], strict=True):
        row = plain_descriptor(points, box)
        likeness = [cosine_similarity([row], [prototype])[0, 0] for prototype in prototypes]
        cosine.append(likeness[label])
        euclidean.append(sum((x - y) ** 2 for x, y in zip(row, prototypes[label], strict=True)) ** 0.5)
        rank.append(1 + sorted(likeness, reverse=True).index(likeness[label]))

    fitted = fit(rows_of("paper", training), training["labels"], each_alone(training["labels"]), 20, "paper")
    rows = rows_of("paper", images)
    assert len(rows) == 200
    assert own_class_score(fitted.scores(rows), images["labels"]) == pytest.approx(cosine, abs=1e-6)
    assert (fitted.cosine(rows) == fitted.scores(rows)).all()
    assert own_class_score(fitted.euclidean(rows), images["labels"]) == pytest.approx(euclidean, abs=1e-6)
    assert class_rank(fitted.scores(rows), images["labels"]) == pytest.approx(rank, abs=1e-6)
    assert 1.5 < np.mean(rank) < 10.5  # better than chance, but no perfect descriptor: the ranks are spread


# ---- descriptors


def test_descriptors_are_the_projects_own_and_a_missed_face_is_nan(training):
    points, boxes = training["points"][:4, :5].copy(), training["boxes"][:4].copy()
    expected = landmark_descriptor(points, boxes)
    points[1], boxes[2, 2] = np.nan, boxes[2, 0]  # no face; a box without area
    paper = describe("paper", points, boxes)
    assert (paper[[0, 3]] == expected[[0, 3]]).all() and np.isnan(paper[[1, 2]]).all()
    assert describe("shape", points).shape == (4, 10) and np.isnan(describe("shape", points)[1]).all()
    maps = np.random.default_rng(0).normal(size=(3, 4, 2, 2)).astype(np.float32)
    assert (describe("probe", features=maps) == probe_features(torch.tensor(maps)).numpy()).all()
    maps[1] = np.nan
    assert np.isnan(describe("probe", features=maps)).all(axis=1).tolist() == [False, True, False]
    assert describe("embedding", features=maps).shape == (3, 16)


def test_descriptors_refuse_what_they_cannot_use(training):
    for arguments in (("colour",), ("paper", training["points"][:, :5]), ("probe",), ("shape", training["points"])):
        with pytest.raises(ValueError, match="descriptor"):
            describe(*arguments)


def test_alignment_turns_shapes_as_scipy_does(training):
    points = training["points"][:30].reshape(30, -1)
    alignment = Alignment.fitted_to(points)
    mean_shape = np.stack([alignment.mean_shape.real, alignment.mean_shape.imag], axis=1)
    assert np.linalg.norm(mean_shape) == pytest.approx(1) and mean_shape.mean(axis=0) == pytest.approx([0, 0])
    full_fits = []
    for row, aligned in zip(points, alignment(points), strict=True):
        shape = row.reshape(-1, 2) - row.reshape(-1, 2).mean(axis=0)
        shape /= np.linalg.norm(shape)
        rotation, scale = orthogonal_procrustes(shape, mean_shape)
        assert aligned.reshape(-1, 2) == pytest.approx(shape @ rotation, abs=1e-9)
        full_fits.append(scale * shape @ rotation)
    average = np.mean(full_fits, axis=0)  # the full Procrustes mean is the average of the shapes fitted to it
    assert average / np.linalg.norm(average) == pytest.approx(mean_shape, abs=1e-9)


def test_shape_knows_no_position_size_and_rotation_but_knows_mirror_images(training, people):
    fitted = fit(rows_of("shape", training), training["labels"], each_alone(training["labels"]), 20, "shape")
    face = people["points"][:10, :5]
    angle = 0.6
    turned = 2.5 * face @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]] + [300, -40]
    assert fitted.scores(describe("shape", turned)) == pytest.approx(fitted.scores(describe("shape", face)))
    assert not np.allclose(fitted.scores(describe("shape", face * [-1, 1])), fitted.scores(describe("shape", face)))
    coincident = np.full((1, 5, 2), 7.0)
    assert np.isnan(fitted.scores(describe("shape", coincident))).all()


# ---- scores, ranks, evidence


def test_ranks_share_ties_and_skip_what_cannot_be_scored():
    scores = np.array([[3.0, 1.0, np.nan, 2.0], [1, 1, np.nan, 1], [0.1 + 0.2, 0.3, np.nan, 0], [np.nan] * 4])
    assert class_rank(scores, np.array([3, 0, 1, 0]))[:3].tolist() == [2, 2, 1.5]
    assert np.isnan(class_rank(scores, np.array([2, -1, 2, 0]))).all()
    assert own_class_score(scores, np.array([1, -1, 3, 0])).tolist()[::2] == [1, 0]
    with pytest.raises(ValueError, match="reach from"):
        class_rank(scores, np.array([0, 1, 2, 4]))


def test_evidence_compares_a_class_with_the_mean_of_the_others():
    p = np.array([[0.5, 0.3, np.nan, 0.2]])
    evidence = log_odds(np.log(p) + 5)  # a constant of a row has no effect
    assert evidence[0, [0, 1, 3]] == pytest.approx(np.log([0.5 / 0.25, 0.3 / 0.35, 0.2 / 0.4]))
    assert np.isnan(evidence[0, 2])
    certain = log_odds(np.array([[2000.0, 0, 0], [0, 0, 0]]))
    assert certain[0] == pytest.approx([2000, -2000 + np.log(2), -2000 + np.log(2)])
    assert certain[1] == pytest.approx([0, 0, 0])
    assert np.isnan(log_odds(np.array([[1.0, np.nan]]))).all()


def test_an_embedding_is_scored_by_means_that_are_drawn_to_the_centre():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [2, 4, 1])
    rows = rng.normal(size=(7, 5)) + 2
    fitted = fit(rows, labels, each_alone(labels), 3, "embedding")
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([x[labels == c].mean(axis=0) for c in range(3)])
    residuals, s = x - means[labels], fitted.scorer.probe.shrinkage
    within = residuals.T @ residuals / 4  # seven images, three means
    precision = np.linalg.inv((1 - s) * within + s * np.trace(within) / 5 * np.eye(5))
    drawn = (means - x.mean(axis=0)) * np.array([2 / 5, 4 / 7, 1 / 4])[:, None]
    raw = (x - x.mean(axis=0)) @ precision @ drawn.T - 0.5 * np.diag(drawn @ precision @ drawn.T)
    expected = log_softmax(raw / fitted.calibration.temperature, axis=1)
    assert fitted.scores(rows) == pytest.approx(expected)


def test_ours_tell_more_than_the_papers(training, people):
    ranks = {}
    for kind in KINDS:
        fitted = fit(rows_of(kind, training), training["labels"], each_alone(training["labels"]), 20, kind)
        ranks[kind] = class_rank(fitted.scores(rows_of(kind, people)), people["labels"]).mean()
    assert max(ranks[kind] for kind in ("dense", "embedding", "probe")) < 0.5 * ranks["paper"]
    assert ranks["paper"] < 7 and ranks["shape"] < 7  # of 20, chance 10.5; these boxes have no error


# ---- calibration


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_come_true_on_people_who_were_not_seen(training, people, kind):
    """Half of the labels right, each wrong one as frequent as another: the share of right ones is what was said."""
    fitted = fit(rows_of(kind, training), training["labels"], each_alone(training["labels"]), 20, kind)
    assert fitted.calibration.n_images == 100
    scores = fitted.scores(rows_of(kind, people))
    every_label = np.tile(np.arange(20), (len(scores), 1))
    p = np.stack([fitted.phenotype_probability(scores, column) for column in every_label.T], axis=1)
    assert (p == fitted.phenotype_probabilities(scores)).all() and (p >= 0).all() and (p <= 1).all()
    right = every_label == people["labels"][:, None]
    weight = np.where(right, 1.0, 1 / 19)
    assert (weight * p).sum() / weight.sum() == pytest.approx(0.5, abs=0.05)
    place = np.minimum((5 * p).astype(int), 4)
    gaps = [abs((weight * (p - right))[place == i].sum()) for i in range(5)]
    assert sum(gaps) / weight.sum() < 0.07
    model = LogisticRegression(C=1e6).fit(
        np.log(p / (1 - p)).reshape(-1, 1), right.ravel(), sample_weight=weight.ravel()
    )
    assert 0.6 < model.coef_[0, 0] < 1.6  # neither over- nor underconfident
    assert np.mean(p[right]) > np.mean(p[~right]) + 0.02


def test_copies_of_a_photograph_do_not_make_probabilities_bolder(training, people):
    """Each photograph twice: with its group left out together, its copy does not vouch for it."""
    rows, labels = np.repeat(rows_of("probe", training), 2, axis=0), np.repeat(training["labels"], 2)
    kept_together = fit(rows, labels, np.repeat(np.arange(100), 2), 20, "probe")
    torn_apart = fit(rows, labels, np.arange(200), 20, "probe")
    scores = [fitted.scores(rows_of("probe", people)) for fitted in (kept_together, torn_apart)]
    losses = [-own_class_score(s, people["labels"]).mean() for s in scores]
    assert losses[0] < losses[1] - 0.1


def test_a_descriptor_that_tells_nothing_gives_one_half():
    rng = np.random.default_rng(4)
    labels = np.tile(np.arange(6), 8)
    fitted = fit(rng.normal(size=(48, 4)), labels, each_alone(labels), 6, "probe")
    rows = rng.normal(size=(50, 4))
    p = fitted.phenotype_probability(fitted.scores(rows), np.zeros(50, int))
    assert p == pytest.approx(0.5, abs=0.2)


def test_without_inner_folds_the_probability_is_a_guess_that_says_so(training):
    rows, labels = rows_of("probe", training)[:20], training["labels"][:20]  # one photograph of each condition
    fitted = fit(rows, labels, each_alone(labels), 20, "probe")
    assert fitted.calibration.n_images == 0 and fitted.calibration.slope == 1
    p = fitted.phenotype_probability(fitted.scores(rows), labels)
    assert (p > 0.5).all() and (p < 1).all()


# ---- knowledge of the conditions' terms


@pytest.fixture(scope="module")
def pairs() -> dict[str, np.ndarray]:
    return simulated(20, 2, seed=4)


@pytest.fixture(scope="module")
def profiles() -> np.ndarray:
    codes = [condition.orphanet_code for condition in phenotypes.conditions()[:20]]
    return condition_prior.profiles(codes, condition_prior.project_table())[0]


def test_terms_tell_more_and_probabilities_stay_calibrated(pairs, people, profiles):
    rows, labels = rows_of("probe", pairs), pairs["labels"]
    without, informed = (fit(rows, labels, each_alone(labels), 20, "probe", known) for known in (None, profiles))
    assert without.choice is None and informed.choice.used
    asked = rows_of("probe", people)
    ranks = [class_rank(fitted.scores(asked), people["labels"]).mean() for fitted in (without, informed)]
    assert ranks[1] < ranks[0] + 0.05  # of 300 images and 20 classes: what terms add to two photographs is in the loss
    fold = Fold(0, np.arange(40), np.array([], int), np.array([], int))
    guard = Guard(fold, {"image_id": [str(row) for row in range(40)], "group_id": np.arange(40)})
    probe, _ = fit_informed_probe(rows, labels, each_alone(labels), fold.train, guard, profiles)
    expected = log_softmax(probe.scores(asked) / informed.calibration.temperature, axis=1)
    assert informed.scores(asked) == pytest.approx(expected)  # those of the classifier's probe
    assert informed.calibration.n_images == 40
    losses = [-own_class_score(fitted.scores(asked), people["labels"]).mean() for fitted in (without, informed)]
    assert losses[1] < losses[0] - 0.1
    assert informed.cosine(asked) == pytest.approx(without.cosine(asked))  # the means of the photographs stay


def test_terms_of_other_conditions_change_no_score(pairs, people, profiles):
    rows, labels = rows_of("probe", pairs), pairs["labels"]
    dealt = np.random.default_rng(0).permutation(profiles)
    without, misled = (fit(rows, labels, each_alone(labels), 20, "probe", known) for known in (None, dealt))
    assert not misled.choice.used
    asked = rows_of("probe", people)
    assert (misled.scores(asked) == without.scores(asked)).all()


def test_with_terms_a_class_without_training_images_has_no_score_and_one_without_annotations_has_its_own(
    pairs, people, profiles
):
    rows, labels, groups = rows_of("embedding", pairs), pairs["labels"], each_alone(pairs["labels"])
    known = profiles.copy()
    known[3] = np.nan
    seen = labels != 7
    fitted = fit(rows[seen], labels[seen], groups[seen], 20, "embedding", known)
    assert fitted.choice.used
    scores = fitted.scores(rows_of("embedding", people))
    assert np.isnan(scores).all(axis=0).tolist() == [c == 7 for c in range(20)]
    assert np.isfinite(scores[:, 3]).all()


# ---- gaps in the input


@pytest.mark.parametrize("kind", KINDS)
def test_missed_faces_and_empty_classes_are_nan_and_stop_nothing(training, people, kind):
    rows, labels = rows_of(kind, training).copy(), training["labels"] * 2  # classes 1, 3, ... have no training images
    rows[3] = np.nan
    whole = np.arange(len(rows)) != 3
    groups = np.array([f"g{i}" for i in range(len(rows))])
    fitted, without = (fit(rows[r], labels[r], groups[r], 40, kind) for r in (np.full(100, True), whole))
    test_rows = rows_of(kind, people)[:6].copy()
    test_rows[2] = np.nan
    scores = fitted.scores(test_rows)
    assert (np.isnan(scores) == np.isnan(without.scores(test_rows))).all()
    assert np.nan_to_num(scores) == pytest.approx(np.nan_to_num(without.scores(test_rows)))
    assert np.isnan(scores[2]).all() and np.isnan(scores[:, 1::2]).all()
    assert np.isfinite(scores[[0, 1, 3, 4, 5]][:, ::2]).all()
    wanted = np.array([0, 1, 2, -1, 38, 4])
    gaps = [False, True, True, True, False, False]
    for values in (class_rank(scores, wanted), fitted.phenotype_probability(scores, wanted)):
        assert np.isnan(values).tolist() == gaps
    assert fitted.scores(test_rows[:0]).shape == (0, 40)
    assert np.isnan(fitted.scores(test_rows[[2]])).all()


def test_fit_refuses_what_it_cannot_use(training):
    rows, labels = rows_of("paper", training), training["labels"]
    with pytest.raises(InputError, match="no face was found in any of the 100 training images"):
        fit(np.full_like(rows, np.nan), labels, each_alone(labels), 20, "paper")
    for kind, profiles in (("paper", np.zeros((20, 3))), ("probe", np.zeros((19, 3))), ("probe", np.zeros(20))):
        with pytest.raises(ValueError, match="profiles"):
            fit(rows_of(kind, training), labels, each_alone(labels), 20, kind, profiles)
    for bad in ((rows, labels + 1), (rows, labels[:-1]), (rows, labels.astype(float)), (rows[:, 0], labels)):
        with pytest.raises(ValueError, match=r"labels|descriptors"):
            fit(*bad, each_alone(labels), 20, "paper")
    with pytest.raises(ValueError, match="groups"):
        fit(rows, labels, each_alone(labels)[:-1], 20, "paper")
    with pytest.raises(ValueError, match="colour"):
        fit(rows, labels, each_alone(labels), 20, "colour")
    with pytest.raises(ValueError, match="24 wide"):
        fit(rows, labels, each_alone(labels), 20, "paper").scores(rows[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_has_rank_one_and_no_probability(training, kind):
    """With nothing to compare with, nobody knows how likely the label is."""
    rows = rows_of(kind, training)[:6]
    fitted = fit(rows, np.full(6, 2), each_alone(rows), 4, kind)
    scores = fitted.scores(rows)
    assert (class_rank(scores, np.full(6, 2)) == 1).all()
    assert np.isnan(fitted.phenotype_probability(scores, np.full(6, 2))).all()


# ---- sets


def test_set_fidelity_by_hand():
    """People of class 0 at 0 and 4, of class 1 at 10 and 12: variances 8 and 2, within 5; a set at 5 and 9."""
    labels, groups = np.array([0, 0, 0, 1, 1]), np.array(["a", "a", "b", "c", "d"])  # two photographs of person a
    real = ClassMeans.of(np.array([[-1.0], [1], [4], [10], [12]]), labels, groups)
    assert real.means.tolist() == [[2], [11]] and real.n_groups.tolist() == [2, 2] and real.within == 5
    images = ClassMeans.of(np.array([[5.0], [9], [3]]), np.array([0, 0, 1]), np.arange(3))
    fidelity = set_fidelity(images, real)
    assert fidelity.squared_distance[0] == pytest.approx((25 - 8 / 2 - 5 / 2) / 5)
    assert fidelity.distance[0] == pytest.approx(np.sqrt(3.7)) and np.isnan(fidelity.distance[1])  # one image
    assert fidelity.n_images.tolist() == [2, 1] and fidelity.classes.tolist() == [0, 1]
    assert fidelity.squared_distance_of_average[0] == pytest.approx((4.5**2 - (5 / 2 + 5 / 2) / 4) / 5)


def test_sampling_error_is_removed_from_the_distance_of_sets():
    rng = np.random.default_rng(6)
    n_classes, spread = 300, np.array([3.0, 1.0, 1.0, 0.5])
    centres = rng.normal(size=(n_classes, 4))
    unit = np.square(spread).sum()

    def draw(per_class: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(n_classes), per_class)
        return (centres + np.array([0, shift, 0, 0]))[labels] + spread * rng.normal(size=(len(labels), 4)), labels

    training, labels = draw(3)
    fitted = fit(training, labels, each_alone(labels), n_classes, "paper")  # compared as they are
    for shift in (0.0, 2.0):
        for per_class in (2, 8):
            squared = fitted.set_fidelity(*draw(per_class, shift)).squared_distance
            assert squared.mean() == pytest.approx(shift**2 / unit, abs=4 * squared.std() / np.sqrt(n_classes))
            assert squared.mean() == pytest.approx(shift**2 / unit, abs=0.15)
    one_person, wanted = draw(1)  # the same person eight times: a large set, but far from its condition
    copies = np.repeat(one_person, 8, axis=0) + 0.01 * rng.normal(size=(8 * n_classes, 4))
    assert fitted.set_fidelity(copies, np.repeat(wanted, 8)).squared_distance.mean() == pytest.approx(1, abs=0.3)
    of_average = fitted.set_fidelity(*draw(2)).squared_distance_of_average
    truth = np.square(centres - centres.mean(axis=0)).sum(axis=1) / unit
    assert of_average.mean() == pytest.approx(truth.mean(), abs=0.12)


def test_set_fidelity_skips_missed_faces_and_labels_without_people(training, people):
    fitted = fit(rows_of("dense", training), training["labels"], each_alone(training["labels"]), 21, "dense")
    rows, labels = rows_of("dense", people).copy(), people["labels"].copy()
    whole = fitted.set_fidelity(rows, labels, each_alone(labels))
    rows[labels == 0] = np.nan
    labels[labels == 1], labels[labels == 2] = -1, 20
    part = fitted.set_fidelity(rows, labels)
    assert part.classes.tolist() == list(range(3, 20))
    assert part.squared_distance == pytest.approx(whole.squared_distance[3:])
    assert abs(whole.squared_distance.mean()) < 0.15  # true people: the reference
    assert fitted.set_fidelity(rows, np.roll(people["labels"], 7)).squared_distance.mean() > 0.4
    assert len(fitted.set_fidelity(rows[:0], labels[:0]).classes) == 0
