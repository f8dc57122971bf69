"""Draws a simulated corpus in the curator's input layout, with ground truth for every photograph.

    python simulate_faces.py --output_dir rdface-sim-raw

HPO terms move face parameters (`phenotypes.py`), a person is drawn with them (`simulated_people.py`), painted
(`face_painting.py`), and the photograph is degraded as real ones are. Conditions, genes, codes and term frequencies are
real ORPHA and HPO facts; every person and every photograph is SIMULATED. Output: disease_images.csv,
rd_images/<ABBR>/<ABBR>.<n>.jpg, ground_truth.parquet, contact_sheet_simulated.png, SIMULATED.txt, run.json."""

import argparse
import contextlib
import csv
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

import phenotypes
from face_model import LANDMARK_NAMES
from face_painting import paint_face
from runs import (
    InputError,
    begin_command,
    check_replaceable,
    fail,
    full_disk_named,
    one_line,
    path_argument,
    run_record,
    sole_writer,
    stopped_status,
    write_json,
)
from simulated_people import COUNTRY_ANCESTRY, Person, draw_person, draw_view, write_report

SHARED_PATIENT_RATE = 0.15  # of images whose patient has another image, re-encoded copies included
COPY_RATE = 0.024  # of images that are a re-encoded copy of another
DEGRADED_RATE = 0.35
DEGRADATIONS = ("low_resolution", "blur", "noise", "jpeg", "black_and_white", "border", "dark")
TABLE = pa.schema(
    [
        ("image_name", pa.string()),
        ("disease_abbr", pa.string()),
        ("subject", pa.string()),
        ("duplicate_of", pa.string()),
        ("quality_level", pa.int8()),
        ("degradations", pa.list_(pa.string())),
        ("box", pa.list_(pa.float32(), 4)),
        ("landmarks", pa.list_(pa.list_(pa.float32(), 2))),
        ("landmarks_dense", pa.list_(pa.list_(pa.float32(), 2))),
        ("parameters", pa.list_(pa.float32())),
        ("present_terms", pa.list_(pa.string())),
        ("absent_terms", pa.list_(pa.string())),
        ("age_years", pa.float32()),
        ("sex", pa.string()),
        ("country", pa.string()),
        ("report", pa.string()),
    ]
)


@dataclass(frozen=True)
class Photograph:
    """One row of the corpus. `taken`: which photograph it shows (a re-encoded copy shows another row's)."""

    number: int
    image_name: str
    condition: phenotypes.Condition
    person: int
    taken: int
    duplicate_of: str | None
    country: str


