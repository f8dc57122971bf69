"""The colours that a photograph declares, and their conversion to sRGB.

Hardly any reader of a dataset applies a colour profile, so published pixels are sRGB and carry none. The conversion is
relative colorimetric with black point compensation: colours that both spaces have stay as they are, and shadows keep
their detail. (Perceptual tables would change every colour, each maker's in another way; for profiles without tables
both intents give the same.)
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageCms

SAME_LEVELS = 2  # of 255: a profile that changes no colour of a grid by more is sRGB, whatever its name
MAX_PROFILE_BYTES = 16_000_000
GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and I;16 in its varieties
PNG_COLOURS = (b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP")  # chunks that say what the numbers mean

D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)  # CIE 1931 x, y of white
SRGB_PRIMARIES = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
ADOBE_RGB = ("Adobe RGB", ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65, 563 / 256)  # its specification, 2005
Chromaticity = Sequence[float]  # x, y (CIE 1931)
Primaries = Sequence[Chromaticity]  # of red, green and blue

CICP_PRIMARIES = {  # code of ITU-T H.273, table 2 -> name, primaries
    1: ("sRGB", SRGB_PRIMARIES),
    9: ("BT.2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))),
    12: ("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))),
}
# Code of its table 3 -> exponent; None: the curve of sRGB, which viewers also use for BT.709 and its relatives.
CICP_CURVES = {1: None, 4: 2.2, 5: 2.8, 6: None, 8: 1.0, 13: None, 14: None, 15: None}


class ProfileError(ValueError):
    """A profile that cannot be used; the message says why and continues the words "has colours that"."""


def declared(opened: Image.Image, file_bytes: bytes) -> tuple[str, bytes] | None:
    """Name and ICC profile of the colours that a photograph declares; None if it declares none, or names sRGB.

    opened: the photograph, its pixels not yet read. Raises ProfileError for a damaged declaration."""
    grey = _is_grey(opened.mode)
    if opened.format == "PNG":
        return _declared_by_png(file_bytes, grey)
    if opened.info.get("icc_profile"):
        return "", opened.info["icc_profile"]
    if "icc_profile" in opened.info:  # Pillow did not find all its parts
        raise ProfileError("are given by an incomplete profile")
    if opened.format == "AVIF" and (at := file_bytes.find(b"colrnclx", 0, 1 << 16)) > 0:
        return _coded(*struct.unpack_from(">HH", file_bytes, at + 8), grey)
    if opened.format in ("JPEG", "MPO") and not grey and _is_adobe_by_exif(opened):
        name, *colours = ADOBE_RGB
        return name, made_profile(*colours)
    return None


def to_srgb(name: str, profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Name of the colours, and the transform from L, RGB or CMYK pixels to RGB pixels in sRGB; None if they are sRGB.

    mode: of the decoded image. Raises ProfileError if the profile is damaged, or for another kind of pixels."""
    channels = "L" if _is_grey(mode) else mode if mode == "CMYK" else "RGB"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = name or _printable(opened.profile.profile_description or "another profile")
        space = opened.profile.xcolor_space.strip()
        if space != {"L": "GRAY"}.get(channels, channels):
            raise ProfileError(f"are given by a profile for {space} pixels")
        transform = _transform(opened, channels)
        if channels != "CMYK":
            grid = _grid(channels)
            converted = np.asarray(transform.apply(grid), dtype=np.int16)
            if np.abs(converted - np.asarray(grid.convert("RGB"), dtype=np.int16)).max() <= SAME_LEVELS:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:  # what Pillow and Little CMS raise
        if isinstance(error, ProfileError):
            raise
        raise ProfileError("are given by a damaged profile") from error
    return name, transform


def lab_to_srgb() -> ImageCms.ImageCmsTransform:
    """The transform of pixels in CIELAB, which Pillow cannot convert by itself."""
    return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _transform(profile: ImageCms.ImageCmsProfile, channels: str) -> ImageCms.ImageCmsTransform:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    relative, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.ImageCmsTransform(profile, srgb, channels, "RGB", relative, flags=flags)


@cache
def _grid(channels: str) -> Image.Image:
    """All 256 greys (L), or 17 x 17 x 17 colours (RGB)."""
    if channels == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(17, 289, 3))


def _is_grey(mode: str) -> bool:
    return mode in GREY_MODES or mode.startswith("I;16")


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).strip()[:40]


def _is_adobe_by_exif(opened: Image.Image) -> bool:
    """Whether EXIF's interoperability index names Adobe RGB, as cameras do that write no profile (DCF 2.0)."""
    try:
        return opened.getexif().get_ifd(0xA005).get(1) == "R03"
    except Exception:  # a camera maker's garbage may cause any error
        return False


# ---- PNG


