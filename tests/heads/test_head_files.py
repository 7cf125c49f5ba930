"""A head on disk; test_sharding.py tests resuming on other numbers of ranks."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hf_face.heads import MarginHead, load_head, load_head_optimizer, save_head
from hf_face.heads.head_files import keep_own_rows, read_head_optimizer, read_weight, write_head
from hf_face.heads.margin_softmax import unit_and_norm


def trained(num_identities=10, steps=3, **kwargs):
    torch.manual_seed(0)
    head = MarginHead(4, num_identities, margin="adaface", **kwargs)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1)
    for _ in range(steps):
        head(*unit_and_norm(torch.randn(6, 4) * 9), torch.arange(6) % num_identities).loss.backward()
        optimizer.step()
    return head, optimizer


def test_round_trip_restores_centers_statistics_and_moments(tmp_path):
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
    folder = tmp_path / "new" / "head"
    save_head(head, folder)
    text = (folder / "head.index.json").read_text()
    index = json.loads(text)
    assert text == json.dumps(index, indent=2) + "\n"
    assert (index["num_identities"], index["embedding_size"], index["sub_centers"]) == (10, 4, 1)
    whole = np.concatenate([load_file(folder / shard["file"])["weight"] for shard in index["shards"]])
    np.testing.assert_array_equal(whole, head.weight.detach())


def test_a_head_saved_by_three_ranks_is_read_by_one_and_by_two(tmp_path, be_rank):
    whole, optimizer = trained(2, sub_centers=2)
    for rank in (2, 1, 0):  # the first of which has no identities
        be_rank(rank, 3)
        part = copy.deepcopy(whole)
        part.shard("ranks")
        own = torch.optim.AdamW([part.weight])
        own.state[part.weight] = dict(optimizer.state[whole.weight])
        keep_own_rows(part, own)
        save_head(part, tmp_path, own)
    assert {path.name for path in tmp_path.iterdir()} == {
        "head.index.json",
        "head-00002-of-00003.safetensors",
        "head-00003-of-00003.safetensors",
    }
    assert torch.equal(read_weight(tmp_path), whole.weight)
    moments = optimizer.state[whole.weight]
    for rank, group in ((0, None), (0, "ranks"), (1, "ranks")):
        be_rank(rank, 2)
        head = MarginHead(4, 2, margin="adaface", sub_centers=2, group=group)
        load_head(head, tmp_path)
        assert torch.equal(head.weight, whole.weight[head.own_rows])
        assert head.margin.norm_mean == whole.margin.norm_mean
        state = read_head_optimizer(head, tmp_path)
        assert state["step"] == moments["step"] and torch.equal(state["exp_avg"], moments["exp_avg"][head.own_rows])


def test_own_rows_are_kept_of_what_has_a_row_for_each_center(be_rank):
    be_rank(1, 2)
    head = MarginHead(3, 4, sub_centers=2, group="ranks")
    optimizer = torch.optim.SGD([head.weight], lr=1.0)
    rows = torch.arange(24.0).view(8, 3)
    optimizer.state[head.weight] = {"moment": rows, "step": torch.tensor(5.0), "vector": rows[0], "flag": True}
    keep_own_rows(head, optimizer)
    state = optimizer.state[head.weight]
    assert torch.equal(state["moment"], rows[4:]) and torch.equal(state["vector"], rows[0])
    assert (state["step"], state["flag"]) == (5, True)


def test_a_whole_head_is_written_from_its_tensors(tmp_path):
    head, _ = trained()
    write_head(head, {"weight": head.weight.detach(), **dict(head.named_buffers())}, tmp_path)
    other, _ = trained(steps=0)
    load_head(other, tmp_path)
    assert torch.equal(other.weight, head.weight) and other.margin.norm_std == head.margin.norm_std
    assert (tmp_path / "head-00001-of-00001.safetensors").is_file()


def test_another_size_is_named(tmp_path):
    save_head(trained()[0], tmp_path)
    with pytest.raises(
        ValueError, match=r"head.index.json: expected a head with num_identities=11, found num_identities=10"
    ):
        load_head(trained(11)[0], tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"contains no head: expected head.index.json"):
        load_head(trained()[0], tmp_path)
    save_head(trained()[0], tmp_path)
    (tmp_path / "head-00001-of-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists head-00001-of-00001.safetensors"):
        load_head(trained()[0], tmp_path)


@pytest.mark.parametrize("way", ["above", "absolute", "link"])
def test_an_index_lists_files_of_its_folder_only(tmp_path, way):
    folder, elsewhere = tmp_path / "head", tmp_path / "head-00001-of-00001.safetensors"
    save_head(trained()[0], folder)
    own = folder / elsewhere.name
    own.rename(elsewhere)
    if way == "link":
        own.symlink_to(elsewhere)
    index = json.loads((folder / "head.index.json").read_text())
    index["shards"][0]["file"] = {"above": f"../{own.name}", "absolute": str(elsewhere), "link": own.name}[way]
    (folder / "head.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="refers to a file outside it"):
        load_head(trained()[0], folder)


def test_damaged_files_are_named(tmp_path):
    save_head(trained()[0], tmp_path)
    shard = tmp_path / "head-00001-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"head-00001-of-00001.safetensors is not a complete safetensors file"):
        load_head(trained()[0], tmp_path)
    for content, complaint in (('{"half', "not a complete JSON file"), ("{}", "lacks embedding_size, num_identities")):
        (tmp_path / "head.index.json").write_text(content)
        with pytest.raises(ValueError, match=rf"head.index.json.*{complaint}"):
            load_head(trained()[0], tmp_path)
