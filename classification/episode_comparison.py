"""Two runs of few-shot episodes that were asked the same questions: the difference of accuracy, with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from classification.episodes import accuracy_interval
from harness.counts import counted
from harness.errors import InputError
from harness.files import read_json
from harness.run_folder import folder_of
from scoring.prediction_files import read_parquet
from scoring.score_tables import method_of, shown, shown_interval

ASKED = ["seed", "fold", "episode", "query"]  # what a question is known by in episodes.parquet
DRAWN = ["classes", "support", "label", "subject"]  # what else is asked; not all tables have all of them
REMEDY = "run train_fewshot.py again"


def of_episodes(run: Path) -> bool:
    """Whether a run's results.json is that of few-shot episodes. run: its folder, or a file in it."""
    file = folder_of(run) / "results.json"
    return file.is_file() and "n_way" in read_json(file, REMEDY)


def refuse_episodes(runs: Sequence[Path]) -> None:
    """Raise InputError for a run of few-shot episodes, whose predictions have no scores among all conditions."""
    for run in runs:
        if of_episodes(run):
            reason = "is a run of few-shot episodes, each of which asks among its own conditions only"
            remedy = "its accuracy stands in its results.json, and score_runs.py compare takes two such runs"
            raise InputError(f"{run}: {reason}; {remedy}")


def compare_episodes(a: Sequence[Path], b: Sequence[Path]) -> dict:
    """How much better the runs of b answer the same questions than those of a, as score_runs.py compare --json prints.

    a, b: folders of train_fewshot.py of one backbone and recipe each; several have different seeds. Accuracy is that of
    the head that stands first in results.json. Raises InputError for a run of another kind, for runs of one side that
    differ in more than the seed, and for questions that differ."""
    sides = [_side(runs) for runs in (a, b)]
    (of_a, table_a), (of_b, table_b) = sides
    what = [f"{of['protocol']} {of['n_way']}-way {of['k_shot']}-shot" for of in (of_a, of_b)]
    names = [", ".join(map(str, runs)) for runs in (a, b)]
    if what[0] != what[1]:
        reason = f"{names[0]} answered {what[0]} episodes and {names[1]} {what[1]} ones"
        raise InputError(f"{reason}; compare runs of the same --protocol, --n_way and --k_shot")
    if of_a["transductive"] != of_b["transductive"]:
        one = names[0] if of_a["transductive"] else names[1]
        raise InputError(f"{one} is transductive and the other run is not; compare it with transductive ones only")
    try:
        both, difference = paired_difference(table_a, table_b)
    except ValueError as error:
        raise InputError(f"{names[0]} and {names[1]} {error}") from error
    values = {"a": float(both["right"].mean()), "b": float(both["right_b"].mean()), **difference}
    return {
        **{name: of_a[name] for name in ("protocol", "n_way", "k_shot")},
        "n_questions": len(both),
        "n_test": int(both["query"].nunique()),
        "n_conditions": int(both["label"].nunique()),
        "a": _method(of_a, table_a),
        "b": _method(of_b, table_b),
        "metrics": {"top1": values},
    }


