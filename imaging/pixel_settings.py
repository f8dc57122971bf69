"""What commands offer about the pixels they read: the face detectors, and the folder of decoded photographs."""

import os
from pathlib import Path

FACE_DETECTORS = ("mtcnn",)  # the keys of imaging.faces.DETECTORS, without importing it


def default_cache_dir() -> Path:
    """Beside the Arrow files that `datasets` keeps of the same photographs; HF_HOME moves both."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.path.expanduser(os.environ.get("HF_HOME", os.path.join(caches, "huggingface")))) / "rdface_pixels"
