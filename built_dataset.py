"""Opens a built dataset, or synthetic images, from a folder or the Hub, and says in one line why it cannot."""

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import yaml
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from parquet_files import parquet_digest, shard_digests
from runs import InputError, one_line

BUILD = "build it with rdface_dataset.py"
CARD_ERRORS = (yaml.YAMLError, AttributeError, KeyError, TypeError, RecursionError)  # of a header that is none of ours
GENERATE = "make it with a generator's script, such as train_dreambooth.py"


def load_images(name: str, config_name: str | None = None) -> datasets.Dataset:
    """The images of a built dataset: a folder, or ORG/NAME on the Hub. Raises InputError, at once, where it cannot."""
    images = _open(name, config_name, BUILD)
    never_empty = ("image_id", "label", "group_id")
    _check_columns(name, images, ("image", *never_empty), never_empty, BUILD)
    return images


def load_synthetic(name: str) -> datasets.Dataset:
    """Synthetic images with their provenance (synthetic_images.py): a folder, or ORG/NAME on the Hub.

    Raises InputError, at once, where it cannot, or where an image does not say what it is or what it was made from;
    whether that may be trained on is for protocols.Guard to say."""
    images = _open(name, "synthetic", GENERATE)
    never_empty = ("synthetic_id", "generator", "protocol", "source_image_ids")
    _check_columns(name, images, ("image", "label", "fold", *never_empty), never_empty, GENERATE)
    return images


def _open(name: str, config_name: str | None, remedy: str) -> datasets.Dataset:
    """One config of a folder or of ORG/NAME; remedy: how such a dataset is made, for whoever has none."""
    folder = Path(name).is_dir()
    if not folder:
        on_hub = name.startswith("hf://") or (name.count("/") == 1 and name[0] not in "./~")
        if not on_hub:
            raise InputError(f"dataset {name}: there is no such folder; {remedy}, or give ORG/NAME")
        work_offline_where_the_hub_is_unreachable()
    try:
        if folder:
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
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(f"dataset {name}: {one_line(error)}; {remedy}") from error
    except CARD_ERRORS as error:
        reason = f"README.md: its header cannot be read ({one_line(error)})"
        raise InputError(f"dataset {name}: {reason}; {remedy}") from error


def _check_columns(
    name: str, images: datasets.Dataset, required: Sequence[str], never_empty: Sequence[str], remedy: str
) -> None:
    """Raise InputError for a column that is missing, a label that is no class, or a value that must be there."""
    missing = [column for column in sorted(required) if column not in images.column_names]
    if missing:
        raise InputError(f"dataset {name}: column {missing[0]} is missing; {remedy}")
    if not isinstance(images.features["label"], datasets.ClassLabel):
        raise InputError(f"dataset {name}: column label is no ClassLabel; {remedy}")
    for column in never_empty:
        empty = images.data[column].is_null().to_numpy()  # as yet no row is selected
        if column == "label":
            empty |= np.array([label == -1 for label in images["label"][:]], dtype=bool)
        if empty.any():
            raise InputError(f"dataset {name}, row {int(empty.argmax()) + 1}: {column} is empty; {remedy}")


def _load_folder(folder: Path, config_name: str | None) -> datasets.Dataset:
    """As load_dataset, but told apart by content.

    By itself it knows a local dataset by its folder's name and card alone: after a corrected label and another build it
    would go on with its copy of the old rows, under the old fingerprint."""
    fingerprint = parquet_digest(shard_digests(folder))[:16]
    cache_dir = Path(datasets.config.HF_DATASETS_CACHE) / f"{folder.name}-{fingerprint}"
    images = datasets.load_dataset(str(folder), config_name, split="train", cache_dir=cache_dir)
    images._fingerprint = fingerprint
    return images


def is_simulated(images: datasets.Dataset) -> bool:
    """Whether every image was drawn by a program, so that whatever is shown of them must say so."""
    kinds = images["source_type"][:] if "source_type" in images.column_names else [None]
    return {str(kind).casefold() for kind in kinds} == {"simulated"}


def why_not_found(name: str) -> str:
    """Why the Hub does not give a dataset to this user, and what to do: log in, ask for access, wait, or spell it."""
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


def work_offline_where_the_hub_is_unreachable() -> None:
    """One request of at most 5 s decides; otherwise every look-up of a cached file spends 25 s on retries."""
    question = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(question, timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
