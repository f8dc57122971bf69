"""How fast DreamBooth is: cached encoders, adapters trained together, and half the sampling steps, side by side.

    OMP_NUM_THREADS=1 python benchmarks/dreambooth_speed.py                              # the miniature, on the CPU
    python benchmarks/dreambooth_speed.py --shape sd15 --adapters_per_batch 1 4 8 16     # a GPU; random weights

The incumbent's way is that of the diffusers example: one adapter by peft, photograph and prompt encoded again in every
step. Ratios compare measurements of one run, whose order is reversed in every second round. Memory on a CPU is that of
a process of its own, without its imports; on a GPU that of all tensors, including the base model's."""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from curation import protocols
from demo_models import train_diffusion
from generation import diffusion_pipelines as diffusion
from generation import dreambooth, dreambooth_encoding, synthetic_images
from generation.routed_lora import UNET_LAYERS, clip_each_adapter
from generation.support_sets import Support
from harness.commands import Parser
from imaging import faces

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "photo of a child"


def open_base(args: argparse.Namespace) -> StableDiffusionPipeline:
    """The miniature, or networks of the size of Stable Diffusion 1.5 with random weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    pipeline = diffusion.open_pipeline(str(ROOT / "demo_models" / "diffusion"), dtype)
    if args.shape == "sd15":
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512],
            layers_per_block=2,
        )
        text_encoder = CLIPTextModel(CLIPTextConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072))
        parts = pipeline.components | {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False).to(dtype=dtype)
        for network in (unet, vae, text_encoder):
            network.requires_grad_(False).eval()
    return pipeline.to(device)


def settings() -> dreambooth.Training:
    """How the adapters are trained; nothing here changes what a step costs but rank and batch size."""
    return dreambooth.Training(
        seed=0,
        rank=4,
        lora_alpha=4.0,
        train_text_encoder=False,
        train_batch_size=1,
        max_train_steps=800,
        learning_rate=1e-4,
        max_grad_norm=1.0,
        with_prior_preservation=False,
        class_prompt=PROMPT,
        prior_loss_weight=1.0,
        checkpointing_steps=800,
    )


def supports_of(count: int) -> list[Support]:
    nothing, here = np.array([], dtype=np.int64), Path()
    fold = protocols.Fold(0, np.arange(count), nothing, nothing)
    return [Support(fold, f"C{k}", np.array([k]), [f"C{k}.1"], [PROMPT], here, here) for k in range(count)]


def our_step(pipeline: StableDiffusionPipeline, pixels: np.ndarray, k: int) -> Callable:
    """A training step of K adapters, over latents and embeddings that are computed once."""
    training, supports = settings(), supports_of(k)
    encoded = dreambooth_encoding.encode(pipeline, pixels, range(k), [PROMPT])
    routed = dreambooth.routed_adapters(pipeline, k, training)
    routed["unet"].start(list(range(k)))
    parameters = list(routed["unet"].parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)

    def step(number: int) -> None:
        batch = dreambooth.drawn_batch(supports, encoded, noising, number, training)
        dreambooth.adapter_losses(pipeline, routed, noising, batch, k, encoded.text, None).sum().backward()
        clip_each_adapter(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step.remove = routed["unet"].remove
    return step


def incumbent_step(pipeline: StableDiffusionPipeline, pixels: np.ndarray) -> Callable:
    """A training step of one adapter that encodes everything again."""
    unet, device = pipeline.unet, pipeline.device
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=list(UNET_LAYERS)))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)
    picture = torch.from_numpy(np.array(pixels[:1])).permute(0, 3, 1, 2)

    def step(number: int) -> None:
        with torch.no_grad():
            scaled = picture.to(device, unet.dtype) / 127.5 - 1
            clean = pipeline.vae.encode(scaled).latent_dist.sample() * pipeline.vae.config.scaling_factor
            words = diffusion.encode_prompts(pipeline, [PROMPT])
        noise, times = torch.randn_like(clean), torch.randint(1000, (1,), device=device)
        velocity = noising.config.prediction_type == "v_prediction"
        target = noising.get_velocity(clean, noise, times) if velocity else noise
        with torch.autocast(device.type, unet.dtype, enabled=unet.dtype != torch.float32):
            predicted = unet(noising.add_noise(clean, noise, times), times, words).sample
        torch.nn.functional.mse_loss(predicted.float(), target.float()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step.remove = unet.unload_lora
    return step


def seconds_per_step(make: Callable, steps: int) -> float:
    step = make()
    try:
        for number in range(2):  # to warm up
            step(number)
        wait_for_gpu()
        started = time.perf_counter()
        for number in range(steps):
            step(number)
        wait_for_gpu()
        return (time.perf_counter() - started) / steps
    finally:
        step.remove()


def wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_of(k: int, pipeline: StableDiffusionPipeline, pixels: np.ndarray, args: argparse.Namespace) -> float:
    """Peak memory in MiB during a few steps of K adapters, including the networks."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        seconds_per_step(lambda: our_step(pipeline, pixels, k), 2)
        return torch.cuda.max_memory_allocated() / 2**20
    answers = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=peak_of_process, args=(k, args, answers))
    process.start()
    peak = answers.get()
    process.join()
    return peak


def peak_of_process(k: int, args: argparse.Namespace, answers: multiprocessing.Queue) -> None:
    before = resident_peak()
    pipeline = open_base(args)
    pixels = some_pictures(args, pipeline)
    seconds_per_step(lambda: our_step(pipeline, pixels, k), 2)
    answers.put(resident_peak() - before)


