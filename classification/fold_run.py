"""One fold of a study for one seed: its classifier is trained, tested on the held-out images, and kept in a folder."""

import atexit
import dataclasses
import gc
import time

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from classification import run_results
from classification.backbones import Backbone
from classification.classifiers import build_classifier, probe_forward, save_classifier
from classification.fine_tuning import Checkpoint, Settings, fit, predict
from classification.knowledge import Knowledge
from classification.knowledge_choice import fit_informed_probe
from classification.linear_probe import LinearProbe, fit_linear_probe
from classification.study_inputs import Job, Study
from classification.synthetic_teachers import SyntheticRows
from curation import protocols
from curation.leak_guard import Guard
from harness.files import write_json
from harness.seeds import derived_seed


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done in every fold, whichever it is."""

    recipe: str  # one of recipes.RECIPES
    backbone: str  # as the user named it: decides which head of the paper's is taken
    seeds: tuple[int, ...]
    eval_batch_size: int
    save_models: bool
    fine_tuning: Settings | None  # None for a linear probe

    def settings_of(self, job: Job) -> Settings:
        """The fine-tuning settings of one job; its steps for trackers come after those of all jobs before it."""
        number = self.seeds.index(job.seed) * protocols.N_FOLDS + job.fold.number
        first_step = number * self.fine_tuning.num_train_epochs
        return dataclasses.replace(self.fine_tuning, seed=job.seed, first_step=first_step)


def check_network(backbone: Backbone, n_classes: int, recipe: str, name: str) -> None:
    """Raise InputError, before any photograph is decoded, for a backbone that the recipe cannot use.

    name: of the backbone, as the user named it."""
    if recipe == "linear_probe":
        probe_forward(backbone.network, backbone.image_size)
    else:
        build_classifier(backbone, n_classes, recipe, name)


def spare_what_is_there() -> None:
    """Leave out all objects of this moment, modules above all, when memory is freed after each fold.

    Python would otherwise search all of them for garbage, which takes half a second per fold."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries report leaks when the program ends


def run_fold(accelerator: Accelerator, study: Study, job: Job, plan: Plan, notes: dict) -> None:
    """Train and test one fold for one seed; its folder then holds everything that the results are made of.

    notes: further facts about the fold for its fold.json. predictions.parquet is written last: its presence means that
    the fold is done."""
    fold, seed, folder = job.fold, job.seed, job.folder
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    model, training_notes = train(accelerator, study, job, plan)
    wall_s = round(time.monotonic() - started, 2)
    content = study.identity(fold, seed) | {"n_train": len(fold.train), "wall_s": wall_s, **training_notes, **notes}
    content["train_image_ids"] = study.image_columns["image_id"].iloc[fold.train].tolist()
    if plan.save_models:
        described = {"backbone": study.names["backbone"], "label_names": study.label.names}
        described |= {"protocol": fold.protocol, "fold": fold.number, "seed": seed}
        described |= run_results.network_input(study.backbone)
        save_classifier(folder / "model", accelerator.unwrap_model(model), described, study.seen_photographs(fold))
    write_corrupted_predictions(accelerator, study, job, plan, model)
    tables = []
    for split, rows in (("val", fold.val), ("test", fold.test)):
        if not len(rows):
            continue
        if study.features is None:
            probabilities = predict(accelerator, model, study.backbone, study.pixels, rows, plan.eval_batch_size)
        else:  # the pixels need not go through the backbone again
            probabilities = probe_probabilities(model, study.features[rows], accelerator.device)
        tables.append(prediction_table(study, job, split, rows, probabilities))
    write_json(folder / "fold.json", content)
    run_results.write_predictions(folder / "predictions.parquet", pd.concat(tables), study.label)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    accelerator.free_memory()


def train(accelerator: Accelerator, study: Study, job: Job, plan: Plan) -> tuple[torch.nn.Module, dict]:
    """A classifier trained on the fold's training side, ready to predict, and notes about its training.

    Raises LeakError if the training side holds what a model must not see."""
    fold, seed = job.fold, job.seed
    guard = Guard(fold, study.guarded)
    n_classes = study.label.num_classes
    if plan.recipe == "linear_probe":
        probe, notes = fit_probe(study, fold, guard)
        classifier = probe.classifier(study.backbone, n_classes).to(accelerator.device)
        return accelerator.prepare_model(classifier, evaluation_mode=True), notes
    set_seed(derived_seed(seed, fold.number))  # for the head's first weights, so that a fold can be trained alone
    classifier = build_classifier(study.backbone, n_classes, plan.recipe, plan.backbone)
    checkpoint = Checkpoint(job.folder / "checkpoint.pt", study.identity(fold, seed))
    settings = plan.settings_of(job)
    model, curve = fit(accelerator, classifier, study.backbone, study.pixels, study.labels, guard, settings, checkpoint)
    return model, {"learning_curve": curve}


def fit_probe(study: Study, fold: protocols.Fold, guard: Guard) -> tuple[LinearProbe, dict]:
    """The fold's linear probe, with all that is known of its conditions, and notes about its choices."""
    n, notes = len(study.images), {}
    photographs = fold.train[fold.train < n]
    synthetic = study.uses.rows(fold.train, n) if study.uses else SyntheticRows.none()
    learnt_from = (study.features, study.labels, study.groups, photographs, guard)
    if study.knowledge is None and not len(synthetic.prior):
        probe = fit_linear_probe(*learnt_from, synthetic.data)
    else:
        known = study.knowledge or Knowledge.of_nothing(study.label.num_classes)
        of_people = (known.profiles, known.teachers, synthetic, known.teaches_photographs, known.recorded)
        probe, choice = fit_informed_probe(*learnt_from, *of_people)
        notes["image_prior" if study.knowledge is None else "knowledge"] = dataclasses.asdict(choice)
    return probe, notes | {"shrinkage": probe.shrinkage, "temperature": probe.temperature}


def write_corrupted_predictions(
    accelerator: Accelerator, study: Study, job: Job, plan: Plan, model: torch.nn.Module
) -> None:
    """One file per kind and severity of corruption, with predictions of the fold's test side."""
    rows = job.fold.test
    for (kind, severity), pixels in study.corrupted.items():
        probabilities = predict(accelerator, model, study.backbone, pixels, rows, plan.eval_batch_size)
        table = prediction_table(study, job, "test", rows, probabilities)
        table["recipe"] += f", {kind} {severity}"
        run_results.write_predictions(job.folder / f"corrupted_{kind}_{severity}.parquet", table, study.label)


def prediction_table(study: Study, job: Job, split: str, rows: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Rows (r,) of predictions.parquet, from probabilities (r, C)."""
    same_in_all = {"protocol": job.fold.protocol, "fold": job.fold.number, "seed": job.seed}
    same_in_all |= {"settings": study.settings_sha256, **study.names}
    same_in_all |= {"unseen": True} if job.fold.unseen else {}
    return study.image_columns.iloc[rows].assign(split=split, probabilities=list(probabilities), **same_in_all)


@torch.inference_mode()
def probe_probabilities(model: torch.nn.Module, features: np.ndarray, device: torch.device) -> np.ndarray:
    """Probabilities (r, C) float64, as fine_tuning.predict gives them, of images with these features (r, d)."""
    return model.head.logits(torch.from_numpy(features).to(device)).double().softmax(dim=1).cpu().numpy()
