"""The progress bar."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TextIO

_LAYOUT = "{desc}{percentage:3.0f} % |{bar}| {n_fmt} of {total_fmt}, {rate_noinv_fmt}, {remaining} left{postfix}"


class ProgressBar:
    """A bar on stderr that is shown only on a terminal, and leaves nothing behind.

    Args:
        unit: what is counted, in the plural.
        total: how many there are; :meth:`expect` adds those that are learnt of later.
        done: how many of them were done before.
        title: stands before the bar.
        show: False shows nothing.
        delay: seconds after which the bar first appears.
    """

    def __init__(
        self, unit: str, total: int = 0, *, done: int = 0, title: str = "", show: bool = True, delay: float = 0
    ) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=f" {unit}",
            bar_format=_LAYOUT,
            dynamic_ncols=True,
            leave=False,
            delay=delay,
            disable=None if show else True,  # None: unless stderr is a terminal
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, count: int) -> None:
        """Add to the total."""
        self._bar.total += count

    def advance(self, count: int = 1) -> None:
        """Count some as done."""
        self._bar.update(count)

    def describe(self, title: str) -> None:
        """Change what stands before the bar, at its next update."""
        self._bar.set_description_str(title, refresh=False)

    def note(self, text: str, *, refresh: bool = False) -> None:
        """Change what stands behind the bar, at its next update or at once."""
        self._bar.set_postfix_str(text, refresh=refresh)

    def print(self, text: str, file: TextIO | None = None) -> None:
        """Write a line above the bar, to stderr or another stream."""
        self._bar.write(text, file=sys.stderr if file is None else file)

    def cleared(self) -> AbstractContextManager[None]:
        """A context in which other output does not garble the bar."""
        cleared: AbstractContextManager[None] = self._bar.external_write_mode(sys.stderr)
        return cleared
