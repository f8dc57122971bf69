"""FastGAN's networks, written after the paper, and the files that hold them; train_fastgan.py trains them.

Liu, Zhu, Song and Elgammal, Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis,
ICLR 2021, arXiv 2101.04775. Images are (b, 3, side, side) in -1..1. Everything random except the initial weights is
passed in, so that the caller decides on the seeds.
"""

import contextlib
import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from generation.generator_choices import FASTGAN_BASE_CHANNELS
from harness.errors import InputError, one_line
from harness.files import write_atomically

LATENT_SIZE = 256
# Channels by side of the map in px, in units of base_channels, which is 64 in the paper.
WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4, 1024: 1 / 8}
EXCITED_BY = {128: 8, 256: 16, 512: 32}  # side of a map whose channels are gated -> side of the map that gates them
NOISY_SIDES = (8, 32, 128, 512)  # every second stage: with a second convolution and noise
SMALL_SIDE = 128  # px, of the second image that both networks know
EMA_DECAY = 0.999
NETWORK = ("resolution", "n_classes", "base_channels")  # what a generator is built from
STANDING_BATCHES = 16  # for the means and variances of batch norm


def channels_of(base_channels: int) -> dict[int, int]:
    """Side of a map in px -> its channels; base_channels is a multiple of 8, so that all are whole."""
    return {side: int(width * base_channels) for side, width in WIDTHS.items()}


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int = 0) -> nn.Module:
    """A convolution of spectral norm 1 without bias: batch norm follows, or an output that needs none."""
    return spectral_norm(nn.Conv2d(in_channels, out_channels, size, stride, padding, bias=False))


# -------------------------------------------------------------------------------------------------------- generator


class Noise(nn.Module):
    """Adds noise (b, 1, h, w) to all channels, with a strength that is learnt and starts at 0; None adds no noise."""

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, maps: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        return maps if noise is None else maps + self.strength * noise


