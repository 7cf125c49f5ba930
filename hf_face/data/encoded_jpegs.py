"""Batches of JPEG images that are left encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .decode import is_upright_jpeg

START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"


@dataclass
class EncodedJpegs:
    """
    Complete JPEG files of a batch. Neither pinned nor moved to a device, as tensors would be: the decoder reads them
    where they are.

    Attributes:
        data (`bytearray`): The files, one after another.
        sizes (`list[int]`): The bytes of each.
    """

    data: bytearray
    sizes: list[int]

    @classmethod
    def from_images(cls, images: Sequence[Any]) -> "EncodedJpegs | None":
        """Join the images of a batch; None unless all are JPEG files that need only be decoded."""
        if not all(isinstance(image, bytes | memoryview) and is_complete_jpeg(image) for image in images):
            return None
        return cls(bytearray().join(images), [len(image) for image in images])

    def files(self) -> tuple[Tensor, ...]:
        """The files as uint8 tensors on the CPU, which share the memory of `data`."""
        return torch.frombuffer(self.data, dtype=torch.uint8).split(self.sizes)


def is_complete_jpeg(data: bytes | memoryview) -> bool:
    """Whether this is a JPEG file that states no orientation and is not cut off."""
    return bytes(data[:2]) == START_OF_IMAGE and bytes(data[-2:]) == END_OF_IMAGE and is_upright_jpeg(data)
