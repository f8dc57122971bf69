"""The record of a scoring run, which ties the scores of synthetic images to what they were computed from.

Scores (`cosine`, `kept`, ...) decide which images are trained on. They are accepted only together with
`scoring_record.json`, which holds the fingerprint of the dataset as it was scored and, for each fold, the photographs
that the images were compared with. So values that were written or changed by hand, or computed with a held-out
photograph, are refused.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from curation import protocols
from harness import errors
from harness.errors import InputError, one_line
from harness.files import write_json

RECORD_NAME = "scoring_record.json"
SCORES = ("cosine", "euclidean", "class_rank", "lpips", "phenotype_probability", "sharpness", "copy_score")
SCORES += ("phenotype_rank", "person_similarity", "label_probability", "kept", "reject_reason")
REMEDY = "run filter_synthetic.py again, or take these columns out"


def fold_key(number: int | None) -> str:
    """How a record names a fold: "0", "1", ..., or "paper"."""
    return "paper" if number is None else str(number)


def write_record(
    folder: Path, images: datasets.Dataset, settings: Mapping, compared_with: Mapping[int | None, Sequence[str]]
) -> None:
    """Write a scoring run's record into the folder of the synthetic images that it scored.

    images: as load_synthetic opens the finished folder; settings: what else the scores depend on; compared_with:
    fold -> digests (guard.photograph_digests) of all photographs that its prototypes were made from."""
    photographs = {fold_key(fold): sorted(digests) for fold, digests in compared_with.items()}
    content = {"fingerprint": images._fingerprint, "settings": dict(settings), "compared_with": photographs}
    write_json(folder / RECORD_NAME, content)


def read_record(name: str, images: datasets.Dataset) -> dict | None:
    """The record beside synthetic images, with `compared_with` by fold_key; None for images without scores.

    name: folder, or ORG/NAME on the Hub. Raises InputError for scores without a record, or with another's record."""
    scores = [column for column in images.column_names if column in SCORES or column.startswith("lpips_")]
    if not scores:
        return None
    where = f"{name}: column {scores[0]}"
    try:
        if Path(name).is_dir():
            file = Path(name) / RECORD_NAME
        else:
            repo_id = name.removeprefix("hf://datasets/").partition("@")[0]
            file = Path(huggingface_hub.hf_hub_download(repo_id, RECORD_NAME, repo_type="dataset"))
        record = json.loads(file.read_text(encoding="utf-8"))
        same = record["fingerprint"] == images._fingerprint
        compared_with = {fold: frozenset(digests) for fold, digests in record["compared_with"].items()}
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise InputError(f"{where} has no {RECORD_NAME} beside it that says what was scored; {REMEDY}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: {RECORD_NAME} cannot be read ({one_line(error)}); {REMEDY}") from error
    if not same:
        raise InputError(f"{where} was written or changed after the scoring run recorded in {RECORD_NAME}; {REMEDY}")
    return record | {"compared_with": compared_with}


def admit(record: Mapping, fold: protocols.Fold, photographs: Sequence[str]) -> None:
    """Raise LeakError if a fold's scores were computed with photographs that are not on its training side.

    photographs (n,): digests of the dataset's rows. Under `paper` the scores may depend on all of them, even on the
    test side: that is the paper's procedure. Raises InputError if the record does not have this fold."""
    where = f"fold {fold.number} ({fold.protocol})"
    compared_with = record["compared_with"].get(fold_key(fold.generator_number))
    if compared_with is None:
        raise InputError(f"--synthetic_dataset: {RECORD_NAME} holds no scores for {where}; {REMEDY}")
    allowed = photographs if fold.protocol == "paper" else [photographs[row] for row in fold.train.tolist()]
    outside = compared_with.difference(allowed)
    if outside:
        rows = [row for row, digest in enumerate(photographs) if digest in outside]
        which = f"the photograph in row {rows[0] + 1}" if rows else "a photograph that the dataset does not hold"
        raise errors.LeakError(
            f"{where}: the synthetic images were scored with {which}, which is not on the training side "
            f"({len(outside)} such); run filter_synthetic.py on this dataset and fold, with the training's --k_shot "
            "and --seed"
        )
