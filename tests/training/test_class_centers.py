"""Class centers in the optimizer and in files, whole, sampled and split."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor

from hf_face.training import class_centers
from hf_face.training.class_centers import ClassCenters


class Head(nn.Module):
    """What of a margin head is used, with a note of what it was split over."""

    def __init__(self, group=None, sample_rate=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))
        self.group, self.sample_rate, self.seed = group, sample_rate, 0

    def shard(self, group):
        self.group = f"{group}, now"


def make(head: Head | None = None, group=None, rate=None, lr=None, decay=None) -> ClassCenters:
    args = SimpleNamespace(
        partial_fc_sample_rate=rate,
        check_sample_rate=lambda rate: None,
        seed=7,
        head_group=group,
        head_learning_rate=lr,
        head_weight_decay=decay,
    )
    return ClassCenters(head or Head(), args)


@pytest.mark.parametrize(
    ("own", "asked_for", "expected"), [(None, None, None), (None, "a", "a, now"), ("b", None, "b"), ("b", "a", "b")]
)
def test_a_head_is_split_once(own, asked_for, expected):
    centers = make(Head(own), asked_for)
    assert centers.head.group == expected
    assert centers.is_split == centers.is_apart == (expected is not None)
    assert centers.head.seed == 7


@pytest.mark.parametrize(("own", "rate", "expected"), [(0.5, None, 0.5), (0.5, 1.0, 1.0), (1.0, 0.999, 0.999)])
def test_sampled_centers_are_apart_and_only_their_rows_are_updated(monkeypatch, own, rate, expected):
    prepared = []
    monkeypatch.setattr(class_centers, "step_sampled_rows_only", prepared.append)
    centers = make(Head(sample_rate=own), rate=rate)
    centers.prepare("optimizer")
    assert centers.head.sample_rate == expected
    assert centers.is_apart == (expected < 1) and not centers.is_split
    assert prepared == (["optimizer"] if expected < 1 else [])


@pytest.mark.parametrize(("group", "rate"), [("ranks", None), (None, 0.5)])
def test_an_optimizer_that_looks_at_all_centers_at_once_is_refused_some_of_them(group, rate):
    optimizer = Adafactor([nn.Parameter(torch.ones(1))])
    make().prepare(optimizer)
    with pytest.raises(ValueError, match=r"Adafactor looks at all class centers at once.*: set optim to adamw"):
        make(group=group, rate=rate).prepare(optimizer)


def test_centers_have_groups_of_their_own():
    centers, backbone = make(lr=0.5, decay=0.0), [nn.Parameter(torch.ones(1)) for _ in range(3)]
    optimizer = torch.optim.AdamW(
        [
            {"params": [backbone[0], centers.head.weight, backbone[1]], "lr": 0.1, "weight_decay": 0.2},
            {"params": [backbone[2]], "lr": 0.3},
        ]
    )
    centers.add_to(optimizer)
    found = [(group["params"], group["lr"]) for group in optimizer.param_groups]
    assert found == [([backbone[0], backbone[1]], 0.1), ([backbone[2]], 0.3), ([centers.head.weight], 0.5)]
    assert optimizer.param_groups[2]["weight_decay"] == 0.0
    alone = torch.optim.SGD([centers.head.weight], lr=0.1)
    centers.add_to(alone)
    assert [group["params"] for group in alone.param_groups] == [[centers.head.weight]]
    assert make().own_settings == {}
    centers.take_from(optimizer, lambda groups: torch.optim.SGD(groups, momentum=0.9))
    assert [group["params"] for group in optimizer.param_groups] == [backbone[:2], backbone[2:]]
    assert [group["params"] for group in centers.own_optimizer.param_groups] == [[centers.head.weight]]
    assert centers.own_optimizer.param_groups[0]["lr"] == 0.5


def test_a_users_optimizer_must_do_what_is_asked_for():
    make().check_optimizer(None)
    for settings, name in (({"lr": 0.0}, "head_learning_rate"), ({"decay": 0.0}, "head_weight_decay")):
        with pytest.raises(ValueError, match=f"{name} has no effect on optimizers="):
            make(**settings).check_optimizer(None)
    with pytest.raises(ValueError, match="shard_head creates new class centers"):
        make(Head("a group")).check_optimizer(None)


@pytest.mark.parametrize(
    ("own", "given", "expected"), [(None, None, None), ("own", None, None), (None, "all", "all"), ("own", "all", "own")]
)
@pytest.mark.parametrize("group", [None, "a group"])
@pytest.mark.parametrize("indexed", [True, False])
def test_files_have_the_state_of_the_optimizer_with_the_centers(
    monkeypatch, tmp_path, own, given, expected, group, indexed
):
    calls = []
    for name in ("save_head", "load_head", "load_head_optimizer", "keep_own_rows"):
        monkeypatch.setattr(class_centers, name, lambda head, *rest, name=name: calls.append((name, *rest)))
    centers = make(Head(group))
    centers.own_optimizer = own
    centers.save(tmp_path, given)
    assert calls.pop() == ("save_head", tmp_path, expected)
    if indexed:
        (tmp_path / "head.index.json").touch()
    centers.load(tmp_path, given)
    if indexed:
        also = [] if expected is None else [("load_head_optimizer", tmp_path, expected)]
        assert calls == [("load_head", tmp_path), *also]
    else:
        assert calls == ([("keep_own_rows", expected)] if expected and group else [])


@pytest.mark.parametrize("indexed", [True, False])
def test_centers_that_are_not_trained_have_no_state(monkeypatch, tmp_path, indexed):
    calls = []
    for name in ("save_head", "load_head", "load_head_optimizer", "keep_own_rows"):
        monkeypatch.setattr(class_centers, name, lambda head, *rest, name=name: calls.append((name, *rest)))
    centers, other = make(Head("a group")), nn.Parameter(torch.ones(2))
    centers.head.requires_grad_(False)
    optimizer = torch.optim.AdamW([other])
    centers.take_from(optimizer, None)
    assert centers.own_optimizer is None
    centers.prepare(optimizer)
    other.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state_dict()["state"].keys() == {0}
    centers.save(tmp_path, optimizer)
    if indexed:
        (tmp_path / "head.index.json").touch()
    centers.load(tmp_path, optimizer)
    assert calls == [("save_head", tmp_path, None), *([("load_head", tmp_path)] if indexed else [])]


def test_the_state_of_split_centers_is_in_files_of_its_own():
    centers, other = make(Head("a group")), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([{"params": [other]}, {"params": [centers.head.weight]}])
    centers.prepare(optimizer)
    assert optimizer.state_dict()["state"] == {}
    other.grad, centers.head.weight.grad = torch.ones(2), torch.ones(3, 2)
    optimizer.step()
    assert optimizer.state_dict()["state"].keys() == {0}
