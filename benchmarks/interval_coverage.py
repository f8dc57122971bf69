"""Measures how often intervals cover the true score and how often the paired test errs, on SIMULATED classifiers.

    python benchmarks/interval_coverage.py

There are one hundred conditions that differ in difficulty and frequency; each subject has one to three photographs
with correlated outcomes. Each repetition draws new subjects, scores the same classifier on them and checks whether the
95 % interval of scoring/run_scores.py (with --n_boot resamples) covers the true value. That is the population's value,
except for macro F1: its expectation for this size of test set, because with four images per condition F1 is far from
its limit. "percentile" is the plain bootstrap for all scores; it shows why three of them need the corrected interval.
"drawn": conditions as frequent as in the population, which is what drawing subjects with replacement imitates. "fixed":
every condition has a fixed number of subjects, at least two if n is large; intervals should then be rather wide, since
no condition can be drawn too often. The paired test compares two classifiers of equal skill with partly common errors;
it should tell them apart (p < 0.05) in 5 % of the repetitions.

As a control of subgroup_gaps, subjects are dealt to subgroups at random, so that the true gap is zero: it should be
called different (p < 0.05) in 5 % of the repetitions, and the interval of a subgroup's difference should cover 0.
Takes about ten minutes on one thread; --part does one case, and prints the same."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scoring import run_scores, subgroup_gaps
from scoring.intervals import bootstrap_interval, swap_p_value
from scoring.metrics import topk_hits

N_CLASSES = 100
SKILL = {0.3: 1.9, 0.1: 0.8}  # approximate top-1 accuracy -> mean head start of the right class
N_SUBJECTS = {"n >= 400": 260, "n = 113": 63}  # 1.8 photographs each on average
NAMES = ["top1", "top5", "mrr", "nll", "macro_f1", "balanced_accuracy", "ece", "smece", "aurc"]
SUBGROUPS = {"two groups": [0.5, 0.5], "five groups": [0.04, 0.11, 0.2, 0.3, 0.35]}  # shares of the subjects
Sample = tuple[list[np.ndarray], np.ndarray, np.ndarray]  # probabilities (n, C) of each method; labels, subjects (n,)


class Population:
    """A classifier (or several of equal skill) and the subjects it is tested on; skill: a value of SKILL."""

    def __init__(self, skill: float, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.head_start = rng.normal(skill, 0.8, N_CLASSES)
        self.favour = rng.normal(0, 0.5, N_CLASSES)  # a classifier names some conditions too often
        self.share = rng.dirichlet(np.full(N_CLASSES, 8.0))  # from a fifth to three times the average
        self.subjects = {  # fixed numbers per condition: at least two; or none to two, which gives about n = 113
            "n >= 400": rng.choice([2, 3, 4], N_CLASSES, p=[0.58, 0.28, 0.14]),
            "n = 113": rng.choice([0, 1, 2], N_CLASSES, p=[0.42, 0.53, 0.05]),
        }

    def condition_of(self, size: str, design: str, rng: np.random.Generator) -> np.ndarray:
        """The condition of each subject of one test set."""
        if design == "fixed":
            return np.repeat(np.arange(N_CLASSES), self.subjects[size])
        return rng.choice(N_CLASSES, N_SUBJECTS[size], p=self.share)

    def draw(self, conditions: np.ndarray, rng: np.random.Generator, n_methods: int = 1) -> Sample:
        """Predictions of `n_methods` classifiers of equal skill for new subjects of these conditions."""
        subjects = np.repeat(np.arange(len(conditions)), rng.choice([1, 2, 3], len(conditions), p=[0.4, 0.4, 0.2]))
        labels = conditions[subjects]
        face = rng.normal(0, np.sqrt(0.6), (len(conditions), N_CLASSES))[subjects]  # what a subject's photographs share
        photograph = rng.normal(0, np.sqrt(0.4), face.shape)
        predictions = []
        for _ in range(n_methods):
            logits = face + photograph + self.favour
            if n_methods > 1:  # the variance stays 1; half of it is each method's own
                own = rng.normal(0, np.sqrt(0.6), (len(conditions), N_CLASSES))[subjects]
                own += rng.normal(0, np.sqrt(0.4), face.shape)
                logits = (face + photograph + own) / np.sqrt(2) + self.favour
            logits[np.arange(len(labels)), labels] += self.head_start[labels]
            odds = np.exp(1.4 * (logits - logits.max(axis=1, keepdims=True)))  # 1.4 makes it overconfident
            predictions.append(odds / odds.sum(axis=1, keepdims=True))
        return predictions, labels, subjects

    def true_values(self, share: np.ndarray, statistics: dict[str, Callable], parts: int = 10) -> dict[str, float]:
        """Scores of a population in which conditions have these shares, from 10,000 subjects per part."""
        pieces = [
            self.draw(np.repeat(np.arange(N_CLASSES), 100), np.random.default_rng([1, part])) for part in range(parts)
        ]
        probabilities = np.concatenate([piece[0][0] for piece in pieces])
        labels = np.concatenate([piece[1] for piece in pieces])
        weights = len(labels) * (share / np.bincount(labels))[labels][None]
        return {name: float(statistics[name](probabilities, labels, weights)[0]) for name in NAMES}


def coverage(
    population: Population, size: str, design: str, repetitions: int, n_boot: int, parts: int = 10
) -> dict[str, dict]:
    """For each score: true value, mean estimate, and the share of repetitions whose interval covers the true value.

    `covered`: by the interval that run_scores.py uses; `percentile`: by the plain bootstrap; `n`: images on average."""
    statistics = run_scores.statistics_of(N_CLASSES)
    estimates = np.empty((repetitions, len(NAMES)))
    chosen, plain = np.empty((repetitions, len(NAMES), 2)), np.empty((repetitions, len(NAMES), 2))
    images = []
    for repetition in range(repetitions):
        rng = np.random.default_rng([2, repetition])
        (probabilities,), labels, subjects = population.draw(population.condition_of(size, design, rng), rng)
        images.append(len(labels))
        for i, name in enumerate(NAMES):
            weighted, interval = partial(statistics[name], probabilities, labels), run_scores.interval_of(name)
            estimates[repetition, i] = weighted()[0]
            plain[repetition, i] = bootstrap_interval(weighted, subjects, n_boot=n_boot)
            chosen[repetition, i] = (
                plain[repetition, i] if interval is bootstrap_interval else interval(weighted, subjects, n_boot=n_boot)
            )
    share = population.share if design == "drawn" else population.subjects[size] / population.subjects[size].sum()
    true = population.true_values(share, statistics, parts) | {"macro_f1": estimates[:, NAMES.index("macro_f1")].mean()}
    true_values = np.array([true[name] for name in NAMES])
    covered, percentile = (
        ((each[..., 0] <= true_values) & (true_values <= each[..., 1])).mean(axis=0) for each in (chosen, plain)
    )
    return {
        name: {
            "true": true_values[i],
            "estimate": estimates[:, i].mean(),
            "covered": covered[i],
            "percentile": percentile[i],
            "n": np.mean(images),
        }
        for i, name in enumerate(NAMES)
    }


def told_apart(population: Population, size: str, repetitions: int, n_swaps: int, names: Sequence[str]) -> dict:
    """score -> share of repetitions in which two methods of equal skill differ with p < 0.05."""
    statistics = run_scores.statistics_of(N_CLASSES)
    n_significant = dict.fromkeys(names, 0)
    for repetition in range(repetitions):
        rng = np.random.default_rng([3, repetition])
        conditions = population.condition_of(size, "drawn", rng)
        (a, b), labels, subjects = population.draw(conditions, rng, n_methods=2)
        for name in names:
            n_significant[name] += swap_p_value(statistics[name], [a], [b], labels, subjects, n_swaps=n_swaps) < 0.05
    return {name: count / repetitions for name, count in n_significant.items()}


def gaps_found(population: Population, size: str, repetitions: int, n_permutations: int) -> dict:
    """name of SUBGROUPS -> share of repetitions with p < 0.05 where no subgroup differs, and how often the interval of
    the first subgroup's difference covers 0."""
    found = {name: np.zeros((repetitions, 2)) for name in SUBGROUPS}
    for repetition in range(repetitions):
        rng = np.random.default_rng([4, repetition])
        (probabilities,), labels, subjects = population.draw(population.condition_of(size, "drawn", rng), rng)
        hits = topk_hits(probabilities, labels, 1)
        for name, shares in SUBGROUPS.items():
            n = subjects.max() + 1
            group = np.searchsorted(np.cumsum(shares), (rng.permutation(n) + 0.5) / n)[subjects]
            p_value = subgroup_gaps.gap_p_value(hits, group, subjects, n_permutations)
            values = subgroup_gaps.difference_to_others(hits, group == 0, subjects)
            found[name][repetition] = p_value < 0.05, values["low"] <= 0 <= values["high"]
    return {name: of.mean(axis=0).tolist() for name, of in found.items()}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=2000, help="new sets of subjects for each interval")
    parser.add_argument("--n_boot", type=int, default=500, help="resamples per interval; run_scores.py uses 2000")
    parser.add_argument("--n_swaps", type=int, default=499, help="random swaps per test; run_scores.py uses 10000")
    parser.add_argument("--part", type=int, choices=range(4), help="one of the four cases (default: all)")
    parser.add_argument(
        "--parts", type=int, default=10, help="parts of 10,000 subjects from which the true values come"
    )
    return parser.parse_args(argv)


