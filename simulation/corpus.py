"""Plans and writes a simulated corpus in the curator's input layout, with the ground truth of every photograph."""

import contextlib
import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from harness import real_or_simulated
from harness.worker_processes import process_pool, workers_spared
from phenotyping import phenotypes
from simulation.face_geometry import LANDMARK_NAMES
from simulation.people import COUNTRY_ANCESTRY, write_report
from simulation.photography import Photograph, face_box, take

SHARED_PATIENT_RATE = 0.15  # of images whose patient has another image, re-encoded copies included
COPY_RATE = 0.024  # of images that are a re-encoded copy of another
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


def class_sizes(num_images: int, num_conditions: int, rng: np.random.Generator) -> np.ndarray:
    """(num_conditions,) number of images of each condition; they add up to num_images.

    About 5 % of the conditions have one image, the others two to seven, or proportionally more if there are more than
    456 images."""
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
    """Decides who is photographed how often, and which photographs occur twice; a function of the seed."""
    rng = np.random.default_rng([seed, 0])
    sizes = class_sizes(num_images, len(conditions), rng)
    condition_of = np.repeat(np.arange(len(conditions)), sizes)
    person_of, duplicate_of = np.arange(num_images), np.full(num_images, -1)
    copies, shared = round(COPY_RATE * num_images), round(SHARED_PATIENT_RATE * num_images)
    joined = np.zeros(num_images, bool)
    for later in rng.permutation(num_images):  # join pairs of images of one condition until enough share a patient
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
    """Writes one photograph into the folder; returns its rows of disease_images.csv and ground_truth.parquet."""
    cv2.setNumThreads(1)
    picture, points, person, kinds, quality = take(photograph, size, seed, effect)
    condition = photograph.condition
    subject = f"sim{seed}-{photograph.person:05d}"  # people of another seed are others, and are called otherwise
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
        "subject_id": "" if photograph.duplicate_of else subject,  # a copy's patient is unknown, as in real collections
        "age": age if rng.random() < 0.95 else "",
        "sex": person.sex if rng.random() < 0.97 else "",
        "country": person.country,
        "hpo_ids": ";".join(person.present) if recorded else "",
        "source_type": real_or_simulated.SIMULATED_SOURCE,
        "source_url": "",
        "license": "CC0-1.0",
    }
    truth = {
        "image_name": photograph.image_name,
        "disease_abbr": condition.abbr,
        "subject": subject,
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


def sheet_pictures(folder: Path, photographs: list[Photograph], columns: int) -> list[list[Image.Image]]:
    """At most 40 photographs, spread over the corpus, in rows for its contact sheet."""
    chosen = np.linspace(0, len(photographs) - 1, min(40, len(photographs))).round().astype(int)
    files = [folder / "rd_images" / photographs[i].condition.abbr / photographs[i].image_name for i in chosen]
    pictures = [Image.open(file) for file in files]
    return [pictures[start : start + columns] for start in range(0, len(pictures), columns)]


def write_corpus(
    folder: Path, photographs: list[Photograph], image_size: int, seed: int, effect: float, num_workers: int
) -> None:
    """Writes disease_images.csv, rd_images/, ground_truth.parquet and SIMULATED.txt into an empty folder.

    image_size: side in px; effect: of a term, in standard deviations of individual variation; num_workers: number of
    processes, on which no byte depends."""
    for condition in {p.condition.abbr for p in photographs}:
        (folder / "rd_images" / condition).mkdir(parents=True)
    work = partial(develop, folder=folder, size=image_size, seed=seed, effect=effect)
    schema = TABLE.with_metadata(
        {
            "landmark_names": ",".join(LANDMARK_NAMES),
            "parameter_names": ",".join(phenotypes.parameters()),
            "simulated": "true",
            "hpo_release": phenotypes.HPO_RELEASE,
            "seed": str(seed),
            "effect": str(effect),
        }
    )
    with (
        open(folder / "disease_images.csv", "w", newline="", encoding="utf-8") as table,
        pq.ParquetWriter(folder / "ground_truth.parquet", schema) as truths,
        process_pool(num_workers) as pool,
        contextlib.ExitStack() as afterwards,
    ):
        out, pending = None, []
        afterwards.callback(pool.shutdown, wait=False, cancel_futures=True)  # after Ctrl-C nothing new is begun
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
    (folder / "SIMULATED.txt").write_text(
        "Every person, photograph and report in this folder is simulated (RDFace simulate_faces.py, "
        f"seed {seed}). Condition names, genes, codes and term frequencies: HPO and Orphanet, "
        f"release {phenotypes.HPO_RELEASE}.\n"
    )
