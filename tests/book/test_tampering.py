"""Whatever is touched up in a committed page, its records or its data is named by `make book` and by the tests."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from companion import chapters, inspection, records, seals
from companion.paths import DataError, data_file

ROOT = Path(__file__).resolve().parents[2]
STEM = "01-cosine"
PARTS = ("lib/pdelens", "book/companion", "book/chapters", "book/notebooks", "data/results")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A copy of what a page is made of and checked against."""
    root = tmp_path_factory.mktemp("project")
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("SHA256SUMS", "seals.json"):
        shutil.copy(ROOT / "data" / name, root / "data" / name)
    return root


@pytest.fixture
def page(whole, monkeypatch):
    """The copy, whose first chapter a test may change and which is as it was afterwards."""
    monkeypatch.setenv("PDELENS_ROOT", str(whole))
    kept = [
        whole / f"book/chapters/{STEM}.md",
        whole / f"book/notebooks/{STEM}.ipynb",
        whole / f"data/results/{STEM}.json",
        whole / "data/seals.json",
    ]
    before = [path.read_bytes() for path in kept]
    yield kept[0]
    for path, content in zip(kept, before, strict=True):
        path.write_bytes(content)


def notebook(change):
    """Change the committed notebook in place."""
    path = chapters.notebook_path(STEM)
    whole = nbformat.read(path, as_version=4)
    change(whole)
    nbformat.write(whole, path)


def outputs(whole, kind):
    """Return the outputs that hold a kind of data, with their cells."""
    return [o for cell in whole.cells for o in cell.get("outputs", []) if kind in o.get("data", {}) or kind in o]


def glue(whole):
    return [o for o in outputs(whole, records.GLUE + "text/plain")]


def pictures_swapped(whole):
    one, other = outputs(whole, "image/png")[:2]
    one["data"]["image/png"], other["data"]["image/png"] = other["data"]["image/png"], one["data"]["image/png"]


def names_swapped(whole):
    one, other = (o["metadata"]["scrapbook"] for o in glue(whole)[:2])
    one["name"], other["name"] = other["name"], one["name"]


def another_name(whole):
    one, other = (o["metadata"]["scrapbook"] for o in glue(whole)[:2])
    one["name"] = other["name"]


def another_number(whole):
    output = glue(whole)[0]
    output["data"][records.GLUE + "text/plain"] = "0.123"


def another_table(whole):
    output = outputs(whole, "text/markdown")[0]
    text = output["data"]["text/markdown"]
    place = re.search(r"\d\.\d", text)
    assert place is not None
    output["data"]["text/markdown"] = text[: place.start()] + "9.9" + text[place.end() :]


def another_caption(whole):
    cell = next(cell for cell in whole.cells if "figure" in cell.metadata.get("mystnb", {}))
    cell.metadata["mystnb"]["figure"]["caption"] = "Another caption."


def another_alt(whole):
    cell = next(cell for cell in whole.cells if "image" in cell.metadata.get("mystnb", {}))
    cell.metadata["mystnb"]["image"]["alt"] = "Another picture."


def another_label(whole):
    cell = next(cell for cell in whole.cells if "figure" in cell.metadata.get("mystnb", {}))
    cell.metadata["mystnb"]["figure"]["name"] = "fig-other"


def another_footer(whole):
    output = whole.cells[-1].outputs[0]
    output["text"] = output["text"].replace("on CPU", "on NVIDIA H200")
    assert "H200" in output["text"]


def another_word(whole):
    cell = next(cell for cell in whole.cells if cell.cell_type == "markdown" and "{glue:text}" in cell.source)
    cell.source = cell.source.replace("{glue:text}", "about {glue:text}", 1)


def another_quote(whole):
    known = [o["metadata"]["scrapbook"]["name"] for o in glue(whole)]
    cell = next(cell for cell in whole.cells if cell.cell_type == "markdown" and f"`{known[0]}:" in cell.source)
    cell.source = cell.source.replace(f"`{known[0]}:", f"`{known[1]}:", 1)


def no_picture(whole):
    cell = next(cell for cell in whole.cells if any("image/png" in o.get("data", {}) for o in cell.get("outputs", [])))
    cell["outputs"] = []


