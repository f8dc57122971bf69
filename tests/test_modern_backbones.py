"""DINOv2, DINOv3 and SigLIP 2 with random weights: their input, their pooling, LoRA, and a whole few-shot run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import exit_status
from safetensors.torch import save_file
from test_train_classifier import larger_rdface, pixels_dir, save_dataset, tiny_backbone  # noqa: F401

import train_fewshot
from classification.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, load_backbone, normalise
from classification.classifiers import build_classifier

HALF = (0.5, 0.5, 0.5)
SMALLEST = {  # of each family: side of its own input and of the test's in px, mean, standard deviation, width
    "vit_small_patch14_dinov2.lvd142m": (518, 28, IMAGENET_MEAN, IMAGENET_STD, 384),
    "vit_small_patch16_dinov3.lvd1689m": (256, 32, IMAGENET_MEAN, IMAGENET_STD, 384),
    "vit_base_patch32_siglip_256.v2_webli": (256, 64, HALF, HALF, 768),
}


@pytest.fixture(scope="module", params=SMALLEST)
def family(request) -> tuple[str, Backbone]:
    torch.manual_seed(0)
    return request.param, load_backbone(request.param, image_size=SMALLEST[request.param][1], pretrained=False)


def test_input_and_pooling_are_those_that_the_weights_were_trained_with(family):
    name, backbone = family
    own_size, side, mean, std, width = SMALLEST[name]
    network = backbone.network
    assert backbone.image_size == side and network.pretrained_cfg["input_size"] == (3, own_size, own_size)
    assert (tuple(backbone.mean), tuple(backbone.std)) == (mean, std)
    pictures = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    pixels = normalise(pictures, backbone, torch.device("cpu"))
    assert float(pixels[1, 2, 3, 4]) == pytest.approx((pictures[1, 3, 4, 2] / 255 - mean[2]) / std[2], rel=1e-4)
    with torch.inference_mode():
        features, tokens = network(pixels), network.forward_features(pixels)
        pooled = {  # DINOv2: the class token; DINOv3: the mean of the patches alone; SigLIP 2: attention over all
            "dinov2": lambda: tokens[:, 0],
            "dinov3": lambda: network.fc_norm(tokens[:, network.num_prefix_tokens :].mean(dim=1)),
            "siglip": lambda: network.attn_pool(tokens),
        }
        (expected,) = [pool() for family, pool in pooled.items() if family in name]
    assert features.shape == (2, width)
    assert torch.allclose(features, expected, atol=1e-5)
    assert not torch.equal(features[0], features[1])  # by little: DINO's random layers hardly count


def test_lora_trains_attention_and_leaves_all_other_weights(family):
    name, backbone = family
    classifier = build_classifier(backbone, 4, "lora", name)
    trained = {key for key, parameter in classifier.backbone.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in key and ".attn" in key for key in trained)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    side = backbone.image_size
    optimizer = torch.optim.AdamW([p for p in classifier.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # the first step moves B, which is 0 at first; only then does A have a gradient
        torch.nn.functional.cross_entropy(classifier(torch.randn(4, 3, side, side)), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {key for key, value in classifier.state_dict().items() if not torch.equal(value, before[key])}
    assert trained <= {key.removeprefix("backbone.") for key in moved if "lora_" in key}
    assert not {key for key in moved if key.startswith("backbone.") and "lora_" not in key}


def test_a_transformer_and_a_convolutional_network_answer_episodes_together(
    larger_rdface,  # noqa: F811
    tiny_backbone,  # noqa: F811
    pixels_dir,  # noqa: F811
    tmp_path: Path,
):
    name = "vit_small_patch16_dinov3.lvd1689m"
    torch.manual_seed(1)
    save_file(load_backbone(name, pretrained=False).network.state_dict(), tmp_path / "random.safetensors")
    flags = ("--dataset_name", larger_rdface, "--cache_dir", pixels_dir, "--n_way", 3, "--test_episodes", 20)
    flags += ("--backbone", tiny_backbone, name, "--backbone_weights", "own", tmp_path / "random.safetensors")
    flags += ("--resolution", 32, "--views", 10, "--ensemble", "chosen", "--output_dir", tmp_path / "run")
    assert exit_status(train_fewshot, *flags) == 0
    results, record = (json.loads((tmp_path / "run" / f"{file}.json").read_text()) for file in ("results", "run"))
    assert results["recipe"] == "discriminant, 3-way 1-shot frozen, networks chosen on inner folds, 10 views, 32 px"
    assert record["simulated"] is True
    assert all(set(fold["networks"]) <= {0, 1} and fold["networks"] for fold in record["folds"])
    assert results["metrics"]["top1"]["mean"] > 0.5  # chance is a third
