"""The program: its parser, its exit codes, and what becomes of errors and warnings."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from slowfast_zoo.errors import SlowFastZooError, in_line
from slowfast_zoo.utils.signals import unwound_when_ended
from slowfast_zoo.utils.version import __version__

from . import bench, detect, evaluate, explain, export, features, finetune, models, predict, weights
from .text import in_one_line, print_error

_INTERRUPTED, _READER_GONE = 130, 141  # what shells report for SIGINT and SIGPIPE


class _Parser(argparse.ArgumentParser):
    """argparse, but one line for a mistake instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its words, without the program's name; those of the process by default.

    Returns:
        The exit code: 0, or 2 after bad input, of which one line on stderr tells.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before Python began, as by ">&-"
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    with (
        warnings.catch_warnings(),
        unwound_when_ended(),
        contextlib.redirect_stdout(_Printable(sys.stdout)),
        contextlib.redirect_stderr(_Printable(sys.stderr)),
    ):
        args = make_parser().parse_args(argv)
        warnings.showwarning = _show_warning
        try:
            code: int = args.run(args)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # the reader of a pipe has had enough, as in "| head"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _READER_GONE
        except KeyboardInterrupt:
            return _INTERRUPTED
        except (SlowFastZooError, ValueError, OSError, MemoryError) as error:
            print_error(in_one_line(error))
            return 2


class _Printable:
    """A stream for people's terminals: what files and servers say cannot steer these.

    Names that the stream's encoding does not have are escaped too.
    """

    _BARS = re.compile("[\r\n ]*(\x1b\\[A)?")  # what moves from one progress bar to another

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, escaped."""
        if not self._BARS.fullmatch(text):
            start = "\r" if text.startswith("\r") else ""  # a progress bar
            text = start + in_line(text.removeprefix("\r"), keep="\n\t")
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the program, with all its commands."""
    parser = _Parser(prog="slowfast-zoo", description="SlowFast networks for video recognition.")
    parser.add_argument("--version", action="version", version=f"slowfast-zoo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    models.add_commands(commands)
    for module in (predict, features, detect, explain, finetune, evaluate):
        module.add_command(commands)
    weights.add_commands(commands)
    for module in (export, bench):
        module.add_command(commands)
    return parser


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"slowfast-zoo: warning: {' '.join(str(message).split())}", file=sys.stderr)
