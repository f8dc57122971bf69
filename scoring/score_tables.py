"""Scores and comparisons of run_scores.py as text, with what a reader needs to judge them."""

from harness.counts import counted
from scoring.run_scores import chance

DECIMALS = ("nll", "ece", "smece", "aurc")  # shown as they are, not in percent
UNKNOWN_PHOTOGRAPHS = (
    "No record says whether A and B saw the same photographs: images are matched by image_id, label and subject."
)
UNITS = f"values in %, but {', '.join(DECIMALS[:-1])} and {DECIMALS[-1]} as they are"


def shown(name: str, value: float | None, sign: str = "") -> str:
    """A score as text: in percent, but DECIMALS as they are; a dash for None. sign: "+" to write it always."""
    if value is None:
        return "-"
    return f"{value:{sign}.3f}" if name in DECIMALS else f"{100 * value:{sign}.2f}"


def shown_interval(name: str, values: dict, sign: str = "") -> str:
    """low .. high as text, formatted as `shown` does; a dash without an interval."""
    if values["low"] is None or values["high"] is None:
        return "-"
    return f"{shown(name, values['low'], sign)} .. {shown(name, values['high'], sign)}"


def format_table(results: dict) -> str:
    """The results of run_scores.score as a text table."""
    lines = [
        f"{results['backbone']}, {results['recipe']}, protocol {results['protocol']}: "
        f"{counted(results['n_test'], 'test image')} of {_subjects_of(results)}, {results['n_classes_tested']} of "
        f"{counted(results['n_classes'], 'class', 'classes')} tested, {_seeds_of(results)}; {UNITS}",
        f"{'':<18} {'mean':>6} {'sd':>6}   {'95 % interval':<15} {'chance':>6}",
    ]
    for name, values in results["metrics"].items():
        guess = results.get("chance_unseen") if name == "top1_unseen" else chance(name, results["n_classes"])
        mean, sd, by_chance = (shown(name, value) for value in (values["mean"], values["sd"], guess))
        lines.append(f"{name:<18} {mean:>6} {sd:>6}   {shown_interval(name, values):<15} {by_chance:>6}")
    for column, groups in results.get("by", {}).items():
        for value, group in groups.items():
            tops = [
                f"{name} {shown(name, group[name]['mean'])} ({shown_interval(name, group[name])})"
                for name in ("top1", "top5")
                if name in group
            ]
            images, subjects = counted(group["n"], "image"), counted(group["n_subjects"], "subject")
            lines.append(f"{column} {value}: {images} of {subjects}, {', '.join(tops)}")
        if (p_value := results["gaps"][column]["p_value"]) is not None:
            p_holm = results["gaps"][column]["p_holm"]
            lines.append(f"{column}: does top-1 differ between these groups? p {p_value:.4f}, after Holm {p_holm:.4f}")
    return "\n".join(lines)


def _seeds_of(results: dict) -> str:
    return f"seed{'s' * (len(results['seeds']) > 1)} {', '.join(map(str, results['seeds']))}"


def _subjects_of(results: dict) -> str:
    """How many subjects, and how those were counted that are not known or spelt in several ways."""
    text = counted(results["n_subjects"], "subject")
    without, joined = results.get("n_without_subject"), results.get("joined_subjects", ())
    notes = []
    if without:
        notes = [
            "1 image without a subject is one" if without == 1 else f"{without} images without a subject are one each"
        ]
    notes += [f"{' and '.join(names)} are one" for names in joined]
    return text + (f" ({'; '.join(notes)})" if notes else "")


def method_of(side: dict) -> str:
    """A method of a comparison: the folders of its runs if they are known, what it is, and over how many seeds."""
    runs = f"{', '.join(side['runs'])}: " if "runs" in side else ""
    n_seeds, n_models = len(side["seeds"]), side["n_replicates"]
    over = f"{'mean of ' if n_seeds > 1 else ''}{counted(n_seeds, 'seed')}"
    if n_models > n_seeds:  # protocol paper scores the model of each fold and seed
        over = f"mean of {n_models} models of {counted(n_seeds, 'seed')}"
    return f"{runs}{side['backbone']}, {side['recipe']}, {over}"


def format_comparison(comparison: dict) -> str:
    """The result of run_scores.compare as a text table."""
    lines = [
        f"protocol {comparison['protocol']}: {counted(comparison['n_test'], 'test image')} of "
        f"{_subjects_of(comparison)}; {UNITS}",
        *(f"{side.upper()}: {method_of(comparison[side])}" for side in "ab"),
        *([UNKNOWN_PHOTOGRAPHS] if comparison.get("same_photographs", True) is None else []),
        f"{'':<18} {'A':>6} {'B':>6} {'B - A':>7}   {'95 % interval':<17} {'p':>6} {'Holm':>6}",
    ]
    for name, values in comparison["metrics"].items():
        a, b = (shown(name, values[letter]) for letter in "ab")
        difference, interval = shown(name, values["difference"], "+"), shown_interval(name, values, "+")
        lines.append(
            f"{name:<18} {a:>6} {b:>6} {difference:>7}   {interval:<17} {values['p_value']:.4f} {values['p_holm']:.4f}"
        )
    lines.append(
        "p: permutation test that swaps the two runs' predictions subject by subject; it need not agree with the"
    )
    lines.append("interval, a bootstrap over subjects, to the last digit")
    lines.append(f"Holm: p corrected for the {counted(len(comparison['metrics']), 'score')} of this table, one family")
    return "\n".join(lines)
