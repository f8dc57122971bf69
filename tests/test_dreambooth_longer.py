"""train_dreambooth.py: a finished run made longer by steps or images equals an unbroken one; prompts are never cut."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from small_pipelines import saved_pipeline, tiny_pipeline
from test_generator_provenance import dream, rows_of
from test_train_classifier import painted_faces, save_dataset

import train_dreambooth
from curation import protocols
from generation import diffusion_pipelines as diffusion
from generation import dreambooth, lora_files, prompts, support_sets, synthetic_images
from harness import errors
from phenotyping import phenotypes


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return saved_pipeline(tmp_path_factory.mktemp("base") / "tiny-diffusion")


@pytest.fixture(scope="module")
def flags(base, tmp_path_factory) -> tuple:
    """Of every run; a later flag wins. One batch of two conditions and one of one."""
    folder = tmp_path_factory.mktemp("tiny")
    given = ("--dataset_name", save_dataset(folder / "tiny-rdface", painted_faces()), "--cache_dir", folder / "pixels")
    given += ("--pretrained_model_name_or_path", base, "--rank", 2, "--learning_rate", 1e-2, "--fold", 0)
    given += ("--conditions", "C0", "C1", "C2", "--adapters_per_batch", 2, "--sample_batch_size", 1)
    given += ("--with_prior_preservation", "--num_class_images", 2, "--num_inference_steps", 1)
    return (*given, "--checkpointing_steps", 3, "--max_train_steps", 2, "--num_images", 2)


LONGER = ("--max_train_steps", 5)
LATEST = ("--resume_from_checkpoint", "latest")


@pytest.fixture(scope="module")
def short(flags, tmp_path_factory) -> Path:
    return dream(*flags, "--output_dir", tmp_path_factory.mktemp("runs") / "short")


@pytest.fixture(scope="module")
def long(flags, tmp_path_factory) -> Path:
    """Never stopped."""
    return dream(*flags, *LONGER, "--output_dir", tmp_path_factory.mktemp("runs") / "long")


@pytest.fixture
def run(short, tmp_path) -> Path:
    return shutil.copytree(short, tmp_path / "run")


def same_adapters(one: Path, other: Path) -> bool:
    names = [path.name for path in sorted((one / "fold0/adapters").iterdir())]
    digests = [[lora_files.sha256(run / "fold0/adapters" / name) for name in names] for run in (one, other)]
    return len(names) == 3 and digests[0] == digests[1]


# ---- more steps


@pytest.mark.parametrize("kept", [True, False])
def test_more_steps_of_a_finished_run_equal_an_unbroken_run_of_that_length(kept, run, long, flags, monkeypatch):
    assert not same_adapters(run, long)
    steps, drawn = [], dreambooth.drawn_batch
    if not kept:  # to spare the disk: training then begins with the first step
        shutil.rmtree(run / "fold0/checkpoints")

    def counting(supports, encoded, noising, step, training):
        steps.append(step)
        return drawn(supports, encoded, noising, step, training)

    monkeypatch.setattr(dreambooth, "drawn_batch", counting)
    dream(*flags, *LONGER, *LATEST, "--output_dir", run)
    assert steps == 2 * list(range(2 if kept else 0, 5))
    assert same_adapters(run, long)
    assert rows_of(run / "fold0/synthetic") == rows_of(long / "fold0/synthetic")
    assert (run / "fold0/sampling.json").read_text() == (long / "fold0/sampling.json").read_text()
    assert not (run / "work").exists()


def test_a_longer_run_that_was_stopped_goes_on(run, long, flags, monkeypatch):
    def stopping(supports, encoded, noising, step, training):
        if supports[0].condition == "C2" and step == 4:
            raise KeyboardInterrupt
        return drawn(supports, encoded, noising, step, training)

    drawn = dreambooth.drawn_batch
    monkeypatch.setattr(dreambooth, "drawn_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        dream(*flags, *LONGER, *LATEST, "--output_dir", run)
    assert lora_files.record_of(run / "fold0/adapters/C2")["steps"] == 2  # the earlier one is still there
    monkeypatch.undo()
    dream(*flags, *LONGER, *LATEST, "--output_dir", run)
    assert same_adapters(run, long)
    assert rows_of(run / "fold0/synthetic") == rows_of(long / "fold0/synthetic")


def test_the_state_that_is_kept_is_three_times_an_adapter(short):
    (state,) = (short / "fold0/checkpoints/C2").glob("*.pt")
    content = torch.load(state, weights_only=True)
    n_bytes = sum(4 * weight.numel() for weight in content["weights"])
    moments = sum(4 * m.numel() for s in content["optimizer"]["state"].values() for m in s.values() if m.ndim)
    assert moments == 2 * n_bytes
    saved = lora_files.load(short / "fold0/adapters/C2")["unet"]
    assert n_bytes == sum(4 * weight.numel() for weight in saved.values())
    assert json.loads((state.parent / "sources.json").read_text())["source_image_ids"]


@pytest.mark.parametrize(
    ("fewer", "said"),
    [
        (("--max_train_steps", 1), "--max_train_steps 1: adapter "),
        (("--num_images", 1), "--num_images 1: "),
        (("--num_images", 0), "--num_images 0: "),
    ],
)
def test_a_finished_run_is_not_made_shorter(fewer, said, run, flags):
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    with pytest.raises(errors.InputError) as refusal:
        dream(*flags, *fewer, *LATEST, "--output_dir", run)
    assert str(refusal.value).startswith(said) and str(refusal.value).endswith("; ask for at least as many")
    after = {path: path.read_bytes() for path in before}
    assert after == before and (run / "run.json").is_file()


# ---- more images


def test_more_images_are_put_behind_those_that_there_are(run, short, flags, tmp_path):
    adapter = run / "fold0/adapters/C0" / lora_files.WEIGHTS_NAME
    written = adapter.stat().st_mtime_ns
    dream(*flags, "--num_images", 4, *LATEST, "--output_dir", run)
    unbroken = dream(*flags, "--num_images", 4, "--output_dir", tmp_path / "unbroken")
    few, many, whole = (rows_of(folder / "fold0/synthetic") for folder in (short, run, unbroken))
    assert [row["synthetic_id"] for row in many] == [f"{c}_{i}" for c in ("C0", "C1", "C2") for i in range(4)]
    assert [row for row in many if int(row["synthetic_id"][-1]) < 2] == few  # to the last byte
    assert many == whole  # since one image is sampled at a time
    assert adapter.stat().st_mtime_ns == written
    assert json.loads((run / "run.json").read_text())["arguments"]["num_images"] == 4


def test_more_images_of_a_run_that_dropped_blank_ones(flags, tmp_path, monkeypatch, capsys):
    given, sampled = (*flags, "--conditions", "C2"), diffusion.sample
    blank = {synthetic_images.image_seed(0, "C2", index) for index in (1, 2, 5)}

    def blackened(pipeline, embeddings, negative, seeds, *more, **named):
        pictures, flagged = sampled(pipeline, embeddings, negative, seeds, *more, **named)
        if not named:  # not of the prior
            pictures[[seed in blank for seed in seeds]] = 0
        return pictures, flagged

    monkeypatch.setattr(diffusion, "sample", blackened)
    dream(*given, "--num_images", 2, "--output_dir", tmp_path / "run")
    assert [row["synthetic_id"] for row in rows_of(tmp_path / "run/fold0/synthetic")] == ["C2_0", "C2_3"]
    dream(*given, "--num_images", 4, *LATEST, "--output_dir", tmp_path / "run")
    unbroken = dream(*given, "--num_images", 4, "--output_dir", tmp_path / "unbroken")
    many, whole = (rows_of(folder / "fold0/synthetic") for folder in (tmp_path / "run", unbroken))
    assert [row["synthetic_id"] for row in many] == ["C2_0", "C2_3", "C2_4", "C2_6"]
    assert many == whole
    assert "C2: 3 blank images dropped, 4 kept" in capsys.readouterr().out.splitlines()[-2]


def test_more_images_in_larger_batches_leave_the_earlier_ones_as_they_were(run, short, flags):
    dream(*flags, "--num_images", 5, "--sample_batch_size", 3, *LATEST, "--output_dir", run)
    few, many = (rows_of(folder / "fold0/synthetic") for folder in (short, run))
    assert [row for row in many if int(row["synthetic_id"][-1]) < 2] == few and len(many) == 15


# ---- prompts

TEMPLATE = "photo of a {rare_token} child{with_terms}, {disease_abbr}"


def described_images(n_terms: list[int]) -> datasets.Dataset:
    """A row for each number of HPO terms, all of condition AAR."""
    known = list(phenotypes.terms())
    columns = {"label": [0] * len(n_terms), "hpo_ids": [known[:n] for n in n_terms]}
    columns |= {"image_id": [f"AAR.{row}" for row in range(len(n_terms))]}
    features = {"label": datasets.ClassLabel(names=["AAR"]), "hpo_ids": datasets.List(datasets.Value("string"))}
    return datasets.Dataset.from_dict(columns, datasets.Features(features | {"image_id": datasets.Value("string")}))


def fitted(images: datasets.Dataset, *more: str, pipeline=None) -> tuple[dict[int, str], dict[int, list[str]]]:
    given = ["--dataset_name", "x", "--pretrained_model_name_or_path", "y", "--output_dir", "z"]
    args = train_dreambooth.parse_args([*given, "--instance_prompt", TEMPLATE, *more])
    nothing = np.array([], dtype=np.int64)
    folds = [protocols.Fold(0, np.arange(len(images)), nothing, nothing)]
    rows = support_sets.all_rows(images, folds, args.conditions)
    return train_dreambooth.fitting_prompts(images, rows, pipeline or tiny_pipeline(), args)


def test_terms_are_left_out_whole_from_the_last_until_the_prompt_is_read_whole():
    pipeline, images = tiny_pipeline(), described_images([0, 3, 60])
    by_row, left_out = fitted(images, pipeline=pipeline)
    terms = prompts.recorded_terms(images)[2]
    assert list(left_out) == [2] and 0 < len(left_out[2]) < 60
    kept = terms[: 60 - len(left_out[2])]
    assert kept + left_out[2] == terms and by_row[2].endswith(f" child with {', '.join(kept)}, AAR")
    one_more = by_row[2].replace(", AAR", f", {left_out[2][0]}, AAR")
    assert prompts.count_tokens(pipeline, by_row[2]) <= 77 < prompts.count_tokens(pipeline, one_more)
    ids = diffusion.token_ids(pipeline, list(by_row.values()))
    assert ids.shape == (3, 77)
    for prompt, row in zip(by_row.values(), ids, strict=True):  # everything that was said was read, to the last word
        assert (
            pipeline.tokenizer.decode(row, skip_special_tokens=True).replace(" ", "") == prompt.replace(" ", "").lower()
        )
    with pytest.raises(errors.InputError, match=r"tokens, and the text encoder reads 77; shorten it"):
        diffusion.token_ids(pipeline, ["photo", one_more])


@pytest.mark.parametrize("limit", [20, 40])
@pytest.mark.parametrize("of", ["tokenizer", "text encoder"])
def test_the_limit_is_the_tokenizers_or_the_text_encoders(limit, of):
    """Some tokenizers do not know any; then the encoder's positions end."""
    pipeline = tiny_pipeline()
    pipeline.tokenizer.model_max_length = limit if of == "tokenizer" else int(1e30)
    if of == "text encoder":
        pipeline.text_encoder.config.max_position_embeddings = limit
    by_row, left_out = fitted(described_images([60]), pipeline=pipeline)
    assert prompts.count_tokens(pipeline, by_row[0]) <= limit and left_out[0]
    assert diffusion.encode_prompts(pipeline, [by_row[0]]).shape == (1, limit, 16)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--instance_prompt", "photo of a {rare_token} child " * 30),
            "--instance_prompt, for image AAR.0, 'photo of a",
        ),
        (("--instance_prompt", "very " * 90 + "{with_terms}"), "--instance_prompt, for image AAR.0, 'very very"),
        (("--negative_prompt", "blurred " * 90), "--negative_prompt 'blurred"),
        (("--class_prompt", "photo " * 90, "--with_prior_preservation"), "--class_prompt 'photo"),
    ],
)
def test_a_prompt_without_terms_that_is_too_long_is_refused_with_its_length(more, said):
    with pytest.raises(errors.InputError) as refusal:
        fitted(described_images([5]), *more)
    message = str(refusal.value)
    assert message.startswith(said) and ", and the text encoder reads 77; shorten it" in message
    assert "\n" not in message and len(message) < 200


