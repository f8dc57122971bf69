"""Cross-validated supervised benchmark: backbone features, a classifier per fold, predictions of every held-out image.

    accelerate launch train_classifier.py --dataset_name ./rdface --backbone densenet169.tv_in1k \\
        --recipe linear_probe --protocol strict --output_dir runs/probe

Writes predictions.parquet (probabilities of each held-out image), results.json (metrics.py's scores of that file) and
run.json (arguments, versions, dataset fingerprint, device, seconds). Also runs as plain `python train_classifier.py`.
"""

import argparse
import dataclasses
import difflib
import json
import os
import platform
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import datasets
import huggingface_hub
import numpy as np
import timm
import torch
import torchvision
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

import metrics
import protocols

RECIPES = ("linear_probe",)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InputError(Exception):
    """Something the user can put right; the message is one line that says what and how. Exit code 2."""


# ---------------------------------------------------------------------------------------------------------- dataset


def load_images(name: str, config_name: str | None = None) -> datasets.Dataset:
    """The images of a built dataset: a folder, or ORG/NAME on the Hub. Raises InputError, at once, where it cannot."""
    folder = Path(name).is_dir()
    if not folder:
        on_hub = name.startswith("hf://") or (name.count("/") == 1 and name[0] not in "./~")
        if not on_hub:
            raise InputError(
                f"dataset {name}: there is no such folder; give a built one (rdface_dataset.py) or ORG/NAME"
            )
        work_offline_where_the_hub_is_unreachable()
    try:
        images = datasets.load_dataset(str(Path(name).resolve()) if folder else name, config_name, split="train")
    except datasets.exceptions.DatasetNotFoundError as error:
        reason = f"{_one_line(error)} If it is gated, ask for access on its page and log in with hf auth login"
        raise InputError(f"dataset {name}: {reason}") from error
    except ConnectionError as error:
        reason = f"{_one_line(error)}, and there is no such folder; give the path of a copy"
        raise InputError(f"dataset {name}: {reason}") from error
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(f"dataset {name}: {_one_line(error)}; build it with rdface_dataset.py") from error
    missing = {"image", "image_id", "label", "group_id"} - set(images.column_names)
    if missing:
        raise InputError(f"dataset {name}: column {sorted(missing)[0]} is missing; build it with rdface_dataset.py")
    if not isinstance(images.features["label"], datasets.ClassLabel):
        raise InputError(f"dataset {name}: column label is no ClassLabel; build it with rdface_dataset.py")
    return images


