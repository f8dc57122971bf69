"""augmentations.py: what one amount alone does, bounds on what all of them do, and the generator as the only chance."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from imaging.augmentations import AMOUNTS, augment

NOTHING = dict.fromkeys(AMOUNTS, 0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_images(n: int, side: int, low: float = 0, high: float = 255) -> torch.Tensor:
    """Random coarse colours enlarged (n, 3, side, side) uint8, so that half a pixel of resampling matters little."""
    coarse = torch.rand(n, 3, 4, 4, generator=generator(99)) * (high - low) + low
    return torchvision.resize(coarse, [side, side], antialias=True).clamp(low, high).round().to(torch.uint8)


@pytest.mark.parametrize("side", [31, 64])
def test_shape_and_type_stay_and_the_given_pixels_are_not_changed(side):
    images = smooth_images(5, side)
    before = images.clone()
    augmented = augment(images, generator())
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert (augmented != images).any(dim=(1, 2, 3)).all()


def test_the_generator_alone_decides():
    images = smooth_images(4, 32)
    first = augment(images, generator(7))
    torch.manual_seed(123)  # the global state has no say
    assert torch.equal(first, augment(images, generator(7)))
    assert not torch.equal(first, augment(images, generator(8)))
    advancing = generator(7)
    augment(images, advancing)
    assert not torch.equal(first, augment(images, advancing))


def test_each_image_of_a_batch_has_its_own_draw():
    augmented = augment(smooth_images(1, 32).repeat(6, 1, 1, 1), generator())
    assert len({image.numpy().tobytes() for image in augmented}) == 6


def test_how_many_images_are_worked_on_at_once_does_not_matter(monkeypatch):
    images = smooth_images(7, 32)
    in_parts = augment(images, generator())
    monkeypatch.setattr("imaging.augmentations.IMAGES_AT_ONCE", 100)
    assert torch.equal(augment(images, generator()), in_parts)


def test_amounts_of_zero_leave_every_pixel_alone():
    noise = torch.randint(0, 256, (4, 3, 37, 37), dtype=torch.uint8, generator=generator())
    assert torch.equal(augment(noise, generator(), NOTHING), noise)


def test_mirror_alone_is_a_flip_of_left_and_right_for_half_of_the_images():
    noise = torch.randint(0, 256, (200, 3, 16, 16), dtype=torch.uint8, generator=generator())
    assert torch.equal(augment(noise, generator(), NOTHING | {"mirror": 1.0}), noise.flip(-1))
    flipped = (augment(noise, generator(), NOTHING | {"mirror": 0.5}) == noise.flip(-1)).all(dim=(1, 2, 3))
    assert 80 <= flipped.sum() <= 120  # 100 +- 2.8 standard deviations of a fair coin


def test_rotation_alone_is_at_most_its_amount_and_to_both_sides():
    side, n = 101, 60
    dot = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    dot[:, :, 49:52, 89:92] = 255  # 40 px to the right of the centre
    x, y = centroids(augment(dot, generator(), NOTHING | {"rotation_degrees": 10.0}))
    angles = torch.rad2deg(torch.atan2(y - 50, x - 50))
    assert angles.abs().max() < 10.2
    assert angles.min() < -7
    assert angles.max() > 7
    assert torch.allclose((x - 50).hypot(y - 50), torch.tensor(40.0), atol=0.3)


def test_crop_alone_enlarges_by_at_most_its_area():
    side, n = 128, 60
    square = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    square[:, :, 48:80, 48:80] = 255
    enlarged = augment(square, generator(), NOTHING | {"crop_area": 0.15}).float().mean(dim=(1, 2, 3)) / 255
    times = enlarged * side**2 / 32**2
    assert times.min() > 0.99
    assert 1.12 < times.max() < 1 / 0.85 * 1.01


def test_a_marked_point_moves_no_further_than_the_amounts_allow():
    side, n = 128, 300
    for x0, y0 in [(64, 64), (40, 52), (88, 52), (64, 100)]:  # centre, eyes, mouth, as in a portrait
        marked = torch.zeros(n, 3, side, side, dtype=torch.uint8)
        marked[:, :, y0 - 1 : y0 + 2, x0 - 1 : x0 + 2] = 255
        x, y = centroids(augment(marked, generator(), AMOUNTS | {"mirror": 0.0, "brightness": 0.0, "contrast": 0.0}))
        # With p = centre + R S q for the new place q: |q - p| <= (|centre| + |turned p - p|) / s + (1 / s - 1) |p|.
        smallest = math.sqrt((1 - AMOUNTS["crop_area"]) / (1 + AMOUNTS["stretch"]))
        turned = 2 * math.sin(math.radians(AMOUNTS["rotation_degrees"]) / 2)
        from_centre = math.hypot(x0 + 0.5 - side / 2, y0 + 0.5 - side / 2)
        shift = math.sqrt(2) * (1 - smallest) * side / 2
        bound = (shift + turned * from_centre) / smallest + (1 / smallest - 1) * from_centre
        moved = (x - x0).hypot(y - y0)
        assert moved.max() < bound + 0.5
        assert moved.max() > 0.3 * bound  # the amounts are used, not only respected


def centroids(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the light is: x (n,) and y (n,) in px."""
    light = images.float().sum(dim=1)  # (n, s, s)
    place = torch.arange(images.shape[-1], dtype=torch.float32)
    total = light.sum(dim=(1, 2))
    return (light.sum(dim=1) @ place) / total, (light.sum(dim=2) @ place) / total


def test_light_alone_is_torchvisions_brightness_and_contrast():
    images = smooth_images(8, 32, low=60, high=180)  # nothing saturates: torchvision clips between the two steps
    lit = augment(images, generator(3), NOTHING | {"brightness": 0.2, "contrast": 0.2})
    factors = 1 + 0.2 * (2 * torch.rand(8, 8, generator=generator(3))[:, 6:] - 1)
    for image, result, (brightness, contrast) in zip(images, lit, factors.tolist(), strict=True):
        bright = torchvision.adjust_brightness(image.float() / 255, brightness)
        expected = 255 * torchvision.adjust_contrast(bright, contrast)
        assert (result - expected).abs().max() < 0.6  # the rounding


def test_colours_are_clipped_and_do_not_wrap_around():
    white_and_black = torch.full((100, 3, 8, 8), 255, dtype=torch.uint8)
    white_and_black[:, :, :, :4] = 0
    lit = augment(white_and_black, generator(), NOTHING | {"brightness": 0.2, "contrast": 0.2}).float()
    assert lit[:, :, :, :4].max() <= 40  # black may grow grey, never bright
    assert lit[:, :, :, 4:].min() >= 170
    assert lit.max() == 255


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 9).byte()]
)
def test_other_shapes_and_types_are_refused(pixels):
    with pytest.raises(ValueError, match=r"uint8 \(b, 3, s, s\)"):
        augment(pixels, generator())
