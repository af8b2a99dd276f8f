"""The pipeline: what runs, what doesn't, and what a failing chapter leaves behind."""

import json
import os
import shutil

import nbformat
import pytest

import chapters
from pdelens import project

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
import pdelens
from pdelens import laws

chapter = pdelens.start_chapter("50-small", device=device, seed=seed, scale=scale)
value = pdelens.record("small", 2.5, unit="1", atol=0.1, rtol=0)
print(f"It is {value:.1f} at size {chapter.size(smoke=1, book=2)}.")  # a comment
```

```{code-cell} ipython3
:tags: [nbval-ignore-output]

pdelens.finish_chapter()
```
"""


@pytest.fixture(scope="module")
def has_run(tmp_path_factory):
    """A project whose one small chapter has run, made once."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "book/chapters").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data/SHA256SUMS").write_text("")
    shutil.copytree(project.Path(__file__).parents[1] / "lib", folder / "lib")
    (folder / "book/chapters/50-small.md").write_text(CHAPTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PDELENS_ROOT", str(folder))
        chapters.main([])
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
    chapters.main([])
    assert "current" in said(capsys) and small.state() == before


@pytest.mark.parametrize(("old", "new"), [("Some prose.", "Other prose."), ("# a comment", "# another")])
def test_changed_prose_is_brought_over_without_running(small, capsys, old, new):
    outputs = small.outputs()
    small.change(old, new)
    said(capsys)
    chapters.main([])
    assert "current" in said(capsys)
    assert new in small.notebook.read_text() and small.outputs() == outputs


def test_changed_code_runs(small, capsys, monkeypatch):
    monkeypatch.setenv("PDELENS_REPLAY", "1")
    before = dict(os.environ)
    small.change("It is", "It was")
    said(capsys)
    chapters.main([])
    assert "done" in said(capsys) and "It was 2.5" in small.outputs()[0]["text"]
    assert dict(os.environ) == before, "a replay later in this process is still one"


def test_only_modules_that_the_chapter_reaches_count(small):
    path = small.source
    before = chapters.digest(path)
    small.change("How alike two attentions", "How near two attentions", small.root / "lib/pdelens/agreement.py")
    assert chapters.digest(path) == before
    small.change("TINY = 1e-12", "TINY = 1e-13", small.root / "lib/pdelens/agreement.py")  # laws imports agreement
    assert chapters.digest(path) != before
    reached = chapters.reached_modules(small.source.read_text())
    assert {"records", "project", "laws", "agreement"} <= reached and not reached & {"capture", "training", "models"}


def test_changed_data_counts_if_it_was_read(small):
    about = json.loads(small.results.read_text())
    about["about"]["data"] = ["a.bin"]
    small.results.write_text(json.dumps(about))
    before = chapters.digest(small.source)
    (small.root / "data/a.bin").write_bytes(b"1")
    project.write_checksums({"a.bin": "0" * 64})
    assert chapters.digest(small.source) != before


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("raise RuntimeError('on purpose')", "on purpose"),
        ("import sys; print('careful', file=sys.stderr)", "wrote to stderr"),
        ("import os; print(os.environ['PDELENS_ROOT'])", "printed a path of this machine"),
        ("pdelens.record('small', 1.0, unit='1', atol=0, rtol=0)", "recorded twice"),
    ],
)
def test_failing_chapter_leaves_notebook_and_records(small, capsys, broken, says):
    before = small.state()
    small.change("print(f", f"{broken}\nprint(f")
    with pytest.raises(SystemExit, match="50-small failed"):
        chapters.main([])
    shown = capsys.readouterr().err
    assert says in shown and "untouched" in shown and small.state() == before


def test_other_parameters_go_elsewhere(small):
    before = small.state()
    chapters.main(["--scale", "smoke", "--device", "cpu"])
    assert small.state() == before
    made = small.root / "_build/runs/smoke-cpu"
    assert "size 1." in (made / "50-small.ipynb").read_text()
    assert json.loads((made / "50-small.json").read_text())["about"]["scale"] == "smoke"


def test_unknown_chapter_and_unknown_device_are_named(small, capsys):
    with pytest.raises(SystemExit, match="no chapter begins with '77'"):
        chapters.main(["--chapter", "77"])
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            chapters.main(["--device", "cuda"])
        assert "torch sees no GPU here" in capsys.readouterr().err


def test_check_only_says(small, capsys):
    small.change("It is", "It was")
    before = small.state()
    said(capsys)
    chapters.main(["--check"])
    assert "OUT OF DATE" in said(capsys) and small.state() == before
