"""Measures how often the interval of an episode accuracy covers the true one, on SIMULATED conditions and people.

    OMP_NUM_THREADS=1 python benchmarks/episode_coverage.py

Conditions stand out more or less, and their people vary more or less; each has two to four subjects with one to three
photographs, as features of eight dimensions. Each repetition draws new conditions, subjects, folds and episodes, which
the nearest class mean answers. The true accuracy is the mean over all repetitions. "episodes" is the interval that
takes episodes for units, as publications do. Each case leaves a JSON file, and is not measured again while it is
there."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.episodes import accuracy_interval, draw_episodes, hits, strict_condition_folds
from harness.commands import Parser
from harness.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
CASES = ((20, 5), (40, 5), (98, 5), (98, 15))  # conditions, ways
WIDTH, SEED = 8, 2802


def draw_study(n_conditions: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, WIDTH), labels (n,) and groups (n,) of new conditions and people."""
    stands_out = np.exp(rng.normal(0, 0.35, n_conditions))
    varies = np.exp(rng.normal(0, 0.3, n_conditions))
    features, labels, groups = [], [], []
    for condition in range(n_conditions):
        mean = stands_out[condition] * rng.normal(size=WIDTH)
        for subject in range(rng.integers(2, 5)):
            person = mean + varies[condition] * rng.normal(size=WIDTH)
            for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
                features.append(person + 0.5 * rng.normal(size=WIDTH))
                labels.append(condition)
                groups.append(f"{condition}.{subject}")
    return np.array(features), np.array(labels), np.array(groups)


def one_repetition(n_conditions: int, n_way: int, n_episodes: int, repetition: int) -> tuple[float, tuple, tuple]:
    """The accuracy, its interval over conditions and subjects, and the one over episodes."""
    rng = np.random.default_rng([SEED, n_conditions, n_way, repetition])
    features, labels, groups = draw_study(n_conditions, rng)
    right, asked, subjects = [], [], []
    for fold in strict_condition_folds(labels.tolist(), groups.tolist(), n_way, 1):
        rows = np.flatnonzero(np.isin(labels, fold.test))
        episodes = draw_episodes(rows, labels, groups, n_way, 1, n_episodes, rng)
        distance = features[episodes.query][:, :, None] - features[episodes.support].mean(axis=2)[:, None]
        right.append(hits(-(distance**2).sum(axis=3)))
        asked.append(episodes.classes)
        subjects.append(groups[episodes.query])
    right = np.concatenate(right)
    interval = accuracy_interval(
        right.ravel(), np.concatenate(asked).ravel(), np.concatenate(subjects).ravel().tolist()
    )
    of_episodes = right.mean(axis=1)
    reach = 1.96 * of_episodes.std(ddof=1) / np.sqrt(len(of_episodes))
    return float(right.mean()), interval, (right.mean() - reach, right.mean() + reach)


def coverage(n_conditions: int, n_way: int, n_episodes: int, repetitions: int) -> dict:
    found = [one_repetition(n_conditions, n_way, n_episodes, repetition) for repetition in range(repetitions)]
    accuracies, ours, naive = (np.array(part) for part in zip(*found, strict=True))
    true = accuracies.mean()
    covered = {
        name: float(((part[:, 0] <= true) & (true <= part[:, 1])).mean())
        for name, part in (("conditions", ours), ("episodes", naive))
    }
    return {
        "accuracy": float(true),
        "sd": float(accuracies.std(ddof=1)),
        "covered": covered,
        "repetitions": repetitions,
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000, help="new conditions and people per case")
    parser.add_argument("--episodes", type=int, default=40, help="per fold")
    parser.add_argument("--results_dir", type=Path, default=ROOT / "benchmarks" / "results" / "episode_coverage")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    args.results_dir.mkdir(parents=True, exist_ok=True)
    for n_conditions, n_way in CASES:
        file = args.results_dir / f"{n_conditions}conditions_{n_way}way.json"
        if not file.is_file():
            write_json(file, coverage(n_conditions, n_way, args.episodes, args.repetitions))
        found = read_json(file, "delete it, and it is measured anew")
        covered = found["covered"]
        print(
            f"SIMULATED, {n_conditions} conditions, {n_way}-way: accuracy {100 * found['accuracy']:.1f} %, "
            f"covered by conditions and subjects {100 * covered['conditions']:.1f} %, "
            f"by episodes {100 * covered['episodes']:.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main(parse_args())
