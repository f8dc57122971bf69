"""From a curator's folder to a dataset: the commands `validate` and `build`.

    python rdface_dataset.py validate FOLDER [--json]
    python rdface_dataset.py build FOLDER --output_dir DIR [--name TEXT] [--skip_bad] [--face_embedder FILE]

FOLDER holds `disease_images.csv` and the photographs, `rd_images/<disease_abbr>/<image_name>`. DIR becomes a dataset
that `load_dataset(DIR)` opens without a script. All problems are reported at once, each with file, row, column, reason
and remedy. Pairs of photographs that only a person can judge are shown in DIR/pairs_to_look_at.html. A build completes
or leaves DIR as it was. Exit codes: 0 done, 1 failed, 2 wrong arguments or bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.curated_rows import CSV_NAME, FolderError, Problem, Row, check_is_folder
from curation.dataset_name import PAPERS_CONDITIONS, PAPERS_IMAGES, RDFACE, checked, is_papers, recorded
from curation.extra_null_values import NullValues
from curation.problem_lines import in_lines, print_problems
from harness.commands import Parser, path_argument, run_command
from harness.counts import counted
from harness.errors import InputError
from harness.files import write_json
from harness.real_or_simulated import SIMULATED, is_simulated, would_shadow
from harness.run_folder import full_disk_named, run_record, sole_writer

if TYPE_CHECKING:
    from curation.building import Examined, RDFaceBuilder
    from curation.pairs_to_look_at import PairToLookAt
    from curation.same_person import Persons, Recognition

STOPPED = "no dataset was changed"


def __getattr__(name: str) -> type[RDFaceBuilder]:
    """`from rdface_dataset import RDFaceBuilder` works, but costs the commands no import of `datasets`."""
    if name == "RDFaceBuilder":
        from curation.building import RDFaceBuilder

        return RDFaceBuilder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def null_value(text: str) -> str:
    """`type` of --null_values."""
    try:
        NullValues([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def dataset_name(text: str) -> str:
    """`type` of --name."""
    try:
        return checked(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def cosine(text: str) -> float:
    """`type` of --person_cosine."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    validating = commands.add_parser("validate", help="report every problem of a folder, and change nothing")
    validating.add_argument("--json", action="store_true", help="print the problems as JSON")
    building = commands.add_parser("build", help="make the dataset")
    building.add_argument(
        "--output_dir", type=path_argument, required=True, help="the dataset's folder; an earlier build is replaced"
    )
    building.add_argument(
        "--skip_bad", action="store_true", help="leave bad rows and cells out and list them in rejected.csv"
    )
    text = "the dataset's name on its card, in its licence and in its records (default: that of the earlier build, or"
    building.add_argument("--name", type=dataset_name, metavar="TEXT", help=f"{text} {RDFACE})")
    building.add_argument(
        "--contact",
        help="where to ask for an image's removal, shown on the public card (default: that of the earlier build)",
    )
    text = "file of a face-recognition network (ONNX): pairs of photographs that may show one person are proposed for a"
    text += " look (default: persons are not looked for)"
    building.add_argument("--face_embedder", type=path_argument, metavar="FILE", help=text)
    text = "cosine of two faces above which they may be one person's (default: the one measured for this network)"
    building.add_argument("--person_cosine", type=cosine, metavar="X", help=text)
    for command in (validating, building):
        command.add_argument(
            "--null_values",
            type=null_value,
            nargs="+",
            action="extend",
            default=[],
            metavar="TEXT",
            help="further texts that mean not known, in any capitals; COLUMN=TEXT for one column, as in subject_id=0",
        )
        command.add_argument("folder", type=path_argument, help="holds disease_images.csv and rd_images/")
    args = parser.parse_args(argv)
    if args.command == "build" and args.person_cosine is not None and args.face_embedder is None:
        parser.error("--person_cosine requires --face_embedder FILE")
    return args


def main(args: argparse.Namespace) -> int:
    return {"validate": validate, "build": build}[args.command](args)


# ---- validate


def validate(args: argparse.Namespace) -> int:
    rows, problems = [], []
    try:
        check_is_folder(args.folder)
        from curation.building import examine  # here and in build: its libraries take seconds to import

        with tempfile.TemporaryDirectory() as workspace:
            examined = examine(args.folder, Path(workspace), args.null_values)
        note_private_subjects(examined)
        rows, problems = examined.rows, examined.problems
    except FolderError as error:
        if not args.json:
            raise
        problems = [error.problem]
    bad = [problem for problem in problems if problem.severity != "note"]
    if args.json:
        print_json(rows, problems)
    else:
        lines = print_problems(problems, sys.stdout)
        counts = in_lines(len(bad), "problem", lines[False]), in_lines(len(problems) - len(bad), "note", lines[True])
        print(f"{counted(len(rows), 'usable image')}, {', '.join(counts)}")
    return 2 if bad else 0


