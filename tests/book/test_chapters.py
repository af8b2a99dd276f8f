"""The pipeline: what runs, what doesn't, and what a failing chapter leaves behind."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest

from companion import chapters, paths
from companion.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lib", "book/companion")
CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A small chapter

Some prose.

```{code-cell} ipython3
:tags: [parameters]

device = "auto"
seed = 0
scale = "book"
```

```{code-cell} ipython3
import companion
from companion.theory import cosine

chapter = companion.start_chapter("50-small", device=device, seed=seed, scale=scale)
value = companion.record("small", 2.5, unit="1", atol=0.1, rtol=0)
print(f"It is {value:.1f} at size {chapter.size(smoke=1, book=2)}.")  # a comment
```

```{code-cell} ipython3
:tags: [nbval-ignore-output]

companion.finish_chapter()
```
"""


@pytest.fixture(scope="module")
def has_run(tmp_path_factory):
    """A project whose one small chapter has run, made once."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "book/chapters").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data/SHA256SUMS").write_text("")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package)
    (folder / "book/chapters/50-small.md").write_text(CHAPTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PDELENS_ROOT", str(folder))
        chapters.run_chapters()
    return folder


@pytest.fixture
def small(has_run, tmp_path, monkeypatch):
    """A copy of that project, with what the tests do to it."""
    root = tmp_path / "project"
    shutil.copytree(has_run, root)
    monkeypatch.setenv("PDELENS_ROOT", str(root))
    source = root / "book/chapters/50-small.md"

    class Small:
        notebook = root / "book/notebooks/50-small.ipynb"
        results = root / "data/results/50-small.json"

        @staticmethod
        def change(old, new, file=source):
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))

        def state(self):
            return self.notebook.read_bytes(), self.results.read_bytes()

        def outputs(self):
            cells = nbformat.read(self.notebook, as_version=4).cells
            return [output for cell in cells for output in cell.get("outputs", [])]

    small = Small()
    small.root, small.source = root, source
    return small


def said(capsys):
    return capsys.readouterr().out


def test_a_run_writes_notebook_and_records_without_traces_of_the_machine(small):
    text = small.notebook.read_text()
    notebook = json.loads(text)
    assert "papermill" not in text and "injected-parameters" not in text and str(small.root) not in text
    assert set(notebook["metadata"]) == {"kernelspec", "language_info", "jupytext", "pdelens"}
    assert small.outputs()[0]["text"] == "It is 2.5 at size 2.\n"
    assert json.loads(small.results.read_text())["records"]["small"]["value"] == 2.5
    assert not list((small.root / "_build").glob("chapters-*"))


def test_nothing_changed_nothing_runs(small, capsys):
    before = small.state()
    said(capsys)
    chapters.run_chapters()
    assert "current" in said(capsys) and small.state() == before


@pytest.mark.parametrize(("old", "new"), [("Some prose.", "Other prose."), ("# a comment", "# another")])
def test_changed_prose_is_brought_over_without_running(small, capsys, old, new):
    outputs = small.outputs()
    small.change(old, new)
    said(capsys)
    chapters.run_chapters()
    assert "current" in said(capsys)
    assert new in small.notebook.read_text() and small.outputs() == outputs


def test_changed_code_runs(small, capsys, monkeypatch):
    monkeypatch.setenv("PDELENS_REPLAY", "1")
    before = dict(os.environ)
    small.change("It is", "It was")
    said(capsys)
    chapters.run_chapters()
    assert "done" in said(capsys) and "It was 2.5" in small.outputs()[0]["text"]
    assert dict(os.environ) == before, "a replay later in this process is still one"


def test_only_modules_that_the_chapter_reaches_count(small):
    path = small.source
    before = chapters.digest(path)
    measures = small.root / "lib/pdelens/agreement/measures.py"  # companion.theory.cosine imports it
    small.change("How alike two attentions", "How near two attentions", measures)
    assert chapters.digest(path) == before
    small.change("TINY = 1e-12", "TINY = 1e-13", measures)
    assert chapters.digest(path) != before
    code = [cell.source for cell in chapters.read_source(path).cells if cell.cell_type == "code"]
    reached = chapters.reached_modules("\n".join(code))
    assert {"companion.records", "companion.paths", "companion.theory.cosine", "pdelens.agreement.measures"} <= reached
    assert not reached & {"pdelens.attention.capture", "pdelens.models", "companion.chapters", "pdelens.pde.fit"}


def test_a_measure_of_agreement_concerns_the_cosine_and_not_the_estimators(tmp_path, monkeypatch):
    """The real chapters: both packages' imports are followed, and what a page does not use leaves it current."""
    for folder in (*PACKAGES, "book/chapters", "data/results"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "data/SHA256SUMS", tmp_path / "data/SHA256SUMS")
    monkeypatch.setenv("PDELENS_ROOT", str(tmp_path))
    pages = [tmp_path / f"book/chapters/{name}.md" for name in ("01-cosine", "16-information")]
    before = [chapters.digest(page) for page in pages]
    measures = tmp_path / "lib/pdelens/agreement/measures.py"
    measures.write_text(measures.read_text().replace("TINY = 1e-12", "TINY = 1e-13"))
    after = [chapters.digest(page) for page in pages]
    assert after[0] != before[0] and after[1] == before[1]


