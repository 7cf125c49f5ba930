"""Tests what users of transformers expect of any model, for tiny models of every family."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import CASES, build
from transformers import AutoConfig, AutoModel

from hf_face import FAMILIES


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
    output = half(faces(model))  # float32, as an image processor gives them
    assert torch.equal(output.pooler_output, half(faces(model).bfloat16()).pooler_output)
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


def test_a_convolution_before_a_batch_norm_has_no_bias(model):
    if not hasattr(model, "fuse"):
        pytest.skip("has no batch norms of its own")
    convolutions = [layer for _, _, layer, _, _ in model.foldable_norms() if isinstance(layer, torch.nn.Conv2d)]
    assert all(layer.bias is None for layer in convolutions)


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


def train_two_steps(case: str, **checkpointing) -> tuple[dict[str, torch.Tensor], int]:
    """The weights and statistics after two steps of SGD, and the number of module calls."""
    model, calls = build(case).train(), []
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    if checkpointing:
        model.activation_checkpointing_enable(checkpointing)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        output = model(faces(model).requires_grad_())  # which reentrant checkpointing needs
        (output.pooler_output * output.norm).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict(), len(calls)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_trains_the_same_model(case, use_reentrant):
    expected, calls = train_two_steps(case)
    found, calls_with_recomputation = train_two_steps(case, use_reentrant=use_reentrant)
    assert calls_with_recomputation > calls
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@torch.no_grad()
def test_attention_maps_are_given_on_request(model):
    plain = model(faces(model))
    assert plain.attentions is None
    has_attention = hasattr(getattr(model.config, "backbone_config", model.config), "num_attention_heads")
    if not has_attention and "vit" not in getattr(model.config, "architecture", ""):
        with pytest.raises(ValueError, match=r"output_attentions: .*no attention maps"):
            model(faces(model), output_attentions=True)
        return
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        output = model(faces(model), output_attentions=True)
        assert len(output.attentions) == 2
        for attention in output.attentions:
            batch, heads, tokens, others = attention.shape
            assert (batch, heads, tokens) == (3, 2, others)
            torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2, tokens))
        torch.testing.assert_close(output.pooler_output, plain.pooler_output)
        assert model.config._attn_implementation == implementation
    model.config.output_attentions = True
    assert len(model(faces(model)).attentions) == 2


@torch.no_grad()
def test_forward_refuses_what_it_does_not_know(model):
    with pytest.raises(TypeError, match="unexpected keyword argument bool_masked_pos"):
        model(faces(model), bool_masked_pos=torch.ones(1))
    with pytest.raises(ValueError, match=r"pixel_values are torch.uint8.*image processor"):
        model(faces(model).byte())
    for_peft = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="FEATURE_EXTRACTION"))
    for_peft(pixel_values=faces(model))  # adds input_ids=None and others


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
import torch
from transformers import AutoConfig, AutoModel

for folder in FOLDERS:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    saved = torch.load(folder + "/expected.pt")
    with torch.no_grad():
        found = model(saved["pixel_values"]).pooler_output
    torch.testing.assert_close(found, saved["pooler_output"], rtol=0, atol=1e-6, msg=folder)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
print("loaded", len(FOLDERS))
"""


@torch.no_grad()
def test_code_travels_with_the_weights(tmp_path, strangers):
    """`trust_remote_code=True` where hf_face cannot be imported."""
    one_a_family = {type(config): case for case, (config, _) in CASES.items()}.values()
    for case in one_a_family:
        model = build(case)
        model.save_pretrained(tmp_path / case)
        pixels = faces(model)
        expected = model(pixels).pooler_output
        torch.save({"pixel_values": pixels, "pooler_output": expected}, tmp_path / case / "expected.pt")
    folders = f"FOLDERS = {[str(tmp_path / case) for case in one_a_family]}\n"
    printed = strangers.run(folders + REMOTE, tmp_path, hf_face=False)
    assert printed.endswith(f"loaded {len(FAMILIES)}\n")
