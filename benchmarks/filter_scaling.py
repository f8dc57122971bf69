"""Whether filter_synthetic.py needs more memory for more images, and how long a million rows take. All SIMULATED.

    python benchmarks/filter_scaling.py --work_dir runs/filter_scaling

First the command itself filters 1,000 images and then 20,000, each in a process of its own. The images are the same few
pictures of other people, repeated, so that the two slowest parts need not run for each image: detected faces come from
the command's own cache, and what two pictures score as copies is remembered here. Neither keeps anything of an image in
memory; the detector's, for a batch, is measured apart. The peaks are those of the process's own memory (RssAnon, read
every 20 ms) and of all resident pages (VmHWM), which include files that the system may drop at any time.

Then a million rows of random features are compared with 456 photographs of 103 conditions by the functions that the
command calls: the nearest photograph of the condition, also of the mirror image, the rank of the condition, the
probability of the phenotype, and the selection of the best of each condition. Drawing the features is not timed."""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.neighbors import NearestNeighbors

from curation import protocols
from curation.opening import load_images, photograph_sha256
from generation import fidelity, privacy, selection, synthetic_images
from harness.commands import Parser

ROOT = Path(__file__).resolve().parents[1]
SIDE_PX, CONDITIONS, PHOTOGRAPHS, PICTURES = 96, 10, 80, 50
ROWS_PER_PART = 1000
N_CLASSES, N_REAL, WIDTH = 103, 456, 512  # of the million rows; a face-recognition network gives 512 numbers
ROWS_AT_ONCE, PER_CLASS, CHECKED_ROWS = 65536, 20, 200
FILTER = """
import runpy
from generation import photograph_copies
score, known = photograph_copies.copy_score, {}
def copy_score(image, photograph, view):
    key = image.tobytes(), photograph.tobytes(), view
    if key not in known:
        known[key] = score(image, photograph, view)
    return known[key]
photograph_copies.copy_score = copy_score
runpy.run_path("filter_synthetic.py", run_name="__main__")
"""
DETECTOR_ALONE = """
import numpy as np, sys
from generation import filter_results, filter_scoring
def peak(): return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
imports = peak()
from imaging import faces
faces.load_detector("mtcnn").detect([np.zeros((int(sys.argv[1]),) * 2 + (3,), np.uint8)] * 32)
print(imports, peak())
"""


# ---- memory


def prepare(work_dir: Path) -> None:
    """Photographs as a built dataset, and pictures of other people with the same conditions, in work_dir."""
    for name, seed, number in (("raw", 5, PHOTOGRAPHS), ("others", 6, PICTURES)):
        sizes = ["--num_images", number, "--num_conditions", CONDITIONS, "--image_size", SIDE_PX, "--seed", seed]
        launch(work_dir, "simulate_faces.py", "--output_dir", work_dir / name, *sizes)
    launch(work_dir, "rdface_dataset.py", "build", work_dir / "raw", "--output_dir", work_dir / "rdface-sim")


def write_synthetic(work_dir: Path, n: int) -> Path:
    """n synthetic images made from fold 0's training side: the pictures of other people, repeated."""
    images = load_images(str(work_dir / "rdface-sim"))
    train = protocols.folds(images, "strict", 0)[0].train.tolist()
    names, digests, image_ids = images.features["label"].names, photograph_sha256(images), images["image_id"][:]
    same = {"generator": "dreambooth", "base_model": "none", "adapter_sha256": "0" * 64, "prompt": "a face", "seed": 0}
    same |= {"protocol": "strict", "fold": 0, "source_image_ids": [image_ids[row] for row in train]}
    same |= {"source_sha256": [digests[row] for row in train]}
    with open(work_dir / "others" / "disease_images.csv", newline="", encoding="utf-8") as table:
        people = [(row["disease_abbr"], row["image_name"]) for row in csv.DictReader(table)]
    people = [(label, name) for label, name in people if label in names]
    pictures = [(work_dir / "others" / "rd_images" / label / name).read_bytes() for label, name in people]
    parts = []
    for start in range(0, n, ROWS_PER_PART):
        rows = []
        for number in range(start, min(start + ROWS_PER_PART, n)):
            label, name = people[number % len(people)]
            picture = {"bytes": pictures[number % len(people)], "path": name}
            rows.append(same | {"image": picture, "synthetic_id": f"{label}_{number}", "label": label})
        parts.append(work_dir / "parts" / f"{n}-{start:08d}.parquet")
        synthetic_images.write_part(parts[-1], rows, names)
    synthetic_images.write_dataset(work_dir / f"synthetic-{n}", parts)
    return work_dir / f"synthetic-{n}"


def launch(work_dir: Path, *command: object) -> tuple[float, float, float]:
    """Seconds, and peaks in MB of a command in a process of its own: own memory, and all resident pages."""
    environment = os.environ | {"HF_HOME": str(work_dir / "hf"), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1"}
    started, own, resident = time.monotonic(), 0, 0
    with open(work_dir / "log.txt", "a") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], env=environment, cwd=ROOT, stdout=log, stderr=log
        )
    while process.poll() is None:
        own, resident = max(own, memory_kb(process.pid, "RssAnon")), max(resident, memory_kb(process.pid, "VmHWM"))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(
            f"{command[0]} {command[1]} failed with exit code {process.returncode}; see {work_dir / 'log.txt'}"
        )
    return time.monotonic() - started, own / 1024, resident / 1024


