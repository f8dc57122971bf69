"""retrieval.py and embeddings.py: exact search against NumPy, ranks, galleries, views, and what has no answer."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from classification import retrieval
from classification.embeddings import Network, Viewed, averaged, embed, side_by_side
from classification.few_shot_names import VIEWS
from classification.few_shot_run import scores_of_methods
from classification.linear_probe import FALLBACK_SHRINKAGE, choose_regularisation
from classification.synthetic_teachers import SyntheticUses
from curation.leak_guard import Guard
from curation.protocols import Fold
from scoring import metrics


def unit(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_search_equals_a_full_sort():
    gallery, probes = unit((500, 16)), unit((40, 16), 1)
    found = retrieval.search(gallery, probes, 7)
    products = probes.astype(float) @ gallery.T.astype(float)
    assert (found.row == np.argsort(-products, axis=1)[:, :7]).all()
    assert found.similarity == pytest.approx(np.take_along_axis(products, found.row, axis=1), abs=1e-6)
    assert retrieval.search(gallery[:3], probes, 7).row.shape == (40, 3)


def test_every_condition_ranks_by_its_nearest_image_the_last_ones_too():
    """A condition far behind had the rank of one that the gallery lacks."""
    gallery, probes, labels = unit((1000, 8)), unit((50, 8), 1), np.arange(1000) % 100
    labels[300:] = 5  # a condition that fills the first neighbours of many probes
    found = retrieval.class_similarities(gallery, labels, probes, 105)
    products = probes.astype(float) @ gallery.T.astype(float)
    expected = np.stack([products[:, labels == c].max(axis=1) for c in range(100)], axis=1)
    assert found[:, :100] == pytest.approx(expected, abs=1e-6) and (found[:, 100:] == -np.inf).all()
    own = np.random.default_rng(3).integers(0, 100, 50)
    exact, _ = retrieval.ranks(expected, own)
    assert (retrieval.ranks(found, own)[0] == exact).all() and (exact > 60).sum() > 10


def test_ranks_of_ties_of_missing_classes_and_of_nan():
    scores = np.array([[3.0, 2, 1, -np.inf], [1, 1, 1, -np.inf], [1, 2, 3, -np.inf]])
    rank, tied = retrieval.ranks(scores, np.array([0, 1, 3]))
    assert rank.tolist() == [1, 2, 5] and tied.tolist() == [1, 3, 1]  # equal: the mean; missing: C + 1
    with pytest.raises(ValueError, match="not a number"):
        retrieval.ranks(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(ValueError, match="probes have embeddings that are not finite"):
        retrieval.search(unit((4, 3)), np.array([[np.nan, 0, 0]]), 1)


@pytest.mark.parametrize("n_tied", [2, 40])
def test_conditions_that_tie_share_the_first_places_as_in_all_other_scores(n_tied):
    labels = np.arange(40) % n_tied
    scores = np.zeros((40, 40))
    scores[:, :n_tied] = 1.0 + 1e-15 * np.arange(n_tied)  # but for rounding
    rank, tied = retrieval.ranks(scores, labels)
    table = pd.DataFrame({"rank": rank, "tied": tied, "label": labels, "subject": [f"s{i}" for i in range(40)]})
    table["n_ranked"] = 40
    found = [retrieval.summary(table)[f"top{k}"]["mean"] for k in retrieval.TOP_K]
    assert found == pytest.approx([metrics.topk_hits(scores.round(9), labels, k).mean() for k in retrieval.TOP_K])
    assert found == pytest.approx([min(1, k / n_tied) for k in retrieval.TOP_K])


def test_a_network_that_shows_all_photographs_alike_ranks_by_chance():
    """Its similarities differ by rounding, also those of equal float32 vectors."""
    labels, same = np.arange(456) % 100, np.tile(unit((1, 1664)), (456, 1))
    rank, tied = retrieval.ranks(retrieval.class_similarities(same, labels, same[:113], 100), labels[:113])
    assert (rank == 50.5).all() and (tied == 100).all()


def gallery_study(seed: int = 0, n_classes: int = 24, width: int = 15) -> tuple[np.ndarray, ...]:
    """Features, labels, groups and (gallery, probe) rows: one probe per class of two to five images."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), rng.integers(2, 6, n_classes))
    noise = rng.normal(size=(len(labels), width)) * np.linspace(0.3, 2.5, width)
    features = rng.normal(size=(n_classes, width))[labels] + noise
    probes = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    return features, labels, np.arange(len(labels)), np.setdiff1d(np.arange(len(labels)), probes), probes


