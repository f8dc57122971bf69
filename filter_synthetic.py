"""Filters synthetic faces: are they faces, do they show their condition, do they give a patient away? Keeps the best.

    accelerate launch filter_synthetic.py --dataset_name ./rdface --synthetic_dataset runs/dreambooth/fold0/synthetic \\
        --protocol strict --fold 0 --per_class 20 --output_dir runs/filtered

Every image is compared with the photographs of its fold's training side alone, and with --k_shot with those of the
support set alone. The output opens with load_dataset: all images with their scores, `kept`, and `reject_reason`; beside
it are results.json, privacy_report.json (whether publish_dataset.py may open the images to everybody),
scoring_record.json (what train_classifier.py checks) and figures.
A folder <ABBR>/<ABBR>_<n>.png of somebody else's images is examined too; no training takes images of unknown origin.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from classification.study_options import add_fold, add_knowledge
from generation.filter_files import FIGURES, PATIENTS_PHOTOGRAPHS, PRIVACY_REPORT
from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.common_options import add_dataset, add_output
from harness.counts import counted
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.protocol_names import PROTOCOLS
from harness.real_or_simulated import BUILD
from harness.run_folder import finish_output, prepare_output, run_record
from imaging.detector_names import FACE_DETECTORS, MODEL_DETECTORS

if TYPE_CHECKING:
    from accelerate import Accelerator

    from classification.knowledge import Knowledge
    from generation.face_examination import Examiner
    from generation.filter_inputs import Inputs

STOPPED = RESUMED
DESCRIPTORS = ("probe", "embedding", "shape", "dense", "paper")  # generation.descriptors.KINDS
PACKAGES = ("torch", "datasets", "accelerate", "lpips", "torch-fidelity", "insightface", "onnxruntime", "numpy")
RESULTS = ("results.json", "run.json", PRIVACY_REPORT, "scoring_record.json", *FIGURES)
RESULTS += ("synthetic", "figures", "README.md", "LICENSE", "croissant.json")
FREE_SETTINGS = ("dataset_name", "synthetic_dataset", "output_dir", "resume_from_checkpoint", "backbone", "kept_only")
FREE_SETTINGS += ("cache_dir", "top_n", "per_class", "fill_to", "min_score", "show_real")  # used once all is scored


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_dataset(add)
    text = "folders, or ORG/NAME, of synthetic images; a folder may also hold <ABBR>/<ABBR>_<number>.png"
    add("--synthetic_dataset", nargs="+", type=dataset_argument, required=True, metavar="NAME", help=text)
    text = "whose training sides the images were made from; under paper one generator serves all folds"
    add("--protocol", choices=PROTOCOLS, default="strict", help=text)
    add_fold(add)
    text = "compare with this many photographs per condition only: those that a generator and a training with the same"
    text += " --k_shot and --seed see (default: the whole training side)"
    add("--k_shot", type=int, help=text)
    add("--seed", type=int, default=0, help="seed of the draw of --k_shot")
    text = "face detector; all but mtcnn require --detector_model"
    add("--detector", choices=[*FACE_DETECTORS, *MODEL_DETECTORS], default="mtcnn", help=text)
    add(
        "--detector_model",
        type=path_argument,
        help="file of the detector's weights; a folder for a pack of insightface",
    )
    text = "least score of a face (default: the detector's own)"
    add("--face_threshold", type=float, help=text)
    text = "black border for detection, as a share of height and width on every side; the paper's is 0.5"
    add("--face_border", type=float, default=0.0, help=text)
    text = "network whose features tell conditions apart and copies from others: as in train_classifier.py"
    add("--backbone", type=dataset_argument, default="demo_models/backbone", help=text)
    text = "file of a face-recognition network (ONNX) that tells persons apart (default: the backbone does)"
    add("--face_embedder", type=path_argument, help=text)
    text = "weights of SSCD, a copy-detection network, which finds candidates for copies (default: the backbone)"
    add("--copy_network", type=path_argument, metavar="FILE", help=text)
    text = "descriptor of phenotype_probability; dense requires mediapipe (default: probe; under paper: paper)"
    add("--descriptor", choices=DESCRIPTORS, help=text)
    add_knowledge(add, "phenotype_probability draws class means")
    text = "weights for LPIPS: a file, or random, whose column is called lpips_random (default: no LPIPS)"
    add("--lpips", type=path_argument, metavar="FILE|random", help=text)
    how_many = parser.add_mutually_exclusive_group()
    text = "keep this many images of each fold, over all conditions, as the paper does"
    how_many.add_argument("--top_n", type=int, help=text)
    how_many.add_argument("--per_class", type=int, help="keep this many images of each fold and condition")
    text = "keep as many images as bring each condition to this many photographs and images together"
    how_many.add_argument("--fill_to", type=int, help=text)
    text = "keep images whose phenotype_probability (under paper: cosine) is at least this"
    add("--min_score", type=float, help=text)
    text = "write the kept images alone, as publish_dataset.py --open requires"
    add("--kept_only", action="store_true", help=text)
    text = "draw the photographs that synthetic images resemble most beside them; the figure shows patients, is called"
    text += f" {PATIENTS_PHOTOGRAPHS}, and must not be passed on"
    add("--show_real", action="store_true", help=text)
    add("--batch_size", type=int, default=32, help="pictures examined together")
    add_output(add, "detected faces are kept, by the content of the picture,")
    args = parser.parse_args(argv)
    if args.face_border < 0:
        parser.error("--face_border must not be negative")
    for flag in ("batch_size", "k_shot", "top_n", "per_class", "fill_to"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    if args.min_score is not None and not -1 <= args.min_score <= 1:
        parser.error("--min_score must be a probability, or under paper a cosine, of at most 1")
    if args.k_shot and args.protocol == "paper":
        parser.error("--k_shot draws its photographs in each fold; use --protocol strict")
    if args.descriptor == "dense" and args.detector != "mediapipe":
        parser.error("--descriptor dense requires --detector mediapipe: the other detectors find five landmarks only")
    if args.detector in MODEL_DETECTORS and args.detector_model is None:
        parser.error(f"--detector {args.detector} requires --detector_model FILE")
    if args.term_table and args.knowledge == "none":
        parser.error("--term_table requires --knowledge terms")
    args.descriptor = args.descriptor or ("paper" if args.protocol == "paper" else "probe")
    if args.knowledge == "terms" and args.descriptor == "paper":
        parser.error("--knowledge terms requires another --descriptor than paper, such as probe")
    return args


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    check_name(args.dataset_name, BUILD)
    for name in args.synthetic_dataset:
        check_name(name, "make it with a generator's script, such as train_dreambooth.py")
    work_offline_if_unreachable([args.dataset_name, *args.synthetic_dataset, args.backbone])
    # Imported here, since they take seconds: what is refused above, and --help, must not wait for them.
    from classification.study_inputs import refuse_backbone_that_saw_held_out
    from curation.opening import is_simulated
    from generation import filter_figures, filter_results, filter_scoring
    from generation.filter_inputs import open_inputs
    from harness.launched_processes import check_output_dir, device_record, in_main_process, open_accelerator
    from scoring.knowledge_use import use_of_knowledge

    # ---- photographs, folds, synthetic images, networks: refused before anything slow begins
    accelerator = open_accelerator(None)
    places = (args.output_dir, [args.dataset_name, *args.synthetic_dataset], args.cache_dir)
    check_output_dir(accelerator, *places)
    sides = (args.protocol, args.fold, args.k_shot, args.seed)
    inputs = open_inputs(accelerator, args.dataset_name, args.dataset_config_name, args.synthetic_dataset, *sides)
    knowledge = open_terms(accelerator, inputs, args.term_table) if args.knowledge == "terms" else None
    examiner, lpips, lpips_column = open_networks(accelerator, args)
    folds = [side.fold for side in inputs.sides if side.fold.protocol == args.protocol]
    refuse_backbone_that_saw_held_out(examiner.backbone, args.backbone, inputs.images, folds)
    settings = settings_of(args, inputs, examiner, knowledge)
    resume = bool(args.resume_from_checkpoint)
    run = (args.output_dir, settings, "work", (), resume, "filter_synthetic.py")
    in_main_process(accelerator, lambda: prepare_output(*run))
    in_main_process(accelerator, lambda: filter_results.remove(args.output_dir, RESULTS))
    for line in inputs.problems:
        accelerator.print(line)
    support = (
        f", compared with {counted(args.k_shot, 'photograph')} per condition (seed {args.seed})" if args.k_shot else ""
    )
    accelerator.print(
        f"{args.dataset_name} ({'SIMULATED, ' * is_simulated(inputs.images)}"
        f"fingerprint {inputs.images._fingerprint}): {counted(len(inputs.images), 'photograph')}; "
        f"{counted(inputs.n_synthetic, 'synthetic image')} of {counted(len(inputs.sides), 'fold')}, "
        f"protocol {args.protocol}{support}\n"
        f"faces by {args.detector}, phenotypes by {args.descriptor} on {args.backbone}, "
        f"{counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device}"
    )
    if knowledge:
        accelerator.print(knowledge.summary())

    # ---- every photograph, then every synthetic image, is decoded and examined once; scores are fitted per fold
    work = args.output_dir / "work"
    photographs = filter_scoring.examine_photographs(accelerator, examiner, inputs, work, args.batch_size)
    profiles = knowledge.profiles if knowledge else None
    filters = filter_scoring.fit_filters(inputs, photographs, args.descriptor, lpips, profiles)
    filter_scoring.score_images(accelerator, examiner, inputs, filters, work, args.batch_size, lpips_column)

    # ---- selection, dataset, reports
    if accelerator.is_main_process:
        selection = {"top_n": args.top_n, "per_class": args.per_class, "fill_to": args.fill_to}
        ranked_by = "cosine" if args.protocol == "paper" else "phenotype_probability"
        outcome = filter_results.select_images(inputs, work, args.batch_size, ranked_by, selection, args.min_score)
        filter_results.write_results(
            args.output_dir, inputs, photographs, filters, outcome, settings, ranked_by, lpips_column, args.kept_only
        )
        figures = filter_figures.draw_figures(args.output_dir, inputs, outcome, ranked_by, args.show_real)
        record = run_record(vars(args), PACKAGES, started) | {"ranked_by": ranked_by, **device_record(accelerator)}
        finish_output(args.output_dir, record)
        filter_results.remove(args.output_dir, ("work",))
        choices = [
            {"knowledge": dataclasses.asdict(one.fitted.choice)} for one in filters.values() if one.fitted.choice
        ]
        if said := use_of_knowledge(choices):
            print(said)
        print("\n".join([filter_results.summary(args.output_dir, outcome), *figures]))
    accelerator.wait_for_everyone()


def open_terms(accelerator: Accelerator, inputs: Inputs, term_table: Path | None) -> Knowledge:
    """What is annotated of the photographs' conditions."""
    from classification.knowledge import open_knowledge

    with accelerator.main_process_first():
        return open_knowledge(inputs.images, term_table, ())


