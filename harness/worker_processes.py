"""Worker processes on one machine that end together with the process that started them."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor


def process_pool(num_workers: int) -> ProcessPoolExecutor:
    """A pool of freshly started processes: a fork of a process whose libraries use threads may hang."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=belong_to_parent)


def belong_to_parent() -> None:
    """Called in a worker: ignore signals to the whole process group, as Ctrl-C is, and end when the parent is gone."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # discards a signal that came before
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def workers_spared() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM from processes that start here until their parent takes care of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
