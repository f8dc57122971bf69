"""The files of this project that a command is made of, and their digest: a change of any makes its results anew."""

import functools
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FROM = re.compile(r"^[ \t]*from ([\w.]+) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
IMPORT = re.compile(r"^[ \t]*import ([\w., ]+)", re.MULTILINE)
PLACE = re.compile(r"""["']([\w.]+):\w+["']""")  # MODULE:NAME, which pkgutil.resolve_name imports
READ_ELSEWHERE = {  # files outside of their packages that modules read
    "curation/datasheet.py": "dataset_card.md",
    "make_report.py": "classification/paper_results.csv",
}


def sources_of(script: str) -> list[Path]:
    """The script at the root, all modules of the project that it imports directly or through others, and the tables
    and templates of their packages."""
    found, waiting = set(), [ROOT / script]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file)
    packages = {file.parent for file in found if file.parent != ROOT}
    tables = [file for package in packages for file in package.iterdir() if file.is_file() and file.suffix != ".py"]
    elsewhere = [ROOT / read for module, read in READ_ELSEWHERE.items() if ROOT / module in found]
    return sorted({*found, *tables, *elsewhere})


@functools.cache
def _imported(file: Path) -> list[Path]:
    """The project's files that a file imports, wherever in it."""
    text, names = file.read_text(encoding="utf-8"), []
    for module, imported in FROM.findall(text):
        names += [module, *(f"{module}.{name}" for name in re.findall(r"\w+", imported))]
    names += PLACE.findall(text)
    for modules in IMPORT.findall(text):
        names += re.findall(r"[\w.]+", modules)
    files = []
    for name in names:
        path = ROOT.joinpath(*name.split("."))
        files += [place for place in (path.with_suffix(".py"), path / "__init__.py") if place.is_file()]
    return files


@functools.cache
def digest_of(script: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 digest of sources_of(script), by name and content."""
    digest = hashlib.sha256()
    for file in sources_of(script):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
