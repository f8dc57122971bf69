"""From a curator's folder to a dataset: the schema, the builder, and the commands `validate` and `build`.

    python rdface_dataset.py validate FOLDER [--json]
    python rdface_dataset.py build FOLDER --output_dir DIR [--skip_bad]

FOLDER holds `disease_images.csv` and the photographs, `rd_images/<disease_abbr>/<image_name>`. DIR becomes a dataset
that `load_dataset(DIR)` opens with no script. Every problem is reported in one go with file, row, column, reason and
remedy. A build completes or leaves DIR as it was. Exit codes: 0 done, 1 failed, 2 wrong arguments or bad input.
"""

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Features, Image, List, Value
from PIL import Image as PILImage
from tqdm import tqdm

from curation import curated_table, dataset_figures, datasheet, protocols, withdrawn_list
from curation.curated_table import FolderError, Problem, Row
from curation.parquet_files import MAX_ROW_GROUP_BYTES, MAX_SHARD_BYTES, parquet_digest, shard_digests
from harness import errors
from harness.commands import Parser, path_argument, run_command
from harness.files import write_json  # fmt: skip
from harness.run_folder import check_replaceable, full_disk_named, run_record, sole_writer
from imaging import near_duplicates, photographs

STOPPED = "no dataset was changed"

WRITTEN = {  # all that a build makes, with real/*.parquet
    "README.md", "LICENSE", "croissant.json", "rejected.csv", "build_record.json", "real", "figures",
    withdrawn_list.LIST_NAME,
    *(f"figures/{name}" for name in dataset_figures.FIGURES),
}  # fmt: skip
_OF_EARLIER = "it was made of the earlier build: choose another --output_dir, or delete it and make it again afterwards"
REMEDIES = {  # what stands beside an earlier build and would be lost with it
    "restored": _OF_EARLIER,
    "reports": _OF_EARLIER,
}
NO_REMEDY = "nothing needs doing"
ROW_GROUP_ROWS = (100, 50, 20, 10, 5, 2, 1)  # the first that keeps every row group within MAX_ROW_GROUP_BYTES


def features(class_names: list[str], extra_columns: Iterable[str] = ()) -> Features:
    """The columns of config `real`, in order; extra_columns are the curator's own, kept as text.

    class_names: abbreviations in order of first appearance. A value that is not known is null, whatever the column."""
    columns = {
        "image": Image(mode="RGB"),
        "image_id": Value("string"),  # <ABBR>.<n>
        "subject_id": Value("string"),
        "label": ClassLabel(names=list(class_names)),
        "disease_name": Value("string"),
        "disease_abbr": Value("string"),
        "sub_category": Value("string"),
        "gene_names": List(Value("string")),
        "orphanet_code": Value("string"),
        "hpo_ids": List(Value("string")),  # seen in this photograph; null: nobody recorded any
        "age_years": Value("float64"),
        "age_group": Value("string"),  # 0-1, 2-5, 6-11, 12-17, 18+
        "sex": Value("string"),  # female, male
        "country": Value("string"),  # ISO 3166-1 alpha-3
        "source_type": Value("string"),
        "source_url": Value("string"),
        "license": Value("string"),
        "is_grayscale": Value("bool"),
        "width": Value("int32"),  # px, as is height
        "height": Value("int32"),
        "sha256": Value("string"),  # of the image bytes
        "group_id": Value("string"),  # image_id of the first image of the subject or of near duplicates
        "paper_split": Value("string"),  # train, test
        "paper_fold": Value("int8"),  # where a training image is validation; null: never
        "strict_fold": Value("int8"),  # where an image is tested; null: never, its condition has one group
    }
    extra = list(extra_columns)
    clashes = [name for name in extra if name in columns]
    if clashes:
        raise ValueError(f"columns {clashes} are columns of the dataset already; rename them in the CSV")
    return Features(columns | {name: Value("string") for name in extra})


