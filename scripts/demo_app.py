"""
Open a page to compare photographs, search a gallery and group photographs, or publish it as a Space; the same as
`hf-face app`.

    python scripts/demo_app.py --model outputs/demo --gallery my_gallery
    python scripts/demo_app.py --model org/model --gallery org/gallery --push org/faces
"""

from hf_face.cli.app import main
from hf_face.cli.errors import run_for_people

if __name__ == "__main__":
    run_for_people(main)
