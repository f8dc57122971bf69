"""JPEG and PNG files as bytes: freed of metadata without touching a pixel, and refused if a part is missing."""

import re
import struct
import zlib

import simplejpeg

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
MAX_RESOLUTION = 4800  # px per inch or centimetre that a JPEG may state
MAX_PADDING_BYTES = 64  # after a JPEG's last block, or between its segments; more are blocks that were not decoded
JPEG_KEPT = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD} - {0xC8}  # frame, scan, Huffman, quantisation, restart
PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT"}
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples per pixel
JPEG_DAMAGE = re.compile("premature end|bad (huffman|arithmetic) code|found marker", re.IGNORECASE)  # libjpeg's words
NO_END = "has no end-of-image marker; the picture is whole"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class PhotographError(ValueError):
    """The photograph cannot be used: `reason` continues the file's name ("is empty"), `remedy` is for the curator."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


def strip_metadata(file_bytes: bytes, notes: list[str] | None = None) -> bytes | None:
    """A JPEG's or PNG's bytes with only what decoding needs, pixels untouched; None for other formats.

    notes: a text is appended to them for everything that was put right. Raises PhotographError if the file's structure
    is damaged or it ends early."""
    if file_bytes.startswith(JPEG_START):
        return _strip_jpeg(file_bytes, [] if notes is None else notes)
    if file_bytes.startswith(PNG_START):
        return _strip_png(file_bytes)
    return None


# ---- JPEG


def _strip_jpeg(file_bytes: bytes, notes: list[str]) -> bytes:
    """The segments that decoding needs, up to the end-of-image marker (ITU-T T.81, annex B).

    JFIF is kept without its thumbnail, and Adobe without extensions. A missing end-of-image marker is added: only the
    decoder can say whether all blocks are there. A file that ends between its scans is refused, since a decoder would
    show what it has, blurred or in false colours."""
    kept, at, scans = [file_bytes[:2]], 2, Scans()
    heads: dict[int, int] = {}  # JFIF's and Adobe's marker -> place of the first segment: a second one says nothing
    while True:
        stray = _stray_bytes(file_bytes, at)
        if stray:
            notes.append(f"holds {stray} stray bytes between its segments, which are left out")
            at += stray
        while file_bytes[at : at + 2] == b"\xff\xff":  # fill bytes before a marker
            at += 1
        marker = file_bytes[at + 1] if file_bytes[at : at + 1] == b"\xff" and at + 1 < len(file_bytes) else None
        if marker == 0xD9 or (
            scans.count and (at >= len(file_bytes) - 1 or marker == 0xD8)
        ):  # or another picture begins
            if marker != 0xD9:
                notes.append(NO_END)
                kept[-1] = _without_filling(kept[-1])
            if not scans.are_complete():
                raise PhotographError("is a truncated JPEG, without its last scans", "copy or export it again")
            return b"".join([*kept, b"\xff\xd9"])
        length = int.from_bytes(file_bytes[at + 2 : at + 4], "big")
        body, after = file_bytes[at + 4 : at + 2 + length], at + 2 + length
        if marker is None or length < 2 or after > len(file_bytes):
            raise PhotographError("is a damaged or truncated JPEG", "copy or export it again")
        scans.add(marker, body)
        if marker == 0xDA:
            after = _end_of_scan(file_bytes, after)
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            heads.setdefault(marker, len(kept))
            kept += [b"\xff\xe0\x00\x10" + _jfif(body)] * (heads[marker] == len(kept))
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            heads.setdefault(marker, len(kept))
            kept += [b"\xff\xee\x00\x0e" + _adobe(body)] * (heads[marker] == len(kept))
        elif marker in JPEG_KEPT:
            kept.append(file_bytes[at:after])
        at = after


def _jfif(body: bytes) -> bytes:
    """JFIF's segment without thumbnail: version, and a resolution only if it is one (ITU-T T.871, 10.1)."""
    version, unit, (across, down) = body[5:7], body[7], struct.unpack(">HH", body[8:12])
    version = version if version in (b"\1\0", b"\1\1", b"\1\2") else b"\1\1"
    is_resolution = unit <= 2 and across == down <= MAX_RESOLUTION
    return b"JFIF\0" + version + (body[7:12] if is_resolution else b"\0\0\1\0\1") + b"\0\0"


def _adobe(body: bytes) -> bytes:
    """Adobe's segment: version and flags as its programs write them, and how colours are coded."""
    is_usual = body[5:7] in (b"\0\x64", b"\0\x65") and body[7] in (0, 0x40, 0x80, 0xC0) and not any(body[8:11])
    return b"Adobe" + (body[5:11] if is_usual else b"\0\x64\0\0\0\0") + body[11:12]


def _stray_bytes(file_bytes: bytes, at: int) -> int:
    """How many bytes before the next segment belong to none; 0 also if no segment of this picture follows soon."""
    if file_bytes[at : at + 1] == b"\xff":
        return 0
    for start in range(at, min(at + MAX_PADDING_BYTES + 1, len(file_bytes) - 1)):
        if file_bytes[start] == 0xFF and file_bytes[start + 1] not in (0x00, 0x01, 0xFF, *range(0xD0, 0xD9)):
            return start - at
    return 0