def test_unseen_conditions_gain_from_how_others_vary_and_from_nothing_of_themselves():
    shares = []
    for seed in range(4):
        features, labels, groups, gallery, probes = gallery_study(seed)
        scores = retrieval.unseen_scores(features, labels, groups, gallery, probes, 24)
        flat = side_by_side([features[:, None].astype(np.float32)])
        nearest = retrieval.class_similarities(flat[gallery], labels[gallery], flat[probes], 24)
        shares.append([(retrieval.ranks(each, labels[probes])[0] == 1).mean() for each in (scores, nearest)])
    ours, theirs = np.mean(shares, axis=0)
    assert ours > theirs + 0.05 > 1.5 / 24
    spoiled = features.copy()
    spoiled[probes] = 1e3  # a probe has no say in what is fitted
    other = retrieval.unseen_scores(spoiled, labels, groups, gallery, probes[:0], 24)
    assert other.shape == (0, 24)
    one = retrieval._discriminant_of(features, labels, groups, gallery, *2 * [gallery[labels[gallery] > 4]])
    two = retrieval._discriminant_of(spoiled, labels, groups, gallery, *2 * [gallery[labels[gallery] > 4]])
    assert (one.weights == two.weights).all() and one.shrinkage == two.shrinkage


def test_whitened_cosines_equal_their_formula_and_need_no_scale():
    features, labels, _, gallery, probes = gallery_study(3)
    found = retrieval.whitened_cosines(features, labels, gallery, probes, 0.3, 26)
    classes, centre = np.unique(labels[gallery]), features[gallery].mean(axis=0)
    means = np.stack([features[gallery[labels[gallery] == c]].mean(axis=0) for c in classes])
    residuals = features[gallery] - means[np.searchsorted(classes, labels[gallery])]
    within, width = residuals.T @ residuals / (len(gallery) - len(classes)), features.shape[1]
    root = np.linalg.cholesky(np.linalg.inv(0.7 * within + 0.3 * np.trace(within) / width * np.eye(width)))
    a, b = (features[probes] - centre) @ root, (means - centre) @ root
    expected = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    assert found[:, classes] == pytest.approx(expected)
    assert (np.delete(found, classes, axis=1) == -np.inf).all()
    bigger = retrieval.whitened_cosines(1000 * features + 5, labels, gallery, probes, 0.3, 26)
    assert bigger[:, classes] == pytest.approx(found[:, classes])
    single = gallery[np.r_[True, labels[gallery][1:] != labels[gallery][:-1]]]  # one image of each condition
    plain = retrieval.whitened_cosines(features, labels, single, probes, 0.3, 24)
    a, b = (features[rows] - features[single].mean(axis=0) for rows in (probes, single))
    cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    assert plain[:, labels[single]] == pytest.approx(cosine)
    at_the_mean = np.concatenate([features, features[single].mean(axis=0, keepdims=True)])
    nothing = retrieval.whitened_cosines(at_the_mean, np.append(labels, 0), single, np.array([len(features)]), 0.3, 24)
    assert nothing[:, labels[single]] == pytest.approx(0, abs=1e-3)  # all equal: the mean rank


