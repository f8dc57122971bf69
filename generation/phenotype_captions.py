"""Captions for one adapter that learns from all photographs of a training side what the words of medicine look like.

    captions = open_captions(images, fold, tokens, table, seed=0, side_px=512, fits=fits)
    captions.at(row, step)   # "photo of a bqt zkw jfh 4 year old girl with hypertelorism, long philtrum"

A photograph is called by a token of its condition, a token of its subject, its quality, and the person's age, sex and
terms. The subject's token takes up what is one person's own, and images are sampled without it. Each visit drops parts
of the caption at random, so that no part is needed; terms that nobody recorded for the photograph are drawn anew from
what is annotated of the condition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation.opening import codes_of_classes
from curation.protocols import Fold
from generation.condition_prompts import caption, term_names
from harness.seeds import derived_seed
from phenotyping.condition_prior import TermTable
from phenotyping.drawn_people import DrawnPerson, evidence

if TYPE_CHECKING:
    from datasets import Dataset

DROPPED_CAPTIONS = 0.1  # share of visits at which nothing is said, for classifier-free guidance
DROPPED_PARTS = 0.2  # share of the other visits at which each part is left out, also each single term


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Words without a meaning of their own, by which the adapter knows conditions and subjects."""

    of_condition: dict[str, str]
    subject_words: list[str]  # a subject's token is a number written with these as its digits

    def of_subject(self, number: int, n_subjects: int) -> str:
        """The token of subject 0..n_subjects - 1: as many words for each as tell all of them apart."""
        base, words = len(self.subject_words), []
        if base < 2:
            return f"person {number + 1}"
        length = 1
        while base**length < n_subjects:
            length += 1
        for _ in range(length):
            number, digit = divmod(number, base)
            words.append(self.subject_words[digit])
        return " ".join(words)


def open_tokens(class_names: Sequence[str], rare_words: Sequence[str]) -> Tokens:
    """rare_words: see prompts.rare_tokens, the rarest first. The first ones are the conditions', the others spell the
    subjects; a vocabulary with too few gives the abbreviations, and subjects by number."""
    n = len(class_names)
    of_condition = dict(zip(class_names, rare_words if len(rare_words) >= n else class_names, strict=False))
    return Tokens(of_condition, list(rare_words[n:] if len(rare_words) >= n + 2 else rare_words))


@dataclasses.dataclass(frozen=True)
class Photograph:
    """What is known of one photograph."""

    condition: str  # its token
    subject: str  # its token
    quality: str  # "", or words that end in a blank
    age_years: int | None
    sex: str | None
    ancestry: str | None
    recorded: list[str] | None  # ids of the terms recorded for it
    frequencies: Mapping[str, float]  # of its condition: term -> 0..1; empty without annotations
    weights: Mapping[str, float]  # term -> informativeness; a term that is not annotated has none


@dataclasses.dataclass(frozen=True)
class Captions:
    """The captions of a training side's photographs, by row of the dataset and step."""

    photographs: dict[int, Photograph]
    names: Mapping[str, str]  # term -> its words
    seed: int
    fits: Callable[[str], bool]  # whether the text encoder reads all of a prompt

    def at(self, row: int, *visit: int) -> str:
        """The caption of a photograph at a visit, which one or more numbers tell apart."""
        photograph, rng = self.photographs[row], np.random.default_rng(derived_seed(self.seed, row, *visit))
        if rng.random() < DROPPED_CAPTIONS:
            return ""
        terms = photograph.recorded
        if terms is None:
            terms = [term for term, p in sorted(photograph.frequencies.items()) if rng.random() < p]
        terms = sorted(terms, key=lambda term: (-photograph.weights.get(term, 0.0), term))
        said = [term for term in terms if rng.random() >= DROPPED_PARTS]
        kept = rng.random(6) >= DROPPED_PARTS
        parts = [photograph.condition, photograph.subject, photograph.quality]
        parts += [photograph.age_years, photograph.sex, photograph.ancestry]
        condition, subject, quality, *of_person = [p if keep else None for p, keep in zip(parts, kept, strict=True)]
        identifier = " ".join(word for word in (condition, subject) if word)
        for n in range(len(said), -1, -1):
            person = DrawnPerson(tuple(said[:n]), *of_person)
            words = caption(person, [self.names[term] for term in said[:n]], identifier, quality or "")
            if self.fits(words):
                return words
        return ""  # a text encoder that reads fewer words than these tokens


def open_captions(
    images: Dataset,
    fold: Fold,
    tokens: Tokens,
    table: TermTable,
    seed: int,
    side_px: int,
    fits: Callable[[str], bool],
) -> Captions:
    """The captions of a fold's training side. side_px: of the pictures that are trained on.

    Quality is what is recorded: a photograph without colour, or smaller than a picture. Only the training side's rows
    are read; the guard must have seen them (support_sets.admit)."""
    rows = fold.train.tolist()
    names = ("label", "group_id", "age_years", "sex", "ancestry", "hpo_ids", "is_grayscale", "width", "height")
    side = images.select_columns([name for name in names if name in images.column_names]).select(rows)
    columns = {name: side[name][:] if name in side.column_names else [None] * len(rows) for name in names}
    class_names, codes = images.features["label"].names, codes_of_classes(images)
    weights = {code: evidence(code, table) for code in set(codes) if table.get(code)}
    subjects = {group: number for number, group in enumerate(dict.fromkeys(columns["group_id"]))}
    photographs = {}
    for place, row in enumerate(rows):
        values = {name: column[place] for name, column in columns.items()}
        quality = "black and white " if values["is_grayscale"] else ""
        small = values["width"] and values["height"] and min(values["width"], values["height"]) < side_px
        code = codes[values["label"]]
        photographs[row] = Photograph(
            condition=tokens.of_condition[class_names[values["label"]]],
            subject=tokens.of_subject(subjects[values["group_id"]], len(subjects)),
            quality=quality + ("blurred " if small else ""),
            age_years=None if values["age_years"] is None else round(values["age_years"]),
            sex=values["sex"],
            ancestry=(values["ancestry"] or "").strip() or None,
            recorded=values["hpo_ids"],
            frequencies=table.get(code) or {},
            weights=weights.get(code, {}),
        )
    terms = {
        term for photograph in photographs.values() for term in (*(photograph.recorded or ()), *photograph.frequencies)
    }
    return Captions(photographs, term_names(terms), seed, fits)
