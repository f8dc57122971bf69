"""The page of report pairs: which terms are marked how, on both sides; what is escaped, folded and left out."""

import functools
import re
import stat
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from pages import reports_page
from pages.reports_page import AGREES, ALONE, CONFLICTS, Piece
from reporting.report_dataset import Reports, report_row
from reporting.report_terms import ReportTerms
from reporting.term_similarity import TermSpace

TAIL = "\nDiagnostic Suggestion: None."
REAL = {
    "AAR.1": "Overall Impression: Long face.\nEyes: Hypertelorism.\nNose: Wide nose.\nMouth/Lips: Normal.",
    "AAR.2": "Overall Impression: Long face.\nEyes: Telecanthus.\nNose: Short nose.\nMouth/Lips: Long philtrum.",
    "BBS.1": "Overall Impression: Round face.\nEyes: Ptosis.\nNose: Short nose.\nMouth/Lips: Wide mouth.",
}
SYNTHETIC = {
    "AAR-s": "Overall Impression: No long face.\nEyes: Hypertelorism.\nNose: Ears covered.\nMouth/Lips: Wide mouth.",
    "BBS-s": "Overall Impression: Round face.\nEyes: No ptosis.\nNose: Long nose.\nMouth/Lips: Wide mouth.",
}


def reports(id_column: str, texts: dict[str, str], source_type: str = "simulated") -> Reports:
    rows = []
    for name, text in texts.items():
        label = name[:3]
        picture = {id_column: name, "label": label, "disease_name": f"{label} syndrome"}
        picture |= {"source_type": source_type} if id_column == "image_id" else {}
        rows.append(report_row(picture, text + TAIL, "landmarks", None))
    return Reports.of(rows, ["AAR", "BBS", "CCC"])


PAIRS = pa.table(
    {
        "real_id": ["AAR.1", "AAR.2", "BBS.1"],
        "synthetic_id": ["AAR-s", "AAR-s", "BBS-s"],
        "disease_abbr": ["AAR", "AAR", "BBS"],
        "findings/ontology": [0.75, 0.25, 0.5],
        "findings/tfidf": [0.11, None, float("nan")],
        "nose/ontology": [0.33, 0.44, None],
    }
)
MATRIX = np.array([[0.5, 0.125, np.nan], [0.875, 0.375, np.nan], [np.nan] * 3])


@functools.cache
def usual_page() -> str:
    return page(reports("image_id", REAL))


def page(real=None, synthetic=None, pairs=PAIRS, matrix=MATRIX) -> str:
    real = reports("image_id", REAL) if real is None else real
    synthetic = reports("synthetic_id", SYNTHETIC) if synthetic is None else synthetic
    return reports_page.reports_page(pairs, real, synthetic, matrix, ["AAR", "BBS", "CCC"])


