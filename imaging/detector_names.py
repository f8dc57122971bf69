"""The names of the face detectors, for --help and refusals that need no heavy import."""

FACE_DETECTORS = ("mtcnn",)  # the keys of imaging.faces.DETECTORS
