"""Processes that read and decode ahead, when a scheduler wants to end the one that they work for."""

import multiprocessing
import os
import signal
import sys
import threading
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

# What schedulers send to all processes of a run. SLURM's --signal=USR1@180 comes before its SIGTERM.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has only one


def spare_workers(loader: DataLoader) -> DataLoader:
    """
    Keep signals that are sent to all processes from ending a loader's workers: the main process may need further
    batches until it has stopped. It ends its workers by the same signal. On Linux only.
    """
    own = getattr(loader, "base_dataloader", loader)  # the one inside accelerate's
    if own.num_workers and sys.platform == "linux":
        context: Any = own.multiprocessing_context or multiprocessing
        if context.get_start_method() == "fork":
            own.multiprocessing_context = PatientContext()
        own.worker_init_fn = partial(_initialize, own.worker_init_fn)
    return loader


if sys.platform == "linux":
    from multiprocessing.context import ForkContext, ForkProcess

    class PatientProcess(ForkProcess):
        """A process that starts with the signals blocked, since they may come before it could block them itself."""

        def start(self) -> None:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    class PatientContext(ForkContext):
        Process = PatientProcess


def _initialize(further: Any, worker: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if further is not None:
        further(worker)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and signal.sigwaitinfo(SIGNALS).si_pid != parent.pid:
        pass
    os._exit(0)
