"""Cross-validated supervised benchmark: a classifier for every fold and seed, predictions of every held-out image.

    accelerate launch train_classifier.py --dataset_name ./rdface --backbone densenet169 \\
        --recipe finetune --protocol paper --seeds 0 1 2 --output_dir runs/densenet169

Recipes: finetune (the paper's), linear_probe (discriminant analysis on frozen features), lora (attention only). Each
process takes folds of its own, so the results do not depend on how many there are. With --synthetic_dataset the
training sides gain synthetic images, each of which was made from that training side. Writes predictions.parquet
(probabilities of each held-out image), results.json (metrics.py's scores of that file), per_class.csv, confusion.csv,
learning_curves.csv and .png, run.json, and a model for each fold. Also runs as plain `python train_classifier.py`.
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import LoggerType, set_seed
from tqdm import tqdm

from classification import heat_maps
from classification import run_results as results
from classification.backbones import PAPER_BACKBONES, Backbone, load_backbone, normalise, read_seen_photographs
from classification.classifiers import (
    build_classifier,
    load_classifier,
    probe_features,
    probe_forward,
    read_config,
    save_classifier,
    weights_name,
)
from classification.fine_tuning import LAST_LEARNING_RATE, fit, predict
from classification.linear_probe import fit_linear_probe
from curation import protocols
from curation.guard import Guard, check_fold, columns_for_guard
from curation.opening import guarded_columns, is_simulated, load_images, photograph_sha256
from generation.synthetic_mix import SyntheticMix, open_mix
from harness import protocol_names
from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.errors import InputError
from harness.files import write_json
from harness.processes import check_output_dir, device_name, in_main_process, open_accelerator, wait_for_files
from harness.run_folder import prepare_output, run_record
from harness.seeds import derived_seed
from harness.weights import weights_sha256
from imaging import augmentations, corruptions, faces, near_duplicates
from imaging.pixel_cache import Pixels, cached_pixels, default_cache_dir, join
from publishing import model_upload
from scoring import metrics

STOPPED = RESUMED

MAX_IMAGE_SIZE = 2048  # px
RECIPES = ("finetune", "linear_probe", "lora")
LEARNING_RATES = {"finetune": 1e-4, "lora": 1e-3, "linear_probe": None}  # the paper's; low-rank updates want more
PACKAGES = ("torch", "torchvision", "timm", "peft", "datasets", "huggingface_hub", "accelerate", "numpy")
# Made of the folds at the end of a run.
RESULTS = ("predictions.parquet", "results.json", "run.json", "per_class.csv", "confusion.csv", "learning_curves.csv")
RESULTS += ("learning_curves.png", "corruptions.json", "heat_maps.png", "README.md")
IN_FOLDERS = ("learning_curve", "train_image_ids")  # of a fold's notes: too long for run.json
# What may differ between a run and the one it goes on from: none of it changes a prediction.
FREE_SETTINGS = ("output_dir", "resume_from_checkpoint", "checkpointing_epochs", "cache_dir", "report_to", "explain")
FREE_SETTINGS += ("push_to_hub", "hub_model_id", "hub_token", "eval_batch_size", "seeds", "fold")
# Their content has digests of its own.
PLACES = ("dataset_name", "backbone", "backbone_weights", "synthetic_dataset")
EXTRAS = ("save_models", "corruptions")


# ------------------------------------------------------------------------------------------------------------- data


@dataclasses.dataclass
class Study:
    """What all folds share: the dataset's columns, its pixels, and how a network wants them.

    n rows: of the dataset, and behind them those of the synthetic images, if there are any."""

    images: datasets.Dataset  # the photographs alone
    labels: np.ndarray  # (n,)
    kept: pd.DataFrame  # (n,) what predictions.parquet says of each image
    pixels: Pixels | None  # None until they are decoded
    corrupted: dict[tuple[str, int], Pixels]  # of the photographs
    backbone: Backbone
    photographs: list[str]  # digests of the dataset's, by which they are known (built_dataset.photograph_sha256)
    settings_sha256: str = ""  # tells the predictions of different experiments apart
    features: np.ndarray | None = None  # (n, d) probe_features, for a linear probe; nan where no fold needs them
    mix: SyntheticMix | None = None

    @property
    def groups(self) -> np.ndarray:
        """(n,) the group of each image."""
        return self.kept["subject"].to_numpy()

    @functools.cached_property
    def columns(self) -> dict[str, list]:
        """What a guard looks at: the dataset's columns, and the pictures themselves, should sha256 be out of date."""
        columns = guarded_columns(self.images, self.pixels.uint8)
        behind = self.mix.as_guarded() if self.mix else {}
        return columns | {name: columns[name] + values for name, values in behind.items() if name in columns}

    @property
    def label(self) -> datasets.ClassLabel:
        return self.images.features["label"]

    def seen_photographs(self, fold: protocols.Fold) -> frozenset[str]:
        """Digests of all photographs that a model of the fold has learnt from, its backbone's included."""
        trained_on = fold.train[fold.train < len(self.photographs)].tolist()
        return self.backbone.seen_photographs.union(self.photographs[row] for row in trained_on)

    def is_finished(self, fold: protocols.Fold, seed: int, folder: Path) -> bool:
        """Whether a fold's folder holds all that this fold would leave. Raises InputError for what is another's."""
        sides = {"val": fold.val, "test": fold.test}
        finished = results.is_finished(folder, self.identity(fold, seed), self.kept, sides)
        if finished and (folder / "model" / "config.json").is_file():
            weights = folder / "model" / weights_name(read_config(folder / "model")["recipe"])
            if not weights.is_file() or read_seen_photographs(weights) != self.seen_photographs(fold):
                reason = "has learnt from other photographs than this fold's, or is not whole"
                raise InputError(f"{folder}/model {reason}; delete {folder}, the fold is then done again")
        return finished

    def identity(self, fold: protocols.Fold, seed: int) -> dict:
        """What a model is trained as, and on which pictures: kept with all that is made of it, so that nothing of
        another fold, seed, dataset or experiment is taken for it."""
        synthetic = self.mix.columns["image_id"] if self.mix else []  # each begins with a digest of its dataset
        names = [*self.photographs, *synthetic]
        trained_on = hashlib.sha256("\n".join(names[row] for row in fold.train.tolist()).encode()).hexdigest()
        of_run = {"protocol": fold.protocol, "settings": self.settings_sha256}
        return of_run | {"fold": fold.number, "seed": seed, "trained_on": trained_on}


