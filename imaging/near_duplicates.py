"""Finds near duplicates: one photograph re-encoded, scaled, cropped a little, framed, greyed or brightened.

A perceptual hash proposes pairs of photographs, and a strict comparison of the aligned pictures confirms them: two
photographs of one person in one room, taken seconds apart, are not duplicates. The thumbnails wait in an unnamed file,
so that memory hardly grows with their number.
"""

import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from scipy.fft import dctn
from tqdm import tqdm

SIDE_PX = 128  # of the thumbnails compared
COARSE_PX = 48
HASH_BITS = 63  # signs of the 8 x 8 lowest DCT frequencies without the mean (Zauner, 2010)
MAX_HAMMING = 14  # of HASH_BITS: a crop of 4 % changes up to 14 of them, chance about 31
CLOSE_HAMMING = 4  # most re-encodings have at most this, and few other pairs do
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
MAX_REFUSALS = 3  # comparisons between two clusters of copies before they count as different photographs
BLOCK_ROWS = 128


class NearDuplicates:
    """Collects thumbnails of photographs and finds the pairs that show the same photograph.

    folder: holds the unnamed file with the thumbnails, SIDE_PX^2 bytes each."""

    def __init__(self, folder: Path | None = None):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this object)
        self._hashes: list[bytes] = []  # of each thumbnail
        self._outlines: list[bytes] = []
        self._rows: list[int] = []  # the photograph of each thumbnail

    def add(self, row: int, thumbnails: list[np.ndarray]) -> None:
        for thumbnail in thumbnails:
            if thumbnail.std() >= MIN_CONTRAST:
                self._file.write(thumbnail.tobytes())
                self._hashes.append(perceptual_hash(thumbnail).tobytes())
                self._outlines.append(outline(thumbnail).tobytes())
                self._rows.append(row)

    def pairs(
        self, identical: Iterable[tuple[int, int]] = (), different: Iterable[tuple[int, int]] = ()
    ) -> list[tuple[int, int]]:
        """Confirmed pairs of rows: as many as it takes to connect each cluster of copies.

        identical: pairs of rows that are copies for certain, and are not returned again; different: pairs that somebody
        has looked at, and that are no copies whatever the comparison says."""
        apart = {frozenset(pair) for pair in different}
        clusters = DisjointSet({*self._rows, *(row for pair in identical for row in pair)})
        for a, b in identical:
            clusters.merge(a, b)
        refusals: Counter[tuple[int, int]] = Counter()
        confirmed = []
        self._file.flush()
        # Close hashes first: they join copies to clusters, and two clusters are compared MAX_REFUSALS times at most.
        for i, j in itertools.chain(self._proposals(CLOSE_HAMMING), self._proposals(MAX_HAMMING)):
            a, b = self._rows[i], self._rows[j]
            between = tuple(sorted((clusters[a], clusters[b])))
            if between[0] == between[1] or refusals[between] >= MAX_REFUSALS or frozenset((a, b)) in apart:
                continue
            if same_photograph(self._thumbnail(i), self._thumbnail(j)):
                clusters.merge(a, b)
                confirmed.append((min(a, b), max(a, b)))
            else:
                refusals[between] += 1
        return confirmed

    def _proposals(self, max_hamming: int) -> Iterator[tuple[int, int]]:
        """Pairs of thumbnails whose hashes and outlines are close, the closest hashes of each block first."""
        n = len(self._hashes)
        bits = np.frombuffer(b"".join(self._hashes), dtype=np.int8).reshape(n, HASH_BITS)
        signs = np.where(bits, np.float32(1), np.float32(-1))  # so that signs @ signs = HASH_BITS - 2 * Hamming
        outlines = np.frombuffer(b"".join(self._outlines), dtype=np.float16).reshape(n, OUTLINE_PX**2)
        for start in tqdm(range(0, n, BLOCK_ROWS), desc="Comparing photographs", unit=" blocks", leave=False):
            agreement = signs[start : start + BLOCK_ROWS] @ signs[start:].T
            i, j = np.nonzero(agreement >= HASH_BITS - 2 * max_hamming)
            i, j = i[i < j], j[i < j]
            order = np.argsort(-agreement[i, j], kind="stable")
            for part in np.array_split(order, len(order) // 20_000 + 1):
                a, b = start + i[part], start + j[part]
                cosine = np.einsum("pd,pd->p", outlines[a].astype(np.float32), outlines[b].astype(np.float32))
                alike = cosine >= MIN_OUTLINE_AGREEMENT
                yield from zip(a[alike].tolist(), b[alike].tolist(), strict=True)

    def _thumbnail(self, i: int) -> np.ndarray:
        pixels = os.pread(self._file.fileno(), SIDE_PX * SIDE_PX, i * SIDE_PX * SIDE_PX)
        return np.frombuffer(pixels, dtype=np.uint8).reshape(SIDE_PX, SIDE_PX)


def copies(images: Sequence[np.ndarray], photographs: Sequence[np.ndarray]) -> list[list[int]]:
    """The photographs that each image is a copy of, by the test with which a build groups near duplicates.

    images (m, 2, SIDE_PX, SIDE_PX), photographs (n, 2, SIDE_PX, SIDE_PX) uint8: `both_thumbnails` of each, which may be
    memory-mapped. Returns m increasing lists of numbers 0..n - 1. A picture of a single colour is a copy of nothing."""
    photograph, numbers, signs, outlines = _signatures(photographs, range(len(photographs)))
    copied: list[list[int]] = [[] for _ in range(len(images))]
    for start in tqdm(range(0, len(images), BLOCK_ROWS), desc="looking for copies", unit="block", leave=False):
        image, own_numbers, own_signs, own_outlines = _signatures(
            images, range(start, min(start + BLOCK_ROWS, len(images)))
        )
        i, j = np.nonzero(own_signs @ signs.T >= HASH_BITS - 2 * MAX_HAMMING)
        alike = np.einsum("pd,pd->p", own_outlines[i], outlines[j]) >= MIN_OUTLINE_AGREEMENT
        for a, b in zip(i[alike].tolist(), j[alike].tolist(), strict=True):
            a_row, b_row = image[a], photograph[b]
            if b_row in copied[a_row]:
                continue
            if same_photograph(images[a_row][own_numbers[a]], photographs[b_row][numbers[b]]):
                copied[a_row].append(b_row)
    return [sorted(rows) for rows in copied]


def _signatures(stacks: Sequence[np.ndarray], rows: range) -> tuple[list[int], list[int], np.ndarray, np.ndarray]:
    """Of the t thumbnails that are not flat: their rows, their places 0 or 1 in the row, and signs (t, HASH_BITS) and
    outlines (t, OUTLINE_PX^2), both float32."""
    places = [(row, n, thumbnail) for row in rows for n, thumbnail in enumerate(stacks[row])]
    places = [place for place in places if place[2].std() >= MIN_CONTRAST]
    bits = np.array([perceptual_hash(thumbnail) for *_, thumbnail in places]).reshape(-1, HASH_BITS)
    outlines = np.array([outline(thumbnail) for *_, thumbnail in places], np.float32).reshape(-1, OUTLINE_PX**2)
    signs = np.where(bits, np.float32(1), np.float32(-1))
    return [row for row, *_ in places], [n for _, n, _ in places], signs, outlines


def both_thumbnails(image: Image.Image) -> np.ndarray:
    """`thumbnails` as one array (2, SIDE_PX, SIDE_PX) uint8; the second is black where there is no border."""
    both = np.zeros((2, SIDE_PX, SIDE_PX), np.uint8)
    for n, thumbnail in enumerate(thumbnails(image)):
        both[n] = thumbnail
    return both


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
