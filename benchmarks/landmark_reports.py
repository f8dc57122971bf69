"""Measures the reporter `landmarks`: its terms on SIMULATED faces, and its measurements on photographs of adults.

    python simulate_faces.py --output_dir runs/landmark_raw --seed 91
    python benchmarks/landmark_reports.py --raw_dir runs/landmark_raw --points_dir REAL_LANDMARKS \\
        --detector_model mediapipe=face_landmarker.task

First table: terms that the reports call present against those that the simulated people have, beside the same reports
shuffled between images. Second table: correlation of a detector's measurements with those from hand-placed points of
real adults, and from the exact points of the drawing. Norms are fitted on half of the people and used on the others,
and the other way round, so no person is compared with himself. Threshold and units were chosen on another corpus."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow.parquet as pq

from imaging import faces, photographs
from imaging.detector_names import FACE_DETECTORS, MODEL_DETECTORS
from reporting import landmark_reporter
from reporting.landmark_reporter import MEASURES, NAMES
from reporting.report_terms import find_terms
from scoring.intervals import bootstrap_interval, numbered

N_BOOT = 2000
# Numbers of hand-placed points; of several, the middle.
HAND_POINTS = {
    "eye_image_left": (0,), "eye_image_right": (1,),
    "outer_canthus_image_left": (18,), "inner_canthus_image_left": (22,),
    "inner_canthus_image_right": (23,), "outer_canthus_image_right": (27,),
    "upper_lid_image_left": (20,), "lower_lid_image_left": (29,),
    "upper_lid_image_right": (25,), "lower_lid_image_right": (32,),
    "ala_image_left": (63,), "ala_image_right": (68,), "nasion": (50, 56), "subnasale": (55,), "nose_tip": (54, 60),
    "lip_top": (90,), "upper_lip_inner": (96,), "lower_lip_inner": (101,), "lip_bottom": (106,),
    "mouth_image_left": (87,), "mouth_image_right": (93,),
    "cheek_image_left": (110,), "cheek_image_right": (113,), "chin": (129,),
}  # fmt: skip
FIVE = landmark_reporter.FIVE_POINTS


def read_simulated(folder: Path, num_images: int | None) -> tuple[list[np.ndarray], dict]:
    """Photographs of a simulated corpus, and the columns of its ground truth with `points`: name -> (n, 2) px."""
    table = pq.read_table(folder / "ground_truth.parquet")
    if table.schema.metadata.get(b"simulated") != b"true":
        sys.exit(f"{folder}: not a corpus of simulate_faces.py; give the folder that it wrote")
    names = table.schema.metadata[b"landmark_names"].decode().split(",")
    table = table.slice(0, num_images)
    truth = table.select(["disease_abbr", "image_name", "subject", "present_terms"]).to_pydict()
    dense = np.array(table["landmarks_dense"].to_pylist())
    truth["points"] = {name: dense[:, number] for number, name in enumerate(names)}
    # The drawing has one line between the lips.
    truth["points"] |= dict.fromkeys(("upper_lip_inner", "lower_lip_inner"), truth["points"]["stomion"])
    paths = zip(truth["disease_abbr"], truth["image_name"], strict=True)
    return [read_pixels(folder / "rd_images" / abbr / name) for abbr, name in paths], truth


def read_adults(folder: Path, num_images: int | None) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Photographs of adults, and their hand-placed points: name -> (n, 2) px."""
    with np.load(folder / "landmarks189.npz") as placed:
        names, places = placed["image_name"][:num_images].tolist(), placed["points"][:num_images]
    points = {name: places[:, list(numbers)].mean(axis=1) for name, numbers in HAND_POINTS.items()}
    return [read_pixels(folder / "images" / name) for name in names], points


def read_pixels(file: Path) -> np.ndarray:
    return np.asarray(photographs.read(file)[2].convert("RGB"))


def truth_for(points: Mapping[str, np.ndarray], measured: np.ndarray) -> np.ndarray:
    """True measures (n, m): from the five points if `measured` (n, m) holds those measures only, else from all."""
    of_five = np.isnan(measured[:, NAMES.index("height of the face")]).all()
    return landmark_reporter.proportions({name: points[name] for name in FIVE} if of_five else points)


# ---------------------------------------------------------------------------------------------- terms, SIMULATED


def cross_fitted_reports(measured: np.ndarray, people: np.ndarray, detector: faces.Detector) -> list[str]:
    """Reports from measures (n, m), each with norms of the other half of the people (n,), who are numbered."""
    reports = [""] * len(measured)
    for half in (0, 1):
        norms = landmark_reporter.fit_norms(measured[people % 2 != half], detector)
        deviations = norms.deviations(measured)
        for row in np.flatnonzero(people % 2 == half):
            found = np.isfinite(measured[row]).any()
            reports[row] = (
                landmark_reporter.report(deviations[row]) if found else landmark_reporter.report_without_face()
            )
    return reports


