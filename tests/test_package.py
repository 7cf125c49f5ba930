"""What importing the package does, and what imports what."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest
from strangers import Strangers

import hf_face
from hf_face.lazy import names_of_files

ROOT = Path(hf_face.__file__).parent
RULES = ROOT.parent / "CONTRIBUTING.md"
# part of the package -> the other parts it imports, from lines such as "      heads -> lazy, registry"
MAY_IMPORT = {
    part: set(others.split(", ")) - {"nothing"}
    for part, others in re.findall(r"^ {6}(\w+) -> (.+)$", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
}
TRAVELS_TO_THE_HUB = [
    file
    for pattern in (
        *("configuration_*.py", "modeling_*.py", "pipeline_*.py", "image_processing_*.py", "layers.py", "pixels.py"),
        *("alignment.py", "face_detection.py", "opencv_zoo.py"),
    )
    for file in (ROOT / "models").glob(pattern)
]


def imported_modules(file: Path) -> Iterator[str]:
    """Full names of what a file imports, anywhere in it."""
    package = ".".join(["hf_face", *file.relative_to(ROOT).parts[:-1]])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str:
    """The part of the package that `hf_face.<part>...` belongs to."""
    part = module.split(".")[1]
    return "cli" if part == "train" else part  # `hf-face train`, as a module that accelerate can launch


def test_imports_point_one_way_and_the_contributors_page_lists_them():
    found: dict[str, set[str]] = {}
    for file in ROOT.rglob("*.py"):
        part = part_of(".".join(["hf_face", *file.relative_to(ROOT).with_suffix("").parts]))
        ours = {part_of(module) for module in imported_modules(file) if module.startswith("hf_face.")}
        found[part] = found.get(part, set()) | ours - {part}
    del found["__init__"]  # names of every part, at their first use
    assert found == MAY_IMPORT
    TopologicalSorter(found).prepare()  # raises CycleError


def test_the_contributors_page_says_where_everything_is():
    (layout,) = re.findall(r"^```\n(hf_face/\n.+?)```", RULES.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    parts = re.findall(r"^  ([\w./]+) ", layout, re.MULTILINE)
    there = [path for path in ROOT.iterdir() if path.suffix == ".py" or any(path.rglob("*.py"))]
    there = [path.name + "/" * path.is_dir() for path in there if path.name != "__init__.py"]
    assert parts == sorted(there)
    assert all((ROOT.parent / folder).is_dir() for folder in re.findall(r"^([\w/]+)", layout, re.MULTILINE))


@pytest.mark.parametrize("file", TRAVELS_TO_THE_HUB, ids=lambda file: file.stem)
def test_files_that_travel_to_the_hub_import_their_siblings_only(file):
    for module in imported_modules(file):
        package = module.split(".")[0]
        allowed = {"torch", "timm", "transformers", "huggingface_hub", "numpy", "PIL", "httpx", "cv2", "hf_face"}
        assert package in allowed | sys.stdlib_module_names
        if package == "hf_face":
            assert ROOT / "models" / f"{module.split('.')[2]}.py" in TRAVELS_TO_THE_HUB, module
    ours = re.findall(r"^\s*from (\..*?) import", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert all(re.fullmatch(r"\.\w+", name) for name in ours), "transformers copies `from .sibling import ...` only"


IMPORT = """
import sys
import hf_face
hf_face.models, hf_face.recognition, hf_face.pipelines, dir(hf_face)
print(sorted({"torch", "timm", "transformers", "datasets", "sklearn", "matplotlib"} & set(sys.modules)))
"""


def test_importing_the_package_loads_nothing_heavy():
    assert subprocess.check_output([sys.executable, "-c", IMPORT], text=True) == "[]\n"


def test_models_load_without_what_only_training_and_evaluation_need(strangers, tmp_path):
    printed = strangers.run(
        """
import sys
import hf_face
from transformers import AutoConfig, AutoModel
for kind in [*(config.model_type for config in hf_face.FAMILIES), "face_recognition"]:
    assert type(AutoConfig.for_model(kind)) in AutoModel._model_mapping
