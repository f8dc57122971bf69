"""Adapter files: written as diffusers reads them, with alpha and the record of what they were trained on; read back.

A folder holds `pytorch_lora_weights.safetensors`, for `pipeline.load_lora_weights(folder)`, and `sources.json`, which
names the photographs that the adapter was trained on, so that a withdrawn photograph's adapters can be found. The
file's own metadata, entry `rdface`, holds the digests of the same photographs (generation/training_provenance.py).

Adapters of other programs can be read too: kohya's names (`lora_unet_..._to_q.lora_down.weight`, with `.alpha`), peft's
(`base_model.model....to_q.lora_A.weight`, alpha in `adapter_config.json`) and those of diffusers, old and new.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, logging
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from generation import training_provenance
from generation.routed_lora import TEXT_LAYERS, UNET_LAYERS
from generation.training_provenance import SOURCES_NAME
from harness.errors import InputError, one_line
from harness.files import sha256_of, write_atomically, write_json

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
RECORD_KEY = "rdface"  # in a file's metadata: what the adapter was trained on
LAYERS = {"unet": UNET_LAYERS, "text_encoder": TEXT_LAYERS}
RETRAIN = "delete that folder, it is then trained again"

# How a tensor's name ends -> which matrix it is; the part before names the layer.
MATRICES = {
    r"\.lora_A(?:\.default)?\.weight": "lora_A",  # peft
    r"\.lora_B(?:\.default)?\.weight": "lora_B",
    r"\.lora_down\.weight": "lora_A",  # kohya
    r"\.lora_up\.weight": "lora_B",
    r"[._]lora(?:_linear_layer)?\.down\.weight": "lora_A",  # diffusers, new and old (to_q_lora)
    r"[._]lora(?:_linear_layer)?\.up\.weight": "lora_B",
    r"\.alpha": "alpha",
}
# How a layer's name begins -> its network. Names by peft and by early versions of diffusers have no prefix.
PREFIXES = {
    "lora_unet_": "unet",
    "unet.": "unet",
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "text_encoder.": "text_encoder",
}
# Names in the text encoder that early versions of diffusers wrote.
OLD_TEXT_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}

Sizes = Mapping[str, Mapping[str, tuple[int, int]]]  # network -> linear layer -> its inputs and outputs


@dataclasses.dataclass
class Adapter:
    """The content of an adapter file.

    state: network -> weights by peft's names, (rank, in) and (out, rank); alpha: network -> layer -> alpha, where
    alpha / rank scales the layer's update; record: what it was trained on, None if the file does not say."""

    state: dict[str, dict[str, torch.Tensor]]
    alpha: dict[str, dict[str, float]]
    record: dict[str, Any] | None


# ----------------------------------------------------------------------------------------------------------- writing


def save(
    pipeline: StableDiffusionPipeline,
    folder: Path,
    state: Mapping[str, Mapping[str, torch.Tensor]],
    rank: int,
    alpha: float,
    source_image_ids: Sequence[str],
    record: Mapping[str, Any],
) -> None:
    """Write an adapter into `folder`, whole or not at all, after checking that the pipeline reads it back unchanged.

    state: `unet` and, if it was trained, `text_encoder` -> weights by peft's names, (rank, in) and (out, rank); record:
    a training_provenance.TrainedOn as a dict, and more if needed; it must hold no image_id."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    layers, metadata = {}, {}
    for network, weights in state.items():
        layers[f"{network}_lora_layers"] = convert_state_dict_to_diffusers(dict(weights))
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LAYERS[network])).to_dict()
        config["target_modules"] = sorted(config["target_modules"])  # a set: its order must not change the digest
        metadata[f"{network}_lora_adapter_metadata"] = config  # without it, alpha would be read back as the rank

    def write(file: Path) -> None:
        StableDiffusionPipeline.save_lora_weights(file.parent, weight_name=file.name, **layers, **metadata)
        rewrite_header(file, {RECORD_KEY: json.dumps(record, sort_keys=True)})

    try:
        partial.mkdir(parents=True)
        write_atomically(partial / WEIGHTS_NAME, write)
        write_json(partial / SOURCES_NAME, training_provenance.sources(source_image_ids, record))
        check(pipeline, partial, state, alpha / rank)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def rewrite_header(file: Path, metadata: Mapping[str, str]) -> None:
    """Add metadata to a safetensors file, and sort its header, whose order in the library differs from run to run, and
    with it the file's digest."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = header.get("__metadata__", {}) | metadata
    ordered = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)  # tensors must start at a multiple of 8
    file.write_bytes(len(ordered).to_bytes(8, "little") + ordered + content[8 + length :])


