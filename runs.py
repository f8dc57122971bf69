"""What every run shares: refusals in one line, its folder, files written whole or not at all, the run record."""

import argparse
import contextlib
import errno
import glob
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import numpy as np
from filelock import FileLock, Timeout

LOCK_NAME = "run.lock"  # of a run's folder
ROOM_BYTES = 1 << 16  # of a disk on which less can be written it is said before the work that it is full
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_HELD: set[FileLock] = set()  # until this process ends


class InputError(Exception):
    """Something the user can put right; the message is one line that says what and how. Exit code 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever undoes things after Ctrl-C does so after it, too."""


def begin_command() -> None:
    """What every script does first: SIGTERM raises Terminated, and no terminal's encoding ends a run.

    Characters that the output cannot show are written as in \\xe9; standard error does so by itself."""

    def stop(*_) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cluster and launcher both send it: the second changes nothing
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    sys.stdout.reconfigure(errors="backslashreplace")


def stopped_status(stop: KeyboardInterrupt) -> int:
    """Exit status of a script that was stopped, as shells have it: 143 by SIGTERM, 130 by Ctrl-C."""
    return 143 if isinstance(stop, Terminated) else 130


def path_argument(text: str) -> Path:
    """`type` of every argument that names a file or folder: ~ is the home also in --output_dir=~/x, where no shell
    sees it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("names no folder or file")
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise argparse.ArgumentTypeError(f"{text}: there is no such home; write ./{text} for a folder here")
    return Path(expanded)


def dataset_argument(text: str) -> str:
    """`type` of every argument that names a dataset or model: as path_argument for a path, ORG/NAME as it is."""
    return str(path_argument(text)) if text.startswith("~") else text


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str, code: int) -> NoReturn:
    """One line on standard error, from the first process of each machine only, and exit."""
    if int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", 0))) > 0:
        if code in (130, 143):  # a signal, which all have got
            sys.exit(code)
        time.sleep(30)  # the launcher ends this process once the first one has said why and left; otherwise it speaks
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def read_json(path: Path, remedy: str) -> dict:
    """The JSON object of a file that this project wrote. Raises InputError with file, reason and remedy."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or one_line(error)}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no UTF-8
        reason = "empty" if not path.stat().st_size else f"cut short or no JSON ({one_line(error)})"
        raise InputError(f"{path} is {reason}; {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, not an object; {remedy}")
    return content


def disk_error(error: BaseException, folder: Path | None = None) -> OSError | None:
    """The trouble with a disk behind an error of a library that has a class of its own for it; None: no such trouble.

    folder: where to see what can be written now, since torch says no more than that it could not."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return error
    known = re.search(r"\(os error (\d+)\)", str(error))  # as Rust says it, so safetensors
    if known and int(known[1]) in DISK_ERRORS:
        return OSError(int(known[1]), os.strerror(int(known[1])))
    behind = error.__cause__ or error.__context__
    return (disk_error(behind) if behind else None) or (why_not_writable(folder) if folder else None)


def why_not_writable(folder: Path) -> OSError | None:
    """What keeps ROOM_BYTES from being written into a folder; None: nothing does. Leaves nothing there."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(ROOM_BYTES))
            probe.flush()
            os.fsync(probe.fileno())  # over a network a full disk is known only now
    except OSError as error:
        return OSError(error.errno, error.strerror, str(folder))
    return None


def check_writable(folder: Path, flag: str) -> None:
    """Make a folder, its owner's alone if it is new, and raise InputError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        error = why_not_writable(folder)
    except OSError as refused:
        error = refused
    if error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room there, or name another folder" if full else "name another folder"
        raise InputError(f"{flag} {folder}: {error.strerror or one_line(error)}; {remedy}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a file of a temporary name beside `path`, which then takes its place: whole, or not at all.

    Raises OSError for a disk that is full or cannot be written, whatever `write` raised for it; what `path` held before
    is still there then, and nothing is left beside it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException as error:
        trouble = None
        if isinstance(error, Exception) and not isinstance(error, OSError | InputError):
            trouble = disk_error(error, path.parent)  # before the room that the file took is free again
        with contextlib.suppress(OSError):
            partial.unlink()
        if trouble:
            raise OSError(trouble.errno, trouble.strerror, str(path)) from error
        raise


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, lambda file: file.write_text(json.dumps(content, indent=2, default=str) + "\n"))


@contextlib.contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """The only run that writes a dataset's folder, among all machines that see the folder it lies in.

    Raises InputError for a second one, and where nothing can be written there. target: resolved; its parent is made."""
    lock = FileLock(target.parent / f".{target.name}.lock", timeout=0, mode=0o666)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        reason = "is being written by another build, restoration or simulation"
        raise InputError(f"{target.name}: {reason}; wait for it to end") from None
    except (OSError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise InputError(f"{target.name}: cannot be written ({reason}); choose another --output_dir") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)  # while held: FileLock locks no file without a name
        lock.release()


@contextlib.contextmanager
def full_disk_named(folder: Path, remedy: str) -> Iterator[None]:
    """A disk or quota that is full is told as one OSError which names the folder and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(f"there is no space left in {folder}; {remedy}") from error


