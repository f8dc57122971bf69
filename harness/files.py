"""Files written completely or not at all, checked JSON, digests, unwritable disks, and the default cache folder."""

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.errors import InputError, one_line

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
ROOM_BYTES = 1 << 16  # a disk with less free space is reported as full before the work begins


def read_json(path: Path, remedy: str) -> dict:
    """Read the JSON object in a file that this project wrote. Raises InputError with file, reason and remedy."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or one_line(error)}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # ValueError includes bytes that are not UTF-8
        reason = "empty" if not path.stat().st_size else f"cut short or not JSON ({one_line(error)})"
        raise InputError(f"{path} is {reason}; {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, not an object; {remedy}")
    return content


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all: `write` fills a temporary file beside `path`, which is then renamed.

    Raises OSError if the disk is full or not writable, whichever exception `write` raised for that; the earlier content
    of `path` is then still there, and the temporary file is gone."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException as error:
        trouble = None
        if isinstance(error, Exception) and not isinstance(error, OSError | InputError):
            trouble = disk_error(error, path.parent)  # asked before the partial file's space is free again
        with contextlib.suppress(OSError):
            partial.unlink()
        if trouble:
            raise OSError(trouble.errno, trouble.strerror, str(path)) from error
        raise


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, lambda file: file.write_text(json.dumps(content, indent=2, default=str) + "\n"))


def disk_error(error: BaseException, folder: Path | None = None) -> OSError | None:
    """The disk error that a library wrapped in an exception of its own, or None if there is no such cause.

    folder: is tried for writing if the exception does not say more, as torch's does not."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))  # Rust's form, which safetensors uses
    if number and int(number[1]) in DISK_ERRORS:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    cause = error.__cause__ or error.__context__
    return (disk_error(cause) if cause else None) or (why_not_writable(folder) if folder else None)


def why_not_writable(folder: Path) -> OSError | None:
    """The error that keeps ROOM_BYTES from being written into a folder, or None. Leaves no file behind."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(ROOM_BYTES))
            probe.flush()
            os.fsync(probe.fileno())  # a network file system reports a full disk only now
    except OSError as error:
        return OSError(error.errno, error.strerror, str(folder))
    return None


def check_writable(folder: Path, flag: str) -> None:
    """Make a folder, readable by its owner alone if it is new. Raises InputError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        error = why_not_writable(folder)
    except OSError as refused:
        error = refused
    if error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room there, or name another folder" if full else "name another folder"
        raise InputError(f"{flag} {folder}: {error.strerror or one_line(error)}; {remedy}") from error


def sha256_of(file: Path) -> str:
    """The SHA-256 digest of a file, as 64 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def default_cache_dir() -> Path:
    """The folder of decoded photographs, beside the cache of `datasets` that holds the same photographs.

    HF_HOME moves both."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.path.expanduser(os.environ.get("HF_HOME", os.path.join(caches, "huggingface")))) / "rdface_pixels"
