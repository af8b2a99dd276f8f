"""A committed chapter that no longer says what it computes fails `make test`, and nothing is left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from companion import fetch

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "01-cosine"

pytestmark = [
    pytest.mark.replay,
    pytest.mark.skipif(
        not os.environ.get("CI") and not all(map(fetch.cached, fetch.packages_read(CHAPTER))),
        reason="the chapter's packages are not in the cache: run `make fetch` once with a network",
    ),
]


@pytest.fixture
def committed(tmp_path):
    """A git repository with what a replay reads, and a function that replays it as `make test` does."""
    for part in ("data", "book/notebooks", "tests/nbval.cfg", ".gitignore", "tests/conftest.py"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)

    git("init", "-q")

    def replay():
        git("add", "-A")
        git("commit", "-qm", "as committed")
        notebook = f"book/notebooks/{CHAPTER}.ipynb"
        command = [sys.executable, "-m", "pytest", notebook, "--nbval", "--nbval-sanitize-with", "tests/nbval.cfg"]
        # -x: the first difference decides, and a whole replay follows in `make test` anyway
        done = subprocess.run(
            [*command, "-x", "-q", "--rootdir", str(tmp_path)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PDELENS_REPLAY": "1", "PDELENS_ROOT": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert git("status", "--porcelain").stdout == ""
        done.stdout = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        return done

    replay.notebook = tmp_path / f"book/notebooks/{CHAPTER}.ipynb"
    replay.results = tmp_path / f"data/results/{CHAPTER}.json"
    return replay


def test_one_changed_digit_in_a_text_output_fails_and_is_named(committed):
    notebook = nbformat.read(committed.notebook, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    first = next(output for output in outputs if re.search(r"\d", output.get("text", "")))
    place = re.search(r"\d", first.text)
    assert place is not None
    changed = str((int(place[0]) + 1) % 10)
    was, first.text = first.text, first.text[: place.start()] + changed + first.text[place.end() :]
    nbformat.write(notebook, committed.notebook)
    done = committed()
    assert done.returncode == 1
    assert f"{CHAPTER}.ipynb" in done.stdout, done.stdout
    assert was.strip()[:10] in done.stdout and first.text.strip()[:10] in done.stdout, done.stdout


def test_one_record_beyond_its_tolerance_fails_and_is_named(committed):
    text = committed.results.read_text()
    records = json.loads(text)["records"]
    entry = records["law.gap.49"]
    changed = entry["value"] + 1.5 * entry["atol"]
    committed.results.write_text(
        text.replace(f'"law.gap.49": {{"value": {entry["value"]}', f'"law.gap.49": {{"value": {changed}')
    )
    assert committed.results.read_text() != text
    done = committed()
    assert done.returncode == 1
    said = done.stdout.replace("\n", "")
    assert f"{CHAPTER}.json" in said and "law.gap.49: the value is" in said and str(changed) in said


def test_one_record_within_its_tolerance_is_no_failure(committed):
    text = committed.results.read_text()
    entry = json.loads(text)["records"]["identity.error"]
    changed = entry["value"] + 0.5 * entry["atol"]
    committed.results.write_text(
        text.replace(f'"identity.error": {{"value": {entry["value"]}', f'"identity.error": {{"value": {changed}')
    )
    assert committed.results.read_text() != text
    notebook = nbformat.read(committed.notebook, as_version=4)
    # Only as far as the cell that records it: what is shown would differ further on.
    code = [place for place, cell in enumerate(notebook.cells) if "identity.error" in cell.source]
    notebook.cells = [*notebook.cells[: code[0]], nbformat.v4.new_code_cell(notebook.cells[code[0]].source)]
    notebook.cells[-1].source = notebook.cells[-1].source.split("print(")[0]
    nbformat.write(notebook, committed.notebook)
    done = committed()
    assert "failed" not in done.stdout and done.returncode == 0, done.stdout
