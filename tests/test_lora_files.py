"""lora_files.py: the names of several programs give the same adapter; a file that does not fit is refused by tensor."""

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from small_pipelines import tiny_pipeline

from generation import lora_files
from generation.routed_lora import TEXT_LAYERS, UNET_LAYERS, RoutedLoRA
from harness import errors

RANK, ALPHA = 2, 3.0
NETWORKS = {"unet": UNET_LAYERS, "text_encoder": TEXT_LAYERS}
State = dict[str, dict[str, torch.Tensor]]


def routed(pipeline, networks: tuple[str, ...] = tuple(NETWORKS), rank: int = RANK) -> dict[str, RoutedLoRA]:
    parts = {name: RoutedLoRA(getattr(pipeline, name), NETWORKS[name], 1, rank, ALPHA) for name in networks}
    for part in parts.values():
        part.start([5])
        generator = torch.Generator().manual_seed(6)
        for parameter in part.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        part.route(torch.zeros(1, dtype=torch.int64))
    return parts


@pytest.fixture(scope="module")
def known() -> tuple[State, lora_files.Sizes, np.ndarray]:
    """An adapter of both networks, the sizes of the layers that it adapts, and what the pipeline makes of it."""
    pipeline = tiny_pipeline()
    parts = routed(pipeline)
    state = {name: part.peft_state_dict(0) for name, part in parts.items()}
    return state, {name: part.sizes() for name, part in parts.items()}, picture(pipeline)


def picture(pipeline) -> np.ndarray:
    generator = torch.Generator().manual_seed(1)
    made = pipeline(
        "photo of a child", generator=generator, num_inference_steps=2, output_type="np", guidance_scale=1.0
    )
    return made.images


# ---- the same adapter as several programs write it; each returns the names that stand for the layer's matrices


def as_peft(state: State) -> dict[str, torch.Tensor]:
    return {f"base_model.model.{key}": tensor for weights in state.values() for key, tensor in weights.items()}


def as_peft_with_adapter_name(state: State) -> dict[str, torch.Tensor]:
    return {key.replace(".weight", ".default.weight"): tensor for key, tensor in as_peft(state).items()}


