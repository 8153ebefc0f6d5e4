"""The page that lists all published weights, made from the manifest.

python benchmarks/weights_table.py            # prints the page
python benchmarks/weights_table.py --write    # writes docs/weights_table.md
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from slowfast_zoo.models import build
from slowfast_zoo.weights import WeightsRecord, records

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "weights_table.md"
_SECTIONS = {
    "slowfast": "SlowFast",
    "slow": "Slow pathway alone",
    "i3d": "I3D",
    "c2d": "C2D, and the image network",
    "det": "Action detection",
}


def page() -> str:
    """The whole page."""
    every = list(records().values())
    sources = Counter(r.source["project"] if r.source else "made here" for r in every)
    lines = [
        "# All weights",
        "",
        "Made from `weights_manifest.json` by `benchmarks/weights_table.py`. "
        f"{len(every)} sets: {', '.join(f'{source} {count}' for source, count in sources.items())}. "
        "`slowfast-zoo info NAME` shows one in full, with its address, hash and notes.",
        "",
        'Results are **claims of the publishers**, by their own protocol; "measured" marks what a script of this '
        "repository measured. No published file has been downloaded by this project's tests: that loading is exact is "
        "tested with files in the same layouts. Parameters are counted here. A star marks the default weights of a "
        "network. Hash: what of the file's hash its publisher gives, by which a download is verified.",
    ]
    for key, title in _SECTIONS.items():
        lines += ["", f"## {title}", "", "| name | trained on | result | protocol | parameters | licence | hash |"]
        lines += ["|---|---|---|---|---:|---|---|"]
        lines += [_row(record) for record in every if _section(record) == key]
    manifest = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))
    lines += [
        "",
        "## What is not included, and why",
        "",
        "| source | upstream's name | reason |",
        "|---|---|---|",
        *(f"| {entry['source']} | {entry['name']} | {entry['reason']} |" for entry in manifest["not_included"]),
    ]
    return "\n".join(lines) + "\n"


def _section(record: WeightsRecord) -> str:
    return "det" if record.task == "detection" else record.architecture.partition("_")[0]


def _row(record: WeightsRecord) -> str:
    metric: Any = record.metrics[0] if record.metrics else None
    result = f"{metric['name']} {metric['value']}" if metric else ""
    if metric and "measured_by" in metric:
        result += " (measured)"
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(record.config).parameters())
    checksum = record.source["hash"] if record.source else {"algorithm": "sha256", "prefix": record.sha256}
    length = {"sha256": 64, "sha1": 40, "md5": 32}
    shown = ""
    if checksum:
        whole = len(checksum["prefix"]) == length[checksum["algorithm"]]
        shown = checksum["algorithm"] + ("" if whole else f", {len(checksum['prefix'])} digits")
    star = " *" if record.default else ""
    return (
        f"| `{record.name}`{star} | {record.dataset} | {result} | {metric['protocol'] if metric else ''} | "
        f"{parameters / 1e6:.2f} M | {record.license} | {shown} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
