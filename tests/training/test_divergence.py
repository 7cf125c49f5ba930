"""A run stops at the first loss, gradient or weight that is not finite, and saves nothing of it; or skips the step."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, IResNetConfig
from hf_face.training import MarginSoftmax, TrainingDivergedError


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


@pytest.mark.parametrize(("max_grad_norm", "value"), [(1.0, float("nan")), (0.0, float("inf"))])
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
    (entry,) = written(trainer)
    assert entry["step"] == 2 and entry["rows"] == method.rows[1]
    assert re.fullmatch(rf"the .*{what} is (nan|inf)", entry["found"]) and entry["found"] in str(raised.value)


@pytest.mark.parametrize("max_steps, num_batches", [(2, 2), (3, 3), (9, 3)])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_fused_optimizer_holds_the_update_back_until_the_host_looks(make_trainer, what, max_steps, num_batches):
    method, states = Poisoned(batch=2, **{what: float("nan")}), States()
    settings = {"max_steps": max_steps, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 9}
    trainer = make_trainer(method=method, **settings)
    trainer.add_callback(states)
    assert trainer.args.optim == "adamw_torch_fused"
    with pytest.raises(TrainingDivergedError, match=f"in step 2, the .*{what}.* is nan") as raised:
        trainer.train()
    assert len(method.rows) == num_batches and raised.value.rows == method.rows[1]
    now = weights(trainer)
    assert equal({name: states.after[0][name] for name in now}, now) == list(now)


@pytest.mark.parametrize("optim, num_batches", [("adamw_torch", 2), ("adamw_torch_fused", 3)])
def test_other_optimizers_are_not_called(make_trainer, optim, num_batches):
    method = Poisoned(batch=2, gradient=float("nan"))
    settings = {"max_steps": 9, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 9}
    with pytest.raises(TrainingDivergedError, match="in step 2"):
        make_trainer(method=method, optim=optim, **settings).train()
    assert len(method.rows) == num_batches


@pytest.mark.parametrize("then", ["raise", "skip"])
def test_a_run_after_one_that_diverged_begins_anew(make_trainer, then):
    trainer = make_trainer(method=Poisoned(batch=2, loss=float("nan")), max_steps=3)
    with pytest.raises(TrainingDivergedError):
        trainer.train()
    trainer.args.on_divergence, before = then, weights(trainer)
    trainer.train()
    now = weights(trainer)
    assert not any(torch.equal(before[name], now[name]) for name in now if name.endswith("weight"))
    assert trainer.state.global_step == 3 and all(value.isfinite().all() for value in now.values())


def written(trainer) -> list[dict]:
    return [json.loads(line) for line in Path(trainer.args.output_dir, "not_finite.jsonl").open()]


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


# Steps that are skipped


class States(TrainerCallback):
    """The state of model and optimizer after each step."""

    def __init__(self):
        self.after: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        moments = {
            f"{i} {name}": value for i, each in optimizer.state_dict()["state"].items() for name, value in each.items()
        }
        self.after.append({name: value.clone() for name, value in (model.state_dict() | moments).items()})


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in first if torch.equal(first[name], second[name])]


@pytest.fixture
def network():
    """A network with batch norm, whose statistics a batch changes before its loss is known."""
    torch.manual_seed(0)
    backbone = IResNetConfig(depths=[1, 1], hidden_sizes=[8, 8], stem_size=8, embedding_size=16, image_size=32)
    return FaceRecognitionModel(FaceRecognitionConfig(backbone_config=backbone, num_identities=30, margin="arcface"))


@pytest.mark.parametrize("settings", [{}, {"optim": "sgd", "max_grad_norm": 0.0, "gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_skipped_step_leaves_everything_as_it_was(make_trainer, network, what, settings):
    accumulated = settings.get("gradient_accumulation_steps", 1)
    method = Poisoned(batch=2 * accumulated, **{what: float("nan")})
    states = States()
    parameters = {"model": network, "callbacks": [states]}
    trainer = make_trainer(method=method, on_divergence="skip", parameters=parameters, **settings)
    trainer.train()
    first, skipped, third, _ = states.after
    assert set(equal(first, skipped)) == first.keys()
    assert not {"head.weight", "backbone.stem.convolution.weight"} & set(equal(skipped, third))
    assert all(value.isfinite().all() for value in third.values())
    (entry,) = written(trainer)
    assert entry["step"] == 2 and method.rows[2 * accumulated - 1] == entry["rows"][-16:]


def test_skipped_steps_are_counted_and_left_out_of_the_losses(make_trainer):
    straight = make_trainer(method=Poisoned(batch=99), logging_steps=1)
    straight.train()
    losses = [entry["loss"] for entry in straight.state.log_history if "loss" in entry]
    trainer = make_trainer(method=Poisoned(batch=2, loss=float("inf")), on_divergence="skip", logging_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert logs[0]["loss"] == pytest.approx(losses[0], rel=1e-3), "the mean of the only step that counts"
    assert [entry["skipped_steps"] for entry in logs] == [1, 1]
    assert all(math.isfinite(entry["margin_softmax"]) for entry in logs if "margin_softmax" in entry)
    every = make_trainer(method=Poisoned(batch=2, loss=float("inf")), on_divergence="skip", logging_steps=1)
    every.train()
    assert [entry["step"] for entry in every.state.log_history if "loss" in entry] == [1, 3, 4]


def test_sampled_class_centers_skip_too(make_trainer):
    states = States()
    trainer = make_trainer(
        method=Poisoned(batch=2, gradient=float("nan")),
        on_divergence="skip",
        partial_fc_sample_rate=0.5,
        optim="sgd",
        parameters={"callbacks": [states]},
    )
    trainer.train()
    assert equal(states.after[0], states.after[1]) == list(states.after[0])
    assert "head.weight" not in equal(states.after[1], states.after[2])


def test_a_run_in_which_nothing_is_finite_any_more_stops(make_trainer, monkeypatch):
    class Broken(MarginSoftmax):
        def losses(self, model, batch):
            return {"margin_softmax": super().losses(model, batch)["margin_softmax"] * float("nan")}

    monkeypatch.setattr("hf_face.training.divergence.MOST_IN_A_ROW", 3)
    trainer = make_trainer(method=Broken(), on_divergence="skip", max_steps=10)
    with pytest.raises(TrainingDivergedError, match="in step 4, the loss is nan"):
        trainer.train()
    assert [entry["step"] for entry in written(trainer)] == [1, 2, 3, 4]
    broken = make_trainer(on_divergence="skip", max_steps=10)
    torch.nn.init.constant_(broken.model.backbone.model.norm.weight, float("nan"))
    with pytest.raises(
        TrainingDivergedError, match=r"after step 0, backbone.model.norm.weight has values that are not"
    ):
        broken.train()
