"""Runs tests for mutants, each in a process forked from one that has imported everything."""

import gc
import hashlib
import json
import math
import os
import resource
import shutil
import signal
import tempfile
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest
from mutants import Mutant, function_at, function_spans, place

RECORD = "record.json"  # what is known of the tests, by file
SURVIVED = "SURVIVED"
DEFAULTS = "tests/test_defaults.py"  # reads every file's constants and defaults without executing its functions
MEMORY = 12 * 2**30  # a mistaken size fails rather than fills the machine


def in_child(work: Callable[[], int], timeout: float = math.inf) -> int | None:
    """The status of `work()`, done in a forked process that may take so many seconds; None if it takes longer."""
    child = os.fork()
    if not child:
        os.setsid()
        status = 1
        try:
            status = work()
        finally:
            os._exit(status)
    deadline = time.monotonic() + timeout
    done = status = 0
    while not done and time.monotonic() < deadline:
        time.sleep(0.02)
        done, status = os.waitpid(child, os.WNOHANG)
    with suppress(ProcessLookupError):  # ends what a test launched and left running
        os.killpg(child, signal.SIGKILL)
    if done:
        return os.waitstatus_to_exitcode(status)
    os.waitpid(child, 0)
    return None


def run_pytest(arguments: list[str], plugins: Iterable = ()) -> int:
    of_checkout = str(Path.cwd()).replace(os.sep, "-")  # another one's run at the same time needs another folder
    scratch = Path(tempfile.gettempdir(), f"hf_face_mutation{of_checkout}")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={scratch}"]
    return int(pytest.main([*options, *arguments], plugins=list(plugins)))


def run_anew(names: list[str], log: Path) -> int:
    """Run tests in this process, importing the package and them anew."""
    _write_to(log)
    return run_pytest(["-x", *names])


def _write_to(log: Path) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


@dataclass
class Tests:
    """Tests of one file, and how long they take."""

    file: str
    names: list[str]
    seconds: float


def tests_of(mutant: Mutant, record: dict[str, dict]) -> list[Tests]:
    """The tests that execute the mutant's function: the closest, then the fastest.

    Those that execute its file, if that has changed since they were recorded, or if the mutant is in no function, where
    tests of defaults come first.
    """
    source = _digest([Path(mutant.path)])

    def execute(functions: list[str], is_recorded: bool) -> bool:
        if mutant.function and is_recorded:
            return f"{mutant.path}::{mutant.function}" in functions
        return any(name.startswith(f"{mutant.path}::") for name in functions)

    found = []
    for file, known in record.items():
        is_recorded = known["sources"].get(mutant.path) == source
        executing = {name for name, functions in known["functions"].items() if execute(functions, is_recorded)}
        executing |= {file} if file == DEFAULTS and not mutant.function else set()
        names = [name for name in known["seconds"] if file in executing or name in executing]
        if names:
            found.append(Tests(file, names, sum(known["seconds"][name] for name in names)))

    def distance(tests: Tests) -> tuple:
        source, test = Path(mutant.path), Path(tests.file)
        return tests.file != DEFAULTS, source.stem not in test.stem, source.parts[1] != test.parts[1], tests.seconds

    return sorted(found, key=distance)


def meet(mutant: Mutant, tests: list[Tests], budget: float, run: Callable[[list[str]], int]) -> str:
    """The test file that notices the mutant, or SURVIVED after so many seconds of tests. The mutated file is in its
    place meanwhile. `run` runs tests and returns a status other than 0 if one fails."""
    path = Path(mutant.path)
    original, times = path.read_bytes(), (path.stat().st_atime, path.stat().st_mtime)
    path.write_text(mutant.source)
    try:
        for some in tests:
            status = in_child(lambda names=some.names: run(names), 60 + 5 * some.seconds)
            if status != 0:
                return some.file if status is not None else f"{some.file} takes too long"
            budget -= some.seconds
            if budget < 0:
                break
    finally:
        path.write_bytes(original)
        os.utime(path, times)  # its bytecode stays valid
    return SURVIVED


