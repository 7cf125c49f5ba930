"""
Optimizers under an engine (FSDP or DeepSpeed). Their state is saved as without one: whole, by the weights' numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .class_centers import ClassCenters
from .engine_weights import distribute, gather, is_partitioned, own_part_of

State = dict[str, Any]


def whole_optimizer_state(optimizer: Any, keep: bool = True) -> State:
    """
    The state dict of an optimizer with the whole state of each weight, but without that of class centers that are split
    by `shard_head`. Must be called on every rank.

    Args:
        keep: Whether to return the weights' state on this rank, or to only take part in gathering it.
    """
    if isinstance(optimizer, ZeroOptimizer):
        return optimizer.whole_state_dict(keep)
    saved = optimizer.state_dict()
    return {**saved, "state": {i: _gather_all(state, keep) for i, state in saved["state"].items()}}


def load_optimizer_state(optimizer: Any, saved: State) -> None:
    """Load a whole state, of which each rank takes its parts."""
    if isinstance(optimizer, ZeroOptimizer):
        optimizer.load_whole_state_dict(saved)
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for i, state in saved["state"].items():
        if isinstance(weights[i], DTensor):
            for name in _names_of_parts(state, weights[i]):
                state[name] = distribute(state[name], weights[i])
    optimizer.load_state_dict(saved)


class ZeroOptimizer(DeepSpeedOptimizerWrapper):
    """
    DeepSpeed's optimizer and, if DeepSpeed must leave the class centers alone, theirs: with one schedule, one norm to
    clip gradients with, and one state.

    Args:
        zero: DeepSpeed's optimizer.
        weights (`list[list[nn.Parameter]]`): The weights of its parameter groups.
        class_centers ([`ClassCenters`]): The class centers.
        max_norm (`float`): The norm that DeepSpeed clips to; 0 if it does not clip.
    """

    def __init__(self, zero: Any, weights: list[list[nn.Parameter]], class_centers: ClassCenters, max_norm: float):
        super().__init__(zero)
        self.zero, self.class_centers, self.max_norm = zero, class_centers, max_norm
        self.own = class_centers.own_optimizer
        self._weights = [weight for group in weights for weight in group]
        self._lengths = [len(group) for group in weights]
        if self.own is not None:
            self._lengths += [len(group["params"]) for group in self.own.param_groups]
            _include_norm(zero, class_centers.grad_norm)

    @property
    def param_groups(self) -> list[State]:  # type: ignore[override]
        return self.zero.param_groups + ([] if self.own is None else self.own.param_groups)

    def step(self) -> None:
        """Update the class centers. DeepSpeed has already updated the other weights, in the backward pass."""
        if self.own is not None:
            if not self.step_was_skipped:
                if self.max_norm > 0:
                    self.class_centers.scale_grad(self.max_norm, torch.as_tensor(self.zero._global_grad_norm))
                self.own.step()
            self.own.zero_grad()
        self.zero.overflow = False  # with which Trainer would hold back the schedule

    def whole_state_dict(self, keep: bool) -> State:
        """See [`whole_optimizer_state`]."""
        self._link_state()
        state = {i: self._gather_state(weight, keep) for i, weight in enumerate(self._weights)}
        if self.own is not None:
            state |= {len(self._weights) + i: each for i, each in self.own.state_dict()["state"].items()}
        groups, start = [], 0
        for group, length in zip(self.param_groups, self._lengths, strict=True):
            groups.append({**group, "params": list(range(start, start + length))})
            start += length
        return {"state": {i: each for i, each in state.items() if each}, "param_groups": groups}

    def load_whole_state_dict(self, saved: State) -> None:
        """See [`load_optimizer_state`]."""
        for group, settings in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update({name: value for name, value in settings.items() if name != "params"})
        number = len(self._weights)
        first = min((i for i in saved["state"] if i < number), default=None)
        if first is not None:
            names = _names_of_parts(saved["state"][first], self._weights[first])
            self._start_state(saved["state"][first], names)
            self._link_state()
            for i, weight in enumerate(self._weights):
                for name in names if i in saved["state"] else ():
                    _set_part(weight, saved["state"][i][name], name)
        if self.own is not None:
            state = {i - number: each for i, each in saved["state"].items() if i >= number}
            self.own.load_state_dict({**self.own.state_dict(), "state": state})

    @property
    def _partitions(self) -> list[Tensor]:
        """What the inner optimizer updates: this rank's part of each group of weights."""
        partitions = getattr(self.zero, "single_partition_of_fp32_groups", None)  # ZeRO-1 and 2
        return self.zero.fp32_partitioned_groups_flat if partitions is None else partitions

    def _gather_state(self, weight: nn.Parameter, keep: bool) -> State:
        from deepspeed.utils import safe_get_full_optimizer_state

        partition = self._partitions[0]
        state = self.zero.optimizer.state.get(partition, {})
        whole = {}
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == partition.shape:
                whole[name] = gather(safe_get_full_optimizer_state(weight, name))
            elif isinstance(value, Tensor | int | float):
                whole[name] = gather(torch.as_tensor(value, dtype=torch.float32))
        return whole if keep else {}

    def _start_state(self, example: State, names: list[str]) -> None:
        """Create the state as a first step would, with the numbers in an example and zeros for the weights."""
        inner = self.zero.optimizer
        for partition in self._partitions:
            inner.state[partition] = {
                name: torch.zeros_like(partition) if name in names else _as_number(value, inner, partition)
                for name, value in example.items()
            }

    def _link_state(self) -> None:
        """Let ZeRO-1 and 2 find each weight's state: they look for it when only their first group has some."""
        if hasattr(self.zero, "single_partition_of_fp32_groups"):
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()


def _include_norm(zero: Any, norm: Callable[[], Tensor]) -> None:
    """Make DeepSpeed clip with the norm of all gradients, including those that it does not have."""
    from deepspeed.runtime.utils import combine_grad_norm_groups

    if hasattr(zero, "scaled_global_norm"):  # ZeRO-1 and 2
        of_backbone = zero.scaled_global_norm
        zero.scaled_global_norm = lambda: combine_grad_norm_groups([of_backbone(), norm()])
    else:
        of_groups = zero._get_norm_groups
        zero._get_norm_groups = lambda: [*of_groups(), norm()]


def _set_part(weight: nn.Parameter, whole: Tensor, name: str) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if is_partitioned(weight):
        safe_set_local_optimizer_state(weight, own_part_of(whole, weight), name)
    else:
        safe_set_full_optimizer_state(weight, whole, name)


def _as_number(value: Any, optimizer: torch.optim.Optimizer, partition: Tensor) -> Any:
    """The count of steps as an optimizer keeps it."""
    if not type(optimizer).__module__.startswith("torch."):  # DeepSpeed's own, on the CPU
        return int(value)
    group = optimizer.param_groups[0]
    on_device = group.get("fused") or group.get("capturable")
    return torch.as_tensor(value, dtype=torch.float32, device=partition.device if on_device else "cpu").clone()


def _names_of_parts(state: State, weight: Any) -> list[str]:
    """Which of a weight's state has an element for each of the weight's."""
    shape = getattr(weight, "ds_shape", weight.shape)
    return [name for name, value in state.items() if isinstance(value, Tensor) and value.shape == shape]


def _gather_all(state: State, keep: bool) -> State:
    whole = {name: gather(value) if isinstance(value, Tensor) else value for name, value in state.items()}
    return whole if keep else {}
