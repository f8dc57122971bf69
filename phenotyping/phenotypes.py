"""Facial HPO terms with the face parameters that they move and their wordings; conditions of the simulated study.

`phenotypes.csv` (one row per term) and `conditions.csv` (one row per condition) are read here and nowhere else. Names,
synonyms and frequencies are facts of the Human Phenotype Ontology and Orphanet, release 2025-01-16 (HPO: Gargano et
al., NAR 2024, hpo.jax.org; Orphanet annotations: CC BY 4.0, orphadata.com).

`python phenotyping/phenotypes.py HPO_DIR` rebuilds both tables from another release, which is given as three tables:
terms, annotations, genes."""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HPO_RELEASE = "2025-01-16"
HERE = Path(__file__).resolve().parent
REGIONS = ("eyes", "nose", "mouth/lips", "ears", "jaw", "forehead", "whole face")
INDIVIDUAL_ONLY = ("freckles", "capillary_redness", "skin_lightness")  # parameters that no term of the table moves
NUM_STUDY_CONDITIONS = 103  # as in the paper; later ranks are for pretraining and never in the study
NUM_CONDITIONS = 309
INFORMATIVE_PENETRANCE = 0.3  # a term above it counts for the informativeness of a condition
EFFECT = 2.5  # of a term on a face, in standard deviations of individual variation, unless the user asks for another


@dataclass(frozen=True)
class Term:
    """One facial HPO term."""

    hpo_id: str
    name: str
    region: str
    moves: dict[str, float]  # face parameter -> share of the full effect; +1 raises it by one effect, -1 lowers it
    exact_synonyms: tuple[str, ...]
    lay_synonyms: tuple[str, ...]
    report_words: tuple[str, ...]

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every wording that a report may use, without repeats (ignoring case); the HPO name comes first."""
        unique: dict[str, str] = {}
        for words in (self.name, *self.exact_synonyms, *self.lay_synonyms, *self.report_words):
            unique.setdefault(words.casefold(), words)
        return tuple(unique.values())


@dataclass(frozen=True)
class Condition:
    """One ORPHA entry."""

    rank: int
    abbr: str
    name: str
    orphanet_code: str
    genes: tuple[str, ...]
    sub_category: str
    penetrance: dict[str, float]  # HPO id of a term of the table -> midpoint of its annotated frequency class, 0..1


def _listed(cell: str) -> tuple[str, ...]:
    return tuple(part for part in cell.split("|") if part)


@cache
def terms() -> dict[str, Term]:
    """HPO id -> term, in the table's order."""
    with open(HERE / "phenotypes.csv", newline="", encoding="utf-8") as table:
        return {
            row["hpo_id"]: Term(
                row["hpo_id"],
                row["name"],
                row["region"],
                {name: float(share) for name, share in (m.split(":") for m in row["moves"].split(";"))},
                _listed(row["exact_synonyms"]),
                _listed(row["lay_synonyms"]),
                _listed(row["report_words"]),
            )
            for row in csv.DictReader(table)
        }


@cache
def parameters() -> tuple[str, ...]:
    """Names of all face parameters in a fixed order: as the terms name them, then INDIVIDUAL_ONLY."""
    return tuple(dict.fromkeys([name for term in terms().values() for name in term.moves])) + INDIVIDUAL_ONLY


@cache
def conditions() -> tuple[Condition, ...]:
    """All conditions by rank; the first NUM_STUDY_CONDITIONS are those of the simulated study."""
    with open(HERE / "conditions.csv", newline="", encoding="utf-8") as table:
        return tuple(
            Condition(
                int(row["rank"]),
                row["disease_abbr"],
                row["disease_name"],
                row["orphanet_code"],
                tuple(filter(None, row["gene_name"].split(";"))),
                row["sub_category"],
                {i: float(p) for i, p in (t.split("=") for t in row["penetrance"].split(";"))},
            )
            for row in csv.DictReader(table)
        )


def shift(present: list[str], effect: float = EFFECT) -> dict[str, float]:
    """How far the present terms move each parameter, in standard deviations of individual variation.

    present: HPO ids; effect: how far a term with a share of 1 moves a parameter. Terms that move the same parameter add
    up to 1.5 effects at most, since two names of one sign are not two signs."""
    total: dict[str, float] = {}
    for hpo_id in present:
        for name, share in terms()[hpo_id].moves.items():
            total[name] = total.get(name, 0.0) + share
    return {name: effect * min(1.5, max(-1.5, share)) for name, share in total.items()}


# ---- rebuilding the tables from a release


def abbreviation(name: str, taken: set[str]) -> str:
    """A code of three or four characters for a disease name that is not yet among `taken`."""
    words = [
        w
        for w in re.findall(r"[A-Za-z0-9]+", name)
        if w.casefold()
        not in {"syndrome", "disease", "disorder", "with", "and", "of", "the", "due", "to", "type", "in", "a", "s"}
    ]
    letters = "".join(w[0] for w in words).upper()
    first = words[0].upper()
    candidates = [letters[:4]] if len(letters) >= 3 else []
    candidates += [(first[:keep] + letters[1:])[:4] for keep in (2, 3, 4) if len(first) >= keep]
    candidates += [f"{(first + letters)[:3]}{digit}" for digit in range(2, 100)]
    return next(c for c in candidates if len(c) >= 3 and c not in taken)


