"""What importing the package does, and what imports what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_face

ROOT = Path(hf_face.__file__).parent
# package -> those of ours it may import
MAY_IMPORT = {
    "models": set(),
    "heads": set(),
    "data": set(),
    "recognition": {"models", "heads"},
    "embedding": {"models", "data"},
    "evaluation": {"models", "data", "embedding"},
    "convert": {"models", "heads"},
    "hub": {"models", "heads", "recognition", "data", "evaluation"},
    "training": {"models", "heads", "data", "evaluation", "recognition", "hub"},
}


def our_imports(file: Path) -> set[str]:
    """The packages of ours that a file imports from, its own left out. The registry is everybody's."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            package = file.relative_to(ROOT.parent).parts[: -node.level] if node.level else ()
            path = [*package, *(node.module.split(".") if node.module else ())]
            names = [path[1]] if len(path) > 1 else [alias.name for alias in node.names]
            found |= set(names) if path[0] == ROOT.name else set()
    return found - {file.relative_to(ROOT).parts[0], "registry"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    for file in (ROOT / package).rglob("*.py"):
        assert our_imports(file) <= MAY_IMPORT[package], file


def test_files_that_travel_to_the_hub_import_their_siblings_only():
    allowed = {"torch", "timm", "transformers", "huggingface_hub"}
    for file in (ROOT / "models").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                outside = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                outside = {node.module.split(".")[0]}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 and node.module, f"{file}: transformers copies `from .sibling import ...` only"
                continue
            else:
                continue
            assert outside - set(sys.stdlib_module_names) <= allowed, file


def test_importing_the_package_registers_the_models_and_loads_nothing_heavy():
    code = """
import sys
import hf_face
from transformers import AutoConfig
for kind in ("timm_face", "iresnet", "mobilefacenet", "vit_face", "foundation_face", "face_recognition"):
    AutoConfig.for_model(kind)
print(sorted({"datasets", "sklearn", "matplotlib", "cv2", "evaluate", "peft"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", hf_face.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hf_face, name) is not None
