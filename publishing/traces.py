"""Finds and removes what is left of a photograph outside of its dataset: runs, pages, caches, files that mention it.

    left = traces_of(Path("rdface"), photograph)     # what would be removed, in lines for the user
    remove(left)

Commands list what they make from a dataset's folder as they begin (harness/derived_places.py). A run that generated
nothing is removed as a whole, since each of its numbers rests on all photographs; generators and reports lose what was
made from this photograph (withdrawal.derived), and then every file that still names it or its digest.
"""

import contextlib
import dataclasses
import glob
import hashlib
import html
import io
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import PIL.Image
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import datasheet, pairs_to_look_at
from curation.opening import FINGERPRINT_DIGITS
from curation.parquet_files import renumber, rewrite
from curation.withdrawn_list import LIST_NAME
from generation.training_provenance import SOURCES_NAME
from harness.counts import counted
from harness.derived_places import CACHE, PAGE, Place, noted
from harness.files import default_cache_dir, sha256_of, write_atomically
from imaging.face_cache import pixels_sha256
from imaging.pixel_cache import withdraw_from_cache
from publishing import mentions, withdrawal
from publishing.mentions import Photograph, word
from publishing.published_columns import OPEN_CONFIGS, REAL_CONFIGS

TEXT_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".html", ".yaml", ".yml", ".log")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
PAGES = (".html", ".png", ".csv", ".json", ".yaml", ".md")  # of files that commands write outside of their own folders
WITHDRAWN = ".withdrawn"  # ends the name of a folder that is being removed
LEFT_BEHIND = "left by a build, a restoration or a withdrawal that was stopped"
PIECE = 1 << 22  # bytes that are searched at once


def photograph_in(folder: Path, image_id: str, sha256: str) -> Photograph:
    """A photograph of a dataset's folder, with its pictures in configs real and restored as far as they are there.

    sha256: of its published bytes, also if it was withdrawn before."""
    digests, pixels = {sha256}, set()
    for path in sorted([*folder.glob("real/*.parquet"), *folder.glob("restored/*.parquet")]):
        for row in pq.read_table(path, filters=pc.field("image_id") == image_id, columns=["image"]).to_pylist():
            digests.add(hashlib.sha256(row["image"]["bytes"]).hexdigest())
            pixels.add(pixels_sha256(np.asarray(PIL.Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))))
    return Photograph(image_id, frozenset(digests), frozenset(pixels))


@dataclasses.dataclass
class Traces:
    """What is removed whole, and where single files and rows are looked for."""

    photograph: Photograph
    folders: dict[Path, str]  # with what each is, for the user
    files: dict[Path, str]
    searched: list[Path]  # folders of generators and reports, to be treated like --derived
    face_caches: list[Path]

    def lines(self) -> list[str]:
        lines = [f"{path}: {what}" for path, what in [*self.folders.items(), *self.files.items()]]
        return lines + [f"{file}: its faces, as far as they were detected" for file in self.face_caches]


def traces_of(
    folder: Path, photograph: Photograph, made_since: str | None, repositories: Collection[str] = ()
) -> Traces:
    """What the list of a dataset's folder names, and the caches of this user.

    made_since: digest of the photographs' files without this one, if it was withdrawn before: what was made from these
    stays. repositories: ORG/NAME of which the Hub's client may keep copies."""
    home = folder.resolve()
    traces = Traces(photograph, dict.fromkeys(_left_beside(home), LEFT_BEHIND), {}, [], [])
    caches, beside = [default_cache_dir()], {home.parent}
    for place in {place.path: place for place in _places(home, made_since)}.values():  # what was last begun there
        path = Path(place.path)
        beside.add(path.parent)
        if place.kind == CACHE:
            caches.append(path)
        elif place.kind == PAGE:
            if path.suffix in PAGES and path.is_file():
                traces.files[path] = "a page or a table of what rests on it"
        elif not home.is_relative_to(path.resolve()):
            traces.folders |= dict.fromkeys(_left_beside(path), LEFT_BEHIND)
            if path.is_dir() and _is_whole(path):
                traces.folders[path] = "a run, whose results rest on it"
            elif path.is_dir():
                traces.searched.append(path)
    for cache in dict.fromkeys(caches):
        traces.files |= dict.fromkeys(withdraw_from_cache(cache, set(photograph.digests)), "a cache of its pixels")
        traces.face_caches += [file for file in [cache / "detected_faces.sqlite"] if _has_faces(file, photograph)]
    for study in sorted(folder for folder in beside if (folder / "steps").is_dir()):  # what its steps have said
        logs = [log for log in sorted((study / "logs").glob("*.log")) if _names(log, photograph)]
        traces.files |= dict.fromkeys(logs, "a log that names it")
    made = {card.parent.name for place in [*traces.searched, *traces.folders] for card in place.rglob("README.md")}
    copies = [path for path in _library_caches(home, made, repositories) if path.is_dir()]
    traces.folders |= dict.fromkeys(copies, "a copy of a dataset in the cache of datasets or of the Hub's client")
    return traces


