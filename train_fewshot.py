"""Few-shot benchmark: episodes by a trained prototypical network or by frozen features, and retrieval in a gallery.

    accelerate launch train_fewshot.py --dataset_name ./rdface --backbone densenet169 \\
        --mode frozen --n_way 5 --k_shot 1 --protocol strict --output_dir runs/fewshot

Modes: train (the paper's: all weights are trained on episodes of the training conditions), frozen (each feature is
computed once, and all heads answer the same episodes), gallery (held-out photographs rank the conditions of known
ones, GestaltMatcher's way beside ours). Several --backbone are an ensemble. Writes episodes.parquet (what was drawn and
who was right), predictions.parquet, results.json and run.json. Also runs as plain `python train_fewshot.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from classification.few_shot_names import (
    FILLED_UP_TO,
    HEADS,
    KNOWING_HEAD,
    MODES,
    PAPER_EPOCHS,
    PAPER_LEARNING_RATE,
    PAPER_TEST_EPISODES,
    PAPER_TRAIN_EPISODES,
    PAPER_VAL_EPISODES,
    TRAINED_HEAD,
    TRANSDUCTIVE_HEAD,
    VIEWS,
)
from classification.recipes import PRIOR_WEIGHT
from classification.study_options import A_BACKBONE, add_computing, add_fold, add_input, add_knowledge
from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.common_options import add_dataset, add_output
from harness.counts import counted
from harness.files import write_json
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.protocol_names import PROTOCOLS
from harness.run_folder import finish_output, prepare_output, run_record

if TYPE_CHECKING:
    import datasets
    from accelerate import Accelerator

    from classification.few_shot_run import Plan
    from classification.study_inputs import Job, Study
    from curation import protocols
    from generation.synthetic_mix import SyntheticMix

STOPPED = RESUMED

PACKAGES = ("torch", "timm", "datasets", "accelerate", "faiss-cpu", "scikit-learn", "numpy")
RESULTS = ("episodes.parquet", "predictions.parquet", "results.json", "run.json")
# What may differ between a run and its continuation, because it changes no prediction.
FREE_SETTINGS = ("output_dir", "resume_from_checkpoint", "cache_dir", "eval_batch_size", "seed", "fold")
# Flags that only some modes use.
USED_BY = dict.fromkeys(("n_way", "k_shot", "test_episodes"), ("train", "frozen"))
USED_BY |= dict.fromkeys(("num_train_epochs", "train_episodes", "learning_rate"), ("train",))
USED_BY |= {"frequent_from": ("gallery",)}
# Settings outside the digest that tells experiments apart: digests of their content are in it.
OUTSIDE_DIGEST = ("dataset_name", "backbone", "backbone_weights", "synthetic_dataset", "term_table")


# --------------------------------------------------------------------------------------------------------- arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_dataset(add)
    text = f"one or several, each of them {A_BACKBONE}, or an .onnx file of a face-recognition network"
    add("--backbone", type=dataset_argument, nargs="+", required=True, help=text)
    text = "per backbone a .safetensors or .pth file to read instead of downloading, also a model.safetensors of "
    text += "train_classifier.py; own: none for this one"
    add("--backbone_weights", type=path_argument, nargs="+", default=[], metavar="FILE", help=text)
    text = "all backbones together, or those that tell training conditions apart best on inner episodes or folds"
    add("--ensemble", choices=("all", "chosen"), default="all", help=text)
    add_input(add, "none; mtcnn for an .onnx file")
    text = (
        "train: all weights on episodes of training conditions, as in the paper; frozen: features computed once, all"
        " heads answer the same episodes; gallery: held-out photographs rank the conditions of known ones"
    )
    add("--mode", choices=MODES, default="frozen", help=text)
    add("--protocol", choices=PROTOCOLS, default="strict", help="which conditions are tested, and how it is drawn")
    add_fold(add)
    add("--n_way", type=int, default=5, help="conditions per episode, for modes train and frozen")
    text = "support images per condition; under --protocol paper while training, the test is always 1-shot"
    add("--k_shot", type=int, default=1, help=text)
    add("--test_episodes", type=int, default=PAPER_TEST_EPISODES, help="episodes per fold, for the same modes")
    text = f"head whose probabilities are kept and whose accuracy comes first; also {KNOWING_HEAD}, and "
    text += f"{TRANSDUCTIVE_HEAD}, which looks at all queries of an episode at once, answers alone and is never ranked "
    text += "beside the others (default: discriminant, with --knowledge discriminant_with_terms)"
    add("--head", choices=[*HEADS, KNOWING_HEAD, TRANSDUCTIVE_HEAD], help=text)
    text = "folders (or ORG/NAME) of synthetic images: they fill up training conditions, or join the gallery"
    add("--synthetic_dataset", type=dataset_argument, nargs="+", metavar="DIR", help=text)
    text = "support: instead, put them beside the support photographs from which alone they were made (mode frozen)"
    add("--synthetic_in", choices=("training", "support"), default="training", help=text)
    text = "data: each is a photograph; prior: all of a condition count together, beside a support as one photograph, "
    text += f"where they draw class means in a gallery, or teach terms, as {PRIOR_WEIGHT} of one; images made by words "
    text += "with a weight chosen in the gallery (modes frozen and gallery)"
    add("--synthetic_as", choices=("data", "prior"), default="data", help=text)
    add_knowledge(add)
    text = "views of each picture that are embedded: 2 with the mirrored one, 4 with both in grey, 10: five crops and "
    text += "their mirrored ones"
    add("--views", type=int, choices=sorted(VIEWS), default=1, help=text)
    add("--frequent_from", type=int, default=7, help="patients from which on a condition is frequent (mode gallery)")
    add("--seed", "--seeds", type=int, nargs="+", default=[0], help="one or more, for episodes and training")
    add("--num_train_epochs", type=int, default=PAPER_EPOCHS, help="for mode train")
    add("--train_episodes", type=int, default=PAPER_TRAIN_EPISODES, help="per epoch, for mode train")
    add("--learning_rate", type=float, default=PAPER_LEARNING_RATE, help="constant, for mode train")
    add_computing(add)
    add_output(add)
    args = parser.parse_args(argv)
    check_args(parser, args)
    if args.mode != "train":
        args.head = args.head or (KNOWING_HEAD if args.knowledge == "terms" else "discriminant")
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with one line if values are out of range or flags do not go together.

    A flag that a mode does not use is accepted with its default, which commands copied from a run's record hold."""
    for flag in ("k_shot", "test_episodes", "frequent_from", "num_train_epochs", "train_episodes", "eval_batch_size"):
        if getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    if args.n_way < 2:
        parser.error("--n_way must be at least 2")
    if not args.learning_rate > 0:
        parser.error("--learning_rate must be positive")
    if min(args.seed) < 0 or len(set(args.seed)) < len(args.seed):
        parser.error("--seed: seeds must be different and not negative")
    if len(args.backbone_weights) not in (0, len(args.backbone)):
        parser.error(f"--backbone_weights: {len(args.backbone)} backbones need as many files; write own for none")
    pairs = list(zip(args.backbone, args.backbone_weights or [None] * len(args.backbone), strict=True))
    if twice := [name for number, (name, file) in enumerate(pairs) if (name, file) in pairs[:number]]:
        parser.error(f"--backbone: {twice[0]} is named twice with the same weights, which is no ensemble; name it once")
    if args.mode == "train":
        if len(args.backbone) > 1 or args.backbone[0].endswith(".onnx"):
            parser.error("--mode train trains one backbone, which must not be an .onnx file")
        if args.views > 1 or args.head or args.knowledge != "none" or args.synthetic_as != "data":
            parser.error("--views, --head, --knowledge and --synthetic_as require --mode frozen or gallery")
    if args.mode == "frozen" and args.protocol == "paper" and args.k_shot > 1:
        parser.error("--protocol paper tests 1-shot whatever --k_shot: it requires --mode train, or --protocol strict")
    if args.mode == "gallery":
        if args.head not in (None, "discriminant") or len(args.seed) > 1:
            parser.error("--mode gallery draws nothing and has methods of its own: leave out --head, give one --seed")
        if args.synthetic_dataset and args.protocol == "paper":
            parser.error("--mode gallery with --synthetic_dataset requires --protocol strict")
    if (args.synthetic_dataset or args.views not in (1, 2, 4)) and any(n.endswith(".onnx") for n in args.backbone):
        parser.error("--synthetic_dataset and --views 10 require backbones other than .onnx files")
    if args.synthetic_in == "support" and (args.mode, args.protocol) != ("frozen", "strict"):
        parser.error("--synthetic_in support requires --mode frozen and --protocol strict")
    if (args.synthetic_in, args.synthetic_as) != ("training", "data") and not args.synthetic_dataset:
        parser.error("--synthetic_in and --synthetic_as require --synthetic_dataset; name the folder of the images")
    if args.ensemble == "chosen" and len(args.backbone) < 2:
        parser.error("--ensemble chosen requires several backbones to choose from")
    if args.head == TRANSDUCTIVE_HEAD and args.knowledge != "none":
        parser.error(f"--head {TRANSDUCTIVE_HEAD} uses no terms; leave out --knowledge")
    if args.knowledge == "none" and (args.term_table or args.head == KNOWING_HEAD):
        parser.error(f"--term_table and --head {KNOWING_HEAD} require --knowledge terms")
    unused = [f for f, modes in USED_BY.items() if args.mode not in modes and getattr(args, f) != parser.get_default(f)]
    if unused:
        named, modes = " and ".join(f"--{flag}" for flag in unused), " or ".join(USED_BY[unused[0]])
        one = len(unused) == 1
        reason = f"{named} {'has' if one else 'have'} no effect with --mode {args.mode}"
        parser.error(f"{reason}; leave {'it' if one else 'them'} out, or give --mode {modes}")