def test_images_record_the_prompt_that_was_read_and_the_run_what_was_left_out(flags, base, tmp_path, capsys):
    rows = painted_faces()
    plain = save_dataset(tmp_path / "described-rdface", rows)
    file = plain / "real" / "train-00000-of-00001.parquet"
    known, images = (
        list(phenotypes.terms()),
        datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache")),
    )
    terms = [known[:60] if row["label"] == "C1" else known[:2] for row in rows]
    images.add_column("hpo_ids", terms).to_parquet(file)
    given = (*flags, "--dataset_name", plain, "--instance_prompt", TEMPLATE, "--conditions", "C1", "C2")
    run = dream(*given, "--max_train_steps", 1, "--num_images", 1, "--output_dir", tmp_path / "run")
    pipeline = diffusion.open_pipeline(str(base), torch.float32)
    of = {row["synthetic_id"]: row["prompt"] for row in rows_of(run / "fold0/synthetic")}
    names = [phenotypes.terms()[hpo_id].name.lower() for hpo_id in known[:60]]
    assert f" child with {names[0]}, {names[1]}, C2" in of["C2_0"]
    assert all(prompts.count_tokens(pipeline, prompt) <= 77 for prompt in of.values())
    left_out = json.loads((run / "run.json").read_text())["terms_left_out"]
    n = len(left_out["C1"])
    assert list(left_out) == ["C1"] and set(left_out["C1"]) == set(names[60 - n :]) and names[59 - n] in of["C1_0"]
    n_seen = sum(row["label"] == "C1" and row["strict_fold"] != 0 for row in rows)
    assert f"77 tokens; terms are left out at {n_seen} of" in capsys.readouterr().out
    assert not (tmp_path / "refused").exists()
    with pytest.raises(errors.InputError, match="shorten it"):
        dream(*given, "--negative_prompt", "photo " * 90, "--output_dir", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
