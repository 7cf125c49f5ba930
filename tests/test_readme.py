"""The README's code runs."""

import re
from pathlib import Path

import pytest

from hf_face import FaceImageProcessor, TimmFaceConfig, TimmFaceModel
from hf_face.training.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
SECTIONS = re.split(r"^### ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def blocks(section: str, language: str) -> list[str]:
    (text,) = [text for text in SECTIONS if text.startswith(section)]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def demo(tmp_path, monkeypatch) -> dict:
    """A folder in which `make demo` has run, as far as the code can see; the names that code has defined."""
    config = TimmFaceConfig(architecture="resnet10t", embedding_size=16)
    TimmFaceModel(config).save_pretrained(tmp_path / "outputs" / "demo")
    FaceImageProcessor().save_pretrained(tmp_path / "outputs" / "demo")
    monkeypatch.chdir(tmp_path)
    return {}


def test_embedding_faces_and_the_pipeline(demo):
    exec(blocks("Embed faces", "python")[0], demo)
    assert demo["similarity"].shape == ()
    assert demo["quality"].shape == (2, 1)
    exec(blocks("As a pipeline", "python")[0], demo)
    assert len(demo["embedding"]) == 16


def test_training_from_python(demo):
    exec(blocks("Train", "python")[0], demo)
    assert demo["trainer"].state.global_step == 2
    assert 0 <= demo["metrics"]["eval_orl_accuracy"] <= 1
    assert Path("outputs/mine/model.safetensors").is_file()


def test_training_from_the_command_line_is_parsed_as_it_stands(monkeypatch):
    (command,) = blocks("Train", "bash")
    monkeypatch.chdir(ROOT)
    program, *arguments = command.split()[2:]
    assert Path(program).is_file()
    model, _, _, args = parse_recipe([*arguments, "--use_cpu", "true"])
    assert (model.margin, args.num_train_epochs, args.output_dir) == ("adaface", 2, "outputs/mine")
