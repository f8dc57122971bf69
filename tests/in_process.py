"""Runs a command in the tests' own process, from its command line to its exit status: a launch costs seconds."""

import signal
import sys
from types import ModuleType
from unittest import mock

import pytest

from harness.commands import run_command


def exit_status(command: ModuleType, *arguments: object) -> int:
    """The exit status of a command, given as its imported module; what it says goes to capsys or capfd."""
    argv = [f"{command.__name__}.py", *map(str, arguments)]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit) as end:
            run_command(command.parse_args, command.main, command.STOPPED)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return end.value.code
