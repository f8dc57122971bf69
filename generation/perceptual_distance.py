"""LPIPS: how unlike two pictures look, as a network sees them; each picture goes through the network once.

    network, column = load_lpips(None)
    references = {label: class_reference(network, pictures) for label, pictures in real.items()}
    distances = mean_lpips(network, synthetic, [references[label] for label in labels])

Zhang, Isola, Efros, Shechtman and Wang, CVPR 2018, arXiv 1801.03924; AlexNet at 256 x 256 px, as in the RDFace paper.
The library lpips is called with two stacks of pictures and computes the features of both anew in each call. Here the
features are laid out so that LPIPS is the squared Euclidean distance between them (perceptual_features). The mean
distance to a class then follows from the mean of the class's features, however many photographs the class has
(ClassReference). Both are identities, not approximations.
"""

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from classification.weight_files import read_weights
from harness.errors import InputError, one_line

SIDE_PX = 256
BATCH_SIZE = 16
RECENT = 64  # photographs whose features stay in memory
RANDOM = "random"  # value of --lpips that asks for a trunk without training
RANDOM_SEED = 0
PUBLISHED_TRUNK = "7be5be79"  # torchvision's AlexNet for ImageNet: the first digits of its SHA-256 are in its name


def load_lpips(weights: Path | str | None, device: torch.device | str = "cpu") -> tuple[nn.Module, str]:
    """An LPIPS network with AlexNet's trunk, and the name of the column for its distances.

    weights:
    - None: the published metric, column `lpips`. Its linear layers come with the library, its trunk is a file that
      torchvision downloads.
    - "random": the library's linear layers on an untrained trunk, always the same one; column `lpips_random`.
    - a file, .safetensors or .pth, read without unpickling: either all tensors of lpips.LPIPS(net="alex"), or those of
      torchvision's AlexNet, to which the library's linear layers are added. The column is `lpips` for torchvision's own
      file for ImageNet, which is known by its digest, and is named after any other file (column_name).

    The network takes pictures (b, 3, h, w) in -1..1; see perceptual_features for uint8. Raises InputError, one line
    that names --lpips, if the weights are not to be had, do not fit, or give no distance."""
    if weights is None:
        network, column = _published(), "lpips"
    elif str(weights) == RANDOM:
        network, column = _untrained(), f"lpips_{RANDOM}"
    else:
        network, column = _from_file(Path(weights))
    return network.to(device).requires_grad_(False).eval(), column


def column_name(file: Path) -> str:
    """The column for distances by the weights of this file: `lpips_` and the words of the file's name, in lower case.

    Leading words that every such file may have, `lpips` and then `alex` or `alexnet`, are left out as long as a word
    remains: lpips_alex_shift_tolerant.pth gives lpips_shift_tolerant, and alex.pth gives lpips_alex. Raises InputError
    for a name that would claim to be "random"."""
    words = re.findall(r"[a-z0-9]+", file.stem.lower()) or ["file"]
    for leading in (("lpips",), ("alex", "alexnet")):
        if len(words) > 1 and words[0] in leading:
            words = words[1:]
    if words == [RANDOM]:
        raise InputError(f"--lpips {file}: column lpips_{RANDOM} is that of untrained weights; rename the file")
    return "_".join(["lpips", *words])


