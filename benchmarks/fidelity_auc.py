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
training people; no image can be expected to do better than the latter. The rows `with knowledge` know the conditions'
annotated terms as well (filter_synthetic.py --knowledge terms; docs/knowledge_plan.md): the project's own table, the
same with 40 % of each condition's annotations missing, and profiles dealt to one another at random as a control."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.metrics.pairwise import cosine_similarity
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.knowledge_gain import dealt_at_random, thinned
from classification.backbones import load_backbone, normalise
from generation.descriptors import KINDS, describe
from generation.fidelity import Fitted, class_rank, fit, own_class_score
from imaging import faces
from phenotyping import condition_prior, phenotypes
from simulation.corpus import plan_corpus
from simulation.people import COUNTRY_ANCESTRY, draw_person
from simulation.photography import Photograph, take


@dataclass(frozen=True)
class Study:
    """The conditions and people of a part. The miniature backbone was trained with seed 1000; the demo has seed 0."""

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
N_BOOT, BOOT_SEED = 2000, 7
NUM_SPEED_IMAGES, NUM_INCUMBENT_IMAGES = 5000, 100  # the incumbent's way with all classes is timed on fewer
SPEED_REPEATS = 5  # the fastest counts
SPEED_GOAL = 5000
INFORMED_KINDS = ("probe", "embedding")
MISSING, WRONG_SEED = 0.4, 5  # share of each condition's annotations; of the draws of what is missing and dealt
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


def true_means(study: Study) -> np.ndarray:
    """Mean face parameters (c, p) of many people with each condition, from all countries."""
    conditions = phenotypes.conditions()[study.first_rank : study.first_rank + NUM_CONDITIONS]
    countries = list(COUNTRY_ANCESTRY)
    means = []
    for condition in conditions:
        rng = np.random.default_rng([study.people_seed, 9, condition.rank])
        people = [draw_person(condition, countries[i % len(countries)], rng) for i in range(TRUE_MEAN_DRAWS)]
        means.append(np.mean([[person.z[name] for name in phenotypes.parameters()] for person in people], axis=0))
    return np.array(means)


