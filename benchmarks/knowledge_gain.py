"""What annotated terms add to few photographs, on SIMULATED people and on real portraits: docs/knowledge_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/knowledge_gain.py --work_dir runs/knowledge
    OMP_NUM_THREADS=1 python benchmarks/knowledge_gain.py --work_dir runs/knowledge --attributes_dir REAL \\
        --weights squeezenet1_0=squeezenet1_0_imagenet.pth mobilenet_v2=mobilenet_v2-b0353104.pth

REAL holds `few` and `pool`, two curator's folders whose abbreviations spell marks: F or M for the sex, then G glasses,
M moustache, B beard, D bald, W white hair, P none. Each part leaves a small JSON file in --results_dir."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.backbones import load_backbone
from classification.extraction import features_of
from classification.knowledge_choice import fit_informed_probe
from classification.knowledge_prior import Teachers
from classification.linear_probe import LinearProbe, fit_linear_probe
from curation import protocols
from curation.leak_guard import Guard
from curation.opening import load_images
from harness.commands import Parser
from harness.files import read_json, write_json
from imaging.pixel_cache import cached_pixels
from phenotyping import condition_prior, phenotypes
from scoring.intervals import bootstrap_interval
from simulation import corpus, photography

ROOT = Path(__file__).resolve().parents[1]
FRESH_RANKS = (1, 3, 8, 10, 11, 19, 21, 24, 33, 34, 42, 45, 47, 50, 58, 70, 75, 81, 82, 83, 85, 90, 101)
CORPORA = {"study": (71, 600), "readers": (72, 480), "true_people": (73, 276)}  # seed, photographs
HELD_OUT_FOLDS = (0, 1)
MISSING = 0.4  # of each class's annotations
MARKS = "GMBDW"  # and the sex
SEEDS, REAL_SEEDS, REAL_SEEDS_OF_TRIALS = range(3), range(20), range(4)


class People:
    """The photographs of one dataset as the arms need them."""

    def __init__(self, dataset: Path, backbone_name: str, weights: Path | None, cache_dir: Path):
        self.images = load_images(str(dataset))
        self.names = self.images.features["label"].names
        self.labels = np.array(self.images["label"][:])
        self.groups = np.array(self.images["group_id"][:])
        self.image_ids = self.images["image_id"][:]
        codes = dict(zip(self.labels.tolist(), self.images["orphanet_code"][:], strict=True))
        self.codes = [codes.get(label) for label in range(len(self.names))]
        backbone = load_backbone(backbone_name, weights)
        accelerator = Accelerator(cpu=True)
        pixels = cached_pixels(accelerator, self.images, backbone.image_size, "mtcnn", cache_dir)
        self.features = features_of(accelerator, backbone, pixels.uint8, np.arange(len(self.labels)), 32)

    def held_out(self, fold: protocols.Fold) -> Guard:
        return Guard(fold, {"image_id": self.image_ids, "group_id": self.groups})


def build(work_dir: Path, name: str) -> Path:
    """One of the simulated corpora, built as a curator builds a dataset, unless it exists already."""
    raw, built = work_dir / f"{name}-raw", work_dir / f"{name}-sim"
    if (built / "README.md").is_file():
        return built
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    study = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS]
    chosen = [c for c in study if (c.rank in FRESH_RANKS) != (name == "readers")]
    seed, n = CORPORA[name]
    photographs = corpus.plan_corpus(n, tuple(chosen), seed)
    corpus.write_corpus(raw, photographs, image_size=256, seed=seed, effect=photography.EFFECT, num_workers=1)
    curate(raw, built)
    return built


def curate(folder: Path, built: Path) -> Path:
    """A curator's folder, built as a dataset unless it is built already."""
    if not (built / "README.md").is_file():
        command = [sys.executable, str(ROOT / "rdface_dataset.py"), "build", str(folder), "--output_dir", str(built)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{folder}: rdface_dataset.py build failed")
    return built


def support_set(people: People, allowed: np.ndarray, k: int | None, seed: int) -> protocols.Fold:
    """k of the allowed rows per class, drawn by seed (None: all), to train on; whoever is not allowed is tested."""
    fold = protocols.Fold(0, np.flatnonzero(allowed), np.array([], int), np.flatnonzero(~allowed))
    if k is None:
        return fold
    drawn = protocols.k_shot(fold, people.labels.tolist(), k, seed)
    return protocols.Fold(0, drawn.train, drawn.val, fold.test)


def is_right(probe: LinearProbe, people: People, rows: np.ndarray) -> np.ndarray:
    """Which of the rows (r,) the probe gives the highest score to their own class, (r,) float."""
    best = probe.classes[probe.scores(people.features[rows]).argmax(axis=1)]
    return (best == people.labels[rows]).astype(float)


def readers_of(people: People, profiles: np.ndarray, first_number: int) -> Teachers:
    """Everybody of a dataset as readers: profiles (c, T) of its classes."""
    n = len(people.labels)
    return Teachers(people.features, profiles[people.labels], first_number + people.labels, np.ones(n, int))


def with_people(people: People, others: People, fold: protocols.Fold) -> tuple:
    """Features, labels, groups, rows and guard of a training side with all of `others` in it, as data."""
    of_class = np.array([people.names.index(name) for name in others.names])
    n, m = len(people.labels), len(others.labels)
    labels = np.concatenate([people.labels, of_class[others.labels]])
    groups = np.concatenate([people.groups, [f"other {group}" for group in others.groups]])
    more = protocols.Fold(0, np.concatenate([fold.train, n + np.arange(m)]), fold.val, fold.test)
    guard = Guard(more, {"image_id": [*people.image_ids, *(f"other {i}" for i in range(m))], "group_id": groups})
    return np.concatenate([people.features, others.features]), labels, groups, more.train, guard


def thinned(profiles: np.ndarray, seed: int) -> np.ndarray:
    """Profiles (C, T) with MISSING of each class's annotations set to 0."""
    rng, kept = np.random.default_rng([seed, 40]), profiles.copy()
    for row in kept:
        annotated = np.flatnonzero(row)
        row[rng.permutation(annotated)[: round(MISSING * len(annotated))]] = 0.0
    return kept


class Gains:
    """Per arm and image, over seeds: whether it was right, beside the photographs alone."""

    def __init__(self, people: People):
        self.people = people
        self.right: dict[str, dict[int, list[tuple[int, float]]]] = {}

    def add(self, arm: str, seed: int, rows: np.ndarray, right: np.ndarray) -> None:
        of_arm = self.right.setdefault(arm, {})
        for row, value in zip(rows.tolist(), right.tolist(), strict=True):
            of_arm.setdefault(row, []).append((seed, value))

    def table(self, seeds: range, baseline: str = "alone") -> dict[str, dict]:
        """Of each arm: top-1 in percent, its gain over the baseline with its interval, and how many people."""
        results = {}
        for arm, of_arm in self.right.items():
            rows = sorted(of_arm)
            own = np.array([np.mean([v for s, v in of_arm[row] if s in seeds] or [np.nan]) for row in rows])
            alone = np.array(
                [np.mean([v for s, v in self.right[baseline][row] if s in seeds] or [np.nan]) for row in rows]
            )
            times = np.array([sum(s in seeds for s, _ in of_arm[row]) for row in rows])
            rows, own, alone, times = (np.array(x)[times > 0] for x in (rows, own, alone, times))
            gain = own - alone

            def mean(weights: np.ndarray, gain: np.ndarray = gain, times: np.ndarray = times) -> np.ndarray:
                return weights @ (gain * times) / (weights @ times)

            low, high = bootstrap_interval(mean, self.people.groups[rows].tolist())
            results[arm] = {
                "top1": round(100 * float(own @ times / times.sum()), 1),
                "gain": [round(100 * float(value), 1) for value in (mean(np.ones((1, len(rows))))[0], low, high)],
                "n_images": len(rows),
                "n_people": len(set(self.people.groups[rows].tolist())),
            }
        return results


# ------------------------------------------------------------------------------------------------------- both studies


def simulated(args: argparse.Namespace) -> dict:
    """The SIMULATED part of the plan: k -> arm -> scores."""
    backbone, cache = str(ROOT / "demo_models" / "backbone"), args.work_dir / "pixels"
    study, readers, others = (People(build(args.work_dir, name), backbone, None, cache) for name in CORPORA)
    profiles, _ = condition_prior.profiles([*study.codes, *readers.codes], condition_prior.project_table())
    own, of_readers = profiles[: len(study.names)], profiles[len(study.names) :]
    taught = readers_of(readers, of_readers, len(study.names))
    fold_of = np.array([-1 if k is None else k for k in study.images["strict_fold"][:]])
    allowed, results = ~np.isin(fold_of, HELD_OUT_FOLDS), {}
    for k in (1, 2, 3, None):
        gains, shares = Gains(study), []
        for seed in SEEDS:
            fold = support_set(study, allowed, k, seed)
            shuffled = np.random.default_rng([seed, 41]).permutation(own)
            known = {"terms": (own, None), "terms and readers": (own, taught)}
            known |= {"40 % of the annotations missing": (thinned(own, seed), taught), "shuffled": (shuffled, taught)}
            shares.append(one_support_set(gains, study, fold, seed, known, others))
        results["all" if k is None else str(k)] = {"arms": gains.table(SEEDS), "term_shares": shares}
    return results


def one_support_set(
    gains: Gains, people: People, fold: protocols.Fold, seed: int, known: dict[str, tuple], others: People
) -> dict[str, float]:
    """All arms of one draw; returns the share of knowledge that each chose."""
    guard, data = people.held_out(fold), (people.features, people.labels, people.groups)
    gains.add("alone", seed, fold.test, is_right(fit_linear_probe(*data, fold.train, guard), people, fold.test))
    shares = {}
    for arm, (profiles, readers) in known.items():
        probe, choice = fit_informed_probe(*data, fold.train, guard, profiles, readers)
        gains.add(arm, seed, fold.test, is_right(probe, people, fold.test))
        shares[arm] = choice.term_share
    gains.add(
        "true people",
        seed,
        fold.test,
        is_right(fit_linear_probe(*with_people(people, others, fold)), people, fold.test),
    )
    return shares


def real(args: argparse.Namespace, name: str, weights: Path) -> dict:
    """The part of the plan on real portraits, with one backbone."""
    built = {part: curate(args.attributes_dir / part, args.work_dir / part) for part in ("few", "pool")}
    loaded = (f"torchvision/{name}", weights, args.work_dir / "pixels")
    few, pool = (People(built[part], *loaded) for part in ("few", "pool"))
    own, of_pool = marks(few.names), marks(pool.names)
    readers = readers_of(pool, of_pool, len(few.names))
    strangers = ~np.isin(few.names, pool.names)  # classes that nobody in the pool has
    results = {}
    for k in (1, 2):
        gains, shares = Gains(few), []
        for seed in REAL_SEEDS:
            drawn = protocols.k_shot(
                support_set(few, np.ones(len(few.labels), bool), None, seed), few.labels.tolist(), k, seed
            )
            fold = support_set(few, np.isin(np.arange(len(few.labels)), drawn.train), None, seed)
            shuffled = np.random.default_rng([seed, 41]).permutation(own)
            known = {"terms": (own, None), "terms and pool": (own, readers), "shuffled": (shuffled, None)}
            shares.append(one_support_set(gains, few, fold, seed, known, pool))
        for arm in ("terms", "terms and pool"):
            of_arm = gains.right[arm]
            gains.right[f"{arm}, classes outside the pool"] = {
                r: v for r, v in of_arm.items() if strangers[few.labels[r]]
            }
        later = range(REAL_SEEDS_OF_TRIALS.stop, REAL_SEEDS.stop)
        results[str(k)] = {
            "arms": gains.table(REAL_SEEDS),
            "arms_of_later_seeds": gains.table(later),
            "term_shares": shares,
        }
    return results


def marks(names: list[str]) -> np.ndarray:
    """Marks (C, 6) of classes by their abbreviations: MGB is a man with glasses and a beard."""
    return np.array([[name[0] == "F", *(mark in name[1:] for mark in MARKS)] for name in names], dtype=float)


def print_part(title: str, part: dict) -> None:
    print(title)
    for arm, scores in part["arms"].items():
        gain, low, high = scores["gain"]
        print(f"  {arm:42} {scores['top1']:5.1f} %   {gain:+5.1f} [{low:+.1f}, {high:+.1f}]   n {scores['n_images']}")


def once(file: Path, measure: Callable[[], dict]) -> None:
    """Measure a part and keep its figures, unless they are there."""
    if not file.is_file():
        write_json(file, measure())
    for k, part in read_json(file, "delete it, and it is measured anew").items():
        print_part(f"{file.stem}, k = {k}", part)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="datasets and pixels; kept")
    parser.add_argument("--results_dir", type=Path, default=ROOT / "benchmarks" / "results" / "knowledge_gain")
    parser.add_argument("--attributes_dir", type=Path, help="folder with few and pool (default: the SIMULATED part)")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE", help="torchvision's networks")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    args.results_dir.mkdir(parents=True, exist_ok=True)
    if args.attributes_dir is None:
        once(args.results_dir / "simulated.json", lambda: simulated(args))
    for name, _, file in (pair.partition("=") for pair in args.weights):
        once(args.results_dir / f"real_{name}.json", lambda name=name, file=file: real(args, name, Path(file)))


if __name__ == "__main__":
    main(parse_args())
