"""Fills the HTML page that shows reports on real and on synthetic images side by side, and how alike conditions are.

    write_page(Path("pairs.html"), pairs, real, synthetic, matrix, condition_names)

reports_page.html is its template. Of each condition the most similar pair, the median one and the least similar one are
shown. A term of which both reports say the same is green and underlined; one that is present in one report and absent
in the other is red, bold and marked with a cross and words. The page holds no photograph and no script, and its
Content-Security-Policy keeps it from loading anything. Reports are shown as text, never interpreted as HTML."""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jinja2
import numpy as np
import pyarrow as pa

from harness import real_or_simulated
from harness.files import write_atomically
from phenotyping import face_lexicon
from reporting.report_dataset import IDENTITY, Reports
from reporting.report_sections import OTHER_FINDINGS, SECTIONS
from reporting.report_terms import STATES, ReportTerms, find_mentions
from reporting.term_similarity import TermSpace, current_id

TEMPLATE = Path(__file__).resolve().parent / "reports_page.html"
SHOWN_PAIRS = {"most similar": 0.0, "median": 0.5, "least similar": 1.0}  # name -> place among a condition's pairs
FOLDED_CHARACTERS = 1500  # a longer text is folded
NAMED_TERMS = 3  # in a mark; a whole region that is normal rules out dozens
PRESENT, ABSENT, NOT_VISIBLE = STATES
AGREES, CONFLICTS, ALONE = "agrees", "conflicts", "alone"
WITHOUT_SECTIONS = "Whole report"  # heading of a report in which no section was found
HEADINGS = {heading: column for column, heading in SECTIONS.items()}  # as the page shows them -> column
HEADINGS |= {"Other findings": OTHER_FINDINGS, WITHOUT_SECTIONS: "report"}
DEFAULT_SIMILARITY = "findings/ontology"  # of report_scores.score_reports


@dataclass(frozen=True)
class Piece:
    """A piece of a report's text. kind: AGREES, CONFLICTS, ALONE (the other report does not say it) or "" (no term)."""

    text: str
    kind: str = ""
    terms: str = ""  # names of the terms that decide the kind, with what this report says of them


def write_page(
    file: Path,
    pairs: pa.Table,
    real: Reports,
    synthetic: Reports,
    matrix: np.ndarray,
    condition_names: Sequence[str],
    similarity: str | None = None,
    headline: str | None = None,
) -> None:
    """Write the page, readable by the user alone, since reports describe patients.

    pairs: as of report_scores.ReportScores: real_id, synthetic_id, disease_abbr, what tells synthetic images of one
    name apart, and similarities in columns PART/SIMILARITY, nan or null if undefined. matrix (C, C): mean similarity of
    the real reports of a condition (row) and the synthetic ones of another (column), nan without pairs;
    condition_names (C,): abbreviations. similarity: the column by which pairs are chosen and whose means the matrix
    holds (default: findings/ontology, else the first); those of the same part are shown, too. headline: a
    line above the pairs, such as that of report_scores. Raises ValueError for a pair whose report is missing or not
    unique, and for a matrix of another shape."""
    page = reports_page(pairs, real, synthetic, matrix, condition_names, similarity, headline)

    def write(partial: Path) -> None:
        partial.touch(mode=0o600)
        partial.write_text(page, encoding="utf-8")

    write_atomically(file, write)


def reports_page(
    pairs: pa.Table,
    real: Reports,
    synthetic: Reports,
    matrix: np.ndarray,
    condition_names: Sequence[str],
    similarity: str | None = None,
    headline: str | None = None,
) -> str:
    """The HTML page; arguments as for write_page."""
    matrix = np.asarray(matrix, float)
    if matrix.shape != (len(condition_names), len(condition_names)):
        raise ValueError(f"the matrix is {matrix.shape}, but there are {len(condition_names)} conditions")
    columns = pairs.to_pydict()
    space = TermSpace.of({i for reports in (real, synthetic) for own in reports.terms for i in states_of(own)})
    similarities = shown_similarities(pairs.schema, similarity)
    shown = [shown_condition(abbr, columns, real, synthetic, space, similarities) for abbr in condition_names]
    compared_by = readable(similarities[0]) if similarities else "none"
    simulated = real_or_simulated.is_simulated(real.columns.get("source_type", [None]))
    return (
        environment()
        .get_template(TEMPLATE.name)
        .render(
            title="Phenotype reports, real and synthetic" + (" (simulated)" if simulated else ""),
            simulated=simulated,
            reporters={
                name: sorted({str(one) for one in reports.columns["reporter"]})
                for name, reports in (("real", real), ("synthetic", synthetic))
            },
            n_real=len(real),
            n_synthetic=len(synthetic),
            n_pairs=len(pairs),
            similarity=compared_by,
            headline=headline,
            conditions=[one | rank for one, rank in zip(shown, ranks(matrix, condition_names), strict=True)],
            matrix=matrix.tolist(),
            heat_map=base64.b64encode(heat_map(matrix, condition_names, compared_by)).decode(),
            made=f"{date.today():%d %B %Y}",
        )
    )


