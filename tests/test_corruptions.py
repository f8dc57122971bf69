"""corruptions.py on photographs: graded, repeatable, as strong at every resolution, and each kind what it says."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from imaging.corruptions import AMOUNTS, CORRUPTIONS, SEVERITIES, SMALL_SIDE_PX, corrupt, corruption_rng

DRAWING = ("noise", "occlusion")  # the kinds that need chance
STATE = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Two with a face (of a person and of a cat) and one without, in three sizes and shapes."""
    astronaut, cat, coffee = (
        Image.fromarray(picture()) for picture in (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee)
    )
    return [astronaut, cat.resize((225, 150)), coffee.crop((200, 0, 500, 400))]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, float)


def damaged(image: Image.Image, kind: str, severity: int, image_id: str = "P01.1") -> Image.Image:
    return corrupt(image, kind, severity, corruption_rng(image_id, kind, severity))


def far_apart(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference of the pixels, 0..255."""
    return float(np.abs(pixels(a) - pixels(b)).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_severity_is_further_from_the_photograph_than_the_one_before(kind, photographs):
    distances = [0.0] + [
        np.mean([far_apart(damaged(image, kind, severity, str(n)), image) for n, image in enumerate(photographs)])
        for severity in SEVERITIES
    ]
    assert (np.diff(distances) > 0.5).all(), distances


@pytest.mark.parametrize(("kind", "severity"), STATE)
def test_size_and_mode_stay_and_the_original_is_not_changed(kind, severity, photographs):
    for image in [*photographs, photographs[0].resize((33, 47))]:
        before = image.tobytes()
        worse = damaged(image, kind, severity)
        assert (worse.size, worse.mode) == (image.size, "RGB")
        assert worse.tobytes() != before
        assert image.tobytes() == before


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_damage_belongs_to_the_image_the_kind_and_the_severity(kind, photographs):
    image = photographs[1]
    assert damaged(image, kind, 2).tobytes() == damaged(image, kind, 2).tobytes()
    another = damaged(image, kind, 2, "P01.2").tobytes()
    assert (another != damaged(image, kind, 2).tobytes()) == (kind in DRAWING)


def test_the_draw_is_the_same_in_another_process_and_differs_between_keys():
    keys = [(image_id, kind, severity) for image_id in ("P01.1", "P01.11", "é") for kind, severity in STATE]
    draws = [corruption_rng(*key).integers(2**62) for key in keys]
    assert len(set(draws)) == len(keys)
    program = "from imaging import corruptions; print(corruptions.corruption_rng('P01.11', 'noise', 3).integers(2**62))"
    root = Path(__file__).resolve().parents[1]
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env={"PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(other.stdout) == draws[keys.index(("P01.11", "noise", 3))]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_large_photograph_suffers_as_much_as_a_small_one_once_both_are_resized(kind, photographs):
    for severity in SEVERITIES:
        harm = []
        for side in (512, 1024):
            image = photographs[0].resize((side, side), Image.Resampling.BICUBIC)
            worse = damaged(image, kind, severity)
            harm.append(far_apart(*(each.resize((224, 224), Image.Resampling.LANCZOS) for each in (worse, image))))
        assert harm[1] == pytest.approx(harm[0], rel=0.08), severity


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_of_a_shrunken_photograph_is_the_shrunken_blur(severity, photographs):
    large = photographs[0].resize((1024, 1024), Image.Resampling.BICUBIC)
    small = large.resize((256, 256), Image.Resampling.BOX)
    shrunken = damaged(large, "blur", severity).resize((256, 256), Image.Resampling.BOX)
    assert far_apart(shrunken, damaged(small, "blur", severity)) < 0.05 * far_apart(small, damaged(small, "blur", 3))


def test_blur_keeps_the_mean_and_its_sigma_is_a_share_of_the_shorter_side():
    edge = Image.fromarray(np.repeat(np.where(np.arange(800) < 400, 0, 255), 3).reshape(1, 800, 3).astype(np.uint8))
    profile = pixels(damaged(edge.resize((800, 400)), "blur", 3))[200, :, 0] / 255
    assert profile.mean() == pytest.approx(0.5, abs=0.002)
    step = np.diff(profile)
    place = np.arange(799)
    sigma = np.sqrt((step * (place - (step * place).sum()) ** 2).sum())
    assert sigma == pytest.approx(AMOUNTS["blur"][2] * 400, rel=0.05)


@pytest.mark.parametrize("side", [200, 512])
def test_noise_has_the_deviation_of_its_severity_and_no_colour_of_its_own(side):
    grey = Image.new("RGB", (side, side), (128, 128, 128))
    for severity, share in zip((1, 2), AMOUNTS["noise"], strict=False):  # at 3 some values are clipped
        noise = pixels(damaged(grey, "noise", severity)) - 128
        assert np.std(noise, axis=(0, 1)) == pytest.approx(255 * share, rel=0.03)
        assert np.abs(noise.mean(axis=(0, 1))).max() < 0.5


def test_jpeg_is_the_photograph_encoded_and_decoded_by_the_library(photographs):
    cat = photographs[1]
    assert min(cat.size) < SMALL_SIDE_PX  # hence not resized on the way
    sizes = []
    for severity, quality in zip(SEVERITIES, AMOUNTS["jpeg"], strict=True):
        file = io.BytesIO()
        cat.save(file, "JPEG", quality=quality)
        sizes.append(len(file.getvalue()))
        assert damaged(cat, "jpeg", severity).tobytes() == Image.open(file).convert("RGB").tobytes()
    assert sizes == sorted(sizes, reverse=True)


def test_darkness_halves_the_light_at_each_stop(photographs):
    light = (pixels(photographs[0]) / 255) ** 2.2
    for stops, severity in zip(AMOUNTS["darkness"], SEVERITIES, strict=True):
        dark = (pixels(damaged(photographs[0], "darkness", severity)) / 255) ** 2.2
        assert dark.mean() / light.mean() == pytest.approx(2.0**-stops, rel=0.01)


def test_grey_takes_colour_and_leaves_lightness(photographs):
    for image in photographs:
        lightness, colour = pixels(image.convert("L")), np.ptp(pixels(image), axis=2).mean()
        for share, severity in zip(AMOUNTS["grey"], SEVERITIES, strict=True):
            paler = damaged(image, "grey", severity)
            assert np.abs(pixels(paler.convert("L")) - lightness).max() <= 2
            assert np.ptp(pixels(paler), axis=2).mean() == pytest.approx((1 - share) * colour, abs=1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_occlusion_covers_its_share_of_the_area_somewhere_else_in_each_image(severity):
    striped = np.zeros((150, 240, 3), np.uint8)
    striped[:, ::2] = 255
    corners = set()
    for number in range(20):
        worse = damaged(Image.fromarray(striped), "occlusion", severity, str(number))
        changed = (np.asarray(worse) != striped).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert changed.sum() > 0.97 * box  # one patch, whole; a pixel of it may keep its value by chance
        assert box / changed.size == pytest.approx(AMOUNTS["occlusion"][severity - 1], rel=0.06)
        corners.add((rows[0], columns[0]))
    assert len(corners) > 15


def test_unknown_kinds_severities_and_modes_are_refused_in_one_line(photographs):
    rng = corruption_rng("P01.1", "blur", 1)
    for kind, severity, image, words in [
        ("rust", 1, photographs[0], "choose from blur, noise, jpeg, darkness, grey, occlusion"),
        ("blur", 4, photographs[0], "choose from 1, 2, 3"),
        ("blur", 0, photographs[0], "choose from 1, 2, 3"),
        ("blur", 1, photographs[0].convert("L"), "convert it to RGB"),
    ]:
        with pytest.raises(ValueError, match=words) as refusal:
            corrupt(image, kind, severity, rng)
        assert "\n" not in str(refusal.value)
