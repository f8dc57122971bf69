"""Gentle augmentation of faces by small crops, rotations, mirroring and changes of light.

    generator = torch.Generator().manual_seed(seed)
    pixels = augment(pixels, generator)             # a new draw for each image, at each call

It is gentle because the signs of a condition are often small differences of proportion: a strong stretch makes another
face, and a strong change of colour another skin.
"""

import math

import torch
import torch.nn.functional as F

# The range of each random change; all zeros leave an image unchanged. A run's record holds this table.
AMOUNTS = {
    "crop_area": 0.15,  # largest share of the area that is cut away, anywhere; the rest is enlarged to full size
    "stretch": 0.05,  # largest change of the aspect ratio, up or down: proportions are signs of conditions
    "rotation_degrees": 10.0,  # at most, to either side: heads are tilted so far in photographs that count as frontal
    "mirror": 0.5,  # probability; the signs of the conditions have no preferred side
    "brightness": 0.2,  # factor within 1 +- this
    "contrast": 0.2,  # factor within 1 +- this, about the mean grey of the image
}
IMAGES_AT_ONCE = 4  # fit into a processor's cache: 2 to 3 times faster than a batch of 32, with the same result
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601


def augment(pixels: torch.Tensor, generator: torch.Generator, amounts: dict[str, float] | None = None) -> torch.Tensor:
    """A copy of the images, each cropped, rotated, mirrored and lit by a random draw of its own.

    pixels (b, 3, s, s): uint8 RGB; amounts: in the units of AMOUNTS, which is the default; returns (b, 3, s, s) uint8
    on the same device. The result depends only on the pixels, the amounts and the state of the generator. Eight numbers
    per image are drawn whatever the amounts, so that runs with different amounts stay comparable. Pixels outside the
    image repeat its edge. Raises ValueError for pixels of another shape or type."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
        raise ValueError(f"pixels must be uint8 (b, 3, s, s), not {pixels.dtype} {tuple(pixels.shape)}")
    amounts = AMOUNTS if amounts is None else amounts
    draw = torch.rand(len(pixels), 8, generator=generator, device=generator.device).to(pixels.device)
    parts = zip(pixels.split(IMAGES_AT_ONCE), draw.split(IMAGES_AT_ONCE), strict=True)
    return torch.cat([_moved_and_lit(part, part_draw, amounts) for part, part_draw in parts])


def _moved_and_lit(pixels: torch.Tensor, draw: torch.Tensor, amounts: dict[str, float]) -> torch.Tensor:
    """As augment, for a few images; draw (b, 8) in 0..1."""
    # One resampling for crop, rotation and mirror together, because each resampling blurs.
    grid = F.affine_grid(_geometry(draw[:, :6], amounts), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _lit(moved, draw[:, 6:], amounts).round_().to(torch.uint8)


def _geometry(draw: torch.Tensor, amounts: dict[str, float]) -> torch.Tensor:
    """Affine maps (b, 2, 3) from places in the new image to places in the old, both in -1..1; draw (b, 6) in 0..1."""
    area = 1 - amounts["crop_area"] * draw[:, 0]
    ratio = (
        (2 * draw[:, 1] - 1) * math.log1p(amounts["stretch"])
    ).exp()  # uniform in the logarithm: as often wide as narrow
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1.0)  # (b, 2) shares of s
    centre = (2 * draw[:, 2:4] - 1) * (1 - size)  # (b, 2) anywhere inside, so an upright crop stays inside the image
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
