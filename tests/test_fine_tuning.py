"""fine_tuning.py: which pixels a fold's training may look at, which epoch is kept, and going on after a stop."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator

from classification import classifiers
from classification.backbones import Backbone
from classification.fine_tuning import Checkpoint, Settings, fit, predict, training_batches
from curation import protocols
from curation.leak_guard import Guard
from harness import errors, protocol_names, seeds
from imaging import augmentations
from imaging.pixel_cache import Pixels
from scoring import metrics

SIDE, N_CLASSES = 32, 4
TRAIN, VAL, TEST = np.arange(12), np.arange(12, 20), np.arange(20, 28)
NOTHING = np.array([], dtype=np.int64)
COLUMNS = {name: [f"{name}{row}" for row in range(28)] for name in ("image_id", "group_id")}
LABELS = np.arange(28) % N_CLASSES


class OnlyThese:
    """Pixels of which only some rows may be read: any other row stops the test. Remembers what was read."""

    def __init__(self, uint8: np.ndarray, allowed: np.ndarray, stop_after: int | None = None):
        self.uint8, self.allowed, self.stop_after = uint8, set(allowed.tolist()), stop_after
        self.read: list[list[int]] = []

    def rows_read(self) -> list[int]:
        return [row for batch in self.read for row in batch]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self.stop_after == len(self.read):
            raise KeyboardInterrupt
        outside = set(rows.tolist()) - self.allowed
        assert not outside, f"rows {sorted(outside)} were looked at"
        self.read.append(rows.tolist())
        return self.uint8[rows]


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    return Backbone(network.eval().requires_grad_(False), SIDE, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def uint8() -> np.ndarray:
    """28 pictures, each of the colour of its class, with so much noise that some are mistaken."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(80, 180, (N_CLASSES, 3))[LABELS][:, None, None]
    shift = rng.normal(0, 25, (28, 1, 1, 3))
    return (colours + shift + rng.normal(0, 30, (28, SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


def fold(protocol: str = "strict", train: np.ndarray = TRAIN, val: np.ndarray = NOTHING) -> protocols.Fold:
    return protocols.Fold(2, train, val, TEST, protocol)


def trained(
    accelerator: Accelerator,
    backbone: Backbone,
    pixels: object,
    of: protocols.Fold,
    folder: Path,
    labels: np.ndarray = LABELS,
    seed: int = 0,
    **changes: object,
) -> tuple[torch.nn.Module, list[dict]]:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    classifier = classifiers.build_classifier(backbone, N_CLASSES, "finetune", "tiny")
    data = (backbone, Pixels(pixels, np.zeros(28, bool)), labels, Guard(of, COLUMNS))
    identity = {"fold": of.number, "seed": seed, "trained_on": str(of.train.tolist())}
    batches = {"num_train_epochs": 3, "train_batch_size": 5, "eval_batch_size": 4}
    settings = Settings(**({"learning_rate": 1e-3, "seed": seed} | batches | changes))
    return fit(accelerator, classifier, *data, settings, Checkpoint(folder / "checkpoint.pt", identity))


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    of_b = b.state_dict()
    return all(torch.equal(tensor, of_b[key]) for key, tensor in a.state_dict().items())


# ---- what may be looked at


def test_strict_training_looks_at_training_images_only_and_at_each_once_an_epoch(
    accelerator, backbone, uint8, tmp_path
):
    pixels = OnlyThese(uint8, TRAIN)
    _, curve = trained(accelerator, backbone, pixels, fold(), tmp_path)
    assert sorted(pixels.rows_read()) == sorted(TRAIN.tolist() * 3)
    assert [len(batch) for batch in pixels.read] == [5, 5, 2] * 3
    assert pixels.read[:3] != pixels.read[3:6]  # in another order
    assert [point["epoch"] for point in curve] == [0, 1, 2] and all("val_accuracy" not in point for point in curve)
    with pytest.raises(AssertionError, match="were looked at"):  # the alarm works
        pixels[TEST]


def test_paper_training_looks_at_validation_images_to_choose_and_never_at_test_images(
    accelerator, backbone, uint8, tmp_path
):
    pixels = OnlyThese(uint8, np.concatenate([TRAIN, VAL]))
    _, curve = trained(accelerator, backbone, pixels, fold("paper", val=VAL), tmp_path)
    assert set(pixels.rows_read()) == {*TRAIN.tolist(), *VAL.tolist()}
    assert [*pixels.read[3], *pixels.read[4]] == VAL.tolist()  # after the three steps of the first epoch
    assert len(curve) == 3


def test_a_test_image_among_those_that_choose_a_checkpoint_raises(accelerator, backbone, uint8, tmp_path):
    smuggled = np.append(VAL, TEST[0])
    with pytest.raises(errors.LeakError, match="image_id20"):
        trained(accelerator, backbone, OnlyThese(uint8, TRAIN), fold("paper", val=smuggled), tmp_path)


def test_under_strict_nothing_is_left_to_choose_on(accelerator, backbone, uint8, tmp_path):
    with pytest.raises(errors.LeakError):
        trained(accelerator, backbone, OnlyThese(uint8, TRAIN), fold("strict", val=VAL), tmp_path)


# ---- which epoch is kept


def test_under_paper_the_epoch_with_the_best_validation_accuracy_is_kept(accelerator, backbone, uint8, tmp_path):
    best_was_earlier = 0
    for seed in range(4):
        changes = {"seed": seed, "learning_rate": 0.02, "num_train_epochs": 6}
        model, curve = trained(accelerator, backbone, uint8, fold("paper", val=VAL), tmp_path, **changes)
        pixels = Pixels(uint8, np.zeros(28, bool))
        kept = metrics.topk_accuracy(predict(accelerator, model, backbone, pixels, VAL, 3), LABELS[VAL], 1)
        accuracies = [point["val_accuracy"] for point in curve]
        assert kept == max(accuracies)
        best_was_earlier += accuracies[-1] < max(accuracies)
    assert best_was_earlier  # else keeping the last epoch would pass too


def test_of_equally_good_epochs_the_last_is_kept(accelerator, backbone, uint8, tmp_path):
    elsewhere = LABELS.copy()
    elsewhere[VAL] = N_CLASSES - 1  # a class without training images: always wrong
    train = TRAIN[LABELS[TRAIN] != N_CLASSES - 1]
    several, curve = trained(
        accelerator, backbone, uint8, fold("paper", train, VAL), tmp_path, elsewhere, num_train_epochs=6
    )
    last, _ = trained(accelerator, backbone, uint8, fold("paper", train), tmp_path, elsewhere, num_train_epochs=6)
    tied = [point["epoch"] for point in curve if point["val_accuracy"] == 0]
    assert 5 in tied and len(tied) > 1
    assert same_weights(several, last) == (len(tied) == 6)


# ---- stop and go on


@pytest.mark.parametrize("protocol", protocol_names.PROTOCOLS)
def test_a_stopped_fold_goes_on_to_the_same_weights_and_curve(protocol, accelerator, backbone, uint8, tmp_path):
    of = fold(protocol, val=VAL if protocol == "paper" else NOTHING)
    changes = {"augmentation": "gentle", "num_train_epochs": 5, "learning_rate": 0.01}
    whole, curve = trained(accelerator, backbone, uint8, of, tmp_path / "whole", **changes)
    assert not (tmp_path / "whole" / "checkpoint.pt").exists()  # 0: none is wanted
    reads_an_epoch = 3 + (2 if protocol == "paper" else 0)
    stopped = OnlyThese(uint8, np.arange(28), stop_after=3 * reads_an_epoch + 1)  # within the fourth epoch
    changes["checkpointing_epochs"] = 2
    with pytest.raises(KeyboardInterrupt):
        trained(accelerator, backbone, stopped, of, tmp_path / "stopped", **changes)
    going_on = OnlyThese(uint8, np.arange(28))
    resumed, resumed_curve = trained(accelerator, backbone, going_on, of, tmp_path / "stopped", **changes)
    assert len(going_on.read) == 3 * reads_an_epoch  # from the checkpoint of the second epoch on
    assert resumed_curve == curve and same_weights(resumed, whole)
    assert not list((tmp_path / "stopped").glob(".*"))  # no half-written file


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"], ids=["empty", "text", "cut short"]
)
def test_a_damaged_checkpoint_is_refused_with_the_remedy(content, accelerator, backbone, uint8, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(errors.InputError, match=r"checkpoint\.pt: .*; delete it, the fold then starts anew$") as error:
        trained(accelerator, backbone, uint8, fold(), tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_fold_or_seed_is_not_gone_on_from(accelerator, backbone, uint8, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stopping = OnlyThese(uint8, TRAIN, stop_after=4)  # within the second epoch
        trained(accelerator, backbone, stopping, fold(), tmp_path, checkpointing_epochs=1)
    assert (tmp_path / "checkpoint.pt").is_file()
    for others in ({"of": fold(train=TRAIN[1:])}, {"of": fold(), "seed": 1}):
        with pytest.raises(
            errors.InputError, match="belongs to fold 2 of seed 0, or to other data or settings; delete it"
        ):
            trained(accelerator, backbone, uint8, others.pop("of"), tmp_path, **others)
    trained(accelerator, backbone, uint8, fold(), tmp_path)


def test_a_checkpoint_of_another_network_is_refused(accelerator, backbone, uint8, tmp_path):
    torch.save({"epoch": 1, "curve": [], "weights": {}, "optimizer": {}, "scheduler": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(errors.InputError, match="delete it") as error:
        trained(accelerator, backbone, uint8, fold(), tmp_path)
    assert "\n" not in str(error.value)


# ---- training


def test_the_optimizer_and_its_schedule_are_the_papers(accelerator, backbone, uint8, tmp_path):
    _, curve = trained(accelerator, backbone, uint8, fold(), tmp_path, num_train_epochs=4, checkpointing_epochs=1)
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    (group,) = content["optimizer"]["param_groups"]
    assert group["weight_decay"] == 1e-4 and group["betas"] == (0.9, 0.999)
    assert content["scheduler"]["eta_min"] == 1e-6 and content["scheduler"]["T_max"] == 4
    expected = [1e-6 + (1e-3 - 1e-6) * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [point["learning_rate"] for point in curve] == pytest.approx(expected)


def test_training_learns_and_is_the_same_for_a_seed(accelerator, backbone, uint8, tmp_path):
    clean = (LABELS[:, None, None, None] * 60 + np.zeros((28, SIDE, SIDE, 3))).astype(np.uint8)
    changes = {"num_train_epochs": 25, "learning_rate": 1e-2}
    one, curve = trained(accelerator, backbone, clean, fold(), tmp_path, **changes)
    again, _ = trained(accelerator, backbone, clean, fold(), tmp_path, **changes)
    other, _ = trained(accelerator, backbone, clean, fold(), tmp_path, seed=1, **changes)
    assert same_weights(one, again) and not same_weights(one, other)
    # Without dropout: with it, one epoch's loss on so few images is mostly chance, and other on another processor.
    learnt = predict(accelerator, one, backbone, Pixels(clean, np.zeros(28, bool)), fold().train, batch_size=8)
    assert -np.log(learnt[np.arange(len(learnt)), LABELS[fold().train]]).mean() < 0.5 * curve[0]["loss"]
    assert curve[0]["learning_rate"] == 1e-2 and curve[-1]["learning_rate"] < 1e-3
    probabilities = predict(accelerator, one, backbone, Pixels(clean, np.zeros(28, bool)), TEST, batch_size=3)
    assert probabilities.shape == (8, N_CLASSES) and probabilities.sum(axis=1) == pytest.approx(1)
    assert metrics.topk_accuracy(probabilities, LABELS[TEST], 1) >= 0.7  # chance 0.25; how much more, by the processor


def test_gentle_augmentation_changes_the_training_and_without_it_none_is_called(
    accelerator, backbone, uint8, tmp_path, monkeypatch
):
    plain, _ = trained(accelerator, backbone, uint8, fold(), tmp_path)
    gentle, _ = trained(accelerator, backbone, uint8, fold(), tmp_path, augmentation="gentle")
    assert not same_weights(plain, gentle)

    def called(*_: object) -> None:
        raise AssertionError("augment was called")

    monkeypatch.setattr(augmentations, "augment", called)
    again, _ = trained(accelerator, backbone, uint8, fold(), tmp_path)
    assert same_weights(plain, again)
    with pytest.raises(AssertionError, match="augment was called"):
        trained(accelerator, backbone, uint8, fold(), tmp_path, augmentation="gentle")


def test_a_loss_that_is_not_finite_stops_with_the_remedy(accelerator, backbone, uint8, tmp_path):
    with pytest.raises(
        errors.InputError, match=r"seed 0, fold 2, epoch .: the loss is not finite; lower --learning_rate"
    ):
        trained(accelerator, backbone, uint8, fold(), tmp_path, learning_rate=1e30)


def test_one_training_image_is_too_few_for_batch_norm(accelerator, backbone, uint8, tmp_path):
    with pytest.raises(errors.InputError, match=r"fold 2 has 1 training image; .* --recipe linear_probe"):
        trained(accelerator, backbone, uint8, fold(train=TRAIN[:1]), tmp_path)


@pytest.mark.parametrize("n", [2, 5, 6, 11, 12])
def test_batches_hold_each_row_once_and_never_a_row_alone(n):
    rows = np.arange(100, 100 + n)
    batches = training_batches(rows, 5, torch.Generator().manual_seed(0))
    assert sorted(np.concatenate(batches)) == rows.tolist()
    assert min(map(len, batches)) > 1 and max(map(len, batches)) <= 6


def test_derived_seeds_differ():
    numbers = [(s, f, e) for s in range(3) for f in range(5) for e in range(20)]
    numbers += [(s, f) for s in range(3) for f in range(5)] + [(s, f, e, 1) for s, f, e in numbers]
    assert len({seeds.derived_seed(*each) for each in numbers}) == len(numbers)
    assert seeds.derived_seed(0, 1) == seeds.derived_seed(0, 1)
