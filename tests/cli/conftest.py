import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hf_face import FaceImageProcessor, IResNetConfig, IResNetModel, cli


class Ended(NamedTuple):
    """What a command left: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def hf_face(monkeypatch, capsys) -> Callable[..., Ended]:
    """`hf_face("embed", "--model", folder)` is what somebody types after `hf-face`, run in this process."""

    def run(*arguments) -> Ended:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/hf-face", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture
def error_of(hf_face, monkeypatch, tmp_path):
    """What a command wrote as it failed, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> str:
        ended = hf_face(*arguments)
        assert ended.status == 2
        assert ended.out == ""
        return ended.err

    return run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A tiny model without training and its image processor, saved as somebody has them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    IResNetModel(
        IResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], stem_size=8, embedding_size=16)
    ).save_pretrained(folder)
    FaceImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture
def photographs(orl, tmp_path) -> Path:
    """Two photographs each of three people, a folder a person."""
    for row in (0, 1, 10, 11, 20, 21):
        file = tmp_path / "photographs" / f"person_{row // 10}" / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        orl[row]["image"].save(file)
    return tmp_path / "photographs"
