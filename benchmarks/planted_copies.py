"""Planted copies and planted persons among SIMULATED synthetic images: how many does the privacy filter catch?

    python benchmarks/planted_copies.py

Of 2,000 "synthetic" images of 52 conditions, 200 are copies of training photographs, edited with PIL alone: re-encoded,
and most of them cropped, mirrored, recoloured and warped a little. 100 are new photographs of training people, in
another pose, light and expression. The others show other people with the same conditions, as a faithful generator would
draw them. Both thresholds are calibrated on 51 other conditions and another seed, so that together they reject at most
1 % of faithful images. Then the membership attack is carried out on all images, on those that the filter keeps, and on
its controls. The miniature backbone, trained on further conditions, describes the faces; MTCNN finds them. The plan
below was fixed before the first run, on trials with other seeds. It takes about 8 minutes on one core."""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.backbones import load_backbone, normalise
from generation import membership_attack, privacy
from generation.photograph_copies import Pictures, copies, picture_views
from harness.commands import Parser
from harness.errors import InputError
from imaging import faces, near_duplicates
from phenotyping import phenotypes
from scoring.intervals import bootstrap_interval
from simulation.people import COUNTRY_ANCESTRY
from simulation.photography import Photograph, take

# ---- the plan
TESTED, CALIBRATED_ON = range(52), range(52, 103)  # conditions, by rank
SEED, CALIBRATION_SEED = 2401, 2402
TRAINING_PEOPLE = 8  # of each condition, one photograph each, on the generator's training side
CALIBRATION_PEOPLE = 20  # of each condition, besides those
N_SYNTHETIC, N_COPIES, N_PERSONS = 2000, 200, 100
FALSE_ALARM = {privacy.COPY: 0.002, privacy.PERSON: 0.008}  # 1 % in all
SIDE_PX, FACE_PX = 192, 128
DETECTOR_THRESHOLD = 0.7
EDIT_RATE = 0.7  # of copies that are cropped, mirrored, recoloured, warped: each drawn by itself
MAX_CUT, MAX_WARP = 0.1, 0.03  # of the side: cut away at each edge; each corner moved
CONTROL_NOISE = 8  # standard deviation, of 255, of the pixels of the positive control

COUNTRIES = list(COUNTRY_ANCESTRY)
PERSONS_BLOCK = 1000  # a condition's people are numbered condition * PERSONS_BLOCK + 0, 1, ..


def photograph(condition: int, person: int, view: int, seed: int) -> np.ndarray:
    """Pixels (SIDE_PX, SIDE_PX, 3) of a view 0, 1 of a condition's person 0, 1, .. ."""
    number = condition * PERSONS_BLOCK + person
    taken = number + view * PERSONS_BLOCK * 1000
    country = COUNTRIES[np.random.default_rng([seed, 8, number]).integers(len(COUNTRIES))]
    plan = Photograph(taken, "", phenotypes.conditions()[condition], number, taken, None, country)
    return take(plan, SIDE_PX, seed)[0]


def edited(pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """A copy of a photograph as it might be published elsewhere, and what was done to it."""
    picture, edits = Image.fromarray(pixels), []
    width, height = picture.size
    if rng.random() < EDIT_RATE:
        edits.append("mirrored")
        picture = ImageOps.mirror(picture)
    if rng.random() < EDIT_RATE:
        edits.append("warped")
        corners = np.array([0, 0, 0, height, width, height, width, 0]) + rng.uniform(-MAX_WARP, MAX_WARP, 8) * width
        picture = picture.transform(picture.size, Image.Transform.QUAD, tuple(corners), Image.Resampling.BICUBIC)
    if rng.random() < EDIT_RATE:
        edits.append("cropped")
        left, top, right, bottom = rng.uniform(0, MAX_CUT, 4) * width
        picture = picture.crop((int(left), int(top), int(width - right), int(height - bottom)))
    if rng.random() < EDIT_RATE:
        edits.append("recoloured")
        for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
            picture = enhance(picture).enhance(rng.uniform(0.65, 1.35))
        tints = rng.uniform(0.85, 1.15, 3)
        bands = [
            band.point([min(255, int(v * tint)) for v in range(256)])
            for band, tint in zip(picture.split(), tints, strict=True)
        ]
        picture = Image.merge("RGB", bands)
    edits.append("re-encoded")
    scale = rng.uniform(0.5, 1.0)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(30, 85)))
    with Image.open(file) as reopened:
        return np.asarray(reopened.convert("RGB")), edits


