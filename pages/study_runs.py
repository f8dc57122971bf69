"""What lies in a study's folder: every finished run, known by what its files say, and the dataset.

    study = open_study(Path("runs/demo"))
    study.of(CLASSIFIER)       # the runs of train_classifier.py, by name

A run is a folder with run.json; its kind follows from run.json and results.json, never from the folder's name. A run
that has begun (settings.json) but has no run.json is not finished, and is named as such.
"""

import dataclasses
import os
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import InputError
from harness.files import read_json
from scoring.same_photographs import Photographs, photographs_of, same

CLASSIFIER, FEW_SHOT, GALLERY = "classifier", "few-shot episodes", "retrieval in a gallery"
GENERATOR, FILTER = "generator", "filter"
REPORTS, AGREEMENT = "reports", "agreement of reports"
OTHER = "other"
ON_PHOTOGRAPHS = (CLASSIFIER, FEW_SHOT, GALLERY)  # kinds of runs whose record names the dataset of photographs
OF_PHOTOGRAPHS = ("real", "restored")  # configs
CONFIGS = (*OF_PHOTOGRAPHS, "reports", "synthetic")
MAX_DEPTH = 3  # folders below the study's
WORKED_OUT = ("face_alignment",)  # what scripts record among their arguments, but is no option
SOURCES = "sources.json"  # of reports that were compared: their photographs
REMEDY = "run it again, or move it out of the study's folder"


@dataclasses.dataclass
class Run:
    """A finished run. name: its place below the study's folder; results: {} if it has none."""

    name: str
    folder: Path
    kind: str
    results: dict
    record: dict
    simulated: bool | None = None  # of what images it was made; None: not recorded

    @property
    def dataset(self) -> dict:
        """What its record says of the dataset that it was made with; {} if it says nothing."""
        dataset = self.record.get("dataset")
        return dataset if isinstance(dataset, dict) else {}

    @property
    def fingerprint(self) -> str | None:
        """Of the dataset that it was made with, if its record says so."""
        return self.dataset.get("fingerprint")

    @property
    def photographs(self) -> Photographs:
        """By what the photographs of which it was made are known, as far as its record says so."""
        return photographs_of(self.record)

    @property
    def arguments(self) -> dict:
        arguments = self.record.get("arguments")
        return arguments if isinstance(arguments, dict) else {}


@dataclasses.dataclass
class Study:
    """datasets: folders of built datasets in the study's; unfinished: names of runs that have not ended."""

    folder: Path
    runs: list[Run]
    datasets: list[Path]
    unfinished: list[str]

    def of(self, kind: str) -> list[Run]:
        return [run for run in self.runs if run.kind == kind]


def open_study(folder: Path) -> Study:
    """Raises InputError for a folder without runs and dataset, or that is a dataset itself, and for a file that
    is damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; make demo writes one, runs/demo")
    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / "README.md").is_file() and any((place / config).is_dir() for config in CONFIGS):
            reason = f"{place.name} is a dataset, with which the page would be published"
            raise InputError(f"{folder}: {reason}; give the folder in which runs and dataset lie")
    runs, datasets, unfinished = [], [], []
    for place, files in _places(folder):
        name = place.relative_to(folder).as_posix()
        if is_dataset(place):
            datasets.append(place)
        if "run.json" in files and place != folder:
            runs.append(_read_run(name, place, files))
        elif "settings.json" in files:
            unfinished.append(name)
    if not runs and not datasets:
        raise InputError(f"{folder}: holds no finished run (run.json) and no dataset; make demo writes some")
    return Study(folder, runs, datasets, unfinished)


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a built dataset of photographs."""
    return (folder / "README.md").is_file() and any((folder / config).is_dir() for config in OF_PHOTOGRAPHS)