class Marks(HTMLParser):
    """The marked texts of a page's pairs: (article, column, class, text); checks that tags are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.found, self.texts, self.addresses, self.article, self.column = [], [], [], [], "", 0
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag in ("meta", "col", "img"):
            return
        self.column = {"tr": 0, "td": self.column + 1}.get(tag, self.column)
        self.open.append((tag, dict(attrs).get("class")))
        if self.open[-1][1] in (AGREES, CONFLICTS, ALONE):
            self.found.append([self.article, self.column, self.open[-1][1], ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        tags = [tag for tag, _ in self.open]
        if tags and tags[-1] == "h3":
            self.article = text
        if any(kind in (AGREES, CONFLICTS, ALONE) for _, kind in self.open) and self.article:
            self.found[-1][3] += text
        self.texts.append(text)

    def of(self, real_id: str) -> list[tuple]:
        return [tuple(rest) for article, *rest in self.found if real_id in article]


def test_a_term_of_which_both_say_the_same_is_marked_in_both_reports():
    marks = Marks(usual_page()).of("AAR.1")
    assert [(column, text) for column, kind, text in marks if kind == AGREES] == [
        (1, "agrees: Hypertelorism"),
        (2, "agrees: Hypertelorism"),
    ]


def test_a_term_that_is_present_here_and_absent_there_is_a_conflict_in_both_reports_and_says_so_in_words():
    marks = [mark for mark in Marks(usual_page()).of("AAR.1") if mark[1] == CONFLICTS]
    long_face = [(column, text) for column, _, text in marks if "ong face" in text]
    assert [column for column, _ in long_face] == [1, 2]
    assert (
        long_face[0][1].startswith("✗ Long face")
        and "(conflict: Long face present here, absent there)" in long_face[0][1]
    )
    assert "(conflict: Long face absent here, present there)" in long_face[1][1]


def test_a_normal_region_conflicts_with_a_finding_of_that_region():
    marks = [
        text for column, kind, text in Marks(usual_page()).of("AAR.1") if kind == CONFLICTS and "Wide mouth" in text
    ]
    assert len(marks) == 2 and "✗ Normal" in marks[0] and "Wide mouth absent here, present there" in marks[0]


def test_terms_of_one_report_only_are_neutral():
    marks = Marks(usual_page()).of("AAR.1")
    assert (1, ALONE, "only here: Wide nose") in marks
    assert not [mark for mark in marks if "Wide nose" in mark[2] and mark[1] != ALONE]


LONG_NOSE, SHORT_NOSE, WIDE_NOSE, NOSE_SHAPE = "HP:0003189", "HP:0003196", "HP:0000445", "HP:0005105"


@pytest.mark.parametrize(
    ("one", "other", "kinds", "conflicts"),
    [
        (([LONG_NOSE], []), ([LONG_NOSE], []), ({LONG_NOSE: AGREES}, {LONG_NOSE: AGREES}), []),
        (([], [LONG_NOSE]), ([], [LONG_NOSE]), ({LONG_NOSE: AGREES}, {LONG_NOSE: AGREES}), []),
        (([LONG_NOSE], []), ([], [LONG_NOSE]), ({LONG_NOSE: CONFLICTS}, {LONG_NOSE: CONFLICTS}), ["Long nose"]),
        (([], [LONG_NOSE]), ([LONG_NOSE], []), ({LONG_NOSE: CONFLICTS}, {LONG_NOSE: CONFLICTS}), ["Long nose"]),
        (([LONG_NOSE], []), ([WIDE_NOSE], []), ({LONG_NOSE: ALONE}, {WIDE_NOSE: ALONE}), []),
        (
            ([LONG_NOSE], []),
            ([SHORT_NOSE], []),
            ({LONG_NOSE: CONFLICTS}, {SHORT_NOSE: CONFLICTS}),
            ["Long nose against Short nose"],
        ),
        (
            ([LONG_NOSE], []),
            ([], [NOSE_SHAPE]),  # an ancestor
            ({LONG_NOSE: CONFLICTS}, {NOSE_SHAPE: CONFLICTS}),
            ["Abnormal nasal morphology against Long nose"],
        ),
        (([NOSE_SHAPE], []), ([], [LONG_NOSE]), ({NOSE_SHAPE: ALONE}, {LONG_NOSE: ALONE}), []),  # not the other way
    ],
)
def test_comparison_of_reports(one, other, kinds, conflicts):
    space = TermSpace.of([LONG_NOSE, SHORT_NOSE, WIDE_NOSE, NOSE_SHAPE])
    two = [ReportTerms(tuple(present), tuple(absent), ("HP:0000508",)) for present, absent in (one, other)]
    marks, found = reports_page.compared(*two, space)
    assert tuple({hpo_id: mark.kind for hpo_id, mark in own.items()} for own in marks) == kinds
    assert found == conflicts


def test_a_conflict_of_opposites_names_both():
    marks = [text for _, kind, text in Marks(usual_page()).of("BBS.1") if kind == CONFLICTS and "nose" in text]
    assert marks == [
        "✗ Short nose (conflict: Short nose present here, Long nose present there)",
        "✗ Long nose (conflict: Long nose present here, Short nose present there)",
    ]


def test_pieces_together_are_the_text_whatever_it_holds():
    texts = ["", "Hypertelorism", "wide, short nose; no epicanthus\n\nlow-set ears", "<b>ptosis</b> & é 😀 wide nose"]
    marks = {WIDE_NOSE: Piece("", AGREES, "a"), SHORT_NOSE: Piece("", CONFLICTS, "b"), "HP:0000508": Piece("", ALONE)}
    for text in texts:
        pieces = reports_page.marked_text("Nose", text, marks)
        assert "".join(piece.text for piece in pieces) == text
    pieces = reports_page.marked_text("Nose", texts[2], marks)
    assert [piece for piece in pieces if piece.kind] and not [piece for piece in pieces if piece.kind == ALONE]
    assert {piece.terms for piece in pieces if piece.kind == CONFLICTS} == {"b"}


def test_reports_are_escaped_and_nothing_is_loaded():
    real = reports("image_id", REAL)
    real.columns["nose"][0] = "<script src=https://evil.example/x.js></script> \"' wide nose & <img src=x onerror=y>"
    html = page(real)
    assert "<script" not in html and "&lt;script src=https://evil.example/x.js&gt;" in html
    addresses = Marks(html).addresses
    assert addresses and all(one.startswith(("#condition-", "data:image/png;base64,")) for one in addresses)
    assert "default-src 'none'" in html and "url(" not in html and "@import" not in html


def test_the_style_is_the_one_that_the_policy_allows():
    html = usual_page()
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    assert f"style-src '{reports_page.digest(style)}'" in html.replace("&#39;", "'")


def test_long_texts_are_folded_and_whole():
    long_text = "A wide nose is seen. " * 2500
    html = page(reports("image_id", REAL | {"AAR.1": f"Overall Impression: Long face.\nNose: {long_text}"}))
    assert html.count("<details>") == 2  # the heat map's numbers, and this text
    assert "52,499 characters; open to read" in html
    assert "".join(Marks(html).texts).count("wide nose") == 2500


def test_a_report_without_sections_is_shown_whole():
    row = report_row({"image_id": "AAR.1", "label": "AAR", "disease_name": None}, "The eyes are wide set", "x", None)
    html = page(Reports.of([row], ["AAR", "BBS", "CCC"]), pairs=PAIRS.slice(0, 1))
    assert ">Whole report<" in html and (1, ALONE, "only here: eyes are wide set") not in Marks(html).of("AAR.1")
    assert [mark[1] for mark in Marks(html).of("AAR.1") if mark[0] == 1] == [AGREES]


def test_simulated_is_said_if_it_is_so_and_only_then():
    assert (
        "SIMULATED data" in usual_page()
        and "<title>Phenotype reports, real and synthetic (simulated)</title>" in usual_page()
    )
    html = page(reports("image_id", REAL, "journal"))
    assert "imulated" not in html and "SIMULATED" not in html and "Descriptions of patients" in html


def test_pairs_are_the_best_the_median_and_the_worst_and_each_is_shown_once():
    values = [0.1, None, 0.9, 0.5, float("nan"), 0.3, 0.7]
    assert reports_page.chosen_pairs(range(7), values) == {"most similar": 2, "median": 3, "least similar": 0}
    assert reports_page.chosen_pairs([0, 2], values) == {"most similar": 2, "least similar": 0}
    assert reports_page.chosen_pairs([5], values) == {"most similar": 5}
    assert reports_page.chosen_pairs([1, 4], values) == {}


def test_similarities_and_every_condition_are_on_the_page():
    html = usual_page()
    assert "ontology of findings 0.75, tfidf of findings 0.11." in html
    assert "ontology of findings 0.25, tfidf of findings –." in html
    assert re.findall(r'Nose <small><span class="hidden">similarity </span>(.*?)</small>', html) == ["0.33", "0.44"]
    assert re.findall(r'<h2 id="condition-\d+">(.*?) <small>', html) == ["AAR syndrome", "BBS syndrome", "CCC"]
    assert "No pair of this condition" in html


def test_a_table_without_any_similarity_shows_no_pair_rather_than_fails():
    html = page(pairs=PAIRS.select(["real_id", "synthetic_id", "disease_abbr"]), matrix=np.full((3, 3), np.nan))
    assert html.count("No pair of this condition") == 3 and "<article>" not in html


def test_the_headline_stands_above_the_pairs_and_only_if_there_is_one():
    sides = reports("image_id", REAL), reports("synthetic_id", SYNTHETIC)
    with_line = reports_page.reports_page(PAIRS, *sides, MATRIX, ["AAR", "BBS", "CCC"], None, "AUC 0.7 <b>")
    assert "SIMULATED: AUC 0.7 &lt;b&gt;." in with_line and 'id="headline"' not in usual_page()
    assert with_line.index("AUC 0.7") < with_line.index("<article>")


def test_ranks_of_the_matrix():
    first, second, third = reports_page.ranks(MATRIX, ["AAR", "BBS", "CCC"])
    assert first == {"own": 0.5, "others": 0.125, "nearest": ("BBS", 0.125), "rank": 1, "n_ranked": 2}
    assert second == {"own": 0.375, "others": 0.875, "nearest": ("AAR", 0.875), "rank": 2, "n_ranked": 2}
    assert third == {"own": None, "others": None, "nearest": None, "rank": None, "n_ranked": 1}


def test_synthetic_images_of_one_name_are_told_apart_by_their_fold():
    texts = [SYNTHETIC["AAR-s"], "Overall Impression: Normal.\nEyes: Ptosis.\nNose: Normal.\nMouth/Lips: Normal."]
    rows = [
        report_row({"synthetic_id": "AAR-s", "label": "AAR", "generator": "g", "fold": fold}, text, "x", None)
        for fold, text in enumerate(texts)
    ]
    both = Reports.of(rows, ["AAR", "BBS", "CCC"])
    pairs = PAIRS.slice(0, 2)
    with pytest.raises(ValueError, match="2 reports on AAR-s"):
        page(synthetic=both, pairs=pairs)
    html = page(synthetic=both, pairs=pairs.append_column("fold", pa.array([1, 1])))
    assert "Ptosis" in html and "No long face" not in html
    with pytest.raises(ValueError, match="0 reports on AAR-s"):
        page(synthetic=both, pairs=pairs.append_column("fold", pa.array([1, 7])))


def test_the_file_is_whole_and_for_its_owner_alone(tmp_path):
    file = tmp_path / "pairs.html"
    names = ["AAR", "BBS", "CCC"]
    real, synthetic = reports("image_id", REAL), reports("synthetic_id", SYNTHETIC)
    reports_page.write_page(file, PAIRS, real, synthetic, MATRIX, names)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.read_text(encoding="utf-8").endswith("</html>")
    with pytest.raises(ValueError, match="matrix is"):
        reports_page.write_page(file, PAIRS, real, synthetic, MATRIX[:2], names)


def test_tables_have_headers_and_the_picture_an_alternative():
    html = usual_page()
    assert html.count('scope="col"') >= 9 and 'scope="row"' in html and 'alt="Heat map of simulated data' in html
    assert "max-width: 700px" in html and '<html lang="en">' in html
