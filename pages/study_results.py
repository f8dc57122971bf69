"""The numbers of a study: three headline numbers, gains, differences, all scores, and apart from them what it cost.

    numbers = read_numbers(study)
    results_json(study, numbers, dataset)     # the content of the study's results.json

A gain is the difference between a run that was given something more (synthetic images, knowledge of terms) and the run
that is the same in all else, on the same test images.
"""

import dataclasses
import re
from collections.abc import Container, Mapping, Sequence

from pages.study_runs import AGREEMENT, CLASSIFIER, FEW_SHOT, GALLERY, Run, Study
from scoring import leaderboard
from scoring.knowledge_use import NOT_USED, OF_KNOWLEDGE, use_of_knowledge
from scoring.leaderboard import Entry

# Parts of a recipe that were given besides photographs; recipes of older runs say `of synthetic images`.
ADDED = re.compile(r"^\+ |^as |^knowledge of |terms? (of|looked for in) synthetic images$")
SHOTS = re.compile(r"^(\d+)-shot$")
SHUFFLED = "shuffled labels"
ALL_PAIRS_OF = 6  # runs of one family; of more, planned_comparisons alone, since a comparison takes a third of a second
COSTS = ("wall_s", "peak_memory_bytes", "peak_gpu_memory_bytes")
METHODS = ("versions", "git_commit", "seeds", "device", "n_processes", "mixed_precision", "input")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier run as a row. added: what it used besides photographs; shots: photographs per condition; unused: why
    folds did not use knowledge that they were given, None if all did, or none was given any."""

    run: Run
    entry: Entry
    added: tuple[str, ...]
    recipe: str  # without what was added
    shots: int | None  # None: all of the training side
    unused: str | None = None

    @property
    def is_control(self) -> bool:
        return SHUFFLED in self.run.results["recipe"].split(", ")

    @property
    def lacks_knowledge(self) -> bool:
        """Whether it was given knowledge that no fold used: its predictions are those without."""
        return any(part.endswith(NOT_USED) for part in self.run.results["recipe"].split(", "))

    @property
    def is_plain(self) -> bool:
        """Whether it was given nothing besides photographs."""
        return not self.added and not self.lacks_knowledge


@dataclasses.dataclass(frozen=True)
class Numbers:
    """differences, gains: dicts with `difference`, `low`, `high`, `p_value`, `p_holm`; see differences, gains_of."""

    classifiers: list[Classifier]
    entries: list[Entry]  # classifiers, episodes and galleries, for the leaderboard
    differences: list[dict]
    gains: list[dict]
    headline: dict


def read_numbers(study: Study, others: Container[str] = ()) -> Numbers:
    """others: runs of other photographs than those that the page describes, which tell no headline number.

    Raises InputError for a run whose results are damaged, or not those of its predictions."""
    classifiers, further = [], []
    for run in study.runs:
        if run.kind in (CLASSIFIER, FEW_SHOT, GALLERY):
            entry = leaderboard.read_entry(run.folder)
            entry.name = run.name
            if run.kind == CLASSIFIER:
                classifiers.append(as_classifier(run, entry))
            else:
                further.append(entry)
    entries = [one.entry for one in classifiers]
    differences = leaderboard.differences(entries, "top1", planned_comparisons(classifiers), ALL_PAIRS_OF)
    with_base = {(base.run.name, one.run.name) for one in classifiers if (base := base_of(one, classifiers))}
    differences = [turned(pair) if (pair["b"], pair["a"]) in with_base else pair for pair in differences]
    gains = gains_of(classifiers, differences)
    described = [one for one in classifiers if one.run.name not in others]
    agreements = [run for run in study.of(AGREEMENT) if run.name not in others]
    headline = headline_of(described, [gain for gain in gains if gain["run"] not in others], agreements)
    return Numbers(classifiers, [*entries, *further], differences, gains, headline)


def as_classifier(run: Run, entry: Entry) -> Classifier:
    parts = run.results["recipe"].split(", ")
    shots = next((int(found[1]) for part in parts if (found := SHOTS.match(part))), None)
    used = [part for part in parts if not part.endswith(NOT_USED)]
    added = tuple(part for part in used if ADDED.search(part))
    recipe = ", ".join(part for part in used if part not in added)
    knows = OF_KNOWLEDGE.search(run.results["recipe"])  # else older runs noted here how images were used as a prior
    unused = use_of_knowledge(run.record.get("folds") or []) if knows else None
    return Classifier(run, entry, added, recipe, shots, unused)


def base_of(one: Classifier, classifiers: Sequence[Classifier]) -> Classifier | None:
    """The run that lacks only what this one was given besides photographs; None if there is none."""
    for other in classifiers:
        if one.added and other.is_plain and one.recipe == other.recipe and made_with(one) == made_with(other):
            return other
    return None


def made_with(one: Classifier) -> tuple:
    """What else makes two runs comparable: protocol, network, photographs, how they are decoded, and who is tested."""
    run = one.run
    of_results = [run.results.get(name) for name in ("protocol", "backbone", "n_test")]
    return (*of_results, run.fingerprint, str(run.record.get("input")), run.arguments.get("fold"))


def planned_comparisons(classifiers: Sequence[Classifier]) -> set[frozenset[str]]:
    """What is compared if there are too many runs for all pairs: each run with its base, and plain runs with the first
    of their protocol and photographs."""
    planned = {frozenset((one.run.name, base.run.name)) for one in classifiers if (base := base_of(one, classifiers))}
    first: dict[tuple, str] = {}
    for one in classifiers:
        if one.is_plain and not one.is_control:
            tested = one.entry.protocol, one.run.photographs.digest
            planned.add(frozenset((one.run.name, first.setdefault(tested, one.run.name))))
    return planned


def gains_of(classifiers: Sequence[Classifier], differences: Sequence[Mapping]) -> list[dict]:
    """What each addition changed in top-1, as fractions; runs without a fellow that lacks only the addition have none.

    differences: of scoring.leaderboard.differences."""
    by_names = {(pair["a"], pair["b"]): pair for pair in differences}
    gains = []
    for one in classifiers:
        if (found := base_of(one, classifiers)) is None:
            continue
        base = found.run.name
        pair = by_names.get((base, one.run.name))
        if pair is None and (other_way := by_names.get((one.run.name, base))):
            pair = turned(other_way)
        if pair is not None:
            numbers = {name: pair[name] for name in ("difference", "low", "high", "p_value", "p_holm")}
            about = {"run": one.run.name, "base": base, "added": ", ".join(one.added), "shots": one.shots}
            gains.append(about | {"protocol": one.run.results["protocol"]} | numbers)
    return gains


def turned(pair: Mapping) -> dict:
    """The comparison of the same two runs with the other sign, so that the page says it in one way only."""
    ends = {"difference": -pair["difference"], "low": _negative(pair["high"]), "high": _negative(pair["low"])}
    return {**pair, "a": pair["b"], "b": pair["a"], **ends}


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def headline_of(classifiers: Sequence[Classifier], gains: Sequence[Mapping], agreements: Sequence[Run]) -> dict:
    """Recognition, gain and reports: one number each with its interval, null if no run tells it.

    Recognition is told by the runs that test most images, not by those of a single fold beside them. If several runs
    tell a number, the highest is given, and `chosen_from` says of how many, since that is a little too high."""
    plain = [
        one
        for one in classifiers
        if (one.entry.protocol, one.entry.regime) == ("strict", "all images")
        and one.is_plain
        and not one.is_control
        and "top1" in one.entry.metrics
    ]
    most = max((one.entry.n_test or 0 for one in plain), default=0)
    plain = [one for one in plain if (one.entry.n_test or 0) == most]
    found: dict[str, dict | None] = {"recognition": None, "gain": None, "reports": None}
    if plain:
        plain.sort(key=lambda one: one.run.dataset.get("config_name") == "restored")  # last of those that are as good
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
            "simulated": best.run.simulated,
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
            "simulated": next(one.run.simulated for one in classifiers if one.run.name == best["run"]),
            "base": best["base"],
            "chosen_from": len(gains),
        }
    scored = [(auc["mean"], run, auc) for run in agreements if (auc := ontology_auc(run)).get("mean") is not None]
    if scored:
        _, run, auc = max(scored, key=lambda one: one[0])
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
            "simulated": run.simulated,
            "chosen_from": len(scored),
        }
    return found


def ontology_auc(run: Run) -> dict:
    """Of a run that compares reports: its AUC by the likeness of terms; {} if it has none."""
    return run.results["agreement"].get("findings", {}).get("ontology", {}).get("auc") or {}


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
