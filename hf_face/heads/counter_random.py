"""Random numbers that depend on a counter alone, so that any number of ranks draws the same ones."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Scatters 32 bits, held in int64 (lowbias32 of C. Wellons, "Prospecting for hash functions")."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def counter_uniform(index: Tensor, step: Tensor, seed: int = 0) -> Tensor:
    """Uniform draws in (0, 1), one for every `index`, that change with `step` and `seed`.

    A generator's stream depends on how many numbers were taken from it, hence on how the work is split over ranks.
    These draws depend on (index, step, seed) only, are the same on every device, and never wait for the device.

    Args:
        index: int64 tensor of any shape, values below 2^32.
        step: int64 scalar tensor.
        seed: non-negative integer.
    """
    key = _mix((step + _mix(torch.full_like(step, seed) + 1)) & _MASK)
    bits = _mix((_mix(index & _MASK) + key) & _MASK)
    return ((bits >> 8).float() + 0.5) / 2**24


def counter_normal(index: Tensor, step: Tensor, seed: int = 0) -> Tensor:
    """Standard normal draws, otherwise as [`counter_uniform`]."""
    return torch.special.ndtri(counter_uniform(index, step, seed))
