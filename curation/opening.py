"""Opens a built dataset, or synthetic images, from a folder or the Hub, and says in one line why it cannot.

What is opened is known by its content alone: `images._fingerprint` is a digest of the config, the split, the columns
and every row with the bytes of its picture. Caches, adapters, checkpoints and scores carry it.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import yaml
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from curation import datasheet, schema
from curation.leak_guard import columns_for_guard, photograph_digests
from curation.parquet_files import parquet_digest
from harness import real_or_simulated
from harness.counts import counted
from harness.errors import InputError, one_line
from harness.files import disk_error, sha256_of
from harness.hub_availability import check_name
from harness.real_or_simulated import BUILD

CARD_ERRORS = (
    yaml.YAMLError,
    AttributeError,
    KeyError,
    TypeError,
    RecursionError,
)  # raised over a header that is not ours
WRITE_REPORTS = "write reports with vlm_report_eval.py generate"
MOST_NAMED = 5  # of the folders in which a config, or a dataset, lies
GENERATE = "make it with a generator's script, such as train_dreambooth.py"
FINGERPRINT_DIGITS = 16
ELSEWHERE = re.compile(
    r"^([/~\\]|[A-Za-z]:)|://|::|(^|[/\\])\.\.([/\\]|$)"
)  # of a path in a card: not below its folder


def load_images(name: str, config_name: str | None = None) -> datasets.Dataset:
    """The images of a built dataset: a folder, or ORG/NAME on the Hub. Raises InputError if it cannot be opened."""
    never_empty = schema.NEVER_EMPTY_IN_IMAGES
    return _open(name, config_name, BUILD, ("image", *never_empty), never_empty)


def load_synthetic(name: str) -> datasets.Dataset:
    """Synthetic images with their provenance (generation/synthetic_images.py): a folder, or ORG/NAME on the Hub.

    Raises InputError if it cannot be opened, or if an image does not say what it is or what it was made from. Whether
    it may be trained on is decided by curation.leak_guard.Guard."""
    never_empty = schema.NEVER_EMPTY_IN_SYNTHETIC
    return _open(name, "synthetic", GENERATE, ("image", "label", "fold", *never_empty), never_empty)


def load_reports(name: str) -> datasets.Dataset:
    """Config `reports` of a folder, or of ORG/NAME on the Hub; reporting/report_dataset.py checks it further.

    Raises InputError if it cannot be opened, or if a report does not say who wrote it."""
    return _open(name, "reports", WRITE_REPORTS, ("label", "report", "reporter"), ("reporter",))


def _open(
    name: str, config_name: str | None, remedy: str, required: Sequence[str], never_empty: Sequence[str]
) -> datasets.Dataset:
    """One config of a folder or of ORG/NAME, checked and with its fingerprint; remedy: how such a dataset is made."""
    images = _loaded(name, config_name, remedy)
    _check_columns(name, images, required, never_empty, remedy)
    images._fingerprint = _checked_digest(name, images, remedy)[:FINGERPRINT_DIGITS]
    return images


def _loaded(name: str, config_name: str | None, remedy: str) -> datasets.Dataset:
    check_name(name, remedy)
    try:
        if Path(name).is_dir():
            return _load_folder(Path(name).resolve(), config_name)
        return datasets.load_dataset(name, config_name, split="train")
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError(f"dataset {name}: {why_not_found(name)}") from error
    except ConnectionError as error:
        reason = f"{one_line(error)}, and there is no such folder; give the path of a copy"
        raise InputError(f"dataset {name}: {reason}") from error
    except datasets.exceptions.SplitsVerificationError as error:
        reason = f"the Parquet files hold another number of rows than README.md says; {remedy}"
        raise InputError(f"dataset {name}: {reason}") from error
    except InputError as error:
        raise InputError(f"dataset {name}: {error}") from error
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        if why := _cache_trouble(error):
            cache = datasets.config.HF_DATASETS_CACHE
            reason = f"its cache {cache} cannot be written ({why})"
            raise InputError(f"dataset {name}: {reason}; set HF_DATASETS_CACHE or HF_HOME to another folder") from error
        if config_name and "BuilderConfig" in str(error):
            within = sorted({str(file.parents[1]) for file in Path(name).rglob(f"{config_name}/*.parquet")})
            instead = f"give {' or '.join(within[:MOST_NAMED])}" if within else remedy
            raise InputError(f"dataset {name}: holds no config {config_name}; {instead}") from error
        raise InputError(f"dataset {name}: {one_line(error)}; {remedy}") from error
    except CARD_ERRORS as error:
        reason = f"README.md: its header cannot be read ({one_line(error)})"
        raise InputError(f"dataset {name}: {reason}; {remedy}") from error


def _cache_trouble(error: BaseException) -> str | None:
    """Why the library cannot write its copy of a dataset; None if its error has another cause."""
    trouble = error if isinstance(error, OSError) else disk_error(error)
    if trouble is None:
        return None
    place, cache = Path(str(trouble.filename or "")), Path(datasets.config.HF_DATASETS_CACHE)
    in_cache = place.is_relative_to(cache) or place == cache.parent
    writing = trouble.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # nothing else is written here
    return trouble.strerror if writing or in_cache else None


def _check_columns(
    name: str, images: datasets.Dataset, required: Sequence[str], never_empty: Sequence[str], remedy: str
) -> None:
    """Raise InputError for a column that is missing, a label that is no class, or a value that must be there."""
    missing = [column for column in sorted(required) if column not in images.column_names]
    if missing:
        raise InputError(f"dataset {name}: column {missing[0]} is missing; {remedy}")
    if not isinstance(images.features["label"], datasets.ClassLabel):
        raise InputError(f"dataset {name}: column label is no ClassLabel; {remedy}")
    label, n_classes = images["label"][:], images.features["label"].num_classes
    for row, number in enumerate(label):  # casting to a ClassLabel checks nothing
        if number is not None and number >= n_classes:
            raise InputError(f"dataset {name}, row {row + 1}: label {number} is none of {n_classes} classes; {remedy}")
    for column in never_empty:
        for row, value in enumerate(label if column == "label" else images[column][:]):
            if value is None or (column == "label" and value < 0) or (isinstance(value, str) and not value.strip()):
                raise InputError(f"dataset {name}, row {row + 1}: {column} is empty; {remedy}")


def _load_folder(folder: Path, config_name: str | None) -> datasets.Dataset:
    """As load_dataset, but only from files inside the folder, and with a cache that depends on their content.

    load_dataset alone identifies a local dataset by its folder's name and card: after a corrected label and another
    build it would go on with its copy of the old rows. Raises InputError if the card leads out of the folder."""
    header = datasheet.card_header(folder)
    _check_card(header)
    builder = datasets.load_dataset_builder(str(folder), config_name)
    files = [str(file) for split in (builder.config.data_files or {}).values() for file in split]
    if "configs" not in header:  # then load_dataset takes whatever files it finds, however deep
        _check_is_one_dataset(folder, files)
    for file in files:
        if not Path(os.path.realpath(file)).is_relative_to(folder):
            raise InputError(f"{Path(file).name} leads out of the folder; put the file itself there")
    content = parquet_digest({os.path.relpath(file, folder): sha256_of(Path(file)) for file in sorted(files)})
    cache_dir = Path(datasets.config.HF_DATASETS_CACHE) / f"{folder.name}-{content[:FINGERPRINT_DIGITS]}"
    return datasets.load_dataset(str(folder), builder.config.name, split="train", cache_dir=cache_dir)


def _check_is_one_dataset(folder: Path, files: Sequence[str]) -> None:
    """Raise InputError if files lie in sub-folders that are datasets of their own, each with its card: load_dataset
    would read them all as if they were one."""
    above = {place for file in files for place in Path(file).parents if folder in place.parents}
    within = [place for place in sorted(above) if "configs" in datasheet.card_header(place)]
    if within:
        named = " or ".join(str(place) for place in within[:MOST_NAMED])
        more = f", or one of {len(within) - MOST_NAMED} more" if len(within) > MOST_NAMED else ""
        many = "each with its own README.md" if len(within) > 1 else "with its own README.md"
        reason = f"is no dataset, but a folder above {counted(len(within), 'dataset')}, {many}"
        raise InputError(f"{reason}; give {named}{more}")


def _check_card(header: dict) -> None:
    """Raise InputError if a card names files outside of the folder, before anything looks for them there."""
    for place in _texts([header.get("configs"), header.get("data_files"), header.get("data_dir")]):
        if ELSEWHERE.search(place):
            reason = f"README.md has files read from {place}, which is outside of the folder"
            raise InputError(f"{reason}; put them into the folder, or correct configs in README.md")


def _texts(value: object) -> Iterator[str]:
    """All texts within lists and dicts, except those under `description`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([part for name, part in value.items() if name != "description"])
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _checked_digest(name: str, images: datasets.Dataset, remedy: str) -> str:
    """SHA-256 of the images' config, split, columns, and every value of every row, with the bytes of each picture.

    A picture's path changes nothing. Raises InputError for a picture that would be read from another file, and for one
    with another digest than column sha256 says."""
    described = [images.config_name, str(images.split), images.features.to_dict()]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    id_column = "image_id" if "image_id" in images.column_names else "synthetic_id"
    for rows in images.with_format("arrow").iter(100):
        for row in rows.to_pylist():
            picture = row.get("image") or {}
            if picture.get("bytes") is None and picture.get("path"):
                raise InputError(f"dataset {name}: {id_column} {row[id_column]} holds no picture but a path; {remedy}")
            if "image" in row:  # reports have none
                row["image"] = hashlib.sha256(picture["bytes"]).hexdigest() if picture else None
            if row.get("sha256") is not None and row.get("image") not in (row["sha256"], None):
                reason = f"{id_column} {row[id_column]} shows another picture than its sha256 says"
                raise InputError(f"dataset {name}: {reason}; {remedy}")
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def photograph_sha256(images: datasets.Dataset) -> list[str]:
    """The digest that identifies each photograph, (n,), 64 hexadecimal digits: SHA-256 of its bytes in config real.

    A photograph and its restored picture have the same digest (see guard.photograph_digests; column sha256 was compared
    with the pictures when the dataset was opened). Without such a column it is computed from the pictures."""
    digests = photograph_digests(images)
    if digests is not None:
        return digests
    undecoded = images.with_format(None).select_columns("image").cast_column("image", datasets.Image(decode=False))
    return [hashlib.sha256((row["image"] or {}).get("bytes") or b"").hexdigest() for row in undecoded]


