"""Measures what the incumbent's way of training costs and what ours costs, side by side, in one process.

    python benchmarks/incumbent_way.py --dataset_name runs/demo/rdface-sim

The incumbent's way, as in public notebooks of the field: every epoch of every fold opens, decodes and resizes each
image; float32, channels first, 5 folds x 50 epochs, the validation fold decoded and scored after each epoch. Ours:
pixels decoded once into the cache, channels_last, bf16 if the processor has it; and for a frozen backbone one pass over
all images. One epoch of each is measured, in turn; the totals are computed from these. Weights may be random, because
they do not change the time. The last part trains one fold in float32 and in bf16 and compares the predictions."""

import argparse
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from PIL import Image

from classification.backbones import Backbone, load_backbone, normalise
from classification.classifiers import build_classifier
from classification.fine_tuning import Checkpoint, Settings, fit, predict, training_batches
from classification.linear_probe import fit_linear_probe
from classification.study_inputs import Study, extract_features
from curation import protocols
from curation.leak_guard import Guard
from curation.opening import load_images, photograph_sha256
from imaging.pixel_cache import Pixels, cached_pixels
from scoring import metrics

FOLDS, EPOCHS = 5, 50  # the paper's


def incumbent_epoch(
    classifier: torch.nn.Module, photographs: list[bytes], labels: torch.Tensor, backbone: Backbone, n_val: int
) -> tuple[float, float]:
    """Seconds that one epoch spends on reading images, and in total; the first n_val photographs validate.

    photographs (n,): encoded; labels (n,): class numbers."""
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-4, weight_decay=1e-4)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    side = backbone.image_size

    def opened(encoded: bytes) -> torch.Tensor:
        image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255 - mean) / std

    data_s, started = 0.0, time.perf_counter()
    n = len(photographs)
    for train, rows in ((True, n_val + torch.randperm(n - n_val)), (False, torch.arange(n_val))):
        classifier.train(train)
        for batch in rows.split(32):
            before = time.perf_counter()
            pixels = torch.stack([opened(photographs[row]) for row in batch.tolist()])
            data_s += time.perf_counter() - before
            with torch.set_grad_enabled(train):
                loss = torch.nn.functional.cross_entropy(classifier(pixels), labels[batch])
            if train:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return data_s, time.perf_counter() - started


def our_data_s(pixels: Pixels, train: np.ndarray, held_out: np.ndarray, backbone: Backbone) -> float:
    """Seconds to read an epoch's pixels from the cache and to normalise them."""
    started = time.perf_counter()
    for rows in (train, held_out):
        for batch in training_batches(rows, 32, torch.Generator().manual_seed(0)):
            normalise(pixels.uint8[batch], backbone, torch.device("cpu"))
    return time.perf_counter() - started


