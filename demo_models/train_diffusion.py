"""Trains the miniature text-to-image diffusion base of the offline demo on SIMULATED faces.

    accelerate launch demo_models/train_diffusion.py

An ordinary StableDiffusionPipeline of 128 px (latent diffusion: Rombach et al., CVPR 2022, arXiv 2112.10752): an 8-fold
VAE, a U-Net with cross-attention, a small CLIP text encoder with a tokenizer of its own (captions.py). People are drawn
from conditions and seeds that no demo or study corpus uses (condition ranks from 103 on); their faces are cut out
upright and captioned with their HPO terms, so that DreamBooth has a prior to adapt. Each stage continues from its
checkpoint with --resume_from_checkpoint latest. Result: demo_models/diffusion (diffusers' layout, half precision)."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
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
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers import UNet2DConditionModel as UNet
from diffusers.training_utils import EMAModel
from PIL import Image
from tqdm import tqdm
from transformers import CLIPTokenizer

from demo_models.captions import TEXT_WIDTH, Reading, caption_of, train_tokenizer, without_terms
from harness.commands import Parser
from harness.files import write_atomically, write_json
from harness.worker_processes import process_pool
from imaging import faces
from phenotyping import phenotypes
from simulation.people import COUNTRY_ANCESTRY
from simulation.photography import Photograph, take

HERE = Path(__file__).resolve().parent
IMAGE_SIZE, LATENT_CHANNELS = 128, 8
DETECTOR_ERROR = 0.03  # SD of each landmark coordinate in eye distances, as MTCNN errs on these faces
FACES_FIRST, FACE_WEIGHT = 1000, 2.0  # after so many steps of the U-Net, errors in face parameters have this weight
MASKED = "_masked"  # behind the name of a stage whose captions leave out the terms
DROPPED_CAPTIONS = 0.1  # share of the training captions that are left empty, for classifier-free guidance
SHEET_PROMPTS = (
    "photo of a child",
    "photo of a baby girl",
    "photo of a 12 year old boy",
    "photo of a child with hypertelorism",
    "photo of a child with long philtrum, thin upper lip vermilion",
    "photo of a child with upslanted palpebral fissure, epicanthus",
    "photo of a child with low-set ears, broad forehead",
    "photo of a child with synophrys, thick eyebrow",
)


# ---- photographs and captions


def photograph_person(number: int, seed: int) -> tuple[np.ndarray, str]:
    """One photograph (side, side, 3) uint8 of a simulated person of a pretraining condition, and its caption."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 5, number])
    pool = phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :]
    condition, country = pool[rng.integers(len(pool))], list(COUNTRY_ANCESTRY)[rng.integers(len(COUNTRY_ANCESTRY))]
    photograph = Photograph(number, "", condition, number, number, None, country)
    picture, points, person, degradations, _ = take(photograph, 2 * IMAGE_SIZE, seed)
    eye_distance = np.linalg.norm(points[1] - points[0])
    detected = points[:5] + rng.normal(0, DETECTOR_ERROR * eye_distance, (5, 2))
    aligned = faces.align(np.ascontiguousarray(picture), detected, IMAGE_SIZE)
    return aligned, caption_of(person, degradations, rng)


def render(args: argparse.Namespace) -> tuple[np.ndarray, list[str]]:
    """Photographs (people, side, side, 3) uint8, memory-mapped, and captions; rendered unless the cache has them."""
    args.cache_dir.mkdir(parents=True, exist_ok=True)
    stem = args.cache_dir / f"people_seed{args.seed}_{args.num_people}"
    captions_file, pictures_file = stem.with_suffix(".json"), stem.with_suffix(".npy")
    if not captions_file.exists():
        shape = (args.num_people, IMAGE_SIZE, IMAGE_SIZE, 3)
        pictures, captions = np.lib.format.open_memmap(pictures_file, "w+", np.uint8, shape), []
        photograph = partial(photograph_person, seed=args.seed)
        with process_pool(args.num_workers) if args.num_workers > 1 else contextlib.nullcontext() as pool:
            numbers = range(args.num_people)  # one worker: this process
            work = pool.map(photograph, numbers, chunksize=16) if pool else map(photograph, numbers)
            for i, (picture, caption) in enumerate(tqdm(work, total=args.num_people, desc="people", mininterval=10)):
                pictures[i] = picture
                captions.append(caption)
        write_json(captions_file, {"captions": captions})
    return np.load(pictures_file, mmap_mode="r"), json.loads(captions_file.read_text())["captions"]