def f1_scores(said: np.ndarray, true: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 (b,) over all terms together; `shuffled`: F1 of reports that belong to other images.

    said, true (n, t) bool; weights (b, n): how often each image counts. Shuffled is the expectation over all pairs of
    two different images."""
    n = weights.sum(axis=1)
    hits = weights @ (said & true).sum(axis=1)
    n_said, n_true = weights @ said.sum(axis=1), weights @ true.sum(axis=1)
    by_chance = ((weights @ said) * (weights @ true)).sum(axis=1)
    own = (weights**2) @ (said & true).sum(axis=1)
    f1 = 2 * hits / (n_said + n_true)
    shuffled = 2 * (by_chance - own) * n / (n**2 - (weights**2).sum(axis=1)) / (n_said + n_true)
    return {
        "precision": hits / np.maximum(n_said, 1e-9),
        "recall": hits / n_true,
        "F1": f1,
        "shuffled": shuffled,
        "difference": f1 - shuffled,
    }


def print_terms(name: str, reports: list[str], truth: dict, terms: list[str], seed: int) -> None:
    """A line of the first table."""
    found = [set(find_terms(report).present) for report in reports]
    said = np.array([[term in of_one for term in terms] for of_one in found])
    true = np.array([[term in of_one for term in terms] for of_one in truth["present_terms"]])
    scores = f1_scores(said, true, np.ones((1, len(said))))
    cells = []
    for score, (value,) in scores.items():
        interval = bootstrap_interval(
            lambda weights, score=score: f1_scores(said, true, weights)[score], truth["subject"], N_BOOT, seed
        )
        cells.append(f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]")
    print(f"{name:<42}{len(terms):<7}{'  '.join(cells)}")


def terms_of(measured: np.ndarray) -> list[str]:
    """The terms of those MEASURES that were measured (n, m) in any face."""
    given = np.isfinite(measured).any(axis=0)
    return [
        term for one, there in zip(MEASURES, given, strict=True) if there for term in (one.small, one.large) if term
    ]


def print_all_terms(detectors: dict, simulated: dict, truth: dict, seed: int) -> None:
    """The first table. simulated: detector -> measures (n, m)."""
    people = numbered(truth["subject"])
    print(f"\nSIMULATED: terms of {len(people)} images of {people.max() + 1} people, 95 % interval over people")
    columns = ("precision", "recall", "F1", "F1 shuffled", "F1 less shuffled")
    print(f"{'points':<42}{'terms':<7}{'  '.join(f'{column:<20}' for column in columns)}")
    for name, measured in simulated.items():
        print(f"{name}: a face in {np.isfinite(measured).any(axis=1).sum()} of {len(measured)}")
        reports = cross_fitted_reports(measured, people, detectors[name])
        exact = truth_for(truth["points"], measured)
        exact_reports = cross_fitted_reports(exact, people, detectors[name])
        subsets = {"": terms_of(measured)}
        if "mtcnn" in simulated and len(terms_of(simulated["mtcnn"])) < len(subsets[""]):
            subsets[", MTCNN's terms"] = terms_of(simulated["mtcnn"])
        subsets[", and the people's others"] = sorted(set(subsets[""]).union(*truth["present_terms"]))
        for words, terms in subsets.items():
            print_terms(f"{name}{words}", reports, truth, terms, seed)
            print_terms(f"  exact points{words}", exact_reports, truth, terms, seed)


# ------------------------------------------------------------------------------------------------- measurements


def correlation(measured: np.ndarray, true: np.ndarray) -> str:
    """Pearson's r of values (n,) with its 95 % interval by Fisher's z, and the detector's SD as a share of the true."""
    both = np.isfinite(measured) & np.isfinite(true)
    if both.sum() < 4:
        return "-"
    r = np.corrcoef(measured[both], true[both])[0, 1]
    low, high = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(both.sum() - 3))
    return f"{r:.2f} [{low:.2f}, {high:.2f}]  {measured[both].std(ddof=1) / true[both].std(ddof=1):.2f}"


def print_correlations(real: dict, hand: dict, simulated: dict, truth: dict) -> None:
    """The second table. real, simulated: detector -> measures (n, m); one image per simulated person."""
    _, first = np.unique(truth["subject"], return_index=True)
    n_real = len(hand["chin"])
    print("\nr of the detector's measurements with the true ones, its 95 % interval, SD as a share of the true SD:")
    print(f"{n_real} photographs of {n_real} real adults; {len(first)} images of {len(first)} SIMULATED people")
    print(f"{'detector':<12}{'measure':<38}{'real adults':<28}SIMULATED")
    for name in real:
        of_hand, of_drawing = truth_for(hand, real[name]), truth_for(truth["points"], simulated[name])
        for number, measure in enumerate(NAMES):
            if np.isfinite(real[name][:, number]).any():
                cells = correlation(real[name][:, number], of_hand[:, number])
                drawn = correlation(simulated[name][first, number], of_drawing[first, number])
                print(f"{name:<12}{measure:<38}{cells:<28}{drawn}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--raw_dir", type=Path, required=True, help="folder that simulate_faces.py wrote")
    add("--points_dir", type=Path, required=True, help="folder with images/ID.1.jpg and landmarks189.npz")
    add("--detectors", nargs="*", default=list(FACE_DETECTORS), choices=FACE_DETECTORS, help="without a file")
    add("--detector_model", nargs="*", default=[], metavar="NAME=FILE", help=f"one of {', '.join(MODEL_DETECTORS)}")
    add("--num_images", type=int, help="photographs of each folder (default: all)")
    add("--seed", type=int, default=0, help="for the intervals")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    models = dict(pair.split("=", 1) for pair in args.detector_model)
    detectors = {name: faces.load_detector(name) for name in args.detectors}
    detectors |= {name: faces.load_detector(name, model=Path(file)) for name, file in models.items()}
    pictures, truth = read_simulated(args.raw_dir, args.num_images)
    adults, hand = read_adults(args.points_dir, args.num_images)
    simulated = {name: landmark_reporter.measure(detector, pictures) for name, detector in detectors.items()}
    print_all_terms(detectors, simulated, truth, args.seed)
    real = {name: landmark_reporter.measure(detector, adults) for name, detector in detectors.items()}
    print_correlations(real, hand, simulated, truth)


if __name__ == "__main__":
    main(parse_args())
