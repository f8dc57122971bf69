"""What reports are written about: the pictures of a dataset, and what is kept of their origin.

inputs = open_inputs("./rdface", None, per_class=None, ranked_by={})
for row in inputs.rows:
    picture, flags = inputs.picture(row)
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from curation.opening import is_simulated, load_images, load_synthetic, photograph_sha256
from harness.errors import InputError, one_line
from imaging import faces
from reporting.report_dataset import ORIGIN

LONGEST_SIDE_PX = 1024  # larger pictures are reduced: a model of 28 px per token then sees 1,369 tokens at most
ALIGNED_PX = 448  # side of an aligned face: 16 x 16 tokens of 28 px
NO_FACE = "no_face"  # flag: no face was found, so the whole picture was taken
SYNTHETIC = "synthetic"  # the config of synthetic images


@dataclasses.dataclass
class ReportInputs:
    """The pictures of a dataset, and the numbers of those to be reported on."""

    images: datasets.Dataset
    rows: list[int]
    id_column: str  # image_id or synthetic_id
    chosen: str  # how the rows were chosen, in words
    digests: list[str] | None  # of the photographs, by dataset row; None for synthetic images
    detector: faces.Detector | None = None  # cuts out the faces; None: the whole picture

    @property
    def class_names(self) -> list[str]:
        return self.images.features["label"].names

    @property
    def is_simulated(self) -> bool | None:
        """Whether all photographs are simulated; None for synthetic images, which do not say so."""
        return is_simulated(self.images) if self.id_column == "image_id" else None

    def name(self, row: int) -> str:
        """The identifier of a picture."""
        return self.images.select_columns(self.id_column)[row][self.id_column]

    def picture(self, row: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """A picture (h, w, 3) uint8 RGB, upright and at most LONGEST_SIDE_PX, or the face in it; and flags.

        Raises InputError if it cannot be decoded."""
        try:
            image = self.images.select_columns("image")[row]["image"].convert("RGB")
        except (OSError, ValueError, AttributeError, SyntaxError) as error:  # AttributeError: the image is null
            raise InputError(f"{self.name(row)} cannot be decoded ({one_line(error)[:100]})") from error
        if self.detector is not None:
            pixels = np.asarray(image)
            (face,) = self.detector.detect([pixels])
            try:
                if face is not None:
                    return faces.align(pixels, face.landmarks, ALIGNED_PX), ()
            except ValueError:  # the landmarks span no face
                pass
        image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX), Image.Resampling.LANCZOS)
        return np.asarray(image), (NO_FACE,) * (self.detector is not None)

    def origin(self, row: int) -> dict:
        """What config `reports` keeps of a picture: identifier, condition, and what ties it to content."""
        wanted = (self.id_column, "label", "disease_name", "orphanet_code", *ORIGIN[self.id_column])
        light = self.images.select_columns([name for name in wanted if name in self.images.column_names])
        columns = light[row]
        label = columns["label"]
        columns["label"] = None if label is None or label < 0 else self.class_names[label]
        return columns | ({"sha256": self.digests[row]} if self.digests else {})


def open_inputs(
    name: str, config_name: str | None, per_class: int | None, ranked_by: Mapping[str, Sequence[str]]
) -> ReportInputs:
    """Open a built dataset, or synthetic images, filtered or not, and choose the pictures.

    name: a folder or ORG/NAME. config_name: real, restored or synthetic; None: synthetic if the folder holds that, else
    the dataset's default. per_class: the best so many kept images of each condition, or, without scores, the first.
    ranked_by: for each protocol the scores by which synthetic images are ranked, the first that there is. Of filtered
    images only those kept are taken. Raises InputError if it cannot be opened, or if no picture is left."""
    if {file.parent.name for file in Path(name).glob("*/*.parquet")} == {"reports"}:
        raise InputError(f"dataset {name}: holds reports, not pictures; name the dataset that they are about")
    if config_name == SYNTHETIC or (config_name is None and any(Path(name).glob(f"{SYNTHETIC}/*.parquet"))):
        images, id_column, digests = load_synthetic(name), "synthetic_id", None
    else:
        images, id_column = load_images(name, config_name), "image_id"
        digests = photograph_sha256(images)
    rows, chosen = list(range(len(images))), "all"
    if "kept" in images.column_names:
        kept = images["kept"][:]
        rows, chosen = [row for row in rows if kept[row]], "those that the filter kept"
    if per_class is not None:
        score = _score(images, ranked_by)
        rows = _best_per_class(images, rows, per_class, score)
        of_these = "" if chosen == "all" else f" of {chosen}"
        how = f"best by {score}" if score else "first"
        chosen = f"the {how} {per_class} of each condition{of_these}"
        if per_class == 1:
            chosen = f"one image of each condition{of_these}, the {how}"
    if not rows:
        raise InputError(f"dataset {name}: no image is left of {chosen}; filter again, or leave out --per_class")
    return ReportInputs(images, rows, id_column, chosen, digests)


def _score(images: datasets.Dataset, ranked_by: Mapping[str, Sequence[str]]) -> str | None:
    """The column by which synthetic images are ranked, None if they have no scores or are photographs."""
    if "protocol" not in images.column_names:
        return None
    candidates = ranked_by.get(images["protocol"][0], ()) if len(images) else ()
    return next((column for column in candidates if column in images.column_names), None)


def _best_per_class(images: datasets.Dataset, rows: list[int], n: int, score: str | None) -> list[int]:
    """The n rows of each class that score highest, highest first, classes in the order of the rows; images without a
    condition are left out. Without a score, the first n."""
    of_class: dict[int, list[int]] = defaultdict(list)
    labels = images["label"][:]
    for row in rows:
        if labels[row] is not None and labels[row] >= 0:
            of_class[labels[row]].append(row)
    if score:
        values = np.array(images[score][:], dtype=float)  # null is nan, which comes last
        for label, own in of_class.items():
            of_class[label] = np.array(own)[np.argsort(-values[own], kind="stable")].tolist()
    return [row for own in of_class.values() for row in own[:n]]


def sources_of(inputs: ReportInputs) -> dict[str, list[str]]:
    """The photographs that the pictures show or were made from, by name and digest, as a sources.json names them."""
    if inputs.digests is not None:
        names = inputs.images["image_id"][:]
        return {
            "source_image_ids": [names[row] for row in inputs.rows],
            "source_sha256": [inputs.digests[row] for row in inputs.rows],
        }
    light = inputs.images.select_columns(["source_image_ids", "source_sha256"]).select(inputs.rows)
    return {column: sorted({value for values in light[column][:] for value in values}) for column in light.column_names}
