"""A head on disk; how it resumes on other numbers of ranks is in test_sharding.py."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hf_face.heads import (
    MarginHead,
    convert_insightface_checkpoint,
    export_insightface_checkpoint,
    load_head,
    load_head_optimizer,
    save_head,
)


def trained(num_labels=10, steps=3, **kwargs):
    torch.manual_seed(0)
    head = MarginHead(4, num_labels, margin="adaface", **kwargs)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1)
    for _ in range(steps):
        head(torch.randn(6, 4) * 9, torch.arange(6)).loss.backward()
        optimizer.step()
    return head, optimizer


def test_round_trip_restores_centres_statistics_and_moments(tmp_path):
    head, optimizer = trained(sub_centers=2)
    save_head(head, tmp_path, optimizer)
    other, other_optimizer = trained(steps=0, sub_centers=2)
    load_head(other, tmp_path)
    load_head_optimizer(other, tmp_path, other_optimizer)
    assert torch.equal(other.weight, head.weight)
    assert torch.equal(other.margin.norm_mean, head.margin.norm_mean) and head.margin.norm_mean != 20
    state, other_state = optimizer.state[head.weight], other_optimizer.state[other.weight]
    assert state.keys() == other_state.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(state[key], other_state[key]) for key in state)


def test_files_are_readable_without_this_library(tmp_path):
    head, _ = trained()
    save_head(head, tmp_path)
    index = json.loads((tmp_path / "head.index.json").read_text())
    assert (index["num_labels"], index["embedding_size"], index["sub_centers"]) == (10, 4, 1)
    whole = np.concatenate([load_file(tmp_path / shard["file"])["weight"] for shard in index["shards"]])
    np.testing.assert_array_equal(whole, head.weight.detach())


def test_another_size_is_named(tmp_path):
    save_head(trained()[0], tmp_path)
    with pytest.raises(ValueError, match=r"head.index.json holds a head of num_labels=10, this one's is 11"):
        load_head(trained(11)[0], tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"head.index.json is not there"):
        load_head(trained()[0], tmp_path)
    save_head(trained()[0], tmp_path)
    (tmp_path / "head-00001-of-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists head-00001-of-00001.safetensors"):
        load_head(trained()[0], tmp_path)


def insightface_files(folder, num_ranks=3, num_labels=10):
    folder.mkdir()
    centres = torch.randn(num_labels, 4, generator=torch.Generator().manual_seed(0))
    backbone = {"conv1.weight": torch.ones(2, 3), "bn1.num_batches_tracked": torch.tensor(7)}
    for rank, rows in enumerate(torch.tensor_split(centres, num_ranks)):
        checkpoint = {
            "epoch": 2,
            "global_step": 30,
            "state_dict_backbone": backbone,
            "state_dict_softmax_fc": {"weight": rows.clone()},
            "state_optimizer": torch.optim.SGD([torch.nn.Parameter(rows)], lr=0.1, momentum=0.9).state_dict(),
        }
        torch.save(checkpoint, folder / f"checkpoint_gpu_{rank}.pt")
    return centres, backbone


@pytest.mark.parametrize("num_ranks", [1, 3, 11])
def test_insightface_files_become_one_head_and_go_back(num_ranks, tmp_path):
    centres, backbone = insightface_files(tmp_path / "theirs", num_ranks)
    got_backbone = convert_insightface_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    assert got_backbone.keys() == backbone.keys() and all(torch.equal(got_backbone[k], backbone[k]) for k in backbone)
    head = MarginHead(4, 10)
    load_head(head, tmp_path / "ours")
    assert torch.equal(head.weight, centres)

    save_head(head, tmp_path / "again")
    export_insightface_checkpoint(tmp_path / "again", tmp_path / "back", got_backbone, num_ranks)
    for rank in range(num_ranks):
        want, got = (
            torch.load(tmp_path / d / f"checkpoint_gpu_{rank}.pt", weights_only=True) for d in ("theirs", "back")
        )
        assert torch.equal(got["state_dict_softmax_fc"]["weight"], want["state_dict_softmax_fc"]["weight"])
        assert torch.equal(got["state_dict_backbone"]["conv1.weight"], backbone["conv1.weight"])


def test_broken_insightface_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint_gpu_0.pt"):
        convert_insightface_checkpoint(tmp_path, tmp_path / "ours")
    insightface_files(tmp_path / "theirs")
    (tmp_path / "theirs" / "checkpoint_gpu_1.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"not checkpoint_gpu_1.pt"):
        convert_insightface_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    torch.save({"epoch": 1}, tmp_path / "theirs" / "checkpoint_gpu_1.pt")
    with pytest.raises(ValueError, match=r"checkpoint_gpu_1.pt has no 'state_dict_softmax_fc'; found the keys epoch"):
        convert_insightface_checkpoint(tmp_path / "theirs", tmp_path / "ours")


def test_heads_with_sub_centres_do_not_go_to_insightface(tmp_path):
    save_head(trained(sub_centers=2)[0], tmp_path)
    with pytest.raises(ValueError, match="sub-centres"):
        export_insightface_checkpoint(tmp_path, tmp_path / "back", {})
