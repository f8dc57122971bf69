"""classifiers.py: heads by hand, what each recipe trains, one step of the paper's six, saving and loading."""

import dataclasses
import json
import shutil

import numpy as np
import peft
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from classification import backbone_names, backbones, classifiers
from harness import errors

N_CLASSES = 7
SMALL_PX = {"facenet": 80} | dict.fromkeys(("densenet169", "resnet152", "swin_t", "clip_vit_b32", "vggface"), 64)


def backbone_of(network: nn.Module, side_px: int = 32) -> backbones.Backbone:
    return backbones.Backbone(network.eval().requires_grad_(False), side_px, (0.5,) * 3, (0.5,) * 3)


def tiny_backbone(name: str) -> backbones.Backbone:
    """Small networks with random weights, one of each kind of attention, and one without."""
    torch.manual_seed(0)
    if name == "torchvision ViT":
        network = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
        network.heads = nn.Identity()
    elif name == "torchvision Swin":
        network = torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4])
        network.head = nn.Identity()
    elif name == "BEiT":  # its attention reads the weights of qkv and calls proj
        network = timm.create_model(
            "beit_base_patch16_224", num_classes=0, embed_dim=32, depth=2, num_heads=2, img_size=32
        )
    elif name == "ViT":
        network = timm.create_model("test_vit", num_classes=0, img_size=32)
    else:
        network = timm.create_model("test_resnet", num_classes=0)
    return backbone_of(network)


def take_one_step(classifier: classifiers.FaceClassifier, side_px: int = 32) -> None:
    """One step of AdamW on two random images."""
    optimizer = torch.optim.AdamW([p for p in classifier.parameters() if p.requires_grad], lr=1e-3)
    pixels = torch.randn(2, 3, side_px, side_px)
    loss = nn.functional.cross_entropy(classifier.train()(pixels), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
    assert loss.isfinite()


def logits(classifier: classifiers.FaceClassifier, side_px: int = 32) -> torch.Tensor:
    pixels = torch.randn(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return classifier.eval()(pixels)


def fitted_head(width: int) -> classifiers.LinearHead:
    rng = np.random.default_rng(0)
    return classifiers.LinearHead(rng.normal(size=(3, width)), rng.normal(size=3), np.array([1, 4, 5]), 0.5, N_CLASSES)


# ---- heads


@pytest.mark.parametrize("shape", [(32,), (32, 3, 3)])
def test_the_papers_head_by_hand(shape):
    torch.manual_seed(0)
    head = classifiers.GatedHead(shape, N_CLASSES).eval()
    features = torch.randn(4, *shape)
    excitation, norm, linear = head[0].excitation, head[1], head[3]
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    with torch.inference_mode():
        maps = features.reshape(4, 32, -1)
        down, up = (layer.weight.flatten(1) for layer in (excitation.fc1, excitation.fc2))
        assert down.shape == (2, 32)  # reduction 16
        hidden = (maps.mean(2) @ down.T + excitation.fc1.bias).relu()
        gate = (hidden @ up.T + excitation.fc2.bias).sigmoid()
        gated = (maps * gate[:, :, None]).flatten(1)
        normalised = (gated - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        assert torch.allclose(head(features), normalised @ linear.weight.T + linear.bias, atol=1e-5)
    assert head[2].p == 0.5


def test_facenet_alone_has_a_hidden_layer_of_256():
    head = classifiers.FaceNetHead((1792,), N_CLASSES)
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [256, N_CLASSES]
    tiny = tiny_backbone("ViT")
    assert isinstance(classifiers.build_classifier(tiny, 7, "finetune", "facenet").head, classifiers.FaceNetHead)
    assert isinstance(classifiers.build_classifier(tiny, 7, "finetune", "swin_t").head, classifiers.GatedHead)


def test_a_fitted_linear_probe_as_a_network():
    head = fitted_head(width=12)
    features = np.random.default_rng(1).normal(size=(5, 12))
    features[4] = 0  # has no direction: only the biases are left
    with torch.inference_mode():
        scores = head(torch.tensor(features, dtype=torch.float32).reshape(5, 3, 2, 2))
    rooted = np.sign(features) * np.sqrt(np.abs(features))
    unit = rooted / np.maximum(np.linalg.norm(rooted, axis=1, keepdims=True), 1e-12)
    weights, biases = head.linear.weight.detach().double().numpy(), head.linear.bias.detach().double().numpy()
    assert scores[:, [1, 4, 5]].numpy() == pytest.approx((unit @ weights.T + biases) / 0.5, abs=1e-5)
    probabilities = scores.softmax(dim=1)
    assert (probabilities[:, [0, 2, 3, 6]] == 0).all() and torch.allclose(probabilities.sum(dim=1), torch.ones(5))


def test_heat_maps_have_finite_slopes_where_a_feature_is_zero():
    features = torch.tensor([[0.0, 4.0, 0.0, -9.0]], requires_grad=True)
    classifiers.probe_features(features)[0, 1].backward()
    assert torch.isfinite(features.grad).all() and features.grad[0, 1] > 0


def test_a_linear_probe_is_scored_in_single_precision_also_under_autocast():
    head, features = fitted_head(width=12), torch.randn(3, 12)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = head(features.bfloat16().float())
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, head(features.bfloat16()))


# ---- recipes


@pytest.mark.parametrize("name", ["ViT", "BEiT", "torchvision ViT", "torchvision Swin"])
def test_every_lora_layer_has_an_effect_on_the_logits(name):
    backbone = tiny_backbone(name)
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "lora", name)
    features = classifiers.build_classifier(backbone, N_CLASSES, "finetune", name).backbone.eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():  # new LoRA weights leave the network as it is
        assert torch.allclose(classifier.eval().backbone(pixels), features(pixels), atol=1e-5)
    changed = {key: p for key, p in classifier.named_parameters() if "lora_B" in key}
    before = logits(classifier)
    for key, parameter in changed.items():
        nn.init.normal_(parameter)
        assert not torch.allclose(logits(classifier), before), key
        nn.init.zeros_(parameter)
    part = {"ViT": "attn", "BEiT": "attn.proj", "torchvision ViT": "mlp", "torchvision Swin": "mlp"}[name]
    assert changed and all(part in key for key in changed)


def test_lora_trains_low_rank_updates_and_the_head_and_nothing_else():
    backbone = tiny_backbone("ViT")
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "lora", "ViT")
    trained = {key: p for key, p in classifier.named_parameters() if p.requires_grad}
    assert all("lora_" in key or key.startswith("head.") for key in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    config = classifier.backbone.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.1)
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    take_one_step(classifier)
    frozen = {key for key in before if key.startswith("backbone.") and "lora_" not in key}
    after = classifier.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert any(not torch.equal(before[key], after[key]) for key in before if "lora_B" in key)


