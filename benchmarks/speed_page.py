"""The tables and the picture of docs/speed.md, made from what speed.py and precision.py measured.

python benchmarks/speed_page.py            # prints the tables
python benchmarks/speed_page.py --write    # writes docs/speed.md and docs/images/speed.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "speed.md"
PICTURE = ROOT / "docs" / "images" / "speed.png"
SPEED, AMX, PRECISION = (
    ROOT / "benchmarks" / "results" / f"{name}.json" for name in ("speed", "speed_amx", "precision")
)
START, END = "<!-- {} tables: written by benchmarks/speed_page.py -->", "<!-- end of {} tables -->"
NOT_YET = "Not measured yet."

_PICTURED = f"\n\n![How the time of one call grows with batch, size, frames and threads](images/{PICTURE.name})"

# Of Okabe and Ito's colours that the colour-blind tell apart, with a marker each.
STYLES = {
    "PyTorchVideo float32": ("#777777", "s"),
    "ordinary float32": ("#0072B2", "o"),
    "optimised float32": ("#E69F00", "^"),
    "optimised bfloat16": ("#009E73", "D"),
}
CEILINGS = {"float32": ("#E69F00", "--"), "bfloat16": ("#009E73", ":")}
AXES = {
    "batch": "clips at once",
    "size": "side of the clip, pixels",
    "frames": "T, frames of the Slow pathway",
    "threads": "threads",
}


def sections(
    speed: dict[str, Any], precision: dict[str, Any] | None, amx: dict[str, Any] | None = None
) -> dict[str, str]:
    """The text between each pair of markers.

    Args:
        speed: what speed.json holds; parts may lack.
        precision: what precision.json holds, if it is there.
        amx: what speed_amx.json holds, if it is there: some of the same parts, from a machine with AMX.
    """
    parts = speed.get("parts", {})
    return {
        "machine": _machines(parts, precision),
        "latency": _compared(parts["targets"], "inference") if "targets" in parts else NOT_YET,
        "memory": _memory(parts["memory"]) if "memory" in parts else NOT_YET,
        "growth": _growth(parts["growth"]) + _PICTURED if "growth" in parts else NOT_YET,
        "rounding": _rounding(parts["rounding"]) if "rounding" in parts else NOT_YET,
        "start-up": _startup(parts["startup"]) if "startup" in parts else NOT_YET,
        "precision": _precision(precision) if precision else NOT_YET,
        "AMX": _elsewhere(amx["parts"]) if amx else NOT_YET,
        "CUDA": _cuda(parts["cuda"]) if "cuda" in parts else "No figures for CUDA have been measured yet.",
    }


def page(text: str, speed: dict[str, Any], precision: dict[str, Any] | None, amx: dict[str, Any] | None = None) -> str:
    """The page with what is between its markers made anew.

    Raises:
        ValueError: a marker is missing.
    """
    for name, section in sections(speed, precision, amx).items():
        before, found, rest = text.partition(START.format(name))
        _, ended, after = rest.partition(END.format(name))
        if not found or not ended:
            raise ValueError(f"the page lacks the markers of the {name} tables")
        text = f"{before}{START.format(name)}\n\n{section}\n\n{END.format(name)}{after}"
    return text


def current() -> str:
    """What the page has to be now."""
    return page(PAGE.read_text(encoding="utf-8"), read(SPEED) or {}, read(PRECISION), read(AMX))


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _machines(parts: dict[str, Any], precision: dict[str, Any] | None) -> str:
    """Each machine, with its versions, and what was measured on it."""
    measured = {**parts, **({"precision": precision} if precision else {})}
    machines: dict[str, list[str]] = {}
    for name, part in measured.items():
        machine = part["machine"]
        words = [machine[key] for key in ("card", "cpu") if key in machine]
        words += [f"{machine['cores']} cores, {machine['threads']} threads", *machine["instruction_sets"]]
        words += [f"{package} {version}" for package, version in machine["versions"].items()]
        machines.setdefault(", ".join(words), []).append(name)
    lines = [f"{', '.join(names)}: {words}." for words, names in machines.items()]
    return "\n\n".join(lines) or NOT_YET


def _targets(part: dict[str, Any]) -> str:
    rows = [
        (
            f"`{t['network']}`: {t['ours']['name']} over {t['peer']['name']}",
            f"{t['ratio']:.3f}",
            f"{t['target']:.2f}",
            "yes" if t["met"] else "**no**",
        )
        for t in part["targets"]
    ]
    return _table(("ratio", "measured", "at most", "met"), rows)


def _compared(part: dict[str, Any], what: str) -> str:
    names = list(dict.fromkeys(row["name"] for network in part["networks"].values() for row in network["rows"]))
    rows = []
    for network, result in part["networks"].items():
        times = {row["name"]: row["median_ms"] for row in result["rows"]}
        gflops = f"{result['multiply_adds'] / 1e9:.1f}"
        rows.append((f"`{network}`", gflops, *(_ms(times[name]) if name in times else "" for name in names)))
    rounds = {row["rounds"] for network in part["networks"].values() for row in network["rows"]}
    about = (
        f"Milliseconds of {what}, batch {part['batch']}, {part['size']} × {part['size']} pixels: medians of "
        f"{_listed(rounds)} rounds. GFLOPs as the paper counts them, multiply-adds of one clip."
    )
    return "\n\n".join([about, _table(("network", "GFLOPs", *names), rows), _targets(part)])


def _memory(part: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for peaks in part["networks"].values() for name in peaks))
    rows = [
        (f"`{network}`", *(f"{peaks[name]:.0f}" if name in peaks else "" for name in names))
        for network, peaks in part["networks"].items()
    ]
    about = (
        f"MiB at the peak of inference, batch {part['batch']}, {part['size']} × {part['size']} pixels, weights and "
        f"input included: medians of three processes."
    )
    return "\n\n".join([about, _table(("network", *names), rows), _targets(part)])


def _growth(part: dict[str, Any]) -> str:
    usual = ", ".join(f"{name} {value}" for name, value in part["usual"].items())
    first = next(iter(part["series"].values()))[0]
    names = [row["name"] for row in first["rows"]]
    rows = []
    for name, points in part["series"].items():
        for point in points:
            times = {row["name"]: row["median_ms"] for row in point["rows"]}
            gflops = f"{point['multiply_adds'] / 1e9:.1f}"
            rows.append((f"{name} {point['value']}", gflops, *(_ms(times[n]) if n in times else "" for n in names)))
    rates = [
        (
            f"{dtype}, {threads} threads" if threads != "1" else f"{dtype}, 1 thread",
            *(f"{v:.0f}" for v in best.values()),
        )
        for threads, dtypes in part["ceiling_gflop_per_second"].items()
        for dtype, best in dtypes.items()
    ]
    return "\n\n".join(
        [
            f"`{part['network']}`; what a row does not name is {usual}. Milliseconds of one call.",
            _table(("", "GFLOPs", *names), rows),
            "The best rates that torch reaches on this machine, in GFLOP/s with a multiply-add counted as two:",
            _table(("", "large matrices", "1×1×1 convolutions as matrices", "1×3×3 convolutions"), rates),
        ]
    )


def _elsewhere(parts: dict[str, Any]) -> str:
    """The tables of another machine."""
    tables = [_machines(parts, None)]
    tables += [_compared(parts["targets"], "inference")] if "targets" in parts else []
    tables += [table(parts[name]) for name, table in (("memory", _memory), ("growth", _growth)) if name in parts]
    return "\n\n".join(tables)


def _startup(part: dict[str, Any]) -> str:
    rows = [
        (f"`{network}`", *(f"{seconds[key]:.2f}" for key in ("import_torch", "import", "create_model")))
        for network, seconds in part["networks"].items()
    ]
    head = ("network", "import torch", "import slowfast_zoo, torch included", "create_model")
    return "Seconds in a fresh interpreter, medians.\n\n" + _table(head, rows)


def _rounding(part: dict[str, Any]) -> str:
    names = list(next(iter(part["networks"].values())))
    rows = [(f"`{network}`", *(f"{found[name]:.1e}" for name in names)) for network, found in part["networks"].items()]
    about = (
        f"The largest difference from the logits in float64, over the largest logit: random weights, {part['clips']} "
        f"random clips of {part['size']} × {part['size']} pixels."
    )
    return about + "\n\n" + _table(("network", *names), rows)


def _precision(result: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{row['top1']:.2f} %",
            f"{row['agreement']:.2f} %",
            *(f"{row[key]:.1e}" if row[key] else "0" for key in ("mean_difference", "max_difference")),
        )
        for name, row in result["networks"].items()
    ]
    about = (
        f"`{result['model']}` on {result['videos']} held-out videos, {result['views']}. Agreement: the same best class "
        f"as {result['reference']}. Differences are of probabilities."
    )
    head = ("network", "top-1", "agreement", "mean difference", "largest difference")
    return about + "\n\n" + _table(head, rows)


def _cuda(part: dict[str, Any]) -> str:
    tables: list[str] = []
    for network, result in part["networks"].items():
        rows = [
            (
                f"{row['name']}, batch {point['batch']}",
                f"{row['median_ms']:.2f}",
                f"{row['clips_per_second']:.1f}",
                f"{100 * row['part_of_ceiling']:.0f} %",
                f"{row['peak_mib'] or 0:.0f}",
            )
            for point in result["inference"]
            for row in point["rows"]
        ]
        head = ("inference", "ms", "clips/s", "of the matrix rate", "peak MiB")
        steps = [
            (f"{row['name']}, batch {point['batch']}", f"{row['median_ms']:.2f}", f"{row['clips_per_second']:.1f}")
            for point in result["training"]
            for row in point["rows"]
        ]
        tables += [f"`{network}`", _table(head, rows), _table(("training step", "ms", "clips/s"), steps)]
    return "\n\n".join(tables)


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _listed(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))


def draw(part: dict[str, Any], target: Path) -> None:
    """The picture: the four series, on logarithmic axes, with the time that the machine's best rates would need.

    Args:
        part: "growth" of speed.json.
        target: the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    figure = Figure(figsize=(11, 4.3), dpi=120, facecolor="white")
    panels = figure.subplots(1, len(AXES), sharey=True, gridspec_kw={"width_ratios": [3, 3, 2.4, 1.8]})
    for axes, (name, label) in zip(panels, AXES.items(), strict=True):
        points = part["series"][name]
        values = [point["value"] for point in points]
        for contender, (colour, marker) in STYLES.items():
            times = [_time(point, contender) for point in points]
            if None not in times:
                axes.plot(values, times, color=colour, marker=marker, markersize=6, linewidth=1.8)
        for dtype, (colour, line) in CEILINGS.items():
            floor = []
            for point in points:
                threads = str(point["value"] if name == "threads" else part["usual"]["threads"])
                best = part["ceiling_gflop_per_second"][threads].get(dtype)
                floor.append(2000 * point["multiply_adds"] / 1e9 / max(best.values()) if best else None)
            if None not in floor:
                axes.plot(values, floor, color=colour, linestyle=line, linewidth=1.5, alpha=0.9)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(values, [str(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(values[0] / 1.15, values[-1] * 1.15)
        axes.set_xlabel(label, size=10, color="#222222")
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.tick_params(labelsize=9, colors="#555555", which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#cccccc")
    low, high = panels[0].get_ylim()
    ticks = [d * 10**e for e in range(-2, 7) for d in (1, 2, 5) if low <= d * 10**e <= high]
    panels[0].set_yticks(ticks)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("milliseconds a call", size=10, color="#222222")
    shown = {row["name"] for point in part["series"]["batch"] for row in point["rows"]}
    handles = [
        Line2D([], [], color=colour, marker=marker, label=name)
        for name, (colour, marker) in STYLES.items()
        if name in shown
    ]
    rated = part["ceiling_gflop_per_second"][str(part["usual"]["threads"])]
    handles += [
        Line2D([], [], color=colour, linestyle=line, label=f"{dtype}: all of it at the machine's best rate")
        for dtype, (colour, line) in CEILINGS.items()
        if dtype in rated
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9)
    words = {"batch": "batch {}", "size": "{0} × {0} pixels", "frames": "T = {}", "threads": "{} threads"}
    usual = ", ".join(words[name].format(value) for name, value in part["usual"].items())
    figure.text(0.012, 0.94, f"{part['network']}: how the time grows", size=12, weight="bold", color="#222222")
    figure.text(0.988, 0.945, f"otherwise {usual}", size=9, color="#777777", ha="right")
    figure.subplots_adjust(left=0.072, right=0.988, top=0.88, bottom=0.27, wspace=0.08)
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Software": None})  # no version of matplotlib in the file


def _time(point: dict[str, Any], contender: str) -> float | None:
    return next((row["median_ms"] for row in point["rows"] if row["name"] == contender), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the page and the picture")
    if not parser.parse_args().write:
        for name, text in sections(read(SPEED) or {}, read(PRECISION), read(AMX)).items():
            print(f"## {name}\n\n{text}\n", file=sys.stdout)
        return
    PAGE.write_text(current(), encoding="utf-8")
    parts = (read(SPEED) or {}).get("parts", {})
    if "growth" in parts:
        draw(parts["growth"], PICTURE)


if __name__ == "__main__":
    main()