def as_tensor(pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 (b, side, side, 3) to (b, 3, side, side) in -1..1."""
    return torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---- training that can be stopped


def train(
    name: str,
    step: Callable[[int, torch.Generator], torch.Tensor],
    state: dict[str, torch.nn.Module | EMAModel],
    learning_rate: float,
    max_train_steps: int,
    accelerator: Accelerator,
    args: argparse.Namespace,
) -> None:
    """Minimise step(number, generator) over the modules of `state` by AdamW with a one-cycle learning rate.

    Writes a checkpoint every args.checkpointing_steps. A step draws everything random from the generator that it gets,
    so that it can be repeated."""
    checkpoint = args.cache_dir / f"{name}.pt"
    modules = [module for module in state.values() if isinstance(module, torch.nn.Module)]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    total = args.checkpointing_steps * -(-max_train_steps // args.checkpointing_steps)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=total, pct_start=0.05)
    state = state | {"optimizer": optimizer, "scheduler": scheduler}
    first = 0
    if args.resume_from_checkpoint and checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True, map_location=accelerator.device)
        first = saved.pop("step")
        for key, part in state.items():
            part.load_state_dict(saved[key])
    bar = tqdm(range(first, max_train_steps), desc=name, initial=first, total=max_train_steps, mininterval=10)
    smoothed_loss = None
    for number in bar:
        with accelerator.autocast():
            loss = step(number, torch.Generator().manual_seed(args.seed * 1_000_003 + number))
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if "ema" in state:
            state["ema"].step(modules[0].parameters())
        smoothed_loss = loss.item() if smoothed_loss is None else 0.98 * smoothed_loss + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smoothed_loss:.4f}", refresh=False)
        if (number + 1) % args.checkpointing_steps == 0 or number + 1 == max_train_steps:
            saved = {key: part.state_dict() for key, part in state.items()} | {"step": number + 1}
            write_atomically(checkpoint, lambda file, saved=saved: torch.save(saved, file))


# ---- the parts of the pipeline


class Perception(torch.nn.Module):
    """The distance between two pictures in the feature maps of the miniature backbone, normalised at each place.

    This is LPIPS without learnt weights (Zhang et al., CVPR 2018, arXiv 1801.03924). Pictures are (b, 3, side, side) in
    -1..1."""

    def __init__(self):
        super().__init__()
        name = f"local-dir:{HERE / 'backbone'}"
        backbone = timm.create_model(name, pretrained=True, num_classes=0).eval().requires_grad_(False)
        self.parts = torch.nn.ModuleList([backbone.stem, backbone.s1, backbone.s2, backbone.s3, backbone.s4])

    def maps(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], 2 * pictures  # (pixel / 255 - 0.5) / 0.25
        for part in self.parts:
            x = part(x)
            maps.append(F.normalize(x, dim=1))
        return maps

    def forward(self, rebuilt: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = self.maps(truth)
        pairs = zip(self.maps(rebuilt), target, strict=True)
        return sum((a - b).square().sum(1).mean() for a, b in pairs) / len(target)


def train_autoencoder(pictures: np.ndarray, accelerator: Accelerator, args: argparse.Namespace) -> AutoencoderKL:
    """Train the VAE on the mean absolute error, the distance in the backbone's maps, and a slight pull of the latents
    towards N(0, 1).

    It learns from crops of half the side, which cost a quarter, and at the end from whole photographs; then the decoder
    alone is trained further."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[16, 32, 64, 96],
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    ).to(accelerator.device)
    perception = Perception().to(accelerator.device)

    def loss(generator: torch.Generator, whole: bool) -> torch.Tensor:
        n_rows = args.vae_batch_size // 2 if whole else args.vae_batch_size
        rows = torch.randint(len(pictures), (n_rows,), generator=generator).sort().values.numpy()
        truth = as_tensor(pictures[rows], accelerator.device)
        if not whole:
            side = IMAGE_SIZE // 2
            top, left = torch.randint(side + 1, (2,), generator=generator).tolist()
            truth = truth[:, :, top : top + side, left : left + side]
        posterior = vae.encode(truth).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(truth.device)
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample
        return F.l1_loss(rebuilt, truth) + 0.3 * perception(rebuilt, truth) + 1e-6 * posterior.kl().mean()

    def step(number: int, generator: torch.Generator) -> torch.Tensor:
        return loss(generator, whole=number >= 0.9 * args.vae_train_steps)

    def decoder_step(number: int, generator: torch.Generator) -> torch.Tensor:
        return loss(generator, whole=number >= 0.9 * args.decoder_train_steps)

    train("vae", step, {"vae": vae}, 2e-3, args.vae_train_steps, accelerator, args)
    for encoding in (vae.encoder, vae.quant_conv):  # from here on the latents do not change
        encoding.eval().requires_grad_(False)
    decoding = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    train("decoder", decoder_step, decoding, 1e-3, args.decoder_train_steps, accelerator, args)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device, args: argparse.Namespace) -> torch.Tensor:
    """Latents (n, c, 16, 16) float32, scaled to a standard deviation of 1; sets the VAE's scaling_factor, and keeps the
    latents in the cache."""
    file = args.cache_dir / "latents.pt"
    if not (args.resume_from_checkpoint and file.is_file()):
        batches = range(0, len(pictures), 32)
        means = [vae.encode(as_tensor(pictures[i : i + 32], device)).latent_dist.mean.cpu() for i in tqdm(batches)]
        write_atomically(file, lambda partial: torch.save(torch.cat(means), partial))
    latents = torch.load(file, weights_only=True)
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    return latents * vae.config.scaling_factor


