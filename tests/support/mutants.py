"""Changes the two packages in one place at a time and asks whether the unit tests notice: `make mutants`.

Places are found in the syntax trees and drawn at random (`--seed`): a comparison, an arithmetic sign, a `not`, a
number, a reduction, an argument left out, a slice. Messages of errors, docstrings and annotations are no places. The
tests that mirror a module run first, then all that import it, each set until its first failure. A change whose tests
all pass survives. Results are kept after every change (`_build/mutants/<seed>.json`); the same command goes on. Equal
changes, which no test could notice, are argued in `tests/support/equal_mutants.json` and counted apart.
"""

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from companion.chapters import reached_modules
from companion.paths import replace_text, root

HOMES = ("lib/pdelens", "book/companion")
COPIED = (
    "lib",
    "book",
    "tests",
    "pyproject.toml",
    "_config.yml",
    "_toc.yml",
    "Makefile",
    "README.md",
    "environment.yml",
)
LINKED = ("data", ".git")
COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
SIGNS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Pow: "*", ast.Mod: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
REDUCTIONS = {
    "any": "all", "all": "any", "min": "max", "max": "min", "amin": "amax", "amax": "amin", "sum": "mean",
    "mean": "sum", "argmax": "argmin", "argmin": "argmax", "tril": "triu", "triu": "tril", "clamp_min": "clamp_max",
    "std": "var", "exp": "expm1", "log": "log1p", "sqrt": "square", "square": "abs", "median": "mean",
}  # fmt: skip
# Seconds after which a test run counts as hanging, which is noticed too.
LIMIT = 900


@dataclass(frozen=True)
class Mutant:
    """One change: in which file, from where to where in its text, and what stands there instead."""

    path: str
    start: int
    end: int
    new: str
    line: int
    kind: str

    @property
    def name(self) -> str:
        """A name that stays while the text around it does."""
        about = f"{self.path}:{self.start}:{self.end}:{self.new}"
        return hashlib.sha256(about.encode()).hexdigest()[:12]

    def apply(self, text: str) -> str:
        """Return the file's text with the change."""
        return text[: self.start] + self.new + text[self.end :]


