"""Measures how well reports are brought to HPO terms, on SIMULATED reference reports and on paraphrases.

    python benchmarks/report_terms_accuracy.py --paraphrases tests/report_paraphrases_dev.jsonl

Reference reports are written by the simulator for people of all 309 conditions, the study's and later ones. The truth
are the person's present terms, and those of the absent ones that the report negates. Paraphrases are texts of people,
one JSON object per line: text, present, absent, not_visible (lists of HPO ids), and kind, a word by which results are
grouped. Precision and recall count all terms of all texts together; an id is right if it is equal. "one step" also
accepts the parent or a child of the right term.

On the same texts, if their folders are given: FastHPOCR (Groza et al., EBioMedicine 2024), which knows no negation, so
all that it finds counts as present; and negspacy (NegEx: Chapman et al., J Biomed Inform 2001) on a blank spaCy
pipeline, which tells for the places of the terms that report_terms or FastHPOCR found whether they are negated. It does
not know "not visible". Reports per second are of CPU time on one core, after the index is built: read for the first
time, and again."""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.errors import InputError
from phenotyping import face_lexicon, phenotypes, wording_index
from reporting import report_terms
from simulation import people

STATES = report_terms.STATES
HEADINGS = {"Overall Impression": "whole face"} | {region.title(): region for region in phenotypes.REGIONS}
FACE_ROOTS = ("HP:0000152", "HP:0000478", "HP:0000598", "HP:0001574")  # head and neck, eye, ear, skin with hair
Spans = list[tuple[str, int, int]]  # HPO id, start, end


@dataclass(frozen=True)
class Example:
    """A text with its true terms."""

    kind: str
    text: str
    truth: dict[str, frozenset[str]]  # state -> HPO ids


def negated_terms(report: str, absent: tuple[str, ...]) -> frozenset[str]:
    """Those of a person's absent terms that a simulated report negates: a line ends with "No ptosis, no cataract."."""
    terms, negated = phenotypes.terms(), set()
    for line in report.splitlines():
        heading, _, sentences = line.partition(": ")
        ruled_out = f", no {sentences.partition('. No ')[2][:-1]},".casefold()
        for hpo_id in absent:
            of_line = terms[hpo_id].region == HEADINGS.get(heading)
            if of_line and any(f", no {wording},".casefold() in ruled_out for wording in terms[hpo_id].wordings):
                negated.add(hpo_id)
    return frozenset(negated)


def reference_examples(n_reports: int, seed: int) -> list[Example]:
    """Simulated reports of people whose conditions are drawn in turn from all conditions."""
    rng = np.random.default_rng(seed)
    conditions, countries = phenotypes.conditions(), list(people.COUNTRY_ANCESTRY)
    examples = []
    for k in range(n_reports):
        if k % len(conditions) == 0:
            order = rng.permutation(len(conditions))
        condition = conditions[order[k % len(conditions)]]
        person = people.draw_person(condition, countries[rng.integers(len(countries))], rng)
        report = people.write_report(person, rng)
        kind = "study" if condition.rank < phenotypes.NUM_STUDY_CONDITIONS else "later ranks"
        truth = {"present": frozenset(person.present), "absent": negated_terms(report, person.absent)}
        examples.append(Example(kind, report, truth | {"not_visible": frozenset()}))
    return examples


def read_paraphrases(file: Path) -> list[Example]:
    """The examples of a JSONL file. Raises InputError for a line that is none; a retired id gives the current one."""
    examples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            truth = {state: frozenset(face_lexicon.current_id(i) or i for i in row.get(state, [])) for state in STATES}
            examples.append(Example(str(row.get("kind", "all")), str(row["text"]), truth))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: line {number}: needs a JSON object with text, present, absent, not_visible"
            ) from error
    return examples


# ---- readers


def fasthpocr_reader(folders: list[Path], hp_obo: Path, index_dir: Path) -> Callable[[str], Spans]:
    """FastHPOCR on an index of hp.obo, which takes minutes to build; one that lies in index_dir already is used."""
    sys.path += [str(folder) for folder in folders]
    from FastHPOCR.HPOAnnotator import HPOAnnotator
    from FastHPOCR.IndexHPO import IndexHPO

    index_dir.mkdir(parents=True, exist_ok=True)
    if not any(index_dir.iterdir()):
        with tempfile.TemporaryDirectory(dir=index_dir.parent) as folder:
            IndexHPO(str(hp_obo), folder, indexConfig={"rootConcepts": list(FACE_ROOTS)}).index()
            (index_file,) = Path(folder).iterdir()
            index_file.rename(index_dir / index_file.name)
    (index_file,) = index_dir.iterdir()
    annotator = HPOAnnotator(str(index_file))

    def read(text: str) -> Spans:
        spans = [
            (a.getHPOUri(), a.getStartOffset(), a.getEndOffset()) for a in annotator.annotate(text, longestMatch=True)
        ]
        return [(current, start, end) for i, start, end in spans if (current := face_lexicon.current_id(i))]

    return read


