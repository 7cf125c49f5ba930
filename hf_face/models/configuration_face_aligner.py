"""Configuration of the differentiable face aligner."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_face import StrictConfig

KPRPE = """
@inproceedings{kprpe,
  title = {KeyPoint Relative Position Encoding for Face Recognition},
  author = {Kim, Minchul and Su, Yiyang and Liu, Feng and Jain, Anil and Liu, Xiaoming},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2024}
}
"""


@strict
class FaceAlignerConfig(StrictConfig):
    r"""
    CVLface's differentiable face aligner (Kim et al. 2024, supplementary material): RetinaFace with a quarter of
    MobileNet v1, whose anchors are mixed to a single face. The defaults are those of the published `dfa_mobilenet`.

    Args:
        image_size (`int`, *optional*, defaults to 160):
            Side of the square that images are resized to.
        output_size (`int`, *optional*, defaults to 112):
            Side of the aligned crop.
        num_channels (`int`, *optional*, defaults to 3):
            Color channels of the image.
        stem_size (`int`, *optional*, defaults to 8):
            Number of channels in the stem.
        feature_size (`int`, *optional*, defaults to 64):
            Number of channels in the feature pyramid.
        anchor_sizes (`list[list[int]]`, *optional*):
            Sides of the anchors of each level, in pixels of the resized image.
        mixer_depth (`int`, *optional*, defaults to 3):
            Number of MLP-Mixer blocks that weight the anchors.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of newly initialized weights.
    """

    model_type = "face_aligner"
    citations: ClassVar[tuple[str, ...]] = (KPRPE,)

    image_size: int = 160
    output_size: int = 112
    num_channels: int = 3
    stem_size: int = 8
    feature_size: int = 64
    anchor_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = ((64, 80), (96, 112), (128, 144))
    mixer_depth: int = 3
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.anchor_sizes = [list(sizes) for sizes in self.anchor_sizes]
        super().__post_init__(**kwargs)

    @property
    def preprocessing(self):
        """`FaceImageProcessor` arguments: the model resizes by itself, to keep the image's proportions."""
        return {"do_resize": False}


FaceAlignerConfig.register_for_auto_class()

__all__ = ["FaceAlignerConfig"]