def places(path: str, text: str) -> Iterator[Mutant]:
    """Yield every change of a file that is another program."""
    tree, starts = ast.parse(text), [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        # Columns count bytes.
        return starts[line - 1] + len(text[starts[line - 1] : starts[line]].encode()[:column].decode())

    def span(node) -> tuple[int, int]:
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    def mutant(start: int, end: int, new: str, node, kind: str) -> Mutant:
        return Mutant(path, start, end, new, node.lineno, kind)

    for node in _looked_at(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS and len(node.ops) == 1:
            gap = span(node.left)[1], span(node.comparators[0])[0]
            inner = text[gap[0] : gap[1]]
            if inner.strip(" ()\n") and not set(inner) & set("#\\"):
                start = gap[0] + len(inner) - len(inner.lstrip(") \n"))
                end = gap[1] - (len(inner) - len(inner.rstrip("( \n")))
                yield mutant(start, end, COMPARISONS[type(node.ops[0])], node, "comparison")
        elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS and not _is_text(node):
            gap = span(node.left)[1], span(node.right)[0]
            inner = text[gap[0] : gap[1]]
            start = gap[0] + len(inner) - len(inner.lstrip(") \n"))
            end = gap[1] - (len(inner) - len(inner.rstrip("( \n")))
            yield mutant(start, end, SIGNS[type(node.op)], node, "sign")
        elif isinstance(node, ast.BoolOp):
            end, start = span(node.values[0])[1], span(node.values[1])[0]
            word = "and" if isinstance(node.op, ast.And) else "or"
            place = text.find(word, end, start)
            if place >= 0:
                yield mutant(place, place + len(word), "or" if word == "and" else "and", node, "and, or")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            start, inside = span(node)[0], span(node.operand)[0]
            if not (isinstance(node.operand, ast.Constant) and isinstance(node.op, ast.USub)):
                yield mutant(start, inside, "", node, "not, minus")
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            new = str(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
            new = repr(node.value * 1.1) if isinstance(node.value, float) and node.value else new
            yield mutant(*span(node), new, node, "constant")
        elif isinstance(node, ast.Call):
            yield from _of_call(node, text, span, mutant)
        elif isinstance(node, ast.Slice) and (node.lower is None) != (node.upper is None):
            inner = node.lower or node.upper
            assert inner is not None
            yield mutant(*span(inner), "", node, "slice")


def _of_call(node: ast.Call, text: str, span, mutant) -> Iterator[Mutant]:
    """Yield another reduction, and the call without one of its named arguments."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr in REDUCTIONS:
        end = span(function)[1]
        yield mutant(end - len(function.attr), end, REDUCTIONS[function.attr], node, "reduction")
    everything = [*node.args, *(keyword.value for keyword in node.keywords)]
    for keyword in node.keywords:
        if keyword.arg is None or len(everything) < 2:
            continue
        start, end = span(keyword)
        before = text[:start].rstrip()
        if before.endswith(","):
            yield mutant(len(before) - 1, end, "", node, "argument")


def _looked_at(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that decide what is computed: no messages, texts, docstrings or annotations."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.ImportFrom | ast.Import | ast.Assert):
            continue
        if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__"):
            continue
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            waiting += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST)]


def _is_text(node: ast.BinOp) -> bool:
    """Say whether a sum or a product is of texts."""
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in (node.left, node.right)
    )


def drawn(count: int, seed: int) -> list[Mutant]:
    """Return so many changes over both packages, drawn with a seed: first a kind, then a place of this kind."""
    by_kind: dict[str, list[Mutant]] = {}
    texts = {}
    for home in HOMES:
        for path in sorted((root() / home).rglob("*.py")):
            where = str(path.relative_to(root()))
            texts[where] = path.read_text()
            for one in places(where, texts[where]):
                # What a picture looks like is a matter of taste.
                if not ("/figures/" in where or where.endswith("plots.py")):
                    by_kind.setdefault(one.kind, []).append(one)
    rng, found = random.Random(seed), []
    for kind in by_kind.values():
        rng.shuffle(kind)
    while len(found) < count and any(by_kind.values()):
        kind = rng.choice(sorted(by_kind))
        if by_kind[kind] and _is_another(one := by_kind[kind].pop(), texts[one.path]):
            found.append(one)
    return found


def _is_another(mutant: Mutant, text: str) -> bool:
    """Say whether a change leaves a program, and another one."""
    try:
        return ast.dump(ast.parse(mutant.apply(text))) != ast.dump(ast.parse(text))
    except SyntaxError:
        return False


def tests_of(path: str) -> list[list[str]]:
    """Return the test files for a module: those that mirror it, then all others that import it."""
    parts = Path(path).with_suffix("").parts
    module = ".".join(parts[1:])
    wing = Path("tests", *parts[1:-1])
    mirrored = [str(p.relative_to(root())) for p in (root() / wing).glob(f"test_{parts[-1]}.py")]
    every = sorted(str(p.relative_to(root())) for p in (root() / "tests").rglob("test_*.py"))
    near = [name for name in every if Path(name).parent == wing and name not in mirrored]
    others = [name for name in every if name not in near and name not in mirrored and "tests/book" not in name]
    reaching = [name for name in others if module in reached_modules((root() / name).read_text())]
    return [group for group in ([*mirrored, path], near, reaching) if group]


def tried(mutant: Mutant, folder: Path) -> dict:
    """Run the tests of a change in a copy of the project, and say what became of it."""
    target, began = folder / mutant.path, time.time()
    original = target.read_text()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(folder / part) for part in ("lib", "book")),
                   "PDELENS_ROOT": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    caught = ""
    try:
        target.write_text(mutant.apply(original))
        for group in tests_of(mutant.path):
            asked = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not replay", *group]
            try:
                done = subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                caught = "it hangs"
                break
            if done.returncode not in (0, 5):
                failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
                caught = failed[0] if failed else (done.stdout + done.stderr).strip()[-200:]
                break
    finally:
        target.write_text(original)
    return {**asdict(mutant), "name": mutant.name, "caught": caught, "seconds": round(time.time() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=1e9)
    given = parser.parse_args()
    path = root() / "_build" / "mutants" / f"{given.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    wanted = drawn(given.count, given.seed)
    todo = [one for one in wanted if one.name not in results]
    deadline = time.time() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="pdelens-mutants-") as scratch:
        folders = [_copy(Path(scratch) / str(number)) for number in range(given.workers)]

        def work(folder: Path) -> None:
            while todo and time.time() < deadline:
                one = todo.pop(0)
                results[one.name] = tried(one, folder)
                replace_text(path, json.dumps(results, indent=1))
                print(f"{one.path}:{one.line} {one.kind}: {results[one.name]['caught'] or 'SURVIVED'}", flush=True)

        with ThreadPoolExecutor(given.workers) as pool:
            list(pool.map(work, folders))
    _told([results[one.name] for one in wanted if one.name in results], len(wanted))


def _copy(folder: Path) -> Path:
    folder.mkdir()
    for name in COPIED:
        source = root() / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.exists():
            shutil.copy(source, folder / name)
    for name in LINKED:
        (folder / name).symlink_to(root() / name)
    return folder


def _told(results: list[dict], wanted: int) -> None:
    """Print how many were caught, and which were not."""
    argued = json.loads((Path(__file__).with_name("equal_mutants.json")).read_text())
    equal = [one for one in results if not one["caught"] and one["name"] in argued]
    survived = [one for one in results if not one["caught"] and one["name"] not in argued]
    live = len(results) - len(equal)
    for one in survived:
        line = (root() / one["path"]).read_text().splitlines()[one["line"] - 1].strip()
        print(f"survived: {one['name']} {one['path']}:{one['line']} ({one['kind']} -> {one['new']!r}): {line}")
    print(f"{live - len(survived)} of {live} caught ({(live - len(survived)) / max(live, 1):.1%}), "
          f"{len(equal)} equal, {wanted - len(results)} of {wanted} not tried yet")  # fmt: skip


if __name__ == "__main__":
    main()
