"""Every training method under FSDP 2 and DeepSpeed, beside plain data parallelism."""

import numpy as np
import pytest
import torch
from engine_runs import EngineRuns
from transformers import AutoModel
from under_engines import build

from hf_face import FaceImageProcessor
from hf_face.registry import methods

FOUR_STEPS = {"max_steps": 4, "save_steps": 2, "adam_epsilon": 0.01}
SPLIT = {**FOUR_STEPS, "shard_head": True}


@pytest.mark.slow  # five runs on two ranks for each method
def test_every_method_trains_under_every_engine(tmp_path, clip):
    pytest.importorskip("deepspeed", reason='it is an engine of its own: pip install "hf_face[deepspeed]"')
    teacher = build("vit").backbone
    teacher.save_pretrained(tmp_path / "teacher")
    FaceImageProcessor(**teacher.config.preprocessing).save_pretrained(tmp_path / "teacher")
    taught = {"teacher": str(tmp_path / "teacher"), "projection": True}
    cases = {
        "margin_softmax": {"method": {"margin_softmax": {}}, **FOUR_STEPS},
        "lvface": {"method": {"lvface": {}}, "model": {"model": "vit", "margin": "cosface"}, **SPLIT},
        "unitsface": {"method": {"unitsface": {}}, **FOUR_STEPS},
        "transface": {"method": {"transface": {"probability": 0.5}}, "model": {"model": "transface"}, **SPLIT},
        "distillation": {"method": {"distillation": taught}, **SPLIT},
        "distillation alone": {"method": {"distillation": {**taught, "margin_weight": 0.0}}, **SPLIT},
        "text_image_header": {"method": {"text_image_header": {}}, "model": {"model": clip}, **SPLIT},
    }
    assert {case.removesuffix(" alone") for case in cases} == set(methods)
    runs = EngineRuns(tmp_path, cases)
    ways = ("fsdp", "zero2", "zero3", "zero1 from {}/fsdp", "fsdp from {}/zero3")
    named = {case: [f"{case}/{way.format(case)}" for way in ways] for case in cases}
    runs.launch(*(name for case in cases for name in (f"{case}/ddp", *named[case])))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for case in cases:
        expected = AutoModel.from_pretrained(runs.place(f"{case}/ddp") / "saved").eval()(images).pooler_output
        for name in named[case]:
            np.testing.assert_allclose(
                runs.logged(name, "loss"), runs.logged(f"{case}/ddp", "loss"), rtol=2e-6, err_msg=name
            )
            found = AutoModel.from_pretrained(runs.place(name) / "saved").eval()(images).pooler_output
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=name)
