"""What a DreamBooth run has finished already, and whether it is this run's: adapters, training states, images.

A run is resumed from what lies in its folder, so every file is checked for what it was made of before it is used:
`check` refuses what came from another fold, run or dataset. More steps (--max_train_steps) continue from the state kept
in OUT/fold0/checkpoints, and more images (--num_images) are appended to those that exist.
"""

import json
import os
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from curation import protocols
from generation import lora_files, synthetic_images, training_provenance
from generation.support_sets import Support, by_folder
from generation.training_provenance import SOURCES_NAME
from harness.errors import InputError, one_line
from harness.files import write_atomically, write_json
from harness.run_folder import prepare_output

SAMPLED_NAME = "sampling.json"  # beside a finished synthetic/: how many images were asked for, from which adapters
RESAMPLE = "delete it, its images are then made again"
RESTART = "delete it, it then starts anew"
UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError)  # what torch.load raises


def checkpoint_of(batch: Sequence[Support]) -> Path:
    """The file of the training state of adapters that are trained together, while the run goes on."""
    return batch[0].work / f"{batch[0].condition}.pt"


def kept_checkpoint_of(batch: Sequence[Support]) -> Path:
    """The file of that state once the run has finished, about three times the size of the adapters.

    Without it, further steps start from the first step again."""
    return batch[0].folder / "checkpoints" / batch[0].condition / "state.pt"


# ---------------------------------------------------------------------------------------------------------- checking


def check(supports: Sequence[Support], max_train_steps: int, num_images: int) -> None:
    """Raise LeakError or InputError if something in the run's folder was made from photographs that are not the
    supports', with other settings, or is more than is asked for. Checks everything, and changes nothing."""
    for folder, own in by_folder(supports).items():
        steps = {support.condition: trained_steps(support, max_train_steps) for support in own}
        trained = {each.condition: digest_of(each) for each in own if steps[each.condition]}
        for support in own:
            for part in (support.part, support.begun) if steps[support.condition] == max_train_steps else ():
                if part.is_file():
                    check_part(part, support, trained[support.condition], num_images)
        check_dataset(folder, own, trained, num_images)


def check_part(part: Path, support: Support, adapter_sha256: str | None, num_images: int) -> None:
    """As check, for the images of one support, all of them or those sampled so far."""
    rows = synthetic_images.checked_rows([part], lambda _: support.sources, f"{part}", RESAMPLE)
    foreign = [row for row in rows if row["adapter_sha256"] != adapter_sha256]
    if foreign:
        image = f"image {foreign[0]['synthetic_id']} is not of the adapter {support.adapter}"
        raise InputError(f"{part}: {image}; {RESAMPLE}")
    _check_prompts(part, rows, {support.condition: support})
    _check_number(part, len(rows), num_images)


def check_dataset(folder: Path, supports: Sequence[Support], trained: dict[str, str], num_images: int) -> None:
    """As check, for a finished folder/synthetic; trained: condition -> digest of the adapter in the folder."""
    dataset, sampled = folder / "synthetic", sampled_with(folder)
    if not dataset.is_dir():
        return
    sources = {support.condition: support.sources for support in supports}
    rows = synthetic_images.checked_rows(dataset_files(folder), sources.get, f"{dataset}", RESAMPLE)
    counted = Counter(row["label"] for row in rows)
    _check_number(dataset, max([*counted.values(), (sampled or {}).get("num_images", 0)], default=0), num_images)
    if sampled is None or sampled["adapter_sha256"] != trained:
        return  # these adapters are trained further, and all their images are made again
    for row in rows:
        if row["adapter_sha256"] != trained[row["label"]]:
            raise InputError(f"{dataset}: image {row['synthetic_id']} is not of an adapter that lies there; {RESAMPLE}")
    _check_prompts(dataset, rows, {support.condition: support for support in supports})
    if len(rows) != sampled["n_images"]:
        raise InputError(f"{dataset}: holds {len(rows)} images, and {sampled['n_images']} were made; {RESAMPLE}")


def _check_prompts(place: Path, rows: Sequence[dict], supports: dict[str, Support]) -> None:
    """Raise InputError for an image that was asked for otherwise than here; supports: by condition."""
    for row in rows:
        drawn = supports[row["label"]].drawn
        if drawn and row["prompt"] != drawn.said(number_of(row)).prompt:
            raise InputError(f"{place}: image {row['synthetic_id']} was made from another prompt than here; {RESAMPLE}")


