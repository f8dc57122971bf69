"""The house: which package may import which, that none imports a command, and that README.md names every file."""

import ast
import functools
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each package with those that it may import besides itself. Commands, benchmarks, demo models and tests may import all.
MAY_IMPORT = {
    "harness": set(),
    "scoring": {"harness"},
    "phenotyping": {"harness"},
    "imaging": {"harness", "scoring", "phenotyping"},
    "curation": {"harness", "scoring", "phenotyping", "imaging"},
    "classification": {"harness", "scoring", "phenotyping", "imaging", "curation"},
    "generation": {"harness", "scoring", "phenotyping", "imaging", "curation", "classification"},
    "publishing": {"harness", "imaging", "curation", "generation", "reporting"},
    "simulation": {"harness", "phenotyping"},
    "reporting": {"harness", "scoring", "phenotyping", "imaging", "curation"},
    "pages": {"harness", "scoring", "phenotyping", "imaging", "curation", "reporting"},
}
COMMANDS = {path.stem for path in ROOT.glob("*.py")}
FILES = [*ROOT.glob("*.py")]
FILES += [path for folder in (*MAY_IMPORT, "benchmarks", "demo_models") for path in (ROOT / folder).glob("*.py")]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def imported(path: Path) -> set[str]:
    """The project's modules that a file imports, wherever it does so: harness.errors, or train_classifier."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: import by the whole name"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & {name_of(path) for path in FILES}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_packages_go_one_way(package):
    for path in (ROOT / package).glob("*.py"):
        packages = {name.partition(".")[0] for name in imported(path)} - {package}
        assert packages <= MAY_IMPORT[package], f"{path.name} imports {packages - MAY_IMPORT[package]}"


def test_nobody_imports_a_command():
    assert {name_of(path): found for path in FILES if (found := imported(path) & COMMANDS)} == {}


def test_no_files_import_each_other():
    TopologicalSorter({name_of(path): imported(path) for path in FILES}).prepare()  # raises CycleError


def test_every_folder_with_modules_is_known_and_none_bears_a_name_that_load_dataset_would_open():
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {Path(line).parts[0] for line in tracked.splitlines() if "/" in line}
    assert folders <= {*MAY_IMPORT, "benchmarks", "demo_models", "tests"}
    assert not [name for name in folders if name.startswith("rdface") or name == "runs"]
    assert not [path.name for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]


def test_the_tree_in_the_readme_names_every_command_and_every_file_of_a_package():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (tree,) = re.findall(r"^```text\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    listed, folder = set(), ""
    for line in tree.splitlines():
        name = line.split()[0] if line.split() else ""
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        if name and not name.endswith("/"):
            listed.add(folder + name if line.startswith(" ") else name)
    names = {
        name for name in tracked.splitlines() if name.partition("/")[0] in MAY_IMPORT or re.fullmatch(r"\w+\.py", name)
    }
    expected = {name for name in names if not name.endswith("__init__.py")}
    assert expected - listed == set() and {name for name in listed if name.endswith(".py")} - expected == set()
