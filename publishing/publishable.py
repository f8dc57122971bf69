"""What of a dataset's folder may leave it, and whether its bytes are fit to: by the files, whoever wrote them.

Published are the card, the licence, the Croissant record, the figures, the list of withdrawn photographs and the
Parquet files of the known configs; whatever else lies in the folder (rejected.csv, records of runs) stays there.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from curation.dataset_figures import FIGURES
from curation.parquet_files import card_entry, shard_digests
from harness.errors import InputError, one_line
from harness.files import sha256_of
from imaging import photographs

REAL_CONFIGS = ("real", "restored", "reports")  # gated, in one repository
OPEN_CONFIGS = ("synthetic",)  # in a repository of their own
TEXTS = ("README.md", "LICENSE", "croissant.json", "withdrawn.csv")
SHARD = re.compile(rf"({'|'.join(REAL_CONFIGS + OPEN_CONFIGS)})/train-\d{{5}}-of-\d{{5}}\.parquet")
PRIVACY_REPORT = "privacy_report.json"  # filter_synthetic.py's: {"verdict": "green" or "red", "files": {path: sha256}}
FOLDERS = (*REAL_CONFIGS, *OPEN_CONFIGS, "figures")
MAX_CARD_BYTES = 1_000_000
BATCH_ROWS = 50
# What tells about a person or a machine and is no part of any column's meaning. A web address may hold /home/ or @.
PRIVATE_TEXT = {
    "the path of a file on some machine": re.compile(
        r"(?<![\w/.:-])/(?:home|Users|root|tmp|var|mnt|media|data|srv|opt|private|Volumes)/\S"
        r"|(?<!\w)[A-Za-z]:\\|(?<!\S)\\\\\w|\bfile:/|(?<![\w/])~/\w",
    ),
    "a token or key": re.compile(
        r"\b(?:hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.eyJ[\w-]+)"
    ),
    "an e-mail address": re.compile(r"(?<![\w./])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"),
}


@dataclasses.dataclass
class Contents:
    """A folder's publishable part. problems: one line each, why it must not be published as it is."""

    folder: Path
    files: dict[str, Path]  # path in the repository -> file
    stays: list[str]  # what else is in the folder
    configs: list[str]
    rows: dict[str, int]  # config -> rows
    columns: dict[str, list[str]]  # config -> columns
    image_ids: dict[str, str | None]  # of all configs -> sha256 of the photograph, None where only a report is here
    problems: list[str]

    @property
    def is_synthetic(self) -> bool:
        return bool(set(self.configs) & set(OPEN_CONFIGS))

    @property
    def shards(self) -> list[str]:
        return [name for name in self.files if name.endswith(".parquet")]


def examine(folder: Path) -> Contents:
    """Look at every file and, within Parquet, at every row and picture; memory does not grow with their number.

    Raises InputError where the folder is no dataset of ours at all."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give one that rdface_dataset.py build made")
    files, stays, problems = {}, [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and (is_ours(name) or name in FOLDERS):
            problems.append(f"{name}: is a link; put the file itself there")
        elif path.is_file() and is_ours(name):
            files[name] = path
        elif not path.is_dir():
            stays.append(name)
    configs = [name for name in REAL_CONFIGS + OPEN_CONFIGS if any(file.startswith(f"{name}/") for file in files)]
    if not configs or "README.md" not in files:
        what = "README.md" if configs else "Parquet file of a config (real, restored, reports, synthetic)"
        raise InputError(f"{folder}: holds no {what}; build the dataset with rdface_dataset.py")
    contents = Contents(folder, files, stays, configs, {}, {}, {}, problems)
    if contents.is_synthetic and set(configs) & set(REAL_CONFIGS):
        problems.append(f"{folder.name}: holds synthetic images beside {configs[0]}; give them a folder of their own")
    for name in contents.shards:
        _examine_shard(contents, name)
    for name in [name for name in TEXTS if name in files and name != "README.md"]:
        text = files[name].read_text(encoding="utf-8", errors="replace")
        problems += [f"{name}: holds {what}; take it out" for what in private_text(text)]
    problems += _examine_card(contents)
    return contents


def is_ours(name: str) -> bool:
    """Whether a path within a dataset's repository is one that this project publishes."""
    return bool(name in TEXTS or SHARD.fullmatch(name) or name.removeprefix("figures/") in FIGURES)


def shards_in(names: Iterable[str]) -> list[str]:
    return [name for name in names if SHARD.fullmatch(name)]


def class_names(header: dict) -> set[str]:
    """The conditions that a card's header tells of."""
    try:
        columns = [column for info in header["dataset_info"] for column in info["features"]]
        labels = [column["dtype"]["class_label"]["names"] for column in columns if column["name"] == "label"]
        return {str(name) for names in labels for name in names.values()}
    except (LookupError, TypeError, AttributeError):
        return set()


def private_text(text: str) -> list[str]:
    """What of PRIVATE_TEXT is in a text, in words."""
    return [what for what, pattern in PRIVATE_TEXT.items() if pattern.search(text)]


