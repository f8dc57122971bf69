"""Pretrained networks by name, without their classifier: the paper's six, any of timm or torchvision, or a folder.

The paper's names come before timm's own: `densenet169` and `resnet152` without a tag are the weights the paper used.
"""

import argparse
import dataclasses
import difflib
import itertools
import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import huggingface_hub
import numpy as np
import timm
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from harness.errors import InputError, one_line
from harness.files import read_json

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CLIP_IMAGE_TOWER = "vit_base_patch32_clip_quickgelu_224.openai"  # without quickgelu it is another network
PAPER_BACKBONES = {
    "densenet169": "densenet169.tv_in1k",
    "resnet152": "resnet152.tv2_in1k",
    "swin_t": "torchvision/swin_t",  # timm's swin_tiny has Microsoft's weights; the paper had torchvision's
    "clip_vit_b32": CLIP_IMAGE_TOWER,
    "facenet": "facenet",
    "vggface": "vggface",
}
RESAMPLED = timm.models.VisionTransformer | timm.models.Eva  # timm interpolates their position embeddings
PAPER_IMAGE_SIZE = 224  # px; with ImageNet's mean and standard deviation it fed this to all six

RECORD_KEY = "rdface"  # of the metadata of a safetensors file that this project wrote: JSON
SEEN_PHOTOGRAPHS = "seen_photographs"  # in that record, and name of the tensor (m, 32) beside the weights

FACENET_URL = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
VGGFACE_MEAN = (129.1863 / 255, 104.7624 / 255, 93.5940 / 255)  # of RGB; the network takes 0..255 less the mean


WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # torch's, anywhere in a name
# Averages of another network of the same file, and MoCo's query encoder, which is the one its authors test.
PREFERRED = re.compile(r"(\w+_)?ema(_\w+)?|teacher|encoder_q")
# Parts of a checkpoint that no feature passes through: for training only (also within the network), and beside it.
PROJECTIONS = re.compile(r"projector|(\w+_)?projection_head|predictor|prototypes")
HEADS = re.compile(rf"{PROJECTIONS.pattern}|(\w+_)?heads?|fc|classifier|logits|queue|criterion|(\w+_)?loss(_\w+)?")


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
    seen_photographs: frozenset[str] = frozenset()  # digests of those that this project trained it on


def load_backbone(
    name: str,
    weights: Path | None = None,
    image_size: int | None = None,
    paper_input: bool = False,
    pretrained: bool = True,
) -> Backbone:
    """The pretrained network called `name`, in evaluation mode and without its classifier.

    name: one of PAPER_BACKBONES, a timm name (`resnet152.tv2_in1k`), `torchvision/NAME`, or a folder with config.json
    and model.safetensors in timm's layout; weights: a .safetensors or .pth file to read instead (only tensors, never
    unpickled); image_size: side of the square input in px, where it should not be the backbone's own; paper_input: the
    paper's six at 224 px with ImageNet's mean and standard deviation, also where they were trained on others (for any
    other name it changes nothing); pretrained: False leaves the weights random. Features of the six: (1664,)
    densenet169, (2048,) resnet152, (768,) swin_t, (512,) clip_vit_b32, (1792,) facenet and at 224 px (512, 7, 7)
    vggface. Raises InputError where it cannot."""
    if weights is not None and not weights.is_file():
        raise InputError(f"--backbone_weights {weights}: no such file; give a .safetensors or .pth file")
    source = PAPER_BACKBONES.get(name, name)
    if paper_input and name in PAPER_BACKBONES:
        image_size = image_size or PAPER_IMAGE_SIZE
    if source in ("facenet", "vggface"):
        backbone = {"facenet": _facenet, "vggface": _vggface}[source](weights, pretrained)
    elif source.startswith("torchvision/"):
        backbone = _torchvision_backbone(source.removeprefix("torchvision/"), weights, pretrained)
    else:
        backbone = _timm_backbone(source, weights, image_size, pretrained)
    file = weights or (Path(name) / "model.safetensors" if Path(name).is_dir() else None)
    if pretrained and file is not None:
        backbone.seen_photographs = read_seen_photographs(file)
    backbone.image_size = image_size or backbone.image_size
    if paper_input and name in PAPER_BACKBONES:
        backbone.mean, backbone.std = IMAGENET_MEAN, IMAGENET_STD
    backbone.network.eval().requires_grad_(False)
    return backbone