def extract_features(accelerator: Accelerator, study: Study, numbers: np.ndarray, batch_size: int) -> np.ndarray:
    """What a linear probe sees of every image, (n, d) float32, each computed once; the same on all processes.

    numbers (r,): of the rows that are needed; the others stay nan. Raises InputError for features that are not
    finite."""
    network = study.backbone.network.to(accelerator.device, memory_format=torch.channels_last)
    network = accelerator.prepare_model(network, evaluation_mode=True)
    rows = torch.utils.data.TensorDataset(torch.from_numpy(numbers))
    loader = accelerator.prepare(torch.utils.data.DataLoader(rows, batch_size=batch_size))
    features = None
    with torch.inference_mode():
        for (batch,) in tqdm(loader, desc="features", unit="batch", disable=not accelerator.is_main_process):
            pixels = normalise(study.pixels.uint8[batch.cpu().numpy()], study.backbone, accelerator.device)
            batch, found = accelerator.gather_for_metrics((batch, probe_features(network(pixels))))
            if features is None:
                features = np.full((len(study.labels), found.shape[1]), np.nan, np.float32)
            features[batch.cpu().numpy()] = found.cpu().numpy()  # by row: what fills up the last batch changes nothing
    accelerator.free_memory()
    bad = numbers[~np.isfinite(features[numbers]).all(axis=1)]
    if len(bad):
        raise InputError(f"image {study.kept['image_id'][bad[0]]}: features are not finite; use --mixed_precision no")
    return features


# ------------------------------------------------------------------------------------------------------------ folds