def environment() -> jinja2.Environment:
    """The templates of this package, which escape every value, with the filters `digest` and `number`."""
    own = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own.filters |= {"digest": digest, "number": shown_number}
    return own


# ---------------------------------------------------------------------------------------------------------- the pairs


def shown_similarities(schema: pa.Schema, similarity: str | None) -> list[str]:
    """The columns of pairs that are shown, those of one part of the reports; the first is the one that pairs are chosen
    by. Empty if there are none: then no report has anything to compare."""
    columns = [column.name for column in schema if pa.types.is_floating(column.type)]
    if similarity is None:
        similarity = DEFAULT_SIMILARITY if DEFAULT_SIMILARITY in columns else next(iter(columns), None)
    if similarity is None:
        return []
    part = similarity.rpartition("/")[0]
    return [similarity, *(name for name in columns if name.rpartition("/")[0] == part and name != similarity)]


def shown_condition(
    abbr: str, columns: Mapping, real: Reports, synthetic: Reports, space: TermSpace, similarities: Sequence[str]
) -> dict:
    """A condition with those of its pairs that are shown, chosen by the first of the similarities.

    columns: of the table of pairs."""
    rows = [row for row, own in enumerate(columns["disease_abbr"]) if own == abbr]
    names = [
        name
        for reports in (real, synthetic)
        for label, name in zip(reports.labels, reports.columns["disease_name"], strict=True)
        if label == abbr
    ]
    measure = similarities[0].rpartition("/")[2] if similarities else ""
    chosen = chosen_pairs(rows, columns[similarities[0]]) if similarities else {}
    return {
        "abbr": abbr,
        "name": next(filter(None, names), abbr),
        "n_pairs": len(rows),
        "pairs": [
            shown_pair(columns, row, real, synthetic, space, measure)
            | {"name": name, "similarities": [(readable(column), columns[column][row]) for column in similarities]}
            for name, row in chosen.items()
        ],
    }


def chosen_pairs(rows: Sequence[int], values: Sequence[float | None]) -> dict[str, int]:
    """Name -> row of the pairs that are shown, each pair once; values: similarity by row, nan or null if undefined."""
    known = [row for row in rows if values[row] is not None and np.isfinite(values[row])]
    known.sort(key=lambda row: -values[row])  # stable, so that ties stay in the table's order
    chosen: dict[int, str] = {}
    for name, place in SHOWN_PAIRS.items():
        if known:
            chosen.setdefault(known[round(place * (len(known) - 1))], name)
    return {name: row for row, name in chosen.items()}


def shown_pair(columns: Mapping, row: int, real: Reports, synthetic: Reports, space: TermSpace, measure: str) -> dict:
    """Both reports of a pair, section by section, how many terms agree, and each section's similarity by `measure`."""
    numbers = report_row(real, columns, "real_id", row), report_row(synthetic, columns, "synthetic_id", row)
    two = [reports.select([number]) for reports, number in zip((real, synthetic), numbers, strict=True)]
    marks, conflicts = compared(two[0].terms[0], two[1].terms[0], space)
    sections = [texts_of(reports) for reports in two]
    headings = [heading for heading in HEADINGS if any(heading in own for own in sections)]
    if all(own.get("Left Eye") == own.get("Right Eye") for own in sections):  # most often from one heading Eyes
        headings = [heading for heading in headings if heading != "Right Eye"]
    return {
        "real_id": columns["real_id"][row],
        "synthetic_id": columns["synthetic_id"][row],
        "conflicts": conflicts,
        "n_agreeing": sum(mark.kind == AGREES for mark in marks[0].values()),
        "n_alone": [sum(mark.kind == ALONE for mark in own.values()) for own in marks],
        "sections": [
            {
                "heading": "Both Eyes" if heading == "Left Eye" and "Right Eye" not in headings else heading,
                "similarity": columns.get(f"{HEADINGS[heading]}/{measure}", {row: None})[row],
                "texts": [
                    marked_text(heading, own[heading], own_marks) if heading in own else None
                    for own, own_marks in zip(sections, marks, strict=True)
                ],
                "n_characters": [len(own.get(heading, "")) for own in sections],
                "folded": [len(own.get(heading, "")) > FOLDED_CHARACTERS for own in sections],
            }
            for heading in headings
        ],
    }


