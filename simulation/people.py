"""Draws simulated patients with their terms and looks, the views in which they are photographed, and their reports."""

from dataclasses import dataclass

import numpy as np

from phenotyping import phenotypes
from simulation.face_geometry import Look, View

# Ancestry groups: colours of skin, hair and iris (sRGB), means of face parameters in SD, and the countries whose
# simulated patients belong to them.
ANCESTRIES = {
    "European": (
        ((0.95, 0.79, 0.71), (0.86, 0.68, 0.58)),
        ((0.80, 0.64, 0.40), (0.42, 0.27, 0.16), (0.20, 0.13, 0.09), (0.52, 0.29, 0.17)),
        ((0.36, 0.52, 0.64), (0.34, 0.24, 0.14), (0.40, 0.46, 0.30)),
        {"nasal_bridge_height": 0.3},
        "Austria Belgium Croatia Denmark Finland France Germany Greece Hungary Ireland Italy Netherlands Norway Poland "
        "Portugal Spain Sweden Switzerland "
        "United_Kingdom United_States Canada Australia New_Zealand",
    ),
    "African": (
        ((0.56, 0.39, 0.29), (0.34, 0.23, 0.17)),
        ((0.07, 0.055, 0.05),),
        ((0.20, 0.12, 0.08),),
        {
            "nose_width": 0.7,
            "upper_lip_thickness": 0.6,
            "lower_lip_thickness": 0.6,
            "hair_curl": 1.6,
            "nasal_bridge_height": -0.3,
        },
        "Nigeria Kenya South_Africa Ethiopia Cameroon Rwanda",
    ),
    "East Asian": (
        ((0.93, 0.77, 0.64), (0.82, 0.63, 0.49)),
        ((0.07, 0.06, 0.06), (0.13, 0.09, 0.07)),
        ((0.24, 0.15, 0.09),),
        {"epicanthus": 0.8, "nasal_bridge_height": -0.5, "palpebral_slant": 0.3, "hair_curl": -0.6},
        "China Japan South_Korea Thailand Vietnam",
    ),
    "South Asian": (
        ((0.76, 0.56, 0.42), (0.55, 0.38, 0.27)),
        ((0.08, 0.06, 0.05), (0.14, 0.09, 0.07)),
        ((0.22, 0.13, 0.08),),
        {"brow_density": 0.4, "lash_length": 0.3},
        "India Pakistan Bangladesh Sri_Lanka",
    ),
    "Middle Eastern": (
        ((0.86, 0.67, 0.54), (0.70, 0.51, 0.38)),
        ((0.12, 0.08, 0.06), (0.26, 0.17, 0.11)),
        ((0.28, 0.18, 0.10), (0.40, 0.42, 0.28)),
        {"brow_thickness": 0.4, "nose_projection": 0.3},
        "Turkey Iran Saudi_Arabia Egypt",
    ),
    "Latin American": (
        ((0.84, 0.64, 0.51), (0.66, 0.47, 0.35)),
        ((0.10, 0.07, 0.06), (0.22, 0.14, 0.10)),
        ((0.25, 0.15, 0.09),),
        {"lower_lip_thickness": 0.2},
        "Brazil Mexico Argentina Colombia",
    ),
}
COUNTRY_ANCESTRY = {
    country.replace("_", " "): group for group, facts in ANCESTRIES.items() for country in facts[4].split()
}  # 46 countries


@dataclass(frozen=True)
class Person:
    """One simulated patient."""

    condition: phenotypes.Condition
    sex: str
    age_years: float
    country: str
    z: dict[str, float]  # face parameters in SD of individual variation, with the effects of the condition
    present: tuple[str, ...]  # HPO ids of the condition's terms that the patient has
    absent: tuple[str, ...]  # and of those that he has not
    look: Look


