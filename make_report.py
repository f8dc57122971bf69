"""Self-contained HTML pages: results of finished runs, with intervals and chance; and a gallery of a dataset.

    python make_report.py results RUN [RUN ...] --dataset_name DIR --output_file page.html
    python make_report.py gallery DIR [--dataset_config_name restored] --output_file gallery.html

A RUN is a folder with `predictions.parquet` and `run.json`; every number is recomputed from the predictions here. The
pages need no server and load nothing; photographs appear as small re-encoded thumbnails, and only the user who made a
page may read it. pages/dataset_page.py fills the gallery."""

import argparse
import os
from pathlib import Path

from curation.opening import load_images
from harness.commands import Parser, dataset_argument, path_argument, run_command
from harness.errors import InputError, one_line
from harness.files import write_atomically
from pages import dataset_page
from pages.results_page import results_page

STOPPED = "no page was written"


def write_page(output_file: Path, page: str) -> None:
    """Whole or not at all, and from its first byte for this user alone (mode 0600): a page holds photographs."""

    def write(file: Path) -> None:
        file.unlink(missing_ok=True)  # what a killed run left may have another mode
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as private:
            private.write(page)

    try:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output_file, write)
    except OSError as error:
        raise InputError(f"--output_file {output_file}: {one_line(error)}; name another file") from error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    results = commands.add_parser("results", help="table and examples of classifier runs")
    results.add_argument("runs", nargs="+", type=path_argument, help="folders that train_classifier.py wrote")
    results.add_argument(
        "--dataset_name", type=dataset_argument, required=True, help="the dataset of these runs: a folder or a Hub id"
    )
    results.add_argument("--output_file", type=path_argument, required=True, help="the page to write")
    results.add_argument("--num_examples", type=int, default=24, help="example images on the page")
    browsed = commands.add_parser("gallery", help="thumbnails to browse, for people without the Hub")
    browsed.add_argument("dataset_name", metavar="DIR", type=dataset_argument, help="the dataset: a folder or a Hub id")
    browsed.add_argument("--output_file", type=path_argument, default=Path("gallery.html"), help="the page to write")
    for command in (results, browsed):
        command.add_argument("--dataset_config_name", default=None, help="its config; none: the default one")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if args.command == "gallery":
        dataset_page.check_output(args.output_file, args.dataset_name)
    images = load_images(args.dataset_name, args.dataset_config_name)
    if args.command == "gallery":
        page = dataset_page.gallery_page(images)
    else:
        try:
            page = results_page(args.runs, images, args.num_examples)
        except (FileNotFoundError, ValueError) as error:  # what a run's folder holds
            raise InputError(one_line(error)) from error
    write_page(args.output_file, page)
    print(f"written: {args.output_file}")


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
