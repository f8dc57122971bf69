"""Membership inference: do synthetic images tell whose photographs the generator was trained on?

Somebody who has a photograph of a child, and knows the condition, asks whether it was among the training photographs.
That a synthetic image's distance to the closest record is no smaller than between real people reassures falsely (arXiv
2505.01524): it averages over images, and it does not ask what tells members from others. So the attack is carried out,
on members and on held-out people of the same conditions, and it is tried on images that do give the members away
(positive control) and on images that cannot (negative control). An attack that fails the former proves nothing.

The statistic is a likelihood ratio, of the person under the synthetic images and under other real people (van Breugel
et al., AISTATS 2023), with the nearest neighbour as the estimate of both log densities. An AUC is an average: a low one
does not exclude that single people are given away, for which privacy.py compares every image.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from generation.privacy import nearest
from harness.counts import counted
from harness.errors import InputError
from scoring.intervals import bootstrap_interval, numbered

MIN_PEOPLE = 10  # members, and people held out, without whom no AUC is computed
CONTROL_COSINE = 0.9  # of the positive control's images with the photographs that they are copies of


@dataclasses.dataclass(frozen=True)
class People:
    """n photographs of members of a generator's training side, and of people held out, with the same conditions."""

    embeddings: np.ndarray  # (n, d)
    conditions: np.ndarray  # (n,) labels
    subjects: np.ndarray  # (n,) names of the people; null: a person of his own
    is_member: np.ndarray  # (n,) bool; the same for all photographs of a person

    def numbers(self) -> np.ndarray:
        """(n,) the number 0, 1, .. of each photograph's person.

        Raises InputError for arrays of different lengths, a person on both sides, and a person with two conditions."""
        lengths = {name: len(values) for name, values in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"membership attack: arrays of different lengths, {lengths}; give a row per photograph")
        person = numbered(self.subjects)
        for name in ("is_member", "conditions"):
            values = np.asarray(getattr(self, name))
            of_first = values[np.unique(person, return_index=True)[1]][person]
            if (mixed := np.flatnonzero(values != of_first)).size:
                raise InputError(
                    f"membership attack: person {self.subjects[mixed[0]]} has photographs of different {name}; "
                    "each person has one condition, and is on one side"
                )
        return person


@dataclasses.dataclass(frozen=True)
class Attack:
    """What an attack achieved. AUC: how often a member scores higher than a person held out with the same condition."""

    auc: float  # 0..1; 0.5: nothing is told
    low: float  # 95 % interval over people
    high: float
    n_members: int  # people with at least one comparable person on the other side
    n_held_out: int
    n_conditions: int
    n_left_out: int  # people who could not be compared with anybody
    n_synthetic: int

    def record(self) -> dict:
        return dataclasses.asdict(self)


def log_ratios(
    people: People, synthetic: np.ndarray, synthetic_conditions: Sequence, block_rows: int = 4096
) -> np.ndarray:
    """The statistic (n,): a photograph's similarity to the nearest synthetic image of its condition, less that to the
    nearest photograph of another person with the condition; nan without either.

    synthetic (m, d), which may be memory-mapped; synthetic_conditions (m,). The second term is what a face as common as
    this one would reach anyway. It is taken over members and people held out alike, so that they are exchangeable if
    the images do not depend on membership. Only values of one condition may be compared."""
    person, conditions = people.numbers(), people.conditions
    _, to_images = nearest(synthetic, people.embeddings, block_rows, same=(synthetic_conditions, conditions))
    both = people.embeddings, people.embeddings
    _, to_others = nearest(*both, block_rows, same=(conditions, conditions), other=(person, person))
    return to_images - to_others


