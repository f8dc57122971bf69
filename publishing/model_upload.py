"""Uploads trained models to private repositories, with a card, and never with a photograph or an image's name.

repo_id = check_access("ORG/name", token)      # before the training, so that a typo does not cost a night
push(folder, repo_id, token, card)
"""

import re
from collections.abc import Sequence
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from harness.errors import InputError, one_line

# Listed by name, so that a new kind of file in a run's folder (predictions, heat maps) is not published by accident.
PUBLISHED_FILES = ("README.md", "results.json", "per_class.csv", "corruptions.json", "folds/*/model/*")


def check_access(name: str, token: str | None) -> str:
    """The repository's full name, ORG/NAME; a name without ORG belongs to the token's account.

    Raises InputError, in one line and without the token, if the name is not allowed, the token is missing or invalid,
    or the Hub cannot be reached."""
    try:
        huggingface_hub.utils.validate_repo_id(name)
        account = HfApi(token=token).whoami()["name"]
    except HFValidationError as error:
        raise InputError(f"{name} is no name for a repository: {one_line(error)}") from error
    except LocalTokenNotFoundError as error:
        raise InputError(f"{name}: there is no token; run hf auth login, or set HF_TOKEN") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, httpx2.HTTPError) as error:
        endpoint = huggingface_hub.constants.ENDPOINT
        reason = f"{endpoint} does not know the token or cannot be reached ({type(error).__name__})"
        raise InputError(f"{name}: {reason}; run hf auth login, or set HF_TOKEN") from error
    return name if "/" in name else f"{account}/{name}"


def push(folder: Path, repo_id: str, token: str | None, card: str, files: Sequence[str] = PUBLISHED_FILES) -> str:
    """Uploads `files` (patterns) of `folder` with `card` as README.md; returns the repository's address.

    The repository is created private, and checked before anything is sent, since models of patients' faces can reveal
    training images. Raises InputError if it is not private or the upload fails."""
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=True, exist_ok=True)
        if not api.model_info(repo_id).private:
            raise InputError(f"{repo_id} is public and models of faces go to private repositories only; name another")
        (folder / "README.md").write_text(card, encoding="utf-8")
        api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(files))
    except (HfHubHTTPError, OSError, httpx2.HTTPError) as error:
        raise InputError(f"{repo_id}: not uploaded ({one_line(error)}); the results are in {folder}") from error
    return str(url)


def model_card(title: str, backbone: str, facts: Sequence[str], table: str, simulated: bool) -> str:
    """The card of a classifier: a description, its scores on held-out images, and what it must not be used for."""
    metadata = ModelCardData(
        license="other",
        license_name="rdface-research",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["medical", "rare-diseases", "faces", *(["simulated"] if simulated else [])],
    )
    warning = "**Trained on SIMULATED faces, drawn by a program.** " if simulated else ""
    return str(
        ModelCard(
            f"""---
{metadata.to_yaml()}
---
# {title}

{warning}Research only: it must not be used to diagnose anybody, nor to identify a person. The folds' models are in
`folds/seed<S>_fold<F>/model`, each trained without the images that it was scored on; the backbone is `{backbone}`.

{chr(10).join(f"- {fact}" for fact in facts)}

## Scores on held-out images

```
{table}
```
"""
        )
    )


def adapter_card(base: str, facts: Sequence[str], simulated: bool) -> str:
    """The card of DreamBooth adapters: their training data, how to load one, and what they must not be used for.

    base: the pipeline as it was given; of a path that is absolute or leads out of the folder, only the last part is
    written, since the rest says how somebody's machine is laid out."""
    path = Path(base).expanduser()
    is_elsewhere = path.is_absolute() or ".." in path.parts
    base = path.resolve().name if is_elsewhere else base
    remark = f"  # your copy of {base}" if is_elsewhere else ""
    metadata = ModelCardData(
        license="other",
        license_name="rdface-research",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=base if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) and not Path(base).exists() else None,
        tags=["lora", "dreambooth", "medical", "rare-diseases", "faces", *(["simulated"] if simulated else [])],
    )
    warning = "**Trained on SIMULATED faces, drawn by a program.** " if simulated else ""
    faces = "faces drawn by a program" if simulated else "gated photographs of children with rare genetic conditions"
    return str(
        ModelCard(
            f"""---
{metadata.to_yaml()}
---
# RDFace DreamBooth adapters

{warning}Research only, and private: an adapter was trained on a handful of {faces} and can give them away. Its pictures
are no evidence of how a condition looks; do not diagnose, identify or teach with them. An adapter in `fold<F>` saw that
fold's training photographs only; use its pictures with that fold alone.

- base: {"your copy of " * is_elsewhere}`{base}`; its licence holds for the adapters too
{chr(10).join(f"- {fact}" for fact in facts)}

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("{base}"){remark}
pipeline.load_lora_weights("fold0/adapters/ABBR")  # a folder of this repository; alpha comes with the file
```
"""
        )
    )
