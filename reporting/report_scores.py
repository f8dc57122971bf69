"""All scores of synthetic images' reports against real ones: from two sets of reports to results, pairs and a matrix.

    scores = score_reports(open_reports(real), open_reports(synthetic), encoders, seed=0)
    scores.results                         # for results.json
    scores.pairs                           # one row per pair of reports of one condition
    scores.matrix                          # condition x condition means of the ontology similarity

Reports belong together by the names of their labels, never by file names. Every text is encoded once, and pairs are
products of matrices."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harness.errors import InputError
from reporting import agreement, condition_terms, term_similarity, text_similarity
from reporting.agreement import Interval
from reporting.disease_naming import LEAST_RATIO, name_ratios
from reporting.report_dataset import IDENTITY, Reports
from reporting.report_sections import COLUMNS, OTHER_FINDINGS, without_suggestion
from reporting.sided_terms import FINDINGS, HalfTerms, sided_terms
from reporting.term_similarity import Statements, TermSpace
from reporting.text_similarity import Encoder

WHOLE = "report"  # the whole answer, diagnosis included, as in the paper; its terms are those of "findings"
ALL_FINDINGS = "findings"  # all sections but the diagnostic suggestion
PARTS = (ALL_FINDINGS, WHOLE, *COLUMNS)  # what is compared
REGIONS = ("left_eye", "right_eye", "nose", "mouth_lips")
# A region that a report calls normal; "abnormal" and "not normal" are not meant.
_CALLS_NORMAL = re.compile(
    r"(?<!not )(?<!ab)\b(?:normal|normally|unremarkable|typical|age-appropriate)\b|"
    r"\bno (?:\w+ )?(?:distinctive|abnormal|unusual|notable|significant|dysmorphic|remarkable)\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ReportScores:
    """What score_reports returns.

    pairs: `real_id`, `synthetic_id`, `disease_abbr`; what else tells synthetic images apart (`generator`, `protocol`,
    `fold`); `is_source`, whether the image was generated from the photograph, null if that is not known; `conflicts`,
    the number of present terms of either report that the other rules out; and per part and similarity a column
    PART/SIMILARITY, such as findings/ontology or nose/tfidf, null if undefined. Pairs of two conditions are in the
    results only."""

    results: dict
    pairs: pa.Table
    matrix: np.ndarray  # (C, C) mean findings/ontology of real (rows) and synthetic reports; nan: no pair
    condition_names: list[str]  # (C,) abbreviations of the conditions that have reports of both kinds


@dataclass(frozen=True)
class ReadReports:
    """Reports of one kind, with their texts by part and their terms."""

    ids: list[str]
    identities: list[tuple]  # what tells the images apart, the name of the id's column included
    source_ids: list[list[str]] | None  # of the photographs that each image was generated from; None: not all known
    labels: list[str | None]
    disease_names: dict[str, str]  # label -> name
    orphanet_codes: dict[str, str]  # label -> ORPHA code
    texts: dict[str, list[str | None]]  # part -> (n,)
    terms: list[dict[str, HalfTerms]]  # (n,) by part

    @classmethod
    def of(cls, reports: Reports) -> "ReadReports":
        columns = reports.columns
        sources = columns.get("source_image_ids")
        sections = [
            {name: text for name in COLUMNS if (text := columns[name][row])}
            or {OTHER_FINDINGS: without_suggestion(columns["report"][row])}  # an answer without any heading
            for row in range(len(reports))
        ]
        texts: dict[str, list[str | None]] = {name: [found.get(name) for found in sections] for name in COLUMNS}
        texts[WHOLE] = list(columns["report"])
        texts[ALL_FINDINGS] = [_findings(found) for found in sections]
        return cls(
            list(reports.ids),
            _identities(reports),
            sources if sources and None not in sources else None,
            list(reports.labels),
            _facts(reports.labels, columns["disease_name"]),
            _facts(reports.labels, columns["orphanet_code"]),
            texts,
            [sided_terms(found) for found in sections],
        )

    def statements(self, part: str, space: TermSpace) -> Statements:
        nothing = (term_similarity.NOTHING, term_similarity.NOTHING)
        return term_similarity.statements([terms.get(part, nothing) for terms in self.terms], space)


def _identities(reports: Reports) -> list[tuple]:
    """What tells the images apart, the name of the id's column included."""
    known = (reports.columns[name] for name in IDENTITY if name in reports.columns)
    return [(reports.id_column, *image) for image in zip(*known, strict=True)]


def _findings(sections: Mapping[str, str]) -> str | None:
    """The texts of all sections with findings, each once: what is written of both eyes stands in two columns."""
    return "\n".join(dict.fromkeys(sections[name] for name in FINDINGS if name in sections)) or None


