"""Damages photographs as old prints, phones and scanners do, in three grades of severity.

    damaged = corrupt(image, "blur", 2, corruption_rng(image_id, "blur", 2))

All amounts are relative to the photograph, so that one of 512 px and one of 2048 px are damaged equally once both are
resized for a classifier. The idea of testing under graded everyday damage is Hendrycks & Dietterich's (ICLR 2019, arXiv
1903.12261); kinds and amounts are chosen for portraits, and scores are not comparable with theirs.
"""

import hashlib
import io
import json

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

# The amount of each kind at severity 1, 2 and 3: visible when looked for, obvious, and so that a face is hard to judge.
AMOUNTS = {
    "blur": (0.005, 0.01, 0.02),  # sigma as a share of the shorter side; 1.1, 2.2 and 4.5 px at 224 px
    "noise": (0.05, 0.1, 0.2),  # standard deviation as a share of the full range, per channel: film grain, high ISO
    "jpeg": (
        40,
        20,
        10,
    ),  # quality on libjpeg's scale: sent by a messenger, forwarded often, saved for an early web page
    "darkness": (1, 2, 3),  # stops of missing light; each halves it
    "grey": (0.5, 0.8, 1.0),  # share of the colour that is lost: a fading print, a faded one, a grey scan
    "occlusion": (0.05, 0.1, 0.2),  # share of the area that a patch covers: a sticker, a hand, a censor's bar
}
CORRUPTIONS = tuple(AMOUNTS)
SEVERITIES = (1, 2, 3)
# Grain and JPEG's 8 px blocks are as large as in a photograph with this shorter side, close to a classifier's input;
# at the size of a large photograph's pixels both would vanish when it is resized. A smaller photograph is not enlarged.
# JPEG therefore also removes a large photograph's finer detail, as sending it through a messenger would.
SMALL_SIDE_PX = 256
DISPLAY_GAMMA = 2.2  # of sRGB, nearly: stored value = light ** (1 / 2.2)


def corruption_rng(image_id: str, kind: str, severity: int) -> np.random.Generator:
    """The random generator of this image and damage: the same in every run and process, whatever the order of images.

    It does not depend on training seeds: models of all seeds are tested on the same damaged photographs."""
    key = json.dumps([image_id, kind, severity])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))


def corrupt(image: Image.Image, kind: str, severity: int, rng: np.random.Generator) -> Image.Image:
    """A damaged copy of the photograph, of the same size; only noise and occlusion draw from `rng`.

    image: PIL image of mode RGB; kind: one of CORRUPTIONS; severity: one of SEVERITIES. Raises ValueError for another
    kind, severity or mode."""
    if kind not in AMOUNTS:
        raise ValueError(f"there is no corruption {kind!r}; choose from {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"there is no severity {severity!r}; choose from {', '.join(map(str, SEVERITIES))}")
    if image.mode != "RGB":
        raise ValueError(f"a photograph of mode {image.mode} cannot be corrupted; convert it to RGB")
    return DAMAGE[kind](image, AMOUNTS[kind][severity - 1], rng)


def _blur(image: Image.Image, sigma: float, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma * min(image.size)))


def _noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    return _photograph(pixels + 255 * deviation * _grain(image.size, image.size, rng))


def _jpeg(image: Image.Image, quality: int, _: np.random.Generator) -> Image.Image:
    encoded = io.BytesIO()
    image.resize(_small_size(image.size, image.size), Image.Resampling.BOX).save(encoded, "JPEG", quality=quality)
    return Image.open(encoded).convert("RGB").resize(image.size, Image.Resampling.BICUBIC)


def _darkness(image: Image.Image, stops: float, _: np.random.Generator) -> Image.Image:
    factor = 2 ** (-stops / DISPLAY_GAMMA)  # for stored values, from 2 ** -stops for light
    return image.point([round(factor * value) for value in range(256)] * 3)


def _grey(image: Image.Image, share: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Color(image).enhance(1 - share)


def _occlusion(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """A patch of one colour, smooth to rough, anywhere inside; its sides differ by at most a factor of 2."""
    ratio = 2 ** rng.uniform(-1, 1)
    sides = np.sqrt([share * ratio, share / ratio])  # shares of width and height, below 1 for every share here
    left, top = rng.uniform(0, 1 - sides)
    colour, roughness = rng.uniform(0, 255, size=3), rng.uniform(0, 64)
    width, height = image.size
    x0, x1 = round(left * width), round((left + sides[0]) * width)
    y0, y1 = round(top * height), round((top + sides[1]) * height)
    pixels = np.array(image, np.float32)
    pixels[y0:y1, x0:x1] = colour + roughness * _grain((x1 - x0, y1 - y0), image.size, rng)
    return _photograph(pixels)


def _grain(size: tuple[int, int], photograph: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Normal noise for a part of a photograph: (height, width, 3), mean 0, standard deviation 1.

    size, photograph: (width, height) px of the part and of the whole. If the photograph is larger than SMALL_SIDE_PX,
    each grain covers several pixels."""
    width, height = _small_size(size, photograph)
    grains = rng.standard_normal((height, width, 3), dtype=np.float32)
    rows, columns = (np.arange(n) * small // n for n, small in ((size[1], height), (size[0], width)))
    return grains[rows[:, None], columns]


def _small_size(size: tuple[int, int], photograph: tuple[int, int]) -> tuple[int, int]:
    """(width, height) px of this part of the photograph once that is reduced to SMALL_SIDE_PX; never enlarged."""
    shrink = min(1.0, SMALL_SIDE_PX / min(photograph))
    return max(1, round(shrink * size[0])), max(1, round(shrink * size[1]))


def _photograph(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


DAMAGE = {
    "blur": _blur, "noise": _noise, "jpeg": _jpeg, "darkness": _darkness, "grey": _grey, "occlusion": _occlusion,
}  # fmt: skip
