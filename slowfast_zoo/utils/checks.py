"""Checks of arguments: each raises a sentence that says what was given and what was expected."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch


def checked_device(device: str | torch.device | None) -> torch.device | None:
    """A device that is really there."""
    if device is None:
        return None
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return checked


def needs_count(value: Any, name: str) -> int:
    """A whole number of at least 1, NumPy's among them; refuses anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def integer(value: Any, name: str, at_least: int) -> None:
    """An integer, of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} is an integer of at least {at_least}, not {value!r}")


def number(value: Any, name: str) -> float:
    """A finite number, as a float."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value!r}")
    return float(value)


def boolean(value: Any, name: str) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, not {value!r}")


def known_keywords(given: Mapping[str, Any], config: type[Any], what: str) -> None:
    """Only fields that the configuration has; near ones are suggested."""
    known = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
        hint = f"did you mean {' and '.join(map(repr, near))}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"{what} takes no keyword {', '.join(map(repr, unknown))}; {hint}")


def odd(value: Any, name: str) -> None:
    """An odd integer above 0."""
    integer(value, name, at_least=1)
    if value % 2 == 0:
        raise ValueError(f"{name} is odd, so that frames keep their places; given: {value}")


def one_of(value: Any, allowed: Sequence[Any], name: str) -> None:
    """One of some values."""
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}")


def int_tuple(value: Any, length: int, name: str, at_least: int) -> tuple[int, ...]:
    """A sequence of integers of this length, as a tuple."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != length:
        raise ValueError(f"{name} holds {length} integers, not {value!r}")
    for item in value:
        integer(item, f"each entry of {name}", at_least)
    return tuple(value)


def is_positive(value: Any) -> bool:
    """Whether it is a finite number above 0, of Python's or NumPy's."""
    return not isinstance(value, bool) and isinstance(value, Real) and 0 < float(value) < float("inf")
