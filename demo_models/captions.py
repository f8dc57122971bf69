"""Captions of SIMULATED people for the miniature diffusion base, its tokenizer, and the training of its text encoder.

Stable Diffusion has a text encoder that learnt from hundreds of millions of captions (CLIP, Radford et al., ICML 2021,
arXiv 2103.00020). The miniature's learns from captions alone, which cost nothing here: it reads the face parameters of
simulated people off their captions, without any photograph, before the U-Net is trained with it."""

import json
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from phenotyping import phenotypes
from simulation.people import COUNTRY_ANCESTRY, Person, draw_person

TEXT_WIDTH = 128
RARE_WORDS = 128  # words of three letters that no caption uses, as identifiers for DreamBooth
QUALITIES = {"black_and_white": "black and white ", "blur": "blurred ", "low_resolution": "blurred "}
QUALITIES |= {"dark": "dark ", "noise": "noisy ", "jpeg": "noisy ", "border": "framed "}
QUALITY_SHARE = 0.04  # share of captions that mention each degradation
SAME_LENGTH = 64  # captions per step, of about equal length


def caption_of(person: Person, degradations: list[str], rng: np.random.Generator) -> str:
    """A caption of a photograph: its quality, age and sex (each in half of the captions), and most of the terms."""
    years = round(person.age_years)
    age = "baby " if years < 1 else f"{years} year old "
    age = age if rng.random() < 0.5 else ""
    noun = {"female": "girl", "male": "boy"}[person.sex] if rng.random() < 0.5 else "child"
    findings = [phenotypes.terms()[hpo_id].name.lower() for hpo_id in person.present if rng.random() < 0.8]
    quality = "".join(dict.fromkeys(QUALITIES[kind] for kind in degradations))
    rng.shuffle(findings)
    return f"{quality}photo of a {age}{noun}" + (f" with {', '.join(findings)}" if findings else "")


def without_terms(caption: str) -> str:
    """A caption whose findings are masked: what a base that has never heard of them is trained on."""
    return caption.partition(" with ")[0]


def train_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Byte-pair encoding of the captions' words, in lower case, and of rare words that no caption uses.

    The rare words come last in the vocabulary, as in CLIP's, whose late merges are rare. The same captions give the
    same tokenizer: the library breaks ties at random, so its merges are sorted by frequency here."""
    rng, letters = np.random.default_rng(0), np.array(list("bcdfghjklmnpqrstvwxz"))
    rare = sorted({"".join(rng.choice(letters, 3)) for _ in range(RARE_WORDS)})
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    texts = [*captions, *(word for word in rare for _ in range(4))]
    trainer = trainers.BpeTrainer(vocab_size=1400, min_frequency=2, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    split = bpe.pre_tokenizer.pre_tokenize_str
    words = Counter(f"{word}</w>" for text in texts for word, _ in split(text.lower()))
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    frequency = {merge: sum(n for word, n in words.items() if "".join(merge) in word) for merge in merges}
    merges.sort(key=lambda merge: (-frequency[merge], len("".join(merge)), merge))  # parts before the whole
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789,-'()/")
    pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{letter}</w>" for letter in alphabet)]
    pieces += ["".join(merge) for merge in merges]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token="<|endoftext|>")


# ---- the text encoder


def new_text_encoder(n_tokens: int) -> CLIPTextModel:
    """An untrained CLIP text encoder with 3 layers, for the tokens of train_tokenizer."""
    config = CLIPTextConfig(
        vocab_size=n_tokens,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


def described_people(count: int, seed: int, mask_terms: bool = False) -> tuple[list[str], torch.Tensor]:
    """Captions of simulated people with pretraining conditions, and the facts behind them, (count, q) float32, centred.

    mask_terms: whether the captions leave out what was found.
    The facts are the face parameters in SD, then age, sex and the photograph's qualities with about the same spread."""
    rng, countries = np.random.default_rng([seed, 6]), list(COUNTRY_ANCESTRY)
    pool = phenotypes.conditions()[phenotypes.NUM_STUDY_CONDITIONS :]
    names, qualities = phenotypes.parameters(), list(dict.fromkeys(QUALITIES.values()))
    captions, facts = [], []
    for _ in range(count):
        person = draw_person(pool[rng.integers(len(pool))], countries[rng.integers(len(countries))], rng)
        degraded = [kind for kind in QUALITIES if rng.random() < QUALITY_SHARE]
        caption = caption_of(person, degraded, rng)
        captions.append(without_terms(caption) if mask_terms else caption)
        mentioned = {QUALITIES[kind] for kind in degraded}
        other = [person.age_years / 4, 2 * (person.sex == "female"), *(2 * (word in mentioned) for word in qualities)]
        facts.append([*(person.z[name] for name in names), *other])
    facts = torch.tensor(facts, dtype=torch.float32)
    return captions, facts - facts.mean(dim=0)


class Reading(torch.nn.Module):
    """Trains a text encoder to read facts off captions, with a linear layer that is thrown away afterwards."""

    def __init__(self, tokenizer: CLIPTokenizer, count: int, seed: int, mask_terms: bool = False):
        super().__init__()
        captions, self.facts = described_people(count, seed, mask_terms)
        tokens = tokenizer(captions, truncation=True).input_ids
        order = sorted(range(count), key=lambda i: len(tokens[i]))
        self.groups = [order[i : i + SAME_LENGTH] for i in range(0, count, SAME_LENGTH)]
        self.tokens, self.end, self.longest = tokens, tokenizer.eos_token_id, tokenizer.model_max_length
        self.text_encoder = new_text_encoder(len(tokenizer))
        self.head = torch.nn.Linear(TEXT_WIDTH, self.facts.shape[1])

    def face(self, tokens: torch.Tensor) -> torch.Tensor:
        """Face parameters (n, p) in SD, centred, as read at the last place of tokens (n, t)."""
        return self.head(self.text_encoder(tokens)[0][:, -1])[:, : len(phenotypes.parameters())]

    def loss(self, generator: torch.Generator) -> torch.Tensor:
        """Mean squared error over SAME_LENGTH captions, read at their end and at the last padding token.

        The U-Net attends to padding tokens, too. generator: draws the captions and how far they are padded."""
        group = self.groups[torch.randint(len(self.groups), (1,), generator=generator)]
        length = max(len(self.tokens[i]) for i in group)
        padding = torch.randint(self.longest - length + 1, (1,), generator=generator).item()
        length += padding if torch.rand(1, generator=generator) < 0.3 else 0
        tokens = [self.tokens[i] + [self.end] * (length - len(self.tokens[i])) for i in group]
        device = self.head.weight.device
        read = self.head(self.text_encoder(torch.tensor(tokens, device=device))[0])
        ends = torch.tensor([len(self.tokens[i]) - 1 for i in group], device=device)
        facts = self.facts[group].to(device)
        at_end = read[torch.arange(len(group), device=device), ends]
        return (F.mse_loss(at_end, facts) + F.mse_loss(read[:, -1], facts)) / 2
