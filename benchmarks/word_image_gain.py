"""What images by words add to few photographs, and to knowledge of terms, on SIMULATED people: docs/knowledge_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/word_image_gain.py --work_dir runs/word_gain [--part words missing]

Datasets, pictures and pixels are kept in --work_dir, also if the study is stopped. The digits per held-out image and
arm of each support set stand in one file per part, RESULTS_DIR/draws_PART.json, and are not measured again; PART.json
has the figures of --k."""

import argparse
import csv
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import augmentation_gain
from benchmarks.augmentation_gain import launch
from benchmarks.knowledge_gain import (
    FRESH_RANKS,
    HELD_OUT_FOLDS,
    KS,
    SEEDS,
    People,
    backbone_features,
    dealt_at_random,
    gains,
    is_right,
    kept_draws,
    print_arms,
    readers_of,
    simulate,
    support_set,
    thinned,
)
from classification import synthetic_teachers, variance_shares
from classification.fold_run import fit_probe
from classification.knowledge import Knowledge
from classification.knowledge_prior import Teachers
from classification.linear_probe import LinearProbe
from classification.recipes import USES
from classification.study_inputs import Study
from classification.synthetic_teachers import SyntheticUses
from curation import protocols
from curation.leak_guard import Guard
from curation.made_from import WORDS
from curation.opening import load_images, load_synthetic
from harness.commands import Parser
from harness.files import read_json, write_json
from imaging.faces import load_detector
from imaging.pixel_cache import cached_pixels
from phenotyping import condition_prior, phenotypes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "word_image_gain"
BASE = ROOT / "demo_models" / "diffusion"
PEOPLE = {"others": (80, 309), "study": (81, 600), "tuning": (83, 300)}  # corpus seed, photographs
IMAGES, FEWER, OF_OTHERS = 12, (4,), 6  # per condition
MISSING = 0.4  # share of annotations
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)  # candidates for PRIOR_WEIGHT
LIMITS, LIMIT_SEEDS = (0.55, 1.0, 1.5, 3.0), (0, 1, 2, 3)  # candidates for MAX_SCALE
PARTS = ("words", "missing", "others", "scale", "faces", "tuning", "dreambooth")
BORDERS = (0.0, 0.5)  # the filter's, and the paper's
ADAPTER_FOLD, ADAPTER_IMAGES, ADAPTER_STEPS, ADAPTER_KS = 0, 4, 200, ("1", "2")


# ------------------------------------------------------------------------------------------- people and their pictures


def conditions_of(name: str) -> list[phenotypes.Condition]:
    """The conditions of one group of people."""
    study = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS]
    if name == "tuning":
        return augmentation_gain.chosen_conditions(argparse.Namespace(tuning=True, num_conditions=20))
    return [c for c in study if name == "others" or c.rank in FRESH_RANKS]


def build(work_dir: Path, name: str) -> Path:
    """One group of simulated people as a dataset, unless it exists already."""
    seed, n = PEOPLE[name]
    return simulate(work_dir, name, conditions_of(name), n, seed)


def paint(work_dir: Path, name: str, of: Sequence[str], n_images: int, table: Path | None = None) -> Path:
    """The folder of n_images images by words of each of these conditions, painted unless it holds them already."""
    flags = ["--dataset_name", build(work_dir, "others"), "--fold", 0, "--seed", 0, "--prompts_from", "conditions"]
    flags += ["--pretrained_model_name_or_path", BASE, "--guidance_scale", 3]
    flags += ["--sample_batch_size", 12, "--conditions", *of, *(("--term_table", table) if table else ())]
    return sampled(work_dir / name, n_images, flags)


def sampled(folder: Path, n_images: int, flags: list) -> Path:
    """The images in an output folder of train_dreambooth.py, made by these flags unless they are there."""
    record = read_json(folder / "run.json", "delete it") if (folder / "run.json").is_file() else {}
    if record.get("arguments", {}).get("num_images", 0) < n_images:
        resume = ["--resume_from_checkpoint", "latest"] if (folder / "settings.json").is_file() else []
        flags = [*flags, "--num_images", n_images, "--output_dir", folder, "--cache_dir", folder.parent / "pixels"]
        launch("train_dreambooth.py", *flags, *resume)
    return folder / "fold0" / "synthetic"


