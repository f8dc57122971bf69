"""Folds: the published rule against a second implementation, and what `strict` promises for any patients."""

import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold, train_test_split

from curation import protocols
from curation.leak_guard import Guard, check_fold
from harness import errors, protocol_names


def paper_columns_again(labels):
    """PAPER.md, "Supervised benchmark", sentence by sentence, on image numbers; shares no code with protocols.py."""
    conditions = list(dict.fromkeys(labels))
    images = {c: [i for i, label in enumerate(labels) if label == c] for c in conditions}
    always = [images[c][0] for c in conditions if len(images[c]) == 1]
    others = [i for c in conditions if len(images[c]) > 1 for i in images[c]]
    stratify = [conditions.index(labels[i]) for i in others]
    train, test = train_test_split(others, test_size=0.25, random_state=42, stratify=stratify)
    training_list = always + train
    in_list = list(dict.fromkeys(labels[i] for i in training_list))
    grouped = {c: [i for i in training_list if labels[i] == c] for c in in_list}
    folded = [i for c in in_list if len(grouped[c]) > 1 for i in grouped[c]]
    fold = dict.fromkeys(range(len(labels)))
    splitter = StratifiedKFold(5, shuffle=True, random_state=42)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for k, (_, val) in enumerate(splitter.split(folded, [in_list.index(labels[i]) for i in folded])):
            fold |= {folded[v]: k for v in val}
    return ["test" if i in set(test) else "train" for i in range(len(labels))], list(fold.values())


def paper_shape():
    """456 images, 103 conditions of 1 to 7, five of them with one image: the published shape."""
    sizes = [1] * 5 + [2] * 14 + [3] * 16 + [4] * 18 + [5] * 16 + [6] * 15 + [7] * 19
    return [f"C{i:03d}" for i in np.random.default_rng(1).permutation(len(sizes)) for _ in range(sizes[i])]


def many_singletons():
    return [f"S{i}" for i in range(60)] + [f"M{i}" for i in range(12) for _ in range(8)]


def shuffled():
    labels = paper_shape()
    return [labels[i] for i in np.random.default_rng(2).permutation(len(labels))]


@pytest.mark.parametrize(
    "labels", [paper_shape(), many_singletons(), shuffled()], ids=["grouped", "singletons", "shuffled"]
)
def test_paper_columns_equal_an_independent_implementation(labels):
    assert protocols.paper_split(labels) == paper_columns_again(labels)


def test_paper_split_depends_on_order_of_appearance_only_not_on_names():
    labels = shuffled()
    renamed = {label: f"{hash(label) % 997:03d}{label}" for label in labels}
    assert protocols.paper_split(labels) == protocols.paper_split([renamed[label] for label in labels])


def test_the_paper_split_takes_the_number_of_photographs_that_the_documentation_says():
    docs = (Path(__file__).parents[1] / "docs/curators.md").read_text(encoding="utf-8")
    assert "at least 4c - 3 of them: 37 for 10 conditions" in docs
    sizes = [7, 4, 4, 4, 3, 3, 3, 3, 3, 3, 1, 1]  # 37 of 10 conditions with several
    labels = [condition for condition, size in enumerate(sizes) for _ in range(size)]
    side, _ = protocols.paper_split(labels)
    assert side.count("test") == 10  # not one of each condition
    with pytest.raises(errors.ProtocolError, match="here 9 of 36, too few for one image of each of these 10"):
        protocols.paper_split(labels[1:])


def test_paper_shape_has_the_published_number_of_test_images():
    labels = paper_shape()
    side, fold = protocols.paper_split(labels)
    single = [i for i, label in enumerate(labels) if labels.count(label) == 1]
    assert (len(labels), side.count("train"), side.count("test")) == (456, 343, 113)
    assert all(side[i] == "train" and fold[i] is None for i in single)
    assert all(fold[i] is None for i in range(len(labels)) if side[i] == "test")


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([f"P{i:02d}" for i in range(14) for _ in range(5)], "5 validation folds"),
        (["A", "B", "C"], "no condition has two images"),
        (["A", "A", "B", "B", "C", "C"], "here 2 of 6, too few for .* 3 conditions"),
        ([], "no condition has two images"),
    ],
)
def test_paper_split_says_why_it_cannot_be_drawn(labels, why):
    with pytest.raises(errors.ProtocolError, match=why):
        protocols.paper_split(labels)


