"""The library's face: what a stranger imports, and what each name says of itself."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shapes import watched

import pdelens

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = [name for name in pdelens.__all__ if inspect.isfunction(getattr(pdelens, name))]


def test_there_are_53_names_and_all_are_there():
    assert len(pdelens.__all__) == 53 == len(set(pdelens.__all__))
    assert all(hasattr(pdelens, name) for name in pdelens.__all__)


@pytest.mark.parametrize("name", pdelens.__all__)
def test_every_name_says_what_it_is_and_shows_it(name):
    text = inspect.getdoc(getattr(pdelens, name))
    assert text and ">>>" in text, "a doctest shows how it is used"
    assert text.splitlines()[0].endswith((".", ":")), "one line says what it is"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_names_its_errors_costs_and_source(name):
    text = inspect.getdoc(getattr(pdelens, name))
    assert name in ("skill", "Chain", "Grid", "gradient", "laplacian") or re.search("[Cc]ost|Time", text)
    assert name in ("skill", "substitute_attention") or re.search("[Rr]aises|[Ee]rrors", text)


def test_import_is_light_and_changes_nothing():
    """Nothing heavy, no state of torch, and little beside torch's own import."""
    heavy = ("transformers", "torchvision", "matplotlib", "pandas", "seaborn", "IPython", "companion", "beartype")
    program = (
        "import sys, torch; before = (torch.get_num_threads(), torch.initial_seed(), torch.get_default_dtype());"
        "import pdelens; after = (torch.get_num_threads(), torch.initial_seed(), torch.get_default_dtype());"
        f"print([m for m in {heavy} if m in sys.modules], before == after)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "[] True", done.stdout + done.stderr


def test_the_library_is_typed_and_nothing_of_the_book_is_in_it():
    assert (ROOT / "lib/pdelens/py.typed").exists()
    for path in (ROOT / "lib/pdelens").rglob("*.py"):
        assert "companion" not in {
            node.module.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and not node.level
        }, path


def test_shapes_in_signatures_are_checked_while_testing():
    from jaxtyping import Float
    from torch import Tensor

    def halved(u: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        return u[:, : u.shape[1] // 2]

    def kept(u: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        if u.ndim != 2:
            raise ValueError("a matrix is wanted.")
        return u

    with pytest.raises(AssertionError, match="halved took, or gave, what its signature forbids"):
        watched(halved)(torch.zeros(3, 4))
    assert watched(kept)(torch.zeros(3, 4)).shape == (3, 4)
    with pytest.raises(ValueError, match="a matrix is wanted"):
        watched(kept)(torch.zeros(3))
    assert all(hasattr(getattr(pdelens, name), "__wrapped__") for name in FUNCTIONS)