def png_chunks(file_bytes: bytes) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Kind, content, start and end of each chunk before the pixels; stops early if the file does."""
    at = 8
    while at + 12 <= len(file_bytes) and file_bytes[at + 4 : at + 8] not in (b"IDAT", b"IEND"):
        end = at + 12 + int.from_bytes(file_bytes[at : at + 4], "big")
        if end > len(file_bytes):
            return
        yield file_bytes[at + 4 : at + 8], file_bytes[at + 8 : end - 4], at, end
        at = end


def without_png_colours(file_bytes: bytes) -> bytes:
    """The file without the chunks that declare colours: if one of them is damaged, Pillow would refuse the file."""
    cuts = [(start, end) for kind, _, start, end in png_chunks(file_bytes) if kind in PNG_COLOURS]
    for start, end in reversed(cuts):
        file_bytes = file_bytes[:start] + file_bytes[end:]
    return file_bytes


def _declared_by_png(file_bytes: bytes, grey: bool) -> tuple[str, bytes] | None:
    """As `declared`: from cICP, iCCP, sRGB, or gAMA and cHRM, in this order (PNG specification, third edition)."""
    chunks = {}
    for kind, content, _, end in png_chunks(file_bytes):
        if kind in PNG_COLOURS:
            chunks[kind] = content
            if zlib.crc32(kind + content) != int.from_bytes(file_bytes[end - 4 : end], "big"):
                raise ProfileError(f"are given by a damaged {kind.decode()} chunk")
    if len(chunks.get(b"cICP", b"")) == 4:
        return _coded(*chunks[b"cICP"][:2], grey)
    if b"iCCP" in chunks:
        try:
            packed = chunks[b"iCCP"].partition(b"\0")[2][1:]
            return "", zlib.decompressobj().decompress(packed, MAX_PROFILE_BYTES)
        except zlib.error as error:
            raise ProfileError("are given by a damaged profile") from error
    if b"sRGB" in chunks or not {b"gAMA", b"cHRM"} & set(chunks):
        return None
    try:
        gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000 if b"gAMA" in chunks else 1 / 2.2
        chromaticities = (
            [value / 100_000 for value in struct.unpack(">8I", chunks[b"cHRM"])] if b"cHRM" in chunks else []
        )
        exponent = 1 / gamma
    except (struct.error, ZeroDivisionError) as error:
        raise ProfileError("are given by a damaged gAMA or cHRM chunk") from error
    white, *primaries = (
        zip(chromaticities[::2], chromaticities[1::2], strict=True) if chromaticities else (D65, *SRGB_PRIMARIES)
    )
    # Programs that mean sRGB write 1/2.2, though its curve is no power.
    return "its gAMA and cHRM chunks", made_profile(
        primaries, white, None if abs(exponent - 2.2) < 0.01 else exponent, grey
    )


def _coded(primaries: int, curve: int, grey: bool) -> tuple[str, bytes] | None:
    """As `declared`: from the codes of ITU-T H.273, which PNG and AVIF use; 2 means not specified."""
    if 2 in (primaries, curve):
        return None
    if curve not in CICP_CURVES:
        raise ProfileError("are of high dynamic range, or of an unknown curve")
    name, colours = CICP_PRIMARIES.get(primaries, (None, None))
    if name is None:
        if primaries in (5, 6, 7):  # of television, so close to sRGB's that viewers show them as sRGB
            return None
        raise ProfileError(f"have unknown primaries ({primaries})")
    return name, made_profile(colours, D65, CICP_CURVES[curve], grey)


# ---- a profile from primaries and a curve (ICC.1:2022)


def made_profile(primaries: Primaries, white: Chromaticity, exponent: float | None, grey: bool = False) -> bytes:
    """An ICC profile, version 4. primaries: x, y (CIE 1931) of red, green and blue; white: its x, y; exponent: of the
    curve from numbers to light, None for the curve of sRGB; grey: for grey pixels, which need only the curve.

    Raises ProfileError if no colours have these values."""
    if exponent is not None and not 0.1 <= exponent <= 10:
        raise ProfileError(f"have an impossible gamma (1/{exponent:.4g})")
    kind, numbers = (0, [exponent]) if exponent else (3, [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    curve = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(numbers)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(_xyz(D50))}
    if grey:
        tags[b"kTRC"] = curve
    else:
        columns = _adapted(primaries, white).T
        tags |= {
            name: b"XYZ \0\0\0\0" + _fixed(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
        }
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, content, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", at + len(content), len(body))
        content += body + bytes(-len(body) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s", at + len(content), 0x04200000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ ", b"acsp"
    )
    header += bytes(68 - len(header)) + _fixed(_xyz(D50))
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + content


def _adapted(primaries: Primaries, white: Chromaticity) -> np.ndarray:
    """The matrix (3, 3) from linear RGB to XYZ under D50, adapted by the Bradford transform (ICC.1:2022, annex E)."""
    try:
        xyz = np.stack([_xyz(xy) for xy in primaries], axis=1)
        matrix = xyz * np.linalg.solve(xyz, _xyz(white))
    except (np.linalg.LinAlgError, ZeroDivisionError) as error:
        raise ProfileError("have impossible primaries") from error
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gain = (bradford @ _xyz(D50)) / (bradford @ _xyz(white))
    adapted = np.linalg.inv(bradford) @ np.diag(gain) @ bradford @ matrix
    if not (np.isfinite(adapted).all() and np.abs(adapted).max() < 10):
        raise ProfileError("have impossible primaries")
    return adapted


def _xyz(xy: Chromaticity) -> np.ndarray:
    x, y = map(float, xy)
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(numbers: Iterable[float]) -> bytes:
    """The numbers as ICC profiles store them, in type s15Fixed16Number."""
    return b"".join(struct.pack(">i", round(float(number) * 65536)) for number in numbers)
