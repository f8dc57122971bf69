"""Runs a command from its arguments to its exit status: the parser, argument types, signals and error messages."""

import argparse
import dataclasses
import difflib
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

RESUMED = "--resume_from_checkpoint latest goes on from here"  # the advice after a run was stopped


class Parser(argparse.ArgumentParser):
    """The argument parser of all commands: a wrong argument is reported in one line, options cannot be abbreviated,
    and --help shows a default only if there is one."""

    def __init__(self, **settings: object):
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False} | settings)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            message += self._is_it(message.partition(": ")[2].split())
        fail(f"{message}; see --help", 2)

    def _is_it(self, unknown: list[str]) -> str:
        """ " (is it --k_shot?)" for --k-shot; empty if no option of the command is spelt nearly so."""
        subparsers = [action.choices.values() for action in self._actions if isinstance(action.choices, dict)]
        parsers = [self, *(parser for choices in subparsers for parser in choices)]
        options = [option for parser in parsers for option in parser._option_string_actions]
        for option in (text.partition("=")[0] for text in unknown if text.startswith("--")):
            like = difflib.get_close_matches("--" + option[2:].replace("-", "_"), options, 1)
            if like:
                return f" (is it {like[0]}?)"
        return ""


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of a description, and adds the default unless the help text explains it already."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        has_default = default not in ([], "", None) and default is not False
        if action.required or not has_default or "default" in (action.help or ""):
            return action.help
        if isinstance(default, list):
            return f"{action.help} (default: {' '.join(map(str, default)).replace('%', '%%')})"
        return super()._get_help_string(action)


def path_argument(text: str) -> Path:
    """The `type` of arguments that name a file or folder; expands ~, which shells leave alone in --output_dir=~/x."""
    if not text.strip():
        raise argparse.ArgumentTypeError("names no folder or file")
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise argparse.ArgumentTypeError(f"{text}: there is no such home; write ./{text} for a folder here")
    return Path(expanded)


def dataset_argument(text: str) -> str:
    """The `type` of arguments that name a dataset or model: expands ~ in a path, and keeps ORG/NAME as it is."""
    return str(path_argument(text)) if text.startswith("~") else text


def from_args(kind: type, args: argparse.Namespace, **others: object) -> object:
    """An instance of the dataclass `kind` whose fields are the arguments of the same names, and `others`."""
    names = {field.name for field in dataclasses.fields(kind)} - set(others)
    return kind(**{name: getattr(args, name) for name in names}, **others)


def begin_command() -> None:
    """Prepare signals and output: SIGTERM raises Terminated, and characters that the terminal's encoding lacks are
    written as escapes such as \\xe9 instead of ending the run, as standard error does by itself."""

    def stop(*_) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cluster and launcher may both send it
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    sys.stdout.reconfigure(errors="backslashreplace")


def run_command(
    parse_args: Callable[[], argparse.Namespace], main: Callable[[argparse.Namespace], int | None], stopped: str
) -> NoReturn:
    """Run a command and exit; every foreseen error becomes one line on standard error.

    stopped: what the user finds, or can do next, if the command is stopped before its end.
    Exit status: what `main` returns (0 for None); 2 if the user must change something; 1 for a leak, a disk that is
    full or not writable, or a server that refuses; 130 after Ctrl-C; 143 after SIGTERM, which clusters send to a job
    that has to make room. Any other exception is a bug of this project and keeps its traceback."""
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
    """Whether an error says that the connection to another process broke, as it does when that process has ended."""
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in gone)
