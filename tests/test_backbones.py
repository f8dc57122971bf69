"""backbones.py: the paper's six against published figures and the libraries' own networks, weight files, refusals."""

import argparse
import functools
import json
import re
from pathlib import Path

import facenet_pytorch
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from classification import backbone_names, backbones, weight_files
from harness import errors

# Parameters of the whole published network, of its classifier (left out here), and the shape of the features.
PUBLISHED = {
    "densenet169": (14_149_480, 1664 * 1000 + 1000, (1664,)),
    "resnet152": (60_192_808, 2048 * 1000 + 1000, (2048,)),
    "swin_t": (28_288_354, 768 * 1000 + 1000, (768,)),
    "clip_vit_b32": (87_849_216, -512, (512,)),  # timm's projection has a bias of 512 zeros, OpenAI's has none
    "facenet": (23_482_624, 1792 * 512 + 2 * 512, (1792,)),
    "vggface": (14_714_688, 0, (512, 7, 7)),
}


@functools.cache
def random_backbone(name: str) -> backbones.Backbone:
    torch.manual_seed(0)
    return backbones.load_backbone(name, pretrained=False)


@pytest.fixture
def tiny_backbone(tmp_path) -> Path:
    """A folder in timm's layout: random weights, 32 px input, no classifier."""
    folder = tmp_path / "backbone"
    folder.mkdir()
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), folder / "model.safetensors")
    input_config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0}
    config = {"architecture": "test_resnet", "num_classes": 0, "num_features": 384, "pretrained_cfg": input_config}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def evaluate(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network.eval()(pixels)


def refusal(*arguments: object, **options: object) -> str:
    """The one line with which load_backbone refuses."""
    with pytest.raises(errors.InputError) as error:
        backbones.load_backbone(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- the paper's six


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_networks_have_the_published_size_and_feature(name):
    whole, classifier, feature = PUBLISHED[name]
    backbone = random_backbone(name)
    assert sum(parameter.numel() for parameter in backbone.network.parameters()) == whole - classifier
    side_px = backbone.image_size if name in ("clip_vit_b32", "vggface") else 96  # the others take any
    assert evaluate(backbone.network, torch.rand(1, 3, side_px, side_px)).shape == (1, *feature)
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_input_is_224_px_and_imagenets_statistics_for_all(name):
    backbone = backbones.load_backbone(name, pretrained=False, paper_input=True)
    assert backbone.image_size == 224
    assert (backbone.mean, backbone.std) == (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)


def test_the_papers_input_changes_no_other_backbone():
    own, paper = (backbones.load_backbone("test_resnet", pretrained=False, paper_input=flag) for flag in (False, True))
    assert (own.image_size, own.mean, own.std) == (paper.image_size, paper.mean, paper.std)
    assert own.image_size != 224


@pytest.mark.parametrize(
    ("name", "side_px", "black", "white"),
    [
        ("facenet", 160, [(0 - 127.5) / 128] * 3, [(255 - 127.5) / 128] * 3),
        ("vggface", 224, [-129.1863, -104.7624, -93.594], [255 - 129.1863, 255 - 104.7624, 255 - 93.594]),
        ("clip_vit_b32", 224, [-1.7923, -1.7521, -1.4802], [1.9303, 2.0749, 2.1459]),  # OpenAI's transform
    ],
)
def test_own_statistics_are_those_of_training(name, side_px, black, white):
    backbone = random_backbone(name)
    assert backbone.image_size == side_px
    mean, std = np.array(backbone.mean), np.array(backbone.std)
    assert (0 - mean) / std == pytest.approx(black, rel=1e-4)
    assert (1 - mean) / std == pytest.approx(white, rel=1e-4)


def test_densenet_from_torchvisions_file_equals_torchvisions(tmp_path):
    network = torchvision.models.densenet169()
    pixels = torch.rand(1, 3, 64, 64)
    expected = evaluate(network.features, pixels).relu().mean((2, 3))
    # The published file is of an old release: denselayer1.norm.1 for denselayer1.norm1, and no num_batches_tracked.
    state = {}
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        *path, layer, parameter = key.split(".")
        old = f"{layer[:-1]}.{layer[-1]}" if "denselayer" in key else layer
        state[".".join([*path, old, parameter])] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "densenet.pth")
    for name in ("densenet169", "torchvision/densenet169"):
        backbone = backbones.load_backbone(name, tmp_path / "densenet.pth")
        assert torch.allclose(evaluate(backbone.network, pixels), expected, atol=1e-5), name


def test_resnet_and_swin_from_a_file_equal_torchvisions(tmp_path):
    pixels = torch.rand(1, 3, 64, 64)
    for name, reference, classifier in (
        ("resnet152", torchvision.models.resnet152(), "fc"),
        ("swin_t", torchvision.models.swin_t(), "head"),
    ):
        save_file(reference.state_dict(), tmp_path / f"{name}.safetensors")
        backbone = backbones.load_backbone(name, tmp_path / f"{name}.safetensors")
        setattr(reference, classifier, torch.nn.Identity())
        ours, theirs = evaluate(backbone.network, pixels), evaluate(reference, pixels)
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max()), name


