"""Room in JPEG and PNG files that no decoder looks at: bytes in and after tables, scans, rows and palettes.

Files as strip_metadata leaves them have no metadata any more, but may still hide text. A JPEG that could is coded anew
from its coefficients, and a PNG from its rows: not a pixel changes.
"""

import io
import struct
import zlib

import mozjpeg_lossless_optimization
import numpy as np
import simplejpeg
from PIL import Image

from imaging.image_files import (
    JPEG_START,
    PNG_CHANNELS,
    PNG_START,
    PhotographError,
    png_chunks,
    png_raw_bytes,
    scan_ends,
    strip_metadata,
)
from imaging.jpeg_edges import hides_picture

STANDARD_TABLES = {  # class and identifier -> code lengths and symbols of T.81, annex K.3
    0x00: bytes.fromhex("00010501010101010100000000000000000102030405060708090a0b"),
    0x01: bytes.fromhex("00030101010101010101010000000000000102030405060708090a0b"),
    0x10: bytes.fromhex(
        "0002010303020403050504040000017d0102030004110512213141061351610722711432" "8191a1082342b1c11552d1f02433627282"
        "090a161718191a25262728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a838485"
        "868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5"
        "e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
    ),
    0x11: bytes.fromhex(
        "0002010204040304070504040001027700010203110405213106124151076171132232810814" "4291a1b1c109233352f0156272d10a"
        "162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a636465666768696a737475767778797a8283"
        "8485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4"
        "e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
    ),
}  # fmt: skip
STANDARD = frozenset(STANDARD_TABLES.values())


def without_spare_bytes(file_bytes: bytes) -> bytes:
    """The JPEG or PNG without room for anything but its pixels; the very same bytes if it has none.

    file_bytes: as strip_metadata returns them, of a picture that was decoded without a warning of missing blocks. A
    JPEG stays as it is if it has one scan without restart markers, no table but those that this scan uses, and no byte
    after its last block. Raises PhotographError if it cannot be coded anew, and for what lies beyond the edges of a
    picture: other blocks than an encoder would repeat, or the bits that fill up the rows of a PNG."""
    if file_bytes.startswith(JPEG_START):
        if hides_picture(file_bytes):
            raise PhotographError("holds more of a picture beyond its edges", "export it again as JPEG or PNG")
        return file_bytes if _is_tight_jpeg(file_bytes) else _coded_anew(file_bytes)
    return _tight_png(file_bytes) if file_bytes.startswith(PNG_START) else file_bytes


# ---- JPEG


def _coded_anew(jpeg: bytes) -> bytes:
    """The same coefficients in a progressive JPEG with tables of its own."""
    try:
        coded = strip_metadata(mozjpeg_lossless_optimization.optimize(jpeg))
        before, after = (np.asarray(Image.open(io.BytesIO(content))) for content in (jpeg, coded))
        same = np.array_equal(before, after)
    except Exception as error:  # of the C library, or of Pillow
        raise PhotographError("is a JPEG of an unusual kind", "export it again as JPEG or PNG") from error
    if not same:
        raise PhotographError("is a JPEG of an unusual kind", "export it again as JPEG or PNG")
    return coded


def _is_tight_jpeg(jpeg: bytes) -> bool:
    segments = _segments(jpeg)
    frames = [body for marker, body in segments if marker in (0xC0, 0xC1)]
    scans = [body for marker, body in segments if marker == 0xDA]
    if len(frames) != 1 or len(scans) != 1 or not {marker for marker, _ in segments} <= {
        0xC0, 0xC1, 0xC4, 0xDA, 0xDB, 0xE0, 0xEE
    }:  # fmt: skip
        return False
    (frame,), (scan,) = frames, scans
    n = frame[5] if len(frame) > 5 else 0
    if len(frame) != 6 + 3 * n or len(scan) != 4 + 2 * n or scan[:1] != frame[5:6]:
        return False
    huffman = {0x00 | table >> 4 for table in scan[2 : 1 + 2 * n : 2]}
    huffman |= {0x10 | table & 15 for table in scan[2 : 1 + 2 * n : 2]}
    quantisation = [body for marker, body in segments if marker == 0xDB]
    coding = [body for marker, body in segments if marker == 0xC4]
    if not _has_these_quantisations(quantisation, set(frame[8::3])) or not _has_these_codes(coding, huffman):
        return False
    return _ends_with_its_last_block(jpeg, n)


def _segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """Markers with their contents, up to the end of a JPEG as strip_metadata returns it."""
    segments, at, ends = [], 2, iter(scan_ends(jpeg))
    while jpeg[at + 1] != 0xD9:
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segments.append((jpeg[at + 1], jpeg[at + 4 : at + 2 + length]))
        at = next(ends) if jpeg[at + 1] == 0xDA else at + 2 + length
    return segments


def _has_these_quantisations(bodies: list[bytes], used: set[int]) -> bool:
    """Whether the segments hold each of these tables once, and nothing else (T.81, B.2.4.1)."""
    found = []
    for body in bodies:
        at = 0
        while at < len(body):
            found.append(body[at] & 15)
            at += 1 + 64 * (1 + (body[at] >> 4))
        if at != len(body):
            return False
    return sorted(found) == sorted(used)


