"""Selects the files of a dataset's folder that may be published, and checks their contents.

Published are the card, the licence, the Croissant record, the figures, the list of withdrawn photographs and the
Parquet files of the known configs. Everything else in the folder (rejected.csv, records of runs) stays there. The
checks look at the bytes of the files alone, so they hold for a folder that somebody has edited by hand.
"""

import dataclasses
import hashlib
import html
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from curation import withdrawn_list
from curation.dataset_figures import FIGURES
from curation.parquet_files import card_entry, shard_digests
from generation.filter_files import PRIVACY_REPORT
from harness.counts import counted
from harness.errors import InputError, one_line
from harness.files import sha256_of
from imaging import photographs
from imaging.spare_bytes import without_spare_bytes
from publishing.private_text import MAIL, private_text
from publishing.published_columns import OPEN_CONFIGS, REAL_CONFIGS, known_columns, private_values, schema_problems

TEXTS = ("README.md", "LICENSE", "croissant.json", "withdrawn.csv")
SHARD = re.compile(rf"({'|'.join(REAL_CONFIGS + OPEN_CONFIGS)})/train-\d{{5}}-of-\d{{5}}\.parquet")
FOLDERS = (*REAL_CONFIGS, *OPEN_CONFIGS, "figures")
MAX_TEXT_BYTES = 1_000_000
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
BATCH_ROWS = 50


@dataclasses.dataclass
class Contents:
    """The publishable part of a folder."""

    folder: Path
    files: dict[str, Path]  # path in the repository -> file
    stays: list[str]  # paths of everything else in the folder
    configs: list[str]
    rows: dict[str, int]  # config -> number of rows
    columns: dict[str, list[str]]  # config -> names of its columns
    image_ids: dict[str, str | None]  # of all configs -> sha256 of the photograph; None if only a report is here
    problems: list[str]  # reasons, one line each, why the folder must not be published as it is
    own_columns: Collection[str] | None = ()  # the curator's own that are to be published; None: all

    @property
    def is_synthetic(self) -> bool:
        return bool(set(self.configs) & set(OPEN_CONFIGS))

    @property
    def shards(self) -> list[str]:
        return shards_in(self.files)


@dataclasses.dataclass
class _Shard:
    """What the examination of one Parquet file found. columns is empty if the file cannot be read at all."""

    columns: list[str] = dataclasses.field(default_factory=list)
    rows: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class _Photographs:
    """The photographs that the rows examined so far are about."""

    def __init__(self, has_real: bool):
        """has_real: whether the dataset has config real, whose rows are examined first."""
        self.has_real = has_real
        self.sha256: dict[str, str | None] = {}  # by image_id, as in Contents

    def add(self, config: str, row: dict) -> str | None:
        """Takes note of a row; returns why a restored photograph or a report does not belong to one of config real."""
        image_id, digest = row["image_id"], row.get("original_sha256") or row.get("sha256")
        earlier = self.sha256.get(image_id)
        if config != "real" and self.has_real:
            if image_id not in self.sha256:
                return "config real holds no such photograph; make this config again"
            if digest and earlier and digest != earlier:
                return "was made from another photograph than config real holds; make this config again"
        self.sha256[image_id] = earlier or digest
        return None


def examine(folder: Path, own_columns: Collection[str] | None = None) -> Contents:
    """Examines every file and, in Parquet files, every row and picture. The memory needed does not grow with them.

    own_columns: those of the curator's own columns that are to be published; None: all that are there. The others are
    not examined, and are left out of the copy that is published (published_copy.py).
    Raises InputError if the folder is not a dataset of this project at all."""
    files, stays, problems = sorted_files(folder)
    configs = configs_in(files)
    originals = _Photographs("real" in configs)
    contents = Contents(folder, files, stays, configs, {}, {}, originals.sha256, problems, own_columns)
    if contents.is_synthetic and set(configs) & set(REAL_CONFIGS):
        problems.append(f"{folder.name}: holds synthetic images beside {configs[0]}; give them a folder of their own")
    for name in contents.shards:
        config, shard = name.split("/")[0], _examined_shard(name, files[name], originals, own_columns)
        if shard.columns:
            contents.columns[config] = shard.columns
            contents.rows[config] = contents.rows.get(config, 0) + shard.rows
        problems += shard.problems
    for name in [name for name in TEXTS if name in files and name != "README.md"]:
        text = _text_of(files[name])
        if text is None:
            problems.append(f"{name}: is no text in UTF-8 of at most {MAX_TEXT_BYTES:,} bytes; put the file back")
            continue
        problems += [f"{name}: holds {kind}; take it out" for kind in private_text(text)]
        problems += _list_problems(text) if name == withdrawn_list.LIST_NAME else []
    problems += _card_problems(contents)
    return contents


