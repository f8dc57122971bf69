"""Why synthetic faces did not help in augmentation_gain.py: where the condition is lost, on SIMULATED people.

    OMP_NUM_THREADS=1 python benchmarks/augmentation_causes.py --work_dir runs/augmentation

A judge is a linear probe trained on true extra people. Three questions: (1) For how many of the adapters' samples does
the judge name the right condition, compared with held-out photographs? (2) Do the samples show the people of the
support set rather than the condition: how many of them does a probe recognise that was trained on the support set
alone? (3) Is the autoencoder the bottleneck: how much do true people help after they were encoded and decoded?"""

import argparse
import sys
from pathlib import Path

import cv2
import datasets
import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.augmentation_gain import FOLD, ROOT, SIDE_PX
from benchmarks.phenotype_fidelity import features_of
from classification.linear_probe import FALLBACK_SHRINKAGE, fit_discriminants
from curation import protocols
from curation.opening import load_images, load_synthetic
from harness.commands import Parser
from imaging.pixel_cache import cached_pixels

Faces = tuple[np.ndarray, np.ndarray]  # features (n, d), labels (n,)


def share_named(trained_on: Faces, tested_on: Faces) -> float:
    """Top-1 accuracy of a linear probe, 0..1."""
    (probe,) = fit_discriminants(*trained_on, [FALLBACK_SHRINKAGE])
    features, labels = tested_on
    return float((probe.classes[probe.scores(features).argmax(axis=1)] == labels).mean())


@torch.inference_mode()
def through(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, side, side, 3) uint8 after they were encoded and decoded."""
    decoded = []
    for start in range(0, len(pictures), 16):
        scaled = torch.from_numpy(pictures[start : start + 16]).permute(0, 3, 1, 2).float() / 127.5 - 1
        rebuilt = vae.decode(vae.encode(scaled).latent_dist.mode()).sample.clamp(-1, 1)
        decoded.append(((rebuilt + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(decoded)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--work_dir", type=Path, required=True, help="the folder of a finished augmentation_gain.py")
    add("--base", default=str(ROOT / "demo_models" / "diffusion"), help="the pipeline that was adapted")
    add("--k_shots", type=int, nargs="+", default=[1, 2], help="photographs per condition that were trained on")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of support sets, adapters and images")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    accelerator = Accelerator(cpu=True)
    vae = AutoencoderKL.from_pretrained(args.base, subfolder="vae", torch_dtype=torch.float32).eval()

    def aligned(images: datasets.Dataset) -> np.ndarray:
        pixels = cached_pixels(accelerator, images, SIDE_PX, "mtcnn", args.work_dir / "pixels")
        return pixels.uint8[np.arange(len(images))]

    photographs = load_images(str(args.work_dir / "rdface-sim"))
    labels, features = np.array(photographs["label"][:]), features_of(aligned(photographs))
    (fold,) = protocols.folds(photographs, "strict", FOLD)
    held_out = features[fold.test], labels[fold.test]
    for k in args.k_shots:
        shares_of_seeds = []
        for seed in tqdm(args.seeds, desc=f"{k}-shot"):
            folder = args.work_dir / f"{k}shot_seed{seed}"
            rows = protocols.k_shot(fold, labels.tolist(), k, seed).train
            support = features[rows], labels[rows]
            people, sampled = (
                load_synthetic(str(folder / name)) for name in ("true_people", f"dreambooth/fold{FOLD}/synthetic")
            )
            pictures, of_people = aligned(people), np.array(people["label"][:])
            judge = features_of(pictures), of_people
            decoded = np.concatenate([support[0], features_of(through(vae, pictures))])
            samples = features_of(aligned(sampled)), np.array(sampled["label"][:])
            shares_of_seeds.append(
                {
                    "judge: held-out photographs": share_named(judge, held_out),
                    "judge: adapters' samples": share_named(judge, samples),
                    "support set: held-out photographs": share_named(support, held_out),
                    "support set: adapters' samples": share_named(support, samples),
                    "support set and true people: held-out": share_named(
                        (np.concatenate([support[0], judge[0]]), np.concatenate([support[1], of_people])), held_out
                    ),
                    "support set and decoded true people: held-out": share_named(
                        (decoded, np.concatenate([support[1], of_people])), held_out
                    ),
                }
            )
        for name in shares_of_seeds[0]:
            shares = [100 * row[name] for row in shares_of_seeds]
            each = " ".join(f"{share:.1f}" for share in shares)
            print(f"SIMULATED, {k}-shot, {name}: {np.mean(shares):.1f} % (seeds {args.seeds}: {each})")


if __name__ == "__main__":
    main(parse_args())