def square_pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """A picture as the pixels that LPIPS and sharpness take: (SIDE_PX, SIDE_PX, 3) uint8 RGB.

    image: PIL of any mode, or (h, w, 3) uint8 RGB. The whole picture is resized with a triangle filter as wide as the
    reduction, which is what torchvision's Resize does with a PIL picture; if it is not square, it is stretched."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


@torch.inference_mode()
def perceptual_features(network: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """Features (b, d) of b pictures, whose squared Euclidean distances are their LPIPS.

    network: of load_lpips; pixels (b, h, w, 3) uint8 RGB. LPIPS sums, over five layers, the mean over places of the
    weighted squared differences of features that have unit length at each place. The root of weight / places is
    multiplied into the features here, and channels of weight 0 are left out. At 256 px a picture needs 2 MB."""
    device = next(network.parameters()).device
    pictures = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    parts = []
    for layer, linear in zip(network.net(network.scaling_layer(pictures)), network.lins, strict=True):
        weight = linear.model[-1].weight.flatten()  # (channels,)
        length = layer.square().sum(dim=1, keepdim=True).sqrt() + 1e-10  # the library's own guard against 0 / 0
        used = weight > 0
        scale = (weight[used] / layer[0, 0].numel()).sqrt()[:, None, None]
        parts.append((layer[:, used] / length * scale).flatten(1))
    return torch.cat(parts, dim=1)


def pairwise_lpips(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """LPIPS (m, n) of each of m pictures to each of n others; features (m, d) and (n, d) of perceptual_features."""
    distances = first.new_empty(len(first), len(second))
    for row, features in enumerate(first):  # torch.cdist adds half a million squares one by one, and is off by 2e-5
        distances[row] = (second - features).square().sum(dim=1)
    return distances


@dataclass(frozen=True)
class ClassReference:
    """What the mean LPIPS to a class's real photographs needs of them.

    The mean squared distance of a point to several others is its squared distance to their mean, plus their own mean
    squared distance to it. So 2 MB per class are kept, however many photographs the class has."""

    mean: torch.Tensor  # (d,) mean of the photographs' features
    spread: float  # mean squared distance of the photographs' features from their mean, in LPIPS
    n: int  # number of photographs

    def between_photographs(self) -> float:
        """Mean LPIPS between two different photographs of the class; NaN for a single one.

        Without it the distance of a synthetic image has no zero point: real photographs of a class differ, too."""
        return 2 * self.spread * self.n / (self.n - 1) if self.n > 1 else float("nan")


def class_reference(
    network: nn.Module, pictures: Iterable[np.ndarray], batch_size: int = BATCH_SIZE
) -> ClassReference | None:
    """The reference for one class; pictures: its real photographs (SIDE_PX, SIDE_PX, 3) uint8, read once and one batch
    at a time. None for no photograph."""
    n, mean, squares = 0, None, 0.0  # squares: sum of squared distances from the mean
    for pixels in _batches(pictures, batch_size):
        features = perceptual_features(network, pixels)
        batch_mean, b = features.mean(dim=0), len(features)
        squares += (features - batch_mean).square().sum().item()
        if mean is None:
            mean, n = batch_mean, b
            continue
        step = batch_mean - mean  # two sets become one: Chan, Golub and LeVeque, 1983
        squares += step.square().sum().item() * n * b / (n + b)
        mean, n = mean + step * (b / (n + b)), n + b
    return None if mean is None else ClassReference(mean, squares / n, n)


def mean_lpips(
    network: nn.Module,
    pictures: Iterable[np.ndarray],
    references: Sequence[ClassReference | None],
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """Mean LPIPS (m,), >= 0, of each picture to all real photographs of a class.

    pictures: m of (SIDE_PX, SIDE_PX, 3) uint8, read once; references: for each picture that of its label, or None for a
    picture without a label or a class without photographs, which gives NaN. Memory does not grow with m. The fewer
    photographs a class has, the smaller the number for a copy of one of them: 0 for a class of one."""
    return mean_and_nearest_lpips(network, pictures, references, None, None, batch_size)[0]


class PhotographFeatures:
    """The features of photographs by their row, of which the RECENT last ones stay in memory, 2 MB each.

    Synthetic images come condition by condition, so those of a condition are computed once for all its images."""

    def __init__(self, network: nn.Module, pictures: np.ndarray):
        """pictures (n, SIDE_PX, SIDE_PX, 3) uint8."""
        self._network, self._pictures = network, pictures
        self._recent: dict[int, torch.Tensor] = {}  # the last one used stands last

    def __getitem__(self, row: int) -> torch.Tensor:
        """(d,), see perceptual_features."""
        features = self._recent.pop(row, None)
        if features is None:
            features = perceptual_features(self._network, self._pictures[row : row + 1])[0]
        self._recent[row] = features
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return features


def mean_and_nearest_lpips(
    network: nn.Module,
    pictures: Iterable[np.ndarray],
    references: Sequence[ClassReference | None],
    candidates: Sequence[Sequence[int]] | None,
    photographs: PhotographFeatures | None,
    batch_size: int = BATCH_SIZE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As mean_lpips, and of each picture's candidates the photograph at the smallest LPIPS: its row (m,) and distance.

    candidates: for each picture the rows of the photographs that it is compared with; none of them, or None for all
    pictures, gives -1 and NaN. Each picture goes through the network once."""
    references, means = list(references), []
    candidates = [()] * len(references) if candidates is None else candidates
    rows, distances = np.full(len(references), -1), np.full(len(references), np.nan)
    for pixels in _batches(pictures, batch_size):
        if len(means) + len(pixels) > len(references):
            raise ValueError(f"there are more pictures than the {len(references)} references")
        for features in perceptual_features(network, pixels):
            picture, reference = len(means), references[len(means)]
            mean = float("nan")
            if reference is not None:
                mean = (features - reference.mean).square().sum().item() + reference.spread
            means.append(mean)
            for row in candidates[picture]:
                distance = (features - photographs[row]).square().sum().item()
                if not distance >= distances[picture]:  # also if there is none yet
                    rows[picture], distances[picture] = row, distance
    if len(means) != len(references):
        raise ValueError(f"there are {len(references)} references for {len(means)} pictures")
    return np.array(means, float), rows, distances