def configs_in(names: Collection[str]) -> list[str]:
    """The configs of which there are Parquet files among these paths."""
    return [name for name in REAL_CONFIGS + OPEN_CONFIGS if any(path.startswith(f"{name}/") for path in names)]


def sorted_files(folder: Path) -> tuple[dict[str, Path], list[str], list[str]]:
    """Files to publish by their path in the repository, paths of what stays, and a problem for each link.

    Raises InputError if the folder is not a dataset of this project at all."""
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
    configs = configs_in([*files, *(problem.partition(":")[0] for problem in problems)])
    if not configs or ("README.md" not in files and not (folder / "README.md").is_symlink()):
        missing = "README.md" if configs else "Parquet file of a config (real, restored, reports, synthetic)"
        raise InputError(f"{folder}: holds no {missing}; build the dataset with rdface_dataset.py")
    return files, stays, problems


def is_ours(name: str) -> bool:
    """Whether a path within a dataset's repository is one that this project publishes."""
    return bool(name in TEXTS or SHARD.fullmatch(name) or name.removeprefix("figures/") in FIGURES)


def shards_in(names: Iterable[str]) -> list[str]:
    """Those of the paths that are Parquet files of a config."""
    return [name for name in names if SHARD.fullmatch(name)]


def class_names(header: dict) -> set[str]:
    """The abbreviations of the conditions that a card's header lists; empty if it lists none."""
    try:
        columns = [column for info in header["dataset_info"] for column in info["features"]]
        labels = [column["dtype"]["class_label"]["names"] for column in columns if column["name"] == "label"]
        return {str(name) for names in labels for name in names.values()}
    except (LookupError, TypeError, AttributeError):
        return set()


def _text_of(file: Path) -> str | None:
    """A file's text; None if it is too large, or holds bytes or control characters that no text has."""
    if file.stat().st_size > MAX_TEXT_BYTES:
        return None
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if CONTROLS.search(text) else text


def _list_problems(text: str) -> list[str]:
    """Why withdrawn.csv is not the list that a withdrawal writes: it could hold anything else."""
    try:
        lines = withdrawn_list.read_list(text)
    except InputError as error:
        return [str(error)]
    wrong = next((n for n, line in enumerate(lines, start=2) if not line.is_well_formed), None)
    return [f"{withdrawn_list.LIST_NAME}: line {wrong} is none that a withdrawal writes; put the list back"] * bool(
        wrong
    )


def _examined_shard(name: str, path: Path, originals: _Photographs, own_columns: Collection[str] | None) -> _Shard:
    """name: the path in the repository; originals: those of the shards examined before, to which it adds its own."""
    shard, config = _Shard(), name.split("/")[0]
    alike: dict[str, list[str]] = defaultdict(list)  # problem -> the places where it was found
    try:
        with pq.ParquetFile(path) as file:
            shard.columns, shard.rows = file.schema_arrow.names, file.metadata.num_rows
            known = known_columns(config, shard.columns)
            own_columns = set(shard.columns) - set(known) if own_columns is None else own_columns
            shard.problems += schema_problems(config, file.schema_arrow, known, own_columns)
            if shard.problems:
                return shard
            examined = [column for column in shard.columns if column in known or column in own_columns]
            for number, row in enumerate(_rows(file, examined), start=1):
                where = f"{name}: row {number} ({row.get('image_id') or row.get('synthetic_id')})"
                for problem in _row_problems(row, own_columns):
                    alike[problem].append(where)
                if config in REAL_CONFIGS and (problem := originals.add(config, row)):
                    shard.problems.append(f"{where}: {problem}")
            shard.problems += [_in_rows(problem, places) for problem, places in alike.items()]
    except (pa.ArrowException, OSError, KeyError) as error:
        shard.problems.append(f"{name}: cannot be read ({one_line(error)}); make the dataset again")
    return shard


def _in_rows(problem: str, places: Sequence[str]) -> str:
    """One line for a problem that several rows of a shard have in the same words; places: of these rows."""
    return f"{places[0]}: {problem}" + (f" (also in {counted(len(places) - 1, 'further row')})" if places[1:] else "")


def _rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[dict]:
    for batch in file.iter_batches(BATCH_ROWS, columns=columns):
        yield from batch.to_pylist()


