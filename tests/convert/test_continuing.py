"""Training goes on where another project stopped, class centers included."""

import pytest
import torch
from torch.nn.functional import normalize

from hf_face import FaceRecognitionModel, IResNetConfig, IResNetModel, export_checkpoint
from hf_face.convert import convert_insightface_heads, convert_to_folder
from hf_face.heads import MarginHead

TINY = {"depths": [1, 2], "hidden_sizes": [8, 16], "stem_size": 8, "embedding_size": 12, "image_size": 16}


@pytest.fixture
def faces():
    torch.manual_seed(0)
    return torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])


def step(model, faces) -> tuple[float, float]:
    """The loss before and after a step of training."""
    pixel_values, labels = faces
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model.train()(pixel_values, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tuple(losses)


@torch.no_grad()
def loss_of(backbone, centers, faces, **margin) -> float:
    """What the other project's training would have computed next."""
    head = MarginHead(12, len(centers), **margin)
    head.weight.copy_(centers)
    output = backbone.eval()(faces[0])
    return head(output.pooler_output, output.norm, faces[1])[0].item()


def test_an_insightface_run_with_one_file_per_rank(faces, tmp_path):
    torch.manual_seed(1)
    backbone, centers = IResNetModel(IResNetConfig(**TINY)), 0.01 * torch.randn(5, 12)
    run = tmp_path / "run"
    run.mkdir()
    for rank, rows in enumerate(centers.split(3)):
        weights = {"state_dict_backbone": export_checkpoint(backbone, "arcface_torch")}
        torch.save({**weights, "state_dict_softmax_fc": {"weight": rows.clone()}}, run / f"checkpoint_gpu_{rank}.pt")
    folder = tmp_path / "converted"
    convert_to_folder(run / "checkpoint_gpu_0.pt", folder)
    convert_insightface_heads(run, folder)

    model = FaceRecognitionModel.from_pretrained(folder, head=True, margin="arcface")
    assert torch.equal(model.head.weight, centers)
    assert model(faces[0], labels=faces[1]).loss.item() == pytest.approx(loss_of(backbone, centers, faces), rel=1e-5)
    before, after = step(model, faces)
    assert after < before


def test_an_adaface_checkpoint(faces, tmp_path):
    torch.manual_seed(1)
    config = IResNetConfig(**TINY, shortcut="subsample", embedding_norm="plain")
    backbone, kernel = IResNetModel(config), normalize(torch.randn(12, 5), dim=0)
    weights = {**export_checkpoint(backbone, "adaface"), "head.kernel": kernel}
    torch.save({"state_dict": weights}, tmp_path / "adaface.ckpt")
    folder = tmp_path / "converted"
    convert_to_folder(tmp_path / "adaface.ckpt", folder, keep_class_centers=True)

    settings = {"margin": "adaface", "margin_kwargs": {"m": 0.4, "h": 0.333}}
    model = FaceRecognitionModel.from_pretrained(folder, head=True, **settings)
    expected = loss_of(backbone, kernel.T, faces, **settings)
    assert torch.equal(model.head.weight, kernel.T)
    assert model(faces[0], labels=faces[1]).loss.item() == pytest.approx(expected, rel=1e-5)
    before, after = step(model, faces)
    assert after < before


def test_the_margin_defaults_to_the_recorded_one(tmp_path):
    backbone = IResNetModel(
        IResNetConfig(**TINY, margin={"name": "cosface", "scale": 32.0, "sub_centers": 1, "m": 0.4})
    )
    weights = {"state_dict_backbone": export_checkpoint(backbone, "arcface_torch")}
    torch.save({**weights, "state_dict_softmax_fc": {"weight": torch.randn(5, 12)}}, tmp_path / "checkpoint_gpu_0.pt")
    backbone.save_pretrained(tmp_path / "model")
    convert_insightface_heads(tmp_path, tmp_path / "model")
    config = FaceRecognitionModel.from_pretrained(tmp_path / "model", head=True).config
    assert (config.margin, config.scale, config.margin_kwargs) == ("cosface", 32.0, {"m": 0.4})


def test_a_folder_without_a_head(tmp_path):
    IResNetModel(IResNetConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="contains no head"):
        FaceRecognitionModel.from_pretrained(tmp_path, head=True)
