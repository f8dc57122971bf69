"""One photograph: read, checked, freed of metadata without touching its pixels, and described.

The published bytes are the file's own without EXIF, GPS, XMP, IPTC, comments, thumbnails, colour profiles, whatever
follows the end of the image, and room for anything but pixels (spare_bytes.py). Pixels are encoded anew only if they
would be misread otherwise: an EXIF orientation is applied, colours that are not sRGB become sRGB (colour_profiles.py),
16-bit grey is scaled to 8 bits, transparency is laid on white, CMYK becomes RGB, and formats that cannot be cleaned
byte by byte (image_files.py) become PNG. A damaged file is refused, above all a JPEG or PNG whose missing rows a
decoder would fill with grey or black. A JPEG with an untidy end that holds all of its blocks is accepted.
"""

import hashlib
import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from imaging import colour_profiles
from imaging.image_files import (
    JPEG_DAMAGE,
    JPEG_START,
    NO_END,
    PNG_START,
    PhotographError,
    less_surplus,
    strip_metadata,
)
from imaging.spare_bytes import without_spare_bytes

MIN_SIDE_PX = 32
MAX_ASPECT = 8  # longer side / shorter side
MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000
DARK_BITS = 12  # 16-bit samples that use no more bits are nearly black in 8 bits
GREY_TOLERANCE = 6  # largest difference between colour channels, of 255, that JPEG leaves in a colourless picture
EXTENSIONS = {  # extension -> true format; no others are tried, since Pillow runs programs for some
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".avif": "AVIF", ".jp2": "JPEG2000",
}  # fmt: skip
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
FORMATS = (*dict.fromkeys(EXTENSIONS.values()), "MPO")
CONVERTED_QUALITY = 95  # of a JPEG whose colours were converted, without subsampling
JPEG_EXTRA = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")


@dataclass(slots=True)
class Photograph:
    """What is published of one photograph, apart from its bytes; width and height in px, after orientation."""

    sha256: str  # of the published bytes
    pixels_sha256: str  # of the RGB pixels, equal for two files that show exactly the same
    extension: str  # of the published bytes, with the dot
    width: int
    height: int
    is_grayscale: bool
    rewritten: bool  # published bytes are encoded anew, not the file's own less metadata
    notes: tuple[str, ...]


def read(path: Path) -> tuple[Photograph, bytes, Image.Image]:
    """The photograph, its publishable bytes, and its decoded image (mode L or RGB).

    Raises PhotographError if it is missing, damaged, not a still photograph, or of an unusable size."""
    file_bytes = _file_bytes(path)
    notes = []
    true_format, orientation, colours = _judge_header(file_bytes, notes)
    named = EXTENSIONS.get(path.suffix.lower())
    if named is None:
        ending = next(ending for ending, kind in EXTENSIONS.items() if kind == true_format)
        reason = f"{f'ends in {path.suffix}' if path.suffix else 'has no ending'}, but holds {true_format}"
        raise PhotographError(reason, f"rename it to {path.with_suffix(ending).name}")
    if named != true_format:
        notes.append(f"is named {path.suffix} but holds {true_format}")
    published = strip_metadata(file_bytes, notes)
    image = _decode(file_bytes if published is None else published, notes)
    bits = _significant_bits(image, file_bytes, notes)
    to_srgb = _conversion(colours, image.mode, notes)
    if published is None or orientation > 1 or to_srgb or _is_misread(image):
        image = _upright_and_plain(image, orientation, bits, to_srgb)
        published = _encode(image, file_bytes if true_format == "JPEG" else None, same_colours=to_srgb is None)
        published, rewritten = _tight(published, image), True
    else:
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        tight = _tight(published, image)
        rewritten, published = tight != published, tight
    rgb = image.convert("RGB")
    photograph = Photograph(
        sha256=hashlib.sha256(published).hexdigest(),
        pixels_sha256=hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest(),
        extension=".jpg" if published.startswith(JPEG_START) else ".png",
        width=image.width,
        height=image.height,
        is_grayscale=is_grayscale(rgb),
        rewritten=rewritten,
        notes=tuple(notes),
    )
    return photograph, published, image


