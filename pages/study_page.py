"""Fills the one page of a whole study (study_page.html), and gathers its leaderboard and its numbers.

    outcome = study_outcome(Path("runs/demo"), published, show_real=False)
    outcome.page, outcome.leaderboard, outcome.results

Any subset of the runs will do: a section without a run says which command makes one. The page loads nothing, holds no
script, and shows no face of a patient unless its owner asks for it; see study_images.py and study_reports.py.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from curation.opening import photograph_sha256, photographs_digest
from pages import study_classification, study_images, study_reports
from pages.reports_page import environment
from pages.study_blocks import Section, Table, Text
from pages.study_images import StudyDataset
from pages.study_results import Numbers, read_numbers, results_json
from pages.study_runs import (
    FEW_SHOT,
    GALLERY,
    OTHER,
    Run,
    Study,
    command_line,
    is_dataset,
    names_by_warning,
    note_of,
    of_other_photographs,
    open_study,
    shortens_paths,
)
from scoring import leaderboard
from scoring.leaderboard import Entry
from scoring.same_photographs import Photographs

TEMPLATE = "study_page.html"
HEADLINES = {"recognition": "Recognition", "gain": "Gain", "reports": "Reports"}
WORDS = re.compile(r"[A-Za-z]{2}.* |^.{24}")  # a cell that may be broken into lines; others are numbers or single words
SCRIPTS = {
    study_images.FILTER: "filter_synthetic.py",
    "classifier": "train_classifier.py",
    "few-shot episodes": "train_fewshot.py",
    "retrieval in a gallery": "train_fewshot.py",
    "reports": "vlm_report_eval.py generate",
    "agreement of reports": "vlm_report_eval.py score",
    "generator": "train_dreambooth.py",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """page: HTML; leaderboard: Markdown; results: the content of results.json."""

    page: str
    leaderboard: str
    results: dict
    datasets: list[Path]  # every one that a run was made with
    warnings: list[str]  # those of the page's summary, as sentences


def study_outcome(folder: Path, published: Sequence[Entry], show_real: bool) -> Outcome:
    """Raises InputError for a folder without a run, and for a run that cannot be read."""
    study = open_study(folder)
    dataset_folder = dataset_of(study)
    dataset = study_images.open_dataset(dataset_folder) if dataset_folder else None
    digests = frozenset(photograph_sha256(dataset.images)) if dataset else frozenset()
    opened = study_reports.open_all(study)
    study_reports.mark_simulated(study, opened, digests if dataset and dataset.simulated else frozenset())
    simulated = mark_simulated(study, dataset)
    others: list[str] = []
    if dataset:
        described = Photographs(photographs_digest(dataset.images), dataset.images._fingerprint)
        others = of_other_photographs(study, described, digests)
    numbers = read_numbers(study, others)
    warnings = warnings_of(study, dataset, numbers, others)
    reports = study_reports.reports_section(study, opened, simulated is True, show_real)
    sections = sections_of(study, dataset, numbers, published, reports, simulated is True, show_real)
    counted = study_images.counts_of(dataset) if dataset else None
    entries = [*numbers.entries, *published]
    return Outcome(
        rendered(study, dataset, numbers, sections, simulated, show_real, warnings),
        leaderboard.format_leaderboard(entries, numbers.differences) + "\n",
        results_json(study, numbers, simulated, counted),
        datasets_of(study),
        warnings,
    )


def dataset_of(study: Study) -> Path | None:
    """The dataset with which most runs were made, of those in the study's folder; if it holds none, a folder that the
    runs name; None without one."""
    named = Counter(str(name) for run in study.runs if (name := run.arguments.get("dataset_name")))
    if study.datasets:
        names = Counter(Path(name).name for name in named.elements())
        return max(study.datasets, key=lambda folder: names[folder.name])
    return next((Path(name) for name, _ in named.most_common() if is_dataset(Path(name))), None)


def datasets_of(study: Study) -> list[Path]:
    """The folders of all datasets that lie in the study's folder or that its runs name."""
    named = [Path(str(name)) for run in study.runs if (name := run.arguments.get("dataset_name"))]
    folders = [*study.datasets, *(folder for folder in named if is_dataset(folder))]
    return list({folder.resolve(): folder for folder in folders}.values())


def mark_simulated(study: Study, dataset: StudyDataset | None) -> bool | None:
    """Whether everything in the study is simulated: True only if each run and the dataset say so, None if one does not
    tell. A run that does not record it is as its dataset, if it was made with this one. Runs of which the page shows
    nothing (OTHER), such as a simulation, do not count."""
    for run in study.runs:
        if run.simulated is None and dataset and run.fingerprint == dataset.images._fingerprint:
            run.simulated = dataset.simulated
    said = [run.simulated for run in study.runs if run.kind != OTHER] + ([dataset.simulated] if dataset else [])
    return False if False in said else None if None in said else True


