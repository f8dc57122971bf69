"""Corrects p-values for the number of comparisons that were made, and compares every two of several runs.

A family is all comparisons that one looks at together in search of a difference: all pairs of one table, or all scores
of one pair. With 20 comparisons of equal methods, one p-value below 0.05 is to be expected.
"""

import itertools
from collections.abc import Container, Mapping

import pandas as pd

from scoring.holm import holm
from scoring.run_scores import compare


def compare_all(
    runs: Mapping[str, pd.DataFrame], score: str = "top1", planned: Container[frozenset[str]] | None = None
) -> list[dict]:
    """Every two of several runs on the same test images: one family, whose p-values are corrected together.

    runs: name -> predictions, as for run_scores.compare; planned: the two names of each comparison that is to be made
    (default: all), which must not depend on the outcome. Returns a dict for each pair, in the order of the runs: `a`
    and `b` (names), `difference` (b - a), `low`, `high` (95 % interval of this one difference), `p_value`, `p_holm`
    and `n_comparisons` (the size of the family). A single run gives an empty list. Raises ValueError as compare
    does."""
    rows = []
    for a, b in itertools.combinations(runs, 2):
        if planned is not None and frozenset((a, b)) not in planned:
            continue
        try:
            values = compare(runs[a], runs[b], [score])["metrics"][score]
        except ValueError as error:
            raise ValueError(f"{a} and {b}: {error}") from error
        rows.append({"a": a, "b": b} | {name: values[name] for name in ("difference", "low", "high", "p_value")})
    corrected = holm([row["p_value"] for row in rows])
    return [row | {"p_holm": p, "n_comparisons": len(rows)} for row, p in zip(rows, corrected.tolist(), strict=True)]
