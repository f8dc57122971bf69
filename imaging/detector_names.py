"""The names of the face detectors, for --help and refusals that need no heavy import."""

FACE_DETECTORS = ("mtcnn",)  # have their weights in an installed package; the keys of imaging.faces.DETECTORS
MODEL_DETECTORS = ("retinaface", "insightface", "yunet", "mediapipe")  # want --detector_model: faces.MODEL_DETECTORS
