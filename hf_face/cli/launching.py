"""What a command does about the launcher that started it."""

import os
import sys

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # torch's and MPI's


def num_launched() -> int:
    """The number of processes that a launcher started, this one included."""
    return max(int(os.environ.get(name, 1)) for name in WORLD_SIZES)


def use_ranks_without_gpus() -> None:
    """
    Make accelerate use several processes on a machine without GPUs as ranks on the CPU. Unless it is told to, it takes
    each of them for the only one.
    """
    import torch

    if num_launched() > 1 and not torch.accelerator.is_available() and "ACCELERATE_USE_DEEPSPEED" not in os.environ:
        os.environ["ACCELERATE_USE_CPU"] = "true"


def hint_at_launchers() -> None:
    """Say how to start more processes, if this one was started alone for several GPUs or in place of several."""
    import torch

    devices = torch.accelerator.device_count()
    if num_launched() > 1:
        return
    if devices > 1:
        hint = f"Training on {devices} GPUs with one process; for one process per GPU, see `hf-face train --help`."
    elif "MASTER_ADDR" in os.environ:  # which accelerate's launcher sets for several processes
        hint = (
            "Training with one process: without GPUs, `accelerate launch --num_processes N` starts a single one. For "
            "several, use `accelerate launch --config_file $(hf-face recipes accelerate/cpu) --num_processes N`."
        )
    else:
        return
    print(hint, file=sys.stderr)
