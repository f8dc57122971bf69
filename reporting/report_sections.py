"""The sections of a phenotype report: how a reporter is asked for them, and how they are found in its answer.

    sections, flags = parse_sections(answer)
    sections["nose"]            # the text under the heading Nose, or None

The sections are the paper's (arXiv 2604.03454). Answers come as plain text, as Markdown or as JSON, with other
spellings of the headings, and with further headings. Whatever is odd about an answer becomes a flag; nothing raises.
"""

import hashlib
import html
import json
import re
from collections import Counter

from harness.text_normalization import plain
from reporting.markup import without_hidden

SECTIONS = {  # column -> heading
    "overall_impression": "Overall Impression",
    "left_eye": "Left Eye",
    "right_eye": "Right Eye",
    "nose": "Nose",
    "mouth_lips": "Mouth/Lips",
    "diagnostic_suggestion": "Diagnostic Suggestion",
}
OTHER_FINDINGS = "other_findings"  # the column of all text under other headings, each line begun by its heading
COLUMNS = (*SECTIONS, OTHER_FINDINGS)

PROMPT = """You are a clinical geneticist who examines the face of a patient on this photograph.
Write a concise dysmorphology report with exactly these headings, each followed by a colon and one to three sentences:

Overall Impression:
Left Eye:
Right Eye:
Nose:
Mouth/Lips:
Diagnostic Suggestion:

Left and right are the patient's own sides. Name findings by terms of the Human Phenotype Ontology. Say in words which
findings are absent, and say so if a part of the face cannot be seen. Under Diagnostic Suggestion, name the condition
that explains the findings best. Write English, in plain text, and nothing before or after the report."""
# The second attempt after a malformed answer asks for the same, more narrowly.
RETRY_SUFFIX = """

Begin with "Overall Impression:" and write all six headings, each once, each on a line of its own. Stop after the
sentence under Diagnostic Suggestion."""

# The flags that parse_sections raises. Each but MARKUP, LONG and REPEATED makes an answer malformed.
EMPTY = "empty"  # no letter or digit
NO_SECTIONS = "no_sections"  # none of the headings is there
MISSING_SECTIONS = "missing_sections"  # some of the headings are not there, or have no text
REPEATED_SECTION = "repeated_section"  # a heading comes more than once; its texts were joined
NOT_ENGLISH = "not_english"
MARKUP = "markup"  # HTML tags, which the sections leave out
LONG = "long"  # more than LONG_CHARACTERS
MALFORMED = frozenset({EMPTY, NO_SECTIONS, MISSING_SECTIONS, NOT_ENGLISH})

LONG_CHARACTERS = 10_000  # 1024 tokens of English are about 5,000
MAX_HEADING_WORDS = 6
PLAIN_DEPTH = 8  # of a heading without marks; Markdown's are 1 to 6, bold ones 7, and bulleted ones 10 deeper
FEWEST_WORDS = 8  # with fewer words, a text's language is not judged
NON_LATIN_SHARE = 0.3  # of the letters; a text with more of other scripts is not English

# Other spellings, as _heading_key writes them; "eyes" is the text of both eyes.
_SPELLINGS = {
    "overall_impression": "overall impression|overall|impression|overall facial impression|general impression|"
    "general appearance|overall appearance|overall facial appearance|facial gestalt|whole face|overall assessment",
    "left_eye": "left eye|eye left|left eye region",
    "right_eye": "right eye|eye right|right eye region",
    "eyes": "eyes|eye|both eyes|left and right eye|left and right eyes|right and left eye|right and left eyes|"
    "eye region|ocular region|periorbital region|eyes and periorbital region",
    "nose": "nose|nasal region|nasal features",
    "mouth_lips": "mouth and lips|mouth|lips|lips and mouth|mouth lips|lip|oral region|perioral region|mouth region",
    "diagnostic_suggestion": "diagnostic suggestion|diagnostic suggestions|diagnosis|suggested diagnosis|"
    "suggested diagnoses|diagnostic impression|possible diagnosis|possible diagnoses|potential diagnosis|"
    "differential diagnosis|differential diagnoses|prediction of potential disease|prediction of potential diseases|"
    "potential disease|predicted disease|disease prediction|prediction",
}
_COLUMN_OF = {spelling: column for column, text in _SPELLINGS.items() for spelling in text.split("|")}

