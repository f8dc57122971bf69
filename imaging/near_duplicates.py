"""The one test for copies of a photograph, which a build, the guard, the filter and the publisher share.

    near = NearDuplicates(); near.add(0, record(image)); near.pairs()        # a build
    copies(records_of_images, records_of_photographs)                        # all others

A copy may be re-encoded, scaled, cropped, turned, mirrored, framed, recoloured, covered in part, or one of the pictures
on a plate. Pictures that have several local features in common (imaging/feature_index.py) are laid on each other by
them (imaging/local_features.py) and then compared place by place: a copy agrees in detail wherever both pictures have
any, while the next frame of a burst differs at least at the eyes or the mouth. Pictures with few local features are
also compared as a whole (imaging/re_encodings.py).
"""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from tqdm import tqdm

from imaging import local_features, re_encodings
from imaging.feature_index import FeatureIndex
from imaging.local_features import FEATURES
from imaging.re_encodings import SIDE_PX

RECORD = np.dtype([("thumbnails", np.uint8, (2, SIDE_PX, SIDE_PX)), ("features", FEATURES)])
FEW_FEATURES = 100  # pictures with fewer are also compared as a whole
MIN_AGREEING = 12  # places; different people in front of one wall reach 27
FINE_PX, COARSE_PX = 1.0, 4.0  # standard deviations, px of a thumbnail: details between them are compared
WINDOW_PX = 3.0  # standard deviation of the window in which details are correlated
MIN_DETAIL = 9.0  # variance of the details, of 255^2, below which a place is plain
MIN_OVERLAP = 0.4  # of one of the two pictures; two people in front of one poster overlap in less
MIN_COMPARED = 0.04  # share of a thumbnail's places that both pictures cover with details
ALIKE = 0.9  # correlation in a window
UNCERTAIN_SHARE = 0.4  # of the places compared that are alike; different people reach 0.3
CERTAIN_SHARE, MANY_AGREEING = 0.5, 35  # a black bar leaves 0.55 of them alike, and 45 places
CERTAIN_SHARE_OF_FEW = 0.8  # with fewer places: small pictures of two people on a plate reach 16 and 0.71
MIN_MIDDLE_SHARE = 0.3  # the same in the middle of what both show; another face in the same room reaches 0.1
MAX_PLATE_SHARE, MIN_REST_SHARE = 0.6, 0.3  # of a plate that one picture covers; of the rest that is not plain
MAX_REFUSALS = 3  # comparisons of thumbnails between two clusters of copies before they count as different photographs
BLOCK_ROWS = 128
OTHERS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What two pictures have in common that have been laid on each other."""

    agreeing: int  # local features
    alike: float  # share of the places compared, 0..1
    middle_alike: float  # the same in the middle half, by width and height, of what both pictures show
    is_part: bool  # one picture is a part of the other, which shows more

    @property
    def certain(self) -> bool:
        enough = CERTAIN_SHARE if self.agreeing >= MANY_AGREEING else CERTAIN_SHARE_OF_FEW
        return self.alike >= enough and self.middle_alike >= MIN_MIDDLE_SHARE

    def __str__(self) -> str:
        return f"{self.agreeing} places agree, and {100 * self.alike:.0f} % of the details"


@dataclasses.dataclass
class Found:
    """Pairs of rows (smaller, larger)."""

    certain: list[tuple[int, int]]  # as many as it takes to connect each cluster of copies
    to_look_at: dict[tuple[int, int], Likeness]  # uncertain ones, and certain ones of a picture with a part of it


def record(image: Image.Image) -> np.ndarray:
    """Everything of a picture that the test needs, () of RECORD, 68 KB; image: RGB or grey."""
    made = np.zeros((), RECORD)
    for number, thumbnail in enumerate(re_encodings.thumbnails(image)):
        made["thumbnails"][number] = thumbnail
    made["features"] = local_features.features(local_features.grey_of(image))
    return made


def mirrored(of_picture: np.ndarray) -> np.ndarray:
    """The record of the picture mirrored left to right."""
    turned = of_picture.copy()
    turned["thumbnails"] = of_picture["thumbnails"][..., ::-1]
    turned["features"] = local_features.mirrored(of_picture["features"])
    return turned


def compare(a: np.ndarray, b: np.ndarray) -> Likeness | None:
    """What two pictures, records () of RECORD, have in common; None if they are no copies, and not alike."""
    placed = local_features.lay_on(a["features"], b["features"])
    enough = [each for each in placed if each.agreeing >= MIN_AGREEING]
    found = [Likeness(each.agreeing, *_agreement(a, b, each.to_other)) for each in enough]
    best = max(found, key=lambda each: each.alike, default=None)
    return best if best and best.alike >= UNCERTAIN_SHARE else None


def _agreement(a: np.ndarray, b: np.ndarray, to_other: np.ndarray) -> tuple[float, float, bool]:
    """The share of the places compared that are alike, the same in the middle, and whether one picture is a part.

    The picture of more detail is laid on the other. Only places where both have details count: a black bar, a blown-out
    sky or the corners beside a turned picture say nothing. to_other: local_features.Placed."""
    if local_features.scale_of(to_other) < 1:
        a, b, to_other = b, a, cv2.invertAffineTransform(to_other)
    scale = local_features.scale_of(to_other)
    x, y = (of["thumbnails"][0].astype(np.float32) for of in (a, b))
    x_to_y = _to_pixels(b) @ np.vstack([to_other, [0, 0, 1]]) @ np.linalg.inv(_to_pixels(a))
    if scale > 1.2:
        y = cv2.GaussianBlur(y, (0, 0), scale / 2)
    laid = {"M": x_to_y[:2], "dsize": (SIDE_PX, SIDE_PX)}
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    y = cv2.warpAffine(y, **laid, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(np.ones((SIDE_PX, SIDE_PX), np.uint8), **laid, flags=nearest)
    inside = cv2.erode(covered, np.ones((7, 7)), borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(np.float32)
    x, y = _details(x), _details(y)
    weight = _window(inside) + 1e-3
    of_x, of_y, of_both = (_window(product * inside) / weight for product in (x * x, y * y, x * y))
    compared = (inside > 0) & (np.minimum(of_x, of_y) > MIN_DETAIL)
    if covered.mean() * scale**2 < MIN_OVERLAP or compared.mean() < MIN_COMPARED:  # both pictures are equally large
        return 0.0, 0.0, False
    alike = of_both > ALIKE * np.sqrt(of_x * of_y)
    left, top, width, height = cv2.boundingRect(covered)
    middle = np.zeros_like(compared)
    middle[top + height // 4 : top + 3 * height // 4, left + width // 4 : left + 3 * width // 4] = True
    in_middle = compared & middle
    of_middle = float(alike[in_middle].mean()) if in_middle.any() else 0.0
    return float(alike[compared].mean()), of_middle, _is_part(x, covered == 0)


def _is_part(details: np.ndarray, rest: np.ndarray) -> bool:
    """Whether a picture, of these details, shows much more than what another one covers; rest: what that does not."""
    if rest.mean() < 1 - MAX_PLATE_SHARE:
        return False
    return bool((_window(details**2)[rest] > MIN_DETAIL).mean() >= MIN_REST_SHARE)


def _to_pixels(of: np.ndarray) -> np.ndarray:
    """(3, 3): px of the features' picture from its middle -> px of the thumbnail."""
    middle = (SIDE_PX - 1) / 2
    return np.array([[1, 0, middle], [0, 1, middle], [0, 0, 1]]) @ np.diag([*(SIDE_PX / of["features"]["size"]), 1])


