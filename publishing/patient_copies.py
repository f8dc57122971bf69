"""Whether synthetic images that shall be open to everybody are copies of photographs, or show the persons on them.

    real = read_photographs(Path("rdface"), examiner)
    problems = copy_problems(contents, real, examiner)

The publisher looks for itself, since anybody can write a privacy report. Each picture is compared by its bytes and its
pixels, by the test for near duplicates with which builds group photographs, and by the filter's search for copies
and persons. What counts as a copy or a person is set by the photographs: no two people in them are as alike. Whatever
cannot be compared is refused.
"""

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from curation import withdrawn_list
from generation import photograph_copies, privacy
from generation.photograph_copies import Pictures
from harness.errors import InputError
from imaging import near_duplicates
from publishing.publishable import Contents, sorted_files

if TYPE_CHECKING:
    from generation.face_examination import Examiner

BATCH = 16
NOT_EXCEEDED = 0.999  # share of the photographs whose nearest one of another person is less alike than a copy must be
OUTER_FENCE = 3.0  # times the distance of the quartiles (Tukey, Exploratory Data Analysis, 1977)
REMEDY = "run filter_synthetic.py on the images, and publish what it keeps"


@dataclasses.dataclass
class Looked:
    """n pictures as the comparisons need them."""

    names: list[str]  # image_id, or file, row and synthetic_id
    sha256: list[str]  # of their bytes
    pixels_sha256: list[str]
    views: np.ndarray  # (n, 3, SIDE_PX, SIDE_PX) uint8
    records: np.ndarray  # (n,), see near_duplicates.record
    descriptors: np.ndarray  # (n, d)
    mirrored: np.ndarray  # (n, d)
    identities: np.ndarray  # (n, e), nan without a face
    mirrored_identities: np.ndarray  # (n, e)

    @property
    def pictures(self) -> Pictures:
        return Pictures(self.views, self.records, self.descriptors, self.mirrored)


@dataclasses.dataclass
class Photographs:
    """The photographs of a dataset's folder, of configs real and restored."""

    looked: Looked
    groups: np.ndarray  # (n,) of people with their near duplicates
    digests: set[str]  # of the photographs in config real, and their identifiers
    withdrawn: set[str]  # the same of those that were withdrawn
    copy_threshold: float
    person_threshold: float


def read_photographs(folder: Path, examiner: "Examiner") -> Photographs:
    """All photographs of a folder, and how alike two people in them are.

    Raises InputError if it holds no config real."""
    files, _, problems = sorted_files(folder)
    shards = [files[name] for name in files if name.split("/")[0] in ("real", "restored") and name.endswith(".parquet")]
    if problems or not any(path.parent.name == "real" for path in shards):
        reason = problems[0] if problems else "holds no config real"
        raise InputError(f"--real_dataset {folder}: {reason}; give the folder of the photographs")
    looked, groups, digests = _look(shards, "image_id", examiner), [], set()
    for path in shards:
        columns = [name for name in ("image_id", "group_id", "sha256") if name in pq.read_schema(path).names]
        rows = pq.read_table(path, columns=columns).to_pylist()
        groups += [row.get("group_id") or row["image_id"] for row in rows]
        if path.parent.name == "real":
            digests |= {row["image_id"] for row in rows} | {row.get("sha256") for row in rows}
    withdrawn = {name for line in withdrawn_list.listed(folder) for name in (line.image_id, line.sha256)}
    people = np.array(groups, dtype=object)
    _, copied = photograph_copies.copies(looked.pictures, looked.pictures, other=(people, people))
    embedded = (looked.identities, looked.identities, looked.mirrored_identities)
    _, alike = privacy.nearest_either_way(*embedded, other=(people, people))
    return Photographs(looked, people, digests - {None}, withdrawn, _limit(copied), _limit(alike))


def _limit(values: np.ndarray) -> float:
    """The likeness that the share NOT_EXCEEDED of values does not exceed; without any, all are above it.

    Values that lie far above the others (Tukey's outer fence: three times the quartiles' distance above the upper one)
    have no say: they come from one person or picture that the dataset counts as two."""
    measured = values[np.isfinite(values)]
    if not len(measured):
        return -np.inf
    lower, upper = np.quantile(measured, (0.25, 0.75))
    kept = measured[measured <= upper + OUTER_FENCE * (upper - lower)]
    return float(np.quantile(kept, NOT_EXCEEDED, method="higher"))


