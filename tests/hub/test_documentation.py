"""The code of the pages on publishing runs, against the local Hub."""

import re
from pathlib import Path

import pytest

from hf_face.hub import write_model_folder

ROOT = Path(__file__).parents[2]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def demo(hub, backbone, image_processor, card, tmp_path, monkeypatch):
    """The working folder after `make demo`."""
    write_model_folder(
        backbone, tmp_path / "outputs" / "demo", "outputs/demo", card=card, image_processor=image_processor
    )
    monkeypatch.chdir(tmp_path)


def test_the_page_on_publishing(demo, hub):
    for block in python_blocks((ROOT / "docs" / "publish.md").read_text(encoding="utf-8")):
        exec(block, {})
    repos = hub.store.repos
    assert "model.safetensors" in repos["model", "org/orl_demo"].commit("main").files
    assert repos["model", "org/r18"].private
    assert "pairs/test-00000-of-00001.parquet" in repos["dataset", "org/orl_pairs"].commit("main").files


def test_the_readme_on_publishing(demo, hub):
    (section,) = re.findall(r"^### Publish\n(.*?)^#", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    hub.store.repos.pop(("model", "org/orl_demo"), None)
    for block in python_blocks(section):
        exec(block, {})
    assert "model.safetensors" in hub.store.repos["model", "org/orl_demo"].commit("main").files