def write_table(file: Path, codes: Sequence[str], profiles: np.ndarray, terms: Sequence[str]) -> Path:
    """A term table of these profiles (c, T), by ORPHA code (c,)."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["orphanet_code", "hpo_id", "frequency"])
        for code, row in zip(codes, profiles, strict=True):
            table.writerows([code, terms[i], row[i]] for i in np.flatnonzero(row))
    return file


@dataclasses.dataclass(frozen=True)
class Images:
    """m synthetic images."""

    labels: np.ndarray  # (m,) classes of the study; -1: a condition that is none of them
    numbers: np.ndarray  # (m,) 0, 1, ... within a condition
    said: np.ndarray  # (m, T) bool: the terms that the prompt said
    by_words: np.ndarray  # (m,) bool
    features: np.ndarray  # (m, d)

    def only(self, chosen: np.ndarray) -> "Images":
        return Images(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def joined(self, others: "Images") -> "Images":
        names = [field.name for field in dataclasses.fields(self)]
        return Images(*(np.concatenate([getattr(self, name), getattr(others, name)]) for name in names))

    def dealt(self, order: np.ndarray) -> "Images":
        """Those of class order[c] as images of class c."""
        return dataclasses.replace(self, labels=np.argsort(order)[self.labels])


def open_images(folder: Path, class_names: Sequence[str], terms: Sequence[str], features) -> Images:
    """The images of a generator; features: a function of pictures, as for People."""
    images = load_synthetic(str(folder))
    class_of = [class_names.index(name) if name in class_names else -1 for name in images.features["label"].names]
    number_of = {term: i for i, term in enumerate(terms)}
    said = np.zeros((len(images), len(terms)), bool)
    for row, of_image in enumerate(images["hpo_said"][:]):
        said[row, [number_of[term] for term in of_image or () if term in number_of]] = True
    numbers = [int(synthetic_id.rpartition("_")[2]) for synthetic_id in images["synthetic_id"][:]]
    by_words = np.array([made_from == WORDS for made_from in images["made_from"][:]])
    labels = np.array(class_of)[images["label"][:]]
    return Images(labels, np.array(numbers), said, by_words, features(images))


# ------------------------------------------------------------------------------------------------------------ the arms


@dataclasses.dataclass(frozen=True)
class Arm:
    """What a probe gets besides its photographs."""

    images: Images | None = None
    use: str = "data"  # --synthetic_as
    profiles: np.ndarray | None = None  # (C, T), for --knowledge terms and for images that teach terms
    knows: bool = False  # --knowledge terms
    readers: Teachers | None = None


def fitted(people: People, fold: protocols.Fold, arm: Arm) -> tuple[LinearProbe, dict]:
    """The probe that train_classifier.py fits to a fold's photographs with these images, and what it chose."""
    n = len(people.labels)
    images = arm.images or Images(*(np.zeros((0, *shape)) for shape in ((), (), (0,), (), people.features.shape[1:])))
    m, names = len(images.labels), [f"image {i}" for i in range(len(images.labels))]
    groups = np.concatenate([people.groups, np.array(names, dtype=people.groups.dtype)])
    labels = np.concatenate([people.labels, images.labels.astype(people.labels.dtype)])
    study = Study(people.images, [], pd.DataFrame({"label": labels, "subject": groups}), None)
    study.features = np.concatenate([people.features, images.features.astype(people.features.dtype)])
    if arm.images is not None:
        study.uses = SyntheticUses(np.full(m, arm.use, dtype=object), images.by_words, images.said)
    if arm.knows or (arm.images is not None and arm.use == "terms"):
        terms = [""] * arm.profiles.shape[1]  # their names are for messages only
        study.knowledge = Knowledge(arm.profiles, terms, [], "", [], arm.readers, teaches_photographs=arm.knows)
    trained = dataclasses.replace(fold, train=np.concatenate([fold.train, n + np.arange(m)]))
    guard = Guard(trained, {"image_id": [*people.image_ids, *names], "group_id": groups})
    return fit_probe(study, trained, guard)


def measured(people: People, fold: protocols.Fold, seed: int, arms: dict[str, Arm]) -> dict:
    """All arms of one support set, as one_draw of knowledge_gain.py records them."""
    right, choices = {}, {}
    for name, arm in ({"alone": Arm()} | arms).items():
        probe, notes = fitted(people, fold, arm)
        right[name] = "".join("1" if value else "0" for value in is_right(probe, people, fold.test))
        choices[name] = notes.get("knowledge", {})
    _, person = np.unique(people.groups, return_inverse=True)
    rows = {"rows": fold.test.tolist(), "people": person[fold.test].tolist()}
    return {"seed": seed} | rows | {"right": right, "choices": choices}


def joined(draws: Sequence[dict]) -> dict:
    """The arms of several measurements of one support set."""
    return draws[0] | {
        name: {arm: of for draw in draws for arm, of in draw[name].items()} for name in ("right", "choices")
    }