def _check_number(place: Path, n: int, num_images: int) -> None:
    if n > num_images:
        raise InputError(f"--num_images {num_images}: {place} has {n} of a condition; ask for at least as many")


def trained_steps(support: Support, max_train_steps: int) -> int:
    """How many steps the adapter in the support's folder was trained for, 0 if there is none; raises as check does.

    Without an adapter nothing is left to train, so it is max_train_steps."""
    if support.adapter is None:
        return max_train_steps
    if not support.adapter.exists():
        return 0
    what = f"adapter {support.adapter}"
    record = lora_files.record_of(support.adapter)
    training_provenance.check(record, support.trained_on, what, lora_files.RETRAIN)
    expected = training_provenance.sources(support.image_ids, record)
    try:
        same = json.loads((support.adapter / SOURCES_NAME).read_text(encoding="utf-8")) == expected
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
    """Whether nothing is left to do for a support: its adapter is trained, and all its images are sampled."""
    if not trained(support, max_train_steps):
        return False
    if not num_images:
        return True
    if support.part.is_file():
        return pq.read_metadata(support.part).num_rows == num_images
    sampled = sampled_with(support.folder) if (support.folder / "synthetic").is_dir() else None
    if sampled is None or sampled["num_images"] != num_images:
        return False
    recorded = sampled["adapter_sha256"]
    return support.condition in recorded and recorded[support.condition] == digest_of(support)


def digest_of(support: Support) -> str | None:
    """The digest of the adapter's file, which stands in the rows of its images; None: the base alone samples."""
    return lora_files.sha256(support.adapter) if support.adapter else None


def sampled_with(folder: Path) -> dict | None:
    """The record of how folder/synthetic was sampled; None if there is none that can be read."""
    try:
        sampled = json.loads((folder / SAMPLED_NAME).read_text(encoding="utf-8"))
        kinds = {"num_images": int, "n_images": int, "adapter_sha256": dict}
        return sampled if all(isinstance(sampled[name], kind) for name, kind in kinds.items()) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def dataset_files(folder: Path) -> list[Path]:
    return sorted((folder / "synthetic" / "synthetic").glob("*.parquet"))


def earlier_rows(support: Support, adapter_sha256: str | None) -> list[dict]:
    """The rows, with their pictures, that were sampled from this adapter before, by increasing number."""
    of_this_run = [part for part in (support.part, support.begun) if part.is_file()]
    files = of_this_run[:1] or dataset_files(support.folder)
    column, start = pc.field("adapter_sha256"), f"{support.condition}_"
    wanted = column.is_null() if adapter_sha256 is None else column == adapter_sha256
    wanted &= pc.starts_with(pc.field("synthetic_id"), start)
    rows = []
    for file in files:
        rows += pq.read_table(file, filters=wanted).to_pylist()
    own = [row | {"label": support.condition} for row in rows if condition_of(row) == support.condition]
    return sorted(own, key=number_of)


def condition_of(row: dict) -> str:
    return row["synthetic_id"].rpartition("_")[0]


def number_of(row: dict) -> int:
    return int(row["synthetic_id"].rpartition("_")[2])


def read_checkpoint(checkpoint: Path, supports: Sequence[Support]) -> dict:
    """The content of a training state, after checking that its adapters are the supports'; its tensors are mapped.

    Raises InputError, and LeakError if its adapters saw photographs that are not the supports'."""
    what = f"checkpoint {checkpoint}"
    try:
        content = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        records = content.get("trained_on") or [None]
        content["step"] = int(content["step"])
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise InputError(f"{what}: {one_line(error)}; {RESTART}") from error
    for record, support in zip(records, supports, strict=False):
        training_provenance.check(record, support.trained_on, what, RESTART)
    if len(records) != len(supports):
        raise InputError(f"{what} is of {len(records)} adapters, and here are {len(supports)}; {RESTART}")
    return content


def check_checkpoint(supports: Sequence[Support], max_train_steps: int) -> Path:
    """The file from which the training of a batch would be resumed; it need not exist. Raises as read_checkpoint does,
    and InputError if it holds more steps than are asked for."""
    current = checkpoint_of(supports)
    checkpoint = current if current.is_file() else kept_checkpoint_of(supports)
    step = read_checkpoint(checkpoint, supports)["step"] if checkpoint.is_file() else 0
    if step > max_train_steps:
        reason = f"checkpoint {checkpoint} is of {step} steps"
        raise InputError(f"--max_train_steps {max_train_steps}: {reason}; ask for at least as many")
    return checkpoint