def _places(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder of the study with the names of its files, sorted; what lies within a run is passed over."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        is_run = here != folder and {"run.json", "settings.json"} & set(files)
        depth = len(here.relative_to(folder).parts)
        folders[:] = [] if is_run or depth == MAX_DEPTH else sorted(n for n in folders if not n.startswith("."))
        yield here, files


def _read_run(name: str, folder: Path, files: list[str]) -> Run:
    record = read_json(folder / "run.json", REMEDY)
    results = read_json(folder / "results.json", REMEDY) if "results.json" in files else {}
    said = [results.get("simulated"), record.get("simulated")]
    simulated = next((value for value in said if isinstance(value, bool)), None)
    return Run(name, folder, kind_of(results, record), results, record, simulated)


def note_of(all_simulated: bool, simulated: Sequence[bool | None]) -> str:
    """What stands in front of a caption. all_simulated: whether the whole study is known to be; simulated: of each run,
    or of the dataset, that the caption is about, which tells where a study is mixed."""
    if all_simulated:
        return "SIMULATED: "
    share = "SIMULATED" if all(simulated) else "partly SIMULATED"
    return f"{share} data: " if any(simulated) else ""


def of_other_photographs(study: Study, described: Photographs, digests: Container[str]) -> list[str]:
    """Names of the runs that were made of other photographs than those a page describes, as far as records tell.

    described, digests: what identifies these together and each. Where a record lacks what identifies them together, as
    older ones do, other fingerprints are of other photographs, except those of restored ones. Runs that compare reports
    name the photographs themselves."""
    others = []
    for run in (run for run in study.runs if run.kind in (*ON_PHOTOGRAPHS, AGREEMENT)):
        known = same(run.photographs, described)
        if run.kind == AGREEMENT and (run.folder / SOURCES).is_file():
            known = all(
                digest in digests for digest in read_json(run.folder / SOURCES, REMEDY).get("source_sha256", [])
            )
        is_older = known is None and run.photographs.digest is None and run.dataset.get("config_name") != "restored"
        if known is False or (is_older and run.fingerprint not in (None, described.fingerprint)):
            others.append(run.name)
    return others


def command_line(record: Mapping, script: str) -> str:
    """How a run is started, as a shell reads it: without options that are off, not set or empty, and with the last part
    of absolute paths.

    record: of run.json; script: that of runs whose record does not say which one they were started by."""
    words, arguments = [str(record.get("script") or script.split()[0])], dict(record.get("arguments", {}))
    words += [str(command)] if (command := arguments.pop("command", None)) else []
    words += ["--no-save_models"] if arguments.pop("save_models", None) is False else []  # on unless it is switched off
    for name, value in arguments.items():
        if name not in WORKED_OUT and value is not None and value is not False and value not in ([], ""):
            texts = _texts_of(value)
            words += [f"--{name}", *(Path(text).name if Path(text).is_absolute() else text for text in texts)]
    return shlex.join(words)


def shortens_paths(record: Mapping) -> bool:
    """Whether command_line shortens a path of this record."""
    values = [value for name, value in dict(record.get("arguments", {})).items() if name not in WORKED_OUT]
    return any(Path(text).is_absolute() for value in values for text in _texts_of(value))


def _texts_of(value: object) -> list[str]:
    """The values of an option, as words of a command; none of one that is on."""
    return [str(one) for one in (value if isinstance(value, list) else [] if value is True else [value])]


def names_by_warning(warnings: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Each warning with the names of the runs that have it. warnings: run -> its warnings, as run.json records them."""
    names: dict[str, list[str]] = {}
    for name, of_run in warnings.items():
        for warning in of_run:
            names.setdefault(warning, []).append(name)
    return names


def kind_of(results: dict, record: dict) -> str:
    """The kind of a run, from what results.json ({} without one) and run.json hold."""
    mode = results.get("mode")
    if {"metrics", "backbone", "recipe"} <= set(results):
        return CLASSIFIER if mode is None else GALLERY if mode == "gallery" else FEW_SHOT
    if {"sides", "ranked_by"} <= set(results):
        return FILTER
    if {"reporter", "n_reports"} <= set(results):
        return REPORTS
    if {"agreement", "n_pairs"} <= set(results):
        return AGREEMENT
    return GENERATOR if not results and ("adapters" in record or "sampling" in record) else OTHER
