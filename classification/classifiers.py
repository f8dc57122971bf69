"""Classifiers: a backbone and a head that turns its features into class scores, and their files on disk.

backbone = load_backbone("densenet169")
classifier = build_classifier(backbone, n_classes=103, recipe="finetune", name="densenet169")
logits = classifier(pixels)                      # (b, 3, 224, 224) normalised to (b, 103)
save_classifier(folder, classifier, {"backbone": "densenet169"})
classifier = load_classifier(folder, backbone)   # the same logits, bit for bit
"""

import copy
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from classification.backbones import Backbone
from classification.weight_files import (
    RECORD_KEY,
    SEEN_PHOTOGRAPHS,
    is_seen_photographs,
    load_weights,
    read_weights,
    seen_tensor,
)
from harness.errors import InputError, one_line
from harness.files import write_atomically, write_json
from harness.weights_digest import weights_sha256

LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")  # peft's names


# ------------------------------------------------------------------------------------------------------------ heads


class Gate(nn.Module):
    """Weights each channel by its mean over the image, then flattens: (b, c) or (b, c, h, w) to (b, c * h * w).

    Squeeze-and-excitation (Hu, Shen and Sun, CVPR 2018) with reduction 16: channel means, linear, ReLU, linear,
    sigmoid."""

    def __init__(self, channels: int):
        super().__init__()
        self.excitation = torchvision.ops.SqueezeExcitation(channels, max(1, channels // 16))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        maps = features if features.ndim == 4 else features[:, :, None, None]
        return self.excitation(maps).flatten(1)


class GatedHead(nn.Sequential):
    """The paper's head: gate, batch norm, dropout, linear; features of shape (b, *feature_shape) to (b, n_classes).

    Batch norm needs at least two images in a training step."""

    def __init__(self, feature_shape: tuple[int, ...], n_classes: int):
        width = int(np.prod(feature_shape))
        norm, linear = nn.BatchNorm1d(width), nn.Linear(width, n_classes)
        super().__init__(Gate(feature_shape[0]), norm, nn.Dropout(0.5), linear)


class FaceNetHead(nn.Sequential):
    """The paper's head for FaceNet, with a hidden layer of 256; shapes as for GatedHead."""

    def __init__(self, feature_shape: tuple[int, ...], n_classes: int):
        width = int(np.prod(feature_shape))
        hidden = (nn.Linear(width, 256), nn.ReLU(), nn.Dropout(0.5))
        super().__init__(
            Gate(feature_shape[0]), nn.BatchNorm1d(width), nn.Dropout(0.5), *hidden, nn.Linear(256, n_classes)
        )


def probe_features(features: torch.Tensor) -> torch.Tensor:
    """A linear probe's input from features (b, d) or (b, c, h, w): (b, c * h * w) float32, of unit length.

    First each feature is replaced by its signed square root, so that a few large ones do not dominate (power
    normalisation: Perronnin, Sanchez and Mensink, ECCV 2010). Then each image's features are scaled to unit length,
    which removes the overall contrast of the photograph and the scale of the backbone's features."""
    flat = features.float().flatten(1)
    rooted = flat.sign() * (flat.abs() + 1e-12).sqrt()  # the slope at 0 must be finite, for heat maps
    return nn.functional.normalize(rooted, eps=1e-12)


class LinearHead(nn.Module):
    """A fitted linear probe as a head: a backbone's features to (b, n_classes) logits, through probe_features.

    weights (c, d), biases (c,): for the scores of the c classes that had training images; classes (c,): their numbers
    in 0..n_classes-1. Every other class gets the logit -inf, hence probability 0. temperature: divides the scores."""

    def __init__(
        self, weights: np.ndarray, biases: np.ndarray, classes: np.ndarray, temperature: float, n_classes: int
    ):
        super().__init__()
        self.n_classes = n_classes
        self.linear = nn.Linear(weights.shape[1], weights.shape[0])
        self.linear.weight.data = torch.tensor(weights, dtype=torch.float32)
        self.linear.bias.data = torch.tensor(biases, dtype=torch.float32)
        self.register_buffer("classes", torch.tensor(classes, dtype=torch.int64))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # Never in half precision: discriminant scores differ by little compared with their own size.
        with torch.autocast(features.device.type, enabled=False):
            return self.logits(probe_features(features))

    def logits(self, probed: torch.Tensor) -> torch.Tensor:
        """probed (b, d) float32, as probe_features returns it, to (b, n_classes)."""
        scores = self.linear(probed) / self.temperature
        logits = scores.new_full((len(scores), self.n_classes), -torch.inf)
        return logits.index_copy(1, self.classes, scores)


# ------------------------------------------------------------------------------------------------------- classifier


class FaceClassifier(nn.Module):
    """Normalised pixels (b, 3, s, s) to logits (b, n_classes): head(backbone(pixels)).

    recipe: finetune, lora or linear_probe. With lora, batch norm in the backbone keeps its original statistics even in
    training mode; with linear_probe the whole backbone stays in evaluation mode."""

    def __init__(self, backbone: nn.Module, head: nn.Module, recipe: str):
        super().__init__()
        self.backbone, self.head, self.recipe = backbone, head, recipe

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(pixels))

    def train(self, mode: bool = True) -> "FaceClassifier":
        super().train(mode)
        for layer in self.backbone.modules() if self.recipe != "finetune" else ():
            if self.recipe == "linear_probe" or isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.training = False
        return self


def build_classifier(backbone: Backbone, n_classes: int, recipe: str, name: str) -> FaceClassifier:
    """A copy of the backbone with the paper's head, in float32 and ready to train.

    recipe: finetune (everything is trained) or lora (the backbone is frozen; low-rank updates of its attention
    projections are trained, and the head). name: of the backbone; facenet has a head of its own. The new weights are
    drawn from torch's global generator. Raises InputError for lora if the backbone has no attention."""
    network = copy.deepcopy(backbone.network).float()  # every fold starts from the same weights
    shape, called = probe_forward(network, backbone.image_size)
    network.requires_grad_(recipe == "finetune")
    if recipe == "lora":
        import peft  # it takes 3 s to import, and no other recipe needs it

        layers = layers_to_adapt(network, called, name)
        network = peft.get_peft_model(network, peft.LoraConfig(target_modules=layers, **LORA))
    head = (FaceNetHead if name == "facenet" else GatedHead)(shape, n_classes)
    return FaceClassifier(network, head, recipe).train()


def probe_forward(network: nn.Module, image_size: int) -> tuple[tuple[int, ...], list[str]]:
    """Shape of one image's features, (d,) or (c, h, w), and the names of all linear layers that were called for them.

    Raises InputError if the network cannot take images of this size (px)."""
    called = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    network.eval()
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            features = network(torch.zeros(1, 3, image_size, image_size, device=device))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = one_line(error)
        raise InputError(f"the backbone takes no {image_size} px images ({reason}); change --resolution") from error
    for hook in hooks:
        hook.remove()
    return tuple(features.shape[1:]), called


def layers_to_adapt(network: nn.Module, called: list[str], name: str) -> list[str]:
    """Names of the linear layers that get LoRA: those of attention, else those of the transformer's MLPs.

    called: names of the layers that the network calls. Only these count: some attention reads the weights of its
    projections instead of calling them (all in torchvision's Swin and ViT, the first in timm's BEiT), and LoRA in a
    layer that is not called would have no effect. Raises InputError if there is no attention."""
    parents = {layer: type(network.get_submodule(layer.rpartition(".")[0])).__name__.lower() for layer in called}
    if any("attention" in kind or "attn" in kind for kind in (type(m).__name__.lower() for m in network.modules())):
        for part in (("attention", "attn"), ("mlp",)):
            layers = [layer for layer, parent in parents.items() if any(word in parent for word in part)]
            if layers:
                return layers
    raise InputError(f"backbone {name} has no attention layers for --recipe lora; use --recipe finetune")


# ------------------------------------------------------------------------------------------------------------- disk


def save_classifier(folder: Path, classifier: FaceClassifier, config: dict, seen: Iterable[str] = ()) -> None:
    """Write the classifier into `folder`, each file whole or not at all, config.json last.

    classifier: not wrapped (accelerator.unwrap_model). config: facts to keep in config.json, to which the ones that
    load_classifier needs are added. seen: digests of all photographs that the classifier has learnt from. They are kept
    in the safetensors metadata, and for finetune also as a tensor beside the weights, so that it cannot be mistaken for
    a network that has not seen them.

    Files: for finetune model.safetensors; for linear_probe model.safetensors with the head alone, since the backbone is
    unchanged; for lora adapter_model.safetensors and adapter_config.json as peft writes them, and head.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)  # its presence means that the rest is there
    if classifier.recipe == "lora":
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
            classifier.backbone.save_pretrained(partial)
            for name in ADAPTER_FILES:
                os.replace(Path(partial) / name, folder / name)
    saved = classifier if classifier.recipe == "finetune" else classifier.head
    # safetensors does not accept channels_last
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in saved.state_dict().items()}
    record = {RECORD_KEY: json.dumps({SEEN_PHOTOGRAPHS: sorted(seen), **config}, default=str)}
    if classifier.recipe == "finetune" and seen:
        state[f"backbone.{SEEN_PHOTOGRAPHS}"] = seen_tensor(seen)
    write_atomically(folder / weights_name(classifier.recipe), lambda file: save_file(state, file, record))
    head, whole = classifier.head, classifier.recipe == "finetune"
    needed = {"recipe": classifier.recipe, "head": type(head).__name__, "backbone_saved": whole}
    if isinstance(head, LinearHead):
        needed |= {"n_classes": head.n_classes, "n_trained_classes": len(head.classes)}
    else:
        needed["n_classes"] = head[-1].out_features
    if not whole:
        needed["backbone_sha256"] = weights_sha256(classifier.backbone)
    write_json(folder / "config.json", config | needed)


def load_classifier(folder: Path, backbone: Backbone) -> FaceClassifier:
    """The classifier that save_classifier wrote, in evaluation mode, on a copy of the backbone.

    Raises InputError if a file is missing or damaged, or the backbone, or its input, is not the one that was trained
    on."""
    config = read_config(folder)
    recipe, name = config["recipe"], config.get("backbone", "the backbone")
    weights = folder / weights_name(recipe)
    for file in (weights, *(folder / adapter for adapter in ADAPTER_FILES if recipe == "lora")):
        if not file.is_file():
            raise InputError(f"classifier {folder}: {file.name} is missing; train again")
    network = copy.deepcopy(backbone.network).float()
    if not config["backbone_saved"] and config["backbone_sha256"] != weights_sha256(network):
        raise InputError(
            f"classifier {folder} was trained on other weights or another input size of {name}; give the same backbone"
        )
    for part in ("image_size", "mean", "std"):  # faces are aligned by the caller
        if part in config and config[part] != json.loads(json.dumps(getattr(backbone, part))):
            was = f"was trained on another input of {name}: {part} {config[part]}, not {getattr(backbone, part)}"
            raise InputError(f"classifier {folder} {was}; give the same backbone")
    shape, _ = probe_forward(network, backbone.image_size)
    if recipe == "lora":
        network = load_adapter(network, folder)
    classifier = FaceClassifier(network, empty_head(config, shape), recipe)
    saved = classifier if recipe == "finetune" else classifier.head
    load_weights(saved, read_weights(weights), (), f"a classifier on {name}", weights)
    return classifier.eval()


def weights_name(recipe: str) -> str:
    """Name of the file that holds a classifier's head, in a folder that save_classifier wrote."""
    return "head.safetensors" if recipe == "lora" else "model.safetensors"


def read_config(folder: Path) -> dict:
    """The content of config.json in a folder that save_classifier wrote. Raises InputError if it cannot be used."""
    if not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "there is no such folder"
        remedy = "name the model of one fold, such as RUN/folds/seed0_fold0/model (--no-save_models leaves none)"
        raise InputError(f"classifier {folder}: {what}; {remedy}")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"classifier {folder}: no readable config.json ({one_line(error)}); train again") from error
    if not isinstance(config, dict):
        raise InputError(f"classifier {folder}: no readable config.json (a JSON {type(config).__name__}); train again")
    missing = {"recipe", "head", "n_classes", "backbone_saved"} - config.keys()
    if missing:
        raise InputError(f"classifier {folder}: its config.json lacks {min(missing)}; give a folder of this script")
    return config