def check(
    pipeline: StableDiffusionPipeline, folder: Path, state: Mapping[str, Mapping[str, torch.Tensor]], scale: float
) -> None:
    """Raise RuntimeError unless load_lora_weights finds every weight of `state` in the file, and this scale.

    A file with wrong names would load nothing, with a warning only, and images would come from the base model alone."""
    networks = {name: getattr(pipeline, name) for name in state}
    frozen = [parameter for network in networks.values() for parameter in network.parameters()]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides a warning about a text encoder that was not trained
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
                weight = getattr(loaded, matrix)["saved"].weight
                same = torch.equal(weight.detach().cpu(), tensor.to(weight.dtype)) and loaded.scaling["saved"] == scale
                if not same:
                    raise RuntimeError(f"{folder}: {name}.{key} came back otherwise than it was saved")
    finally:
        logging.set_verbosity(verbosity)
        pipeline.unload_lora_weights()
        for parameter in frozen:
            parameter.requires_grad_(False)


# ----------------------------------------------------------------------------------------------------------- reading


def load(folder: Path, sizes: Sizes | None = None, rank: int | None = None, alpha: float | None = None) -> dict:
    """Network -> weights by peft's names, as save takes them.

    sizes: of the layers that the adapter must have, all of them and no others; rank, alpha: those that it must have;
    None: any. Raises InputError for a damaged file, and for the first tensor that is missing, left over, of another
    size, or not finite."""
    adapter = read(folder / WEIGHTS_NAME, sizes, f"adapter {folder}", RETRAIN)
    for network, layers in (sizes or {}).items():
        for layer in layers:
            if f"{layer}.lora_A.weight" not in adapter.state.get(network, {}):
                raise InputError(f"adapter {folder}: it has no weights for layer {network}.{layer}; {RETRAIN}")
    for network, weights in adapter.state.items():
        for layer, own in adapter.alpha[network].items():
            its_rank = len(weights[f"{layer}.lora_A.weight"])
            for what, has, wanted in (("rank", its_rank, rank), ("alpha", own, alpha)):
                if wanted is not None and not math.isclose(has, wanted):
                    raise InputError(f"adapter {folder}: {network}.{layer} has {what} {has}, not {wanted}; {RETRAIN}")
    return adapter.state


def record_of(folder: Path) -> dict[str, Any] | None:
    """What an adapter's file says about its training; None if it says nothing. Raises InputError for a damaged file."""
    with _readable(f"adapter {folder}", RETRAIN), safe_open(folder / WEIGHTS_NAME, "pt") as file:
        return _record(file.metadata())


def read(file: Path, sizes: Sizes | None, what: str, remedy: str) -> Adapter:
    """Read an adapter with the names of kohya, of peft, or of diffusers, old or new.

    sizes: of all linear layers (linear_layers), one of which must fit each tensor; None: the names must say the layer,
    which kohya's do not. Alpha comes from kohya's tensors, from the file's metadata, or from peft's adapter_config.json
    beside it; without any of these it is the rank, as in those programs. what, remedy: for messages. Raises InputError
    for the first tensor without a layer or a partner, of another size than its layer, or with a value that is not
    finite."""
    with _readable(what, remedy):
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
        tensors = load_file(file)
    if not tensors:
        raise InputError(f"{what}: it holds no weights; {remedy}")
    places = {network: {_plain(layer): layer for layer in layers} for network, layers in (sizes or {}).items()}
    state: dict[str, dict[str, torch.Tensor]] = {}
    alpha: dict[str, dict[str, float]] = {}
    for name in sorted(tensors):
        place = _place_of(name, places if sizes is not None else None)
        if place is None:
            expected = "a low-rank update of a linear layer that is to be adapted"
            raise InputError(f"{what}: tensor {name} is not {expected}; {remedy}")
        network, layer, matrix = place
        if not torch.isfinite(tensors[name].float()).all():
            raise InputError(f"{what}: tensor {name} holds values that are not finite; {remedy}")
        if matrix == "alpha":
            if tensors[name].numel() != 1:
                raise InputError(f"{what}: tensor {name} is not one number; {remedy}")
            alpha.setdefault(network, {})[layer] = float(tensors[name])
            continue
        key = f"{layer}.{matrix}.weight"
        if key in state.setdefault(network, {}):
            raise InputError(f"{what}: tensor {name} is there twice, under two names; {remedy}")
        state[network][key] = tensors[name]
    for network, weights in state.items():
        _check_sizes(network, weights, (sizes or {}).get(network), what, remedy)
    with _readable(what, remedy):
        return Adapter(state, _alphas(state, alpha, _configs(file, metadata), what, remedy), _record(metadata))


def linear_layers(pipeline: StableDiffusionPipeline) -> Sizes:
    """The sizes of all linear layers of a pipeline's networks."""
    networks = {name: getattr(pipeline, name) for name in LAYERS}
    return {
        name: {
            layer: (module.in_features, module.out_features)
            for layer, module in network.named_modules()
            if isinstance(module, nn.Linear)
        }
        for name, network in networks.items()
    }


