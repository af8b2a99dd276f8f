"""The figure that stands on the landing page and in the README: one page's own, taken from its committed notebook."""

import base64
import json

from .paths import replace_bytes, root

CHAPTER, FIGURE = "09-laws", "fig-la-curves"
FILE = "book/poster.png"


def of_notebook() -> bytes:
    """Return the picture (PNG) that the page's committed notebook holds under the figure's name."""
    notebook = json.loads((root() / "book/notebooks" / f"{CHAPTER}.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") == FIGURE:
            data = next(output["data"] for output in cell["outputs"] if "image/png" in output.get("data", {}))
            return base64.b64decode("".join(data["image/png"]))
    raise ValueError(f"{CHAPTER} has no figure {FIGURE}: name another in companion.poster.")


def update() -> None:
    """Write the picture beside the landing page."""
    replace_bytes(root() / FILE, of_notebook())
