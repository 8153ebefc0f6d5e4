"""``python -m slowfast_zoo`` is ``slowfast-zoo``."""

from __future__ import annotations

import sys

from slowfast_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