def train(
    accelerator: Accelerator,
    study: Study,
    fold: protocols.Fold,
    seed: int,
    args: argparse.Namespace,
    folder: Path,
) -> tuple[torch.nn.Module, dict]:
    """A classifier of the fold's training side, ready to predict, and what is worth noting of it."""
    guard = Guard(fold, study.columns)
    n_classes = study.label.num_classes
    if args.recipe == "linear_probe":
        synthetic = fold.train >= len(study.images)
        data = (study.features, study.labels, study.groups)
        probe = fit_linear_probe(*data, fold.train[~synthetic], guard, fold.train[synthetic])
        chosen = {"shrinkage": probe.shrinkage, "temperature": probe.temperature}
        classifier = probe.classifier(study.backbone, n_classes).to(accelerator.device)
        return accelerator.prepare_model(classifier, evaluation_mode=True), chosen
    set_seed(derived_seed(seed, fold.number))  # of the head, so that a fold can be trained alone
    classifier = build_classifier(study.backbone, n_classes, args.recipe, args.backbone)
    data = (study.backbone, study.pixels, study.labels)
    checkpoint = folder / "checkpoint.pt"
    model, curve = fit(accelerator, classifier, *data, guard, seed, args, checkpoint, study.identity(fold, seed))
    return model, {"learning_curve": curve}