def resident_peak() -> float:
    """The most memory that this process has held, in MiB. Linux only: getrusage also counts what its parent held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def some_pictures(args: argparse.Namespace, pipeline: StableDiffusionPipeline) -> np.ndarray:
    side = diffusion.native_side_px(pipeline)
    pictures = [train_diffusion.photograph_person(i, seed=90)[0] for i in range(max(args.adapters_per_batch))]
    return np.stack([cv2.resize(picture, (side, side)) for picture in pictures])


def training(pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> None:
    pixels = some_pictures(args, pipeline)
    ways = {"incumbent": lambda: incumbent_step(pipeline, pixels)}
    ways |= {k: lambda k=k: our_step(pipeline, pixels, k) for k in args.adapters_per_batch}
    times: dict = {way: [] for way in ways}
    for turn in range(args.rounds):
        for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            try:
                times[way].append(seconds_per_step(ways[way], args.steps))
            except torch.OutOfMemoryError:
                print(f"ours, {way} at once: out of memory")
                del ways[way], times[way]
    medians = {way: float(np.median(each)) for way, each in times.items()}
    alone = medians["incumbent"]
    print(f"one adapter, encoders in every step (diffusers' way): {1 / alone:.2f} steps/s")
    for k in [way for way in ways if way != "incumbent"]:
        memory = peak_of(k, pipeline, pixels, args)
        per_hour = 3600 * k / medians[k] / 800
        print(
            f"ours, {k:2d} at once, encoded once: {1 / medians[k]:.2f} steps/s, {per_hour:.1f} adapters of 800 steps "
            f"an hour, {alone * k / medians[k]:.2f} x the incumbent's, peak {memory:.0f} MiB",
            flush=True,
        )


def sampling(pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> None:
    """Compare 30 steps of the pipeline's own solver, as in the paper, with 15 steps of DPM-Solver++, from the same
    noise: the time, and the scores by which a filter selects."""
    detector = faces.load_detector("mtcnn")
    real = [train_diffusion.photograph_person(i, 91)[0] for i in range(args.num_real)]

    def faces_in(pictures: list[np.ndarray]) -> list:
        larger = [cv2.resize(picture, (256, 256), interpolation=cv2.INTER_CUBIC) for picture in pictures]
        framed = [cv2.copyMakeBorder(picture, 128, 128, 128, 128, cv2.BORDER_CONSTANT) for picture in larger]
        return [face for face in detector.detect(framed) if face is not None]

    def descriptors(detected: list) -> np.ndarray:
        landmarks, boxes = ([getattr(face, name) for face in detected] for name in ("landmarks", "box"))
        return faces.landmark_descriptor(np.stack(landmarks), np.stack(boxes))

    prototype = descriptors(faces_in(real)).mean(axis=0)
    words = [diffusion.encode_prompts(pipeline, [prompt]).detach() for prompt in (PROMPT, "")]
    own = pipeline.scheduler
    for name, steps in (("pipeline", 30), ("dpmsolver++", 15)):
        pipeline.scheduler = own
        diffusion.set_scheduler(pipeline, name)
        pictures, started = [], time.perf_counter()
        for start in range(0, args.num_samples, 10):
            seeds = [
                synthetic_images.image_seed(92, "speed", i) for i in range(start, min(start + 10, args.num_samples))
            ]
            repeated = [each.expand(len(seeds), -1, -1) for each in words]
            side = diffusion.native_side_px(pipeline)
            pictures += list(diffusion.sample(pipeline, *repeated, seeds, side, steps, args.guidance_scale)[0])
        took, detected = time.perf_counter() - started, faces_in(pictures)
        own_descriptors = descriptors(detected)
        cosines = own_descriptors @ prototype / np.linalg.norm(own_descriptors, axis=1) / np.linalg.norm(prototype)
        share, score = 100 * len(detected) / len(pictures), np.mean([face.score for face in detected])
        print(
            f"{name}, {steps} steps: {took / len(pictures):.3f} s an image, a face in {share:.1f} % of {len(pictures)},"
            f" mean score {score:.4f}, landmark cosine {cosines.mean():.5f}"
        )


def sampling_speed(pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> None:
    """Measure the time only, for networks with random weights."""
    words = [diffusion.encode_prompts(pipeline, [prompt]).detach() for prompt in (PROMPT, "")]
    own, side = pipeline.scheduler, diffusion.native_side_px(pipeline)
    for name, steps, batch in (("pipeline", 30, 1), ("pipeline", 30, 16), ("dpmsolver++", 15, 16)):
        pipeline.scheduler = own
        diffusion.set_scheduler(pipeline, name)
        repeated = [each.expand(batch, -1, -1) for each in words]
        for _ in range(2):  # the first one warms up
            wait_for_gpu()
            started = time.perf_counter()
            diffusion.sample(pipeline, *repeated, list(range(batch)), side, steps, args.guidance_scale)
        took = (time.perf_counter() - started) / batch
        print(f"{name}, {steps} steps, {batch} at once: {took:.3f} s an image of {side} px", flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--shape", choices=("miniature", "sd15"), default="miniature", help="which networks")
    add("--adapters_per_batch", type=int, nargs="+", default=[1, 4, 8], help="numbers of adapters to train together")
    add("--steps", type=int, default=10, help="steps per measurement")
    add("--rounds", type=int, default=3, help="measurements per way, of which the median counts")
    add("--num_samples", type=int, default=100, help="pictures per solver; 0: none")
    add("--num_real", type=int, default=60, help="simulated photographs with which the pictures are compared")
    add("--guidance_scale", type=float, default=3.0, help="weight of classifier-free guidance")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    pipeline = open_base(args)
    print(f"{args.shape}, {pipeline.unet.dtype}, {pipeline.device}, {torch.get_num_threads()} threads")
    training(pipeline, args)
    if args.num_samples:
        (sampling if args.shape == "miniature" else sampling_speed)(pipeline, args)


if __name__ == "__main__":
    main(parse_args())
