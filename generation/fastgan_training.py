"""Training FastGAN on the training side of one fold, step by step, so that it can be stopped at any moment.

The paper's recipe: hinge losses, decoders on real images, differentiable augmentation, Adam, a moving average of the
generator's weights for sampling. Everything random is drawn from generators seeded by (seed, fold, step).
"""

import copy
import dataclasses
import json
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from curation import protocols
from curation.leak_guard import Guard
from generation import fastgan, gan_losses, training_provenance
from generation.synthetic_images import image_seed
from generation.training_provenance import TrainedOn
from harness import errors
from harness.errors import InputError, one_line
from harness.files import write_atomically, write_json
from harness.seeds import derived_seed
from imaging.pixel_cache import Pixels

UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError)  # what torch.load raises
ADAM_BETAS = (0.5, 0.999)  # the paper's
GRID_SIDE, GRID_IMAGE_PX = 4, 256  # of a snapshot's picture: images across and down, their largest side
LOSSES = ("loss_discriminator", "loss_rebuilding", "loss_generator", "logit_real", "logit_fake")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a generator is trained; the names are those of train_fastgan.py's flags."""

    seed: int
    resolution: int  # px
    base_channels: int
    learning_rate: float
    train_batch_size: int
    max_train_steps: int
    snapshot_steps: int
    checkpointing_steps: int  # 0: checkpoints at snapshots only
    sample_from: Sequence[int]  # steps of snapshots that are needed besides


