"""
Publish a model folder on the Hub: weights, code, image processor, card and figures; the same as `hf-face push`.

    python scripts/push_to_hub.py --model outputs/demo --repo_id org/resnet10t_orl
"""

from hf_face.cli.errors import run_for_people
from hf_face.cli.push import main

if __name__ == "__main__":
    run_for_people(main)
