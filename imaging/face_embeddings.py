"""Turns faces into vectors that tell whether two pictures show the same person.

    embedder = load_embedder(Path("mobilefacenet.onnx"))
    vectors = embedder.embed(images, landmarks)      # (n, d) of length 1; their products are cosines

For checks on data that the user holds: whether a synthetic face is a copy of a patient. Never to find out who somebody
is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from harness.errors import InputError, one_line
from harness.files import sha256_of
from imaging.faces import align, upright_rgb
from imaging.onnx_sessions import open_onnx

CROP_PX = 112  # a network's input side is this or a multiple


class Embedder:
    """A face-recognition network of the ArcFace layout (Deng et al., CVPR 2019, arXiv 1801.07698), an ONNX file.

    insightface's own ArcFaceONNX scales the pixels and runs the network, in batches. Its places of the five landmarks
    are kept, but large faces are reduced by averaging areas before they are warped, which its own alignment does not
    do: one photograph in two sizes then has the same embedding (cosine 0.999 instead of 0.994, 1350 and 512 px)."""

    def __init__(self, model: Path, device: str, flag: str):
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX
        from insightface.utils.face_align import arcface_dst

        session = open_onnx(model, device, flag)
        shape = session.get_inputs()[0].shape
        side = shape[-1] if len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3] else None
        if not isinstance(side, int) or side % CROP_PX or len(session.get_outputs()) != 1:
            text = f"is no face-recognition network: it needs one input (n, 3, {CROP_PX}, {CROP_PX}) and one output"
            raise InputError(f"{flag} {model}: {text}; name another .onnx file")
        self.network = ArcFaceONNX(str(model), session)
        self.side_px, self.one_by_one = side, isinstance(shape[0], int)
        self.places = (arcface_dst + 0.5) / CROP_PX  # (5, 2) shares of the side; pixel centres are whole there
        self.weights_sha256 = sha256_of(model)
        try:
            (self.n_values,) = self.network.get_feat([np.zeros((side, side, 3), np.uint8)])[0].shape
        except Exception as error:  # of onnxruntime, or a result without one vector an image
            raise InputError(
                f"{flag} {model}: gives no embedding ({one_line(error)[:200]}); name another file"
            ) from error

    def embed(
        self, images: Sequence[Image.Image | np.ndarray], landmarks: np.ndarray, batch_size: int = 64
    ) -> np.ndarray:
        """Embeddings (n, d) float32 of length 1 of one face per image.

        images: as for Detector.detect; landmarks (n, 5, 2) px, of its faces. Raises ValueError if these are not as many
        as the images, or coincide."""
        landmarks = np.asarray(landmarks, float).reshape(-1, 5, 2)
        if len(landmarks) != len(images):
            raise ValueError(f"{len(images)} images and landmarks of {len(landmarks)} faces; give one face an image")
        size = 1 if self.one_by_one else batch_size
        vectors = [np.zeros((0, self.n_values), np.float32)]
        for start in range(0, len(images), size):
            rows = range(start, min(start + size, len(images)))
            crops = [align(upright_rgb(images[row], row), landmarks[row], self.side_px, self.places) for row in rows]
            vectors.append(self.network.get_feat([crop[..., ::-1] for crop in crops]))  # it takes BGR
        vectors = np.concatenate(vectors)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def load_embedder(model: Path, device: str = "cpu", flag: str = "--face_embedder") -> Embedder:
    """The network in an ONNX file, on `device`. flag: the command's flag that named the file.

    Raises InputError with one line if the file is missing, damaged, or of another layout."""
    return Embedder(Path(model), str(device), flag)
