"""Reads files of predictions, including those of other tools: checks them row by row and brings them into one form.

scoring/run_scores.py describes the columns. Numbers may be integers, whole decimals or text ("3", 3.0); names may be
text or numbers (subject 1, 1.0 and "1" are one); splits may have their usual spellings. A cell that is ambiguous is
never guessed at, but refused with its row.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import one_line
from harness.null_words import is_null
from harness.protocol_names import PROTOCOLS
from harness.text_normalization import subject_key

COLUMNS = ["image_id", "label", "protocol", "fold", "split", "seed", "backbone", "recipe", "probabilities", "subject"]
SUBGROUPS = ["sex", "age_group", "region"]
SPLITS = {"test": "test", "testing": "test", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLITS |= {"train": "train", "training": "train"}
SUM_TOLERANCE = 1e-3  # of probabilities; half precision differs by up to half of it
ROUNDED = 0.2  # how far from 1 a sum may be that is taken for one of rounded probabilities, in a message

# ------------------------------------------------------------------------------------------------------------ files


def read_predictions(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The predictions of one file, or of several runs (seeds) together; a folder means the predictions.parquet in it.

    Raises FileNotFoundError, and ValueError as "file:row: reason; remedy" (first row is 1) for a missing or repeated
    column, a cell that cannot be read (see checked), and an image predicted twice in one fold and seed."""
    paths = [paths] if isinstance(paths, str | Path) else paths
    files = [Path(path) / "predictions.parquet" if Path(path).is_dir() else Path(path) for path in paths]
    predictions = pd.concat([checked(read_parquet(file), str(file)) for file in files], ignore_index=True)
    widths = predictions["probabilities"].map(len)
    if widths.nunique() > 1:
        raise ValueError(f"the files differ in their number of classes: {sorted(widths.unique())}; score them apart")
    key = ["image_id", "protocol", "fold", "split", "seed", "backbone", "recipe"]
    twice = predictions.duplicated(key)
    if twice.any():
        row = predictions[twice].iloc[0]
        raise ValueError(
            f"image {row['image_id']} is predicted twice in fold {row['fold']} of seed {row['seed']}; "
            "name each run once, and give runs of the same settings different seeds"
        )
    return predictions


def read_parquet(file: Path) -> pd.DataFrame:
    """The rows of a Parquet file as they are. Raises FileNotFoundError, and ValueError for a file that cannot be read
    or has a column twice."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give a predictions.parquet or the folder that holds one")
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            table = parquet.read()
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"{file}: column {repeated[0]} occurs twice; keep one of them")
        return table.to_pandas(ignore_metadata=True)  # else a column that pandas used as index would be lost
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: not a readable Parquet file ({one_line(error)}); run again") from error


# ------------------------------------------------------------------------------------------------------------ cells


def checked(predictions: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table in a uniform form: label, fold and seed integers, probabilities (C,) float arrays, names text, subject
    and subgroups null if not known.

    name: of the table, in messages. Raises ValueError as "name:row: reason; remedy" (first row is 1) for null cells
    except in subject and subgroups, for text instead of numbers, for probabilities that are not a flat list, differ in
    number, are fewer than two, not finite, negative or do not add up to 1, and for a label that is not one of the
    classes."""
    missing = [column for column in COLUMNS if column not in predictions]
    if missing or not len(predictions):
        what = f"column {missing[0]} is missing" if missing else "it holds no predictions"
        raise ValueError(f"{name}: {what}; write it with train_classifier.py, or as scoring/run_scores.py describes it")
    table = predictions.copy(deep=False)
    for column, read in READERS.items():
        if column in table:
            table[column] = _read_column(table[column], read, name, column)
    for row, (label, probabilities) in enumerate(zip(table["label"], table["probabilities"], strict=True), start=1):
        n_classes = len(probabilities)
        if n_classes != len(table["probabilities"].iloc[0]):
            what = f"{n_classes} probabilities, but {len(table['probabilities'].iloc[0])} in row 1"
            raise ValueError(f"{name}:{row}: rows differ in their number of classes ({what}); give one of each class")
        if not 0 <= label < n_classes:
            remedy = "run again, or number the classes from 0 in the order of the probabilities"
            raise ValueError(f"{name}:{row}: label {label} is none of the {n_classes} classes; {remedy}")
    return table


def _read_column(values: pd.Series, read: Callable, name: str, column: str) -> pd.Series:
    """Each value as `read` returns it; the column itself if it is in that form already."""
    cells, converted = values.tolist(), []
    for row, value in enumerate(cells, start=1):
        try:
            converted.append(read(value))
        except ValueError as error:
            raise ValueError(f"{name}:{row}: {column} {error}") from None
    plain = isinstance(values.dtype, np.dtype | pd.StringDtype)
    plain = plain and (read is not whole_number or values.dtype.kind in "iu")
    if plain and all(new is old for new, old in zip(converted, cells, strict=True)):
        return values
    return pd.Series(converted, index=values.index, dtype=None if read is whole_number else object)


def whole_number(value: object) -> int:
    """3 for 3, 3.0, "3" or "3.0". Raises ValueError for anything else, including True and null."""
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.removeprefix("-").replace(".", "", 1).isdecimal():
        text = Decimal(text)
    number = isinstance(text, int | float | Decimal | np.integer | np.floating) and not isinstance(text, bool)
    if not number or not np.isfinite(float(text)) or text != int(text):
        raise ValueError(f"{shown_cell(value)} is not a whole number; give one, counted from 0")
    return value if type(value) is int else int(text)


