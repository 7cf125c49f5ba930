"""Transformers vision models as face backbones: their output with the requested pooling, at any image size."""

import json

import pytest
import torch
import transformers
from transformers import AutoConfig, CLIPModel, Siglip2ImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from hf_face import FaceImageProcessor, FoundationFaceConfig, FoundationFaceModel

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
CLIP = {"model_type": "clip_vision_model", "image_size": 32, "projection_dim": 24, **SIZES}
DINOV2 = {"model_type": "dinov2", "image_size": 32, **SIZES}
DINOV3 = {"model_type": "dinov3_vit", "image_size": 32, "num_register_tokens": 4, **SIZES}
VIT = {"model_type": "vit", "image_size": 32, "intermediate_size": 64, **SIZES}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 32, "intermediate_size": 64, **SIZES}
SIGLIP2 = {"model_type": "siglip2_vision_model", "num_patches": 16, "intermediate_size": 64, **SIZES}
CONVNEXT = {"model_type": "convnext", "image_size": 32, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 24]}


def build(backbone_config, **settings):
    torch.manual_seed(0)
    return FoundationFaceModel(FoundationFaceConfig(backbone_config=backbone_config, **settings)).eval()


def faces(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def embed(model, pixel_values):
    output = model(pixel_values)
    return output.pooler_output * output.norm


@pytest.mark.parametrize(
    ("backbone_config", "class_name", "pooling", "pick"),
    [
        (CLIP, "CLIPVisionModelWithProjection", "image_embeds", lambda o: o.image_embeds),
        (CLIP, "CLIPVisionModel", "pooler", lambda o: o.pooler_output),
        (DINOV2, "Dinov2Model", "pooler", lambda o: o.pooler_output),
        (DINOV2, "Dinov2Model", "mean", lambda o: o.last_hidden_state[:, 1:].mean(1)),
        (DINOV3, "DINOv3ViTModel", "cls", lambda o: o.last_hidden_state[:, 0]),
        (DINOV3, "DINOv3ViTModel", "mean", lambda o: o.last_hidden_state[:, 5:].mean(1)),
        (VIT, "ViTModel", "pooler", lambda o: o.pooler_output),
        (SIGLIP, "SiglipVisionModel", "pooler", lambda o: o.pooler_output),
        (SIGLIP, "SiglipVisionModel", "mean", lambda o: o.last_hidden_state.mean(1)),
        (CONVNEXT, "ConvNextModel", "pooler", lambda o: o.pooler_output),
    ],
)
@torch.no_grad()
def test_pooled_output_is_the_wrapped_models(backbone_config, class_name, pooling, pick):
    model = build(backbone_config, pooling=pooling)
    theirs = getattr(transformers, class_name)(AutoConfig.for_model(**backbone_config)).eval()
    theirs.load_state_dict(model.backbone.state_dict())
    torch.testing.assert_close(embed(model, faces()), pick(theirs(faces())))
    assert model.config.embedding_size == embed(model, faces()).shape[1]


@torch.no_grad()
def test_siglip2_gets_the_patches_its_own_processor_makes():
    model = build(SIGLIP2)
    assert model.config.image_size == 32
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    inputs = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)(list(images), return_tensors="pt")
    ours = FaceImageProcessor(**model.config.preprocessing)(list(images), return_tensors="pt")
    torch.testing.assert_close(embed(model, ours.pixel_values), model.backbone(**inputs).pooler_output)


