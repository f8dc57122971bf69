"""imaging/face_embeddings.py: a real network beside insightface's own use of it, persons told apart, refusals.

Networks whose result is known are written as ONNX files here, so that most tests run without a real one."""

import csv
import warnings
from pathlib import Path

import matplotlib.cbook
import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image

from harness.errors import InputError
from imaging import face_embeddings, faces

SHARED = Path(__file__).resolve().parents[2] / "shared"
MOBILEFACENET = SHARED / "models" / "mobilefacenet" / "mobilefacenet_192.onnx"
needs_network = pytest.mark.skipif(not MOBILEFACENET.is_file(), reason="the real network is not on this machine")
needs_real_faces = pytest.mark.skipif(
    not (SHARED / "real_faces").is_dir(), reason="the real photographs are not on this machine"
)
COLLINS = np.array([(205, 102), (247, 104), (227, 125), (208, 146), (245, 148)], float)
HOPPER = np.array([(222, 192), (310, 187), (268, 240), (234, 287), (306, 284)], float)


@pytest.fixture(scope="module")
def collins() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="module")
def hopper() -> Image.Image:
    return Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


@pytest.fixture(scope="module")
def mobilefacenet() -> face_embeddings.Embedder:
    return face_embeddings.load_embedder(MOBILEFACENET)


def mean_colour_network(file: Path, shape=("n", 3, 112, 112)) -> Path:
    """An ONNX network whose embedding is the mean of each colour channel, as the network receives it."""
    float32 = onnx.TensorProto.FLOAT
    image = onnx.helper.make_tensor_value_info("image", float32, shape)
    vector = onnx.helper.make_tensor_value_info("vector", float32, [shape[0], shape[1]])
    node = onnx.helper.make_node("ReduceMean", ["image"], ["vector"], axes=[2, 3], keepdims=0)
    graph = onnx.helper.make_graph([node], "mean_colour", [image], [vector])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), file)
    return file


@pytest.mark.parametrize("batch", ["n", 1])
def test_the_network_gets_rgb_centred_on_half_and_gives_vectors_of_length_one(batch, tmp_path):
    embedder = face_embeddings.load_embedder(mean_colour_network(tmp_path / "mean.onnx", (batch, 3, 112, 112)))
    colours = np.array([[200, 100, 50], [10, 20, 30], [128, 128, 255]], np.uint8)
    images = [np.full((300, 200, 3), colour, np.uint8) for colour in colours]
    vectors = embedder.embed(images, np.stack([COLLINS] * 3))
    expected = colours - 127.5
    assert vectors == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-5)
    assert vectors.dtype == np.float32 and embedder.n_values == 3
    assert (embedder.embed(images, np.stack([COLLINS] * 3), batch_size=2) == vectors).all()
    assert embedder.embed([], np.zeros((0, 5, 2))).shape == (0, 3)


def test_landmarks_that_do_not_belong_to_the_images_are_refused(tmp_path, collins):
    embedder = face_embeddings.load_embedder(mean_colour_network(tmp_path / "mean.onnx"))
    with pytest.raises(ValueError, match="1 images and landmarks of 2 faces"):
        embedder.embed([collins], np.stack([COLLINS, HOPPER]))
    with pytest.raises(ValueError, match="span no face"):
        embedder.embed([collins], np.full((1, 5, 2), 7.0))


def test_files_that_are_no_face_recognition_network_are_refused_in_one_line(tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(b"no network" * 100)
    mean_colour_network(tmp_path / "side.onnx", ("n", 3, 64, 64))
    mean_colour_network(tmp_path / "any.onnx", ("n", 3, "height", "width"))
    mean_colour_network(tmp_path / "grey.onnx", ("n", 1, 112, 112))
    for name, reason in (
        ("damaged", "cannot be read as ONNX"),
        ("side", "is no face-recognition network"),
        ("any", "is no face-recognition network"),
        ("grey", "is no face-recognition network"),
        ("missing", "is not there"),
    ):
        with pytest.raises(InputError, match=rf"^--embedding_model .*{name}\.onnx:? {reason}") as refusal:
            face_embeddings.load_embedder(tmp_path / f"{name}.onnx", flag="--embedding_model")
        assert "\n" not in str(refusal.value)


@needs_network
def test_a_real_network_gives_what_insightface_itself_gives(mobilefacenet, collins, hopper):
    """Faces of about the network's size: on these both alignments differ only in how they interpolate."""
    from insightface.app.common import Face
    from insightface.model_zoo import get_model

    theirs = get_model(str(MOBILEFACENET), providers=["CPUExecutionProvider"])
    for image, landmarks in ((collins, COLLINS), (hopper, HOPPER)):
        image, landmarks = image.resize((image.width // 2, image.height // 2)), landmarks / 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of an old call within insightface
            theirs.get(np.asarray(image)[..., ::-1], face := Face(bbox=np.zeros(4), kps=landmarks.astype(np.float32)))
        (ours,) = mobilefacenet.embed([image], landmarks[None])
        assert ours.shape == (192,) and ours @ face.normed_embedding > 0.98


@needs_network
def test_the_size_of_a_photograph_hardly_changes_its_embedding(mobilefacenet, hopper):
    small, large = (hopper.resize((n * hopper.width // 2, n * hopper.height // 2)) for n in (1, 6))
    # a pixel's centre has whole coordinates
    landmarks = [(HOPPER + 0.5) * scale - 0.5 for scale in (0.5, 3)]
    one, other = mobilefacenet.embed([small, large], np.array(landmarks))
    assert one @ other > 0.995


@needs_network
@needs_real_faces
def test_pictures_of_one_person_are_told_from_those_of_two(mobilefacenet):
    with (SHARED / "real_faces" / "disease_images.csv").open() as table:
        rows = [(row["disease_abbr"], row["image_name"]) for row in csv.DictReader(table)][::5]
        table.seek(0)
        rows += [(row["disease_abbr"], row["image_name"]) for row in csv.DictReader(table)][1::5]
    images = [Image.open(SHARED / "real_faces" / "rd_images" / person / name) for person, name in rows]
    model = SHARED / "models" / "retinaface_mobilenet025" / "retinaface_mobilenet025.onnx"
    found = faces.load_detector("retinaface", model=model).detect(images)
    vectors = mobilefacenet.embed(images, np.array([face.landmarks for face in found]))
    cosines = vectors[:14] @ vectors[14:].T  # first pictures of 14 people, second pictures of the same
    assert (cosines.argmax(axis=1) == range(14)).all()
    assert np.diagonal(cosines).min() > 0.6 > cosines[~np.eye(14, dtype=bool)].max()
