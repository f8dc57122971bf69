"""The output folder of a run: started anew or resumed, locked, replaced by a rename, with a record of the run."""

import contextlib
import errno
import glob
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import InputError, one_line
from harness.files import check_writable, read_json, write_json

LOCK_NAME, RECORD_NAME = "run.lock", "run.json"
REPLACED = "replaced_run"  # the folder of a finished run, within that of the one that replaces it, until that is too
_HELD: set[FileLock] = set()  # locks that this process keeps until it ends


def prepare_output(
    folder: Path, settings: dict, parts: str | Sequence[str], results: Sequence[str], resume: bool, command: str = ""
) -> None:
    """Start a run's folder anew, or check that its content belongs to this run, and lock it until this process ends.

    settings: everything that the results depend on. They are kept in settings.json, which also marks a folder as one
    of this project, and must be equal in order to resume. parts: subfolders and files of finished parts, removed unless
    `resume`. results: names of the files made from the parts, always removed, since numbers of an earlier run must not
    stand beside new ones. A finished run, which is one with a run.json, is moved to the subfolder replaced_run instead,
    until finish_output says that this run has results in its place. command: whose folder this is, kept in
    settings.json as well; the folder of another command is never started anew, since its results would lie beside this
    one's. A line says so if a command is to resume and no run lies there. Nothing is removed unless a new file can be
    written. Raises InputError if the folder holds other files, belongs to another command or to a run with other
    settings, is locked by another run, or cannot be written."""
    file = folder / "settings.json"
    check_is_no_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = set(os.listdir(folder))  # read once, since another run may be starting here at this moment
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {one_line(error)}; name a new folder") from error
    if file.name not in names and not names <= {LOCK_NAME, f".{file.name}.partial"}:
        raise InputError(f"--output_dir {folder} holds files that no earlier run made; name a new or empty folder")
    if command and file.name in names:
        _check_command(file, command)
    check_writable(folder, "--output_dir")
    try:
        lock = FileLock(folder / LOCK_NAME, is_singleton=True)  # released by the system, however the process ends
        lock.acquire(timeout=0)
        _HELD.add(lock)
    except Timeout:
        raise InputError(f"--output_dir {folder}: another run is writing into it; wait for it to end") from None
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {one_line(error)}; name a new folder") from error
    if resume and command and not file.is_file():
        print(f"{folder}: no earlier run lies here, so --resume_from_checkpoint starts a new one")
    resume = resume and file.is_file()
    if resume:
        remedy = "leave out --resume_from_checkpoint to start anew, or give another --output_dir"
        earlier = read_json(file, remedy)
        for name in settings:
            if settings[name] != earlier.get(name):
                if name not in earlier:  # begun by a version that did not record it
                    reason = f"does not say with which {name} it was started, which is {settings[name]} now"
                    raise InputError(f"--resume_from_checkpoint: {folder} {reason}; {remedy}")
                reason = f"was started with {name} {earlier[name]}, not {settings[name]}"
                same = "give the same flags and files, or another --output_dir"
                raise InputError(f"--resume_from_checkpoint: {folder} {reason}; {same}")
    parts = [parts] if isinstance(parts, str) else parts
    try:
        if not resume and file.is_file() and (folder / RECORD_NAME).is_file():
            differed = _how_it_differed(file, settings)
            print(
                f"{folder}: the finished run that lay here is kept in {REPLACED} until this one is finished{differed}"
            )
            _set_aside(folder, [*parts, *results])
        for name in parts:
            if resume:
                continue
            if (folder / name).is_file():
                (folder / name).unlink()
            elif (folder / name).exists():  # if it stayed, it would be taken for a part of this run
                shutil.rmtree(folder / name)
        for name in results:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {one_line(error)}; remove it, or name a new folder") from error
    write_json(file, settings | ({"command": command} if command else {}))


def _set_aside(folder: Path, names: Sequence[str]) -> None:
    """Move these files and folders of a finished run, a copy of its settings, and last its record.

    Once it was interrupted, the next call moves what is left, since the record is still there."""
    aside = folder / REPLACED
    if (aside / RECORD_NAME).exists():  # of a run before the one that is moved now
        shutil.rmtree(aside)
    aside.mkdir(exist_ok=True)
    shutil.copyfile(folder / "settings.json", aside / "settings.json")
    for name in dict.fromkeys(names):
        if name != RECORD_NAME and (folder / name).exists():
            (folder / name).rename(aside / name)
    (folder / RECORD_NAME).rename(aside / RECORD_NAME)