def work_offline_where_the_hub_is_unreachable() -> None:
    """One request of at most 5 s decides; otherwise every look-up of a cached file spends 25 s on retries."""
    question = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(question, timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# --------------------------------------------------------------------------------------------------------- backbone


@dataclasses.dataclass
class Backbone:
    """A frozen network that turns (b, 3, image_size, image_size) normalised RGB into (b, d) features."""

    network: torch.nn.Module
    image_size: int  # px, square
    mean: Sequence[float]  # of RGB in 0..1
    std: Sequence[float]


def load_backbone(name: str, weights: Path | None = None, image_size: int | None = None) -> Backbone:
    """The pretrained network called `name`, in evaluation mode and without its classifier.

    name: a timm name (`resnet152.tv2_in1k`), `torchvision/NAME`, or a folder with config.json and model.safetensors in
    timm's layout; weights: a .safetensors or .pth file to read instead (only tensors, never unpickled); image_size:
    side of the square input in px, where it should not be the backbone's own. Raises InputError where it cannot."""
    if weights is not None and not weights.is_file():
        raise InputError(f"--backbone_weights {weights}: no such file; give a .safetensors or .pth file")
    if name.startswith("torchvision/"):
        backbone = _torchvision_backbone(name.removeprefix("torchvision/"), weights)
        backbone.image_size = image_size or backbone.image_size
    else:
        backbone = _timm_backbone(name, weights, image_size)
    backbone.network.eval().requires_grad_(False)
    return backbone


def _torchvision_backbone(name: str, weights: Path | None) -> Backbone:
    # Left out: two with another normalisation than ImageNet's, and one whose files need more than their tensors.
    known = torchvision.models.list_models(torchvision.models, exclude=["googlenet", "inception_v3", "mnasnet*"])
    if name not in known:
        raise InputError(f"torchvision has no model {name!r}{_did_you_mean(name, known)}")
    published = torchvision.models.get_model_weights(name).DEFAULT
    network = torchvision.models.get_model(name, weights=None)
    if weights is None:
        try:
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
        except OSError as error:
            cache = Path(torch.hub.get_dir()) / "checkpoints"
            raise InputError(
                f"weights of torchvision/{name} are neither in {cache} nor to be had from {published.url} "
                f"({_one_line(error)}); give a file with --backbone_weights"
            ) from error
    else:
        state = read_weights(weights)
    # The last Linear or Conv2d of every torchvision classifier makes the classes; what enters it is the feature.
    makes_classes = torch.nn.Linear | torch.nn.Conv2d
    classifier = [key for key, layer in network.named_modules() if isinstance(layer, makes_classes)][-1]
    network.set_submodule(classifier, torch.nn.Identity())
    load_weights(network, state, (classifier,), f"torchvision/{name}", weights or published.url)
    return Backbone(network, published.transforms().crop_size[0], IMAGENET_MEAN, IMAGENET_STD)


def _timm_backbone(name: str, weights: Path | None, image_size: int | None) -> Backbone:
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and not timm.is_model(name):
        close = _did_you_mean(name, timm.list_models())
        raise InputError(f"backbone {name}: no such folder or timm model{close}; torchvision's are torchvision/NAME")
    if folder is not None and not (folder / "config.json").is_file():
        raise InputError(f"backbone {name}: the folder has no config.json; save the model in timm's layout")
    if folder is not None and weights is None:
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise InputError(f"weights of {name}: {weights} is missing; put it there or give --backbone_weights FILE")
    source = f"local-dir:{folder}" if folder else name
    if weights is None:
        work_offline_where_the_hub_is_unreachable()
    try:
        network = timm.create_model(source, pretrained=weights is None, num_classes=0)
        if image_size is not None and network.pretrained_cfg.get("fixed_input_size"):  # position embeddings follow it
            network = timm.create_model(source, pretrained=weights is None, num_classes=0, img_size=image_size)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if weights is not None:
            raise InputError(f"backbone {name}: {_one_line(error)}") from error
        cache = huggingface_hub.constants.HF_HUB_CACHE
        raise InputError(
            f"weights of {name} are neither in {cache} nor to be had from {huggingface_hub.constants.ENDPOINT} "
            f"({type(error).__name__}); give a file with --backbone_weights or a folder with --backbone"
        ) from error
    if weights is not None:
        classifier = network.pretrained_cfg.get("classifier") or ()
        classifier = (classifier,) if isinstance(classifier, str) else classifier
        load_weights(network, read_weights(weights), classifier, name, weights)
    config = timm.data.resolve_model_data_config(network)
    return Backbone(network, image_size or config["input_size"][-1], config["mean"], config["std"])


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or a .pth state dict, also one inside a training checkpoint."""
    try:
        return timm.models.load_state_dict(str(file), weights_only=True)
    except Exception as error:  # each format has its own: UnpicklingError, SafetensorError, RuntimeError, EOFError
        reason = f"{type(error).__name__}, {_one_line(error).split('. ')[0]}"
        raise InputError(f"weights {file}: {reason}; give a .safetensors file or a plain state dict") from error


def load_weights(
    network: torch.nn.Module, state: dict, classifier: Sequence[str], name: str, source: Path | str
) -> None:
    """Load `state`; its tensors must be the network's, except those of the classifier, which has been removed."""
    removed = tuple(f"{part}." for part in classifier)
    state = {key: tensor for key, tensor in state.items() if not key.startswith(removed)}
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    resized = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    problems = [
        f"{len(keys)} tensors {what} (first {sorted(keys)[0]})"
        for keys, what in ((missing, "missing"), (unknown, "unknown"), (resized, "of another shape"))
        if keys
    ]
    if problems:
        raise InputError(f"weights {source} do not fit {name}: {', '.join(problems)}; check --backbone and the file")
    network.load_state_dict(state)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.split(".")[0], known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


# --------------------------------------------------------------------------------------------------------- features


class Pixels(torch.utils.data.Dataset):
    """Rows of a dataset as (row, (3, size, size) float32): decoded on demand, one at a time, so memory stays flat."""

    def __init__(self, images: datasets.Dataset, backbone: Backbone):
        self.images, self.image_ids = images.select_columns("image"), images["image_id"]
        self.size = (backbone.image_size, backbone.image_size)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor]:
        try:
            image = self.images[row]["image"].convert("RGB")
        except (OSError, ValueError, AttributeError) as error:  # AttributeError: the image is null
            reason = f"image {self.image_ids[row]} cannot be decoded ({_one_line(error)})"
            raise InputError(f"{reason}; build the dataset again") from error
        image = image.resize(self.size, Image.Resampling.BICUBIC)  # without keeping the aspect ratio, as in the paper
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        return row, (pixels - self.mean) / self.std


