"""Grouping a folder of photographs by person."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import AgglomerativeClustering

from hf_face.evaluation import clustering_metrics
from hf_face.pipelines import group_embeddings, group_photographs, save_contact_sheets
from hf_face.pipelines.grouping import THUMBNAIL_SIZE, _thumbnail

from .stub_pipeline import StubPipeline, write_photographs

PHOTOGRAPHS = {
    "2019/both.jpg": ["Ada 0.9", "Bob 0.9"],
    "2019/ada.jpg": ["Ada 0.95"],
    "2020/ada again.jpg": ["Ada 0.85"],
    "2020/bob.png": ["Bob 0.8"],
    "2020/<b>&'\".jpg": ["Cy 1"],
    "landscape.jpg": [],
    "broken.jpg": ["no image"],
    "notes.txt": ["Ada 1"],
}


@pytest.fixture
def photographs(tmp_path):
    folder = write_photographs(tmp_path / "photographs", PHOTOGRAPHS)
    (folder / "lost.jpg").symlink_to(tmp_path / "gone.jpg")
    return folder


@pytest.fixture
def groups(photographs):
    return group_photographs(photographs, StubPipeline())


def test_faces_are_grouped_by_person(groups):
    rows = zip(groups.faces["file_name"], groups.faces["face"], groups.faces["person"], strict=True)
    assert list(rows) == [
        ("2019/ada.jpg", 0, 1),
        ("2019/both.jpg", 0, 1),
        ("2019/both.jpg", 1, 2),
        ("2020/<b>&'\".jpg", 0, 3),
        ("2020/ada again.jpg", 0, 1),
        ("2020/bob.png", 0, 2),
    ]
    assert groups.people == {1: [0, 1, 4], 2: [2, 5], 3: [3]}
    summary = groups.summary()
    assert {name: summary[name] for name in ("faces", "people", "alone")} == {"faces": 6, "people": 3, "alone": 1}
    assert groups.without_faces == ["landscape.jpg"]
    assert list(groups.unreadable) == ["broken.jpg", "lost.jpg"] and "not an image" in groups.unreadable["broken.jpg"]
    assert "No such file" in groups.unreadable["lost.jpg"]
    assert groups.faces["thumbnail"][0].size == (THUMBNAIL_SIZE, THUMBNAIL_SIZE)


def test_the_page_and_the_table(groups, photographs, tmp_path):
    page = save_contact_sheets(groups, tmp_path / "out" / "people")
    text = page.read_text()
    assert "Person 1: 3 faces" in text and "Person 2: 2 faces" in text and "Alone: 1 face<" in text
    assert "6 faces of 3 people" in text and "landscape.jpg" in text and "broken.jpg" in text
    assert "&lt;b&gt;&amp;&#x27;&quot;.jpg" in text and "<b>" not in text
    assert 'href="../../photographs/2020/ada%20again.jpg"' in text
    assert (page.parent / "../../photographs/2020/ada again.jpg").exists()
    assert sorted(path.name for path in page.parent.iterdir()) == ["faces", "faces.csv", "index.html"]
    assert Image.open(page.parent / "faces" / "000005.jpg").size == (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    rows = list(csv.DictReader(io.StringIO((page.parent / "faces.csv").read_text())))
    assert [int(row["person"]) for row in rows] == groups.faces["person"][:]
    assert rows[3]["file_name"] == "2020/<b>&'\".jpg" and rows[0]["xmin"] == "1"
    assert list(rows[0]) == ["file_name", "face", "person", "xmin", "ymin", "xmax", "ymax", "score", "norm"]


def test_nothing_is_overwritten_and_nothing_written_half(groups, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    save_contact_sheets(groups, mine)  # empty
    (mine / "faces.csv").write_text("edited")
    with pytest.raises(ValueError, match="mine is not empty: name a new folder"):
        save_contact_sheets(groups, mine)
    assert (mine / "faces.csv").read_text() == "edited"
    monkeypatch.setattr("pyarrow.csv.write_csv", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_contact_sheets(groups, tmp_path / "half")
    assert not (tmp_path / "half").exists()
    monkeypatch.undo()
    save_contact_sheets(groups, tmp_path / "half")
    assert not list(tmp_path.glob("*.unfinished"))


def test_folders_without_an_answer(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty contains no images"):
        group_photographs(tmp_path / "empty", StubPipeline())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        group_photographs(tmp_path / "nowhere", StubPipeline())
    write_photographs(tmp_path / "views", {"sea.jpg": [], "hill.jpg": []})
    with pytest.raises(ValueError, match=r"No face was found in any of the 2 photographs in .*views"):
        group_photographs(tmp_path / "views", StubPipeline())


def test_the_threshold_is_that_of_the_calibrated_rate_nearest_to_the_best(photographs):
    loose = StubPipeline(thresholds={"1e-1": -1.0, "1e-3": 0.5})
    assert len(group_photographs(photographs, loose).people) == 3
    assert len(group_photographs(photographs, loose, false_accept_rate=1e-1).people) == 1
    assert len(group_photographs(photographs, loose, threshold=0.99).people) == 6
    with pytest.raises(ValueError, match="no calibrated threshold"):
        group_photographs(photographs, StubPipeline(thresholds={}))
    with pytest.raises(ValueError, match=r"no threshold for a false accept rate of 0.01"):
        group_photographs(photographs, loose, false_accept_rate=1e-2)


def make_faces(num_people: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(num_people), rng.integers(1, 8, num_people))
    rng.shuffle(people)
    faces = rng.normal(size=(num_people, 24))[people] + spread * rng.normal(size=(len(people), 24))
    return (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32), people


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.5, 0.7])
def test_part_by_part_is_the_same_as_all_at_once(threshold):
    embeddings, _ = make_faces(60, spread=0.9)
    expected = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=1 - threshold
    ).fit_predict(embeddings)
    groups = group_embeddings(embeddings, threshold)
    assert set(clustering_metrics(expected, groups).values()) == {1.0}
    sizes = np.bincount(groups)[1:]
    assert sizes.min() > 0 and (np.diff(sizes) <= 0).all()


def test_clear_cases_are_solved():
    embeddings, people = make_faces(20, spread=0.3)
    assert clustering_metrics(people, group_embeddings(embeddings, 0.8))["bcubed_f"] == 1
    assert group_embeddings(embeddings[:1], 0.8).tolist() == [1]
    assert group_embeddings(np.repeat(embeddings[:1], 3, axis=0), 1.0).tolist() == [1, 1, 1]


def test_thumbnails_of_faces_at_the_edge():
    pixels = np.full((100, 80, 3), 255, dtype=np.uint8)
    for box in ([-10, -5, 30, 35], [60, 70, 90, 120], [0, 0, 80, 100], [40, 40, 40.2, 40.1]):
        thumbnail = _thumbnail(pixels, np.float32(box))
        assert thumbnail.size == (THUMBNAIL_SIZE, THUMBNAIL_SIZE) and thumbnail.getextrema()[0][1] == 255
    assert _thumbnail(pixels, np.float32([-200, -200, -100, -100])).getextrema()[0] == (0, 0)


def test_real_photographs(shared_data, tmp_path):
    names = ["Ariel_Sharon_0002", "Ariel_Sharon_0025", "Andy_Roddick_0001", "Andy_Roddick_0002", "Alfonso_Cuaron_0001"]
    for name in names:
        (tmp_path / f"{name}.jpg").symlink_to(shared_data / "lfw_raw" / f"{name}.jpg")
    groups = group_photographs(tmp_path, threshold=0.4)
    people = {name: set() for name in names}
    for name, person in zip(groups.faces["file_name"], groups.faces["person"], strict=True):
        people[name.removesuffix(".jpg")].add(person)
    assert people["Ariel_Sharon_0002"] & people["Ariel_Sharon_0025"]
    assert people["Andy_Roddick_0001"] & people["Andy_Roddick_0002"]
    assert not people["Ariel_Sharon_0002"] & people["Andy_Roddick_0001"]
    assert not people["Alfonso_Cuaron_0001"] & (people["Ariel_Sharon_0025"] | people["Andy_Roddick_0002"])
