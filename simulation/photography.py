"""Takes one simulated photograph: draws and paints a person, and degrades the picture as real ones are."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from phenotyping import phenotypes
from phenotyping.phenotypes import EFFECT
from simulation.face_geometry import LANDMARK_NAMES
from simulation.face_painting import paint_face
from simulation.people import Person, draw_person, draw_view

DEGRADED_RATE = 0.35  # share of photographs with one or two degradations
DEGRADATIONS = ("low_resolution", "blur", "noise", "jpeg", "black_and_white", "border", "dark")


@dataclass(frozen=True)
class Photograph:
    """One row of the corpus, as planned."""

    number: int
    image_name: str
    condition: phenotypes.Condition
    person: int
    taken: int  # number of the photograph that it shows; a re-encoded copy shows another row's
    duplicate_of: str | None  # image_name of that row, if it is a copy
    country: str


def degrade(
    picture: np.ndarray, points: np.ndarray, kinds: list[str], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Does to a photograph what happens to real ones before they reach a dataset.

    picture (s, s, 3) uint8; points (n, 2) px, which may move; kinds: of DEGRADATIONS. Returns both, of the same size.
    Kind jpeg is left to the encoder."""
    size = picture.shape[0]
    if "border" in kinds:  # a scanned print: the picture is reduced, inside a plain frame
        margin = rng.uniform(0.03, 0.09)
        inner = max(8, round(size * (1 - 2 * margin)))
        offset = (size - inner) // 2
        framed = np.full_like(picture, int(rng.choice([0, 255])))
        framed[offset : offset + inner, offset : offset + inner] = cv2.resize(
            picture, (inner, inner), interpolation=cv2.INTER_AREA
        )
        picture, points = framed, (points + 0.5) * (inner / size) - 0.5 + offset
    if "dark" in kinds:
        picture = (255 * np.power(picture / 255.0, rng.uniform(1.5, 2.1)) * rng.uniform(0.75, 1.0)).astype(np.uint8)
    if "low_resolution" in kinds:
        small = max(8, round(size * rng.uniform(0.16, 0.34)))
        picture = cv2.resize(
            cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA),
            (size, size),
            interpolation=cv2.INTER_CUBIC,
        )
    if "blur" in kinds:
        picture = cv2.GaussianBlur(picture, (0, 0), size * rng.uniform(0.004, 0.009))
    if "black_and_white" in kinds:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        grey = (grey - 128) * rng.uniform(0.75, 1.15) + 128 + rng.uniform(-10, 15) + rng.normal(0, 5, grey.shape)
        picture = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if "noise" in kinds:
        picture = np.clip(picture + rng.normal(0, rng.uniform(8, 18), picture.shape), 0, 255).astype(np.uint8)
    return picture, points


def copied(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same photograph as another publication shows it: cropped a little, grey, framed, or only rescaled.

    picture (s, s, 3) uint8; points (n, 2) px. Returns both; the size of the picture may change."""
    size = picture.shape[0]
    if rng.random() < 0.3:
        cut = rng.integers(0, max(1, round(0.03 * size)), 4)
        picture, points = picture[cut[0] : size - cut[1], cut[2] : size - cut[3]], points - [cut[2], cut[0]]
    if rng.random() < 0.3:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    scale = rng.uniform(0.55, 0.95)
    height, width = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    points = (points + 0.5) * [width / picture.shape[1], height / picture.shape[0]] - 0.5
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.25:
        margin = int(rng.integers(2, max(3, round(0.06 * size))))
        picture = cv2.copyMakeBorder(
            picture, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=[int(rng.choice([0, 255]))] * 3
        )
        points = points + margin
    return picture, points


def take(
    photograph: Photograph, size: int, seed: int, effect: float = EFFECT
) -> tuple[np.ndarray, np.ndarray, Person, list[str], int]:
    """Pixels (h, w, 3) uint8, landmarks (n, 2) px, the person, degradations and JPEG quality of a photograph.

    They depend on the plan and the seed alone. size: side in px before a copy is rescaled; effect: of a term, in
    standard deviations of individual variation."""
    person = draw_person(
        photograph.condition, photograph.country, np.random.default_rng([seed, 1, photograph.person]), effect
    )
    rng = np.random.default_rng([seed, 2, photograph.taken])
    later = rng.choice([0.0, rng.uniform(0.1, 2.0)])  # photographs of one person may be years apart
    age = float(np.clip(person.age_years + later, 0.05, 17.9))
    person = replace(person, age_years=age, look=replace(person.look, age_years=age))
    view = draw_view(rng)
    kinds = []
    if rng.random() < DEGRADED_RATE:
        kinds = rng.choice(DEGRADATIONS, 1 if rng.random() < 0.6 else 2, replace=False).tolist()
    picture, points = paint_face(person.z, person.look, view, size)
    picture, points = degrade(picture, points, kinds, rng)
    quality = int(rng.integers(18, 45)) if "jpeg" in kinds else int(rng.integers(86, 96))
    if photograph.duplicate_of:
        rng = np.random.default_rng([seed, 3, photograph.number])
        picture, points = copied(picture, points, rng)
        quality = int(rng.integers(40, 85))
    return picture, points, person, sorted(kinds), quality


def face_box(points: np.ndarray) -> list[float]:
    """x1, y1, x2, y2 px of the face as detectors box it: cheek to cheek, and middle of the forehead to chin."""
    point = {name: points[i] for i, name in enumerate(LANDMARK_NAMES)}
    sides = [point[f"{name}_image_{side}"][0] for name in ("cheek", "gonion") for side in ("left", "right")]
    top = 0.5 * (point["hairline"][1] + point["brow_peak_image_left"][1])
    return [float(min(sides)), float(top), float(max(sides)), float(point["chin"][1])]
