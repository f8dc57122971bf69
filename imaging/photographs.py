"""One photograph: read, checked, freed of metadata without touching its pixels, and described.

Published bytes are the file's own, less EXIF, GPS, XMP, IPTC, comments, thumbnails, colour profiles and whatever
follows the end of the image. Pixels are encoded anew only where they would be misread otherwise: an EXIF orientation is
applied, colours that are not sRGB become sRGB (colour_profiles.py), 16-bit grey is scaled to 8 bits, transparency is
laid on white, CMYK becomes RGB, and formats that cannot be cleaned byte by byte become PNG. Nothing damaged passes: no
JPEG or PNG whose missing rows a decoder would fill with grey or black. A JPEG that ends untidily, but holds its every
block, does.
"""

import hashlib
import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from imaging import colour_profiles

MIN_SIDE_PX = 32
MAX_ASPECT = 8  # longer side over shorter side
MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000
MAX_PADDING_BYTES = 64  # after a JPEG's last block, or between its segments; more are blocks that were not decoded
DARK_BITS = 12  # 16-bit samples that use no more are nearly black in 8 bits
GREY_TOLERANCE = 6  # largest difference between colour channels, of 255, that JPEG leaves in a colourless picture
EXTENSIONS = {  # extension -> true format; also the only formats Pillow is let to try, since some others run programs
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".avif": "AVIF", ".jp2": "JPEG2000",
}  # fmt: skip
FORMATS = (*dict.fromkeys(EXTENSIONS.values()), "MPO")
JPEG_KEPT = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD} - {0xC8}  # frame, scan, Huffman, quantisation, restart
PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT"}
CONVERTED_QUALITY = 95  # of a JPEG whose colours changed, without subsampling
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples a pixel
JPEG_DAMAGE = re.compile("premature end|bad (huffman|arithmetic) code|found marker", re.IGNORECASE)  # libjpeg's words
NO_END = "has no end-of-image marker; the picture is whole"
JPEG_EXTRA = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class PhotographError(ValueError):
    """The photograph cannot be used: `reason` (said of the file: "is empty"), and `remedy` for the curator."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


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
    data = _file_bytes(path)
    notes = []
    true_format, orientation, colours = _judge_header(data, notes)
    named = EXTENSIONS.get(path.suffix.lower())
    if named is None:
        raise PhotographError("has no image extension", f"rename it to end in one of {' '.join(EXTENSIONS)}")
    if named != true_format:
        notes.append(f"is named {path.suffix} but holds {true_format}")
    published = _cleaned(data, notes)
    image = _decode(data if published is None else published, notes)
    bits = _significant_bits(image, data, notes)
    to_srgb = _conversion(colours, image.mode, notes)
    if published is None or orientation > 1 or to_srgb or _is_misread(image):
        image = _upright_and_plain(image, orientation, bits, to_srgb)
        published = _encode(image, data if true_format == "JPEG" else None, same_colours=to_srgb is None)
        rewritten = True
    else:
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        rewritten = False
    rgb = image.convert("RGB")
    photograph = Photograph(
        sha256=hashlib.sha256(published).hexdigest(),
        pixels_sha256=hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest(),
        extension=".jpg" if published[:2] == b"\xff\xd8" else ".png",
        width=image.width,
        height=image.height,
        is_grayscale=is_grayscale(rgb),
        rewritten=rewritten,
        notes=tuple(notes),
    )
    return photograph, published, image


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


def _judge_header(data: bytes, notes: list[str]) -> tuple[str, int, tuple[str, bytes] | None]:
    """True format, EXIF orientation (1..8), and the profile with its name, judged before a pixel is decoded."""
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n"
    try:
        header = Image.open(io.BytesIO(colour_profiles.without_png_colours(data) if is_png else data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _bomb() from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds over damaged headers
        raise PhotographError(f"is not a readable image: {_kind(data)}", "export it as JPEG or PNG") from error
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
        return true_format, orientation, colour_profiles.declared(header, data)
    except colour_profiles.ProfileError as error:
        notes.append(f"has colours that {error}; they are taken as sRGB")
        return true_format, orientation, None


def conversion(opened: Image.Image, data: bytes) -> ImageCms.ImageCmsTransform | None:
    """What takes the colours of a photograph to sRGB that was published with a profile, as earlier versions did."""
    try:
        return _conversion(colour_profiles.declared(opened, data), opened.mode, [])
    except colour_profiles.ProfileError:
        return None


def _conversion(colours: tuple[str, bytes] | None, mode: str, notes: list[str]) -> ImageCms.ImageCmsTransform | None:
    """What takes the photograph's colours to sRGB; None where they are that already, or their profile is of no use."""
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


