"""Registration of backbone families: built-in and custom ones."""

import json
from pathlib import Path

import pytest
from huggingface_hub.dataclasses import strict

import hf_face
from hf_face import FaceAlignerConfig, FaceAlignerModel, IResNetModel
from hf_face.models import FAMILIES, FaceConfig, FacePreTrainedModel, IResNetConfig, register_family
from hf_face.models.families import built_in_models
from hf_face.registry import families

CONFIGURATION = '''
"""A custom family."""

from huggingface_hub.dataclasses import strict

from hf_face.models.configuration_face import FaceConfig


@strict
class TinyConfig(FaceConfig):
    """The mean color of the crop, projected."""

    model_type = "tiny"
    citations = ("@misc{tiny, title = {Tiny}}",)

    embedding_size: int = 8
    image_size: int = 16


__all__ = ["TinyConfig"]
'''
MODELING = """
from torch import nn

from hf_face.models.modeling_face import FacePreTrainedModel, face_embedding_output

from .configuration_tiny import TinyConfig


class TinyModel(FacePreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.projection = nn.Linear(config.num_channels, config.embedding_size)
        self.post_init()

    def forward(self, pixel_values, **kwargs):
        return face_embedding_output(self.projection(pixel_values.mean((2, 3))))


__all__ = ["TinyModel"]
"""
PLUGIN = """
from hf_face.models import register_family

from .configuration_tiny import TinyConfig
from .modeling_tiny import TinyModel

register_family(TinyConfig, TinyModel)
"""


@pytest.fixture
def run(strangers, tmp_path):
    """Runs a program in a new process, beside a package `my_faces` with the family, and returns the JSON it prints."""
    package = tmp_path / "plugins" / "my_faces"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PLUGIN)
    (package / "configuration_tiny.py").write_text(CONFIGURATION)
    (package / "modeling_tiny.py").write_text(MODELING)

    def run_program(code: str, plugins: tuple[Path, ...] = (package.parent,)):
        return json.loads(strangers.run("import json\n" + code, tmp_path, hf_face=True, path=plugins).splitlines()[-1])

    return run_program


def test_built_in_families_are_found_by_their_files():
    files = Path(hf_face.models.__file__).parent.glob("modeling_*.py")
    others = {"face", "face_aligner"}  # the base of all families, and what finds faces rather than embedding them
    assert set(families) == {file.stem.removeprefix("modeling_") for file in files} - others
    assert set(families) == {config_class.model_type for config_class in FAMILIES}
    for config_class, model_class in FAMILIES.items():
        assert families[config_class.model_type].target is config_class
        assert model_class.config_class is config_class


def test_a_family_of_ones_own_is_like_the_built_in_ones(run):
    found = run("""
import numpy as np
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline
from hf_face import FAMILIES, FaceImageProcessor, FaceRecognitionConfig, FaceRecognitionModel
from hf_face.registry import families, load_plugins

load_plugins(["my_faces"])
config = families.build({"tiny": {"embedding_size": 4}})
assert AutoConfig.for_model("tiny").embedding_size == 8
model = AutoModel.from_config(config)
assert FAMILIES[type(config)] is type(model)
model.save_pretrained("saved")
FaceImageProcessor(**config.preprocessing).save_pretrained("saved")
assert type(AutoImageProcessor.from_pretrained("saved")) is FaceImageProcessor

embed = pipeline("image-feature-extraction", model="saved")
training = FaceRecognitionModel(FaceRecognitionConfig(backbone_config={"model_type": "tiny"}))
print(json.dumps([type(embed.model).__module__, type(training.backbone).__name__, config.citations]))
""")
    assert found == ["my_faces.modeling_tiny", "TinyModel", ["@misc{tiny, title = {Tiny}}"]]


def test_the_code_of_a_family_of_ones_own_travels_with_the_weights(run, tmp_path):
    run("""
import my_faces, torch
torch.manual_seed(0)
my_faces.TinyModel(my_faces.TinyConfig()).save_pretrained("saved")
print(0)
""")
    assert {"configuration_tiny.py", "modeling_tiny.py"} <= {file.name for file in (tmp_path / "saved").iterdir()}
    module, is_ours = run(
        """
import hf_face
from transformers import AutoModel
model = AutoModel.from_pretrained("saved", trust_remote_code=True)
print(json.dumps([type(model).__module__.split(".")[0], isinstance(model, hf_face.FacePreTrainedModel)]))
""",
        plugins=(),
    )
    assert (module, is_ours) == ("transformers_modules", True)


def test_files_of_the_package_give_its_models():
    found = dict(built_in_models())
    assert found[IResNetConfig] is IResNetModel and found[FaceAlignerConfig] is FaceAlignerModel
    assert {config_class for config_class in found if issubclass(config_class, FaceConfig)} <= FAMILIES.keys()


def test_a_folders_copy_of_a_built_in_family_changes_nothing():
    @strict
    class Copy(IResNetConfig):
        pass

    Copy.__module__ = "transformers_modules.copied.configuration_iresnet"
    register_family(Copy, IResNetModel)
    assert families["iresnet"].target is IResNetConfig and Copy not in FAMILIES


def test_a_family_needs_a_name_of_its_own():
    @strict
    class Nameless(FaceConfig):
        pass

    @strict
    class Deeper(IResNetConfig):
        depths: list[int] | tuple[int, ...] = (9, 9, 9, 9)

    with pytest.raises(ValueError, match="Nameless has no model_type"):
        register_family(Nameless, FacePreTrainedModel)
    with pytest.raises(ValueError, match="'iresnet' is already registered as IResNetConfig"):
        register_family(Deeper, FacePreTrainedModel)


def test_an_unknown_family_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"No backbone family is called 'tiny'.*iresnet, mobilefacenet, .*vit_face"):
        families["tiny"]
    with pytest.raises(ValueError, match="Did you mean 'iresnet'"):
        families["iresnet50"]
