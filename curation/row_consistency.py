"""Compares the rows of the curator's table with each other, and ORPHA codes with the project's table of conditions."""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import median

from curation.curated_rows import CSV_NAME, Problem, Row, quoted
from curation.problem_lines import named_rows
from harness import text_normalization
from harness.counts import counted
from phenotyping import phenotypes

EXAMPLES = 10  # how many notes of one kind name their own spelling, or conditions are named, before the rest is folded
NO_NAME = {  # words that many names of diseases have in common
    "syndrome", "syndrom", "disease", "disorder", "type", "of", "and", "the", "with", "without", "due", "to", "in",
    "de", "del", "der", "la", "le", "van", "von",
}  # fmt: skip
ALIKE = 0.8  # share of two words' letters that match, from which one is a spelling of the other
ADULT_YEARS = 18
OLDEST_LIKELY_YEARS = 100


def agreeing(rows: list[Row], problems: list[Problem]) -> list[Row]:
    """The rows without those that have another ORPHA code than most rows of their condition, or the disease name of
    another condition; notes are added on names that differ, and on genes of another condition."""
    by_condition: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_condition[row.abbreviation].append(row)
    name_of = {row.line: _name_key(row.values["disease_name"]) for row in rows}
    genes_of = {row.line: tuple(sorted(row.values["gene_names"] or [])) or None for row in rows}
    codes, _ = _most_common(by_condition, {row.line: row.values["orphanet_code"] for row in rows})
    names, named = _most_common(by_condition, name_of)
    genes, with_genes = _most_common(by_condition, genes_of)
    first_spelling: dict[str, str] = {}
    bad = set()
    for abbreviation, members in by_condition.items():
        code = codes.get(abbreviation)
        spelt = first_spelling.setdefault(abbreviation.casefold(), abbreviation)
        if spelt != abbreviation:
            reason = f"{abbreviation} and {spelt} differ in capitals only, and are two conditions"
            problems.append(members[0].problem("disease_abbr", "note", reason, "use one spelling if they are one"))
        usual = next((row for row in members if name_of[row.line] == names.get(abbreviation)), members[0])
        for row in members:
            name, others = row.values["disease_name"], named.get(name_of[row.line])
            if row.values["orphanet_code"] not in (code, None):
                bad.add(row.line)
                reason = f"ORPHA {row.values['orphanet_code']}, but other rows of {abbreviation} have {code}"
                problems.append(row.problem("orphanet_code", "row", reason, "correct the code or the abbreviation"))
            elif name_of[row.line] != names.get(abbreviation) and others:
                bad.add(row.line)
                reason = f"{quoted(name)} is the name of {others[0]}, not of {abbreviation} (as in row {usual.line})"
                problems.append(row.problem("disease_name", "row", reason, "correct the name or the abbreviation"))
            elif name is not None and name != usual.values["disease_name"]:
                reason = f"is spelt otherwise than in row {usual.line}, of the same abbreviation {abbreviation}"
                problems.append(row.problem("disease_name", "note", reason, "use one spelling"))
            others = with_genes.get(genes_of[row.line], ())
            if genes_of[row.line] != genes.get(abbreviation) and len(others) == 1 and row.line not in bad:
                reason = f"the genes are those of {others[0]}, not of the other rows of {abbreviation}"
                problems.append(row.problem("gene_name", "note", reason, "check the genes and the abbreviation"))
    return [row for row in rows if row.line not in bad]


def _most_common(
    by_condition: dict[str, list[Row]], value_of: dict[int, str | tuple | None]
) -> tuple[dict[str, str | tuple], dict[str | tuple, list[str]]]:
    """The most common value of each condition, and for each such value the conditions that have it.

    value_of: line of a row -> value. Among equally common values one is taken that is no other condition's most common
    value, or else the first in the table."""
    most: dict[str, list] = {}
    for abbreviation, members in by_condition.items():
        counts = Counter(value for row in members if (value := value_of[row.line]) is not None)
        most[abbreviation] = [value for value, count in counts.items() if count == max(counts.values())]
    alone = {values[0] for values in most.values() if len(values) == 1}
    chosen = {}
    for abbreviation, values in most.items():
        if values:
            free = [value for value in values if value not in alone]
            chosen[abbreviation] = free[0] if free and len(values) > 1 else values[0]
    conditions: dict = defaultdict(list)
    for abbreviation, value in chosen.items():
        conditions[value].append(abbreviation)
    return chosen, conditions


def _name_key(name: str | None) -> str | None:
    """A disease's name without capitals, accents and signs."""
    return name and re.sub(r"[\W_]+", " ", text_normalization.without_accents(text_normalization.plain(name))).strip()