def _without_filling(scan: bytes) -> bytes:
    """A scan without the zeros or ones that a disk adds to a file that was cut, and without half a marker."""
    scan = scan.rstrip(b"\xff")
    shorter = scan.rstrip(b"\0")
    if len(shorter) < len(scan) and shorter[-1:] == b"\xff" and shorter[-2:] != b"\xff\xff":
        return shorter + b"\0"  # 0xFF 0x00 is a sample of the scan
    return shorter.rstrip(b"\xff")


class Scans:
    """Which coefficients of a JPEG its scans have brought so far, and how exactly."""

    def __init__(self):
        self.count = 0
        self.is_progressive = False
        self.missing_bits: dict[int, list[int]] = {}  # component -> bits per coefficient; 99: none of it has come

    def add(self, marker: int, body: bytes) -> None:
        """Note a frame or scan header, without marker and length (ITU-T T.81, B.2.2, B.2.3); others change nothing."""
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
        """Whether every coefficient of every component has come down to its last bit, as encoders send them."""
        return not any(bits for coefficients in self.missing_bits.values() for bits in coefficients)


def _end_of_scan(file_bytes: bytes, at: int) -> int:
    """Where the entropy-coded bytes that begin at `at` end: at a marker that is neither a stuffed zero nor a restart,
    or at the end of the file."""
    while True:
        at = file_bytes.find(b"\xff", at)
        if at < 0 or at + 1 >= len(file_bytes):
            return len(file_bytes)
        if file_bytes[at + 1] == 0 or 0xD0 <= file_bytes[at + 1] <= 0xD7:
            at += 2
        elif file_bytes[at + 1] == 0xFF:
            at += 1
        else:
            return at


def less_surplus(file_bytes: bytes, count: int, marker: int, colours: str) -> bytes | None:
    """The JPEG without the `count` bytes before one of its markers that no block needed; None if these are no filling.

    A copy that was broken off leaves zeros, and zeros decode as blocks that take hardly any bits. So if the surplus
    consists of zeros, however many, all of them are taken away, and no block may need a single one."""
    for end in scan_ends(file_bytes):
        if file_bytes[end + 1] != marker:
            continue
        zeros = end - len(file_bytes[:end].rstrip(b"\0"))
        cut = zeros if zeros >= count else count if count <= MAX_PADDING_BYTES else 0
        shorter = file_bytes[: end - cut] + file_bytes[end:]
        try:
            simplejpeg.decode_jpeg(shorter, colours, strict=True)
        except ValueError as error:
            if cut == 0 or JPEG_DAMAGE.search(str(error)):
                continue
        return shorter
    return None


def scan_ends(jpeg: bytes) -> list[int]:
    """Where the entropy-coded bytes of each scan end, in a JPEG as strip_metadata returns it."""
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


# ---- PNG


def _strip_png(file_bytes: bytes) -> bytes:
    """The chunks that decoding needs, if their checksums are right and all rows are there (PNG specification, 2003)."""
    damaged = PhotographError("is a damaged or truncated PNG", "copy or export it again")
    kept, pixels, header, at = [file_bytes[:8]], [], b"", 8
    while True:
        length, kind = int.from_bytes(file_bytes[at : at + 4], "big"), file_bytes[at + 4 : at + 8]
        after = at + 12 + length
        if len(kind) < 4 or after > len(file_bytes):
            raise damaged
        if kind in PNG_KEPT:
            if zlib.crc32(file_bytes[at + 4 : after - 4]) != int.from_bytes(file_bytes[after - 4 : after], "big"):
                raise damaged
            kept.append(file_bytes[at:after])
            header = file_bytes[at + 8 : after - 4] if kind == b"IHDR" else header
            if kind == b"IDAT":
                pixels.append(file_bytes[at + 8 : after - 4])
        if kind == b"IEND":
            break
        at = after
    if len(header) != 13 or _inflated_bytes(pixels) < png_raw_bytes(header):
        raise damaged  # Pillow would fill the missing rows with black
    return b"".join(kept)


def _inflated_bytes(pieces: list[bytes]) -> int:
    """Length of a zlib stream's content, counted in bounded memory; 0 if the stream is damaged."""
    stream, total = zlib.decompressobj(), 0
    try:
        for piece in pieces:
            while piece and not stream.eof:
                total += len(stream.decompress(piece, 1 << 20))
                piece = stream.unconsumed_tail
        return total + len(stream.flush())
    except zlib.error:
        return 0


def png_chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kinds and contents of the chunks of a PNG as strip_metadata returns it."""
    chunks, at = [], 8
    while at < len(png):
        after = at + 12 + int.from_bytes(png[at : at + 4], "big")
        chunks.append((png[at + 4 : at + 8], png[at + 8 : after - 4]))
        at = after
    return chunks


def png_raw_bytes(header: bytes) -> int:
    """Bytes of a PNG's filtered rows, from its 13-byte IHDR."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for x0, y0, dx, dy in passes:
        columns, rows = (width - x0 + dx - 1) // dx, (height - y0 + dy - 1) // dy
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * PNG_CHANNELS.get(colour, 1) * depth + 7) // 8)
    return total
