"""The differentiable face aligner: finds the most prominent face of an image and cuts it out."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.models.mlp_mixer import MixerBlock
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad, relu
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_face_aligner import FaceAlignerConfig

STRIDES = (8, 16, 32)  # of the feature pyramid's levels
VARIANCES = (0.1, 0.2)  # of positions and sizes, relative to the anchor's
LANDMARKS = (  # eyes, nose and corners of the mouth in a 112 x 112 crop, in pixels
    (38.29459953, 51.69630051),
    (73.53179932, 51.50139999),
    (56.02519989, 71.73660278),
    (41.54930115, 92.3655014),
    (70.72990036, 92.20410156),
)


@dataclass
class FaceAlignerOutput(ModelOutput):
    """
    The most prominent face of each image. Coordinates are fractions of the image, (0, 0) at its top left corner.

    Args:
        aligned (`torch.Tensor` of shape `(batch, 3, output_size, output_size)`):
            The face, aligned by its landmarks, with the values and channels of the input. -1 outside the image.
        landmarks (`torch.Tensor` of shape `(batch, 5, 2)`):
            Left eye, right eye (as seen in the image), nose, left and right corner of the mouth, as (x, y).
        aligned_landmarks (`torch.Tensor` of shape `(batch, 5, 2)`):
            The same as fractions of the aligned crop.
        score (`torch.Tensor` of shape `(batch, 1)`):
            Probability that it is a face.
        theta (`torch.Tensor` of shape `(batch, 2, 3)`):
            The matrix that maps the crop to the resized image, for `affine_grid` with `align_corners=True`.
        bbox (`torch.Tensor` of shape `(batch, 4)`):
            The face's box, as (left, top, right, bottom).
        prediction (`torch.Tensor` of shape `(batch, 16)`):
            Box, class logits and landmarks in the resized image, from which the others are computed.
        anchor_bbox (`torch.Tensor` of shape `(batch, anchors, 4)`):
            The offset of each anchor's box.
        anchor_probability (`torch.Tensor` of shape `(batch, anchors, 2)`):
            Probabilities that an anchor has no face and that it has one.
        anchor_landmarks (`torch.Tensor` of shape `(batch, anchors, 10)`):
            The offsets of each anchor's landmarks.
    """

    aligned: Tensor | None = None
    landmarks: Tensor | None = None
    aligned_landmarks: Tensor | None = None
    score: Tensor | None = None
    theta: Tensor | None = None
    bbox: Tensor | None = None
    prediction: Tensor | None = None
    anchor_bbox: Tensor | None = None
    anchor_probability: Tensor | None = None
    anchor_landmarks: Tensor | None = None


class ConvLayer(nn.Sequential):
    """Convolution - BN - leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size=1, stride=1, groups=1):
        super().__init__(
            OrderedDict(
                convolution=nn.Conv2d(
                    in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False
                ),
                norm=nn.BatchNorm2d(out_channels),
                activation=nn.LeakyReLU(0.1),
            )
        )


