"""Cross-validated supervised benchmark: backbone features, a classifier per fold, predictions of every held-out image.

    accelerate launch train_classifier.py --dataset_name ./rdface --backbone densenet169.tv_in1k \\
        --recipe linear_probe --protocol strict --output_dir runs/probe

Writes predictions.parquet (probabilities of each held-out image), results.json (metrics.py's scores of that file) and
run.json (arguments, versions, dataset fingerprint, device, seconds). Also runs as plain `python train_classifier.py`.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

import faces
import metrics
import protocols
from backbones import Backbone, load_backbone
from built_dataset import load_images
from runs import InputError, fail, one_line, run_record, write_atomically, write_json

RECIPES = ("linear_probe",)
PACKAGES = ("torch", "torchvision", "timm", "datasets", "huggingface_hub", "accelerate", "numpy", "scikit-learn")


# --------------------------------------------------------------------------------------------------------- features


class Pixels(torch.utils.data.Dataset):
    """Rows of a dataset as (row, (3, size, size) float32): decoded on demand, one at a time, so memory stays flat."""

    def __init__(self, images: datasets.Dataset, backbone: Backbone, detector: faces.Detector | None = None):
        self.images, self.image_ids = images.select_columns("image"), images["image_id"]
        self.side_px, self.detector = backbone.image_size, detector
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor, bool]:
        """Row, normalised pixels, and whether a face was looked for in vain (then the whole image is taken)."""
        try:
            image = self.images[row]["image"].convert("RGB")
        except (OSError, ValueError, AttributeError) as error:  # AttributeError: the image is null
            reason = f"image {self.image_ids[row]} cannot be decoded ({one_line(error)})"
            raise InputError(f"{reason}; build the dataset again") from error
        face = self.detector.detect([image])[0] if self.detector else None
        if face is not None:
            image = faces.align(np.asarray(image), face.landmarks, self.side_px)
        else:  # without keeping the aspect ratio, as in the paper
            image = image.resize((self.side_px, self.side_px), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        return row, (pixels - self.mean) / self.std, self.detector is not None and face is None


def extract_features(
    accelerator: Accelerator, images: datasets.Dataset, backbone: Backbone, batch_size: int
) -> tuple[np.ndarray, int]:
    """The backbone's features of every image, (n, d) float64 of unit length, and how many faces were not found;
    the same on all processes.

    Unit length takes away the overall contrast of a photograph, and the scale of backbones whose features are large."""
    network = accelerator.prepare_model(backbone.network, evaluation_mode=True)
    detector = faces.load_detector(backbone.face_alignment, accelerator.device) if backbone.face_alignment else None
    pixels = Pixels(images, backbone, detector)
    loader = accelerator.prepare(torch.utils.data.DataLoader(pixels, batch_size=batch_size))
    features, missed = None, np.zeros(len(images), bool)
    with torch.inference_mode():
        for rows, batch, in_vain in tqdm(
            loader, desc="features", unit="batch", disable=not accelerator.is_main_process
        ):
            rows, batch, in_vain = accelerator.gather_for_metrics((rows, network(batch).float().flatten(1), in_vain))
            if features is None:
                features = np.full((len(images), batch.shape[1]), np.nan)
            features[rows.cpu().numpy()] = batch.cpu().numpy()  # by row: what fills up the last batch changes nothing
            missed[rows.cpu().numpy()] = in_vain.cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise InputError(
            f"image {images['image_id'][bad[0]]}: features are not finite; launch with --mixed_precision no"
        )
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), int(missed.sum())


# ----------------------------------------------------------------------------------------------------- linear probe
# The head is linear discriminant analysis. With two to four photographs of each of a hundred conditions a logistic
# regression has nothing to learn the directions of pose, light and age from but the few images of each class; the
# covariance *within* classes pools them over all classes, and is what discriminant analysis divides by. It is shrunk
# towards a sphere (Friedman, JASA 1989), by an amount chosen on inner folds, and each class mean is drawn towards the
# overall mean as if one more image of the class lay there: a mean of one image is mostly that image's noise.

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.0)  # 1 is the nearest class mean
TEMPERATURES = tuple(2.0**power for power in range(-4, 9))  # scores are divided by it: calibration, ranks stay
INNER_FOLDS = 3
FALLBACK = (0.6, 1.0)  # where no condition of a training side has two groups, nothing can be chosen


@dataclasses.dataclass
class LinearProbe:
    """softmax((features @ weights.T + biases) / temperature) over the classes it was trained on."""

    classes: np.ndarray  # (c,) class numbers with training images
    weights: np.ndarray  # (c, d)
    biases: np.ndarray  # (c,)
    shrinkage: float
    temperature: float = 1.0

    def probabilities(self, features: np.ndarray, n_classes: int) -> np.ndarray:
        """features (n, d) to (n, n_classes), rows add up to 1; a class without training images gets 0."""
        scores = (features @ self.weights.T + self.biases) / self.temperature
        likelihoods = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = np.zeros((len(features), n_classes))
        probabilities[:, self.classes] = likelihoods / likelihoods.sum(axis=1, keepdims=True)
        return probabilities


def fit_discriminants(features: np.ndarray, labels: np.ndarray, shrinkages: Sequence[float]) -> list[LinearProbe]:
    """Shrunk linear discriminants, one for each shrinkage in 0..1 (not 0), all from one decomposition.

    features (n, d), labels (n,). Covariance (1 - s) W + s tr(W)/d I with W the covariance within classes."""
    classes, label, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centre = features.mean(axis=0)
    centred = features - centre
    means = np.stack([centred[label == c].mean(axis=0) for c in range(len(classes))])  # (c, d)
    _, scales, axes = np.linalg.svd(centred - means[label], full_matrices=False)  # axes (r, d), r = min(n, d)
    variances = scales**2 / max(len(features) - len(classes), 1)
    mean_variance = variances.sum() / features.shape[1] or centred.var()  # no class with two images: overall variance
    means *= (counts / (counts + 1))[:, None]
    probes = []
    for shrinkage in shrinkages:
        outside = 1 / (shrinkage * mean_variance)  # precision where no residual points
        inside = 1 / ((1 - shrinkage) * variances + shrinkage * mean_variance)
        weights = means * outside + ((means @ axes.T) * (inside - outside)) @ axes  # means @ precision
        biases = -0.5 * (means * weights).sum(axis=1) - weights @ centre
        probes.append(LinearProbe(classes, weights, biases, shrinkage))
    return probes


def fit_linear_probe(features: np.ndarray, labels: np.ndarray, groups: Sequence[str], n_classes: int) -> LinearProbe:
    """A linear probe whose shrinkage and temperature have the least log loss on inner folds of the images given.

    features (n, d), labels (n,), groups (n,) of one training side: nothing else is looked at, and a group never
    straddles inner folds. Deterministic."""
    fold = np.array([-1 if k is None else k for k in protocols.strict_folds(labels.tolist(), groups, INNER_FOLDS)])
    loss = np.zeros((len(SHRINKAGES), len(TEMPERATURES)))
    for k in sorted(set(fold[fold >= 0].tolist())):
        held_out = fold == k
        train = ~held_out & ~np.isin(groups, np.asarray(groups)[held_out])
        for i, probe in enumerate(fit_discriminants(features[train], labels[train], SHRINKAGES)):
            for j, probe.temperature in enumerate(TEMPERATURES):
                own = probe.probabilities(features[held_out], n_classes)[np.arange(held_out.sum()), labels[held_out]]
                loss[i, j] -= np.log(np.maximum(own, 1e-12)).sum()
    shrinkage, temperature = FALLBACK
    if (fold >= 0).any():
        i, j = np.unravel_index(loss.argmin(), loss.shape)
        shrinkage, temperature = SHRINKAGES[i], TEMPERATURES[j]
    (probe,) = fit_discriminants(features, labels, [shrinkage])
    probe.temperature = temperature
    return probe


# ---------------------------------------------------------------------------------------------------------- results


def fold_predictions(
    images: datasets.Dataset,
    labels: np.ndarray,
    fold: protocols.Fold,
    probe: LinearProbe,
    features: np.ndarray,
    constants: dict,
) -> list[dict]:
    """One row of predictions.parquet for each held-out image of a fold."""
    n_classes = images.features["label"].num_classes
    image_ids, groups = images["image_id"][:], images["group_id"][:]
    return [
        {
            "image_id": image_ids[row],
            "label": int(labels[row]),
            "fold": fold.number,
            "split": split,
            "probabilities": probabilities,
            "subject": groups[row],
            **constants,
        }
        for split, side in (("val", fold.val), ("test", fold.test))
        if len(side)
        for row, probabilities in zip(side.tolist(), probe.probabilities(features[side], n_classes), strict=True)
    ]


def predictions_features(label: datasets.ClassLabel) -> datasets.Features:
    """Columns of predictions.parquet; label keeps the class names."""
    text, number = datasets.Value("string"), datasets.Value("int32")
    return datasets.Features(
        {
            "image_id": text,
            "label": label,
            "protocol": text,
            "fold": number,
            "split": text,
            "seed": datasets.Value("int64"),
            "backbone": text,
            "recipe": text,
            "probabilities": datasets.List(datasets.Value("float32"), length=label.num_classes),
            "subject": text,
        }
    )


# ------------------------------------------------------------------------------------------------------------ script


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.error = lambda message: fail(f"{message}; see --help", 2)
    add = parser.add_argument
    add("--dataset_name", required=True, help="folder of a built dataset, or ORG/NAME on the Hub")
    add("--dataset_config_name", help="real or restored; None is the dataset's default config")
    add("--backbone", required=True, help="timm name, torchvision/NAME, or folder of a model in timm's layout")
    add("--backbone_weights", type=Path, help=".safetensors or .pth file to read instead of downloading")
    add("--image_size", type=int, help="side of the square input in px; None is the backbone's own")
    how = "detector to cut faces out with, or none for the whole image; None is as the backbone's config.json says"
    add("--align_faces", choices=[*sorted(faces.DETECTORS), "none"], help=how)
    add("--recipe", choices=RECIPES, default="linear_probe", help="how a fold's classifier is made")
    add("--protocol", choices=protocols.PROTOCOLS, default="strict", help="which of the dataset's folds")
    add("--fold", type=fold_number, default="all", help="all, or the number of one fold")
    add("--eval_batch_size", type=int, default=32, help="images in a step of one process")
    add("--shuffle_labels", action="store_true", help="control: labels permuted over all images; expect chance")
    add("--seed", type=int, default=0, help="of training; the linear probe has no randomness but --shuffle_labels")
    add("--output_dir", type=Path, required=True, help="folder for the results; those of an earlier run are replaced")
    args = parser.parse_args(argv)
    for flag in ("eval_batch_size", "image_size"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    return args


def fold_number(text: str) -> int | None:
    """The number, or None for "all"."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither all nor the number of a fold")
    return None if text == "all" else int(text)


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    accelerator = Accelerator()
    if not accelerator.is_main_process:
        datasets.disable_progress_bars()

    with accelerator.main_process_first():  # the first one fills the caches
        images = load_images(args.dataset_name, args.dataset_config_name)
    label_names, groups = images.features["label"].names, np.array(images["group_id"][:], dtype=str)
    labels = np.array(images["label"][:])
    # Permuted over all images, before fitting and scoring: only the link of face and condition is cut. Top-30 then lies
    # a little below chance, because holding an image out leaves its own condition one image less to learn from.
    if args.shuffle_labels:
        labels = np.random.default_rng(args.seed).permutation(labels)
    folds = protocols.folds(images, args.protocol, args.fold)
    for fold in folds:
        protocols.check_fold(fold, groups, images["image_id"][:])
    with accelerator.main_process_first():
        backbone = load_backbone(args.backbone, args.backbone_weights, args.image_size)
    if args.align_faces:
        backbone.face_alignment = None if args.align_faces == "none" else args.align_faces
    aligned = f"faces aligned by {backbone.face_alignment}" if backbone.face_alignment else "whole images"
    accelerator.print(
        f"{args.dataset_name} ({'folder' if Path(args.dataset_name).is_dir() else 'Hub'}, config {images.config_name}, "
        f"fingerprint {images._fingerprint}): {len(images)} images, {len(label_names)} classes\n"
        f"{args.backbone} at {backbone.image_size} px, {aligned}, {args.recipe}, protocol {args.protocol}, "
        f"{len(folds)} folds, "
        f"{accelerator.num_processes} processes on {accelerator.device}"
    )

    features, faces_missed = extract_features(accelerator, images, backbone, args.eval_batch_size)
    if faces_missed:
        accelerator.print(f"no face found in {faces_missed} of {len(images)} images: these are taken whole")
    if accelerator.is_main_process:
        constants = {
            "protocol": args.protocol,
            "seed": args.seed,
            "backbone": args.backbone,
            "recipe": args.recipe + (", shuffled labels" if args.shuffle_labels else ""),
        }
        rows, heads = [], []
        for fold in folds:
            train = fold.train
            probe = fit_linear_probe(features[train], labels[train], groups[train], len(label_names))
            rows += fold_predictions(images, labels, fold, probe, features, constants)
            heads.append({"fold": fold.number, "shrinkage": probe.shrinkage, "temperature": probe.temperature})
        save_results(
            args,
            accelerator,
            images,
            rows,
            {"heads": heads, "face_alignment": backbone.face_alignment, "faces_missed": faces_missed},
            started,
        )
    accelerator.wait_for_everyone()
    accelerator.end_training()


