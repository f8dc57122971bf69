"""Prompts: the fields of a template, rare words of a vocabulary, and prompts that the text encoder reads to their end.

    prompts, left_out = fitting_prompts(images, rows, "photo of a {rare_token} child{with_terms}", pipeline)

A text encoder reads a limited number of tokens, and pipelines cut off the rest with a warning only. Here nothing is cut
off: HPO terms are left out whole until the prompt fits, and a prompt that is too long without any is refused.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import InputError, one_line
from phenotyping import phenotypes

if TYPE_CHECKING:
    from datasets import Dataset
    from diffusers import StableDiffusionPipeline
    from transformers import PreTrainedTokenizerBase

PROMPT_FIELDS = ("disease_abbr", "disease_name", "rare_token", "with_terms")
RARE_TOKEN_LETTERS = (3, 4)
SHOWN_LETTERS = 60  # of a prompt in a message


# --------------------------------------------------------------------------------------------------------- templates


def check_template(template: str, flag: str) -> None:
    """Raise InputError for a template that names a field other than PROMPT_FIELDS; flag: where it was given."""
    try:
        fields = fields_of(template)
    except ValueError as error:
        raise InputError(f"{flag} {template!r}: {one_line(error)}; fields are written {{disease_abbr}}") from error
    unknown = sorted(fields - set(PROMPT_FIELDS))
    if unknown:
        fields_there_are = ", ".join(f"{{{field}}}" for field in PROMPT_FIELDS)
        raise InputError(f"{flag}: there is no field {{{unknown[0]}}}; use {fields_there_are}")


def fields_of(template: str) -> set[str]:
    """The fields that a template names."""
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


def rare_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Short words that are one entry of the vocabulary each, rarest first: identifiers without a meaning of their own
    (Ruiz et al., DreamBooth, CVPR 2023, arXiv 2208.12242, section 3.2).

    Byte-pair vocabularies grow by frequency, so the last entries are the rarest. A vocabulary of single characters has
    no such words: the list is then empty."""
    specials, words = set(tokenizer.all_special_ids), []
    for number in range(len(tokenizer) - 1, -1, -1):
        word = "" if number in specials else tokenizer.decode([number]).strip()
        fits = len(word) in RARE_TOKEN_LETTERS and word.isascii() and word.isalpha() and word.islower()
        if fits and tokenizer(f"a {word} child", add_special_tokens=False).input_ids[1:-1] == [number]:
            words.append(word)
    return words


def identifiers(class_names: Sequence[str], tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, str]:
    """Condition -> the word by which a template names it: a rare word or the abbreviation; empty if by neither."""
    fields = fields_of(template)
    rare_words = rare_tokens(tokenizer) if "rare_token" in fields else []
    if rare_words:
        return {name: rare_words[label % len(rare_words)] for label, name in enumerate(class_names)}
    named = fields & {"rare_token", "disease_abbr"}
    return {name: name if named else "" for name in class_names}


# ----------------------------------------------------------------------------------------- what a photograph is called


def field_values(images: Dataset, rare_words: Sequence[str]) -> list[dict[str, str]]:
    """The value of each of PROMPT_FIELDS for every photograph, (n,).

    with_terms: " with hypertelorism, long philtrum", the names of the HPO terms recorded for this photograph, empty if
    there are none; rare_token: a word of rare_words for each condition, or its abbreviation if there are no rare words.
    """
    names = images.features["label"].names
    diseases = images["disease_name"][:] if "disease_name" in images.column_names else [None] * len(images)
    values = []
    for label, terms, disease_name in zip(images["label"][:], recorded_terms(images), diseases, strict=True):
        of_photograph = {"disease_abbr": names[label], "disease_name": disease_name or names[label]}
        of_photograph["rare_token"] = rare_words[label % len(rare_words)] if rare_words else names[label]
        of_photograph["with_terms"] = with_terms(terms)
        values.append(of_photograph)
    return values


