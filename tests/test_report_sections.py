"""Sections of a report: every way to write headings is understood, odd reports are flagged, and nothing raises."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reporting import report_sections
from reporting.report_sections import COLUMNS, PROMPT, SECTIONS, json_schema, parse_sections, without_suggestion

TEXTS = {
    "overall_impression": "A long face.",
    "left_eye": "Downslanted palpebral fissure.",
    "right_eye": "No epicanthus.",
    "nose": "Wide nasal bridge: flat, too.",
    "mouth_lips": "Thin upper lip - and a long philtrum.",
    "diagnostic_suggestion": "Noonan syndrome.",
}
STYLES = {
    "plain": "{heading}: {text}\n",
    "next line": "{heading}:\n{text}\n\n",
    "bold with the colon": "**{heading}:** {text}\n\n",
    "bold before the colon": "**{heading}**: {text}\n",
    "bold alone": "**{heading}**\n{text}\n",
    "underscores": "__{heading}__ {text}\n",
    "Markdown": "## {heading}\n\n{text}\n\n",
    "Markdown and bold": "### **{heading}**\n- {text}\n",
    "numbered": "1. {heading} - {text}\n",
    "numbered and bold": "2. **{heading}:** {text}\n",
    "numbered Markdown": "### 3. {heading}\n{text}\n",
    "bullets": "- {heading}: {text}\n",
    "bullets and bold": "* **{heading}**: {text}\n",
    "quoted": "> {heading}: {text}\n",
    "dash": "{heading} – {text}\n",
    "Windows": "{heading}:\r\n{text}\r\n",
    "one line": "{heading}: {text} ",
    "HTML": "<h3>{heading}</h3><p>{text}</p>",
    "capitals": "{HEADING}: {text}\n",
}


@pytest.mark.parametrize("style", STYLES)
def test_the_six_sections_are_found_in_every_style(style):
    report = "".join(
        STYLES[style].format(heading=SECTIONS[name], HEADING=SECTIONS[name].upper(), text=text)
        for name, text in TEXTS.items()
    )
    sections, flags = parse_sections(report)
    assert sections == TEXTS | {"other_findings": None}
    assert flags == (("markup",) if style == "HTML" else ())


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "Here is the report:\n{}\nI hope this helps."])
@pytest.mark.parametrize("key", [lambda name: SECTIONS[name], lambda name: name, lambda name: SECTIONS[name].lower()])
def test_json_answers_are_understood_whole_wrapped_and_nested(key, fence):
    answer = {key(name): text for name, text in TEXTS.items()}
    for value in (answer, {"report": answer}, {name: [text] for name, text in answer.items()}):
        sections, flags = parse_sections(fence.replace("{}", json.dumps(value, indent=1)))
        assert (sections, flags) == (TEXTS | {"other_findings": None}, ())
    sections, flags = parse_sections(json.dumps(answer)[:112])  # cut off within the third text
    assert sections["left_eye"] == TEXTS["left_eye"] and sections["nose"] is None and flags == ("missing_sections",)
    assert parse_sections(json.dumps({"Nose": {"Bridge": "wide", "Tip": ["round"]}}))[0]["nose"] == (
        "Bridge: wide. Tip: round"
    )


@pytest.mark.parametrize(
    ("heading", "column"),
    [("The Left Eye", "left_eye"), ("Right Eye (patient's own right)", "right_eye"), ("Mouth & Lips", "mouth_lips"),
     ("Mouth / Lips", "mouth_lips"), ("Lips and mouth", "mouth_lips"), ("Lips", "mouth_lips"),
     ("Prediction of Potential Disease", "diagnostic_suggestion"), ("Differential diagnosis", "diagnostic_suggestion"),
     ("Nasal region", "nose"), ("Overall impression", "overall_impression"), ("Ears", "other_findings"),
     ("Forehead and hairline", "other_findings")],
)  # fmt: skip
def test_other_spellings_of_headings_fill_the_same_columns(heading, column):
    sections, _ = parse_sections(f"Nose: first.\n{heading}: found here.\nNose: last.")
    expected = "Ears: found here.|Forehead and hairline: found here." if column == "other_findings" else "found here."
    assert sections[column] in expected.split("|") or sections[column] == "first. found here. last."
    assert {name for name, text in sections.items() if text} == {"nose", column}


def test_a_heading_for_both_eyes_fills_both_and_other_headings_are_kept_with_their_names():
    report = "Eyes: Hypertelorism.\nEars: Low-set ears.\nJaw: No micrognathia.\nDiagnosis: Noonan."
    sections, flags = parse_sections(report)
    assert sections["left_eye"] == sections["right_eye"] == "Hypertelorism."
    assert sections["other_findings"] == "Ears: Low-set ears.\nJaw: No micrognathia."
    assert flags == ("missing_sections",)
    assert without_suggestion(report) == "Eyes: Hypertelorism.\nEars: Low-set ears.\nJaw: No micrognathia."


def test_what_stands_below_a_heading_stays_there():
    report = "**Nose:**\n- **Bridge:** wide\n- Tip: bulbous\nNote the length: short.\n**Ears:** low\n**Left Eye:** x"
    sections, _ = parse_sections(report)
    assert sections["nose"] == "Bridge: wide Tip: bulbous Note the length: short."
    assert sections["other_findings"] == "Ears: low" and sections["left_eye"] == "x"
    below_markdown = parse_sections("## Nose\n**Bridge:** wide\n## Ears\nlow\n---\n## Left Eye\nx")[0]
    assert below_markdown["nose"] == "Bridge: wide" and below_markdown["other_findings"] == "Ears: low"


def test_what_comes_before_the_first_heading_is_kept_unless_it_only_announces():
    assert parse_sections("Certainly, this is the report:\n\nNose: wide.")[0]["other_findings"] is None
    assert parse_sections("The ears are low-set.\nNose: wide.")[0]["other_findings"] == "The ears are low-set."
    assert without_suggestion("The ears are low-set. I suspect Noonan.") == "The ears are low-set. I suspect Noonan."
    assert without_suggestion("Diagnosis: Noonan syndrome with hypertelorism") == ""


@pytest.mark.parametrize(
    ("report", "flags"),
    [(None, ("empty",)), ("", ("empty",)), (" \n\t ", ("empty",)), ("{ } ** --", ("empty",)),
     ("I cannot help with photographs of people.", ("no_sections",)),
     ("这张脸很正常，没有明显的异常发现。", ("no_sections", "not_english")),
     ("Das Gesicht ist schmal und die Nase ist breit mit einer flachen Wurzel.", ("no_sections", "not_english")),
     ("La cara es larga y los ojos de la niña no son normales.", ("no_sections", "not_english")),
     ("Nose: wide.\nNose: flat.", ("missing_sections", "repeated_section")),
     ("<b>Nose:</b> <script>alert(1)</script> wide &amp; flat", ("markup", "missing_sections")),
     ("word " * 10_000, ("long", "no_sections"))],
)  # fmt: skip
def test_odd_reports_are_flagged(report, flags):
    assert parse_sections(report)[1] == flags


def test_a_joined_or_cleaned_text_is_what_a_reader_would_read():
    assert parse_sections("Nose: wide.\nNose: flat.")[0]["nose"] == "wide. flat."
    assert parse_sections("<b>Nose:</b> <i>wide</i> &amp; `flat`, **short**")[0]["nose"] == "wide & flat, short"


def test_short_or_terse_english_is_not_taken_for_another_language():
    for text in ("Hypertelorism, ptosis.", "Wide nasal bridge; thin upper lip; low-set ears; long philtrum; ptosis."):
        assert report_sections.is_english(text)


PIECES = [
    "Nose",
    "**",
    "#",
    ":",
    "\n",
    "- ",
    "{",
    "}",
    '"',
    "\\",
    "<b>",
    "<",
    "Left Eye",
    " ",
    "1.",
    "a",
    "(",
    "é",
    "眼",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=200))
@example('{"a":' * 20_000)
@example('"a":"' * 10_000)
@example("{" + '"a":"b' * 8_000)
@example("<a" * 25_000)
@example("**" * 25_000)
@example("\n- " * 16_000)
@example("Nose: " * 8_000)
@example("- " * 25_000 + "Nose: x")
@example(" " * 50_000 + "x")
@example("<script>" * 6_000)
def test_no_report_is_a_crash_and_columns_are_always_the_same(report):
    sections, flags = parse_sections(report)
    assert tuple(sections) == COLUMNS and list(flags) == sorted(set(flags))
    assert all(text is None or text.strip() for text in sections.values())
    without_suggestion(report)


def test_the_prompt_asks_for_the_sections_and_the_schema_requires_them():
    assert all(f"{heading}:" in PROMPT for heading in SECTIONS.values())
    assert json_schema()["required"] == list(SECTIONS.values())
    assert report_sections.prompt_sha256() != report_sections.prompt_sha256(PROMPT + report_sections.RETRY_SUFFIX)