def test_clip_is_timms_projected_image_embedding(tmp_path):
    reference = timm.create_model(backbone_names.CLIP_IMAGE_TOWER)
    save_file(reference.state_dict(), tmp_path / "clip.safetensors")
    backbone = backbones.load_backbone("clip_vit_b32", tmp_path / "clip.safetensors")
    pixels = torch.rand(1, 3, 224, 224)
    expected = evaluate(reference, pixels)
    assert expected.std() > 0 and torch.equal(evaluate(backbone.network, pixels), expected)


def test_facenet_is_facenet_pytorchs_pooled_feature_of_unit_length(tmp_path):
    reference = facenet_pytorch.InceptionResnetV1(classify=True, num_classes=20).eval()
    torch.save(reference.state_dict(), tmp_path / "vggface2.pt")  # with last_linear, last_bn and logits
    pooled = []
    reference.avgpool_1a.register_forward_hook(lambda _, __, output: pooled.append(output.flatten(1)))
    pixels = torch.rand(2, 3, 96, 96)
    evaluate(reference, pixels)
    features = evaluate(backbones.load_backbone("facenet", tmp_path / "vggface2.pt").network, pixels)
    assert torch.allclose(features, pooled[0] / pooled[0].norm(dim=1, keepdim=True), atol=1e-6)
    assert torch.allclose(features.norm(dim=1), torch.ones(2))


def test_facenet_is_read_from_the_packages_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = facenet_pytorch.InceptionResnetV1()
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "20180402-114759-vggface2.pt"
    torch.save(network.state_dict(), file)
    loaded = backbones.load_backbone("facenet").network.state_dict()
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in loaded.items())

    torch.save({"conv2d_1a.conv.weight": Path("anything but a tensor")}, file)
    assert "weights of facenet" in refusal("facenet")  # never unpickled


