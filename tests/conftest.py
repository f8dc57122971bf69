"""Tests never look anything up on the Hub, and leave nothing in the user's caches."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="rdface-tests-")  # before any library reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes with two threads each slow one another down
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB in memory, mounted at a folder; without root the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session", autouse=True)
def figures_drawn_once():
    """The figures of a card are drawn once for the same rows, since they take most of the time of a small build."""
    from curation import dataset_figures  # not before HF_HOME is set above

    with pytest.MonkeyPatch.context() as patch:
        for name in ("bar_charts", "country_chart"):
            patch.setattr(dataset_figures, name, _remembered(getattr(dataset_figures, name)))
        yield


def _remembered(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    drawn: dict[str, bytes] = {}

    @functools.wraps(draw)
    def recalled(*rows):
        key = repr(rows)
        if key not in drawn:
            drawn[key] = draw(*rows)
        return drawn[key]

    return recalled
