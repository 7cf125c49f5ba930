"""Configuration of the residual networks of face recognition."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig


@strict
class IResNetConfig(FaceConfig):
    r"""
    The residual network of ArcFace (Deng et al. 2019, section 3.2.2 of arXiv:1801.07698) and its descendants: units
    BN - conv - BN - PReLU - conv - BN, a 3 x 3 stem without pooling, and an embedding neck. The defaults are
    InsightFace's iresnet50; 18, 34, 100 and 200 layers are `depths` (2, 2, 2, 2), (3, 4, 6, 3), (3, 13, 30, 3) and
    (6, 26, 60, 6). AdaFace's `ir_101` is (3, 13, 30, 3) with `shortcut="subsample"` and `embedding_norm="plain"`; its
    `ir_152` and `ir_200` have bottleneck units and hidden sizes (256, 512, 1024, 2048) besides.

    Args:
        depths (`list[int]`, *optional*, defaults to `(3, 4, 14, 3)`):
            Units in each stage.
        hidden_sizes (`list[int]`, *optional*, defaults to `(64, 128, 256, 512)`):
            Channels of each stage.
        stem_size (`int`, *optional*, defaults to 64):
            Channels of the stem.
        stem_kernel_size (`int`, *optional*, defaults to 3):
            Kernel of the stem's convolution; 7 in the pooled networks of Bhatta et al. 2024.
        layer_type (`"basic"` or `"bottleneck"`, *optional*, defaults to `"basic"`):
            Two 3 x 3 convolutions a unit, or 1 x 1, 3 x 3, 1 x 1 with a quarter of the channels in the middle.
        shortcut (`"projection"` or `"subsample"`, *optional*, defaults to `"projection"`):
            How the first unit of a stage halves its shortcut where the number of channels stays the same: by a 1 x 1
            convolution with batch norm (InsightFace) or by taking every other pixel (AdaFace).
        squeeze_excitation (`bool`, *optional*, defaults to `False`):
            Channel attention at the end of each unit (AdaFace's `ir_se`).
        neck (`"flatten"`, `"gap"` or `"gwp"`, *optional*, defaults to `"flatten"`):
            How the last feature map becomes a vector: flattened, global average pooling, or Gaussian-weighted pooling
            (Bhatta et al., "Revisiting Linearization of Spatial Maps", IJCB 2024).
        gwp_sigma (`float`, *optional*, defaults to 3.0):
            Standard deviation of the Gaussian of `neck="gwp"`, in positions of the last feature map.
        embedding_norm (`"bias"`, `"affine"` or `"plain"`, *optional*, defaults to `"bias"`):
            What the batch norm at the very end learns: its bias (InsightFace), weight and bias (MagFace), or nothing
            (AdaFace).
        batch_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of every batch norm; MagFace has 2e-5.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout before the last linear layer; AdaFace and MagFace train with 0.4.
        initializer_range (`float`, *optional*, defaults to 0.1):
            Standard deviation of freshly initialized convolutions.
    """

    model_type = "iresnet"

    depths: list[int] | tuple[int, ...] = (3, 4, 14, 3)
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    stem_size: int = 64
    stem_kernel_size: int = 3
    layer_type: Literal["basic", "bottleneck"] = "basic"
    shortcut: Literal["projection", "subsample"] = "projection"
    squeeze_excitation: bool = False
    neck: Literal["flatten", "gap", "gwp"] = "flatten"
    gwp_sigma: float = 3.0
    embedding_norm: Literal["bias", "affine", "plain"] = "bias"
    batch_norm_eps: float = 1e-5
    dropout: float = 0.0
    initializer_range: float = 0.1

    def __post_init__(self, **kwargs):
        self.depths, self.hidden_sizes = list(self.depths), list(self.hidden_sizes)
        super().__post_init__(**kwargs)

    def validate_stages(self):
        """Raises `ValueError` unless every stage has a depth and a width."""
        if len(self.depths) != len(self.hidden_sizes) or min(self.depths, default=0) < 1:
            raise ValueError(
                "depths and hidden_sizes give one positive number for each stage, "
                f"found {self.depths} and {self.hidden_sizes}."
            )


__all__ = ["IResNetConfig"]
