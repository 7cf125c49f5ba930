"""What the process that `forked.py` forks has imported and read, so that its forks need not."""

import contextlib

import datasets  # noqa: F401
import evaluate  # noqa: F401
import matplotlib.figure  # noqa: F401
import peft  # noqa: F401
import timm  # noqa: F401
import torch.nn.parallel.distributed  # noqa: F401
import transformers.trainer  # noqa: F401

with contextlib.suppress(ImportError):
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401  # imports torch's compiler

import victims  # noqa: F401

import hf_face.cli.train
import hf_face.evaluation  # noqa: F401
from hf_face.data import load_orl
from hf_face.training import FaceTrainer, recipe  # noqa: F401

load_orl()
