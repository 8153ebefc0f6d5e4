"""The command line, ``slowfast-zoo``. One module a group of commands, heavy imports inside what runs them."""

from .main import main, make_parser

__all__ = ["main", "make_parser"]
