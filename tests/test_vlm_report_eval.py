"""vlm_report_eval.py: a report on every image once, whatever fails, and nothing of it in public. All SIMULATED."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Features, Value, load_dataset
from in_process import exit_status
from PIL import Image
from small_reporters import REPORT, chat_server, completion, saved_qwen, unreliable, well_behaved
from test_train_classifier import ENVIRONMENT, start_all

import rdface_dataset
import simulate_faces
import vlm_report_eval
from curation import datasheet
from curation.opening import load_images, photograph_sha256
from curation.schema import synthetic_features
from generation import synthetic_images
from publishing import publishable, withdrawal
from reporting import answer_files, report_dataset, report_inputs
from reporting.report_dataset import Reports, open_reports
from reporting.report_sections import prompt_sha256
from reporting.reporter_choice import open_detector

ROOT = Path(__file__).resolve().parents[1]
N = 24
COMMAND = [sys.executable, ROOT / "vlm_report_eval.py"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder with a dataset of N SIMULATED photographs of 4 conditions, rdface-sim."""
    folder = tmp_path_factory.mktemp("reports")
    sizes = ["--num_images", N, "--num_conditions", 4, "--image_size", 96, "--seed", 5]
    assert exit_status(simulate_faces, "--output_dir", folder / "raw", *sizes) == 0
    assert exit_status(rdface_dataset, "build", folder / "raw", "--output_dir", folder / "rdface-sim") == 0
    return folder


@pytest.fixture(scope="module")
def qwen(corpus) -> Path:
    return saved_qwen(corpus / "tiny-qwen")


def generate(corpus: Path, output: Path, *more: object) -> list:
    return ["generate", "--dataset_name", corpus / "rdface-sim", "--output_dir", output, *more]


def served(corpus: Path, output: Path, url: str, *more: object) -> list:
    return generate(corpus, output, "--reporter", "org/model", "--base_url", url, *more)


def rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / "reports").to_pylist()


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


# ---- generate


@pytest.fixture(scope="module")
def by_qwen(corpus, qwen) -> Path:
    output = corpus / "by-qwen"
    assert exit_status(vlm_report_eval, *generate(corpus, output, "--reporter", qwen, "--max_new_tokens", 8)) == 0
    return output


def test_every_photograph_has_a_report_with_what_ties_it_to_content(by_qwen, corpus):
    images = load_images(str(corpus / "rdface-sim"))
    reports = load_dataset(str(by_qwen), "reports", split="train")
    assert reports.features == report_dataset.report_features("image_id", images.features["label"].names)
    for column in ("image_id", "label", "disease_name", "orphanet_code"):
        assert reports[column][:] == images[column][:]
    assert reports["sha256"][:] == photograph_sha256(images) and set(reports["source_type"]) == {"simulated"}
    assert set(reports["reporter"]) == {"tiny-qwen"} and set(reports["prompt_sha256"]) == {prompt_sha256()}
    assert len(set(reports["report"])) > 1  # the model sees the pictures
    told = results(by_qwen)
    assert told["simulated"] is True and told["n_reports"] == N
    # Random weights write no sections: all answers are malformed, asked for again, and kept as they are.
    assert (told["n_malformed"], told["n_retried"]) == (N, N) and told["flags"]["no_sections"] >= N - 2
    answers = answer_files.read_answers(by_qwen / "answers")
    assert {len(own) for own in answers.values()} == {2}
    assert (by_qwen / "reports").stat().st_mode & 0o077 == (by_qwen / "answers").stat().st_mode & 0o077 == 0
    assert json.loads((by_qwen / "run.json").read_text())["model_type"] == "qwen2_5_vl"


def test_two_processes_and_other_batches_give_the_same_reports(by_qwen, corpus, qwen):
    output = corpus / "two"
    flags = generate(corpus, output, "--reporter", qwen, "--max_new_tokens", 8, "--batch_size", 3)
    (first, printed, errors), (second, quiet, _) = start_all([{}, {}], flags, flags, script="vlm_report_eval.py")
    assert (first, second) == (0, 0), errors
    assert printed.count("written:") == 1 and "written:" not in quiet and rows(output) == rows(by_qwen)
    assert len(list((output / "answers").glob("*.jsonl"))) == 2