def save_results(
    args: argparse.Namespace,
    accelerator: Accelerator,
    images: datasets.Dataset,
    rows: list[dict],
    findings: dict,
    started: float,
) -> None:
    """Predictions first; the scores are made from the file just written, so it alone is enough to repeat them."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    names = ("predictions.parquet", "results.json", "run.json")
    predictions, results, record = (args.output_dir / name for name in names)
    for stale in (results, record):  # numbers of an earlier run must not stand beside other predictions
        stale.unlink(missing_ok=True)
    datasets.disable_progress_bars()  # what is left takes a moment
    table = datasets.Dataset.from_list(rows, features=predictions_features(images.features["label"]))
    write_atomically(predictions, lambda file: table.to_parquet(str(file)))
    scores = metrics.score(metrics.read_predictions(predictions))
    write_json(results, scores)
    cuda = accelerator.device.type == "cuda"
    content = run_record(args, PACKAGES, started) | {
        "dataset": {"fingerprint": images._fingerprint, "config_name": images.config_name, "n_images": len(images)},
        "seeds": [args.seed],
        **findings,
        "device": torch.cuda.get_device_name(accelerator.device) if cuda else str(accelerator.device),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(accelerator.device) if cuda else None,
        "n_processes": accelerator.num_processes,
    }
    write_json(record, content)
    print(metrics.format_table(scores))
    print(f"written: {predictions}, {results}, {record}")


if __name__ == "__main__":
    try:
        main(parse_args())
    except (InputError, protocols.ProtocolError) as error:
        fail(str(error), 2)
    except protocols.LeakError as error:
        fail(str(error), 1)