def test_lora_without_attention_is_refused_in_one_line():
    with pytest.raises(errors.InputError, match=r"^backbone resnet has no attention .* use --recipe finetune$"):
        classifiers.build_classifier(tiny_backbone("ResNet"), N_CLASSES, "lora", "resnet")


def test_images_too_small_for_the_backbone_are_refused_in_one_line():
    backbone = backbones.load_backbone("facenet", image_size=16, pretrained=False)
    with pytest.raises(errors.InputError, match=r"^the backbone takes no 16 px images \(.*\); change --resolution$"):
        classifiers.build_classifier(backbone, N_CLASSES, "finetune", "facenet")


def test_batch_norm_of_a_frozen_backbone_keeps_its_statistics():
    network = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.Flatten())
    for recipe, stays in (("finetune", False), ("lora", True), ("linear_probe", True)):
        classifier = classifiers.FaceClassifier(network, nn.Linear(128, N_CLASSES), recipe).train()
        before = network[1].running_mean.clone()
        classifier(torch.randn(2, 3, 32, 32) + 1)
        assert torch.equal(network[1].running_mean, before) == stays, recipe
        assert classifier.head.training
        assert network[0].training == (recipe != "linear_probe")


def test_folds_start_from_the_same_weights_whatever_the_last_one_did():
    backbone = tiny_backbone("ResNet")
    before = {key: tensor.clone() for key, tensor in backbone.network.state_dict().items()}
    torch.manual_seed(3)
    first = classifiers.build_classifier(backbone, N_CLASSES, "finetune", "resnet")
    start = logits(first)
    take_one_step(first)
    assert not torch.equal(logits(first), start)
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())
    torch.manual_seed(3)
    assert torch.equal(logits(classifiers.build_classifier(backbone, N_CLASSES, "finetune", "resnet")), start)


def test_half_precision_backbones_are_trained_in_single_precision():
    backbone = tiny_backbone("ViT")
    backbone.network.half()
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "lora", "ViT")
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}


# ---- disk


