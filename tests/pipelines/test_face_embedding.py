"""The pipeline from photographs to embeddings."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_face import FaceAlignerConfig, FaceAlignerModel, FaceImageProcessor, ViTFaceConfig, ViTFaceModel
from hf_face.data.alignment import ARCFACE_LANDMARKS, align_faces
from hf_face.models.pipeline_face_embedding import POLICIES


def test_a_face_is_described(embed, detector, noise):
    photograph = detector.put(noise(240, 320), (40, 30, 150))
    (face,) = embed(photograph)
    assert face["box"] == {"xmin": 40, "ymin": 30, "xmax": 190, "ymax": 180}
    assert np.shape(face["landmarks"]) == (5, 2) and face["score"] == 1
    assert face["embedding"].shape == (16,) and face["embedding"].dtype == np.float32
    assert np.linalg.norm(face["embedding"]) == pytest.approx(1, abs=1e-6)
    assert isinstance(face["norm"], float)


@torch.inference_mode()
def test_its_embedding_is_that_of_the_aligned_crop(embed, detector, noise, model_folder):
    photograph = detector.put(noise(240, 320), (40, 30, 150))
    (face,) = embed(photograph)
    crop = align_faces([photograph], np.array([face["landmarks"]]), antialias=True)
    pixel_values = AutoImageProcessor.from_pretrained(model_folder)(crop, return_tensors="pt").pixel_values
    output = AutoModel.from_pretrained(model_folder).eval()(pixel_values)
    np.testing.assert_allclose(face["embedding"], output.pooler_output[0], atol=1e-5)
    assert face["norm"] == pytest.approx(output.norm.item(), rel=1e-5)


def test_policies_choose_among_faces(embed, detector, noise):
    """The largest is neither the lowest nor that farthest to the right, and each axis has its own center."""
    faces = (150, 0, 110), (200, 180, 50), (120, 80, 70), (90, 70, 30), (140, 140, 40)
    photograph = detector.put(noise(240, 320), *faces)
    lefts = {policy: [face["box"]["xmin"] for face in embed(photograph, policy=policy)] for policy in POLICIES}
    assert lefts == {"all": [150, 200, 120, 90, 140], "center": [120], "largest": [150]}
    assert len(embed(photograph)) == 5
    with pytest.raises(ValueError, match="policy must be one of all, largest, center, found 'biggest'"):
        embed(photograph, policy="biggest")


def test_options_hold_for_every_call_and_unknown_ones_are_refused(model_folder, detector, noise):
    largest = pipeline("face-embedding", model=model_folder, detector=detector, policy="largest")
    photograph = detector.put(noise(240, 320), (0, 0, 40), (120, 80, 70))
    assert len(largest(photograph)) == 1 and len(largest(photograph, policy="all")) == 2
    with pytest.raises(ValueError, match=r"no parameter polcy\. The pipeline's own are: detector, policy"):
        largest(photograph, polcy="all")


def test_no_face_is_an_empty_list_also_in_a_batch(embed, detector, noise):
    nobody, somebody = noise(100, 90), detector.put(noise(240, 320), (40, 30, 150), (0, 0, 40))
    assert embed(nobody) == []
    assert [len(faces) for faces in embed([nobody, somebody, nobody], batch_size=3)] == [0, 2, 0]
    assert embed([nobody, nobody], batch_size=2) == [[], []]
    assert embed(nobody, policy="largest") == embed(nobody, policy="center") == []
    assert embed([]) == []


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_batches_generators_and_datasets_answer_as_single_photographs_do(embed, detector, noise, batch_size):
    photographs = [detector.put(noise(200 + side, 220), (5, 5, side), (20, 30, 90)) for side in (60, 90, 112, 130, 190)]
    single = [embed(photograph) for photograph in photographs]
    dataset = Dataset.from_dict({"photo": [Image.fromarray(each) for each in photographs]}).cast_column(
        "photo", ImageFeature()
    )
    for answers in (
        embed(photographs, batch_size=batch_size),
        list(embed((each for each in photographs), batch_size=batch_size)),
        list(embed(KeyDataset(dataset, "photo"), batch_size=batch_size)),
        list(embed(KeyDataset(dataset.cast_column("photo", ImageFeature(decode=False)), "photo"))),
    ):
        assert [len(faces) for faces in answers] == [2] * 5
        for faces, expected in zip(answers, single, strict=True):
            for face, same in zip(faces, expected, strict=True):
                assert face["box"] == same["box"]
                np.testing.assert_allclose(face["embedding"], same["embedding"], atol=2e-3)


def test_dtype_and_device_are_the_model_s(model_folder, detector, noise):
    photograph = detector.put(noise(240, 320), (40, 30, 150))
    half = pipeline("face-embedding", model=model_folder, detector=detector, dtype=torch.bfloat16, device="cpu")
    (exact,) = pipeline("face-embedding", model=model_folder, detector=detector)(photograph)
    (face,) = half(photograph)
    assert half.model.dtype == torch.bfloat16 and face["embedding"].dtype == np.float32
    assert 0.98 < face["embedding"] @ exact["embedding"] < 1 - 1e-7


def test_a_detector_made_of_torch_takes_its_place(model_folder, noise):
    torch.manual_seed(0)
    aligner = FaceAlignerModel(FaceAlignerConfig(mixer_depth=1)).eval()
    for head in aligner.locate_landmarks:  # without training, all five would be at one place
        head.bias.data = torch.tensor((ARCFACE_LANDMARKS - 56) / 11).flatten().repeat(2).float()
    photograph = noise(240, 320)
    (face,) = pipeline("face-embedding", model=model_folder, detector=aligner)(photograph)
    ((_, landmarks, _),) = aligner.detect([torch.from_numpy(photograph).permute(2, 0, 1)])
    np.testing.assert_allclose(face["landmarks"], landmarks[0], rtol=1e-5)


@pytest.fixture
def website(tmp_path):
    """The address of a server of the files in `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_urls(embed, detector, noise, website, tmp_path):
    photograph = detector.put(noise(150, 160), (10, 10, 100))
    Image.fromarray(photograph).save(tmp_path / "face.png")
    (tmp_path / "moved").mkdir()  # the server redirects to the folder's index
    (tmp_path / "moved" / "index.html").write_bytes((tmp_path / "face.png").read_bytes())
    ((face,), (moved,), (same,)) = embed([f"{website}/face.png", f"{website}/moved", photograph])
    np.testing.assert_array_equal(face["embedding"], same["embedding"])
    np.testing.assert_array_equal(moved["embedding"], same["embedding"])
    with pytest.raises(ValueError, match=rf"{website}/none.png .*could not be downloaded .*404"):
        embed(f"{website}/none.png", timeout=5)
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/face.png .*could not be downloaded"):
        embed("http://127.0.0.1:9/face.png")


def test_models_that_need_landmarks_get_them(detector, noise):
    torch.manual_seed(0)
    config = ViTFaceConfig(
        position="keypoint_relative",
        mask_ratio=0.0,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        embedding_size=8,
    )
    embed = pipeline(
        "face-embedding", model=ViTFaceModel(config), image_processor=FaceImageProcessor(), detector=detector
    )
    seen = []
    embed.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["keypoints"]), with_kwargs=True)
    embed(detector.put(noise(240, 320), (40, 30, 150)))
    np.testing.assert_allclose(seen[0][0], ARCFACE_LANDMARKS / 112, atol=1e-4)


def test_a_saved_pipeline_loads_again(embed, detector, noise, tmp_path):
    photograph = detector.put(noise(240, 320), (40, 30, 150))
    embed.save_pretrained(tmp_path / "saved")
    (face,) = pipeline("face-embedding", model=str(tmp_path / "saved"), detector=detector)(photograph)
    np.testing.assert_array_equal(face["embedding"], embed(photograph)[0]["embedding"])


def test_a_crowd_is_embedded_in_parts(embed, detector, noise):
    faces = [(10 * face, 3 * face, 40 + face) for face in range(19)]
    crowd = detector.put(noise(240, 320), *faces)
    sizes = []
    embed.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    found = embed(crowd)
    assert sizes == [4, 4, 4, 4, 3]
    (last,) = embed(detector.put(crowd, faces[-1]))
    np.testing.assert_allclose(found[-1]["embedding"], last["embedding"], atol=2e-3)
