"""Pretrained networks by name, without their classifier: timm's, torchvision's, or a local folder in timm's layout."""

import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import timm
import torch
import torchvision

from built_dataset import work_offline_where_the_hub_is_unreachable
from runs import InputError, one_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass
class Backbone:
    """A frozen network: (b, 3, image_size, image_size) normalised RGB to features, (b, d) or a map (b, d, h, w)."""

    network: torch.nn.Module
    image_size: int  # px, square
    mean: Sequence[float]  # of RGB in 0..1
    std: Sequence[float]
    face_alignment: str | None = (
        None  # detector with which the faces it was trained on were cut out; None: whole images
    )


def load_backbone(name: str, weights: Path | None = None, image_size: int | None = None) -> Backbone:
    """The pretrained network called `name`, in evaluation mode and without its classifier.

    name: a timm name (`resnet152.tv2_in1k`), `torchvision/NAME`, or a folder with config.json and model.safetensors in
    timm's layout; weights: a .safetensors or .pth file to read instead (only tensors, never unpickled); image_size:
    side of the square input in px, where it should not be the backbone's own. Raises InputError where it cannot."""
    if weights is not None and not weights.is_file():
        raise InputError(f"--backbone_weights {weights}: no such file; give a .safetensors or .pth file")
    if name.startswith("torchvision/"):
        backbone = _torchvision_backbone(name.removeprefix("torchvision/"), weights)
        backbone.image_size = image_size or backbone.image_size
    else:
        backbone = _timm_backbone(name, weights, image_size)
    backbone.network.eval().requires_grad_(False)
    return backbone


def _torchvision_backbone(name: str, weights: Path | None) -> Backbone:
    # Left out: two with another normalisation than ImageNet's, and one whose files need more than their tensors.
    known = torchvision.models.list_models(torchvision.models, exclude=["googlenet", "inception_v3", "mnasnet*"])
    if name not in known:
        raise InputError(f"torchvision has no model {name!r}{_did_you_mean(name, known)}")
    published = torchvision.models.get_model_weights(name).DEFAULT
    network = torchvision.models.get_model(name, weights=None)
    if weights is None:
        try:
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
        except OSError as error:
            cache = Path(torch.hub.get_dir()) / "checkpoints"
            raise InputError(
                f"weights of torchvision/{name} are neither in {cache} nor to be had from {published.url} "
                f"({one_line(error)}); give a file with --backbone_weights"
            ) from error
    else:
        state = read_weights(weights)
    # The last Linear or Conv2d of every torchvision classifier makes the classes; what enters it is the feature.
    makes_classes = torch.nn.Linear | torch.nn.Conv2d
    classifier = [key for key, layer in network.named_modules() if isinstance(layer, makes_classes)][-1]
    network.set_submodule(classifier, torch.nn.Identity())
    load_weights(network, state, (classifier,), f"torchvision/{name}", weights or published.url)
    return Backbone(network, published.transforms().crop_size[0], IMAGENET_MEAN, IMAGENET_STD)


def _timm_backbone(name: str, weights: Path | None, image_size: int | None) -> Backbone:
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and not timm.is_model(name):
        close = _did_you_mean(name, timm.list_models())
        raise InputError(f"backbone {name}: no such folder or timm model{close}; torchvision's are torchvision/NAME")
    if folder is not None and not (folder / "config.json").is_file():
        raise InputError(f"backbone {name}: the folder has no config.json; save the model in timm's layout")
    if folder is not None and weights is None:
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise InputError(f"weights of {name}: {weights} is missing; put it there or give --backbone_weights FILE")
    source = f"local-dir:{folder}" if folder else name
    if weights is None:
        work_offline_where_the_hub_is_unreachable()
    try:
        network = timm.create_model(source, pretrained=weights is None, num_classes=0)
        if image_size is not None and network.pretrained_cfg.get("fixed_input_size"):  # position embeddings follow it
            network = timm.create_model(source, pretrained=weights is None, num_classes=0, img_size=image_size)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if weights is not None:
            raise InputError(f"backbone {name}: {one_line(error)}") from error
        cache = huggingface_hub.constants.HF_HUB_CACHE
        raise InputError(
            f"weights of {name} are neither in {cache} nor to be had from {huggingface_hub.constants.ENDPOINT} "
            f"({type(error).__name__}); give a file with --backbone_weights or a folder with --backbone"
        ) from error
    if weights is not None:
        classifier = network.pretrained_cfg.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else classifier
        load_weights(network, read_weights(weights), classifier, name, weights)
    config = timm.data.resolve_model_data_config(network)
    alignment = json.loads((folder / "config.json").read_text()).get("face_alignment") if folder else None
    return Backbone(network, image_size or config["input_size"][-1], config["mean"], config["std"], alignment)


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or a .pth state dict, also one inside a training checkpoint."""
    try:
        return timm.models.load_state_dict(str(file), weights_only=True)
    except Exception as error:  # each format has its own: UnpicklingError, SafetensorError, RuntimeError, EOFError
        reason = f"{type(error).__name__}, {one_line(error).split('. ')[0]}"
        raise InputError(f"weights {file}: {reason}; give a .safetensors file or a plain state dict") from error


def load_weights(
    network: torch.nn.Module, state: dict, classifier: Sequence[str], name: str, source: Path | str
) -> None:
    """Load `state`; its tensors must be the network's, except those of the classifier, which has been removed."""
    removed = tuple(f"{part}." for part in classifier)
    state = {key: tensor for key, tensor in state.items() if not key.startswith(removed)}
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    resized = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    problems = [
        f"{len(keys)} tensors {what} (first {sorted(keys)[0]})"
        for keys, what in ((missing, "missing"), (unknown, "unknown"), (resized, "of another shape"))
        if keys
    ]
    if problems:
        raise InputError(f"weights {source} do not fit {name}: {', '.join(problems)}; check --backbone and the file")
    network.load_state_dict(state)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.split(".")[0], known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
