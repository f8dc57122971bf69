"""make_report.py study: one page of a whole study, its numbers and its leaderboard. All data here are SIMULATED, or
painted."""

import html.parser
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import browser
import numpy as np
import pandas as pd
import pytest
import small_datasets
from in_process import exit_status
from small_study import N_CONDITIONS, N_IMAGES, small_study
from test_metrics import as_table

import make_report
import publish_dataset
from curation.opening import load_images
from pages import charts, reports_page, study_images, study_page
from pages.study_classification import percent
from pages.study_results import Classifier, gains_of, headline_of, planned_comparisons
from pages.study_runs import (
    AGREEMENT,
    CLASSIFIER,
    FEW_SHOT,
    FILTER,
    GALLERY,
    GENERATOR,
    OTHER,
    REPORTS,
    Run,
    command_line,
    kind_of,
    open_study,
)
from scoring import leaderboard, run_scores
from scoring.leaderboard import Entry

SECTIONS = ["dataset", "classifiers", "gains", "few-shot", "subgroups", "calibration", "filter", "reports", "gallery"]
SECTIONS = ["summary", *SECTIONS, "methods"]
VOID = {"meta", "img", "link", "br", "input", "col"}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study of eleven runs, with its page, leaderboard and numbers."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    folder.mkdir()
    small_study(folder)
    assert exit_status(make_report, "study", folder) == 0
    return folder