def recipe_name(args: argparse.Namespace, mix: SyntheticMix | None, knowledge: object | None) -> str:
    """What was done, so that predictions of different recipes are never averaged."""
    what = {"train": TRAINED_HEAD, "frozen": args.head, "gallery": "gallery discriminant"}[args.mode]
    episodes = None if args.mode == "gallery" else f"{args.n_way}-way {args.k_shot}-shot {args.mode}"
    alignment = {None: None, "none": "whole images"}.get(args.align_faces, f"faces aligned by {args.align_faces}")
    synthetic = mix.name() if mix else None
    if mix and (args.synthetic_in, args.synthetic_as) != ("training", "data"):
        synthetic += f" in {args.synthetic_in} as {args.synthetic_as}"
    parts = [
        what,
        "transductive" if args.head == TRANSDUCTIVE_HEAD else None,
        episodes,
        "networks chosen on inner folds" if args.ensemble == "chosen" else None,
        f"{args.views} views" if args.views > 1 else None,
        f"{args.resolution} px" if args.resolution else None,
        alignment,
        synthetic,
        knowledge.name() if knowledge else None,
    ]
    return ", ".join(part for part in parts if part)


def backbone_name(args: argparse.Namespace) -> str:
    """--backbone as given, but only the last part of an absolute path: predictions may be published."""
    return " + ".join(Path(name).name if Path(name).is_absolute() else name for name in args.backbone)


