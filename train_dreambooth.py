"""DreamBooth with LoRA: an adapter for every condition and fold, and synthetic faces sampled from it.

    accelerate launch train_dreambooth.py --dataset_name ./rdface --protocol strict --fold all \\
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/dreambooth

An adapter sees its condition's training photographs of its fold and nothing else (Ruiz et al., DreamBooth, CVPR 2023,
arXiv 2208.12242; Feng et al., RDFace, CVPR 2026, arXiv 2604.03454, fine-tune all weights instead). With
--adapters_per_batch several are trained at once over one frozen U-Net. Each process takes batches of conditions of its
own, so the results do not depend on how many there are. Writes OUT/fold0/adapters/<ABBR>/ (`paper` in place of `fold0`)
with pytorch_lora_weights.safetensors for `pipeline.load_lora_weights`, and OUT/fold0/synthetic for `load_dataset`.
OUT/fold0/checkpoints keeps the training's state, about three times the adapters' size: with --resume_from_checkpoint
latest a finished run goes on with more --max_train_steps, or gets more --num_images.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from curation import protocols
from curation.guard import Guard, check_fold
from curation.opening import guarded_columns, is_simulated, load_images, photograph_sha256
from generation import diffusion_pipelines as diffusion
from generation import dreambooth, lora_files, synthetic_images
from generation import dreambooth_progress as progress
from generation.dreambooth import Encoded
from generation.dreambooth_progress import Support
from generation.training_provenance import TrainedOn, settings_digest
from harness import protocol_names
from harness.commands import RESUMED, Parser, dataset_argument, path_argument, run_command
from harness.errors import InputError
from harness.files import write_atomically, write_json
from harness.processes import check_output_dir, device_name, in_main_process, open_accelerator, wait_for_files
from harness.run_folder import prepare_output, run_record
from harness.weights import weights_sha256
from imaging import faces
from imaging.pixel_cache import Pixels, cached_pixels, default_cache_dir
from phenotyping import phenotypes
from publishing import model_upload

STOPPED = RESUMED

PROMPTS = {"paper": "photo of a {disease_abbr} child", "strict": "photo of a {rare_token} child"}
PACKAGES = ("torch", "diffusers", "transformers", "peft", "datasets", "accelerate", "safetensors", "numpy")
# What may differ between a run and the one it goes on from: none of it changes an image.
FREE_SETTINGS = ("output_dir", "resume_from_checkpoint", "checkpointing_steps", "cache_dir", "sample_batch_size")
FREE_SETTINGS += ("push_to_hub", "hub_model_id", "hub_token", "dataset_name", "pretrained_model_name_or_path")
FREE_SETTINGS += ("pretrained_vae_model_name_or_path", "revision", "variant")  # digests of the networks stand for them
FREE_SETTINGS += ("max_train_steps", "num_images")  # may grow
OTHER_THAN_ADAPTERS = ("fold", "conditions")  # settings that choose adapters and shape none
RESULTS = ("run.json", "README.md")
CLASS_LATENTS_NAME = "class_latents.pt"  # of the prior, in the run's folder
PUBLISHED_FILES = ("README.md", f"*/adapters/*/{lora_files.WEIGHTS_NAME}")  # not sources.json: it names photographs
WEIGHT_TYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # of the frozen networks


# ------------------------------------------------------------------------------------------------------------- data


def open_supports(
    images: datasets.Dataset,
    folds: list[protocols.Fold],
    prompts: dict[int, str],
    settings: dict,
    args: argparse.Namespace,
) -> list[Support]:
    """A support for every fold and condition asked for, in the dataset's order; `admit` must follow.

    prompts: row -> prompt; settings: what the adapters' files say that they depend on."""
    labels, image_ids, digests = np.array(images["label"][:]), images["image_id"][:], photograph_sha256(images)
    digest_of_settings = settings_digest(settings_of_adapters(settings))
    supports = []
    for fold in folds:
        name = synthetic_images.folder_of(fold)
        for label, condition in enumerate(images.features["label"].names):
            rows = fold.train[labels[fold.train] == label]
            if len(rows) and (not args.conditions or condition in args.conditions):
                seen, sha256 = ([values[row] for row in rows.tolist()] for values in (image_ids, digests))
                trained_on = TrainedOn(
                    fold.protocol,
                    fold.number,
                    condition,
                    images._fingerprint,
                    sha256,
                    args.seed,
                    args.k_shot,
                    digest_of_settings,
                )
                words = [prompts[row] for row in rows.tolist()]
                folders = args.output_dir / name, args.output_dir / "work" / name
                supports.append(Support(fold, condition, rows, seen, words, *folders, trained_on))
    return supports


