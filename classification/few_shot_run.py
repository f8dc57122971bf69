"""One fold of a few-shot study or a retrieval: episodes answered, or probes ranked, and kept in the fold's folder."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from accelerate import Accelerator

from classification import retrieval, run_results
from classification.embeddings import averaged, side_by_side
from classification.ensembles import choose_networks
from classification.episodes import Episodes, draw_episodes, episode_table, hits
from classification.few_shot_names import HEADS, KNOWING_HEAD, TRAINED_HEAD, TRANSDUCTIVE_HEAD
from classification.fine_tuning import Checkpoint
from classification.knowledge import Knowledge
from classification.knowledge_choice import Choice, choose, fit_informed_probe, span
from classification.knowledge_prior import Teachers
from classification.linear_probe import fit_linear_probe, inner_losses
from classification.prototype_training import Training, fit_prototypes, trained_scores
from classification.prototypes import (
    HeadChoice,
    Statistics,
    choose_heads,
    fit_statistics,
    head_scores,
    informed_means,
    probabilities,
)
from classification.study_inputs import Job, Study
from classification.support_filling import Filling, fill_support
from classification.synthetic_teachers import SyntheticRows, mean_images
from classification.transductive import transductive_scores
from curation.leak_guard import Guard, columns_for_guard
from curation.opening import photograph_sha256
from harness.files import read_json, write_atomically, write_json
from harness.seeds import derived_seed

EPISODES = "episodes.parquet"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done in every fold; all fields are flags of train_fewshot.py."""

    mode: str
    head: str  # whose probabilities are kept
    n_way: int
    k_shot: int  # of the episodes that test
    test_episodes: int  # per fold
    training: Training
    frequent_from: int  # patients of a frequent condition
    eval_batch_size: int
    chosen_ensemble: bool = False  # whether networks are chosen, rather than all taken
    synthetic_as_prior: bool = False  # whether the synthetic images of a condition count together, by their mean


def guard_of(study: Study, job: Job) -> Guard:
    """The guard of a job's fold, with the decoded pixels if there are any."""
    if study.pixels is not None:
        return Guard(job.fold, study.guarded)
    return Guard(job.fold, columns_for_guard(study.images) | {"sha256": photograph_sha256(study.images)})


def run_fold(accelerator: Accelerator, study: Study, job: Job, plan: Plan, embeddings: Sequence[np.ndarray]) -> None:
    """Do one fold for one seed; its folder then holds all that results are made of. predictions.parquet comes last.

    embeddings: of each network, (n + m, views, d), of unit length; none in mode train."""
    started = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    guard = guard_of(study, job)
    work = {"train": trained_episodes, "frozen": frozen_episodes, "gallery": ranked_probes}[plan.mode]
    table, predictions, notes = work(accelerator, study, job, plan, guard, embeddings)
    same = {"protocol": job.fold.protocol, "fold": job.fold.number, "seed": job.seed, "split": "test"}
    write_table(job.folder / EPISODES, table.assign(**same))
    identity = study.identity(job.fold, job.seed)
    wall_s = round(time.monotonic() - started, 2)
    write_json(job.folder / "fold.json", identity | {"n_train": len(job.fold.train), "wall_s": wall_s} | notes)
    same |= {"settings": study.settings_sha256, **study.names}
    run_results.write_predictions(job.folder / "predictions.parquet", predictions.assign(**same), study.label)
    (job.folder / "checkpoint.pt").unlink(missing_ok=True)


def write_table(file: Path, table: pd.DataFrame) -> None:
    write_atomically(file, lambda partial: table.to_parquet(partial, index=False))


def is_finished(study: Study, job: Job) -> bool:
    """Whether the folder of a job holds what this job would leave there; the files of another job are done again, and
    rankings that do not say among how many conditions."""
    if not (job.folder / "predictions.parquet").is_file():
        return False
    notes, identity = read_json(job.folder / "fold.json", "delete its folder"), study.identity(job.fold, job.seed)
    columns = pq.read_schema(job.folder / EPISODES).names
    return {name: notes.get(name) for name in identity} == identity and ("rank" in columns) == ("n_ranked" in columns)


