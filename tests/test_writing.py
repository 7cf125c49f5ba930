"""Files and folders are whole or not there, and what killed processes leave is removed by the next one."""

import os
from pathlib import Path

import pytest

from hf_face.writing import scratch_folder, whole_file, whole_model


def test_a_file_takes_its_place_when_it_is_written(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(KeyError), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["report.json"]


def save(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"new {name}")


def test_a_model_replaces_another_one(tmp_path):
    for name in ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "mine.txt"):
        (tmp_path / name).write_text("old")
    (tmp_path / ".unfinished").mkdir()  # of a process that was killed
    (tmp_path / ".unfinished" / "left.safetensors").write_text("old")
    with whole_model(tmp_path) as unfinished:
        save(unfinished, "config.json", "model.safetensors", "adapter/config.json")
        assert (tmp_path / "config.json").read_text() == "old"
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "adapter/config.json", "mine.txt"}
    assert (tmp_path / "config.json").read_text() == "new config.json"


def test_a_model_that_cannot_be_saved_leaves_the_other_one(tmp_path):
    (tmp_path / "config.json").write_text("old")
    with pytest.raises(KeyError), whole_model(tmp_path) as unfinished:
        save(unfinished, "config.json")
        raise KeyError
    assert (tmp_path / "config.json").read_text() == "old" and os.listdir(tmp_path) == ["config.json"]


def test_a_configuration_is_there_only_with_its_weights(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("old")
    seen = []
    replace = Path.replace
    watched = lambda source, target: (seen.append((tmp_path / "config.json").exists()), replace(source, target))  # noqa: E731
    monkeypatch.setattr(Path, "replace", watched)
    with whole_model(tmp_path) as unfinished:
        save(unfinished, "config.json", "model.safetensors", "zebra.json")
    assert seen == [False] * 3


def test_a_scratch_folder_of_a_killed_process_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "hf_face-of-another-program").mkdir()
    child = os.fork()
    if child == 0:
        with scratch_folder() as folder:
            (folder / "model.safetensors").write_text("weights")
            os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / "hf_face-just_begun.lock").touch()  # by a process that was killed before it had a folder
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 1
    with scratch_folder() as first, scratch_folder() as second:
        assert first.is_dir() and second.is_dir() and first != second
        assert not list(tmp_path.glob("*/model.safetensors"))
        assert len(list(tmp_path.iterdir())) == 5  # two with their locks
    assert os.listdir(tmp_path) == ["hf_face-of-another-program"]