class SeparableConvolution(nn.Sequential):
    """A 3 x 3 depthwise convolution with the stride, then a 1 x 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__(
            OrderedDict(
                depthwise=ConvLayer(in_channels, in_channels, 3, stride, groups=in_channels),
                pointwise=ConvLayer(in_channels, out_channels),
            )
        )


class FaceAlignerBody(nn.Module):
    """MobileNet v1 with the feature maps of strides 8, 16 and 32."""

    def __init__(self, config: FaceAlignerConfig):
        super().__init__()
        width = config.stem_size
        self.stem = ConvLayer(config.num_channels, width, 3, stride=2)
        # (channels relative to the stem's, stride) of each separable convolution
        stages = [
            [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1)],
            [(16, 2)] + 5 * [(16, 1)],
            [(32, 2), (32, 1)],
        ]
        channels = width
        self.stages = nn.ModuleList()
        for stage in stages:
            layers = nn.Sequential()
            for factor, stride in stage:
                layers.append(SeparableConvolution(channels, factor * width, stride))
                channels = factor * width
            self.stages.append(layers)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        levels, hidden_states = [], self.stem(pixel_values)
        for stage in self.stages:
            hidden_states = stage(hidden_states)
            levels.append(hidden_states)
        return levels


class FaceAlignerPyramid(nn.Module):
    """Adds to each level what the coarser ones found, upsampled."""

    def __init__(self, config: FaceAlignerConfig):
        super().__init__()
        width, size = config.stem_size, config.feature_size
        self.lateral = nn.ModuleList(ConvLayer(factor * width, size) for factor in (8, 16, 32))
        self.merge = nn.ModuleList(ConvLayer(size, size, 3) for _ in range(2))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (lateral(level) for lateral, level in zip(self.lateral, levels, strict=True))
        middle = self.merge[1](middle + interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge[0](fine + interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return [fine, middle, coarse]


class FaceAlignerContext(nn.Module):
    """Sees 3 x 3, 5 x 5 and 7 x 7 neighborhoods (the context module of SSH and RetinaFace, in which the last layer of
    each has no leaky ReLU: before the ReLU, it changes nothing)."""

    def __init__(self, config: FaceAlignerConfig):
        super().__init__()
        size, quarter = config.feature_size, config.feature_size // 4
        self.near = ConvLayer(size, size // 2, 3)
        self.shared = ConvLayer(size, quarter, 3)
        self.middle = ConvLayer(quarter, quarter, 3)
        self.far1 = ConvLayer(quarter, quarter, 3)
        self.far2 = ConvLayer(quarter, quarter, 3)

    def forward(self, hidden_states: Tensor) -> Tensor:
        shared = self.shared(hidden_states)
        return relu(torch.cat([self.near(hidden_states), self.middle(shared), self.far2(self.far1(shared))], 1))


class FaceAlignerHead(nn.ModuleList):
    """`size` values for each anchor of each level, `(batch, anchors, size)`."""

    def __init__(self, config: FaceAlignerConfig, size: int):
        super().__init__(nn.Conv2d(config.feature_size, len(sizes) * size, 1) for sizes in config.anchor_sizes)
        self.size = size

    def forward(self, levels: list[Tensor]) -> Tensor:
        maps = [convolution(level) for convolution, level in zip(self, levels, strict=True)]
        return torch.cat([each.permute(0, 2, 3, 1).reshape(len(each), -1, self.size) for each in maps], 1)


class FaceAlignerPreTrainedModel(PreTrainedModel):
    """Handles the initialization and loading of face aligners."""

    config_class = FaceAlignerConfig
    config: FaceAlignerConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # as in transformers
    _keys_to_ignore_on_load_missing = [r"num_batches_tracked$"]  # noqa: RUF012  written since torch 0.4.1 only


class FaceAlignerModel(FaceAlignerPreTrainedModel):
    """
    Finds the most prominent face of each image and cuts it out, aligned by its five landmarks. Differentiable, from the
    crop and the landmarks back to the image.

    Example:
    ```python
    >>> import torch
    >>> from hf_face import FaceAlignerConfig, FaceAlignerModel

    >>> aligner = FaceAlignerModel(FaceAlignerConfig()).eval()
    >>> output = aligner(torch.zeros(1, 3, 200, 150))
    >>> output.aligned.shape, output.landmarks.shape
    (torch.Size([1, 3, 112, 112]), torch.Size([1, 5, 2]))
    ```
    """

    def __init__(self, config: FaceAlignerConfig):
        super().__init__(config)
        self.body = FaceAlignerBody(config)
        self.pyramid = FaceAlignerPyramid(config)
        self.context = nn.ModuleList(FaceAlignerContext(config) for _ in STRIDES)
        self.classify = FaceAlignerHead(config, 2)
        self.locate_box = FaceAlignerHead(config, 4)
        self.locate_landmarks = FaceAlignerHead(config, 10)
        num_anchors = len(anchors(config))
        self.mixer = nn.Sequential(*(MixerBlock(16, num_anchors) for _ in range(config.mixer_depth)))
        self.weight = nn.Linear(16, 1)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor) -> FaceAlignerOutput | tuple[Tensor, ...]:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`):
                RGB images of any size in [-1, 1], from `FaceImageProcessor`.
        """
        config = self.config
        images, origin, scale = self.square(pixel_values.to(self.dtype))
        levels = self.pyramid(self.body(images.flip(1)))  # the detector was trained with BGR
        levels = [context(level) for context, level in zip(self.context, levels, strict=True)]
        boxes, logits, points = self.locate_box(levels), self.classify(levels), self.locate_landmarks(levels)

        prior = anchors(config).to(boxes)
        candidates = torch.cat([decode_boxes(boxes, prior), logits, decode_points(points, prior)], -1)  # (B, A, 16)
        weights = self.weight(self.mixer(candidates)).softmax(1)
        prediction = (weights * candidates).sum(1)  # (B, 16)
        found = prediction[:, 6:].view(-1, 5, 2)

        theta = crop_to_image(found * config.image_size, config.image_size, config.output_size)
        size = [len(images), config.num_channels, config.output_size, config.output_size]
        crops = grid_sample(images + 1, affine_grid(theta, size, align_corners=True), align_corners=True) - 1
        return FaceAlignerOutput(
            aligned=crops,
            landmarks=found * scale - origin,
            aligned_landmarks=image_to_crop(found, theta),
            score=prediction[:, 4:6].softmax(1)[:, 1:],
            theta=theta,
            bbox=(prediction[:, :4].view(-1, 2, 2) * scale - origin).flatten(1),
            prediction=prediction,
            anchor_bbox=boxes,
            anchor_probability=logits.softmax(-1),
            anchor_landmarks=points,
        )

    def square(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Pad images to a square with black and resize them. Also returns the `origin` and the `scale` that turn fractions
        of the square to those of the image: `fraction * scale - origin`.
        """
        height, width = images.shape[2:]
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        images = pad(images, (left, side - width - left, top, side - height - top), value=-1.0)
        images = interpolate(images, size=2 * (self.config.image_size,), mode="bilinear", align_corners=True)
        return images, images.new_tensor([left / width, top / height]), images.new_tensor([side / width, side / height])

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor | np.ndarray]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """
        Find the face of each image.

        Args:
            images (`list`): RGB photographs, uint8: tensors `(3, height, width)` or arrays `(height, width, 3)`.

        Returns:
            `list[tuple]`: For each image, `boxes` (1, 4), `landmarks` (1, 5, 2) and `scores` (1,), in pixels.
        """
        found = []
        for image in images:
            if not isinstance(image, Tensor):
                image = torch.from_numpy(image).permute(2, 0, 1)
            output = self((image[None].to(self.device, self.dtype) - 127.5) / 127.5)
            size = output.bbox.new_tensor([image.shape[2], image.shape[1]])
            found.append((output.bbox * size.repeat(2), output.landmarks * size, output.score.flatten()))
        return found


def anchors(config: FaceAlignerConfig) -> Tensor:
    """Centers and sides `(anchors, 3)` of all anchors as fractions of the image: level by level, row by row."""
    found = []
    for stride, sizes in zip(STRIDES, config.anchor_sizes, strict=True):
        centers = torch.arange(0, config.image_size, stride) + stride / 2
        y, x, side = torch.meshgrid(centers, centers, torch.tensor(sizes, dtype=torch.float32), indexing="ij")
        found.append(torch.stack([x, y, side], -1).view(-1, 3))
    return torch.cat(found) / config.image_size


def decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Corners `(batch, anchors, 4)` of boxes from their offsets to the anchors (SSD)."""
    centers = anchors[:, :2] + offsets[..., :2] * VARIANCES[0] * anchors[:, 2:]
    half = anchors[:, 2:] * (offsets[..., 2:] * VARIANCES[1]).exp() / 2
    return torch.cat([centers - half, centers + half], -1)


def decode_points(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Landmarks `(batch, anchors, 10)` from their offsets to the anchors."""
    points = offsets.view(*offsets.shape[:2], 5, 2) * VARIANCES[0] * anchors[:, None, 2:] + anchors[:, None, :2]
    return points.flatten(2)


def crop_to_image(landmarks: Tensor, image_size: int, output_size: int) -> Tensor:
    """
    The matrices `(batch, 2, 3)` that map an aligned crop to its image, both from -1 to 1: the inverse of the
    least-squares similarity (Umeyama 1991) from `landmarks` in pixels to those of an aligned crop.
    """
    target = torch.view_as_complex(landmarks.new_tensor(LANDMARKS, dtype=torch.float64)) * (output_size / 112)
    source = torch.view_as_complex(landmarks.double())  # (B, 5); with complex numbers, a similarity is a line
    source_mean = source.mean(1, keepdim=True)
    centered = source - source_mean  # the target need not be centered too
    slope = centered.abs().square().sum(1) / (centered.conj() * target).sum(1)  # from crop to image
    shift = source_mean[:, 0] - slope * target.mean()
    # Half a side is 1, and the center 0: pixels are `(x + 1) * size / 2`.
    linear = slope * (output_size / image_size)
    shift = linear * (1 + 1j) + shift * (2 / image_size) - (1 + 1j)
    rows = [linear.real, -linear.imag, shift.real, linear.imag, linear.real, shift.imag]
    return torch.stack(rows, 1).view(-1, 2, 3).to(landmarks.dtype)


def image_to_crop(points: Tensor, theta: Tensor) -> Tensor:
    """Map points `(batch, points, 2)` of images to their crops, both as fractions."""
    inverse = torch.linalg.inv(theta[:, :, :2].double()).to(points.dtype)
    return ((points * 2 - 1 - theta[:, None, :, 2]) @ inverse.mT + 1) / 2


FaceAlignerModel.register_for_auto_class("AutoModel")

__all__ = ["FaceAlignerModel", "FaceAlignerOutput", "FaceAlignerPreTrainedModel"]
