"""Configuration of the Inception-ResNet v1 of FaceNet's reimplementations."""

from huggingface_hub.dataclasses import strict

from .configuration_face import FaceConfig

INCEPTION_RESNET = """
@inproceedings{inception_resnet,
  title = {Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning},
  author = {Szegedy, Christian and Ioffe, Sergey and Vanhoucke, Vincent and Alemi, Alexander A.},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2017}
}
"""

FACENET = """
@inproceedings{facenet,
  title = {FaceNet: A Unified Embedding for Face Recognition and Clustering},
  author = {Schroff, Florian and Kalenichenko, Dmitry and Philbin, James},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2015}
}
"""


@strict
class InceptionResNetConfig(FaceConfig):
    r"""
    Inception-ResNet v1 (Szegedy et al. 2017, arXiv:1602.07261, section 3.2) with a linear layer for the embedding, as
    in davidsandberg/facenet and timesler/facenet-pytorch. Not trained on five-point crops, but on detected boxes with a
    margin, resized to 160 pixels.

    Args:
        image_size (`int`, *optional*, defaults to 160):
            Side of the crop, in pixels. The network pools globally and accepts any size from 75.
        depths (`list[int]`, *optional*, defaults to `(5, 10, 5)`):
            Number of Inception-ResNet A, B and C blocks. Another C block without activation follows the last ones.
        residual_scales (`list[float]`, *optional*, defaults to `(0.17, 0.1, 0.2)`):
            Factor of the residual branch in A, B and C blocks.
        batch_norm_eps (`float`, *optional*, defaults to 1e-3):
            Epsilon of every batch norm.
        dropout (`float`, *optional*, defaults to 0.6):
            Dropout before the last linear layer.
        fused (`bool`, *optional*, defaults to `False`):
            Whether batch norms are folded into the layers before them; see [`FusableMixin`].
    """

    model_type = "inception_resnet"
    citations = (INCEPTION_RESNET, FACENET)

    image_size: int = 160
    depths: list[int] | tuple[int, ...] = (5, 10, 5)
    residual_scales: list[float] | tuple[float, ...] = (0.17, 0.1, 0.2)
    batch_norm_eps: float = 1e-3
    dropout: float = 0.6
    fused: bool = False

    def __post_init__(self, **kwargs):
        self.depths, self.residual_scales = list(self.depths), list(self.residual_scales)
        super().__post_init__(**kwargs)

    @property
    def preprocessing(self):
        """As in [`FaceConfig`], with pixels standardized as `(x - 127.5) / 128`."""
        return {**super().preprocessing, "image_mean": [0.5] * 3, "image_std": [128 / 255] * 3}

    def validate_stages(self):
        """Raise `ValueError` unless there are three depths and three scales."""
        if len(self.depths) != 3 or min(self.depths) < 1 or len(self.residual_scales) != 3:
            raise ValueError(
                "depths and residual_scales must have a value for the A, B and C blocks, "
                f"found {self.depths} and {self.residual_scales}."
            )


__all__ = ["InceptionResNetConfig"]
