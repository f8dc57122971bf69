"""The processes of one run on one or several machines: how they start, agree, fail together and share folders."""

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

from harness import derived_places
from harness.errors import InputError, LeakError, ProtocolError, one_line
from harness.run_folder import check_apart, check_is_no_file

LATE_S = 4.0  # a network file system may hide a new file from other machines for so long
VERY_LATE_S = 90.0  # and for so long if the other machine has looked into the folder before
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "avx10_2", "bf16", "sve_bf16")
Value = TypeVar("Value")


def open_accelerator(mixed_precision: str | None, **kwargs: object) -> Accelerator:
    """Open an Accelerator whose processes may wait for each other for hours; only the main one shows progress.

    mixed_precision: None keeps the setting of `accelerate launch`; kwargs: further arguments of Accelerator. Raises
    InputError if this device lacks the precision, or if the started processes do not know of each other."""
    timeout = InitProcessGroupKwargs(timeout=timedelta(days=7))
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[timeout], **kwargs)
    except ValueError as error:  # fp16 on a CPU
        raise InputError(f"--mixed_precision {mixed_precision}: {one_line(error)}") from error
    if not accelerator.is_main_process:
        datasets.disable_progress_bars()
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:  # each would do, and write, everything
        remedy = f"ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes {started}"
        raise InputError(f"{started} processes were started that know nothing of each other; on a CPU: {remedy}")
    on_cpu = accelerator.device.type == "cpu"
    if on_cpu and accelerator.mixed_precision == "bf16" and emulates_bf16(torch.cpu.get_capabilities()):
        accelerator.print("bf16: this processor has no instructions for it, so it is slower here than full precision")
    return accelerator


def emulates_bf16(capabilities: Mapping[str, object]) -> bool:
    """Whether a processor lacks bf16 instructions and computes it through float32, several times slower.

    capabilities: as torch.cpu.get_capabilities() returns them."""
    return not any(capabilities.get(name) for name in BF16_INSTRUCTIONS)


def device_record(accelerator: Accelerator) -> dict:
    """What a run's record says of where it ran: the device, the peak of GPU memory, and how many processes."""
    device, cuda = accelerator.device, accelerator.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
        "n_processes": accelerator.num_processes,
    }


# ---- several processes, several machines


def in_main_process(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """Run `work` in the main process and return its value in all; all raise the errors for the user that it raised."""
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
    """For each process a name of the machine that it runs on; equal names mean the same machine."""
    return gather_object([os.environ.get("GROUP_RANK", "0")])  # set by torchrun, and so by accelerate launch


def which_see(accelerator: Accelerator, folder: Path) -> list[bool]:
    """For each process, whether `folder` is on its machine the same folder as in the main process.

    The main process writes a file there, and the others look for it; afterwards the file and the folders made for it
    are removed. Raises InputError if the folder cannot be written."""
    if accelerator.num_processes == 1:
        return [True]
    name = f".{secrets.token_hex(8)}.seen"
    new_folders = in_main_process(accelerator, lambda: _leave(folder, name))
    name = in_main_process(accelerator, lambda: name)
    until = time.monotonic() + LATE_S
    while not (seen := (folder / name).is_file()) and time.monotonic() < until:
        time.sleep(0.2)
    answers = gather_object([seen])
    if accelerator.is_main_process:
        (folder / name).unlink(missing_ok=True)
        for empty in new_folders:
            empty.rmdir()
    accelerator.wait_for_everyone()
    return answers


def _leave(folder: Path, name: str) -> list[Path]:
    """Write an empty file; returns the folders that had to be made for it, the innermost first."""
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or one_line(error)}; name another folder") from error
    return new_folders


def check_output_dir(
    accelerator: Accelerator,
    output_dir: Path,
    datasets: Sequence[str],
    cache_dir: Path | None = None,
) -> None:
    """Raise InputError if --output_dir is a file, lies in a dataset's folder, or is not one folder for all processes.

    datasets: folders, or names on the Hub, in which nothing can lie; they are told what is made from them, and where
    their pixels are kept. Called at the start of a run."""
    check_is_no_file(output_dir)
    check_apart(output_dir, datasets)
    check_shared(accelerator, output_dir, "--output_dir")
    if accelerator.is_main_process:
        derived_places.note(datasets, output_dir, derived_places.RUN)
        if cache_dir is not None:
            derived_places.note(datasets, cache_dir, derived_places.CACHE)


def check_shared(accelerator: Accelerator, folder: Path, flag: str) -> None:
    """Raise InputError, in all processes, unless all see the same folder, in which their results will be joined."""
    apart = [number for number, seen in enumerate(which_see(accelerator, folder)) if not seen]
    if apart:
        reason = f"process {apart[0]} of {accelerator.num_processes} does not see what the first one writes there"
        raise InputError(f"{flag} {folder}: {reason}; name a folder that all machines share")


def own_share(accelerator: Accelerator, left: Sequence[Value]) -> Sequence[Value]:
    """Those of the items left to do that are this process's; each of the others has as many, but for one.

    Called by all processes, each with the items that it found. All have looked before any goes on: if one had finished
    an item meanwhile, the others would count otherwise, and some items would be nobody's."""
    accelerator.wait_for_everyone()
    return left[accelerator.process_index :: accelerator.num_processes]


def wait_for_files(files: Sequence[Path]) -> None:
    """Wait until files that another machine wrote can be seen here, since a network file system may show them late.

    Raises InputError for a file that does not appear within VERY_LATE_S seconds."""
    if int(os.environ.get("GROUP_WORLD_SIZE", 1)) == 1:  # the number of machines, set by torchrun
        return
    until = time.monotonic() + VERY_LATE_S
    for file in files:
        while not file.is_file():
            if time.monotonic() > until:
                raise InputError(f"{file}: another process wrote it, and it is not there; run again, resuming")
            if file.parent.is_dir():
                os.listdir(file.parent)  # makes the client ask the server again
            time.sleep(0.5)
