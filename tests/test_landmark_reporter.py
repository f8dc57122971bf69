"""The reporter `landmarks`: what it measures, its norms, what its reports say, and its benchmark."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import simulate_faces
from benchmarks import landmark_reports
from harness.errors import InputError
from imaging import faces
from imaging.face_detectors import Candidates, FaceNetwork
from reporting import landmark_reporter
from reporting.landmark_reporter import MEASURES, NAMES, TERMS, LandmarkReporter, fit_norms, measure, read_norms
from reporting.report_sections import parse_sections
from reporting.report_terms import find_terms
from simulation import corpus
from simulation.face_geometry import Shape

SHARED = Path(__file__).resolve().parents[2] / "shared"
NOT_NAMED = {"HP:0011219"}  # "short face" is not among the terms that "the face is not visible" implies


@pytest.fixture(scope="module")
def mtcnn():
    return faces.load_detector("mtcnn")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landmarks") / "raw"
    with pytest.MonkeyPatch.context() as patch:  # drawn in this process: to start others costs seconds
        patch.setattr(corpus, "process_pool", lambda _: ThreadPoolExecutor(1))
        arguments = ["--output_dir", str(folder), "--num_images", "48", "--num_conditions", "12", "--seed", "77"]
        simulate_faces.main(simulate_faces.parse_args([*arguments, "--image_size", "112", "--num_workers", "1"]))
    return folder


@pytest.fixture(scope="module")
def pictures(raw):
    return landmark_reports.read_simulated(raw, None)[0]


@pytest.fixture(scope="module")
def measured(mtcnn, pictures):
    return measure(mtcnn, pictures)


@pytest.fixture(scope="module")
def norms(mtcnn, measured):
    return fit_norms(measured, mtcnn)


def drawn_points(**z: float) -> dict[str, np.ndarray]:
    """Exact points, px, of an average drawn child whose parameters are z."""
    points = {name: 100 * np.array(place) for name, place in Shape(z, 6.0).landmarks().items()}
    return points | dict.fromkeys(("upper_lip_inner", "lower_lip_inner"), points["stomion"])


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("eye_spacing", "spacing of the eyes"),
        ("inner_canthal_distance", "spacing of the inner canthi"),
        ("palpebral_length", "length of the palpebral fissures"),
        ("palpebral_slant", "inclination of the palpebral fissures"),
        ("eye_opening", "opening of the palpebral fissures"),
        ("nose_length", "length of the nose"),
        ("nose_width", "width of the nose"),
        ("philtrum_length", "length of the philtrum"),
        ("mouth_width", "width of the mouth"),
        ("upper_lip_thickness", "height of the upper vermilion"),
        ("lower_lip_thickness", "height of the lower vermilion"),
        ("face_length", "height of the face"),
        ("face_width", "width of the face"),
    ],
)
def test_each_measure_follows_its_parameter_of_the_drawing(parameter, name):
    low, average, high = (landmark_reporter.proportions(drawn_points(**{parameter: z})) for z in (-2, 0, 2))
    column = NAMES.index(name)
    assert low[column] < average[column] < high[column]
    changes = np.abs(high / low - 1)
    rivals = {"spacing of the inner canthi", "length of the palpebral fissures", "opening of the palpebral fissures"}
    rivals |= {"inclination of the palpebral fissures"}  # in degrees, so its change has another scale
    others = [number for number, other in enumerate(NAMES) if other not in rivals | {name}]
    assert name in rivals or changes[column] > changes[others].max()


def test_known_proportions_by_hand():
    five = dict(zip(landmark_reporter.FIVE_POINTS, [[0, 0], [4, 0], [2, 5], [1, 9], [3, 9]], strict=True))
    measured = landmark_reporter.proportions(five)  # eyes 4 apart, mouth 9 below and 2 wide: size 6
    assert measured[NAMES.index("spacing of the eyes")] == pytest.approx(4 / 6)
    assert measured[NAMES.index("width of the mouth")] == pytest.approx(2 / 6)
    assert measured[NAMES.index("length of the nose")] == pytest.approx(5 / 6)
    assert np.isfinite(measured).sum() == 3
    dense = {name: np.zeros(2) for name in landmark_reporter.MEDIAPIPE_POINTS}
    dense |= {"eye_image_right": [4, 0], "cheek_image_right": [8, 0], "chin": [0, 2]}  # size: cube root of 4 * 8 * 2
    dense |= {
        "inner_canthus_image_left": [1, 0],
        "outer_canthus_image_left": [0, -1],
    }  # upwards to the outside: 45 degrees
    dense |= {"inner_canthus_image_right": [3, 0], "outer_canthus_image_right": [4, 0], "upper_lid_image_left": [0, 1]}
    measured = landmark_reporter.proportions(dense)
    assert measured[NAMES.index("height of the face")] == pytest.approx(2 / 4)
    assert measured[NAMES.index("width of the face")] == pytest.approx(8 / 4)
    assert measured[NAMES.index("spacing of the inner canthi")] == pytest.approx(2 / 4)
    assert measured[NAMES.index("inclination of the palpebral fissures")] == pytest.approx(45 / 2)
    fissure = (2**0.5 + 1) / 2
    assert measured[NAMES.index("length of the palpebral fissures")] == pytest.approx(fissure / 4)
    assert measured[NAMES.index("opening of the palpebral fissures")] == pytest.approx(0.5 / fissure)


def test_size_place_and_tilt_of_the_face_change_nothing():
    points = drawn_points(philtrum_length=1, palpebral_slant=1)
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    moved = {name: 2.5 * turn @ place + [30, -70] for name, place in points.items()}
    a, b = landmark_reporter.proportions(points), landmark_reporter.proportions(moved)
    tilted = NAMES.index("inclination of the palpebral fissures")  # from horizontal parts, so only nearly
    assert np.allclose(np.delete(a, tilted), np.delete(b, tilted)) and abs(a[tilted] - b[tilted]) < 0.5


def test_points_that_span_no_face_measure_nothing_rather_than_fail():
    nowhere = dict.fromkeys(landmark_reporter.MEDIAPIPE_POINTS, np.zeros(2))
    assert np.isnan(landmark_reporter.proportions(nowhere)).all()


# ----------------------------------------------------------------------------------------------------- report


@pytest.mark.parametrize("number", range(len(MEASURES)))
def test_a_deviation_is_its_term_and_no_other_and_within_the_limit_both_are_absent(number):
    one = MEASURES[number]
    for z, term in ((2.0, one.large), (-1.9, one.small), (0.9, None), (-0.9, None)):
        deviations = np.full(len(MEASURES), np.nan)
        deviations[number] = z
        report = landmark_reporter.report(deviations)
        terms = find_terms(report)
        assert terms.present == ((term,) if term else ())
        expected = set() if term else {hpo_id for hpo_id in (one.small, one.large) if hpo_id}
        assert set(terms.absent) == expected
        assert (f"{z:+.1f} SD" in report) and ("marked" in report) == (z == 2.0 and term is not None)
        assert parse_sections(report)[1] == ()


def test_the_threshold_decides():
    deviations = np.full(len(MEASURES), 1.4)
    assert find_terms(landmark_reporter.report(deviations, 1.5)).present == ()
    assert set(find_terms(landmark_reporter.report(deviations, 1.4)).present) == {m.large for m in MEASURES} - {None}


def test_what_is_not_measured_is_neither_present_nor_absent():
    terms = find_terms(landmark_reporter.report(np.full(len(MEASURES), np.nan)))
    assert terms.present == () and terms.absent == () and set(terms.not_visible) == set(TERMS)


@pytest.mark.parametrize("number", range(len(MEASURES)))
def test_of_one_measure_that_is_missing_its_own_terms_and_no_others_are_not_visible(number):
    one = MEASURES[number]
    deviations = np.zeros(len(MEASURES))
    deviations[number] = np.nan
    terms = find_terms(landmark_reporter.report(deviations))
    assert set(terms.not_visible) == {one.small, one.large} - {None}
    assert set(terms.absent) == set(TERMS) - set(terms.not_visible) and terms.present == ()


def test_without_a_face_nothing_is_visible(mtcnn, norms):
    (report,) = LandmarkReporter(mtcnn, norms).write_reports([np.full((64, 64, 3), 127, np.uint8)])
    terms = find_terms(report)
    assert "no face was found" in report and parse_sections(report)[1] == ()
    assert terms.present == terms.absent == () and set(TERMS) - NOT_NAMED <= set(terms.not_visible)


# ------------------------------------------------------------------------------------------------------ norms


class KnownFaces(FaceNetwork):
    """Returns, for the picture whose first pixel is k, a face with the exact points of drawing k."""

    name, weights_sha256, threshold = "known", "0" * 64, 0.5

    def __init__(self, points: list[dict[str, np.ndarray]]):
        self.points = points

    def find(self, images: np.ndarray) -> list[Candidates]:
        found = []
        for image in images:
            points = self.points[image[0, 0, 0]]
            dense = np.zeros((478, 2), np.float32)
            for name, number in landmark_reporter.MEDIAPIPE_POINTS.items():
                dense[number] = points[name]
            box = np.array([[-100, -150, 100, 150]], np.float32)
            five = np.array([[points[name] for name in landmark_reporter.FIVE_POINTS]], np.float32)
            found.append(Candidates(box, five, np.ones(1, np.float32), dense[None]))
        return found


def numbered_pictures(count: int) -> list[np.ndarray]:
    return [np.full((8, 8, 3), number, np.uint8) for number in range(count)]


def known_detector(spacings: np.ndarray) -> faces.Detector:
    class Unplaced(faces.Detector):
        """Without borders, since the pictures are numbers and no faces are looked for."""

        def candidates(self, images, batch_size=16, border=0.0):
            return self.network.find(np.stack(images))

    return Unplaced(KnownFaces([drawn_points(eye_spacing=z, mouth_width=-z) for z in spacings]))


def test_norms_are_median_and_spread_of_the_people_given_and_a_few_extremes_do_not_move_them():
    generator = np.random.default_rng(5)
    spacings = generator.standard_normal(150)
    spacings[:7] = 4.0
    detector = known_detector(spacings)
    measured = measure(detector, numbered_pictures(150))
    norms = fit_norms(np.vstack([measured, np.full((3, len(NAMES)), np.nan)]), detector)
    column = NAMES.index("spacing of the eyes")
    healthy = measured[7:, column]
    assert norms.n_faces == 150
    assert norms.median[column] == np.median(measured[:, column])
    assert norms.sd[column] == pytest.approx(healthy.std(), rel=0.25) and norms.sd[column] < measured[:, column].std()
    reports = LandmarkReporter(detector, norms).write_reports(numbered_pictures(7))
    for report in reports:
        assert {"HP:0000316", "HP:0000160"} <= set(find_terms(report).present) and "marked" in report


def test_norms_survive_the_file_and_are_refused_for_another_detector(tmp_path, mtcnn, norms, pictures):
    file = tmp_path / "norms.json"
    landmark_reporter.write_norms(file, norms)
    again = read_norms(file, mtcnn)
    assert again.sha256 == norms.sha256 and np.array_equal(again.median, norms.median, equal_nan=True)
    assert LandmarkReporter(mtcnn, again).write_reports(pictures[:2]) == LandmarkReporter(mtcnn, norms).write_reports(
        pictures[:2]
    )
    with pytest.raises(InputError, match=r"norms.json: these norms were measured with mtcnn.*fit norms anew"):
        read_norms(file, known_detector(np.zeros(1)))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("measures"),
        lambda content: content.update(measures={}),
        lambda content: content["measures"].update({"length of the neck": {"median": 1, "sd": 1}}),
        lambda content: content["measures"]["width of the mouth"].update(sd=-1),
        lambda content: content["measures"]["width of the mouth"].update(median=float("nan")),
        lambda content: content["measures"].update({"width of the mouth": "1"}),
        lambda content: content.update(n_faces="many"),
    ],
)
def test_a_norms_file_that_is_none_is_refused_in_one_line(tmp_path, mtcnn, change):
    measures = {name: {"median": 1.0, "sd": 0.1} for name in ("spacing of the eyes", "width of the mouth")}
    weights = mtcnn.network.weights_sha256
    content = {"detector": f"mtcnn, weights {weights}", "n_faces": 30, "measures": measures}
    file = tmp_path / "norms.json"
    file.write_text(json.dumps(content))
    assert read_norms(file, mtcnn).n_faces == 30
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as refused:
        read_norms(file, mtcnn)
    assert "norms.json" in str(refused.value) and "\n" not in str(refused.value)


def test_norms_of_too_few_faces_are_refused(mtcnn):
    measured = np.full((19, len(NAMES)), 1.0)
    with pytest.raises(InputError, match="at least 20 photographs with a face, and 19 were found"):
        fit_norms(np.vstack([measured, np.full((9, len(NAMES)), np.nan)]), mtcnn)


def test_faces_that_are_all_alike_have_no_norm_to_deviate_from():
    detector = known_detector(np.zeros(25))
    norms = fit_norms(measure(detector, numbered_pictures(25)), detector)
    (report,) = LandmarkReporter(detector, norms).write_reports(numbered_pictures(1))
    assert find_terms(report).present == () and "cannot be assessed" in report


# -------------------------------------------------------------------------------------------------- real detectors


def test_reports_do_not_depend_on_the_batch(mtcnn, norms, pictures):
    reporter = LandmarkReporter(mtcnn, norms)
    some = pictures[:4]
    assert reporter.write_reports(some) == [reporter.write_reports([picture])[0] for picture in some]


def test_mtcnn_measures_three_proportions_and_names_the_rest_as_not_assessed(mtcnn, norms, measured, pictures):
    given = {name for name, column in zip(NAMES, measured.T, strict=True) if np.isfinite(column).any()}
    assert given == {"spacing of the eyes", "length of the nose", "width of the mouth"}
    (report, *_) = LandmarkReporter(mtcnn, norms).write_reports(pictures[:1])
    for name in set(NAMES) - given:
        assert name in report


def test_the_benchmark_prints_both_tables(raw, capsys, monkeypatch):
    folder = SHARED / "real_landmarks"
    if not folder.exists():
        pytest.skip("the photographs with hand-placed points are not part of this repository")
    monkeypatch.setattr(landmark_reports, "N_BOOT", 50)
    arguments = ["--raw_dir", str(raw), "--points_dir", str(folder), "--num_images", "48"]
    landmark_reports.main(landmark_reports.parse_args(arguments))
    printed = capsys.readouterr().out
    assert "SIMULATED: terms of 48 images" in printed and "exact points" in printed
    (nose,) = [line for line in printed.splitlines() if line.startswith("mtcnn       length of the nose")]
    assert float(nose.split()[5]) > 0.8  # of 48 adults; 0.92 of 102


def test_every_measure_of_mediapipe_follows_hand_placed_points():
    """A wrong number in MEDIAPIPE_POINTS shows here only; README says how the detector is installed."""
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed")
    folder, model = SHARED / "real_landmarks", SHARED / "models" / "face_landmarker" / "face_landmarker.task"
    if not folder.exists() or not model.exists():
        pytest.skip("photographs with hand-placed points and MediaPipe's weights are not part of this repository")
    adults, hand = landmark_reports.read_adults(folder, 60)
    measured = measure(faces.load_detector("mediapipe", model=model), adults)
    true = landmark_reports.truth_for(hand, measured)
    r = [np.corrcoef(measured[:, column], true[:, column])[0, 1] for column in range(len(NAMES))]
    assert min(r) > 0.55, dict(zip(NAMES, r, strict=True))


def test_shuffled_f1_is_the_mean_over_other_images():
    generator = np.random.default_rng(3)
    said, true = generator.random((2, 30, 5)) < 0.4
    scores = landmark_reports.f1_scores(said, true, np.ones((1, 30)))
    shifted = [np.roll(said, shift, axis=0) for shift in range(1, 30)]  # each image meets each other one once
    mean = np.mean([2 * (one & true).sum() / (said.sum() + true.sum()) for one in shifted])
    assert scores["shuffled"][0] == pytest.approx(mean)
    assert scores["F1"][0] == pytest.approx(2 * (said & true).sum() / (said.sum() + true.sum()))
    weights = np.zeros((1, 30))
    weights[0, :12] = 1  # a resample without the others
    part = landmark_reports.f1_scores(said[:12], true[:12], np.ones((1, 12)))
    assert landmark_reports.f1_scores(said, true, weights)["shuffled"][0] == pytest.approx(part["shuffled"][0])
