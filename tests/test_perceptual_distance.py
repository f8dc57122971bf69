"""generation/perceptual_distance.py: equal to the library lpips; each picture once; files and their columns.

Trained weights (shift-tolerant LPIPS) and real photographs are used where this machine has them.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from benchmarks import perceptual_speed
from generation import perceptual_distance as pd
from generation.perceptual_distance import load_lpips, mean_lpips, square_pixels
from harness.errors import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
TRAINED = SHARED / "models" / "lpips_shift_tolerant" / "lpips_alex_shift_tolerant.pth"
needs_trained = pytest.mark.skipif(not TRAINED.is_file(), reason="the trained weights are not on this machine")
needs_real_faces = pytest.mark.skipif(
    not (SHARED / "real_faces").is_dir(), reason="the real photographs are not on this machine"
)


@pytest.fixture(scope="module")
def untrained() -> torch.nn.Module:
    return load_lpips("random")[0]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Five pictures: a portrait, the same blurred, a cat, an even one, one of noise."""
    portrait = Image.fromarray(skimage.data.astronaut())
    images = [portrait, portrait.filter(ImageFilter.GaussianBlur(4)), Image.fromarray(skimage.data.chelsea())]
    pixels = [square_pixels(image) for image in images]
    noise = np.random.default_rng(0).integers(0, 256, pixels[0].shape, dtype=np.uint8)
    return [*pixels, np.zeros_like(noise), noise]


def by_the_library(network: torch.nn.Module, first: np.ndarray, second: np.ndarray) -> float:
    """The library's own call on one pair, with its own conversion of 0..1 to -1..1."""
    tensors = [torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255 for pixels in (first, second)]
    with torch.inference_mode():
        return network(*tensors, normalize=True).item()


def check_against_the_library(network: torch.nn.Module, pictures: list[np.ndarray]) -> None:
    """Every pair, and the mean to all pictures in two batches, to 1e-5."""
    truth = np.array([[by_the_library(network, a, b) for b in pictures] for a in pictures])
    assert truth.max() > 0.05
    features = pd.perceptual_features(network, np.stack(pictures))
    assert np.abs(pd.pairwise_lpips(features, features).numpy() - truth).max() < 1e-5
    reference = pd.class_reference(network, pictures, batch_size=2)
    assert reference.n == len(pictures)
    means = mean_lpips(network, pictures, [reference] * len(pictures), batch_size=3)
    assert np.abs(means - truth.mean(axis=1)).max() < 1e-5
    different = truth[~np.eye(len(pictures), dtype=bool)]
    assert reference.between_photographs() == pytest.approx(different.mean(), abs=1e-5)


def test_untrained_weights_give_the_librarys_distances(untrained, pictures):
    check_against_the_library(untrained, pictures)


@needs_trained
def test_trained_weights_give_the_librarys_distances_under_a_name_of_their_own(pictures):
    network, column = load_lpips(TRAINED)
    assert column == "lpips_shift_tolerant"
    check_against_the_library(network, pictures)


@needs_trained
@needs_real_faces
def test_blur_takes_a_face_away_from_the_photographs_of_its_person():
    network, _ = load_lpips(TRAINED)
    files = sorted((SHARED / "real_faces" / "rd_images" / "P01").glob("*.jpg"))
    images = [Image.open(file).convert("RGB").resize((256, 256)) for file in files]
    reference = pd.class_reference(network, [square_pixels(image) for image in images[1:]])
    blurred = [square_pixels(images[0].filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4, 8)]
    distances = mean_lpips(network, blurred, [reference] * 5)
    assert (np.diff(distances) > 0.01).all()
    noise = np.random.default_rng(0).integers(0, 256, blurred[0].shape, dtype=np.uint8)
    assert mean_lpips(network, [noise], [reference])[0] > distances[0]


def test_each_picture_goes_through_the_network_once_and_in_small_batches(untrained, pictures):
    batches = []
    hook = untrained.net.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    try:
        reference = pd.class_reference(untrained, iter(pictures[:5]), batch_size=2)
        mean_lpips(untrained, (picture for picture in pictures), [reference] * 5, batch_size=3)
    finally:
        hook.remove()
    assert batches == [2, 2, 1, 3, 2]


def test_the_nearest_of_the_candidates_is_the_librarys(untrained, pictures, monkeypatch):
    monkeypatch.setattr(pd, "RECENT", 2)  # features are computed again, and change nothing
    photographs = pd.PhotographFeatures(untrained, np.stack(pictures[1:]))
    candidates = [(0, 1, 2, 3), (3, 1), (), (2,)]
    means, rows, distances = pd.mean_and_nearest_lpips(untrained, pictures[:4], [None] * 4, candidates, photographs)
    assert np.isnan(means).all() and rows[2] == -1 and np.isnan(distances[2])
    for picture in (0, 1, 3):
        by_library = [by_the_library(untrained, pictures[picture], pictures[1 + row]) for row in candidates[picture]]
        assert rows[picture] == candidates[picture][int(np.argmin(by_library))]
        assert distances[picture] == pytest.approx(min(by_library), abs=1e-5)
    assert len(photographs._recent) == 2


def test_pictures_without_a_reference_have_no_distance(untrained, pictures):
    one = pd.class_reference(untrained, pictures[:1])
    assert pd.class_reference(untrained, []) is None and np.isnan(one.between_photographs())
    distances = mean_lpips(untrained, pictures[:3], [None, one, one])
    assert np.isnan(distances[0])
    assert mean_lpips(untrained, pictures[:1], [one])[0] == pytest.approx(0, abs=1e-6)
    assert distances[1] == pytest.approx(by_the_library(untrained, pictures[1], pictures[0]), abs=1e-5)
    assert mean_lpips(untrained, [], []).shape == (0,)


