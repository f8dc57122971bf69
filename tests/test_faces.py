"""imaging/faces.py: properties and a known value of the descriptor; MTCNN on real photographs, blank images, odd sizes.

Two portraits in the public domain come with packages that are installed: Eileen Collins (NASA) with scikit-image, and
Grace Hopper (US Navy) with matplotlib."""

import csv
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from imaging import faces

REAL_FACES = Path(__file__).resolve().parents[2] / "shared" / "real_faces"
needs_real_faces = pytest.mark.skipif(not REAL_FACES.is_dir(), reason="the real photographs are not on this machine")
FACE = np.array([[[0, 0], [4, 0], [2, 2], [0, 4], [4, 4]]], float)
BOX = np.array([[0, 0, 4, 8]], float)


@pytest.fixture(scope="module")
def mtcnn() -> faces.Detector:
    return faces.load_detector("mtcnn")


@pytest.fixture(scope="module")
def collins() -> Image.Image:
    """512 x 512 px; the eyes are at about (205, 102) and (247, 104)."""
    return Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="module")
def hopper() -> Image.Image:
    """512 x 600 px; the eyes are at about (222, 192) and (310, 187)."""
    return Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


@pytest.fixture(scope="module")
def both(collins, hopper) -> Image.Image:
    """Hopper in the foreground; Collins, half as large, gets the higher score."""
    image = Image.new("RGB", (1024, 606))
    image.paste(hopper, (0, 0))
    image.paste(collins.resize((256, 256)), (520, 100))
    return image


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    with (REAL_FACES / "disease_images.csv").open() as table:
        names = [(row["disease_abbr"], row["image_name"]) for row in csv.DictReader(table)]
    return {name: Image.open(REAL_FACES / "rd_images" / folder / name) for folder, name in names}


# ---- descriptor


def test_descriptor_measures_x_in_box_widths_and_y_in_box_heights():
    matrix = faces.landmark_descriptor(FACE, BOX).reshape(5, 5)
    assert matrix[0, 1] == 1.0  # eye to eye: 4 px in a box 4 px wide
    assert matrix[0, 3] == 0.5  # eye to mouth: 4 px in a box 8 px high
    assert matrix[0, 4] == pytest.approx(np.hypot(1.0, 0.5))


@given(
    landmarks=arrays(float, (2, 5, 2), elements=st.floats(-500, 500)),
    scale=st.floats(0.1, 10),
    stretch=st.floats(0.5, 2),
    shift=st.floats(-300, 300),
)
def test_descriptor_ignores_where_how_large_and_how_stretched_the_face_is(landmarks, scale, stretch, shift):
    boxes = np.array([[10.0, 20.0, 90.0, 140.0], [0.0, 0.0, 33.0, 44.0]])
    sizes = np.array([scale * stretch, scale])
    moved = faces.landmark_descriptor(landmarks * sizes + shift, boxes * np.tile(sizes, 2) + shift)
    descriptor = faces.landmark_descriptor(landmarks, boxes)
    assert moved == pytest.approx(descriptor, abs=1e-6)
    matrix = descriptor.reshape(2, 5, 5)
    assert (matrix == matrix.transpose(0, 2, 1)).all() and (np.diagonal(matrix, axis1=1, axis2=2) == 0).all()


def test_descriptor_of_no_faces_is_empty():
    assert faces.landmark_descriptor(np.zeros((0, 5, 2)), np.zeros((0, 4))).shape == (0, 25)


@pytest.mark.parametrize("box", [[0, 0, 0, 8], [5, 0, 4, 8], [0, 0, np.nan, 8]])
def test_descriptor_refuses_a_box_without_area(box):
    with pytest.raises(ValueError, match="face box 1 has no area"):
        faces.landmark_descriptor(np.repeat(FACE, 2, axis=0), np.array([BOX[0], box]))


def test_descriptor_refuses_other_shapes():
    with pytest.raises(ValueError, match="should be"):
        faces.landmark_descriptor(FACE[0], BOX)


# ---- detectors


def test_an_unknown_detector_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no face detector 'retinaface'; choose from mtcnn"):
        faces.load_detector("retinaface")


def test_mtcnn_weights_are_tensors_only():
    import facenet_pytorch

    weights = sorted((Path(facenet_pytorch.__file__).parent / "data").glob("*.pt"))
    assert len(weights) == 3
    for file in weights:
        torch.load(file, weights_only=True)  # raises where anything else would be unpickled


