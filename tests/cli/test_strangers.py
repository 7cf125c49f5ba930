"""Nothing that comes with a stranger's model or recipe runs unless it is asked for."""

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
from pathlib import Path
Path({ran!r}).touch()
raise ValueError("it ran")
"""


@pytest.fixture
def stranger(model_folder, tmp_path) -> Path:
    """A model of a kind that is known to nobody, with its own code, which leaves a file if it runs."""
    folder = tmp_path / "stranger"
    shutil.copytree(model_folder, folder)
    names = {"AutoConfig": "stranger.StrangerConfig", "AutoModel": "stranger.StrangerModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "stranger", "auto_map": names}))
    (folder / "stranger.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    return folder


@pytest.mark.parametrize("command", ["embed", "evaluate", "push"])
def test_the_code_of_a_model_runs_only_if_asked_for(hf_face, stranger, photographs, tmp_path, command, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(f"asked: {prompt}"))
    options = {
        "embed": ["--images", photographs, "--output", tmp_path / "embeddings.parquet"],
        "evaluate": ["--protocol", "all_pairs", "--data", photographs, "--fars", 0.5],
        "push": ["--repo_id", "me/m"],
    }
    assert hf_face(command, "--model", stranger, *options[command]).status == 2
    assert not (tmp_path / "ran").exists()
    if command != "push":
        with pytest.raises(ValueError, match="it ran"):
            hf_face(command, "--model", stranger, *options[command], "--trust_remote_code")
        assert (tmp_path / "ran").exists()


def test_a_recipe_is_data(hf_face, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output_dir: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'ran'}]\n")
    ended = hf_face("train", recipe)
    assert ended.status == 2 and "could not determine a constructor" in ended.err
    assert not (tmp_path / "ran").exists()


def test_the_page_on_strangers_names_tests_that_are_there():
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))
    assert len(named) > 10 and [name for name in named if not (ROOT / name).is_file()] == []