class Description:
    """Describes pictures as the filter's command does: the face found, aligned, embedded, also mirrored."""

    def __init__(self):
        self.detector = faces.load_detector("mtcnn")
        self.backbone = load_backbone(str(Path(__file__).resolve().parents[1] / "demo_models" / "backbone"))
        self.no_face = np.zeros_like(self.embedded(np.zeros((FACE_PX, FACE_PX, 3), np.uint8)))

    def __call__(self, pictures: Iterator[np.ndarray], count: int, title: str) -> Pictures:
        views, records, descriptors, mirrored = [], [], [], []
        for pixels in tqdm(pictures, total=count, desc=title):
            (face,) = self.detector.detect([pixels], threshold=DETECTOR_THRESHOLD)
            aligned = None if face is None else faces.align(pixels, face.landmarks, FACE_PX)
            records.append(near_duplicates.record(Image.fromarray(pixels)))
            views.append(picture_views(records[-1], aligned))
            both = self.no_face if aligned is None else self.embedded(aligned)
            descriptors.append(both[0])
            mirrored.append(both[1])
        return Pictures(np.stack(views), np.stack(records), np.stack(descriptors), np.stack(mirrored))

    @torch.inference_mode()
    def embedded(self, aligned: np.ndarray) -> np.ndarray:
        pixels = np.stack([aligned, aligned[:, ::-1]])
        features = self.backbone.network(normalise(pixels, self.backbone, "cpu")).float().flatten(1).numpy()
        return features / np.linalg.norm(features, axis=1, keepdims=True)


def examined(
    real: Pictures, real_conditions: np.ndarray, images: Pictures, conditions: np.ndarray
) -> privacy.Examination:
    """Copies are looked for among all photographs, persons among those with the image's condition."""
    same = real_conditions, conditions
    persons = privacy.nearest_either_way(real.descriptors, images.descriptors, images.mirrored, same=same)
    return privacy.Examination(*copies(real, images), *persons)


def calibrated(describe: Description) -> dict[str, privacy.Threshold]:
    """Both thresholds, from other conditions: people compared with as many others as the synthetic images will be."""
    training = np.repeat(CALIBRATED_ON, TRAINING_PEOPLE)
    others = np.repeat(CALIBRATED_ON, CALIBRATION_PEOPLE)
    real = describe(
        (photograph(c, i % TRAINING_PEOPLE, 0, CALIBRATION_SEED) for i, c in enumerate(training.tolist())),
        len(training),
        "calibration, photographs",
    )
    images = describe(
        (
            photograph(c, TRAINING_PEOPLE + i % CALIBRATION_PEOPLE, 0, CALIBRATION_SEED)
            for i, c in enumerate(others.tolist())
        ),
        len(others),
        "calibration, other people",
    )
    examination = examined(real, training, images, others)
    scores = {privacy.COPY: examination.copy_scores, privacy.PERSON: examination.similarities}
    return {name: privacy.calibrate(values, others, FALSE_ALARM[name]) for name, values in scores.items()}


def share(hits: np.ndarray) -> str:
    """With the 95 % interval of Wilson, 1927; each image shows another person."""
    n, p, z = len(hits), hits.mean(), 1.96
    centre, reach = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (100 * (centre + sign * reach) / (1 + z**2 / n) for sign in (-1, 1))
    return f"{hits.sum()} of {n}, {100 * p:.1f} % [{low:.1f}, {high:.1f}]"


def report_attack(
    name: str, people: membership_attack.People, images: np.ndarray, conditions: np.ndarray
) -> dict | str:
    try:
        record = membership_attack.attack(people, images, conditions).record()
    except InputError as error:
        print(f"SIMULATED: membership attack, {name}: {error}")
        return str(error)
    print(
        f"SIMULATED: membership attack, {name}: AUC {record['auc']:.3f} [{record['low']:.3f}, {record['high']:.3f}], "
        f"{record['n_members']} members, {record['n_held_out']} held out, {record['n_synthetic']} images"
    )
    return record


def attacks(
    describe: Description,
    real: Pictures,
    training: np.ndarray,
    images: Pictures,
    conditions: np.ndarray,
    faithful: np.ndarray,
    kept: np.ndarray,
) -> dict[str, dict | str]:
    """The membership attack before and after filtering (kept), with controls; faithful, kept: (m,) bool."""
    held_out = describe(
        (photograph(c, 500 + i % TRAINING_PEOPLE, 0, SEED) for i, c in enumerate(training.tolist())),
        len(training),
        "people held out",
    )
    overfitted = describe(
        (_noisy(photograph(c, i % TRAINING_PEOPLE, 0, SEED), i) for i, c in enumerate(training.tolist())),
        len(training),
        "positive control",
    )
    people = membership_attack.People(
        np.concatenate([real.descriptors, held_out.descriptors]),
        np.concatenate([training, training]),
        np.arange(2 * len(training)),
        np.arange(2 * len(training)) < len(training),
    )
    records = {
        privacy.BEFORE: report_attack(privacy.BEFORE, people, images.descriptors, conditions),
        privacy.AFTER: report_attack(privacy.AFTER, people, images.descriptors[kept], conditions[kept]),
        privacy.POSITIVE: report_attack("positive control, noisy pixels", people, overfitted.descriptors, training),
        privacy.NEGATIVE: report_attack(
            "negative control, independent people", people, images.descriptors[faithful], conditions[faithful]
        ),
    }
    for name, control in (
        ("positive", membership_attack.positive_control),
        ("negative", membership_attack.negative_control),
    ):
        record = control(people, np.random.default_rng([SEED, 7])).record()
        interval = f"[{record['low']:.3f}, {record['high']:.3f}]"
        print(f"SIMULATED: membership attack, {name} control from embeddings: AUC {record['auc']:.3f} {interval}")
    return records