def test_groups_join_subjects_and_duplicates_transitively():
    subjects = ["p", None, None, "q", "p", None, "q", None]
    assert protocols.groups(subjects, [(1, 2), (2, 3)]) == [0, 1, 1, 1, 0, 5, 1, 7]
    assert protocols.groups([], []) == []
    assert protocols.groups([None, None], []) == [0, 1]


def test_strict_folds_of_the_published_shape_are_balanced():
    labels = paper_shape()
    fold = protocols.strict_folds(labels, range(len(labels)))
    count = Counter(fold)
    assert count.pop(None) == 5
    assert max(count.values()) - min(count.values()) <= 2
    assert fold == protocols.strict_folds(labels, range(len(labels)))


def patient(condition, number, shared):
    """A patient of one condition, or one of up to three conditions."""
    return f"{condition // 3}+{number}" if shared else f"{condition}.{number}"


images = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.booleans()), min_size=1, max_size=150)


@settings(max_examples=150, deadline=None)
@given(images)
def test_strict_folds_keep_their_promises(rows):
    labels, groups = [f"C{row[0]}" for row in rows], [patient(*row) for row in rows]
    fold = protocols.strict_folds(labels, groups)
    patients = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        patients[label].add(group)
    for i, label in enumerate(labels):  # each image of a condition with two groups is tested once, the others never
        assert (fold[i] is not None) == (len(patients[label]) > 1)
    used = defaultdict(set)
    for i, group in enumerate(groups):
        used[group] |= {fold[i]} - {None}
    assert all(len(k) <= 1 for k in used.values()), "a group straddles"
    if all(k is None for k in fold):
        return
    columns = {"strict_fold": fold, "group_id": groups}
    tested = []
    for part in protocols.folds(columns, "strict"):
        check_fold(part, columns | {"image_id": [str(i) for i in range(len(rows))]})
        assert {labels[i] for i in part.test} <= {labels[i] for i in part.train}, "tested, but never trained"
        assert not part.val.size
        assert len(part.test) <= len(rows) / 5 + 3 * max(Counter(groups).values())
        tested += part.test.tolist()
    assert sorted(tested) == [i for i, k in enumerate(fold) if k is not None]


def test_a_condition_spreads_over_as_many_folds_as_it_has_groups():
    labels = ["A"] * 5 + ["B"] * 3 + ["C"] * 2 + ["D"]
    fold = protocols.strict_folds(labels, range(len(labels)))
    assert [len(set(fold[:5])), len(set(fold[5:8])), len(set(fold[8:10])), fold[10]] == [5, 3, 2, None]


def test_untested_row_of_a_held_out_group_is_on_neither_side():
    labels = ["A", "A", "B"]  # B's only image shows the patient of A's first
    groups = ["p", "q", "p"]
    columns = {"strict_fold": protocols.strict_folds(labels, groups), "group_id": groups}
    assert columns["strict_fold"][2] is None
    by_test = {tuple(part.test.tolist()): part.train.tolist() for part in protocols.folds(columns, "strict")}
    assert by_test == {(0,): [1], (1,): [0, 2]}


def test_paper_folds_read_the_stored_columns():
    labels = many_singletons()
    side, fold = protocols.paper_split(labels)
    columns = {"paper_split": side, "paper_fold": fold, "group_id": [str(i) for i in range(len(labels))]}
    parts = protocols.folds(columns, "paper")
    assert [part.number for part in parts] == [0, 1, 2, 3, 4]
    for part in parts:
        assert sorted([*part.train, *part.val, *part.test]) == list(range(len(labels)))
        assert part.val.tolist() == [i for i, k in enumerate(fold) if k == part.number]
        check_fold(
            part, {"image_id": columns["group_id"], "group_id": ["same"] * len(labels)}
        )  # patients may straddle here
    assert len(protocols.folds(columns, "paper", 3)) == 1


