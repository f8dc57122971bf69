"""Trains the miniature vision-language model of the offline demo on SIMULATED faces.

    accelerate launch demo_models/train_reporter.py

It looks at an aligned face of 128 px and writes the reference report of simulation/people.py, with HPO's names of the
terms. The architecture is FastVLM's (Vasu et al., CVPR 2025, arXiv 2412.13303) in miniature: the backbone of
demo_models/backbone, whose last map gives 16 image tokens, a projector of two layers, and a Llama decoder. Phrases of
the reports are the decoder's tokens, so a finding is one token. People are drawn from conditions and a seed that no
demo or study corpus uses (condition ranks from 103 on). Writes demo_models/reporter (transformers' layout, weights in
half precision), its held-out figures, and samples."""

import argparse
import json
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    TimmWrapperConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from demo_models.reporter_scores import aligned_photographs, report_figures, write_reports, write_samples
from demo_models.simulated_people import IMAGE_SIZE, mixed_person, person_of, render, training_conditions
from demo_models.train_backbone import ARCHITECTURE, MEAN, MODEL_ARGS, STD, prepared
from harness.commands import Parser
from harness.files import write_atomically, write_json
from phenotyping import phenotypes
from simulation.people import Person, write_report

HERE = Path(__file__).resolve().parent
SPECIAL = ("<pad>", "<report>", "<end>", "<image>", "<unk>")
PAD, REPORT, END, IMAGE, UNKNOWN = range(5)
PATCH_SIZE = 32  # px of the picture per image token and side
SAME_LENGTH = 4  # training steps whose reports are sorted by length
NUM_IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
CHAT_TEMPLATE = (  # the miniature knows one task: only the picture of a message reaches it
    "{%- for message in messages if message['content'] is not string -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}<image>{%- endfor -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}<report>{%- endif -%}"
)


# ---- the model


def phrase_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the phrases of the reports: headings, names of terms and of the training conditions,
    and the words between.

    The blank before a phrase belongs to it, so that joined tokens are the text, character by character."""
    names = [f" {term.name[0].lower()}{term.name[1:]}" for term in phenotypes.terms().values()]
    names += [f" {condition.name}" for condition in training_conditions()]
    lines = write_report(person_of(0, 0, training_conditions()), np.random.default_rng(0)).split("\n")
    *regions, last = (line.split(":")[0] for line in lines)
    headings = [("\n" if number else "") + region + ":" for number, region in enumerate(regions)]
    words = [f"{heading} {phrase}" for heading in headings for phrase in ("There is", "No distinctive finding.")]
    words += [",", ".", " No", " no", f"\n{last}: the findings are compatible with"]
    by_length = sorted([*names, *words], key=len, reverse=True)
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *names, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, SPECIAL[UNKNOWN]))
    pattern = Regex("|".join(re.escape(piece) for piece in by_length) + "|.")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    pad, report, end, _, unknown = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=report, eos_token=end, unk_token=unknown,
        padding_side="left", clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
    )  # fmt: skip


def new_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pictures of any size to (3, 128, 128) and to 16 image tokens each."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False, image_mean=MEAN, image_std=STD)
    return LlavaProcessor(images, tokenizer, PATCH_SIZE, "full", CHAT_TEMPLATE, SPECIAL[IMAGE])


def new_model(num_tokens: int, width: int, num_layers: int) -> FastVlmForConditionalGeneration:
    """The miniature backbone with its trained weights, an untrained projector and an untrained decoder."""
    backbone = timm.create_model(f"local-dir:{HERE / 'backbone'}", pretrained=True, num_classes=0)
    vision = TimmWrapperConfig(
        architecture=ARCHITECTURE, model_args=MODEL_ARGS, do_pooling=False, hidden_size=backbone.num_features,  # pyrefly: ignore[unexpected-keyword]
        num_labels=0,  # pyrefly: ignore[unexpected-keyword]
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=num_tokens, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=num_layers,
        num_attention_heads=width // 16, max_position_embeddings=512, tie_word_embeddings=True, attention_dropout=0.1,
        pad_token_id=PAD, bos_token_id=REPORT, eos_token_id=END,
    )  # fmt: skip
    config = FastVlmConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=True, face_alignment="mtcnn",  # pyrefly: ignore[unexpected-keyword]
    )  # fmt: skip
    model = FastVlmForConditionalGeneration(config)
    model.model.vision_tower.timm_model.load_state_dict(backbone.state_dict())
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=160, pad_token_id=PAD, bos_token_id=REPORT, eos_token_id=END
    )
    return model


def opened_in_single_precision(folder: Path) -> None:
    """Lets transformers open the model in single precision; its file stays in half precision, half as large."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    write_json(folder / "config.json", config)


