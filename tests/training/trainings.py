"""
Trainings one after the other in the ranks of one launch; started by `test_engines_matrix.py`.

    accelerate launch --config_file FILE trainings.py ARGUMENTS_OF_EACH_AS_JSON

Those in float32 have the word as their first argument; others have the precision of the launch file.
"""

import json
import os
import sys

import torch.distributed as dist
from accelerate import Accelerator

from hf_face.cli.train import main

Accelerator.end_training = lambda self: None  # the ranks stay together for the next one
launched = os.environ["ACCELERATE_MIXED_PRECISION"]
for arguments in json.loads(sys.argv[1]):
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if arguments[0] == "float32" else launched
    main([argument for argument in arguments if argument != "float32"])
if dist.is_initialized():
    dist.barrier()  # a rank that leaves another talking to it can abort
    dist.destroy_process_group()
