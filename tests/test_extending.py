"""docs/extending.md: its files are taken out of the page, saved and started by its own commands, as a reader would.

So is predict.py of README.md, as it stands there, and with a backbone of one's own."""

import json
import re
import runpy
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_datasets import face, of_faces
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
    Dinov2Model,
    PreTrainedTokenizerFast,
)

import train_classifier
from classification import backbones
from curation import protocols
from curation.opening import load_images, load_synthetic, photograph_sha256
from harness import source_files
from harness.errors import InputError
from harness.files import sha256_of
from harness.weights_digest import weights_sha256
from imaging import detector_names, faces
from reporting import report_sections, reporter_names
from reporting.report_dataset import open_reports
from reporting.report_inputs import open_inputs

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
FILES = {re.match(r'"""(\w+\.py)', code)[1]: code for code in BLOCKS if code.startswith('"""')}
SMALL_NETWORK, OWN_BACKBONE = (code for code in BLOCKS if not code.startswith('"""'))
PREDICT = re.search(r"^Save the following as `predict\.py`.*?^```python\n(.*?)^```", README, re.M | re.S)[1]
COMMANDS = {
    Path(words[1]).name: words[1:]
    for lines in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
    for words in map(shlex.split, lines.splitlines())
}
TABLES = (backbones.LOADERS, detector_names.FACE_DETECTORS, reporter_names.REPORTERS)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, empty but for the page's files; what they add to tables is taken out again."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for table in TABLES:
        for name in ("hf", "cascade", "questions"):
            monkeypatch.setitem(table, name, "")  # so that the end of the test removes it
            del table[name]
    yield tmp_path
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def start(script: str, *more: object, leave_out: tuple[str, ...] = ()) -> int:
    """The exit status of a command of the page, with the small dataset and the project's own files in their places.

    more: further arguments; leave_out: options that are left out, each with its value."""
    words = [word.replace("demo_models/", f"{ROOT}/demo_models/") for word in COMMANDS[script]]
    words = [str(of_faces()) if word == "runs/demo/rdface-sim" else word for word in words]
    for option in leave_out:
        del words[words.index(option) : words.index(option) + 2]
    path = Path(script) if script in FILES else ROOT / script
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words[1:], *map(str, more)])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            return end.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    return 0


def record(folder: str) -> dict:
    return json.loads(Path(folder, "run.json").read_text())


