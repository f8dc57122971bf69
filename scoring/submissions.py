"""Checks somebody's predictions against a dataset: every problem with its row, and no score unless there is none.

A submission is a Parquet or CSV file with one row per predicted image: `image_id`, and either `probabilities` (a list
in the order of the dataset's classes; Parquet only) or one column per condition, named by its abbreviation. It may also
have `fold`, `seed` (several rows per image then), `label`, `split`, `protocol`, `backbone` and `recipe`. Labels, people
and subgroups are always taken from the dataset. What a model was trained on cannot be seen in its predictions: the
check is that each row names an image that its fold holds out.
"""

import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.counts import counted
from harness.csv_table import TableError, read_table
from harness.protocol_names import PROTOCOLS
from scoring.prediction_files import (
    SPLITS,
    name_of,
    name_or_none,
    probabilities_of,
    read_parquet,
    shown_cell,
    whole_number,
)

OPTIONAL = ("fold", "seed", "label", "split", "protocol", "backbone", "recipe")
FROM_DATASET = ("subject", "sex", "age_group", "region", "settings")  # in train_classifier.py's files; not read
SUFFIXES = (".parquet", ".csv")
MOST_NAMED = 5


class SubmissionError(ValueError):
    """A submission that cannot be scored; `problems` has one line per reason, each as "file:row: reason; remedy", and
    names in it the further rows of the same reason."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("; ".join(problems[:1]))
        self.problems = list(problems)


@dataclasses.dataclass
class Tested:
    """What a dataset says of its images under one protocol; rows in the dataset's order."""

    protocol: str
    classes: Sequence[str]  # (C,) abbreviations, in the order of the probabilities
    images: pd.DataFrame  # (n,) image_id, label, subject and perhaps sex, age_group, region
    held_out: Sequence[bool]  # (n,) whether an image is tested at all
    fold: Sequence[int | None]  # (n,) the fold that tests it under strict; under paper None: every fold does
    folds: Sequence[int]  # all of them


@dataclasses.dataclass
class Table:
    """The cells of a submission as they were written; row (n,): the line of a CSV file, or the number from 1."""

    name: str
    columns: dict[str, list]
    row: list[int]


def read_submission(file: Path) -> Table:
    """The cells of a Parquet or CSV file. Raises SubmissionError with one problem for a file that cannot be read, that
    has no rows, or that has a column twice, and with one for each row of another length than the header."""
    if not file.is_file():
        what = "is a folder; name the file in it" if file.is_dir() else "there is no such file"
        raise SubmissionError([f"{file}: {what}"])
    if file.suffix.lower() not in SUFFIXES:
        raise SubmissionError([f"{file}: its name ends neither in .parquet nor in .csv; submit one of these"])
    table = _read_csv(file) if file.suffix.lower() == ".csv" else _read_parquet(file)
    if not table.row:
        raise SubmissionError([f"{file}: holds no predictions; give one row per tested image"])
    return table


def _read_parquet(file: Path) -> Table:
    try:
        frame = read_parquet(file)
    except ValueError as error:
        raise SubmissionError([str(error)]) from error
    columns = {name: frame[name].tolist() for name in frame if not name.startswith("__index_level_")}  # of pandas
    return Table(str(file), columns, list(range(1, len(frame) + 1)))


def _read_csv(file: Path) -> Table:
    try:
        header, rows = read_table(file)
    except TableError as error:
        raise SubmissionError(error.problems) from error
    columns = {name: [cells[name] for _, cells in rows] for name in header}
    return Table(str(file), columns, [line for line, _ in rows])


def accepted(table: Table, tested: Tested) -> pd.DataFrame:
    """The submission as predictions that run_scores.score takes, with labels, people and subgroups of the dataset.

    Raises SubmissionError with every problem: a column that is missing or unknown; a row whose image is not in the
    dataset, is not tested, is predicted twice or in another fold than the one that holds it out; a label that is not
    the dataset's; probabilities that are missing, not finite, negative, of another number than the classes, or do not
    add up to 1; values of a column that should be one; and tested images that are missing. Rows of split val are
    passed over, as everywhere; a row of split train is a problem."""
    if problems := _column_problems(table, tested.classes):
        raise SubmissionError(problems)
    rows, problems = _read_rows(table, tested)
    problems += _repeated(table, rows, tested) + _mixed(table, rows)
    if not problems:
        problems = _missing(table, rows, tested)
    if problems:
        raise SubmissionError(problems)
    predictions = pd.DataFrame([{name: row[name] for name in row if name != "row"} for row in rows])
    predictions = predictions.assign(protocol=tested.protocol, split="test")
    defaults = {"backbone": Path(table.name).stem, "recipe": "submission"}
    for column, default in defaults.items():
        predictions[column] = predictions[column].fillna(default)
    truth = tested.images.set_index("image_id")
    return predictions.join(truth, on="image_id")