class RDFaceBuilder(datasets.GeneratorBasedBuilder):
    """Streams rows and their photographs into `datasets`' own Parquet writer; used directly, not through a script."""

    def __init__(self, rows: list[Row], schema: Features, **kwargs):
        self.rows = rows
        self.schema = schema
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.schema)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN)]

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for key, row in enumerate(self.rows):
            source = row.rewritten or row.path
            data = source.read_bytes()
            published = data if row.rewritten else photographs.strip_metadata(data)
            if hashlib.sha256(published).hexdigest() != row.photograph.sha256:
                raise FolderError(row.path.name, "changed while the dataset was being built", "build again")
            # `datasets` keeps the path's last part, but would read a file of that path: below /dev/null there is none.
            name = f"/dev/null/{row.values['image_id']}{row.photograph.extension}"
            yield key, {"image": {"bytes": published, "path": name}, **row.values}


def scan(rows: list[Row], problems: list[Problem], workspace: Path) -> tuple[list[Row], list[tuple[int, int]]]:
    """Read every photograph once, in parallel. Returns the usable rows, and the pairs that show one photograph."""
    near = near_duplicates.NearDuplicates(workspace)
    usable: list[Row] = []
    first_with: dict[str, int] = {}  # pixels_sha256 -> usable row
    same: list[tuple[int, int]] = []
    for row, outcome in zip(rows, _read_all(rows, workspace), strict=True):
        if isinstance(outcome, photographs.PhotographError):
            problems.append(row.problem("image_name", "row", f"{row.path.name} {outcome.reason}", outcome.remedy))
            continue
        row.photograph, row.rewritten, thumbnails = outcome
        for note in row.photograph.notes:
            problems.append(row.problem("image_name", "note", f"{row.path.name} {note}", NO_REMEDY))
        twin = first_with.get(row.photograph.pixels_sha256)
        if twin is not None and usable[twin].abbreviation != row.abbreviation:
            reason = f"{row.path.name} is the same photograph as row {usable[twin].line}, under another condition"
            problems.append(row.problem("image_name", "row", reason, "delete the wrong one of the two rows"))
            continue
        if twin is None:
            first_with[row.photograph.pixels_sha256] = len(usable)
            near.add(len(usable), thumbnails)
        else:
            same.append((twin, len(usable)))
            reason = f"{row.path.name} is the same photograph as row {usable[twin].line}"
            problems.append(row.problem("image_name", "note", reason, "kept in one group; delete one of the two rows"))
        usable.append(row)
    pairs = near.pairs(same)
    for a, b in pairs:
        if usable[a].abbreviation != usable[b].abbreviation:
            reason = f"{usable[b].path.name} is a near duplicate of row {usable[a].line}, under another condition"
            problems.append(usable[b].problem("image_name", "note", reason, "kept in one group; check the diagnoses"))
    return usable, same + pairs


def _read_all(rows: list[Row], workspace: Path) -> Iterator:
    """(photograph, file with re-encoded bytes or None, thumbnails) or a PhotographError, in the order of the rows."""

    def read(number: int, row: Row):
        try:
            photograph, published, image = photographs.read(row.path)
        except photographs.PhotographError as error:
            return error
        rewritten = None
        if photograph.rewritten:
            rewritten = workspace / f"{number}{photograph.extension}"
            rewritten.write_bytes(published)
        return photograph, rewritten, near_duplicates.thumbnails(image)

    workers = os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.filterwarnings("ignore", category=PILImage.DecompressionBombWarning)  # judged by our own limit
        warnings.filterwarnings("ignore", module="PIL")  # corrupt metadata, which is dropped
        waiting: deque = deque()
        for number, row in enumerate(tqdm(rows, desc="Reading photographs", unit=" images")):
            waiting.append(pool.submit(read, number, row))
            if len(waiting) >= 4 * workers:  # bounded, so that results do not pile up
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def complete(rows: list[Row], pairs: list[tuple[int, int]]) -> str | None:
    """Fill in what follows from all rows together: identifiers, groups, folds.

    Returns why the `paper` columns are null, if they are."""
    labels = [row.abbreviation for row in rows]
    groups = protocols.groups([row.values["subject_id"] for row in rows], pairs)
    strict_fold = protocols.strict_folds(labels, groups)
    paper_split, paper_fold, why_no_paper = [None] * len(rows), [None] * len(rows), None
    try:
        paper_split, paper_fold = protocols.paper_split(labels)
    except errors.ProtocolError as error:
        why_no_paper = str(error)
    for i, row in enumerate(rows):
        row.values |= {
            "label": row.abbreviation,
            "is_grayscale": row.photograph.is_grayscale,
            "width": row.photograph.width,
            "height": row.photograph.height,
            "sha256": row.photograph.sha256,
            "group_id": rows[groups[i]].values["image_id"],
            "paper_split": paper_split[i],
            "paper_fold": paper_fold[i],
            "strict_fold": strict_fold[i],
        }
    return why_no_paper