def sections_of(
    study: Study,
    dataset: StudyDataset | None,
    numbers: Numbers,
    published: Sequence[Entry],
    reports: Section,
    simulated: bool,
    show_real: bool,
) -> list[Section]:
    of_classifiers = note_of(simulated, [one.run.simulated for one in numbers.classifiers])
    of_few_shot = note_of(simulated, [run.simulated for run in (*study.of(FEW_SHOT), *study.of(GALLERY))])
    recognition = numbers.headline["recognition"]
    best = next((one for one in numbers.classifiers if recognition and one.run.name == recognition["run"]), None)
    of_best = note_of(simulated, [best.run.simulated] if best else [])
    return [
        study_images.dataset_section(dataset, study, note_of(simulated, [dataset.simulated] if dataset else [])),
        study_classification.classifiers_section(numbers, published, of_classifiers),
        study_classification.gains_section(numbers, of_classifiers),
        study_classification.few_shot_section(study, of_few_shot),
        study_classification.subgroups_section(best, of_best),
        study_classification.calibration_section(best, of_best),
        study_images.filter_section(
            study, note_of(simulated, [run.simulated for run in study.of(study_images.FILTER)])
        ),
        reports,
        study_images.gallery_section(study, dataset, simulated, show_real),
        methods_section(study),
    ]


def rendered(
    study: Study,
    dataset: StudyDataset | None,
    numbers: Numbers,
    sections: Sequence[Section],
    simulated: bool | None,
    show_real: bool,
    warnings: Sequence[str],
) -> str:
    numbered, templates = itertools.count(1), environment()
    templates.filters["kind_of_cell"] = lambda cell: "words" if WORDS.search(str(cell)) else "number"
    return templates.get_template(TEMPLATE).render(
        title="RDFace study" + (" (SIMULATED)" if simulated else ""),
        simulated=simulated,
        not_told=[run.name for run in study.runs if run.simulated is not True and run.kind != OTHER],
        shows_real=show_real and simulated is not True,
        headlines=[headline_card(name, numbers.headline[name], simulated is True) for name in HEADLINES],
        words=in_words(dataset, numbers, simulated is True, warnings),
        sections=sections,
        figure_number=lambda: next(numbered),
        made=f"{date.today():%d %B %Y}",
        unfinished=study.unfinished,
    )


# ------------------------------------------------------------------------------------------------------------ summary


def headline_card(name: str, found: Mapping | None, simulated: bool = False) -> dict:
    """A headline number for the page: its heading, the number, its interval, and what it means.

    simulated: whether the whole study is known to be."""
    heading = note_of(simulated, [found["simulated"]] if found else []) + HEADLINES[name]
    if found is None:
        return {"heading": heading, "value": "–", "interval": "", "what": "no run in this folder tells it"}
    sign, scale, unit, digits = {
        "recognition": ("", 100, " %", 1), "gain": ("+", 100, " points", 1), "reports": ("", 1, "", 2),
    }[name]  # fmt: skip

    def text(value: float) -> str:
        return f"{scale * value:{sign}.{digits}f}"

    has_ends = found["low"] is not None and found["high"] is not None
    what = found["what"]
    if found.get("chance"):
        what += f"; chance {scale * found['chance']:.{digits}f}{unit}"
    what += f". Run {found['run']}" + (f" less {found['base']}" if "base" in found else "")
    if found["chosen_from"] > 1:
        of_what = {
            "recognition": "such classifier runs with photographs alone",
            "gain": "gains",
            "reports": "comparisons",
        }[name]
        what += f", the highest of {found['chosen_from']} {of_what} and so a little too high"
    return {
        "heading": heading,
        "value": text(found["value"]) + unit,
        "interval": f"{text(found['low'])} to {text(found['high'])}" if has_ends else "",
        "what": what + ".",
    }


def headline_lines(results: Mapping) -> list[str]:
    """The three headline numbers for the screen. results: of results_json."""
    cards = [headline_card(name, results["headline"][name], results["simulated"] is True) for name in HEADLINES]
    for card in cards:
        card["interval"] = f" [{card['interval']}]" if card["interval"] else ""
    return ["{heading}: {value}{interval}, {what}".format(**card) for card in cards]


