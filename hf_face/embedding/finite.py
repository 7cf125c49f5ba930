"""Refuses NaN and infinity, which metrics would rank first or count as correct."""

import numpy as np
import torch
from torch import Tensor


def check_finite(values: np.ndarray | Tensor, what: str, advice: str = "") -> None:
    """
    Raises:
        ValueError: if an entry of `values` is NaN or infinite; the message names `what` and the first such row.
    """
    row = first_not_finite(values)
    if row is not None:
        found = values[row] if values.ndim == 1 else "not finite"
        raise ValueError(f"the {what} {row} is {found}{advice}")


def first_not_finite(values: np.ndarray | Tensor) -> int | None:
    """The first row of `values` (N, ...) with an entry that is NaN or infinite, or None."""
    finite = values.isfinite() if isinstance(values, Tensor) else torch.from_numpy(np.isfinite(values))
    if finite.all():
        return None
    return int(finite.reshape(len(finite), -1).all(dim=1).int().argmin())