def train_text_encoder(tokenizer: CLIPTokenizer, accelerator: Accelerator, args: argparse.Namespace) -> Reading:
    """Train the text encoder to tell what a caption's words mean for a face, and freeze it for the U-Net."""
    reading = Reading(tokenizer, args.num_captions, args.seed, args.mask_terms).to(accelerator.device)

    def step(_: int, generator: torch.Generator) -> torch.Tensor:
        return reading.loss(generator)

    name = "text_encoder" + MASKED * args.mask_terms
    train(name, step, {"reading": reading}, 2e-3, args.text_train_steps, accelerator, args)
    return reading.eval().requires_grad_(False)


@torch.no_grad()
def face_directions(latents: torch.Tensor, tokens: torch.Tensor, reading: Reading) -> torch.Tensor:
    """Directions (d, p) by which the p face parameters of the captions are read from flattened latents (n, d).

    They are fitted by ridge regression, and each reading has a standard deviation of 1."""
    device = reading.head.weight.device
    parameters = torch.cat([reading.face(tokens[i : i + 256].to(device)).cpu() for i in range(0, len(tokens), 256)])
    flat = (latents - latents.mean(dim=0)).flatten(1)
    penalty = 0.3 * len(flat) * torch.eye(flat.shape[1])
    directions = torch.linalg.solve(flat.T @ flat + penalty, flat.T @ (parameters - parameters.mean(dim=0)))
    return directions / (flat @ directions).std(dim=0)


