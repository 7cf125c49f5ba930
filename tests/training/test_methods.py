"""The seam between a training method and the trainer."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_face import FaceRecognitionConfig, FaceRecognitionModel
from hf_face.training import FaceTrainer, MarginSoftmax, TrainingMethod
from hf_face.training.methods import base


class LengthPenalty(TrainingMethod):
    """The margin softmax and a penalty with a learned weight."""

    def __init__(self, uses_head: bool = True):
        super().__init__()
        self.uses_head = uses_head
        self.offset = nn.Parameter(torch.tensor(1.0))

    def losses(self, model, batch):
        output = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
        self.observe(brightness=batch["images"].float().mean())
        return {"margin_softmax": output.loss, "length": (output.norm - self.offset).square().mean()}


@pytest.fixture
def make(make_trainer):
    """`make(method, **settings)`: the trainer of the other tests with a method."""

    def make(method, **settings):
        template = make_trainer(augmentation=None, **settings)
        return FaceTrainer(
            template.model,
            template.args,
            template.train_dataset._dataset,
            template.eval_dataset,
            augmentation=None,
            method=method,
        )

    return make


def steps(trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_the_default_is_the_loss_of_the_head_alone(make):
    default, named = make(None), make(MarginSoftmax())
    default.train()
    named.train()
    assert [entry["loss"] for entry in steps(default)] == [entry["loss"] for entry in steps(named)]
    assert steps(default)[0].keys() >= {"embedding_norm", "target_cosine"}
    assert "margin_softmax" not in steps(default)[0], "a single loss is the loss"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_losses_are_added_up_and_logged_by_name(make, accumulation):
    trainer = make(LengthPenalty(), gradient_accumulation_steps=accumulation, max_steps=2)
    trainer.train()
    for entry in steps(trainer):
        assert entry["loss"] == pytest.approx(entry["margin_softmax"] + entry["length"], rel=1e-4)
        assert 50 < entry["brightness"] < 200


def test_parameters_of_a_method_are_trained_and_saved_with_checkpoints_only(make, tmp_path):
    trainer = make(LengthPenalty(), max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    first, second = (load_file(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2))
    assert 1 != first["method.offset"] != second["method.offset"] == trainer.method.offset
    trainer.save_model()
    assert not any(name.startswith("method") for name in load_file(tmp_path / "run" / "model.safetensors"))
    again = FaceRecognitionModel.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert torch.equal(again.head.weight, trainer.model.head.weight)


@pytest.mark.parametrize("uses_head", [True, False])
def test_a_head_that_a_method_does_not_use_is_frozen(make, uses_head):
    trainer = make(LengthPenalty(uses_head), max_steps=2)
    before = trainer.model.head.weight.detach().clone()
    trainer.train()
    assert torch.equal(trainer.model.head.weight, before) == (not uses_head)


def test_a_method_may_refuse_a_model_before_training(make):
    class Picky(MarginSoftmax):
        def setup(self, trainer):
            raise ValueError(f"{trainer.model.config.backbone_config.model_type} will not do")

    with pytest.raises(ValueError, match="timm_face will not do"):
        make(Picky())


def test_weights_of_samples_may_depend_on_the_embedding():
    torch.manual_seed(0)
    config = {"model_type": "iresnet", "depths": [1, 1, 1, 1], "hidden_sizes": [4, 4, 4, 4], "embedding_size": 8}
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, num_identities=3)).eval()
    pixels, labels = torch.randn(3, 3, 112, 112), torch.tensor([0, 1, 2])
    norm = model(pixels).norm[:, 0].detach()
    expected = model(pixels, labels=labels, sample_weight=norm).loss
    got = model(pixels, labels=labels, sample_weight=lambda embedding: embedding.norm[:, 0].detach())
    torch.testing.assert_close(got.loss, expected)
    assert not torch.equal(got.loss, model(pixels, labels=labels).loss)
    assert torch.equal(got.backbone_output.pooler_output, got.pooler_output)


def test_the_example_of_the_base_class_is_a_method(monkeypatch):
    source = base.TrainingMethod.__doc__.split("```python\n")[1].split("```")[0]
    code = "\n".join(line.strip()[4:] for line in source.splitlines() if line.strip().startswith((">>>", "...")))
    namespace = {}
    exec(code, namespace)
    model = lambda **kwargs: type("Output", (), {"loss": torch.tensor(2.0), "norm": torch.tensor([[3.0], [5.0]])})  # noqa: E731
    losses = namespace["ShortEmbeddings"](weight=0.5).losses(model, {"pixel_values": None, "labels": None})
    assert losses == {"margin_softmax": 2.0, "length": 2.0}
