"""The networks that restore old photographs, read through spandrel, and what each of them does to a picture.

    upscaler = load_network("RealESRGAN_x4plus.pth", "upscaler", device)
    larger = upscale(upscaler, np.stack([picture]), tile_px=512)       # (1, 4 h, 4 w, 3)
    colored = colorize(load_network("ddcolor_modelscope.pth", "colorizer", device), larger[0])

Weights are a local file or a file on the Hub, and are never unpickled. Each function works on uint8 RGB
pictures; the other pictures of its batch change a result by rounding errors only.
"""

import contextlib
import dataclasses
import hashlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import httpx2
import huggingface_hub
import numpy as np
import safetensors.torch
import spandrel
import torch
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from skimage.transform import SimilarityTransform

from harness.errors import InputError, one_line
from imaging import photographs
from imaging.restoration_settings import KNOWN, MIN_TILE_PX, ROLES

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
# At a tile's inner edges the outermost MARGIN_PX are discarded, since the network saw nothing beyond them; over the
# next RAMP_PX, neighbouring tiles fade into each other.
MARGIN_PX, RAMP_PX = 16, 16
OVERLAP_PX = 2 * MARGIN_PX + RAMP_PX

FACE_PX = 512
# Where the eyes, nose and mouth corners (faces.LANDMARKS) lie in the aligned faces that GFPGAN, CodeFormer and
# RestoreFormer were trained on: FFHQ's alignment (Karras et al., CVPR 2019) at 512 px.
FACE_LANDMARKS = np.array([(193.0, 239.9), (318.9, 240.2), (256.6, 314.0), (201.3, 371.4), (313.1, 371.2)])
# spandrel gives every network 0..1 and clips what it returns to that range, but these were trained on -1..1 and return
# that range.
CENTRED = ("GFPGAN", "CodeFormer")
FEATHER_PX = 24  # of the pasted face, at 512 px; a border of that width is left out

# How far, of 255, the colours of a print of one tone may be from one curve over brightness, because of grain and JPEG.
# Measured: at most 5 for a two-tone print, 33 and more for colour photographs of faces and things (scikit-image's and
# scikit-learn's), 15 and more for 411 simulated faces. In doubt, a photograph keeps its colours.
TONE_TOLERANCE = 8


@dataclasses.dataclass(frozen=True)
class Network:
    """A restoring network ready to run, and what is recorded of it."""

    descriptor: spandrel.ImageModelDescriptor
    name: str  # file name, or ORG/NAME/FILE on the Hub; never a local path
    sha256: str  # of the weights' file
    license: str | None  # where it is known

    @property
    def scale(self) -> int:
        return self.descriptor.scale

    @property
    def device(self) -> torch.device:
        return self.descriptor.device

    def __str__(self) -> str:
        license = f", {self.license}" if self.license else ""
        return f"{self.name} ({self.descriptor.architecture.id}, sha256 {self.sha256[:12]}{license})"


