"""The miniature diffusion base: its recipe runs and resumes, and the committed pipeline makes faces."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from demo_models import captions as captions_of_faces
from demo_models import train_diffusion
from generation import diffusion_pipelines as diffusion
from generation import prompts
from phenotyping import phenotypes

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "demo_models" / "diffusion"


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """A recipe of seconds; a later flag wins."""
    flags = "--num_people 50 --vae_train_steps 2 --decoder_train_steps 2 --vae_batch_size 2 --max_train_steps 4"
    flags += " --train_batch_size 2 --checkpointing_steps 2 --num_samples 1 --num_workers 1"
    flags += " --num_captions 100 --text_train_steps 2"
    return [*flags.split(), "--cache_dir", str(tmp_path_factory.mktemp("cache"))]


def test_recipe_stopped_in_the_middle_resumes_to_the_same_pipeline(flags, tmp_path, monkeypatch):
    photograph = functools.cache(train_diffusion.photograph_person)
    monkeypatch.setattr(train_diffusion, "photograph_person", lambda number, seed: photograph(number % 10, seed))
    monkeypatch.setattr(train_diffusion, "SHEET_PROMPTS", train_diffusion.SHEET_PROMPTS[:2])
    train_diffusion.main([*flags, "--output_dir", str(tmp_path / "whole")])
    record = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert record["simulated"] is True and record["held_out"]["held_out"] == 1 and record["face_alignment"] == "mtcnn"
    assert (tmp_path / "whole" / "samples_simulated.png").is_file()

    monkeypatch.setattr(train_diffusion, "evaluate", lambda *_: {})  # once is enough; the weights are compared
    for file in Path(flags[-1]).glob("*.pt"):
        file.unlink()
    get_velocity, steps = train_diffusion.DDIMScheduler.get_velocity, []

    def stopping(*tensors):
        steps.append(1)
        if len(steps) == 4:  # of the U-Net, after the checkpoint of the second
            raise KeyboardInterrupt
        return get_velocity(*tensors)

    monkeypatch.setattr(train_diffusion.DDIMScheduler, "get_velocity", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_diffusion.main([*flags, "--output_dir", str(tmp_path / "resumed")])
    assert not (tmp_path / "resumed").exists()
    monkeypatch.setattr(train_diffusion.DDIMScheduler, "get_velocity", get_velocity)
    train_diffusion.main([*flags, "--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint", "latest"])
    whole, resumed = (StableDiffusionPipeline.from_pretrained(tmp_path / name) for name in ("whole", "resumed"))
    for network in ("unet", "vae", "text_encoder"):
        one, other = (getattr(pipeline, network).state_dict() for pipeline in (whole, resumed))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), network
    assert whole.tokenizer.get_vocab() == resumed.tokenizer.get_vocab()


def test_captions_say_terms_that_are_there_and_nothing_of_a_study_condition():
    people = [train_diffusion.photograph_person(number, seed=3000) for number in range(12)]
    captions = [caption for _, caption in people]
    names = {condition.name.lower() for condition in phenotypes.conditions()}
    for picture, caption in people:
        assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
        assert "photo of a " in caption and ("girl" in caption or "boy" in caption or "child" in caption)
        assert not [name for name in names if name in caption]
    known = {term.name.lower() for term in phenotypes.terms().values()}
    said = [words for caption in captions if " with " in caption for words in caption.split(" with ", 1)[1].split(", ")]
    assert said and all(any(words in name for name in known) for words in said)
    assert train_diffusion.parse_args([]).seed not in (0, 1000, 2000)


def test_text_encoder_learns_to_read_faces_off_captions(monkeypatch):
    monkeypatch.setattr(captions_of_faces, "SAME_LENGTH", 8)
    captions, facts = captions_of_faces.described_people(100, seed=1)
    assert len(captions) == 100 and facts.shape[1] > len(phenotypes.parameters())
    assert facts.mean(dim=0).abs().max() < 1e-5
    torch.manual_seed(0)
    reading = captions_of_faces.Reading(captions_of_faces.train_tokenizer(captions), count=100, seed=1)
    optimizer, losses = torch.optim.AdamW(reading.parameters(), lr=4e-3), []
    for step in range(90):
        loss = reading.loss(torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-15:]) < 0.97 * facts.square().mean() < np.mean(losses[:5])
    tokens = torch.tensor([reading.tokens[0] + [reading.end] * (77 - len(reading.tokens[0]))])
    assert reading.face(tokens).shape == (1, len(phenotypes.parameters()))


def test_tokenizer_is_the_same_each_time_and_keeps_rare_words_whole():
    captions = [
        "photo of a child with hypertelorism, low-set ears",
        "photo of a 4 year old girl with long philtrum",
    ] * 5
    one, other = (captions_of_faces.train_tokenizer(captions) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()
    rare = prompts.rare_tokens(one)
    assert len(rare) >= 100 and not set(rare[:100]) & set(" ".join(captions).replace(",", "").split())
    assert len(one("photo of a child", add_special_tokens=False).input_ids) == 4


@pytest.fixture(scope="module")
def committed() -> StableDiffusionPipeline:
    return diffusion.open_pipeline(str(BASE), torch.float32)


def test_committed_pipeline_is_small_half_precision_and_makes_faces(committed):
    files = [file for file in BASE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 25 * 2**20
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert not [file.name for file in BASE.rglob("*.json") if "_name_or_path" in file.read_text()]  # of some machine
    assert diffusion.native_side_px(committed) == 128 and diffusion.face_alignment_of(str(BASE)) == "mtcnn"
    assert len(prompts.rare_tokens(committed.tokenizer)) >= 103  # one a condition of the study
    pictures = train_diffusion.sample(committed, ["photo of a child"] * 5, seed=99)
    assert train_diffusion.faces_found([np.asarray(picture) for picture in pictures]) >= 0.8


def test_committed_pipeline_hears_what_words_say_of_a_face(committed):
    def grey_samples(prompt: str) -> np.ndarray:
        """(3, side, side) grey levels."""
        pictures = train_diffusion.sample(committed, [prompt] * 3, seed=7)
        return np.stack([np.asarray(picture, float).mean(axis=2) for picture in pictures])

    plain, joined = map(grey_samples, ("photo of a child", "photo of a child with synophrys, thick eyebrow"))

    def between_the_brows(pictures: np.ndarray) -> np.ndarray:
        """(n,) grey levels by which the darkest row there is darker than the forehead above it."""
        return pictures[:, 12:24, 54:74].mean(axis=(1, 2)) - pictures[:, 28:48, 58:70].mean(axis=2).min(axis=1)

    assert between_the_brows(joined).mean() > between_the_brows(plain).mean() + 30


def test_a_masked_base_is_told_of_age_and_sex_and_of_no_term(capsys):
    captions, facts = captions_of_faces.described_people(60, seed=1)
    masked, same_facts = captions_of_faces.described_people(60, seed=1, mask_terms=True)
    assert torch.equal(facts, same_facts) and any(" with " in caption for caption in captions)
    assert not any(" with " in caption for caption in masked)
    assert all(caption.startswith(words) for caption, words in zip(captions, masked, strict=True))
    assert any("year old" in words for words in masked) and any("girl" in words for words in masked)
    with pytest.raises(SystemExit):
        train_diffusion.parse_args(["--mask_terms"])
    assert "--mask_terms requires an --output_dir of its own" in capsys.readouterr().err