def report_row(reports: Reports, columns: Mapping, id_column: str, row: int) -> int:
    """The number of the report that row `row` of the pairs names in `id_column`. Raises ValueError without just one."""
    further = [
        name for name in IDENTITY[2:] if id_column == "synthetic_id" and {name} <= {*columns} & {*reports.columns}
    ]
    wanted = (columns[id_column][row], *(columns[name][row] for name in further))
    keys = zip(reports.ids, *(reports.columns[name] for name in further), strict=True)
    found = [number for number, key in enumerate(keys) if key == wanted]
    if len(found) != 1:
        raise ValueError(f"{reports.name} has {len(found)} reports on {wanted[0]}, which a pair names; score anew")
    return found[0]


def texts_of(report: Reports) -> dict[str, str]:
    """The sections of one report by heading; the whole report if no section was found in it."""
    (whole,) = report.columns["report"]
    texts = {heading: report.columns[column][0] for heading, column in HEADINGS.items() if column in report.columns}
    texts.pop(WITHOUT_SECTIONS)
    return {heading: text for heading, text in texts.items() if text} or {WITHOUT_SECTIONS: whole or ""}


# ---------------------------------------------------------------------------------------------------------- the marks


def states_of(terms: ReportTerms) -> dict[str, str]:
    """HPO id -> what a report says of the term."""
    return {hpo_id: state for state in STATES for hpo_id in getattr(terms, state)}


def compared(one: ReportTerms, other: ReportTerms, space: TermSpace) -> tuple[list[dict[str, Piece]], list[str]]:
    """What the marks of two reports say: for each report HPO id -> a Piece without text, and the conflicts by name.

    AGREES: both say that the term is present, or that it is absent. CONFLICTS: a term is present in one report, and the
    other calls it or an ancestor absent, or an opposite present, as in term_similarity.conflicts. ALONE: all others. A
    term that is not visible has no mark."""
    found: list[dict[str, Piece]] = [{}, {}]
    against: tuple[dict[str, set], dict[str, set]] = ({}, {})  # id -> what the other report says against it
    for here, (own, there) in enumerate(((one, other), (other, one))):
        for hpo_id in own.present:
            denied = [(term, ABSENT) for term in there.absent if _related(space, space.implies, hpo_id, term)]
            denied += [(term, PRESENT) for term in there.present if _related(space, space.opposite, hpo_id, term)]
            if any(_related(space, space.implies, term, hpo_id) for term in there.present):
                denied = []
            for term, state in denied:
                against[here].setdefault(hpo_id, set()).add((term, state))
                against[1 - here].setdefault(term, set()).add((hpo_id, PRESENT))
    for here, (own, there) in enumerate(((one, other), (other, one))):
        for hpo_id, state in states_of(own).items():
            said = f"{term_name(hpo_id)} {state}"
            if hpo_id in against[here]:
                opposed = sorted(against[here][hpo_id])
                words = [f"{state}" if term == hpo_id else f"{term_name(term)} {state}" for term, state in opposed]
                found[here][hpo_id] = Piece("", CONFLICTS, f"{said} here, {' and '.join(words)} there")
            elif state != NOT_VISIBLE:
                kind = AGREES if hpo_id in getattr(there, state) else ALONE
                found[here][hpo_id] = Piece("", kind, said)
    names = {tuple(sorted({term_name(a), term_name(b)})) for a, own in against[0].items() for b, _ in own}
    return found, sorted(" against ".join(two) for two in names)


def _related(space: TermSpace, relation: np.ndarray, a: str, b: str) -> bool:
    """Whether a relation (T, T) of the space holds from term a to term b; False for terms that HPO does not know."""
    numbers = [space.index.get(current_id(hpo_id)) for hpo_id in (a, b)]
    return None not in numbers and bool(relation[numbers[0], numbers[1]])