def run_fold(
    accelerator: Accelerator,
    study: Study,
    fold: protocols.Fold,
    seed: int,
    args: argparse.Namespace,
    folder: Path,
) -> None:
    """Train and predict one fold for one seed; its folder then holds all that the results are made of.

    predictions.parquet is written last: its presence means that the fold is done."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    model, findings = train(accelerator, study, fold, seed, args, folder)
    wall_s = round(time.monotonic() - started, 2)
    findings = study.identity(fold, seed) | {"n_train": len(fold.train), "wall_s": wall_s, **findings}
    findings |= study.mix.notes(fold) if study.mix else {}
    findings["train_image_ids"] = study.kept["image_id"].iloc[fold.train].tolist()
    if args.save_models:
        names = {"backbone": backbone_name(args), "label_names": study.label.names}
        where = {"protocol": fold.protocol, "fold": fold.number, "seed": seed}
        classifier = accelerator.unwrap_model(model)
        described = names | where | results.network_input(study.backbone)
        save_classifier(folder / "model", classifier, described, study.seen_photographs(fold))
    constants = {"protocol": args.protocol, "fold": fold.number, "seed": seed, "settings": study.settings_sha256}
    constants |= {"backbone": backbone_name(args), "recipe": recipe_name(args, study.mix)}
    for (kind, severity), pixels in study.corrupted.items():
        probabilities = predict(accelerator, model, study.backbone, pixels, fold.test, args.eval_batch_size)
        table = study.kept.iloc[fold.test].assign(split="test", probabilities=list(probabilities), **constants)
        table["recipe"] += f", {kind} {severity}"
        results.write_predictions(folder / f"corrupted_{kind}_{severity}.parquet", table, study.label)
    tables = []
    for split, rows in (("val", fold.val), ("test", fold.test)):
        if not len(rows):
            continue
        if study.features is None:
            probabilities = predict(accelerator, model, study.backbone, study.pixels, rows, args.eval_batch_size)
        else:  # known already
            probabilities = probe_probabilities(model, study.features[rows], accelerator.device)
        tables.append(study.kept.iloc[rows].assign(split=split, probabilities=list(probabilities), **constants))
    write_json(folder / "fold.json", findings)
    results.write_predictions(folder / "predictions.parquet", pd.concat(tables), study.label)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    accelerator.free_memory()


@torch.inference_mode()
def probe_probabilities(model: torch.nn.Module, features: np.ndarray, device: torch.device) -> np.ndarray:
    """What `predict` gives for images (r,) whose features (r, d) are known."""
    return model.head.logits(torch.from_numpy(features).to(device)).double().softmax(dim=1).cpu().numpy()


def backbone_name(args: argparse.Namespace) -> str:
    """As given, but of an absolute path the last part only: predictions and models may be published."""
    return Path(args.backbone).name if Path(args.backbone).is_absolute() else args.backbone


def recipe_name(args: argparse.Namespace, mix: SyntheticMix | None) -> str:
    """The recipe with what makes it another one: it keeps predictions apart that must not be averaged."""
    parts = [args.recipe, f"{args.k_shot}-shot" if args.k_shot else None]
    parts += ["gentle augmentation" if args.augmentation == "gentle" else None]
    parts += [f"{args.image_size} px" if args.image_size else None]
    parts += [{None: None, "none": "whole images"}.get(args.align_faces, f"faces aligned by {args.align_faces}")]
    parts += ["shuffled labels" if args.shuffle_labels else None]
    parts += [mix.name() if mix else None]
    return ", ".join(part for part in parts if part)


# ------------------------------------------------------------------------------------------------------------ script


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--dataset_name", type=dataset_argument, required=True, help="folder of a built dataset, or ORG/NAME on the Hub"
    )
    add("--dataset_config_name", help="real or restored; None is the dataset's default config")
    named = ", ".join(PAPER_BACKBONES)
    how = f"the paper's ({named}), a timm name, torchvision/NAME, or a folder in timm's layout"
    add("--backbone", type=dataset_argument, required=True, help=how)
    add("--backbone_weights", type=path_argument, help=".safetensors or .pth file to read instead of downloading")
    add("--image_size", type=int, help="side of the square input in px; None is the backbone's own")
    how = "detector to cut faces out with, or none for the whole image; None is as the backbone's config.json says"
    add("--align_faces", choices=[*sorted(faces.DETECTORS), "none"], help=how)
    how = "how a fold's classifier is made; finetune is the paper's"
    add("--recipe", choices=RECIPES, default="linear_probe", help=how)
    add("--protocol", choices=protocol_names.PROTOCOLS, default="strict", help="which of the dataset's folds")
    add("--fold", type=protocols.fold_number, default="all", help="all, or the number of one fold")
    add("--k_shot", type=int, help="train on this many images of each condition, drawn by seed; None is all")
    how = "folders (or ORG/NAME) of synthetic images to train on besides, each made from its fold's training side"
    add("--synthetic_dataset", type=dataset_argument, nargs="+", metavar="DIR", help=how)
    how = "synthetic images in each fold: the highest cosines, or without that column a draw by seed; None is all"
    add("--synthetic_top_n", type=int, metavar="N", help=how)
    how = "of initial weights, order, dropout and k-shot draws; the folds stay"
    add("--seeds", "--seed", type=int, nargs="+", default=[0], help=how)
    add("--num_train_epochs", type=int, default=50, help="finetune and lora")
    add("--train_batch_size", type=int, default=32, help="images in a step; each process trains folds of its own")
    how = f"at the start, then cosine to {LAST_LEARNING_RATE}; None is {LEARNING_RATES}"
    add("--learning_rate", type=float, help=how)
    how = "small crops and rotations, mirror, light; see imaging/augmentations.py"
    add("--augmentation", choices=("none", "gentle"), default="none", help=how)
    add("--mixed_precision", choices=("no", "fp16", "bf16"), help="None is as accelerate launch says")
    add("--eval_batch_size", type=int, default=32, help="images in a step of one process")
    how = "re-score the test side under blur, noise, JPEG, darkness, grey and occlusion"
    add("--corruptions", action="store_true", help=how)
    add("--explain", nargs="+", default=[], metavar="IMAGE_ID", help="held-out images to draw heat maps of")
    add("--shuffle_labels", action="store_true", help="control: labels permuted over all images; expect chance")
    how = "folder for the results; those of an earlier run are replaced"
    add("--output_dir", type=path_argument, required=True, help=how)
    how = "where decoded photographs are kept between runs"
    add("--cache_dir", type=path_argument, default=default_cache_dir(), help=how)
    add("--save_models", action=argparse.BooleanOptionalAction, default=True, help="keep each fold's classifier")
    how = "epochs between checkpoints inside a fold; 0: finished folds only"
    add("--checkpointing_epochs", type=int, default=10, help=how)
    how = "go on where the run in output_dir stopped"
    add("--resume_from_checkpoint", choices=("latest",), help=how)
    trackers = ["none", *(str(kind.value) for kind in LoggerType if kind != LoggerType.ALL)]
    add(
        "--report_to",
        choices=trackers,
        default="none",
        help="tracker of the main process's folds; learning_curves.csv has all",
    )
    add("--push_to_hub", action="store_true", help="upload models, scores and card to a private repository")
    add("--hub_model_id", help="ORG/NAME; None is the folder's name under your account")
    add("--hub_token", help="None is HF_TOKEN or the login")
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for flag in ("eval_batch_size", "image_size", "k_shot", "num_train_epochs", "synthetic_top_n"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    if (args.image_size or 0) > MAX_IMAGE_SIZE:
        parser.error(f"--image_size must be at most {MAX_IMAGE_SIZE}")
    for flag in ("dataset_name", "backbone", "output_dir"):
        if str(getattr(args, flag)) in ("", "."):
            parser.error(f"--{flag} must name a folder, not the current one")
    if args.checkpointing_epochs < 0:
        parser.error("--checkpointing_epochs must not be negative")
    if args.train_batch_size < 2:
        parser.error("--train_batch_size must be at least 2, for batch norm")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds must be different and not negative")
    if args.learning_rate is not None and not args.learning_rate > 0:
        parser.error("--learning_rate must be positive")
    if args.recipe == "linear_probe" and (args.learning_rate or args.augmentation != "none"):
        parser.error("--learning_rate and --augmentation are for --recipe finetune and lora")
    if args.synthetic_top_n and not args.synthetic_dataset:
        parser.error("--synthetic_top_n is of --synthetic_dataset; name the folder of the synthetic images")
    if args.synthetic_dataset and args.shuffle_labels:
        parser.error("--shuffle_labels is without --synthetic_dataset: its images show what their true labels say")
    if args.synthetic_dataset and args.k_shot and args.protocol == "paper":
        parser.error("--k_shot with --synthetic_dataset is for --protocol strict: under paper one generator sees all")
    for flag in ("explain", "push_to_hub"):
        if getattr(args, flag) and not args.save_models:
            parser.error(f"--{flag} needs the saved models; leave out --no-save_models")
    args.learning_rate = args.learning_rate or LEARNING_RATES[args.recipe]


def settings_of(args: argparse.Namespace, given: dict) -> dict:
    """What predictions depend on, as JSON reads it back; given: what is not among the arguments."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    settings |= given | {"seed_of_labels": args.seeds[0] if args.shuffle_labels else None}
    return json.loads(json.dumps(settings, default=str))


