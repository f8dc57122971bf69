"""The networks that find faces: MTCNN, RetinaFace, insightface's SCRFD, YuNet and MediaPipe's FaceLandmarker.

Each finds all faces in a stack of equally large images. Which face is meant, thresholds, borders and sizes are the same
for all of them: see faces.Detector."""

from __future__ import annotations

import os
import sys
import weakref
from functools import cache, lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from harness.errors import InputError, one_line
from harness.files import sha256_of
from imaging.detector_names import MODEL_DETECTORS
from imaging.onnx_sessions import open_onnx, providers

if TYPE_CHECKING:
    from insightface.model_zoo.retinaface import RetinaFace as InsightfaceNetwork
    from mediapipe.tasks.python.vision import FaceLandmarker as MediaPipeNetwork
    from onnxruntime import InferenceSession

LOWEST_SCORE = 0.3  # candidates with lower scores are not returned
INSIGHTFACE_LICENCE = (
    "insightface's model packs may be used for non-commercial research only "
    "(https://github.com/deepinsight/insightface, section License)"
)
INSTALL_MEDIAPIPE = "pip install --no-deps mediapipe==1.2.2 absl-py sounddevice"


class Candidates(NamedTuple):
    """All faces of one image that score at least LOWEST_SCORE, in px of that image, float32."""

    boxes: np.ndarray  # (n, 4) px as x1, y1, x2, y2
    landmarks: np.ndarray  # (n, 5, 2) px: eye at image left, eye at image right, nose, mouth left, mouth right
    scores: np.ndarray  # (n,) 0..1
    dense: np.ndarray | None = None  # (n, k, 2) px, of a network that has more than five landmarks


NO_FACES = Candidates(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0, 5, 2), 0)))


class FaceNetwork:
    """Base of all networks that find faces."""

    name: str  # of the detector, as --detector calls it
    model: str  # what was loaded, for records
    weights_sha256: str
    threshold: float  # score from which a face counts, unless the caller names another
    longest_side_px: int | None = None  # larger images are reduced to this before their border is added; None: never
    grid_px: int = 1  # landmarks change if an image is moved by less than this; see faces.Placement
    n_dense: int = 0  # points that it finds besides the five landmarks
    licence: str | None = None  # a restriction of the weights that belongs into records

    def find(self, images: np.ndarray) -> list[Candidates]:
        """All faces in images (b, h, w, 3) uint8 RGB."""
        raise NotImplementedError


class MTCNN(FaceNetwork):
    """Multi-task cascaded CNN (Zhang et al., 2016, arXiv 1604.02878) as trained and packed by facenet-pytorch (MIT).

    The weights come with the package and are read with weights_only, torch's default. Faces smaller than 20 px are not
    found. Its own stages drop candidates that score less than 0.7."""

    SMALLEST_FACE_PX = 20
    name, model, threshold = "mtcnn", "MTCNN, facenet-pytorch", 0.9

    def __init__(self, device: str = "cpu"):
        import facenet_pytorch  # here, so that the descriptor alone costs no import of torch

        # All faces, in any order: faces.Detector applies the threshold before it compares sizes.
        self.network = facenet_pytorch.MTCNN(
            min_face_size=self.SMALLEST_FACE_PX, select_largest=False, keep_all=True, device=device
        )
        stages = sorted((Path(facenet_pytorch.__file__).parent / "data").glob("*.pt"))
        self.weights_sha256 = " ".join(sha256_of(file) for file in stages)

    def find(self, images: np.ndarray) -> list[Candidates]:
        """See FaceNetwork.find."""
        if min(images.shape[1:3]) < self.SMALLEST_FACE_PX:  # the package fails on an empty pyramid of scales
            return [NO_FACES for _ in images]
        per_image = []
        for boxes, scores, landmarks in zip(*self.network.detect(images, landmarks=True), strict=True):
            # The arrays have dtype object if images differ in their number of faces; None if an image has no face.
            parts = NO_FACES[:3] if boxes is None else (boxes, landmarks, scores)
            per_image.append(Candidates(*(np.asarray(part, np.float32) for part in parts)))
        return per_image


