"""Tables that nbval can compare."""

from collections.abc import Sequence


def table(name: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a numbered, captioned table; the cell needs `mystnb: {markdown_format: myst}`.

    Cells are texts, already formatted from recorded numbers. The first column is set to the left, the others to the
    right; where a narrow column breaks a line, "±" stays with its number. A label `name` makes it `{numref}`-able.
    """
    from IPython.display import Markdown, display

    if not all(column.strip() for column in columns):
        raise ValueError(f"columns {list(columns)!r} were given: name every one, also that of the rows' names.")
    wrong = [row for row in rows if len(row) != len(columns)]
    if wrong:
        raise ValueError(f"row {wrong[0]!r} has {len(wrong[0])} cells for {len(columns)} columns.")
    lines = [f":::{{table}} {caption}", f":name: {name}", ":align: left", ""]
    lines += ["| " + " | ".join(columns) + " |", "|:---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(row).replace("± ", "±\u00a0") + " |" for row in rows]
    display(Markdown("\n".join([*lines, ":::"])))
