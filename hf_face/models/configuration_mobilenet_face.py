"""Configuration of MobileNet v1 for faces."""

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig

MOBILENET = """
@misc{mobilenet,
  title = {MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications},
  author = {Howard, Andrew G. and Zhu, Menglong and Chen, Bo and Kalenichenko, Dmitry and Wang, Weijun
            and Weyand, Tobias and Andreetto, Marco and Adam, Hartwig},
  year = {2017},
  eprint = {1704.04861},
  archivePrefix = {arXiv}
}
"""

WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


@strict
class MobileNetFaceConfig(FaceConfig):
    r"""
    MobileNet v1 (Howard et al. 2017, arXiv:1704.04861) for faces, as InsightFace trained it in MXNet ("fmobilenet"):
    PReLU, a stem with stride 1, and a neck that flattens the feature map. The defaults are those of SFace in the OpenCV
    zoo (Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", 2021).

    Args:
        embedding_size (`int`, *optional*, defaults to 128):
            Length of the embedding.
        stem_size (`int`, *optional*, defaults to 32):
            Number of channels in the stem.
        hidden_sizes (`list[int]`, *optional*):
            Number of channels of each separable convolution; defaults to the 13 of the paper.
        strides (`list[int]`, *optional*):
            Stride of each separable convolution; four of the default ones halve the feature map.
        batch_norm_eps (`float`, *optional*, defaults to 1e-3):
            Epsilon of the batch norms after convolutions.
        neck_norm_eps (`float`, *optional*, defaults to 2e-5):
            Epsilon of the neck's two batch norms.
        dropout (`float`, *optional*, defaults to 0.4):
            Dropout before the last linear layer.
        fused (`bool`, *optional*, defaults to `False`):
            Whether batch norms are folded into the layers before them; see [`FusableMixin`].
    """

    model_type = "mobilenet_face"
    citations = (MOBILENET,)

    embedding_size: int = 128
    stem_size: int = 32
    hidden_sizes: list[int] | tuple[int, ...] = WIDTHS
    strides: list[int] | tuple[int, ...] = STRIDES
    batch_norm_eps: float = 1e-3
    neck_norm_eps: float = 2e-5
    dropout: float = 0.4
    fused: bool = False

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.strides = list(self.hidden_sizes), list(self.strides)
        super().__post_init__(**kwargs)

    @property
    def preprocessing(self):
        """As in [`FaceConfig`], with pixels normalized as `(x - 127.5) / 128`."""
        return {**super().preprocessing, "image_mean": [0.5] * 3, "image_std": [128 / 255] * 3}

    def validate_layers(self):
        """Raise `ValueError` unless every separable convolution has a width and a stride."""
        if len(self.hidden_sizes) != len(self.strides) or min([*self.hidden_sizes, *self.strides], default=0) < 1:
            raise ValueError(
                "hidden_sizes and strides must have one positive number for each separable convolution, "
                f"found {self.hidden_sizes} and {self.strides}."
            )


__all__ = ["MobileNetFaceConfig"]
