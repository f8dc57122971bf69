"""The face detectors by name, with the place of what opens each: --help and refusals must import nothing heavy.

pkgutil.resolve_name("imaging.face_detectors:MTCNN")("cpu")
"""

from typing import NamedTuple


class ModelDetector(NamedTuple):
    """A detector that wants a file, which --detector_model names."""

    place: str  # MODULE:NAME of what opens its network from the file (Path) and the device (str)
    file: str  # what --detector_model names, in words
    may_be_folder: bool = False


# Those with their weights in an installed package: MODULE:NAME of what opens the network on a device (str).
FACE_DETECTORS = {"mtcnn": "imaging.face_detectors:MTCNN"}
MODEL_DETECTORS = {
    "retinaface": ModelDetector("imaging.face_detectors:open_retinaface", "FILE.onnx"),
    "insightface": ModelDetector(
        "imaging.face_detectors:InsightFace", "the folder of a pack, or its detector's FILE.onnx", may_be_folder=True
    ),
    "yunet": ModelDetector("imaging.face_detectors:YuNet", "FILE.onnx"),
    "mediapipe": ModelDetector("imaging.face_detectors:FaceLandmarker", "face_landmarker.task"),
}
