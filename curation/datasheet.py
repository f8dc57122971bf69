"""Writes a dataset's README, licence, figures and Croissant record, from nothing but its Parquet files.

Whatever changes the files (rdface_dataset.py, restore_images.py, a withdrawal) calls `write_datasheet` afterwards, so
that card and data cannot disagree. README.md, file names and figures are public even in a gated repository: see
dataset_facts.py.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path

import datasets
import huggingface_hub
import jinja2
import yaml

from curation import dataset_facts, dataset_figures, dataset_name
from curation.dataset_facts import Config
from curation.parquet_files import CONTENT, card_entry, parquet_digest, shard_digests
from harness.counts import counted
from harness.errors import InputError, one_line
from harness.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
GENERATOR = "<!-- Written by rdface_dataset.py build: a folder with this line may be replaced by the next build. -->"
FIRST_VERSION = "1.0.0"
LICENCE_NAMES = {
    "controlled": "rdface-controlled-access",
    "simulated": "rdface-simulated",
    "synthetic": "rdface-synthetic-open",
}
FILES_HEADER = re.compile(
    r"^configs:\n(?:(?: |- ).*\n)*dataset_info:\n(?:(?: |- ).*\n)*", re.MULTILINE
)  # files_header as YAML


class Quoted(str):
    """A string that YAML must quote, since readers would take a class called NO or 1e3 for something else."""


yaml.SafeDumper.add_representer(
    Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, '"')
)


def write_datasheet(
    folder: Path,
    version: str | None = None,
    contact: str | None = None,
    repository: str | None = None,
    name: str | None = None,
) -> None:
    """Write README.md, LICENSE, croissant.json and figures/*.png beside a folder's Parquet files.

    folder: holds `real`, `restored`, `reports` (any of them), or `synthetic` alone, each with train-*.parquet.
    version, contact, repository (ORG/NAME), name (which only photographs may have of their own): None keeps what
    README.md says. If there is no README.md, the version is 1.0.0, no contact is named, the owner is called ORG, and
    the name is RDFace, or that of simulated or synthetic images.
    Raises InputError if the files are no such dataset."""
    from curation import croissant  # mlcroissant takes most of a second

    facts = dataset_facts.facts_of(folder)
    earlier = card_header(folder)
    version = version or _version_in(earlier) or FIRST_VERSION
    facts |= dataset_name.facts_of_name(facts["name"], name or dataset_name.recorded(earlier), version)
    repository = repository or earlier.get("repository") or f"ORG/{facts['in_addresses']}"
    facts |= {
        "version": version,
        "contact": contact or earlier.get("contact"),
        "repository": repository,
        "in_cache": name_in_cache(repository) if facts["is_other"] else facts["name"],
        "generator": GENERATOR if "real" in facts["configs"] else None,
    }
    figures = dataset_figures.draw(facts) if "ages" in facts else {}
    facts["figures"] = {name: alternative for name, (alternative, _) in figures.items()}
    facts["header"] = yaml.safe_dump(header(facts), sort_keys=False, allow_unicode=True, width=1000)
    card = "curation/synthetic_images_card.md" if facts["kind"] == "synthetic" else "dataset_card.md"
    texts = {
        "LICENSE": template("curation/dataset_license.txt").render(facts),
        "croissant.json": croissant.record(facts),
        "README.md": template(card).render(facts),
    }
    write_figures(folder / "figures", {name: png for name, (_, png) in figures.items()})
    for name, text in texts.items():  # the card comes last: it never shows a figure that is not there yet
        write_atomically(folder / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))


def write_figures_and_record(folder: Path) -> None:
    """Write figures/*.png and croissant.json of a folder anew, and into its card the columns and digests of its files.

    Everything else in README.md stays as it is. Raises InputError if the folder holds no dataset, or no such card."""
    from curation import croissant

    facts, earlier = dataset_facts.facts_of_rows(folder), card_header(folder)
    version = _version_in(earlier) or FIRST_VERSION
    facts |= {"version": version}
    facts |= dataset_name.facts_of_name(facts["name"], dataset_name.recorded(earlier), version)
    figures = dataset_figures.draw(facts) if "ages" in facts else {}
    write_figures(folder / "figures", {name: png for name, (_, png) in figures.items()})
    record, card = croissant.record(facts), (folder / "README.md").read_text(encoding="utf-8")
    written = yaml.safe_dump(files_header(facts), sort_keys=False, allow_unicode=True, width=1000)
    card, replaced = FILES_HEADER.subn(lambda _: written, card, count=1)
    if not replaced:
        raise InputError("README.md: its header does not list configs and columns; make the dataset again")
    for name, text in {"croissant.json": record, "README.md": card}.items():
        write_atomically(folder / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))


# --- versions


def version_of(folder: Path) -> str | None:
    """The version that the card of a folder names; None if there is no card, or none with a version."""
    return _version_in(card_header(folder))


def _version_in(header: Mapping) -> str | None:
    version = header.get("version")
    return None if version is None else str(version)


def described_content(folder: Path, config: str) -> str | None:
    """Digest of a config's files as the card of a folder gives it; None if it gives none."""
    listed = card_header(folder).get("configs")
    for described in listed if isinstance(listed, list) else []:
        if isinstance(described, dict) and described.get("config_name") == config:
            return str(described.get("description")).removeprefix(CONTENT)
    return None


def next_version(version: str | None) -> str:
    """The version after a change of the data; no version counts as the first one.

    Raises InputError if it is not of the form MAJOR.MINOR.PATCH."""
    parts = (version or FIRST_VERSION).split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InputError(f"README.md: version {version} is not of the form MAJOR.MINOR.PATCH; correct it")
    return f"{parts[0]}.{int(parts[1]) + 1}.0"


def version_after(replaced: Path, made: Path) -> str:
    """The version of a folder that takes another's place: the same if the content is the same, else the next."""
    earlier = version_of(replaced)
    if earlier is None:
        return FIRST_VERSION
    same = parquet_digest(shard_digests(made)) == parquet_digest(shard_digests(replaced))
    return earlier if same else next_version(earlier)


def card_header(folder: Path) -> dict:
    """The YAML of a folder's card; empty if there is none. Raises InputError if it cannot be read."""
    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    try:
        header = huggingface_hub.metadata_load(readme) or {}
        for name in ("version", "contact", "repository"):  # what goes into the next card
            if isinstance(header.get(name), list | dict):
                raise ValueError(f"{name} is no text")
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:  # of any YAML but ours
        raise InputError(
            f"{readme.name}: its header cannot be read ({one_line(error)}); correct or remove it"
        ) from error
    return header


# --- what is written


def header(facts: Mapping) -> dict:
    """The header of the card, which the Hub and load_dataset read, without the form of a gated dataset."""
    kind = facts["kind"]
    tags = ["simulated"] * facts["simulated"] + ["synthetic"] * (kind == "synthetic")
    fields = {
        "pretty_name": Quoted(facts["title"]) if facts["is_other"] else facts["title"],
        "version": facts["version"],
        "contact": facts["contact"],
        "repository": facts["repository"] if facts["repository"].partition("/")[0] != "ORG" else None,
        "license": "other" if kind in LICENCE_NAMES else kind,
        "license_name": f"{facts['in_addresses']}-controlled-access"
        if kind == "controlled"
        else LICENCE_NAMES.get(kind),
        "license_link": "LICENSE" if kind in LICENCE_NAMES else None,
        "annotations_creators": ["machine-generated"] if tags else None,  # it is not known who annotated photographs
        "source_datasets": ["original"] if facts["simulated"] else None,
        "task_categories": ["image-classification"] + ["image-to-text"] * ("reports" in facts["configs"]),
        "task_ids": ["multi-class-image-classification"],
        "tags": ["image", "medical", "rare-diseases", "face", *tags],
        "size_categories": [size_category(facts["configs"][facts["default"]].num_rows)],
        **files_header(facts),
    }
    return {key: value for key, value in fields.items() if value is not None}


def files_header(facts: Mapping) -> dict:
    """The part of the card's header that says which files and columns there are."""
    configs = facts["configs"].values()
    return {
        "configs": [config_header(config, facts["default"]) for config in configs],
        "dataset_info": [dataset_info(config) for config in configs],
    }


def config_header(config: Config, default: str) -> dict:
    return {
        "config_name": config.name,
        **({"default": True} if config.name == default else {}),
        **card_entry(config.name, config.shards),
    }


def dataset_info(config: Config) -> dict:
    columns = config.features._to_yaml_list()
    for column in columns:
        if isinstance(config.features[column["name"]], datasets.ClassLabel):
            names = column["dtype"]["class_label"]["names"]
            column["dtype"]["class_label"]["names"] = {key: Quoted(name) for key, name in names.items()}
    split = {"name": "train", "num_bytes": config.num_bytes, "num_examples": config.num_rows}
    return {"config_name": config.name, "features": columns, "splits": [split]}


def name_in_cache(repository: str) -> str:
    """What the names of a repository's copies in the cache of `datasets` hold, and those of other datasets do not."""
    owner, _, name = repository.rpartition("/")
    return f"{owner}___{datasets.naming.camelcase_to_snakecase(name)}"


def size_category(rows: int) -> str:
    """The Hub's name for a size: n<1K, 1K<n<10K, ... 100B<n<1T, n>1T."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    class_number = max(0, len(str(rows)) - 3)
    if class_number == 0:
        return "n<1K"
    return "n>1T" if class_number >= len(names) else f"{names[class_number - 1]}<n<{names[class_number]}"


def cell(text: str | None) -> str:
    """A curator's text for a cell of a Markdown table: shown as it is, never interpreted as Markdown or HTML."""
    special = "\\`*_[]<>&|!#~$"
    return "".join(f"&#{ord(character)};" if character in special else character for character in str(text or ""))


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this project, by its path below the project's folder."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, autoescape=False
    )
    environment.filters |= {
        "cell": cell,
        "in_quotes": functools.partial(json.dumps, ensure_ascii=False),
        "few": dataset_facts.public_count,
        "counted": counted,
    }
    return environment.from_string((ROOT / name).read_text(encoding="utf-8"))


def write_figures(folder: Path, figures: Mapping[str, bytes]) -> None:
    """Write these PNG files, and remove earlier figures that are not among them."""
    for name in dataset_figures.FIGURES - set(figures):
        (folder / name).unlink(missing_ok=True)
    if figures:
        folder.mkdir(exist_ok=True)
    for name, png in figures.items():
        write_atomically(folder / name, lambda file, png=png: file.write_bytes(png))