@pytest.mark.parametrize("n_references", [2, 4])
def test_as_many_references_as_pictures(untrained, pictures, n_references):
    with pytest.raises(ValueError, match="references"):
        mean_lpips(untrained, pictures[:3], [None] * n_references, batch_size=2)


def test_pictures_of_another_size_are_refused(untrained):
    with pytest.raises(ValueError, match="use square_pixels"):
        pd.class_reference(untrained, [np.zeros((64, 64, 3), np.uint8)])
    assert square_pixels(Image.new("RGBA", (30, 50))).shape == square_pixels(np.zeros((9, 8, 3), np.uint8)).shape


def test_pictures_are_resized_as_torchvision_resizes_them():
    image = Image.fromarray(skimage.data.chelsea())
    resized = torchvision.transforms.Resize((256, 256))(image)
    assert np.array_equal(square_pixels(image), np.asarray(resized))


# ---- weights


def test_the_untrained_network_is_always_the_same_and_leaves_torchs_seed_alone(untrained):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    network, column = load_lpips("random")
    assert column == "lpips_random" and torch.equal(before, torch.random.get_rng_state())
    for mine, other in zip(network.parameters(), untrained.parameters(), strict=True):
        assert torch.equal(mine, other) and not mine.requires_grad


@pytest.mark.parametrize("cut_short", [True, False])
def test_without_the_published_weights_one_line_names_the_flag(tmp_path, monkeypatch, cut_short):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    if cut_short:
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"AlexNet's weights .* --lpips FILE") as error:
        load_lpips(None)
    assert "\n" not in str(error.value) and "--lpips random" in str(error.value)


@pytest.mark.parametrize(
    ("stem", "column"),
    [
        ("lpips_alex_shift_tolerant", "lpips_shift_tolerant"),
        ("LPIPS-AlexNet-v2", "lpips_v2"),
        ("faces", "lpips_faces"),
        ("lpips_alex", "lpips_alex"),
        ("lpips", "lpips_lpips"),
        ("alex_lpips", "lpips_lpips"),
        ("été", "lpips_t"),
        ("面", "lpips_file"),
    ],
)
def test_a_column_is_named_after_its_file(stem, column):
    assert pd.column_name(Path(f"/weights/{stem}.pth")) == column


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1))
def test_no_file_takes_the_name_of_the_published_or_the_untrained_metric(stem):
    try:
        column = pd.column_name(Path("/weights") / f"{stem}.pth")
    except InputError as error:
        assert "rename" in str(error)
    else:
        assert column.startswith("lpips_") and column != "lpips_random" and column.isidentifier()


def test_a_file_called_random_is_refused(tmp_path, untrained):
    save_file(dict(untrained.net.named_parameters()), tmp_path / "lpips_random.safetensors")
    with pytest.raises(InputError, match="rename the file"):
        load_lpips(tmp_path / "lpips_random.safetensors")


def test_torchvisions_file_is_a_trunk_and_its_digest_makes_it_the_published_metric(tmp_path, monkeypatch, pictures):
    torch.manual_seed(1)
    alexnet = torchvision.models.alexnet()
    state = {key: tensor for key, tensor in alexnet.state_dict().items() if key.startswith("features")}
    file = tmp_path / "alexnet-owt-7be5be79.pth"  # another file under torchvision's name
    torch.save(state, file)
    network, column = load_lpips(file)
    assert column == "lpips_owt_7be5be79"
    picture = torch.tensor(pictures[0]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        assert torch.equal(network.net(picture)[4], alexnet.features[:12](picture))
    monkeypatch.setattr(pd, "PUBLISHED_TRUNK", hashlib.sha256(file.read_bytes()).hexdigest()[:8])
    assert load_lpips(file)[1] == "lpips"


def test_the_published_trunk_is_the_file_that_torchvision_downloads():
    assert torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url.endswith(f"-{pd.PUBLISHED_TRUNK}.pth")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("net.slice3.6.bias"), "net.slice3.6.bias is missing"),
        (lambda state: state.update({"net.slice3.6.bias": torch.zeros(9)}), "net.slice3.6.bias has another shape"),
        (lambda state: state.update({"head.weight": torch.zeros(9)}), "head.weight is unknown"),
        (lambda state: state["net.slice3.6.bias"].fill_(torch.nan), "not finite"),
        (lambda state: state["lin2.model.1.weight"].sub_(9), "negative weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, untrained, change, reason):
    state = {key: tensor.clone() for key, tensor in untrained.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "faces.pth")
    with pytest.raises(InputError, match=rf"--lpips .*faces\.pth: .*{reason}") as error:
        load_lpips(tmp_path / "faces.pth")
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_would_run_code_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--lpips: weights .*nowhere\.pth"):
        load_lpips(tmp_path / "nowhere.pth")
    torch.save({"weight": Path("an object")}, tmp_path / "object.pth")
    with pytest.raises(InputError, match=r"--lpips: weights .*object\.pth"):
        load_lpips(tmp_path / "object.pth")


# ---- benchmark


def test_the_benchmark_compares_both_ways_on_the_same_pictures(capsys):
    arguments = ["--num_real", "2", "--num_synthetic", "2", "--repeats", "1", "--memory_images", "2", "4"]
    perceptual_speed.main(perceptual_speed.parse_args(arguments))
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed and "x the speed" in printed
    assert float(printed.partition("largest difference ")[2].split(";")[0].split()[0]) < 1e-5
