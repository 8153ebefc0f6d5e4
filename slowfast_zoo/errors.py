"""The library's own exceptions. All share :class:`SlowFastZooError`, so one ``except`` catches them."""

from __future__ import annotations

import os
import re

# What moves a terminal's cursor, colours it, turns the direction of the text that follows, or is in no encoding.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class SlowFastZooError(Exception):
    """Base of every exception that only this library raises."""


class VideoDecodeError(SlowFastZooError):
    """A video could not be read.

    Attributes:
        path: the video as the caller named it.
        reason: what went wrong, in one sentence.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"cannot decode video {self.path!r}: {self.reason}"


class WeightsError(SlowFastZooError):
    """Weights could not be found, verified or fitted to the network."""


class MissingDependencyError(SlowFastZooError, ImportError):
    """An optional package is absent or broken; the message says how to install it."""


class ExportError(SlowFastZooError):
    """A network could not be exported, or the exported file gives other results."""


def in_line(text: str, keep: str = "") -> str:
    """A name or label as one line of a terminal shows it: line breaks and control characters are escaped.

    Args:
        text: what anyone may have written.
        keep: control characters that stay.
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


def printable(text: object, most: int = 200) -> str:
    """What a file or a server says, for a message: one line of so many characters at most, without control characters.

    Args:
        text: a text, or what gives one.
        most: characters of it that are shown.
    """
    whole = str(text)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[:most])
    return shown[:most] + ("..." if max(len(whole), len(shown)) > most else "")
