"""train_dreambooth.py: the command on one and two processes, both protocols, stops, leaks and refusals."""

import functools
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from small_pipelines import saved_pipeline, tiny_pipeline
from test_model_upload import TOKEN, committed, hub_of_somebody
from test_routed_lora import nearly_equal
from test_train_classifier import ENVIRONMENT, LAUNCH_TWO, painted_faces, save_dataset, start, with_picture
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import train_dreambooth
from curation import protocols
from generation import diffusion_pipelines as diffusion
from generation import dreambooth, lora_files, prompts, synthetic_images
from harness import errors, launched_processes
from publishing import withdrawal

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "train_dreambooth.py"
CONTRACT = ["image", "synthetic_id", "label", "generator", "base_model", "adapter_sha256", "prompt", "seed"]
CONTRACT += ["protocol", "fold", "source_image_ids", "source_sha256", "made_from", "hpo_said"]


@pytest.fixture(scope="module")
def tiny_rdface(tmp_path_factory) -> Path:
    """33 images: too few for protocol paper."""
    return save_dataset(tmp_path_factory.mktemp("tiny") / "tiny-rdface", painted_faces())


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return saved_pipeline(tmp_path_factory.mktemp("base") / "tiny-diffusion")


@pytest.fixture(scope="module")
def tiny(tiny_rdface, base, tmp_path_factory) -> tuple:
    """Flags of every run on the small dataset; a later flag wins."""
    flags = ("--dataset_name", tiny_rdface, "--pretrained_model_name_or_path", base)
    flags += ("--cache_dir", tmp_path_factory.mktemp("pixels"), "--rank", 2, "--learning_rate", 1e-2)
    flags += ("--max_train_steps", 4, "--num_images", 2, "--num_inference_steps", 3, "--fold", 0)
    return flags


def run_here(*flags: object) -> Path:
    """main in this process, where a launch would only add seconds; returns --output_dir."""
    args = train_dreambooth.parse_args([str(flag) for flag in flags])
    train_dreambooth.main(args)
    return args.output_dir


def rows_of(folder: Path) -> list[dict]:
    """The rows of a folder of synthetic images, as the files hold them."""
    return [row for file in sorted(folder.glob("synthetic/*.parquet")) for row in pq.read_table(file).to_pylist()]


def pixels_of(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), np.int16)


def training_side(dataset: Path, fold: int, condition: str) -> list[str]:
    images = datasets.load_dataset(str(dataset), split="train").remove_columns("image")
    names = images.features["label"].names
    (side,) = protocols.folds(images, "strict", fold)
    return [images[row]["image_id"] for row in side.train.tolist() if names[images[row]["label"]] == condition]


@pytest.fixture(scope="module")
def two_processes(tiny, tmp_path_factory) -> Path:
    """The folder of a run of three conditions, one with a single photograph, on two CPU processes."""
    output = tmp_path_factory.mktemp("runs") / "two"
    flags = ("--conditions", "C0", "C1", "ONE", "--adapters_per_batch", 2, "--output_dir", output)
    run = start([*LAUNCH_TWO[:-1], SCRIPT], *tiny, *flags)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written:") == 1  # the main process alone speaks
    return output


# ---- what a run leaves


def test_images_carry_the_contract_and_their_sources_are_the_conditions_training_side(two_processes, tiny_rdface):
    images = datasets.load_dataset(str(two_processes / "fold0" / "synthetic"), split="train")
    assert images.column_names == CONTRACT
    assert (
        images.features["label"].names == datasets.load_dataset(str(tiny_rdface), split="train").features["label"].names
    )
    rows = rows_of(two_processes / "fold0" / "synthetic")
    assert [row["synthetic_id"] for row in rows] == [f"{c}_{i}" for c in ("C0", "C1", "ONE") for i in (0, 1)]
    held_out = {row["image_id"] for row in painted_faces() if row["strict_fold"] == 0}
    for row in rows:
        condition = row["synthetic_id"].partition("_")[0]
        assert row["source_image_ids"] == training_side(tiny_rdface, 0, condition)
        assert not held_out & set(row["source_image_ids"])
        assert (row["generator"], row["protocol"], row["fold"]) == ("dreambooth", "strict", 0)
        assert row["base_model"] == "tiny-diffusion"  # no path of this machine
        assert (row["made_from"], row["hpo_said"]) == ("adapter", None)
        assert row["seed"] == synthetic_images.image_seed(0, condition, int(row["synthetic_id"].rpartition("_")[2]))
        assert row["adapter_sha256"] == lora_files.sha256(two_processes / "fold0" / "adapters" / condition)
        assert pixels_of(row).shape == (16, 16, 3)
    assert (two_processes / "fold0" / "samples.png").is_file() and not (two_processes / "work").exists()