def as_kohya(state: State, te: str = "lora_te_text_model_") -> dict[str, torch.Tensor]:
    tensors = {}
    for network, prefix in (("unet", "lora_unet_"), ("text_encoder", te)):
        for key, tensor in state[network].items():
            layer, matrix = key.removesuffix(".weight").rsplit(".", 1)
            name = prefix + layer.replace(".", "_")
            tensors[f"{name}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = tensor
            tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


def as_kohya_numbered(state: State) -> dict[str, torch.Tensor]:
    return as_kohya(state, "lora_te1_text_model_")


def as_diffusers(state: State) -> dict[str, torch.Tensor]:
    tensors = {}
    for network, weights in state.items():
        for key, tensor in weights.items():
            ending = {"lora_A": "down", "lora_B": "up"}
            middle = "lora" if network == "unet" else "lora_linear_layer"
            layer, matrix = key.removesuffix(".weight").rsplit(".", 1)
            tensors[f"{network}.{layer}.{middle}.{ending[matrix]}.weight"] = tensor
    return tensors


def as_old_diffusers(state: State) -> dict[str, torch.Tensor]:
    """Of the time when attention processors held the weights."""
    old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    tensors = {}
    for network, weights in state.items():
        for key, tensor in weights.items():
            layer, matrix = key.removesuffix(".weight").rsplit(".", 1)
            parent, own = layer.replace(".to_out.0", ".to_out").rsplit(".", 1)
            parent = f"{parent}.processor" if network == "unet" else f"text_model.{parent}"
            name = f"{network}.{parent}.{old.get(own, own)}_lora"
            tensors[f"{name}.{'down' if matrix == 'lora_A' else 'up'}.weight"] = tensor
    return tensors


def with_old_text_names(state: State) -> dict[str, torch.Tensor]:
    """The text model's own name in every layer, as transformers had it."""
    named = {key.replace("text_encoder.", "text_encoder.text_model."): w for key, w in as_diffusers(state).items()}
    return named


def as_saved(state: State) -> dict[str, torch.Tensor]:
    return {f"{network}.{key}": tensor for network, weights in state.items() for key, tensor in weights.items()}


METADATA = {f"{name}.{key}": value for name in NETWORKS for key, value in (("r", RANK), ("lora_alpha", ALPHA))}
ALPHA_IN_METADATA = {"lora_adapter_metadata": json.dumps(METADATA)}


@pytest.mark.parametrize(
    ("write", "metadata", "beside"),
    [
        (as_peft, None, {"r": RANK, "lora_alpha": ALPHA}),
        (as_peft_with_adapter_name, None, {"r": RANK, "lora_alpha": ALPHA}),
        (as_peft, None, {"r": RANK, "lora_alpha": ALPHA / RANK**0.5, "use_rslora": True}),
        (as_kohya, None, None),
        (as_kohya_numbered, {"ss_network_dim": "2"}, None),
        (as_diffusers, ALPHA_IN_METADATA, None),
        (as_old_diffusers, ALPHA_IN_METADATA, None),
        (with_old_text_names, ALPHA_IN_METADATA, None),
        (as_saved, ALPHA_IN_METADATA, None),
    ],
)
def test_every_programs_names_give_the_same_adapter_and_pictures(write, metadata, beside, known, tmp_path):
    state, sizes, expected = known
    save_file(
        {key: tensor.clone() for key, tensor in write(state).items()}, tmp_path / lora_files.WEIGHTS_NAME, metadata
    )
    if beside:
        (tmp_path / "adapter_config.json").write_text(json.dumps(beside))
    found = lora_files.load(tmp_path, sizes, RANK, ALPHA)
    assert found.keys() == state.keys()
    for network, weights in state.items():
        assert found[network].keys() == weights.keys()
        assert all(torch.equal(found[network][key], tensor) for key, tensor in weights.items())
    pipeline = tiny_pipeline()
    every = lora_files.read(tmp_path / lora_files.WEIGHTS_NAME, lora_files.linear_layers(pipeline), "file", "")
    assert every.record is None  # it cannot pass as a run's own
    assert {round(alpha, 9) for layers in every.alpha.values() for alpha in layers.values()} == {ALPHA}
    for name, part in routed(pipeline).items():
        part.load_peft_state_dict(0, every.state[name])
    assert np.array_equal(picture(pipeline), expected)


def test_diffusers_reads_the_same_from_kohyas_names(known, tmp_path):
    state, _, expected = known
    pipeline = tiny_pipeline()
    plain = picture(pipeline)
    save_file({key: tensor.clone() for key, tensor in as_kohya(state).items()}, tmp_path / lora_files.WEIGHTS_NAME)
    pipeline.load_lora_weights(str(tmp_path))
    assert np.abs(picture(pipeline) - expected).max() < 1e-5 < np.abs(plain - expected).max()


def test_what_peft_itself_saves_is_read(tmp_path):
    pipeline = tiny_pipeline()
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(UNET_LAYERS), init_lora_weights=False)
    model = get_peft_model(pipeline.unet, config)
    model.save_pretrained(tmp_path)
    own = tiny_pipeline()
    found = lora_files.read(tmp_path / "adapter_model.safetensors", lora_files.linear_layers(own), "file", "")
    assert set(found.alpha["unet"].values()) == {ALPHA} and list(found.state) == ["unet"]
    part = routed(own, ("unet",))["unet"]
    part.load_peft_state_dict(0, found.state["unet"])
    x, words = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16)
    with torch.no_grad():
        theirs, ours = model(x, 3, words).sample, own.unet(x, 3, words).sample
    assert torch.allclose(theirs, ours, atol=1e-6)


