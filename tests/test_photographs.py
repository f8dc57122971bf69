"""One photograph: its colours are sRGB when it is published, and a JPEG that ends untidily is whole or refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from test_rdface_dataset import encoded, picture, png_chunk

from curation import restored_rows
from imaging import colour_profiles, image_files, photographs

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
PATCHES = np.array([[200, 120, 90], [90, 130, 110], [128, 128, 128], [60, 80, 150]])  # no colour leaves sRGB's gamut
P3_TO_SRGB = np.array(  # of linear light, CSS Color 4, as are the others
    [[1.2249401763, -0.2249401763, 0], [-0.0420569547, 1.0420569547, 0], [-0.0196375546, -0.0786360456, 1.0982736001]]
)
ADOBE_TO_SRGB = np.array([[1.3983557440, -0.3983557440, 0], [0, 1, 0], [0, -0.0429289893, 1.0429289893]])
P3 = colour_profiles.made_profile(colour_profiles.CICP_PRIMARIES[12][1], colour_profiles.D65, None)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def curve(light: np.ndarray) -> np.ndarray:
    """sRGB's, from linear light 0..1 to levels 0..255 (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def light_of(levels: np.ndarray) -> np.ndarray:
    values = np.asarray(levels) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


FROM_P3 = curve(light_of(PATCHES) @ P3_TO_SRGB.T)
FROM_ADOBE = curve((PATCHES / 255) ** (563 / 256) @ ADOBE_TO_SRGB.T)


def patches(levels: np.ndarray = PATCHES) -> Image.Image:
    """Four squares of 32 px, side by side."""
    return Image.fromarray(np.repeat(np.repeat(levels[None].astype(np.uint8), 32, 0), 32, 1))


def read(tmp_path: Path, data: bytes, name: str = "a.jpg") -> tuple[photographs.Photograph, bytes, np.ndarray]:
    """The photograph, its published bytes, and their pixels (h, w, 3) as a reader sees them that knows no profiles."""
    (tmp_path / name).write_bytes(data)
    photograph, published, image = photographs.read(tmp_path / name)
    shown = Image.open(io.BytesIO(published))
    assert not {"icc_profile", "gamma", "chromaticity", "srgb"} & set(shown.info)
    pixels = np.asarray(shown.convert("RGB")).astype(float)
    assert (
        np.abs(pixels - np.asarray(image.convert("RGB"))).mean() < 2
    )  # what near duplicates and greyness are judged by
    return photograph, published, pixels


def squares(pixels: np.ndarray) -> np.ndarray:
    """The colour (4, 3) in the middle of each patch."""
    return pixels[8, 16::32]


def with_png_chunks(png: bytes, **chunks: bytes) -> bytes:
    added = b"".join(png_chunk(name.encode(), content) for name, content in chunks.items())
    return png[:33] + added + png[33:]


def in_16_bits() -> bytes:
    """An RGB PNG of 16 bits a channel, which Pillow cannot write."""
    rows = np.asarray(patches(), dtype=np.uint16) * 257
    packed = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def iccp(profile: bytes) -> bytes:
    return b"P3\0\0" + zlib.compress(profile)


def transparent() -> bytes:
    image = patches().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat([[255], [0]], 16, 0).astype(np.uint8).repeat(128, 1)))
    return encoded(image, "PNG", icc_profile=P3)


