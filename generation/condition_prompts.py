"""A prompt of its own for every image of a condition: a person drawn from the annotations, in the words of a caption.

    prompts = ConditionPrompts("WIL", "", frequencies, weights, names, attributes, seed=0, fits=fits)
    prompts.said(7).prompt      # "photo of a 4 year old girl with stellate iris, wide mouth"

Number i always gives the same person, whatever was drawn before. Terms that the text encoder would not read are left
out whole, the least informative first, and named; nothing is cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.leak_guard import Guard, columns_for_guard
from curation.opening import codes_of_classes
from curation.protocols import Fold
from curation.value_parsers import hpo_name
from generation.prompts import with_terms
from generation.synthetic_images import condition_number
from harness.counts import counted
from harness.errors import InputError
from harness.seeds import derived_seed
from phenotyping import condition_prior, phenotypes
from phenotyping.condition_prior import HPO_ID, TermTable
from phenotyping.drawn_people import ADULT_YEARS, Attributes, DrawnPerson, draw_person, evidence, pooled_attributes

if TYPE_CHECKING:
    from datasets import Dataset

PEOPLE = 1  # in the seed of a drawn person, which must not be that of the picture's noise
NOUNS = {"female": ("girl", "woman"), "male": ("boy", "man"), None: ("child", "adult")}


@dataclasses.dataclass(frozen=True)
class Said:
    """What the prompt of one image says."""

    prompt: str
    terms: list[str] | None  # ids of the terms that it says; None: the person has none
    left_out: list[str]  # names of the terms for which there is no place, the least informative last


@dataclasses.dataclass(frozen=True)
class ConditionPrompts:
    """The prompts of a condition in a fold, by number 0, 1, ..."""

    condition: str
    condition_number: int  # from which its seeds are derived
    identifier: str  # the word that an adapter knows the condition by; empty for the base alone
    frequencies: Mapping[str, float]  # term -> 0..1
    weights: Mapping[str, float]  # term -> informativeness
    names: Mapping[str, str]  # term -> its words
    attributes: Attributes
    seed: int
    fits: Callable[[str], bool]  # whether the text encoder reads all of a prompt

    def said(self, number: int) -> Said:
        """What image `number` is asked for; raises InputError if a prompt is too long even without terms."""
        seed = derived_seed(self.seed, self.condition_number, number, PEOPLE)
        person = draw_person(self.frequencies, self.weights, self.attributes, seed)
        names = [self.names[term] for term in person.terms]
        for n in range(len(names), -1, -1):
            prompt = caption(person, names[:n], self.identifier)
            if self.fits(prompt):
                return Said(prompt, list(person.terms[:n]) if names else None, names[n:])
        raise InputError(f"{self.condition}: the text encoder reads no prompt to its end, not even {prompt!r}")


def caption(person: DrawnPerson, term_names: Sequence[str], identifier: str = "", quality: str = "") -> str:
    """The words for a person; what is None is not said.

    identifier: of a condition, or of a condition and a subject; quality: of the photograph, such as "blurred "."""
    age = ""
    is_adult = person.age_years is not None and person.age_years >= ADULT_YEARS
    if person.age_years is not None:
        age = "baby" if person.age_years < 1 else f"{person.age_years} year old"
    noun = NOUNS[person.sex][is_adult]
    words = [word for word in (identifier, age, person.ancestry, noun) if word]
    article = "an" if words[0] == person.ancestry and words[0][0].lower() in "aeiou" else "a"
    return f"{quality}photo of {article} {' '.join(words)}{with_terms(term_names)}"


def term_names(terms: Iterable[str]) -> dict[str, str]:
    """Term -> the words that a prompt says for it: HPO's name in lower case, or of an id of another vocabulary what
    stands behind the colon (MARK:curly_hair -> curly hair)."""
    known = phenotypes.terms()
    names = {}
    for term in terms:
        if term in known:
            names[term] = known[term].name.lower()
        elif HPO_ID.fullmatch(term):
            names[term] = hpo_name(term).lower()
        else:
            names[term] = term.partition(":")[2].replace("_", " ")
    return names


def attributes_of(images: Dataset, fold: Fold, guard: Guard) -> Attributes:
    """The pooled frequencies of age, sex and ancestry over the people of a fold's training side.

    Ancestry is a column of the curator's own: no country stands for it. Raises LeakError if a row is held out."""
    rows = guard.admit(fold.train, "the people drawn for prompts").tolist()
    columns = {}
    for name in ("group_id", "age_years", "sex", "ancestry"):
        whole = images[name][:] if name in images.column_names else [None] * len(images)
        columns[name] = [whole[row] for row in rows]
    return pooled_attributes(columns["group_id"], columns["age_years"], columns["sex"], columns["ancestry"])


