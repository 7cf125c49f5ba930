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
    """Classes of the batch, and each other class with probability `rate`.

    Whether a class is drawn depends on the class, `step` and `seed` only, hence not on the number of ranks.

    Args:
        labels: (B,) positions of the batch's labels in [0, num_classes); others are not at hand.
        num_classes: how many classes are at hand.
        rate: in (0, 1].
        first: the label of class 0, which tells the ranks' classes apart.
        step: int64 scalar tensor, different in every step.
        seed: of the draws.

    Returns:
        Ascending positions (S,).
    """
    index = torch.arange(first, first + num_classes, device=labels.device)
    chosen = counter_uniform(index, step, seed) < rate
    chosen[labels[(labels >= 0) & (labels < num_classes)]] = True
    return chosen.nonzero()[:, 0]


def sampled_classes(weight: nn.Parameter, labels: Tensor, sample: Tensor, rate: float, sub_centers: int) -> Classes:
    """The classes of a `sample` (S,), with a gradient of `weight` that is sparse: rows of the sample only.

    A negative that was drawn stands for 1 / rate of its kind, so log(1 / rate) is added to its logit and the sum of
    exponentials keeps the full softmax's expectation. Classes of the batch are always there and stand for themselves.
    """
    rows = (sample[:, None] * sub_centers + torch.arange(sub_centers, device=sample.device)).flatten()
    centers = F.embedding(rows, weight, sparse=True)
    if len(sample) == 0:
        return Classes(centers, torch.full_like(labels, -1), None, sub_centers)
    position = torch.searchsorted(sample, labels).clamp(max=len(sample) - 1)
    at_hand = sample[position] == labels
    log_weight = torch.full_like(sample, -math.log(rate), dtype=torch.float32)
    log_weight[position[at_hand]] = 0
    return Classes(centers, torch.where(at_hand, position, -1), log_weight, sub_centers)


def step_sampled_rows_only(optimizer: torch.optim.Optimizer) -> None:
    """Makes `optimizer.step()` see, of every parameter with a sparse gradient, only the rows that have one.

    For the length of the step such a parameter, its gradient and its state (momentum, Adam's moments) are the sampled
    rows; then these go back to their places. So the other rows and their state stay as they are: no decay of momentum
    or moments, no weight decay. Works with every optimizer whose update of a row depends on that row alone.
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