def numbers(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def part_of(text: str, section: str) -> str:
    (found,) = re.findall(rf'<section id="{section}".*?</section>', text, re.DOTALL)
    return found


class Outline(html.parser.HTMLParser):
    """What a screen reader goes by: headings, pictures, tables, links; and whether tags are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.headings, self.open, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_has_every_section_and_can_be_read_by_ear_and_without_a_network(study):
    text, outline = page(study), Outline(page(study))
    assert [attributes["id"] for tag, attributes in outline.tags if tag == "section"] == SECTIONS
    assert '<html lang="en">' in text and 'href="#summary">Skip' in text
    steps = [after - before for before, after in zip(outline.headings, outline.headings[1:], strict=False)]
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1 and max(steps) == 1, "no level is passed over"
    assert [name for name, count in Counter(outline.ids).items() if count > 1] == []
    pictures = [attributes for tag, attributes in outline.tags if tag == "img"]
    assert len(pictures) > 30 and all(len(one["alt"]) > 10 and one["src"].startswith("data:image/") for one in pictures)
    figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figures) >= 14 and all("<table" in one and "<h3>Figure " in one for one in figures)
    cells = [attributes for tag, attributes in outline.tags if tag == "th"]
    assert all(one.get("scope") for one in cells)
    anchors = {attributes["href"] for tag, attributes in outline.tags if tag == "a"}
    assert anchors == {f"#{name}" for name in SECTIONS}
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in outline.tags} and "://" not in text
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert f"style-src '{reports_page.digest(style)}'" in text.replace("&#39;", "'")
    assert (study / "report.html").stat().st_mode & 0o777 == 0o600


def test_status_captions_and_headlines_say_that_all_is_simulated(study):
    text = page(study)
    assert "<title>RDFace study (SIMULATED)</title>" in text and "<b>SIMULATED data.</b>" in text
    titles = re.findall(r"<h3>Figure \d+\. (.*?)</h3>", text)
    assert len(titles) >= 14 and all(title.startswith("SIMULATED: ") for title in titles)
    assert all(head.startswith("SIMULATED: ") for head in re.findall(r"<li><h3>(.*?)</h3>", text))


def test_the_three_headline_numbers_are_those_of_the_runs_and_stand_first(study):
    found = numbers(study)
    assert next(iter(found)) == "headline" and found["simulated"] is True
    probe, terms = (json.loads((study / name / "results.json").read_text()) for name in ("probe", "probe_terms"))
    first, gain, reports = found["headline"].values()
    assert (first["run"], first["value"]) == ("probe", probe["metrics"]["top1"]["mean"])
    assert (first["low"], first["high"]) == tuple(probe["metrics"]["top1"][name] for name in ("low", "high"))
    gains = {one["run"]: one for one in found["gains"]}
    assert set(gains) == {"probe_terms", "one_shot_terms"} and gains["one_shot_terms"]["base"] == "one_shot"
    difference = terms["metrics"]["top1"]["mean"] - probe["metrics"]["top1"]["mean"]
    assert gains["probe_terms"]["difference"] == pytest.approx(difference)
    assert gain["value"] == max(one["difference"] for one in gains.values()) and gain["chosen_from"] == 2
    auc = json.loads((study / "compared" / "results.json").read_text())["agreement"]["findings"]["ontology"]["auc"]
    assert (reports["value"], reports["low"], reports["high"]) == (auc["mean"], auc["low"], auc["high"])
    said = "\n".join(study_page.headline_lines(found))
    assert said.count("SIMULATED: ") == 3 and f"{100 * first['value']:.1f} %" in said
    summary = part_of(page(study), "summary")
    assert f"{100 * first['value']:.1f} %" in summary and f"{reports['value']:.2f}" in summary


def test_times_and_memory_are_apart_so_that_two_runs_compare_equal(study, tmp_path):
    once, again = tmp_path / "once", tmp_path / "again"
    for folder in (once, again):
        shutil.copytree(study / "probe", folder / "probe")
    record = json.loads((again / "probe" / "run.json").read_text())
    record |= {"wall_s": 12345.0, "peak_memory_bytes": 678}
    (again / "probe" / "run.json").write_text(json.dumps(record))
    assert exit_status(make_report, "study", once) == exit_status(make_report, "study", again) == 0
    first, second = numbers(once), numbers(again)
    assert second["costs"]["probe"]["wall_s"] == 12345.0 != first["costs"]["probe"]["wall_s"]
    del first["costs"], second["costs"]
    assert first == second and "wall_s" not in json.dumps(first) and "205 min 45 s" in part_of(page(again), "methods")


def test_runs_are_known_by_what_their_files_say(study):
    kinds = {run.name: run.kind for run in open_study(study).runs}
    assert kinds == {
        "probe": CLASSIFIER, "probe_terms": CLASSIFIER, "shuffled": CLASSIFIER, "one_shot": CLASSIFIER,
        "one_shot_terms": CLASSIFIER, "episodes": FEW_SHOT, "retrieval": GALLERY, "chosen": FILTER,
        "said/real": REPORTS, "said/synthetic": REPORTS, "compared": AGREEMENT,
    }  # fmt: skip
    assert kind_of({}, {"wall_s": 1}) == OTHER
    (study / "raw").mkdir()
    (study / "raw" / "run.json").write_text('{"wall_s": 1}')  # as a simulation leaves it
    found = open_study(study)
    assert {run.kind for run in found.runs if run.simulated is None} == {OTHER, REPORTS, AGREEMENT}
    for run in found.runs:
        run.simulated = True if run.kind != OTHER else None
    assert study_page.mark_simulated(found, None) is True, "a simulation is no result that the page shows"
    found.runs[0].simulated = False
    assert study_page.mark_simulated(found, None) is False
    shutil.rmtree(study / "raw")
    (study / "half").mkdir()
    (study / "half" / "settings.json").write_text("{}")
    assert open_study(study).unfinished == ["half"]
    shutil.rmtree(study / "half")


def test_the_leaderboard_has_all_runs_and_the_published_rows(study):
    table = (study / "leaderboard.md").read_text(encoding="utf-8")
    for name in ("probe", "one_shot_terms", "episodes", "retrieval"):
        assert f"| {name} |" in table
    assert "published" in table and "15.93 ± 2.34" in table and "| Holm |" in table
    assert "15.93 ± 2.34" in part_of(page(study), "classifiers")


def test_what_no_attack_measured_is_said_once():
    attacks = {"dreambooth": {name: {"not_measured": "too few people"} for name in ("before filtering", "control")}}
    report = {
        "membership_attack": attacks,
        "reasons": ["dreambooth: no membership attack has a result: too few people"],
    }
    assert study_images.attack_blocks(report, "") == []  # the reasons stand above
    (table,) = study_images.attack_blocks(report | {"reasons": []}, "")
    assert table.rows == [["dreambooth, before filtering; dreambooth, control", "not measured: too few people"]]


@pytest.mark.parametrize(("seeds", "said"), [([0], "seed 0."), ([0, 1], "seeds 0, 1.")])
def test_one_seed_is_in_the_singular(seeds, said):
    run = SimpleNamespace(name="faces", record={"adapters": {"WIL": {}}, "seeds": seeds})
    section = study_images.filter_section(SimpleNamespace(of=lambda kind: [run] * (kind == GENERATOR)), "")
    assert section.blocks[0].text == f"faces: 1 adapter; {said}"


def test_what_the_sections_show_is_what_the_runs_found(study):
    text = page(study)
    probe = json.loads((study / "probe" / "results.json").read_text())
    assert percent(probe["metrics"]["top1"]) in part_of(text, "classifiers")
    assert "Top-1 accuracy of every classifier run" in text and "every run<" not in text
    assert (
        part_of(text, "classifiers").count("is that of all HPO terms annotated for the dataset&#39;s conditions") == 1
    )
    assert "18 reports by demo_models/reporter; malformed: 0" in part_of(text, "reports")
    likeness = part_of(text, "filter")
    assert "what lies right of the threshold, 0.700, is rejected" in likeness
    assert '<th scope="row">threshold' not in likeness
    gap = probe["gaps"]["sex"]["subgroups"]["female"]
    assert percent(gap, sign="+") in part_of(text, "subgroups")
    episodes = json.loads((study / "episodes" / "results.json").read_text())
    assert percent(episodes["heads"]["cosine"]) in part_of(text, "few-shot")
    assert "photographs per condition" in part_of(text, "gains")
    report = json.loads((study / "chosen" / "privacy_report.json").read_text())
    assert f"Privacy: {report['verdict'].upper()}" in part_of(text, "filter")
    assert f"{len(report['reasons'])} reason" in part_of(text, "filter") and "1 reasons" not in text
    assert "bars of at most 30 countries, all in the numbers below" in part_of(text, "dataset")
    assert "which a bin with a single person does not have" in part_of(text, "calibration")
    legend = re.sub(
        "<[^>]*>", "", part_of(text, "reports").partition("Three conditions are shown")[2].partition("</p>")[0]
    )
    assert "Underlined and green is what both reports say (agrees)" in " ".join(legend.split())
    assert 'class="agrees"' in part_of(text, "reports") and "pair: " in part_of(text, "reports")
    assert part_of(text, "gallery").count("image/jpeg") == N_CONDITIONS + 9
    facts = numbers(study)["dataset"]
    assert facts["n_images"] == N_IMAGES and f"{facts['n_groups']} people" in part_of(text, "dataset").replace(
        "\n", " "
    )


@pytest.mark.parametrize("kept", [["rdface-sim"], ["probe"], ["said", "compared"], ["retrieval"]])
def test_any_subset_makes_a_page_that_says_what_is_missing(study, tmp_path, kept):
    folder = tmp_path / "part"
    for name in kept:
        shutil.copytree(study / name, folder / name)
    assert exit_status(make_report, "study", folder) == 0
    text, found = page(folder), numbers(folder)
    Outline(text)
    assert (found["headline"]["recognition"] is None) == ("probe" not in kept)
    assert ("train_fewshot.py" in part_of(text, "few-shot")) and "Make one: " in part_of(text, "gains")
    assert "--output_dir .." not in text  # whoever pastes a command writes into a folder of its own
    if "rdface-sim" not in kept:
        assert found["dataset"] is None and "image/jpeg" not in text
        assert (found["simulated"] is True) == (kept != ["said", "compared"]), (
            "what synthetic faces are made of is missing"
        )


def test_a_dataset_that_lies_elsewhere_is_found_by_the_name_that_runs_record(study, tmp_path):
    folder = tmp_path / "apart"
    shutil.copytree(study / "probe", folder / "probe")
    record = json.loads((folder / "probe" / "run.json").read_text())
    record["arguments"]["dataset_name"] = str(study / "rdface-sim")
    (folder / "probe" / "run.json").write_text(json.dumps(record))
    found = study_page.study_outcome(folder, [], False)
    assert found.datasets == [study / "rdface-sim"] and found.results["dataset"]["n_images"] == N_IMAGES
    for name, dataset in (("probe_terms", study / "rdface-sim"), ("one_shot", small_datasets.one_config())):
        shutil.copytree(study / name, folder / name)
        record["arguments"]["dataset_name"] = str(dataset)
        (folder / name / "run.json").write_text(json.dumps(record))
    of_all = study_page.study_outcome(folder, [], False).datasets
    assert set(of_all) == {study / "rdface-sim", small_datasets.one_config()} and len(of_all) == 2


def test_a_dataset_that_is_not_simulated_shows_no_photograph_unless_asked(tmp_path):
    folder = tmp_path / "private"
    shutil.copytree(small_datasets.one_config(), folder / "rdface")
    assert exit_status(make_report, "study", folder) == 0
    text = page(folder)
    assert "image/jpeg" not in text and "<b>REAL photographs.</b>" in text and "SIMULATED" not in text
    assert "AAR.1" not in text, "nor the name of one"
    assert exit_status(make_report, "study", folder, "--show_real") == 0
    text = page(folder)
    assert text.count("image/jpeg") == 4 and "It shows real photographs" in text
    assert "REAL PHOTOGRAPHS" in text and numbers(folder)["simulated"] is False


def test_a_single_run_that_is_not_known_to_be_simulated_closes_the_page(study, tmp_path):
    """Photographs, synthetic faces whose privacy is not green, and reports all disappear."""
    folder = tmp_path / "mixed"
    for name in ("rdface-sim", "probe", "chosen", "said", "compared"):
        shutil.copytree(study / name, folder / name)
    record = json.loads((folder / "probe" / "run.json").read_text())
    record |= {"simulated": None, "dataset": {"fingerprint": "of another dataset"}}
    (folder / "probe" / "run.json").write_text(json.dumps(record))
    assert exit_status(make_report, "study", folder) == 0
    text = page(folder)
    assert "image/jpeg" not in text and 'class="pair"' not in text and "SIMULATED: " not in text
    assert "another build of this one: probe." in part_of(text, "dataset")
    assert "<b>Not known to be simulated" in text and numbers(folder)["simulated"] is None


def test_names_with_markup_are_shown_as_text(study, tmp_path):
    folder = tmp_path / "named"
    shutil.copytree(study / "probe", folder / "<img src=x onerror=alert(1)>")
    assert exit_status(make_report, "study", folder) == 0
    assert "<img src=x" not in page(folder) and "&lt;img src=x onerror=alert(1)&gt;" in page(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("probe/run.json", "{", "run.json is cut short or not JSON"),
        ("probe/results.json", "[]", "results.json holds a JSON list, not an object"),
        ("probe/predictions.parquet", "no", "predictions.parquet"),
        ("chosen/synthetic/train-00000-of-00001.parquet", "no", "cannot be read"),
        ("compared/pairs.parquet", "no", "pairs.parquet: cannot be read"),
    ],
)
def test_damaged_files_are_named_in_one_line_and_no_page_is_written(study, tmp_path, capsys, file, content, message):
    folder = tmp_path / "damaged"
    for name in ("rdface-sim", "probe", "chosen", "said", "compared"):
        shutil.copytree(study / name, folder / name)
    (folder / file).write_text(content)
    assert exit_status(make_report, "study", folder) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (folder / "report.html").exists()


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert exit_status(make_report, "study", tmp_path / "nowhere") == 2
    assert exit_status(make_report, "study", tmp_path) == 2
    said = capsys.readouterr().err
    assert exit_status(make_report, "study", small_datasets.one_config()) == 2
    assert "with which the page would be published" in capsys.readouterr().err
    assert not (small_datasets.one_config() / "report.html").exists()
    assert "there is no such folder" in said and "holds no finished run" in said and said.count("\n") == 2


def classifier(name: str, added: str = "", top1: float = 0.4, protocol: str = "strict") -> Classifier:
    results = {"protocol": protocol, "backbone": "tiny", "recipe": "linear_probe", "chance": 0.1, "n_pairs": 3}
    metrics = {"top1": {"mean": top1, "low": top1 - 0.1, "high": top1 + 0.1}}
    entry = Entry(name, protocol, "all images", "tiny", "", 60, 1, metrics)
    run = Run(name, Path(name), CLASSIFIER, results, {}, True)
    return Classifier(run, entry, (added,) if added else (), "linear_probe", None)


def test_a_gain_is_the_run_with_the_addition_less_the_one_without_whatever_their_order():
    pair = {"difference": -0.2, "low": -0.3, "high": -0.05, "p_value": 0.01, "p_holm": 0.02}
    runs = [classifier("a", "knowledge of 9 terms"), classifier("b"), classifier("c", protocol="paper")]
    (gain,) = gains_of(runs, [{"a": "a", "b": "b"} | pair])
    assert (gain["difference"], gain["low"], gain["high"]) == (0.2, 0.05, 0.3) and gain["p_holm"] == 0.02
    (gain,) = gains_of(runs[::-1], [{"a": "b", "b": "a"} | pair])
    assert (gain["difference"], gain["low"], gain["high"], gain["base"]) == (-0.2, -0.3, -0.05, "b")
    assert gains_of(runs, []) == [] and gains_of(runs[1:], [{"a": "b", "b": "c"} | pair]) == []


def test_thresholds_stand_in_the_caption():
    assert study_images.rejected_above({}) == "."
    two = {"threshold, fold0": 0.7, "threshold, fold1": 0.85}
    assert study_images.rejected_above(two).endswith("is rejected (fold0 0.700, fold1 0.850).")


def test_a_command_on_a_page_can_be_given_again():
    arguments = {"fold": 0, "seed": [0, 1], "more": [], "resume": None, "save_models": False, "shuffle_labels": True}
    record = {"script": "hf_backbone.py", "arguments": arguments | {"corruptions": False, "cache_dir": "/far/away"}}
    flags = "--no-save_models --fold 0 --seed 0 1 --shuffle_labels --cache_dir away"
    assert command_line(record, "train_classifier.py") == f"hf_backbone.py {flags}"
    score = {"arguments": {"command": "score", "save_models": True, "wide": "x " * 300}}
    assert command_line(score, "vlm_report_eval.py score") == f"vlm_report_eval.py score --wide '{'x ' * 300}'"
    assert command_line({}, "train_classifier.py") == "train_classifier.py"


def test_runs_with_other_conditions_have_a_table_and_a_chance_of_their_own_and_warnings_are_on_the_page(
    study, tmp_path
):
    study = shutil.copytree(study, tmp_path / "study")
    other, rng, labels = study / "another", np.random.default_rng(0), np.arange(20) % 4
    shutil.copytree(study / "probe", other)
    predictions = as_table(rng.dirichlet(np.ones(4), 20), labels, recipe="linear_probe")
    predictions.to_parquet(other / "predictions.parquet")
    (other / "results.json").write_text(json.dumps(run_scores.score(predictions)))
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"warnings": ["tiny knows <nothing>"]}))
    assert exit_status(make_report, "study", study) == 0
    tables = re.findall(r"Scores under protocol strict, (\d) conditions, percent.*?</table>", page(study), re.DOTALL)
    assert tables == ["6", "4"]
    shown = part_of(page(study), "classifiers")
    chances = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r'<th scope="row">chance.*?</tr>', shown)]
    assert [row[6] for row in chances] == ["16.67", "25.00"]
    summary = part_of(page(study), "summary")
    assert "different numbers of conditions lie in this folder" in summary
    assert "WARNING for another: tiny knows &lt;nothing&gt;." in summary


def test_knowledge_that_no_fold_used_is_no_gain_and_the_page_says_why(study, tmp_path):
    study = shutil.copytree(study, tmp_path / "study")
    untested = {"knowledge": {"used": False, "left_out_loss": None, "left_out_chance": None}}
    for name in ("probe_terms", "one_shot_terms"):
        run = study / name
        predictions = pd.read_parquet(run / "predictions.parquet")
        predictions["recipe"] += " (not used)"
        predictions.to_parquet(run / "predictions.parquet")
        (run / "results.json").write_text(json.dumps(run_scores.score(predictions)))
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(record | {"folds": [untested] * 5}))
    assert exit_status(make_report, "study", study) == 0
    results = numbers(study)
    assert results["gains"] == [] and results["headline"]["gain"] is None
    assert results["headline"]["recognition"]["run"] == "probe"
    text = part_of(page(study), "gains")
    assert "probe_terms: knowledge was not used in 5 of 5 folds: its training side has fewer than 4" in text
    assert "90 terms (not used)" in (study / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    "other",
    [
        {"record": {"dataset": {"fingerprint": "restored"}}},
        {"record": {"input": {"face_alignment": None}}},
        {"record": {"arguments": {"fold": 0}}},
        {"results": {"n_test": 12}},
    ],
)
def test_a_run_of_other_photographs_or_people_is_no_base(other):
    pair = {"difference": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.1, "p_holm": 0.1}
    taught, first, base = classifier("taught", "knowledge of 9 terms"), classifier("a"), classifier("b")
    first.run.record |= other.get("record", {})
    first.run.results |= other.get("results", {})
    differences = [{"a": name, "b": "taught"} | pair for name in ("a", "b")]
    (gain,) = gains_of([first, base, taught], differences)
    assert gain["base"] == "b"
    assert gains_of([first, taught], differences) == []


def test_of_many_runs_each_is_compared_with_its_base_and_plain_ones_with_the_first():
    runs = [classifier("taught", "knowledge of 9 terms"), classifier("b"), classifier("c"), classifier("d")]
    runs += [classifier("leaky", protocol="paper")]
    runs[3].run.results["recipe"] = "linear_probe, shuffled labels"
    pairs = {tuple(sorted(pair)) for pair in planned_comparisons(runs) if len(pair) == 2}
    assert pairs == {("b", "taught"), ("b", "c")}, "neither a control nor another protocol"
    rng, labels = np.random.default_rng(0), np.arange(20) % 4
    tables = {name: as_table(rng.dirichlet(np.ones(4), 20), labels) for name in ("taught", "b", "c")}
    entries = [Entry(name, "strict", "all images", "", "", 20, 1, {}, table) for name, table in tables.items()]
    planned = {frozenset(pair) for pair in pairs}
    few = leaderboard.differences(entries, "top1", planned, most_runs=2)
    assert [(row["a"], row["b"], row["n_comparisons"]) for row in few] == [("taught", "b", 2), ("b", "c", 2)]
    assert len(leaderboard.differences(entries, "top1", planned, most_runs=3)) == 3


def test_the_headline_is_of_a_plain_run_under_strict_and_says_how_many_it_is_the_highest_of():
    runs = [classifier("low", top1=0.2), classifier("high", top1=0.3), classifier("taught", "+ 9 synthetic", 0.9)]
    runs += [classifier("leaky", top1=0.8, protocol="paper"), classifier("one fold", top1=0.7)]
    runs[-1].entry.n_test = 12
    runs.insert(0, classifier("restored", top1=0.3))
    runs[0].run.record["dataset"] = {"config_name": "restored"}
    found = headline_of(runs, [], [])["recognition"]
    assert (found["run"], found["value"], found["chosen_from"]) == ("high", 0.3, 3)
    card = study_page.headline_card("recognition", found)
    assert card["value"] == "30.0 %" and card["interval"] == "20.0 to 40.0"
    assert "chance 10.0 %" in card["what"] and "the highest of 3 such classifier runs" in card["what"]
    assert headline_of(runs, [], [])["reports"] is None and study_page.headline_card("gain", None)["value"] == "–"


def test_charts_keep_their_letters_are_small_and_the_same_each_time():
    rows = [("first: 40.0", 40.0, 35.0, 45.0, 0), ("control: 1.0", 1.0, None, None, 1)]
    svg, size = charts.intervals(rows, "top-1, %", 1.0, "chance")
    assert b">first: 40.0<" in svg and b"dashed: chance" in svg and len(svg) < 20_000
    assert charts.intervals(rows, "top-1, %", 1.0, "chance") == (svg, size) and b"<dc:date>" not in svg
    assert size[0] <= 430, "as wide as a phone shows it"
    flat, _ = charts.bars([("Brazil", 9), ("not recorded", 3)], "country", "images")
    assert b">Brazil<" in flat and b"<pattern" in flat, "what is not recorded is hatched"
    stacked, _ = charts.stacked_histogram({"kept": [0.1, 0.2], "not kept": [0.3]}, "score", "images", {"limit": 0.25})
    assert stacked.count(b"<pattern") >= 1 and b">limit<" in stacked


def test_a_browser_shows_every_section_without_an_error_or_anything_beyond_the_edge(study, tmp_path):
    installed = browser.find_browser()
    if installed is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is installed")
    _, console = browser.run(installed, "--dump-dom", file=study / "report.html")
    assert console == []
    found = browser.measure(installed, study / "report.html", (1280, 390), tmp_path)
    assert set(found) == {1280, 390}
    for width, one in found.items():
        assert one["sections"] == SECTIONS and one["broken"] == [] and one["requests"] == []
        assert one["scroll"] <= width and one["beyond"] == [], f"{width} px: {one['beyond'][:5]}"


def test_a_withdrawal_removes_and_names_the_page_its_leaderboard_and_its_numbers(study, tmp_path, capsys):
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    (folder / ".rdface-sim.derived").unlink()  # names places of the study that was copied
    assert exit_status(make_report, "study", folder) == 0
    image_id = load_images(str(folder / "rdface-sim"))[0]["image_id"]
    capsys.readouterr()
    assert exit_status(publish_dataset, "withdraw", folder / "rdface-sim", image_id) == 0
    told = capsys.readouterr().out
    for name in ("report.html", "leaderboard.md", "results.json"):
        assert not (folder / name).exists() and f"{folder / name}: a page or a table of what rests on it" in told
