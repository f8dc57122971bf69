"""A command from its arguments to its exit status: the parser, its types, signals, and how each error is told."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from harness.errors import (
    InputError,
    LeakError,
    OutsideError,
    ProtocolError,
    Terminated,
    fail,
    one_line,
    stopped_status,
)
from harness.files import disk_error

RESUMED = "--resume_from_checkpoint latest goes on from here"  # what is said of a run that was stopped


class Parser(argparse.ArgumentParser):
    """argparse's parser as all commands have it: one line for a wrong argument, no abbreviations, and defaults in
    --help only where there are some."""

    def __init__(self, **settings: object):
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False} | settings)

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see --help", 2)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a description as it was written, and the default of each option that has one and does not explain it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, [], False) and "default" not in (action.help or "")
        return super()._get_help_string(action) if shown and not action.required else action.help


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


def run_command(
    parse_args: Callable[[], argparse.Namespace], main: Callable[[argparse.Namespace], int | None], stopped: str
) -> NoReturn:
    """A command from its command line to its exit status; what stops it is one line on standard error.

    stopped: what the user finds, or does next, after the command was stopped before its end.
    Exit status: what `main` returns, 0 for None; 2: the user must change something; 1: a leak, a disk that is full or
    belongs to somebody else, a server that refuses; 130: stopped by Ctrl-C; 143: by SIGTERM, as clusters end what has
    to make room. Anything else is a bug, and keeps its traceback."""
    begin_command()
    try:
        status = main(parse_args())
    except (InputError, ProtocolError) as error:
        fail(str(error), 2)
    except (LeakError, OutsideError) as error:
        fail(str(error), 1)
    except BrokenPipeError:  # whoever read the output, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt as stop:
        by = " by SIGTERM" if isinstance(stop, Terminated) else ""
        fail(f"stopped{by}; {stopped}", stopped_status(stop))
    except Exception as error:
        trouble = error if isinstance(error, OSError) else disk_error(error)
        if trouble:
            room = "make room, and " if trouble.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            fail(f"failed: {one_line(trouble)}; {room}{stopped}", 1)
        if lost_another(error):
            fail(f"failed: another process ended, and says why where it ran; {stopped}", 1)
        raise
    sys.exit(status or 0)


def lost_another(error: Exception) -> bool:
    """Whether the connection to another process broke, which is how the others learn that one has ended."""
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in gone)
