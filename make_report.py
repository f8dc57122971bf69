"""Makes HTML pages of a study, of results and of a dataset, and prints the leaderboard of any runs.

    python make_report.py study RUN_DIR [--show_real]
    python make_report.py results RUN [RUN ...] --dataset_name DIR --output_file page.html
    python make_report.py leaderboard RUN [RUN ...]
    python make_report.py gallery DIR [--dataset_config_name restored] --output_file gallery.html

A RUN is a folder with `predictions.parquet` and `run.json`; every number is computed from the predictions. The pages
need no server and load nothing. Photographs appear as small re-encoded thumbnails, and only the user who made a page
may read it. `study` reads a whole folder of runs, such as runs/demo, and writes report.html, leaderboard.md and
results.json into it. pages/study_page.py, pages/results_page.py and pages/dataset_page.py fill the pages."""

import argparse
import os
from pathlib import Path

from harness.commands import Parser, dataset_argument, path_argument, run_command
from harness.derived_places import PAGE, note
from harness.errors import InputError, one_line
from harness.files import write_atomically, write_json
from harness.hub_availability import check_name, work_offline_if_unreachable

BUILD = "build it with rdface_dataset.py"
STUDY_FILES = ("report.html", "leaderboard.md", "results.json")
PAPER_RESULTS = Path(__file__).parent / "classification" / "paper_results.csv"
STOPPED = "no page was written"


def check_output(output_file: Path, dataset_name: str) -> None:
    """Raises InputError if a page with photographs must not be written there, or cannot."""
    folder = Path(dataset_name).resolve()
    if folder.is_dir() and folder in output_file.resolve().parents:
        raise InputError(f"--output_file {output_file} lies in the dataset, which gets published; name another place")
    if output_file.is_dir():
        raise InputError(f"--output_file {output_file} is a folder; name a file")


def write_page(output_file: Path, page: str) -> None:
    """Writes a page whole or not at all, readable by this user alone (mode 0600) from its first byte on.

    Raises InputError if that fails."""

    def write(file: Path) -> None:
        file.unlink(missing_ok=True)  # a file that a killed run left may have another mode
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as private:
            private.write(page)

    try:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output_file, write)
    except OSError as error:
        raise InputError(f"--output_file {output_file}: {one_line(error)}; name another file") from error


def write_study(folder: Path, show_real: bool) -> None:
    """Writes report.html, leaderboard.md and results.json of a study into its folder, and says the three headline
    numbers. Raises InputError for a folder without runs, and for one that lies in a dataset or cannot be written."""
    from pages import study_page  # imports datasets, which a refusal need not wait for
    from scoring import leaderboard

    outcome = study_page.study_outcome(folder, leaderboard.published_entries(PAPER_RESULTS), show_real)
    for name in STUDY_FILES:
        note([str(dataset) for dataset in outcome.datasets], folder / name, PAGE)
    write_page(folder / "report.html", outcome.page)
    try:
        write_atomically(folder / "leaderboard.md", lambda file: file.write_text(outcome.leaderboard, encoding="utf-8"))
        write_json(folder / "results.json", outcome.results)
    except OSError as error:
        raise InputError(f"{folder}: {one_line(error)}; make room, or make it writable") from error
    print("\n".join([*study_page.headline_lines(outcome.results), *outcome.warnings]))
    print(f"written: {folder}: {', '.join(STUDY_FILES)}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="one page of a whole study, with its leaderboard and numbers")
    text = "folder of the study's runs and dataset, such as runs/demo; the page is written into it"
    study.add_argument("run_dir", metavar="RUN_DIR", type=path_argument, help=text)
    text = "show photographs and reports of a dataset that is not simulated; the page must then not be passed on"
    study.add_argument("--show_real", action="store_true", help=text)
    results = commands.add_parser("results", help="table and examples of classifier runs")
    results.add_argument("runs", nargs="+", type=path_argument, help="folders that train_classifier.py wrote")
    results.add_argument(
        "--dataset_name", type=dataset_argument, required=True, help="the dataset of these runs: a folder or a Hub id"
    )
    results.add_argument("--output_file", type=path_argument, required=True, help="the page to write")
    results.add_argument("--num_examples", type=int, default=24, help="example images on the page")
    table = commands.add_parser("leaderboard", help="print one table of any runs, by protocol and regime, as Markdown")
    table.add_argument("runs", nargs="+", type=path_argument, help="folders with results.json")
    gallery = commands.add_parser("gallery", help="thumbnails to browse, for people who do not use the Hub")
    gallery.add_argument("dataset_name", metavar="DIR", type=dataset_argument, help="the dataset: a folder or a Hub id")
    gallery.add_argument("--output_file", type=path_argument, default=Path("gallery.html"), help="the page to write")
    for command in (results, gallery):
        command.add_argument("--dataset_config_name", help="config of the dataset (default: its default config)")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if args.command == "leaderboard":
        from scoring import leaderboard

        entries = [leaderboard.read_entry(folder) for folder in args.runs]
        print(leaderboard.format_leaderboard(entries + leaderboard.published_entries(PAPER_RESULTS)))
        return
    if args.command == "study":
        write_study(args.run_dir, args.show_real)
        return
    check_name(args.dataset_name, BUILD)
    if args.command == "gallery":
        check_output(args.output_file, args.dataset_name)
    work_offline_if_unreachable([args.dataset_name])
    from curation.opening import load_images  # these import datasets, which a refusal need not wait for
    from pages.dataset_page import gallery_page
    from pages.results_page import results_page

    images = load_images(args.dataset_name, args.dataset_config_name)
    if args.command == "gallery":
        page = gallery_page(images)
    else:
        try:
            page = results_page(args.runs, images, args.num_examples)
        except (FileNotFoundError, ValueError) as error:  # what a run's folder holds
            raise InputError(one_line(error)) from error
    note([args.dataset_name], args.output_file, PAGE)
    write_page(args.output_file, page)
    print(f"written: {args.output_file}")


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
