"""diffusion_pipelines.py: bases that cannot be trained here are refused in one line; single files are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_pipelines import saved_pipeline, single_file, tiny_pipeline

import train_dreambooth
from generation import diffusion_pipelines as diffusion
from generation import fastgan, generator_choices
from harness import errors

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return saved_pipeline(tmp_path_factory.mktemp("base") / "tiny-diffusion")


def config(part: str, **changes: object) -> Callable[[Path], None]:
    """Other settings of a part."""

    def change(folder: Path) -> None:
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def weights(part: str, change_tensors: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    """Other weights of a part."""

    def change(folder: Path) -> None:
        (file,) = (folder / part).glob("*.safetensors")
        save_file(change_tensors(load_file(file)), file, {"format": "pt"})

    return change


def without_one(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != sorted(tensors)[3]}


def renamed(tensors: Tensors) -> Tensors:
    """As a training on several GPUs leaves them."""
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def not_a_number(tensors: Tensors) -> Tensors:
    name = sorted(tensors)[3]
    return tensors | {name: torch.full_like(tensors[name], float("nan"))}


def infinite(tensors: Tensors) -> Tensors:
    name = sorted(tensors)[-1]
    return tensors | {name: tensors[name] / 0}


def with_one_more(tensors: Tensors) -> Tensors:
    return tensors | {"control.weight": torch.ones(2)}


def scheduler(kind: type, **settings: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        kind(**settings).save_pretrained(folder / "scheduler")
        index(scheduler=["diffusers", kind.__name__])(folder)

    return change


def index(**parts: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "model_index.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | parts))

    return change


def written(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content)


def gone(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (shutil.rmtree if (folder / name).is_dir() else Path.unlink)(folder / name)

    return change


CHECKER = index(safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])


def checker_without_weights(folder: Path) -> None:
    CHECKER(folder)
    (folder / "safety_checker").mkdir()


THREE_BLOCKS = {"block_out_channels": [8, 8, 8], "down_block_types": ["DownEncoderBlock2D"] * 3}
THREE_BLOCKS |= {"up_block_types": ["UpDecoderBlock2D"] * 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            scheduler(diffusers.FlowMatchEulerDiscreteScheduler),
            "its scheduler FlowMatchEulerDiscreteScheduler is of flow",
        ),
        (
            scheduler(diffusers.FlowMatchHeunDiscreteScheduler),
            "its scheduler FlowMatchHeunDiscreteScheduler is of flow",
        ),
        (config("scheduler", prediction_type="flow_prediction"), "its scheduler DDIMScheduler is of flow matching"),
        (
            scheduler(diffusers.UniPCMultistepScheduler, use_flow_sigmas=True, prediction_type="epsilon"),
            "is of flow matching; give a base that was trained to predict noise or velocity",
        ),
        (scheduler(diffusers.EDMEulerScheduler), "its scheduler EDMEulerScheduler says no beta_start"),
        (config("scheduler", prediction_type="sample"), "prediction_type sample cannot be trained here"),
        (config("scheduler", beta_schedule="wavy"), "wavy"),
        (
            config("vae", latent_channels=8),
            "expected shape torch.Size([8, 8, 3, 3]), but got torch.Size([8, 4, 3, 3]); give",
        ),
        (config("vae", block_out_channels=[8, 8, 8]), "its VAE lacks decoder."),
        (config("vae", **THREE_BLOCKS), "its VAE lacks decoder.up_blocks.1.upsamplers.0.conv.bias in its file"),
        (config("vae", scaling_factor=0), "scaling_factor of its VAE is 0"),
        (config("vae", scaling_factor=None), "scaling_factor of its VAE is None"),
        (config("vae", shift_factor=0.06), "its VAE has shift_factor, as those of flow matching have"),
        (config("vae", latents_mean=[0.1] * 4), "its VAE has latents_mean"),
        (config("unet", cross_attention_dim=32), "expected shape torch.Size([16, 32])"),
        (config("unet", class_embed_type="identity"), "its U-Net has class_embed_type identity"),
        (config("unet", out_channels=8), "expected shape"),
        (config("text_encoder", hidden_size=32), "its text encoder has embeddings.position_embedding.weight of shape"),
        (
            config("text_encoder", vocab_size=100),
            "its text encoder has embeddings.token_embedding.weight of shape (341, 16)",
        ),
        (weights("unet", not_a_number), "its U-Net holds values in conv_norm_out.weight that are not finite"),
        (weights("vae", not_a_number), "its VAE holds values in decoder."),
        (weights("text_encoder", not_a_number), "its text encoder holds values in encoder.layers.0"),
        (weights("unet", infinite), "its U-Net holds values in up_blocks.1"),
        (weights("unet", without_one), "its U-Net lacks conv_norm_out.weight in its file"),
        (weights("vae", without_one), "its VAE lacks decoder."),
        (weights("text_encoder", without_one), "its text encoder lacks encoder.layers.0"),
        (weights("unet", renamed), "its U-Net lacks conv_in.bias in its file; download it again"),
        (weights("vae", renamed), "its VAE lacks decoder.conv_in.bias"),
        (weights("text_encoder", renamed), "its text encoder lacks embeddings.position_embedding.weight"),
        (weights("unet", with_one_more), "its U-Net has no place for control.weight, which its file holds"),
        (weights("vae", with_one_more), "its VAE has no place for control.weight"),
        (
            CHECKER,
            "model_index.json names safety_checker, and there is no folder of that name; add its files, or write",
        ),
        (checker_without_weights, "or write [null, null] for safety_checker in model_index.json"),
        (
            index(feature_extractor=["transformers", "CLIPImageProcessor"]),
            "model_index.json names feature_extractor, and there is no folder of that name; add its files, or write",
        ),
        (gone("tokenizer"), "model_index.json names tokenizer, and there is no folder of that name; add its files"),
        (gone("tokenizer/tokenizer.json"), "its tokenizer knows no word; add its files"),
        (gone("scheduler"), "model_index.json names scheduler"),
        (written("unet/config.json", ""), "is not a valid JSON file"),
        (written("model_index.json", "{}"), "give a StableDiffusionPipeline folder with safetensors"),
        (written("unet/diffusion_pytorch_model.safetensors", "cut short"), "Unable to load weights"),
        (index(unet=["diffusers", "system"]), "system"),
    ],
)
def test_a_base_that_cannot_be_trained_is_refused_in_one_line(change, said, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    change(folder)
    with pytest.raises(errors.InputError) as refusal:
        diffusion.open_pipeline(str(folder), torch.float32)
    message = str(refusal.value)
    assert message.startswith(f"--pretrained_model_name_or_path {folder}: ") and "\n" not in message
    assert said in message and len(message) < 650


def test_a_text_encoder_of_an_older_library_is_opened(base, tmp_path):
    """With the text model's own name before every layer, and the positions, which are no weights."""

    def older(tensors: Tensors) -> Tensors:
        named = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
        return named | {"text_model.embeddings.position_ids": torch.arange(77)[None]}

    folder = shutil.copytree(base, tmp_path / "base")
    weights("text_encoder", older)(folder)
    one, other = (diffusion.open_pipeline(str(place), torch.float16).text_encoder for place in (base, folder))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_networks_that_load_but_do_not_fit_are_refused(base):
    """What a config says and weights do not: as a pipeline put together by hand."""
    pipeline = tiny_pipeline()
    diffusion.check_pipeline(pipeline)
    diffusion.check_one_pass(pipeline)
    pipeline.unet.register_to_config(cross_attention_dim=32)
    with pytest.raises(diffusion.Unfit, match="its U-Net reads words of 32 values and its text encoder gives 16"):
        diffusion.check_pipeline(pipeline)
    pipeline = tiny_pipeline()
    pipeline.vae.encoder.down_blocks[0].downsamplers = None  # makes nothing smaller
    with pytest.raises(diffusion.Unfit, match=r"its VAE gives latents of shape \(1, 4, 16, 16\) for 16 px"):
        diffusion.check_one_pass(pipeline)
    pipeline = tiny_pipeline()
    pipeline.vae.register_to_config(latent_channels=8)
    with pytest.raises(diffusion.Unfit, match="takes 4 and gives 4 channels and its VAE gives 8: no text-to-image"):
        diffusion.check_pipeline(pipeline)
    pipeline = tiny_pipeline()
    pipeline.unet.conv_out.weight.data *= 1e38
    pipeline.unet.conv_out.bias.data += 3e38
    pipeline.unet.conv_out.weight.data *= 1e3
    with pytest.raises(diffusion.Unfit, match="not finite"):
        diffusion.check_pipeline(pipeline)
        diffusion.check_one_pass(pipeline)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_bases_that_predict_noise_or_velocity_are_opened(kind, tmp_path):
    folder = saved_pipeline(tmp_path / "base", prediction_type=kind)
    pipeline = diffusion.open_pipeline(str(folder), torch.float32)
    assert pipeline.scheduler.config.prediction_type == kind
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (config("", scaling_factor=0.13025), "scaling_factor of the other VAE is 0.13025 and of its own 0.18215"),
        (config("", shift_factor=0.1), "its VAE has shift_factor"),
        (weights("", without_one), "its VAE lacks decoder."),
        (None, "the other VAE makes pictures 4 times smaller and its own 2 times"),
    ],
)
def test_another_vae_must_give_the_latents_that_the_base_knows(change, said, base, tmp_path):
    if change:
        folder = shutil.copytree(base / "vae", tmp_path / "vae")
        diffusion.open_pipeline(str(base), torch.float32, vae_name=str(folder))
        change(folder)
    else:
        folder = tmp_path / "vae"
        settings = dict(tiny_pipeline().vae.config) | THREE_BLOCKS
        diffusers.AutoencoderKL(**{k: v for k, v in settings.items() if k[0] != "_"}).save_pretrained(folder)
    with pytest.raises(errors.InputError) as refusal:
        diffusion.open_pipeline(str(base), torch.float32, vae_name=str(folder))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_u_net_that_does_not_say_its_size_needs_resolution(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    config("unet", sample_size=None)(folder)
    pipeline = diffusion.open_pipeline(str(folder), torch.float32)
    with pytest.raises(errors.InputError, match="sample_size is None; give --resolution"):
        diffusion.native_side_px(pipeline)
    config("unet", sample_size=[8, 8])(folder)
    assert diffusion.native_side_px(diffusion.open_pipeline(str(folder), torch.float32)) == 16


def test_what_shapes_pictures_besides_the_weights_has_a_digest(base, tmp_path):
    def digest(folder: Path) -> str:
        return diffusion.configs_sha256(diffusion.open_pipeline(str(folder), torch.float32))

    digests = [digest(base), digest(shutil.copytree(base, tmp_path / "elsewhere"))]
    assert digests[0] == digests[1]
    changes = [config("scheduler", beta_end=0.013), config("scheduler", prediction_type="v_prediction")]
    changes += [config("unet", attention_head_dim=4), config("vae", scaling_factor=0.2)]
    for number, change in enumerate(changes):
        change(shutil.copytree(base, tmp_path / str(number)))
        digests.append(digest(tmp_path / str(number)))
    assert len(set(digests[1:])) == 1 + len(changes)


# ---- which files of a pipeline are read


def with_zeroed_bias(folder: Path, **options: object) -> Path:
    """A pipeline saved whose U-Net has no bias at its end, by which it is known."""
    pipeline = tiny_pipeline()
    pipeline.unet.conv_out.bias.data.zero_()
    pipeline.save_pretrained(folder, **options)
    return folder


def test_a_variant_is_read_beside_the_other_weights(base, tmp_path):
    folder = with_zeroed_bias(shutil.copytree(base, tmp_path / "base"), variant="fp16")
    plain, variant = (diffusion.open_pipeline(str(folder), torch.float32, variant=name) for name in (None, "fp16"))
    assert plain.unet.conv_out.bias.any() and not variant.unet.conv_out.bias.any()
    with pytest.raises(errors.InputError, match="--pretrained_model_name_or_path"):
        diffusion.open_pipeline(str(folder), torch.float32, variant="bf16")


def test_a_revision_of_a_repository_is_read(base):
    """From the cache of the Hub, where a tag names a commit, as it is after a download."""
    repository = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--lab--tiny-diffusion"
    shutil.copytree(base, repository / "snapshots" / ("1" * 40))
    with_zeroed_bias(repository / "snapshots" / ("2" * 40))
    (repository / "refs").mkdir()
    for name, commit in (("v1", "1" * 40), ("main", "2" * 40)):
        (repository / "refs" / name).write_text(commit)
    newest, tagged = (
        diffusion.open_pipeline("lab/tiny-diffusion", torch.float32, revision=name) for name in (None, "v1")
    )
    assert tagged.unet.conv_out.bias.any() and not newest.unet.conv_out.bias.any()


# ---- sampling


def test_guidance_goes_on_from_the_negative_prompt_through_the_prompt():
    """One step of DDIM is linear in what the U-Net predicts, and so in the guidance scale; 1 is the prompt alone."""
    pipeline = tiny_pipeline()
    words = [diffusion.embeddings(pipeline, [text])[text][None] for text in ("photo of a child", "")]
    one, two, four = (
        diffusion.sample(pipeline, *words, [5], 16, 1, scale, latents_only=True)[0] for scale in (1, 2, 4)
    )
    assert np.abs(two - one).max() > 1e-3
    assert np.allclose(four, one + 3 * (two - one), atol=1e-3)
    alone = diffusion.sample(pipeline, words[0], words[0], [5], 16, 1, 4, latents_only=True)[0]
    assert np.allclose(alone, one, atol=1e-3)


# ---- one file with all weights


@pytest.fixture(scope="module")
def one_file(base, tmp_path_factory) -> Path:
    """With the settings in a folder beside it that is named like it, as they come: without weights."""
    folder = tmp_path_factory.mktemp("single")
    shutil.copytree(base, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return single_file(tiny_pipeline(), folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_file_gives_the_pipeline_that_a_folder_gives(dtype, one_file, base):
    ours, theirs = (diffusion.open_pipeline(str(place), dtype) for place in (one_file, base))
    for part in diffusion.NETWORKS:
        one, other = (getattr(pipeline, part).state_dict() for pipeline in (ours, theirs))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert {tensor.dtype for tensor in one.values() if tensor.is_floating_point()} == {dtype}
    assert ours.tokenizer("photo of a child").input_ids == theirs.tokenizer("photo of a child").input_ids
    assert diffusion.configs_sha256(ours) == diffusion.configs_sha256(theirs)


def test_a_single_file_may_lie_in_the_folder_of_its_settings(one_file, tmp_path):
    """As in the repositories of Stable Diffusion: v1-5-pruned-emaonly.safetensors beside model_index.json."""
    folder = shutil.copytree(one_file.with_suffix(""), tmp_path / "sd")
    shutil.copy(one_file, folder / "v1-5-pruned.safetensors")
    assert (
        diffusion.native_side_px(diffusion.open_pipeline(str(folder / "v1-5-pruned.safetensors"), torch.float32)) == 16
    )
    flags = [
        "--dataset_name",
        "x",
        "--output_dir",
        "y",
        "--pretrained_model_name_or_path",
        str(folder / "v1-5-pruned.ckpt"),
    ]
    assert train_dreambooth.parse_args(flags).pretrained_model_name_or_path.endswith("v1-5-pruned.ckpt")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"a pickle")
    with pytest.raises(errors.InputError, match="such a file may run code when it is opened; give FILE"):
        diffusion.open_pipeline(str(folder / "v1-5-pruned.ckpt"), torch.float32)
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.InputError, match=r"is no \.safetensors file"):
        diffusion.open_pipeline(str(folder / "model.gguf"), torch.float32)


def one_of(prefix: str, tensors: Tensors) -> str:
    return sorted(name for name in tensors if name.startswith(prefix))[5]


def dropped(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if name != one_of(prefix, tensors)}


def none_of(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dropped("model.diffusion_model."), "lacks weights of a Stable Diffusion pipeline"),
        (dropped("first_stage_model.decoder."), "lacks weights of a Stable Diffusion pipeline"),
        (dropped("cond_stage_model."), "lacks weights of a Stable Diffusion pipeline"),
        (none_of("model.diffusion_model."), "lacks weights of a Stable Diffusion pipeline"),
        (none_of("cond_stage_model."), "lacks weights of a Stable Diffusion pipeline"),
        (none_of("first_stage_model."), "lacks weights of a Stable Diffusion pipeline"),
        (
            lambda tensors: {"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2)},
            "lacks weights of a Stable Diffusion",
        ),
        (
            lambda t: t | {one_of("model.diffusion_model.", t): t[one_of("model.diffusion_model.", t)] / 0},
            "that are not finite; download it again",
        ),
        (
            lambda t: t | {one_of("model.diffusion_model.", t): t[one_of("model.diffusion_model.", t)][:3].clone()},
            "expected shape",
        ),
        (None, "one file holds the weights alone; put the settings of its pipeline (model_index.json, tokenizer"),
    ],
)
def test_a_single_file_that_is_none_or_lacks_its_settings_is_refused(change, said, one_file, tmp_path):
    file = tmp_path / "base.safetensors"
    if change:
        shutil.copytree(one_file.with_suffix(""), tmp_path / "base")
        save_file(change(load_file(one_file)), file)
    else:
        shutil.copy(one_file, file)
    with pytest.raises(errors.InputError) as refusal:
        diffusion.open_pipeline(str(file), torch.float32)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_commands_offer_the_keys_of_the_tables_that_are_indexed():
    assert tuple(diffusion.SCHEDULERS) == generator_choices.SCHEDULERS
    assert tuple(diffusion.WEIGHT_TYPES) == generator_choices.MIXED_PRECISION
    assert set(generator_choices.FASTGAN_RESOLUTIONS) <= set(fastgan.WIDTHS)