def _examine_shard(contents: Contents, name: str) -> None:
    config = name.split("/")[0]
    try:
        with pq.ParquetFile(contents.files[name]) as file:
            contents.columns[config] = file.schema_arrow.names
            contents.rows[config] = contents.rows.get(config, 0) + file.metadata.num_rows
            number = 0
            for batch in file.iter_batches(BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    where = f"{name}: row {number} ({row.get('image_id') or row.get('synthetic_id')})"
                    contents.problems += [f"{where}: {problem}" for problem in _row_problems(row)]
                    if config in REAL_CONFIGS:
                        contents.problems += [
                            f"{where}: {problem}" for problem in _origin_problems(contents, config, row)
                        ]
    except (pa.ArrowException, OSError, KeyError) as error:
        contents.problems.append(f"{name}: cannot be read ({one_line(error)}); make the dataset again")


def _origin_problems(contents: Contents, config: str, row: dict) -> Iterator[str]:
    """Whether a restored photograph or a report belongs to one that config real holds, which is examined first."""
    image_id, digest = row["image_id"], row.get("original_sha256") or row.get("sha256")
    known = contents.image_ids.get(image_id)
    if config != "real" and "real" in contents.configs:
        if image_id not in contents.image_ids:
            yield "config real holds no such photograph; make this config again"
            return
        if digest and known and digest != known:
            yield "was made from another photograph than config real holds; make this config again"
    contents.image_ids[image_id] = known or digest


def _row_problems(row: dict) -> Iterator[str]:
    if "image" in row:
        yield from _picture_problems(row.pop("image") or {"bytes": None, "path": None}, row)
    for column, value in row.items():
        for text in value if isinstance(value, list) else [value]:
            for what in private_text(text) if isinstance(text, str) else ():
                yield f"{column} holds {what}; correct it where the dataset is made from, and make it again"


def _picture_problems(image: dict, row: dict) -> Iterator[str]:
    data, remedy = image["bytes"], "make the dataset again with the scripts of this project"
    if not data:
        yield f"the picture itself is not in the file; {remedy}"
        return
    extension = ".jpg" if data[:2] == b"\xff\xd8" else ".png"
    own_name = row.get("image_id") or row.get("synthetic_id")
    if image["path"] not in (None, f"{own_name}{extension}"):
        yield f"the picture goes by another name than its identifier; {remedy}"
    try:
        clean = photographs.strip_metadata(data)
    except photographs.PhotographError as error:
        yield f"the picture {error.reason}; {remedy}"
        return
    if clean is None:
        yield f"the picture is neither JPEG nor PNG; {remedy}"
    elif clean != data:
        yield f"the picture holds metadata (EXIF, GPS, XMP, a comment or a thumbnail); {remedy}"
    if row.get("sha256") not in (None, hashlib.sha256(data).hexdigest()):
        yield f"the picture is not the one that sha256 was taken of; {remedy}"


def header_of(card: str) -> dict:
    """The YAML of a card's text; empty where it has none that could be read."""
    try:
        header = yaml.safe_load(card.split("---\n")[1])
    except (yaml.YAMLError, IndexError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _examine_card(contents: Contents) -> Iterator[str]:
    """Why the card must not be shown: everybody can read it, load_dataset goes by it, people agree to its terms."""
    data = contents.files["README.md"].read_bytes()
    text = data.decode("utf-8", errors="replace")
    header = header_of(text)
    if len(data) > MAX_CARD_BYTES or "\N{REPLACEMENT CHARACTER}" in text or ";base64," in text:
        yield "README.md: is no text of a card's size; make the dataset again"
        return
    contact = header.get("contact")
    found = private_text(text.replace(contact, "") if isinstance(contact, str) and contact else text)
    yield from (f"README.md: holds {what}; take it out (build --contact names an address)" for what in found)
    named = sorted(set(re.findall(r"(?<![\w-])[\w-]{1,64}\.\d{1,9}", text)) & set(contents.image_ids))
    if named:
        yield f"README.md: names the photograph {named[0]}; everybody can read the card, so take it out"
    if not header:
        yield "README.md: has no header that load_dataset could read; make the dataset again"
        return
    configs = header.get("configs")
    found = {c.get("config_name"): c for c in configs if isinstance(c, dict)} if isinstance(configs, list) else {}
    for name in dict.fromkeys([*contents.configs, *found]):
        expected = card_entry(name, shard_digests(contents.folder, f"{name}/train-*.parquet"))
        told = found.get(name, {})
        if any(told.get(key) != value for key, value in expected.items()):
            yield "README.md: was not made of these Parquet files; make the dataset again"
            break
    form = header.get("extra_gated_fields")
    agreed = isinstance(form, dict) and "checkbox" in form.values() and header.get("extra_gated_prompt")
    if not contents.is_synthetic and not (agreed and "LICENSE" in contents.files):
        yield "README.md: lacks the form or the licence that people have to agree to; make the dataset again"


def privacy_problems(contents: Contents) -> list[str]:
    """Why synthetic images must not be shown to everybody: every one must have passed the filter as it is now."""
    remedy = "run filter_synthetic.py, and publish what it keeps"
    file = contents.folder / PRIVACY_REPORT
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        verdict, examined = report.get("verdict"), dict(report.get("files", {}))
    except FileNotFoundError:
        return [f"{PRIVACY_REPORT}: is missing, so nobody knows whether patients can be recognised; {remedy}"]
    except (OSError, ValueError, TypeError, AttributeError):
        return [f"{PRIVACY_REPORT}: is not what filter_synthetic.py writes; {remedy}"]
    problems = []
    if verdict != "green":
        problems.append(f"{PRIVACY_REPORT}: its verdict is not green; {remedy}")
    for name in contents.shards:
        if examined.get(name) != sha256_of(contents.files[name]):
            problems.append(f"{PRIVACY_REPORT}: is about another {name} than this one; {remedy}")
        kept = pq.read_table(contents.files[name], columns=["kept"] if "kept" in contents.columns["synthetic"] else [])
        if "kept" not in kept.column_names or not all(kept["kept"].to_pylist()):
            problems.append(f"{name}: holds images that the filter has not kept; {remedy}")
    return problems