def _batches(pictures: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Stacks (b, SIDE_PX, SIDE_PX, 3) of at most batch_size pictures. Raises ValueError for another shape or type."""
    batch = []
    for row, picture in enumerate(pictures):
        if picture.shape != (SIDE_PX, SIDE_PX, 3) or picture.dtype != np.uint8:
            raise ValueError(f"picture {row} is {picture.shape} {picture.dtype}; use square_pixels")
        batch.append(picture)
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _published() -> nn.Module:
    import lpips  # here, because its import takes a second

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision in a deprecated way
            return lpips.LPIPS(net="alex", verbose=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:  # no network, or a file cut short
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"LPIPS: AlexNet's weights are neither in {folder} nor to be had ({one_line(error)}); give the file of "
            f"weights with --lpips FILE, or take an untrained network with --lpips {RANDOM}"
        ) from error


def _untrained() -> nn.Module:
    """The library's linear layers on a trunk of random weights, the same ones in each process."""
    import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(RANDOM_SEED)
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)


def _from_file(file: Path) -> tuple[nn.Module, str]:
    try:
        state = read_weights(file)
    except InputError as error:
        raise InputError(f"--lpips: {error}") from error
    network = _untrained()
    own = network.state_dict()
    column = column_name(file)
    if "features.0.weight" in state:  # torchvision's AlexNet: a trunk only
        trunk = {key: f"features.{'.'.join(key.split('.')[2:])}" for key in own if key.startswith("net.")}
        state = own | {key: state[name] for key, name in trunk.items() if name in state}
        if hashlib.sha256(file.read_bytes()).hexdigest().startswith(PUBLISHED_TRUNK):
            column = "lpips"
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    resized = {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape}
    for keys, problem in ((missing, "is missing"), (unknown, "is unknown"), (resized, "has another shape")):
        if keys:
            raise InputError(f'--lpips {file}: {min(keys)} {problem}; give the weights of lpips.LPIPS(net="alex")')
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise InputError(f"--lpips {file}: {key} holds values that are not finite; give a file that is whole")
        if key.startswith("lin") and (tensor < 0).any():
            raise InputError(f"--lpips {file}: {key} holds negative weights, which give no distance; give others")
    network.load_state_dict(state)
    return network, column
