"""How well each descriptor tells the right condition from others, on SIMULATED people whose true parameters are known.

    python benchmarks/fidelity_auc.py --part tuning      # other conditions and seeds: choices are made on these
    python benchmarks/fidelity_auc.py --part reported    # the study's 103 conditions

Descriptors are fitted on the photographs of a corpus that is planned like the demo's, and tested on photographs of
other people: PEOPLE_PER_CONDITION of each condition, as if each were a synthetic image with that label. MTCNN finds the
faces, boxes and five landmarks; photographs in which it finds none are left out for all descriptors and counted. Points
for `dense` are the true 38 with an error of DENSE_ERROR, as a stand-in for a dense landmark network. AUC: a condition's
own score for its people against those of (a) all other conditions and (b) the SIMILAR_CONDITIONS whose true mean
parameters are nearest; averaged over conditions, with a 95 % interval over conditions. The rows `true parameters` read
the truth instead of an image: the distance to the condition's true mean, and discriminants fitted on the same
training people; no image can be expected to do better than the latter."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.backbones import load_backbone, normalise
from imaging import faces
from phenotyping import phenotypes
from simulation.corpus import plan_corpus
from simulation.people import COUNTRY_ANCESTRY
from simulation.photography import Photograph, take


@dataclass(frozen=True)
class Study:
    """Which conditions and people a part looks at. The miniature backbone was trained with seed 1000, the demo has 0."""

    first_rank: int
    training_seed: int
    people_seed: int


# ---- the plan, fixed before the first run
STUDIES = {"tuning": Study(103, 2401, 2402), "reported": Study(0, 2411, 2412)}
NUM_CONDITIONS = 103
NUM_TRAINING_IMAGES = 456  # as many as the demo's corpus has: 4.4 a condition
PEOPLE_PER_CONDITION = 8  # who were not photographed for training
SIMILAR_CONDITIONS = 3
SIDE_PX = 256  # of a photograph; an aligned face has 128
DENSE_ERROR = 0.015  # SD per coordinate, in eye distances
TRUE_MEAN_DRAWS = 400  # people whose mean parameters are taken for the condition's
GOAL_GAIN = 0.25  # of ours over `paper` in AUC (b)
CALIBRATION_BINS = 10
SET_SIZES = (5, 50)  # images of a condition in the sets whose fidelity is measured; 50 only where there are as many
N_BOOT, BOOT_SEED = 2000, 7
NUM_SPEED_IMAGES = 5000
SPEED_GOAL = 5000
# ---- end of the plan

ROOT = Path(__file__).resolve().parents[1]


def photographs_of(study: Study) -> tuple[list[Photograph], list[Photograph]]:
    """The plans of the training photographs and of those of other people."""
    conditions = phenotypes.conditions()[study.first_rank : study.first_rank + NUM_CONDITIONS]
    countries = list(COUNTRY_ANCESTRY)
    training = plan_corpus(NUM_TRAINING_IMAGES, conditions, study.training_seed)
    people = [
        Photograph(i, "", conditions[i % NUM_CONDITIONS], i, i, None, countries[i % len(countries)])
        for i in range(NUM_CONDITIONS * PEOPLE_PER_CONDITION)
    ]
    return training, people


class Camera:
    """Photographs a person, finds the face and embeds it: everything that costs time, once an image."""

    def __init__(self):
        self.detector = faces.load_detector("mtcnn")
        self.backbone = load_backbone(str(ROOT / "demo_models" / "backbone"))

    @torch.inference_mode()
    def features(self, aligned: np.ndarray) -> np.ndarray:
        """(n, s, s, 3) uint8 to the backbone's last map, (n, 5888)."""
        return self.backbone.network(normalise(aligned, self.backbone, torch.device("cpu"))).flatten(1).numpy()

    def measure(self, photograph: Photograph, seed: int) -> dict[str, np.ndarray]:
        """box (4,), landmarks (5, 2), dense (k, 2), features (d,), nan where no face was found; parameters (p,)."""
        picture, points, person, _, quality = take(photograph, SIDE_PX, seed)
        _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = np.ascontiguousarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])
        (face,) = self.detector.detect([picture])
        noise = np.random.default_rng([seed, 6, photograph.number]).normal(0, DENSE_ERROR, points.shape)
        dense = points + noise * np.linalg.norm(points[1] - points[0])
        values = {"parameters": np.array([person.z[name] for name in phenotypes.parameters()])}
        if face is None:
            return values | {
                "box": np.full(4, np.nan),
                "landmarks": np.full((5, 2), np.nan),
                "dense": np.full(points.shape, np.nan),
                "features": np.full(5888, np.nan, np.float32),
            }
        aligned = faces.align(picture, face.landmarks, self.backbone.image_size)
        return values | {
            "box": face.box,
            "landmarks": face.landmarks,
            "dense": dense,
            "features": self.features(aligned[None])[0],
        }


def measured(name: str, photographs: list[Photograph], study: Study, seed: int, cache_dir: Path) -> dict:
    """Arrays of all photographs, read from the cache or rendered into it: those of Camera, labels and groups."""
    file = cache_dir / f"{name}.npz"
    if not file.exists():
        camera = Camera()
        rows = [camera.measure(photograph, seed) for photograph in tqdm(photographs, desc=name, mininterval=10)]
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        labels = np.array([photograph.condition.rank - study.first_rank for photograph in photographs])
        groups = np.array([photograph.person for photograph in photographs])
        cache_dir.mkdir(parents=True, exist_ok=True)
        np.savez(file, **arrays, labels=labels, groups=groups)
    with np.load(file) as arrays:
        return dict(arrays)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=sorted(STUDIES), required=True, help="which conditions and seeds")
    parser.add_argument("--cache_dir", type=Path, default=ROOT / "runs" / "fidelity", help="folder for measured images")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    study = STUDIES[args.part]
    training_plan, people_plan = photographs_of(study)
    measured(f"{args.part}_training", training_plan, study, study.training_seed, args.cache_dir)
    measured(f"{args.part}_people", people_plan, study, study.people_seed, args.cache_dir)


if __name__ == "__main__":
    main(parse_args())
