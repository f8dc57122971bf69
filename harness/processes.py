"""The processes that `accelerate launch` started, or the one of a plain `python`, as every script wants them."""

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object

from harness.errors import InputError, LeakError, ProtocolError, one_line
from harness.run_folder import check_apart

LATE_S = 4.0  # for so long a file system between machines may hide a new file from another than its maker
VERY_LATE_S = 90.0  # and for so long a folder in which that other had looked before
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "avx10_2", "bf16", "sve_bf16")
Value = TypeVar("Value")


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
    on_cpu = accelerator.device.type == "cpu"
    if on_cpu and accelerator.mixed_precision == "bf16" and emulates_bf16(torch.cpu.get_capabilities()):
        accelerator.print("bf16: this processor has no instructions for it, so it is slower here than full precision")
    return accelerator


def emulates_bf16(capabilities: Mapping[str, object]) -> bool:
    """Whether a processor computes bf16 by way of float32, several times slower; as torch.cpu.get_capabilities says."""
    return not any(capabilities.get(name) for name in BF16_INSTRUCTIONS)


def device_name(accelerator: Accelerator) -> str:
    """The device as run records name it: the GPU's model, or cpu."""
    is_gpu = accelerator.device.type == "cuda"
    return torch.cuda.get_device_name(accelerator.device) if is_gpu else str(accelerator.device)


# ---- several processes, several machines


def in_main_process(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """What `work` gives in the main process, for all of them; what it raises for the user there, all raise."""
    outcome = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (InputError, ProtocolError, LeakError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def machines(accelerator: Accelerator) -> list[str]:
    """The machine on which each process runs, by a name that means nothing else."""
    return gather_object([os.environ.get("GROUP_RANK", "0")])  # as torchrun, and so accelerate launch, has it


def which_see(accelerator: Accelerator, folder: Path) -> list[bool]:
    """For each process whether `folder`, under this name on its machine, is the main process's: it finds a file there
    that this one has just written. Folders made for that are removed again. Raises InputError if it cannot be written.
    """
    if accelerator.num_processes == 1:
        return [True]
    name = f".{secrets.token_hex(8)}.seen"
    made = in_main_process(accelerator, lambda: _leave(folder, name))
    name = in_main_process(accelerator, lambda: name)
    until = time.monotonic() + LATE_S
    while not (seen := (folder / name).is_file()) and time.monotonic() < until:
        time.sleep(0.2)
    answers = gather_object([seen])
    if accelerator.is_main_process:
        (folder / name).unlink(missing_ok=True)
        for empty in made:
            empty.rmdir()
    accelerator.wait_for_everyone()
    return answers


def _leave(folder: Path, name: str) -> list[Path]:
    """Write an empty file; returns the folders that had to be made for it, the innermost first."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or one_line(error)}; name another folder") from error
    return made


def check_output_dir(accelerator: Accelerator, output_dir: Path, datasets: Sequence[str]) -> None:
    """Raise InputError, at the start of a run, for a folder in which its results could not be joined, or would lie in
    one of the `datasets`, of which those on the Hub have none."""
    check_apart(output_dir, datasets)
    check_shared(accelerator, output_dir, "--output_dir")


def check_shared(accelerator: Accelerator, folder: Path, flag: str) -> None:
    """Raise InputError, in all processes, unless all see one folder where results of all are to be joined."""
    apart = [number for number, seen in enumerate(which_see(accelerator, folder)) if not seen]
    if apart:
        reason = f"process {apart[0]} of {accelerator.num_processes} does not see what the first one writes there"
        raise InputError(f"{flag} {folder}: {reason}; name a folder that all machines share")


def wait_for_files(files: Sequence[Path]) -> None:
    """Until all that another machine wrote are seen, since over a network they come late. Raises InputError for one
    that does not come."""
    if int(os.environ.get("GROUP_WORLD_SIZE", 1)) == 1:  # of machines, as torchrun, and so accelerate launch, has it
        return
    until = time.monotonic() + VERY_LATE_S
    for file in files:
        while not file.is_file():
            if time.monotonic() > until:
                raise InputError(f"{file}: another process wrote it, and it is not there; run again, resuming")
            if file.parent.is_dir():
                os.listdir(file.parent)  # asks the server anew
            time.sleep(0.5)