class RetinaFace(FaceNetwork):
    """RetinaFace (Deng et al., CVPR 2020, arXiv 1905.00641), an ONNX file with the three outputs of the PyTorch code.

    Outputs (n, anchors, 4), (n, anchors, 2) after softmax and (n, anchors, 10): offsets of box and landmarks from two
    square anchors per cell of three grids, in units of the anchor's side and scaled by VARIANCES (as in SSD, Liu et
    al., arXiv 1512.02325).

    Faces that are much larger than the largest anchor are placed less exactly: ten portraits of 1350 px, whole and
    reduced to 800 px, had errors of 6.2 and 3.7 % of the pupil distance."""

    ANCHOR_SIDES_PX = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))  # of the grid with this stride
    VARIANCES = (0.1, 0.2)  # of a position, of the logarithm of a size
    MEAN_BGR = np.array([104, 117, 123], np.float32)
    LARGEST_OVERLAP = 0.4  # of two boxes that are two faces, intersection over union
    STACK_PIXELS = 4_000_000  # that go through the network at once: more is not faster on a processor
    name, threshold, longest_side_px, grid_px = "retinaface", 0.9, 800, 32

    def __init__(self, model: Path, session: InferenceSession):
        """session: the onnxruntime session of the file `model`."""
        self.session, self.weights_sha256 = session, sha256_of(model)
        self.model = f"RetinaFace, {model.name}"
        (network_input,) = session.get_inputs()
        self.input_name, shape = network_input.name, network_input.shape
        if isinstance(shape[2], int) or isinstance(shape[3], int):
            raise InputError(f"--detector_model {model}: has a fixed input size; export it without")
        self.one_by_one = isinstance(shape[0], int)
        self.output_names = [_output_of_width(session, width) for width in (4, 2, 10)]
        self.anchors = lru_cache(16)(self._anchors)  # of the last sizes

    @staticmethod
    def has_layout(session: InferenceSession) -> bool:
        """Whether a network's outputs are those that this class decodes."""
        return sorted(output.shape[-1] for output in session.get_outputs() if len(output.shape) == 3) == [2, 4, 10]

    def find(self, images: np.ndarray) -> list[Candidates]:
        """See FaceNetwork.find."""
        size = 1 if self.one_by_one else max(1, self.STACK_PIXELS // (images.shape[1] * images.shape[2]))
        per_image = []
        for start in range(0, len(images), size):
            bgr = images[start : start + size, ..., ::-1].astype(np.float32) - self.MEAN_BGR
            pixels = np.ascontiguousarray(bgr.transpose(0, 3, 1, 2))
            outputs = self.session.run(self.output_names, {self.input_name: pixels})
            per_image += [
                self._decoded(*image, self.anchors(*images.shape[1:3])) for image in zip(*outputs, strict=True)
            ]
        return per_image

    def _anchors(self, height: int, width: int) -> np.ndarray:
        """Centre and side of all anchors, (anchors, 3) px, by stride, row, column and side, as the outputs are."""
        grids = []
        for stride, sides in self.ANCHOR_SIDES_PX:
            rows, columns = (np.arange(-(-length // stride)) for length in (height, width))
            y, x, side = np.meshgrid((rows + 0.5) * stride, (columns + 0.5) * stride, sides, indexing="ij")
            grids.append(np.stack([x, y, side], axis=-1).reshape(-1, 3))
        return np.concatenate(grids).astype(np.float32)

    def _decoded(self, boxes: np.ndarray, scores: np.ndarray, landmarks: np.ndarray, anchors: np.ndarray) -> Candidates:
        """One image's outputs in px, without boxes that overlap one of a higher score."""
        likely = np.flatnonzero(scores[:, 1] >= LOWEST_SCORE)
        centres, sides, scores = anchors[likely, :2], anchors[likely, 2:], scores[likely, 1]
        position, log_size = self.VARIANCES
        middles = centres + boxes[likely, :2] * position * sides
        sizes = sides * np.exp(boxes[likely, 2:] * log_size)
        points = centres[:, None] + landmarks[likely].reshape(-1, 5, 2) * position * sides[:, None]
        corners = np.concatenate([middles - sizes / 2, sizes], axis=1)  # x, y, width, height
        kept = np.array(cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), LOWEST_SCORE, self.LARGEST_OVERLAP), int)
        return Candidates(
            np.concatenate([middles - sizes / 2, middles + sizes / 2], axis=1)[kept], points[kept], scores[kept]
        )


class InsightFace(FaceNetwork):
    """A detector that insightface reads, at 640 x 640 px: SCRFD (Guo et al., ICLR 2022, arXiv 2105.04714) in its packs.

    The file does not say whether its weights are SCRFD's or RetinaFace's, whose outputs have the same layout. One image
    at a time."""

    SIDE_PX = 640
    name, threshold, licence = "insightface", 0.5, INSIGHTFACE_LICENCE  # insightface's own threshold

    def __init__(self, model: Path, device: str = "cpu", name: str = "insightface"):
        """model: a pack's folder, or one .onnx file. name: of the detector, for records."""
        self.network = _insightface_network(model, device)
        file = Path(self.network.model_file)
        self.name, self.weights_sha256 = name, sha256_of(file)
        self.model = f"{type(self.network).__name__} through insightface, {file.name}"
        self.network.prepare(
            ctx_id=0 if str(device).startswith("cuda") else -1, input_size=(self.SIDE_PX, self.SIDE_PX)
        )
        _print_once(f"{model}: {INSIGHTFACE_LICENCE}")

    def find(self, images: np.ndarray) -> list[Candidates]:
        """See FaceNetwork.find."""
        self.network.det_thresh = LOWEST_SCORE
        per_image = []
        for image in images:
            boxes, landmarks = self.network.detect(np.ascontiguousarray(image[..., ::-1]))
            per_image.append(Candidates(boxes[:, :4], landmarks, boxes[:, 4]) if len(boxes) else NO_FACES)
        return per_image


class YuNet(FaceNetwork):
    """YuNet (Wu et al., 2023, doi 10.1007/s11633-023-1423-y) through OpenCV, one image at a time.

    On 522 photographs it found every face at thresholds from 0.6 to 0.8, and lost a tenth of the grey ones at 0.9."""

    LARGEST_OVERLAP = 0.3  # OpenCV's
    name, threshold, longest_side_px, grid_px = "yunet", 0.7, 800, 32

    def __init__(self, model: Path, device: str = "cpu"):
        """device: it runs on the processor, whatever this says."""
        self.weights_sha256, self.model = sha256_of(model), f"YuNet, {model.name}"
        settings = {"score_threshold": LOWEST_SCORE, "nms_threshold": self.LARGEST_OVERLAP, "top_k": 5000}
        try:
            self.network = cv2.FaceDetectorYN.create(str(model), "", (64, 64), **settings)
            self.find(np.zeros((1, 64, 64, 3), np.uint8))
        except cv2.error as error:
            raise InputError(f"--detector_model {model}: OpenCV reads no YuNet from it; name its .onnx file") from error

    def find(self, images: np.ndarray) -> list[Candidates]:
        """See FaceNetwork.find."""
        self.network.setInputSize((images.shape[2], images.shape[1]))
        per_image = []
        for image in images:
            _, rows = self.network.detect(np.ascontiguousarray(image[..., ::-1]))
            if rows is None:
                per_image.append(NO_FACES)
                continue
            # x, y, width, height; five points, the person's right eye, which is at image left, first; score
            boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
            per_image.append(Candidates(boxes, rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14]))
        return per_image


class FaceLandmarker(FaceNetwork):
    """MediaPipe's FaceLandmarker with 478 points (Kartynnik et al., 2019, arXiv 1907.06724), one image at a time.

    It reports no score: each face that passes MediaPipe's own threshold of 0.5 gets 1. It is made for faces near the
    camera: one that is narrower than about a tenth of the picture is not found, so a border makes it find fewer. The
    box is the smallest that holds all points, so it ends at the forehead's upper rim and is narrower than other
    detectors' boxes."""

    FIVE_POINTS = (468, 473, 4, 61, 291)  # pupils, tip of the nose, mouth corners; image left first
    MOST_FACES = 8
    name, threshold, n_dense = "mediapipe", 0.5, 478

    def __init__(self, model: Path, device: str = "cpu"):
        """device: it runs on the processor, whatever this says."""
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            reason = f"detector mediapipe needs a package that cannot be imported ({one_line(error)})"
            raise InputError(f"{reason}; run `{INSTALL_MEDIAPIPE}`") from error
        self.weights_sha256, self.model = sha256_of(model), f"MediaPipe FaceLandmarker, {model.name}"
        options = vision.FaceLandmarkerOptions(BaseOptions(model_asset_path=str(model)), num_faces=self.MOST_FACES)
        try:
            self.network = vision.FaceLandmarker.create_from_options(options)
        except Exception as error:  # a RuntimeError or ValueError, by release
            text = "MediaPipe cannot read it; name a face_landmarker.task file"
            raise InputError(f"--detector_model {model}: {text}") from error
        weakref.finalize(self, _close, self.network)  # at exit at the latest; MediaPipe itself is too late
        self.as_image = lambda image: mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image))

    def find(self, images: np.ndarray) -> list[Candidates]:
        """See FaceNetwork.find."""
        height, width = images.shape[1:3]
        per_image = []
        for image in images:
            faces = self.network.detect(self.as_image(image)).face_landmarks
            shares = np.array([[(point.x, point.y) for point in face] for face in faces], np.float32)
            points = shares.reshape(-1, self.n_dense, 2) * np.float32([width, height])
            boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
            five, scores = points[:, list(self.FIVE_POINTS)], np.ones(len(points), np.float32)
            per_image.append(Candidates(boxes, five, scores, points))
        return per_image