def attack(
    people: People,
    synthetic: np.ndarray,
    synthetic_conditions: Sequence,
    block_rows: int = 4096,
    n_boot: int = 2000,
    seed: int = 0,
) -> Attack:
    """The AUC with which m synthetic images of one generator tell its members from people held out.

    Arguments as in `log_ratios`. A person's statistic is the largest of the photographs'; members are compared with
    people held out who have the same condition. The interval is a bootstrap over people. Raises InputError if there
    are fewer than MIN_PEOPLE on either side, or as `People.numbers` does."""
    person = people.numbers()
    ratios = log_ratios(people, synthetic, synthetic_conditions, block_rows)
    n_people = int(person.max(initial=-1)) + 1
    largest = np.full(n_people, -np.inf)
    np.maximum.at(largest, person[np.isfinite(ratios)], ratios[np.isfinite(ratios)])
    conditions, is_member = np.empty(n_people, object), np.empty(n_people, bool)
    conditions[person], is_member[person] = people.conditions, people.is_member

    sides = {}  # condition -> members and people held out, as rows of `largest`
    for condition in sorted(set(conditions.tolist()), key=str):
        rows = np.flatnonzero((conditions == condition) & np.isfinite(largest))
        members, held_out = rows[is_member[rows]], rows[~is_member[rows]]
        if len(members) and len(held_out):
            sides[condition] = members, held_out
    compared = np.sort(np.concatenate([np.empty(0, int), *(row for both in sides.values() for row in both)]))
    n_members, n_held_out = (int((is_member[compared] == side).sum()) for side in (True, False))
    if min(n_members, n_held_out) < MIN_PEOPLE:
        raise InputError(
            f"only {counted(n_members, 'member')} and {counted(n_held_out, 'person', 'people')} held out share a "
            f"condition of which there are synthetic images; the membership attack requires at least {MIN_PEOPLE} of "
            "each; use more photographs or conditions"
        )
    place = {row: i for i, row in enumerate(compared.tolist())}
    ranked = [
        ([place[row] for row in members], [place[row] for row in held_out], _wins(largest[members], largest[held_out]))
        for members, held_out in sides.values()
    ]

    def auc(weights: np.ndarray) -> np.ndarray:
        """weights (b, p) of the people compared; returns (b,), 0.5 where a resample has no pair to compare."""
        won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for members, held_out, wins in ranked:
            won += ((weights[:, members] @ wins) * weights[:, held_out]).sum(axis=1)
            pairs += weights[:, members].sum(axis=1) * weights[:, held_out].sum(axis=1)
        return np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5)

    (estimate,) = auc(np.ones((1, len(compared))))
    low, high = bootstrap_interval(auc, compared.astype(str).tolist(), n_boot, seed)
    n_left_out, n_images = n_people - len(compared), len(synthetic)
    return Attack(float(estimate), low, high, n_members, n_held_out, len(sides), n_left_out, n_images)


def _wins(members: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """(a, b): 1 where the member's statistic is larger than that of the person held out, 0.5 where they are equal."""
    return (members[:, None] > held_out) + 0.5 * (members[:, None] == held_out)


# ---- controls


def positive_control(people: People, rng: np.random.Generator, cosine: float = CONTROL_COSINE) -> Attack:
    """The attack on an overfitted generator: one noisy copy of each member's photograph, at this cosine from it."""
    return _attack_on_copies(people, np.asarray(people.is_member, bool), rng, cosine)


def negative_control(people: People, rng: np.random.Generator, cosine: float = CONTROL_COSINE) -> Attack:
    """The attack on images that cannot tell members: noisy copies of people drawn without regard to their membership.

    From each condition as many people are drawn as are members. Where pictures of independent people are at hand, who
    are neither members nor held out, `attack` on these is the better control."""
    person = people.numbers()
    drawn = np.zeros(len(person), bool)
    for condition in sorted(set(np.asarray(people.conditions).tolist()), key=str):
        rows = np.flatnonzero(np.asarray(people.conditions) == condition)
        n_members = len(set(person[rows][np.asarray(people.is_member, bool)[rows]].tolist()))
        chosen = rng.permutation(np.unique(person[rows]))[:n_members]
        drawn[rows] = np.isin(person[rows], chosen)
    return _attack_on_copies(people, drawn, rng, cosine)


def _attack_on_copies(people: People, copied: np.ndarray, rng: np.random.Generator, cosine: float) -> Attack:
    """copied (n,) bool: the photographs of which the images are noisy copies."""
    originals = np.asarray(people.embeddings, np.float32)[copied]
    noise = rng.standard_normal(originals.shape, np.float32)
    originals, noise = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (originals, noise))
    images = cosine * originals + np.sqrt(1 - cosine**2) * noise
    return attack(people, images, np.asarray(people.conditions)[copied])
