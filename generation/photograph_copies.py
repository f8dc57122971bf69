"""Finds images that are copies of a photograph, also cropped, mirrored, recoloured or warped a little.

    rows, scores = copies(real, synthetic)    # Pictures of both; every image's likeliest original

near_duplicates asks whether two files show one photograph, and decides first. A generator may also have drawn a copy
that is no altered file, and an image rejected in vain costs little: the comparison that follows is lenient, and gives a
score whose threshold is calibrated on other people with the same condition (privacy.calibrate).
"""

import dataclasses

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from generation.privacy import Both, allowed, nearest_rows
from imaging import near_duplicates, re_encodings
from imaging.re_encodings import MIN_CONTRAST, SIDE_PX

WHOLE, INSIDE, FACE = range(3)  # the views of a picture
CANDIDATES = 3  # photographs by each description of a picture that are laid on an image
COARSE_PX, FINE_PX = 32, 64  # sides at which two pictures are aligned
MIN_COARSE_CORRELATION = 0.6  # of the pictures aligned at COARSE_PX; copies reach 0.9, also cropped and warped ones
MIN_COVERED = 0.5  # share of an image that the photograph must cover


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What the search for copies compares; the arrays may be memory-mapped."""

    views: np.ndarray  # (n, 3, SIDE_PX, SIDE_PX) uint8, see picture_views
    records: np.ndarray  # (n,), see near_duplicates.record
    descriptors: np.ndarray  # (n, d): of a copy-detection network such as SSCD, or of the project's backbone
    mirrored: np.ndarray  # (n, d): the same of the pictures mirrored left to right


def picture_views(record: np.ndarray, aligned_face: np.ndarray | None) -> np.ndarray:
    """Grey views (3, SIDE_PX, SIDE_PX) uint8: the whole picture, what is inside its black or white border, its face.

    record: near_duplicates.record of the picture; aligned_face (s, s, 3) uint8 as imaging.faces.align cuts it out. A
    view is black without a border or a face."""
    face = np.zeros((1, SIDE_PX, SIDE_PX), np.uint8)
    if aligned_face is not None:
        face[0] = re_encodings.thumbnails(Image.fromarray(aligned_face))[0]
    return np.concatenate([record["thumbnails"], face])


def copies(
    real: Pictures,
    synthetic: Pictures,
    block_rows: int = 4096,
    same: Both | None = None,
    other: Both | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The photograph of which each image is most likely a copy, be it cropped, mirrored, recoloured or warped a little.

    Candidates are the CANDIDATES photographs nearest to the image or its mirror image by the descriptor, by the
    outlines of the whole picture, and by those of the face. Each is laid on the image that it is nearest to
    (`copy_score`), and the best counts. What the test for near duplicates finds, by which builds group photographs and
    guards refuse images, scores 1, also if a build would only propose it for a look. block_rows, same, other: as in
    `nearest`. Returns rows (m,), -1 if nothing resembles the image, and scores (m,) in 0..1; an image of a single
    colour, of which nothing can be said, scores nan.
    """
    listed = []  # which views were near, or are compared, with the photographs and whether the image is turned over
    for compared in (WHOLE, FACE):
        outlines = _outlines(real.views[:, compared]), _outlines(synthetic.views[:, compared])
        turned = _outlines(synthetic.views[:, compared, :, ::-1])
        listed.append(((compared,), *_either_way(*outlines, turned, block_rows, same, other)))
    by_descriptor = _either_way(real.descriptors, synthetic.descriptors, synthetic.mirrored, block_rows, same, other)
    listed.append(((WHOLE, INSIDE, FACE), *by_descriptor))

    confirmed = near_duplicates.copies(synthetic.records, real.records, certain=False)
    rows, scores = np.full(len(synthetic.views), -1), np.zeros(len(synthetic.views))
    # disable=None: only on a terminal, since in a file a bar below another is a line anew each time
    for image in tqdm(range(len(rows)), desc="laying photographs on images", unit="image", leave=False, disable=None):
        views, own = synthetic.views[image], slice(image, image + 1)
        if views[WHOLE].std() < MIN_CONTRAST:
            scores[image] = np.nan
            continue
        certain = [row for row in confirmed[image] if allowed(same, other, own, slice(row, row + 1)).all()]
        if certain:
            rows[image], scores[image] = certain[0], 1.0
            continue
        pairs = {
            (row, turned, view)
            for compared, near, turns in listed
            for row, turned in zip(near[image].tolist(), turns[image].tolist(), strict=True)
            for view in compared
            if row >= 0
        }
        for row, turned, view in sorted(pairs):
            score = copy_score(views[..., ::-1] if turned else views, real.views[row], view)
            if score > scores[image]:
                rows[image], scores[image] = row, score
    return rows, scores


