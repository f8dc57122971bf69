"""Config `reports`: phenotype reports with their sections and terms, as a dataset that load_dataset opens.

    rows = [report_row({"image_id": "AAR.1", "label": "AAR", ...}, answer, "landmarks", prompt_sha256())]
    write_reports(Path("runs/reports"), rows, class_names)
    reports = open_reports("runs/reports")          # or load_dataset("runs/reports", "reports", split="train")

A report is about a photograph (`image_id`) or about a synthetic image (`synthetic_id`), and carries the digests that
tie it to content: when a photograph is withdrawn, publishing/withdrawal.py finds its reports by them.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Features, List, Value

from curation import datasheet
from curation.opening import WRITE_REPORTS, load_reports
from curation.parquet_files import MAX_ROW_GROUP_ROWS, open_writer
from harness.errors import InputError
from reporting.report_sections import COLUMNS, parse_sections, without_suggestion
from reporting.report_terms import ReportTerms, find_terms

TEXT, TEXTS = Value("string"), List(Value("string"))
TERMS = {"present": "hpo_present", "absent": "hpo_absent", "not_visible": "hpo_not_visible"}  # state -> column
# What ties a report to its picture: of a photograph its digest (of the bytes in config real) and source_type, of a
# synthetic image everything that curation/leak_guard.py looks at.
ORIGIN = {
    "image_id": {"sha256": TEXT, "source_type": TEXT},
    "synthetic_id": {
        "generator": TEXT,
        "protocol": TEXT,
        "fold": Value("int8"),
        "source_image_ids": TEXTS,
        "source_sha256": TEXTS,
    },
}

# One image has one report. Generators of different folds may give their images the same synthetic_id.
IDENTITY = ("image_id", "synthetic_id", "generator", "protocol", "fold")


def report_features(id_column: str, class_names: Sequence[str]) -> Features:
    """The columns of config `reports`, in order. id_column: image_id or synthetic_id. Unknown is null.

    class_names: abbreviations in the order of the dataset that the reports are about."""
    return Features(
        {
            id_column: TEXT,
            "label": ClassLabel(names=list(class_names)),  # null: an image without a condition
            "disease_name": TEXT,
            "orphanet_code": TEXT,
            "reporter": TEXT,  # name of the model, or `landmarks`; never a path
            "prompt_sha256": TEXT,  # of report_sections.PROMPT; null: the reporter is not asked in words
            "report": TEXT,  # the whole answer as it came
            **dict.fromkeys(COLUMNS, TEXT),
            "flags": TEXTS,  # empty if all is well
            **dict.fromkeys(TERMS.values(), TEXTS),  # sorted HPO identifiers
            **ORIGIN[id_column],
        }
    )


def report_row(
    picture: Mapping, report: str, reporter: str, prompt_sha256: str | None, flags: Sequence[str] = ()
) -> dict:
    """A row of config `reports`, with the report's sections and terms; `label` is a class's name or None.

    picture: image_id or synthetic_id, label, and what else is known of the picture, by the columns' names. flags: of
    how the answer came, to which those of its text are added."""
    id_column = "image_id" if "image_id" in picture else "synthetic_id"
    sections, of_text = parse_sections(report)
    terms = find_terms(without_suggestion(report)).as_dict()
    row = dict.fromkeys(report_features(id_column, [])) | dict(picture) | sections
    row |= {"reporter": reporter, "prompt_sha256": prompt_sha256, "report": report}
    return row | {"flags": sorted({*flags, *of_text})} | {column: list(terms[state]) for state, column in TERMS.items()}


@dataclasses.dataclass(frozen=True)
class Reports:
    """n reports, one per image; see report_features for the columns."""

    name: str  # the folder or ORG/NAME, as the user gave it
    id_column: str  # image_id or synthetic_id
    class_names: list[str]
    columns: dict[str, list]  # (n,) each; label: the class's name or None
    fingerprint: str = ""  # of the content

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> list[str]:
        return self.columns[self.id_column]

    @property
    def labels(self) -> list[str | None]:
        return self.columns["label"]

    @property
    def terms(self) -> list[ReportTerms]:
        """What each report says, as it was found when the report was written."""
        states = [self.columns[column] for column in TERMS.values()]
        return [ReportTerms(*(tuple(ids) for ids in row)) for row in zip(*states, strict=True)]

    def select(self, rows: Sequence[int] | np.ndarray) -> "Reports":
        """The reports with these row numbers, in their order."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=columns)

    @staticmethod
    def of(rows: Sequence[Mapping], class_names: Sequence[str], name: str = "reports") -> "Reports":
        """Reports from rows of `report_row`. Raises InputError as open_reports does."""
        id_column = "image_id" if rows and "image_id" in rows[0] else "synthetic_id"
        columns = {column: [row[column] for row in rows] for column in report_features(id_column, class_names)}
        reports = Reports(name, id_column, list(class_names), columns)
        check_reports(reports)
        return reports