def in_words(dataset: StudyDataset | None, numbers: Numbers, simulated: bool, warnings: Sequence[str]) -> list[str]:
    """The study in plain sentences, for somebody who reads nothing else."""
    noun = "simulated faces" if simulated or (dataset and dataset.simulated) else "photographs"
    words = []
    if dataset:
        n, facts = len(dataset.images), dataset.facts
        words.append(f"The study is about {n} {noun} of {facts['n_conditions']} rare genetic conditions.")
    headline = numbers.headline
    if found := headline["recognition"]:
        chance = f"; a guess would be right in {100 * found['chance']:.1f} of 100" if found["chance"] else ""
        words.append(
            f"For a person whom it had never seen, the classifier put the right condition first in "
            f"{100 * found['value']:.0f} of 100 images{chance}."
        )
    if found := headline["gain"]:
        ends = (found["low"], found["high"])
        sure = None not in ends and (ends[0] > 0 or ends[1] < 0)
        verb = "raised" if found["value"] > 0 else "lowered" if found["value"] < 0 else "changed"
        doubt = "" if sure else ", which may be chance, since the interval includes no change"
        added = found["what"].removeprefix("change of top-1 accuracy by ")
        words.append(f"Adding {added} {verb} this by {abs(100 * found['value']):.1f} percentage points{doubt}.")
    if found := headline["reports"]:
        low = found["low"]
        tells = "can be told" if low is not None and low > 0.5 else "cannot be told with certainty"
        words.append(
            f"From the terms in their reports, synthetic faces of a condition {tells} from those of other conditions: "
            f"a report on one is more like a real report of its own condition in {100 * found['value']:.0f} of 100 "
            "comparisons, where guessing gives 50."
        )
    return [*words, *warnings, "Nothing here may be used to diagnose anybody."]


def warnings_of(study: Study, dataset: StudyDataset | None, numbers: Numbers, others: Sequence[str]) -> list[str]:
    """What whoever reads the numbers must know, for the page and the screen. others: runs of other photographs."""
    said = []
    if dataset and others:
        said.append(
            f"Runs of other photographs than those of {dataset.name} lie in this folder, and no number of this summary "
            f"is theirs: {', '.join(others)}."
        )
    if len({one.run.results.get("n_classes") for one in numbers.classifiers}) > 1:
        said.append("Runs with different numbers of conditions lie in this folder; their scores cannot be compared.")
    for warning, names in names_by_warning({run.name: run.record.get("warnings", ()) for run in study.runs}).items():
        said.append(f"WARNING for {', '.join(names)}: {warning}.")
    return said


# ------------------------------------------------------------------------------------------------------------ methods


def methods_section(study: Study) -> Section:
    """What every run was made with, how long it took, and how it is started again."""
    rows = [
        [run.name, run.kind, data_of(run), seeds_of(run), duration(run.record.get("wall_s")), memory(run), device(run)]
        for run in study.runs
    ]
    blocks: list[object] = [
        Table(
            "Runs, with what they took",
            ["run", "kind", "data", "seeds", "time", "peak memory", "device"],
            rows,
            "Peak memory is that of the main process. A run that was resumed counts its last part alone.",
        )
    ]
    versions: dict[str, set[str]] = {}
    for run in study.runs:
        for name, version in (run.record.get("versions") or {}).items():
            versions.setdefault(name, set()).add(str(version))
    if versions:
        listed = [[name, ", ".join(sorted(found))] for name, found in sorted(versions.items())]
        blocks.append(Table("Versions of the software", ["package", "version"], listed))
    commits = sorted({str(run.record["git_commit"]) for run in study.runs if run.record.get("git_commit")})
    if commits:
        blocks.append(Text(f"Commit of this project: {', '.join(commits)}."))
    started = [run for run in study.runs if run.kind in SCRIPTS or run.record.get("script")]
    if started:
        commands = [[run.name, command_line(run.record, SCRIPTS.get(run.kind, ""))] for run in started]
        shortened = any(shortens_paths(run.record) for run in started)
        below = "Of absolute paths, only the last part is shown." if shortened else ""
        blocks.append(Table("How each run is started", ["run", "command"], commands, below))
    if study.unfinished:
        blocks.append(Text(f"Begun and not finished, so not on this page: {', '.join(study.unfinished)}."))
    return Section("methods", "Methods, versions, times", blocks)


def data_of(run: Run) -> str:
    kind = {True: "SIMULATED", False: "real", None: "not recorded"}[run.simulated]
    return f"{kind}, {run.fingerprint}" if run.fingerprint else kind


def seeds_of(run: Run) -> str:
    seeds = run.record.get("seeds") or run.results.get("seeds") or run.arguments.get("seed")
    return ", ".join(map(str, seeds)) if isinstance(seeds, list) else "-" if seeds is None else str(seeds)


def duration(seconds: object) -> str:
    if not isinstance(seconds, int | float):
        return "-"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def memory(run: Run) -> str:
    """Of the process, and of the GPU if one was used."""
    sizes = [
        f"{size / 1e9:.1f} GB{where}"
        for name, where in (("peak_memory_bytes", ""), ("peak_gpu_memory_bytes", " on the GPU"))
        if isinstance(size := run.record.get(name), int)
    ]
    return ", ".join(sizes) or "-"


def device(run: Run) -> str:
    processes = run.record.get("n_processes")
    name = str(run.record.get("device", "-"))
    return f"{name}, {processes} processes" if isinstance(processes, int) and processes > 1 else name
