"""How much synthetic faces help a classifier with few photographs, on SIMULATED people: docs/augmentation_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/augmentation_gain.py --work_dir runs/augmentation

DreamBooth's images are compared with as many photographs of other people, drawn by the simulator, and with as many
classical augmentations. Finished runs are kept, so a stopped study continues where it was, and several processes may
share the seeds (--seeds)."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from curation import protocols
from curation.opening import load_images, photograph_sha256
from generation import synthetic_images
from harness.commands import Parser
from harness.files import write_json
from harness.seeds import derived_seed
from imaging import augmentations
from imaging.pixel_cache import cached_pixels
from phenotyping import phenotypes
from scoring import prediction_files, run_scores
from simulation import corpus, photography
from simulation.people import COUNTRY_ANCESTRY

ROOT = Path(__file__).resolve().parents[1]
SIDE_PX, FOLD = 128, 0
CORPUS_SEED, TUNING_CORPUS_SEED, EXTRA_SEED = 52, 53, 60  # EXTRA_SEED: of the true extra people
ARMS = ("dreambooth", "true people", "augmentation")


def launch(script: str, *flags: object) -> None:
    """Run a command of the project as a user does; exits if it fails, after it has said why."""
    if subprocess.run([sys.executable, str(ROOT / script), *map(str, flags)], check=False).returncode:
        raise SystemExit(f"{script} failed; the study continues from here once that is mended")


def chosen_conditions(args: argparse.Namespace) -> list[phenotypes.Condition]:
    """Conditions that the base model does not know: the study's own, or with --tuning others, to choose settings on.

    The conditions of the first plan's study are left out, since its results were known when this study was planned."""
    study = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS]
    seen = np.random.default_rng(2026).choice(len(study), 30, replace=False)
    unseen = np.random.default_rng(2027).permutation(np.setdiff1d(np.arange(len(study)), seen))
    chosen = unseen[-args.num_conditions :] if args.tuning else unseen[: args.num_conditions]
    return [study[i] for i in sorted(chosen)]


def build_corpus(args: argparse.Namespace) -> Path:
    """The study's corpus, simulated, and built as a curator builds a dataset, unless it exists already."""
    raw, built = args.work_dir / "raw", args.work_dir / "rdface-sim"
    if not (built / "README.md").is_file():
        shutil.rmtree(raw, ignore_errors=True)
        seed = TUNING_CORPUS_SEED if args.tuning else CORPUS_SEED
        raw.mkdir(parents=True)
        photographs = corpus.plan_corpus(args.num_photographs, tuple(chosen_conditions(args)), seed)
        corpus.write_corpus(raw, photographs, image_size=256, seed=seed, effect=photography.EFFECT, num_workers=2)
        launch("rdface_dataset.py", "build", raw, "--output_dir", built)
    return built


def write_images(folder: Path, kind: str, rows: list[tuple[str, np.ndarray, dict[str, str]]], names: list[str]) -> None:
    """Write pictures as a dataset of synthetic images.

    rows: condition, picture (side, side, 3) uint8, sources (image_id -> sha256); names: of all conditions."""
    columns, number = [], dict.fromkeys(names, 0)
    for condition, picture, sources in rows:
        synthetic_id = f"{condition}_{number[condition]}"
        number[condition] += 1
        row = {"image": synthetic_images.png(picture, synthetic_id), "synthetic_id": synthetic_id}
        row |= {"label": condition, "generator": kind, "base_model": None, "adapter_sha256": None, "prompt": None}
        row |= {"source_image_ids": list(sources), "source_sha256": list(sources.values())}
        columns.append(row | {"seed": 0, "protocol": "strict", "fold": FOLD})
    part = folder.with_name(f".{folder.name}.parquet")
    synthetic_images.write_part(part, columns, names)
    synthetic_images.write_dataset(folder, [part])
    part.unlink()


