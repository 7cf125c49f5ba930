"""`hf-face export`, as somebody types it."""

import shutil
import sys

import pytest

from hf_face.cli import export as command
from hf_face.export import PRECISIONS

pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")


@pytest.fixture
def own_model(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "my-model")


def test_the_command_knows_the_precisions_without_importing_what_exports():
    assert command.PRECISIONS == PRECISIONS


def test_a_model_is_exported_into_its_folder(hf_face, own_model, photographs):
    ended = hf_face("export", "--model", own_model, "--crops", photographs, "--precision", "fp32", "fp16")
    assert ended.status == 0, ended.err
    lines = [line for line in ended.out.splitlines() if line.startswith(str(own_model / "onnx"))]
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == ["model.onnx", "model_fp16.onnx"]
    assert "largest difference" in lines[0] and "on 6 crops" in lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "int8 is calibrated on real crops, like those that the model will see: set --crops"),
        (["--precision", "int4"], "int4"),
        (["--crops", "nowhere"], "no such file or folder: nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(hf_face, own_model, options, message):
    ended = hf_face("export", "--model", own_model, *options)
    assert ended.status == 2 and message in ended.err and not (own_model / "onnx").exists()


def test_a_model_of_the_hub_needs_a_folder_to_write_to(hf_face):
    ended = hf_face("export", "--model", "org/name")
    assert ended.status == 2 and "org/name is not a folder: name one to write to with --output_dir" in ended.err


def test_a_missing_extra_is_named_without_traceback(hf_face, own_model, photographs, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = hf_face("export", "--model", own_model, "--crops", photographs)
    assert ended.status == 2 and ended.err.endswith('is missing: pip install "hf_face[onnx]"\n')