def check_replaceable(target: Path) -> None:
    """Raise InputError, before the work, where a finished folder could not take the target's place by a rename.

    target: a folder, or what will be one; its parent exists."""
    if os.path.ismount(target) or str(target) in _mount_points():
        reason = "is a mount point, which cannot be replaced"
        raise InputError(f"{target.name}: {reason}; choose a folder inside of it as --output_dir")
    try:
        for left in target.parent.glob(f".{glob.escape(target.name)}.trial-*"):  # by a run that was killed
            left.rmdir()
        trial = Path(tempfile.mkdtemp(prefix=f".{target.name}.trial-", dir=target.parent))
        moved = trial.with_name(f"{trial.name}-moved")
        try:
            trial.rename(moved)
        finally:
            for folder in (trial, moved):
                with contextlib.suppress(FileNotFoundError):
                    folder.rmdir()
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise InputError(f"{target.name}: {reason}; choose another --output_dir") from error


def _mount_points() -> set[str]:
    """Linux's own list, also of folders that are mounted from the same disk, which os.path.ismount does not see."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    blanks = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
    return {re.sub(r"\\\d{3}", lambda code: blanks.get(code[0], code[0]), line.split(" ")[4]) for line in lines}


def prepare_output(
    folder: Path, settings: dict, parts: str | Sequence[str], results: Sequence[str], resume: bool
) -> None:
    """Start a run's folder anew, or make sure that what is in it belongs to this run; else raise InputError.

    Until this process ends no other can do so: two runs would mix their results. settings: what these depend on, kept
    in settings.json, by which a folder of ours is known, and which must be the same to go on (resume); parts: the
    subfolders and files of what was finished, removed unless resuming; results: names of the files made of the parts,
    always removed, for numbers of an earlier run must not stand beside others. Nothing is removed unless there is room
    for a new file."""
    file = folder / "settings.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = set(os.listdir(folder))  # read once: another run may be starting here just now
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {one_line(error)}; name a new folder") from error
    if file.name not in names and not names <= {LOCK_NAME, f".{file.name}.partial"}:
        raise InputError(f"--output_dir {folder} holds files that no earlier run made; name a new or empty folder")
    check_writable(folder, "--output_dir")
    try:
        lock = FileLock(folder / LOCK_NAME, is_singleton=True)  # released by the system, however the process ends
        lock.acquire(timeout=0)
        _HELD.add(lock)
    except Timeout:
        raise InputError(f"--output_dir {folder}: another run is writing into it; wait for it to end") from None
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {one_line(error)}; name a new folder") from error
    resume = resume and file.is_file()
    if resume:
        anew = "leave out --resume_from_checkpoint to start anew, or give another --output_dir"
        earlier = read_json(file, anew)
        for name in settings:
            if settings[name] != earlier.get(name):
                reason = f"{folder} was started with {name} {earlier.get(name)}, not {settings[name]}"
                raise InputError(f"--resume_from_checkpoint: {reason}; give the same flags or another --output_dir")
    try:
        for name in [parts] if isinstance(parts, str) else parts:
            if resume:
                continue
            if (folder / name).is_file():
                (folder / name).unlink()
            elif (folder / name).exists():  # what stayed would be taken for a part of this run
                shutil.rmtree(folder / name)
        for name in results:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {one_line(error)}; remove it, or name a new folder") from error
    write_json(file, settings)


def check_apart(output_dir: Path, datasets: Sequence[str]) -> None:
    """Raise InputError for results that would lie in a dataset's folder, and be published with it.

    datasets: folders, or names on the Hub, in which nothing can lie."""
    target = Path(os.path.realpath(output_dir))
    for name in datasets:
        folder = Path(os.path.realpath(name))
        if folder.is_dir() and folder in (target, *target.parents):
            reason = f"is the folder of the dataset {name}, or lies in it, and would be published with it"
            raise InputError(f"--output_dir {output_dir} {reason}; name a folder outside")


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
