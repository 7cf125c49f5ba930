"""
Embed aligned face crops into Parquet; the same as `hf-face embed`.

    python scripts/embed.py --model outputs/demo --images crops --output embeddings.parquet
    accelerate launch scripts/embed.py --model outputs/demo --images crops --output embeddings.parquet
"""

from hf_face.cli.embed import main
from hf_face.cli.errors import run_for_people

if __name__ == "__main__":
    run_for_people(main)
