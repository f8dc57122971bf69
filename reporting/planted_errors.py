"""Reference reports with a known number of planted errors, by which a similarity of reports is judged.

    reference = with_one_sided(read_reference(report), rng)          # report: of simulation/people.write_report
    wrong, kinds = plant(reference, 3, rng)
    similarity = ...                                   # of reference.text() and reworded(wrong, rng).text()
    count_correlation(similarities, counts, conditions, interval)    # Kendall's tau

A similarity that measures agreement falls with each error and is untouched by other words for the same finding. Only
SIMULATED reports can be used, since their findings are known."""

import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from phenotyping import phenotypes
from reporting.agreement import Interval
from reporting.term_similarity import implied, ontology

ERRORS = ("dropped", "negated", "side_swapped", "put_in")
# Section headings by region of phenotypes.csv, in the order of a report; the eyes are written apart, as in the paper.
HEADINGS = {
    "whole face": "Overall Impression",
    "eyes": "Eyes",
    "nose": "Nose",
    "mouth/lips": "Mouth/Lips",
    "ears": "Ears",
    "jaw": "Jaw",
    "forehead": "Forehead",
}
SIDES = ("left", "right")
# Face parameters that belong to both eyes together: their terms cannot be on one side.
OF_BOTH_EYES = {"eye_spacing", "inner_canthal_distance", "iris_asymmetry", "synophrys", "gaze_convergence"}
NOTHING_FOUND = "No distinctive finding."


@dataclass(frozen=True)
class Finding:
    """One statement of a reference report."""

    hpo_id: str
    words: str
    region: str
    present: bool
    side: str | None = None  # left or right; None: both, or in the middle


@dataclass(frozen=True)
class ReferenceReport:
    """A reference report by its statements."""

    findings: tuple[Finding, ...]
    suggestion: str  # the text under Diagnostic Suggestion

    def text(self) -> str:
        """The report in words, with a section for each eye."""
        lines = []
        for region, heading in HEADINGS.items():
            for side in SIDES if region == "eyes" else (None,):
                here = [f for f in self.findings if f.region == region and (side is None or f.side in (None, side))]
                found, absent = ([f.words for f in here if f.present is state] for state in (True, False))
                text = f"There is {', '.join(found)}." if found else NOTHING_FOUND
                text += f" No {', no '.join(absent)}." if absent else ""
                lines.append(f"{f'{side} eye'.title() if side else heading}: {text}")
        return "\n".join([*lines, f"Diagnostic Suggestion: {self.suggestion}"])


@cache
def _wordings() -> tuple[dict[str, str], re.Pattern]:
    """Wording, in lower case -> HPO id; and a pattern for one wording of a list, and whether it is negated."""
    ids = {words.casefold(): hpo_id for hpo_id, term in phenotypes.terms().items() for words in term.wordings}
    longest_first = "|".join(re.escape(words) for words in sorted(ids, key=lambda words: (-len(words), words)))
    return ids, re.compile(rf"(?P<no>no )?(?P<words>{longest_first})(?:, |\.\s*)", re.IGNORECASE)


def read_reference(report: str) -> ReferenceReport:
    """The statements of a report of simulation/people.write_report. Raises ValueError for a text of another form."""
    findings, suggestion = [], ""
    regions = {heading: region for region, heading in HEADINGS.items()}
    for line in report.splitlines():
        heading, _, text = line.partition(": ")
        if heading == "Diagnostic Suggestion":
            suggestion = text
            continue
        if heading not in regions:
            raise ValueError(f"{line[:60]!r}: no section of a reference report; give one of simulate_faces.py")
        rest = text.removeprefix(NOTHING_FOUND).strip().removeprefix("There is ")
        while rest:
            ids, pattern = _wordings()
            match = pattern.match(rest)
            if match is None:
                raise ValueError(f"{rest[:60]!r}: no wording of phenotypes.csv; give a report of simulate_faces.py")
            words = match["words"]
            findings.append(Finding(ids[words.casefold()], words, regions[heading], not match["no"]))
            rest = rest[match.end() :]
    return ReferenceReport(tuple(findings), suggestion)


def _can_be_one_sided(finding: Finding) -> bool:
    term = phenotypes.terms().get(finding.hpo_id)
    both = term is None or OF_BOTH_EYES & set(term.moves) or "bilateral" in term.name.lower()
    return finding.region == "eyes" and finding.present and not both


def with_one_sided(reference: ReferenceReport, rng: np.random.Generator, share: float = 0.5) -> ReferenceReport:
    """The report with a share of its findings about the eyes on one side only, so that sides can be swapped."""
    findings = [
        replace(finding, side=SIDES[rng.integers(2)])
        if _can_be_one_sided(finding) and "bilateral" not in finding.words.lower() and rng.random() < share
        else finding
        for finding in reference.findings
    ]
    return replace(reference, findings=tuple(findings))


