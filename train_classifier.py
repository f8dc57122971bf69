"""Cross-validated supervised benchmark: a classifier for every fold and seed, predictions of every held-out image.

    accelerate launch train_classifier.py --dataset_name ./rdface --backbone densenet169 \\
        --recipe finetune --protocol paper --seed 0 1 2 --output_dir runs/densenet169

Recipes: finetune (the paper's), linear_probe (discriminant analysis on frozen features), lora (attention only). Each
process takes folds of its own, so the results do not depend on the number of processes. With --synthetic_dataset the
training sides gain synthetic images, each of which was made from that training side alone. Writes predictions.parquet
(probabilities of each held-out image), results.json (the scores of that file), per_class.csv, confusion.csv,
run.json, a model for each fold, and, unless the recipe is linear_probe, learning_curves.csv and .png. Also runs as
plain `python train_classifier.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from classification.recipes import LAST_LEARNING_RATE, LEARNING_RATES, RECIPES, USES
from classification.study_options import A_BACKBONE, add_computing, add_fold, add_input, add_knowledge
from curation import protocols
from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.common_options import add_dataset, add_output
from harness.counts import counted
from harness.errors import InputError
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.protocol_names import PROTOCOLS
from harness.run_folder import finish_output, prepare_output, run_record

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from accelerate import Accelerator

    from classification.backbones import Backbone
    from classification.fold_run import Plan
    from classification.knowledge import Knowledge
    from classification.study_inputs import Job, Study
    from generation.synthetic_mix import SyntheticMix

STOPPED = RESUMED

MAX_RESOLUTION = 2048  # px
TRACKERS = ("aim", "tensorboard", "wandb", "trackio", "comet_ml", "mlflow", "clearml", "dvclive", "swanlab")
PAPER_EPOCHS = 50
PACKAGES = ("torch", "torchvision", "timm", "peft", "datasets", "huggingface_hub", "accelerate", "numpy")
# Made from the folds at the end of a run.
RESULTS = ("predictions.parquet", "results.json", "run.json", "per_class.csv", "confusion.csv", "learning_curves.csv")
RESULTS += ("learning_curves.png", "corruptions.json", "heat_maps.png", "README.md")
TOO_LONG = ("learning_curve", "train_image_ids")  # in each fold.json, but not in run.json
# What may differ between a run and its continuation, because it changes no prediction.
FREE_SETTINGS = ("output_dir", "resume_from_checkpoint", "checkpointing_epochs", "cache_dir", "report_to", "explain")
FREE_SETTINGS += ("push_to_hub", "hub_model_id", "hub_token", "eval_batch_size", "seed", "fold")
# Settings outside the digest that tells experiments apart: digests of their content are in it, or they change nothing.
OUTSIDE_DIGEST = ("dataset_name", "backbone", "backbone_weights", "synthetic_dataset", "save_models", "corruptions")
OUTSIDE_DIGEST += ("term_table", "reader_dataset")


# --------------------------------------------------------------------------------------------------------- arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_dataset(add)
    add("--backbone", type=dataset_argument, required=True, help=A_BACKBONE)
    add("--backbone_weights", type=path_argument, help=".safetensors or .pth file to read instead of downloading")
    add_input(add)
    add("--recipe", choices=RECIPES, default="linear_probe", help="how a classifier is made; finetune: as in the paper")
    add("--protocol", choices=PROTOCOLS, default="strict", help="which of the dataset's folds")
    add_fold(add)
    text = "train on K images per condition, drawn by seed; 0: leave conditions out whole, five groups in turn, and "
    add("--k_shot", type=int, metavar="K", help=text + "know them by --knowledge alone (default: all images)")
    text = "with --k_shot 0: the conditions of a single group that is left out (default: five groups of all conditions)"
    add("--left_out", nargs="+", default=[], metavar="ABBR", help=text)
    text = "folders (or ORG/NAME) of further, synthetic training images, each made from its fold's training side"
    add("--synthetic_dataset", type=dataset_argument, nargs="+", metavar="DIR", help=text)
    text = "synthetic images per fold: those of highest phenotype_probability, or without it, and under paper, of"
    text += " highest cosine; if they have no score, a draw by seed (default: all)"
    add("--synthetic_top_n", type=int, metavar="N", help=text)
    text = "for what they count. terms: they teach what the terms in their prompts look like; prior: their "
    text += "mean draws that of their condition; data: each is a photograph (default: terms if made from words, else "
    add("--synthetic_as", choices=USES, help=text + "prior, in a linear probe under strict; data elsewhere)")
    add_knowledge(add, "a linear_probe draws class means")
    text = "know the person on a training photograph by the terms recorded for it (column hpo_ids), if there are any, "
    add("--recorded_terms", action="store_true", help=text + "instead of by the terms annotated for the condition")
    text = "datasets of further people with recorded or annotated terms, who teach how terms look"
    add("--reader_dataset", type=dataset_argument, nargs="+", default=[], metavar="DIR", help=text)
    text = "one or more, for initial weights, order, dropout and k-shot draws, not for the folds (default: 0)"
    add("--seed", "--seeds", type=int, nargs="+", default=[0], help=text)
    add("--num_train_epochs", type=int, default=PAPER_EPOCHS, help="for finetune and lora")
    add("--train_batch_size", type=int, default=32, help="images per step; each process trains its own folds")
    defaults = ", ".join(f"{rate} for {recipe}" for recipe, rate in LEARNING_RATES.items())
    text = f"at the start; it falls to {LAST_LEARNING_RATE} along a cosine (default: {defaults})"
    add("--learning_rate", type=float, help=text)
    text = "gentle: small crops, rotations, mirroring and changes of light (imaging/augmentations.py)"
    add("--augmentation", choices=("none", "gentle"), default="none", help=text)
    add_computing(add)
    text = "also score the test side under blur, noise, JPEG, darkness, grey and occlusion"
    add("--corruptions", action="store_true", help=text)
    add("--explain", nargs="+", default=[], metavar="IMAGE_ID", help="held-out images for which to draw heat maps")
    add(
        "--shuffle_labels",
        action="store_true",
        help="as a control, permute the labels: results must not be above chance",
    )
    add_output(add)
    add("--save_models", action=argparse.BooleanOptionalAction, default=True, help="keep the classifier of each fold")
    add("--checkpointing_epochs", type=int, default=10, help="epochs between checkpoints in a fold; 0: no checkpoints")
    text = "tracker for the folds of the main process; learning_curves.csv has all folds"
    add("--report_to", choices=("none", *TRACKERS), default="none", help=text)
    add("--push_to_hub", action="store_true", help="upload models, scores and card to a private repository")
    add("--hub_model_id", help="ORG/NAME (default: the name of --output_dir, under your account)")
    add("--hub_token", help="(default: HF_TOKEN or the login)")
    args = parser.parse_args(argv)
    check_args(parser, args)
    args.learning_rate = args.learning_rate or LEARNING_RATES.get(args.recipe)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with one line if values are out of range or flags do not go together."""
    for flag in ("eval_batch_size", "resolution", "num_train_epochs", "synthetic_top_n"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    if (args.k_shot or 0) < 0:
        parser.error("--k_shot must not be negative")
    if (args.resolution or 0) > MAX_RESOLUTION:
        parser.error(f"--resolution must be at most {MAX_RESOLUTION}")
    for flag in ("dataset_name", "backbone", "output_dir"):
        if str(getattr(args, flag)) in ("", "."):
            parser.error(f"--{flag} must name a folder other than the current one")
    if args.checkpointing_epochs < 0:
        parser.error("--checkpointing_epochs must not be negative")
    if args.train_batch_size < 2:
        parser.error("--train_batch_size must be at least 2, for batch norm")
    if min(args.seed) < 0 or len(set(args.seed)) < len(args.seed):
        parser.error("--seed: seeds must be different and not negative")
    if args.learning_rate is not None and not args.learning_rate > 0:
        parser.error("--learning_rate must be positive")
    if args.recipe == "linear_probe" and (args.learning_rate or args.augmentation != "none"):
        parser.error("--learning_rate and --augmentation require --recipe finetune or lora")
    if args.synthetic_top_n and not args.synthetic_dataset:
        parser.error("--synthetic_top_n requires --synthetic_dataset; name the folder of the synthetic images")
    if args.synthetic_dataset and args.shuffle_labels:
        parser.error("--shuffle_labels excludes --synthetic_dataset, whose images show their true conditions")
    if args.synthetic_dataset and args.k_shot and args.protocol == "paper":
        parser.error("--k_shot with --synthetic_dataset requires --protocol strict: under paper one generator sees all")
    if args.knowledge == "terms" and args.recipe != "linear_probe":
        parser.error("--knowledge terms requires --recipe linear_probe")
    if args.reader_dataset and args.knowledge == "none":
        parser.error("--reader_dataset requires --knowledge terms")
    if args.recorded_terms and args.knowledge == "none":
        parser.error("--recorded_terms requires --knowledge terms")
    if args.recorded_terms and args.shuffle_labels:
        parser.error(
            "--recorded_terms cannot be used with --shuffle_labels, as the recorded terms of a face tell its condition"
        )
    if args.term_table and args.knowledge == "none" and not args.synthetic_dataset:
        parser.error("--term_table requires --knowledge terms, or images made from words with --synthetic_dataset")
    if args.synthetic_as and not args.synthetic_dataset:
        parser.error("--synthetic_as requires --synthetic_dataset; name the folder of the synthetic images")
    if args.synthetic_as in ("terms", "prior") and (args.recipe, args.protocol) != ("linear_probe", "strict"):
        parser.error(f"--synthetic_as {args.synthetic_as} requires --recipe linear_probe and --protocol strict")
    if args.k_shot == 0 and (args.recipe, args.protocol) != ("linear_probe", "strict"):
        parser.error("--k_shot 0 requires --recipe linear_probe and --protocol strict")
    if args.k_shot == 0 and args.knowledge == "none":
        parser.error("--k_shot 0 requires --knowledge terms")
    if args.k_shot == 0 and args.synthetic_dataset:
        parser.error("--k_shot 0 excludes --synthetic_dataset, whose images were made for other folds than these")
    if args.k_shot == 0 and args.shuffle_labels:
        parser.error("--k_shot 0 excludes --shuffle_labels: a condition left out would be seen under another's name")
    if args.left_out and args.k_shot != 0:
        parser.error("--left_out requires --k_shot 0")
    for flag in ("explain", "push_to_hub"):
        if getattr(args, flag) and not args.save_models:
            parser.error(f"--{flag} needs the saved models; leave out --no-save_models")


def recipe_name(args: argparse.Namespace, mix: SyntheticMix | None, knowledge: Knowledge | None) -> str:
    """The recipe with all that makes it a different one; predictions of different recipes are never averaged."""
    alignment = {None: None, "none": "whole images"}.get(args.align_faces, f"faces aligned by {args.align_faces}")
    parts = [
        args.recipe,
        f"{args.k_shot}-shot" if args.k_shot is not None else None,
        f"{len(args.left_out)} conditions left out" if args.left_out else None,
        "gentle augmentation" if args.augmentation == "gentle" else None,
        f"{args.resolution} px" if args.resolution else None,
        alignment,
        "shuffled labels" if args.shuffle_labels else None,
        mix.name() if mix else None,
        f"as {args.synthetic_as}" if mix and args.synthetic_as != "data" else None,
        knowledge.name() if knowledge else None,
    ]
    return ", ".join(part for part in parts if part)


def backbone_name(args: argparse.Namespace) -> str:
    """--backbone as given, but only the last part of an absolute path: predictions and models may be published."""
    return Path(args.backbone).name if Path(args.backbone).is_absolute() else args.backbone


def settings_of(args: argparse.Namespace, digests: dict) -> dict:
    """Everything that predictions depend on, as settings.json holds it: arguments, and digests of what they name."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    settings["image_size"] = settings.pop("resolution")  # the name that runs in progress know
    settings |= digests | {"seed_of_labels": args.seed[0] if args.shuffle_labels else None}
    return json.loads(json.dumps(settings, default=str))


def settings_digest(settings: dict, k_shot: int | None) -> str:
    """16 hexadecimal digits by which predictions of one experiment are known, whatever its seeds and folds."""
    same = {name: value for name, value in settings.items() if name not in OUTSIDE_DIGEST}
    before_flags = {"synthetic_top_n": None, "knowledge": "none", "left_out": [], "synthetic_as": "data"}
    before_flags |= {"recorded_terms": False}
    for flag, before in before_flags.items():
        if same[flag] in (before, None):  # so that runs from before this flag can be continued
            del same[flag]
    if k_shot:  # each seed has a generator of its own, which saw only that seed's support sets
        same.pop("synthetic_fingerprints", None)
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


# -------------------------------------------------------------------------------------------------------------- run
# Whatever needs torch or datasets is imported within the functions below: --help and refusals must not wait for it.


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    for name in (args.dataset_name, *args.reader_dataset):
        check_name(name, "build it with rdface_dataset.py")
    for name in args.synthetic_dataset or ():
        check_name(name, "make it with a generator's script, such as train_dreambooth.py")
    weights = args.backbone_weights or args.backbone
    work_offline_if_unreachable([args.dataset_name, *(args.synthetic_dataset or ()), *args.reader_dataset, weights])
    accelerator = open_processes(args)

    from datasets import disable_progress_bars

    from classification.fold_run import run_fold, spare_what_is_there
    from classification.run_results import input_settings, network_input
    from classification.study_inputs import Job, extract_features, open_study, rows_of, warnings_about
    from generation.synthetic_uses import use_of_images, uses_of_images
    from harness.launched_processes import in_main_process, wait_for_files
    from harness.weights_digest import weights_sha256

    # ---- data, folds and backbone: nothing slow happens before everything that can be refused has been
    images, labels, folds, mix = open_data(accelerator, args)
    use = use_of_images(mix, args.synthetic_as, args.recipe) if mix else None
    args.synthetic_as = " and ".join(name for name in USES if name in use) if mix else None
    needs_terms = args.knowledge == "terms" or (mix is not None and "terms" in use)
    knowledge = open_terms(accelerator, images, args) if needs_terms else None
    uses = uses_of_images(mix, use, knowledge.terms if knowledge else []) if mix else None
    jobs = [
        Job(seed, fold, args.output_dir / "folds" / f"seed{seed}_fold{fold.number}")
        for seed in args.seed
        for fold in training_sides(folds, images, labels, mix, seed, args.k_shot)
    ]
    if knowledge:
        knowledge.refuse_own_photographs([job.fold for job in jobs], images)
        knowledge.refuse_left_out([job.fold for job in jobs], images)
    backbone = open_backbone(accelerator, images, jobs, args)

    # ---- the study, and what is left to do of it
    digests = {"fingerprint": images._fingerprint, "backbone_sha256": weights_sha256(backbone.network)}
    digests |= input_settings([network_input(backbone)])
    digests |= {"synthetic_fingerprints": mix.fingerprints} if mix else {}
    digests |= knowledge.identity() if knowledge else {}
    settings = settings_of(args, digests | {"mixed_precision": accelerator.mixed_precision})  # or the launcher's
    run = (args.output_dir, settings, "folds", RESULTS, bool(args.resume_from_checkpoint), "train_classifier.py")
    in_main_process(accelerator, lambda: prepare_output(*run))
    names = {"backbone": backbone_name(args), "recipe": recipe_name(args, mix, knowledge)}
    study = open_study(images, labels, backbone, names, settings_digest(settings, args.k_shot))
    if mix:
        study.append_synthetic(mix.as_predicted(), mix.as_guarded())
        study.uses = uses
    study.knowledge = knowledge
    finished = in_main_process(accelerator, lambda: [study.is_finished(job) for job in jobs])  # so that all agree
    pending = [job for job, is_finished in zip(jobs, finished, strict=True) if not is_finished]
    accelerator.print(summary(accelerator, study, folds, len(jobs) - len(pending), args))
    study.warnings = warnings_about(backbone, names["backbone"], images) + (uses.warnings() if uses else [])
    for warning in study.warnings:
        accelerator.print(f"WARNING: {warning}")
    if mix:
        accelerator.print(mix.summary())
    if knowledge:
        accelerator.print(knowledge.summary())
    accelerator.init_trackers("rdface", {name: str(value) for name, value in vars(args).items() if name != "hub_token"})

    # ---- pixels and features, each computed once
    spare_what_is_there()
    study.decode(accelerator, args.cache_dir, mix.parts if mix else (), args.corruptions)
    if mix:
        mix.refuse_copies([job.fold for job in jobs], study.guarded, study.pixels.records)
    if knowledge and knowledge.readers:
        knowledge.read(accelerator, backbone, args.cache_dir, args.eval_batch_size)
        knowledge.refuse_held_out([job.fold for job in jobs], study.guarded, study.records)
    if args.recipe == "linear_probe":
        study.features = extract_features(accelerator, study, rows_of(study, jobs), args.eval_batch_size)
    disable_progress_bars()  # of `datasets`: the files written from here on take a moment

    # ---- every fold of every seed
    for job in pending[accelerator.process_index :: accelerator.num_processes]:
        run_fold(accelerator, study, job, plan_of(args), mix.notes(job.fold) if mix else {})
    accelerator.wait_for_everyone()

    # ---- results
    if accelerator.is_main_process:
        wait_for_files([job.folder / "predictions.parquet" for job in jobs])
        record = {"synthetic": mix.record() if mix else None, "backbone_sha256": digests["backbone_sha256"]}
        finish(accelerator, study, jobs, record, started, args)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def open_processes(args: argparse.Namespace) -> Accelerator:
    """The accelerator, once --report_to and --output_dir have been found usable in all processes."""
    from harness.launched_processes import check_output_dir, open_accelerator

    log_with = None if args.report_to == "none" else args.report_to
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no supported trackers")  # refused below
        accelerator = open_accelerator(args.mixed_precision, log_with=log_with, project_dir=args.output_dir)
    if log_with and not accelerator.log_with:
        raise InputError(f"--report_to {log_with}: it is not installed; pip install {log_with}, or --report_to none")
    places = (args.output_dir, [args.dataset_name, *(args.synthetic_dataset or ())], args.cache_dir)
    check_output_dir(accelerator, *places)
    return accelerator


def open_data(
    accelerator: Accelerator, args: argparse.Namespace
) -> tuple[datasets.Dataset, np.ndarray, list[protocols.Fold], SyntheticMix | None]:
    """The photographs, their labels (n,), the folds asked for, and the synthetic images, if any."""
    import numpy as np

    from classification.study_inputs import open_folds
    from curation.opening import load_images
    from generation.synthetic_mix import open_mix

    with accelerator.main_process_first():  # the first process fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    folds = open_folds(images, args.protocol, args.fold, args.explain, args.left_out if args.k_shot == 0 else None)
    mix = None
    if args.synthetic_dataset:
        with accelerator.main_process_first():
            mix = open_mix(args.synthetic_dataset, args.synthetic_top_n, images, args.protocol)
    labels = np.array(images["label"][:])
    # Permuted over all images, before fitting and scoring: only the link of face and condition is cut. Top-30 is then
    # a little below chance, because holding an image out leaves its own condition one image less to learn from; the log
    # loss is above it, since folds made for the true labels leave some conditions nothing to learn from.
    if args.shuffle_labels:
        labels = np.random.default_rng(args.seed[0]).permutation(labels)
    return images, labels, folds, mix


def open_terms(accelerator: Accelerator, images: datasets.Dataset, args: argparse.Namespace) -> Knowledge:
    """What is annotated of the dataset's conditions, and the further people who teach how terms look."""
    from classification.knowledge import open_knowledge, person_profiles

    with accelerator.main_process_first():
        knowledge = open_knowledge(images, args.term_table, args.reader_dataset)
    knowledge.teaches_photographs = args.knowledge == "terms"
    if args.recorded_terms:
        if not any(images["hpo_ids"][:] if "hpo_ids" in images.column_names else ()):
            knowledge.remarks.append("WARNING: no photograph has recorded terms (hpo_ids): --recorded_terms is in vain")
        knowledge.recorded = person_profiles(images, knowledge.profiles, knowledge.terms)
    return knowledge


def training_sides(
    folds: list[protocols.Fold],
    images: datasets.Dataset,
    labels: np.ndarray,
    mix: SyntheticMix | None,
    seed: int,
    k_shot: int | None,
) -> list[protocols.Fold]:
    """The folds as they are trained for a seed: reduced to support sets, extended by admissible synthetic images.

    Raises LeakError, before anything is decoded, for a synthetic image that must not be trained on."""
    if k_shot:
        folds = [protocols.k_shot(fold, labels.tolist(), k_shot, seed) for fold in folds]
    return mix.extend(folds, images, seed) if mix else folds


def open_backbone(
    accelerator: Accelerator, images: datasets.Dataset, jobs: Sequence[Job], args: argparse.Namespace
) -> Backbone:
    """The backbone, once it is known to suit the recipe and to have learnt from no held-out photograph.

    If there will be an upload, access to the Hub is checked before: this takes a moment, the weights may take long."""
    from classification.backbones import load_backbone
    from classification.fold_run import check_network
    from classification.study_inputs import refuse_backbone_that_saw_held_out
    from publishing import model_upload

    if args.push_to_hub:
        args.hub_model_id = model_upload.check_access(args.hub_model_id or args.output_dir.name, args.hub_token)
    with accelerator.main_process_first():
        source = (args.backbone, args.backbone_weights, args.resolution)
        backbone = load_backbone(*source, paper_input=args.recipe == "finetune")
    refuse_backbone_that_saw_held_out(backbone, backbone_name(args), images, [job.fold for job in jobs])
    if args.align_faces:
        backbone.face_alignment = None if args.align_faces == "none" else args.align_faces
    check_network(backbone, images.features["label"].num_classes, args.recipe, args.backbone)
    return backbone


def plan_of(args: argparse.Namespace) -> Plan:
    """What is done in every fold."""
    from classification.fine_tuning import Settings
    from classification.fold_run import Plan

    names = ("learning_rate", "num_train_epochs", "train_batch_size", "eval_batch_size", "augmentation")
    settings = {name: getattr(args, name) for name in (*names, "checkpointing_epochs")}
    fine_tuning = None if args.recipe == "linear_probe" else Settings(**settings)
    return Plan(args.recipe, args.backbone, tuple(args.seed), args.eval_batch_size, args.save_models, fine_tuning)


def summary(
    accelerator: Accelerator, study: Study, folds: list[protocols.Fold], n_done: int, args: argparse.Namespace
) -> str:
    """What this run is about to do, so that the user sees at once whether it is the run that was meant."""
    images, backbone = study.images, study.backbone
    aligned = f"faces aligned by {backbone.face_alignment}" if backbone.face_alignment else "whole images"
    place = "folder" if Path(args.dataset_name).is_dir() else "Hub"
    simulated = "SIMULATED, " if study.is_simulated else ""
    said = (f"{args.resolution} px", aligned)  # the recipe's name repeats them if they were asked for
    recipe = ", ".join(part for part in study.names["recipe"].split(", ") if part not in said)
    lines = [
        f"{args.dataset_name} ({simulated}{place}, config {images.config_name}, "
        f"fingerprint {images._fingerprint}): {counted(len(images), 'image')}, "
        f"{counted(study.label.num_classes, 'class', 'classes')}",
        f"{args.backbone} at {backbone.image_size} px, {aligned}, {recipe}, protocol {args.protocol}, "
        f"{counted(len(folds), 'fold')} x {counted(len(args.seed), 'seed')} ({n_done} done before), "
        f"{counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device}, "
        f"{accelerator.mixed_precision} mixed precision",
    ]
    if args.k_shot:
        labels = images["label"][:]
        largest = max(max(Counter(labels[row] for row in fold.train.tolist()).values()) for fold in folds)
        if args.k_shot > largest:
            lines.append(f"--k_shot {args.k_shot}: all photographs train, since no condition has more than {largest}")
    if straddling := protocols.straddling(folds, images["group_id"][:]):
        lines.append(f"protocol {args.protocol}: {straddling} test images share a patient or copy with training")
    return "\n".join(lines)


def finish(
    accelerator: Accelerator, study: Study, jobs: list[Job], record: dict, started: float, args: argparse.Namespace
) -> None:
    """Write and print the results of all folds, write the record of the run, and upload if asked for."""
    from classification import heat_maps, run_results
    from imaging import augmentations
    from publishing import model_upload
    from scoring.knowledge_use import use_of_knowledge
    from scoring.score_tables import format_table

    folders = [job.folder for job in jobs]
    scores = run_results.save_results(args.output_dir, folders, study.label)
    folds = run_results.save_learning_curves(args.output_dir, folders)
    table = format_table(scores)
    print(table)
    if study.corrupted:
        missed = {which: float(pixels.faces_missed.mean()) for which, pixels in study.corrupted.items()}
        print(run_results.save_corruption_scores(args.output_dir, folders, study.label, missed))
    if args.explain:
        of_one_seed = jobs[: len(jobs) // len(args.seed)]
        heat_maps.explain_held_out(accelerator, study, of_one_seed, args.explain, args.output_dir / "heat_maps.png")
    all_folds_and_epochs = args.fold is None and args.num_train_epochs == PAPER_EPOCHS
    if comparison := run_results.paper_comparison(study.images, args.backbone, scores, all_folds_and_epochs):
        print(comparison)
    record |= run_record(vars(args), PACKAGES, started) | study.record(accelerator)
    record |= {"seeds": args.seed, "augmentation": augmentations.AMOUNTS if args.augmentation == "gentle" else None}
    record["folds"] = [{name: fold[name] for name in fold if name not in TOO_LONG} for fold in folds]
    if said := use_of_knowledge(folds):
        print(said)
    finish_output(args.output_dir, record)
    written = [name for name in RESULTS if (args.output_dir / name).is_file()]
    print(f"written: {args.output_dir}: " + ", ".join([*written, *["folds/*/model"] * args.save_models]))
    if args.push_to_hub:
        facts = [
            f"{counted(len(study.images), 'image')}, {counted(study.label.num_classes, 'condition')}",
            f"recipe {scores['recipe']}",
        ]
        card = model_upload.model_card("RDFace classifier", study.names["backbone"], facts, table, study.is_simulated)
        print(f"uploaded: {model_upload.push(args.output_dir, args.hub_model_id, args.hub_token, card)} (private)")


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
