"""Files written whole or not at all, JSON read with its reason, digests, and disks that are full or not ours."""

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
ROOM_BYTES = 1 << 16  # of a disk on which less can be written it is said before the work that it is full


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


def sha256_of(file: Path) -> str:
    """64 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
