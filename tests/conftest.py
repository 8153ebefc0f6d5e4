"""Processes that run tests side by side share the cores instead of each taking all of them."""

from __future__ import annotations

import os

# Read by torch when it is imported, here and in the processes that tests start.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
