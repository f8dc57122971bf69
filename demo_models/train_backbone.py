"""Trains the miniature backbone of the offline demo on SIMULATED faces.

    accelerate launch demo_models/train_backbone.py

It learns to read face parameters and to tell people apart. The people have conditions and seeds that no demo or study
corpus uses (condition ranks from 103 on). Two photographs per person are rendered once into a memory-mapped cache. The
loss is the mean squared error of the standardised parameters + NT-Xent between the two photographs of a person (Chen et
al., SimCLR, ICML 2020); the latter acts on the feature itself, so that its cosine is a similarity of faces. Writes
demo_models/backbone (timm's local-dir layout, half precision)."""

import argparse
import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from harness.files import write_json
from harness.worker_processes import process_pool
from imaging import faces
from phenotyping import phenotypes
from simulation.people import COUNTRY_ANCESTRY
from simulation.photography import Photograph, take

ARCHITECTURE, IMAGE_SIZE, MEAN, STD = "regnetx_002", 128, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
MODEL_ARGS = {"global_pool": ""}  # the backbone returns its last map, (n, 368, 4, 4)
DETECTOR_ERROR = 0.03  # SD of MTCNN's error on these faces, per landmark coordinate, in eye distances


def photograph_person(person: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two photographs (2, side, side, 3) uint8 of a simulated person, and the face parameters (n,) float32 in SD.

    The condition is one of those for pretraining."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 5, person])
    pool = phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :]
    condition, country = pool[rng.integers(len(pool))], list(COUNTRY_ANCESTRY)[rng.integers(len(COUNTRY_ANCESTRY))]
    pictures = []
    for number in (2 * person, 2 * person + 1):
        picture, points, drawn, _, quality = take(
            Photograph(number, "", condition, person, number, None, country), 2 * IMAGE_SIZE, seed
        )
        _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
        eye_distance = np.linalg.norm(points[1] - points[0])
        detected = points[:5] + rng.normal(0, DETECTOR_ERROR * eye_distance, (5, 2))
        pictures.append(faces.align(np.ascontiguousarray(picture), detected, IMAGE_SIZE))
    return np.stack(pictures), np.array([drawn.z[name] for name in phenotypes.parameters()], np.float32)


def render(cache_dir: Path, num_people: int, seed: int, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Photographs (people, 2, side, side, 3) uint8, memory-mapped, and parameters (people, n) of simulated people.

    They are read from the cache, or rendered into it by num_workers processes."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    stem = cache_dir / f"faces_seed{seed}_{num_people}"
    done = stem.with_suffix(".json")
    if not done.exists():
        pictures = np.lib.format.open_memmap(
            f"{stem}_pictures.npy", "w+", np.uint8, (num_people, 2, IMAGE_SIZE, IMAGE_SIZE, 3)
        )
        targets = np.lib.format.open_memmap(
            f"{stem}_targets.npy", "w+", np.float32, (num_people, len(phenotypes.parameters()))
        )
        with process_pool(num_workers) as pool:
            work = pool.map(partial(photograph_person, seed=seed), range(num_people), chunksize=16)
            for i, (pair, z) in enumerate(tqdm(work, total=num_people, desc="simulated people", mininterval=10)):
                pictures[i], targets[i] = pair, z
        done.write_text(json.dumps({"parameters": phenotypes.parameters()}))
    return np.load(f"{stem}_pictures.npy", mmap_mode="r"), np.load(f"{stem}_targets.npy")


class ParameterReader(nn.Module):
    """Backbone with a linear layer that reads the face parameters.

    images (n, 3, side, side) -> features (n, 5888), parameters (n, p). The last map is flattened, not averaged: faces
    are aligned, so the place of a feature says as much as its kind."""

    def __init__(self, num_parameters: int):
        super().__init__()
        self.backbone = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **MODEL_ARGS)
        width = self.backbone(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)).flatten(1).shape[1]
        self.read = nn.Linear(width, num_parameters)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone(images).flatten(1)
        return features, self.read(features)