def true_people(folder: Path, seed: int, names: list[str], args: argparse.Namespace) -> None:
    """Photographs of other people with the same conditions: the simulator itself as the generator."""
    rows, countries = [], list(COUNTRY_ANCESTRY)
    for c, condition in enumerate(chosen_conditions(args)):
        for i in range(args.num_images):
            person = (seed * args.num_conditions + c) * args.num_images + i
            country = countries[derived_seed(EXTRA_SEED, person) % len(countries)]
            photograph = photography.Photograph(person, "", condition, person, person, None, country)
            rows.append((condition.abbr, photography.take(photograph, 256, EXTRA_SEED)[0], {}))
    write_images(folder, "simulate_faces", rows, names)


def augmented(folder: Path, k: int, seed: int, dataset: Path, args: argparse.Namespace) -> None:
    """Small crops, rotations, mirror images and changes of light, made from the aligned support photographs in turn."""
    images = load_images(str(dataset))
    names, labels = images.features["label"].names, images["label"][:]
    image_ids, digests = images["image_id"][:], photograph_sha256(images)
    accelerator = Accelerator(cpu=True)
    pixels = cached_pixels(accelerator, images, SIDE_PX, "mtcnn", args.work_dir / "pixels")
    (fold,) = protocols.folds(images, "strict", FOLD)
    support = protocols.k_shot(fold, labels, k, seed).train
    generator, rows = torch.Generator().manual_seed(derived_seed(seed, k)), []
    for label, name in enumerate(names):
        own = [row for row in support.tolist() if labels[row] == label]
        chosen = [own[i % len(own)] for i in range(args.num_images)]
        uint8 = torch.from_numpy(pixels.uint8[chosen]).permute(0, 3, 1, 2)
        pictures = augmentations.augment(uint8, generator).permute(0, 2, 3, 1).numpy()
        sources = [{image_ids[row]: digests[row]} for row in chosen]
        rows += [(name, picture, source) for picture, source in zip(pictures, sources, strict=True)]
    write_images(folder, "augmentation", rows, names)


def dreambooth(folder: Path, k: int, seed: int, dataset: Path, args: argparse.Namespace) -> None:
    """Adapters of the support photographs, and the images sampled from them."""
    flags = ["--dataset_name", dataset, "--pretrained_model_name_or_path", args.base, "--fold", FOLD, "--seed", seed]
    flags += ["--k_shot", k, "--max_train_steps", args.max_train_steps, "--learning_rate", args.learning_rate]
    flags += ["--rank", args.rank, "--adapters_per_batch", 8, "--num_images", args.num_images, "--guidance_scale", 1.5]
    flags += ["--instance_prompt", "photo of a {rare_token} child{with_terms}", "--sample_batch_size", 24]
    flags += ["--cache_dir", args.work_dir / "pixels", "--output_dir", folder]
    if (folder / "settings.json").is_file():
        flags += ["--resume_from_checkpoint", "latest"]
    launch("train_dreambooth.py", *flags)


def classify(output: Path, k: int, seed: int, dataset: Path, args: argparse.Namespace, *mix: object) -> None:
    """A linear probe on the support photographs and what `mix` adds to them, tested on the fold, unless it exists."""
    if (output / "run.json").is_file():
        return
    flags = ["--dataset_name", dataset, "--backbone", ROOT / "demo_models" / "backbone", "--fold", FOLD]
    flags += ["--recipe", "linear_probe", "--k_shot", k, "--seeds", seed, "--no-save_models", *mix]
    flags += ["--cache_dir", args.work_dir / "pixels", "--output_dir", output]
    launch("train_classifier.py", *flags)


