"""Methods that remember an embedding of each identity: LVFace's expectations, UniTSFace's pairs."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from hf_face.training import LVFace, UniTSFace
from hf_face.training.methods.identity_memory import IdentityMemory

METHODS = [LVFace, UniTSFace]


def logged(trainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def trained(make_trainer, method, margin="cosface", **settings):
    trainer = make_trainer(margin, method=method, augmentation=None, **settings)
    trainer.train()
    return trainer


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Crops of the tiny backbone; the third has no label, and the last is the second of its identity."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 32, 32))
    return {"pixel_values": images / 127.5 - 1, "labels": torch.tensor([3, 0, -1, 7, 3])}


def fill(memory: IdentityMemory, known=range(6)) -> None:
    memory.vectors[list(known)] = F.normalize(torch.randn(len(known), memory.vectors.shape[1]), dim=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "settings", [{"partial_fc_sample_rate": 0.5}, {"bf16": True}, {"gradient_accumulation_steps": 2}]
)
def test_they_train_and_remember(make_trainer, method, settings):
    trainer = trained(make_trainer, method(), max_steps=2, **settings)
    assert all(map(math.isfinite, logged(trainer)))
    memory = trainer.method.memory if method is UniTSFace else trainer.method.expectations
    seen = 32 * settings.get("gradient_accumulation_steps", 1)
    assert 10 < memory.known.sum() <= min(seen, 30)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_repeats_the_uninterrupted_one(make_trainer, method):
    whole = trained(make_trainer, method(), save_strategy="steps", save_steps=2)
    resumed = make_trainer("cosface", method=method(), augmentation=None)
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir, "checkpoint-2")))
    assert logged(resumed) == logged(whole)
    whole.save_model()
    assert not any("method" in name for name in load_file(Path(whole.args.output_dir, "model.safetensors")))


# UniTSFace


@pytest.mark.parametrize("margin_weight", [0.0, 0.5])
def test_one_threshold_separates_all_pairs(make_trainer, batch, margin_weight):
    trainer = make_trainer("cosface", method=UniTSFace(m=0.2, scale=8.0, margin_weight=margin_weight))
    method, model = trainer.method, trainer.model
    fill(method.memory)
    method.bias.data.fill_(1.5)
    memory = method.memory.vectors.clone()
    embeddings = model(batch["pixel_values"]).pooler_output
    expected = 0.0
    for embedding, label in zip(embeddings, batch["labels"].tolist(), strict=True):
        for identity in range(6) if label >= 0 else ():
            cosine = torch.dot(embedding, memory[identity])
            logit = 8 * (cosine - 0.2) - 1.5 if identity == label else 8 * cosine - 1.5
            expected = expected + torch.log(1 + torch.exp(-logit if identity == label else logit)) / 4
    losses = method.losses(model, batch)
    torch.testing.assert_close(losses.pop("unified_threshold"), expected)
    if margin_weight:
        head = model(batch["pixel_values"], labels=batch["labels"]).loss
        torch.testing.assert_close(losses.pop("margin_softmax"), margin_weight * head)
    assert not losses
    torch.testing.assert_close(method.memory.vectors[[3, 0, 7]], embeddings[[4, 1, 3]].detach())


def test_unitsface_alone_leaves_the_head_out(make_trainer):
    trainer = make_trainer("cosface", method=UniTSFace(margin_weight=0.0), max_steps=3)
    before = trainer.model.head.weight.clone(), trainer.method.bias.item()
    trainer.train()
    assert torch.equal(trainer.model.head.weight, before[0])
    assert trainer.method.bias.item() != before[1] == pytest.approx(math.log(300))
    assert logged(trainer, "threshold")[0] == pytest.approx(math.log(300) / 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale must be positive, found 0.0"),
        ({"margin_weight": -1.0}, "margin_weight must be at least 0, found -1.0"),
    ],
)
def test_unitsface_takes_positive_settings_only(options, message):
    with pytest.raises(ValueError, match=message):
        UniTSFace(**options)
    assert UniTSFace(scale=0.5).scale == 0.5


# LVFace


def test_expectations_are_another_set_of_negatives(make_trainer, batch):
    trainer = make_trainer("cosface", method=LVFace())
    method, model = trainer.method, trainer.model
    fill(method.expectations)
    vectors, labels = method.expectations.vectors.clone(), batch["labels"]
    embeddings = model(batch["pixel_values"]).pooler_output
    scale, m = model.head.scale, model.head.margin.m

    def ratio(embedding, label, anchors, among):
        cosine = F.normalize(anchors, dim=1).double() @ embedding.double()
        others = [j for j in among if j != label]
        return torch.exp(scale * cosine[others] - scale * (cosine[label] - m)).sum()

    expected = 0.0
    for embedding, label in zip(embeddings, labels.tolist(), strict=True):
        if label >= 0:
            of_expectations = ratio(embedding, label, vectors, range(6)) if label < 6 else 0
            of_centers = ratio(embedding, label, model.head.weight, range(30))
            expected = expected + torch.log(1 + of_centers + of_expectations) / 4
    loss = method.losses(model, batch)["margin_softmax"]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    model.zero_grad()
    (gradient,) = torch.autograd.grad(expected, model.backbone.parameters().__next__(), retain_graph=True)
    (got,) = torch.autograd.grad(loss, model.backbone.parameters().__next__())
    torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-5)
    new = embeddings.detach()
    alpha = torch.sigmoid(torch.dot(vectors[0], new[1]))
    torch.testing.assert_close(method.expectations.vectors[0], alpha * vectors[0] + (1 - alpha) * new[1])
    torch.testing.assert_close(method.expectations.vectors[7], new[3])  # its first image
    assert torch.equal(method.expectations.vectors[[1, 2, 4, 5]], vectors[[1, 2, 4, 5]])


def test_expectations_in_chunks_make_no_difference(make_trainer):
    runs = []
    for chunk_size in (None, 7):
        trainer = make_trainer("cosface", method=LVFace(), augmentation=None)
        trainer.model.head.chunk_size = chunk_size
        trainer.train()
        runs.append(logged(trainer))
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def test_the_first_step_without_expectations_is_the_margin_softmax(make_trainer):
    ours, plain = (trained(make_trainer, method, max_steps=2) for method in (LVFace(), None))
    assert logged(ours)[0] == logged(plain)[0]
    assert logged(ours)[1] > logged(plain)[1]


def test_a_stage_goes_on_with_the_expectations_of_the_one_before(make_trainer, tmp_path):
    trained(make_trainer, LVFace(), max_steps=2, save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    stored = load_file(checkpoint / "model.safetensors")["method.expectations.vectors"]
    frozen = make_trainer("cosface", method=LVFace(checkpoint, update=False), output_dir=str(tmp_path / "next"))
    assert torch.equal(frozen.method.expectations.vectors, stored)
    frozen.train()
    assert torch.equal(frozen.method.expectations.vectors, stored)


def test_lvface_says_what_it_cannot_do(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="adaface follows the statistics of the batch: set margin to cosface"):
        make_trainer("adaface", method=LVFace())
    with pytest.raises(ValueError, match="has no expectations"):
        make_trainer("cosface", method=LVFace(tmp_path))
    with pytest.raises(ValueError, match="update=False without expectations_from"):
        make_trainer("cosface", method=LVFace(update=False))
    trained(make_trainer, LVFace(), max_steps=1, save_strategy="steps", save_steps=1)
    path = tmp_path / "run" / "checkpoint-1" / "model.safetensors"
    save_file(load_file(path) | {"method.expectations.vectors": torch.zeros(5, 16)}, path)
    with pytest.raises(ValueError, match=r"of 5 identities, of size 16, but this model has 30 identities"):
        make_trainer("cosface", method=LVFace(path.parent))
