"""Places of a picture that are found again when it is cropped, turned, mirrored, framed, recoloured or covered in part.

    a, b = features(grey_a), features(grey_b)        # records of dtype FEATURES
    placed = lay_on(a, b)                            # maps from a to b on which most places agree

Places and descriptors are SIFT's (Lowe, 2004), compared as RootSIFT (Arandjelovic and Zisserman, 2012): square roots of
a descriptor divided by its sum, so that a scalar product compares two histograms by Hellinger's kernel. The map is
found by RANSAC. A descriptor of the mirrored picture is the same numbers in another order, so nothing is stored twice.
"""

import dataclasses

import cv2
import numpy as np
from PIL import Image

SIDE_PX = 192  # of a square as large as the picture in which places are sought; its proportions are kept
MAX_FEATURES = 256  # the strongest
MIN_CONTRAST = 0.01  # of SIFT, a quarter of its usual value: portraits have large smooth parts
UNIT = 512  # a descriptor's length: one byte per value, of which hardly any is above 255
HALF_PIXEL = 0.25  # px by which OpenCV places a point too far right and down: it doubles the picture without a shift
MIN_SIZE = 12  # px, of the larger side of a picture too small to have places
FEATURES = np.dtype(
    [
        ("size", np.float32, (2,)),  # width and height in px of the grey picture
        ("count", np.int32),  # how many of the places are filled
        ("places", np.float16, (MAX_FEATURES, 2)),  # x, y in px from the picture's middle
        ("scales", np.float16, (MAX_FEATURES,)),  # diameter in px
        ("angles", np.float16, (MAX_FEATURES,)),  # degrees
        ("descriptors", np.uint8, (MAX_FEATURES, 128)),  # RootSIFT times UNIT
    ]
)
# Of a descriptor's 4 rows, 4 columns and 8 directions, mirroring turns the order of rows and of directions.
MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()

MAX_RATIO = 0.8  # of the distances to the nearest and to the next descriptor (Lowe, 2004)
MIN_MATCHES = 8  # fewer are not laid on each other
MAX_ERROR_PX = 4.0  # of a place that agrees with the map
RANSAC_TRIALS, RANSAC_CONFIDENCE = 500, 0.999
MIN_SCALE, MAX_SCALE = 0.2, 5.0  # of the map; others come from a few places by chance
MAX_STRETCH = 1.8  # of the map along one direction against the other; 16:9 made square is 1.78


@dataclasses.dataclass(frozen=True)
class Placed:
    """How one picture lies on another."""

    agreeing: int  # places that agree with the map (scale, rotation, shift, and perhaps stretch)
    to_other: np.ndarray  # (2, 3): px of the one from its middle -> px of the other from its middle


def grey_of(image: Image.Image) -> np.ndarray:
    """(h, w) uint8 as large as a square of SIDE_PX, in the picture's proportions."""
    factor = SIDE_PX / np.sqrt(image.width * image.height)
    size = tuple(max(MIN_SIZE, round(side * factor)) for side in image.size)
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BILINEAR))


def features(grey: np.ndarray) -> np.ndarray:
    """A record () of FEATURES from a picture (h, w) uint8, as grey_of makes it."""
    record = np.zeros((), FEATURES)
    height, width = grey.shape
    record["size"] = width, height
    found, described = cv2.SIFT_create(MAX_FEATURES, contrastThreshold=MIN_CONTRAST).detectAndCompute(grey, None)
    n = min(len(found), MAX_FEATURES)  # more are returned if several are equally strong
    if n:
        record["count"] = n
        middle = np.array([width / 2, height / 2]) - HALF_PIXEL
        record["places"][:n] = [np.array(point.pt) - middle for point in found[:n]]
        record["scales"][:n] = [point.size for point in found[:n]]
        record["angles"][:n] = [point.angle for point in found[:n]]
        share = described[:n] / np.maximum(described[:n].sum(axis=1, keepdims=True), 1)
        record["descriptors"][:n] = np.minimum(np.rint(UNIT * np.sqrt(share)), 255)
    return record


def mirrored(record: np.ndarray) -> np.ndarray:
    """The features of the picture mirrored left to right."""
    turned = record.copy()
    turned["places"][..., 0] *= -1
    turned["angles"] = (180 - record["angles"]) % 360
    turned["descriptors"] = record["descriptors"][..., MIRRORED]
    return turned


def lay_on(a: np.ndarray, b: np.ndarray) -> list[Placed]:
    """Maps from a to b, two records of FEATURES: a similarity (scale, rotation, shift), and an affine map if a picture
    may have been stretched, as by those who make pictures square without cropping them. Empty if too little agrees."""
    first, second = _matches(a, b)
    if len(first) < MIN_MATCHES:
        return []
    places = [np.ascontiguousarray(record["places"][rows], np.float32) for record, rows in ((a, first), (b, second))]
    options = {"ransacReprojThreshold": MAX_ERROR_PX, "maxIters": RANSAC_TRIALS, "confidence": RANSAC_CONFIDENCE}
    to_other, agrees = cv2.estimateAffinePartial2D(*places, method=cv2.RANSAC, **options)
    if to_other is None:
        return []
    placed = [Placed(int(agrees.sum()), to_other)]
    if placed[0].agreeing >= MIN_MATCHES:
        stretched, agrees = cv2.estimateAffine2D(*places, method=cv2.RANSAC, **options)
        if stretched is not None and _stretch_of(stretched) <= MAX_STRETCH:
            placed.append(Placed(int(agrees.sum()), stretched))
    return [each for each in placed if MIN_SCALE <= scale_of(each.to_other) <= MAX_SCALE]


def _stretch_of(to_other: np.ndarray) -> float:
    """How much longer the map makes one direction than the one across; infinite if it mirrors or flattens."""
    longest, shortest = np.linalg.svd(to_other[:, :2], compute_uv=False)
    return float(longest / shortest) if np.linalg.det(to_other[:, :2]) > 0 else np.inf


def scale_of(to_other: np.ndarray) -> float:
    return float(np.sqrt(abs(np.linalg.det(to_other[:, :2]))))


def _matches(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the places of a and b that are nearest to each other, and much nearer than the next one to either."""
    n, m = int(a["count"]), int(b["count"])
    if min(n, m) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    cosine = a["descriptors"][:n].astype(np.float32) @ b["descriptors"][:m].astype(np.float32).T / UNIT**2
    of_a, clear_a = _nearest(cosine)
    of_b, clear_b = _nearest(cosine.T)
    rows = np.arange(n)
    chosen = (of_b[of_a] == rows) & (clear_a | clear_b[of_a])
    return rows[chosen], of_a[chosen]


def _nearest(cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row: the column of the greatest cosine, and whether the next one is clearly smaller (MAX_RATIO)."""
    rows = np.arange(len(cosine))
    nearest = cosine.argmax(axis=1)
    others = cosine.copy()
    others[rows, nearest] = -1
    distance, next_distance = (1 - np.minimum(found, 1) for found in (cosine[rows, nearest], others.max(axis=1)))
    return nearest, distance < MAX_RATIO**2 * next_distance  # squared distances of vectors of length 1
