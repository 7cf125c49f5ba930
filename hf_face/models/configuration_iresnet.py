"""Configuration of the residual networks used in face recognition."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig

RESNET = """
@inproceedings{resnet,
  title = {Deep Residual Learning for Image Recognition},
  author = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2016}
}
"""

ARCFACE = """
@inproceedings{arcface,
  title = {ArcFace: Additive Angular Margin Loss for Deep Face Recognition},
  author = {Deng, Jiankang and Guo, Jia and Xue, Niannan and Zafeiriou, Stefanos},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}
"""


@strict
class IResNetConfig(FaceConfig):
    r"""
    The residual network of ArcFace (Deng et al. 2019, section 3.2.2 of arXiv:1801.07698) and its descendants: units
    BN - conv - BN - PReLU - conv - BN, a 3 x 3 stem without pooling, and an embedding neck. The defaults are
    InsightFace's iresnet50; for 18, 34, 100 and 200 layers, `depths` is (2, 2, 2, 2), (3, 4, 6, 3), (3, 13, 30, 3) and
    (6, 26, 60, 6). AdaFace's `ir_101` is (3, 13, 30, 3) with `shortcut="subsample"` and `embedding_norm="plain"`; its
    `ir_152` and `ir_200` also have bottleneck units and hidden sizes (256, 512, 1024, 2048).

    Args:
        depths (`list[int]`, *optional*, defaults to `(3, 4, 14, 3)`):
            Number of units in each stage.
        hidden_sizes (`list[int]`, *optional*, defaults to `(64, 128, 256, 512)`):
            Number of channels in each stage.
        stem_size (`int`, *optional*, defaults to 64):
            Number of channels in the stem.
        stem_kernel_size (`int`, *optional*, defaults to 3):
            Kernel size of the stem's convolution; 7 in the pooled networks of Bhatta et al. 2024.
        layer_type (`"basic"` or `"bottleneck"`, *optional*, defaults to `"basic"`):
            Two 3 x 3 convolutions per unit, or 1 x 1, 3 x 3, 1 x 1 with a quarter of the channels in the middle.
        shortcut (`"projection"` or `"subsample"`, *optional*, defaults to `"projection"`):
            How the first unit of a stage halves its shortcut when the number of channels stays the same: by a 1 x 1
            convolution with batch norm (InsightFace) or by taking every other pixel (AdaFace).
        squeeze_excitation (`bool`, *optional*, defaults to `False`):
            Channel attention at the end of each unit (AdaFace's `ir_se`).
        neck (`"flatten"`, `"gap"` or `"gwp"`, *optional*, defaults to `"flatten"`):
            How the last feature map becomes a vector: flattening, global average pooling, or Gaussian-weighted pooling
            (Bhatta et al., "Revisiting Linearization of Spatial Maps", IJCB 2024).
        gwp_sigma (`float`, *optional*, defaults to 3.0):
            Standard deviation of the Gaussian for `neck="gwp"`, in positions of the last feature map.
        embedding_norm (`"bias"`, `"affine"` or `"plain"`, *optional*, defaults to `"bias"`):
            What the final batch norm learns: its bias (InsightFace), weight and bias (MagFace), or nothing (AdaFace).
        batch_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of every batch norm; MagFace uses 2e-5.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout before the last linear layer; AdaFace and MagFace train with 0.4.
        initializer_range (`float`, *optional*, defaults to 0.1):
            Standard deviation of newly initialized convolutions.
        fused (`bool`, *optional*, defaults to `False`):
            Whether batch norms are folded into the layers before them; see [`FusableMixin`].
    """

    model_type = "iresnet"
    citations = (RESNET, ARCFACE)

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
    fused: bool = False

    def __post_init__(self, **kwargs):
        self.depths, self.hidden_sizes = list(self.depths), list(self.hidden_sizes)
        super().__post_init__(**kwargs)

    def validate_stages(self):
        """Raise `ValueError` unless every stage has a depth and a width."""
        if len(self.depths) != len(self.hidden_sizes) or min(self.depths, default=0) < 1:
            raise ValueError(
                "depths and hidden_sizes must have one positive number for each stage, "
                f"found {self.depths} and {self.hidden_sizes}."
            )


__all__ = ["IResNetConfig"]
