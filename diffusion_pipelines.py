"""Stable Diffusion pipelines: opened or refused in one line, their words and encoders, and sampling from them.

pipeline = open_pipeline("demo_models/diffusion", dtype=torch.float32)
pictures, flagged = sample(pipeline, embeddings, negative, seeds=[1, 2], side_px=128, steps=15, guidance=7.5)
"""

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.utils import logging
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedTokenizerBase

from built_dataset import work_offline_where_the_hub_is_unreachable
from runs import InputError, one_line, read_json

logging.disable_progress_bar()

# What samples; None: the one that the pipeline came with.
SCHEDULERS = {"dpmsolver++": DPMSolverMultistepScheduler, "ddim": DDIMScheduler, "pipeline": None}
PROMPT_FIELDS = ("disease_abbr", "disease_name", "rare_token", "with_terms")
RARE_TOKEN_LETTERS = (3, 4)
TRAINING_RECORD = "training.json"  # beside a miniature of this project: how its pictures were cut out


def open_pipeline(
    name: str,
    dtype: torch.dtype,
    vae_name: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> StableDiffusionPipeline:
    """A Stable Diffusion 1.x or 2.x pipeline from a folder or the Hub, every network frozen and in evaluation mode.

    vae_name: folder or ORG/NAME of another VAE; dtype: of all weights. Only safetensors are read. Raises InputError
    where there is no such pipeline, or one that this project cannot train (inpainting, SDXL, pixel space)."""
    for flag, place in (("--pretrained_model_name_or_path", name), ("--pretrained_vae_model_name_or_path", vae_name)):
        if place is None or Path(place).is_dir():
            continue
        if place.count("/") != 1 or place[0] in "./~":
            raise InputError(f"{flag} {place}: there is no such folder; give one in diffusers' layout or ORG/NAME")
        work_offline_where_the_hub_is_unreachable()
    how = {"dtype": dtype, "use_safetensors": True}
    try:
        parts = {"vae": AutoencoderKL.from_pretrained(vae_name, **how)} if vae_name else {}
        pipeline = StableDiffusionPipeline.from_pretrained(name, revision=revision, variant=variant, **how, **parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, HFValidationError) as error:
        remedy = "give a StableDiffusionPipeline folder with safetensors, or log in if it is gated"
        raise InputError(f"--pretrained_model_name_or_path {name}: {one_line(error)[:300]}; {remedy}") from error
    channels, latent = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if channels != latent:
        raise InputError(f"{name}: its U-Net takes {channels} channels and its VAE gives {latent}: no text-to-image")
    if pipeline.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(f"{name}: prediction_type {pipeline.scheduler.config.prediction_type} cannot be trained here")
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def face_alignment_of(name: str) -> str | None:
    """The detector with which the pictures that a miniature was trained on were cut out; None: whole photographs."""
    record = Path(name) / TRAINING_RECORD
    return read_json(record, "make the miniature again").get("face_alignment") if record.is_file() else None


def base_name(name: str) -> str:
    """As given, but of an absolute path the last part only: it stands in what may be published."""
    return Path(name).name if Path(name).is_absolute() else name


def native_side_px(pipeline: StableDiffusionPipeline) -> int:
    """The side of the square pictures that the U-Net was trained for."""
    return pipeline.unet.config.sample_size * pipeline.vae_scale_factor


# ------------------------------------------------------------------------------------------------------------- words


def rare_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Short words that are one entry of the vocabulary each, rarest first: identifiers without a meaning of their own
    (Ruiz et al., DreamBooth, CVPR 2023, arXiv 2208.12242, section 3.2).

    Byte-pair vocabularies grow by frequency, so the last entries are the rarest. Empty where there are none, as in
    a vocabulary of characters."""
    specials, found = set(tokenizer.all_special_ids), []
    for number in range(len(tokenizer) - 1, -1, -1):
        word = "" if number in specials else tokenizer.decode([number]).strip()
        fits = len(word) in RARE_TOKEN_LETTERS and word.isascii() and word.isalpha() and word.islower()
        if fits and tokenizer(f"a {word} child", add_special_tokens=False).input_ids[1:-1] == [number]:
            found.append(word)
    return found


def check_template(template: str, flag: str) -> None:
    """Raise InputError for a prompt that names another field than PROMPT_FIELDS."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise InputError(f"{flag} {template!r}: {one_line(error)}; fields are written {{disease_abbr}}") from error
    unknown = sorted(fields - set(PROMPT_FIELDS))
    if unknown:
        known = ", ".join(f"{{{field}}}" for field in PROMPT_FIELDS)
        raise InputError(f"{flag}: there is no field {{{unknown[0]}}}; use {known}")


# ---------------------------------------------------------------------------------------------------------- encoders


@torch.no_grad()
def encode_pictures(
    pipeline: StableDiffusionPipeline, pixels: np.ndarray, batch_size: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the scaled latents of pictures (n, s, s, 3) uint8: (n, c, h, w) float32 each."""
    means, deviations = [], []
    for start in range(0, len(pixels), batch_size):
        batch = torch.from_numpy(np.array(pixels[start : start + batch_size])).permute(0, 3, 1, 2)
        batch = batch.to(pipeline.device, pipeline.vae.dtype) / 127.5 - 1
        latents = pipeline.vae.encode(batch).latent_dist
        means.append(latents.mean.float().cpu())
        deviations.append(latents.std.float().cpu())
    scale = pipeline.vae.config.scaling_factor
    return torch.cat(means) * scale, torch.cat(deviations) * scale


def token_ids(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> torch.Tensor:
    """(n, t) int64, cut or filled up to the tokenizer's length."""
    padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return pipeline.tokenizer(list(prompts), max_length=pipeline.tokenizer.model_max_length, **padded).input_ids


def encode_prompts(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings (n, t, d); gradients reach whatever of the text encoder is trained."""
    return pipeline.text_encoder(token_ids(pipeline, prompts).to(pipeline.device))[0]


# ---------------------------------------------------------------------------------------------------------- sampling


def set_scheduler(pipeline: StableDiffusionPipeline, name: str) -> None:
    """Sample with the solver of that name in SCHEDULERS from here on."""
    if SCHEDULERS[name]:
        pipeline.scheduler = SCHEDULERS[name].from_config(pipeline.scheduler.config)


@torch.no_grad()
def sample(
    pipeline: StableDiffusionPipeline,
    embeddings: torch.Tensor,
    negative: torch.Tensor,
    seeds: Sequence[int],
    side_px: int,
    steps: int,
    guidance: float,
    latents_only: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (b, side, side, 3) uint8 and whether the pipeline's safety checker blackened each, (b,) bool.

    embeddings, negative (b, t, d): of the prompts, and of what to stay away from; seeds (b,): one picture's noise each,
    drawn on the CPU, so that a picture depends on its own seed, and on the batch by rounding only; guidance: weight of
    classifier-free guidance (Ho & Salimans, 2022, arXiv 2207.12598), 1 for none. latents_only: scaled latents
    (b, c, h, w) float32 instead of pictures."""
    made = pipeline(
        prompt_embeds=embeddings,
        negative_prompt_embeds=negative,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=side_px,
        width=side_px,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent" if latents_only else "np",
    )
    flagged = np.array(made.nsfw_content_detected or [False] * len(seeds))
    if latents_only:
        return made.images.float().cpu().numpy(), flagged
    return (255 * made.images).round().astype(np.uint8), flagged
