"""ONNX files of face models: as the model, checked, and written whole or not at all."""

import builtins
import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from tiny_models import CASES, build

from hf_face import FAMILIES, FaceImageProcessor, FaceRecognitionModel, IResNetModel
from hf_face.export import OnnxFaceModel, checks, export, export_onnx
from hf_face.export.graph import backbone_graph, preprocessing_graph

pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")


def processor_of(model, **settings) -> FaceImageProcessor:
    size = model.config.image_size
    return FaceImageProcessor(size={"height": size, "width": size}, **settings)


def faces(model, count: int = 3):
    torch.manual_seed(1)
    return torch.randn(count, 3, model.config.image_size, model.config.image_size)


@pytest.fixture(scope="session")
def crops(orl) -> Dataset:
    return orl.select(range(0, 400, 25))


@pytest.fixture
def model() -> IResNetModel:
    return build("iresnet")


@pytest.fixture(scope="module")
def shared_graph():
    """`backbone_graph` for tests of one and the same model: it exports for each type of weights once."""
    graphs = {}

    def graph_of(backbone, dtype):
        if dtype not in graphs:
            graphs[dtype] = backbone_graph(backbone, dtype)
        return copy.deepcopy(graphs[dtype])

    return graph_of


@pytest.fixture
def exported_before(shared_graph, monkeypatch):
    monkeypatch.setattr(export, "backbone_graph", shared_graph)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_family_is_exported_by_torch(case):
    model = build(case)
    batch = {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (), {"pixel_values": faces(model, 2)}, dynamic_shapes=batch)
    found = program.module()(pixel_values=faces(model, 3))
    torch.testing.assert_close(found.pooler_output, model(faces(model, 3)).pooler_output)
    torch.testing.assert_close(found.norm, model(faces(model, 3)).norm)


@pytest.mark.parametrize("case", {type(config): case for case, (config, _) in CASES.items()}.values())
@torch.no_grad()
def test_every_family_is_exported_to_onnx(case, crops, tmp_path):
    model = build(case)
    (file,) = export_onnx(model, processor_of(model), tmp_path, crops)
    assert file.path == tmp_path / "onnx" / "model.onnx" and file.max_difference <= 1e-4
    exported = OnnxFaceModel(file.path)
    for count in (1, 5):
        expected, found = model(faces(model, count)), exported(pixel_values=faces(model, count))
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.norm, expected.norm, rtol=1e-4, atol=0)


def test_no_family_is_left_out():
    assert {type(config) for config, _ in CASES.values()} == set(FAMILIES)


@pytest.fixture(scope="module")
def exported(orl, shared_graph, tmp_path_factory):
    """A model's folder with every kind of file."""
    model, folder = build("iresnet"), tmp_path_factory.mktemp("exported") / "model"
    image_processor = processor_of(model, channel_order="bgr", image_mean=[0.4, 0.5, 0.6])
    crops = orl.select(range(0, 400, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "backbone_graph", shared_graph)
        files = export_onnx(model, image_processor, folder, crops, ["fp32", "fp16", "int8"], preprocessing=True)
    return model, image_processor, folder, files


def test_files_lie_where_transformers_js_looks(exported):
    _, _, folder, files = exported
    names = ["model", "model_from_pixels"]
    expected = [f"{name}{suffix}.onnx" for suffix in ("", "_fp16", "_quantized") for name in names]
    assert [file.path for file in files] == [folder / "onnx" / name for name in expected]
    assert {path.name for path in (folder / "onnx").iterdir()} == set(expected)
    assert {"config.json", "preprocessor_config.json"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob(".*"))  # nothing unfinished
    single, half = (folder / "onnx" / name for name in ("model.onnx", "model_fp16.onnx"))
    assert half.stat().st_size < 0.7 * single.stat().st_size


def test_half_and_quantized_files_are_close_and_the_report_says_how(exported):
    *_, files = exported
    report = {file.path.stem: file for file in files}
    assert report["model"].max_difference <= 1e-4 < report["model_fp16"].max_difference
    assert report["model_fp16"].min_cosine >= 0.999
    assert 0.995 <= report["model_quantized"].mean_cosine < report["model_fp16"].mean_cosine
    assert report["model_quantized"].precision == "int8" and "int8" in str(report["model_quantized"])


@pytest.mark.parametrize("suffix", ["", "_fp16", "_quantized"])
def test_preprocessing_in_the_file_is_that_of_the_image_processor(exported, orl, suffix):
    _, image_processor, folder, _ = exported
    from_pixels = OnnxFaceModel(folder / "onnx" / f"model_from_pixels{suffix}.onnx")
    normalized = OnnxFaceModel(folder / "onnx" / f"model{suffix}.onnx")
    assert from_pixels.takes_pixels and not normalized.takes_pixels
    images = colored(orl[:2]["image"], (32, 32))
    expected = normalized(**image_processor(list(images), return_tensors="pt"))
    found = from_pixels(torch.from_numpy(images))
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=1e-4)
    in_the_other_order = from_pixels(torch.from_numpy(images[..., ::-1].copy()))
    assert not torch.allclose(in_the_other_order.pooler_output, expected.pooler_output, rtol=0, atol=1e-3)


def test_preprocessing_in_the_file_resizes_as_the_image_processor_does(orl):
    import onnxruntime

    image_processor = FaceImageProcessor(channel_order="bgr", image_mean=[0.4, 0.5, 0.6])
    session = onnxruntime.InferenceSession(preprocessing_graph(image_processor).SerializeToString())
    for size in ((130, 90), (16, 20), (112, 112), (224, 224)):
        images = colored(orl[:2]["image"], size)
        (found,) = session.run(None, {"pixels": images})
        expected = image_processor(list(images), return_tensors="pt").pixel_values.numpy()
        gray_levels = np.abs(found - expected) * 0.5 * 255
        assert gray_levels.max() <= 1.001 and gray_levels.mean() <= 0.2


