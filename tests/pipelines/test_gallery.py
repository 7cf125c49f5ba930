"""Enrolling people, and searching for them."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from hf_face import FaceGallery
from hf_face.pipelines import gallery as gallery_module
from hf_face.pipelines.gallery_files import FILE

from .stub_pipeline import SIZE, StubPipeline, unit, write_photographs

PEOPLE = {
    "Ada/1.jpg": ["Ada 0.9"],
    "Ada/2.jpg": ["Ada 0.8", "Bob 0.9"],
    "Bob/1.jpg": ["Bob 0.95"],
    "Cy/deep/1.jpg": ["Cy 0.9"],
}


@pytest.fixture
def people(tmp_path) -> Path:
    return write_photographs(tmp_path / "people", PEOPLE)


@pytest.fixture
def gallery(people) -> FaceGallery:
    gallery = FaceGallery(StubPipeline())
    gallery.add_folder(people)
    return gallery


def photograph(tmp_path, *faces: str) -> str:
    (tmp_path / "asked.jpg").write_text("\n".join(faces))
    return str(tmp_path / "asked.jpg")


def names(faces: list[dict]) -> list[list[str]]:
    return [[person["person"] for person in face["people"]] for face in faces]


def test_people_are_found_and_strangers_are_nobody(gallery, tmp_path):
    found = gallery.search(photograph(tmp_path, "Bob 0.9", "Dan 1", "Ada 1"))
    assert names(found) == [["Bob"], [], ["Ada"]]
    assert found[2]["people"] == [{"person": "Ada", "similarity": pytest.approx(0.9), "file_name": "Ada/1.jpg"}]
    assert found[0]["box"] == {"xmin": 1.0, "ymin": 2.0, "xmax": 11.0, "ymax": 12.0}
    assert names(gallery.search(photograph(tmp_path, "Bob 0.9", "Ada 1"), policy="largest")) == [["Bob"]]


def test_the_false_accept_rate_decides(gallery, tmp_path):
    asked = photograph(tmp_path, "Ada 0.5")  # a similarity of about 0.45 to the first photograph
    assert names(gallery.search(asked)) == [[]]
    assert names(gallery.search(asked, false_accept_rate=1e-1)) == [["Ada"]]
    assert names(gallery.search(asked, threshold=0.2)) == [["Ada"]]
    assert gallery.search(asked, false_accept_rate=1e-1)[0]["threshold"] == 0.3
    with pytest.raises(ValueError, match=r"no threshold for a false accept rate of 0.01, only for 0.001, 0.1"):
        gallery.search(asked, false_accept_rate=1e-2)


def test_a_model_without_thresholds(people, tmp_path):
    gallery = FaceGallery(StubPipeline(thresholds={}))
    gallery.add_folder(people)
    with pytest.raises(ValueError, match="has no calibrated threshold"):
        gallery.search(photograph(tmp_path, "Ada 1"))
    assert names(gallery.search(photograph(tmp_path, "Ada 1"), threshold=0.5)) == [["Ada"]]


def test_as_many_people_as_asked_for_each_once(gallery, tmp_path):
    for number in range(30):
        write_photographs(tmp_path, {f"more/{number}.jpg": [f"Ada 0.9{number:02}"]})
    gallery.add("Ada", [tmp_path / f"more/{number}.jpg" for number in range(30)])
    found = gallery.search(photograph(tmp_path, "Ada 1"), top_k=3, threshold=-1)
    assert found[0]["people"][0]["person"] == "Ada"
    assert sorted(person["person"] for person in found[0]["people"]) == ["Ada", "Bob", "Cy"]
    similarities = [person["similarity"] for person in found[0]["people"]]
    assert similarities == sorted(similarities, reverse=True)
    with pytest.raises(ValueError, match="top_k must be at least 1, found 0"):
        gallery.search(photograph(tmp_path, "Ada 1"), top_k=0)


def test_people_are_added_and_removed(gallery, tmp_path):
    assert gallery.people == {"Ada": 2, "Bob": 1, "Cy": 1}
    asked = photograph(tmp_path, "Dan 1")
    gallery.add("Dan", write_photographs(tmp_path, {"dan.jpg": ["Dan 0.9"]}) / "dan.jpg")
    assert names(gallery.search(asked)) == [["Dan"]]
    gallery.remove("Dan")
    assert names(gallery.search(asked)) == [[]]
    assert "Dan" not in gallery.people and len(gallery) == 4
    with pytest.raises(ValueError, match=r"There is no 'Adam' in the gallery\. Did you mean 'Ada'\?"):
        gallery.remove("Adam")


def test_the_same_photographs_again_replace_themselves(gallery, people, tmp_path):
    gallery.add_folder(people)
    assert gallery.people == {"Ada": 2, "Bob": 1, "Cy": 1}
    (people / "Bob" / "1.jpg").write_text("Bert 1")
    gallery.add_folder(people)
    assert names(gallery.search(photograph(tmp_path, "Bob 1", "Bert 1"))) == [[], ["Bob"]]


def test_saved_and_loaded(gallery, tmp_path):
    gallery.save(tmp_path / "saved")
    loaded = FaceGallery.load(tmp_path / "saved", StubPipeline())
    assert loaded.dataset[:] == gallery.dataset[:]
    assert names(loaded.search(photograph(tmp_path, "Cy 1"))) == [["Cy"]]
    assert load_dataset(str(tmp_path / "saved"), split="train")["person"][:] == ["Ada", "Ada", "Bob", "Cy"]
    loaded.remove("Ada")
    loaded.save(tmp_path / "saved")
    assert FaceGallery.load(tmp_path / "saved", StubPipeline()).people == {"Bob": 1, "Cy": 1}
    assert not list(tmp_path.rglob("*.unfinished"))


def test_published_and_loaded(gallery, hub, tmp_path):
    gallery.push_to_hub("alice/family")
    assert hub.store.repos["dataset", "alice/family"].private
    loaded = FaceGallery.load("alice/family", StubPipeline())
    assert loaded.dataset[:] == gallery.dataset[:]
    assert load_dataset("alice/family", split="train").column_names == ["person", "file_name", "embedding", "norm"]
    assert b"3 people, enrolled from 4 photographs" in hub.store.read("alice/family", "README.md", repo_type="dataset")


def test_another_models_gallery_is_refused(gallery, tmp_path):
    gallery.save(tmp_path / "saved")
    advice = r"of another model, org/model-0, which .* model='org/model-0'"
    with pytest.raises(ValueError, match=advice):
        FaceGallery.load(tmp_path / "saved", StubPipeline(seed=1))
    other = StubPipeline()
    other.image_processor.channel_order = "bgr"  # the same weights
    with pytest.raises(ValueError, match=advice):
        FaceGallery.load(tmp_path / "saved", other)


def test_a_gallery_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nowhere"):
        FaceGallery.load(tmp_path / "nowhere", StubPipeline())
    with pytest.raises(FileNotFoundError, match="is not a gallery: it has no data"):
        FaceGallery.load(tmp_path, StubPipeline())
    file = tmp_path / FILE
    file.parent.mkdir()
    file.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet is not a complete Parquet file"):
        FaceGallery.load(tmp_path, StubPipeline())
    pq.write_table(pa.table({"person": ["Ada"]}), file)
    with pytest.raises(ValueError, match=r"is not a gallery, as `FaceGallery.save` writes it"):
        FaceGallery.load(tmp_path, StubPipeline())


def test_embeddings_that_are_no_numbers(gallery, tmp_path):
    file = gallery.save(tmp_path / "saved") / FILE
    table = pq.read_table(file)
    broken = table["embedding"].to_pylist()
    broken[1][0] = float("nan")
    column = pa.array(broken, table.schema.field("embedding").type)
    pq.write_table(table.set_column(2, table.schema.field("embedding"), column), file)
    with pytest.raises(ValueError, match=r"embeddings of .*parquet: row 1 is not finite"):
        FaceGallery.load(tmp_path / "saved", StubPipeline())


BAD = {
    "no face": ({"Dan/1.jpg": []}, "No face was found in Dan/1.jpg, a photograph of 'Dan'"),
    "two people under one name": (
        {"Eve/1.jpg": ["Eve 0.9"], "Eve/2.jpg": ["Mallory 0.9"]},
        r"photographs of 'Eve' seem to show two people: Eve/1.jpg and Eve/2.jpg have a similarity of .*, below 0.30",
    ),
    "a name that another person has": ({"Ada/3.jpg": ["Another 0.9"]}, "The photographs of 'Ada' seem to show two"),
    "a person without photographs": ({"Fay/notes.txt": []}, r"Fay contains no images .* only files \(1 .txt\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_enrolls_nobody(gallery, tmp_path, case):
    photographs, message = BAD[case]
    folder = write_photographs(tmp_path / "more", {"Amy/1.jpg": ["Amy 1"], **photographs})
    with pytest.raises(ValueError, match=message):
        gallery.add_folder(folder)
    assert gallery.people == {"Ada": 2, "Bob": 1, "Cy": 1}


def test_people_who_look_different_at_times_can_be_enrolled(gallery, tmp_path):
    folder = write_photographs(tmp_path / "more", {"Eve/1.jpg": ["Eve 0.9"], "Eve/2.jpg": ["Masked 0.9"]})
    gallery.add_folder(folder, check_people=False)
    assert gallery.people["Eve"] == 2
    chain = {"Gil/1.jpg": ["Gil 0.5"], "Gil/2.jpg": ["Gil 0.501"], "Gil/3.jpg": ["Gil 1"]}  # 1 and 2 resemble 3 only
    gallery.add_folder(write_photographs(tmp_path / "chain", chain))
    assert gallery.people["Gil"] == 3


def test_bad_questions(gallery, tmp_path):
    with pytest.raises(ValueError, match=r"No face was found in .*asked.jpg"):
        gallery.search(photograph(tmp_path))
    with pytest.raises(ValueError, match="The gallery is empty"):
        FaceGallery(StubPipeline()).search(photograph(tmp_path, "Ada 1"))
    with pytest.raises(ValueError, match="A person needs a name"):
        gallery.add("", photograph(tmp_path, "Ada 1"))
    with pytest.raises(ValueError, match="There are no photographs of 'Dan'"):
        gallery.add("Dan", [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty contains no folders, expected one folder of images per person"):
        gallery.add_folder(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gallery.add_folder(tmp_path / "nowhere")


def test_large_galleries_are_searched_in_cells(monkeypatch):
    monkeypatch.setattr(gallery_module, "EXACT_UP_TO", 1000)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4096, SIZE)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = FaceGallery(StubPipeline())
    columns = {"person": list(map(str, range(4096))), "file_name": [""] * 4096, "norm": [1.0] * 4096}
    embedding = pa.FixedSizeListArray.from_arrays(vectors.ravel(), SIZE)
    gallery._set_rows(pa.table({**columns, "embedding": embedding}).select(gallery._schema.names))
    assert gallery.nearest_people(vectors[7], 2, 0.99) == [
        {"person": "7", "similarity": pytest.approx(1), "file_name": ""}
    ]
    assert type(gallery._index.get_index("embedding").faiss_index).__name__ == "IndexIVFFlat"
    near = unit(vectors[:100] + rng.normal(size=(100, SIZE)) * 0.1)
    hits = [gallery.nearest_people(vector, 1, -1)[0]["person"] == str(row) for row, vector in enumerate(near)]
    assert np.mean(hits) > 0.95


def test_faiss_is_an_extra(gallery, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "hf_face\[gallery\]"'):
        gallery.search(photograph(tmp_path, "Ada 1"))


def test_real_photographs(shared_data, tmp_path):
    gallery = FaceGallery()
    folder = shared_data / "lfw_raw"
    gallery.add("Ariel Sharon", str(folder / "Ariel_Sharon_0002.jpg"))
    gallery.add("Andy Roddick", [str(folder / f"Andy_Roddick_{number:04}.jpg") for number in (1, 2)])
    (found,) = gallery.search(str(folder / "Ariel_Sharon_0025.jpg"), threshold=0.363, policy="center")
    assert names([found]) == [["Ariel Sharon"]]
    (found,) = gallery.search(str(folder / "Alfonso_Cuaron_0001.jpg"), threshold=0.363, policy="center")
    assert names([found]) == [[]]
    assert FaceGallery.load(gallery.save(tmp_path)).people == {"Ariel Sharon": 1, "Andy Roddick": 2}
    made_with = json.loads(pq.read_schema(tmp_path / FILE).metadata[b"hf_face_gallery"])
    assert made_with["model"].startswith("sface-")