def draw_person(
    condition: phenotypes.Condition, country: str, rng: np.random.Generator, effect: float = phenotypes.EFFECT
) -> Person:
    """A patient with individual variation N(0, 1) of every parameter. Each of the condition's terms is present with the
    probability that is its penetrance.

    effect: how far a term moves its parameters, in standard deviations of individual variation."""
    skins, hairs, irises, means, _ = ANCESTRIES[COUNTRY_ANCESTRY[country]]
    is_present = {hpo_id: rng.random() < p for hpo_id, p in condition.penetrance.items()}
    present = [hpo_id for hpo_id, there in is_present.items() if there]
    z = {name: float(rng.standard_normal()) + means.get(name, 0.0) for name in phenotypes.parameters()}
    for name, shift in phenotypes.shift(present, effect).items():
        z[name] += shift
    sex = "female" if rng.random() < 0.48 else "male"
    z["jaw_width"] += 0.25 if sex == "male" else -0.25
    share = rng.random()
    skin = np.array(skins[0]) * (1 - share) + np.array(skins[1]) * share
    hair = np.array(hairs[rng.integers(len(hairs))]) * rng.uniform(0.8, 1.1)
    length = rng.uniform(0.35, 1.0) if sex == "female" else rng.uniform(0.0, 0.2)
    age = 17 * rng.beta(1.1, 2.1)  # mean 5.9 years; 6.4 over photographs, since some are taken later
    look = Look(
        age, tuple(skin), tuple(hair), tuple(irises[rng.integers(len(irises))]), length, int(rng.integers(2**31))
    )
    return Person(
        condition, sex, age, country, z, tuple(present), tuple(i for i, there in is_present.items() if not there), look
    )


def draw_view(rng: np.random.Generator) -> View:
    """Pose, framing, light and surroundings of one photograph: nearly frontal, as clinicians ask for it."""

    def colour(low: float, high: float) -> tuple[float, float, float]:
        grey = rng.uniform(low, high)
        return tuple(np.clip(grey + 0.05 * rng.standard_normal(3), 0.05, 0.97))

    yaw, pitch, roll = np.clip(rng.standard_normal(3), -2.4, 2.4) * [7.0, 4.0, 4.0]
    warm = 0.03 * rng.standard_normal()
    return View(
        yaw,
        pitch,
        roll,
        rng.uniform(0.40, 0.54),
        tuple(np.clip(rng.normal([0.5, 0.48], 0.018), 0.45, 0.54)),
        (rng.uniform(-0.6, 0.6), rng.uniform(-0.75, -0.35), 0.85),
        rng.uniform(0.50, 0.68),
        (1 + warm, 1.0, 1 - warm),
        rng.uniform(-0.3, 0.9),
        tuple(np.clip(rng.normal(0, 0.25, 2), -0.6, 0.6)),
        (colour(0.45, 0.9), colour(0.25, 0.75)),
        colour(0.2, 0.8),
        int(rng.integers(2**31)),
    )


def write_report(person: Person, rng: np.random.Generator, hpo_name_share: float = 0.5) -> str:
    """A reference phenotype report, region by region: every present term, and some absent ones negated.

    A term is worded as HPO does, or as its synonyms and lay words do.

    hpo_name_share: probability of HPO's own name instead of a wording drawn from all of the term's."""
    terms = phenotypes.terms()
    headings = {
        "eyes": "Eyes",
        "nose": "Nose",
        "mouth/lips": "Mouth/Lips",
        "ears": "Ears",
        "jaw": "Jaw",
        "forehead": "Forehead",
        "whole face": "Overall Impression",
    }

    def worded(hpo_id: str) -> str:
        term = terms[hpo_id]
        words = term.name if rng.random() < hpo_name_share else term.wordings[rng.integers(len(term.wordings))]
        return words[0].lower() + words[1:]

    lines = []
    for region in ("whole face", "eyes", "nose", "mouth/lips", "ears", "jaw", "forehead"):
        findings = [worded(i) for i in person.present if terms[i].region == region]
        ruled_out = [worded(i) for i in person.absent if terms[i].region == region and rng.random() < 0.35]
        sentence = f"There is {', '.join(findings)}." if findings else "No distinctive finding."
        lines.append(f"{headings[region]}: {sentence}" + (f" No {', no '.join(ruled_out)}." if ruled_out else ""))
    lines.append(f"Diagnostic Suggestion: the findings are compatible with {person.condition.name}.")
    return "\n".join(lines)