def settings_of(args: argparse.Namespace, digests: dict) -> dict:
    """Everything that predictions depend on, as settings.json holds it: arguments, and digests of what they name."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    return json.loads(json.dumps(settings | digests, default=str))


def settings_digest(settings: dict) -> str:
    """16 hexadecimal digits by which predictions of one experiment are known, whatever its seeds and folds."""
    same = {name: value for name, value in settings.items() if name not in OUTSIDE_DIGEST}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


# -------------------------------------------------------------------------------------------------------------- run
# Whatever needs torch or datasets is imported within the functions below: --help and refusals must not wait for it.


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    check_name(args.dataset_name, "build it with rdface_dataset.py")
    for name in args.synthetic_dataset or ():
        check_name(name, "make it with a generator's script, such as train_dreambooth.py")
    opened = [args.dataset_name, *(args.synthetic_dataset or ()), *(args.backbone_weights or args.backbone)]
    work_offline_if_unreachable(opened)

    import numpy as np
    from datasets import disable_progress_bars

    from classification.embeddings import content_digest, decode, embed
    from classification.few_shot_inputs import open_networks, warnings_about_heads
    from classification.few_shot_run import is_finished, run_fold
    from classification.knowledge import open_knowledge
    from classification.run_results import input_settings
    from classification.study_inputs import Job, open_study, warnings_about
    from curation.opening import load_images
    from generation import episode_fill
    from generation.synthetic_mix import open_mix
    from generation.synthetic_uses import uses_of_images
    from harness.launched_processes import check_output_dir, in_main_process, open_accelerator, wait_for_files

    accelerator = open_accelerator(args.mixed_precision)
    places = (args.output_dir, [args.dataset_name, *(args.synthetic_dataset or ())])
    check_output_dir(accelerator, *places)

    # ---- data, folds and networks: nothing slow happens before everything that can be refused has been
    with accelerator.main_process_first():  # the first process fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
        mix = open_mix(args.synthetic_dataset, None, images, args.protocol) if args.synthetic_dataset else None
    knowledge = open_knowledge(images, args.term_table, []) if args.knowledge == "terms" else None
    folds = open_folds(images, args)
    jobs = [
        Job(seed, side, args.output_dir / "folds" / f"seed{seed}_fold{fold.number}")
        for seed in args.seed
        for fold in folds
        for side in with_synthetic(fold, mix, images, seed, args)
    ]
    sources = None
    if args.synthetic_in == "support":
        sources = episode_fill.support_sources(mix, episode_fill.photograph_columns(mix, images))
    with accelerator.main_process_first():
        named = (args.backbone, args.backbone_weights, args.resolution, args.align_faces, args.mode == "train")
        networks = open_networks(*named, images, folds)

    # ---- the study, and what is left to do of it
    digests = {"fingerprint": images._fingerprint, "backbone_sha256": content_digest(networks)}
    digests |= input_settings([network.input for network in networks])
    digests |= {"synthetic_fingerprints": mix.fingerprints} if mix else {}
    digests |= knowledge.identity() if knowledge else {}
    settings = settings_of(args, digests | {"mixed_precision": accelerator.mixed_precision})
    run = (args.output_dir, settings, "folds", RESULTS, bool(args.resume_from_checkpoint), "train_fewshot.py")
    in_main_process(accelerator, lambda: prepare_output(*run))
    names = {"backbone": backbone_name(args), "recipe": recipe_name(args, mix, knowledge)}
    labels = images.with_format("numpy")["label"][:]
    study = open_study(images, labels, networks[0].backbone, names, settings_digest(settings))
    study.knowledge, study.sources = knowledge, sources
    if mix:
        study.append_synthetic(mix.as_predicted(), mix.as_guarded())
        study.uses = uses_of_images(mix, np.full(len(mix.labels), args.synthetic_as), [])
    finished = in_main_process(accelerator, lambda: [is_finished(study, job) for job in jobs])  # so that all agree
    pending = [job for job, is_done in zip(jobs, finished, strict=True) if not is_done]
    accelerator.print(summary(accelerator, study, jobs, len(jobs) - len(pending), args))
    for line in knowledge.notes() if knowledge else ():
        accelerator.print(line)
    for name, network in zip(args.backbone, networks, strict=True):
        shown_name = Path(name).name if Path(name).is_absolute() else name
        study.warnings += warnings_about(network.backbone, shown_name, images) if network.backbone else []
    if args.mode == "frozen" and args.head != TRANSDUCTIVE_HEAD:
        study.warnings += warnings_about_heads([job.fold for job in jobs], study.labels)
    for warning in study.warnings:
        accelerator.print(f"WARNING: {warning}")

    # ---- pixels and embeddings, each computed once
    parts = [images, *(mix.parts if mix else ())]
    if study.backbone:
        study.pixels = decode(accelerator, parts, networks[0], args.cache_dir)
    if sources:
        episode_fill.support_sources(mix, study.guarded, episode_fill.copies_in(study.pixels.records))
    for job in jobs if mix else ():
        episode_fill.refuse_copies(mix, job.fold, study.guarded, study.pixels.records)
    embeddings = []
    if args.mode != "train" and pending:
        seen = (VIEWS[args.views], args.cache_dir, args.eval_batch_size)
        embeddings = [embed(accelerator, network, parts, *seen) for network in networks]
    disable_progress_bars()  # of `datasets`: the files written from here on take a moment

    # ---- every fold of every seed
    plan = plan_of(args)
    for job in pending[accelerator.process_index :: accelerator.num_processes]:
        run_fold(accelerator, study, job, plan, embeddings)
    accelerator.wait_for_everyone()

    # ---- results
    if accelerator.is_main_process:
        wait_for_files([job.folder / "predictions.parquet" for job in jobs])
        finish(accelerator, study, jobs, started, digests["backbone_sha256"], args)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def open_folds(images: datasets.Dataset, args: argparse.Namespace) -> list[protocols.Fold]:
    """The folds asked for, none of which leaks: of conditions for episodes, the dataset's own for a gallery."""
    from classification.few_shot_inputs import episode_folds, gallery_folds

    if args.mode == "gallery":
        return gallery_folds(images, args.protocol, args.fold)
    trained = (0 if args.synthetic_dataset else args.k_shot) if args.mode == "train" else None
    k_shot = args.k_shot if args.protocol == "strict" else 1
    return episode_folds(images, args.protocol, args.fold, args.n_way, k_shot, trained)


