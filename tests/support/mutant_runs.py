"""Runs the tests of one change after another in copies of the project.

The big libraries are imported once; every trial is a fork of that process, which imports the two packages anew from
its copy. A trial that hangs is ended with all that it started.
"""

import ast
import contextlib
import importlib
import multiprocessing
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

from covering import ROOT, Covering

COPIED = (
    "lib", "book", "tests", "pyproject.toml", "_config.yml", "_toc.yml", "Makefile", "README.md", "environment.yml",
)  # fmt: skip
LINKED = ("data", ".git")
OURS = ("pdelens", "companion", "covering", "mutant_runs", "mutants")
HEAVY = (
    "torch", "numpy", "scipy.stats", "scipy.optimize", "sklearn.linear_model", "sklearn.neighbors", "pandas",
    "matplotlib.pyplot", "transformers", "torchdiffeq", "hypothesis", "pytest", "IPython", "nbformat", "jupytext",
)  # fmt: skip
TESTS = ("tests", "lib", "book/companion")
# Seconds after which a group of tests counts as hanging, which is noticed too.
LIMIT = 1200


def covering(code: str) -> Covering:
    """Return which tests run which line, measured once for this state of the packages (minutes)."""
    folder = ROOT / "_build" / "mutants" / f"covering-{code[:12]}"
    if not folder.exists():
        print("Measuring which test runs which line (once; about ten minutes)", flush=True)
        draft = Path(tempfile.mkdtemp(dir=ROOT / "_build" / "mutants"))
        asked = [sys.executable, "-m", "pytest", "-q", "-p", "covering", "-p", "no:cacheprovider",
                 "-m", "not replay", "-n", str(os.cpu_count() or 1), "--dist", "loadfile", *TESTS]  # fmt: skip
        paths = [str(ROOT / part) for part in ("lib", "book", "tests/support")]
        environment = {**os.environ, "PDELENS_COVERING": str(draft), "OMP_NUM_THREADS": "1",
                       "PYTHONPATH": os.pathsep.join(paths)}  # fmt: skip
        done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            shutil.rmtree(draft)
            raise SystemExit(f"The tests could not be run:\n{done.stdout[-2000:]}{done.stderr[-500:]}")
        draft.rename(folder)
    found = Covering(folder)
    for test in sorted(found.failed):
        print(f"fails without any change, so it is left out: {test}", flush=True)
    return found


@cache
def of_pages() -> set[str]:
    """Return the files whose code some page runs: every change of them is noticed by the tests of pages."""
    from companion.chapters import reached_modules, read_source

    code = [
        cell.source
        for path in sorted((ROOT / "book" / "chapters").glob("*.md"))
        for cell in read_source(path).cells
        if cell.cell_type == "code"
    ]
    homes = {"pdelens": "lib", "companion": "book"}
    modules = reached_modules("\n".join(code))
    return {f"{homes[module.split('.')[0]]}/{module.replace('.', '/')}.py" for module in modules}


def statement_lines(tree: ast.AST, line: int) -> tuple[range, range | None]:
    """Return the lines of the innermost statement around a line, without its body, and those of its function."""
    own, function = range(line, line + 1), None
    # Breadth first: what lies deeper comes later.
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or not node.lineno <= line <= (node.end_lineno or node.lineno):
            continue
        body = getattr(node, "body", None)
        head = range(node.lineno, (max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or 0) + 1)
        own = head if line in head else range(line, line + 1)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = range(node.lineno, (node.end_lineno or 0) + 1)
    return own, function


def _remembers(tree: ast.AST, line: int) -> bool:
    """Say whether the function that begins in a line keeps its results (`cache`, `lru_cache`, a cached property)."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    found = next(node for node in ast.walk(tree) if isinstance(node, kinds) and node.lineno == line)
    return any("cache" in ast.unparse(decorator) for decorator in found.decorator_list)


def groups_of(path: str, text: str, line: int, known: Covering) -> list[tuple[list[str], set[str] | None]]:
    """Return what to run for a change: files, with the tests in them that cover it (None: all), the nearest first."""
    tree = ast.parse(text)
    own, function = statement_lines(tree, line)
    tests = known.tests(path, own)
    everything = range(1, text.count("\n") + 2)
    if function and _remembers(tree, function.start):
        # Only the first caller runs a function whose result is kept, whoever uses it later.
        tests = known.tests(path, everything)
    elif not function or own.start == function.start:
        # What stands in a module, or in a function's first line, is run when it is imported, and used later.
        tests = known.tests(path, function or everything)
    if path in of_pages():
        tests = [test for test in tests if not test.startswith("tests/book/")]
    parts = Path(path).with_suffix("").parts
    wing = Path("tests", *parts[1:-1])
    mirrored = [str(p.relative_to(ROOT)) for p in (ROOT / wing).glob(f"test_{parts[-1]}.py")] + [path]
    near = sorted(str(p.relative_to(ROOT)) for p in (ROOT / wing).glob("test_*.py"))
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    wanted = set(tests)
    first = [name for name in files if name in mirrored]
    groups = [(first, wanted), ([name for name in files if name not in first], wanted)]
    # Then the tests of the module that are left (a line may be run by another process), and those of its wing that came
    # after the covering was measured.
    groups.append((list(dict.fromkeys([*mirrored, *near])), None))
    return [group for group in groups if group[0]]


def _run_before(path: str, known: Covering, wanted: set[str]) -> set[str]:
    """Return the known tests that a last group of tests need not run: not the module's own, in whatever file."""
    mirror = f"test_{Path(path).stem}.py"
    own = {test for test in known.seconds if (file := test.split("::")[0]) == path or Path(file).name == mirror}
    return wanted | (known.seconds.keys() - own)


