"""imaging/faces.py and its networks: descriptor, detectors on real photographs, blank images, odd sizes, and the cache.

Two portraits in the public domain come with packages that are installed: Eileen Collins (NASA) with scikit-image, and
Grace Hopper (US Navy) with matplotlib."""

import csv
import importlib.util
import pkgutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import onnx
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage.transform import SimilarityTransform
from torchvision.ops import nms

from harness.errors import InputError
from imaging import detector_names, face_detectors, faces, photographs
from imaging.face_cache import CachedDetector, pixels_sha256

ROOT = Path(__file__).resolve().parents[1]
REAL_FACES = ROOT.parent / "shared" / "real_faces"
needs_real_faces = pytest.mark.skipif(not REAL_FACES.is_dir(), reason="the real photographs are not on this machine")
MODELS = REAL_FACES.parent / "models"
MODEL_FILES = {
    "retinaface": MODELS / "retinaface_mobilenet025" / "retinaface_mobilenet025.onnx",
    "yunet": MODELS / "yunet_n_dynamic.onnx",
    "mediapipe": MODELS / "face_landmarker" / "face_landmarker.task",
}
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason="the real networks are not on this machine")
has_mediapipe = importlib.util.find_spec("mediapipe") is not None
needs_mediapipe = pytest.mark.skipif(not has_mediapipe, reason="mediapipe is not installed; it is optional")
REAL_NETWORKS = [("retinaface", 0.0), ("retinaface", 0.5), ("yunet", 0.0), ("yunet", 0.5)]
REAL_NETWORKS += [pytest.param("mediapipe", 0.0, marks=needs_mediapipe)]  # with the border a face is too small for it
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
def real_photographs() -> dict[str, Image.Image]:
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
    known = "insightface, mediapipe, mtcnn, retinaface, yunet"
    with pytest.raises(InputError, match=f"no face detector 'dlib'; choose from {known}; if it found the faces that a"):
        faces.load_detector("dlib")
    places = [*detector_names.FACE_DETECTORS.values(), *(one.place for one in detector_names.MODEL_DETECTORS.values())]
    assert all(callable(pkgutil.resolve_name(place)) for place in places)


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
def test_mtcnn_finds_the_subject_of_every_real_photograph(mtcnn, real_photographs):
    found = mtcnn.detect(list(real_photographs.values()))
    assert all(found)
    for face in found:
        check_face(face)


@needs_real_faces
def test_of_several_faces_in_a_real_photograph_the_largest_is_returned(mtcnn, real_photographs):
    check_largest(mtcnn, real_photographs["P10.5.jpg"])  # a bystander with the higher score is in the background


def test_of_two_faces_the_larger_is_returned(mtcnn, both):
    face = check_largest(mtcnn, both)
    assert np.abs(face.landmarks[:2] - [(222, 192), (310, 187)]).max() < 4


def check_largest(mtcnn: faces.Detector, image: Image.Image) -> faces.Face:
    """The larger of two faces is returned, although the other has the higher score."""
    (face,) = mtcnn.detect([image])
    assert face.n_faces == 2
    boxes, _, scores, _ = mtcnn.network.find(np.asarray(image)[None])[0]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert (face.box == boxes[area.argmax()]).all() and face.score < scores.max()
    return face


@needs_real_faces
def test_the_threshold_decides_before_the_size_in_a_real_photograph(mtcnn, real_photographs):
    check_threshold(mtcnn, real_photographs["P10.5.jpg"])


def test_the_threshold_decides_before_the_size(mtcnn, both):
    check_threshold(mtcnn, both)


def check_threshold(mtcnn: faces.Detector, image: Image.Image) -> None:
    (largest,) = mtcnn.detect([image])
    (surest,) = mtcnn.detect([image], threshold=largest.score + 1e-6)
    assert surest.n_faces == 1 and surest.score > largest.score
    assert mtcnn.detect([image], threshold=1.01) == [None]


