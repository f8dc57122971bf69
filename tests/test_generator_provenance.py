"""What generators are gone on with: what comes from another fold, run or dataset is refused by its own record."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_pipelines import saved_pipeline
from test_train_classifier import painted_faces, save_dataset

import train_dreambooth
import train_fastgan
from generation import dreambooth_progress, fastgan_training, lora_files, synthetic_images, training_provenance
from harness import errors

EXPECTED = training_provenance.TrainedOn("strict", 1, "AAR", "d1", ["a", "b"], 0, None, "s1")


# ---- the comparison


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"source_sha256": ["a", "c"]},
            errors.LeakError,
            "file (of strict fold 1 AAR) was trained on 1 photographs that",
        ),
        (
            {"source_sha256": ["c", "d"], "fold": 0},
            errors.LeakError,
            "(of strict fold 0 AAR) was trained on 2 photog",
        ),
        (
            {"source_sha256": ["a"]},
            errors.InputError,
            "was trained on 1 of the 2 training photographs of strict fold 1 AAR",
        ),
        ({"source_sha256": []}, errors.InputError, "was trained on 0 of the 2 training photographs"),
        ({"source_sha256": ["b", "a"]}, errors.InputError, "was trained on 2 of the 2 training photographs"),
        ({"source_sha256": "ab"}, errors.InputError, "does not say what it was trained on"),
        ({"source_sha256": [None, "b"]}, errors.InputError, "does not say what it was trained on"),
        ({"fold": 0}, errors.InputError, "was trained with fold 0, and here it is 1"),
        (
            {"protocol": "paper", "fold": None},
            errors.InputError,
            "was trained with protocol paper, and here it is strict",
        ),
        ({"condition": "WS"}, errors.InputError, "was trained with condition WS, and here it is AAR"),
        ({"dataset": "d2"}, errors.InputError, "was trained with dataset d2"),
        ({"seed": 1}, errors.InputError, "was trained with seed 1"),
        ({"k_shot": 2}, errors.InputError, "was trained with k_shot 2"),
        ({"settings_sha256": "s2"}, errors.InputError, "was trained with settings_sha256 s2"),
    ],
)
def test_a_record_that_differs_anywhere_is_refused(change, error, said):
    training_provenance.check(EXPECTED.as_dict(), EXPECTED, "file", "delete it")
    with pytest.raises(error) as refusal:
        training_provenance.check(EXPECTED.as_dict() | change, EXPECTED, "file", "delete it")
    assert said in str(refusal.value) and str(refusal.value).endswith("; delete it")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("record", [None, {}, [], "strict", {"protocol": "strict"}])
def test_a_file_without_a_record_is_refused(record):
    with pytest.raises(errors.InputError, match=r"file does not say what it was trained on .*; delete it"):
        training_provenance.check(record, EXPECTED, "file", "delete it")


# ---- DreamBooth


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return save_dataset(tmp_path_factory.mktemp("tiny") / "tiny-rdface", painted_faces())


@pytest.fixture(scope="module")
def flags(dataset, tmp_path_factory) -> tuple:
    """Of every run; a later flag wins."""
    folder = tmp_path_factory.mktemp("base")
    given = ("--dataset_name", dataset, "--pretrained_model_name_or_path", saved_pipeline(folder / "tiny-diffusion"))
    given += ("--cache_dir", folder / "pixels", "--rank", 2, "--conditions", "C0", "C1", "--max_train_steps", 1)
    return (*given, "--num_images", 2, "--num_inference_steps", 1, "--adapters_per_batch", 2)


def dream(*given: object) -> Path:
    args = train_dreambooth.parse_args([str(flag) for flag in given])
    train_dreambooth.main(args)
    return args.output_dir


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory) -> Path:
    return dream(*flags, "--output_dir", tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def rows_of(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("synthetic/*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_rows_adapters_and_sources_name_the_same_photographs_by_digest(finished, dataset):
    real = datasets.load_dataset(str(dataset), split="train")
    digest_of = dict(zip(real["image_id"], real["sha256"], strict=True))
    seen = set()
    for number in range(5):
        folder = finished / f"fold{number}"
        for row in rows_of(folder / "synthetic"):
            digests = [digest_of[name] for name in row["source_image_ids"]]
            assert row["source_sha256"] == digests and digests
            adapter = folder / "adapters" / row["synthetic_id"].partition("_")[0]
            record = lora_files.record_of(adapter)
            assert record["source_sha256"] == digests and (record["protocol"], record["fold"]) == ("strict", number)
            assert record["condition"] == adapter.name and record["steps"] == 1 and record["k_shot"] is None
            said = json.loads((adapter / "sources.json").read_text())
            assert said["source_image_ids"] == row["source_image_ids"] and said["source_sha256"] == digests
            assert said["dataset"] == record["dataset"] and said["fold"] == number
            with safe_open(adapter / lora_files.WEIGHTS_NAME, "pt") as file:
                assert not any(name in value for value in file.metadata().values() for name in ("image_id", ".jpg"))
            seen.add(tuple(digests))
    assert len(seen) > 2  # folds do differ
    assert json.loads((finished / "run.json").read_text())["settings_sha256"] == record["settings_sha256"]


def without_record(adapter: Path) -> None:
    weights = load_file(adapter / lora_files.WEIGHTS_NAME)
    with safe_open(adapter / lora_files.WEIGHTS_NAME, "pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != lora_files.RECORD_KEY}
    save_file(weights, adapter / lora_files.WEIGHTS_NAME, metadata)


def copied(source: str, target: str) -> Callable[[Path], None]:
    """Something of a run's folder put in another place of it."""

    def change(run: Path) -> None:
        if (run / source).is_file():
            shutil.copy(run / source, run / target)
            return
        shutil.rmtree(run / target)
        shutil.copytree(run / source, run / target)

    return change