def cells_exchanged(whole):
    marked = [n for n, cell in enumerate(whole.cells) if cell.cell_type == "markdown"]
    a, b = marked[1:3]
    whole.cells[a], whole.cells[b] = whole.cells[b], whole.cells[a]


def digest_copied(whole):
    whole.metadata["pdelens"]["digest"] = "0" * 64


IN_THE_NOTEBOOK = (
    pictures_swapped,
    names_swapped,
    another_name,
    another_number,
    another_table,
    another_caption,
    another_alt,
    another_label,
    another_footer,
    another_word,
    another_quote,
    no_picture,
    cells_exchanged,
    digest_copied,
)


@pytest.mark.parametrize("path", sorted((ROOT / "book/chapters").glob("*.md")), ids=lambda path: path.stem)
def test_every_page_is_as_its_last_run_left_it(path):
    assert inspection.faults(path) == []


@pytest.mark.parametrize("change", IN_THE_NOTEBOOK, ids=lambda change: change.__name__)
def test_a_notebook_that_is_touched_up_is_named(page, change, capsys):
    assert inspection.faults(page) == []
    notebook(change)
    assert inspection.faults(page)
    with pytest.raises(SystemExit, match=STEM):
        inspection.check_chapters(STEM)
    assert STEM in capsys.readouterr().out


@pytest.mark.parametrize("change", [names_swapped, another_name, another_number, another_footer])
def test_even_where_the_seal_was_made_to_fit(page, change):
    notebook(change)
    seals.seal(STEM, nbformat.read(chapters.notebook_path(STEM), as_version=4))
    assert inspection.faults(page)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("caption: '", "caption: 'Not "),
        ("alt: ", "alt: Not "),
        ("{glue:text}", "about {glue:text}"),
        (":tags: [hide-input]", ":tags: [hide-input, nbval-skip]"),
        (":tags: [hide-input]", ":tags: [hide-input, nbval-ignore-output]"),
    ],
)
def test_a_chapter_that_is_touched_up_is_named(page, old, new):
    text = page.read_text()
    old = old if old in text else old.replace(":tags:", "tags:")
    assert old in text
    page.write_text(text.replace(old, new.replace(":tags:", old.split(" ")[0]) if "tags" in old else new, 1))
    assert inspection.faults(page)


def results(change):
    path = records.results_folder() / f"{STEM}.json"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))


def quoted(whole):
    known = nbformat.read(chapters.notebook_path(STEM), as_version=4)
    name = next(o["metadata"]["scrapbook"]["name"] for o in glue(known) if o["metadata"]["scrapbook"]["name"] in whole)
    return whole[name]


def another_value(whole):
    quoted(whole["records"])["value"] += 0.01


def another_device(whole):
    whole["about"]["device"] = "NVIDIA H200"


def another_scale(whole):
    whole["about"]["scale"] = "full"


def nothing_read(whole):
    assert whole["about"]["data"]
    whole["about"]["data"] = []


@pytest.mark.parametrize("change", [another_value, another_device, another_scale, nothing_read])
def test_records_that_are_touched_up_are_named(page, change):
    results(change)
    assert inspection.faults(page)


def test_data_that_is_touched_up_is_refused_and_makes_pages_stale(page, whole):
    name = json.loads((whole / f"data/results/{STEM}.json").read_text())["about"]["data"][0]
    path = whole / "data" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((ROOT / "data" / name).read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="but data/SHA256SUMS wants"):
        data_file(name)
    sums = whole / "data/SHA256SUMS"
    before = sums.read_text()
    sums.write_text(re.sub(rf"\w+  {re.escape(name)}\n", f"{'0' * 64}  {name}\n", before))
    assert any("out of date" in fault for fault in inspection.faults(page))
    sums.write_text(before)


def test_the_replay_leaves_out_nothing_but_addresses():
    kept = [line for line in (ROOT / "tests/nbval.cfg").read_text().splitlines() if line and line[0] != "#"]
    assert kept == ["[addresses]", "regex: 0x[0-9a-f]{6,}", "replace: ADDRESS"]