def marked_text(heading: str, text: str, marks: Mapping[str, Piece]) -> list[Piece]:
    """A section's text in pieces. marks: of the whole report, by HPO id.

    Where mentions overlap, they make one piece, and a conflict counts more than an agreement. What the heading names
    ("Nose: Normal.") is marked in the first sentence. The diagnostic suggestion has no marks, since no term is looked
    for in it."""
    if heading == SECTIONS["diagnostic_suggestion"]:
        return [Piece(text)]
    before = f"{heading}: " if heading in SECTIONS.values() else ""  # "Normal." is about what the heading names
    first_sentence = len(re.split(r"[.;\n]", text, maxsplit=1)[0])
    spans = []
    for one in find_mentions(before + text):
        if one.hpo_id in marks:
            stop = one.end - len(before) if one.end > len(before) else first_sentence
            spans.append((max(one.start - len(before), 0), stop, marks[one.hpo_id]))
    pieces, end = [], 0
    while spans:
        start, stop, own = spans[0][0], 0, []
        while spans and (not own or spans[0][0] < stop):
            _, own_stop, mark = spans.pop(0)
            stop, own = max(stop, own_stop), [*own, mark]
        pieces += [Piece(text[end:start]), _joined(text[start:stop], own)]
        end = stop
    return [piece for piece in [*pieces, Piece(text[end:])] if piece.text]


def _joined(text: str, marks: Sequence[Piece]) -> Piece:
    """The piece of text that has these marks."""
    kind = next(kind for kind in (CONFLICTS, AGREES, ALONE) if any(mark.kind == kind for mark in marks))
    words = list(dict.fromkeys(mark.terms for mark in marks if mark.kind == kind))
    more = f" and {len(words) - NAMED_TERMS} more" if len(words) > NAMED_TERMS else ""
    return Piece(text, kind, "; ".join(words[:NAMED_TERMS]) + more)


def term_name(hpo_id: str) -> str:
    """HPO's name of a term; the id itself if the lexicon does not have it."""
    current = face_lexicon.current_id(hpo_id)
    return face_lexicon.terms()[current].name if current else hpo_id


# ------------------------------------------------------------------------------------------------------- the heat map


def ranks(matrix: np.ndarray, condition_names: Sequence[str]) -> list[dict]:
    """For each condition: its similarity with itself, with all others on average, and the most similar other one.

    `rank`: place of the condition itself among the columns of its row, 1 is best. What cannot be told is None."""
    found = []
    for number, row in enumerate(matrix):
        own, others = row[number], np.delete(row, number)
        names = np.delete(np.array(condition_names, dtype=object), number)
        known = np.isfinite(others)
        nearest = int(np.argmax(np.where(known, others, -np.inf))) if known.any() else None
        found.append(
            {
                "own": float(own) if np.isfinite(own) else None,
                "others": float(others[known].mean()) if known.any() else None,
                "nearest": None if nearest is None else (names[nearest], float(others[nearest])),
                "rank": 1 + int((others[known] > own).sum()) if np.isfinite(own) else None,
                "n_ranked": int(known.sum()) + 1,
            }
        )
    return found


def heat_map(matrix: np.ndarray, condition_names: Sequence[str], similarity: str) -> bytes:
    """PNG file of the matrix, in colours that grow darker with similarity; white: no pairs."""
    from matplotlib.figure import Figure  # slow to import, and needed only here

    n = len(condition_names)
    side = min(12.0, 3.0 + 0.12 * n)  # inches
    figure = Figure(figsize=(side + 1, side), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(matrix, cmap="cividis_r", interpolation="nearest")
    size = min(9.0, 0.8 * 72 * (side - 2) / max(n, 1))  # points
    axes.set_xticks(range(n), condition_names, rotation=90, fontsize=size)
    axes.set_yticks(range(n), condition_names, fontsize=size)
    axes.set_xlabel("condition of the synthetic reports")
    axes.set_ylabel("condition of the real reports")
    figure.colorbar(picture, label=f"mean similarity: {similarity}", shrink=0.7)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


# ----------------------------------------------------------------------------------------------------------- wordings


def readable(column: str) -> str:
    """A column's name in words."""
    part, _, measure = column.rpartition("/")
    return f"{measure} of {part}".replace("_", " ") if part else measure


def shown_number(value: float | None) -> str:
    """Two decimals; a dash for what is not defined."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.2f}"


def digest(text: str) -> str:
    """The source expression of Content-Security-Policy (level 3) that allows exactly this style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
