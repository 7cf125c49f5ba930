"""
Convert identity data between formats, without re-encoding images; the same as `hf-face data`.

    python scripts/convert_dataset.py --source faces_emore --output_dir data/ms1mv2
    python scripts/convert_dataset.py --source faces_emore --output_dir data/ms1mv2 --push_to_hub me/x --license other
    python scripts/convert_dataset.py --source data/ms1mv2 --output_dir ms1mv2_recordio --to recordio
"""

from hf_face.cli.data import main
from hf_face.cli.errors import run_for_people

if __name__ == "__main__":
    run_for_people(main)
