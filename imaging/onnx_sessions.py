"""Opens ONNX networks with onnxruntime."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError, one_line

if TYPE_CHECKING:
    import onnxruntime


def providers(device: str) -> list[str]:
    """What onnxruntime computes with on "cpu", "cuda" or "cuda:1": the processor if its build knows no CUDA."""
    import onnxruntime  # here, so that a command without such a network does not wait for it

    wanted = ["CUDAExecutionProvider"] if str(device).startswith("cuda") else []
    return [name for name in wanted if name in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]


def open_onnx(model: Path, device: str, flag: str) -> "onnxruntime.InferenceSession":
    """The network in an ONNX file; OMP_NUM_THREADS, which `accelerate launch` sets, limits its threads.

    flag: the command's flag that named the file, for the InputError raised if it cannot be read as ONNX."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: one a core
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=providers(device))
    except Exception as error:  # onnxruntime raises a class of its own for each way to be damaged
        reason = "is not there" if not model.exists() else f"cannot be read as ONNX ({type(error).__name__})"
        raise InputError(f"{flag} {model}: {reason}; name a whole .onnx file. {one_line(error)}"[:300]) from error
