"""What the frozen encoders make of photographs and prompts, computed once for all steps; and the prior's latents.

The prior is what the base model makes of a class prompt ("photo of a child"). DreamBooth's prior preservation trains on
it beside the photographs, so that an adapter does not turn every child into the ones it was shown (Ruiz et al., CVPR
2023, arXiv 2208.12242, section 3.3).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from generation import diffusion_pipelines as diffusion
from generation.dreambooth_progress import UNREADABLE
from generation.synthetic_images import image_seed
from harness.files import write_atomically

PRIOR_NAME = "class_latents.pt"  # of the prior, in the run's folder


@dataclasses.dataclass
class Encoded:
    """Photographs and prompts as the U-Net takes them."""

    position: dict[int, int]  # of a dataset's row in mean and deviation
    mean: torch.Tensor  # (n, c, h, w) scaled latents of the photographs
    deviation: torch.Tensor
    text: dict[str, torch.Tensor]  # prompt -> (t, d); empty if the text encoder is trained
    class_latents: torch.Tensor | None = None  # (m, c, h, w) of the prior; None without prior preservation


@dataclasses.dataclass(frozen=True)
class Prior:
    """How the prior's pictures are sampled."""

    class_prompt: str
    negative_prompt: str
    num_class_images: int
    sample_batch_size: int
    resolution: int  # px
    num_inference_steps: int
    guidance_scale: float
    seed: int


def encode(pipeline: StableDiffusionPipeline, uint8: np.ndarray, rows: Sequence[int], words: Sequence[str]) -> Encoded:
    """The latents of some rows of a dataset, and the embeddings of prompts.

    uint8: (n, side, side, 3) pixels of all its rows; words: prompts, none if the text encoder is trained."""
    position = {row: i for i, row in enumerate(rows)}
    latents = diffusion.encode_pictures(pipeline, uint8[rows])
    return Encoded(position, *latents, diffusion.embeddings(pipeline, list(words)) if words else {})


def without_photographs(pipeline: StableDiffusionPipeline, words: Sequence[str]) -> Encoded:
    """The embeddings of prompts alone."""
    nothing = torch.empty(0)
    return Encoded({}, nothing, nothing, diffusion.embeddings(pipeline, list(words)))


def prior_latents(
    accelerator: Accelerator, pipeline: StableDiffusionPipeline, prior: Prior, file: Path, settings_sha256: str
) -> torch.Tensor:
    """Scaled latents (m, c, h, w) of the prior: kept in a file, sampled by the main process if it holds no such ones.

    No photograph takes part in them. They are not decoded and encoded again, which would only blur them.
    settings_sha256: of all settings; a file that was made with others is replaced."""
    if accelerator.is_main_process and read_prior(file, settings_sha256) is None:
        content = {"latents": _sampled(pipeline, prior), "settings_sha256": settings_sha256}
        write_atomically(file, lambda partial: torch.save(content, partial))
    accelerator.wait_for_everyone()
    return read_prior(file, settings_sha256)


def _sampled(pipeline: StableDiffusionPipeline, prior: Prior) -> torch.Tensor:
    words = diffusion.embeddings(pipeline, [prior.class_prompt, prior.negative_prompt])
    latents = []
    for start in tqdm(range(0, prior.num_class_images, prior.sample_batch_size), desc="prior", unit="batch"):
        numbers = range(start, min(start + prior.sample_batch_size, prior.num_class_images))
        seeds = [image_seed(prior.seed, prior.class_prompt, number) for number in numbers]
        batch, _ = diffusion.sample(
            pipeline,
            words[prior.class_prompt].repeat(len(numbers), 1, 1),
            words[prior.negative_prompt].repeat(len(numbers), 1, 1),
            seeds,
            prior.resolution,
            prior.num_inference_steps,
            prior.guidance_scale,
            latents_only=True,
        )
        latents.append(torch.from_numpy(batch))
    return torch.cat(latents)


def read_prior(file: Path, settings_sha256: str) -> torch.Tensor | None:
    """The latents that were sampled with these settings; None if the file holds none that can be read."""
    try:
        content = torch.load(file, weights_only=True)
        return content["latents"] if content["settings_sha256"] == settings_sha256 else None
    except (*UNREADABLE, TypeError):
        return None