def test_the_page_has_four_whole_files_of_fewer_than_30_lines():
    assert list(FILES) == ["hf_backbone.py", "cascade_detector.py", "normal_faces.py", "question_reporter.py"]
    for name, code in FILES.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) < 30 and max(map(len, lines)) <= 120, name
    assert set(COMMANDS) == {*FILES, "train_classifier.py"}
    linked = [README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")]
    assert all("(docs/extending.md)" in text for text in linked)


# ---- backbone


def test_a_backbone_of_ones_own_is_what_a_classifier_is_trained_with(here, capfd):
    exec(SMALL_NETWORK, {})
    network = Dinov2Model.from_pretrained("models/dinov2").eval()
    assert start("hf_backbone.py", leave_out=("--backbone_weights",)) == 2
    refusal = "hf_backbone.py: --backbone hf: name its FOLDER/model.safetensors with --backbone_weights"
    assert capfd.readouterr().err.splitlines()[-1] == refusal
    assert start("hf_backbone.py") == 0
    predictions = pd.read_parquet("runs/hf/predictions.parquet")
    assert set(predictions["backbone"]) == {"hf"} and predictions["image_id"].nunique() == len(load_images(of_faces()))
    assert record("runs/hf")["backbone_sha256"] == weights_sha256(network)
    weights = Path("models/dinov2/model.safetensors")
    backbone = backbones.load_backbone("hf", weights)
    pixels = torch.rand(2, 3, backbone.image_size, backbone.image_size)
    with torch.inference_mode():
        assert torch.equal(backbone.network(pixels), network(pixels).last_hidden_state[:, 0])
    random = backbones.load_backbone("hf", weights, pretrained=False).network
    assert weights_sha256(random) != weights_sha256(network)

    # predict.py knows the name only if it imports the file, and the weights only if they are named
    model = "runs/hf/folds/seed0_fold0/model"
    del backbones.LOADERS["hf"]
    assert "known only to a script that imports its file (docs/extending.md)" in predict(PREDICT, model, new_faces())
    import_line, _, call = OWN_BACKBONE.partition("\n\n")
    named = re.sub(r"backbone = load_backbone\(.*\)", call.strip(), PREDICT)
    assert "known only to a script" in predict(named, model, new_faces())
    capfd.readouterr()
    assert predict(f"{import_line}\n{named}", model, new_faces()) is None
    said = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert {line[0] for line in said} == {"0.jpg", "1.jpg"} and {line[1] for line in said} <= {"AAR", "NA", "WS"}
    with pytest.raises(InputError, match=r"is a folder; name the file of weights in it, such as .*/model\.safet"):
        backbones.load_backbone("hf", Path("models/dinov2"))


def new_faces() -> Path:
    """A folder with the photographs of two further people."""
    Path("new").mkdir(exist_ok=True)
    for n in range(2):
        face(100 + n).save(f"new/{n}.jpg")
    return Path("new")


def predict(code: str, *folders: object) -> str | None:
    """The line with which predict.py ended; None if it reached its end."""
    Path("predict.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["predict.py", *map(str, folders)])
        try:
            runpy.run_path("predict.py", run_name="__main__")
        except SystemExit as end:
            return end.code
    return None


def test_predict_of_the_readme_takes_a_folder_or_a_file_and_names_what_belongs_in_place_of_others(here, capsys):
    Path("demo_models").symlink_to(ROOT / "demo_models")
    flags = ("--dataset_name", of_faces(), "--backbone", "demo_models/backbone", "--fold", 0, "--output_dir")
    train_classifier.main(train_classifier.parse_args([*map(str, flags), "runs/first"]))
    remedy = "name the model of one fold, such as RUN/folds/seed0_fold0/model (--no-save_models leaves none)"
    nowhere = predict(PREDICT, "runs/nowhere/model", new_faces())
    assert nowhere == f"predict.py: classifier runs/nowhere/model: there is no such folder; {remedy}"
    of_run = predict(PREDICT, "runs/first", new_faces())
    assert of_run == f"predict.py: classifier runs/first: holds no config.json; {remedy}"
    model = "runs/first/folds/seed0_fold0/model"
    remedy = "there is no photograph (.jpg, .jpeg, .png); name one, or a folder that holds some"
    for place in ("nowhere", "nowhere.jpg", f"{model}/config.json"):
        assert predict(PREDICT, model, place) == f"predict.py: {place}: {remedy}"
    said = "predict.py: name a model and photographs: python predict.py MODEL FOLDER_OR_PHOTOGRAPH"
    assert predict(PREDICT, model) == said
    for place, shown in ((new_faces(), {"0.jpg", "1.jpg"}), (new_faces() / "1.jpg", {"1.jpg"})):
        capsys.readouterr()
        assert predict(PREDICT, model, place) is None
        assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == shown
    train_classifier.main(train_classifier.parse_args([*map(str, flags), "runs/whole", "--align_faces", "none"]))
    whole = predict(PREDICT, "runs/whole/folds/seed0_fold0/model", new_faces())
    assert whole.endswith("was trained on whole images; docs/classification.md says what to change")


# ---- face detector


def test_faces_are_found_and_cut_out_by_a_detector_of_ones_own(here, capsys):
    Path("demo_models").symlink_to(ROOT / "demo_models")
    assert start("cascade_detector.py", "--fold", 0, "--backbone", "demo_models/backbone") == 0
    detector = faces.load_detector("cascade")
    pictures = [np.asarray(row["image"]) for row in load_images(of_faces())]
    found = detector.detect(pictures)
    assert record("runs/cascade")["faces_missed"] == found.count(None) < len(found) / 3
    errors = []  # in distances of the eyes
    for one, reference in zip(found, faces.load_detector("mtcnn").detect(pictures), strict=True):
        if one is not None:
            eyes = np.linalg.norm(reference.landmarks[1] - reference.landmarks[0])
            errors.append(np.linalg.norm(one.landmarks - reference.landmarks, axis=1).mean() / eyes)
    assert np.median(errors) < 0.25 and max(errors) < 0.5
    assert detector.record()["detector_sha256"] and detector.detect([np.zeros((96, 96, 3), np.uint8)]) == [None]

    # predict.py knows the name only if it imports the file
    del detector_names.FACE_DETECTORS["cascade"], sys.modules["cascade_detector"]
    model, photograph = "runs/cascade/folds/seed0_fold0/model", new_faces() / "0.jpg"
    refusal = predict(PREDICT, model, photograph)
    assert refusal.startswith("predict.py: there is no face detector 'cascade'; choose from insightface, mediapipe")
    assert refusal.endswith("was trained on, import the module that adds it (docs/extending.md)")
    assert "add `import cascade_detector` to `predict.py`" in PAGE
    capsys.readouterr()
    assert predict(f"import cascade_detector\n{PREDICT}", model, photograph) is None
    assert capsys.readouterr().out.startswith("0.jpg ")


def test_a_detector_with_a_file_is_one_line_of_its_table(here, monkeypatch):
    Path("own.py").write_text("def opened(model, device):\n    return model.name, device\n")
    own = detector_names.ModelDetector("own:opened", "FILE.bin")
    monkeypatch.setitem(detector_names.MODEL_DETECTORS, "own", own)
    Path("weights.bin").write_bytes(b"weights")
    assert faces.load_detector("own", model=Path("weights.bin")).network == ("weights.bin", "cpu")
    with pytest.raises(Exception, match=r"add --detector_model FILE\.bin"):
        faces.load_detector("own")


# ---- generator


def test_images_of_a_generator_of_ones_own_are_trained_on_where_they_may_be(here, capfd):
    assert start("normal_faces.py") == 0
    images, made = load_images(of_faces()), load_synthetic("runs/normal/synthetic")
    digests, sides = photograph_sha256(images), protocols.training_sides(images, "strict")
    assert len(made) == sum(4 * len(set(np.array(images["label"][:])[side.train])) for side in sides)
    for row in made.select_columns(["fold", "source_sha256"]):
        (side,) = (side for side in sides if side.number == row["fold"])
        assert row["source_sha256"] == [digests[number] for number in side.train]
    assert start("train_classifier.py", "--fold", 0) == 0
    ((n_made, fold),) = [(made["fold"][:].count(0), fold) for fold in record("runs/with_normal")["folds"]]
    assert fold["synthetic"]["n_train"] == n_made > 0 and fold["synthetic"]["generators"] == {"normal_faces": n_made}
    capfd.readouterr()

    # an image that says it was made for another fold than it was
    (shard,) = Path("runs/normal/synthetic/synthetic").glob("*.parquet")
    table = pq.read_table(shard)
    *others, last = table.to_pylist()
    last |= {"synthetic_id": "moved", "fold": 0}
    pq.write_table(pa.Table.from_pylist([*others, last], table.schema), shard)
    assert start("train_classifier.py", "--fold", 0, "--output_dir", "runs/moved") == 1
    error = capfd.readouterr().err
    assert "image moved" in error and not Path("runs/moved/predictions.parquet").exists()


# ---- reporter


def save_blip(folder: Path) -> None:
    """A BLIP that answers questions, of random weights, with a tokenizer of the words that it is asked with."""
    asked = " ".join([*report_sections.SECTIONS.values(), "what is unusual about the in this picture ? { }"])
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    words = list(dict.fromkeys([*special, *re.findall(r"\w+|[^\w\s]", asked.lower()), "long", "wide", "thin", "short"]))
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=False))
    tokens = {f"{name}_token": token for name, token in names.items()}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **tokens)
    ids = {f"{name}_token_id": words.index(f"[{token}]") for name, token in
           (("pad", "PAD"), ("bos", "DEC"), ("sep", "SEP"), ("eos", "SEP"))}  # fmt: skip
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    text = size | ids | {"vocab_size": len(words), "encoder_hidden_size": 32, "initializer_range": 0.5}
    vision = size | {"image_size": 32, "patch_size": 16, "initializer_range": 0.5}
    BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)


