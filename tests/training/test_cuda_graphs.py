"""CUDA graphs are told where a step begins. That they train as other code does is in `test_gpu.py`."""

import pytest
import torch


@pytest.mark.parametrize("compiled", [True, False])
def test_a_step_is_announced_once_however_many_batches_it_has(make_trainer, monkeypatch, compiled):
    trainer = make_trainer(gradient_accumulation_steps=2, per_device_train_batch_size=8, max_steps=3)
    trainer.args.torch_compile = compiled  # too late to compile anything, which would take seconds
    batches, announced = [], []
    trainer.model.register_forward_pre_hook(lambda *_: batches.append(None))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: announced.append(len(batches)))
    trainer.train()
    assert len(batches) == 6 and announced == ([0, 2, 4] if compiled else [])
