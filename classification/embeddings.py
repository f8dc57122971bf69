"""Embeddings of photographs by one network or several: any backbone, or a face-recognition network in an ONNX file.

A recognition network gets the faces as it was trained on them: 112 px, cut out by five landmarks. Each picture can be
seen in several views (few_shot_names.VIEWS), each of which goes through the network once; crops are for backbones only,
because a recognition network has its own places of a face.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator
from PIL import Image, ImageOps

from classification.backbones import Backbone, load_backbone
from classification.extraction import features_of
from classification.few_shot_names import CROPPED_SIDE, CROPS, GREY_VIEWS
from classification.run_results import network_input
from harness.errors import InputError, one_line
from harness.weights_digest import weights_sha256
from imaging.face_embeddings import Embedder, load_embedder
from imaging.faces import load_detector
from imaging.pixel_cache import JoinedArrays, Pixels, cached_pixels, join

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as Pillow's
DETECTED_AT_ONCE = 16  # photographs
OTHER_SIDE = (1, 0, 2, 4, 3)  # landmarks of a mirrored face: eyes and mouth corners change places


@dataclasses.dataclass
class Network:
    """A network that embeds photographs."""

    name: str  # as the user named it
    backbone: Backbone | None = None
    embedder: Embedder | None = None  # of a recognition network
    detector: str | None = None  # that finds the faces for a recognition network

    @property
    def input(self) -> dict:
        """How it gets photographs, as far as the network's own file does not decide that."""
        return network_input(self.backbone) if self.backbone else {"face_alignment": self.detector}

    @property
    def sha256(self) -> str:
        return self.embedder.weights_sha256 if self.embedder else weights_sha256(self.backbone.network)


def open_network(
    name: str, weights: Path | None, image_size: int | None, align_faces: str | None, paper_input: bool = False
) -> Network:
    """The network called `name`: see backbones.load_backbone; or NAME.onnx, a recognition network of ArcFace's layout.

    align_faces: detector that cuts out the faces, "none" for whole photographs, None for the network's own setting,
    which for a recognition network is mtcnn. Raises InputError if it cannot be had, or takes no such input."""
    if not name.endswith(".onnx"):
        backbone = load_backbone(name, weights, image_size, paper_input)
        if align_faces:
            backbone.face_alignment = None if align_faces == "none" else align_faces
        return Network(name, backbone)
    if weights or image_size or align_faces == "none":
        reason = "a recognition network has its weights, its size and faces cut out by landmarks"
        raise InputError(
            f"--backbone {name}: {reason}; leave out --backbone_weights, --resolution and --align_faces none"
        )
    if not Path(name).is_file():
        raise InputError(f"--backbone {name}: no such file; give an .onnx file of a face-recognition network")
    return Network(name, embedder=load_embedder(Path(name), "cpu", "--backbone"), detector=align_faces or "mtcnn")


class Viewed:
    """Pictures (n, side, side, 3) uint8 in one view of VIEWS, made when rows are read; memory maps are not copied."""

    def __init__(self, uint8: np.ndarray | JoinedArrays, view: str):
        self.uint8, self.view = uint8, view

    def __len__(self) -> int:
        return len(self.uint8)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        pictures = np.asarray(self.uint8[rows])
        if (crop := self.view.removesuffix(", mirrored")) in CROPS:
            pictures = np.stack([cropped(picture, crop) for picture in pictures])
        if "mirrored" in self.view:
            pictures = pictures[:, :, ::-1]
        if "grey" in self.view:
            grey = np.rint(pictures @ np.array(GREY_WEIGHTS, np.float32)).astype(np.uint8)
            pictures = np.repeat(grey[..., None], 3, axis=-1)
        return np.ascontiguousarray(pictures)


def cropped(picture: np.ndarray, crop: str) -> np.ndarray:
    """CROPPED_SIDE of the sides of a picture (h, w, 3) uint8, in one of CROPS, enlarged (bicubic) to h x w again."""
    height, width = picture.shape[:2]
    spare = np.array([width, height]) * (1 - CROPPED_SIDE)
    share = {"left": 0.0, "right": 1.0, "top": 0.0, "bottom": 1.0}
    words = crop.split()
    left = next((share[word] for word in words if word in ("left", "right")), 0.5) * spare[0]
    top = next((share[word] for word in words if word in ("top", "bottom")), 0.5) * spare[1]
    box = (left, top, left + width - spare[0], top + height - spare[1])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box=box))