def load_network(source: str, role: str, device: torch.device | str = "cpu") -> Network:
    """The network of weights `source` for one of ROLES, in single precision and evaluation mode.

    source: a .safetensors file, a .pth file that holds only tensors, ORG/NAME/FILE on the Hub, ORG/NAME if that
    repository holds a single such file, or a short name of KNOWN. Raises InputError if there is no such file, if
    spandrel does not know the architecture, or if the architecture is for another role."""
    file, name, license = find_weights(source, role)
    state = _read_tensors(file, role)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of a decorator in CodeFormer's code
        import spandrel_extra_arches  # DDColor, CodeFormer
    spandrel_extra_arches.install(ignore_duplicates=True)
    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(state))
    except Exception as error:  # each architecture reads its sizes in its own way, and fails in its own way
        reason = f"spandrel cannot make a network of it ({type(error).__name__})"
        raise InputError(f"--{role} {name}: {reason}; give {ROLES[role]}") from error
    if not _fits(descriptor, role):
        kind = f"{descriptor.architecture.name}, purpose {descriptor.purpose}"
        raise InputError(f"--{role} {name} is another kind of network ({kind}); give {ROLES[role]}")
    bad = [key for key, tensor in descriptor.model.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise InputError(f"--{role} {name}: {bad[0]} holds values that are not finite; download it again")
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    descriptor.model.eval().requires_grad_(False).float().to(device)
    return Network(descriptor, name, sha256, license)


def find_weights(source: str, role: str) -> tuple[Path, str, str | None]:
    """The local file of weights `source` (see load_network), its public name, and its licence where known."""
    path = Path(source)
    if path.is_file():
        return path, path.name, None
    if path.is_dir():
        raise InputError(f"--{role} {path.name} is a folder; give the weights' file in it")
    if source in KNOWN:
        repo_id, file, license = KNOWN[source]
    elif re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)+", source) and not (
        source.count("/") == 1 and path.suffix in SUFFIXES
    ):
        organisation, repository, *rest = source.split("/")
        repo_id, file, license = f"{organisation}/{repository}", "/".join(rest) or None, None
    else:
        names = ", ".join(KNOWN)
        raise InputError(f"--{role} {source}: there is no such file; give one, ORG/NAME/FILE on the Hub, or {names}")
    try:
        file = file or _only_weights(repo_id, role)
        return Path(huggingface_hub.hf_hub_download(repo_id, file)), f"{repo_id}/{file}", license
    except (HfHubHTTPError, OSError, ValueError, httpx2.HTTPError) as error:
        cache = huggingface_hub.constants.HF_HUB_CACHE
        raise InputError(
            f"--{role} {source}: {file or 'its list of files'} is neither in {cache} nor to be had from "
            f"{huggingface_hub.constants.ENDPOINT} ({type(error).__name__}); give a downloaded file with --{role} FILE"
        ) from error


def _only_weights(repo_id: str, role: str) -> str:
    files = [name for name in huggingface_hub.HfApi().list_repo_files(repo_id) if name.endswith(SUFFIXES)]
    if len(files) != 1:
        listed = f" ({', '.join(sorted(files)[:5])})" if files else ""
        raise InputError(f"--{role} {repo_id} holds {len(files)} files of weights{listed}; give {repo_id}/FILE")
    return files[0]


def _read_tensors(file: Path, role: str) -> dict:
    if file.suffix not in SUFFIXES:
        raise InputError(f"--{role} {file.name}: weights end in one of {' '.join(SUFFIXES)}")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # formats raise their own: UnpicklingError, SafetensorError, RuntimeError, EOFError
        reason = f"{type(error).__name__}, {one_line(error).split('. ')[0]}"
        raise InputError(f"--{role} {file.name}: {reason}; give a .safetensors file or a plain state dict") from error


def _fits(descriptor: spandrel.ModelDescriptor, role: str) -> bool:
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        return False
    channels = descriptor.input_channels, descriptor.output_channels
    if role == "colorizer":
        return descriptor.architecture.id == "DDColor" and channels == (1, 3)
    purpose = {"upscaler": "SR", "face_enhancer": "FaceSR"}[role]
    return descriptor.purpose == purpose and channels == (3, 3)


# --------------------------------------------------------------------------------------------------------- upscaling


