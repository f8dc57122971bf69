"""The section of a study's page about reports: how far they agree, and pairs of them with the terms marked."""

from collections.abc import Container, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.counts import counted
from harness.errors import InputError, one_line
from pages import charts
from pages.reports_page import shown_condition, shown_similarities, states_of
from pages.study_blocks import Figure, Missing, Pairs, Section, Table, Text
from pages.study_runs import AGREEMENT, REPORTS, Run, Study, note_of
from reporting.report_dataset import Reports, open_reports
from reporting.term_similarity import TermSpace

GENERATE = "accelerate launch vlm_report_eval.py generate --dataset_name DATASET --output_dir RUN_DIR/real_reports"
SCORE = (
    "python vlm_report_eval.py score --real_reports RUN_DIR/real_reports"
    " --synthetic_reports RUN_DIR/synthetic_reports --output_dir RUN_DIR/agreement"
)
PLACES = {"most alike": 0.0, "median": 0.5, "least alike": 1.0}  # among conditions, by their median pair
FIELDS = ("precision", "recall")
SIDES = {"matched": "own condition", "mismatched": "all others"}  # of results.json -> as the page calls them
SCORE_AGAIN = "score again"


def open_all(study: Study) -> dict[str, Reports]:
    """Name of a run -> the reports that it wrote. Raises InputError for reports that cannot be read."""
    return {run.name: open_reports(str(run.folder)) for run in study.of(REPORTS)}


def reports_section(study: Study, opened: Mapping[str, Reports], simulated: bool, show_real: bool) -> Section:
    """opened: of open_all; simulated: whether the whole study is known to be simulated; otherwise what was written
    about patients is shown with show_real alone."""
    note = note_of(simulated, [run.simulated for run in (*study.of(REPORTS), *study.of(AGREEMENT))])
    blocks: list[object] = [written(run) for run in study.of(REPORTS)]
    if not blocks:
        blocks.append(Missing("No run that writes reports lies in this folder.", GENERATE))
    for run in study.of(AGREEMENT):
        blocks += agreement_blocks(run, note)
        if simulated or show_real:
            blocks += pair_blocks(run, opened)
        else:
            text = "The study is not marked as simulated, so no report on a patient is shown; --show_real shows a few."
            blocks.append(Text(text))
    if not study.of(AGREEMENT):
        blocks.append(Missing("No run that compares reports lies in this folder.", SCORE))
    return Section("reports", "Reports on real and on synthetic faces", blocks)


def written(run: Run) -> Text:
    results = run.results
    reporter = results["reporter"].get("reporter") if isinstance(results["reporter"], dict) else results["reporter"]
    given = str(run.arguments.get("reporter") or "")  # as it was named: demo_models/reporter
    reporter = given if given and not Path(given).is_absolute() else reporter
    by = f" by {reporter}" if reporter else ""
    return Text(f"{run.name}: {counted(results['n_reports'], 'report')}{by}; malformed: {results['n_malformed']}.")


def agreement_blocks(run: Run, note: str) -> list[object]:
    """How alike reports of one condition are, against reports of two; by each measure."""
    measures = run.results["agreement"].get("findings", {})
    rows, cells = [], []
    for name, found in measures.items():
        auc = found.get("auc") or {}
        if auc.get("mean") is None:
            continue
        rows.append((f"{name}: {auc['mean']:.3f}", auc["mean"], auc["low"], auc["high"], 0))
        cells.append([name, with_ends(found["matched"]), with_ends(found["mismatched"]), with_ends(auc)])
    if not rows:
        return [Text(f"{run.name}: no measure is defined for these reports.")]
    head = ["measure", "mean, same condition", "mean, two conditions", "AUC"]
    has_ends = any(None not in row[2:4] for row in rows)
    intervals = "; intervals are over conditions." if has_ends else "; there are too few conditions for intervals."
    figure = Figure(
        f"{note}Agreement of reports, {run.name}",
        "How often a pair of reports of one condition is more alike than a pair of two conditions "
        f"({counted(run.results['n_pairs'], 'pair')} of {counted(run.results['n_conditions'], 'condition')}), by each "
        f"measure of likeness{intervals}",
        *charts.intervals(rows, "AUC", 0.5, "chance"),
        head,
        cells,
    )
    return [figure, *terms_table(run, note)]