@pytest.mark.parametrize(
    ("backbone_config", "positions", "prefix"),
    [
        (CLIP, "vision_model.embeddings.position_embedding.weight", 1),
        (DINOV2, "embeddings.position_embeddings", 1),
        (VIT, "embeddings.position_embeddings", 1),
        (SIGLIP, "embeddings.position_embedding.weight", 0),
    ],
)
@pytest.mark.parametrize("size", [16, 48])
def test_position_embeddings_are_interpolated_to_the_image_size(backbone_config, positions, prefix, size):
    """Equals a model of that size with the resampled grid as position embeddings."""
    model = build(backbone_config, image_size=size)
    tensors = dict(model.state_dict())
    grid = tensors[f"backbone.{positions}"].reshape(-1, 32)[prefix:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(size // 8, size // 8), mode="bicubic", align_corners=False)
    whole = tensors[f"backbone.{positions}"].reshape(-1, 32)[:prefix], grid.flatten(2)[0].T
    native = build({**backbone_config, "image_size": size})
    shape = native.state_dict()[f"backbone.{positions}"].shape
    native.load_state_dict({**tensors, f"backbone.{positions}": torch.cat(whole).reshape(shape)})
    torch.testing.assert_close(embed(model, faces(size)), embed(native, faces(size)))
    assert model.config.preprocessing["size"] == {"height": size, "width": size}


def test_projection_is_there_only_for_another_embedding_size():
    assert not list(build(DINOV2).projection.parameters())
    projected = build(DINOV2, embedding_size=20)
    assert projected.projection.weight.shape == (20, 32) and projected.projection.bias is None
    with torch.no_grad():
        pooled = projected.backbone(faces()).pooler_output
    torch.testing.assert_close(embed(projected, faces()), pooled @ projected.projection.weight.T)
    assert FoundationFaceConfig(backbone_config=CLIP).embedding_size == 24
    assert FoundationFaceConfig(backbone_config=CLIP, pooling="cls").embedding_size == 32


def test_unread_pooling_layer_is_left_out():
    assert build(VIT, pooling="pooler").backbone.pooler is not None
    assert build(VIT, pooling="cls").backbone.pooler is None


@pytest.mark.parametrize("whole", [True, False])
@torch.no_grad()
def test_from_backbone_starts_from_published_weights(tmp_path, whole):
    """A folder with both CLIP towers, or with only the vision tower."""
    towers = CLIPModel(transformers.CLIPConfig(vision_config=CLIP, projection_dim=24)).eval()
    published = towers
    if not whole:
        published = transformers.CLIPVisionModelWithProjection(towers.config.vision_config).eval()
    published.save_pretrained(tmp_path)
    model = FoundationFaceModel.from_backbone(str(tmp_path), image_size=48)
    assert model.config.backbone_config.image_size == 32 and model.config.image_size == 48
    expected = towers.get_image_features(faces()).pooler_output if whole else published(faces()).image_embeds
    torch.testing.assert_close(embed(model.eval(), faces()), expected)
    model.save_pretrained(tmp_path / "face")
    torch.testing.assert_close(embed(FoundationFaceModel.from_pretrained(tmp_path / "face"), faces()), expected)


@pytest.mark.parametrize(
    ("backbone_config", "mean", "std"),
    [
        (CLIP, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        (DINOV2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (DINOV3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (SIGLIP, [0.5] * 3, [0.5] * 3),
        (SIGLIP2, [0.5] * 3, [0.5] * 3),
        (VIT, [0.5] * 3, [0.5] * 3),
        ({"model_type": "beit", "image_size": 32}, [0.5] * 3, [0.5] * 3),
        (CONVNEXT, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ({"model_type": "blip_vision_model"}, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
        ({"model_type": "owlvit_vision_model"}, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
        ({"model_type": "flava_image_model"}, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    ],
)
def test_normalization_is_the_backbones(backbone_config, mean, std):
    preprocessing = FoundationFaceConfig(backbone_config=backbone_config).preprocessing
    assert (preprocessing["image_mean"], preprocessing["image_std"]) == (mean, std)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_normalization_of_a_named_backbone_is_what_its_own_processor_says(tmp_path, file):
    own = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    published = transformers.ViTModel(AutoConfig.for_model(**VIT))
    published.save_pretrained(tmp_path)

    def publish(settings):
        nested = settings if file == "preprocessor_config.json" else {"image_processor": settings}
        (tmp_path / file).write_text(json.dumps(nested))

    publish(own)
    model = FoundationFaceModel.from_backbone(str(tmp_path), image_size=16)
    model.save_pretrained(tmp_path / "face")
    for config in (model.config, AutoConfig.from_pretrained(tmp_path / "face")):
        assert config.preprocessing == {
            "size": {"height": 16, "width": 16},
            "resample": PILImageResampling.BILINEAR,  # the class's default, since the file does not state it
            "image_mean": [0.1, 0.2, 0.3],
            "image_std": [0.4, 0.5, 0.6],
        }
    publish({**own, "do_normalize": False})
    plain = FoundationFaceConfig(backbone_config=str(tmp_path)).preprocessing
    assert (plain["image_mean"], plain["image_std"]) == ([0.0] * 3, [1.0] * 3)


def test_told_normalization_wins(tmp_path):
    AutoConfig.for_model(**VIT).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    told = FoundationFaceConfig(backbone_config=str(tmp_path), image_mean=[0.0, 0.0, 0.0])
    assert told.preprocessing["image_mean"] == [0.0, 0.0, 0.0]
    assert told.preprocessing["image_std"] == [0.4, 0.5, 0.6]


def test_backbone_comes_from_a_config_its_dict_or_a_folder(tmp_path):
    config = AutoConfig.for_model(**DINOV2)
    config.save_pretrained(tmp_path)
    for source in (config, config.to_dict(), str(tmp_path)):
        assert FoundationFaceConfig(backbone_config=source).backbone_config.to_diff_dict() == config.to_diff_dict()
    towers = transformers.CLIPConfig(vision_config=CLIP)
    assert FoundationFaceConfig(backbone_config=towers).backbone_config.model_type == "clip_vision_model"


def test_the_native_size_is_the_default():
    assert FoundationFaceConfig(backbone_config={**DINOV2, "image_size": [32, 32]}).image_size == 32
    assert FoundationFaceConfig(backbone_config={"model_type": "resnet"}).image_size == 224  # it says none


def test_poolings_that_a_backbone_does_not_have_are_refused():
    with pytest.raises(ValueError, match="supports 'pooler', 'cls' and 'mean'"):
        FoundationFaceConfig(backbone_config=DINOV2, pooling="image_embeds")
    with pytest.raises(ValueError, match="has none"):
        FoundationFaceConfig(backbone_config={"model_type": "resnet"}, pooling="mean")
    with pytest.raises(ValueError, match="feature map"):
        build(CONVNEXT, pooling="cls")(faces())
    with pytest.raises(ValueError, match="224 x 112"):
        FoundationFaceConfig(backbone_config={**DINOV2, "image_size": [224, 112]})


def test_what_a_convolutional_backbone_lacks_is_named():
    settings = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    model = FoundationFaceModel(FoundationFaceConfig(backbone_config=settings, image_size=32)).eval()
    with pytest.raises(ValueError, match="resnet has no gradient checkpointing"):
        model.activation_checkpointing_enable()
    with pytest.raises(ValueError, match="resnet has no attention maps"):
        model(torch.randn(2, 3, 32, 32), output_attentions=True)
    assert len(model(torch.randn(2, 3, 32, 32), output_hidden_states=True).hidden_states) == 3


def test_models_from_timm_are_for_timm_face():
    with pytest.raises(ValueError, match="Use `TimmFaceConfig`"):
        FoundationFaceConfig(backbone_config={"model_type": "timm_wrapper", "architecture": "resnet10t"})
