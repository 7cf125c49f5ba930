"""Configuration of GhostFaceNets."""

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig

GHOSTFACENETS = """
@article{ghostfacenets,
  title = {GhostFaceNets: Lightweight Face Recognition Model From Cheap Operations},
  author = {Alansari, Mohamad and Hay, Oussama Abdul and Javed, Sajid and Shoufan, Abdulhadi and Zweiri, Yahya
            and Werghi, Naoufel},
  journal = {IEEE Access},
  year = {2023}
}
"""


@strict
class GhostFaceNetConfig(FaceConfig):
    r"""
    GhostFaceNet v1 (Alansari et al. 2023): GhostNet's bottlenecks with PReLU and a neck that is a global depthwise
    convolution. Half of the channels of a ghost module are a depthwise convolution of the other half. The defaults are
    width 1.3 and stride 2.

    Args:
        stem_size (`int`, *optional*, defaults to 20):
            Number of channels in the stem.
        stem_stride (`int`, *optional*, defaults to 2):
            Stride of the stem.
        hidden_sizes (`list[int]`, *optional*):
            Number of channels after each bottleneck.
        expansion_sizes (`list[int]`, *optional*):
            Number of channels inside each bottleneck.
        squeeze_sizes (`list[int]`, *optional*):
            Number of channels that each bottleneck's channel attention squeezes to; 0 for none.
        kernel_sizes (`list[int]`, *optional*):
            Kernel size of each bottleneck's strided convolution and shortcut.
        strides (`list[int]`, *optional*):
            Stride of each bottleneck.
        head_size (`int`, *optional*, defaults to 664):
            Number of channels of the last feature map.
        head_bias (`bool`, *optional*, defaults to `True`):
            Whether the neck's last convolution has a bias in addition to its batch norm's.
        batch_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of every batch norm.
        fused (`bool`, *optional*, defaults to `False`):
            Whether batch norms are folded into the layers before them; see [`FusableMixin`].
    """

    model_type = "ghostfacenet"
    citations = (GHOSTFACENETS,)

    stem_size: int = 20
    stem_stride: int = 2
    hidden_sizes: list[int] | tuple[int, ...] = (20, *2 * (32,), *2 * (52,), *4 * (104,), *2 * (144,), *5 * (208,))
    expansion_sizes: list[int] | tuple[int, ...] = (
        *(20, 64, 92, 92, 156, 312, 260, 240, 240, 624, 872, 872, 1248, 1248, 1248, 664),
    )
    squeeze_sizes: list[int] | tuple[int, ...] = (0, 0, 0, 24, 40, 0, 0, 0, 0, 156, 220, 220, 0, 312, 0, 168)
    kernel_sizes: list[int] | tuple[int, ...] = (3, 3, 3, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5)
    strides: list[int] | tuple[int, ...] = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
    head_size: int = 664
    head_bias: bool = True
    batch_norm_eps: float = 1e-5
    fused: bool = False

    def __post_init__(self, **kwargs):
        for name in ("hidden_sizes", "expansion_sizes", "squeeze_sizes", "kernel_sizes", "strides"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    @property
    def preprocessing(self):
        """As in [`FaceConfig`], with pixels normalized as `(x - 127.5) / 128`."""
        return {**super().preprocessing, "image_mean": [0.5] * 3, "image_std": [128 / 255] * 3}

    def validate_bottlenecks(self):
        """Raise `ValueError` unless the lists have a value for every bottleneck."""
        lists = (self.hidden_sizes, self.expansion_sizes, self.squeeze_sizes, self.kernel_sizes, self.strides)
        if len({len(values) for values in lists}) > 1:
            raise ValueError(
                "hidden_sizes, expansion_sizes, squeeze_sizes, kernel_sizes and strides must have one value for each "
                f"bottleneck, found {', '.join(str(len(values)) for values in lists)}."
            )


__all__ = ["GhostFaceNetConfig"]