def run(k: int, seed: int, dataset: Path, args: argparse.Namespace) -> None:
    """Every arm of one support set: its images, and a probe trained with them."""
    names = load_images(str(dataset)).features["label"].names
    folder = args.work_dir / f"{k}shot_seed{seed}"
    images = {arm: folder / arm.replace(" ", "_") for arm in ARMS}
    sets = {"dreambooth": images["dreambooth"] / f"fold{FOLD}" / "synthetic"}
    sets |= {arm: images[arm] for arm in ARMS[1:]}
    if not sets["dreambooth"].is_dir():
        dreambooth(images["dreambooth"], k, seed, dataset, args)
    if not sets["true people"].is_dir():
        true_people(sets["true people"], seed, names, args)
    if not sets["augmentation"].is_dir():
        augmented(sets["augmentation"], k, seed, dataset, args)
    classify(folder / "alone", k, seed, dataset, args)
    for arm in ARMS:
        for top_n in numbers(args, arm):
            mix = ("--synthetic_dataset", sets[arm], "--synthetic_top_n", top_n)
            classify(folder / f"with_{arm.replace(' ', '_')}_{top_n}", k, seed, dataset, args, *mix)


def numbers(args: argparse.Namespace, arm: str) -> list[int]:
    """How many synthetic images to train with, in all; DreamBooth's arm gets smaller numbers too, for its curve."""
    fewer = [n for n in (2, 4) if n < args.num_images and arm == "dreambooth"]
    return [args.num_conditions * n for n in (*fewer, args.num_images)]


def report(args: argparse.Namespace) -> None:
    """Print the paired differences over the seeds, and write them to gain.json."""
    differences = []
    for k in args.k_shots:
        folders = [args.work_dir / f"{k}shot_seed{seed}" for seed in args.seeds]
        alone = prediction_files.read_predictions([folder / "alone" for folder in folders])
        for arm in ARMS:
            for n in numbers(args, arm):
                named = [folder / f"with_{arm.replace(' ', '_')}_{n}" for folder in folders]
                compared = run_scores.compare(alone, prediction_files.read_predictions(named))
                scores = {name: compared["metrics"][name] for name in ("top1", "top5") if name in compared["metrics"]}
                differences.append({"k_shot": k, "arm": arm, "images": n, "n_test": compared["n_test"]} | scores)
                top1 = scores["top1"]
                print(
                    f"SIMULATED, {k}-shot, {n:4d} images, {arm:<13} top-1 {100 * top1['a']:5.1f} -> "
                    f"{100 * top1['b']:5.1f} %, {100 * top1['difference']:+5.1f} [{100 * top1['low']:+.1f}, "
                    f"{100 * top1['high']:+.1f}], p {top1['p_value']:.4f}, n {compared['n_test']}, seeds {args.seeds}"
                )
    write_json(args.work_dir / "gain.json", {"simulated": True, "differences": differences})


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--work_dir", type=Path, required=True, help="folder for corpus, adapters, images and predictions")
    add("--base", type=Path, default=ROOT / "demo_models" / "diffusion", help="the diffusion pipeline")
    add("--num_conditions", type=int, default=30, help="conditions, drawn from the study's 103")
    add("--num_photographs", type=int, default=600, help="photographs of the corpus, a fifth of which is tested")
    add("--k_shots", type=int, nargs="+", default=[1, 2], help="photographs per condition to train on")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of support sets, adapters and images")
    add("--num_images", type=int, default=12, help="synthetic images per condition")
    add("--max_train_steps", type=int, default=200, help="training steps of each adapter")
    add("--learning_rate", type=float, default=3e-3, help="learning rate of the adapters")
    add("--rank", type=int, default=8, help="rank of the adapters")
    add(
        "--tuning",
        action="store_true",
        help="take conditions and people that the study does not, to choose settings on",
    )
    add("--report", action="store_true", help="only print the results of finished runs")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    dataset = build_corpus(args)
    for seed in [] if args.report else tqdm(args.seeds, desc="seeds"):
        for k in args.k_shots:
            run(k, seed, dataset, args)
    report(args)


if __name__ == "__main__":
    main(parse_args())