XY_OF_P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
WIDE_GAMUT = {
    "JPEG": ("a.jpg", encoded(patches(), quality=95, icc_profile=P3), FROM_P3, 2),
    "MPO": ("a.jpg", encoded(patches(), "MPO", quality=95, save_all=True, append_images=[picture(1)], icc_profile=P3),
            FROM_P3, 2),
    "PNG": ("a.png", encoded(patches(), "PNG", icc_profile=P3), FROM_P3, 1),
    "16-bit PNG": ("a.png", with_png_chunks(in_16_bits(), iCCP=iccp(P3)), FROM_P3, 1),
    "palette": ("a.png", encoded(patches().quantize(4), "PNG", icc_profile=P3), FROM_P3, 1),
    "transparent": ("a.png", transparent(), FROM_P3, 1),
    "WebP": ("a.webp", encoded(patches(), "WEBP", lossless=True, icc_profile=P3), FROM_P3, 1),
    "TIFF": ("a.tif", encoded(patches(), "TIFF", icc_profile=P3), FROM_P3, 1),
    "AVIF": ("a.avif", encoded(patches(), "AVIF", quality=100, subsampling="4:4:4", icc_profile=P3), FROM_P3, 3),
    "PNG's gAMA and cHRM": ("a.png", with_png_chunks(encoded(patches(), "PNG"), gAMA=struct.pack(">I", 45455),
                                                     cHRM=XY_OF_P3), FROM_P3, 1),
    "PNG's gAMA": ("a.png", with_png_chunks(encoded(patches(), "PNG"), gAMA=struct.pack(">I", 55556)),
                   curve((PATCHES / 255) ** 1.8), 1),
    "PNG's cICP before its gAMA": ("a.png", with_png_chunks(encoded(patches(), "PNG"), cICP=bytes([12, 13, 0, 1]),
                                                            gAMA=struct.pack(">I", 100000)), FROM_P3, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", WIDE_GAMUT)
def test_colours_of_another_space_become_those_of_srgb(tmp_path, case):
    name, data, expected, levels = WIDE_GAMUT[case]
    photograph, _, pixels = read(tmp_path, data, name)
    assert np.abs(squares(pixels) - expected).max() <= levels
    assert np.abs(expected - PATCHES).max() > 8  # the conversion is no matter of rounding
    assert photograph.rewritten and [
        note for note in photograph.notes if note.startswith("was converted to sRGB from ")
    ]
    assert photograph.extension == (".jpg" if name == "a.jpg" else ".png")
    if case == "transparent":
        assert (pixels[20] == 255).all()


def test_cameras_that_name_adobe_rgb_in_exif_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    photograph, _, pixels = read(tmp_path, encoded(patches(), quality=95, exif=exif))
    assert np.abs(squares(pixels)[::-1] - FROM_ADOBE).max() <= 3  # and it is turned by 180 degrees
    assert photograph.notes == ("was converted to sRGB from Adobe RGB",)


def test_an_avif_that_says_display_p3_by_codes(tmp_path):
    data = encoded(patches(), "AVIF", quality=100, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    _, _, pixels = read(tmp_path, data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :], "a.avif")
    assert np.abs(squares(pixels) - FROM_P3).max() <= 3


def test_greys_go_through_a_profile_for_greys_and_stay_grey(tmp_path):
    linear = colour_profiles.made_profile((), colour_profiles.D65, 1.0, grey=True)
    greys = Image.fromarray(np.repeat(np.uint8([[20, 60, 128, 200]]), 40, 0).repeat(32, 1))
    expected = curve(np.array([20, 60, 128, 200]) / 255)
    for name, data in (
        ("a.jpg", encoded(greys, quality=95, icc_profile=linear)),
        ("a.png", encoded(greys, "PNG", icc_profile=linear)),
        ("a.png", with_png_chunks(encoded(greys, "PNG"), gAMA=struct.pack(">I", 100000))),
        ("a.tif", encoded(Image.fromarray(np.asarray(greys, np.uint16) * 257), "TIFF", icc_profile=linear)),
    ):
        photograph, published, pixels = read(tmp_path, data, name)
        assert Image.open(io.BytesIO(published)).mode == "L" and photograph.is_grayscale
        assert np.abs(pixels[16, 16::32, 0] - expected).max() <= 2


def cmyk_profile() -> bytes:
    """A printer's profile (lut8, ICC.1:2001, 6.5.8) of two levels an ink: CIELAB of white paper, of cyan, and so on."""
    lab = {"": (100, 0, 0), "c": (60, -30, -40), "m": (50, 60, 0), "y": (90, 0, 80)}
    nodes = b""
    for inks in np.ndindex(2, 2, 2, 2):
        printed = [ink for ink, amount in zip("cmy", inks, strict=False) if amount]
        values = np.mean([lab[ink] for ink in printed or [""]], axis=0) * (1 if not inks[3] else 0)
        nodes += bytes([round(values[0] * 2.55), round(values[1]) + 128, round(values[2]) + 128])
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    lut += bytes(range(256)) * 4 + nodes + bytes(range(256)) * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", 156, len(lut), b"wtpt", 156 + len(lut), len(white))
    header = struct.pack(">I4xI4s4s4s12x4s28x3i", 156 + len(lut) + 20, 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp",
                         63190, 65536, 54061)  # fmt: skip
    return header + bytes(128 - len(header)) + tags + lut + white


def test_cmyk_goes_through_its_profile(tmp_path):
    inks = np.array([[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 0]])
    image = Image.frombytes(
        "CMYK", (128, 32), np.repeat(np.repeat(inks[None].astype(np.uint8), 32, 0), 32, 1).tobytes()
    )
    d50_to_srgb = np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540],
                            [0.0719453, -0.2289914, 1.4052427]])  # fmt: skip
    lab = np.array([[60, -30, -40], [50, 60, 0], [90, 0, 80], [100, 0, 0]])
    f = np.stack([lab[:, 0] + 16 + 0.232 * lab[:, 1], lab[:, 0] + 16, lab[:, 0] + 16 - 0.58 * lab[:, 2]], 1) / 116
    expected = curve(f**3 * [0.9642, 1, 0.8249] @ d50_to_srgb.T)
    for name, data in (
        ("a.jpg", encoded(image, quality=95, icc_profile=cmyk_profile())),
        ("a.tif", encoded(image, "TIFF", icc_profile=cmyk_profile())),
    ):
        photograph, published, pixels = read(tmp_path, data, name)
        inside = (expected > 3) & (expected < 252)
        assert np.abs(squares(pixels) - expected)[inside].max() <= 4 and inside.sum() >= 6
        assert published[:4] == b"\x89PNG" and "was converted to sRGB from another profile" in photograph.notes


