"""The measurements of filter_synthetic.py: processes share the pictures, and a finished block is not done again."""

from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from curation import protocols
from curation.leak_guard import Guard, columns_for_guard
from generation.face_examination import Examined, Examiner
from generation.filter_inputs import Inputs
from generation.fold_filter import FoldFilter, Photographs
from generation.scored_images import write_scores
from harness.files import write_atomically
from harness.launched_processes import own_share, wait_for_files


def examine_photographs(
    accelerator: Accelerator, examiner: Examiner, inputs: Inputs, work: Path, batch_size: int
) -> Examined:
    """What is measured of all n photographs, in their order."""
    undecoded = inputs.images.select_columns("image").cast_column("image", datasets.Image(decode=False))
    starts = range(0, len(undecoded), batch_size)
    files = [work / "photographs" / f"{start:08d}.npz" for start in starts]
    (work / "photographs").mkdir(parents=True, exist_ok=True)
    work.chmod(0o700)
    pending = [(start, file) for start, file in zip(starts, files, strict=True) if not file.is_file()]
    mine = own_share(accelerator, pending)
    for start, file in tqdm(mine, desc="photographs", unit="block", disable=not accelerator.is_main_process):
        rows = range(start, min(start + batch_size, len(undecoded)))
        examiner.examine([undecoded[row]["image"] for row in rows]).save(file)
    accelerator.wait_for_everyone()
    wait_for_files(files)
    return Examined.joined([Examined.load(file) for file in files])


def fit_filters(
    inputs: Inputs, photographs: Examined, kind: str, lpips: nn.Module | None, profiles: np.ndarray | None = None
) -> dict[str, FoldFilter]:
    """A filter for each side, fitted on the side's training photographs and on no others.

    profiles: see FoldFilter.fitted_to. Raises LeakError if a side's training side overlaps with what it holds out."""
    labels, groups = np.array(inputs.images["label"][:]), np.array(inputs.images["group_id"][:])
    image_ids = inputs.images["image_id"][:]
    columns = columns_for_guard(inputs.images) | {"sha256": inputs.digests}
    filters = {}
    for side in inputs.sides:
        guard = Guard(protocols.of_photographs(side.fold, len(labels)), columns)
        rows = guard.admit(side.fold.train, "the filter's class means")
        training = Photographs(
            photographs.rows(rows),
            [image_ids[row] for row in rows.tolist()],
            labels[rows],
            groups[rows],
            len(inputs.class_names),
        )
        filters[side.name] = FoldFilter.fitted_to(training, kind, lpips, profiles)
    return filters


def score_images(
    accelerator: Accelerator,
    examiner: Examiner,
    inputs: Inputs,
    filters: dict[str, FoldFilter],
    work: Path,
    batch_size: int,
    lpips_column: str | None,
) -> None:
    """Scores of all synthetic images, a file per block: work/scores/BLOCK.parquet, and the identities beside it."""
    folder = work / "scores"
    folder.mkdir(parents=True, exist_ok=True)
    blocks = list(inputs.blocks(batch_size))
    undecoded = [part.cast_column("image", datasets.Image(decode=False)) for part in inputs.parts]
    mine = own_share(accelerator, [block for block in blocks if not (folder / f"{block[0]}.parquet").is_file()])
    for name, side, number, rows in tqdm(
        mine, desc="synthetic images", unit="block", disable=not accelerator.is_main_process
    ):
        examined = examiner.examine([undecoded[number][row]["image"] for row in rows.tolist()])
        columns = filters[side.name].score(examined, inputs.labels[number][rows], lpips_column or "lpips")

        def write(partial: Path, identities: np.ndarray = examined.identities) -> None:
            with partial.open("wb") as file:
                np.save(file, identities.astype(np.float16))

        write_atomically(folder / f"{name}.npy", write)
        write_scores(folder / f"{name}.parquet", columns)
    accelerator.wait_for_everyone()
    wait_for_files([folder / f"{name}.parquet" for name, *_ in blocks])
