"""DreamBooth with LoRA: an adapter for every condition and fold, and synthetic faces from it or from words.

    accelerate launch train_dreambooth.py --dataset_name ./rdface --protocol strict --fold all \\
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/dreambooth

An adapter sees its condition's training photographs of its fold and nothing else (Ruiz et al., DreamBooth, CVPR 2023,
arXiv 2208.12242). With --prompts_from conditions each image shows another person, drawn from what is annotated of the
condition, also without any adapter (--adapter none). The published procedure fine-tunes all weights instead (Feng et
al., RDFace, CVPR 2026, arXiv 2604.03454). With --adapters_per_batch several adapters are trained at once over one
frozen U-Net. Each process takes batches of conditions of its own, so the results do not depend on the number of
processes. Writes OUT/fold0/adapters/<ABBR>/ (`paper` in place of `fold0`) with pytorch_lora_weights.safetensors for
`pipeline.load_lora_weights`, and OUT/fold0/synthetic for `load_dataset`. OUT/fold0/checkpoints keeps the training
states, about three times the size of the adapters: with --resume_from_checkpoint latest a finished run continues with
more --max_train_steps, or gets more --num_images.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.protocols import fold_number
from generation import generator_choices, prompts
from harness.commands import RESUMED, Parser, dataset_argument, from_args, path_argument, run_command
from harness.common_options import add_dataset, add_output
from harness.counts import counted
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.protocol_names import PROTOCOLS
from harness.run_folder import finish_output, run_record
from imaging.detector_names import FACE_DETECTORS

if TYPE_CHECKING:
    from datasets import Dataset
    from diffusers import StableDiffusionPipeline

    from phenotyping.condition_prior import TermTable

STOPPED = RESUMED

PROMPTS = {"paper": "photo of a {disease_abbr} child", "strict": "photo of a {rare_token} child"}
PACKAGES = ("torch", "diffusers", "transformers", "peft", "datasets", "accelerate", "safetensors", "numpy")
# What may differ between a run and the one it resumes: none of it changes an image.
FREE_SETTINGS = ("output_dir", "resume_from_checkpoint", "checkpointing_steps", "cache_dir", "sample_batch_size")
FREE_SETTINGS += ("push_to_hub", "hub_model_id", "hub_token", "dataset_name", "pretrained_model_name_or_path")
FREE_SETTINGS += ("pretrained_vae_model_name_or_path", "revision", "variant")  # the networks' digests stand for them
FREE_SETTINGS += ("term_table",)  # its content's digest stands for it
FREE_SETTINGS += ("max_train_steps", "num_images")  # may grow
OTHER_THAN_ADAPTERS = ("fold", "conditions")  # settings that choose which adapters there are, and change none
RESULTS = ("run.json", "README.md")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_dataset(add)
    text = "Stable Diffusion 1.x or 2.x: a folder in diffusers' layout, ORG/NAME on the Hub, or FILE.safetensors with"
    text += " the pipeline's settings in the folder FILE beside it"
    add("--pretrained_model_name_or_path", type=dataset_argument, required=True, help=text)
    text = "another VAE to use instead of the pipeline's own, as the paper does"
    add("--pretrained_vae_model_name_or_path", type=dataset_argument, help=text)
    add("--revision", help="commit or tag of the pipeline on the Hub (default: the newest)")
    text = "which of the pipeline's weight files to read, such as fp16 (default: those without a variant)"
    add("--variant", help=text)
    text = "whose training sides to train on; under paper one adapter per condition serves all folds"
    add("--protocol", choices=PROTOCOLS, default="strict", help=text)
    add("--fold", type=fold_number, default="all", help="all, or the number of one fold")
    add("--conditions", nargs="+", metavar="ABBR", help="train adapters for these conditions only (default: all)")
    text = "train on this many photographs per condition, drawn by --seed (default: all)"
    add("--k_shot", type=int, help=text)
    text = "side of the square pictures in px (default: the side the pipeline was trained with)"
    add("--resolution", type=int, help=text)
    text = "detector that cuts out the faces; none: the whole photograph, in a black square (default: the setting the"
    text += " pipeline was trained with, else none)"
    add("--align_faces", choices=[*FACE_DETECTORS, "none"], help=text)
    fields = ", ".join(f"{{{field}}}" for field in prompts.PROMPT_FIELDS)
    text = f"prompt with any of the fields {fields} (default: {PROMPTS['strict']!r}; under paper {PROMPTS['paper']!r})"
    add("--instance_prompt", help=text.replace("%", "%%"))
    text = "what the images are asked for: the prompts of the condition's photographs, or a person drawn anew for each"
    text += " image from what is annotated of the condition"
    add("--prompts_from", choices=generator_choices.PROMPTS_FROM, default="instance", help=text)
    text = "with --prompts_from conditions: sample from the base alone, or from an adapter per condition and fold"
    text += " (default: none; condition with --prompts_from instance)"
    add("--adapter", choices=generator_choices.ADAPTERS, help=text)
    text = "CSV with the columns orphanet_code, hpo_id, frequency, instead of the project's own table"
    add("--term_table", type=path_argument, help=text)
    text = "also train on what the base model makes of --class_prompt, so that adapters do not forget it"
    add("--with_prior_preservation", action="store_true", help=text)
    add("--class_prompt", default="photo of a child", help="prompt of the prior's pictures")
    add("--prior_loss_weight", type=float, default=1.0, help="weight of the prior's loss; the photographs' has 1")
    add("--num_class_images", type=int, default=100, help="pictures of the prior, sampled once for all conditions")
    add("--train_text_encoder", action="store_true", help="adapt the text encoder too, which the paper trains as well")
    add("--rank", type=int, default=4, help="rank of the low-rank updates")
    add("--lora_alpha", type=float, help="updates are scaled by alpha / rank (default: the rank)")
    text = "adapters trained together; more need more memory for activations, and less time per adapter"
    add("--adapters_per_batch", type=int, default=4, help=text)
    add("--train_batch_size", type=int, default=1, help="photographs per adapter and step")
    text = "training steps of each adapter; a higher number continues a finished run"
    add("--max_train_steps", type=int, default=800, help=text)
    add("--learning_rate", type=float, default=1e-4, help="learning rate of AdamW, constant")
    add("--max_grad_norm", type=float, default=1.0, help="largest norm of each adapter's gradient")
    text = "recompute activations in the backward pass: less memory, more time"
    add("--gradient_checkpointing", action="store_true", help=text)
    text = "precision of the frozen networks; adapters are always float32 (default: the setting of accelerate launch)"
    add("--mixed_precision", choices=generator_choices.MIXED_PRECISION, help=text)
    text = "synthetic images per adapter; 0: none; a higher number adds images to a finished run"
    add("--num_images", type=int, default=100, help=text)
    add("--sample_batch_size", type=int, default=8, help="images sampled together, also from different adapters")
    text = "solver that samples; dpmsolver++ needs half the steps of the solver that most pipelines come with"
    add("--scheduler", choices=generator_choices.SCHEDULERS, default="dpmsolver++", help=text)
    text = "steps of the solver; the paper takes 30, with the pipeline's own solver"
    add("--num_inference_steps", type=int, default=15, help=text)
    add("--guidance_scale", type=float, default=7.5, help="weight of classifier-free guidance; 1: no guidance")
    add("--negative_prompt", default="", help="what the images should stay away from")
    add("--seed", type=int, default=0, help="seed of adapters, noise, and the draw of --k_shot")
    add_output(add)
    text = "steps between two checkpoints of the adapters that are trained together"
    add("--checkpointing_steps", type=int, default=100, help=text)
    add("--push_to_hub", action="store_true", help="upload the adapters with a card to a private repository")
    add("--hub_model_id", help="ORG/NAME (default: the name of --output_dir, under your account)")
    add("--hub_token", help="token of the Hub (default: HF_TOKEN, or the login)")
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
    check_adapter(parser, args)
    args.instance_prompt = args.instance_prompt or PROMPTS[args.protocol]
    args.lora_alpha = args.lora_alpha or float(args.rank)


def check_adapter(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that mean nothing beside --prompts_from and --adapter, whose default is set here."""
    by_words = args.prompts_from == "conditions"
    args.adapter = args.adapter or (generator_choices.NONE if by_words else generator_choices.CONDITION)
    if not by_words and args.adapter != generator_choices.CONDITION:
        parser.error(f"--adapter {args.adapter} requires --prompts_from conditions")
    if not by_words and args.term_table:
        parser.error("--term_table requires --prompts_from conditions")
    own_prompt = args.instance_prompt not in (None, "", PROMPTS[args.protocol])  # a record names the default one, too
    if args.adapter == generator_choices.PHENOTYPE and own_prompt:
        parser.error("--instance_prompt is of no use with --adapter phenotype, whose captions say what is recorded")
    if args.adapter == generator_choices.NONE:
        flags = ("with_prior_preservation", "train_text_encoder", "push_to_hub")
        for flag in [*(["instance_prompt"] if own_prompt else []), *(flag for flag in flags if getattr(args, flag))]:
            parser.error(f"--{flag} requires an adapter; give --adapter condition, or leave it out")
        if not args.num_images:
            parser.error("--num_images 0 leaves nothing to do with --adapter none")


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    check_name(args.dataset_name, "build it with rdface_dataset.py")
    prompts.check_template(args.instance_prompt, "--instance_prompt")
    base, other_vae = args.pretrained_model_name_or_path, args.pretrained_vae_model_name_or_path
    by_words, trains = args.prompts_from == "conditions", args.adapter != generator_choices.NONE
    table = open_term_table(args.term_table) if by_words else {}
    work_offline_if_unreachable([args.dataset_name, base, other_vae])
    # Imported here, since they take seconds: what is refused above, and --help, must not wait for them.
    from curation.opening import is_simulated, load_images
    from generation import (
        condition_prompts,
        dreambooth,
        dreambooth_encoding,
        lora_files,
        phenotype_captions,
        support_sets,
    )
    from generation import diffusion_pipelines as diffusion
    from generation import dreambooth_progress as progress
    from generation.training_provenance import settings_digest
    from harness.launched_processes import (
        check_output_dir,
        device_record,
        in_main_process,
        open_accelerator,
        own_share,
        wait_for_files,
    )
    from imaging.pixel_cache import cached_pixels
    from publishing import model_upload

    accelerator = open_accelerator(args.mixed_precision)
    places = (args.output_dir, [args.dataset_name], args.cache_dir)
    check_output_dir(accelerator, *places)

    # ---- dataset, folds, pipeline: everything that can be refused is refused before anything slow begins
    with accelerator.main_process_first():  # the main process fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    choice = (args.protocol, args.fold, args.conditions, args.k_shot, args.seed)
    folds = support_sets.open_folds(images, *choice, every_one_trains=trains)
    class_names = images.features["label"].names
    if by_words:
        known = condition_prompts.annotated(images, args.conditions, table, args.term_table)
    if args.push_to_hub:
        args.hub_model_id = model_upload.check_access(args.hub_model_id or args.output_dir.name, args.hub_token)
    dtype = diffusion.WEIGHT_TYPES[accelerator.mixed_precision]
    with accelerator.main_process_first():
        pipeline = diffusion.open_pipeline(base, dtype, other_vae, args.revision, args.variant)
    args.resolution = args.resolution or diffusion.native_side_px(pipeline)
    diffusion.check_side_px(pipeline, args.resolution)
    trained_with = diffusion.face_alignment_of(base)
    args.face_alignment = {None: trained_with, "none": None}.get(args.align_faces, args.align_faces)
    diffusion.set_scheduler(pipeline, args.scheduler)
    if args.gradient_checkpointing:
        diffusion.enable_gradient_checkpointing(pipeline)
    conditions = list(known.code_of) if by_words else args.conditions
    shared = args.adapter == generator_choices.PHENOTYPE  # one adapter per fold, for all conditions
    rows = support_sets.all_rows(images, folds, None if shared else conditions) if trains else []
    prompt_of_row, left_out = fitting_prompts(images, [] if shared else rows, pipeline, args)
    digests = diffusion.digests(pipeline) | ({"term_table_sha256": settings_digest(table)} if by_words else {})
    settings = settings_of(args, images._fingerprint, digests, accelerator.mixed_precision)
    digest_of_settings = settings_digest(settings_of_adapters(settings))

    # ---- supports: what each adapter may see, and what the folder holds of it already
    more = (args.output_dir, args.seed, args.k_shot, digest_of_settings)
    fits, drawn = functools.partial(prompts.fits, pipeline), {}
    tokens = phenotype_captions.open_tokens(class_names, prompts.rare_tokens(pipeline.tokenizer))
    if by_words:
        template = args.instance_prompt if trains else ""
        named = tokens.of_condition if shared else prompts.identifiers(class_names, pipeline.tokenizer, template)
        drawn = condition_prompts.open_prompts(images, folds, known, table, named, args.seed, fits)
    if shared:
        said = (tokens, table, args.seed, args.resolution, fits)
        captions = [phenotype_captions.open_captions(images, fold, *said) for fold in folds]
        of_folds = zip(folds, captions, strict=True)
        learners = [support_sets.open_phenotype_support(images, *of_fold, *more) for of_fold in of_folds]
        supports = [each for own in learners for each in support_sets.sampled_from(own, images, conditions, drawn)]
    elif trains:
        learners = supports = support_sets.open_supports(images, folds, conditions, prompt_of_row, drawn, *more)
    else:
        learners, supports = [], support_sets.open_word_supports(images, folds, conditions, drawn, *more)
    if by_words:
        of_words = condition_prompts.record(known, [support.drawn for support in supports], args.num_images)
        accelerator.print(condition_prompts.summary(of_words, prompts.prompt_limit(pipeline)))
    batches = support_sets.batches_of(supports, args.adapters_per_batch)
    learning = support_sets.batches_of(learners, args.adapters_per_batch)
    lengths = (args.max_train_steps, args.num_images)
    parts, resume = ("work", dreambooth_encoding.PRIOR_NAME), bool(args.resume_from_checkpoint)
    to_make = (supports, learning, *lengths)
    in_main_process(accelerator, lambda: progress.prepare(args.output_dir, settings, parts, RESULTS, *to_make, resume))
    pipeline.to(accelerator.device)
    if trains:
        pixels = cached_pixels(accelerator, images, args.resolution, args.face_alignment, args.cache_dir, padded=True)
        support_sets.admit(learners, images, pixels)
    finished = in_main_process(  # it alone looks, so that all agree, and nobody finishes a batch before the others look
        accelerator, lambda: [all(progress.done(support, *lengths) for support in batch) for batch in batches]
    )
    pending = [batch for batch, done in zip(batches, finished, strict=True) if not done]
    n_done = f"{len(batches) - len(pending)} of {len(batches)} batches done before"
    shown = f"faces aligned by {args.face_alignment}" if args.face_alignment else "whole photographs"
    trained = f"{counted(len(learners), 'adapter')} of rank {args.rank}, {args.adapters_per_batch} at once ({n_done}), "
    trained += f"{counted(args.max_train_steps, 'step')}, then {counted(args.num_images, 'image')} each"
    untrained = f"no adapter, {counted(args.num_images, 'image')} per condition and fold ({n_done})"
    simulated = is_simulated(images)
    seen = f"{counted(len(rows), 'training photograph')}, {shown}, of" if trains else "no photograph is needed for"
    accelerator.print(
        f"{args.dataset_name} ({'SIMULATED, ' * simulated}config {images.config_name}, "
        f"fingerprint {images._fingerprint}): {seen} "
        f"{counted(len({support.condition for support in supports}), 'condition')}\n"
        f"{base} at {args.resolution} px, protocol {args.protocol}, "
        f"{trained if trains else untrained}; "
        f"{counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device}, "
        f"{accelerator.mixed_precision} mixed precision"
    )
    if left_out:
        limit = prompts.prompt_limit(pipeline)
        accelerator.print(prompts.terms_left_out(left_out, len(prompt_of_row), images["image_id"][:], limit))

    # ---- what the frozen encoders make of photographs and prompts, once
    encoded = dreambooth_encoding.without_photographs(pipeline, [args.negative_prompt])
    if pending and trains:
        words = [*sorted(set(prompt_of_row.values())), *reversed(fixed_prompts(args).values())]
        encoded = dreambooth_encoding.encode(pipeline, pixels.uint8, rows, [] if args.train_text_encoder else words)
        if args.with_prior_preservation:
            prior = from_args(dreambooth_encoding.Prior, args)
            file = args.output_dir / dreambooth_encoding.PRIOR_NAME
            latents = dreambooth_encoding.prior_latents(accelerator, pipeline, prior, file, digest_of_settings)
            encoded.class_latents = latents

    # ---- every batch of conditions
    training = from_args(dreambooth.Training, args)
    sampling = from_args(dreambooth.Sampling, args, base_model=diffusion.base_name(base))
    if shared:
        left = [own for own in learning if not progress.trained(own[0], args.max_train_steps)]
        for own in own_share(accelerator, left):
            progress.remove_parts(supports, own[0].folder)  # images of the adapter as it was before
            dreambooth.train(accelerator, pipeline, own, encoded, training)
        accelerator.wait_for_everyone()
    for batch in pending[accelerator.process_index :: accelerator.num_processes]:
        if not all(progress.trained(support, args.max_train_steps) for support in batch):
            dreambooth.train(accelerator, pipeline, batch, encoded, training)
        if args.num_images:
            dreambooth.sample(accelerator, pipeline, batch, encoded.text, class_names, training, sampling)
    accelerator.wait_for_everyone()

    # ---- results
    if accelerator.is_main_process:
        changed = [support for batch in pending for support in batch]
        wait_for_files([support.adapter / lora_files.WEIGHTS_NAME for support in changed if support.adapter])
        wait_for_files([support.part for support in changed if args.num_images])
        progress.keep_checkpoints(learning)
        written = progress.finish_datasets(supports, args.num_images)
        record = run_record(vars(args), PACKAGES, started) | {
            "dataset": {"fingerprint": images._fingerprint, "config_name": images.config_name, "n_images": len(images)},
            "adapters": progress.adapter_records(learners),
            "terms_left_out": prompts.by_condition(left_out, class_names, images["label"][:]),
            **({"words": of_words} if by_words else {}),
            "settings_sha256": digest_of_settings,  # the adapters' files hold the same
            **digests,
            "seeds": [args.seed],
            "simulated": simulated,
            **device_record(accelerator),
        }
        finish_output(args.output_dir, record)
        if (args.output_dir / "work").exists():  # not if everything was finished before
            shutil.rmtree(args.output_dir / "work")
        if trains:
            card = model_upload.adapter_card(base, card_facts(args, len(learners)), simulated)
            (args.output_dir / "README.md").write_text(card, encoding="utf-8")
        print("written: " + "; ".join(written))
        if args.push_to_hub:
            # The adapters' sources.json stay here: they name photographs.
            files = ("README.md", f"*/adapters/*/{lora_files.WEIGHTS_NAME}")
            url = model_upload.push(args.output_dir, args.hub_model_id, args.hub_token, card, files)
            print(f"uploaded: {url} (private)")
    accelerator.wait_for_everyone()


