"""Measures what the SIMULATED corpus allows: how well a detector finds its faces, how well true parameters classify.

    python benchmarks/simulator_yardsticks.py --raw_dir runs/demo/raw --dataset_name runs/demo/rdface-sim

Detection: MTCNN at threshold 0.9, largest face; mean distance of its five landmarks from the true ones, in units of the
distance between the eyes. Classification: the benchmark's linear probe on the true face parameters instead of an
image's features, out of fold under protocol strict; nothing that reads these images can do better. With shuffled labels
it must score at chance. Near duplicates: how many of the planted re-encodings the build has put into the group of their
original."""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.linear_probe import fit_linear_probe
from curation import protocols
from curation.leak_guard import Guard
from curation.opening import load_images
from imaging import faces
from scoring import run_scores


def detection(raw_dir: Path, truth: list[dict]) -> None:
    """Prints the share of faces found and the errors of landmarks, separately by the quality of the photographs."""
    detector = faces.load_detector("mtcnn")
    errors: dict[str, list[float]] = defaultdict(list)
    for true in tqdm(truth, desc="detecting"):
        with Image.open(raw_dir / "rd_images" / true["disease_abbr"] / true["image_name"]) as picture:
            face = detector.detect([picture])[0]
        kind = "re-encoded copy" if true["duplicate_of"] else "degraded" if true["quality_level"] else "undegraded"
        landmarks = np.array(true["landmarks"])
        eye_distance = np.linalg.norm(landmarks[1] - landmarks[0])
        missed = face is None
        errors[kind].append(
            np.nan if missed else np.linalg.norm(face.landmarks - landmarks, axis=1).mean() / eye_distance
        )
    for kind, distances in sorted(errors.items()):
        print(
            f"{kind}: face found in {100 * np.mean(~np.isnan(distances)):.1f} % of {len(distances)}, "
            f"landmarks within {100 * np.nanmean(distances):.1f} % of the inter-ocular distance on average"
        )


def classification(images, parameters: np.ndarray, shuffle: bool) -> None:
    """Prints out-of-fold scores of the linear probe on the parameters (n, p) of the dataset's rows."""
    labels, groups = np.array(images["label"][:]), np.array(images["group_id"][:])
    if shuffle:
        labels = np.random.default_rng(0).permutation(labels)
    n_classes, image_ids, rows = len(images.features["label"].names), images["image_id"][:], []
    constants = {"protocol": "strict", "split": "test", "seed": 0, "backbone": "truth", "recipe": "linear_probe"}
    for fold in protocols.folds(images, "strict"):
        guard = Guard(fold, images)
        centre, spread = parameters[fold.train].mean(0), parameters[fold.train].std(0)
        standardised = (parameters - centre) / spread
        probe = fit_linear_probe(standardised, labels, groups, fold.train, guard)
        for row, p in zip(fold.test.tolist(), probe.probabilities(standardised[fold.test], n_classes), strict=True):
            own = {"image_id": image_ids[row], "label": int(labels[row]), "fold": fold.number, "subject": groups[row]}
            rows.append(constants | own | {"probabilities": p})
    scores = run_scores.score(pd.DataFrame(rows))
    top1 = {name: f"{100 * value:.1f}" for name, value in scores["metrics"]["top1"].items() if value is not None}
    print(
        f"linear probe on the true parameters{', labels shuffled' if shuffle else ''}: top-1 {top1['mean']} % "
        f"[{top1['low']}, {top1['high']}], n {scores['n_test']}, chance {100 * scores['chance']:.1f} %"
    )


def duplicates(images, truth: list[dict]) -> None:
    """Prints how many planted re-encodings share their original's group; the CSV does not name their subject."""
    group_of = dict(zip(images["image_id"], images["group_id"], strict=True))
    subjects = defaultdict(set)
    for true in truth:
        subjects[group_of[Path(true["image_name"]).stem]].add(true["subject"])
    planted = [true for true in truth if true["duplicate_of"]]
    n_found = sum(group_of[Path(t["image_name"]).stem] == group_of[Path(t["duplicate_of"]).stem] for t in planted)
    wrong = sum(len(people) > 1 for people in subjects.values())
    print(f"planted re-encodings found: {n_found} of {len(planted)}; groups that join different people: {wrong}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw_dir", type=Path, required=True, help="the folder that simulate_faces.py wrote")
    parser.add_argument("--dataset_name", required=True, help="the dataset built from it")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    truth = pq.read_table(args.raw_dir / "ground_truth.parquet").to_pylist()
    images = load_images(args.dataset_name)
    by_id = {Path(true["image_name"]).stem: true for true in truth}
    parameters = np.array([by_id[image_id]["parameters"] for image_id in images["image_id"]])
    print(f"{len(truth)} SIMULATED photographs")
    duplicates(images, truth)
    classification(images, parameters, shuffle=False)
    classification(images, parameters, shuffle=True)
    detection(args.raw_dir, truth)


if __name__ == "__main__":
    main(parse_args())
