"""Trains the miniature upscaler of the offline demo on SIMULATED faces.

    accelerate launch demo_models/train_restorers.py

It is an RRDBNet with one block (Wang et al., ESRGAN, ECCV 2018 workshops, arXiv 1809.00219), x4, in the layout that
spandrel reads like Real-ESRGAN. It learns to undo the blur, reduction, grain and JPEG compression of a small old
photograph. The loss is the mean absolute error alone, so it sharpens details and invents none. The people have
conditions and seeds that no demo or study corpus uses (condition ranks from 103 on). Writes demo_models/restorers in
half precision. There is no miniature colouriser: the smallest DDColor that spandrel knows has a ConvNeXt-T trunk with
28 M parameters."""

import argparse
import io
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN
from tqdm import tqdm

from harness.files import write_json
from phenotyping import phenotypes
from simulation.people import COUNTRY_ANCESTRY
from simulation.photography import Photograph, take

SCALE, SIDE_PX = 4, 512  # SIDE_PX: of the photographs before they are reduced
NAME = "rrdbnet_x4_simulated"
MAX_BLUR_PX, MAX_NOISE, JPEG_QUALITY, GREY_SHARE = 2.0, 0.05, (35, 95), 0.2


def photograph(person: int, seed: int) -> np.ndarray:
    """The first photograph of a person without degradations, (side, side, 3) uint8; of a pretraining condition."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 5, person])
    pool = phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :]
    condition, country = pool[rng.integers(len(pool))], list(COUNTRY_ANCESTRY)[rng.integers(len(COUNTRY_ANCESTRY))]
    for attempt in range(100):
        plan = Photograph(person, "", condition, person, 100 * person + attempt, None, country)
        picture, _, _, damage, _ = take(plan, SIDE_PX, seed)
        if not damage:
            return picture
    raise RuntimeError(f"person {person}: no undamaged photograph in 100")


def old_print(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture (h, w, 3) uint8 as a small, grainy JPEG: (h / 4, w / 4, 3) uint8."""
    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(rng.uniform(0, MAX_BLUR_PX)))
    small = np.asarray(image.reduce(SCALE), np.float32)
    grain = rng.standard_normal((*small.shape[:2], rng.choice([1, 3])))
    small = small + 255 * rng.uniform(0, MAX_NOISE) * grain
    encoded = io.BytesIO()
    image = Image.fromarray(small.round().clip(0, 255).astype(np.uint8))
    image.save(encoded, "JPEG", quality=int(rng.integers(*JPEG_QUALITY)))
    return np.asarray(Image.open(encoded).convert("RGB"))


def examples(pictures: np.ndarray, n: int, crop_px: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops as old prints (n, 3, crop / 4, crop / 4), and before that (n, 3, crop, crop), float32 in 0..1."""
    small, large = [], []
    for _ in range(n):
        top, left = rng.integers(0, SIDE_PX - crop_px + 1, 2)
        picture = pictures[rng.integers(len(pictures)), top : top + crop_px, left : left + crop_px]
        if rng.random() < GREY_SHARE:
            picture = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
        if rng.random() < 0.5:
            picture = np.ascontiguousarray(picture[:, ::-1])
        small.append(old_print(picture, rng))
        large.append(picture)
    return as_tensor(np.stack(small)), as_tensor(np.stack(large))


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 255


def psnr(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture (n, 3, h, w) in 0..1, in dB: (n,)."""
    return -10 * torch.log10(((restored.clamp(0, 1) - truth) ** 2).mean(dim=(1, 2, 3)))


@torch.inference_mode()
def evaluate(network: torch.nn.Module, pictures: np.ndarray, seed: int, device: torch.device) -> dict[str, float]:
    """Mean PSNR in dB over held-out people, of the network and of bicubic enlargement of the same small prints."""
    network.eval()
    ours, bicubic = [], []
    for number, picture in enumerate(pictures):
        small = as_tensor(old_print(picture, np.random.default_rng([seed, 7, number]))[None])
        truth = as_tensor(picture[None])
        ours.append(psnr(network(small.to(device)).cpu(), truth))
        bicubic.append(psnr(F.interpolate(small, scale_factor=SCALE, mode="bicubic", align_corners=False), truth))
    network.train()
    ours, bicubic = torch.cat(ours), torch.cat(bicubic)
    return {
        "psnr_db": round(ours.mean().item(), 3),
        "bicubic_psnr_db": round(bicubic.mean().item(), 3),
        "better_than_bicubic": (ours > bicubic).float().mean().item(),
        "people": len(pictures),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    folder = Path(__file__).resolve().parent / "restorers"
    parser.add_argument("--output_dir", type=Path, default=folder, help="where the network goes")
    parser.add_argument("--num_people", type=int, default=300, help="people, one photograph each; a tenth is held out")
    parser.add_argument("--max_train_steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--train_batch_size", type=int, default=16, help="crops in a batch")
    parser.add_argument("--crop_px", type=int, default=128, help="side of a crop, before it is reduced")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="highest rate of a one-cycle schedule")
    parser.add_argument("--num_filters", type=int, default=16, help="channels between the dense blocks")
    parser.add_argument("--seed", type=int, default=2000, help="not a seed of any demo or study corpus")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    accelerator = Accelerator()
    set_seed(args.seed)
    started = time.time()
    people = tqdm(range(args.num_people), desc="simulated people", mininterval=10)
    pictures = np.stack([photograph(person, args.seed) for person in people])
    held_out = args.num_people // 10
    train, test = pictures[held_out:], pictures[:held_out]

    network = ESRGAN(num_filters=args.num_filters, num_blocks=1, scale=SCALE)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=args.max_train_steps)
    network, optimizer, scheduler = accelerator.prepare(network, optimizer, scheduler)
    rng = np.random.default_rng([args.seed, 6])
    for _ in (bar := tqdm(range(args.max_train_steps), desc="steps", mininterval=10)):
        small, large = examples(train, args.train_batch_size, args.crop_px, rng)
        loss = F.l1_loss(network(small.to(accelerator.device)), large.to(accelerator.device))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)

    network = accelerator.unwrap_model(network)
    state = {name: tensor.half().contiguous().cpu() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)  # so that the saved weights are those that are evaluated
    figures = evaluate(network, test, args.seed, accelerator.device)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    save_file(state, args.output_dir / f"{NAME}.safetensors", metadata={"format": "pt", "simulated": "true"})
    arguments = {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()}
    record = {"held_out": figures, "arguments": arguments, "seconds": round(time.time() - started), "simulated": True}
    write_json(args.output_dir / f"{NAME}.json", record)
    print(figures)


if __name__ == "__main__":
    main()
