"""The problems of a curator's folder as lines of text: one line per problem, what is repeated folded into its first."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TextIO

from curation.curated_rows import NO_REMEDY, Problem
from harness.counts import counted

MOST_ROWS_NAMED = 10


def print_problems(problems: Sequence[Problem], stream: TextIO) -> Counter[bool]:
    """Prints one line per problem; notes with the same remedy become one line, since nothing needs to be done about
    them, and so do rows, and cells of one column, with which the same is wrong. Returns the number of lines of notes
    (True) and of other problems (False)."""
    rows_alike: dict[tuple, list[int | None]] = defaultdict(list)
    for problem in problems:
        rows_alike[_kind(problem)].append(problem.row)
    lines: Counter[bool] = Counter()
    for problem in problems:
        rows = rows_alike.pop(_kind(problem), [])
        if rows:
            more = f" (likewise {named_rows(rows[1:])})" if rows[1:] else ""
            print(f"{problem}{more}", file=stream)
            lines[problem.severity == "note"] += 1
    return lines


def in_lines(number: int, noun: str, lines: int) -> str:
    """ "2 notes", or "9 notes in 7 lines" if some were folded."""
    return counted(number, noun) + (f" in {counted(lines, 'line')}" if lines < number else "")


def _kind(problem: Problem) -> tuple:
    """What folded problems have in common: notes their remedy, or, if it is NO_REMEDY, the reason less name and
    numbers; rows and cells their reason and remedy. Others are never folded."""
    if problem.severity == "note":
        reason = re.sub(r"\d+", "", problem.reason.partition(" ")[2]) if problem.remedy == NO_REMEDY else ""
        return "note", problem.column, problem.remedy, reason
    if problem.severity in ("row", "cell"):
        return problem.severity, problem.file, problem.column, problem.remedy, problem.reason
    return (id(problem),)


def named_rows(rows: Sequence[int | None]) -> str:
    """ "row 3", "rows 3 and 4", or "rows 3, 4, ... and 66 more" with at most MOST_ROWS_NAMED numbers."""
    numbers = list(dict.fromkeys(rows))
    named = [str(number) for number in numbers[:MOST_ROWS_NAMED]]
    last = f"{len(numbers) - MOST_ROWS_NAMED} more" if len(numbers) > MOST_ROWS_NAMED else named.pop()
    listed = f"{', '.join(named)} and {last}" if named else last
    return f"row{'s' * (len(numbers) > 1)} {listed}"
