"""The errors that end a command, and the one line that reports each: user errors, leaks, servers, signals."""

import os
import sys
import time
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """The user can correct this; the message is one line that says what is wrong and how to correct it. Exit code 2."""


class ProtocolError(ValueError):
    """An evaluation protocol cannot be applied to these images; the message says why. Exit code 2."""


class LeakError(RuntimeError):
    """A held-out image, or an image of its group, would influence what is fitted, chosen or generated. Exit code 1."""


class OutsideError(RuntimeError):
    """Something outside this program failed, for example a server; the message is one line. Exit code 1."""


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM; a KeyboardInterrupt, so that code which cleans up after Ctrl-C cleans up here, too."""


def stopped_status(stop: KeyboardInterrupt) -> int:
    """The exit status that shells report for a stopped command: 143 after SIGTERM, 130 after Ctrl-C."""
    return 143 if isinstance(stop, Terminated) else 130


def one_line(error: Exception) -> str:
    """The message of an error in one line, or the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str, code: int) -> NoReturn:
    """Print one line on standard error, in the first process of each machine only, and exit."""
    if int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", 0))) > 0:
        if code in (130, 143):  # every process received the signal
            sys.exit(code)
        time.sleep(30)  # once the first process has reported the error and ended, the launcher ends this one
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
