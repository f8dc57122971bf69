"""One batch of conditions: an adapter for each, trained together, and the pictures sampled from them.

Everything random is drawn from generators seeded by (seed, fold, condition, step or index), so that neither the other
conditions of a batch, nor a stop, nor the number of processes changes an adapter or a picture but by rounding.
"""

import argparse
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from tqdm import tqdm

from generation import diffusion_pipelines as diffusion
from generation import dreambooth_progress as progress
from generation import lora_files, synthetic_images, training_provenance
from generation.dreambooth_progress import Support
from generation.routed_lora import TEXT_LAYERS, UNET_LAYERS, RoutedLoRA, clip_each_adapter
from harness.errors import InputError, one_line
from harness.files import write_atomically

WEIGHT_DECAY = 1e-2  # of AdamW, as the diffusers examples have it
RESTART = "delete it, it then starts anew"
UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError)  # what torch.load raises
MAX_DRAWS = 3  # times --num_images: a condition of which more come out blank is left with fewer


@dataclasses.dataclass
class Encoded:
    """What the frozen encoders make of photographs and words, each computed once."""

    position: dict[int, int]  # of a dataset's row in the arrays
    mean: torch.Tensor  # (n, c, h, w) scaled latents of the photographs
    deviation: torch.Tensor
    text: dict[str, torch.Tensor]  # prompt -> (t, d); empty while the text encoder is trained
    class_latents: torch.Tensor | None = None  # (m, c, h, w) of the prior, to be preserved


@torch.no_grad()
def embeddings(pipeline: StableDiffusionPipeline, prompts: list[str], batch_size: int = 32) -> dict[str, torch.Tensor]:
    parts = [
        diffusion.encode_prompts(pipeline, prompts[i : i + batch_size]) for i in range(0, len(prompts), batch_size)
    ]
    return dict(zip(prompts, torch.cat(parts), strict=True))


# ---------------------------------------------------------------------------------------------------------- training


def routed_adapters(
    pipeline: StableDiffusionPipeline, n_adapters: int, args: argparse.Namespace
) -> dict[str, RoutedLoRA]:
    """K adapters in the U-Net and, if it is trained, in the text encoder; `remove()` each afterwards."""
    size = (n_adapters, args.rank, args.lora_alpha)
    routed = {"unet": RoutedLoRA(pipeline.unet, UNET_LAYERS, *size)}
    if args.train_text_encoder:
        routed["text_encoder"] = RoutedLoRA(pipeline.text_encoder, TEXT_LAYERS, *size)
    return routed


def visited(support: Support, seed: int, step: int, batch_size: int) -> list[int]:
    """Which of the support's n photographs a step sees, 0..n-1: all of them, in a new order each time round."""
    places = []
    for number in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(number, len(support.rows))
        order = np.random.default_rng(support.seed(seed, 1, epoch)).permutation(len(support.rows))
        places.append(int(order[place]))
    return places