def open_term_table(file: Path | None) -> TermTable:
    """The table of --term_table, or the project's own. Raises InputError, with the row, for one that cannot be used."""
    from curation.value_parsers import exists_in_hpo
    from phenotyping import condition_prior

    return condition_prior.read_term_table(file, exists_in_hpo) if file else condition_prior.project_table()


def fixed_prompts(args: argparse.Namespace) -> dict[str, str]:
    """The prompts that are the same for all photographs, by their flags."""
    class_prompt = {"--class_prompt": args.class_prompt} if args.with_prior_preservation else {}
    return {"--negative_prompt": args.negative_prompt} | class_prompt


def fitting_prompts(
    images: Dataset, rows: Sequence[int], pipeline: StableDiffusionPipeline, args: argparse.Namespace
) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Row -> prompt, and row -> HPO terms that were left out of it. Raises InputError for a prompt that is too long."""
    for flag, prompt in fixed_prompts(args).items():
        prompts.check_prompt(pipeline, prompt, flag)
    return prompts.fitting_prompts(images, rows, args.instance_prompt, pipeline)


def settings_of(args: argparse.Namespace, fingerprint: str, digests: dict[str, str], mixed_precision: str) -> dict:
    """What the images depend on, in the form in which JSON returns it; digests: of the pipeline's parts."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    if args.prompts_from == "instance":  # so that runs begun before there were others can be continued
        settings = {name: value for name, value in settings.items() if name not in ("prompts_from", "adapter")}
    settings |= {"fingerprint": fingerprint, "mixed_precision": mixed_precision} | digests
    return json.loads(json.dumps(settings, default=str))


def settings_of_adapters(settings: dict) -> dict:
    """What an adapter's weights depend on besides its photographs."""
    return {name: value for name, value in settings.items() if name not in OTHER_THAN_ADAPTERS}


def card_facts(args: argparse.Namespace, n_adapters: int) -> list[str]:
    """The lines of the model card."""
    return [
        f"pictures of {args.resolution} px",
        f"{n_adapters} adapters of rank {args.rank}, alpha {args.lora_alpha:g}, {args.max_train_steps} steps, "
        f"learning rate {args.learning_rate:g}, protocol {args.protocol}",
        f"prompt: `{args.instance_prompt}`",
    ]


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
