"""Whether restore_images.py needs more memory for more photographs: its peaks at 100 and at 2,000, in one run.

    python benchmarks/restoration_memory.py --work_dir runs/restoration_memory

Photographs are SIMULATED, 64 px, enlarged by the demo's network; the same few are repeated under other names. Each size
is restored by the command itself, alone, in a process of its own. The peaks are those of the process's own memory
(RssAnon, read every 20 ms) and of all resident pages (VmHWM). These include pages of memory-mapped files, such as the
photographs, which the system may take back at any time."""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
from PIL import Image

from curation import datasheet
from curation.schema import real_features
from demo_models import train_restorers
from harness import real_or_simulated
from imaging import photographs

ROOT = Path(__file__).resolve().parents[1]
SIDE_PX, PEOPLE, CONDITIONS = 64, 10, 4


def make_dataset(folder: Path, n: int) -> None:
    """A dataset of n simulated photographs in the built layout."""
    pictures = [Image.fromarray(train_restorers.photograph(person, 3000)) for person in range(PEOPLE)]
    names = [f"C{i}" for i in range(CONDITIONS)]
    schema = real_features(names)

    def rows():
        for number in range(n):
            encoded = io.BytesIO()
            picture = pictures[number % PEOPLE].resize((SIDE_PX, SIDE_PX)).rotate(number % 7)
            picture.save(encoded, "JPEG", quality=90)
            name, picture_bytes = f"S.{number}", encoded.getvalue()
            values = {
                "image": {"bytes": picture_bytes, "path": f"{name}.jpg"},
                "image_id": name,
                "label": names[number % CONDITIONS],
                "disease_abbr": names[number % CONDITIONS],
                "source_type": real_or_simulated.SIMULATED_SOURCE,
                "is_grayscale": photographs.is_grayscale(picture),
                "width": SIDE_PX,
                "height": SIDE_PX,
                "sha256": hashlib.sha256(picture_bytes).hexdigest(),
                "group_id": name,
            }
            yield dict.fromkeys(schema) | values

    (folder / "real").mkdir(parents=True)
    images = datasets.Dataset.from_generator(rows, features=schema, cache_dir=str(folder.parent / "cache"))
    images.to_parquet(folder / "real" / "train-00000-of-00001.parquet")
    datasheet.write_datasheet(folder)


def restore(folder: Path, output_dir: Path) -> dict[str, float]:
    """Seconds, and peaks in MB: own memory, and all resident pages."""
    upscaler = ROOT / "demo_models" / "restorers" / f"{train_restorers.NAME}.safetensors"
    command = [sys.executable, ROOT / "restore_images.py", "--dataset_name", folder, "--output_dir", output_dir]
    command += ["--upscaler", upscaler, "--pad_to", SIDE_PX]
    environment = os.environ | {"HF_HOME": str(folder.parent / "hf"), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1"}
    started, own, resident = time.monotonic(), 0, 0
    process = subprocess.Popen(list(map(str, command)), env=environment)
    while process.poll() is None:
        own, resident = max(own, memory_kb(process.pid, "RssAnon")), max(resident, memory_kb(process.pid, "VmHWM"))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"restore_images.py failed with exit code {process.returncode}")
    return {"s": time.monotonic() - started, "own_mb": own / 1024, "resident_mb": resident / 1024}


def memory_kb(pid: int, field: str) -> int:
    """A field of the process's status, kB; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--work_dir", type=Path, required=True, help="new folder, deleted at the end")
    parser.add_argument("--num_images", type=int, nargs="+", default=[100, 2000], help="sizes to compare")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if not Path("/proc/self/status").is_file():
        raise SystemExit("peak memory is read from /proc, which this system lacks")
    args.work_dir.mkdir(parents=True)
    try:
        print(f"SIMULATED photographs of {SIDE_PX} px, x4, one process\nimages  seconds  own MB  resident MB")
        for n in args.num_images:
            make_dataset(args.work_dir / f"sim-{n}", n)
            peak = restore(args.work_dir / f"sim-{n}", args.work_dir / f"out-sim-{n}")
            print(f"{n:6d}  {peak['s']:7.1f}  {peak['own_mb']:6.0f}  {peak['resident_mb']:11.0f}", flush=True)
    finally:
        shutil.rmtree(args.work_dir)


if __name__ == "__main__":
    main(parse_args())
