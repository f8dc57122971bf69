"""Stable Diffusion pipelines: opened, or refused in one line; their encoders, and sampling from them.

pipeline = open_pipeline("demo_models/diffusion", dtype=torch.float32)
pictures, flagged = sample(pipeline, embeddings, negative, seeds=[1, 2], side_px=128, steps=15, guidance=7.5)
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel

from generation.prompts import check_prompt, prompt_limit
from harness.errors import InputError, one_line
from harness.files import read_json
from harness.weights_digest import weights_sha256

logging.disable_progress_bar()

NETWORKS = {
    "unet": (UNet2DConditionModel, "its U-Net"),
    "vae": (AutoencoderKL, "its VAE"),
    "text_encoder": (CLIPTextModel, "its text encoder"),
}
MAY_BE_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
NOISE_SETTINGS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")  # of a scheduler
# Settings of a U-Net that needs more inputs than words; "text" uses the words once more, and is fine.
OTHER_CONDITIONS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
SCALING_FACTOR = 0.18215  # of Stable Diffusion, for a VAE whose config does not give one
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# What libraries raise for files that are damaged, missing, or of another kind.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError)
UNREADABLE += (NotImplementedError, AssertionError, HFValidationError, SafetensorError, SingleFileComponentError)
LACKS = "a Stable Diffusion pipeline, or has others than the settings beside it say"

# The solvers that sample, by their names in generation.generator_choices; None: the one that the pipeline came with.
SCHEDULERS = {"dpmsolver++": DPMSolverMultistepScheduler, "ddim": DDIMScheduler, "pipeline": None}
# Entries of a config that say nothing about how a network is built.
NO_PART_OF_A_CONFIG = ("transformers_version", "dtype", "torch_dtype", "architectures")
WEIGHT_TYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # by mixed precision
TRAINING_RECORD = "training.json"  # in the folder of a miniature of this project: how its pictures were cut out


def open_pipeline(
    name: str, dtype: torch.dtype, vae_name: str | None = None, revision: str | None = None, variant: str | None = None
) -> StableDiffusionPipeline:
    """A Stable Diffusion 1.x or 2.x pipeline, every network frozen and in evaluation mode.

    name: folder in diffusers' layout, ORG/NAME on the Hub, or one file FILE.safetensors with all weights, beside which
    the pipeline's settings lie (configs_beside); vae_name: folder or ORG/NAME of another VAE; dtype: of all weights;
    revision: commit or tag on the Hub; variant: of the weight files, such as fp16. Only safetensors are read.
    Raises InputError if there is no such pipeline, if weights are missing, left over or not finite, or if this project
    cannot train it (inpainting, SDXL, flow matching, pixel space)."""
    flag = "--pretrained_model_name_or_path"
    for own_flag, place in ((flag, name), ("--pretrained_vae_model_name_or_path", vae_name)):
        if place is None or Path(place).is_dir() or (own_flag == flag and Path(place).is_file()):
            continue
        if place.count("/") != 1 or place[0] in "./~":
            raise InputError(f"{own_flag} {place}: there is no such folder; give one in diffusers' layout or ORG/NAME")
    configs = configs_beside(Path(name), flag) if Path(name).is_file() else None
    options = {"dtype": dtype, "use_safetensors": True}
    try:
        parts = {"vae": _network(AutoencoderKL, vae_name, "its VAE", **options)} if vae_name else {}
        if configs or Path(name).is_dir():
            check_folders(configs or Path(name), only_configs=configs is not None)
        if configs:
            options = {"dtype": dtype, "config": str(configs), "local_files_only": True}
            pipeline = StableDiffusionPipeline.from_single_file(name, **options, **parts)
        else:
            options |= {"revision": revision, "variant": variant}
            for part, (network_class, title) in NETWORKS.items():
                if part not in parts:
                    parts[part] = _network(network_class, name, title, subfolder=part, **options)
            pipeline = StableDiffusionPipeline.from_pretrained(name, **options, **parts)
        check_pipeline(pipeline)
        if vae_name:
            own_vae = AutoencoderKL.load_config(str(configs or name), subfolder="vae", revision=revision)
            check_same_latents(pipeline.vae.config, own_vae)
        for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            network.requires_grad_(False).eval()
        check_one_pass(pipeline)
    except UNREADABLE as error:
        remedy = "give a StableDiffusionPipeline folder with safetensors, or log in if it is gated"
        if "safety_checker" in str(error):
            remedy = "add its files, or write [null, null] for safety_checker in model_index.json"
        if configs and ("meta tensor" in str(error) or isinstance(error, SingleFileComponentError)):
            raise InputError(
                f"{flag} {name}: lacks weights of {LACKS}; download it again, or convert it anew"
            ) from error
        there = "" if configs or Path(name).is_dir() else "there is no such folder, and on the Hub: "
        reason = one_line(error).partition(". If you want to instead")[0].rstrip(".")
        raise InputError(f"{flag} {name}: {there}{reason[:300]}; {remedy}") from error
    except Unfit as error:
        raise InputError(f"{flag} {name}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def configs_beside(file: Path, flag: str) -> Path:
    """The folder with the settings of a pipeline whose weights are all in one file: model_index.json, tokenizer,
    scheduler, and a config.json for each network. The file itself holds none of these, and nothing is guessed.

    The folder has the name of the file without its ending, or it is the folder that the file lies in. Raises InputError
    if neither holds the settings, or if the file may contain code."""
    if file.suffix != ".safetensors":
        reason = "such a file may run code when it is opened" if file.suffix in PICKLES else "is no .safetensors file"
        raise InputError(f"{flag} {file}: {reason}; give FILE.safetensors, or a folder in diffusers' layout")
    for folder in (file.with_suffix(""), file.parent):
        if (folder / "model_index.json").is_file():
            return folder
    what = "model_index.json, tokenizer, scheduler, and config.json of unet, vae and text_encoder"
    reason = f"one file holds the weights alone; put the settings of its pipeline ({what}) into {file.with_suffix('')}"
    remedy = "or convert it with diffusers' scripts/convert_original_stable_diffusion_to_diffusers.py"
    raise InputError(f"{flag} {file}: {reason}, {remedy}")


def check_folders(folder: Path, only_configs: bool) -> None:
    """Raise Unfit if model_index.json names a part that has no folder, such as the safety checker.

    only_configs: the weights are in one file, which holds no safety checker."""
    for part, kind in json.loads((folder / "model_index.json").read_text(encoding="utf-8")).items():
        named = isinstance(kind, list) and kind[0] is not None
        if named and not (folder / part).is_dir():
            remedy = (
                f"add its files, or write [null, null] for {part} there" if part in MAY_BE_LEFT_OUT else "add its files"
            )
            raise Unfit(f"model_index.json names {part}, and there is no folder of that name; {remedy}")


class Unfit(Exception):
    """Why a pipeline cannot be trained here; open_pipeline puts the pipeline's name before the message."""


