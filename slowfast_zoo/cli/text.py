"""What commands print: tables, JSON, errors in one line, progress."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from slowfast_zoo.errors import VideoDecodeError, in_line

if TYPE_CHECKING:
    from slowfast_zoo.video import VideoInput

_BAR = "{percentage:3.0f} % |{bar}| {n_fmt} of {total_fmt}, {rate_noinv_fmt}, {remaining} left"
_MANY = 10  # videos, of which the lines of those that failed may have scrolled by


def in_one_line(error: Exception) -> str:
    """What an exception says, without line breaks and error numbers."""
    if isinstance(error, OSError) and error.strerror:
        return in_line(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return " ".join(str(error).split())


def format_table(rows: Sequence[Sequence[str]], align: str = "", *, indent: str = "", gap: str = "  ") -> str:
    """Columns as wide as their widest cell; the first row is the header.

    Args:
        rows: cells, as many in each row.
        align: for each column ``<`` or ``>``, as in format specifications; columns beyond are to the left.
        indent: what each line starts with.
        gap: what stands between columns.
    """
    rows = [[in_line(cell) for cell in row] for row in rows]
    columns = [
        [f"{cell:{side}{max(map(len, column))}}" for cell in column]
        for column, side in zip(zip(*rows, strict=True), align.ljust(len(rows[0]), "<"), strict=True)
    ]
    return "\n".join((indent + gap.join(row)).rstrip() for row in zip(*columns, strict=True))


def print_json(value: Any) -> None:
    """What ``--json`` prints."""
    print(json.dumps(value, indent=2), flush=True)


def print_error(text: str) -> None:
    """One line on stderr."""
    print(f"slowfast-zoo: error: {text}", file=sys.stderr)


def print_written(file: object) -> None:
    """Tell on stderr of a file that was written."""
    print(f"wrote {file}", file=sys.stderr)


@contextlib.contextmanager
def warnings_between_bars() -> Iterator[None]:
    """Warnings do not garble a progress bar."""
    from tqdm import tqdm

    with warnings.catch_warnings():
        show = warnings.showwarning

        def between(*args: Any, **kwargs: Any) -> None:
            with tqdm.external_write_mode(sys.stderr):
                show(*args, **kwargs)

        warnings.showwarning = between
        yield


def print_failure(video: VideoInput, error: Exception) -> None:
    """A line on stderr, between progress bars, that names a video and says what went wrong with it."""
    from tqdm import tqdm

    name, message = in_line(str(video)), in_one_line(error)
    with tqdm.external_write_mode(sys.stderr):
        print_error(message if name in message else f"{name}: {message}")


class Progress:
    """What is printed while videos are worked on, without garbling the bar.

    Attributes:
        failed: videos that were left out so far.
    """

    def __init__(self, bar: Any) -> None:
        self.failed: list[str] = []
        self._bar = bar

    def advance(self) -> None:
        """One more video is done."""
        self._bar.update()

    def print(self, text: str) -> None:
        """A line of output, or more."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A line on stderr."""
        self._bar.write(text, file=sys.stderr)

    def skip(self, video: VideoInput, error: Exception) -> None:
        """A video is left out, for a reason that is reported."""
        self.fail(str(video), error)
        self.advance()

    def fail(self, video: str, error: Exception) -> None:
        """Something went wrong with a video, which is reported."""
        self.failed.append(video)
        print_failure(video, error)

    @contextlib.contextmanager
    def failing(self, video: str, *kinds: type[Exception]) -> Iterator[None]:
        """Errors of some kinds, those of reading a video among them, fail this one and not the command."""
        caught: tuple[type[Exception], ...] = (VideoDecodeError, FileNotFoundError, *kinds)
        try:
            yield
        except caught as error:
            self.fail(video, error)


@contextlib.contextmanager
def show_progress(total: int) -> Iterator[Progress]:
    """A bar over videos, with videos per second, on stderr: if there are several, and if that is a terminal.

    How many videos failed is printed at the end where many scroll by.
    """
    from tqdm import tqdm

    disable = None if total > 1 else True  # None: unless it is a terminal
    settings = {"unit": " videos", "bar_format": _BAR, "dynamic_ncols": True, "leave": False, "disable": disable}
    with tqdm(total=total, **settings) as bar, warnings_between_bars():
        progress = Progress(bar)
        yield progress
    if progress.failed and total > _MANY:
        print(f"slowfast-zoo: {len(progress.failed)} of {total} videos failed, see above", file=sys.stderr)