def colored(faces, size: tuple[int, int]) -> np.ndarray:
    gray = np.stack([np.asarray(face.resize(size)) for face in faces])
    return np.stack([gray, gray // 2, 255 - gray], axis=-1)


@pytest.mark.usefixtures("exported_before")
def test_a_file_that_fails_its_check_is_not_written(model, crops, tmp_path, monkeypatch):
    export_onnx(model, processor_of(model), tmp_path, crops)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(checks, "MIN_MEAN_COSINE", 1.1)
    with pytest.raises(ValueError, match=r"int8 file .*nothing was written: cosine 0\.\d+ on average.*or export fp16"):
        export_onnx(model, processor_of(model), tmp_path, crops, ["fp16", "int8"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("exported_before")
def test_accuracy_on_pairs_may_not_fall(model, crops, orl_pairs, tmp_path, monkeypatch):
    pairs = copy.copy(orl_pairs)
    pairs.pairs, pairs.same, pairs.fold = pairs.pairs[::6], pairs.same[::6], None
    (file,) = export_onnx(model, processor_of(model), tmp_path, crops, ["fp16"], pairs=pairs)
    assert 0.5 < file.accuracy_of_model <= 1 and abs(file.accuracy - file.accuracy_of_model) <= 0.005
    assert f"accuracy {file.accuracy:.4f}" in str(file)
    monkeypatch.setattr(checks, "MAX_ACCURACY_LOSS", -1)
    with pytest.raises(ValueError, match=r"fp16 file loses too much.*accuracy on the pairs is 0\.\d+"):
        export_onnx(model, processor_of(model), tmp_path, crops, ["fp16"], pairs=pairs)


def test_a_model_in_bfloat16_is_exported_as_its_weights_are(model, crops, tmp_path):
    half = copy.deepcopy(model).bfloat16()
    (file,) = export_onnx(half, processor_of(model), tmp_path, crops)
    assert half.dtype == torch.bfloat16
    expected = half.float()(faces(model)).pooler_output
    torch.testing.assert_close(OnnxFaceModel(file.path)(faces(model)).pooler_output, expected, rtol=0, atol=1e-4)


def test_a_training_model_is_exported_as_its_backbone(model, crops, tmp_path):
    training = FaceRecognitionModel.from_backbone(model, num_identities=3).train()
    (file,) = export_onnx(training, processor_of(model), tmp_path, crops)
    assert training.training and model.stem.training
    expected = model.eval()(faces(model)).pooler_output
    torch.testing.assert_close(OnnxFaceModel(file.path)(faces(model)).pooler_output, expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("exported_before")
def test_the_folder_of_another_model_is_refused(model, crops, tmp_path):
    build("mobilefacenet").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the folder of another model"):
        export_onnx(model, processor_of(model), tmp_path, crops)
    model.save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "config.json").write_text((tmp_path / "own" / "config.json").read_text() + "\n")
    before = (tmp_path / "own" / "config.json").read_bytes()
    export_onnx(model, processor_of(model), tmp_path / "own", crops)
    assert (tmp_path / "own" / "config.json").read_bytes() == before


def test_what_is_asked_for_wrongly_is_named(model, crops, tmp_path):
    with pytest.raises(ValueError, match=r"no precision 'int4', only fp32, fp16, int8"):
        export_onnx(model, processor_of(model), tmp_path, crops, ["int4"])
    with pytest.raises(ValueError, match="there are no crops"):
        export_onnx(model, processor_of(model), tmp_path, crops.select([]))
    with pytest.raises(ValueError, match=r"resize bilinearly only"):
        image_processor = processor_of(model, resample=PILImage.Resampling.BICUBIC)
        export_onnx(model, image_processor, tmp_path, crops, preprocessing=True)


def test_the_missing_extra_is_named(model, crops, tmp_path, monkeypatch):
    imported = builtins.__import__

    def without_onnxruntime(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnxruntime)
    with pytest.raises(ImportError, match=r'onnxruntime, which is missing: pip install "hf_face\[onnx\]"'):
        export_onnx(model, processor_of(model), tmp_path, crops)


@pytest.mark.slow  # real networks on a thousand photographs: minutes
@pytest.mark.parametrize("name", ["sface", "mobilefacenet"])
def test_real_models_stay_accurate(name, shared_data, tmp_path):
    from hf_face import convert_checkpoint
    from hf_face.data import load_images, load_verification_pairs
    from hf_face.models.opencv_zoo import SFACE, find_zoo_file

    file = find_zoo_file(SFACE) if name == "sface" else shared_data / "mobilefacenet_foamliu.safetensors"
    folder = shared_data / "lfw_112"
    pairs = load_verification_pairs(folder / "validation_pairs.csv", images=folder / "validation.parquet")
    crops = load_images(folder / "train.parquet")
    files = export_onnx(*convert_checkpoint(file, name), tmp_path, crops, ["fp32", "fp16", "int8"], pairs=pairs)
    for each in files:
        print(each)
    assert [each.accuracy_of_model - each.accuracy <= 0.005 for each in files] == [True] * 3
    assert files[2].mean_cosine >= 0.995
    assert files[2].path.stat().st_size < 0.45 * files[0].path.stat().st_size
