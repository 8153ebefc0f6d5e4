"""What a process does that is told to end while it writes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def unwound_when_ended() -> Iterator[None]:
    """Within it, a process that is told to end (SIGTERM, SIGHUP) removes first what it has written in part.

    The signal becomes a SystemExit with the code that shells report for it. A handler that is there already is kept,
    and signals that are ignored stay so; only Python's main thread can listen.
    """

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    heard = []
    if threading.current_thread() is threading.main_thread():
        known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        heard = [number for number in known if signal.getsignal(number) is signal.SIG_DFL]
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)
