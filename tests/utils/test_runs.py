"""Whether two runs have the same settings."""

from __future__ import annotations

from slowfast_zoo.utils.runs import describe_differences


def test_differences_in_words() -> None:
    here = {"model": "slow", "clips": 10, "fps": None}
    assert describe_differences({"model": "slow", "clips": 10, "more": 1}, here) == ""
    assert describe_differences({"clips": 3}, here) == "model None there, 'slow' here; clips 3 there, 10 here"
