"""episodes.py: the published class split against the rule written anew, draws, subjects apart, and intervals."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import episode_coverage
from classification import few_shot_run
from classification.episodes import (
    accuracy_interval,
    draw_episodes,
    episode_table,
    hits,
    paper_condition_folds,
    rows_of_fold,
    strict_condition_folds,
)
from classification.few_shot_inputs import check_paper_sides
from harness.errors import ProtocolError

SIZES = [1, 2, 3, 4, 5, 6, 7]


def study(n_conditions: int = 103, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels and groups (n,) of conditions with one to seven images, two of which show one subject; names."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_conditions), [SIZES[c % 7] for c in range(n_conditions)])
    first = np.r_[True, labels[1:] != labels[:-1]]
    number = np.arange(len(labels)) - np.maximum.accumulate(np.where(first, np.arange(len(labels)), 0))
    groups = np.array([f"{label}-{max(n, 1)}" for label, n in zip(labels, number, strict=True)])
    names = ["".join(letters) for letters in rng.choice(list("ABCDEFGH"), (n_conditions, 6))]
    order = rng.permutation(len(labels))
    return labels[order], groups[order], names


# ---- conditions


def test_published_split_equals_the_rule_written_anew():
    labels, _, names = study()
    folds = paper_condition_folds(labels.tolist(), names)
    # The rule, with a shuffle of its own: KFold shuffles numbers with numpy's RandomState and cuts them in blocks.
    abbreviations = sorted(name for c, name in enumerate(names) if (labels == c).sum() >= 2)
    torch.manual_seed(42)
    order = [abbreviations[i] for i in torch.randperm(len(abbreviations)).tolist()]
    n_test = len(abbreviations) // 5
    test, others = set(order[:n_test]), order[n_test:]
    shuffled = np.arange(len(others))
    np.random.RandomState(42).shuffle(shuffled)
    sizes = [len(others) // 5 + (k < len(others) % 5) for k in range(5)]
    for fold, start, size in zip(folds, np.cumsum([0, *sizes]), sizes, strict=False):
        val = {others[i] for i in shuffled[start : start + size]}
        assert {names[c] for c in fold.test} == test
        assert {names[c] for c in fold.val} == val
        assert {names[c] for c in fold.train} == set(others) - val
    assert len(folds) == 5 and len(test) == 17


def test_published_split_of_few_conditions_is_refused():
    with pytest.raises(ProtocolError, match=r"^5 conditions .* at least 6; add .* strict --n_way 5 if they"):
        paper_condition_folds([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5], list("ABCDEF"))
    with pytest.raises(ProtocolError, match=r"^0 conditions have .* at least 6; add second photographs$"):
        paper_condition_folds([0, 1, 2], list("ABC"))
    folds = paper_condition_folds([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], list("ABCDEF"))
    assert [(len(fold.train), len(fold.val), len(fold.test)) for fold in folds] == [(4, 1, 1)] * 5


def test_a_side_of_the_papers_that_is_too_small_is_said_with_its_rule_and_the_largest_n_way():
    labels = np.repeat(np.arange(15), 2)
    folds = paper_condition_folds(labels.tolist(), [f"C{number:02}" for number in range(15)])
    sides = [rows_of_fold(fold, labels, labels, "paper") for fold in folds]  # 3 conditions are tested, 2 or 3 validate
    check_paper_sides(sides, labels, 3, {"test": 1})
    for n_way, shots, said in (
        (
            5,
            {"test": 1},
            "test conditions: .* only 3 .*tests a fifth of the conditions with two images .*give --n_way 3 at",
        ),
        (
            3,
            {"test": 1, "val": 1},
            "val conditions: .* only 2 .*does not test among five folds; give --n_way 2 at most",
        ),
    ):
        with pytest.raises(ProtocolError, match=said):
            check_paper_sides(sides, labels, n_way, shots)


def test_strict_folds_test_each_condition_once_and_keep_subjects_apart():
    labels, groups, _ = study()
    groups[np.flatnonzero(labels == 6)[0]] = groups[np.flatnonzero(labels == 13)[0]]  # somebody has two conditions
    folds = strict_condition_folds(labels.tolist(), groups.tolist(), n_way=10, k_shot=1)
    tested = np.concatenate([fold.test for fold in folds])
    several = [c for c in range(103) if len(set(groups[labels == c])) > 1]
    assert len(folds) == 5 and sorted(tested) == several  # 1, or 2 images of one subject: never asked for
    for fold in folds:
        side = rows_of_fold(fold, labels, groups, "strict")
        assert not set(groups[side.train]) & set(groups[side.test])
        assert not len(side.val) and set(labels[side.test]) == set(fold.test)
    asked_for_five = strict_condition_folds(labels.tolist(), groups.tolist(), n_way=5, k_shot=5)
    assert all(len(set(groups[labels == c])) > 4 for fold in asked_for_five for c in fold.test)


def test_too_few_conditions_are_refused_and_few_give_one_fold():
    labels, groups = [0, 0, 1, 1, 2, 2, 3], ["a", "b", "c", "d", "e", "f", "g"]
    (fold,) = strict_condition_folds(labels, groups, n_way=3, k_shot=1)
    assert fold.test.tolist() == [0, 1, 2] and fold.train.tolist() == [3]
    with pytest.raises(ProtocolError, match=r"needs 4 conditions .*, and only 3 have them; give --n_way 3 at most$"):
        strict_condition_folds(labels, groups, n_way=4, k_shot=1)
    with pytest.raises(
        ProtocolError, match="none has them; add a second photograph, of another person, to at least two"
    ):
        strict_condition_folds([0, 1, 2, 3], groups[:4], n_way=2, k_shot=1)


# ---- draws


@pytest.mark.parametrize(("way", "shot"), [(5, 1), (10, 1), (5, 4)])
def test_an_episode_shows_each_condition_with_other_subjects_than_it_asks_about(way, shot):
    labels, groups, _ = study()
    rows = np.flatnonzero(labels % 2 == 0)
    episodes = draw_episodes(rows, labels, groups, way, shot, 50, np.random.default_rng(1))
    assert episodes.support.shape == (50, way, shot)
    assert (labels[episodes.query] == episodes.classes).all()
    assert (labels[episodes.support] == episodes.classes[:, :, None]).all()
    for classes, support, query in zip(episodes.classes, episodes.support, episodes.query, strict=True):
        assert len(set(classes)) == way and set(support.ravel()) <= set(rows.tolist())
        assert len(set(support.ravel())) == support.size  # no image stands twice
        assert not set(groups[support].ravel()) & set(groups[query])
    again = draw_episodes(rows, labels, groups, way, shot, 50, np.random.default_rng(1))
    assert (again.query == episodes.query).all() and (again.support == episodes.support).all()


def test_the_published_draw_may_show_the_same_subject_but_not_the_same_image():
    labels, groups = np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "b"])
    with pytest.raises(ProtocolError, match="only 0 conditions have"):
        draw_episodes(np.arange(4), labels, groups, 2, 1, 1, np.random.default_rng(0))
    episodes = draw_episodes(np.arange(4), labels, groups, 2, 1, 9, np.random.default_rng(0), subjects_apart=False)
    assert (episodes.support[:, :, 0] != episodes.query).all()


def test_episode_table_lists_everything_that_was_drawn():
    labels, groups, _ = study()
    episodes = draw_episodes(np.arange(len(labels)), labels, groups, 3, 2, 4, np.random.default_rng(0))
    image_ids = [f"i{row}" for row in range(len(labels))]
    table = episode_table(episodes, image_ids, groups.tolist())
    assert len(table) == 12 and table["episode"].tolist() == [e for e in range(4) for _ in range(3)]
    row = table.iloc[4]  # the second question of the second episode
    assert row["query"] == image_ids[episodes.query[1, 1]] and row["label"] == episodes.classes[1, 1]
    assert row["support"] == [image_ids[i] for i in episodes.support[1].ravel()]


# ---- accuracy


def test_equal_scores_are_a_guess_and_nan_is_refused():
    assert hits(np.zeros((2, 5, 5))) == pytest.approx(np.full((2, 5), 0.2))
    assert hits(np.eye(3)[None]).tolist() == [[1, 1, 1]]
    with pytest.raises(ValueError, match="not a number"):
        hits(np.full((1, 2, 2), np.nan))


def test_interval_counts_conditions_however_many_episodes_there_are():
    conditions = np.arange(20)
    right = np.linspace(0, 1, 20)
    few = accuracy_interval(right, conditions, [f"s{c}" for c in conditions])
    many = accuracy_interval(np.tile(right, 50), np.tile(conditions, 50), [f"s{c}" for c in conditions] * 50)
    assert many == pytest.approx(few, abs=1e-9)
    standard_error = right.std(ddof=1) / np.sqrt(20)
    assert few[1] - few[0] == pytest.approx(2 * 2.093 * standard_error, rel=0.06)  # Student's t, 19 degrees


def test_interval_of_few_conditions_has_the_width_of_students_t():
    right = np.linspace(0.2, 0.8, 12)
    low, high = accuracy_interval(right, np.arange(12), [None] * 12)
    standard_error = right.std(ddof=1) / np.sqrt(12)
    assert high - low == pytest.approx(2 * 2.201 * standard_error, rel=0.02)  # 11 degrees; 4 % less without u / (u - 1)
    narrow = accuracy_interval(right, np.arange(12), [None] * 12, level=0.8)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.363 * standard_error, rel=0.03)
    right = np.array([0.4, 0.45, 0.5, 0.55, 0.6])
    low, high = accuracy_interval(right, np.arange(5), [None] * 5)
    expected = 2 * 2.776 * right.std(ddof=1) / np.sqrt(5)  # 4 degrees; 5 would be narrower by 7 %
    assert high - low == pytest.approx(expected, rel=0.04)


def test_conditions_that_share_a_subject_are_drawn_together():
    right, conditions = np.repeat(np.linspace(0.1, 0.9, 10), 2), np.arange(20)
    alone = accuracy_interval(right, conditions, [f"s{c}" for c in conditions])
    pairs = accuracy_interval(right, conditions, [f"s{c // 2}" for c in conditions])
    ratio = (pairs[1] - pairs[0]) / (alone[1] - alone[0])
    assert ratio == pytest.approx(np.sqrt(2) * 2.262 / 2.093 * np.sqrt(19 / 18), rel=0.06)  # ten units instead of 20


def test_an_accuracy_of_exactly_one_has_an_interval_without_width():
    low, high = accuracy_interval(np.ones(9), np.arange(9), [None] * 9)  # no resample differs: Wilson's interval
    assert low == pytest.approx(9 / (9 + 1.959964**2), abs=1e-6) and high == 1
    assert accuracy_interval(np.ones(90), np.arange(90) % 9, [None] * 90) == (low, high)  # conditions, not questions
    low, high = accuracy_interval(np.array([0.0, 0, 0, 0, 1]), np.arange(5), [None] * 5)
    assert low == 0 and 0.2 < high <= 1  # no accuracy lies below 0, however much a bootstrap interval is widened


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(each, np.int64).tobytes() for each in arrays)).hexdigest()[:12]


def test_folds_and_lists_of_episodes_are_the_same_in_every_version():
    """Published lists can be drawn again; changing a seed here would make all earlier results incomparable."""
    labels = np.repeat(np.arange(40), [1 + c % 5 for c in range(40)])
    groups = np.array([f"g{row}" for row in range(len(labels))])
    folds = strict_condition_folds(labels.tolist(), groups.tolist(), 5, 1)
    assert digest(*(fold.test for fold in folds)) == "22db74c2625a"
    fold = rows_of_fold(folds[1], labels, groups, "strict")
    images = SimpleNamespace(labels=labels, groups=groups)
    plan = SimpleNamespace(n_way=5, k_shot=1, test_episodes=20)
    drawn = few_shot_run.asked_episodes(images, SimpleNamespace(seed=3, fold=fold), plan)
    assert digest(drawn.classes, drawn.support, drawn.query) == "2eda583121ff"


def test_an_episode_is_drawn_again_if_people_span_conditions():
    """Six conditions that share people: most draws of three fail, and some succeed."""
    labels = np.repeat(np.arange(6), 2)
    groups = np.array(["a", "b", "a", "c", "b", "c", "d", "e", "d", "f", "e", "f"])
    episodes = draw_episodes(np.arange(12), labels, groups, 3, 1, 200, np.random.default_rng(0))
    assert len(episodes) == 200
    for support, query in zip(episodes.support, episodes.query, strict=True):
        assert not set(groups[support].ravel()) & set(groups[query])


def test_a_condition_with_one_image_is_never_asked_for_and_may_be_missing_in_a_fold():
    labels = np.array([0, 1, 1, 2, 2, 3, 3])
    groups = np.array([f"g{row}" for row in range(7)])
    (fold,) = strict_condition_folds(labels.tolist(), groups.tolist(), 2, 1)
    assert 0 not in fold.test and 0 in fold.train
    episodes = draw_episodes(np.arange(7), labels, groups, 2, 1, 50, np.random.default_rng(0))
    assert 0 not in episodes.classes and 0 not in episodes.support


def test_interval_of_one_condition_or_of_one_shared_subject_is_not_known():
    assert accuracy_interval(np.ones(5), np.zeros(5), ["a"] * 5) == (None, None)
    assert accuracy_interval(np.ones(4), np.array([0, 0, 1, 1]), ["a", "b", "b", "c"]) == (None, None)
    assert accuracy_interval(np.array([]), np.array([]), []) == (None, None)
    apart = accuracy_interval(np.array([1.0, 0, 1, 0]), np.array([0, 0, 1, 1]), [None] * 4)
    assert apart == (0.5, 0.5)  # two units without a difference


def test_the_benchmark_of_coverage_tells_units_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(episode_coverage, "CASES", ((20, 5),))
    flags = ["--repetitions", "60", "--episodes", "20", "--results_dir", str(tmp_path)]
    episode_coverage.main(episode_coverage.parse_args(flags))
    found = json.loads((tmp_path / "20conditions_5way.json").read_text())
    assert found["covered"]["conditions"] > 0.8 > 0.6 > found["covered"]["episodes"]
    assert "SIMULATED, 20 conditions" in capsys.readouterr().out
