"""CLIP's two encoders with one head."""

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from transformers import CLIPModel

from hf_face.training import FaceTrainer, FaceTrainingArguments
from hf_face.training.methods import TextImageHeader
from hf_face.training.recipe import build_method, build_model
from hf_face.training.recipe_arguments import ModelArguments

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


@pytest.fixture
def make(faces, tmp_path):
    def make(lora=None, method="text_image_header", **model):
        torch.manual_seed(0)
        arguments = ModelArguments(margin="cosface", lora=lora, method=method, **model)
        built, processor = build_model(arguments, num_identities=30)
        settings = {"max_steps": 2, "save_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 8}
        args = FaceTrainingArguments(
            str(tmp_path / "run"), report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, **settings
        )
        return FaceTrainer(built, args, faces[0], image_processor=processor, method=build_method(arguments))

    return make


def test_the_loss_is_the_mean_of_the_heads_for_images_and_texts(make, clip):
    trainer = make(model_name_or_path=clip)
    batch = trainer.prepare_batch(next(iter(trainer.get_train_dataloader())))
    losses = trainer.method.losses(trainer.model.eval(), batch)
    whole = CLIPModel.from_pretrained(clip).eval()
    texts = [f"a photo of a {label}." for label in batch["labels"].tolist()]
    tokens = trainer.method._tokenizer(texts, padding=True, return_tensors="pt")
    for name, inputs in (
        ("text", whole.get_text_features(**tokens)),
        ("image", whole.get_image_features(batch["pixel_values"])),
    ):
        raw = inputs if isinstance(inputs, torch.Tensor) else inputs.pooler_output
        norm = raw.norm(dim=1, keepdim=True)
        expected = trainer.model.head(raw / norm, norm, batch["labels"]).loss / 2
        torch.testing.assert_close(losses[name], expected, atol=1e-4, rtol=1e-4)


def test_both_encoders_learn_and_only_adapters_are_checkpointed(make, clip, tmp_path):
    trainer = make(lora={"r": 2, "target_modules": ["q_proj", "v_proj"]}, model_name_or_path=clip)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or name == "head.weight" for name in changed)
    assert any(name.startswith("method.text_encoder") for name in changed)
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    assert saved.keys() - {"head.num_samples"} == changed
    resumed = make(lora={"r": 2, "target_modules": ["q_proj", "v_proj"]}, model_name_or_path=clip)
    resumed.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2")
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, trainer.model.state_dict()[name]), name


def test_without_adapters_both_encoders_are_trained_under_data_parallelism(make, clip, tmp_path):
    trainer = make(model_name_or_path=clip)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(trainer.model, find_unused_parameters=True)
        batch = trainer.prepare_batch(next(iter(trainer.get_train_dataloader())))
        sum(trainer.method.losses(wrapped, batch).values()).backward()
    finally:
        dist.destroy_process_group()
    assert all(weight.grad is not None for weight in trainer.method.text_encoder.parameters())


def test_what_has_no_text_is_refused_before_training(make, clip):
    dinov2 = {"model_type": "dinov2", "image_size": 32, "patch_size": 16, "hidden_size": 16, "num_attention_heads": 2}
    dinov2 = {"model_type": "foundation_face", "backbone_config": {**dinov2, "num_hidden_layers": 1}}
    with pytest.raises(ValueError, match="'dinov2' is a vision model without a text encoder"):
        make(backbone=dinov2)
    iresnet = {"model_type": "iresnet", "depths": [1] * 4, "hidden_sizes": [8] * 4, "image_size": 32}
    with pytest.raises(ValueError, match="'iresnet' is a vision model without a text encoder"):
        make(backbone=iresnet)
    vision = {"model_type": "clip_vision_model", **SIZES, "image_size": 32, "patch_size": 16, "projection_dim": 12}
    foundation = {"model_type": "foundation_face", "backbone_config": vision}
    with pytest.raises(ValueError, match="requires its text_model"):
        make(backbone=foundation)
    make(backbone=foundation, method={"text_image_header": {"text_model": clip}})
    with pytest.raises(ValueError, match="leave embedding_size at CLIP's 12, found 16"):
        make(backbone={**foundation, "embedding_size": 16})
    with pytest.raises(ValueError, match=r"template must contain \{identity\}"):
        TextImageHeader(template="a face")
