"""Examines pictures of faces: each is decoded once, and everything that a filter asks about it is measured.

    examiner = Examiner(faces.load_detector("mtcnn"), load_backbone("demo_models/backbone"), "cpu")
    examined = examiner.examine([{"bytes": png}, ...])     # as column `image` holds them undecoded

A picture that cannot be decoded, and one without a face, has nan in its measurements and a problem in words; nothing
stops the run."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from classification.backbones import Backbone, normalise
from generation import realism
from generation.copy_network import CopyNetwork
from generation.perceptual_distance import square_pixels
from generation.photograph_copies import Pictures, picture_views
from harness.errors import one_line
from harness.files import write_atomically
from imaging import faces, near_duplicates
from imaging.face_embeddings import Embedder

ALIGNED_PX = 128  # side of the aligned face of which `views` are made
NO_FACE = "no face was found"


@dataclasses.dataclass
class Examined:
    """What was measured of n pictures; nan without a face, and in a picture that cannot be decoded."""

    problems: np.ndarray  # (n,) str, empty if there is none
    n_faces: np.ndarray  # (n,) int, of those that score at least the threshold
    boxes: np.ndarray  # (n, 4) px as x1, y1, x2, y2, of the largest of them
    face_scores: np.ndarray  # (n,)
    landmarks: np.ndarray  # (n, 5, 2) px
    dense: np.ndarray  # (n, k, 2) px, of a detector that has more than five landmarks; k is 0 with any other
    sharpness: np.ndarray  # (n,)
    features: np.ndarray  # (n, d) float32 of the backbone, of the aligned face, flattened
    mirrored: np.ndarray  # (n, d) float32 of the same face mirrored left to right
    identities: np.ndarray  # (n, e) float32: of the face-recognition network, or the features again
    mirrored_identities: np.ndarray  # (n, e) float32: of the mirrored face; a face-recognition network tells no sides
    copy_descriptors: np.ndarray  # (n, c) float32: of the copy-detection network, or the features again
    mirrored_copy_descriptors: np.ndarray  # (n, c) float32: of the mirrored picture
    views: np.ndarray  # (n, 3, s, s) uint8, see photograph_copies.picture_views
    records: np.ndarray  # (n,), see near_duplicates.record
    pixels: np.ndarray  # (n, 256, 256, 3) uint8, as LPIPS sees the picture; black if it cannot be decoded

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def pictures(self) -> Pictures:
        """What the search for copies compares."""
        return Pictures(self.views, self.records, self.copy_descriptors, self.mirrored_copy_descriptors)

    def save(self, file: Path) -> None:
        def write(partial: Path) -> None:
            with partial.open("wb") as content:
                np.savez(content, **vars(self))

        write_atomically(file, write)

    @staticmethod
    def load(file: Path) -> "Examined":
        with np.load(file) as arrays:
            return Examined(**arrays)

    @staticmethod
    def joined(parts: "Sequence[Examined]") -> "Examined":
        names = [field.name for field in dataclasses.fields(Examined)]
        return Examined(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def rows(self, rows: np.ndarray) -> "Examined":
        return Examined(*(values[rows] for values in vars(self).values()))


@dataclasses.dataclass
class Examiner:
    """The networks that look at a picture. border: black border for the detector, see Detector.detect."""

    detector: faces.Detector
    backbone: Backbone
    device: torch.device | str
    embedder: Embedder | None = None  # None: the backbone's features stand for the identity
    threshold: float | None = None
    border: float = 0.0
    copy_network: CopyNetwork | None = None  # None: the backbone's features of the face find candidates for copies

    def __post_init__(self):
        self.backbone.network.to(self.device)

    def examine(self, encoded: Sequence[Mapping]) -> Examined:
        """encoded: `bytes` and `path` of n pictures, as datasets.Image(decode=False) returns them."""
        decoded = [decode(picture) for picture in encoded]
        pictures = [picture if picture is not None else Image.new("RGB", (8, 8)) for picture, _ in decoded]
        undecoded = np.array([picture is None for picture, _ in decoded])
        arrays = [np.asarray(picture) for picture in pictures]
        detected = self.detector.detect(pictures, self.threshold, border=self.border)
        aligned = [self._aligned(array, face) for array, face in zip(arrays, detected, strict=True)]
        has_face = np.array([face is not None for face in aligned]) & ~undecoded
        largest = [face if usable else None for face, usable in zip(detected, has_face, strict=True)]
        problems = [
            problem or ("" if usable else NO_FACE) for (_, problem), usable in zip(decoded, has_face, strict=True)
        ]
        landmarks = _filled(largest, lambda face: face.landmarks, (5, 2))
        n_dense = self.detector.network.n_dense
        features, mirrored = self._features(aligned)
        identities = features if self.embedder is None else self._identities(arrays, landmarks, has_face)
        described = self._copy_descriptors(pictures, undecoded) if self.copy_network else (features, mirrored)
        pixels = np.stack([square_pixels(picture) for picture in pictures])
        pixels[undecoded] = 0
        records = [near_duplicates.record(picture) for picture in pictures]
        return Examined(
            problems=np.array(problems, dtype=str),
            n_faces=np.array([0 if face is None else face.n_faces for face in largest]),
            boxes=_filled(largest, lambda face: face.box, (4,)),
            face_scores=_filled(largest, lambda face: face.score, ()),
            landmarks=landmarks,
            dense=_filled(largest, lambda face: face.dense if n_dense else np.nan, (n_dense, 2)),
            sharpness=np.where(undecoded, np.nan, realism.sharpness(list(pixels))),
            features=features,
            mirrored=mirrored,
            identities=identities,
            mirrored_identities=mirrored if self.embedder is None else identities,
            copy_descriptors=described[0],
            mirrored_copy_descriptors=described[1],
            views=np.stack([picture_views(record, face) for record, face in zip(records, aligned, strict=True)]),
            records=np.stack(records),
            pixels=pixels,
        )

    def _aligned(self, picture: np.ndarray, face: faces.Face | None) -> np.ndarray | None:
        """The face upright, or None if there is none, or if its landmarks span none."""
        try:
            return face and faces.align(picture, face.landmarks, max(self.backbone.image_size, ALIGNED_PX))
        except ValueError:
            return None

    @torch.inference_mode()
    def _features(self, aligned: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        """The backbone's features (n, d) of aligned faces and of their mirror images; nan without a face."""
        side = self.backbone.image_size
        rows = [row for row, face in enumerate(aligned) if face is not None]
        stack = np.zeros((max(1, len(rows)), side, side, 3), np.uint8)  # one picture tells how wide the features are
        for place, row in enumerate(rows):
            face = aligned[row]
            resized = face if len(face) == side else Image.fromarray(face).resize((side, side), Image.Resampling.BOX)
            stack[place] = np.asarray(resized)
        both = []
        for pixels in (stack, np.ascontiguousarray(stack[:, :, ::-1])):
            batch = normalise(pixels, self.backbone, self.device)
            of_faces = self.backbone.network(batch).float().flatten(1).cpu().numpy()
            features = np.full((len(aligned), of_faces.shape[1]), np.nan, np.float32)
            features[rows] = of_faces[: len(rows)]
            both.append(features)
        return both[0], both[1]

    def _copy_descriptors(self, pictures: list[Image.Image], undecoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the pictures and of their mirror images; nan for what could not be decoded."""
        described = self.copy_network.describe(pictures)
        for descriptors in described:
            descriptors[undecoded] = np.nan
        return described

    def _identities(self, arrays: list[np.ndarray], landmarks: np.ndarray, has_face: np.ndarray) -> np.ndarray:
        identities = np.full((len(arrays), self.embedder.n_values), np.nan, np.float32)
        rows = np.flatnonzero(has_face)
        if len(rows):
            identities[rows] = self.embedder.embed([arrays[row] for row in rows], landmarks[rows])
        return identities


def decode(encoded: Mapping) -> tuple[Image.Image | None, str]:
    """The picture upright in RGB, what is transparent in black; or None and why it cannot be had."""
    try:
        content = encoded["bytes"] if encoded and encoded.get("bytes") else Path(encoded["path"]).read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright.convert("RGBA"))
            return upright.convert("RGB"), ""
    except Exception as error:  # Pillow's decoders raise many kinds for a file that is damaged
        return None, f"cannot be decoded ({one_line(error)[:100]})"


def _filled(
    detected: Sequence[faces.Face | None], value: Callable[[faces.Face], ArrayLike], shape: tuple[int, ...]
) -> np.ndarray:
    """(n, *shape) float64, nan without a face."""
    array = np.full((len(detected), *shape), np.nan)
    for row, face in enumerate(detected):
        if face is not None:
            array[row] = value(face)
    return array
