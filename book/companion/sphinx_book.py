"""Sphinx extension of the book: the claims' table, and MathJax from a package instead of a network."""

from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.fileutil import copy_asset

from companion.claims import verdicts
from companion.claims.register import register
from companion.claims.verdicts import Verdict
from companion.paths import results_folder
from companion.records import all_records

# One file with its fonts inside; beside `_static`, where every script would be loaded by every page.
MATHJAX = "mathjax/tex-svg.js"


class ClaimsTable(SphinxDirective):
    """``{claims}``: every claim with its verdict, computed from the records when the book is built."""

    def run(self) -> list[nodes.Node]:
        """Return the table's nodes."""
        for path in (*results_folder().glob("*.json"), __file__, verdicts.__file__):
            self.env.note_dependency(str(path))
        parent = nodes.container()
        self.state.nested_parse(StringList(claims_table().splitlines(), "claims"), self.content_offset, parent)
        return parent.children


def claims_table() -> str:
    """Return the claims at a glance as a MyST table."""
    records = all_records()
    lines = [
        ":::{table} The claims at a glance. The verdict is computed from the recorded numbers; beside it, "
        "the one that a predictor that knows nothing of the input would have earned by the bar alone.",
        ":name: tab-claims",
        "",
        "| no. | claim | how it is tested | measured | verdict | a null alone |",
        "|---|---|---|---|---|---|",
    ]
    for claim in register():
        nulls = claim.null_verdicts(records)
        alone = "; ".join(f"{_setting(setting)}: *{found}*" for setting, found in nulls.items()) or "–"
        # Necessary and helpful are two questions: each has its own answer.
        each = claim.reading_verdicts(records) if claim.everywhere else {"": claim.verdict(records)}
        shown = "<br>".join(f"{reading}: " * bool(reading) + _bold(found) for reading, found in each.items())
        measured = "<br>".join(
            f"{reading}: " * bool(reading)
            + "; ".join(_number(modality, records[key]) for modality, key in keys.items() if key in records)
            for reading, keys in claim.readings.items()
        )
        lines.append(f"| {claim.name} | {claim.statement} | {claim.test} | {measured or '–'} | {shown} | {alone} |")
    return "\n".join([*lines, ":::"])


def _bold(verdict: Verdict) -> str:
    return f"**{verdict}**" if verdict is not Verdict.NOT_YET_TESTED else str(verdict)


def _setting(name: str) -> str:
    """Return where a null stands: on some models, or (of a name with a colon) in which reading."""
    return name.replace(": ", ", ") if ": " in name else f"on {name}"


def _number(modality: str, entry: dict) -> str:
    """Return a record's number with its interval, where it has one."""
    low, high = entry.get("interval", (None, None))
    return f"{modality} {entry['value']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def _copy_mathjax(app, exception) -> None:
    if exception is not None or app.builder.format != "html":
        return
    spec = find_spec("sphinx-mathjax-offline")
    assert spec is not None and spec.origin is not None
    target = Path(app.outdir) / MATHJAX
    target.parent.mkdir(exist_ok=True)
    copy_asset(str(Path(spec.origin).parent / "static" / MATHJAX), str(target.parent))


def setup(app):
    """Add the directive and MathJax to a Sphinx application."""
    app.add_directive("claims", ClaimsTable)
    app.config.mathjax_path = f"../{MATHJAX}"  # relative to _static
    app.connect("build-finished", _copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
