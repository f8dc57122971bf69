"""Pretrained networks by name, without their classifier: the paper's six, any of timm or torchvision, or a folder.

The paper's names take precedence over timm's: `densenet169` and `resnet152` without a tag are the weights that the
paper used.
"""

import dataclasses
import difflib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
import numpy as np
import timm
import torch
import torchvision

from classification.backbone_names import CLIP_IMAGE_TOWER, PAPER_BACKBONES
from classification.weight_files import load_weights, of_simulated_faces, read_seen_photographs, read_weights
from harness.errors import InputError, one_line
from harness.files import read_json

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

RESAMPLED = timm.models.VisionTransformer | timm.models.Eva  # timm interpolates their position embeddings
PAPER_IMAGE_SIZE = 224  # px; with ImageNet's mean and standard deviation, the paper's input for all six

FACENET_URL = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
VGGFACE_MEAN = (129.1863 / 255, 104.7624 / 255, 93.5940 / 255)  # of RGB; the network takes 0..255 minus this mean


@dataclasses.dataclass
class Backbone:
    """A frozen network: (b, 3, image_size, image_size) normalised RGB to features, (b, d) or a map (b, d, h, w)."""

    network: torch.nn.Module
    image_size: int  # px, square
    mean: Sequence[float]  # of RGB in 0..1
    std: Sequence[float]
    face_alignment: str | None = None  # detector that cut out the faces it was trained on; None: whole images
    seen_photographs: frozenset[str] = frozenset()  # digests of the photographs that this project trained it on
    of_simulated_faces: bool = False  # whether its file says that it was trained on simulated faces alone


def load_backbone(
    name: str,
    weights: Path | None = None,
    image_size: int | None = None,
    paper_input: bool = False,
    pretrained: bool = True,
) -> Backbone:
    """The pretrained network called `name`, in evaluation mode and without its classifier.

    name: one of PAPER_BACKBONES or LOADERS, a timm name (`resnet152.tv2_in1k`), `torchvision/NAME`, or a folder with
    config.json and model.safetensors in timm's layout. weights: a .safetensors or .pth file to read instead (only
    tensors, never unpickled). image_size: side of the square input in px; None: the backbone's own. paper_input: give
    the paper's six 224 px images normalised with ImageNet's mean and standard deviation, even if they were trained on
    another input (no effect on any other name). pretrained: False leaves the weights random. Features of the six:
    (1664,) densenet169, (2048,) resnet152, (768,) swin_t, (512,) clip_vit_b32, (1792,) facenet and at 224 px
    (512, 7, 7) vggface. Raises InputError if there is no such network, or its weights are missing or do not fit."""
    if weights is not None and weights.is_dir():
        file = weights / "model.safetensors"
        raise InputError(f"--backbone_weights {weights} is a folder; name the file of weights in it, such as {file}")
    if weights is not None and not weights.is_file():
        raise InputError(f"--backbone_weights {weights}: no such file; give a .safetensors or .pth file")
    source = PAPER_BACKBONES.get(name, name)
    if paper_input and name in PAPER_BACKBONES:
        image_size = image_size or PAPER_IMAGE_SIZE
    if source in LOADERS:
        backbone = LOADERS[source](weights, pretrained)
    elif source.startswith("torchvision/"):
        backbone = _torchvision_backbone(source.removeprefix("torchvision/"), weights, pretrained)
    else:
        backbone = _timm_backbone(source, weights, image_size, pretrained)
    file = weights or (Path(name) / "model.safetensors" if Path(name).is_dir() else None)
    if pretrained and file is not None:
        backbone.seen_photographs = read_seen_photographs(file)
        backbone.of_simulated_faces = of_simulated_faces(file)
    backbone.image_size = image_size or backbone.image_size
    if paper_input and name in PAPER_BACKBONES:
        backbone.mean, backbone.std = IMAGENET_MEAN, IMAGENET_STD
    backbone.network.eval().requires_grad_(False)
    return backbone


def _facenet(weights: Path | None, pretrained: bool) -> Backbone:
    """Inception-ResNet-v1 trained on VGGFace2 (facenet-pytorch, MIT): the pooled feature, of unit length.

    The embedding layers behind it (last_linear, last_bn) are left out, as in the paper."""
    import facenet_pytorch  # here, so that other backbones need not wait for it

    network = facenet_pytorch.InceptionResnetV1()
    network.last_linear = network.last_bn = torch.nn.Identity()  # forward ends with a division by the norm
    if pretrained:
        # The package itself would unpickle the file. It keeps it in a folder of its own, not in torch.hub's.
        cache = Path(facenet_pytorch.models.inception_resnet_v1.get_torch_home()) / "checkpoints"
        state = read_weights(weights) if weights else _download(FACENET_URL, cache, "facenet")
        load_weights(network, state, ("last_linear", "last_bn", "logits"), "facenet", weights or FACENET_URL)
    half = (127.5 / 255,) * 3
    return Backbone(network, 160, half, (128 / 255,) * 3)


