"""heat_maps.py: networks that look at one corner only, the three layouts of a map, timm's architectures, the sheet."""

import numpy as np
import peft
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from classification.heat_maps import METHODS, heat_map_sheet, heat_maps

SIDE = 32


class ByCorner(nn.Module):
    """Two classes: class 0 grows with the light at the top left alone, class 1 with that at the bottom right.

    Its last map is (b, 2, 8, 8) and passes through `readout` in the layout asked for: "nchw", "nhwc" or "tokens"."""

    def __init__(self, layout: str = "nchw"):
        super().__init__()
        self.layout = layout
        self.light = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        nn.init.constant_(self.light.weight, 1 / 27)
        self.pool = nn.AvgPool2d(4)
        self.readout = nn.ReLU(inplace=True)
        seen = torch.zeros(2, SIDE, SIDE)
        seen[0, : SIDE // 2, : SIDE // 2] = 1
        seen[1, SIDE // 2 :, SIDE // 2 :] = 1
        self.register_buffer("seen", seen)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels (b, 3, 32, 32) to logits (b, 2)."""
        light = self.light(pixels) * self.seen
        features = self.pool(light)
        if self.layout == "nhwc":
            features = self.readout(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        elif self.layout == "tokens":
            patches = features.flatten(2).transpose(1, 2)
            tokens = self.readout(torch.cat([torch.full_like(patches[:, :1], 7.0), patches], dim=1))
            features = tokens[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
        else:
            features = self.readout(features)
        return features.sum(dim=(2, 3))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def share_of(heat: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The part of each map's mass that lies in a region."""
    return heat[:, rows, columns].sum(axis=(1, 2)) / heat.sum(axis=(1, 2))


TOP_LEFT, BOTTOM_RIGHT = (slice(0, 16), slice(0, 16)), (slice(16, 32), slice(16, 32))


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "tokens"])
@pytest.mark.parametrize("method", METHODS)
def test_the_map_lies_where_the_class_is_decided(method, layout, pixels):
    network = ByCorner(layout).eval()
    heat = heat_maps(network, pixels, [0, 0, 1], method)
    assert (heat.shape, heat.dtype) == ((3, SIDE, SIDE), np.float32)
    assert (share_of(heat[:2], *TOP_LEFT) > 0.8).all()
    assert share_of(heat[2:], *BOTTOM_RIGHT) > 0.8
    assert heat.min() >= 0
    assert heat.max(axis=(1, 2)) == pytest.approx(1)


@pytest.mark.parametrize("layout", ["nhwc", "tokens"])
def test_gradcam_does_not_depend_on_how_a_map_is_laid_out(layout, pixels):
    expected = heat_maps(ByCorner("nchw").eval(), pixels, [0, 1, 0])
    assert heat_maps(ByCorner(layout).eval(), pixels, [0, 1, 0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_frozen_parameters_and_callers_without_gradients_change_nothing(method, context, pixels):
    network = ByCorner().eval()
    expected = heat_maps(network, pixels, [0, 1, 0], method)
    network.requires_grad_(False)
    with context():
        heat = heat_maps(network, pixels, [0, 1, 0], method)
    assert np.array_equal(heat, expected)
    assert not pixels.requires_grad
    assert network.light.weight.grad is None
    assert not any(module._forward_hooks for module in network.modules())


def test_gradcam_is_the_formula_of_its_paper():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 8 * 8, 4)
    ).eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    features = network[:2](images)
    weights = network[3].weight[[2, 0]].reshape(2, 6, 8, 8).mean(dim=(2, 3))  # the gradient of a linear score
    coarse = torch.einsum("bc,bchw->bhw", weights, features).relu()
    fine = nn.functional.interpolate(coarse[:, None], (SIDE, SIDE), mode="bilinear")[:, 0].detach()
    expected = fine / fine.amax(dim=(1, 2), keepdim=True)
    assert heat_maps(network, images, [2, 0]) == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "side"),
    [
        ("test_resnet", {}, 96),
        ("test_vit", {"img_size": 96}, 96),
        ("test_vit", {"img_size": 96, "global_pool": "avg"}, 96),
        (
            "test_vit",
            {"img_size": 48, "class_token": False, "global_pool": "avg", "reg_tokens": 7},
            48,
        ),  # 7 + 9 = 4 x 4
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)},
            64,
        ),
        ("densenet121", {"growth_rate": 8, "block_config": (2, 2)}, 64),
    ],
)
def test_convolutional_and_transformer_networks_have_a_gradcam_of_their_own(name, arguments, side, recwarn):
    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=3, **arguments).eval().requires_grad_(False)
    heat = heat_maps(network, torch.randn(2, 3, side, side), [0, 2])
    assert heat.shape == (2, side, side)
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1)
    assert np.std(heat, axis=(1, 2)).max() > 0.01
    assert not [warning for warning in recwarn if "integrated gradients" in str(warning.message)]