def aucs(scores: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """AUC (c,) of each condition's score for its own people against people of other conditions.

    scores (m, c); labels (m,), -1 for none; others (c, c) bool: whether the column's people stand against the row's."""
    values = np.full(len(others), np.nan)
    for c, against in enumerate(others):
        own, other = scores[labels == c, c], scores[against[labels] & (labels >= 0), c]
        own, other = own[~np.isnan(own)], other[~np.isnan(other)]
        if len(own) and len(other):
            places = rankdata(np.concatenate([own, other]))[: len(own)]
            values[c] = (places.sum() - len(own) * (len(own) + 1) / 2) / (len(own) * len(other))
    return values


def interval(values: np.ndarray) -> str:
    """Mean over conditions with its 95 % bootstrap interval over conditions."""
    values = values[~np.isnan(values)]
    rng = np.random.default_rng(BOOT_SEED)
    draws = values[rng.integers(len(values), size=(N_BOOT, len(values)))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def descriptors_of(kind: str, images: dict) -> np.ndarray:
    """Descriptors (n, d) of measured images."""
    points = images["dense"] if kind == "dense" else images["landmarks"]
    return describe(kind, points, images["box"], images["features"])


def comparisons(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(c, c) bool each: all other conditions, and the SIMILAR_CONDITIONS nearest by mean parameters (c, p)."""
    distance = cdist(means, means)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :SIMILAR_CONDITIONS]
    similar = np.zeros(distance.shape, bool)
    np.put_along_axis(similar, nearest, True, axis=1)
    return np.isfinite(distance), similar


def report(name: str, scores: np.ndarray, labels: np.ndarray, compared: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Prints the AUCs and the average class rank of scores (m, c); returns the AUCs (b) of the conditions, (c,)."""
    against_all, against_similar = (aucs(scores, labels, others) for others in compared)
    rank = np.nanmean(class_rank(scores, labels))
    print(
        f"{name:42s} (a) {interval(against_all)}  (b) {interval(against_similar)}  "
        f"average rank {rank:5.1f} of {NUM_CONDITIONS}",
        flush=True,
    )
    return against_similar


def with_knowledge(study: Study, training: dict, people: dict, compared: tuple[np.ndarray, np.ndarray]) -> dict:
    """Prints the rows `with knowledge`, each with its gain over the same descriptor without; returns the fits by kind.

    training, people: as measured; labels of people are -1 for those to leave out."""
    conditions = phenotypes.conditions()[study.first_rank : study.first_rank + NUM_CONDITIONS]
    own, _ = condition_prior.profiles([c.orphanet_code for c in conditions], condition_prior.project_table())
    missing, dealt = thinned(own, MISSING, WRONG_SEED), dealt_at_random(own, WRONG_SEED)
    known = {"with knowledge": own, f"{MISSING:.0%} of annotations missing": missing, "profiles dealt at random": dealt}
    fits = {}
    for kind in INFORMED_KINDS:
        seen, asked = (descriptors_of(kind, images) for images in (training, people))
        arguments = (training["labels"], training["groups"], NUM_CONDITIONS, kind)
        without = fit(seen, *arguments).scores(asked)
        for name, profiles in known.items():
            fitted = fit(seen, *arguments, profiles)
            fits.setdefault(f"{kind} and terms", fitted)
            scores = fitted.scores(asked)
            informed = report(f"{kind}, {name}", scores, people["labels"], compared)
            gain = interval(informed - aucs(without, people["labels"], compared[1]))
            won = class_rank(without, people["labels"]) - class_rank(scores, people["labels"])
            of_conditions = [
                np.nanmean(won[people["labels"] == c]) for c in np.unique(people["labels"][~np.isnan(won)])
            ]
            shares = f"used: {fitted.choice.used}, shares {fitted.choice.term_share} and {fitted.choice.rest_share}"
            print(f"    above {kind} alone on (b): {gain}; places won: {interval(np.array(of_conditions))}; {shares}")
    return fits


def calibration(name: str, probability: np.ndarray, labels: np.ndarray) -> None:
    """Prints whether probabilities (m, c), one for each possible label of an image, come true on people held out.

    As in the fit, half of the labels are right and each wrong one is as frequent as another."""
    given = ~np.isnan(probability)
    right = np.arange(probability.shape[1]) == labels[:, None]
    weight = np.where(right, 1.0, 1 / (probability.shape[1] - 1))[given]
    p, is_right = probability[given], right[given].astype(float)
    place = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    total, said, came_true = (np.bincount(place, weight * v, CALIBRATION_BINS) for v in (np.ones_like(p), p, is_right))
    error = np.abs(said - came_true).sum() / total.sum()
    brier = (weight * (p - is_right) ** 2).sum() / weight.sum()
    bins = [f"{said[i] / total[i]:.2f}->{came_true[i] / total[i]:.2f}" for i in range(CALIBRATION_BINS) if total[i] > 0]
    print(f"{name:19s} calibration error {error:.3f}, Brier {brier:.3f} (0.250 knows nothing): {' '.join(bins)}")


def sets(name: str, fitted: Fitted, descriptors: np.ndarray, labels: np.ndarray, similar: np.ndarray) -> None:
    """Prints the mean squared distance of sets of true people, and of people of other conditions labelled as these."""
    nearest = {c: int(np.flatnonzero(row)[0]) for c, row in enumerate(similar)}
    label_of = np.full(NUM_CONDITIONS, -1)
    for c, other in nearest.items():
        label_of[other] = c  # people of `other` are labelled c; where several want the same people, the last
    shifted = (labels + NUM_CONDITIONS // 2) % NUM_CONDITIONS
    halves = np.where(np.arange(len(labels)) % (2 * NUM_CONDITIONS) < NUM_CONDITIONS, labels, shifted)
    for who, given in (
        ("the condition's own people", labels),
        ("half own, half another's", halves),
        ("a similar condition's", label_of[labels]),
        ("another condition's", shifted),
    ):
        fidelity = fitted.set_fidelity(descriptors, given)
        print(f"{name:12s} {who:28s} squared distance {interval(fidelity.squared_distance)}")
    print(f"{name:12s} {'the average of all':28s} squared distance {interval(fidelity.squared_distance_of_average)}")


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of SPEED_REPEATS runs."""
    seconds = []
    for _ in range(SPEED_REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def speed(fitted: Fitted, descriptors: np.ndarray, labels: np.ndarray) -> None:
    """Prints how long scores and ranks of NUM_SPEED_IMAGES take for the paper's descriptor, ours and the incumbent's.

    descriptors (m, 25) without nan; they are repeated until there are enough."""
    rows = np.resize(np.arange(len(descriptors)), NUM_SPEED_IMAGES)
    many, wanted, prototypes = descriptors[rows], labels[rows], fitted.scorer.prototypes

    def ours() -> None:
        scores = fitted.scores(many)
        own_class_score(scores, wanted), class_rank(scores, wanted)

    def one_cosine_a_row() -> None:
        [cosine_similarity([row], [prototypes[label]])[0, 0] for row, label in zip(many, wanted, strict=True)]

    def one_cosine_a_row_and_class() -> None:
        [[cosine_similarity([row], [other])[0, 0] for other in prototypes] for row in many[:NUM_INCUMBENT_IMAGES]]

    seconds, own_only = fastest(ours), fastest(one_cosine_a_row)
    all_classes = fastest(one_cosine_a_row_and_class) * NUM_SPEED_IMAGES / NUM_INCUMBENT_IMAGES
    print(
        f"{NUM_SPEED_IMAGES} images against {NUM_CONDITIONS} classes with ranks: {1e3 * seconds:.1f} ms. One sklearn "
        f"cosine a row and class, without ranks: {all_classes:.1f} s (from {NUM_INCUMBENT_IMAGES} images), "
        f"{all_classes / seconds:.0f}x (goal {SPEED_GOAL}x). One sklearn cosine a row, own class only: "
        f"{own_only:.2f} s, {own_only / seconds:.0f}x"
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=sorted(STUDIES), required=True, help="which conditions and seeds")
    parser.add_argument("--cache_dir", type=Path, default=ROOT / "runs" / "fidelity", help="folder for measured images")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    study = STUDIES[args.part]
    plans = zip(("training", "people"), photographs_of(study), (study.training_seed, study.people_seed), strict=True)
    training, people = (
        measured(f"{args.part}_{name}", plan, study, seed, args.cache_dir) for name, plan, seed in plans
    )
    missed = np.isnan(people["box"][:, 0])
    labels = np.where(missed, -1, people["labels"])  # -1: left out of everything, for all descriptors
    print(
        f"SIMULATED, {args.part}: {len(training['labels'])} training photographs, {len(labels)} of other people; "
        f"no face found in {np.isnan(training['box']).any(axis=1).sum()} and {missed.sum()}"
    )
    means = true_means(study)
    compared = comparisons(means)
    report("true parameters, distance to true mean", -cdist(people["parameters"], means), labels, compared)
    seen = training["labels"], training["groups"], NUM_CONDITIONS
    fitted = fit(training["parameters"], *seen, "probe")
    report("true parameters, discriminants", fitted.scores(people["parameters"]), labels, compared)
    fits, against_similar = {}, {}
    for kind in KINDS:
        fits[kind] = fit(descriptors_of(kind, training), *seen, kind)
        scores = fits[kind].scores(descriptors_of(kind, people))
        name = "paper, cosine" if kind == "paper" else kind
        against_similar[kind] = report(name, scores, labels, compared)
        if kind == "paper":
            report("paper, -Euclidean", -fits[kind].euclidean(descriptors_of(kind, people)), labels, compared)
            report("paper, our probability", fits[kind].evidence(scores), labels, compared)
        else:
            gain = against_similar[kind] - against_similar["paper"]
            print(f"    above the cosine of paper on (b): {interval(gain)} (goal {GOAL_GAIN})")
    people["labels"] = labels
    fits |= with_knowledge(study, training, people, compared)
    for name, fitted in fits.items():
        kind = name.split()[0]
        probability = fitted.phenotype_probabilities(fitted.scores(descriptors_of(kind, people)))
        calibration(name, probability[~missed], labels[~missed])
    for kind in KINDS:
        sets(kind, fits[kind], descriptors_of(kind, people)[~missed], labels[~missed], compared[1])
    speed(fits["paper"], descriptors_of("paper", people)[~missed], labels[~missed])


if __name__ == "__main__":
    main(parse_args())