def prepared(pictures: np.ndarray, device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Pictures uint8 (n, side, side, 3) as normalised images (n, 3, side, side).

    generator: moves them by up to 2 %, scales them by up to 3 % and changes their brightness by up to 15 %."""
    images = torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
    if generator is not None:
        n = len(images)
        scale, move = (
            1 + 0.03 * (2 * torch.rand(n, generator=generator) - 1),
            0.04 * (2 * torch.rand(n, 2, generator=generator) - 1),
        )
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = move
        images = F.grid_sample(
            images,
            F.affine_grid(theta.to(device), images.shape, align_corners=False),
            padding_mode="border",
            align_corners=False,
        )
        images = images * (1 + 0.15 * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1)).to(device)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Loss that is low if each photograph is most similar to the other one of its person. first, second: (n, width).

    Cross-entropy over cosine similarities, divided by the temperature, with all other photographs of the batch."""
    features = F.normalize(torch.cat([first, second]).float(), dim=1)
    logits = features @ features.T / temperature
    logits.fill_diagonal_(-torch.inf)
    n = len(first)
    return F.cross_entropy(logits, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(logits.device))


@torch.no_grad()
def evaluate(
    model: ParameterReader, pictures: np.ndarray, targets: np.ndarray, device: torch.device
) -> dict[str, float]:
    """R2 of the parameters of held-out people (mean and median over parameters), and the share of photographs whose
    nearest neighbour shows the same person."""
    model.eval()
    features, read = zip(
        *(
            model(prepared(pictures[i : i + 64].reshape(-1, *pictures.shape[2:]), device))
            for i in range(0, len(pictures), 64)
        ),
        strict=True,
    )
    features, read = F.normalize(torch.cat(features).float(), dim=1), torch.cat(read).float().cpu().numpy()
    similarity = features @ features.T
    similarity.fill_diagonal_(-1)
    same = similarity.argmax(1).cpu().numpy() // 2 == np.arange(len(features)) // 2
    truth = np.repeat(targets, 2, axis=0)
    r2 = 1 - ((read - truth) ** 2).mean(0) / truth.var(0)
    model.train()
    return {
        "r2_mean": float(r2.mean()),
        "r2_median": float(np.median(r2)),
        "same_person_top1": float(same.mean()),
        "people": len(targets),
    }


def save(model: ParameterReader, folder: Path, figures: dict) -> None:
    """Writes timm's local-dir layout: config.json, and model.safetensors in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.backbone.state_dict().items()
    }
    save_file(
        {name: tensor.contiguous().cpu() for name, tensor in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt", "simulated": "true"},
    )
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "face_alignment": "mtcnn",  # read by classification/backbones.py
        "num_features": model.backbone.num_features,
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": "rdface_sim",
            "input_size": [3, IMAGE_SIZE, IMAGE_SIZE],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": MEAN,
            "std": STD,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "stem.conv",
            "classifier": "head.fc",
            "license": "apache-2.0",
        },
    }
    write_json(folder / "config.json", config)
    write_json(folder / "training.json", figures)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path(__file__).resolve().parent / "backbone", help="where the model goes"
    )
    parser.add_argument(
        "--cache_dir", type=Path, default=Path("runs/backbone_cache"), help="rendered faces and checkpoints"
    )
    parser.add_argument(
        "--num_people", type=int, default=14000, help="two photographs each; the last 1,000 (or a tenth) are held out"
    )
    parser.add_argument("--num_train_epochs", type=int, default=16, help="passes over all people")
    parser.add_argument("--train_batch_size", type=int, default=64, help="people in a batch")
    parser.add_argument("--learning_rate", type=float, default=5e-3, help="highest rate of a one-cycle schedule")
    parser.add_argument("--identity_weight", type=float, default=0.1, help="weight of NT-Xent in the loss")
    parser.add_argument("--temperature", type=float, default=0.1, help="temperature of NT-Xent")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="bf16", help="precision of the network")
    parser.add_argument("--num_workers", type=int, default=2, help="rendering processes")
    parser.add_argument("--resume_from_checkpoint", choices=("latest",), help="continue after the last finished epoch")
    parser.add_argument("--seed", type=int, default=1000, help="not a seed of any demo or study corpus")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    pictures, targets = render(args.cache_dir, args.num_people, args.seed, args.num_workers)
    held_out = min(1000, args.num_people // 10)
    train = args.num_people - held_out
    centre, spread = targets[:train].mean(0), targets[:train].std(0)
    targets = (targets - centre) / spread

    model = ParameterReader(targets.shape[1]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.05)
    steps = train // args.train_batch_size
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=steps * args.num_train_epochs, pct_start=0.1
    )
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    started, checkpoints = time.time(), args.cache_dir / "checkpoints"
    if not args.resume_from_checkpoint:
        shutil.rmtree(checkpoints, ignore_errors=True)
    finished = sorted(checkpoints.glob("epoch-??"))
    first_epoch = int(finished[-1].name[-2:]) if finished else 0
    if finished:
        accelerator.load_state(str(finished[-1]))
    print(
        f"{train} simulated people to train on, {held_out} held out, {targets.shape[1]} parameters, "
        f"epochs {first_epoch}..{args.num_train_epochs}, {accelerator.device}"
    )

    for epoch in range(first_epoch, args.num_train_epochs):
        generator = torch.Generator().manual_seed(args.seed + epoch)
        order = torch.randperm(train, generator=generator).numpy()
        bar = tqdm(range(steps), desc=f"epoch {epoch}", disable=not accelerator.is_main_process, mininterval=10)
        for step in bar:
            people = np.sort(order[step * args.train_batch_size : (step + 1) * args.train_batch_size])
            pair = pictures[people]
            images = prepared(np.concatenate([pair[:, 0], pair[:, 1]]), accelerator.device, generator)
            truth = torch.from_numpy(targets[people]).to(accelerator.device).repeat(2, 1)
            with accelerator.autocast():
                features, read = model(images)
            regression = F.mse_loss(read.float(), truth)
            identity = nt_xent(*features.chunk(2), args.temperature)
            accelerator.backward(regression + args.identity_weight * identity)
            accelerator.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            bar.set_postfix(parameters=f"{regression.item():.3f}", identity=f"{identity.item():.3f}", refresh=False)
        unfinished = checkpoints / "unfinished"  # renamed when complete, so a kill leaves the last good one
        accelerator.save_state(str(unfinished))
        unfinished.rename(checkpoints / f"epoch-{epoch + 1:02d}")
        figures = evaluate(accelerator.unwrap_model(model), pictures[train:], targets[train:], accelerator.device)
        print(f"epoch {epoch}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()), flush=True)
        arguments = {k: (v.name if isinstance(v, Path) else v) for k, v in vars(args).items()}
        save(
            accelerator.unwrap_model(model),
            args.output_dir,
            {
                "held_out": figures,
                "arguments": arguments,
                "seconds_this_run": round(time.time() - started),
                "simulated": True,
            },
        )


if __name__ == "__main__":
    main()
