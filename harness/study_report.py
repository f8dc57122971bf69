"""What the Snakefile prints: the plan with its estimated cost, and at the end the page and the headline numbers.

An estimate is either what the step took when it last ran without a stop (on this machine), or the work that the
configuration states, at the rates that it states with their source. There is no other estimate: such a step is "not
measured".
"""

import json
from collections.abc import Sequence

from harness.study_plan import Study
from harness.study_step import measured_of


def begin(study: Study) -> None:
    """Start the count of finished steps, which `harness.study_step` goes on with."""
    (study.folder / "steps").mkdir(parents=True, exist_ok=True)
    (study.folder / "steps" / "done.txt").write_text("")


def seconds_of(study: Study, name: str) -> tuple[float | None, str]:
    """The seconds that a step is expected to take, and where they come from; None if nothing was measured."""
    step = study.steps[name]
    try:
        measured = json.loads(measured_of(study.folder, name).read_text(encoding="utf-8"))
        changed = "" if measured["command"] == study.command_line(name) else ", with other options"
        return measured["seconds"], f"earlier run{changed}"
    except (OSError, ValueError, KeyError):
        pass
    if not step.work or set(step.work) - set(study.rates):
        return None, "not measured"
    rates = [(amount, study.rates[unit]) for unit, amount in step.work.items()]
    machines = sorted({str(rate["machine"]) for _, rate in rates})
    return sum(3600 * amount / rate["per_hour"] for amount, rate in rates), f"rates on {', '.join(machines)}"


def plan(study: Study, jobs: Sequence[str]) -> str:
    """A table of the jobs with their cost, and the sums; jobs: names of the steps that would run, in any order."""
    names = [name for name in study.steps if name in set(jobs)]
    width = max(map(len, ["step", *names]))
    lines = [f"{'step':<{width}} {'command':<24} {'GPUs':>4} {'estimate':>10}  from"]
    known, gpu_hours, hours = 0, 0.0, 0.0
    for name in names:
        step = study.steps[name]
        seconds, source = seconds_of(study, name)
        if seconds is not None:
            known += 1
            gpus = step.resources["gpu"]
            hours, gpu_hours = hours + seconds / 3600, gpu_hours + gpus * seconds / 3600
        else:
            amounts = ", ".join(f"{amount:,} {unit}" for unit, amount in step.work.items())
            source += f" ({amounts})" if amounts else ""
        lines.append(f"{name:<{width}} {step.command:<24} {step.resources['gpu']:>4} {duration(seconds):>10}  {source}")
    sums = f"{len(jobs)} of {len(study.steps)} jobs would run; {known} have an estimate: {duration(3600 * hours)} one "
    lines.append(f"{sums}after the other, {gpu_hours:.1f} GPU hours; {len(jobs) - known} are not measured")
    if missing := study.missing_weights(names):
        lines.append(missing)
    for unit, rate in study.rates.items():
        lines.append(f"rate: {rate['per_hour']:,} {unit} per hour on {rate['machine']} ({rate['source']})")
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