class WordStudy:
    """Conditions with k photographs each, their images by words, and readers with the others of the 103.

    part: words for arms 1 to 3 and 6 of the plan, others for arm 4, missing for arm 5, each of 23 conditions; scale for
    the choice of MAX_SCALE on 20 others."""

    def __init__(self, work_dir: Path, part: str):
        features = backbone_features(str(ROOT / "demo_models" / "backbone"), None, work_dir / "pixels")
        of_study, painted = ("tuning", "tuning_words") if part == "scale" else ("study", "fresh")
        self.people, others = (People(build(work_dir, name), features) for name in (of_study, "others"))
        names, n = self.people.names, len(self.people.names)
        profiles, terms = condition_prior.profiles([*self.people.codes, *others.codes], condition_prior.project_table())
        self.own, self.part = profiles[:n], part
        self.readers = readers_of(others, profiles[n:], n).only(~np.isin(np.array(others.names)[others.labels], names))
        self.thinned, rest = thinned(self.own, MISSING, 0), [name for name in others.names if name not in names]
        if part == "missing":
            table = write_table(work_dir / "missing.csv", self.people.codes, self.thinned, terms)
            sets = [(paint(work_dir, "missing", names, IMAGES, table), IMAGES)]
        else:
            sets = [(paint(work_dir, painted, names, IMAGES), IMAGES)]
            sets += [(paint(work_dir, "others", rest, OF_OTHERS), OF_OTHERS)] if part == "others" else []
        opened = [(open_images(folder, names, terms, features), n_images) for folder, n_images in sets]
        self.images = functools.reduce(Images.joined, (each.only(each.numbers < n_images) for each, n_images in opened))
        fold_of = np.array([-1 if k is None else k for k in self.people.images["strict_fold"][:]])
        self.allowed = ~np.isin(fold_of, HELD_OUT_FOLDS)

    def arms(self, seed: int) -> dict[str, Arm]:
        """The arms of the part; seed: of what is dealt at random."""
        own, images, readers = self.own, self.images, self.readers
        if self.part == "missing":
            missing, own = f"{MISSING:.0%} missing", self.thinned
            arms = {f"{missing}: terms": Arm(None, "", own, True)}
            arms |= {f"{missing}: images as {use}": Arm(images, use, own) for use in USES}
            arms |= {f"{missing}: terms, images as {use}": Arm(images, use, own, True) for use in ("prior", "terms")}
            return arms
        arms = {"terms": Arm(None, "", own, True), "terms, readers": Arm(None, "", own, True, readers)}
        if self.part == "others":
            arms["images of 103 conditions as terms"] = Arm(images, "terms", own)
            arms["terms, images of 103 conditions as terms"] = Arm(images, "terms", own, True)
            arms["terms, readers, images of 103 conditions as terms"] = Arm(images, "terms", own, True, readers)
            return arms
        for n in (*FEWER, IMAGES):
            of_condition = images.only(images.numbers < n)
            for use in USES:
                arms[f"{n} images as {use}"] = Arm(of_condition, use, own)
                if n == IMAGES or use == "terms":
                    arms[f"terms, {n} images as {use}"] = Arm(of_condition, use, own, True)
                if n == IMAGES and use != "data":
                    arms[f"terms, readers, {n} images as {use}"] = Arm(of_condition, use, own, True, readers)
        later, fewer = f"{MISSING:.0%} missing after painting", self.thinned
        arms[f"{later}: terms"] = Arm(None, "", fewer, True)
        arms[f"{later}: images as terms"] = Arm(images, "terms", fewer)
        arms[f"{later}: terms, images as terms"] = Arm(images, "terms", fewer, True)
        order = dealt_at_random(np.arange(len(own))[:, None], seed)[:, 0]
        dealt, profiles = images.dealt(order), own[order]
        arms |= {f"dealt at random: images as {use}": Arm(dealt, use, profiles) for use in USES}
        arms["dealt at random: terms, images as terms"] = Arm(dealt, "terms", profiles, True)
        return arms

    def draw(self, k: str, seed: int) -> dict:
        fold = support_set(self.people, self.allowed, None if k == "all" else int(k), seed)
        return measured(self.people, fold, seed, self.arms(seed))

    def limits(self, k: str, seed: int) -> dict:
        """What images teach of terms, by each limit of how far they are believed, and images dealt at random."""
        fold = support_set(self.people, self.allowed, None if k == "all" else int(k), seed)
        order = dealt_at_random(np.arange(len(self.own))[:, None], seed)[:, 0]
        dealt, profiles = self.images.dealt(order), self.own[order]
        draws, kept = [], variance_shares.MAX_SCALE
        try:
            for limit in LIMITS:
                variance_shares.MAX_SCALE = limit
                arms = {"images as terms": Arm(self.images, "terms", self.own)}
                arms["terms, images as terms"] = Arm(self.images, "terms", self.own, True)
                arms["terms, readers, images as terms"] = Arm(self.images, "terms", self.own, True, self.readers)
                arms["dealt at random: images as terms"] = Arm(dealt, "terms", profiles)
                arms["dealt at random: terms, images as terms"] = Arm(dealt, "terms", profiles, True)
                arms = {f"limit {limit:g}: {name}": arm for name, arm in arms.items()}
                draws.append(measured(self.people, fold, seed, arms))
        finally:
            variance_shares.MAX_SCALE = kept
        return joined(draws)