def note_spellings(rows: list[Row], problems: list[Problem]) -> None:
    """Add notes on one subject in several spellings, on two subjects that look alike, and on numbers cut short."""
    first: dict[str, Row] = {}
    met: set[str] = set()
    by_look: dict[str, str] = {}  # what looks alike -> the first key of that look
    for row in rows:
        subject, key = row.values["subject_id"], _subject(row)
        if key is None:
            continue
        earlier = first.setdefault(key, row)
        spelt = earlier.values["subject_id"]
        if subject != spelt:
            met.add(subject)
            one, other = _told_apart(subject, spelt)
            reason = f"{one} is {other} of row {earlier.line} in another spelling, and is taken as one patient"
            remedy = f"write {other} in both, if it is one" if len(met) <= EXAMPLES else "use one spelling"
            problems.append(row.problem("subject_id", "note", reason, remedy))
        if re.fullmatch(r"-?\d[.,]\d+e\+\d+", text_normalization.plain(subject)):
            reason = f"{subject} is a number that a spreadsheet cut short, and may stand for several patients"
            problems.append(row.problem("subject_id", "note", reason, "format the column as text; write it in full"))
        if earlier is row:
            like = first[by_look.setdefault(_look(key), key)]
            if like is not row:
                one, other = _told_apart(subject, like.values["subject_id"])
                reason = f"{one} looks like {other} of row {like.line}, and is taken as another patient"
                problems.append(row.problem("subject_id", "note", reason, "use one spelling if they are one"))


def _told_apart(one: str, other: str) -> tuple[str, str]:
    """Both texts in quotation marks, with codes for characters outside ASCII if a reader might see no difference."""
    seen = [re.sub(r"[^\w .,;:/()'+-]", "", unicodedata.normalize("NFC", text)) for text in (one, other)]
    hidden = seen[0] == seen[1] or seen != [one, other]
    return (ascii(one), ascii(other)) if hidden else (repr(one), repr(other))


def _look(key: str) -> str:
    """A subject's key without what is easily mistaken: accents, letters of other scripts, leading zeros, zeros behind a
    decimal point, and signs between the parts (but 1-11 does not look like 11-1)."""
    text = text_normalization.in_latin_letters(text_normalization.without_accents(key))
    text = re.sub(r"[.,]0+$", "", text)
    if re.fullmatch(r"\d{1,3}([ .,']\d{3})+|\d+e\d{1,2}", text):
        number, _, zeros = re.sub(r"[ .,']", "", text).partition("e")
        text = number + "0" * int(zeros or 0)
    if re.fullmatch(r"\d+\.\d+", text):
        text = text.rstrip("0")
    text = re.sub(r"(?<=\d)[\W_]+(?=\d)", ".", text)
    text = re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _subject(row: Row) -> str | None:
    """The subject in the form in which subjects are compared; None if it is not known."""
    subject = row.values["subject_id"]
    return None if subject is None else text_normalization.subject_key(subject) or None


def note_doubtful(rows: list[Row], problems: list[Problem]) -> None:
    """Add notes on one subject with several conditions, two sexes or most of the photographs, and on one ORPHA code or
    disease name with several abbreviations."""
    two_people = "both count as one person; if they are two, give each a subject_id of its own, such as A-1 and B-1"
    for column, other, reason, remedy in (
        ("subject_id", "disease_abbr", "subject {} has another condition in row {}", two_people),
        ("subject_id", "sex", "subject {} has another sex in row {}", "kept as one; correct the sex or the subject"),
        ("orphanet_code", "disease_abbr", "ORPHA {} has another abbreviation in row {}", "use one if they are one"),
        ("disease_name", "disease_abbr", "{} has another abbreviation in row {}", "use one if they are one"),
    ):
        first: dict[str, Row] = {}
        noted = set()
        for row in rows:
            value, differs = row.values[column], row.values[other]
            if value is None or differs is None:
                continue
            key = {"subject_id": text_normalization.subject_key, "disease_name": _name_key}.get(column, str)(value)
            earlier = first.setdefault(key, row)
            if earlier.values[other] != differs and (key, differs) not in noted:
                noted.add((key, differs))
                problems.append(row.problem(column, "note", reason.format(value, earlier.line), remedy))
    _note_catch_all(rows, problems)
    _note_left_out(rows, problems)
    _note_codes(rows, problems)
    _note_ages(rows, problems)


def _note_left_out(rows: list[Row], problems: list[Problem]) -> None:
    """Add a note on each condition of which some rows have a required value and others none; nothing is filled in."""
    by_condition: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_condition[row.abbreviation].append(row)
    told = {(problem.row, problem.column) for problem in problems}  # of a cell that cannot be read, say
    for column in ("disease_name", "sub_category", "orphanet_code"):
        for abbreviation, members in by_condition.items():
            counts = Counter(value for row in members if (value := row.values[column]) is not None)
            lacking = [row.line for row in members if row.values[column] is None and (row.line, column) not in told]
            if counts and lacking:
                value = quoted(counts.most_common(1)[0][0])
                reason = f"no value in {named_rows(lacking)} of {abbreviation}, where other rows of it have {value}"
                remedy = f"write {value} there, too, if it holds for all of {abbreviation}"
                problems.append(Problem(CSV_NAME, lacking[0], column, "note", reason, remedy))


