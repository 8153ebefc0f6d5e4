"""How long `import slowfast_zoo` takes beside `import torch`.

Each repetition starts two fresh interpreters, one for each import, in alternating order; the medians are compared.
Bytecode is cached, as it is in an installation.

    python benchmarks/import_time.py [--repetitions 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "import_time.json"
LIMIT = 1.15


def seconds(module: str) -> float:
    """Wall-clock seconds of one import in a fresh interpreter, without the interpreter's own start."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    repetitions = parser.parse_args().repetitions
    modules = ["torch", "slowfast_zoo"]
    for module in modules:  # fills the caches of the disk and of bytecode
        seconds(module)
    times: dict[str, list[float]] = {module: [] for module in modules}
    for repetition in range(repetitions):
        for module in modules if repetition % 2 == 0 else reversed(modules):
            times[module].append(seconds(module))
    medians = {module: statistics.median(values) for module, values in times.items()}

    import torch

    ratio = medians["slowfast_zoo"] / medians["torch"]
    result = {
        "ratio_of_medians": round(ratio, 3),
        "limit": LIMIT,
        "median_seconds": {module: round(value, 3) for module, value in medians.items()},
        "seconds": {module: [round(value, 3) for value in values] for module, values in times.items()},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(", ".join(f"{module} {value:.3f} s" for module, value in medians.items()), f"ratio {ratio:.3f}", sep=", ")
    if ratio > LIMIT:
        sys.exit(f"above the limit of {LIMIT}")


if __name__ == "__main__":
    main()
