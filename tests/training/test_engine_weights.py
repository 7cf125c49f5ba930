"""Weights that an engine splits over ranks, with stand-ins for what the engines make of them."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from hf_face.training.engine_weights import (
    gather,
    load_weights,
    num_trained,
    own_part,
    own_part_of,
    split_again,
    whole_state_dict,
    without_weights,
)


class Model(nn.Module):
    """A backbone and a head, whole or one of three ranks' parts."""

    def __init__(self, own_rows: slice | None = None):
        super().__init__()
        self.backbone = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 6 if own_rows is None else 2, bias=False)
        self.head.group, self.head.own_rows = own_rows and "a group", own_rows or slice(0, 6)
        self.head.num_identities, self.head.sub_centers, self.head.embedding_size = 3, 2, 2


def partitioned(rank: int, whole: torch.Tensor, num_ranks: int = 3) -> nn.Parameter:
    """A weight as ZeRO-3 leaves it: empty, with a rank's part, of which the last one is padded."""
    size = -(-whole.numel() // num_ranks)
    padded = torch.cat([whole.flatten(), torch.zeros(size * num_ranks - whole.numel())])
    weight = nn.Parameter(torch.empty(0))
    weight.ds_tensor, weight.ds_shape = padded[size * rank : size * (rank + 1)].clone(), whole.shape
    weight.ds_zero_partition_rank = rank
    return weight


@pytest.mark.parametrize("num_ranks", [3, 8])
def test_the_part_of_each_rank(num_ranks):
    whole = torch.arange(10.0).view(5, 2)
    weights = [partitioned(rank, whole, num_ranks) for rank in range(num_ranks)]
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]] if num_ranks == 3 else [[2 * i, 2 * i + 1] for i in range(5)]
    expected += [[0, 0]] * (num_ranks - len(expected))
    assert [own_part(weight).tolist() for weight in weights] == expected
    assert [own_part_of(whole, weight).tolist() for weight in weights] == expected
    assert own_part_of(whole, torch.zeros(5, 2)) is whole


def test_what_is_gathered_is_a_copy(monkeypatch, tmp_path):
    """The model trains on while it is written."""
    weight, empty = torch.ones(3), partitioned(0, torch.ones(3))
    empty.data = weight  # as it is while DeepSpeed has gathered it
    zero = SimpleNamespace(GatheredParameters=lambda weights: nullcontext())
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=zero))
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        split = distribute_tensor(weight, init_device_mesh("cpu", (1,)))
        copies = [gather(each) for each in (weight, empty, split)]
        for each in (weight, own_part(split)):
            each.zero_()
    finally:
        dist.destroy_process_group()
    assert [each.tolist() for each in copies] == [[1, 1, 1]] * 3


def test_whole_weights_are_kept_on_one_rank():
    model = Model()
    assert whole_state_dict(model).keys() == model.state_dict().keys()
    assert whole_state_dict(model, keep=False) == {}
    assert whole_state_dict(model, without=["head.weight"]).keys() == model.state_dict().keys() - {"head.weight"}


def test_a_model_without_weights_has_its_buffers():
    model = Model()
    model.backbone.bias.requires_grad_(False)
    empty = without_weights(model)
    assert all(weight.is_meta for weight in empty.parameters())
    assert torch.equal(empty.backbone.running_var, model.backbone.running_var)
    empty.load_state_dict(model.state_dict(), assign=True)
    trained = {name for name, weight in empty.named_parameters() if weight.requires_grad}
    assert trained == {"backbone.weight", "head.weight"}
    assert torch.equal(empty.head.weight, model.head.weight)
    assert not model.head.weight.is_meta


@pytest.mark.parametrize("own_rows", [None, slice(2, 4)])
@pytest.mark.parametrize("uses_head", [True, False])
def test_trained_weights_are_counted_over_all_ranks(own_rows, uses_head):
    model = Model(own_rows)
    model.head.requires_grad_(uses_head)
    assert num_trained(model) == 4 + 12 * uses_head
    model.backbone.weight, model.backbone.bias = partitioned(0, torch.ones(5)), None
    model.__dict__["head"] = model._modules.pop("head")  # kept apart
    assert num_trained(model) == 5 + 12 * uses_head


def test_weights_that_are_missing_stay():
    model = Model()
    calls = []
    engine = SimpleNamespace(optimizer=SimpleNamespace(refresh_fp32_params=lambda: calls.append(1)))
    weights = {"backbone.bias": torch.tensor([5.0, 6.0]), "head.weight": torch.arange(12.0).view(6, 2)}
    load_weights(model, weights, engine)
    assert model.backbone.bias.tolist() == [5, 6] and model.backbone.weight.tolist() == [1, 1]
    assert torch.equal(model.head.weight, weights["head.weight"])
    assert calls == [1]
    load_weights(model, {}, nn.Linear(1, 1))  # no engine


def test_each_rank_loads_its_class_centers():
    model = Model(own_rows=slice(2, 4))
    load_weights(model, {"head.weight": torch.arange(12.0).view(6, 2)}, nn.Identity())
    assert model.head.weight.tolist() == [[4, 5], [6, 7]]
    assert model.backbone.bias.tolist() == [0, 0]
    load_weights(model, {"backbone.bias": torch.tensor([5.0, 6.0])}, nn.Identity())
    assert model.backbone.bias.tolist() == [5, 6]


@pytest.mark.parametrize("rows", [5, 7])
def test_weights_of_another_shape_are_refused(rows):
    with pytest.raises(
        ValueError, match=rf"head.weight has the shape \[{rows}, 2\] in the file, \[6, 2\] in the model"
    ):
        load_weights(Model(), {"head.weight": torch.zeros(rows, 2)}, nn.Identity())


def test_weights_that_were_gathered_are_freed():
    model, calls = Model(), []
    split_again(model)  # none are
    weight = partitioned(0, torch.ones(3))
    offload = SimpleNamespace(partition_all_parameters=lambda: calls.append(1))
    weight._z3_optimizer = SimpleNamespace(parameter_offload=offload)
    model.backbone.weight, model.backbone.bias = partitioned(0, torch.ones(3)), weight  # the first one is frozen
    split_again(model)
    assert calls == [1]
