"""Measures episodes on frozen features against decoding anew, and exact retrieval against a loop, in one process.

    OMP_NUM_THREADS=1 python benchmarks/few_shot_speed.py --dataset_name runs/few_shot/rdface-sim

The incumbent's way opens, decodes and resizes every image of every episode and sends it through the network, one
episode after the other. Ours decodes each photograph of the dataset once, extracts its feature once, and answers all
episodes. Both use the same list of episodes, the same 224 px network and one nearest-mean head; --measured_episodes of
the incumbent's are timed and scaled to 800, and so is a part of the loop's probes. Weights may be random."""

import argparse
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from classification.backbones import load_backbone, normalise
from classification.episodes import Episodes, draw_episodes
from classification.extraction import features_of
from classification.prototypes import accuracy_of, fit_statistics, head_scores
from classification.retrieval import search
from curation.opening import load_images
from harness.commands import Parser
from harness.files import write_json
from imaging.pixel_cache import cached_pixels

ROOT = Path(__file__).resolve().parents[1]
N_EPISODES, WIDTH, WAYS = 800, 512, (5, 15)
GALLERY, PROBES = 1_000_000, 10_000


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


@torch.inference_mode()
def incumbent_episodes(backbone, photographs: list[bytes], episodes: Episodes) -> float:
    """Accuracy, in 0..1, with each image decoded anew in each episode; photographs (n,): encoded."""
    side, right = backbone.image_size, []
    for support, query in zip(episodes.support, episodes.query, strict=True):
        rows = [*support.ravel().tolist(), *query.tolist()]
        pictures = [
            Image.open(io.BytesIO(photographs[row])).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            for row in rows
        ]
        pixels = normalise(np.stack([np.asarray(picture) for picture in pictures]), backbone, torch.device("cpu"))
        features = backbone.network(pixels).flatten(1)
        distances = torch.cdist(features[support.size :], features[: support.size].view(*support.shape, -1).mean(dim=1))
        right.append((distances.argmin(dim=1) == torch.arange(len(query))).float().mean())
    return float(torch.stack(right).mean())


def of_episodes(args: argparse.Namespace, n_way: int) -> dict:
    images, backbone = (
        load_images(args.dataset_name),
        load_backbone(args.backbone, pretrained=Path(args.backbone).is_dir()),
    )
    labels, groups = np.array(images["label"][:]), np.array(images["group_id"][:])
    episodes = draw_episodes(np.arange(len(labels)), labels, groups, n_way, 1, N_EPISODES, np.random.default_rng(0))
    raw = images.with_format(None).cast_column("image", datasets.Image(decode=False))
    photographs = [row["bytes"] for row in raw["image"][:]]
    few = Episodes(*(part[: args.measured_episodes] for part in (episodes.classes, episodes.support, episodes.query)))
    theirs, _ = seconds(lambda: incumbent_episodes(backbone, photographs, few))
    theirs *= N_EPISODES / len(few)

    def one_pass() -> np.ndarray:
        with tempfile.TemporaryDirectory() as cache:
            pixels = cached_pixels(Accelerator(cpu=True), images, backbone.image_size, None, Path(cache))
            return features_of(Accelerator(cpu=True), backbone, pixels.uint8, np.arange(len(labels)), 32)

    pass_s, features = seconds(one_pass)
    statistics = fit_statistics(features, labels, np.array([], int))
    answer_s, _ = seconds(lambda: accuracy_of(head_scores("cosine", features, episodes, statistics, None)))
    return {
        "n_way": n_way,
        "n_images": len(labels),
        "incumbent_s": theirs,
        "measured_episodes": len(few),
        "one_pass_s": pass_s,
        "answers_s": answer_s,
        "ratio": theirs / (pass_s + answer_s),
        "ratio_of_each_further_800": theirs / answer_s,
    }


def of_retrieval(args: argparse.Namespace) -> dict:
    rng = np.random.default_rng(0)
    gallery = np.empty((args.gallery, WIDTH), np.float32)
    for start in range(0, args.gallery, 100_000):
        part = gallery[start : start + 100_000]
        part[:] = rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    probes = rng.standard_normal((args.probes, WIDTH), np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours_s, found = seconds(lambda: search(gallery, probes, 30))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def loop() -> np.ndarray:
        nearest = []
        for probe in probes[: args.measured_probes]:
            similarity = gallery @ probe
            best = np.argpartition(-similarity, 30)[:30]
            nearest.append(best[np.argsort(-similarity[best])])
        return np.array(nearest)

    loop_s, nearest = seconds(loop)
    same = [len(set(a) & set(b)) / 30 for a, b in zip(nearest.tolist(), found.row.tolist(), strict=False)]
    return {
        "gallery": args.gallery,
        "probes": args.probes,
        "search_s": ours_s,
        "gallery_bytes": gallery.nbytes,
        "peak_bytes_added": 1024 * (after - before),
        "loop_s": loop_s * args.probes / args.measured_probes,
        "measured_probes": args.measured_probes,
        "ratio": loop_s * args.probes / args.measured_probes / ours_s,
        "same_neighbours": float(np.mean(same)),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--dataset_name", required=True, help="folder of a built dataset")
    parser.add_argument("--backbone", default="torchvision/resnet18", help="built with random weights, unless a folder")
    parser.add_argument("--measured_episodes", type=int, default=40)
    parser.add_argument("--gallery", type=int, default=GALLERY)
    parser.add_argument("--probes", type=int, default=PROBES)
    parser.add_argument("--measured_probes", type=int, default=50)
    parser.add_argument("--results_dir", type=Path, default=ROOT / "benchmarks" / "results" / "few_shot_speed")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    datasets.disable_progress_bars()
    found = {f"{n_way}way": of_episodes(args, n_way) for n_way in WAYS} | {"retrieval": of_retrieval(args)}
    args.results_dir.mkdir(parents=True, exist_ok=True)
    write_json(args.results_dir / "speed.json", found)
    for name, figures in found.items():
        print(name, {key: round(value, 4) for key, value in figures.items()})


if __name__ == "__main__":
    main(parse_args())
