"""Which test runs which line: a plugin of pytest (`-p covering`), and what it wrote read back.

Under `PDELENS_COVERING=folder` every process of pytest writes one file there. A line that runs while a fixture is set
up counts for all tests of that file, since a fixture may be shared.
"""

import json
import os
import time
from collections import defaultdict
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("lib/pdelens", "book/companion")


class Watch:
    """Measures which lines a process runs, test by test."""

    def __init__(self, path: Path):
        self.path, self.seconds, self.failed = path, {}, []
        self.measured = coverage.Coverage(
            data_file=str(path.with_suffix(".coverage")), source=[str(ROOT / s) for s in SOURCES], config_file=False
        )
        self.measured.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        self.measured.switch_context(f"{item.nodeid}|setup")
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        began = time.perf_counter()
        self.measured.switch_context(f"{item.nodeid}|call")
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - began

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_sessionfinish(self):
        self.measured.stop()
        data, lines = self.measured.get_data(), {}
        for name in data.measured_files():
            by_line = data.contexts_by_lineno(name)
            lines[str(Path(name).relative_to(ROOT))] = {line: list(names) for line, names in by_line.items()}
        self.path.write_text(json.dumps({"lines": lines, "seconds": self.seconds, "failed": self.failed}))


def pytest_configure(config):
    folder, worker = os.environ.get("PDELENS_COVERING"), os.environ.get("PYTEST_XDIST_WORKER")
    # The process that only hands out the tests runs none.
    if folder and (worker or not getattr(config.option, "numprocesses", None)):
        config.pluginmanager.register(Watch(Path(folder, f"{worker or 'alone'}.json")))


class Covering:
    """The tests of every line, as the plugin found them."""

    def __init__(self, folder: Path):
        self.seconds: dict[str, float] = {}
        # Those that fail without any change can't notice one; those that are known to pass.
        self.failed: set[str] = set()
        self.sound: set[str] = set()
        self.lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in sorted(folder.glob("*.json")):
            found = json.loads(path.read_text())
            self.failed |= set(found["failed"])
            self.seconds |= found["seconds"]
            for name, lines in found["lines"].items():
                for line, contexts in lines.items():
                    self.lines[name][int(line)] |= set(contexts)
        self.by_file: dict[str, list[str]] = defaultdict(list)
        self.seconds = {test: took for test, took in self.seconds.items() if test not in self.failed}
        for test in self.seconds:
            self.by_file[test.split("::")[0]].append(test)

    def tests(self, path: str, lines: range) -> list[str]:
        """Return the tests that run one of these lines, by files, the quick files first."""
        found: set[str] = set()
        for line in lines:
            for context in self.lines[path][line]:
                test, _, phase = context.rpartition("|")
                found |= set(self.by_file[test.split("::")[0]]) if phase == "setup" else {test}
        files: dict[str, list[str]] = defaultdict(list)
        # In the order in which they ran: tests of a file share fixtures.
        for test in (t for t in self.seconds if t in found):
            files[test.split("::")[0]].append(test)
        cost = {name: sum(self.seconds[t] for t in tests) for name, tests in files.items()}
        return [test for name in sorted(files, key=cost.__getitem__) for test in files[name]]