def part_of(source: str, target: str) -> Callable[[Path], None]:
    """A run that was stopped before its end, whose finished part of C0 is that of another place."""

    def change(run: Path) -> None:
        table = pa.concat_tables([pq.read_table(file) for file in (run / source).glob("synthetic/*.parquet")])
        (run / target).parent.mkdir(parents=True)
        pq.write_table(table.filter(pc.starts_with(table["synthetic_id"], "C0_")), run / target)

    return change


def of_another_adapter(run: Path) -> None:
    part_of("fold0/synthetic", "work/fold0/C0.parquet")(run)
    table = pq.read_table(run / "work/fold0/C0.parquet")
    index, other = table.column_names.index("adapter_sha256"), pa.array(["0" * 64] * len(table))
    pq.write_table(table.set_column(index, "adapter_sha256", other), run / "work/fold0/C0.parquet")


def cut(name: str, size: int = 100) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        for file in run.glob(name):
            file.write_bytes(file.read_bytes()[:size])

    return change


def fewer(run: Path) -> None:
    """A dataset of which a row was lost."""
    (file,) = (run / "fold0/synthetic/synthetic").glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file)


LEAK, INPUT = errors.LeakError, errors.InputError
WEIGHTS = lora_files.WEIGHTS_NAME


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            copied("fold0/adapters/C0", "fold2/adapters/C0"),
            LEAK,
            "fold2/adapters/C0 (of strict fold 0 C0) was trained on",
        ),
        (
            copied("fold0/adapters/C1", "fold0/adapters/C0"),
            LEAK,
            "fold0/adapters/C0 (of strict fold 0 C1) was trained on",
        ),
        (
            copied(f"fold0/adapters/C0/{WEIGHTS}", f"fold2/adapters/C0/{WEIGHTS}"),
            LEAK,
            "(of strict fold 0 C0) was trained",
        ),
        (copied("fold0/synthetic", "fold2/synthetic"), LEAK, "fold2/synthetic: image C0_0 was made from"),
        (part_of("fold0/synthetic", "work/fold2/C0.parquet"), LEAK, "work/fold2/C0.parquet: image C0_0 was made from"),
        (part_of("fold0/synthetic", "work/fold0/C1.parquet"), LEAK, "work/fold0/C1.parquet: image C0_0 was made from"),
        (of_another_adapter, INPUT, "image C0_0 is not of the adapter"),
        (lambda run: without_record(run / "fold0/adapters/C0"), INPUT, "does not say what it was trained on"),
        (
            copied("fold0/adapters/C1/sources.json", "fold0/adapters/C0/sources.json"),
            INPUT,
            "its sources.json does not name what its file was trained on",
        ),
        (cut(f"fold0/adapters/C0/{WEIGHTS}"), INPUT, "delete that folder, it is then trained again"),
        (cut(f"fold0/adapters/C0/{WEIGHTS}", 0), INPUT, "delete that folder, it is then trained again"),
        (cut("fold0/synthetic/synthetic/*.parquet"), INPUT, "fold0/synthetic: "),
        (fewer, INPUT, "fold0/synthetic: holds 3 images, and 4 were made"),
    ],
)
def test_what_another_fold_or_run_made_is_not_gone_on_with(change, error, said, run, flags):
    change(run)
    before = (run / "run.json").read_bytes()
    with pytest.raises(error) as refusal:
        dream(*flags, "--output_dir", run, "--resume_from_checkpoint", "latest")
    assert said in str(refusal.value) and "; delete" in str(refusal.value) and "\n" not in str(refusal.value)
    assert (run / "run.json").read_bytes() == before  # what was good is still there