def sources_of(*many: Reports) -> dict[str, list[str]]:
    """The photographs that reports are about, or that their images were made from, as a sources.json names them."""
    ids, digests = set(), set()
    for reports in many:
        if reports.id_column == "image_id":
            ids |= set(reports.ids)
            digests |= set(reports.columns["sha256"]) - {None}
        else:
            ids |= {name for names in reports.columns["source_image_ids"] for name in names or ()}
            digests |= {digest for own in reports.columns["source_sha256"] for digest in own or ()}
    return {"source_image_ids": sorted(ids), "source_sha256": sorted(digests)}


def open_reports(name: str) -> Reports:
    """The reports of a folder that vlm_report_eval.py generate wrote, or of a dataset with config `reports`.

    name: a folder or ORG/NAME. Raises InputError if it cannot be opened, if a column is missing, if two reports are
    about one image, or if a label is no class."""
    if Path(name).is_dir() and not any(Path(name).glob("reports/*.parquet")):
        raise InputError(f"{name}: holds no reports; {WRITE_REPORTS}")
    opened = load_reports(name)
    id_column = next((column for column in ORIGIN if column in opened.column_names), None)
    if id_column is None:
        raise InputError(f"dataset {name}: column image_id or synthetic_id is missing; {WRITE_REPORTS}")
    class_names = opened.features["label"].names
    missing = [column for column in report_features(id_column, class_names) if column not in opened.column_names]
    if missing:
        raise InputError(f"dataset {name}: column {missing[0]} is missing; {WRITE_REPORTS}")
    columns = {column: opened[column][:] for column in opened.column_names}
    columns["label"] = [None if number is None or number < 0 else class_names[number] for number in columns["label"]]
    reports = Reports(name, id_column, class_names, columns, opened._fingerprint)
    check_reports(reports)
    return reports


def check_reports(reports: Reports) -> None:
    """Raise InputError for a report without an image, two reports on one image, a label that is no class, and for no
    report at all."""
    if not len(reports):
        raise InputError(f"{reports.name}: holds no reports; {WRITE_REPORTS}")
    identity = [column for column in IDENTITY if column in reports.columns]
    row_of: dict[tuple, int] = {}
    for row, image in enumerate(zip(*(reports.columns[column] for column in identity), strict=True), start=1):
        if not reports.ids[row - 1]:
            raise InputError(f"{reports.name}, row {row}: {reports.id_column} is empty; {WRITE_REPORTS}")
        if image in row_of:
            reason = f"{reports.ids[row - 1]} has a report in row {row_of[image]} already"
            raise InputError(f"{reports.name}, row {row}: {reason}; keep one report per image, or write them anew")
        row_of[image] = row
    unknown = {label: row for row, label in enumerate(reports.labels, start=1)}
    for label, row in unknown.items():
        if label is not None and label not in reports.class_names:
            raise InputError(f"{reports.name}, row {row}: label {label} is no class of the reports; {WRITE_REPORTS}")


def write_reports(folder: Path, rows: Sequence[Mapping], class_names: Sequence[str]) -> None:
    """Write `folder/reports/train-*.parquet` and the folder's card, so that load_dataset(folder, "reports") opens them.

    rows: of report_row, at least one. What stands there of an earlier run is replaced, and only once the new files are
    complete; other files of the folder stay. Readable by the user alone, since reports describe patients. Raises
    InputError for rows that open_reports would refuse."""
    reports = Reports.of(rows, class_names, str(folder))
    features = report_features(reports.id_column, class_names)
    numbers = {name: number for number, name in enumerate(class_names)} | {None: None}
    columns = reports.columns | {"label": [numbers[label] for label in reports.labels]}
    table = pa.table({name: columns[name] for name in features}, schema=features.arrow_schema)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".reports.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(mode=0o700)
        (partial / "reports").mkdir(mode=0o700)
        with open_writer(partial / "reports" / "train-00000-of-00001.parquet", table.schema) as writer:
            writer.write_table(table, row_group_size=MAX_ROW_GROUP_ROWS)
        datasheet.write_datasheet(partial)
        shutil.rmtree(folder / "reports", ignore_errors=True)
        for name in ("reports", "LICENSE", "croissant.json", "README.md"):
            os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
