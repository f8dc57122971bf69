"""What annotated terms add to few photographs, on SIMULATED people, also if they are wrong: docs/knowledge_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/knowledge_gain.py --work_dir runs/knowledge [--study few 103] [--k 1 2 3 all]

Each part (k and seed, or a fold) leaves its draws in its study's file, --results_dir/draws_STUDY.json, with a digit per
held-out image and arm, and is not measured again; simulated.json and simulated_103.json are all figures."""

import argparse
import dataclasses
import functools
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.augmentation_gain import launch
from classification.backbones import load_backbone
from classification.extraction import features_of
from classification.knowledge_choice import SHRINKAGE, fit_informed_probe, log_losses, span
from classification.knowledge_prior import Teachers, informed_discriminants, likeness
from classification.linear_probe import INNER_FOLDS, SHRINKAGES, LinearProbe, fit_linear_probe
from classification.variance_shares import likeliest_shares
from curation import protocols
from curation.leak_guard import Guard
from curation.opening import load_images
from harness.commands import Parser
from harness.files import read_json, write_atomically, write_json
from imaging.pixel_cache import cached_pixels
from phenotyping import condition_prior, phenotypes
from scoring.intervals import bootstrap_interval
from simulation import corpus, photography

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "knowledge_gain"
FRESH_RANKS = (1, 3, 8, 10, 11, 19, 21, 24, 33, 34, 42, 45, 47, 50, 58, 70, 75, 81, 82, 83, 85, 90, 101)
CORPORA = {"study": (81, 600), "readers": (84, 480), "true_people": (85, 276), "103": (87, 456)}  # seed, photographs
HELD_OUT_FOLDS = (0, 1)
MISSING = (0.2, 0.4, 0.6)  # shares of each class's annotations
WRONG = 0.2  # share of each class's annotations that name another term
SEEDS, FOLDS = range(3), range(protocols.N_FOLDS)
KS = ("1", "2", "3", "all")


class People:
    """The photographs of one dataset as the arms need them; features (n, d)."""

    def __init__(self, dataset: Path, features: Callable):
        self.images = load_images(str(dataset))
        self.names = self.images.features["label"].names
        self.labels = np.array(self.images["label"][:])
        self.groups = np.array(self.images["group_id"][:])
        self.image_ids = self.images["image_id"][:]
        codes = dict(zip(self.labels.tolist(), self.images["orphanet_code"][:], strict=True))
        self.codes = [codes.get(label) for label in range(len(self.names))]
        self.features = features(self.images)

    def held_out(self, fold: protocols.Fold) -> Guard:
        return Guard(fold, {"image_id": self.image_ids, "group_id": self.groups})


def backbone_features(name: str, weights: Path | None, cache_dir: Path) -> Callable:
    """A function of photographs: their features (n, d) by a backbone, faces aligned by MTCNN."""
    backbone = load_backbone(name, weights)

    def features(images) -> np.ndarray:
        accelerator = Accelerator(cpu=True)
        pixels = cached_pixels(accelerator, images, backbone.image_size, "mtcnn", cache_dir)
        return features_of(accelerator, backbone, pixels.uint8, np.arange(len(images)), 32)

    return features


def build(work_dir: Path, name: str) -> Path:
    """One of the simulated corpora, unless it exists already."""
    study = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS]
    chosen = [c for c in study if name == "103" or (c.rank in FRESH_RANKS) != (name == "readers")]
    seed, n = CORPORA[name]
    return simulate(work_dir, name, chosen, n, seed)


def simulate(work_dir: Path, name: str, chosen: Sequence[phenotypes.Condition], n: int, seed: int) -> Path:
    """n photographs of people with these conditions, built as a curator builds a dataset, unless it exists already."""
    raw, built = work_dir / f"{name}-raw", work_dir / f"{name}-sim"
    if (built / "README.md").is_file():
        return built
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    photographs = corpus.plan_corpus(n, tuple(chosen), seed)
    corpus.write_corpus(raw, photographs, image_size=256, seed=seed, effect=photography.EFFECT, num_workers=1)
    return curate(raw, built)


def curate(folder: Path, built: Path) -> Path:
    """A curator's folder, built as a dataset unless it is built already."""
    if not (built / "README.md").is_file():
        launch("rdface_dataset.py", "build", folder, "--output_dir", built)
    return built


def support_set(people: People, allowed: np.ndarray, k: int | None, seed: int) -> protocols.Fold:
    """k of the allowed rows per class, drawn by seed (None: all), to train on; whoever is not allowed is tested."""
    fold = protocols.Fold(0, np.flatnonzero(allowed), np.array([], int), np.flatnonzero(~allowed))
    if k is None:
        return fold
    drawn = protocols.k_shot(fold, people.labels.tolist(), k, seed)
    return protocols.Fold(0, drawn.train, drawn.val, fold.test)