def _places(home: Path, made_since: str | None) -> list[Place]:
    """The places on the dataset's list, and on those of the datasets and runs that lie in them; caches in any case."""
    places, waiting = [], [home]
    while waiting:
        last_begun = {place.path: place for place in noted(waiting.pop())}
        for place in last_begun.values():
            if place in places or (place.kind != CACHE and made_since is not None and place.content == made_since):
                continue
            places.append(place)
            path = Path(place.path)
            if path.is_dir() and place.kind not in (CACHE, PAGE):
                below = [file.with_name(file.name[1:].removesuffix(".derived")) for file in path.rglob(".*.derived")]
                waiting += [path, *below]
    return places


def _left_beside(target: Path) -> list[Path]:
    """What killed builds, restorations and withdrawals left beside the folder that they wrote or removed."""
    names = [f".{target.name}.previous", f".{target.name}.restoring", f".{target.name}{WITHDRAWN}"]
    building = sorted(target.parent.glob(f".{glob.escape(target.name)}.building-*"))
    return [path for path in [*(target.with_name(name) for name in names), *building] if path.is_dir()]


def _is_whole(path: Path) -> bool:
    """Whether a run's folder is removed as a whole: it is one of this project, and generated nothing."""
    return (path / "settings.json").is_file() and not any(path.rglob(SOURCES_NAME))


def _library_caches(home: Path, made: Collection[str], repositories: Collection[str]) -> list[Path]:
    """Copies that `datasets` and the Hub's client keep of a dataset: Arrow files and downloads, with its pictures.

    made: names of the folders of datasets that were made from it."""
    arrow, hub = Path(datasets.config.HF_DATASETS_CACHE), Path(huggingface_hub.constants.HF_HUB_CACHE)
    digest = f"-[0-9a-f]{{{FINGERPRINT_DIGITS}}}"
    ours = re.compile("|".join([f"{re.escape(home.name)}({digest})?", *(re.escape(name) + digest for name in made)]))
    found = [path for path in sorted(arrow.glob("*")) if ours.fullmatch(_before_removal(path.name))]
    for name in repositories:
        copy, rows = f"datasets--{name.replace('/', '--')}", name.replace("/", "___")
        found += [path for path in sorted(hub.glob("*")) if _before_removal(path.name) == copy]
        found += [path for path in sorted(arrow.glob("*")) if _before_removal(path.name).startswith(rows)]
    return found


def _before_removal(name: str) -> str:
    """A folder's name before a withdrawal that was killed had moved it aside."""
    return name[1:].removesuffix(WITHDRAWN) if name.startswith(".") and name.endswith(WITHDRAWN) else name


def _has_faces(file: Path, photograph: Photograph) -> bool:
    return bool(file.is_file() and photograph.pixels and _in_face_cache(file, "SELECT count(*)", photograph))


def _in_face_cache(file: Path, verb: str, photograph: Photograph) -> int:
    marks = ",".join("?" * len(photograph.pixels))
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as connection, connection:
        try:
            cursor = connection.execute(f"{verb} FROM faces WHERE pixels_sha256 IN ({marks})", [*photograph.pixels])
        except sqlite3.DatabaseError:  # no cache of faces
            return 0
        rows = cursor.fetchall()
        return rows[0][0] if rows else cursor.rowcount


def remove_faces(traces: Traces) -> None:
    """Takes the photograph's faces out of the caches of detected faces: first, as long as its pixels are known."""
    for file in traces.face_caches:
        _in_face_cache(file, "DELETE", traces.photograph)


def remove(traces: Traces) -> None:
    """Removes folders and files; a call that was interrupted is completed by the next one."""
    for file in traces.files:
        file.unlink(missing_ok=True)
    for folder in traces.folders:
        gone = folder
        if folder.is_dir() and not folder.name.endswith(WITHDRAWN):  # half a run must not be taken for one
            gone = folder.with_name(f".{folder.name}{WITHDRAWN}")
            shutil.rmtree(gone, ignore_errors=True)
            os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


