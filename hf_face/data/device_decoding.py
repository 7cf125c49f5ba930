"""JPEG decoding on the GPU, for machines whose processors cannot decode as fast as their GPUs train."""

from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import interpolate
from transformers.utils import logging

from ..models.pixels import warn_of_photograph
from .collator import FaceCollator
from .encoded_jpegs import EncodedJpegs
from .loading import EncodedRows

logger = logging.get_logger(__name__)


def decode_jpegs(encoded: EncodedJpegs, image_size: int, device: torch.device | str) -> Tensor:
    """
    Decode a batch with torchvision, on GPUs with NVIDIA's nvJPEG, whose pixels differ from those of libjpeg-turbo by a
    few levels.

    Args:
        encoded (`EncodedJpegs`): The B files.
        image_size (`int`): Height and width of the output. Images of other sizes are resized (antialiased bilinear).
        device (`torch.device` or `str`): Where to decode, and where the output is.

    Returns:
        `torch.Tensor`: RGB, uint8 (B, 3, image_size, image_size).

    Raises:
        RuntimeError: if an image cannot be decoded; it is not known which.
    """
    images = torchvision.io.decode_jpeg(list(encoded.files()), torchvision.io.ImageReadMode.RGB, device)
    return torch.stack([_resized(image, image_size) for image in images])


def _resized(image: Tensor, image_size: int) -> Tensor:
    height, width = image.shape[1:]
    if height == width == image_size:
        return image
    warn_of_photograph(height, width, image_size)
    return interpolate(image[None].float(), (image_size, image_size), mode="bilinear", antialias=True)[0].round().byte()


class DeviceDecoder:
    """
    Decodes the batches that a [`FaceCollator`] with `keep_jpeg=True` left encoded. Those that the device cannot decode
    are left to the collator, whose errors name the image.

    Args:
        collator ([`FaceCollator`]): The collator of the batches.
        device (`torch.device`): Where the batches are used.
    """

    def __init__(self, collator: FaceCollator, device: torch.device):
        self.collator, self.device = collator, device

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Replace `jpegs` with `pixel_values`, uint8 (B, 3, image_size, image_size); other batches are not changed."""
        batch = dict(batch)
        jpegs = batch.pop("jpegs", None)
        if jpegs is None:
            return batch
        try:
            return batch | {"pixel_values": decode_jpegs(jpegs, self.collator.image_size, self.device)}
        except RuntimeError as error:
            logger.warning_once(f"A batch is decoded by the CPU, as others may be: {str(error).splitlines()[0]}")
            return batch | self._decode_on_cpu(jpegs, batch)

    def _decode_on_cpu(self, jpegs: EncodedJpegs, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images = [file.numpy().tobytes() for file in jpegs.files()]
        labels = batch["labels"].cpu().numpy()
        rows = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
        encoded = EncodedRows.from_rows(rows)
        if "rows" in batch:  # which errors are to name
            numbers = batch["rows"].tolist()
            encoded = EncodedRows(images, labels, dict(zip(numbers, rows, strict=True)), numbers)
        return {name: value.to(self.device) for name, value in self.collator.decode(encoded).items()}