@pytest.mark.parametrize(
    ("protocol", "change", "message"),
    [
        ("strict", {"strict_fold": [0, 9, 1]}, "image b: strict_fold is 9"),
        ("strict", {"strict_fold": [0, None, 1]}, "image b: it has no strict_fold, but others of its condition have"),
        ("strict", {"group_id": ["p", None, "r"]}, "image b: it has no group_id"),
        ("paper", {"paper_split": ["train", "validation", "test"]}, "image b: paper_split is validation"),
    ],
)
def test_no_image_leaves_a_run_without_a_word(protocol, change, message):
    columns = {"image_id": ["a", "b", "c"], "label": [0, 0, 0], "group_id": ["p", "q", "r"], "strict_fold": [0, 1, 2]}
    columns |= {"paper_split": ["train", "train", "test"], "paper_fold": [0, 1, None]}
    protocols.folds(columns, protocol)
    with pytest.raises(errors.ProtocolError, match=message):
        protocols.folds(columns | change, protocol)


def test_images_that_straddle_are_counted():
    fold = protocols.Fold(0, np.array([0, 1]), np.array([2]), np.array([3, 4, 5]), "paper")
    assert protocols.straddling([fold], ["p", "q", "r", "p", "r", "s"]) == 2


def test_folds_refuse_what_is_not_there():
    empty = {"paper_split": [None], "paper_fold": [None], "strict_fold": [0], "group_id": ["a"]}
    with pytest.raises(errors.ProtocolError, match="too small for protocol paper; use --protocol strict"):
        protocols.folds(empty, "paper")
    for protocol in ("paper", "strict"):  # neither is sent to the other
        with pytest.raises(
            errors.ProtocolError, match=f"too small for protocol {protocol}.* photographs of two people"
        ):
            protocols.folds(empty | {"strict_fold": [None]}, protocol)
    with pytest.raises(errors.ProtocolError, match="no fold 7"):
        protocols.folds(empty, "strict", 7)
    with pytest.raises(errors.ProtocolError, match="no protocol"):
        protocols.folds(empty, "loose")


def sides(train, test, val=(), protocol="strict"):
    return protocols.Fold(0, *(np.array(rows, dtype=np.int64) for rows in (train, val, test)), protocol)


COLUMNS = {
    "image_id": ["a", "b", "c", "d"],
    "group_id": ["p", "q", "r", "s"],
    "subject_id": [None, "S1", None, "S2"],
    "sha256": ["0", "1", "2", "3"],
}


def test_a_test_row_in_training_raises():
    with pytest.raises(errors.LeakError, match="image_id c is held out and in training"):
        Guard(sides([0, 1, 2], [2, 3]), COLUMNS)
    with pytest.raises(errors.LeakError, match="image_id d"):
        Guard(sides([0, 1, 3], [2], [3], "paper"), COLUMNS)


def test_another_photograph_of_a_test_subject_in_training_raises():
    for column, same in (("group_id", "p"), ("subject_id", "S1")):  # subject_id: should the groups be wrong
        columns = COLUMNS | {column: [same, "q", same, "s"]}
        with pytest.raises(errors.LeakError, match=f"{column} {same} is held out and in training"):
            Guard(sides([0, 1], [2, 3]), columns)
        Guard(sides([0, 1], [2, 3], protocol="paper"), columns)  # published so


def test_a_copy_of_a_test_image_in_training_raises():
    with pytest.raises(errors.LeakError, match="sha256 1 is held out and in training"):
        Guard(sides([0, 1], [2, 3]), COLUMNS | {"sha256": ["0", "1", "2", "1"]})
    with pytest.raises(errors.LeakError, match="group_id q"):  # near duplicates are of one group
        Guard(sides([0, 1], [2, 3]), COLUMNS | {"group_id": ["p", "q", "r", "q"]})


def test_unknown_subjects_are_not_one_subject():
    Guard(sides([0, 1], [2, 3]), COLUMNS | {"subject_id": [None] * 4})


def test_only_the_training_side_is_admitted():
    guard = Guard(sides([0, 1], [2], [3], "paper"), COLUMNS)
    assert guard.admit([1, 0], "training").tolist() == [1, 0]
    for rows in ([0, 2], [3]):
        with pytest.raises(errors.LeakError, match="is not on the training side and must not reach prototypes"):
            guard.admit(rows, "prototypes")


