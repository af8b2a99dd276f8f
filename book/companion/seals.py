"""What a committed page must still be: its outputs by digest, its figures by their look, its records by difference.

A replay compares texts and numbers; pictures, captions and the names under which prose quotes numbers it would pass by.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .paths import replace_text, root

# A look is this many rows and columns of mean colours; two agree where no field and not all of them together differ by
# more (of 255). Another machine's rounding moves an edge by less than a pixel; a line left out or exchanged is more.
ROWS, COLUMNS = 16, 24
LARGEST, MEAN = 12, 0.5


def outputs_digest(notebook: Any) -> str:
    """Return the digest of what a notebook's cells put out: texts, tables, pictures, names of quoted numbers."""
    outputs = [cell.get("outputs", []) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def sealed() -> dict[str, str]:
    """Return each chapter's digest as its last run left it."""
    path = _file()
    return json.loads(path.read_text()) if path.exists() else {}


def seal(stem: str, notebook: Any) -> None:
    """Note the digest of a chapter that has just run."""
    known = sealed() | {stem: outputs_digest(notebook)}
    replace_text(_file(), json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def _file() -> Path:
    return root() / "data" / "seals.json"


def look(figure: Any) -> str:
    """Return how a matplotlib figure looks from afar, as hexadecimal digits: `ROWS` x `COLUMNS` mean colours."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=50, bbox_inches="tight")
    return look_of_png(stream.getvalue())


def look_of_png(png: bytes) -> str:
    """Return how a picture looks from afar."""
    from PIL import Image

    small = Image.open(io.BytesIO(png)).convert("RGB").resize((COLUMNS, ROWS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).tobytes().hex()


def look_alike(one: str, other: str) -> bool:
    """Say whether two looks are one figure's.

    >>> white, grey = "ff" * 3 * ROWS * COLUMNS, "f0" * 3 * ROWS * COLUMNS
    >>> look_alike(white, white), look_alike(white, grey)
    (True, False)
    """
    ours, theirs = (np.frombuffer(bytes.fromhex(each), np.uint8).astype(float) for each in (one, other))
    if ours.shape != theirs.shape:
        return False
    off = np.abs(ours - theirs)
    return bool(off.max() <= LARGEST and off.mean() <= MEAN)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each record that a run changes, adds or drops."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            lines.append(f"{key}: {'new, ' + _brief(new) if old is None else 'gone, was ' + _brief(old)}")
        elif old != new and not old.get("kind") == new.get("kind") == "timing":
            lines.append(f"{key}: {_brief(old)} -> {_brief(new)}")
    return lines


def _brief(entry: Any) -> str:
    """Return a record's value, and its interval, in one short text."""
    return _shortened(entry["value"]) + (f" in {json.dumps(entry['interval'])}" if "interval" in entry else "")


def is_text(plain: Any) -> bool:
    """Say whether a recorded value is text (or true or false) and no number."""
    flat = plain
    while isinstance(flat, list) and flat:
        flat = flat[0]
    return isinstance(flat, str | bool)


def difference(entry: dict[str, Any], committed: dict[str, Any]) -> str:
    """Say how an entry differs from the committed one beyond its tolerance; nothing where it does not."""
    if entry["kind"] == committed["kind"] == "timing":
        return ""
    about = {name: entry.get(name) for name in ("unit", "seeds", "atol", "rtol", "kind")}
    changed = [name for name, value in about.items() if value != committed.get(name)]
    if changed or ("interval" in entry) != ("interval" in committed):
        return f" was recorded with another {', '.join(changed) or 'interval'}: run `make chapters`."
    for part in ("value", "interval"):
        if part in entry and not _agree(entry[part], committed[part], entry):
            return (
                f": the {part} is {_shortened(entry[part])} when recomputed, but "
                f"{_shortened(committed[part])} stands there (atol {entry.get('atol')}, rtol {entry.get('rtol')})."
            )
    return ""


def _agree(found: Any, committed: Any, entry: dict[str, Any]) -> bool:
    if is_text(found) or is_text(committed):
        return found == committed
    ours, theirs = np.asarray(found, dtype=float), np.asarray(committed, dtype=float)
    if ours.shape != theirs.shape:
        return False
    return bool(np.allclose(ours, theirs, atol=entry["atol"], rtol=entry["rtol"]))


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."