def test_the_state_of_another_folds_training_is_not_gone_on_with(run, flags):
    copied("fold0/checkpoints/C0/state.pt", "fold2/checkpoints/C0/state.pt")(run)
    more = (*flags, "--output_dir", run, "--resume_from_checkpoint", "latest", "--max_train_steps", 2, "--fold", "all")
    with pytest.raises(errors.LeakError, match=r"state\.pt \(of strict fold 0 C0\) was trained on .*; delete it"):
        dream(*more)
    assert lora_files.record_of(run / "fold0/adapters/C0")["steps"] == 1  # nothing had been done


def test_what_was_refused_and_deleted_is_made_again_as_it_was(run, flags, finished):
    copied("fold0/adapters/C0", "fold2/adapters/C0")(run)
    shutil.rmtree(run / "fold2/adapters/C0")
    shutil.rmtree(run / "fold0/synthetic")
    dream(*flags, "--output_dir", run, "--resume_from_checkpoint", "latest")
    for number in (0, 2):
        one, other = (folder / f"fold{number}" for folder in (finished, run))
        assert lora_files.sha256(one / "adapters/C0") == lora_files.sha256(other / "adapters/C0")
        assert rows_of(one / "synthetic") == rows_of(other / "synthetic")


def test_an_adapter_of_a_dataset_whose_photographs_were_swapped_is_a_leak(run, flags, tmp_path):
    """The same ids, other people: names say nothing."""
    rows = painted_faces()
    one, other = (next(row for row in rows if row["strict_fold"] == fold and row["label"] == "C0") for fold in (0, 2))
    for column in ("image", "sha256"):
        one[column], other[column] = other[column], one[column]
    swapped = save_dataset(tmp_path / "swapped-rdface", rows)
    given = (*flags, "--dataset_name", swapped, "--fold", 0, "--num_images", 0, "--output_dir", tmp_path / "new")
    dream(*given)
    for source in ("adapters", "checkpoints"):
        shutil.rmtree(tmp_path / "new/fold0" / source)
    shutil.copytree(run / "fold0/adapters", tmp_path / "new/fold0/adapters")
    with pytest.raises(
        errors.LeakError, match=r"adapters/C0 \(of strict fold 0 C0\) was trained on 1 photographs that"
    ):
        dream(*given, "--resume_from_checkpoint", "latest")


def test_an_adapter_of_other_settings_is_refused(run, flags, tmp_path):
    given = (*flags, "--fold", 0, "--num_images", 0)
    other = dream(*given, "--learning_rate", 0.5, "--output_dir", tmp_path / "other")
    again = dream(*given, "--output_dir", tmp_path / "again")
    assert lora_files.sha256(again / "fold0/adapters/C0") == lora_files.sha256(
        run / "fold0/adapters/C0"
    )  # whatever --fold
    shutil.rmtree(again / "fold0/adapters/C0")
    shutil.copytree(other / "fold0/adapters/C0", again / "fold0/adapters/C0")
    with pytest.raises(errors.InputError, match="was trained with settings_sha256"):
        dream(*given, "--output_dir", again, "--resume_from_checkpoint", "latest")


def test_records_of_sampling_that_cannot_be_read_are_made_again(run, flags, finished):
    (run / "fold0" / dreambooth_progress.SAMPLED_NAME).write_text("")
    (run / "fold2" / dreambooth_progress.SAMPLED_NAME).write_text('{"num_images": "many"}')
    dream(*flags, "--output_dir", run, "--resume_from_checkpoint", "latest")
    for number in (0, 2):
        one, other = (folder / f"fold{number}" for folder in (finished, run))
        assert rows_of(one / "synthetic") == rows_of(other / "synthetic")
        assert (one / "sampling.json").read_text() == (other / "sampling.json").read_text()


# ---- FastGAN

SMALL = ("--resolution", 64, "--base_channels", 8, "--train_batch_size", 2, "--max_train_steps", 1, "--num_images", 2)


def gan(*given: object) -> Path:
    args = train_fastgan.parse_args([str(flag) for flag in given])
    train_fastgan.main(args)
    return args.output_dir


@pytest.fixture(scope="module")
def gan_flags(dataset, tmp_path_factory) -> tuple:
    return ("--dataset_name", dataset, "--cache_dir", tmp_path_factory.mktemp("pixels"), *SMALL)