def _column_problems(table: Table, classes: Sequence[str]) -> list[str]:
    if "image_id" not in table.columns:
        return [f"{table.name}: column image_id is missing; it names the image of each row"]
    by_class = [column for column in table.columns if column in classes]
    if "probabilities" in table.columns and by_class:
        return [f"{table.name}: has a column probabilities and one named {by_class[0]}; give one or the other"]
    lacking = [name for name in classes if name not in table.columns]
    problems = []
    if "probabilities" not in table.columns and lacking:
        what = f"the column of {_named(lacking)} is missing; give one column per condition, or a column probabilities"
        problems.append(f"{table.name}: {what}")
    known = {"image_id", "probabilities", *OPTIONAL, *FROM_DATASET, *classes}
    unknown = [shown_cell(column) for column in table.columns if column not in known]
    if unknown:
        problems.append(
            f"{table.name}: {_named(unknown)} is no condition and no known column; delete it, or correct it"
        )
    return problems


def _named(names: Sequence[str]) -> str:
    """The first MOST_NAMED of some names, and how many there are besides."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


# ------------------------------------------------------------------------------------------------------------- rows


def _read_rows(table: Table, tested: Tested) -> tuple[list[dict], list[str]]:
    """The rows that are to be scored, each with its `row` number, and a line for every reason of a wrong cell."""
    number_of = {image_id: i for i, image_id in enumerate(tested.images["image_id"])}
    labels = tested.images["label"].tolist()
    rows, problems = [], []  # problems: number of a row, and a reason
    for i, row in enumerate(table.row):
        cells = {column: values[i] for column, values in table.columns.items()}
        reasons = []

        def read(column: str, reader: Callable, cells: Mapping = cells, reasons: list = reasons) -> object:
            """The cell as `reader` gives it; None, and a reason, if that raises."""
            try:
                return reader(cells.get(column))
            except ValueError as error:
                reasons.append(f"{column} {error}")
                return None

        split = read("split", _split)
        if split == "val" and not reasons:
            continue
        image_id, number = read("image_id", name_of), None
        if image_id is not None:
            number = number_of.get(image_id)
            if number is None:
                reasons.append(_why_unknown(image_id, number_of))
        found = {"image_id": image_id, "row": row, "seed": read("seed", _or(0, _seed))}
        found["fold"] = read("fold", _or(None, whole_number))
        found |= {column: read(column, name_or_none) for column in ("backbone", "recipe")}
        found["probabilities"] = _probabilities(cells, tested.classes, reasons)
        read("protocol", lambda value: _agrees(value, tested.protocol))
        if split == "train":
            reasons.append("split is train; give predictions of held-out images only")
        if number is not None:
            reasons += _fold_reasons(image_id, number, found, tested)
            read("label", lambda value, label=labels[number]: _same_label(value, label, tested.classes))
        problems += [(row, reason) for reason in reasons]
        rows.append(found)
    return rows, _folded(table.name, problems)


def _folded(name: str, problems: Sequence[tuple[int, str]]) -> list[str]:
    """A line for each reason, with its first row, and the other rows for which it is the same but for the number that
    was found."""
    alike: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row, reason in problems:
        alike[re.sub(r"\b(sum|one) is [^;]+", "", reason)].append((row, reason))
    lines = []
    for (first, reason), *others in alike.values():
        rows = [str(row) for row, _ in others]
        likewise = f" (likewise {counted(len(rows), 'row')}: {_named(rows)})" if rows else ""
        lines.append(f"{name}:{first}: {reason}{likewise}")
    return lines


def _or(default: object, reader: Callable) -> Callable:
    """A reader that gives the default for a cell that is empty or whose column is missing."""

    def read(value: object) -> object:
        try:
            empty = name_or_none(value) is None
        except ValueError:
            empty = False
        return default if empty else reader(value)

    return read


def _seed(value: object) -> int:
    seed = whole_number(value)
    if not 0 <= seed < 2**32:
        raise ValueError(f"{shown_cell(value)} is no seed; number the models from 0")
    return seed


def _split(value: object) -> str:
    if name_or_none(value) is None:
        return "test"
    spelled = str(value).strip().casefold()
    if spelled not in SPLITS:
        raise ValueError(f"{shown_cell(value)} is none of test, val; give one of them, or leave the column out")
    return SPLITS[spelled]


def _agrees(value: object, protocol: str) -> None:
    given = name_or_none(value)
    if given is not None and given.strip().casefold() != protocol:
        known = (
            f"; score it with --protocol {given.strip().casefold()}" if given.casefold().strip() in PROTOCOLS else ""
        )
        raise ValueError(f"is {shown_cell(given)}, but {protocol} is scored{known or '; correct it'}")


def _why_unknown(image_id: str, known: Mapping[str, int]) -> str:
    stem = image_id.strip().rpartition("/")[2]
    stem = os.path.splitext(stem)[0] if os.path.splitext(stem)[1].lower() in (".jpg", ".jpeg", ".png") else stem
    alike = {name.casefold(): name for name in known}.get(stem.casefold())
    remedy = f"did you mean {alike}?" if alike else "delete the row, or give the dataset that was predicted"
    return f"image {shown_cell(image_id)} is not in the dataset; {remedy}"


def _fold_reasons(image_id: str, number: int, found: dict, tested: Tested) -> list[str]:
    """Why this image is not held out where the row says that it was predicted. Fills in a fold that is not given."""
    if not tested.held_out[number]:
        always = "trains in every fold" if tested.protocol == "strict" else "is on the training side"
        return [f"image {image_id} {always} of protocol {tested.protocol}, so it is not tested; delete the row"]
    right = tested.fold[number]
    if found["fold"] is None:
        found["fold"] = right if right is not None else 0
    elif right is not None and found["fold"] != right:
        if found["fold"] not in tested.folds:
            return [f"there is no fold {found['fold']}; the dataset has {_named([str(k) for k in tested.folds])}"]
        what = f"image {image_id} was trained on in fold {found['fold']}"
        return [f"{what}; predict it with the model of fold {right}, which holds it out"]
    elif right is None and found["fold"] not in tested.folds:
        return [f"there is no fold {found['fold']}; the dataset has {_named([str(k) for k in tested.folds])}"]
    return []


def _same_label(value: object, label: int, classes: Sequence[str]) -> None:
    """Raise ValueError unless a label, given as a number or an abbreviation, is that of the dataset."""
    given = name_or_none(value) if not isinstance(value, str) or value not in classes else value
    if given is None or given == classes[label]:
        return
    try:
        number = whole_number(value)
    except ValueError:
        number = None
    if number != label:
        said = f"the dataset says {classes[label]} ({label})"
        raise ValueError(f"is {shown_cell(value)}, but {said}; predict this build of the dataset")


def _probabilities(cells: Mapping[str, object], classes: Sequence[str], reasons: list[str]) -> np.ndarray | None:
    """(C,) floats, or None and a reason."""
    by_class = "probabilities" not in cells
    values = [_number(cells[name]) for name in classes] if by_class else cells["probabilities"]
    if by_class and (wrong := [name for name, value in zip(classes, values, strict=True) if value is None]):
        reasons.append(f"{wrong[0]} is {shown_cell(cells[wrong[0]])}, which is no number; give a probability")
        return None
    try:
        probabilities = probabilities_of(values)
    except ValueError as error:
        reasons.append(f"probabilities {error}")
        return None
    if len(probabilities) != len(classes):
        reasons.append(f"{len(probabilities)} probabilities, but there are {len(classes)} conditions; give one of each")
        return None
    return probabilities


def _number(value: object) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------- rows between them


def _replicate(row: Mapping, tested: Tested) -> tuple:
    """What a row's image may occur once in: a seed, and under paper the model of one fold and seed."""
    return (row["seed"],) if tested.protocol == "strict" else (row["seed"], row["fold"])