# ---- photographs
def degrade(
    picture: np.ndarray, points: np.ndarray, kinds: list[str], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What happens to a photograph before it reaches a dataset. picture (s, s, 3) uint8, points (n, 2) px; the size
    stays."""
    size = picture.shape[0]
    if "border" in kinds:  # a scanned print: the picture shrinks inside a plain frame
        margin = rng.uniform(0.03, 0.09)
        inner = max(8, round(size * (1 - 2 * margin)))
        offset = (size - inner) // 2
        framed = np.full_like(picture, int(rng.choice([0, 255])))
        framed[offset : offset + inner, offset : offset + inner] = cv2.resize(
            picture, (inner, inner), interpolation=cv2.INTER_AREA
        )
        picture, points = framed, (points + 0.5) * (inner / size) - 0.5 + offset
    if "dark" in kinds:
        picture = (255 * np.power(picture / 255.0, rng.uniform(1.5, 2.1)) * rng.uniform(0.75, 1.0)).astype(np.uint8)
    if "low_resolution" in kinds:
        small = max(8, round(size * rng.uniform(0.16, 0.34)))
        picture = cv2.resize(
            cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA),
            (size, size),
            interpolation=cv2.INTER_CUBIC,
        )
    if "blur" in kinds:
        picture = cv2.GaussianBlur(picture, (0, 0), size * rng.uniform(0.004, 0.009))
    if "black_and_white" in kinds:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        grey = (grey - 128) * rng.uniform(0.75, 1.15) + 128 + rng.uniform(-10, 15) + rng.normal(0, 5, grey.shape)
        picture = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if "noise" in kinds:
        picture = np.clip(picture + rng.normal(0, rng.uniform(8, 18), picture.shape), 0, 255).astype(np.uint8)
    return picture, points


def copied(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same photograph as another publication shows it: cropped a little, framed, grey, or only rescaled. The side
    may change."""
    size = picture.shape[0]
    if rng.random() < 0.3:
        cut = rng.integers(0, max(1, round(0.03 * size)), 4)
        picture, points = picture[cut[0] : size - cut[1], cut[2] : size - cut[3]], points - [cut[2], cut[0]]
    if rng.random() < 0.3:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    scale = rng.uniform(0.55, 0.95)
    height, width = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    points = (points + 0.5) * [width / picture.shape[1], height / picture.shape[0]] - 0.5
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.25:
        margin = int(rng.integers(2, max(3, round(0.06 * size))))
        picture = cv2.copyMakeBorder(
            picture, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=[int(rng.choice([0, 255]))] * 3
        )
        points = points + margin
    return picture, points


def take(
    photograph: Photograph, size: int, seed: int, effect: float = 2.5
) -> tuple[np.ndarray, np.ndarray, Person, list[str], int]:
    """The photograph's pixels (h, w, 3) uint8, landmarks (n, 2) px, person, degradations and JPEG quality; a function
    of the seed alone."""
    person = draw_person(
        photograph.condition, photograph.country, np.random.default_rng([seed, 1, photograph.person]), effect
    )
    rng = np.random.default_rng([seed, 2, photograph.taken])
    later = rng.choice([0.0, rng.uniform(0.1, 2.0)])  # photographs of one person may be years apart
    age = float(np.clip(person.age_years + later, 0.05, 17.9))
    person = replace(person, age_years=age, look=replace(person.look, age_years=age))
    view = draw_view(rng)
    kinds = []
    if rng.random() < DEGRADED_RATE:
        kinds = rng.choice(DEGRADATIONS, 1 if rng.random() < 0.6 else 2, replace=False).tolist()
    picture, points = paint_face(person.z, person.look, view, size)
    picture, points = degrade(picture, points, kinds, rng)
    quality = int(rng.integers(18, 45)) if "jpeg" in kinds else int(rng.integers(86, 96))
    if photograph.duplicate_of:
        rng = np.random.default_rng([seed, 3, photograph.number])
        picture, points = copied(picture, points, rng)
        quality = int(rng.integers(40, 85))
    return picture, points, person, sorted(kinds), quality


def face_box(points: np.ndarray) -> list[float]:
    """x1, y1, x2, y2 px round the face as detectors draw it: cheek to cheek, middle of the forehead to chin."""
    at = {name: points[i] for i, name in enumerate(LANDMARK_NAMES)}
    sides = [at[f"{name}_image_{side}"][0] for name in ("cheek", "gonion") for side in ("left", "right")]
    top = 0.5 * (at["hairline"][1] + at["brow_peak_image_left"][1])
    return [float(min(sides)), float(top), float(max(sides)), float(at["chin"][1])]


# ---- the corpus
def class_sizes(num_images: int, num_conditions: int, rng: np.random.Generator) -> np.ndarray:
    """Images of each condition: about 5 % have one, the others two to seven (times num_images / 456 where there are
    more), num_images in all."""
    if num_images < 2 * num_conditions:
        extra = rng.permutation(num_conditions) < num_images - num_conditions
        return 1 + extra.astype(int)
    largest = max(7, round(7 * num_images / (4.43 * num_conditions)))
    singletons = max(1, round(0.05 * num_conditions)) if num_conditions > 4 else 0
    sizes = rng.integers(2, largest + 1, num_conditions)
    rest = np.arange(num_conditions - singletons)
    while (gap := num_images - singletons - sizes[rest].sum()) != 0:
        room = rest[sizes[rest] < largest] if gap > 0 else rest[sizes[rest] > 2]
        chosen = rng.permutation(room)[: abs(gap)] if len(room) else rest[: abs(gap)]
        sizes[chosen] += np.sign(gap)
    sizes[len(rest) :] = 1
    return rng.permutation(sizes)


def plan_corpus(num_images: int, conditions: tuple[phenotypes.Condition, ...], seed: int) -> list[Photograph]:
    """Who is photographed how often, and which photographs occur twice."""
    rng = np.random.default_rng([seed, 0])
    sizes = class_sizes(num_images, len(conditions), rng)
    condition_of = np.repeat(np.arange(len(conditions)), sizes)
    person_of, duplicate_of = np.arange(num_images), np.full(num_images, -1)
    copies, shared = round(COPY_RATE * num_images), round(SHARED_PATIENT_RATE * num_images)
    joined = np.zeros(num_images, bool)
    for later in rng.permutation(num_images):  # link pairs of images of one condition until enough share a patient
        if joined.sum() + 2 > shared:
            break
        partners = np.flatnonzero((condition_of == condition_of[later]) & ~joined)
        partners = partners[partners < later]
        if joined[later] or not len(partners):
            continue
        first = int(rng.choice(partners))
        person_of[later] = person_of[first]
        if (duplicate_of >= 0).sum() < copies:
            duplicate_of[later] = first
        joined[[first, later]] = True
    people = np.unique(person_of)
    countries = list(COUNTRY_ANCESTRY)
    home = dict(
        zip(
            people,
            np.concatenate([rng.permutation(len(countries)) for _ in range(len(people) // len(countries) + 1)]),
            strict=False,
        )
    )
    numbers = np.arange(num_images) - np.concatenate([[0], np.cumsum(sizes)])[condition_of] + 1
    names = [f"{conditions[c].abbr}.{n}.jpg" for c, n in zip(condition_of, numbers, strict=True)]
    return [
        Photograph(
            i,
            names[i],
            conditions[condition_of[i]],
            int(person_of[i]),
            int(duplicate_of[i]) if duplicate_of[i] >= 0 else i,
            names[duplicate_of[i]] if duplicate_of[i] >= 0 else None,
            countries[home[person_of[i]]],
        )
        for i in range(num_images)
    ]


def develop(photograph: Photograph, folder: Path, size: int, seed: int, effect: float) -> tuple[dict, dict]:
    """Write one photograph; returns its row of disease_images.csv and its row of ground_truth.parquet."""
    cv2.setNumThreads(1)
    picture, points, person, kinds, quality = take(photograph, size, seed, effect)
    condition = photograph.condition
    Image.fromarray(picture).save(folder / "rd_images" / condition.abbr / photograph.image_name, quality=quality)
    rng = np.random.default_rng([seed, 4, photograph.number])
    age = f"{round(12 * person.age_years)} months" if person.age_years < 1 else f"{person.age_years:.1f}"
    recorded = photograph.duplicate_of is None and rng.random() < 0.6
    row = {
        "image_name": photograph.image_name,
        "disease_name": condition.name,
        "disease_abbr": condition.abbr,
        "sub_category": condition.sub_category,
        "gene_name": ";".join(condition.genes),
        "orphanet_code": condition.orphanet_code,
        "subject_id": ""
        if photograph.duplicate_of
        else f"sim-{photograph.person:05d}",  # a copy's patient is unknown, as in real collections
        "age": age if rng.random() < 0.95 else "",
        "sex": person.sex if rng.random() < 0.97 else "",
        "country": person.country,
        "hpo_ids": ";".join(person.present) if recorded else "",
        "source_type": "simulated",
        "source_url": "",
        "license": "CC0-1.0",
    }
    truth = {
        "image_name": photograph.image_name,
        "disease_abbr": condition.abbr,
        "subject": f"sim-{photograph.person:05d}",
        "duplicate_of": photograph.duplicate_of,
        "quality_level": len(kinds),
        "degradations": kinds,
        "box": face_box(points),
        "landmarks": points[:5].tolist(),
        "landmarks_dense": points.tolist(),
        "parameters": [person.z[name] for name in phenotypes.parameters()],
        "present_terms": list(person.present),
        "absent_terms": list(person.absent),
        "age_years": person.age_years,
        "sex": person.sex,
        "country": person.country,
        "report": write_report(person, rng),
    }
    return row, truth


def contact_sheet(paths: list[Path], columns: int = 10, side: int = 128) -> Image.Image:
    sheet = Image.new("RGB", (columns * side, -(-len(paths) // columns) * side))
    for i, path in enumerate(paths):
        with Image.open(path) as picture:
            sheet.paste(
                picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS),
                (i % columns * side, i // columns * side),
            )
    return sheet


def simulate(folder: Path, photographs: list[Photograph], args: argparse.Namespace) -> None:
    for condition in {p.condition.abbr for p in photographs}:
        (folder / "rd_images" / condition).mkdir(parents=True)
    work = partial(develop, folder=folder, size=args.image_size, seed=args.seed, effect=args.effect)
    schema = TABLE.with_metadata(
        {
            "landmark_names": ",".join(LANDMARK_NAMES),
            "parameter_names": ",".join(phenotypes.parameters()),
            "simulated": "true",
            "hpo_release": phenotypes.HPO_RELEASE,
            "seed": str(args.seed),
            "effect": str(args.effect),
        }
    )
    with (
        open(folder / "disease_images.csv", "w", newline="", encoding="utf-8") as table,
        pq.ParquetWriter(folder / "ground_truth.parquet", schema) as truths,
        process_pool(args.num_workers) as pool,
        contextlib.ExitStack() as afterwards,
    ):
        out, pending = None, []
        afterwards.callback(pool.shutdown, wait=False, cancel_futures=True)  # after Ctrl-C no more than is begun
        with workers_spared():
            results: Iterator[tuple[dict, dict]] = pool.map(work, photographs, chunksize=4)
        progress = tqdm(results, total=len(photographs), desc="simulated photographs", unit="image")
        for row, truth in afterwards.enter_context(progress):
            if out is None:
                out = csv.DictWriter(table, list(row), lineterminator="\n")
                out.writeheader()
            out.writerow(row)
            pending.append(truth)
            if len(pending) == 256:
                truths.write_table(pa.Table.from_pylist(pending, schema))
                pending = []
        if pending:
            truths.write_table(pa.Table.from_pylist(pending, schema))
    chosen = np.linspace(0, len(photographs) - 1, min(40, len(photographs))).round().astype(int)
    contact_sheet(
        [folder / "rd_images" / photographs[i].condition.abbr / photographs[i].image_name for i in chosen]
    ).save(folder / "contact_sheet_simulated.png")
    (folder / "SIMULATED.txt").write_text(
        "Every person, photograph and report in this folder is simulated (RDFace simulate_faces.py, "
        f"seed {args.seed}). Condition names, genes, codes and term frequencies: HPO and Orphanet, "
        f"release {phenotypes.HPO_RELEASE}.\n"
    )


def process_pool(num_workers: int) -> ProcessPoolExecutor:
    """Processes that start anew: a fork of one whose libraries have threads may hang."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=belong_to_parent)


def belong_to_parent() -> None:
    """In a worker: hear no signal that is sent to the whole group, as Ctrl-C is, and end when its parent is gone."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # drops one that came before
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def workers_spared() -> Iterator[None]:
    """Processes started here hear of no end before they belong to their parent, which then ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output_dir",
        type=path_argument,
        required=True,
        help="new folder for the simulated corpus; never called 'rdface'",
    )
    parser.add_argument("--num_images", type=int, default=456, help="photographs in all, at least one a condition")
    parser.add_argument(
        "--num_conditions",
        type=int,
        default=phenotypes.NUM_STUDY_CONDITIONS,
        help="the most informative conditions, from --first_condition on",
    )
    parser.add_argument(
        "--first_condition",
        type=int,
        default=0,
        help=f"rank to start at; from {phenotypes.NUM_STUDY_CONDITIONS} on they are outside the study",
    )
    parser.add_argument("--image_size", type=int, default=512, help="side in px")
    parser.add_argument("--effect", type=float, default=2.5, help="effect of a term in SD of individual variation")
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count(), help="processes; the corpus does not depend on it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    args = parser.parse_args(argv)
    available = len(phenotypes.conditions()) - args.first_condition
    if not 0 < args.num_conditions <= available or args.first_condition < 0:
        parser.error(
            f"--num_conditions must be 1 to {max(available, 0)} from --first_condition {args.first_condition}; "
            f"conditions.csv has {len(phenotypes.conditions())}"
        )
    if args.num_images < args.num_conditions:
        parser.error(
            f"--num_images {args.num_images} is fewer than --num_conditions {args.num_conditions}; "
            "every condition needs an image"
        )
    if args.image_size < 32 or args.num_workers < 1 or args.seed < 0:
        parser.error("--image_size must be at least 32, --num_workers at least 1 and --seed not negative")
    if args.output_dir.name == "rdface":
        parser.error(
            "--output_dir must not be called rdface: simulated data would shadow the real dataset; use rdface-sim"
        )
    if args.output_dir.exists() and (not args.output_dir.is_dir() or any(args.output_dir.iterdir())):
        parser.error(f"--output_dir {args.output_dir} exists and is not an empty folder; give another or delete it")
    return args


def main(argv: list[str] | None = None) -> None:
    args, started = parse_args(argv), time.monotonic()
    conditions = phenotypes.conditions()[args.first_condition : args.first_condition + args.num_conditions]
    photographs = plan_corpus(args.num_images, conditions, args.seed)
    print(
        f"{len(photographs)} SIMULATED photographs of {len({p.person for p in photographs})} people "
        f"with {len(conditions)} conditions, "
        f"{args.image_size} px, seed {args.seed}, {args.num_workers} processes"
    )
    target = Path(os.path.realpath(args.output_dir))
    partial_folder = target.with_name(f".{target.name}.partial")  # renamed when whole: never taken for a corpus
    with (
        sole_writer(target),
        full_disk_named(target.parent, "make room, or choose another --output_dir"),
        contextlib.ExitStack() as afterwards,
    ):
        check_replaceable(target)
        shutil.rmtree(partial_folder, ignore_errors=True)
        afterwards.callback(shutil.rmtree, partial_folder, ignore_errors=True)
        partial_folder.mkdir()
        simulate(partial_folder, photographs, args)
        record = run_record(args, ("numpy", "opencv-python", "pillow", "pyarrow"), started)
        write_json(partial_folder / "run.json", record | {"seeds": [args.seed], "device": "cpu", "simulated": True})
        if target.exists():
            target.rmdir()
        partial_folder.rename(target)
    print(
        f"written: {args.output_dir}/disease_images.csv, rd_images/, ground_truth.parquet, contact_sheet_simulated.png"
    )


if __name__ == "__main__":
    begin_command()
    try:
        main()
    except InputError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"failed: {one_line(error)}", 1)
    except BrokenProcessPool:
        fail("a process was ended from outside, as when memory runs out; give a smaller --num_workers", 1)
    except KeyboardInterrupt as stop:
        fail("interrupted; nothing is left of the corpus", stopped_status(stop))