def memory_kb(pid: int | str, field: str) -> int:
    """A field of the process's status, kB; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def measure_memory(work_dir: Path, sizes: list[int]) -> None:
    if not (work_dir / "rdface-sim").is_dir():
        prepare(work_dir)
    alone = subprocess.run(
        [sys.executable, "-c", DETECTOR_ALONE, str(SIDE_PX)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    imports, with_detector = (int(number) / 1024 for number in alone.stdout.split())
    print(f"SIMULATED: imports {imports:.0f} MB; with the face detector and one batch {with_detector:.0f} MB resident")
    filtered = {}
    for n in (PICTURES, *sizes):  # the first run, which finds the faces, is not compared
        synthetic = work_dir / f"synthetic-{n}"
        if not synthetic.is_dir():
            write_synthetic(work_dir, n)
        flags = ["--dataset_name", work_dir / "rdface-sim", "--synthetic_dataset", synthetic, "--fold", 0]
        flags += ["--per_class", PER_CLASS, "--cache_dir", work_dir / "faces", "--output_dir", work_dir / f"out-{n}"]
        filtered[n] = launch(work_dir, "-c", FILTER, *flags)
        seconds, own, resident = filtered[n]
        print(
            f"SIMULATED: {n:6d} images filtered in {seconds:.0f} s: peak {own:.0f} MB own, {resident:.0f} MB resident",
            flush=True,
        )
    (_, own, resident), (_, many_own, many_resident) = filtered[sizes[0]], filtered[sizes[-1]]
    ratios = f"{many_own / own:.2f} x the own memory, {many_resident / resident:.2f} x the resident memory"
    print(f"SIMULATED: {sizes[-1] / sizes[0]:.0f} x the images: {ratios}")


# ---- a million rows


def draw(rng: np.random.Generator, means: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (b, WIDTH) float32 of people with these conditions, and those of the mirrored faces."""
    people = means[labels] + rng.standard_normal((len(labels), WIDTH), np.float32)
    return people, people + np.float32(0.3) * rng.standard_normal(people.shape, np.float32)


def measure_rows(n_rows: int) -> None:
    rng = np.random.default_rng(0)
    means = rng.standard_normal((N_CLASSES, WIDTH), np.float32) / 4
    real_labels = np.arange(N_REAL) % N_CLASSES
    real, _ = draw(rng, means, real_labels)
    labels = rng.integers(0, N_CLASSES, n_rows)
    nearest, similarity, rank, probability = (np.empty(n_rows) for _ in range(4))
    own_mb = memory_kb("self", "RssAnon") / 1024
    seconds = dict.fromkeys(("fit", "nearest photograph", "score and rank", "selection"), 0.0)

    def add(part: str, started: float) -> float:
        seconds[part] += time.perf_counter() - started
        return time.perf_counter()

    clock = time.perf_counter()
    fitted = fidelity.fit(real, real_labels, np.arange(N_REAL), N_CLASSES, "embedding")
    add("fit", clock)
    share_agreed = 0.0
    for start in range(0, n_rows, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, n_rows))
        features, mirrored = draw(rng, means, labels[rows])
        clock = time.perf_counter()
        same = real_labels, labels[rows]
        nearest[rows], similarity[rows] = privacy.nearest_either_way(real, features, mirrored, same=same)
        clock = add("nearest photograph", clock)
        scores = fitted.scores(features)
        rank[rows] = fidelity.class_rank(scores, labels[rows])
        probability[rows] = fitted.phenotype_probability(scores, labels[rows])
        add("score and rank", clock)
        if start == 0:
            first = (values[:CHECKED_ROWS] for values in (features, mirrored, labels, nearest))
            share_agreed = as_scikit_learn(real, real_labels, *first)
    clock = time.perf_counter()
    reasons = selection.select(probability, labels, np.ones(n_rows, bool), selection.Selection(per_class=PER_CLASS))
    add("selection", clock)
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(
        f"SIMULATED: {n_rows} rows of {WIDTH} numbers, {N_REAL} photographs, {N_CLASSES} conditions: "
        f"{sum(seconds.values()):.0f} s ({parts}); "
        f"peak {memory_kb('self', 'VmHWM') / 1024:.0f} MB resident, {own_mb:.0f} MB of them before; mean rank "
        f"{rank.mean():.2f}, {reasons.count(None)} kept; {100 * share_agreed:.1f} % of the first {CHECKED_ROWS} "
        "nearest photographs are those that scikit-learn finds"
    )


def as_scikit_learn(
    real: np.ndarray,
    real_labels: np.ndarray,
    features: np.ndarray,
    mirrored: np.ndarray,
    labels: np.ndarray,
    nearest: np.ndarray,
) -> float:
    """The share of images (b, d) whose nearest photograph (b,) is scikit-learn's, image or mirror image."""
    agreed = []
    for image, turned, label, row in zip(features, mirrored, labels, nearest, strict=True):
        rows = np.flatnonzero(real_labels == label)
        found = NearestNeighbors(n_neighbors=1, metric="cosine").fit(real[rows]).kneighbors([image, turned])
        agreed.append(rows[found[1][found[0].argmin(), 0]] == row)
    return float(np.mean(agreed))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="datasets, results and log; kept")
    text = "numbers of images to filter, in growing order"
    parser.add_argument("--num_images", type=int, nargs="*", default=[1000, 20000], help=text)
    parser.add_argument("--num_rows", type=int, default=1_000_000, help="rows of features to compare; 0: none")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if not Path("/proc/self/status").is_file():
        raise SystemExit("peak memory is read from /proc, which this system lacks")
    work_dir = args.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    if args.num_rows:
        measure_rows(args.num_rows)
    if args.num_images:
        measure_memory(work_dir, args.num_images)


if __name__ == "__main__":
    main(parse_args())
