"""Runs one step of a study for the Snakefile: starts or resumes it, keeps its log, says when it begins and is done.

    python -m harness.study_step --study runs/demo --step probe --code DIGEST --log FILE [--resumes] [--processes N]
        [--made_from FILE …] -- SCRIPT ARGUMENT …

`STUDY/steps/STEP.json` says with which command line, code and inputs the step was begun. A step that was killed goes on
from its checkpoints if all of these are as they were; otherwise what it left is removed, and it starts anew.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from harness.commands import Parser, path_argument
from harness.files import sha256_of, write_json

ROOT = Path(__file__).resolve().parents[1]
RESUME = ("--resume_from_checkpoint", "latest")
OURS = ("settings.json", "restoration_record.json", "SIMULATED.txt")  # files that mark a folder as a command's own
TAIL_LINES = 8  # of the log, shown if a step fails


def main() -> int:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--study", type=path_argument, required=True, help="the study's folder")
    parser.add_argument("--step", required=True, help="the step's name, and that of its output")
    parser.add_argument("--code", required=True, help="digest of the files that the command is made of")
    parser.add_argument("--log", type=path_argument, required=True, help="file for what the command prints")
    parser.add_argument("--made_from", type=path_argument, nargs="*", default=[], help="files that the step reads")
    parser.add_argument("--resumes", action="store_true", help="the command understands --resume_from_checkpoint")
    parser.add_argument("--processes", type=int, default=0, help="of `accelerate launch`; 0: plain Python")
    parser.add_argument("--gpus", type=int, default=0, help="taken from those that the study may use here")
    parser.add_argument("--mixed_precision", default="no", help="of `accelerate launch`")
    parser.add_argument("--threads", type=int, default=1, help="of each process on a CPU")
    parser.add_argument("command", nargs="+", help="script and arguments, after --")
    args = parser.parse_args()
    begun = {
        "command": args.command,
        "code": args.code,
        "made_from": {str(file): sha256_of(file) for file in args.made_from},
    }
    (args.study / "steps").mkdir(parents=True, exist_ok=True)
    lock = FileLock(args.study / "steps" / f"{args.step}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reason = "is still being run by an earlier start, which was killed without it"
        print(f"{args.step} {reason}; wait for it to end, or end it", file=sys.stderr, flush=True)
        return 2
    goes_on = prepare(args.study, args.step, begun, args.resumes)
    script, *arguments = args.command
    command = [*launcher(args.processes, args.mixed_precision), str(ROOT / script), *arguments]
    command += RESUME if goes_on else ()
    held = take_gpus(args.study, args.gpus)
    print(f"{'begins':>10}  {args.step}", flush=True)
    started = time.monotonic()
    status = run_logged(command, args.log, args.threads)
    for lock in held:
        lock.release()
    seconds = round(time.monotonic() - started, 1)
    if status:
        shown = "\n".join(f"    {line}" for line in last_lines(args.log.read_text(encoding="utf-8", errors="replace")))
        print(f"{args.step} failed (status {status}); {args.log} ends with\n{shown}", file=sys.stderr, flush=True)
        return status
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {"seconds": seconds, "cpu_s": round(used.ru_utime + used.ru_stime, 1), "command": args.command}
    if not goes_on:  # else it took longer than is known
        write_json(measured_of(args.study, args.step), measured)
    write_json(record_of(args.study, args.step), begun | {"finished": True})
    print(progress(args.study, args.step, seconds), flush=True)
    return 0


def record_of(study: Path, step: str) -> Path:
    return study / "steps" / f"{step}.json"


def measured_of(study: Path, step: str) -> Path:
    """The file that keeps, beyond the step's next start, how long it took when it last ran without a stop."""
    return study / "steps" / f"{step}.seconds.json"


def prepare(study: Path, step: str, begun: dict, resumes: bool) -> bool:
    """Whether the step goes on where it was stopped. If not, what it left is removed, and `begun` is kept.

    The order matters: whenever the process is killed in between, the next start does the same again. A finished step
    that runs again was asked for anew, and its record differs from `begun`."""
    record, output = record_of(study, step), study / step
    try:
        unchanged = json.loads(record.read_text(encoding="utf-8")) == begun
    except (OSError, ValueError):
        unchanged = False
    goes_on = unchanged and resumes
    # restore_images.py refuses a result without its record, which Snakemake removes as the step's last file
    without_record = (output / "restored").is_dir() and not (output / "restoration_record.json").is_file()
    if without_record or (not goes_on and any((output / name).exists() for name in OURS)):
        shutil.rmtree(output)
    if unchanged:
        os.utime(record)  # its time says when the step was begun last
    else:
        write_json(record, begun)
    return goes_on


def take_gpus(study: Path, n: int) -> list[FileLock]:
    """Takes n GPUs that no other step of the study holds and makes them the only visible ones; returns their locks.

    RDFACE_STUDY_GPUS names those of this machine, as CUDA_VISIBLE_DEVICES does. Without it, as in a job of SLURM,
    which hands out GPUs itself, nothing is taken. Waits if too few are free."""
    names, held = [name for name in os.environ.get("RDFACE_STUDY_GPUS", "").split(",") if name], {}
    while len(held) < min(n, len(names)):
        for name in names:
            lock = FileLock(study / "steps" / f"gpu{name}.lock")  # released by the system, however this process ends
            if name not in held and len(held) < n:
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    held[name] = lock
        if len(held) < min(n, len(names)):  # two steps that wait for each other's would wait for ever
            for lock in held.values():
                lock.release()
            held = {}
            time.sleep(random.uniform(0.1, 1))
    if held:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    return list(held.values())


def launcher(processes: int, mixed_precision: str) -> list[str]:
    if not processes:
        return [sys.executable]
    several = ["--multi_gpu"] if processes > 1 else []
    options = f"--num_processes {processes} --num_machines 1 --mixed_precision {mixed_precision} --dynamo_backend no"
    return [sys.executable, "-m", "accelerate.commands.launch", *several, *options.split()]


def run_logged(command: list[str], log: Path, threads: int) -> int:
    """The exit status of a command whose output goes into a log; signals that end this process reach it, too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"} | os.environ
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: child.send_signal(number))
        return child.wait()


def last_lines(log: str) -> list[str]:
    """What a failed command said last, without what `accelerate launch` adds: a traceback of its own."""
    lines = [line for line in log.replace("\r", "\n").splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if begins and any("accelerate/commands/launch.py" in line for line in lines[begins[-1] :]):
        lines = lines[: begins[-1]]
    return lines[-TAIL_LINES:]


def progress(study: Path, step: str, seconds: float) -> str:
    """The line that says a step is done, with its number among those of this start, which the Snakefile counts."""
    total, file = os.environ.get("RDFACE_STUDY_JOBS"), study / "steps" / "done.txt"
    with file.open("a+", encoding="utf-8") as done:
        done.write(f"{step}\n")
        done.flush()
        done.seek(0)
        number = len(done.readlines())
    return f"{f'{number:3d} of {total}  ' if total else ''}{step:<28} {seconds:6.0f} s"


if __name__ == "__main__":
    sys.exit(main())
