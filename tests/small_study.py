"""A whole study in small: a simulated dataset built by the commands, and finished runs whose predictions, scores and
reports are drawn here, and written by the project's own functions. SIMULATED.

The commands themselves would take minutes; what they write is tested where they are."""

import dataclasses
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from in_process import exit_status
from test_metrics import as_table
from test_reports_page import TAIL

import rdface_dataset
import simulate_faces
from classification import few_shot_results
from curation import datasheet
from curation.opening import load_images, photograph_sha256
from generation import privacy, synthetic_images
from harness.files import sha256_of
from reporting.report_dataset import open_reports, report_row, write_reports
from reporting.report_scores import score_reports
from scoring import run_scores

N_IMAGES, N_CONDITIONS = 30, 6
RECORD = {"wall_s": 61.5, "peak_memory_bytes": 10**9, "device": "cpu", "n_processes": 1, "versions": {"numpy": "2.4"}}
CLASSIFIERS = {  # name -> recipe, and how much the right condition is favoured
    "probe": ("linear_probe", 0.5),
    "probe_terms": ("linear_probe, knowledge of 90 terms", 0.7),
    "shuffled": ("linear_probe, shuffled labels", 0.0),
    "one_shot": ("linear_probe, 1-shot", 0.2),
    "one_shot_terms": ("linear_probe, 1-shot, knowledge of 90 terms", 0.3),
}
SHAPES = (("Long face", "Round face"), ("Hypertelorism", "Ptosis"), ("Wide nose", "Short nose"))
SHAPES += (("Long philtrum", "Wide mouth"),)


def small_study(folder: Path) -> Path:
    """Eleven finished runs and their dataset, rdface-sim, in a folder as `make demo` leaves it."""
    sizes = ["--num_images", N_IMAGES, "--num_conditions", N_CONDITIONS, "--image_size", 96, "--seed", 3]
    assert exit_status(simulate_faces, "--output_dir", folder.parent / "raw", *sizes) == 0
    assert exit_status(rdface_dataset, "build", folder.parent / "raw", "--output_dir", folder / "rdface-sim") == 0
    images = load_images(str(folder / "rdface-sim"))
    for number, (name, (recipe, skill)) in enumerate(CLASSIFIERS.items()):
        predictions = predictions_of(recipe, skill, number)
        written(folder / name, run_scores.score(predictions), images, seeds=[0])
        predictions.to_parquet(folder / name / "predictions.parquet")
    written(folder / "episodes", episodes(), images)
    written(folder / "retrieval", retrieval(), images)
    filtered(folder / "chosen", images)
    for kind in ("real", "synthetic"):
        reports(folder / "said" / kind, images, kind)
    compared(folder)
    return folder