def with_synthetic(
    fold: protocols.Fold, mix: SyntheticMix | None, images: datasets.Dataset, seed: int, args: argparse.Namespace
) -> list[protocols.Fold]:
    """The fold with synthetic images on its training side, if they belong there; LeakError for one that must not be."""
    from generation.episode_fill import fill_up

    if mix is None or args.synthetic_in == "support":
        return [fold]
    if args.mode == "gallery":
        return mix.extend([fold], images, seed)
    return [fill_up(mix, fold, images, FILLED_UP_TO, seed)]


def plan_of(args: argparse.Namespace) -> Plan:
    """What is done in every fold."""
    from classification.few_shot_run import Plan
    from classification.prototype_training import Training

    rate = (args.learning_rate, args.num_train_epochs, args.train_episodes, PAPER_VAL_EPISODES)
    training = Training(args.n_way, args.k_shot, *rate)
    k_shot = args.k_shot if args.protocol == "strict" else 1
    head = args.head or TRAINED_HEAD
    of_test = (args.n_way, k_shot, args.test_episodes, training, args.frequent_from, args.eval_batch_size)
    return Plan(args.mode, head, *of_test, args.ensemble == "chosen", args.synthetic_as == "prior")


def summary(accelerator: Accelerator, study: Study, jobs: list[Job], n_done: int, args: argparse.Namespace) -> str:
    """What this run is about to do, so that the user sees at once whether it is the run that was meant."""
    images, names = study.images, study.names
    simulated = "SIMULATED, " if study.is_simulated else ""
    heads = f"\nevery head is scored, and the probabilities of {args.head} are kept" if args.mode == "frozen" else ""
    return (
        f"{args.dataset_name} ({simulated}config {images.config_name}, fingerprint {images._fingerprint}): "
        f"{counted(len(images), 'image')}, {counted(study.label.num_classes, 'class', 'classes')}\n"
        f"{names['backbone']}, {names['recipe']}, protocol {args.protocol}, "
        f"{counted(len(jobs), 'pair')} of fold and seed "
        f"({n_done} done before), {counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device}"
        f"{heads}"
    )


