"""Measures the face detectors and a face embedding on real photographs, and detection against the incumbent's way.

    python benchmarks/face_detection.py --people_dir REAL_FACES --points_dir REAL_LANDMARKS \\
        --detector_model retinaface=retinaface.onnx yunet=yunet.onnx --embedder mobilefacenet.onnx

Three tables: photographs in which a face is found, and the distance of its landmarks from hand-placed points; pairs of
pictures of one person told from pairs of two; time per picture. The incumbent's way, as in public notebooks of the
paper: one image at a time, in full size, with a black border of half its height and width on every side. Ours: images
of one size together, at most 800 px, without border. Nothing is fitted, and the thresholds are the detectors' own."""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from imaging import faces, photographs
from imaging.detector_names import FACE_DETECTORS, MODEL_DETECTORS
from imaging.face_cache import CachedDetector
from imaging.face_embeddings import load_embedder

POINTS = {0: 0, 1: 1, 3: 87, 4: 93}  # number of the landmark -> of the hand-placed point: pupils, mouth corners


def read_people(folder: Path, num_images: int | None = None) -> tuple[list[np.ndarray], list[str]]:
    """Photographs and persons of a curator's folder in which a class is one person."""
    with (folder / "disease_images.csv").open(encoding="utf-8") as table:
        rows = [(row["disease_abbr"], row["image_name"]) for row in csv.DictReader(table)][:num_images]
    return [read_pixels(folder / "rd_images" / person / name) for person, name in rows], [person for person, _ in rows]


def read_points(folder: Path, num_images: int | None) -> tuple[list[np.ndarray], list[str], dict[int, np.ndarray]]:
    """Photographs, persons, and hand-placed points (189, 2) px by number of the photograph."""
    files = sorted((folder / "images").glob("*.jpg"))[:num_images]
    with np.load(folder / "landmarks189.npz") as placed:
        points = dict(zip(placed["image_name"].tolist(), placed["points"], strict=True))
    by_number = {number: points[file.name] for number, file in enumerate(files) if file.name in points}
    return [read_pixels(file) for file in files], [file.name.partition(".")[0] for file in files], by_number


def read_pixels(file: Path) -> np.ndarray:
    return np.asarray(photographs.read(file)[2].convert("RGB"))


def landmark_errors(detected: list[faces.Face | None], points: dict[int, np.ndarray]) -> np.ndarray:
    """Mean distance of pupils and mouth corners from the points placed by hand, % of the pupil distance."""
    errors = []
    for number, placed in points.items():
        if detected[number] is not None:
            truth = placed[list(POINTS.values())]
            distances = np.linalg.norm(detected[number].landmarks[list(POINTS)] - truth, axis=1)
            errors.append(100 * distances.mean() / np.linalg.norm(placed[0] - placed[1]))
    return np.array(errors)


def incumbent_way(detector: faces.Detector, images: list[np.ndarray]) -> list[faces.Face | None]:
    """The largest face of each image, one at a time, in full size and with the paper's border."""
    detected = []
    for image in images:
        y, x = (round(faces.PAPER_BORDER * length) for length in image.shape[:2])
        bordered = cv2.copyMakeBorder(image, y, y, x, x, cv2.BORDER_CONSTANT)
        (candidates,) = detector.network.find(bordered[None])
        face = faces.largest(candidates, detector.network.threshold)
        detected.append(face and faces.Face(face.box, face.landmarks - np.array([x, y]), face.score, face.n_faces))
    return detected


def differences(ours: list[faces.Face | None], theirs: list[faces.Face | None]) -> np.ndarray:
    """Mean distance of the five landmarks of faces that both ways found, % of the eye distance, per image."""
    both = [(a.landmarks, b.landmarks) for a, b in zip(ours, theirs, strict=True) if a and b]
    return np.array([100 * np.linalg.norm(a - b, axis=1).mean() / np.linalg.norm(b[0] - b[1]) for a, b in both])


def print_rates(
    detectors: dict, people: list[np.ndarray], portraits: list[np.ndarray], points: dict
) -> dict[str, tuple]:
    """Prints the first table; returns what each detector found in the people and in the portraits."""
    print("\ndetector    people found  more than one  portraits found  landmark error, % of pupil distance (p95)  n")
    detected = {}
    for name, detector in detectors.items():
        in_people, in_portraits = detector.detect(people), detector.detect(portraits)
        several = sum(face is not None and face.n_faces > 1 for face in in_people)
        rates = [f"{sum(face is not None for face in part)}/{len(part)}" for part in (in_people, in_portraits)]
        errors = landmark_errors(in_portraits, points)
        error = f"{errors.mean():.2f} ({np.percentile(errors, 95):.2f})"
        print(f"{name:<12}{rates[0]:<14}{several:<15}{rates[1]:<17}{error:<47}{len(errors)}")
        detected[name] = in_people, in_portraits
    return detected