def written(folder: Path, results: dict, images: datasets.Dataset | None, **record: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    made_with = {"dataset": {"fingerprint": images._fingerprint}, "simulated": True} if images else {}
    arguments = {"arguments": {"dataset_name": "runs/rdface-sim", "seed": [0], "save_models": False}}
    (folder / "run.json").write_text(json.dumps(RECORD | arguments | made_with | record))


def predictions_of(recipe: str, skill: float, seed: int) -> pd.DataFrame:
    rng, labels = np.random.default_rng(seed), np.arange(60) % N_CONDITIONS
    probabilities = rng.dirichlet(np.ones(N_CONDITIONS), 60) + skill * np.eye(N_CONDITIONS)[labels]
    people = {"sex": np.tile(["female", "male", "male"], 20), "region": np.repeat(["Africa", "Asia"], 30)}
    return as_table(probabilities / probabilities.sum(axis=1, keepdims=True), labels, recipe=recipe, **people)


def episodes() -> dict:
    """Results of 20 episodes with three conditions each, right by chance or more often."""
    rng, n = np.random.default_rng(0), 60
    rows = {"protocol": "strict", "seed": 0, "fold": 0, "label": np.arange(n) % 5}
    rows |= {"query": [f"A.{i % 20}" for i in range(n)], "subject": [f"P{i % 20}" for i in range(n)]}
    rows |= {f"right_{head}": (rng.random(n) < p).astype(float) for head, p in (("cosine", 0.5), ("discriminant", 0.7))}
    table = pd.DataFrame(rows)
    results = few_shot_results.results_of(table, table, N_CONDITIONS, 5, ("discriminant", 3, 1))
    names = {"backbone": "tiny", "recipe": "discriminant, 3-way 1-shot frozen"}
    return results | {"mode": "frozen", "simulated": True} | names


def retrieval() -> dict:
    rng, n = np.random.default_rng(0), 40
    ranks = [
        {"method": method, "gallery": "joined", "is_frequent": i % 2 == 0, "rank": int(rng.integers(1, 7)),
         "tied": 1, "n_ranked": N_CONDITIONS, "label": i % N_CONDITIONS, "subject": f"P{i}"}
        for method in ("nearest_image", "discriminant") for i in range(n)
    ]  # fmt: skip
    predictions = predictions_of("gallery discriminant", 0.3, 9)
    results = few_shot_results.results_of(pd.DataFrame(ranks), predictions, N_CONDITIONS, 2, None)
    return results | {"mode": "gallery", "simulated": True}


def filtered(folder: Path, images: datasets.Dataset) -> None:
    """Synthetic images with scores, and the privacy report that the filter's own function makes of them."""
    names, digests, rng = images.features["label"].names, photograph_sha256(images), np.random.default_rng(0)
    same = {"generator": "dreambooth", "base_model": "x", "adapter_sha256": "0" * 64, "prompt": "a child", "seed": 0}
    same |= {"protocol": "strict", "fold": 0, "source_image_ids": images["image_id"][:2], "source_sha256": digests[:2]}
    rows = []
    for number in range(18):
        label, synthetic_id = names[number % N_CONDITIONS], f"{names[number % N_CONDITIONS]}_{number}"
        picture = synthetic_images.png(np.asarray(images[number]["image"].convert("RGB")), synthetic_id)
        rows.append(same | {"image": picture, "synthetic_id": synthetic_id, "label": label})
    synthetic_images.write_part(folder.parent.parent / "part.parquet", rows, names)
    synthetic_images.write_dataset(folder, [folder.parent.parent / "part.parquet"])
    reasons = [None, None, "near copy of A.1", "resembles the person of A.2", "no face was found", None]
    shard, number = next(folder.glob("synthetic/*.parquet")), Value("float64")
    scored = [
        row | {"phenotype_probability": rng.random(), "copy_score": 0.5 * rng.random(), "kept": reason is None,
               "person_similarity": 0.8 * rng.random(), "reject_reason": reason}
        for row, reason in zip(pq.read_table(shard).to_pylist(), 3 * reasons, strict=True)
    ]  # fmt: skip
    kinds = {"phenotype_probability": number, "copy_score": number, "person_similarity": number}
    kinds |= {"kept": Value("bool"), "reject_reason": Value("string")}
    features = Features(synthetic_images.synthetic_features(names) | kinds)
    pq.write_table(pa.Table.from_pylist(scored, features.arrow_schema), shard)
    datasheet.write_datasheet(folder)
    table = pd.DataFrame(scored)
    limits = [privacy.Threshold(value, value - 0.1, value + 0.1, 0.01, 300, 60) for value in (0.7, 0.85)]
    thresholds = dict(zip((privacy.COPY, privacy.PERSON), limits, strict=True))
    attack = {"auc": 0.54, "low": 0.45, "high": 0.7}
    attacks = {privacy.BEFORE: attack, privacy.AFTER: attack, privacy.NEGATIVE: "there were too few people"}
    attacks[privacy.POSITIVE] = {"auc": 0.99, "low": 0.95, "high": 1.0}
    none = np.full(len(table), -1)
    examination = privacy.Examination(none, table["copy_score"], none, table["person_similarity"])
    files = {f"synthetic/{shard.name}": sha256_of(shard)}
    of_all = (table["kept"], table["generator"], examination, thresholds, {"dreambooth": attacks})
    (folder / "privacy_report.json").write_text(json.dumps(privacy.verdict(files, *of_all)))
    side = {"n_images": len(table), "thresholds": {name: dataclasses.asdict(one) for name, one in thresholds.items()}}
    results = {"simulated": True, "ranked_by": "phenotype_probability", "sides": {"fold0": side}}
    written(folder, results, None)


def reports(folder: Path, images: datasets.Dataset, kind: str) -> None:
    """Reports on the first 18 photographs, or on synthetic images of the same conditions."""
    rng, names, digests, rows = np.random.default_rng(1), images.features["label"].names, photograph_sha256(images), []
    for number in range(18):
        label = names[images[number]["label"]] if kind == "real" else names[number % N_CONDITIONS]
        likes = np.random.default_rng(names.index(label)).random(len(SHAPES)) < 0.5
        said = [two[int(like ^ (rng.random() < 0.2))] for two, like in zip(SHAPES, likes, strict=True)]
        text = "Overall Impression: {}.\nEyes: {}.\nNose: {}.\nMouth/Lips: {}.".format(*said) + TAIL
        picture = {"label": label, "disease_name": f"{label} syndrome"}
        if kind == "real":
            picture |= {"image_id": images[number]["image_id"], "source_type": "simulated"}
        else:
            picture |= {"synthetic_id": f"{label}_{number}", "generator": "dreambooth", "protocol": "strict", "fold": 0}
            picture |= {"source_image_ids": images["image_id"][:2], "source_sha256": digests[:2]}
        rows.append(report_row(picture, text, "landmarks", None))
    folder.mkdir(parents=True)
    write_reports(folder, rows, names)
    simulated = True if kind == "real" else None  # as generate records it
    results = {"simulated": simulated, "reporter": {"reporter": "landmarks"}, "n_reports": 18, "n_malformed": 0}
    written(folder, results, None, arguments={"command": "generate", "reporter": "demo_models/reporter"})


def compared(folder: Path) -> None:
    real, synthetic = (open_reports(str(folder / "said" / kind)) for kind in ("real", "synthetic"))
    scores = score_reports(real, synthetic, {}, seed=0)
    written(
        folder / "compared", {"seed": 0} | scores.results, None, real=real.fingerprint, synthetic=synthetic.fingerprint
    )
    pq.write_table(scores.pairs, folder / "compared" / "pairs.parquet")
