"""Checks the shapes in the public signatures whenever a test calls a public function.

What a signature forbids has to be refused by the function itself, in a sentence of its own: so a call that does not
fit is made all the same, and only one that is then accepted is a fault.
"""

import functools
import inspect
import sys

import numpy as np
from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, jaxtyped

import pdelens

# Whole numbers are welcome where numbers are.
CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))


def watched(function):
    """Return the function with its signature checked."""
    checked = jaxtyped(typechecker=CHECK)(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        # Arrays and lists are made tensors at the door, which the signatures leave unsaid.
        if any(isinstance(value, np.ndarray | list) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        try:
            return checked(*args, **kwargs)
        except TypeCheckError as error:
            function(*args, **kwargs)
            raise AssertionError(f"{function.__name__} took, or gave, what its signature forbids: {error}") from error

    return call


def watch():
    """Put every public function under watch, wherever in the packages it has been imported."""
    for name in pdelens.__all__:
        function = getattr(pdelens, name)
        if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
            continue
        found = watched(function)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").split(".")[0] in ("pdelens", "companion"):
                for own, value in list(vars(module).items()):
                    if value is function:
                        setattr(module, own, found)
