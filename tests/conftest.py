"""Tests never look anything up on the Hub, and leave nothing in the user's caches."""

import atexit
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="rdface-tests-")  # before any library reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes with two threads each slow one another down
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