def examine(
    folder: Path, workspace: Path, null_values: Iterable[str] = ()
) -> tuple[list[Row], list[str], list[tuple[int, int]], list[Problem]]:
    """Usable rows, names of the curator's own columns, pairs of near duplicates, and all problems in the CSV's order.

    null_values: the curator's own texts for "not known", TEXT or COLUMN=TEXT.
    Raises FolderError where the folder as a whole cannot be used."""
    problems: list[Problem] = []
    rows, extra_columns = curated_table.read(folder, problems, set(features([])), null_values)
    rows, pairs = scan(rows, problems, workspace)
    curated_table.assign_image_ids(rows, problems)
    problems.sort(key=lambda problem: problem.row or 0)
    return rows, extra_columns, pairs, problems


def validate(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as workspace:
        try:
            rows, _, _, problems = examine(args.folder, Path(workspace), args.null_values)
        except FolderError as error:
            if not args.json:
                raise
            rows, problems = [], [error.problem]
    bad = [problem for problem in problems if problem.severity != "note"]
    if args.json:
        report = {
            "images": len(rows),
            "conditions": len({row.abbreviation for row in rows}),
            "problems": [dataclasses.asdict(problem) for problem in problems],
        }
        is_unicode = (sys.stdout.encoding or "").casefold().startswith("utf")
        print(json.dumps(report, indent=2, ensure_ascii=not is_unicode))
    else:
        print_problems(problems, sys.stdout)
        notes = len(problems) - len(bad)
        print(f"{counted(len(rows), 'usable image')}, {counted(len(bad), 'problem')}, {counted(notes, 'note')}")
    return 2 if bad else 0


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_problems(problems: list[Problem], stream) -> None:
    """One line per problem; notes with one remedy are folded into their first, since they ask for nothing."""
    alike: dict[tuple, list[int]] = defaultdict(list)
    for problem in problems:
        if problem.severity == "note":
            alike[_kind(problem)].append(problem.row)
    for problem in problems:
        rows = alike.pop(_kind(problem), []) if problem.severity == "note" else [problem.row]
        if rows:
            more = f" (also {named_rows(rows[1:])})" if rows[1:] else ""
            print(f"{problem}{more}", file=stream)


def _kind(problem: Problem) -> tuple:
    """What folds notes: their remedy, and if that is none what they say of a photograph, its name and numbers aside."""
    said = re.sub(r"\d+", "", problem.reason.partition(" ")[2]) if problem.remedy == NO_REMEDY else ""
    return problem.column, problem.remedy, said


def named_rows(rows: list[int]) -> str:
    """ "row 3", "rows 3 and 4", or "rows 3, 4, ... and 66 more", where ten are named."""
    numbers = list(dict.fromkeys(rows))
    named = [str(number) for number in numbers[:10]]
    last = f"{len(numbers) - 10} more" if len(numbers) > 10 else named.pop()
    listed = f"{', '.join(named)} and {last}" if named else last
    return f"row{'s' * (len(numbers) > 1)} {listed}"


def build(args: argparse.Namespace) -> int:
    began = time.monotonic()
    target = Path(os.path.realpath(args.output_dir))  # resolve() would raise RuntimeError over a link to itself
    check_name(target)
    with sole_writer(target), contextlib.ExitStack() as afterwards:
        workspace = _workspace(target, args.folder)
        afterwards.callback(recover, target)
        with full_disk_named(target.parent, "make room, or choose another --output_dir"):
            return _build(args, target, Path(workspace), began)


def _workspace(target: Path, folder: Path) -> str:
    """A new folder beside the target, in which a build may put all it writes before it takes the target's place."""
    try:
        recover(target)
        check_target(target, folder)
        check_replaceable(target)
        return tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise FolderError(target.name, reason, "choose another --output_dir") from error


def _build(args: argparse.Namespace, target: Path, workspace: Path, began: float) -> int:
    earlier = datasheet.card_header(target)  # refused now if it cannot be read, not after the work
    rows, extra_columns, pairs, problems = examine(args.folder, workspace, args.null_values)
    withdrawn = withdrawn_list.listed(target)
    rows, pairs = without_withdrawn(rows, pairs, withdrawn, problems)
    bad = [problem for problem in problems if problem.severity != "note"]
    print_problems(problems, sys.stderr)
    if bad and not args.skip_bad:
        remedy = "correct what is wrong, or leave those rows and cells out with --skip_bad"
        print(f"{counted(len(bad), 'problem')}; {remedy}", file=sys.stderr)
        return 2
    if not rows:
        raise FolderError(curated_table.CSV_NAME, "has no usable row", "correct the problems above")
    simulated = [(row.values["source_type"] or "").casefold() == "simulated" for row in rows]
    if all(simulated) and target.name.casefold() == "rdface":
        raise FolderError(target.name, "would shadow the real dataset with simulated images", "name it rdface-sim")
    why_no_paper = complete(rows, pairs)
    if why_no_paper:
        print(f"warning: protocol paper cannot be applied, its columns are null: {why_no_paper}", file=sys.stderr)
    made = workspace / "made"
    made.mkdir()
    if withdrawn:
        withdrawn_list.write_list(made, withdrawn)
    schema = features(list(dict.fromkeys(row.abbreviation for row in rows)), extra_columns)
    write_parquet(rows, schema, made / "real", workspace)
    version, contact = datasheet.version_after(target, made), args.contact or earlier.get("contact")
    datasheet.write_datasheet(made, version, contact, earlier.get("repository"))
    if bad:
        write_rejected(made / "rejected.csv", bad)
    write_record(made, args, rows, problems, began)
    replace(target, made)
    made_of = f"{counted(len(rows), 'image')} of {counted(len(schema['label'].names), 'condition')}"
    left_out = f"; {counted(len(bad), 'problem')} left out, listed in rejected.csv" if bad else ""
    print(f"{args.output_dir}: {made_of}; load_dataset opens it{left_out}")
    return 0


def without_withdrawn(
    rows: list[Row], pairs: list[tuple[int, int]], withdrawn: list[withdrawn_list.Withdrawn], problems: list[Problem]
) -> tuple[list[Row], list[tuple[int, int]]]:
    """The rows, and pairs among them, less those of photographs that were withdrawn from the earlier build."""
    dates, names = ({getattr(line, key): line.withdrawn_on for line in withdrawn} for key in ("sha256", "image_id"))
    kept: dict[int, int] = {}  # number before -> number after
    for number, row in enumerate(rows):
        image_id, remedy = row.values["image_id"], "delete the row and the file"
        if row.photograph.sha256 in dates:
            reason = f"{row.path.name} was withdrawn on {dates[row.photograph.sha256]}"
        elif image_id in names:
            reason = f"{row.path.name} would be {image_id}, which was another photograph's until {names[image_id]}"
            remedy = "delete the row and the file, or give the file another number if it shows somebody else"
        else:
            kept[number] = len(kept)
            continue
        problems.append(row.problem("image_name", "row", reason, remedy))
    problems.sort(key=lambda problem: problem.row or 0)
    return [rows[number] for number in kept], [(kept[a], kept[b]) for a, b in pairs if a in kept and b in kept]


def write_parquet(rows: list[Row], schema: Features, folder: Path, workspace: Path) -> None:
    """Write train-*.parquet, and nothing else, into a new folder."""
    cache = str(workspace / "cache")  # or the builder would leave locks in the user's own
    options = {"dataset_name": "rdface", "config_name": "real", "writer_batch_size": row_group_rows(rows)}
    builder = RDFaceBuilder(rows, schema, cache_dir=cache, **options)
    written = workspace / "written"
    try:
        builder.download_and_prepare(str(written), file_format="parquet", max_shard_size=MAX_SHARD_BYTES)
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None
    folder.mkdir()
    shards = sorted(written.glob("*.parquet"))
    for number, shard in enumerate(shards):
        shard.rename(folder / f"train-{number:05d}-of-{len(shards):05d}.parquet")


def row_group_rows(rows: list[Row]) -> int:
    """How many rows a row group, and the writer's memory, may hold: one at least, however large its photograph is."""
    size = np.array([(row.rewritten or row.path).stat().st_size for row in rows])
    for n in ROW_GROUP_ROWS:
        if np.add.reduceat(size, np.arange(0, len(size), n)).max() <= MAX_ROW_GROUP_BYTES:
            return n
    return 1


def write_rejected(path: Path, bad: list[Problem]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Problem)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(problem) for problem in bad)


