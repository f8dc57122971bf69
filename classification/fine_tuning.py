"""Trains a classifier on the training side of one fold, epoch by epoch; a run may be stopped and resumed at any time.

The paper's recipe: AdamW, cosine schedule, cross-entropy, a fixed number of epochs. Under `paper` the epoch with the
best validation accuracy is kept; under `strict` the last one, because nothing may be chosen on held-out images.
"""

import dataclasses
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from classification.backbones import Backbone, normalise
from classification.classifiers import FaceClassifier
from classification.recipes import LAST_LEARNING_RATE
from curation.leak_guard import Guard
from harness.errors import InputError, one_line
from harness.files import write_atomically
from harness.seeds import derived_seed
from imaging import augmentations
from imaging.pixel_cache import Pixels
from scoring import metrics

WEIGHT_DECAY = 1e-4  # the paper's
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    pickle.UnpicklingError,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the classifier of one fold is trained; all but `first_step` are flags of train_classifier.py."""

    learning_rate: float  # of the first epoch; then it falls to LAST_LEARNING_RATE along a cosine
    seed: int = 0
    num_train_epochs: int = 50
    train_batch_size: int = 32
    eval_batch_size: int = 32
    augmentation: str = "none"  # or "gentle"
    checkpointing_epochs: int = 0  # epochs between checkpoints; 0: none
    first_step: int = 0  # number of the first epoch for trackers, whose steps may only grow


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The file in which a fold's training is kept every few epochs, and what makes it this training's file."""

    file: Path
    identity: dict  # study.Study.identity: kept in the file and compared before it is used

    def save(
        self, state: dict, classifier: FaceClassifier, optimizer: torch.optim.Optimizer, scheduler: LRScheduler
    ) -> None:
        """Write all that the next epoch needs as plain tensors and numbers, to be read back with weights_only=True."""
        content = state | {
            "identity": self.identity,
            "weights": weights_of(classifier),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        }
        write_atomically(self.file, lambda partial: torch.save(content, partial))

    def restore(self, classifier: FaceClassifier, optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> dict:
        """Load weights, optimizer and schedule from the file, and return the rest of its content.

        Raises InputError for a file that is damaged or of another fold, seed, dataset or experiment."""
        try:
            content = torch.load(self.file, weights_only=True, map_location="cpu")
            identity = content.pop("identity")
            if identity != self.identity:
                reason = f"belongs to fold {identity.get('fold')} of seed {identity.get('seed')}, or to other data"
                raise InputError(f"checkpoint {self.file} {reason} or settings; delete it, the fold then starts anew")
            classifier.load_state_dict(content.pop("weights"))
            optimizer.load_state_dict(content.pop("optimizer"))
            scheduler.load_state_dict(content.pop("scheduler"))
        except UNREADABLE as error:
            reason = one_line(error)
            raise InputError(f"checkpoint {self.file}: {reason}; delete it, the fold then starts anew") from error
        return content


@torch.inference_mode()
def predict(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    backbone: Backbone,
    pixels: Pixels,
    rows: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Probabilities (r, C) float64 for at least one row; rows (r,): numbers into the pixels."""
    classifier.eval()
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = normalise(pixels.uint8[rows[start : start + batch_size]], backbone, accelerator.device)
        parts.append(classifier(batch).double().softmax(dim=1).cpu().numpy())
    return np.concatenate(parts)


def training_batches(rows: np.ndarray, batch_size: int, generator: torch.Generator) -> list[np.ndarray]:
    """The rows in random order, batch_size at a time; a single last row joins the batch before it, for batch norm."""
    order = rows[torch.randperm(len(rows), generator=generator).numpy()]
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return np.split(order, starts[1:])


def fit(
    accelerator: Accelerator,
    classifier: FaceClassifier,
    backbone: Backbone,
    pixels: Pixels,
    labels: np.ndarray,
    guard: Guard,
    settings: Settings,
    checkpoint: Checkpoint,
) -> tuple[torch.nn.Module, list[dict]]:
    """Train the classifier on the training side of the guard's fold; returns it, prepared, and its learning curve.

    pixels, labels: of the whole dataset's n rows, followed by the synthetic images; checkpoint: to continue from if its
    file exists, and to write every settings.checkpointing_epochs. Everything random is derived from (seed, fold,
    epoch), so an epoch can be repeated after a stop, and a fold trained alone. The learning curve has one dict per
    epoch. Raises InputError for a loss that is not finite and for fewer than two training images, LeakError for a
    held-out image among those to train on or to choose by."""
    number = guard.fold.number
    rows = guard.admit(guard.fold.train, "training")
    val = guard.admit_for_choice(guard.fold.val, "the choice of a checkpoint")
    if len(rows) < 2:
        raise InputError(f"fold {number} has {len(rows)} training image; batch norm needs two: --recipe linear_probe")
    # Prepared as for evaluation: precision and compilation, but no exchange of gradients, for each process has its own.
    model = accelerator.prepare_model(classifier.to(memory_format=torch.channels_last), evaluation_mode=True)
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, settings.num_train_epochs, LAST_LEARNING_RATE)
    optimizer = accelerator.prepare_optimizer(adamw)
    state = {"epoch": 0, "curve": [], "best_accuracy": -1.0, "best": None}
    if checkpoint.file.is_file():
        state = checkpoint.restore(classifier, optimizer, scheduler)
    targets = torch.from_numpy(labels).to(accelerator.device)
    n_epochs, seed = settings.num_train_epochs, settings.seed
    epochs = range(state["epoch"], n_epochs)
    bar = tqdm(epochs, f"seed {seed} fold {number}", unit="epoch", disable=not accelerator.is_main_process, leave=False)
    for epoch in bar:
        set_seed(derived_seed(seed, number, epoch))  # for dropout
        generator = torch.Generator().manual_seed(derived_seed(seed, number, epoch, 1))  # order, augmentation
        batches = network_inputs(pixels, rows, backbone, settings, generator, accelerator.device)
        loss = train_epoch(accelerator, model, optimizer, batches, targets)
        point = {"epoch": epoch, "loss": loss, "learning_rate": scheduler.get_last_lr()[0]}
        if not np.isfinite(loss):
            where = f"seed {seed}, fold {number}, epoch {epoch}"
            raise InputError(f"{where}: the loss is not finite; lower --learning_rate or use --mixed_precision no")
        scheduler.step()
        if len(val):
            probabilities = predict(accelerator, model, backbone, pixels, val, settings.eval_batch_size)
            point["val_accuracy"] = metrics.topk_accuracy(probabilities, labels[val], 1)
            if point["val_accuracy"] >= state["best_accuracy"]:  # of equally good epochs the later one
                state |= {"best_accuracy": point["val_accuracy"], "best": weights_of(classifier)}
        state["curve"].append(point)
        state["epoch"] = epoch + 1
        bar.set_postfix(loss=f"{loss:.3f}")
        logged = {f"{name}/seed{seed}_fold{number}": value for name, value in point.items()}
        accelerator.log(logged, step=settings.first_step + epoch)
        if state["epoch"] in range(0, n_epochs, settings.checkpointing_epochs or n_epochs):
            checkpoint.save(state, classifier, optimizer, scheduler)
    if state["best"] is not None:
        classifier.load_state_dict(state["best"])
    return model, state["curve"]


def network_inputs(
    pixels: Pixels,
    rows: np.ndarray,
    backbone: Backbone,
    settings: Settings,
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """One epoch's batches: row numbers (b,) and what the network sees of them (b, 3, s, s), augmented if so set."""
    for batch in training_batches(rows, settings.train_batch_size, generator):
        uint8 = torch.from_numpy(pixels.uint8[batch])
        if settings.augmentation == "gentle":
            uint8 = augmentations.augment(uint8.permute(0, 3, 1, 2), generator).permute(0, 2, 3, 1)
        yield batch, normalise(uint8, backbone, device)


def train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[np.ndarray, torch.Tensor]],
    targets: torch.Tensor,
) -> float:
    """One step per batch; returns the mean cross-entropy over all images, in nats.

    batches: as network_inputs gives them; targets (n,): class numbers of all rows."""
    model.train()
    total, n_images = torch.zeros((), device=accelerator.device), 0
    for rows, inputs in batches:
        logits = model(inputs).float()
        loss = torch.nn.functional.cross_entropy(logits, targets[rows])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach() * len(rows)
        n_images += len(rows)
    return float(total) / n_images


def weights_of(classifier: FaceClassifier) -> dict[str, torch.Tensor]:
    """A copy of all weights in the CPU's memory, by name."""
    return {key: tensor.detach().cpu().clone() for key, tensor in classifier.state_dict().items()}
