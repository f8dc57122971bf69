"""Training on synthetic faces only, with the leak of the published protocol and without: docs/synthetic_only_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/synthetic_only.py --work_dir runs/synthetic_only

Everything is SIMULATED. Half of the people of each condition train, the other half are tested, and then the other way
round. Finished generators are kept, so a stopped study continues where it was; figures go to --results_dir."""

import argparse
import csv
import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.augmentation_gain import ROOT, launch
from classification.backbones import Backbone, load_backbone
from classification.extraction import features_of
from classification.linear_probe import FALLBACK_SHRINKAGE, fit_discriminants
from curation.opening import load_images, load_synthetic
from harness.commands import Parser
from harness.files import read_json, write_json
from imaging import faces
from imaging.face_cache import CachedDetector
from imaging.pixel_cache import cached_pixels
from phenotyping import phenotypes
from scoring.intervals import bootstrap_interval
from scoring.metrics import topk_hits
from simulation import corpus, photography
from simulation.people import COUNTRY_ANCESTRY

CORPUS_SEED, DRAW_SEED = 2801, 2802
PARTS = ("A", "B", "others")  # of each condition's people, as many in each
SEEN = {"A": ("A",), "B": ("B",), "A and B": ("A", "B"), "A and others": ("A", "others")}  # generator -> its people
TESTED = {"A": "B", "B": "A"}  # training part -> tested part
ARMS = ("real only", "clean", "leak of prototypes", "leak", "as many people")
DIFFERENCES = (
    ("real only", "clean"),
    ("clean", "leak of prototypes"),
    ("clean", "leak"),
    ("clean", "as many people"),
    ("as many people", "leak"),
    ("real only", "leak"),
)


# ---- people, and what each generator may see of them


def chosen_conditions(num_conditions: int) -> list[phenotypes.Condition]:
    """Drawn from the study's conditions, which the base and the backbone do not know; and one more at the end, whose
    two people are only there because a dataset without a fold is refused."""
    study = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS]
    drawn = np.random.default_rng(DRAW_SEED).permutation(len(study))[: num_conditions + 1]
    return [study[i] for i in drawn]


def planned(args: argparse.Namespace) -> tuple[list[photography.Photograph], dict[str, str]]:
    """One photograph per person, and the part of each photograph by its image_id; "" for the condition at the end."""
    *conditions, last = chosen_conditions(args.num_conditions)
    people = [(c, part) for c in conditions for part in PARTS for _ in range(args.people_per_part)]
    people += [(last, "")] * 2
    photographs, part_of, count, countries = [], {}, {}, list(COUNTRY_ANCESTRY)
    for number, (condition, part) in enumerate(people):
        count[condition.abbr] = count.get(condition.abbr, 0) + 1
        name = f"{condition.abbr}.{count[condition.abbr]}.jpg"
        country = countries[number % len(countries)]
        photographs.append(photography.Photograph(number, name, condition, number, number, None, country))
        part_of[Path(name).stem] = part
    return photographs, part_of


