"""The progress bar."""

from __future__ import annotations

import io
import sys

import pytest

from slowfast_zoo.utils.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar("videos", 4, done=1, title="part 1, ") as bar:
        bar.expect(4)
        bar.note("top-1 50.0 %", refresh=True)
        bar.describe("part 2, ")
        bar.advance(3)
        bar.note("done", refresh=True)
        bar.print("a line")
        with bar.cleared():
            print("another line", file=sys.stderr)
    shown = terminal.getvalue()
    for text in (
        "part 1,  25 % |",
        "1 of 8",
        "top-1 50.0 %",
        "part 2,",
        "4 of 8",
        "videos/s",
        "a line\n",
        "another line\n",
    ):
        assert text in shown, text


@pytest.mark.parametrize("show", [True, False])
def test_a_file_does_not(show: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file if show else Terminal())
    with ProgressBar("views", show=show) as bar:
        bar.expect(2)
        bar.describe("views")
        bar.note("one", refresh=True)
        bar.advance(2)
    assert not sys.stderr.getvalue()  # type: ignore[attr-defined]