class Networks:
    """A generator with its moving average, a discriminator, and their optimizers, on one device."""

    def __init__(self, seed: int, n_classes: int, recipe: Recipe, device: torch.device):
        size = (recipe.resolution, n_classes, recipe.base_channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator, self.discriminator = fastgan.Generator(*size), fastgan.Discriminator(*size)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        for network in (self.generator, self.discriminator, self.average):
            network.to(device, memory_format=torch.channels_last)
        self.trained = {"generator": self.generator, "discriminator": self.discriminator}
        self.adam = {
            name: torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=ADAM_BETAS)
            for name, network in self.trained.items()
        }
        self.parts = self.trained | {"average": self.average}
        self.parts |= {f"adam_{name}": adam for name, adam in self.adam.items()}

    def state(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def restore(self, state: dict) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def seed_of(seed: int, fold: protocols.Fold, *numbers: int) -> int:
    """A seed for this fold, and for whatever else is numbered; the one run under `paper` counts as one more fold."""
    return derived_seed(seed, fold.seed_number, *numbers)


def rows_of_step(rows: np.ndarray, step: int, batch_size: int, seed: Callable[[int], int]) -> np.ndarray:
    """The batch (batch_size,) of step 1, 2, ...: all rows in a random order, then all in another, without end.

    seed: number of an order -> its seed. A row may be in a batch twice if there are fewer rows than a batch takes."""
    places = np.arange((step - 1) * batch_size, step * batch_size)
    orders = {n: np.random.default_rng(seed(n)).permutation(rows) for n in np.unique(places // len(rows)).tolist()}
    return np.array([orders[place // len(rows)][place % len(rows)] for place in places.tolist()])


def train_step(
    networks: Networks,
    real: torch.Tensor,
    label: torch.Tensor | None,
    difference: Callable,
    draws: torch.Generator,
    noise: torch.Generator,
    autocast: Callable,
) -> torch.Tensor:
    """One step of both networks on real images (b, 3, side, side) in -1..1 with labels (b,); returns LOSSES, (5,).

    draws: on the CPU, for augmentation and quadrant; noise: on the networks' device, for what images are made from."""
    n, device = len(real), real.device
    generator, discriminator = networks.generator, networks.discriminator
    quadrant = int(torch.randint(4, (), generator=draws))
    of_real, of_fake, of_judged = (gan_losses.draw_augmentation(n, draws) for _ in range(3))
    with autocast():
        fake = generator(*fastgan.draw_inputs(n, generator.resolution, noise, device), label)
        # ---- the discriminator
        augmented = gan_losses.augment(real, of_real)
        logits_real, features = discriminator(fastgan.versions(augmented), label)
        logits_fake, _ = discriminator([gan_losses.augment(image.detach(), of_fake) for image in fake], label)
        loss = gan_losses.discriminator_loss(logits_real.float(), logits_fake.float())
        rebuilt = [image.float() for image in discriminator.rebuild(features, quadrant)]
        rebuilding = gan_losses.rebuilding_loss(rebuilt, augmented, quadrant, difference)
    networks.adam["discriminator"].zero_grad()
    (loss + rebuilding).backward()
    networks.adam["discriminator"].step()
    # ---- the generator, judged by the discriminator as it is after its own step
    discriminator.requires_grad_(False)
    with autocast():
        judged, _ = discriminator([gan_losses.augment(image, of_judged) for image in fake], label)
        loss_generator = gan_losses.generator_loss(judged.float())
    networks.adam["generator"].zero_grad()
    loss_generator.backward()
    networks.adam["generator"].step()
    discriminator.requires_grad_(True)
    means = (logits_real.float().mean(), logits_fake.float().mean())
    return torch.stack([loss, rebuilding, loss_generator, *means]).detach()


def fit(
    accelerator: Accelerator,
    pixels: Pixels,
    labels: np.ndarray,
    guard: Guard,
    described: dict,
    difference: Callable,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Train on the training side of the guard's fold up to recipe.max_train_steps; leaves snapshots in the folder.

    pixels, labels (n,): of the whole dataset; described: what each snapshot's file says of its generator, including all
    fields of a training_provenance.TrainedOn; difference: loss of the decoders. folder: holds checkpoint.pt, from which
    training resumes, written at each snapshot and every checkpointing_steps; fold.json, the mean losses between
    snapshots; snapshots/step_*.safetensors and .png. Raises InputError for a loss that is not finite; snapshots made
    before stay as they are."""
    fold, trained_on = guard.fold, trained_on_of(described)
    rows = guard.admit(fold.train, "a generator")
    device = accelerator.device
    n_classes = len(described["label_names"] or ())
    networks = Networks(seed_of(recipe.seed, fold), n_classes, recipe, device)
    state = {"step": 0, "curve": [], "total": torch.zeros(len(LOSSES)), "n_total": 0, "wall_s": 0.0}
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        state = restore(checkpoint, networks, trained_on)
    started = time.monotonic() - state["wall_s"]
    bar = tqdm(
        range(state["step"] + 1, recipe.max_train_steps + 1),
        desc=folder.name,
        unit="step",
        disable=not accelerator.is_main_process,
        initial=state["step"],
        total=recipe.max_train_steps,
    )
    for step in bar:
        batch = rows_of_step(rows, step, recipe.train_batch_size, lambda n: seed_of(recipe.seed, fold, n, 0))
        real = torch.from_numpy(pixels.uint8[batch]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        label = torch.from_numpy(labels[batch]).to(device) if n_classes else None
        draws = torch.Generator().manual_seed(seed_of(recipe.seed, fold, step, 1))
        noise = torch.Generator(device).manual_seed(seed_of(recipe.seed, fold, step, 2))
        losses = train_step(networks, real, label, difference, draws, noise, accelerator.autocast).cpu()
        if not losses.isfinite().all():
            raise InputError(not_finite(folder, step, "the loss"))
        fastgan.update_average(networks.average, networks.generator, step)
        state |= {"step": step, "total": state["total"] + losses, "n_total": state["n_total"] + 1}
        bar.set_postfix(postfix(losses), refresh=False)
        at_snapshot = step % recipe.snapshot_steps == 0 or step in (*recipe.sample_from, recipe.max_train_steps)
        state["wall_s"] = time.monotonic() - started
        if at_snapshot:
            means = (state["total"] / state["n_total"]).tolist()
            state["curve"].append({"step": step} | dict(zip(LOSSES, means, strict=True)))
            state |= {"total": torch.zeros(len(LOSSES)), "n_total": 0}
            write_json(folder / "fold.json", notes_of(state, trained_on))
            conditions = np.unique(labels[rows]).tolist() if n_classes else []
            save_snapshot(folder, networks.average, described | {"step": step}, fold, recipe, conditions)
        if at_snapshot or (recipe.checkpointing_steps and step % recipe.checkpointing_steps == 0):
            content = state | networks.state() | {"trained_on": trained_on.as_dict()}
            write_atomically(checkpoint, lambda partial, content=content: torch.save(content, partial))


def postfix(losses: torch.Tensor) -> dict[str, str]:
    """LOSSES (5,) as the progress bar shows them."""
    loss = dict(zip(LOSSES, losses.tolist(), strict=True))
    titles = {"D": "loss_discriminator", "G": "loss_generator", "real": "logit_real", "fake": "logit_fake"}
    return {title: f"{loss[name]:.2f}" for title, name in titles.items()}


def notes_of(state: dict, trained_on: TrainedOn) -> dict:
    """The content of fold.json: the mean losses between snapshots."""
    notes = {"fold": trained_on.fold, "n_train": len(trained_on.source_sha256), "wall_s": round(state["wall_s"], 2)}
    return notes | {"learning_curve": state["curve"]}


def fold_record(folder: Path, trained_on: TrainedOn) -> dict:
    """The content of fold.json; made again from the checkpoint if it cannot be read or is another fold's.

    Raises InputError if there is no checkpoint that can be read."""
    file = folder / "fold.json"
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))
        if notes["fold"] == trained_on.fold and isinstance(notes["learning_curve"], list):
            return notes
    except (OSError, ValueError, LookupError, TypeError):
        pass
    write_json(file, notes_of(restore(folder / "checkpoint.pt", None, trained_on), trained_on))
    return json.loads(file.read_text(encoding="utf-8"))


def snapshot_file(folder: Path, step: int) -> Path:
    return folder / "snapshots" / f"step_{step:08d}.safetensors"


def not_finite(folder: Path, step: int, what: str) -> str:
    """The message for values that are not finite: what happened at the step, what to do, and what is left."""
    good = sorted((folder / "snapshots").glob("step_*.safetensors"))
    left = "no snapshot was made before"
    if good:
        last = int(good[-1].stem.removeprefix("step_"))
        use = f"--resume_from_checkpoint latest --max_train_steps {last} samples from it"
        left = f"the last good snapshot is {folder.name}/snapshots/{good[-1].name}: {use}"
    remedy = "lower --learning_rate or use --mixed_precision no, in another --output_dir"
    return f"{folder.name}, step {step}: {what} is not finite; {remedy}; {left}"


def save_snapshot(
    folder: Path,
    average: fastgan.Generator,
    described: dict,
    fold: protocols.Fold,
    recipe: Recipe,
    conditions: list[int],
) -> None:
    """Write the averaged generator, ready for sampling, and a grid of its images from the same noise at each step.

    conditions: labels to draw from, none for an unconditional generator. The generator's file is written last: its
    presence means that the snapshot is complete."""
    step = described["step"]
    device = next(average.parameters()).device
    draws = torch.Generator().manual_seed(seed_of(recipe.seed, fold, step, 3))
    sampled = fastgan.standing_statistics(average, draws, recipe.train_batch_size, conditions).to(device)
    if not all(tensor.isfinite().all() for tensor in sampled.state_dict().values()):
        raise InputError(not_finite(folder, step, "the averaged generator"))
    file = snapshot_file(folder, step)
    grid = grid_of(sampled, recipe.seed, conditions)
    write_atomically(file.with_suffix(".png"), lambda partial: grid.save(partial, "PNG"))
    fastgan.save_generator(file, sampled, described)


def grid_of(network: fastgan.Generator, seed: int, conditions: list[int]) -> Image.Image:
    """GRID_SIDE x GRID_SIDE images, their conditions in turn, on one picture."""
    n = GRID_SIDE**2
    seeds = [image_seed(seed, "fastgan grid", i) for i in range(n)]
    labels = [conditions[i % len(conditions)] for i in range(n)] if conditions else None
    across = [slice(start, start + GRID_SIDE) for start in range(0, n, GRID_SIDE)]
    lines = [fastgan.sample(network, seeds[part], labels and labels[part]) for part in across]
    grid = Image.fromarray(np.concatenate([np.concatenate(list(line), axis=1) for line in lines]))
    grid.thumbnail((GRID_SIDE * GRID_IMAGE_PX,) * 2)
    return grid


def restore(checkpoint: Path, networks: Networks | None, trained_on: TrainedOn) -> dict:
    """Load networks and optimizers from a checkpoint, and return the rest of it.

    networks: None to read the rest only. Raises InputError, and LeakError if the checkpoint saw photographs that this
    fold's generator must not see."""
    what, remedy = f"checkpoint {checkpoint.parent.name}/{checkpoint.name}", "delete it, the fold then starts anew"
    try:
        content = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=networks is None)
        training_provenance.check(content.get("trained_on"), trained_on, what, remedy)
        if networks is not None:
            networks.restore(content)
        return {name: content[name] for name in ("step", "curve", "total", "n_total", "wall_s")}
    except errors.LeakError:
        raise
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise InputError(f"{what}: {one_line(error)}; {remedy}") from error


def trained_on_of(described: dict) -> TrainedOn:
    """The TrainedOn within what a snapshot's file says of its generator."""
    return TrainedOn(**{field.name: described[field.name] for field in dataclasses.fields(TrainedOn)})


def check_checkpoint(folder: Path, trained_on: TrainedOn) -> None:
    """As check_snapshots, for the checkpoint that training would resume from; its weights are not read."""
    if (folder / "checkpoint.pt").is_file():
        restore(folder / "checkpoint.pt", None, trained_on)


def check_snapshots(folder: Path, trained_on: TrainedOn) -> None:
    """Raise LeakError or InputError if a snapshot is of another fold, run or dataset, or of another step than its name
    says. A snapshot that was copied there would otherwise be sampled as if this fold's photographs were its sources.
    """
    for file in sorted((folder / "snapshots").glob("step_*.safetensors")):
        what, remedy = f"snapshot {folder.name}/{file.name}", "delete it, and train to that step again"
        config = fastgan.read_config(file)
        training_provenance.check(config, trained_on, what, remedy)
        if file.stem != f"step_{str(config.get('step')).zfill(8)}":
            raise InputError(f"{what} is of step {config.get('step')}; {remedy}")


def check_wanted(folder: Path, steps: Sequence[int]) -> None:
    """Raise InputError if the fold has no snapshot of one of the steps, although its training is past it."""
    missing = [step for step in steps if not snapshot_file(folder, step).is_file()]
    if missing:
        kept = sorted(int(file.stem.removeprefix("step_")) for file in folder.glob("snapshots/step_*.safetensors"))
        reason = f"{folder.name} is past step {missing[0]} and has no snapshot of it"
        raise InputError(f"{reason}; take --sample_from and --max_train_steps of {kept}, or train further")


def use_snapshot(folder: Path, step: int) -> None:
    """Make a snapshot the fold's generator.safetensors."""
    content = snapshot_file(folder, step).read_bytes()
    write_atomically(folder / "generator.safetensors", lambda partial: partial.write_bytes(content))