def open_processes(args: argparse.Namespace) -> Accelerator:
    log_with = None if args.report_to == "none" else args.report_to
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no supported trackers")  # refused below
        accelerator = open_accelerator(args.mixed_precision, log_with=log_with, project_dir=args.output_dir)
    if log_with and not accelerator.log_with:
        raise InputError(f"--report_to {log_with}: it is not installed; pip install {log_with}, or --report_to none")
    return accelerator


def open_folds(images: datasets.Dataset, args: argparse.Namespace) -> list[protocols.Fold]:
    """The folds asked for, none of which leaks, and which hold out every image to be explained."""
    folds = protocols.folds(images, args.protocol, args.fold)
    for fold in folds:
        check_fold(fold, images)
    image_ids = np.array(images["image_id"][:])
    (image_id, times), *_ = Counter(image_ids.tolist()).most_common(1)
    if times > 1:
        raise InputError(f"image_id {image_id} stands in {times} rows; build the dataset with rdface_dataset.py")
    held_out = {image_id for fold in folds for image_id in image_ids[fold.test]}
    for image_id in args.explain:
        if image_id not in held_out:
            raise InputError(f"--explain {image_id}: no image of that name is held out in these folds")
    return folds


def training_folds(
    folds: list[protocols.Fold],
    images: datasets.Dataset,
    labels: np.ndarray,
    mix: SyntheticMix | None,
    seed: int,
    args: argparse.Namespace,
) -> list[protocols.Fold]:
    """The folds as they are trained for a seed: cut down to support sets, with synthetic images that the guard admits.

    labels (n,): of the images. Raises LeakError before anything is decoded."""
    if args.k_shot:
        folds = [protocols.k_shot(fold, labels.tolist(), args.k_shot, seed) for fold in folds]
    return mix.extend(folds, images, seed) if mix else folds