def is_right(probe: LinearProbe, people: People, rows: np.ndarray) -> np.ndarray:
    """Which of the rows (r,) the probe gives the highest score to their own class, (r,) float."""
    best = probe.classes[probe.scores(people.features[rows]).argmax(axis=1)]
    return (best == people.labels[rows]).astype(float)


def readers_of(people: People, profiles: np.ndarray, first_number: int) -> Teachers:
    """Everybody of a dataset as readers: profiles (c, T) of its classes."""
    n = len(people.labels)
    return Teachers(people.features, profiles[people.labels], first_number + people.labels, np.ones(n, int))


def with_people(people: People, others: People, fold: protocols.Fold) -> tuple:
    """Features, labels, groups, rows and guard of a training side with all of `others` in it, as data."""
    of_class = np.array([people.names.index(name) for name in others.names])
    n, m = len(people.labels), len(others.labels)
    labels = np.concatenate([people.labels, of_class[others.labels]])
    groups = np.concatenate([people.groups, [f"other {group}" for group in others.groups]])
    more = protocols.Fold(0, np.concatenate([fold.train, n + np.arange(m)]), fold.val, fold.test)
    guard = Guard(more, {"image_id": [*people.image_ids, *(f"other {i}" for i in range(m))], "group_id": groups})
    return np.concatenate([people.features, others.features]), labels, groups, more.train, guard


# ------------------------------------------------------------------------------------------- knowledge that is wrong


