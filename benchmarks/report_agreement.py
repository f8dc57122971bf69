"""Which similarity of reports measures agreement: on SIMULATED reference reports, whose findings are known.

    python benchmarks/report_agreement.py

First, matched pairs (two patients of one condition) against mismatched ones (of two conditions): AUC of every
similarity, with the mean that the paper reports and its zero point. The reports mix HPO names (half of the findings),
synonyms and lay words. Those "in synonyms" prefer no wording; "less exact" ones name half of their findings by a parent
term of HPO. Second, reports with 0 to 6 planted errors (reporting/planted_errors.py) against their references:
Kendall's tau between similarity and number of errors, with the words of the reference and in words drawn anew; and,
without encoders, for each kind of error alone. The sections compared are those with findings; the diagnostic
suggestion, which names the condition, is left out. Nothing was tuned on these conditions: choices were made on ranks
above 103, with other seeds."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.commands import Parser
from phenotyping import phenotypes
from reporting import planted_errors
from reporting.agreement import Interval, agreement, retrieval
from reporting.planted_errors import ERRORS, ReferenceReport
from reporting.report_dataset import Reports, report_row
from reporting.report_scores import findings_similarities
from reporting.text_similarity import Encoder, open_encoders
from simulation.people import COUNTRY_ANCESTRY, draw_person, write_report

MOST_ERRORS, MOST_SWAPS = 6, 3  # swaps are possible for findings on one side only, which are fewer
FEWEST_FINDINGS = 8  # of a report that receives up to six errors


class Remembering:
    """An encoder that encodes no text twice, since references come again and again."""

    def __init__(self, encoder: Encoder):
        self.encoder, self.vectors = encoder, {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if new := [text for text in texts if text not in self.vectors]:
            self.vectors |= dict(zip(new, self.encoder.encode(new), strict=True))
        return np.stack([self.vectors[text] for text in texts])

    def tokens_cut(self, texts: Sequence[str]) -> np.ndarray:
        return self.encoder.tokens_cut(texts)


def references(
    conditions: tuple[phenotypes.Condition, ...], per_condition: int, seed: int, fewest: int = 0
) -> list[tuple[phenotypes.Condition, ReferenceReport]]:
    """SIMULATED reference reports of `per_condition` patients of each condition, with at least `fewest` findings.

    A condition none of whose first 100 patients per report wanted has that many findings has fewer reports."""
    found = []
    for condition in conditions:
        kept = 0
        for number in range(100 * per_condition):
            rng = np.random.default_rng([seed, condition.rank, number])
            person = draw_person(condition, list(COUNTRY_ANCESTRY)[rng.integers(len(COUNTRY_ANCESTRY))], rng)
            if len(person.present) >= fewest and kept < per_condition:
                found.append((condition, planted_errors.read_reference(write_report(person, rng))))
                kept += 1
    return found


def as_reports(written: list[tuple[phenotypes.Condition, ReferenceReport]], id_column: str) -> Reports:
    """Reports as score_reports takes them."""
    rows = []
    for number, (condition, reference) in enumerate(written):
        picture = {id_column: f"{condition.abbr}.{number}", "label": condition.abbr, "disease_name": condition.name}
        picture["orphanet_code"] = condition.orphanet_code
        rows.append(report_row(picture, reference.text(), "reference", None))
    return Reports.of(rows, sorted({condition.abbr for condition, _ in written}), "SIMULATED")


def separation(real: Reports, synthetic: Reports, encoders: Mapping[str, Encoder], name: str) -> dict[str, float]:
    """Print how well each similarity tells matched from mismatched pairs; returns the AUC of each."""
    numbers = {label: number for number, label in enumerate(sorted({*real.labels, *synthetic.labels}))}
    labels = [np.array([numbers[label] for label in side.labels]) for side in (real, synthetic)]
    found = {}
    for measure, values in findings_similarities(real, synthetic, encoders).items():
        scores = agreement(values, *labels, Interval(0))
        top1 = retrieval(values, *labels, Interval(0)).get("top1", {"mean": np.nan, "chance": np.nan})
        found[measure] = scores["auc"]["mean"]
        low, high = scores["auc"]["low"] or np.nan, scores["auc"]["high"] or np.nan
        print(
            f"SIMULATED, {name}, {measure}: AUC {found[measure]:.3f} [{low:.3f}, {high:.3f}]; mean of matched pairs "
            f"{scores['matched']['mean']:.3f}, mismatched {scores['mismatched']['mean']:.3f}, corrected "
            f"{scores['corrected']['mean']:.3f}; right condition first {top1['mean']:.3f} (chance "
            f"{top1['chance']:.3f}); "
            f"{scores['matched']['n_pairs']} matched and {scores['mismatched']['n_pairs']} mismatched pairs",
            flush=True,
        )
    return found


def most_errors(kinds: tuple[str, ...]) -> int:
    return MOST_SWAPS if kinds == ("side_swapped",) else MOST_ERRORS


def planted(
    written: list[tuple[phenotypes.Condition, ReferenceReport]], kinds: tuple[str, ...], new_words: bool, seed: int
) -> tuple[list[tuple[phenotypes.Condition, ReferenceReport]], np.ndarray]:
    """Each report with as many errors as its place in the list tells, 0, 1, 2 .. in turn; and the numbers of errors."""
    counts = np.arange(len(written)) % (most_errors(kinds) + 1)
    wrong = []
    for number, ((condition, reference), count) in enumerate(zip(written, counts, strict=True)):
        rng = np.random.default_rng([seed, number])
        report, _ = planted_errors.plant(reference, int(count), rng, kinds)
        wrong.append((condition, planted_errors.reworded(report, rng) if new_words else report))
    return wrong, counts


def correlations(
    written: list[tuple[phenotypes.Condition, ReferenceReport]],
    kinds: tuple[str, ...],
    new_words: bool,
    encoders: Mapping[str, Encoder],
    seed: int,
) -> None:
    """Print Kendall's tau of each similarity with the number of errors of these kinds."""
    if kinds == ("side_swapped",):
        written = [pair for pair in written if sum(f.side is not None for f in pair[1].findings) >= MOST_SWAPS]
        if not written:
            print(f"SIMULATED: no report has {MOST_SWAPS} findings on one side, so none has sides swapped alone")
            return
    wrong, counts = planted(written, kinds, new_words, seed)
    similarities = findings_similarities(as_reports(written, "image_id"), as_reports(wrong, "synthetic_id"), encoders)
    conditions = np.array([condition.rank for condition, _ in written])
    for measure, values in similarities.items():
        found = planted_errors.count_correlation(np.diag(values), counts, conditions, Interval(0))
        interval = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
        print(
            f"SIMULATED, {len(written)} reports with 0 to {most_errors(kinds)} errors ({' or '.join(kinds)}), in "
            f"{'other' if new_words else 'the same'} words, {measure}: tau {found['tau']:.3f}{interval}",
            flush=True,
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_conditions", type=int, default=phenotypes.NUM_STUDY_CONDITIONS)
    parser.add_argument("--first_rank", type=int, default=0, help="rank of the first condition; study: 0 to 102")
    parser.add_argument("--per_class", type=int, default=4, help="reports per condition and side")
    parser.add_argument("--planted_per_class", type=int, default=7, help="reports per condition that receive errors")
    parser.add_argument("--seed", type=int, default=2511, help="of the patients and of the errors")
    parser.add_argument("--encoders", nargs="*", help="sentence encoders; default: those of the paper at hand")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    encoders, not_run = open_encoders(args.encoders)
    encoders = {name: Remembering(encoder) for name, encoder in encoders.items()}
    print(f"encoders: {', '.join(encoders) or 'none'}; of the paper's, not run: {', '.join(not_run) or 'none'}")
    conditions = phenotypes.conditions()[args.first_rank : args.first_rank + args.num_conditions]
    real = references(conditions, args.per_class, args.seed)
    synthetic = references(conditions, args.per_class, args.seed + 1)
    rng = np.random.default_rng([args.seed, 2])
    freely = [(condition, planted_errors.reworded(report, rng, name_share=0)) for condition, report in synthetic]
    vague = [(condition, planted_errors.generalised(report, rng, 0.5)) for condition, report in synthetic]
    kinds = {"reports": synthetic, "reports in synonyms": freely, "less exact reports": vague}
    for name, others in kinds.items():
        found = separation(as_reports(real, "image_id"), as_reports(others, "synthetic_id"), encoders, name)
        for encoder in encoders:
            gain = found["ontology"] - found[encoder]
            print(f"SIMULATED, {name}: AUC of the ontology-aware similarity minus that of {encoder}: {gain:+.3f}")

    rng = np.random.default_rng([args.seed, 3])
    written = [
        (condition, planted_errors.with_one_sided(report, rng))
        for condition, report in references(conditions, args.planted_per_class, args.seed + 3, FEWEST_FINDINGS)
    ]
    for new_words in (True, False):
        correlations(written, ERRORS, new_words, encoders, args.seed + 4)
    for number, kind in enumerate(ERRORS):
        correlations(written, (kind,), True, {}, args.seed + 5 + number)


if __name__ == "__main__":
    main(parse_args())
