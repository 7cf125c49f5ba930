"""A class in a new file of hf_face is known by name without an edit anywhere else."""

import shutil
from pathlib import Path

import hf_face

FILES = {
    "heads/margins/late.py": """
from ...registry import margins
from .angular import CosFaceMargin

@margins.register("late_margin")
class LateMargin(CosFaceMargin): ...
""",
    "data/augmentation/late.py": """
from ...registry import augmentations
from .geometric import RandomHorizontalFlip

@augmentations.register("late_augmentation")
class LateAugmentation(RandomHorizontalFlip): ...
""",
    "convert/late.py": """
from ..registry import sources
from .adaface import AdaFace

@sources.register("late_source")
class LateSource(AdaFace): ...
""",
}
NAMES = """
from hf_face.convert.convert import get_source
from hf_face.data import build_augmentation
from hf_face.heads import build_margin

print(build_margin("late_margin", m=0.1).m, build_augmentation("late_augmentation", 112).steps[0].p)
print(get_source("late_source").name)
"""


def test_a_new_file_needs_no_other_edit(strangers, tmp_path):
    package = tmp_path / "hf_face"
    shutil.copytree(Path(hf_face.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (package / name).write_text(text, encoding="utf-8")
    assert strangers.run(NAMES, tmp_path, hf_face=True).split() == ["0.1", "0.5", "late_source"]