def finish_output(folder: Path, record: Mapping[str, object]) -> None:
    """Write a run's record, run.json, which says that it is finished, and remove the run that it replaces, if any."""
    write_json(folder / RECORD_NAME, record)
    shutil.rmtree(folder / REPLACED, ignore_errors=True)


def _how_it_differed(file: Path, settings: dict) -> str:
    """In which settings an earlier run differed from these, for a message; "" if its file is damaged."""
    try:
        earlier = read_json(file, "")
    except InputError:
        return ""
    differ = [name for name in settings if settings[name] != earlier.get(name)]
    more = ", ..." if len(differ) > 5 else ""
    return f"; it differed in {', '.join(differ[:5])}{more}" if differ else "; it had the same settings"


def _check_command(file: Path, command: str) -> None:
    """Raise InputError if settings.json says that another command wrote the folder; it may say nothing."""
    try:
        earlier = read_json(file, "").get("command") or command
    except InputError:  # a run that starts anew replaces a damaged file, and one that is resumed names it
        return
    if earlier != command:
        reason = f"holds results of {earlier}, which {command} does not replace"
        raise InputError(f"--output_dir {file.parent} {reason}; name a new or empty folder")


def folder_of(run: Path) -> Path:
    """The folder of a run that is named by its folder, or by a file in it."""
    return run if run.is_dir() else run.parent


def check_is_no_file(folder: Path) -> None:
    """Raise InputError if --output_dir, or a folder in which it would lie, is a file."""
    for path in (folder, *folder.parents):
        if os.path.exists(path) and not os.path.isdir(path):
            what = "is a file" if path == folder else f"would lie in {path}, which is a file"
            raise InputError(f"--output_dir {folder} {what}; name a new folder")


def check_apart(output_dir: Path, datasets: Sequence[str]) -> None:
    """Raise InputError if results would lie in a dataset's folder, with which they would be published.

    datasets: folders, or names on the Hub, in which nothing can lie."""
    target = Path(os.path.realpath(output_dir))
    for name in datasets:
        folder = Path(os.path.realpath(name))
        if folder.is_dir() and folder in (target, *target.parents):
            reason = f"is the folder of the dataset {name}, or lies in it, and would be published with it"
            raise InputError(f"--output_dir {output_dir} {reason}; name a folder outside")


@contextlib.contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Let only one run at a time write a dataset's folder, on all machines that share its parent folder.

    target: a resolved path, whose parent is made if necessary. Raises InputError if another run is writing there, or if
    nothing can be written."""
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
            Path(lock.lock_file).unlink(missing_ok=True)  # before the release: afterwards it might be another run's
        lock.release()


@contextlib.contextmanager
def full_disk_named(folder: Path, remedy: str) -> Iterator[None]:
    """Turn a full disk or quota into one OSError that names the folder and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(f"there is no space left in {folder}; {remedy}") from error


def check_replaceable(target: Path) -> None:
    """Raise InputError, before the work begins, if a finished folder could not replace the target by a rename.

    target: a folder, which need not exist yet; its parent exists."""
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
    """The mount points that Linux lists; os.path.ismount misses folders that are mounted from the same disk."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    blanks = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
    return {re.sub(r"\\\d{3}", lambda code: blanks.get(code[0], code[0]), line.split(" ")[4]) for line in lines}


def run_record(arguments: Mapping[str, object], packages: Sequence[str], started: float) -> dict:
    """What is needed to repeat a run, and what the run cost; train_classifier.py adds what is particular to it.

    arguments: of the command, by name; packages: names of the packages whose versions are recorded; started:
    time.monotonic() at the start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "script": Path(sys.argv[0]).name,
        "arguments": {name: value for name, value in arguments.items() if not name.endswith("token")},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "git_commit": git_commit(),
        "wall_s": round(time.monotonic() - started, 2),
        "peak_memory_bytes": peak if sys.platform == "darwin" else 1024 * peak,  # other systems count KiB
    }


def git_commit() -> str | None:
    """The commit of this checkout, followed by -dirty if files differ from it; None outside a repository."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = Path(__file__).resolve().parents[1]
    try:
        run = subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return run.stdout.strip() or None
