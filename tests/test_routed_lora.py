"""routed_lora.py, dreambooth.py: many adapters at once are what training each alone, by peft, gives."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from peft import LoraConfig
from PIL import Image
from small_pipelines import tiny_pipeline
from torch import nn

from curation import protocols
from generation import diffusion_pipelines as diffusion
from generation import dreambooth, lora_files
from generation.dreambooth_encoding import Encoded
from generation.routed_lora import TEXT_LAYERS, UNET_LAYERS, RoutedLoRA, clip_each_adapter
from generation.support_sets import Support
from generation.training_provenance import TrainedOn

STEPS, RANK, ALPHA, CLASSES = 8, 2, 3.0, ["C0", "C1", "C2"]


def training(**changes: object) -> dreambooth.Training:
    """8 steps with prior preservation, unless told otherwise."""
    values = {"seed": 3, "rank": RANK, "lora_alpha": ALPHA, "train_text_encoder": False, "train_batch_size": 2}
    values |= {"max_train_steps": STEPS, "learning_rate": 1e-2, "max_grad_norm": 0.05, "checkpointing_steps": 3}
    values |= {"with_prior_preservation": True, "class_prompt": "photo of a child", "prior_loss_weight": 0.7}
    return dreambooth.Training(**values | changes)


def sampling(**changes: object) -> dreambooth.Sampling:
    """3 pictures per adapter."""
    values = {"seed": 3, "num_images": 3, "sample_batch_size": 8, "resolution": 16, "num_inference_steps": 3}
    values |= {"guidance_scale": 2.0, "negative_prompt": "", "base_model": "tiny"}
    return dreambooth.Sampling(**values | changes)


def supports_in(folder: Path, sizes: tuple[int, ...] = (3, 1, 2)) -> list[Support]:
    """Three conditions of 3, 1 and 2 photographs, whose rows follow one another."""
    nothing = np.array([], dtype=np.int64)
    fold = protocols.Fold(0, np.arange(sum(sizes)), nothing, nothing)
    supports, start = [], 0
    for k, size in enumerate(sizes):
        rows = np.arange(start, start + size)
        prompts = [f"photo of a bcd child with hypertelorism {row}" for row in rows]
        names = [f"C{k}.{row}" for row in rows]
        folders = folder / "fold0", folder / "work" / "fold0"
        digests = [f"{row:064x}" for row in rows]
        trained_on = TrainedOn("strict", 0, f"C{k}", "a dataset", digests, 3, None, "some settings")
        supports.append(Support(fold, f"C{k}", rows, names, prompts, *folders, trained_on))
        start += size
    return supports


def encoded_for(pipeline, supports, dtype=torch.float32, text=True) -> Encoded:
    n = sum(len(support.rows) for support in supports)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, n + 4, 4, 8, 8, generator=generator).to(dtype)
    prompts = [prompt for support in supports for prompt in support.prompts] + ["photo of a child", ""]
    words = diffusion.embeddings(pipeline, prompts) if text else {}
    position = {row: row for row in range(n)}
    return Encoded(position, latents[0, :n], 0.1 * latents[1, :n].abs(), words, latents[0, n:])


def test_routed_training_equals_peft_one_condition_at_a_time_in_float64(tmp_path, monkeypatch):
    """8 steps of AdamW with clipping and prior preservation; 1e-8 relative, as the arithmetic allows."""
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # errors are taken in float32 otherwise
    pipeline, settings = tiny_pipeline(torch.float64), training()
    supports = supports_in(tmp_path)
    encoded = encoded_for(pipeline, supports, torch.float64)
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)

    routed = RoutedLoRA(pipeline.unet, UNET_LAYERS, 3, RANK, ALPHA, torch.float64)
    routed.start([support.seed(settings.seed, 2, 0) for support in supports])
    started = [routed.peft_state_dict(k) for k in range(3)]
    parameters = list(routed.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=dreambooth.WEIGHT_DECAY)
    for step in range(STEPS):
        batch = dreambooth.drawn_batch(supports, encoded, noising, step, settings)
        losses = dreambooth.adapter_losses(pipeline, {"unet": routed}, noising, batch, 3, encoded.text, 0.7)
        losses.sum().backward()
        clip_each_adapter(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    together = [routed.peft_state_dict(k) for k in range(3)]
    routed.remove()

    for k, support in enumerate(supports):
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(UNET_LAYERS))
        pipeline.unet.add_adapter(config, "alone")
        own = {name: p for name, p in pipeline.unet.named_parameters() if p.requires_grad}
        for name, parameter in own.items():
            parameter.data = started[k][name.replace(".alone", "")].clone()
        optimizer = torch.optim.AdamW(own.values(), lr=settings.learning_rate, weight_decay=dreambooth.WEIGHT_DECAY)
        for step in range(STEPS):
            clean, noise, times, prompts = dreambooth.drawn_batch([support], encoded, noising, step, settings)
            words = torch.stack([encoded.text[prompt] for prompt in prompts])
            predicted = pipeline.unet(noising.add_noise(clean, noise, times), times, words).sample
            loss = nn.functional.mse_loss(predicted[:2], noise[:2])
            loss = loss + 0.7 * nn.functional.mse_loss(predicted[2:], noise[2:])
            loss.backward()
            nn.utils.clip_grad_norm_(own.values(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        for name, parameter in own.items():
            expected, got = parameter.detach(), together[k][name.replace(".alone", "")]
            assert (got - expected).norm() <= 1e-8 * expected.norm(), name
            assert (got - started[k][name.replace(".alone", "")]).norm() > 1e-3  # it did train
        pipeline.unet.delete_adapters("alone")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_taken_of_what_the_base_predicts(prediction_type, tmp_path):
    """Noise, or velocity sqrt(a) noise - sqrt(1 - a) clean (Salimans & Ho, ICLR 2022, arXiv 2202.00512)."""
    pipeline, supports = tiny_pipeline(prediction_type=prediction_type), supports_in(tmp_path)
    encoded, settings = encoded_for(pipeline, supports), training(with_prior_preservation=False)
    encoded.class_latents = None
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)
    routed = dreambooth.routed_adapters(pipeline, 3, settings)
    routed["unet"].start([0, 1, 2])  # new adapters change nothing
    batch = clean, noise, times, prompts = dreambooth.drawn_batch(supports, encoded, noising, 0, settings)
    losses = dreambooth.adapter_losses(pipeline, routed, noising, batch, 3, encoded.text, None)
    routed["unet"].remove()
    share = noising.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
    target = noise if prediction_type == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * clean
    with torch.no_grad():
        predicted = pipeline.unet(noisy, times, torch.stack([encoded.text[prompt] for prompt in prompts])).sample
    expected = (predicted - target).square().mean(dim=(1, 2, 3)).view(3, 2).mean(dim=1)
    assert torch.allclose(losses, expected, rtol=1e-4)


def train(folder: Path, groups: list[list[int]], settings: dreambooth.Training) -> None:
    """Adapters of three conditions, trained in these groups."""
    pipeline, supports = tiny_pipeline(), supports_in(folder)
    encoded = encoded_for(pipeline, supports, text=not settings.train_text_encoder)
    for group in groups:
        dreambooth.train(Accelerator(cpu=True), pipeline, [supports[k] for k in group], encoded, settings)


def sampled(
    folder: Path, groups: list[list[int]], settings: dreambooth.Training, **changes: object
) -> dict[str, np.ndarray]:
    """Pictures by synthetic_id from the adapters in the folder, sampled in these groups."""
    pipeline, supports = tiny_pipeline(), supports_in(folder)
    text = {} if settings.train_text_encoder else encoded_for(pipeline, supports).text
    for group in groups:
        chosen = [supports[k] for k in group]
        dreambooth.sample(Accelerator(cpu=True), pipeline, chosen, text, CLASSES, settings, sampling(**changes))
    rows = [row for support in supports for row in pq.read_table(support.part).to_pylist()]
    return {row["synthetic_id"]: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), np.int16) for row in rows}


def nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """At most one grey level apart, in at most 0.1 % of the values."""
    difference = np.abs(a - b)
    return difference.max() <= 1 and (difference > 0).mean() <= 1e-3


@pytest.fixture(scope="module", params=[False, True], ids=["unet", "unet and text encoder"])
def together(request, tmp_path_factory) -> tuple[Path, dreambooth.Training, dict[str, np.ndarray]]:
    """A folder with three adapters that were trained together, their settings, and the pictures sampled from them."""
    settings = training(train_text_encoder=request.param, max_train_steps=4)
    folder = tmp_path_factory.mktemp("adapters") / "together"
    train(folder, [[0, 1, 2]], settings)
    return folder, settings, sampled(folder, [[0, 1, 2]], settings)


def test_pictures_are_the_same_for_any_batch_size_and_look_so_for_any_grouping(together, tmp_path):
    folder, settings, pictures = together
    assert set(pictures) == {f"C{k}_{i}" for k in range(3) for i in range(3)}
    assert not nearly_equal(pictures["C0_0"], pictures["C1_0"])
    shutil.copytree(folder / "fold0" / "adapters", tmp_path / "one by one" / "fold0" / "adapters")
    one_by_one = sampled(tmp_path / "one by one", [[2], [0, 1]], settings, sample_batch_size=1)
    assert all(nearly_equal(pictures[name], one_by_one[name]) for name in pictures)
    train(tmp_path / "alone", [[0], [1], [2]], settings)  # AdamW makes much of gradients that are rounding alone
    alone = sampled(tmp_path / "alone", [[0, 1, 2]], settings)
    differences = [np.abs(pictures[name] - alone[name]).mean() for name in pictures]
    assert max(differences) < 2.0, differences  # grey levels


def test_an_adapter_file_gives_the_same_pictures_through_load_lora_weights(together):
    folder, settings, pictures = together
    pipeline = tiny_pipeline()
    support = supports_in(folder)[2]
    prompt = support.prompts[1]
    plain = pipeline(prompt, generator=[torch.Generator().manual_seed(5)], num_inference_steps=3, output_type="np")
    pipeline.load_lora_weights(str(support.adapter))
    assert {name for names in pipeline.get_list_adapters().values() for name in names} == {"default_0"}
    layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    assert layer.scaling["default_0"] == ALPHA / RANK and layer.r["default_0"] == RANK  # alpha came with the file
    words = [diffusion.embeddings(pipeline, [text])[text][None] for text in (prompt, "")]
    seed = dreambooth.synthetic_images.image_seed(settings.seed, support.condition, 1)
    again, _ = diffusion.sample(pipeline, *words, [seed], 16, 3, 2.0)
    assert nearly_equal(again[0].astype(np.int16), pictures["C2_1"])
    adapted = pipeline(prompt, generator=[torch.Generator().manual_seed(5)], num_inference_steps=3, output_type="np")
    assert np.abs(adapted.images - plain.images).max() > 0.01


def test_a_killed_batch_goes_on_to_the_same_adapters(tmp_path, monkeypatch):
    """Stopped between two checkpoints: the last is gone back to."""
    pipeline, settings = tiny_pipeline(), training()
    encoded = encoded_for(pipeline, supports_in(tmp_path))

    def run(folder: Path) -> list[dict]:
        supports = supports_in(folder)
        dreambooth.train(Accelerator(cpu=True), pipeline, supports, encoded, settings)
        return [lora_files.load(support.adapter)["unet"] for support in supports]

    whole = run(tmp_path / "whole")
    drawn = dreambooth.drawn_batch

    def stopping(supports, encoded, noising, step, settings):
        if step == 7:
            raise KeyboardInterrupt
        return drawn(supports, encoded, noising, step, settings)

    monkeypatch.setattr(dreambooth, "drawn_batch", stopping)
    pipeline = tiny_pipeline()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    assert not supports_in(tmp_path / "stopped")[0].adapter.exists()
    steps = []

    def counting(supports, encoded, noising, step, settings):
        steps.append(step)
        return drawn(supports, encoded, noising, step, settings)

    monkeypatch.setattr(dreambooth, "drawn_batch", counting)
    pipeline = tiny_pipeline()
    resumed = run(tmp_path / "stopped")
    assert steps == list(range(6, STEPS))
    for one, other in zip(whole, resumed, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_files_of_two_runs_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        train(tmp_path / name, [[0, 1, 2]], training(max_train_steps=1))
    digests = [[lora_files.sha256(each.adapter) for each in supports_in(tmp_path / name)] for name in ("one", "two")]
    assert digests[0] == digests[1] and len(set(digests[0])) == 3


def test_new_adapters_change_nothing_and_remove_gives_the_network_back():
    pipeline = tiny_pipeline()
    x, times, words = torch.randn(4, 4, 8, 8), torch.tensor([1, 9, 500, 900]), torch.randn(4, 77, 16)
    with torch.no_grad():
        plain = pipeline.unet(x, times, words).sample
        routed = RoutedLoRA(pipeline.unet, UNET_LAYERS, 2, RANK, ALPHA)
        routed.start([0, 1])
        routed.route(torch.tensor([0, 1, 1, 0]))
        assert torch.equal(pipeline.unet(x, times, words).sample, plain)
        for parameter in routed.parameters():
            parameter.data += 0.1
        doubled = pipeline.unet(x.repeat(2, 1, 1, 1), times.repeat(2), words.repeat(2, 1, 1)).sample
        assert torch.allclose(doubled[:4], doubled[4:], atol=1e-6) and not torch.allclose(doubled[:4], plain)
        routed.remove()
        assert torch.equal(pipeline.unet(x, times, words).sample, plain)
    assert len(list(routed.parameters())) == 2 * len(routed.layers)
    with pytest.raises(ValueError, match="no linear layers called nothing"):
        RoutedLoRA(pipeline.unet, ("nothing",), 1, 1, 1.0)
    with pytest.raises(ValueError, match="3 samples does not fit a route of 2"):
        routed.route(torch.tensor([0, 1]))
        next(iter(routed.layers.values())).route.of(3)
    assert RoutedLoRA(pipeline.text_encoder, TEXT_LAYERS, 1, 1, 1.0).layers


def test_each_adapter_is_clipped_by_itself():
    stacked = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 2, 2))]
    stacked[0].grad = torch.tensor([[3.0, 0, 0], [0.1, 0, 0]])
    stacked[1].grad = torch.stack([torch.full((2, 2), 2.0), torch.zeros(2, 2)])
    norms = clip_each_adapter(stacked, 1.0)
    assert torch.allclose(norms, torch.tensor([5.0, 0.1]))
    assert torch.allclose(stacked[0].grad[:, 0], torch.tensor([0.6, 0.1]), atol=1e-5)
    assert torch.allclose(stacked[1].grad[0], torch.full((2, 2), 0.4), atol=1e-5)


def test_a_file_that_came_back_otherwise_is_refused(tmp_path):
    pipeline = tiny_pipeline()
    routed = RoutedLoRA(pipeline.unet, UNET_LAYERS, 1, RANK, ALPHA)
    routed.start([0])
    state = {"unet": routed.peft_state_dict(0)}
    routed.remove()
    record = TrainedOn("strict", 0, "A", "a dataset", ["0" * 64], 0, None, "some settings").as_dict()
    lora_files.save(pipeline, tmp_path / "adapter", state, RANK, ALPHA, ["A.1"], record)
    lora_files.check(pipeline, tmp_path / "adapter", state, ALPHA / RANK)
    with pytest.raises(RuntimeError, match="came back otherwise"):
        lora_files.check(pipeline, tmp_path / "adapter", state, 1.0)
    changed = {"unet": {name: tensor + 1 for name, tensor in state["unet"].items()}}
    with pytest.raises(RuntimeError, match="came back otherwise"):
        lora_files.check(pipeline, tmp_path / "adapter", changed, ALPHA / RANK)
    (tmp_path / "adapter" / lora_files.WEIGHTS_NAME).write_bytes(b"cut short")
    with pytest.raises(lora_files.InputError, match="delete that folder"):
        lora_files.load(tmp_path / "adapter")