class UpStage(nn.Module):
    """A map (b, c, h, w) to one of twice the side: nearest neighbours, 3 x 3 convolution, batch norm, gated linear
    unit; a noisy stage adds noise after the convolution, and does convolution, noise, norm and unit once more."""

    def __init__(self, in_channels: int, out_channels: int, noisy: bool):
        super().__init__()
        widths = [in_channels, out_channels] if noisy else [in_channels]
        self.convolutions = nn.ModuleList(conv(width, 2 * out_channels, 3, padding=1) for width in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 * out_channels) for _ in widths)
        self.noises = nn.ModuleList(Noise() for _ in widths) if noisy else None

    def forward(self, maps: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """noise (b, 2, 2h, 2w): a channel for each convolution of a noisy stage."""
        maps = F.interpolate(maps, scale_factor=2, mode="nearest")
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            maps = convolution(maps)
            if self.noises is not None:
                maps = self.noises[i](maps, None if noise is None else noise[:, i : i + 1])
            maps = F.glu(norm(maps), dim=1)
        return maps


class SkipLayerExcitation(nn.Module):
    """Scales the channels of a large map by gates computed from a much smaller map: gates are (b, c, 1, 1) in 0..1.

    Adaptive average pooling to 4 x 4, a 4 x 4 convolution, an activation, a 1 x 1 convolution, sigmoid."""

    def __init__(self, small_channels: int, channels: int):
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(4),
            conv(small_channels, channels, 4),
            nn.LeakyReLU(0.1),
            conv(channels, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, small: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        return maps * self.gates(small)


class Generator(nn.Module):
    """Latents (b, 256) to images: [(b, 3, resolution, resolution)], above 128 px also [..., (b, 3, 128, 128)], -1..1.

    n_classes: 0 for an unconditional generator; otherwise an embedding of the label, (b,) int64, is appended to the
    latent."""

    def __init__(self, resolution: int, n_classes: int = 0, base_channels: int = FASTGAN_BASE_CHANNELS):
        super().__init__()
        self.resolution, self.n_classes, self.base_channels = resolution, n_classes, base_channels
        channels = channels_of(base_channels)
        self.sides = [side for side in WIDTHS if side <= resolution]  # 4, 8, ... resolution
        self.embedding = nn.Embedding(n_classes, LATENT_SIZE) if n_classes else None
        in_channels = 2 * LATENT_SIZE if n_classes else LATENT_SIZE
        self.start = nn.Sequential(
            spectral_norm(nn.ConvTranspose2d(in_channels, 2 * channels[4], 4, bias=False)),
            nn.BatchNorm2d(2 * channels[4]),
            nn.GLU(dim=1),
        )
        self.stages = nn.ModuleDict(
            {str(s): UpStage(channels[s // 2], channels[s], s in NOISY_SIDES) for s in self.sides[1:]}
        )
        self.excitations = nn.ModuleDict(
            {
                str(side): SkipLayerExcitation(channels[small], channels[side])
                for side, small in EXCITED_BY.items()
                if side <= resolution
            }
        )
        self.to_image = conv(channels[resolution], 3, 3, padding=1)
        self.to_small_image = conv(channels[SMALL_SIDE], 3, 1) if resolution > SMALL_SIDE else None

    def forward(
        self, latent: torch.Tensor, noise: dict[int, torch.Tensor] | None = None, label: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """noise: side -> (b, 2, side, side), as draw_inputs returns it; None adds no noise."""
        if self.embedding is not None:
            latent = torch.cat([latent, self.embedding(label)], dim=1)
        maps = {4: self.start(latent[:, :, None, None])}
        for side in self.sides[1:]:
            maps[side] = self.stages[str(side)](maps[side // 2], (noise or {}).get(side))
            if side in EXCITED_BY:
                maps[side] = self.excitations[str(side)](maps[EXCITED_BY[side]], maps[side])
        images = [self.to_image(maps[self.resolution]).tanh()]
        if self.to_small_image is not None:
            images.append(self.to_small_image(maps[SMALL_SIDE]).tanh())
        return images


def draw_inputs(
    n: int, resolution: int, generator: torch.Generator, device: torch.device | None = None
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Latents (n, 256) and noise {side: (n, 2, side, side)}, standard normal, drawn on the generator's device."""
    where = {"generator": generator, "device": generator.device}
    latent = torch.randn(n, LATENT_SIZE, **where).to(device)
    sides = [side for side in NOISY_SIDES if side <= resolution]
    return latent, {side: torch.randn(n, 2, side, side, **where).to(device) for side in sides}


@torch.inference_mode()
def sample(network: Generator, seeds: Sequence[int], labels: Sequence[int] | None = None) -> np.ndarray:
    """Images (n, resolution, resolution, 3) uint8, each from its own seed and label; the other images of a batch change
    rounding only.

    network: in evaluation mode, in which batch norm uses stored statistics; labels (n,): for a class-conditional
    network only. Noise is added, since the network was trained with it; it is drawn for each image from its own seed,
    on the CPU for any device."""
    device = next(network.parameters()).device
    drawn = [draw_inputs(1, network.resolution, torch.Generator().manual_seed(seed)) for seed in seeds]
    latent = torch.cat([one for one, _ in drawn]).to(device)
    noise = {side: torch.cat([noise[side] for _, noise in drawn]).to(device) for side in drawn[0][1]}
    conditions = torch.tensor(labels, device=device) if network.n_classes else None
    images = network(latent, noise, conditions)[0]
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


# ---------------------------------------------------------------------------------------------------- discriminator


class DownStage(nn.Module):
    """A map (b, c, h, w) to one of half the side: the mean of two paths, one with two convolutions, the first of them
    strided, and one with average pooling and a 1 x 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.strided = nn.Sequential(
            *normed(conv(in_channels, out_channels, 4, 2, 1), out_channels),
            *normed(conv(out_channels, out_channels, 3, padding=1), out_channels),
        )
        self.pooled = nn.Sequential(nn.AvgPool2d(2), *normed(conv(in_channels, out_channels, 1), out_channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return (self.strided(maps) + self.pooled(maps)) / 2


def normed(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]


def logit_head(channels: int) -> nn.Sequential:
    """An 8 x 8 map to 5 x 5 logits, each of which sees half of the picture's height and width."""
    return nn.Sequential(*normed(conv(channels, channels, 1), channels), conv(channels, 1, 4))


def decoder(widths: Sequence[int]) -> nn.Sequential:
    """An 8 x 8 map of a discriminator to an image, -1..1; widths: channels of the map and after each doubled side."""
    stages = [UpStage(*pair, noisy=False) for pair in itertools.pairwise(widths)]
    return nn.Sequential(*stages, conv(widths[-1], 3, 3, padding=1), nn.Tanh())


class Discriminator(nn.Module):
    """Images, as the generator returns them, to logits; and decoders that rebuild images from the features.

    There are 5 x 5 logits from the image and, above 128 px, 5 x 5 more from its 128 px version, (b, 25 or 50); positive
    means real. With n_classes, the projection of the mean features on the label's embedding is added to each logit
    (Miyato and Koyama, cGANs with Projection Discriminator, ICLR 2018)."""

    def __init__(self, resolution: int, n_classes: int = 0, base_channels: int = FASTGAN_BASE_CHANNELS):
        super().__init__()
        self.resolution = resolution
        channels = channels_of(base_channels)
        first = min(resolution, 256)  # a larger image is shrunk by its first convolutions
        shrinking = [side for side in WIDTHS if first <= side < resolution][::-1]
        sides = [side for side in WIDTHS if 8 <= side < first][::-1]  # 128, 64, ... 8
        stem = [] if shrinking else [conv(3, channels[first], 3, padding=1), nn.LeakyReLU(0.2)]
        for side in shrinking:
            in_channels = 3 if side == resolution // 2 else channels[2 * side]
            stem += [conv(in_channels, channels[side], 4, 2, 1), nn.LeakyReLU(0.2)]
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleDict({str(side): DownStage(channels[2 * side], channels[side]) for side in sides})
        self.to_logits = logit_head(channels[8])
        self.small = None
        if resolution > SMALL_SIDE:
            small = [conv(3, channels[64], 4, 2, 1), nn.LeakyReLU(0.2)]
            for side in (32, 16, 8):
                small += normed(conv(channels[2 * side], channels[side], 4, 2, 1), channels[side])
            self.small = nn.Sequential(*small, logit_head(channels[8]))
        self.embedding = spectral_norm(nn.Embedding(n_classes, channels[8])) if n_classes else None
        half = {side: channels[side] // 2 for side in (16, 32, 64, 128) if side <= resolution}  # decoders are small
        self.decode_whole = decoder([channels[8], *half.values()])
        self.decode_quadrant = decoder([channels[16], *(half[side] for side in half if side <= resolution // 2)])

    def forward(self, images: list[torch.Tensor], label: torch.Tensor | None = None) -> tuple[torch.Tensor, dict]:
        """Logits, and the features {8: (b, 512, 8, 8), 16: (b, 256, 16, 16)} that `rebuild` takes."""
        maps = {min(self.resolution, 256): self.stem(images[0])}
        for side, stage in self.stages.items():
            maps[int(side)] = stage(maps[2 * int(side)])
        logits = [self.to_logits(maps[8]).flatten(1)]
        if self.small is not None:
            logits.append(self.small(images[1]).flatten(1))
        logits = torch.cat(logits, dim=1)
        if self.embedding is not None:
            logits = logits + (self.embedding(label) * maps[8].mean((2, 3))).sum(1, keepdim=True)
        return logits, {side: maps[side] for side in (8, 16)}

    def rebuild(self, features: dict[int, torch.Tensor], quadrant: int) -> list[torch.Tensor]:
        """The whole image from the 8 x 8 features and one of its quadrants, 0..3 row by row, from a quarter of the
        16 x 16 ones: (b, 3, 128, 128) each, or the side that whole and quadrant have where that is less."""
        return [self.decode_whole(features[8]), self.decode_quadrant(quadrant_of(features[16], quadrant))]


def quadrant_of(maps: torch.Tensor, quadrant: int) -> torch.Tensor:
    """A quarter (b, c, h / 2, w / 2) of maps: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    height, width = maps.shape[2] // 2, maps.shape[3] // 2
    top, left = height * (quadrant // 2), width * (quadrant % 2)
    return maps[:, :, top : top + height, left : left + width]


def shrunk(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images of at most `side` px, by the mean of whole blocks of pixels."""
    return F.avg_pool2d(images, images.shape[-1] // side) if images.shape[-1] > side else images


def versions(images: torch.Tensor) -> list[torch.Tensor]:
    """Real images as a generator of their resolution returns them: above 128 px with a second version of 128 px."""
    return [images, shrunk(images, SMALL_SIDE)] if images.shape[-1] > SMALL_SIDE else [images]


# ---------------------------------------------------------------------------------------- average weights, snapshots


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Move the exponential moving average towards the network after `step` steps, 1 the first.

    The decay is the paper's 0.999 from about step 9,000 on, and smaller before, so that the average of a short run does
    not hold the random initial weights. Buffers are copied; standing_statistics replaces those of batch norm before
    anything is sampled."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight.detach(), 1 - decay)
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)


@torch.no_grad()
def standing_statistics(
    network: Generator, generator: torch.Generator, batch_size: int, labels: Sequence[int] = ()
) -> Generator:
    """A copy for sampling, whose batch norm holds the statistics of its own maps over several batches of noise.

    The statistics gathered in training belong to other weights than the averaged ones. Brock et al., BigGAN, ICLR 2019,
    call the new ones standing statistics. labels: drawn from with equal probability, for a class-conditional network.
    """
    network = copy.deepcopy(network).train()
    device = next(network.parameters()).device
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    power_iterations = {name: buffer.clone() for name, buffer in network.named_buffers() if "parametrizations" in name}
    for _ in range(STANDING_BATCHES):
        drawn = torch.tensor(labels)[torch.randint(len(labels), (batch_size,), generator=generator)] if labels else None
        latent, noise = draw_inputs(batch_size, network.resolution, generator, device)
        network(latent, noise, drawn if drawn is None else drawn.to(device))
    for name, buffer in network.named_buffers():
        if name in power_iterations:
            buffer.copy_(power_iterations[name])
    return network.eval()


def save_generator(file: Path, network: Generator, described: dict) -> None:
    """Write a generator, whole or not at all, with what `described` says about it; sampling needs no other file.

    The same weights give the same bytes: the header has one entry, whose keys are sorted."""
    config = described | {name: getattr(network, name) for name in NETWORK}
    metadata = {"config": json.dumps(config, sort_keys=True)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: save_file(state, partial, metadata))


def read_config(file: Path) -> dict:
    """What a generator's file says about it, without reading the weights. Raises InputError for any other file."""
    with _readable(file), safe_open(file, "pt") as content:
        return dict(json.loads(content.metadata()["config"]))


def load_generator(file: Path, device: torch.device | str = "cpu") -> tuple[Generator, dict]:
    """A generator in evaluation mode, and what its file says about it. Raises InputError for any other file, and for
    values that are not finite."""
    with _readable(file), safe_open(file, "pt") as content:
        config = dict(json.loads(content.metadata()["config"]))
        network = Generator(*(config[name] for name in NETWORK))
        network.load_state_dict({name: content.get_tensor(name) for name in content.keys()})  # noqa: SIM118
        broken = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
        if broken:
            raise ValueError(f"{broken[0]} holds values that are not finite")
    return network.eval().to(device), config


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what libraries raise for a file that is not a generator's into an InputError of one line."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"generator {file.name}: {one_line(error)}; train_fastgan.py writes such files") from error