def test_a_finished_run_asks_nothing_again_and_another_model_is_noticed(by_qwen, corpus, qwen, capsys):
    flags = generate(corpus, by_qwen, "--max_new_tokens", 8, "--resume_from_checkpoint", "latest")
    before, answers = rows(by_qwen), (by_qwen / "answers" / "answers-00000.jsonl").read_bytes()
    assert exit_status(vlm_report_eval, *flags, "--reporter", qwen) == 0
    assert rows(by_qwen) == before and (by_qwen / "answers" / "answers-00000.jsonl").read_bytes() == answers
    other = saved_qwen(corpus / "other" / "tiny-qwen", seed=1)
    capsys.readouterr()
    assert exit_status(vlm_report_eval, *flags, "--reporter", other) == 2
    assert "was started with model_digest" in capsys.readouterr().err


def test_a_server_that_fails_loses_no_report_and_writes_none_twice(corpus, tmp_path, capsys):
    with chat_server(unreliable) as server:
        flags = served(corpus, tmp_path / "out", server.url, "--concurrency", 3, "--timeout", 1)
        assert exit_status(vlm_report_eval, *flags) == 0
    found, told = rows(tmp_path / "out"), results(tmp_path / "out")
    images = load_images(str(corpus / "rdface-sim"))
    assert [row["image_id"] for row in found] == images["image_id"][:]
    assert told["n_retried"] > 0 and told["n_reports"] == N
    for row in found:
        if not {"cut_off", "missing_sections"} & set(row["flags"]):
            assert row["report"].startswith(REPORT) and "HP:0000316" in row["hpo_present"]
        assert ("retried" in row["flags"]) >= ("second_answer" in row["flags"])
    told = "".join(capsys.readouterr())
    assert "(SIMULATED, config " in told and "Hypertelorism" not in told  # nothing of a report in a log


def test_a_malformed_answer_is_asked_for_once_more_and_the_better_one_is_taken(corpus, tmp_path):
    kinds = {}

    def behave(request):
        kind = kinds.setdefault(request.pixels_sha256, len(kinds) % 3)
        second = request.body["seed"] == 1
        if kind == 0:  # better the second time
            return well_behaved(request) if second else (200, completion("I cannot help with that."))
        if kind == 1:  # worse the second time
            return 200, completion("" if second else "Nose: wide.")
        return well_behaved(request)

    with chat_server(behave) as server:
        assert exit_status(vlm_report_eval, *served(corpus, tmp_path / "out", server.url, "--concurrency", 1)) == 0
        assert len(server.requests) == N + 16 and max(server.per_picture.values()) == 2
    flags = Counter(tuple(row["flags"]) for row in rows(tmp_path / "out"))
    assert flags == {("retried", "second_answer"): 8, ("missing_sections", "retried"): 8, (): 8}
    told = results(tmp_path / "out")
    assert (told["n_malformed"], told["n_retried"], told["n_second_answers"]) == (8, 16, 8)


def test_a_killed_run_goes_on_and_asks_about_no_picture_again(corpus, tmp_path):
    output = tmp_path / "out"
    halt = []

    def behave(request):
        while halt and len(server.requests) > 5:  # the sixth answer never comes
            time.sleep(0.05)
        return well_behaved(request)

    with chat_server(behave) as server:
        halt.append(True)
        flags = [str(flag) for flag in served(corpus, output, server.url, "--concurrency", 1)]
        run = subprocess.Popen([*map(str, COMMAND), *flags], env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE)
        until = time.monotonic() + 200
        while len(server.requests) < 6 and time.monotonic() < until:
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=30)
        halt.clear()
        answers = output / "answers" / "answers-00000.jsonl"
        with answers.open("ab") as file:  # as if it had been killed while it wrote
            file.write(b'{"key": "5", "attempt": 0, "answer": {"te')
        assert not (output / "reports").exists()
        assert exit_status(vlm_report_eval, *flags, "--resume_from_checkpoint", "latest") == 0
        # every picture, and the one again whose answer had not come
        assert len(server.requests) == N + 1 and sorted(server.per_picture.values()) == [1] * (N - 1) + [2]
    assert len({row["image_id"] for row in rows(output)}) == len(rows(output)) == N