def paired_difference(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """Rows of a with those of b's same questions (`right` and `right_b`), and the mean `difference` right_b - right
    with its 95 % interval for new conditions and subjects (`low`, `high`).

    a, b: rows of episodes.parquet with column `right`, in any order. Raises ValueError if questions differ."""
    both = a.merge(b.rename(columns={"right": "right_b"}), on=ASKED, validate="one_to_one", suffixes=("", "_b"))
    differing = [name for name in DRAWN if f"{name}_b" in both and not _equal(both[name], both[f"{name}_b"])]
    if len(both) < max(len(a), len(b)) or differing:
        n = f"{len(both)} of {max(len(a), len(b))} are the same"
        what = f"{n}, and {differing[0]} differs" if differing else n
        raise ValueError(
            f"were not asked the same questions ({what}); run both with one build, --protocol, --n_way, --k_shot, "
            "--test_episodes, --fold and --seed"
        )
    gain = (both["right_b"] - both["right"]).to_numpy()
    bounds = accuracy_interval((gain + 1) / 2, both["label"].to_numpy(), both["subject"].tolist())
    low, high = (None if bound is None else 2 * bound - 1 for bound in bounds)  # from 0..1 to -1..1
    return both, {"difference": float(gain.mean()), "low": low, "high": high}


def format_episodes(comparison: Mapping) -> str:
    """The result of compare_episodes as a text table."""
    values = comparison["metrics"]["top1"]
    questions, images = counted(comparison["n_questions"], "question"), counted(comparison["n_test"], "image")
    kind = f"protocol {comparison['protocol']}, {comparison['n_way']}-way {comparison['k_shot']}-shot episodes"
    unknown = "No record says whether A and B saw the same photographs: questions are matched by image_id."
    a, b, difference = shown("top1", values["a"]), shown("top1", values["b"]), shown("top1", values["difference"], "+")
    lines = [
        f"{kind}: {questions} on {images} of {counted(comparison['n_conditions'], 'condition')}; values in %",
        *(f"{side.upper()}: {method_of(comparison[side])}" for side in "ab"),
        *([unknown] if comparison.get("same_photographs", True) is None else []),
        f"{'':<18} {'A':>6} {'B':>6} {'B - A':>7}   95 % interval",
        f"{'accuracy':<18} {a:>6} {b:>6} {difference:>7}   {shown_interval('top1', values, '+')}",
        "The interval is for new conditions and subjects: whole conditions are drawn, with their subjects.",
    ]
    return "\n".join(lines)


def _side(runs: Sequence[Path]) -> tuple[dict, pd.DataFrame]:
    """results.json of the first run, and the questions of all, with column `right` of the head that stands first."""
    found, tables = [], []
    for run in runs:
        if not of_episodes(run):
            reason = "is no run of few-shot episodes, and cannot be compared with one"
            raise InputError(f"{run}: {reason}; name two runs of train_fewshot.py --mode frozen or train")
        results = read_json(folder_of(run) / "results.json", REMEDY)
        try:
            table = read_parquet(folder_of(run) / "episodes.parquet")
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"{run}: has no episodes.parquet that can be read; {REMEDY}") from error
        right = "right_" + str(results.get("recipe")).partition(", ")[0]
        lacking = [name for name in (*ASKED, "label", "subject", right) if name not in table]
        if lacking:
            raise InputError(f"{run}: its episodes.parquet has no column {lacking[0]}; {REMEDY}")
        found.append(results)
        kept = [*ASKED, *(name for name in DRAWN if name in table)]
        tables.append(table[kept].assign(right=table[right]))
    for name in ("protocol", "n_way", "k_shot", "backbone", "recipe", "transductive"):
        if any(name not in results for results in found):
            raise InputError(f"{runs[0]}: its results.json has no {name}; {REMEDY}")
        if any(results[name] != found[0][name] for results in found):
            raise InputError(
                f"{', '.join(map(str, runs))}: differ in their {name}; runs of one side differ in seeds only"
            )
    table = pd.concat(tables, ignore_index=True)
    if table.duplicated(ASKED).any():
        raise InputError(f"{', '.join(map(str, runs))}: answer the same questions; give runs of one side other seeds")
    return found[0], table


def _method(results: Mapping, table: pd.DataFrame) -> dict:
    of = "seed" if results["protocol"] == "strict" else ["seed", "fold"]
    seeds = sorted(table["seed"].unique().tolist())
    names = {name: results[name] for name in ("backbone", "recipe")}
    return names | {"seeds": seeds, "n_replicates": table.groupby(of).ngroups}


def _equal(one: pd.Series, other: pd.Series) -> bool:
    """Whether two columns hold the same, be it null, a name, a number, or a list of them."""

    def plain(value: object) -> object:
        value = value.tolist() if isinstance(value, np.ndarray) else value
        return None if not isinstance(value, list) and pd.isna(value) else value

    return [plain(value) for value in one] == [plain(value) for value in other]