def test_lab_becomes_srgb(tmp_path):
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    _, _, pixels = read(tmp_path, encoded(ImageCms.applyTransform(patches(), lab), "TIFF"), "a.tif")
    assert np.abs(squares(pixels) - PATCHES).max() <= 3


def swapped(profile: bytes) -> bytes:
    """Red and green changed places."""
    return profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")


def test_a_profile_that_swaps_two_channels_swaps_them(tmp_path):
    profile = swapped(colour_profiles.made_profile(colour_profiles.SRGB_PRIMARIES, colour_profiles.D65, None))
    source = picture(3)
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG")):
        data = encoded(source, kind, icc_profile=profile, **({"quality": 90} if kind == "JPEG" else {}))
        before = np.asarray(Image.open(io.BytesIO(data)))[..., [1, 0, 2]].astype(float)
        _, published, pixels = read(tmp_path, data, name)
        assert np.abs(pixels - before).mean() < (0.1 if kind == "PNG" else 1.5)
        assert len(published) < 4 * len(data)  # a JPEG stays one


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_profile_of_srgb_goes_and_costs_no_pixel_its_bytes(tmp_path, name):
    """By what it does: two programs' curves, gammas of tables, names in plenty all mean sRGB."""
    kind = {"a.jpg": "JPEG", "a.png": "PNG"}[name]
    plain = photographs.strip_metadata(encoded(picture(5), kind))
    profiles = [SRGB, colour_profiles.made_profile(colour_profiles.SRGB_PRIMARIES, colour_profiles.D65, None)]
    for profile in profiles:
        data = encoded(picture(5), kind, icc_profile=profile)
        photograph, published, _ = read(tmp_path, data, name)
        assert published == plain and not photograph.rewritten and photograph.notes == ()
    if name == "a.png":
        for chunks in ({"sRGB": b"\0", "gAMA": struct.pack(">I", 100000)}, {"gAMA": struct.pack(">I", 45455)}):
            photograph, published, _ = read(tmp_path, with_png_chunks(encoded(picture(5), kind), **chunks), name)
            assert published == plain and photograph.notes == ()
    gamma = colour_profiles.made_profile(colour_profiles.SRGB_PRIMARIES, colour_profiles.D65, 2.2)  # shadows differ
    assert read(tmp_path, encoded(picture(5), kind, icc_profile=gamma), name)[0].rewritten


