"""The processes that `accelerate launch` started, or the one of a plain `python`, as every script wants them."""

import argparse
import os
from collections.abc import Callable
from datetime import timedelta

import datasets
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from protocols import LeakError, ProtocolError
from runs import InputError, fail, one_line


def open_accelerator(mixed_precision: str | None, **kwargs: object) -> Accelerator:
    """An Accelerator whose processes may be hours apart and of which only the main one shows progress.

    mixed_precision: None is as accelerate launch says; kwargs: the Accelerator's. Raises InputError where the precision
    cannot be had here, or where processes were started that do not know of each other."""
    timeout = InitProcessGroupKwargs(timeout=timedelta(days=7))
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[timeout], **kwargs)
    except ValueError as error:  # fp16 on a CPU
        raise InputError(f"--mixed_precision {mixed_precision}: {one_line(error)}") from error
    if not accelerator.is_main_process:
        datasets.disable_progress_bars()
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:  # each would do, and write, everything
        how = f"ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes {started}"
        raise InputError(f"{started} processes were started that know nothing of each other; on a CPU: {how}")
    return accelerator


def run_script(main: Callable[[argparse.Namespace], None], parse_args: Callable[[], argparse.Namespace]) -> None:
    """A script from its command line to its end; what stops it is one line and an exit status.

    2: the user must change something; 1: a leak, or a disk that is full or not ours; 130: stopped by Ctrl-C. Anything
    else is a bug, and keeps its traceback."""
    go_on = "--resume_from_checkpoint latest goes on from here"
    try:
        main(parse_args())
    except (InputError, ProtocolError) as error:
        fail(str(error), 2)
    except LeakError as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"failed: {one_line(error)}; {go_on}", 1)
    except KeyboardInterrupt:
        fail(f"stopped; {go_on}", 130)