def of_painting(draws: Sequence[dict]) -> dict[str, dict]:
    """What images add to knowledge: each arm with images and knowledge against the same knowledge alone."""
    found = {}
    missing = f"{MISSING:.0%} missing"
    for knowing in ("terms, readers", "terms", f"{missing}: terms", f"{missing} after painting: terms"):
        if knowing in draws[0]["right"]:
            names = [name for name in draws[0]["right"] if name.startswith(f"{knowing}, ") and name not in found]
            names = [knowing, *(name for name in names if "images" in name)]
            compared = [draw | {"right": {name: draw["right"][name] for name in names}} for draw in draws]
            found |= {name: scores for name, scores in gains(compared, knowing).items() if name != knowing}
    return found


def of_words(work_dir: Path, results_dir: Path, part: str, ks: Sequence[str]) -> None:
    """The arms of one part, and their figures."""
    opened: list[WordStudy] = []

    def draw(k: str, seed: int) -> list[dict]:
        if not opened:
            opened.append(WordStudy(work_dir, part))
        return [opened[0].limits(k, seed) if part == "scale" else opened[0].draw(k, seed)]

    results = {}
    for k in ks:
        seeds = LIMIT_SEEDS if part == "scale" else SEEDS
        parts = {f"k{k}_seed{seed}": functools.partial(draw, k, seed) for seed in seeds}
        draws = kept_draws(results_dir / f"draws_{part}.json", parts)
        results[k] = {"gains": gains(draws), "images added to knowledge": of_painting(draws)}
        print_arms(f"SIMULATED, {part}, k = {k}", results[k]["gains"])
        print_arms(f"SIMULATED, {part}, k = {k}: images added to knowledge", results[k]["images added to knowledge"])
        write_json(results_dir / f"{part}.json", results)


# ------------------------------------------------------------------------------------------------- images of adapters


class AdapterStudy:
    """Conditions with k photographs each, and images of adapters of these photographs; one fold is held out."""

    def __init__(self, work_dir: Path, name: str):
        self.work_dir, self.name, self.dataset = work_dir, name, build(work_dir, name)
        self.features = backbone_features(str(ROOT / "demo_models" / "backbone"), None, work_dir / "pixels")
        self.people = People(self.dataset, self.features)
        self.own, self.terms = condition_prior.profiles(self.people.codes, condition_prior.project_table())
        (self.fold,) = protocols.folds(self.people.images, "strict", ADAPTER_FOLD)

    def open(self, k: str, seed: int) -> tuple[protocols.Fold, Images]:
        """A support set, and the images of its adapters, which are trained unless they are there."""
        folder = self.work_dir / f"adapters_{self.name}_k{k}_seed{seed}"
        flags = ["--dataset_name", self.dataset, "--fold", ADAPTER_FOLD, "--k_shot", k, "--seed", seed]
        flags += ["--pretrained_model_name_or_path", BASE, "--guidance_scale", 1.5]
        flags += ["--rank", 8, "--learning_rate", 3e-3, "--max_train_steps", ADAPTER_STEPS, "--adapters_per_batch", 8]
        flags += ["--instance_prompt", "photo of a {rare_token} child{with_terms}", "--sample_batch_size", 12]
        images = open_images(sampled(folder, ADAPTER_IMAGES, flags), self.people.names, self.terms, self.features)
        return protocols.k_shot(self.fold, self.people.labels.tolist(), int(k), seed), images

    def draw(self, k: str, seed: int) -> dict:
        """Arm 7 of the plan."""
        fold, images = self.open(k, seed)
        arms = {"terms": Arm(None, "", self.own, True), "DreamBooth as data": Arm(images, "data")}
        arms |= {"DreamBooth as prior": Arm(images, "prior")}
        arms |= {"terms, DreamBooth as prior": Arm(images, "prior", self.own, True)}
        return measured(self.people, fold, seed, arms)

    def weights(self, k: str, seed: int) -> dict:
        """DreamBooth images as a prior of each weight."""
        fold, images = self.open(k, seed)
        draws, kept = [], synthetic_teachers.PRIOR_WEIGHT
        try:
            for weight in WEIGHTS:
                synthetic_teachers.PRIOR_WEIGHT = weight
                draws.append(measured(self.people, fold, seed, {f"weight {weight}": Arm(images, "prior")}))
        finally:
            synthetic_teachers.PRIOR_WEIGHT = kept
        return joined(draws)