def test_adapters_are_peft_files_with_alpha_and_name_their_sources(two_processes, tiny_rdface):
    folder = two_processes / "fold0" / "adapters" / "C1"
    weights = load_file(folder / "pytorch_lora_weights.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert {name.split(".")[0] for name in weights} == {"unet"}
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if ".up." in name)  # it did learn
    assert json.loads((folder / "sources.json").read_text())["source_image_ids"] == training_side(tiny_rdface, 0, "C1")
    found = withdrawal.derived(two_processes, training_side(tiny_rdface, 0, "C1")[0])
    state = two_processes / "fold0" / "checkpoints" / "C0" / "state.pt"  # of both, from which more steps go on
    sheet = two_processes / "fold0" / "samples.png"
    assert found.files == [folder / "pytorch_lora_weights.safetensors", state, sheet]
    assert sum(found.rows.values()) == 2


def test_record_holds_arguments_versions_and_digests_and_no_token(two_processes):
    record = json.loads((two_processes / "run.json").read_text())
    assert record["arguments"]["rank"] == 2 and record["n_processes"] == 2 and record["simulated"] is True
    assert [each["condition"] for each in record["adapters"]] == ["C0", "C1", "ONE"]
    assert len(record["unet_sha256"]) == 64 and "hub_token" not in record["arguments"]
    card = (two_processes / "README.md").read_text()
    assert "SIMULATED" in card and "alpha 2" in card


def test_one_process_and_one_image_at_a_time_give_the_same_pictures(two_processes, tiny, tmp_path):
    flags = ("--conditions", "C0", "C1", "ONE", "--adapters_per_batch", 2, "--sample_batch_size", 1)
    output = run_here(*tiny, *flags, "--output_dir", tmp_path / "one")
    theirs, ours = (rows_of(folder / "fold0" / "synthetic") for folder in (two_processes, output))
    assert len(theirs) == len(ours) == 6
    for one, other in zip(theirs, ours, strict=True):
        assert nearly_equal(pixels_of(one), pixels_of(other))
        of_weights = {"image": 0, "adapter_sha256": 0}  # another process may round the last bit otherwise
        assert one | of_weights == other | of_weights