def name_of(value: object) -> str:
    """Text, or a number as text ("1" for 1.0). Raises ValueError for null, empty text, and anything else."""
    if isinstance(value, str) and value.strip():
        return value
    number = isinstance(value, int | float | Decimal | np.integer | np.floating) and not isinstance(value, bool)
    if not number or pd.isna(value):
        raise ValueError(f"{shown_cell(value)} is not a name; give one")
    return str(int(value)) if np.isfinite(float(value)) and value == int(value) else str(value)


def _image_id(value: object) -> str:
    if name_or_none(value) is None:
        raise ValueError(f"{shown_cell(value)} is not a name; give each image its own")
    return name_of(value)


def name_or_none(value: object) -> str | None:
    """As name_of, but None for null and for what programs write instead of it: "", "nan", "<NA>" and others."""
    if _is_missing(value) or (isinstance(value, str) and (is_null(value) or value.strip() == "<NA>")):
        return None
    return name_of(value)


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value))


def _word(words: dict[str, str]) -> Callable[[object], str]:
    """A function that reads one of the words (spelling -> meaning) in upper or lower case."""

    def read(value: object) -> str:
        spelled = value.strip().casefold() if isinstance(value, str) else None
        if spelled not in words:
            raise ValueError(
                f"{shown_cell(value)} is none of {', '.join(dict.fromkeys(words.values()))}; give one of them"
            )
        return value if value == words[spelled] else words[spelled]

    return read


def probabilities_of(value: object) -> np.ndarray:
    """(C,) floats from a flat list. Raises ValueError unless they are probabilities of at least two classes."""
    try:
        is_list = isinstance(value, list | tuple | np.ndarray)
        probabilities = np.asarray(value, float) if is_list else None
    except (TypeError, ValueError):
        probabilities = None
    if probabilities is None or probabilities.ndim != 1:
        raise ValueError(f"{shown_cell(value)} are not a flat list of numbers; give each image one number per class")
    with np.errstate(over="ignore"):  # a sum of huge numbers is refused, too
        total = probabilities.sum()
    if not np.isfinite(probabilities).all() or (probabilities < 0).any() or abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(_why_no_probabilities(probabilities, float(total)))
    if len(probabilities) < 2:
        raise ValueError("are of one class only; give those of all classes")
    is_float = isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64)
    return value if is_float else probabilities


def _why_no_probabilities(numbers: np.ndarray, total: float) -> str:
    """What keeps (C,) numbers whose sum is `total` from being probabilities, and what may make them some."""
    if not np.isfinite(numbers).all():
        return "must be finite, and one is infinite or not a number; run again, or correct it"
    if (numbers < 0).any():
        return f"must not be negative, and one is {numbers.min():.4g}; take the softmax if these are logits"
    remedy = "take the softmax if these are logits"
    if abs(total - 100) <= 100 * ROUNDED:
        remedy = "these look like percent: divide each row by its sum"
    elif abs(total - 1) <= ROUNDED:
        remedy = "if they were rounded, divide each row by its sum"
    return f"must add up to 1 within {SUM_TOLERANCE:g}, and the sum is {total:.6g}; {remedy}"


READERS = {
    "image_id": _image_id,
    "label": whole_number,
    "protocol": _word({protocol: protocol for protocol in PROTOCOLS}),
    "fold": whole_number,
    "split": _word(SPLITS),
    "seed": whole_number,
    "backbone": name_of,
    "recipe": name_of,
    "probabilities": probabilities_of,
    "subject": name_or_none,
} | dict.fromkeys(SUBGROUPS, name_or_none)


def shown_cell(value: object) -> str:
    """A cell as one short line for a message."""
    if _is_missing(value):
        return "null"
    line = " ".join(repr(value.tolist() if isinstance(value, np.ndarray) else value).split())
    return line if len(line) <= 40 else line[:37] + "..."


# --------------------------------------------------------------------------------------------------------- subjects


def known_subjects(images: pd.DataFrame, test: pd.DataFrame) -> tuple[pd.Series, int, list[list[str]]]:
    """The subject of each image as the bootstrap uses it, how many images had none, and which spellings were joined.

    images: one row per image; test: the rows of all replicates, any of which may name an image's subject. An image
    without a subject becomes a subject of its own. Different spellings of one subject (subject_key) are replaced by the
    first of them. Raises ValueError for an image with two subjects."""
    with_subject = test.dropna(subset="subject")
    spelled = with_subject["subject"].drop_duplicates().sort_values()
    joined = [names.tolist() for _, names in spelled.groupby(spelled.map(subject_key)) if len(names) > 1]
    first_of = {name: names[0] for names in joined for name in names}
    of_image = with_subject["subject"].map(lambda name: first_of.get(name, name)).groupby(with_subject["image_id"])
    two = of_image.nunique()
    if (two > 1).any():
        image_id = two[two > 1].index[0]
        named = of_image.get_group(image_id).unique().tolist()
        raise ValueError(f"image {image_id} has {len(named)} subjects: {', '.join(named)}; give it one in all rows")
    subjects = images["image_id"].map(of_image.first()).astype(object)
    without = subjects.isna()
    return subjects.where(~without, "no subject: image " + images["image_id"]), int(without.sum()), joined
