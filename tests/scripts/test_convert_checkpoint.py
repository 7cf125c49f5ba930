"""The command line: a file in, a folder out that pipelines load, and the file back."""

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

from hf_face import IResNetConfig, IResNetModel, export_checkpoint

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"
TINY = {"depths": [1, 1], "hidden_sizes": [16, 32], "stem_size": 8, "embedding_size": 24}


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments) -> str:
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_converts_loads_in_a_pipeline_and_comes_back(tmp_path, run):
    model = IResNetModel(IResNetConfig(**TINY, neck="gwp")).eval()
    tensors = export_checkpoint(model, "revisit_linearize")
    centers = torch.randn(24, 5)
    torch.save(
        {"state_dict": {**{f"model.{k}": v for k, v in tensors.items()}, "head.kernel": centers}}, tmp_path / "in.ckpt"
    )

    with pytest.raises(ValueError, match="Say neck='gwp' or neck='gap'"):
        run("--source", "auto", tmp_path / "in.ckpt", tmp_path / "out")
    said = run("--source", "auto", "--set", "neck=gwp", "--keep_class_centers", tmp_path / "in.ckpt", tmp_path / "out")
    assert "iresnet" in said and "bgr input" in said
    assert torch.equal(load_file(tmp_path / "out" / "class_centers.safetensors")["weight"], centers.T)

    embed = pipeline("image-feature-extraction", model=str(tmp_path / "out"))
    assert torch.tensor(embed(Image.new("RGB", (112, 112), "red"))).shape == (1, 24)
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    faces = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(loaded(faces).pooler_output, model(faces).pooler_output)

    run("--export", "revisit_linearize", tmp_path / "out", tmp_path / "back.pt")
    written = torch.load(tmp_path / "back.pt", weights_only=True)
    assert written.keys() == tensors.keys() and all(torch.equal(written[k], tensors[k]) for k in tensors)