def reworded(reference: ReferenceReport, rng: np.random.Generator, name_share: float = 0.5) -> ReferenceReport:
    """The same statements in words drawn anew: the HPO name for a share of them, any wording for the others.

    name_share: 0.5, as in write_report, or 0 for reports that prefer no wording."""
    findings = tuple(replace(f, words=_drawn_words(f, rng, name_share)) for f in reference.findings)
    return replace(reference, findings=findings)


def _drawn_words(finding: Finding, rng: np.random.Generator, name_share: float = 0.5) -> str:
    term = phenotypes.terms().get(finding.hpo_id)
    if term is None:
        return finding.words
    wordings = [words for words in term.wordings if finding.side is None or "bilateral" not in words.lower()]
    words = wordings[0] if rng.random() < name_share else wordings[rng.integers(len(wordings))]
    return words[0].lower() + words[1:]


def generalised(reference: ReferenceReport, rng: np.random.Generator, share: float) -> ReferenceReport:
    """The report with a share of its present findings named by a parent term of HPO: less exact, and not wrong."""
    findings = []
    for finding in reference.findings:
        parents = sorted(parent.id for parent in ontology().get_hpo_object(finding.hpo_id).parents)
        if finding.present and parents and rng.random() < share:
            name = ontology().get_hpo_object(parents[0]).name
            finding = replace(finding, hpo_id=parents[0], words=name[0].lower() + name[1:])
        findings.append(finding)
    return replace(reference, findings=tuple(findings))


def plant(
    reference: ReferenceReport, count: int, rng: np.random.Generator, kinds: tuple[str, ...] = ERRORS
) -> tuple[ReferenceReport, list[str]]:
    """The report with exactly `count` errors of random kinds, each about another finding; and the kinds.

    dropped: a present finding is left out; negated: it is called absent; side_swapped: it changes sides; put_in: a
    finding that the report does not mention, and that none of its findings implies, is called present. Raises
    ValueError if the report has too few findings for that."""
    findings = list(reference.findings)
    stated = {finding.hpo_id for finding in findings}
    implied_by_it = {above for hpo_id in stated for above in implied(hpo_id)}
    new = [
        term.hpo_id
        for term in phenotypes.terms().values()
        if not implied(term.hpo_id) & stated - {term.hpo_id} and term.hpo_id not in implied_by_it
    ]  # neither an ancestor nor a descendant of what is stated
    untouched = [place for place, finding in enumerate(findings) if finding.present]
    removed, planted = set(), []
    for _ in range(count):
        possible = {
            "dropped": untouched,
            "negated": untouched,
            "side_swapped": [place for place in untouched if findings[place].side],
            "put_in": new,
        }
        choices = [kind for kind in kinds if possible[kind]]
        if not choices:
            raise ValueError(f"a report with {len(reference.findings)} statements has no room for {count} errors")
        kind = choices[rng.integers(len(choices))]
        planted.append(kind)
        chosen = possible[kind][rng.integers(len(possible[kind]))]
        if kind == "put_in":
            new.remove(chosen)
            finding = Finding(chosen, "", phenotypes.terms()[chosen].region, True)
            findings.append(replace(finding, words=_drawn_words(finding, rng)))
            continue
        untouched.remove(chosen)
        if kind == "dropped":
            removed.add(chosen)
        elif kind == "negated":
            findings[chosen] = replace(findings[chosen], present=False)
        else:
            findings[chosen] = replace(findings[chosen], side=SIDES[1 - SIDES.index(findings[chosen].side)])
    kept = tuple(finding for place, finding in enumerate(findings) if place not in removed)
    return replace(reference, findings=kept), planted


def count_correlation(
    similarities: np.ndarray, counts: np.ndarray, conditions: np.ndarray, interval: Interval
) -> dict[str, float | None]:
    """Kendall's tau-b of what similarities (n,) lose with the number of planted errors (n,): 1 if never out of order.

    Reports with equal numbers are ties, so that 7 equally frequent numbers allow 0.93 at most. An undefined similarity
    counts as 0. conditions (n,): numbers, the unit of the interval."""
    x, y = -np.nan_to_num(np.asarray(similarities, float)), np.asarray(counts, float)
    _, number = np.unique(conditions, return_inverse=True)
    members = (number[:, None] == np.arange(number.max() + 1)).astype(float)
    signs = [np.sign(values[:, None] - values) for values in (x, y)]
    agreeing, x_untied, y_untied = (
        members.T @ matrix @ members for matrix in (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
    )

    def statistic(weights: np.ndarray) -> np.ndarray:
        """tau-b (b,) under weights (b, C) of the conditions."""
        a, b, c = (((weights @ matrix) * weights).sum(axis=1) for matrix in (agreeing, x_untied, y_untied))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nan_to_num(a / np.sqrt(b * c))

    (tau,) = statistic(np.ones((1, members.shape[1])))
    return {"tau": float(tau), **interval.of(statistic, np.arange(members.shape[1]))}
