"""Whether two thumbnails show one photograph re-encoded, scaled, cropped a little, framed, greyed or brightened.

The rule for pictures that are too small or too plain for local features (imaging/near_duplicates.py): a perceptual hash
proposes, and a strict comparison of the aligned pictures confirms. Two photographs of one person in one room, taken
seconds apart, are not the same."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from scipy.fft import dctn

SIDE_PX = 128  # of the thumbnails compared
COARSE_PX = 48
HASH_BITS = 63  # signs of the 8 x 8 lowest DCT frequencies without the mean (Zauner, 2010)
MAX_HAMMING = 14  # of HASH_BITS: a crop of 4 % changes up to 14 of them, chance about 31
OUTLINE_PX = 16
MIN_OUTLINE_AGREEMENT = (
    0.75  # cosine; higher for 99.8 % of re-encodings, lower for 3 of 4 other pairs with close hashes
)
SHIFT_PX, SHIFTED_PX = 4, 32  # first comparison: how far thumbnails are shifted, and their side
MIN_SHIFTED_CORRELATION = 0.82  # re-encodings reach 0.85 and more; 3 of 4 other proposals do not reach it
MIN_CORRELATION = 0.8  # of the aligned thumbnails
MIN_COARSE_SIMILARITY = 0.5  # at COARSE_PX, where the alignment stops early; see `similarity`
MIN_SIMILARITY = 0.93  # at SIDE_PX; re-encodings reach 0.96 and more, the next frame of a burst 0.88 at most
BORDER_LEVEL = 28  # of 255: a border is darker than this, or brighter than 255 less this
MIN_CONTRAST = 3.0  # standard deviation of a thumbnail, of 255; flat pictures all look alike


@dataclasses.dataclass(frozen=True)
class Signatures:
    """What is compared of t thumbnails before the thumbnails themselves."""

    rows: np.ndarray  # (t,) the picture of each
    signs: np.ndarray  # (t, HASH_BITS) float32, 1 and -1
    outlines: np.ndarray  # (t, OUTLINE_PX^2) float32


def signatures(rows: Sequence[int], of_pictures: Sequence[np.ndarray], turned: bool = False) -> Signatures:
    """Of the thumbnails that are not flat. of_pictures: (2, SIDE_PX, SIDE_PX) uint8 of each row; turned: mirrored."""
    shown = [(row, view) for row, both in zip(rows, of_pictures, strict=True) for view in with_contrast(both, turned)]
    bits = np.array([perceptual_hash(view) for _, view in shown]).reshape(-1, HASH_BITS)
    outlines = np.array([outline(view) for _, view in shown], np.float32).reshape(-1, OUTLINE_PX**2)
    return Signatures(np.array([row for row, _ in shown], int), np.where(bits, np.float32(1), np.float32(-1)), outlines)


def with_contrast(both: np.ndarray, turned: bool = False) -> list[np.ndarray]:
    """Those thumbnails of (2, SIDE_PX, SIDE_PX) uint8 that are not flat; turned: mirrored left to right."""
    views = [view for view in both if view.std() >= MIN_CONTRAST]
    return [np.ascontiguousarray(view[:, ::-1]) for view in views] if turned else views


def close_pairs(a: Signatures, b: Signatures) -> list[tuple[int, int]]:
    """Pairs of rows whose hashes and outlines are close, the closest first, each once."""
    agreement = a.signs @ b.signs.T  # HASH_BITS - 2 * Hamming
    i, j = np.nonzero(agreement >= HASH_BITS - 2 * MAX_HAMMING)
    order = np.argsort(-agreement[i, j], kind="stable")
    i, j = i[order], j[order]
    alike = np.zeros(len(i), bool)
    for part in np.array_split(np.arange(len(i)), len(i) // 20_000 + 1):
        cosine = np.einsum("pd,pd->p", a.outlines[i[part]], b.outlines[j[part]])
        alike[part] = cosine >= MIN_OUTLINE_AGREEMENT
    return list(dict.fromkeys(zip(a.rows[i[alike]].tolist(), b.rows[j[alike]].tolist(), strict=True)))


def thumbnails(image: Image.Image) -> list[np.ndarray]:
    """The grey thumbnail (SIDE_PX, SIDE_PX) uint8 of a photograph; a second one without its black or white border."""
    factor = max(1, min(image.size) // (2 * SIDE_PX))
    grey = image.convert("L").reduce(factor)
    whole = (0, 0, *grey.size)
    boxes = [whole, _inside_border(np.asarray(grey))]
    resample = Image.Resampling.BOX if min(grey.size) >= 2 * SIDE_PX else Image.Resampling.BILINEAR
    return [
        np.asarray(grey.resize((SIDE_PX, SIDE_PX), resample, box=box))
        for box in dict.fromkeys(boxes)
        if box is not None
    ]


def _inside_border(grey: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (px) of the picture inside black and white borders; None if it is too small."""
    left, top, bottom, right = 0, 0, *grey.shape
    while True:  # a white border may frame a black one
        inner = grey[top:bottom, left:right]
        peeled = _border_lines(inner), _border_lines(inner[::-1]), _border_lines(inner.T), _border_lines(inner.T[::-1])
        if not any(peeled):
            return left, top, right, bottom
        soft = [2 if lines else 0 for lines in peeled]  # px at a border's edge, which scaling and JPEG have blurred
        top, bottom = top + peeled[0] + soft[0], bottom - peeled[1] - soft[1]
        left, right = left + peeled[2] + soft[2], right - peeled[3] - soft[3]
        if bottom - top < 0.4 * grey.shape[0] or right - left < 0.4 * grey.shape[1]:
            return None