def our_fit(precision: str, study: Study, guard: Guard, epochs: int, name: str) -> tuple[float, np.ndarray]:
    """Seconds taken by the training loop of train_classifier.py, and its probabilities for the fold's test images.

    name: of the backbone."""
    AcceleratorState._reset_state(reset_partial_state=True)  # otherwise a process keeps its first precision
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    settings, no_checkpoint = Settings(learning_rate=1e-4, num_train_epochs=epochs), Checkpoint(Path("none"), {})
    set_seed(0)
    classifier = build_classifier(study.backbone, study.label.num_classes, "finetune", name)
    started = time.perf_counter()
    model, _ = fit(accelerator, classifier, study.backbone, study.pixels, study.labels, guard, settings, no_checkpoint)
    seconds = time.perf_counter() - started
    return seconds, predict(accelerator, model, study.backbone, study.pixels, guard.fold.test, 32)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--dataset_name", required=True, help="folder of a built dataset")
    parser.add_argument("--backbone", default="torchvision/resnet18", help="built with random weights, unless a folder")
    parser.add_argument(
        "--repeats", type=int, default=3, help="epochs to measure of each way, in turn; medians are printed"
    )
    parser.add_argument(
        "--num_images", type=int, default=160, help="images in a measured epoch; times are scaled to the whole fold"
    )
    parser.add_argument(
        "--quality_epochs", type=int, default=10, help="epochs for the comparison of float32 and bf16; 0: none"
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    datasets.disable_progress_bars()
    images = load_images(args.dataset_name)
    backbone = load_backbone(args.backbone, pretrained=Path(args.backbone).is_dir())
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    print(
        f"{args.dataset_name}: {len(images)} images; {args.backbone} at {backbone.image_size} px, whole images; "
        f"{torch.get_num_threads()} threads; the processor has {'' if has_bf16 else 'no '}bf16"
    )
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        pixels = cached_pixels(Accelerator(cpu=True), images, backbone.image_size, None, Path(cache))
        cache_s = time.perf_counter() - started
        columns = {"image_id": images["image_id"][:], "label": images["label"][:], "subject": images["group_id"][:]}
        study = Study(images, photograph_sha256(images), pd.DataFrame(columns), backbone, pixels=pixels)
        epoch = epochs_side_by_side(args, study, cache_s)
        frozen_backbone(study, epoch, cache_s)
        if args.quality_epochs:
            quality(args, study)


def epochs_side_by_side(args: argparse.Namespace, study: Study, cache_s: float) -> float:
    """Print what an epoch of each way costs; returns the seconds of an incumbent's epoch over a whole fold."""
    (fold,) = protocols.folds(study.images, "strict", 0)
    measured = np.sort(np.random.default_rng(0).permutation(fold.train)[: args.num_images])
    held_out, train = np.split(measured, [len(measured) // FOLDS])  # the share that a fold of five holds out
    guard = Guard(protocols.Fold(0, train, held_out[:0], held_out), study.images)
    encoded = study.images.cast_column("image", datasets.Image(decode=False))
    photographs = [encoded[int(row)]["image"]["bytes"] for row in measured]
    targets = torch.from_numpy(study.labels[measured])
    seconds: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        classifier = build_classifier(study.backbone, study.label.num_classes, "finetune", args.backbone)
        data_s, epoch_s = incumbent_epoch(classifier, photographs, targets, study.backbone, len(held_out))
        seconds.setdefault("incumbent's data", []).append(data_s)
        seconds.setdefault("incumbent", []).append(epoch_s)
        seconds.setdefault("our data", []).append(our_data_s(study.pixels, train, held_out, study.backbone))
        for precision, name in (("no", "ours, float32"), ("bf16", "ours, bf16")):
            started = time.perf_counter()
            our_fit(precision, study, guard, 1, args.backbone)  # with the pass over the held-out part
            seconds.setdefault(name, []).append(time.perf_counter() - started)
    scale = len(fold.train) / len(train)
    median = {name: scale * statistics.median(values) for name, values in seconds.items()}
    print(f"an epoch of {len(fold.train)} images (scaled from {len(train)}), medians of {args.repeats}:")
    for name in ("incumbent", "ours, float32", "ours, bf16"):
        data_s = median["incumbent's data" if name == "incumbent" else "our data"]
        print(
            f"  {name:<14}{median[name]:8.2f} s: data {data_s:.3f} s, model compute "
            f"{100 * (1 - data_s / median[name]):.1f} %, {median['incumbent'] / median[name]:.2f} x the speed"
        )
    less = median["incumbent's data"] / median["our data"]
    print(f"  data: {less:.1f} x less an epoch, after decoding {len(study.labels)} images once in {cache_s:.1f} s")
    return median["incumbent"]


def frozen_backbone(study: Study, incumbent_epoch_s: float, cache_s: float) -> None:
    """Print what a linear probe costs: one pass over all images, then five probes with their inner folds."""
    started = time.perf_counter()
    study.features = extract_features(Accelerator(cpu=True), study, np.arange(len(study.labels)), 32)
    features_s = time.perf_counter() - started
    for fold in protocols.folds(study.images, "strict"):
        fit_linear_probe(study.features, study.labels, study.groups, fold.train, Guard(fold, study.images))
    probe_s = time.perf_counter() - started + cache_s
    fine_tuning_s = FOLDS * EPOCHS * incumbent_epoch_s
    print(
        f"linear probe, {FOLDS} folds: {probe_s:.1f} s, of it decoding {cache_s:.1f} s and features {features_s:.1f} s"
    )
    print(
        f"incumbent's fine-tuning, {FOLDS} folds x {EPOCHS} epochs, extrapolated: {fine_tuning_s:.0f} s, "
        f"{fine_tuning_s / probe_s:.0f} x the probe"
    )


def quality(args: argparse.Namespace, study: Study) -> None:
    """Print how well a model trained in float32 and one trained in bf16 predict: one fold, the same seed."""
    (fold,) = protocols.folds(study.images, "strict", 0)
    truth = study.labels[fold.test]
    print(f"fold 0, {args.quality_epochs} epochs, the same seed, {len(truth)} held-out images:")
    for precision, name in (("no", "float32"), ("bf16", "bf16")):
        guard = Guard(fold, study.images)
        fit_s, probabilities = our_fit(precision, study, guard, args.quality_epochs, args.backbone)
        top1, top5 = (100 * metrics.topk_accuracy(probabilities, truth, k) for k in (1, 5))
        loss = float(metrics.negative_log_likelihood(probabilities, truth)[0])
        print(f"  {name:<8} {fit_s:.0f} s: top-1 {top1:.1f} %, top-5 {top5:.1f} %, log loss {loss:.3f}")


if __name__ == "__main__":
    main(parse_args())
