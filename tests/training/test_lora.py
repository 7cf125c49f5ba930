"""Low-rank adapters: the backbone stays frozen, the saved model has them merged, and the adapter is saved by itself."""

import copy
import json
from itertools import chain

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_recipe import TINY_VIT
from torch import nn
from transformers import AutoModel

from hf_face import FaceRecognitionModel, FoundationFaceModel
from hf_face.models import FaceImageProcessor
from hf_face.training import FaceTrainer, FaceTrainingArguments
from hf_face.training.lora import LAYERS, save_statistics
from hf_face.training.recipe import build_model
from hf_face.training.recipe_arguments import ModelArguments

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 6, "mlp_ratio": 2}
DINOV2 = {
    "model_type": "foundation_face",
    "backbone_config": {"model_type": "dinov2", "image_size": 32, "patch_size": 16, **SIZES},
    "embedding_size": 12,  # not the hidden size, so that there is a projection
}
IRESNET = {
    "model_type": "iresnet",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 8, 8],
    "embedding_size": 16,
    "image_size": 32,
}
ADAPTED = {"vit": (TINY_VIT, ["qkv"]), "dinov2": (DINOV2, ["q_proj", "v_proj"]), "iresnet": (IRESNET, ["convolution1"])}


def build(backbone=DINOV2, target_modules=("q_proj", "v_proj"), **lora):
    torch.manual_seed(0)
    lora = {"r": 4, "alpha": 8, "target_modules": target_modules, **lora}
    return build_model(ModelArguments(backbone=backbone, lora=lora), num_identities=30)


