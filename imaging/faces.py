"""Finds the largest face of an image and its five landmarks, aligns it, and computes the paper's landmark descriptor.

    detector = load_detector("mtcnn")
    faces = detector.detect([image_a, image_b])      # a Face or None for each image, in their order

A detector is a class in DETECTORS that finds faces in a stack of equally large images. Grouping by size, the score
threshold and the choice of the largest face are the same for all detectors: see `Detector.detect`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from skimage.transform import SimilarityTransform

LANDMARKS = ("eye at image left", "eye at image right", "nose", "mouth at image left", "mouth at image right")


@dataclass(frozen=True)
class Face:
    """The largest face of an image, in px of that image, x to the right and y down. The box may extend beyond it."""

    box: np.ndarray  # (4,) px as x1, y1, x2, y2
    landmarks: np.ndarray  # (5, 2) px, in the order of LANDMARKS
    score: float  # the detector's own confidence, 0..1; not comparable between detectors
    n_faces: int  # number of faces in this image that score at least the threshold, this one included


class Detector:
    """Base of all detectors. A subclass finds faces in one stack of images; see MTCNN."""

    def find(self, images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Faces in images (b, h, w, 3) uint8 RGB: per image boxes (n, 4) px, landmarks (n, 5, 2) px, scores (n,)."""
        raise NotImplementedError

    def detect(
        self, images: Sequence[Image.Image | np.ndarray], threshold: float = 0.9, batch_size: int = 16
    ) -> list[Face | None]:
        """The largest face of each image, by the area of its box, or None if no face scores at least `threshold`.

        images: PIL images of any mode, or (h, w, 3) uint8 RGB arrays, of any sizes; those of one size go through the
        network together, `batch_size` at a time. Raises ValueError for an array of another shape or type."""
        pixels = [_rgb(image, row) for row, image in enumerate(images)]
        rows_by_size = defaultdict(list)
        for row, image in enumerate(pixels):
            rows_by_size[image.shape].append(row)
        faces: list[Face | None] = [None] * len(pixels)
        for rows in rows_by_size.values():
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                candidates = self.find(np.stack([pixels[row] for row in batch]))
                for row, (boxes, landmarks, scores) in zip(batch, candidates, strict=True):
                    faces[row] = _largest(boxes, landmarks, scores, threshold)
        return faces


class MTCNN(Detector):
    """Multi-task cascaded CNN (Zhang et al., 2016, arXiv 1604.02878) as trained and packed by facenet-pytorch (MIT).

    The weights come with the package and are read with weights_only, torch's default. Faces smaller than 20 px are not
    found."""

    SMALLEST_FACE_PX = 20

    def __init__(self, device: str = "cpu"):
        import facenet_pytorch  # here, so that the descriptor alone costs no import of torch

        # All faces, in any order: _largest applies the threshold before it compares sizes.
        self.network = facenet_pytorch.MTCNN(
            min_face_size=self.SMALLEST_FACE_PX, select_largest=False, keep_all=True, device=device
        )

    def find(self, images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """See Detector.find."""
        if min(images.shape[1:3]) < self.SMALLEST_FACE_PX:  # the package fails on an empty pyramid of scales
            return [_no_faces() for _ in images]
        found_faces = []
        for boxes, scores, landmarks in zip(*self.network.detect(images, landmarks=True), strict=True):
            # The arrays have dtype object if images differ in their number of faces; None if an image has no face.
            parts = _no_faces() if boxes is None else (boxes, landmarks, scores)
            found_faces.append(tuple(np.asarray(part, np.float32) for part in parts))
        return found_faces


DETECTORS = {"mtcnn": MTCNN}


def load_detector(name: str = "mtcnn", device: str = "cpu") -> Detector:
    """The detector with this name in DETECTORS, on `device` ("cpu", "cuda", ...). Raises ValueError for other names."""
    if name not in DETECTORS:
        raise ValueError(f"there is no face detector {name!r}; choose from {', '.join(sorted(DETECTORS))}")
    return DETECTORS[name](device)


# Places of the LANDMARKS in an aligned face, as shares of its side. Models were trained on faces aligned like this.
ALIGNED_LANDMARKS = np.array([(0.33, 0.45), (0.67, 0.45), (0.5, 0.645), (0.38, 0.79), (0.62, 0.79)])


def align(image: np.ndarray, landmarks: np.ndarray, side_px: int) -> np.ndarray:
    """The face turned upright and cut out from above the forehead to below the chin, with the ears.

    image (h, w, 3) uint8; landmarks (5, 2) px in the order of LANDMARKS; returns (side_px, side_px, 3) uint8. The
    similarity transform that takes the landmarks closest to ALIGNED_LANDMARKS, by least squares (Umeyama, 1991), keeps
    the proportions. Beyond the image its edge is repeated. Raises ValueError if the landmarks coincide."""
    target = ALIGNED_LANDMARKS * side_px - 0.5
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


def _rgb(image: Image.Image | np.ndarray, row: int) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of image number `row`."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image {row} is {image.shape} {image.dtype}; give a PIL image or (h, w, 3) uint8 RGB")
    return image


def _no_faces() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)


def _largest(boxes: np.ndarray, landmarks: np.ndarray, scores: np.ndarray, threshold: float) -> Face | None:
    """The face with the largest box among those that score at least `threshold`."""
    sure = np.flatnonzero(scores >= threshold)
    if not len(sure):
        return None
    width_height = boxes[sure, 2:] - boxes[sure, :2]
    best = sure[np.argmax(width_height.prod(axis=1))]
    return Face(boxes[best], landmarks[best], float(scores[best]), len(sure))