def _tight(published: bytes, image: Image.Image) -> bytes:
    """The publishable bytes without room for anything but pixels; a PNG of these if a JPEG is of an unusual kind."""
    try:
        return without_spare_bytes(published)
    except PhotographError:
        return _encode(image, source_jpeg=None, same_colours=True)


def _file_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size == 0:
            raise PhotographError("is empty", "copy the file again or delete the row")
        if size > MAX_BYTES:
            raise PhotographError(f"has more than {MAX_BYTES // 10**6} MB", "save it smaller")
        return path.read_bytes()
    except OSError as error:
        raise PhotographError(f"cannot be read ({error.strerror})", "check the file's permissions") from error


def _judge_header(file_bytes: bytes, notes: list[str]) -> tuple[str, int, tuple[str, bytes] | None]:
    """True format, EXIF orientation (1..8) and colours (name, ICC profile), judged before a pixel is decoded."""
    is_png = file_bytes.startswith(PNG_START)
    try:
        header = Image.open(
            io.BytesIO(colour_profiles.without_png_colours(file_bytes) if is_png else file_bytes), formats=FORMATS
        )
    except Image.DecompressionBombError as error:
        raise _bomb() from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds over damaged headers
        raise PhotographError(f"is not a readable image: {_kind(file_bytes)}", "export it as JPEG or PNG") from error
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise _bomb()
    if min(width, height) < MIN_SIDE_PX:
        raise PhotographError(
            f"is {width} x {height} px, less than {MIN_SIDE_PX} px a side", "supply the photograph in full size"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PhotographError(f"is {width} x {height} px, a strip", "supply the whole photograph")
    true_format = "JPEG" if header.format == "MPO" else header.format
    try:
        frames = 1 if true_format == "JPEG" else getattr(header, "n_frames", 1)
    except Exception as error:
        raise PhotographError(f"is a damaged {true_format} file", "copy or export it again") from error
    if frames > 1:
        raise PhotographError(f"is animated or has {frames} pages", "save the one picture wanted")
    orientation = 1 if true_format == "TIFF" else _orientation(header, notes)  # Pillow turns a TIFF itself
    try:
        return true_format, orientation, colour_profiles.declared(header, file_bytes)
    except colour_profiles.ProfileError as error:
        notes.append(f"has colours that {error}; they are taken as sRGB")
        return true_format, orientation, None


def conversion(opened: Image.Image, file_bytes: bytes) -> ImageCms.ImageCmsTransform | None:
    """What converts a published photograph's colours to sRGB, if an earlier version published it with a profile."""
    try:
        return _conversion(colour_profiles.declared(opened, file_bytes), opened.mode, [])
    except colour_profiles.ProfileError:
        return None


def _conversion(colours: tuple[str, bytes] | None, mode: str, notes: list[str]) -> ImageCms.ImageCmsTransform | None:
    """What converts the photograph's colours to sRGB; None if they are sRGB already, or their profile is unusable."""
    try:
        converted = colours and colour_profiles.to_srgb(*colours, mode)
    except colour_profiles.ProfileError as error:
        notes.append(f"has colours that {error}; they are taken as sRGB")
        return None
    if not converted:
        return None
    name, transform = converted
    notes.append(f"was converted to sRGB from {name}")
    return transform


def _bomb() -> PhotographError:
    return PhotographError(
        f"declares more than {MAX_PIXELS // 10**6} million pixels (a decompression bomb?)", "save it smaller"
    )


def _kind(file_bytes: bytes) -> str:
    """What unreadable bytes look like, in words that repeat none of them."""
    if file_bytes[4:8] == b"ftyp" and file_bytes[8:12] in HEIC_BRANDS:
        return "its content is HEIC"
    if file_bytes.startswith(b"%PDF"):
        return "its content is PDF"
    if file_bytes.startswith((JPEG_START, PNG_START, b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")):
        return "it is damaged or truncated"
    sample = file_bytes[:512]
    is_text = all(byte in b"\t\n\r" or byte >= 32 for byte in sample)
    return "its content is text" if is_text else "its content is no image format that is known here"


def _orientation(header: Image.Image, notes: list[str]) -> int:
    """EXIF orientation 1..8; unreadable EXIF counts as upright, with a note."""
    exif = header.info.get("exif")
    try:
        if exif:
            _check_exif(exif)
        orientation = header.getexif().get(0x0112, 1)
    except Exception:  # a camera maker's garbage may cause any error, and is dropped anyway
        notes.append("has corrupt EXIF; it is taken as upright")
        return 1
    if orientation not in range(1, 9):
        if orientation:  # 0 is what some cameras write for unknown
            notes.append("has corrupt EXIF; it is taken as upright")
        return 1
    return orientation


def _check_exif(exif: bytes) -> None:
    """Raise if the first directory of an EXIF block does not hold together (TIFF 6.0, section 2)."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, offset)
    if offset + 2 + 12 * entries > len(tiff):
        raise ValueError("truncated EXIF directory")


def _decode(file_bytes: bytes, notes: list[str]) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(file_bytes), formats=FORMATS)
        if image.format == "JPEG":
            image = _decode_jpeg(image, file_bytes, notes)
        image.load()
    except Exception as error:  # as above; LOAD_TRUNCATED_IMAGES stays off, so a cut file is an error
        raise PhotographError("is damaged or truncated", "copy or export it again") from error
    return image


def _decode_jpeg(opened: Image.Image, file_bytes: bytes, notes: list[str]) -> Image.Image:
    """The picture with the pixels that Pillow gives, but with libjpeg's warnings heeded, which Pillow ignores.

    libjpeg warns of missing blocks, which a decoder fills with grey, but stops at its first warning. So surplus bytes
    at the end of a scan are taken away until it warns of nothing. Raises ValueError if blocks are missing."""
    colours, surplus = {"L": "GRAY", "RGB": "RGB"}.get(opened.mode, "CMYK"), 0
    while True:
        try:
            pixels = simplejpeg.decode_jpeg(file_bytes, colours, strict=True)
            break
        except ValueError as error:
            extra = JPEG_EXTRA.search(str(error))
            if extra is None and not JPEG_DAMAGE.search(str(error)):
                return opened  # a kind of JPEG that only Pillow reads
            shorter = less_surplus(file_bytes, int(extra[1]), int(extra[2], 16), colours) if extra else None
            if shorter is None:
                raise
            surplus += len(file_bytes) - len(shorter)
            file_bytes = shorter
    if surplus and NO_END in notes:  # then blocks may have been read from what is no picture
        raise ValueError("blocks may be missing before the surplus bytes")
    if surplus:
        notes.append(f"holds {surplus} surplus bytes after its last block; the picture is whole")
    if colours == "CMYK":
        return opened
    image = Image.fromarray(pixels if colours == "RGB" else pixels[..., 0])
    image.info = opened.info
    return image


def _significant_bits(image: Image.Image, file_bytes: bytes, notes: list[str]) -> int:
    """How many bits hold 16-bit grey: those of a PNG's sBIT chunk if no value needs more, else 16."""
    is_png = file_bytes.startswith(PNG_START)
    # Of 16-bit colour Pillow keeps the high bytes.
    deep_colour = is_png and file_bytes[24] == 16 and not image.mode.startswith("I")
    if not (image.mode.startswith("I;16") or deep_colour):
        return 16
    brightest = image.convert("RGB").getextrema() if deep_colour else ((0, int(np.asarray(image).max())),)
    used = max(high for _, high in brightest).bit_length() + (8 if deep_colour else 0)
    at = file_bytes.find(b"sBIT", 0, file_bytes.find(b"IDAT")) if is_png and not deep_colour else -1
    if at > 0 and max(used, 1) <= file_bytes[at + 4] <= 16:
        return file_bytes[at + 4]
    if used <= DARK_BITS:
        notes.append(f"is dark, since its values use only {used} of 16 bits")
    return 16


def _is_misread(image: Image.Image) -> bool:
    """Whether `convert("RGB")`, which every reader of a dataset applies, would not show the photograph."""
    return image.mode not in ("1", "L", "P", "RGB", "LA", "RGBA", "PA") or _is_transparent(image)


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A").getextrema()[0] < 255
    return False


def _upright_and_plain(
    image: Image.Image, orientation: int, bits: int, to_srgb: ImageCms.ImageCmsTransform | None
) -> Image.Image:
    """The photograph as a viewer shows it: upright, 8-bit L or RGB in sRGB, without transparency.

    bits: how many hold the values of 16-bit grey; to_srgb: converts the colours that the photograph declares."""
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image, bits)
    alpha = image.convert("RGBA").getchannel("A") if _is_transparent(image) else None
    if image.mode == "LAB":
        image = colour_profiles.lab_to_srgb().apply(image)
    elif to_srgb:
        image = image.convert(to_srgb.input_mode)
        grey = image.mode == "L"
        image = to_srgb.apply(image)
        image = image.getchannel("G") if grey else image
    elif image.mode in ("1", "L", "LA", "La"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    if alpha is not None:
        rgba = image.convert("RGBA")
        rgba.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)  # fmt: skip
    return image if turn is None else image.transpose(turn)


def _scale_to_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """The range of so many bits scaled to 0..255 (Pillow's own conversion clips at 255)."""
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise PhotographError(f"holds {image.mode} samples of unknown range", "save it with 8 bits a channel")
    if image.mode == "I" and grey.max() <= 255:
        return Image.fromarray(grey.astype(np.uint8))
    most = 2**bits - 1
    return Image.fromarray(((grey.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8))


def _encode(image: Image.Image, source_jpeg: bytes | None, same_colours: bool) -> bytes:
    """PNG, without loss; or JPEG, if the source is one and encoding it gives back the same picture.

    same_colours: whether the colours are the source's. Then they fall onto the steps of its quantisation, which is used
    again. Colours that were converted fall between those steps, and are kept by finer ones instead."""
    image = image.copy()
    image.info = {}  # what Pillow would write into the file
    if source_jpeg is not None:
        source = Image.open(io.BytesIO(source_jpeg), formats=FORMATS)
        if source.mode in ("L", "RGB"):
            buffer = io.BytesIO()
            sampling = JpegImagePlugin.get_sampling(source)
            sampling = sampling if sampling in (0, 2) else 0  # 4:2:2 turned by 90 degrees has no name in Pillow
            kept = {"qtables": source.quantization, "subsampling": sampling}
            options = kept if same_colours else {"quality": CONVERTED_QUALITY, "subsampling": 0}
            image.save(buffer, "JPEG", icc_profile=None, **options)
            back = np.asarray(Image.open(buffer), dtype=np.int16)
            if np.abs(back - np.asarray(image, dtype=np.int16)).mean() < 3:
                return buffer.getvalue()
    buffer = io.BytesIO()
    image.save(buffer, "PNG", icc_profile=None)
    assert ImageOps.exif_transpose(Image.open(buffer)).tobytes() == image.tobytes(), "PNG must give back its pixels"
    return buffer.getvalue()


def is_grayscale(image: Image.Image) -> bool:
    """Whether an RGB photograph has no colour: in 99 % of the pixels the channels differ by at most GREY_TOLERANCE.

    The photograph is reduced to about 64 px first, so that JPEG noise averages out. In a sepia print the channels
    differ by 15 of 255 and more, so that it is not grey."""
    small = np.asarray(image.reduce(max(1, min(image.size) // 64)), dtype=np.int16)  # (h, w, 3)
    return bool(np.percentile(small.max(axis=-1) - small.min(axis=-1), 99) <= GREY_TOLERANCE)
