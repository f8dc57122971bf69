"""Training a classifier on the training side of one fold, epoch by epoch, so that it can be stopped at any instant.

The paper's recipe: AdamW, cosine schedule, cross-entropy, a fixed number of epochs; under `paper` the epoch with the
best validation accuracy is kept, under `strict` the last one, because there nothing may be chosen on held-out images.
"""

import argparse
import pickle
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm import tqdm

from classification.backbones import Backbone, normalise
from classification.classifiers import FaceClassifier
from curation import protocols
from curation.guard import Guard
from harness.errors import InputError, one_line
from harness.files import write_atomically
from harness.seeds import derived_seed
from imaging import augmentations
from imaging.pixel_cache import Pixels
from scoring import scores

WEIGHT_DECAY, LAST_LEARNING_RATE = 1e-4, 1e-6  # the paper's


@torch.inference_mode()
def predict(
    accelerator: Accelerator,
    classifier: torch.nn.Module,
    backbone: Backbone,
    pixels: Pixels,
    rows: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Probabilities (r, C) float64 of the rows (r,) given, which must not be empty."""
    classifier.eval()
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = normalise(pixels.uint8[rows[start : start + batch_size]], backbone, accelerator.device)
        parts.append(classifier(batch).double().softmax(dim=1).cpu().numpy())
    return np.concatenate(parts)


def training_batches(rows: np.ndarray, batch_size: int, generator: torch.Generator) -> list[np.ndarray]:
    """The rows in random order, batch_size at a time; a last batch of one joins the one before, for batch norm."""
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
    seed: int,
    args: argparse.Namespace,
    checkpoint: Path,
    identity: dict,
) -> tuple[torch.nn.Module, list[dict]]:
    """Train the classifier on the training side of the guard's fold; returns it, prepared, and its learning curve.

    pixels, labels (n,): of the whole dataset, and of synthetic images behind it; checkpoint: file to go on from, if it
    is there, and to write every args.checkpointing_epochs; identity: what is trained, and on what, by which it is known
    that a checkpoint is this one's. Everything random is derived from (seed, fold, epoch), so an
    epoch can be repeated after a stop, and a fold alone. Raises InputError for a loss that is not finite or fewer than
    two images."""
    number = guard.fold.number
    rows = guard.admit(guard.fold.train, "training")
    val = guard.admit_for_choice(guard.fold.val, "the choice of a checkpoint")
    if len(rows) < 2:
        raise InputError(f"fold {number} has {len(rows)} training image; batch norm needs two: --recipe linear_probe")
    # Prepared as for evaluation: precision and compilation, but no exchange of gradients, for each process has its own.
    model = accelerator.prepare_model(classifier.to(memory_format=torch.channels_last), evaluation_mode=True)
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, args.num_train_epochs, LAST_LEARNING_RATE)
    optimizer = accelerator.prepare_optimizer(adamw)
    state = {"epoch": 0, "curve": [], "best_accuracy": -1.0, "best": None, "identity": identity}
    if checkpoint.is_file():
        state = restore(checkpoint, identity, classifier, optimizer, scheduler)
    targets = torch.from_numpy(labels).to(accelerator.device)
    epochs = range(state["epoch"], args.num_train_epochs)
    told = accelerator.is_main_process
    bar = tqdm(epochs, desc=f"seed {seed} fold {number}", unit="epoch", disable=not told, leave=False)
    for epoch in bar:
        set_seed(derived_seed(seed, number, epoch))  # dropout
        generator = torch.Generator().manual_seed(derived_seed(seed, number, epoch, 1))  # order, augmentation
        model.train()
        total = torch.zeros((), device=accelerator.device)
        for batch in training_batches(rows, args.train_batch_size, generator):
            uint8 = torch.from_numpy(pixels.uint8[batch])
            if args.augmentation == "gentle":
                uint8 = augmentations.augment(uint8.permute(0, 3, 1, 2), generator).permute(0, 2, 3, 1)
            logits = model(normalise(uint8, backbone, accelerator.device)).float()
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach() * len(batch)
        point = {"epoch": epoch, "loss": float(total) / len(rows), "learning_rate": scheduler.get_last_lr()[0]}
        if not np.isfinite(point["loss"]):
            where = f"seed {seed}, fold {number}, epoch {epoch}"
            raise InputError(f"{where}: the loss is not finite; lower --learning_rate or use --mixed_precision no")
        scheduler.step()
        if len(val):
            probabilities = predict(accelerator, model, backbone, pixels, val, args.eval_batch_size)
            point["val_accuracy"] = scores.topk_accuracy(probabilities, labels[val], 1)
            if point["val_accuracy"] >= state["best_accuracy"]:  # of equal ones the later
                state |= {"best_accuracy": point["val_accuracy"], "best": weights_of(classifier)}
        state["curve"].append(point)
        state["epoch"] = epoch + 1
        bar.set_postfix(loss=f"{point['loss']:.3f}")
        fold_count = args.seeds.index(seed) * protocols.N_FOLDS + number
        step = fold_count * args.num_train_epochs + epoch  # trackers want steps that only grow
        accelerator.log({f"{name}/seed{seed}_fold{number}": value for name, value in point.items()}, step=step)
        if state["epoch"] in range(0, args.num_train_epochs, args.checkpointing_epochs or args.num_train_epochs):
            save_checkpoint(checkpoint, state, classifier, optimizer, scheduler)
    if state["best"] is not None:
        classifier.load_state_dict(state["best"])
    return model, state["curve"]


def weights_of(classifier: FaceClassifier) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().cpu().clone() for key, tensor in classifier.state_dict().items()}


def save_checkpoint(
    file: Path,
    state: dict,
    classifier: FaceClassifier,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """All that the next epoch needs, plain tensors and numbers: it is read back with weights_only=True."""
    content = state | {
        "weights": weights_of(classifier),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    write_atomically(file, lambda partial: torch.save(content, partial))


def restore(
    file: Path,
    identity: dict,
    classifier: FaceClassifier,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> dict:
    """The rest of a checkpoint, once weights, optimizer and schedule have been put back.

    Raises InputError for one that is damaged, or that learnt from other pictures than this fold's."""
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
        if content["identity"] != identity:
            of = {name: content["identity"].get(name) for name in ("seed", "fold")}
            reason = f"is of fold {of['fold']} of seed {of['seed']}, or of other data or settings"
            raise InputError(f"checkpoint {file} {reason}; delete it, the fold then starts anew")
        classifier.load_state_dict(content.pop("weights"))
        optimizer.load_state_dict(content.pop("optimizer"))
        scheduler.load_state_dict(content.pop("scheduler"))
    except (
        OSError,
        EOFError,
        RuntimeError,
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(f"checkpoint {file}: {one_line(error)}; delete it, the fold then starts anew") from error
    return content
