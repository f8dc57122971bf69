"""A Stable Diffusion pipeline of random weights, small enough for tests: 16 px pictures, latents of 8 x 8."""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_models import train_diffusion

SIDE_PX = 16


def tiny_pipeline(dtype: torch.dtype = torch.float32, **scheduler: object) -> StableDiffusionPipeline:
    """The same each time. scheduler: its config, where it differs from that of Stable Diffusion 1.5."""
    torch.manual_seed(0)
    captions = ["photo of a child with hypertelorism, long philtrum"] * 9
    tokenizer = train_diffusion.train_tokenizer(captions)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE_PX,
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE_PX // 2,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        block_out_channels=[16, 16],
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), projection_dim=16, **sizes, **ids))
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    sampling = DDIMScheduler(**betas, set_alpha_to_one=False, steps_offset=1, **scheduler)
    pipeline = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, sampling, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype=dtype)


def saved_pipeline(folder: Path, **scheduler: object) -> Path:
    """The same in diffusers' layout."""
    tiny_pipeline(**scheduler).save_pretrained(folder)
    return folder