def test_killed_and_resumed_equals_unbroken(tiny, tmp_path):
    flags = ("--conditions", "C2", "C3", "C4", "--adapters_per_batch", 2, "--max_train_steps", 24)
    flags += ("--checkpointing_steps", 3, "--train_text_encoder", "--with_prior_preservation", "--num_class_images", 3)
    whole = run_here(*tiny, *flags, "--output_dir", tmp_path / "whole")
    stopped = tmp_path / "stopped"
    command = [str(part) for part in (sys.executable, SCRIPT, *tiny, *flags, "--output_dir", stopped)]
    with subprocess.Popen(command, env=ENVIRONMENT | {"HF_HOME": str(tmp_path)}, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 200
        while not (stopped / "work" / "fold0" / "C4.pt").is_file() and run.poll() is None:  # of the second batch
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run.kill()
    assert (stopped / "work").is_dir() and not (stopped / "run.json").exists()
    run_here(*tiny, *flags, "--output_dir", stopped, "--resume_from_checkpoint", "latest")
    for condition in ("C2", "C3", "C4"):
        one, other = (lora_files.load(folder / "fold0" / "adapters" / condition) for folder in (whole, stopped))
        assert one.keys() == other.keys() == {"unet", "text_encoder"}
        for network in one:
            assert all(torch.equal(one[network][name], other[network][name]) for name in one[network])
    for one, other in zip(*(rows_of(folder / "fold0" / "synthetic") for folder in (whole, stopped)), strict=True):
        assert one == other  # to the last byte
    with pytest.raises(errors.InputError, match="was started with rank 2, not 3"):
        run_here(*tiny, *flags, "--rank", 3, "--output_dir", stopped, "--resume_from_checkpoint", "latest")


def test_the_gradient_scaler_of_half_precision_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    """fp16 wants a GPU: here its scaler is put beside float32 networks, and doubles its scale every third step."""

    def with_scaler(*_: object) -> Accelerator:
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    def clip_and_stop(parameters, max_norm):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 9:
            raise KeyboardInterrupt
        clip(parameters, max_norm)

    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, growth_interval=3))
    monkeypatch.setattr(launched_processes, "open_accelerator", with_scaler)
    flags = ("--conditions", "C2", "C3", "--adapters_per_batch", 1, "--max_train_steps", 8)
    flags += ("--checkpointing_steps", 4, "--num_images", 1)
    whole = run_here(*tiny, *flags, "--output_dir", tmp_path / "whole")
    clip, n_steps, stopped = dreambooth.clip_each_adapter, -4, tmp_path / "stopped"
    monkeypatch.setattr(dreambooth, "clip_each_adapter", clip_and_stop)
    with pytest.raises(KeyboardInterrupt):  # in the fifth step of C3
        run_here(*tiny, *flags, "--output_dir", stopped)
    checkpoint = torch.load(stopped / "work" / "fold0" / "C3.pt", weights_only=True)
    assert checkpoint["step"] == 4 and checkpoint["scaler"]["scale"] == 2 * 65536
    run_here(*tiny, *flags, "--output_dir", stopped, "--resume_from_checkpoint", "latest")
    for condition in ("C2", "C3"):
        one, other = (lora_files.load(folder / "fold0" / "adapters" / condition)["unet"] for folder in (whole, stopped))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_gradient_checkpointing_recomputes_activations_and_changes_no_adapter(tiny, tmp_path, monkeypatch):
    recomputed, checkpoint = [], torch.utils.checkpoint.checkpoint

    def counting(*inputs: object, **options: object) -> object:
        recomputed.append(1)
        return checkpoint(*inputs, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counting)
    flags = (*tiny, "--conditions", "ONE", "--max_train_steps", 2, "--num_images", 0)
    plain = run_here(*flags, "--output_dir", tmp_path / "plain")
    assert not recomputed
    spared = run_here(*flags, "--gradient_checkpointing", "--output_dir", tmp_path / "spared")
    assert recomputed
    one, other = (lora_files.load(folder / "fold0" / "adapters" / "ONE")["unet"] for folder in (plain, spared))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_k_shot_sees_the_support_set_that_the_classifier_sees(tiny, tiny_rdface, tmp_path):
    output = run_here(*tiny, "--k_shot", 1, "--seed", 3, "--num_images", 1, "--output_dir", tmp_path / "shot")
    images = datasets.load_dataset(str(tiny_rdface), split="train").remove_columns("image")
    (fold,) = protocols.folds(images, "strict", 0)
    support = protocols.k_shot(fold, images["label"][:], 1, 3)
    seen = {name for row in rows_of(output / "fold0" / "synthetic") for name in row["source_image_ids"]}
    assert seen == {images[row]["image_id"] for row in support.train.tolist()} and len(seen) == 9


def test_paper_has_one_adapter_for_all_folds_and_never_sees_the_test_side(base, tmp_path):
    rows = painted_faces(8)
    dataset = save_dataset(tmp_path / "larger-rdface", rows)
    flags = ("--dataset_name", dataset, "--pretrained_model_name_or_path", base, "--cache_dir", tmp_path / "pixels")
    flags += ("--protocol", "paper", "--conditions", "C0", "--max_train_steps", 2, "--num_images", 1)
    output = run_here(*flags, "--num_inference_steps", 2, "--output_dir", tmp_path / "out")
    (row,) = rows_of(output / "paper" / "synthetic")
    train = [each["image_id"] for each in rows if each["label"] == "C0" and each["paper_split"] == "train"]
    assert row["fold"] is None and row["source_image_ids"] == train and 0 < len(train) < 8
    assert row["prompt"] == "photo of a C0 child"  # the published one


# ---- prompts


def test_prompts_name_the_terms_recorded_for_the_photograph_and_a_rare_word():
    images = datasets.Dataset.from_dict(
        {"label": [0, 1, 1], "hpo_ids": [["HP:0000316", "HP:9999999"], None, []], "disease_name": ["A", "B", None]},
        features=datasets.Features(
            {
                "label": datasets.ClassLabel(names=["AAR", "NO"]),
                "hpo_ids": datasets.List(datasets.Value("string")),
                "disease_name": datasets.Value("string"),
            }
        ),
    )
    described = prompts.field_values(images, ["zxq", "qpf", "wvd"])
    template = "photo of a {rare_token} child{with_terms}, {disease_abbr}, {disease_name}"
    assert template.format(**described[0]) == "photo of a zxq child with hypertelorism, AAR, A"
    assert template.format(**described[1]) == "photo of a qpf child, NO, B"
    assert described[2]["disease_name"] == "NO" and described[2]["with_terms"] == ""
    assert [row["rare_token"] for row in prompts.field_values(images, [])] == ["AAR", "NO", "NO"]


