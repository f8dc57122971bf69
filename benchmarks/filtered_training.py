"""What the filter does to memorised faces, and to a classifier's training, on SIMULATED people: docs/filter_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/filtered_training.py --work_dir runs/filtered_training

Adapters that saw one photograph each are the positive control of the membership attack; adapters as in the demo are
filtered, and a linear probe is trained with our selection, the paper's, and a random draw of as many images. Finished
runs and results are kept, so a stopped study continues where it was; --results_dir gets a small JSON file per part."""

import argparse
import dataclasses
import functools
import shutil
import sys
from pathlib import Path

import cv2
import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import RidgeCV
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.augmentation_causes import through
from benchmarks.augmentation_gain import ROOT, launch
from classification.backbones import load_backbone
from curation import protocols
from curation.opening import load_images, load_synthetic, photograph_sha256
from curation.schema import synthetic_features
from generation import membership_attack, synthetic_images
from generation.face_examination import Examined, Examiner
from generation.selection import Selection, select
from harness.commands import Parser
from harness.errors import InputError
from harness.files import read_json, write_json
from imaging import faces
from imaging.face_cache import CachedDetector
from phenotyping import phenotypes
from scoring import prediction_files, run_scores
from simulation import corpus, photography
from simulation.people import COUNTRY_ANCESTRY

# ---- the plan
FOLD, SIDE_PX = 0, 128
DRAWN_PX = 160  # side of the photographs that only readings are made of
CORPUS_SEED, READER_SEED, OTHERS_SEED = 2501, 2503, 2504
OVERFITTED = "overfitted"  # the generator whose adapters saw one photograph each
NUM_READ_PEOPLE, NUM_ERROR_PEOPLE = 400, 160  # on whom readings are fitted, and on whom their errors are measured
OTHERS_PER_CONDITION = 8
ORIENTATIONS = 8  # of gradients
LEAST_R2 = 0.2  # of a parameter that counts as read
MISTAKEN = 0.05  # share of other people with the condition that count as memorised
ARMS = ("ours", "paper", "random")
BACKBONE = ROOT / "demo_models" / "backbone"


# ---- corpus, generators, filter, classifiers: the project's commands, as a user runs them


def chosen_conditions(num_conditions: int) -> list[phenotypes.Condition]:
    """The first of those that neither augmentation study measured or tuned on (augmentation_gain.chosen_conditions)."""
    study = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS]
    first = np.random.default_rng(2026).choice(len(study), 30, replace=False)
    second = np.random.default_rng(2027).permutation(np.setdiff1d(np.arange(len(study)), first))
    return [study[i] for i in sorted(second[30:-20][:num_conditions])]


def planned_photographs(args: argparse.Namespace) -> list[photography.Photograph]:
    return corpus.plan_corpus(args.num_photographs, tuple(chosen_conditions(args.num_conditions)), CORPUS_SEED)


def build_corpus(args: argparse.Namespace) -> Path:
    """The study's corpus, simulated, and built as a curator builds a dataset, unless it exists already."""
    raw, built = args.work_dir / "raw", args.work_dir / "rdface-sim"
    if not (built / "README.md").is_file():
        shutil.rmtree(raw, ignore_errors=True)
        raw.mkdir(parents=True)
        planned = planned_photographs(args)
        corpus.write_corpus(raw, planned, image_size=256, seed=CORPUS_SEED, effect=photography.EFFECT, num_workers=1)
        launch("rdface_dataset.py", "build", raw, "--output_dir", built)
    return built


def generate(name: str, dataset: Path, args: argparse.Namespace) -> Path:
    """Adapters and the images sampled from them, unless they exist. name: OVERFITTED, or seed0, seed1, .. ."""
    folder = args.work_dir / name / "dreambooth"
    images = folder / f"fold{FOLD}" / "synthetic"
    if not (folder / "run.json").is_file():
        flags = ["--dataset_name", dataset, "--pretrained_model_name_or_path", args.base, "--fold", FOLD]
        if name == OVERFITTED:
            flags += ["--k_shot", 1, "--max_train_steps", args.overfitting_steps, "--seed", 0]
        else:
            flags += ["--max_train_steps", args.max_train_steps, "--seed", name.removeprefix("seed")]
        flags += ["--learning_rate", 3e-3, "--rank", 8, "--adapters_per_batch", 7, "--num_images", args.num_images]
        flags += ["--instance_prompt", "photo of a {rare_token} child{with_terms}", "--sample_batch_size", 24]
        flags += ["--guidance_scale", 1.5, "--cache_dir", args.work_dir / "pixels", "--output_dir", folder]
        if (folder / "settings.json").is_file():
            flags += ["--resume_from_checkpoint", "latest"]
        launch("train_dreambooth.py", *flags)
    return images


