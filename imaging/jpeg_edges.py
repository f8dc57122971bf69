"""What a JPEG holds beyond its edges: its blocks are whole, and a decoder cuts off what its size leaves out.

Encoders repeat the last row and column there. Programs that crop without coding anew leave what they cropped, which may
be a line with a name.
"""

import io

import numpy as np
from PIL import Image

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that state a size (T.81, table B.1)
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
SEGMENT_PX = 64  # of an edge, judged by itself
# Root mean square, of 255. Repeated edges differ by up to 21 at quality 30 or 15, and one letter by 35.
MAX_DEVIATION = 20.0


def hides_picture(jpeg: bytes) -> bool:
    """Whether what lies beyond the edges is another picture than an encoder would repeat there.

    jpeg: mode L or RGB. It is compared with the same pixels coded anew with the same tables. Of a progressive JPEG
    only half-filled blocks are looked at, since it holds no others but their averages."""
    size, whole = _sizes(jpeg)
    if size == whole:
        return False
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as opened:
        coded = io.BytesIO()
        opened.save(coded, "JPEG", quality="keep")
    found, expected = (_pixels(_grown(content, whole)) for content in (jpeg, coded.getvalue()))
    deviation = ((found - expected[: whole[1], : whole[0]]) ** 2).mean(axis=2)
    edges = (deviation[size[1] :], deviation[:, size[0] :].T)
    parts = [edge[:, at : at + SEGMENT_PX] for edge in edges if len(edge) for at in range(0, edge.shape[1], SEGMENT_PX)]
    return any(part.mean() > MAX_DEVIATION**2 for part in parts)


def _sizes(jpeg: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height in px as the file states them, and of all its blocks that a decoder can be made to show."""
    at = _frame_at(jpeg)
    height, width, components = *(int.from_bytes(jpeg[at + n : at + n + 2], "big") for n in (5, 7)), jpeg[at + 9]
    sampling = jpeg[at + 11 : at + 10 + 3 * components : 3]
    is_interleaved = components > 1 and jpeg[at + 1] not in PROGRESSIVE
    across, down = (max(s >> 4 for s in sampling), max(s & 15 for s in sampling)) if is_interleaved else (1, 1)
    return (width, height), (-(-width // (8 * across)) * 8 * across, -(-height // (8 * down)) * 8 * down)


def _grown(jpeg: bytes, size: tuple[int, int]) -> bytes:
    """The same blocks, with another size stated."""
    at = _frame_at(jpeg)
    return jpeg[: at + 5] + size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big") + jpeg[at + 9 :]


def _frame_at(jpeg: bytes) -> int:
    at = 2
    while jpeg[at + 1] not in FRAMES:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return at


def _pixels(jpeg: bytes) -> np.ndarray:
    """(h, w, c) float."""
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as opened:
        pixels = np.asarray(opened, dtype=float)
    return pixels if pixels.ndim == 3 else pixels[..., None]
