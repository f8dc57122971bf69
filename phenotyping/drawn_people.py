"""People drawn from what is annotated of a condition: terms anew for each, by frequency; age, sex and ancestry apart.

What does not depend on the condition is drawn from the pooled frequencies of all people of a training side, whatever
they have, so that no condition is bound to the age or sex of its few photographs (BOB, arXiv 2510.24078). Each is drawn
by itself: no combination that belongs to one person is carried over."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from phenotyping.condition_prior import TermTable

ADULT_YEARS = 18

Counts = dict[int, int] | dict[str, int]  # value -> number of people, by increasing value


@dataclasses.dataclass(frozen=True)
class Attributes:
    """How often each value was recorded; empty if nobody recorded any."""

    age_years: dict[int, int]  # whole years, rounded
    sex: dict[str, int]
    ancestry: dict[str, int]

    def not_recorded(self) -> list[str]:
        """The names of those that no person can be given."""
        return [field.name for field in dataclasses.fields(self) if not getattr(self, field.name)]


@dataclasses.dataclass(frozen=True)
class DrawnPerson:
    """A person with a condition, whom nobody has met."""

    terms: tuple[str, ...]  # ids of those of the condition's terms that the person has, the most informative first
    age_years: int | None  # None: no age was recorded on the training side; so for the others
    sex: str | None
    ancestry: str | None


def pooled_attributes(
    people: Sequence,
    ages_years: Sequence[float | None],
    sexes: Sequence[str | None],
    ancestries: Sequence[str | None],
) -> Attributes:
    """The frequencies over the people of n photographs, (n,) each: a person counts once, with the first recorded value.

    people: what tells them apart. Hand over rows of a training side only, and let the guard see them first."""
    values = {"age_years": [None if age is None else round(age) for age in ages_years]}
    values |= {"sex": sexes, "ancestry": [(text and text.strip()) or None for text in ancestries]}
    counted = {}
    for name, of_photographs in values.items():
        first: dict = {}
        for person, value in zip(people, of_photographs, strict=True):
            if value is not None:
                first.setdefault(person, value)
        counted[name] = dict(sorted(Counter(first.values()).items()))
    return Attributes(**counted)


def draw_person(
    frequencies: Mapping[str, float], weights: Mapping[str, float], attributes: Attributes, seed: int
) -> DrawnPerson:
    """The person of this seed; the same one every time.

    frequencies: term -> share of the people with the condition who have it, 0..1; weights: term -> its informativeness
    (evidence). Terms are drawn independently of each other, since annotations say nothing about pairs."""
    rng = np.random.default_rng(seed)
    drawn = {field.name: rng.random() for field in dataclasses.fields(attributes)}
    of_person = {name: _value_at(getattr(attributes, name), share) for name, share in drawn.items()}
    present = [term for term, frequency in sorted(frequencies.items()) if rng.random() < frequency]
    return DrawnPerson(tuple(sorted(present, key=lambda term: (-weights[term], term))), **of_person)


def _value_at(counts: Counts, share: float) -> int | str | None:
    """The value below which a share 0..1 of the people lies, so that one person more changes few draws."""
    reached, total = 0, sum(counts.values())
    for value, count in counts.items():
        reached += count
        if share * total < reached:
            return value
    return None


def evidence(code: str, table: TermTable) -> dict[str, float]:
    """Term -> how much its presence speaks for the condition: log of its frequency there over the mean frequency.

    The mean is over all conditions of the table; a term that is not annotated has frequency 0. It is the weight of
    evidence of a naive Bayes classifier for a present term, in nats. A term with frequency 0 is never drawn: -inf."""
    own = table[code]
    means = {term: sum(terms.get(term, 0.0) for terms in table.values()) / len(table) for term in own}
    return {term: math.log(own[term] / means[term]) if own[term] else -math.inf for term in own}