def _noisy(pixels: np.ndarray, number: int) -> np.ndarray:
    noise = np.random.default_rng([SEED, 9, number]).normal(0, CONTROL_NOISE, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return Parser(description=__doc__).parse_args(argv)


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    describe = Description()
    thresholds = calibrated(describe)
    for name, of in thresholds.items():
        interval = f"[{of.low:.3f}, {of.high:.3f}]"
        print(f"SIMULATED: threshold, {name}: {of.value:.3f} {interval}, {of.n} people of other conditions")

    training = np.repeat(TESTED, TRAINING_PEOPLE)
    image_ids = [f"{phenotypes.conditions()[c].abbr}.{i % TRAINING_PEOPLE}" for i, c in enumerate(training.tolist())]
    real = describe(
        (photograph(c, i % TRAINING_PEOPLE, 0, SEED) for i, c in enumerate(training.tolist())),
        len(training),
        "training photographs",
    )
    rng = np.random.default_rng([SEED, 6])
    copied = rng.permutation(len(training))[:N_COPIES]
    memorised = rng.permutation(len(training))[:N_PERSONS]
    n_faithful = N_SYNTHETIC - N_COPIES - N_PERSONS
    faithful_of = np.array(TESTED)[np.arange(n_faithful) % len(TESTED)]  # conditions
    conditions = np.concatenate([training[copied], training[memorised], faithful_of])
    edits: list[list[str]] = []

    def synthetic() -> Iterator[np.ndarray]:
        for row in copied.tolist():
            pixels = photograph(int(training[row]), row % TRAINING_PEOPLE, 0, SEED)
            pixels, made = edited(pixels, np.random.default_rng([SEED, 5, row]))
            edits.append(made)
            yield pixels
        for row in memorised.tolist():
            yield photograph(int(training[row]), row % TRAINING_PEOPLE, 1, SEED)
        for i, condition in enumerate(faithful_of.tolist()):
            yield photograph(condition, 100 + i // len(TESTED), 0, SEED)

    images = describe(synthetic(), N_SYNTHETIC, "synthetic images")
    examination = examined(real, training, images, conditions)
    reasons = privacy.reject_reasons(examination, image_ids, thresholds)
    kept = np.array([reason is None for reason in reasons])

    copy = examination.copy_scores > thresholds[privacy.COPY].value
    person = examination.similarities > thresholds[privacy.PERSON].value
    kinds = {"copies": slice(0, N_COPIES), "persons": slice(N_COPIES, N_COPIES + N_PERSONS)}
    kinds["faithful other people"] = slice(N_COPIES + N_PERSONS, None)
    for name, rows in kinds.items():
        unmeasured = np.isnan(examination.similarities[rows]).sum()
        print(f"SIMULATED: {name}: rejected as a near copy {share(copy[rows])}; as a person {share(person[rows])};")
        print(f"    as either {share((copy | person)[rows])}; without a face found {unmeasured}")
    false = (copy | person)[kinds["faithful other people"]]
    low, high = bootstrap_interval(lambda weights: weights @ false / weights.sum(axis=1), faithful_of.astype(str))
    print(f"    false alarms, interval over conditions instead of images: [{100 * low:.1f}, {100 * high:.1f}] %")
    own = examination.copy_rows[:N_COPIES] == copied
    print(f"SIMULATED: copies rejected whose original is named: {share(own & copy[:N_COPIES])}")
    for i in np.flatnonzero(~copy[:N_COPIES]):
        print(f"    missed: {image_ids[copied[i]]}, {', '.join(edits[i])}: score {examination.copy_scores[i]:.3f}")
    records = attacks(
        describe, real, training, images, conditions, np.arange(N_SYNTHETIC) >= N_COPIES + N_PERSONS, kept
    )
    files = {"synthetic/train-00000-of-00001.parquet": "0" * 64}  # there is none in this measurement
    simulated = ["simulated"] * N_SYNTHETIC
    report = privacy.verdict(files, kept, simulated, examination, thresholds, {"simulated": records})
    print(f"SIMULATED: verdict {report['verdict']}; {'; '.join(report['reasons']) or 'no reason against release'}")


if __name__ == "__main__":
    main(parse_args())
