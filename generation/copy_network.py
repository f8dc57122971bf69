"""A network that describes whole pictures so that edited copies of one lie close together: SSCD, read from a file.

    network = load_copy_network(Path("sscd_disc_mixup.torchvision.pt"), "cpu")
    descriptors = network.describe(pictures)    # (n, 512) of length 1; their products are cosines

Pizzi, Roy, Ravindra, Goyal and Douze, CVPR 2022, arXiv 2202.10261: a ResNet-50, generalised-mean pooling (Radenović,
Tolias and Chum, 2018) with exponent 3, and a linear layer. The published files .torchvision.pt are plain tensors. Those
called .torchscript.pt hold a program, which loading would run, and are refused.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

from classification.weight_files import load_weights, read_weights
from harness.errors import InputError
from harness.files import sha256_of

SIDE_PX = 320  # pictures are stretched to a square, as the authors recommend for batches
WIDTH = 512
EXPONENT, LEAST = 3.0, 1e-6  # of the pooling; activations below LEAST count as LEAST
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for red, green and blue in 0..1


class GeneralisedMean(nn.Module):
    """(b, c, h, w) to (b, c, 1, 1): the root of the mean power of each channel."""

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        powers = activations.clamp(min=LEAST).pow(EXPONENT)
        return powers.mean(dim=(2, 3), keepdim=True).pow(1 / EXPONENT)


class CopyNetwork:
    """What load_copy_network returns."""

    def __init__(self, network: nn.Module, device: torch.device | str, weights_sha256: str):
        self.network, self.device, self.weights_sha256 = network.to(device).eval(), device, weights_sha256

    @torch.inference_mode()
    def describe(self, pictures: Sequence[Image.Image], batch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
        """Descriptors (n, WIDTH) float32 of length 1 of n RGB pictures, and those of their mirror images."""
        parts: list[list[np.ndarray]] = [[], []]
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        for start in range(0, len(pictures), batch_size):
            some = [
                picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
                for picture in pictures[start:][:batch_size]
            ]
            pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in some])).to(self.device)
            batch = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
            for way, seen in zip(parts, (batch, batch.flip(3)), strict=True):
                way.append(nn.functional.normalize(self.network(seen)).cpu().numpy())
        return np.concatenate(parts[0]), np.concatenate(parts[1])


def load_copy_network(file: Path, device: torch.device | str = "cpu") -> CopyNetwork:
    """The network with the weights of a .safetensors or torch file, which is read without unpickling.

    Its tensors are those of torchvision's resnet50 whose last layer gives WIDTH numbers, perhaps behind a prefix such
    as `backbone.`. Raises InputError, one line that names --copy_network, for a file that is missing, runs code, or
    holds another network."""
    network = torchvision.models.resnet50(num_classes=WIDTH)
    network.avgpool = GeneralisedMean()
    try:
        load_weights(network, read_weights(file), (), "SSCD's ResNet-50", file, flag="--copy_network")
    except InputError as error:
        raise InputError(f"--copy_network: {error}") from error
    return CopyNetwork(network, device, sha256_of(file))