assert hf_face.IResNetModel.push_to_hub is hf_face.FaceRecognitionModel.push_to_hub is hf_face._push_to_hub
heavy = {"datasets", "sklearn", "matplotlib", "cv2", "evaluate", "peft", "hf_face.hub"}
print(sorted(heavy & set(sys.modules)))
""",
        tmp_path,
        hf_face=True,
    )
    assert printed == "[]\n"


ORDERS = {
    "hf_face first": "import hf_face",
    "transformers alone first": "import transformers, hf_face",
    "every Auto class first": "from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline",
    "AutoConfig first": "from transformers import AutoConfig\nimport hf_face\nAutoConfig.from_pretrained(backbone)",
    "AutoModel first": "from transformers import AutoModel\nimport hf_face\nAutoModel.from_pretrained(backbone)",
    "AutoImageProcessor first": """
from transformers import AutoImageProcessor
import hf_face
AutoImageProcessor.from_pretrained(backbone)""",
    "image processor between": """
import hf_face
from transformers import AutoImageProcessor
AutoImageProcessor.from_pretrained(backbone)""",
    "an import of transformers that passes by AutoModel": "import hf_face, transformers.modeling_layers",
    "a config of ours that imports AutoConfig": "from hf_face import FoundationFaceConfig",
    "a model file of ours": "import hf_face.models.modeling_iresnet",
    "the training model's file": "import hf_face.recognition.modeling_face_recognition",
}


KNOWN_EVERYWHERE = """
import hf_face
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

config = AutoConfig.for_model("iresnet", depths=[1], hidden_sizes=[8])
assert type(config) is hf_face.IResNetConfig
assert type(AutoModel.from_config(config)) is hf_face.IResNetModel
assert type(AutoConfig.from_pretrained(backbone)) is hf_face.IResNetConfig
assert type(AutoModel.from_pretrained(backbone)) is hf_face.IResNetModel
assert type(AutoImageProcessor.from_pretrained(backbone)) is hf_face.FaceImageProcessor
embed = pipeline("image-feature-extraction", model=backbone)
assert type(embed.model) is hf_face.IResNetModel and type(embed.image_processor) is hf_face.FaceImageProcessor
for auto_class in (AutoModel, hf_face.AutoModelForFaceRecognition):
    assert type(auto_class.from_pretrained(training)) is hf_face.FaceRecognitionModel
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a backbone and a training model."""
    folder = tmp_path_factory.mktemp("saved")
    config = hf_face.IResNetConfig(depths=[1], hidden_sizes=[8], stem_size=8, image_size=16, embedding_size=8)
    backbone = hf_face.IResNetModel(config)
    backbone.save_pretrained(folder / "backbone")
    hf_face.FaceImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "backbone")
    hf_face.FaceRecognitionModel.from_backbone(backbone).save_pretrained(folder / "training")
    return folder


@pytest.fixture(scope="module")
def importers():
    """Programs that have what transformers and hf_face import of others, and neither of them yet."""
    strangers = Strangers(["timm", "torchvision.transforms.v2", "accelerate", "scipy.stats"])
    assert strangers.run("import sys; print('transformers' in sys.modules)", Path.cwd(), hf_face=True) == "False\n"
    yield strangers
    strangers.end()


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_our_models_whatever_was_imported_first(importers, saved, order):
    names = f"backbone, training = {str(saved / 'backbone')!r}, {str(saved / 'training')!r}\n"
    importers.run(names + ORDERS[order] + KNOWN_EVERYWHERE, saved, hf_face=True)


@pytest.mark.parametrize("name", hf_face.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hf_face, name) is not None


SUBPACKAGES = "convert data data.augmentation embedding evaluation heads hub training training.methods"


@pytest.mark.parametrize("package", SUBPACKAGES.split())
def test_a_subpackage_lists_the_names_that_it_imports(package):
    module = import_module(f"hf_face.{package}")
    body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom) and node.level == 1]
    assert {alias.name for node in imports for alias in node.names} <= set(module.__all__)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", [hf_face.models, hf_face.recognition])
def test_type_checkers_see_the_names_that_are_there_at_run_time(package):
    stars = re.findall(r"^    from \.(\w+) import \*$", Path(package.__file__).read_text("utf-8"), flags=re.MULTILINE)
    assert stars == sorted(set(names_of_files(package.__name__).values()))