def test_ctrl_c_ends_a_run_at_once_that_waits_for_a_server_and_says_how_to_go_on(corpus, tmp_path):
    def behave(request):
        time.sleep(200 if len(server.requests) > 2 else 0)
        return well_behaved(request)

    with chat_server(behave) as server:
        flags = [str(flag) for flag in served(corpus, tmp_path / "out", server.url, "--concurrency", 2)]
        heeded = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a script's job ignores it
        environment = os.environ | ENVIRONMENT
        run = subprocess.Popen([*map(str, COMMAND), *flags], env=environment, stderr=subprocess.PIPE, **heeded)
        until = time.monotonic() + 200
        while len(server.requests) < 4 and time.monotonic() < until:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)  # the server would answer after 200 s
    assert run.returncode == 130 and b"--resume_from_checkpoint latest goes on from here" in errors
    assert len(answer_files.read_answers(tmp_path / "out" / "answers")) == 2


LONG_REPORT = " ".join(f"Finding {n} is present." for n in range(2100))  # 50,000 characters that are no loop


@pytest.mark.parametrize(
    ("text", "flags"),
    [("", {"empty"}), ("这张脸很正常，没有明显的异常发现。", {"no_sections", "not_english"}),
     (LONG_REPORT, {"long", "no_sections"}),
     ("<b>Nose:</b> short<script>alert(1)</script>", {"markup", "missing_sections"})],
)  # fmt: skip
def test_odd_reports_are_kept_raw_and_flagged(corpus, tmp_path, text, flags):
    with chat_server(lambda _: (200, completion(text))) as server:
        command = served(corpus, tmp_path / "out", server.url, "--per_class", 1)
        assert exit_status(vlm_report_eval, *command) == 0
    found = rows(tmp_path / "out")
    assert len(found) == 4 == results(tmp_path / "out")["n_malformed"]
    assert {row["report"] for row in found} == {text}
    assert all(set(row["flags"]) == flags | {"retried"} for row in found)
    assert open_reports(str(tmp_path / "out")).ids == [row["image_id"] for row in found]


# ---- synthetic images


