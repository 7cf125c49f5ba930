"""
Convert another project's checkpoint to a model folder, or back; the same as `hf-face convert`.

    python scripts/convert_checkpoint.py backbone.pth my-model
    python scripts/convert_checkpoint.py --source magface --keep_class_centers magface.pth my-model
    python scripts/convert_checkpoint.py --set neck=gwp model.pt my-model
    python scripts/convert_checkpoint.py --export arcface_torch my-model backbone.pth
"""

from hf_face.cli.convert import main
from hf_face.cli.errors import run_for_people

if __name__ == "__main__":
    run_for_people(main)