def admit(supports: list[Support], images: datasets.Dataset, pixels: Pixels) -> None:
    """Raise LeakError where a support holds a photograph that a generator must not see."""
    columns = guarded_columns(images, pixels.uint8)
    guards = {id(support.fold): support.fold for support in supports}
    guards = {number: Guard(fold, columns) for number, fold in guards.items()}
    for support in supports:
        guards[id(support.fold)].admit(support.rows, "a generator")


def open_folds(images: datasets.Dataset, args: argparse.Namespace) -> list[protocols.Fold]:
    """What the generators may see: of the training sides, or under --k_shot of their support sets.

    Raises ProtocolError, LeakError, or InputError for conditions that cannot be trained or cannot name a folder."""
    names, labels = images.features["label"].names, images["label"][:]
    unknown = sorted(set(args.conditions or ()) - set(names))
    if unknown:
        raise InputError(f"--conditions {unknown[0]}: the dataset has no such condition; it has {', '.join(names)}")
    unfit = [name for name in names if Path(name).name != name or name.startswith(".")]
    if unfit:
        raise InputError(
            f"condition {unfit[0]!r} cannot name a folder; correct disease_abbr and build the dataset again"
        )
    folds = protocols.training_sides(images, args.protocol, args.fold)
    for fold in folds:
        trained = {names[labels[row]] for row in fold.train.tolist()}
        missing = sorted(set(args.conditions or ()) - trained)
        if missing:
            where = synthetic_images.folder_of(fold)
            raise InputError(f"--conditions {missing[0]}: it has no training photograph in {where}; leave it out")
    return [protocols.k_shot(fold, labels, args.k_shot, args.seed) for fold in folds] if args.k_shot else folds


def descriptions(images: datasets.Dataset, rare: list[str]) -> list[dict[str, str]]:
    """What a prompt may say of each photograph, by diffusion_pipelines.PROMPT_FIELDS.

    with_terms: " with hypertelorism, long philtrum", the HPO terms recorded for this photograph by name, empty where
    none are; rare_token: the condition's own word, its abbreviation where the vocabulary has no rare one."""
    names = images.features["label"].names
    diseases = images["disease_name"][:] if "disease_name" in images.column_names else [None] * len(images)
    found = []
    for label, terms, disease_name in zip(images["label"][:], recorded_terms(images), diseases, strict=True):
        words = {"disease_abbr": names[label], "disease_name": disease_name or names[label]}
        words["rare_token"] = rare[label % len(rare)] if rare else names[label]
        words["with_terms"] = with_terms(terms)
        found.append(words)
    return found


def recorded_terms(images: datasets.Dataset) -> list[list[str]]:
    """Names of the HPO terms recorded for each photograph, (n,) lists; ids that the project does not know are not
    among them."""
    known = phenotypes.terms()
    recorded = images["hpo_ids"][:] if "hpo_ids" in images.column_names else [None] * len(images)
    return [[known[hpo_id].name.lower() for hpo_id in hpo_ids or () if hpo_id in known] for hpo_ids in recorded]


def with_terms(terms: Sequence[str]) -> str:
    return f" with {', '.join(terms)}" if terms else ""