def test_a_condition_of_one_photograph_is_not_put_behind_all_others():
    """Ten conditions with twelve images and ten with one: nothing but noise tells them apart, so ranks should not."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), [13] * 10 + [2] * 10)
    ranks = {"cosine": [], "discriminant": []}
    for _ in range(10):
        features = rng.normal(size=(len(labels), 30))
        probes = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
        gallery, few = np.setdiff1d(np.arange(len(labels)), probes), probes[10:]
        cosines = retrieval.whitened_cosines(features, labels, gallery, few, 0.5, 20)
        probe = retrieval._discriminant_of(features, labels, np.arange(len(labels)), gallery, gallery, gallery)
        ranks["cosine"] += retrieval.ranks(cosines, labels[few])[0].tolist()
        ranks["discriminant"] += retrieval.ranks(probe.scores(features[few]), labels[few])[0].tolist()
    assert np.mean(ranks["cosine"]) == pytest.approx(10.5, abs=1.5)
    assert np.mean(ranks["discriminant"]) > 12.5


def test_a_discriminant_of_seen_conditions_equals_its_formula():
    features, labels, groups, gallery, probes = gallery_study(1)
    seen = gallery[labels[gallery] > 4]
    probe = retrieval._discriminant_of(features, labels, groups, gallery, seen, seen)
    centre = features[seen].mean(axis=0)
    means = {c: features[gallery[labels[gallery] == c]] - centre for c in np.unique(labels[gallery])}
    residuals = np.concatenate(
        [features[seen[labels[seen] == c]] - centre - means[c].mean(axis=0) for c in means if c > 4]
    )
    within = residuals.T @ residuals / (len(seen) - len(np.unique(labels[seen])))
    width, s = features.shape[1], probe.shrinkage
    precision = np.linalg.inv((1 - s) * within + s * np.trace(within) / width * np.eye(width))
    for column, c in enumerate(probe.classes):
        mean = means[c].sum(axis=0) / (len(means[c]) + 1)  # as if the condition had one more image at the centre
        expected = (features[probes] - centre) @ precision @ mean - 0.5 * mean @ precision @ mean
        assert probe.scores(features[probes])[:, column] == pytest.approx(expected)


def test_which_conditions_are_left_out_together_is_the_same_in_every_version():
    features, labels, groups, gallery, probes = gallery_study(2)
    classes = np.random.default_rng(20263).permutation(24)
    expected = np.full((len(probes), 24), -np.inf)
    for k in range(5):
        asked = np.isin(labels[probes], classes[k::5])
        seen = gallery[~np.isin(labels[gallery], classes[k::5])]
        probe = retrieval._discriminant_of(features, labels, groups, gallery, seen, seen)
        expected[np.ix_(asked, probe.classes)] = probe.scores(features[probes[asked]])
    assert (retrieval.unseen_scores(features, labels, groups, gallery, probes, 24) == expected).all()


def test_synthetic_images_that_count_as_photographs_choose_no_shrinkage(monkeypatch):
    """They teach means and covariance, but copies of photographs would say that a condition hardly varies."""
    features, labels, groups, gallery, probes = gallery_study(4)
    n, rows = len(labels), len(labels) + np.arange(len(gallery))
    copies = features[gallery] + 0.01 * np.random.default_rng(0).normal(size=(len(rows), 15))
    features, labels, groups = np.r_[features, copies], np.r_[labels, labels[gallery]], np.r_[groups, rows]
    nothing = np.array([], dtype=np.int64)
    uses = SyntheticUses(np.full(len(rows), "data", object), np.zeros(len(rows), bool), np.zeros((len(rows), 0), bool))
    of_study = {"images": range(n), "label": SimpleNamespace(num_classes=24), "knowledge": None}
    study = SimpleNamespace(labels=labels, groups=groups, uses=uses, **of_study)
    columns = dict.fromkeys(("image_id", "group_id"), groups.astype(str).tolist())
    guard = Guard(Fold(0, np.r_[gallery, rows], nothing, probes), columns)
    asked, choose = [], retrieval.choose_regularisation
    monkeypatch.setattr(retrieval, "choose_regularisation", lambda f, y, g: asked.extend(g) or choose(f, y, g))
    unit_length = side_by_side([features[:, None].astype(np.float32)])
    scores, *_ = scores_of_methods(study, features, unit_length, np.r_[gallery, rows], probes, guard)
    assert set(asked) == set(gallery)
    alone = retrieval.unseen_scores(features, labels, groups, gallery, probes, 24)
    assert np.abs(scores["unseen_discriminant"] - alone).max() > 1e-3


def test_the_shrinkage_of_seen_conditions_is_the_one_chosen_on_their_photographs():
    chosen = set()
    for seed in range(4):
        features, labels, groups, gallery, _ = gallery_study(seed)
        probe = retrieval._discriminant_of(features, labels, groups, gallery, gallery, gallery)
        expected = choose_regularisation(features[gallery], labels[gallery], groups[gallery])
        assert (probe.shrinkage, probe.temperature) == expected
        chosen.add(probe.shrinkage)
    assert chosen - {FALLBACK_SHRINKAGE}


def test_conditions_of_one_image_each_give_the_nearest_mean():
    features = unit((6, 5))
    labels, gallery = np.array([0, 1, 2, 0, 1, 2]), np.arange(3)
    scores = retrieval.unseen_scores(features, labels, np.arange(6), gallery, np.arange(3, 6), 4)
    assert np.isfinite(scores[:, :3]).all() and (scores[:, 3] == -np.inf).all()


def test_frequent_conditions_count_patients_and_summaries_say_null_for_nobody():
    labels, groups = np.array([0] * 5 + [1] * 3), np.array(["a", "a", "b", "b", "b", "c", "d", "e"])
    assert retrieval.frequent_conditions(labels, groups, 3).tolist() == [1]
    table = pd.DataFrame({"rank": [1, 2, 40], "label": [0, 1, 2], "subject": ["a", "b", "c"], "is_frequent": False})
    table = table.assign(tied=1, method="nearest_image", gallery="joined", n_ranked=40)
    found = retrieval.summaries(table)["nearest_image"]["joined"]
    assert [found["rare"][f"top{k}"]["mean"] for k in (1, 5, 10, 30)] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert found["frequent"]["n"] == 0 and found["frequent"]["top1"] == {"mean": None, "low": None, "high": None}
    mixed = pd.concat([table, table.assign(gallery="rare")])
    mixed["is_frequent"] = (mixed["label"] == 2) & (mixed["gallery"] == "joined")
    found = retrieval.summaries(mixed)["nearest_image"]
    assert {name: side["n"] for name, side in found["joined"].items()} == {"all": 3, "frequent": 1, "rare": 2}
    assert {name: side["n"] for name, side in found["rare"].items()} == {"rare": 3}


def test_a_list_that_holds_every_condition_of_the_gallery_tells_nothing():
    table = pd.DataFrame({"rank": [1, 2, 7], "tied": 1, "label": [0, 1, 2], "subject": ["a", "b", "c"]})
    found = retrieval.summary(table.assign(n_ranked=[8, 8, 10]))
    assert found["n_ranked"] == 10 and found["chance"] == pytest.approx((1 / 8 + 1 / 8 + 1 / 10) / 3)
    assert found["top5"]["mean"] == pytest.approx(2 / 3) and found["top5"]["low"] is not None
    assert found["top10"] == found["top30"] == {"mean": None, "low": None, "high": None}
    assert retrieval.summary(table.assign(n_ranked=11))["top10"]["mean"] == 1.0


def test_an_inner_product_is_the_mean_cosine_over_networks_and_views():
    one, two = unit((6, 2, 4)), unit((6, 2, 7), 1)
    joined = side_by_side([one, two])
    cosines = [one[0, v] @ one[1, v] for v in range(2)] + [two[0, v] @ two[1, v] for v in range(2)]
    assert joined[0] @ joined[1] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert np.linalg.norm(averaged([one, two]), axis=1) == pytest.approx(1)


def test_ten_views_are_five_crops_and_their_mirrored_ones():
    across, down = np.meshgrid(np.linspace(0, 240, 64), np.linspace(0, 120, 64))
    picture = np.stack([across, down, 0 * down], axis=-1).astype(np.uint8)[None]
    rows = np.array([0])
    views = {view: Viewed(picture, view)[rows][0].astype(int) for view in VIEWS[10]}
    assert len(views) == 10 and all(seen.shape == (64, 64, 3) for seen in views.values())
    for crop, (first_across, first_down) in {
        "middle": (15, 7.5),
        "top left": (0, 0),
        "top right": (30, 0),
        "bottom left": (0, 15),
        "bottom right": (30, 15),
    }.items():
        seen = views[crop]
        assert seen[0, 0, 0] == pytest.approx(first_across, abs=2) and seen[0, 0, 1] == pytest.approx(first_down, abs=2)
        assert np.ptp(seen[..., 0]) == pytest.approx(0.875 * 240, abs=4)
        assert np.ptp(seen[..., 1]) == pytest.approx(0.875 * 120, abs=4)
        assert (views[f"{crop}, mirrored"] == seen[:, ::-1]).all()


def test_a_recognition_network_has_its_own_places_and_no_crops():
    network = Network("faces", embedder=SimpleNamespace(places=np.zeros((5, 2))), detector="mtcnn")
    with pytest.raises(ValueError, match="has no view middle"):
        embed(None, network, [], VIEWS[10], None, 1)


def test_views_mirror_and_turn_grey():
    picture = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    rows = np.array([2, 0])
    as_it_is, mirrored, grey, both = (Viewed(picture, view)[rows] for view in VIEWS[4])
    assert (as_it_is == picture[rows]).all() and (mirrored == picture[rows][:, :, ::-1]).all()
    assert (grey[..., 0] == grey[..., 2]).all() and (both == grey[:, :, ::-1]).all()
    red, green, blue = picture[2, 1, 1].astype(float)
    assert grey[0, 1, 1, 0] == round(0.299 * red + 0.587 * green + 0.114 * blue)
