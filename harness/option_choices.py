"""Values that options of several commands accept, named here so that --help and refusals need no heavy import."""

import os
from pathlib import Path

PROTOCOLS = ("strict", "paper")  # the evaluation protocols, the default first
FACE_DETECTORS = ("mtcnn",)  # the keys of imaging.faces.DETECTORS


def default_cache_dir() -> Path:
    """The folder of decoded photographs, beside the cache of `datasets` that holds the same photographs.

    HF_HOME moves both."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.path.expanduser(os.environ.get("HF_HOME", os.path.join(caches, "huggingface")))) / "rdface_pixels"
