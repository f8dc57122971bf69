"""For what synthetic images are used in a classifier: --synthetic_as, and its default by what made the images."""

from collections.abc import Sequence

import numpy as np

from classification.synthetic_teachers import SyntheticUses
from curation.leak_guard import DRAWS_NEW_PEOPLE
from curation.made_from import WORDS
from generation.synthetic_mix import SyntheticMix
from harness.counts import counted
from harness.errors import InputError


def use_of_images(mix: SyntheticMix, asked: str | None, recipe: str) -> np.ndarray:
    """terms, prior or data for each of the m images, (m,).

    asked: --synthetic_as; None for the default. A linear probe under `strict` takes images made from words for their
    terms, and those of adapters and other generators as a prior; people drawn by simulate_faces.py count as
    photographs, and so does everything else elsewhere. Raises InputError for images that cannot teach terms."""
    made_from, said = column(mix, "made_from"), column(mix, "hpo_said")
    if asked == "terms" and None in said:
        synthetic_id = mix.columns["image_id"][said.index(None)]
        raise InputError(
            f"--synthetic_as terms: image {synthetic_id} does not say its terms (column hpo_said); make images with "
            "train_dreambooth.py --prompts_from conditions, or take these as prior"
        )
    if asked or recipe != "linear_probe" or mix.protocol != "strict":
        return np.full(len(said), asked or "data", dtype=object)
    return np.array([default_use(*image) for image in zip(mix.columns["generator"], made_from, said, strict=True)])


def default_use(generator: str, made_from: str | None, said: Sequence[str] | None) -> str:
    """Of one image, in a linear probe under `strict`."""
    if generator == DRAWS_NEW_PEOPLE:
        return "data"
    return "terms" if made_from == WORDS and said is not None else "prior"


def uses_of_images(mix: SyntheticMix, use: np.ndarray, terms: Sequence[str]) -> SyntheticUses:
    """use (m,): as use_of_images returns it; terms (T,): those of the conditions, the only ones that are looked for.

    Raises InputError for images that are to teach terms and say none of these."""
    number_of = {term: i for i, term in enumerate(terms)}
    said = np.zeros((len(use), len(terms)), bool)
    for row, of_image in enumerate(column(mix, "hpo_said")):
        said[row, [number_of[term] for term in of_image or () if term in number_of]] = True
    teaches = np.asarray(use) == "terms"
    if teaches.any() and not said[teaches].any():
        reason = f"the {counted(int(teaches.sum()), 'image')} for terms say no term that is annotated here"
        remedy = "give the --term_table with which they were made, or use them as prior"
        raise InputError(f"--synthetic_dataset: {reason}; {remedy}")
    by_words = np.array([made_from == WORDS for made_from in column(mix, "made_from")], bool)
    return SyntheticUses(use, by_words, said)


def column(mix: SyntheticMix, name: str) -> list:
    """A column of all m images, null for those of a dataset without it."""
    return [
        value for part in mix.parts for value in (part[name][:] if name in part.column_names else [None] * len(part))
    ]