@pytest.mark.parametrize("size", [(1, 1), (12, 2000), (19, 19), (20, 20), (300, 30)])
def test_images_without_a_face_give_none_whatever_their_size(mtcnn, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert mtcnn.detect([noise, np.zeros((*size, 3), np.uint8)]) == [None, None]
    assert mtcnn.detect([]) == []


@pytest.mark.parametrize("array", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_arrays_that_are_no_rgb_images_are_refused(mtcnn, array):
    with pytest.raises(ValueError, match=r"image 1 is .*give a PIL image"):
        mtcnn.detect([np.zeros((9, 9, 3), np.uint8), array])


def check_face(face: faces.Face) -> None:
    eye_left, eye_right, nose, mouth_left, mouth_right = face.landmarks
    assert face.box.shape == (4,) and face.landmarks.shape == (5, 2) and 0.9 <= face.score <= 1
    assert eye_left[0] < nose[0] < eye_right[0] and mouth_left[0] < mouth_right[0]
    assert max(eye_left[1], eye_right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])


def test_mtcnn_finds_the_eyes_of_two_portraits(mtcnn, collins, hopper):
    found = mtcnn.detect([collins, hopper])
    for face, eyes in zip(found, ([(205, 102), (247, 104)], [(222, 192), (310, 187)]), strict=True):
        check_face(face)
        assert face.n_faces == 1 and np.abs(face.landmarks[:2] - eyes).max() < 4  # px


@needs_real_faces
def test_mtcnn_finds_the_subject_of_every_real_photograph(mtcnn, photographs):
    found = mtcnn.detect(list(photographs.values()))
    assert all(found)
    for face in found:
        check_face(face)


@needs_real_faces
def test_of_several_faces_in_a_real_photograph_the_largest_is_returned(mtcnn, photographs):
    check_largest(mtcnn, photographs["P10.5.jpg"])  # a bystander with the higher score is in the background


def test_of_two_faces_the_larger_is_returned(mtcnn, both):
    face = check_largest(mtcnn, both)
    assert np.abs(face.landmarks[:2] - [(222, 192), (310, 187)]).max() < 4


def check_largest(mtcnn: faces.Detector, image: Image.Image) -> faces.Face:
    """The larger of two faces is returned, although the other has the higher score."""
    (face,) = mtcnn.detect([image])
    assert face.n_faces == 2
    boxes, _, scores = mtcnn.find(np.asarray(image)[None])[0]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert (face.box == boxes[area.argmax()]).all() and face.score < scores.max()
    return face


@needs_real_faces
def test_the_threshold_decides_before_the_size_in_a_real_photograph(mtcnn, photographs):
    check_threshold(mtcnn, photographs["P10.5.jpg"])


def test_the_threshold_decides_before_the_size(mtcnn, both):
    check_threshold(mtcnn, both)


def check_threshold(mtcnn: faces.Detector, image: Image.Image) -> None:
    (largest,) = mtcnn.detect([image])
    (surest,) = mtcnn.detect([image], threshold=largest.score + 1e-6)
    assert surest.n_faces == 1 and surest.score > largest.score
    assert mtcnn.detect([image], threshold=1.01) == [None]


@needs_real_faces
def test_a_batch_of_real_photographs_equals_single_images(mtcnn, photographs):
    some = [image.resize((320, 320)) for image in list(photographs.values())[::10]]
    check_batch(mtcnn, some, photographs["P10.5.jpg"])


def test_a_batch_of_mixed_sizes_with_blanks_equals_single_images(mtcnn, collins, hopper, both):
    check_batch(mtcnn, [image.resize((320, 320)) for image in (collins, hopper, both)], collins)


def check_batch(mtcnn: faces.Detector, equally_large: list[Image.Image], other: Image.Image) -> None:
    mixed = [*equally_large, other, Image.new("L", (320, 320)), equally_large[0].convert("RGBA")]
    mixed.append(Image.new("RGB", (9, 9)))
    batched = mtcnn.detect(mixed, batch_size=4)
    for image, together in zip(mixed, batched, strict=True):
        (alone,) = mtcnn.detect([image])
        assert (together is None) == (alone is None)
        if alone is not None:
            assert together.box == pytest.approx(alone.box, abs=0.05)
            assert together.landmarks == pytest.approx(alone.landmarks, abs=0.05)
            assert together.n_faces == alone.n_faces
    assert batched[-3] is None and batched[-1] is None and batched[-2] is not None


# ---- alignment

# Where the landmarks come out in an aligned picture, as shares of its side. The committed backbone and diffusion base
# were trained on faces aligned so: another value would make both of them wrong.
EYES, NOSE, MOUTH = [(0.33, 0.45), (0.67, 0.45)], [(0.5, 0.645)], [(0.38, 0.79), (0.62, 0.79)]
PLACES = np.array(EYES + NOSE + MOUTH)


def test_an_aligned_portrait_has_eyes_nose_and_mouth_in_their_places(mtcnn, collins, hopper):
    portraits = [collins, hopper.rotate(20, expand=True)]
    found = mtcnn.detect(portraits)
    aligned = [
        faces.align(np.asarray(image), face.landmarks, 256) for image, face in zip(portraits, found, strict=True)
    ]
    for face in mtcnn.detect(aligned):
        assert np.abs((face.landmarks + 0.5) / 256 - PLACES).max() < 0.08  # faces differ in their proportions
        turn = np.subtract(*face.landmarks[1::-1])
        assert abs(turn[1] / turn[0]) < 0.05  # upright


@pytest.mark.parametrize("size", [(90, 120), (480, 640), (1500, 1400)])
def test_an_aligned_face_has_its_landmarks_in_their_places(size):
    """A face drawn as five dots, turned by 20 degrees: the dots come out in PLACES."""
    height, width = size
    angle, reach = np.deg2rad(20), 0.7 * min(size)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (PLACES - 0.5) @ turn.T * reach + [width / 2, height / 2]
    image = np.full((height, width, 3), 20, np.uint8)
    y, x = np.mgrid[:height, :width]
    for place in landmarks:
        image[np.hypot(x - place[0], y - place[1]) < 0.03 * reach] = 255
    aligned = faces.align(image, landmarks, 100)
    assert aligned.shape == (100, 100, 3) and aligned.dtype == np.uint8
    y, x = np.mgrid[:100, :100]
    for place in PLACES * 100 - 0.5:
        near = np.hypot(x - place[0], y - place[1]) < 8
        weight = (aligned[..., 0] - 20.0) * near
        centre = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
        assert np.abs(centre - place).max() < 0.6  # px


def test_landmarks_that_coincide_cannot_be_aligned():
    with pytest.raises(ValueError, match="span no face"):
        faces.align(np.zeros((50, 50, 3), np.uint8), np.full((5, 2), 7.0), 32)
