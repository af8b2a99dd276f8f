"""No measured number is typed into prose: it is quoted from a record, or it is a definition and listed here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "book/chapters").glob("*.md")), *sorted((ROOT / "book").glob("*.md"))]
EVERYWHERE = {"0.98": "the paper's claim", "95 %": "the level of every interval"}
# page -> number -> why it is no result of ours
ALLOWED = {
    "01-cosine": {
        "0.6": "an example put into a formula",
        "0.99": "an example put into a formula",
        "0.2": "the noise chosen for an example",
    },
    "05-stability": {
        "2.785": "the classical method's real interval, from the literature",
        "2.828": "its imaginary interval, the square root of 8",
        "0.1": "the tolerance within which orders are accepted",
        "0.2": "the diffusivity chosen for an example",
    },
    "02-teachers": {"100 %": "all of them"},
    "08-how-much": {"0.95": "the size of proportion that an example has"},
    "10-is-it-a-pde": {"0.9": "the bar of C2"},
    "12-where-it-fails": {"90 %": "a range of pictures", "5 %": "the false discovery rate"},
    "index": {"3.11": "a version of Python", "3.13": "a version of Python"},
}
NOT_PROSE = (
    r"\A---\n.*?\n---\n",
    r"```\{code-cell\}.*?\n```",
    r"```\{math\}.*?```",
    r"```(?:python|bash|sh|\{api\}|\{claims\}).*?```",
    r"\{[\w:-]+\}`[^`]*`",
    r"`[^`]*`",
    r"\$\$.*?\$\$",
    r"\$[^$]*\$",
    r"\]\([^)]*\)",
    r"https?://\S+",
)


def typed(text):
    """Return the decimals and percentages that stand in the prose of a page."""
    for pattern in NOT_PROSE:
        text = re.sub(pattern, " ", text, flags=re.S)
    found = re.findall(r"(?<![\w.])(\d*\.\d+)(?![\w.])|(\d+) ?%", text)
    return {decimal or f"{percent} %" for decimal, percent in found}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_typed_number_is_a_definition(path):
    listed = EVERYWHERE.keys() | ALLOWED.get(path.stem, {}).keys()
    assert typed(path.read_text()) <= listed, "record the number and quote it, or say here why it is none of ours"


def test_nothing_is_allowed_that_is_not_there():
    pages = {path.stem: typed(path.read_text()) for path in PAGES}
    for stem, listed in ALLOWED.items():
        assert listed.keys() <= pages[stem]


def test_a_planted_number_is_found():
    text = "---\nversion: 0.1\n---\nIt is {glue:text}`a:.2f`, `x = 0.5`, $0.3$ and 0.87, by `$HOME`, or 91 %, `$`.\n"
    assert typed(text) == {"0.87", "91 %"}