def test_reports_by_a_reporter_of_ones_own_come_out_of_generate(here):
    save_blip(here / "models" / "blip-vqa")
    assert start("question_reporter.py") == 0
    reports = open_reports("runs/questions")
    assert set(reports.columns["reporter"]) == {"questions"} and reports.ids == load_images(of_faces())["image_id"][:]
    import question_reporter

    reporter = question_reporter.QuestionReporter(None, None, torch.device("cpu"))
    prompt = report_sections.prompt_sha256(reporter.prompt)
    assert set(reports.columns["prompt_sha256"]) == {prompt}
    written = record("runs/questions")
    assert written["model_sha256"] == sha256_of(here / "models" / "blip-vqa" / "model.safetensors")
    assert written["prompt_sha256"] == prompt
    inputs = open_inputs(str(of_faces()), None, None, {})
    inputs.detector = faces.load_detector("mtcnn")
    texts = reporter.write_reports([inputs.picture(row)[0] for row in inputs.rows])
    assert reports.columns["report"] == texts and len(set(texts)) > len(texts) / 2
    assert {column for column in report_sections.SECTIONS if None in reports.columns[column]} == set()


# ---- what a table names


def test_a_command_is_made_anew_when_a_file_changes_that_only_a_table_names(tmp_path):
    table = tmp_path / "names.py"
    table.write_text('REPORTERS = {"markup": "reporting.markup:without_hidden"}\n')
    assert source_files._imported(table) == [ROOT / "reporting" / "markup.py"]
    named = [*reporter_names.REPORTERS.values(), *detector_names.FACE_DETECTORS.values()]
    modules = {ROOT / f"{place.partition(':')[0].replace('.', '/')}.py" for place in named}
    assert modules <= set(source_files.sources_of("vlm_report_eval.py"))