def of_adapters(work_dir: Path, results_dir: Path, part: str, ks: Sequence[str], seeds: Sequence[int]) -> None:
    """Arm 7, or the choice of PRIOR_WEIGHT, and the figures of all support sets that were measured so far."""
    opened: list[AdapterStudy] = []

    def draw(k: str, seed: int) -> list[dict]:
        if not opened:
            opened.append(AdapterStudy(work_dir, "tuning" if part == "tuning" else "study"))
        return [opened[0].weights(k, seed) if part == "tuning" else opened[0].draw(k, seed)]

    results = {}
    for k in [k for k in ks if k in ADAPTER_KS]:
        parts = {f"k{k}_seed{seed}": functools.partial(draw, k, seed) for seed in seeds}
        draws = kept_draws(results_dir / f"draws_{part}.json", parts)
        results[k] = {"seeds": list(seeds), "gains": gains(draws)}
        print_arms(f"SIMULATED, {part}, k = {k}, seeds {list(seeds)}", results[k]["gains"])
    write_json(results_dir / f"{part}.json", results)


# -------------------------------------------------------------------------------------------------------- faces found


def share_of_one_face(pictures: Sequence[np.ndarray]) -> dict[str, dict]:
    """Black border -> the share of pictures in which MTCNN finds no face, one, and more, as the filter looks."""
    detector, shares = load_detector("mtcnn"), {}
    for border in BORDERS:
        numbers = np.array([0 if face is None else face.n_faces for face in detector.detect(pictures, border=border)])
        found = {"none": numbers == 0, "one": numbers == 1, "more": numbers > 1}
        shares[f"border {border:g}"] = {name: round(float(which.mean()), 3) for name, which in found.items()}
    return shares | {"n_images": len(pictures)}


def faces_found(work_dir: Path, results_dir: Path) -> None:
    """Faces in two images by words of each of the 103 conditions, by length of the prompt, and in what the base saw."""
    images = load_synthetic(str(paint(work_dir, "two", [c.abbr for c in conditions_of("others")], 2)))
    pictures = [np.asarray(picture.convert("RGB")) for picture in images["image"][:]]
    n_terms = np.array([len(said or ()) for said in images["hpo_said"][:]])
    people = load_images(str(build(work_dir, "others")))
    aligned = cached_pixels(Accelerator(cpu=True), people, pictures[0].shape[0], "mtcnn", work_dir / "pixels").uint8
    median = float(np.median(n_terms))
    found = {"images by words": share_of_one_face(pictures)}
    for name, chosen in ((f"{median:g} terms or fewer", n_terms <= median), ("more terms", n_terms > median)):
        found[f"images by words, {name}"] = share_of_one_face([pictures[row] for row in np.flatnonzero(chosen)])
    found["simulated photographs, aligned, of the same size"] = share_of_one_face(list(aligned))
    write_json(results_dir / "faces.json", {"simulated": True, "side_px": pictures[0].shape[0], "found": found})
    for name, shares in found.items():
        print(f"SIMULATED, {name}: {shares}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--work_dir", type=Path, required=True, help="datasets, images and pixels; kept")
    add("--results_dir", type=Path, default=RESULTS, help="where the small files of figures are kept")
    add("--part", nargs="+", choices=PARTS, default=["words"], help="what to measure")
    add("--k", nargs="+", choices=KS, default=KS, help="photographs per condition; adapters are trained for 1 and 2")
    add("--seeds", nargs="+", type=int, default=[0], help="seeds of support sets and adapters")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    for part in args.part:
        if part == "faces":
            faces_found(args.work_dir, args.results_dir)
        elif part in ("tuning", "dreambooth"):
            of_adapters(args.work_dir, args.results_dir, part, args.k, args.seeds)
        else:
            of_words(args.work_dir, args.results_dir, part, args.k)


if __name__ == "__main__":
    main(parse_args())
