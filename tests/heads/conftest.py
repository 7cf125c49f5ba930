import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_face.heads import head_files, margin_head

sys.path.append(str(Path(__file__).parent))  # other processes import ranks.py by its name


@pytest.fixture
def be_rank(monkeypatch):
    """Makes heads take this process for one of several ranks, as far as they do not communicate."""

    def be(rank: int, world_size: int, is_initialized: bool = True) -> None:
        ranks = SimpleNamespace(
            is_initialized=lambda: is_initialized,
            get_rank=lambda group: rank,
            get_world_size=lambda group=None: world_size,
            barrier=lambda group: None,
            group=SimpleNamespace(WORLD="all ranks"),
            ProcessGroup=None,
        )
        monkeypatch.setattr(margin_head, "dist", ranks)
        monkeypatch.setattr(head_files, "dist", ranks)

    return be