def negation_tagger(folders: list[Path]) -> Callable[[str, Spans], dict[str, set[str]]] | None:
    """A function from a text and the places of terms to terms by state, or None if negspacy is not installed."""
    sys.path += [str(folder) for folder in folders]
    if importlib.util.find_spec("negspacy") is None or importlib.util.find_spec("spacy") is None:
        return None
    import negspacy.negation  # noqa: F401  registers the component
    import spacy
    from spacy.util import filter_spans

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")

    def tag(text: str, spans: Spans) -> dict[str, set[str]]:
        document = nlp.make_doc(text)
        places = [document.char_span(start, end, label=i, alignment_mode="expand") for i, start, end in spans]
        document.ents = filter_spans([place for place in places if place is not None])
        document = tagger(nlp.get_pipe("sentencizer")(document))
        found: dict[str, set[str]] = {state: set() for state in STATES}
        for entity in document.ents:
            found["absent" if entity._.negex else "present"].add(entity.label_)
        found["absent"] -= found["present"]
        return found

    tagger = nlp.add_pipe("negex")
    return tag


def said_spans(text: str) -> Spans:
    """The places of terms that report_terms found, without those implied by a region."""
    mentions = report_terms.find_mentions(text)
    return [(mention.hpo_id, mention.start, mention.end) for mention in mentions if not mention.implied]


def named_terms(text: str) -> dict[str, set[str]]:
    """As find_terms, without what is implied by a region ("the nose is normal"): texts that list only what is named."""
    states: dict[str, int] = {}
    for mention in report_terms.find_mentions(text):
        if not mention.implied:
            place = STATES.index(mention.state)
            states[mention.hpo_id] = min(place, states.get(mention.hpo_id, place))
    return {name: {hpo_id for hpo_id, state in states.items() if state == k} for k, name in enumerate(STATES)}


def readers(args: argparse.Namespace) -> dict[str, Callable[[str], dict[str, set[str]]]]:
    """Name -> function from a text to HPO ids by state."""
    found: dict[str, Callable[[str], dict[str, set[str]]]] = {
        "report_terms": lambda text: {s: set(ids) for s, ids in report_terms.find_terms(text).as_dict().items()},
        "report_terms, named": named_terms,
    }
    tag = negation_tagger(args.negspacy)
    if tag is None:
        print("negspacy: not installed; give its folder with --negspacy to see it beside report_terms")
    else:
        found["report_terms, NegEx"] = lambda text: tag(text, said_spans(text))
    if args.fasthpocr:
        fast = fasthpocr_reader(args.fasthpocr, args.hp_obo, args.fasthpocr_index)
        found["FastHPOCR"] = lambda text: {
            "present": {i for i, _, _ in fast(text)},
            "absent": set(),
            "not_visible": set(),
        }
        if tag is not None:
            found["FastHPOCR, NegEx"] = lambda text: tag(text, fast(text))
    else:
        print("FastHPOCR: not given; see --fasthpocr")
    return found


# ---- scores


def is_near(hpo_id: str, others: set[str] | frozenset[str]) -> bool:
    """Whether an id, its parent or a child is among others."""
    terms = face_lexicon.terms()
    parents = set(terms[hpo_id].parents) if hpo_id in terms else set()
    return hpo_id in others or bool(parents & others) or any(i in terms and hpo_id in terms[i].parents for i in others)


def any_state(examples: list[Example], answers: list[dict[str, set[str]]]) -> dict[str, float]:
    """Micro precision and recall of all statements together: a term is right in its own state only."""
    of_states = [scores(examples, answers, state) for state in STATES]
    right = sum(row["recall"] * row["n"] for row in of_states if row["n"])
    said = sum(len(answer[state]) for answer in answers for state in STATES)
    n = sum(row["n"] for row in of_states)
    return {"precision": right / said if said else float("nan"), "recall": right / n if n else float("nan"), "n": n}


def scores(examples: list[Example], answers: list[dict[str, set[str]]], state: str) -> dict[str, float]:
    """Micro precision and recall of one state, equal ids and one step apart; nan if there is nothing to count."""
    pairs = [(example.truth[state], answer[state]) for example, answer in zip(examples, answers, strict=True)]
    n_true, n_said = sum(len(truth) for truth, _ in pairs), sum(len(said) for _, said in pairs)
    n_right = sum(len(truth & said) for truth, said in pairs)
    return {
        "precision": n_right / n_said if n_said else float("nan"),
        "recall": n_right / n_true if n_true else float("nan"),
        "near_precision": sum(is_near(i, truth) for truth, said in pairs for i in said) / n_said
        if n_said
        else float("nan"),
        "near_recall": sum(is_near(i, said) for truth, said in pairs for i in truth) / n_true
        if n_true
        else float("nan"),
        "n": n_true,
    }