def test_vggface_takes_the_published_conversion_and_torchvisions_names(tmp_path):
    torch.manual_seed(0)
    trunk = random_backbone("vggface").network
    convolutions = [layer for layer in trunk if isinstance(layer, torch.nn.Conv2d)]
    names = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"]
    dag = {f"conv{n}.weight": layer.weight.data for n, layer in zip(names, convolutions, strict=True)}
    dag |= {f"conv{n}.bias": torch.randn_like(layer.bias) for n, layer in zip(names, convolutions, strict=True)}
    torch.save(dag | {"fc6.weight": torch.zeros(4, 9), "fc8.bias": torch.zeros(2)}, tmp_path / "dag.pth")
    save_file(dag, tmp_path / "dag.safetensors")
    pixels = torch.rand(1, 3, 64, 64)
    expected = pixels
    for block in (names[:2], names[2:4], names[4:7], names[7:10], names[10:]):
        for n in block:
            expected = torch.nn.functional.conv2d(expected, dag[f"conv{n}.weight"], dag[f"conv{n}.bias"], padding=1)
            expected = expected.relu()
        expected = torch.nn.functional.max_pool2d(expected, 2)
    for file in ("dag.pth", "dag.safetensors"):
        network = backbones.load_backbone("vggface", tmp_path / file).network
        assert torch.allclose(evaluate(network, pixels), expected, atol=1e-5)

    own_names = {f"features.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save(own_names | {"classifier.6.bias": torch.zeros(2622)}, tmp_path / "torchvision.pth")
    again = backbones.load_backbone("vggface", tmp_path / "torchvision.pth").network
    assert torch.equal(evaluate(again, pixels), evaluate(network, pixels))

    torch.save({key: tensor for key, tensor in dag.items() if key != "conv5_3.bias"}, tmp_path / "short.pth")
    assert "do not fit vggface: 1 tensors missing (first 28.bias)" in refusal("vggface", tmp_path / "short.pth")


def test_weights_that_cannot_be_had_are_refused_with_the_place_and_the_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(backbones, "FACENET_URL", "http://127.0.0.1:9/vggface2.pt")
    message = refusal("facenet")
    assert str(tmp_path / "checkpoints") in message and "http://127.0.0.1:9/vggface2.pt" in message
    assert "--backbone_weights" in message
    assert "give vgg_face_dag.pth with --backbone_weights" in refusal("vggface")
    assert "no such file" in refusal("vggface", tmp_path / "none.pth")


# ---- other networks and their files


@pytest.mark.parametrize(("name", "width"), [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("resnet18", 512)])
def test_torchvision_features_are_what_enters_the_classifier(name, width, tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = backbones.load_backbone(f"torchvision/{name}", tmp_path / "weights.pth", image_size=64)
    pixels = torch.rand(2, 3, 64, 64)
    features = backbone.network(pixels)
    assert features.shape == (2, width) and backbone.image_size == 64
    if name == "resnet18":
        assert torch.allclose(network.fc(features), network(pixels), atol=1e-4)
    else:
        trunk = network.features(pixels).mean((2, 3))
        expected = trunk if name == "squeezenet1_1" else network.classifier[:-1](trunk)
        assert torch.allclose(features, expected, atol=1e-4)


def test_position_embeddings_of_a_file_follow_the_image_size(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0)
    side_px = network.pretrained_cfg["input_size"][-1]
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    backbone = backbones.load_backbone("test_vit", tmp_path / "vit.safetensors", image_size=side_px // 2)
    resized = timm.create_model("test_vit", num_classes=0, img_size=side_px // 2)
    interpolate = timm.models.vision_transformer.checkpoint_filter_fn
    timm.models.load_checkpoint(resized, str(tmp_path / "vit.safetensors"), filter_fn=interpolate)
    pixels = torch.rand(1, 3, side_px // 2, side_px // 2)
    assert torch.allclose(evaluate(backbone.network, pixels), evaluate(resized, pixels), atol=1e-6)
    assert backbone.image_size == side_px // 2


def test_half_precision_files_become_float32(tiny_backbone, tmp_path):
    state = load_file(tiny_backbone / "model.safetensors")
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    network = backbones.load_backbone(str(tiny_backbone), tmp_path / "half.safetensors").network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, half[key].to(tensor.dtype)) for key, tensor in network.state_dict().items())


def test_a_file_with_a_classifier_fits_and_one_with_other_tensors_does_not(tiny_backbone, tmp_path):
    state = load_file(tiny_backbone / "model.safetensors")
    save_file(state | {"fc.weight": torch.zeros(7, 384), "fc.bias": torch.zeros(7)}, tmp_path / "with_head.safetensors")
    backbone = backbones.load_backbone("test_resnet", tmp_path / "with_head.safetensors")
    assert all(torch.equal(tensor, state[key]) for key, tensor in backbone.network.state_dict().items())

    key = sorted(state)[0]
    save_file({("x." + k if k == key else k): tensor for k, tensor in state.items()}, tmp_path / "renamed.safetensors")
    message = refusal("test_resnet", tmp_path / "renamed.safetensors")
    assert f"1 tensors missing (first {key}), 1 tensors unknown (first x.{key})" in message


def test_weights_are_never_unpickled(tmp_path):
    torch.save({"conv1.weight": Path("anything but a tensor")}, tmp_path / "pickle.pth")
    message = refusal("test_resnet", tmp_path / "pickle.pth")
    assert "pickle.pth: " in message and "give a .safetensors file" in message


# ---- checkpoints of training


@functools.cache
def tiny_states() -> tuple[dict, dict]:
    """Two sets of weights of the network test_resnet, without its classifier."""
    torch.manual_seed(0)
    return tuple(timm.create_model("test_resnet", num_classes=0).state_dict() for _ in range(2))


def behind(prefix: str, state: dict) -> dict:
    return {prefix + key: tensor for key, tensor in state.items()}


def trained_state() -> dict:
    """An optimizer's own tensors, as checkpoints keep them."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


HEAD = {"head.mlp.0.weight": torch.ones(2, 384), "head.last_layer.weight_g": torch.ones(2, 1)}
CLASSIFIER = {"fc.weight": torch.ones(5, 384), "fc.bias": torch.ones(5)}
NESTS = {
    "net": lambda s, _: {"net": s},
    "network beside counts and arguments": lambda s, _: {"network": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "a student alone": lambda s, _: {"student": behind("module.", s)},
    "an encoder three deep, with an optimizer": lambda s, _: {"a": {"b": {"encoder": s}}, "optimizer": trained_state()},
    "a prefix of one's own": lambda s, _: behind("my_trunk.", s) | {"projection_head.0.weight": torch.ones(2, 384)},
    "DataParallel": lambda s, _: behind("module.", s | CLASSIFIER),
    "torch.compile over DataParallel": lambda s, _: {"model": behind("_orig_mod.module.", s)},
    "torch.compile and FSDP inside": lambda s, _: behind("model._orig_mod.", behind("_fsdp_wrapped_module.", s)),
    "Lightning": lambda s, _: {"state_dict": behind("model.", s | CLASSIFIER) | {"criterion.weight": torch.ones(5)}},
    "equal weights twice": lambda s, _: {"model": s, "best": {key: tensor.clone() for key, tensor in s.items()}},
    "SWA": lambda s, _: behind("module.", s) | {"n_averaged": torch.tensor(4)},
    "DINO": lambda s, o: {
        "student": behind("module.backbone.", o) | behind("module.", HEAD),
        "teacher": behind("backbone.", s) | HEAD,
        "dino_loss": {"center": torch.ones(1, 2)},
    },
    "MoCo": lambda s, o: {
        "state_dict": behind("module.encoder_q.", s | {"fc.0.weight": torch.ones(4, 4)})
        | behind("module.encoder_k.", o | {"fc.0.weight": torch.ones(4, 4)})
        | {"module.queue": torch.ones(4, 8), "module.queue_ptr": torch.zeros(1)}
    },
    "timm's EMA": lambda s, o: {"state_dict": o, "state_dict_ema": s},
    "model_ema behind a wrapper": lambda s, o: {"model": o, "model_ema": behind("module.", s)},
}


@pytest.mark.parametrize("nest", NESTS)
def test_a_network_is_found_wherever_a_checkpoint_keeps_it(nest, tmp_path, capsys):
    state, other = tiny_states()
    torch.save(NESTS[nest](state, other), tmp_path / "checkpoint.pth")
    network = backbones.load_backbone("test_resnet", tmp_path / "checkpoint.pth").network
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    said = {
        "DINO": "test_resnet is read behind 'teacher/backbone.', not 'student/backbone.'",
        "MoCo": "test_resnet is read behind 'encoder_q.', not 'encoder_k.'",
        "timm's EMA": "test_resnet is read behind 'state_dict_ema/', not 'state_dict/'",
        "model_ema behind a wrapper": "test_resnet is read behind 'model_ema/', not 'model/'",
        "Lightning": "test_resnet is read behind 'model.'",
        "a prefix of one's own": "test_resnet is read behind 'my_trunk.'",
    }
    printed = capsys.readouterr().out
    assert printed.count("\n") == (1 if "read behind" in printed else 0) and said.get(nest, "") in printed


@pytest.mark.parametrize(
    "part", ["projector", "dino_head", "heads", "classifier", "predictor", "prototypes", "ntx_loss"]
)
def test_heads_and_losses_beside_a_network_are_left_out_but_not_heads_within(part, tmp_path):
    state, _ = tiny_states()
    torch.save(behind("trunk.", state) | {f"{part}.0.weight": torch.ones(2)}, tmp_path / "beside.pth")
    network = backbones.load_backbone("test_resnet", tmp_path / "beside.pth").network
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    torch.save(state | {f"{part}.0.weight": torch.ones(2)}, tmp_path / "within.pth")
    if part in ("projector", "predictor", "prototypes"):  # never between pixels and features
        backbones.load_backbone("test_resnet", tmp_path / "within.pth")
    else:
        assert f"unknown (first {part}.0.weight)" in refusal("test_resnet", tmp_path / "within.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s, o: behind("online_network.", s) | behind("target_network.", o),
            "different weights fit behind 'online_network.' and 'target_network.'",
        ),
        (lambda s, o: {"ema": s, "teacher": o}, "different weights fit behind 'ema/' and 'teacher/'"),
        (
            lambda s, _: behind("model.", s | {"layer1.0.se.fc1.weight": torch.ones(1)}),
            "1 tensors unknown .first layer1.0.se",
        ),
        (
            lambda s, _: behind("backbone.", s) | {"decoder.0.weight": torch.ones(2)},
            "1 tensors unknown .first decoder.0",
        ),
        (lambda s, _: {"net": behind("x.", {k: s[k] for k in s if k != min(s)})}, "1 tensors missing .first {first}"),
        (lambda s, _: {"net": s | {min(s): torch.ones(1)}}, "1 tensors of another shape .first {first}"),
        (lambda s, _: {"teacher": {}, "student": {"x": 1}}, "it holds no tensors by name"),
        (lambda s, _: list(s.values()), "it holds no tensors by name"),
        (lambda s, _: s | {f"_orig_mod.{min(s)}": s[min(s)]}, "two tensors are called {first}"),
        (lambda s, _: s | {min(s): s[min(s)] * torch.nan}, "{first} holds values that are not finite"),
        (lambda s, _: behind("model.", s | {max(s): s[max(s)] + torch.inf}), "model.{last} holds values that are not"),
        (lambda s, _: s | {min(s): s[min(s)].double() + 1e39}, "{first} holds values that are not finite"),
        (lambda s, _: s | {min(s): s[min(s)].to(torch.int8)}, "{first} has type torch.int8"),
    ],
)
def test_what_might_be_another_network_is_refused_by_name(change, message, tmp_path):
    state, other = tiny_states()
    torch.save(change(dict(state), other), tmp_path / "checkpoint.pth")
    line = refusal("test_resnet", tmp_path / "checkpoint.pth")
    assert re.search(message.format(first=re.escape(min(state)), last=re.escape(max(state))), line) and "; " in line
    assert line.startswith(f"weights {tmp_path / 'checkpoint.pth'}")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path):
    content = {"weight": torch.ones(1)}
    torch.save(content | {"model": content}, tmp_path / "plain.pth")
    content["model"] = content
    torch.save(content, tmp_path / "round.pth")
    assert "round.pth: " in refusal("test_resnet", tmp_path / "round.pth")


@pytest.mark.parametrize("place", ["", "backbone.", "state_dict", "teacher"])
def test_what_a_model_has_seen_is_no_weight_and_stays_with_it(place, tmp_path):
    state, other = tiny_states()
    seen = torch.arange(64, dtype=torch.uint8).reshape(2, 32)
    content = behind(place, state | {"seen_photographs": seen}) if "." in place or not place else None
    content = content or {place: state | {"seen_photographs": seen}, "student": other}
    torch.save(content, tmp_path / "seen.pth")
    read = weight_files.read_weights(tmp_path / "seen.pth")
    (key,) = (key for key in read if weight_files.is_seen_photographs(key))
    assert torch.equal(read[key], seen) and key.endswith("seen_photographs")
    if place != "state_dict":  # beside a student with other weights nothing says which is meant
        network = backbones.load_backbone("test_resnet", tmp_path / "seen.pth").network
        assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
