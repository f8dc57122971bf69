"""Nothing but pixels is left of a photograph's file, wherever a text was planted, and not a pixel changes."""

import io
import struct
import zlib

import numpy as np
import planted_pictures
import pytest
from PIL import Image, ImageDraw
from test_rdface_dataset import encoded, picture

from imaging import jpeg_edges, photographs, spare_bytes


def pixels(file_bytes: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file_bytes)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", planted_pictures.BUILDERS)
def test_no_text_planted_in_a_file_is_left_and_its_pixels_are(tmp_path, name):
    source = planted_pictures.BUILDERS[name]()
    (tmp_path / name).write_bytes(source)
    if name in ("restarts.jpg", "between_segments.jpg"):  # decoders are not sure of them
        with pytest.raises(photographs.PhotographError):
            photographs.read(tmp_path / name)
        return
    _, published, _ = photographs.read(tmp_path / name)
    assert planted_pictures.traces(published) == []
    assert b"JaneDoe" not in published
    difference = np.abs(pixels(published) - pixels(source))
    assert difference.max() <= (0 if "profile" not in name and not name.endswith(("webp", "tif", "avif")) else 2)
    assert spare_bytes.without_spare_bytes(photographs.strip_metadata(published)) == published


@pytest.mark.parametrize("name", ["restarts.jpg", "last_block.jpg", "unused_codes.jpg", "after_last_row.png"])
def test_planted_text_is_seen_before(name):
    """The search finds what the next test says is gone: a check of the check."""
    source = planted_pictures.BUILDERS[name]()
    assert b"JaneDoe" in source or b"PLAN" in source or planted_pictures.traces(source)


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"subsampling": 0}, {"optimize": True}, {"quality": 100}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_ordinary_jpeg_keeps_its_bytes(options, mode):
    file = io.BytesIO()
    picture(4).convert(mode).save(file, "JPEG", **options)
    stripped = photographs.strip_metadata(file.getvalue())
    assert spare_bytes.without_spare_bytes(stripped) == stripped


@pytest.mark.parametrize(("mode", "options"), [("RGB", {}), ("L", {}), ("RGB", {"progressive": True, "quality": 60})])
def test_what_a_lossless_crop_left_beyond_the_edges_is_gone(tmp_path, mode, options):
    shown = picture(4).resize((192, 128)).convert(mode)
    ImageDraw.Draw(shown).text((70, 117), "JANE DOE", fill="black", font_size=10)
    file = io.BytesIO()
    shown.save(file, "JPEG", **options)
    whole = file.getvalue()
    at = max(whole.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2"))
    cropped = whole[: at + 5] + (121 if options or mode == "L" else 117).to_bytes(2, "big") + whole[at + 7 :]
    (tmp_path / "cropped.jpg").write_bytes(cropped)
    photograph, published, _ = photographs.read(tmp_path / "cropped.jpg")
    assert photograph.rewritten and published.startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels(published), pixels(cropped))


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("size", [(129, 90), (100, 113), (75, 127)])
def test_edges_that_an_encoder_repeats_are_no_reason_to_encode_anew(quality, size):
    for options in ({}, {"subsampling": 0}, {"progressive": True}):
        file = io.BytesIO()
        picture(5).resize(size).save(file, "JPEG", quality=quality, **options)
        assert not jpeg_edges.hides_picture(file.getvalue())


def test_bits_that_fill_up_the_rows_of_a_png_are_gone(tmp_path):
    rng, width, height = np.random.default_rng(0), 65, 40
    rows = np.packbits(rng.integers(0, 2, (height, 72), dtype=np.uint8), axis=1)  # 7 bits too many in each
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    source = b"\x89PNG\r\n\x1a\n" + b"".join(spare_bytes._chunk(*chunk) for chunk in chunks)
    (tmp_path / "filled.png").write_bytes(source)
    _, published, _ = photographs.read(tmp_path / "filled.png")
    np.testing.assert_array_equal(pixels(published), pixels(source))
    assert published[24] == 8 and spare_bytes.without_spare_bytes(published) == published  # its depth


def test_an_ordinary_png_keeps_its_bytes():
    for mode in ("RGB", "L", "1"):
        stripped = photographs.strip_metadata(encoded(picture(4).convert(mode), "PNG"))
        assert spare_bytes.without_spare_bytes(stripped) == stripped


def test_scans_and_restart_markers_are_coded_anew_from_the_same_coefficients():
    for options in ({"progressive": True}, {"restart_marker_rows": 1}):
        file = io.BytesIO()
        picture(4).save(file, "JPEG", **options)
        stripped = photographs.strip_metadata(file.getvalue())
        tight = spare_bytes.without_spare_bytes(stripped)
        assert tight != stripped and np.array_equal(pixels(tight), pixels(stripped))
        assert spare_bytes.without_spare_bytes(tight) == tight and b"\xff\xdd" not in tight