def print_json(rows: list[Row], problems: list[Problem]) -> None:
    result = {
        "images": len(rows),
        "conditions": len({row.abbreviation for row in rows}),
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }
    is_unicode = (sys.stdout.encoding or "").casefold().startswith("utf")
    print(json.dumps(result, indent=2, ensure_ascii=not is_unicode))


def note_private_subjects(examined: Examined) -> None:
    """Adds a note on each subject_id that publish_dataset.py would refuse; the note does not repeat it."""
    from publishing.private_text import private_identifier

    found: dict[str, list[str]] = {}
    for row in examined.rows:
        subject = row.values["subject_id"]
        if subject is not None and subject not in found:
            found[subject] = private_identifier(subject)
        for problem in found.get(subject, ()):
            remedy = f"before you publish, write a code, such as P1, in place of {problem}"
            examined.problems.append(row.problem("subject_id", "note", "publish_dataset.py refuses this cell", remedy))
    examined.problems.sort(key=lambda problem: problem.row or 0)


# ---- build


def build(args: argparse.Namespace) -> int:
    started = time.monotonic()
    check_is_folder(args.folder)
    from curation import build_target

    target = Path(os.path.realpath(args.output_dir))  # resolve() would raise RuntimeError over a link to itself
    build_target.check_path(target)
    with sole_writer(target), contextlib.ExitStack() as afterwards:
        workspace = build_target.prepare_workspace(target, args.folder)
        afterwards.callback(build_target.recover, target)
        with full_disk_named(target.parent, "make room, or choose another --output_dir"):
            return build_dataset(args, target, workspace, started)


def build_dataset(args: argparse.Namespace, target: Path, workspace: Path, started: float) -> int:
    from curation import build_target, building, datasheet, protocols, row_consistency, schema, withdrawn_list

    recognition = open_recognition(args)  # refused now, too

    # ---- the curator's folder: every problem, before anything is made
    earlier = datasheet.card_header(target)  # refused now if it cannot be read, not after the work
    name = args.name or recorded(earlier)
    check = functools.partial(check_simulated, name=args.name, target=target)
    examined = building.examine(args.folder, workspace, args.null_values, check)
    note_private_subjects(examined)
    withdrawn = withdrawn_list.listed(target)
    building.leave_out_withdrawn(examined, withdrawn)
    rows = examined.rows
    bad = [problem for problem in examined.problems if problem.severity != "note"]
    lines = print_problems(examined.problems, sys.stderr)
    if bad and not args.skip_bad:
        remedy = "correct what is wrong, or leave those rows and cells out with --skip_bad"
        print(f"{in_lines(len(bad), 'problem', lines[False])}; {remedy}", file=sys.stderr)
        return 2
    if not rows:
        raise FolderError(CSV_NAME, "has no usable row", "correct the problems above")
    simulated = check_simulated(rows, args.name, target)  # again: rows of other images may have been left out

    # ---- groups, folds, Parquet files, card
    why_no_paper = building.fill_in_groups_and_folds(rows, examined.pairs)
    if why_no_paper:
        print(f"warning: no protocol paper, its columns are null: {why_no_paper}", file=sys.stderr)
    if all(row.values["strict_fold"] is None for row in rows):
        why = f"{protocols.NO_STRICT}, so nothing can be tested; add photographs of further people"
        print(f"warning: no protocol strict, its column is null: {why}", file=sys.stderr)
    elif why_no_paper:
        print("use protocol strict, which is the default", file=sys.stderr)
    if unannotated := row_consistency.without_terms(rows):
        why = "--knowledge terms has no prior for such conditions, unless --term_table FILE adds their terms"
        print(f"note: no terms are known here for {unannotated}; {why}", file=sys.stderr)
    pairs, persons = open_pairs(examined, recognition)
    finished = workspace / "made"
    finished.mkdir()
    lines = write_pairs(finished, pairs, rows)
    if withdrawn:
        withdrawn_list.write_list(finished, withdrawn)
    class_names = list(dict.fromkeys(row.abbreviation for row in rows))
    if not simulated and not args.name and name in (None, RDFACE) and not is_papers(len(rows), len(class_names)):
        known = f"as the {PAPERS_IMAGES} photographs of {PAPERS_CONDITIONS} conditions of Feng et al. are called"
        print(
            f"note: the card calls this dataset {RDFACE}, {known}; give it a name of its own with --name TEXT",
            file=sys.stderr,
        )
    features = schema.real_features(class_names, examined.extra_columns)
    building.write_parquet(rows, features, finished / "real", workspace)
    version, contact = datasheet.version_after(target, finished), args.contact or earlier.get("contact")
    datasheet.write_datasheet(finished, version, contact, earlier.get("repository"), name)
    if bad:
        building.write_rejected(finished / "rejected.csv", bad)
    write_record(finished, args, rows, examined.problems, persons.record(), len(pairs), started)
    build_target.replace(target, finished)
    images = f"{counted(len(rows), 'image')} of {counted(len(class_names), 'condition')}"
    left_out = f"; left out: {named_losses(bad)}, listed in rejected.csv" if bad else ""
    print(f"{args.output_dir}: {images}; load_dataset opens it{left_out}")
    if persons.recognition or any(row.values["subject_id"] is None for row in rows):
        print(persons.line())
    for line in lines:
        print(line)
    return 0


