"""Copies of photographs that were altered as medical pictures are, found by the one test that all commands share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from benchmarks import altered_copies
from benchmarks.altered_copies import ALTERATIONS, altered
from imaging import local_features, near_duplicates
from phenotyping import phenotypes
from simulation.photography import Photograph, take

PORTRAITS = Path(__file__).resolve().parents[2] / "shared/real_attributes/few/rd_images"
N = 3  # people of each kind


def photograph(person: int, number: int) -> Image.Image:
    """A SIMULATED person's photograph; the same person in another number has another pose, light and expression."""
    plan = Photograph(number, "", phenotypes.conditions()[person % 9], person, number, None, "Kenya")
    return Image.fromarray(take(plan, 256, 2911)[0])


@pytest.fixture(scope="module")
def simulated() -> list[Image.Image]:
    return [photograph(person, person) for person in range(N)]


@pytest.fixture(scope="module")
def portraits() -> list[Image.Image]:
    if not PORTRAITS.is_dir():
        pytest.skip("needs the real portraits beside the repository")
    return [Image.open(file).convert("RGB") for file in sorted(PORTRAITS.glob("*/*.jpg"))[::40]][:N]


@pytest.mark.parametrize("source", ["simulated", "portraits"])
def test_every_altered_copy_is_found_and_nobody_else(source, request):
    pictures = request.getfixturevalue(source)
    records = np.stack([near_duplicates.record(picture) for picture in pictures])
    for kind in ALTERATIONS:
        images = [altered(kind, picture, row, pictures[row - 1]) for row, picture in enumerate(pictures)]
        found = near_duplicates.copies(np.stack([near_duplicates.record(image) for image in images]), records)
        on_plate = [sorted({row, (row - 1) % N}) for row in range(N)]
        assert found == (on_plate if kind == "two on a plate" else [[row] for row in range(N)]), kind


def test_the_mirrored_features_are_those_of_the_mirrored_picture(simulated):
    """Whatever the order of a descriptor's values: places, angles and descriptors agree with a picture turned over."""
    grey = local_features.grey_of(simulated[0])
    turned = local_features.features(np.ascontiguousarray(grey[:, ::-1]))
    mine = local_features.mirrored(local_features.features(grey))
    placed = local_features.lay_on(mine, turned)[0]
    assert placed.agreeing > 0.7 * min(mine["count"], turned["count"])
    assert np.allclose(placed.to_other, np.eye(2, 3), atol=0.1)


@pytest.mark.parametrize(("factor", "is_found"), [(1.05, True), (1.34, True), (1.75, True), (2.1, False)])
def test_a_stretched_picture_is_found_up_to_a_screen_made_square(simulated, factor, is_found):
    record = near_duplicates.record(simulated[0])
    stretched = near_duplicates.record(simulated[0].resize((256, round(256 * factor))))
    assert near_duplicates.copies(stretched[None], record[None]) == [[0] if is_found else []]
    agreeing = [placed.agreeing for placed in local_features.lay_on(stretched["features"], record["features"])]
    assert len(agreeing) == 1 + is_found


def test_a_build_joins_copies_and_proposes_plates_for_a_look(simulated):
    near = near_duplicates.NearDuplicates()
    plate = altered("two on a plate", simulated[0], 0, simulated[1])
    bar = altered("black bar over the eyes", simulated[2], 2, simulated[0])
    for row, picture in enumerate([*simulated, plate, bar]):
        near.add(10 * row, near_duplicates.record(picture))
    found = near.pairs()
    assert sorted(found.certain) == [(0, 30), (10, 30), (20, 40)]
    assert set(found.to_look_at) == {(0, 30), (10, 30)} and all(pair.is_part for pair in found.to_look_at.values())
    assert "places agree" in str(found.to_look_at[0, 30])
    apart = near.pairs(different=[(30, 10)])
    assert sorted(apart.certain) == [(0, 30), (20, 40)] and set(apart.to_look_at) == {(0, 30)}
    assert sorted(near.pairs(identical=[(20, 40)]).certain) == [(0, 30), (10, 30)]


def test_two_photographs_of_one_person_are_not_joined(simulated):
    """But if they are almost one: pose, light and expression as good as the same."""
    later = [photograph(person, 1000 + person) for person in range(N)]
    records = np.stack([near_duplicates.record(picture) for picture in simulated])
    assert near_duplicates.copies(np.stack([near_duplicates.record(picture) for picture in later]), records) == [[]] * N


def test_another_face_in_the_same_room_is_proposed_and_not_joined(simulated):
    """A camera on a stand before one wall: most places agree, but those in the middle do not."""
    room, other = simulated[0], simulated[1]
    outline = Image.new("L", room.size, 0)
    ImageDraw.Draw(outline).ellipse((62, 32, 194, 224), fill=255)
    visitor = Image.composite(other, room, outline.filter(ImageFilter.GaussianBlur(2)))
    a, b = near_duplicates.record(room), near_duplicates.record(visitor)
    likeness = near_duplicates.compare(a, b)
    assert likeness is None or not likeness.certain
    assert likeness is None or likeness.middle_alike < near_duplicates.MIN_MIDDLE_SHARE


def test_pictures_without_places_are_compared_as_a_whole(simulated):
    """Blurred until no local feature is left: the rule for re-encodings decides, also for a mirrored one."""
    plain = [picture.filter(ImageFilter.GaussianBlur(14)) for picture in simulated]
    records = np.stack([near_duplicates.record(picture) for picture in plain])
    assert records["features"]["count"].max() < near_duplicates.FEW_FEATURES
    changed = [plain[0].resize((100, 100)), plain[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    images = np.stack([near_duplicates.record(picture) for picture in changed])
    assert near_duplicates.copies(images, records) == [[0], [1]]


def test_the_benchmark_counts_found_copies_and_false_links(simulated, monkeypatch):
    monkeypatch.setattr(
        altered_copies, "ALTERATIONS", {kind: ALTERATIONS[kind] for kind in ("mirrored", "two on a plate")}
    )
    result = altered_copies.measure([*simulated, simulated[0]], ["a", "b", "c", "d"], 2)
    assert {kind: found["n"] for kind, found in result["kinds"].items()} == {"mirrored": 2, "two on a plate": 2}
    # "d" shows the picture of "a": each alteration of "a" is linked to it, and so is the plate of "b" with "a"
    links = result["altered_linked_to_others"]
    assert (links["n"], links["of"]) == (3, 2 * 3 + 2 * 2)
    assert result["originals_joined"]["n"] == 1 and result["originals_joined"]["of"] == 6