def decode(accelerator: Accelerator, parts: Sequence[datasets.Dataset], network: Network, cache_dir: Path) -> Pixels:
    """The pixels of the datasets' rows as the network's backbone takes them, from the cache or decoded now, with
    records for copies if there are several datasets."""
    backbone = network.backbone
    decoding = (backbone.image_size, backbone.face_alignment, cache_dir)
    return join([cached_pixels(accelerator, part, *decoding, records=len(parts) > 1) for part in parts])


def embed(
    accelerator: Accelerator,
    network: Network,
    parts: Sequence[datasets.Dataset],
    views: Sequence[str],
    cache_dir: Path,
    batch_size: int,
) -> np.ndarray:
    """Embeddings (n, views, d) float32 of unit length, of all rows of the datasets, alike on all processes.

    Those of a backbone are probe_features: signed square roots, all places of a map. Raises InputError that names an
    image which cannot be decoded, or whose embedding is not finite, and ValueError for crops of a recognition network's
    picture."""
    n = sum(map(len, parts))
    if network.embedder:
        of_views = [_recognised(network, parts, view, batch_size) for view in views]
    else:
        uint8 = decode(accelerator, parts, network, cache_dir).uint8
        rows = np.arange(n)
        seen = [uint8 if view == "as it is" else Viewed(uint8, view) for view in views]
        of_views = [features_of(accelerator, network.backbone, pictures, rows, batch_size) for pictures in seen]
    embeddings = np.stack(of_views, axis=1)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=(1, 2)))
    if len(bad):
        ids = [name for part in parts for name in _ids(part)]
        raise InputError(f"image {ids[bad[0]]}: features are not finite; use --mixed_precision no")
    return embeddings


def _ids(part: datasets.Dataset) -> list[str]:
    return part["image_id" if "image_id" in part.column_names else "synthetic_id"][:]


def _recognised(network: Network, parts: Sequence[datasets.Dataset], view: str, batch_size: int) -> np.ndarray:
    """Embeddings (n, d) of the largest face of each photograph; without a face, of the whole photograph."""
    if view not in GREY_VIEWS:
        raise ValueError(f"a recognition network has no view {view}")
    detector = load_detector(network.detector, "cpu")
    vectors = []
    for part in parts:
        for start in range(0, len(part), DETECTED_AT_ONCE):
            pictures = [_picture(part, row) for row in range(start, min(start + DETECTED_AT_ONCE, len(part)))]
            faces = detector.detect(pictures)
            whole = [network.embedder.places * picture.size for picture in pictures]
            marks = [place if face is None else face.landmarks for face, place in zip(faces, whole, strict=True)]
            if "grey" in view:
                pictures = [picture.convert("L").convert("RGB") for picture in pictures]
            if "mirrored" in view:
                marks = [
                    np.stack([picture.width - 1 - points[list(OTHER_SIDE), 0], points[list(OTHER_SIDE), 1]], axis=1)
                    for picture, points in zip(pictures, map(np.asarray, marks), strict=True)
                ]
                pictures = [ImageOps.mirror(picture) for picture in pictures]
            vectors.append(network.embedder.embed(pictures, np.stack(marks), batch_size))
    return np.concatenate(vectors)


def _picture(part: datasets.Dataset, row: int) -> Image.Image:
    try:
        return part[row]["image"].convert("RGB")
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: the image is null
        raise InputError(f"image {_ids(part)[row]} cannot be decoded ({one_line(error)}); build again") from error


def averaged(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """One feature (n, d) of unit length per image: the mean over each network's views, the networks side by side.

    embeddings: of each network, (n, views, d_i)."""
    means = [each.mean(axis=1, dtype=np.float64) for each in embeddings]
    unit = [mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12) for mean in means]
    return np.concatenate(unit, axis=1) / np.sqrt(len(unit))


def side_by_side(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """(n, sum of views * d_i) float32 of unit length; an inner product is the mean cosine over networks and views.

    embeddings: of each network, (n, views, d_i), each of unit length."""
    flat = [
        (each / np.linalg.norm(each, axis=2, keepdims=True).clip(1e-12)).reshape(len(each), -1) for each in embeddings
    ]
    n_vectors = sum(each.shape[1] for each in embeddings)
    return np.ascontiguousarray(np.concatenate(flat, axis=1) / np.sqrt(n_vectors), np.float32)


def content_digest(networks: Sequence[Network]) -> str:
    """One digest of the weights of all networks, in their order."""
    return hashlib.sha256(" ".join(network.sha256 for network in networks).encode()).hexdigest()
