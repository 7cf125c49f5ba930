"""Files are read as tensors; a file that would run code is refused."""

import json
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from hf_face.convert.checkpoint import read_checkpoint

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


def test_reads_torch_and_safetensors_files_alike(tmp_path):
    torch.save(TENSORS, tmp_path / "model.pth")
    save_file(TENSORS, tmp_path / "model.safetensors")
    for name in ("model.pth", "model.safetensors"):
        tensors = read_checkpoint(tmp_path / name).tensors()
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)


def test_reads_a_folder_with_its_config(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.settings == {"architecture": "resnet18"}
    assert checkpoint.tensors().keys() == TENSORS.keys()


def test_takes_the_first_nested_mapping_there_is():
    checkpoint = read_checkpoint({"epoch": 3, "model": {"old": torch.ones(1)}, "ema": {"new": torch.ones(1)}})
    assert checkpoint.tensors(("ema", "model")).keys() == {"new"}
    assert checkpoint.tensors(("missing", "model")).keys() == {"old"}


def test_reads_the_settings_of_a_training_run(tmp_path):
    torch.save(TENSORS, tmp_path / "model.pt")
    (tmp_path / "model.yaml").write_text("color_space: 'BGR'\n")
    assert read_checkpoint(tmp_path).settings == {"color_space": "BGR"}
    (tmp_path / "config.json").write_text(json.dumps({"eps": 1e-05}))
    assert read_checkpoint(tmp_path).settings == {"eps": 1e-05}


@pytest.mark.parametrize(
    "wrappers", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_drops_wrappers_that_all_names_share(wrappers):
    wrapped = {wrappers + name: tensor for name, tensor in TENSORS.items()}
    assert read_checkpoint(wrapped).tensors().keys() == TENSORS.keys()
    partly = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_checkpoint(partly).tensors().keys() == partly.keys()


class Executes:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_refuses_a_file_that_would_run_code(tmp_path):
    torch.save({"state_dict": TENSORS, "callbacks": Executes(tmp_path / "executed")}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"model\.ckpt: refused.*run code.*safetensors.*mkdir"):
        read_checkpoint(tmp_path / "model.ckpt")
    assert not (tmp_path / "executed").exists()


def test_refuses_torchscript(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "scripted.pt"))
    with pytest.raises(ValueError, match=r"scripted\.pt: refused.*TorchScript"):
        read_checkpoint(tmp_path / "scripted.pt")


def test_refuses_a_broken_safetensors_file(tmp_path):
    save_file(TENSORS, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-4])
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for name in ("cut", "pointer"):
        with pytest.raises(
            ValueError, match=rf"{name}\.safetensors is not a complete safetensors file.*Git LFS pointer"
        ):
            read_checkpoint(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("part", [0, 0.5, 0.999])
def test_a_partial_download_is_called_one(tmp_path, part, zipped):
    torch.save({**TENSORS, "big": torch.zeros(5000)}, tmp_path / "half.pt", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "half.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"half\.pt is not a complete torch file.*Download it again") as error:
        read_checkpoint(tmp_path / "half.pt")
    assert "run code" not in str(error.value)


def test_a_file_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as model,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in model.namelist():
            bomb.writestr(name, model.read(name))
    with pytest.raises(ValueError, match=r"bomb\.pt unpacks to 4,000,\d+ bytes"):
        read_checkpoint(tmp_path / "bomb.pt")


def test_refuses_a_pickled_module(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="reading it would run code"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    for name in ("model.pt", "model.safetensors"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        with pytest.raises(ValueError, match=rf"{name} is not a complete .*, but a Git LFS pointer to it: run `git"):
            read_checkpoint(tmp_path / name)


def test_a_file_of_something_else_is_shown(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(ValueError, match=r"page\.pth was not written by `torch.save`: it starts with b'<!DOCTYPE"):
        read_checkpoint(tmp_path / "page.pth")


def test_broken_settings_are_named(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    for content in (b'{"half', b"\xff\xfe", b"[" * 100_000, b"[]"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json"):
            read_checkpoint(tmp_path)


def test_refuses_what_is_no_mapping(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth: expected a mapping of names to tensors, found list"):
        read_checkpoint(tmp_path / "list.pth")


def test_says_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file or folder"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"expected one of model\.safetensors"):
        read_checkpoint(tmp_path)
