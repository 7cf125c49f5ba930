"""
Scripts in processes forked from one that has the libraries imported, so that starting them takes no time, alone or as
ranks. What launchers themselves do, and what the first import of a library does, needs a process of its own.
"""

import functools
import gc
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

ROOT = Path(__file__).parents[1]
CONTEXT: Any = multiprocessing.get_context("forkserver")


@functools.cache
def start_server() -> None:
    """Start the process that is forked: the only one of its kind, so it imports what any of its users need."""
    CONTEXT.set_forkserver_preload(["preloaded"])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where this process looks for modules
        environment.setenv("DS_ACCELERATOR", "cpu")
        forkserver.ensure_running()


@dataclass
class Ranks:
    """Running processes, and the folder with what each prints."""

    processes: list[BaseProcess]
    folder: Path
    store: TCPStore

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def wait(self, timeout: float = 180) -> int:
        """The exit status: 0, or the first other one, which ends the other ranks as in torchrun."""
        deadline = time.monotonic() + timeout
        running = list(self.processes)
        while running:
            ended = wait([process.sentinel for process in running], max(0, deadline - time.monotonic()))
            assert ended, f"still running after {timeout} s: {self.stderr[-3000:]}"
            codes = [process.exitcode for process in running if process.sentinel in ended]
            if any(codes):
                self.kill()
                return next(filter(None, codes))
            running = [process for process in running if process.sentinel not in ended]
        return 0

    @property
    def stdout(self) -> str:
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        return self._printed("stderr")

    def _printed(self, name: str) -> str:
        return "".join((self.folder / f"{name}{rank}").read_text() for rank in range(len(self.processes)))


def start(arguments: Sequence[object], num_ranks: int = 1, cwd: Path = ROOT, **environment: str) -> Ranks:
    """Start a script, or a module after `-m`, with arguments, as this many ranks on the CPU."""
    folder = Path(mkdtemp())
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)} | environment
    start_server()
    processes = []
    for rank in range(num_ranks):
        own = environment | ({} if num_ranks == 1 else _environment_of(rank, num_ranks, store.port))
        processes.append(CONTEXT.Process(target=_run, args=(rank, [*map(str, arguments)], own, cwd, folder)))
        processes[-1].start()
    return Ranks(processes, folder, store)


def run(arguments: Sequence[object], num_ranks: int = 1, **kwargs) -> Ranks:
    """Run a script that ends well, see `start`."""
    ranks = start(arguments, num_ranks, **kwargs)
    assert ranks.wait() == 0, ranks.stderr[-3000:]
    return ranks


def _environment_of(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """As torchrun sets it."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    return {name: str(value) for name, value in variables.items()}


def _run(rank: int, arguments: list[str], environment: dict[str, str], cwd: Path, folder: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for stream in (sys.stdout, sys.stderr):
        name = "stdout" if stream is sys.stdout else "stderr"
        os.dup2(os.open(folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process that was not forked
    gc.freeze()  # what has been imported stays: trainings, which collect garbage, need not look through it
    sys.path.insert(0, str(ROOT))
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).absolute().parent))
        runpy.run_path(arguments[0], run_name="__main__")
