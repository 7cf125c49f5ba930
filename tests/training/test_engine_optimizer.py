"""Optimizers under an engine: their state is that of one without. A stand-in for DeepSpeed shows it in one process."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_face.training.engine_optimizer import (
    ZeroOptimizer,
    _as_number,
    _names_of_parts,
    load_optimizer_state,
    whole_optimizer_state,
)

SHAPES = ((3, 2), (4,), (2, 5), (1,))  # two weights of the backbone, and two of the class centers


class Zero:
    """What is used of DeepSpeed's optimizer: one of its own for a flat copy of each group's weights."""

    overflow = False

    def __init__(self, groups: list[list[nn.Parameter]], by_stage_2: bool):
        self.flat = [nn.Parameter(torch.cat([weight.detach().flatten() for weight in group])) for group in groups]
        self.optimizer = torch.optim.AdamW([{"params": [flat], "lr": 0.1} for flat in self.flat])
        self.param_groups = self.optimizer.param_groups
        self.places = {}
        for group, flat in zip(groups, self.flat, strict=True):
            ends = torch.tensor([0, *(weight.numel() for weight in group)]).cumsum(0).tolist()
            self.places |= {weight: (flat, slice(*ends[i : i + 2])) for i, weight in enumerate(group)}
        self.linked = not by_stage_2
        self._hp_optimizer_states_linked = True  # as when the first group alone has a state
        if by_stage_2:
            self.single_partition_of_fp32_groups = self.flat
        else:
            self.fp32_partitioned_groups_flat = self.flat

    def _lazy_init_hp_params_optimizer_state(self):
        self.linked |= not self._hp_optimizer_states_linked

    def part(self, weight: nn.Parameter, name: str) -> torch.Tensor:
        assert self.linked
        flat, place = self.places[weight]
        return self.optimizer.state[flat][name][place].view(weight.shape)


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = parameter.detach().cos()
    optimizer.step()


@pytest.fixture
def make(monkeypatch):
    """`make(weights, grouping, by_stage_2, with_centers, max_norm)`: a ZeroOptimizer."""
    monkeypatch.setattr("accelerate.optimizer.AcceleratorState", lambda: None)

    def make(weights, grouping, by_stage_2=False, with_centers=True, max_norm=0.0) -> ZeroOptimizer:
        groups = [[weights[i] for i in group] for group in grouping]
        zero = Zero(groups, by_stage_2)
        utils = SimpleNamespace(
            safe_get_full_optimizer_state=zero.part,
            safe_set_full_optimizer_state=lambda weight, whole, name: zero.part(weight, name).copy_(whole),
            safe_set_local_optimizer_state=None,
        )
        monkeypatch.setitem(sys.modules, "deepspeed.utils", utils)
        combined = SimpleNamespace(combine_grad_norm_groups=sum)
        monkeypatch.setitem(sys.modules, "deepspeed.runtime.utils", combined)
        zero._get_norm_groups, zero._global_grad_norm = lambda: [3.0], 5.0
        own = torch.optim.AdamW(weights[2:], lr=0.2) if with_centers else None
        scaled = []
        centers = SimpleNamespace(own_optimizer=own, grad_norm=lambda: 4.0, scaled=scaled)
        centers.scale_grad = lambda max_norm, norm: scaled.append((max_norm, float(norm)))
        return ZeroOptimizer(zero, groups, centers, max_norm)

    return make


def equal(first, second) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.mark.parametrize("by_stage_2", [False, True])
@pytest.mark.parametrize("with_centers", [True, False])
@pytest.mark.parametrize("grouping", [[[0], [1]], [[0, 1]]])
def test_the_state_is_that_of_an_optimizer_without_an_engine(make, grouping, with_centers, by_stage_2):
    plain, ours = weights(), weights()
    groups = [{"params": [plain[i] for i in group], "lr": 0.1} for group in grouping]
    usual = torch.optim.AdamW(groups + ([{"params": plain[2:], "lr": 0.2}] if with_centers else []))
    step(usual, plain)
    optimizer = make(ours, grouping, by_stage_2, with_centers)
    step(optimizer.zero.optimizer, optimizer.zero.flat)
    if with_centers:
        step(optimizer.own, ours[2:])
    saved = whole_optimizer_state(optimizer)
    assert equal(saved["state"], usual.state_dict()["state"])
    assert saved["param_groups"] == usual.state_dict()["param_groups"]
    assert whole_optimizer_state(optimizer, keep=False)["state"].keys() <= {2, 3}

    fresh = make(weights(), grouping, by_stage_2, with_centers)
    saved["param_groups"][0]["lr"] = 0.7
    load_optimizer_state(fresh, saved)
    assert fresh.param_groups[0]["lr"] == 0.7
    assert equal(whole_optimizer_state(fresh)["state"], saved["state"])
    assert [len(group["params"]) for group in fresh.zero.param_groups] == [1] * len(grouping)


def test_a_state_of_some_weights_is_loaded(make):
    optimizer = make(weights(), [[0], [1]])
    step(optimizer.zero.optimizer, optimizer.zero.flat)
    saved = whole_optimizer_state(optimizer)
    del saved["state"][0]
    fresh = make(weights(), [[0], [1]])
    load_optimizer_state(fresh, saved)
    found = whole_optimizer_state(fresh)["state"]
    assert equal(found[1], saved["state"][1])
    assert not found[0]["exp_avg"].any()


def test_a_state_of_the_class_centers_alone_is_loaded(make):
    ours = weights()
    optimizer = make(ours, [[0], [1]])
    step(optimizer.own, ours[2:])
    saved = whole_optimizer_state(optimizer)
    assert saved["state"].keys() == {2, 3}
    fresh = make(weights(), [[0], [1]])
    load_optimizer_state(fresh, saved)
    assert equal(whole_optimizer_state(fresh)["state"], saved["state"])


@pytest.mark.parametrize(("max_norm", "scaled"), [(0.0, []), (0.5, [(0.5, 5.0)]), (2.0, [(2.0, 5.0)])])
@pytest.mark.parametrize("overflow", [False, True])
def test_class_centers_step_with_the_engine(make, max_norm, scaled, overflow):
    ours = weights()
    optimizer = make(ours, [[0], [1]], max_norm=max_norm)
    optimizer.zero.overflow = overflow
    before, ours[2].grad = ours[2].detach().clone(), torch.ones(SHAPES[2])
    optimizer.step()
    assert torch.equal(ours[2], before) == overflow
    assert ours[2].grad is None
    assert optimizer.class_centers.scaled == ([] if overflow else scaled)
    assert not optimizer.zero.overflow  # or the schedule would stop for a step
    assert optimizer.zero._get_norm_groups() == [3.0, 4.0]
    alone = make(ours, [[0], [1]], with_centers=False, max_norm=max_norm)
    alone.zero.overflow = overflow
    alone.step()
    assert not alone.step_was_skipped


def test_a_plain_optimizer_has_its_state_gathered():
    ours = weights()
    optimizer = torch.optim.AdamW(ours)
    step(optimizer, ours)
    saved = whole_optimizer_state(optimizer)
    assert equal(saved["state"], optimizer.state_dict()["state"])
    assert whole_optimizer_state(optimizer, keep=False)["state"] == {0: {}, 1: {}, 2: {}, 3: {}}
    fresh = torch.optim.AdamW(ours)
    load_optimizer_state(fresh, saved)
    assert equal(fresh.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize(("group", "device"), [({"fused": True}, "meta"), ({"capturable": True}, "meta"), ({}, "cpu")])
def test_steps_are_counted_where_the_optimizer_does(group, device):
    partition = nn.Parameter(torch.ones(2, device="meta"))
    optimizer = torch.optim.AdamW([torch.ones(1)])
    optimizer.param_groups[0] |= group
    count = _as_number(torch.tensor(3.0), optimizer, partition)
    assert (count.device.type, count.dtype) == (device, torch.float32)
    own = _as_number(torch.tensor(3.0), SimpleNamespace(), partition)  # one of DeepSpeed's
    assert own == 3 and type(own) is int


def test_parts_have_an_element_for_each_of_the_weights():
    state = {"step": torch.tensor(3.0), "count": 3, "exp_avg": torch.zeros(3, 2), "other": torch.zeros(2, 3)}
    assert _names_of_parts(state, torch.zeros(3, 2)) == ["exp_avg"]
    assert _names_of_parts(state, SimpleNamespace(ds_shape=(2, 3), shape=(0,))) == ["other"]