@pytest.fixture(scope="module")
def synthetic(corpus) -> Path:
    """A filtered dataset: six images of two conditions, of which four are kept, not in the order of their scores."""
    images = load_images(str(corpus / "rdface-sim"))
    names, digests = images.features["label"].names, photograph_sha256(images)
    same = {"generator": "dreambooth", "base_model": "x", "adapter_sha256": "0" * 64, "prompt": "a child", "seed": 0}
    same |= {"protocol": "strict", "fold": 0, "source_image_ids": images["image_id"][:2], "source_sha256": digests[:2]}
    made = []
    for n in range(6):
        picture = synthetic_images.png(np.asarray(images[n]["image"]), f"{names[n % 2]}_{n}")
        made.append(same | {"image": picture, "synthetic_id": f"{names[n % 2]}_{n}", "label": names[n % 2]})
    synthetic_images.write_part(corpus / "part.parquet", made, names)
    synthetic_images.write_dataset(corpus / "synthetic", [corpus / "part.parquet"])
    shard = next((corpus / "synthetic" / "synthetic").glob("*.parquet"))
    features = Features(synthetic_features(names) | {"phenotype_probability": Value("float64"), "kept": Value("bool")})
    scores = zip([0.2, 0.9, 0.8, 0.1, 0.5, None], [True] * 5 + [False], strict=True)
    scored = [
        row | {"phenotype_probability": score, "kept": kept}
        for row, (score, kept) in zip(pq.read_table(shard).to_pylist(), scores, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(scored, features.arrow_schema), shard, row_group_size=1)
    datasheet.write_datasheet(corpus / "synthetic")
    return corpus / "synthetic"


def test_of_filtered_images_the_best_that_were_kept_are_taken_and_keep_their_sources(corpus, synthetic, tmp_path):
    with chat_server() as server:
        flags = served(corpus, tmp_path / "out", server.url, "--per_class", 2, "--dataset_name", synthetic)
        assert exit_status(vlm_report_eval, *flags) == 0
        assert (
            exit_status(vlm_report_eval, *flags[:-4], "--dataset_name", synthetic, "--output_dir", tmp_path / "a") == 0
        )
    ends = [row["synthetic_id"].rpartition("_")[2] for row in rows(tmp_path / "out")]
    assert ends == ["2", "4", "1", "3"]  # the best two of each condition
    assert [row["synthetic_id"].rpartition("_")[2] for row in rows(tmp_path / "a")] == ["0", "1", "2", "3", "4"]
    images = load_images(str(corpus / "rdface-sim"))
    for row in rows(tmp_path / "out"):
        assert row["source_image_ids"] == images["image_id"][:2]
        assert row["source_sha256"] == photograph_sha256(images)[:2]
        assert (row["generator"], row["protocol"], row["fold"]) == ("dreambooth", "strict", 0)
    assert "the best by phenotype_probability 2 of each condition" in results(tmp_path / "out")["chosen"]
    one = report_inputs.open_inputs(str(synthetic), None, 1, {"strict": ["phenotype_probability"]})
    said = "one image of each condition of those that the filter kept, the best by phenotype_probability"
    assert one.chosen == said and len(one.rows) == 2
    reports = open_reports(str(tmp_path / "out"))
    assert reports.id_column == "synthetic_id" and "HP:0000316" in reports.terms[0].present


def test_a_picture_that_cannot_be_decoded_is_named_and_the_others_have_their_reports(
    corpus, synthetic, tmp_path, capsys
):
    names = load_images(str(corpus / "rdface-sim")).features["label"].names
    made = pq.read_table(synthetic / "synthetic").select(list(synthetic_features(names))).to_pylist()
    for row in made:
        row["label"] = names[row["label"]]
    made[2]["image"]["bytes"] = made[2]["image"]["bytes"][:300]
    synthetic_images.write_part(tmp_path / "part.parquet", made, names)
    synthetic_images.write_dataset(tmp_path / "damaged", [tmp_path / "part.parquet"])
    with chat_server() as server:
        flags = served(corpus, tmp_path / "out", server.url, "--dataset_name", tmp_path / "damaged")
        assert exit_status(vlm_report_eval, *flags) == 0
        flags += ["--resume_from_checkpoint", "latest"]
        assert exit_status(vlm_report_eval, *flags) == 0 and len(server.requests) == 5
    assert capsys.readouterr().out.count(f"left out: {made[2]['synthetic_id']} cannot be decoded") == 2
    assert results(tmp_path / "out")["left_out"][0].startswith(made[2]["synthetic_id"])
    assert [row["synthetic_id"] for row in rows(tmp_path / "out")] == [
        row["synthetic_id"] for n, row in enumerate(made) if n != 2
    ]


def test_faces_are_cut_out_and_a_picture_without_one_is_taken_whole_and_flagged(corpus, monkeypatch):
    inputs = report_inputs.open_inputs(str(corpus / "rdface-sim"), None, None, {})
    monkeypatch.setattr(report_inputs, "LONGEST_SIDE_PX", 48)
    whole, flags = inputs.picture(0)
    assert max(whole.shape) == 48 and flags == ()
    inputs.detector = open_detector("mtcnn", None, corpus / "cache", torch.device("cpu"))
    face, flags = inputs.picture(0)
    assert face.shape == (448, 448, 3) and flags == ()
    inputs.images = inputs.images.map(lambda row: {"image": Image.new("RGB", (64, 64))}, load_from_cache_file=False)
    assert inputs.picture(0)[1] == ("no_face",) and inputs.picture(0)[0].shape == (48, 48, 3)


# ---- rules, and scores


@pytest.fixture(scope="module")
def by_rules(corpus) -> Path:
    output = corpus / "by-rules"
    flags = generate(corpus, output, "--reporter", "landmarks", "--cache_dir", corpus / "cache")
    assert exit_status(vlm_report_eval, *flags) == 0
    return output


def test_the_reporter_landmarks_measures_its_norms_on_photographs_alone(corpus, by_rules, synthetic, capsys, tmp_path):
    found = rows(by_rules)
    assert len(found) == N and {row["prompt_sha256"] for row in found} == {None}
    assert not any("retried" in row["flags"] for row in found) and any(row["hpo_present"] for row in found)
    flags = ["generate", "--dataset_name", synthetic, "--reporter", "landmarks", "--output_dir", tmp_path / "out"]
    flags += ["--cache_dir", corpus / "cache"]
    assert exit_status(vlm_report_eval, *flags) == 2
    assert "give --norms norms.json of a run on the photographs" in capsys.readouterr().err
    assert exit_status(vlm_report_eval, *flags, "--norms", by_rules / "norms.json") == 0
    # The synthetic images are the first photographs again, so these norms give the same reports.
    reports = {row["synthetic_id"].rpartition("_")[2]: row["report"] for row in rows(tmp_path / "out")}
    assert reports == {str(n): found[n]["report"] for n in range(5)}


def test_score_writes_results_pairs_and_a_page_that_a_withdrawal_finds(corpus, by_rules, synthetic, tmp_path, capsys):
    home = tmp_path / "runs"
    with chat_server() as server:
        flags = served(corpus, home / "synthetic", server.url, "--dataset_name", synthetic)
        assert exit_status(vlm_report_eval, *flags) == 0
    both = ["score", "--real_reports", by_rules, "--synthetic_reports", home / "synthetic"]
    assert exit_status(vlm_report_eval, *both, "--output_dir", home / "scores") == 0
    scores = home / "scores"
    pairs = pq.read_table(scores / "pairs.parquet").to_pylist()
    of_label = Counter(load_images(str(corpus / "rdface-sim"))["label"][:])
    assert len(pairs) == 3 * of_label[0] + 2 * of_label[1]  # the synthetic images are of two conditions
    assert results(scores)["n_pairs"] == len(pairs) and results(scores)["seed"] == 0
    page = (scores / "pairs.html").read_text()
    assert pairs[0]["synthetic_id"] in page and "SIMULATED" in page
    assert scores.stat().st_mode & 0o077 == 0
    *_, headline, written = capsys.readouterr().out.splitlines()
    found = results(scores)["agreement"]["findings"]["ontology"]
    assert headline.startswith("SIMULATED: findings/ontology") and f"AUC {found['auc']['mean']:.3f}" in headline
    assert headline in page and "long" not in written
    images = load_images(str(corpus / "rdface-sim"))
    found = withdrawal.derived(scores, images["image_id"][N - 1], photograph_sha256(images)[N - 1])
    assert sorted(path.name for path in found.files) == ["pairs.html", "pairs.parquet"]
    assert exit_status(vlm_report_eval, *both, "--output_dir", by_rules / "scores") == 2
    assert exit_status(vlm_report_eval, *both[:4], corpus / "rdface-sim", "--output_dir", tmp_path / "x") == 2
    assert exit_status(vlm_report_eval, *both, "--encoders", tmp_path, "--output_dir", tmp_path / "x") == 2
    before = (scores / "results.json").read_bytes()
    swapped = ["score", "--real_reports", home / "synthetic", "--synthetic_reports", by_rules, "--output_dir", scores]
    capsys.readouterr()
    assert exit_status(vlm_report_eval, *swapped) == 2
    assert "holds reports on synthetic images; are the two folders swapped?" in capsys.readouterr().err
    shutil.copytree(by_rules, tmp_path / "copy")
    for same in (by_rules, tmp_path / "copy"):
        assert exit_status(vlm_report_eval, *both[:4], same, "--output_dir", scores) == 2
        assert "no pair of two different images" in capsys.readouterr().err
    assert (scores / "results.json").read_bytes() == before
    assert exit_status(vlm_report_eval, *both, "--output_dir", tmp_path / "copy") == 2
    said = capsys.readouterr().err
    assert "holds results of vlm_report_eval.py generate, which vlm_report_eval.py score does not replace" in said
    assert rows(tmp_path / "copy") == rows(by_rules)


def test_results_of_another_command_are_refused_as_the_output_folder(corpus, tmp_path, capsys):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "settings.json").write_text('{"command": "vlm_report_eval.py score"}')
    (tmp_path / "filtered").mkdir()
    (tmp_path / "filtered" / "settings.json").write_text('{"command": "filter_synthetic.py"}')
    rules = ["--reporter", "landmarks", "--cache_dir", corpus / "cache"]
    for folder, maker in (("scores", "vlm_report_eval.py score"), ("filtered", "filter_synthetic.py")):
        capsys.readouterr()
        assert exit_status(vlm_report_eval, *generate(corpus, tmp_path / folder, *rules)) == 2
        said = capsys.readouterr().err
        assert f"holds results of {maker}, which vlm_report_eval.py generate does not replace" in said
        assert len(said.strip().splitlines()) == 1
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["settings.json"]


