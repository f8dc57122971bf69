"""After a withdrawal, is anything of the photograph left? Searches a folder tree before and after, by what files hold.

    python benchmarks/withdrawn_traces.py --work_dir runs/withdrawn --results benchmarks/results/withdrawn_traces.json
    export HF_HOME=runs/hub; make demo; python benchmarks/withdrawn_traces.py --work_dir runs --study runs/demo

Makes a small SIMULATED study as a user would: build, a linear probe, retrieval in a gallery, result page, page of the
dataset, a list of likely conditions; DreamBooth that is killed (SIGKILL) once its first checkpoint is there, DreamBooth
to its end, FastGAN and the filter killed likewise, the filter to its end, reports. Then one photograph that all these
saw is withdrawn. The search does not ask the project where anything lies. In every file below the folder, hidden ones
too, and in the caches of the libraries, it looks for

- pieces of the photograph's bytes, its SHA-256, and its identifier as a word;
- its pixels: pictures in files, pages, Parquet and Arrow rows and arrays are compared at any size, in colour or grey,
  whole, without the border and as the aligned face (correlation of thumbnails; the threshold is above that of any
  other photograph);
- its embedding: rows of arrays and of lists that have the width of the backbone's features (cosine above 0.999).

Before the withdrawal it must find each kind: a search that finds nothing proves nothing. What may be left is the line
in withdrawn.csv and the curator's folder, which the command names.

--study withdraws from a study that was run before, such as the demo; everything below --work_dir is searched, so the
libraries' caches (HF_HOME) should lie there, too."""

import argparse
import base64
import io
import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.killed_demo import records_of
from classification.backbones import load_backbone, normalise
from curation import withdrawn_list
from harness.commands import Parser, path_argument
from harness.files import write_json
from imaging import faces

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = ROOT / "demo_models" / "backbone"
PRELOADED = ("torch", "datasets", "accelerate", "diffusers", "timm", "transformers", "sklearn.linear_model", "lpips")
PRELOADED += ("facenet_pytorch", "insightface", "peft", "torchvision", "matplotlib.pyplot", "mlcroissant", "pandas")
THUMBNAIL_PX = 24
MIN_CORRELATION = 0.97  # of grey thumbnails: re-encoded and resized ones reach 0.99
MIN_COSINE = 0.999
PIECE_BYTES, PIECES = 40, 12  # of the photograph's file
BYTES, DIGEST, NAME, PIXELS, EMBEDDING = "bytes", "digest", "identifier", "pixels", "embedding"
KINDS = (BYTES, DIGEST, NAME, PIXELS, EMBEDDING)
MIN_SIDE_PX = 16


