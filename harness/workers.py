"""Worker processes on one machine, which end when the process that started them does."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor


def process_pool(num_workers: int) -> ProcessPoolExecutor:
    """Processes that start anew: a fork of one whose libraries have threads may hang."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=belong_to_parent)


def belong_to_parent() -> None:
    """In a worker: hear no signal that is sent to the whole group, as Ctrl-C is, and end when its parent is gone."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # drops one that came before
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def workers_spared() -> Iterator[None]:
    """Processes started here hear of no end before they belong to their parent, which then ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