def _network(network_class: type, name: str, title: str, **options: object) -> nn.Module:
    """A network all of whose weights were found in its file; Unfit is raised if one is missing or left over.

    The libraries give missing weights random values, with a warning only. A text encoder may lie in the file of a
    larger model, so weights may be left over there. title: of the network, for messages; options: of from_pretrained.
    """
    verbosity = logging.get_verbosity(), transformers.logging.get_verbosity()
    logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    try:
        if network_class is CLIPTextModel:
            options["ignore_mismatched_sizes"] = True  # otherwise it raises without naming the weight; checked below
        network, loaded = network_class.from_pretrained(name, output_loading_info=True, **options)
    finally:
        logging.set_verbosity(verbosity[0])
        transformers.logging.set_verbosity(verbosity[1])
    if loaded["missing_keys"]:
        raise Unfit(f"{title} lacks {min(loaded['missing_keys'])} in its file; download it again, or convert it anew")
    for key, in_file, expected in sorted(loaded["mismatched_keys"]):
        raise Unfit(f"{title} has {key} of shape {tuple(in_file)} in its file and {tuple(expected)} by its config")
    if network_class is not CLIPTextModel and loaded["unexpected_keys"]:
        left_over = min(loaded["unexpected_keys"])
        reason = f"has no place for {left_over}, which its file holds"
        raise Unfit(f"{title} {reason}; it is of another kind than its config")
    return network


