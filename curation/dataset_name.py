"""The name under which a dataset is published: RDFace, or the one that its curator gave it with `build --name`.

Simulated and synthetic images have names of their own, which no curator's dataset may have.
"""

import re
from collections.abc import Mapping

from harness import real_or_simulated, text_normalization
from harness.errors import InputError

RDFACE = "RDFace"
PRETTY_NAMES = {
    real_or_simulated.REAL: RDFACE,
    real_or_simulated.SIMULATED: "RDFace-sim",
    real_or_simulated.SYNTHETIC: "RDFace synthetic",
}
MOST_CHARACTERS = 80
PAPERS_IMAGES, PAPERS_CONDITIONS = 456, 103  # Feng et al., RDFace, CVPR 2026, arXiv 2604.03454
CITATION = """@inproceedings{rdface,
  title     = {RDFace},
  author    = {Feng and Long and Ali and Lou and Butt and Liu and Wang and Hu},
  booktitle = {CVPR},
  year      = {2026},
  note      = {arXiv:2604.03454}
}"""


def checked(text: str) -> str:
    """A dataset's name as it is shown; RDFace in any capitals is RDFace.

    Raises ValueError for a text that is empty, too long or not of one visible line, and for the name of simulated or
    synthetic images."""
    name = text.strip()
    if not name:
        raise ValueError("the name is empty; give one such as 'Faces of Our Clinic'")
    if not name.isprintable():  # a line break among others
        raise ValueError(f"{name!r} holds a line break or a character that cannot be seen; write it on one line")
    if len(name) > MOST_CHARACTERS:
        raise ValueError(f"the name has {len(name)} characters; give one of at most {MOST_CHARACTERS}")
    if name.casefold() == RDFACE.casefold():
        return RDFACE
    if name.casefold() in {pretty.casefold() for pretty in PRETTY_NAMES.values()}:
        raise ValueError(f"{name!r} is the name of images that were not photographed; choose another one")
    return name


def recorded(header: Mapping) -> str | None:
    """The name in the header of an earlier card; None for none, and for the name of simulated or synthetic images.

    Raises InputError for a name that no card can have."""
    name = header.get("pretty_name")
    if name is None or name in PRETTY_NAMES.values():
        return RDFACE if name == RDFACE else None
    try:
        return checked(str(name))
    except ValueError as error:
        raise InputError(f"README.md: pretty_name: {error}") from None


def is_papers(n_images: int, n_conditions: int) -> bool:
    """Whether a dataset has the size of the one that the paper describes."""
    return (n_images, n_conditions) == (PAPERS_IMAGES, PAPERS_CONDITIONS)


def facts_of_name(kind_name: str, given: str | None, version: str) -> dict:
    """What card, licence and record say of the dataset's name, and how it is cited.

    kind_name: one of PRETTY_NAMES, as dataset_facts names the kind of images; given: the curator's own name, which
    only photographs have; version: of the dataset."""
    is_other = kind_name == real_or_simulated.REAL and given not in (None, RDFACE)
    if not is_other:
        title, in_addresses, citation = PRETTY_NAMES[kind_name], kind_name, CITATION
    else:
        title, in_addresses, citation = given, address_of(given), f"{given}, version {version}"
    return {"title": title, "is_other": is_other, "in_addresses": in_addresses, "citation": citation}


def address_of(name: str) -> str:
    """The name as a part of an address: small letters, digits and hyphens; "dataset" if none of them remain."""
    latin = text_normalization.without_accents(name.casefold())
    return re.sub(r"[^a-z0-9]+", "-", latin).strip("-") or "dataset"
