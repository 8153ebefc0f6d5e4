"""What commands print: tables and errors in one line."""

from __future__ import annotations

import pytest

from slowfast_zoo.cli.text import Progress, format_table, in_one_line, show_progress


def test_columns_of_a_table() -> None:
    rows = [("name", "count", "note"), ("a\nb", "1", ""), ("long name", "1000", "x")]
    assert format_table(rows, "<>").splitlines() == [
        "name       count  note",
        "a\\nb           1",
        "long name   1000  x",
    ]
    assert format_table([("a", "b")], ">", indent="  ", gap=" | ") == "  a | b"


def test_errors_in_one_line() -> None:
    assert in_one_line(FileNotFoundError(2, "No such file", "a\nb.mp4")) == r"No such file: a\nb.mp4"
    assert in_one_line(ValueError("first\n  second")) == "first second"


def test_how_many_failed_is_said_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(progress: Progress) -> None:
        with progress.failing("a.mp4", ValueError):
            raise ValueError("bad")

    for total in (3, 30):
        with show_progress(total) as progress:
            fail(progress)
        assert progress.failed == ["a.mp4"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["slowfast-zoo: error: a.mp4: bad"] * 2 + ["slowfast-zoo: 1 of 30 videos failed, see above"]
