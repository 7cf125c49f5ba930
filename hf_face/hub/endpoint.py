"""What Inference Endpoints run for a model: `handler.py` and the packages that it needs."""

import re
import shutil
from importlib.metadata import requires
from pathlib import Path

from . import endpoint_handler

NEEDED = {"opencv-python-headless", "timm", "torchvision", "transformers"}  # beside torch, which is there


def write_endpoint(folder: Path) -> None:
    """Write the handler, and the versions of packages that hf_face requires itself, to a model's folder."""
    shutil.copyfile(endpoint_handler.__file__, folder / "handler.py")
    required = {each.partition(";")[0].strip() for each in requires("hf_face") or []}
    needed = sorted(each for each in required if re.split(r"[^\w-]", each)[0] in NEEDED)
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
