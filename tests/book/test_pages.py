"""A page is a lecture: not too long, code in small cells, tables that fit, and the same parts in the same order."""

import json
import re
from pathlib import Path

import pytest

from companion.chapters import read_source

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "book" / "chapters").glob("*.md"))
WORDS, LINES, COLUMNS, ROWS = 2200, 15, 7, 24
SEEN = {"remove-input", "hide-input"}


def prose(cells):
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tables(path):
    """Return (columns, rows) of every table that a page's code shows."""
    notebook = json.loads((ROOT / "book" / "notebooks" / f"{path.stem}.ipynb").read_text())
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("data", {}).get("text/markdown", ""))
            lines = [line for line in text.splitlines() if line.startswith("|")]
            if lines:
                yield len(re.findall(r"(?<!\\)\|", lines[0])) - 1, len(lines) - 2


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_page_has_at_most_so_many_words(path):
    assert len(prose(read_source(path).cells).split()) <= WORDS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_cell_has_at_most_so_many_lines(path):
    cells = [cell for cell in read_source(path).cells if cell.cell_type == "code"]
    long = {
        cell.source.split("\n")[0]: lines
        for cell in cells
        if (lines := sum(bool(line.strip()) for line in cell.source.split("\n"))) > LINES
    }
    assert not long


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_settings_and_imports_are_folded_away(path):
    cells = [cell for cell in read_source(path).cells if cell.cell_type == "code"]
    for cell in cells[:2]:
        assert SEEN & set(cell.metadata.get("tags", [])), cell.source.split("\n")[0]
    assert "parameters" in cells[0].metadata.tags and "companion.start_chapter(" in cells[1].source
    assert not any(re.search(r"^(import|from) ", cell.source, re.M) for cell in cells[2:])


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_table_fits_on_a_page(path):
    for columns, rows in tables(path):
        assert columns <= COLUMNS and rows <= ROWS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_page_begins_with_answers_and_ends_with_what_it_does_not_show(path):
    first, *_ = [cell for cell in read_source(path).cells if cell.cell_type == "markdown"]
    answers = re.findall(r"^- \*\*.*", first.source, re.M)
    assert 2 <= len(answers) <= 5, "a question, then its answers, each beginning with what came out in bold"
    headings = re.findall(r"^## (.*)", prose(read_source(path).cells), re.M)
    assert headings[-1] == "What this page does not show"
