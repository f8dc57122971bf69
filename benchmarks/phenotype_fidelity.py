"""Whether an adapter's samples move towards its condition, on SIMULATED people, whose true face parameters are known.

    python benchmarks/phenotype_fidelity.py --synthetic_dataset runs/augmentation/3shot_seed0/dreambooth/fold0/synthetic

Face parameters are read from pictures by ridge regression on the miniature backbone's features, fitted on simulated
people with other conditions and seeds. For each condition, the mean parameters of three kinds of samples are compared
with the condition's true mean: the adapter's, the base model's for "photo of a child", and the base model's for the
same prompts as the adapter's. The last comparison tells what the photographs add to the words. Also printed: the share
of the samples in which MTCNN finds a face."""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sklearn.linear_model import RidgeCV
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.backbones import load_backbone, normalise
from classification.classifiers import probe_features
from curation.opening import load_synthetic
from demo_models.train_diffusion import faces_found
from generation import diffusion_pipelines as diffusion
from generation import synthetic_images
from harness.commands import Parser
from imaging import faces
from phenotyping import phenotypes
from simulation.people import COUNTRY_ANCESTRY, draw_person
from simulation.photography import Photograph, take

ROOT = Path(__file__).resolve().parents[1]
SIDE_PX, SEED = 128, 70  # of the people that the probe is fitted on
LEAST_R2 = 0.2


def person(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An aligned photograph (side, side, 3) of somebody with a pretraining condition, and its face parameters (p,)."""
    pool = phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :]
    country = list(COUNTRY_ANCESTRY)[number % len(COUNTRY_ANCESTRY)]
    photograph = Photograph(number, "", pool[number % len(pool)], number, number, None, country)
    picture, points, drawn, _, _ = take(photograph, 2 * SIDE_PX, SEED)
    aligned = faces.align(np.ascontiguousarray(picture), points[:5], SIDE_PX)
    return aligned, np.array([drawn.z[name] for name in phenotypes.parameters()])


@torch.inference_mode()
def features_of(pictures: np.ndarray) -> np.ndarray:
    """Features (n, d) of pictures (n, side, side, 3) uint8."""
    backbone = load_backbone(str(ROOT / "demo_models" / "backbone"))
    batches = [normalise(pictures[i : i + 32], backbone, torch.device("cpu")) for i in range(0, len(pictures), 32)]
    return torch.cat([probe_features(backbone.network(batch)) for batch in batches]).numpy()


def true_means(condition: phenotypes.Condition, count: int = 400) -> np.ndarray:
    """Mean face parameters (p,) of many people with the condition, from all countries."""
    countries = list(COUNTRY_ANCESTRY)
    people = [
        draw_person(condition, countries[i % len(countries)], np.random.default_rng([SEED, 9, i])).z
        for i in range(count)
    ]
    return np.array([[z[name] for name in phenotypes.parameters()] for z in people]).mean(axis=0)


def base_samples(pipeline: StableDiffusionPipeline, prompts: list[str], guidance_scale: float) -> np.ndarray:
    """A picture per prompt by the base model alone, (n, side, side, 3) uint8."""
    words = diffusion.embeddings(pipeline, [*dict.fromkeys([*prompts, ""])])
    pictures = []
    for start in tqdm(range(0, len(prompts), 24), desc="base"):
        batch = prompts[start : start + 24]
        seeds = [synthetic_images.image_seed(SEED, "base", start + i) for i in range(len(batch))]
        embedded = torch.stack([words[prompt] for prompt in batch]), words[""].expand(len(batch), -1, -1)
        pictures.append(diffusion.sample(pipeline, *embedded, seeds, SIDE_PX, 15, guidance_scale)[0])
    return np.concatenate(pictures)


def distances(read: np.ndarray, labels: np.ndarray, truth: dict[int, np.ndarray]) -> np.ndarray:
    """Euclidean distance between the mean of each condition's pictures and its true mean.

    read (n, p): parameters as they are read from pictures; labels (n,): their conditions; truth: label -> mean (p,)."""
    return np.array([np.linalg.norm(read[labels == label].mean(axis=0) - mean) for label, mean in truth.items()])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--synthetic_dataset", required=True, help="dataset that train_dreambooth.py sampled from a simulated one")
    add("--base", default=str(ROOT / "demo_models" / "diffusion"), help="the pipeline that was adapted")
    add("--num_people", type=int, default=1500, help="people that the probe is fitted on; a fifth more test it")
    add("--num_base_samples", type=int, default=240, help="samples of the base model alone")
    add(
        "--guidance_scale",
        type=float,
        default=1.5,
        help="guidance of the base model's samples, as the adapters' had it",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    pictures, z = zip(*(person(i) for i in tqdm(range(args.num_people * 6 // 5), desc="people")), strict=True)
    read, z = features_of(np.stack(pictures)), np.stack(z)
    n = args.num_people
    centre, spread = z[:n].mean(axis=0), z[:n].std(axis=0)
    z = (z - centre) / spread
    probe = RidgeCV(alphas=10.0 ** np.arange(0, 7)).fit(read[:n], z[:n])
    r2 = 1 - np.square(probe.predict(read[n:]) - z[n:]).mean(axis=0) / z[n:].var(axis=0)
    kept = r2 > LEAST_R2
    print(f"probe: {kept.sum()} of {len(kept)} parameters read with R2 above {LEAST_R2}, mean {r2[kept].mean():.2f}")

    images = load_synthetic(args.synthetic_dataset)
    names, labels = images.features["label"].names, np.array(images["label"][:])
    sampled = np.stack(
        [np.asarray(row["image"].resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)) for row in images]
    )
    pipeline = diffusion.open_pipeline(args.base, torch.float32)
    diffusion.set_scheduler(pipeline, "dpmsolver++")
    base = base_samples(pipeline, ["photo of a child"] * args.num_base_samples, args.guidance_scale)
    asked = base_samples(pipeline, images["prompt"][:], args.guidance_scale)
    conditions = {condition.abbr: condition for condition in phenotypes.conditions()}
    present = sorted(set(labels.tolist()))
    truth = {label: ((true_means(conditions[names[label]]) - centre) / spread)[kept] for label in present}
    of_base = probe.predict(features_of(base))[:, kept].mean(axis=0)
    far = np.array([np.linalg.norm(of_base - mean) for mean in truth.values()])
    near = {
        "its samples": distances(probe.predict(features_of(sampled))[:, kept], labels, truth),
        "the base's, asked for the same words": distances(probe.predict(features_of(asked))[:, kept], labels, truth),
    }
    for name, distance in near.items():
        print(
            f"SIMULATED: {name} are nearer to the condition than the base's for {(distance < far).sum()} of {len(far)} "
            f"conditions ({100 * (distance < far).mean():.0f} %); median share of the base's distance "
            f"{np.median(distance / far):.2f}"
        )
    own, words = near.values()
    print(f"its samples are nearer than the base's, asked for the same words, for {(own < words).sum()} of {len(far)}")
    shares = {"base": faces_found(list(base)), "adapters": faces_found(list(sampled))}
    print("one face found by MTCNN: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))


if __name__ == "__main__":
    main(parse_args())
