"""The tables: enough terms, consistent, and every face parameter can be seen in a picture."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from phenotyping import phenotypes
from simulation.face_geometry import Look, View
from simulation.face_painting import paint_face

LOOK = Look(6.0, (0.9, 0.72, 0.62), (0.3, 0.2, 0.12), (0.35, 0.45, 0.5), 0.3, 7)


def test_terms_cover_every_region_with_known_parameters_and_words():
    table = phenotypes.terms()
    assert len(table) >= 60
    assert {term.region for term in table.values()} == set(phenotypes.REGIONS)
    for hpo_id, term in table.items():
        assert re.fullmatch(r"HP:\d{7}", hpo_id)
        assert term.moves and all(0 < abs(share) <= 1.5 for share in term.moves.values())
        assert term.wordings[0] == term.name
    assert "Widely spaced eyes" in table["HP:0000316"].wordings  # a lay synonym of hypertelorism


def test_opposite_terms_move_the_same_parameter_apart():
    hypertelorism, hypotelorism = phenotypes.shift(["HP:0000316"]), phenotypes.shift(["HP:0000601"])
    assert hypertelorism == {"eye_spacing": 2.5} and hypotelorism == {"eye_spacing": -2.5}
    assert phenotypes.shift(["HP:0000508", "HP:0001488", "HP:0000508"], effect=2.0) == {
        "ptosis": 3.0
    }  # 1.5 effects at most


def test_conditions_are_ranked_by_informativeness_and_well_formed():
    conditions = phenotypes.conditions()
    study = conditions[: phenotypes.NUM_STUDY_CONDITIONS]
    assert len(study) == 103 and len(conditions) > 200
    assert max(Counter(c.abbr for c in conditions).values()) == 1
    assert max(Counter(c.orphanet_code for c in conditions).values()) == 1
    worth = [sum(p for p in c.penetrance.values() if p > 0.3) for c in conditions]
    assert all(a >= b - 1e-9 for a, b in pairwise(worth))
    assert all(0 < p <= 1 and i in phenotypes.terms() for c in conditions for i, p in c.penetrance.items())
    williams = next(c for c in study if c.name == "Williams syndrome")
    assert williams.orphanet_code == "904" and "ELN" in williams.genes and "HP:0000154" in williams.penetrance


@pytest.mark.parametrize("name", phenotypes.parameters())
def test_every_parameter_changes_the_picture(name):
    base = {"tongue_protrusion": 1.5, "mouth_opening": 2.0} if name == "tooth_spacing" else {}
    view = View(seed=1)
    low, usual, high = (paint_face({**base, name: z}, LOOK, view, 128)[0].astype(int) for z in (-2.5, 0.0, 2.5))
    changed = max((np.abs(a - b).max(axis=2) > 12).sum() for a, b in ((low, high), (usual, high)))
    assert changed >= 4, f"{name} moves {changed} pixels only"
