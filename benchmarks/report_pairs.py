"""Measures the similarity of report pairs by a sentence encoder: the incumbent's way and ours, on SIMULATED reports.

    python benchmarks/report_pairs.py

As in the paper: 456 real and 1,133 synthetic reports of 103 conditions with five sections each, all texts different,
and every pair of reports within a condition. The incumbent's way, as in public notebooks of the field: both texts of
each pair are encoded, pair by pair; it is timed on a sample of the pairs, half of it before ours and half after, and
extrapolated in proportion. Also timed so: the same with the texts of many pairs in batches of 32, as the library makes
them. Ours encodes each text once, with texts of its length (reporting/text_similarity.py), and is timed as a whole."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.commands import Parser
from phenotyping import phenotypes
from reporting.report_sections import parse_sections
from reporting.text_similarity import SentenceEncoder, embed, open_encoders
from simulation.people import COUNTRY_ANCESTRY, draw_person, write_report

FIELDS = ("overall_impression", "left_eye", "right_eye", "nose", "mouth_lips")
NUM_REAL, SYNTHETIC_PER_CONDITION = 456, 11  # as in the paper


def different_texts(seed: int) -> dict[str, Iterator[str]]:
    """Endless texts of each field, no two alike in all fields, from SIMULATED reference reports."""
    countries, seen = list(COUNTRY_ANCESTRY), set()

    def of_field(field: str, number: int) -> Iterator[str]:
        rng = np.random.default_rng([seed, number])
        while True:
            condition = phenotypes.conditions()[rng.integers(phenotypes.NUM_CONDITIONS)]
            person = draw_person(condition, countries[rng.integers(len(countries))], rng)
            text = parse_sections(write_report(person, rng))[0][field]
            if text and text not in seen:
                seen.add(text)
                yield text

    return {field: of_field(field, number) for number, field in enumerate(FIELDS)}


def pair_by_pair(encoder: SentenceEncoder, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Cosines (n,): both texts of each pair are encoded for it."""
    cosines = []
    for pair in pairs:
        a, b = encoder.model.encode(list(pair), show_progress_bar=False)
        cosines.append(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return np.array(cosines)


def pairs_in_batches(encoder: SentenceEncoder, pairs: list[tuple[str, str]]) -> np.ndarray:
    """The same, the texts of all pairs given to the library together, so that it makes batches of 32."""
    vectors = encoder.model.encode([text for pair in pairs for text in pair], show_progress_bar=False)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors[::2] * vectors[1::2]).sum(axis=1)


INCUMBENT = {"pair by pair": pair_by_pair, "pairs in batches": pairs_in_batches}


def timed(function: Callable, *arguments: object) -> tuple[Any, np.ndarray]:
    """What the function returns, and the seconds (2,) that it took: on the clock, and of the processors."""
    clock, processors = time.perf_counter(), time.process_time()
    found = function(*arguments)
    return found, np.array([time.perf_counter() - clock, time.process_time() - processors])


def ours(
    encoder: SentenceEncoder, real: dict[str, list[str]], synthetic: dict[str, list[str]]
) -> dict[str, np.ndarray]:
    """The matrix (n, m) of cosines of each field, every text encoded once."""
    vectors = embed([text for side in (real, synthetic) for field in FIELDS for text in side[field]], encoder)
    n, m = len(real[FIELDS[0]]), len(synthetic[FIELDS[0]])
    of_real, of_synthetic = np.split(vectors, [n * len(FIELDS)])
    return {field: of_real[i * n : (i + 1) * n] @ of_synthetic[i * m : (i + 1) * m].T for i, field in enumerate(FIELDS)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_conditions", type=int, default=phenotypes.NUM_STUDY_CONDITIONS)
    parser.add_argument("--sample_pairs", type=int, default=80, help="pairs that the incumbent's ways are timed on")
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2", help="name or folder of a sentence encoder")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch

    ((name, encoder),) = open_encoders([args.encoder])[0].items()
    n = round(NUM_REAL * args.num_conditions / phenotypes.NUM_STUDY_CONDITIONS)
    m = SYNTHETIC_PER_CONDITION * args.num_conditions
    of_real, of_synthetic = np.arange(n) % args.num_conditions, np.arange(m) % args.num_conditions
    source = different_texts(25)
    real, synthetic = ({f: [next(source[f]) for _ in range(size)] for f in FIELDS} for size in (n, m))
    rows, columns = np.nonzero(of_real[:, None] == of_synthetic)
    print(
        f"SIMULATED, {n} real and {m} synthetic reports, {len(FIELDS)} sections each: {len(rows)} pairs within a "
        f"condition, {len(FIELDS) * (n + m)} different texts of {np.mean(encoder.lengths(real['nose'])):.0f} tokens "
        f"(nose) to {np.mean(encoder.lengths(real['left_eye'])):.0f} (left eye); {name} in float32, "
        f"{torch.get_num_threads()} threads",
        flush=True,
    )
    sampled = np.random.default_rng(25).choice(len(rows), size=min(args.sample_pairs, len(rows)), replace=False)
    texts = [(real[f][rows[pair]], synthetic[f][columns[pair]]) for pair in sampled for f in FIELDS]
    halves = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    pair_by_pair(encoder, texts[:5])  # the first calls are slower
    seconds = {way: np.zeros(2) for way in INCUMBENT}  # on the clock, and of the processors
    cosines: dict[str, list[np.ndarray]] = {way: [] for way in INCUMBENT}
    our_seconds, matrices = np.zeros(2), {}
    for half in halves:
        for way, similarity in INCUMBENT.items():
            found, taken = timed(similarity, encoder, half)
            cosines[way].append(found)
            seconds[way] += taken
        if not matrices:
            matrices, our_seconds = timed(ours, encoder, real, synthetic)
    of_sample = np.array([matrices[f][rows[pair], columns[pair]] for pair in sampled for f in FIELDS])
    print(f"ours: {our_seconds[0]:.1f} s for all {len(rows)} pairs ({our_seconds[1]:.1f} s of the processors)")
    for way, taken in seconds.items():
        clock, processors = taken * len(rows) / len(sampled)
        difference = np.abs(np.concatenate(cosines[way]) - of_sample).max()
        print(
            f"incumbent, {way}: {taken[0]:.1f} s for {len(sampled)} sampled pairs, extrapolated to {clock:.1f} s "
            f"({processors:.1f} s of the processors); ours is {clock / our_seconds[0]:.1f} x as fast "
            f"({processors / our_seconds[1]:.1f} x by the processors' time, which other programs hardly change); "
            f"largest difference of a cosine {difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main(parse_args())