def _vggface(weights: Path | None, pretrained: bool) -> Backbone:
    """VGG-16 trained on 2,622 people (Parkhi, Vedaldi and Zisserman, Deep Face Recognition, BMVC 2015): its pool5 map.

    The authors offer Caffe and MatConvNet files (https://www.robots.ox.ac.uk/~vgg/software/vgg_face) for non-commercial
    use. weights: their widely used conversion vgg_face_dag.pth
    (https://www.robots.ox.ac.uk/~albanie/pytorch-models.html), whose conv1_1 ... conv5_3 are renamed here to
    torchvision's layers, or a file with torchvision's own names. The fully connected layers are not used."""
    if pretrained and weights is None:
        raise InputError("vggface: its weights cannot be downloaded; give vgg_face_dag.pth with --backbone_weights")
    network = torchvision.models.vgg16(init_weights=not pretrained).features
    if pretrained:
        convolutions = [key for key, layer in network.named_children() if isinstance(layer, torch.nn.Conv2d)]
        authors_names = [f"conv{block}_{i}" for block, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
        torchvision_name = dict(zip(authors_names, convolutions, strict=True))
        state = {}
        for key, tensor in read_weights(weights).items():
            layer, _, parameter = key.removeprefix("features.").rpartition(".")
            state[f"{torchvision_name.get(layer, layer)}.{parameter}"] = tensor
        load_weights(network, state, ("fc6", "fc7", "fc8", "classifier"), "vggface", weights)
    return Backbone(network, 224, VGGFACE_MEAN, (1 / 255,) * 3)


# Networks that neither timm nor torchvision has: name -> loader(weights, pretrained), as load_backbone has them.
LOADERS: dict[str, Callable[[Path | None, bool], Backbone]] = {"facenet": _facenet, "vggface": _vggface}


def _download(url: str, cache: Path, name: str) -> dict[str, torch.Tensor]:
    """The state dict at `url`, kept in the folder `cache`; only tensors, never unpickled."""
    try:
        return torch.hub.load_state_dict_from_url(url, cache, "cpu", progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # the last two: a file cut short or changed
        raise InputError(
            f"weights of {name} are not in {cache} and cannot be downloaded from {url} ({one_line(error)}); "
            "give a file with --backbone_weights"
        ) from error


def _torchvision_backbone(name: str, weights: Path | None, pretrained: bool) -> Backbone:
    # Excluded: two with another normalisation than ImageNet's, and one whose files need more than their tensors.
    model_names = torchvision.models.list_models(torchvision.models, exclude=["googlenet", "inception_v3", "mnasnet*"])
    if name not in model_names:
        raise InputError(f"torchvision has no model {name!r}{_did_you_mean(name, model_names)}")
    default_weights = torchvision.models.get_model_weights(name).DEFAULT
    network = torchvision.models.get_model(name, weights=None)
    # The last Linear or Conv2d of every torchvision classifier gives the class scores; its input is the feature.
    scoring = torch.nn.Linear | torch.nn.Conv2d
    classifier = [key for key, layer in network.named_modules() if isinstance(layer, scoring)][-1]
    network.set_submodule(classifier, torch.nn.Identity())
    if pretrained:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        state = read_weights(weights) if weights else _download(default_weights.url, cache, f"torchvision/{name}")
        load_weights(network, state, (classifier,), f"torchvision/{name}", weights or default_weights.url)
    return Backbone(network, default_weights.transforms().crop_size[0], IMAGENET_MEAN, IMAGENET_STD)


def _timm_backbone(name: str, weights: Path | None, image_size: int | None, pretrained: bool) -> Backbone:
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and not timm.is_model(name):
        suggestion = _folder_alike(Path(name)) or _did_you_mean(name, timm.list_models())
        own = "a backbone of your own is known only to a script that imports its file (docs/extending.md)"
        raise InputError(
            f"backbone {name}: no such folder or timm model{suggestion}; write torchvision/NAME for theirs; {own}"
        )
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
    """timm's network. Its weights come from the file `weights`, else from the Hub or its cache, or are random."""
    from_hub = pretrained and weights is None
    # The paper used CLIP's image embedding: what timm calls CLIP's head is the projection to that embedding.
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
            f"weights of {name} are not in {cache} and cannot be downloaded from {huggingface_hub.constants.ENDPOINT} "
            f"({type(error).__name__}); give a file with --backbone_weights or a folder with --backbone"
        ) from error
    if pretrained and weights is not None:
        classifier = network.pretrained_cfg.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else classifier
        state = read_weights(weights)
        load_weights(network, state, () if options["num_classes"] else classifier, name, weights)
    if resample:  # after loading the weights, whose position embeddings have the original size
        network.set_input_size(img_size=(image_size, image_size))
    return network


def _folder_alike(path: Path) -> str:
    """A suggestion for a path that is no folder: the one beside it that is spelt nearly so; empty if there is none."""
    try:
        folders = [place.name for place in path.parent.iterdir() if place.is_dir()] if path.name != str(path) else []
    except OSError:
        folders = []
    similar = difflib.get_close_matches(path.name, sorted(folders), n=1)
    return f"; did you mean {path.with_name(similar[0])}?" if similar else ""


def _did_you_mean(name: str, model_names: Sequence[str]) -> str:
    similar = difflib.get_close_matches(name.split(".")[0], model_names, n=3)
    return f"; did you mean {' or '.join(similar)}?" if similar else ""


def normalise(uint8: np.ndarray | torch.Tensor, backbone: Backbone, device: torch.device) -> torch.Tensor:
    """Pixels (b, s, s, 3) uint8 as the backbone's input (b, 3, s, s) float32, channels_last, on the device."""
    pixels = torch.as_tensor(uint8).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (backbone.mean, backbone.std))
    return (pixels - mean) / std
