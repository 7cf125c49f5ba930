"""What the ranks of a training decide together."""

import torch
from accelerate.utils import reduce


def on_any_rank(*flags: torch.Tensor | bool, device: torch.device) -> list[bool]:
    """Whether each of several flags is set on any rank, in one exchange. Must be called on every rank."""
    numbers = torch.stack([torch.as_tensor(flag, device=device).float() for flag in flags])
    return [number > 0 for number in reduce(numbers, "sum").tolist()]