@pytest.mark.parametrize("name", backbone_names.PAPER_BACKBONES)
def test_the_papers_six_take_a_step_and_are_restored_bit_for_bit(name, tmp_path):
    torch.manual_seed(0)
    side_px = SMALL_PX[name]
    backbone = backbones.load_backbone(name, image_size=side_px, pretrained=False)
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "finetune", name)
    before = {key: p.detach().sum(dtype=torch.float64) for key, p in classifier.named_parameters()}
    take_one_step(classifier, side_px)
    unchanged = [key for key, p in classifier.named_parameters() if p.detach().sum(dtype=torch.float64) == before[key]]
    assert not [key for key in unchanged if key.endswith("weight")]
    classifiers.save_classifier(tmp_path, classifier, {"backbone": name})
    expected = logits(classifier, side_px)
    del classifier
    assert torch.equal(logits(classifiers.load_classifier(tmp_path, backbone), side_px), expected)
    shutil.rmtree(tmp_path)  # hundreds of megabytes


@pytest.mark.parametrize("name", ["ViT", "torchvision ViT", "torchvision Swin"])
def test_lora_is_restored_bit_for_bit_and_read_by_peft(name, tmp_path):
    backbone = tiny_backbone(name)
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "lora", name)
    take_one_step(classifier)
    take_one_step(classifier)  # the first leaves lora_A alone, since lora_B is zero
    classifiers.save_classifier(tmp_path, classifier, {"backbone": name, "seed": 4})
    assert {file.name for file in tmp_path.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "head.safetensors", "config.json")
    }
    assert torch.equal(logits(classifiers.load_classifier(tmp_path, backbone)), logits(classifier))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["recipe"], config["seed"], config["n_classes"]) == ("lora", 4, N_CLASSES)

    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        theirs = peft.PeftModel.from_pretrained(tiny_backbone(name).network, tmp_path).eval()(pixels)
        assert torch.equal(theirs, classifier.eval().backbone(pixels))


def test_a_linear_probe_is_restored_bit_for_bit_from_its_head_alone(tmp_path):
    backbone = tiny_backbone("ResNet")
    classifier = classifiers.FaceClassifier(backbone.network, fitted_head(width=96), "linear_probe")
    classifiers.save_classifier(tmp_path, classifier, {"backbone": "test_resnet"})
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    assert set(load_file(tmp_path / "model.safetensors")) == {*classifier.head.state_dict()}
    assert json.loads((tmp_path / "config.json").read_text())["backbone_saved"] is False
    expected = logits(classifier)
    assert expected.isinf().sum() == 2 * 4 and torch.equal(
        logits(classifiers.load_classifier(tmp_path, backbone)), expected
    )


def test_channels_last_weights_are_saved_and_a_second_save_replaces_the_first(tmp_path):
    backbone = tiny_backbone("ResNet")
    for _ in range(2):
        classifier = classifiers.build_classifier(backbone, N_CLASSES, "finetune", "resnet")
        classifier.to(memory_format=torch.channels_last)
        classifiers.save_classifier(tmp_path, classifier, {})
    restored = classifiers.load_classifier(tmp_path, backbone)
    state = classifier.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in restored.state_dict().items())


def test_another_input_of_the_same_weights_is_refused_in_one_line(tmp_path):
    backbone = tiny_backbone("ViT")
    classifier = classifiers.FaceClassifier(backbone.network, fitted_head(width=64), "linear_probe")
    described = {"backbone": "ViT", "mean": backbone.mean, "std": backbone.std, "image_size": backbone.image_size}
    classifiers.save_classifier(tmp_path, classifier, described)
    assert torch.equal(logits(classifiers.load_classifier(tmp_path, backbone)), logits(classifier))
    other = dataclasses.replace(backbone, std=[0.05] * 3)
    with pytest.raises(errors.InputError, match=r"another input of ViT: std .*, not \[0.05.*; give the same"):
        classifiers.load_classifier(tmp_path, other)