def _facts(labels: list[str | None], values: list[str | None]) -> dict[str, str]:
    """The value that most reports of a label have."""
    found: dict[str, list[str]] = {}
    for label, value in zip(labels, values, strict=True):
        if label is not None and value:
            found.setdefault(label, []).append(str(value))
    return {label: max(sorted(set(known)), key=known.count) for label, known in found.items()}


@dataclass(frozen=True)
class Pairing:
    """Which of n real and m synthetic reports belong together."""

    conditions: list[str]  # (C,) sorted labels with reports of both kinds
    real: np.ndarray  # (n,) numbers of the conditions, -1 for others
    synthetic: np.ndarray  # (m,)
    same_image: np.ndarray  # (n, m) bool: both are about one image, as of two reporters; never a pair
    is_source: np.ndarray | None  # (n, m) bool: the image was generated from the photograph; None: not known
    rows: np.ndarray  # (p,) of the pairs within a condition
    columns: np.ndarray  # (p,)

    @classmethod
    def of(cls, conditions: list[str], real: ReadReports, synthetic: ReadReports) -> "Pairing":
        numbers = {name: number for number, name in enumerate(conditions)}
        labels = [np.array([numbers.get(label, -1) for label in side.labels]) for side in (real, synthetic)]
        same_image = _meets([[identity] for identity in synthetic.identities], real.identities)
        known = real.source_ids is None and synthetic.source_ids is not None
        is_source = _meets(synthetic.source_ids, real.ids) if known else None
        within = (labels[0][:, None] == labels[1]) & (labels[0][:, None] >= 0) & ~same_image
        return cls(conditions, *labels, same_image, is_source, *np.nonzero(within))


def score_reports(real: Reports, synthetic: Reports, encoders: Mapping[str, Encoder], seed: int) -> ReportScores:
    """Everything that vlm_report_eval.py score writes.

    encoders: by the names under which results show them; seed: of the bootstrap. Raises InputError as
    common_conditions does."""
    conditions = common_conditions(real, synthetic)
    reports = {"real": ReadReports.of(real), "synthetic": ReadReports.of(synthetic)}
    of_real, of_synthetic = reports.values()
    pairing = Pairing.of(conditions, of_real, of_synthetic)
    stated_ids = _stated_ids(reports)
    space = TermSpace.of(stated_ids | condition_terms.annotated_ids())
    stated = [side.statements(ALL_FINDINGS, space) for side in reports.values()]
    vectors, tokens_cut = _embedded(reports, encoders)
    interval = Interval(seed)
    scores: dict[str, dict] = {}
    pairs = _described_pairs(pairing, of_real, of_synthetic, synthetic.columns)
    pairs["conflicts"] = pa.array(term_similarity.conflicts(*stated, space)[pairing.rows, pairing.columns])
    matrix = np.full((len(pairing.conditions), len(pairing.conditions)), np.nan)
    for part in PARTS:
        normal = np.array([calls_normal(text) for text in of_synthetic.texts[part]], bool)
        for measure, values in _similarities(part, of_real, of_synthetic, space, vectors):
            values = np.where(pairing.same_image, np.nan, values)
            if not np.isfinite(values).any():
                continue  # a section that no report has
            for name, found in _part_scores(part, values, pairing, normal, interval).items():
                scores.setdefault(name, {}).setdefault(part, {})[measure] = found
            column = values[pairing.rows, pairing.columns].astype(np.float32)
            pairs[f"{part}/{measure}"] = pa.array(column, mask=~np.isfinite(column))
            if (part, measure) == (ALL_FINDINGS, "ontology"):
                sums, counts = agreement.block_sums(values, pairing.real, pairing.synthetic, len(matrix))
                matrix = np.divide(sums, counts, out=matrix, where=counts > 0)
    results = {
        "n_real": len(real),
        "n_synthetic": len(synthetic),
        "n_conditions": len(pairing.conditions),
        "n_pairs": len(pairing.rows),
        "n_same_image_pairs": int(pairing.same_image.sum()),
        "only_real": sorted({label for label in of_real.labels if label} - set(pairing.conditions)),
        "only_synthetic": sorted({label for label in of_synthetic.labels if label} - set(pairing.conditions)),
        "n_without_condition": {kind: side.labels.count(None) for kind, side in reports.items()},
        "hpo_release": term_similarity.ontology().version(),
        "unknown_terms": term_similarity.unknown_ids(stated_ids),
        "encoders": list(encoders),
        "not_run": [name for name in text_similarity.PAPER_ENCODERS if name not in encoders],
        "tokens_cut": tokens_cut,
        **scores,
        **_against_conditions(reports, stated, space, interval),
    }
    return ReportScores(results, pa.table(pairs), matrix, pairing.conditions)


