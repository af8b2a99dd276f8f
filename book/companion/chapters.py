"""Runs the chapters that are out of date: `book/chapters/NN-name.md` to `book/notebooks/NN-name.ipynb`.

Out of date is decided by a digest over the chapter's code, the modules of `pdelens` and `companion` that it imports
and the data that it read, never by file times; changed prose is carried over without running. A failing chapter
leaves the previous notebook and its records as they were.
"""

import ast
import hashlib
import io
import json
import os
import shutil
import sys
import time
import tokenize
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jupytext
import nbformat

from . import keeping, poster, seals
from .paths import checksums, root

# Where the two packages lie that chapters use.
PACKAGES = {"pdelens": "lib", "companion": "book"}


def sources(pattern: str = "") -> list[Path]:
    """Return the chapters' sources whose name begins with (or equals) the pattern."""
    found = sorted((root() / "book/chapters").glob("*.md"))
    chosen = [path for path in found if path.stem.startswith(pattern)]
    if pattern and not chosen:
        sys.exit(f"pdelens: no chapter begins with {pattern!r}: there are {', '.join(p.stem for p in found)}.")
    return chosen


def read_source(path: Path) -> nbformat.NotebookNode:
    """Read a chapter as a notebook with steady cell ids and no machine's versions in it."""
    notebook = jupytext.read(path)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        name = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"},
            "language_info": {"name": "python"},
            "jupytext": {"text_representation": {"format_name": "myst", "extension": ".md"}},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def digest(path: Path) -> str:
    """Return the digest that says whether a chapter must run again."""
    code = [cell.source for cell in read_source(path).cells if cell.cell_type == "code"]
    parts = [_without_comments(text) if "%" not in text else text for text in code]
    for module in sorted(reached_modules("\n".join(parts))):
        parts.append(_without_comments(_file_of(module).read_text()))
    known = checksums() if (root() / "data/SHA256SUMS").exists() else {}
    parts += [f"{name} {known.get(name, 'gone')}" for name in _data_read(path.stem)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _data_read(stem: str) -> list[str]:
    """Return the committed data files that the chapter's last run read."""
    results = root() / "data/results" / f"{stem}.json"
    return json.loads(results.read_text())["about"]["data"] if results.exists() else []


def reached_modules(code: str) -> set[str]:
    """Return the modules of `pdelens` and `companion`, dotted, that some code imports, and those that they import.

    Imports are followed as Python does, but for the packages' `__init__`: a name that one of them re-exports counts
    as the module that defines it, so that a chapter depends on what it uses and not on all that a package holds.
    """
    waiting = [*_imported(code, "")]
    reached: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += _imported(_file_of(module).read_text(), module)
    return reached


def _imported(code: str, module: str) -> set[str]:
    """Return the modules of the two packages that one source imports; `module` is its own dotted name."""
    found = set()
    for node in _imports(code):
        if isinstance(node, ast.ImportFrom):
            package = module.rsplit(".", node.level)[0] if node.level else ""
            source = ".".join(part for part in (package, node.module) if part)
            if source.split(".")[0] in PACKAGES:
                found |= {_defining(source, alias.name) for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PACKAGES:
            found.add(_defining(node.value.id, node.attr))
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] in PACKAGES and a.name not in PACKAGES}
    return {name for name in found if name and _file_of(name).is_file()}


@cache
def _imports(code: str) -> tuple[ast.AST, ...]:
    """Return what in a source may import something: most pages share most of their modules."""
    kinds = (ast.Import, ast.ImportFrom, ast.Attribute)
    return tuple(node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds))