def print_identity(embedder, images: list[np.ndarray], persons: list[str], detected: list[faces.Face | None]) -> None:
    """Prints a line of the second table: cosines of pairs of pictures, the same person against two."""
    rows = [row for row, face in enumerate(detected) if face is not None]
    started = time.perf_counter()
    vectors = embedder.embed([images[row] for row in rows], np.array([detected[row].landmarks for row in rows]))
    ms = 1000 * (time.perf_counter() - started) / len(rows)
    first, second = np.triu_indices(len(rows), 1)
    same = np.array([persons[rows[a]] == persons[rows[b]] for a, b in zip(first, second, strict=True)])
    cosines = (vectors @ vectors.T)[first, second]
    false_alarms, hits, _ = roc_curve(same, cosines)
    equal_error = 100 * np.min(np.maximum(false_alarms, 1 - hits))
    means = f"{cosines[same].mean():.3f} / {cosines[~same].mean():.3f}"
    print(
        f"{same.sum()}/{len(same)}".ljust(15)
        + f"{roc_auc_score(same, cosines):<9.4f}{equal_error:<20.2f}{means:<28}{ms:.1f}"
    )


def ms_per_image(detect: Callable, images: list[np.ndarray]) -> tuple[float, list[faces.Face | None]]:
    started = time.perf_counter()
    detected = detect(images)
    return 1000 * (time.perf_counter() - started) / len(images), detected


def print_speed(detectors: dict, images: list[np.ndarray], batch_size: int, repeats: int) -> None:
    """Prints the third table: medians of the repeats, both ways in turn."""
    print("detector    incumbent, ms  ours, ms  ratio  landmarks apart, % of eye distance: mean  p95   max   kept, ms")
    for name, detector in detectors.items():
        times = []
        for _ in range(repeats):
            incumbent_ms, theirs = ms_per_image(lambda images, it=detector: incumbent_way(it, images), images)
            our_ms, ours = ms_per_image(lambda images, it=detector: it.detect(images, batch_size=batch_size), images)
            times.append((incumbent_ms, our_ms))
        with tempfile.TemporaryDirectory() as folder:
            cached = CachedDetector(detector, Path(folder))
            cached.detect(images, batch_size=batch_size)
            cached_ms, _ = ms_per_image(cached.detect, images)
        incumbent_ms, our_ms = (statistics.median(way) for way in zip(*times, strict=True))
        apart = differences(ours, theirs)
        print(
            f"{name:<12}{incumbent_ms:<15.1f}{our_ms:<10.1f}{incumbent_ms / our_ms:<7.2f}{apart.mean():<42.2f}"
            f"{np.percentile(apart, 95):<6.2f}{apart.max():<6.2f}{cached_ms:.1f}"
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--people_dir", type=Path, required=True, help="curator's folder in which a class is one person")
    add("--points_dir", type=Path, required=True, help="folder with images/ID.N.jpg and landmarks189.npz")
    add("--detectors", nargs="*", default=list(FACE_DETECTORS), choices=FACE_DETECTORS, help="without a file")
    add("--detector_model", nargs="*", default=[], metavar="NAME=FILE", help=f"one of {', '.join(MODEL_DETECTORS)}")
    add(
        "--embedder",
        type=Path,
        help="ONNX face-recognition network that sees what the last detector found (default: none)",
    )
    add("--num_images", type=int, help="photographs of each folder (default: all)")
    add("--speed_images", type=int, default=48, help="photographs of each folder that are timed")
    add("--batch_size", type=int, default=16, help="images that go through a detector together")
    add("--repeats", type=int, default=3, help="timings of each way, in turn; medians are printed")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    models = dict(pair.split("=", 1) for pair in args.detector_model)
    detectors = {name: faces.load_detector(name) for name in args.detectors}
    detectors |= {name: faces.load_detector(name, model=Path(file)) for name, file in models.items()}
    people, persons = read_people(args.people_dir, args.num_images)
    portraits, sitters, points = read_points(args.points_dir, args.num_images)
    print(f"{len(people)} photographs of {len(set(persons))} people, {len(portraits)} portraits of {len(set(sitters))}")
    for detector in detectors.values():
        print(f"{detector.network.name}: {detector.network.model}, threshold {detector.network.threshold}")
    detected = print_rates(detectors, people, portraits, points)
    if args.embedder:
        embedder = load_embedder(args.embedder)
        aligner, (in_people, in_portraits) = list(detected.items())[-1]
        print(f"\n{args.embedder.name}, faces aligned with {aligner}")
        print("pairs same/all  AUC      equal error, %      mean cosine same / other    ms a picture")
        print_identity(embedder, people, persons, in_people)
        print_identity(embedder, portraits, sitters, in_portraits)
    for title, images in (("people", people), ("portraits", portraits)):
        some = images[: args.speed_images]
        height, width = some[0].shape[:2]
        print(f"\n{len(some)} of the {title}, the first one {width} x {height} px, {args.batch_size} together")
        print_speed(detectors, some, args.batch_size, args.repeats)


if __name__ == "__main__":
    main(parse_args())