def load_model_detector(name: str, model: Path | None, device: str = "cpu") -> FaceNetwork:
    """The network with this name in MODEL_DETECTORS.

    Raises InputError with one line if the file is missing or cannot be read as this network."""
    detector = MODEL_DETECTORS[name]
    if model is None:
        raise InputError(f"--detector {name} needs the file of its network; add --detector_model {detector.file}")
    if not model.exists():
        raise InputError(f"--detector_model {model} is not there; name {detector.file}")
    if model.is_dir() and not detector.may_be_folder:
        raise InputError(f"--detector_model {model} is a folder; name {detector.file}")
    if not os.access(model, os.R_OK):
        raise InputError(f"--detector_model {model} cannot be read; check its permissions")
    return resolve_name(detector.place)(model, device)


def open_retinaface(model: Path, device: str) -> FaceNetwork:
    """RetinaFace from an ONNX file, through insightface if its outputs are laid out as insightface's."""
    session = open_onnx(model, device, "--detector_model")
    return RetinaFace(model, session) if RetinaFace.has_layout(session) else InsightFace(model, device, "retinaface")


def _close(network: MediaPipeNetwork) -> None:
    """Close MediaPipe's network, so that it does not try to when Python's modules are gone and print a traceback."""
    try:
        network.close()
    except RuntimeError:  # it was never used, and Python, which ends, starts no thread any more
        network._handle = None


def _output_of_width(session: InferenceSession, width: int) -> str:
    return next(output.name for output in session.get_outputs() if output.shape[-1] == width)


def _insightface_network(model: Path, device: str) -> InsightfaceNetwork:
    """insightface's detector in a pack's folder or an .onnx file, refused if it has no landmarks."""
    import onnxruntime
    from insightface.app import FaceAnalysis
    from insightface.model_zoo import get_model

    onnxruntime.set_default_logger_severity(3)
    try:
        if model.is_dir():
            pack = FaceAnalysis(str(model), allowed_modules=["detection"], providers=providers(device))
            network = pack.det_model
        else:
            network = get_model(str(model), providers=providers(device))
    except Exception as error:  # AssertionError for a pack without detector; onnxruntime's and protobuf's own classes
        network = None
        reason = f" ({one_line(error)})"[:200]
    else:
        reason = ""
    if getattr(network, "taskname", None) != "detection" or not network.use_kps:
        text = "insightface finds no face detector with five landmarks in it"
        raise InputError(f"--detector_model {model}: {text}{reason}; name {MODEL_DETECTORS['insightface'].file}")
    return network


@cache
def _print_once(text: str) -> None:
    """One line on standard error, in the first process only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(text, file=sys.stderr)