def copy_problems(contents: Contents, photographs: Photographs, examiner: "Examiner") -> list[str]:
    """A line for each image that gives somebody away, or of which nobody can say whether it does."""
    problems = list(_source_problems(contents, photographs))
    images = _look([contents.files[name] for name in contents.shards], "synthetic_id", examiner)
    real = photographs.looked
    same = {digest: name for name, digest in zip(real.names, real.sha256, strict=True)}
    same |= {digest: name for name, digest in zip(real.names, real.pixels_sha256, strict=True)}
    duplicates = near_duplicates.copies(images.records, real.records, certain=False)
    rows, scores = photograph_copies.copies(real.pictures, images.pictures)
    embedded = (real.identities, images.identities, images.mirrored_identities)
    persons, alike = privacy.nearest_either_way(*embedded)
    for n, name in enumerate(images.names):
        exact = same.get(images.sha256[n]) or same.get(images.pixels_sha256[n])
        if exact:
            problems.append(f"{name}: is the photograph {exact}; {REMEDY}")
        elif duplicates[n]:
            problems.append(f"{name}: is a copy of the photograph {real.names[duplicates[n][0]]}; {REMEDY}")
        elif scores[n] > photographs.copy_threshold:
            problems.append(f"{name}: is nearly a copy of the photograph {real.names[rows[n]]}; {REMEDY}")
        elif alike[n] > photographs.person_threshold:
            problems.append(f"{name}: shows the person on the photograph {real.names[persons[n]]}; {REMEDY}")
        elif not np.isfinite(alike[n]):
            problems.append(f"{name}: no face was found that could be compared with the photographs; {REMEDY}")
    return problems


def _source_problems(contents: Contents, photographs: Photographs) -> Iterator[str]:
    """Images that were made from photographs that are not here, with which nobody could compare them."""
    for name in contents.shards:
        columns = {"synthetic_id", "source_image_ids", "source_sha256"} & set(contents.columns["synthetic"])
        for number, row in enumerate(pq.read_table(contents.files[name], columns=sorted(columns)).to_pylist(), start=1):
            where = f"{name}: row {number} ({row['synthetic_id']})"
            sources = row.get("source_sha256") or row.get("source_image_ids")
            gone = photographs.withdrawn & {*(row.get("source_sha256") or ()), *(row.get("source_image_ids") or ())}
            if not sources:
                yield f"{where}: does not say which photographs it was made from; {REMEDY}"
            elif gone:
                yield f"{where}: was made from a photograph that was withdrawn; withdraw it with --derived"
            elif not set(sources) <= photographs.digests:
                remedy = "give the dataset from which the images were made"
                yield f"{where}: was made from photographs that --real_dataset does not hold; {remedy}"


def _look(shards: list[Path], name_column: str, examiner: "Examiner") -> Looked:
    """Decodes and describes the pictures of Parquet files, a few at a time."""
    parts: dict[str, list] = {field.name: [] for field in dataclasses.fields(Looked)}
    for path in shards:
        with pq.ParquetFile(path) as file:
            first = 1
            for batch in file.iter_batches(BATCH, columns=["image", name_column]):
                rows = batch.to_pylist()
                for number, row in enumerate(rows, start=first):
                    where = f"{path.parent.name}/{path.name}: row {number} ({row[name_column]})"
                    parts["names"].append(row[name_column] if name_column == "image_id" else where)
                    parts["sha256"].append(hashlib.sha256(row["image"]["bytes"]).hexdigest())
                    parts["pixels_sha256"].append(_pixels_sha256(row["image"]["bytes"]))
                first += len(rows)
                examined = examiner.examine([row["image"] for row in rows])
                parts["views"].append(examined.views)
                parts["records"].append(examined.records)
                parts["descriptors"].append(examined.copy_descriptors)
                parts["mirrored"].append(examined.mirrored_copy_descriptors)
                parts["identities"].append(examined.identities)
                parts["mirrored_identities"].append(examined.mirrored_identities)
    texts = ("names", "sha256", "pixels_sha256")
    return Looked(**{name: values if name in texts else np.concatenate(values) for name, values in parts.items()})


def _pixels_sha256(content: bytes) -> str:
    rgb = Image.open(io.BytesIO(content)).convert("RGB")
    return hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()