@needs_real_faces
def test_a_batch_of_real_photographs_equals_single_images(mtcnn, real_photographs):
    some = [image.resize((320, 320)) for image in list(real_photographs.values())[::10]]
    check_batch(mtcnn, some, real_photographs["P10.5.jpg"])


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


# ---- detectors with a file


@pytest.mark.parametrize("name", detector_names.MODEL_DETECTORS)
def test_a_network_without_its_file_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(InputError, match=f"--detector {name} .*add --detector_model") as refusal:
        faces.load_detector(name)
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match=r"--detector_model .*no.onnx is not there"):
        faces.load_detector(name, model=tmp_path / "no.onnx")


@pytest.mark.parametrize("name", ["retinaface", "insightface", "yunet"])
def test_a_damaged_file_is_refused_in_one_line(name, tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no network" * 100)
    with pytest.raises(InputError, match=r"^--detector_model .*damaged\.onnx") as refusal:
        faces.load_detector(name, model=damaged)
    assert "\n" not in str(refusal.value)


def test_folders_without_a_detector_and_files_that_nobody_reads_are_refused(tmp_path):
    with pytest.raises(InputError, match="no face detector with five landmarks"):
        faces.load_detector("insightface", model=tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        faces.load_detector("yunet", model=tmp_path)
    with pytest.raises(InputError, match="mtcnn has its weights in its package"):
        faces.load_detector("mtcnn", model=tmp_path)


@needs_models
@needs_mediapipe
def test_mediapipe_leaves_no_traceback_when_python_ends():
    load = f"faces.load_detector('mediapipe', model=Path({str(MODEL_FILES['mediapipe'])!r}))"
    code = f"from pathlib import Path; from imaging import faces; print({load}.record()['detector'])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "mediapipe\n" and "Traceback" not in run.stderr


@pytest.mark.skipif(has_mediapipe, reason="mediapipe is installed")
def test_mediapipe_is_refused_with_the_command_that_installs_it(tmp_path):
    (tmp_path / "model.task").touch()
    with pytest.raises(InputError, match=r"run `pip install --no-deps mediapipe"):
        faces.load_detector("mediapipe", model=tmp_path / "model.task")


@needs_models
@pytest.mark.parametrize("name", ["retinaface", "insightface", "yunet"])
def test_a_network_of_another_kind_is_refused(name):
    with pytest.raises(InputError, match="--detector_model"):
        faces.load_detector(name, model=MODELS / "mobilefacenet" / "mobilefacenet_192.onnx")


@needs_models
@pytest.mark.parametrize(("name", "border"), REAL_NETWORKS)
def test_real_networks_find_the_eyes_of_two_portraits_with_and_without_border(name, border, collins, hopper):
    detector = faces.load_detector(name, model=MODEL_FILES[name])
    large = hopper.resize((1024, 1200))  # more than 800 px: reduced, and mapped back
    blanks = [Image.new("RGB", (1, 1)), Image.new("L", (70, 33)), Image.new("RGB", (2000, 12))]
    *found, one, two, three = detector.detect([collins, hopper, large, *blanks], border=border)
    assert (one, two, three) == (None, None, None)
    eyes = np.array([[(205, 102), (247, 104)], [(222, 192), (310, 187)], [(444, 384), (620, 374)]])
    for face, places in zip(found, eyes, strict=True):
        apart = np.linalg.norm(places[0] - places[1])
        assert face.n_faces == 1 and np.abs(face.landmarks[:2] - places).max() < 0.15 * apart
        left, right, nose, mouth_left, mouth_right = face.landmarks
        assert left[0] < nose[0] < right[0] and mouth_left[0] < mouth_right[0] and nose[1] < mouth_left[1]
        middle = (face.box[:2] + face.box[2:]) / 2
        assert np.linalg.norm(middle - face.landmarks.mean(axis=0)) < apart and face.box[2] - face.box[0] > apart
        assert (face.dense is not None) == (name == "mediapipe")
        if face.dense is not None:
            assert face.dense.shape == (478, 2) and (face.dense[468] == face.landmarks[0]).all()


@needs_models
def test_retinaface_equals_a_decoder_written_from_its_paper(both):
    """SSD's decoding in shares of the image, and torchvision's suppression, beside ours in px and OpenCV's."""
    network = faces.load_detector("retinaface", model=MODEL_FILES["retinaface"]).network
    image = np.asarray(both.resize((501, 303)))  # no multiple of any stride
    (height, width), bgr = image.shape[:2], image[..., ::-1].astype(np.float32) - [104, 117, 123]
    offsets, scores, points = network.session.run(None, {"input": bgr.transpose(2, 0, 1)[None].astype(np.float32)})
    priors = [
        ((x + 0.5) * stride / width, (y + 0.5) * stride / height, side / width, side / height)
        for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
        for y in range(int(np.ceil(height / stride)))
        for x in range(int(np.ceil(width / stride)))
        for side in sides
    ]
    priors = torch.tensor(priors, dtype=torch.float64)
    offsets, scores, points = (
        torch.tensor(part[0], dtype=torch.float64) for part in (offsets, scores[..., 1:], points)
    )
    centres = priors[:, :2] + 0.1 * offsets[:, :2] * priors[:, 2:]
    sizes = priors[:, 2:] * torch.exp(0.2 * offsets[:, 2:])
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1) * torch.tensor([width, height] * 2)
    places = (priors[:, None, :2] + 0.1 * points.view(-1, 5, 2) * priors[:, None, 2:]) * torch.tensor([width, height])
    likely = torch.nonzero(scores[:, 0] >= 0.3)[:, 0]
    kept = likely[nms(boxes[likely], scores[likely, 0], 0.4)]
    (ours,) = network.find(image[None])
    assert len(kept) == len(ours.scores) >= 2
    assert ours.boxes == pytest.approx(boxes[kept].numpy(), abs=1e-3)
    assert ours.landmarks == pytest.approx(places[kept].numpy(), abs=1e-3)
    assert ours.scores == pytest.approx(scores[kept, 0].numpy(), abs=1e-6)


@needs_models
@pytest.mark.parametrize("name", ["retinaface", "yunet"])
def test_without_border_the_landmarks_are_those_with_the_papers_border(name, collins, hopper):
    detector = faces.load_detector(name, model=MODEL_FILES[name])
    images = [collins.crop((0, 0, 301, 287)), hopper.crop((31, 13, 500, 590))]
    for plain, bordered in zip(detector.detect(images), detector.detect(images, border=0.5), strict=True):
        apart = np.linalg.norm(bordered.landmarks[0] - bordered.landmarks[1])
        assert np.abs(plain.landmarks - bordered.landmarks).max() < 0.02 * apart


@needs_models
def test_a_stack_through_retinaface_equals_single_images(collins, hopper, both):
    detector = faces.load_detector("retinaface", model=MODEL_FILES["retinaface"])
    check_batch(detector, [image.resize((320, 320)) for image in (collins, hopper, both)], collins)


def single_face_network(file: Path, side: int = 640) -> None:
    """An ONNX file of the layout that insightface reads: one face, score 0.9, whatever the image.

    The outputs are scores, boxes and landmarks of three grids, two anchors a cell; the face is in row 10, column 20 of
    the grid of stride 8: at (160, 80) px, its edges 24, 32, 40 and 48 px away."""
    values = {}
    for stride in (8, 16, 32):
        anchors = 2 * (side // stride) ** 2
        values |= {f"score{stride}": np.zeros((anchors, 1)), f"box{stride}": np.zeros((anchors, 4))}
        values[f"points{stride}"] = np.zeros((anchors, 10))
    row = 2 * (10 * (side // 8) + 20)
    values["score8"][row], values["box8"][row], values["points8"][row] = (
        0.9,
        (3, 4, 5, 6),
        (-1, -1, 1, -1, 0, 0, -1, 1, 1, 2),
    )
    kinds = [f"{kind}{stride}" for kind in ("score", "box", "points") for stride in (8, 16, 32)]
    nodes, constants = [], [onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    nodes.append(onnx.helper.make_node("ReduceMax", ["image"], ["largest"], keepdims=0))
    nodes.append(onnx.helper.make_node("Mul", ["largest", "zero"], ["nothing"]))
    for kind in kinds:
        constants.append(onnx.numpy_helper.from_array(values[kind].astype(np.float32), f"constant_{kind}"))
        nodes.append(onnx.helper.make_node("Add", [f"constant_{kind}", "nothing"], [kind]))
    float32 = onnx.TensorProto.FLOAT
    image = onnx.helper.make_tensor_value_info("image", float32, [1, 3, side, side])
    outputs = [onnx.helper.make_tensor_value_info(kind, float32, values[kind].shape) for kind in kinds]
    graph = onnx.helper.make_graph(nodes, "one_face", [image], outputs, constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), file)


@pytest.mark.parametrize(("name", "folder"), [("insightface", True), ("insightface", False), ("retinaface", False)])
def test_other_layouts_and_packs_are_read_by_insightface_and_named_as_what_they_are(name, folder, tmp_path, capsys):
    single_face_network(tmp_path / "det_test.onnx")
    detector = faces.load_detector(name, model=tmp_path if folder else tmp_path / "det_test.onnx")
    assert "non-commercial" in capsys.readouterr().err
    record = detector.record()
    assert record["detector"] == name and record["detector_model"] == "SCRFD through insightface, det_test.onnx"
    assert "non-commercial" in record["detector_licence"] and len(record["detector_sha256"]) == 64
    (face,) = detector.detect([np.zeros((320, 320, 3), np.uint8)])  # seen at twice its size
    assert face.box == pytest.approx([68, 24, 100, 64]) and face.score == pytest.approx(0.9) and face.n_faces == 1
    assert face.landmarks == pytest.approx(np.array([(76, 36), (84, 36), (80, 40), (76, 44), (84, 48)]))
    assert detector.detect([np.zeros((320, 320, 3), np.uint8)], threshold=0.91) == [None]
    faces.load_detector(name, model=tmp_path if folder else tmp_path / "det_test.onnx")
    assert capsys.readouterr().err == ""  # the licence is printed once


def test_thresholds_below_what_is_kept_are_refused(mtcnn):
    with pytest.raises(ValueError, match=r"threshold 0.29 is below 0\.3:"):
        mtcnn.detect([], threshold=0.29)


@needs_models
def test_of_boxes_that_share_more_than_four_tenths_the_surer_is_kept_and_scores_from_three_tenths_on():
    network = faces.load_detector("retinaface", model=MODEL_FILES["retinaface"]).network
    anchors = np.array([(100, 100, 32)] * 2 + [(300, 100, 32)] * 2 + [(500, 100, 32), (500, 300, 32)], np.float32)
    offsets = np.zeros((6, 4), np.float32)
    for row, shared in ((1, 0.41), (3, 0.39)):  # moved by d px, boxes 32 px wide share (32 - d) / (32 + d)
        offsets[row, 0] = 32 * (1 - shared) / (1 + shared) / 3.2
    scores = np.repeat(np.array([[0.9, 0.8, 0.7, 0.6, 0.301, 0.299]], np.float32).T, 2, axis=1)
    kept = network._decoded(offsets, scores, np.zeros((6, 10), np.float32), anchors)
    assert kept.scores == pytest.approx([0.9, 0.7, 0.6, 0.301])
    assert kept.boxes[0] == pytest.approx([84, 84, 116, 116])


@pytest.mark.parametrize("border", [0.0, 0.5])
@pytest.mark.parametrize("size", [(900, 1300), (331, 640), (2000, 1100)])
def test_what_the_network_sees_is_mapped_back_to_the_image(size, border):
    """A disc is found at the centre of its weight in the reduced and bordered image, and must come out where it is."""
    network = face_detectors.FaceNetwork()
    network.longest_side_px, network.grid_px = 640, 32
    image = np.zeros((*size, 3), np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    image[np.hypot(x - 200, y - 150) < 40] = 255
    placed = faces.Placement(*size, network, border)
    seen = placed.bordered(image)[..., 0].astype(float)
    reduced = np.array(size) * min(1, 640 / max(size))
    before = np.array(seen.shape) - reduced * (1 + border)  # px above and left of the image
    assert np.abs((before - reduced / 2 + 16) % 32 - 16).max() < 1.5  # on the grid where the paper's border puts it
    y, x = np.mgrid[: seen.shape[0], : seen.shape[1]]
    place = np.array([(x * seen).sum(), (y * seen).sum()]) / seen.sum()
    five, none = np.repeat(place[None, None], 5, axis=1), np.zeros((1, 4))
    assert placed.mapped_back(face_detectors.Candidates(none, five, np.ones(1))).landmarks[0, 0] == pytest.approx(
        [200, 150], abs=0.1
    )


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_px_are_those_of_the_upright_image_whatever_the_files_orientation(orientation, mtcnn, collins, tmp_path):
    """The file holds the portrait as a camera held otherwise would."""
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    undo |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    portrait = collins.crop((100, 0, 356, 200))  # a picture higher than wide would have its px elsewhere
    turned = portrait.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else portrait
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "camera.png", exif=exif)
    raw, read = Image.open(tmp_path / "camera.png"), photographs.read(tmp_path / "camera.png")[2]
    assert raw.size == turned.size and (faces.upright_rgb(raw) == np.asarray(portrait)).all()
    if orientation in (1, 5, 6):
        upright, from_camera, from_reader = mtcnn.detect([portrait, raw, read])
        assert (from_camera.landmarks == upright.landmarks).all() and (from_reader.landmarks == upright.landmarks).all()


def test_damaged_exif_counts_as_upright(mtcnn, collins):
    image = collins.copy()
    image.info["exif"] = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    assert (faces.upright_rgb(image) == np.asarray(collins)).all()


# ---- cache


def same_faces(one: list[faces.Face | None], other: list[faces.Face | None]) -> bool:
    numbers = [
        [face and (*face.box, *face.landmarks.ravel(), face.score, face.n_faces) for face in found]
        for found in (one, other)
    ]
    return numbers[0] == numbers[1]


def test_a_second_run_detects_nothing_and_finds_the_same(mtcnn, both, tmp_path):
    images = [both.resize((512, 303)), Image.new("RGB", (64, 64)), both.resize((512, 303))]
    first, second = CachedDetector(mtcnn, tmp_path / "cache"), CachedDetector(mtcnn, tmp_path / "cache")
    found = first.detect(images)
    assert first.n_detected == 2  # the third is the first
    assert same_faces(second.detect(images[::-1]), found[::-1]) and second.n_detected == 0
    assert same_faces(found[:2], mtcnn.detect(images[:2])) and found[0].n_faces == 2
    for threshold in (0.5, found[0].score + 1e-6, 1.01):  # any threshold is answered
        assert same_faces(second.detect(images[:2], threshold), mtcnn.detect(images[:2], threshold))
    assert second.n_detected == 0
    second.detect(images, border=0.1)
    assert second.n_detected == 2  # another question
    changed = np.array(images[0])
    changed[0, 0, 0] ^= 1
    second.detect([changed])
    assert second.n_detected == 3
    assert stat.S_IMODE((tmp_path / "cache" / "detected_faces.sqlite").stat().st_mode) == 0o600


def test_a_run_that_goes_on_finds_to_the_last_bit_what_an_unbroken_one_finds(mtcnn, collins, hopper, tmp_path):
    portraits = [np.asarray(image.resize((400, 400))) for image in (collins, hopper)]
    images = [np.roll(image, shift, axis=1) for image in portraits for shift in (0, 20, 40, 60)]
    unbroken = CachedDetector(mtcnn, tmp_path / "unbroken").detect(images)
    for n_before in (1, 3, 5):  # the images that an earlier run had looked at before it was killed
        stopped = CachedDetector(mtcnn, tmp_path / str(n_before))
        stopped.detect(images[:n_before])
        for continued, whole in zip(stopped.detect(images), unbroken, strict=True):
            assert (continued.landmarks == whole.landmarks).all() and (continued.box == whole.box).all()


def test_weights_and_settings_of_the_detector_are_part_of_the_question(tmp_path):
    single_face_network(tmp_path / "one.onnx")
    single_face_network(tmp_path / "two.onnx", side=320)
    image, kept = np.zeros((320, 320, 3), np.uint8), []
    for name, file in (("insightface", "one"), ("insightface", "two"), ("retinaface", "one"), ("insightface", "one")):
        detector = CachedDetector(faces.load_detector(name, model=tmp_path / f"{file}.onnx"), tmp_path)
        kept.append((detector.detect([image])[0].box.tolist(), detector.n_detected))
    assert [asked for _, asked in kept] == [1, 1, 1, 0] and kept[0] == (kept[3][0], 1) and kept[0][0] != kept[1][0]


def test_dense_landmarks_are_kept(tmp_path):
    class Dense(face_detectors.FaceNetwork):
        name, model, weights_sha256, threshold = "dense", "dense", "0" * 64, 0.5

        def find(self, images):
            one = [np.full(shape, 7, np.float32) for shape in ((1, 4), (1, 5, 2), 1, (1, 478, 2))]
            none = [np.zeros(shape, np.float32) for shape in ((0, 4), (0, 5, 2), 0, (0, 478, 2))]
            return [face_detectors.Candidates(*(one if image.any() else none)) for image in images]

    images = [np.full((8, 8, 3), fill, np.uint8) for fill in (0, 1)]
    for _ in range(2):
        detector = CachedDetector(faces.Detector(Dense()), tmp_path)
        nobody, face = detector.candidates(images)
        assert face.dense.shape == (1, 478, 2) and (face.dense == 7).all() and len(nobody.scores) == 0
    assert detector.n_detected == 0


def test_the_digest_of_pixels_is_that_of_photographs(collins, tmp_path):
    collins.save(tmp_path / "a.png")
    assert pixels_sha256(np.asarray(collins)) == photographs.read(tmp_path / "a.png")[0].pixels_sha256


def test_a_cache_that_cannot_be_used_is_refused_in_one_line(mtcnn, tmp_path):
    (tmp_path / "detected_faces.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match=r"detected_faces.sqlite cannot be used .*delete the file"):
        CachedDetector(mtcnn, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        CachedDetector(mtcnn, tmp_path / "file")


def test_two_runs_may_write_one_cache_at_once(mtcnn, tmp_path):
    first = CachedDetector(mtcnn, tmp_path)
    other = sqlite3.connect(tmp_path / "detected_faces.sqlite")
    other.execute("INSERT INTO faces VALUES ('a', 'b', x'', NULL)")
    other.commit()
    assert first.detect([Image.new("RGB", (64, 64))]) == [None]
    assert other.execute("SELECT count(*) FROM faces").fetchone() == (2,)
    other.close()


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


def test_a_face_can_be_aligned_to_other_places(collins):
    """Beside scikit-image's estimate and OpenCV's warp of a face that is enlarged, so that nothing is averaged."""
    landmarks = np.array([(205, 102), (247, 104), (227, 125), (208, 146), (245, 148)], float)
    places = PLACES * 0.8 + 0.05
    matrix = SimilarityTransform.from_estimate(landmarks, places * 300 - 0.5).params[:2]
    settings = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    expected = cv2.warpAffine(np.asarray(collins), matrix, (300, 300), **settings)
    assert (faces.align(np.asarray(collins), landmarks, 300, places) == expected).all()


def test_landmarks_that_coincide_cannot_be_aligned():
    with pytest.raises(ValueError, match="span no face"):
        faces.align(np.zeros((50, 50, 3), np.uint8), np.full((5, 2), 7.0), 32)
