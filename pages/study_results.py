"""The numbers of a study: three headline numbers, gains, differences, all scores, and apart from them what it cost.

    numbers = read_numbers(study)
    results_json(study, numbers, dataset)     # the content of the study's results.json

A gain is the difference between a run that was given something more (synthetic images, knowledge of terms) and the run
that is the same in all else, on the same test images.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from pages.study_runs import AGREEMENT, CLASSIFIER, FEW_SHOT, GALLERY, Run, Study
from scoring import leaderboard
from scoring.leaderboard import Entry

ADDED = re.compile(r"^\+ |^as |^knowledge of |terms of synthetic images$")  # parts of a recipe that were given besides
SHOTS = re.compile(r"^(\d+)-shot$")
SHUFFLED = "shuffled labels"
COSTS = ("wall_s", "peak_memory_bytes", "peak_gpu_memory_bytes")
METHODS = ("versions", "git_commit", "seeds", "device", "n_processes", "mixed_precision", "input")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier run as a row. added: what it was given besides photographs; shots: photographs per condition."""

    run: Run
    entry: Entry
    added: tuple[str, ...]
    recipe: str  # without what was added
    shots: int | None  # None: all of the training side

    @property
    def is_control(self) -> bool:
        return SHUFFLED in self.run.results["recipe"].split(", ")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """differences, gains: dicts with `difference`, `low`, `high`, `p_value`, `p_holm`; see differences, gains_of."""

    classifiers: list[Classifier]
    entries: list[Entry]  # classifiers, episodes and galleries, for the leaderboard
    differences: list[dict]
    gains: list[dict]
    headline: dict


def read_numbers(study: Study) -> Numbers:
    """Raises InputError for a run whose results are damaged, or not those of its predictions."""
    classifiers, others = [], []
    for run in study.runs:
        if run.kind in (CLASSIFIER, FEW_SHOT, GALLERY):
            entry = leaderboard.read_entry(run.folder)
            entry.name = run.name
            if run.kind == CLASSIFIER:
                classifiers.append(as_classifier(run, entry))
            else:
                others.append(entry)
    differences = leaderboard.differences([one.entry for one in classifiers])
    gains = gains_of(classifiers, differences)
    return Numbers(
        classifiers,
        [*(one.entry for one in classifiers), *others],
        differences,
        gains,
        headline_of(classifiers, gains, study.of(AGREEMENT)),
    )


def as_classifier(run: Run, entry: Entry) -> Classifier:
    parts = run.results["recipe"].split(", ")
    shots = next((int(found[1]) for part in parts if (found := SHOTS.match(part))), None)
    added = tuple(part for part in parts if ADDED.search(part))
    return Classifier(run, entry, added, ", ".join(part for part in parts if part not in added), shots)


def gains_of(classifiers: Sequence[Classifier], differences: Sequence[Mapping]) -> list[dict]:
    """What each addition changed in top-1, as fractions; runs without a fellow that lacks only the addition have none.

    differences: of scoring.leaderboard.differences."""
    by_names = {(pair["a"], pair["b"]): pair for pair in differences}
    gains = []
    for one in classifiers:
        same = (one.run.results["protocol"], one.run.results["backbone"], one.recipe)
        bases = [
            other.run.name
            for other in classifiers
            if one.added
            and not other.added
            and same == (other.run.results["protocol"], other.run.results["backbone"], other.recipe)
        ]
        for base in bases[:1]:
            pair = by_names.get((base, one.run.name))
            if pair is None and (turned := by_names.get((one.run.name, base))):
                ends = {"difference": -turned["difference"]}
                ends |= {"low": _negative(turned["high"]), "high": _negative(turned["low"])}
                pair = {**turned, **ends}
            if pair is not None:
                numbers = {name: pair[name] for name in ("difference", "low", "high", "p_value", "p_holm")}
                about = {"run": one.run.name, "base": base, "added": ", ".join(one.added), "shots": one.shots}
                gains.append(about | {"protocol": same[0]} | numbers)
    return gains


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def headline_of(classifiers: Sequence[Classifier], gains: Sequence[Mapping], agreements: Sequence[Run]) -> dict:
    """Recognition, gain and reports: one number each with its interval, null if no run tells it.

    Where several runs tell it the highest number is given, and `chosen_from` says of how many, since the highest of
    several is a little too high."""
    plain = [
        one
        for one in classifiers
        if (one.entry.protocol, one.entry.regime) == ("strict", "all images")
        and not one.added
        and not one.is_control
        and "top1" in one.entry.metrics
    ]
    found: dict[str, dict | None] = {"recognition": None, "gain": None, "reports": None}
    if plain:
        best = max(plain, key=lambda one: one.entry.metrics["top1"]["mean"])
        top1 = best.entry.metrics["top1"]
        found["recognition"] = {
            "what": "top-1 accuracy on people whom the classifier has not seen (protocol strict)",
            "unit": "fraction of images",
            "value": top1["mean"],
            "low": top1["low"],
            "high": top1["high"],
            "chance": best.run.results.get("chance"),
            "n": best.entry.n_test,
            "run": best.run.name,
            "chosen_from": len(plain),
        }
    if gains:
        best = max(gains, key=lambda gain: gain["difference"])
        found["gain"] = {
            "what": f"change of top-1 accuracy by {best['added']}",
            "unit": "difference of fractions",
            "value": best["difference"],
            "low": best["low"],
            "high": best["high"],
            "p_holm": best["p_holm"],
            "run": best["run"],
            "base": best["base"],
            "chosen_from": len(gains),
        }
    for run in agreements[:1]:
        auc = run.results["agreement"].get("findings", {}).get("ontology", {}).get("auc") or {}
        if auc.get("mean") is not None:
            found["reports"] = {
                "what": "how often a report on a synthetic face is more like a real report of its own condition than "
                "like one of another (AUC over HPO terms)",
                "unit": "fraction of comparisons",
                "value": auc["mean"],
                "low": auc["low"],
                "high": auc["high"],
                "chance": 0.5,
                "n": run.results["n_pairs"],
                "run": run.name,
                "chosen_from": len(agreements),
            }
    return found


def results_json(study: Study, numbers: Numbers, simulated: bool | None, dataset: Mapping | None) -> dict:
    """The content of results.json. What differs between two runs of one study (time, memory) is under `costs` alone.

    simulated: of the whole study; None: not recorded; dataset: what is counted of it, None without."""
    runs = {run.name: {"kind": run.kind, "simulated": run.simulated, "results": run.results} for run in study.runs}
    methods = {run.name: {name: run.record[name] for name in METHODS if name in run.record} for run in study.runs}
    return {
        "headline": numbers.headline,
        "simulated": simulated,
        "dataset": dataset,
        "gains": numbers.gains,
        "differences": numbers.differences,
        "runs": runs,
        "methods": methods,
        "unfinished": study.unfinished,
        "costs": {run.name: {name: run.record[name] for name in COSTS if name in run.record} for run in study.runs},
    }
