"""Tells folders from repositories on the Hub, and finds out whether the Hub can be reached.

Commands call this before they import the Hub's libraries, which read HF_HUB_OFFLINE when they are imported.
"""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from harness.errors import InputError

TIMEOUT_S = 5


def is_on_hub(name: str) -> bool:
    """Whether a dataset's name is ORG/NAME or hf://..., and not a folder on this machine."""
    written = name.startswith("hf://") or (name.count("/") == 1 and name[0] not in "./~")
    return written and not Path(name).is_dir()


def check_name(name: str, remedy: str) -> None:
    """Raise InputError for a name that is neither a folder nor a name on the Hub; remedy: how to make the folder."""
    if not Path(name).is_dir() and not is_on_hub(name):
        raise InputError(f"dataset {name}: there is no such folder; {remedy}, or give ORG/NAME")


def work_offline_if_unreachable(names: Iterable[str | None]) -> None:
    """Set HF_HUB_OFFLINE=1 if one of the names is not a path here and the Hub does not answer within TIMEOUT_S seconds.

    names: of datasets, models or weights, as the user gave them; None is ignored. Without this, every look-up of a
    cached file would spend 25 s on retries."""
    if os.environ.get("HF_HUB_OFFLINE") or all(name is None or Path(name).exists() for name in names):
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for library, module in (("huggingface_hub", "constants"), ("datasets", "config")):
            if library in sys.modules:  # imported too early to read the variable
                getattr(sys.modules[library], module).HF_HUB_OFFLINE = True
