"""Finds the largest face of an image and its landmarks, aligns it, and computes the paper's landmark descriptor.

    detector = load_detector("mtcnn")
    faces = detector.detect([image_a, image_b])      # a Face or None for each image, in their order

    detector = load_detector("retinaface", model=Path("retinaface.onnx"))
    faces = detector.detect(images, threshold=PAPER_THRESHOLDS["synthetic"], border=PAPER_BORDER)    # as in the paper

The networks are in face_detectors.py. Size, border, threshold and the choice of the largest face are the same for all
of them: see `Detector`.
"""

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import cv2
import numpy as np
from PIL import Image, ImageOps
from skimage.transform import SimilarityTransform

from harness.errors import InputError
from imaging.detector_names import FACE_DETECTORS, MODEL_DETECTORS
from imaging.face_detectors import LOWEST_SCORE, Candidates, FaceNetwork, load_model_detector

LANDMARKS = ("eye at image left", "eye at image right", "nose", "mouth at image left", "mouth at image right")
PAPER_BORDER = 0.5  # of height and width, black, on every side
PAPER_THRESHOLDS = {"synthetic": 0.9, "real": 0.8}  # of RetinaFace; arXiv 2604.03454


@dataclass(frozen=True)
class Face:
    """The largest face of an image, in px of that image, x to the right and y down. The box may extend beyond it."""

    box: np.ndarray  # (4,) px as x1, y1, x2, y2
    landmarks: np.ndarray  # (5, 2) px, in the order of LANDMARKS
    score: float  # the detector's own confidence, 0..1; not comparable between detectors
    n_faces: int  # number of faces in this image that score at least the threshold, this one included
    dense: np.ndarray | None = None  # (k, 2) px, of a detector that has more than five landmarks


class Detector:
    """One of the networks of face_detectors.py, for images of any number and size."""

    def __init__(self, network: FaceNetwork):
        self.network = network

    def detect(
        self,
        images: Sequence[Image.Image | np.ndarray],
        threshold: float | None = None,
        batch_size: int = 1,
        border: float = 0.0,
    ) -> list[Face | None]:
        """The largest face of each image, by the area of its box, or None if no face scores at least `threshold`.

        images: PIL images of any mode, or (h, w, 3) uint8 RGB arrays, of any sizes. A PIL image with an EXIF
        orientation is turned upright, and px are those of the upright image, as photographs.read and `datasets` return
        it. threshold: LOWEST_SCORE..1, applied before sizes are compared; default: the network's own. border: share of
        height and width that is added in black on every side; it changes no coordinate. Raises ValueError for an
        array of another shape or type, and for a threshold below LOWEST_SCORE."""
        threshold = self.network.threshold if threshold is None else threshold
        if threshold < LOWEST_SCORE:
            raise ValueError(f"threshold {threshold} is below {LOWEST_SCORE}: such candidates are not kept; raise it")
        return [largest(faces, threshold) for faces in self.candidates(images, batch_size, border)]

    def candidates(
        self, images: Sequence[Image.Image | np.ndarray], batch_size: int = 1, border: float = 0.0
    ) -> list[Candidates]:
        """All faces of each image that score at least LOWEST_SCORE, in px of that image; arguments as for `detect`.

        Images of one size go through the network together, `batch_size` at a time. Together they may be faster on a
        GPU, but not on a processor (MTCNN: 44 ms per image alone, 48 ms in batches of 16), and then a landmark depends,
        by rounding, on which images came along. Alone, a run that was stopped and continued finds the same ones."""
        pixels = [upright_rgb(image, row) for row, image in enumerate(images)]
        rows_by_size = defaultdict(list)
        for row, image in enumerate(pixels):
            rows_by_size[image.shape].append(row)
        candidates: list[Candidates | None] = [None] * len(pixels)
        for (height, width, _), rows in rows_by_size.items():
            placed = Placement(height, width, self.network, border)
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                per_image = self.network.find(np.stack([placed.bordered(pixels[row]) for row in batch]))
                for row, faces in zip(batch, per_image, strict=True):
                    candidates[row] = placed.mapped_back(faces)
        return candidates

    def record(self) -> dict[str, str | None]:
        """What a run record says of the detector, the licence of its weights included."""
        network = self.network
        return {
            "detector": network.name,
            "detector_model": network.model,
            "detector_sha256": network.weights_sha256,
            "detector_licence": network.licence,
        }


