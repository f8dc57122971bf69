"""All facial terms of the Human Phenotype Ontology with their wordings, and the ids that replace retired ones.

`face_terms.tsv` (one row per term) is read here and nowhere else: 2,941 terms under face, eye, ear, skull, head and
hair. Names, synonyms, parents and retired ids are facts of the Human Phenotype Ontology, release 2025-01-16 (Gargano et
al., NAR 2024, hpo.jax.org). `face_wordings.tsv` holds the project's own wordings, as clinicians write
them; those in its column `overruling` name its term although they are synonyms of another.

`python phenotyping/face_lexicon.py HPO_DIR HP_OBO` rebuilds face_terms.tsv from another release: HPO_DIR holds its
terms as head_terms.tsv, HP_OBO is the release's ontology file hp.obo."""

import argparse
import csv
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HPO_RELEASE = "2025-01-16"
HERE = Path(__file__).resolve().parent
COLUMNS = ["hpo_id", "name", "exact_synonyms", "layperson_synonyms", "other_synonyms", "parents", "retired_ids"]
# How well a wording names a term; a lower number wins if one wording fits two terms.
NAME, RULED, EXACT, REPORT, LAYPERSON, OTHER, OWN = range(7)
# Synonyms of the ontology that no report means: names of diseases, which are diagnoses, not findings; and a white patch
# that may be one of the skin.
NOT_READ = frozenset(
    ["crouzon syndrome", "treacher collins syndrome", "de morsier syndrome", "friedreich's disease", "white patch"]
)


@dataclass(frozen=True)
class FaceTerm:
    """One facial term of the ontology."""

    hpo_id: str
    name: str
    wordings: tuple[tuple[str, int], ...]  # each with NAME, RULED, EXACT, REPORT, LAYPERSON, OTHER or OWN
    parents: tuple[str, ...]  # HPO ids, facial or not
    retired_ids: tuple[str, ...]  # ids that were merged into this term or replaced by it


def _listed(cell: str) -> list[str]:
    return [part for part in cell.split("|") if part]


def _read_wordings(file: str, column: str, delimiter: str) -> dict[str, list[str]]:
    with open(HERE / file, newline="", encoding="utf-8") as table:
        return {row["hpo_id"]: _listed(row[column]) for row in csv.DictReader(table, delimiter=delimiter)}


@cache
def terms() -> dict[str, FaceTerm]:
    """HPO id -> term, in the order of the table."""
    own = _read_wordings("face_wordings.tsv", "wordings", "\t")
    ruled = _read_wordings("face_wordings.tsv", "overruling", "\t")
    report = _read_wordings("phenotypes.csv", "report_words", ",")
    found = {}
    with open(HERE / "face_terms.tsv", newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            wordings = [(row["name"], NAME)]
            wordings += [(words, RULED) for words in ruled.pop(row["hpo_id"], ())]
            wordings += [(words, EXACT) for words in _listed(row["exact_synonyms"])]
            wordings += [(words, REPORT) for words in report.pop(row["hpo_id"], ())]
            wordings += [(words, LAYPERSON) for words in _listed(row["layperson_synonyms"])]
            wordings += [(words, OTHER) for words in _listed(row["other_synonyms"])]
            wordings += [(words, OWN) for words in own.pop(row["hpo_id"], ())]
            wordings = [(words, rank) for words, rank in wordings if words.lower() not in NOT_READ]
            parents, retired = row["parents"].split(";"), row["retired_ids"].split(";")
            found[row["hpo_id"]] = FaceTerm(
                row["hpo_id"], row["name"], tuple(wordings), tuple(filter(None, parents)), tuple(filter(None, retired))
            )
    if unknown := sorted({**own, **ruled, **report}):
        raise ValueError(f"face_wordings.tsv or phenotypes.csv: {', '.join(unknown)} not in face_terms.tsv")
    return found


@cache
def _replacements() -> dict[str, str]:
    return {old: term.hpo_id for term in terms().values() for old in term.retired_ids}


def current_id(hpo_id: str) -> str | None:
    """The facial term that an id stands for today, or None if it is none of these terms.

    An id that was merged into another term, or replaced by one, gives that term."""
    return hpo_id if hpo_id in terms() else _replacements().get(hpo_id)


@cache
def ancestors(hpo_id: str) -> frozenset[str]:
    """The facial terms above a facial term, without itself."""
    above: set[str] = set()
    for parent in terms()[hpo_id].parents:
        if parent in terms():
            above |= {parent} | ancestors(parent)
    return frozenset(above)


# ---- rebuilding the table from a release


def read_retired_ids(hp_obo: Path) -> dict[str, list[str]]:
    """Current id -> ids that were merged into it (alt_id) or obsolete ones that it replaces (replaced_by)."""
    retired: dict[str, list[str]] = {}
    for stanza in hp_obo.read_text(encoding="utf-8").split("\n\n"):
        if not stanza.startswith("[Term]"):
            continue
        facts: dict[str, list[str]] = {}
        for key, value in re.findall(r"^(\w+): (\S+)", stanza, re.M):
            facts.setdefault(key, []).append(value)
        (hpo_id,) = facts["id"]
        retired.setdefault(hpo_id, []).extend(facts.get("alt_id", []))
        for replacement in facts.get("replaced_by", []):
            retired.setdefault(replacement, []).append(hpo_id)
    return retired


def rebuild(hpo_dir: Path, hp_obo: Path) -> int:
    """Writes face_terms.tsv anew and returns how many terms it has. An id that two terms replace stands for neither."""
    retired = read_retired_ids(hp_obo)
    with open(hpo_dir / "head_terms.tsv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    heirs = Counter(old for row in rows for old in set(retired.get(row["hpo_id"], [])))
    with open(HERE / "face_terms.tsv", "w", newline="", encoding="utf-8") as table:
        out = csv.DictWriter(table, COLUMNS, delimiter="\t", lineterminator="\n", extrasaction="ignore")
        out.writeheader()
        for row in rows:
            old_ids = {old for old in retired.get(row["hpo_id"], []) if heirs[old] == 1}
            out.writerow({**row, "retired_ids": ";".join(sorted(old_ids))})
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hpo_dir", type=Path, help="folder with head_terms.tsv")
    parser.add_argument("hp_obo", type=Path, help="hp.obo of the same release")
    arguments = parser.parse_args()
    for file in (arguments.hpo_dir / "head_terms.tsv", arguments.hp_obo):
        if not file.is_file():
            print(f"{file}: not found", file=sys.stderr)
            sys.exit(2)
    n_terms = rebuild(arguments.hpo_dir, arguments.hp_obo)
    print(f"{n_terms} terms written; now set HPO_RELEASE in phenotyping/face_lexicon.py")
