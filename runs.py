"""What every run shares: refusals in one line, its folder, files written whole or not at all, the run record."""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import numpy as np
from filelock import FileLock, Timeout

LOCK_NAME = "run.lock"  # of a run's folder
_HELD: set[FileLock] = set()  # until this process ends


class InputError(Exception):
    """Something the user can put right; the message is one line that says what and how. Exit code 2."""


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str, code: int) -> NoReturn:
    """One line on standard error, from the main process only, and exit."""
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(30)  # the launcher ends this process once the main one has said why and left; otherwise it speaks
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a file of a temporary name beside `path`, which then takes its place: whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, lambda file: file.write_text(json.dumps(content, indent=2, default=str) + "\n"))


def prepare_output(folder: Path, settings: dict, parts: str, results: Sequence[str], resume: bool) -> None:
    """Start a run's folder anew, or make sure that what is in it belongs to this run; else raise InputError.

    Until this process ends no other can do so: two runs would mix their results. settings: what these depend on, kept
    in settings.json, by which a folder of ours is known, and which must be the same to go on (resume); parts: the
    subfolder of what was finished, removed unless resuming; results: names of the files made of the parts, always
    removed, for numbers of an earlier run must not stand beside others."""
    file = folder / "settings.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = not file.is_file() and any(path.name != LOCK_NAME for path in folder.iterdir())
        if not foreign:
            lock = FileLock(folder / LOCK_NAME, is_singleton=True)  # released by the system, however the process ends
            lock.acquire(timeout=0)
            _HELD.add(lock)
    except Timeout:
        raise InputError(f"--output_dir {folder}: another run is writing into it; wait for it to end") from None
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {one_line(error)}; name a new folder") from error
    if foreign:
        raise InputError(f"--output_dir {folder} holds files that no earlier run made; name a new or empty folder")
    if resume and file.is_file():
        earlier = json.loads(file.read_text())
        for name in settings:
            if settings[name] != earlier.get(name):
                reason = f"{folder} was started with {name} {earlier.get(name)}, not {settings[name]}"
                raise InputError(f"--resume_from_checkpoint: {reason}; give the same flags or another --output_dir")
    else:
        shutil.rmtree(folder / parts, ignore_errors=True)
    for name in results:
        (folder / name).unlink(missing_ok=True)
    write_json(file, settings)


def derived_seed(*numbers: int) -> int:
    """One 32-bit seed from several numbers (run seed, fold, epoch), unlike that of any neighbour."""
    return int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1)[0])  # it ignores zeros at the end


def git_commit() -> str | None:
    """The commit this script belongs to, with -dirty where files differ from it; None outside of a repository."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = Path(__file__).resolve().parent
    try:
        run = subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return run.stdout.strip() or None


def run_record(args: argparse.Namespace, packages: Sequence[str], started: float) -> dict:
    """What is needed to repeat a run, and what it cost, on any machine: see train_classifier.py for what it adds.

    packages: whose versions matter; started: time.monotonic() at the start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "arguments": {name: value for name, value in vars(args).items() if not name.endswith("token")},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "git_commit": git_commit(),
        "wall_s": round(time.monotonic() - started, 2),
        "peak_memory_bytes": peak if sys.platform == "darwin" else 1024 * peak,  # elsewhere it counts KiB
    }