class Chosen:
    """A plugin that keeps some tests (None: all) but for those that are left out."""

    def __init__(self, wanted: set[str] | None, without: set[str]):
        self.wanted, self.without = wanted, without

    def pytest_collection_modifyitems(self, items):
        items[:] = [
            item
            for item in items
            if item.nodeid not in self.without and (self.wanted is None or item.nodeid in self.wanted)
        ]


def tried(mutant, folder: Path, known: Covering) -> dict:
    """Run the tests of a change in a copy of the project, and say what became of it.

    A test that fails in the same way without the change has noticed nothing: it is left out from then on.
    """
    target, began, caught = folder / mutant.path, time.time(), ""
    original = (ROOT / mutant.path).read_text()
    groups, run = groups_of(mutant.path, original, mutant.line, known), set()
    while groups and not caught:
        files, wanted = groups[0]
        without = known.failed | (_run_before(mutant.path, known, run) if wanted is None else set())
        try:
            target.write_text(mutant.apply(original))
            caught = _failure(folder, files, wanted, without)
        finally:
            target.write_text(original)
        test = caught.removeprefix("FAILED ")
        if caught != test and test not in known.sound:
            if _failure(folder, [test.split("::")[0]], {test}, set()):
                known.failed.add(test)
                caught = ""
                continue
            known.sound.add(test)
        groups.pop(0)
        run |= wanted or set()
    return {**asdict(mutant), "name": mutant.name, "caught": caught, "seconds": round(time.time() - began, 1)}


def _failure(folder: Path, files: list[str], wanted: set[str] | None, without: set[str]) -> str:
    """Return the first failure of these tests, or nothing."""
    report = folder / "report.txt"
    child = multiprocessing.get_context("fork").Process(target=_fork, args=(folder, files, wanted, without, report))
    child.start()
    child.join(LIMIT)
    hangs = child.is_alive()
    with contextlib.suppress(ProcessLookupError):
        # Also what a finished trial left running.
        os.killpg(child.pid or 0, signal.SIGKILL)
    child.join()
    if hangs:
        return "it hangs"
    # 5: nothing was chosen. Any other end than 0 means that a test, or an import, failed.
    if child.exitcode in (0, 5):
        return ""
    text = report.read_text(errors="replace")
    failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"ends with {child.exitcode}: {text.strip()[-160:]}"


def _fork(folder: Path, files: list[str], wanted: set[str] | None, without: set[str], report: Path) -> None:
    os.setsid()
    with report.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(folder)
    paths = [str(folder / part) for part in ("lib", "book")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PDELENS_ROOT": str(folder), "OMP_NUM_THREADS": "1"}
    # Objects of a library live on in torch's registers: the modules of before are kept, out of sight.
    globals()["_before"] = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in OURS}
    sys.path[:0] = paths
    # Processes that tests start anew import what they find as the main module.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    import pytest

    asked = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    code = pytest.main(asked, plugins=[Chosen(wanted, without)])
    sys.stdout.flush()
    os._exit(int(code))


def results(mutants: list, workers: int, known: Covering, deadline: float) -> Iterator[dict]:
    """Yield what became of every change, as it is known."""
    for name in HEAVY:
        importlib.import_module(name)
    of_pages()  # once for all
    context = multiprocessing.get_context("fork")
    waiting, done = context.Queue(), context.Queue()
    for one in mutants:
        waiting.put(one)
    with tempfile.TemporaryDirectory(prefix="pdelens-mutants-") as scratch:
        asked = [(_copy(Path(scratch, str(n))), waiting, done, known, deadline) for n in range(workers)]
        processes = [context.Process(target=_work, args=one) for one in asked]
        for process in processes:
            process.start()
        try:
            ended = 0
            while ended < workers:
                one = done.get()
                ended += one is None
                if one:
                    yield one
        finally:
            for process in processes:
                process.terminate()


def _work(folder: Path, waiting, done, known: Covering, deadline: float) -> None:
    with contextlib.suppress(queue.Empty):
        while time.time() < deadline:
            done.put(tried(waiting.get(timeout=5), folder, known))
    done.put(None)


def _copy(folder: Path) -> Path:
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.exists():
            shutil.copy(source, folder / name)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    return folder