def _details(thumbnail: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(thumbnail, (0, 0), FINE_PX) - cv2.GaussianBlur(thumbnail, (0, 0), COARSE_PX)


def _window(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), WINDOW_PX)


class NearDuplicates:
    """Collects photographs and finds the pairs that show the same one.

    folder: holds the unnamed file with the records, so that memory hardly grows with their number."""

    def __init__(self, folder: Path | None = None):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this object)
        self._rows: list[int] = []  # the photograph of each record

    def add(self, row: int, of_picture: np.ndarray) -> None:
        """of_picture: `record` of the photograph that is called `row`."""
        self._file.write(of_picture.tobytes())
        self._rows.append(row)

    def pairs(self, identical: Iterable[tuple[int, int]] = (), different: Iterable[tuple[int, int]] = ()) -> Found:
        """Pairs of rows that are copies.

        identical: pairs of rows that are copies for certain, and are not returned again; different: pairs that somebody
        has looked at, and that are no copies whatever the comparison says."""
        clusters = DisjointSet({*self._rows, *(row for pair in identical for row in pair)})
        for a, b in identical:
            clusters.merge(a, b)
        found, apart = Found([], {}), {frozenset(pair) for pair in different}
        if not self._rows:
            return found
        self._file.flush()
        records = np.memmap(self._file, RECORD, "r", shape=(len(self._rows),))

        def still_apart(a: int, b: int) -> bool:
            a, b = self._rows[a], self._rows[b]
            return frozenset((a, b)) not in apart and not clusters.connected(a, b)

        def pair_of(a: int, b: int) -> tuple[int, int]:
            a, b = sorted((self._rows[a], self._rows[b]))
            return a, b

        for (a, b), likeness in _alike_pairs(records, _own_candidates(records), records, still_apart):
            pair = pair_of(a, b)
            if likeness.certain and clusters.merge(*pair):
                found.certain.append(pair)
            if likeness.is_part or not likeness.certain:
                found.to_look_at[pair] = likeness
        refusals: Counter[tuple[int, int]] = Counter()
        for a, b, turned in _whole_candidates(records, records):
            pair = pair_of(a, b)
            between = tuple(sorted(clusters[row] for row in pair))
            if a != b and still_apart(a, b) and refusals[between] < MAX_REFUSALS:
                if _same_as_a_whole(records[a], records[b], turned):
                    clusters.merge(*pair)
                    found.certain.append(pair)
                else:
                    refusals[between] += 1
        return found