@pytest.mark.parametrize("kind", ["clip", "byte level", "characters"])
def test_rare_tokens_are_whole_words_of_any_vocabulary(kind):
    if kind == "clip":
        tokenizer = tiny_pipeline().tokenizer
    else:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        texts = ["a child of the photo"] * 50 + ["a zqx child", "a vvk child"] * 4
        size = 300 if kind == "byte level" else 1
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        )
        from tokenizers.decoders import ByteLevel

        bpe.decoder = ByteLevel()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    words = prompts.rare_tokens(tokenizer)
    if kind == "characters":
        assert words == []
        return
    assert words and len(set(words)) == len(words)
    for word in words:
        assert 3 <= len(word) <= 4 and len(tokenizer(f"a {word} child", add_special_tokens=False).input_ids) == len(
            tokenizer("a", add_special_tokens=False).input_ids
        ) + 1 + len(tokenizer(" child", add_special_tokens=False).input_ids)
    if kind == "byte level":
        assert words[0] in ("zqx", "vvk")  # the last merges


# ---- blank pictures, leaks, refusals


def test_blank_pictures_are_dropped_counted_and_drawn_again(tiny, tmp_path, monkeypatch, capsys):
    whole, sampled = run_here(*tiny, "--conditions", "C5", "--output_dir", tmp_path / "whole"), diffusion.sample
    blank = {synthetic_images.image_seed(0, "C5", index) for index in (0, 2)}

    def blackened(pipeline, embeddings, negative, seeds, *more, **named):
        """As a safety checker does it: some pictures come out black."""
        pictures, flagged = sampled(pipeline, embeddings, negative, seeds, *more, **named)
        pictures[[seed in blank for seed in seeds]] = 0
        return pictures, flagged

    monkeypatch.setattr(diffusion, "sample", blackened)
    output = run_here(*tiny, "--conditions", "C5", "--output_dir", tmp_path / "blank")
    kept = rows_of(output / "fold0" / "synthetic")
    assert [row["synthetic_id"] for row in kept] == ["C5_1", "C5_3"]
    assert kept[0]["image"] == rows_of(whole / "fold0" / "synthetic")[1]["image"]
    told = capsys.readouterr().out
    assert "(SIMULATED, config " in told and "C5: 2 blank images dropped, 2 kept" in told
    blank |= {synthetic_images.image_seed(0, "C5", index) for index in range(3, 6)}
    output = run_here(*tiny, "--conditions", "C5", "--output_dir", tmp_path / "mostly")
    assert [row["synthetic_id"] for row in rows_of(output / "fold0" / "synthetic")] == ["C5_1"]  # 6 were drawn
    assert "C5: 5 blank images dropped, 1 kept" in capsys.readouterr().out
    blank.add(synthetic_images.image_seed(0, "C5", 1))
    with pytest.raises(errors.InputError, match="fold0: every image is blank; look at the safety checker"):
        run_here(*tiny, "--conditions", "C5", "--output_dir", tmp_path / "all")


def again(row: dict) -> dict:
    """The same picture in other bytes."""
    picture = Image.open(io.BytesIO(row["image"]["bytes"]))
    return with_picture(picture, row, compress_level=0)["image"]


