"""What is compared of two faces: the descriptors of an image, and their alignment to those of the training images.

paper      25 distances between five landmarks, with x in box widths and y in box heights (imaging.faces)
shape      the five landmarks after Procrustes alignment: without position, size and rotation in the plane
dense      the same for any number of points, from a detector that finds more
embedding  features of a backbone or face network, of unit length
probe      a backbone's features as the project's linear probe takes them (classification.classifiers)
"""

from dataclasses import dataclass

import numpy as np
import torch

from classification.classifiers import probe_features
from imaging import faces

KINDS = ("paper", "shape", "dense", "embedding", "probe")


def describe(
    kind: str,
    landmarks: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    features: np.ndarray | None = None,
) -> np.ndarray:
    """Descriptors (n, d) of n images; a row of nan for an image without a face.

    kind: one of KINDS. landmarks (n, k, 2) px, for all kinds that need points; k is 5 for `paper` and `shape`. boxes
    (n, 4) px as x1, y1, x2, y2, for `paper`. features (n, d) or (n, d, h, w) of a network, for `embedding` and `probe`.
    A missed face has nan in what is handed in; so has a box without area in what is returned. d: 25 for `paper`, 2 k
    for `shape` and `dense`, which are still to be aligned (see Alignment), else d * h * w. Raises ValueError for
    another kind, and if what a kind needs is missing or has another shape."""
    if kind not in KINDS:
        raise ValueError(f"there is no descriptor {kind!r}; choose from {', '.join(KINDS)}")
    needed = {"paper": (landmarks, boxes), "shape": (landmarks,), "dense": (landmarks,)}.get(kind, (features,))
    if any(values is None for values in needed):
        raise ValueError(f"descriptor {kind} needs landmarks, boxes or features that were not handed in")
    if kind == "paper":
        return _paper(np.asarray(landmarks, float), np.asarray(boxes, float))
    if kind in ("shape", "dense"):
        landmarks = np.asarray(landmarks, float)
        if landmarks.ndim != 3 or landmarks.shape[2] != 2 or (kind == "shape" and landmarks.shape[1] != 5):
            raise ValueError(f"descriptor {kind}: landmarks have shape {landmarks.shape}, not (n, k, 2)")
        return landmarks.reshape(len(landmarks), -1)
    if kind == "probe":
        return probe_features(torch.as_tensor(np.asarray(features))).numpy()
    return np.asarray(features, np.float32).reshape(len(features), -1)


def _paper(landmarks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """landmarks (n, 5, 2) px and boxes (n, 4) px to (n, 25); nan without a face, and for a box without area."""
    has_face = np.isfinite(landmarks).all(axis=(1, 2)) & (boxes[:, 2:] - boxes[:, :2] > 0).all(axis=1)
    rows = np.full((len(landmarks), 25), np.nan)
    rows[has_face] = faces.landmark_descriptor(landmarks[has_face], boxes[has_face])
    return rows


def described(descriptors: np.ndarray) -> np.ndarray:
    """(n,) bool: which rows of descriptors (n, d) are whole, i.e. which images had a face."""
    return np.isfinite(descriptors).all(axis=1)


def unit_length(rows: np.ndarray) -> np.ndarray:
    """rows (n, d), each divided by its length; a row of zeros stays as it is."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


@dataclass(frozen=True)
class Alignment:
    """Procrustes alignment of k points in the plane to the mean shape of the training images.

    A shape is a complex vector: x + iy of each point, moved to centroid 0 and scaled to unit centroid size. Turning it
    is a multiplication by a number of modulus 1, so the best rotation has a closed form, and the full Procrustes mean
    is the first eigenvector of the sum of products (Kent, J. R. Statist. Soc. B 56, 1994). Mirror images differ."""

    mean_shape: np.ndarray  # (k,) complex, centroid 0, unit centroid size

    @staticmethod
    def fitted_to(points: np.ndarray) -> "Alignment":
        """points (n, 2 k), finite: x, y of each point in turn. The mean shape stands as upright as they do."""
        shapes = _centred(points)
        _, vectors = np.linalg.eigh(shapes.T @ shapes.conj())
        mean_shape = vectors[:, -1]
        return Alignment(mean_shape * _phase(mean_shape.conj() @ shapes.mean(axis=0)))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """points (n, 2 k) to aligned shapes (n, 2 k) of unit centroid size; nan where all points coincide."""
        shapes = _centred(points)
        turned = shapes * _phase(shapes.conj() @ self.mean_shape)[:, None]
        return np.stack([turned.real, turned.imag], axis=-1).reshape(points.shape)


def _centred(points: np.ndarray) -> np.ndarray:
    """points (n, 2 k) to complex shapes (n, k) with centroid 0 and unit centroid size; nan where all coincide."""
    shapes = points[:, 0::2] + 1j * points[:, 1::2]
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    size = np.linalg.norm(shapes, axis=1, keepdims=True)
    extent = np.abs(points).max(axis=1, keepdims=True, initial=0.0)
    with np.errstate(invalid="ignore"):
        return shapes / np.where(size > 1e-12 * extent, size, np.nan)


def _phase(number: np.ndarray) -> np.ndarray:
    """The number of modulus 1 with the same argument; 1 for 0."""
    return np.exp(1j * np.angle(number))


def prepare(kind: str, descriptors: np.ndarray, alignment: Alignment | None) -> np.ndarray:
    """Descriptors (n, d) as they are averaged and compared: points aligned, embeddings of unit length."""
    if alignment is not None:
        return alignment(descriptors)
    return unit_length(descriptors) if kind == "embedding" else descriptors