def _repeated(table: Table, rows: Sequence[Mapping], tested: Tested) -> list[str]:
    first, problems = {}, []
    for row in rows:
        key = (row["image_id"], *_replicate(row, tested))
        if row["image_id"] is not None and first.setdefault(key, row["row"]) != row["row"]:
            what = f"image {row['image_id']} is predicted in row {first[key]} already; give it once"
            problems.append(f"{table.name}:{row['row']}: {what}, or give each seed a number in column seed")
    return problems


def _mixed(table: Table, rows: Sequence[Mapping]) -> list[str]:
    """A submission is of one model: a line for a column with several values."""
    problems = []
    for column in ("backbone", "recipe"):
        values = list(dict.fromkeys(shown_cell(row[column]) for row in rows if row[column] is not None))
        some = values and any(row[column] is None for row in rows)
        if len(values) > 1 or some:
            given = _named([*values, *(["none"] if some else [])])
            problems.append(f"{table.name}: column {column} holds {given}; submit one model at a time")
    return problems


def _missing(table: Table, rows: Sequence[Mapping], tested: Tested) -> list[str]:
    """A line for each replicate in which tested images are missing."""
    expected = [name for name, of in zip(tested.images["image_id"], tested.held_out, strict=True) if of]
    predicted: dict[tuple, set] = defaultdict(set)
    for row in rows:
        predicted[_replicate(row, tested)].add(row["image_id"])
    problems = []
    for replicate, image_ids in sorted(predicted.items()):
        missing = [image_id for image_id in expected if image_id not in image_ids]
        if missing:
            where = f"seed {replicate[0]}" + (f", fold {replicate[1]}" if len(replicate) > 1 else "")
            what = f"{len(missing)} of {len(expected)} tested images are missing"
            problems.append(f"{table.name}: {what} ({where}): {_named(missing)}; predict every tested image")
    if not rows:
        problems.append(f"{table.name}: no row has the split test; only held-out images are scored")
    return problems