def _described_pairs(
    pairing: Pairing, real: ReadReports, synthetic: ReadReports, columns: Mapping[str, list]
) -> dict[str, pa.Array]:
    """The columns of the pairs that name them. columns: of the synthetic reports."""
    pairs = {
        "real_id": pa.array([real.ids[row] for row in pairing.rows], pa.string()),
        "synthetic_id": pa.array([synthetic.ids[column] for column in pairing.columns], pa.string()),
        "disease_abbr": pa.array([real.labels[row] for row in pairing.rows], pa.string()),
    }
    for name in IDENTITY[2:]:
        if name in columns:
            pairs[name] = pa.array([columns[name][column] for column in pairing.columns])
    known = pairing.is_source is not None
    pairs["is_source"] = pa.array(
        pairing.is_source[pairing.rows, pairing.columns].tolist() if known else [None] * len(pairing.rows), pa.bool_()
    )
    return pairs


def _part_scores(
    part: str, values: np.ndarray, pairing: Pairing, normal: np.ndarray, interval: Interval
) -> dict[str, dict]:
    """The scores of one similarity (n, m) of one part by the names under which results.json has them.

    normal (m,): whether a synthetic report calls the part normal."""
    labels, one_image = (pairing.real, pairing.synthetic), pairing.same_image
    found = {"agreement": agreement.agreement(values, *labels, interval, one_image)}
    if part in REGIONS:
        of_others = values[:, ~normal], pairing.real, pairing.synthetic[~normal]
        kept = agreement.agreement(*of_others, interval, one_image[:, ~normal])
        found["no_normal"] = kept | {"n_reports_dropped": int(normal.sum())}
    if part in (WHOLE, ALL_FINDINGS):
        found["retrieval"] = agreement.retrieval(values, *labels, interval)
        if pairing.is_source is not None:  # pairs of an image and a photograph that it was not generated from
            found["unseen"] = agreement.agreement(values, *labels, interval, one_image | pairing.is_source)
    return found


def common_conditions(real: Reports, synthetic: Reports) -> list[str]:
    """The labels, sorted, with reports of both kinds.

    Raises InputError if there is none, or if no two reports of one condition are about different images."""
    images: list[dict[str, set[tuple]]] = [{}, {}]  # of real and of synthetic reports, by label
    for reports, of_label in zip((real, synthetic), images, strict=True):
        for label, image in zip(reports.labels, _identities(reports), strict=True):
            if label:
                of_label.setdefault(label, set()).add(image)
    common = sorted(images[0].keys() & images[1].keys())
    if not common:
        reason = f"no condition has reports in {real.name}, too"
        raise InputError(f"{synthetic.name}: {reason}; write reports of images with the same labels")
    if all(len(images[0][label] | images[1][label]) == 1 for label in common):
        reason = f"of no condition is there a pair of two different images with {real.name}"
        raise InputError(f"{synthetic.name}: {reason}; write reports of more images")
    return common


def headline(results: Mapping) -> str:
    """One line that says how far reports agree: what `agreement.findings.ontology` of results.json holds."""
    found = results.get("agreement", {}).get(ALL_FINDINGS, {}).get("ontology", {})

    def shown(name: str) -> str:
        one = found.get(name, {})
        if one.get("mean") is None:
            return "undefined"
        ends = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
        return f"{one['mean']:.3f}{ends}"

    line = f"{ALL_FINDINGS}/ontology: mean of matched pairs {shown('matched')}, of mismatched pairs "
    line += f"{shown('mismatched')}; AUC {shown('auc')} (chance 0.5)"
    has_interval = found.get("auc", {}).get("low") is not None
    return line + ("; in brackets: 95 % intervals over conditions" if has_interval else "")


def _meets(lists: list[list], values: list) -> np.ndarray:
    """(n, m) bool: whether each of n values is in each of m lists."""
    row_of = {value: row for row, value in enumerate(values)}
    found = np.zeros((len(values), len(lists)), bool)
    for column, listed in enumerate(lists):
        found[[row_of[value] for value in listed if value in row_of], column] = True
    return found


def calls_normal(text: str | None) -> bool:
    """Whether a section says that its region is normal; the paper's variant leaves such synthetic reports out."""
    return bool(text and _CALLS_NORMAL.search(text))


def findings_similarities(real: Reports, synthetic: Reports, encoders: Mapping[str, Encoder]) -> dict[str, np.ndarray]:
    """Every similarity (n, m) of the findings of n and m reports, by its name, without any scores."""
    reports = {"real": ReadReports.of(real), "synthetic": ReadReports.of(synthetic)}
    space = TermSpace.of(_stated_ids(reports))
    vectors, _ = _embedded(reports, encoders, (ALL_FINDINGS,))
    return dict(_similarities(ALL_FINDINGS, *reports.values(), space, vectors))


