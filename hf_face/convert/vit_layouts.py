"""InsightFace's and TransFace's layouts of the face vision transformer."""

from typing import ClassVar

from ..models import FaceConfig, ViTFaceConfig
from ..models.modeling_vit_face import BUCKETS
from .checkpoint import StateDict
from .layout import Layout, count_units, shape_of
from .source import Renames


class InsightFaceViT(Layout):
    """`blocks.0.attn.qkv.weight`: timm's names, with `feature` as the neck."""

    model_type = "vit_face"
    anchor = "feature.0.weight"
    patch_weighting = False
    position = "absolute"
    renames: ClassVar[Renames] = (
        (r"^embeddings\.patch", "patch_embed.proj"),
        (r"^embeddings\.position", "pos_embed"),
        (r"^embeddings\.mask_token", "mask_token"),
        (r"^layers\.", "blocks."),
        (r"^neck\.linear1", "feature.0"),
        (r"^neck\.norm1", "feature.1"),
        (r"^neck\.linear2", "feature.2"),
        (r"^neck\.norm2", "feature.3"),
        (r"^patch_weighting\.squeeze", "senet.0"),
        (r"^patch_weighting\.excite", "senet.2"),
    )

    def config(self, tensors: StateDict, origin: str, **settings) -> ViTFaceConfig:
        hidden_size, num_channels, patch_size, _ = shape_of(tensors, "patch_embed.proj.weight", 4, origin)
        has_mask_token = "mask_token" in tensors
        read = {
            "hidden_size": hidden_size,
            "num_channels": num_channels,
            "patch_size": patch_size,
            "intermediate_size": shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, origin)[0],
            "num_hidden_layers": count_units(tensors, r"blocks\.(\d+)\."),
            "embedding_size": shape_of(tensors, "feature.2.weight", 2, origin)[0],
            "patch_weighting": self.patch_weighting,
            "position": self.position,
            "use_mask_token": has_mask_token,
            "mask_ratio": 0.1 if has_mask_token else 0.0,
        }
        config = ViTFaceConfig(**{**read, **settings})
        positions = shape_of(tensors, "pos_embed", 3, origin)[1]
        if config.num_patches != positions:
            raise ValueError(
                f"{origin}: {positions} positions of patches of {patch_size} pixels do not match crops of "
                f"{config.image_size} pixels. Pass `image_size=`."
            )
        return config

    def holds(self, config: FaceConfig) -> bool:
        return (
            config.model_type == self.model_type
            and config.patch_weighting == self.patch_weighting
            and config.position == self.position
        )


class CVLfaceKeypointViT(InsightFaceViT):
    """InsightFace's layout with keypoint relative position encoding."""

    anchor = "keypoint_linear.weight"
    position = "keypoint_relative"
    renames: ClassVar[Renames] = (*InsightFaceViT.renames, (r"^keypoint_bias\.linear", "keypoint_linear"))

    def config(self, tensors: StateDict, origin: str, **settings) -> ViTFaceConfig:
        rows = shape_of(tensors, self.anchor, 2, origin)[0]
        layers = count_units(tensors, r"blocks\.(\d+)\.")
        heads = rows // (BUCKETS**2 * max(layers, 1))
        return super().config(tensors, origin, **{"num_attention_heads": heads, **settings})


class TransFaceViT(InsightFaceViT):
    """InsightFace's layout with squeeze and excitation of patches."""

    anchor = "senet.0.weight"
    patch_weighting = True