def test_alpha_is_the_rank_where_nothing_gives_it_and_may_differ_from_layer_to_layer(known, tmp_path):
    state, _, _ = known
    layers = lora_files.linear_layers(tiny_pipeline())
    tensors = {key: tensor.clone() for key, tensor in as_kohya(state).items()}
    first = next(key for key in sorted(tensors) if key.endswith(".alpha"))
    others = {key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha") or key == first}
    save_file(others, tmp_path / lora_files.WEIGHTS_NAME)
    alphas = lora_files.read(tmp_path / lora_files.WEIGHTS_NAME, layers, "file", "").alpha
    assert sorted({alpha for each in alphas.values() for alpha in each.values()}) == [RANK, ALPHA]
    with pytest.raises(errors.InputError, match=r"has alpha 2.0, not 3.0"):
        lora_files.load(tmp_path, known[1], RANK, ALPHA)


# ---- files that do not fit

KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight"
OTHER = KEY.replace("down", "up")


def without(*names: str) -> Callable[[dict], dict]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key not in names}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], dict]:
    return lambda tensors: tensors | {name: change(tensors[name]).contiguous()}


def renamed(old: str, new: str) -> Callable[[dict], dict]:
    return lambda tensors: {key.replace(old, new): tensor for key, tensor in tensors.items()}


def not_a_number(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(KEY, OTHER), "has no weights for layer unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q;"),
        (without(KEY), "layer unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q has lora_B and no lora_A"),
        (without(OTHER), "has lora_A and no lora_B"),
        (
            lambda tensors: {k: t for k, t in tensors.items() if "text" not in k},
            "has no weights for layer text_encoder.",
        ),
        (lambda tensors: {k: t for k, t in tensors.items() if "unet" not in k}, "has no weights for layer unet."),
        (
            renamed("mid_block", "middle_block"),
            "tensor unet.middle_block.attentions.0.transformer_blocks.0.attn1.to_k.lora",
        ),
        (renamed("unet.", "transformer."), "tensor transformer.down_blocks.0.attentions.0"),
        (renamed("unet.", "lora_te2_"), "tensor lora_te2_down_blocks"),
        (renamed(".lora.down.weight", ".hada_w1_a"), ".hada_w1_a is not a low-rank update"),
        (
            lambda tensors: tensors | {KEY.replace("lora.down.weight", "dora_scale"): torch.ones(16)},
            "dora_scale is not a",
        ),
        (
            lambda tensors: tensors | {KEY.replace("to_q.lora.down", "extra"): torch.ones(2, 16)},
            "attn1.extra.weight is not",
        ),
        (
            lambda tensors: tensors | {KEY.replace("attn1.to_q", "ff.net.2"): torch.ones(2, 64)},
            "ff.net.2.lora.down.weight is",
        ),
        (changed(KEY, lambda tensor: tensor[:1]), "the shapes ((1, 16), (16, 2)) do not fit layer unet.mid_block"),
        (
            changed(KEY, lambda tensor: tensor[:, :8]),
            "do not fit layer unet.mid_block.attentions.0.transformer_blocks.0",
        ),
        (changed(OTHER, lambda tensor: tensor[:8]), "of 16 inputs and 16 outputs"),
        (changed(KEY, lambda tensor: tensor[:, :, None, None]), "do not fit layer unet.mid_block"),
        (changed(KEY, not_a_number), f"tensor {KEY} holds values that are not finite"),
        (changed(OTHER, lambda tensor: tensor / 0), f"tensor {OTHER} holds values that are not finite"),
        (lambda tensors: {}, "it holds no weights"),
        (
            lambda tensors: tensors | {KEY.replace(".lora.down", ".lora_A"): tensors[KEY] + 1},
            "is there twice, under two",
        ),
        (
            lambda tensors: {k: torch.cat([t, t], dim=0 if ".down." in k else 1) for k, t in tensors.items()},
            "has rank 4, not 2",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_the_first_tensor_that_does_not(change, said, known, tmp_path):
    state, sizes, _ = known
    tensors = {key: tensor.clone() for key, tensor in as_diffusers(state).items()}
    file = tmp_path / lora_files.WEIGHTS_NAME
    save_file(tensors, file, ALPHA_IN_METADATA)
    lora_files.load(tmp_path, sizes, RANK, ALPHA)
    save_file(change(tensors), file, ALPHA_IN_METADATA)
    with pytest.raises(errors.InputError) as refusal:
        lora_files.load(tmp_path, sizes, RANK, ALPHA)
    assert said in str(refusal.value) and str(refusal.value).endswith("; delete that folder, it is then trained again")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "has alpha 2.0, not 3.0"),  # it is the rank
        ({"lora_adapter_metadata": json.dumps(METADATA | {"unet.lora_alpha": 8})}, "has alpha 8.0, not 3.0"),
        (
            {"lora_adapter_metadata": json.dumps(METADATA | {"unet.alpha_pattern": {"to_q": 1}})},
            "trained with alpha_pattern",
        ),
        ({"lora_adapter_metadata": json.dumps(METADATA | {"unet.use_dora": True})}, "was trained with use_dora"),
        ({"lora_adapter_metadata": "{"}, "delete that folder"),
        ({"lora_adapter_metadata": json.dumps(METADATA | {"unet.lora_alpha": "much"})}, "could not convert string"),
        (ALPHA_IN_METADATA | {"rdface": "{"}, "delete that folder"),
    ],
)
def test_another_alpha_or_kind_of_adapter_is_refused(metadata, said, known, tmp_path):
    state, sizes, _ = known
    save_file(as_diffusers(state), tmp_path / lora_files.WEIGHTS_NAME, metadata)
    with pytest.raises(errors.InputError) as refusal:
        lora_files.load(tmp_path, sizes, RANK, ALPHA)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_routed_weights_are_never_stretched_or_left_out(known):
    state = known[0]["unet"]
    part = routed(tiny_pipeline(), ("unet",))["unet"]
    name = next(iter(state))
    with pytest.raises(KeyError, match=name.split(".")[0]):
        part.load_peft_state_dict(0, {key: tensor for key, tensor in state.items() if key != name})
    with pytest.raises(KeyError, match="more"):
        part.load_peft_state_dict(0, state | {"more": state[name]})
    with pytest.raises(ValueError, match=r"is of shape \(1, 16\), not \(2, 16\)"):
        part.load_peft_state_dict(0, state | {name: state[name][:1]})


