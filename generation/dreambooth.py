"""One batch of conditions: an adapter for each, trained together, and the pictures sampled from them.

Everything random is drawn from generators seeded by (seed, fold, condition, step or index). Therefore neither the other
conditions of a batch, nor a stop, nor the number of processes changes an adapter or a picture by more than rounding.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from tqdm import tqdm

from generation import diffusion_pipelines as diffusion
from generation import dreambooth_progress as progress
from generation import lora_files, synthetic_images
from generation.condition_prompts import Said
from generation.dreambooth_encoding import Encoded
from generation.dreambooth_progress import RESTART, UNREADABLE
from generation.routed_lora import TEXT_LAYERS, UNET_LAYERS, RoutedLoRA, clip_each_adapter
from generation.support_sets import Support
from harness.counts import counted
from harness.errors import InputError, one_line
from harness.files import write_atomically

WEIGHT_DECAY = 1e-2  # of AdamW, as in the diffusers examples
MAX_DRAWS = 3  # times num_images: a condition that has more blank pictures than that is left with fewer images
SAVE_EVERY_S = 60  # between two times that the images of a batch of conditions are written that are not all sampled


@dataclasses.dataclass(frozen=True)
class Training:
    """How adapters are trained; the names are those of train_dreambooth.py's flags."""

    seed: int
    rank: int
    lora_alpha: float  # updates are scaled by lora_alpha / rank
    train_text_encoder: bool
    train_batch_size: int  # photographs per adapter and step
    max_train_steps: int
    learning_rate: float
    max_grad_norm: float
    with_prior_preservation: bool
    class_prompt: str
    prior_loss_weight: float
    checkpointing_steps: int


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pictures are sampled from trained adapters."""

    seed: int
    num_images: int  # per adapter
    sample_batch_size: int
    resolution: int  # px
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str
    base_model: str  # the pipeline's name, as the images record it


# ---------------------------------------------------------------------------------------------------------- training


def routed_adapters(pipeline: StableDiffusionPipeline, n_adapters: int, training: Training) -> dict[str, RoutedLoRA]:
    """Network -> its new adapters: in the U-Net and, if it is trained, in the text encoder. Call `remove()` on each
    when they are no longer needed."""
    size = (n_adapters, training.rank, training.lora_alpha)
    routed = {"unet": RoutedLoRA(pipeline.unet, UNET_LAYERS, *size)}
    if training.train_text_encoder:
        routed["text_encoder"] = RoutedLoRA(pipeline.text_encoder, TEXT_LAYERS, *size)
    return routed


def visited(support: Support, seed: int, step: int, batch_size: int) -> list[int]:
    """Which of the support's n photographs a step sees, numbers 0..n-1: all in turn, each time in a new order."""
    places = []
    for number in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(number, len(support.rows))
        order = np.random.default_rng(support.seed(seed, 1, epoch)).permutation(len(support.rows))
        places.append(int(order[place]))
    return places


