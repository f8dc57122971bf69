"""generation/membership_attack.py: controls, agreement with a plain computation, and what it refuses."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from generation import membership_attack
from generation.membership_attack import People, attack, log_ratios, negative_control, positive_control
from harness.errors import InputError

DIMENSIONS = 64


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def faces_of(conditions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """People who resemble those with the same condition: cosine about 0.5."""
    of_condition = np.random.default_rng(99).standard_normal((1000, DIMENSIONS))
    return unit(of_condition[conditions] + rng.standard_normal((len(conditions), DIMENSIONS)))


def people(rng: np.random.Generator, n_conditions: int = 30, n_members: int = 4, n_held_out: int = 2) -> People:
    n = n_members + n_held_out
    conditions = np.repeat(np.arange(n_conditions), n)
    is_member = np.tile(np.arange(n) < n_members, n_conditions)
    return People(faces_of(conditions, rng), conditions, np.arange(len(conditions)).astype(str), is_member)


def test_an_overfitted_generator_gives_its_members_away():
    result = positive_control(people(np.random.default_rng(0)), np.random.default_rng(1))
    assert result.auc >= 0.99 and result.low > 0.95
    assert (result.n_members, result.n_held_out, result.n_conditions, result.n_synthetic) == (120, 60, 30, 120)


def test_images_of_independent_people_give_nobody_away():
    aucs, covered = [], 0
    for seed in range(30):
        rng = np.random.default_rng([2, seed])
        conditions = np.repeat(np.arange(30), 10)
        result = attack(people(rng), faces_of(conditions, rng), conditions, n_boot=300)
        aucs.append(result.auc)
        covered += result.low <= 0.5 <= result.high
    assert abs(np.mean(aucs) - 0.5) < 0.03
    assert covered >= 25  # 95 % of 30 are expected; 24 or fewer in 1 of 400 runs


def test_the_negative_control_does_not_know_who_is_a_member():
    aucs = [negative_control(people(rng), rng).auc for rng in map(np.random.default_rng, range(20))]
    assert abs(np.mean(aucs) - 0.5) < 0.04


def test_a_weaker_leak_is_found_too():
    """One person in three is copied, at a cosine of 0.8, among faithful images."""
    rng = np.random.default_rng(3)
    of = people(rng)
    copied = np.flatnonzero(of.is_member)[::3]
    images = unit(0.8 * of.embeddings[copied] + 0.6 * unit(rng.standard_normal((len(copied), DIMENSIONS))))
    conditions = np.concatenate([of.conditions[copied], np.repeat(np.arange(30), 10)])
    result = attack(of, np.concatenate([images, faces_of(conditions[len(copied) :], rng)]), conditions)
    assert 0.58 < result.auc < 0.75 and result.low > 0.5


def test_the_auc_is_that_of_a_plain_computation():
    """With several photographs a person, and conditions without images or without anybody held out."""
    rng = np.random.default_rng(4)
    n = 200
    person = rng.integers(0, 80, n)
    conditions, is_member = person % 7, (person // 7) % 3 > 0
    of = People(faces_of(conditions, rng), conditions, person.astype(str), is_member)
    made_for = rng.integers(0, 6, 90)  # none for condition 6
    images = faces_of(made_for, rng)

    to_images, to_people = cosine_similarity(of.embeddings, images), cosine_similarity(of.embeddings)
    statistic = {}
    for row in np.flatnonzero(conditions < 6):
        others = (conditions == conditions[row]) & (person != person[row])
        ratio = to_images[row, made_for == conditions[row]].max() - to_people[row, others].max()
        statistic[person[row]] = max(statistic.get(person[row], -9), ratio)
    wins = pairs = 0
    for condition in range(6):
        there = [p for p in statistic if p % 7 == condition]
        member = np.array([(p // 7) % 3 > 0 for p in there])
        n_pairs = member.sum() * (~member).sum()
        wins += n_pairs * roc_auc_score(member, [statistic[p] for p in there])
        pairs += n_pairs

    result = attack(of, images, made_for, block_rows=17)
    assert result.auc == pytest.approx(wins / pairs, abs=1e-6)
    assert result.n_left_out == len(set(person[conditions == 6]))
    assert result.n_members + result.n_held_out == len(statistic)


def test_the_interval_is_over_people_not_photographs():
    rng = np.random.default_rng(5)
    once = people(rng)
    often = People(*(np.repeat(values, 5, axis=0) for values in vars(once).values()))
    conditions = np.repeat(np.arange(30), 5)
    images = faces_of(conditions, rng)
    assert attack(often, images, conditions) == attack(once, images, conditions)


def test_without_an_image_of_the_condition_there_is_no_statistic():
    of = people(np.random.default_rng(6), n_conditions=2)
    ratios = log_ratios(of, of.embeddings[:3], of.conditions[:3])
    assert np.isfinite(ratios[:6]).all() and np.isnan(ratios[6:]).all()


def test_too_few_people_prove_nothing():
    rng = np.random.default_rng(7)
    for n_conditions, enough in ((4, False), (5, True)):
        of = people(rng, n_conditions=n_conditions)
        if enough:
            assert attack(of, of.embeddings, of.conditions).n_held_out == 10
        else:
            with pytest.raises(InputError, match=r"16 members and 8 people held out .* at least 10 of each"):
                attack(of, of.embeddings, of.conditions)
    one = People(of.embeddings[7:9], of.conditions[7:9], of.subjects[7:9], np.array([True, False]))
    with pytest.raises(InputError, match="only 1 member and 1 person held out"):
        attack(one, of.embeddings, of.conditions)
    with pytest.raises(InputError, match="0 members and 0 people held out"):
        attack(of, of.embeddings[:0], of.conditions[:0])
    with pytest.raises(InputError, match="0 members and 0 people held out"):
        attack(People(of.embeddings[:0], of.conditions[:0], of.subjects[:0], of.is_member[:0]), of.embeddings, [])


def test_people_on_both_sides_or_with_two_conditions_are_refused():
    of = people(np.random.default_rng(8))
    for name, row in (("is_member", 3), ("conditions", 8)):
        subjects = of.subjects.copy()
        subjects[row] = subjects[row + (1 if name == "is_member" else -6)]
        with pytest.raises(InputError, match=f"person {subjects[row]} has photographs of different {name}"):
            People(of.embeddings, of.conditions, subjects, of.is_member).numbers()
    with pytest.raises(InputError, match="arrays of different lengths"):
        People(of.embeddings, of.conditions[1:], of.subjects, of.is_member).numbers()


def test_the_control_is_as_noisy_as_it_says():
    """At a lower cosine the copies are lost among other people with the condition."""
    of = people(np.random.default_rng(9))
    aucs = [positive_control(of, np.random.default_rng(1), cosine).auc for cosine in (0.9, 0.6, 0.0)]
    assert aucs[0] > aucs[1] > aucs[2] and aucs[2] < 0.65
    assert membership_attack.CONTROL_COSINE == 0.9
