"""Gentle classical augmentation of faces: small crops and rotations, mirror, light.

    generator = torch.Generator().manual_seed(seed)
    pixels = augment(pixels, generator)             # a new draw for each image, at each call

Gentle, because the signs of a condition are often small and metric: a strong stretch makes another face, and a strong
change of colour another skin.
"""

import math

import torch
import torch.nn.functional as F

# All there is to draw, each about "none"; a run's record holds this as it stands, and all zeros leave an image alone.
AMOUNTS = {
    "crop_area": 0.15,  # at most this share of the area is cut away, anywhere; the rest is enlarged to the full side
    "stretch": 0.05,  # width over height of what is kept, at most this much above or below 1: proportions are signs
    "rotation_degrees": 10.0,  # at most, to either side: how a head is held in a photograph that counts as frontal
    "mirror": 0.5,  # probability; the signs of the conditions have no preferred side
    "brightness": 0.2,  # factor within 1 +- this
    "contrast": 0.2,  # factor within 1 +- this, about the mean grey of the image
}
IMAGES_AT_ONCE = 4  # what a processor's cache holds: 2 to 3 times faster than a whole batch of 32, same result
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601


def augment(pixels: torch.Tensor, generator: torch.Generator, amounts: dict[str, float] | None = None) -> torch.Tensor:
    """Each image cropped, turned, mirrored and lit by its own draw.

    pixels (b, 3, s, s) uint8 RGB, left as they are; amounts in the units of AMOUNTS, which holds where None is given;
    returns (b, 3, s, s) uint8 on the same device. The result follows from the pixels, the amounts and the state of
    the generator alone; eight numbers an image are drawn whatever the amounts, so that runs with different ones stay
    comparable. Beyond the image its edge is repeated. Raises ValueError for pixels of another shape or type."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
        raise ValueError(f"pixels must be uint8 (b, 3, s, s), not {pixels.dtype} {tuple(pixels.shape)}")
    amounts = AMOUNTS if amounts is None else amounts
    draw = torch.rand(len(pixels), 8, generator=generator, device=generator.device).to(pixels.device)
    parts = zip(pixels.split(IMAGES_AT_ONCE), draw.split(IMAGES_AT_ONCE), strict=True)
    return torch.cat([_moved_and_lit(part, part_draw, amounts) for part, part_draw in parts])


def _moved_and_lit(pixels: torch.Tensor, draw: torch.Tensor, amounts: dict[str, float]) -> torch.Tensor:
    """A few images as in augment; draw (b, 8) in 0..1."""
    # One resampling for all of crop, rotation and mirror, because each one blurs.
    grid = F.affine_grid(_geometry(draw[:, :6], amounts), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _lit(moved, draw[:, 6:], amounts).round_().to(torch.uint8)


def _geometry(draw: torch.Tensor, amounts: dict[str, float]) -> torch.Tensor:
    """Affine maps (b, 2, 3) from places in the new image to places in the old, both in -1..1; draw (b, 6) in 0..1."""
    area = 1 - amounts["crop_area"] * draw[:, 0]
    ratio = ((2 * draw[:, 1] - 1) * math.log1p(amounts["stretch"])).exp()  # in the logarithm: wide as often as narrow
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1.0)  # (b, 2) shares of s
    centre = (2 * draw[:, 2:4] - 1) * (1 - size)  # (b, 2) anywhere inside, so that an upright crop needs no edge
    angle = (2 * draw[:, 4] - 1) * math.radians(amounts["rotation_degrees"])
    side = torch.where(draw[:, 5] < amounts["mirror"], -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)  # (b, 2, 2)
    scale = size * torch.stack([side, torch.ones_like(side)], dim=1)
    return torch.cat([rotation * scale[:, None], centre[:, :, None]], dim=2)


def _lit(pixels: torch.Tensor, draw: torch.Tensor, amounts: dict[str, float]) -> torch.Tensor:
    """Brightness, then contrast, of float pixels (b, 3, s, s) in 0..255, changed in place; draw (b, 2) in 0..1."""
    brightness = 1 + amounts["brightness"] * (2 * draw[:, 0] - 1)
    contrast = 1 + amounts["contrast"] * (2 * draw[:, 1] - 1)
    mean_grey = brightness * (pixels.mean(dim=(2, 3)) @ pixels.new_tensor(GREY))  # (b,)
    gain, offset = contrast * brightness, (1 - contrast) * mean_grey
    return pixels.mul_(gain[:, None, None, None]).add_(offset[:, None, None, None]).clamp_(0, 255)
