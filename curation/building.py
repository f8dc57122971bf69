"""What a build makes of the curator's folder: its rows examined, their groups and folds, and the Parquet files."""

import csv
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import datasets
import numpy as np

from curation import curated_table, pairs_to_look_at, protocols, schema
from curation.curated_rows import FolderError, Problem, Row
from curation.pairs_to_look_at import PairToLookAt
from curation.parquet_files import MAX_ROW_GROUP_BYTES, MAX_SHARD_BYTES
from curation.photograph_scan import scan
from curation.withdrawn_list import Withdrawn
from harness import real_or_simulated
from harness.errors import ProtocolError
from imaging import photographs
from imaging.near_duplicates import Likeness

ROW_GROUP_ROWS = (100, 50, 20, 10, 5, 2, 1)  # the first that keeps every row group within MAX_ROW_GROUP_BYTES


@dataclasses.dataclass
class Examined:
    """The curator's folder once everything in it was read."""

    rows: list[Row]  # those that are usable
    extra_columns: list[str]  # the curator's own
    pairs: list[tuple[int, int]]  # numbers of rows that show one photograph, or nearly so, or that the curator joined
    different: list[tuple[int, int]]  # numbers of rows that the curator found to show different people
    to_look_at: dict[tuple[int, int], Likeness]  # numbers of rows: perhaps copies, or one a part of the other
    problems: list[Problem]  # in the order of the CSV


def examine(
    folder: Path,
    workspace: Path,
    null_values: Iterable[str] = (),
    check: Callable[[list[Row]], None] = lambda rows: None,
) -> Examined:
    """Read the table and every photograph of the curator's folder, and note all problems.

    workspace: a folder for what is written meanwhile; null_values: the curator's own texts for "not known", TEXT or
    COLUMN=TEXT; check: looks at the table's rows before any photograph is read, and may raise. Raises FolderError if
    the folder as a whole cannot be used."""
    problems: list[Problem] = []
    reserved = set(schema.real_features([]))
    rows, extra_columns = curated_table.read(folder, problems, reserved, null_values)
    check(rows)
    answers = pairs_to_look_at.read_answers(folder, rows, problems)
    rows, pairs, different, to_look_at = scan(rows, problems, workspace, answers)
    curated_table.assign_image_ids(rows, problems)
    problems.sort(key=lambda problem: problem.row or 0)
    return Examined(rows, extra_columns, pairs, different, to_look_at, problems)


def leave_out_withdrawn(examined: Examined, withdrawn: Iterable[Withdrawn]) -> None:
    """Take photographs that were withdrawn from the earlier build out of the rows and pairs; each becomes a problem.

    They are known by their bytes, by their pixels if they were saved again without loss, and by their names."""
    withdrawn = list(withdrawn)
    date_of_digest = {line.sha256: line.withdrawn_on for line in withdrawn}
    date_of_digest |= {line.pixels_sha256: line.withdrawn_on for line in withdrawn if line.pixels_sha256}
    date_of_id = {line.image_id: line.withdrawn_on for line in withdrawn}
    kept: dict[int, int] = {}  # number before -> number after
    for number, row in enumerate(examined.rows):
        image_id, remedy = row.values["image_id"], "delete the row and the file"
        digests = {row.photograph.sha256, row.photograph.pixels_sha256} & set(date_of_digest)
        if digests:
            reason = f"{row.path.name} was withdrawn on {date_of_digest[digests.pop()]}"
        elif image_id in date_of_id:
            reason = f"{row.path.name} would be {image_id}, which was another photograph's until {date_of_id[image_id]}"
            remedy = "delete the row and the file, or give the file another number if it shows somebody else"
        else:
            kept[number] = len(kept)
            continue
        examined.problems.append(row.problem("image_name", "row", reason, remedy))
    examined.problems.sort(key=lambda problem: problem.row or 0)
    examined.rows = [examined.rows[number] for number in kept]
    for pairs in (examined.pairs, examined.different):
        pairs[:] = [(kept[a], kept[b]) for a, b in pairs if a in kept and b in kept]
    examined.to_look_at = {
        (kept[a], kept[b]): likeness for (a, b), likeness in examined.to_look_at.items() if a in kept and b in kept
    }


def copies_to_look_at(examined: Examined) -> list[PairToLookAt]:
    """Pairs of photographs that may be copies, and those of which one seems to be a part of the other, as of a plate.

    Each row must have its image_id."""
    pairs = []
    for (a, b), likeness in examined.to_look_at.items():
        kind = pairs_to_look_at.PLATE if likeness.is_part else pairs_to_look_at.COPY
        image_ids = (examined.rows[row].values["image_id"] for row in (a, b))
        pairs.append(PairToLookAt(*image_ids, kind, str(likeness)))
    return pairs


def fill_in_groups_and_folds(rows: list[Row], pairs: list[tuple[int, int]]) -> str | None:
    """Complete every row by what it takes all rows to know, and by what its photograph says.

    pairs: numbers of rows that show one photograph. Returns why the `paper` columns are null, or None if they are not.
    """
    labels = [row.abbreviation for row in rows]
    groups = protocols.groups([row.values["subject_id"] for row in rows], pairs)
    strict_fold = protocols.strict_folds(labels, groups)
    paper_split, paper_fold, why_no_paper = [None] * len(rows), [None] * len(rows), None
    try:
        paper_split, paper_fold = protocols.paper_split(labels)
    except ProtocolError as error:
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


class RDFaceBuilder(datasets.GeneratorBasedBuilder):
    """Streams rows and their photographs into `datasets`' own Parquet writer; used directly, not through a script."""

    def __init__(self, rows: list[Row], features: datasets.Features, **kwargs):
        self.rows = rows
        self.features = features
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN)]

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for key, row in enumerate(self.rows):
            content = (row.rewritten or row.path).read_bytes()
            published = content if row.rewritten else photographs.strip_metadata(content)
            if hashlib.sha256(published).hexdigest() != row.photograph.sha256:
                raise FolderError(row.path.name, "changed while the dataset was being built", "build again")
            # `datasets` keeps the path's last part, but would read a file of that path: below /dev/null there is none.
            name = f"/dev/null/{row.values['image_id']}{row.photograph.extension}"
            yield key, {"image": {"bytes": published, "path": name}, **row.values}


def write_parquet(rows: list[Row], features: datasets.Features, folder: Path, workspace: Path) -> None:
    """Write train-*.parquet, and nothing else, into a new folder."""
    cache = str(workspace / "cache")  # or the builder would leave locks in the user's own
    options = {"dataset_name": real_or_simulated.REAL, "config_name": "real", "writer_batch_size": row_group_rows(rows)}
    builder = RDFaceBuilder(rows, features, cache_dir=cache, **options)
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
    """How many rows a row group, and so the writer's memory, may hold: at least one, however large a photograph is."""
    size = np.array([(row.rewritten or row.path).stat().st_size for row in rows])
    for n in ROW_GROUP_ROWS:
        if np.add.reduceat(size, np.arange(0, len(size), n)).max() <= MAX_ROW_GROUP_BYTES:
            return n
    return 1


def write_rejected(file: Path, problems: list[Problem]) -> None:
    """rejected.csv: the problems that cost a row or a cell."""
    with file.open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, [field.name for field in dataclasses.fields(Problem)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(problem) for problem in problems)
