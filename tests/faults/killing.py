"""Starts work in a child process and kills it at a random moment of a stage."""

import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import forked
import victims

PATIENCE = 120  # seconds, for anything a child does; it takes one


@dataclass
class Life:
    """What a child has said until its end, with the times, and how it ended."""

    said: list[tuple[str, str, float]] = field(default_factory=list)
    exitcode: int | None = None

    @property
    def killed(self) -> bool:
        return self.exitcode == -signal.SIGKILL

    def durations(self, stage: str) -> list[float]:
        """How long each of the stages of this name took."""
        begun = [at for name, what, at in self.said if (name, what) == (stage, "begins")]
        ended = [at for name, what, at in self.said if (name, what) == (stage, "ends")]
        return [end - begin for begin, end in zip(begun, ended, strict=True)]

    def last_step(self) -> int:
        return max((int(name.split()[1]) for name, *_ in self.said if name.startswith("step ")), default=0)


class Child:
    """Work that runs in a process of its own."""

    def __init__(self, work: Callable, folder: Path):
        forked.start_server()  # which has trained nothing: torch's threads do not survive a fork
        self.connection, other = forked.CONTEXT.Pipe(duplex=False)
        self.process = forked.CONTEXT.Process(target=victims.live, args=(work, folder, other))
        self.process.start()
        other.close()
        self.life = Life()

    def listen(self) -> Iterator[tuple[str, str]]:
        """What it says, until it ends."""
        while self.connection.poll(PATIENCE):
            try:
                stage, what = self.connection.recv()
            except EOFError:
                return
            self.life.said.append((stage, what, time.monotonic()))
            yield stage, what
        self.send(signal.SIGKILL)
        raise TimeoutError(f"nothing was heard from the child for {PATIENCE} s; it had said {self.life.said}")

    def send(self, number: int) -> None:
        """Send a signal to it and its data workers."""
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(self.process.pid, number)

    def end(self) -> Life:
        """Listen to the end."""
        for _ in self.listen():
            pass
        self.process.join(PATIENCE)
        self.life.exitcode = self.process.exitcode
        return self.life


def live_to_the_end(work: Callable, folder: Path) -> Life:
    child = Child(work, folder)
    life = child.end()
    assert life.exitcode == 0, (folder / "tmp" / "output.txt").read_text()[-3000:]
    return life


def kill_during(
    stage: str, work: Callable, folder: Path, durations: list[float], draws: random.Random, number=signal.SIGKILL
) -> Life:
    """
    Send a signal at a random moment of one of the stages of a name, chosen at random.

    Args:
        durations: How long each of them takes in a life that is not disturbed; a shorter life may have fewer of them.
    """
    child = Child(work, folder)
    nth = draws.randrange(len(durations))
    moment = draws.uniform(0, durations[nth])
    num_begun = 0
    for said in child.listen():
        num_begun += said == (stage, "begins")
        if num_begun > nth:
            time.sleep(moment)
            child.send(number)
            break
    return child.end()


def live_as_ranks(
    work: Callable, folder: Path, victim: int | None = None, moment: float = 0.0, number=signal.SIGKILL
) -> list[Life]:
    """Do work on two ranks, one of which may be sent a signal at a moment of a training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [Child(partial(work, rank=rank, port=port), folder) for rank in range(2)]
    if victim is not None:
        for said in ranks[victim].listen():
            if said == ("training", "begins"):
                time.sleep(moment)
                ranks[victim].send(number)
                break
    return [rank.end() for rank in ranks]


SEED = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(2**32)))  # of the random moments


def seed() -> int:
    """The seed, which is printed with a test that fails."""
    print(f"FAULT_SEED={SEED}", file=sys.stderr)
    return SEED


def num_kills(share: float) -> int:
    """A fault's share of all kills, which are FAULT_KILLS or 20."""
    return max(1, round(share * int(os.environ.get("FAULT_KILLS", 20))))
