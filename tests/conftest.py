"""Tests never look anything up on the Hub, and leave nothing in the user's caches."""

import atexit
import os
import shutil
import subprocess
import tempfile

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