@pytest.mark.parametrize(
    ("arguments", "layer", "prefix", "grid", "adapted"),
    [
        ({"img_size": 96}, "blocks.5.norm1", 1, 6, True),
        ({"img_size": 96}, "blocks.5.norm1", 1, 6, False),  # read at its class token
        (  # 7 registers and 9 patches, which could be taken for 16 patches
            {"img_size": 48, "class_token": False, "global_pool": "avg", "reg_tokens": 7}, "norm", 7, 3, False
        ),
    ],
)  # fmt: skip
def test_a_transformer_is_explained_by_the_last_patches_that_matter(arguments, layer, prefix, grid, adapted):
    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=3, **arguments).eval()
    nn.init.normal_(network.blocks[-1].attn.qkv.bias)  # at 0 queries, keys and values would give the same map
    images = torch.randn(1, 3, arguments["img_size"], arguments["img_size"])
    if adapted:
        settings = peft.LoraConfig(target_modules=["qkv"], r=4, init_lora_weights=False)  # random, not 0
        network = peft.get_peft_model(network, settings).eval()
        layer = f"base_model.model.{layer}"
    seen = {}
    network.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: seen.update(tokens=output))
    for target in range(3):
        score = network(images)[0, target]
        gradient = torch.autograd.grad(score, seen["tokens"])[0][0, prefix:]  # (h w, d)
        coarse = (seen["tokens"][0, prefix:] @ gradient.mean(dim=0)).relu().reshape(1, 1, grid, grid)
        fine = nn.functional.interpolate(coarse, images.shape[2:], mode="bilinear")[:, 0].detach()
        expected = fine / fine.max().clamp(min=1e-12)
        assert heat_maps(network, images, [target]) == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_network_without_a_map_is_explained_by_integrated_gradients_and_says_so(pixels):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2, bias=False)).eval()
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight.view(2, 3, SIDE, SIDE)[0, :, :16, :16] = 1
    with pytest.warns(UserWarning, match="integrated gradients instead"):
        heat = heat_maps(network, pixels, [0, 0, 1])
    assert (share_of(heat[:2], *TOP_LEFT) > 0.8).all()
    assert (heat[2] == 0).all()  # nothing speaks for class 1


def test_wrong_requests_are_refused_in_one_line(pixels):
    network = ByCorner().eval()
    for classes, method, words in [
        ([0, 1], "gradcam", "3 images but 2 classes"),
        ([0, 1, 2], "gradcam", "not all among the 2"),
        ([0, 1, -1], "integrated_gradients", "not all among the 2"),
        ([0, 1, 1], "saliency", "choose from gradcam, integrated_gradients"),
    ]:
        with pytest.raises(ValueError, match=words) as refusal:
            heat_maps(network, pixels, classes, method)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="eval"):
        heat_maps(network.train(), pixels, [0, 1, 1])


# ---- sheet


def row(image_id: str, true: str, predicted: str) -> dict:
    heat = np.zeros((64, 64), np.float32)
    heat[:32, :32] = 1
    return {
        "image_id": image_id,
        "pixels": np.full((64, 64, 3), 120, np.uint8),
        "true": true,
        "p_true": 0.25,
        "heat_true": heat,
        "predicted": predicted,
        "p_predicted": 0.5 if predicted != true else 0.25,
        "heat_predicted": heat[::-1, ::-1] if predicted != true else None,
    }


def test_the_sheet_shows_photograph_and_maps_with_the_heat_where_it_is(tmp_path):
    file = tmp_path / "heat_maps.png"
    heat_map_sheet([row("P01.1", "AAA", "BBB"), row("P02.1", "BBB", "BBB")], file, "SIMULATED faces")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]  # no half-written file stays
    with Image.open(file) as opened:
        assert opened.format == "PNG"
        sheet = np.asarray(opened.convert("RGB"), int)
    height, width = sheet.shape[:2]
    assert (width, height) == (3 * 224 + 4 * 10, 10 + 2 * 18 + 2 * (224 + 18 + 10))
    assert sheet[:10, :].min() < 128  # the title is there
    first, second = (46 + n * 252 for n in range(2))
    assert (sheet[first + 56, 10 + 56] == 120).all()  # the photograph has no colours
    hot, cold = sheet[first + 56, 244 + 56], sheet[first + 168, 244 + 168]
    assert hot[0] > hot[2] + 20
    assert (cold == 120).all()  # where nothing speaks for the class the photograph shows
    assert (sheet[first + 168, 478 + 168] == hot).all()  # the predicted class has its own map
    assert (sheet[first + 56, 478 + 56] == 120).all()
    assert (sheet[second : second + 224, 478 : 478 + 224] == 255).all()  # both classes are the same
    assert sheet[first + 224 : first + 242].min() < 128  # the caption is there


def test_an_empty_map_is_called_empty(tmp_path):
    empty = row("P01.1", "AAA", "AAA")
    empty["heat_true"] = np.zeros((64, 64), np.float32)
    heat_map_sheet([empty], tmp_path / "empty.png", "SIMULATED")
    with Image.open(tmp_path / "empty.png") as opened:
        sheet = np.asarray(opened.convert("RGB"))
    assert (sheet[46:270, 10:234] == 120).all()
    assert sheet[46:70, 244:468].min() == 0  # words on the photograph
    assert (sheet[80:270, 244:468] == 120).all()


def test_a_long_title_is_wrapped_and_no_rows_are_refused(tmp_path):
    heat_map_sheet([row("P01.1", "AAA", "AAA")], tmp_path / "short.png", "SIMULATED")
    heat_map_sheet([row("P01.1", "AAA", "AAA")], tmp_path / "long.png", "SIMULATED faces of nobody " * 12)
    with Image.open(tmp_path / "short.png") as short, Image.open(tmp_path / "long.png") as long:
        assert long.width == short.width
        assert long.height > short.height
        assert (np.asarray(long)[:, -5:] == 255).all()  # nothing runs off the sheet
    with pytest.raises(ValueError, match="name at least one"):
        heat_map_sheet([], tmp_path / "none.png", "SIMULATED")
    assert not (tmp_path / "none.png").exists()