@pytest.mark.parametrize("recipe", ["finetune", "lora", "linear_probe"])
def test_another_backbone_is_refused_in_one_line(recipe, tmp_path):
    backbone = tiny_backbone("ViT")
    if recipe == "linear_probe":
        classifier = classifiers.FaceClassifier(backbone.network, fitted_head(width=64), recipe)
    else:
        classifier = classifiers.build_classifier(backbone, N_CLASSES, recipe, "ViT")
    classifiers.save_classifier(tmp_path, classifier, {"backbone": "ViT"})
    other = tiny_backbone("ViT")
    if recipe == "finetune":  # brings its own weights, so only the layers must fit
        assert torch.equal(logits(classifiers.load_classifier(tmp_path, other)), logits(classifier))
        other, message = tiny_backbone("ResNet"), "do not fit a classifier on ViT"
    else:
        next(other.network.parameters()).data.add_(0.1)
        message = "was trained on other weights or another input size of ViT"
    with pytest.raises(errors.InputError, match=message) as error:
        classifiers.load_classifier(tmp_path, other)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {key.replace("base_model.model.", ""): t for key, t in s.items()},
            "missing .first base_model.*unkn",
        ),
        (lambda s: {key.replace(".", "_").replace("base_model", "lora_unet"): t for key, t in s.items()}, "lora_unet_"),
        (lambda s: {key.replace("lora_A", "lora_down"): t for key, t in s.items()}, r"unknown \(first .*lora_down"),
        (lambda s: {key: t for key, t in s.items() if key != min(s)}, "1 tensors missing .first base_model.*lora_A"),
        (lambda s: {key: t for key, t in s.items() if "blocks.0." not in key}, r"missing \(first .*blocks\.0\."),
        (
            lambda s: {key.replace("blocks.1.", "blocks.7."): t for key, t in s.items()},
            r"unknown \(first .*blocks\.7\.",
        ),
        (
            lambda s: {key: t[:4] if "lora_A" in key else t[:, :4] for key, t in s.items()},
            r"of another shape \(first base_model.*lora_A",
        ),
        (lambda s: {}, "missing .first base_model"),
        (
            lambda s: s | {"extra.lora_A.weight": torch.zeros(8, 2)},
            r"1 tensors unknown \(first extra\.lora_A\.weight\)",
        ),
        (lambda s: s | {min(s): s[min(s)] * np.nan}, "1 tensors with values that are not finite .first base_model"),
        (lambda s: s | {max(s): s[max(s)] + np.inf}, "1 tensors with values that are not finite .first base_model"),
    ],
)
def test_an_adapter_of_which_peft_would_load_only_a_part_is_refused(tmp_path, change, message):
    backbone = tiny_backbone("ViT")
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "lora", "ViT")
    take_one_step(classifier)
    classifiers.save_classifier(tmp_path, classifier, {"backbone": "ViT"})
    adapter = tmp_path / "adapter_model.safetensors"
    state = load_file(adapter)
    save_file({key: tensor.contiguous() for key, tensor in change(state).items()}, adapter)
    with pytest.raises(errors.InputError, match=f"its adapter does not fit the backbone.*{message}.*; give ") as error:
        classifiers.load_classifier(tmp_path, backbone)
    assert "\n" not in str(error.value)
    save_file(state, adapter)
    assert torch.equal(logits(classifiers.load_classifier(tmp_path, backbone)), logits(classifier))


@pytest.mark.parametrize("change", [{"r": 4}, {"target_modules": ["blocks.0.attn.proj"]}, {"peft_type": "NONE"}, None])
def test_an_adapter_config_of_another_adapter_is_refused(tmp_path, change):
    backbone = tiny_backbone("ViT")
    classifiers.save_classifier(tmp_path, classifiers.build_classifier(backbone, N_CLASSES, "lora", "ViT"), {})
    file = tmp_path / "adapter_config.json"
    file.write_text("[]" if change is None else json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(errors.InputError, match=r"its adapter does not fit the backbone.*; give ") as error:
        classifiers.load_classifier(tmp_path, backbone)
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files_are_refused_in_one_line(tmp_path):
    backbone = tiny_backbone("ViT")

    def refusal() -> str:
        with pytest.raises(errors.InputError) as error:
            classifiers.load_classifier(tmp_path, backbone)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert f"classifier {tmp_path}: holds no config.json; name the model of one fold" in refusal()
    (tmp_path / "config.json").write_text("{")
    assert "no readable config.json" in refusal()
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "lora", "ViT")
    classifiers.save_classifier(tmp_path, classifier, {"backbone": "ViT"})
    adapter = tmp_path / "adapter_model.safetensors"
    state = load_file(adapter)
    save_file({key: torch.zeros(3, 3) for key in state}, adapter)
    assert "its adapter does not fit the backbone" in refusal()
    adapter.write_bytes(b"cut short")
    assert "its adapter does not fit the backbone" in refusal()
    adapter.unlink()
    assert "adapter_model.safetensors is missing" in refusal()
    (tmp_path / "config.json").write_text('{"recipe": "lora"}')
    assert "its config.json lacks backbone_saved" in refusal()