class Wanted:
    """What is searched for of one photograph."""

    def __init__(self, dataset: Path, image_id: str):
        (row,) = [row for row in pq.read_table(dataset / "real").to_pylist() if row["image_id"] == image_id]
        content, self.image_id, self.sha256 = row["image"]["bytes"], image_id, row["sha256"]
        places = np.linspace(len(content) // 4, len(content) - 2 * PIECE_BYTES, PIECES).astype(int)
        self.pieces = [content[place : place + PIECE_BYTES] for place in places]
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        (face,) = faces.load_detector("mtcnn").detect([picture])
        backbone = load_backbone(str(BACKBONE))
        views = [np.asarray(picture)]
        views += [faces.align(views[0], face.landmarks, side) for side in (128, backbone.image_size)] if face else []
        self.thumbnails = np.stack([thumbnail(view) for view in views])
        self.shows_face = face is not None
        squares = [np.asarray(Image.fromarray(view).resize([backbone.image_size] * 2)) for view in views]
        with torch.inference_mode():
            features = backbone.network(normalise(np.stack(squares), backbone, "cpu")).float().flatten(1).numpy()
        forms = [features, np.sign(features) * np.sqrt(np.abs(features))]
        self.embeddings = unit(np.concatenate(forms))
        self.word = re.compile(rf"(?<![\w.]){re.escape(image_id)}(?!\w)".encode())

    def seen(self, pixels: np.ndarray) -> bool:
        return min(pixels.shape[:2]) >= MIN_SIDE_PX and bool(
            (self.thumbnails @ thumbnail(pixels)).max() > MIN_CORRELATION
        )

    def embedded(self, rows: np.ndarray) -> bool:
        return bool((unit(rows) @ self.embeddings.T > MIN_COSINE).any())


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A grey thumbnail of mean 0 and length 1: products of two are correlations."""
    grey = pixels.astype(np.float32) if pixels.ndim == 2 else pixels[..., :3].astype(np.float32).mean(axis=2)
    small = cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.nan_to_num(np.asarray(rows, np.float32))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


# ---- the search


def search(folder: Path, wanted: Wanted, spared: list[Path]) -> dict[str, list[str]]:
    """Files below a folder that hold something of the photograph, with the kinds of what they hold."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(place) for place in spared):
            kinds = sorted(kinds_in(path.read_bytes(), path.name, wanted), key=KINDS.index)
            if kinds:
                found[path.relative_to(folder).as_posix()] = kinds
    return found


def kinds_in(content: bytes, name: str, wanted: Wanted) -> set[str]:
    kinds = {BYTES} if any(piece in content for piece in wanted.pieces) else set()
    kinds |= {DIGEST} if wanted.sha256.encode() in content else set()
    kinds |= {NAME} if wanted.word.search(content) else set()
    if content.startswith(b"PAR1"):
        kinds |= in_table(content, wanted)
    for picture in pictures_in(content, name):
        kinds |= {PIXELS} if in_picture(picture, wanted) else set()
    for array in arrays_in(content):
        kinds |= in_array(array, wanted)
    return kinds


def in_table(content: bytes, wanted: Wanted) -> set[str]:
    """Of a Parquet file: texts, pictures, and lists of numbers."""
    kinds = set()
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError):  # half a file
        return kinds
    for column in table.columns:
        for value in column.to_pylist():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, str):
                    kinds |= {NAME} if wanted.word.search(part.encode()) else set()
                    kinds |= {DIGEST} if wanted.sha256 in part else set()
                elif isinstance(part, dict) and part.get("bytes"):
                    kinds |= kinds_in(part["bytes"], "", wanted)
            if isinstance(value, list) and len(value) == wanted.embeddings.shape[1]:
                kinds |= in_array(np.array([value], float), wanted)
    return kinds


def pictures_in(content: bytes, name: str) -> Iterator[np.ndarray]:
    """Pictures in a file of pictures, and those in a page."""
    encoded = [content] if content[:8].startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")) else []
    if name.endswith(".html"):
        encoded = [base64.b64decode(one) for one in re.findall(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)", content)]
    for one in encoded:
        try:
            yield np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))
        except OSError:
            continue


