"""Runs the chapters that are out of date: `book/chapters/NN-name.md` to `book/notebooks/NN-name.ipynb`.

Out of date is decided by a digest over the chapter's code, the pdelens modules that it reaches and
the data that it read, never by file times; changed prose is carried over without running. A failing
chapter leaves the previous notebook and its records as they were.
"""

import argparse
import ast
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
import tokenize
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jupytext
import nbformat

from pdelens.project import checksums, root

LIBRARY = Path("lib/pdelens")


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
        parts.append(_without_comments((root() / LIBRARY / f"{module}.py").read_text()))
    known = checksums() if (root() / "data/SHA256SUMS").exists() else {}
    parts += [f"{name} {known.get(name, 'gone')}" for name in _data_read(path.stem)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _data_read(stem: str) -> list[str]:
    """Return the committed data files that the chapter's last run read."""
    results = root() / "data/results" / f"{stem}.json"
    return json.loads(results.read_text())["about"]["data"] if results.exists() else []


def reached_modules(code: str) -> set[str]:
    """Return the pdelens modules that some code uses, and those that they import."""
    library = root() / LIBRARY
    home: dict[str, str] = {
        alias.name: node.module
        for node in ast.parse((library / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }
    names = set(re.findall(r"pdelens\.(\w+)", code))
    for module, imported in re.findall(r"from pdelens(?:\.(\w+))? import \(?([\w, \n]+)", code):
        names |= {module} if module else set(re.findall(r"\w+", imported))
    waiting = [home.get(name) or name for name in names]
    reached: set[str] = set()
    while waiting:
        module = waiting.pop()
        path = library / f"{module}.py"
        if module in reached or not path.exists():
            continue
        reached.add(module)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting += [node.module] if node.module else [alias.name for alias in node.names]
    return reached


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


def execute(path: Path, parameters: dict[str, Any], work: Path) -> nbformat.NotebookNode:
    """Run a chapter in the notebooks' folder; its records go to `work`. Raises where a cell does."""
    import papermill

    work.mkdir(parents=True, exist_ok=True)
    given, made = work / f"{path.stem}.in.ipynb", work / f"{path.stem}.ipynb"
    nbformat.write(read_source(path), given)
    folder = notebook_path(path.stem).parent
    folder.mkdir(parents=True, exist_ok=True)
    # For the kernel alone: whoever replays chapters in this process later must find its own settings.
    with patch.dict(os.environ, PDELENS_RESULTS=str(work)):
        os.environ.pop("PDELENS_REPLAY", None)
        papermill.execute_notebook(
            str(given),
            str(made),
            parameters=parameters,
            cwd=str(folder),
            progress_bar=True,
            kernel_name="python3",
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


def run(path: Path, scale: str, device: str) -> None:
    """Run one chapter; with default parameters, replace its notebook and records."""
    default = scale == "book" and device == "auto"
    parameters = {} if default else {"scale": scale, "device": device}
    folder = root() / (f"_build/chapters-{os.getpid()}" if default else f"_build/runs/{scale}-{device}")
    notebook = execute(path, parameters, folder)
    if not default:
        print(f"{path.stem}: {folder / (path.stem + '.ipynb')}")
        return
    results = root() / "data/results" / f"{path.stem}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    made = folder / f"{path.stem}.json"
    if made.exists():
        made.replace(results)
    notebook.metadata["pdelens"] = {"digest": digest(path)}
    write(notebook, notebook_path(path.stem))


def write(notebook: nbformat.NotebookNode, target: Path) -> None:
    draft = target.with_suffix(".draft")
    nbformat.write(notebook, draft)
    draft.replace(target)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chapter", default="", help="run only chapters whose name begins so")
    parser.add_argument("--scale", default="book", choices=["smoke", "book", "full"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--force", action="store_true", help="run even what is current")
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    given = parser.parse_args(arguments)
    default = given.scale == "book" and given.device == "auto"
    failed = []
    for path in sources(given.chapter):
        current = is_current(path)
        if given.check:
            print(f"{path.stem}: {'current' if current else 'OUT OF DATE: run make chapters'}")
            continue
        if default and current and not given.force:
            write(synchronised(path), notebook_path(path.stem))
            print(f"{path.stem}: current (prose brought over)")
            continue
        began = time.perf_counter()
        print(f"{path.stem}: running at scale {given.scale}, device {given.device}", flush=True)
        try:
            run(path, given.scale, given.device)
        except Exception as error:
            failed.append(path.stem)
            print(
                f"{path.stem}: FAILED; the previous notebook and records are untouched.\n{error}",
                file=sys.stderr,
            )
            continue
        print(f"{path.stem}: done in {time.perf_counter() - began:.0f} s")
    shutil.rmtree(root() / f"_build/chapters-{os.getpid()}", ignore_errors=True)
    if failed:
        sys.exit(f"pdelens: {', '.join(failed)} failed.")


if __name__ == "__main__":
    main()
