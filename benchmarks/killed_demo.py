"""A study killed again and again, with its whole process group and at random moments, against the same one left alone.

    python benchmarks/killed_demo.py --work_dir runs/killed --kills 20
    python benchmarks/killed_demo.py --work_dir runs/killed_small --kills 20 --small

--small: a step of each command, with fewer SIMULATED photographs and less training. Both studies run in folders of
their own, `unbroken` and `killed`, and are continued there if this script was stopped. Prints how often it was killed,
during which steps, and which results differ, times and memory aside; killed.json in the work folder holds the same.
Exit status 1 if any do, or if the study ended before it was killed as often as asked.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.commands import Parser
from harness.files import write_json

ROOT = Path(__file__).resolve().parents[1]
CONDITIONS = ["WIL", "WIR"]
COSTS = ("wall_s", "peak_memory_bytes", "peak_gpu_memory_bytes", "seconds", "cost", "costs")
SMALL = {  # a step of each command that the demo runs, with fewer photographs and less training
    "raw": {"num_images": 24, "num_conditions": 4, "image_size": 256},
    "rdface-sim": {},
    "rdface-sim-restored": {},
    "dreambooth": {"conditions": CONDITIONS, "max_train_steps": 20, "num_images": 3},
    "probe_strict": {},
    "finetune_strict": {"num_train_epochs": 2},
    "filtered": {},
    "fold0_synthetic": {},
    "fewshot_5way": {"n_way": 3, "knowledge": None},
    "real_reports": {"per_class": 1},
    "synthetic_reports": {},
    "agreement": {},
    "gallery.html": {},
    "results.json": {},
}


def main() -> int:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--configfile", type=Path, default=ROOT / "config" / "demo.yaml", help="the study")
    parser.add_argument("--work_dir", type=Path, required=True, help="folder for both studies")
    parser.add_argument("--kills", type=int, default=20, help="how often one of them is killed")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="fewer steps, photographs and less training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    config = yaml.safe_load(args.configfile.read_text())
    if args.small:
        config["steps"] = smaller(config["steps"])
    report = compare(args, config)
    write_json(args.work_dir / "killed.json", report)
    print(json.dumps(report, indent=1))
    return int(bool(report["differ"]) or not report["compared"] or report["kills"] < args.kills)


def smaller(steps: dict) -> dict:
    """Fewer of the steps, with other options."""
    return {name: {**steps[name], "options": {**steps[name].get("options", {}), **SMALL[name]}} for name in SMALL}


def compare(args: argparse.Namespace, config: dict) -> dict:
    """Run both studies to their end and compare all their results."""
    unbroken, killed = (place_for(args.work_dir / name, config) for name in ("unbroken", "killed"))
    if start(unbroken, args.cores).wait():
        raise SystemExit(f"the study failed without being killed; its log is {unbroken / 'said.log'}")
    seconds = seconds_of_steps(unbroken / config["study"] / "steps")
    kills = kill_at_random(killed, config["study"], args, seconds)
    if start(killed, args.cores).wait():
        raise SystemExit(f"the study failed after {len(kills)} kills; its log is {killed / 'said.log'}")
    one, other = (results_of(place / config["study"]) for place in (unbroken, killed))
    return {
        "simulated": True,
        "study": config["study"],
        "steps": len(seconds),
        "seconds_of_all_steps": round(sum(seconds.values()), 1),
        "kills": len(kills),
        "killed_during": kills,
        "compared": len(one),
        "differ": sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)),
    }


def seconds_of_steps(records: Path) -> dict[str, float]:
    """How long each step took, in the order in which they ended."""
    files = sorted(records.glob("*.seconds.json"), key=lambda file: file.stat().st_mtime)
    return {file.name.removesuffix(".seconds.json"): json.loads(file.read_text())["seconds"] for file in files}


def place_for(folder: Path, config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if not (folder / "demo_models").exists():
        (folder / "demo_models").symlink_to(ROOT / "demo_models")
    return folder


def start(folder: Path, cores: int) -> subprocess.Popen:
    """Start or continue the study as `make demo` does, as the leader of a process group, without any further flag."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", "config.yaml"]
    command += ["--cores", str(cores), "--quiet", "rules", "host", "progress", "reason"]
    with (folder / "said.log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def kill_at_random(folder: Path, study: str, args: argparse.Namespace, seconds: dict[str, float]) -> list[list[str]]:
    """Start the study and kill its group, again and again. Returns the steps that were under way at each kill.

    The kills are spread over the whole study: number k of n waits until its share k / n of the steps has ended and
    another is under way that was begun in this start, until a random part of the time that this one takes without a
    stop has passed since it began."""
    moments, records, kills = random.Random(args.seed), folder / study / "steps", []
    for number in range(args.kills):
        run = start(folder, args.cores)
        if ends_before(run, records, number * len(seconds) // args.kills, moments.random(), seconds):
            if run.returncode:
                raise SystemExit(f"the study failed after {len(kills)} kills; its log is {folder / 'said.log'}")
            break
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        kills.append(under_way(records))
    return kills


def ends_before(run: subprocess.Popen, records: Path, ended: int, part: float, seconds: dict[str, float]) -> bool:
    """Whether the study has ended before it is time to kill it: when `ended` steps have ended, another is under way
    that was begun in this start, and `part` (0..1) of the seconds that this one takes has passed since."""
    started, kill_at = time.time(), None
    while run.poll() is None:
        if kill_at is None and len(under_way(records)) + ended <= len(records_of(records)):
            begun = {step: (records / f"{step}.json").stat().st_mtime for step in under_way(records)}
            kill_at = next((at + part * seconds.get(step, 0) for step, at in begun.items() if at >= started), None)
        if kill_at and time.time() >= kill_at:
            return False
        time.sleep(0.05)
    return True


def under_way(records: Path) -> list[str]:
    """The steps that were begun and not finished, by their records."""
    return sorted(file.stem for file in records_of(records) if not is_finished(file))


def records_of(records: Path) -> list[Path]:
    """The records of the steps that were begun."""
    return [file for file in records.glob("*.json") if not file.name.endswith(".seconds.json")]


def is_finished(record: Path) -> bool:
    return bool(json.loads(record.read_text()).get("finished"))


def results_of(study: Path) -> dict[str, object]:
    """Every results.json of a study, and the table of the corpus, without what differs between any two runs."""
    files = [file for file in sorted(study.rglob("results.json")) if "steps" not in file.relative_to(study).parts]
    results = {str(file.relative_to(study)): without_costs(json.loads(file.read_text())) for file in files}
    table = study / "raw" / "disease_images.csv"
    return results | ({"raw/disease_images.csv": table.read_text()} if table.is_file() else {})


def without_costs(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_costs(content) for key, content in value.items() if key not in COSTS}
    return [without_costs(content) for content in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