# ---- privacy


def test_nothing_of_a_report_reaches_what_is_public(corpus, by_qwen, tmp_path):
    secret = "SECRET-FINDING"
    dataset = Path(shutil.copytree(corpus / "rdface-sim", tmp_path / "rdface-sim"))
    made = rows(by_qwen)
    texts = [name for name, kind in open_reports(str(by_qwen)).columns.items() if isinstance(kind[0], str | None)]
    for row in made:
        row |= {name: secret for name in texts if name in ("report", *report_dataset.COLUMNS)}
        row["label"] = load_images(str(dataset)).features["label"].int2str(row["label"])
    report_dataset.write_reports(tmp_path / "out", made, load_images(str(dataset)).features["label"].names)
    shutil.copytree(tmp_path / "out" / "reports", dataset / "reports")
    datasheet.write_datasheet(dataset)
    for folder in (dataset, tmp_path / "out"):
        public = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
        assert public and not [path.name for path in public if secret.encode() in path.read_bytes()]
        assert made[0]["image_id"] not in (folder / "README.md").read_text()
    assert "SIMULATED" in (tmp_path / "out" / "README.md").read_text()
    contents = publishable.examine(dataset)
    assert contents.problems == [] and contents.rows == {"real": N, "reports": N}


def test_the_reports_on_a_withdrawn_photograph_go_with_it_under_any_name(corpus, by_qwen, synthetic, tmp_path):
    home = tmp_path / "runs"
    shutil.copytree(by_qwen, home / "real")
    with chat_server() as server:
        flags = served(corpus, home / "synthetic", server.url, "--dataset_name", synthetic)
        assert exit_status(vlm_report_eval, *flags) == 0
    images = load_images(str(corpus / "rdface-sim"))
    name, sha256 = images["image_id"][0], photograph_sha256(images)[0]
    for called in (name, "RENAMED.1"):
        found = withdrawal.derived(home, called, sha256)
        assert {path.relative_to(home).parts[0]: n for path, n in found.rows.items()} == {"real": 1, "synthetic": 5}
        assert {path.relative_to(home).parts[:2] for path in found.files} == {
            ("real", "answers"),
            ("synthetic", "answers"),
        }
    withdrawal.remove_with_cards(found, "RENAMED.1", sha256)
    assert name not in {row["image_id"] for row in rows(home / "real")} and len(rows(home / "real")) == N - 1
    assert not (home / "synthetic" / "reports").exists() and not list(home.rglob("*.jsonl"))
    assert open_reports(str(home / "real")).ids == images["image_id"][1:]