def open_study(
    images: datasets.Dataset,
    labels: np.ndarray,
    mix: SyntheticMix | None,
    backbone: Backbone,
    photographs: list[str],
    settings_sha256: str,
) -> Study:
    """All but the pixels, of the photographs and the synthetic images."""
    kept = results.columns_to_keep(images, labels)
    if mix:
        labels = np.concatenate([labels, mix.labels])
        kept = pd.concat([kept, mix.as_predicted()], ignore_index=True)
    return Study(images, labels, kept, None, {}, backbone, photographs, settings_sha256, mix=mix)


def decode(accelerator: Accelerator, study: Study, args: argparse.Namespace) -> None:
    """The study's pixels, each picture decoded once."""
    images, mix, backbone = study.images, study.mix, study.backbone
    size = (backbone.image_size, backbone.face_alignment, args.cache_dir)
    pixels = cached_pixels(accelerator, images, *size, thumbnails=mix is not None)
    missed = pixels.faces_missed.sum()
    if missed:
        accelerator.print(f"no face found in {missed} of {len(images)} images: these are taken whole")
    kinds = itertools.product(corruptions.CORRUPTIONS, corruptions.SEVERITIES) if args.corruptions else ()
    study.corrupted = {kind: cached_pixels(accelerator, images, *size, kind) for kind in kinds}
    if mix:
        pixels = join([pixels, *(cached_pixels(accelerator, part, *size, thumbnails=True) for part in mix.parts)])
        missed = pixels.faces_missed[len(images) :].sum()
        if missed:
            accelerator.print(f"no face found in {missed} of {len(mix.labels)} synthetic images: these are taken whole")
    study.pixels = pixels


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    accelerator = open_processes(args)
    check_output_dir(accelerator, args.output_dir, [args.dataset_name, *(args.synthetic_dataset or ())])

    # ---- dataset, folds, backbone: nothing slow before everything that can be refused has been
    with accelerator.main_process_first():  # the first one fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    folds = open_folds(images, args)
    labels = np.array(images["label"][:])
    mix = None
    if args.synthetic_dataset:
        with accelerator.main_process_first():
            mix = open_mix(args.synthetic_dataset, args.synthetic_top_n, images, args.protocol)
    # Permuted over all images, before fitting and scoring: only the link of face and condition is cut. Top-30 then lies
    # a little below chance, because holding an image out leaves its own condition one image less to learn from; the log
    # loss lies above, since folds made for the true labels leave some conditions nothing to learn from.
    if args.shuffle_labels:
        labels = np.random.default_rng(args.seeds[0]).permutation(labels)
    folder_of = "folds/seed{}_fold{}".format
    jobs = [
        (seed, fold, args.output_dir / folder_of(seed, fold.number))
        for seed in args.seeds
        for fold in training_folds(folds, images, labels, mix, seed, args)
    ]
    if args.push_to_hub:
        args.hub_model_id = model_upload.check_access(args.hub_model_id or args.output_dir.name, args.hub_token)
    with accelerator.main_process_first():
        paper_input = args.recipe == "finetune"
        backbone = load_backbone(args.backbone, args.backbone_weights, args.image_size, paper_input=paper_input)
    photographs = photograph_sha256(images)
    for _, fold, _ in jobs if backbone.seen_photographs else ():
        fold = protocols.of_photographs(fold, len(images))
        guard = Guard(fold, {**columns_for_guard(images), "sha256": photographs})
        guard.admit_weights(backbone.seen_photographs, backbone_name(args))
    if args.align_faces:
        backbone.face_alignment = None if args.align_faces == "none" else args.align_faces
    if args.recipe == "linear_probe":  # a network that cannot be used is refused before any photograph is decoded
        probe_forward(backbone.network, backbone.image_size)
    else:
        build_classifier(backbone, images.features["label"].num_classes, args.recipe, args.backbone)
    backbone_sha256 = weights_sha256(backbone.network)
    given = {"fingerprint": images._fingerprint, "backbone_sha256": backbone_sha256}
    given |= {"synthetic_fingerprints": mix.fingerprints} if mix else {}
    settings = settings_of(args, given | {"mixed_precision": accelerator.mixed_precision})  # or the launcher's
    resume = bool(args.resume_from_checkpoint)
    in_main_process(accelerator, lambda: prepare_output(args.output_dir, settings, "folds", RESULTS, resume))

    # ---- what is to be done
    same = {name: value for name, value in settings.items() if name not in PLACES + EXTRAS}
    if same["synthetic_top_n"] is None:  # as in runs before there was this flag, so that they can be gone on with
        del same["synthetic_top_n"]
    if args.k_shot:  # each seed has a generator of its own, which saw that seed's support sets only
        same.pop("synthetic_fingerprints", None)
    settings_sha256 = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]
    study = open_study(images, labels, mix, backbone, photographs, settings_sha256)
    looked_at = ((fold, seed, folder) for seed, fold, folder in jobs)
    done = in_main_process(  # it alone looks, so that all agree
        accelerator, lambda: [study.is_finished(*job) for job in looked_at]
    )
    pending = [job for job, finished in zip(jobs, done, strict=True) if not finished]
    aligned = f"faces aligned by {backbone.face_alignment}" if backbone.face_alignment else "whole images"
    accelerator.print(
        f"{args.dataset_name} ({'folder' if Path(args.dataset_name).is_dir() else 'Hub'}, config {images.config_name}, "
        f"fingerprint {images._fingerprint}): {len(images)} images, {images.features['label'].num_classes} classes\n"
        f"{args.backbone} at {backbone.image_size} px, {aligned}, {recipe_name(args, mix)}, protocol {args.protocol}, "
        f"{len(folds)} folds x {len(args.seeds)} seeds ({len(jobs) - len(pending)} done before), "
        f"{accelerator.num_processes} processes on {accelerator.device}, {accelerator.mixed_precision} mixed precision"
    )
    straddling = protocols.straddling(folds, images["group_id"][:])
    if straddling:
        accelerator.print(f"protocol {args.protocol}: {straddling} test images share a patient or copy with training")
    if mix:
        accelerator.print(mix.summary())
    accelerator.init_trackers("rdface", {name: str(value) for name, value in vars(args).items() if name != "hub_token"})
    decode(accelerator, study, args)
    if mix:  # no image is a copy of a photograph that the training may not see
        of_photographs, *of_parts = study.pixels.thumbnails.arrays
        copies = [rows for part in of_parts for rows in near_duplicates.copies(part, of_photographs)]
        for _, fold, _ in jobs:
            mix.admit(fold, study.columns, copies)
    if args.recipe == "linear_probe":
        chosen = np.concatenate([rows for _, fold, _ in jobs for rows in (fold.train, fold.val)])
        needed = np.union1d(np.arange(len(images)), chosen)  # of the synthetic images only those in some fold
        study.features = extract_features(accelerator, study, needed, args.eval_batch_size)
    datasets.disable_progress_bars()  # the files written from here on take a moment

    # ---- every fold of every seed
    for seed, fold, folder in pending[accelerator.process_index :: accelerator.num_processes]:
        run_fold(accelerator, study, fold, seed, args, folder)
    accelerator.wait_for_everyone()

    # ---- results
    if accelerator.is_main_process:
        wait_for_files([folder / "predictions.parquet" for *_, folder in jobs])
        finish(accelerator, study, args, [folder for *_, folder in jobs], backbone_sha256, started)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def finish(
    accelerator: Accelerator,
    study: Study,
    args: argparse.Namespace,
    folders: list[Path],
    backbone_sha256: str,
    started: float,
) -> None:
    """Results of all folds, the record of the run, and what is said on screen."""
    scores = results.save_results(args.output_dir, folders, study.label)
    findings = results.save_learning_curves(args.output_dir, folders)
    table = metrics.format_table(scores)
    print(table)
    if study.corrupted:
        missed = {which: float(pixels.faces_missed.mean()) for which, pixels in study.corrupted.items()}
        print(results.save_corruption_scores(args.output_dir, folders, study.label, missed))
    if args.explain:
        explain(accelerator, study, args, folders)
    published = results.published_row(study.images, args, scores)
    if published:
        print(published)
    cuda = accelerator.device.type == "cuda"
    images = study.images
    content = run_record(args, PACKAGES, started) | {
        "dataset": {"fingerprint": images._fingerprint, "config_name": images.config_name, "n_images": len(images)},
        "seeds": args.seeds,
        "folds": [{name: fold[name] for name in fold if name not in IN_FOLDERS} for fold in findings],
        "synthetic": study.mix.record() if study.mix else None,
        "backbone_sha256": backbone_sha256,
        "input": results.network_input(study.backbone),
        "faces_missed": int(study.pixels.faces_missed[: len(images)].sum()),
        "augmentation": augmentations.AMOUNTS if args.augmentation == "gentle" else None,
        "mixed_precision": accelerator.mixed_precision,
        "device": device_name(accelerator),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(accelerator.device) if cuda else None,
        "n_processes": accelerator.num_processes,
    }
    write_json(args.output_dir / "run.json", content)
    print(f"written: {args.output_dir}: " + ", ".join(name for name in RESULTS if (args.output_dir / name).is_file()))
    if args.push_to_hub:
        facts = [f"{len(images)} images, {study.label.num_classes} conditions"]
        facts += [f"recipe {recipe_name(args, study.mix)}"]
        simulated = is_simulated(images)
        card = model_upload.model_card("RDFace classifier", backbone_name(args), facts, table, simulated)
        print(f"uploaded: {model_upload.push(args.output_dir, args.hub_model_id, args.hub_token, card)} (private)")