def recorded_terms(images: Dataset) -> list[list[str]]:
    """The names of the HPO terms recorded for each photograph, (n,) lists; ids that the project does not know are
    left out."""
    terms = phenotypes.terms()
    recorded = images["hpo_ids"][:] if "hpo_ids" in images.column_names else [None] * len(images)
    return [[terms[hpo_id].name.lower() for hpo_id in hpo_ids or () if hpo_id in terms] for hpo_ids in recorded]


def with_terms(terms: Sequence[str]) -> str:
    return f" with {', '.join(terms)}" if terms else ""


# ------------------------------------------------------------------------------------------------------------ length


def prompt_limit(pipeline: StableDiffusionPipeline) -> int:
    """How many tokens the text encoder reads, including those for begin and end; not every tokenizer knows a limit."""
    return min(pipeline.tokenizer.model_max_length, pipeline.text_encoder.config.max_position_embeddings)


def count_tokens(pipeline: StableDiffusionPipeline, prompt: str) -> int:
    """The number of tokens of a prompt, including those for begin and end."""
    return len(pipeline.tokenizer(prompt, truncation=False, verbose=False).input_ids)


def fits(pipeline: StableDiffusionPipeline, prompt: str) -> bool:
    """Whether the text encoder reads all of a prompt."""
    return count_tokens(pipeline, prompt) <= prompt_limit(pipeline)


def check_prompt(pipeline: StableDiffusionPipeline, prompt: str, flag: str) -> None:
    """Raise InputError for a prompt whose end the text encoder would not read; flag: where it was given."""
    n, limit = count_tokens(pipeline, prompt), prompt_limit(pipeline)
    if n > limit:
        excerpt = prompt if len(prompt) <= SHOWN_LETTERS else prompt[: SHOWN_LETTERS - 3] + "..."
        raise InputError(f"{flag} {excerpt!r}: has {n} tokens, and the text encoder reads {limit}; shorten it")


def fitting_prompts(
    images: Dataset, rows: Sequence[int], template: str, pipeline: StableDiffusionPipeline
) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Row -> prompt for the photographs in `rows`, and row -> HPO terms that had to be left out.

    Terms are left out whole, the last one first, until the text encoder reads all of the prompt. Raises InputError for
    a prompt that is too long even without terms."""
    values, recorded = field_values(images, rare_tokens(pipeline.tokenizer)), recorded_terms(images)
    image_ids, limit = images["image_id"][:], prompt_limit(pipeline)
    says_terms = "with_terms" in fields_of(template)
    prompts: dict[int, str] = {}
    left_out: dict[int, list[str]] = {}
    for row in rows:
        terms = recorded[row] if says_terms else []
        for n in range(len(terms), -1, -1):
            prompts[row] = template.format(**values[row] | {"with_terms": with_terms(terms[:n])})
            if count_tokens(pipeline, prompts[row]) <= limit:
                break
        check_prompt(pipeline, prompts[row], f"--instance_prompt, for image {image_ids[row]},")
        if terms[n:]:
            left_out[row] = terms[n:]
    return prompts, left_out


def terms_left_out(left_out: dict[int, list[str]], n_prompts: int, image_ids: Sequence[str], limit: int) -> str:
    """A line for the screen: for how many photographs HPO terms had to be left out of the prompt, and the first."""
    row, terms = next(iter(left_out.items()))
    first = f"first at {image_ids[row]}: {', '.join(terms)}"
    start = f"prompts: the text encoder reads {limit} tokens; terms are left out"
    return f"{start} at {len(left_out)} of {n_prompts} photographs, {first}"


def by_condition(
    left_out: dict[int, list[str]], class_names: Sequence[str], labels: Sequence[int]
) -> dict[str, list[str]]:
    """Condition -> the HPO terms that were left out of any of its prompts."""
    terms_of: dict[str, set[str]] = {}
    for row, terms in left_out.items():
        terms_of.setdefault(class_names[labels[row]], set()).update(terms)
    return {condition: sorted(terms) for condition, terms in sorted(terms_of.items())}
