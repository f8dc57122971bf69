"""generation/copy_network.py: SSCD's network equals another forward pass; only plain tensors are read."""

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch.nn import functional

from generation.copy_network import load_copy_network
from harness.errors import InputError


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights; the normalisations have statistics of their own, as after training."""
    generator = torch.Generator().manual_seed(0)
    network = torchvision.models.resnet50(num_classes=512)
    drawn = {}
    for key, tensor in network.state_dict().items():
        if tensor.dim() > 1:
            drawn[key] = torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        elif tensor.is_floating_point():
            drawn[key] = 0.2 + 0.3 * torch.rand(tensor.shape, generator=generator)
        else:
            drawn[key] = tensor
    return drawn


def written_out(state: dict[str, torch.Tensor], picture: Image.Image) -> np.ndarray:
    """ResNet-50 with the pooling and projection of SSCD, layer by layer from the tensors alone."""
    pixels = np.asarray(picture.resize((320, 320), Image.Resampling.BILINEAR), np.float64) / 255
    x = torch.from_numpy((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).permute(2, 0, 1)[None].float()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    x = norm(functional.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1").relu()
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = norm(functional.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1").relu()
            y = functional.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = norm(functional.conv2d(norm(y, f"{name}.bn2").relu(), state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if block == 0:
                x = functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = norm(x, f"{name}.downsample.1")
            x = (x + y).relu()
    pooled = x[0].flatten(1).clamp(min=1e-6).double().pow(3).mean(dim=1) ** (1 / 3)
    projected = (state["fc.weight"].double() @ pooled + state["fc.bias"].double()).numpy()
    return projected / np.linalg.norm(projected)


def test_descriptors_are_those_of_the_network_written_out(tmp_path, state):
    file = tmp_path / "sscd.torchvision.pt"
    torch.save({f"backbone.{key}": tensor for key, tensor in state.items()}, file)
    pictures = [Image.fromarray(skimage.data.astronaut()), Image.fromarray(skimage.data.chelsea())]
    descriptors, mirrored = load_copy_network(file).describe(pictures, batch_size=1)
    assert descriptors.shape == mirrored.shape == (2, 512)
    assert np.abs(descriptors[0] - written_out(state, pictures[0])).max() < 1e-5
    assert np.abs(mirrored[1] - written_out(state, ImageOps.mirror(pictures[1]))).max() < 1e-4  # resized, then turned
    assert np.abs(descriptors[0] - descriptors[1]).max() > 1e-3


def test_a_program_and_another_network_are_refused_in_one_line(tmp_path, state):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "sscd.torchscript.pt"))
    save_file({key: tensor for key, tensor in state.items() if key != "fc.bias"}, tmp_path / "cut.safetensors")
    for name, reason in (
        ("sscd.torchscript.pt", "plain state dict"),
        ("cut.safetensors", "fc.bias"),
        ("no.pt", "no.pt"),
    ):
        with pytest.raises(InputError, match=f"--copy_network: .*{reason}") as error:
            load_copy_network(tmp_path / name)
        assert "\n" not in str(error.value)
