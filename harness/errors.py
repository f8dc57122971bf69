"""What stops a command: errors of the user, leaks, signals, disks; and how each is told in one line."""

import os
import sys
import time
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """Something the user can put right; the message is one line that says what and how. Exit code 2."""


class ProtocolError(ValueError):
    """A protocol cannot be applied to these images; the message says why. Exit code 2."""


class LeakError(RuntimeError):
    """A held-out image, or one of its group, reaches what is fitted, chosen or generated. Exit code 1."""


class OutsideError(RuntimeError):
    """Something outside of this program failed, as a server may; the message is one line. Exit code 1."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever undoes things after Ctrl-C does so after it, too."""


def stopped_status(stop: KeyboardInterrupt) -> int:
    """Exit status of a script that was stopped, as shells have it: 143 by SIGTERM, 130 by Ctrl-C."""
    return 143 if isinstance(stop, Terminated) else 130


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
