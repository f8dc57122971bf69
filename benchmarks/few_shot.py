"""Frozen features against the published few-shot recipe, and galleries, as docs/few_shot_plan.md says.

    OMP_NUM_THREADS=1 python benchmarks/few_shot.py --work_dir runs/few_shot --parts frozen gallery
    OMP_NUM_THREADS=1 python benchmarks/few_shot.py --work_dir runs/few_shot --parts trained_5way trained_10way
    OMP_NUM_THREADS=1 python benchmarks/few_shot.py --work_dir runs/few_shot --parts mobilenet_v2 \\
        longer_random_swin_t longer_random_vggface --weights mobilenet_v2=FILE
    OMP_NUM_THREADS=1 python benchmarks/few_shot.py --work_dir runs/few_shot --parts real --attributes_dir REAL \\
        --faces_dir FACES --weights squeezenet1_0=FILE mobilenet_v2=FILE --face_embedder mobilefacenet.onnx

Without the last line's arguments the data are SIMULATED. Each part leaves small JSON files in --results_dir and is not
measured again while they are there."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.episode_comparison import paired_difference
from harness.commands import Parser
from harness.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
MINIATURE = str(ROOT / "demo_models" / "backbone")
SEED, RARE_SEED, N_IMAGES = 2801, 2804, 456  # RARE_SEED: people on whom no method of the rare gallery was chosen
SHORT = ("--train_episodes", 30, "--num_train_epochs", 2)  # of MobileNetV2 at 224 px
LONGER = ("--train_episodes", 60, "--num_train_epochs", 10)  # of random weights at 64 px
KEPT = ("metrics", "heads", "methods", "chance", "n_episodes", "n_test", "n_subjects", "n_classes_tested", "recipe")


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{script} failed: {' '.join(command)}")


def simulated(work_dir: Path, seed: int = SEED) -> Path:
    """A SIMULATED corpus of the plan, built as a curator builds a dataset."""
    name = "" if seed == SEED else f"-{seed}"
    raw = work_dir / f"raw{name}"
    if not (raw / "disease_images.csv").is_file():
        size = ("--num_images", N_IMAGES, "--image_size", 256)
        run("simulate_faces.py", "--output_dir", raw, "--seed", seed, *size)
    return build(raw, work_dir / f"rdface-sim{name}")


def build(folder: Path, built: Path) -> Path:
    if not (built / "README.md").is_file():
        run("rdface_dataset.py", "build", folder, "--output_dir", built)
    return built


def measure(args: argparse.Namespace, name: str, dataset: Path, *flags: object) -> dict:
    """Results of one run of train_fewshot.py, kept in the file of this name."""
    file = args.results_dir / f"{name}.json"
    if not file.is_file():
        out = args.work_dir / "runs" / name
        places = ("--output_dir", out, "--cache_dir", args.work_dir / "pixels")
        resume = ("--resume_from_checkpoint", "latest") if (out / "settings.json").is_file() else ()
        run("train_fewshot.py", "--dataset_name", dataset, *flags, *places, *resume)
        results, record = json.loads((out / "results.json").read_text()), json.loads((out / "run.json").read_text())
        kept = {key: results[key] for key in KEPT if key in results}
        curves = [fold["learning_curve"] for fold in record["folds"] if "learning_curve" in fold]
        kept |= {"learning_curves": curves} if curves else {}
        write_json(file, kept | {"simulated": results["simulated"], "git_commit": record["git_commit"]})
    return read_json(file, "delete it, and it is measured anew")


def compared(args: argparse.Namespace, trained: str, frozen: str) -> dict:
    """How much better the frozen discriminant answers the same questions than the trained network, with its interval
    for new conditions and subjects; kept in a file of its own."""
    file = args.results_dir / f"{trained}_difference.json"
    if not file.is_file():
        tables = [pd.read_parquet(args.work_dir / "runs" / name / "episodes.parquet") for name in (trained, frozen)]
        columns = ("right_prototypes", "right_discriminant")
        asked = (table.assign(right=table[column]) for table, column in zip(tables, columns, strict=True))
        try:
            both, difference = paired_difference(*asked)
        except ValueError as error:
            raise SystemExit(f"{trained} and {frozen} {error}") from error
        found = {"frozen_minus_trained": difference["difference"], "low": difference["low"], "high": difference["high"]}
        write_json(file, found | {"n_questions": len(both), "n_conditions": int(both["label"].nunique())})
    return read_json(file, "delete it, and it is measured anew")


def random_weights(args: argparse.Namespace, name: str) -> Path:
    """A file of the network's weights as its library initialises them, seed 0."""
    file = args.work_dir / f"random_{name}.pth"
    if not file.is_file():
        import torch

        from classification.backbones import load_backbone

        torch.manual_seed(0)
        torch.save(load_backbone(name, pretrained=False).network.state_dict(), file)
    return file