def explain(accelerator: Accelerator, study: Study, args: argparse.Namespace, folders: list[Path]) -> None:
    """heat_maps.png: where the model that was tested on each chosen image (of the first seed) looked."""
    rows = []
    for folder in folders[: len(folders) // len(args.seeds)]:
        tested = pd.read_parquet(folder / "predictions.parquet").query("split == 'test'").set_index("image_id")
        chosen = [image_id for image_id in args.explain if image_id in tested.index]
        if not chosen:
            continue
        classifier = load_classifier(folder / "model", study.backbone).to(accelerator.device)
        for image_id in chosen:
            row = int(np.flatnonzero(study.kept["image_id"] == image_id)[0])
            probabilities = tested.loc[image_id, "probabilities"]
            true, predicted = int(study.labels[row]), int(np.argmax(probabilities))
            pixels = normalise(study.pixels.uint8[[row, row]], study.backbone, accelerator.device)
            heat = heat_maps.heat_maps(classifier, pixels, [true, predicted])
            names = {"image_id": image_id, "true": study.label.names[true], "predicted": study.label.names[predicted]}
            sure = {"p_true": probabilities[true], "p_predicted": probabilities[predicted]}
            heat_predicted = None if true == predicted else heat[1]
            rows.append(names | sure | {"heat_true": heat[0], "heat_predicted": heat_predicted})
            rows[-1]["pixels"] = np.array(study.pixels.uint8[row])
    simulated = "SIMULATED faces, " if is_simulated(study.images) else ""
    title = f"{simulated}{backbone_name(args)}, {recipe_name(args, study.mix)}, held-out images"
    heat_maps.heat_map_sheet(rows, args.output_dir / "heat_maps.png", title)
    (args.output_dir / "heat_maps.png").chmod(0o600)  # photographs


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