DAMAGED = {
    "garbage": ("a.jpg", encoded(picture(6), icc_profile=b"no profile at all" * 9), "a damaged profile"),
    "cut": ("a.png", encoded(picture(6), "PNG", icc_profile=P3[:300]), "a damaged profile"),
    "of greys": ("a.jpg", encoded(picture(6), icc_profile=colour_profiles.made_profile((), (), 1.0, grey=True)),
                 "a profile for GRAY pixels"),
    "of inks": ("a.webp", encoded(picture(6), "WEBP", lossless=True, icc_profile=cmyk_profile()),
                "a profile for CMYK pixels"),
    "of colours": ("a.jpg", encoded(picture(6).convert("L"), icc_profile=P3), "a profile for RGB pixels"),
    "one of two": ("a.jpg", encoded(picture(6), icc_profile=P3).replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2"),
                   "an incomplete profile"),
    "packed wrongly": ("a.png", with_png_chunks(encoded(picture(6), "PNG"), iCCP=b"P3\0\0nothing"),
                       "a damaged profile"),
    "primaries": ("a.png", with_png_chunks(encoded(picture(6), "PNG"), cHRM=bytes(32)), "impossible primaries"),
    "gamma": ("a.png", with_png_chunks(encoded(picture(6), "PNG"), gAMA=bytes(4)), "damaged gAMA"),
    "high range": ("a.png", with_png_chunks(encoded(picture(6), "PNG"), cICP=bytes([9, 16, 0, 1])),
                   "high dynamic range"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_colours_that_are_declared_wrongly_are_noted_and_taken_as_srgb(tmp_path, case):
    name, data, reason = DAMAGED[case]
    photograph, _, pixels = read(tmp_path, data, name)
    (note,) = photograph.notes
    assert reason in note and note.startswith("has colours that ") and note.endswith("; they are taken as sRGB")
    kind = {"a.webp": "PNG", "a.png": "PNG", "a.jpg": "JPEG"}[name]
    source = picture(6).convert("L") if case == "of colours" else picture(6)
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(encoded(source, kind))).convert("RGB")))


def test_a_chunk_of_colours_whose_checksum_is_wrong(tmp_path):
    png = with_png_chunks(encoded(picture(6), "PNG"), gAMA=struct.pack(">I", 100000))
    at = png.index(b"gAMA") + 5
    photograph, _, pixels = read(tmp_path, png[:at] + b"\x07" + png[at + 1 :], "a.png")
    assert "a damaged gAMA chunk" in photograph.notes[0] and np.array_equal(pixels, np.asarray(picture(6)))


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the users' files beside the repository")
def test_a_users_photographs_in_prophoto_and_display_p3(tmp_path):
    """Whole photographs against the arithmetic of CSS Color 4 (ProPhoto's light, white point D50, sRGB's light)."""
    to_xyz = np.array(
        [
            [0.7977604896723, 0.13518583717574, 0.0313493495815248],
            [0.2880711282292934, 0.7118432178101014, 0.00008565396060525902],
            [0, 0, 0.8251046025104602],
        ]
    )
    to_d65 = np.array(
        [
            [0.9554734527042182, -0.023098536874261423, 0.0632593086610217],
            [-0.028369706963208136, 1.0099954580058226, 0.021041398966943008],
            [0.012314001688319899, -0.020507696433477912, 1.3303659366080753],
        ]
    )
    to_srgb = np.array([[3.2409699419, -1.5373831776, -0.4986107603], [-0.9692436363, 1.8759675015, 0.0415550574],
                        [0.0556300797, -0.2039769589, 1.0569715142]])  # fmt: skip
    folder = CASES / "04-icc-profile-ignored/in/rd_images/BWC"
    for name, exponent, matrix in (("BWC.1.jpg", 1.8, to_srgb @ to_d65 @ to_xyz), ("BWC.2.jpg", 2.2, P3_TO_SRGB)):
        _, _, pixels = read(tmp_path, (folder / name).read_bytes())
        before = np.asarray(Image.open(folder / name), dtype=float)
        expected = curve((before / 255) ** exponent @ matrix.T)
        assert np.abs(pixels - expected).mean() < 1.5 and np.abs(before - expected).mean() > 4