def check_pipeline(pipeline: StableDiffusionPipeline) -> None:
    """Raise Unfit for a pipeline of a kind that cannot be trained here, or whose parts do not fit together."""
    unet, vae, text = pipeline.unet.config, pipeline.vae.config, pipeline.text_encoder.config
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        channels = f"takes {unet.in_channels} and gives {unet.out_channels} channels"
        raise Unfit(f"its U-Net {channels} and its VAE gives {vae.latent_channels}: no text-to-image")
    scheduler, name = pipeline.scheduler.config, type(pipeline.scheduler).__name__
    prediction = scheduler.get("prediction_type")
    if prediction is None or scheduler.get("use_flow_sigmas") or prediction.startswith("flow"):
        raise Unfit(
            f"its scheduler {name} is of flow matching; give a base that was trained to predict noise or velocity"
        )
    if prediction not in ("epsilon", "v_prediction"):
        raise Unfit(f"prediction_type {prediction} cannot be trained here")
    missing = [setting for setting in NOISE_SETTINGS if scheduler.get(setting) is None]
    if missing and scheduler.get("trained_betas") is None:
        raise Unfit(
            f"its scheduler {name} says no {missing[0]}, so its noise is not known; give DDIM's or DDPM's settings"
        )
    DDPMScheduler.from_config(scheduler)
    conditioned = [setting for setting in OTHER_CONDITIONS if unet.get(setting) not in (None, "text")]
    if conditioned:
        raise Unfit(f"its U-Net has {conditioned[0]} {unet[conditioned[0]]}, as SDXL and others have; give one without")
    widths = unet.cross_attention_dim
    for width in widths if isinstance(widths, (list, tuple)) else [widths]:
        if width != text.hidden_size:
            raise Unfit(f"its U-Net reads words of {width} values and its text encoder gives {text.hidden_size}")
    if not (isinstance(vae.scaling_factor, (int, float)) and 0 < vae.scaling_factor < math.inf):
        raise Unfit(
            f"scaling_factor of its VAE is {vae.scaling_factor}; give the number that its latents are scaled by"
        )
    shifted = [setting for setting in ("shift_factor", "latents_mean", "latents_std") if vae.get(setting) is not None]
    if shifted:
        raise Unfit(
            f"its VAE has {shifted[0]}, as those of flow matching have; give a VAE of Stable Diffusion 1.x or 2.x"
        )
    words, special = pipeline.tokenizer, set(pipeline.tokenizer.all_special_ids)
    if not set(words("photo of a child").input_ids) - special:
        raise Unfit("its tokenizer knows no word; add its files (vocab.json and merges.txt, or tokenizer.json)")
    if len(words) > text.vocab_size:
        raise Unfit(
            f"its tokenizer has {len(words)} words and its text encoder {text.vocab_size}; give those that belong"
        )
    for part, (_, title) in NETWORKS.items():
        for key, tensor in getattr(pipeline, part).state_dict().items():
            if not torch.isfinite(tensor).all():
                raise Unfit(f"{title} holds values in {key} that are not finite; download it again")