def _note_codes(rows: list[Row], problems: list[Problem]) -> None:
    """Add a note on each condition whose ORPHA code belongs to another disease in the project's table of conditions.

    A name agrees with the table's if one has all words of the other ("Noonan syndrome 1"). A name that the table lacks
    also agrees if one word is alike ("Williams-Beuren"), or if a gene is the same, as it is under a synonym."""
    disease_of = {condition.orphanet_code: condition for condition in phenotypes.conditions()}
    code_of = {_words(condition.name): condition.orphanet_code for condition in phenotypes.conditions()}
    noted = set()
    for row in rows:
        code, name = row.values["orphanet_code"], row.values["disease_name"]
        disease, key = disease_of.get(code), (row.abbreviation, code, _name_key(name))
        if disease is None or name is None or key in noted:
            continue
        words, listed = _words(name), _words(disease.name)
        right = code_of.get(words)
        if words <= listed or listed <= words:
            continue
        if right is None and (_share_a_word(words, listed) or set(row.values["gene_names"] or ()) & set(disease.genes)):
            continue
        noted.add(key)
        reason = f"ORPHA {code} of {row.abbreviation}, {quoted(name)}, is {disease.name} in the project's table"
        remedy = f"check the code, if {quoted(name)} is no other name of that disease"
        if right is not None:
            remedy = f"write {right}, which the project's table has for {quoted(name)}, or correct the name"
        problems.append(row.problem("orphanet_code", "note", reason, remedy))


def without_terms(rows: Iterable[Row]) -> str:
    """The conditions for which the project's table has no terms, by abbreviation and ORPHA code, as a text; "" if it
    has terms for all of them."""
    annotated = {condition.orphanet_code for condition in phenotypes.conditions()}
    codes: dict[str, str | None] = {}
    for row in rows:
        codes[row.abbreviation] = codes.get(row.abbreviation) or row.values["orphanet_code"]
    named = [
        f"{abbreviation} ({f'ORPHA {code}' if code else 'no ORPHA code'})"
        for abbreviation, code in codes.items()
        if code not in annotated
    ]
    more = f" and {counted(len(named) - EXAMPLES, 'more condition')}" if len(named) > EXAMPLES else ""
    return f"{', '.join(named[:EXAMPLES])}{more}"


def _words(name: str) -> frozenset[str]:
    """The words of a disease's name, in small letters, without those that many names have."""
    return frozenset(_name_key(name).split()) - NO_NAME


def _share_a_word(some: Iterable[str], others: Iterable[str]) -> bool:
    others = [word for word in others if not word.isdecimal()]
    return any(difflib.get_close_matches(word, others, n=1, cutoff=ALIKE) for word in some)


def _note_ages(rows: list[Row], problems: list[Problem]) -> None:
    """Add one note on the photographs of adults, if most are of children, or else on those of very old people."""
    ages = [(row, row.values["age_years"]) for row in rows if row.values["age_years"] is not None]
    least = ADULT_YEARS if 2 * sum(age >= ADULT_YEARS for _, age in ages) < len(ages) else OLDEST_LIKELY_YEARS
    found = [(row, age) for row, age in ages if age >= least]
    if found:
        oldest, age = max(found, key=lambda one: one[1])
        reason = f"{counted(len(found), 'photograph')} of persons of {least} years or more "
        reason += f"({named_rows([row.line for row, _ in found])}; the oldest, in row {oldest.line}, is {age:g})"
        problems.append(Problem(CSV_NAME, None, "age", "note", reason, "nothing needs doing if these ages are right"))


def _note_catch_all(rows: list[Row], problems: list[Problem]) -> None:
    """Add notes on subjects that may mean "not known", as 0 or "patient" do: those with most photographs of the table,
    and those with several conditions and more than twice the usual number of photographs."""
    of_subject: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if key := _subject(row):
            of_subject[key].append(row)
    usual = median(map(len, of_subject.values())) if len(of_subject) > 1 else 0
    for members in of_subject.values():
        conditions = len({row.abbreviation for row in members})
        several = conditions > 1 and len(members) > max(2, 2 * usual)
        if several or 2 * len(members) > max(len(rows), 7):
            subject = members[0].values["subject_id"]
            under = counted(conditions, "condition")
            reason = f"subject {subject} has {counted(len(members), 'photograph')} under {under}, of {len(rows)} in all"
            remedy = (
                f"kept as one; if it means not known, leave the cells empty or add --null_values subject_id={subject}"
            )
            problems.append(members[0].problem("subject_id", "note", reason, remedy))
