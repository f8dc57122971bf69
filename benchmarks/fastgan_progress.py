"""Whether FastGAN's snapshots come nearer to real faces: distance of mean features, and how often a face is found.

    python benchmarks/fastgan_progress.py --run_dir runs/fastgan/fold0 --dataset_name runs/demo/rdface-sim

The distance is Euclidean, between the mean features of --num_images samples and of the real images that the generator
was trained on, divided by the distance between two random halves of the real images (1: as near as real images are to
each other). The features are those of the network --backbone, pooled; real images are cut out as the generator saw
them. The distance tells a network that learns from one that does not; it measures neither fidelity to a condition nor
privacy. MTCNN looks for faces in the samples, enlarged to 256 px with a black border of half a side, since an aligned
face fills its image."""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.backbones import Backbone, load_backbone, normalise
from curation.opening import load_images
from generation import fastgan
from generation.synthetic_images import image_seed
from generation.training_provenance import SOURCES_NAME
from harness.commands import Parser
from harness.files import default_cache_dir
from imaging import faces
from imaging.pixel_cache import cached_pixels

BATCH = 16


@torch.inference_mode()
def pooled_features(backbone: Backbone, pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, side, side, 3) uint8 of any side to features (n, d)."""
    features_of_batches = []
    for start in range(0, len(pictures), BATCH):
        pixels = normalise(np.asarray(pictures[start : start + BATCH]), backbone, torch.device("cpu"))
        pixels = F.interpolate(pixels, backbone.image_size, mode="bilinear", antialias=True)
        features = backbone.network(pixels)
        features_of_batches.append(features.mean((2, 3)) if features.ndim == 4 else features)
    return torch.cat(features_of_batches).numpy()


def distance_to_real(features: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> float:
    """Distance between the means of features (n, d) and real (m, d), divided by that between two halves of real."""
    order = rng.permutation(len(real))
    halves = np.array_split(real[order], 2)
    own = np.linalg.norm(halves[0].mean(0) - halves[1].mean(0))
    return float(np.linalg.norm(features.mean(0) - real.mean(0)) / own)


def share_with_a_face(detector: faces.Detector, pictures: np.ndarray) -> float:
    """The share of the pictures (n, side, side, 3) in which a face is found."""
    larger = [cv2.resize(picture, (256, 256), interpolation=cv2.INTER_CUBIC) for picture in pictures]
    framed = [cv2.copyMakeBorder(picture, 128, 128, 128, 128, cv2.BORDER_CONSTANT) for picture in larger]
    return float(np.mean([face is not None for face in detector.detect(framed)]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", type=Path, required=True, help="the folder of a fold, made by train_fastgan.py")
    parser.add_argument("--dataset_name", required=True, help="the dataset that it was trained on")
    parser.add_argument("--backbone", default="demo_models/backbone", help="backbone, as train_classifier.py takes it")
    parser.add_argument("--num_images", type=int, default=128, help="samples per snapshot")
    parser.add_argument("--seed", type=int, default=1, help="seed of the samples")
    parser.add_argument(
        "--cache_dir", type=Path, default=default_cache_dir(), help="folder where decoded photographs are kept"
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    images, backbone = load_images(args.dataset_name), load_backbone(args.backbone)
    detector = faces.load_detector("mtcnn")
    sources = set(json.loads((args.run_dir / SOURCES_NAME).read_text())["source_image_ids"])
    rows = [row for row, name in enumerate(images["image_id"][:]) if name in sources]
    real = None
    for file in sorted((args.run_dir / "snapshots").glob("step_*.safetensors")):
        network, config = fastgan.load_generator(file)
        if real is None:
            alignment = None if config["align_faces"] == "none" else config["align_faces"]
            pixels = cached_pixels(Accelerator(cpu=True), images, network.resolution, alignment, args.cache_dir)
            real = pooled_features(backbone, pixels.uint8[rows])
            share = 100 * share_with_a_face(detector, pixels.uint8[rows])
            print(f"real images at {network.resolution} px: a face in {share:.1f} % of {len(rows)}")
        seeds = [image_seed(args.seed, "fastgan progress", i) for i in range(args.num_images)]
        labels = [i % network.n_classes for i in range(args.num_images)] if network.n_classes else None
        batches = [
            fastgan.sample(network, seeds[i : i + BATCH], labels and labels[i : i + BATCH])
            for i in range(0, args.num_images, BATCH)
        ]
        samples = np.concatenate(batches)
        distance = distance_to_real(pooled_features(backbone, samples), real, np.random.default_rng(0))
        share = 100 * share_with_a_face(detector, samples)
        print(
            f"step {config['step']}: {distance:.1f} times the distance of two halves of {len(rows)} real images, "
            f"a face in {share:.1f} % of {len(samples)}"
        )


if __name__ == "__main__":
    main(parse_args())
