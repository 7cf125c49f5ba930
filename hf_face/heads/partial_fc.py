"""Partial FC: a softmax over the batch's own classes and a random sample of the others.

An et al., "Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC",
2022. The gradient of the centers is sparse, and [`step_sampled_rows_only`] keeps an optimizer from touching the rest.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .counter_random import counter_uniform
from .margin_softmax import Classes


def sample_classes(labels: Tensor, num_classes: int, rate: float, first: int, step: Tensor, seed: int) -> Tensor:
    """Select the classes of the batch, and each other class with probability `rate`.

    Whether a class is drawn depends only on the class, `step` and `seed`, and so not on the number of ranks.

    Args:
        labels: (B,) positions of the batch's labels in [0, num_classes); others are not available.
        num_classes: number of available classes.
        rate: sampling rate in (0, 1].
        first: the label of class 0, which distinguishes the ranks' classes.
        step: int64 scalar tensor, different in every step.
        seed: seed for the draws.

    Returns:
        Ascending positions (S,).
    """
    index = torch.arange(first, first + num_classes, device=labels.device)
    chosen = counter_uniform(index, step, seed) < rate
    chosen[labels[(labels >= 0) & (labels < num_classes)]] = True
    return chosen.nonzero()[:, 0]


def sampled_classes(weight: Tensor, labels: Tensor, sample: Tensor, rate: float, sub_centers: int) -> Classes:
    """The classes of a `sample` (S,), with a sparse gradient of `weight` that has only the sample's rows.

    A sampled negative represents 1 / rate classes, so log(1 / rate) is added to its logit; the expectation of the sum
    of exponentials is then that of the full softmax. Classes of the batch are always included and represent themselves.
    """
    rows = (sample[:, None] * sub_centers + torch.arange(sub_centers, device=sample.device)).flatten()
    centers = F.embedding(rows, weight, sparse=True)
    if len(sample) == 0:
        return Classes(centers, labels, None, sub_centers)
    position = torch.searchsorted(sample, labels).clamp(max=len(sample) - 1)
    at_hand = sample[position] == labels
    log_weight = torch.full_like(sample, -math.log(rate), dtype=torch.float32)
    log_weight[position[at_hand]] = 0
    return Classes(centers, torch.where(at_hand, position, -1), log_weight, sub_centers)


def step_sampled_rows_only(optimizer: torch.optim.Optimizer) -> None:
    """Restrict `optimizer.step()` to the rows that have a gradient, for every parameter with a sparse gradient.

    During the step, such a parameter, its gradient and its state (momentum, Adam's moments) are replaced by the sampled
    rows, which are written back afterwards. The other rows and their state stay unchanged: no decay of momentum or
    moments, no weight decay. Works with every optimizer that updates each row independently of the others.
    """
    swapped: list[tuple[nn.Parameter, Tensor, Tensor, dict[str, Tensor]]] = []

    def take_rows(optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter.grad is None or not parameter.grad.is_sparse:
                continue
            gradient, full, state = parameter.grad.coalesce(), parameter.data, optimizer.state[parameter]
            rows = gradient.indices()[0]
            full_state = {key: value for key, value in state.items() if _has_rows(value, full)}
            swapped.append((parameter, rows, full, full_state))
            parameter.grad = None
            parameter.data = full[rows]
            parameter.grad = gradient.values()
            state.update({key: value[rows] for key, value in full_state.items()})

    def put_rows_back(optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        while swapped:
            parameter, rows, full, full_state = swapped.pop()
            state = optimizer.state[parameter]
            for key, value in state.items():
                if _has_rows(value, parameter.data):
                    if key not in full_state:
                        full_state[key] = value.new_zeros(full.shape)
                    state[key] = full_state[key].index_copy_(0, rows, value)
            full[rows] = parameter.data
            parameter.grad = None
            parameter.data = full

    optimizer.register_step_pre_hook(take_rows)
    optimizer.register_step_post_hook(put_rows_back)


def _has_rows(value, rows: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == rows.shape