def fitting_prompts(
    images: datasets.Dataset, folds: list[protocols.Fold], pipeline: StableDiffusionPipeline, args: argparse.Namespace
) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Prompts of all photographs that will be seen, by row, and the terms that were left out of them, by row.

    What the text encoder does not read must not stand in a prompt: terms are left out whole, from the last, until all
    of it fits. Raises InputError where a prompt is too long without any, as --class_prompt and --negative_prompt."""
    limit = diffusion.prompt_limit(pipeline)
    fixed = {"--negative_prompt": args.negative_prompt}
    if args.with_prior_preservation:
        fixed["--class_prompt"] = args.class_prompt
    for flag, prompt in fixed.items():
        diffusion.check_prompt(pipeline, prompt, flag)
    described, recorded = descriptions(images, diffusion.rare_tokens(pipeline.tokenizer)), recorded_terms(images)
    names, labels, image_ids = images.features["label"].names, images["label"][:], images["image_id"][:]
    says_terms = "with_terms" in diffusion.fields_of(args.instance_prompt)
    prompts: dict[int, str] = {}
    left_out: dict[int, list[str]] = {}
    for row in sorted({row for fold in folds for row in fold.train.tolist()}):
        if args.conditions and names[labels[row]] not in args.conditions:
            continue
        terms = recorded[row] if says_terms else []
        for n in range(len(terms), -1, -1):
            prompts[row] = args.instance_prompt.format(**described[row] | {"with_terms": with_terms(terms[:n])})
            if diffusion.count_tokens(pipeline, prompts[row]) <= limit:
                break
        diffusion.check_prompt(pipeline, prompts[row], f"--instance_prompt, for image {image_ids[row]},")
        if terms[n:]:
            left_out[row] = terms[n:]
    return prompts, left_out


def encode(
    accelerator: Accelerator,
    pipeline: StableDiffusionPipeline,
    pixels: Pixels,
    supports: list[Support],
    settings: dict,
    args: argparse.Namespace,
) -> Encoded:
    """Latents of all photographs of the supports, embeddings of all their prompts, latents of the prior: once."""
    rows = sorted({row for support in supports for row in support.rows.tolist()})
    position = {row: i for i, row in enumerate(rows)}
    encoded = Encoded(position, *diffusion.encode_pictures(pipeline, pixels.uint8[rows]), {})
    if not args.train_text_encoder:
        prompts = sorted({prompt for support in supports for prompt in support.prompts})
        fixed = [args.class_prompt] * args.with_prior_preservation + [args.negative_prompt]
        encoded.text = dreambooth.embeddings(pipeline, [*prompts, *fixed])
    if args.with_prior_preservation:
        encoded.class_latents = prior(accelerator, pipeline, settings, args)
    return encoded


def prior(
    accelerator: Accelerator, pipeline: StableDiffusionPipeline, settings: dict, args: argparse.Namespace
) -> torch.Tensor:
    """Latents (m, c, h, w) of what the base makes of --class_prompt, sampled once for all conditions; no photograph has
    a part in them. They are not decoded and encoded again, which would only blur them."""
    file = args.output_dir / CLASS_LATENTS_NAME
    made_with = settings_digest(settings_of_adapters(settings))
    if accelerator.is_main_process and read_prior(file, made_with) is None:
        words = dreambooth.embeddings(pipeline, [args.class_prompt, args.negative_prompt])
        made = []
        for start in tqdm(range(0, args.num_class_images, args.sample_batch_size), desc="prior", unit="batch"):
            numbers = range(start, min(start + args.sample_batch_size, args.num_class_images))
            text = [words[prompt].repeat(len(numbers), 1, 1) for prompt in (args.class_prompt, args.negative_prompt)]
            seeds = [synthetic_images.image_seed(args.seed, args.class_prompt, number) for number in numbers]
            how = (args.resolution, args.num_inference_steps, args.guidance_scale)
            made.append(torch.from_numpy(diffusion.sample(pipeline, *text, seeds, *how, latents_only=True)[0]))
        content = {"latents": torch.cat(made), "settings_sha256": made_with}
        write_atomically(file, lambda partial: torch.save(content, partial))
    accelerator.wait_for_everyone()
    return read_prior(file, made_with)


def read_prior(file: Path, settings_sha256: str) -> torch.Tensor | None:
    """Latents that were sampled before with these settings; None where there are none, and they are then made again."""
    try:
        content = torch.load(file, weights_only=True)
        return content["latents"] if content["settings_sha256"] == settings_sha256 else None
    except (*dreambooth.UNREADABLE, TypeError):
        return None


# ------------------------------------------------------------------------------------------------------------ script


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--dataset_name", type=dataset_argument, required=True, help="folder of a built dataset, or ORG/NAME on the Hub"
    )
    add("--dataset_config_name", help="real or restored; None is the dataset's default config")
    how = "Stable Diffusion 1.x or 2.x: folder in diffusers' layout, ORG/NAME on the Hub, or FILE.safetensors with its"
    how += " pipeline's settings in the folder FILE beside it"
    add("--pretrained_model_name_or_path", type=dataset_argument, required=True, help=how)
    how = "VAE to use in place of the pipeline's, as the paper does"
    add("--pretrained_vae_model_name_or_path", type=dataset_argument, help=how)
    add("--revision", help="of the pipeline on the Hub: a commit or tag")
    add("--variant", help="of the pipeline's files, such as fp16")
    add(
        "--protocol",
        choices=protocol_names.PROTOCOLS,
        default="strict",
        help="paper: one adapter a condition for all folds",
    )
    add("--fold", type=protocols.fold_number, default="all", help="all, or the number of one fold")
    add("--conditions", nargs="+", metavar="ABBR", help="only these; None is all")
    add("--k_shot", type=int, help="see this many photographs of each condition, drawn by seed; None is all")
    add("--resolution", type=int, help="side of the square pictures in px; None is the pipeline's own")
    how = (
        "detector to cut faces out with, or none: all of the photograph in a black square; None is as the pipeline was"
    )
    add("--align_faces", choices=[*sorted(faces.DETECTORS), "none"], help=how)
    fields = ", ".join(f"{{{field}}}" for field in diffusion.PROMPT_FIELDS)
    how = f"with the fields {fields}; None is {PROMPTS['strict']!r}, and under paper {PROMPTS['paper']!r}"
    add("--instance_prompt", help=how.replace("%", "%%"))
    add(
        "--with_prior_preservation",
        action="store_true",
        help="also learn to make what the base makes of --class_prompt",
    )
    add("--class_prompt", default="photo of a child", help="of the prior")
    add("--prior_loss_weight", type=float, default=1.0, help="of the prior's loss beside the photographs'")
    add("--num_class_images", type=int, default=100, help="pictures of the prior, sampled once for all conditions")
    add("--train_text_encoder", action="store_true", help="adapt the text encoder too, as the paper trains it")
    add("--rank", type=int, default=4, help="of the low-rank updates")
    add("--lora_alpha", type=float, help="updates are scaled by alpha / rank; None is the rank")
    how = "adapters trained together; the memory for activations grows with it, time for each falls"
    add("--adapters_per_batch", type=int, default=4, help=how)
    add("--train_batch_size", type=int, default=1, help="photographs of each adapter in a step")
    add("--max_train_steps", type=int, default=800, help="of each adapter; more of them go on from a finished run")
    add("--learning_rate", type=float, default=1e-4, help="of AdamW, constant")
    add("--max_grad_norm", type=float, default=1.0, help="of each adapter's gradient")
    add("--gradient_checkpointing", action="store_true", help="less memory, more time")
    how = "of the frozen networks; adapters are float32 always; None is as accelerate launch says"
    add("--mixed_precision", choices=tuple(WEIGHT_TYPES), help=how)
    add(
        "--num_images", type=int, default=100, help="of each adapter, 0: none; more are put behind those that there are"
    )
    add("--sample_batch_size", type=int, default=8, help="images sampled together, of whichever adapters")
    how = "dpmsolver++ needs half the steps of the solver that most pipelines come with"
    add("--scheduler", choices=tuple(diffusion.SCHEDULERS), default="dpmsolver++", help=how)
    add("--num_inference_steps", type=int, default=15, help="of the solver; the paper has 30 with the pipeline's own")
    add("--guidance_scale", type=float, default=7.5, help="of classifier-free guidance; 1: none")
    add("--negative_prompt", default="", help="what the images should stay away from")
    add("--seed", type=int, default=0, help="of adapters, noise, and the draw of --k_shot")
    how = "folder for the results; those of an earlier run are replaced"
    add("--output_dir", type=path_argument, required=True, help=how)
    how = "where decoded photographs are kept between runs"
    add("--cache_dir", type=path_argument, default=default_cache_dir(), help=how)
    add("--checkpointing_steps", type=int, default=100, help="between checkpoints inside a batch of adapters")
    how = "go on where the run in output_dir stopped"
    add("--resume_from_checkpoint", choices=("latest",), help=how)
    add("--push_to_hub", action="store_true", help="upload the adapters with a card to a private repository")
    add("--hub_model_id", help="ORG/NAME; None is the folder's name under your account")
    add("--hub_token", help="None is HF_TOKEN or the login")
    args = parser.parse_args(argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    at_least_one = ("k_shot", "resolution", "rank", "adapters_per_batch", "train_batch_size", "max_train_steps")
    at_least_one += ("sample_batch_size", "num_inference_steps", "checkpointing_steps", "num_class_images")
    for flag in at_least_one:
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    for flag in ("learning_rate", "max_grad_norm", "lora_alpha", "guidance_scale", "prior_loss_weight"):
        if getattr(args, flag) is not None and not 0 < getattr(args, flag) < float("inf"):
            parser.error(f"--{flag} must be positive")
    if min(args.num_images, args.seed) < 0:
        parser.error("--num_images and --seed must not be negative")
    if args.k_shot and args.protocol == "paper":
        parser.error("--k_shot draws its images in each fold, and under --protocol paper one adapter serves all folds")
    if str(args.output_dir) in ("", "."):
        parser.error("--output_dir must name a folder, not the current one")
    args.instance_prompt = args.instance_prompt or PROMPTS[args.protocol]
    args.lora_alpha = args.lora_alpha or float(args.rank)


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    accelerator = open_accelerator(args.mixed_precision)
    check_output_dir(accelerator, args.output_dir, [args.dataset_name])

    # ---- dataset, folds, pipeline: nothing slow before everything that can be refused has been
    diffusion.check_template(args.instance_prompt, "--instance_prompt")
    with accelerator.main_process_first():  # the first one fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    folds = open_folds(images, args)
    for fold in folds:
        check_fold(fold, images)
    if args.push_to_hub:
        args.hub_model_id = model_upload.check_access(args.hub_model_id or args.output_dir.name, args.hub_token)
    with accelerator.main_process_first():
        pipeline = open_pipeline(args, WEIGHT_TYPES[accelerator.mixed_precision])
    prompts, left_out = fitting_prompts(images, folds, pipeline, args)
    settings = settings_of(args, images, pipeline, accelerator)
    supports = open_supports(images, folds, prompts, settings, args)
    in_main_process(accelerator, lambda: prepare(args, settings, supports))
    pipeline.to(accelerator.device)
    pixels = cached_pixels(accelerator, images, args.resolution, args.face_alignment, args.cache_dir, padded=True)
    admit(supports, images, pixels)

    # ---- what is to be done
    asked = args.max_train_steps, args.num_images
    batches = batches_of(supports, args.adapters_per_batch)
    finished = (
        in_main_process(  # it alone looks, so that all agree, and nobody finishes a batch before they are counted
            accelerator, lambda: [all(progress.done(support, *asked) for support in batch) for batch in batches]
        )
    )
    pending = [batch for batch, done in zip(batches, finished, strict=True) if not done]
    n_photographs = len({row for support in supports for row in support.rows.tolist()})
    aligned = f"faces aligned by {args.face_alignment}" if args.face_alignment else "whole photographs"
    done = f"{len(batches) - len(pending)} of {len(batches)} batches done before"
    accelerator.print(
        f"{args.dataset_name} (config {images.config_name}, fingerprint {images._fingerprint}): {n_photographs} "
        f"training photographs, {aligned}, of {len({support.condition for support in supports})} conditions\n"
        f"{args.pretrained_model_name_or_path} at {args.resolution} px, protocol {args.protocol}, {len(supports)} "
        f"adapters of rank {args.rank}, {args.adapters_per_batch} at once ({done}), {args.max_train_steps} steps, then "
        f"{args.num_images} images each; {accelerator.num_processes} processes on {accelerator.device}, "
        f"{accelerator.mixed_precision} mixed precision"
    )
    if left_out:
        accelerator.print(terms_left_out(left_out, len(prompts), images, diffusion.prompt_limit(pipeline)))
    encoded = encode(accelerator, pipeline, pixels, supports, settings, args) if pending else None

    # ---- every batch of conditions
    for batch in pending[accelerator.process_index :: accelerator.num_processes]:
        if not all(progress.trained(support, args.max_train_steps) for support in batch):
            dreambooth.train(accelerator, pipeline, batch, encoded, args)
        if args.num_images:
            dreambooth.sample(accelerator, pipeline, batch, encoded.text, images.features["label"].names, args)
    accelerator.wait_for_everyone()

    # ---- results
    if accelerator.is_main_process:
        made = [support for batch in pending for support in batch]
        wait_for_files([support.adapter / lora_files.WEIGHTS_NAME for support in made])
        wait_for_files([support.part for support in made if args.num_images])
        progress.keep_checkpoints(batches)
        finish(accelerator, images, supports, settings, left_out, args, started)
    accelerator.wait_for_everyone()


def open_pipeline(args: argparse.Namespace, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The pipeline, and what it decides where a flag was left out: --resolution and --align_faces."""
    name = args.pretrained_model_name_or_path
    pipeline = diffusion.open_pipeline(name, dtype, args.pretrained_vae_model_name_or_path, args.revision, args.variant)
    args.resolution = args.resolution or diffusion.native_side_px(pipeline)
    factor = pipeline.vae_scale_factor
    if args.resolution % factor:
        raise InputError(f"--resolution {args.resolution}: must be a multiple of {factor} for this VAE")
    own = diffusion.face_alignment_of(name)
    args.face_alignment = {None: own, "none": None}.get(args.align_faces, args.align_faces)
    diffusion.set_scheduler(pipeline, args.scheduler)
    if args.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
        pipeline.unet.train()  # only then it is done; a U-Net of Stable Diffusion has no dropout
    return pipeline