def _facenet(weights: Path | None, pretrained: bool) -> Backbone:
    """Inception-ResNet-v1 trained on VGGFace2 (facenet-pytorch, MIT): the pooled feature, of unit length.

    The embedding layers behind it (last_linear, last_bn) are left out, as in the paper."""
    import facenet_pytorch  # here, so that other backbones cost no import of it

    network = facenet_pytorch.InceptionResnetV1()
    network.last_linear = network.last_bn = torch.nn.Identity()  # forward ends with a division by the norm
    if pretrained:
        # The package would unpickle the file, and looks in a folder of its own, not torch.hub's.
        cache = Path(facenet_pytorch.models.inception_resnet_v1.get_torch_home()) / "checkpoints"
        state = read_weights(weights) if weights else _download(FACENET_URL, cache, "facenet")
        load_weights(network, state, ("last_linear", "last_bn", "logits"), "facenet", weights or FACENET_URL)
    half = (127.5 / 255,) * 3
    return Backbone(network, 160, half, (128 / 255,) * 3)


def _vggface(weights: Path | None, pretrained: bool) -> Backbone:
    """VGG-16 trained on 2,622 people (Parkhi, Vedaldi and Zisserman, Deep Face Recognition, BMVC 2015): its pool5 map.

    The authors publish Caffe and MatConvNet files (https://www.robots.ox.ac.uk/~vgg/software/vgg_face), for
    non-commercial use. weights is their widely used conversion vgg_face_dag.pth
    (https://www.robots.ox.ac.uk/~albanie/pytorch-models.html), whose conv1_1 ... conv5_3 are renamed here to
    torchvision's layers, or a file with torchvision's own names; the fully connected layers are not used."""
    if pretrained and weights is None:
        raise InputError("vggface: its weights cannot be downloaded; give vgg_face_dag.pth with --backbone_weights")
    network = torchvision.models.vgg16(init_weights=not pretrained).features
    if pretrained:
        convolutions = [key for key, layer in network.named_children() if isinstance(layer, torch.nn.Conv2d)]
        published = [f"conv{block}_{i}" for block, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
        torchvision_name = dict(zip(published, convolutions, strict=True))
        state = {}
        for key, tensor in read_weights(weights).items():
            layer, _, parameter = key.removeprefix("features.").rpartition(".")
            state[f"{torchvision_name.get(layer, layer)}.{parameter}"] = tensor
        load_weights(network, state, ("fc6", "fc7", "fc8", "classifier"), "vggface", weights)
    return Backbone(network, 224, VGGFACE_MEAN, (1 / 255,) * 3)


def _download(url: str, cache: Path, name: str) -> dict[str, torch.Tensor]:
    """The state dict behind `url`, kept in the folder `cache`; only tensors, never unpickled."""
    try:
        return torch.hub.load_state_dict_from_url(url, cache, "cpu", progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # the latter two: a file cut short or changed
        raise InputError(
            f"weights of {name} are neither in {cache} nor to be had from {url} ({one_line(error)}); "
            "give a file with --backbone_weights"
        ) from error


def _torchvision_backbone(name: str, weights: Path | None, pretrained: bool) -> Backbone:
    # Left out: two with another normalisation than ImageNet's, and one whose files need more than their tensors.
    known = torchvision.models.list_models(torchvision.models, exclude=["googlenet", "inception_v3", "mnasnet*"])
    if name not in known:
        raise InputError(f"torchvision has no model {name!r}{_did_you_mean(name, known)}")
    published = torchvision.models.get_model_weights(name).DEFAULT
    network = torchvision.models.get_model(name, weights=None)
    # The last Linear or Conv2d of every torchvision classifier makes the classes; what enters it is the feature.
    makes_classes = torch.nn.Linear | torch.nn.Conv2d
    classifier = [key for key, layer in network.named_modules() if isinstance(layer, makes_classes)][-1]
    network.set_submodule(classifier, torch.nn.Identity())
    if pretrained:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        state = read_weights(weights) if weights else _download(published.url, cache, f"torchvision/{name}")
        load_weights(network, state, (classifier,), f"torchvision/{name}", weights or published.url)
    return Backbone(network, published.transforms().crop_size[0], IMAGENET_MEAN, IMAGENET_STD)


def _timm_backbone(name: str, weights: Path | None, image_size: int | None, pretrained: bool) -> Backbone:
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and not timm.is_model(name):
        close = _did_you_mean(name, timm.list_models())
        raise InputError(f"backbone {name}: no such folder or timm model{close}; torchvision's are torchvision/NAME")
    if folder is not None and not (folder / "config.json").is_file():
        raise InputError(f"backbone {name}: the folder has no config.json; save the model in timm's layout")
    config_of_folder = read_json(folder / "config.json", "save the model in timm's layout") if folder else {}
    if folder is not None and weights is None and pretrained:
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise InputError(f"weights of {name}: {weights} is missing; put it there or give --backbone_weights FILE")
    network = _timm_network(f"local-dir:{folder}" if folder else name, name, weights, image_size, pretrained)
    config = timm.data.resolve_model_data_config(network)
    alignment = config_of_folder.get("face_alignment")
    return Backbone(network, config["input_size"][-1], config["mean"], config["std"], alignment)


def _timm_network(
    source: str, name: str, weights: Path | None, image_size: int | None, pretrained: bool
) -> torch.nn.Module:
    """timm's network, its weights read from the file `weights`, or from the Hub or its cache, or random."""
    from_hub = pretrained and weights is None
    # Of CLIP the paper took the image embedding: what timm calls the head is the projection to it.
    options = {"num_classes": 512 if name == CLIP_IMAGE_TOWER else 0}
    try:
        network = timm.create_model(source, pretrained=from_hub, **options)
        own_size = image_size in (None, network.pretrained_cfg["input_size"][-1])
        resize = network.pretrained_cfg.get("fixed_input_size") and not own_size
        resample = resize and isinstance(network, RESAMPLED)
        if resize and not resample:
            network = timm.create_model(source, pretrained=from_hub, img_size=image_size, **options)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if not from_hub:
            raise InputError(f"backbone {name}: {one_line(error)}") from error
        cache = huggingface_hub.constants.HF_HUB_CACHE
        raise InputError(
            f"weights of {name} are neither in {cache} nor to be had from {huggingface_hub.constants.ENDPOINT} "
            f"({type(error).__name__}); give a file with --backbone_weights or a folder with --backbone"
        ) from error
    if pretrained and weights is not None:
        classifier = network.pretrained_cfg.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else classifier
        state = read_weights(weights)
        load_weights(network, state, () if options["num_classes"] else classifier, name, weights)
    if resample:  # after the weights, whose position embeddings are those of the published size
        network.set_input_size(img_size=(image_size, image_size))
    return network


def seen_tensor(digests: Iterable[str]) -> torch.Tensor:
    """Digests of photographs (SHA-256, m of them) as a uint8 tensor (m, 32), which goes wherever weights go."""
    return torch.tensor([list(bytes.fromhex(digest)) for digest in sorted(digests)], dtype=torch.uint8).view(-1, 32)


def read_seen_photographs(file: Path) -> frozenset[str]:
    """Digests of the photographs that a file of weights says it was trained on; empty for one that says nothing.

    A classifier of this project says so twice: in the metadata of its safetensors file, and in a tensor beside its
    weights, which outlives a change of format or of the names' prefixes. Raises InputError for an unreadable file."""
    record, tensors = None, {}
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as content:  # no other tensor is read
                record = (content.metadata() or {}).get(RECORD_KEY)
                tensors = {key: content.get_tensor(key) for key in content.keys() if is_seen_photographs(key)}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"weights {file}: {one_line(error)}; give another file") from error
    else:
        tensors = {key: tensor for key, tensor in read_weights(file).items() if is_seen_photographs(key)}
    seen = {bytes(row).hex() for tensor in tensors.values() for row in tensor.to(torch.uint8).view(-1, 32).tolist()}
    try:
        return frozenset(seen.union(json.loads(record)[SEEN_PHOTOGRAPHS] if record else ()))
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"weights {file}: its record {RECORD_KEY} cannot be read; train again") from error


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or of a .pth file, also those inside a training checkpoint, by name.

    A checkpoint nests its networks in dicts (`state_dict`, `model`, `net`, `teacher`, ..). A network is a dict that
    holds a tensor called `weight`. Of the only network the names are as they stand there; of several each name begins
    with its place ("teacher/backbone.conv1.weight"), and load_weights chooses. The wrappers of DataParallel, FSDP and
    torch.compile are taken off. seen_photographs stays, wherever it stood. Never unpickled: torch's weights_only, which
    knows tensors, numbers, text, lists, dicts and argparse.Namespace. Raises InputError."""
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # arguments, which many checkpoints keep
                content = torch.load(file, map_location="cpu", weights_only=True)
        nests = _nests(content)
    except Exception as error:  # each format has its own: UnpicklingError, SafetensorError, RuntimeError, EOFError
        reason = f"{type(error).__name__}, {one_line(error).split('. ')[0]}"
        raise InputError(f"weights {file}: {reason}; give a .safetensors file or a plain state dict") from error
    networks = {place for place, tensors in nests.items() if any(key.split(".")[-1] == "weight" for key in tensors)}
    chosen = networks if len(networks) == 1 else set(nests)
    state: dict[str, torch.Tensor] = {}
    for place, tensors in nests.items():
        unwrapped = all(key.startswith("module.") for key in tensors)  # of DataParallel
        for key, tensor in tensors.items():
            if place in chosen or is_seen_photographs(key):
                key = WRAPPERS.sub("", key.removeprefix("module.") if unwrapped else key)
                key = key if not place or chosen == {place} else f"{place}/{key}"
                if key in state:
                    raise InputError(f"weights {file}: two tensors are called {key}; give a file with one of them")
                state[key] = tensor
    if not any(not is_seen_photographs(key) for key in state):
        raise InputError(f"weights {file}: it holds no tensors by name; give a .safetensors file or a plain state dict")
    return state


def _nests(content: object, place: str = "") -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each dict in nested dicts, by its place ("checkpoint/teacher"); dicts without tensors left out."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(key): part for key, part in content.items() if isinstance(part, torch.Tensor)}
    tensors = {key: part for key, part in tensors.items() if part.layout == torch.strided and not part.is_quantized}
    nests = {place: tensors} if tensors else {}
    for key, part in content.items():
        nests |= _nests(part, f"{place}/{key}" if place else str(key))
    return nests


def is_seen_photographs(key: str) -> bool:
    """Whether a tensor of this name is no weight, but says which photographs a model of this project has seen."""
    return re.split(r"[./]", key)[-1] == SEEN_PHOTOGRAPHS


def load_weights(
    network: torch.nn.Module, state: dict, classifier: Sequence[str], name: str, source: Path | str
) -> None:
    """Load `state`; its tensors must be the network's, except those of the classifier, which has been removed.

    They may stand behind one prefix ("model.", "teacher/backbone."), which is found, not guessed: every tensor of the
    network must be there with its shape. Beside it only heads, losses and other networks may stand, under it only the
    classifier and projections for training. Where several networks fit with unlike weights, the one called an average
    of the others is taken (PREFERRED), else the file is refused; what was taken is printed. Raises InputError, naming
    the first tensor that is missing, unknown, of another shape or kind, or not finite."""
    # torchvision's DenseNet files say norm.1 where the layers say norm1.
    state = {re.sub(r"(denselayer\d+\.(norm|conv))\.(?=\d)", r"\1", key): tensor for key, tensor in state.items()}
    state = {key: tensor for key, tensor in state.items() if not is_seen_photographs(key)}
    own = network.state_dict()
    # Files older than PyTorch 0.4.1 lack this counter, which nothing here reads.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    removed = tuple(f"{part}." for part in classifier)
    prefixes = _prefixes(state, needed)
    whole = [prefix for prefix in prefixes if all(prefix + key in state for key in needed)]
    problems = {prefix: _problems(state, own, needed, prefix, removed, whole) for prefix in prefixes}
    fitting = [prefix for prefix in prefixes if not problems[prefix]]
    refused = f"weights {source} do not fit {name}"
    if not fitting:
        nearest = max(prefixes, key=lambda prefix: sum(prefix + key in state for key in needed))
        raise InputError(f"{refused}: {', '.join(problems[nearest])}; check --backbone and the file")
    prefix = _chosen(state, needed, fitting, source)
    if prefix:
        others = " and ".join(repr(other) for other in fitting if other != prefix)
        _say_once(f"weights {source}: {name} is read behind {prefix!r}" + (f", not {others}" if others else ""))
    given = {key: state[prefix + key] for key in own if prefix + key in state}
    for key, tensor in given.items():
        if own[key].is_floating_point() and not tensor.is_floating_point():
            raise InputError(f"{refused}: {prefix}{key} is of {tensor.dtype}; give weights that are not quantised")
        if not tensor.to(own[key].dtype).isfinite().all() and own[key].isfinite().all():
            raise InputError(f"{refused}: {prefix}{key} holds values that are not finite; give a file that is whole")
    network.load_state_dict(own | given)


def _prefixes(state: dict, needed: Sequence[str]) -> list[str]:
    """What stands before the network's own names in `state`, the empty prefix first; at least that."""
    found = {""}
    for own in sorted(needed, key=len)[-3:]:  # the longest names are nobody else's; three, should one be missing
        ends = (key.removesuffix(own) for key in state if key.endswith(own))
        found |= {prefix for prefix in ends if prefix and prefix[-1] in "./"}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _problems(
    state: dict, own: dict, needed: Sequence[str], prefix: str, removed: tuple[str, ...], whole: Sequence[str]
) -> list[str]:
    """Why the network cannot be read behind this prefix, each with the first tensor; empty where it can.

    whole: the prefixes behind which every tensor is there."""
    missing = [key for key in needed if prefix + key not in state]
    resized = [key for key in own if prefix + key in state and state[prefix + key].shape != own[key].shape]
    nest = prefix[: prefix.rfind("/") + 1]  # other dicts of the file do not matter
    others = tuple(other for other in whole if not prefix.startswith(other))
    unknown = []
    for key, tensor in state.items():
        if not key.startswith(nest) or key.startswith(others):
            continue
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            known = key in own or key.startswith(removed) or PROJECTIONS.fullmatch(key.split(".")[0])
        else:  # beside it: the part where the two names part
            key = key.removeprefix(nest)
            parts = itertools.zip_longest(key.split("."), prefix.removeprefix(nest).split("."))
            part = next(part for part, of_prefix in parts if part != of_prefix)
            known = tensor.numel() == 1 or HEADS.fullmatch(part or "")  # a single number is no weight but a count
        if not known:
            unknown.append(key)
    return [
        f"{len(keys)} tensors {what} (first {min(keys)})"
        for keys, what in ((missing, "missing"), (unknown, "unknown"), (resized, "of another shape"))
        if keys
    ]


def _chosen(state: dict, needed: Sequence[str], fitting: Sequence[str], source: Path | str) -> str:
    """Of the prefixes behind which the network stands the one to read. Raises InputError where none is preferred."""

    def same(prefix: str) -> bool:
        return all(torch.equal(state[prefix + key], state[fitting[0] + key]) for key in needed)

    if all(same(prefix) for prefix in fitting[1:]):
        return fitting[0]
    preferred = [prefix for prefix in fitting if any(PREFERRED.fullmatch(part) for part in re.split("[./]", prefix))]
    if len(preferred) != 1:
        named = " and ".join(map(repr, preferred or fitting))
        raise InputError(
            f"weights {source}: behind {named} stand unlike weights that fit; give a file with one of them"
        )
    return preferred[0]


def _say_once(line: str) -> None:
    """On the first of several processes."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(line)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.split(".")[0], known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def normalise(uint8: np.ndarray | torch.Tensor, backbone: Backbone, device: torch.device) -> torch.Tensor:
    """Pixels (b, s, s, 3) uint8 to (b, 3, s, s) float32 on the device, as the backbone wants them; channels_last."""
    pixels = torch.as_tensor(uint8).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (backbone.mean, backbone.std))
    return (pixels - mean) / std
