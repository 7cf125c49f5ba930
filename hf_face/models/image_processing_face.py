"""Image processor for aligned face crops."""

import os
from typing import Literal

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import ChannelDimension, PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack

from .pixels import eight_bits, read_photograph, rgb_pixels, upright, warn_of_photograph


class FaceImageProcessorKwargs(ImagesKwargs, total=False):
    """
    channel_order (`str`, *optional*, defaults to `"rgb"`):
        Channel order the backbone expects, `"rgb"` or `"bgr"`. `image_mean` and `image_std` use this order too.
    """

    channel_order: Literal["rgb", "bgr"]


class FaceImageProcessor(TorchvisionBackend):
    r"""
    Converts aligned face crops to the backbone's `pixel_values` `(batch, 3, height, width)`: resized if necessary,
    scaled to [0, 1], normalized, with channels in the backbone's order. Accepts the same inputs as other transformers
    image processors: PIL images, numpy arrays and tensors (uint8, channels first or last, single or batched), paths
    and URLs. Grayscale images are converted to RGB, transparent areas are white, and Pillow images and files are turned
    as their Exif orientation says and scaled if they have more than 8 bits, exactly as in training.

    The defaults are InsightFace's: 112 x 112, RGB, `(x - 127.5) / 127.5`.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_face import FaceImageProcessor

    >>> crop = np.zeros((112, 112, 3), dtype=np.uint8)
    >>> FaceImageProcessor()(crop, return_tensors="pt").pixel_values.shape
    torch.Size([1, 3, 112, 112])
    ```
    """

    valid_kwargs = FaceImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012

    resample = PILImageResampling.BILINEAR
    size = {"height": 112, "width": 112}  # noqa: RUF012
    image_mean = [0.5, 0.5, 0.5]  # noqa: RUF012
    image_std = [0.5, 0.5, 0.5]  # noqa: RUF012
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    channel_order = "rgb"

    def __init__(self, **kwargs: Unpack[FaceImageProcessorKwargs]):
        super().__init__(**kwargs)  # type: ignore[misc]  # does not know of channel_order
        check_channel_order(self.channel_order)

    def fetch_images(self, image_url_or_urls):
        is_url = str(image_url_or_urls).startswith(("http://", "https://"))
        if isinstance(image_url_or_urls, str) and (is_url or os.path.isfile(image_url_or_urls)):
            return Image.fromarray(read_photograph(image_url_or_urls))
        return super().fetch_images(image_url_or_urls)

    def process_image(self, image, do_convert_rgb: bool | None = None, input_data_format=None, **kwargs):
        if isinstance(image, Image.Image):
            image = rgb_pixels(image) if do_convert_rgb else np.array(upright(image))
            input_data_format = ChannelDimension.LAST
        elif isinstance(image, np.ndarray) and image.dtype.kind in "iub":
            image = eight_bits(image)
        elif isinstance(image, torch.Tensor) and not image.is_floating_point() and image.dtype != torch.uint8:
            image = torch.from_numpy(eight_bits(image.cpu().numpy()))
        return super().process_image(image, do_convert_rgb, input_data_format, **kwargs)

    def _preprocess(self, images, channel_order: str = "rgb", **kwargs):
        check_channel_order(channel_order)
        if channel_order == "bgr":
            images = [image.flip(0) for image in images]
        if kwargs["do_resize"]:
            for image in images:
                height, width = image.shape[-2:]
                warn_of_photograph(height, width, kwargs["size"]["height"])
        return super()._preprocess(images, **kwargs)


def check_channel_order(channel_order: str) -> None:
    """Raise `ValueError` unless the order is `"rgb"` or `"bgr"`."""
    if channel_order not in ("rgb", "bgr"):
        raise ValueError(f"channel_order must be 'rgb' or 'bgr', found {channel_order!r}.")


FaceImageProcessor.register_for_auto_class("AutoImageProcessor")  # save_pretrained copies this file

__all__ = ["FaceImageProcessor"]
