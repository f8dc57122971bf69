"""What one adapter per fold teaches a base that never heard the terms, on SIMULATED people: docs/knowledge_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/deaf_base.py --work_dir runs/word_gain

The base is made deaf by calling every term by a word that it never read (MARK:bab instead of HP:0000316). Datasets,
adapters and pictures are kept in --work_dir, also if the study is stopped; deaf_base.json and draws_deaf_base.json in
--results_dir hold the figures."""

import argparse
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.knowledge_gain import gains, kept_draws, print_arms
from benchmarks.word_image_gain import (
    ADAPTER_FOLD,
    BASE,
    RESULTS,
    AdapterStudy,
    Arm,
    Images,
    measured,
    of_painting,
    open_images,
    sampled,
    write_table,
)
from curation import protocols
from harness.commands import Parser
from harness.files import write_json

IMAGES, STEPS, BATCH = 12, 500, 8
KS = ("2", "all")
CONSONANTS, VOWELS = "bdfgjkmnpqvwxz", "aiou"
GENERATORS = {  # name -> adapter, and whether the base is deaf to the words of its prompts
    "deaf base alone": ("none", True),
    "deaf base, phenotype adapter": ("phenotype", True),
    "phenotype adapter": ("phenotype", False),
}


def unheard_words(n: int) -> list[str]:
    """Words of three letters, the same ones each time; the captions of demo_models/captions.py hold none of them."""
    words = ["".join(letters) for letters in itertools.product(CONSONANTS, VOWELS, CONSONANTS)]
    if n > len(words):
        raise ValueError(f"there are words for {len(words)} terms, not {n}")
    return words[:: len(words) // n][:n]


class DeafStudy(AdapterStudy):
    """The study's conditions, and images by words of the base alone and of one adapter of the training photographs."""

    def __init__(self, work_dir: Path):
        super().__init__(work_dir, "study")
        self.deaf_terms = [f"MARK:{word}" for word in unheard_words(len(self.terms))]
        self.table = write_table(work_dir / "deaf_terms.csv", self.people.codes, self.own, self.deaf_terms)

    def images_of(self, generator: str, k: str) -> Images:
        adapter, deaf = GENERATORS[generator]
        flags = ["--dataset_name", self.dataset, "--fold", ADAPTER_FOLD, "--seed", 0, "--prompts_from", "conditions"]
        flags += ["--pretrained_model_name_or_path", BASE, "--guidance_scale", 3, "--sample_batch_size", 12]
        flags += ["--adapter", adapter, *(("--term_table", self.table) if deaf else ())]
        folder = self.work_dir / generator.replace(",", "").replace(" ", "_")
        if adapter != "none":
            flags += ["--rank", 8, "--learning_rate", 1e-3, "--max_train_steps", STEPS, "--train_batch_size", BATCH]
            flags += ["--k_shot", k] if k != "all" else []
            folder = folder.with_name(f"{folder.name}_k{k}")
        terms = self.deaf_terms if deaf else self.terms
        return open_images(sampled(folder, IMAGES, flags), self.people.names, terms, self.features)

    def draw(self, k: str, seed: int) -> dict:
        """The arms of the plan; the support set is the one that the adapters saw."""
        fold, own = self.fold, self.own
        if k != "all":
            fold = protocols.k_shot(fold, self.people.labels.tolist(), int(k), seed)
        arms = {"terms": Arm(None, "", own, True)}
        for generator in GENERATORS:
            images = self.images_of(generator, k)
            arms |= {f"{generator}: images as {use}": Arm(images, use, own) for use in ("data", "prior", "terms")}
            arms[f"terms, {generator}: images as terms"] = Arm(images, "terms", own, True)
        return measured(self.people, fold, seed, arms)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--work_dir", type=Path, required=True, help="datasets, adapters, images and pixels; kept")
    parser.add_argument("--results_dir", type=Path, default=RESULTS, help="where the small files of figures are kept")
    parser.add_argument("--k", nargs="+", choices=KS, default=KS, help="photographs per condition")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    opened: list[DeafStudy] = []

    def draw(k: str) -> list[dict]:
        if not opened:
            opened.append(DeafStudy(args.work_dir))
        return [opened[0].draw(k, 0)]

    results = {}
    for k in args.k:
        draws = kept_draws(args.results_dir / "draws_deaf_base.json", {f"k{k}": functools.partial(draw, k)})
        results[k] = {"gains": gains(draws), "images added to knowledge": of_painting(draws)}
        print_arms(f"SIMULATED, deaf base, k = {k}", results[k]["gains"])
        print_arms(f"SIMULATED, deaf base, k = {k}: images added to knowledge", results[k]["images added to knowledge"])
        write_json(args.results_dir / "deaf_base.json", results)


if __name__ == "__main__":
    main(parse_args())
