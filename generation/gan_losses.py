"""FastGAN's losses: hinge losses, the loss of its decoders; and differentiable augmentation.

Liu, Zhu, Song and Elgammal, ICLR 2021, arXiv 2101.04775; Zhao, Liu, Lin, Zhu and Han, Differentiable Augmentation for
Data-Efficient GAN Training, NeurIPS 2020, arXiv 2006.10738. Images are (b, 3, side, side) in -1..1.
"""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from generation.fastgan import quadrant_of, shrunk
from harness.errors import InputError, one_line


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Hinge: mean(max(0, 1 - real)) + mean(max(0, 1 + fake)) over logits of any shape; 0 once all are beyond +-1."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    return -fake.mean()


def rebuilding_loss(
    rebuilt: list[torch.Tensor], images: torch.Tensor, quadrant: int, difference: Callable
) -> torch.Tensor:
    """The difference, >= 0, between what Discriminator.rebuild returned and the real images (b, 3, side, side)."""
    whole, part = rebuilt
    target = shrunk(quadrant_of(images, quadrant), part.shape[-1])
    return difference(whole, shrunk(images, whole.shape[-1])) + difference(part, target)


def difference_by(name: str, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of the decoders: a function of two stacks of images in -1..1 that returns a scalar.

    lpips: the paper's kind of loss (Zhang et al., CVPR 2018; AlexNet), whose ImageNet weights torchvision downloads;
    l1: the mean absolute difference of grey levels, which needs no weights. Raises InputError if the weights are
    missing and cannot be downloaded."""
    if name == "l1":
        return F.l1_loss
    import lpips  # here, so that l1 does not wait for its import

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision in a deprecated way
            network = lpips.LPIPS(net="alex", verbose=False)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # a file cut short
        where = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"--perceptual lpips: AlexNet's weights are neither in {where} nor to be had ({one_line(error)}); "
            "put torchvision's alexnet file there, or use --perceptual l1"
        ) from error
    network.to(device).requires_grad_(False)
    return lambda rebuilt, target: network(rebuilt, target).mean()


def draw_augmentation(n: int, generator: torch.Generator) -> torch.Tensor:
    """How much each of n images is changed, (n, 5) in 0..1 on the CPU: brightness, saturation, contrast, and the shifts
    to the right and down."""
    return torch.rand(n, 5, generator=generator)


def augment(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Change the colours of images of any side and shift them, differentiably. The same draws have the same effect on
    each version of an image.

    Brightness -0.5..0.5, saturation times 0..2, contrast times 0.5..1.5, as in the paper; a shift of up to an eighth of
    the side each way, which leaves 0, the middle of the scale, behind."""
    brightness, saturation, contrast = draws[:, :3].to(images)[:, :, None, None, None].unbind(1)  # (b, 1, 1, 1) each
    images = images + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * 2 * saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (contrast + 0.5)
    side = images.shape[-1]
    reach = side // 8
    padded = F.pad(images, [reach] * 4)
    starts = (draws[:, 3:] * (2 * reach + 1)).long().clamp(max=2 * reach).tolist()
    return torch.stack([one[:, y : y + side, x : x + side] for one, (x, y) in zip(padded, starts, strict=True)])