def finish(
    accelerator: Accelerator, study: Study, jobs: list[Job], started: float, sha256: str, args: argparse.Namespace
) -> None:
    """Join the folds, write and print the results, and write the record of the run."""
    import pandas as pd

    from classification import few_shot_inputs, few_shot_results, few_shot_run, run_results
    from harness.files import read_json
    from harness.launched_processes import device_record
    from scoring.knowledge_use import use_of_knowledge

    out, folders = args.output_dir, [job.folder for job in jobs]
    episodes = pd.concat([pd.read_parquet(folder / few_shot_run.EPISODES) for folder in folders], ignore_index=True)
    few_shot_run.write_table(out / "episodes.parquet", episodes)
    predictions = run_results.join(folders, "predictions.parquet", study.label, out / "predictions.parquet")
    of_test = None if args.mode == "gallery" else (args.head or TRAINED_HEAD, args.n_way, args.k_shot)
    names = {"backbone": study.names["backbone"], "recipe": predictions["recipe"].iloc[0]}
    of_run = {"mode": args.mode, "simulated": study.is_simulated, **names}
    results = (
        few_shot_results.results_of(episodes, predictions, study.label.num_classes, args.frequent_from, of_test)
        | of_run
    )
    write_json(out / "results.json", results)
    print(few_shot_results.table_of(results))
    record = run_record(vars(args), PACKAGES, started) | {"dataset": study.dataset_record(), "backbone_sha256": sha256}
    record["folds"] = [read_json(folder / "fold.json", "delete its folder") for folder in folders]
    of_filling = few_shot_inputs.warnings_about_filling(record["folds"])
    for warning in of_filling:
        print(f"WARNING: {warning}")
    record |= {"simulated": study.is_simulated, "warnings": [*study.warnings, *of_filling]}
    record |= {"mixed_precision": accelerator.mixed_precision, **device_record(accelerator)}
    finish_output(out, record)
    if said := use_of_knowledge(record["folds"]):
        print(said)
    print(f"written: {out}: {', '.join(RESULTS)}")


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
