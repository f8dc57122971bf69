"""Images by words beside images of adapters, on SIMULATED people: rate, faces found, nearness to photographs.

    python benchmarks/word_images.py --filtered words=runs/filtered_words adapters=runs/filtered_adapters \\
        --pretrained_model_name_or_path demo_models/diffusion --results_file benchmarks/results/word_images.json

Each folder is what filter_synthetic.py left of one set of images of the same fold and conditions. An image made without
an adapter has no photograph to copy, so how near it comes to one by chance is the yardstick for the others."""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow.parquet as pq
import torch

from generation import diffusion_pipelines as diffusion
from harness.commands import Parser
from harness.files import write_json

MEASURED = ("made_from", "faces", "copy_score", "person_similarity", "phenotype_probability", "phenotype_rank")
PERCENTILES = (5, 50, 95)
STEPS, GUIDANCE = 15, 3.0
PROMPT = "photo of a 4 year old girl with hypertelorism, long philtrum"


def nearness(folder: Path) -> dict:
    """What the filter measured of one set of images, as shares and percentiles."""
    files = sorted((folder / "synthetic").glob("*.parquet"))
    columns = pq.read_table(files, columns=[*MEASURED, "reject_reason", "protocol", "fold"]).to_pydict()
    faces, reasons = np.array(columns["faces"], float), [reason or "" for reason in columns["reject_reason"]]
    figures = {"n_images": len(reasons), "made_from": sorted({str(value) for value in columns["made_from"]})}
    figures |= {"one_face_found": float((faces == 1).mean()), "any_face_found": float((faces >= 1).mean())}
    for start in ("near copy", "resembles the person"):
        figures[f"rejected: {start}"] = sum(reason.startswith(start) for reason in reasons)
    for name in MEASURED[2:]:
        values = np.array(columns[name], float)
        values = values[np.isfinite(values)]
        figures[name] = dict(zip(map(str, PERCENTILES), np.percentile(values, PERCENTILES).tolist(), strict=True))
        figures[name]["mean"] = float(values.mean())
    report = json.loads((folder / "privacy_report.json").read_text(encoding="utf-8"))
    attacks = report["membership_attack"]
    figures["membership_attack_before_filtering"] = {name: records.get("before") for name, records in attacks.items()}
    return figures


def rate(name: str, batch_size: int, n_images: int) -> dict:
    """Pictures per second of the base alone, with the first batch left out of the time."""
    pipeline = diffusion.open_pipeline(name, torch.float32)
    diffusion.set_scheduler(pipeline, "dpmsolver++")
    words = diffusion.embeddings(pipeline, [PROMPT, ""])
    side_px, seconds = diffusion.native_side_px(pipeline), []
    for start in range(-batch_size, n_images, batch_size):
        seeds = range(1000 + start, 1000 + start + batch_size)
        both = [words[text].repeat(batch_size, 1, 1) for text in (PROMPT, "")]
        began = time.monotonic()
        diffusion.sample(pipeline, *both, seeds, side_px, STEPS, GUIDANCE)
        seconds.append(time.monotonic() - began)
    measured = np.array(seconds[1:])
    return {
        "images_per_second": batch_size / float(np.median(measured)),
        "batch_size": batch_size,
        "steps": STEPS,
        "guidance_scale": GUIDANCE,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--filtered", nargs="+", required=True, metavar="NAME=FOLDER", help="outputs of filter_synthetic.py")
    add("--pretrained_model_name_or_path", default="demo_models/diffusion", help="the base whose rate is measured")
    add("--batch_size", type=int, default=16, help="images sampled together")
    add("--num_images", type=int, default=64, help="images sampled for the rate")
    add("--results_file", type=Path, required=True, help="JSON file for the figures")
    args = parser.parse_args(argv)
    if wrong := [text for text in args.filtered if "=" not in text]:
        parser.error(f"--filtered {wrong[0]}: write NAME=FOLDER")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sets = dict(text.split("=", 1) for text in args.filtered)
    figures = {"simulated": True, "rate": rate(args.pretrained_model_name_or_path, args.batch_size, args.num_images)}
    figures["sets"] = {name: nearness(Path(folder)) for name, folder in sets.items()}
    args.results_file.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.results_file, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
