"""The steps of a study, read from its configuration: which command each runs, with which arguments, after which others.

    study: runs/demo
    defaults: {train_classifier: {dataset_name: "@rdface-sim", backbone: demo_models/backbone}}
    steps:
      probe: {command: train_classifier, options: {protocol: strict}}
      tuned_{way}: {command: train_classifier, foreach: {way: [paper, strict]}, options: {protocol: "{way}"}}

Each step writes into the folder (or page) of its name in the study's folder. `@NAME` in an option is that path for
another step, which then runs before, and `@NAME/rest` is a place in it; `@pixels`, or any other name that is no step,
is a plain folder in the study's. `foreach` makes one step for each combination of its values. `true` gives the flag
alone, `false` its --no- form, and `null` takes a default away. The Snakefile makes one job of each step.
"""

import difflib
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError


@dataclass(frozen=True)
class Command:
    """script: the file at the root, and a subcommand; last_file: what it writes last into its folder, "" if it writes
    one file only, which has the step's name; launched: by `accelerate launch`; resumes: understands
    --resume_from_checkpoint latest; flag: of the output; None: its last argument is the study's folder, into which it
    writes."""

    script: str
    last_file: str = "run.json"
    launched: bool = True
    resumes: bool = True
    flag: str | None = "--output_dir"


COMMANDS = {
    "simulate_faces": Command("simulate_faces.py", "disease_images.csv", launched=False, resumes=False),
    "rdface_dataset build": Command("rdface_dataset.py build", "build_record.json", launched=False, resumes=False),
    "restore_images": Command("restore_images.py", "restoration_record.json"),
    "train_classifier": Command("train_classifier.py"),
    "train_fewshot": Command("train_fewshot.py"),
    "train_dreambooth": Command("train_dreambooth.py"),
    "train_fastgan": Command("train_fastgan.py"),
    "filter_synthetic": Command("filter_synthetic.py"),
    "vlm_report_eval generate": Command("vlm_report_eval.py generate"),
    "vlm_report_eval score": Command("vlm_report_eval.py score", launched=False, resumes=False),
    "make_report gallery": Command("make_report.py gallery", "", launched=False, resumes=False, flag="--output_file"),
    "make_report results": Command("make_report.py results", "", launched=False, resumes=False, flag="--output_file"),
    "make_report study": Command("make_report.py study", "", launched=False, resumes=False, flag=None),
}
STEP_KEYS = {"command", "foreach", "arguments", "options", "after", "resources", "work"}
STUDY_KEYS = {"study", "about", "launch", "defaults", "resources", "rates", "steps"}
WEIGHTS = (".pth", ".pt", ".safetensors", ".onnx", ".task")  # endings of files that the user puts there
RESOURCES = {"gpu": 0, "mem_mb": 4000, "runtime": 60, "threads": 1}  # a job that says nothing; runtime in minutes


@dataclass(frozen=True)
class Step:
    """name: of the step and its output; arguments: of the command, without the output; needs: names of steps;
    files: of the project or given by the user, on which the result depends; resources: as RESOURCES;
    work: amounts by unit, for the estimate of its cost."""

    name: str
    command: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    files: tuple[str, ...]
    resources: Mapping[str, int]
    work: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    folder: Path
    steps: Mapping[str, Step]
    rates: Mapping[str, Mapping]

    def output(self, name: str) -> Path:
        return self.folder / name

    def last_file(self, name: str) -> Path:
        """The file whose presence says that a step is done."""
        return self.output(name) / COMMANDS[self.steps[name].command].last_file

    def command_line(self, name: str, output: Path | None = None) -> list[str]:
        """Script, arguments and output of a step, without Python and `accelerate launch`; output: another place."""
        step = self.steps[name]
        command = COMMANDS[step.command]
        last = [command.flag, str(output or self.output(name))] if command.flag else [str(self.folder)]
        return [*command.script.split(), *step.arguments, *last]

    def missing_weights(self, names: Collection[str]) -> str:
        """One line that names the files of weights that steps read and that are not there; "" if all are."""
        readers: dict[str, list[str]] = {}
        for name in [name for name in self.steps if name in names]:
            for word in self.steps[name].arguments:
                path = Path(word)
                if path.suffix in WEIGHTS and self.folder not in path.parents and not path.is_file():
                    readers.setdefault(word, []).append(name)
        files = [f"{file} (step {of[0]}{f' and {len(of) - 1} more' * bool(of[1:])})" for file, of in readers.items()]
        return f"missing: {', '.join(files)}; put the weights there, or change the configuration" if files else ""