# ---- files that name the photograph


def naming_files(folder: Path, photograph: Photograph) -> dict[Path, str]:
    """Files below a folder that name the photograph, hold it, or were left half written, with what they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.name == LIST_NAME:
            continue
        if re.fullmatch(r"\..+\.partial", path.name):
            found[path] = "left half written by a run that was killed"
        elif path.suffix == ".parquet":
            if any(effect := mentions.effect(path, photograph)):
                found[path] = _rows(*effect)
        elif path.suffix.lower() in PICTURES and sha256_of(path) in photograph.digests:
            found[path] = "the photograph"
        elif _names(path, photograph):
            found[path] = "names it"
    return found


def lines_below(folder: Path, made: withdrawal.Derived, photograph: Photograph) -> list[str]:
    """What a withdrawal removes or changes below a folder, for the user; made: what was made from the photograph."""
    lines = made.lines(folder)
    for path, what in naming_files(folder, photograph).items():
        if path in made.rows:
            gone, cleared = mentions.effect(path, photograph)
            further = gone - made.rows[path], cleared
            lines += [f"{path.relative_to(folder)}: {_rows(*further)}"] * any(further)
        elif path not in made.files:
            lines.append(f"{path.relative_to(folder)}: {what}")
    return lines


def _rows(gone: int, cleared: int) -> str:
    stay = f"{counted(cleared, 'row')} of others that mention it, which stay without its name"
    return " and ".join([f"{counted(gone, 'row')} of it"] * bool(gone) + [stay] * bool(cleared))


def remove_naming_files(folder: Path, photograph: Photograph, groups: Mapping[str, str]) -> None:
    """Removes what `naming_files` finds; of a Parquet file the photograph's rows alone, while those of others no longer
    mention it, after which a dataset gets a new card. groups: mentions.group_names."""
    changed = set()
    for path in naming_files(folder, photograph):
        if path.suffix == ".parquet":
            before = sha256_of(path)
            rewrite(path, lambda table, path=path: mentions.without(table, path, photograph, groups))
            withdrawal.keep_verdict(path, before)
            changed.add(path.parent)
        else:
            path.unlink(missing_ok=True)
    for config in sorted(changed):
        home = config.parent
        if config.name in REAL_CONFIGS + OPEN_CONFIGS and (home / "README.md").is_file():
            renumber(config)
            if any(home.glob("*/train-*.parquet")):
                datasheet.write_datasheet(home, datasheet.next_version(datasheet.version_of(home)))


def lines_of_records(folder: Path, image_id: str) -> list[str]:
    """What `forget_in_records` would change, for the user."""
    names = [name for name in ("rejected.csv", pairs_to_look_at.PAGE) if _says(folder / name, image_id)]
    return [f"{folder / name}: names it" for name in names]


def forget_in_records(folder: Path, image_id: str) -> None:
    """Takes the photograph's lines out of rejected.csv in a dataset's folder, which stays with the curator, and removes
    the page of pairs to look at, with its table, if the page shows it: the next build makes both again."""
    file, page = folder / "rejected.csv", folder / pairs_to_look_at.PAGE
    if _says(file, image_id):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if not word(image_id).search(line))
        write_atomically(file, lambda partial: partial.write_text(kept, encoding="utf-8"))
    if _says(page, image_id):
        (folder / pairs_to_look_at.TEMPLATE).unlink(missing_ok=True)
        page.unlink()


def _says(file: Path, image_id: str) -> bool:
    text = html.unescape(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else ""
    return bool(word(image_id).search(text))


def _names(path: Path, photograph: Photograph) -> bool:
    """Whether a file holds a digest of the photograph, or, if it is a text, its identifier as a word."""
    digests = [digest.encode() for digest in photograph.digests]
    word = None
    if path.suffix.lower() in TEXT_SUFFIXES:
        forms = {photograph.image_id, json.dumps(photograph.image_id)[1:-1]}
        word = re.compile(rb"(?<![\w.])(?:%s)(?![\w])" % b"|".join(re.escape(form.encode()) for form in forms))
    return any(any(digest in piece for digest in digests) or (word and word.search(piece)) for piece in _pieces(path))


def _pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes piece by piece; each begins with the end of the one before."""
    before = b""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield before + piece
            before = piece[-1000:]
