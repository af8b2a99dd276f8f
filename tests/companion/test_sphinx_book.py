"""What the book's own Sphinx extension copies."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from companion import sphinx_book

CASES = [(None, "html", True), (None, "latex", False), (ValueError(), "html", False), (ValueError(), "latex", False)]


@pytest.mark.parametrize(("exception", "kind", "copied"), CASES)
def test_mathjax_is_copied_into_whole_web_pages_alone(tmp_path, monkeypatch, exception, kind, copied):
    kept = tmp_path / "package" / "static" / sphinx_book.MATHJAX
    kept.parent.mkdir(parents=True)
    kept.write_text("mathjax")
    spec = SimpleNamespace(origin=str(tmp_path / "package" / "__init__.py"))
    monkeypatch.setattr(sphinx_book, "find_spec", lambda name: spec)
    app = SimpleNamespace(outdir=str(tmp_path / "html"), builder=SimpleNamespace(format=kind))
    Path(app.outdir).mkdir()
    sphinx_book._copy_mathjax(app, exception)
    target = tmp_path / "html" / sphinx_book.MATHJAX
    assert target.exists() == copied and (not copied or target.read_text() == "mathjax")
