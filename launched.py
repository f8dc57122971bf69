"""The processes that `accelerate launch` started, or the one of a plain `python`, as every script wants them."""

import os
from datetime import timedelta

import datasets
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from runs import InputError, one_line


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