def read_release(file: Path) -> list[dict[str, str]]:
    """The rows of one of a release's tables."""
    with open(file, newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table, delimiter="\t"))


def rebuild(hpo_dir: Path) -> None:
    """Rewrites names and synonyms in phenotypes.csv, and the whole of conditions.csv.

    hpo_dir: holds head_terms.tsv, orpha_head_annotations.tsv and orpha_genes.tsv."""
    released = {row["hpo_id"]: row for row in read_release(hpo_dir / "head_terms.tsv")}
    missing = [hpo_id for hpo_id in terms() if hpo_id not in released]
    if missing:
        raise SystemExit(f"phenotypes.csv: {', '.join(missing)} not in this release; replace these terms first")
    annotations = [row for row in read_release(hpo_dir / "orpha_head_annotations.tsv") if row["hpo_id"] in terms()]
    genes = {row["orpha"]: row["genes"] for row in read_release(hpo_dir / "orpha_genes.tsv")}
    write_terms(released)
    n_conditions = write_conditions(annotations, genes)
    print(
        f"{len(terms())} terms and {n_conditions} conditions written; now set HPO_RELEASE in phenotyping/phenotypes.py"
    )


def write_terms(released: dict[str, dict[str, str]]) -> None:
    """Writes phenotypes.csv anew with a release's names and synonyms. released: HPO id -> row of head_terms.tsv."""
    before = terms()
    with open(HERE / "phenotypes.csv", "w", newline="", encoding="utf-8") as table:
        out = csv.writer(table, lineterminator="\n")
        out.writerow(["hpo_id", "name", "region", "moves", "exact_synonyms", "lay_synonyms", "report_words"])
        for term in before.values():
            row = released[term.hpo_id]
            moves = ";".join(f"{name}:{share:+g}" for name, share in term.moves.items())
            synonyms = row["exact_synonyms"], row["layperson_synonyms"]
            out.writerow([term.hpo_id, row["name"], term.region, moves, *synonyms, "|".join(term.report_words)])


def write_conditions(annotations: list[dict[str, str]], genes: dict[str, str]) -> int:
    """Writes conditions.csv anew and returns how many conditions it has.

    They are the ORPHA entries with the largest sums of penetrances above INFORMATIVE_PENETRANCE, ties ordered by ORPHA
    code. annotations: rows of orpha_head_annotations.tsv about terms of the table; genes: by ORPHA code."""
    name_of = {row["orpha"]: row["disease_name"] for row in reversed(annotations)}  # the first row's
    penetrances: dict[str, dict[str, float]] = {}
    for row in annotations:
        penetrances.setdefault(row["orpha"], {})[row["hpo_id"]] = float(row["frequency_midpoint"])
    informativeness = {
        code: sum(p for p in penetrance.values() if p > INFORMATIVE_PENETRANCE)
        for code, penetrance in penetrances.items()
    }
    ranked = sorted(penetrances, key=lambda code: (-informativeness[code], int(code)))[:NUM_CONDITIONS]
    columns = "rank disease_abbr disease_name orphanet_code gene_name sub_category informativeness penetrance"
    taken: set[str] = set()
    with open(HERE / "conditions.csv", "w", newline="", encoding="utf-8") as table:
        out = csv.writer(table, lineterminator="\n")
        out.writerow(columns.split())
        for rank, code in enumerate(ranked):
            taken.add(abbr := abbreviation(name_of[code], taken))
            cells = [rank, abbr, name_of[code], code, genes.get(code, "")]
            cells += [f"mainly {main_region(penetrances[code])}", f"{informativeness[code]:.2f}"]
            out.writerow([*cells, ";".join(f"{i}={p:g}" for i, p in sorted(penetrances[code].items()))])
    return len(ranked)


def main_region(penetrance: dict[str, float]) -> str:
    """The region of the face with the largest sum of penetrances."""
    sums = {
        region: sum(p for hpo_id, p in penetrance.items() if terms()[hpo_id].region == region) for region in REGIONS
    }
    return max(sums, key=sums.get)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "hpo_dir", type=Path, help="folder with head_terms.tsv, orpha_head_annotations.tsv and orpha_genes.tsv"
    )
    arguments = parser.parse_args()
    tables = ("head_terms.tsv", "orpha_head_annotations.tsv", "orpha_genes.tsv")
    absent = [name for name in tables if not (arguments.hpo_dir / name).is_file()]
    if absent:
        reason = f"{', '.join(absent)} not found; give the folder that holds the release's tables"
        print(f"{arguments.hpo_dir}: {reason}", file=sys.stderr)
        sys.exit(2)
    rebuild(arguments.hpo_dir)
