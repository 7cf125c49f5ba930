"""
Programs in processes forked from one that has libraries imported, and nothing of hf_face: what those can do who have
transformers alone, or import hf_face after it, without the seconds that the imports take.

What does not differ between people is run by `forked.py`, whose processes have hf_face imported as well.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds, for a program; it takes one


class Strangers:
    """
    Runs programs one after the other.

    Args:
        libraries: The names of the modules that they find imported.
        environment: What these read when they are imported.
    """

    def __init__(self, libraries: Sequence[str], **environment: str):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
        self.process = subprocess.Popen(
            [sys.executable, __file__, *libraries],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, cwd: Path, hf_face: bool, path: Sequence[Path] = ()) -> str:
        """
        What a program prints that ends well.

        Args:
            cwd: The folder that it runs in. It finds the modules there.
            hf_face: Whether hf_face can be imported.
            path: More folders with modules.
        """
        output = Path(mkdtemp())
        task = [program, str(output), str(cwd), hf_face, [str(cwd), *map(str, path)]]
        print(json.dumps(task), file=self.process.stdin, flush=True)
        status = int(self.process.stdout.readline())
        assert status == 0, (output / "stderr").read_text()[-3000:]
        return (output / "stdout").read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def live(program: str, output: str, cwd: str, hf_face: bool, path: list[str]) -> None:
    """Run a program as if Python had been started with it."""
    signal.alarm(PATIENCE)
    gc.freeze()
    for stream in ("stdout", "stderr"):
        os.dup2(os.open(Path(output, stream), os.O_WRONLY | os.O_CREAT), getattr(sys, stream).fileno())
    os.chdir(cwd)
    sys.path[:0] = path
    if not hf_face:
        sys.modules["hf_face"] = None
    status = 0
    try:
        exec(program, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve() -> None:
    """Run the programs that arrive as lines, and answer with the statuses they end with."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what libraries print
        sys.path.pop(0)  # this folder
        for name in sys.argv[1:]:
            importlib.import_module(name)
        for line in sys.stdin:
            if (child := os.fork()) == 0:
                live(*json.loads(line))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    serve()