_TAG = re.compile(r"</?[A-Za-z][^<>]{0,500}>|<!--")
_BLOCK_TAG = re.compile(r"</?(?:p|br|li|ul|ol|div|h[1-6]|tr|table)\b[^<>]{0,500}>", re.IGNORECASE)
# An indented or bulleted line, a Markdown heading, emphasis, the heading's words, a separator, the rest of the line.
_LINE = re.compile(
    r"(?P<indent>[ \t>]*(?:[-*+•][ \t]+)?)(?P<number>\(?\d{1,2}[.):][ \t]*)?(?P<hashes>\#{1,6}[ \t]*)?"
    r"(?P<number2>\d{1,2}[.)][ \t]*)?(?P<strong>\*\*|__|\*|_)?(?P<words>[^\W\d_](?:[^:\n*_#]{0,58}?[^\s:*_#])??)[ \t]*"
    r"(?P<separator>:(?:\*\*|__|\*|_)?|(?:\*\*|__|\*|_)[ \t]*:?|[ \t][-–—](?=[ \t])|(?=\r?$))(?P<rest>.*)",
    re.ASCII,
)
_KNOWN_WORDS = "|".join(
    re.escape(heading) for heading in [*SECTIONS.values(), "Eyes", "Prediction of Potential Disease"]
)
_WITHIN_LINE = re.compile(rf"(?<=[^\d\s][.;!?])[ \t]+(?=(?:\*\*)?(?:{_KNOWN_WORDS})(?:\*\*)?:)")
_JSON_PAIR = re.compile(r'"([^"\\\n]{1,80})"\s{0,20}:\s{0,20}"((?:[^"\\]|\\.)*)')
_WORDS_OF = {
    "English": "the and is are of with no a there not or an in to appears which has both this",
    "others": "der die und ist mit ein eine nicht das el la los las y es con una de del que no le les et est une des "
    "du avec pas il lo gli e un di sono con non o os um uma com não dos och är med inte en het een van zijn niet si nu "
    "są w jest nie ve bir ile",
}  # "no" and "a" are words of several languages and count for each
_WORDS_OF = {language: frozenset(words.split()) for language, words in _WORDS_OF.items()}


