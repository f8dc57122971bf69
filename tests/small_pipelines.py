"""A Stable Diffusion pipeline of random weights, small enough for tests: 16 px pictures, latents of 8 x 8."""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_models import train_diffusion

SIDE_PX = 16


def tiny_pipeline(
    dtype: torch.dtype = torch.float32, vae_blocks: int = 2, side_px: int = SIDE_PX, **scheduler: object
) -> StableDiffusionPipeline:
    """The same each time. scheduler: its config, where it differs from that of Stable Diffusion 1.5.

    vae_blocks: pictures are 2 ** (vae_blocks - 1) times larger than latents; side_px: of the pictures."""
    torch.manual_seed(0)
    captions = ["photo of a child with hypertelorism, long philtrum"] * 9
    tokenizer = train_diffusion.train_tokenizer(captions)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * vae_blocks,
        up_block_types=["UpDecoderBlock2D"] * vae_blocks,
        block_out_channels=[8] * vae_blocks,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=side_px,
    )
    unet = UNet2DConditionModel(
        sample_size=side_px // 2 ** (vae_blocks - 1),
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


def single_file(pipeline: StableDiffusionPipeline, file: Path) -> Path:
    """All weights in one file, under the names of Stable Diffusion's authors: the inverse of what diffusers reads. For
    tiny_pipeline's layout."""
    tensors = {f"cond_stage_model.transformer.text_model.{k}": w for k, w in pipeline.text_encoder.state_dict().items()}
    n = len(pipeline.unet.config.block_out_channels)
    places = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    places |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    places |= {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    places |= {"mid_block.attentions.0": "middle_block.1"}
    for i in range(n):
        places |= {f"down_blocks.{i}.resnets.0": f"input_blocks.{2 * i + 1}.0"}
        places |= {f"down_blocks.{i}.attentions.0": f"input_blocks.{2 * i + 1}.1"}
        places |= {f"down_blocks.{i}.downsamplers.0.conv": f"input_blocks.{2 * i + 2}.0.op"}
        for j in range(2):
            places |= {f"up_blocks.{i}.resnets.{j}": f"output_blocks.{2 * i + j}.0"}
            places |= {f"up_blocks.{i}.attentions.{j}": f"output_blocks.{2 * i + j}.1"}
        places |= {f"up_blocks.{i}.upsamplers.0.conv": f"output_blocks.{2 * i + 1}.1.conv"}  # without attention
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
    resnet |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    for key, weight in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{_renamed(key, places, resnet)}"] = weight
    places = {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "conv_norm_out": "norm_out"}
    places |= {"mid_block.attentions.0": "mid.attn_1"}
    n = len(pipeline.vae.config.block_out_channels)
    for i in range(n):
        places |= {
            f"down_blocks.{i}.resnets.0": f"down.{i}.block.0",
            f"down_blocks.{i}.downsamplers.0": f"down.{i}.downsample",
        }
        places |= {f"up_blocks.{i}.resnets.{j}": f"up.{n - 1 - i}.block.{j}" for j in range(2)}
        places |= {f"up_blocks.{i}.upsamplers.0": f"up.{n - 1 - i}.upsample"}
    inner = {
        "conv_shortcut": "nin_shortcut",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }
    for key, weight in pipeline.vae.state_dict().items():
        if ".attentions." in key and weight.ndim == 2:
            weight = weight[:, :, None, None]  # a convolution there
        part, _, rest = key.partition(".")
        name = f"{part}.{_renamed(rest, places, inner)}" if part in ("encoder", "decoder") else key
        tensors[f"first_stage_model.{name}"] = weight
    save_file({name: weight.contiguous() for name, weight in tensors.items()}, file)
    return file


def _renamed(key: str, places: dict[str, str], inner: dict[str, str]) -> str:
    """A weight's name with its block's name, and what is named within that, put otherwise."""
    place = next((place for place in places if key.startswith(f"{place}.")), None)
    if place is None:
        return key
    rest = key[len(place) + 1 :]
    own = next((name for name in inner if rest.startswith(f"{name}.") and "transformer_blocks" not in rest), None)
    return f"{places[place]}.{rest if own is None else inner[own] + rest[len(own) :]}"