class Recorder:
    """Which functions each test executes, and how long each test that passes takes.

    What other processes execute, such as data workers and ranks, counts for all tests of the file.
    """

    def __init__(self, file: str, folder: Path):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config = folder / "coveragerc"
        config.write_text(
            f"[run]\nsource_pkgs = hf_face\nparallel = true\nrelative_files = true\ndata_file = {folder}/.coverage\n"
            f"concurrency = thread, multiprocessing\ncontext = {file}\ndisable_warnings = module-not-measured\n"
        )
        os.environ["COVERAGE_PROCESS_START"] = str(config)  # for the processes that a test launches
        self.file = file
        self.seconds: dict[str, float] = {}
        self.coverage = coverage.Coverage(config_file=str(config))
        self.coverage.start()

    def enter(self, test: str) -> None:
        self.coverage.switch_context(test)

    def result(self) -> dict:
        self.coverage.stop()
        self.coverage.save()
        self.coverage.combine()
        data = self.coverage.get_data()
        executed, sources = defaultdict(set), {}
        for file in data.measured_files():
            sources[file] = _digest([Path(file)])
            spans = function_spans(Path(file).read_text())
            for line, tests in data.contexts_by_lineno(file).items():
                name = function_at(spans, line)
                for test in tests if name else ():
                    executed[test.removeprefix(f"{self.file}|")].add(f"{file}::{name}")
        functions = {test: sorted(executed[test]) for test in executed}
        return {"seconds": self.seconds, "functions": functions, "sources": sources}


class Server:
    """A pytest plugin that does not run all tests once, but for each mutant those that execute it, in a forked process.

    The package and its tests are imported once: a fork exchanges the code of the mutated function.
    """

    def __init__(self, mutants: list[Mutant], budget: float, folder: Path):
        self.mutants = mutants
        self.budget = budget
        self.folder = folder
        self.recorder: Recorder | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        terminal = session.config.pluginmanager.getplugin("terminalreporter")
        self.functions = _loaded_functions()
        self.items = {item.nodeid: item for item in session.items}
        record = self._record_changed(terminal)
        survivors = []
        for number, mutant in enumerate(self.mutants):
            started = time.monotonic()
            by = meet(
                mutant, tests_of(mutant, record), self.budget, lambda names, m=mutant: self._run_mutated(names, m)
            )
            spent = f"{time.monotonic() - started:.1f} s"
            terminal.write_line(f"[{number + 1}/{len(self.mutants)}] {mutant.path}:{mutant.line} {spent}: {by}")
            if by == SURVIVED:
                terminal.write_line(str(mutant))
                survivors.append(number)
        (self.folder / "survivors.json").write_text(json.dumps(survivors))
        return True

    def _record_changed(self, terminal) -> dict[str, dict]:
        """What is known of the collected test files, after recording those that changed."""
        path = self.folder / RECORD
        record = json.loads(path.read_text()) if path.is_file() else {}
        by_file = defaultdict(list)
        for name in self.items:
            by_file[name.partition("::")[0]].append(name)
        result = self.folder / "recorded.json"
        for number, (file, names) in enumerate(by_file.items(), 1):
            digest = _digest([Path(file), Path(file).parent / "conftest.py", Path("tests/conftest.py")])
            if record.get(file, {}).get("digest") != digest:
                result.write_text('{"seconds": {}, "functions": {}, "sources": {}}')
                in_child(lambda file=file: self._record(by_file[file], file, result), timeout=1800)
                record[file] = json.loads(result.read_text()) | {"digest": digest}
                path.write_text(json.dumps(record))
                passed = len(record[file]["seconds"])
                terminal.write_line(f"recorded {number} of {len(by_file)} files: {file}, {passed} of {len(names)} pass")
        return {file: record[file] for file in by_file}

    def _record(self, names: list[str], file: str, result: Path) -> int:
        _write_to(self.folder / "last.log")
        self.recorder = Recorder(file, self.folder / "coverage")
        self._run(names)
        result.write_text(json.dumps(self.recorder.result()))
        return 0

    def _run_mutated(self, names: list[str], mutant: Mutant) -> int:
        _write_to(self.folder / "last.log")
        mutant.exchange_code(self.functions)
        return self._run(names, fail_fast=True)

    def _run(self, names: list[str], fail_fast: bool = False) -> int:
        items = [self.items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if fail_fast and item.session.testsfailed:
                return 1
        return 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if self.recorder:
            self.recorder.enter(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if not self.recorder or fixturedef.scope == "function":
            return (yield)
        self.recorder.enter(self.recorder.file)  # it serves other tests of the file too
        try:
            return (yield)
        finally:
            self.recorder.enter(os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])

    def pytest_runtest_logreport(self, report):
        if self.recorder and report.when == "call" and report.passed:
            self.recorder.seconds[report.nodeid] = report.duration


def _loaded_functions() -> dict[tuple, list[types.FunctionType]]:
    found = defaultdict(list)
    for function in gc.get_objects():
        if type(function) is types.FunctionType and (function.__module__ or "").startswith("hf_face"):
            found[place(function.__code__)].append(function)
    return found


def _digest(files: Iterable[Path]) -> str:
    """Of those that exist."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()
