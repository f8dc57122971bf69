"""The miniature backbone: its recipe runs and resumes, and the committed file tells simulated people apart."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from demo_models import train_backbone
from phenotyping import phenotypes

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = ROOT / "demo_models" / "backbone"


def flags(cache: Path, output: Path, *more: str) -> list[str]:
    size = "--num_people 20 --train_batch_size 4 --num_train_epochs 2 --mixed_precision no --num_workers 1"
    return [*size.split(), "--cache_dir", str(cache), "--output_dir", str(output), *more]


def test_recipe_killed_after_an_epoch_resumes_to_the_same_weights(tmp_path, capsys):
    cache, whole, resumed = tmp_path / "cache", tmp_path / "whole", tmp_path / "resumed"
    train_backbone.main(flags(cache, whole))
    figures = json.loads((whole / "training.json").read_text())
    assert figures["held_out"]["people"] == 2 and figures["simulated"] is True

    command = [sys.executable, str(ROOT / "demo_models" / "train_backbone.py"), *flags(cache, resumed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert any(line.startswith("epoch 0:") for line in run.stdout)
        run.kill()
    capsys.readouterr()
    train_backbone.main(flags(cache, resumed, "--resume_from_checkpoint", "latest"))
    output = capsys.readouterr().out
    assert "epochs 1..2" in output or "epochs 2..2" in output
    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = timm.create_model(f"local-dir:{resumed}", pretrained=True, num_classes=0)
    assert model(torch.zeros(1, 3, 128, 128)).shape == (1, 368, 4, 4)


def test_training_people_have_no_study_condition():
    pool = phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :]
    pictures, z = train_backbone.photograph_person(3, seed=1000)
    assert pictures.shape == (2, 128, 128, 3) and z.shape == (len(phenotypes.parameters()),)
    assert not {c.orphanet_code for c in pool} & {c.orphanet_code for c in phenotypes.conditions()[:103]}
    assert train_backbone.parse_args([]).seed != 0  # the demo's corpus has seed 0


def test_nt_xent_is_zero_for_perfect_pairs_and_log_n_for_equal_ones():
    pairs = torch.eye(4)
    assert train_backbone.nt_xent(pairs, pairs, 0.01).item() == pytest.approx(0.0, abs=1e-6)
    same = torch.ones(4, 3)
    assert train_backbone.nt_xent(same, same, 0.1).item() == pytest.approx(np.log(7), abs=1e-5)


def test_committed_backbone_is_small_and_tells_new_people_apart():
    assert (BACKBONE / "model.safetensors").stat().st_size < 8 * 2**20
    model = timm.create_model(f"local-dir:{BACKBONE}", pretrained=True, num_classes=0).eval()
    pictures = np.stack([train_backbone.photograph_person(person, seed=77)[0] for person in range(40)])  # a new seed
    with torch.inference_mode():
        features = model(train_backbone.prepared(pictures.reshape(-1, 128, 128, 3), torch.device("cpu"))).flatten(1)
    similarity = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(features).T
    similarity.fill_diagonal_(-1)
    found = (similarity.argmax(1) // 2 == torch.arange(80) // 2).float().mean()
    assert found > 0.8  # by chance 1 in 79
