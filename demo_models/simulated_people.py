"""SIMULATED people for the miniature reporter: their aligned photographs, kept in a file that grows, and their reports.

People of training have conditions that the study does not use (ranks from NUM_STUDY_CONDITIONS on)."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from harness.worker_processes import process_pool
from imaging import faces
from phenotyping import phenotypes
from simulation.people import COUNTRY_ANCESTRY, Person, draw_person
from simulation.photography import Photograph, take

IMAGE_SIZE = 128
DETECTOR_ERROR = 0.03  # SD of MTCNN's error on these faces, per landmark coordinate, in eye distances


def training_conditions() -> tuple[phenotypes.Condition, ...]:
    """The conditions that the study does not use."""
    return phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :]


def planned_photograph(number: int, seed: int, pool: tuple[phenotypes.Condition, ...]) -> Photograph:
    """The plan of person `number`'s one photograph; conditions with more terms to expect are drawn more often."""
    rng = np.random.default_rng([seed, 5, number])
    expected_terms = np.array([sum(condition.penetrance.values()) for condition in pool])
    condition = pool[rng.choice(len(pool), p=expected_terms / expected_terms.sum())]
    country = list(COUNTRY_ANCESTRY)[rng.integers(len(COUNTRY_ANCESTRY))]
    return Photograph(number, "", condition, number, number, None, country)


def person_of(number: int, seed: int, pool: tuple[phenotypes.Condition, ...]) -> Person:
    """The person whom aligned_face shows, without drawing a picture."""
    planned = planned_photograph(number, seed, pool)
    return draw_person(planned.condition, planned.country, np.random.default_rng([seed, 1, number]))


def mixed_person(number: int, seed: int, pool: tuple[phenotypes.Condition, ...]) -> Person:
    """A person with the terms of two conditions, so that terms come in company that no condition of the pool knows."""
    planned, other = planned_photograph(number, seed, pool), planned_photograph(number, seed + 1, pool).condition
    both = replace(planned.condition, penetrance=other.penetrance | planned.condition.penetrance)
    return draw_person(both, planned.country, np.random.default_rng([seed, 1, number]))


def aligned_face(number: int, seed: int) -> np.ndarray:
    """The upright face (side, side, 3) uint8 of a person of a training condition; its landmarks err as MTCNN's do."""
    cv2.setNumThreads(1)
    picture, points, *_, quality = take(planned_photograph(number, seed, training_conditions()), 2 * IMAGE_SIZE, seed)
    _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    picture = np.ascontiguousarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])
    eye_distance = np.linalg.norm(points[1] - points[0])
    error = np.random.default_rng([seed, 6, number]).normal(0, DETECTOR_ERROR * eye_distance, (5, 2))
    return faces.align(picture, points[:5] + error, IMAGE_SIZE)


def render(cache_dir: Path, num_people: int, seed: int, num_workers: int) -> np.ndarray:
    """Aligned faces (num_people, side, side, 3) uint8 of people 0, 1, ... of a seed, memory-mapped.

    They are kept in one file per seed, to which num_workers processes add those that it lacks."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    file = cache_dir / f"faces_seed{seed}.uint8"
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    n_bytes = int(np.prod(shape))
    file.touch()
    n_there = file.stat().st_size // n_bytes
    if n_there < num_people:
        with open(file, "r+b") as out, process_pool(num_workers) as workers:
            out.truncate(n_there * n_bytes)
            out.seek(0, 2)
            work = workers.map(partial(aligned_face, seed=seed), range(n_there, num_people), chunksize=16)
            for face in tqdm(work, total=num_people, initial=n_there, desc="simulated people", mininterval=10):
                out.write(face.tobytes())
    return np.memmap(file, np.uint8, "r", shape=(num_people, *shape))
