"""Counter-based random numbers, which are the same for any number of ranks."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Hash 32 bits, held in int64 (lowbias32 of C. Wellons, "Prospecting for hash functions")."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def counter_uniform(index: Tensor, step: Tensor, seed: int) -> Tensor:
    """Uniform draws in (0, 1), one for every `index`, that change with `step` and `seed`.

    The output of a generator depends on how many numbers were drawn before, and so on how the work is split over ranks.
    These draws depend only on (index, step, seed), are the same on every device, and never synchronize with the device.

    Args:
        index: int64 tensor of any shape, values below 2^32.
        step: int64 scalar tensor.
        seed: non-negative integer.
    """
    key = _mix((step + _mix(torch.full_like(step, seed) + 1)) & _MASK)
    bits = _mix((_mix(index & _MASK) + key) & _MASK)
    return ((bits >> 8).float() + 0.5) / 2**24


def counter_normal(index: Tensor, step: Tensor, seed: int) -> Tensor:
    """Standard normal draws; otherwise like [`counter_uniform`]."""
    return torch.special.ndtri(counter_uniform(index, step, seed))
