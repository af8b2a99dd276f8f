"""What public functions let in: each check says in one sentence what was given and what is wanted."""

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_a(name: str, value: Any, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise `TypeError` unless a value is of a kind."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name}={_shown(value)} was given: {wanted} is wanted.")


def flag(name: str, value: Any) -> None:
    """Raise `TypeError` unless a value is True or False."""
    is_a(name, value, (bool, np.bool_), "True or False")


def whole(name: str, value: Any, least: int | None = 1) -> None:
    """Raise `ValueError` unless a value is a whole number, not below the least."""
    number = isinstance(value, Integral) and not isinstance(value, bool)
    if not number or (least is not None and value < least):
        bound = "" if least is None else f", at least {least},"
        raise ValueError(f"{name}={_shown(value)} was given: a whole number{bound} is wanted.")


def real(name: str, value: Any, least: float = -math.inf, *, above: float = -math.inf) -> None:
    """Raise `ValueError` unless a value is a finite real number, not below the least, and above some other."""
    number = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex())
    if not number or isinstance(value, bool) or not math.isfinite(value) or value < least or value <= above:
        bound = f" above {above:g}" if math.isfinite(above) else f" not below {least:g}" if math.isfinite(least) else ""
        raise ValueError(f"{name}={_shown(value)} was given: a number{bound} is wanted.")


def option(name: str, value: Any, options: Collection[str]) -> None:
    """Raise `ValueError` unless a value is one of some names."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} {_shown(value)} was given: choose from {', '.join(options)}.")


def device(name: str, value: Any) -> None:
    """Raise `ValueError` unless a value names a device, or is None."""
    if value is not None:
        try:
            if isinstance(value, bool | int):
                raise TypeError
            torch.device(value)
        except (RuntimeError, TypeError):
            raise ValueError(
                f"{name}={_shown(value)} was given: a device such as 'cpu' or 'cuda:0' is wanted."
            ) from None


def tensor(name: str, value: Any, wanted: str, *, exact: bool = False) -> Tensor:
    """Return a value as a tensor: arrays, lists and tables are welcome; `TypeError` for what holds no numbers."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} has {int(np.ma.getmaskarray(value).sum())} masked entries: {wanted} is wanted.")
    try:
        array = np.array(value)
        if isinstance(value, list | tuple) and array.dtype == np.float64 and not exact:
            array = array.astype(np.float32)  # as `torch.tensor` has it
        made = None if isinstance(value, str | bytes) else torch.from_numpy(array)
    except (TypeError, ValueError, RuntimeError):
        made = None
    if made is None:
        raise TypeError(f"{name}={_shown(value)} was given: {wanted} is wanted.")
    return made


def state(name: str, value: Any, wanted: str = "(batch, tokens, width)", rank: int = 3) -> Tensor:
    """Return a value as a state: floating point, of the rank, not empty, finite."""
    value = tensor(name, value, f"a state {wanted}")
    if not value.is_floating_point():
        raise TypeError(f"{name} of type {value.dtype} was given, but floating point is wanted: use {name}.float().")
    if value.ndim != rank or not value.numel():
        raise ValueError(f"{name} of shape {tuple(value.shape)} was given, but {wanted} is wanted, none of them 0.")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} holds NaN or infinity: look at what made it.")
    return value


def mask(name: str, value: Any, shape: Sequence[int]) -> Tensor | None:
    """Return a mask of real tokens as booleans of a shape; whole numbers 0 and 1 are welcome."""
    if value is None:
        return None
    wanted = f"booleans {tuple(shape)}, True at real tokens,"
    value = tensor(name, value, wanted)
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, but {tuple(shape)} is wanted.")
    return booleans(name, value, wanted)


def booleans(name: str, value: Tensor, wanted: str) -> Tensor:
    """Return booleans, or numbers that are 0 or 1, as booleans."""
    if value.dtype == torch.bool:
        return value
    if value.is_complex() or not bool(((value == 0) | (value == 1)).all()):
        raise ValueError(f"{name} of type {value.dtype} holds other values than 0 and 1: {wanted} is wanted.")
    return value.bool()


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def layers(value: Any) -> None:
    """Raise `ValueError` unless a value is a row of layers' numbers, or None for all."""
    if value is None:
        return
    wrong = isinstance(value, str) or not isinstance(value, Sequence | set | range | frozenset)
    if wrong or not len(value) or any(not isinstance(one, Integral) for one in value):
        raise ValueError(
            f"layers={_shown(value)} were given: whole numbers, at least one, are wanted; leave `layers` out for all."
        )
