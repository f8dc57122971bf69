"""Reports by a vision-language model of the library transformers, such as Qwen2.5-VL, in batches.

    reporter = load_image_text_reporter("Qwen/Qwen2.5-VL-7B-Instruct", "cuda", batch_size=8)
    reports = reporter.write_reports([picture, ...])

Decoding is greedy, so a picture gets the same report in a batch of any size, up to rounding: prompts are padded on the
left, and every output of the processor is handed to the model.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin, StoppingCriteria
from transformers.utils import logging

from harness.errors import InputError, one_line
from harness.files import sha256_of
from reporting.reporters import (
    CUT_OFF,
    LOOP_TIMES,
    MAX_NEW_TOKENS,
    REPETITION,
    Answer,
    Picture,
    Reporter,
    batches,
    cut_loops,
)

LOOP_TOKENS = 48  # tokens that an end consists of at least before it counts as a loop
LONGEST_PERIOD = 64  # tokens
REMEDY = "name a model for image-text-to-text: ORG/NAME on the Hub, or a folder in transformers' layout"


class ImageTextReporter(Reporter):
    """See the module. name: as column `reporter` shows it."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        batch_size: int = 8,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ):
        self.name, self.model, self.processor = name, model.eval(), processor
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # what is generated follows the prompt's last token
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def answers(self, pictures: Iterable[Picture], attempt: int = 0) -> Iterator[tuple[str, Answer]]:
        for batch in batches(pictures, self.batch_size):
            tokens, looped = self.generate([Image.fromarray(picture) for _, picture in batch], self.asked(attempt))
            for (key, _), row, in_loop in zip(batch, tokens, looped, strict=True):
                yield key, self._answer(row, in_loop)

    @torch.inference_mode()
    def generate(self, pictures: list[Image.Image], prompt: str) -> tuple[list[list[int]], list[bool]]:
        """The new tokens of each picture's answer, without padding, and whether it was stopped in a loop."""
        content = [[{"type": "image", "image": picture}, {"type": "text", "text": prompt}] for picture in pictures]
        inputs = self.processor.apply_chat_template(
            [[{"role": "user", "content": parts}] for parts in content],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.model.device)
        for name, values in inputs.items():
            if torch.is_floating_point(values):
                inputs[name] = values.to(self.model.dtype)
        n_before = inputs["input_ids"].shape[1]
        loops = LoopCriteria(n_before, len(pictures))
        generated = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            stopping_criteria=[loops],
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # Qwen2.5-VL's own settings punish what the prompt said
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        ends = self._end_tokens()
        return [_before_end(row, ends) for row in generated[:, n_before:].tolist()], loops.stopped

    def _answer(self, tokens: list[int], in_loop: bool) -> Answer:
        """The answer of these tokens, the last of which is the end of the text unless it was stopped before."""
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        answer = cut_loops(text)
        flags = {*answer.flags, *([REPETITION] if in_loop else [])}
        ended = bool(tokens) and tokens[-1] in self._end_tokens()
        if not (ended or flags):
            flags.add(CUT_OFF)
        return Answer(answer.text.strip(), tuple(sorted(flags)))

    def _end_tokens(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return {token for token in (*ends, self.processor.tokenizer.eos_token_id) if token is not None}

    def record(self) -> dict:
        return {
            "reporter": self.name,
            "model_type": self.model.config.model_type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "image_processor": type(self.processor.image_processor).__name__,
            "max_new_tokens": self.max_new_tokens,
        }


class LoopCriteria(StoppingCriteria):
    """Stops an answer whose new tokens end in a loop: LOOP_TIMES equal parts of LONGEST_PERIOD tokens or fewer."""

    def __init__(self, n_before: int, n_rows: int):
        """n_before: tokens of the prompt, which may repeat themselves, as those of a picture do."""
        self.n_before, self.stopped = n_before, [False] * n_rows

    def __call__(self, input_ids: torch.LongTensor, scores: object, **kwargs: object) -> torch.BoolTensor:
        new = input_ids[:, self.n_before :][:, -LOOP_TIMES * LONGEST_PERIOD :].tolist()
        self.stopped = [before or ends_in_loop(row) for before, row in zip(self.stopped, new, strict=True)]
        return torch.tensor(self.stopped, device=input_ids.device)


def ends_in_loop(tokens: list[int]) -> bool:
    """Whether the last tokens repeat themselves LOOP_TIMES times, over at least LOOP_TOKENS tokens."""
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // LOOP_TIMES) + 1):
        length = max(LOOP_TOKENS, LOOP_TIMES * period)
        if length <= len(tokens) and tokens[-length:-period] == tokens[period - length :]:
            return True
    return False


def _before_end(tokens: list[int], ends: set[int]) -> list[int]:
    """Tokens up to the first end of the text, which is kept; what follows is padding."""
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[: place + 1]
    return tokens


def load_image_text_reporter(
    name: str, device: torch.device | str, batch_size: int = 8, max_new_tokens: int = MAX_NEW_TOKENS
) -> ImageTextReporter:
    """Open a model and its processor: bf16 on a GPU, fp32 on a CPU.

    name: ORG/NAME on the Hub or a folder in transformers' layout, with weights in safetensors. Raises InputError if it
    cannot be opened or has no chat template."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(name) if Path(name).is_dir() else None
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    try:
        processor = AutoProcessor.from_pretrained(name, padding_side="left", trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, HfHubHTTPError, HFValidationError) as error:
        there = "" if folder else "there is no such folder, and on the Hub: "
        raise InputError(f"--reporter {name} cannot be opened ({there}{one_line(error)[:300]}); {REMEDY}") from error
    if getattr(processor, "chat_template", None) is None or getattr(processor, "image_processor", None) is None:
        raise InputError(f"--reporter {name} has no chat template or takes no pictures; {REMEDY}")
    shown = folder.resolve().name if folder else name
    return ImageTextReporter(shown, model.to(device), processor, batch_size, max_new_tokens)


def model_digest(name: str, model: PreTrainedModel) -> str | None:
    """What tells two states of a model apart: the Hub's commit, or a digest of a folder's weights and settings."""
    if not Path(name).is_dir():
        return getattr(model.config, "_commit_hash", None)
    files = sorted(file for file in Path(name).iterdir() if file.suffix in (".safetensors", ".json", ".jinja"))
    return hashlib.sha256("".join(f"{file.name} {sha256_of(file)}\n" for file in files).encode()).hexdigest()