def in_picture(picture: np.ndarray, wanted: Wanted) -> bool:
    """Whether a picture shows the photograph, as a whole or as one of the tiles of a sheet."""
    if wanted.seen(picture):
        return True
    height, width = picture.shape[:2]
    if max(height, width) < 2 * 64:
        return False
    grey = cv2.resize(picture.mean(axis=2).astype(np.float32), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for view in wanted.thumbnails:
        for side in np.unique(np.geomspace(THUMBNAIL_PX, min(grey.shape), 24).astype(int)):
            tile = cv2.resize(view.reshape(THUMBNAIL_PX, THUMBNAIL_PX), (int(side), int(side)))
            if cv2.matchTemplate(grey, tile, cv2.TM_CCOEFF_NORMED).max() > MIN_CORRELATION:
                return True
    return False


def arrays_in(content: bytes) -> Iterator[np.ndarray]:
    """Arrays in .npy, .npz, .safetensors and PyTorch files, whole or half written, whatever these are called."""
    if content.startswith(b"\x93NUMPY"):
        yield from numpy_array(content)
    elif content.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.namelist():
                    if member.endswith(".npy"):
                        yield from numpy_array(archive.read(member))
        except zipfile.BadZipFile:
            return
        try:
            yield from tensors_of(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        except Exception:  # of an archive that is no PyTorch file
            return
    elif len(content) > 9 and content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        yield from safetensors_arrays(content)


def numpy_array(content: bytes) -> Iterator[np.ndarray]:
    try:
        yield np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return


def safetensors_arrays(content: bytes) -> Iterator[np.ndarray]:
    from safetensors.torch import load

    try:
        yield from tensors_of(load(content))
    except Exception:  # of a file that only looks like one
        return


def tensors_of(value: object) -> Iterator[np.ndarray]:
    if isinstance(value, torch.Tensor):
        yield value.float().numpy() if value.is_floating_point() else value.numpy()
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of(part)


def in_array(array: np.ndarray, wanted: Wanted) -> set[str]:
    """Of an array (..., h, w), (..., h, w, 3) or (..., 3, h, w) of pixels, or (..., d) of embeddings."""
    kinds, width = set(), wanted.embeddings.shape[1]
    if array.ndim >= 1 and array.shape[-1] == width and array.dtype.kind == "f":
        kinds |= {EMBEDDING} if wanted.embedded(array.reshape(-1, width)) else set()
    if array.ndim >= 2 and array.dtype == np.uint8:
        shapes = [array.shape[-3:]] if array.shape[-1] == 3 and array.ndim >= 3 else [array.shape[-2:]]
        for shape in shapes:
            if min(shape[:2]) >= MIN_SIDE_PX:
                flat = array.reshape(-1, *shape)
                kinds |= {PIXELS} if any(wanted.seen(one) for one in flat) else set()
    return kinds


# ---- the study


def started(script: str, flags: tuple, log: Path) -> BaseProcess:
    """A command in a process of its own, forked from one that has imported the libraries, which take 20 s."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_command, args=(script, list(map(str, flags)), log))
    process.start()
    return process


def _command(script: str, flags: list[str], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(ROOT / script), *flags]
    runpy.run_path(sys.argv[0], run_name="__main__")


def run(script: str, *flags: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        process = started(script, flags, log := Path(folder) / "log")
        process.join()
        if process.exitcode:
            raise SystemExit(f"{script} failed: {log.read_text().strip().splitlines()[-1:]}")


def run_until(pattern: str, folder: Path, script: str, *flags: object) -> bool:
    """Starts a command and kills it (SIGKILL) once a file of this pattern is in the folder; whether it was killed."""
    process = started(script, flags, Path(os.devnull))
    while process.is_alive() and not any(folder.rglob(pattern)):
        time.sleep(0.02)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def make_study(work: Path, generators: bool, launch=run, killed=run_until) -> list[str]:
    """Runs the commands; returns what was run. launch, killed: start a command, to its end or until a file is there."""
    dataset, data = work / "rdface-sim", ("--dataset_name", work / "rdface-sim")
    cache = ("--cache_dir", work / "pixels")
    steps = ["build"]
    launch("rdface_dataset.py", "build", work / "raw", "--output_dir", dataset)
    probe = (*data, *cache, "--backbone", BACKBONE, "--recipe", "linear_probe", "--output_dir", work / "runs" / "probe")
    launch("train_classifier.py", *probe)
    retrieval = (*data, *cache, "--backbone", BACKBONE, "--mode", "gallery", "--output_dir", work / "runs" / "few")
    launch("train_fewshot.py", *retrieval)
    launch("make_report.py", "gallery", dataset, "--output_file", work / "gallery.html")
    results = ("results", work / "runs" / "probe", *data, "--output_file", work / "results.html")
    launch("make_report.py", *results)
    (work / "prior.csv").write_text("condition,prevalence\n" + "".join(f"{name},1\n" for name in conditions(dataset)))
    listed = ("--prior", work / "prior.csv", "--output_file", work / "differential.csv")
    launch("score_runs.py", "differential", work / "runs" / "probe", *listed)
    steps += ["probe", "retrieval", "gallery", "result page", "differential"]
    if not generators:
        return steps
    base = ("--pretrained_model_name_or_path", ROOT / "demo_models" / "diffusion", "--fold", 0, "--rank", 2)
    dream = (*data, *cache, *base, "--adapters_per_batch", 4, "--num_inference_steps", 5, "--num_images", 2)
    half = work / "runs" / "killed_dreambooth"
    if killed("*.pt", half, "train_dreambooth.py", *dream, "--max_train_steps", 5000, "--output_dir", half):
        steps.append("DreamBooth killed")
    whole = work / "runs" / "dreambooth"
    launch("train_dreambooth.py", *dream, "--max_train_steps", 4, "--output_dir", whole)
    gan = (*data, *cache, "--fold", 0, "--resolution", 64, "--base_channels", 8, "--snapshot_steps", 20)
    half = work / "runs" / "killed_fastgan"
    if killed("*.pt", half, "train_fastgan.py", *gan, "--max_train_steps", 5000, "--output_dir", half):
        steps.append("FastGAN killed")
    synthetic = ("--synthetic_dataset", whole / "fold0" / "synthetic", "--fold", 0, "--show_real")
    half = work / "runs" / "killed_filter"
    if killed("*.npz", half, "filter_synthetic.py", *data, *cache, *synthetic, "--output_dir", half):
        steps.append("filter killed")
    launch("filter_synthetic.py", *data, *cache, *synthetic, "--output_dir", work / "runs" / "filtered")
    report = ("generate", "--reporter", ROOT / "demo_models" / "reporter", "--align_faces", "mtcnn", *cache)
    launch("vlm_report_eval.py", *report, *data, "--output_dir", work / "runs" / "reports")
    return [*steps, "DreamBooth", "filter", "reports"]


def conditions(dataset: Path) -> list[str]:
    rows = pq.read_table(dataset / "real", columns=["disease_abbr"]).to_pylist()
    return sorted({row["disease_abbr"] for row in rows})


def chosen_photograph(dataset: Path, of: Collection[str] = ()) -> Wanted:
    """A photograph with a face on the training side of fold 0, of a condition that has others; of: the conditions that
    are asked for, all without any."""
    rows = pq.read_table(dataset / "real", columns=["image_id", "disease_abbr", "strict_fold"]).to_pylist()
    count = Counter(row["disease_abbr"] for row in rows)
    trains = [row for row in rows if row["strict_fold"] not in (0, None) and count[row["disease_abbr"]] > 2]
    trains = [row for row in trains if not of or row["disease_abbr"] in of]
    return next(wanted for row in trains if (wanted := Wanted(dataset, row["image_id"])).shows_face)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--work_dir", type=path_argument, required=True, help="new folder for everything")
    text = "folder of a study that was run before, below --work_dir, with raw and rdface-sim; nothing else is made"
    parser.add_argument("--study", type=path_argument, metavar="DIR", help=text)
    parser.add_argument("--num_images", type=int, default=40, help="simulated photographs")
    parser.add_argument("--num_conditions", type=int, default=8, help="their conditions")
    parser.add_argument("--image_size", type=int, default=256, help="side of a photograph in px")
    parser.add_argument("--seed", type=int, default=81, help="seed of the simulation")
    text = "leave out generators, filter and reports, which take minutes"
    parser.add_argument("--without_generators", action="store_true", help=text)
    parser.add_argument("--results", type=path_argument, metavar="FILE", help="JSON file for the figures")
    return parser.parse_args(argv)


def main(args: argparse.Namespace, launch=run, killed=run_until) -> None:
    work = args.work_dir.resolve()
    if launch is run and not args.study:  # before the first process is started
        os.environ["HF_HOME"] = str(work / "hub")  # of the commands, so that the search sees the libraries' caches
    if args.study:
        place = args.study.resolve()
        steps = sorted(record.stem for record in records_of(place / "steps"))
        wanted = chosen_photograph(place / "rdface-sim", {adapter.name for adapter in place.glob("*/fold0/adapters/*")})
    else:
        place = work
        sizes = ("--num_images", args.num_images, "--num_conditions", args.num_conditions)
        sizes += ("--image_size", args.image_size, "--seed", args.seed)
        launch("simulate_faces.py", "--output_dir", place / "raw", *sizes)
        steps = make_study(place, not args.without_generators, launch, killed)
        wanted = chosen_photograph(place / "rdface-sim")
    dataset, spared = place / "rdface-sim", [place / "raw"]
    image_id = wanted.image_id
    before = search(work, wanted, spared)
    print(f"SIMULATED study: {', '.join(steps)}; {image_id} is withdrawn")
    print(f"before: {len(before)} files; " + ", ".join(f"{kind} {n}" for kind, n in kinds_of(before).items()))
    launch("publish_dataset.py", "withdraw", dataset, image_id)
    after = search(work, wanted, spared)
    allowed = (dataset / withdrawn_list.LIST_NAME).relative_to(work).as_posix()
    left = {name: kinds for name, kinds in after.items() if name != allowed}
    print(f"after: {len(left)} files besides {allowed} and the curator's folder")
    for name, kinds in left.items():
        print(f"  {name}: {', '.join(kinds)}")
    figures = {
        "simulated": True,
        "steps": steps,
        "files_before": kinds_of(before),
        "left": left,
        "listed": allowed in after,
    }
    if args.results:
        write_json(args.results, figures)
    print(json.dumps(figures))


def kinds_of(found: dict[str, list[str]]) -> dict[str, int]:
    return {kind: sum(kind in kinds for kinds in found.values()) for kind in KINDS}


if __name__ == "__main__":
    main(parse_args())
