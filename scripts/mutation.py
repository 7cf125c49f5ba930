"""
Mutation testing: puts small mistakes into the code, one at a time, and asks whether the tests notice.

    python scripts/mutation.py                             # 200 mutants, with a seed that it prints
    python scripts/mutation.py --seed 3 --mutants 50 hf_face/heads hf_face/data/pairs.py

A mutant is one mistake, drawn at random over the files: `+` for `-`, `<=` for `<`, `and` for `or`, `is` for `is not`,
`in` for `not in`, a lost `not`, `break` for `continue`, `return` for `break`, True for False, or a number plus one (the
mutants of mutmut that change no text). Not mutated are annotations, decorators, the `strict` of `zip`, and what only
type checkers read.

The first run records which tests execute which function; later ones record anew only the test files that changed. A
mutant meets the tests that execute its function, those of its own test file first, until one fails. One that no test
notices survives, and fails the run unless `tests/mutation/equivalent.py` says why no test can notice it.

Everything runs in a copy of the checkout in `build/mutation`, in processes forked from one that has imported the
libraries already.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
WORK = CHECKOUT / "build" / "mutation"
COPY = WORK / "checkout"
ROOMS = [f"hf_face/{room}" for room in ("heads", "evaluation", "data", "models", "recognition", "training")]
PRELOADED = (
    "torch torchvision transformers.trainer transformers.models.timm_backbone datasets accelerate peft timm "
    "sklearn.metrics matplotlib cv2 hypothesis"
)


def copy_checkout() -> None:
    """Bring the copy up to date; unchanged files keep their time, and so their bytecode."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout.splitlines()
    names = [name for name in names if (CHECKOUT / name).is_file()]
    for stale in {str(path.relative_to(COPY)) for path in COPY.rglob("*.py")} - set(names):
        (COPY / stale).unlink()
    for name in names:
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, COPY / name)
    if (CHECKOUT.parent / "shared").is_dir() and not (WORK / "shared").exists():
        (WORK / "shared").symlink_to(CHECKOUT.parent / "shared")  # photographs beside a developer's checkout


def python_files(paths: Iterable[str], pattern: str = "*.py") -> list[str]:
    """Files, and those in folders that match the pattern."""
    return [
        str(file) for path in map(Path, paths) for file in (sorted(path.rglob(pattern)) if path.is_dir() else [path])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=ROOMS, help="files and folders to mutate")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="test files and folders that mutants meet")
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--budget", type=float, default=180, help="seconds of tests that a mutant meets at most")
    arguments = parser.parse_args()

    os.environ |= {"PYTHONPATH": str(COPY), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True  # of mutants
    COPY.mkdir(parents=True, exist_ok=True)
    copy_checkout()
    os.chdir(COPY)
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in (CHECKOUT, CHECKOUT / "scripts")]
    sys.path[:0] = [str(COPY), str(COPY / "tests" / "mutation")]
    for module in PRELOADED.split():
        importlib.import_module(module)
    from equivalent import EQUIVALENT
    from mutants import draw_mutants
    from noticing import RECORD, SURVIVED, Server, in_child, meet, run_anew, run_pytest, tests_of

    drawn = draw_mutants(python_files(arguments.paths), arguments.mutants, arguments.seed)
    equivalent = {entry[:3] for entry in EQUIVALENT}
    met = [mutant for mutant in drawn if mutant.key not in equivalent]
    print(f"seed {arguments.seed}: {len(drawn)} mutants, {len(drawn) - len(met)} of them equivalent", flush=True)

    inside = [mutant for mutant in met if mutant.function]
    (WORK / "survivors.json").unlink(missing_ok=True)
    in_child(lambda: run_pytest(arguments.tests, [Server(inside, arguments.budget, WORK)]))
    survivors = [inside[number] for number in json.loads((WORK / "survivors.json").read_text())]

    tests = set(python_files(arguments.tests, "test_*.py"))
    record = {file: known for file, known in json.loads((WORK / RECORD).read_text()).items() if file in tests}
    outside = [mutant for mutant in met if not mutant.function]  # executed when their file is imported
    for number, mutant in enumerate(outside, 1):
        started = time.monotonic()
        by = meet(mutant, tests_of(mutant, record), arguments.budget, lambda names: run_anew(names, WORK / "last.log"))
        spent = f"{time.monotonic() - started:.1f} s"
        print(f"[{number}/{len(outside)}] {mutant.path}:{mutant.line} {spent}: {by}", flush=True)
        if by == SURVIVED:
            survivors.append(mutant)

    print("", *survivors, "", sep="\n")
    print(f"seed {arguments.seed}: {len(met) - len(survivors)} of {len(drawn)} mutants noticed, ", end="")
    print(f"{len(drawn) - len(met)} equivalent, {len(survivors)} survived")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
