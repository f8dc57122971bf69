"""Facial HPO terms, what each moves in a face and how reports word it; and the simulated study's conditions.

`phenotypes.csv` (one row a term) and `conditions.csv` (one row a condition) are read here and nowhere else. Names,
synonyms and frequencies are facts of the Human Phenotype Ontology and Orphanet, release 2025-01-16 (HPO: Gargano et
al., NAR 2024, hpo.jax.org; Orphanet annotations: CC BY 4.0, orphadata.com).

`python phenotypes.py HPO_DIR` rebuilds both tables from the facts of another release (three tables: terms, annotations,
genes)."""

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
INDIVIDUAL_ONLY = (
    "freckles",
    "capillary_redness",
    "skin_lightness",
)  # vary between people; no term of the table moves them
NUM_STUDY_CONDITIONS = 103  # the paper's number; later ranks are for pretraining and never in the study
NUM_CONDITIONS = 309
INFORMATIVE_PENETRANCE = 0.3
EFFECT = 2.5  # of a term on a face, in standard deviations of individual variation, unless the user asks for another


@dataclass(frozen=True)
class Term:
    """One facial HPO term. `moves`: face parameter -> direction and share of the full effect (+1 raises it by one
    effect size)."""

    hpo_id: str
    name: str
    region: str
    moves: dict[str, float]
    exact_synonyms: tuple[str, ...]
    lay_synonyms: tuple[str, ...]
    report_words: tuple[str, ...]

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every way a report may say it, the HPO name first, without repeats (case ignored)."""
        unique: dict[str, str] = {}
        for words in (self.name, *self.exact_synonyms, *self.lay_synonyms, *self.report_words):
            unique.setdefault(words.casefold(), words)
        return tuple(unique.values())


@dataclass(frozen=True)
class Condition:
    """One ORPHA entry. `penetrance`: HPO id -> midpoint of its annotated frequency class, 0..1, expressible terms
    only."""

    rank: int
    abbr: str
    name: str
    orphanet_code: str
    genes: tuple[str, ...]
    sub_category: str
    penetrance: dict[str, float]


def _listed(cell: str) -> tuple[str, ...]:
    return tuple(part for part in cell.split("|") if part)


@cache
def terms() -> dict[str, Term]:
    """HPO id -> Term, in the table's order."""
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
    """Names of all face parameters, in a fixed order: as the terms name them, then those of individual variation
    only."""
    return tuple(dict.fromkeys([name for term in terms().values() for name in term.moves])) + INDIVIDUAL_ONLY


@cache
def conditions() -> tuple[Condition, ...]:
    """All conditions by rank; the first NUM_STUDY_CONDITIONS are the simulated study's."""
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

    Terms that move the same parameter the same way add up to 1.5 effects at most: two names of one sign are not two
    signs."""
    total: dict[str, float] = {}
    for hpo_id in present:
        for name, share in terms()[hpo_id].moves.items():
            total[name] = total.get(name, 0.0) + share
    return {name: effect * min(1.5, max(-1.5, share)) for name, share in total.items()}


# ---- rebuilding the tables from a release
def abbreviation(name: str, taken: set[str]) -> str:
    """A short code for a disease name, three characters where it can be, unlike any in `taken`."""
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


def rebuild(hpo_dir: Path) -> None:
    """Rewrite names and synonyms in phenotypes.csv, and conditions.csv as a whole.

    Conditions are the ORPHA entries with the largest sum of penetrances over 0.3 of expressible terms, ties by ORPHA
    code."""

    def read(name: str) -> list[dict[str, str]]:
        with open(hpo_dir / name, newline="", encoding="utf-8") as table:
            return list(csv.DictReader(table, delimiter="\t"))

    released = {row["hpo_id"]: row for row in read("head_terms.tsv")}
    genes = {row["orpha"]: row["genes"] for row in read("orpha_genes.tsv")}
    known = terms()
    gone = [hpo_id for hpo_id in known if hpo_id not in released]
    if gone:
        raise SystemExit(f"phenotypes.csv: {', '.join(gone)} not in this release; replace these terms first")
    with open(HERE / "phenotypes.csv", "w", newline="", encoding="utf-8") as table:
        out = csv.writer(table, lineterminator="\n")
        out.writerow(["hpo_id", "name", "region", "moves", "exact_synonyms", "lay_synonyms", "report_words"])
        for t in known.values():
            fact = released[t.hpo_id]
            moves = ";".join(f"{name}:{share:+g}" for name, share in t.moves.items())
            out.writerow(
                [
                    t.hpo_id,
                    fact["name"],
                    t.region,
                    moves,
                    fact["exact_synonyms"],
                    fact["layperson_synonyms"],
                    "|".join(t.report_words),
                ]
            )

    diseases: dict[str, tuple[str, dict[str, float]]] = {}
    for row in read("orpha_head_annotations.tsv"):
        if row["hpo_id"] in known:
            diseases.setdefault(row["orpha"], (row["disease_name"], {}))[1][row["hpo_id"]] = float(
                row["frequency_midpoint"]
            )
    informativeness = {
        code: sum(p for p in penetrance.values() if p > INFORMATIVE_PENETRANCE)
        for code, (_, penetrance) in diseases.items()
    }
    ranked = sorted(diseases, key=lambda code: (-informativeness[code], int(code)))[:NUM_CONDITIONS]
    taken: set[str] = set()
    with open(HERE / "conditions.csv", "w", newline="", encoding="utf-8") as table:
        out = csv.writer(table, lineterminator="\n")
        out.writerow(
            [
                "rank",
                "disease_abbr",
                "disease_name",
                "orphanet_code",
                "gene_name",
                "sub_category",
                "informativeness",
                "penetrance",
            ]
        )
        for rank, code in enumerate(ranked):
            name, penetrance = diseases[code]
            taken.add(abbr := abbreviation(name, taken))
            by_region = {
                region: sum(p for i, p in penetrance.items() if known[i].region == region) for region in REGIONS
            }
            out.writerow(
                [
                    rank,
                    abbr,
                    name,
                    code,
                    genes.get(code, ""),
                    f"mainly {max(by_region, key=by_region.get)}",
                    f"{informativeness[code]:.2f}",
                    ";".join(f"{i}={p:g}" for i, p in sorted(penetrance.items())),
                ]
            )
    print(f"{len(known)} terms and {len(ranked)} conditions written; now set HPO_RELEASE in phenotyping/phenotypes.py")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "hpo_dir", type=Path, help="folder with head_terms.tsv, orpha_head_annotations.tsv and orpha_genes.tsv"
    )
    arguments = parser.parse_args()
    missing = [
        n
        for n in ("head_terms.tsv", "orpha_head_annotations.tsv", "orpha_genes.tsv")
        if not (arguments.hpo_dir / n).is_file()
    ]
    if missing:
        print(
            f"{arguments.hpo_dir}: {', '.join(missing)} not found; give the folder that holds the release's tables",
            file=sys.stderr,
        )
        sys.exit(2)
    rebuild(arguments.hpo_dir)