@pytest.fixture
def make(faces, tmp_path):
    """`make(model, image_processor, **settings)`: a trainer of three steps."""

    def make(model, image_processor, **settings):
        settings = {"max_steps": 3, "learning_rate": 0.1, "per_device_train_batch_size": 8, **settings}
        settings = {"save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, **settings}
        args = FaceTrainingArguments(str(tmp_path / "run"), **settings)
        return FaceTrainer(model, args, faces[0], image_processor=image_processor)

    return make


def embed(model, size=32):
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(pixel_values=pixels).pooler_output


@pytest.mark.parametrize("family", ADAPTED)
@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_merged_and_alone_an_adapter_gives_the_trained_embeddings(make, tmp_path, family, ema_decay):
    backbone, targets = ADAPTED[family]
    model, processor = build(backbone, targets)
    base = build(backbone, targets)[0].backbone.unload()
    trainer = make(model, processor, ema_decay=ema_decay)
    trainer.train()
    trainer.save_model()
    expected = embed(trainer.adapter)
    merged = AutoModel.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(embed(merged), expected, atol=1e-5, rtol=0)
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    assert not torch.allclose(embed(base), expected, atol=1e-2)
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    torch.testing.assert_close(embed(adapted), expected, atol=1e-5, rtol=0)


def test_an_adapter_of_peft_itself_has_the_statistics_too(make, tmp_path):
    torch.manual_seed(0)
    model, processor = build_model(ModelArguments(backbone=IRESNET), num_identities=30)
    base = copy.deepcopy(model.backbone)
    model.backbone = get_peft_model(model.backbone, LoraConfig(r=2, target_modules=["convolution1"]))
    trainer = make(model, processor)
    trainer.train()
    trainer.save_model()
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    torch.testing.assert_close(embed(adapted), embed(trainer.adapter), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ADAPTED)
def test_only_adapter_projection_and_head_are_trained_and_saved(make, tmp_path, family):
    model, processor = build(*ADAPTED[family])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    own = {name for name in trained if "lora_" not in name}
    projection = "backbone.base_model.model.projection.modules_to_save.default.weight"
    assert own == {"head.weight"} | ({projection} if family == "dinov2" else set())
    trainer = make(model, processor, save_strategy="steps", save_steps=3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer.train()
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    statistics = {name for name in changed if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed - statistics == trained
    assert bool(statistics) == (family == "iresnet")
    assert all(".modules_to_save." in name for name in statistics), "the base keeps its own"
    saved = load_file(tmp_path / "run" / "checkpoint-3" / "model.safetensors")
    assert changed <= saved.keys()
    assert not saved.keys() & {name for name in before if ".base_layer." in name or ".original_module." in name}
    if family != "iresnet":
        assert saved.keys() - trained <= {"head.num_samples"}
    sent = {name for name in before if name not in set(model._ddp_params_and_buffers_to_ignore)}
    assert sent == saved.keys() | (sent - before.keys())
    (entry,) = [entry for entry in trainer.state.log_history if "trainable_parameters" in entry]
    assert entry["trainable_parameters"] == sum(model.get_parameter(name).numel() for name in trained)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_run_resumes_on_the_base_that_it_does_not_save(make, tmp_path, ema_decay):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "ema_decay": ema_decay}
    through = make(*build(IRESNET, ["convolution1"]), **settings)
    through.train()
    expected = embed(through.adapter)
    if ema_decay:
        raw = load_file(tmp_path / "run" / "checkpoint-2" / "raw_backbone.safetensors")
        assert not any(".base_layer." in name for name in raw)
    resumed = make(*build(IRESNET, ["convolution1"]), **settings)
    resumed.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2")
    torch.testing.assert_close(embed(resumed.adapter), expected, atol=1e-6, rtol=0)

    other, processor = build(IRESNET, ["convolution1"])
    other.backbone.base_model.model.stem.convolution.weight.data += 1
    with pytest.raises(ValueError, match="was trained on other weights than these"):
        make(other, processor, **settings).train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("top", [5]),
        ("top2", [4, 5]),
        ("top3", [3, 4, 5]),
        ("bottom", [0, 1]),
        ("mid", [2, 3]),
        ("up", [4, 5]),
        ("half-bottom", [0, 1, 2]),
        ("half-up", [3, 4, 5]),
        ([0, 5], [0, 5]),
    ],
)
def test_layers_are_chosen_by_name_or_number(layers, expected):
    model, _ = build(layers=layers)
    adapted = {name for name, module in model.backbone.named_modules() if name.endswith("lora_A")}
    assert {int(name.split(".layer.")[1].split(".")[0]) for name in adapted} == set(expected)
    assert len(adapted) == 2 * len(expected)


@pytest.mark.parametrize("number", range(9))
def test_parts_of_few_layers(number):
    layers = list(range(number))
    assert [list(LAYERS[name](number)) for name in ("top2", "top3", "all")] == [layers[-2:], layers[-3:], layers]
    thirds = [list(LAYERS[name](number)) for name in ("bottom", "mid", "up")]
    halves = [list(LAYERS[name](number)) for name in ("half-bottom", "half-up")]
    assert list(chain(*thirds)) == list(chain(*halves)) == layers
    assert all(abs(len(part) - number / len(parts)) < 1 for parts in (thirds, halves) for part in parts)


def test_further_modules_are_trained_and_saved():
    model, _ = build(modules_to_save=["layernorm"])
    config = model.backbone.peft_config["default"]
    assert set(config.modules_to_save) == {"layernorm", "projection"}
    trained = {name for name, weight in model.backbone.named_parameters() if weight.requires_grad}
    start = "base_model.model."
    assert f"{start}projection.modules_to_save.default.weight" in trained
    assert f"{start}backbone.layernorm.modules_to_save.default.weight" in trained
    assert not any("patch_embeddings.projection" in name for name in trained), "which ends like the projection"


