"""scripts/train.py under FSDP or DeepSpeed without a GPU, which accelerate by itself starts on accelerators only.

torchrun --standalone --nproc_per_node 2 tests/training/engines_on_cpu.py scripts/train.py RECIPE ...
"""

import runpy
import sys

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env

prepare = PartialState.__init__


def prepare_as_on_gpus(self, *args, **kwargs):
    prepare(self, *args, **kwargs)
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if self.distributed_type == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    elif parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and dist.is_initialized():
        self._shared_state.update(
            distributed_type=DistributedType.DEEPSPEED,
            device=torch.device("cpu"),
            num_processes=dist.get_world_size(),
            process_index=dist.get_rank(),
            local_process_index=dist.get_rank(),
        )


PartialState.__init__ = prepare_as_on_gpus
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