def _border_lines(lines: np.ndarray) -> int:
    """How many of the first lines are black or white border, but for 4 % of a line: ringing or dust."""
    dark, bright = (lines <= BORDER_LEVEL).mean(axis=1), (lines >= 255 - BORDER_LEVEL).mean(axis=1)
    border = np.maximum(dark, bright) > 0.96
    return len(border) if border.all() else int(np.argmin(border))


def perceptual_hash(thumbnail: np.ndarray) -> np.ndarray:
    """(HASH_BITS,) int8 of 0 and 1: which low frequencies of the thumbnail lie above their median."""
    small = cv2.resize(thumbnail, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = dctn(small, norm="ortho")[:8, :8].ravel()[1:]
    return (low > np.median(low)).astype(np.int8)


def outline(thumbnail: np.ndarray) -> np.ndarray:
    """(OUTLINE_PX^2,) float16 of length 1: the thumbnail's coarse edges, without its brightness."""
    small = cv2.resize(thumbnail, (OUTLINE_PX, OUTLINE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    edges = (cv2.GaussianBlur(small, (0, 0), 1) - cv2.GaussianBlur(small, (0, 0), 4)).ravel()
    return (edges / (np.linalg.norm(edges) + 1e-6)).astype(np.float16)


def same_photograph(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two thumbnails (SIDE_PX, SIDE_PX) uint8 show one photograph, whatever was done to its file.

    b is laid on a by the affine map of greatest correlation (Evangelidis and Psarakis, 2008), and both are compared
    place by place: a re-encoding agrees everywhere, while another photograph differs at least at the eyes or the mouth.
    Two coarse comparisons come first, so that most pairs need no fine one."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    if shifted_correlation(a, b) < MIN_SHIFTED_CORRELATION:
        return False
    small_a, small_b = (cv2.resize(x, (COARSE_PX, COARSE_PX), interpolation=cv2.INTER_AREA) for x in (a, b))
    correlation, warp = _align(small_a, small_b, np.eye(2, 3, dtype=np.float32), iterations=30, epsilon=1e-3)
    if correlation < MIN_CORRELATION or similarity(small_a, small_b, warp) < MIN_COARSE_SIMILARITY:
        return False
    warp[:, 2] *= SIDE_PX / COARSE_PX
    correlation, warp = _align(a, b, warp, iterations=60, epsilon=1e-5)
    return correlation >= MIN_CORRELATION and similarity(a, b, warp) >= MIN_SIMILARITY


def shifted_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Largest correlation, -1..1, of the edges of a and the middle of b, shifted by SHIFT_PX of SHIFTED_PX at most."""
    edges = []
    for thumbnail in (a, b):
        small = cv2.resize(thumbnail, (SHIFTED_PX, SHIFTED_PX), interpolation=cv2.INTER_AREA)
        edges.append(cv2.GaussianBlur(small, (0, 0), 0.8) - cv2.GaussianBlur(small, (0, 0), 5))
    middle = edges[1][SHIFT_PX:-SHIFT_PX, SHIFT_PX:-SHIFT_PX]
    return float(cv2.matchTemplate(edges[0], middle, cv2.TM_CCOEFF_NORMED).max())


def _align(a: np.ndarray, b: np.ndarray, warp: np.ndarray, iterations: int, epsilon: float) -> tuple[float, np.ndarray]:
    """Correlation of the aligned images (0 if there is no alignment) and the affine map (2, 3) from a to b."""
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, iterations, epsilon)
    try:
        return cv2.findTransformECC(a, b, warp, cv2.MOTION_AFFINE, criteria, None, 5)
    except cv2.error:  # raised if it diverges, which means that the pictures differ
        return 0.0, warp


def similarity(a: np.ndarray, b: np.ndarray, warp: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004) of a and the warped b, both (n, n), at its 1st percentile over places.

    Both are blurred first, against JPEG noise, and b gets the grey values of a, against brightness and contrast.
    Returns at most 1; 0 if less than 70 % of a is covered."""
    side = len(a)
    blur, window, margin = side / 80, side / 32, side // 50 + 1  # px
    a, b = cv2.GaussianBlur(a, (0, 0), blur), cv2.GaussianBlur(b, (0, 0), blur)
    backwards, size = cv2.WARP_INVERSE_MAP, (side, side)
    b = cv2.warpAffine(b, warp, size, flags=cv2.INTER_CUBIC | backwards, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(np.ones(size, np.uint8), warp, size, flags=cv2.INTER_NEAREST | backwards)
    edge = np.ones((2 * margin - 1, 2 * margin - 1))
    covered = cv2.erode(covered, edge, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if covered.mean() < 0.7:
        return 0.0
    x, y = np.zeros(size, np.float32), np.zeros(size, np.float32)
    x[covered] = (a[covered] - a[covered].mean()) / (a[covered].std() + 1) * 50
    y[covered] = _with_histogram_of(x[covered], b[covered])
    weight = cv2.GaussianBlur(covered.astype(np.float32), (0, 0), window) + 1e-3

    def local_mean(z: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(z, (0, 0), window) / weight

    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    floor = 200  # variance; that of the whole picture is 2500, so plain walls count little
    return float(np.percentile(((2 * covariance + floor) / (var_x + var_y + floor))[covered], 1))


def _with_histogram_of(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (n,) mapped to the distribution of the reference (n,), so that their order of size is kept."""
    matched = np.empty_like(reference)
    matched[np.argsort(values, kind="stable")] = np.sort(reference)
    return matched
