"""What annotated terms add to all conditions of the demo's corpus, and to networks trained on real photographs.

    OMP_NUM_THREADS=1 python benchmarks/knowledge_elsewhere.py --work_dir runs/knowledge --part demo unseen networks \\
        --backbone torchvision/squeezenet1_0=squeezenet1_0_imagenet.pth torchvision/mobilenet_v2=mobilenet_v2.pth

Everybody is SIMULATED; docs/knowledge_plan.md has the plan. demo: k photographs of each of 103 conditions, each fold
held out in turn. unseen: the same with people of whom few photographs were not measured before. networks: the study
`few` of knowledge_gain.py, whose datasets are found in --work_dir if they are there. Draws are kept in --results_dir
and not measured again, as in knowledge_gain.py."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.augmentation_gain import launch
from benchmarks.knowledge_gain import (
    FOLDS,
    KS,
    RESULTS,
    People,
    backbone_features,
    build,
    curate,
    dealt_at_random,
    few,
    gains,
    kept_draws,
    miniature,
    one_draw,
    print_arms,
    simulate,
    thinned,
)
from curation import protocols
from harness.commands import Parser
from harness.files import write_json
from phenotyping import condition_prior, phenotypes

N_IMAGES = 456  # the demo's
FURTHER_SEED, FURTHER_PEOPLE = 88, 12  # of the corpus of further people, per condition
FEW = ("1", "2", "3")
MISSING = 0.4  # share of each class's annotations


class AllConditions:
    """Photographs of all study conditions (the demo's, or the 456 of knowledge_gain.py), and further people."""

    def __init__(self, work_dir: Path, part: str):
        raw, features = work_dir / "demo-raw", miniature(work_dir)
        if part == "demo" and not (raw / "disease_images.csv").is_file():
            size = ("--num_images", N_IMAGES, "--num_conditions", phenotypes.NUM_STUDY_CONDITIONS)
            launch("simulate_faces.py", "--output_dir", raw, *size)
        dataset = curate(raw, work_dir / "demo-sim") if part == "demo" else build(work_dir, "103")
        self.people = People(dataset, features)
        study = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS]
        n = FURTHER_PEOPLE * len(study)
        self.others = People(simulate(work_dir, "demo-further", study, n, FURTHER_SEED), features)
        self.own, _ = condition_prior.profiles(self.people.codes, condition_prior.project_table())

    def draw(self, k: str, number: int) -> dict:
        """The arms of one fold, with k photographs per condition of the others."""
        (fold,) = protocols.folds(self.people.images, "strict", number)
        if k != "all":
            fold = protocols.k_shot(fold, self.people.labels.tolist(), int(k), seed=0)
        known = {"terms": (self.own, None)}
        known[f"{MISSING:.0%} of annotations missing"] = (thinned(self.own, MISSING, 0), None)
        known["profiles dealt at random"] = (dealt_at_random(self.own, 0), None)
        return one_draw(self.people, fold, 0, known, {"same head, no knowledge": None}, self.others)


def all_conditions(work_dir: Path, results_dir: Path, part: str) -> dict:
    """k -> arm -> figures; each photograph is held out once for each k."""
    opened: list[AllConditions] = []

    def measure(k: str, number: int) -> list[dict]:
        if not opened:
            opened.append(AllConditions(work_dir, part))
        return [opened[0].draw(k, number)]

    results = {}
    for k in KS if part == "demo" else FEW:
        parts = {f"k{k}_fold{number}": functools.partial(measure, k, number) for number in FOLDS}
        results[k] = gains(kept_draws(results_dir / f"draws_{part}.json", parts))
        print_arms(f"SIMULATED, 103 conditions, {part}, k = {k}", results[k])
    return results


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="datasets and pixels; kept")
    parser.add_argument("--results_dir", type=Path, default=RESULTS, help="where the small files of figures are kept")
    parser.add_argument(
        "--part", nargs="+", choices=("demo", "unseen", "networks"), default=("demo",), help="what to measure"
    )
    text = "for networks: their names as for train_classifier.py, with their weights"
    parser.add_argument("--backbone", nargs="+", default=[], metavar="NAME=FILE", help=text)
    args = parser.parse_args(argv)
    if ("networks" in args.part) != bool(args.backbone):
        parser.error("--part networks and --backbone require each other")
    return args


def main(args: argparse.Namespace) -> None:
    for part in ("demo", "unseen"):
        if part in args.part:
            results = all_conditions(args.work_dir, args.results_dir, part)
            write_json(args.results_dir / f"simulated_{part}.json", results)
    for name, _, file in (pair.partition("=") for pair in args.backbone):
        network = name.rpartition("/")[2]
        features = functools.partial(backbone_features, name, Path(file), args.work_dir / "pixels")
        results = few(args.work_dir, args.results_dir, KS, features, f"few_{network}")
        write_json(args.results_dir / f"simulated_{network}.json", results)


if __name__ == "__main__":
    main(parse_args())