def drawn_batch(
    supports: list[Support], encoded: Encoded, noising: DDPMScheduler, step: int, args: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """Clean latents and noise (m, c, h, w), timesteps (m,), prompts: train_batch_size photographs of every support one
    after another, then, with prior preservation, as many of the prior for each."""
    size, parts, n_times = args.train_batch_size, {"instance": [], "prior": []}, noising.config.num_train_timesteps
    for support in supports:
        generator = torch.Generator().manual_seed(support.seed(args.seed, 0, step))
        places = visited(support, args.seed, step, size)
        at = [encoded.position[int(support.rows[place])] for place in places]
        latents = encoded.mean[at]
        latents = latents + encoded.deviation[at] * torch.randn(latents.shape, generator=generator)
        kinds = {"instance": (latents, [support.prompts[place] for place in places])}
        if encoded.class_latents is not None:
            chosen = torch.randint(len(encoded.class_latents), (size,), generator=generator)
            kinds["prior"] = (encoded.class_latents[chosen], [args.class_prompt] * size)
        for kind, (clean, prompts) in kinds.items():
            noise = torch.randn(clean.shape, generator=generator)
            times = torch.randint(n_times, (size,), generator=generator)
            parts[kind].append((clean, noise, times, prompts))
    clean, noise, times, prompts = zip(*parts["instance"], *parts["prior"], strict=True)
    return torch.cat(clean), torch.cat(noise), torch.cat(times), [prompt for group in prompts for prompt in group]


def adapter_losses(
    pipeline: StableDiffusionPipeline,
    routed: dict[str, RoutedLoRA],
    noising: DDPMScheduler,
    batch: tuple,
    n_adapters: int,
    text: dict[str, torch.Tensor],
    prior_loss_weight: float | None,
) -> torch.Tensor:
    """Mean squared error of the noise (or velocity) for every adapter, (K,) float32.

    batch: as drawn_batch gives it; text: empty where the text encoder is trained; prior_loss_weight: None without
    prior preservation."""
    clean, noise, times, prompts = batch
    device = pipeline.unet.device
    size = clean.shape[0] // n_adapters  # photographs of an adapter, and as many of the prior
    kinds = 1 if prior_loss_weight is None else 2
    route = torch.arange(n_adapters).repeat_interleave(size // kinds).repeat(kinds).to(device)
    for part in routed.values():
        part.route(route)
    noisy = noising.add_noise(clean, noise, times)
    velocity = noising.config.prediction_type == "v_prediction"
    target = noising.get_velocity(clean, noise, times) if velocity else noise
    words = torch.stack([text[prompt] for prompt in prompts]) if text else diffusion.encode_prompts(pipeline, prompts)
    inputs = noisy.to(device, pipeline.unet.dtype), times.to(device), words.to(device, pipeline.unet.dtype)
    found = pipeline.unet(*inputs).sample
    errors = (found.float() - target.to(device)).square().mean(dim=(1, 2, 3)).view(kinds, n_adapters, -1).mean(dim=2)
    return errors[0] if kinds == 1 else errors[0] + prior_loss_weight * errors[1]


def train(
    accelerator: Accelerator,
    pipeline: StableDiffusionPipeline,
    supports: list[Support],
    encoded: Encoded,
    args: argparse.Namespace,
) -> None:
    """Train an adapter for every support, all at once, and leave each in its folder, read back by the pipeline.

    Raises InputError where a loss is not finite."""
    for support in supports:
        support.part.unlink(missing_ok=True)  # of the adapter as it was
    routed = routed_adapters(pipeline, len(supports), args)
    for number, part in enumerate(routed.values()):
        part.start([support.seed(args.seed, 2, number) for support in supports])
    parameters = [parameter for part in routed.values() for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=WEIGHT_DECAY)
    if accelerator.scaler:  # of fp16: begins anew, so that these adapters do not depend on those trained before
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
    optimizer = accelerator.prepare_optimizer(optimizer)
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)
    checkpoint = progress.checkpoint_of(supports)
    earlier = check_checkpoint(supports, args.max_train_steps)
    first = restore(earlier, parameters, optimizer, accelerator.scaler, supports)
    named = supports[0].condition + (f" and {len(supports) - 1} more" if supports[1:] else "")
    described = f"{supports[0].folder.name} {named}"
    weight = args.prior_loss_weight if args.with_prior_preservation else None
    bar = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, desc=described)
    bar.disable = not accelerator.is_main_process
    for step in bar:
        batch = drawn_batch(supports, encoded, noising, step, args)
        losses = adapter_losses(pipeline, routed, noising, batch, len(supports), encoded.text, weight)
        accelerator.backward(losses.sum())  # a sum: no adapter's gradient depends on the number of the others
        accelerator.unscale_gradients(optimizer)
        clip_each_adapter(parameters, args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(losses).all():
            condition = supports[int((~torch.isfinite(losses)).nonzero()[0])].condition
            remedy = "lower --learning_rate or use --mixed_precision no"
            raise InputError(f"{supports[0].folder.name}, {condition}, step {step}: loss is not finite; {remedy}")
        bar.set_postfix(loss=f"{losses.mean().item():.4f}", refresh=False)
        if (step + 1) % args.checkpointing_steps == 0 or step + 1 == args.max_train_steps:
            content = {"step": step + 1, "weights": [parameter.detach().cpu() for parameter in parameters]}
            content["optimizer"] = optimizer.state_dict()
            content["scaler"] = accelerator.scaler.state_dict() if accelerator.scaler else None
            content["trained_on"] = [support.trained_on.as_dict() for support in supports]
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(checkpoint, lambda partial, content=content: torch.save(content, partial))
    states = [{name: part.peft_state_dict(k) for name, part in routed.items()} for k in range(len(supports))]
    for part in routed.values():
        part.remove()
    for support, state in zip(supports, states, strict=True):
        record = support.trained_on.as_dict() | {"steps": args.max_train_steps}
        lora_files.save(pipeline, support.adapter, state, args.rank, args.lora_alpha, support.image_ids, record)
    accelerator.free_memory()


def restore(
    checkpoint: Path,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    supports: list[Support],
) -> int:
    """The step to go on with, all else as it was then; 0 without a checkpoint. Raises InputError, and LeakError where
    its adapters saw photographs that are not the supports'."""
    if not checkpoint.is_file():
        return 0
    content = read_checkpoint(checkpoint, supports)
    try:
        for parameter, saved in zip(parameters, content["weights"], strict=True):
            if parameter.shape != saved.shape:
                raise ValueError(f"weights of shape {tuple(saved.shape)} and not {tuple(parameter.shape)}")
            parameter.data.copy_(saved)
        optimizer.load_state_dict(content["optimizer"])
        if scaler:
            scaler.load_state_dict(content["scaler"])
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {checkpoint}: {one_line(error)}; {RESTART}") from error
    return content["step"]


def read_checkpoint(checkpoint: Path, supports: list[Support]) -> dict:
    """The content of a checkpoint, its tensors not read yet, once it is clear that its adapters are the supports'.

    Raises InputError, and LeakError where they saw photographs that are not the supports'."""
    what = f"checkpoint {checkpoint}"
    try:
        content = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        records = content.get("trained_on") or [None]
        content["step"] = int(content["step"])
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise InputError(f"{what}: {one_line(error)}; {RESTART}") from error
    for record, support in zip(records, supports, strict=False):
        training_provenance.check(record, support.trained_on, what, RESTART)
    if len(records) != len(supports):
        raise InputError(f"{what} is of {len(records)} adapters, and here are {len(supports)}; {RESTART}")
    return content


def check_checkpoint(supports: list[Support], max_train_steps: int) -> Path:
    """What adapters that are trained together would go on from; there may be no such file. Raises as read_checkpoint
    does, and InputError where it is of more steps than are asked for."""
    current = progress.checkpoint_of(supports)
    checkpoint = current if current.is_file() else progress.kept_checkpoint_of(supports)
    step = read_checkpoint(checkpoint, supports)["step"] if checkpoint.is_file() else 0
    if step > max_train_steps:
        reason = f"checkpoint {checkpoint} is of {step} steps"
        raise InputError(f"--max_train_steps {max_train_steps}: {reason}; ask for at least as many")
    return checkpoint


# ---------------------------------------------------------------------------------------------------------- sampling


@torch.no_grad()
def sample(
    accelerator: Accelerator,
    pipeline: StableDiffusionPipeline,
    supports: list[Support],
    text: dict[str, torch.Tensor],
    class_names: list[str],
    args: argparse.Namespace,
) -> None:
    """--num_images pictures of every support from the adapter in its folder, batched over pictures and adapters, put
    behind those that have been made of it before.

    Image i is asked for as photograph i modulo n is described. A blank one is dropped and the next index drawn.
    text: empty where the text encoder was trained; class_names: the dataset's. Raises LeakError or InputError where an
    adapter is not the support's own, or does not fit."""
    routed = routed_adapters(pipeline, len(supports), args)
    sizes = {name: part.sizes() for name, part in routed.items()}
    for k, support in enumerate(supports):
        if progress.trained_steps(support, args.max_train_steps) < args.max_train_steps:
            raise InputError(f"adapter {support.adapter} is not trained to its end; {lora_files.RETRAIN}")
        for name, state in lora_files.load(support.adapter, sizes, args.rank, args.lora_alpha).items():
            routed[name].load_peft_state_dict(k, state)
    words = [text or trained_words(pipeline, routed["text_encoder"], k, s, args) for k, s in enumerate(supports)]
    digests = [lora_files.sha256(support.adapter) for support in supports]
    rows = [progress.earlier_rows(support, digest) for support, digest in zip(supports, digests, strict=True)]
    # Those that are missing among the indices up to the last were blank, so the next begins behind it.
    tried = [1 + max((progress.number_of(row) for row in made), default=-1) for made in rows]
    limit = MAX_DRAWS * args.num_images
    next_index = [min(n + args.num_images - len(made), limit) for n, made in zip(tried, rows, strict=True)]
    queue = [(k, index) for k in range(len(supports)) for index in range(tried[k], next_index[k])]
    bar = tqdm(total=len(queue), desc=f"{supports[0].folder.name} samples", unit="image", leave=False)
    bar.disable = not accelerator.is_main_process
    while queue:
        batch, queue = queue[: args.sample_batch_size], queue[args.sample_batch_size :]
        for part in routed.values():
            part.route(torch.tensor([k for k, _ in batch], device=pipeline.device))
        prompts = [supports[k].prompts[index % len(supports[k].prompts)] for k, index in batch]
        seeds = [synthetic_images.image_seed(args.seed, supports[k].condition, index) for k, index in batch]
        positive = torch.stack([words[k][prompt] for (k, _), prompt in zip(batch, prompts, strict=True)])
        negative = torch.stack([words[k][args.negative_prompt] for k, _ in batch])
        how = (args.resolution, args.num_inference_steps, args.guidance_scale)
        pictures, flagged = diffusion.sample(pipeline, positive, negative, seeds, *how)
        for (k, index), picture, prompt, seed, bad in zip(batch, pictures, prompts, seeds, flagged, strict=True):
            if bad or synthetic_images.is_blank(picture):
                if next_index[k] < limit:
                    queue.append((k, next_index[k]))
                    next_index[k] += 1
                continue
            bar.update()
            rows[k].append(row_of(supports[k], index, picture, prompt, seed, digests[k], args))
    for part in routed.values():
        part.remove()
    for support, made, drawn in zip(supports, rows, next_index, strict=True):
        if drawn > len(made):
            where = f"{support.folder.name} {support.condition}"
            print(f"{where}: {drawn - len(made)} blank images dropped, {len(made)} kept")
        made.sort(key=progress.number_of)
        synthetic_images.write_part(support.part, made, class_names)


def trained_words(
    pipeline: StableDiffusionPipeline, routed: RoutedLoRA, k: int, support: Support, args: argparse.Namespace
) -> dict[str, torch.Tensor]:
    """Embeddings as adapter k's text encoder gives them."""
    prompts = [*dict.fromkeys(support.prompts), args.negative_prompt]
    routed.route(torch.tensor([k], device=pipeline.device))
    return {prompt: embeddings(pipeline, [prompt])[prompt] for prompt in prompts}


def row_of(
    support: Support, index: int, picture: np.ndarray, prompt: str, seed: int, digest: str, args: argparse.Namespace
) -> dict:
    """A row of config synthetic."""
    synthetic_id = f"{support.condition}_{index}"
    return {
        "image": synthetic_images.png(picture, synthetic_id),
        "synthetic_id": synthetic_id,
        "label": support.condition,
        "generator": "dreambooth",
        "base_model": diffusion.base_name(args.pretrained_model_name_or_path),
        "adapter_sha256": digest,
        "prompt": prompt,
        "seed": seed,
        "protocol": support.fold.protocol,
        "fold": support.fold.number,
        "source_image_ids": support.image_ids,
        "source_sha256": support.trained_on.source_sha256,
    }
