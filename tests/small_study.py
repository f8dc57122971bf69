"""A whole study in small, made by the commands: dataset, classifiers, few-shot, filter, reports. SIMULATED."""

import io
from pathlib import Path

from in_process import exit_status

import filter_synthetic
import rdface_dataset
import simulate_faces
import train_classifier
import train_fewshot
import vlm_report_eval
from curation import protocols
from curation.opening import load_images, photograph_sha256
from generation import synthetic_images

BACKBONE = Path(__file__).resolve().parents[1] / "demo_models" / "backbone"


def small_study(folder: Path) -> Path:
    """Ten finished runs and their dataset, rdface-sim, in a folder as `make demo` leaves it."""
    for name, n_images, seed in (("rdface-sim", 48, 3), ("other-sim", 16, 4)):
        sizes = ["--num_images", n_images, "--num_conditions", 8, "--image_size", 160, "--seed", seed]
        raw = folder.parent / f"{name}-raw"
        assert exit_status(simulate_faces, "--output_dir", raw, *sizes) == 0
        target = folder / name if name == "rdface-sim" else folder.parent / name
        assert exit_status(rdface_dataset, "build", raw, "--output_dir", target) == 0
    dataset = folder / "rdface-sim"
    cache = ["--cache_dir", folder.parent / "pixels"]
    source = ["--dataset_name", dataset, "--backbone", BACKBONE, *cache]
    for name, more in {
        "probe": [], "probe_terms": ["--knowledge", "terms"], "shuffled": ["--shuffle_labels"],
        "one_shot": ["--k_shot", 1], "one_shot_terms": ["--k_shot", 1, "--knowledge", "terms"],
    }.items():  # fmt: skip
        flags = [*source, "--no-save_models", "--output_dir", folder / name, *more]
        assert exit_status(train_classifier, *flags) == 0
    episodes = ["--n_way", 3, "--test_episodes", 20]
    assert exit_status(train_fewshot, *source, *episodes, "--output_dir", folder / "episodes") == 0
    assert exit_status(train_fewshot, *source, "--mode", "gallery", "--output_dir", folder / "retrieval") == 0
    made = synthetic_faces(folder.parent, dataset, folder.parent / "other-sim")
    flags = ["--synthetic_dataset", made, "--output_dir", folder / "chosen", "--fold", 0, "--per_class", 1]
    assert exit_status(filter_synthetic, *source, *flags) == 0
    rules = ["--reporter", "landmarks", *cache]
    on_photographs = ["--dataset_name", dataset, *rules, "--output_dir", folder / "said" / "real"]
    assert exit_status(vlm_report_eval, "generate", *on_photographs) == 0
    norms = ["--norms", folder / "said" / "real" / "norms.json"]
    on_synthetic = ["--dataset_name", folder / "chosen", *rules, *norms, "--output_dir", folder / "said" / "synthetic"]
    assert exit_status(vlm_report_eval, "generate", *on_synthetic) == 0
    both = ["--real_reports", folder / "said" / "real", "--synthetic_reports", folder / "said" / "synthetic"]
    assert exit_status(vlm_report_eval, "score", *both, "--output_dir", folder / "compared") == 0
    return folder


def synthetic_faces(folder: Path, dataset: Path, others: Path) -> Path:
    """Images as a generator of fold 0 leaves them: faces of other simulated people with the same conditions."""
    images, made = load_images(str(dataset)), load_images(str(others))
    fold, digests = protocols.folds(images, "strict", 0)[0], photograph_sha256(images)
    same = {"generator": "dreambooth", "base_model": "x", "adapter_sha256": "0" * 64, "prompt": "a child", "seed": 0}
    same |= {"protocol": "strict", "fold": 0, "source_image_ids": [images["image_id"][row] for row in fold.train]}
    same |= {"source_sha256": [digests[row] for row in fold.train]}
    rows, known = [], images.features["label"].names
    for number, row in enumerate(made):
        label, file = made.features["label"].int2str(row["label"]), io.BytesIO()
        row["image"].convert("RGB").save(file, "PNG")
        if label in known:
            picture = {"bytes": file.getvalue(), "path": "x.png"}
            rows.append(same | {"image": picture, "synthetic_id": f"{label}_{number}", "label": label})
    synthetic_images.write_part(folder / "part.parquet", rows, known)
    synthetic_images.write_dataset(folder / "made", [folder / "part.parquet"])
    return folder / "made"