def terms_table(run: Run, note: str) -> list[Table]:
    """How the terms in the reports fit those annotated for the condition; without them, an empty list."""
    terms = run.results.get("terms", {})
    rows = []
    for kind in ("real", "synthetic"):
        scores = [terms.get(kind, {}).get(field, {}).get(side) for field in FIELDS for side in SIDES]
        if all(scores):
            rows.append([f"{kind} reports", *map(with_ends, scores)])
    if not rows:
        return []
    head = [f"{field}, {of}" for field in FIELDS for of in SIDES.values()]
    caption = f"{note}Terms in the reports against those annotated for conditions"
    note_below = (
        "Precision: the share of a report's terms that are annotated; recall: of the annotated terms, the share said."
    )
    return [Table(caption, ["reports", *head], rows, note_below)]


def with_ends(score: dict) -> str:
    if score.get("mean") is None:
        return "-"
    ends = "" if score.get("low") is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
    return f"{score['mean']:.3f}{ends}"


def pair_blocks(run: Run, opened: Mapping[str, Reports]) -> list[object]:
    """The median pair of three conditions: of that whose reports are most alike, of the median, and of the least."""
    found = reports_of(run, opened)
    if found is None:
        return [Text("The reports that were compared do not lie in this folder, so no pair is shown.")]
    real, synthetic = (opened[name] for name in found)
    file = run.folder / "pairs.parquet"
    try:
        pairs = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read ({one_line(error)}); {SCORE_AGAIN}") from error
    similarities = shown_similarities(pairs.schema, None)
    if not similarities:
        return [Text("No two reports can be compared, so no pair is shown.")]
    space = TermSpace.of({i for reports in (real, synthetic) for own in reports.terms for i in states_of(own)})
    try:
        chosen = chosen_conditions(pairs, similarities[0])
        arguments = (pairs.to_pydict(), real, synthetic, space, similarities)
        shown = [shown_condition(abbr, *arguments) | {"place": place} for place, abbr in chosen]
    except ValueError as error:  # pairs of other reports
        raise InputError(f"{file}: {one_line(error)}; {SCORE_AGAIN}") from error
    for one in shown:
        one["pairs"] = sorted(one["pairs"], key=lambda pair: pair["name"] != "median")[:1]
    return [Pairs(shown)]


def chosen_conditions(pairs: pa.Table, similarity: str) -> list[tuple[str, str]]:
    """(place, abbreviation) of the conditions that are shown, each once."""
    medians = pairs.select(["disease_abbr", similarity]).to_pandas().groupby("disease_abbr")[similarity].median()
    ordered = medians.dropna().sort_values(ascending=False, kind="stable").index.tolist()
    chosen: dict[str, str] = {}
    for place, share in PLACES.items():
        if ordered:
            chosen.setdefault(ordered[round(share * (len(ordered) - 1))], place)
    return [(place, abbr) for abbr, place in chosen.items()]


def reports_of(run: Run, opened: Mapping[str, Reports]) -> tuple[str, str] | None:
    """The names of the two runs whose reports a run compared, known by their content; None if one is not there."""
    name_of = {reports.fingerprint: name for name, reports in opened.items()}
    found = [name_of.get(run.record.get(side)) for side in ("real", "synthetic")]
    return None if None in found else (found[0], found[1])


def mark_simulated(study: Study, opened: Mapping[str, Reports], simulated_photographs: Container[str]) -> None:
    """Set `simulated` of runs about reports that do not record it: of reports on synthetic images from the photographs
    that these were made from, and of runs that compare reports from those that they compared.

    simulated_photographs: digests of all that are known to be simulated."""
    for run in study.of(REPORTS):
        if run.simulated is None:
            sources = opened[run.name].columns.get("source_sha256", [None])
            all_drawn = all(own and all(digest in simulated_photographs for digest in own) for own in sources)
            run.simulated = True if all_drawn else None
    for run in study.of(AGREEMENT):
        if run.simulated is None and (found := reports_of(run, opened)):
            said = [other.simulated for other in study.of(REPORTS) if other.name in found]
            run.simulated = False if False in said else None if None in said else True