def test_what_an_earlier_version_published_with_its_profile_is_restored_in_srgb():
    for name in ("JPEG", "PNG"):
        picture = restored_rows.decode({"bytes": WIDE_GAMUT[name][1], "path": None})
        assert np.abs(squares(picture) - FROM_P3).max() <= 2


# --- the end of a JPEG


JPEG = encoded(picture(8), quality=80)
KINDS = {
    "baseline": JPEG,
    "progressive": encoded(picture(8), progressive=True),
    "with restarts": encoded(picture(8), restart_marker_rows=1),
    "dark below": encoded(ImageOps.expand(picture(8), (0, 0, 0, 40), "black"), optimize=True),
    "CMYK": encoded(picture(8).convert("CMYK")),
}


def untidy(jpeg: bytes) -> dict[str, tuple[bytes, str]]:
    """Whole JPEGs as programs and disks leave them, and what is noted of them."""
    no_end, first = "has no end-of-image marker; the picture is whole", 4 + int.from_bytes(jpeg[4:6], "big")
    return {
        "no marker": (jpeg[:-2], no_end),
        "half a marker": (jpeg[:-1], no_end),
        "zeros": (jpeg[:-2] + bytes(3000), no_end),
        "ones": (jpeg[:-2] + b"\xff" * 3000, no_end),
        "another picture": (jpeg[:-2] + JPEG, no_end),
        "zeros and a marker": (jpeg[:-2] + bytes(3000) + jpeg[-2:], "holds 3000 surplus bytes after its last block"),
        "stray bytes": (jpeg[:first] + b"\0\0\0" + jpeg[first:], "holds 3 stray bytes between its segments"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_ends_untidily_is_taken_whole_with_a_note(tmp_path, kind):
    jpeg = KINDS[kind]
    whole = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    for case, (data, note) in untidy(jpeg).items():
        photograph, published, pixels = read(tmp_path, data)
        assert np.array_equal(pixels, whole), case
        assert len(photograph.notes) == 1 and photograph.notes[0].startswith(note), case
        assert kind == "CMYK" or (published[-2:] == b"\xff\xd9" and len(published) <= len(jpeg) + 3000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_lacks_blocks_is_refused_however_its_file_was_filled(tmp_path, kind):
    """Cut at each of the last 40 bytes, and further up; a cut that costs no block leaves the same picture."""
    jpeg = KINDS[kind]
    whole = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    refused = 0
    for cut in (*range(3, 40), 100, 200, len(jpeg) // 3):
        for data in (jpeg[:-cut], jpeg[:-cut] + bytes(cut), jpeg[:-cut] + bytes(5000), jpeg[:-cut] + b"\xff" * cut,
                     jpeg[:-cut] + b"\xff\xd9", jpeg[:-cut] + b"the rest is a text " * 30):  # fmt: skip
            try:
                assert np.array_equal(read(tmp_path, data)[2], whole), cut
            except photographs.PhotographError as error:
                assert "truncated" in error.reason
                refused += 1
    assert refused > 200


@pytest.mark.parametrize(("start", "kind"), [(b"%PDF-1.4\n", "PDF"), (b"\0\0\0\x18ftypheic", "HEIC"), (b"a", "text")])
def test_what_is_no_picture_is_called_by_its_kind(tmp_path, start, kind):
    with pytest.raises(photographs.PhotographError, match=f"its content is {kind}"):
        read(tmp_path, start + b"1" * 500)


def test_a_progressive_jpeg_cut_between_its_scans_is_refused(tmp_path):
    jpeg = photographs.strip_metadata(KINDS["progressive"])
    ends = image_files.scan_ends(jpeg)
    assert len(ends) == 10
    for end in ends[:-1]:
        for data in (jpeg[:end], jpeg[:end] + b"\xff\xd9"):  # a decoder warns of neither
            with pytest.raises(photographs.PhotographError, match="without its last scans"):
                read(tmp_path, data)