def filtered(name: str, images: Path, dataset: Path, args: argparse.Namespace) -> Path:
    """The same images, scored by the filter, which keeps some of them, unless that was done."""
    folder = args.work_dir / name / "filtered"
    if not (folder / "run.json").is_file():
        flags = ["--dataset_name", dataset, "--synthetic_dataset", images, "--protocol", "strict", "--fold", FOLD]
        flags += ["--backbone", BACKBONE, "--cache_dir", args.work_dir / "pixels", "--output_dir", folder]
        flags += [] if name == OVERFITTED else ["--per_class", args.per_class]
        launch("filter_synthetic.py", *flags)
    return folder


def selected_by_cosine(folder: Path, scored: datasets.Dataset, count: int) -> np.ndarray:
    """The paper's selection: the images (count,) of highest landmark cosine over all conditions, of all with a face.

    They are written to `folder` as their generator made them, without a score: no option of a command chooses so."""
    cosines = np.array(scored["cosine"][:], dtype=float)
    reasons = select(cosines, np.array(scored["label"][:]), np.isfinite(cosines), Selection(top_n=count))
    rows = np.flatnonzero([reason is None for reason in reasons])
    names = scored.features["label"].names
    columns = [*synthetic_features(names)]
    chosen = scored.select_columns(columns).cast_column("image", datasets.Image(decode=False)).select(rows)
    part = folder.with_name(f".{folder.name}.parquet")
    synthetic_images.write_part(part, [row | {"label": names[row["label"]]} for row in chosen], names)
    synthetic_images.write_dataset(folder, [part])
    part.unlink()
    return rows


def classify(output: Path, dataset: Path, seed: int, args: argparse.Namespace, *mix: object) -> Path:
    """A linear probe on the fold's training side and what `mix` adds to it, unless it exists."""
    if not (output / "run.json").is_file():
        flags = ["--dataset_name", dataset, "--backbone", BACKBONE, "--fold", FOLD, "--recipe", "linear_probe"]
        flags += ["--seeds", seed, "--no-save_models", *mix]
        launch("train_classifier.py", *flags, "--cache_dir", args.work_dir / "pixels", "--output_dir", output)
    return output


# ---- who is memorised: face parameters read from pictures, compared with the true ones


def reading_features(pictures: np.ndarray) -> np.ndarray:
    """Oriented gradients and coarse colours (n, d) of aligned pictures (n, SIDE_PX, SIDE_PX, 3) uint8."""
    rows = []
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        strength, angle = cv2.cartToPolar(*(cv2.Sobel(grey, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))))
        sector = (angle * (ORIENTATIONS / (2 * np.pi))).astype(int) % ORIENTATIONS
        maps = np.stack([strength * (sector == k) for k in range(ORIENTATIONS)], axis=-1)
        gradients = np.sqrt(cv2.resize(maps, (16, 16), interpolation=cv2.INTER_AREA).ravel())
        coarse = cv2.resize(picture, (16, 16), interpolation=cv2.INTER_AREA).ravel() / 255
        rows.append(np.concatenate([gradients / gradients.mean(), coarse]))
    return np.stack(rows)


