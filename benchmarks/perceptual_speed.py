"""Measures LPIPS to a class's photographs: the incumbent's way and ours, in turn, on SIMULATED faces.

    python benchmarks/perceptual_speed.py

The incumbent's way, as in public notebooks of the field: for each pair of a synthetic image and a real photograph of
its class, both files are opened, resized to 256 px and given to the library lpips, one pair at a time. Ours opens each
file once, and each picture goes through the network once (generation/perceptual_distance.py). The paper draws 100
synthetic images for a condition. Weights are untrained, because they do not change the time. The first part scores more
and more images and prints the peak of the process's memory, which should not grow."""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from demo_models import train_restorers
from generation.perceptual_distance import class_reference, load_lpips, mean_lpips, square_pixels


def draw(folder: Path, n: int, first_person: int) -> list[Path]:
    """Files of n SIMULATED photographs of 512 px, each of another person; photographs come as JPEG."""
    files = []
    for person in range(first_person, first_person + n):
        files.append(folder / f"{person}.jpg")
        Image.fromarray(train_restorers.photograph(person, 4000)).save(files[-1], quality=92)
    return files


@torch.inference_mode()
def incumbent_means(network: torch.nn.Module, synthetic: Sequence[Path], real: Sequence[Path]) -> np.ndarray:
    """Mean LPIPS (m,) of each synthetic image to the real ones, pair by pair."""
    convert = transforms.Compose(
        [transforms.Resize((256, 256)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    means = []
    for file in synthetic:
        pairs = [[convert(Image.open(path).convert("RGB"))[None] for path in (file, other)] for other in real]
        means.append(np.mean([network(*pair).item() for pair in pairs]))
    return np.array(means)


def our_means(network: torch.nn.Module, synthetic: Sequence[Path], real: Sequence[Path]) -> np.ndarray:
    """The same numbers from one pass over all files."""
    reference = class_reference(network, (square_pixels(Image.open(file)) for file in real))
    pictures = (square_pixels(Image.open(file)) for file in synthetic)
    return mean_lpips(network, pictures, [reference] * len(synthetic))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num_real", type=int, default=10, help="real photographs of the class")
    parser.add_argument("--num_synthetic", type=int, default=100, help="synthetic images of the class")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each way, in turn; medians are printed")
    text = "numbers of images to score one after another for the peak of memory, in growing order"
    parser.add_argument("--memory_images", type=int, nargs="+", default=[100, 1000], help=text)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    network, _ = load_lpips("random")
    with tempfile.TemporaryDirectory() as folder:
        real = draw(Path(folder), args.num_real, 0)
        synthetic = draw(Path(folder), args.num_synthetic, args.num_real)
        for n in args.memory_images:  # first, since the peak is that of the whole process
            our_means(network, [synthetic[i % len(synthetic)] for i in range(n)], real)
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
            print(f"SIMULATED, {n:6d} synthetic images scored: peak memory {peak_mb:.0f} MB", flush=True)
        seconds: dict[str, list[float]] = {"incumbent": [], "ours": []}
        for _ in range(args.repeats):
            started = time.perf_counter()
            incumbent = incumbent_means(network, synthetic, real)
            between = time.perf_counter()
            ours = our_means(network, synthetic, real)
            seconds["incumbent"].append(between - started)
            seconds["ours"].append(time.perf_counter() - between)
    median = {way: statistics.median(values) for way, values in seconds.items()}
    print(
        f"SIMULATED, {args.num_synthetic} synthetic images to {args.num_real} photographs, {torch.get_num_threads()} "
        f"threads, medians of {args.repeats}: incumbent {median['incumbent']:.1f} s, ours {median['ours']:.1f} s, "
        f"{median['incumbent'] / median['ours']:.1f} x the speed; largest difference "
        f"{np.abs(incumbent - ours).max():.1e}; means {incumbent.mean():.4f}"
    )


if __name__ == "__main__":
    main(parse_args())
