"""
Evaluate a face model on one or more protocols; the same as `hf-face evaluate`.

    python scripts/evaluate.py --model outputs/demo --protocol lfw.bin --output_dir results
    python scripts/evaluate.py --model outputs/demo --protocol lfw cfp_fp agedb_30 quality --data faces_emore
    accelerate launch scripts/evaluate.py --model outputs/demo --protocol rfw --data RFW/test --autocast bf16
"""

from hf_face.cli.errors import run_for_people
from hf_face.cli.evaluate import main

if __name__ == "__main__":
    run_for_people(main)
