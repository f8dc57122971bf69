"""The problems of a curator's folder as lines of text: one line per problem, repeated notes folded into their first."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TextIO

from curation.curated_rows import NO_REMEDY, Problem

MOST_ROWS_NAMED = 10


def print_problems(problems: Sequence[Problem], stream: TextIO) -> None:
    """One line per problem; notes with the same remedy become one line, since nothing needs to be done about them."""
    rows_alike: dict[tuple, list[int]] = defaultdict(list)
    for problem in problems:
        if problem.severity == "note":
            rows_alike[_kind(problem)].append(problem.row)
    for problem in problems:
        rows = rows_alike.pop(_kind(problem), []) if problem.severity == "note" else [problem.row]
        if rows:
            more = f" (likewise {named_rows(rows[1:])})" if rows[1:] else ""
            print(f"{problem}{more}", file=stream)


def _kind(problem: Problem) -> tuple:
    """What folded notes have in common: their remedy; if it is NO_REMEDY, the reason less name and numbers."""
    reason = re.sub(r"\d+", "", problem.reason.partition(" ")[2]) if problem.remedy == NO_REMEDY else ""
    return problem.column, problem.remedy, reason


def named_rows(rows: Sequence[int]) -> str:
    """ "row 3", "rows 3 and 4", or "rows 3, 4, ... and 66 more" with at most MOST_ROWS_NAMED numbers."""
    numbers = list(dict.fromkeys(rows))
    named = [str(number) for number in numbers[:MOST_ROWS_NAMED]]
    last = f"{len(numbers) - MOST_ROWS_NAMED} more" if len(numbers) > MOST_ROWS_NAMED else named.pop()
    listed = f"{', '.join(named)} and {last}" if named else last
    return f"row{'s' * (len(numbers) > 1)} {listed}"