def write_record(made: Path, args: argparse.Namespace, rows: list[Row], problems: list[Problem], began: float) -> None:
    """The run record. Names only, no absolute paths: the folder is published."""
    record = run_record(args, ("datasets", "pillow", "opencv-python", "hpo3"), began) | {
        "arguments": {
            "command": "build",
            "folder": Path(os.path.realpath(args.folder)).name,
            "output_dir": Path(os.path.realpath(args.output_dir)).name,
            "skip_bad": args.skip_bad,
            "null_values": args.null_values,
        },
        "images": len(rows),
        "conditions": len({row.abbreviation for row in rows}),
        "problems": dict(Counter(problem.severity for problem in problems)),
        "content": parquet_digest(shard_digests(made)),
        "device": "cpu",
    }
    write_json(made / "build_record.json", record)


def check_name(target: Path) -> None:
    """Raise FolderError if `load_dataset` would take the target's path for a pattern or a chain of addresses."""
    if re.search(r"[\[\]*?]|::", str(target)):
        reason = "has [, ], *, ? or :: in its path, so that load_dataset could not open it"
        raise FolderError(target.name, reason, "choose another --output_dir")


def check_target(target: Path, folder: Path) -> None:
    """Raise FolderError unless the target is absent, empty, or an earlier build with nothing else in it."""
    source = Path(os.path.realpath(folder))
    if source == target or target in source.parents:
        raise FolderError(target.name, "holds the curator's folder", "choose another --output_dir")
    if target.is_symlink():  # still, though its path was resolved
        raise FolderError(target.name, "is a link that leads to itself", "choose another --output_dir")
    if target.exists() and not target.is_dir():
        raise FolderError(target.name, "is a file", "choose another --output_dir")
    if target.is_dir() and any(target.iterdir()):
        readme = target / "README.md"
        if not (readme.is_file() and datasheet.GENERATOR in readme.read_text(encoding="utf-8", errors="replace")):
            raise FolderError(target.name, "is not empty and no earlier build", "choose another --output_dir")
        for path in sorted(target.rglob("*")):
            name = path.relative_to(target).as_posix()
            if name not in WRITTEN and not re.fullmatch(r"real/train-\d{5}-of-\d{5}\.parquet", name):
                reason = f"holds {name}, which no build writes and the next would delete"
                remedy = REMEDIES.get(name, "move it away, or choose another --output_dir")
                raise FolderError(target.name, reason, remedy)