@pytest.fixture(scope="module")
def finished_gan(gan_flags, tmp_path_factory) -> Path:
    """Folds 0 and 1."""
    output = ("--output_dir", tmp_path_factory.mktemp("runs") / "gan")
    gan(*gan_flags, *output, "--fold", 0)
    return gan(*gan_flags, *output, "--fold", 1, "--resume_from_checkpoint", "latest")


@pytest.fixture
def gan_run(finished_gan, tmp_path) -> Path:
    return shutil.copytree(finished_gan, tmp_path / "gan")


STEP = "snapshots/step_00000001.safetensors"


def without_gan_record(run: Path) -> None:
    """As FastGAN wrote its files before they named their photographs."""
    file = run / "fold1" / STEP
    with safe_open(file, "pt") as content:
        config = json.loads(content.metadata()["config"])
    for name in ("dataset", "source_sha256", "settings_sha256", "condition"):
        del config[name]
    save_file(load_file(file), file, {"config": json.dumps(config)})


def of_another_step(run: Path) -> None:
    (run / "fold1" / STEP).rename(run / "fold1/snapshots/step_00000007.safetensors")


def old_checkpoint(run: Path) -> None:
    content = torch.load(run / "fold1/checkpoint.pt", weights_only=True)
    del content["trained_on"]
    torch.save(content, run / "fold1/checkpoint.pt")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            copied(f"fold0/{STEP}", f"fold1/{STEP}"),
            LEAK,
            "snapshot fold1/step_00000001.safetensors (of strict fold 0) was",
        ),
        (
            copied("fold0/checkpoint.pt", "fold1/checkpoint.pt"),
            LEAK,
            "checkpoint fold1/checkpoint.pt (of strict fold 0) was",
        ),
        (copied("fold0/synthetic", "fold1/synthetic"), LEAK, "fold1/synthetic: image fastgan_0 was made from"),
        (without_gan_record, INPUT, "step_00000001.safetensors does not say what it was trained on"),
        (old_checkpoint, INPUT, "checkpoint fold1/checkpoint.pt does not say what it was trained on"),
        (of_another_step, INPUT, "snapshot fold1/step_00000007.safetensors is of step 1"),
        (cut("fold1/checkpoint.pt"), INPUT, "checkpoint fold1/checkpoint.pt: "),
        (cut(f"fold1/{STEP}"), INPUT, "generator step_00000001.safetensors: "),
    ],
)
def test_fastgan_does_not_go_on_with_what_another_fold_or_run_made(change, error, said, gan_run, gan_flags):
    change(gan_run)
    before = (gan_run / "run.json").read_bytes()
    with pytest.raises(error) as refusal:
        gan(*gan_flags, "--output_dir", gan_run, "--fold", 1, "--resume_from_checkpoint", "latest")
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    assert (gan_run / "run.json").read_bytes() == before


def test_a_part_of_another_fold_is_not_taken_into_fastgans_images(gan_run, gan_flags, monkeypatch):
    given = (*gan_flags, "--output_dir", gan_run, "--fold", 1, "--resume_from_checkpoint", "latest", "--num_images", 3)
    with monkeypatch.context() as patch:
        patch.setattr(synthetic_images, "write_dataset", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gan(*given)
    (part,) = (gan_run / "fold1/parts").rglob("*.parquet")
    (foreign,) = (gan_run / "fold0/synthetic/synthetic").glob("*.parquet")
    shutil.copy(foreign, part)
    with pytest.raises(errors.LeakError, match=r"fold1/parts/.*: image fastgan_0 was made from .*; delete it"):
        gan(*given)


def test_fastgans_generator_and_records_are_made_again_from_what_is_its_own(gan_run, gan_flags, finished_gan):
    copied("fold0/generator.safetensors", "fold1/generator.safetensors")(gan_run)
    copied("fold0/fold.json", "fold1/fold.json")(gan_run)
    (gan_run / "fold1/sampling.json").write_text("")
    gan(*gan_flags, "--output_dir", gan_run, "--fold", 1, "--resume_from_checkpoint", "latest")
    for name in ("generator.safetensors", "fold.json", "sampling.json"):
        assert (gan_run / "fold1" / name).read_bytes() == (finished_gan / "fold1" / name).read_bytes()
    assert rows_of(gan_run / "fold1/synthetic") == rows_of(finished_gan / "fold1/synthetic")
    config = fastgan_training.fastgan.read_config(gan_run / "fold1/generator.safetensors")
    assert config["source_sha256"] == json.loads((gan_run / "fold1/sources.json").read_text())["source_sha256"]
