"""
Runs transformers' own common tests on every family and on the training model, and prints a table.

    python scripts/conformance.py                          # everything, about ten minutes on one core
    python scripts/conformance.py -k "vit_face and save"   # some of it; any option of pytest

The tests are those of the installed transformers version. pip fetches its source archive, whose `tests/` holds the
common tests but not the folders that they import beside them; `tests/conformance/` says what stands in for those and
which tests do not apply, each with its reason. Nothing of the archive is part of this repository.
"""

import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pytest
import transformers

CONFORMANCE = Path(__file__).parents[1] / "tests" / "conformance"
CACHE = Path("~/.cache/hf_face").expanduser()
PACKAGE = "transformers_tests"  # the archive calls it `tests`, as we call our own
COLUMNS = ("passed", "skipped by transformers", "not applicable", "failed")


def download_archive(version: str, cache: Path) -> Path:
    """The source archive of a transformers version, fetched by pip unless it is in the cache."""
    archive = cache / f"transformers-{version}.tar.gz"
    if not archive.is_file():
        wanted = ["--no-deps", "--no-binary", "transformers", "--dest", str(cache), f"transformers=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True)
    return archive


def unpack_tests(archive: Path, folder: Path) -> None:
    """Unpack the archive's `tests/*.py` as the package `transformers_tests` in a folder."""
    package = folder / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and path.parts[1:2] == ("tests",) and len(path.parts) == 3 and path.suffix == ".py":
                (package / path.name).write_bytes(tar.extractfile(member).read())
    (package / "__init__.py").touch()


class Table:
    """A pytest plugin that deselects what does not apply and counts the outcomes by test class."""

    def __init__(self, not_applicable: Sequence[tuple[str, str, str]]):
        self.not_applicable = not_applicable
        self.outcomes: dict[str, str] = {}  # by test; with subtests, a test has several reports
        self.reasons: Counter = Counter()

    @pytest.hookimpl(trylast=True)  # after -k
    def pytest_collection_modifyitems(self, config, items):
        kept, deselected = [], []
        for item in items:
            reason = self.reason(item.cls.__name__, item.originalname)
            (deselected if reason else kept).append(item)
            if reason:
                self.outcomes[item.nodeid] = "not applicable"
                self.reasons[reason] += 1
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept

    def reason(self, class_name: str, test: str) -> str | None:
        """Why a test does not apply to a class; None if it does."""
        for which, tests, reason in self.not_applicable:
            if fnmatchcase(class_name, which) and fnmatchcase(test, tests):
                return reason
        return None

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self.outcomes.setdefault(report.nodeid, "skipped by transformers")
        elif report.when == "call":
            self.outcomes.setdefault(report.nodeid, "passed")

    def __str__(self):
        counts: dict[str, Counter] = defaultdict(Counter)
        for nodeid, outcome in self.outcomes.items():
            counts[nodeid.split("::")[1].removesuffix("Test")][outcome] += 1
        counts["all"] = sum(counts.values(), Counter())
        lines = ["| model |" + "".join(f" {column} |" for column in COLUMNS), "|---|" + "---:|" * len(COLUMNS)]
        for name, row in counts.items():
            lines.append(f"| {name} |" + "".join(f" {row[column]} |" for column in COLUMNS))
        return "\n".join(lines)


def main(options: list[str]) -> int:
    if options in (["-h"], ["--help"]):
        print(f"usage: conformance.py [option of pytest ...]\n{__doc__}")
        return 0
    folder = CACHE / f"transformers-{transformers.__version__}"
    CACHE.mkdir(parents=True, exist_ok=True)
    unpack_tests(download_archive(transformers.__version__, CACHE), folder)
    sys.path[:0] = [str(folder), str(CONFORMANCE)]
    import stand_ins  # needs the folder on the path
    from not_applicable import NOT_APPLICABLE

    stand_ins.install(folder)
    table = Table(NOT_APPLICABLE)
    quiet = ["-q", "--no-header", "--tb=short", "-W", "ignore", "-p", "no:cacheprovider"]
    arguments = [*quiet, "-o", "addopts=--import-mode=importlib", str(CONFORMANCE / "families.py"), *options]
    status = pytest.main(arguments, plugins=[table])
    print(f"\ntransformers {transformers.__version__}\n\n{table}\n\nNot applicable:")
    for reason, count in table.reasons.most_common():
        print(f"- {count} tests: {reason}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
