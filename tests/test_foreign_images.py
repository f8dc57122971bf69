"""A folder of synthetic faces that says nothing of its sources."""

import numpy as np
import pytest
from PIL import Image

from curation import protocols
from curation.leak_guard import Guard
from generation import foreign_images
from harness import errors

CLASS_NAMES = ["WIL", "BRA", "A1"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["WIL/WIL_10.png", "WIL/WIL_2.png", "A1/A1_0.jpg", "XYZ/XYZ_1.png", "BRA/face.png"]):
        file = tmp_path / "faces" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(file)
    (tmp_path / "faces" / "WIL" / "notes.txt").write_text("x")
    (tmp_path / "outside.png").write_bytes((tmp_path / "faces/WIL/WIL_2.png").read_bytes())
    (tmp_path / "faces" / "BRA" / "BRA_1.png").symlink_to(tmp_path / "outside.png")
    return tmp_path / "faces"


def test_pictures_are_read_in_the_order_of_their_numbers_and_what_is_left_out_is_told(folder):
    assert foreign_images.is_foreign(folder)
    images, problems = foreign_images.open_foreign(folder, CLASS_NAMES)
    assert images["synthetic_id"][:] == ["A1_0", "WIL_2", "WIL_10"]
    assert [CLASS_NAMES[label] for label in images["label"][:]] == ["A1", "WIL", "WIL"]
    assert np.asarray(images[1]["image"])[0, 0, 0] == 20
    assert problems == [
        "BRA/face.png: is not called BRA_<number>, and was left out",
        "BRA/BRA_1.png: is a link that leaves the folder, and was left out",
        "XYZ/XYZ_1.png: XYZ is no condition of --dataset_name, and the image was left out",
    ]


def test_the_fingerprint_is_that_of_the_content(folder, tmp_path):
    before = foreign_images.open_foreign(folder, CLASS_NAMES)[0]._fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert foreign_images.open_foreign(moved, CLASS_NAMES)[0]._fingerprint == before
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(moved / "WIL" / "WIL_2.png")
    assert foreign_images.open_foreign(moved, CLASS_NAMES)[0]._fingerprint != before


def test_no_guard_lets_an_image_of_unknown_origin_in(folder):
    images, _ = foreign_images.open_foreign(folder, CLASS_NAMES)
    columns = {"image_id": ["a", "b"], "group_id": ["a", "b"], "sha256": ["0", "1"]}
    fold = protocols.Fold(0, np.array([0]), np.array([], int), np.array([1]))
    synthetic = {name: images[name][:] for name in images.column_names if name != "image"}
    for row in range(len(images)):
        synthetic["protocol"][row], synthetic["fold"][row] = "strict", 0  # even if somebody writes this into it
    with pytest.raises(errors.LeakError, match="names no source_image_ids"):
        Guard(fold, columns).admit_synthetic(synthetic)
    with pytest.raises(errors.LeakError, match="was made for fold None of protocol unknown"):
        Guard(fold, columns).admit_synthetic({name: images[name][:] for name in synthetic})


def test_a_folder_without_such_pictures_is_refused(folder, tmp_path):
    assert not foreign_images.is_foreign(tmp_path / "nothing")
    with pytest.raises(errors.InputError, match=r"faces: .*left out; name the folder with the conditions' folders"):
        foreign_images.open_foreign(folder, ["QQQ"])
    (tmp_path / "empty").mkdir()
    assert not foreign_images.is_foreign(tmp_path / "empty")
    with pytest.raises(errors.InputError, match=r"holds no <ABBR>/<ABBR>_<number>\.png"):
        foreign_images.open_foreign(tmp_path / "empty", CLASS_NAMES)
