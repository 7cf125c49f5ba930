"""Coordinates the ranks of a distributed run."""

import torch.distributed as dist


def is_main_process() -> bool:
    """Whether this process is the one that plots, writes and logs."""
    return not dist.is_initialized() or dist.get_rank() == 0


def agreed(value: bool) -> bool:
    """The main process's value on every rank, since ranks that disagree would deadlock."""
    if not dist.is_initialized():
        return value
    answer = [value]
    dist.broadcast_object_list(answer)
    return answer[0]