def prompt_sha256(prompt: str = PROMPT) -> str:
    """The digest of a prompt, 64 hexadecimal digits, by which reports to one prompt are known."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def json_schema() -> dict:
    """The JSON schema of a report, for servers that can hold a model to one; the keys are the headings."""
    keys = list(SECTIONS.values())
    return {
        "type": "object",
        "properties": {key: {"type": "string", "maxLength": 1500} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }


def parse_sections(report: str | None) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """The text of each section of a report, and what is odd about the report.

    Returns (column -> text) for all COLUMNS, None without such text, and flags in alphabetical order. Texts are in one
    line, without Markdown and HTML. A heading Eyes fills both eyes alike; a heading that comes twice joins its texts;
    text before the first heading is OTHER_FINDINGS unless it only announces the report, by ending with a colon. Never
    raises, whatever the report holds."""
    report = report or ""
    flags = set()
    if len(report) > LONG_CHARACTERS:
        flags.add(LONG)
    if _TAG.search(report):
        flags.add(MARKUP)
        report = without_hidden(report)
    if not is_english(report):
        flags.add(NOT_ENGLISH)
    if not any(character.isalnum() for character in report):
        return dict.fromkeys(COLUMNS), tuple(sorted(flags | {EMPTY}))
    pairs = _json_pairs(report)
    if not any(_column_of(heading) for heading, _ in pairs):
        pairs = _text_pairs(_WITHIN_LINE.sub("\n", _TAG.sub("", _BLOCK_TAG.sub("\n", report))))
    texts: dict[str, list[str]] = {}
    seen = Counter()
    for heading, text in pairs:
        text, column = _one_line(text), _column_of(heading)
        if not text:
            continue
        seen[_heading_key(heading)] += column is not None
        if column is None:
            texts.setdefault(OTHER_FINDINGS, []).append(f"{_one_line(heading)}: {text}" if heading else text)
        for name in ("left_eye", "right_eye") if column == "eyes" else (column,) if column else ():
            texts.setdefault(name, []).append(text)
    if not set(texts) & set(SECTIONS):
        return dict.fromkeys(COLUMNS), tuple(sorted(flags | {NO_SECTIONS}))
    if not set(SECTIONS) <= set(texts):
        flags.add(MISSING_SECTIONS)
    if any(count > 1 for count in seen.values()):
        flags.add(REPEATED_SECTION)
    joints = dict.fromkeys(COLUMNS, " ") | {OTHER_FINDINGS: "\n"}
    sections = {name: joints[name].join(texts[name]) if name in texts else None for name in COLUMNS}
    return sections, tuple(sorted(flags))


def without_suggestion(report: str | None) -> str:
    """A report's text without its diagnostic suggestion: the findings alone. Without any heading, the whole report.

    A suggestion explains findings, and may name some that the face does not show."""
    sections, _ = parse_sections(report)
    found = {SECTIONS.get(name): text for name, text in sections.items() if text}
    if not found:
        return report or ""
    found.pop(SECTIONS["diagnostic_suggestion"], None)
    if found.get("Left Eye") == found.get("Right Eye"):  # most often from a heading Eyes
        found = {("Eyes" if name == "Left Eye" else name): text for name, text in found.items() if name != "Right Eye"}
    return "\n".join(f"{heading}: {text}" if heading else text for heading, text in found.items())


def is_english(text: str) -> bool:
    """Whether a text may be English: written in Latin letters, and without more of other languages' common words.

    A text of fewer than FEWEST_WORDS words passes in any Latin script."""
    text = text[:LONG_CHARACTERS]
    letters = [character for character in text if character.isalpha()]
    if letters and sum(character > "\u024f" for character in letters) > NON_LATIN_SHARE * len(letters):
        return False
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    if words.total() < FEWEST_WORDS:
        return True
    common = {language: sum(words[word] for word in of) for language, of in _WORDS_OF.items()}
    return common["others"] <= common["English"]


def _column_of(heading: str) -> str | None:
    """The column of a heading, `eyes` for both eyes, or None for a heading of other findings."""
    return _COLUMN_OF.get(_heading_key(heading))


def _heading_key(heading: str) -> str:
    """A heading in one spelling: lower case, without remarks in brackets; / and & are "and"."""
    text = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", " ", plain(heading.replace("_", " ")))
    words = re.sub(r"[/&+,]", " and ", text)
    return " ".join(re.sub(r"[^\w\s]", " ", words).split()).removeprefix("the ")


def _one_line(text: str) -> str:
    """Text without tags, Markdown marks and line breaks."""
    text = html.unescape(_TAG.sub(" ", text))
    text = re.sub(r"^[ \t>]*(?:[-*+•][ \t]+|\#{1,6}[ \t]*|(?:[-_*=][ \t]*){3,}$)", "", text, flags=re.MULTILINE)
    return " ".join(re.sub(r"\*+|__+|`+", "", text).split())


def _json_pairs(report: str) -> list[tuple[str, str]]:
    """Keys and texts of an answer in JSON, also of one that was cut off; empty if there is none."""
    start, end = report.find("{"), report.rfind("}")
    if start < 0:
        return []
    try:
        answer = json.loads(report[start : end + 1])
    except (ValueError, RecursionError):
        pairs = _JSON_PAIR.findall(report[start:])
        return [(key, text.replace("\\n", "\n").replace('\\"', '"')) for key, text in pairs]
    while isinstance(answer, dict) and len(answer) == 1:  # {"report": {...}}
        ((key, inner),) = answer.items()
        if _column_of(str(key)) or not isinstance(inner, dict):
            break
        answer = inner
    return [(str(key), _flat(value)) for key, value in answer.items()] if isinstance(answer, dict) else []


def _flat(value: object, depth: int = 0) -> str:
    """The texts within a JSON value in one; keys are kept, as "Shape: almond"."""
    if isinstance(value, dict) and depth < 5:
        return ". ".join(f"{key}: {_flat(part, depth + 1)}" for key, part in value.items())
    if isinstance(value, list) and depth < 5:
        return ". ".join(_flat(part, depth + 1) for part in value)
    return "" if value is None else str(value)


def _text_pairs(report: str) -> list[tuple[str, str]]:
    """Headings and texts of an answer in plain text or Markdown; the heading of what comes before the first is empty.

    An unknown heading begins a section only if it looks like the known ones: marked as strongly and, unless it is
    Markdown, with text in its line if they have some. "- Shape: almond" below "Nose:" is text of the nose."""
    pairs: list[tuple[str, list[str]]] = [("", [])]
    last_known = None  # depth of the last known heading, and whether text follows in its line
    for line in report.splitlines():
        heading = _heading_of(line)
        if heading is not None:
            words, depth, rest = heading
            known, has_text = _column_of(words) is not None, bool(rest.strip())
            alike = last_known is None or (
                depth <= last_known[0] and (depth < PLAIN_DEPTH or has_text == last_known[1])
            )
            if known or alike:
                last_known = (depth, has_text) if known else last_known
                pairs.append((words, [rest]))
                continue
        pairs[-1][1].append(line)
    announcement = " ".join(pairs[0][1]).strip().rstrip("*_ ")
    if announcement.endswith(":"):
        pairs[0] = ("", [])
    return [(heading, "\n".join(lines)) for heading, lines in pairs]


def _heading_of(line: str) -> tuple[str, int, str] | None:
    """The words of a line's heading, its depth (a smaller one is stronger), and the rest of the line; None without."""
    match = _LINE.match(line[:2000])
    if match is None:
        return None
    words, separator = match["words"].strip(), match["separator"]
    rest = match["rest"] + line[2000:]
    known = _column_of(words) is not None
    marked = bool(match["hashes"] or match["strong"])
    if not known:
        # An ordinary sentence may hold a colon or a dash; a heading has few words, of which the first is capitalised.
        closed = ":" in separator or (marked and not rest.strip())
        if not closed or len(words.split()) > MAX_HEADING_WORDS or not words[0].isupper():
            return None
    elif not separator and not marked and words[0].islower():
        return None  # a line that is no more than the word "nose"
    depth = len(match["hashes"].strip()) if match["hashes"] else 7 if match["strong"] else PLAIN_DEPTH
    indent = match["indent"].replace("\t", "    ").replace(">", "")
    return words, depth + (10 + len(indent) if indent.strip() or len(indent) > 1 else 0), rest