def test_only_validation_rows_choose_and_strict_has_none():
    guard = Guard(sides([0, 1], [2], [3], "paper"), COLUMNS)
    assert guard.admit_for_choice([3], "checkpoints").tolist() == [3]
    for row in (0, 2):
        with pytest.raises(errors.LeakError, match="must not reach checkpoints"):
            guard.admit_for_choice([row], "checkpoints")
    labels = [f"C{i % 6}" for i in range(60)]
    columns = {"group_id": [str(i) for i in range(60)], "image_id": [str(i) for i in range(60)]}
    columns["strict_fold"] = protocols.strict_folds(labels, columns["group_id"])
    for fold in protocols.folds(columns, "strict"):
        for row in range(60):
            with pytest.raises(errors.LeakError):
                Guard(fold, columns).admit_for_choice([row], "checkpoints")


@pytest.mark.parametrize("protocol", protocol_names.PROTOCOLS)
def test_a_support_set_is_k_images_a_condition_of_the_training_side(protocol):
    labels = paper_shape()
    n = len(labels)
    columns = {"group_id": [str(i) for i in range(n)], "image_id": [str(i) for i in range(n)]}
    columns["paper_split"], columns["paper_fold"] = protocols.paper_split(labels)
    columns["strict_fold"] = protocols.strict_folds(labels, columns["group_id"])
    for fold in protocols.folds(columns, protocol):
        available = Counter(labels[row] for row in fold.train)
        support = [protocols.k_shot(fold, labels, k, seed=4) for k in (1, 2, 100)]
        for k, part in zip((1, 2, 100), support, strict=True):
            assert Counter(labels[row] for row in part.train) == {c: min(k, have) for c, have in available.items()}
            assert set(part.train) <= set(fold.train) and not part.val.size
            assert part.test.tolist() == fold.test.tolist()
        assert set(support[0].train) < set(support[1].train)  # nested
        assert support[2].train.tolist() == fold.train.tolist()
        outside = np.setdiff1d(fold.train, support[0].train)[:1]
        with pytest.raises(errors.LeakError):  # what was not drawn is not seen either
            Guard(support[0], columns).admit(outside, "training")
        assert protocols.k_shot(fold, labels, 1, seed=5).train.tolist() != support[0].train.tolist()
    with pytest.raises(errors.ProtocolError, match="at least 1 image"):
        protocols.k_shot(fold, labels, 0, seed=0)


# ---- synthetic images


DIGEST_OF = dict(zip(COLUMNS["image_id"], COLUMNS["sha256"], strict=True))


def synthetic(**changed):
    """Columns of two images that fold 0 of `sides([0, 1], [2, 3])` may train on; changed: values of the second, whose
    digests are those of its sources unless they are among them."""
    if "source_image_ids" in changed:
        changed = {"source_sha256": [DIGEST_OF.get(name, "?") for name in changed["source_image_ids"] or ()]} | changed
    row = {"synthetic_id": "A_1", "generator": "dreambooth", "protocol": "strict", "fold": 0}
    row |= {"source_image_ids": ["a", "b"], "source_sha256": ["0", "1"], "pixels": "of its own", "copies": [1]}
    return {name: [value, ({"synthetic_id": "A_2"} | changed).get(name, value)] for name, value in row.items()}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"source_image_ids": ["a", "c"]}, "was made from image c, which is not on the training side"),
        ({"source_image_ids": ["z"]}, "was made from image z, which is not in the dataset"),
        ({"source_image_ids": ["a", None]}, "was made from image None, which is not in the dataset"),
        ({"source_image_ids": []}, "names no source_image_ids"),
        ({"source_image_ids": None}, "names no source_image_ids"),
        ({"source_sha256": ["0", "2"]}, r"was made from another photograph, which was called b then \(1 such"),
        ({"source_sha256": ["1", "0"]}, r"was made from another photograph, which was called a then \(2 such"),
        ({"source_sha256": ["0"]}, "names 2 source_image_ids but 1 source_sha256"),
        ({"source_sha256": None}, "names 2 source_image_ids but 0 source_sha256"),
        ({"source_sha256": ["0", None]}, "was made from image b, whose source_sha256 is missing"),
        (
            {"source_image_ids": [], "generator": "simulate_faces"},
            "is said to be by simulate_faces, whose people may only stand beside simulated ones",
        ),
        (
            {"generator": "simulate_faces"},
            "is said to be by simulate_faces, whose people may only stand beside simulated ones",
        ),
        ({"protocol": "paper"}, "was made for fold 0 of protocol paper"),
        ({"protocol": None}, "was made for fold 0 of protocol None"),
        ({"fold": 1}, "was made for fold 1 of protocol strict"),
        ({"fold": None}, "was made for fold None of protocol strict"),
        ({"pixels": "P3"}, "is a copy of image d, which is held out"),
        ({"copies": [0, 3]}, "is a near duplicate of image d, which the training may not see"),
    ],
)
def test_a_synthetic_image_that_saw_or_shows_what_is_held_out_raises(changed, why):
    guard = Guard(sides([0, 1], [2, 3]), COLUMNS | {"pixels": ["P0", "P1", "P2", "P3"]})
    guard.admit_synthetic(synthetic())
    with pytest.raises(errors.LeakError, match=rf"fold 0 \(strict\): synthetic image A_2 {why}.*must not be trained"):
        guard.admit_synthetic(synthetic(**changed))