def print_scores(title: str, examples: list[Example], answers: dict[str, list[dict[str, set[str]]]]) -> None:
    kinds = Counter(example.kind for example in examples)
    print(f"\n{title}: {len(examples)} texts")
    print(f"{'':24}{'kind':16}{'state':13}{'terms':>6}{'precision':>11}{'recall':>8}{'one step':>18}")
    for name, answer in answers.items():
        for kind in ["all", *(kinds if len(kinds) > 1 and name == "report_terms" else [])]:
            chosen = [k for k, example in enumerate(examples) if kind in ("all", example.kind)]
            for state in STATES:
                row = scores([examples[k] for k in chosen], [answer[k] for k in chosen], state)
                if row["n"]:
                    exact, near = (
                        f"{row['precision']:11.3f}{row['recall']:8.3f}",
                        f"{row['near_precision']:10.3f}{row['near_recall']:8.3f}",
                    )
                    print(f"{name:24}{kind:16}{state:13}{row['n']:6}{exact}{near}")
        row = any_state(examples, answer)
        print(f"{name:24}{'all':16}{'any':13}{row['n']:6}{row['precision']:11.3f}{row['recall']:8.3f}")


def print_misses(examples: list[Example], answers: list[dict[str, set[str]]]) -> None:
    """Each text in which a term was missed or should not have been found."""
    terms = face_lexicon.terms()
    for example, answer in zip(examples, answers, strict=True):
        lines = []
        for state in STATES:
            for what, ids in (
                ("missed", example.truth[state] - answer[state]),
                ("wrong", answer[state] - example.truth[state]),
            ):
                names = sorted(terms[i].name if i in terms else i for i in ids)
                lines += [f"    {what} {state}: {'; '.join(names)}"] if names else []
        if lines:
            print(f"  {example.kind}: {' '.join(example.text.split())[:300]}", *lines, sep="\n")


def reports_per_second(read: Callable[[str], object], texts: list[str]) -> float:
    start = time.process_time()
    for text in texts:
        read(text)
    return len(texts) / max(time.process_time() - start, 1e-9)


def main(args: argparse.Namespace) -> None:
    sets = {"SIMULATED reference reports": reference_examples(args.num_reports, args.seed)}
    for file in args.paraphrases:
        sets[f"paraphrases of {file.name}"] = read_paraphrases(file)
    wording_index.index()
    speed_texts = [example.text for example in reference_examples(args.num_reports, args.seed + 1)]
    first, again = (reports_per_second(report_terms.find_terms, speed_texts) for _ in range(2))
    print(f"report_terms: {first:.0f} reports per second read for the first time, {again:.0f} again")
    found = readers(args)
    if "FastHPOCR" in found:
        print(f"FastHPOCR: {reports_per_second(found['FastHPOCR'], speed_texts):.0f} reports per second")
    for title, examples in sets.items():
        answers = {name: [read(example.text) for example in examples] for name, read in found.items()}
        print_scores(title, examples, answers)
        print_misses(examples, answers["report_terms, named"])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_reports", type=int, default=300, help="SIMULATED reference reports (default: 300)")
    parser.add_argument("--seed", type=int, default=20250116, help="of the simulated people (default: 20250116)")
    parser.add_argument("--paraphrases", type=Path, nargs="*", default=[], help="JSONL files of texts with their terms")
    parser.add_argument(
        "--fasthpocr", type=Path, nargs="*", default=[], help="folders with FastHPOCR and what it imports"
    )
    parser.add_argument("--hp_obo", type=Path, help="the ontology for FastHPOCR's index")
    parser.add_argument("--fasthpocr_index", type=Path, help="folder that keeps FastHPOCR's index for the next time")
    parser.add_argument("--negspacy", type=Path, nargs="*", default=[], help="folders with negspacy and spaCy")
    args = parser.parse_args(argv)
    if args.num_reports < 1:
        parser.error("--num_reports must be at least 1")
    if args.fasthpocr and not (args.hp_obo and args.hp_obo.is_file()):
        parser.error("--fasthpocr requires --hp_obo with the file hp.obo")
    if args.fasthpocr and not args.fasthpocr_index:
        parser.error("--fasthpocr requires --fasthpocr_index, a folder for its index")
    for path in (*args.paraphrases, *args.fasthpocr, *args.negspacy):
        if not path.exists():
            parser.error(f"{path} not found")
    return args


if __name__ == "__main__":
    try:
        main(parse_args())
    except InputError as error:
        sys.exit(str(error))