def print_case(top1: float, size: str, args: argparse.Namespace) -> None:
    population, amounts = Population(SKILL[top1]), (args.repetitions, args.n_boot, args.parts)
    designs = {design: coverage(population, size, design, *amounts) for design in ("drawn", "fixed")}
    apart = told_apart(population, size, args.repetitions, args.n_swaps, NAMES)
    n = [f"{design} {scores['top1']['n']:.0f}" for design, scores in designs.items()]
    print(f"\ntop-1 about {top1}, {size} (images on average: {', '.join(n)})")
    print(f"{'':<18} {'':>6} {'':>6} {'covered, drawn':>22}   {'covered, fixed':>22}")
    print(
        f"{'':<18} {'true':>6} {'mean':>6} {'as used':>10} {'percentile':>11}   {'as used':>10} "
        f"{'percentile':>11} {'p < 0.05':>10}"
    )
    for name in NAMES:
        drawn, fixed = (scores[name] for scores in designs.values())
        shares = (100 * each[kind] for each in (drawn, fixed) for kind in ("covered", "percentile"))
        print(
            f"{name:<18} {drawn['true']:>6.3f} {drawn['estimate']:>6.3f} "
            "{:>8.1f} % {:>9.1f} %   {:>8.1f} % {:>9.1f} %".format(*shares)
            + f" {100 * apart[name]:>8.1f} %",
            flush=True,
        )
    for name, shares in gaps_found(population, size, args.repetitions, args.n_swaps).items():
        called, covered = (100 * share for share in shares)
        print(f"true gap 0, {name}: called different in {called:.1f} %, 0 covered in {covered:.1f} %", flush=True)


def main(args: argparse.Namespace) -> None:
    began = time.monotonic()
    standard_error = 100 * (0.95 * 0.05 / args.repetitions) ** 0.5
    print(f"{args.repetitions} repetitions; 95 % has a standard error of {standard_error:.1f} points")
    cases = [(top1, size) for top1 in SKILL for size in N_SUBJECTS]
    for top1, size in cases if args.part is None else [cases[args.part]]:
        print_case(top1, size, args)
    seconds = time.monotonic() - began
    print(f"\nn >= 400 as drawn should be covered in 93 to 97 %, and p < 0.05 in at most 6 %; {seconds:.0f} s")


if __name__ == "__main__":
    main(parse_args())
