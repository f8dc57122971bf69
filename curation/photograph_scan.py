"""Reads every photograph of the curator's folder once, in parallel, and finds those that show the same photograph."""

import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from curation import pairs_to_look_at
from curation.curated_rows import NO_REMEDY, Problem, Row
from imaging import near_duplicates, photographs

Pairs = list[tuple[int, int]]  # of numbers of rows


def scan(
    rows: list[Row],
    problems: list[Problem],
    workspace: Path,
    answers: Sequence[pairs_to_look_at.Answer] = (),
) -> tuple[list[Row], Pairs, Pairs, dict[tuple[int, int], near_duplicates.Likeness]]:
    """Read the photographs of all rows; what is wrong with them is appended to the problems.

    workspace: a folder for re-encoded photographs and records; answers: of the curator, on pairs of rows. Returns
    the usable rows, with their photographs; the pairs of them (numbers of usable rows) that show the same photograph,
    or nearly so, or that the curator has joined; those that the curator has found to be different people; and those to
    look at, on which there is no answer."""
    near = near_duplicates.NearDuplicates(workspace)
    usable: list[Row] = []
    first_with: dict[str, int] = {}  # pixels_sha256 -> usable row
    identical: list[tuple[int, int]] = []
    for row, outcome in zip(rows, _read_all(rows, workspace), strict=True):
        if isinstance(outcome, photographs.PhotographError):
            problems.append(row.problem("image_name", "row", f"{row.path.name} {outcome.reason}", outcome.remedy))
            continue
        row.photograph, row.rewritten, compared = outcome
        for note in row.photograph.notes:
            problems.append(row.problem("image_name", "note", f"{row.path.name} {note}", NO_REMEDY))
        twin = first_with.setdefault(row.photograph.pixels_sha256, len(usable))
        if twin == len(usable):
            near.add(twin, compared)
        elif usable[twin].abbreviation != row.abbreviation:
            reason = f"{row.path.name} is the same photograph as row {usable[twin].line}, under another condition"
            problems.append(row.problem("image_name", "row", reason, "delete the wrong one of the two rows"))
            continue
        else:
            identical.append((twin, len(usable)))
            reason = f"{row.path.name} is the same photograph as row {usable[twin].line}"
            problems.append(row.problem("image_name", "note", reason, "kept in one group; delete one of the two rows"))
        usable.append(row)
    different, joined = pairs_to_look_at.numbered(answers, usable, problems)
    found = near.pairs(identical, different)
    for a, b in found.certain:
        if usable[a].abbreviation != usable[b].abbreviation:
            reason = f"{usable[b].path.name} is a near duplicate of row {usable[a].line}, under another condition"
            problems.append(usable[b].problem("image_name", "note", reason, "kept in one group; check the diagnoses"))
    answered = {frozenset(pair) for pair in different + joined}
    to_look_at = {pair: likeness for pair, likeness in found.to_look_at.items() if frozenset(pair) not in answered}
    return usable, identical + found.certain + joined, different, to_look_at


Scanned = tuple[photographs.Photograph, Path | None, np.ndarray]


def _read_all(rows: list[Row], workspace: Path) -> Iterator[Scanned | photographs.PhotographError]:
    """Of each row, in order: the photograph, the file of its re-encoded bytes or None, its record; or what is wrong."""

    def read(number: int, row: Row) -> Scanned | photographs.PhotographError:
        try:
            photograph, published, image = photographs.read(row.path)
        except photographs.PhotographError as error:
            return error
        rewritten = None
        if photograph.rewritten:
            rewritten = workspace / f"{number}{photograph.extension}"
            rewritten.write_bytes(published)
        return photograph, rewritten, near_duplicates.record(image)

    workers = os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # judged by our own limit
        warnings.filterwarnings("ignore", module="PIL")  # corrupt metadata, which is dropped
        waiting: deque = deque()
        for number, row in enumerate(tqdm(rows, desc="Reading photographs", unit=" images")):
            waiting.append(pool.submit(read, number, row))
            if len(waiting) >= 4 * workers:  # bounded, so that results do not pile up
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