def copies(images: Sequence[np.ndarray], photographs: Sequence[np.ndarray], certain: bool = True) -> list[list[int]]:
    """The photographs that each image is a copy of, by the test with which a build groups near duplicates.

    images (m,), photographs (n,) of RECORD, which may be memory-mapped. certain: without pairs that a build would only
    propose for a look. Returns m increasing lists of numbers 0..n - 1. A picture of a single colour is a copy of
    nothing."""
    copied: list[set[int]] = [set() for _ in range(len(images))]
    if not len(images) or not len(photographs):
        return [[] for _ in copied]
    candidates = FeatureIndex(photographs["features"]).candidates(images["features"])
    for (image, row), likeness in _alike_pairs(images, candidates, photographs, lambda a, b: b not in copied[a]):
        if likeness.certain or not certain:
            copied[image].add(row)
    for image, row, turned in _whole_candidates(images, photographs):
        if row not in copied[image] and _same_as_a_whole(images[image], photographs[row], turned):
            copied[image].add(row)
    return [sorted(rows) for rows in copied]


def _same_as_a_whole(a: np.ndarray, b: np.ndarray, turned: bool) -> bool:
    """Whether a thumbnail of one picture shows the same as one of the other, or of its mirror image."""
    of_a, of_b = re_encodings.with_contrast(a["thumbnails"]), re_encodings.with_contrast(b["thumbnails"], turned)
    return any(re_encodings.same_photograph(x, y) for x in of_a for y in of_b)


def _own_candidates(records: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of records among themselves, (c, 3) as FeatureIndex.candidates, the smaller first and each only once."""
    n = len(records)
    keys = [np.zeros(0, np.int64)]
    for block in FeatureIndex(records["features"]).candidates(records["features"]):
        a, b = block[:, :2].min(axis=1), block[:, :2].max(axis=1)
        keys.append(((a * n + b) * 2 + block[:, 2])[a != b])
    pair, turned = np.divmod(np.unique(np.concatenate(keys)), 2)
    yield np.stack([pair // n, pair % n, turned], axis=1)


def _alike_pairs(
    first: np.ndarray,
    candidates: Iterable[np.ndarray],
    second: np.ndarray,
    wanted: Callable[[int, int], bool],
) -> Iterator[tuple[tuple[int, int], Likeness]]:
    """Those of the candidates that are alike; wanted: asked of each pair before it is compared."""
    for block in candidates:
        quiet = len(block) < 500 or None  # None: only on a terminal, since in a file a bar below another is a line anew
        for a, b, turned in tqdm(block.tolist(), desc="comparing", unit="pair", leave=False, disable=quiet):
            if wanted(a, b):
                likeness = compare(first[a], mirrored(second[b]) if turned else second[b])
                if likeness is not None:
                    yield (a, b), likeness


def _whole_candidates(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """Pairs whose thumbnails are close by hash and outline, if one of the two has few features; whether it is turned.

    Few pictures have few, so that this costs little; those are compared with all."""
    few_first, few_second = (np.flatnonzero(of["features"]["count"] < FEW_FEATURES) for of in (first, second))
    for few, of_few, others, swapped in ((few_first, first, second, False), (few_second, second, first, True)):
        for start in range(0, len(few), BLOCK_ROWS):
            block = few[start : start + BLOCK_ROWS]
            both_ways = [
                re_encodings.signatures(block, of_few[block]["thumbnails"], turned) for turned in (False, True)
            ]
            for other in range(0, len(others), OTHERS_AT_ONCE):
                rows = range(other, min(other + OTHERS_AT_ONCE, len(others)))
                theirs = re_encodings.signatures(rows, others[other : rows.stop]["thumbnails"])
                for turned, mine in enumerate(both_ways):
                    for a, b in re_encodings.close_pairs(mine, theirs):
                        yield (b, a, bool(turned)) if swapped else (a, b, bool(turned))