def print_scores(name: str, results: dict) -> None:
    for head, score in results.get("heads", {}).items():
        print(f"{name:34}{head:24}{100 * score['mean']:6.2f}  n {results['n_episodes']} episodes")
    for method, galleries in results.get("methods", {}).items():
        for gallery, sides in galleries.items():
            for side, scores in sides.items():
                if scores["n"]:
                    means = [scores[f"top{k}"]["mean"] for k in (1, 5, 10, 30)]
                    top = " ".join(f"{'-':>6}" if mean is None else f"{100 * mean:6.2f}" for mean in means)
                    print(f"{name:34}{method:22}{gallery:9}{side:9}{top}  n {scores['n']}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="datasets, pixels and runs; kept")
    parser.add_argument("--results_dir", type=Path, default=ROOT / "benchmarks" / "results" / "few_shot")
    text = "frozen, gallery, rare_gallery (other people), real, trained_5way, trained_10way, trained_15way (by the "
    text += "paper's recipe; all folds at 5-way, fold 0 at the others), mobilenet_v2 (two epochs of 30 episodes), "
    text += "longer_random_swin_t, longer_random_vggface (ten epochs of 60)"
    parser.add_argument("--parts", nargs="+", required=True, help=text)
    parser.add_argument("--attributes_dir", type=Path, help="folder with few, a curator's folder")
    parser.add_argument("--faces_dir", type=Path, help="a curator's folder of photographs of some adults")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE", help="torchvision's networks")
    parser.add_argument("--face_embedder", type=Path, help="ONNX file of a face-recognition network")
    return parser.parse_args(argv)


def networks_of(args: argparse.Namespace) -> dict[str, tuple]:
    """Flags of each network of the real part."""
    pairs = [pair.partition("=") for pair in args.weights]
    networks = {name: ("--backbone", f"torchvision/{name}", "--backbone_weights", file) for name, _, file in pairs}
    if args.face_embedder:
        networks["face_recognition"] = ("--backbone", args.face_embedder)
    return networks


def measure_training(args: argparse.Namespace, part: str) -> dict[str, dict]:
    """A training by the paper's recipe, or a shorter one, and frozen features of the same weights, same questions."""
    network, fold, length = ("--backbone", MINIATURE), ("--fold", 0), ()
    way = 5
    if part.startswith("trained_"):
        way = int(part.removeprefix("trained_").removesuffix("way"))
        fold = () if way == 5 else fold
    elif part == "mobilenet_v2":
        network, length = (*networks_of(args)["mobilenet_v2"], "--align_faces", "none"), SHORT
    else:
        name, length = part.removeprefix("longer_random_"), LONGER
        network = ("--backbone", name, "--backbone_weights", random_weights(args, name), "--resolution", 64)
    dataset, asked = simulated(args.work_dir), ("--protocol", "paper", "--n_way", way, *fold)
    frozen = f"simulated_frozen_{part.removeprefix('trained_')}"
    found = {
        frozen: measure(args, frozen, dataset, "--mode", "frozen", *network, *asked),
        f"simulated_{part}": measure(args, f"simulated_{part}", dataset, "--mode", "train", *network, *asked, *length),
    }
    difference = compared(args, f"simulated_{part}", frozen)
    points = [100 * difference[name] for name in ("frozen_minus_trained", "low", "high")]
    print("{}: frozen minus trained {:+.1f} [{:+.1f}, {:+.1f}] points".format(part, *points))
    for curve in found[f"simulated_{part}"]["learning_curves"]:
        print("loss by epoch:", *(f"{point['loss']:.3f}" for point in curve))
    return found


def main(args: argparse.Namespace) -> None:
    args.results_dir.mkdir(parents=True, exist_ok=True)
    found = {}
    for part in args.parts:
        if part == "frozen":
            for way in (5, 10, 15):
                for protocol in ("paper", "strict"):
                    flags = ("--backbone", MINIATURE, "--protocol", protocol, "--n_way", way)
                    name = f"simulated_frozen_{protocol}_{way}way"
                    found[name] = measure(args, name, simulated(args.work_dir), "--mode", "frozen", *flags)
        elif part in ("gallery", "rare_gallery"):
            flags = ("--mode", "gallery", "--backbone", MINIATURE, "--views", 4)
            seed = SEED if part == "gallery" else RARE_SEED
            found[part] = measure(args, f"simulated_{part}", simulated(args.work_dir, seed), *flags)
        elif part.startswith(("trained_", "mobilenet", "longer_random_")):
            found |= measure_training(args, part)
        elif part == "real":
            folders = {"attributes": args.attributes_dir / "few", "faces": args.faces_dir}
            for data, folder in folders.items():
                dataset = build(folder, args.work_dir / data)
                for network, flags in networks_of(args).items():
                    for mode in ("frozen", "gallery"):
                        name = f"real_{data}_{mode}_{network}"
                        seen = ("--mode", mode, *flags, "--views", 2, "--align_faces", "mtcnn")
                        found[name] = measure(args, name, dataset, *seen)
        else:
            raise SystemExit(f"--parts {part}: unknown; see --help")
    for name, results in found.items():
        print_scores(name, results)


if __name__ == "__main__":
    main(parse_args())
