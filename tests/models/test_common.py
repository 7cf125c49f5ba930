"""Tests what users of transformers expect of any model, for tiny models of every family."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import CASES
from transformers import AutoConfig, AutoModel

from hf_face import FAMILIES


def build(case: str):
    """The case's model in eval mode, with seeded weights, including batch statistics and biases."""
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(CASES[case][0]))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor) if "running_var" in name else 0.05 * torch.randn_like(tensor)
    return model.eval()


def faces(model, count: int = 3):
    torch.manual_seed(1)
    return torch.randn(count, 3, model.config.image_size, model.config.image_size)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def model(case):
    return build(case)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def test_every_family_is_here():
    assert {type(config) for config, _ in CASES.values()} == set(FAMILIES)


@torch.no_grad()
def test_embedding_has_unit_length_and_its_norm_beside_it(model):
    output = model(faces(model))
    assert output.pooler_output.shape == (3, model.config.embedding_size)
    assert output.norm.shape == (3, 1)
    torch.testing.assert_close(output.pooler_output.norm(dim=1), torch.ones(3))
    assert not torch.allclose(output.norm, torch.ones(3, 1))
    assert output[0] is output.pooler_output
    as_tuple = model(faces(model), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.pooler_output)


@torch.no_grad()
def test_hidden_states_are_given_on_request(model):
    assert model(faces(model)).hidden_states is None
    output = model(faces(model), output_hidden_states=True)
    assert isinstance(output.hidden_states, tuple) and len(output.hidden_states) >= 2
    assert all(len(state) == 3 for state in output.hidden_states)
    model.config.output_hidden_states = True
    by_config = model(faces(model))
    assert len(by_config.hidden_states) == len(output.hidden_states)
    assert torch.equal(by_config.hidden_states[-1], output.hidden_states[-1])
    torch.testing.assert_close(by_config.pooler_output, output.pooler_output)


@torch.no_grad()
def test_save_and_load_is_bit_exact(model, folder):
    loaded = AutoModel.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(loaded(faces(model)).pooler_output, model(faces(model)).pooler_output, rtol=0, atol=1e-6)
    on_cpu = AutoModel.from_pretrained(folder, device_map="cpu")
    assert on_cpu.device.type == "cpu"
    assert all(torch.equal(on_cpu.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_config_comes_back(model, folder):
    ours, theirs = model.config.to_diff_dict(), AutoConfig.from_pretrained(folder).to_diff_dict()
    assert {k: v for k, v in theirs.items() if k in ours} == ours


@torch.no_grad()
def test_half_precision(model, folder):
    half = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    output = half(faces(model).bfloat16())
    assert output.pooler_output.dtype == output.norm.dtype == torch.float32
    assert (output.pooler_output * model(faces(model)).pooler_output).sum(1).min() > 0.99


@torch.no_grad()
def test_autocast(model):
    expected = model(faces(model)).pooler_output
    with torch.autocast("cpu", torch.bfloat16):
        found = model(faces(model)).pooler_output
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert (found * expected).sum(1).min() >= 0.999


@torch.no_grad()
def test_folded_model_answers_the_same(model):
    if not hasattr(model, "fuse"):
        pytest.skip("has no batch norms of its own")
    expected = model(faces(model)).pooler_output
    fused = model.fuse().to(memory_format=torch.channels_last)
    assert (fused(faces(model)).pooler_output * expected).sum(1).min() >= 0.9999
    torch.compiler.reset()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    assert (compiled(faces(model)).pooler_output * expected).sum(1).min() >= 0.9999


def test_folded_model_is_saved_and_trained(model, tmp_path):
    if not hasattr(model, "fuse"):
        pytest.skip("has no batch norms of its own")
    fused = model.fuse()
    fused.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.fused and loaded.state_dict().keys() == fused.state_dict().keys()
    assert torch.equal(loaded(faces(model)).pooler_output, fused(faces(model)).pooler_output)
    loaded.train()(faces(model)).pooler_output[:, 0].sum().backward()
    assert all(parameter.grad is not None for name, parameter in loaded.named_parameters() if name.endswith("bias"))
    new = AutoModel.from_config(loaded.config)
    assert new.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.isfinite(tensor).all() for tensor in new.state_dict().values())


def gradients(model, checkpointed: bool):
    """Gradients of a loss by parameter, and the number of module calls."""
    calls = []
    hooks = [module.register_forward_hook(lambda *_: calls.append(1)) for module in model.modules()]
    model.train()
    model.zero_grad()
    (model.gradient_checkpointing_enable if checkpointed else model.gradient_checkpointing_disable)()
    output = model(faces(model))
    (output.pooler_output * output.norm).square().sum().backward()
    for hook in hooks:
        hook.remove()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(model):
    expected, calls = gradients(model, checkpointed=False)
    found, calls_with_recomputation = gradients(model, checkpointed=True)
    assert calls_with_recomputation > calls
    assert found.keys() == expected.keys() and len(expected) > 3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@torch.no_grad()
def test_compiles_as_one_graph(model):
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(faces(model)).pooler_output, model(faces(model)).pooler_output)


@torch.no_grad()
def test_lora_adapts_it_and_the_adapter_loads_back(case, model, folder, tmp_path):
    expected = model(faces(model)).pooler_output
    adapted = get_peft_model(build(case), LoraConfig(r=2, target_modules=CASES[case][1]))
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    torch.testing.assert_close(adapted(faces(model)).pooler_output, expected)
    torch.manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
    tuned = adapted.eval()(faces(model)).pooler_output
    assert not torch.allclose(tuned, expected, atol=1e-3)

    adapted.save_pretrained(tmp_path / "adapter")
    model.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(model(faces(model)).pooler_output, tuned)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(faces(model)).pooler_output, tuned, rtol=1e-4, atol=1e-5)


REMOTE = """
import json, sys, torch
sys.modules["hf_face"] = None  # as where it is not installed
from transformers import AutoConfig, AutoModel

for folder in json.loads(sys.argv[1]):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    saved = torch.load(folder + "/expected.pt")
    with torch.no_grad():
        found = model(saved["pixel_values"]).pooler_output
    torch.testing.assert_close(found, saved["pooler_output"], rtol=0, atol=1e-6, msg=folder)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
print("loaded", len(json.loads(sys.argv[1])))
"""


@torch.no_grad()
def test_code_travels_with_the_weights(tmp_path):
    """`trust_remote_code=True` where hf_face cannot be imported: one process for all families, to keep it quick."""
    one_a_family = {type(config): case for case, (config, _) in CASES.items()}.values()
    for case in one_a_family:
        model = build(case)
        model.save_pretrained(tmp_path / case)
        pixels = faces(model)
        expected = model(pixels).pooler_output
        torch.save({"pixel_values": pixels, "pooler_output": expected}, tmp_path / case / "expected.pt")
    folders = json.dumps([str(tmp_path / case) for case in one_a_family])
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", REMOTE, folders], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.stdout.endswith(f"loaded {len(FAMILIES)}\n"), result.stderr[-3000:]