@contextlib.contextmanager
def _readable(what: str, remedy: str) -> Iterator[None]:
    """Turn what libraries raise for a damaged file into an InputError of one line."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{what}: {one_line(error)}; {remedy}") from error


def _record(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    return json.loads(metadata[RECORD_KEY]) if metadata and RECORD_KEY in metadata else None


def _plain(layer: str) -> str:
    """A layer's name as kohya writes it, without the prefix that the text model's layers have in some versions."""
    return layer.replace(".", "_").removeprefix("text_model_")


def _place_of(name: str, places: Mapping[str, Mapping[str, str]] | None) -> tuple[str, str, str] | None:
    """Network, layer and matrix (lora_A, lora_B or alpha) of a tensor; None if it belongs to no layer.

    places: network -> plain name -> layer; None: the tensor's name must say all three."""
    fitting = [(re.fullmatch(rf"(.+?)({ending})", name), matrix) for ending, matrix in MATRICES.items()]
    spelled, matrix = next(((spelled, matrix) for spelled, matrix in fitting if spelled), (None, ""))
    if spelled is None:
        return None
    layer = spelled[1].removeprefix("base_model.model.")
    prefix = next((prefix for prefix in PREFIXES if layer.startswith(prefix)), "")
    layer = layer.removeprefix(prefix).removeprefix("base_model.model.").replace(".processor.", ".")
    if places is None:
        whole = prefix.endswith(".") and not spelled[2].startswith("_")
        return (PREFIXES[prefix], layer, matrix) if whole else None
    for network in [PREFIXES[prefix]] if prefix else places:
        parent, _, own = layer.rpartition(".")
        old = [f"{layer}.0", f"{parent}.{OLD_TEXT_NAMES.get(own)}"] if spelled[2].startswith("_lora") else []
        for candidate in (layer, *old):
            if _plain(candidate) in places.get(network, {}):
                return network, places[network][_plain(candidate)], matrix
    return None


def _check_sizes(
    network: str,
    weights: Mapping[str, torch.Tensor],
    sizes: Mapping[str, tuple[int, int]] | None,
    what: str,
    remedy: str,
) -> None:
    """Raise InputError unless every layer has both matrices, of one rank, and of the layer's own size."""
    for key, tensor in weights.items():
        layer, matrix = key.removesuffix(".weight").rsplit(".", 1)
        other = {"lora_A": "lora_B", "lora_B": "lora_A"}[matrix]
        partner = weights.get(f"{layer}.{other}.weight")
        if partner is None:
            raise InputError(f"{what}: layer {network}.{layer} has {matrix} and no {other}; {remedy}")
        shapes = tuple(tensor.shape), tuple(partner.shape)
        fits = tensor.ndim == partner.ndim == 2
        if matrix == "lora_A" and fits:
            fits = tensor.shape[0] == partner.shape[1] > 0
            fits = fits and (sizes is None or (tensor.shape[1], partner.shape[0]) == sizes[layer])
        if not fits:
            size = "" if sizes is None else f" of {sizes[layer][0]} inputs and {sizes[layer][1]} outputs"
            raise InputError(f"{what}: the shapes {shapes} do not fit layer {network}.{layer}{size}; {remedy}")


def _configs(file: Path, metadata: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """Network -> peft's settings, from the file's metadata or the adapter_config.json beside it; "" is any network."""
    configs: dict[str, dict[str, Any]] = {}
    for name, value in json.loads(metadata.get("lora_adapter_metadata", "{}")).items():
        network, _, setting = name.partition(".")
        configs.setdefault(network, {})[setting] = value
    beside = file.with_name("adapter_config.json")
    if not configs and beside.is_file():
        configs[""] = json.loads(beside.read_text(encoding="utf-8"))
    return configs


def _alphas(
    state: Mapping[str, Mapping[str, torch.Tensor]],
    given: Mapping[str, Mapping[str, float]],
    configs: Mapping[str, Mapping[str, Any]],
    what: str,
    remedy: str,
) -> dict[str, dict[str, float]]:
    """Network -> layer -> alpha. given: the alphas that stand in the file as tensors; configs: of peft.

    Raises InputError for an alpha of a layer without weights, and for settings that are not supported."""
    alphas: dict[str, dict[str, float]] = {}
    for network, layers in given.items():
        for layer in layers:
            if f"{layer}.lora_A.weight" not in state.get(network, {}):
                raise InputError(f"{what}: layer {network}.{layer} has an alpha and no weights; {remedy}")
    for network, weights in state.items():
        config = configs.get(network, configs.get("", {}))
        for setting in ("alpha_pattern", "rank_pattern", "use_dora"):
            if config.get(setting):
                raise InputError(f"{what}: it was trained with {setting}, which cannot be read; {remedy}")
        for key, tensor in weights.items():
            layer, matrix = key.removesuffix(".weight").rsplit(".", 1)
            if matrix == "lora_A":
                rank = len(tensor)
                alpha = float(config.get("lora_alpha", rank)) * (math.sqrt(rank) if config.get("use_rslora") else 1)
                alphas.setdefault(network, {})[layer] = given.get(network, {}).get(layer, alpha)
    return alphas


def sha256(folder: Path) -> str:
    """Digest of the adapter's file, which stands in the rows of its images."""
    return sha256_of(folder / WEIGHTS_NAME)
