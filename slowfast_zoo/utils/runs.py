"""Whether what an earlier run left belongs to the run that is about to go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In words, in which settings an earlier run differs from this one; empty if in none.

    Args:
        there: the settings of the earlier run; one that is missing is None.
        here: the settings of this run, all of which have to be the same.
    """
    return "; ".join(
        f"{name} {there.get(name)!r} there, {value!r} here" for name, value in here.items() if there.get(name) != value
    )