# ------------------------------------------------------------------------------------------------------------ episodes


def asked_episodes(study: Study, job: Job, plan: Plan) -> Episodes:
    """The list of the fold's episodes: it depends on seed and fold, not on the mode, the head or the network."""
    generator = np.random.default_rng(derived_seed(job.seed, job.fold.number, 2))
    drawn = (job.fold.test, study.labels, study.groups, plan.n_way, plan.k_shot, plan.test_episodes, generator)
    return draw_episodes(*drawn, subjects_apart=job.fold.protocol == "strict")


def trained_episodes(
    accelerator: Accelerator, study: Study, job: Job, plan: Plan, guard: Guard, _: Sequence[np.ndarray]
) -> tuple:
    """Episodes answered by a network that was trained on episodes of the fold's training side."""
    checkpoint = Checkpoint(job.folder / "checkpoint.pt", study.identity(job.fold, job.seed))
    inputs = (study.backbone, study.pixels, study.labels, study.groups, guard, plan.training, job.seed, checkpoint)
    network, curve = fit_prototypes(accelerator, *inputs)
    episodes = asked_episodes(study, job, plan)
    scores = trained_scores(network, study.backbone, study.pixels, episodes, accelerator.device, plan.eval_batch_size)
    choice = {TRAINED_HEAD: HeadChoice(None, 1.0)}  # the logits that the loss was computed on
    return (*answers(study, episodes, {TRAINED_HEAD: scores}, choice, TRAINED_HEAD), {"learning_curve": curve})


def frozen_episodes(
    _: Accelerator, study: Study, job: Job, plan: Plan, guard: Guard, embeddings: Sequence[np.ndarray]
) -> tuple:
    """Episodes answered by every head on the same frozen features, or by the transductive head alone."""
    labels, groups, n = study.labels, study.groups, len(study.images)
    base = guard.admit(job.fold.train, "prototypes")
    photographs, synthetic = base[base < n], base[base >= n]
    apart = job.fold.protocol == "strict"
    asked = (labels, groups, photographs, plan.n_way, plan.k_shot, job.seed)  # nothing is chosen on synthetic images

    def loss(features: np.ndarray) -> float:
        (choice,) = choose_heads(features, *asked, heads=("discriminant",), subjects_apart=apart).values()
        return np.inf if choice.loss is None else choice.loss

    kept, notes = kept_networks(embeddings, plan, loss)
    features = averaged([embeddings[number] for number in kept])
    episodes = asked_episodes(study, job, plan)
    filling = None
    if study.sources:
        filling = fill_support(episodes, study.sources, labels, job.fold.train, plan.synthetic_as_prior)
        is_filled = filling.totals > 0
        notes["filled_supports"] = float(is_filled.mean())
        notes["unevenly_filled_episodes"] = float((is_filled.any(axis=1) & ~is_filled.all(axis=1)).mean())
    if plan.head == TRANSDUCTIVE_HEAD:
        scores = {TRANSDUCTIVE_HEAD: transductive_scores(features, episodes, filling)}
        choices = {TRANSDUCTIVE_HEAD: HeadChoice(None, 1.0)}  # the scores are logs of shares that add up to 1
        return (*answers(study, episodes, scores, choices, TRANSDUCTIVE_HEAD), notes)
    choices = choose_heads(features, *asked, subjects_apart=apart)
    taught = teachers_of(study, features, photographs, synthetic, plan.synthetic_as_prior)
    statistics = fit_statistics(taught.features, taught.conditions, np.arange(len(taught)))
    settings = {head: choices[head].setting for head in HEADS}
    scores = {
        head: head_scores(head, features, episodes, statistics, settings[head], filling=filling) for head in HEADS
    }
    if study.knowledge is not None:
        means, notes["knowledge"] = means_by_terms(study, features, photographs, taught, statistics, episodes, filling)
        choices[KNOWING_HEAD] = choices["discriminant"]
        of_head = (statistics, settings["discriminant"], means, filling)
        scores[KNOWING_HEAD] = head_scores("discriminant", features, episodes, *of_head)
    notes["choices"] = {head: dataclasses.asdict(choice) for head, choice in choices.items()}
    return (*answers(study, episodes, scores, choices, plan.head), notes)