def thinned(profiles: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Profiles (C, T) with this share of each class's annotations set to 0."""
    rng, kept = np.random.default_rng([seed, 40]), profiles.copy()
    for row in kept:
        annotated = np.flatnonzero(row)
        row[rng.permutation(annotated)[: round(share * len(annotated))]] = 0.0
    return kept


def dealt_at_random(profiles: np.ndarray, seed: int) -> np.ndarray:
    """Profiles (C, T) of these classes, each given to a class drawn at random."""
    return np.random.default_rng([seed, 41]).permutation(profiles)


def with_wrong_terms(profiles: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Profiles (C, T) in which this share of each class's annotations names another of the terms, equally frequent."""
    rng, wrong = np.random.default_rng([seed, 42]), profiles.copy()
    for row in wrong:
        annotated, others = (rng.permutation(np.flatnonzero(which)) for which in (row > 0, row == 0))
        n = min(round(share * len(annotated)), len(others))
        row[others[:n]], row[annotated[:n]] = row[annotated[:n]], 0.0
    return wrong


def without_frequencies(profiles: np.ndarray) -> np.ndarray:
    """Profiles (C, T) that only say whether a term is annotated: 1 or 0."""
    return (profiles > 0).astype(float)


def drawn_means(people: People, fold: protocols.Fold, guard: Guard, readers: Teachers | None = None) -> LinearProbe:
    """The head that knowledge uses, without knowledge: all class means drawn towards the common mean.

    How far is read from the training side by likelihood, as with knowledge; the shrinkage is chosen on inner folds, or
    is that of knowledge if there can be none. readers: their terms are not looked at."""
    rows = guard.admit(fold.train, "class means (prototypes)")
    labels, groups, n = people.labels[rows], people.groups[rows], len(rows)
    teachers = Teachers(people.features[rows], np.zeros((n, 1)), labels, np.zeros(n, int))
    if readers is not None:
        teachers = teachers.joined(dataclasses.replace(readers, profiles=np.zeros((len(readers), 1))))
    centre, axes = span(teachers.features)
    teachers = dataclasses.replace(teachers, features=(teachers.features - centre) @ axes.T)
    nothing = np.zeros((len(people.names), 1))
    shares, _ = likeliest_shares(teachers, likeness(teachers, nothing), use_terms=False)
    inner = np.array([-1 if k is None else k for k in protocols.strict_folds(labels.tolist(), groups, INNER_FOLDS)])
    losses = []
    for k in sorted(set(inner.tolist()) - {-1}):
        held_out = np.flatnonzero(inner == k)
        learns = np.ones(len(teachers), bool)
        learns[:n] = ~np.isin(groups, groups[held_out])
        asked = (teachers.features[held_out], labels[held_out], np.unique(labels[learns[:n]]))
        probes = informed_discriminants(teachers.only(learns), nothing, shares, SHRINKAGES)
        losses.append(np.stack([log_losses(probe, *asked) for probe in probes], axis=1))  # (held out, shrinkages, ...)
    shrinkage = SHRINKAGE
    if losses:
        shrinkage = SHRINKAGES[int(np.concatenate(losses).mean(axis=0).min(axis=1).argmin())]
    (probe,) = informed_discriminants(teachers, nothing, shares, [shrinkage])
    seen = np.unique(labels)
    weights = probe.weights[seen] @ axes
    return LinearProbe(seen, weights, probe.biases[seen] - weights @ centre, shrinkage)


# ------------------------------------------------------------------------------------------- one draw, and all of them


def one_draw(
    people: People,
    fold: protocols.Fold,
    seed: int,
    known: dict[str, tuple[np.ndarray, Teachers | None]],
    heads: dict[str, Teachers | None],
    others: People | None = None,
) -> dict:
    """All arms of one draw, as kept in a part's file: for each arm a digit per held-out image, 1 if it was right.

    known: arm -> profiles and readers; heads: arm without knowledge -> readers; others: further people, as data."""
    guard, data = people.held_out(fold), (people.features, people.labels, people.groups)
    right = {"alone": is_right(fit_linear_probe(*data, fold.train, guard), people, fold.test)}
    choices = {}
    for arm, (profiles, readers) in known.items():
        probe, choice = fit_informed_probe(*data, fold.train, guard, profiles, readers)
        right[arm], choices[arm] = is_right(probe, people, fold.test), dataclasses.asdict(choice)
    for arm, readers in heads.items():
        right[arm] = is_right(drawn_means(people, fold, guard, readers), people, fold.test)
    if others is not None:
        right["true people"] = is_right(fit_linear_probe(*with_people(people, others, fold)), people, fold.test)
    _, person = np.unique(people.groups, return_inverse=True)
    record = {"seed": seed, "rows": fold.test.tolist(), "people": person[fold.test].tolist()}
    digits = {arm: "".join("1" if value else "0" for value in values) for arm, values in right.items()}
    return record | {"right": digits, "choices": choices}


def gains(draws: Sequence[dict], baseline: str = "alone") -> dict[str, dict]:
    """Of each arm: top-1 in percent, its gain over the baseline in points with its 95 % interval over people, and n.

    draws: of one_draw; an image that an arm was not asked for has "-" in place of its digit."""
    results = {}
    for arm in draws[0]["right"]:
        rows, people, own, alone = [], [], [], []
        for draw in draws:
            asked = [digit != "-" for digit in draw["right"][arm]]
            for values, source in ((rows, draw["rows"]), (people, draw["people"])):
                values += itertools.compress(source, asked)
            for values, which in ((own, arm), (alone, baseline)):
                values += map(int, itertools.compress(draw["right"][which], asked))
        _, first, image = np.unique(rows, return_index=True, return_inverse=True)
        gain_of, times = (np.bincount(image, values) for values in (np.subtract(own, alone), np.ones(len(own))))

        def mean(weights: np.ndarray, gain_of: np.ndarray = gain_of, times: np.ndarray = times) -> np.ndarray:
            return weights @ gain_of / (weights @ times)

        person = np.array(people)[first]
        values = (float(np.mean(np.subtract(own, alone))), *bootstrap_interval(mean, person.tolist()))
        results[arm] = {
            "top1": round(100 * float(np.mean(own)), 1),
            "gain": [round(100 * float(value), 1) for value in values],
            "n_images": len(first),
            "n_people": len(set(person.tolist())),
        }
    return results


def kept_draws(file: Path, parts: Mapping[str, Callable[[], list[dict]]]) -> list[dict]:
    """The draws of these parts, one after another; those that the study's file does not hold are measured, and kept."""
    draws = []
    for name, measure in parts.items():
        kept = _read_draws(file)
        if name not in kept:
            measured = measure()
            kept = _read_draws(file) | {name: measured}  # another process may have added parts meanwhile
            text = ",\n".join(f'"{part}": {json.dumps(kept[part], separators=(",", ":"))}' for part in kept)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda partial, text=text: partial.write_text(f"{{\n{text}\n}}\n"))
        draws += kept[name]
    return draws


def _read_draws(file: Path) -> dict[str, list[dict]]:
    return read_json(file, "delete it, and its draws are measured anew") if file.is_file() else {}


def print_arms(title: str, arms: dict[str, dict]) -> None:
    print(title)
    for arm, scores in arms.items():
        gain, low, high = scores["gain"]
        print(f"  {arm:50} {scores['top1']:5.1f} %   {gain:+5.1f} [{low:+.1f}, {high:+.1f}]   n {scores['n_images']}")


# --------------------------------------------------------------------------------------------------------- the studies


class FewPhotographs:
    """23 conditions with k photographs each, and readers with the other 80; features: a function of photographs."""

    def __init__(self, work_dir: Path, features: Callable):
        names = ("study", "readers", "true_people")
        self.study, self.readers, self.others = (People(build(work_dir, name), features) for name in names)
        codes = [*self.study.codes, *self.readers.codes]
        profiles, _ = condition_prior.profiles(codes, condition_prior.project_table())
        self.own, self.of_readers = np.split(profiles, [len(self.study.names)])
        fold_of = np.array([-1 if k is None else k for k in self.study.images["strict_fold"][:]])
        self.allowed = ~np.isin(fold_of, HELD_OUT_FOLDS)

    def draw(self, k: int | None, seed: int) -> dict:
        """All arms of one support set."""
        own, n = self.own, len(self.study.names)
        taught = readers_of(self.readers, self.of_readers, n)
        known = {"terms": (own, None), "terms and readers": (own, taught)}
        known |= {f"{share:.0%} of annotations missing": (thinned(own, share, seed), taught) for share in MISSING}
        everywhere = readers_of(self.readers, thinned(self.of_readers, 0.4, seed), n)
        known["40% missing, those of readers too"] = (thinned(own, 0.4, seed), everywhere)
        known["without frequencies"] = (
            without_frequencies(own),
            readers_of(self.readers, without_frequencies(self.of_readers), n),
        )
        known[f"{WRONG:.0%} of annotations wrong"] = (with_wrong_terms(own, WRONG, seed), taught)
        known["profiles dealt at random"] = (dealt_at_random(own, seed), taught)
        heads = {"same head, no knowledge": None, "same head, no knowledge, readers": taught}
        fold = support_set(self.study, self.allowed, k, seed)
        return one_draw(self.study, fold, seed, known, heads, self.others)


def miniature(work_dir: Path) -> Callable:
    """The miniature backbone's function of photographs."""
    return backbone_features(str(ROOT / "demo_models" / "backbone"), None, work_dir / "pixels")


def few(work_dir: Path, results_dir: Path, ks: Sequence[str], features: Callable, name: str = "few") -> dict:
    """k -> arm -> figures; parts that the file of draws of this name lacks are measured.

    features: gives the function of photographs, once it is needed."""
    opened: list[FewPhotographs] = []

    def measure(k: str, seed: int) -> list[dict]:
        if not opened:
            opened.append(FewPhotographs(work_dir, features()))
        return [opened[0].draw(None if k == "all" else int(k), seed)]

    results = {}
    for k in ks:
        parts = {f"k{k}_seed{seed}": functools.partial(measure, k, seed) for seed in SEEDS}
        results[k] = gains(kept_draws(results_dir / f"draws_{name}.json", parts))
        print_arms(f"SIMULATED, {name}, k = {k}", results[k])
    return results


def all_conditions(work_dir: Path, results_dir: Path) -> dict:
    """103 conditions with all photographs: each photograph is held out once."""
    opened: list[People] = []

    def measure(number: int) -> list[dict]:
        if not opened:
            opened.append(People(build(work_dir, "103"), miniature(work_dir)))
        (people,) = opened
        own, _ = condition_prior.profiles(people.codes, condition_prior.project_table())
        (fold,) = protocols.folds(people.images, "strict", number)
        known = {"terms": (own, None)}
        known |= {f"{share:.0%} of annotations missing": (thinned(own, share, 0), None) for share in MISSING}
        known["without frequencies"] = (without_frequencies(own), None)
        known[f"{WRONG:.0%} of annotations wrong"] = (with_wrong_terms(own, WRONG, 0), None)
        known["profiles dealt at random"] = (dealt_at_random(own, 0), None)
        return [one_draw(people, fold, 0, known, {"same head, no knowledge": None})]

    parts = {f"fold{number}": functools.partial(measure, number) for number in FOLDS}
    draws = kept_draws(results_dir / "draws_103.json", parts)
    results = gains(draws)
    print_arms("SIMULATED, 103 conditions, all photographs", results)
    return results


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="datasets and pixels; kept")
    parser.add_argument("--results_dir", type=Path, default=RESULTS, help="where the small files of figures are kept")
    parser.add_argument("--study", nargs="+", choices=("few", "103"), default=("few", "103"), help="which to measure")
    parser.add_argument("--k", nargs="+", choices=KS, default=KS, help="photographs per condition, of few")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if "few" in args.study:
        results = few(args.work_dir, args.results_dir, args.k, lambda: miniature(args.work_dir))
        if set(args.k) == set(KS):
            write_json(args.results_dir / "simulated.json", results)
    if "103" in args.study:
        write_json(args.results_dir / "simulated_103.json", all_conditions(args.work_dir, args.results_dir))


if __name__ == "__main__":
    main(parse_args())