# ---- training


@torch.inference_mode()
def feature_maps(model: FastVlmForConditionalGeneration, pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """The backbone's last maps of pictures (n, side, side, 3) and of their mirror images, (2, n, c, 4, 4) float16."""
    tower, maps = model.model.vision_tower.eval(), []
    for start in tqdm(range(0, len(pictures), 64), desc="feature maps", mininterval=10):
        images = prepared(pictures[start : start + 64], device)
        both = torch.cat([images, images.flip(3)])
        maps.append(tower(both).last_hidden_state.half().cpu().unflatten(0, (2, -1)))
    return torch.cat(maps, dim=1)


class Faces:
    """Feature maps and reports to learn from: of rendered people, and of people without a photograph.

    The latter take the map of a rendered face and move it by what the difference of the two people's face parameters
    does to a map on average; this linear effect is fitted to the rendered faces. So the decoder sees as many people as
    it has time for, though rendering is slow."""

    def __init__(self, maps: torch.Tensor, people: list[Person], tokenizer: PreTrainedTokenizerFast, seed: int):
        self.maps, self.people, self.tokenizer, self.seed = maps, people, tokenizer, seed
        self.z = parameters_of(people)
        known = F.pad(self.z, (0, 1), value=1.0)  # (n, p + 1)
        moments = known.T @ known + torch.eye(known.shape[1])
        flat = maps.flatten(2)
        self.effect = torch.stack([torch.linalg.solve(moments, known.T @ side.float())[:-1] for side in flat])

    def batches(self, group: int, size: int, mixed: bool) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Maps (size, c, 4, 4), parameters (size, p) and tokens (size, t), padded at the right, of SAME_LENGTH steps.

        Half of the people were rendered; mixed: the others have the terms of two conditions. Reports of about equal
        length are in one batch, so that little is padding."""
        rng = np.random.default_rng([self.seed, 7, group])
        n_people = size * SAME_LENGTH
        rows, sides = rng.integers(len(self.people), size=n_people), rng.integers(2, size=n_people)
        people, maps = [self.people[row] for row in rows], self.maps[sides, rows].float()
        for i in range(0, n_people, 2):
            draw = mixed_person if mixed else person_of
            people[i] = draw(int(rng.integers(2**31)), self.seed + 1, training_conditions())
        z = parameters_of(people)
        for i in range(0, n_people, 2):
            moved = (z[i] - self.z[rows[i]]) @ self.effect[sides[i]]
            maps[i] = (maps[i] + moved.view_as(maps[i])).clamp(min=0)
        reports = [write_report(person, rng, hpo_name_share=1.0) for person in people]
        by_length = sorted(range(n_people), key=lambda i: len(self.tokenizer(reports[i]).input_ids))
        return [
            (maps[rows], z[rows], report_tokens([reports[i] for i in rows], self.tokenizer))
            for rows in (by_length[start : start + size] for start in range(0, n_people, size))
        ]


def parameters_of(people: list[Person]) -> torch.Tensor:
    """Face parameters (n, p) float32 in SD."""
    return torch.tensor([[person.z[name] for name in phenotypes.parameters()] for person in people])


def report_tokens(reports: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Tokens (n, t) of image, report and end, padded at the right."""
    texts = [f"{SPECIAL[IMAGE] * NUM_IMAGE_TOKENS}{SPECIAL[REPORT]}{report}{SPECIAL[END]}" for report in reports]
    return tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").input_ids


def report_loss(
    model: FastVlmForConditionalGeneration, maps: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of the reports' tokens (n, t), and what the decoder knows of the face before it writes: the
    input of its last layer at the token that starts the report, (n, width).

    maps (n, c, 4, 4): of the backbone, which is not run again."""
    maps = F.dropout(maps.flatten(2).transpose(1, 2), 0.2, training=model.training)
    image_tokens = model.model.multi_modal_projector(maps)
    encoded = {"image": BaseModelOutputWithPooling(pooler_output=image_tokens)}
    labels = tokens.masked_fill((tokens == PAD) | (tokens == IMAGE) | (tokens == REPORT), -100)
    mask = (tokens != PAD).long()
    output = model(tokens, attention_mask=mask, mm_encoder_outputs=encoded, labels=labels, output_hidden_states=True)
    return output.loss, output.hidden_states[-2][:, NUM_IMAGE_TOKENS]


def train(
    model: FastVlmForConditionalGeneration,
    learnt_from: Faces,
    held_out: tuple[torch.Tensor, torch.Tensor],
    accelerator: Accelerator,
    args: argparse.Namespace,
) -> None:
    """Minimises the reports' cross-entropy and the error of the face parameters that are read, linearly, off what the
    decoder knows before it writes, by AdamW over projector and decoder; the backbone stays as it is. Without the second
    part the decoder learns much more slowly to look at all 16 places of the map.

    There are two rounds, the second with mixed people, since a decoder that has only met people of one condition each
    guesses the condition and writes its usual terms. In each round the learning rate rises over 100 steps and falls to
    0 over the last quarter. A step draws everything random from its
    number, so a run that was stopped goes on to the same weights. held_out: maps (n, c, 4, 4) and tokens (n, t), whose
    loss is printed at each checkpoint."""
    checkpoint = args.cache_dir / "reporter.pt"
    model.model.vision_tower.requires_grad_(False)
    centre, spread = learnt_from.z.mean(dim=0), learnt_from.z.std(dim=0)
    reading = torch.nn.Linear(model.config.text_config.hidden_size, len(centre))  # thrown away at the end
    reading.to(accelerator.device)
    parameters = [p for p in (*model.parameters(), *reading.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    num_steps = args.max_train_steps + args.mixed_train_steps

    def rate(step: int) -> float:
        in_first = step < args.max_train_steps
        step, of = (step, args.max_train_steps) if in_first else (step - args.max_train_steps, args.mixed_train_steps)
        return min((step + 1) / 100, 1, 4 * (1 - step / max(of, 1)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    state = {"model": model, "reading": reading, "optimizer": optimizer, "scheduler": scheduler}
    first = 0
    if args.resume_from_checkpoint and checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True, map_location=accelerator.device)
        first = saved.pop("step")
        for key, part in state.items():
            part.load_state_dict(saved[key])
    bar = tqdm(range(first, num_steps), initial=first, total=num_steps, mininterval=10)
    for step in bar:
        torch.manual_seed(args.seed * 1_000_003 + step)  # of dropout
        if step == first or step % SAME_LENGTH == 0:
            group = step // SAME_LENGTH
            mixed = group * SAME_LENGTH >= args.max_train_steps
            batches = learnt_from.batches(group, args.train_batch_size, mixed)
        maps, z, tokens = (part.to(accelerator.device) for part in batches[step % SAME_LENGTH])
        model.train()
        with accelerator.autocast():
            text_loss, known = report_loss(model, maps, tokens)
            read = reading(known)
        face_loss = F.mse_loss(read.float(), ((z.cpu() - centre) / spread).to(accelerator.device))
        accelerator.backward(text_loss + args.face_weight * face_loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        bar.set_postfix(text=f"{text_loss.item():.3f}", face=f"{face_loss.item():.3f}", refresh=False)
        if (step + 1) % args.checkpointing_steps == 0 or step + 1 == num_steps:
            saved = {key: part.state_dict() for key, part in state.items()} | {"step": step + 1}
            write_atomically(checkpoint, lambda file, saved=saved: torch.save(saved, file))
            model.eval()
            with torch.no_grad():
                loss = report_loss(model, *(part.to(accelerator.device) for part in held_out))[0].item()
            print(f"step {step + 1}: loss on {len(held_out[0])} held-out faces {loss:.4f}", flush=True)
    model.eval()


def study_photographs(
    cache_dir: Path, num_people: int, seed: int, pool: tuple[phenotypes.Condition, ...]
) -> tuple[np.ndarray, int]:
    """aligned_photographs of the people to evaluate on, kept in the cache."""
    file = cache_dir / f"study_seed{seed}_{num_people}.npz"
    if not file.is_file():
        aligned, missed = aligned_photographs(range(num_people), seed, pool)
        np.savez(partial := file.with_suffix(".partial.npz"), faces=aligned, missed=missed)
        partial.replace(file)
    saved = np.load(file)
    return saved["faces"], int(saved["missed"])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output_dir", type=Path, default=HERE / "reporter", help="folder for model and processor")
    add("--cache_dir", type=Path, default=Path("runs/reporter_cache"), help="folder of faces and checkpoints")
    add("--num_people", type=int, default=3300, help="people with a photograph; the first 300 or tenth are held out")
    add("--width", type=int, default=192, help="width of the decoder, a multiple of 16")
    add("--num_layers", type=int, default=3, help="layers of the decoder")
    add("--max_train_steps", type=int, default=3800, help="training steps of the first round")
    add("--mixed_train_steps", type=int, default=1500, help="training steps of the second round, with mixed people")
    add("--train_batch_size", type=int, default=32, help="reports per step")
    add("--learning_rate", type=float, default=3e-3, help="highest learning rate")
    add("--face_weight", type=float, default=1.0, help="weight of the error of the face parameters in the loss")
    add("--checkpointing_steps", type=int, default=100, help="steps between checkpoints")
    add("--mixed_precision", choices=("no", "bf16"), default="bf16", help="precision of the networks")
    add("--num_workers", type=int, default=2, help="rendering processes")
    add("--num_study_people", type=int, default=206, help="people of the study's conditions to evaluate on")
    add("--resume_from_checkpoint", choices=("latest",), help="continue from the last checkpoint")
    add("--seed", type=int, default=5000, help="seed of everything drawn; no demo or study corpus uses it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    started = time.monotonic()
    pool = training_conditions()
    pictures = render(args.cache_dir, args.num_people, args.seed, args.num_workers)
    people = [person_of(number, args.seed, pool) for number in range(args.num_people)]
    held_out = min(300, args.num_people // 10)
    study, study_seed = phenotypes.conditions()[: phenotypes.NUM_STUDY_CONDITIONS], args.seed + 3
    study_faces, missed = study_photographs(args.cache_dir, args.num_study_people, study_seed, study)
    print(f"{args.num_people - held_out} SIMULATED faces to train on, {held_out} held out, {accelerator.device}")

    tokenizer = phrase_tokenizer()
    set_seed(args.seed)  # here, since other networks were opened before unless the cache had the faces
    model = new_model(len(tokenizer), args.width, args.num_layers).to(accelerator.device)
    maps_file = args.cache_dir / f"maps_seed{args.seed}_{args.num_people}.pt"
    if not maps_file.is_file():
        maps = feature_maps(model, pictures, accelerator.device)
        write_atomically(maps_file, lambda file: torch.save(maps, file))
    maps = torch.load(maps_file, weights_only=True)
    rng = np.random.default_rng([args.seed, 8])
    tokens = report_tokens([write_report(person, rng, 1.0) for person in people[:held_out]], tokenizer)
    learnt_from = Faces(maps[:, held_out:], people[held_out:], tokenizer, args.seed)
    train(model, learnt_from, (maps[0, :held_out].float(), tokens), accelerator, args)

    model.to(torch.float16).save_pretrained(args.output_dir)
    opened_in_single_precision(args.output_dir)
    new_processor(tokenizer).save_pretrained(args.output_dir)
    processor = AutoProcessor.from_pretrained(args.output_dir)  # figures are of the folder as it was saved
    model = AutoModelForImageTextToText.from_pretrained(args.output_dir).to(accelerator.device)
    figures = {
        "held_out_people": report_figures(people[:held_out], write_reports(model, processor, pictures[:held_out]))
    }
    reports = write_reports(model, processor, study_faces)
    study_people = [person_of(number, study_seed, study) for number in range(args.num_study_people)]
    figures["study_conditions"] = {"seed": study_seed, "conditions": [study[0].rank, study[-1].rank]}
    figures["study_conditions"] |= {"faces_missed": missed} | report_figures(study_people, reports)
    write_samples(args.output_dir, study_faces, reports, study_seed, study)
    arguments = {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()}
    record = {
        "face_alignment": "mtcnn",
        "trained_on": {
            "seeds": [args.seed, args.seed + 1],
            "conditions": [pool[0].rank, pool[-1].rank],
            "photographs": len(people) - held_out,
        },
        **figures,
        "hpo_release": phenotypes.HPO_RELEASE,
        "arguments": arguments,
        "seconds_this_run": round(time.monotonic() - started),
        "simulated": True,
    }
    write_json(args.output_dir / "training.json", record)
    print({name: round(part["f1"], 3) for name, part in figures.items()})


if __name__ == "__main__":
    main()