def kept_networks(
    embeddings: Sequence[np.ndarray], plan: Plan, loss: Callable[[np.ndarray], float]
) -> tuple[list[int], dict]:
    """Numbers of the networks whose embeddings are used, and a note of them if they were chosen; loss: in nats, of
    features, on photographs of the training side."""
    if not plan.chosen_ensemble:
        return list(range(len(embeddings))), {}
    kept = choose_networks(embeddings, loss)
    return kept, {"networks": kept}


def teachers_of(
    study: Study, features: np.ndarray, photographs: np.ndarray, synthetic: np.ndarray, as_prior: bool
) -> Teachers:
    """The photographs and synthetic images of base conditions; as_prior, of a condition's synthetic images the mean,
    with the noise of PRIOR_WEIGHT photographs (see mean_images)."""
    rows = photographs if as_prior else np.concatenate([photographs, synthetic])
    labels = study.labels
    profiles = (study.knowledge or Knowledge.of_nothing(study.label.num_classes)).profiles
    teachers = Teachers(features[rows], profiles[labels[rows]], labels[rows], np.zeros(len(rows), int))
    if as_prior and len(synthetic):
        teachers = teachers.joined(mean_images(features, labels, synthetic, profiles, domain=0))
    return teachers


def means_by_terms(
    study: Study,
    features: np.ndarray,
    photographs: np.ndarray,
    taught: Teachers,
    statistics: Statistics,
    episodes: Episodes,
    filling: Filling | None,
) -> tuple[np.ndarray | None, dict]:
    """Class means (e, w, d) that annotated terms draw, or None if these do not fit, and how that was found."""
    if not len(photographs):  # nobody shows what a term looks like
        return None, dataclasses.asdict(Choice())
    labels, profiles = study.labels, study.knowledge.profiles
    centre, axes = span(features[photographs])
    near = (features[photographs] - centre) @ axes.T
    of_photographs = labels[photographs]
    teachers = Teachers(near, profiles[of_photographs], of_photographs, np.zeros(len(photographs), int))
    chosen = choose(teachers, profiles, of_photographs, study.groups[photographs])
    means = None
    if chosen.used:
        means = informed_means(features, labels, taught, episodes, statistics.centre, profiles, chosen.shares, filling)
    return means, dataclasses.asdict(chosen)


