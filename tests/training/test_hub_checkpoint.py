"""A checkpoint without pickles has all that one with them has."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hf_face.training.hub_checkpoint import as_saved, publish_checkpoint

STATE = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}, 1: {}},
    "param_groups": [
        {"lr": 0.5, "betas": (0.9, 0.999), "params": [0, 1], "fused": None, "name": "a", "nesterov": True}
    ],
    "ordered": OrderedDict(a=1),
    "array": np.arange(3, dtype=np.uint32),  # as the state of random numbers
}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "checkpoint_files.json").write_text("of the checkpoint")
    (folder / "training_args.bin").write_bytes(b"of this machine")
    torch.save(STATE, folder / "optimizer.pt")
    torch.save({"numpy": np.arange(2, dtype=np.uint32)}, folder / "rng_state.pth")
    return folder


def test_a_published_checkpoint_is_as_saved(checkpoint, tmp_path):
    published = tmp_path / "published"
    publish_checkpoint(checkpoint, published)
    assert {path.name for path in published.iterdir()} == {
        "model.safetensors",
        "trainer_state.json",
        "optimizer.pt.safetensors",
        "rng_state.pth.safetensors",
        "checkpoint_files.json",
    }
    assert "training_args" not in (published / "checkpoint_files.json").read_text()
    with as_saved(published) as copy:
        assert copy != published and not any(copy.glob("*.pt.safetensors"))
        found = torch.load(copy / "optimizer.pt", weights_only=False)
        assert torch.load(copy / "rng_state.pth", weights_only=False)["numpy"].tolist() == [0, 1]
        assert (copy / "trainer_state.json").read_text() == "{}"
    moments = found["state"][0]
    assert torch.equal(moments["exp_avg"], torch.ones(2, 3)) and moments["step"] == 3
    assert (found["state"][1], found["param_groups"], found["ordered"]) == ({}, STATE["param_groups"], {"a": 1})
    assert isinstance(found["array"], np.ndarray) and found["array"].tolist() == [0, 1, 2]
    with as_saved(checkpoint) as itself:
        assert itself == checkpoint


class Harmful:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_what_is_no_plain_value_is_neither_published_nor_run(checkpoint, tmp_path):
    torch.save(Harmful(tmp_path / "mark"), checkpoint / "scheduler.pt")
    with pytest.raises(ValueError, match=r"scheduler.pt cannot be published without a pickle"):
        publish_checkpoint(checkpoint, tmp_path / "published")
    assert not (tmp_path / "mark").exists()
    torch.save({"a": {1, 2}}, checkpoint / "scheduler.pt")
    with pytest.raises(ValueError, match="expected tensors and plain values, found set"):
        publish_checkpoint(checkpoint, tmp_path / "again")