def open_networks(accelerator: Accelerator, args: argparse.Namespace) -> tuple[Examiner, object, str | None]:
    """The networks that look at pictures, the LPIPS network if there is one, and the name of its column."""
    from classification.backbones import load_backbone
    from generation.copy_network import load_copy_network
    from generation.face_examination import Examiner
    from generation.perceptual_distance import load_lpips
    from imaging import faces
    from imaging.face_cache import CachedDetector
    from imaging.face_embeddings import load_embedder

    device = accelerator.device
    with accelerator.main_process_first():
        backbone = load_backbone(args.backbone)
    detector = CachedDetector(
        faces.load_detector(args.detector, device.type, model=args.detector_model), args.cache_dir
    )
    embedder = load_embedder(args.face_embedder, device.type) if args.face_embedder else None
    lpips, column = load_lpips(str(args.lpips), device) if args.lpips else (None, None)
    copy_network = load_copy_network(args.copy_network, device) if args.copy_network else None
    examiner = Examiner(detector, backbone, device, embedder, args.face_threshold, args.face_border, copy_network)
    return examiner, lpips, column


def settings_of(args: argparse.Namespace, inputs: Inputs, examiner: Examiner, knowledge: Knowledge | None) -> dict:
    """Everything that the scores depend on, as JSON returns it: arguments, and digests of what they name."""
    from classification.run_results import input_settings, network_input
    from harness.files import sha256_of
    from harness.weights_digest import weights_sha256

    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    files = {name: getattr(args, name) for name in ("detector_model", "face_embedder", "copy_network", "lpips")}
    settings |= {name: sha256_of(file) for name, file in files.items() if file and file.is_file()}
    settings |= {"fingerprint": inputs.images._fingerprint, "synthetic": inputs.fingerprints}
    del settings["term_table"]  # its digest counts, not its place
    settings |= knowledge.identity() if knowledge else {"term_table_sha256": None}
    settings["backbone_sha256"] = weights_sha256(examiner.backbone.network)
    settings |= input_settings([network_input(examiner.backbone)])
    settings["photographs"] = hashlib.sha256("".join(inputs.digests).encode()).hexdigest()
    return json.loads(json.dumps(settings, default=str))


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