# ---- terms, refusals


def test_terms_prints_an_object_for_each_report(tmp_path, capsys):
    assert exit_status(vlm_report_eval, "terms", "--text", "Widely spaced eyes; no epicanthus.") == 0
    assert json.loads(capsys.readouterr().out) == {
        "present": ["HP:0000316"], "absent": ["HP:0000286"], "not_visible": [],
    }  # fmt: skip
    (tmp_path / "reports.txt").write_text("Hypertelorism.\n\nDiagnostic Suggestion: Macrocephaly syndrome.\n")
    assert exit_status(vlm_report_eval, "terms", tmp_path / "reports.txt") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["present"] for one in found] == [["HP:0000316"], []]


def test_terms_of_standard_input_and_a_warning_about_another_language(tmp_path, capsys, monkeypatch):
    german = "Das Gesicht ist schmal und die Nase ist breit mit einer flachen Wurzel."
    lines = f"Hypertelorism.\n \n{german}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert exit_status(vlm_report_eval, "terms", "-") == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and '"present": ["HP:0000316"]' in said.out.splitlines()[0]
    assert said.err == "standard input, line 3: does not look English; its terms may be wrong\n"
    assert exit_status(vlm_report_eval, "terms", "--text", german) == 0
    assert capsys.readouterr().err == "--text: does not look English; its terms may be wrong\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--base_url", "http://10.0.0.1/v1"], "--photographs_leave_this_machine"),
     (["--base_url", "http://me:secret@127.0.0.1/v1"], "OPENAI_API_KEY"),
     (["--reporter", "landmarks", "--base_url", "http://127.0.0.1/v1"], "needs no server"),
     (["--photographs_leave_this_machine"], "there is none"), (["--per_class", 0], "at least 1"),
     (["--reporter", "{empty}"], "cannot be opened"), (["--dataset_name", "{empty}"], "build it"),
     (["--detector", "yunet"], "requires --detector_model"),
     (["--reporter", "landmark"], "did you mean landmarks?"), (["--reporter", "Landmarks"], "did you mean landmarks?"),
     (["--dataset_name", "{reports}"], "holds reports, not pictures"),
     (["--output_dir", "{dataset}/reports"], "would be published")],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(corpus, tmp_path, capsys, flags, message):
    (tmp_path / "empty").mkdir()
    report_dataset.write_reports(tmp_path / "reports", report_rows(), ["AAR"])
    places = {"empty": tmp_path / "empty", "dataset": corpus / "rdface-sim", "reports": tmp_path / "reports"}
    given = [str(flag).format(**places) for flag in flags]
    assert exit_status(vlm_report_eval, *generate(corpus, tmp_path / "out"), *given) == 2
    said = capsys.readouterr().err
    assert message in said and "secret" not in said and len(said.strip().splitlines()) == 1


