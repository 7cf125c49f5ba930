"""Training on a GPU: what the CPU gives, without waiting for the device in a step."""

import pytest
import torch
from transformers import AutoModel, TrainerCallback

from hf_face.training import TrainingDivergedError

from .test_divergence import Poisoned, States, equal, weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class NoWaiting(TrainerCallback):
    """Makes torch raise an error where the host waits for the device, from the third step to the last."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == state.max_steps - 1:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "sgd"])
@pytest.mark.parametrize("augmentation", ["flip", "froundation"])
def test_a_step_does_not_wait_for_the_device(make_trainer, optim, augmentation):
    settings = {"use_cpu": False, "bf16": True, "max_steps": 8, "logging_steps": 100, "eval_strategy": "no"}
    trainer = make_trainer(augmentation=augmentation, optim=optim, **settings)
    trainer.add_callback(NoWaiting())
    try:
        assert trainer.train().global_step == 8
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_gpu_trains_as_the_cpu_does(make_trainer, faces):
    people, found = faces[0].select(range(8)), []
    for use_cpu in (True, False):
        trainer = make_trainer(max_steps=5, use_cpu=use_cpu)
        trainer.train()
        found.append((losses(trainer), trainer.predict(people).predictions))
    (losses_on_cpu, on_cpu), (losses_on_gpu, on_gpu) = found
    assert losses_on_gpu == pytest.approx(losses_on_cpu, rel=1e-3)
    assert abs(on_gpu - on_cpu).max() < 1e-2 * abs(on_cpu).max()
    trainer.save_model()
    saved = AutoModel.from_pretrained(trainer.args.output_dir).state_dict()
    backbone = trainer.model.backbone.state_dict()
    assert all(torch.equal(value.cpu(), saved[name]) for name, value in backbone.items())


@pytest.mark.parametrize("accumulated", [1, 2])
def test_cuda_graphs_train_the_same(make_trainer, monkeypatch, accumulated):
    settings = {"use_cpu": False, "gradient_accumulation_steps": accumulated, "per_device_train_batch_size": 8}
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr(matmul, "allow_tf32", matmul.allow_tf32)  # which accelerate sets where it compiles
    eager = make_trainer(**settings)
    eager.train()
    graphs = make_trainer(torch_compile=True, torch_compile_mode="reduce-overhead", logging_steps=2, **settings)
    graphs.train()
    means = [sum(losses(eager)[i : i + 2]) / 2 for i in (0, 2)]
    assert losses(graphs) == pytest.approx(means, rel=1e-3)


def test_a_resumed_run_is_the_uninterrupted_one(make_trainer):
    settings = {"use_cpu": False, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-2")
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "sgd"])
def test_the_update_is_held_back_on_the_device(make_trainer, what, optim):
    method, states = Poisoned(batch=2, **{what: float("nan")}), States()
    settings = {"use_cpu": False, "max_steps": 9, "eval_strategy": "no", "logging_steps": 9, "optim": optim}
    trainer = make_trainer(method=method, **settings)
    trainer.add_callback(states)
    with pytest.raises(TrainingDivergedError, match=f"in step 2, the .*{what}.* is nan") as raised:
        trainer.train()
    assert len(method.rows) == 3 and raised.value.rows == method.rows[1]
    now = weights(trainer)
    assert equal({name: states.after[0][name] for name in now}, now) == list(now)


def test_a_step_is_skipped(make_trainer):
    trainer = make_trainer(method=Poisoned(batch=2, loss=float("nan")), use_cpu=False, on_divergence="skip")
    trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert trainer.state.log_history[-2]["skipped_steps"] == 1
