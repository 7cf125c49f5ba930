"""What the ranks of a training decide together."""

import torch
from accelerate.utils import reduce
from torch import Tensor


def on_any_rank(*flags: Tensor | bool, device: torch.device) -> Tensor:
    """Whether each of several flags is set on any rank, in one exchange. Must be called on every rank."""
    numbers = [flag if isinstance(flag, Tensor) else torch.full((), flag, device=device) for flag in flags]
    return reduce(torch.stack(numbers).float(), "sum") > 0


class Underway:
    """Values of the device on their way to the host, which does not wait for them yet."""

    def __init__(self, values: Tensor):
        self._values = values.to("cpu", non_blocking=values.is_cuda)
        self._copied = torch.cuda.Event() if values.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def tolist(self) -> list:
        """The values, when they have been computed and copied."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()