def test_terms_of_a_file_that_is_none_are_refused(tmp_path, capsys):
    (tmp_path / "latin").write_bytes(b"one\nh\xe9\n")
    (tmp_path / "empty").write_bytes(b"\n \n")
    messages = {"nowhere": "No such file", "latin": "line 2: is not UTF-8", "empty": "empty: holds no report"}
    for name, message in messages.items():
        assert exit_status(vlm_report_eval, "terms", tmp_path / name) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1


# ---- config reports


def report_rows(n: int = 3) -> list[dict]:
    picture = {"label": "AAR", "sha256": "0" * 64, "source_type": "simulated"}
    return [report_dataset.report_row(picture | {"image_id": f"AAR.{i}"}, REPORT, "landmarks", None) for i in range(n)]


def test_two_reports_on_one_image_are_refused_but_one_name_in_two_folds_is_not():
    made = report_rows()
    made[2]["image_id"] = "AAR.0"
    with pytest.raises(report_dataset.InputError, match=r"row 3: AAR.0 has a report in row 1 already"):
        Reports.of(made, ["AAR"])
    made[2] |= {"image_id": ""}
    with pytest.raises(report_dataset.InputError, match="row 3: image_id is empty"):
        Reports.of(made, ["AAR"])
    with pytest.raises(report_dataset.InputError, match="label AAR is no class"):
        Reports.of(report_rows(), ["NA"])
    with pytest.raises(report_dataset.InputError, match="holds no reports"):
        Reports.of([], ["NA"])
    of_folds = [
        report_dataset.report_row({"synthetic_id": "AAR_1", "label": None, "fold": fold}, REPORT, "m", None)
        for fold in (0, 1)
    ]
    assert Reports.of(of_folds, ["AAR"]).labels == [None, None]


def test_a_dataset_without_reports_or_with_too_few_columns_is_refused(corpus, tmp_path):
    with pytest.raises(report_dataset.InputError, match=r"sim: holds no reports; write reports with .* generate$"):
        open_reports(str(corpus / "rdface-sim"))
    report_dataset.write_reports(tmp_path / "out", report_rows(), ["AAR"])
    shard = next((tmp_path / "out" / "reports").glob("*.parquet"))
    pq.write_table(pq.read_table(shard).drop_columns("hpo_absent"), shard)
    datasheet.write_datasheet(tmp_path / "out")
    with pytest.raises(report_dataset.InputError, match="column hpo_absent is missing"):
        open_reports(str(tmp_path / "out"))
