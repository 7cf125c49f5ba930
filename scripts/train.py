"""
Trains a face model from a recipe, evaluates it on people it has not seen, and saves it; see hf_face/train.py.

    accelerate launch scripts/train.py recipes/demo/orl.yaml
    accelerate launch scripts/train.py recipes/demo/orl.yaml --learning_rate 0.05 --margin cosface
    torchrun --standalone --nproc_per_node 2 scripts/train.py recipes/demo/orl.yaml --use_cpu true  # ranks without GPUs
"""

from hf_face.train import main

if __name__ == "__main__":
    main()