def read_study(config: Mapping) -> Study:
    """The study of a configuration, as YAML was read. Raises InputError, with the step's name, if it makes no sense."""
    _known(config, STUDY_KEYS, "configuration")
    if not config.get("study") or not config.get("steps"):
        raise InputError("the configuration names no study or no steps; give one with --configfile config/demo.yaml")
    folder = Path(config["study"])
    if folder.is_absolute() or ".." in folder.parts:
        raise InputError(f"study: {folder} must be a folder below this one, such as runs/demo")
    for key in ("defaults", "resources"):
        _known(config.get(key) or {}, set(COMMANDS), key)
    written = dict(itertools.chain.from_iterable(_each(*item) for item in config["steps"].items()))
    steps = {name: _step(name, entry, written, folder, config) for name, entry in written.items()}
    return Study(folder, steps, config.get("rates") or {})


def _each(name: str, entry: Mapping) -> list[tuple[str, dict]]:
    """The steps that an entry stands for: one, or one for each combination of the values of `foreach`."""
    _known(entry, STEP_KEYS, f"step {name}")
    if "foreach" not in entry:
        return [(name, dict(entry))]
    keys, steps = list(entry["foreach"]), []
    for values in itertools.product(*entry["foreach"].values()):
        chosen = dict(zip(keys, values, strict=True))
        steps.append((_filled(name, chosen), _filled({k: v for k, v in entry.items() if k != "foreach"}, chosen)))
    if len(dict(steps)) < len(steps):
        raise InputError(f"step {name}: two steps of its foreach have one name; name every key of foreach in it")
    return steps


def _filled(value: object, chosen: Mapping[str, object]) -> object:
    """The value with every {key} of `chosen` filled in; other braces, as prompts have them, stay."""
    if isinstance(value, Mapping):
        return {_filled(key, chosen): _filled(content, chosen) for key, content in value.items()}
    if isinstance(value, list):
        return [_filled(content, chosen) for content in value]
    for key, content in chosen.items():
        if value == f"{{{key}}}":
            return content
        value = value.replace(f"{{{key}}}", str(content)) if isinstance(value, str) else value
    return value


def _step(name: str, entry: Mapping, written: Mapping, folder: Path, config: Mapping) -> Step:
    if entry.get("command") not in COMMANDS:
        raise InputError(f"step {name}: command {entry.get('command')} is unknown; {_nearest(entry.get('command'))}")
    command = entry["command"]
    options = {**((config.get("defaults") or {}).get(command) or {}), **(entry.get("options") or {})}
    words = [*map(str, entry.get("arguments") or []), *_flags(options)]
    places = [word[1:].partition("/")[0] for word in words if word.startswith("@")]
    needs = [place for place in places if place in written]
    after = entry.get("after") or []
    needs += [other for other in written if other != name] if after == "all" else after
    for other in needs:
        if other not in written or other == name:
            raise InputError(f"step {name}: after {other}, which is no other step; name steps of this configuration")
    files = [file for word in words if not word.startswith("@") for file in _files(word)]
    asked = {**RESOURCES, **((config.get("resources") or {}).get(command) or {}), **(entry.get("resources") or {})}
    _known(asked, set(RESOURCES), f"resources of step {name}")
    return Step(
        name=name,
        command=command,
        arguments=tuple(str(folder / word[1:]) if word.startswith("@") else word for word in words),
        needs=tuple(dict.fromkeys(needs)),
        files=tuple(dict.fromkeys(files)),
        resources=asked,
        work=entry.get("work") or {},
    )


def _flags(options: Mapping[str, object]) -> list[str]:
    words = []
    for name, value in options.items():
        if value is False:
            words.append(f"--no-{name}")
        elif value is not None:
            words.append(f"--{name}")
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += map(str, values)
    return words


def _files(word: str) -> list[str]:
    """The files of an argument that names a file or a folder of a model here; none if it names something else."""
    path = Path(word)
    if word.startswith("-") or path.is_absolute() or not path.parts:
        return []
    if path.is_file():
        return [word]
    return sorted(str(file) for file in path.rglob("*") if file.is_file()) if len(path.parts) > 1 else []


def _known(given: Mapping, known: set[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise InputError(f"{where}: {key} is unknown; it may hold {', '.join(sorted(known))}")


def _nearest(name: str | None) -> str:
    close = difflib.get_close_matches(str(name), COMMANDS, 1)
    return f"did you mean {close[0]}?" if close else f"it may be {', '.join(COMMANDS)}"