def _has_these_codes(bodies: list[bytes], used: set[int]) -> bool:
    """The same of Huffman tables (T.81, B.2.4.2), whose symbols must be possible ones; the standard's may be there in
    vain, since nothing hides in them."""
    found = []
    for body in bodies:
        at = 0
        while at < len(body):
            counts = body[at + 1 : at + 17]
            table, symbols = body[at], body[at + 17 : at + 17 + sum(counts)]
            if len(counts) != 16 or len(symbols) != sum(counts):
                return False
            at += 17 + len(symbols)
            is_standard = counts + symbols in STANDARD
            possible = range(12) if table < 0x10 else (0x00, 0xF0, *(s for s in range(256) if 1 <= s & 15 <= 10))
            if not is_standard and not (len(set(symbols)) == len(symbols) and set(symbols) <= set(possible)):
                return False
            if table in used or not is_standard:
                found.append(table)
    return sorted(found) == sorted(used)


def _ends_with_its_last_block(jpeg: bytes, components: int) -> bool:
    """Whether the only scan decodes without a warning, and no longer does so without its last byte."""
    colours = {1: "GRAY", 3: "RGB"}.get(components)
    if colours is None:
        return False
    (end,) = scan_ends(jpeg)
    last = end - 2 if jpeg[end - 2 : end] == b"\xff\0" else end - 1
    for content, is_whole in ((jpeg, True), (jpeg[:last] + jpeg[end:], False)):
        try:  # an eighth of the size: blocks are still read one by one
            simplejpeg.decode_jpeg(content, colours, min_height=1, min_width=1, strict=True)
            decodes = True
        except ValueError:
            decodes = False
        if decodes is not is_whole:
            return False
    return True


# ---- PNG


def _tight_png(png: bytes) -> bytes:
    """Rows and palette without what is never shown; the very same bytes if all of it is."""
    chunks = png_chunks(png)
    kinds = [kind for kind, _ in chunks]
    of_kind = dict(reversed(chunks))  # the first of each
    header = of_kind[b"IHDR"]
    depth, colour, is_interlaced = header[8], header[9], header[12]
    if depth < 8 and (is_interlaced or int.from_bytes(header[:4], "big") * depth % 8):
        raise PhotographError("is a PNG with room in its rows", "export it again as JPEG or PNG")
    rows, is_exact = _rows(b"".join(content for kind, content in chunks if kind == b"IDAT"), png_raw_bytes(header))
    wanted = [(b"IHDR", header)]
    if b"sBIT" in of_kind and _is_sbit(of_kind[b"sBIT"], depth, colour):
        wanted.append((b"sBIT", of_kind[b"sBIT"]))
    if colour == 3 or b"tRNS" in of_kind:
        wanted += _tight_palette(png, of_kind, colour)
    unique = [kind for kind in kinds if kind != b"IDAT"]
    together = kinds.count(b"IDAT") == len("".join("I" if kind == b"IDAT" else " " for kind in kinds).strip())
    same = {kind: content for kind, content in chunks if kind not in (b"IDAT", b"IEND")} == dict(wanted)
    if is_exact and together and same and len(set(unique)) == len(unique) and not of_kind[b"IEND"]:
        return png
    wanted += [(b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return PNG_START + b"".join(_chunk(kind, content) for kind, content in wanted)


def _rows(stream: bytes, length: int) -> tuple[bytes, bool]:
    """The first `length` bytes of a zlib stream's content, and whether there is nothing more in it or after it."""
    decompressor = zlib.decompressobj()
    rows = decompressor.decompress(stream, length)
    more = decompressor.decompress(decompressor.unconsumed_tail, 1)
    return rows, not more and decompressor.eof and not decompressor.unused_data


def _is_sbit(content: bytes, depth: int, colour: int) -> bool:
    channels = 3 if colour == 3 else PNG_CHANNELS.get(colour, 0)
    return len(content) == channels and all(1 <= bits <= (8 if colour == 3 else depth) for bits in content)


def _tight_palette(png: bytes, of_kind: dict[bytes, bytes], colour: int) -> list[tuple[bytes, bytes]]:
    """PLTE with the colours that are shown, black for those that are not, and tRNS if anything is transparent."""
    chunks = []
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        picture.load()
    if colour == 3:
        used = np.unique(np.asarray(picture)) if picture.mode == "P" else np.arange(256)
        palette = of_kind.get(b"PLTE", b"")
        entries = [palette[3 * n : 3 * n + 3] if n in used else b"\0\0\0" for n in range(int(used.max()) + 1)]
        chunks.append((b"PLTE", b"".join(entries)))
        alphas = of_kind.get(b"tRNS", b"")
        opaque = [alphas[n] if n in used else 255 for n in range(min(len(alphas), int(used.max()) + 1))]
        transparent = bytes(opaque).rstrip(b"\xff")
    else:
        shown = picture.convert("RGBA").getchannel("A").getextrema()[0] == 255
        transparent = b"" if shown else of_kind[b"tRNS"][: {0: 2, 2: 6}.get(colour, 0)]
    return [*chunks, (b"tRNS", transparent)] if transparent else chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
