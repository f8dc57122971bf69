"""What is annotated of conditions, by ORPHA code: their terms with the frequency of each, and profiles made of these.

The project's own table (conditions.csv) serves if no other is given. Another one is a CSV file with the columns
`orphanet_code, hpo_id, frequency`, in any order, one row per annotation; the frequency is a share in 0..1. Terms are
those of the Human Phenotype Ontology, or of a curator's own vocabulary (`MARK:glasses`)."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from harness.counts import counted
from harness.csv_table import TableError, read_table
from harness.errors import InputError
from phenotyping import phenotypes

COLUMNS = ("orphanet_code", "hpo_id", "frequency")
HPO_ID = re.compile(r"HP:\d{7}")
OWN_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*:\S+")  # of another vocabulary
LIKE_HPO = re.compile(r"\W*HPO?\W*\d*\W*", re.IGNORECASE)  # meant for an HPO id, whatever it lacks

MOST_NAMED = 5  # of the codes that a table has in vain

TermTable = dict[str, dict[str, float]]  # ORPHA code -> term -> share of the people with the condition who have it


def project_table() -> TermTable:
    """Annotations of the conditions in conditions.csv."""
    return {condition.orphanet_code: dict(condition.penetrance) for condition in phenotypes.conditions()}


def read_term_table(file: Path, exists_in_hpo: Callable[[str], bool]) -> TermTable:
    """The table of a CSV file.

    exists_in_hpo: whether an HPO id is a current term. Raises InputError for a missing column and an empty table, and
    as read_table does; and with a line for each of the first rows that are wrong, for a code that is not a number, an
    id that looks like HPO's and is none, a frequency outside 0..1, a term that is annotated twice, and one that is
    written in two ways."""
    header, rows = read_table(file)
    if missing := [name for name in COLUMNS if name not in header]:
        are_missing = f"column {missing[0]} is" if len(missing) == 1 else f"columns {', '.join(missing)} are"
        raise InputError(f"{file}: {are_missing} missing; the table needs {', '.join(COLUMNS)}")
    table: TermTable = {}
    problems, spelling = [], {}  # normalised -> as first written
    for line, row in rows:
        where = f"{file}, row {line}"
        try:
            code = _code(row["orphanet_code"], where)
            term = _term(row["hpo_id"], where, exists_in_hpo)
            first = spelling.setdefault("".join(term.casefold().split()), term)
            if term != first:
                raise InputError(f"{where}: {term} is written {first} in an earlier row; write it in one way")
            frequency = _frequency(row["frequency"], where)
            if term in table.get(code, {}):
                raise InputError(f"{where}: {term} is annotated twice for ORPHA code {code}; keep one of the rows")
            table.setdefault(code, {})[term] = frequency
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise TableError(problems)
    if not table:
        raise InputError(f"{file}: holds no annotation; add rows below the header")
    return table


def unused_codes(table: TermTable, codes: Sequence[str | None]) -> list[str]:
    """The codes of a table that are none of `codes`, by number."""
    return sorted(set(table) - set(codes), key=int)


def about_unused(unused: Sequence[str], whose: str) -> str:
    """A line for the screen about the codes that a --term_table has in vain, of which there is at least one; whose: of
    whom no condition has them."""
    named = ", ".join(unused[:MOST_NAMED]) + ", ..." * (len(unused) > MOST_NAMED)
    return f"--term_table: the rows of {counted(len(unused), 'ORPHA code')} ({named}) are of no condition of {whose}"


def _code(cell: str, where: str) -> str:
    digits = re.fullmatch(r"\s*(?:ORPHA:?\s*)?0*(\d+)\s*", cell, re.IGNORECASE)
    if not digits:
        raise InputError(f"{where}: orphanet_code {cell!r} is not a number; write the digits of the ORPHA code")
    return digits[1]


def _term(cell: str, where: str, exists_in_hpo: Callable[[str], bool]) -> str:
    term = cell.strip()
    if HPO_ID.fullmatch(term):
        if not exists_in_hpo(term):
            reason = "is not in the Human Phenotype Ontology, or is obsolete"
            raise InputError(f"{where}: {term} {reason}; look the term up again")
        return term
    if LIKE_HPO.fullmatch(term) or not OWN_ID.fullmatch(term):
        reason = "is no HPO id (HP: and seven digits), nor an id of another vocabulary such as MARK:glasses"
        raise InputError(f"{where}: hpo_id {cell!r} {reason}; correct it")
    return term


def _frequency(cell: str, where: str) -> float:
    try:
        frequency = float(cell)
    except ValueError:
        frequency = np.nan
    if not 0 <= frequency <= 1:
        raise InputError(f"{where}: frequency {cell!r} is not a share in 0..1; write 0.9 for 90 %")
    return frequency


def profiles(codes: Sequence[str | None], table: TermTable) -> tuple[np.ndarray, list[str]]:
    """The frequency of each term in each condition, (C, T) in 0..1, and the terms, (T,) sorted.

    codes (C,): ORPHA codes. Terms are those annotated for at least one of the codes; a term that is not annotated for a
    condition has frequency 0 there. A condition without annotations has nan in its whole row."""
    annotated = [table.get(code) if code else None for code in codes]
    terms = sorted({term for frequencies in annotated for term in frequencies or ()})
    rows = [
        [frequencies.get(term, 0.0) for term in terms] if frequencies else [np.nan] * len(terms)
        for frequencies in annotated
    ]
    return np.array(rows, dtype=np.float64).reshape(len(codes), len(terms)), terms