def _previous(target: Path) -> Path:
    return target.parent / f".{target.name}.previous"


def recover(target: Path) -> None:
    """Undo what a killed build left behind: its workspace, and the old target if it was moved aside already."""
    if _previous(target).exists() and not target.exists():
        _previous(target).rename(target)
    for leftover in (_previous(target), *target.parent.glob(f".{target.name}.building-*")):
        shutil.rmtree(leftover, ignore_errors=True)


def replace(target: Path, made: Path) -> None:
    """Put the finished folder in the target's place; a stop between the two renames is undone by `recover`."""
    if target.exists():
        target.rename(_previous(target))
    made.rename(target)


def null_value(text: str) -> str:
    try:
        curated_table.NullValues([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser("validate", help="report every problem of a folder, and change nothing")
    checked.add_argument("--json", action="store_true", help="print the report as JSON")
    built = commands.add_parser("build", help="make the dataset")
    built.add_argument(
        "--output_dir", type=path_argument, required=True, help="the dataset's folder; an earlier build is replaced"
    )
    built.add_argument(
        "--skip_bad", action="store_true", help="leave bad rows and cells out and list them in rejected.csv"
    )
    built.add_argument(
        "--contact",
        help="where to ask for an image's removal, shown on the card (public); the earlier build's if not given",
    )
    for command in (checked, built):
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
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    return {"validate": validate, "build": build}[args.command](args)


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
