"""What commands print: errors in one line."""

from __future__ import annotations

from slowfast_zoo.errors import in_line


def in_one_line(error: Exception) -> str:
    """What an exception says, without line breaks and error numbers."""
    if isinstance(error, OSError) and error.strerror:
        return in_line(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return " ".join(str(error).split())