def test_a_photograph_that_is_held_out_under_another_name_is_known_by_its_digest():
    """Rebuilt with a and c swapped: the name is on the training side, the person whose picture it was no longer."""
    swapped = COLUMNS | {"sha256": ["2", "1", "0", "3"]}
    with pytest.raises(errors.LeakError, match="made from another photograph, which was called a then"):
        Guard(sides([0, 1], [2, 3]), swapped).admit_synthetic(synthetic())
    restored = COLUMNS | {"sha256": ["r0", "r1", "r2", "r3"], "original_sha256": COLUMNS["sha256"]}
    Guard(sides([0, 1], [2, 3]), restored).admit_synthetic(synthetic())  # the same, restored
    without = {name: values for name, values in COLUMNS.items() if name != "sha256"}
    with pytest.raises(errors.LeakError, match="the dataset has no column sha256"):
        Guard(sides([0, 1], [2, 3]), without).admit_synthetic(synthetic())


def test_weights_that_learnt_from_a_held_out_photograph_are_refused():
    guard = Guard(sides([0, 1], [2], [3], "paper"), COLUMNS)
    guard.admit_weights(["0", "1", "of another dataset"], "weights")
    for digest, name in (("2", "c"), ("3", "d")):  # validation chooses, so it must not have been seen either
        with pytest.raises(errors.LeakError, match=f"weights has learnt from image {name}, which is not on the tr"):
            guard.admit_weights(["0", digest], "weights")


def test_further_simulated_people_are_admitted_beside_simulated_photographs_only():
    guard = Guard(sides([0, 1], [2, 3]), COLUMNS)
    guard.admit_synthetic(synthetic(source_image_ids=[], generator="simulate_faces"), simulated=True)
    for changed in ({"source_image_ids": []}, {"source_image_ids": ["c"], "generator": "simulate_faces"}):
        with pytest.raises(errors.LeakError, match="A_2"):
            guard.admit_synthetic(synthetic(**changed), simulated=True)


def test_under_paper_a_generator_may_have_seen_validation_but_not_test_images():
    guard = Guard(sides([0, 1], [2], [3], "paper"), COLUMNS)
    columns = synthetic(source_image_ids=["a", "d"]) | {"protocol": ["paper"] * 2, "fold": [None] * 2}
    guard.admit_synthetic(columns)
    seen = {"source_image_ids": [["a"], ["a", "c"]], "source_sha256": [["0"], ["0", "2"]]}
    with pytest.raises(errors.LeakError, match="A_2 was made from image c, which is not on the training side"):
        guard.admit_synthetic(columns | seen)
    with pytest.raises(errors.LeakError, match="A_2 was made for fold 0 of protocol paper"):
        guard.admit_synthetic(columns | {"fold": [None, 0]})


def test_what_a_support_set_leaves_out_must_not_have_been_seen():
    labels = [f"C{i % 6}" for i in range(60)]
    columns = {"image_id": [str(i) for i in range(60)], "group_id": [str(i) for i in range(60)]}
    columns["sha256"] = [f"digest {i}" for i in range(60)]
    columns["strict_fold"] = protocols.strict_folds(labels, columns["group_id"])
    fold = protocols.folds(columns, "strict")[0]
    support = protocols.k_shot(fold, labels, 2, seed=0)
    outside = str(np.setdiff1d(fold.train, support.train)[0])
    inside = [str(row) for row in support.train]

    def saw(*sources):
        digests = [[f"digest {name}" for name in names] for names in sources]
        nothing = {"copies": [[], []]}
        return synthetic() | {"source_image_ids": list(sources), "source_sha256": digests} | nothing

    saw_more = saw(inside, [*inside, outside])
    Guard(support, columns).admit_synthetic(saw(inside, inside))
    Guard(fold, columns).admit_synthetic(saw_more)
    with pytest.raises(errors.LeakError, match=f"A_2 was made from image {outside}, which is not on the training"):
        Guard(support, columns).admit_synthetic(saw_more)