def _row_problems(row: dict, own_columns: Collection[str]) -> Iterator[str]:
    if "image" in row:
        yield from _picture_problems(row["image"] or {"bytes": None, "path": None}, row)
    for column, value in row.items():
        is_own = column in own_columns
        remedy = "correct it where the dataset is made from, and make it again"
        remedy = f"leave the column out of --publish_columns, or {remedy}" if is_own else remedy
        for kind in dict.fromkeys(private_values(column, value, is_own)):
            yield f"{column} holds {kind}; {remedy}"


def _picture_problems(image: dict, row: dict) -> Iterator[str]:
    """image: bytes and path of the picture in a row."""
    content, remedy = image["bytes"], "make the dataset again with the scripts of this project"
    if not content:
        yield f"the picture itself is not in the file; {remedy}"
        return
    extension = ".jpg" if content[:2] == b"\xff\xd8" else ".png"
    own_name = row.get("image_id") or row.get("synthetic_id")
    if image["path"] not in (None, f"{own_name}{extension}"):
        yield f"the picture goes by another name than its identifier; {remedy}"
    try:
        clean = photographs.strip_metadata(content)
        tight = clean and without_spare_bytes(clean)
    except photographs.PhotographError as error:
        yield f"the picture {error.reason}; {remedy}"
        return
    if clean is None:
        yield f"the picture is neither JPEG nor PNG; {remedy}"
    elif clean != content:
        yield f"the picture holds metadata (EXIF, GPS, XMP, a comment or a thumbnail); {remedy}"
    elif tight != content:
        yield f"the picture's file has room for what is no part of the picture; {remedy}"
    if row.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        yield f"the picture is not the one that sha256 was taken of; {remedy}"


def header_of(card: str) -> dict:
    """The YAML header of a card's text; empty if it has none that can be read."""
    try:
        header = yaml.safe_load(card.split("---\n")[1])
    except (yaml.YAMLError, IndexError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _card_problems(contents: Contents) -> Iterator[str]:
    """Everybody can read the card, load_dataset follows its header, and people agree to its terms."""
    text = _text_of(contents.files["README.md"])
    if text is None or ";base64," in text:
        yield "README.md: is no text of a card's size; make the dataset again"
        return
    header = header_of(text)
    contact = header.get("contact")
    without_contact = html.unescape(text).replace(contact, "") if isinstance(contact, str) and contact else text
    for kind in (*private_text(without_contact), *(set(private_text(str(contact or ""))) - {MAIL})):
        yield f"README.md: holds {kind}; take it out (build --contact names an address)"
    named = sorted(set(re.findall(r"(?<![\w-])[\w-]{1,64}\.\d{1,9}", text)) & set(contents.image_ids))
    if named:
        yield f"README.md: names the photograph {named[0]}; everybody can read the card, so take it out"
    if not header:
        yield "README.md: has no header that load_dataset could read; make the dataset again"
        return
    if not _describes_these_files(header, contents):
        yield "README.md: was not made of these Parquet files; make the dataset again"
    form = header.get("extra_gated_fields")
    agreed = isinstance(form, dict) and "checkbox" in form.values() and header.get("extra_gated_prompt")
    if not contents.is_synthetic and not (agreed and "LICENSE" in contents.files):
        yield "README.md: lacks the form or the licence that people have to agree to; make the dataset again"


def _describes_these_files(header: dict, contents: Contents) -> bool:
    """Whether the card's header lists exactly the configs of the folder, each with the digest of its files."""
    listed = header.get("configs")
    listed = {c.get("config_name"): c for c in listed if isinstance(c, dict)} if isinstance(listed, list) else {}
    for name in dict.fromkeys([*contents.configs, *listed]):
        expected = card_entry(name, shard_digests(contents.folder, f"{name}/train-*.parquet"))
        config = listed.get(name, {})
        if any(config.get(key) != value for key, value in expected.items()):
            return False
    return True


def privacy_problems(contents: Contents, folder: Path | None = None) -> list[str]:
    """Reasons why synthetic images must not be open to everybody: each must have passed the privacy filter as it is.

    folder: of which contents are a copy, if they are one; the filter's report in it is about its files. Anybody can
    write such a report: whether images are copies, patient_copies.py finds out by itself."""
    remedy = "run filter_synthetic.py, and publish what it keeps"
    folder = folder or contents.folder
    file = folder / PRIVACY_REPORT
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
        if examined.get(name) != sha256_of(folder / name):
            problems.append(f"{PRIVACY_REPORT}: is about another {name} than this one; {remedy}")
        kept = pq.read_table(contents.files[name], columns=["kept"] if "kept" in contents.columns["synthetic"] else [])
        if "kept" not in kept.column_names or not all(kept["kept"].to_pylist()):
            problems.append(f"{name}: holds images that the filter has not kept; {remedy}")
    return problems
