"""Tensors in one file with a header: whole or not at all, its content checked by a digest, nothing pickled.

The file is a safetensors file whose metadata has one entry, `header`, in JSON: safetensors does not keep the order of
several, and the same content shall be the same bytes. `digest` in it is the SHA-256 of names and values, since a file
may have its full length and yet hold other bytes, after a loss of power for instance. Files with one JSON entry for
each part of the header, without a digest, are read too.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header, so that the file is never seen half-written and two writers never share a draft.

    Entries of the header are anything that JSON holds. Cost: one copy of the tensors on the CPU.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.safetensors"
    >>> write_tensors(path, {"x": torch.arange(3)}, {"made": {"seed": 0}})
    >>> read_tensors(path)
    ({'x': tensor([0, 1, 2])}, {'made': {'seed': 0}})
    """
    from safetensors.torch import save_file

    path = Path(path)
    # Copies: safetensors refuses tensors that share memory.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = {"header": json.dumps({**header, "digest": digest(plain)}, sort_keys=True)}
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        save_file(plain, draft, metadata=about)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a file's tensors and its header; raises `ValueError` where it is damaged or of another kind."""
    with _opened(path) as (stream, header):
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}
    wanted = header.pop("digest", None)
    if wanted is not None and wanted != digest(tensors):
        raise ValueError(f"{path} is damaged: what it holds is not what was written (its digest differs).")
    return tensors, header


def read_header(path: str | Path) -> dict[str, Any]:
    """Return a file's header without reading its tensors; raises `ValueError` where it is damaged."""
    with _opened(path) as (_, header):
        header.pop("digest", None)
        return header


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give a file that is open for reading, and its header; what is wrong with either is a `ValueError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            found = {name: json.loads(text) for name, text in (stream.metadata() or {}).items()}
            yield stream, found["header"] if set(found) == {"header"} else found
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged, or no file of tensors ({error}).") from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return one SHA-256 over names and values of CPU tensors, in the order of their names.

    >>> digest({"x": torch.zeros(2)}) == digest({"x": torch.zeros(3)})
    False
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
