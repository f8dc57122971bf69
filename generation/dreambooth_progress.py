"""What a DreamBooth run has made already, and whether it is this run's: adapters, their training's state, images.

A run is gone on with by what lies in its folder, so each piece is asked what it was made of before it is used:
`check` refuses what came from another fold, run or dataset. More steps (--max_train_steps) go on from the state that
OUT/fold0/checkpoints keeps, and more images (--num_images) are put behind those that there are.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curation import protocols
from generation import lora_files, synthetic_images, training_provenance
from generation.training_provenance import SOURCES_NAME, TrainedOn
from harness.errors import InputError
from harness.files import write_json
from harness.seeds import derived_seed

SAMPLED_NAME = "sampling.json"  # beside a finished synthetic/: how many images were asked for, of which adapters
RESAMPLE = "delete it, its images are then made again"


@dataclasses.dataclass
class Support:
    """The photographs of one condition that one adapter may see, and where its results go."""

    fold: protocols.Fold
    condition: str
    rows: np.ndarray  # (n,) of the dataset
    image_ids: list[str]
    prompts: list[str]  # (n,)
    folder: Path  # OUT/fold0, or OUT/paper
    work: Path  # of its fold: what is finished
    trained_on: TrainedOn | None = None  # what its adapter's file says, and must say; only to draw batches it may lack

    @property
    def adapter(self) -> Path:
        return self.folder / "adapters" / self.condition

    @property
    def part(self) -> Path:
        return self.work / f"{self.condition}.parquet"

    @property
    def sources(self) -> synthetic_images.Sources:
        return synthetic_images.Sources(self.trained_on, self.image_ids)

    def seed(self, seed: int, *more: int) -> int:
        return derived_seed(seed, self.fold.seed_number, synthetic_images.condition_number(self.condition), *more)


def checkpoint_of(batch: Sequence[Support]) -> Path:
    """The training's state of adapters that are trained together, while the run goes on."""
    return batch[0].work / f"{batch[0].condition}.pt"


def kept_checkpoint_of(batch: Sequence[Support]) -> Path:
    """The same once the run has finished; about three times the size of the adapters, and deleting it costs only that
    more steps then begin with the first."""
    return batch[0].folder / "checkpoints" / batch[0].condition / "state.pt"


# ---------------------------------------------------------------------------------------------------------- checking


def check(supports: Sequence[Support], max_train_steps: int, num_images: int) -> None:
    """Raise LeakError or InputError where what is there was made from other photographs than the supports', with other
    settings, or is more than is asked for. Everything is asked, and nothing changed."""
    for folder, own in by_folder(supports).items():
        steps = {support.condition: trained_steps(support, max_train_steps) for support in own}
        trained = {each.condition: lora_files.sha256(each.adapter) for each in own if steps[each.condition]}
        for support in own:
            if steps[support.condition] == max_train_steps and support.part.is_file():
                rows = synthetic_images.checked_rows(
                    [support.part], lambda _, support=support: support.sources, f"{support.part}", RESAMPLE
                )
                of_another = [row for row in rows if row["adapter_sha256"] != trained[support.condition]]
                if of_another:
                    image = f"image {of_another[0]['synthetic_id']} is not of the adapter {support.adapter}"
                    raise InputError(f"{support.part}: {image}; {RESAMPLE}")
                _check_number(support.part, len(rows), num_images)
        check_dataset(folder, own, trained, num_images)


def check_dataset(folder: Path, supports: Sequence[Support], trained: dict[str, str], num_images: int) -> None:
    """As check, of a finished folder/synthetic; trained: condition -> digest of the adapter that lies there."""
    dataset, sampled = folder / "synthetic", sampled_with(folder)
    if not dataset.is_dir():
        return
    sources = {support.condition: support.sources for support in supports}
    rows = synthetic_images.checked_rows(dataset_files(folder), sources.get, f"{dataset}", RESAMPLE)
    counted = Counter(row["label"] for row in rows)
    _check_number(dataset, max([*counted.values(), (sampled or {}).get("num_images", 0)], default=0), num_images)
    if sampled is None or sampled["adapter_sha256"] != trained:
        return  # of adapters that have been trained further all images are made again
    for row in rows:
        if row["adapter_sha256"] != trained[row["label"]]:
            raise InputError(f"{dataset}: image {row['synthetic_id']} is not of an adapter that lies there; {RESAMPLE}")
    if len(rows) != sampled["n_images"]:
        raise InputError(f"{dataset}: holds {len(rows)} images, and {sampled['n_images']} were made; {RESAMPLE}")


def _check_number(place: Path, n: int, num_images: int) -> None:
    if n > num_images:
        raise InputError(f"--num_images {num_images}: {place} has {n} of a condition; ask for at least as many")