def drawn_batch(
    supports: Sequence[Support], encoded: Encoded, noising: DDPMScheduler, step: int, training: Training
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """Clean latents and noise (m, c, h, w), timesteps (m,), prompts (m,): train_batch_size photographs of each support,
    support after support, then, with prior preservation, as many pictures of the prior for each."""
    size, parts, n_times = training.train_batch_size, {"instance": [], "prior": []}, noising.config.num_train_timesteps
    for support in supports:
        generator = torch.Generator().manual_seed(support.seed(training.seed, 0, step))
        places = visited(support, training.seed, step, size)
        at = [encoded.position[int(support.rows[place])] for place in places]
        latents = encoded.mean[at]
        latents = latents + encoded.deviation[at] * torch.randn(latents.shape, generator=generator)
        kinds = {"instance": (latents, [support.caption(place, step) for place in places])}
        if encoded.class_latents is not None:
            chosen = torch.randint(len(encoded.class_latents), (size,), generator=generator)
            kinds["prior"] = (encoded.class_latents[chosen], [training.class_prompt] * size)
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
    """Mean squared error of the noise, or of the velocity if the base predicts that, for every adapter, (K,) float32.

    batch: as drawn_batch returns it; text: prompt -> embedding, of the prompts that never change;
    prior_loss_weight: None without prior preservation."""
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
    if text.keys() >= set(prompts):
        words = torch.stack([text[prompt] for prompt in prompts])
    else:  # the text encoder is trained, or the captions change at every visit
        words = diffusion.encode_prompts(pipeline, prompts)
    inputs = noisy.to(device, pipeline.unet.dtype), times.to(device), words.to(device, pipeline.unet.dtype)
    predicted = pipeline.unet(*inputs).sample
    errors = (predicted.float() - target.to(device)).square().mean(dim=(1, 2, 3))
    errors = errors.view(kinds, n_adapters, -1).mean(dim=2)
    return errors[0] if kinds == 1 else errors[0] + prior_loss_weight * errors[1]


def train(
    accelerator: Accelerator,
    pipeline: StableDiffusionPipeline,
    supports: Sequence[Support],
    encoded: Encoded,
    training: Training,
) -> None:
    """Train an adapter for every support, all at once, and save each in its folder, from which the pipeline must be
    able to read it back.

    Raises InputError if a loss is not finite."""
    for support in supports:
        progress.remove_images(support)  # they come from the adapter as it was before
    routed = routed_adapters(pipeline, len(supports), training)
    for number, part in enumerate(routed.values()):
        part.start([support.seed(training.seed, 2, number) for support in supports])
    parameters = [parameter for part in routed.values() for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=WEIGHT_DECAY)
    if accelerator.scaler:  # of fp16: starts anew, so that these adapters do not depend on those trained before
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
    optimizer = accelerator.prepare_optimizer(optimizer)
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)
    resumed = progress.check_checkpoint(supports, training.max_train_steps)
    first = restore(resumed, parameters, optimizer, accelerator.scaler, supports)
    title = f"{supports[0].folder.name} {supports[0].condition}" + f" and {len(supports) - 1} more" * bool(supports[1:])
    prior_loss_weight = training.prior_loss_weight if training.with_prior_preservation else None
    bar = tqdm(range(first, training.max_train_steps), initial=first, total=training.max_train_steps, desc=title)
    bar.disable = not accelerator.is_main_process
    for step in bar:
        batch = drawn_batch(supports, encoded, noising, step, training)
        losses = adapter_losses(pipeline, routed, noising, batch, len(supports), encoded.text, prior_loss_weight)
        accelerator.backward(losses.sum())  # a sum: no adapter's gradient depends on the number of the others
        accelerator.unscale_gradients(optimizer)
        clip_each_adapter(parameters, training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(losses).all():
            condition = supports[int((~torch.isfinite(losses)).nonzero()[0])].condition
            remedy = "lower --learning_rate or use --mixed_precision no"
            raise InputError(f"{supports[0].folder.name}, {condition}, step {step}: loss is not finite; {remedy}")
        bar.set_postfix(loss=f"{losses.mean().item():.4f}", refresh=False)
        if (step + 1) % training.checkpointing_steps == 0 or step + 1 == training.max_train_steps:
            save_checkpoint(supports, step + 1, parameters, optimizer, accelerator.scaler)
    states = [{name: part.peft_state_dict(k) for name, part in routed.items()} for k in range(len(supports))]
    for part in routed.values():
        part.remove()
    for support, state in zip(supports, states, strict=True):
        record = support.trained_on.as_dict() | {"steps": training.max_train_steps}
        size = (training.rank, training.lora_alpha)
        lora_files.save(pipeline, support.adapter, state, *size, support.image_ids, record)
    accelerator.free_memory()


def save_checkpoint(
    supports: Sequence[Support],
    n_steps: int,
    parameters: Sequence[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Write the state of a batch's training after n_steps, with the record of what its adapters saw."""
    content = {"step": n_steps, "weights": [parameter.detach().cpu() for parameter in parameters]}
    content["optimizer"] = optimizer.state_dict()
    content["scaler"] = scaler.state_dict() if scaler else None
    content["trained_on"] = [support.trained_on.as_dict() for support in supports]
    checkpoint = progress.checkpoint_of(supports)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(checkpoint, lambda partial: torch.save(content, partial))


def restore(
    checkpoint: Path,
    parameters: Sequence[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    supports: Sequence[Support],
) -> int:
    """Load the weights and states of a checkpoint, and return the step to continue with; 0 if there is no checkpoint.

    Raises InputError, and LeakError if its adapters saw photographs that are not the supports'."""
    if not checkpoint.is_file():
        return 0
    content = progress.read_checkpoint(checkpoint, supports)
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


# ---------------------------------------------------------------------------------------------------------- sampling


@dataclasses.dataclass
class Drawn:
    """What is sampled for one adapter of a batch, and what has been sampled of it so far."""

    place: int  # of the adapter among those of the batch
    support: Support
    words: dict[str, torch.Tensor]  # prompt -> embedding (t, d)
    adapter_sha256: str | None  # None: the base alone samples
    rows: list[dict]  # of config synthetic
    next_index: int  # the first number for which no picture is sampled or waits to be


@torch.no_grad()
def sample(
    accelerator: Accelerator,
    pipeline: StableDiffusionPipeline,
    supports: Sequence[Support],
    text: dict[str, torch.Tensor],
    class_names: list[str],
    training: Training,
    sampling: Sampling,
) -> None:
    """Sample num_images pictures for every support from the adapter in its folder, batched over pictures and adapters;
    those that were sampled from this adapter before are kept, and the new ones appended.

    Picture number i has the prompt of photograph i modulo n, or that of the i-th drawn person. A blank picture is
    dropped and the next number drawn. text: prompt -> embedding, empty if the text encoder was trained; class_names:
    the dataset's. Raises LeakError or InputError if an adapter is not the support's own, or does not fit."""
    routed = load_adapters(pipeline, supports, training)
    limit = MAX_DRAWS * sampling.num_images
    drawn, queue = [], []  # queue: (what it is drawn for, number of the picture)
    for place, support in enumerate(supports):
        words = text or trained_words(pipeline, routed["text_encoder"], place, support, sampling.negative_prompt)
        adapter_sha256 = progress.digest_of(support)
        rows = progress.earlier_rows(support, adapter_sha256)
        # Numbers that are missing among the earlier ones were blank, so new pictures begin behind the last of them.
        first = 1 + max((progress.number_of(row) for row in rows), default=-1)
        next_index = min(first + sampling.num_images - len(rows), limit)
        drawn.append(Drawn(place, support, words, adapter_sha256, rows, next_index))
        queue += [(drawn[-1], index) for index in range(first, next_index)]
    n_kept = sum(len(of_adapter.rows) for of_adapter in drawn)
    title = f"{supports[0].folder.name} samples"
    bar = tqdm(initial=n_kept, total=n_kept + len(queue), desc=title, unit="image", leave=False)
    bar.disable = not accelerator.is_main_process
    saved_at, n_saved = time.monotonic(), n_kept
    try:
        while queue:
            batch, queue = queue[: sampling.sample_batch_size], queue[sampling.sample_batch_size :]
            for (of_adapter, _), row in zip(batch, sampled_rows(pipeline, routed, batch, sampling), strict=True):
                if row is not None:
                    of_adapter.rows.append(row)
                    bar.update()
                elif of_adapter.next_index < limit:
                    queue.append((of_adapter, of_adapter.next_index))
                    of_adapter.next_index += 1
            if queue and time.monotonic() - saved_at > SAVE_EVERY_S:
                save_begun(drawn, class_names)
                saved_at, n_saved = time.monotonic(), sum(len(of_adapter.rows) for of_adapter in drawn)
    except KeyboardInterrupt:  # Ctrl-C or SIGTERM
        if sum(len(of_adapter.rows) for of_adapter in drawn) > n_saved:
            save_begun(drawn, class_names)
        raise
    for part in routed.values():
        part.remove()
    for of_adapter in drawn:
        support, rows = of_adapter.support, of_adapter.rows
        if of_adapter.next_index > len(rows):
            n_blank = of_adapter.next_index - len(rows)
            dropped = f"{counted(n_blank, 'blank image')} dropped, {len(rows)} kept"
            print(f"{support.folder.name} {support.condition}: {dropped}")
        rows.sort(key=progress.number_of)
        synthetic_images.write_part(support.part, rows, class_names)
        support.begun.unlink(missing_ok=True)


def save_begun(drawn: Sequence[Drawn], class_names: list[str]) -> None:
    """Write what has been sampled so far, so that a run that is stopped goes on behind it.

    The numbers of an adapter are sampled one after the other, so those that are missing below the last were blank."""
    for of_adapter in drawn:
        if of_adapter.rows:
            synthetic_images.write_part(of_adapter.support.begun, of_adapter.rows, class_names)


def load_adapters(
    pipeline: StableDiffusionPipeline, supports: Sequence[Support], training: Training
) -> dict[str, RoutedLoRA]:
    """The adapters in the supports' folders, put into the pipeline; none if the base alone samples. Raises as sample
    does."""
    if all(support.adapter is None for support in supports):
        return {}
    routed = routed_adapters(pipeline, len(supports), training)
    sizes = {name: part.sizes() for name, part in routed.items()}
    for place, support in enumerate(supports):
        if progress.trained_steps(support, training.max_train_steps) < training.max_train_steps:
            raise InputError(f"adapter {support.adapter} is not trained to its end; {lora_files.RETRAIN}")
        states = lora_files.load(support.adapter, sizes, training.rank, training.lora_alpha)
        for name, state in states.items():
            routed[name].load_peft_state_dict(place, state)
    return routed


def trained_words(
    pipeline: StableDiffusionPipeline, routed: RoutedLoRA, place: int, support: Support, negative_prompt: str
) -> dict[str, torch.Tensor]:
    """Prompt -> its embedding by the trained text encoder of the adapter at this place."""
    routed.route(torch.tensor([place], device=pipeline.device))
    prompts = [*dict.fromkeys(support.prompts), negative_prompt]
    return {prompt: diffusion.embeddings(pipeline, [prompt])[prompt] for prompt in prompts}


def sampled_rows(
    pipeline: StableDiffusionPipeline,
    routed: dict[str, RoutedLoRA],
    batch: Sequence[tuple[Drawn, int]],
    sampling: Sampling,
) -> list[dict | None]:
    """The rows of a batch of pictures, each given by what it is drawn for and its number; None for a blank one."""
    for part in routed.values():
        part.route(torch.tensor([of_adapter.place for of_adapter, _ in batch], device=pipeline.device))
    asked = [asked_for(drawn.support, index) for drawn, index in batch]
    prompts = [said.prompt for said in asked]
    seeds = [synthetic_images.image_seed(sampling.seed, drawn.support.condition, index) for drawn, index in batch]
    pictures, flagged = diffusion.sample(
        pipeline,
        embedded(pipeline, batch, prompts),
        torch.stack([drawn.words[sampling.negative_prompt] for drawn, _ in batch]),
        seeds,
        sampling.resolution,
        sampling.num_inference_steps,
        sampling.guidance_scale,
    )
    rows: list[dict | None] = []
    for (drawn, index), picture, blackened, said, seed in zip(batch, pictures, flagged, asked, seeds, strict=True):
        shows_something = not (blackened or synthetic_images.is_blank(picture))
        made_with = {"base_model": sampling.base_model, "prompt": said.prompt, "seed": seed, "hpo_said": said.terms}
        rows.append(row_of(drawn, index, picture, made_with) if shows_something else None)
    return rows


def asked_for(support: Support, index: int) -> Said:
    """What picture `index` is asked for: a drawn person, or the prompt of one of the photographs."""
    if support.drawn:
        return support.drawn.said(index)
    return Said(support.prompts[index % len(support.prompts)], None, [])


def embedded(
    pipeline: StableDiffusionPipeline, batch: Sequence[tuple[Drawn, int]], prompts: Sequence[str]
) -> torch.Tensor:
    """The embeddings (b, t, d) of a batch's prompts: those of drawn people, of whom each has his own, are made here.

    The text encoder's adapters, if it has any, are routed to the batch already."""
    if all(drawn.support.drawn is None for drawn, _ in batch):
        return torch.stack([drawn.words[prompt] for (drawn, _), prompt in zip(batch, prompts, strict=True)])
    return diffusion.encode_prompts(pipeline, prompts)


def row_of(drawn: Drawn, index: int, picture: np.ndarray, made_with: dict) -> dict:
    """A row of config synthetic. made_with: its base_model, prompt, seed and hpo_said."""
    support = drawn.support
    synthetic_id = f"{support.condition}_{index}"
    return {
        "image": synthetic_images.png(picture, synthetic_id),
        "synthetic_id": synthetic_id,
        "label": support.condition,
        "generator": "dreambooth",
        **made_with,
        "adapter_sha256": drawn.adapter_sha256,
        "protocol": support.fold.protocol,
        "fold": support.fold.number,
        "source_image_ids": support.image_ids,
        "source_sha256": support.trained_on.source_sha256,
        "made_from": support.made_from,
    }
