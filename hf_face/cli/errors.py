"""Reports user errors in one or two lines, and bugs with a traceback."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..user_input import no_such_file

TRACEBACK = "--traceback"

# Packages that parse user input: their ValueErrors are about names, options and files, and their ImportErrors about
# packages to install. Those of others are bugs.
READERS = ("hf_face", "transformers", "huggingface_hub", "datasets", "json", "yaml")

# An error in a process that loads data, with its traceback, as `torch.utils.data` raises it again.
WORKER_ERROR = re.compile(r"Caught \w+ in DataLoader worker.*\n[\w.]+: (.+?)\s*", re.DOTALL)

# What torch raises when such a process has been killed, or is missing.
WORKER_ENDED = re.compile(r"DataLoader worker \(pid.+")

# Seconds that the first rank has to say what is wrong with all ranks: the launcher ends them as soon as one has ended.
HEAD_START = 5


class UsageError(ValueError):
    """An unknown or missing option or subcommand."""


def run_for_people(main: Callable[[Sequence[str]], None]) -> None:
    """
    Run `main(sys.argv[1:])`. Errors in user input, files or the Hub exit with status 2 and a line or two on standard
    error. With `--traceback` or HF_FACE_TRACEBACK=1, the exception is raised instead.
    """
    show_traceback = TRACEBACK in sys.argv or os.environ.get("HF_FACE_TRACEBACK") == "1"
    try:
        main([argument for argument in sys.argv[1:] if argument != TRACEBACK])
    except Exception as error:
        if show_traceback or not is_for_people(error):
            raise
        tell(f"{Path(sys.argv[0]).name}: error: {explain(error)}")
        sys.exit(2)


def is_for_people(error: Exception) -> bool:
    """Whether the error is not a bug, so that its message is sufficient without traceback."""
    from huggingface_hub.errors import StrictDataclassError
    from yaml import YAMLError

    if isinstance(error, (OSError, StrictDataclassError, YAMLError)) or WORKER_ENDED.match(str(error)):
        return True
    return isinstance(error, (ValueError, ImportError)) and raised_by(error) in READERS


def raised_by(error: Exception) -> str:
    """The package that raised the error, or that defines its class, which other processes raise again."""
    if type(error).__module__.startswith("hf_face."):
        return "hf_face"
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0]


def explain(error: Exception) -> str:
    """The error message; only the first two lines for other packages, which may add advice on Python calls."""
    from yaml import MarkedYAMLError

    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return no_such_file(error.filename)
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if worker_error := WORKER_ERROR.fullmatch(str(error)):
        return worker_error[1]
    if ended := WORKER_ENDED.match(str(error)):
        return f"{ended[0]}\nIf memory ran out, use fewer data workers. Start again to go on from what is finished."
    if isinstance(error, UsageError):
        return f"{error}\n{Path(sys.argv[0]).name} --help shows the usage."
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines if raised_by(error) == "hf_face" else lines[:2])


def tell(message: str) -> None:
    """Print the message on the first rank. Other ranks pass it to the launcher, which reports the failed rank."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        report = json.dumps({"message": message, "timestamp": int(time.time())})
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(report, encoding="utf-8")
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)
    else:
        time.sleep(HEAD_START)