def train_denoiser(
    latents: torch.Tensor,
    tokens: torch.Tensor,
    reading: Reading,
    accelerator: Accelerator,
    args: argparse.Namespace,
) -> tuple[UNet, DDIMScheduler]:
    """Train the U-Net to predict velocity (Salimans & Ho, ICLR 2022, arXiv 2202.00512), and keep the mean of its
    weights over the last steps. It gets the words twice: by cross-attention, and pooled, together with the time step.

    What words say about a face is a small part of a photograph. So once the U-Net can draw faces, errors along
    face_directions count more. The best prediction is the conditional mean under any such weighting, so it does not
    change; but a network that has seen few photographs comes nearer to it."""
    unet = UNet(
        sample_size=latents.shape[-1],
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[64, 128, 160],
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, despite its name
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    unet = unet.to(accelerator.device, memory_format=torch.channels_last)  # a quarter faster on a CPU
    noising = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    ema = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    ema.to(accelerator.device)
    empty, directions = tokens[-1], face_directions(latents, tokens[:-1], reading).to(accelerator.device)

    def step(number: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (args.train_batch_size,), generator=generator)
        captions = tokens[rows].clone()
        captions[torch.rand(len(rows), generator=generator) < DROPPED_CAPTIONS] = empty
        noise = torch.randn(len(rows), *latents.shape[1:], generator=generator)
        times = torch.randint(noising.config.num_train_timesteps, (len(rows),), generator=generator)
        clean = latents[rows]
        noisy, velocity = noising.add_noise(clean, noise, times), noising.get_velocity(clean, noise, times)
        with torch.no_grad():
            text = reading.text_encoder(captions.to(accelerator.device))[0]
        noisy = noisy.to(accelerator.device, memory_format=torch.channels_last)
        error = unet(noisy, times.to(accelerator.device), text).sample.float() - velocity.to(accelerator.device)
        loss = error.square().mean()
        if args.mask_terms or number < FACES_FIRST:  # without terms, captions say little of a face to weigh errors by
            return loss
        return loss + FACE_WEIGHT * (error.flatten(1) @ directions).square().mean()

    name = "denoiser" + MASKED * args.mask_terms
    train(name, step, {"unet": unet, "ema": ema}, args.learning_rate, args.max_train_steps, accelerator, args)
    ema.copy_to(unet.parameters())
    return unet.to(memory_format=torch.contiguous_format).eval(), noising


# ---- evaluation


def sample(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, batch_size: int = 16) -> list[Image.Image]:
    """A picture per prompt, by 20 steps of DPM-Solver++ with guidance 3; picture i has the seed seed + i."""
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="samples", mininterval=10):
        batch = prompts[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(batch))]
        pictures += pipeline(batch, num_inference_steps=20, guidance_scale=3.0, generator=generators).images
    return pictures