def upscale(
    network: Network,
    pictures: np.ndarray,
    tile_px: int = 512,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> np.ndarray:
    """Pictures (b, h, w, 3) uint8 enlarged by the network's own scale s: (b, s h, s w, 3) uint8.

    A picture with a side above tile_px goes through the network in tiles of that side, b at a time, which overlap and
    fade into each other. autocast: what makes the context of mixed precision. Where memory does not suffice, fewer
    pictures and then smaller tiles are tried. Raises ValueError if the network returns values that are not finite, and
    MemoryError where even tiles of MIN_TILE_PX are too much."""
    try:
        if max(pictures.shape[1:3]) <= tile_px:
            return _to_uint8(_enlarged(network, pictures, autocast))
        return np.stack([_in_tiles(network, picture, tile_px, len(pictures), autocast) for picture in pictures])
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    # Here, where the exception and with it the tensors of the frames it came through are gone.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(pictures) > 1:
        half = len(pictures) // 2
        parts = pictures[:half], pictures[half:]
        return np.concatenate([upscale(network, part, tile_px, autocast) for part in parts])
    smaller = min(tile_px, max(pictures.shape[1:3])) // 2
    if smaller < MIN_TILE_PX:
        raise MemoryError(f"not even tiles of {MIN_TILE_PX} px fit into memory")
    return upscale(network, pictures, smaller, autocast)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """On a GPU the error has a class of its own; on a CPU only its words tell."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


@torch.inference_mode()
def _enlarged(network: Network, pictures: np.ndarray, autocast: Callable) -> np.ndarray:
    """(b, h, w, 3) uint8 to (b, s h, s w, 3) float32 in 0..1. Raises ValueError if a value is not finite."""
    pixels = torch.tensor(pictures, device=network.device).permute(0, 3, 1, 2).float() / 255
    with autocast():
        enlarged = network.descriptor(pixels)
    enlarged = enlarged.float().permute(0, 2, 3, 1).cpu().numpy()
    if not np.isfinite(enlarged).all():
        raise ValueError("the upscaler's result is not finite; use --mixed_precision no")
    return enlarged


def _in_tiles(network: Network, picture: np.ndarray, tile_px: int, batch_size: int, autocast: Callable) -> np.ndarray:
    """One picture (h, w, 3) uint8, one row of tiles after another, so that only one row is held as float32."""
    height, width, scale = *picture.shape[:2], network.scale
    tops, rows_px, row_weights = _tiles(height, tile_px, scale)
    lefts, columns_px, column_weights = _tiles(width, tile_px, scale)
    enlarged = np.empty((height * scale, width * scale, 3), np.uint8)
    band = np.zeros((rows_px * scale, width * scale, 3), np.float32)
    for top, weights, next_top in zip(tops, row_weights, [*tops[1:], height], strict=True):
        for start in range(0, len(lefts), batch_size):
            batch = lefts[start : start + batch_size]
            tiles = [picture[top : top + rows_px, left : left + columns_px] for left in batch]
            for left, column, tile in zip(
                batch, column_weights[start:], _enlarged(network, np.stack(tiles), autocast), strict=False
            ):
                band[:, left * scale : (left + columns_px) * scale] += tile * weights[:, None, None] * column[:, None]
        finished = (next_top - top) * scale
        enlarged[top * scale : next_top * scale] = _to_uint8(band[:finished])
        band = np.concatenate([band[finished:], np.zeros((finished, *band.shape[1:]), np.float32)])
    return enlarged


def _tiles(length: int, tile_px: int, scale: int) -> tuple[list[int], int, np.ndarray]:
    """Along one side: where tiles start (n,), their size, and their weights (n, size * scale); at every place these sum
    to 1."""
    size = min(length, tile_px)
    n = max(1, -(-(length - OVERLAP_PX) // (size - OVERLAP_PX))) if length > size else 1
    starts = np.linspace(0, length - size, n).round().astype(int)
    inside = (np.arange(size * scale) + 0.5) / scale  # px from the tile's start
    weights = np.ones((n, size * scale))
    rise = ((inside - MARGIN_PX) / RAMP_PX).clip(0, 1)
    weights[1:] *= rise
    weights[:-1] *= rise[::-1]
    total = np.zeros(length * scale)
    for start, weight in zip(starts, weights, strict=True):
        total[start * scale : (start + size) * scale] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start * scale : (start + size) * scale]
    return starts.tolist(), size, weights.astype(np.float32)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return (255 * pixels).round().clip(0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------ face, colour


@torch.inference_mode()
def enhance_face(network: Network, restored: np.ndarray, original: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The restored picture (H, W, 3) uint8 with the face that the network makes of the original (h, w, 3) uint8.

    landmarks (5, 2) px of the original, in the order of faces.LANDMARKS. The face is turned upright at 512 px, restored
    and put back with soft edges, as GFPGAN's authors do (Wang et al., CVPR 2021, arXiv 2101.04061). Raises ValueError
    for landmarks that span no face and for a result that is not finite."""
    upright, matrix = _upright_face(original, landmarks)
    face = _enhanced(network, upright)
    mask = np.zeros((FACE_PX, FACE_PX), np.float32)
    mask[FEATHER_PX:-FEATHER_PX, FEATHER_PX:-FEATHER_PX] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), FEATHER_PX / 3)  # 0 at the edge of the face, nearly
    # From the upright face to the original, and on to the restored picture; pixel centres lie at +0.5.
    scale = np.array([restored.shape[1] / original.shape[1], restored.shape[0] / original.shape[0]])
    back = cv2.invertAffineTransform(matrix)
    back = np.column_stack([back[:, :2] * scale[:, None], (back[:, 2] + 0.5) * scale - 0.5])
    size = restored.shape[1::-1]
    pasted = cv2.warpAffine(face, back, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(mask, back, size, flags=cv2.INTER_LINEAR)[..., None]
    return (restored + mask * (pasted - restored)).round().clip(0, 255).astype(np.uint8)


def _upright_face(picture: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face (512, 512, 3) uint8, and the matrix (2, 3) that takes px of the picture there."""
    transform = SimilarityTransform.from_estimate(np.asarray(landmarks, float), FACE_LANDMARKS)
    if not transform or not np.isfinite(transform.params).all() or transform.scale <= 0:
        raise ValueError(f"landmarks {np.round(landmarks, 1).tolist()} span no face")
    matrix = transform.params[:2]
    if transform.scale < 1:  # warping alone would skip pixels
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5 * np.sqrt(transform.scale**-2 - 1))
    face = cv2.warpAffine(
        picture, matrix, (FACE_PX, FACE_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=(0,) * 3
    )
    return face, matrix


def _enhanced(network: Network, face: np.ndarray) -> np.ndarray:
    """(512, 512, 3) uint8 to float32 in 0..255 of the same shape."""
    pixels = torch.tensor(face, device=network.device).permute(2, 0, 1)[None].float() / 255
    architecture = network.descriptor.architecture.id
    if architecture in CENTRED:
        # GFPGAN would draw noise anew in every call; its file brings noise of its own.
        options = {"randomize_noise": False} if architecture == "GFPGAN" else {}
        enhanced = (network.descriptor.model(2 * pixels - 1, **options)[0].clamp(-1, 1) + 1) / 2
    else:
        enhanced = network.descriptor(pixels)
    enhanced = enhanced[0].float().permute(1, 2, 0).cpu().numpy()
    if not np.isfinite(enhanced).all():
        raise ValueError("the face enhancer's result is not finite")
    return 255 * enhanced


@torch.inference_mode()
def colorize(network: Network, picture: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) uint8 in the colours that the network predicts; those it had are given up.

    DDColor (Kang et al., ICCV 2023, arXiv 2212.11613) sees the picture at 256 px and predicts a and b of CIELAB; the
    lightness stays that of the picture. Raises ValueError for a result that is not finite."""
    grey = np.array(Image.fromarray(picture).convert("L"))
    pixels = torch.tensor(grey, device=network.device)[None, None].float() / 255
    coloured = network.descriptor(pixels)[0].permute(1, 2, 0).cpu().numpy()
    if not np.isfinite(coloured).all():
        raise ValueError("the colorizer's result is not finite")
    return _to_uint8(coloured)


def is_monochrome(image: Image.Image) -> bool:
    """Whether an RGB photograph is black and white, or a print of one tone such as sepia: all its colours lie on one
    curve over brightness, to within TONE_TOLERANCE of 255 in 99 % of a 64 px reduction."""
    if photographs.is_grayscale(image):
        return True
    small = np.asarray(image.reduce(max(1, min(image.size) // 64)), np.float64).reshape(-1, 3)
    brightness = small @ (0.299, 0.587, 0.114)
    colour = small[:, [0, 2]] - brightness[:, None]  # red and blue, less what they have in common with the brightness
    curve = np.vander(brightness / 255, 3)
    residual = colour - curve @ np.linalg.lstsq(curve, colour, rcond=None)[0]
    return bool(np.percentile(np.abs(residual).max(axis=1), 99) <= TONE_TOLERANCE)
