"""InsightFace's training checkpoints, one file a rank, to one head and back."""

import pytest
import torch

from hf_face.convert import convert_insightface_heads, export_insightface_heads
from hf_face.heads import MarginHead, load_head, save_head


def insightface_files(folder, num_ranks=3, num_identities=10):
    folder.mkdir()
    centers = torch.randn(num_identities, 4, generator=torch.Generator().manual_seed(0))
    backbone = {"conv1.weight": torch.ones(2, 3), "bn1.num_batches_tracked": torch.tensor(7)}
    for rank, rows in enumerate(torch.tensor_split(centers, num_ranks)):
        checkpoint = {
            "epoch": 2,
            "global_step": 30,
            "state_dict_backbone": backbone,
            "state_dict_softmax_fc": {"weight": rows.clone()},
            "state_optimizer": torch.optim.SGD([torch.nn.Parameter(rows)], lr=0.1, momentum=0.9).state_dict(),
        }
        torch.save(checkpoint, folder / f"checkpoint_gpu_{rank}.pt")
    return centers, backbone


@pytest.mark.parametrize("num_ranks", [1, 3, 11])
def test_insightface_files_become_one_head_and_go_back(num_ranks, tmp_path):
    centers, backbone = insightface_files(tmp_path / "theirs", num_ranks)
    got_backbone = convert_insightface_heads(tmp_path / "theirs", tmp_path / "ours")
    assert got_backbone.keys() == backbone.keys() and all(torch.equal(got_backbone[k], backbone[k]) for k in backbone)
    head = MarginHead(4, 10)
    load_head(head, tmp_path / "ours")
    assert torch.equal(head.weight, centers)

    save_head(head, tmp_path / "again")
    export_insightface_heads(tmp_path / "again", tmp_path / "back", got_backbone, num_ranks)
    for rank in range(num_ranks):
        want, got = (
            torch.load(tmp_path / d / f"checkpoint_gpu_{rank}.pt", weights_only=True) for d in ("theirs", "back")
        )
        assert torch.equal(got["state_dict_softmax_fc"]["weight"], want["state_dict_softmax_fc"]["weight"])
        assert torch.equal(got["state_dict_backbone"]["conv1.weight"], backbone["conv1.weight"])


def test_broken_insightface_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"contains no checkpoint_gpu_0.pt"):
        convert_insightface_heads(tmp_path, tmp_path / "ours")
    insightface_files(tmp_path / "theirs")
    (tmp_path / "theirs" / "checkpoint_gpu_1.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"not checkpoint_gpu_1.pt"):
        convert_insightface_heads(tmp_path / "theirs", tmp_path / "ours")
    torch.save({"epoch": 1}, tmp_path / "theirs" / "checkpoint_gpu_1.pt")
    with pytest.raises(ValueError, match=r"checkpoint_gpu_1.pt has no 'state_dict_softmax_fc'; found the keys epoch"):
        convert_insightface_heads(tmp_path / "theirs", tmp_path / "ours")


def test_heads_with_sub_centers_do_not_go_to_insightface(tmp_path):
    save_head(MarginHead(4, 10, sub_centers=2), tmp_path)
    with pytest.raises(ValueError, match="sub-centers"):
        export_insightface_heads(tmp_path, tmp_path / "back", {})