def _kind(data: bytes) -> str:
    """What unreadable bytes look like, in words; never their content."""
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "its content is HEIC"
    if data.startswith((b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")):
        return "it is damaged or truncated"
    sample = data[:512]
    is_text = all(byte in b"\t\n\r" or byte >= 32 for byte in sample)
    return "its content is text" if is_text else "its content is of no image format known here"


def _orientation(header: Image.Image, notes: list[str]) -> int:
    """EXIF orientation 1..8; unreadable EXIF counts as upright, with a note."""
    exif = header.info.get("exif")
    try:
        if exif:
            _check_exif(exif)
        orientation = header.getexif().get(0x0112, 1)
    except Exception:  # a maker's garbage may end in any error, and is dropped anyway
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


def _decode(data: bytes, notes: list[str]) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.format == "JPEG":
            image = _decode_jpeg(image, data, notes)
        image.load()
    except Exception as error:  # as above; LOAD_TRUNCATED_IMAGES stays off, so a cut file is an error
        raise PhotographError("is damaged or truncated", "copy or export it again") from error
    return image


def _decode_jpeg(opened: Image.Image, data: bytes, notes: list[str]) -> Image.Image:
    """Decoded with libjpeg's warnings heeded, which Pillow passes over; the pixels are those that Pillow gives.

    Surplus bytes at the end of a scan are taken away until libjpeg warns of nothing: it says where blocks are missing,
    which a decoder fills with grey, but stops at its first warning. Raises ValueError where blocks are missing."""
    colours, surplus = {"L": "GRAY", "RGB": "RGB"}.get(opened.mode, "CMYK"), 0
    while True:
        try:
            pixels = simplejpeg.decode_jpeg(data, colours, strict=True)
            break
        except ValueError as error:
            extra = JPEG_EXTRA.search(str(error))
            if extra is None and not JPEG_DAMAGE.search(str(error)):
                return opened  # a kind that only Pillow reads
            shorter = _less_surplus(data, int(extra[1]), int(extra[2], 16), colours) if extra else None
            if shorter is None:
                raise
            surplus += len(data) - len(shorter)
            data = shorter
    if surplus and NO_END in notes:  # then blocks may have been read from what is no picture
        raise ValueError("no block may end before the file")
    if surplus:
        notes.append(f"holds {surplus} surplus bytes after its last block; the picture is whole")
    if colours == "CMYK":
        return opened
    image = Image.fromarray(pixels if colours == "RGB" else pixels[..., 0])
    image.info = opened.info
    return image


def _less_surplus(data: bytes, count: int, marker: int, colours: str) -> bytes | None:
    """The JPEG less the `count` bytes before one of its markers that no block needed; None if these are no filling.

    Zeros are what a copy that was broken off leaves, and decode as blocks that cost next to nothing: where the surplus
    is zeros, however many, no block may need a single one of them."""
    for end in _scan_ends(data):
        if data[end + 1] != marker:
            continue
        zeros = end - len(data[:end].rstrip(b"\0"))
        cut = zeros if zeros >= count else count if count <= MAX_PADDING_BYTES else 0
        shorter = data[: end - cut] + data[end:]
        try:
            simplejpeg.decode_jpeg(shorter, colours, strict=True)
        except ValueError as error:
            if cut == 0 or JPEG_DAMAGE.search(str(error)):
                continue
        return shorter
    return None


def _scan_ends(jpeg: bytes) -> list[int]:
    """Where the entropy-coded data of each scan of a JPEG end, which strip_metadata made."""
    ends, at = [], 2
    while jpeg[at + 1] != 0xD9:
        is_scan = jpeg[at + 1] == 0xDA
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if is_scan:
            at = _end_of_scan(jpeg, at)
            ends.append(at)
        while jpeg[at : at + 2] == b"\xff\xff":
            at += 1
    return ends


def _significant_bits(image: Image.Image, data: bytes, notes: list[str]) -> int:
    """How many bits hold 16-bit grey: those of a PNG's sBIT chunk where all values keep within them, else 16."""
    is_png = data[:4] == b"\x89PNG"
    deep_colour = is_png and data[24] == 16 and not image.mode.startswith("I")  # of which Pillow keeps the high bytes
    if not (image.mode.startswith("I;16") or deep_colour):
        return 16
    brightest = image.convert("RGB").getextrema() if deep_colour else ((0, int(np.asarray(image).max())),)
    used = max(high for _, high in brightest).bit_length() + (8 if deep_colour else 0)
    at = data.find(b"sBIT", 0, data.find(b"IDAT")) if is_png and not deep_colour else -1
    if at > 0 and max(used, 1) <= data[at + 4] <= 16:
        return data[at + 4]
    if used <= DARK_BITS:
        notes.append(f"is dark, since its values use only {used} of 16 bits")
    return 16


def _is_misread(image: Image.Image) -> bool:
    """Whether `convert("RGB")`, which every consumer applies, would show something else than the photograph."""
    return image.mode not in ("1", "L", "P", "RGB", "LA", "RGBA", "PA") or _is_transparent(image)


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A").getextrema()[0] < 255
    return False


def _upright_and_plain(
    image: Image.Image, orientation: int, bits: int, to_srgb: ImageCms.ImageCmsTransform | None
) -> Image.Image:
    """8-bit L or RGB in sRGB without transparency, as a viewer shows it; bits: of 16-bit grey, those that hold its
    values; to_srgb: from the colours that the photograph declares."""
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
    """The whole range of so many bits onto 0..255 (Pillow's own conversion clips at 255)."""
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise PhotographError(f"holds {image.mode} samples of unknown range", "save it with 8 bits a channel")
    if image.mode == "I" and grey.max() <= 255:
        return Image.fromarray(grey.astype(np.uint8))
    most = 2**bits - 1
    return Image.fromarray(((grey.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8))


def _encode(image: Image.Image, source_jpeg: bytes | None, same_colours: bool) -> bytes:
    """PNG, without loss; or JPEG, where its source is one and it gives back the same picture.

    With the source's own quantisation where its colours are the same (same_colours), since these then fall back onto
    the source's steps. Colours that were converted fall between them, so that they are kept by fine steps instead."""
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
    """Whether an RGB photograph has no colour: in 99 % of a 64 px reduction, so that JPEG noise averages out, the
    channels differ by at most GREY_TOLERANCE of 255. A sepia print differs by 15 and more, and is not grey."""
    small = np.asarray(image.reduce(max(1, min(image.size) // 64)), dtype=np.int16)  # (h, w, 3)
    return bool(np.percentile(small.max(axis=-1) - small.min(axis=-1), 99) <= GREY_TOLERANCE)


def strip_metadata(data: bytes) -> bytes | None:
    """A JPEG's or PNG's bytes with only what decoding needs, pixels untouched; None for other formats.

    Raises PhotographError if the file's structure is damaged or it ends early."""
    return _cleaned(data, [])


def _cleaned(data: bytes, notes: list[str]) -> bytes | None:
    """As strip_metadata, with a note on what was put right."""
    if data[:2] == b"\xff\xd8":
        return _strip_jpeg(data, notes)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _strip_png(data)
    return None


def _strip_jpeg(data: bytes, notes: list[str]) -> bytes:
    """Segments up to the end-of-image marker (ITU-T T.81, annex B); JFIF without its thumbnail, Adobe.

    The marker is added where it is missing: whether all blocks are there is for the decoder to say. A file that ends
    between its scans is refused, since a decoder would show what it has, blurred or in false colours."""
    kept, at, scans = [data[:2]], 2, Scans()
    while True:
        stray = _stray_bytes(data, at)
        if stray:
            notes.append(f"holds {stray} stray bytes between its segments, which are left out")
            at += stray
        while data[at : at + 2] == b"\xff\xff":  # fill bytes before a marker
            at += 1
        marker = data[at + 1] if data[at : at + 1] == b"\xff" and at + 1 < len(data) else None
        if marker == 0xD9 or (scans.count and (at >= len(data) - 1 or marker == 0xD8)):  # or another picture begins
            if marker != 0xD9:
                notes.append(NO_END)
                kept[-1] = _without_filling(kept[-1])
            if not scans.are_complete():
                raise PhotographError("is a truncated JPEG, without its last scans", "copy or export it again")
            return b"".join([*kept, b"\xff\xd9"])
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body, after = data[at + 4 : at + 2 + length], at + 2 + length
        if marker is None or length < 2 or after > len(data):
            raise PhotographError("is a damaged or truncated JPEG", "copy or export it again")
        scans.add(marker, body)
        if marker == 0xDA:
            after = _end_of_scan(data, after)
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            kept.append(b"\xff\xe0\x00\x10" + body[:12] + b"\x00\x00")
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            kept.append(b"\xff\xee\x00\x0e" + body[:12])
        elif marker in JPEG_KEPT:
            kept.append(data[at:after])
        at = after


def _stray_bytes(data: bytes, at: int) -> int:
    """How many bytes before the next segment belong to none; 0 also where no segment follows soon, or a new picture."""
    if data[at : at + 1] == b"\xff":
        return 0
    for start in range(at, min(at + MAX_PADDING_BYTES + 1, len(data) - 1)):
        if data[start] == 0xFF and data[start + 1] not in (0x00, 0x01, 0xFF, *range(0xD0, 0xD9)):
            return start - at
    return 0


def _without_filling(scan: bytes) -> bytes:
    """A scan without the zeros or ones with which a disk fills the rest of a file that was cut, and half a marker."""
    scan = scan.rstrip(b"\xff")
    shorter = scan.rstrip(b"\0")
    if len(shorter) < len(scan) and shorter[-1:] == b"\xff" and shorter[-2:] != b"\xff\xff":
        return shorter + b"\0"  # a sample of the scan, stuffed
    return shorter.rstrip(b"\xff")


class Scans:
    """Which of a JPEG's coefficients its scans have brought so far, and how exactly."""

    def __init__(self):
        self.count = 0
        self.is_progressive = False
        self.missing_bits: dict[int, list[int]] = {}  # component -> of each coefficient; 99: it has not come at all

    def add(self, marker: int, body: bytes) -> None:
        """A frame or scan header (ITU-T T.81, B.2.2, B.2.3) less marker and length; other segments change nothing."""
        if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            self.is_progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            self.missing_bits = {component: [99] * 64 for component in body[6::3]}
        elif marker == 0xDA and body:
            self.count += 1
            first, last, bits = (*body[1 + 2 * body[0] :], 0, 0, 0)[:3]
            if not self.is_progressive:
                first, last, bits = 0, 63, 0
            for component in body[1 : 1 + 2 * body[0] : 2]:
                coefficients = self.missing_bits.get(component, [99] * 64)
                coefficients[first : last + 1] = [bits & 15] * len(coefficients[first : last + 1])

    def are_complete(self) -> bool:
        """Whether every coefficient of every component has come to its last bit, as encoders send them."""
        return not any(bits for coefficients in self.missing_bits.values() for bits in coefficients)


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the entropy-coded data that begin at `at` end: at a marker that is neither a stuffed zero nor a restart, or
    at the end of the file."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return len(data)
        if data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        elif data[at + 1] == 0xFF:
            at += 1
        else:
            return at


def _strip_png(data: bytes) -> bytes:
    """Critical and colour chunks, with their checksums verified, and all rows present (PNG specification, 2003)."""
    damaged = PhotographError("is a damaged or truncated PNG", "copy or export it again")
    kept, pixels, header, at = [data[:8]], [], b"", 8
    while True:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        after = at + 12 + length
        if len(kind) < 4 or after > len(data):
            raise damaged
        if kind in PNG_KEPT:
            if zlib.crc32(data[at + 4 : after - 4]) != int.from_bytes(data[after - 4 : after], "big"):
                raise damaged
            kept.append(data[at:after])
            header = data[at + 8 : after - 4] if kind == b"IHDR" else header
            if kind == b"IDAT":
                pixels.append(data[at + 8 : after - 4])
        if kind == b"IEND":
            break
        at = after
    if len(header) != 13 or _inflated_bytes(pixels) < _png_raw_bytes(header):
        raise damaged  # Pillow would fill the missing rows with black
    return b"".join(kept)


def _inflated_bytes(pieces: list[bytes]) -> int:
    """Length of a zlib stream's content, in bounded memory; 0 if it is damaged."""
    stream, total = zlib.decompressobj(), 0
    try:
        for piece in pieces:
            while piece and not stream.eof:
                total += len(stream.decompress(piece, 1 << 20))
                piece = stream.unconsumed_tail
        return total + len(stream.flush())
    except zlib.error:
        return 0


def _png_raw_bytes(header: bytes) -> int:
    """Bytes of a PNG's filtered rows, from its 13-byte IHDR."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for x0, y0, dx, dy in passes:
        columns, rows = (width - x0 + dx - 1) // dx, (height - y0 + dy - 1) // dy
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * PNG_CHANNELS.get(colour, 1) * depth + 7) // 8)
    return total
