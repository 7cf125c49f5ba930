"""What Inference Endpoints run for a model: `handler.py` and the packages that it needs."""

import re
import shutil
from importlib.metadata import requires
from pathlib import Path

from . import endpoint_handler

NEEDED = {"pillow", "timm", "torchvision", "transformers"}  # torch itself is part of their images


def write_endpoint(folder: Path) -> None:
    """Write the handler and its requirements to a folder with a model."""
    shutil.copyfile(endpoint_handler.__file__, folder / "handler.py")
    needed = [each for each in requires("hf_face") or [] if re.match(r"[\w-]+", each)[0] in NEEDED and ";" not in each]
    (folder / "requirements.txt").write_text("\n".join(sorted(needed)) + "\n", encoding="utf-8")
