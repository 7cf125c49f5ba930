"""Configuration of MobileFaceNet."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig

MOBILEFACENET = """
@inproceedings{mobilefacenet,
  title = {MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices},
  author = {Chen, Sheng and Liu, Yang and Gao, Xiang and Han, Zhen},
  booktitle = {Chinese Conference on Biometric Recognition},
  year = {2018}
}
"""


@strict
class MobileFaceNetConfig(FaceConfig):
    r"""
    MobileFaceNet (Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
    Devices", 2018, arXiv:1804.07573, table 1): inverted residuals, then a global depthwise convolution in place of
    pooling. The defaults are the paper's. InsightFace's `mbf` is `embedding_size=512, width=2`, its `mbf_large`
    `embedding_size=512, width=4, depths=(2, 8, 12, 4)`.

    Args:
        embedding_size (`int`, *optional*, defaults to 128):
            Length of the embedding.
        depths (`list[int]`, *optional*, defaults to `(1, 4, 6, 2)`):
            Number of residual units in the stem and in each of the three stages.
        width (`int`, *optional*, defaults to 1):
            Multiplier for the channels between units (64, 64, 128, 128); the channels inside a unit stay the same.
        stem (`"grouped"` or `"separable"`, *optional*, defaults to `"grouped"`):
            Second convolution of the stem: 3 x 3 in 64 groups (the paper; with `depths[0]` above 1, residual units
            instead), or depthwise followed by pointwise, each with a plain ReLU (foamliu/MobileFaceNet).
        hidden_act (`"prelu"` or `"relu6"`, *optional*, defaults to `"prelu"`):
            Activation; PReLU learns one slope per channel.
        projection_bias (`bool`, *optional*, defaults to `False`):
            Whether the last linear layer has a bias in addition to its batch norm's.
        batch_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of every batch norm.
        fused (`bool`, *optional*, defaults to `False`):
            Whether batch norms are folded into the layers before them; see [`FusableMixin`].
    """

    model_type = "mobilefacenet"
    citations = (MOBILEFACENET,)

    embedding_size: int = 128
    depths: list[int] | tuple[int, ...] = (1, 4, 6, 2)
    width: int = 1
    stem: Literal["grouped", "separable"] = "grouped"
    hidden_act: Literal["prelu", "relu6"] = "prelu"
    projection_bias: bool = False
    batch_norm_eps: float = 1e-5
    fused: bool = False

    def __post_init__(self, **kwargs):
        self.depths = list(self.depths)
        super().__post_init__(**kwargs)

    def validate_depths(self):
        """Raise `ValueError` unless the stem and the three stages have a depth."""
        if len(self.depths) != 4 or min(self.depths) < 0 or self.depths[0] < 1:
            raise ValueError(
                "depths must have the stem's number of units (at least 1) and those of three stages, "
                f"found {self.depths}."
            )


__all__ = ["MobileFaceNetConfig"]
