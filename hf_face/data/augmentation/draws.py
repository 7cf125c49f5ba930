"""Random draws for augmentation, and operations on the selected images.

Everything is drawn on the CPU, a few numbers per image, so that the images to operate on are known without waiting for
the device, and a seed produces the same augmentation on every device. Copies of the numbers do not wait for it either.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor


def uniform(
    *shape: int, low: Tensor | float = 0.0, high: Tensor | float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform draws between `low` and `high`."""
    device = generator.device if generator is not None else "cpu"
    return low + (high - low) * torch.rand(shape, generator=generator, device=device).cpu()


def integers(*shape: int, low: int = 0, high: int, generator: Generator | None = None) -> Tensor:
    """Uniform integers from `low` to `high`, `high` excluded."""
    device = generator.device if generator is not None else "cpu"
    return torch.randint(low, high, shape, generator=generator, device=device).cpu()


def beside(images: Tensor, values: Tensor) -> Tensor:
    """Values of the CPU on the device of the images, for which the device does not have to finish its work first."""
    # CUDA takes what it copies from unpinned memory before it returns; MPS reads it later, when it may have changed.
    return values.to(images.device, non_blocking=images.device.type != "mps")


def apply_where(chosen: Tensor, images: Tensor, operation: Callable[..., Tensor], *parameters: Tensor):
    """Apply an operation in place to some images of a batch.

    Args:
        chosen: bool (B,), on the CPU.
        images: (B, 3, H, W), on any device; modified in place.
        operation: Takes the chosen images and their parameters.
        parameters: Each (B, ...), on the CPU.
    """
    rows = chosen.nonzero().squeeze(1)
    if len(rows):
        places = beside(images, rows)
        images[places] = operation(images.index_select(0, places), *(parameter[rows] for parameter in parameters))