def extract_features(
    accelerator: Accelerator, images: datasets.Dataset, backbone: Backbone, batch_size: int
) -> np.ndarray:
    """The backbone's features of every image, (n, d) float64 of unit length, the same on all processes.

    Unit length takes away the overall contrast of a photograph, and the scale of backbones whose features are large."""
    network = accelerator.prepare_model(backbone.network, evaluation_mode=True)
    loader = accelerator.prepare(torch.utils.data.DataLoader(Pixels(images, backbone), batch_size=batch_size))
    features = None
    with torch.inference_mode():
        for rows, pixels in tqdm(loader, desc="features", unit="batch", disable=not accelerator.is_main_process):
            rows, batch = accelerator.gather_for_metrics((rows, network(pixels).float()))
            if features is None:
                features = np.full((len(images), batch.shape[1]), np.nan)
            features[rows.cpu().numpy()] = (
                batch.cpu().numpy()
            )  # by row: one that fills up the last batch changes nothing
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise InputError(
            f"image {images['image_id'][bad[0]]}: features are not finite; launch with --mixed_precision no"
        )
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a file of a temporary name beside `path`, which then takes its place: whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, lambda file: file.write_text(json.dumps(content, indent=2, default=str) + "\n"))


def git_commit() -> str | None:
    """The commit this script belongs to, with -dirty where files differ from it; None outside of a repository."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = Path(__file__).resolve().parent
    try:
        run = subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return run.stdout.strip() or None


def run_record(args: argparse.Namespace, accelerator: Accelerator, images: datasets.Dataset, started: float) -> dict:
    """What is needed to repeat a run, and what it cost."""
    packages = ("torch", "torchvision", "timm", "datasets", "huggingface_hub", "accelerate", "numpy", "scikit-learn")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cuda = accelerator.device.type == "cuda"
    return {
        "arguments": vars(args),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "git_commit": git_commit(),
        "dataset": {"fingerprint": images._fingerprint, "config_name": images.config_name, "n_images": len(images)},
        "seeds": [args.seed],
        "wall_s": round(time.monotonic() - started, 2),
        "peak_memory_bytes": peak if sys.platform == "darwin" else 1024 * peak,  # elsewhere it counts KiB
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(accelerator.device) if cuda else None,
        "device": torch.cuda.get_device_name(accelerator.device) if cuda else str(accelerator.device),
        "n_processes": accelerator.num_processes,
    }


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
    accelerator.print(
        f"{args.dataset_name} ({'folder' if Path(args.dataset_name).is_dir() else 'Hub'}, config {images.config_name}, "
        f"fingerprint {images._fingerprint}): {len(images)} images, {len(label_names)} classes\n"
        f"{args.backbone} at {backbone.image_size} px, {args.recipe}, protocol {args.protocol}, {len(folds)} folds, "
        f"{accelerator.num_processes} processes on {accelerator.device}"
    )

    features = extract_features(accelerator, images, backbone, args.eval_batch_size)
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
        save_results(args, accelerator, images, rows, heads, started)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def save_results(
    args: argparse.Namespace,
    accelerator: Accelerator,
    images: datasets.Dataset,
    rows: list[dict],
    heads: list[dict],
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
    write_json(record, {**run_record(args, accelerator, images, started), "heads": heads})
    print(metrics.format_table(scores))
    print(f"written: {predictions}, {results}, {record}")


def fail(message: str, code: int) -> NoReturn:
    """One line on standard error, from the main process only, and exit."""
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(30)  # the launcher ends this process once the main one has said why and left; otherwise it speaks
    print(f"train_classifier.py: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (InputError, protocols.ProtocolError) as error:
        fail(str(error), 2)
    except protocols.LeakError as error:
        fail(str(error), 1)