def paper_folds_again(labels, synthetic_rows):
    """PAPER.md, "Supervised benchmark" and "With synthetic images", on image numbers; shares no code."""
    n = len(labels) - len(synthetic_rows)
    conditions = list(dict.fromkeys(labels[:n]))
    images = {c: [i for i in range(n) if labels[i] == c] for c in conditions}
    others = [i for c in conditions if len(images[c]) > 1 for i in images[c]]
    stratify = [conditions.index(labels[i]) for i in others]
    train, test = train_test_split(others, test_size=0.25, random_state=42, stratify=stratify)
    training_list = [*synthetic_rows, *(images[c][0] for c in conditions if len(images[c]) == 1), *train]
    grouped = defaultdict(list)
    for i in training_list:
        grouped[labels[i]].append(i)
    folded = [i for members in grouped.values() if len(members) > 1 for i in members]
    always = {members[0] for members in grouped.values() if len(members) == 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        splits = list(StratifiedKFold(5, shuffle=True, random_state=42).split(folded, [labels[i] for i in folded]))
    drawn = [({folded[i] for i in train} | always, {folded[i] for i in val}) for train, val in splits]
    return [(sorted(train), sorted(val), sorted(test)) for train, val in drawn]


@pytest.mark.parametrize(
    "labels", [paper_shape(), many_singletons(), shuffled()], ids=["grouped", "single", "shuffled"]
)
@pytest.mark.parametrize("n_synthetic", [0, 1, 300])
def test_paper_folds_with_synthetic_images_equal_an_independent_implementation(labels, n_synthetic):
    rng = np.random.default_rng(n_synthetic)
    classes = sorted(set(labels))[:-2]  # one condition gets no synthetic image
    all_labels = [*labels, *(classes[i] for i in rng.integers(0, len(classes), n_synthetic))]
    columns = {"paper_split": protocols.paper_split(labels)[0]}
    rows = len(labels) + rng.permutation(n_synthetic)
    drawn = protocols.paper_folds_with_synthetic(columns, all_labels, rows)
    assert [fold.number for fold in drawn] == [0, 1, 2, 3, 4] and {fold.protocol for fold in drawn} == {"paper"}
    got = [(fold.train.tolist(), fold.val.tolist(), fold.test.tolist()) for fold in drawn]
    assert got == paper_folds_again(all_labels, rows.tolist())
    if not n_synthetic:  # then they are those that the dataset stores
        stored = columns | {"paper_fold": protocols.paper_split(labels)[1]}
        assert got == [(f.train.tolist(), f.val.tolist(), f.test.tolist()) for f in protocols.folds(stored, "paper")]


def test_the_draw_depends_on_the_order_of_the_list_and_test_rows_stay():
    labels = [*shuffled(), *(["C005", "C050"] * 40)]
    columns = {"paper_split": protocols.paper_split(shuffled())[0]}
    rows = np.arange(len(shuffled()), len(labels))
    one, other = (protocols.paper_folds_with_synthetic(columns, labels, order) for order in (rows, rows[::-1]))
    assert one[0].val.tolist() != other[0].val.tolist()
    assert one[0].test.tolist() == [i for i, side in enumerate(columns["paper_split"]) if side == "test"]
    left_out = protocols.paper_folds_with_synthetic(columns, labels, rows[:40])
    assert not {row for fold in left_out for row in (*fold.train, *fold.val)} & set(rows[40:].tolist())


def test_folds_are_not_drawn_again_for_other_rows_than_the_stored_split_is_of():
    labels = many_singletons()
    side = protocols.paper_split(labels)[0]
    gone = 100  # of a condition with eight images
    columns = {"paper_split": side[:gone] + side[gone + 1 :]}
    with pytest.raises(errors.ProtocolError, match="is not what the published rule gives for these rows"):
        protocols.paper_folds_with_synthetic(columns, labels[:gone] + labels[gone + 1 :], np.array([], dtype=int))
