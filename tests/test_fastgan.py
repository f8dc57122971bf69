"""fastgan.py and gan_losses.py: sizes against hand formulas, gates, losses, augmentation, averages, sampling, files."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from generation import fastgan, gan_losses, generator_choices
from harness import errors

PAPER_CHANNELS = {4: 1024, 8: 512, 16: 256, 32: 128, 64: 128, 128: 64, 256: 32, 512: 16, 1024: 8}
SMALL = {"resolution": 64, "base_channels": 8}


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(**options: object) -> fastgan.Generator:
    torch.manual_seed(0)
    return fastgan.Generator(**(SMALL | options))


def sampled(**options: object) -> fastgan.Generator:
    """A generator ready for sampling, whose noise counts."""
    network = generator(**options)
    for module in network.modules():
        if isinstance(module, fastgan.Noise):
            nn.init.constant_(module.strength, 0.3)
    return fastgan.standing_statistics(network, rng(), 8, list(range(network.n_classes)))


# ---- sizes


def convolution_and_norm(size: int, in_channels: int, out_channels: int) -> int:
    return size * size * in_channels * out_channels + 2 * out_channels


def up_stages(widths: list[int], noisy: set[int] = frozenset()) -> int:
    """Parameters of doubling stages between maps of these channels; noisy: numbers of those with noise."""
    total = 0
    for n, (before, after) in enumerate(itertools.pairwise(widths)):
        total += convolution_and_norm(3, before, 2 * after)
        total += n in noisy and convolution_and_norm(3, after, 2 * after) + 2  # two strengths
    return total


def expected_generator(side: int) -> int:
    c = PAPER_CHANNELS
    maps = [c[s] for s in c if s <= side]
    total = 256 * 2048 * 4 * 4 + 2 * 2048 + up_stages(maps, {0, 2, 4, 6})  # to 8, 32, 128 and 512 px
    for large, small in ((128, 8), (256, 16), (512, 32)):
        total += (4 * 4 * c[small] * c[large] + c[large] ** 2) if large <= side else 0
    return total + 3 * 3 * c[side] * 3 + (c[128] * 3 if side > 128 else 0)


def expected_discriminator(side: int) -> int:
    c = PAPER_CHANNELS
    stem = {64: 3 * 3 * 3 * 128, 128: 3 * 3 * 3 * 64, 256: 3 * 3 * 3 * 32, 512: 4 * 4 * 3 * 32}
    stem[1024] = 4 * 4 * 3 * 16 + 4 * 4 * 16 * 32
    head = convolution_and_norm(1, 512, 512) + 4 * 4 * 512
    total = stem[side] + head
    for half in (8, 16, 32, 64, 128):
        if 2 * half <= min(side, 256):
            a, b = c[2 * half], c[half]
            total += convolution_and_norm(4, a, b) + convolution_and_norm(3, b, b) + convolution_and_norm(1, a, b)
    if side > 128:
        total += 4 * 4 * 3 * 128 + head + sum(convolution_and_norm(4, c[2 * s], c[s]) for s in (32, 16, 8))
    whole = [512, 128, 64, 64, 32] if side >= 128 else [512, 128, 64, 64]
    quadrant = {64: [256, 128, 64], 128: [256, 128, 64, 64]}.get(side, [256, 128, 64, 64, 32])
    return total + sum(up_stages(widths) + 3 * 3 * widths[-1] * 3 for widths in (whole, quadrant))


SIZES = {64: (26097540, 8583936), 128: (26845894, 8979808), 256: (27014310, 12250016)}
SIZES |= {512: (27060856, 12250688), 1024: (27062976, 12258112)}


@pytest.mark.parametrize("side", generator_choices.FASTGAN_RESOLUTIONS)
def test_networks_have_the_paper_s_channels_and_outputs(side, monkeypatch):
    monkeypatch.setattr(fastgan, "spectral_norm", lambda layer: layer)  # it adds no parameter, and takes seconds here
    with torch.device("meta"):  # shapes alone, at full size
        network, discriminator = fastgan.Generator(side), fastgan.Discriminator(side)
        images = network(torch.randn(2, 256))
        logits, features = discriminator(images)
        rebuilt = discriminator.rebuild(features, 3)
    assert n_parameters(network) == expected_generator(side) == SIZES[side][0]
    assert n_parameters(discriminator) == expected_discriminator(side) == SIZES[side][1]
    sides = [side, 128] if side > 128 else [side]
    assert [tuple(image.shape) for image in images] == [(2, 3, s, s) for s in sides]
    assert logits.shape == (2, 25 * len(sides))
    assert features[8].shape == (2, 512, 8, 8) and features[16].shape == (2, 256, 16, 16)
    assert [image.shape[-1] for image in rebuilt] == [min(side, 128), min(side // 2, 128)]


def test_every_convolution_has_spectral_norm_one_in_training():
    network = generator().train()
    for _ in range(30):  # of power iteration, one a pass
        network(torch.randn(2, 256))
    convolutions = [m for m in [*network.modules()] if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 7  # 4 stages, two of them noisy, and the image
    for convolution in convolutions:
        largest = torch.linalg.matrix_norm(convolution.weight.flatten(1), ord=2)
        assert largest.item() == pytest.approx(1, abs=0.05)


def test_gates_lie_between_0_and_1_and_scale_whole_channels():
    excitation = fastgan.SkipLayerExcitation(16, 4).eval()
    small, large = torch.randn(3, 16, 8, 8), torch.randn(3, 4, 32, 32)
    gates = excitation.gates(small)
    assert gates.shape == (3, 4, 1, 1) and (gates > 0).all() and (gates < 1).all()
    assert torch.equal(excitation(small, large), large * gates)
    network = generator(resolution=256)
    assert {name: e.gates[1].in_channels for name, e in network.excitations.items()} == {"128": 64, "256": 32}


def test_noise_counts_by_its_learnt_strength_which_begins_at_0():
    network = generator().eval()
    latent, noise = fastgan.draw_inputs(2, 64, rng())
    assert {side: tuple(maps.shape) for side, maps in noise.items()} == {8: (2, 2, 8, 8), 32: (2, 2, 32, 32)}
    assert torch.equal(network(latent, noise)[0], network(latent)[0])
    nn.init.ones_(network.stages["32"].noises[1].strength)
    assert not torch.allclose(network(latent, noise)[0], network(latent)[0])


# ---- losses


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([[-3.0, 0.0, 1.0]])
    assert gan_losses.discriminator_loss(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    assert gan_losses.discriminator_loss(torch.ones(2), -torch.ones(2)).item() == 0
    assert gan_losses.generator_loss(fake).item() == pytest.approx(2 / 3)


def test_the_rebuilding_loss_compares_the_whole_and_the_quadrant_that_was_drawn():
    images = torch.rand(2, 3, 256, 256, generator=rng()) * 2 - 1
    l1 = gan_losses.difference_by("l1", torch.device("cpu"))
    whole = nn.functional.avg_pool2d(images, 2)
    corners = [images[:, :, y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 128)]
    for quadrant, corner in enumerate(corners):
        assert gan_losses.rebuilding_loss([whole, corner], images, quadrant, l1).item() == pytest.approx(0, abs=1e-6)
    assert gan_losses.rebuilding_loss([whole, corners[0]], images, 1, l1).item() > 0.1


def test_lpips_without_its_weights_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"cut short")
    with pytest.raises(errors.InputError, match="--perceptual lpips: AlexNet's weights") as error:
        gan_losses.difference_by("lpips", torch.device("cpu"))
    assert "\n" not in str(error.value) and "use --perceptual l1" in str(error.value)


# ---- augmentation


def test_augmentation_keeps_gradients_and_does_the_same_for_the_same_draws():
    images = torch.rand(3, 3, 64, 64, generator=rng()).requires_grad_()
    draws = gan_losses.draw_augmentation(3, rng(1))
    assert draws.shape == (3, 5) and torch.equal(draws, gan_losses.draw_augmentation(3, rng(1)))
    augmented = gan_losses.augment(images, draws)
    augmented.sum().backward()
    assert augmented.shape == images.shape
    assert all((gradient != 0).float().mean() > 0.7 for gradient in images.grad)  # all but what was shifted out
    alone = gan_losses.augment(images[1:2], draws[1:2])
    assert torch.allclose(augmented[1:2], alone, atol=1e-6)
    assert not torch.allclose(gan_losses.augment(images, draws.flip(0)), augmented)


def test_augmentation_by_hand_in_its_middle_and_at_its_ends():
    images = torch.rand(1, 3, 16, 16, generator=rng())
    middle = torch.full((1, 5), 0.5)
    assert torch.allclose(gan_losses.augment(images, middle), images, atol=1e-6)
    bright, grey, flat, right = (middle.clone() for _ in range(4))
    bright[0, 0], grey[0, 1], flat[0, 2], right[0, 3] = 1, 0, 0, 0
    assert torch.allclose(gan_losses.augment(images, bright), images + 0.5, atol=1e-6)
    assert torch.allclose(gan_losses.augment(images, grey), images.mean(1, keepdim=True).expand_as(images), atol=1e-6)
    half = images.mean() + (images - images.mean()) / 2
    assert torch.allclose(gan_losses.augment(images, flat), half, atol=1e-6)
    shifted = gan_losses.augment(images, right)
    assert torch.allclose(shifted[..., 2:], images[..., :-2], atol=1e-6) and (shifted[..., :2] == 0).all()


def test_an_image_and_its_smaller_version_are_augmented_alike():
    images = nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=rng()), size=256, mode="bilinear")
    draws = gan_losses.draw_augmentation(4, rng(2))
    large, small = (gan_losses.augment(version, draws) for version in fastgan.versions(images))
    assert (fastgan.shrunk(large, 128) - small).abs().mean() < 0.01


# ---- averages, sampling, files


def test_the_average_moves_by_one_minus_the_decay():
    network, average = nn.Linear(2, 1), nn.Linear(2, 1)
    before, new = average.weight.detach().clone(), network.weight.detach().clone()
    fastgan.update_average(average, network, step=100_000)
    assert torch.allclose(average.weight, 0.999 * before + 0.001 * new)
    fastgan.update_average(average, network, step=1)  # 2 / 11 of what was
    assert torch.allclose(average.weight, 2 / 11 * (0.999 * before + 0.001 * new) + 9 / 11 * new)


def test_one_image_depends_on_its_own_seed_only():
    network = sampled()
    seeds = list(range(8))
    together = fastgan.sample(network, seeds).astype(int)
    alone = np.concatenate([fastgan.sample(network, [seed]) for seed in seeds]).astype(int)
    assert together.shape == (8, 64, 64, 3)
    assert np.abs(together - alone).max() <= 1 and (together != alone).mean() < 0.001  # rounding
    assert np.abs(together[0] - together[1]).mean() > 5
    assert np.abs(fastgan.sample(network, seeds[::-1])[::-1].astype(int) - together).max() <= 1


def test_standing_statistics_are_those_of_the_maps_and_leave_the_network_alone():
    network = generator()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ready = fastgan.standing_statistics(network, rng(), 32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not ready.training and network.training
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, ready.get_parameter(name))
    maps = ready.start[0](torch.randn(2000, 256, 1, 1, generator=rng(5)))
    assert torch.allclose(ready.start[1].running_var, maps.var((0, 2, 3)), rtol=0.3)


def test_a_label_changes_the_image_and_the_logits():
    network = sampled(n_classes=3)
    seeds = [1, 1, 1]
    images = fastgan.sample(network, seeds, [0, 1, 1]).astype(int)
    assert np.abs(images[0] - images[1]).mean() > 2 and np.abs(images[1] - images[2]).max() <= 1
    torch.manual_seed(0)
    discriminator = fastgan.Discriminator(**SMALL, n_classes=3).eval()
    shown = torch.rand(2, 3, 64, 64, generator=rng())
    logits = [discriminator([shown], torch.tensor([label, 0]))[0] for label in (0, 2)]
    change = logits[0] - logits[1]
    assert change[0].abs().min() > 0 and torch.allclose(change[0], change[0, :1].expand(25), atol=1e-5)
    assert torch.equal(logits[0][1], logits[1][1])


def test_a_file_is_all_that_sampling_needs(tmp_path):
    network = sampled(n_classes=2)
    for name in ("a", "b"):
        fastgan.save_generator(tmp_path / f"{name}.safetensors", network, {"step": 7, "fold": None})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    read, config = fastgan.load_generator(tmp_path / "a.safetensors")
    assert config == {"step": 7, "fold": None, "resolution": 64, "n_classes": 2, "base_channels": 8}
    assert np.array_equal(fastgan.sample(read, [3], [1]), fastgan.sample(network, [3], [1]))
    (tmp_path / "b.safetensors").write_bytes(b"something else")
    with pytest.raises(errors.InputError, match=r"generator b.safetensors"):
        fastgan.load_generator(tmp_path / "b.safetensors")