@pytest.mark.parametrize("column", ["group_id", "sha256", "pixels"])
def test_a_held_out_photograph_on_the_training_side_stops_the_run(column, tiny, tmp_path):
    rows = painted_faces()
    trained, tested = (next(row for row in rows if row["strict_fold"] == fold) for fold in (1, 0))
    if column == "group_id":  # of a condition that is never tested, but of a tested patient
        rows[-1]["group_id"] = tested["group_id"]
        folder = save_dataset(tmp_path / "same", rows)
        with pytest.raises(errors.InputError, match="ONE: it has no training photograph in fold0"):
            run_here(*tiny, "--dataset_name", folder, "--conditions", "ONE", "--output_dir", tmp_path / "out")
        return
    trained["image"] = again(tested) if column == "pixels" else tested["image"]
    folder = save_dataset(tmp_path / "same", rows)
    with pytest.raises(errors.LeakError, match=f"{column} .* is held out and in training"):
        run_here(*tiny, "--dataset_name", folder, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out" / "fold0").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--pretrained_model_name_or_path", "./nowhere"),
            "./nowhere: there is no such folder; give one in diffusers'",
        ),
        (("--pretrained_vae_model_name_or_path", "./nowhere"), "--pretrained_vae_model_name_or_path ./nowhere: there"),
        (("--conditions", "C0", "XYZ"), "--conditions XYZ: the dataset has no such condition; it has C0, C1"),
        (("--instance_prompt", "a {name}"), "there is no field {name}; use {disease_abbr}, {disease_name}"),
        (("--instance_prompt", "a {disease_abbr"), "--instance_prompt 'a {disease_abbr': "),
        (("--resolution", "15"), "--resolution 15: must be a multiple of 2"),
        (("--fold", "7"), "there is no fold 7 under protocol strict"),
        (("--protocol", "paper", "--fold", "all"), "too small for protocol paper; use --protocol strict"),
        (("--dataset_name", "./nowhere"), "dataset ./nowhere: there is no such folder"),
    ],
)
def test_refusals_are_one_line_before_any_work(flags, said, tiny, tmp_path):
    with pytest.raises((errors.InputError, errors.ProtocolError)) as error:
        run_here(*tiny, *flags, "--output_dir", tmp_path / "out")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--k_shot", "1", "--protocol", "paper"), "under --protocol paper one adapter serves all folds"),
        (("--rank", "0"), "--rank must be at least 1"),
        (("--learning_rate", "nan"), "--learning_rate must be positive"),
        (("--num_images", "-1"), "--num_images and --seed must not be negative"),
    ],
)
def test_impossible_flags_are_refused_with_exit_code_2(flags, said, tiny, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_dreambooth.parse_args([str(flag) for flag in (*tiny, "--output_dir", "out", *flags)])
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_a_pipeline_that_cannot_be_trained_is_refused(tiny, tmp_path):
    saved_pipeline(tmp_path / "sample", prediction_type="sample")
    with pytest.raises(errors.InputError, match="prediction_type sample cannot be trained"):
        run_here(*tiny, "--pretrained_model_name_or_path", tmp_path / "sample", "--output_dir", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.InputError, match="give a StableDiffusionPipeline folder with safetensors"):
        run_here(*tiny, "--pretrained_model_name_or_path", tmp_path / "empty", "--output_dir", tmp_path / "out")


def test_revision_and_variant_are_those_of_the_pipeline_that_is_opened(tiny, tmp_path, monkeypatch):
    asked = {}

    def refuse(name: str, dtype: torch.dtype, vae_name: str | None, revision: str | None, variant: str | None) -> None:
        asked.update(revision=revision, variant=variant)
        raise errors.InputError("enough is known")

    monkeypatch.setattr(diffusion, "open_pipeline", refuse)
    with pytest.raises(errors.InputError, match="enough is known"):
        run_here(*tiny, "--revision", "v1", "--variant", "fp16", "--output_dir", tmp_path / "out")
    assert asked == {"revision": "v1", "variant": "fp16"}


def test_a_loss_that_is_not_finite_stops_with_the_condition(tiny, tmp_path):
    with pytest.raises(errors.InputError, match=r"fold0, C\d, step \d+: loss is not finite; lower --learning_rate"):
        run_here(*tiny, "--learning_rate", 1e30, "--max_grad_norm", 1e30, "--output_dir", tmp_path / "out")


def test_a_foreign_folder_is_left_alone(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.InputError, match="holds files that no earlier run made"):
        run_here(*tiny, "--output_dir", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_adapters_are_uploaded_to_a_private_repository_without_names_of_photographs(tiny, tmp_path):
    command = [sys.executable, SCRIPT, *tiny, "--conditions", "C0", "--num_images", 0, "--max_train_steps", 1]
    command += ["--push_to_hub", "--hub_model_id", "lab/faces", "--hub_token", TOKEN, "--output_dir", tmp_path / "out"]
    with hub_of_somebody() as hub:
        environment = hub.environment(tmp_path / "home", TOKEN) | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
        arguments = [str(part) for part in command]
        run = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=200, check=False)
        assert run.returncode == 0, run.stderr
        assert committed(hub) == {"README.md", "fold0/adapters/C0/pytorch_lora_weights.safetensors"}
        assert hub.repository("lab/faces", "model").private
        assert b"C0.2" not in b"".join(row.body for row in hub.ledger)
    assert "lab/faces (private)" in run.stdout and TOKEN not in run.stdout + run.stderr
