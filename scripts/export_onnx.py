"""
Export a face model to ONNX; the same as `hf-face export`.

    python scripts/export_onnx.py --model outputs/demo
    python scripts/export_onnx.py --model my-model --crops crops --precision fp32 fp16 int8 --preprocessing
"""

from hf_face.cli.errors import run_for_people
from hf_face.cli.export import main

if __name__ == "__main__":
    run_for_people(main)