def trained_steps(support: Support, max_train_steps: int) -> int:
    """How many steps the adapter in the support's folder was trained for, 0 where there is none; raises as check."""
    if not support.adapter.exists():
        return 0
    what = f"adapter {support.adapter}"
    record = lora_files.record_of(support.adapter)
    training_provenance.check(record, support.trained_on, what, lora_files.RETRAIN)
    named = support.adapter / SOURCES_NAME
    try:
        same = json.loads(named.read_text(encoding="utf-8")) == training_provenance.sources(support.image_ids, record)
    except (OSError, ValueError):
        same = False
    if not same:
        raise InputError(f"{what}: its {SOURCES_NAME} does not name what its file was trained on; {lora_files.RETRAIN}")
    if not isinstance(record.get("steps"), int):
        raise InputError(f"{what} does not say for how many steps it was trained; {lora_files.RETRAIN}")
    if record["steps"] > max_train_steps:
        reason = f"{what} was trained for {record['steps']} steps already"
        raise InputError(f"--max_train_steps {max_train_steps}: {reason}; ask for at least as many")
    return record["steps"]


def trained(support: Support, max_train_steps: int) -> bool:
    return trained_steps(support, max_train_steps) == max_train_steps


def done(support: Support, max_train_steps: int, num_images: int) -> bool:
    """Whether nothing is left to do for a support."""
    if not trained(support, max_train_steps):
        return False
    if not num_images:
        return True
    if support.part.is_file():
        return pq.read_metadata(support.part).num_rows == num_images
    sampled = sampled_with(support.folder) if (support.folder / "synthetic").is_dir() else None
    if sampled is None or sampled["num_images"] != num_images:
        return False
    return sampled["adapter_sha256"].get(support.condition) == lora_files.sha256(support.adapter)


def sampled_with(folder: Path) -> dict | None:
    """The record of how folder/synthetic was sampled; None where there is none that can be read."""
    try:
        sampled = json.loads((folder / SAMPLED_NAME).read_text(encoding="utf-8"))
        kinds = {"num_images": int, "n_images": int, "adapter_sha256": dict}
        return sampled if all(isinstance(sampled[name], kind) for name, kind in kinds.items()) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def dataset_files(folder: Path) -> list[Path]:
    return sorted((folder / "synthetic" / "synthetic").glob("*.parquet"))


def earlier_rows(support: Support, adapter_sha256: str) -> list[dict]:
    """The rows, pictures included, that this adapter has been sampled for already, by increasing number."""
    files = [support.part] if support.part.is_file() else dataset_files(support.folder)
    rows = []
    for file in files:
        rows += pq.read_table(file, filters=[("adapter_sha256", "==", adapter_sha256)]).to_pylist()
    own = [row | {"label": support.condition} for row in rows if condition_of(row) == support.condition]
    return sorted(own, key=number_of)


def condition_of(row: dict) -> str:
    return row["synthetic_id"].rpartition("_")[0]


def number_of(row: dict) -> int:
    return int(row["synthetic_id"].rpartition("_")[2])


def by_folder(supports: Iterable[Support]) -> dict[Path, list[Support]]:
    """Supports of each fold, in their order."""
    folders: dict[Path, list[Support]] = {}
    for support in supports:
        folders.setdefault(support.folder, []).append(support)
    return folders


# ----------------------------------------------------------------------------------------------------------- keeping


def sources_of(supports: Sequence[Support]) -> dict:
    """The content of the sources.json beside something that saw the photographs of several supports of one fold."""
    record = supports[0].trained_on.as_dict()
    record["source_sha256"] = [digest for support in supports for digest in support.trained_on.source_sha256]
    return training_provenance.sources([name for support in supports for name in support.image_ids], record)


def name_sources(supports: Sequence[Support]) -> None:
    """Beside the states that are written while a run goes on: by it a withdrawal finds them."""
    for own in by_folder(supports).values():
        own[0].work.mkdir(parents=True, exist_ok=True)
        write_json(own[0].work / SOURCES_NAME, sources_of(own))


def keep_checkpoints(batches: Sequence[Sequence[Support]]) -> None:
    """Move what training went on from out of the way of the next run, which may go on from it with more steps."""
    for batch in batches:
        state, kept = checkpoint_of(batch), kept_checkpoint_of(batch)
        if state.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept.parent / SOURCES_NAME, sources_of(batch))  # first: a withdrawal must find it
            os.replace(state, kept)


def finish_dataset(folder: Path, supports: Sequence[Support], num_images: int) -> None:
    """The parts of a fold as its dataset; raises InputError where no part has an image."""
    parts = [support.part for support in supports]
    n = sum(pq.read_metadata(part).num_rows for part in parts)
    if not n:
        reason = "every image is blank; look at the safety checker, or use --mixed_precision no"
        raise InputError(f"{folder.name}: {reason}")
    (folder / SAMPLED_NAME).unlink(missing_ok=True)  # it would be about other images
    synthetic_images.write_dataset(folder / "synthetic", parts)
    digests = {support.condition: lora_files.sha256(support.adapter) for support in supports}
    write_json(folder / SAMPLED_NAME, {"num_images": num_images, "adapter_sha256": digests, "n_images": n})
