"""A user of the loopback Hub without the second that a new process spends on imports: in the tests' own process, or in
one that is forked from a server which has imported all before.

    with using(hub.environment(tmp_path / "home", "hf_owner")):
        status = in_process.exit_status(publish_dataset, "publish", dataset, "lab/rdface")
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import huggingface_hub
from huggingface_hub import constants
from in_process import exit_status


@contextlib.contextmanager
def using(environment: dict[str, str]) -> Iterator[None]:
    """This process with another environment (`Hub.environment`), as if huggingface_hub had been imported in it."""
    address, home = environment["HF_ENDPOINT"], Path(environment["HF_HOME"])
    read_at_import = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "HF_HUB_DISABLE_IMPLICIT_TOKEN" in environment,
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }
    with mock.patch.dict(os.environ, environment, clear=True), mock.patch.multiple(constants, **read_at_import):
        huggingface_hub.close_session()  # the client of an earlier user, with that one's proxies
        try:
            yield
        finally:
            huggingface_hub.close_session()


CHANGES = ("replace", "rename", "unlink", "remove", "rmdir")  # functions of os after which a folder is another


def _run(gate: Connection, environment: dict[str, str], command: str, arguments: list[str]) -> None:
    moment = gate.recv()
    if isinstance(moment, int):
        _die_before(moment)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    with using(environment):
        os._exit(exit_status(importlib.import_module(command), *arguments))


def _die_before(moment: int) -> None:
    """Lets this process be killed (SIGKILL) in the place of the change of this number, 0, 1, .."""
    done = 0

    def counted(change):
        def change_or_die(*arguments: object, **options: object) -> object:
            nonlocal done
            if done == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return change(*arguments, **options)

        return change_or_die

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def killed_before(moment: int, environment: dict[str, str], command: str, *arguments: object) -> int:
    """Runs a command in a process that is killed before the change of this number to its files; the exit status."""
    process, gate = waiting_process(environment, command, *arguments)
    gate.send(moment)
    process.join(timeout=600)
    return process.exitcode


def waiting_process(environment: dict[str, str], command: str, *arguments: object) -> tuple[BaseProcess, Connection]:
    """A process that runs a command (by its module's name) once something is sent to the connection.

    A number that is sent is that of the change to files before which the process is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([command, __name__, "imported_before"])
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):  # it passes over what it does not find
        forkserver.ensure_running()
    gate, its_end = context.Pipe()
    process = context.Process(target=_run, args=(its_end, environment, command, list(map(str, arguments))))
    process.start()
    return process, gate