def load_adapter(network: nn.Module, folder: Path) -> nn.Module:
    """The network with the LoRA layers that peft wrote into `folder`, in evaluation mode.

    peft's own from_pretrained loads the tensors whose names fit and leaves the others random, so names are compared
    here. Raises InputError unless the file has exactly the LoRA tensors of the layers that adapter_config.json names,
    each with its shape and finite."""
    import peft

    refused = f"classifier {folder}: its adapter does not fit the backbone"
    remedy = f"give {' and '.join(ADAPTER_FILES)} as they were saved, or train again"
    try:
        saved = load_file(folder / ADAPTER_FILES[0])
        adapted = peft.get_peft_model(network, peft.PeftConfig.from_pretrained(str(folder)))
        expected = peft.get_peft_model_state_dict(adapted)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{refused} ({one_line(error)}); {remedy}") from error
    saved = {key: tensor for key, tensor in saved.items() if not is_seen_photographs(key)}
    resized = [key for key in expected.keys() & saved.keys() if expected[key].shape != saved[key].shape]
    not_finite = [key for key, tensor in saved.items() if not tensor.isfinite().all()]
    problems = [
        f"{len(keys)} tensors {what} (first {min(keys)})"
        for keys, what in (
            (expected.keys() - saved.keys(), "missing"),
            (saved.keys() - expected.keys(), "unknown"),
            (resized, "of another shape"),
            (not_finite, "with values that are not finite"),
        )
        if keys
    ]
    if problems:
        raise InputError(f"{refused}: {', '.join(problems)}; {remedy}")
    peft.set_peft_model_state_dict(adapted, saved)
    return adapted.eval()


def empty_head(config: dict, feature_shape: tuple[int, ...]) -> nn.Module:
    """A head of the kind and size that `config` names, its weights still to be loaded."""
    if config["head"] == "LinearHead":
        c, d = config["n_trained_classes"], int(np.prod(feature_shape))
        return LinearHead(np.zeros((c, d)), np.zeros(c), np.zeros(c), 1.0, config["n_classes"])
    return {"GatedHead": GatedHead, "FaceNetHead": FaceNetHead}[config["head"]](feature_shape, config["n_classes"])