def check_simulated(rows: Sequence[Row], name: str | None, target: Path) -> bool:
    """Whether all images are simulated; raises an error if the dataset's name or folder would hide it."""
    simulated = is_simulated(row.values["source_type"] for row in rows)
    if simulated and name:
        raise InputError(f"--name {name}: simulated images are published as RDFace-sim; leave --name out")
    if simulated and would_shadow(target):
        remedy = f"name it {SIMULATED}"
        raise FolderError(target.name, "would shadow the real dataset with simulated images", remedy)
    return simulated


def named_losses(bad: Sequence[Problem]) -> str:
    """What --skip_bad costs: "1 row and 2 cells"; a row that is lost takes its cells along."""
    lost = {(problem.file, problem.row) for problem in bad if problem.severity == "row"}
    cells = [problem for problem in bad if problem.severity == "cell" and (problem.file, problem.row) not in lost]
    counts = [counted(len(lost), "row")] * bool(lost) + [counted(len(cells), "cell")] * bool(cells)
    return " and ".join(counts)


def open_recognition(args: argparse.Namespace) -> Recognition | None:
    """What tells persons apart, if --face_embedder names a network."""
    if args.face_embedder is None:
        return None
    from curation.same_person import open_recognition

    return open_recognition(args.face_embedder, args.person_cosine)


def open_pairs(examined: Examined, recognition: Recognition | None) -> tuple[list[PairToLookAt], Persons]:
    """The pairs of photographs that the curator must look at, and what is known of persons; each row has its group."""
    from curation import building, pairs_to_look_at
    from curation.same_person import NOT_LOOKED_FOR, find_persons

    rows = examined.rows
    groups, notes = [row.values["group_id"] for row in rows], []
    pairs_to_look_at.note_joined_all_the_same(examined.different, groups, rows, notes)
    print_problems(notes, sys.stderr)
    persons = find_persons(rows, groups, recognition) if recognition else NOT_LOOKED_FOR
    pairs = building.copies_to_look_at(examined) + list(persons.pairs)
    return pairs_to_look_at.still_open(pairs, rows, examined.different, groups), persons


def write_pairs(folder: Path, pairs: list[PairToLookAt], rows: list[Row]) -> list[str]:
    """Writes the page and the table of pairs to look at, if there are any; returns lines that say so."""
    if not pairs:
        return []
    from curation.pairs_to_look_at import PAGE, TEMPLATE, write_template
    from pages.pairs_page import write_page

    shown = write_page(folder / PAGE, pairs, rows)
    write_template(folder / TEMPLATE, pairs[:shown], rows)
    more = f" ({shown} of them; the others once these are answered)" if shown < len(pairs) else ""
    return [f"{counted(len(pairs), 'pair')} to look at: {PAGE} shows them{more}, and says what to do"]


def write_record(
    folder: Path,
    args: argparse.Namespace,
    rows: list[Row],
    problems: list[Problem],
    persons: dict,
    n_pairs: int,
    started: float,
) -> None:
    """The run record. It holds names and no absolute paths, since the folder may be published."""
    from curation.parquet_files import parquet_digest, shard_digests

    record = run_record(vars(args), ("datasets", "pillow", "opencv-python", "hpo3"), started) | {
        "arguments": {
            "command": "build",
            "folder": Path(os.path.realpath(args.folder)).name,
            "output_dir": Path(os.path.realpath(args.output_dir)).name,
            "name": args.name,
            "skip_bad": args.skip_bad,
            "null_values": args.null_values,
        },
        "images": len(rows),
        "conditions": len({row.abbreviation for row in rows}),
        "problems": dict(Counter(problem.severity for problem in problems)),
        "persons": persons,
        "pairs_to_look_at": n_pairs,
        "content": parquet_digest(shard_digests(folder)),
        "device": "cpu",
    }
    write_json(folder / "build_record.json", record)


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
