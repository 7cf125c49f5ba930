"""Coordinates the ranks of a distributed run."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def is_main_process() -> bool:
    """Whether this process is the one that plots, writes and logs."""
    return not dist.is_initialized() or dist.get_rank() == 0


def agreed(value: T) -> T:
    """The main process's value on every rank, since ranks that disagree would deadlock."""
    if not dist.is_initialized():
        return value
    answer = [value]
    dist.broadcast_object_list(answer)
    return answer[0]


def wait_for_all() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()