def photographs_digest(images: datasets.Dataset) -> str:
    """By what all photographs of a dataset together are known, 16 hexadecimal digits: of each image_id with the digest
    of its photograph, so that config `restored` has the same one as config `real`, whatever the order of the rows."""
    pairs = sorted(zip(images["image_id"][:], photograph_sha256(images), strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def codes_of_classes(images: datasets.Dataset) -> list[str | None]:
    """The ORPHA code of each class, (C,); None if no image of the class has one."""
    if "orphanet_code" not in images.column_names:
        return [None] * images.features["label"].num_classes
    code_of: dict[int, str] = {}
    for label, code in zip(images["label"][:], images["orphanet_code"][:], strict=True):
        if code:
            code_of.setdefault(label, code)
    return [code_of.get(label) for label in range(images.features["label"].num_classes)]


def is_simulated(images: datasets.Dataset) -> bool:
    """Whether every image was drawn by a program, so that whatever is shown of them must say so."""
    return real_or_simulated.is_simulated(images["source_type"][:] if "source_type" in images.column_names else [None])


def guarded_columns(images: datasets.Dataset, pixels: np.ndarray) -> dict[str, list]:
    """What a guard looks at: the dataset's columns, and the pixels, in case that sha256 is out of date.

    pixels (n, side, side, 3) uint8: the pictures, in the dataset's order."""
    columns = columns_for_guard(images)
    if photograph_digests(columns) is None:
        columns["sha256"] = photograph_sha256(images)
    return columns | {"pixels": [hashlib.sha256(picture).hexdigest() for picture in pixels]}


def why_not_found(name: str) -> str:
    """Why the Hub does not give a dataset to this user, and what to do about it."""
    repo_id = name.removeprefix("hf://datasets/").partition("@")[0]
    token = huggingface_hub.get_token()
    try:
        huggingface_hub.auth_check(repo_id, repo_type="dataset", token=token or False)
    except GatedRepoError:
        if not token:
            return "it is gated and nobody is logged in here; run hf auth login (or set HF_TOKEN), and ask on its page"
        page = f"{huggingface_hub.constants.ENDPOINT}/datasets/{repo_id}"
        return f"it is gated and this account has no access; ask for it at {page}, or wait for the decision"
    except RepositoryNotFoundError:
        return "the Hub shows no such dataset to this account; check the name ORG/NAME and the token"
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        return f"the Hub does not say why it cannot be had ({type(error).__name__}); try again"
    return "it holds no data that can be read; tell its maintainers"
