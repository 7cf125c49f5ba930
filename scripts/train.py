"""
Train a face model from a recipe, evaluate it on people it has not seen, and save it; the same as `hf-face train`.

    accelerate launch scripts/train.py recipes/demo/orl.yaml
    accelerate launch scripts/train.py recipes/demo/orl.yaml --learning_rate 0.05 --margin cosface
    accelerate launch --config_file recipes/accelerate/cpu.yaml scripts/train.py recipes/demo/orl.yaml  # two processes
"""

from hf_face.cli.errors import run_for_people
from hf_face.cli.train import main

if __name__ == "__main__":
    run_for_people(main)