def settings_of(
    args: argparse.Namespace, images: datasets.Dataset, pipeline: StableDiffusionPipeline, accelerator: Accelerator
) -> dict:
    """What the images depend on, as JSON reads it back."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    settings |= {"fingerprint": images._fingerprint, "mixed_precision": accelerator.mixed_precision}
    settings["configs_sha256"] = diffusion.configs_sha256(pipeline)
    for network in ("unet", "vae", "text_encoder"):
        settings[f"{network}_sha256"] = weights_sha256(getattr(pipeline, network))
    return json.loads(json.dumps(settings, default=str))


def settings_of_adapters(settings: dict) -> dict:
    """What an adapter's weights depend on besides its photographs."""
    return {name: value for name, value in settings.items() if name not in OTHER_THAN_ADAPTERS}


def prepare(args: argparse.Namespace, settings: dict, supports: list[Support]) -> None:
    """The output folder: another run's results are removed, and what is gone on with is this run's or refused; the
    photographs' derivatives are their owner's alone."""
    resume = bool(args.resume_from_checkpoint)
    parts = ("work", CLASS_LATENTS_NAME, "paper", *(f"fold{number}" for number in range(protocols.N_FOLDS)))
    prepare_output(args.output_dir, settings, parts, (), resume)
    args.output_dir.chmod(0o700)
    if resume:
        progress.check(supports, args.max_train_steps, args.num_images)
        for batch in batches_of(supports, args.adapters_per_batch):
            dreambooth.check_checkpoint(batch, args.max_train_steps)
    for name in RESULTS:
        (args.output_dir / name).unlink(missing_ok=True)
    progress.name_sources(supports)