def _stated_ids(reports: Mapping[str, ReadReports]) -> set[str]:
    """All terms that any report calls present or absent."""
    return {
        hpo_id
        for side in reports.values()
        for terms in side.terms
        for half in terms[ALL_FINDINGS]
        for hpo_id in (*half.present, *half.absent)
    }


def _embedded(
    reports: Mapping[str, ReadReports], encoders: Mapping[str, Encoder], parts: tuple[str, ...] = PARTS
) -> tuple[dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], dict]:
    """Vectors by encoder and part, of the real and of the synthetic reports; and how many tokens were not read.

    Each distinct text is encoded once by each encoder, in whatever parts and reports it stands."""
    sides = list(reports.values())
    texts = [text for part in parts for side in sides for text in side.texts[part]]
    vectors: dict[str, dict] = {}
    cut: dict[str, dict] = {}
    for name, encoder in encoders.items():
        embedded = text_similarity.embed(texts, encoder)
        vectors[name], start = {}, 0
        for part in parts:
            middle = start + len(sides[0].ids)
            end = middle + len(sides[1].ids)
            vectors[name][part] = embedded[start:middle], embedded[middle:end]
            start = end
        cut[name] = {}
        for part in parts:
            of_part = [text for side in sides for text in side.texts[part] if text_similarity.has_words(text)]
            tokens = encoder.tokens_cut(of_part)
            if tokens.any():
                cut[name][part] = {"n_texts": int((tokens > 0).sum()), "n_tokens": int(tokens.sum())}
    return vectors, cut


def _similarities(
    part: str,
    real: ReadReports,
    synthetic: ReadReports,
    space: TermSpace,
    vectors: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
) -> Iterator[tuple[str, np.ndarray]]:
    """Each similarity of a part by its name, with its matrix (n, m), one at a time."""
    if part in (ALL_FINDINGS, *FINDINGS):
        a, b = real.statements(part, space), synthetic.statements(part, space)
        yield "ontology", term_similarity.ontology_similarity(a, b, space)
        yield "jaccard", term_similarity.term_jaccard(a, b)
    yield "tfidf", text_similarity.tfidf_similarity(real.texts[part], synthetic.texts[part])
    for name, by_part in vectors.items():
        a, b = by_part[part]
        yield name, a @ b.T


def _against_conditions(
    reports: Mapping[str, ReadReports], stated: list[Statements], space: TermSpace, interval: Interval
) -> dict:
    """How the reports of either kind fit the annotations and the name of their condition, and of all others."""
    names = sorted({label for side in reports.values() for label in side.labels if label})
    facts = {label: side.orphanet_codes[label] for side in reports.values() for label in side.orphanet_codes}
    known = condition_terms.Annotations.of([facts.get(name) for name in names], space)
    diseases = {label: side.disease_names[label] for side in reports.values() for label in side.disease_names}
    named = [name for name in names if name in diseases]
    found: dict[str, dict] = {"terms": {}, "diagnosis": {}, "disease_named": {}}
    for (kind, side), statements in zip(reports.items(), stated, strict=True):
        labels = np.array([names.index(label) if label else -1 for label in side.labels])
        fit = condition_terms.term_fit(statements, known, space)
        found["terms"][kind] = {
            field: agreement.own_and_others(getattr(fit, field), labels, interval)
            for field in ("precision", "recall", "hallucinated", "contradicted")
        }
        present = statements.present.max(axis=1).sum(axis=1).astype(float)
        found["terms"][kind]["present"] = agreement.mean_of(present, labels, interval)
        evidence = condition_terms.log_likelihood_ratios(statements, known, space)
        ranked = np.flatnonzero(known.has_frequencies)
        judged = np.isin(labels, ranked)
        own = np.searchsorted(ranked, labels[judged])
        found["diagnosis"][kind] = {"n_reports": int(judged.sum()), "n_conditions": len(ranked)} | agreement.ranking(
            evidence[judged][:, ranked], own, interval
        )
        ratios = name_ratios(side.texts["diagnostic_suggestion"], [diseases[name] for name in named])
        of_named = np.array([named.index(label) if label in diseases else -1 for label in side.labels])
        found["disease_named"][kind] = agreement.own_and_others(
            (ratios >= LEAST_RATIO).astype(float), of_named, interval
        )
    found["terms"]["without_annotation"] = [
        name for name, there in zip(names, known.has_terms, strict=True) if not there
    ]
    found["terms"]["without_frequencies"] = [
        name for name, there in zip(names, known.has_frequencies, strict=True) if not there
    ]
    return found