# ------------------------------------------------------------------------------------------- the folder, start to end


def prepare(
    output_dir: Path,
    settings: dict,
    parts: Sequence[str],
    results: Sequence[str],
    supports: Sequence[Support],
    batches: Sequence[Sequence[Support]],
    max_train_steps: int,
    num_images: int,
    resume: bool,
) -> None:
    """Start the run's folder anew, or check all that it would be resumed from; it is readable by its owner only.

    settings: what the images depend on; parts: names of what is removed unless resuming, besides the folds' folders;
    results: names of the files that are always removed, once nothing was refused; supports: of all images; batches: of
    those whose adapters are trained together."""
    of_folds = ("paper", *(f"fold{number}" for number in range(protocols.N_FOLDS)))
    prepare_output(output_dir, settings, (*parts, *of_folds), () if resume else results, resume, "train_dreambooth.py")
    output_dir.chmod(0o700)
    if resume:
        check(supports, max_train_steps, num_images)
        for batch in batches:
            check_checkpoint(batch, max_train_steps)
    for name in results:
        (output_dir / name).unlink(missing_ok=True)
    name_sources([support for batch in batches for support in batch])


def sources_of(supports: Sequence[Support]) -> dict:
    """The content of the sources.json beside a file that depends on the photographs of several supports of one fold."""
    record = supports[0].trained_on.as_dict()
    record["source_sha256"] = [digest for support in supports for digest in support.trained_on.source_sha256]
    return training_provenance.sources([name for support in supports for name in support.image_ids], record)


def name_sources(supports: Sequence[Support]) -> None:
    """Write the photographs' names beside the states of a running training, so that a withdrawal finds these."""
    for own in by_folder(supports).values():
        own[0].work.mkdir(parents=True, exist_ok=True)
        write_json(own[0].work / SOURCES_NAME, sources_of(own))


def remove_parts(supports: Sequence[Support], folder: Path) -> None:
    """Remove the finished parts of a fold's folder, whose images come from an adapter that is about to change."""
    for support in supports:
        if support.folder == folder:
            remove_images(support)


def remove_images(support: Support) -> None:
    """Remove the images of a support that were sampled in this run, all of them or some."""
    support.part.unlink(missing_ok=True)
    support.begun.unlink(missing_ok=True)


def keep_checkpoints(batches: Sequence[Sequence[Support]]) -> None:
    """Move the training states to where they are kept: a later run may continue from them with more steps."""
    for batch in batches:
        state, kept = checkpoint_of(batch), kept_checkpoint_of(batch)
        if state.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept.parent / SOURCES_NAME, sources_of(batch))  # first: a withdrawal must find it
            os.replace(state, kept)


def finish_datasets(supports: Sequence[Support], num_images: int) -> list[str]:
    """Join the finished parts of each fold to its dataset, with a sheet of samples; returns what now lies where.

    Raises InputError if no part of a fold has an image."""
    written = []
    for folder, own in by_folder(supports).items():
        if num_images and all(support.part.is_file() for support in own):
            finish_dataset(folder, own, num_images)
            sheet = synthetic_images.contact_sheet(folder / "synthetic")
            write_atomically(folder / synthetic_images.SHEET_NAME, lambda file, sheet=sheet: sheet.save(file, "PNG"))
        written += [f"{folder}/adapters"] * bool(own[0].adapter) + [f"{folder}/synthetic, samples.png"] * bool(
            num_images
        )
    return written


def adapter_records(supports: Sequence[Support]) -> list[dict]:
    """What the run's record says of each adapter."""
    return [
        {
            "fold": support.fold.number,
            "condition": support.condition,
            "n_photographs": len(support.rows),
            "adapter_sha256": digest_of(support),
        }
        for support in supports
    ]


def finish_dataset(folder: Path, supports: Sequence[Support], num_images: int) -> None:
    """Join the parts of a fold to its dataset; raises InputError if no part has an image."""
    parts = [support.part for support in supports]
    n = sum(pq.read_metadata(part).num_rows for part in parts)
    if not n:
        reason = "every image is blank; look at the safety checker, or use --mixed_precision no"
        raise InputError(f"{folder.name}: {reason}")
    (folder / SAMPLED_NAME).unlink(missing_ok=True)  # it describes the images that are replaced now
    synthetic_images.write_dataset(folder / "synthetic", parts)
    digests = {support.condition: digest_of(support) for support in supports}
    write_json(folder / SAMPLED_NAME, {"num_images": num_images, "adapter_sha256": digests, "n_images": n})