def terms_left_out(left_out: dict[int, list[str]], n: int, images: datasets.Dataset, limit: int) -> str:
    """For the screen: at how many of n photographs, and the first."""
    row, terms = next(iter(left_out.items()))
    first = f"{images['image_id'][row]}: {', '.join(terms)}"
    what = f"prompts: the text encoder reads {limit} tokens"
    return f"{what}; terms are left out at {len(left_out)} of {n} photographs, first at {first}"


def batches_of(supports: list[Support], size: int) -> list[list[Support]]:
    """Supports of one fold, `size` at a time: the same batches whatever is done already."""
    batches = []
    for folder in dict.fromkeys(support.folder for support in supports):
        own = [support for support in supports if support.folder == folder]
        batches += [own[start : start + size] for start in range(0, len(own), size)]
    return batches


def finish(
    accelerator: Accelerator,
    images: datasets.Dataset,
    supports: list[Support],
    settings: dict,
    left_out: dict[int, list[str]],
    args: argparse.Namespace,
    started: float,
) -> None:
    """The synthetic datasets of the folds, a sheet of samples of each, the record of the run, the upload."""
    written = []
    for folder, own in progress.by_folder(supports).items():
        if args.num_images and all(support.part.is_file() for support in own):
            progress.finish_dataset(folder, own, args.num_images)
            sheet = synthetic_images.contact_sheet(folder / "synthetic")
            write_atomically(folder / synthetic_images.SHEET_NAME, lambda file, sheet=sheet: sheet.save(file, "PNG"))
        written += [f"{folder}/adapters"] + [f"{folder}/synthetic, samples.png"] * bool(args.num_images)
    names, labels = images.features["label"].names, images["label"][:]
    unsaid: dict[str, set[str]] = {}
    for row, terms in left_out.items():
        unsaid.setdefault(names[labels[row]], set()).update(terms)
    cuda = accelerator.device.type == "cuda"
    record = run_record(args, PACKAGES, started) | {
        "dataset": {"fingerprint": images._fingerprint, "config_name": images.config_name, "n_images": len(images)},
        "adapters": [
            {
                "fold": support.fold.number,
                "condition": support.condition,
                "n_photographs": len(support.rows),
                "adapter_sha256": lora_files.sha256(support.adapter),
            }
            for support in supports
        ],
        "terms_left_out": {condition: sorted(terms) for condition, terms in sorted(unsaid.items())},
        "settings_sha256": settings_digest(settings_of_adapters(settings)),  # as the adapters' files have it
        **{name: settings[name] for name in ("unet_sha256", "vae_sha256", "text_encoder_sha256", "configs_sha256")},
        "seeds": [args.seed],
        "simulated": is_simulated(images),
        "device": device_name(accelerator),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(accelerator.device) if cuda else None,
        "n_processes": accelerator.num_processes,
    }
    write_json(args.output_dir / "run.json", record)
    shutil.rmtree(args.output_dir / "work")
    card = model_card(args, len(supports), is_simulated(images))
    (args.output_dir / "README.md").write_text(card, encoding="utf-8")
    print("written: " + "; ".join(written))
    if args.push_to_hub:
        url = model_upload.push(args.output_dir, args.hub_model_id, args.hub_token, card, PUBLISHED_FILES)
        print(f"uploaded: {url} (private)")


def model_card(args: argparse.Namespace, n_adapters: int, simulated: bool) -> str:
    base = diffusion.base_name(args.pretrained_model_name_or_path)
    facts = [
        f"base: `{base}` at {args.resolution} px; its licence holds for the adapters too",
        f"{n_adapters} adapters of rank {args.rank}, alpha {args.lora_alpha:g}, {args.max_train_steps} steps, "
        f"learning rate {args.learning_rate:g}, protocol {args.protocol}",
        f"prompt: `{args.instance_prompt}`",
    ]
    return model_upload.adapter_card(base, facts, simulated)


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
