"""Prints what numbers of patients can tell of two methods, the table of docs/scores.md (exact, nothing is simulated).

python benchmarks/power_table.py"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.commands import Parser
from scoring.power import ALPHA, half_width, minimal_detectable_difference

ROOT = Path(__file__).resolve().parents[1]
PATIENTS = (50, 113, 200, 445, 1000)
DISAGREEMENTS = (0.1, 0.2, 0.3)
FAMILIES = (1, 15)  # comparisons in one family: of two methods, and of every two of six
ACCURACY = 0.1593  # the paper's best top-1


def table() -> str:
    """As Markdown: half-width of an interval, then the smallest differences found with power 0.8, in points."""
    heads = [f"{100 * share:.0f} % disagree" for share in DISAGREEMENTS]
    heads = [f"{head}, {m} comparison{'s' * (m > 1)}" for m in FAMILIES for head in heads]
    lines = ["| patients | top-1 of 15.9 % is known to | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    for n in PATIENTS:
        cells = [f"± {100 * half_width(n, ACCURACY):.1f}"]
        for m in FAMILIES:
            for share in DISAGREEMENTS:
                smallest = minimal_detectable_difference(n, share, ALPHA / m)
                cells.append("none" if smallest is None else f"{100 * smallest:.1f}")
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return Parser(description=__doc__).parse_args(argv)


def main(args: argparse.Namespace) -> None:
    print(table())


if __name__ == "__main__":
    main(parse_args())
