import numpy as np
import pytest
from PIL import Image

from hf_face.pipelines import annotate
from hf_face.pipelines.drawing import GREEN, RED, annotate_pair


def face(left: float, top: float, side: float) -> dict:
    box = {"xmin": left, "ymin": top, "xmax": left + side, "ymax": top + side}
    landmarks = [
        [left + side * x, top + side * y] for x, y in ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
    ]
    return {"box": box, "landmarks": landmarks, "score": 0.93}


def test_boxes_landmarks_and_labels_are_drawn_into_a_copy():
    photograph = Image.new("RGB", (300, 200), "gray")
    picture = annotate(photograph, [face(50, 60, 100)], color="#ff0000")
    red = (np.asarray(picture) == [255, 0, 0]).all(2)
    assert red[60, 50:151].all() and red[160, 50:151].all() and red[60:161, 50].all() and red[60:161, 150].all()
    assert all(red[int(60 + 100 * y), int(50 + 100 * x)] for x, y in ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6)))
    label = np.asarray(picture)[40:59, 48:90]
    assert (label == [255, 0, 0]).all(2).any() and label.min(2).max() > 200  # white on red, above
    assert not red[90, 60:75].any()
    assert (np.asarray(photograph) == 128).all()


def test_labels_at_the_edge_and_nobody():
    assert annotate(Image.new("RGB", (40, 40)), [face(-5, -3, 30)], ["somebody with a long name"]).size == (40, 40)
    assert annotate(np.zeros((20, 30, 3), dtype=np.uint8), []).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize(("same", "color"), [(True, GREEN), (False, RED)])
def test_two_photographs_beside_each_other(same, color):
    answer = {"same": same, "similarity": 0.5, "threshold": 0.4, "faces": [face(10, 10, 50), face(20, 20, 100)]}
    photographs = [Image.new("RGB", (100, 100)), Image.new("RGB", (200, 400))]
    sheet = annotate_pair(photographs, answer, height=200)
    assert sheet.size == (200 + 100, 240)
    text = np.asarray(sheet)[200:]
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    assert (text == wanted).all(2).any() and (text == 255).all(2).any()
