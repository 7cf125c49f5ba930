"""What a person mistyped is answered in one or two lines; a bug keeps its traceback."""

import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

TRACEBACK = "--traceback"

# Who reads what people write. Their ValueErrors are about names, options and files; those of others are bugs.
READERS = ("hf_face", "transformers", "huggingface_hub", "datasets", "json", "yaml")


class UsageError(ValueError):
    """An option or a subcommand that there is not, or one that is missing."""


def run_for_people(main: Callable[[Sequence[str]], None]) -> None:
    """
    Run `main(sys.argv[1:])`, and end with status 2 and a line or two on the standard error where the person, the files
    or the Hub are at fault. With `--traceback` or HF_FACE_TRACEBACK=1 the exception is raised as it is.
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
    """Whether the message says all that is needed: who raised it, and not where."""
    from huggingface_hub.errors import StrictDataclassError
    from yaml import YAMLError

    if isinstance(error, (OSError, StrictDataclassError, YAMLError)):
        return True
    return isinstance(error, ValueError) and raised_by(error) in READERS


def raised_by(error: Exception) -> str:
    """The package whose code raised it."""
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0]


def explain(error: Exception) -> str:
    """The message; of other packages' long ones, which end with advice on their Python calls, the first two lines."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"no such file or folder: {error.filename}"
    if isinstance(error, UsageError):
        return f"{error}\n{Path(sys.argv[0]).name} --help explains what there is."
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines if raised_by(error) == "hf_face" else lines[:2])


def tell(message: str) -> None:
    """Say it once: ranks beside the first leave their message to the launcher, which names the one that failed."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        report = json.dumps({"message": message, "timestamp": int(time.time())})
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(report, encoding="utf-8")
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'train'?", or nothing where no known name is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
