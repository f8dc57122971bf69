"""Prints the scores of runs from their predictions, or the paired differences of two runs; see scoring/run_scores.py.

python score_runs.py score runs/probe/predictions.parquet      # prints what results.json holds
python score_runs.py compare runs/a/predictions.parquet runs/b/predictions.parquet
python score_runs.py compare runs/a runs/b_seed0 --more_b runs/b_seed1 runs/b_seed2
"""

import argparse
import json
from collections.abc import Sequence

from harness.commands import Parser, path_argument, run_command
from harness.errors import InputError, one_line
from scoring.prediction_files import read_predictions
from scoring.run_scores import compare, format_comparison, score

STOPPED = "nothing was changed"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("score", help="print the scores of predictions as JSON, as results.json holds them")
    scoring.add_argument(
        "predictions", nargs="+", type=path_argument, help="predictions.parquet of one or more seeds, or folders"
    )
    comparing = commands.add_parser("compare", help="print the paired differences of two runs on the same test images")
    comparing.add_argument("a", type=path_argument, help="predictions.parquet, or the folder that holds it")
    comparing.add_argument("b", type=path_argument, help="the same of the other run; differences are b - a")
    for letter in "ab":
        text = f"further runs of {letter} with the same settings and other seeds, if each seed is a run of its own"
        comparing.add_argument(f"--more_{letter}", nargs="+", type=path_argument, default=[], metavar="RUN", help=text)
    comparing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    try:
        if args.command == "score":
            print(json.dumps(score(read_predictions(args.predictions)), indent=2))
            return
        a, b = (read_predictions(files) for files in ([args.a, *args.more_a], [args.b, *args.more_b]))
        comparison = compare(a, b)
    except (FileNotFoundError, ValueError) as error:  # what a file holds
        raise InputError(one_line(error)) from error
    print(json.dumps(comparison, indent=2) if args.json else format_comparison(comparison))


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
