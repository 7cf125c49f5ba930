"""Training methods, and settings that change how a step is computed, under FSDP 2 and DeepSpeed as with DDP."""

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import EngineRuns
from transformers import AutoModel
from under_engines import build

from hf_face import FaceImageProcessor
from hf_face.registry import methods

WAYS = ("fsdp", "zero2", "zero3", "zero1 from {}/fsdp", "fsdp from {}/zero3")
WHOLE = {"max_steps": 4, "save_steps": 2, "adam_epsilon": 0.01}
SPLIT = {**WHOLE, "shard_head": True}
COSFACE, IRESNET = {"model": "vit", "margin": "cosface"}, {"model": "iresnet"}
ADAPTED = {"model": "clip", "targets": ["q_proj", "v_proj"]}
SAMPLED = {"partial_fc_sample_rate": 0.3, "optim": "sgd", "optim_args": "momentum=0.9"}
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
SETTINGS = {
    "channels_last": {**SPLIT, "model": IRESNET, "channels_last": True, "ema_decay": 0.9},
    "freeze_batch_norm": {**WHOLE, "model": IRESNET, "freeze_batch_norm": True},
    "gradient_checkpointing": {**SPLIT, "model": ADAPTED, **REENTRANT},
    "partial_fc": {**SPLIT, "model": ADAPTED, **SAMPLED, "gradient_accumulation_steps": 2},
}


def check(folder: Path, cases: dict[str, dict]) -> None:
    """Fails unless each case trains under every engine, from the start and from the middle, as with DDP."""
    pytest.importorskip("deepspeed", reason='it is an engine of its own: pip install "hf_face[deepspeed]"')
    runs = EngineRuns(folder, cases)
    named = {case: [f"{case}/{way.format(case)}" for way in WAYS] for case in cases}
    runs.launch(*(name for case in cases for name in (f"{case}/ddp", *named[case])))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for case in cases:
        losses = runs.logged(f"{case}/ddp", "loss")
        expected = AutoModel.from_pretrained(runs.place(f"{case}/ddp") / "saved").eval()(images).pooler_output
        assert len(losses) == 4 and np.ptp(losses) > 0.1
        for name in named[case]:
            np.testing.assert_allclose(runs.logged(name, "loss"), losses, rtol=2e-6, err_msg=name)
            found = AutoModel.from_pretrained(runs.place(name) / "saved").eval()(images).pooler_output
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow  # six runs on two ranks for each method
def test_every_method_trains_under_every_engine(tmp_path, clip):
    teacher = build("vit").backbone
    teacher.save_pretrained(tmp_path / "teacher")
    FaceImageProcessor(**teacher.config.preprocessing).save_pretrained(tmp_path / "teacher")
    taught = {"teacher": str(tmp_path / "teacher"), "projection": True}
    cases = {
        "margin_softmax": {"method": {"margin_softmax": {}}, **WHOLE},
        "lvface": {"method": {"lvface": {}}, "model": COSFACE, **SPLIT},
        "unitsface": {"method": {"unitsface": {}}, **WHOLE},
        "transface": {"method": {"transface": {"probability": 0.5}}, "model": {"model": "transface"}, **SPLIT},
        "distillation": {"method": {"distillation": taught}, **SPLIT},
        "distillation alone": {"method": {"distillation": {**taught, "margin_weight": 0.0}}, **SPLIT},
        "text_image_header": {"method": {"text_image_header": {}}, "model": {"model": clip}, **SPLIT},
    }
    assert {case.removesuffix(" alone") for case in cases} == set(methods)
    check(tmp_path, cases)


@pytest.mark.slow  # six runs on two ranks for each setting
def test_every_setting_works_under_every_engine(tmp_path):
    check(tmp_path, SETTINGS)
