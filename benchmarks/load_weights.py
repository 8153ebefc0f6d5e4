"""What loading weights costs: time beside safetensors and load_state_dict, peak memory beside the weights' own size.

    python -m benchmarks.load_weights

Writes benchmarks/results/load_weights.json. The file is slowfast_r50_8x8's: random weights in this library's
safetensors. Each way of loading is timed in turn, ROUNDS times, and medians are compared. Memory is the growth of the
peak resident set of a process of its own, from after the imports (and, where a network must be there before, after it
was made).
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAME = "slowfast_r50_8x8"
ROUNDS = 15
RESULTS = Path(__file__).parent / "results" / "load_weights.json"

# Each way in words, what must be there before, and what is measured.
WAYS: dict[str, tuple[str, str, str]] = {
    "load_state_dict": (
        "the peer: safetensors.torch.load_file and load_state_dict into a network that is there",
        "model = sfz.create_model(NAME)",
        "model.load_state_dict(load_file(path))",
    ),
    "load_checkpoint": (
        "load_checkpoint into a network that is there",
        "model = sfz.create_model(NAME)",
        "sfz.load_checkpoint(model, path)",
    ),
    "meta": (
        "load_checkpoint into a network on the meta device, as create_model does",
        "with torch.device('meta'): model = sfz.create_model(NAME)",
        "sfz.load_checkpoint(model, path)",
    ),
    "build and load_state_dict": (
        "the peer: build, initialise, load_file, load_state_dict",
        "",
        "model = sfz.create_model(NAME); model.load_state_dict(load_file(path))",
    ),
    "create_model": (
        "create_model(..., checkpoint_path=...)",
        "",
        "model = sfz.create_model(NAME, checkpoint_path=path)",
    ),
}

_CHILD = """
import json, resource, sys
import torch
from safetensors.torch import load_file
import slowfast_zoo as sfz
import slowfast_zoo.weights.checkpoint
NAME, path = sys.argv[1:3]
torch.set_num_threads(1)
with torch.device("meta"):
    sfz.create_model(NAME)  # what is imported and cached on the first use
{before}
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
start = peak()
{measured}
print(peak() - start)
"""


def main() -> None:
    import safetensors
    import torch
    from safetensors.torch import load_file

    import slowfast_zoo as sfz
    from slowfast_zoo.weights import save_state_dict

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_state_dict(sfz.create_model(NAME).state_dict(), path)
        size = path.stat().st_size
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS + 1):  # the first round warms up
            for way, (_, before, measured) in WAYS.items():
                scope: dict[str, Any] = {"sfz": sfz, "torch": torch, "load_file": load_file, "path": path, "NAME": NAME}
                exec(before, scope)
                start = time.perf_counter()
                exec(measured, scope)
                times[way].append(time.perf_counter() - start)
        peaks = {way: _peak(before, measured, path) for way, (_, before, measured) in WAYS.items()}
    medians = {way: statistics.median(values[1:]) for way, values in times.items()}
    results = {
        "script": "benchmarks/load_weights.py",
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
        },
        "network": NAME,
        "file_mib": round(size / 2**20, 1),
        "rounds": ROUNDS,
        "ways": {
            way: {
                "what": WAYS[way][0],
                "median_ms": round(1000 * medians[way], 1),
                "over_load_state_dict": round(medians[way] / medians["load_state_dict"], 2),
                "peak_over_weights": round(peaks[way] / size, 2),
            }
            for way in WAYS
        },
        "create_model_over_build_and_load_state_dict": round(
            medians["create_model"] / medians["build and load_state_dict"], 2
        ),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def _peak(before: str, measured: str, path: Path) -> int:
    """Growth of the peak resident set in a process of its own, in bytes (Linux)."""
    script = _CHILD.format(before=before, measured=measured)
    done = subprocess.run([sys.executable, "-c", script, NAME, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


if __name__ == "__main__":
    main()
