"""
Train a face model from a recipe, evaluate it on people it has not seen, and save it.

The help is that of `hf_face/train.py`, which is what launchers start.
"""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    import torch

    from .. import train

    devices = torch.accelerator.device_count()
    if devices > 1 and "RANK" not in os.environ:
        print(f"This is one process for {devices} GPUs; for one each, see `hf-face train --help`.", file=sys.stderr)
    train.main(argv)
