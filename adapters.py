"""Adapter files as diffusers reads them: written whole, alpha with them, and read back by the pipeline itself.

A folder holds `pytorch_lora_weights.safetensors`, for `pipeline.load_lora_weights(folder)`, and `sources.json`, which
names the photographs that the adapter was trained on; by it a withdrawn photograph's adapters are found.
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
    logging,
)
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from parquet_files import sha256_of
from routed_lora import TEXT_LAYERS, UNET_LAYERS
from runs import InputError, one_line, write_json
from withdrawal import SOURCES_NAME

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
LAYERS = {"unet": UNET_LAYERS, "text_encoder": TEXT_LAYERS}


def save(
    pipeline: StableDiffusionPipeline,
    folder: Path,
    state: Mapping[str, Mapping[str, torch.Tensor]],
    rank: int,
    alpha: float,
    source_image_ids: Sequence[str],
) -> None:
    """Write an adapter into `folder`, whole or not at all, once the pipeline has read it back as it is.

    state: `unet` and, where it was trained, `text_encoder` -> weights by peft's names, (rank, in) and (out, rank)."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    layers, metadata = {}, {}
    for network, weights in state.items():
        layers[f"{network}_lora_layers"] = convert_state_dict_to_diffusers(dict(weights))
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LAYERS[network])).to_dict()
        config["target_modules"] = sorted(config["target_modules"])  # a set: the file's digest must not depend on it
        metadata[f"{network}_lora_adapter_metadata"] = config  # without it alpha would come back as the rank
    StableDiffusionPipeline.save_lora_weights(partial, weight_name=WEIGHTS_NAME, **layers, **metadata)
    sort_header(partial / WEIGHTS_NAME)
    write_json(partial / SOURCES_NAME, {"source_image_ids": list(source_image_ids)})
    check(pipeline, partial, state, alpha / rank)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def sort_header(file: Path) -> None:
    """Put the header of a safetensors file in order: the library's differs from run to run, and with it the digest."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of 8, as the library has them
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def check(
    pipeline: StableDiffusionPipeline, folder: Path, state: Mapping[str, Mapping[str, torch.Tensor]], scale: float
) -> None:
    """Raise RuntimeError unless load_lora_weights finds every weight of `state` in the file, and this scale.

    A file with other names would load nothing, with a warning only, and images would come from the base model."""
    networks = {name: getattr(pipeline, name) for name in state}
    frozen = [parameter for network in networks.values() for parameter in network.parameters()]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would say that there is nothing for a text encoder that was not trained
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.load_lora_weights(str(folder), weight_name=WEIGHTS_NAME, adapter_name="saved")
        if set(pipeline.get_list_adapters()) != set(state):
            raise RuntimeError(f"{folder}: the pipeline read adapters for {pipeline.get_list_adapters()} from it")
        for name, weights in state.items():
            for key, tensor in weights.items():
                layer, matrix = key.removesuffix(".weight").rsplit(".", 1)
                loaded = networks[name].get_submodule(layer)
                found = getattr(loaded, matrix)["saved"].weight
                same = torch.equal(found.detach().cpu(), tensor.to(found.dtype)) and loaded.scaling["saved"] == scale
                if not same:
                    raise RuntimeError(f"{folder}: {name}.{key} came back otherwise than it was saved")
    finally:
        logging.set_verbosity(verbosity)
        pipeline.unload_lora_weights()
        for parameter in frozen:
            parameter.requires_grad_(False)


def load(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The inverse of save: weights by peft's names for each network. Raises InputError for a damaged file."""
    try:
        weights = load_file(folder / WEIGHTS_NAME)
    except (OSError, SafetensorError) as error:
        raise InputError(f"adapter {folder}: {one_line(error)}; delete that folder and train it again") from error
    names = {"unet": convert_unet_state_dict_to_peft, "text_encoder": convert_state_dict_to_peft}
    found = {}
    for network, as_peft in names.items():
        own = {key.removeprefix(f"{network}."): w for key, w in weights.items() if key.startswith(f"{network}.")}
        if own:
            found[network] = as_peft(own)
    return found


def sha256(folder: Path) -> str:
    """Digest of the adapter's file, as the images made with it name it."""
    return sha256_of(folder / WEIGHTS_NAME)
