"""Draws a simulated corpus in the curator's input layout, with the ground truth of every photograph.

    python simulate_faces.py --output_dir rdface-sim-raw

HPO terms move face parameters (phenotyping/phenotypes.py), a person is drawn with them (simulation/people.py) and
painted (simulation/face_painting.py), and the photograph is degraded as real ones are (simulation/photography.py).
Conditions, genes, codes and frequencies of terms are facts of ORPHA and HPO; every person and every photograph is
SIMULATED. Writes disease_images.csv, rd_images/<ABBR>/<ABBR>.<n>.jpg, ground_truth.parquet,
contact_sheet_simulated.png, SIMULATED.txt and run.json."""

import argparse
import contextlib
import os
import shutil
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from harness import real_or_simulated
from harness.commands import Parser, path_argument, run_command
from harness.counts import counted
from harness.errors import OutsideError
from harness.files import write_json
from harness.run_folder import check_replaceable, full_disk_named, run_record, sole_writer
from phenotyping import phenotypes

STOPPED = "nothing is left of the corpus"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output_dir",
        type=path_argument,
        required=True,
        help="new folder for the simulated corpus; never called 'rdface'",
    )
    parser.add_argument("--num_images", type=int, default=456, help="number of photographs, at least one per condition")
    parser.add_argument(
        "--num_conditions",
        type=int,
        default=phenotypes.NUM_STUDY_CONDITIONS,
        help="number of conditions: the most informative ones, from rank --first_condition on",
    )
    parser.add_argument(
        "--first_condition",
        type=int,
        default=0,
        help=f"rank of the first condition; those from {phenotypes.NUM_STUDY_CONDITIONS} on are not in the study",
    )
    parser.add_argument("--image_size", type=int, default=512, help="side of a photograph in px")
    text = "effect of a term on a face, in standard deviations of individual variation"
    parser.add_argument("--effect", type=float, default=phenotypes.EFFECT, help=text)
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count(), help="number of processes; the corpus does not depend on it"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn at random")
    args = parser.parse_args(argv)
    available = len(phenotypes.conditions()) - args.first_condition
    if not 0 < args.num_conditions <= available or args.first_condition < 0:
        parser.error(
            f"--num_conditions must be 1 to {max(available, 0)} from --first_condition {args.first_condition}; "
            f"conditions.csv has {len(phenotypes.conditions())}"
        )
    if args.num_images < args.num_conditions:
        parser.error(
            f"--num_images {args.num_images} is fewer than --num_conditions {args.num_conditions}; "
            "every condition needs an image"
        )
    if args.image_size < 32 or args.num_workers < 1 or args.seed < 0:
        parser.error("--image_size must be at least 32, --num_workers at least 1 and --seed not negative")
    if real_or_simulated.would_shadow(args.output_dir):
        parser.error(
            "--output_dir must not be called rdface: simulated data would shadow the real dataset; use rdface-sim"
        )
    if args.output_dir.exists() and (not args.output_dir.is_dir() or any(args.output_dir.iterdir())):
        parser.error(f"--output_dir {args.output_dir} exists and is not an empty folder; give another or delete it")
    return args


def main(args: argparse.Namespace) -> None:
    from pages.sheets import draw_sheet  # these import OpenCV and Pillow, which a refusal need not wait for
    from simulation.corpus import plan_corpus, sheet_pictures, write_corpus

    started = time.monotonic()
    conditions = phenotypes.conditions()[args.first_condition : args.first_condition + args.num_conditions]
    photographs = plan_corpus(args.num_images, conditions, args.seed)
    print(
        f"{counted(len(photographs), 'SIMULATED photograph')} of "
        f"{counted(len({p.person for p in photographs}), 'person', 'people')} with "
        f"{counted(len(conditions), 'condition')}, {args.image_size} px, seed {args.seed}, "
        f"{counted(args.num_workers, 'process', 'processes')}"
    )
    target = Path(os.path.realpath(args.output_dir))
    partial_folder = target.with_name(f".{target.name}.partial")  # renamed when complete, so never taken for a corpus
    with (
        sole_writer(target),
        full_disk_named(target.parent, "make room, or choose another --output_dir"),
        contextlib.ExitStack() as afterwards,
    ):
        check_replaceable(target)
        shutil.rmtree(partial_folder, ignore_errors=True)
        afterwards.callback(shutil.rmtree, partial_folder, ignore_errors=True)
        partial_folder.mkdir()
        try:
            write_corpus(partial_folder, photographs, args.image_size, args.seed, args.effect, args.num_workers)
            sheet = draw_sheet(sheet_pictures(partial_folder, photographs, columns=10), cell_px=128, columns=10)
            sheet.save(partial_folder / "contact_sheet_simulated.png")
        except BrokenProcessPool as error:
            reason = "a process was ended from outside, as when memory runs out; give a smaller --num_workers"
            raise OutsideError(reason) from error
        record = run_record(vars(args), ("numpy", "opencv-python", "pillow", "pyarrow"), started)
        write_json(partial_folder / "run.json", record | {"seeds": [args.seed], "device": "cpu", "simulated": True})
        if target.exists():
            target.rmdir()
        partial_folder.rename(target)
    print(
        f"written: {args.output_dir}/disease_images.csv, rd_images/, ground_truth.parquet, contact_sheet_simulated.png"
    )


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
