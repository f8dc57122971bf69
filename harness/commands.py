"""A command's arguments that name files, its signals, and its end: one line and an exit status."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from harness.errors import InputError, LeakError, ProtocolError, Terminated, fail, one_line, stopped_status
from harness.files import disk_error


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


def begin_command() -> None:
    """What every script does first: SIGTERM raises Terminated, and no terminal's encoding ends a run.

    Characters that the output cannot show are written as in \\xe9; standard error does so by itself."""

    def stop(*_) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cluster and launcher both send it: the second changes nothing
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    sys.stdout.reconfigure(errors="backslashreplace")


def run_script(main: Callable[[argparse.Namespace], None], parse_args: Callable[[], argparse.Namespace]) -> None:
    """A script from its command line to its end; what stops it is one line and an exit status.

    2: the user must change something; 1: a leak, or a disk that is full or not ours; 130: stopped by Ctrl-C; 143: by
    SIGTERM, as clusters end what has to make room. Anything else is a bug, and keeps its traceback."""
    begin_command()
    go_on = "--resume_from_checkpoint latest goes on from here"
    try:
        main(parse_args())
    except (InputError, ProtocolError) as error:
        fail(str(error), 2)
    except LeakError as error:
        fail(str(error), 1)
    except KeyboardInterrupt as stop:
        by = " by SIGTERM" if isinstance(stop, Terminated) else ""
        fail(f"stopped{by}; {go_on}", stopped_status(stop))
    except Exception as error:
        trouble = error if isinstance(error, OSError) else disk_error(error)
        if trouble:
            room = "make room, and " if trouble.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            fail(f"failed: {one_line(trouble)}; {room}{go_on}", 1)
        if lost_another(error):
            fail(f"failed: another process ended, and says why where it ran; {go_on}", 1)
        raise


def lost_another(error: Exception) -> bool:
    """Whether the connection to another process broke, which is how the others learn that one has ended."""
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in gone)