def check_same_latents(vae: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise Unfit if the settings of a VAE say that its latents are not those that the pipeline's U-Net was trained on.

    vae, own: the configs of the VAE that was given and of the pipeline's own."""
    factors = [2 ** (len(config["block_out_channels"]) - 1) for config in (vae, own)]
    if factors[0] != factors[1]:
        raise Unfit(f"the other VAE makes pictures {factors[0]} times smaller and its own {factors[1]} times")
    scales = [config.get("scaling_factor", SCALING_FACTOR) for config in (vae, own)]
    if scales[0] != scales[1]:
        raise Unfit(
            f"scaling_factor of the other VAE is {scales[0]} and of its own {scales[1]}: it is of another family"
        )


@torch.no_grad()
def check_one_pass(pipeline: StableDiffusionPipeline) -> None:
    """Raise Unfit if the smallest picture does not pass through all networks: this finds what their configs hide."""
    side = 2 ** max(3, len(pipeline.unet.config.block_out_channels) - 1)
    side_px = side * pipeline.vae_scale_factor
    try:
        latents, _ = encode_pictures(pipeline, np.zeros((1, side_px, side_px, 3), np.uint8))
        expected = (1, pipeline.unet.config.in_channels, side, side)
        if latents.shape != expected:
            raise Unfit(f"its VAE gives latents of shape {tuple(latents.shape)} for {side_px} px and not {expected}")
        latents = latents.to(pipeline.unet.dtype)
        noise = pipeline.unet(latents, torch.tensor([1]), encode_prompts(pipeline, ["photo of a child"])).sample
        picture = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if "not implemented for" in str(error):  # half precision on some processors; the GPU can do it
            return
        raise Unfit(f"its networks do not fit together ({one_line(error)[:200]})") from error
    if noise.shape != expected or picture.shape != (1, 3, side_px, side_px):
        raise Unfit(f"its networks give shapes {tuple(noise.shape)} and {tuple(picture.shape)} for {side_px} px")
    if not (torch.isfinite(noise).all() and torch.isfinite(picture).all()):
        raise Unfit("its networks give values that are not finite; use --mixed_precision no")


def face_alignment_of(name: str) -> str | None:
    """The face detector that cut out the pictures a miniature of this project was trained on; None: whole photographs,
    or a pipeline that does not say."""
    record = Path(name) / TRAINING_RECORD
    return read_json(record, "make the miniature again").get("face_alignment") if record.is_file() else None


def base_name(name: str) -> str:
    """A pipeline's name as it may be published: ORG/NAME as given, but only the last part of a path on this machine."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() or name.startswith((".", "~")) else name


def native_side_px(pipeline: StableDiffusionPipeline) -> int:
    """The side of the square pictures that the U-Net was trained for. Raises InputError if its config does not say."""
    size = pipeline.unet.config.sample_size
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    if len(sides) != 1 or not isinstance(max(sides, key=str), int):
        raise InputError(f"the U-Net's sample_size is {size}; give --resolution")
    return sides.pop() * pipeline.vae_scale_factor


def check_side_px(pipeline: StableDiffusionPipeline, side_px: int) -> None:
    """Raise InputError for a side that the VAE cannot make smaller by a whole number."""
    if side_px % pipeline.vae_scale_factor:
        raise InputError(f"--resolution {side_px}: must be a multiple of {pipeline.vae_scale_factor} for this VAE")


def enable_gradient_checkpointing(pipeline: StableDiffusionPipeline) -> None:
    """Recompute the U-Net's activations in the backward pass, which needs less memory and more time."""
    pipeline.unet.enable_gradient_checkpointing()
    pipeline.unet.train()  # has an effect in training mode only; a U-Net of Stable Diffusion has no dropout


def configs_sha256(pipeline: StableDiffusionPipeline) -> str:
    """Digest of what shapes pictures and adapters besides the weights: how the networks are put together, the noise
    schedule, the vocabulary. Paths, versions and precision do not change it."""
    configs = {name: getattr(pipeline, name).config for name in ("unet", "vae", "scheduler")}
    configs["text_encoder"] = pipeline.text_encoder.config.to_dict()
    content = {
        name: {key: value for key, value in dict(config).items() if key[0] != "_" and key not in NO_PART_OF_A_CONFIG}
        for name, config in configs.items()
    }
    content["scheduler"]["class"] = type(pipeline.scheduler).__name__
    tokenizer = pipeline.tokenizer
    vocabulary = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    content |= {"tokenizer": vocabulary, "limit": prompt_limit(pipeline)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def digests(pipeline: StableDiffusionPipeline) -> dict[str, str]:
    """SHA-256 of everything in a pipeline that shapes pictures and adapters, by the names that run.json has."""
    of_networks = {f"{name}_sha256": weights_sha256(getattr(pipeline, name)) for name in NETWORKS}
    return {"configs_sha256": configs_sha256(pipeline)} | of_networks


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
    """(n, t) int64, filled up to prompt_limit. Raises InputError for a longer prompt: none is ever cut off."""
    for prompt in dict.fromkeys(prompts):
        check_prompt(pipeline, prompt, "prompt")
    padded = {"padding": "max_length", "truncation": False, "return_tensors": "pt"}
    return pipeline.tokenizer(list(prompts), max_length=prompt_limit(pipeline), **padded).input_ids


def encode_prompts(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings (n, t, d), with gradients for those weights of the text encoder that are trained."""
    return pipeline.text_encoder(token_ids(pipeline, prompts).to(pipeline.device))[0]


@torch.no_grad()
def embeddings(pipeline: StableDiffusionPipeline, prompts: list[str], batch_size: int = 32) -> dict[str, torch.Tensor]:
    """Prompt -> its text embedding (t, d)."""
    starts = range(0, len(prompts), batch_size)
    parts = [encode_prompts(pipeline, prompts[start : start + batch_size]) for start in starts]
    return dict(zip(prompts, torch.cat(parts), strict=True))


# ---------------------------------------------------------------------------------------------------------- sampling


def set_scheduler(pipeline: StableDiffusionPipeline, name: str) -> None:
    """Make the solver of that name in SCHEDULERS the one that samples from here on."""
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
    """Pictures (b, side, side, 3) uint8, and whether the pipeline's safety checker blackened each, (b,) bool.

    embeddings, negative (b, t, d): of the prompts, and of what to stay away from. seeds (b,): one for the noise of each
    picture, drawn on the CPU, so that the other pictures of a batch change a picture by rounding only. guidance: weight
    of classifier-free guidance (Ho & Salimans, 2022, arXiv 2207.12598); 1 for none. latents_only: return scaled latents
    (b, c, h, w) float32 instead of pictures."""
    output = pipeline(
        prompt_embeds=embeddings,
        negative_prompt_embeds=negative,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=side_px,
        width=side_px,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent" if latents_only else "np",
    )
    flagged = np.array(output.nsfw_content_detected or [False] * len(seeds))
    if latents_only:
        return output.images.float().cpu().numpy(), flagged
    return (255 * output.images).round().astype(np.uint8), flagged