IMPORTS = {
    "import pdelens\npdelens.compare(1)": "pdelens.agreement.report",
    "from pdelens import compare": "pdelens.agreement.report",
    "from pdelens.agreement import report": "pdelens.agreement.report",
    "from pdelens.agreement.report import (\n    compare,\n)": "pdelens.agreement.report",
    "import pdelens.agreement.report": "pdelens.agreement.report",
    "import companion\ncompanion.record": "companion.records",
    "from companion.figures import base as figures": "companion.figures.base",
}


@pytest.mark.parametrize("code", IMPORTS)
def test_however_a_module_is_imported_it_is_reached(code):
    assert IMPORTS[code] in chapters.reached_modules(code)


def test_changed_data_counts_if_it_was_read(small):
    about = json.loads(small.results.read_text())
    about["about"]["data"] = ["a.bin"]
    small.results.write_text(json.dumps(about))
    before = chapters.digest(small.source)
    (small.root / "data/a.bin").write_bytes(b"1")
    paths.write_checksums({"a.bin": "0" * 64})
    assert chapters.digest(small.source) != before


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("raise RuntimeError('on purpose')", "on purpose"),
        pytest.param("import sys; print('careful', file=sys.stderr)", "wrote to stderr", marks=pytest.mark.replay),
        pytest.param(
            "import os; print(os.environ['PDELENS_ROOT'])", "a path of this machine", marks=pytest.mark.replay
        ),
        ("companion.record('small', 1.0, unit='1', atol=0, rtol=0)", "recorded twice"),
    ],
)
def test_failing_chapter_leaves_notebook_and_records(small, capsys, broken, says):
    before = small.state()
    small.change("print(f", f"{broken}\nprint(f")
    with pytest.raises(SystemExit, match="50-small failed"):
        chapters.run_chapters()
    shown = capsys.readouterr().err
    assert says in shown and "untouched" in shown and small.state() == before


def test_other_parameters_go_elsewhere(small):
    before = small.state()
    main(["chapters", "--scale", "smoke", "--device", "cpu"])
    assert small.state() == before
    made = small.root / "_build/runs/smoke-cpu"
    assert "size 1." in (made / "50-small.ipynb").read_text()
    assert json.loads((made / "50-small.json").read_text())["about"]["scale"] == "smoke"


def test_unknown_chapter_and_unknown_device_are_named(small, capsys):
    with pytest.raises(SystemExit, match="no chapter begins with '77'"):
        main(["chapters", "--chapter", "77"])
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            main(["chapters", "--device", "cuda"])
        assert "torch sees no GPU here" in capsys.readouterr().err


def test_check_changes_nothing_and_fails_where_a_chapter_is_out_of_date(small, capsys):
    main(["chapters", "--check"])
    assert said(capsys).endswith("50-small: current\n")
    small.change("It is", "It was")
    before = small.state()
    with pytest.raises(SystemExit, match="50-small: see above"):
        main(["chapters", "--check"])
    assert "out of date" in said(capsys) and small.state() == before


def test_what_a_run_replaces_is_shown_before_it_is_replaced(small, capsys):
    small.change('"small", 2.5', '"small", 3.5')
    small.change(
        'companion.record("small"', 'companion.record("other", "a word", unit="1")\nvalue = companion.record("small"'
    )
    said(capsys)
    chapters.run_chapters()
    shown = said(capsys)
    assert "  small: 2.5 -> 3.5\n" in shown and '  other: new, "a word"\n' in shown
    small.change('companion.record("other", "a word", unit="1")\n', "")
    chapters.run_chapters()
    assert '  other: gone, was "a word"\n' in said(capsys)