@dataclasses.dataclass(frozen=True)
class Annotated:
    """Which of the conditions asked for are annotated."""

    code_of: dict[str, str]  # condition -> ORPHA code, in the dataset's order
    without: list[str]  # conditions without any annotation
    unused_codes: list[str]  # of a curator's own table: those that no condition of the dataset has, by number


def annotated(
    images: Dataset, conditions: Sequence[str] | None, table: TermTable, term_table: Path | None
) -> Annotated:
    """conditions: those asked for, None for all; term_table: the file of the table, None if it is the project's own.

    Raises InputError if none of them is annotated."""
    names, codes = images.features["label"].names, codes_of_classes(images)
    code_of = {name: code for name, code in zip(names, codes, strict=True) if not conditions or name in conditions}
    known = {name: code for name, code in code_of.items() if table.get(code)}
    if not known:
        where = f"--term_table {term_table}" if term_table else "phenotyping/conditions.csv"
        remedy = "add their ORPHA codes and terms to a table, and name it with --term_table"
        raise InputError(f"{where}: none of {', '.join(code_of)} is annotated there; {remedy}")
    unused = condition_prior.unused_codes(table, codes) if term_table else []
    return Annotated(known, [name for name in code_of if name not in known], unused)


def open_prompts(
    images: Dataset,
    folds: Sequence[Fold],
    known: Annotated,
    table: TermTable,
    identifiers: Mapping[str, str],
    seed: int,
    fits: Callable[[str], bool],
) -> dict[tuple[int | None, str], ConditionPrompts]:
    """Number of the fold and condition -> its prompts. Raises LeakError if a fold's training side is none."""
    names = term_names({term for code in known.code_of.values() for term in table[code]})
    weights = {condition: evidence(code, table) for condition, code in known.code_of.items()}
    columns, prompts = columns_for_guard(images), {}
    for fold in folds:
        attributes = attributes_of(images, fold, Guard(fold, columns))
        for condition, code in known.code_of.items():
            of_condition = (condition, condition_number(condition), identifiers[condition], table[code])
            more = (weights[condition], names, attributes, seed, fits)
            prompts[fold.number, condition] = ConditionPrompts(*of_condition, *more)
    return prompts


def record(known: Annotated, prompts: Iterable[ConditionPrompts], n_images: int) -> dict:
    """For the run's record: what the prompts of the first n_images of each condition and fold could not say."""
    prompts, terms_of, n_shortened, n_left_out = list(prompts), {}, 0, 0
    for of_condition in prompts:
        for number in range(n_images):
            left_out = of_condition.said(number).left_out
            terms_of.setdefault(of_condition.condition, set()).update(left_out)
            n_shortened, n_left_out = n_shortened + bool(left_out), n_left_out + len(left_out)
    return {
        "conditions_without_annotations": known.without,
        "unused_codes": known.unused_codes,
        "not_recorded": sorted({name for each in prompts for name in each.attributes.not_recorded()}),
        "n_prompts": len(prompts) * n_images,
        "n_shortened": n_shortened,
        "n_terms_left_out": n_left_out,
        "terms_left_out": {condition: sorted(terms) for condition, terms in sorted(terms_of.items()) if terms},
    }


def summary(recorded: dict, limit: int) -> str:
    """For the screen, from the record; limit: tokens that the text encoder reads."""
    without, unused = recorded["conditions_without_annotations"], recorded["unused_codes"]
    lines = [
        f"prompts: {counted(recorded['n_prompts'], 'person', 'people')} drawn from annotations; "
        f"the text encoder reads {limit} tokens, so "
        f"{counted(recorded['n_terms_left_out'], 'term was', 'terms were')} left out of "
        f"{counted(recorded['n_shortened'], 'prompt')}, the least informative first"
    ]
    if without:
        lines.append(
            f"without annotations, and so without images: {', '.join(without)} ({counted(len(without), 'condition')})"
        )
    if unused:
        lines.append(condition_prior.about_unused(unused, "the dataset"))
    if recorded["not_recorded"]:
        names = ", ".join(recorded["not_recorded"])
        lines.append(f"not recorded of anybody on a training side, and so in no prompt of it: {names}")
    return "\n".join(lines)
