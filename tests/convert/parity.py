"""How the tests compare a converted network with its own project's."""

import numpy as np
import torch


def difference(found: np.ndarray | torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value expected."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def raw_embedding(model, batch: torch.Tensor) -> np.ndarray:
    output = model(batch)
    return (output.pooler_output * output.norm).numpy()
