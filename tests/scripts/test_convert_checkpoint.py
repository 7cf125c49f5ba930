"""The command line: a file in, a folder out that pipelines load, and the file back."""

import contextlib
import io
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline

from hf_face import FaceAlignerConfig, FaceAlignerModel, IResNetConfig, IResNetModel, export_checkpoint
from hf_face.convert import SOURCES
from hf_face.heads import MarginHead, load_head

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"
TINY = {"depths": [1, 1], "hidden_sizes": [16, 32], "stem_size": 8, "embedding_size": 24}


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setenv("HF_FACE_TRACEBACK", "1")  # exceptions as they are

    def run(*arguments) -> str:
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_says_what_an_aligner_does(tmp_path, run):
    torch.save(export_checkpoint(FaceAlignerModel(FaceAlignerConfig()), "cvlface_aligner"), tmp_path / "model.pt")
    assert "face_aligner, 0.5 M parameters, finds and aligns a face, rgb input" in run(
        tmp_path / "model.pt", tmp_path / "out"
    )


def test_converts_loads_in_a_pipeline_and_comes_back(tmp_path, run):
    model = IResNetModel(IResNetConfig(**TINY, neck="gwp")).eval()
    tensors = export_checkpoint(model, "revisit_linearize")
    centers = torch.randn(24, 5)
    torch.save(
        {"state_dict": {**{f"model.{k}": v for k, v in tensors.items()}, "head.kernel": centers}}, tmp_path / "in.ckpt"
    )

    with pytest.raises(ValueError, match="Pass neck='gwp' or neck='gap'"):
        run("--source", "auto", tmp_path / "in.ckpt", tmp_path / "out")
    said = run("--source", "auto", "--set", "neck=gwp", "--keep_class_centers", tmp_path / "in.ckpt", tmp_path / "out")
    assert "iresnet" in said and "bgr input" in said
    head = MarginHead(24, 5)
    load_head(head, tmp_path / "out")
    assert torch.equal(head.weight, centers.T)

    embed = pipeline("image-feature-extraction", model=str(tmp_path / "out"))
    assert torch.tensor(embed(Image.new("RGB", (112, 112), "red"))).shape == (1, 24)
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    faces = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(loaded(faces).pooler_output, model(faces).pooler_output)

    run("--export", "revisit_linearize", tmp_path / "out", tmp_path / "back.pt")
    written = torch.load(tmp_path / "back.pt", weights_only=True)
    assert written.keys() == tensors.keys() and all(torch.equal(written[k], tensors[k]) for k in tensors)


PLUGIN = """
from hf_face.convert import LayoutSource
from hf_face.convert.iresnet_layouts import InsightFaceIResNet
from hf_face.registry import sources

@sources.register("our_lab")
class OurLab(LayoutSource):
    '''Checkpoints of our lab.'''
    prefixes = ("encoder.",)
    layouts = (InsightFaceIResNet(),)
"""


def test_a_plugins_source_is_recognized_listed_and_exported_to(tmp_path, run, monkeypatch):
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sources_of_our_lab.py").write_text(PLUGIN)
    model = IResNetModel(IResNetConfig(**TINY)).eval()
    tensors = {f"encoder.{name}": t for name, t in export_checkpoint(model, "arcface_torch").items()}
    torch.save(tensors, tmp_path / "in.pth")

    plugins = ("--plugins", "sources_of_our_lab")
    run(*plugins, tmp_path / "in.pth", tmp_path / "out")
    run(*plugins, "--export", "our_lab", tmp_path / "out", tmp_path / "back.pth")
    written = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *plugins, "--help"])
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as help_text:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "Checkpoints of our lab." in help_text.getvalue() and "mk-minchul/AdaFace" in help_text.getvalue()


def test_what_is_not_there_is_named(tmp_path, run):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file or folder"):
        run(tmp_path / "nowhere.pth", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"is not a model folder: it has no config\.json"):
        run("--export", "adaface", tmp_path, tmp_path / "back.pth")
    with pytest.raises(ValueError, match="Did you mean 'arcface_torch'"):
        run("--source", "arcface", tmp_path / "in.pth", tmp_path / "out")
