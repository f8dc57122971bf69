"""The sections of a study's page about recognition: classifiers, gains, few-shot, subgroups, calibration."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.counts import counted
from pages import charts
from pages.study_blocks import Figure, Missing, Section, Table, Text
from pages.study_results import Classifier, Numbers, made_with
from pages.study_runs import FEW_SHOT, GALLERY, Run, Study
from scoring import run_scores
from scoring.abstention import risk_coverage_area, risk_coverage_curve
from scoring.calibration import reliability_diagram, smooth_calibration_error
from scoring.knowledge_use import OF_KNOWLEDGE, use_of_knowledge
from scoring.leaderboard import Entry, on_which_images
from scoring.metrics import expected_calibration_error
from scoring.score_tables import shown

SCORES = {"top1": "top-1", "top5": "top-5", "top10": "top-10", "top30": "top-30", "macro_f1": "macro F1"}
TRAIN = "python train_classifier.py --dataset_name DATASET --backbone demo_models/backbone --output_dir RUN_DIR/probe"
FEW = "python train_fewshot.py --dataset_name DATASET --backbone demo_models/backbone --mode frozen"
COUNTED_TERMS = (
    "The number of terms in a method's name is that of all HPO terms annotated for the dataset's conditions. It is not "
    "that of the terms that its photographs show, or that the prompts of its synthetic images say, which may be fewer."
)
SUBGROUPS = {"sex": "sex", "age_group": "age in years", "region": "UN region"}


def percent(values: Mapping, name: str = "top1", sign: str = "") -> str:
    """A score with its interval: 40.00 [35.30, 44.60]; values: mean (or difference), low and high."""
    value = values["difference"] if "difference" in values else values["mean"]
    text = shown(name, value, sign)
    if values.get("low") is not None and values.get("high") is not None:
        text += f" [{shown(name, values['low'], sign)}, {shown(name, values['high'], sign)}]"
    elif values.get("sd") is not None:
        text += f" ± {shown(name, values['sd'])}"
    return text


def hundredfold(*values: float | None) -> tuple[float | None, ...]:
    return tuple(None if value is None else 100 * value for value in values)


# -------------------------------------------------------------------------------------------------------- classifiers


def classifiers_section(numbers: Numbers, published: Sequence[Entry], note: str) -> Section:
    """note: SIMULATED in front of captions, or nothing."""
    blocks: list[object] = []
    if not numbers.classifiers:
        blocks.append(Missing("No run of train_classifier.py lies in this folder.", TRAIN))
    else:
        blocks += [*top1_figure(numbers.classifiers, note), *scores_tables(numbers.classifiers, note)]
        if any(OF_KNOWLEDGE.search(one.run.results["recipe"]) for one in numbers.classifiers):
            blocks.append(Text(COUNTED_TERMS))
        if pairs := differences_table(numbers, note):
            blocks.append(pairs)
    blocks.append(published_table(published))
    return Section("classifiers", "Recognising a condition", blocks)


def scores_tables(classifiers: Sequence[Classifier], note: str) -> Iterable[Table]:
    """One table for each protocol and number of conditions, the best top-1 first."""
    kind_of = {one.run.name: (one.entry.protocol, one.run.results.get("n_classes", 0)) for one in classifiers}
    for protocol, n_classes in sorted(set(kind_of.values()), reverse=True):
        of_protocol = [one for one in classifiers if kind_of[one.run.name] == (protocol, n_classes)]
        of_protocol.sort(key=lambda one: -one.entry.metrics.get("top1", {"mean": 0})["mean"])
        names = [name for name in SCORES if any(name in one.entry.metrics for one in of_protocol)]
        rows = []
        for one in of_protocol:
            metrics = one.entry.metrics
            cells = [percent(metrics[name], name) if name in metrics else "-" for name in names]
            rows.append([one.run.name, described(one), one.entry.n_test, one.entry.n_seeds, *cells])
        chances = [shown(name, run_scores.chance(name, n_classes)) for name in names]
        rows.append(["chance", "a class named at random", "", "", *chances])
        yield Table(
            f"{note}Scores under protocol {protocol}, {counted(n_classes, 'condition')}, percent",
            ["run", "method", "images", "seeds", *(SCORES[name] for name in names)],
            rows,
            "Brackets: 95 % interval over subjects. A run with shuffled labels is a control: it must not be above "
            "chance, and may be below if there are few people per condition, since an image that is held out leaves "
            "its own condition fewer to learn from. "
            + ("Under paper, photographs of one patient may fall on both sides." if protocol == "paper" else ""),
        )


def described(one: Classifier) -> str:
    return f"{one.run.results['backbone']}, {one.run.results['recipe']}"


def top1_figure(classifiers: Sequence[Classifier], note: str) -> Iterable[Figure]:
    """Top-1 of every run with its interval; protocols differ by marker. Nothing if no run has such a score."""
    scored = [one for one in classifiers if "top1" in one.entry.metrics]
    if not scored:
        return
    ordered = sorted(scored, key=lambda one: (one.entry.protocol != "strict", -one.entry.metrics["top1"]["mean"]))
    rows, cells = [], []
    for one in ordered:
        top1 = one.entry.metrics["top1"]
        group = 2 if one.is_control else 0 if one.entry.protocol == "strict" else 1
        label = f"{one.run.name} ({counted(one.entry.n_test, 'image')}): {shown('top1', top1['mean'])}"
        rows.append((label, *hundredfold(top1["mean"], top1["low"], top1["high"]), group))
        cells.append([one.run.name, one.entry.protocol, one.entry.n_test, percent(top1)])
    chances = {one.run.results.get("chance") for one in scored}
    chance = chances.pop() if len(chances) == 1 else None  # runs of several datasets have no common one
    yield Figure(
        f"{note}Top-1 accuracy of every classifier run",
        "How often the condition with the highest probability is the right one; filled circles: protocol strict, "
        "hollow squares: protocol paper, triangles: the control with shuffled labels.",
        *charts.intervals(rows, "top-1, %", 100 * chance if chance else None, "chance" if chance else ""),
        ["run", "protocol", "images", "top-1, %"],
        cells,
    )


def differences_table(numbers: Numbers, note: str) -> Table | None:
    rows = [
        [pair["b"], pair["a"], percent(pair, sign="+"), f"{pair['p_value']:.4f}", f"{pair['p_holm']:.4f}"]
        for pair in numbers.differences
    ]
    if not rows:
        return None
    return Table(
        f"{note}Differences of top-1 on {on_which_images(numbers.differences)}, percentage points",
        ["run", "less run", "difference", "p", "p after Holm"],
        rows,
        "p: permutation test that swaps two runs' predictions subject by subject; Holm: corrected for the pairs of one "
        "protocol and set of test images that are listed. If there are many runs, each is compared with the run that "
        "lacks only what it was given, and plain runs with the first one.",
    )


def published_table(published: Sequence[Entry]) -> Table:
    names = [name for name in SCORES if any(name in entry.metrics for entry in published)]
    rows = [
        [entry.method, entry.n_test, *(percent(entry.metrics[name], name) for name in names)] for entry in published
    ]
    return Table(
        "Published results on the real dataset (arXiv 2604.03454), percent",
        ["method", "images", *(SCORES[name] for name in names)],
        rows,
        "Protocol paper, mean ± standard deviation over five folds. Only a run under protocol paper on the same 456 "
        "real photographs can be compared with these rows; a run on simulated faces cannot.",
    )


# -------------------------------------------------------------------------------------------------------------- gains


def gains_section(numbers: Numbers, note: str) -> Section:
    heading = "What synthetic images and knowledge add"
    said = [Missing(f"{one.run.name}: {one.unused}.") for one in numbers.classifiers if one.unused]
    if said and not numbers.gains:
        return Section("gains", heading, said)
    if not numbers.gains:
        text = "No run that was given synthetic images or knowledge lies beside one that is the same in all else."
        return Section("gains", heading, [*said, Missing(text, f"{TRAIN}_terms --knowledge terms")])
    rows, cells = [], []
    for gain in numbers.gains:
        seen = "all photographs" if gain["shots"] is None else f"{gain['shots']} per condition"
        label = f"{gain['run']} ({seen}): {shown('top1', gain['difference'], '+')}"
        group = 1 if "synthetic" in gain["added"] else 0
        rows.append((label, *hundredfold(gain["difference"], gain["low"], gain["high"]), group))
        p_values = (f"{gain['p_value']:.4f}", f"{gain['p_holm']:.4f}")
        cells.append([gain["run"], gain["base"], gain["added"], seen, percent(gain, sign="+"), *p_values])
    figure = Figure(
        f"{note}Gains in top-1 accuracy",
        f"What each addition changed on {on_which_images(numbers.differences)}, with its 95 % interval over subjects; "
        "filled: knowledge of annotated terms, hollow: synthetic images; right of the dashed line the addition helped.",
        *charts.intervals(rows, "percentage points of top-1", 0.0, "no change"),
        ["run", "less run", "what was added", "photographs", "points", "p", "p after Holm"],
        cells,
    )
    blocks: list[object] = [*said, figure]
    if (drawn := curves_figure(numbers, note)) is not None:
        blocks.append(drawn)
    else:
        text = "A curve over the number of photographs needs runs with --k_shot 1, 2 and so on, with and without."
        blocks.append(Missing(text, f"{TRAIN}_1shot --k_shot 1 --knowledge terms"))
    return Section("gains", heading, blocks)


def curves_figure(numbers: Numbers, note: str) -> Figure | None:
    """Top-1 against photographs per condition, of the recipe with most numbers of photographs; None with only one."""
    series: dict[tuple, dict[str, dict[float, Classifier]]] = {}
    for one in numbers.classifiers:
        if (
            one.entry.protocol == "strict"
            and not one.is_control
            and not one.lacks_knowledge
            and "top1" in one.entry.metrics
        ):
            recipe = ", ".join(part for part in one.recipe.split(", ") if part != f"{one.shots}-shot")
            named = ", ".join(one.added) or "photographs alone"
            of_recipe = series.setdefault((recipe, *made_with(one)), {})
            of_recipe.setdefault(named, {})[one.shots or np.inf] = one
    counts = {key: len({x for points in lines.values() for x in points}) for key, lines in series.items()}
    if not counts or max(counts.values()) < 2:
        return None
    key = max(counts, key=lambda key: (counts[key], len(series[key])))
    shots = sorted({x for points in series[key].values() for x in points})
    ticks = [(place, "all" if np.isinf(x) else f"{x:g}") for place, x in enumerate(shots)]
    lines, cells = {}, []
    for name, points in sorted(series[key].items(), key=lambda item: item[0] != "photographs alone"):
        top1 = {x: points[x].entry.metrics["top1"] for x in sorted(points)}
        lines[name] = [(shots.index(x), *hundredfold(t["mean"], t["low"], t["high"])) for x, t in top1.items()]
        cells += [[name, "all" if np.isinf(x) else f"{x:g}", percent(values)] for x, values in top1.items()]
    return Figure(
        f"{note}Top-1 accuracy against the number of photographs",
        f"How many photographs per condition {key[0]} needs, alone and with what was added; bars: 95 % intervals.",
        *charts.curves(lines, "photographs per condition in training", "top-1, %", ticks),
        ["what was learnt from", "photographs per condition", "top-1, %"],
        cells,
    )


# ----------------------------------------------------------------------------------------------------------- few-shot


def few_shot_section(study: Study, note: str) -> Section:
    blocks: list[object] = []
    for run in study.of(FEW_SHOT):
        blocks.append(episodes_figure(run, note))
        if unused := use_of_knowledge(run.record.get("folds") or []):
            blocks.append(Missing(f"{run.name}: {unused}."))
    if not blocks:
        blocks.append(
            Missing("No run of few-shot episodes lies in this folder.", f"{FEW} --output_dir RUN_DIR/episodes")
        )
    galleries = [block for run in study.of(GALLERY) for block in gallery_blocks(run, note)]
    missing = Missing(
        "No run of a gallery lies here.", f"{FEW.replace('frozen', 'gallery')} --output_dir RUN_DIR/gallery"
    )
    return Section("few-shot", "Few photographs: episodes and retrieval", [*blocks, *(galleries or [missing])])


def episodes_figure(run: Run, note: str) -> Figure:
    results = run.results
    rows, cells = [], []
    for head, score in results["heads"].items():
        label = f"{head.replace('_', ' ')}: {shown('top1', score['mean'])}"
        rows.append((label, *hundredfold(score["mean"], score["low"], score["high"]), 0))
        cells.append([head.replace("_", " "), percent(score)])
    photographs = "photograph" if results["k_shot"] == 1 else "photographs"
    task = f"{results['n_way']} conditions with {results['k_shot']} {photographs} each"
    return Figure(
        f"{note}Few-shot episodes, {run.name}",
        f"How often each method names the right one of {task} ({counted(results['n_episodes'], 'episode')}, protocol "
        f"{results['protocol']}, {results['backbone']}).",
        *charts.intervals(rows, "right answers, %", 100 * results["chance"], "chance"),
        ["method", "right answers, %"],
        cells,
    )


def gallery_blocks(run: Run, note: str) -> list[object]:
    """Figure and table of a retrieval: conditions ranked for every held-out photograph."""
    rows, cells = [], []
    for number, (method, by_gallery) in enumerate(run.results["methods"].items()):
        for gallery, by_side in by_gallery.items():
            for side, scores in by_side.items():
                if scores["top1"]["mean"] is None:
                    continue
                tops = [percent(scores[f"top{k}"]) for k in (1, 5, 10, 30)]
                cells.append([method.replace("_", " "), gallery, side, scores["n"], *tops])
                if gallery == "joined":
                    top1 = scores["top1"]
                    label = f"{method.replace('_', ' ')}, {side} conditions: {shown('top1', top1['mean'])}"
                    rows.append((label, *hundredfold(top1["mean"], top1["low"], top1["high"]), number))
    head = ["method", "gallery", "conditions", "photographs", "top-1, %", "top-5, %", "top-10, %", "top-30, %"]
    figure = Figure(
        f"{note}Retrieval in a gallery, {run.name}",
        "How often the right condition comes first when a held-out photograph ranks all conditions of the gallery; "
        f"frequent conditions have at least {run.results['frequent_from']} patients; 95 % intervals for new conditions "
        "and people, so wider than those over people alone.",
        *charts.intervals(rows, "top-1, %"),
        head,
        cells,
    )
    return [figure]


# ----------------------------------------------------------------------------------------------- subgroups, calibration


def subgroups_section(best: Classifier | None, note: str) -> Section:
    """best: the run of the headline."""
    heading = "Is it better for some people than for others?"
    gaps = best.run.results.get("gaps") if best else None
    rows, cells = [], []
    for number, (column, gap) in enumerate((gaps or {}).items()):
        order = list(best.run.results.get("by", {}).get(column, {}))  # ages by years
        subgroups = sorted(gap["subgroups"], key=lambda value: order.index(value) if value in order else len(order))
        for value in subgroups:
            group = gap["subgroups"][value]
            shares = [group["n"], group["n_subjects"]]
            if group["difference"] is None:
                cells.append([f"{SUBGROUPS.get(column, column)}: {value}", *shares, "-", "too few people"])
                continue
            people = counted(group["n_subjects"], "person", "people")
            label = f"{value} ({people}): {shown('top1', group['difference'], '+')}"
            rows.append((label, *hundredfold(group["difference"], group["low"], group["high"]), number))
            p_holm = "-" if gap["p_holm"] is None else f"{gap['p_holm']:.4f}"
            cells.append([f"{SUBGROUPS.get(column, column)}: {value}", *shares, percent(group, sign="+"), p_holm])
    if not rows:
        return Section("subgroups", heading, [Missing("No classifier run tells of sex, age or region.", TRAIN)])
    figure = Figure(
        f"{note}Top-1 of each group less that of all others, {best.run.name}",
        "Whether a group is recognised better (right of the dashed line) or worse than all others; circles: sex, "
        "squares: age, triangles: region, with 95 % intervals over people.",
        *charts.intervals(rows, "percentage points of top-1", 0.0, "no difference"),
        ["group", "images", "people", "difference, points", "p of its kind, after Holm"],
        cells,
    )
    return Section("subgroups", heading, [figure])


def calibration_section(best: Classifier | None, note: str) -> Section:
    heading = "Do its probabilities mean what they say?"
    if best is None or best.entry.predictions is None:
        return Section("calibration", heading, [Missing("No classifier run with predictions lies here.", TRAIN)])
    _, images, probabilities = run_scores.replicates_of(best.entry.predictions)
    first, labels = probabilities[0], images["label"].to_numpy()
    bins, curve = reliability_diagram(first, labels, images["subject"]), risk_coverage_curve(first, labels)
    ece, smooth = expected_calibration_error(first, labels)[0], smooth_calibration_error(first, labels)[0]
    shares = [f"{row['accuracy']:.2f}" + ends_of(row) for _, row in bins.iterrows()]
    names = [f"{row['from']:.2f} to {row['to']:.2f}" for _, row in bins.iterrows()]
    at = [min(int(np.searchsorted(curve["coverage"], share)), len(curve) - 1) for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    answered = [[f"{100 * curve['coverage'][i]:.0f}", f"{100 * curve['risk'][i]:.1f}"] for i in at]
    return Section(
        "calibration",
        heading,
        [
            Text(
                f"{best.run.name}: calibration error {ece:.3f} in 15 bins and {smooth:.3f} without bins (0 is best); "
                f"area of risk over coverage {risk_coverage_area(first, labels)[0]:.3f} (lower is better)."
            ),
            Figure(
                f"{note}Probability against hits",
                "On the dashed line a probability means what it says; below it the classifier is too sure of itself. "
                "Bars: 95 % interval over people, which a bin with a single person does not have.",
                *charts.reliability(bins),
                ["highest probability", "images", "share of hits"],
                [
                    [name, int(row["n"]), share]
                    for name, share, (_, row) in zip(names, shares, bins.iterrows(), strict=True)
                ],
            ),
            Figure(
                f"{note}Errors if only the surest images are answered",
                "How many answers would be wrong if the classifier spoke only where it is surest.",
                *charts.risk_coverage(curve),
                ["images answered, %", "wrong among them, %"],
                answered,
            ),
        ],
    )


def ends_of(row: Mapping) -> str:
    return "" if row["low"] is None or np.isnan(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
