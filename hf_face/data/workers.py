"""Processes that read and decode ahead, when a scheduler wants to end the one that they work for."""

import os
import signal
import threading
from multiprocessing import parent_process

# What schedulers send to all processes of a run. SLURM's --signal=USR1@180 comes before its SIGTERM.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has only one


def work_to_the_end(worker: int) -> None:
    """
    A `worker_init_fn` for a `DataLoader`: signals that are sent to all processes do not end a worker, since the main
    process may need further batches until it has stopped. It ends its workers by the same signal.
    """
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    while parent is not None and signal.sigwaitinfo(SIGNALS).si_pid != parent.pid:
        pass
    os._exit(0)