def drawn(photographs: list[photography.Photograph], seed: int, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Aligned pictures (n, SIDE_PX, SIDE_PX, 3) of photographs as the simulator takes them, and the people's true face
    parameters (n, p)."""
    pictures, parameters = [], []
    for photograph in tqdm(photographs, desc=title):
        picture, points, person, _, _ = photography.take(photograph, DRAWN_PX, seed)
        pictures.append(faces.align(np.ascontiguousarray(picture), points[:5], SIDE_PX))
        parameters.append([person.z[name] for name in phenotypes.parameters()])
    return np.stack(pictures), np.array(parameters)


def plan_of(number: int, condition: phenotypes.Condition, country: str) -> photography.Photograph:
    return photography.Photograph(number, "", condition, number, number, None, country)


@dataclasses.dataclass
class Reader:
    """Reads face parameters from pictures, and tells how far a reading lies from what a person's would be."""

    vae: AutoencoderKL  # photographs go through it, as the generators' images came out of it
    ridge: RidgeCV
    kept: np.ndarray  # (p,) bool: the parameters that can be read
    slopes: np.ndarray  # (r,) and offsets (r,): of the reading on the true value, which ridge regression draws inwards
    offsets: np.ndarray
    precision: np.ndarray  # (r, r) inverse covariance of a reading's errors

    @staticmethod
    def fitted(vae: AutoencoderKL) -> "Reader":
        """On people with conditions outside the study; the errors are measured on others than the regression."""
        pool, countries = phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :], list(COUNTRY_ANCESTRY)
        numbers = range(NUM_READ_PEOPLE + NUM_ERROR_PEOPLE)
        plans = [plan_of(i, pool[i % len(pool)], countries[i % len(countries)]) for i in numbers]
        pictures, true = drawn(plans, READER_SEED, "people to read")
        features = reading_features(through(vae, pictures))
        ridge = RidgeCV(alphas=10.0 ** np.arange(-1, 6)).fit(features[:NUM_READ_PEOPLE], true[:NUM_READ_PEOPLE])
        read, true = ridge.predict(features[NUM_READ_PEOPLE:]), true[NUM_READ_PEOPLE:]
        kept = 1 - np.square(read - true).mean(axis=0) / true.var(axis=0) > LEAST_R2
        read, true = read[:, kept], true[:, kept]
        slopes = ((read - read.mean(axis=0)) * (true - true.mean(axis=0))).mean(axis=0) / true.var(axis=0)
        offsets = read.mean(axis=0) - slopes * true.mean(axis=0)
        precision = np.linalg.inv(LedoitWolf().fit(read - offsets - slopes * true).covariance_)
        return Reader(vae, ridge, kept, slopes, offsets, precision)

    def distances(self, samples: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Mahalanobis distance (n, m) of pictures (n, SIDE_PX, SIDE_PX, 3), as a generator made them, from people whose
        true parameters (m, p) are known."""
        read = self.ridge.predict(reading_features(samples))[:, self.kept]
        errors = read[:, None] - (self.offsets + self.slopes * true[:, self.kept])[None]
        return np.sqrt(np.einsum("nmr,rs,nms->nm", errors, self.precision, errors))


def nearest_source(
    reader: Reader, samples: np.ndarray, labels: np.ndarray, true: np.ndarray, of_label: np.ndarray
) -> np.ndarray:
    """Distance (n,) of each sample from the nearest of the people with its label.

    labels (n,): of the samples; true (m, p), of_label (m,): of the people. inf without such a person."""
    distances = np.where(labels[:, None] == of_label[None], reader.distances(samples, true), np.inf)
    return distances.min(axis=1)


# ---- what is measured


@dataclasses.dataclass
class Study:
    """The photographs and what is known of them."""

    args: argparse.Namespace
    images: datasets.Dataset
    fold: protocols.Fold
    labels: np.ndarray  # (n,)
    groups: np.ndarray  # (n,) people with their near duplicates
    row_of: dict[str, int]  # digest -> row
    true: np.ndarray  # (n, p) face parameters of the people photographed
    planned: list[photography.Photograph]  # (n,) how the photographs were taken

    @staticmethod
    def opened(dataset: Path, args: argparse.Namespace) -> "Study":
        images = load_images(str(dataset))
        (fold,) = protocols.folds(images, "strict", FOLD)
        truth = pq.read_table(args.work_dir / "raw" / "ground_truth.parquet", columns=["image_name", "parameters"])
        parameters = {Path(row["image_name"]).stem: row["parameters"] for row in truth.to_pylist()}
        planned = {Path(photograph.image_name).stem: photograph for photograph in planned_photographs(args)}
        image_ids = images["image_id"][:]
        return Study(
            args,
            images,
            fold,
            np.array(images["label"][:]),
            np.array(images["group_id"][:], dtype=object),
            {digest: row for row, digest in enumerate(photograph_sha256(images))},
            np.array([parameters[image_id] for image_id in image_ids]),
            [planned[image_id] for image_id in image_ids],
        )

    @functools.cached_property
    def examiner(self) -> Examiner:
        """Detects, aligns and embeds faces as the filter does by default."""
        detector = CachedDetector(faces.load_detector("mtcnn"), self.args.work_dir / "pixels")
        return Examiner(detector, load_backbone(str(BACKBONE)), "cpu")

    @functools.cached_property
    def identities(self) -> np.ndarray:
        """(n, d) embeddings of the photographs' faces, nan without one."""
        return examined(self.examiner, self.images, "photographs").identities

    @functools.cached_property
    def vae(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.args.base, subfolder="vae", torch_dtype=torch.float32).eval()

    @functools.cached_property
    def reader(self) -> Reader:
        return Reader.fitted(self.vae)

    @functools.cached_property
    def others(self) -> np.ndarray:
        """Pictures of other people with the study's conditions, OTHERS_PER_CONDITION each, in the order of labels."""
        conditions = {condition.abbr: condition for condition in phenotypes.conditions()}
        countries, plans = list(COUNTRY_ANCESTRY), []
        for name in self.images.features["label"].names:
            for _ in range(OTHERS_PER_CONDITION):
                plans.append(plan_of(len(plans), conditions[name], countries[len(plans) % len(countries)]))
        return through(self.vae, drawn(plans, OTHERS_SEED, "other people")[0])

    @functools.cached_property
    def again(self) -> np.ndarray:
        """New pictures (n, ..) of the people in the photographs, in another pose, light and expression."""
        first = 10 * len(self.planned)  # a number that no photograph of the corpus has
        plans = [
            dataclasses.replace(photograph, number=first + i, taken=first + i, duplicate_of=None)
            for i, photograph in enumerate(self.planned)
        ]
        return through(self.vae, drawn(plans, CORPUS_SEED, "new photographs")[0])

    def sources(self, scored: datasets.Dataset) -> np.ndarray:
        """Rows of the photographs that a generator's adapters were trained on. An adapter's own have its label."""
        named = {digest for digests in scored["source_sha256"][:] for digest in digests}
        rows = np.array(sorted(self.row_of[digest] for digest in named))
        if not np.isin(rows, self.fold.train).all():
            raise InputError("an adapter was trained on a photograph outside the fold's training side")
        return rows


def examined(examiner: Examiner, pictures: datasets.Dataset, title: str) -> Examined:
    """What the filter measures, of all pictures; faces it has detected before come from its cache."""
    undecoded = pictures.select_columns("image").cast_column("image", datasets.Image(decode=False))
    parts = []
    for start in tqdm(range(0, len(undecoded), 32), desc=title):
        rows = undecoded.select(range(start, min(start + 32, len(undecoded))))
        parts.append(examiner.examine([row["image"] for row in rows]))
    return Examined.joined(parts)


def attack_record(study: Study, of: Examined, scored: datasets.Dataset, chosen: np.ndarray) -> dict | str:
    """The membership attack with the images chosen (m,) bool, or why there is none."""
    sources = study.sources(scored)
    is_member = np.isin(study.groups, study.groups[sources]) & np.isin(np.arange(len(study.groups)), study.fold.train)
    rows = np.flatnonzero(is_member | np.isin(np.arange(len(study.groups)), study.fold.test))
    rows = rows[np.isfinite(study.identities[rows]).all(axis=1)]
    people = membership_attack.People(study.identities[rows], study.labels[rows], study.groups[rows], is_member[rows])
    chosen = chosen & np.isfinite(of.identities).all(axis=1)
    try:
        return membership_attack.attack(people, of.identities[chosen], np.array(scored["label"][:])[chosen]).record()
    except InputError as error:
        return str(error)


def memorised(study: Study, scored: datasets.Dataset) -> tuple[np.ndarray, dict]:
    """Which images (m,) bool are nearer to a person whom their adapter saw than other people are; and for the record
    the threshold, and the share of new photographs of these people that it recognises."""
    sources, names = study.sources(scored), study.images.features["label"].names
    people = study.true[sources], study.labels[sources]
    distances = nearest_source(
        study.reader, study.others, np.repeat(np.arange(len(names)), OTHERS_PER_CONDITION), *people
    )
    threshold = np.quantile(distances[np.isfinite(distances)], MISTAKEN)
    recognised = nearest_source(study.reader, study.again[sources], study.labels[sources], *people) < threshold
    samples = np.stack([np.asarray(row["image"].resize((SIDE_PX, SIDE_PX))) for row in scored.select_columns("image")])
    flags = nearest_source(study.reader, samples, np.array(scored["label"][:]), *people) < threshold
    facts = {"threshold": float(threshold), "others_counted_by_mistake": MISTAKEN}
    facts |= {"n_parameters": int(study.reader.kept.sum()), "new_photographs_recognised": float(recognised.mean())}
    return flags, facts


def measured(name: str, study: Study) -> dict:
    """The record of one generator: attacks before and after filtering, memorised images and those taken away."""
    scored = load_synthetic(str(study.args.work_dir / name / "filtered"))
    of = examined(study.examiner, scored, name)
    kept = np.array(scored["kept"][:], bool)
    reasons = [reason or "" for reason in scored["reject_reason"][:]]
    copies = np.array([reason.startswith("near copy of") for reason in reasons])
    persons = np.array([reason.startswith("resembles the person of") for reason in reasons])
    faceless = ~np.isfinite(of.identities).all(axis=1)
    private = copies | persons
    flags, facts = memorised(study, scored)
    chosen = {"before filtering": ~faceless, "not rejected": ~private & ~faceless, "kept": kept}
    counts = {"near copy": copies, "same person": persons, "no face": faceless & ~private}
    counts |= {"not among the best of its condition": ~private & ~faceless & ~kept}
    return {
        "simulated": True,
        "n_images": len(scored),
        "n_kept": int(kept.sum()),
        "n_source_photographs": len(study.sources(scored)),
        "rejected": {reason: int(rows.sum()) for reason, rows in counts.items()},
        "attack": {when: attack_record(study, of, scored, rows) for when, rows in chosen.items()},
        "memorised": facts
        | {
            "rows": np.flatnonzero(flags).tolist(),
            "n": int(flags.sum()),
            "n_without_face": int((flags & faceless).sum()),
            "n_rejected_for_privacy": int((flags & private).sum()),
            "n_kept": int((flags & kept).sum()),
            "n_others": int((~flags).sum()),
            "n_others_rejected_for_privacy": int((~flags & private).sum()),
        },
    }


def trained(name: str, dataset: Path, images: Path, args: argparse.Namespace) -> dict:
    """The probes of one generator's arms, and which of its images the selections chose."""
    folder, seed = args.work_dir / name, int(name.removeprefix("seed"))
    scored = load_synthetic(str(folder / "filtered"))
    kept = np.flatnonzero(scored["kept"][:])
    by_cosine = selected_by_cosine(folder / "by_cosine", scored, len(kept))
    classify(folder / "ours", dataset, seed, args, "--synthetic_dataset", folder / "filtered")
    classify(folder / "paper", dataset, seed, args, "--synthetic_dataset", folder / "by_cosine")
    top = ("--synthetic_top_n", len(kept))
    classify(folder / "random", dataset, seed, args, "--synthetic_dataset", images, *top)
    return {"n_images": len(kept), "ours": kept.tolist(), "paper": by_cosine.tolist()}


def compared(args: argparse.Namespace) -> list[dict]:
    """Paired differences of top-1 and top-5 over the seeds."""
    folders = [args.work_dir / f"seed{seed}" for seed in args.seeds]
    predictions = {arm: prediction_files.read_predictions([folder / arm for folder in folders]) for arm in ARMS}
    predictions["alone"] = prediction_files.read_predictions(args.work_dir / "alone")
    for arm, table in predictions.items():  # each seed has a generator of its own: one experiment, told by its arm
        predictions[arm] = table.assign(settings=arm, recipe=arm)
    pairs = [("alone", arm) for arm in ARMS] + [("paper", "ours"), ("random", "ours")]
    rows = []
    for a, b in pairs:
        result = run_scores.compare(predictions[a], predictions[b])
        scores = {name: result["metrics"][name] for name in ("top1", "top5") if name in result["metrics"]}
        rows.append({"a": a, "b": b, "n_test": result["n_test"], "n_subjects": result["n_subjects"]} | scores)
    return rows


# ---- on the screen


def shown(record: dict | str) -> str:
    if isinstance(record, str):
        return record
    interval = f"[{record['low']:.3f}, {record['high']:.3f}]"
    people = f"{record['n_members']} members, {record['n_held_out']} held out, {record['n_synthetic']} images"
    return f"AUC {record['auc']:.3f} {interval}, {people}"


def print_generator(name: str, record: dict) -> None:
    print(f"SIMULATED, {name}: {record['n_images']} images, {record['n_kept']} kept; rejected: {record['rejected']}")
    for when, attack in record["attack"].items():
        print(f"  membership attack, {when}: {shown(attack)}")
    found = record["memorised"]
    print(
        f"  memorised: {found['n']} images, {found['n_rejected_for_privacy']} of them rejected for privacy, "
        f"{found['n_without_face']} without a face, {found['n_kept']} kept; of the {found['n_others']} others "
        f"{found['n_others_rejected_for_privacy']} are rejected for privacy; the definition recognises "
        f"{100 * found['new_photographs_recognised']:.0f} % of new photographs of the adapters' people"
    )


def print_training(record: dict, memorised_of: dict[str, dict]) -> None:
    """memorised_of: seed -> the record of its generator's memorised images."""
    for seed, chosen in record["selections"].items():
        found = memorised_of[seed]["rows"]
        shares = ", ".join(f"{arm} {np.isin(found, chosen[arm]).sum()}" for arm in ("ours", "paper"))
        print(f"SIMULATED, seed {seed}: {chosen['n_images']} images per arm; memorised among them: {shares}")
    for row in record["differences"]:
        top1 = row["top1"]
        print(
            f"SIMULATED, top-1 of {row['a']:<6} -> {row['b']:<6} {100 * top1['a']:5.1f} -> {100 * top1['b']:5.1f} %, "
            f"{100 * top1['difference']:+5.1f} [{100 * top1['low']:+.1f}, {100 * top1['high']:+.1f}], "
            f"p {top1['p_value']:.4f}, n {row['n_test']}"
        )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--work_dir", type=Path, required=True, help="folder for corpus, adapters, images and predictions")
    results = ROOT / "benchmarks" / "results" / "filtered_training"
    add("--results_dir", type=Path, default=results, help="folder for a small JSON file per part")
    add("--base", type=Path, default=ROOT / "demo_models" / "diffusion", help="the diffusion pipeline")
    add("--num_conditions", type=int, default=13, help="conditions, of those that no augmentation study measured")
    add("--num_photographs", type=int, default=300, help="photographs of the corpus, a fifth of which is tested")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the demo's generators and of the probes")
    add("--num_images", type=int, default=6, help="synthetic images per condition and generator")
    add("--per_class", type=int, default=3, help="of them, how many per condition the filter keeps at most")
    add("--max_train_steps", type=int, default=200, help="training steps of the demo's adapters")
    add("--overfitting_steps", type=int, default=300, help="training steps of those that see one photograph")
    add("--report", action="store_true", help="only print the results that are there")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    seeds = {str(seed): f"seed{seed}" for seed in args.seeds}
    files = {name: args.results_dir / f"{name}.json" for name in (OVERFITTED, *seeds.values(), "training")}
    if not args.report:
        args.results_dir.mkdir(parents=True, exist_ok=True)
        dataset = build_corpus(args)
        study, selections = Study.opened(dataset, args), {}
        for name in (OVERFITTED, *seeds.values()):
            images = generate(name, dataset, args)
            filtered(name, images, dataset, args)
            if not files[name].is_file():
                write_json(files[name], measured(name, study))
            if name != OVERFITTED:
                selections[name.removeprefix("seed")] = trained(name, dataset, images, args)
        classify(args.work_dir / "alone", dataset, 0, args)  # nothing in it depends on a seed
        write_json(files["training"], {"simulated": True, "selections": selections, "differences": compared(args)})
    records = {name: read_json(file, "run this without --report") for name, file in files.items()}
    for name in (OVERFITTED, *seeds.values()):
        print_generator(name, records[name])
    print_training(records["training"], {seed: records[name]["memorised"] for seed, name in seeds.items()})


if __name__ == "__main__":
    main(parse_args())
