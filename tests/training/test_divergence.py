"""A run stops at the first loss, gradient or weight that is not finite, and saves nothing of it."""

import re
from pathlib import Path

import pytest
import torch

from hf_face.training import MarginSoftmax, TrainingDivergedError
from hf_face.training.divergence import NumberedCollator


class Poisoned(MarginSoftmax):
    """The margin softmax, whose loss or gradient of one batch is not finite."""

    def __init__(self, batch: int, loss: float = 1.0, gradient: float = 1.0):
        super().__init__()
        self.batch, self.loss, self.gradient = batch, loss, gradient
        self.rows: list[list[int]] = []

    def losses(self, model, batch):
        self.rows.append(batch["rows"].tolist())
        loss = super().losses(model, batch)["margin_softmax"]
        if len(self.rows) == self.batch:
            loss = loss * self.loss
            loss.register_hook(lambda gradient: gradient * self.gradient)
        return {"margin_softmax": loss}


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items() if "running" not in name}


def named_rows(error: TrainingDivergedError) -> list[int]:
    return [int(row) for row in re.search(r"rows ([\d, ]+) of the training data", str(error))[1].split(", ")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_run_stops_in_the_step_where_it_diverges(make_trainer, what, max_grad_norm, value):
    method = Poisoned(batch=2, **{what: value})
    trainer = make_trainer(method=method, max_grad_norm=max_grad_norm, save_strategy="steps", save_steps=1)
    with pytest.raises(TrainingDivergedError, match=rf"in step 2, the .*{what} is (nan|inf)") as raised:
        trainer.train()
    assert raised.value.step == 2
    assert raised.value.rows == named_rows(raised.value) == method.rows[1]
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert [path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")] == ["checkpoint-1"]


def test_of_accumulated_batches_the_one_that_diverged_is_named(make_trainer):
    method = Poisoned(batch=4, loss=float("nan"))
    trainer = make_trainer(method=method, gradient_accumulation_steps=3, per_device_train_batch_size=4)
    with pytest.raises(TrainingDivergedError, match="in step 2, the loss is nan") as raised:
        trainer.train()
    assert raised.value.rows == method.rows[3]


def test_partial_fc_diverges_with_the_same_words(make_trainer):
    trainer = make_trainer(
        method=Poisoned(batch=1, gradient=float("nan")), partial_fc_sample_rate=0.5, max_grad_norm=0.0, optim="sgd"
    )
    with pytest.raises(TrainingDivergedError, match="in step 1, the norm of the gradient is nan"):
        trainer.train()


def test_a_learning_rate_without_bounds_is_noticed(make_trainer):
    trainer = make_trainer(learning_rate=1e12, optim="sgd", max_grad_norm=0.0, max_steps=20, save_strategy="steps")
    with pytest.raises(TrainingDivergedError, match=r"in step \d+, .* is (nan|inf).* Lower learning_rate"):
        trainer.train()


def test_weights_that_are_not_finite_are_not_saved(make_trainer, tmp_path):
    trainer = make_trainer(ema_decay=0.5)
    trainer.train()
    names = [name for name, _ in trainer.model.backbone.named_parameters()]
    trainer.ema.average[names.index("model.norm.weight")].fill_(float("inf"))
    for folder in ("saved", "checkpoint-1"):
        with pytest.raises(TrainingDivergedError, match=r"model.norm.weight has values that are not finite"):
            trainer.save_model(str(tmp_path / folder), _internal_call=folder == "checkpoint-1")
        assert not (tmp_path / folder).exists()


def test_batches_of_a_stream_have_no_rows(faces):
    rows = faces[0].select(range(2)).with_format(None)
    batch = NumberedCollator(32)([rows[0], rows[1]])
    assert set(batch) == {"pixel_values", "labels"}