def answers(
    study: Study, episodes: Episodes, scores: dict[str, np.ndarray], choices: dict[str, HeadChoice], head: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The episodes with `right_HEAD` per head, and per query image the mean of the head's probabilities."""
    image_ids = study.image_columns["image_id"].tolist()
    table = episode_table(episodes, image_ids, study.image_columns["subject"].tolist())
    for name, of_head in scores.items():
        table[f"right_{name}"] = hits(of_head).reshape(-1)
    of_ways = probabilities(scores[head], choices[head].temperature)
    n_classes, n_way = study.label.num_classes, episodes.classes.shape[1]
    sums = np.zeros((len(image_ids), n_classes))
    for way in range(n_way):
        np.add.at(sums, (episodes.query, episodes.classes[:, way : way + 1]), of_ways[:, :, way])
    rows = np.unique(episodes.query)
    mean = sums[rows] / sums[rows].sum(axis=1, keepdims=True)
    return table, study.image_columns.iloc[rows].assign(probabilities=list(mean))


# ----------------------------------------------------------------------------------------------------------- retrieval


def ranked_probes(
    _: Accelerator, study: Study, job: Job, plan: Plan, guard: Guard, embeddings: Sequence[np.ndarray]
) -> tuple:
    """The fold's probes ranked in its gallery by every method, with joined and with separate galleries."""
    labels, groups, n = study.labels, study.groups, len(study.images)
    gallery, probes = guard.admit(job.fold.train, "the gallery"), job.fold.test
    photographs = gallery[gallery < n]

    def loss(features: np.ndarray) -> float:
        losses = inner_losses(features[photographs], labels[photographs], groups[photographs])
        return np.inf if losses is None else float(losses.min())

    kept, notes = kept_networks(embeddings, plan, loss)
    embeddings = [embeddings[number] for number in kept]
    features, unit = averaged(embeddings), side_by_side(embeddings)
    frequent = retrieval.frequent_conditions(labels[:n], groups[:n], plan.frequent_from)
    is_frequent = np.isin(labels, frequent)
    sides = {"joined": slice(None), "frequent": True, "rare": False}
    tables, predictions = [], None
    for name, side in sides.items():
        of_gallery = gallery if name == "joined" else gallery[is_frequent[gallery] == side]
        of_probes = probes if name == "joined" else probes[is_frequent[probes] == side]
        if not len(of_probes) or not len(np.unique(labels[of_gallery])) > 1:
            continue
        scores, probe, said = scores_of_methods(study, features, unit, of_gallery, of_probes, guard)
        columns = {"query": study.image_columns["image_id"], "label": labels, "subject": groups}
        columns["is_frequent"] = is_frequent
        n_ranked = len(np.unique(labels[of_gallery]))
        of_rows = pd.DataFrame(columns).iloc[of_probes].assign(n_ranked=n_ranked)
        for method, of_method in scores.items():
            rank, tied = retrieval.ranks(of_method, labels[of_probes])
            tables.append(of_rows.assign(rank=rank, tied=tied, method=method, gallery=name))
        if name == "joined":
            found = probe.probabilities(features[of_probes], study.label.num_classes)
            predictions = study.image_columns.iloc[of_probes].assign(probabilities=list(found))
            notes |= said
    return pd.concat(tables), predictions, notes


def scores_of_methods(
    study: Study, features: np.ndarray, unit: np.ndarray, gallery: np.ndarray, probes: np.ndarray, guard: Guard
) -> tuple:
    """method -> scores (p, C); the discriminant, and notes about it."""
    labels, groups, n_classes = study.labels, study.groups, study.label.num_classes
    n = len(study.images)
    synthetic = study.uses.rows(gallery, n) if study.uses else SyntheticRows.none()
    learnt_from = (features, labels, groups, gallery[gallery < n], guard)
    notes = {}
    if study.knowledge is None and not len(synthetic.prior):
        probe = fit_linear_probe(*learnt_from, synthetic.data)
    else:
        known = study.knowledge or Knowledge.of_nothing(n_classes)
        there = np.isin(np.arange(n_classes), labels[gallery])[:, None]  # a gallery ranks no other condition
        of_people = (np.where(there, known.profiles, np.nan), known.teachers, synthetic, known.teaches_photographs)
        probe, choice = fit_informed_probe(*learnt_from, *of_people)
        notes["image_prior" if study.knowledge is None else "knowledge"] = dataclasses.asdict(choice)
    notes |= {"shrinkage": probe.shrinkage, "temperature": probe.temperature}
    shown = np.setdiff1d(gallery, synthetic.prior)  # a prior is no image that could be the nearest
    of_probe = np.full((len(probes), n_classes), -np.inf)
    of_probe[:, probe.classes] = probe.scores(features[probes])
    scores = {
        "nearest_image": retrieval.class_similarities(unit[shown], labels[shown], unit[probes], n_classes),
        "discriminant": of_probe,
        "whitened_cosine": retrieval.whitened_cosines(features, labels, shown, probes, probe.shrinkage, n_classes),
        "unseen_discriminant": retrieval.unseen_scores(
            features, labels, groups, shown, probes, n_classes, synthetic.data
        ),
    }
    return scores, probe, notes