def test_statistics_are_saved_beside_further_modules():
    model, _ = build(IRESNET, ["convolution1"], modules_to_save=["stem.convolution"])
    save_statistics(model)
    saved = model.backbone.peft_config["default"].modules_to_save
    assert saved[0] == "stem.convolution" and len(saved) > 1
    norms = {name for name, module in model.backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(".modules_to_save." in name or ".original_module" in name for name in norms)
    frozen = {name for name, weight in model.backbone.named_parameters() if not weight.requires_grad}
    assert frozen >= {f"{name}.weight" for name in norms}


def test_layers_are_found_at_the_top_of_a_model_too():
    config = {"model_type": "vit_face", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    model, _ = build({**config, "image_size": 32, "patch_size": 16, "embedding_size": 8}, ["qkv"], layers="top")
    assert [name for name, _ in model.backbone.named_modules() if name.endswith("lora_A")] == [
        "base_model.model.layers.2.attn.qkv.lora_A"
    ]


def test_options_have_peft_names_and_short_ones():
    for lora in ({"lora_alpha": 3, "lora_dropout": 0.5}, {"alpha": 3, "dropout": 0.5}):
        config = build(**lora, use_rslora=True)[0].backbone.peft_config["default"]
        assert (config.r, config.lora_dropout, config.use_rslora) == (4, 0.5, True)
    assert config.lora_alpha == 3


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"target_modules": ["q_proj", "value", "nope"]},
            r"'value', 'nope' match no module .* called fc1, fc2, k_proj, o_proj, projection, q_proj, v_proj",
        ),
        ({"layers": "upper"}, "layers must be one of all, top"),
        ({"layers": []}, r"layers=\[\] does not fit the 6 numbered layers"),
        ({"layers": [0, 6]}, r"layers=\[0, 6\] does not fit the 6 numbered layers"),
        ({"layers": [6]}, r"layers=\[6\] does not fit the 6 numbered layers"),
        ({"target_modules": ["projection"], "layers": "top"}, "does not fit the 0 numbered layers"),
        ({"target_modules": "all-linear", "layers": "top"}, "requires target_modules as a list"),
        ({"rank": 4}, "lora has no option 'rank'"),
    ],
)
def test_settings_that_adapt_nothing_are_refused(lora, message):
    with pytest.raises(ValueError, match=message):
        build(**lora)


def test_all_linear_layers_but_the_projection_are_adapted(make):
    model, _ = build_model(
        ModelArguments(backbone=DINOV2, lora={"r": 2, "target_modules": "all-linear"}), num_identities=30
    )
    assert isinstance(model.backbone.base_model.model.projection.modules_to_save["default"], nn.Linear)
    adapted = {name.split(".")[-2] for name, _ in model.backbone.named_modules() if name.endswith("lora_A")}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"}


def test_the_adapter_names_the_foundation_model_it_is_for(tmp_path, make):
    torch.manual_seed(0)
    folder = tmp_path / "dinov2"
    FoundationFaceModel(build()[0].config.backbone_config).backbone.save_pretrained(folder)
    model, processor = build_model(
        ModelArguments(model_name_or_path=str(folder), lora={"r": 2, "target_modules": ["q_proj"]}), num_identities=30
    )
    make(model, processor, max_steps=1).save_model()
    adapter = tmp_path / "run" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    adapted = PeftModel.from_pretrained(FoundationFaceModel.from_backbone(str(folder)), adapter)
    torch.testing.assert_close(embed(adapted), embed(model.backbone), atol=1e-6, rtol=0)
    assert isinstance(processor, FaceImageProcessor)


def test_training_resumes_though_transformers_saves_weights_under_older_names(make, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}

    def fresh():
        torch.manual_seed(0)
        return make(*build_model(ModelArguments(backbone=DINOV2), num_identities=30), **settings)

    through = fresh()
    through.train()
    resumed = fresh()
    resumed.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2")
    torch.testing.assert_close(embed(resumed.model.backbone), embed(through.model.backbone), atol=1e-6, rtol=0)
    again = FaceRecognitionModel.from_pretrained(tmp_path / "run" / "checkpoint-4")
    assert torch.equal(embed(again), embed(through.model))
