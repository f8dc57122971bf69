"""Trains a prototypical network on episodes, as the paper did (Snell, Swersky and Zemel, NeurIPS 2017).

All weights of the backbone are trained with Adam at a constant rate; the negative logit of a class is the Euclidean
distance, not squared, from the query's pooled feature to the mean of the class's support. Under `paper` the epoch with
the best accuracy on validation conditions is kept; under `strict` the last one.
"""

import copy
import dataclasses

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm import tqdm

from classification.backbones import Backbone, normalise
from classification.episodes import Episodes, draw_episodes
from classification.fine_tuning import Checkpoint, weights_of
from classification.prototypes import accuracy_of
from curation.leak_guard import Guard
from harness.errors import InputError
from harness.seeds import derived_seed
from imaging.pixel_cache import Pixels


@dataclasses.dataclass(frozen=True)
class Training:
    """How a prototypical network is trained; all fields are flags of train_fewshot.py."""

    n_way: int
    k_shot: int  # while training
    learning_rate: float
    num_train_epochs: int
    train_episodes: int  # per epoch
    val_episodes: int  # per epoch, 1-shot


def pooled(features: torch.Tensor) -> torch.Tensor:
    """(b, d) of features (b, d) or of a map (b, d, h, w), float32."""
    return (features.mean(dim=(2, 3)) if features.ndim == 4 else features.flatten(1)).float()


def prototype_logits(support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Negative Euclidean distances (q, w) of queries (q, d) to the means of support features (w, k, d)."""
    return -torch.cdist(query, support.mean(dim=1))


def episode_logits(
    network: torch.nn.Module,
    backbone: Backbone,
    pixels: Pixels,
    support: np.ndarray,
    query: np.ndarray,
    device: torch.device,
) -> torch.Tensor:
    """(w, w) of one episode; support (w, k), query (w,): rows. All its images pass the network as one batch."""
    rows = np.concatenate([support.reshape(-1), query])
    features = pooled(network(normalise(pixels.uint8[rows], backbone, device)))
    shown = features[: support.size].reshape(*support.shape, -1)
    return prototype_logits(shown, features[support.size :])


@torch.inference_mode()
def trained_scores(
    network: torch.nn.Module,
    backbone: Backbone,
    pixels: Pixels,
    episodes: Episodes,
    device: torch.device,
    batch_size: int,
) -> np.ndarray:
    """Scores (e, w, w) by a network in evaluation mode, whose features of each image are computed once."""
    network.eval()
    rows = np.unique(np.concatenate([episodes.support.reshape(-1), episodes.query.reshape(-1)]))
    parts = [
        pooled(network(normalise(pixels.uint8[rows[start : start + batch_size]], backbone, device))).cpu().numpy()
        for start in range(0, len(rows), batch_size)
    ]
    features = np.concatenate(parts).astype(np.float64)
    prototypes = features[np.searchsorted(rows, episodes.support)].mean(axis=2)
    queries = features[np.searchsorted(rows, episodes.query)]
    return -np.linalg.norm(queries[:, :, None] - prototypes[:, None], axis=3)


def fit_prototypes(
    accelerator: Accelerator,
    backbone: Backbone,
    pixels: Pixels,
    labels: np.ndarray,
    groups: np.ndarray,
    guard: Guard,
    training: Training,
    seed: int,
    checkpoint: Checkpoint,
) -> tuple[torch.nn.Module, list[dict]]:
    """A copy of the backbone's network, trained on episodes of the fold's training side, and its learning curve.

    pixels, labels, groups: of the whole dataset's n rows, followed by the synthetic images. The curve has one dict per
    epoch: `loss` (nats, mean over episodes; ln(n_way) is that of a constant), under `paper` also `val_accuracy`. The
    list of each epoch's episodes depends on seed, fold and epoch alone, so an epoch can be repeated after a stop.
    Raises InputError for a loss that is not finite, LeakError for a held-out image, ProtocolError for too few."""
    fold = guard.fold
    rows = guard.admit(fold.train, "training episodes")
    val = guard.admit_for_choice(fold.val, "the choice of a checkpoint")
    network = copy.deepcopy(backbone.network).float().to(accelerator.device, memory_format=torch.channels_last)
    network.requires_grad_(True)
    adam = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    constant = torch.optim.lr_scheduler.ConstantLR(adam, factor=1.0)
    model = accelerator.prepare_model(network, evaluation_mode=True)  # each process trains its own folds
    apart = fold.protocol == "strict"
    state = {"epoch": 0, "curve": [], "best_accuracy": -1.0, "best": None}
    if checkpoint.file.is_file():
        state = checkpoint.restore(network, adam, constant)
    target = torch.arange(training.n_way, device=accelerator.device)
    drawn = (labels, groups, training.n_way)
    for epoch in range(state["epoch"], training.num_train_epochs):
        set_seed(derived_seed(seed, fold.number, epoch))  # for dropout and the like
        generator = np.random.default_rng(derived_seed(seed, fold.number, epoch, 4))
        episodes = draw_episodes(rows, *drawn, training.k_shot, training.train_episodes, generator, apart)
        model.train()
        total = 0.0
        title = f"seed {seed} fold {fold.number} epoch {epoch}"
        listed = list(zip(episodes.support, episodes.query, strict=True))
        for support, query in tqdm(listed, title, unit="episode", disable=not accelerator.is_main_process, leave=False):
            logits = episode_logits(model, backbone, pixels, support, query, accelerator.device)
            loss = torch.nn.functional.cross_entropy(logits, target)
            adam.zero_grad()
            accelerator.backward(loss)
            adam.step()
            total += float(loss.detach())
        point = {"epoch": epoch, "loss": total / len(episodes)}
        if not np.isfinite(point["loss"]):
            raise InputError(f"{title}: the loss is not finite; lower --learning_rate or use --mixed_precision no")
        if len(val):
            generator = np.random.default_rng(derived_seed(seed, fold.number, 5))  # the same in every epoch
            asked = draw_episodes(val, *drawn, 1, training.val_episodes, generator, apart)
            point["val_accuracy"] = accuracy_of(trained_scores(model, backbone, pixels, asked, accelerator.device, 32))
            if point["val_accuracy"] > state["best_accuracy"]:
                state |= {"best_accuracy": point["val_accuracy"], "best": weights_of(network)}
        state["curve"].append(point)
        state["epoch"] = epoch + 1
        checkpoint.save(state, network, adam, constant)
    if state["best"] is not None:
        network.load_state_dict(state["best"])
    return network, state["curve"]