def write_curators_folders(args: argparse.Namespace) -> None:
    """The folder of all photographs, and one per generator with the photographs that it sees.

    In the latter a condition's photographs are said to be of one person, so that no fold holds any of them out: this is
    how a generator comes to see photographs on which a classifier is tested later."""
    photographs, part_of = planned(args)
    raw = args.work_dir / "raw"
    raw.mkdir(parents=True)
    corpus.write_corpus(raw, photographs, image_size=256, seed=CORPUS_SEED, effect=photography.EFFECT, num_workers=1)
    with open(raw / "disease_images.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    for generator, parts in SEEN.items():
        folder = args.work_dir / f"raw of {generator}"
        folder.mkdir()
        os.symlink(raw / "rd_images", folder / "rd_images", target_is_directory=True)
        with open(folder / "disease_images.csv", "w", newline="", encoding="utf-8") as table:
            out = csv.DictWriter(table, list(rows[0]))
            out.writeheader()
            for row in rows:
                part = part_of[Path(row["image_name"]).stem]
                if part in parts:
                    out.writerow(row | {"subject_id": f"everybody with {row['disease_abbr']}"})
                elif part == "":
                    out.writerow(row)


def build(args: argparse.Namespace, folder: str) -> Path:
    """A dataset of a curator's folder, unless it exists."""
    built = args.work_dir / f"{folder}-sim".replace(" ", "_").replace("raw", "rdface")
    if not (built / "README.md").is_file():
        launch("rdface_dataset.py", "build", args.work_dir / folder, "--output_dir", built)
    return built


def generate(generator: str, args: argparse.Namespace) -> Path:
    """Adapters of what a generator may see, and images sampled from them, unless they exist."""
    folder = args.work_dir / f"images of {generator}"
    if not (folder / "run.json").is_file():
        *conditions, _ = chosen_conditions(args.num_conditions)
        flags = ["--dataset_name", build(args, f"raw of {generator}"), "--pretrained_model_name_or_path", args.base]
        flags += ["--fold", 0, "--conditions", *(condition.abbr for condition in conditions)]
        flags += ["--max_train_steps", args.max_train_steps, "--learning_rate", 3e-3, "--rank", 8]
        flags += ["--adapters_per_batch", 6, "--num_images", args.num_images, "--sample_batch_size", 24]
        flags += ["--instance_prompt", "photo of a {rare_token} child{with_terms}", "--guidance_scale", 1.5]
        flags += ["--cache_dir", args.work_dir / "pixels", "--output_dir", folder]
        if (folder / "settings.json").is_file():
            flags += ["--resume_from_checkpoint", "latest"]
        launch("train_dreambooth.py", *flags)
    return folder / "fold0" / "synthetic"


# ---- what is measured


class Pictures:
    """The photographs, or the images of a generator, as the arms need them."""

    def __init__(self, images: datasets.Dataset, backbone: Backbone, names: list[str], cache_dir: Path):
        """names: of the classes that labels number."""
        own = images.features["label"].names
        self.labels = np.array([names.index(own[label]) for label in images["label"][:]])
        accelerator = Accelerator(cpu=True)
        pixels = cached_pixels(accelerator, images, backbone.image_size, "mtcnn", cache_dir)
        self.features = features_of(accelerator, backbone, pixels.uint8, np.arange(len(self.labels)), 32)
        detector = CachedDetector(faces.load_detector("mtcnn"), cache_dir)
        found = detector.detect([row["image"] for row in images.select_columns("image")])
        self.descriptors = np.full((len(found), 25), np.nan)  # of the paper; nan without a face
        for row, face in enumerate(found):
            if face is not None:
                self.descriptors[row] = faces.landmark_descriptor(face.landmarks[None], face.box[None])[0]


def closest_to_prototypes(images: Pictures, photographs: Pictures, rows: np.ndarray, count: int) -> np.ndarray:
    """The paper's selection: the `count` images of highest landmark cosine to their class's mean, over all classes.

    rows (r,): the photographs of which the means are made. Images without a face come last."""
    cosines = np.full(len(images.labels), -np.inf)
    for label in np.unique(images.labels):
        prototype = np.nanmean(photographs.descriptors[rows[photographs.labels[rows] == label]], axis=0)
        own = images.labels == label
        lengths = np.linalg.norm(images.descriptors[own], axis=1) * np.linalg.norm(prototype)
        cosines[own] = images.descriptors[own] @ prototype / lengths
    return np.argsort(-np.nan_to_num(cosines, nan=-np.inf), kind="stable")[:count]


def hits(
    features: np.ndarray, labels: np.ndarray, photographs: Pictures, rows: np.ndarray, n_classes: int
) -> np.ndarray:
    """Whether a discriminant fitted on these features names the class of each photograph among `rows`, (r,) 0..1."""
    (probe,) = fit_discriminants(features, labels, [FALLBACK_SHRINKAGE])
    return topk_hits(probe.probabilities(photographs.features[rows], n_classes), photographs.labels[rows], 1)


def measured(args: argparse.Namespace) -> dict:
    """Top-1 of each arm on each photograph of A and B; "as many people" has no value for those of A."""
    images = load_images(str(build(args, "raw")))
    names = images.features["label"].names
    common = load_backbone(str(ROOT / "demo_models" / "backbone")), names, args.work_dir / "pixels"
    photographs = Pictures(images, *common)
    generated = {name: Pictures(load_synthetic(str(generate(name, args))), *common) for name in SEEN}
    _, part_of = planned(args)
    part = np.array([part_of[image_id] for image_id in images["image_id"][:]])
    count = round(args.kept * len(generated["A"].labels))
    right = {arm: np.full(len(part), np.nan) for arm in ARMS}
    for trained, tested in TESTED.items():
        own, test, both = (np.flatnonzero(np.isin(part, parts)) for parts in ([trained], [tested], ["A", "B"]))
        more = np.flatnonzero(np.isin(part, [trained, "others"]))
        arms = {"clean": (trained, own), "leak of prototypes": (trained, both), "leak": ("A and B", both)}
        arms |= {"as many people": ("A and others", more)} if trained == "A" else {}
        score = functools.partial(hits, photographs=photographs, rows=test, n_classes=len(names))
        right["real only"][test] = score(photographs.features[own], photographs.labels[own])
        for arm, (generator, rows) in arms.items():
            synthetic = generated[generator]
            kept = closest_to_prototypes(synthetic, photographs, rows, count)
            right[arm][test] = score(synthetic.features[kept], synthetic.labels[kept])
    return {
        "simulated": True,
        "n_classes": args.num_conditions,
        "n_people_per_part": args.people_per_part,
        "n_images_per_generator": len(generated["A"].labels),
        "n_kept": count,
        "n_without_face": {name: int(np.isnan(of.descriptors[:, 0]).sum()) for name, of in generated.items()},
        "refused_by_train_classifier": refused(args),
        "arms": {arm: mean_and_interval(values) for arm, values in right.items()},
        "differences": {f"{b} - {a}": mean_and_interval(right[b] - right[a], len(DIFFERENCES)) for a, b in DIFFERENCES},
    }


def mean_and_interval(values: np.ndarray, n_comparisons: int = 1) -> dict[str, float]:
    """Of (n,) values, one per person, without those that are nan: mean and its 95 % interval, in percent.

    n_comparisons: also gives the interval that holds for a family of so many at once (Bonferroni)."""
    values = values[np.isfinite(values)]

    def interval(level: float) -> tuple[float, float]:
        return bootstrap_interval(lambda w: w @ values / w.sum(axis=1), range(len(values)), 10_000, level=level)

    shown = dict(zip(("mean", "low", "high"), (values.mean(), *interval(0.95)), strict=True))
    if n_comparisons > 1:
        shown |= dict(zip(("family_low", "family_high"), interval(1 - 0.05 / n_comparisons), strict=True))
    return {name: round(100 * float(value), 1) for name, value in shown.items()} | {"n": len(values)}


def refused(args: argparse.Namespace) -> str:
    """What train_classifier.py says of the images that saw the tested people."""
    flags = ["--dataset_name", build(args, "raw"), "--synthetic_dataset", generate("A and B", args), "--fold", 0]
    flags += ["--backbone", ROOT / "demo_models" / "backbone", "--cache_dir", args.work_dir / "pixels"]
    command = [sys.executable, ROOT / "train_classifier.py", *flags, "--output_dir", args.work_dir / "refused"]
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
    if done.returncode != 1:
        raise SystemExit(f"train_classifier.py took images that saw held-out people (status {done.returncode})")
    return done.stderr.strip().splitlines()[-1]


def print_results(results: dict) -> None:
    for title in ("arms", "differences"):
        for name, of in results[title].items():
            sign = "+" if title == "differences" else ""
            interval = f"[{of['low']:{sign}.1f}, {of['high']:{sign}.1f}]"
            family = f"of the family [{of['family_low']:+.1f}, {of['family_high']:+.1f}]" if "family_low" in of else ""
            print(f"SIMULATED, top-1: {name:36} {of['mean']:{sign}6.1f} {interval:16} n {of['n']} {family}")
    print(f"SIMULATED, chance {100 / results['n_classes']:.1f} %; {results['refused_by_train_classifier']}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--work_dir", type=Path, required=True, help="folder for photographs, adapters and images; kept")
    results = ROOT / "benchmarks" / "results" / "synthetic_only"
    add("--results_dir", type=Path, default=results, help="folder for the figures")
    add("--base", type=Path, default=ROOT / "demo_models" / "diffusion", help="the diffusion pipeline")
    add("--num_conditions", type=int, default=12, help="conditions")
    add("--people_per_part", type=int, default=5, help="people per condition and part, one photograph each")
    add("--max_train_steps", type=int, default=200, help="training steps of the adapters, as in the demo")
    add("--num_images", type=int, default=6, help="synthetic images per condition and generator")
    add("--kept", type=float, default=0.5, help="share of them that the paper's selection keeps")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    file = args.results_dir / "simulated.json"
    args.work_dir = args.work_dir.resolve()
    if not file.is_file():
        if not (args.work_dir / "raw").is_dir():
            write_curators_folders(args)
        for generator in SEEN:
            generate(generator, args)
        args.results_dir.mkdir(parents=True, exist_ok=True)
        write_json(file, measured(args))
    print_results(read_json(file, "delete it, and the study is done again"))


if __name__ == "__main__":
    main(parse_args())
