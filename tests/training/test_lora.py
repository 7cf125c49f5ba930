"""Low-rank adapters: the backbone stays frozen, the saved model has them merged."""

import torch
from transformers import AutoModel

from hf_face.training import FaceTrainer, FaceTrainingArguments
from hf_face.training.recipe import ModelArguments, build_model

BACKBONE = {
    "model_type": "timm_face",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2},
    "embedding_size": 16,
    "image_size": 32,
}


def test_adapters_are_trained_and_merged_into_the_saved_model(faces, tmp_path):
    torch.manual_seed(0)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["qkv"]}
    model, image_processor = build_model(ModelArguments(backbone=BACKBONE, lora=lora), num_identities=30)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "head.weight" in trained
    assert all("lora_" in name or name == "head.weight" for name in trained)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    args = FaceTrainingArguments(
        str(tmp_path), max_steps=3, learning_rate=0.1, per_device_train_batch_size=8, report_to="none", use_cpu=True
    )
    trainer = FaceTrainer(model, args, faces[0], image_processor=image_processor)
    trainer.train()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) == (name not in trained), name

    trainer.save_model()
    merged = AutoModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.backbone.eval()(pixel_values=pixels).pooler_output
        torch.testing.assert_close(merged(pixels).pooler_output, expected, atol=1e-5, rtol=1e-4)