class Placement:
    """Where images of one size lie in what the network sees: reduced to its `longest_side_px` first, then bordered.

    RetinaFace's and YuNet's landmarks move by some 2 % of the eye distance with the image's place on the network's
    grid. Left and above there are therefore as many px as put it in the place that the paper's border would."""

    def __init__(self, height: int, width: int, network: FaceNetwork, border: float):
        limit = network.longest_side_px or max(height, width)
        shrink = min(1.0, limit / max(height, width))
        self.width_height = max(1, round(width * shrink)), max(1, round(height * shrink))
        self.steps = np.array(self.width_height, np.float32) / np.array([width, height], np.float32)  # px per px
        paper_px = np.round(PAPER_BORDER * np.array(self.width_height)).astype(int)
        self.after_px = np.round(border * np.array(self.width_height)).astype(int)  # (2,) right of it and below
        self.before_px = self.after_px + (paper_px - self.after_px) % network.grid_px  # (2,) left of it and above

    def bordered(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of image (h, w, 3)."""
        if (self.steps < 1).any():
            image = cv2.resize(image, self.width_height, interpolation=cv2.INTER_AREA)
        (left, top), (right, bottom) = self.before_px.tolist(), self.after_px.tolist()
        return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT)

    def mapped_back(self, faces: Candidates) -> Candidates:
        """Faces in px of the image itself. A pixel's centre has whole coordinates."""

        def moved(points: np.ndarray) -> np.ndarray:  # (..., 2)
            points = points - self.before_px.astype(np.float32)
            return points if (self.steps == 1).all() else (points + 0.5) / self.steps - 0.5

        boxes = moved(faces.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        dense = None if faces.dense is None else moved(faces.dense)
        return Candidates(boxes, moved(faces.landmarks), faces.scores, dense)


def load_detector(name: str = "mtcnn", device: str = "cpu", *, model: Path | None = None) -> Detector:
    """The detector with this name in FACE_DETECTORS or MODEL_DETECTORS, on `device` ("cpu", "cuda", ...).

    model: the network's file, which those in MODEL_DETECTORS want; a folder for a pack of insightface. Raises
    InputError with one line for other names, and for a model that is missing, or that cannot be read."""
    if name in MODEL_DETECTORS:
        return Detector(load_model_detector(name, None if model is None else Path(model), str(device)))
    if name not in FACE_DETECTORS:
        names = ", ".join(sorted([*FACE_DETECTORS, *MODEL_DETECTORS]))
        own = "if it found the faces that a model was trained on, import the module that adds it (docs/extending.md)"
        raise InputError(f"there is no face detector {name!r}; choose from {names}; {own}")
    if model is not None:
        raise InputError(f"--detector {name} has its weights in its package; leave out --detector_model {model}")
    return Detector(resolve_name(FACE_DETECTORS[name])(device))


# Places of the LANDMARKS in an aligned face, as shares of its side. Models were trained on faces aligned like this.
ALIGNED_LANDMARKS = np.array([(0.33, 0.45), (0.67, 0.45), (0.5, 0.645), (0.38, 0.79), (0.62, 0.79)])


def align(image: np.ndarray, landmarks: np.ndarray, side_px: int, places: np.ndarray = ALIGNED_LANDMARKS) -> np.ndarray:
    """The face turned upright and cut out from above the forehead to below the chin, with the ears.

    image (h, w, 3) uint8; landmarks (5, 2) px in the order of LANDMARKS; places (5, 2): where they come to lie,
    as shares of the side; returns (side_px, side_px, 3) uint8. The similarity transform that takes the landmarks
    closest to their places, by least squares (Umeyama, 1991), keeps the proportions. Beyond the image its edge is
    repeated. Raises ValueError if the landmarks coincide."""
    target = places * side_px - 0.5
    transform = SimilarityTransform.from_estimate(np.asarray(landmarks, float), target)
    if not transform or not np.isfinite(transform.params).all() or transform.scale <= 0:
        raise ValueError(f"landmarks {np.round(landmarks, 1).tolist()} span no face; detect again")
    matrix = transform.params[:2].copy()
    shrink = min(1.0, max(transform.scale, 1 / 64))
    if shrink < 1:  # first reduced by averaging areas, since warping alone would skip pixels
        height, width = (max(1, round(n * shrink)) for n in image.shape[:2])
        steps = np.array([width / image.shape[1], height / image.shape[0]])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        matrix[:, 2] += matrix[:, :2] @ (0.5 / steps - 0.5)  # pixel centres
        matrix[:, :2] /= steps
    return cv2.warpAffine(image, matrix, (side_px, side_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def landmark_descriptor(landmarks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """All distances between the five landmarks of a face, with x measured in box widths and y in box heights.

    landmarks (n, 5, 2) px; boxes (n, 4) px as x1, y1, x2, y2; returns (n, 25), unitless, >= 0: the 5 x 5 matrix row by
    row, so column 5 * i + j is the distance between LANDMARKS[i] and LANDMARKS[j]. It does not depend on position and
    size of the face or on a stretching of the image, but on rotation in the plane. Raises ValueError for other shapes
    and for a box without area. Source: Feng et al., RDFace, CVPR 2026, arXiv 2604.03454."""
    landmarks, boxes = np.asarray(landmarks, float), np.asarray(boxes, float)
    if landmarks.shape != (len(boxes), 5, 2) or boxes.shape != (len(boxes), 4):
        raise ValueError(f"landmarks {landmarks.shape} and boxes {boxes.shape} should be (n, 5, 2) and (n, 4)")
    width_height = boxes[:, 2:] - boxes[:, :2]  # (n, 2) px
    flat = np.flatnonzero(~(width_height > 0).all(axis=1))  # also true of a box with NaN
    if len(flat):
        raise ValueError(f"face box {flat[0]} has no area: {boxes[flat[0]].tolist()}; detect again or drop the image")
    in_box_units = landmarks / width_height[:, None]  # (n, 5, 2); the box's corner cancels in the differences
    differences = in_box_units[:, :, None] - in_box_units[:, None]  # (n, 5, 5, 2)
    return np.linalg.norm(differences, axis=-1).reshape(len(boxes), 25)


def upright_rgb(image: Image.Image | np.ndarray, row: int = 0) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of image number `row`, turned upright as a PIL image's EXIF orientation says."""
    if isinstance(image, Image.Image):
        with contextlib.suppress(Exception):  # damaged EXIF counts as upright, as in photographs.py
            image = ImageOps.exif_transpose(image)
        return np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image {row} is {image.shape} {image.dtype}; give a PIL image or (h, w, 3) uint8 RGB")
    return image


def largest(faces: Candidates, threshold: float) -> Face | None:
    """The face with the largest box among those that score at least `threshold`."""
    sure = np.flatnonzero(faces.scores >= threshold)
    if not len(sure):
        return None
    boxes = faces.boxes[sure]
    best = sure[np.argmax((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))]
    dense = None if faces.dense is None else faces.dense[best]
    return Face(faces.boxes[best], faces.landmarks[best], float(faces.scores[best]), len(sure), dense)
