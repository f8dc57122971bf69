"""Prints the scores of runs from their predictions, or the paired differences of two runs; see scoring/run_scores.py.

python score_runs.py score runs/probe/predictions.parquet      # prints what results.json holds
python score_runs.py compare runs/a/predictions.parquet runs/b/predictions.parquet
python score_runs.py compare runs/a runs/b_seed0 --more_b runs/b_seed1 runs/b_seed2
python score_runs.py submission predictions.csv --dataset_name ORG/rdface     # somebody else's predictions
python score_runs.py differential runs/probe --prior prevalence.csv --output_file differential.csv
python score_runs.py export runs/probe --dataset_id ORG/rdface --model_id ORG/probe --output_dir for_the_hub
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from classification.episode_comparison import compare_episodes, format_episodes, of_episodes, refuse_episodes
from harness.commands import Parser, dataset_argument, path_argument, run_command
from harness.derived_places import PAGE, RUN, note
from harness.errors import InputError, one_line
from harness.files import read_json, write_atomically, write_json
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.protocol_names import PROTOCOLS
from harness.real_or_simulated import BUILD
from harness.run_folder import folder_of
from scoring import differential, hub_results, leaderboard, submissions
from scoring.prediction_files import read_predictions
from scoring.run_scores import compare, score
from scoring.same_photographs import same_in_both
from scoring.score_tables import format_comparison

STOPPED = "nothing was changed"
MOST_PROBLEMS = 50


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("score", help="print the scores of predictions as JSON, as results.json holds them")
    scoring.add_argument(
        "predictions", nargs="+", type=path_argument, help="predictions.parquet of one or more seeds, or folders"
    )
    comparing = commands.add_parser(
        "compare", help="print the paired differences of two runs on the same test images or episodes"
    )
    comparing.add_argument("a", type=path_argument, help="predictions.parquet, or the folder that holds it")
    comparing.add_argument("b", type=path_argument, help="the same of the other run; differences are b - a")
    for letter in "ab":
        text = f"further runs of {letter} with the same settings and other seeds, if each seed is a run of its own"
        comparing.add_argument(f"--more_{letter}", nargs="+", type=path_argument, default=[], metavar="RUN", help=text)
    comparing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    submitted = commands.add_parser("submission", help="check predictions against a dataset's labels, and score them")
    text = "Parquet or CSV file, one row per tested image; scoring/submissions.py describes it"
    submitted.add_argument("file", metavar="FILE", type=path_argument, help=text)
    text = "the dataset that was predicted: a folder, or ORG/NAME on the Hub"
    submitted.add_argument("--dataset_name", type=dataset_argument, required=True, metavar="DIR", help=text)
    submitted.add_argument("--dataset_config_name", help="config of the dataset (default: its default config)")
    submitted.add_argument("--protocol", choices=PROTOCOLS, default="strict", help="which images are tested")
    text = "new folder for predictions.parquet and results.json, which make_report.py leaderboard reads"
    submitted.add_argument("--output_dir", type=path_argument, help=text)
    listed = commands.add_parser("differential", help="write the likely conditions of each image, for your prevalence")
    listed.add_argument("run", type=path_argument, help="predictions.parquet, or the folder that holds it")
    text = "how frequent conditions are where it is used: CSV with columns condition and prevalence (any unit)"
    listed.add_argument("--prior", type=path_argument, required=True, metavar="CSV", help=text)
    text = "how frequent they were in training, in the same form (only a linear probe needs none)"
    listed.add_argument("--training_prior", type=path_argument, metavar="CSV", help=text)
    listed.add_argument("--length", type=int, default=10, help="conditions per image")
    listed.add_argument("--output_file", type=path_argument, required=True, help="the CSV file to write")
    exported = commands.add_parser("export", help="write a run's scores for the Hub's leaderboards and Every Eval Ever")
    exported.add_argument("run", type=path_argument, help="the folder that a training script wrote")
    exported.add_argument("--dataset_id", required=True, metavar="ORG/NAME", help="the dataset on the Hub")
    exported.add_argument("--model_id", required=True, metavar="ORG/NAME", help="the model on the Hub")
    exported.add_argument("--dataset_revision", metavar="SHA", help="commit of the dataset that was predicted")
    exported.add_argument("--output_dir", type=path_argument, required=True, help="folder for the files")
    args = parser.parse_args(argv)
    if args.command == "differential" and args.length < 1:
        parser.error("--length must be at least 1")
    return args


def main(args: argparse.Namespace) -> None:
    commands = {"score": print_scores, "compare": print_comparison, "submission": score_submission}
    commands |= {"differential": write_differential, "export": export}
    try:
        commands[args.command](args)
    except (FileNotFoundError, ValueError) as error:  # what a file holds
        raise InputError(one_line(error)) from error


def print_scores(args: argparse.Namespace) -> None:
    refuse_episodes(args.predictions)
    print(json.dumps(score(read_predictions(args.predictions)), indent=2))


def print_comparison(args: argparse.Namespace) -> None:
    sides = {"a": [args.a, *args.more_a], "b": [args.b, *args.more_b]}
    known_to_be_same = same_in_both(*sides.values())
    is_of_episodes = any(of_episodes(run) for runs in sides.values() for run in runs)
    if is_of_episodes:
        comparison = compare_episodes(*sides.values())
    else:
        comparison = compare(*(read_predictions(runs) for runs in sides.values()))
    comparison["same_photographs"] = known_to_be_same
    for side, runs in sides.items():
        comparison[side]["runs"] = [str(run) for run in runs]
    as_text = format_episodes if is_of_episodes else format_comparison
    print(json.dumps(comparison, indent=2) if args.json else as_text(comparison))


# ------------------------------------------------------------------------------------------------------- submissions


def score_submission(args: argparse.Namespace) -> None:
    """Prints the scores as JSON; or each problem on a line of its own, and then nothing is scored."""
    check_name(args.dataset_name, BUILD)
    if args.output_dir and args.output_dir.exists():
        raise InputError(f"--output_dir {args.output_dir} exists; name a new folder")
    try:
        table = submissions.read_submission(args.file)
        tested, label = open_tested(args)
        predictions = submissions.accepted(table, tested)
    except submissions.SubmissionError as error:
        if len(error.problems) == 1:
            raise InputError(error.problems[0]) from error
        print("\n".join(error.problems[:MOST_PROBLEMS]), file=sys.stderr)
        more = f", of which {MOST_PROBLEMS} are shown" if len(error.problems) > MOST_PROBLEMS else ""
        raise InputError(f"{args.file}: {len(error.problems)} problems{more}; nothing was scored") from error
    results = score(predictions)
    if args.output_dir:
        note([args.dataset_name], args.output_dir, RUN)
        write_run(args.output_dir, predictions, label, results)
    print(json.dumps(results, indent=2))


def write_run(output_dir: Path, predictions: pd.DataFrame, label: object, results: dict) -> None:
    """The files by which make_report.py leaderboard knows a run; label: the feature that holds the conditions."""
    from datasets import disable_progress_bars

    from classification.run_results import write_predictions

    disable_progress_bars()
    try:
        output_dir.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--output_dir {output_dir}: {one_line(error)}; name another folder") from error
    write_predictions(output_dir / "predictions.parquet", predictions, label)
    write_json(output_dir / "results.json", results)


def open_tested(args: argparse.Namespace) -> tuple:
    """What the dataset says of its images (submissions.Tested), and the feature that holds its classes."""
    work_offline_if_unreachable([args.dataset_name])
    import numpy as np  # these imports take seconds, which a file that cannot be read need not wait for

    from classification.run_results import image_columns
    from curation import protocols
    from curation.opening import load_images

    images = load_images(args.dataset_name, args.dataset_config_name)
    label = images.features["label"]
    folds = protocols.folds(images, args.protocol)
    held_out, fold_of = np.zeros(len(images), bool), np.full(len(images), None)
    for fold in folds:
        held_out[fold.test] = True
        if args.protocol == "strict":
            fold_of[fold.test] = fold.number
    columns = image_columns(images, np.array(images["label"][:]))
    numbers = [fold.number for fold in folds]
    return submissions.Tested(args.protocol, label.names, columns, held_out, fold_of.tolist(), numbers), label


# ------------------------------------------------------------------------------------------------------- other forms


def write_differential(args: argparse.Namespace) -> None:
    refuse_episodes([args.run])
    prior = differential.read_prior(args.prior)
    training_prior = differential.read_prior(args.training_prior) if args.training_prior else None
    predictions = read_predictions(args.run)
    names = differential.class_names(args.run, len(predictions["probabilities"].iloc[0]))
    table = differential.differential_list(predictions, names, prior, training_prior, args.length)
    note([folder_of(args.run)], args.output_file, PAGE)
    write_table(args.output_file, table)


def write_table(file: Path, table: pd.DataFrame) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda partial: table.to_csv(partial, index=False))
    except OSError as error:
        raise InputError(f"--output_file {file}: {one_line(error)}; name another file") from error
    print(f"written: {file}")


def export(args: argparse.Namespace) -> None:
    """Writes eval.yaml (for the dataset's repository), .eval_results/ (for the model's) and the record.

    Refuses a run that tests a part of the dataset, or is a control, as hub_results.check_whole does."""
    refuse_episodes([args.run])
    _, simulated = leaderboard.data_of(args.run)
    hub_results.check_names(args.dataset_id, args.model_id, simulated)
    predictions = read_predictions(args.run)
    results = score(predictions)
    simulated = hub_results.is_called_simulated(args.dataset_id)
    record = read_json(args.run / "run.json", "run again") if (args.run / "run.json").is_file() else {}
    arguments = record.get("arguments")
    only_fold = arguments.get("fold") if isinstance(arguments, dict) else None
    folds = set(predictions.loc[predictions["split"] == "test", "fold"].tolist())
    hub_results.check_whole(str(args.run), results, folds, only_fold)
    entries = hub_results.eval_results(results, args.dataset_id, simulated, args.dataset_revision)
    of_all = hub_results.every_eval_ever(results, args.dataset_id, args.model_id, simulated, record.get("git_commit"))
    name = args.dataset_id.partition("/")[2]
    (args.output_dir / ".eval_results").mkdir(parents=True, exist_ok=True)
    files = [args.output_dir / file for file in ("eval.yaml", f".eval_results/{name}.yaml", "every_eval_ever.json")]
    for file in files:
        note([args.run], file, PAGE)
    write_yaml(files[0], hub_results.eval_yaml(simulated))
    write_yaml(files[1], entries)
    write_json(files[2], of_all)
    files = f"eval.yaml, .eval_results/{name}.yaml, every_eval_ever.json"
    print(f"written in {args.output_dir}: {files}")


def write_yaml(file: Path, content: dict | list) -> None:
    import yaml

    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
