"""What launchers start: `accelerate launch -m hf_face.train RECIPE`, the same as `hf-face train RECIPE`."""

from .cli.errors import run_for_people
from .cli.train import main

if __name__ == "__main__":
    run_for_people(main)
