"""Trainings one after the other in the ranks of one launch; started by `test_engines_matrix.py`.

accelerate launch --config_file FILE trainings.py ARGUMENTS_OF_EACH_AS_JSON
"""

import json
import sys

from hf_face.cli.train import main

for arguments in json.loads(sys.argv[1]):
    main(arguments)
