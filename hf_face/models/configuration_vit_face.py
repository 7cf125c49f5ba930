"""Configuration of InsightFace's and TransFace's vision transformers."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig

VIT = """
@inproceedings{vit,
  title = {An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale},
  author = {Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua
            and Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg
            and Gelly, Sylvain and Uszkoreit, Jakob and Houlsby, Neil},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}
"""

TRANSFACE = """
@inproceedings{transface,
  title = {TransFace: Calibrating Transformer Training for Face Recognition from a Data-Centric Perspective},
  author = {Dan, Jun and Liu, Yang and Xie, Haoyu and Deng, Jiankang
            and Xie, Haoran and Xie, Xuansong and Sun, Baigui},
  booktitle = {International Conference on Computer Vision},
  year = {2023}
}
"""

LVFACE = """
@inproceedings{lvface,
  title = {LVFace: Progressive Cluster Optimization for Large Vision Models in Face Recognition},
  author = {You, Jinghan and Li, Shanglin and Sun, Yuanrui and Wei, Jiangchuan and Guo, Mingyu and Feng, Chao
            and Ran, Jiao},
  booktitle = {International Conference on Computer Vision},
  year = {2025}
}
"""


@strict
class ViTFaceConfig(FaceConfig):
    r"""
    The vision transformer of InsightFace's arcface_torch: no class token, ReLU6 in the MLP, and all patch tokens
    flattened into a neck of two linear layers with batch norm. The defaults are its `vit_s`; `vit_t` has hidden size
    256, `vit_b` 24 layers of 512, `vit_l` 24 of 768, all with 8 heads. With `patch_weighting` it is TransFace's model
    (Dan et al., ICCV 2023), which weights patches by squeeze and excitation.

    Args:
        patch_size (`int`, *optional*, defaults to 9):
            Side of a patch, in pixels; leftover pixels at the right and bottom of the crop are ignored.
        hidden_size (`int`, *optional*, defaults to 512):
            Size of a token.
        intermediate_size (`int`, *optional*, defaults to 2048):
            Width of the MLP.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Number of attention heads per layer.
        patch_weighting (`bool`, *optional*, defaults to `False`):
            Whether to weight the patches before the neck, as TransFace does.
        position (`"absolute"` or `"keypoint_relative"`, *optional*, defaults to `"absolute"`):
            What the model knows of a patch besides its place in the crop: nothing, or its distances to five landmarks
            (KP-RPE, Kim et al., CVPR 2024), which `forward` then takes as `keypoints`.
        use_mask_token (`bool`, *optional*, defaults to `True`):
            Whether to learn a token that replaces masked patches.
        mask_ratio (`float`, *optional*, defaults to 0.1):
            Fraction of the patches to mask at random, in training only.
        drop_path_rate (`float`, *optional*, defaults to 0.1):
            Stochastic depth rate of the last layer, increasing linearly from 0 at the first.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer norms.
        batch_norm_eps (`float`, *optional*, defaults to 2e-5):
            Epsilon of the neck's batch norms.
        fused (`bool`, *optional*, defaults to `False`):
            Whether batch norms are folded into the layers before them; see [`FusableMixin`].
    """

    model_type = "vit_face"
    citations = (VIT,)

    patch_size: int = 9
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    patch_weighting: bool = False
    position: Literal["absolute", "keypoint_relative"] = "absolute"
    use_mask_token: bool = True
    mask_ratio: float = 0.1
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-5
    batch_norm_eps: float = 2e-5
    fused: bool = False

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def validate_transformer(self):
        """Raise `ValueError` if the hidden size is not divisible by the number of heads, a patch is larger than the
        crop, or masking is enabled without a mask token."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )
        if self.num_patches == 0:
            raise ValueError(f"patch_size {self.patch_size} is larger than image_size {self.image_size}.")
        if self.mask_ratio > 0 and self.position == "keypoint_relative":
            raise ValueError(f"mask_ratio {self.mask_ratio} does not work with keypoints. Set mask_ratio=0.0.")
        if self.mask_ratio > 0 and not self.use_mask_token:
            raise ValueError(f"mask_ratio {self.mask_ratio} requires use_mask_token=True; set it, or mask_ratio=0.0.")


__all__ = ["ViTFaceConfig"]