def _defining(source: str, name: str) -> str:
    """Return the module that defines what `from source import name` gives."""
    if _file_of(f"{source}.{name}").is_file():
        return f"{source}.{name}"
    if _file_of(source).is_file():
        return source
    for node in ast.parse((_folder_of(source) / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return f"{source}.{node.module}"
    return ""


def _folder_of(module: str) -> Path:
    """Return where a package lies, or where a module would without its ending."""
    return root() / PACKAGES[module.split(".")[0]] / Path(*module.split("."))


def _file_of(module: str) -> Path:
    return _folder_of(module).with_suffix(".py")


@cache
def _without_comments(code: str) -> str:
    """Return Python code without comments, docstrings and blank lines: what decides its results."""
    lines = code.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(code + "\n").readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(code)):
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            for row in range(first.lineno - 1, first.end_lineno or first.lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def notebook_path(stem: str) -> Path:
    """Return where a chapter's committed notebook lies."""
    return root() / "book/notebooks" / f"{stem}.ipynb"


def is_current(path: Path) -> bool:
    """Say whether the committed notebook was made by this code and data."""
    target = notebook_path(path.stem)
    if not target.exists():
        return False
    return nbformat.read(target, as_version=4).metadata.get("pdelens", {}).get("digest") == digest(path)


def synchronised(path: Path) -> nbformat.NotebookNode:
    """Return the chapter's source with the outputs of its last run (the code is the same)."""
    fresh, old = read_source(path), nbformat.read(notebook_path(path.stem), as_version=4)
    ran = iter([cell for cell in old.cells if cell.cell_type == "code"])
    for cell in fresh.cells:
        if cell.cell_type == "code":
            before = next(ran)
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
    fresh.metadata["pdelens"] = old.metadata["pdelens"]
    return fresh


def execute(
    path: Path, parameters: dict[str, Any], work: Path, *, keep_agreeing: bool = False
) -> nbformat.NotebookNode:
    """Run a chapter in the notebooks' folder, records to `work`; `keep_agreeing` keeps committed numbers that agree."""
    import papermill

    work.mkdir(parents=True, exist_ok=True)
    given, made = work / f"{path.stem}.in.ipynb", work / f"{path.stem}.ipynb"
    nbformat.write(read_source(path), given)
    folder = notebook_path(path.stem).parent
    folder.mkdir(parents=True, exist_ok=True)
    # For the kernel alone: whoever replays chapters in this process later must find its own settings.
    with patch.dict(os.environ, PDELENS_RESULTS=str(work), PDELENS_STEADY=str(int(keep_agreeing))):
        os.environ.pop("PDELENS_REPLAY", None)
        papermill.execute_notebook(
            str(given), str(made), parameters=parameters, cwd=str(folder), progress_bar=True, kernel_name="python3"
        )
    notebook = nbformat.read(made, as_version=4)
    steady = read_source(path)
    if not parameters:
        for cell, source in zip(notebook.cells, steady.cells, strict=True):
            cell["id"], cell.metadata = source["id"], source.metadata
        notebook.metadata = steady.metadata
    _check_outputs(notebook)
    return notebook


def _check_outputs(notebook: nbformat.NotebookNode) -> None:
    """Refuse what no reader should see and no replay can match: warnings, and this machine's paths."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            text = json.dumps(output.get("text") or output.get("data", {}).get("text/plain", ""))
            if output.output_type == "stream" and output.name == "stderr":
                raise RuntimeError(f"cell {number} wrote to stderr: {text[:300]}")
            if str(root()) in text or str(Path.home()) + "/" in text:
                raise RuntimeError(f"cell {number} printed a path of this machine: {text[:300]}")


def run(path: Path, scale: str, device: str, *, force: bool = False) -> None:
    """Run one chapter; with default parameters, replace its notebook and records (with `force`, every number)."""
    default = scale == "book" and device == "auto"
    parameters = {} if default else {"scale": scale, "device": device}
    folder = root() / (f"_build/chapters-{os.getpid()}" if default else f"_build/runs/{scale}-{device}")
    notebook = execute(path, parameters, folder, keep_agreeing=default and not force)
    if not default:
        print(f"{path.stem}: {folder / (path.stem + '.ipynb')}")
        return
    results = root() / "data/results" / f"{path.stem}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    made = folder / f"{path.stem}.json"
    if made.exists():
        _say_what_changes(results, made)
        made.replace(results)
    keeping.adopt(path.stem, folder)
    seals.seal(path.stem, notebook)
    notebook.metadata["pdelens"] = {"digest": digest(path)}
    write(notebook, notebook_path(path.stem))
    if path.stem == poster.CHAPTER:
        poster.update()


def _say_what_changes(committed: Path, made: Path) -> None:
    """Print which numbers, and which figures' looks, a run replaces: whoever commits them shall have seen it."""
    if not committed.exists():
        return
    before, after = (json.loads(path.read_text()) for path in (committed, made))
    lines = seals.changes(before["records"], after["records"])
    looks = before.get("figures", []), after.get("figures", [])
    if len(looks[0]) != len(looks[1]):
        lines.append(f"{len(looks[0])} figures -> {len(looks[1])}")
    else:
        pairs = enumerate(zip(*looks, strict=True), 1)
        lines += [f"figure {number} looks different" for number, pair in pairs if not seals.look_alike(*pair)]
    for line in lines:
        print(f"  {line}")


def write(notebook: nbformat.NotebookNode, target: Path) -> None:
    """Write a notebook so that it is never seen half-written."""
    draft = target.with_suffix(".draft")
    nbformat.write(notebook, draft)
    draft.replace(target)


def run_chapters(pattern: str = "", scale: str = "book", device: str = "auto", *, force: bool = False) -> None:
    """Run the chapters that are out of date (with `force`, or at another scale or device: all that fit)."""
    default = scale == "book" and device == "auto"
    failed = []
    for path in sources(pattern):
        if default and is_current(path) and not force:
            write(synchronised(path), notebook_path(path.stem))
            print(f"{path.stem}: current (prose brought over)")
            continue
        began = time.perf_counter()
        print(f"{path.stem}: running at scale {scale}, device {device}", flush=True)
        try:
            run(path, scale, device, force=force)
        except Exception as error:
            failed.append(path.stem)
            message = f"{path.stem}: FAILED; the previous notebook and records are untouched.\n{error}"
            print(message, file=sys.stderr)
            continue
        print(f"{path.stem}: done in {time.perf_counter() - began:.0f} s")
    shutil.rmtree(root() / f"_build/chapters-{os.getpid()}", ignore_errors=True)
    if failed:
        sys.exit(f"pdelens: {', '.join(failed)} failed.")
