"""Photographs with a text planted in every place of a file that is known to carry one, whole and decodable."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin
from test_rdface_dataset import picture, png_chunk

MARK = b"PLANTED-Jane.Doe-1987"  # 21 bytes, none of them special to a format


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    options = {"quality": 90} | options
    picture(3).save(file, "JPEG", **options)
    return file.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def after_start(file_bytes: bytes, more: bytes) -> bytes:
    return file_bytes[:2] + more + file_bytes[2:]


def longer(file_bytes: bytes, marker: int, more: bytes) -> bytes:
    """The JPEG with more bytes at the end of the first segment of this kind."""
    at = file_bytes.index(bytes([0xFF, marker]))
    length = struct.unpack(">H", file_bytes[at + 2 : at + 4])[0]
    end = at + 2 + length
    new_length = struct.pack(">H", length + len(more))
    return file_bytes[: at + 2] + new_length + file_bytes[at + 4 : end] + more + file_bytes[end:]


def before(file_bytes: bytes, marker: int, more: bytes) -> bytes:
    at = file_bytes.index(bytes([0xFF, marker]))
    return file_bytes[:at] + more + file_bytes[at:]


def between_restarts(file_bytes: bytes) -> bytes:
    """A few bytes of the mark before each restart marker, where a decoder has read them ahead."""
    parts, at, n = [], file_bytes.index(b"\xff\xda"), 0
    parts.append(file_bytes[:at])
    while at < len(file_bytes):
        following = file_bytes.find(b"\xff", at + 1)
        following = len(file_bytes) if following < 0 else following
        parts.append(file_bytes[at:following])
        if file_bytes[following + 1 : following + 2] in [bytes([0xD0 + k]) for k in range(8)]:
            parts.append(MARK[4 * n % 20 : 4 * n % 20 + 4])
            n += 1
        at = following
    return b"".join(parts)


def quantisations() -> bytes:
    """A table that no component uses, which holds the mark three times."""
    return segment(0xDB, bytes([3]) + (MARK * 4)[:64])


def codes() -> bytes:
    """A Huffman table that no scan uses."""
    symbols = bytes(dict.fromkeys(MARK))
    return segment(0xC4, bytes([0x13, 0, 0, 0, 0, len(symbols), *[0] * 11]) + symbols)


def many_intervals() -> bytes:
    pairs = [MARK[n : n + 2].ljust(2) for n in range(0, len(MARK), 2)]
    return b"".join(segment(0xDD, pair) for pair in pairs) + segment(0xDD, b"\0\0")


def profile() -> bytes:
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = made.index(b"s\0R\0G\0B") if b"s\0R\0G\0B" in made else made.index(b"sRGB")
    made[at : at + 8] = MARK[:8]
    return bytes(made) + MARK  # and after its end


def png(rows_more: bytes = b"", stream_more: bytes = b"", extra: tuple = (), last: bytes = b"", mode="RGB") -> bytes:
    """A PNG of which every part can be planted: after the rows, after their stream, as chunks, in IEND."""
    image = picture(5).convert(mode)
    rows = np.asarray(image)
    rows = rows.reshape(len(rows), -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows) + rows_more
    header = struct.pack(">IIBBBBB", *image.size, 8, {"L": 0, "RGB": 2, "P": 3}[mode], 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *(png_chunk(*chunk) for chunk in extra)]
    chunks += [png_chunk(b"IDAT", zlib.compress(raw) + stream_more), png_chunk(b"IEND", last)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def palette_png(spare: bool, opacity: bool) -> bytes:
    image = picture(5).convert("L").point(lambda level: level // 8)  # 32 of 256 colours are used
    colours = b"".join(bytes([8 * n, 8 * n, 8 * n]) for n in range(32))
    raw = b"".join(b"\0" + row.tobytes() for row in np.asarray(image))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *image.size, 8, 3, 0, 0, 0))]
    chunks += [(b"PLTE", colours + (MARK * 3 if spare else b""))]
    chunks += [(b"tRNS", b"\xff" * 32 + MARK)] if opacity else []
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def saved(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture(7).save(file, kind, **options)
    return file.getvalue()


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x010E], made[0x013B] = MARK.decode(), MARK.decode()
    return made


def text_png() -> bytes:
    file, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("Patient", MARK.decode())
    text.add_text("Zipped", MARK.decode(), zip=True)
    text.add_itxt("International", MARK.decode())
    picture(5).save(file, "PNG", pnginfo=text, exif=exif())
    return file.getvalue()


def webp() -> bytes:
    return saved("WEBP", exif=exif(), xmp=b"<x>" + MARK + b"</x>", icc_profile=profile(), lossless=True)


def tiff() -> bytes:
    return saved("TIFF", description=MARK.decode(), software=MARK.decode(), icc_profile=profile()) + MARK


def mpo() -> bytes:
    return jpeg() + after_start(jpeg(), segment(0xFE, MARK))


def zipped(name: bytes = b"sRGB") -> bytes:
    return name + b"\0\0" + zlib.compress(profile())


BUILDERS = {
    "exif.jpg": lambda: jpeg(exif=exif()),
    "xmp.jpg": lambda: after_start(jpeg(), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + MARK)),
    "iptc.jpg": lambda: after_start(jpeg(), segment(0xED, b"Photoshop 3.0\0" + MARK)),
    "app15.jpg": lambda: after_start(jpeg(), segment(0xEF, MARK)),
    "comment.jpg": lambda: after_start(jpeg(), segment(0xFE, MARK)),
    "profile.jpg": lambda: jpeg(icc_profile=profile()),
    "after_end.jpg": lambda: jpeg() + MARK,
    "jfif_extension.jpg": lambda: longer(jpeg(), 0xE0, MARK),
    "jfif_again.jpg": lambda: after_start(jpeg(), b"".join(
        segment(0xE0, b"JFIF\0\1\1\1" + MARK[n : n + 4].ljust(4) + b"\0\0") for n in range(0, 21, 4))),
    "adobe.jpg": lambda: after_start(jpeg(), segment(0xEE, b"Adobe\0\x64" + MARK[:4] + b"\1" + MARK)),
    "unused_quantisation.jpg": lambda: before(jpeg(), 0xC0, quantisations()),
    "quantisation_said_twice.jpg": lambda: before(
        jpeg(), 0xDB, segment(0xDB, b"\0" + (MARK * 4)[:64])),
    "unused_codes.jpg": lambda: before(jpeg(), 0xDA, codes()),
    "intervals.jpg": lambda: before(jpeg(), 0xDA, many_intervals()),
    "between_segments.jpg": lambda: after_start(jpeg(), MARK),
    "last_block.jpg": lambda: jpeg()[:-2] + b"JaneDoe" + b"\xff\xd9",
    "restarts.jpg": lambda: between_restarts(jpeg(restart_marker_blocks=4)),
    "second_picture.jpg": mpo,
    "texts.png": text_png,
    "profile_name.png": lambda: png(extra=((b"iCCP", zipped(MARK)),)),
    "private_chunk.png": lambda: png(extra=((b"prVt", MARK),)),
    "after_end.png": lambda: png() + MARK,
    "after_last_row.png": lambda: png(rows_more=MARK * 3),
    "after_stream.png": lambda: png(stream_more=MARK),
    "in_end.png": lambda: png(last=MARK),
    "suggested_palette.png": lambda: png(extra=((b"PLTE", MARK),)),
    "colour_key.png": lambda: png(extra=((b"tRNS", b"Ja" * 3),)),
    "unused_colours.png": lambda: palette_png(spare=True, opacity=False),
    "unused_opacity.png": lambda: palette_png(spare=True, opacity=True),
    "all.webp": webp,
    "all.tif": tiff,
    "all.avif": lambda: saved("AVIF", exif=exif(), xmp=b"<x>" + MARK + b"</x>", icc_profile=profile()) + MARK,
    "comment.gif": lambda: saved("GIF", comment=MARK) + MARK,
    "after_end.bmp": lambda: saved("BMP") + MARK,
    "comment.jp2": lambda: saved("JPEG2000", comment=MARK.decode()) + MARK,
}  # fmt: skip


def traces(file_bytes: bytes) -> list[str]:
    """Where the mark, or a part of it that no picture holds by chance, is left in a published file."""
    found = [] if MARK not in file_bytes else ["the mark"]
    found += [str(part) for n in range(0, 16) if (part := MARK[n : n + 6]) in file_bytes]
    inflated = file_bytes
    if file_bytes.startswith(b"\x89PNG"):
        at, stream = 8, b""
        while at < len(file_bytes):
            length = struct.unpack(">I", file_bytes[at : at + 4])[0]
            if file_bytes[at + 4 : at + 8] == b"IDAT":
                stream += file_bytes[at + 8 : at + 8 + length]
            at += 12 + length
        decompressor = zlib.decompressobj()
        inflated = decompressor.decompress(stream) + decompressor.unused_data
    return found + [f"{part} in the rows" for n in range(0, 16) if (part := MARK[n : n + 6]) in inflated]