def _either_way(
    real: np.ndarray,
    synthetic: np.ndarray,
    mirrored: np.ndarray,
    block_rows: int,
    same: Both | None,
    other: Both | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The photographs nearest to m images or their mirror images: rows (m, CANDIDATES), -1 if there is none, and
    whether it is the mirror image."""
    found = [nearest_rows(real, images, CANDIDATES, block_rows, same, other) for images in (synthetic, mirrored)]
    rows, similarity = (np.hstack(parts) for parts in zip(*found, strict=True))
    best = np.argsort(-np.nan_to_num(similarity, nan=-np.inf), axis=1, kind="stable")[:, :CANDIDATES]
    return np.take_along_axis(rows, best, axis=1), best >= CANDIDATES


def _outlines(thumbnails: np.ndarray) -> np.ndarray:
    """(n, OUTLINE_PX^2) float16, zero for a thumbnail without contrast."""
    return np.stack([re_encodings.outline(np.ascontiguousarray(thumbnail)) for thumbnail in thumbnails])


def copy_score(image: np.ndarray, photograph: np.ndarray, view: int) -> float:
    """How well a view of a photograph agrees with an image's once it is laid on it, 0..1: `laid_on`.

    Both (3, SIDE_PX, SIDE_PX) uint8 as `picture_views` makes them. View INSIDE is the whole picture where there is no
    border; 0 if neither has one, or if a view is black."""
    sees = [views.std(axis=(1, 2)) >= MIN_CONTRAST for views in (image, photograph)]
    if view == INSIDE and (sees[0][INSIDE] or sees[1][INSIDE]):
        a, b = (views[INSIDE if seen[INSIDE] else WHOLE] for views, seen in zip((image, photograph), sees, strict=True))
    elif view != INSIDE and sees[0][view] and sees[1][view]:
        a, b = image[view], photograph[view]
    else:
        return 0.0
    return laid_on(np.ascontiguousarray(a), b)


def laid_on(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation, 0..1, of the details of a and of b after the affine map of b that brings them closest.

    a, b (SIDE_PX, SIDE_PX) uint8. Details lie between 1/80 and 1/10 of the side, so that brightness, colours, light and
    JPEG noise count little. Alignment: Evangelidis and Psarakis, 2008. Returns 0 if they cannot be aligned, or overlap
    in less than MIN_COVERED of a."""
    warp = np.eye(2, 3, dtype=np.float32)
    for side in (COARSE_PX, FINE_PX):
        x, y = (cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) for view in (a, b))
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-4)
        try:
            correlation, warp = cv2.findTransformECC(x, y, warp, cv2.MOTION_AFFINE, criteria, None, 5)
        except cv2.error:  # it diverges if the pictures differ
            return 0.0
        if correlation < MIN_COARSE_CORRELATION:
            return 0.0
        warp[:, 2] *= FINE_PX / COARSE_PX if side == COARSE_PX else 1
    size, backwards = (FINE_PX, FINE_PX), cv2.WARP_INVERSE_MAP
    covered = cv2.warpAffine(np.ones(size, np.uint8), warp, size, flags=cv2.INTER_NEAREST | backwards)
    covered = cv2.erode(covered, np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if covered.mean() < MIN_COVERED:
        return 0.0
    x = _details(x)[covered]
    y = cv2.warpAffine(_details(y), warp, size, flags=cv2.INTER_CUBIC | backwards)[covered]
    if min(x.std(), y.std()) == 0:
        return 0.0
    return float(np.clip(np.corrcoef(x, y)[0, 1], 0, 1))


def _details(view: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(view, (0, 0), FINE_PX / 80) - cv2.GaussianBlur(view, (0, 0), FINE_PX / 10)