def evaluate(pipeline: StableDiffusionPipeline, pictures: np.ndarray, args: argparse.Namespace) -> dict:
    """Share of the samples and of the held-out photographs in which MTCNN finds one face, and the VAE's PSNR on the
    held-out photographs; writes a sheet of samples. pictures (n, side, side, 3) uint8: the held-out photographs."""
    columns = min(6, args.num_samples)
    samples = sample(pipeline, [prompt for prompt in SHEET_PROMPTS for _ in range(columns)], args.seed)
    sheet = Image.new("RGB", (columns * IMAGE_SIZE, len(SHEET_PROMPTS) * IMAGE_SIZE))
    for i, picture in enumerate(samples):
        sheet.paste(picture, (i % columns * IMAGE_SIZE, i // columns * IMAGE_SIZE))
    sheet.save(args.output_dir / "samples_simulated.png")
    samples = sample(pipeline, ["photo of a child"] * args.num_samples, args.seed + 1000)
    shares = [faces_found([np.asarray(picture) for picture in group]) for group in (samples, pictures)]
    truth = as_tensor(pictures, pipeline.device)
    with torch.no_grad():
        rebuilt = pipeline.vae(truth).sample.clamp(-1, 1)
    psnr = -10 * torch.log10(((rebuilt - truth) / 2).square().mean(dim=(1, 2, 3))).mean().item()
    return {
        "one_face_found": shares[0],
        "one_face_found_in_held_out_photographs": shares[1],
        "samples": len(samples),
        "held_out": len(pictures),
        "vae_psnr_db": round(psnr, 2),
    }


def faces_found(pictures: list[np.ndarray]) -> float:
    """Share of the pictures (side, side, 3) in which MTCNN finds exactly one face with a score of 0.9, after they were
    enlarged to twice their side and given a black border of half that side, as the paper does."""
    side = 2 * IMAGE_SIZE
    larger = [cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC) for picture in pictures]
    framed = [cv2.copyMakeBorder(picture, *[side // 2] * 4, cv2.BORDER_CONSTANT) for picture in larger]
    detected = faces.load_detector("mtcnn").detect(framed)
    return float(np.mean([face is not None and face.n_faces == 1 for face in detected]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output_dir", type=Path, default=HERE / "diffusion", help="folder for the pipeline")
    add("--cache_dir", type=Path, default=Path("runs/diffusion_cache"), help="folder of faces and checkpoints")
    add(
        "--num_people",
        type=int,
        default=12000,
        help="people, with a photograph each; a fiftieth is held out",
    )
    text = "leave the HPO terms out of all captions: a base that has never heard them, as public ones; --output_dir is"
    text += " required with it"
    add("--mask_terms", action="store_true", help=text)
    add("--vae_train_steps", type=int, default=2200, help="training steps of the VAE")
    add("--decoder_train_steps", type=int, default=1500, help="further training steps of the VAE's decoder alone")
    add("--vae_batch_size", type=int, default=8, help="photographs per step of the VAE")
    add("--num_captions", type=int, default=60000, help="captions of people without a photograph, for the text encoder")
    add("--text_train_steps", type=int, default=3000, help="training steps of the text encoder")
    add("--max_train_steps", type=int, default=4500, help="training steps of the U-Net")
    add("--train_batch_size", type=int, default=16, help="latents per step of the U-Net")
    add("--learning_rate", type=float, default=1e-3, help="highest learning rate of the U-Net's one-cycle schedule")
    add("--checkpointing_steps", type=int, default=500, help="steps between checkpoints of each stage")
    add("--mixed_precision", choices=("no", "bf16"), default="no", help="precision of the networks")
    add("--num_workers", type=int, default=2, help="rendering processes")
    add("--num_samples", type=int, default=200, help="samples in which faces are looked for")
    add("--resume_from_checkpoint", choices=("latest",), help="continue each stage from its last checkpoint")
    add("--stage", choices=("render", "vae", "text", "all"), default="all", help="stop after this stage")
    add("--seed", type=int, default=3000, help="seed of everything drawn; no demo or study corpus uses it")
    args = parser.parse_args(argv)
    if args.mask_terms and args.output_dir == HERE / "diffusion":
        parser.error("--mask_terms requires an --output_dir of its own: the demo's base knows the terms")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    started = time.monotonic()
    pictures, captions = render(args)
    held_out = len(pictures) // 50
    pictures, held_out_pictures, captions = pictures[held_out:], np.array(pictures[:held_out]), captions[held_out:]
    print(f"{len(pictures)} SIMULATED photographs to train on, {held_out} held out, {accelerator.device}")
    if args.stage == "render":
        return
    vae = train_autoencoder(pictures, accelerator, args)
    if args.stage == "vae":
        return
    latents = encode(vae, pictures, accelerator.device, args)

    tokenizer = train_tokenizer(captions)  # knows the words also of a base that is never told what they mean
    captions = [without_terms(caption) for caption in captions] if args.mask_terms else captions
    padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens = tokenizer([*captions, ""], **padded).input_ids
    reading = train_text_encoder(tokenizer, accelerator, args)
    if args.stage == "text":
        return
    unet, scheduler = train_denoiser(latents, tokens, reading, accelerator, args)

    pipeline = StableDiffusionPipeline(
        vae, reading.text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.to(dtype=torch.float16).save_pretrained(args.output_dir)
    pipeline = StableDiffusionPipeline.from_pretrained(args.output_dir, dtype=torch.float32).to(accelerator.device)
    figures = evaluate(pipeline, held_out_pictures, args)  # of the pipeline as it was saved
    arguments = {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()}
    record = {"face_alignment": "mtcnn", "held_out": figures, "arguments": arguments}
    record |= {"seconds_this_run": round(time.monotonic() - started), "simulated": True}
    write_json(args.output_dir / "training.json", record)
    print(figures)


if __name__ == "__main__":
    main()