def test_a_file_that_was_saved_reads_back_without_and_with_the_layers(known, tmp_path):
    state, sizes, _ = known
    record = {"source_sha256": ["0" * 64], "protocol": "strict", "fold": 0, "dataset": "d"}
    lora_files.save(tiny_pipeline(), tmp_path / "adapter", state, RANK, ALPHA, ["A.1"], record)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert lora_files.record_of(tmp_path / "adapter") == record
    for found in (lora_files.load(tmp_path / "adapter"), lora_files.load(tmp_path / "adapter", sizes, RANK, ALPHA)):
        assert all(torch.equal(found[name][key], w) for name, weights in state.items() for key, w in weights.items())
    names = list(load_file(tmp_path / "adapter" / lora_files.WEIGHTS_NAME))
    assert any(name.endswith(".to_q.lora.down.weight") for name in names)  # as diffusers has them
    assert Path(tmp_path / "adapter" / "sources.json").is_file()


def test_a_disk_that_takes_no_more_leaves_the_earlier_adapter_whole_and_nothing_else(known, tmp_path):
    """The largest file that this process may write stands for the disk: the system refuses the same call."""
    state, sizes, _ = known
    record = {"source_sha256": ["0" * 64], "protocol": "strict", "fold": 0, "dataset": "d"}
    pipeline, folder = tiny_pipeline(), tmp_path / "adapter"
    lora_files.save(pipeline, folder, state, RANK, ALPHA, ["A.1"], record)
    before = lora_files.sha256(folder)
    changed = {network: {key: 2 * tensor for key, tensor in weights.items()} for network, weights in state.items()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises((OSError, SafetensorError)):
            lora_files.save(pipeline, folder, changed, RANK, ALPHA, ["A.1"], record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert lora_files.sha256(folder) == before and [path.name for path in tmp_path.iterdir()] == ["adapter"]
    lora_files.save(pipeline, folder, changed, RANK, ALPHA, ["A.1"], record)
    assert torch.equal(*(s["unet"][min(state["unet"])] for s in (lora_files.load(folder, sizes), changed)))
