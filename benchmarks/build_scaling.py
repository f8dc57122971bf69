"""Whether `rdface_dataset.py build` is flat in memory and linear in time, on SIMULATED photographs re-encoded ten-fold.

    python benchmarks/build_scaling.py --work_dir runs/build_scaling

Builds a tenth of the images and then all of them, in one run. Prints seconds, peak memory beyond that of the imports,
and how many of the re-encoded copies share their original's group. Takes about half an hour on two cores."""

import argparse
import csv
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from phenotyping import phenotypes

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object) -> tuple[float, int]:
    """Seconds, and the largest resident memory in bytes of any child so far (so run the small ones first)."""
    began = time.monotonic()
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    return time.monotonic() - began, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def re_encode(images: Path, copies: int, row: dict[str, str], number: int) -> list[dict[str, str]]:
    """Write `copies` - 1 re-encodings beside a photograph. Returns all rows; only the first names the patient."""
    rng = np.random.default_rng(number)
    source = images / row["disease_abbr"] / row["image_name"]
    rows = [row]
    with Image.open(source) as picture:
        for copy in range(1, copies):
            name = f"{source.stem}-{copy}.jpg"
            scale = rng.uniform(0.6, 1.0)
            smaller = picture.resize([round(scale * side) for side in picture.size], Image.Resampling.LANCZOS)
            smaller.save(source.with_name(name), quality=int(rng.integers(40, 91)))
            rows.append({**row, "image_name": name, "subject_id": ""})
    return rows


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--work_dir", type=Path, required=True, help="corpus and built datasets; kept")
    parser.add_argument("--num_images", type=int, default=5000, help="simulated photographs before re-encoding")
    parser.add_argument("--copies", type=int, default=10, help="of each photograph, the first included")
    parser.add_argument("--image_size", type=int, default=256, help="side in px")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated corpus")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    folder = args.work_dir.resolve() / "raw"
    if not folder.exists():
        conditions = min(args.num_images // 2, phenotypes.NUM_STUDY_CONDITIONS)
        size = ("--num_images", args.num_images, "--num_conditions", conditions)
        size += ("--image_size", args.image_size, "--seed", args.seed)
        run("simulate_faces.py", "--output_dir", folder, *size)
    with open(folder / "disease_images.csv", newline="", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["subject_id"]]  # not the corpus's own planted copies
    with ProcessPoolExecutor() as pool:
        copy = partial(re_encode, folder / "rd_images", args.copies)
        work = pool.map(copy, rows, range(len(rows)), chunksize=16)
        repeated = [row for some in tqdm(work, total=len(rows), desc="re-encoding") for row in some]
    _, imports = run("-c", "import curation.building")
    print(f"imports: {imports / 2**20:.0f} MiB")
    seconds = {}
    for count in (len(repeated) // 10 // args.copies * args.copies, len(repeated)):
        part = args.work_dir.resolve() / f"part-{count}"
        part.mkdir(parents=True, exist_ok=True)
        if not (part / "rd_images").exists():
            os.symlink(folder / "rd_images", part / "rd_images")
        with open(part / "disease_images.csv", "w", newline="", encoding="utf-8") as table:
            out = csv.DictWriter(table, list(repeated[0]))
            out.writeheader()
            out.writerows(repeated[:count])
        seconds[count], peak = run("rdface_dataset.py", "build", part, "--output_dir", part / "rdface-sim")
        built = pq.read_table(part / "rdface-sim" / "real", columns=["group_id"])["group_id"].to_pylist()
        original_groups = built[:: args.copies]
        grouped = np.mean([built[i] == original_groups[i // args.copies] for i in range(count) if i % args.copies])
        people = Counter(row["subject_id"] for row in repeated[:count] if row["subject_id"])
        print(
            f"{count} images: {seconds[count]:.0f} s, {1000 * seconds[count] / count:.1f} ms per image, "
            f"peak {(peak - imports) / 2**20:.0f} MiB above the imports; {100 * grouped:.2f} % of the copies found, "
            f"{len(set(built))} groups of {len(people)} subjects",
            flush=True,
        )
    small, large = seconds
    print(f"{large / small:.1f} x the images: {seconds[large] / seconds[small]:.1f} x the time")


if __name__ == "__main__":
    main(parse_args())
